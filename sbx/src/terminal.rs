//! The terminal of a command: made inside the container, and passed on outside.
//!
//! Nothing of the container's has a descriptor of the caller's own terminal. Through that it could read what is typed
//! there later, and type itself (TIOCSTI: CVE-2016-7545, CVE-2017-5226).

use crate::rights;
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fchown, fstat, fstatfs, makedev, openat2};
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
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = openat2(CWD, "/dev/pts/ptmx", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let master = master.context("cannot open the container's /dev/pts/ptmx")?;
        let stat = fstat(&master).context("cannot stat a terminal")?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        let is_devpts = fstatfs(&master).context("cannot stat a terminal")?.f_type as u64 == DEVPTS_SUPER_MAGIC;
        ensure!(is_device && is_devpts && stat.st_rdev == makedev(5, 2), "the container's /dev/pts is not devpts");
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
