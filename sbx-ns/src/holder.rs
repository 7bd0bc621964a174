//! The holder: process 1 of a container's PID namespace. It keeps the namespaces alive, reaps orphans, and waits: for
//! the order to become the container's init or to be the init of the container's command, or for the end of those who have the
//! other end of a pipe, with which the container ends.
//!
//! It holds no descriptor but that on which it waits, so a pipe that its maker read from ends.

use anyhow::{Context, Result, anyhow};
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::setsid;
use sbx::Document;
use sbx::confine::{Confinement, Profile, start};
use sbx::holder::{Event, Role, receive, tell};
use sbx::lifeline::Lifeline;
use sbx::process::{ended, readable, ready};
use sbx::sys::{self, Child};
use sbx::tool::Status;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// The verbs by which `create` executes the holder.
pub const VERBS: [&str; 2] = [ORDERS, END];
const ORDERS: &str = "hold";
const END: &str = "hold-while";

/// What the holder waits for.
#[derive(Debug)]
pub enum Bond {
    /// An order, on its control socket.
    Orders(UnixListener),
    /// The end of all who have the other end of a pipe.
    End(Lifeline),
}

/// All that a process needs which reaps others until its end.
const WAITING: &str = "
    brk close exit exit_group futex madvise mmap mremap munmap poll ppoll read readv restart_syscall rt_sigprocmask
    rt_sigreturn sigaltstack wait4 write writev
";

/// What it says on its status pipe once it is in all of its namespaces.
pub const ENTERED: &str = "entered";

/// What it says there once all is well.
pub const READY: &str = "ready";

/// The descriptors that the holder is started with: that of its bond, the pipe that releases it, and the pipe on which it
/// says how it fares.
const BOND: RawFd = 3;
const GO: RawFd = 4;
const STATUS: RawFd = 5;

/// Puts the holder's descriptors in their places, in the process that is about to execute it. What else that process
/// has open closes then.
pub fn descriptors(bond: &Bond, go: &OwnedFd, status: &OwnedFd) -> Result<()> {
    let moved = [aside(bond)?, aside(go)?, aside(status)?];
    moved.iter().zip([BOND, GO, STATUS]).try_for_each(|(fd, number)| sys::place(fd, number))?;
    Ok(())
}

/// A copy of a descriptor that is out of the way of the holder's own, and of the standard streams.
pub fn aside(fd: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, STATUS + 1).context("cannot move a descriptor")
}

impl Bond {
    /// The verb of a holder that has it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Orders(_) => ORDERS,
            Self::End(_) => END,
        }
    }

    fn inherited(verb: &str) -> Result<Self> {
        if verb == END {
            Lifeline::inherited(BOND).map(Self::End)
        } else {
            Ok(Self::Orders(sys::inherited(BOND)?.into()))
        }
    }
}

impl AsFd for Bond {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Orders(listener) => listener.as_fd(),
            Self::End(lifeline) => lifeline.as_fd(),
        }
    }
}

/// What the holder does, from its first instruction to its last.
pub fn main(verb: &str) -> Result<()> {
    let started = "only sbx-ns create can start a holder";
    let bond = Bond::inherited(verb).context(started)?;
    let [go, status] = [GO, STATUS].map(sys::inherited);
    let (go, mut status) = (File::from(go.context(started)?), File::from(status.context(started)?));
    let signals = match prepare(&bond) {
        Ok(signals) => signals,
        Err(error) => {
            let _ = write!(status, "{error:#}");
            sys::exit(1);
        }
    };
    status.write_all(READY.as_bytes()).context("cannot report")?;
    drop(status);
    released(go)?;
    match bond {
        Bond::Orders(listener) => {
            let (connection, order) = wait_for_order(&listener, &signals)?;
            drop(listener);
            order.carry_out(&connection, &signals)
        }
        Bond::End(lifeline) => sys::exit(supervise(None, &signals, Some(lifeline.as_fd()))?.into()),
    }
}

/// Gives up what it does not need, and takes signals as data: those that are blocked reach even a process 1 that has
/// no handler for them. Who only waits does nothing else from here on, whatever the container may.
fn prepare(bond: &Bond) -> Result<SignalFd> {
    sys::close(STATUS as u32 + 1, u32::MAX).context("cannot close inherited descriptors")?;
    nix::sys::prctl::set_dumpable(false).context("cannot become undumpable")?;
    setsid().context("cannot make a session")?;
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), None).context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&all, flags).context("cannot make a signal descriptor")?;
    sys::close(0, 2).context("cannot close the standard streams")?;
    if let Bond::End(_) = bond {
        let calls = Profile::only(WAITING.split_ascii_whitespace())?;
        Confinement::by(calls, &Document::default())?.become_init()?;
    }
    Ok(signals)
}

