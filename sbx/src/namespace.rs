//! The kinds of namespaces, and how a process joins those of a container.

use crate::Document;
use crate::ids::Ids;
use crate::process::Live;
use crate::procfs::Procfs;
use crate::sys;
use anyhow::{Context, Result, ensure};
use caps::CapSet;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid, setgroups, setresgid, setresuid};
use rustix::fs::stat;
use serde::Deserialize;
use std::io::{Read, pipe};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A kind of namespace (namespaces(7)).
#[derive(Debug)]
pub struct Kind {
    /// Its name in the OCI runtime specification.
    pub name: &'static str,
    /// Its flag for clone3(2), unshare(2) and setns(2).
    pub flag: CloneFlags,
    /// Its file in /proc/PID/ns.
    file: &'static str,
}

/// The kinds that we know. A container has all but the first unless it is told otherwise.
pub const KINDS: [Kind; 7] = [
    Kind { name: "user", flag: CloneFlags::CLONE_NEWUSER, file: "user" },
    Kind { name: "pid", flag: CloneFlags::CLONE_NEWPID, file: "pid" },
    Kind { name: "mount", flag: CloneFlags::CLONE_NEWNS, file: "mnt" },
    Kind { name: "ipc", flag: CloneFlags::CLONE_NEWIPC, file: "ipc" },
    Kind { name: "uts", flag: CloneFlags::CLONE_NEWUTS, file: "uts" },
    Kind { name: "network", flag: CloneFlags::CLONE_NEWNET, file: "net" },
    Kind { name: "cgroup", flag: CloneFlags::CLONE_NEWCGROUP, file: "cgroup" },
];

/// One entry of `linux.namespaces`: to be made, or to be joined where it has a path.
#[derive(Debug, Deserialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    /// The namespace to join.
    pub path: Option<PathBuf>,
}

/// `linux.namespaces`, with the kind of each entry. One that is unknown, or there twice, is an error.
pub fn of(doc: &Document) -> Result<Vec<(&'static Kind, Namespace)>> {
    let namespaces: Vec<Namespace> = doc.require("linux.namespaces")?;
    let mut seen = CloneFlags::empty();
    let known = namespaces.into_iter().map(|namespace| {
        let name = &namespace.kind;
        let kind = KINDS.iter().find(|kind| kind.name == *name);
        let kind = kind.with_context(|| format!("linux.namespaces: type {name:?} is not supported"))?;
        ensure!(!seen.contains(kind.flag), "linux.namespaces: type {name:?} stands there twice");
        seen |= kind.flag;
        Ok((kind, namespace))
    });
    known.collect()
}

/// The kinds that a container does not have of whoever starts it: those made and those joined.
pub fn flags(doc: &Document) -> Result<CloneFlags> {
    Ok(of(doc)?.iter().fold(CloneFlags::empty(), |flags, (kind, _)| flags | kind.flag))
}

/// Joins namespaces of a container by its holder, all in one call (setns(2), Linux 5.8). Children are in its PID
/// namespace, the caller is not.
///
/// Refuses a process that shares the caller's PID or mount namespace, or whatever is joined without those: what follows is
/// meant for a container. A stale record has made a runtime replace the root of its host.
pub fn join(holder: &Live, flags: CloneFlags) -> Result<()> {
    // The others tell nothing that these do not, and to look at one takes as long as to join it.
    let telling = flags & (CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS);
    let telling = if telling.is_empty() { flags } else { telling };
    for Kind { name, file, .. } in KINDS.iter().filter(|kind| telling.contains(kind.flag)) {
        let id = |process: &str| {
            let stat = stat(format!("/proc/{process}/ns/{file}"));
            stat.map(|stat| (stat.st_dev, stat.st_ino)).with_context(|| format!("cannot look at a {name} namespace"))
        };
        // The pidfd keeps setns from joining another process that got the pid meanwhile.
        if id("self")? == id(&holder.pid.to_string())? {
            anyhow::bail!("process {} is in the {name} namespace of the host: not a container", holder.pid);
        }
    }
    enter(holder, flags)
}

/// Joins more namespaces of a container that this process, or the one that made it, has joined already.
pub fn enter(holder: &Live, flags: CloneFlags) -> Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    setns(&holder.fd, flags).with_context(|| format!("cannot join the namespaces of process {}", holder.pid))
}

