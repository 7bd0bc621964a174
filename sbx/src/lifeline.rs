//! How long something is there: as long as somebody has the other end of a pipe.

use crate::process::ready;
use crate::sys;
use crate::tool::Descriptor;
use anyhow::{Context, Result, ensure};
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::setsid;
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, open};
use rustix::io::fcntl_dupfd_cloexec;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// The end of a pipe that is read from, by nobody: it tells when nobody has the other end any more, whatever has ended those
/// who had it (`POLLHUP` of poll(2)). Whoever gets hold of it has a pipe, and nothing else of theirs.
#[derive(Debug)]
pub struct Lifeline(OwnedFd);

impl Lifeline {
    /// That of the option `--while FD`, if it was given.
    pub fn of_option(descriptor: Option<Descriptor>) -> Result<Option<Self>> {
        descriptor.map(|Descriptor(number)| Self::inherited(number)).transpose().context("--while")
    }

    /// Takes over a descriptor that this program was started with. What would never tell is refused.
    pub fn inherited(number: RawFd) -> Result<Self> {
        let fd = sys::inherited(number).with_context(|| format!("descriptor {number}"))?;
        let is_pipe = FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Fifo;
        let is_only_read = fcntl_getfl(&fd)? & OFlags::RWMODE == OFlags::RDONLY;
        ensure!(is_pipe && is_only_read, "descriptor {number} is not that end of a pipe which is read from");
        Ok(Self(fd))
    }

    /// Begins to leave a child behind that undoes something when nobody has the other end any more. What ends others, a signal
    /// to the caller's process group, by its terminal or by a service manager, will not end it.
    pub fn at_end(self, undo: impl FnOnce() -> Result<()>) -> Result<Undoing> {
        let (left, leaves) = pipe().context("cannot make a pipe")?;
        let (done, doing) = pipe().context("cannot make a pipe")?;
        let Some(_child) = sys::fork().context("cannot make a process")? else {
            let leave = || -> Result<[OwnedFd; 2]> {
                setsid()?;
                sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
                let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
                (0..3).try_for_each(|number| sys::place(&null, number))?;
                drop(null);
                (&leaves).write_all(b"!")?;
                // Others are waited for. Where this is forbidden, it goes without.
                let _ = sys::run_in_batch();
                let kept = [fcntl_dupfd_cloexec(&done, 5)?, fcntl_dupfd_cloexec(&self.0, 5)?];
                kept.iter().zip([3, 4]).try_for_each(|(fd, number)| sys::place(fd, number))?;
                drop(kept);
                // Also what it could hold open for others, and the other ends of its own pipes.
                sys::close(5, u32::MAX)?;
                Ok([sys::inherited(3)?, sys::inherited(4)?])
            };
            let wait = || -> Result<()> {
                let [done, end] = leave()?;
                let mut done = File::from(done);
                if done.read(&mut [0])? == 0 {
                    // Nothing is to be done.
                    return Ok(());
                }
                [done.as_fd(), end.as_fd()]
                    .into_iter()
                    .try_for_each(|fd| ready([(fd, PollFlags::empty())], None).map(drop))?;
                undo()
            };
            sys::exit(wait().is_err().into());
        };
        Ok(Undoing { left, doing })
    }
}

/// A child that is to undo something which has yet to be done.
#[derive(Debug)]
pub struct Undoing {
    left: PipeReader,
    doing: PipeWriter,
}

impl Undoing {
    /// Has it undone at the end. It may be done as long as what is returned has not been dropped.
    pub fn will_be(self) -> Result<PipeWriter> {
        let Self { mut left, mut doing } = self;
        left.read_exact(&mut [0]).context("the process that is to clean up has ended")?;
        doing.write_all(b"!").context("cannot tell the process that is to clean up")?;
        Ok(doing)
    }
}

impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
