//! Archives: what comes back from one on another host, and what one may be that is not ours.

use crate::trees::{Random, make_tree};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use support::{Host, Outcome};

/// What of a tree is not the same in another container, as rsync has it.
const IDENTITY: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/machine-id"];

/// Exports a container to a file.
fn export(host: &Host, name: &str) -> PathBuf {
    let file = host.path("tmp").join(format!("{name}.tar"));
    host.bash(&format!("virt-sandbox-service export {name} >{}", file.display())).ok();
    file
}

fn import(host: &Host, options: &str, name: &str, file: &Path) -> Outcome {
    host.bash(&format!("virt-sandbox-service import {options} {name} <{}", file.display()))
}

/// Asserts that two trees differ in what says who they are, and where the host has its programs, and in nothing else.
#[track_caller]
fn assert_alike(host: &Host, from: &Path, to: &Path) {
    let sides = [from, to].map(|side| format!("{}/", side.display()));
    let compare = ["rsync", "-aHAXnc", "--delete", "--itemize-changes", "--omit-dir-times"];
    let compare = compare.into_iter().chain(["--exclude=/bin", "--exclude=/sbin", "--exclude=/lib*"]);
    let told = host.run(compare.chain(sides.iter().map(String::as_str)), "").ok().text();
    let other: Vec<_> = told.lines().filter(|line| !IDENTITY.iter().any(|own| line.ends_with(own))).collect();
    assert_eq!(other, [""; 0]);
}

#[test]
fn a_service_moves_to_another_host_and_is_another_container_there() {
    let [host, other] = [(), ()].map(|()| Host::new());
    for host in [&host, &other] {
        host.unit("probe@.service", "[Service]\nExecStart=/bin/sleep 1000\nPrivateTmp=yes\n");
    }
    let (a, b) = (host.name("a"), other.name("b"));
    let mounts = "-m ram:/srv/ram=1M -m host-bind:/srv/host=/etc";
    host.service(&format!("create -u probe@ --memory 256M {mounts} {a}")).ok();
    let from = host.tree(&a);
    fs::write(from.join("srv/page"), "mine").expect("a page");
    fs::write(from.join("etc/hosts"), format!("127.0.0.1 localhost\n127.0.1.1\t{a}\n10.0.0.1 db\n")).expect("an edit");
    // It has journals now.
    host.service(&format!("start {a}")).ok();
    host.service(&format!("stop {a}")).ok();
    let archive = export(&host, &a);

    let before = other.snapshot();
    let line = format!("virt-sandbox-service import {b} <{}", archive.display());
    let told = other.run(["script", "-qec", &line, "/dev/null"], "").ok();
    assert!(told.text().contains("left out, unless --mount gives it again: host-bind:/srv/host=/etc"), "{told}");
    let (first, second) = (host.defined(&a), other.defined(&b));
    let unit = format!("probe@{b}.service");
    assert_eq!(second["sbx"]["unit"]["names"], json!([unit]));
    assert_eq!(second["sbx"]["unit"]["switchedOff"][&unit], json!(["PrivateTmp"]));
    assert_eq!(second["sbx"]["mounts"], json!(["ram:/srv/ram=1M"]));
    for field in ["/linux/resources", "/process/args", "/process/env", "/process/capabilities", "/linux/seccomp"] {
        assert_eq!(second.pointer(field), first.pointer(field), "{field}");
    }
    for field in ["/hostname", "/root/path", "/process/selinuxLabel", "/linux/mountLabel", "/linux/cgroupsPath"] {
        assert_ne!(second.pointer(field), first.pointer(field), "{field}");
    }
    let to = other.tree(&b);
    let read = |tree: &Path, file: &str| fs::read_to_string(tree.join(file)).expect(file);
    assert_eq!(read(&to, "etc/hosts"), format!("127.0.0.1 localhost\n127.0.1.1\t{b}\n10.0.0.1 db\n"));
    assert_ne!(read(&to, "etc/machine-id"), read(&from, "etc/machine-id"));
    assert!(!to.join("var/log/journal").join(read(&from, "etc/machine-id").trim()).exists());

    other.service(&format!("start {b}")).ok();
    let seen = other.inside(&b, "hostname; systemctl is-active probe@*; cat /srv/page").ok().text();
    assert_eq!(seen, format!("{b}\nactive\nmine"));
    other.service(&format!("stop {b}")).ok();
    // It can be upgraded as the other one can.
    assert!(!other.service(&format!("diff {b}")).ok().text().contains("/etc/host"));
    other.service(&format!("upgrade {b}")).ok();
    other.service(&format!("delete {b}")).ok();
    other.assert_as(&before, "delete");
}

