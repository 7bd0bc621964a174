//! Makes a container's tree of an archive that may be anybody's (docs/decisions/0017-import-trusts-nothing.md).

use super::definition::portable;
use super::{DEFINITION, MANIFEST, place};
use crate::apply::{HOSTS, LARGEST_HOSTS, Plan, is_its_own, renamed};
use crate::copy::{create, directory};
use crate::edit;
use crate::extra::Extra;
use crate::host::is_programs;
use crate::look::Look;
use crate::manifest::Manifest;
use crate::pax::{Device, Extent, Member, Reader, What};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FileType, Mode, ftruncate, linkat, makedev, mknodat, symlinkat};
use sbx::tool::Status;
use sbx::tree::Node;
use sbx::{Document, Name};
use serde_json::json;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The largest definition and the largest manifest, in bytes.
const LARGEST: [u64; 2] = [1 << 20, 64 << 20];

/// The most directories that may lie in each other, and the longest path, in bytes: of each on the way to a member it is
/// known how it will look.
const DEEPEST: usize = 1024;
const LONGEST: usize = 256 << 10;

/// What a file is written by.
const BUFFER: usize = 128 << 10;

/// Makes the tree of `name`, kept as it is wished, from an archive. Returns the document that it begins, and what there
/// is to say.
pub fn import(
    name: &Name,
    wish: &edit::Wish,
    devices: bool,
    mut input: impl BufRead + Send,
) -> Result<(Document, Vec<String>)> {
    if input.fill_buf().context("cannot read stdin")?.is_empty() {
        // Whoever was to write it has failed, and has spoken.
        return Err(Status { code: 1, message: None }.into());
    }
    let mut archive = Reader::new(input);
    let definition = text(&mut archive, DEFINITION, LARGEST[0])?;
    let definition = Document::parse(&definition).and_then(|doc| Ok((portable(&doc, name)?, doc.name()?)));
    let (mut doc, origin) = definition.context(DEFINITION)?;
    let manifest = Manifest::parse(&text(&mut archive, MANIFEST, LARGEST[1])?).context(MANIFEST)?;
    let mut notes = leave_out_mounts(&mut doc)?;

    edit::keep(&mut doc, wish, false)?;
    let plan = Plan::of(&doc)?;
    let origin = doc.read("hostname")?.unwrap_or_else(|| origin.hostname());
    let names = [origin.as_str(), &plan.hostname];
    let shares_programs = doc.get("sbx.base").is_none();
    notes.extend(plan.make(|tree| {
        if shares_programs {
            plan.programs(tree, "/".as_ref())?;
        }
        unpack(archive, tree, &Terms { shares_programs, devices, names })?;
        Ok((manifest, Vec::new()))
    })?);
    Ok((doc, notes))
}

/// What is taken of an archive.
pub struct Terms<'a> {
    /// Whether the programs are this host's, and not the archive's.
    pub shares_programs: bool,
    /// Whether device nodes are made.
    pub devices: bool,
    /// How the container was called, and is.
    pub names: [&'a str; 2],
}

/// Fills a tree with the members of an archive that come after the first two.
pub fn unpack(archive: Reader<impl BufRead>, tree: &OwnedFd, terms: &Terms) -> Result<()> {
    Importer { archive, tree, terms, open: Vec::new(), buffer: vec![0; BUFFER] }.all()
}

/// The text of the next member, which is to be this one.
fn text(archive: &mut Reader<impl BufRead>, name: &str, most: u64) -> Result<Vec<u8>> {
    let member = archive.member()?.with_context(|| format!("the archive has no {name}"))?;
    ensure!(place::is(&member.path, name), "{} is where the archive was to have {name}", member.path.display());
    ensure!(member.what.is_plain(most), "{name} is no file of up to {most} bytes");
    archive.all(most).with_context(|| name.to_owned())
}

/// What shows something at another place, only the administrator of this host can give.
fn leave_out_mounts(doc: &mut Document) -> Result<Vec<String>> {
    let mounts: Vec<Extra> = doc.read("sbx.mounts")?.unwrap_or_default();
    let (memory, others): (Vec<_>, Vec<_>) = mounts.into_iter().partition(Extra::is_memory);
    if memory.is_empty() {
        doc.unset("sbx.mounts")
    } else {
        doc.set("sbx.mounts", json!(memory))?
    }
    Ok(others.iter().map(|mount| format!("left out, unless --mount gives it again: {mount}")).collect())
}

