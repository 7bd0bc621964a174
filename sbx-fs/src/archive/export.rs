//! Writes a container as an archive.

use super::definition::portable;
use super::{DEFINITION, MANIFEST, ROOT};
use crate::apply::{is_its_own, tree_of};
use crate::content::data_from;
use crate::look::Look;
use crate::manifest::Manifest;
use crate::pax::{Device, EXTENTS, Extent, Member, What, Writer};
use crate::writers;
use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Timespec, readlinkat};
use sbx::tree::{Id, Node, components, walk};
use sbx::{Name, landlock, store};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a file is read by.
const BUFFER: usize = 128 << 10;

/// Writes the archive of `name` to `out`. Returns what there is to say of it.
pub fn export(name: &Name, force: bool, out: impl Write + Send) -> Result<Vec<String>> {
    let doc = store::load(name)?;
    let tree = tree_of(&doc)?;
    let manifest = Manifest::load(name)?;
    if !force {
        writers::refuse(&tree, &["/".as_ref()], is_its_own)?;
    }
    landlock::writing_only_below(&[], || {
        let mut archive =
            Exporter { out: Writer::new(out), links: HashMap::new(), buffer: vec![0; BUFFER], notes: Vec::new() };
        archive.text(DEFINITION, &portable(&doc, name)?.to_line())?;
        archive.text(MANIFEST, &manifest.text())?;
        let mut path = PathBuf::from("/");
        walk(&Node::of(tree)?, &mut path, |node, path| archive.entry(node, path))
            .with_context(|| format!("cannot export {}", path.display()))?;
        archive.out.end()?;
        Ok(archive.notes)
    })
}

struct Exporter<W> {
    out: Writer<W>,
    /// The member that the first one of each file with several names became.
    links: HashMap<Id, PathBuf>,
    buffer: Vec<u8>,
    /// What was passed over, and why.
    notes: Vec<String>,
}

impl<W: Write> Exporter<W> {
    /// A file that is not of the tree.
    fn text(&mut self, name: &str, text: &[u8]) -> Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timespec { tv_sec: now.as_secs().try_into()?, tv_nsec: 0 };
        let look = Look { mode: Some(0o600), uid: 0, gid: 0, accessed: now, modified: now, attributes: Vec::new() };
        self.out.begin(&Member { path: name.into(), look, what: What::file(text.len() as u64) })?;
        self.out.put(text)
    }

    /// An entry of the tree, unless it says who the container is.
    fn entry(&mut self, node: &Node, place: &Path) -> Result<()> {
        if place.ancestors().any(is_its_own) {
            return Ok(());
        }
        if node.kind() == FileType::Socket {
            self.notes.push(format!("{} is not in the archive: it is a socket", place.display()));
            return Ok(());
        }
        let path: PathBuf = [ROOT.as_ref()].into_iter().chain(components(place)).collect();
        let look = Look::of(node)?;
        let stat = &node.stat;
        if !node.is_directory() && stat.stx_nlink > 1 {
            if let Some(first) = self.links.get(&node.id()) {
                return self.out.begin(&Member { path, look, what: What::Link(first.clone()) });
            }
            self.links.insert(node.id(), path.clone());
        }
        let device = |kind| What::Device(kind, stat.stx_rdev_major, stat.stx_rdev_minor);
        let what = match node.kind() {
            FileType::Directory => What::Directory,
            FileType::RegularFile => return self.file(&node.open()?, path, look, stat.stx_size),
            FileType::Symlink => {
                What::Symlink(OsString::from_vec(readlinkat(node, "", Vec::new())?.into_bytes()).into())
            }
            FileType::Fifo => What::Fifo,
            FileType::CharacterDevice => device(Device::Character),
            FileType::BlockDevice => device(Device::Block),
            FileType::Socket | FileType::Unknown => bail!("it is of an unknown kind"),
        };
        self.out.begin(&Member { path, look, what })
    }

    fn file(&mut self, file: &File, path: PathBuf, look: Look, size: u64) -> Result<()> {
        let extents = extents(file, size)?;
        self.out.begin(&Member { path, look, what: What::File(size, extents.clone()) })?;
        for Extent { start, length } in extents {
            let mut at = start;
            while at < start + length {
                let part = &mut self.buffer[..BUFFER.min((start + length - at) as usize)];
                let count = file.read_at(part, at)?;
                // One that became shorter meanwhile is as long as it was all the same, as in a clone.
                part[count..].fill(0);
                let length = if count == 0 { part.len() } else { count };
                self.out.put(&part[..length])?;
                at += length as u64;
            }
        }
        Ok(())
    }
}

/// What of a file is no hole. One with more holes than its map may have has the last ones filled.
fn extents(file: &File, size: u64) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut offset = 0;
    while let Some((start, end)) = data_from(file, offset, size)? {
        let end = if extents.len() + 1 == EXTENTS { size } else { end };
        extents.push(Extent { start, length: end - start });
        offset = end;
    }
    Ok(extents)
}