#[test]
fn a_unit_that_another_host_does_not_have_is_named_there_and_nothing_is_left() {
    let [host, other] = [(), ()].map(|()| Host::new());
    host.unit("probe.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    let (a, b) = (host.name("a"), other.name("b"));
    host.service(&format!("create -u probe {a}")).ok();
    let archive = export(&host, &a);
    let before = other.snapshot();
    import(&other, "", &b, &archive).assert_failure(1, "sbx-unit", &["probe.service"]);
    other.assert_as(&before, "a failed import");
}

#[test]
fn rsync_finds_no_difference_between_any_tree_and_what_import_or_tar_make_of_its_archive() {
    let host = Host::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| host.name(name));
    host.service(&format!("create {a} -- /bin/sleep 1000")).ok();
    let from = host.tree(&a);
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_nanos() as u64 | 1;
    make_tree(&from.join("srv"), &mut Random(seed));
    let deep = from.join("root").join(vec!["n".repeat(200); 15].join("/"));
    fs::create_dir_all(&deep).expect("directories");
    fs::write(deep.join("file"), "deep").expect("a file");
    // Those that have it lose the one attribute that import passes over.
    host.bash(&format!("find {}/srv -exec setfattr -h -x trusted.sbx {{}} + 2>/dev/null || :", from.display())).ok();
    eprintln!("seed {seed}");

    let archive = export(&host, &a);
    import(&host, "--device", &b, &archive).ok();
    assert_alike(&host, &from, &host.tree(&b));
    let blocks = |tree: &Path| -> u64 {
        let told = host.run(["du", "-sk", tree.to_str().expect("UTF-8")], "").ok().text();
        told.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let (original, copy) = (blocks(&from), blocks(&host.tree(&b)));
    assert!(copy <= original + original / 20, "{copy} KiB of {original}: holes are filled");

    let place = host.path("tmp/extracted");
    fs::create_dir(&place).expect("a directory");
    let tar = "tar --numeric-owner --xattrs --xattrs-include=* ";
    let (shown, packed) = (place.display(), host.path("tmp/packed.tar"));
    host.line(&format!("{tar} -C {shown} -xpf {}", archive.display())).ok();
    assert_alike(&host, &from, &place.join("root"));
    // And what tar makes of that is an archive too.
    host.line(&format!("{tar} -C {shown} -S --posix -cf {} definition.json manifest root", packed.display())).ok();
    import(&host, "--device", &c, &packed).ok();
    assert_alike(&host, &from, &host.tree(&c));
    host.bash(&format!("virt-sandbox-service export {c} | virt-sandbox-service import --device {d}")).ok();
    assert_alike(&host, &from, &host.tree(&d));
    for name in [a, b, c, d] {
        host.service(&format!("delete {name}")).ok();
    }
}

#[test]
fn what_a_tree_was_kept_in_does_not_go_along() {
    let host = Host::new();
    let before = host.snapshot();
    let [a, b, c] = ["a", "b", "c"].map(|name| host.name(name));
    host.service(&format!("create --store overlay {a} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {a}")).ok();
    host.inside(&a, "echo mine >/srv/page && rm /etc/motd").ok();
    // Its tree is the root of one that runs.
    let archive = export(&host, &a);
    for (options, name) in [("-i 24", &b), ("--store overlay", &c)] {
        import(&host, options, name, &archive).ok();
        host.service(&format!("start {name}")).ok();
        let seen = host.inside(name, "cat /srv/page /etc/hostname; ls /etc/motd 2>/dev/null").assert_code(2).text();
        assert_eq!(seen, format!("mine\n{name}"));
        assert_eq!(host.service(&format!("diff {name}")).ok().text(), "removed /etc/motd");
    }
    for name in [a, b, c] {
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
    }
    fs::remove_file(archive).expect("remove");
    host.assert_as(&before, "delete");
}

#[test]
fn what_is_being_written_or_would_garble_a_terminal_is_not_exported() {
    let host = Host::new();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    host.service(&format!("create {a} -- /bin/sleep 1000")).ok();
    let data = host.tree(&a).join("srv/data");
    let _socket = UnixListener::bind(host.tree(&a).join("srv/socket")).expect("a socket");
    fs::hard_link(host.tree(&a).join("srv/socket"), host.tree(&a).join("srv/again")).expect("a hard link");
    let export = |options: &str| {
        let line = format!("virt-sandbox-service export {options} {a} >archive");
        host.bash(&format!("exec 5<>{} && {line}", data.display()))
    };
    export("").assert_failure(
        1,
        "sbx-fs",
        &["cannot copy /srv/data: it is being written by bash (process ", "--force"],
    );
    export("--force").ok();
    import(&host, "", &b, &host.path("tmp/archive")).ok();
    // Nobody listens on the copy of a socket.
    assert_eq!(fs::read_dir(host.tree(&b).join("srv")).expect("srv").count(), 1);

    let terminal = |line: &str| {
        let line = format!("{line} 2>stderr");
        host.run(["script", "-qec", &line, "/dev/null"], "").assert_code(2);
        fs::read_to_string(host.path("tmp/stderr")).expect("stderr")
    };
    let said = terminal(&format!("virt-sandbox-service export {a}"));
    assert_eq!(said, "sbx-fs: would write an archive to a terminal\n");
    let said = terminal(&format!("virt-sandbox-service import {}", host.name("c")));
    assert_eq!(said, "sbx-fs: stdin is a terminal: pipe an archive in\n");
    host.bash(&format!("virt-sandbox-service export {a} >/dev/full")).assert_failure(1, "sbx-fs", &["stdout"]);
    let none = host.service(&format!("export {}", host.name("none")));
    none.assert_failure(1, "virt-sandbox-service", &["no container"]);
}

/// A block of an archive: a header.
fn header(kind: u8, path: &str, link: &str, size: usize, id: u32) -> Vec<u8> {
    let mut block = vec![0; 512];
    let device = b"0000001\x000000003\0";
    let numbers = format!("0000644\0{id:07o}\0{id:07o}\0{size:011o}\0{:011o}\0", 0);
    for (at, field) in [(0, path.as_bytes()), (100, numbers.as_bytes()), (148, b"        "), (157, link.as_bytes())] {
        block[at..at + field.len()].copy_from_slice(field);
    }
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..345].copy_from_slice(device);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// An archive, made by hand.
#[derive(Clone, Default)]
struct Archive(Vec<u8>);

impl Archive {
    /// One that is all right so far.
    fn of(definition: &Value) -> Self {
        let start = Self::default().file("definition.json", definition.to_string().as_bytes());
        start.file("manifest", b"#mtree\n").member(b'5', "root").member(b'5', "root/etc").member(b'5', "root/srv")
    }

    /// Of a command's container.
    fn new() -> Self {
        Self::of(&json!({ "sbx": { "name": "x" }, "process": { "args": ["/bin/sleep", "1000"] } }))
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn member(self, kind: u8, path: &str) -> Self {
        self.put(&header(kind, path, "", 0, 0))
    }

    fn link(self, kind: u8, path: &str, to: &str) -> Self {
        self.put(&header(kind, path, to, 0, 0))
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.put(&header(b'0', path, "", content.len(), 0)).put(content)
    }

    /// An extended header for the next member.
    fn records(self, records: &[(&str, &str)]) -> Self {
        let record = |(key, value): &(&str, &str)| {
            let rest = format!(" {key}={value}\n");
            // Its own digits count too.
            let length = (0..).find(|length: &usize| length.to_string().len() + rest.len() == *length);
            format!("{}{rest}", length.expect("a length"))
        };
        let text: String = records.iter().map(record).collect();
        self.put(&header(b'x', "PaxHeader", "", text.len(), 0)).put(text.as_bytes())
    }

    fn sparse(self, size: &str, map: &str, data: &[u8]) -> Self {
        let version = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "root/srv/sparse")];
        let content = Self::default().put(map.as_bytes()).put(data).0;
        let content = &content[..content.len() - (512 - data.len() % 512) % 512];
        self.records(&[&version[..], &[("GNU.sparse.realsize", size)]].concat()).file("GNUSparseFile", content)
    }

    fn end(self) -> Vec<u8> {
        self.put(&[0; 1024]).0
    }
}

