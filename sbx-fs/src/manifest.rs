//! The manifest of a private tree: what of the host was cloned into it, so that later both can be compared with that.
//!
//! It tells of all below /etc, with digests of the files, and of directories below /var, whose content is the
//! container's own affair. It is written in the format of mtree(5) with full paths, which other programs read too.

use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, Mode, OFlags, openat, readlinkat, renameat};
use sbx::tree::{Node, components, walk};
use sbx::{Name, store};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What is known of one entry: what it is and holds, its mode and its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What it is, with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// How many bytes it holds, and their digest, as hexadecimal SHA-256. Of a file that nothing is compared with there
    /// is none.
    File(u64, Option<String>),
    /// Where it leads.
    Link(OsString),
    /// A FIFO, a device or a socket: nothing that is compared.
    Other,
}

impl State {
    fn of(node: &Node, is_compared: impl FnOnce(u64) -> bool) -> io::Result<Self> {
        let size = node.stat.stx_size;
        let kind = match node.kind() {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile if is_compared(size) => Kind::File(size, Some(digest(node.open()?, size)?)),
            FileType::RegularFile => Kind::File(size, None),
            FileType::Symlink => Kind::Link(OsString::from_vec(readlinkat(node, "", Vec::new())?.into_bytes())),
            _ => Kind::Other,
        };
        // A link has no mode of its own.
        let mode = if matches!(kind, Kind::Link(_)) { 0o777 } else { u32::from(node.stat.stx_mode) & 0o7777 };
        Ok(Self { kind, mode, uid: node.stat.stx_uid, gid: node.stat.stx_gid })
    }

    #[cfg(test)]
    pub fn new(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0 }
    }

    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// Of the first `size` bytes of a file, which may be growing.
pub fn digest(file: File, size: u64) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut file = BufReader::with_capacity(128 << 10, file.take(size));
    loop {
        let block = file.fill_buf()?;
        if block.is_empty() {
            break;
        }
        digest.update(block);
        let length = block.len();
        file.consume(length);
    }
    Ok(hexadecimal(&digest.finalize()))
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The entries of a tree by their absolute paths in it, a directory before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest(pub BTreeMap<PathBuf, State>);

impl Manifest {
    /// What a tree has below /etc, and which of the directories `nodes` it has. A file's content is read only if the
    /// file, by its path and its size, is to be compared: in a container's tree there may be files of any size.
    pub fn of(tree: impl AsFd, nodes: &[&Path], is_compared: impl Fn(&Path, u64) -> bool) -> Result<Self> {
        let mut entries = BTreeMap::new();
        if let Some(etc) = Node::beneath(&tree, "/etc".as_ref())? {
            let mut path = PathBuf::from("/etc");
            walk(&etc, &mut path, |node, path| {
                entries.insert(path.to_owned(), State::of(node, |size| is_compared(path, size))?);
                Ok(())
            })
            .with_context(|| format!("cannot read {}", path.display()))?;
        }
        for path in nodes.iter().flat_map(|node| node.ancestors()).filter(|path| path.parent().is_some()) {
            // A directory of the way may be none here.
            if let Ok(Some(node)) = Node::beneath(&tree, path) {
                entries.insert(path.to_owned(), State::of(&node, |_| false)?);
            }
        }
        Ok(Self(entries))
    }

    /// That of a container's tree, in which only files are read that are as large as one of `others` has them.
    pub fn compared(tree: impl AsFd, nodes: &[&Path], others: &[&Self]) -> Result<Self> {
        Self::of(tree, nodes, |path, size| {
            others.iter().any(
                |other| matches!(other.0.get(path), Some(State { kind: Kind::File(known, _), .. }) if *known == size),
            )
        })
    }

