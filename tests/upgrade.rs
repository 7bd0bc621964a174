//! `upgrade` and `diff`: what changes on the host, in the container, or on both sides.

use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use support::Host;

/// Builds a version of a package with conffiles, a service, and what its second version has and has not any more.
fn package(host: &Host, version: &str) -> String {
    let script = r#"set -e
        rm -rf pkg && mkdir -p pkg/DEBIAN pkg/etc/probe/old.d pkg/usr/lib/systemd/system pkg/var/lib/probe pkg/var/cache/probe
        printf '%s\n' 'Package: sbx-probe' "Version: $0" 'Architecture: all' 'Maintainer: nobody' 'Description: probe' >pkg/DEBIAN/control
        printf '[Service]\nExecStart=/usr/bin/sleep infinity\n' >pkg/usr/lib/systemd/system/sbx-probe.service
        cd pkg/etc/probe
        for file in edited untouched deleted same mode; do echo "$file of version $0" >$file; done
        if [ "$0" = 1 ]; then
            for file in gone old.d/gone; do echo 1 >$file; done
            echo 1 >gone-edited
        else
            rmdir old.d
            mkdir new.d && echo 2 >new.d/new && ln -s new.d/new link && echo theirs >taken
            echo 'PrivateTmp=yes' >>../../usr/lib/systemd/system/sbx-probe.service
            mkdir ../../var/lib/probe/new
        fi
        for file in same mode; do echo 'the same' >$file; done
        cd ../.. && find etc ! -type d ! -type l -printf '/%p\n' >DEBIAN/conffiles && cd ..
        dpkg-deb --build --root-owner-group pkg "probe-$0.deb""#;
    host.run(["bash", "-c", script, version], "").ok();
    format!("probe-{version}.deb")
}

/// Installs a version as an administrator would who takes what the package brings.
fn install(host: &Host, version: &str) {
    let file = package(host, version);
    host.bash(&format!("dpkg --force-confnew --install ./{file} 2>&1")).ok();
    // What dpkg leaves of a package's earlier version are conffiles that were its own.
    let obsolete =
        "dpkg-query -W -f '${Conffiles}' sbx-probe | sed -n 's/^ *\\(.*\\) [0-9a-f]* obsolete$/\\1/p' | xargs -r rm";
    host.bash(&format!("{obsolete}; rmdir /etc/probe/old.d 2>/dev/null || :")).ok();
}

/// A host of its own with the first version, and a container of it.
fn with_first_version() -> (Host, String) {
    let host = Host::new().with_own(&["etc", "usr", "var"]);
    install(&host, "1");
    let name = host.name("a");
    host.service(&format!("create -u sbx-probe {name}")).ok();
    (host, name)
}

/// `upgrade`, as its lines about the probe's files.
fn upgrade(host: &Host, option: &str, name: &str) -> Vec<String> {
    let told = host.service(&format!("upgrade {option} {name}")).ok().text();
    told.lines().filter(|line| line.contains("probe")).map(str::to_owned).collect()
}