/// A host with a canary that archives may know the place of.
struct Target {
    host: Host,
    name: String,
    canary: PathBuf,
}

impl Target {
    fn new() -> Self {
        let host = Host::new();
        let (name, canary) = (host.name("x"), host.path("tmp/canary"));
        fs::create_dir(&canary).expect("a directory");
        fs::write(canary.join("file"), "canary").expect("a canary");
        Self { host, name, canary }
    }

    /// The canary, as nothing may change it.
    fn canary(&self) -> Vec<(u64, u64, i64, i64, u32)> {
        let seen = |path: &Path| {
            let meta = fs::symlink_metadata(path).expect("the canary");
            (meta.ino(), meta.nlink(), meta.mtime_nsec(), meta.ctime_nsec(), meta.mode())
        };
        assert_eq!(fs::read_dir(&self.canary).expect("the canary").count(), 1);
        vec![seen(&self.canary), seen(&self.canary.join("file"))]
    }

    fn import(&self, options: &str, archive: &[u8]) -> Outcome {
        self.host.run(["bash", "-c", &format!("virt-sandbox-service import {options} {}", self.name)], archive)
    }

    #[track_caller]
    fn assert_refused(&self, archive: &[u8], words: &[&str]) {
        let (before, canary) = (self.host.snapshot(), self.canary());
        self.import("", archive).assert_failure(1, "sbx-fs", words);
        self.host.assert_as(&before, "a refused import");
        assert_eq!(self.canary(), canary, "{words:?}");
    }
}

