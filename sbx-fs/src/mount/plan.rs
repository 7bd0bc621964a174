//! What the document asks to be mounted: understood, or refused, before anything is touched.

use super::file_system::{FileSystem, Owner};
use crate::edit::has_init;
use crate::extra::{INSIDE, LOOP, NOBODY};
use crate::host::{Host, links};
use anyhow::{Context, Result, bail, ensure};
use nix::libc::{
    self, MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};
use rustix::fs::statfs;
use sbx::ids::Ids;
use sbx::storage::Storage;
use sbx::{Document, host, rootless, storage, sys};
use serde::Deserialize;
use std::fmt;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

/// Options that are attributes of a mount, what they set and what they clear. With an `r` before it an option holds
/// for all mounts of a tree.
const ATTRIBUTES: [(&str, u64, u64); 15] = [
    ("ro", MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, MOUNT_ATTR_RDONLY),
    ("nosuid", MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, MOUNT_ATTR_NOSUID),
    ("nodev", MOUNT_ATTR_NODEV, 0),
    ("dev", 0, MOUNT_ATTR_NODEV),
    ("noexec", MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, MOUNT_ATTR_NOEXEC),
    ("nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW),
    ("nodiratime", MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, MOUNT_ATTR_NODIRATIME),
    ("relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    ("noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    ("strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
];

/// Options that ask for what holds anyway: every mount is private.
const NEUTRAL: [&str; 3] = ["defaults", "private", "rprivate"];

/// The device nodes of a container: harmless ones that the host has.
const NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links that programs expect in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// What the kernel of the host has, and where.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Whether SELinux is on.
    selinux: bool,
    /// Whether there are cgroup v1 hierarchies, and systemd's among them.
    v1: bool,
    systemd: bool,
    /// Whether there is the cgroup v2 hierarchy.
    unified: bool,
}

impl Kernel {
    /// Of the host that this runs on: its cgroups are where systemd has them, and every other init.
    pub fn here() -> Self {
        let is = |place: &str, kind: i64| statfs(place).is_ok_and(|there| there.f_type == kind);
        let cgroup2 = |place: &str| is(place, libc::CGROUP2_SUPER_MAGIC);
        Self {
            selinux: host::runs_selinux(),
            v1: is("/sys/fs/cgroup", libc::TMPFS_MAGIC),
            systemd: is("/sys/fs/cgroup/systemd", libc::CGROUP_SUPER_MAGIC),
            unified: cgroup2("/sys/fs/cgroup") || cgroup2("/sys/fs/cgroup/unified"),
        }
    }
}

/// Everything that is to be mounted.
#[derive(Debug)]
pub struct Plan {
    /// The ids of a user namespace.
    pub ids: Option<Ids>,
    pub root: Bind,
    pub read_only_root: bool,
    pub mounts: Vec<Mount>,
    /// Symbolic links that there are before anything is mounted: the path and what it points to.
    pub first_links: Vec<(PathBuf, PathBuf)>,
    /// Symbolic links in a `/dev` of the container's own.
    pub links: Vec<(&'static str, &'static str)>,
    pub read_only: Vec<PathBuf>,
    pub masked: Vec<PathBuf>,
    /// What masks a directory.
    pub empty: FileSystem,
    /// Whether its first process is an init, which keeps what it runs in cgroups.
    has_init: bool,
}

/// One mount.
#[derive(Debug)]
pub struct Mount {
    pub destination: PathBuf,
    pub source: Source,
}

/// Where a mount comes from.
#[derive(Debug)]
pub enum Source {
    Bind(Bind),
    Image(Image),
    Inside(Bind),
    FileSystem(FileSystem),
}

/// The file system in a file of the host's.
#[derive(Debug)]
pub struct Image {
    pub path: PathBuf,
    /// The kind of file system, if the document says.
    pub kind: Option<String>,
    /// The label for all that is in it.
    pub label: Option<String>,
    pub attributes: Attributes,
}

/// A part of the host's file system.
#[derive(Debug)]
pub struct Bind {
    pub path: PathBuf,
    /// With what is mounted below it.
    pub recursive: bool,
    /// The character device that it must be.
    pub device: Option<(u32, u32)>,
    /// Whether its files are nobody's inside.
    pub nobodys: bool,
    pub attributes: Attributes,
}

/// Attributes of a mount, and of all mounts of its tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    top: Change,
    tree: Change,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Change {
    set: u64,
    clear: u64,
}

/// How far a mount must be read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    No,
    /// The mount itself.
    Top,
    /// It and what is mounted below it.
    Tree,
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Bind(Bind { path, .. }) | Source::Inside(Bind { path, .. }) | Source::Image(Image { path, .. }) => {
                write!(f, "{}", path.display())?
            }
            Source::FileSystem(file_system) => f.write_str(file_system.kind)?,
        }
        write!(f, " on {}", self.destination.display())
    }
}

