//! Signals that are not this process's to end by, but a command's.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sbx::process::readable;
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

/// The signals that are passed on, taken as data.
pub struct Forwarder(SignalFd);

impl Forwarder {
    /// From here on they do not end this process.
    pub fn new() -> Result<Self> {
        signals(&FORWARDED).map(Self)
    }

    /// Forwards signals until there is something on one of the events, or until the deadline.
    pub fn until(&self, events: [BorrowedFd<'_>; 2], forward: impl Fn(i32), deadline: Option<Instant>) -> Result<()> {
        let [one, other] = events;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let ready = readable([one, other, self.0.as_fd()], left).context("cannot wait")?;
            while let (true, Ok(Some(signal))) = (ready[2], self.0.read_signal()) {
                forward(signal.ssi_signo as i32);
            }
            if ready[0] || ready[1] || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
        }
    }
}

/// Takes signals as data: from here on they do nothing else to this process and its children.
pub fn signals(taken: &[Signal]) -> Result<SignalFd> {
    let taken: SigSet = taken.iter().copied().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&taken), None).context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&taken, flags).context("cannot make a signal descriptor")
}
