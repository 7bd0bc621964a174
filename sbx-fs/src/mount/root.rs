//! The root of the container, while it is being built.

use super::file_system::FileSystem;
use super::plan::{Attributes, Bind, ReadOnly};
use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, fchdir, pivot_root};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, mkdirat, mknodat, openat, openat2, statx,
    symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use sbx::sys;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the kernel shows itself. A link on the way there would put procfs, the device nodes or a mask elsewhere
/// (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867, CVE-2026-41579).
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// How often a lookup is tried that something renamed on the host, anywhere, has disturbed (openat2(2): EAGAIN).
const TRIES: usize = 128;

const MODE_DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const MODE_FILE: Mode = Mode::from_raw_mode(0o644);

/// The new root. Everything is reached beneath its descriptor.
#[derive(Debug)]
pub struct Root {
    tree: OwnedFd,
    /// The mounts, by their ids, in which a place may be made: the private tree and the container's own file systems.
    own: HashSet<u64>,
    /// How far each mount, by its id, must be read-only.
    read_only: HashMap<u64, ReadOnly>,
    /// File systems whose attributes are still to be set, and where they are.
    incomplete: Vec<(PathBuf, OwnedFd, Attributes)>,
}

/// What covers paths: the null device a file, an empty directory a directory.
#[derive(Debug)]
pub struct Mask<'a> {
    null: OwnedFd,
    /// Whether the first file is covered, by the mount itself. Only then can it be copied.
    is_attached: bool,
    empty: &'a FileSystem,
    /// What covers the first directory.
    directory: Option<OwnedFd>,
}

impl<'a> Mask<'a> {
    pub fn new(null: OwnedFd, empty: &'a FileSystem) -> Self {
        Self { null, is_attached: false, empty, directory: None }
    }

    fn file(&mut self) -> Result<OwnedFd> {
        if std::mem::replace(&mut self.is_attached, true) { copy(&self.null) } else { Ok(self.null.try_clone()?) }
    }

    fn directory(&mut self) -> Result<OwnedFd> {
        if let Some(covers) = &self.directory {
            return copy(covers);
        }
        let covers = self.empty.make(&self.empty.configure()?)?;
        self.empty.attributes.apply_to_top(&covers, 0)?;
        Ok(self.directory.insert(covers).try_clone()?)
    }
}

