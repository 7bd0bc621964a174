//! Builds the container's file system in the holder's mount namespace.
//!
//! Everything that comes from the host is opened before its mounts are left, and held by descriptor from then on;
//! everything inside is reached beneath the descriptor of the new root. No path of the container's is ever resolved by a
//! process that could reach a file of the host's through it. An ordinary user may open it only once he has joined the
//! container's: until the root is replaced the mounts there are those of the host.

mod file_system;
mod plan;
mod root;
mod verify;

use crate::edit::Wish;
use crate::extra::Extra;
use crate::host::Host;
use anyhow::{Context, Error, Result, bail, ensure};
use file_system::FileSystem;
use nix::sched::CloneFlags;
use plan::{Attributes, Bind, Image, Kernel, Mount, Plan, ReadOnly, Source};
use root::{Mask, Root};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, makedev, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use sbx::ids::Ids;
use sbx::mount::Opening;
use sbx::namespace::NOBODYS;
use sbx::process::{self, Live};
use sbx::procfs::Procfs;
use sbx::{Document, namespace, rootless, storage, sys};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What is wanted of the host whatever the document says.
#[derive(Debug)]
pub struct Here {
    /// What a layout takes from it.
    pub host: Host,
    kernel: Kernel,
    procfs: Procfs,
    nobody: Option<OwnedFd>,
}

impl Here {
    /// Looks around, and makes the ids of mounts that are nobody's inside, if some are wished for.
    pub fn look(wish: Option<&Wish>) -> Result<Self> {
        process::boot_id()?;
        let procfs = Procfs::open()?;
        let has_nobodys = wish.is_some_and(|wish| wish.mounts.iter().any(Extra::is_nobodys));
        let nobody = has_nobodys.then(|| namespace::unused_users(&procfs, NOBODYS)).transpose()?;
        Ok(Self { host: Host::at("/".as_ref())?, kernel: Kernel::here(), procfs, nobody })
    }
}

/// Mounts what the document asks for, and makes it the root of the container. Returns what is no longer needed, but takes
/// time to close, as the kernel makes wait for a mount that is attached nowhere.
pub fn mount(doc: &Document, here: Here, act: bool) -> Result<Procfs> {
    let name = doc.name()?;
    let Here { host, kernel, procfs, mut nobody } = here;
    let plan = Plan::of(doc, &kernel, &host)?;
    let is_nobodys = |mount: &Mount| matches!(&mount.source, Source::Bind(Bind { nobodys: true, .. }));
    if nobody.is_none() && plan.mounts.iter().any(is_nobodys) {
        nobody = Some(namespace::unused_users(&procfs, NOBODYS)?);
    }
    if !act {
        Opened::open(doc, &plan, None, nobody.as_ref())?;
        return plan.mounts.iter().try_for_each(check).map(|()| procfs);
    }
    let holder = sbx::holder::of(doc)?.with_context(|| format!("container {name} is not running"))?;
    let mounted = mount_inside(doc, &plan, nobody.as_ref(), &holder, &procfs);
    // Whatever else was in the way.
    ensure!(!holder.has_ended()?, "container {name} has ended");
    mounted.map(|()| procfs)
}

/// Opens what is the host's, and builds of it what the plan has, in the namespaces of the container.
fn mount_inside(doc: &Document, plan: &Plan, nobody: Option<&OwnedFd>, holder: &Live, procfs: &Procfs) -> Result<()> {
    let users = plan.ids.map(|_| namespace::users(holder, procfs)).transpose()?;
    // All are joined, since each file system shows the processes, interfaces or cgroups of whoever mounts it: these two
    // whatever the document says.
    let all = namespace::flags(doc)? | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let (first, rest) = if rootless::is_rootless(doc)? {
        // In the user namespace an ordinary user may do what is still to be done.
        (all | CloneFlags::CLONE_NEWUSER, CloneFlags::empty())
    } else {
        (CloneFlags::CLONE_NEWPID, all - CloneFlags::CLONE_NEWPID - CloneFlags::CLONE_NEWUSER)
    };
    join(holder, first, procfs)?;
    let begun = plan.mounts.iter().map(begin).collect::<Result<Vec<_>>>()?;
    let opened = Opened::open(doc, plan, users.as_ref(), nobody)?;
    join(holder, rest, procfs)?;
    build(plan, opened, begun, holder, procfs)
}

/// What the container gets from the host: mounts of its own, attached nowhere yet.
struct Opened<'a> {
    root: OwnedFd,
    contents: Vec<Content<'a>>,
    /// What masks a file: the null device, if anything is to be masked.
    null: Option<OwnedFd>,
}

