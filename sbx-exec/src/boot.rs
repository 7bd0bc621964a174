//! From a holder to a running container.

use crate::Running;
use crate::enter;
use crate::forward::Forwarder;
use anyhow::{Context, Result, bail, ensure};
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use sbx::holder::{Connection, Event, Role};
use sbx::ids::Ids;
use sbx::process::{Live, readable};
use sbx::sys;
use sbx::tool::{self, Status};
use sbx::{Name, label, namespace, store};
use std::fs::{self, File};
use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Where the inner init finds the socket on which it says that it is ready.
const READINESS: &str = "/run/sbx-notify";

/// How many lines of a failed unit's journal are shown.
const JOURNAL_LINES: &str = "20";

/// How long the questions about units may take where nothing is left of the time to get ready.
const CHECK_TIME: Duration = Duration::from_secs(10);

/// Has the holder become the container's command; returns when that is ready, or with `wait` when it has ended. Of a
/// container that runs already, the service manager is told: it supervises what was started without it.
pub fn boot(running: &Running, timeout: Duration, wait: bool) -> Result<()> {
    let Running { doc, holder } = running;
    let name = doc.name()?;
    if store::ready(&name).exists() {
        ensure!(!wait, "--wait: {name} runs already");
        return notify(holder);
    }
    let units: Vec<String> = doc.read("sbx.unit.names")?.unwrap_or_default();
    let init: Option<String> = doc.read("sbx.unit.init")?;
    if !units.is_empty() || init.is_some() {
        ensure!(!wait, "--wait: the status of an init cannot be had");
        let says_when_ready = init.as_deref() != Some("other");
        boot_init(running, &name, &units, says_when_ready.then_some(timeout))?;
        return announce(&name, holder);
    }
    let signals = wait.then(Forwarder::new).transpose()?;
    let mut connection = Connection::open(doc)?;
    let role = if wait { Role::InitWhileConnected } else { Role::Init };
    connection.send(role, doc, [stdin().as_fd(), stdout().as_fd(), stderr().as_fd()])?;
    match connection.event()? {
        Some(Event::Started) => announce(&name, holder)?,
        Some(Event::Failed(status)) => return Err(failed(status, wait)),
        _ => bail!("the holder of {name} is gone"),
    }
    let Some(signals) = signals else { return Ok(()) };
    // The holder passes them on. It may have ended meanwhile.
    signals.until([connection.as_fd(); 2], |signal| drop(holder.signal(signal)), |_| false, None)?;
    match connection.event()? {
        Some(Event::Ended(code)) => Err(Status { code, message: None }.into()),
        _ => bail!("{name} was killed"),
    }
}

/// What an init has for its standard streams: it has no business with those of whoever started it.
fn null() -> Result<File> {
    File::options().read(true).write(true).open("/dev/null").context("cannot open /dev/null")
}

/// Has the holder become an init, and waits until that is ready, if it says so at all, and its units are active.
fn boot_init(running: &Running, name: &Name, units: &[String], timeout: Option<Duration>) -> Result<()> {
    let begin = Instant::now();
    let ready = timeout.map(|_| Readiness::bind(running)).transpose()?;
    let doc = running.with_env(ready.iter().map(|_| format!("NOTIFY_SOCKET={READINESS}")))?;
    let null = null()?;
    let mut connection = Connection::open(&running.doc)?;
    connection.send(Role::InPlace, &doc, [null.as_fd(); 3])?;
    // The connection closes as the holder becomes the init.
    if let Some(Event::Failed(status)) = connection.event()? {
        return Err(failed(status, false));
    }
    let (Some(ready), Some(timeout)) = (ready, timeout) else { return Ok(()) };
    let deadline = begin + timeout;
    let in_time = ready.wait(&running.holder, deadline).with_context(|| format!("{name} is not ready"))?;
    // Those that keep an init from getting ready are told by name too.
    check(running, units, deadline.max(Instant::now() + CHECK_TIME))?;
    ensure!(in_time, "{name} is not ready after {} s", timeout.as_secs());
    Ok(())
}

/// From now on the container counts as running; a systemd above us is told so, and which process it is.
fn announce(name: &Name, holder: &Live) -> Result<()> {
    let ready = store::ready(name);
    fs::write(&ready, "").with_context(|| format!("cannot write {}", ready.display()))?;
    notify(holder)
}

/// The command was not executed. Its status is of use only to those who wait for the command's.
fn failed(status: Status, wait: bool) -> anyhow::Error {
    Status { code: if wait { status.code } else { 1 }, ..status }.into()
}

/// All wanted units must be active: an init is ready also when they have failed. Those that are not are named, and
/// what they last said is shown.
fn check(running: &Running, units: &[String], deadline: Instant) -> Result<()> {
    let mut inactive = Vec::new();
    for unit in units {
        if enter::ask(running, &["systemctl", "is-active", "--quiet", "--", unit], deadline)? != 0 {
            inactive.push(unit.as_str());
            enter::ask(running, &["journalctl", "--no-pager", "--lines", JOURNAL_LINES, "--unit", unit], deadline)?;
        }
    }
    if inactive.is_empty() {
        return Ok(());
    }
    bail!("{}: not active: {}", running.doc.name()?, inactive.join(" "));
}

/// The socket on which the inner init says READY=1 (sd_notify(3)). Once that is heard it is closed: what the container
/// says later reaches nobody.
struct Readiness(UnixDatagram);

impl Readiness {
    /// Binds the socket inside, from a process that has joined the container's mounts. Nothing runs there yet that
    /// could have put anything in its place.
    fn bind(Running { doc, holder }: &Running) -> Result<Self> {
        // Labelled like the container, which may send to no other.
        let fd = label::making("sockcreate", doc.read::<String>("process.selinuxLabel")?.as_deref(), || {
            socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
                .context("cannot make the readiness socket")
        })?;
        let ids = Ids::of(doc)?;
        let bind_inside = |fd: &OwnedFd| -> Result<()> {
            namespace::join(holder, CloneFlags::CLONE_NEWNS)?;
            // Whose it is may connect to it.
            ids.map_or(Ok(()), namespace::make_files_as)?;
            bind(std::os::fd::AsRawFd::as_raw_fd(fd), &UnixAddr::new(READINESS)?)?;
            Ok(())
        };
        let Some(child) = sys::fork().context("cannot make a process")? else {
            let bound = bind_inside(&fd);
            if let Err(error) = &bound {
                tool::say("sbx-exec", &format!("{error:#}"));
            }
            sys::exit(bound.is_err().into());
        };
        ensure!(child.wait()? == 0, "cannot bind the readiness socket {READINESS} in the container");
        Ok(Self(fd.into()))
    }

    /// Waits for READY=1; says whether it came in time.
    fn wait(&self, init: &Live, deadline: Instant) -> Result<bool> {
        let mut message = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let [said, ended] = readable([self.0.as_fd(), init.fd.as_fd()], Some(left))?;
            if ended {
                bail!("its init has ended");
            } else if left.is_zero() {
                return Ok(false);
            } else if said {
                let length = self.0.recv(&mut message).context("cannot hear from the init")?;
                if message[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                    return Ok(true);
                }
            }
        }
    }
}

/// Tells the service manager whose socket is in the environment, if there is one (sd_notify(3)).
fn notify(holder: &Live) -> Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let path = path.as_encoded_bytes();
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    };
    let send = || {
        let message = format!("READY=1\nMAINPID={}", holder.pid);
        UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address?)
    };
    send().map(drop).context("cannot notify the service manager")
}
