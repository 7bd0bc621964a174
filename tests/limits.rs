//! Limits of a running container, and what all its processes are made to do at once.

use serde_json::{Value, json};
use std::fs;
use support::Host;

/// What a container uses, and its limits.
fn shown(host: &Host, name: &str) -> Value {
    host.line(&format!("sbx-cg show {name}")).ok().json()
}

fn limits(host: &Host, name: &str) -> [Value; 3] {
    ["memory", "pids", "cpu"].map(|kind| shown(host, name)[kind]["limit"].clone())
}

/// The sizes of its memory file systems, in KiB.
fn sizes(host: &Host, name: &str) -> Vec<u64> {
    let sizes = host.inside(name, "df -k --output=size /tmp /run /run/lock /dev/shm /dev | tail -n +2").ok().text();
    sizes.split_whitespace().map(|size| size.parse().expect("a number")).collect()
}

#[test]
fn limits_that_are_set_on_a_running_container_hold_at_once_and_after_a_restart() {
    let host = Host::new();
    let name = host.name("a");
    let before = host.snapshot();
    host.service(&format!("create --memory 1G {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    let full = sizes(&host, &name);
    host.service(&format!("set --memory 64M --pids 33 --cpus 0.5 {name}")).ok();
    let expected = [json!(64 << 20), json!(33), json!(0.5)];
    assert_eq!(limits(&host, &name), expected);
    let small = sizes(&host, &name);
    assert!(small.iter().sum::<u64>() <= 32 << 10 && small[0] < full[0], "{small:?} KiB, {full:?} before");
    // A limit that is not named stays.
    host.service(&format!("set --pids 34 {name}")).ok();
    let expected = [json!(64 << 20), json!(34), json!(0.5)];
    assert_eq!(limits(&host, &name), expected);
    for verb in ["stop", "start"] {
        host.service(&format!("{verb} {name}")).ok();
    }
    assert_eq!((limits(&host, &name), sizes(&host, &name)), (expected, small));
    // What an administrator has edited.
    let definition = host.definition(&name);
    let text = fs::read_to_string(&definition).expect("a definition").replace("\"limit\":34", "\"limit\":35");
    fs::write(&definition, text).expect("a definition");
    host.service(&format!("set {name}")).ok();
    assert_eq!(limits(&host, &name)[1], 35);
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn a_limit_that_a_running_container_could_not_bear_is_refused_and_nothing_changes() {
    let host = Host::new();
    let name = host.running("a", "--memory 128M");
    host.inside(&name, "head -c 20M /dev/zero >/tmp/x").ok();
    let (definition, unit) = (host.definition(&name), host.path("units"));
    let unit = unit.join(format!("{name}_sandbox.service"));
    let texts = || [&definition, &unit].map(|path| fs::read(path).expect("a file"));
    let before = (texts(), limits(&host, &name), sizes(&host, &name));
    let refused = |option: &str, code, tool: &str, words: &[&str]| {
        host.service(&format!("set {option} {name}")).assert_failure(code, tool, words);
        assert!((texts(), limits(&host, &name)) == (before.0.clone(), before.1.clone()), "{option}");
    };
    refused("--memory 4M", 1, "sbx-fs", &["too small"]);
    refused("--memory 1x", 2, "sbx-cg", &["1x"]);
    refused("--pids 0", 2, "sbx-cg", &["0"]);
    // What lies in a memory file system must not become more than half of the limit.
    refused("--memory 40M", 1, "sbx-fs", &["/tmp", "may hold more"]);
    host.service("set --pids 5 no-such").assert_failure(1, "virt-sandbox-service", &["no container no-such"]);
}

#[test]
fn a_frozen_container_stands_still_until_it_is_thawed_and_can_be_stopped() {
    let host = Host::new();
    let name = host.name("a");
    let before = host.snapshot();
    let count = "i=0; while sleep 0.01; do echo $((i += 1)) >/root/count; done";
    host.run(["virt-sandbox-service", "create", &name, "--", "/bin/bash", "-c", count], "").ok();
    host.service(&format!("start {name}")).ok();
    let counted = || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        fs::read_to_string(host.tree(&name).join("root/count")).unwrap_or_default()
    };
    assert_ne!(counted(), counted());
    host.line(&format!("sbx-cg freeze {name}")).ok();
    assert_eq!(shown(&host, &name)["frozen"], true);
    assert_eq!(counted(), counted());
    host.line(&format!("sbx-cg thaw {name}")).ok();
    assert_eq!(shown(&host, &name)["frozen"], false);
    assert_ne!(counted(), counted());
    host.line(&format!("sbx-cg freeze {name}")).ok();
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn a_container_that_is_killed_has_ended_whatever_its_processes_do() {
    let host = Host::new();
    let name = host.name("a");
    let deaf = "trap '' TERM INT HUP; while :; do sleep 9 & sleep 9; done";
    host.run(["virt-sandbox-service", "create", &name, "--", "/bin/bash", "-c", deaf], "").ok();
    host.service(&format!("start {name}")).ok();
    host.line(&format!("sbx-cg kill {name}")).ok();
    let until_gone = "for i in {1..100}; do sbx-ns show $0 >/dev/null 2>&1 || exit 0; sleep 0.1; done; exit 1";
    host.run(["bash", "-c", until_gone, &name], "").ok();
    assert_eq!(host.service("list -r").ok().text(), "");
    host.service(&format!("start {name}")).ok();
    assert_eq!(host.service("list -r").ok().text(), name);
}
