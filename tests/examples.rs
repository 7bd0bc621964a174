//! scripts/examples: each does what it says, and leaves the host as it was.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::{Host, Outcome, installed, scripts};

/// Runs an example.
fn call(host: &Host, example: &str, arguments: &[&str]) -> Outcome {
    let program = scripts().join("examples").join(example).display().to_string();
    let temporary = format!("TMPDIR={}", host.path("tmp").display());
    host.run([temporary.as_str(), &program].iter().chain(arguments), "")
}

/// Runs an example on a host that must be as before when it has ended.
#[track_caller]
fn example(host: &Host, example: &str, arguments: &[&str]) -> Outcome {
    let before = host.snapshot();
    let outcome = call(host, example, arguments);
    host.assert_as(&before, example);
    outcome
}

/// What an example printed, but for what create says.
fn printed(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.text();
    lines.lines().filter(|line| !line.starts_with("Created ")).map(str::to_owned).collect()
}

#[test]
fn every_example_is_tested() {
    for entry in fs::read_dir(scripts().join("examples")).expect("examples") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        let call = format!("(&host, \"{name}\", ");
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
    if !installed(&["/usr/sbin/apache2"]) {
        return;
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
fn private_network_is_loopback_around_any_command_and_reaches_nothing() {
    let host = Host::new();
    let name = host.name("a");
    let outcome = example(&host, "private-network", &[&name]).assert_code(1);
    let text = outcome.text();
    // A kernel without IPv6 has no ::1.
    let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "::1/128").collect();
    assert_eq!(words, ["lo", "UNKNOWN", "127.0.0.1/8"]);
    assert!(outcome.stderr.contains("Network is unreachable"), "{outcome}");
    // All else is the host's.
    let look = "readlink /proc/self/ns/uts /proc/self/ns/ipc; ls -A /tmp; exit 3";
    let of_the_host = host.bash(look).assert_code(3).text();
    let outcome = example(&host, "private-network", &[&name, "bash", "-c", look]).assert_code(3);
    assert_eq!(outcome.text(), of_the_host);
}

#[test]
fn private_tmp_is_empty_around_any_command_and_gone_with_it() {
    let host = Host::new();
    let name = host.name("a");
    assert_eq!(example(&host, "private-tmp", &[&name]).ok().text(), "/tmp:\nmine\n\n/var/tmp:");
    assert!(!Path::new("/tmp/mine").exists());
    // All else is the host's, and can be written.
    let look = "echo inside >/run/file; : >/dev/null; readlink /proc/self/ns/net; exit 3";
    let outcome = call(&host, "private-tmp", &[&name, "bash", "-c", look]).assert_code(3);
    assert_eq!(outcome.text(), host.line("readlink /proc/self/ns/net").ok().text());
    assert_eq!(host.line("cat /run/file").ok().text(), "inside");
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
    if !installed(&["/usr/bin/crun"]) {
        return;
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

#[test]
fn customers_have_pages_ports_and_limits_of_their_own() {
    if !installed(&["/usr/sbin/apache2", "/usr/bin/curl"]) {
        return;
    }
    let host = Host::new();
    host.line("ip link set lo up").ok();
    let name = host.name("c");
    let customers = [("tea", 256 << 20, 200), ("honey", 512 << 20, 400), ("milk", 192 << 20, 150)];
    let pages = customers.map(|(customer, _, _)| format!("the page of {name}-{customer}"));
    let limits = customers.map(|(customer, memory, pids)| format!(r#"["{name}-{customer}",{memory},{pids}]"#));
    let outcome = example(&host, "customers", &[&name]).ok();
    assert_eq!(printed(&outcome), [pages, limits].concat());
}

#[test]
fn database_answers_a_query_and_is_dumped_to_the_host() {
    if !installed(&["/usr/sbin/mariadbd"]) {
        return;
    }
    let host = Host::new();
    let outcome = example(&host, "database", &[&host.name("a")]).ok();
    assert_eq!(printed(&outcome), ["name", "honey", "1"]);
}

/// What the rules of a package do that is up to no good, from its source: write all over the host, if need be by mounts,
/// and make a disk. Prints what it could.
const ATTACK: &str = "exec 2>/dev/null
    for place in / /usr /etc /opt /srv; do touch $place/hostile && echo hostile: $place; done
    for place in /usr /etc; do mount -o remount,bind,rw $place && touch $place/hostile && echo hostile: $place; done
    mount -t tmpfs tmpfs /mnt && echo hostile: mount; mknod ../disk b 8 0 && echo hostile: disk; touch ../mine";

#[test]
fn package_is_built_as_root_and_its_rules_write_nowhere_else_on_the_host() {
    if !installed(&["/usr/bin/dpkg-buildpackage"]) {
        return;
    }
    let host = Host::new();
    let outcome = example(&host, "package", &[]).ok();
    assert!(outcome.text().contains("\nuid=0(root) "), "{outcome}");
    assert!(outcome.text().lines().any(|line| line.ends_with(" ./usr/share/hello/builder")), "{outcome}");

    let source = host.path("tmp/build/hello");
    let arguments = [source.to_str().expect("a path")];
    call(&host, "package", &arguments).ok();
    let rules = source.join("debian/rules");
    let text = fs::read_to_string(&rules).expect("rules").replace("clean build:\n", "clean:\nbuild:\n\tsh attack\n");
    fs::write(rules, text).expect("rules");
    fs::write(source.join("attack"), ATTACK).expect("a script");
    let done = |outcome: &Outcome| -> Vec<String> {
        outcome.text().lines().filter_map(|line| line.strip_prefix("hostile: ").map(str::to_owned)).collect()
    };
    // Without a sandbox: on a host of its own, but for the root directory.
    let other = Host::new().with_own(&["usr", "etc", "opt", "srv"]);
    let built =
        other.run(["bash", "-c", "cd $0 && dpkg-buildpackage -b -us; rm -f /hostile ../disk", arguments[0]], "");
    let all = ["/", "/usr", "/etc", "/opt", "/srv", "/usr", "/etc", "mount", "disk"];
    assert_eq!(done(&built), all, "{built}");
    host.bash("rm build/mine").ok();
    let outcome = call(&host, "package", &arguments).ok();
    assert_eq!(done(&outcome), [""; 0], "{outcome}");
    host.bash("ls build/mine build/hello_1.0_all.deb").ok();
    assert_eq!(host.bash("ls -d /hostile /*/hostile 2>/dev/null").text(), "");
}

#[test]
fn batch_reads_data_of_the_host_or_of_another_and_writes_results_within_its_limits() {
    let host = Host::new();
    let outcome = example(&host, "batch", &[]).ok();
    assert!(outcome.text().lines().any(|line| line.ends_with(" /data/GPL-2")), "{outcome}");
    fs::create_dir(host.path("tmp/data")).expect("a directory");
    fs::write(host.path("tmp/data/customers"), "tea\n").expect("data");
    let data = host.path("tmp/data").display().to_string();
    let job = |data: &str, script: &str| example(&host, "batch", &["nobody", data, "sh", "-c", script]);
    let script = "id -un; cat /data/customers >/results/copy; touch /data/x; exit 4";
    let outcome = job(&data, script).assert_code(4);
    assert_eq!(outcome.text(), "nobody\ntea");
    assert_eq!(outcome.stderr, "touch: cannot touch '/data/x': Read-only file system\n");
    let memory = job(&data, "head -c 400M /dev/zero | tail -c 400M >/dev/null; echo $?").ok();
    assert_eq!(memory.text(), "137", "{memory}");
    let forks = job(&data, "for i in $(seq 60); do sleep 1 & done").assert_code(2);
    assert!(forks.stderr.contains("Cannot fork"), "{forks}");

    if !host.has_storage() {
        return;
    }
    let outcome = job(&format!("storage.example.org:{data}"), &format!("grep ' /data ' /proc/mounts; {script}"));
    let outcome = outcome.assert_code(4);
    assert!(outcome.text().starts_with(&format!("storage.example.org:{data} /data fuse.sshfs ro,")), "{outcome}");
    assert!(outcome.text().ends_with("\nnobody\ntea"), "{outcome}");
}

#[test]
fn rotate_logs_is_not_kept_from_the_others_by_a_container_that_stands_still() {
    if !installed(&["/usr/sbin/logrotate", "/usr/sbin/apache2"]) {
        return;
    }
    let host = Host::new();
    // A host may keep packages from reloading services, as an image for Docker does.
    host.bash("! [ -e /usr/sbin/policy-rc.d ] || mount --bind /bin/true /usr/sbin/policy-rc.d").ok();
    let [frozen, hangs, web] = ["a", "b", "c"].map(|name| host.name(name));
    for name in [&frozen, &hangs] {
        host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
        let rotate = "prerotate\ntouch /var/log/begun; while :; do sleep 0.1; done\nendscript";
        fs::write(host.tree(name).join("etc/logrotate.conf"), format!("/var/log/app.log {{\nsize 1\n{rotate}\n}}\n"))
            .expect("a configuration");
        fs::write(host.tree(name).join("var/log/app.log"), "a line\n").expect("a log");
    }
    host.service(&format!("create -C -u apache2 {web}")).ok();
    let log = |file: &str| fs::read_to_string(host.tree(&web).join("var/log/apache2").join(file)).unwrap_or_default();
    for name in [&frozen, &hangs, &web] {
        host.service(&format!("start {name}")).ok();
    }
    let fetch = |page: &str| {
        let script =
            format!("exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET /{page} HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3");
        host.inside(&web, &script).ok();
    };
    fetch("old");
    let last = "logrotate state -- version 2\n\"/var/log/apache2/access.log\" 2020-1-1-0:0:0\n";
    fs::write(host.tree(&web).join("var/log/logrotate.status"), last).expect("a state");
    // A loop without our care would end here.
    host.line(&format!("sbx-cg freeze {frozen}")).ok();
    host.line(&format!("timeout -s KILL 2 virt-sandbox-service execute {frozen} -- true")).assert_code(137);

    let begin = Instant::now();
    let begun = host.tree(&hangs).join("var/log/begun").display().to_string();
    let freeze = "until [ -e \"$0\" ]; do sleep 0.05; done; sbx-cg freeze \"$1\"";
    let outcome = thread::scope(|scope| {
        // Frozen when its logs are being rotated already.
        scope.spawn(|| host.run(["bash", "-c", freeze, &begun, &hangs], "").ok());
        call(&host, "rotate-logs", &["2"]).assert_code(1)
    });
    assert!(begin.elapsed() < Duration::from_secs(30), "{outcome}");
    let said: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("rotate-logs: ")).collect();
    let expected = [format!("{frozen}: it is frozen"), format!("{hangs}: logrotate: status 1")];
    let is_as = |(said, expected): (&&str, &String)| said.starts_with(&format!("rotate-logs: {expected}"));
    assert!(said.len() == 2 && said.iter().zip(&expected).all(is_as), "{outcome}");
    let until = Instant::now() + Duration::from_secs(20);
    while !log("access.log").contains("GET /new ") {
        assert!(Instant::now() < until, "{}{outcome}", log("error.log"));
        fetch("new");
    }
    assert!(log("access.log.1").contains("GET /old ") && !log("access.log").contains("GET /old "));

    // Once they run again they have no part in what was given up.
    for name in [&frozen, &hangs] {
        host.line(&format!("sbx-cg thaw {name}")).ok();
        host.inside(name, "[ -s /var/log/app.log ]").ok();
        fs::write(host.tree(name).join("etc/logrotate.conf"), "/var/log/app.log {\nsize 1\n}\n").expect("a file");
    }
    assert_eq!(call(&host, "rotate-logs", &["20"]).ok().text(), "");
    for name in [&frozen, &hangs] {
        assert!(!host.tree(name).join("var/log/app.log").exists(), "{name}");
    }
}

#[test]
fn test_server_has_a_port_that_is_taken_on_the_host() {
    let host = Host::new();
    host.line("ip link set lo up").ok();
    host.bash("socat TCP4-LISTEN:8080,fork SYSTEM:'echo another' </dev/null >/dev/null 2>&1 &").ok();
    host.bash("until ss -Hltn sport = :8080 | grep -q .; do sleep 0.02; done").ok();
    let refused = host.line("socat TCP4-LISTEN:8080 /dev/null").assert_code(1);
    assert!(refused.stderr.contains("Address already in use"), "{refused}");
    let outcome = example(&host, "test-server", &[]).ok();
    assert_eq!(outcome.text(), ["hello from port 8080"; 2].join("\n"));
}
