use super::*;
use crate::look::XATTR_MAX;
use crate::scratch::{Scratch, is_root};
use proptest::prelude::*;
use rustix::buffer::spare_capacity;
use rustix::fs::{Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, utimensat};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// Two directories, the second one empty, and a file beside them that nothing may touch.
struct Case(Scratch);

impl Case {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        for name in ["from", "to"] {
            fs::create_dir(scratch.path().join(name)).expect("directory");
        }
        fs::write(scratch.path().join("canary"), "canary").expect("canary");
        Self(scratch)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, name: &str) -> OwnedFd {
        File::open(self.path(name)).expect(name).into()
    }

    /// Copies all of `from`, as the judge says; returns the notes.
    fn copy(&self, judge: impl Fn(&Path, &Entry) -> Result<Verdict> + Sync) -> Vec<String> {
        let copier = Copier::new(self.open("from"), self.open("to"), judge).expect("copier");
        for entry in fs::read_dir(self.path("from")).expect("from") {
            let name = entry.expect("entry").file_name();
            copier.copy(&Path::new("/").join(name), Extent::Whole).expect("copy");
        }
        copier.notes()
    }
}

fn all(_: &Path, _: &Entry) -> Result<Verdict> {
    Ok(Verdict::Copy)
}

/// What can be seen of one inode, with the first of its names.
#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: u64,
    modified: (i64, i64),
    content: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    first: PathBuf,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut seen, mut firsts) = (BTreeMap::new(), BTreeMap::new());
    let mut rest = vec![PathBuf::new()];
    while let Some(path) = rest.pop() {
        let place = root.join(&path);
        let metadata = fs::symlink_metadata(&place).expect("metadata");
        let mut content = Vec::new();
        if metadata.is_dir() {
            let mut inner: Vec<_> =
                fs::read_dir(&place).expect("list").map(|e| path.join(e.expect("entry").file_name())).collect();
            inner.sort_by(|a, b| b.cmp(a));
            rest.extend(inner);
        } else if metadata.is_symlink() {
            content = fs::read_link(&place).expect("link").into_os_string().into_encoded_bytes();
        } else if metadata.is_file() {
            content = fs::read(&place).expect("content");
        }
        if path == Path::new("") {
            continue;
        }
        let first = firsts.entry(metadata.ino()).or_insert_with(|| path.clone()).clone();
        let is_directory = metadata.is_dir();
        seen.insert(
            path,
            Seen {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                device: metadata.rdev(),
                // Of a directory it is the file system's affair.
                size: if is_directory { 0 } else { metadata.size() },
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                content,
                attributes: attributes_of(&place),
                first,
            },
        );
    }
    seen
}

fn attributes_of(place: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = Vec::with_capacity(XATTR_MAX);
    llistxattr(place, spare_capacity(&mut names)).expect("list of attributes");
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = Vec::with_capacity(XATTR_MAX);
            lgetxattr(place, name, spare_capacity(&mut value)).expect("attribute");
            (name.to_owned(), value)
        })
        .collect()
}