#[test]
fn an_upgrade_takes_what_a_package_has_changed_and_leaves_what_was_edited() {
    let (host, name) = with_first_version();
    assert_eq!(host.service(&format!("diff {name}")).ok().text(), "");
    assert_eq!(host.service(&format!("upgrade {name}")).ok().text(), "");

    let tree = host.tree(&name);
    let etc = tree.join("etc/probe");
    for file in ["edited", "gone-edited", "taken"] {
        fs::write(etc.join(file), "mine\n").expect("edit");
    }
    fs::remove_file(etc.join("deleted")).expect("delete");
    fs::write(tree.join("var/lib/probe/data"), "mine\n").expect("data");
    let diff = json!([
        { "path": "/etc/probe/deleted", "change": "removed" },
        { "path": "/etc/probe/edited", "change": "changed" },
        { "path": "/etc/probe/gone-edited", "change": "changed" },
        { "path": "/etc/probe/taken", "change": "added" },
    ]);
    assert_eq!(host.service(&format!("diff --json {name}")).ok().json(), diff);
    assert_eq!(host.service(&format!("diff {name}")).ok().text().lines().next(), Some("removed /etc/probe/deleted"));

    install(&host, "2");
    host.line("chmod 0600 /etc/probe/mode").ok();
    let expected = [
        "kept /etc/probe/deleted",
        "kept /etc/probe/edited: the host's is /etc/probe/edited.sbx-new",
        "removed /etc/probe/gone",
        "kept /etc/probe/gone-edited",
        "added /etc/probe/link",
        "updated /etc/probe/mode",
        "added /etc/probe/new.d",
        "added /etc/probe/new.d/new",
        "removed /etc/probe/old.d",
        "removed /etc/probe/old.d/gone",
        "kept /etc/probe/taken: the host's is /etc/probe/taken.sbx-new",
        "updated /etc/probe/untouched",
        "added /var/lib/probe/new",
    ];
    let place = tree.parent().expect("a place");
    // But for the time of the place itself, beside whose tree a dry run stages.
    let seen = format!("cd {} && find . -mindepth 1 -ls && cat manifest", place.display());
    let before = host.bash(&seen).ok().text();
    assert_eq!(upgrade(&host, "--dry-run", &name), expected);
    assert_eq!(host.bash(&seen).ok().text(), before);

    assert_eq!(upgrade(&host, "", &name), expected);
    let read = |file: &str| fs::read_to_string(etc.join(file)).unwrap_or_default();
    for (file, content) in [
        ("untouched", "untouched of version 2\n"),
        ("edited", "mine\n"),
        ("edited.sbx-new", "edited of version 2\n"),
        ("taken", "mine\n"),
        ("taken.sbx-new", "theirs\n"),
        ("gone-edited", "mine\n"),
        ("new.d/new", "2\n"),
        ("link", "2\n"),
        ("same", "the same\n"),
        ("deleted", ""),
        ("gone", ""),
    ] {
        assert_eq!(read(file), content, "{file}");
    }
    assert_eq!(fs::metadata(etc.join("mode")).expect("mode").mode() & 0o7777, 0o600);
    assert!(!etc.join("old.d").exists() && tree.join("var/lib/probe/new").is_dir());
    assert_eq!(fs::read_to_string(tree.join("var/lib/probe/data")).expect("data"), "mine\n");
    // What the unit asks for since then cannot be had inside, and is switched off.
    let drop_in = fs::read_to_string(tree.join("etc/systemd/system/sbx-probe.service.d/zz-sbx.conf"));
    assert_eq!(drop_in.expect("a drop-in"), "[Service]\nPrivateTmp=no\n");

    assert_eq!(host.service(&format!("upgrade {name}")).ok().text(), "");
    host.service(&format!("start {name}")).ok();
    host.inside(&name, "systemctl is-active sbx-probe").ok();
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn whatever_a_container_makes_of_its_directories_an_upgrade_stays_in_the_tree() {
    let (host, name) = with_first_version();
    let canary = host.path("tmp/canary");
    fs::create_dir(&canary).expect("a directory");
    fs::write(canary.join("untouched"), "canary").expect("a canary");
    let etc = host.tree(&name).join("etc");
    fs::rename(etc.join("probe"), etc.join("probe.mine")).expect("move");
    symlink(&canary, etc.join("probe")).expect("link");
    install(&host, "2");
    let told = upgrade(&host, "", &name);
    assert!(told.iter().all(|line| line.starts_with("kept") || line.contains("/var/")), "{told:?}");
    assert_eq!(fs::read_to_string(canary.join("untouched")).expect("canary"), "canary");
    assert_eq!(fs::read_dir(&canary).expect("a directory").count(), 1);
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn a_container_cannot_hold_up_its_upgrade_nor_what_reads_its_tree() {
    let (host, a) = with_first_version();
    let b = host.name("b");
    let etc = host.tree(&a).join("etc");
    fs::create_dir_all(etc.join("probe/edited.sbx-new/x")).expect("a directory");
    fs::write(etc.join("probe/edited"), "mine").expect("an edit");
    for huge in ["huge", "hosts"] {
        let file = fs::File::options().create(true).append(true).open(etc.join(huge)).expect("a file");
        file.set_len(8 << 40).expect("a size");
    }
    install(&host, "2");
    let told = host.bash(&format!("timeout 20 virt-sandbox-service upgrade {a} | grep probe")).ok().text();
    assert!(told.lines().any(|line| line == "kept /etc/probe/edited"), "{told}");
    assert!(told.lines().any(|line| line == "added /etc/probe/new.d/new"), "{told}");
    assert_eq!(host.service(&format!("upgrade {a}")).ok().text(), "");
    let diff = host.bash(&format!("timeout 20 virt-sandbox-service diff {a}")).ok().text();
    assert!(diff.lines().any(|line| line == "added /etc/huge"), "{diff}");
    host.bash(&format!("timeout 20 virt-sandbox-service clone {a} {b}")).ok();
    let hosts = fs::metadata(host.tree(&b).join("etc/hosts")).expect("a file");
    assert!(hosts.len() == 8 << 40 && hosts.blocks() < 100);
    // A name is shown, and does nothing.
    fs::write(etc.join("\u{9b}2J\n"), "").expect("a file");
    let diff = host.service(&format!("diff {a}")).ok().text();
    assert!(diff.lines().any(|line| line == r"added /etc/\u009b2J\u000a"), "{diff}");
}
