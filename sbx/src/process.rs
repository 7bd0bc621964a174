//! When a recorded process is believed, and how it is signalled.

use crate::sys::{self, Child};
use crate::{procfs, tool};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::setsid;
use rustix::fs::{Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
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

/// The pid of a process, as a command line has it.
#[derive(Debug)]
pub struct Pid(i32);

impl FromStr for Pid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number >= 1 && text.bytes().all(|b| b.is_ascii_digit()));
        number.map(Self).ok_or_else(|| format!("bad pid {text:?}"))
    }
}

impl Pid {
    /// The process: it is this one from here on, whoever has its pid later.
    pub fn open(&self) -> Result<Live> {
        let live = Live::open(self.0)?.filter(|live| live.has_ended().is_ok_and(|ended| !ended));
        live.with_context(|| format!("there is no process {}", self.0))
    }
}

impl Recorded {
    /// Records a process that exists now.
    pub fn now(pid: i32) -> Result<Self> {
        let start_time = start_time(pid)?.with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, start_time, boot_id: boot_id()? })
    }

    /// The process, if it is still the recorded one. A record of another boot is never believed.
    pub fn open(&self) -> Result<Option<Live>> {
        if self.pid <= 1 {
            bail!("pid {} is never a container's", self.pid);
        }
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        let Some(live) = Live::open(self.pid)? else { return Ok(None) };
        // Read after the descriptor is held: what is compared is what is held.
        let same = start_time(self.pid)? == Some(self.start_time);
        Ok((same && !live.has_ended()?).then_some(live))
    }
}

impl Live {
    /// The process that has this pid now, if any has.
    pub fn open(pid: i32) -> Result<Option<Self>> {
        let Some(known) = rustix::process::Pid::from_raw(pid) else { return Ok(None) };
        match pidfd_open(known, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => Ok(None),
            fd => Ok(Some(Self { fd: fd.with_context(|| format!("cannot open process {pid}"))?, pid })),
        }
    }

    /// Leaves a child behind that undoes something when this process has ended, however it ends, and what is returned has
    /// been dropped: until then it may still be done. What ends others, a signal to the caller's process group, by its
    /// terminal or by a service manager, does not end it.
    pub fn at_end(self, tool: &str, undo: impl FnOnce() -> Result<()>) -> Result<PipeWriter> {
        let (mut left, leaves) = pipe().context("cannot make a pipe")?;
        let (done, doing) = pipe().context("cannot make a pipe")?;
        let Some(_child) = sys::fork().context("cannot make a process")? else {
            let leave = || -> Result<[OwnedFd; 2]> {
                // Who leads a process group already is in none of the caller's.
                let _ = setsid();
                sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).context("cannot block signals")?;
                let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
                [0, 1].into_iter().try_for_each(|number| sys::place(&null, number))?;
                drop(null);
                (&leaves).write_all(b"!")?;
                // Others are waited for. Where this is forbidden, it goes without.
                let _ = sys::run_in_batch();
                let kept = [fcntl_dupfd_cloexec(&done, 5)?, fcntl_dupfd_cloexec(&self.fd, 5)?];
                kept.iter().zip([3, 4]).try_for_each(|(fd, number)| sys::place(fd, number))?;
                drop(kept);
                // Also what it could hold open for others, and the other ends of its own pipes.
                sys::close(5, u32::MAX)?;
                Ok([sys::inherited(3)?, sys::inherited(4)?])
            };
            let wait = || {
                let kept = leave().context("cannot stay behind")?;
                kept.iter().try_for_each(|fd| readable([fd.as_fd()], None).map(drop)).context("cannot wait")?;
                undo()
            };
            let result: Result<()> = wait();
            if let Err(error) = &result {
                tool::say(tool, &format!("{error:#}"));
            }
            sys::exit(result.is_err().into());
        };
        drop((leaves, done));
        left.read_exact(&mut [0]).context("the process that is to clean up has ended")?;
        Ok(doing)
    }

    /// Sends a signal, by descriptor.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match sys::pidfd_send_signal(&self.fd, signal) {
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
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        // Rounded up: a rest of less than a millisecond is not spent in a busy loop.
        let rest = |deadline: Instant| deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        let timeout = deadline.map(rest).map(|ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
        let timeout = timeout.unwrap_or(PollTimeout::NONE);
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => {}
            result => {
                result?;
                return Ok(polled.map(|fd| fd.any().unwrap_or(false)));
            }
        }
    }
}

/// The id of this boot.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let bytes = procfs::read(path).with_context(|| format!("cannot read {path}"))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
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
            let recorded = Recorded { pid, start_time: 0, boot_id: boot_id().expect("boot id") };
            assert!(recorded.open().is_err(), "{pid}");
        }
    }
}
