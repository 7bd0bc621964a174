//! What a container's private tree is kept in: a directory, an image file, or an overlay.
//!
//! The last two are mounted where nobody's path leads: by whoever needs the tree, for as long as it needs it, and by
//! the container for its whole life. Nothing of that is left on the host when they end, however they end.

use crate::process::Live;
use crate::tree::DIRECTORY;
use crate::{Document, Name, Size, holder, host, ids, mount, namespace, rights, store, sys};
use anyhow::{Context, Result, ensure};
use nix::sched::CloneFlags;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, open as open_path, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// `sbx.store` of a document; a directory without it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Storage {
    /// The tree is a directory.
    #[default]
    Directory,
    /// The tree is an ext4 file system in a file of so many bytes, and can have no more.
    Image {
        /// In bytes.
        size: u64,
    },
    /// The tree is what differs from a snapshot, which it shares with others that were made from the same.
    Overlay,
    /// The tree is made when the container starts, over the host's own root, and gone when it ends.
    Memory,
}

impl FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("image:")) {
            ("directory", _) => Ok(Self::Directory),
            ("overlay", _) => Ok(Self::Overlay),
            ("memory", _) => Ok(Self::Memory),
            (_, Some(size)) => {
                let size = size.parse::<Size>()?.0.unsigned_abs();
                Ok(Self::Image { size: size.next_multiple_of(IMAGE_UNIT) })
            }
            _ => Err(format!("bad store {text:?}: directory, overlay, memory or image:SIZE")),
        }
    }
}

/// Sizes of images are rounded up to multiples of this many bytes: of a rest that is too small for what a group of blocks
/// needs, ext4 would make nothing.
const IMAGE_UNIT: u64 = 8 << 20;

/// How long a tree that somebody else has is waited for: a step of a pipe may be on its way out.
const PATIENCE: Duration = Duration::from_secs(10);

impl Storage {
    /// What the document says.
    pub fn of(doc: &Document) -> Result<Self> {
        Ok(doc.read("sbx.store")?.unwrap_or_default())
    }

    /// Whether its files have the container's label each: an overlay, or memory, is mounted with one for all.
    pub fn labels_files(self) -> bool {
        !matches!(self, Self::Overlay | Self::Memory)
    }

    /// Where the files of the tree lie on the host, if they lie there while it is not mounted: of an overlay those that
    /// the container has made.
    pub fn files(self, name: &Name) -> Option<PathBuf> {
        match self {
            Self::Directory => Some(store::tree(name)),
            Self::Overlay => Some(store::upper(name)),
            Self::Image { .. } | Self::Memory => None,
        }
    }

    /// Refuses what cannot have the ids of a user namespace: the kernel maps those of no overlay.
    pub fn can_map_ids(self) -> Result<()> {
        ensure!(self != Self::Overlay, "an overlay cannot have the ids of a user namespace");
        Ok(())
    }
}

/// Refuses a document whose tree cannot have the ids of its user namespace.
pub fn check_ids(doc: &Document) -> Result<()> {
    if ids::has_namespace(doc)? { Storage::of(doc)?.can_map_ids().context("sbx.store") } else { Ok(()) }
}

/// The label that a new file of a document's tree gets, if SELinux is on.
pub fn file_label(doc: &Document) -> Result<Option<String>> {
    let is_labelled = host::runs_selinux() && Storage::of(doc)?.labels_files();
    Ok(doc.read("linux.mountLabel")?.filter(|_| is_labelled))
}

/// Opens the root of a document's tree. Of an image or an overlay it is a mount that is attached nowhere and ends with
/// the descriptor. It is never what a running container sees, in which other things are mounted, but the same file system.
pub fn open(doc: &Document) -> Result<OwnedFd> {
    let path: PathBuf = doc.require("root.path")?;
    let root = match mounted(doc)? {
        Some(mount) => openat(&mount, ".", DIRECTORY, Mode::empty()),
        None => open_path(&path, DIRECTORY, Mode::empty()),
    };
    root.with_context(|| format!("cannot open {}", path.display()))
}

/// The mount of an image or an overlay, attached nowhere. A directory is none.
pub fn mounted(doc: &Document) -> Result<Option<OwnedFd>> {
    let name = doc.name()?;
    let label = || -> Result<Option<String>> { Ok(doc.read("linux.mountLabel")?.filter(|_| host::runs_selinux())) };
    let mount = match Storage::of(doc)? {
        Storage::Directory => return Ok(None),
        Storage::Image { size } => image(&store::image(&name), size),
        Storage::Overlay => overlay(&name, label()?),
        Storage::Memory => memory(label()?),
    };
    mount.map(Some).with_context(|| format!("cannot mount the tree of {name}"))
}

