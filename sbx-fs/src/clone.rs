//! Clones any directory tree, without a document.

use crate::copy::{Copier, Entry, Verdict};
use crate::look::undress;
use crate::writers::Writers;
use crate::{progress, tree};
use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, mkdirat, open, renameat};
use rustix::io::Errno;
use sbx::landlock;
use sbx::tree::Node;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// How a directory that was named is opened: links on the way to it are followed.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes `destination` a clone of the directory `source`. Returns what there is to say of it.
pub fn clone(source: &Path, destination: &Path, force: bool) -> Result<Vec<String>> {
    let from = directory(source)?;
    let place = Place::of(destination)?;
    ensure!(!place.is_within(&from)?, "{} is in {}", destination.display(), source.display());
    let writers = if force { None } else { Some(Writers::now()?) };
    let judge = |_: &Path, entry: &Entry| {
        if let (Entry::File(_, stat), Some(writers)) = (entry, &writers) {
            writers.refuse(stat)?;
        }
        Ok(Verdict::Copy)
    };
    let copy = |to| {
        undress(&to)?;
        let copier = Copier::new(from.as_fd().try_clone_to_owned()?, to, judge)?.called(source);
        copier.copy_all()?;
        Ok(copier.notes())
    };
    let copy = |to: OwnedFd| landlock::writing_only_below(&[to.try_clone()?.as_fd()], || copy(to));
    progress::during(from.as_fd(), &["/".into()], || place.fill(copy))
}

fn directory(path: &Path) -> Result<Node> {
    let opened = open(path, DIRECTORY, Mode::empty()).map_err(Into::into).and_then(Node::of);
    opened.with_context(|| format!("cannot open {}", path.display()))
}

/// Where the clone is to be.
struct Place<'a> {
    path: &'a Path,
    kind: Kind,
    /// The empty directory, or the one that the new one will be in.
    dir: Node,
}

enum Kind {
    /// A directory that is there, filled in place: it may be a mount point.
    Empty,
    /// A name that nothing has. The clone has the other name until it is whole: who finds that knows what it is.
    New { name: OsString, until: OsString },
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            let dir = directory(path)?;
            // Two that fill it would each take what the other has made for theirs.
            match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => bail!("{} is in use: another clone is being made there", path.display()),
                locked => locked.with_context(|| format!("cannot lock {}", path.display()))?,
            }
            let names = dir.list().with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(names.is_empty(), "{} is not empty", path.display());
            return Ok(Self { path, kind: Kind::Empty, dir });
        }
        let Some(name) = path.file_name() else { bail!("{} is no name for a directory", path.display()) };
        let until = [OsStr::new("."), name, OsStr::new(".sbx-new")].into_iter().collect();
        let dir = match path.parent() {
            Some(above) if above != Path::new("") => directory(above)?,
            _ => directory(".".as_ref())?,
        };
        Ok(Self { path, kind: Kind::New { name: name.to_owned(), until }, dir })
    }

    /// Whether the way through `source` leads here. It leads into no other mount.
    fn is_within(&self, source: &Node) -> Result<bool> {
        let mut here = Node::of(self.dir.as_fd().try_clone_to_owned()?)?;
        while here.stat.stx_mnt_id == source.stat.stx_mnt_id {
            let above = here.above()?;
            if here.id() == source.id() {
                return Ok(true);
            }
            if above.id() == here.id() {
                break;
            }
            here = above;
        }
        Ok(false)
    }

    /// Has the clone made. If that fails nothing of it stays.
    fn fill<T>(&self, fill: impl FnOnce(OwnedFd) -> Result<T>) -> Result<T> {
        let root = self.root()?;
        let filled = fill(root).and_then(|filled| self.finish().map(|()| filled));
        filled.map_err(|error| self.undo(error))
    }

    /// The directory to fill.
    fn root(&self) -> Result<OwnedFd> {
        let Kind::New { until, .. } = &self.kind else { return Ok(self.dir.as_fd().try_clone_to_owned()?) };
        let path = self.path.with_file_name(until);
        match mkdirat(&self.dir, until, Mode::RWXU) {
            Err(Errno::EXIST) => bail!("{} already exists: a clone is being made, or was cut short", path.display()),
            made => made.with_context(|| format!("cannot make {}", path.display()))?,
        }
        let made = Node::at(&self.dir, until)?.with_context(|| format!("{} is gone", path.display()))?;
        Ok(made.enter()?.into())
    }

    fn finish(&self) -> Result<()> {
        let Kind::New { name, until } = &self.kind else { return Ok(()) };
        // Of what may have that name by now this replaces only an empty directory.
        renameat(&self.dir, until, &self.dir, name).with_context(|| format!("cannot make {}", self.path.display()))
    }

    /// Removes what was made. What cannot be removed is told along with the error.
    fn undo(&self, error: Error) -> Error {
        let (names, at) = match &self.kind {
            Kind::Empty => (self.dir.list().unwrap_or_default(), self.path.to_owned()),
            Kind::New { until, .. } => (vec![until.clone()], self.path.with_file_name("")),
        };
        let remove = |name: &OsString| match self.dir.as_fd().try_clone_to_owned() {
            Ok(dir) => tree::remove(dir, name, &at.join(name)),
            Err(error) => vec![error.into()],
        };
        names.iter().flat_map(remove).fold(error, |all, next| anyhow!("{all:#}; {next:#}"))
    }
}
