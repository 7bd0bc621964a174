//! The standard streams of a command.
//!
//! Under SELinux a container may use no file of the caller's: the kernel would put the null device in its place, and
//! what was said would be lost. So the command gets pipes with the container's label, and a process outside passes on
//! what goes through each of them. So it does in a user namespace, where what is the caller's is nobody's, and cannot be
//! opened as /dev/stdout. A terminal is the command's itself.

use anyhow::{Context, Result};
use nix::libc;
use rustix::fs::{Gid, Uid, XattrFlags, fchown, fsetxattr};
use rustix::io::fcntl_dupfd_cloexec;
use sbx::ids::Ids;
use sbx::process::readable;
use sbx::sys::{self, Child};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write, pipe, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// The pipes in the place of the caller's streams.
pub struct Streams {
    pipes: Vec<Stream>,
    /// Closes when the command has ended, and when this process has.
    running: OwnedFd,
}

struct Stream {
    number: RawFd,
    /// The command's end of the pipe.
    inside: OwnedFd,
    /// The process at the other end.
    pump: Child,
}

impl Streams {
    /// Pipes with `label`, and of root inside, where ids are others there; none if there is neither. Before any namespace
    /// is joined: what passes on is the host's.
    pub fn open(label: Option<&str>, ids: Option<Ids>) -> Result<Self> {
        let (ended, running) = ends()?;
        let terminals = [stdin().is_terminal(), stdout().is_terminal(), stderr().is_terminal()];
        let replaced = (0..).zip(terminals).filter(|(_, terminal)| (label.is_some() || ids.is_some()) && !terminal);
        let pipes = replaced.map(|(number, _)| Stream::open(number, label, ids, ended.as_fd()));
        Ok(Self { pipes: pipes.collect::<Result<_>>()?, running })
    }

    /// In the command's process: puts them in their places.
    pub fn place(&self) -> Result<()> {
        let place = |stream: &Stream| sys::place(&stream.inside, stream.number);
        self.pipes.iter().try_for_each(place).context("cannot place the standard streams")
    }

    /// Once the command has them: waits for its end by `wait`, and until all that it has said is passed on.
    pub fn during<T>(self, wait: impl FnOnce() -> Result<T>) -> Result<T> {
        let pumps: Vec<_> = self.pipes.into_iter().map(|stream| (stream.number, stream.pump)).collect();
        let result = wait();
        drop(self.running);
        for (number, pump) in pumps {
            if number == 0 {
                // What the command has not read goes nowhere.
                sys::pidfd_send_signal(&pump.pidfd, libc::SIGKILL).context("cannot end what reads the input")?;
            }
            pump.wait()?;
        }
        result
    }
}

impl Stream {
    fn open(number: RawFd, label: Option<&str>, ids: Option<Ids>, ended: BorrowedFd<'_>) -> Result<Self> {
        let (read, write) = ends()?;
        if let Some(label) = label {
            fsetxattr(&read, "security.selinux", label.as_bytes(), XattrFlags::empty())
                .with_context(|| format!("cannot label a pipe {label}"))?;
        }
        if let Some(Ids { uid, gid, .. }) = ids {
            fchown(&read, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .context("cannot give a pipe to the container")?;
        }
        let Some(pump) = sys::fork().context("cannot make a process")? else {
            let _ = match number {
                0 => pass_on(stdin().as_fd(), write.as_fd(), ended),
                1 => pass_on(read.as_fd(), stdout().as_fd(), ended),
                _ => pass_on(read.as_fd(), stderr().as_fd(), ended),
            };
            sys::exit(0);
        };
        Ok(Self { number, inside: if number == 0 { read } else { write }, pump })
    }
}

/// A pipe, clear of the standard streams, any of which the caller may have closed.
fn ends() -> Result<(OwnedFd, OwnedFd)> {
    let make = || -> io::Result<_> {
        let (read, write) = pipe()?;
        Ok((fcntl_dupfd_cloexec(read, 3)?, fcntl_dupfd_cloexec(write, 3)?))
    };
    make().context("cannot make a pipe")
}

/// Copies to the end of the input, or until the command has ended and nothing is left.
fn pass_on(from: BorrowedFd<'_>, to: BorrowedFd<'_>, ended: BorrowedFd<'_>) -> io::Result<()> {
    // All else is closed, so that each pipe ends with those who use it.
    for (fd, number) in [from, to, ended].into_iter().zip(0..) {
        sys::place(fd, number)?;
    }
    sys::close(3, u32::MAX)?;
    let mut from = File::from(stdin().as_fd().try_clone_to_owned()?);
    let mut to = File::from(stdout().as_fd().try_clone_to_owned()?);
    let mut buffer = vec![0; 1 << 16];
    while let [true, _] = readable([from.as_fd(), stderr().as_fd()], None)? {
        match from.read(&mut buffer)? {
            0 => break,
            length => to.write_all(&buffer[..length])?,
        }
    }
    Ok(())
}
