//! What the parsers of input that may be anybody's hold, whatever it is: no panic, and what each function here asserts.
//!
//! Each is a target of cargo-fuzz, with a corpus of its own, and a test that replays that.

use sbx::seccomp::Seccomp;
use sbx::tree::{Node, components, walk};
use sbx::{Document, Name, passwd};
use sbx_fs::archive::{Terms, place, unpack};
use sbx_fs::manifest::Manifest;
use sbx_fs::pax::{Member, Reader, What, Writer};
use sbx_label::level::{Choice, Level};
use sbx_unit::parse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// How large a header of an archive is, in bytes.
const BLOCK: usize = 512;

/// A document is printed as what it was read as, in about as many bytes, and a field that comes and goes changes nothing.
pub fn document(bytes: &[u8]) {
    let Ok(doc) = Document::parse(bytes) else { return };
    let line = doc.to_line();
    // An exponent gets its sign.
    assert!(line.len() <= 2 * bytes.len());
    assert!(line.iter().position(|byte| *byte == b'\n') == Some(line.len() - 1));
    assert_eq!(Document::parse(&line).expect("a document"), doc);
    if let Ok(name) = doc.name() {
        assert!(name.as_str().parse().is_ok_and(|again: Name| again == name));
    }
    let is_new = |sbx: serde_json::Map<_, _>| !sbx.contains_key("new");
    if doc.read("sbx").is_ok_and(|sbx| sbx.is_some_and(is_new)) {
        let mut changed = doc.clone();
        changed.set("sbx.new", 1).expect("a place for it");
        assert_eq!(changed.read::<u8>("sbx.new").expect("a number"), Some(1));
        changed.unset("sbx.new");
        assert_eq!(changed.to_line(), line);
    }
}

/// Assignments of a unit file are read from what they are written as.
pub fn unit(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(assignments) = parse::parse(text) else { return };
    let mut written = String::new();
    for parse::Assignment { section, key, value } in &assignments {
        // A backslash at the end of a value is one that white space stood behind.
        written += &format!("[{section}]\n{key}={value} \n");
    }
    assert_eq!(parse::parse(&written).expect("a unit file"), assignments);
}

/// The kernel takes the program that is compiled: it is not longer than BPF_MAXINSNS, no jump leads out of it, and it ends by
/// returning.
pub fn seccomp(bytes: &[u8]) {
    const CLASS: u16 = 0x07;
    const JUMP: u16 = 0x05;
    const RETURN: u16 = 0x06;
    const ALWAYS: u16 = 0x05;
    let Ok(seccomp) = serde_json::from_slice::<Seccomp>(bytes) else { return };
    let Ok(filter) = seccomp.compile() else { return };
    assert_eq!(seccomp.compile().expect("the same"), filter);
    let program = filter.program;
    assert!(program.len() <= 4096);
    assert!(program.last().is_none_or(|last| last.code & CLASS == RETURN));
    for (at, instruction) in program.iter().enumerate().filter(|(_, this)| this.code & CLASS == JUMP) {
        let offset =
            if instruction.code == ALWAYS { instruction.k as usize } else { instruction.jt.max(instruction.jf).into() };
        assert!(at + 1 + offset < program.len());
    }
}

/// A level and a range are written as they are read, and all of a range's pairs are levels.
pub fn level(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(level) = text.parse::<Level>() {
        assert_eq!(level.to_string().parse(), Ok(level));
        assert!(level.to_string().len() <= "c1022,c1023".len());
    }
    if let Ok(choice) = text.parse::<Choice>() {
        let pair = choice.pairs(bytes.len() as u64).next().expect("a range has a pair");
        assert_eq!(pair.to_string().parse(), Ok(pair));
    }
}

/// The user that is found is the one that was asked for, and is found again in its own line.
pub fn passwd(bytes: &[u8]) {
    let words: Vec<_> = bytes.split(|byte| b":\n".contains(byte)).map(String::from_utf8_lossy).collect();
    let by_id = words.iter().filter_map(|word| passwd::id(word)).filter_map(|id| {
        let user = passwd::find(bytes, id)?;
        assert_eq!(user.uid, id);
        Some(user)
    });
    let by_name = words.iter().filter_map(|word| {
        let user = passwd::find_name(bytes, word)?;
        assert_eq!(user.name, *word);
        Some(user)
    });
    for user in by_id.chain(by_name) {
        assert!(!user.name.is_empty() && user.home.starts_with('/'));
        let line = format!("{}:x:{}:{}::{}:{}\n", user.name, user.uid, user.gid, user.home, user.shell);
        assert_eq!(passwd::find(line.as_bytes(), user.uid).as_ref(), Some(&user));
        assert_eq!(passwd::find_name(line.as_bytes(), &user.name).as_ref(), Some(&user));
    }
}

