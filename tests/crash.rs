//! What is left by many at once and by SIGKILL at any moment: nothing that the undo does not find.

use crate::contract::{UNDOS, applies};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, thread};
use support::{Host, Outcome, skip};

/// How often something is killed; `SBX_KILLS` says how often in all.
fn kills(share: usize) -> usize {
    let all = env::var("SBX_KILLS").ok().and_then(|value| value.parse().ok()).unwrap_or(200_usize);
    all.div_ceil(share)
}

/// Different moments from 0 up to `longest`, in no order.
fn moments(count: usize, longest: Duration) -> Vec<Duration> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let step = longest / count as u32;
    // Each part of the whole gets one, anywhere in it (xorshift).
    let mut random = seed | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        f64::from(random) / f64::from(u32::MAX)
    };
    (0..count as u32).map(|i| step * i + step.mul_f64(next())).collect()
}

/// Starts a command and kills its whole process group after `delay`.
fn kill_after(mut command: Command, delay: Duration) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("nsenter");
    thread::sleep(delay);
    // One that has ended is a zombie of ours, so the group is still the one that was made.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    child.wait().expect("wait");
}

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
    for _ in 0..kills(40) {
        host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
        at_once(&host, 6, |i| words(&format!("virt-sandbox-service {} {name}", ["start", "stop", "delete"][i % 3])));
        host.service(&format!("stop {name}"));
        host.service(&format!("delete {name}"));
        host.assert_as(&before, "a race");
    }
}

/// Kills what `command` gives, at moments all over its duration, and asserts that a delete then leaves nothing.
fn kill_and_delete(host: &Host, name: &str, count: usize, prepare: Option<&str>, command: &[&str]) {
    let before = host.snapshot();
    let prepare = || drop(prepare.map(|line| host.service(line).ok()));
    prepare();
    let begin = Instant::now();
    // A container's command would hold our pipes.
    host.run([&["bash", "-c", "\"$@\" >/dev/null 2>&1", "quiet"], command].concat(), "").ok();
    let whole = begin.elapsed();
    let delete = || {
        host.service(&format!("stop {name}"));
        host.service(&format!("delete {name}"))
    };
    delete().ok();
    host.assert_as(&before, "delete");
    for moment in moments(count, whole.mul_f64(1.1)) {
        prepare();
        kill_after(host.command(command), moment);
        delete();
        host.assert_as(&before, &format!("SIGKILL after {moment:?} of {whole:?}"));
    }
}

#[test]
fn a_create_that_was_cut_short_in_its_last_step_is_found_by_delete() {
    let host = Host::new();
    let name = host.name("x");
    let before = host.snapshot();
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let config = host.path("config");
    fs::hard_link(config.join(format!("{name}.json")), config.join(format!(".{name}.new"))).expect("a link");
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn a_killed_create_in_any_store_is_found_by_delete() {
    for store in ["image:20M", "overlay"] {
        let host = Host::new();
        let name = host.name("x");
        let create = ["virt-sandbox-service", "create", "--store", store, &name, "--", "/bin/sleep", "1000"];
        kill_and_delete(&host, &name, kills(8), None, &create);
        let create = format!("create --store {store} {name} -- /bin/sleep 1000");
        kill_and_delete(&host, &name, kills(8), Some(&create), &["sbx-start", &name]);
    }
}

#[test]
fn a_killed_create_is_found_by_delete() {
    let host = Host::new();
    let name = host.name("x");
    let create = ["virt-sandbox-service", "create", &name, "--", "/bin/sleep", "1000"];
    kill_and_delete(&host, &name, kills(2), None, &create);
    // And what one killed create left does not hinder the next.
    kill_after(host.command(create), Duration::from_millis(60));
    let again = host.run(create, "");
    assert!(again.code == 0 || again.stderr.contains("exists"), "{again}");
    host.service(&format!("start {name}")).ok();
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn a_killed_import_is_found_by_delete() {
    let host = Host::new();
    let [origin, name] = ["a", "x"].map(|name| host.name(name));
    let archive = host.path("tmp/archive").display().to_string();
    host.service(&format!("create {origin} -- /bin/sleep 1000")).ok();
    host.bash(&format!("virt-sandbox-service export {origin} >{archive}")).ok();
    let import = format!("exec virt-sandbox-service import {name} <{archive}");
    kill_and_delete(&host, &name, kills(4), None, &["bash", "-c", &import]);
}

#[test]
fn a_killed_start_of_a_command_is_found_by_delete() {
    let host = Host::new();
    let name = host.name("x");
    kill_and_delete(&host, &name, kills(1), Some(&format!("create {name} -- /bin/sleep 1000")), &["sbx-start", &name]);
}

#[test]
fn a_killed_start_of_a_unit_is_found_by_delete() {
    let host = Host::new();
    host.unit("idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    let name = host.name("x");
    kill_and_delete(&host, &name, kills(10), Some(&format!("create -u idle.service {name}")), &["sbx-start", &name]);
}

#[test]
fn a_container_whose_start_was_killed_starts_again() {
    let host = Host::new();
    let name = host.name("x");
    let before = host.snapshot();
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    for moment in moments(kills(20), Duration::from_millis(80)) {
        kill_after(host.command(["sbx-start", &name]), moment);
        host.service(&format!("start {name}")).ok();
        host.inside(&name, "true").ok();
        host.service(&format!("stop {name}")).ok();
    }
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

/// The system calls of a strace(1) output, each as its name and its number among those of that name and process.
fn calls(trace: &str) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::new();
    let call = |line: &str| {
        let (process, rest) = line.split_once(' ')?;
        let (name, _) = rest.trim_start().split_once('(')?;
        let count = counts.entry((process.to_owned(), name.to_owned())).or_insert(0);
        *count += 1;
        (name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
            .then(|| (name.to_owned(), *count))
    };
    trace.lines().filter_map(call).collect()
}

#[test]
fn a_tool_that_is_killed_at_any_system_call_leaves_what_the_undos_find() {
    if !Path::new("/usr/bin/strace").exists() {
        return skip("strace is not installed");
    }
    for filter in applies() {
        let host = Host::new();
        let before = host.snapshot();
        // Detached on execve: what the tool leaves behind, a holder, would keep strace waiting.
        let strace = |options: &[&str]| {
            let options = [&["strace", "-f", "-b", "execve", "-qq"], options, &["--"], &filter.call(&[])].concat();
            host.run(options, filter.input(&host))
        };
        let undo = |what: &str| {
            for undo in UNDOS {
                host.line(&format!("{undo} {}", host.name("c"))).ok();
            }
            host.assert_as(&before, what);
        };
        let trace = host.path("tmp/trace").display().to_string();
        strace(&["-o", &trace]).ok();
        let calls = calls(&fs::read_to_string(&trace).expect("a trace"));
        fs::remove_file(&trace).expect("remove");
        undo(filter.line);
        let count = kills(8).min(calls.len());
        for (name, number) in (0..count).map(|i| &calls[i * calls.len() / count]) {
            let kill = format!("inject={name}:signal=SIGKILL:when={number}");
            strace(&["-o", "/dev/null", "-e", &kill]);
            undo(&format!("{}, killed at call {number} of {name}", filter.line));
        }
    }
}
