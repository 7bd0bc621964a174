//! The program that a process runs, as those see it who are inside with it.
//!
//! Whoever has a file open whose execution has ended can write to it, and `/proc/PID/exe` opens it, also for those for
//! whom it lies in no directory. So what is in a container's PID namespace runs from a mount that cannot be written
//! through (CVE-2019-5736).

use crate::rootless;
use anyhow::{Context, Result};
use nix::fcntl::AtFlags;
use nix::sys::prctl::set_name;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::execveat;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// Where a process finds what it runs itself (proc(5)).
const SELF: &str = "/proc/self/exe";

/// The program of this process, on a read-only mount of its own that is attached nowhere (open_tree(2), Linux 5.2). An
/// ordinary user may not mount: it is root's to write, and not his.
pub fn read_only() -> Result<OwnedFd> {
    if rootless::is_ordinary() {
        return Ok(File::open(SELF).context("cannot open the program itself")?.into());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program = open_tree(rustix::fs::CWD, SELF, flags).context("cannot open the program itself")?;
    crate::sys::mount_setattr(&program, false, nix::libc::MOUNT_ATTR_RDONLY, 0, 0)
        .context("cannot make the program itself read-only")?;
    Ok(program)
}

/// Executes the program again, with the same arguments and environment, so that it runs from such a mount. Before anything
/// is changed: the second time it begins anew. Not an ordinary user's: see [`read_only`].
pub fn shield() -> Result<()> {
    if rootless::is_ordinary() {
        return Ok(());
    }
    let mount = statvfs(SELF).context("cannot find the program itself")?;
    if mount.flags().contains(FsFlags::ST_RDONLY) {
        // Executed by a descriptor, it has the number of that for a name (PR_SET_NAME(2const)).
        let called = env::args_os().next().unwrap_or_default();
        let name = Path::new(&called).file_name().unwrap_or_default().to_owned();
        return set_name(&CString::new(name.into_vec())?).context("cannot name the process");
    }
    let strings = |strings: &mut dyn Iterator<Item = OsString>| {
        strings.map(|string| CString::new(string.into_vec())).collect::<Result<Vec<_>, _>>().context("a NUL")
    };
    let arguments = strings(&mut env::args_os())?;
    let environment = strings(&mut env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    }))?;
    execveat(read_only()?, c"", &arguments, &environment, AtFlags::AT_EMPTY_PATH)
        .map(|never| match never {})
        .context("cannot execute the program itself again")
}
