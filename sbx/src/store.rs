//! Where things lie on disk. Every place is derived from a container's name.

use crate::{Document, Name};
use anyhow::{Context, Result, bail, ensure};
use nix::libc;
use nix::unistd::Uid;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A root directory: the environment's, for tests and for use without root, or the built-in one.
fn root(variable: &str, built_in: &str) -> PathBuf {
    env::var_os(variable).filter(|value| !value.is_empty()).unwrap_or_else(|| built_in.into()).into()
}

/// Definitions: `/etc/sbx`, or `SBX_CONFIG_DIR`.
pub fn config_dir() -> PathBuf {
    root("SBX_CONFIG_DIR", "/etc/sbx")
}

/// One container's definition.
pub fn definition(name: &Name) -> PathBuf {
    config_dir().join(format!("{name}.json"))
}

/// The definition of a container that there is.
pub fn load(name: &Name) -> Result<Document> {
    let path = definition(name);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("no container {name}"),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    Document::parse(&text).with_context(|| path.display().to_string())
}

/// Private trees and claims: `/var/lib/sbx`, or `SBX_STATE_DIR`.
pub fn state_dir() -> PathBuf {
    root("SBX_STATE_DIR", "/var/lib/sbx")
}

/// What is valid for this boot: `/run/sbx`, or `SBX_RUNTIME_DIR`.
pub fn runtime_dir() -> PathBuf {
    root("SBX_RUNTIME_DIR", "/run/sbx")
}

/// The host's own systemd units: `/etc/systemd/system`, or `SBX_UNIT_DIR`.
pub fn unit_dir() -> PathBuf {
    root("SBX_UNIT_DIR", "/etc/systemd/system")
}

/// The host's own journals: `/var/log/journal`, or `SBX_JOURNAL_DIR`.
pub fn journal_dir() -> PathBuf {
    root("SBX_JOURNAL_DIR", "/var/log/journal")
}

/// Makes a directory of ours, with those above it: the caller's alone. One that is there is left as it is.
pub fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Waits until nobody else has a directory locked, and keeps others from it as long as the file is open (flock(2)).
pub fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// The directory of one container's private tree, its manifest and its log; or a link to it, if it is kept elsewhere.
pub fn container(name: &Name) -> PathBuf {
    containers().join(name.as_str())
}

/// All of them.
pub fn containers() -> PathBuf {
    state_dir().join("containers")
}

/// A directory that containers can be kept in elsewhere. Who else could change it, or what leads there, would have his
/// own in the place of a container's.
pub fn elsewhere(path: &Path) -> Result<PathBuf> {
    let place = path.canonicalize().with_context(|| format!("cannot keep a container in {}", path.display()))?;
    check_owner(&place).with_context(|| format!("cannot keep a container in {}", place.display()))?;
    Ok(place)
}

/// Refuses a directory that others than root and the caller could change, or have another in the place of.
pub fn check_owner(directory: &Path) -> Result<()> {
    for above in directory.ancestors() {
        let there = fs::metadata(above).with_context(|| format!("cannot look at {}", above.display()))?;
        let (mode, sticky) = (there.mode(), there.mode() & 0o1000 != 0 && above != directory);
        let is_safe = there.is_dir() && is_trusted(there.uid()) && (mode & 0o022 == 0 || sticky);
        ensure!(is_safe, "others can change {}", above.display());
    }
    Ok(())
}

/// Whether what this user owns is believed: root, or who runs this.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == Uid::effective().as_raw()
}

/// One container's private tree, laid out as its root directory.
pub fn tree(name: &Name) -> PathBuf {
    container(name).join("root")
}

/// The image file of a container whose tree is kept in one.
pub fn image(name: &Name) -> PathBuf {
    container(name).join("root.img")
}

/// The snapshots that overlays lie on, each under the digest of all that is in it: beside the containers that there are
/// at one place, so that a tree becomes one by its name alone. No container's name begins with a dot.
pub fn snapshots(name: &Name) -> io::Result<PathBuf> {
    Ok(fs::canonicalize(container(name))?.with_file_name(SNAPSHOTS))
}

/// How their directory is called.
pub const SNAPSHOTS: &str = ".snapshots";

/// The link to the snapshot under a container's overlay.
pub fn lower(name: &Name) -> PathBuf {
    container(name).join("lower")
}

/// What a container's overlay has that its snapshot has not.
pub fn upper(name: &Name) -> PathBuf {
    container(name).join("upper")
}

/// What the kernel needs beside it.
pub fn work(name: &Name) -> PathBuf {
    container(name).join("work")
}

/// What of the host was cloned into a container's private tree.
pub fn manifest(name: &Name) -> PathBuf {
    container(name).join("manifest")
}

/// The private tree that a document's root is, which can be at one place only: no other would be found by `remove`.
pub fn tree_of(doc: &Document) -> Result<PathBuf> {
    let (name, wanted) = (doc.name()?, doc.require::<PathBuf>("root.path")?);
    let tree = tree(&name);
    ensure!(
        wanted == tree,
        "root.path is {}, but the tree of {name} can only be at {}",
        wanted.display(),
        tree.display()
    );
    Ok(tree)
}

/// One container's runtime directory.
pub fn runtime(name: &Name) -> PathBuf {
    runtime_dir().join(name.as_str())
}

/// The running document: the definition and `sbx.state`.
pub fn running(name: &Name) -> PathBuf {
    runtime(name).join("document.json")
}

/// The running document that is kept of a container, if there is one. What others could have written would
/// lead to a process of theirs (CVE-2022-31214).
pub fn kept(name: &Name) -> Result<Option<Document>> {
    let path = running(name);
    let shown = || path.display().to_string();
    let mut file = match File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let stat = file.metadata().with_context(shown)?;
    ensure!(
        stat.is_file() && is_trusted(stat.uid()) && stat.mode() & 0o022 == 0,
        "{}: others can change it",
        path.display()
    );
    check_owner(&runtime(name).canonicalize().with_context(shown)?).with_context(shown)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    Document::parse(&bytes).map(Some).with_context(shown)
}

/// The socket by which the holder takes its orders.
pub fn control(name: &Name) -> PathBuf {
    runtime(name).join("control")
}

/// There once the container is ready.
pub fn ready(name: &Name) -> PathBuf {
    runtime(name).join("ready")
}

/// What is in a directory; nothing, if there is none.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read {}", directory.display());
    match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>())
            .with_context(failed),
    }
}
