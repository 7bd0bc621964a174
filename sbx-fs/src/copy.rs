//! The copy engine: copies parts of one directory tree to the same place in another, so that nobody can tell them
//! apart: kind, content and holes, owner, mode, ACLs and other extended attributes, times, hard links.

use crate::content::Content;
use crate::look::Look;
use crate::parallel::{self, Find, lock};
use crate::progress;
use anyhow::{Context, Result, bail};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, linkat, makedev, mkdirat, mknodat, openat, readlinkat, symlinkat,
};
use rustix::io::Errno;
use sbx::tree::{Id, Node, components};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What the judge is shown of an entry.
#[derive(Debug)]
pub enum Entry<'a> {
    Directory,
    /// Open, as it was when it was looked at.
    File(&'a File, &'a Statx),
    Link(&'a Path),
    Other,
}

/// What the judge says of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is copied; a directory with what is below it.
    Copy,
    /// It is left out; a directory with what is below it.
    Leave,
    /// The file is copied with another content.
    Change(Vec<u8>),
}

/// How much of a directory is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The directory itself.
    Node,
    /// The directory and what is below it.
    Whole,
}

/// How many entries are copied before other threads are asked to help: starting those takes as long as copying a few.
const ALONE: usize = 256;

/// Copies from one root directory to another.
pub struct Copier<J> {
    source: Node,
    target: Node,
    judge: J,
    /// Where the first one of each file with several names went.
    links: Mutex<HashMap<Id, PathBuf>>,
    content: Content,
    /// What the source's root is called.
    root: PathBuf,
    /// What was passed over, and why.
    notes: Mutex<Vec<String>>,
}

/// One directory on the way down: what it was when it was entered, and what of it is still to be copied.
struct Level {
    stat: Statx,
    source: Id,
    target: Id,
    rest: Vec<OsString>,
    /// Each thread that copies entries of it has one of these.
    shared: Arc<()>,
}

impl Level {
    fn of(source: &Node, target: &Node) -> io::Result<Self> {
        let (stat, rest, shared) = (source.stat, source.list()?, Arc::default());
        Ok(Self { stat, source: source.id(), target: target.id(), rest, shared })
    }

    /// Half of what is left, for another thread.
    fn split(&mut self) -> Self {
        let rest = self.rest.split_off(self.rest.len() / 2);
        Self { rest, shared: Arc::clone(&self.shared), ..*self }
    }
}

impl<J: Fn(&Path, &Entry) -> Result<Verdict> + Sync> Copier<J> {
    pub fn new(source: OwnedFd, target: OwnedFd, judge: J) -> Result<Self> {
        let (source, target) = (Node::of(source)?, Node::of(target)?);
        let (links, content, notes) = Default::default();
        Ok(Self { source, target, judge, links, content, root: "/".into(), notes })
    }

    /// Begins all paths that are shown with this one.
    pub fn called(self, root: &Path) -> Self {
        Self { root: root.to_owned(), ..self }
    }

    /// What was passed over, and why.
    pub fn notes(self) -> Vec<String> {
        let mut notes = self.notes.into_inner().unwrap_or_else(PoisonError::into_inner);
        notes.sort();
        notes
    }

    /// Copies `path`, and those of the directories above it that the target does not have yet. Where the source has
    /// nothing there is nothing to copy. The error names the first path that cannot be copied.
    pub fn copy(&self, path: &Path, extent: Extent) -> Result<()> {
        let mut walk = Walk {
            copier: self,
            source: self.source.enter()?,
            target: self.target.enter()?,
            mount: self.source.stat.stx_mnt_id,
            path: self.root.clone(),
            levels: Vec::new(),
            alone: ALONE,
        };
        if walk.reach(path, extent).with_context(|| walk.failed())? { walk.share() } else { Ok(()) }
    }

    /// Copies all that the source has, and dresses the root as it is there.
    pub fn copy_all(&self) -> Result<()> {
        self.copy("/".as_ref(), Extent::Whole)
    }
}

