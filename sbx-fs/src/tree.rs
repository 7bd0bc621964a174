//! Directory trees by descriptor.
//!
//! Every step is one component beneath the descriptor of a directory and follows no link, so that nobody who renames
//! or links in the tree leads it elsewhere (CVE-2015-1335). A walk of any depth holds two descriptors: it goes up by
//! `..` and checks that it arrives where it came from.

use anyhow::{Result, anyhow, bail};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx, unlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What one inode is known by.
pub type Id = (u32, u32, u64);

/// One entry that was looked at, and not opened: to open a FIFO or a device would have an effect.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    pub stat: Statx,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Node {
    /// Looks at `name` in the directory `dir`. `None` if there is no such entry.
    pub fn at(dir: impl AsFd, name: &OsStr) -> io::Result<Option<Self>> {
        match openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            fd => Ok(Some(Self::of(fd?)?)),
        }
    }

    /// Looks at what is open already.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let stat = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
        Ok(Self { fd, stat })
    }

    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.stx_mode.into())
    }

    pub fn id(&self) -> Id {
        (self.stat.stx_dev_major, self.stat.stx_dev_minor, self.stat.stx_ino)
    }

    /// Opens for reading the very inode that was looked at, whatever has its name by now.
    pub fn open(&self) -> io::Result<File> {
        Ok(rustix::fs::open(link(self), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Opens a directory to walk it.
    pub fn enter(self) -> io::Result<Self> {
        Ok(Self { fd: openat(&self, ".", DIRECTORY, Mode::empty())?, stat: self.stat })
    }

    /// The directory that this one is in, which must be `id` still.
    pub fn leave(self, id: Id) -> Result<Self> {
        let parent = Self::of(openat(&self, "..", DIRECTORY, Mode::empty())?)?;
        if parent.id() == id { Ok(parent) } else { Err(anyhow!("it was moved meanwhile")) }
    }

    /// The names in a directory.
    pub fn list(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }
}

/// The path by which the calls that know no descriptor reach the inode of one. It leads to that inode, even if that
/// is a symbolic link.
pub fn link(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// The components of an absolute path, and nothing that leads back up.
pub fn components(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

/// Removes `name` in the directory `dir`, with all that is below it. Goes on past errors; `path` is for their text.
pub fn remove(dir: OwnedFd, name: &OsStr, path: &Path) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    if let Err(error) = remove_walk(dir, name, path, &mut errors) {
        errors.push(error);
    }
    errors
}

/// One directory on the way down.
struct Level {
    id: Id,
    name: OsString,
    rest: Vec<OsString>,
    /// Whether something in it could not be removed, so that it cannot be either.
    stays: bool,
}

fn remove_walk(dir: OwnedFd, name: &OsStr, path: &Path, errors: &mut Vec<anyhow::Error>) -> Result<()> {
    let mut here = Node::of(dir)?;
    let mount = here.stat.stx_mnt_id;
    let mut path = path.parent().map(PathBuf::from).unwrap_or_default();
    let mut levels = vec![Level { id: here.id(), name: OsString::new(), rest: vec![name.to_owned()], stays: false }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.rest.pop() else {
            // Nothing is left in this directory: go up and remove it from there.
            let Some(Level { name, mut stays, .. }) = levels.pop() else { break };
            let Some(above) = levels.last_mut() else { break };
            here = here.leave(above.id).map_err(|error| anyhow!("cannot remove {}: {error}", path.display()))?;
            if !stays && let Err(error) = unlinkat(&here, &name, AtFlags::REMOVEDIR) {
                errors.push(anyhow!("cannot remove {}: {error}", path.display()));
                stays = true;
            }
            above.stays |= stays;
            path.pop();
            continue;
        };
        path.push(&name);
        match remove_one(&here, &name, mount) {
            Ok(None) => {
                path.pop();
            }
            Ok(Some((inner, rest))) => {
                levels.push(Level { id: inner.id(), name, rest, stays: false });
                here = inner;
            }
            Err(error) => {
                errors.push(anyhow!("cannot remove {}: {error}", path.display()));
                level.stays = true;
                path.pop();
            }
        }
    }
    Ok(())
}

/// Removes what is no directory; opens and lists one, to be emptied first.
fn remove_one(dir: &Node, name: &OsStr, mount: u64) -> Result<Option<(Node, Vec<OsString>)>> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ISDIR) => {}
        Err(Errno::BUSY) => bail!("it is a mount point"),
        Err(error) => return Err(error.into()),
    }
    let Some(node) = Node::at(dir, name)? else { return Ok(None) };
    if node.stat.stx_mnt_id != mount {
        bail!("it is a mount point");
    }
    let node = node.enter()?;
    let names = node.list()?;
    Ok(Some((node, names)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_with_all_that_is_in_it_and_no_link_is_followed() {
        let scratch = Scratch::new("remove");
        let path = |name: &str| scratch.path().join(name);
        fs::create_dir_all(path("place/a/b")).expect("directory");
        fs::create_dir_all(path("kept/inner")).expect("directory");
        fs::write(path("kept/file"), "canary").expect("canary");
        for (target, link) in [("../kept", "place/up"), ("/", "place/a/root"), ("nowhere", "place/a/b/dangling")] {
            symlink(target, path(link)).expect("link");
        }
        let open = || OwnedFd::from(File::open(scratch.path()).expect("open"));
        for _ in 0..2 {
            let errors = remove(open(), "place".as_ref(), &path("place"));
            assert!(errors.is_empty(), "{errors:?}");
        }
        assert!(!path("place").exists());
        assert_eq!(fs::read(path("kept/file")).expect("canary"), b"canary");
        assert!(path("kept/inner").is_dir());
        symlink("kept", path("place")).expect("link");
        assert!(remove(open(), "place".as_ref(), &path("place")).is_empty());
        assert!(path("kept/inner").is_dir() && fs::symlink_metadata(path("place")).is_err());
    }
}
