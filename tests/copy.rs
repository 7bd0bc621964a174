//! `sbx-fs clone SOURCE DESTINATION`: what it refuses, what it leaves, what it shares, and what it says.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use support::{Host, Outcome, skip};

/// A host with the tree `a`, and a file beside it that nothing may touch. Commands start where these are.
fn host() -> Host {
    let host = Host::new();
    host.bash(
        "mkdir -p a/d/e && echo 1 >a/d/file && ln a/d/file a/link && ln -s ../../canary a/d/out && echo 2 >canary",
    )
    .ok();
    host
}

fn clone(host: &Host, operands: &str) -> Outcome {
    host.line(&format!("sbx-fs clone {operands}"))
}

#[track_caller]
fn assert_alike(host: &Host, a: &str, b: &str) {
    assert_eq!(host.line(&format!("rsync -aHAXnc --delete --itemize-changes {a}/ {b}/")).ok().text(), "", "{a} {b}");
    assert_eq!(fs::read(host.path("tmp/canary")).expect("a canary"), b"2\n");
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    entries.map(|name| name.into_string().expect("UTF-8")).collect()
}

#[test]
fn a_clone_is_like_its_source_wherever_it_is_made() {
    let host = host();
    host.bash("chown 33:34 a && chmod 3751 a && setfattr -n trusted.sbx -v 1 a && setfacl -d -m u:33:rx a").ok();
    host.bash("touch -d '2001-02-03 04:05:06.789' a a/d && ln -s a to-a").ok();
    // What a place gives to all that is made in it is not the clone's.
    host.bash("mkdir place && chmod 2777 place && setfacl -d -m u:4711:rwx,g:5:rx place && mkdir place/empty").ok();
    host.bash("setfattr -n user.old -v 1 place/empty && ln -s place/empty to-empty").ok();
    for operands in ["a b", "a place/b", "to-a place/empty/", "a/ b2/", "-- a -b", "a/. ../tmp/b3"] {
        assert_eq!(clone(&host, operands).ok().text(), "");
    }
    for clone in ["b", "place/b", "place/empty", "b2", "./-b", "b3"] {
        assert_alike(&host, "a", clone);
        assert_eq!(host.bash(&format!("getfattr -dm - {clone} | grep -c =")).ok().text(), "2", "{clone}");
    }
    host.bash("rm -r place/empty && mkdir place/empty && cd place && sbx-fs clone ../to-a ../to-empty").ok();
    assert_alike(&host, "a", "place/empty");
}

#[test]
fn what_cannot_be_cloned_is_refused_and_nothing_has_changed() {
    let host = host();
    host.bash("mkdir full && touch full/file && ln -s nowhere dangling && mkdir bound && mount --bind a/d bound").ok();
    let before = host.snapshot();
    for (operands, words) in [
        ("a a/b", "a/b is in a"),
        ("a a/d/e", "a/d/e is in a"),
        ("a a/d/../b", "is in a"),
        ("a a", "not empty"),
        ("a/d/e a/d/e", "a/d/e is in a/d/e"),
        // Only the way through the source shows it.
        ("a bound/b", "it is the clone itself"),
        ("a full", "full is not empty"),
        ("a canary", "canary"),
        ("a dangling", "dangling"),
        ("a none/b", "cannot open none"),
        ("a /", "/ is not empty"),
        ("a/d/file b", "a/d/file"),
        ("none b", "cannot open none"),
    ] {
        clone(&host, operands).assert_failure(1, "sbx-fs", &[words]);
        host.assert_as(&before, operands);
    }
    for wrong in ["a", "a b c", "--copy a b", "--from x a b", "--package x a b", "--dry-run a b", "a b --name x"] {
        clone(&host, wrong).assert_failure(2, "sbx-fs", &["SOURCE and DESTINATION"]);
        host.assert_as(&before, wrong);
    }
}

#[test]
fn a_file_that_is_being_written_is_refused_but_with_force() {
    let host = host();
    let before = host.snapshot();
    let mut writer = host.command(["bash", "-c", "exec 3<>a/d/file; exec tail -f"]);
    let mut writer = writer.stdin(Stdio::piped()).spawn().expect("a writer");
    host.bash("until pgrep -x tail; do sleep 0.01; done").ok();
    let outcome = clone(&host, "a b").assert_failure(1, "sbx-fs", &["being written by tail (process ", "--force"]);
    assert!(outcome.stderr.starts_with("sbx-fs: cannot copy a/"), "{outcome}");
    assert!(!host.path("tmp/b").exists());
    clone(&host, "--force a b").ok();
    assert_alike(&host, "a", "b");
    killpg(Pid::from_raw(writer.id() as i32), Signal::SIGKILL).expect("kill");
    writer.wait().expect("wait");
    host.line("rm -r b").ok();
    host.assert_as(&before, "a writer");
}