/// A group that is found is one of those that there are, and found again in its own line; each that a user is a member of is so
/// by a line that has four fields and names the user.
pub fn group(bytes: &[u8]) {
    let words: Vec<_> = bytes.split(|byte| b":,\n".contains(byte)).map(String::from_utf8_lossy).collect();
    for word in &words {
        if let Some(gid) = passwd::find_group(bytes, word) {
            assert!(!word.is_empty() && words.iter().any(|word| passwd::id(word) == Some(gid)));
            assert_eq!(passwd::find_group(format!("{word}:x:{gid}:\n").as_bytes(), word), Some(gid));
        }
        let gids = passwd::groups_of(bytes, word);
        assert!(gids.is_sorted_by(|one, next| one < next));
        for gid in gids {
            let puts = |line: &&[u8]| passwd::groups_of(line, word) == [gid];
            let line = bytes.split(|byte| *byte == b'\n').find(puts).expect("a line");
            let fields: Vec<_> = line.split(|byte| *byte == b':').map(String::from_utf8_lossy).collect();
            assert!(fields.len() == 4 && passwd::id(&fields[2]) == Some(gid));
            assert!(fields[3].split(',').any(|member| member == word));
        }
    }
}

/// A manifest is read from what it is written as, and each of its paths leads straight down from the root.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert_eq!(Manifest::parse(&manifest.text()).expect("a manifest"), manifest);
    manifest.0.keys().for_each(|path| assert_beneath(path));
}

/// Members of an archive are read from what they are written as; each has a place beneath the root, or none; and all that is
/// made of them, by root, is there, and no larger than the archive.
pub fn archive(bytes: &[u8]) {
    let mut archive = bytes.to_vec();
    archive.chunks_exact_mut(BLOCK).for_each(seal);
    let members = members(&archive);
    for member in &members {
        if let Ok(path) = place::in_tree(&member.path) {
            assert_beneath(&path);
        }
    }
    if let Some(written) = written(&members) {
        assert_eq!(self::members(&written), members);
    }
    let place = Scratch::new();
    if fs::metadata(place.path()).is_ok_and(|place| std::os::unix::fs::MetadataExt::uid(&place) == 0) {
        unpacked(&archive, place.path());
    }
}

fn assert_beneath(path: &Path) {
    let straight: PathBuf = [OsStr::new("/")].into_iter().chain(components(path)).collect();
    assert_eq!(straight.as_os_str(), path.as_os_str());
}

/// Gives a block that would be a header its checksum, by which chance alone never comes.
fn seal(block: &mut [u8]) {
    if block[257..263] == *b"ustar\0" {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// The members up to an error.
fn members(archive: &[u8]) -> Vec<Member> {
    let mut reader = Reader::new(archive);
    let members = std::iter::from_fn(|| reader.member().ok().flatten());
    let mut members: Vec<_> = members.collect();
    for member in &mut members {
        member.look.attributes.sort();
    }
    members
}

/// An archive of these members, all of whose content is zeros; none, if one of them has more than there is memory.
fn written(members: &[Member]) -> Option<Vec<u8>> {
    let mut archive = Vec::new();
    let mut writer = Writer::new(&mut archive);
    for member in members {
        writer.begin(member).ok()?;
        if let What::File(_, extents) = &member.what {
            let length = extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.length))?;
            writer.put(&vec![0; usize::try_from(length).ok().filter(|length| *length <= 1 << 20)?]).ok()?;
        }
    }
    writer.end().ok()?;
    Some(archive)
}

fn unpacked(archive: &[u8], place: &Path) {
    let tree = place.join("tree");
    fs::create_dir(&tree).expect("a directory");
    let root = File::open(&tree).expect("a directory").into();
    let terms = Terms { shares_programs: false, devices: false, names: ["a", "b"] };
    let _ = unpack(Reader::new(archive), &root, &terms);
    let made: Vec<_> = fs::read_dir(place).expect("a directory").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(made, ["tree"]);
    let (mut blocks, mut entries) = (0, 0);
    let root = Node::of(root).expect("the tree");
    walk(&root, &mut PathBuf::from("/"), |node, _| {
        blocks += node.stat.stx_blocks * 512;
        entries += 1;
        Ok(())
    })
    .expect("a tree");
    // A page for each, whatever is in it.
    assert!(blocks <= archive.len() as u64 + 4096 * (entries + 1), "{blocks} bytes in {entries} entries");
}

/// A directory for one archive, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("sbx-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn replay(target: &str, function: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let inputs: Vec<_> = fs::read_dir(corpus).expect("a corpus").flatten().collect();
        assert!(!inputs.is_empty());
        for input in inputs {
            eprintln!("{}", input.path().display());
            function(&fs::read(input.path()).expect("an input"));
        }
    }

    /// A test of each target.
    macro_rules! replay {
        ($($target:ident)*) => { $(#[test] fn $target() { replay(stringify!($target), super::$target); })* };
    }

    replay!(document unit seccomp level passwd group archive manifest);
}
