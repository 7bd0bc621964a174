//! A cgroup with all below it.

use crate::apply::MOMENT;
use anyhow::{Context, Result};
use sbx::process::Recorded;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::Instant;

/// Kills all below a cgroup of v2, Linux 5.14.
pub const KILL: &str = "cgroup.kill";

/// Kills what is in a cgroup and below, and removes it, until nothing is left.
pub fn remove(cgroup: &Path, deadline: Instant) -> Result<()> {
    let failed = || format!("cannot remove the cgroup {}", cgroup.display());
    while cgroup.exists() {
        // It reaches also what is being forked.
        let all_killed = fs::write(cgroup.join(KILL), "1").is_ok();
        let mut left = None;
        let end = |cgroup: &Path| {
            if !all_killed {
                kill(cgroup)?;
            }
            let removed = fs::remove_dir(cgroup);
            left = removed.err().filter(|error| error.kind() != ErrorKind::NotFound).or(left.take());
            Ok(())
        };
        from_the_leaves(cgroup, end).with_context(failed)?;
        match left {
            None => {}
            Some(error) if Instant::now() > deadline => return Err(error).with_context(failed),
            // A killed process leaves its cgroup a moment later.
            Some(_) => thread::sleep(MOMENT),
        }
    }
    Ok(())
}

/// Goes once through a cgroup and all below it, and visits each from the one above, the lowest first. It goes by steps
/// of one name: root inside may have made cgroups that lie deeper than a path is long.
pub fn from_the_leaves(cgroup: &Path, mut visit: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    env::set_current_dir(cgroup)?;
    let mut names: Vec<OsString> = Vec::new();
    let mut to_visit = vec![children()?];
    while let Some(children_left) = to_visit.last_mut() {
        if let Some(child) = children_left.pop() {
            // One that is gone is gone.
            if env::set_current_dir(&child).is_ok() {
                names.push(child);
                to_visit.push(children()?);
            }
            continue;
        }
        to_visit.pop();
        let name = names.pop();
        env::set_current_dir(if name.is_some() { "..".as_ref() } else { Path::new("/") })?;
        visit(name.as_ref().map_or(cgroup, Path::new))?;
    }
    Ok(())
}

/// The names of the cgroups right below the current directory.
fn children() -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(".")? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// Kills each process of one cgroup, by a descriptor that was opened while the process was in it.
pub fn kill(cgroup: &Path) -> Result<()> {
    for pid in processes(cgroup)? {
        let Ok(Some(process)) = Recorded::now(pid).and_then(|recorded| recorded.open()) else { continue };
        if processes(cgroup)?.contains(&pid) {
            process.signal(nix::libc::SIGKILL)?;
        }
    }
    Ok(())
}

/// The processes of one cgroup, in this PID namespace: those of others read 0.
pub fn processes(cgroup: &Path) -> Result<Vec<i32>> {
    let path = cgroup.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
}
