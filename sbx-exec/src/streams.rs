//! The standard streams of a command.
//!
//! Someone who sits at a terminal gets a terminal inside, and what goes through it is passed on by a process outside.
//!
//! Otherwise the command has the caller's streams, but for a terminal, which is never handed over: it gets a pipe, and a
//! process outside passes on what goes through that. So it does under SELinux, where a container may use no file of the
//! caller's: the kernel would put the null device in its place, and what was said would be lost. And so it does in a user
//! namespace, where what is the caller's is nobody's, and cannot be opened as /dev/stdout.

use crate::terminal::{self, Modes};
use anyhow::{Context, Result};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::fs::{Gid, Uid, XattrFlags, fchown, fsetxattr};
use rustix::io::fcntl_dupfd_cloexec;
use sbx::ids::Ids;
use sbx::process::readable;
use sbx::sys::{self, Child};
use sbx::terminal::Terminal;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write, pipe, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tty {
    /// If all of the caller's streams are one.
    Auto,
    On,
    Off,
}

impl std::str::FromStr for Tty {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("bad value {text:?}: auto, on or off")),
        }
    }
}

/// What is in the place of the caller's streams.
pub struct Streams {
    pipes: Vec<Stream>,
    /// What the command's process makes a terminal of, until it has been told.
    terminal: Option<Terminal>,
    /// The process that passes on between the terminals, and how the caller's was.
    relay: Option<(Child, Modes)>,
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
    /// A terminal, or pipes with `label`, and of root inside, where ids are others there. Before any namespace is joined:
    /// what passes on is the host's.
    pub fn open(tty: Tty, label: Option<&str>, ids: Option<Ids>) -> Result<Self> {
        let (ended, running) = ends()?;
        let terminals = [stdin().is_terminal(), stdout().is_terminal(), stderr().is_terminal()];
        if tty == Tty::On || tty == Tty::Auto && terminals == [true; 3] {
            return Self::open_terminal(ended.as_fd(), running);
        }
        let replaced = (0..).zip(terminals).filter(|(_, terminal)| *terminal || label.is_some() || ids.is_some());
        let pipes = replaced.map(|(number, _)| Stream::open(number, label, ids, ended.as_fd()));
        Ok(Self { pipes: pipes.collect::<Result<_>>()?, terminal: None, relay: None, running })
    }

    fn open_terminal(ended: BorrowedFd<'_>, running: OwnedFd) -> Result<Self> {
        let modes = Modes::of_stdin()?;
        let (relay, inside) = UnixStream::pair().context("cannot make a socket")?;
        let Some(child) = sys::fork().context("cannot make a process")? else {
            let _ = terminal::pass_on(&modes, &inside, ended);
            drop(modes);
            sys::exit(0);
        };
        let terminal = Terminal { size: terminal::size(), modes: modes.0.clone(), relay };
        Ok(Self { pipes: Vec::new(), terminal: Some(terminal), relay: Some((child, modes)), running })
    }

    /// The terminal that the command's process is to make, if there is to be one.
    pub fn take_terminal(&mut self) -> Option<Terminal> {
        self.terminal.take()
    }

    /// The end of the process that passes on between terminals, if there is one.
    pub fn hung_up(&self) -> Option<BorrowedFd<'_>> {
        self.relay.as_ref().map(|(relay, _)| relay.pidfd.as_fd())
    }

    /// Whether a process is one that passes on.
    pub fn have(&self, pid: i32) -> bool {
        let pumps = self.pipes.iter().map(|stream| &stream.pump);
        pumps.chain(self.relay.iter().map(|(relay, _)| relay)).any(|child| child.pid == pid)
    }

    /// In the command's process: puts pipes in their places.
    pub fn place(&self) -> Result<()> {
        let place = |stream: &Stream| sys::place(&stream.inside, stream.number);
        self.pipes.iter().try_for_each(place).context("cannot place the standard streams")
    }

    /// Once the command has ended: waits until all that it has said is passed on. Fails if not all of it was: that a file is
    /// incomplete is not to look like success.
    pub fn finish(self) -> Result<()> {
        let pumps: Vec<_> = self.pipes.into_iter().map(|stream| (stream.number, stream.pump)).collect();
        drop((self.running, self.terminal));
        let mut failed = None;
        for (number, pump) in pumps {
            if number == 0 {
                // What the command has not read goes nowhere.
                sys::pidfd_send_signal(&pump.pidfd, libc::SIGKILL).context("cannot end what reads the input")?;
            }
            let errno = pump.wait()?;
            if number != 0 && errno != 0 {
                failed = failed.or(Some((number, errno)));
            }
        }
        self.relay.map_or(Ok(()), |(relay, _)| relay.wait().map(drop))?;
        failed.map_or(Ok(()), |(number, errno)| {
            let error = io::Error::from_raw_os_error(errno.into());
            Err(error).with_context(|| format!("cannot write what the command says to descriptor {number}"))
        })
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
            let passed = match number {
                0 => pass_on(stdin().as_fd(), write.as_fd(), ended),
                1 => pass_on(read.as_fd(), stdout().as_fd(), ended),
                _ => pass_on(read.as_fd(), stderr().as_fd(), ended),
            };
            let errno = passed.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            // The pipe tells a command that nobody listens; and what has been closed is not missed.
            sys::exit(if [libc::EPIPE, libc::EBADF].contains(&errno) { 0 } else { errno });
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
    keep([from, to, ended])?;
    // Out of the foreground a terminal has nothing to read, rather than stopping all of this.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::from(Signal::SIGTTIN)), None)?;
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

/// Closes all but some descriptors, which are the first ones then, so that each pipe ends with those who use it.
pub fn keep<const N: usize>(fds: [BorrowedFd<'_>; N]) -> io::Result<()> {
    fds.into_iter().zip(0..).try_for_each(|(fd, number)| sys::place(fd, number))?;
    sys::close(N as u32, u32::MAX)
}
