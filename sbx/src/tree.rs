//! Directory trees by descriptor.
//!
//! Every step is one component beneath the descriptor of a directory and follows no link, so that nobody who renames
//! or links in the tree leads it elsewhere (CVE-2015-1335). A walk of any depth holds two descriptors: it goes up by
//! `..` and checks that it arrives where it came from.

use anyhow::{Result, anyhow};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// How a directory is opened that is to be walked, and is no link.
pub const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What one inode is known by.
pub type Id = (u32, u32, u64);

/// One entry that was looked at, and not opened: to open a FIFO or a device would have an effect.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    /// What it was when it was looked at.
    pub stat: Statx,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Node> for OwnedFd {
    fn from(node: Node) -> Self {
        node.fd
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

    /// Looks at a path beneath the directory `root`, every component of which but the last is a directory. `None` if
    /// there is no such entry.
    pub fn beneath(root: impl AsFd, path: &Path) -> io::Result<Option<Self>> {
        let mut node = Self::of(root.as_fd().try_clone_to_owned()?)?;
        for name in components(path) {
            match Self::at(&node, name)? {
                Some(inner) => node = inner,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// Looks at what is open already.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let stat = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
        Ok(Self { fd, stat })
    }

    /// Which kind of file it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.stx_mode.into())
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// What its inode is known by.
    pub fn id(&self) -> Id {
        (self.stat.stx_dev_major, self.stat.stx_dev_minor, self.stat.stx_ino)
    }

    /// Opens for reading the very inode that was looked at, whatever has its name by now.
    pub fn open(&self) -> io::Result<File> {
        Ok(rustix::fs::open(link(self), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Opens a directory to walk it.
    pub fn enter(&self) -> io::Result<Self> {
        Ok(Self { fd: openat(self, ".", DIRECTORY, Mode::empty())?, stat: self.stat })
    }

    /// The directory that this one is in; the topmost is in itself.
    pub fn above(&self) -> io::Result<Self> {
        Self::of(openat(self, "..", DIRECTORY, Mode::empty())?)
    }

    /// The directory that this one is in, which must be `id` still.
    pub fn leave(&self, id: Id) -> Result<Self> {
        let above = self.above()?;
        if above.id() == id { Ok(above) } else { Err(anyhow!("it was moved meanwhile")) }
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

/// Visits a directory and all below it, a directory before what is in it; of another mount only the mount point. `path`
/// is where the walk is, also when it fails.
pub fn walk(root: &Node, path: &mut PathBuf, mut visit: impl FnMut(&Node, &Path) -> Result<()>) -> Result<()> {
    let mount = root.stat.stx_mnt_id;
    visit(root, path)?;
    if !root.is_directory() {
        return Ok(());
    }
    let mut here = root.enter()?;
    let mut levels = vec![(here.id(), here.list()?)];
    while let Some((_, rest)) = levels.last_mut() {
        let Some(name) = rest.pop() else {
            levels.pop();
            let Some((above, _)) = levels.last() else { break };
            here = here.leave(*above)?;
            path.pop();
            continue;
        };
        path.push(&name);
        // What is gone by now was deleted meanwhile.
        if let Some(node) = Node::at(&here, &name)? {
            visit(&node, path)?;
            if node.is_directory() && node.stat.stx_mnt_id == mount {
                here = node.enter()?;
                levels.push((here.id(), here.list()?));
                continue;
            }
        }
        path.pop();
    }
    Ok(())
}
