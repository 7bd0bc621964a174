//! Snapshots that overlays lie on. Whoever begins with the same files shares one.
//!
//! A snapshot is known by a digest of all that is in it and never changes. It stays for as long as the directory of a
//! container links to it.

use crate::look::attributes_of;
use crate::manifest::{digest, hexadecimal};
use crate::tree;
use anyhow::{Context, Result};
use rustix::fs::{FileType, readlinkat, syncfs};
use sbx::tree::{Id, Node, walk};
use sbx::{Name, store, tool};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// What is to become the snapshot of a container, while it is being made.
pub fn staged(name: &Name) -> PathBuf {
    store::container(name).join("lower.new")
}

/// Makes what is staged the snapshot of its container: the one that there is already, if it is alike.
pub fn keep(name: &Name) -> Result<()> {
    let staged = staged(name);
    let keep = || -> Result<()> {
        let directory = store::snapshots(name)?;
        let id = fingerprint(&staged)?;
        // A name that says what is in it is not to outlive the content, should the power fail.
        syncfs(File::open(&staged)?)?;
        let _lock = lock(&directory)?;
        let kept = directory.join(id);
        match fs::rename(&staged, &kept) {
            // It is there, and not empty.
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                tree::remove_at(&staged)?;
            }
            renamed => renamed?,
        }
        Ok(symlink(kept, store::lower(name))?)
    };
    keep().with_context(|| format!("cannot keep the snapshot {}", staged.display()))
}

/// Gives a container the snapshot of another one.
pub fn share(from: &Name, to: &Name) -> Result<()> {
    let link = store::lower(from);
    let share = || symlink(fs::read_link(&link)?, store::lower(to));
    share().with_context(|| format!("cannot share {}", link.display()))
}

/// Removes the snapshots in a directory that no container links to, and the directory with the last one.
pub fn remove_unused(directory: &Path) -> Result<()> {
    let Ok(directory) = directory.canonicalize() else { return Ok(()) };
    let directory = directory.as_path();
    let _lock = lock(directory)?;
    let Some(used) = used()? else { return Ok(()) };
    // By another name first: what is removed in part is nobody's snapshot.
    let doomed = directory.join(".removed");
    let mut removed = vec![tree::remove_at(&doomed)];
    for path in store::entries(directory)? {
        if path != doomed && !used.contains(&path) {
            fs::rename(&path, &doomed).with_context(|| format!("cannot remove {}", path.display()))?;
            removed.push(tree::remove_at(&doomed));
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => {
            removed.push(Err(error).with_context(|| format!("cannot remove {}", directory.display())));
        }
        _ => {}
    }
    tool::all(removed)
}

/// The snapshots that containers link to. None if it cannot be told of each: one may be kept on a disk that is not there.
fn used() -> Result<Option<HashSet<PathBuf>>> {
    let mut used = HashSet::new();
    for container in store::entries(&store::containers())? {
        match fs::read_link(container.join("lower")) {
            Ok(snapshot) => used.insert(snapshot),
            Err(error) if error.kind() == ErrorKind::NotFound && container.is_dir() => false,
            Err(_) => return Ok(None),
        };
    }
    Ok(Some(used))
}

/// Takes the lock of a directory of snapshots, which is made if it is not there: no snapshot goes before the container
/// that takes it has linked to it.
fn lock(directory: &Path) -> Result<File> {
    let lock = || -> Result<File> {
        loop {
            match DirBuilder::new().mode(0o700).create(directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
            let file = match store::lock(directory) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file?,
            };
            // Whoever removes the last snapshot removes the directory too: then this is a lock on nothing.
            let there = fs::metadata(directory).map(|there| (there.dev(), there.ino())).ok();
            let locked = file.metadata()?;
            if there == Some((locked.dev(), locked.ino())) {
                return Ok(file);
            }
        }
    };
    lock().with_context(|| format!("cannot lock {}", directory.display()))
}

/// A digest of all that a tree is, as hexadecimal SHA-256: its files by kind, content, owner, mode, times, attributes and
/// hard links. Of directories the times do not count: they tell when it was made.
fn fingerprint(root: &Path) -> Result<String> {
    let mut entries: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut names: HashMap<Id, Vec<PathBuf>> = HashMap::new();
    let mut path = PathBuf::from("/");
    let top = Node::of(File::open(root)?.into())?;
    walk(&top, &mut path, |node, path| {
        if node.stat.stx_nlink > 1 && !node.is_directory() {
            names.entry(node.id()).or_default().push(path.to_owned());
        }
        entries.insert(path.to_owned(), told(node)?);
        Ok(())
    })
    .with_context(|| path.display().to_string())?;
    for group in names.values_mut() {
        group.sort();
        for other in &group[1..] {
            entries.insert(other.clone(), group[0].as_os_str().as_bytes().to_vec());
        }
    }
    let mut digest = Sha256::new();
    for field in entries.iter().flat_map(|(path, told)| [path.as_os_str().as_bytes(), told]) {
        digest.update((field.len() as u64).to_le_bytes());
        digest.update(field);
    }
    Ok(hexadecimal(&digest.finalize()))
}

/// What one entry is, but for its name.
fn told(node: &Node) -> Result<Vec<u8>> {
    let stat = &node.stat;
    let content = match node.kind() {
        FileType::RegularFile => digest(node.open()?, stat.stx_size)?.into_bytes(),
        FileType::Symlink => readlinkat(node, "", Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    let time = (!node.is_directory()).then_some((stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec));
    let mut attributes = attributes_of(node.as_fd())?;
    attributes.sort();
    let device = (stat.stx_rdev_major, stat.stx_rdev_minor);
    Ok(serde_json::to_vec(&(stat.stx_mode, stat.stx_uid, stat.stx_gid, device, time, attributes, content))?)
}
