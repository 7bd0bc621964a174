//! When a recorded process is believed, and how it is signalled.

use crate::procfs;
use crate::sys::Child;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A process as `sbx.state` records it. A pid alone would be reused; with its start time and the boot it is unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// Its pid in the PID namespace of whoever recorded it.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of /proc/PID/stat, proc(5).
    pub start_time: u64,
    /// /proc/sys/kernel/random/boot_id of the boot in which it was recorded.
    pub boot_id: String,
}

/// A live process, held by a descriptor, so that its pid cannot be reused under us (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub struct Live {
    /// The pidfd.
    pub fd: OwnedFd,
    /// Its pid.
    pub pid: i32,
}

impl Recorded {
    /// Records a process that exists now.
    pub fn now(pid: i32) -> Result<Self> {
        let start_time = start_time(pid)?.with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, start_time, boot_id: boot_id()?.to_owned() })
    }

    /// The process, if it is still the recorded one. A record of another boot is never believed.
    pub fn open(&self) -> Result<Option<Live>> {
        if self.pid <= 1 {
            bail!("pid {} is never a container's", self.pid);
        }
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            fd => fd.with_context(|| format!("cannot open process {}", self.pid))?,
        };
        // Read after the descriptor is held: what is compared is what is held.
        let same = start_time(self.pid)? == Some(self.start_time);
        let live = Live { fd, pid: self.pid };
        Ok((same && !live.has_ended()?).then_some(live))
    }
}

impl Live {
    /// Sends a signal, by descriptor.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match crate::sys::pidfd_send_signal(&self.fd, signal) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
            result => result.with_context(|| format!("cannot send signal {signal} to process {}", self.pid)),
        }
    }

    /// Waits until it has ended, at most `timeout` (forever if `None`); says whether it has. When it is PID 1 of a
    /// namespace, all processes of the namespace have ended before it (pid_namespaces(7)).
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        let [ended] = readable([self.fd.as_fd()], timeout).context("cannot wait for a process")?;
        Ok(ended)
    }

    /// Whether it has ended, though its parent may not have waited for it.
    pub fn has_ended(&self) -> Result<bool> {
        self.wait(Some(Duration::ZERO))
    }
}

impl Child {
    /// Waits for its end. Returns its status as a shell would: 128 and the number of the signal that ended it.
    pub fn wait(&self) -> Result<u8> {
        let status = waitpid(nix::unistd::Pid::from_raw(self.pid), None).context("cannot wait for a child")?;
        let (_, code) = ended(status).with_context(|| format!("child {} ended strangely: {status:?}", self.pid))?;
        Ok(code)
    }
}

/// The pid of a child that has ended, and its status as a shell would give it; `None` if it has not.
pub fn ended(status: WaitStatus) -> Option<(i32, u8)> {
    match status {
        WaitStatus::Exited(pid, status) => Some((pid.as_raw(), status as u8)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid.as_raw(), 128 + signal as u8)),
        _ => None,
    }
}

/// Waits until one of some descriptors is readable, at most `timeout` (forever if `None`); says which are.
pub fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> std::io::Result<[bool; N]> {
    ready(fds.map(|fd| (fd, PollFlags::POLLIN)), timeout)
}

/// Waits until one of some descriptors is ready in one of the ways that are asked of it, or its other end is gone; says
/// which are.
pub fn ready<const N: usize>(
    fds: [(BorrowedFd<'_>, PollFlags); N],
    timeout: Option<Duration>,
) -> std::io::Result<[bool; N]> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut polled = fds.map(|(fd, ways)| PollFd::new(fd, ways));
    loop {
        let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match ppoll(&mut polled, rest.map(TimeSpec::from), None) {
            Err(Errno::EINTR) => {}
            result => {
                result?;
                return Ok(polled.map(|fd| fd.any().unwrap_or(false)));
            }
        }
    }
}

/// The id of this boot. It is read once, which may be while there is nothing else to do.
pub fn boot_id() -> Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let bytes = procfs::read(path).with_context(|| format!("cannot read {path}"))?;
    Ok(ID.get_or_init(|| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// Field 22 of /proc/PID/stat; `None` if there is no such process. The second field, the command's name in
/// parentheses, may hold anything: what follows its last parenthesis counts.
fn start_time(pid: i32) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    let Ok(bytes) = procfs::read(&path) else { return Ok(None) };
    let stat = String::from_utf8_lossy(&bytes);
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = fields.split_whitespace().nth(19).and_then(|field| field.parse().ok());
    ticks.map(Some).with_context(|| format!("cannot read the start time in {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_recorded_process_of_this_boot_is_believed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let recorded = Recorded::now(child.id() as i32).expect("record");
        assert!(recorded.open().expect("open").is_some());
        assert!(Recorded { start_time: recorded.start_time + 1, ..recorded.clone() }.open().expect("open").is_none());
        assert!(Recorded { boot_id: "other".into(), ..recorded.clone() }.open().expect("open").is_none());
        let live = recorded.open().expect("open").expect("live");
        live.signal(9).expect("kill");
        assert!(live.wait(Some(Duration::from_secs(10))).expect("wait"));
        assert!(recorded.open().expect("open").is_none(), "a zombie is not running");
        child.wait().expect("reap");
        assert!(recorded.open().expect("open").is_none());
        live.signal(9).expect("signalling what has ended is no error");
    }

    #[test]
    fn pids_of_1_and_below_are_refused() {
        for pid in [1, 0, -1] {
            let recorded = Recorded { pid, start_time: 0, boot_id: boot_id().expect("boot id").to_owned() };
            assert!(recorded.open().is_err(), "{pid}");
        }
    }
}
