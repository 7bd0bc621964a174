//! What a container's private tree is kept in: a directory, an image file, or an overlay.
//!
//! The last two are mounted where nobody's path leads: by whoever needs the tree, for as long as it needs it, and by
//! the container for its whole life. Nothing of that is left on the host when they end, however they end.

use crate::process::Recorded;
use crate::{Document, Name, Size, host, mount, store, sys};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, major, minor, open as open_path, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
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
}

impl FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("image:")) {
            ("directory", _) => Ok(Self::Directory),
            ("overlay", _) => Ok(Self::Overlay),
            (_, Some(size)) => {
                let size = size.parse::<Size>()?.0.unsigned_abs();
                Ok(Self::Image { size: size.next_multiple_of(IMAGE_UNIT) })
            }
            _ => Err(format!("bad store {text:?}: directory, overlay or image:SIZE")),
        }
    }
}

/// Sizes of images are rounded up to multiples of this many bytes: of a rest that is too small for what a group of blocks
/// needs, ext4 would make nothing.
const IMAGE_UNIT: u64 = 8 << 20;

/// How long a tree that somebody else has mounted is waited for: a step of a pipe may be on its way out.
const PATIENCE: Duration = Duration::from_secs(10);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How the block device of an image is known: loop(4).
const LOOP_MAJOR: u32 = 7;

impl Storage {
    /// What the document says.
    pub fn of(doc: &Document) -> Result<Self> {
        Ok(doc.read("sbx.store")?.unwrap_or_default())
    }

    /// Whether its files have the container's label each: an overlay is mounted with one for all.
    pub fn labels_files(self) -> bool {
        self != Self::Overlay
    }

    /// Where the files of the tree lie on the host, if they lie there while it is not mounted: of an overlay those that
    /// the container has made.
    pub fn files(self, name: &Name) -> Option<PathBuf> {
        match self {
            Self::Directory => Some(store::tree(name)),
            Self::Overlay => Some(store::upper(name)),
            Self::Image { .. } => None,
        }
    }
}

/// Opens the root of a document's tree. Of an image or an overlay it is a mount that is attached nowhere and ends with
/// the descriptor, or the running container's own: two mounts of one file system would destroy it.
pub fn open(doc: &Document) -> Result<OwnedFd> {
    let path: PathBuf = doc.require("root.path")?;
    let root = match opened(doc)? {
        Some(Opened::Running(root)) => Ok(root),
        Some(Opened::Mounted(mount)) => open_root(&mount),
        None => open_path(&path, DIRECTORY, Mode::empty()),
    };
    root.with_context(|| format!("cannot open {}", path.display()))
}

/// The mount of an image or an overlay, to be attached in the container, which has none yet. A directory is none.
pub fn mount(doc: &Document) -> Result<Option<OwnedFd>> {
    match opened(doc)? {
        Some(Opened::Running(_)) => bail!("container {} has a root already", doc.name()?),
        Some(Opened::Mounted(mount)) => Ok(Some(mount)),
        None => Ok(None),
    }
}

/// How the tree of an image or an overlay was reached.
enum Opened {
    Running(OwnedFd),
    Mounted(OwnedFd),
}

fn opened(doc: &Document) -> Result<Option<Opened>> {
    let storage = Storage::of(doc)?;
    let name = doc.name()?;
    let (path, is_written) = match storage {
        Storage::Directory => return Ok(None),
        Storage::Image { .. } => (store::image(&name), true),
        Storage::Overlay => (store::upper(&name), false),
    };
    let file = match alone(&name, File::options().read(true).write(is_written), &path)? {
        Alone::Running(root) => return Ok(Some(Opened::Running(root))),
        Alone::Free(file) => file,
    };
    let mount = match storage {
        Storage::Image { size } => mount_image(&file, &path, size),
        _ => {
            let label: Option<String> = doc.read("linux.mountLabel")?;
            // Held until this process ends, which has the mount for as long.
            let _ = file.into_raw_fd();
            mount_overlay(&name, label.filter(|_| host::runs_selinux()))
        }
    };
    Ok(Some(Opened::Mounted(mount.with_context(|| format!("cannot mount {}", path.display()))?)))
}

/// Whether the tree is mounted already.
enum Alone {
    /// In the running container, whose root this is.
    Running(OwnedFd),
    /// By nobody: this lock keeps others from it.
    Free(File),
}

