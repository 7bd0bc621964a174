//! The private tree: how it is made, and how it goes.

use crate::copy::{Copier, Entry, Verdict, create};
use crate::edit::{Programs, programs};
use crate::manifest::Manifest;
use crate::select::{Selection, Wish};
use crate::{progress, secrets, tree, writers};
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, ResolveFlags, chmodat, mkdirat, open, openat2, symlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use sbx::inner::{IDENTITY, SNAKEOIL_KEY};
use sbx::{Document, Name, host, label, store, tool};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directories of a private tree that are not copied, with their modes: mount points, and what begins empty.
const DIRECTORIES: [(&str, u32); 12] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
];

/// How the root of a tree is opened.
const TREE: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What of a container says who it is, or is to be known to nobody else.
const WHO: [&str; 5] =
    ["etc/machine-id", "etc/hostname", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", SNAKEOIL_KEY];

/// Where journals lie, each under a machine id.
const JOURNALS: &str = "/var/log/journal";

/// The largest file of host names that is read, in bytes: root inside may have made it as large as he likes.
const LARGEST_HOSTS: u64 = 1 << 20;

/// Whether a path of a container's tree is not for its clones.
fn is_its_own(path: &Path) -> bool {
    let beneath = path.strip_prefix("/").unwrap_or(path);
    WHO.iter().any(|own| Path::new(own) == beneath) || path.parent() == Some(Path::new(JOURNALS))
}

/// A private tree that is to be made.
struct Plan {
    name: Name,
    tree: PathBuf,
    hostname: String,
    label: Option<String>,
}

/// Makes the private tree from what is below `host`, the host's root directory, or from another container's, and fills
/// in sbx.clone. Returns what there is to say of it.
pub fn clone(doc: &mut Document, wish: &Wish, host: &Path, act: bool) -> Result<Vec<String>> {
    let name = doc.name()?;
    let plan = Plan {
        tree: vacant(doc)?,
        hostname: doc.read("hostname")?.unwrap_or_else(|| name.hostname()),
        label: doc.read("linux.mountLabel")?,
        name,
    };
    if wish.force {
        doc.set("sbx.clone.force", true)?;
    }
    if let Some(source) = &wish.from {
        let origin = Origin::of(source)?;
        if !wish.force {
            writers::refuse(&origin.tree, &["/".as_ref()], is_its_own)?;
        }
        doc.set("sbx.clone.from", source.as_str())?;
        let work = || plan.carry_out(|target| plan.fill_from_container(&origin, target));
        return if act { progress::during(origin.tree.as_fd(), &["/".into()], work) } else { Ok(Vec::new()) };
    }
    let mut selection = Selection::of(doc, wish, host)?;
    selection.record(doc)?;
    let root = File::open(host).with_context(|| format!("cannot open {}", host.display()))?;
    if !wish.force {
        writers::refuse(&root, &selection.contents(), |_| false)?;
    }
    let paths: Vec<_> = selection.contents().into_iter().chain(["/etc".as_ref()]).map(Path::to_owned).collect();
    let work = || plan.carry_out(|target| plan.fill_from_host(&mut selection, host, target));
    if act { progress::during(root.as_fd(), &paths, work) } else { Ok(Vec::new()) }
}

/// A container whose tree is cloned.
struct Origin {
    tree: OwnedFd,
    hostname: String,
    manifest: Manifest,
}

impl Origin {
    fn of(name: &Name) -> Result<Self> {
        let doc = store::load(name)?;
        Ok(Self {
            tree: tree_of(&doc)?,
            hostname: doc.read("hostname")?.unwrap_or_else(|| name.hostname()),
            manifest: Manifest::load(name)?,
        })
    }
}

/// The private tree of a container that there is.
pub fn tree_of(doc: &Document) -> Result<OwnedFd> {
    let path = store::tree_of(doc)?;
    open(&path, TREE, Mode::empty()).with_context(|| format!("cannot open {}", path.display()))
}

/// The place of the private tree, where nothing may be yet.
fn vacant(doc: &Document) -> Result<PathBuf> {
    let tree = store::tree_of(doc)?;
    match fs::read_dir(&tree) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(tree),
        entries => match entries.with_context(|| format!("cannot read {}", tree.display()))?.next() {
            None => Ok(tree),
            Some(_) => bail!("{} already exists", tree.display()),
        },
    }
}

impl Plan {
    /// Makes the place and the root of the tree, has it filled, and writes its manifest. Returns what there is to say.
    fn carry_out(&self, fill: impl FnOnce(&OwnedFd) -> Result<(Manifest, Vec<String>)>) -> Result<Vec<String>> {
        // What is above the tree only root may pass: setuid programs in it are the container's (CVE-2021-41091).
        let place = store::container(&self.name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&place)
            .with_context(|| format!("cannot make {}", place.display()))?;
        let label = self.label.as_deref().filter(|_| host::runs_selinux());
        let (manifest, notes) = label::making("fscreate", label, || {
            let target = make_root(&self.tree).with_context(|| format!("cannot make {}", self.tree.display()))?;
            let filled = fill(&target)?;
            self.identity(&target)?;
            Ok(filled)
        })?;
        manifest.save(&self.name)?;
        Ok(notes)
    }

