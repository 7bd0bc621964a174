//! Reads an archive, of which nothing is believed: what it names as a size is read to its end or refused, and nothing
//! of it is in memory that may be longer than [`MOST`], but for what a caller asks for.

use super::header::{self, Header};
use super::records::{Records, decimal};
use super::{BLOCK, Device, Extent, MOST, Member, What};
use crate::look::Look;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::Timespec;
use std::ffi::OsString;
use std::io::{self, BufRead, ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Of the keywords of sparse files those of format 1.0.
const SPARSE: (&str, [&str; 4]) = ("GNU.sparse.", ["major", "minor", "name", "realsize"]);

pub struct Reader<R> {
    input: R,
    /// What is left of the current member's content, and what fills its last block.
    rest: u64,
    padding: u64,
}

impl<R: BufRead> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input, rest: 0, padding: 0 }
    }

    /// The next member, whatever of the last one's content was read; none at the end, after which nothing may follow.
    pub fn member(&mut self) -> Result<Option<Member>> {
        self.skip(self.rest + self.padding)?;
        let Some(mut header) = self.header()? else { return self.end() };
        let mut records = Records::default();
        if header.kind() == b'x' {
            self.enter(header.octal(header::SIZE)?)?;
            records = Records::parse(&self.all(MOST).context("extended header")?)?;
            self.skip(self.padding)?;
            header = self.header()?.context("the archive ends behind an extended header")?;
        }
        self.enter(records.number("size")?.map_or_else(|| header.octal(header::SIZE), Ok)?)?;
        let path = path(&header, &records)?;
        let what = self.what(&header, &records).with_context(|| path.display().to_string())?;
        let look = look(&header, &records, &what).with_context(|| path.display().to_string())?;
        Ok(Some(Member { path, look, what }))
    }

    /// Reads some of the content, as much as the buffer takes.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len() as u64;
        self.rest = self.rest.checked_sub(length).context("it has less content than it says")?;
        truncated(self.input.read_exact(buffer))
    }

    /// Reads the rest of the content, if that is no more than `most`.
    pub fn all(&mut self, most: u64) -> Result<Vec<u8>> {
        ensure!(self.rest <= most, "{} bytes are too many", self.rest);
        let mut bytes = Vec::new();
        (&mut self.input).take(self.rest).read_to_end(&mut bytes).context("cannot read the archive")?;
        ensure!(bytes.len() as u64 == self.rest, "the archive is truncated");
        self.rest = 0;
        Ok(bytes)
    }

    /// What a member is; of a sparse file its map is read.
    fn what(&mut self, header: &Header, records: &Records) -> Result<What> {
        let link = || text(records.get("linkpath").unwrap_or(header.text(header::LINK)));
        let device = |kind| -> Result<What> {
            let number = |field| Ok::<_, anyhow::Error>(u32::try_from(header.octal(field)?)?);
            Ok(What::Device(kind, number(header::MAJOR)?, number(header::MINOR)?))
        };
        let what = match header.kind() {
            b'0' | 0 if records.has_others(SPARSE.0, &[]) => return self.sparse(records),
            b'0' | 0 => return Ok(What::file(self.rest)),
            b'1' => What::Link(link()?),
            b'2' => What::Symlink(link()?),
            b'3' => device(Device::Character)?,
            b'4' => device(Device::Block)?,
            b'5' => What::Directory,
            b'6' => What::Fifo,
            kind => bail!("it is of a kind that is not supported: {:?}", char::from(kind)),
        };
        ensure!(self.rest == 0, "it is no file, and has content");
        Ok(what)
    }

    /// A file with holes, whose extents are apart and in order.
    fn sparse(&mut self, records: &Records) -> Result<What> {
        let version = [records.get("GNU.sparse.major"), records.get("GNU.sparse.minor")];
        ensure!(
            version == [Some(b"1".as_slice()), Some(b"0")] && !records.has_others(SPARSE.0, &SPARSE.1),
            "it is sparse in another way than GNU tar's format 1.0"
        );
        let size = records.number("GNU.sparse.realsize")?.context("it has no GNU.sparse.realsize")?;
        let extents = self.map().context("the map of its holes")?;
        let mut end = 0;
        for Extent { start, length } in &extents {
            ensure!(*start >= end, "the map of its holes goes backwards");
            end = start.checked_add(*length).context("the map of its holes is too large")?;
        }
        ensure!(end <= size && size <= i64::MAX as u64, "the map of its holes goes beyond its size");
        // No more than its size, since they are apart.
        let stored: u64 = extents.iter().map(|extent| extent.length).sum();
        ensure!(stored == self.rest, "it has other content than its map");
        Ok(What::File(size, extents.into_iter().filter(|extent| extent.length > 0).collect()))
    }

    /// The map before the content: lines of one number, which fill whole blocks.
    fn map(&mut self) -> Result<Vec<Extent>> {
        let most = self.rest.min(MOST);
        let mut lines = (&mut self.input).take(most);
        let count = number(&mut lines)?;
        let mut extents = Vec::new();
        for _ in 0..count {
            extents.push(Extent { start: number(&mut lines)?, length: number(&mut lines)? });
        }
        let length = most - lines.limit();
        let whole = length.next_multiple_of(BLOCK as u64);
        self.rest = self.rest.checked_sub(whole).context("it is not of whole blocks")?;
        self.skip_bytes(whole - length)?;
        Ok(extents)
    }

    /// Begins with the content of a member.
    fn enter(&mut self, size: u64) -> Result<()> {
        ensure!(i64::try_from(size).is_ok(), "a member of {size} bytes is too large");
        self.rest = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The next header; none, if it is a block of zeros.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header([0; BLOCK]);
        truncated(self.input.read_exact(&mut header.0))?;
        if header.0 == [0; BLOCK] {
            return Ok(None);
        }
        header.check()?;
        Ok(Some(header))
    }

    /// Reads what is behind the first block of zeros: one more, and some that fill a record.
    fn end<T>(&mut self) -> Result<Option<T>> {
        ensure!(self.header()?.is_none(), "something follows the archive");
        let mut bytes = Vec::new();
        (&mut self.input).take(MOST).read_to_end(&mut bytes).context("cannot read the archive")?;
        let is_all = self.input.fill_buf().context("cannot read the archive")?.is_empty();
        ensure!(is_all && bytes.iter().all(|byte| *byte == 0), "something follows the archive");
        Ok(None)
    }

    /// Passes over the rest of a member.
    fn skip(&mut self, length: u64) -> Result<()> {
        (self.rest, self.padding) = (0, 0);
        self.skip_bytes(length)
    }

    fn skip_bytes(&mut self, length: u64) -> Result<()> {
        let skipped =
            io::copy(&mut (&mut self.input).take(length), &mut io::sink()).context("cannot read the archive")?;
        ensure!(skipped == length, "the archive is truncated");
        Ok(())
    }
}