#[test]
fn an_archive_that_leads_out_of_its_tree_is_refused_and_nothing_is_left() {
    let target = Target::new();
    let canary = target.canary.display().to_string();
    let file = format!("{canary}/file");
    let out = || Archive::new().link(b'2', "root/out", &canary);
    let at = |path: &str| Archive::new().file(path, b"x");
    for (archive, words) in [
        (at("/root/x"), "cannot import /root/x: its path does not go straight down"),
        (at("root/../x"), "straight down"),
        (at("../root/x"), "straight down"),
        (at("root/./x"), "straight down"),
        (at("root//x"), "straight down"),
        (at("etc/passwd"), "not beneath root/"),
        (at("definition.json"), "not beneath root/"),
        (Archive::new().records(&[("path", "/etc/x")]).file("root/x", b"x"), "straight down"),
        (Archive::new().records(&[("path", "root/x\0y")]).file("root/x", b"x"), "zero byte"),
        (out().file("root/out/x", b"x"), "root/out/x: "),
        (out().member(b'5', "root/out"), "Not a directory"),
        (out().member(b'5', "root/out/d"), "root/out/d: "),
        (out().link(b'1', "root/l", "root/out/file"), "root/l: "),
        (out().link(b'1', "root/l", "root/out").file("root/l", b"x"), "File exists"),
        (Archive::new().link(b'2', "root/f", &file).file("root/f", b"x"), "root/f: File exists"),
        (Archive::new().link(b'1', "root/l", &file), "straight down"),
        (Archive::new().link(b'1', "root/l", "etc/passwd"), "not beneath root/"),
        (Archive::new().link(b'1', "root/l", "root/../../../../etc/passwd"), "straight down"),
        (Archive::new().link(b'1', "root/l", "root/etc"), "it links to a directory"),
        (Archive::new().link(b'1', "root/l", "root/none"), "/none is not in the archive before it"),
        (at("root/none/x"), "/none is not in the archive before it"),
        (at("root/x").file("root/x", b"y"), "File exists"),
        (at("root/x").member(b'5', "root/x"), "Not a directory"),
        (at("root/etc"), "File exists"),
        (at("root"), "the root is no directory"),
        (Archive::new().member(b'3', "root/null"), "it is a device: only --device"),
        (Archive::new().member(b'4', "root/disk"), "it is a device: only --device"),
        (Archive::new().member(b'7', "root/x"), "a kind that is not supported"),
        (Archive::new().member(b'L', "root/x"), "a kind that is not supported"),
        (Archive::new().member(b'g', "root/x"), "a kind that is not supported"),
    ] {
        target.assert_refused(&archive.end(), &[words]);
    }
    // What has the place of a parent by the name alone is not one: the tree's own /etc is to be one too.
    let start = json!({ "sbx": { "name": "x" }, "process": { "args": ["x"] } }).to_string();
    let start = Archive::default().file("definition.json", start.as_bytes()).file("manifest", b"#mtree\n");
    target.assert_refused(&start.clone().link(b'2', "root/etc", &canary).end(), &["etc/machine-id"]);
    target.assert_refused(&start.end(), &["etc/machine-id"]);
    target.host.service(&format!("create {} -- /bin/sleep 1000", target.name)).ok();
}

