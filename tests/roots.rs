//! Containers with a root of their own, beside those that share the host's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Host, installed};

/// Makes a small root of another Debian release than this machine's.
fn debian(directory: &Path) -> Option<&'static str> {
    if !installed(&["/usr/bin/mmdebstrap"]) {
        return None;
    }
    let here = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = if here.contains("VERSION_CODENAME=trixie") { "bookworm" } else { "trixie" };
    // Its mounts would be in the hosts of other tests too, and go from there as it ends.
    let made = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "mmdebstrap", "--quiet"])
        .args(["--variant=minbase", "--mode=root", "--include=cron,systemd-sysv", release])
        .arg(directory)
        .stdin(Stdio::null())
        .status();
    assert!(made.expect("mmdebstrap").success());
    Some(release)
}

#[test]
fn another_debian_boots_beside_the_shared_one() {
    let host = Host::new();
    let tree = host.path("tmp/debian");
    let Some(release) = debian(&tree) else { return };
    // As a file of the tree would lead out of it, if it were looked up from outside.
    symlink("/tmp/nobody", tree.join("etc/systemd/system/led-out.service")).expect("a link");
    fs::write(tree.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").expect("a machine-id");
    let before = host.snapshot();
    let [own, other, unit, command, shared] = ["own", "other", "unit", "command", "shared"].map(|name| host.name(name));
    let root = tree.display();
    host.service(&format!("create --root {root} {own}")).ok();
    host.service(&format!("create --root {root} --store overlay {other}")).ok();
    host.service(&format!("create --root {root} --store overlay -u cron {unit}")).ok();
    host.service(&format!("create --root {root} -U 1 {command} -- /bin/sleep 1000")).ok();
    host.service(&format!("create -u cron.service {shared}")).ok();
    let all = [&own, &other, &unit, &command, &shared];
    for name in all {
        host.service(&format!("start {name}")).ok();
    }
    let codename = "sed -n s/^VERSION_CODENAME=//p /etc/os-release";
    for name in [&own, &other, &unit, &command] {
        assert_eq!(host.inside(name, codename).ok().text(), release, "{name}");
    }
    assert_ne!(host.inside(&shared, codename).ok().text(), release);
    for name in [&own, &other] {
        assert_eq!(host.inside(name, "systemctl is-system-running").ok().text(), "running");
        assert_eq!(host.inside(name, "systemctl is-active cron").ok().text(), "active");
        assert_eq!(host.inside(name, "hostname").ok().text(), *name);
        assert!(!host.inside(name, "cat /etc/machine-id").ok().text().starts_with("0123"));
        // What it has for programs is its own to change, as its package manager does.
        host.inside(name, "echo mine >/usr/bin/mine && dpkg-query --show >/dev/null").ok();
    }
    assert_eq!(
        host.inside(&unit, "systemctl list-units --plain --no-legend --state=active 'cron*' 'getty*'")
            .ok()
            .text()
            .lines()
            .count(),
        1
    );
    assert_eq!(host.inside(&command, "id -u").ok().text(), "1");
    assert!(!tree.join("usr/bin/mine").exists());
    host.service(&format!("upgrade {own}")).assert_failure(1, "virt-sandbox-service", &[&own, "root of its own"]);
    host.line(&format!("sbx-fs upgrade {own}")).assert_failure(1, "sbx-fs", &[&own, "root of its own"]);
    host.inside(&own, "echo changed >/etc/motd").ok();
    let diff = host.service(&format!("diff {own}")).ok().text();
    assert!(diff.lines().any(|line| line.ends_with(" /etc/motd")), "{diff}");
    // They need nothing of this host: what they were made from may be gone, and they move to another.
    let moved = [&other, &unit].map(|name| (name, format!("{name}-moved")));
    for (name, moved) in &moved {
        host.bash(&format!("virt-sandbox-service export --force {name} | virt-sandbox-service import {moved}")).ok();
        host.service(&format!("start {moved}")).ok();
        assert_eq!(host.inside(moved, codename).ok().text(), release);
        assert_eq!(host.inside(moved, "systemctl is-active cron").ok().text(), "active");
    }
    assert_eq!(host.inside(&moved[0].1, "cat /usr/bin/mine; hostname").ok().text(), format!("mine\n{}", moved[0].1));
    for name in all.into_iter().chain(moved.iter().map(|(_, moved)| moved)) {
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
    }
    host.assert_as(&before, "delete");
}

/// Makes a root of a shell and of an init that waits.
fn tiny(directory: &Path) {
    let script = "mkdir -p etc bin sbin dev proc sys run tmp && cp /bin/sh /bin/sleep bin && \
        ldd /bin/sh /bin/sleep | grep -o '/[^ ]*[0-9]' | sort -u | xargs cp --parents -Lt . && echo root:x:0:0::/:/bin/sh >etc/passwd && \
        printf '#!/bin/sh\ntrap exit TERM; while :; do sleep 1; done\n' >sbin/init && chmod +x sbin/init";
    fs::create_dir(directory).expect("a directory");
    assert!(Command::new("sh").args(["-c", script]).current_dir(directory).status().expect("a shell").success());
}

#[test]
fn each_kind_of_container_is_created_as_the_manual_has_it_and_is_what_that_calls_it() {
    if !installed(&["/usr/sbin/apache2"]) {
        return;
    }
    let manual = include_str!("../docs/man/virt-sandbox-service.8");
    let (_, kinds) = manual.split_once(".Sh KINDS OF CONTAINER\n").expect("the section");
    let (kinds, _) = kinds.split_once("\n.Sh ").expect("its end");
    let (title, command) = (".It ", ".Dl virt-sandbox-service ");
    let titles = kinds.lines().filter_map(|line| line.strip_prefix(title));
    let kinds: Vec<_> = titles.zip(kinds.lines().filter_map(|line| line.strip_prefix(command))).collect();

    let host = Host::new();
    let tree = host.path("tmp/tree");
    tiny(&tree);
    let before = host.snapshot();
    // Its first process, and whether it has the host's programs.
    let look = "read -r first </proc/1/comm; [ -e /usr/bin/env ] && echo $first, shared || echo $first, own";
    let expected = [
        ("Shared root, whole init", "web", "systemd, shared"),
        ("Shared root, one command", "job", "sbx-ns, shared"),
        ("Own root", "old", "init, own"),
    ];
    assert_eq!(kinds.len(), expected.len());
    for ((title, command), (kind, called, is)) in kinds.into_iter().zip(expected) {
        assert_eq!(title, kind);
        assert!(include_str!("../README.md").contains(&format!("    virt-sandbox-service {command}\n")), "{command}");
        let name = host.name(called);
        let here = |word: &str| match word {
            "/srv/trixie" => tree.display().to_string(),
            word if word == called => name.clone(),
            word => word.to_owned(),
        };
        host.service(&command.split(' ').map(here).collect::<Vec<_>>().join(" ")).ok();
        host.service(&format!("start {name}")).ok();
        let shown = host.run(["virt-sandbox-service", "execute", &name, "--", "/bin/sh", "-c", look], "").ok();
        assert_eq!(shown.text(), is, "{kind}");
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
    }
    host.assert_as(&before, "delete");
}

#[test]
fn a_root_that_is_none_or_has_no_such_program_is_refused_and_nothing_is_made() {
    let host = Host::new();
    let tree = host.path("tmp/tree");
    fs::create_dir_all(tree.join("etc")).expect("a directory");
    fs::write(tree.join("etc/passwd"), "somebody:x:7:7::/:/bin/sh\n").expect("a file");
    let before = host.snapshot();
    let name = host.name("x");
    let root = tree.display().to_string();
    for (options, words) in [
        ("--root /no/such {}".to_owned(), vec!["/no/such"]),
        ("--root / {}".to_owned(), vec!["it is the host's"]),
        (format!("--root {root} {{}}"), vec!["/sbin/init"]),
        // The host has it; the tree does not.
        (format!("--root {root} -u cron {{}}"), vec!["cron.service"]),
        (format!("--root {root} -U root {{}} -- /bin/true"), vec!["no user root"]),
        (format!("--root {root} --secret /etc/shadow {{}} -- /bin/true"), vec!["cloned whole"]),
    ] {
        let failed = host.service(&format!("create {}", options.replace("{}", &name))).assert_code(1);
        let is_told = words.iter().all(|word| failed.stderr.contains(word)) && failed.stderr.lines().count() == 1;
        assert!(is_told, "{failed}");
        host.assert_as(&before, &options);
    }
    host.line(&format!("sbx-unit init --name {name}")).assert_failure(1, "sbx-unit", &["no root of its own"]);
}

#[test]
fn the_root_directory_of_a_root_of_its_own_looks_as_it_did() {
    let host = Host::new();
    let name = host.name("x");
    let tree = host.path("tmp/tree");
    fs::create_dir_all(tree.join("etc")).expect("a directory");
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("a file");
    host.bash(&format!("chmod 0711 {0} && chown 7:8 {0}", tree.display())).ok();
    for store in ["directory", "image:24M", "overlay"] {
        let tree = tree.display();
        host.service(&format!("create --root {tree} --store {store} {name} -- /bin/true")).ok();
        let listed = host.bash(&format!("sbx-fs export {name} | tar -tv root"));
        assert!(listed.text().starts_with("drwx--x--x 7/8 "), "{store}: {listed}");
        host.service(&format!("delete {name}")).ok();
    }
}
