//! SELinux labels of what a thread is about to make, without libselinux: the kernel takes them through procfs.

use crate::procfs::Procfs;
use anyhow::{Context, Result, bail};
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

/// Writes an SELinux attribute of this thread, and reads it back.
fn write(attribute: &str, label: &str) -> Result<()> {
    let failed = || format!("cannot set the SELinux attribute {attribute} to {label:?}");
    let (procfs, path) = (Procfs::open()?, format!("attr/{attribute}"));
    procfs.write_self(&path, label.as_bytes()).with_context(failed)?;
    let read = procfs.read(Path::new("thread-self").join(&path)).with_context(failed)?;
    let read = String::from_utf8_lossy(&read);
    if read.trim_end_matches(['\0', '\n']) != label {
        bail!("the SELinux attribute {attribute} reads {read:?} after writing {label:?}");
    }
    Ok(())
}
