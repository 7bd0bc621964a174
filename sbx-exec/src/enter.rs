//! A further process in a running container: the routine behind `run` and behind what boot asks of an init.

use crate::Running;
use crate::streams::Streams;
use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use sbx::cgroup::{Cgroups, Entry};
use sbx::confine::{Command, Confinement, start};
use sbx::ids::Ids;
use sbx::namespace;
use sbx::process::readable;
use sbx::sys::{self, Child};
use sbx::tool::{self, Status};
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How much later than its command a process that waits for one is given up.
const GRACE: Duration = Duration::from_secs(2);

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

/// Runs a command in the container with this process's standard streams, or what passes them on, and waits for it;
/// kills it at the deadline, if there is one. Returns its status.
///
/// This process joins the container's namespaces, but for the PID namespace, which only its child is in.
pub fn run(running: &Running, command: Command, deadline: Option<Instant>) -> Result<Status> {
    let signals = Forwarder::new()?;
    let label = running.doc.read::<String>("linux.mountLabel")?;
    let streams = Streams::open(label.as_deref(), Ids::of(&running.doc)?)?;
    let child = match enter(running, command, &streams)? {
        Ok(child) => child,
        Err(failure) => return Ok(failure),
    };
    // The whole group, as the terminal would do it. It is the child's own, and its number is not given to another while
    // the child has not been waited for. There may be nobody left in it.
    let forward = |signal: i32| {
        let _ = Signal::try_from(signal).and_then(|signal| killpg(Pid::from_raw(child.pid), signal));
    };
    let code = streams.during(|| {
        if !signals.until(child.pidfd.as_fd(), forward, deadline)? {
            sys::pidfd_send_signal(&child.pidfd, libc::SIGKILL).context("cannot kill the command")?;
        }
        child.wait()
    })?;
    Ok(Status { code, message: None })
}

fn enter(Running { doc, holder }: &Running, mut command: Command, streams: &Streams) -> Result<Result<Child, Status>> {
    if let Some(term) = std::env::var_os("TERM").filter(|_| stdin().is_terminal()) {
        command.env.insert(0, [OsStr::new("TERM="), &term].into_iter().collect());
    }
    let confinement = Confinement::new(doc)?.with_command(command)?;
    let cgroups: Cgroups = doc.read("sbx.state.cgroups")?.unwrap_or_default();
    let cgroup = Entry::open(&cgroups.exec)?;
    // From here on a process of the container could otherwise trace this one, which still has the host's descriptors
    // and rights (CVE-2016-9962). The child inherits it, until it executes the command.
    nix::sys::prctl::set_dumpable(false).context("cannot become undumpable")?;
    let flags = namespace::flags(doc)?;
    // From inside the cgroup namespace nobody can enter a cgroup outside its root (nsdelegate, cgroups(7)), as this one
    // is: the child joins that namespace when it is in its cgroup.
    namespace::join(holder, flags - CloneFlags::CLONE_NEWCGROUP)?;
    Ok(start(
        || Ok(sys::clone3(0, cgroup.unified())?),
        || {
            let enter = || {
                cgroup.join_v1()?;
                namespace::enter(holder, flags & CloneFlags::CLONE_NEWCGROUP)?;
                streams.place()
            };
            enter().map_or_else(Status::own, |()| confinement.become_command())
        },
    ))
}

/// The signals that are passed on, taken as data.
pub struct Forwarder(SignalFd);

impl Forwarder {
    /// From here on they do not end this process.
    pub fn new() -> Result<Self> {
        let taken: SigSet = FORWARDED.into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&taken), None).context("cannot block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&taken, flags).map(Self).context("cannot make a signal descriptor")
    }

    /// Forwards signals until there is something on `event`, or until the deadline; says whether there is.
    pub fn until(&self, event: BorrowedFd<'_>, forward: impl Fn(i32), deadline: Option<Instant>) -> Result<bool> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let [happened, signalled] = readable([event, self.0.as_fd()], left).context("cannot wait")?;
            while let (true, Ok(Some(signal))) = (signalled, self.0.read_signal()) {
                forward(signal.ssi_signo as i32);
            }
            if happened || left.is_some_and(|left| left.is_zero()) {
                return Ok(happened);
            }
        }
    }
}

/// Runs a command in the container from a child of this process, which itself stays on the host, and kills it at the
/// deadline: the programs inside are the container's. The command's stdout is this process's stderr: what it says is
/// for people. Returns its exit status.
pub fn ask(running: &Running, command: &[&str], deadline: Instant) -> Result<u8> {
    let Some(child) = sys::fork().context("cannot make a process")? else {
        let quiet = || -> Result<Status> {
            let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
            sys::place(&null, 0)?;
            sys::place(std::io::stderr(), 1)?;
            let args = command.iter().map(OsString::from).collect();
            run(running, Command { args, ..Command::default() }, Some(deadline))
        };
        let Status { code, message } = quiet().unwrap_or_else(Status::own);
        if let Some(message) = message {
            tool::say("sbx-exec", &message);
        }
        sys::exit(code.into());
    };
    // Somewhat longer than it gives the command: it could have been stopped itself, before that is executed.
    let left = deadline.saturating_duration_since(Instant::now()) + GRACE;
    let [ended] = readable([child.pidfd.as_fd()], Some(left)).context("cannot wait for a command")?;
    if !ended {
        sys::pidfd_send_signal(&child.pidfd, libc::SIGKILL).context("cannot kill a command")?;
    }
    let code = child.wait()?;
    ensure!(Instant::now() < deadline, "{}: no answer in time", command.join(" "));
    Ok(code)
}