#[test]
fn a_clone_that_fails_leaves_nothing() {
    let host = host();
    host.bash("head -c 3M /dev/urandom >a/d/e/large && mkdir small && mount -t tmpfs -o size=1M tmpfs small").ok();
    for place in ["small/b", "small"] {
        clone(&host, &format!("a {place}")).assert_failure(1, "sbx-fs", &["cannot copy a/d/e/large: No space"]);
        assert_eq!(names(&host.root(&host.path("tmp/small").display().to_string())), BTreeSet::new(), "{place}");
    }
}

#[test]
fn a_clone_that_is_killed_leaves_what_it_made_under_a_name_that_says_so() {
    if !Path::new("/usr/bin/strace").exists() {
        return skip("strace is not installed");
    }
    let host = host();
    let before = names(&host.path("tmp"));
    for (call, number) in [("mkdirat", 2), ("linkat", 1), ("utimensat", 3), ("renameat", 1)] {
        let kill = format!("inject={call}:signal=SIGKILL:when={number}");
        host.run(["strace", "-f", "-o", "/dev/null", "-e", &kill, "sbx-fs", "clone", "a", "b"], "").assert_code(137);
        let new: Vec<_> = names(&host.path("tmp")).difference(&before).cloned().collect();
        assert_eq!(new, [".b.sbx-new"], "{call} {number}");
        clone(&host, "a b").assert_failure(1, "sbx-fs", &[".b.sbx-new already exists"]);
        host.line("rm -r .b.sbx-new").ok();
    }
    clone(&host, "a b").ok();
    assert_alike(&host, "a", "b");
}

#[test]
fn a_clone_shares_its_blocks_where_the_file_system_can() {
    if !Path::new("/usr/sbin/mkfs.btrfs").exists() && !Path::new("/sbin/mkfs.btrfs").exists() {
        return skip("mkfs.btrfs is not installed");
    }
    let host = host();
    host.bash("truncate -s 256M image && mkfs.btrfs -q image && mkdir fs && mount -o loop image fs && cp -a a fs").ok();
    host.bash("head -c 8M /dev/urandom >fs/a/large && truncate -s 9M fs/a/large && btrfs -q subvolume create fs/a/sub")
        .ok();
    host.bash("head -c 1M /dev/urandom >fs/a/sub/inner").ok();
    clone(&host, "fs/a fs/b").ok();
    host.line("sync -f fs").ok();
    let shared = host.line("filefrag -v fs/b/large").ok().text();
    assert!(shared.contains("shared"), "{shared}");
    assert_alike(&host, "fs/a", "fs/b");
    host.line("umount fs").ok();
    assert_eq!(host.line("losetup -j image").ok().text(), "");
}

#[test]
fn a_long_clone_tells_a_terminal_how_far_it_is_and_nobody_else() {
    if !Path::new("/usr/bin/strace").exists() {
        return skip("strace is not installed");
    }
    let host = host();
    let _socket = UnixListener::bind(host.path("tmp/a/socket")).expect("a socket");
    symlink("x", host.path("tmp/a/another")).expect("a link");
    let slow = "strace -f -o /dev/null -e inject=fchownat:delay_enter=300000 sbx-fs clone a b";
    assert_eq!(host.line(slow).ok().stderr, "");
    host.line("rm -r b").ok();
    let outcome = host.run(["script", "-qec", slow, "/dev/null"], "").ok();
    let shown = outcome.text();
    let (lines, rest) = shown.rsplit_once("\r\x1b[K").expect("a line that is erased");
    assert!(
        lines.contains("\r\x1b[Ksbx-fs: 0 MiB, ") && lines.ends_with(" left") && !lines.contains('\n'),
        "{shown:?}"
    );
    assert_eq!(rest, "sbx-fs: a/socket is not in the clone: it is a socket\r");
    host.line("rm -r b").ok();
    let quick = host.run(["script", "-qec", "sbx-fs clone a b", "/dev/null"], "").ok();
    assert_eq!(quick.text(), rest);
}

#[test]
fn of_two_clones_into_one_empty_directory_one_is_whole_and_the_other_is_refused() {
    let host = host();
    host.bash("for i in {1..400}; do echo $i >a/d/$i; done; cp -a a other").ok();
    for round in 0..4 {
        host.bash(&format!("mkdir to{round} && {{ sbx-fs clone a to{round} & sbx-fs clone other to{round}; wait; }}"));
        assert_alike(&host, "a", &format!("to{round}"));
    }
}
