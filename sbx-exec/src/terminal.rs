//! The caller's terminal while a command inside has one of its own: what is typed and shown is passed on between the
//! two, by a process that stays outside.
//!
//! That process and the one that started it each know how the terminal was. Whichever is killed, the other one makes it
//! so again.

use crate::forward::signals;
use crate::streams::keep;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::SignalFd;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use sbx::process::readable;
use sbx::sys;
use sbx::terminal::receive;
use sbx::tool;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Typed twice within a second it ends the connection: ^].
const ESCAPE: u8 = 0x1d;
const ESCAPE_TIME: Duration = Duration::from_secs(1);

/// What stands for the end of the input on a terminal: ^D.
const END: u8 = 0x04;

/// How long what a command has shown last may take.
const REST_TIME: Duration = Duration::from_millis(500);

/// How soon a terminal that nobody has open is looked at again, in milliseconds.
const REOPEN_TIME: u8 = 50;

/// Where there is no terminal to have the size of.
const USUAL_SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// The size of the caller's terminal.
pub fn size() -> Winsize {
    let size = |fd: BorrowedFd<'_>| tcgetwinsize(fd).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    [stdin().as_fd(), stdout().as_fd(), stderr().as_fd()].into_iter().find_map(size).unwrap_or(USUAL_SIZE)
}

/// How the caller's terminal was. It is so again when this is dropped, unless somebody else has changed it meanwhile.
pub struct Modes(pub Option<Termios>);

impl Modes {
    /// Of standard input, if that is a terminal.
    pub fn of_stdin() -> Result<Self> {
        let modes = stdin().is_terminal().then(|| tcgetattr(stdin()).context("cannot read the terminal's modes"));
        modes.transpose().map(Self)
    }

    fn raw(&self) -> Option<Termios> {
        let mut raw = self.0.clone()?;
        raw.make_raw();
        Some(raw)
    }

    /// Passes on every byte as it is typed. Out of the foreground this stops the process, as is due.
    fn make_raw(&self) -> Result<()> {
        self.raw()
            .map_or(Ok(()), |raw| tcsetattr(stdin(), OptionalActions::Now, &raw))
            .context("cannot use the terminal")
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        let key = |modes: &Termios| (modes.input_modes, modes.output_modes, modes.local_modes);
        let (Some(before), Some(raw), Ok(now)) = (&self.0, self.raw(), tcgetattr(stdin())) else { return };
        if key(&now) == key(&raw) {
            // Also out of the foreground, and where nobody reads what is shown. Nobody can be told that it did not succeed.
            let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::from(Signal::SIGTTOU)), None);
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Passes on between the caller's terminal and the one that comes from `inside`, until one of them is gone, or whoever
/// is connected wants to be no longer, or there is something on `ended`.
pub fn pass_on(modes: &Modes, inside: &UnixStream, ended: BorrowedFd<'_>) -> Result<()> {
    keep([stdin().as_fd(), stdout().as_fd(), ended, inside.as_fd()])?;
    let inside = UnixStream::from(sys::inherited(3).context("cannot wait for a terminal")?);
    // What waits for a terminal must end with those that could send one.
    let [sent, _] = readable([inside.as_fd(), stderr().as_fd()], None).context("cannot wait for a terminal")?;
    let Some(terminal) = sent.then(|| receive(&inside)).transpose()?.flatten() else { return Ok(()) };
    drop(inside);
    // Typed faster than it is read, it waits here and not where it would keep what is shown.
    let flags = fcntl_getfl(&terminal).context("cannot use a terminal")?;
    fcntl_setfl(&terminal, flags | OFlags::NONBLOCK).context("cannot use a terminal")?;
    let signals = signals(&[Signal::SIGWINCH, Signal::SIGCONT])?;
    modes.make_raw()?;
    let relay = Relay { modes, terminal: terminal.into(), typed: Vec::new(), escape: Escape(None), last: b'\n' };
    // It may have changed before signals were heard.
    relay.resize();
    relay.run(&signals, stderr().as_fd())
}

struct Relay<'a> {
    modes: &'a Modes,
    /// The side that is nobody's inside.
    terminal: File,
    /// What is typed and not yet passed on.
    typed: Vec<u8>,
    escape: Escape,
    /// What was read last.
    last: u8,
}

