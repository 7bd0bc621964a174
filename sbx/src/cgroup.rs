//! The cgroup directories that a running document records, and how a process enters them.

use crate::procfs;
use anyhow::{Context, Result};
use nix::libc;
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `sbx.state.cgroups`: absolute directories, one a hierarchy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cgroups {
    /// Where the container itself runs; the root of its cgroup namespace.
    pub payload: Vec<PathBuf>,
    /// Where executed commands run: beside it, below the same limits.
    pub exec: Vec<PathBuf>,
}

impl Cgroups {
    /// Whether a process is in the container's cgroups, or below: an init makes cgroups of its own. How the kernel calls
    /// them begins where the caller's cgroup namespace does (cgroup_namespaces(7)), which is a part of their paths.
    pub fn hold(&self, pid: i32) -> Result<bool> {
        if self.payload.is_empty() {
            return Ok(true);
        }
        let path = format!("/proc/{pid}/cgroup");
        let bytes = match procfs::read(&path) {
            // It has ended.
            Err(error) if [Some(libc::ENOENT), Some(libc::ESRCH)].contains(&error.raw_os_error()) => return Ok(false),
            bytes => bytes.with_context(|| format!("cannot read {path}"))?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let own: Vec<&Path> = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(Path::new).collect();
        let holds = |directory: &PathBuf| {
            let above = own.iter().flat_map(|path| path.ancestors()).filter_map(|path| path.strip_prefix("/").ok());
            above.filter(|path| !path.as_os_str().is_empty()).any(|path| directory.ends_with(path))
        };
        Ok(self.payload.iter().all(holds))
    }
}

/// A set of cgroups that a process is about to enter, opened while their paths can be seen.
#[derive(Debug, Default)]
pub struct Entry {
    /// The cgroup of the v2 hierarchy, for `CLONE_INTO_CGROUP` (clone3(2), Linux 5.7): no wait for a grace period.
    unified: Option<OwnedFd>,
    /// `tasks` of each v1 hierarchy.
    tasks: Vec<OwnedFd>,
}

impl Entry {
    /// Opens the directories.
    pub fn open(directories: &[PathBuf]) -> Result<Self> {
        let mut entry = Self::default();
        for directory in directories {
            let tasks = directory.join("tasks");
            if tasks.exists() {
                entry.tasks.push(open(&tasks, OFlags::WRONLY)?);
            } else {
                entry.unified = Some(open(directory, OFlags::PATH | OFlags::DIRECTORY)?);
            }
        }
        Ok(entry)
    }

    /// What clone3 takes.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(std::os::fd::AsFd::as_fd)
    }

    /// Moves the calling thread into the v1 hierarchies. `0` is the writer itself, whatever PID namespace it is in, and
    /// `tasks` moves one thread without the wait that `cgroup.procs` has.
    pub fn join_v1(&self) -> Result<()> {
        for tasks in &self.tasks {
            rustix::io::write(tasks, b"0").context("cannot enter the cgroup")?;
        }
        Ok(())
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open the cgroup {}", path.display()))
}
