//! The private tree: how it is made, and how it goes.

use crate::copy::{self, Copier, Entry, Extent, Verdict, create};
use crate::host::{Programs, programs};
use crate::manifest::Manifest;
use crate::select::{Selection, Wish};
use crate::{image, progress, resolvers, secrets, snapshot, tree, writers};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, ResolveFlags, chmodat, mkdirat, open, openat2};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use sbx::inner::{IDENTITY, SNAKEOIL_KEY};
use sbx::storage::{self, Storage};
use sbx::tree::{DIRECTORY, Node};
use sbx::{Document, Name, label, landlock, store, tool};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
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

/// What of a container says who it is, or is to be known to nobody else.
const WHO: [&str; 5] =
    ["etc/machine-id", "etc/hostname", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", SNAKEOIL_KEY];

/// Where journals lie, each under a machine id.
const JOURNALS: &str = "/var/log/journal";

/// The largest file of host names that is read, in bytes: root inside may have made it as large as he likes.
pub const LARGEST_HOSTS: u64 = 1 << 20;

/// Where the names of hosts are, the container's own among them.
pub const HOSTS: &str = "/etc/hosts";

/// Whether a path of a container's tree is not for its clones.
pub fn is_its_own(path: &Path) -> bool {
    let beneath = path.strip_prefix("/").unwrap_or(path);
    WHO.iter().any(|own| Path::new(own) == beneath) || path.parent() == Some(Path::new(JOURNALS))
}

/// A private tree that is to be made.
pub struct Plan {
    doc: Document,
    name: Name,
    storage: Storage,
    pub hostname: String,
}

/// Makes the private tree from what is below `host`, the host's root directory, or from another container's, and fills
/// in sbx.clone. Returns what there is to say of it.
pub fn clone(doc: &mut Document, wish: &Wish, host: &Path, act: bool) -> Result<Vec<String>> {
    let plan = Plan::of(doc)?;
    if wish.force {
        doc.set("sbx.clone.force", true)?;
    }
    if let Some(source) = &wish.from {
        let origin = Origin::of(source)?;
        if !wish.force {
            writers::refuse(&origin.tree, &["/".as_ref()], is_its_own)?;
        }
        doc.set("sbx.clone.from", source.as_str())?;
        return if act { plan.clone_container(&origin) } else { Ok(Vec::new()) };
    }
    if let Some(base) = doc.read::<PathBuf>("sbx.base")? {
        let is_all = wish.packages.is_empty() && wish.secrets.is_empty();
        ensure!(is_all, "a root of its own is cloned whole: packages and secrets are of the host's");
        if !wish.force {
            writers::refuse(open_directory(&base)?, &["/".as_ref()], is_its_own)?;
        }
        doc.set("sbx.clone.copy", true)?;
        return if act { plan.clone_base(&base) } else { Ok(Vec::new()) };
    }
    let selection = Selection::of(doc, wish, host)?;
    selection.record(doc)?;
    if !wish.force {
        writers::refuse(open_directory(host)?, &selection.contents(), |_| false)?;
    }
    if act { plan.clone_host(&selection, host) } else { Ok(Vec::new()) }
}

/// A container whose tree is cloned.
struct Origin {
    doc: Document,
    tree: OwnedFd,
    name: Name,
    hostname: String,
    manifest: Manifest,
}

impl Origin {
    fn of(name: &Name) -> Result<Self> {
        let doc = store::load(name)?;
        let hostname = doc.read("hostname")?.unwrap_or_else(|| name.hostname());
        Ok(Self { tree: tree_of(&doc)?, doc, name: name.clone(), hostname, manifest: Manifest::load(name)? })
    }
}

/// The private tree of a container that there is.
pub fn tree_of(doc: &Document) -> Result<OwnedFd> {
    store::tree_of(doc)?;
    storage::open(doc)
}

impl Plan {
    /// Nothing may be yet where the tree will be.
    pub fn of(doc: &Document) -> Result<Self> {
        let name = doc.name()?;
        let tree = store::tree_of(doc)?;
        let is_empty = match fs::read_dir(&tree) {
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            entries => entries.with_context(|| format!("cannot read {}", tree.display()))?.next().is_none(),
        };
        ensure!(is_empty, "{} already exists", tree.display());
        for path in [store::image(&name), store::upper(&name), store::lower(&name)] {
            ensure!(path.symlink_metadata().is_err(), "{} already exists", path.display());
        }
        let hostname = doc.read("hostname")?.unwrap_or_else(|| name.hostname());
        Ok(Self { storage: Storage::of(doc)?, hostname, name, doc: doc.clone() })
    }

    fn clone_host(&self, selection: &Selection, host: &Path) -> Result<Vec<String>> {
        let root = open_directory(host)?;
        let paths: Vec<_> = selection.contents().into_iter().chain(["/etc".as_ref()]).map(Path::to_owned).collect();
        progress::during(root.as_fd(), &paths, || self.make(|target| self.fill_from_host(selection, host, target)))
    }

    fn clone_base(&self, base: &Path) -> Result<Vec<String>> {
        let source = open_directory(base)?;
        let fill = |target: &OwnedFd| {
            let judge = |path: &Path, _: &Entry| {
                let is_identity = IDENTITY.iter().any(|own| Path::new("/").join(own) == path);
                // The container's own /dev is mounted there.
                let is_device = path.parent() == Some(Path::new("/dev"));
                Ok(if is_identity || is_device || is_its_own(path) { Verdict::Leave } else { Verdict::Copy })
            };
            let copier = Copier::new(source.try_clone()?, target.try_clone()?, judge)?;
            copier.copy_all()?;
            Ok((Manifest::of(target, &[], |_, _| true)?, copier.notes()))
        };
        progress::during(source.as_fd(), &["/".into()], || self.make(fill))
    }

    /// Makes the tree of what `fill` puts into it.
    pub fn make(&self, fill: impl FnOnce(&OwnedFd) -> Result<(Manifest, Vec<String>)> + Send) -> Result<Vec<String>> {
        self.carry_out(|| self.base(), fill)
    }

    /// An overlay gets the same snapshot, and a copy of what lies on it.
    fn clone_container(&self, origin: &Origin) -> Result<Vec<String>> {
        let is_shared = (self.storage, Storage::of(&origin.doc)?) == (Storage::Overlay, Storage::Overlay);
        let source = if is_shared { open_directory(&store::upper(&origin.name))? } else { origin.tree.try_clone()? };
        let base = || {
            if !is_shared {
                return self.base();
            }
            snapshot::share(&origin.name, &self.name)?;
            make_root(&store::upper(&self.name))
        };
        let fill = |target: &OwnedFd| self.fill_from_container(origin, &source, target);
        progress::during(source.as_fd(), &["/".into()], || self.carry_out(base, fill))
    }

    /// Makes the place of the tree and what the tree begins with, has it filled, and writes its manifest. Returns what
    /// there is to say.
    fn carry_out(
        &self,
        base: impl FnOnce() -> Result<OwnedFd>,
        fill: impl FnOnce(&OwnedFd) -> Result<(Manifest, Vec<String>)> + Send,
    ) -> Result<Vec<String>> {
        // What is above the tree only root may pass: setuid programs in it are the container's (CVE-2021-41091).
        let place = store::container(&self.name);
        self.make_place(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let label = storage::file_label(&self.doc)?;
        let (manifest, notes) = label::making("fscreate", label.as_deref(), || {
            let base = base().with_context(|| format!("cannot make the tree of {}", self.name))?;
            let filled = landlock::writing_only_below(&[base.as_fd()], || fill(&base))?;
            self.identity(&self.complete(base)?)?;
            Ok(filled)
        })?;
        manifest.save(&self.name)?;
        Ok(notes)
    }

    /// Makes the directory of the container, or the link to it and then that, so that the link is its record. Another's of
    /// this name is not taken.
    fn make_place(&self, place: &Path) -> Result<()> {
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        let Some(path) = self.doc.read::<PathBuf>("sbx.path")? else { return Ok(private.create(place)?) };
        let elsewhere = store::elsewhere(&path)?.join(self.name.as_str());
        ensure!(elsewhere.symlink_metadata().is_err(), "{} already exists", elsewhere.display());
        private.create(place.parent().unwrap_or(place))?;
        symlink(&elsewhere, place)?;
        let made = private.recursive(false).create(&elsewhere);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
            fs::remove_file(place)?;
        }
        made.with_context(|| elsewhere.display().to_string())
    }

    /// What the content goes to: the tree, or what becomes the snapshot below it.
    fn base(&self) -> Result<OwnedFd> {
        match self.storage {
            Storage::Directory => make_root(&store::tree(&self.name)),
            Storage::Image { size } => {
                image::make(&store::image(&self.name), size)?;
                image::empty(storage::open(&self.doc)?)
            }
            Storage::Overlay => make_root(&snapshot::staged(&self.name)),
            Storage::Memory => bail!("a tree in memory is made when the container starts"),
        }
    }

    /// The tree, once its content is there.
    fn complete(&self, base: OwnedFd) -> Result<OwnedFd> {
        if self.storage == Storage::Directory {
            return Ok(base);
        }
        // Where others may mount it: other runtimes, and an administrator who looks into it.
        make_root(&store::tree(&self.name))?;
        if self.storage != Storage::Overlay {
            return Ok(base);
        }
        // What was cloned from an overlay has its snapshot already.
        if store::lower(&self.name).symlink_metadata().is_err() {
            snapshot::keep(&self.name)?;
        }
        let make = |path: PathBuf| make_root(&path).with_context(|| format!("cannot make {}", path.display()));
        make(store::work(&self.name))?;
        let upper = make(store::upper(&self.name))?;
        // It is the upper one that shows in its root.
        copy::dress(&Node::of(base)?, upper)?;
        storage::open(&self.doc)
    }

    fn fill_from_host(&self, selection: &Selection, host: &Path, target: &OwnedFd) -> Result<(Manifest, Vec<String>)> {
        self.skeleton(target, host)?;
        let mut notes = selection.copy(host, target, selection.extent())?;
        notes.extend(selection.secrets.told());
        Ok((Manifest::of(target, &selection.nodes(), |_, _| true)?, notes))
    }

    /// All that the other one has, but for what says who it is.
    fn fill_from_container(
        &self,
        origin: &Origin,
        source: &OwnedFd,
        target: &OwnedFd,
    ) -> Result<(Manifest, Vec<String>)> {
        let judge = |path: &Path, entry: &Entry| {
            Ok(match entry {
                _ if is_its_own(path) => Verdict::Leave,
                Entry::File(file, stat) if path == Path::new(HOSTS) && stat.stx_size <= LARGEST_HOSTS => {
                    Verdict::Change(renamed(&secrets::read(file, stat)?, &origin.hostname, &self.hostname))
                }
                _ => Verdict::Copy,
            })
        };
        let copier = Copier::new(source.try_clone()?, target.try_clone()?, judge)?;
        copier.copy_all()?;
        Ok((origin.manifest.clone(), copier.notes()))
    }

    /// Who the container is, that it has no disks, and whom it asks for names: what of it there is not yet.
    fn identity(&self, target: &OwnedFd) -> Result<()> {
        let (machine_id, hostname) = (machine_id()?, &self.hostname);
        let hosts = format!("127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        let contents = [
            (0o444, machine_id),
            (0o644, format!("{hostname}\n")),
            (0o644, hosts),
            (0o644, String::new()),
            (0o644, resolvers::of_host("/".as_ref())),
        ];
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
        for (name, mode) in DIRECTORIES {
            self.directory(target, name, mode)?;
        }
        self.programs(target, host)
    }

    /// Makes the names under which the host's programs are found.
    pub fn programs(&self, target: &OwnedFd, host: &Path) -> Result<()> {
        let links = Copier::new(open_directory(host)?, target.try_clone()?, |_: &Path, _: &Entry| Ok(Verdict::Copy))?;
        for found in programs(host)? {
            match found {
                Programs::Link { name, .. } => links.copy(&Path::new("/").join(name), Extent::Node)?,
                Programs::Tree { name } => self.directory(target, name, 0o755)?,
            }
        }
        Ok(())
    }

    fn directory(&self, target: &OwnedFd, name: &str, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        // The mode that a directory is made with is less the umask.
        mkdirat(target, name, mode)
            .and_then(|()| chmodat(target, name, mode, rustix::fs::AtFlags::empty()))
            .with_context(|| format!("cannot make /{name} of {}", self.name))
    }
}

/// Makes the directory that is the root of a tree, or takes one that is empty.
pub fn make_root(tree: &Path) -> Result<OwnedFd> {
    match fs::create_dir(tree) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let tree = open_directory(tree)?;
    rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755))?;
    Ok(tree)
}