struct Importer<'a, R> {
    archive: Reader<R>,
    tree: &'a OwnedFd,
    terms: &'a Terms<'a>,
    /// The directories on the way to the last member. They are dressed when they are left: whatever is made in one
    /// changes its times.
    open: Vec<(PathBuf, Look)>,
    buffer: Vec<u8>,
}

impl<R: BufRead> Importer<'_, R> {
    fn all(&mut self) -> Result<()> {
        let mut last = PathBuf::from(MANIFEST);
        while let Some(member) =
            self.archive.member().with_context(|| format!("bad archive, after {}", last.display()))?
        {
            last.clone_from(&member.path);
            self.member(member).with_context(|| format!("cannot import {}", last.display()))?;
        }
        self.leave(|_| false)
    }

    fn member(&mut self, Member { path, mut look, what }: Member) -> Result<()> {
        let path = place::in_tree(&path)?;
        ensure!(self.open.len() < DEEPEST && path.as_os_str().len() <= LONGEST, "it is too deep");
        self.leave(|open| path != open && path.starts_with(open))?;
        // What says who a container is, and where the programs are, is made anew.
        if path.ancestors().any(|path| is_its_own(path) || self.terms.shares_programs && is_programs(path)) {
            return Ok(());
        }
        look.attributes.retain(|(name, _)| is_taken(name));
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            ensure!(what == What::Directory, "the root is no directory");
            self.open.push((path, look));
            return Ok(());
        };
        let above = self.at(above)?;
        let is_hosts = path == Path::new(HOSTS) && what.is_plain(LARGEST_HOSTS);
        match what {
            What::Directory => {
                directory(&above, name)?;
                self.open.push((path, look));
                return Ok(());
            }
            // It has the look of what it is a name of.
            What::Link(to) => return self.link(&place::in_tree(&to)?, &above, name),
            What::File(size, extents) => {
                let file = create(&above, name)?;
                if is_hosts {
                    self.hosts(&file)?;
                } else {
                    self.content(&file, size, &extents)?;
                }
                return look.put_on(file);
            }
            What::Symlink(to) => symlinkat(&to, &above, name)?,
            What::Fifo => mknodat(&above, name, FileType::Fifo, Mode::empty(), 0)?,
            What::Device(..) if !self.terms.devices => bail!("it is a device: only --device lets one in"),
            What::Device(kind, major, minor) => {
                let kind = match kind {
                    Device::Character => FileType::CharacterDevice,
                    Device::Block => FileType::BlockDevice,
                };
                mknodat(&above, name, kind, Mode::empty(), makedev(major, minor))?;
            }
        }
        look.put_on(Node::at(&above, name)?.context("it is gone")?)
    }

    /// What this import has made at a path of the tree: whatever is on the way is a directory (CVE-2021-32803).
    fn at(&self, path: &Path) -> Result<Node> {
        Node::beneath(self.tree, path)?.with_context(|| format!("{} is not in the archive before it", path.display()))
    }

    /// Dresses the open directories from the innermost one to the first that stays open.
    fn leave(&mut self, stays_open: impl Fn(&Path) -> bool) -> Result<()> {
        while let Some((path, look)) = self.open.pop_if(|(path, _)| !stays_open(path)) {
            self.at(&path).and_then(|node| look.put_on(node)).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Makes one more name of what is no directory, and of no link's target (CVE-2018-20990).
    fn link(&self, first: &Path, above: &Node, name: &OsStr) -> Result<()> {
        let (Some(parent), Some(old)) = (first.parent(), first.file_name()) else { bail!("it links to the root") };
        ensure!(!self.at(first)?.is_directory(), "it links to a directory");
        Ok(linkat(self.at(parent)?, old, above, name, AtFlags::empty())?)
    }

    fn content(&mut self, file: &File, size: u64, extents: &[Extent]) -> Result<()> {
        for Extent { start, length } in extents {
            let (mut at, end) = (*start, start + length);
            while at < end {
                let part = &mut self.buffer[..BUFFER.min((end - at) as usize)];
                self.archive.read(part)?;
                file.write_all_at(part, at)?;
                at += part.len() as u64;
            }
        }
        Ok(ftruncate(file, size)?)
    }

    /// The container's own name among those of hosts becomes its new one.
    fn hosts(&mut self, mut file: &File) -> Result<()> {
        let [from, to] = self.terms.names;
        Ok(file.write_all(&renamed(&self.archive.all(LARGEST_HOSTS)?, from, to))?)
    }
}

/// Of the attributes those that only say something of the file. What is the kernel's own or another program's, an
/// archive may not say: overlayfs(5) believes `trusted.overlay.redirect`, IMA its signatures.
fn is_taken(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"user.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}