impl Relay<'_> {
    fn run(mut self, signals: &SignalFd, ended: BorrowedFd<'_>) -> Result<()> {
        let (stdin, terminal) = (stdin(), self.terminal.try_clone().context("cannot use a terminal")?);
        let (mut has_input, mut is_open) = (true, true);
        loop {
            let watch = |fd, flags, wanted: bool| wanted.then(|| PollFd::new(fd, flags));
            let passing =
                if self.typed.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
            let watched = [
                watch(ended, PollFlags::POLLIN, true),
                watch(signals.as_fd(), PollFlags::POLLIN, true),
                watch(terminal.as_fd(), passing, is_open),
                watch(stdin.as_fd(), PollFlags::POLLIN, has_input && self.typed.is_empty()),
            ];
            let mut polled: Vec<_> = watched.iter().flatten().cloned().collect();
            match poll(&mut polled, if is_open { PollTimeout::NONE } else { REOPEN_TIME.into() }) {
                Err(Errno::EINTR) => continue,
                result => result.context("cannot wait")?,
            };
            let mut happened = polled.iter().map(|fd| fd.any().unwrap_or(false));
            let [is_over, signalled, shown, typed] = watched.map(|fd| fd.is_some() && happened.next() == Some(true));
            if is_over {
                return self.rest();
            }
            if signalled {
                while let Ok(Some(_)) = signals.read_signal() {}
                // Whoever stopped this process has used the terminal.
                self.modes.make_raw()?;
                self.resize();
            }
            is_open = true;
            if shown {
                self.send();
                is_open = self.show()?;
            }
            if typed {
                has_input = match self.read() {
                    Input::More => true,
                    Input::End => false,
                    Input::Gone => return Ok(()),
                };
            }
        }
    }

    /// Reads what is typed.
    fn read(&mut self) -> Input {
        let mut buffer = [0; 4096];
        let length = rustix::io::read(stdin(), &mut buffer).unwrap_or(0);
        let is_terminal = self.modes.0.is_some();
        if length == 0 && is_terminal {
            return Input::Gone;
        }
        if length == 0 {
            // Within a line the first one only ends that.
            self.typed.extend(if self.last == b'\n' { [END].as_slice() } else { &[END, END] });
            return Input::End;
        }
        let typed = &buffer[..length];
        self.last = typed[length - 1];
        let (typed, is_over) = if is_terminal { self.escape.heard(typed, Instant::now()) } else { (typed, false) };
        self.typed.extend(typed);
        if is_over { Input::Gone } else { Input::More }
    }

    /// Passes on what is typed, as far as it is taken.
    fn send(&mut self) {
        if !self.typed.is_empty()
            && let Ok(length) = self.terminal.write(&self.typed)
        {
            self.typed.drain(..length);
        }
    }

    /// Passes on what is shown; says whether somebody inside has the terminal open. If nobody has, somebody may soon, as
    /// long as it is the controlling one of the command. Fails when nobody sees it any more.
    fn show(&mut self) -> Result<bool> {
        let mut buffer = [0; 1 << 14];
        match self.terminal.read(&mut buffer) {
            Err(error) => Ok(error.kind() == ErrorKind::WouldBlock),
            Ok(length) => {
                tool::print(&buffer[..length])?;
                Ok(length > 0)
            }
        }
    }

    /// What the command has shown last. Its end has hung up the terminal; that of who waited for it has not.
    fn rest(mut self) -> Result<()> {
        let deadline = Instant::now() + REST_TIME;
        while let left = deadline.saturating_duration_since(Instant::now())
            && let [true] = readable([self.terminal.as_fd()], Some(left))?
            && self.show()?
            && !left.is_zero()
        {}
        Ok(())
    }

    fn resize(&self) {
        // The terminal may be gone, which is seen by reading.
        let _ = tcsetwinsize(&self.terminal, size());
    }
}

/// What came of reading what is typed.
enum Input {
    More,
    End,
    /// Nobody is connected any more.
    Gone,
}

/// When the escape character was typed last, if it was the last that was typed.
struct Escape(Option<Instant>);

impl Escape {
    /// What of the typed is to be passed on, and whether it ends the connection then. The first one is passed on: it may
    /// be meant for a program.
    fn heard<'a>(&mut self, typed: &'a [u8], now: Instant) -> (&'a [u8], bool) {
        for (index, byte) in typed.iter().enumerate() {
            let before = self.0.take();
            if *byte == ESCAPE {
                if before.is_some_and(|before| now.duration_since(before) < ESCAPE_TIME) {
                    return (&typed[..index], true);
                }
                self.0 = Some(now);
            }
        }
        (typed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_escapes_in_a_row_and_soon_end_the_connection() {
        let begin = Instant::now();
        let heard = |parts: &[(&[u8], u64)]| {
            let mut escape = Escape(None);
            let parts = parts.iter().map(|(typed, ms)| escape.heard(typed, begin + Duration::from_millis(*ms)));
            parts.map(|(typed, is_over)| (typed.to_vec(), is_over)).collect::<Vec<_>>()
        };
        assert_eq!(heard(&[(b"a\x1d\x1db", 0)]), [(b"a\x1d".to_vec(), true)]);
        assert_eq!(heard(&[(b"\x1d", 0), (b"\x1d", 900)]), [(b"\x1d".to_vec(), false), (vec![], true)]);
        assert!(heard(&[(b"\x1d", 0), (b"\x1d", 1100)]).iter().all(|(typed, is_over)| typed == b"\x1d" && !is_over));
        assert!(heard(&[(b"\x1da\x1d", 0), (b"a", 1), (b"\x1d", 2)]).iter().all(|(_, is_over)| !is_over));
    }
}