/// What is to be mounted at one place of the plan.
enum Content<'a> {
    /// Opened, and how far it is read-only.
    Tree(OwnedFd, ReadOnly),
    /// To be opened inside, once it is there.
    Inside(&'a Bind),
    /// Configured, which the kernel has understood; to be made inside.
    FileSystem(&'a FileSystem, OwnedFd),
    /// To be configured inside too, since it shows the namespaces in which it is.
    Shown(&'a FileSystem),
}

impl<'a> Opened<'a> {
    /// With the ids of a user namespace, if there is one: what comes from the host keeps its owners on disk, and has them
    /// inside.
    fn open(doc: &Document, plan: &'a Plan, users: Option<&OwnedFd>, nobody: Option<&OwnedFd>) -> Result<Self> {
        let open = || match storage::mounted(doc)? {
            Some(root) => plan.root.attributes.apply(&root, 0).and_then(|()| with_ids(root, users)),
            None => with_ids(bind(&plan.root, ResolveFlags::empty())?, users),
        };
        let root = open().with_context(|| format!("cannot open the root {}", plan.root.path.display()))?;
        let content = |mount: &'a Mount| {
            match &mount.source {
                Source::Bind(source) => {
                    // A device node stays the host's, and nobody's inside.
                    let users = users.filter(|_| source.device.is_none());
                    let users = if source.nobodys { nobody } else { users };
                    let tree = bind(source, NO_LINKS).and_then(|tree| with_ids(tree, users));
                    tree.map(|tree| Content::Tree(tree, source.attributes.read_only()))
                }
                Source::Image(source) => image(source)
                    .and_then(|tree| with_ids(tree, users))
                    .map(|tree| Content::Tree(tree, source.attributes.read_only())),
                Source::Inside(source) => Ok(Content::Inside(source)),
                Source::FileSystem(source) if source.shows_namespaces => Ok(Content::Shown(source)),
                Source::FileSystem(source) => source.configure().map(|context| Content::FileSystem(source, context)),
            }
            .with_context(|| format!("cannot mount {mount}"))
        };
        let contents = plan.mounts.iter().map(content).collect::<Result<_>>()?;
        let null = (!plan.masked.is_empty()).then(|| bind(&Bind::null(), NO_LINKS)).transpose();
        let null = null.context("cannot open /dev/null")?;
        Ok(Self { root, contents, null })
    }
}

/// Tries out what is configured later.
fn check(mount: &Mount) -> Result<()> {
    match &mount.source {
        Source::FileSystem(source) if source.shows_namespaces => {
            source.configure().map(drop).with_context(|| format!("cannot mount {mount}"))
        }
        _ => Ok(()),
    }
}

/// No link leads to what is mounted: a container that may write a directory of the host's would lead it anywhere.
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// A copy of a mount of the host's, with its attributes set before anybody can reach it, and private: what is mounted
/// on the host later would arrive writable.
fn bind(source: &Bind, resolve: ResolveFlags) -> Result<OwnedFd> {
    let place = match openat2(CWD, &source.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(Errno::LOOP) => bail!("a symbolic link is in the way to {}: give the path without", source.path.display()),
        place => place?,
    };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, source.recursive);
    let tree = open_tree(place, "", flags)?;
    if let Some((major, minor)) = source.device {
        // What is looked at is what is mounted: nobody can put another file there in between (CVE-2025-31133).
        let stat = fstat(&tree)?;
        let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        ensure!(device && stat.st_rdev == makedev(major, minor), "it is not the character device {major}:{minor}");
    }
    if source.recursive {
        source.attributes.apply(&tree, nix::libc::MS_PRIVATE)?;
    } else {
        source.attributes.apply_to_top(&tree, nix::libc::MS_PRIVATE)?;
    }
    Ok(tree)
}

/// Those of the host's directories whose mounts cannot have the ids of a user namespace, and why. It is tried: only the
/// file systems know.
pub fn without_ids(directories: &[PathBuf]) -> Result<Vec<(PathBuf, Error)>> {
    let users = namespace::unused_users(&Procfs::open()?, Ids::map(u32::from(u16::MAX), 1).as_bytes())?;
    let refused = directories.iter().filter_map(|path| {
        let source = Bind::tree(path.clone(), Attributes::default());
        let tree = bind(&source, ResolveFlags::empty()).and_then(|tree| with_ids(tree, Some(&users)));
        tree.err().map(|error| (path.clone(), error))
    });
    Ok(refused.collect())
}

/// The mount with the ids of a user namespace, if there is one.
fn with_ids(tree: OwnedFd, users: Option<&OwnedFd>) -> Result<OwnedFd> {
    let mapped = users.map_or(Ok(()), |users| sys::mount_id_map(&tree, users));
    match mapped {
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
            bail!("its file system, or one that is mounted below it, cannot have the ids of a user namespace")
        }
        mapped => mapped.map(|()| tree).context("cannot map its ids"),
    }
}