impl Root {
    /// Puts the tree over the root of this mount namespace, from which nothing gets out and into which nothing comes.
    pub fn attach(tree: OwnedFd) -> Result<Self> {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("cannot make the mounts private")?;
        // Directories and files are made with the modes that they are given.
        rustix::process::umask(Mode::empty());
        move_mount(&tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("cannot mount the root")?;
        let own = HashSet::from([mount_id(&tree)?]);
        Ok(Self { tree, own, read_only: HashMap::new(), incomplete: Vec::new() })
    }

    /// Mounts a tree, and returns its id.
    pub fn bind(&mut self, destination: &Path, tree: &OwnedFd, read_only: ReadOnly) -> Result<u64> {
        let is_directory = is_directory(tree)?;
        let id = match self.make_in_made(destination, is_directory)? {
            Some((made, name)) => attach(tree, made, name)?,
            None => {
                // By whatever name, it may cover what was made.
                self.incomplete.iter_mut().for_each(|(path, ..)| path.clear());
                attach(tree, &self.place(destination, is_directory)?, OsStr::new(""))?
            }
        };
        self.read_only.insert(id, read_only);
        Ok(id)
    }

    /// Mounts a part of the private tree at a second place, without what is mounted there: root inside may have made a
    /// link of it to a procfs, of which only the first place is masked.
    pub fn bind_inside(&mut self, destination: &Path, source: &Bind) -> Result<()> {
        let found = self.existing(&source.path)?.context("it is missing inside")?;
        ensure!(mount_id(&found)? == mount_id(&self.tree)?, "it is not in the container's private tree");
        let tree = copy(&found)?;
        source.attributes.apply(&tree, 0)?;
        self.bind(destination, &tree, source.attributes.read_only()).map(drop)
    }

    /// Makes a file system and mounts it. Its attributes are set by [`Root::complete`].
    pub fn make(&mut self, destination: &Path, file_system: &FileSystem, context: &OwnedFd) -> Result<()> {
        let tree = file_system.make(context)?;
        let id = self.bind(destination, &tree, file_system.attributes.read_only())?;
        self.own.insert(id);
        self.incomplete.push((destination.to_owned(), tree, file_system.attributes.clone()));
        Ok(())
    }

    /// Makes a symbolic link.
    pub fn link(&self, path: &Path, target: &Path) -> Result<()> {
        let shown = path.display();
        let failed = || format!("cannot make the link {shown}");
        let (directory, name) = path.parent().zip(path.file_name()).with_context(failed)?;
        if let Some(made) = self.made(directory) {
            return symlinkat(target, made, name).with_context(failed);
        }
        let directory = self.place(directory, true)?;
        ensure!(self.own.contains(&mount_id(&directory)?), "{shown}: its directory is not the container's own");
        symlinkat(target, directory, name).with_context(failed)
    }

    /// Sets the attributes of the file systems, now that a read-only one has its mount points too, and of the root.
    pub fn complete(&mut self, read_only: bool) -> Result<()> {
        for (_, mount, attributes) in self.incomplete.drain(..) {
            attributes.apply_to_top(&mount, 0)?;
        }
        if read_only {
            sys::mount_setattr(&self.tree, false, nix::libc::MOUNT_ATTR_RDONLY, 0, 0)
                .context("cannot make the root read-only")?;
            self.read_only.insert(mount_id(&self.tree)?, ReadOnly::Top);
        }
        Ok(())
    }

    /// Makes what is at `path`, and all below it, read-only; nothing is nothing to protect.
    pub fn make_read_only(&mut self, path: &Path) -> Result<()> {
        let Some(place) = self.existing(path)? else { return Ok(()) };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(&place, "", flags)?;
        sys::mount_setattr(&tree, true, nix::libc::MOUNT_ATTR_RDONLY, 0, 0)?;
        self.cover(&place, &tree)
    }

    /// Covers what is at `path`, if anything is.
    pub fn mask(&mut self, path: &Path, mask: &mut Mask<'_>) -> Result<()> {
        let Some(place) = self.existing(path)? else { return Ok(()) };
        let cover = if is_directory(&place)? { mask.directory()? } else { mask.file()? };
        self.cover(&place, &cover)
    }

    /// Makes this the root of the namespace and of every process whose root was the old one, which is detached.
    pub fn pivot(&self) -> Result<()> {
        let pivot = || {
            fchdir(&self.tree)?;
            // Puts the old root on top of the new one, so that no directory is needed for it: pivot_root(2).
            pivot_root(".", ".")?;
            umount2(".", MntFlags::MNT_DETACH)?;
            chdir("/")
        };
        pivot().context("cannot replace the root")
    }

    /// How far each mount must be read-only.
    pub fn read_only(&self) -> &HashMap<u64, ReadOnly> {
        &self.read_only
    }

    /// Covers a place with what is read-only.
    fn cover(&mut self, place: &OwnedFd, tree: &OwnedFd) -> Result<()> {
        let id = attach(tree, place, OsStr::new(""))?;
        self.read_only.insert(id, ReadOnly::Tree);
        Ok(())
    }

    /// The place at `path`. One that is missing is made, if it would lie in what is the container's own: never in a
    /// tree of the host's.
    fn place(&self, path: &Path, directory: bool) -> Result<OwnedFd> {
        let shown = path.display();
        if let Some(found) = self.existing(path)? {
            let alike = is_directory(&found)? == directory;
            ensure!(alike, "{shown} is {} directory", if directory { "not a" } else { "a" });
            return Ok(found);
        }
        let (parent, name) = path.parent().zip(path.file_name()).with_context(|| format!("{shown} is missing"))?;
        let within = self.place(parent, true)?;
        let own = self.own.contains(&mount_id(&within)?);
        ensure!(own, "{shown} is missing, and {} is not the container's own", parent.display());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = make_in(&within, name, directory).and_then(|()| openat(&within, name, flags, Mode::empty()));
        match place {
            Err(Errno::EXIST) => bail!("{shown} is a symbolic link that leads nowhere"),
            place => place.with_context(|| format!("cannot make {shown}")),
        }
    }

    /// Makes a place at `path`, if its directory is known and has nothing of that name: that directory, and the name.
    fn make_in_made<'a>(&'a self, path: &'a Path, directory: bool) -> Result<Option<(&'a OwnedFd, &'a OsStr)>> {
        let Some((made, name)) = path.parent().and_then(|parent| self.made(parent)).zip(path.file_name()) else {
            return Ok(None);
        };
        match make_in(made, name, directory) {
            Err(Errno::EXIST) => Ok(None),
            new => new.map(|()| Some((made, name))).with_context(|| format!("cannot make {}", path.display())),
        }
    }

    /// The directory at `path`, if it is known without looking for it: the root, or that of a file system made just now.
    fn made(&self, path: &Path) -> Option<&OwnedFd> {
        let made = self.incomplete.iter().map(|(path, tree, _)| (path.as_path(), tree));
        made.chain([(Path::new("/"), &self.tree)]).find(|(made, _)| *made == path).map(|(_, tree)| tree)
    }

    /// What is at `path`, if anything is. Links are followed as they are for whoever has this root, but not where the
    /// kernel shows itself.
    fn existing(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        resolve.set(ResolveFlags::NO_SYMLINKS, KERNEL.iter().any(|top| path.starts_with(top)));
        let open = |_| openat2(&self.tree, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
        let found = (0..TRIES).map(open).find(|result| !matches!(result, Err(Errno::AGAIN)));
        match found.unwrap_or(Err(Errno::AGAIN)) {
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => bail!("a symbolic link is in the way to {}", path.display()),
            found => found.map(Some).with_context(|| format!("cannot open {}", path.display())),
        }
    }
}

/// Makes a place in a directory: follows no link, and takes nothing that is there.
fn make_in(within: &OwnedFd, name: &OsStr, directory: bool) -> rustix::io::Result<()> {
    if directory {
        mkdirat(within, name, MODE_DIRECTORY)
    } else {
        mknodat(within, name, FileType::RegularFile, MODE_FILE, 0)
    }
}

/// Attaches a mount at a name in a directory, which is not followed, or at what a descriptor holds, without one; returns its
/// id.
fn attach(mount: &OwnedFd, at: &OwnedFd, name: &OsStr) -> Result<u64> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", at, name, flags)?;
    mount_id(mount)
}

/// A second mount of what a descriptor holds, without what is mounted below it.
fn copy(mount: &OwnedFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(mount, "", flags)?)
}

fn is_directory(fd: impl AsFd) -> Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

/// The id of the mount that a descriptor is in, as mountinfo has it (statx(2), Linux 5.8).
fn mount_id(fd: impl AsFd) -> Result<u64> {
    let statx = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).context("cannot tell mounts apart")?;
    Ok(statx.stx_mnt_id)
}
