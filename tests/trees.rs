//! Cloned trees, as independent programs see them.

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use support::Host;

/// How many entries a random tree has.
const ENTRIES: u32 = 10_000;

/// The most bytes of a path that every program can use (PATH_MAX is 4096).
const LONGEST: usize = 3000;

/// Numbers that look random, the same for the same seed (xorshift64*).
pub struct Random(pub u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    /// Any bytes but those that no name may have.
    fn name(&mut self) -> OsString {
        let length = 1 + self.below(40);
        let byte = |random: &mut Self| match random.below(254) as u8 + 1 {
            b'/' => b'-',
            byte => byte,
        };
        // Neither `.` nor `..`.
        let first = b"-+~# \n\\aB\xff"[self.below(10)];
        OsString::from_vec([first].into_iter().chain((0..length).map(|_| byte(self))).collect())
    }
}

/// Makes a tree of all kinds of file.
pub fn make_tree(root: &Path, random: &mut Random) {
    let (mut directories, mut files) = (vec![root.to_owned()], vec![]);
    for _ in 0..ENTRIES {
        // Often in the newest, so that it grows deep.
        let parent = match random.below(3) {
            0 => directories.len() - 1,
            _ => random.below(directories.len()),
        };
        let path = directories[parent].join(random.name());
        if path.as_os_str().len() > LONGEST || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match random.below(16) {
            0..3 => {
                fs::create_dir(&path).expect("a directory");
                directories.push(path.clone());
            }
            3 | 4 => {
                let targets = [OsStr::new("/etc/passwd"), OsStr::new("../../../../../../canary"), OsStr::new("x")];
                symlink(targets[random.below(3)], &path).expect("a link");
                lchown(&path, Some(random.below(70_000) as u32), Some(33)).expect("an owner");
                continue;
            }
            5 => mknod(&path, SFlag::S_IFIFO, Mode::S_IRUSR, 0).expect("a FIFO"),
            6 => mknod(&path, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).expect("a device"),
            7 if !files.is_empty() => {
                let first: &PathBuf = &files[random.below(files.len())];
                fs::hard_link(first, &path).expect("a hard link");
                continue;
            }
            8 => {
                let file = File::create(&path).expect("a file");
                file.set_len(random.below(8 << 20) as u64).expect("a hole");
                file.write_all_at(b"data", random.below(4 << 20) as u64).expect("data");
            }
            _ => {
                let content = vec![random.below(256) as u8; random.below(20_000)];
                fs::write(&path, content).expect("a file");
                files.push(path.clone());
            }
        }
        lchown(&path, Some(random.below(70_000) as u32), Some(random.below(70_000) as u32)).expect("an owner");
        fs::set_permissions(&path, fs::Permissions::from_mode(random.below(0o10000) as u32)).expect("a mode");
    }
    let some = |paths: &[PathBuf], each: usize| paths.iter().step_by(each).cloned().collect::<Vec<_>>();
    // cap_net_bind_service=ep, as setcap(8) writes it.
    let capability = "0x0100000200040000000000000000000000000000";
    on_all(&["setfattr", "-n", "security.capability", "-v", capability], &some(&files, 7));
    on_all(&["setfacl", "-m", "u:4711:rw,g:33:x"], &some(&files, 5));
    on_all(&["setfacl", "-d", "-m", "u:4711:rwx"], &some(&directories[1..], 3));
    on_all(&["setfattr", "-n", "trusted.sbx", "-v", "0x00ff0a"], &some(&files, 3));
    for (number, path) in files.iter().chain(directories.iter().rev()).enumerate() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + number as u64, 123_456_789);
        File::open(path).and_then(|file| file.set_modified(time)).expect("a time");
    }
}

/// Runs a program with many files.
fn on_all(program: &[&str], paths: &[PathBuf]) {
    let mut xargs = Command::new("xargs").arg("-0").args(program).stdin(Stdio::piped()).spawn().expect("xargs");
    let mut stdin = xargs.stdin.take().expect("a pipe");
    for path in paths {
        stdin.write_all(&[path.as_os_str().as_encoded_bytes(), b"\0"].concat()).expect("a path");
    }
    drop(stdin);
    assert!(xargs.wait().expect("xargs").success(), "{program:?}");
}

/// The blocks of all that is below a directory.
fn blocks(host: &Host, root: &Path) -> u64 {
    let root = root.to_str().expect("UTF-8");
    host.run(["du", "-sk", root], "")
        .ok()
        .text()
        .split_whitespace()
        .next()
        .expect("a number")
        .parse()
        .expect("a number")
}

#[test]
fn rsync_finds_no_difference_between_any_tree_and_its_clone() {
    let host = Host::new();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    host.service(&format!("create {a} -- /bin/true")).ok();
    let canary = host.path("canary");
    fs::write(&canary, "canary").expect("a canary");
    let written = fs::metadata(&canary).expect("a canary").mtime_nsec();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_nanos() as u64 | 1;
    let [from, to] = [&a, &b].map(|name| host.tree(name).join("srv"));
    make_tree(&from, &mut Random(seed));

    host.service(&format!("clone {a} {b}")).ok();
    // With content, and what is only in the clone.
    let difference = |to: &Path| {
        let line = format!("rsync -aHAXnc --delete --itemize-changes {}/ {}/", from.display(), to.display());
        host.line(&line).ok().text()
    };
    assert_eq!(difference(&to), "", "seed {seed}");
    let alone = host.path("tmp/alone");
    host.line(&format!("sbx-fs clone {} {}", from.display(), alone.display())).ok();
    assert_eq!(difference(&alone), "", "seed {seed}");
    let (original, copy) = (blocks(&host, &from), blocks(&host, &to));
    assert!(copy <= original + original / 20, "{copy} KiB of {original}: holes are filled; seed {seed}");
    fs::write(to.join("more"), "").expect("a file");
    assert_eq!(difference(&to).lines().next(), Some("*deleting   more"), "it is rsync that would tell");
    assert_eq!(fs::read(&canary).expect("a canary"), b"canary");
    assert_eq!(fs::metadata(&canary).expect("a canary").mtime_nsec(), written);
    for name in [&b, &a] {
        host.service(&format!("delete {name}")).ok();
    }
    assert!(!from.exists() && !to.exists() && canary.exists());
}
