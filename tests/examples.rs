//! scripts/examples: each does what it says, and leaves the host as it was.

use std::fs;
use std::path::Path;
use support::{Host, Outcome, scripts, skip};

/// Runs an example on a host that must be as before when it has ended.
#[track_caller]
fn example(host: &Host, example: &str, arguments: &[&str]) -> Outcome {
    let before = host.snapshot();
    let program = scripts().join("examples").join(example).display().to_string();
    let temporary = format!("TMPDIR={}", host.path("tmp").display());
    let outcome = host.run([temporary.as_str(), &program].iter().chain(arguments), "");
    host.assert_as(&before, example);
    outcome
}

#[test]
fn every_example_is_tested() {
    for entry in fs::read_dir(scripts().join("examples")).expect("examples") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        let call = format!("example(&host, \"{name}\", ");
        assert!(name == "README.md" || include_str!("examples.rs").contains(&call), "{name} is not tested");
    }
}

#[test]
fn label_claims_two_categories_and_gives_them_back() {
    let host = Host::new();
    let name = host.name("a");
    let outcome = example(&host, "label", &[&name]).ok();
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    let level = lines[0].strip_prefix("system_u:system_r:sbx_t:").expect("a process label");
    let claim = format!(r#"[{{"name":"{name}","level":"{level}"}}]"#);
    assert_eq!(lines[1..], [&format!("system_u:object_r:sbx_file_t:{level}"), claim.as_str(), "[]"]);
}

#[test]
fn units_of_shows_what_a_unit_loses_inside() {
    let host = Host::new();
    host.unit("plain.service", "[Service]\nExecStart=/bin/true\n");
    host.unit("tmp.service", "[Service]\nPrivateTmp=yes\nExecStart=/bin/true\n");
    let outcome = example(&host, "units-of", &["plain.service", "tmp.service"]).ok();
    let expected = "--unit=sbx.target\nplain.service, without nothing\ntmp.service, without PrivateTmp\n\
        stopped by SIGRTMIN+3";
    assert!(outcome.text().ends_with(expected), "{outcome}");
}

#[test]
fn clone_copies_what_is_no_secret_and_shows_the_difference() {
    if !Path::new("/usr/sbin/apache2").exists() {
        return skip("apache2 is not installed");
    }
    let host = Host::new();
    let outcome = example(&host, "clone", &[&host.name("a")]).ok();
    let text = outcome.text();
    let (etc, var) = text.split_once("\nfiles in the copy's /var:\n").expect("two parts");
    assert!(etc.lines().any(|line| line == "Files /etc/machine-id and copy:/etc/machine-id differ"), "{outcome}");
    // What differs is less, or the container's own: nothing else is new. A host may have no host name of its own.
    let own = ["fstab", "hostname", "hosts", "machine-id"].map(|file| format!("Only in copy:/etc: {file}"));
    let odd = |line: &&str| {
        !line.starts_with("Only in /etc") && !line.contains("differ") && own.iter().all(|own| own != line)
    };
    assert_eq!(etc.lines().find(odd), None, "{outcome}");
    let of_host = host.bash("cd / && find var/lib/apache2 var/www -type f | sort").ok();
    let in_copy: Vec<&str> = var.lines().filter(|path| !path.starts_with("var/log/")).collect();
    assert_eq!(in_copy.join("\n"), of_host.text());
}

#[test]
fn limit_holds_a_command_to_its_limits() {
    let host = Host::new();
    let outcome = example(&host, "limit", &[&host.name("a")]).ok();
    assert_eq!(outcome.text(), "{\"memory\":67108864,\"pids\":1}\nstatus 1");
    assert!(outcome.stderr.contains("Resource temporarily unavailable"), "{outcome}");
}

#[test]
fn namespaces_are_all_its_own_and_stay_between_commands() {
    let host = Host::new();
    let outcome = example(&host, "namespaces", &[&host.name("a")]).ok();
    let kinds = ["pid", "mnt", "ipc", "uts", "net", "cgroup"].map(|kind| format!("{kind}: its own\n")).concat();
    let hostname = host.line("hostname").ok().text();
    assert_eq!(outcome.text(), format!("created\n{kinds}host name inside, process 2\n{hostname}"));
}

#[test]
fn network_has_loopback_and_reaches_nothing() {
    let host = Host::new();
    let outcome = example(&host, "network", &[&host.name("a")]).ok();
    let text = outcome.text();
    // A kernel without IPv6 has no ::1.
    let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "::1/128").collect();
    assert_eq!(words, ["lo", "UNKNOWN", "127.0.0.1/8", "status", "1"]);
    assert!(outcome.stderr.contains("Network is unreachable"), "{outcome}");
}

