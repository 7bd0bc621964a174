//! virt-sandbox-service with Debian's Apache, on a host whose PID 1 is not systemd.

use std::fs;
use support::{Host, installed};

/// Fetches the front page from inside, by bash itself: the container has what the host's /usr has, no more.
const FETCH: &str = r"exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3";

/// The eleven capabilities that everything in a container has at most.
const CAPABILITIES: &str = "00000000800405fb";

/// Whether Apache is installed here.
fn apache() -> bool {
    installed(&["/usr/sbin/apache2"])
}

/// Creates a container of Apache that serves `page`.
fn create(host: &Host, name: &str, page: &str) {
    host.service(&format!("create -C -u apache2.service {name}")).ok();
    fs::write(host.tree(name).join("var/www/html/index.html"), page).expect("a page");
}

#[test]
fn two_apaches_run_at_once_from_one_usr_and_each_serves_its_own_page() {
    if !apache() {
        return;
    }
    let host = Host::new();
    let before = host.snapshot();
    let names = [host.name("one"), host.name("two")];
    for name in &names {
        create(&host, name, &format!("the page of {name}"));
    }
    assert_eq!(host.service("list").ok().text(), names.join("\n"));
    assert_eq!(host.service("list -r").ok().text(), "");
    for name in &names {
        let start = host.service(&format!("start {name}")).ok();
        assert_eq!(start.text(), "", "{start}");
    }
    assert_eq!(host.service("list -r").ok().text(), names.join("\n"));
    for name in &names {
        let says = |script: &str| host.inside(name, script).ok().text();
        assert_eq!(says("cat /proc/1/comm"), "systemd");
        assert_eq!(says("systemctl is-active apache2"), "active");
        let page = says(FETCH);
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with(&format!("\r\n\r\nthe page of {name}")),
            "{page}"
        );
        assert_eq!(says("hostname"), *name);
        assert_eq!(says("ls /sys/class/net"), "lo");
        assert_eq!(says("ip -o link | grep -c ."), "1");
        assert_eq!(says("ip -o -4 addr show dev lo | grep -o 127.0.0.1/8"), "127.0.0.1/8");
        let processes = says("cat /proc/[0-9]*/comm | sort -u");
        let allowed = ["apache2", "bash", "cat", "sort", "systemd", "systemd-journal"];
        assert!(processes.lines().all(|process| allowed.contains(&process)), "{processes}");
    }
    host.service(&format!("stop {}", names[0])).ok();
    assert_eq!(host.service("list -r").ok().text(), names[1]);
    assert!(host.inside(&names[1], FETCH).ok().text().ends_with(&format!("the page of {}", names[1])));
    host.service(&format!("stop {}", names[1])).ok();
    for name in &names {
        host.service(&format!("delete {name}")).ok();
    }
    host.assert_as(&before, "delete");
}

#[test]
fn root_in_a_container_has_the_profile_and_no_more() {
    if !apache() {
        return;
    }
    let host = Host::new();
    let name = host.name("a");
    create(&host, &name, "");
    host.service(&format!("start {name}")).ok();
    let both = |script: &str| {
        let outcome = host.inside(&name, &format!("{script} 2>&1"));
        (outcome.code, outcome.text())
    };
    // PID 1, a child of Apache's, and an executed command.
    for process in ["1", "$(cat /run/apache2/apache2.pid)", "$$"] {
        let status = format!("grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/{process}/status");
        let expected = [
            ("CapInh", "0000000000000000"),
            ("CapPrm", CAPABILITIES),
            ("CapEff", CAPABILITIES),
            ("CapBnd", CAPABILITIES),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ];
        let expected: Vec<_> = expected.iter().map(|(key, value)| format!("{key}:\t{value}")).collect();
        assert_eq!(both(&status), (0, expected.join("\n")), "{process}");
    }
    assert_eq!(both("id"), (0, "uid=0(root) gid=0(root) groups=0(root)".into()));
    // mount(8) calls EPERM so; what it says is more than a line.
    let (code, text) = both("mount -t tmpfs x /mnt");
    assert_eq!((code, text.lines().next()), (32, Some("mount: /mnt: permission denied.")));
    assert_eq!(both("mknod /tmp/n b 8 0"), (1, "mknod: /tmp/n: Operation not permitted".into()));
    assert_eq!(both("unshare -m true"), (1, "unshare: unshare failed: Operation not permitted".into()));
    assert_eq!(both("unshare -U true"), (1, "unshare: unshare failed: Operation not permitted".into()));
    assert_eq!(both("umount /tmp").0, 32);
    let (code, enforce) = both("getenforce");
    assert!((code, enforce.as_str()) == (0, "Disabled") || code == 127, "{code} {enforce}");
    assert_eq!(both("touch /usr/x"), (1, "touch: cannot touch '/usr/x': Read-only file system".into()));
    assert_eq!(both("echo x >/proc/sys/kernel/core_pattern").0, 1);
    assert_eq!(both("echo b >/proc/sysrq-trigger").0, 1);
    assert_eq!(both("head -c 1 /proc/kcore 2>/dev/null | wc -c"), (0, "0".into()));
}