/// Waits for the word of its maker. If that dies first there is no word, and no holder either.
fn released(mut go: File) -> Result<()> {
    go.read_exact(&mut [0]).context("never released")
}

/// An order that was understood and whose document was accepted.
struct Order {
    role: Role,
    confinement: Confinement,
    streams: [OwnedFd; 3],
}

/// Waits for an order, and reaps meanwhile. One that is refused changes nothing.
fn wait_for_order(listener: &UnixListener, signals: &SignalFd) -> Result<(UnixStream, Order)> {
    loop {
        let [called, signalled] = readable([listener.as_fd(), signals.as_fd()], None).context("cannot wait")?;
        if signalled {
            while let Ok(Some(signal)) = signals.read_signal() {
                // Whatever the stop signal is: there is nothing to stop yet but this.
                if signal.ssi_signo != libc::SIGCHLD as u32 {
                    sys::exit(0);
                }
            }
            while reap().is_some() {}
        }
        if called {
            let (connection, _) = listener.accept().context("cannot accept an order")?;
            let connection = UnixStream::from(aside(connection)?);
            match Order::receive(&connection) {
                Ok(order) => return Ok((connection, order)),
                Err(error) => tell(&connection, &Event::Failed(Status::own(error))),
            }
        }
    }
}

impl Order {
    fn receive(connection: &UnixStream) -> Result<Self> {
        let (role, doc, [stdin, stdout, stderr]) = receive(connection)?;
        let streams = [aside(stdin)?, aside(stdout)?, aside(stderr)?];
        Ok(Self { role, confinement: Confinement::new(&doc)?, streams })
    }

    /// Becomes the command, or its init. The holder's end is the container's, whatever comes.
    fn carry_out(self, connection: &UnixStream, signals: &SignalFd) -> Result<()> {
        let failure = match self.role {
            Role::InPlace => self.become_command(),
            Role::Init | Role::InitWhileConnected => {
                let patron = (self.role == Role::InitWhileConnected).then(|| connection.as_fd());
                match self.start_command() {
                    Ok(command) => {
                        tell(connection, &Event::Started);
                        let status = supervise(Some(&command), signals, patron)?;
                        tell(connection, &Event::Ended(status));
                        sys::exit(status.into());
                    }
                    Err(failure) => failure,
                }
            }
        };
        tell(connection, &Event::Failed(failure));
        sys::exit(1);
    }

    /// Starts the command, and takes on the profile itself. In this order: the command may have fewer capabilities than
    /// it takes to become it.
    fn start_command(self) -> Result<Child, Status> {
        let fork_and_confine = || -> Result<Option<Child>> {
            let child = sys::fork()?;
            if child.is_some() {
                self.confinement.become_init()?;
            }
            Ok(child)
        };
        start(fork_and_confine, || self.become_command())
    }

    /// Makes the three descriptors the standard streams, and becomes the command. Returns only on failure.
    fn become_command(&self) -> Status {
        match self.streams.iter().zip(0..).try_for_each(|(fd, number)| sys::place(fd, number)) {
            Ok(()) => self.confinement.become_command(),
            Err(error) => Status::own(anyhow!(error).context("cannot place the standard streams")),
        }
    }
}

/// Forwards signals to the command, if there is one, and reaps whatever ends, until the command has; returns its status.
/// With a patron, ends when that is gone.
fn supervise(command: Option<&Child>, signals: &SignalFd, patron: Option<BorrowedFd<'_>>) -> Result<u8> {
    loop {
        // Of a patron nothing but its end is asked.
        let patron = (patron.unwrap_or(signals.as_fd()), PollFlags::empty());
        let watched = [(signals.as_fd(), PollFlags::POLLIN), patron];
        let [signalled, abandoned] = ready(watched, None).context("cannot wait")?;
        if abandoned {
            sys::exit(1);
        }
        while let (true, Ok(Some(signal))) = (signalled, signals.read_signal()) {
            if let Some(command) = command.filter(|_| signal.ssi_signo != libc::SIGCHLD as u32) {
                // It may have ended meanwhile.
                let _ = sys::pidfd_send_signal(&command.pidfd, signal.ssi_signo as i32);
            }
        }
        while let Some((pid, status)) = reap() {
            if command.is_some_and(|command| command.pid == pid) {
                return Ok(status);
            }
        }
    }
}

/// Reaps one process that has ended: its pid and its status as a shell would give it.
fn reap() -> Option<(i32, u8)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            // What has only stopped is passed over.
            Ok(status) => match ended(status) {
                None => {}
                ended => return ended,
            },
        }
    }
}
