//! Labels of files and of processes where SELinux is on.

use serde_json::{Value, json};
use std::fs;
use support::Host;

/// How many files of a tree have another label than they should, as find(1) sees it.
fn others(host: &Host, root: &str, label: &str) -> String {
    host.bash(&format!("find {root} -printf '%Z\\n' | grep -Fxvc {label}")).text()
}

#[test]
fn what_restorecon_or_a_move_has_relabelled_is_found_and_repaired_at_start() {
    let host = Host::machine();
    let name = host.name("drift");
    host.service(&format!("create {name} -- /bin/sleep 600")).ok();
    let definition = fs::read(format!("/etc/sbx/{name}.json")).expect("a definition");
    let definition: Value = serde_json::from_slice(&definition).expect("JSON");
    let label = definition["linux"]["mountLabel"].as_str().expect("a label").to_owned();
    let root = format!("/var/lib/sbx/containers/{name}/root");
    let drift = || host.line(&format!("sbx-label check {name}")).ok().json();
    let relabel = || host.bash(&format!("sbx-label relabel </etc/sbx/{name}.json"));

    // create has left none out.
    assert_eq!(others(&host, &root, &label), "0");
    assert_eq!(drift(), json!([]));

    // The policy says that restorecon has no business in there.
    host.line("restorecon -R -F /var").ok();
    assert_eq!(drift(), json!([]));

    // One file, as if moved in from elsewhere; then all, as if SELinux had been off.
    host.line(&format!("chcon -t etc_t -l s0 {root}/etc/passwd")).ok();
    assert_eq!(
        drift(),
        json!([{ "path": "/etc/passwd", "label": label.replace(
        label.split_once("object_r:").expect("a label").1, "etc_t:s0") }])
    );
    host.line(&format!("chcon -R -h -t var_lib_t -l s0 {root}")).ok();
    assert_ne!(others(&host, &root, &label), "0");
    // Whether it comes up is another test's affair.
    host.service(&format!("start {name}"));
    assert_eq!(others(&host, &root, &label), "0");
    host.service(&format!("stop {name}")).ok();

    // Refused as a whole: a hard link outside, a mount, a label of no policy; then all is as it was.
    host.line(&format!("chcon -R -h -t var_lib_t -l s0 {root}")).ok();
    host.bash(&format!("echo canary >/var/lib/sbx/canary && ln /var/lib/sbx/canary {root}/etc/zz")).ok();
    relabel().assert_failure(1, "sbx-label", &["/etc/zz", "hard link"]);
    host.line(&format!("rm {root}/etc/zz /var/lib/sbx/canary")).ok();
    host.line(&format!("mount -t tmpfs tmpfs {root}/srv")).ok();
    relabel().assert_failure(1, "sbx-label", &["/srv", "mount point"]);
    host.line(&format!("umount {root}/srv")).ok();
    host.bash(&format!("jq -c '.linux.mountLabel = \"u:r:no_such_t:s0\"' /etc/sbx/{name}.json | sbx-label relabel"))
        .assert_failure(1, "sbx-label", &["no_such_t"]);
    assert_eq!(host.bash(&format!("find {root} -context '*:var_lib_t:s0' | wc -l")).text(), others(&host, &root, "x"));
    relabel().ok();
    assert_eq!(drift(), json!([]));

    // The pair is given back clean.
    host.line(&format!("sbx-label remove {name}")).ok();
    assert_eq!(host.bash(&format!("find {root} -context '*:c*,c*' | wc -l")).text(), "0");
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn the_pair_of_a_process_is_not_free() {
    let host = Host::machine();
    let name = host.name("pair");
    let alloc = format!("sbx-label alloc --name {name} --categories 5-6");
    host.bash(&format!("runcon -l s0:c5,c6 sleep 600 & {alloc}; status=$?; kill $!; exit $status")).assert_failure(
        1,
        "sbx-label",
        &[&name, "free"],
    );
    host.line(&alloc).ok();
    host.line(&format!("sbx-label remove {name}")).ok();
}

#[test]
fn what_a_clone_or_an_upgrade_makes_has_the_containers_label_from_the_start() {
    let host = Host::machine();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    host.service(&format!("create {a} -- /bin/sleep 600")).ok();
    host.bash("echo new >/etc/sbx-probe && mkdir /etc/sbx-probe.d && echo new >/etc/sbx-probe.d/file").ok();
    let upgraded = host.service(&format!("upgrade {a}")).ok().text();
    host.line("rm -r /etc/sbx-probe /etc/sbx-probe.d").ok();
    assert!(upgraded.contains("added /etc/sbx-probe.d/file"), "{upgraded}");
    host.service(&format!("clone {a} {b}")).ok();
    for name in [&a, &b] {
        assert_eq!(host.line(&format!("sbx-label check {name}")).ok().text(), "[]");
        assert!(host.tree(name).join("etc/sbx-probe.d/file").exists());
    }
    let label = |name: &str| host.bash(&format!("jq -r .linux.mountLabel /etc/sbx/{name}.json")).ok().text();
    assert_ne!(label(&a), label(&b));
    for name in [&a, &b] {
        host.service(&format!("delete {name}")).ok();
    }
}
