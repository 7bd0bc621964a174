//! The program that runs this code, kept from what it enters.
//!
//! Who is root in a container can have this program run there (`#!/proc/self/exe`) or find it behind the /proc/PID/exe
//! of a process that is about to become a command, hold it open, and write to it later: CVE-2019-5736. So whatever
//! enters a container does so from a read-only mount of its own program, which nobody inside can change.

use anyhow::{Context, Result};
use nix::fcntl::AtFlags;
use nix::libc;
use nix::unistd::execveat;
use rustix::fs::StatVfsMountFlags;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::env::{args_os, vars_os};
use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::sys;

const ITSELF: &str = "/proc/self/exe";

/// This program on a read-only mount that no file system tree has. Needs CAP_SYS_ADMIN.
pub fn read_only() -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program = open_tree(rustix::fs::CWD, ITSELF, flags).context("cannot open this program itself")?;
    sys::mount_setattr(&program, false, libc::MOUNT_ATTR_RDONLY, 0, 0).context("cannot make this program read-only")?;
    Ok(program)
}

/// Continues from a read-only mount: this process executes itself once more, with the same arguments, environment and
/// descriptors, unless it runs from such a mount already. For the very first step of what is to enter a container.
pub fn shield() -> Result<()> {
    let mount = rustix::fs::statvfs(ITSELF).context("cannot look at this program itself")?;
    if !mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let strings = |strings: Vec<OsString>| strings.into_iter().map(|s| CString::new(s.into_vec())).collect();
        let args: Result<Vec<CString>, _> = strings(args_os().collect());
        let env: Result<Vec<CString>, _> =
            strings(vars_os().map(|(name, value)| [name, value].join("=".as_ref())).collect());
        execveat(read_only()?, c"", &args?, &env?, AtFlags::AT_EMPTY_PATH)
            .context("cannot execute this program itself")?;
    }
    // Executed by a descriptor, a process is called by the number of that (proc_pid_comm(5)).
    let called = args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default().to_owned();
    nix::sys::prctl::set_name(&CString::new(name.into_vec())?).context("cannot name this process")
}