/// Waits until nobody else has the tree of `name` mounted, but for the container itself. The lock is of the open file:
/// the loop device that is made of it holds it for as long as there is the device (flock(2)).
fn alone(name: &Name, how: &mut fs::OpenOptions, path: &Path) -> Result<Alone> {
    let file = how.custom_flags(nix::libc::O_NOFOLLOW).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let locked = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => false,
            locked => locked.map(|()| true).with_context(|| format!("cannot lock {}", path.display()))?,
        };
        if let Some(root) = root_of_running(name)? {
            return Ok(Alone::Running(root));
        }
        if locked {
            return Ok(Alone::Free(file));
        }
        ensure!(Instant::now() < deadline, "{} is in use", path.display());
        sleep(Duration::from_millis(5));
    }
}

/// The root directory of the container, if it runs and has one of its own already.
fn root_of_running(name: &Name) -> Result<Option<OwnedFd>> {
    let Ok(text) = fs::read(store::running(name)) else { return Ok(None) };
    let recorded: Recorded = Document::parse(&text)?.require("sbx.state.holder")?;
    let Some(holder) = recorded.open()? else { return Ok(None) };
    let root = open_path(format!("/proc/{}/root", holder.pid), DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty());
    // It was the holder's: the pid cannot be another's while the holder lives.
    let (Ok(root), false) = (root, holder.has_ended()?) else { return Ok(None) };
    let id = fstat(&root).map(|stat| (stat.st_dev, stat.st_ino))?;
    let host = fs::metadata("/").context("cannot look at /")?;
    Ok((id != (host.dev(), host.ino())).then_some(root))
}

/// Mounts an image; one that is to be larger grows first. A growth that was cut short is done again.
fn mount_image(file: &File, path: &Path, size: u64) -> Result<OwnedFd> {
    if file.metadata()?.len() < size {
        file.set_len(size)?;
    }
    if is_smaller(file)? {
        // It wants a file system that was checked since it was last mounted.
        run("e2fsck", &["-f", "-p"], path, 1)?;
        run("resize2fs", &[], path, 0)?;
    }
    let (device, _open) = mount::loop_device(file, false)?;
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
    let name = doc.name()?;
    let grow = || -> Result<()> {
        let root = root_of_running(&name)?.context("the container has no root yet")?;
        let file = File::options().read(true).write(true).open(store::image(&name))?;
        let device = fstat(&root)?.st_dev;
        ensure!(major(device) == LOOP_MAJOR, "it is not what the container has as its root");
        let before = file.metadata()?.len();
        if before < size {
            file.set_len(size)?;
        }
        if !is_smaller(&file)? {
            return Ok(());
        }
        let device = File::options().read(true).write(true).open(format!("/dev/loop{}", minor(device)))?;
        sys::loop_set_capacity(&device)?;
        let grown = sys::ext4_resize(&root, size / block_size(&file)?);
        if grown.is_err() {
            file.set_len(before)?;
            sys::loop_set_capacity(&device)?;
        }
        Ok(grown?)
    };
    grow().with_context(|| format!("cannot grow {}", store::image(&name).display()))
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

/// Mounts what is the container's own over its snapshot. The directories are given by descriptor: no character in a path
/// of theirs means anything, and nobody inside learns where they are.
fn mount_overlay(name: &Name, label: Option<String>) -> Result<OwnedFd> {
    let directory = |path: PathBuf, flags: OFlags| {
        open_path(&path, flags, Mode::empty()).with_context(|| format!("cannot open {}", path.display()))
    };
    // The snapshot is led to by a link.
    let lower = directory(store::lower(name), DIRECTORY.difference(OFlags::NOFOLLOW))?;
    let (upper, work) = (directory(store::upper(name), DIRECTORY)?, directory(store::work(name), DIRECTORY)?);
    let path = |fd: &OwnedFd| Some(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let mut parameters =
        vec![("lowerdir".into(), path(&lower)), ("upperdir".into(), path(&upper)), ("workdir".into(), path(&work))];
    // Nothing in it depends on where it lies, so that it can be copied; whatever the kernel's defaults are.
    parameters.extend([set("redirect_dir", "off"), set("metacopy", "off"), set("index", "off")]);
    // The snapshot has no container's label: all in the mount has this one.
    parameters.extend(label.map(|label| ("context".to_owned(), Some(label))));
    mount::new("overlay", Path::new("overlay"), &parameters)
}

/// The root directory of a mount, for more than to look paths up.
fn open_root(mount: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    openat(mount, ".", DIRECTORY, Mode::empty())
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