/// What memory is for a root that holds mount points and links alone.
const MEMORY: &str = "1m";

/// Makes an empty root.
fn memory(label: Option<String>) -> Result<OwnedFd> {
    let parameters = [("mode", Some("755".to_owned())), ("size", Some(MEMORY.to_owned()))].into_iter();
    let label = label.map(|label| ("context", Some(label)));
    let parameters: Vec<_> = parameters.chain(label).map(|(key, value)| (key.to_owned(), value)).collect();
    mount::new("tmpfs", Path::new("tmpfs"), &parameters)
}

/// Tries until it succeeds, or patience ends.
fn patiently<T>(path: &Path, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        ensure!(Instant::now() < deadline, "{} is in use", path.display());
        sleep(Duration::from_millis(5));
    }
}

/// Locks an open file, if nobody else has. What is made of the open file, such as a loop device, holds the lock for as
/// long as there is that (flock(2)).
fn lock(file: &File) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        locked => Ok(locked.map(|()| true)?),
    }
}

/// Mounts an image, by the loop device that it has, if any: two devices of one file would destroy what is in it, two mounts
/// of one device are one file system. One that is to be larger grows first; a growth that was cut short is done again.
fn image(path: &Path, size: u64) -> Result<OwnedFd> {
    let open = || File::options().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
    let file = open().with_context(|| format!("cannot open {}", path.display()))?;
    let (device, _open) = patiently(path, || {
        if !lock(&file)? {
            return mount::loop_device_of(&file);
        }
        if file.metadata()?.len() < size {
            file.set_len(size)?;
        }
        if is_smaller(&file)? {
            // It wants a file system that was checked since it was last mounted.
            run("e2fsck", &["-f", "-p"], path, 1)?;
            run("resize2fs", &[], path, 0)?;
        }
        mount::loop_device(&file, false).map(Some)
    })?;
    mount::new("ext4", &device, &[])
}