    fn fill_from_host(
        &self,
        selection: &mut Selection,
        host: &Path,
        target: &OwnedFd,
    ) -> Result<(Manifest, Vec<String>)> {
        self.skeleton(target, host)?;
        let mut notes = selection.copy(host, target, selection.extent())?;
        notes.extend(selection.secrets.told());
        Ok((Manifest::of(target, &selection.nodes(), |_, _| true)?, notes))
    }

    /// All that the other one has, but for what says who it is.
    fn fill_from_container(&self, origin: &Origin, target: &OwnedFd) -> Result<(Manifest, Vec<String>)> {
        let judge = |path: &Path, entry: &Entry| {
            Ok(match entry {
                _ if is_its_own(path) => Verdict::Leave,
                Entry::File(file) if path == Path::new("/etc/hosts") && file.metadata()?.len() <= LARGEST_HOSTS => {
                    Verdict::Change(renamed(&secrets::read(file, LARGEST_HOSTS)?, &origin.hostname, &self.hostname))
                }
                _ => Verdict::Copy,
            })
        };
        let mut copier = Copier::new(origin.tree.try_clone()?, target.try_clone()?, judge);
        copier.copy_all()?;
        Ok((origin.manifest.clone(), copier.notes))
    }

    /// Who the container is, and that it has no disks: what of it there is not yet.
    fn identity(&self, target: &OwnedFd) -> Result<()> {
        let (machine_id, hostname) = (machine_id()?, &self.hostname);
        let hosts = format!("127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        let contents = [(0o444, machine_id), (0o644, format!("{hostname}\n")), (0o644, hosts), (0o644, String::new())];
        for (path, (mode, content)) in IDENTITY.into_iter().zip(contents) {
            let written = write(target, path, mode, &content);
            if written.as_ref().is_err_and(|error| error.downcast_ref() == Some(&Errno::EXIST)) {
                continue;
            }
            written.with_context(|| format!("cannot write {path} of {}", self.name))?;
        }
        Ok(())
    }

    fn skeleton(&self, target: &OwnedFd, host: &Path) -> Result<()> {
        let make = |name: &str, mode: u32| {
            let mode = Mode::from_raw_mode(mode);
            mkdirat(target, name, mode)?;
            // The mode that a directory is made with is less the umask.
            chmodat(target, name, mode, rustix::fs::AtFlags::empty())
        };
        let context = |name: &str| format!("cannot make {}", self.tree.join(name).display());
        for (name, mode) in DIRECTORIES {
            make(name, mode).with_context(|| context(name))?;
        }
        for found in programs(host)? {
            match found {
                Programs::Link { name, target: text } => {
                    symlinkat(text, target, name).with_context(|| context(name))?
                }
                Programs::Tree { name } => make(name, 0o755).with_context(|| context(name))?,
            }
        }
        Ok(())
    }
}

/// Makes the directory that is the root of a tree, or takes one that is empty.
pub fn make_root(tree: &Path) -> Result<OwnedFd> {
    match fs::create_dir(tree) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let tree = open(tree, TREE, Mode::empty())?;
    rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755))?;
    Ok(tree)
}

/// A text of hosts(5) in which a host has another name.
fn renamed(text: &[u8], from: &str, to: &str) -> Vec<u8> {
    let words = text.split_inclusive(|byte| byte.is_ascii_whitespace());
    words
        .flat_map(|word| {
            let name = word.trim_ascii_end();
            let rest = &word[name.len()..];
            if name == from.as_bytes() { [to.as_bytes(), rest].concat() } else { word.to_vec() }
        })
        .collect()
}

/// A new machine id: 128 random bits, marked as systemd marks them (sd_id128_randomize(3)), as a version 4 UUID.
fn machine_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty()).context("cannot get random bytes")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text + "\n")
}

/// Makes one new file of the tree.
fn write(tree: &OwnedFd, path: &str, mode: u32, content: &str) -> Result<()> {
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { bail!("bad path {}", path.display()) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut file = create(openat2(tree, parent, flags, Mode::empty(), beneath)?, name)?;
    file.write_all(content.as_bytes())?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

/// Removes all that `name` has in the store. Nothing there is a success.
pub fn remove(name: &Name) -> Result<()> {
    let place = store::container(name);
    let parent = place.parent().unwrap_or(&place);
    match open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        parent => {
            let parent = parent.with_context(|| format!("cannot remove {}", place.display()))?;
            tool::all(tree::remove(parent, name.as_str().as_ref(), &place).into_iter().map(Err))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_a_random_version_4_uuid() {
        let (one, two) = (machine_id().expect("id"), machine_id().expect("id"));
        assert_ne!(one, two);
        assert!(one.len() == 33 && one.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()), "{one:?}");
        assert!(one.as_bytes()[12] == b'4' && b"89ab".contains(&one.as_bytes()[16]), "{one:?}");
    }
}