#[test]
fn the_hosts_usr_is_read_only_inside_whatever_is_mounted_below_it() {
    if !apache() {
        return;
    }
    let host = Host::new();
    host.bash("mount -t tmpfs early /usr/local && mkdir /usr/local/lib && touch /usr/local/there").ok();
    let name = host.name("a");
    create(&host, &name, "");
    host.service(&format!("start {name}")).ok();
    let refused = |path: &str| {
        let touch = host.inside(&name, &format!("touch {path}")).assert_code(1);
        assert_eq!(touch.stderr, format!("touch: cannot touch '{path}': Read-only file system\n"));
    };
    assert_eq!(host.inside(&name, "ls /usr/local").ok().text(), "lib\nthere");
    refused("/usr/x");
    refused("/usr/local/x");
    // What the host mounts later is not seen inside, and what it unmounts is gone: nothing inside holds it.
    host.bash("mount -t tmpfs late /usr/local/lib && touch /usr/local/lib/late").ok();
    assert_eq!(host.inside(&name, "ls /usr/local/lib").ok().text(), "");
    refused("/usr/local/lib/x");
    host.bash("umount /usr/local/lib && umount /usr/local").ok();
    // And nothing inside has become a mount of the host's.
    host.service(&format!("stop {name}")).ok();
}

#[test]
fn a_broken_apache_does_not_start_says_why_and_leaves_nothing_running() {
    if !apache() {
        return;
    }
    let host = Host::new();
    let name = host.name("a");
    create(&host, &name, "");
    let conf = host.tree(&name).join("etc/apache2/apache2.conf");
    let text = fs::read_to_string(&conf).expect("apache2.conf");
    fs::write(&conf, format!("{text}\nNoSuchDirective On\n")).expect("apache2.conf");
    let before = without_log(&host);
    let start = host.service(&format!("start {name}")).assert_code(1);
    assert_eq!(start.text(), "", "{start}");
    assert!(start.stderr.contains("apache2.service"), "{start}");
    assert!(start.stderr.contains("Invalid command 'NoSuchDirective'"), "{start}");
    assert_eq!(host.service("list -r").ok().text(), "");
    assert_eq!(without_log(&host), before);
    // Mended, it starts.
    fs::write(&conf, text).expect("apache2.conf");
    host.service(&format!("start {name}")).ok();
    assert_eq!(host.inside(&name, "systemctl is-active apache2").ok().text(), "active");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
}

/// What is left of a container that does not run, without what it wrote into its own tree and log.
fn without_log(host: &Host) -> Vec<String> {
    let state = host.path("state").display().to_string();
    host.snapshot().into_iter().filter(|thing| !thing.contains(&state)).collect()
}

#[test]
fn a_container_starts_stops_and_starts_again_and_is_deleted_only_when_stopped() {
    if !apache() {
        return;
    }
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("a");
    create(&host, &name, "");
    for _ in 0..2 {
        host.service(&format!("start {name}")).ok();
        // Already running: nothing to do.
        host.service(&format!("start {name}")).ok();
        host.inside(&name, "systemctl is-active apache2").ok();
        host.service(&format!("delete {name}")).assert_failure(1, "virt-sandbox-service", &[&name, "running"]);
        host.inside(&name, "systemctl is-active apache2").ok();
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("stop {name}")).ok();
    }
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
    host.service(&format!("delete {name}")).assert_failure(1, "virt-sandbox-service", &["no container", &name]);
    host.assert_as(&before, "a second delete");
}

#[test]
fn reload_reloads_the_unit_inside() {
    if !apache() {
        return;
    }
    let host = Host::new();
    let name = host.name("a");
    create(&host, &name, "");
    host.service(&format!("start {name}")).ok();
    let process = host.inside(&name, "cat /run/apache2/apache2.pid").ok().text();
    fs::write(host.tree(&name).join("etc/apache2/conf-enabled/new.conf"), "Redirect /old http://new.example/\n")
        .expect("a configuration");
    host.service(&format!("reload -u apache2.service {name}")).ok();
    let fetch = FETCH.replace("GET / ", "GET /old ");
    let answer = host.inside(&name, &fetch).ok().text();
    assert!(answer.contains("Location: http://new.example/\r\n"), "{answer}");
    assert_eq!(host.inside(&name, "cat /run/apache2/apache2.pid").ok().text(), process);
    host.service(&format!("reload -u nosuch.service {name}")).assert_code(1);
}

