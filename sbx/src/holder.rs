//! The conversation with a holder: the process that keeps a container's namespaces alive until it is told what to
//! become. `sbx-exec boot` is the one side of the socket, the holder of sbx-ns the other.
//!
//! An order is one line of JSON, with the three standard streams sent along (unix(7), `SCM_RIGHTS`). The answer is a
//! line of JSON for each event. A connection that closes without a word says that the holder has become the program:
//! exec closed it.

use crate::cgroup::Cgroups;
use crate::process::{Live, Recorded};
use crate::tool::Status;
use crate::{Document, procfs, rights, store};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// The longest order in bytes; a document of a hundred times the usual size fits.
const MAX_ORDER: u64 = 4 << 20;

/// The holder of a running document, if it lives. Whoever wrote the document may have meant another process: one that
/// is not in the cgroups of the document is refused, and neither joined nor killed.
pub fn of(doc: &Document) -> Result<Option<Live>> {
    let recorded: Recorded = doc.require("sbx.state.holder").context("not a running document")?;
    let Some(holder) = recorded.open()? else { return Ok(None) };
    let cgroups: Cgroups = doc.read("sbx.state.cgroups")?.unwrap_or_default();
    let inside = cgroups.hold(holder.pid)?;
    // Once it has ended it is in none.
    if holder.has_ended()? {
        return Ok(None);
    }
    ensure!(inside, "process {} is not in the cgroup of container {}", holder.pid, doc.name()?);
    Ok(Some(holder))
}

/// Of a container that nothing is kept of the document is out as soon as there are its namespaces.
pub const UNLISTED: &str = "sbx.state.unlisted";

/// Waits until the holder of such a container has given up its rights: nobody inside meets it before.
pub fn settle(doc: &Document, holder: &Live) -> Result<()> {
    if doc.read(UNLISTED)? != Some(true) {
        return Ok(());
    }
    let path = format!("/proc/{}/status", holder.pid);
    loop {
        let status = procfs::read(&path);
        ensure!(!holder.has_ended()?, "container {} has ended", doc.name()?);
        let status = status.with_context(|| format!("cannot read {path}"))?;
        if WITHOUT_RIGHTS.iter().all(|line| status.split(|byte| *byte == b'\n').any(|has| has == *line)) {
            return Ok(());
        }
        thread::sleep(MOMENT);
    }
}

/// What /proc/PID/status says of a process with neither capabilities nor calls (proc_pid_status(5)).
const WITHOUT_RIGHTS: [&[u8]; 2] = [b"CapPrm:\t0000000000000000", b"Seccomp:\t2"];

/// How long to wait before looking again.
const MOMENT: Duration = Duration::from_micros(50);

/// What the holder is to become, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Execute the command in place: a whole init.
    InPlace,
    /// Be the init of the command: start it, forward signals, reap, end with its status.
    Init,
    /// Like [`Role::Init`], and end when the one who gave the order is gone.
    InitWhileConnected,
}

/// What the holder answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The command runs.
    Started,
    /// The command does not run; the exit status says whose fault it is.
    Failed(Status),
    /// The command has ended with this status: its own, or 128 and the signal's number.
    Ended(u8),
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    role: Role,
    document: Box<RawValue>,
}

/// The side of whoever gives the order.
#[derive(Debug)]
pub struct Connection(BufReader<UnixStream>);

impl Connection {
    /// Connects to the holder of a running document, which takes orders if that document is the one that is kept.
    pub fn open(doc: &Document) -> Result<Self> {
        let name = doc.name()?;
        let holder = |doc: &Document| doc.read::<Recorded>("sbx.state.holder");
        let kept = store::kept(&name)?.map(|kept| holder(&kept)).transpose()?.flatten();
        ensure!(kept.is_some() && kept == holder(doc)?, "container {name} takes no orders: nothing of it is kept");
        let path = store::control(&name);
        let stream = UnixStream::connect(&path).with_context(|| format!("cannot reach the holder of {name}"))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends the order and the standard streams.
    pub fn send(&self, role: Role, document: &Document, streams: [BorrowedFd<'_>; 3]) -> Result<()> {
        let document = serde_json::from_slice(&document.to_line());
        let order = document.and_then(|document| serde_json::to_vec(&Order { role, document }));
        let mut order = order.context("cannot send an order")?;
        order.push(b'\n');
        let mut stream = self.0.get_ref();
        let sent = rights::send(stream, &order, streams).context("cannot send an order to the holder")?;
        stream.write_all(&order[sent..]).context("cannot send an order to the holder")
    }

    /// The next event; `None` when the connection has closed.
    pub fn event(&mut self) -> Result<Option<Event>> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("cannot hear from the holder")?;
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).context("the holder gave no understandable answer")
    }

    /// The connection, to wait for an event on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Receives an order: the holder's side.
pub fn receive(stream: &UnixStream) -> Result<(Role, Document, [OwnedFd; 3])> {
    let mut bytes = vec![0; Document::USUAL];
    let (length, streams) = rights::receive::<3>(stream, &mut bytes).context("no order")?;
    let streams = <[OwnedFd; 3]>::try_from(streams).ok().context("an order comes with three streams")?;
    bytes.truncate(length);
    if !bytes.ends_with(b"\n") {
        BufReader::new(stream.take(MAX_ORDER)).read_until(b'\n', &mut bytes).context("cannot read an order")?;
    }
    ensure!(bytes.ends_with(b"\n"), "an order is cut short");
    let order: Order = serde_json::from_slice(&bytes).context("an order is not understandable")?;
    Ok((order.role, Document::parse(order.document.get().as_bytes())?, streams))
}

/// Tells an event: the holder's side. Nobody may be listening any more.
pub fn tell(mut stream: &UnixStream, event: &Event) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        let _ = stream.write_all(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn an_order_arrives_whole_with_its_streams_and_is_answered() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let long = format!(r#"{{"sbx":{{"name":"a"}},"long":"{}","big":18446744073709551616}}"#, "x".repeat(300_000));
        let doc = Document::parse(long.as_bytes()).expect("document");
        let expected = doc.clone();
        let holder = std::thread::spawn(move || {
            let (role, doc, streams) = receive(&theirs).expect("order");
            assert_eq!(role, Role::Init);
            assert_eq!(doc, expected);
            assert!(streams.iter().all(|fd| fd.as_raw_fd() > 2));
            tell(&theirs, &Event::Started);
            tell(&theirs, &Event::Ended(130));
        });
        let mut connection = Connection(BufReader::new(ours));
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        connection.send(Role::Init, &doc, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]).expect("send");
        assert_eq!(connection.event().expect("event"), Some(Event::Started));
        assert_eq!(connection.event().expect("event"), Some(Event::Ended(130)));
        assert_eq!(connection.event().expect("event"), None);
        holder.join().expect("holder");
    }
}