/// Runs a program of e2fsprogs on an image. Up to `worst` its status is a success.
pub fn run(program: &str, options: &[&str], image: &Path, worst: i32) -> Result<()> {
    let output = Command::new(program).args(options).arg(image).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_done = output.status.code().is_some_and(|code| code <= worst);
    ensure!(is_done, "{program}: {}", said.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(())
}

/// Grows the image of a running container to what the document says, which takes CAP_SYS_RESOURCE.
pub fn grow(doc: &Document) -> Result<()> {
    let Storage::Image { size } = Storage::of(doc)? else { return Ok(()) };
    let path = store::image(&doc.name()?);
    let grow = || -> Result<()> {
        let file = File::options().read(true).write(true).open(&path)?;
        // If it does not succeed the file stays as long as this, and the next mount brings the rest about.
        if file.metadata()?.len() < size {
            file.set_len(size)?;
        }
        if !is_smaller(&file)? {
            return Ok(());
        }
        let (path, device) = mount::loop_device_of(&file)?.context("it is not mounted")?;
        sys::loop_set_capacity(&device)?;
        let root = openat(mount::new("ext4", &path, &[])?, ".", DIRECTORY, Mode::empty())?;
        Ok(sys::ext4_resize(root, size / block_size(&file)?)?)
    };
    grow().with_context(|| format!("cannot grow {}", path.display()))
}

/// A field of the superblock of ext4, which begins at byte 1024 (the kernel's Documentation/filesystems/ext4).
fn superblock(file: &File, offset: u64) -> Result<u32> {
    let mut field = [0; 4];
    file.read_exact_at(&mut field, 1024 + offset).context("it has no superblock")?;
    Ok(u32::from_le_bytes(field))
}

fn block_size(file: &File) -> Result<u64> {
    let log = superblock(file, 24)?;
    ensure!(log <= 6, "it is not an ext4 file system");
    Ok(1024 << log)
}

/// Whether the file system does not fill its file.
fn is_smaller(file: &File) -> Result<bool> {
    let blocks = u64::from(superblock(file, 336)?) << 32 | u64::from(superblock(file, 4)?);
    Ok(blocks < file.metadata()?.len() / block_size(file)?)
}

/// Mounts what is the container's own over its snapshot, unless the running container has that mounted: two overlays of
/// the same directories would not know of each other.
fn overlay(name: &Name, label: Option<String>) -> Result<OwnedFd> {
    let upper = store::upper(name);
    let file = File::open(&upper).with_context(|| format!("cannot open {}", upper.display()))?;
    let mut is_locked = false;
    let running = patiently(&upper, || {
        is_locked = lock(&file)?;
        let running = root_of_running(name)?;
        Ok((running.is_some() || is_locked).then_some(running))
    })?;
    if let Some(root) = running {
        return Ok(root);
    }
    let mount = mount_overlay(name, label)?;
    // Held until this process ends, which has the mount for as long.
    let _ = file.into_raw_fd();
    Ok(mount)
}

/// A mount of the file system that is the root of the running container's mount namespace, without what is mounted on it.
/// None if the container does not run, or has the host's root still.
fn root_of_running(name: &Name) -> Result<Option<OwnedFd>> {
    let Some(doc) = store::kept(name)? else { return Ok(None) };
    let Some(holder) = holder::of(&doc)? else { return Ok(None) };
    let (ours, theirs) = UnixStream::pair()?;
    let Some(child) = sys::fork().context("cannot make a process")? else {
        sys::exit(send_root(&holder, &theirs).is_err().into());
    };
    drop(theirs);
    let root = rights::receive::<1>(&ours, &mut [0]);
    let has_failed = child.wait()? != 0;
    if holder.has_ended()? {
        return Ok(None);
    }
    ensure!(!has_failed, "cannot reach the root of container {name}");
    let (_, mut root) = root?;
    Ok(root.pop())
}

/// In a child: joins the holder's mount namespace, in which this process then has the root that no chroot(2) of the
/// container's own can change, and sends that; nothing, if it is the host's.
fn send_root(holder: &Live, to: &UnixStream) -> Result<()> {
    let identity = || fs::metadata("/").map(|root| (root.dev(), root.ino()));
    let host = identity()?;
    namespace::join(holder, CloneFlags::CLONE_NEWNS)?;
    if identity()? == host {
        return Ok(());
    }
    let root = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    rights::send(to, &[0], [root.as_fd()])?;
    Ok(())
}

/// The directories are given by descriptor: no character in a path of theirs means anything, and nobody inside learns
/// where they are.
fn mount_overlay(name: &Name, label: Option<String>) -> Result<OwnedFd> {
    let directory = |path: PathBuf, flags: OFlags| {
        open_path(&path, flags, Mode::empty()).with_context(|| format!("cannot open {}", path.display()))
    };
    // The snapshot is led to by a link.
    let lower = directory(store::lower(name), DIRECTORY.difference(OFlags::NOFOLLOW))?;
    let (upper, work) = (directory(store::upper(name), DIRECTORY)?, directory(store::work(name), DIRECTORY)?);
    let set = |key: &str, value: String| (key.to_owned(), Some(value));
    let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut parameters = vec![
        set("lowerdir", path(&lower)),
        set("upperdir", path(&upper)),
        set("workdir", path(&work)),
        // Nothing in it depends on where it lies, so that it can be copied, whatever the kernel's defaults are.
        set("redirect_dir", "nofollow".into()),
        set("metacopy", "off".into()),
        set("index", "off".into()),
    ];
    // The snapshot has no container's label: all in the mount has this one.
    parameters.extend(label.map(|label| set("context", label)));
    mount::new("overlay", Path::new("overlay"), &parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_kind_and_perhaps_a_size() {
        let store = |text: &str| text.parse::<Storage>().ok();
        assert_eq!(store("directory"), Some(Storage::Directory));
        assert_eq!(store("overlay"), Some(Storage::Overlay));
        assert_eq!(store("image:1G"), Some(Storage::Image { size: 1 << 30 }));
        assert_eq!(store("image:1"), Some(Storage::Image { size: 8 << 20 }));
        for bad in ["", "image", "image:", "image:0", "image:x", "btrfs", "overlay:1G"] {
            assert_eq!(store(bad), None, "{bad}");
        }
        let of = |text: &str| Storage::of(&Document::parse(text.as_bytes()).expect(text));
        assert_eq!(of(r#"{"sbx":{"name":"a"}}"#).expect("none"), Storage::Directory);
        let text = r#"{"sbx":{"name":"a","store":{"kind":"image","size":5}}}"#;
        assert_eq!(of(text).expect("image"), Storage::Image { size: 5 });
        assert!(of(r#"{"sbx":{"name":"a","store":{"kind":"zip"}}}"#).is_err());
    }
}
