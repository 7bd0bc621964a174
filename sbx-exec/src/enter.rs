//! A further process in a running container: the routine behind `run` and behind what boot asks of an init.

use crate::Running;
use crate::forward::Forwarder;
use crate::pid_file::PidFile;
use crate::streams::{Streams, Tty};
use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sbx::cgroup::{Cgroups, Entry};
use sbx::confine::{Command, Confinement, start};
use sbx::ids::Ids;
use sbx::namespace;
use sbx::process::readable;
use sbx::sys::{self, Child};
use sbx::tool::{self, Status};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How much later than its command a process that waits for one is given up.
const GRACE: Duration = Duration::from_secs(2);

/// The status of a command that was killed.
const KILLED: u8 = 128 + libc::SIGKILL as u8;

/// How long the end of a container may take to be seen after that of its commands.
const END_TIME: Duration = Duration::from_secs(1);

/// Runs a command in the container with this process's standard streams, or what passes them on, and waits for it;
/// kills it at the deadline, if there is one. Returns its status.
///
/// `confinement` is that of the document. This process joins the container's namespaces, but for the PID namespace, which
/// only its child is in.
pub fn run(
    running: &Running,
    confinement: Confinement,
    command: Command,
    tty: Tty,
    mut pid_file: Option<PidFile>,
    deadline: Option<Instant>,
) -> Result<Status> {
    let passed = command.passed;
    let signals = Forwarder::new()?;
    let label = running.doc.read::<String>("linux.mountLabel")?;
    let mut streams = Streams::open(tty, label.as_deref(), Ids::of(&running.doc)?)?;
    let entered = enter(running, confinement, command, &mut streams);
    let entered = entered.unwrap_or_else(|error| Err(Status::own(error)));
    if passed > 0 {
        // They are the command's alone: what it closes is closed.
        sys::close(3, 2 + passed).context("cannot close the caller's descriptors")?;
    }
    let status = entered.map_or_else(Ok, |child| {
        let told = pid_file.as_mut().map_or(Ok(()), |file| file.write(child.pid));
        let status = wait(&child, &signals, &streams, if told.is_ok() { deadline } else { Some(Instant::now()) });
        told.and(status)
    });
    drop(pid_file);
    streams.finish()?;
    let status = status?;
    // All of a container's processes are killed when it stops, and what is not yet one of them finds nothing to enter.
    let may_be_end = [Status::OWN, KILLED].contains(&status.code);
    if may_be_end && running.holder.wait(Some(END_TIME))? {
        let message = Some(format!("container {} has stopped", running.doc.name()?));
        return Ok(Status { message, ..status });
    }
    Ok(status)
}

/// Waits for the command, and passes signals on to it; kills it at the deadline, or when its terminal is gone.
fn wait(child: &Child, signals: &Forwarder, streams: &Streams, deadline: Option<Instant>) -> Result<Status> {
    // The whole group, as the terminal would do it. It is the child's own, and its number is not given to another while
    // the child has not been waited for. There may be nobody left in it.
    let forward = |signal: i32| {
        let _ = Signal::try_from(signal).and_then(|signal| killpg(Pid::from_raw(child.pid), signal));
    };
    let ended = child.pidfd.as_fd();
    let is_own = |pid: i32| pid == child.pid || streams.have(pid);
    signals.until([ended, streams.hung_up().unwrap_or(ended)], forward, is_own, deadline)?;
    // Whose terminal is gone is told so by the kernel, and may tidy up.
    let grace = if streams.hung_up().is_some() { GRACE } else { Duration::ZERO };
    if let [false] = readable([ended], Some(grace)).context("cannot wait")? {
        forward(libc::SIGKILL);
    }
    Ok(Status { code: child.wait()?, message: None })
}

fn enter(
    Running { doc, holder }: &Running,
    confinement: Confinement,
    mut command: Command,
    streams: &mut Streams,
) -> Result<Result<Child, Status>> {
    command.terminal = streams.take_terminal();
    if let Some(term) = std::env::var_os("TERM").filter(|_| command.terminal.is_some()) {
        command.env.insert(0, [OsStr::new("TERM="), &term].into_iter().collect());
    }
    let confinement = confinement.with_command(command)?;
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
            let command = Command { args, ..Command::default() };
            run(running, Confinement::new(&running.doc)?, command, Tty::Off, None, Some(deadline))
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
