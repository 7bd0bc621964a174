//! Gives the file systems of a running container other sizes.

use crate::extra::Extra;
use anyhow::{Context, Result};
use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_string, fspick};
use sbx::{Document, namespace, storage};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What of a mount matters here.
#[derive(Debug, Deserialize)]
struct Mount {
    destination: PathBuf,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    options: Vec<String>,
}

/// Grows the image, and sets the sizes of `mounts` on what is mounted. A memory file system that holds more than its new
/// size is an error. Those that were wished for have the size that was wished for.
pub fn resize(doc: &Document, act: bool) -> Result<()> {
    let name = doc.name()?;
    let mut mounts: Vec<Mount> = doc.require("mounts")?;
    let extras: Vec<Extra> = doc.read("sbx.mounts")?.unwrap_or_default();
    mounts.retain(|mount| extras.iter().all(|extra| extra.destination != mount.destination));
    if !act {
        return Ok(());
    }
    storage::grow(doc)?;
    let holder = sbx::holder::of(doc)?.with_context(|| format!("container {name} is not running"))?;
    // From here on "/" is the container's.
    namespace::join(&holder, CloneFlags::CLONE_NEWNS)?;
    for Mount { destination, options, .. } in mounts.iter().filter(|mount| mount.kind.as_deref() == Some("tmpfs")) {
        let size = options.iter().rev().find_map(|option| option.strip_prefix("size="));
        let Some(size) = size else { continue };
        set_size(destination, size).with_context(|| format!("cannot resize {} to {size}", destination.display()))?;
    }
    Ok(())
}

fn set_size(destination: &Path, size: &str) -> Result<()> {
    // Root inside cannot put a link in the place of a mount point, but of one that is not there.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = openat2(CWD, destination, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    // Where nothing is mounted this is refused.
    let context = fspick(&place, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
    fsconfig_set_string(&context, "size", size)?;
    fsconfig_reconfigure(&context).context("it may hold more than that")
}
