//! The terminal of a command: made inside the container, and passed on outside.
//!
//! Nothing of the container's has a descriptor of the caller's own terminal. Through that it could read what is typed
//! there later, and type itself (TIOCSTI: CVE-2016-7545, CVE-2017-5226).

use crate::rights;
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchown, fstatfs, openat2};
use rustix::process::{Uid, ioctl_tiocsctty};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcsetattr, tcsetwinsize};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// A terminal that a command is to have.
#[derive(Debug)]
pub struct Terminal {
    /// Its size from the first moment on.
    pub size: Winsize,
    /// Its modes, if not the kernel's own.
    pub modes: Option<Termios>,
    /// Who passes on what is typed and shown: its side of the terminal is sent there.
    pub relay: UnixStream,
}

impl Terminal {
    /// Makes it in the container's own devpts and the controlling terminal of this process, which leads a session. What
    /// the command gets is had from the other side and not by a path, where a link could lie (CVE-2025-52565). Whoever
    /// executes the command may open it again.
    pub fn make(&self, uid: u32) -> Result<OwnedFd> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let pts = openat2(CWD, "/dev/pts", directory, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let pts = pts.context("cannot open the container's /dev/pts")?;
        // What lies elsewhere could be a device on which opening alone has an effect.
        let is_devpts =
            fstatfs(&pts).context("cannot stat the container's /dev/pts")?.f_type as u64 == DEVPTS_SUPER_MAGIC;
        ensure!(is_devpts, "the container's /dev/pts is not devpts");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let here = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let master = openat2(&pts, "ptmx", flags, Mode::empty(), here);
        let master = master.context("cannot open the container's /dev/pts/ptmx")?;
        unlockpt(&master).context("cannot unlock a terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).context("cannot open a terminal")?;
        tcsetwinsize(&master, self.size).context("cannot set the size of a terminal")?;
        if let Some(modes) = &self.modes {
            tcsetattr(&slave, OptionalActions::Now, modes).context("cannot set the modes of a terminal")?;
        }
        fchown(&slave, Some(Uid::from_raw(uid)), None).context("cannot give a terminal to its user")?;
        ioctl_tiocsctty(&slave).context("cannot make a terminal the controlling one")?;
        rights::send(&self.relay, &[0], [master.as_fd()]).context("nobody passes on the terminal")?;
        Ok(slave)
    }
}

/// The side of whoever passes on: waits for the terminal; `None` if there will be none.
pub fn receive(relay: &UnixStream) -> Result<Option<OwnedFd>> {
    let (_, mut terminal) = rights::receive::<1>(relay, &mut [0]).context("no terminal")?;
    Ok(terminal.pop())
}