impl Attributes {
    /// The attributes that an option names, if it names any, in the place of what an earlier one said of them.
    fn take(&mut self, option: &str) -> bool {
        let find = |name: &str| ATTRIBUTES.iter().find(|(known, _, _)| *known == name);
        let (change, found) = match find(option) {
            Some(found) => (&mut self.top, found),
            None => match option.strip_prefix('r').and_then(find) {
                Some(found) => (&mut self.tree, found),
                None => return false,
            },
        };
        let (_, set, clear) = found;
        change.set = change.set & !clear | set;
        change.clear |= clear;
        true
    }

    fn of(options: &[&str]) -> Self {
        Self::default().with(options)
    }

    fn with(mut self, options: &[&str]) -> Self {
        for option in options {
            self.take(option);
        }
        self
    }

    /// Sets them on a tree of mounts, and with `propagation` (`MS_PRIVATE` or the like, or 0) that of all of it. What is
    /// said of the whole tree holds.
    pub fn apply(&self, tree: impl AsFd, propagation: u64) -> Result<()> {
        self.top.apply(&tree, false, 0)?;
        self.tree.apply(&tree, true, propagation)
    }

    /// Sets them on one mount, whatever is mounted below it, and with `propagation` that of it.
    pub fn apply_to_top(&self, mount: impl AsFd, propagation: u64) -> Result<()> {
        let Self { top, tree } = self;
        let change = Change { set: top.set & !tree.clear | tree.set, clear: top.clear | tree.clear };
        change.apply(&mount, false, propagation)
    }

    pub fn read_only(&self) -> ReadOnly {
        if self.tree.set & MOUNT_ATTR_RDONLY != 0 {
            ReadOnly::Tree
        } else if self.top.set & MOUNT_ATTR_RDONLY != 0 {
            ReadOnly::Top
        } else {
            ReadOnly::No
        }
    }
}

impl Change {
    fn apply(&self, mount: impl AsFd, recursive: bool, propagation: u64) -> Result<()> {
        if *self == Self::default() && propagation == 0 {
            return Ok(());
        }
        sys::mount_setattr(mount, recursive, self.set, self.clear, propagation).context("cannot set its attributes")
    }
}

impl Bind {
    /// A directory or file with what is mounted below it.
    pub fn tree(path: PathBuf, attributes: Attributes) -> Self {
        Self { path, recursive: true, device: None, nobodys: false, attributes }
    }

    /// A device node. Read-only: the device can be written to all the same, but its owner and mode, which are the
    /// host's, cannot be changed. Not noexec, which would forbid to map /dev/zero executable.
    fn node(path: &str, major: u32, minor: u32) -> Self {
        let attributes = Attributes::of(&["ro", "nosuid"]);
        // What the host forbids an ordinary user cannot allow.
        let attributes = if rootless::is_ordinary() { attributes } else { attributes.with(&["exec", "dev"]) };
        Self { path: path.into(), recursive: false, device: Some((major, minor)), nobodys: false, attributes }
    }

    /// The null device.
    pub fn null() -> Self {
        let (path, major, minor) = NODES[0];
        Self::node(path, major, minor)
    }
}

/// A mount as the OCI runtime specification has it.
#[derive(Debug, Deserialize)]
struct Entry {
    destination: PathBuf,
    #[serde(rename = "type")]
    kind: Option<String>,
    source: Option<PathBuf>,
    #[serde(default)]
    options: Vec<String>,
}

impl Plan {
    /// Reads and checks the document.
    pub fn of(doc: &Document, kernel: &Kernel, host: &Host) -> Result<Self> {
        let paths = |field: &str| -> Result<Vec<PathBuf>> {
            let paths: Vec<PathBuf> = doc.read(field)?.unwrap_or_default();
            paths.iter().try_for_each(|path| check(path)).with_context(|| field.to_owned())?;
            Ok(paths)
        };
        let label: Option<String> = doc.read("linux.mountLabel")?;
        let owner = Owner { label: label.as_deref().filter(|_| kernel.selinux), ids: Ids::of(doc)? };
        storage::check_ids(doc)?;
        let is_memory = Storage::of(doc)? == Storage::Memory;
        let base: Option<PathBuf> = doc.read("sbx.base")?;
        let root: PathBuf = doc.require("root.path")?;
        ensure!(root.is_absolute(), "root.path: {} is not absolute", root.display());
        let mut plan = Self {
            ids: owner.ids,
            root: Bind::tree(root, Attributes::of(&["rnodev"])),
            read_only_root: doc.read("root.readonly")?.unwrap_or(false),
            mounts: Vec::new(),
            first_links: if is_memory { links(&host.programs(base.as_deref())?) } else { Vec::new() },
            links: Vec::new(),
            read_only: paths("linux.readonlyPaths")?,
            masked: paths("linux.maskedPaths")?,
            empty: FileSystem::new("tmpfs", &["mode=755", "nr_inodes=1"], Attributes::of(&["ro"]), owner)?,
            has_init: has_init(doc)?,
        };
        let entries: Vec<Entry> = doc.read("mounts")?.unwrap_or_default();
        for entry in entries {
            let destination = entry.destination.display().to_string();
            plan.take(entry, kernel, owner).with_context(|| format!("mounts: {destination}"))?;
        }
        Ok(plan)
    }

