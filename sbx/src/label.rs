//! SELinux labels of what a thread is about to make, without libselinux: the kernel takes them through procfs.

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, OFlags, ResolveFlags, fstatfs, openat2};
use std::path::Path;

/// Makes something with a label, if there is one, by the attribute for its kind: `keycreate`, `sockcreate`.
pub fn making<T>(attribute: &str, label: Option<&str>, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(label) = label else { return make() };
    write(attribute, label)?;
    let made = make();
    write(attribute, "")?;
    made
}

/// The label of the program that this thread executes next.
pub fn of_program(label: &str) -> Result<()> {
    write("exec", label)
}

/// Writes an SELinux attribute of this thread through a procfs that is known to be one, and reads it back: a mount
/// over the file, or over /proc, would otherwise swallow the label (CVE-2019-16884, CVE-2025-52881).
fn write(attribute: &str, label: &str) -> Result<()> {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    let failed = || format!("cannot set the SELinux attribute {attribute} to {label:?}");
    let no_mode = rustix::fs::Mode::empty();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::openat(CWD, Path::new("/proc"), flags, no_mode).with_context(failed)?;
    ensure!(fstatfs(&proc).with_context(failed)?.f_type as u64 == PROC_SUPER_MAGIC, "/proc is not procfs");
    let path = format!("thread-self/attr/{attribute}");
    let file = openat2(&proc, Path::new(&path), OFlags::RDWR | OFlags::CLOEXEC, no_mode, ResolveFlags::NO_XDEV)
        .with_context(failed)?;
    rustix::io::write(&file, label.as_bytes()).with_context(failed)?;
    let mut read = vec![0; label.len() + 2];
    let length = rustix::io::pread(&file, &mut read, 0).with_context(failed)?;
    let read = String::from_utf8_lossy(&read[..length]);
    if read.trim_end_matches(['\0', '\n']) != label {
        bail!("the SELinux attribute {attribute} reads {read:?} after writing {label:?}");
    }
    Ok(())
}