fn truncated(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => bail!("the archive is truncated"),
        result => result.context("cannot read the archive"),
    }
}

/// One line of a map.
fn number(lines: &mut impl BufRead) -> Result<u64> {
    let mut line = Vec::new();
    lines.take(21).read_until(b'\n', &mut line).context("cannot read the archive")?;
    ensure!(!line.is_empty(), "the archive is truncated");
    decimal(line.strip_suffix(b"\n").unwrap_or(&line))
}

/// A path, which has no zero byte.
fn text(bytes: &[u8]) -> Result<PathBuf> {
    ensure!(!bytes.contains(&0), "a path has a zero byte");
    Ok(OsString::from_vec(bytes.to_owned()).into())
}

fn path(header: &Header, records: &Records) -> Result<PathBuf> {
    if let Some(path) = records.get("GNU.sparse.name").or(records.get("path")) {
        return text(path);
    }
    let (prefix, name) = (header.text(header::PREFIX), header.text(header::NAME));
    text(&if prefix.is_empty() { name.to_owned() } else { [prefix, b"/", name].concat() })
}

fn look(header: &Header, records: &Records, what: &What) -> Result<Look> {
    let id = |key, field| -> Result<u32> {
        let id = records.number(key)?.map_or_else(|| header.octal(field), Ok)?;
        // The last number means no id to chown(2).
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).with_context(|| format!("{key} {id} is too large"))
    };
    let modified = match records.time("mtime")? {
        Some(time) => time,
        None => Timespec { tv_sec: header.octal(header::MODIFIED)?.try_into()?, tv_nsec: 0 },
    };
    Ok(Look {
        mode: match what {
            What::Symlink(_) => None,
            _ => Some(u32::try_from(header.octal(header::MODE)? & 0o7777)?),
        },
        uid: id("uid", header::UID)?,
        gid: id("gid", header::GID)?,
        accessed: records.time("atime")?.unwrap_or(modified),
        modified,
        attributes: records.attributes()?,
    })
}
