//! What virt-sandbox-service refuses: one line that names it, and the host as before.

use std::fs;
use std::os::unix::fs::symlink;
use support::{Host, Outcome, scripts};

/// Asserts that `attempt` fails with one line of `tool` that has `words`, and changes nothing.
#[track_caller]
fn refused(host: &Host, code: i32, tool: &str, words: &[&str], attempt: impl Fn() -> Outcome) {
    let before = host.snapshot();
    // The second time finds nothing that the first left.
    for _ in 0..2 {
        attempt().assert_failure(code, tool, words);
        host.assert_as(&before, "what was refused");
    }
}

#[test]
fn a_unit_that_the_host_does_not_have_is_refused() {
    let host = Host::new();
    let name = host.name("a");
    refused(&host, 1, "sbx-unit", &["nosuch.service", "/etc/systemd/system"], || {
        host.service(&format!("create -C -u nosuch.service {name}"))
    });
    refused(&host, 1, "sbx-unit", &["nosuch.service"], || {
        host.service(&format!("create -C -u apache2.service -u nosuch.service {name}"))
    });
}

#[test]
fn a_unit_whose_program_is_not_installed_is_refused() {
    let host = Host::new();
    let name = host.name("a");
    host.unit("ghost.service", "[Service]\nExecStart=/usr/sbin/ghostd --foreground\n");
    refused(&host, 1, "sbx-unit", &["ghost.service", "/usr/sbin/ghostd", "not installed"], || {
        host.service(&format!("create -u ghost.service {name}"))
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_its_container_untouched() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    refused(&host, 1, "virt-sandbox-service", &[&name], || host.service(&format!("create {name} -- /bin/sleep 1")));
    host.service(&format!("start {name}")).ok();
    refused(&host, 1, "virt-sandbox-service", &[&name], || host.service(&format!("create {name} -- /bin/sleep 1")));
    host.inside(&name, "true").ok();
}

#[test]
fn a_unit_file_that_is_not_ours_is_neither_overwritten_nor_removed() {
    let host = Host::new();
    let name = host.name("a");
    let unit = host.path("units").join(format!("{name}_sandbox.service"));
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").expect("a unit");
    let file = unit.display().to_string();
    refused(&host, 1, "sbx-unit", &[&file], || host.service(&format!("create {name} -- /bin/sleep 1000")));
    // Nothing of ours is there to be undone.
    let before = host.snapshot();
    host.line(&format!("sbx-unit remove {name}")).ok();
    host.assert_as(&before, "sbx-unit remove");
}

#[test]
fn a_unit_file_that_was_deleted_by_hand_does_not_hinder_a_delete() {
    let host = Host::new();
    let name = host.name("a");
    let before = host.snapshot();
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    fs::remove_file(host.path("units").join(format!("{name}_sandbox.service"))).expect("a unit");
    host.service(&format!("start {name}")).ok();
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn a_bad_name_is_wrong_usage_in_every_verb() {
    let host = Host::new();
    let long = "x".repeat(300);
    let names = ["..", ".", "a/b", "../a", "/a", ".a", "a%n", "a\nb", "a b", "-a", "\u{e4}", &long[..65], &long];
    // Whoever joins one to the path of a store leaves that.
    host.bash("mkdir ../beside && rmdir $SBX_STATE_DIR/containers/../../beside").ok();
    let before = host.snapshot();
    for name in names {
        let refused = |line: &[&str]| {
            let outcome = host.run([&["virt-sandbox-service"], line].concat(), "");
            // What begins with a dash is no name, but no option either.
            let word = if name == "-a" { name } else { "bad container name" };
            outcome.assert_failure(2, "virt-sandbox-service", &[word]);
        };
        for verb in ["start", "stop", "delete", "connect", "enable", "disable", "upgrade", "diff", "export", "import"] {
            refused(&[verb, name]);
        }
        refused(&["create", name, "--", "/bin/true"]);
        refused(&["clone", name, "b"]);
        refused(&["clone", "b", name]);
        refused(&["execute", name, "--", "/bin/true"]);
        refused(&["refresh", name]);
        refused(&["set", "--memory", "64M", name]);
    }
    host.assert_as(&before, "what was refused");
}

#[test]
fn wrong_usage_exits_2_and_help_0() {
    let host = Host::new();
    let name = host.name("a");
    let wrong = [
        String::new(),
        "no-such-verb".into(),
        "create".into(),
        "create -u".into(),
        format!("create {name} --memory"),
        format!("create {name}"),
        format!("create -u apache2.service {name} -- /bin/true"),
        format!("create --no-such-option {name} -- /bin/true"),
        format!("create {name} {name} -- /bin/true"),
        "start".into(),
        format!("start {name} {name}"),
        format!("execute {name}"),
        "reload".into(),
        "list everything".into(),
        "--connect= list".into(),
        format!("create --copy={name} -- /bin/true"),
        format!("clone --force={name} {name}"),
        format!("import --device={name}"),
        format!("create --uid= {name} -- /bin/true"),
    ];
    for line in wrong {
        refused(&host, 2, "virt-sandbox-service", &[], || host.service(&line));
    }
    let hint = ["a command comes after --", "id"];
    refused(&host, 2, "virt-sandbox-service", &hint, || host.service(&format!("execute {name} id")));
    let help = host.service("--help").ok();
    for verb in ["create", "start", "stop", "list", "execute", "connect", "reload", "delete"] {
        assert!(help.text().split_whitespace().any(|word| word == verb), "{verb}: {help}");
    }
}

#[test]
fn a_bad_value_of_an_option_is_one_line_of_the_tool_whose_it_is() {
    let host = Host::new();
    let name = host.name("a");
    for (option, tool) in [
        ("--memory nonsense", "sbx-cg"),
        ("--pids 0", "sbx-cg"),
        ("--uid 0day", "sbx-unit"),
        ("--rlimit bad=1", "sbx-exec"),
    ] {
        // Which of the other steps still writes when this one ends is chance.
        for _ in 0..5 {
            refused(&host, 2, tool, &["bad"], || host.service(&format!("create {option} {name} -- /bin/true")));
        }
    }
}

#[test]
fn a_container_that_does_not_exist_is_named() {
    let host = Host::new();
    let name = host.name("none");
    for verb in ["start", "stop", "delete", "connect", "reload -u apache2.service"] {
        refused(&host, 1, "virt-sandbox-service", &["no container", &name], || host.service(&format!("{verb} {name}")));
    }
}

#[test]
fn who_is_not_root_is_told_so() {
    let host = Host::new();
    let name = host.name("a");
    for line in [format!("create {name} -- /bin/true"), format!("start {name}"), format!("delete {name}")] {
        refused(&host, 1, "virt-sandbox-service", &["root"], || {
            // The repository may lie where nobody else can read it.
            let reading = "--inh-caps +dac_read_search --ambient-caps +dac_read_search";
            host.line(&format!("setpriv --reuid 65534 --clear-groups {reading} virt-sandbox-service {line}"))
        });
    }
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let host = Host::new();
    let name = host.name("a");
    let state = host.path("state");
    let store = "mkdir -p containers claims/mcs claims/ids claims/addresses";
    host.bash(&format!("mount -t tmpfs -o size=200k,mode=700 small {0} && cd {0} && {store}", state.display())).ok();
    refused(&host, 1, "sbx-fs", &["No space left on device"], || {
        host.service(&format!("create -C {name} -- /bin/sleep 1000"))
    });
}

/// A copy of the scripts and tools which lacks one, in a PATH that has it nowhere else.
fn without(host: &Host, missing: &str, line: &str) -> Outcome {
    let farm = host.path("tmp/farm");
    let _ = fs::remove_dir_all(&farm);
    fs::create_dir_all(farm.join("scripts")).expect("a directory");
    fs::create_dir_all(farm.join("bin")).expect("a directory");
    for (from, to) in [
        (scripts(), farm.join("scripts")),
        (support::binaries(), farm.join("bin")),
        ("/usr/sbin".into(), farm.join("bin")),
        ("/usr/bin".into(), farm.join("bin")),
    ] {
        for entry in fs::read_dir(from).expect("a directory").flatten() {
            let to = to.join(entry.file_name());
            if entry.file_name() != missing && entry.path().is_file() && !to.exists() {
                // A script finds the others beside itself, so it is a copy.
                let copy = if to.starts_with(farm.join("scripts")) {
                    fs::copy
                } else {
                    |from, to| symlink(from, to).map(|()| 0)
                };
                copy(entry.path(), to).expect("a tool");
            }
        }
    }
    let mut command = host.command(
        [&farm.join("scripts/virt-sandbox-service").display().to_string()]
            .into_iter()
            .map(String::as_str)
            .chain(line.split(' ')),
    );
    command.env("PATH", format!("{0}/scripts:{0}/bin", farm.display()));
    let outcome = support::run(command, "");
    fs::remove_dir_all(&farm).expect("remove");
    outcome
}

#[test]
fn a_tool_that_is_missing_is_named_before_anything_is_done() {
    let host = Host::new();
    let name = host.name("a");
    for tool in ["jq", "flock", "sbx-unit", "sbx-label", "sbx-ns", "sbx-fs", "sbx-cg", "sbx-net", "sbx-exec"] {
        refused(&host, 1, "virt-sandbox-service", &[tool], || {
            without(&host, tool, &format!("create {name} -- /bin/sleep 1000"))
        });
    }
}
