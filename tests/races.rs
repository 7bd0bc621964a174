//! What many at once do to each other, and whose a label is.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::{fs, thread};
use support::{Host, Outcome};

/// Runs the same command `count` times at once.
fn at_once(host: &Host, count: usize, argv: impl Fn(usize) -> Vec<String>) -> Vec<Outcome> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..count).map(&argv).map(|argv| scope.spawn(move || host.run(argv, ""))).collect();
        running.into_iter().map(|thread| thread.join().expect("a command")).collect()
    })
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn fifty_labels_at_once_are_fifty_different_ones() {
    let host = Host::new();
    let outcomes = at_once(&host, 50, |i| words(&format!("sbx-label alloc --name {}", host.name(&i.to_string()))));
    let labels: BTreeSet<String> =
        outcomes.into_iter().map(|outcome| outcome.ok().json()["process"]["selinuxLabel"].to_string()).collect();
    assert_eq!(labels.len(), 50, "{labels:?}");
    assert_eq!(host.line("sbx-label list").ok().json().as_array().map(Vec::len), Some(50));
}

#[test]
fn a_range_without_a_free_pair_is_an_error_and_a_pair_given_back_is_free() {
    let host = Host::new();
    let alloc = |name: &str| host.line(&format!("sbx-label alloc --name {name} --categories 7-9"));
    let names = ["a", "b", "c", "d"].map(|name| host.name(name));
    let mut pairs: Vec<String> = names[..3]
        .iter()
        .map(|name| alloc(name).ok().json()["linux"]["mountLabel"].as_str().unwrap_or_default().to_owned())
        .map(|label| label.rsplit(':').next().unwrap_or_default().to_owned())
        .collect();
    pairs.sort();
    assert_eq!(pairs, ["c7,c8", "c7,c9", "c8,c9"]);
    alloc(&names[3]).assert_failure(1, "sbx-label", &[&names[3], "free"]);
    host.line(&format!("sbx-label remove {}", names[1])).ok();
    alloc(&names[3]).ok();
}

#[test]
fn a_label_that_the_administrator_gives_is_nobody_elses() {
    let host = Host::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| host.name(name));
    let label = |name: &str, path: &str| {
        let definition = fs::read(host.path(&format!("config/{name}.json"))).expect("a definition");
        let definition: Value = serde_json::from_slice(&definition).expect("JSON");
        definition.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let own = "system_u:system_r:svirt_lxc_net_t:s0";
    let create = |options: &str, name: &str| host.service(&format!("create {options} {name} -- /bin/sleep 60"));
    create(&format!("-s static,label={own}:c1,c2 -f other_t"), &a).ok();
    assert_eq!(label(&a, "/process/selinuxLabel"), format!("{own}:c1,c2"));
    assert_eq!(label(&a, "/linux/mountLabel"), "system_u:object_r:other_t:s0:c1,c2");
    create(&format!("-s static,label={own}:c1,c2"), &b).assert_failure(1, "sbx-label", &[&b, "free"]);
    create(&format!("-s dynamic,label={own}:c1,c2"), &b).ok();
    let second = label(&b, "/process/selinuxLabel");
    assert!(second.starts_with(&format!("{own}:c")) && !second.ends_with(":c1,c2"), "{second}");
    host.service(&format!("clone --security=static,label={own}:c3,c4 {a} {c}")).ok();
    assert_eq!(label(&c, "/process/selinuxLabel"), format!("{own}:c3,c4"));
    for bad in ["inherit", "static,label=", "dynamic,label=x:y", "other", "static,label=a:b:c:s0:c5"] {
        let refused = create(&format!("-s {bad}"), &host.name("d"));
        assert!([1, 2].contains(&refused.code) && refused.stderr.lines().count() == 1, "{refused}");
    }
}

#[test]
fn check_names_each_file_of_the_tree_with_another_label_than_the_definitions() {
    let host = Host::new();
    let name = host.name("a");
    host.line(&format!("sbx-label check {name}")).assert_failure(1, "sbx-label", &["no container", &name]);
    host.service(&format!("create {name} -- /bin/sleep 60")).ok();
    let drift = || host.line(&format!("sbx-label check {name}")).ok().json();
    let definition = fs::read(host.path(&format!("config/{name}.json"))).expect("a definition");
    let definition: Value = serde_json::from_slice(&definition).expect("JSON");
    let label = definition["linux"]["mountLabel"].as_str().expect("a label");
    // Nobody labels files where SELinux is off, but attributes of that name can be had.
    host.bash(&format!("find {} -exec setfattr -h -n security.selinux -v {label} {{}} +", host.tree(&name).display()))
        .ok();
    assert_eq!(drift(), json!([]));
    host.bash(&format!("cd {} && setfattr -n security.selinux -v other etc/passwd", host.tree(&name).display())).ok();
    assert_eq!(drift(), json!([{ "path": "/etc/passwd", "label": "other" }]));
}

#[test]
fn a_pair_of_another_runtimes_container_is_not_free() {
    let host = Host::new();
    let alloc = || host.line(&format!("sbx-label alloc --name {} --categories 7-8", host.name("a")));
    let record = r#"[{"id":"x","mountlabel":"system_u:object_r:container_file_t:s0:c7,c8"}]"#;
    host.bash(&format!(
        "mkdir -p /run/containers/storage/overlay-containers
         printf %s '{record}' >/run/containers/storage/overlay-containers/volatile-containers.json"
    ))
    .ok();
    alloc().assert_failure(1, "sbx-label", &[&host.name("a"), "free"]);
    host.line("rm -r /run/containers").ok();
    alloc().ok();
}

#[test]
fn of_twenty_creates_of_one_name_one_wins_and_its_container_is_whole() {
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("x");
    // Each would be known by its command.
    let outcomes = at_once(&host, 20, |i| words(&format!("virt-sandbox-service create {name} -- /bin/sleep 10{i}")));
    let (winners, losers): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|outcome| outcome.code == 0);
    assert_eq!(winners.len(), 1, "{winners:?}");
    let command = winners[0].command.rsplit(' ').take(2).collect::<Vec<_>>();
    for loser in losers {
        loser.assert_failure(1, "virt-sandbox-service", &[&name]);
    }
    host.service(&format!("start {name}")).ok();
    let running = host.inside(&name, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").ok().text();
    assert!(running.contains(&format!("{} {} ", command[1], command[0])), "{command:?}: {running}");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn starts_and_deletes_of_one_name_at_once_end_in_one_of_both() {
    let host = Host::new();
    let name = host.name("x");
    let before = host.snapshot();
    for _ in 0..5 {
        host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
        at_once(&host, 6, |i| words(&format!("virt-sandbox-service {} {name}", ["start", "stop", "delete"][i % 3])));
        host.service(&format!("stop {name}"));
        host.service(&format!("delete {name}"));
        host.assert_as(&before, "a race");
    }
}