#[test]
fn an_archive_that_is_malformed_is_refused_and_nothing_is_left() {
    let target = Target::new();
    let with = |key: &str, value: &str| Archive::new().records(&[(key, value)]).file("root/x", b"x").end();
    let sparse = |size: &str, map: &str, data: &[u8]| Archive::new().sparse(size, map, data).end();
    let two_megabytes = Archive::new().put(&header(b'x', "PaxHeader", "", 2 << 20, 0)).put(&vec![b'x'; 2 << 20]).end();
    let definition = Archive::default().file("definition.json", b"{}");
    let manifest = Archive::default().file("manifest", b"#mtree\n");
    let whole = Archive::new().file("root/x", &[7; 3000]).end();
    let mut flipped = whole.clone();
    flipped[8] ^= 1;
    for (archive, words) in [
        (b"no archive".to_vec(), "truncated"),
        (vec![b'x'; 2000], "it is no archive in the pax format"),
        (vec![0; 1024], "the archive has no definition.json"),
        (flipped, "the checksum"),
        (manifest.end(), "manifest is where the archive was to have definition.json"),
        (Archive::default().member(b'5', "root").end(), "root is where"),
        (Archive::default().link(b'2', "definition.json", "/etc/passwd").end(), "definition.json is no file"),
        (Archive::default().put(&header(b'0', "definition.json", "", 2 << 20, 0)).end(), "definition.json is no file"),
        (definition.end(), "definition.json: "),
        (Archive::default().file("definition.json", b"[]").end(), "definition.json: "),
        (Archive::default().file("definition.json", br#"{"sbx":{"name":"x"}}"#).end(), "the archive has no manifest"),
        (
            Archive::default().file("definition.json", br#"{"sbx":{"name":"x"}}"#).file("manifest", b"nonsense").end(),
            "manifest: bad line",
        ),
        (two_megabytes, "extended header: 2097152 bytes are too many"),
        (with("size", "9223372036854775808"), "too large"),
        (with("size", "99999999999999999999"), "too large"),
        (with("size", "-1"), "no number"),
        (with("uid", "4294967296"), "uid 4294967296 is too large"),
        (with("gid", "4294967295"), "gid 4294967295 is too large"),
        (with("mtime", "x"), "mtime"),
        (with("GNU.sparse.map", "0,1"), "another way than GNU tar's format 1.0"),
        (Archive::new().put(&header(b'x', "PaxHeader", "", 4, 0)).put(b"99 x").end(), "malformed"),
        (Archive::new().put(&header(b'5', "root/d", "", 512, 0)).put(b"x").end(), "has content"),
        (sparse("10", "2\n0\n5\n4\n5\n", b"0123456789"), "goes backwards"),
        (sparse("10", "2\n5\n5\n0\n5\n", b"0123456789"), "goes backwards"),
        (sparse("9", "1\n0\n10\n", b"0123456789"), "goes beyond its size"),
        (sparse("18446744073709551615", "1\n18446744073709551615\n9\n", b"012345678"), "too large"),
        (sparse("18446744073709551615", "1\n0\n9\n", b"012345678"), "goes beyond its size"),
        (sparse("10", "1\n0\n5\n", b"0123456789"), "other content than its map"),
        (sparse("10", "99999999999\n0\n5\n", b"0123456789"), "the map of its holes"),
        (sparse("10", "x\n", b"0123456789"), "the map of its holes"),
        ([&whole[..], b"more"].concat(), "something follows"),
        ([&whole[..], &whole].concat(), "something follows"),
        (whole[..whole.len() - 1024].to_vec(), "truncated"),
        (whole[..whole.len() - 3000].to_vec(), "cannot import root/x: the archive is truncated"),
        (whole[..1500].to_vec(), "truncated"),
    ] {
        target.assert_refused(&archive, &[words]);
    }
    let nothing = target.import("", b"");
    assert_eq!((nothing.code, nothing.text().as_str(), nothing.stderr.as_str()), (1, "", ""), "{nothing}");
    target.import("", &whole).ok();
    let host = &target.host;
    host.service(&format!("start {}", target.name)).ok();
    host.service(&format!("stop {}", target.name)).ok();
}

#[test]
fn what_an_archive_may_not_give_is_passed_over() {
    let target = Target::new();
    let archive = Archive::new()
        .records(&[
            ("SCHILY.xattr.user.kept", "x"),
            ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.security.ima", "x"),
            ("SCHILY.xattr.security.selinux", "system_u:object_r:etc_t:s0"),
        ])
        .file("root/srv/x", b"x")
        .file("root/etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
        .member(b'5', "root/var")
        .member(b'5', "root/var/log")
        .member(b'5', "root/var/log/journal")
        .member(b'5', "root/var/log/journal/0123456789abcdef0123456789abcdef")
        .link(b'2', "root/bin", "/srv")
        .member(b'3', "root/null");
    target.import("--device", &archive.end()).ok();
    let tree = target.host.tree(&target.name);
    let told = target.host.line(&format!("getfattr -d -m - {}", tree.join("srv/x").display())).ok().text();
    let names: Vec<_> = told.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(names, ["user.kept"]);
    assert!(!fs::read_to_string(tree.join("etc/machine-id")).expect("an id").starts_with("0123"));
    assert_eq!(fs::read_dir(tree.join("var/log/journal")).expect("journals").count(), 0);
    // Programs are found as on the host.
    assert_eq!(fs::read_link(tree.join("bin")).ok(), fs::read_link("/bin").ok());
    assert_eq!(fs::metadata(tree.join("null")).expect("a device").rdev(), nix::sys::stat::makedev(1, 3));
}

#[test]
fn a_definition_that_wants_the_host_gets_what_create_gives() {
    let target = Target::new();
    let host = &target.host;
    let twin = host.name("twin");
    let hostile = json!({
        "ociVersion": "9.9.9",
        "hooks": { "prestart": [{ "path": "/bin/sh" }], "startContainer": [{ "path": "/bin/sh" }] },
        "annotations": { "run.oci.keep_original_groups": "1" },
        "root": { "path": "/" },
        "mounts": [{ "destination": "/srv", "type": "bind", "source": "/etc", "options": ["rbind"] }],
        "process": {
            "args": ["/bin/sleep", "1000"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "user": { "uid": 0, "gid": 0, "umask": 0, "additionalGids": [6] },
            "capabilities": { "bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"] },
            "noNewPrivileges": false,
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": 1, "hard": 1 }],
            "selinuxLabel": "system_u:system_r:unconfined_t:s0",
            "oomScoreAdj": -1000,
        },
        "linux": {
            "namespaces": [{ "type": "network", "path": "/proc/1/ns/net" }],
            "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" },
            "maskedPaths": [],
            "readonlyPaths": [],
            "mountLabel": "system_u:object_r:etc_t:s0",
            "cgroupsPath": "/system.slice",
            "resources": { "devices": [{ "allow": true }], "unified": { "memory.max": "max" } },
        },
        "sbx": {
            "name": "x",
            "net": { "interfaces": [{ "name": "eth0" }] },
            "state": { "holder": { "pid": 1 } },
            "clone": { "from": "../x", "secrets": ["/etc/shadow"], "force": true },
            "mounts": ["host-bind:/srv=/etc", "host-bind:/opt=/", "host-image:/mnt=/dev/sda", "guest-bind:/media=/etc"],
            "unit": { "names": [], "stopSignal": "SIGKILL", "switchedOff": { "../../x": ["A"] } },
        },
    });
    target.import("", &Archive::of(&hostile).end()).ok();
    // An import chooses its users as create does that is not told.
    host.line(&format!("virt-sandbox-service create {twin} -- /bin/sleep 1000")).ok();
    let plain = |name: &str| {
        let mut definition = host.defined(name);
        for (object, field) in [
            ("/sbx", "clone"),
            ("/sbx", "unit"),
            ("/process", "selinuxLabel"),
            ("/linux", "mountLabel"),
            // What is claimed for each alone.
            ("/linux", "uidMappings"),
            ("/linux", "gidMappings"),
        ] {
            definition.pointer_mut(object).and_then(Value::as_object_mut).expect("an object").remove(field);
        }
        serde_json::from_str::<Value>(&definition.to_string().replace(name, "NAME")).expect("JSON")
    };
    assert_eq!(plain(&target.name), plain(&twin));
    assert_eq!(host.defined(&target.name)["sbx"]["clone"], json!({ "from": "x" }));
    host.service(&format!("start {}", target.name)).ok();
    host.service(&format!("stop {}", target.name)).ok();
    host.service(&format!("delete {}", target.name)).ok();

    for (bad, tool) in [
        (json!({ "sbx": { "name": "x", "unit": { "names": ["../../x"] } } }), "sbx-unit"),
        (json!({ "sbx": { "name": "x", "unit": { "names": ["x.service\nExecStart=/bin/sh"] } } }), "sbx-unit"),
        (json!({ "sbx": { "name": "x" } }), "sbx-unit"),
        (json!({ "sbx": { "name": "x" }, "process": { "args": "/bin/sh" } }), "sbx-fs"),
        (json!({ "sbx": { "name": "x", "mounts": ["ram:/proc=1M"] } }), "sbx-fs"),
        (json!({ "sbx": { "name": "x" }, "hostname": "a\nb" }), "sbx-fs"),
    ] {
        let before = host.snapshot();
        target.import("", &Archive::of(&bad).end()).assert_failure(1, tool, &[]);
        host.assert_as(&before, "a refused definition");
    }
}

#[test]
fn a_name_that_is_taken_is_refused_and_its_container_untouched() {
    let target = Target::new();
    let (host, name) = (&target.host, &target.name);
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let all = || host.bash(&format!("cd {} && find . -ls", host.path("state").display())).ok().text();
    let (before, tree) = (host.snapshot(), all());
    let archive = Archive::new().end();
    target.import("", &archive).assert_failure(1, "virt-sandbox-service", &["exists"]);
    // Nor does the step alone write into what is there.
    host.run(["sbx-fs", "import", "--name", name], archive).assert_failure(1, "sbx-fs", &["already exists"]);
    host.assert_as(&before, "a refused import");
    assert_eq!(all(), tree);
}

#[test]
fn a_disk_that_an_archive_fills_is_named_and_nothing_is_left() {
    let target = Target::new();
    let state = target.host.path("state").display().to_string();
    let store = "mkdir -p containers claims/mcs claims/ids claims/addresses";
    target.host.bash(&format!("mount -t tmpfs -o size=200k,mode=700 small {state} && cd {state} && {store}")).ok();
    let archive = Archive::new().file("root/srv/large", &vec![7; 1 << 20]).end();
    target.assert_refused(&archive, &["cannot import root/srv/large: No space left on device"]);
}