#[test]
fn two_hosts_have_containers_that_reach_each_other() {
    let host = Host::new();
    let name = host.name("a");
    for way in ["vxlan", "macvlan"] {
        let outcome = example(&host, "two-hosts", &[&name, way]).ok();
        assert_eq!(outcome.text(), "10.42.0.1/24\n10.42.0.2/24\nhello 10.42.0.1", "{outcome}");
    }
}

#[test]
fn profile_shows_the_capabilities_and_what_it_says_of_a_call() {
    let host = Host::new();
    let outcome = example(&host, "profile", &["read", "unshare", "clone", "nosuch"]).ok();
    assert_eq!(
        outcome.text(),
        "capabilities: CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_NET_BIND_SERVICE CAP_SETFCAP \
        CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_CHROOT\nno_new_privs: true\nread: allowed\n\
        unshare: refused with 1\nclone: allowed or refused with 1\nnosuch: refused with 38"
    );
}

#[test]
fn confine_runs_a_command_without_privileges_and_exits_with_its_status() {
    let host = Host::new();
    let name = host.name("a");
    let outcome = example(&host, "confine", &[&name]).assert_code(3);
    let expected = format!("nobody\n{name}\nCapBnd:\t00000000800405fb\nNoNewPrivs:\t1\nSeccomp:\t2");
    assert_eq!(outcome.text(), expected);
    let outcome = example(&host, "confine", &[&name, "cat", "/etc/shadow"]).assert_code(1);
    assert_eq!(outcome.stderr, "cat: /etc/shadow: Permission denied\n");
}

#[test]
fn unit_is_one_that_systemd_accepts() {
    let host = Host::new();
    // The verifier notes there when it has last read units.
    host.line("mount -t tmpfs -o ro,mode=755 tmpfs /run/systemd").ok();
    let name = host.name("a");
    let outcome = example(&host, "unit", &[&name]).ok();
    assert_eq!(outcome.stderr, "", "{outcome}");
    let text = outcome.text();
    let start = format!("ExecStart={}/sbx-start {name}", scripts().display());
    for line in [start.as_str(), "MemoryMax=268435456", "TasksMax=50", "CPUQuota=50.00%"] {
        assert!(text.lines().any(|found| found == line), "{line}: {outcome}");
    }
}

#[test]
fn oci_runs_a_definition_by_another_runtime() {
    if !Path::new("/usr/bin/crun").exists() {
        return skip("crun is not installed");
    }
    let host = Host::new();
    // crun does not know a host with cgroups of both versions.
    host.bash("! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified").ok();
    host.line("mkdir -m 0700 /run/crun").ok();
    let name = host.name("a");
    let outcome = example(&host, "oci", &[&name]).ok();
    assert_eq!(outcome.text(), format!("{name}\nsh\nNoNewPrivs:\t1"), "{outcome}");
    assert!(outcome.stderr.ends_with("touch: cannot touch '/usr/x': Read-only file system\n"), "{outcome}");
}

#[test]
fn by_hand_a_container_of_a_command_lives_its_whole_life() {
    let host = Host::new();
    let name = host.name("a");
    let outcome = example(&host, "by-hand", &[&name]).ok();
    assert_eq!(outcome.text(), format!("{name}\nsbx-ns\nsleep\nsh\nstatus 1"), "{outcome}");
    assert!(outcome.stderr.ends_with("touch: cannot touch '/usr/x': Read-only file system\n"), "{outcome}");
}
