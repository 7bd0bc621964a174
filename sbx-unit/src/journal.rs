//! The journal of a container's systemd among the host's own: a link by which journalctl(1) finds it.

use crate::files::JOURNAL;
use crate::place::unlink;
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use sbx::storage::Storage;
use sbx::{Document, Name, store, tool};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Links the journal, by the machine id that the container has. Not where the host's own is kept in memory: a
/// directory for it would make it lasting. Nor where the tree's files do not lie on the host.
pub fn link(doc: &Document, root: &OwnedFd, host: &Path) -> Result<()> {
    let name = doc.name()?;
    unlink_all(&name, host)?;
    let Some(files) = Storage::of(doc)?.files(&name) else { return Ok(()) };
    let Some(id) = machine_id(root).filter(|_| host.is_dir()) else { return Ok(()) };
    let link = host.join(&id);
    match symlink(files.join(JOURNAL).join(&id), &link) {
        // The host's own, or another container's: root inside may have written any id.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("cannot make the link {}", link.display())),
    }
}

/// Removes the link, under whatever id it was made.
pub fn unlink_all(name: &Name, host: &Path) -> Result<()> {
    let place = store::container(name);
    let ours = |link: &PathBuf| link.read_link().is_ok_and(|target| target.starts_with(&place));
    tool::all(store::entries(host)?.iter().filter(|link| ours(link)).map(|link| unlink(link)))
}

/// The machine id that a tree holds (machine-id(5)). What is no id, and what is no file, is none.
fn machine_id(root: &OwnedFd) -> Option<String> {
    let read = || -> Result<String, Errno> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat2(root, "etc/machine-id", flags, Mode::empty(), how)?);
        let mut text = String::new();
        file.take(64).read_to_string(&mut text).map_err(|_| Errno::INVAL)?;
        Ok(text)
    };
    let id = read().ok()?.trim_end().to_owned();
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (id.len() == 32 && id.bytes().all(hex)).then_some(id)
}