    /// That of a container.
    pub fn load(name: &Name) -> Result<Self> {
        let path = store::manifest(name);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Makes it that of a container: after a crash that is this one, or the one before.
    pub fn save(&self, name: &Name) -> Result<()> {
        let path = store::manifest(name);
        let save = || -> Result<()> {
            let place = File::open(store::container(name))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&place, "manifest.new", flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(&self.text())?;
            file.sync_all()?;
            renameat(&place, "manifest.new", &place, "manifest")?;
            Ok(place.sync_all()?)
        };
        save().with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn text(&self) -> Vec<u8> {
        let mut text = b"#mtree\n".to_vec();
        for (path, State { kind, mode, uid, gid }) in &self.0 {
            let (kind, more) = match kind {
                Kind::Directory => ("dir", String::new()),
                Kind::File(size, digest) => {
                    let digest = digest.iter().map(|digest| format!(" sha256digest={digest}")).collect::<String>();
                    ("file", format!(" size={size}{digest}"))
                }
                Kind::Link(target) => ("link", format!(" link={}", encode(target.as_bytes()))),
                Kind::Other => ("other", String::new()),
            };
            let path = encode(path.as_os_str().as_bytes());
            text.extend(format!(".{path} type={kind} mode={mode:04o} uid={uid} gid={gid}{more}\n").bytes());
        }
        text
    }

    pub fn parse(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text)?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let entries = lines.map(|line| entry(line).with_context(|| format!("bad line {line:?}")));
        Ok(Self(entries.collect::<Result<_>>()?))
    }
}

/// One line of the text.
fn entry(line: &str) -> Result<(PathBuf, State)> {
    let mut words = line.split(' ');
    let path = words.next().and_then(|word| word.strip_prefix('.')).context("no path")?;
    let values: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
    let value = |key: &str| values.get(key).copied().with_context(|| format!("no {key}"));
    let kind = match value("type")? {
        "dir" => Kind::Directory,
        "file" => Kind::File(value("size")?.parse()?, values.get("sha256digest").map(|digest| (*digest).to_owned())),
        "link" => Kind::Link(OsString::from_vec(decode(value("link")?)?)),
        _ => Kind::Other,
    };
    let state = State {
        kind,
        mode: u32::from_str_radix(value("mode")?, 8)?,
        uid: value("uid")?.parse()?,
        gid: value("gid")?.parse()?,
    };
    let path = PathBuf::from(OsString::from_vec(decode(path)?));
    // One of an archive may be anybody's.
    let straight: PathBuf = [OsStr::new("/")].into_iter().chain(components(&path)).collect();
    ensure!(path.as_os_str() == straight.as_os_str(), "its path does not go straight down");
    Ok((path, state))
}

/// Bytes as mtree(5) has them: what a line or a word could end by, or a pattern begin with, as `\` and three octal digits.
fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_graphic() && !b"\\#=*?[".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "\\{byte:03o}");
        }
        text
    })
}

fn decode(text: &str) -> Result<Vec<u8>> {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        ensure!(part.is_char_boundary(3), "bad escape in {text:?}");
        let (digits, rest) = part.split_at(3);
        bytes.push(u8::from_str_radix(digits, 8).with_context(|| format!("bad escape in {text:?}"))?);
        bytes.extend(rest.bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = State> {
        let kind = prop_oneof![
            Just(Kind::Directory),
            Just(Kind::Other),
            any::<(u64, bool)>().prop_map(|(size, digest)| Kind::File(size, digest.then(|| "0123456789abcdef".into()))),
            prop::collection::vec(1_u8.., 1..20).prop_map(|bytes| Kind::Link(OsString::from_vec(bytes))),
        ];
        (kind, 0..0o10000_u32, any::<u32>(), any::<u32>()).prop_map(|(kind, mode, uid, gid)| State {
            kind,
            mode,
            uid,
            gid,
        })
    }

    /// Any bytes but those that no name may have.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_filter("in no name", |byte| !matches!(byte, 0 | b'/'));
        prop::collection::vec(byte, 1..40).prop_filter("no name", |name| !matches!(name.as_slice(), b"." | b".."))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_manifest_reads_as_it_was_written(entries in prop::collection::vec((name(), state()), 0..20)) {
            let path = |name: Vec<u8>| Path::new("/").join(OsString::from_vec(name));
            let manifest = Manifest(entries.into_iter().map(|(name, state)| (path(name), state)).collect());
            prop_assert_eq!(Manifest::parse(&manifest.text()).expect("a manifest"), manifest);
        }

        #[test]
        fn a_path_that_does_not_go_straight_down_is_refused(path in "(/\\.\\./x|/a/\\.\\.|//a|/a/|/\\./a|/a//b||a)") {
            let line = format!(".{path} type=dir mode=0755 uid=0 gid=0\n");
            prop_assert!(Manifest::parse(line.as_bytes()).is_err());
        }

        #[test]
        fn no_text_is_a_panic(text in prop::collection::vec(any::<u8>(), 0..200), line in "(\\./[a-z\\\\0-9]{0,9}|) type=(dir|link|file)[ -~]{0,30}") {
            let _ = Manifest::parse(&text);
            let _ = Manifest::parse(line.as_bytes());
        }
    }
}
