//! Writes an archive.

use super::header::{self, Header, seal};
use super::records::Records;
use super::{BLOCK, Device, EXTENTS, Extent, MOST, Member, What};
use anyhow::{Result, ensure};
use sbx::tool;
use std::io::Write;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// Where a tar that knows nothing of holes puts what is stored of a sparse file.
const SPARSE: &str = "GNUSparseFile";

/// The header of a member, and what does not fit into it.
struct Begun {
    header: Header,
    records: Records,
}

impl Begun {
    fn text(&mut self, field: Range<usize>, key: &str, text: &[u8]) {
        if !self.header.set(field, text) {
            self.records.set(key, text);
        }
    }

    fn number(&mut self, field: Range<usize>, key: &str, number: u64) {
        if !self.header.set_octal(field, number) {
            self.records.set(key, number.to_string());
        }
    }
}

/// Writes to stdout, or in a test to memory.
pub struct Writer<W> {
    out: W,
    /// How many bytes of the current block are there.
    filled: usize,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { out, filled: 0 }
    }

    /// Begins a member. Its content, the parts of it that are no holes, is what is put next.
    pub fn begin(&mut self, Member { path, look, what }: &Member) -> Result<()> {
        let kind = match what {
            What::File(..) => b'0',
            What::Link(_) => b'1',
            What::Symlink(_) => b'2',
            What::Device(Device::Character, ..) => b'3',
            What::Device(Device::Block, ..) => b'4',
            What::Directory => b'5',
            What::Fifo => b'6',
        };
        let mut begun = Begun { header: Header::new(kind), records: Records::default() };
        let (mut map, mut stored) = (Vec::new(), 0);
        let path = path.as_os_str().as_bytes();
        match what {
            What::File(size, extents) if !what.is_plain(u64::MAX) => {
                map = self::map(*size, extents);
                stored = map.len() as u64 + length(extents);
                begun.header.set(header::NAME, SPARSE.as_bytes());
                begun.records.set("GNU.sparse.major", "1");
                begun.records.set("GNU.sparse.minor", "0");
                begun.records.set("GNU.sparse.name", path);
                begun.records.set("GNU.sparse.realsize", size.to_string());
            }
            _ => begun.text(header::NAME, "path", path),
        }
        match what {
            What::File(size, _) if map.is_empty() => stored = *size,
            What::Link(to) | What::Symlink(to) => begun.text(header::LINK, "linkpath", to.as_os_str().as_bytes()),
            What::Device(_, major, minor) => {
                for (field, number) in [(header::MAJOR, *major), (header::MINOR, *minor)] {
                    ensure!(begun.header.set_octal(field, number.into()), "an archive has no room for device {number}");
                }
            }
            _ => {}
        }
        begun.number(header::SIZE, "size", stored);
        begun.number(header::UID, "uid", look.uid.into());
        begun.number(header::GID, "gid", look.gid.into());
        begun.header.set_octal(header::MODE, look.mode.unwrap_or(0o777).into());
        begun.header.set_octal(header::MODIFIED, look.modified.tv_sec.try_into().unwrap_or_default());
        begun.records.set_time("mtime", look.modified);
        begun.records.set_time("atime", look.accessed);
        for (name, value) in &look.attributes {
            begun.records.set_attribute(name, value);
        }
        self.extended(&begun.records)?;
        self.header(begun.header)?;
        self.put(&map)
    }

    /// Writes content.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.filled = (self.filled + bytes.len()) % BLOCK;
        tool::written(self.out.write_all(bytes))
    }

    /// Ends the archive.
    pub fn end(mut self) -> Result<()> {
        self.pad()?;
        self.put(&[0; 2 * BLOCK])?;
        tool::written(self.out.flush())
    }

    fn extended(&mut self, records: &Records) -> Result<()> {
        let text = records.text();
        ensure!(text.len() as u64 <= MOST, "its path or its attributes are too long for an archive");
        let mut header = Header::new(b'x');
        header.set(header::NAME, b"PaxHeader");
        header.set_octal(header::SIZE, text.len() as u64);
        self.header(header)?;
        self.put(&text)
    }

    fn header(&mut self, mut header: Header) -> Result<()> {
        self.pad()?;
        seal(&mut header.0);
        self.put(&header.0)
    }

    /// Fills the last block of what was written.
    fn pad(&mut self) -> Result<()> {
        self.put(&[0; BLOCK][..self.filled.wrapping_neg() % BLOCK])
    }
}

/// How many bytes there are in extents.
fn length(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.length).sum()
}

/// The map of a sparse file, in whole blocks. An empty extent at the end says where a hole that is there ends.
fn map(size: u64, extents: &[Extent]) -> Vec<u8> {
    let end = Extent { start: size, length: 0 };
    let extents = extents.iter().chain([&end]);
    let mut map = format!("{}\n", extents.clone().count());
    map.extend(extents.map(|Extent { start, length }| format!("{start}\n{length}\n")));
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

// All digits of two numbers, and a line's end behind each.
const _: () = assert!((EXTENTS + 2) * 42 < MOST as usize);