    fn take(
        &mut self,
        Entry { destination, kind, source, options }: Entry,
        kernel: &Kernel,
        owner: Owner<'_>,
    ) -> Result<()> {
        check(&destination)?;
        let mut attributes = Attributes::default();
        let (mut bind, mut recursive) = (kind.as_deref() == Some("bind"), false);
        let (mut image, mut inside, mut nobodys) = (false, false, false);
        let mut parameters: Vec<&str> = Vec::new();
        for option in &options {
            match option.as_str() {
                "bind" => bind = true,
                "rbind" => (bind, recursive) = (true, true),
                LOOP => image = true,
                INSIDE => inside = true,
                NOBODY => nobodys = true,
                option if NEUTRAL.contains(&option) || attributes.take(option) => {}
                option => parameters.push(option),
            }
        }
        let kind = kind.as_deref().unwrap_or_default();
        if let (true, Some(option)) = (bind || image || kind == "cgroup", parameters.first()) {
            bail!("option {option:?} is not supported");
        }
        if bind || image {
            let path = source.context("source is missing")?;
            ensure!(path.is_absolute(), "source {} is not absolute", path.display());
            let kind = (kind != "auto").then(|| kind.to_owned());
            let label = owner.label.map(str::to_owned);
            self.push(
                destination,
                if image {
                    Source::Image(Image { path, kind, label, attributes })
                } else {
                    let bind = Bind { recursive, nobodys, ..Bind::tree(path, attributes) };
                    if inside { Source::Inside(bind) } else { Source::Bind(bind) }
                },
            );
        } else if kind == "cgroup" {
            self.cgroup(destination, attributes, kernel, owner)?;
        } else {
            let device_nodes = kind == "tmpfs" && destination == Path::new("/dev");
            self.push(destination, Source::FileSystem(FileSystem::new(kind, &parameters, attributes, owner)?));
            if device_nodes {
                for (path, major, minor) in NODES {
                    self.push(path.into(), Source::Bind(Bind::node(path, major, minor)));
                }
                self.links.extend(LINKS);
            }
        }
        Ok(())
    }

    /// The cgroup file systems of a container: on a host with v1 hierarchies a directory with what systemd needs to
    /// run, its own named hierarchy and the v2 one, and nothing for others. The controllers are not its business.
    fn cgroup(&mut self, at: PathBuf, attributes: Attributes, kernel: &Kernel, owner: Owner<'_>) -> Result<()> {
        if !kernel.v1 {
            ensure!(kernel.unified, "the host has no cgroup file system");
            let unified = FileSystem::new("cgroup2", &[], attributes, owner)?;
            self.push(at, Source::FileSystem(unified));
            return Ok(());
        }
        if !self.has_init {
            return Ok(());
        }
        let directory = FileSystem::new("tmpfs", &["mode=755"], attributes.clone().with(&["ro"]), owner)?;
        self.push(at.clone(), Source::FileSystem(directory));
        if kernel.systemd {
            let systemd = FileSystem::new("cgroup", &["none", "name=systemd"], attributes.clone(), owner)?;
            self.push(at.join("systemd"), Source::FileSystem(systemd));
        }
        if kernel.unified {
            let unified = FileSystem::new("cgroup2", &[], attributes, owner)?;
            self.push(at.join("unified"), Source::FileSystem(unified));
        }
        Ok(())
    }

    fn push(&mut self, destination: PathBuf, source: Source) {
        self.mounts.push(Mount { destination, source });
    }
}

/// A path inside: absolute, below the root, and without a way back up.
fn check(path: &Path) -> Result<()> {
    let up = path.components().any(|component| component == Component::ParentDir);
    ensure!(path.is_absolute() && path.parent().is_some() && !up, "{} is not a path below the root", path.display());
    Ok(())
}

#[cfg(test)]
mod tests;
