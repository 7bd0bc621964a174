//! Signals that are not this process's to end by, but a command's.

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;
use sbx::process::{ended, readable};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// What is passed on to the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The signals that are passed on, and that of a child's end, taken as data.
pub struct Forwarder(SignalFd);

impl Forwarder {
    /// From here on they do not end this process.
    pub fn new() -> Result<Self> {
        signals(&[&FORWARDED[..], &[Signal::SIGCHLD]].concat()).map(Self)
    }

    /// Forwards signals until there is something on one of the events, or until the deadline. Meanwhile children that are
    /// not this process's own are waited for: those of the shell in whose place it was executed, the steps of its pipe.
    pub fn until(
        &self,
        events: [BorrowedFd<'_>; 2],
        forward: impl Fn(i32),
        is_own: impl Fn(i32) -> bool,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let [one, other] = events;
        loop {
            reap(&is_own);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let ready = readable([one, other, self.0.as_fd()], left).context("cannot wait")?;
            while let (true, Ok(Some(signal))) = (ready[2], self.0.read_signal()) {
                if signal.ssi_signo != libc::SIGCHLD as u32 {
                    forward(signal.ssi_signo as i32);
                }
            }
            if ready[0] || ready[1] || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
        }
    }
}

/// Waits for all that have ended. What was there before this process lies before its own.
fn reap(is_own: impl Fn(i32) -> bool) {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Some((pid, _)) = waitid(Id::All, peek).ok().and_then(ended).filter(|(pid, _)| !is_own(*pid)) {
        let _ = waitpid(Pid::from_raw(pid), None);
    }
}

/// Takes signals as data: from here on they do nothing else to this process and its children.
pub fn signals(taken: &[Signal]) -> Result<SignalFd> {
    let taken: SigSet = taken.iter().copied().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&taken), None).context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&taken, flags).context("cannot make a signal descriptor")
}