fn set_time(place: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(rustix::fs::CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
}

/// A capability set as setcap(8) writes it: version 2, effective, cap_net_bind_service.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// ACL entries in the kernel's form: owner rwx, user 33 r--, group r--, mask r--, others none.
fn acl() -> Vec<u8> {
    let entry =
        |tag: u16, mode: u16, id: u32| [&tag.to_le_bytes()[..], &mode.to_le_bytes(), &id.to_le_bytes()].concat();
    let entries = [(1, 7, u32::MAX), (2, 4, 33), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let entries = entries.map(|(tag, mode, id)| entry(tag, mode, id));
    [2_u32.to_le_bytes().to_vec(), entries.concat()].concat()
}

/// One step of making a random tree: what, in which directory, under which name, and a number for the rest.
type Step = (u8, usize, Vec<u8>, u32);

fn step() -> impl Strategy<Value = Step> {
    let name = prop::collection::vec(any::<u8>(), 1..20);
    let name =
        name.prop_filter("a name", |name| !name.contains(&0) && !name.contains(&b'/') && !b"..".starts_with(name));
    (0_u8..8, any::<usize>(), name, any::<u32>())
}

fn make(root: &Path, steps: &[Step]) {
    let (mut directories, mut files) = (vec![root.to_owned()], Vec::new());
    for (kind, parent, name, number) in steps {
        let place = directories[parent % directories.len()].join(OsStr::from_bytes(name));
        if fs::symlink_metadata(&place).is_ok() {
            continue;
        }
        let node = |kind, device| mknodat(rustix::fs::CWD, &place, kind, Mode::RUSR, device).expect("node");
        match kind {
            0 => {
                fs::create_dir(&place).expect("directory");
                directories.push(place.clone());
            }
            1 => symlink(OsStr::from_bytes(name), &place).expect("link"),
            2 => node(FileType::Fifo, 0),
            3 => node(FileType::CharacterDevice, makedev(1, number % 256)),
            4 if !files.is_empty() => {
                fs::hard_link(&files[parent % files.len()], &place).expect("hard link");
                continue;
            }
            _ => {
                fs::write(&place, name.repeat(*number as usize % 500)).expect("file");
                files.push(place.clone());
            }
        }
        lchown(&place, Some(number % 70_000), Some(number % 60_000)).expect("chown");
        if *kind != 1 {
            fs::set_permissions(&place, fs::Permissions::from_mode(number & 0o7777)).expect("chmod");
        }
        lsetxattr(&place, "trusted.sbx", name, XattrFlags::empty()).expect("attribute");
        set_time(&place, i64::from(*number));
    }
    // What was made in a directory later changed its times.
    for (place, number) in directories.iter().skip(1).zip(1..) {
        // What is made in it from now on would have ACLs of its own.
        lsetxattr(place, "system.posix_acl_default", &acl(), XattrFlags::empty()).expect("attribute");
        set_time(place, number);
    }
}

/// Makes a tree, and asserts that its copy is like it.
fn copy_any(test: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let case = Case::new(test);
    make(&case.path("from"), steps);
    prop_assert_eq!(case.copy(all), Vec::<String>::new());
    prop_assert_eq!(look(&case.path("to")), look(&case.path("from")));
    prop_assert_eq!(fs::read(case.path("canary")).expect("canary"), b"canary");
    Ok(())
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(32))]
    #[test]
    fn nobody_can_tell_the_copy_of_any_tree_from_the_original(steps in prop::collection::vec(step(), 0..40)) {
        if is_root() {
            copy_any("any", &steps)?;
        }
    }
}

proptest! {
    #![proptest_config(config(4))]
    #[test]
    fn nor_the_copy_that_several_threads_have_made(steps in prop::collection::vec(step(), 4 * ALONE)) {
        if is_root() {
            copy_any("large", &steps)?;
        }
    }
}

#[test]
fn the_error_of_any_thread_ends_the_copy_and_says_where() {
    if thread::available_parallelism().map_or(1, NonZero::get) == 1 {
        return;
    }
    let case = Case::new("error");
    for number in 0..4 * ALONE {
        fs::create_dir_all(case.path(&format!("from/{}/{number}/deep", number % 8))).expect("directory");
    }
    let (first, failed, later) = (thread::current().id(), OnceLock::new(), AtomicUsize::new(0));
    let judge = |path: &Path, _: &Entry| {
        if failed.get().is_some() {
            later.fetch_add(1, Relaxed);
        } else if thread::current().id() != first && path.ends_with("deep") && failed.set(path.to_owned()).is_ok() {
            bail!("not this one");
        }
        // Until there are others.
        thread::sleep(Duration::from_millis(1));
        Ok(Verdict::Copy)
    };
    let copier = Copier::new(case.open("from"), case.open("to"), judge).expect("copier").called("/x".as_ref());
    let error = format!("{:#}", copier.copy_all().expect_err("fails"));
    let place = failed.get().expect("another thread").display();
    assert_eq!(error, format!("cannot copy {place}: not this one"));
    assert!(later.into_inner() < ALONE, "it went on");
}

#[test]
fn a_file_that_several_threads_find_under_several_names_is_one() {
    let case = Case::new("links");
    for number in 0..ALONE {
        fs::write(case.path(&format!("from/{number}")), "").expect("file");
    }
    // In the order in which a thread comes to one name of each as another does to the other, as a rule.
    for number in 0..4 * ALONE {
        fs::write(case.path(&format!("from/{number}.a")), "").expect("file");
    }
    for number in 0..4 * ALONE {
        let [a, b] = ["a", "b"].map(|name| case.path(&format!("from/{number}.{name}")));
        fs::hard_link(a, b).expect("link");
    }
    Copier::new(case.open("from"), case.open("to"), all).expect("copier").copy_all().expect("copy");
    assert_eq!(look(&case.path("to")), look(&case.path("from")));
}

