//! What a private tree can be kept in: an image file, and an overlay.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::Host;

/// What is in the directory of a container, or of the snapshots.
fn names(host: &Host, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(host.path("state/containers").join(directory)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The loop devices of a container's image.
fn loops(host: &Host, name: &str) -> usize {
    let image = host.path("state/containers").join(name).join("root.img");
    let blocks = fs::read_dir("/sys/block").expect("block devices").flatten();
    let file = |block: PathBuf| fs::read_to_string(block.join("loop/backing_file")).unwrap_or_default();
    blocks.filter(|block| Path::new(file(block.path()).trim_end()) == image).count()
}

#[test]
fn a_container_lives_the_same_life_in_every_store() {
    for store in ["directory", "image:24M", "overlay"] {
        let host = Host::new().with_own(&["etc"]);
        let before = host.snapshot();
        let [name, other] = ["a", "b"].map(|name| host.name(name));
        fs::write(host.root("/etc/sbx-test"), "one").expect("a file of the host's");
        host.service(&format!("create --store {store} {name} -- /bin/sleep 1000")).ok();
        assert_eq!(host.service(&format!("diff {name}")).ok().text(), "", "{store}");
        host.service(&format!("start {name}")).ok();
        host.inside(&name, "echo mine >/etc/mine && echo data >/srv/data && setfattr -n user.x -v y /srv/data").ok();
        assert_eq!(host.service(&format!("diff {name}")).ok().text(), "added /etc/mine", "{store}");
        // While it runs, and while it does not.
        for (content, running) in [("two", true), ("three", false)] {
            fs::write(host.root("/etc/sbx-test"), content).expect("a file of the host's");
            if !running {
                host.service(&format!("stop {name}")).ok();
            }
            let upgraded = host.service(&format!("upgrade {name}")).ok().text();
            assert_eq!(upgraded, "updated /etc/sbx-test", "{store}");
            assert_eq!(host.service(&format!("upgrade {name}")).ok().text(), "", "{store}");
        }
        host.service(&format!("start {name}")).ok();
        assert_eq!(
            host.inside(&name, "cat /etc/sbx-test /srv/data; ls -A /").ok().text().lines().next(),
            Some("threedata")
        );
        host.service(&format!("clone {name} {other}")).ok();
        host.service(&format!("start {other}")).ok();
        let copied = host.inside(&other, "cat /etc/mine /srv/data /etc/hostname && getfattr -n user.x /srv/data").ok();
        assert!(copied.text().starts_with(&format!("mine\ndata\n{other}\n")), "{store}: {copied}");
        for name in [&name, &other] {
            host.service(&format!("stop {name}")).ok();
            host.service(&format!("delete {name}")).ok();
        }
        fs::remove_file(host.root("/etc/sbx-test")).expect("a file of the host's");
        host.assert_as(&before, store);
    }
}

#[test]
fn an_image_holds_its_size_and_no_more_and_its_device_ends_with_the_container() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create -i 24 {name} -- /bin/sleep 1000")).ok();
    assert_eq!(loops(&host, &name), 0);
    host.service(&format!("start {name}")).ok();
    assert_eq!(loops(&host, &name), 1);
    let fill = "dd if=/dev/zero of=/srv/fill bs=1M count=40 2>&1; stat -c %s /srv/fill";
    let filled = host.inside(&name, fill).ok().text();
    assert!(filled.contains("No space left on device"), "{filled}");
    // A step that needs the tree takes the running one: there is no second mount of it.
    host.service(&format!("diff {name}")).ok();
    assert_eq!(loops(&host, &name), 1);
    host.line(&format!("kill -9 {}", host.holder(&name))).ok();
    let deadline = Instant::now() + Duration::from_secs(10);
    while loops(&host, &name) > 0 {
        assert!(Instant::now() < deadline, "the loop device stays");
        sleep(Duration::from_millis(20));
    }
    host.service(&format!("stop {name}")).ok();

    host.service(&format!("set -i 64 {name}")).ok();
    host.service(&format!("start {name}")).ok();
    assert!(host.inside(&name, fill).ok().text().ends_with("41943040"));
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("set -i 24 {name}")).assert_failure(1, "sbx-fs", &["sbx.store", "only grows"]);
    host.service(&format!("start {name}")).ok();
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn an_image_that_cannot_be_made_is_no_container() {
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("a");
    for (store, words) in
        [("image:8M", vec!["No space left"]), ("image:x", vec!["bad size"]), ("tape", vec!["bad store"])]
    {
        let failed = host.service(&format!("create --store {store} {name} -- /bin/sleep 1000"));
        assert_ne!(failed.code, 0, "{failed}");
        assert!(
            words.iter().all(|word| failed.stderr.contains(word)) && failed.stderr.lines().count() == 1,
            "{failed}"
        );
        host.assert_as(&before, store);
    }
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("set -i 64 {name}")).assert_failure(1, "sbx-fs", &["sbx.store", "cannot be changed"]);
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn overlays_that_begin_alike_share_a_snapshot_and_the_last_one_takes_it_along() {
    let host = Host::new().with_own(&["etc"]);
    let [a, b, c] = ["a", "b", "c"].map(|name| host.name(name));
    for name in [&a, &b] {
        host.service(&format!("create --store overlay {name} -- /bin/sleep 1000")).ok();
    }
    assert_eq!(names(&host, ".snapshots").len(), 1);
    fs::write(host.root("/etc/sbx-test"), "later").expect("a file of the host's");
    host.service(&format!("create --store overlay {c} -- /bin/sleep 1000")).ok();
    assert_eq!(names(&host, ".snapshots").len(), 2);
    for name in [&a, &b] {
        host.service(&format!("start {name}")).ok();
    }
    host.inside(&a, "echo changed >/etc/passwd; rm /etc/group").ok();
    host.inside(&b, "grep -q ^root: /etc/passwd && grep -q ^root: /etc/group && ! [ -e /etc/sbx-test ]").ok();
    for name in [&a, &b] {
        host.service(&format!("stop {name}")).ok();
    }
    host.service(&format!("delete {a}")).ok();
    assert_eq!(names(&host, ".snapshots").len(), 2);
    host.service(&format!("delete {c}")).ok();
    assert_eq!(names(&host, ".snapshots").len(), 1);
    host.service(&format!("start {b}")).ok();
    host.inside(&b, "grep -q ^root: /etc/passwd").ok();
    host.service(&format!("stop {b}")).ok();
    host.service(&format!("delete {b}")).ok();
    assert_eq!(names(&host, ""), Vec::<String>::new());
}

#[test]
fn a_snapshot_that_was_removed_in_part_is_not_taken_for_whole() {
    let host = Host::new();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    let create = |name: &str| host.service(&format!("create --store overlay {name} -- /bin/sleep 1000")).ok();
    create(&a);
    let snapshots = host.path("state/containers/.snapshots");
    let id = names(&host, ".snapshots").remove(0);
    // Another's, whose removal was cut short.
    let removed = snapshots.join(".removed");
    fs::create_dir(&removed).expect("a directory");
    create(&b);
    assert_eq!(names(&host, ".snapshots"), [".removed".to_owned(), id.clone()]);
    host.service(&format!("delete {a}")).ok();
    assert_eq!(names(&host, ".snapshots"), [id]);
    host.service(&format!("delete {b}")).ok();
    assert!(!snapshots.exists());
}

#[test]
fn a_tree_that_is_kept_elsewhere_is_found_by_all_and_goes_with_its_container() {
    for store in ["directory", "image:24M", "overlay"] {
        let host = Host::new();
        let [disk, other_disk] = ["tmp/disk", "tmp/other"].map(|path| host.path(path));
        for disk in [&disk, &other_disk] {
            fs::create_dir_all(disk.join("another's")).expect("a directory");
        }
        let before = host.snapshot();
        let [name, clone] = ["a", "b"].map(|name| host.name(name));
        host.service(&format!("create -p {} --store {store} {name} -- /bin/sleep 1000", disk.display())).ok();
        assert!(disk.join(&name).join("manifest").is_file());
        host.service(&format!("start {name}")).ok();
        host.inside(&name, "echo mine >/srv/mine").ok();
        host.service(&format!("clone --path={} {name} {clone}", other_disk.display())).ok();
        assert!(other_disk.join(&clone).join("manifest").is_file());
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
        // Of an overlay the snapshot is on the first disk still.
        host.service(&format!("start {clone}")).ok();
        assert_eq!(host.inside(&clone, "cat /srv/mine; grep -c ^root: /etc/passwd").ok().text(), "mine\n1");
        host.service(&format!("stop {clone}")).ok();
        host.service(&format!("delete {clone}")).ok();
        host.assert_as(&before, store);
    }
}

#[test]
fn a_place_that_is_anothers_or_that_others_can_change_is_not_taken() {
    let host = Host::new();
    let name = host.name("a");
    let disk = host.path("tmp/disk");
    fs::create_dir_all(disk.join(&name).join("kept")).expect("a directory");
    let before = host.snapshot();
    let create = |path: &Path| host.service(&format!("create -p {} {name} -- /bin/sleep 1000", path.display()));
    create(&disk).assert_failure(1, "sbx-fs", &[&name, "already exists"]);
    host.assert_as(&before, "a directory of that name");
    create(&disk.join("none")).assert_failure(1, "sbx-fs", &["cannot keep a container in"]);
    host.bash(&format!("mkdir {0}/open && chmod 0777 {0}/open", disk.display())).ok();
    create(&disk.join("open")).assert_failure(1, "sbx-fs", &["others can change"]);
    assert!(disk.join(&name).join("kept").is_dir());
    assert_eq!(host.service("list").ok().text(), "");
}

#[test]
fn the_files_of_a_container_stay_while_the_disk_that_they_are_on_is_away() {
    let host = Host::new();
    let [disk, away] = ["tmp/disk", "tmp/away"].map(|path| host.path(path));
    fs::create_dir(&disk).expect("a directory");
    let before = host.snapshot();
    let [name, clone] = ["a", "b"].map(|name| host.name(name));
    host.service(&format!("create --store overlay {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("clone -p {} {name} {clone}", disk.display())).ok();
    fs::rename(&disk, &away).expect("a rename");
    // It cannot be told what the clone needs: all is kept.
    host.service(&format!("delete {name}")).ok();
    for verb in ["start", "delete"] {
        let refused = host.service(&format!("{verb} {clone}"));
        refused.assert_failure(1, "virt-sandbox-service", &[&clone, "are not there"]);
    }
    fs::rename(&away, &disk).expect("a rename");
    host.service(&format!("start {clone}")).ok();
    host.inside(&clone, "grep -q ^root: /etc/passwd").ok();
    host.service(&format!("stop {clone}")).ok();
    host.service(&format!("delete {clone}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn a_failed_create_takes_nobodys_snapshot_though_a_link_leads_to_the_store() {
    let host = Host::new();
    let [name, other] = ["a", "b"].map(|name| host.name(name));
    let state = host.path("state");
    fs::rename(&state, host.path("real")).expect("a rename");
    std::os::unix::fs::symlink("real", &state).expect("a link");
    host.service(&format!("create --store overlay {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("create -u none.service {other}")).assert_code(1);
    assert_eq!(host.service(&format!("diff {name}")).ok().text(), "");
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn what_is_mounted_in_a_running_container_is_not_its_tree() {
    for store in ["directory", "image:24M", "overlay"] {
        let host = Host::new().with_own(&["etc"]);
        let name = host.name("a");
        let data = host.path("tmp/data");
        fs::create_dir(&data).expect("a directory");
        fs::create_dir(host.root("/etc/shown")).expect("a directory");
        let mount = format!("host-bind:/etc/shown={}", data.display());
        host.service(&format!("create --store {store} -m {mount} {name} -- /bin/sleep 1000")).ok();
        host.service(&format!("start {name}")).ok();
        host.bash("chmod 0700 /etc/shown && echo new >/etc/shown/new").ok();
        host.service(&format!("upgrade {name}")).ok();
        assert_eq!(fs::metadata(&data).expect("data").mode() & 0o777, 0o755, "{store}");
        assert_eq!(fs::read_dir(&data).expect("data").count(), 0, "{store}");
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("upgrade {name}")).ok();
        assert_eq!(host.service(&format!("diff {name}")).ok().text(), "", "{store}");
        host.service(&format!("delete {name}")).ok();
    }
}

#[test]
fn a_tree_of_one_store_can_be_cloned_into_another() {
    let host = Host::new();
    let [name, other] = ["a", "b"].map(|name| host.name(name));
    host.service(&format!("create --store overlay {name} -- /bin/sleep 1000")).ok();
    let definition = host.definition(&name).display().to_string();
    let filter = format!(".sbx.name = \"{other}\" | del(.root, .sbx.store)");
    host.bash(&format!("jq -c '{filter}' {definition} | sbx-fs layout | sbx-fs clone --from {name} >document")).ok();
    assert!(host.tree(&other).join("etc/passwd").is_file());
    host.line(&format!("sbx-fs remove {other}")).ok();
    host.service(&format!("delete {name}")).ok();
}