/// The file systems that an image is tried for: those on block devices that are in common use.
const ON_IMAGES: [&str; 6] = ["ext4", "xfs", "btrfs", "squashfs", "iso9660", "vfat"];

/// Mounts the file system in a file of the host's, which nobody else writes meanwhile: two mounts of one would destroy
/// it. The loop device holds the lock as long as it has the file (flock(2)).
fn image(Image { path, kind, label, attributes }: &Image) -> Result<OwnedFd> {
    let is_read_only = attributes.read_only() != ReadOnly::No;
    let access = if is_read_only { OFlags::RDONLY } else { OFlags::RDWR };
    // Not blocked by what is no file.
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat2(CWD, path, flags, Mode::empty(), NO_LINKS)?);
    ensure!(file.metadata()?.is_file(), "it is no file");
    let lock =
        if is_read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match flock(&file, lock) {
        Err(Errno::WOULDBLOCK) => bail!("it is in use"),
        locked => locked?,
    }
    let (device, _open) = sbx::mount::loop_device(&file, is_read_only)?;
    let mut parameters: Vec<_> = is_read_only.then(|| ("ro".to_owned(), None)).into_iter().collect();
    // What is in it comes from elsewhere, and has no label of the container's.
    parameters.extend(label.clone().map(|label| ("context".to_owned(), Some(label))));
    let kinds: Vec<&str> = kind.as_ref().map_or(ON_IMAGES.to_vec(), |kind| vec![kind]);
    let is_another = |error: &Error| matches!(error.downcast_ref(), Some(&(Errno::INVAL | Errno::NODEV)));
    let mut reasons = Vec::new();
    for kind in &kinds {
        match sbx::mount::new(kind, &device, &parameters) {
            Ok(tree) => {
                attributes.apply(&tree, 0)?;
                return Ok(tree);
            }
            Err(error) if is_another(&error) => {}
            Err(error) => reasons.push(format!("; as {kind}: {error:#}")),
        }
    }
    bail!("it holds no file system of {}{}", kinds.join(", "), reasons.concat())
}

/// Enters namespaces of the container, the PID namespace for children only. Refuses a root that has been replaced already: the
/// container may run.
fn join(holder: &Live, flags: CloneFlags, procfs: &Procfs) -> Result<()> {
    let root = procfs.identity("self/root")?;
    namespace::join(holder, flags)?;
    if procfs.identity("self/root")? != root {
        bail!("the root of process {} has been replaced already", holder.pid);
    }
    Ok(())
}

/// What a child begins to open, while this process opens the rest.
fn begin(mount: &Mount) -> Result<Option<Opening>> {
    match &mount.source {
        Source::FileSystem(source) => source.begin().with_context(|| format!("cannot mount {mount}")),
        _ => Ok(None),
    }
}

/// Mounts everything in the order in which the document has it, and what is read-only or masked on top.
fn build(plan: &Plan, opened: Opened<'_>, begun: Vec<Option<Opening>>, holder: &Live, procfs: &Procfs) -> Result<()> {
    let mut root = Root::attach(opened.root)?;
    if let Some(ids) = plan.ids {
        namespace::make_files_as(ids)?;
    }
    for (path, target) in &plan.first_links {
        root.link(path, target)?;
    }
    for ((mount, content), begun) in plan.mounts.iter().zip(opened.contents).zip(begun) {
        match content {
            Content::Tree(tree, read_only) => root.bind(&mount.destination, &tree, read_only).map(drop),
            Content::Inside(source) => root.bind_inside(&mount.destination, source),
            Content::FileSystem(file_system, context) => root.make(&mount.destination, file_system, &context),
            Content::Shown(file_system) => file_system
                .configure_inside(begun)
                .and_then(|context| root.make(&mount.destination, file_system, &context)),
        }
        .with_context(|| format!("cannot mount {mount}"))?;
    }
    for (path, target) in &plan.links {
        root.link(Path::new(path), Path::new(target))?;
    }
    root.complete(plan.read_only_root)?;
    for path in &plan.read_only {
        root.make_read_only(path).with_context(|| format!("cannot make {} read-only", path.display()))?;
    }
    if let Some(null) = opened.null {
        let mut mask = Mask::new(null, &plan.empty);
        for path in &plan.masked {
            root.mask(path, &mut mask).with_context(|| format!("cannot mask {}", path.display()))?;
        }
    }
    root.pivot()?;
    // A holder that stayed outside would be a way out (CVE-2024-21626).
    for place in ["root", "cwd"] {
        let place = format!("{}/{place}", holder.pid);
        ensure!(procfs.identity(&place)? == procfs.identity("self/root")?, "/proc/{place} is not the container's root");
    }
    match verify::writable(&procfs.mounts()?, root.read_only()) {
        Some(point) => bail!("{} was to be read-only and is not", point.display()),
        None => Ok(()),
    }
}
