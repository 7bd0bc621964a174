//! The format of archives: tar as POSIX has it (pax(1)), with numbers for owners, attributes as records
//! `SCHILY.xattr.NAME`, and holes in GNU tar's sparse format 1.0. GNU tar reads and writes the same.

mod header;
mod read;
mod records;
mod write;

pub use read::Reader;
pub use write::Writer;

use crate::look::Look;
use std::path::PathBuf;

/// What the format is made of.
const BLOCK: usize = 512;

/// The most bytes of an extended header, and of the map of a sparse file.
const MOST: u64 = 1 << 20;

/// The most extents of a sparse file. Their map is shorter than [`MOST`]: two numbers of up to 20 digits for each.
pub const EXTENTS: usize = 16 << 10;

/// One entry of an archive, without its content.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    /// As the archive has it: nothing about it is known.
    pub path: PathBuf,
    pub look: Look,
    pub what: What,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Directory,
    /// So many bytes, and where in it there are data.
    File(u64, Vec<Extent>),
    /// Where it leads.
    Symlink(PathBuf),
    /// Another name of what the archive has before.
    Link(PathBuf),
    Fifo,
    Device(Device, u32, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Character,
    Block,
}

/// A part of a file that is no hole: where it begins, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
}

impl What {
    /// A file without holes.
    pub fn file(size: u64) -> Self {
        Self::File(size, if size == 0 { Vec::new() } else { vec![Extent { start: 0, length: size }] })
    }

    /// Whether it is such a file, of no more than `most` bytes.
    pub fn is_plain(&self, most: u64) -> bool {
        matches!(self, Self::File(size, _) if *size <= most && *self == Self::file(*size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::Timespec;
    use std::ffi::{CString, OsString};
    use std::io::Read;
    use std::os::unix::ffi::OsStringExt;

    fn bytes(most: usize) -> impl Strategy<Value = PathBuf> {
        prop::collection::vec(1_u8.., 1..most).prop_map(|bytes| OsString::from_vec(bytes).into())
    }

    fn time() -> impl Strategy<Value = Timespec> {
        (any::<i32>(), 0..1_000_000_000_i64)
            .prop_map(|(seconds, nanoseconds)| Timespec { tv_sec: seconds.into(), tv_nsec: nanoseconds })
    }

    fn look() -> impl Strategy<Value = Look> {
        let name = prop::collection::vec(1_u8.., 1..20).prop_map(|name| CString::new(name).expect("a name"));
        let attributes = prop::collection::vec((name, prop::collection::vec(any::<u8>(), 0..40)), 0..4);
        let attributes = attributes.prop_map(|mut attributes| {
            attributes.sort();
            attributes.dedup_by(|a, b| a.0 == b.0);
            attributes
        });
        (0..0o10000_u32, 0..u32::MAX, 0..u32::MAX, time(), time(), attributes).prop_map(
            |(mode, uid, gid, accessed, modified, attributes)| Look {
                mode: Some(mode),
                uid,
                gid,
                accessed,
                modified,
                attributes,
            },
        )
    }

    fn what() -> impl Strategy<Value = What> {
        // Parts of up to 1000 bytes, each behind a hole, and a hole at the end.
        let sparse = prop::collection::vec((1..1_000_000_u64, 1..1000_u64), 1..5).prop_map(|parts| {
            let mut end = 0;
            let extents = parts.into_iter().map(|(hole, length)| {
                let start = end + hole;
                end = start + length;
                Extent { start, length }
            });
            let extents = extents.collect();
            What::File(end + 5, extents)
        });
        prop_oneof![
            Just(What::Directory),
            (0..2000_u64).prop_map(What::file),
            (1_u64..1 << 40).prop_map(|size| What::File(size, Vec::new())),
            sparse,
            bytes(300).prop_map(What::Symlink),
            bytes(300).prop_map(What::Link),
            Just(What::Fifo),
            (0..1_u32 << 12, 0..1_u32 << 20).prop_map(|(major, minor)| What::Device(Device::Block, major, minor)),
        ]
    }

    fn member() -> impl Strategy<Value = Member> {
        (bytes(300), look(), what()).prop_map(|(path, mut look, what)| {
            if matches!(what, What::Symlink(_)) {
                look.mode = None;
            }
            Member { path, look, what }
        })
    }

    fn stored(what: &What) -> u64 {
        if let What::File(_, extents) = what { extents.iter().map(|extent| extent.length).sum() } else { 0 }
    }

    fn written(members: &[Member]) -> Vec<u8> {
        let mut archive = Vec::new();
        let mut writer = Writer::new(&mut archive);
        for member in members {
            writer.begin(member).expect("a header");
            let content: Vec<u8> = (0..stored(&member.what)).map(|at| at as u8).collect();
            writer.put(&content).expect("content");
        }
        writer.end().expect("an end");
        archive
    }

    /// All members and their content, up to an error.
    fn read(archive: impl Read) -> anyhow::Result<Vec<Member>> {
        let mut reader = Reader::new(std::io::BufReader::new(archive));
        let mut members = Vec::new();
        while let Some(mut member) = reader.member()? {
            // They are written in the order of their escaped names.
            member.look.attributes.sort();
            let mut content = vec![0; stored(&member.what).min(1 << 20) as usize];
            reader.read(&mut content)?;
            assert!(content.iter().enumerate().all(|(at, byte)| *byte == at as u8));
            members.push(member);
        }
        Ok(members)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn an_archive_reads_as_it_was_written(members in prop::collection::vec(member(), 0..6)) {
            prop_assert_eq!(read(written(&members).as_slice()).expect("an archive"), members);
        }

        #[test]
        fn no_bytes_are_a_panic(
            member in member(),
            noise in prop::collection::vec(any::<u8>(), 0..2000),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let _ = read(noise.as_slice());
            let mut archive = written(&[member]);
            for (at, byte) in changes {
                let at = at.index(archive.len());
                archive[at] = byte;
                // What the checksum is right for gets further.
                header::seal(&mut archive[at / BLOCK * BLOCK..][..BLOCK]);
            }
            let _ = Reader::new(archive.as_slice()).member();
        }

        #[test]
        fn an_archive_that_ends_early_is_an_error(member in member(), cut in any::<prop::sample::Index>()) {
            let archive = written(&[member]);
            let error = read(&archive[..cut.index(archive.len())]).expect_err("cut");
            prop_assert!(format!("{error:#}").contains("truncated"), "{:#}", error);
        }
    }

    #[test]
    fn what_follows_the_end_is_an_error() {
        let member = || Member {
            path: "a".into(),
            look: Look {
                mode: Some(0o644),
                uid: 0,
                gid: 0,
                accessed: Timespec { tv_sec: 0, tv_nsec: 0 },
                modified: Timespec { tv_sec: 0, tv_nsec: 0 },
                attributes: Vec::new(),
            },
            what: What::file(3),
        };
        let archive = written(&[member()]);
        // GNU tar fills its last record.
        assert!(read([&archive[..], &[0; 20 * BLOCK]].concat().as_slice()).is_ok());
        let error = read([&archive[..], &[0; 700], b"x"].concat().as_slice()).expect_err("garbage").to_string();
        assert!(error.contains("something follows"), "{error}");
        assert!(read([&archive[..], &written(&[member()])].concat().as_slice()).is_err());
    }
}