/// Opens a directory, which is no link.
pub fn open_directory(path: &Path) -> Result<OwnedFd> {
    open(path, DIRECTORY, Mode::empty()).with_context(|| format!("cannot open {}", path.display()))
}

/// A text of hosts(5) in which a host has another name.
pub fn renamed(text: &[u8], from: &str, to: &str) -> Vec<u8> {
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

/// Removes all that `name` has in the store, and the snapshots that nobody has any more. Nothing there is a success.
pub fn remove(name: &Name) -> Result<()> {
    let place = store::container(name);
    // That of a clone may lie with its source.
    let lower = fs::read_link(store::lower(name)).ok();
    let beside = store::snapshots(name).unwrap_or_else(|_| place.with_file_name(store::SNAPSHOTS));
    let snapshots = lower.as_deref().and_then(Path::parent).unwrap_or(&beside);
    // Kept elsewhere, under its own name: the link goes last, as the record of the rest.
    let elsewhere = fs::read_link(&place).ok().filter(|path| path.ends_with(name.as_str()));
    let above = [Some(place.as_path()), elsewhere.as_deref(), Some(snapshots)].into_iter().flatten();
    let above = above.filter_map(|path| File::open(path.parent()?).ok()).collect::<Vec<_>>();
    landlock::writing_only_below(&above.iter().map(File::as_fd).collect::<Vec<_>>(), || {
        let elsewhere = elsewhere.as_deref().map_or(Ok(()), tree::remove_at);
        tool::all([elsewhere.and_then(|()| tree::remove_at(&place)), snapshot::remove_unused(snapshots)])
    })
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