/// The user namespace of a container, to map the ids of mounts by.
pub fn users(holder: &Live, procfs: &Procfs) -> Result<OwnedFd> {
    let users = procfs.follow(&format!("{}/ns/user", holder.pid))?;
    // Opened while the holder lived: by now the pid may be another's, but then it was its own.
    ensure!(!holder.has_ended()?, "process {} has ended", holder.pid);
    Ok(users)
}

/// A map of ids (user_namespaces(7)) in which none is that a file has. Of a mount with these the files are nobody's: not
/// even root, with all capabilities, has more of them than what everybody may read.
pub const NOBODYS: &[u8] = b"4294967294 65535 1";

/// A user namespace that nobody is in, with a map of ids, for mounts to have.
pub fn unused_users(procfs: &Procfs, ids: &[u8]) -> Result<OwnedFd> {
    let failed = "cannot make a user namespace";
    let (mut wait, end) = pipe().context(failed)?;
    let Some(child) = sys::clone3(CloneFlags::CLONE_NEWUSER.bits(), None).context(failed)? else {
        drop(end);
        // Until its maker has what it wants, or is gone.
        let _ = wait.read(&mut [0]);
        sys::exit(0);
    };
    let map = |file: &str| procfs.write(format!("{}/{file}", child.pid), ids);
    let made =
        map("uid_map").and_then(|()| map("gid_map")).and_then(|()| procfs.follow(&format!("{}/ns/user", child.pid)));
    drop(end);
    child.wait()?;
    made.context(failed)
}

/// Becomes root of the user namespace that this process has just entered, where its ids are nobody's, and stays out of
/// reach of whoever is root there. What it makes from now on is that root's.
pub fn become_root() -> Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        // Other ids make it dumpable, if fs.suid_dumpable says so: proc_sys_fs(5).
        .and_then(|()| set_dumpable(false))
        .context("cannot become root of the user namespace")
}

/// Makes what this process makes in file systems from now on root's of a container, and nothing else: its capabilities
/// stay.
pub fn make_files_as(ids: Ids) -> Result<()> {
    let failed = "cannot take on the ids of the container's files";
    let effective = caps::read(None, CapSet::Effective).context(failed)?;
    setfsgid(Gid::from_raw(ids.gid));
    setfsuid(Uid::from_raw(ids.uid));
    // Neither says whether it has succeeded, but what the id was: -1 changes none (setfsuid(2)).
    let none = u32::MAX;
    let now = (setfsuid(Uid::from_raw(none)).as_raw(), setfsgid(Gid::from_raw(none)).as_raw());
    ensure!(now == (ids.uid, ids.gid), failed);
    // Those over files went with the id: capabilities(7).
    caps::set(None, CapSet::Effective, &effective).context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Recorded;

    #[test]
    fn a_namespace_of_the_host_is_not_joined() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let live = Recorded::now(child.id() as i32).expect("record").open().expect("open").expect("live");
        for Kind { name, flag, .. } in &KINDS {
            let error = join(&live, *flag).expect_err("joined").to_string();
            assert!(error.contains(&format!("is in the {name} namespace of the host")), "{error}");
        }
        child.kill().expect("kill");
        child.wait().expect("reap");
    }

    #[test]
    fn a_process_of_the_host_with_mounts_of_its_own_is_no_container() {
        let mut child =
            std::process::Command::new("unshare").args(["--mount", "sleep", "60"]).spawn().expect("unshare");
        let mounts = |process: &str| stat(format!("/proc/{process}/ns/mnt")).expect("stat").st_ino;
        while mounts(&child.id().to_string()) == mounts("self") {
            std::thread::yield_now();
        }
        let live = Recorded::now(child.id() as i32).expect("record").open().expect("open").expect("live");
        let all = KINDS.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.flag);
        let error = join(&live, all).expect_err("joined").to_string();
        assert!(error.contains("is in the pid namespace of the host"), "{error}");
        child.kill().expect("kill");
        child.wait().expect("reap");
    }

    #[test]
    fn an_unknown_or_doubled_kind_is_an_error() {
        let of = |text: &str| of(&Document::parse(text.as_bytes()).expect("document")).map(|all| all.len());
        assert_eq!(
            of(r#"{"linux":{"namespaces":[{"type":"pid","foreign":1},{"type":"network","path":"/x"}]}}"#).expect("of"),
            2
        );
        assert!(of(r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"pid"}]}}"#).is_err());
        assert!(of(r#"{"linux":{"namespaces":[{"type":"time"}]}}"#).is_err());
        assert!(of("{}").is_err());
    }
}