#[test]
fn setuid_capabilities_acls_times_and_holes_are_kept() {
    if !is_root() {
        return;
    }
    let case = Case::new("kept");
    let from = case.path("from");
    fs::create_dir(from.join("d")).expect("directory");
    for name in ["d/setuid", "d/capable", "d/shared"] {
        fs::write(from.join(name), name).expect("file");
        lchown(from.join(name), Some(33), Some(34)).expect("chown");
    }
    fs::set_permissions(from.join("d/setuid"), fs::Permissions::from_mode(0o6755)).expect("chmod");
    let set = |name: &str, attribute: &str, value: &[u8]| {
        lsetxattr(from.join(name), attribute, value, XattrFlags::empty()).expect(attribute);
    };
    set("d/capable", "security.capability", &CAPABILITY);
    set("d/shared", "system.posix_acl_access", &acl());
    set("d", "system.posix_acl_default", &acl());
    let sparse = File::create(from.join("d/sparse")).expect("file");
    sparse.write_all_at(b"middle", 8 << 20).expect("write");
    sparse.set_len(16 << 20).expect("length");
    for name in ["d/setuid", "d/sparse", "d"] {
        set_time(&from.join(name), 1_000_000_000);
    }
    case.copy(all);
    let to = case.path("to");
    let metadata = |name: &str| fs::metadata(to.join(name)).expect(name);
    assert!(metadata("d/sparse").blocks() * 512 < 1 << 20);
    for name in ["d/setuid", "d"] {
        assert_eq!((metadata(name).atime(), metadata(name).atime_nsec()), (1_000_000_000, 123_456_789), "{name}");
    }
    assert_eq!(look(&to), look(&from));
}

#[test]
fn a_socket_is_passed_over_with_a_word_and_a_verdict_is_obeyed() {
    let case = Case::new("verdict");
    let from = case.path("from");
    fs::create_dir_all(from.join("d/secret/deep")).expect("directory");
    fs::write(from.join("d/shadow"), "hash").expect("file");
    fs::set_permissions(from.join("d/shadow"), fs::Permissions::from_mode(0o640)).expect("chmod");
    let _socket = UnixListener::bind(from.join("d/socket")).expect("socket");
    symlink("secret", from.join("d/link")).expect("link");
    let notes = case.copy(|path, entry| {
        Ok(match entry {
            Entry::Directory if path.ends_with("secret") => Verdict::Leave,
            Entry::File(..) => Verdict::Change(b"!".to_vec()),
            Entry::Link(target) if *target == Path::new("secret") => Verdict::Leave,
            _ => Verdict::Copy,
        })
    });
    assert_eq!(notes, ["/d/socket is not in the clone: it is a socket"]);
    let seen = look(&case.path("to"));
    assert_eq!(seen.keys().map(PathBuf::as_path).collect::<Vec<_>>(), [Path::new("d"), Path::new("d/shadow")]);
    assert_eq!(seen[Path::new("d/shadow")].content, b"!");
    assert_eq!(seen[Path::new("d/shadow")].mode & 0o7777, 0o640);
}

#[test]
fn a_node_comes_with_the_directories_above_it_and_nothing_else() {
    let case = Case::new("node");
    fs::create_dir_all(case.path("from/a/b/c")).expect("directory");
    fs::write(case.path("from/a/b/c/file"), "").expect("file");
    fs::set_permissions(case.path("from/a"), fs::Permissions::from_mode(0o2751)).expect("chmod");
    symlink("/", case.path("from/out")).expect("link");
    let copier = Copier::new(case.open("from"), case.open("to"), all).expect("copier");
    copier.copy("/a/b/c".as_ref(), Extent::Node).expect("copy");
    copier.copy("/a/none/x".as_ref(), Extent::Whole).expect("nothing there");
    assert!(copier.copy("/out/etc/passwd".as_ref(), Extent::Whole).is_err());
    let seen = look(&case.path("to"));
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"].map(Path::new));
    assert_eq!(seen[Path::new("a")].mode & 0o7777, 0o2751);
}

#[test]
fn a_tree_deeper_than_any_path_is_copied_and_removed() {
    const DEPTH: usize = 600;
    let case = Case::new("deep");
    let name = "n".repeat(255);
    let descend = |root: &str| {
        let mut node = Node::of(case.open(root)).expect("root");
        for _ in 0..DEPTH {
            node = Node::at(&node, name.as_ref()).expect("look").expect("there");
        }
        node
    };
    let mut here = Node::of(case.open("from")).expect("root");
    for _ in 0..DEPTH {
        here = directory(&here, name.as_ref()).expect("directory").0;
    }
    create(&here, "a".as_ref()).expect("file");
    linkat(&here, "a", &here, "b", AtFlags::empty()).expect("link");
    case.copy(all);
    let bottom = descend("to");
    let id = |name: &str| Node::at(&bottom, name.as_ref()).expect("look").expect("there").id();
    assert_eq!(id("a"), id("b"));
    for root in ["from", "to"] {
        let errors = crate::tree::remove(case.open("."), root.as_ref(), Path::new(root));
        assert!(errors.is_empty(), "{errors:?}");
        assert!(!case.path(root).exists());
    }
}