#[test]
fn a_command_runs_in_a_container_without_systemd() {
    let host = Host::new();
    let before = host.snapshot();
    let name = host.running("job", "");
    // PID 1 is the holder, which forwards signals and reaps.
    let processes = host.inside(&name, "all=$(cat /proc/[0-9]*/comm) && sort <<<\"$all\"").ok().text();
    assert_eq!(processes, "bash\ncat\nsbx-ns\nsleep");
    let refused = host.service(&format!("reload -u apache2.service {name}")).assert_code(1);
    assert!(refused.stderr.contains(&name), "{refused}");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn execute_hands_on_streams_arguments_and_status() {
    let host = Host::new();
    let name = host.name("job");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let execute = |argv: &[&str], stdin: &str| {
        host.run([&["virt-sandbox-service", "execute", &name, "--"], argv].concat(), stdin)
    };
    let refused = execute(&["true"], "");
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains(&name), "{refused}");
    host.service(&format!("start {name}")).ok();
    let outcome = execute(&["cat"], "in\0and out\n").ok();
    assert_eq!(outcome.stdout, b"in\0and out\n");
    let outcome = execute(&["bash", "-c", "echo out; echo err >&2; exit 7"], "").assert_code(7);
    assert_eq!((outcome.text().as_str(), outcome.stderr.as_str()), ("out", "err\n"));
    let outcome = execute(&["printf", "<%s>", "a b", "", "$(id)", "--", "*"], "").ok();
    assert_eq!(outcome.text(), "<a b><><$(id)><--><*>");
    execute(&["bash", "-c", "kill -TERM $$"], "").assert_code(128 + 15);
    execute(&["no-such-command"], "").assert_failure(127, "sbx-exec", &["no-such-command"]);
    execute(&["/etc/passwd"], "").assert_failure(126, "sbx-exec", &["/etc/passwd"]);
    // The older form of the arguments.
    assert_eq!(host.service(&format!("execute -C hostname {name}")).ok().text(), name);
    assert_eq!(host.service(&format!("--connect=lxc:/// execute -N {name} -- hostname")).ok().text(), name);
    let reload = host.service(&format!("reload --unitfile=x.service {name}")).assert_code(1);
    assert!(reload.stderr.contains("has no unit to reload"), "{reload}");
    let shell = host.run(["virt-sandbox-service", "connect", &name], "hostname; exit 3\n").assert_code(3);
    assert_eq!(shell.text(), name);
}

#[test]
fn refresh_restarts_the_containers_that_run_what_was_replaced_and_no_others() {
    let host = Host::new();
    // A part of the host's /usr that can be written to.
    host.bash(
        "mount -t tmpfs tmpfs /usr/local/lib && cp /bin/sleep /usr/local/lib/ && cp /bin/sleep /usr/local/lib/kept",
    )
    .ok();
    let [old, kept, stopped] = ["old", "kept", "stopped"].map(|name| host.name(name));
    // What runs a program of its own that is deleted runs nothing that was replaced.
    let own = "cp /bin/sleep /root/own; /root/own 1000 & sleep 1; rm /root/own; exec /usr/local/lib/kept 1000";
    for (name, script) in [(&old, "exec /usr/local/lib/sleep 1000"), (&kept, own), (&stopped, "exec sleep 1000")] {
        host.run(["virt-sandbox-service", "create", name, "--", "/bin/sh", "-c", script], "").ok();
        host.service(&format!("start {name}")).ok();
    }
    host.service(&format!("stop {stopped}")).ok();
    let holder = |name: &str| host.run(["sbx-ns", "show", name], "").ok().json()["sbx"]["state"]["holder"].clone();
    let before = [holder(&old), holder(&kept)];
    assert_eq!(host.service("refresh").ok().text(), "", "nothing was replaced");
    assert_eq!([holder(&old), holder(&kept)], before);
    // As package managers do.
    host.bash("cd /usr/local/lib && cp sleep new && mv new sleep").ok();
    host.inside(&kept, "until [ ! -e /root/own ] && grep -q '/root/own (deleted)' /proc/*/maps; do sleep 0.1; done")
        .ok();
    let said = host.service(&format!("refresh {kept} {stopped}")).ok().text();
    assert_eq!(said, "", "none of those named runs what was replaced");
    let said = host.service("refresh").ok().text();
    assert!(said.contains(&old) && !said.contains('\n'), "{said}");
    assert_ne!(holder(&old), before[0]);
    assert_eq!(holder(&kept), before[1]);
    assert_eq!(host.service("list -r").ok().text(), format!("{kept}\n{old}"));
    assert_eq!(host.service("refresh").ok().text(), "");
}

#[test]
fn the_journal_of_a_container_is_among_the_hosts() {
    if !apache() {
        return;
    }
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("a");
    create(&host, &name, "");
    host.service(&format!("start {name}")).ok();
    host.service(&format!("stop {name}")).ok();
    let id = fs::read_to_string(host.tree(&name).join("etc/machine-id")).expect("an id");
    let link = host.path("journal").join(id.trim_end());
    for directory in [host.tree(&name).join("var/log/journal"), fs::read_link(link).expect("a link")] {
        let journal = host.bash(&format!("journalctl --directory {} --unit apache2", directory.display())).ok().text();
        assert!(journal.contains("Started apache2.service"), "{journal}");
    }
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}