/// One thread's way through a directory and what is below it.
struct Walk<'a, J> {
    copier: &'a Copier<J>,
    /// The directory where it is, on both sides.
    source: Node,
    target: Node,
    /// The mount that it does not leave.
    mount: u64,
    /// What the entry is called at which it is.
    path: PathBuf,
    /// The directories from the one where it began to that one.
    levels: Vec<Level>,
    /// How many entries it copies before it gives any to other threads.
    alone: usize,
}

impl<J: Fn(&Path, &Entry) -> Result<Verdict> + Sync> Walk<'_, J> {
    fn failed(&self) -> String {
        format!("cannot copy {}", self.path.display())
    }

    /// Goes to `path`, and copies it but for what is below it. Whether that is to be walked.
    fn reach(&mut self, path: &Path, extent: Extent) -> Result<bool> {
        let mut names = components(path).peekable();
        while let Some(name) = names.next() {
            let Some(node) = Node::at(&self.source, name)? else { return Ok(false) };
            self.path.push(name);
            if names.peek().is_none() && (extent == Extent::Whole || node.kind() != FileType::Directory) {
                self.mount = node.stat.stx_mnt_id;
                let Some(inner) = self.entry(node, name)? else { return Ok(false) };
                (self.source, self.target) = inner;
                return Ok(true);
            }
            self.source = node.enter()?;
            let (made, is_new) = directory(&self.target, name)?;
            self.target = made;
            if is_new {
                dress(&self.source, &self.target)?;
            }
        }
        Ok(extent == Extent::Whole)
    }

    /// Copies what is below the directory, with other threads if there is much.
    fn share(self) -> Result<()> {
        let failure = OnceLock::new();
        parallel::run(self, |mut walk, find| {
            if let Err(error) = walk.below(find, || failure.get().is_some()) {
                // One is enough.
                let _ = failure.set(error.context(walk.failed()));
            }
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    /// Copies what is below the directory. Each one is dressed after its last entry is made, as that changes its times;
    /// what is made below that entry does not, and may be another thread's.
    fn below(&mut self, find: Find<Self>, is_over: impl Fn() -> bool) -> Result<()> {
        if self.levels.is_empty() {
            self.levels.push(Level::of(&self.source, &self.target)?);
        }
        while let Some(level) = self.levels.last_mut()
            && !is_over()
        {
            if self.alone == 0
                && level.rest.len() > 1
                && let Some(idle) = find()
            {
                let (source, target) = (self.source.enter()?, self.target.enter()?);
                idle.give(Walk { source, target, path: self.path.clone(), levels: vec![level.split()], ..*self });
            }
            self.alone = self.alone.saturating_sub(1);
            if let Some(name) = level.rest.pop() {
                self.path.push(&name);
                // What is gone by now was deleted while we were on our way.
                let inner = match Node::at(&self.source, &name)? {
                    Some(node) if node.id() == self.copier.target.id() => bail!("it is the clone itself"),
                    Some(node) => self.entry(node, &name)?,
                    None => None,
                };
                match inner {
                    Some(inner) => {
                        (self.source, self.target) = inner;
                        self.levels.push(Level::of(&self.source, &self.target)?);
                    }
                    None => _ = self.path.pop(),
                }
            } else if let Some(level) = self.levels.pop() {
                if Arc::into_inner(level.shared).is_some() {
                    self.source.stat = level.stat;
                    dress(&self.source, &self.target)?;
                }
                let Some(above) = self.levels.last() else { break };
                self.source = self.source.leave(above.source)?;
                self.target = self.target.leave(above.target)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    /// Copies one entry, for which the judge is asked. Of a directory that is to be walked, both sides are returned.
    fn entry(&self, node: Node, name: &OsStr) -> Result<Option<(Node, Node)>> {
        let (kind, target) = (node.kind(), &self.target);
        match kind {
            FileType::Directory => {
                if self.leaves(&Entry::Directory)? {
                    return Ok(None);
                }
                let (made, _) = directory(target, name)?;
                if node.stat.stx_mnt_id == self.mount {
                    return Ok(Some((node.enter()?, made)));
                }
                dress(&node, &made)?;
                self.note("is empty in the clone: it is a mount point");
            }
            FileType::RegularFile => self.file(&node, name)?,
            FileType::Symlink => {
                let text = readlinkat(&node, "", Vec::new())?;
                let path = Path::new(OsStr::from_bytes(text.to_bytes()));
                if !self.leaves(&Entry::Link(path))? {
                    self.make(&node, name, || symlinkat(&text, target, name))?;
                }
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                if !self.leaves(&Entry::Other)? {
                    let device = makedev(node.stat.stx_rdev_major, node.stat.stx_rdev_minor);
                    self.make(&node, name, || mknodat(target, name, kind, Mode::RUSR | Mode::WUSR, device))?;
                }
            }
            // Nobody listens on the copy of a socket.
            FileType::Socket => self.note("is not in the clone: it is a socket"),
            FileType::Unknown => bail!("it is of an unknown kind"),
        }
        progress::file();
        Ok(None)
    }

    fn file(&self, node: &Node, name: &OsStr) -> Result<()> {
        let file = node.open()?;
        let made = match (self.copier.judge)(&self.path, &Entry::File(&file, &node.stat))? {
            Verdict::Leave => return Ok(()),
            Verdict::Change(content) => {
                let made = create(&self.target, name)?;
                (&made).write_all(&content)?;
                made
            }
            Verdict::Copy => {
                let Some(made) = self.once(node, name, || create(&self.target, name))? else { return Ok(()) };
                self.copier.content.copy(&file, &made, &node.stat)?;
                made
            }
        };
        Look::at(&node.stat, &file)?.put_on(made)
    }

    fn leaves(&self, entry: &Entry) -> Result<bool> {
        Ok((self.copier.judge)(&self.path, entry)? == Verdict::Leave)
    }

    fn note(&self, text: &str) {
        lock(&self.copier.notes).push(format!("{} {text}", self.path.display()));
    }

    /// Copies what has no content.
    fn make(&self, node: &Node, name: &OsStr, make: impl FnOnce() -> rustix::io::Result<()>) -> Result<()> {
        match self.once(node, name, || Ok(make()?))? {
            Some(()) => dress(node, Node::at(&self.target, name)?.context("it is gone")?),
            None => Ok(()),
        }
    }

    /// Makes an inode; or one more link to it, if it was made already under another name.
    fn once<T>(&self, node: &Node, name: &OsStr, make: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        if node.stat.stx_nlink == 1 {
            return make().map(Some);
        }
        // Until it is made: another thread may have another name of it.
        let mut links = lock(&self.copier.links);
        let Some(first) = links.get(&node.id()) else {
            let made = make()?;
            links.insert(node.id(), self.path.clone());
            return Ok(Some(made));
        };
        let (Some(above), Some(old)) = (first.parent(), first.file_name()) else { bail!("it has no name") };
        let above = Node::beneath(&self.copier.target, above.strip_prefix(&self.copier.root)?)?;
        linkat(above.context("its first name is gone")?, old, &self.target, name, AtFlags::empty())?;
        Ok(None)
    }
}

/// Makes a directory that only we may use until it is dressed, or takes the one that is there.
pub fn directory(parent: &Node, name: &OsStr) -> Result<(Node, bool)> {
    let is_new = match mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => false,
        made => made.map(|()| true)?,
    };
    let node = Node::at(parent, name)?.context("it is gone")?;
    Ok((node.enter()?, is_new))
}

/// Makes a file that only we may use until it is dressed.
pub fn create(parent: impl AsFd, name: &OsStr) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Gives the copy what else its original has.
pub fn dress(source: &Node, target: impl AsFd) -> Result<()> {
    Look::of(source)?.put_on(target)
}

#[cfg(test)]
mod tests;
