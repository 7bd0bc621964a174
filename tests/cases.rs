//! Situations that administrators of other container tools met and reported.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Host, binaries};

/// Creates and starts a container of a unit that no package owns.
fn start_unit(host: &Host, name: &str, unit: &str, text: &str) {
    host.unit(unit, text);
    host.service(&format!("create -u {unit} {name}")).ok();
    host.service(&format!("start {name}")).ok();
}

/// Creates and starts a container of a command that does nothing.
fn start_command(host: &Host, name: &str) {
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
}

/// The trees that a layout shares, on a host of the given directories and links.
fn shared(host: &Host, directories: &[&str], links: &[(&str, &str)]) -> BTreeSet<String> {
    let root = host.path("tmp/root");
    let _ = fs::remove_dir_all(&root);
    for directory in directories {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    for (link, target) in links {
        symlink(target, root.join(link)).expect("a link");
    }
    // The tool is static: it runs on any root.
    fs::copy(binaries().join("sbx-fs"), root.join("sbx-fs")).expect("a copy");
    let layout = host.run(["chroot", &root.display().to_string(), "/sbx-fs", "layout", "--name", "x"], "").ok();
    let mounts = layout.json()["mounts"].as_array().expect("mounts").clone();
    let binds = mounts.into_iter().filter(|mount| mount["type"] == "bind");
    binds
        .map(|mount| {
            assert_eq!(mount["source"], mount["destination"]);
            mount["destination"].as_str().unwrap_or_default().to_owned()
        })
        .collect()
}

#[test]
fn a_merged_usr_is_shared_once_and_a_split_one_by_its_real_directories() {
    let host = Host::new();
    let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
    let merged = shared(
        &host,
        &["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc"],
        &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")],
    );
    assert_eq!(merged, set(&["/usr"]));
    let split = shared(&host, &["usr/bin", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc"], &[]);
    assert_eq!(split, set(&["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]));
    let half = shared(&host, &["usr/bin", "usr/lib", "sbin", "lib32"], &[("bin", "usr/bin"), ("lib", "/usr/lib")]);
    assert_eq!(half, set(&["/usr", "/sbin", "/lib32"]));
}

#[test]
fn the_links_of_a_merged_usr_are_the_hosts_own() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    for link in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let target = |root: &Path| fs::read_link(root.join(link)).ok();
        assert_eq!(target(&host.tree(&name)), target(Path::new("/")), "{link}");
    }
}

#[test]
fn every_container_has_its_own_machine_id_and_host_name() {
    let host = Host::new();
    let of_host = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let mut ids = BTreeSet::from([of_host.trim().to_owned()]);
    for name in [host.name("one"), host.name("two")] {
        start_command(&host, &name);
        let id = fs::read_to_string(host.tree(&name).join("etc/machine-id")).expect("machine-id");
        assert_eq!((id.len(), id.ends_with('\n')), (33, true), "{id:?}");
        assert!(id.trim().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id:?}");
        ids.insert(id.trim().to_owned());
        assert_eq!(host.inside(&name, "hostname").ok().text(), name);
        assert_eq!(host.inside(&name, "cat /etc/hostname").ok().text(), name);
        assert_eq!(host.inside(&name, "cat /etc/machine-id").ok().text(), id.trim());
    }
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn directories_of_a_unit_and_of_tmpfiles_are_there_at_each_start_with_their_owners() {
    let host = Host::new();
    let names = [host.name("one"), host.name("two")];
    let unit = "[Service]\nUser=www-data\nRuntimeDirectory=c12\nStateDirectory=c12\nLogsDirectory=c12\n\
        RuntimeDirectoryMode=0750\nExecStart=/bin/sleep infinity\n";
    host.unit("c12.service", unit);
    for name in &names {
        host.service(&format!("create -u c12.service {name}")).ok();
        let snippets = host.tree(name).join("etc/tmpfiles.d");
        fs::create_dir_all(&snippets).expect("a directory");
        fs::write(snippets.join("c12.conf"), "d /run/snippet 0710 www-data daemon\n").expect("a snippet");
    }
    let look = "stat -c '%n %U:%G %a' /run/c12 /run/snippet /var/lib/c12 /var/log/c12";
    let expected = "/run/c12 www-data:www-data 750\n/run/snippet www-data:daemon 710\n\
        /var/lib/c12 www-data:www-data 755\n/var/log/c12 www-data:www-data 755";
    for name in &names {
        host.service(&format!("start {name}")).ok();
    }
    host.service(&format!("stop {}", names[0])).ok();
    assert_eq!(host.inside(&names[1], look).ok().text(), expected);
    host.service(&format!("start {}", names[0])).ok();
    assert_eq!(host.inside(&names[0], look).ok().text(), expected);
}

#[test]
fn a_unit_that_notifies_is_ready_when_it_says_so() {
    let host = Host::new();
    let name = host.name("a");
    let unit = "[Service]\nType=notify\nNotifyAccess=all\n\
        ExecStart=/bin/sh -c 'sleep 1; touch /run/said; systemd-notify --ready; exec sleep infinity'\n";
    let begin = Instant::now();
    start_unit(&host, &name, "c14.service", unit);
    let took = begin.elapsed();
    host.inside(&name, "test -e /run/said").ok();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(host.inside(&name, "systemctl is-active c14").ok().text(), "active");
}

#[test]
fn a_unit_that_forks_is_followed_to_its_daemon() {
    let host = Host::new();
    let name = host.name("a");
    let unit = "[Service]\nType=forking\nPIDFile=/run/c15.pid\n\
        ExecStart=/bin/sh -c 'sleep 99 & echo $! >/run/c15.pid'\n";
    start_unit(&host, &name, "c15.service", unit);
    let says = |script: &str| host.inside(&name, script).ok().text();
    assert_eq!(says("systemctl is-active c15"), "active");
    assert_eq!(says("systemctl show -P MainPID c15"), says("cat /run/c15.pid"));
    assert_eq!(says("cat /proc/$(cat /run/c15.pid)/comm"), "sleep");
}

#[test]
fn a_unit_without_the_pid_file_that_it_promised_fails_within_its_timeout() {
    let host = Host::new();
    let name = host.name("a");
    let unit = "[Service]\nType=forking\nPIDFile=/run/c15.pid\nTimeoutStartSec=2\n\
        ExecStart=/bin/sh -c 'sleep 99 & true'\n";
    host.unit("c15b.service", unit);
    host.service(&format!("create -u c15b.service {name}")).ok();
    let begin = Instant::now();
    let start = host.service(&format!("start {name}")).assert_code(1);
    assert!(start.stderr.contains("c15b.service"), "{start}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(host.service("list -r").ok().text(), "");
}

#[test]
fn orphans_are_reaped_and_a_stop_is_quick() {
    let host = Host::new();
    let [command, unit] = [host.name("command"), host.name("unit")];
    start_command(&host, &command);
    start_unit(&host, &unit, "c17.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    for name in [&command, &unit] {
        host.inside(name, "for i in {1..50}; do (sleep 0.2 &); done").ok();
        let zombies = "sleep 0.5; cat /proc/[0-9]*/stat | grep -c ') Z ' || true";
        assert_eq!(host.inside(name, zombies).ok().text(), "0", "{name}");
        let begin = Instant::now();
        host.service(&format!("stop {name}")).ok();
        assert!(begin.elapsed() < Duration::from_secs(3), "{name}: {:?}", begin.elapsed());
    }
}

#[test]
fn signals_that_the_caller_ignores_are_not_ignored_inside() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    host.bash(&format!("trap '' CHLD PIPE HUP TERM; virt-sandbox-service start {name}")).ok();
    let ignored = |pid: &str| host.inside(&name, &format!("grep SigIgn: /proc/{pid}/status")).ok().text();
    let sleep = host.inside(&name, "grep -l '^sleep$' /proc/[0-9]*/comm | cut -d/ -f3").ok().text();
    assert_eq!(ignored(&sleep), "SigIgn:\t0000000000000000");
    let execute =
        format!("trap '' CHLD PIPE HUP; virt-sandbox-service execute {name} -- grep SigIgn: /proc/self/status");
    assert_eq!(host.bash(&execute).ok().text(), "SigIgn:\t0000000000000000");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn nothing_of_the_caller_leaks_into_an_executed_command() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let passwd = host.tree(&name).join("etc/passwd");
    let text = fs::read_to_string(&passwd).expect("passwd");
    fs::write(&passwd, text.replace(":/root:", ":/the/home:")).expect("passwd");
    let caller = |line: &str| host.bash(&format!("cd /etc/ssl; SECRET=x {line} 9</etc/shadow 5</")).ok().text();
    caller(&format!("virt-sandbox-service start {name}"));
    let holder = host.holder(&name);
    let careless = |command: &str| caller(&format!("nsenter --target {holder} --mount --pid --wdns -- {command}"));
    assert!(careless("env").contains("SECRET") && careless("ls /proc/self/fd").ends_with("\n5\n9"));
    let execute = |command: &str| caller(&format!("virt-sandbox-service execute {name} -- {command}"));
    let environment: BTreeSet<String> = execute("env").lines().map(str::to_owned).collect();
    let definition = host.defined(&name);
    let given = definition["process"]["env"].as_array().expect("an environment").clone();
    let given = given.iter().map(|entry| entry.as_str().unwrap_or_default().to_owned());
    let known = ["HOME=/the/home", "SHELL=/bin/bash", "USER=root", "LOGNAME=root"].map(str::to_owned);
    assert_eq!(environment, given.chain(known).collect());
    // ls itself has the directory open.
    assert_eq!(execute("ls /proc/self/fd"), "0\n1\n2\n3");
    assert_eq!(execute("pwd"), "/");
    // Nor into the container's own processes.
    let all = format!("find $(for pid in {holder} $(pgrep --parent {holder}); do echo /proc/$pid/fd; done) -lname");
    assert_eq!(host.bash(&format!("{all} '*' | wc -l")).ok().text(), "6");
    assert_eq!(host.bash(&format!("{all} '*shadow'; {all} /")).ok().text(), "");
}

#[test]
fn a_command_is_executed_by_whom_and_where_and_with_what_the_caller_says() {
    let host = Host::small();
    let name = host.name("a");
    start_command(&host, &name);
    fs::write(host.tree(&name).join("etc/passwd"), "root:x:0:0::/root:\nweb:x:33:33::/srv:/bin/bash\n")
        .expect("passwd");
    let execute = |options: &[&str], command: &[&str]| {
        host.run([&["virt-sandbox-service", "execute"], options, &[&name, "--"], command].concat(), "")
    };
    let says = |options: &[&str]| {
        execute(options, &["bash", "-c", "echo $UID $PWD $HOME $USER $LOGNAME $SHELL $A $B"]).ok().text()
    };
    assert_eq!(says(&["--user", "web"]), "33 / /srv web web /bin/bash");
    assert_eq!(
        says(&["--user=33:7", "--cwd=/usr", "--env", "HOME=/x", "--env=A=b=c", "--env", "B=1", "--env", "B=2"]),
        "33 /usr /x web web /bin/bash b=c 2"
    );
    // Who is not in passwd has no name. The shell finds one by itself.
    let env = execute(&["--user", "4711"], &["env"]).ok().text();
    assert!(env.contains("HOME=/") && !env.contains("USER=") && !env.contains("SHELL="), "{env}");
    execute(&["--cwd", "usr"], &["true"]).assert_failure(125, "sbx-exec", &["bad directory", "usr", "absolute"]);
    execute(&["--cwd", "/none"], &["true"]).assert_failure(125, "sbx-exec", &["/none", "No such file"]);
    // A login shell is called as one, at home.
    let shell = host.run(["virt-sandbox-service", "connect", &name], "echo $0; pwd; exit 3\n").assert_code(3);
    assert_eq!(shell.text(), "-sh\n/root");
}

#[test]
fn a_command_listens_on_sockets_that_the_host_has_opened_for_it() {
    let host = Host::small();
    let name = host.name("a");
    start_command(&host, &name);
    // It answers on descriptor 3 itself, with what it was told and what else it has.
    let serve = "$c = IO::Socket->new_from_fd(3, '+<')->accept;
        print $c join ' ', map { $_ // '-' } (@ENV{qw(LISTEN_FDS LISTEN_FDNAMES)}, $ENV{LISTEN_PID} == $$,
            $$ < 1000, grep m!^/etc|pipe!, map readlink, glob '/proc/self/fd/[3-9]')";
    fs::write(host.tree(&name).join("root/serve"), format!("use IO::Socket; {serve}")).expect("a script");
    let run = format!(
        "exec 4<&- && sbx-exec run --document 9 --preserve-fds 1 -- perl /root/serve 9< <(sbx-ns show {name}) 8</etc/passwd"
    );
    let activate = "systemd-socket-activate --fdname=web -l 127.0.0.1:8080 -E SBX_CONFIG_DIR -E SBX_STATE_DIR -E SBX_RUNTIME_DIR -E PATH";
    let ask = "until exec 5<>/dev/tcp/127.0.0.1/8080; do sleep 0.1; done; cat <&5";
    let script = format!("ip link set lo up; {activate} bash -c '{run}' & ({ask}) 2>/dev/null; wait");
    let said = host.bash(&script);
    assert_eq!(said.text(), "1 web 1 1", "{said}");
    let refused = |options: &str, words: &[&str]| {
        let outcome = host.bash(&format!("exec 7<&- 6<&-; sbx-exec run {options} -- true 3< <(sbx-ns show {name})"));
        outcome.assert_failure(125, "sbx-exec", words);
    };
    refused("--document 3 --preserve-fds 1", &["--preserve-fds 1", "descriptor 3 is the document"]);
    refused("--document 9 --preserve-fds 5", &["--preserve-fds 5", "descriptor 4", "Bad file descriptor"]);
    refused("--document 3 --preserve-fds -1", &["bad number of descriptors"]);
}

#[test]
fn a_pid_file_is_there_as_long_as_its_command() {
    let host = Host::small();
    let name = host.name("a");
    start_command(&host, &name);
    fs::write(host.path("tmp/pid"), "an old one").expect("a file");
    let run = |file: &str, command: &str| {
        format!("sbx-exec run --document 3 --pid-file {file} -- {command} 3< <(sbx-ns show {name})")
    };
    let wait = "until [ -s pid ] && ! grep -q old pid; do sleep 0.1; done; cat /proc/$(cat pid)/comm; kill $(cat pid); wait $!; echo $?; ls -A pid";
    let said = host.bash(&format!("{} & {wait}", run("pid", "sleep 1000"))).assert_code(2).text();
    assert_eq!(said, "sleep\n143");
    // One that is another's by now stays, and one whose command there is not never was.
    host.bash(&format!(
        "{} & {}; [ $(cat pid) = other ]",
        run("pid", "sleep 1"),
        "until [ -s pid ]; do sleep 0.1; done; echo other >new; mv new pid; wait"
    ))
    .ok();
    host.bash(&format!("{}; [ $? = 127 ] && ! ls -A | grep none", run("none", "no-such-command"))).ok();
    assert_eq!(host.bash("ls -A | grep pid; cat pid").ok().text(), "pid\nother");
    host.bash(&run("/none/pid", "true")).assert_failure(125, "sbx-exec", &["/none/pid", "No such file"]);
}

#[test]
fn an_executed_command_is_as_confined_as_the_container() {
    let host = Host::new();
    let name = host.running("a", "");
    let sleep = host.inside(&name, "grep -l '^sleep$' /proc/[0-9]*/comm | cut -d/ -f3").ok().text();
    let same = |file: &str| {
        let [theirs, own] = [sleep.as_str(), "self"].map(|pid| host.inside(&name, &format!("cat /proc/{pid}/{file}")));
        assert_eq!(theirs.ok().text(), own.ok().text(), "{file}");
    };
    same("limits");
    same("uid_map");
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let link = format!("readlink /proc/{sleep}/ns/{kind} /proc/self/ns/{kind} | uniq | grep -c .");
        assert_eq!(host.inside(&name, &link).ok().text(), "1", "{kind}");
    }
    let status = |pid: &str| {
        let keys = "grep -E '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|Cap.*):'";
        host.inside(&name, &format!("{keys} /proc/{pid}/status")).ok().text()
    };
    assert_eq!(status(&sleep), status("self"));
    // CVE-2019-10144: whoever has only entered has more.
    let entered = format!("nsenter --target {} --all -- grep ^Cap /proc/self/status", host.holder(&name));
    assert!(!status(&sleep).contains(&host.line(&entered).ok().text()));
    // Below the same limits, in a leaf of its own.
    let cgroup = host.inside(&name, "cat /proc/self/cgroup").ok().text();
    assert!(cgroup.lines().all(|line| line.ends_with(":/") || line.ends_with(":/../exec")), "{cgroup}");
}

#[test]
fn an_executed_command_is_as_confined_as_a_service() {
    let host = Host::new();
    let name = host.name("a");
    host.unit("sbxtest.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    host.service(&format!("create -u sbxtest {name}")).ok();
    host.service(&format!("start {name}")).ok();
    let sleep = host.inside(&name, "grep -l '^sleep$' /proc/[0-9]*/comm | cut -d/ -f3").ok().text();
    let status = "grep -E '^(Uid|Gid|Groups|Umask|NoNewPrivs|Seccomp.*|Speculation.*|Cap.*|Mems_.*|Cpus_.*):'";
    // systemd gives services soft limits of its own: the hard ones are what holds.
    for what in [
        format!("{status} /proc/PID/status"),
        "sed -E 's/^(.{26})(\\S+ +)/\\1/' /proc/PID/limits".to_owned(),
        "cat /proc/PID/uid_map /proc/PID/gid_map /proc/PID/attr/current /proc/PID/oom_score_adj".to_owned(),
        "readlink /proc/PID/ns/*".to_owned(),
        "cat /proc/PID/mountinfo".to_owned(),
    ] {
        let of = |pid: &str| host.inside(&name, &format!("({} 2>&1)", what.replace("PID", pid))).text();
        let theirs = of(&sleep);
        assert!(!theirs.is_empty(), "{what}");
        assert_eq!(theirs.replace(&sleep, "self"), of("self").replace(&sleep, "self"), "{what}");
    }
}

#[test]
fn a_limit_is_in_force_on_the_hosts_hierarchies() {
    let host = Host::new();
    let name = host.name("a");
    let limited = host.line(&format!("sbx-cg limit --name {name} --memory 64M --pids 33")).ok().stdout;
    let created = host.run(["sbx-cg", "create"], limited).ok().json();
    let payload = created["sbx"]["state"]["cgroups"]["payload"].as_array().expect("directories").clone();
    let read = |files: [&str; 2]| {
        let above = payload.iter().filter_map(|dir| Path::new(dir.as_str()?).parent());
        above.flat_map(|dir| files.map(|file| dir.join(file))).find_map(|path| fs::read_to_string(path).ok())
    };
    assert_eq!(read(["memory.max", "memory.limit_in_bytes"]).as_deref(), Some("67108864\n"));
    assert_eq!(read(["pids.max", "no such"]).as_deref(), Some("33\n"));
    host.line(&format!("sbx-cg remove {name}")).ok();
    assert_eq!(host.line(&format!("sbx-cg show {name}")).code, 1);
}

#[test]
fn devices_beyond_the_few_are_not_used_or_made_in_any_hierarchy_that_restricts_them() {
    let host = Host::new();
    let name = host.name("a");
    let node = host.path("tmp/node");
    // loop-control, which root may open.
    host.bash(&format!("mknod {} c 10 237", node.display())).ok();
    let make = host.path("tmp/made");
    let attempt = format!(
        "(: <{}) 2>/dev/null && echo opened; mknod {made} c 1 3 2>/dev/null && echo made && rm {made}; \
            head -c 1 /dev/zero | wc -c; : >/dev/null && : </dev/ptmx && echo used",
        node.display(),
        made = make.display()
    );
    let mut restricting = 0;
    for devices in ["auto", "closed"] {
        let limited = host.line(&format!("sbx-cg limit --name {name} --devices {devices}")).ok().stdout;
        let created = host.run(["sbx-cg", "create"], limited).ok().json();
        let payload = created["sbx"]["state"]["cgroups"]["payload"].as_array().expect("directories").clone();
        for directory in payload.iter().filter_map(|dir| dir.as_str()) {
            let path = Path::new(directory);
            let restricts = path.join("devices.list").exists() || path.join("cgroup.controllers").exists();
            let outcome = host.bash(&format!("echo $BASHPID >{directory}/cgroup.procs && ({attempt})")).ok();
            let all = devices == "auto" || !restricts;
            assert_eq!(outcome.text(), if all { "opened\nmade\n1\nused" } else { "1\nused" }, "{directory}");
            restricting += usize::from(!all);
        }
        host.line(&format!("sbx-cg remove {name}")).ok();
    }
    assert!(restricting > 0);
}

#[test]
fn a_limit_that_cannot_be_enforced_is_an_error() {
    let host = Host::new();
    let name = host.name("a");
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        return support::skip("no v1 memory hierarchy to take away");
    }
    let limited = host.line(&format!("sbx-cg limit --name {name} --memory 64M")).ok().stdout;
    host.bash("umount /sys/fs/cgroup/memory").ok();
    let before = host.snapshot();
    for options in [["sbx-cg", "create", "--dry-run"].as_slice(), &["sbx-cg", "create"]] {
        host.run(options, limited.clone()).assert_failure(1, "sbx-cg", &["memory"]);
    }
    host.line(&format!("sbx-cg remove {name}")).ok();
    host.assert_as(&before, "a limit that cannot be enforced");
    // Without the limit nothing needs the controller.
    let unlimited = host.line(&format!("sbx-cg limit --name {name}")).ok().stdout;
    host.run(["sbx-cg", "create"], unlimited).ok();
    host.line(&format!("sbx-cg remove {name}")).ok();
    host.assert_as(&before, "no limit");
}

/// What an administrator mounts is where he says, by whatever link that is reached, and as he says.
#[test]
fn mounts_of_the_hosts_directories_are_inside_where_their_destinations_lead() {
    let host = Host::new();
    let name = host.name("a");
    let data = host.path("tmp/data");
    fs::create_dir_all(data.join("below")).expect("a directory");
    host.bash(&format!("mount -t tmpfs tmpfs {}/below", data.display())).ok();
    let [data, file] = [data.display().to_string(), host.path("tmp/file").display().to_string()];
    fs::write(&file, "a file").expect("a file");
    let before = host.snapshot();
    // /var/run leads to /run; /srv/new is not there yet.
    let mounts = format!(
        "-m host-bind:/var/run/data={data} -m host-bind:/srv/new/read={data},ro -m host-bind:/etc/motd={file} -m ram:/tmp=1M"
    );
    host.service(&format!("create --memory 64M {mounts} {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    host.inside(&name, "echo hello >/run/data/greeting && echo hello >/run/data/below/greeting").ok();
    assert_eq!(fs::read_to_string(format!("{data}/greeting")).expect("a greeting"), "hello\n");
    assert_eq!(host.inside(&name, "cat /srv/new/read/below/greeting /etc/motd").ok().text(), "hello\na file");
    for place in ["/srv/new/read", "/srv/new/read/below"] {
        let denied = host.inside(&name, &format!("touch {place}/x")).assert_code(1);
        assert!(denied.stderr.contains("Read-only file system"), "{denied}");
    }
    assert_eq!(host.inside(&name, "df --output=size -k /tmp | tail -n 1").ok().text().trim(), "1024");
    let sizes = host.inside(&name, "df -k --output=size /tmp /run /run/lock /dev/shm /dev | tail -n +2").ok().text();
    let sizes: u64 = sizes.split_whitespace().map(|size| size.parse::<u64>().expect("a number")).sum();
    assert!(sizes <= 32 << 10, "{sizes} KiB");
    // They stay when another limit lays them out again.
    host.service(&format!("set --memory 128M {name}")).ok();
    assert_eq!(host.inside(&name, "df --output=size -k /tmp | tail -n 1").ok().text().trim(), "1024");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.bash(&format!("rm {data}/greeting {data}/below/greeting")).ok();
    host.assert_as(&before, "delete");

    // A size that is wished for does not follow the limit, wherever it is.
    host.service(&format!("create --memory 64M -m ram:/var/run/x=1M {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    host.service(&format!("set --memory 128M {name}")).ok();
    assert_eq!(host.inside(&name, "df --output=size -k /run/x | tail -n 1").ok().text().trim(), "1024");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();

    for (mount, code, words) in [
        ("host-bind:/srv=/no/such", 1, "/no/such"),
        ("host-bind:/proc/x=/srv", 2, "/proc/x"),
        ("tape:/srv=/tmp", 2, "guest-bind"),
    ] {
        let create = host.service(&format!("create -m {mount} {name} -- /bin/true"));
        create.assert_failure(code, "sbx-fs", &[words]);
    }
    assert_eq!(host.service("list").ok().text(), "");
}

#[test]
fn images_of_the_hosts_and_parts_of_the_container_itself_are_mounted_where_the_administrator_says() {
    let host = Host::new();
    let [name, other] = ["a", "b"].map(|name| host.name(name));
    let [data, files] = ["tmp/data.img", "tmp/files.img"].map(|path| host.path(path).display().to_string());
    host.bash(&format!(
        "truncate -s 16M {data} && mkfs.ext4 -q -F {data} && mkdir from && echo page >from/page && mksquashfs from {files} -quiet &&
         touch -d @0 {data} {files}"
    ))
    .ok();
    let before = host.snapshot();
    let mounts = format!(
        "-m host-image:/srv/data={data},format=raw -m host-image:/opt/files={files},ro -m guest-bind:/mnt/spool=/var/spool
         -m guest-bind:/media/read=/var/spool,ro"
    );
    host.service(&format!("create {mounts} {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    host.inside(&name, "echo kept >/srv/data/kept && echo job >/mnt/spool/job").ok();
    assert_eq!(host.inside(&name, "cat /opt/files/page /var/spool/job /media/read/job").ok().text(), "page\njob\njob");
    for place in ["/opt/files", "/media/read"] {
        let denied = host.inside(&name, &format!("touch {place}/x")).assert_code(1);
        assert!(denied.stderr.contains("Read-only file system"), "{denied}");
    }
    // Two that write one file system would destroy it; any number may read one.
    host.service(&format!("create -m host-image:/srv={data} {other} -- /bin/sleep 1000")).ok();
    let start = host.service(&format!("start {other}")).assert_code(1);
    assert!(start.stderr.contains("data.img on /srv: it is in use"), "{start}");
    host.service(&format!("delete {other}")).ok();
    host.service(&format!("create -m host-image:/srv={files},ro {other} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {other}")).ok();
    assert_eq!(host.inside(&other, "cat /srv/page").ok().text(), "page");
    for name in [&name, &other] {
        host.service(&format!("stop {name}")).ok();
    }
    host.service(&format!("start {name}")).ok();
    assert_eq!(host.inside(&name, "cat /srv/data/kept").ok().text(), "kept");
    host.service(&format!("stop {name}")).ok();
    for name in [&name, &other] {
        host.service(&format!("delete {name}")).ok();
    }
    // What was written is no trace, which the file's time would be.
    host.bash(&format!("touch -d @0 {data} {files}")).ok();
    host.assert_as(&before, "delete");

    host.service(&format!("create -m host-image:/srv=/etc/passwd {name} -- /bin/sleep 1000")).ok();
    let start = host.service(&format!("start {name}")).assert_code(1);
    assert!(start.stderr.contains("it holds no file system"), "{start}");
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn a_remote_file_system_that_hangs_or_dies_keeps_no_container_from_being_stopped() {
    let host = Host::new();
    if !host.has_storage() {
        return;
    }
    let name = host.name("a");
    let places = ["tmp/data", "tmp/mnt"].map(|path| host.path(path));
    places.iter().for_each(|place| fs::create_dir(place).expect("a directory"));
    fs::write(places[0].join("tea"), "tea").expect("a file");
    let [data, mnt] = places.map(|place| place.display().to_string());
    let connect = format!("sshfs -o ro,allow_other storage:{data} {mnt}");
    host.line(&connect).ok();
    let create = format!("virt-sandbox-service create -m host-bind:/data={mnt} {name} -- /bin/sleep 1000");
    let create = host.line(&create).ok();
    assert!(create.stderr.contains(&format!("{name} has the users of the host: {mnt}")), "{create}");
    let timely = |verb: &str| host.line(&format!("timeout -s KILL 20 virt-sandbox-service {verb} {name}"));
    timely("start").ok();
    assert_eq!(host.inside(&name, "cat /data/tea").ok().text(), "tea");
    // Longer than what it has said is believed for.
    host.bash("pkill -STOP -x sshfs && sleep 2").ok();
    let read = format!("timeout -s KILL 1 virt-sandbox-service execute {name} -- cat /data/tea >/dev/null 2>&1");
    host.bash(&read).assert_code(137);
    timely("stop").ok();
    host.line("pkill -KILL -x sshfs").ok();
    let start = timely("start").assert_code(1);
    assert!(start.stderr.contains(&format!("cannot mount {mnt} on /data: ")), "{start}");
    host.bash(&format!("umount -n {mnt} && {connect}")).ok();
    timely("start").ok();
    assert_eq!(host.inside(&name, "cat /data/tea").ok().text(), "tea");
    timely("stop").ok();
    host.line(&format!("umount -n {mnt}")).ok();
    timely("delete").ok();
}

#[test]
fn a_container_asks_real_name_servers_whatever_the_hosts_resolv_conf_is() {
    let host = Host::new().with_own(&["etc"]);
    let name = host.name("a");
    let create = || {
        host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
        let file = host.tree(&name).join("etc/resolv.conf");
        assert!(fs::symlink_metadata(&file).is_ok_and(|file| file.is_file()));
        let text = fs::read_to_string(file).expect("a file");
        host.service(&format!("delete {name}")).ok();
        text
    };
    // A stub of systemd-resolved, which listens on the host's loopback.
    host.bash(
        "mkdir -p /run/systemd/resolve && cd /run/systemd/resolve && echo nameserver 127.0.0.53 >stub-resolv.conf
         printf 'nameserver 192.0.2.53\\nsearch example.org\\n' >resolv.conf
         ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf && sha256sum * >$OLDPWD/sums",
    )
    .ok();
    assert_eq!(create(), "nameserver 192.0.2.53\nsearch example.org\n");
    host.bash("cd /run/systemd/resolve && sha256sum --check --quiet $OLDPWD/sums && [ -L /etc/resolv.conf ]").ok();
    // It dangles.
    host.bash("rm -r /run/systemd/resolve").ok();
    assert_eq!(create(), "");
    // It is mounted.
    host.bash("rm /etc/resolv.conf && touch /etc/resolv.conf && echo nameserver 192.0.2.54 >real && mount --bind real /etc/resolv.conf")
        .ok();
    assert_eq!(create(), "nameserver 192.0.2.54\n");
}

#[test]
fn files_of_the_hosts_users_are_theirs_inside() {
    let host = Host::new().with_own(&["etc"]);
    let name = host.name("a");
    host.bash("mkdir /etc/c5 && touch /etc/c5/web /etc/c5/nobody && chown www-data:mail /etc/c5/web && chown 4321 /etc/c5/nobody")
        .ok();
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    let owners = host.inside(&name, "stat -c '%n %U:%G %u' /etc/c5/*").ok().text();
    assert_eq!(owners, "/etc/c5/nobody UNKNOWN:root 4321\n/etc/c5/web www-data:mail 33");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
}

#[test]
fn a_filter_may_refuse_whatever_it_does_not_take_to_execute_the_command() {
    let host = Host::small();
    let name = host.name("a");
    let filter =
        r#"{defaultAction: "SCMP_ACT_ALLOW", syscalls: [{action: "SCMP_ACT_KILL_PROCESS", names: $ARGS.positional}]}"#;
    let killed = "open openat2 close_range fcntl dup3 rt_sigaction rt_sigprocmask getpid gettid prctl capget capset \
        setgroups setresgid setresuid setsid umask chdir keyctl seccomp";
    host.bash(&format!("jq -nc '{filter}' --args {killed} >filter")).ok();
    let filter = host.path("tmp/filter").display().to_string();
    host.service(&format!("create --seccomp {filter} {name} -- /bin/sleep 1000")).ok();
    host.bash(&format!("trap '' USR1; virt-sandbox-service start {name}")).ok();
    let run = "trap '' USR1; sbx-exec run --document 9 --preserve-fds 1 --user 33";
    let run = |command: &str| host.bash(&format!("{run} -- {command} 9< <(sbx-ns show {name}) 3</etc/passwd 5</"));
    let status = run("cat /proc/self/status").ok().text();
    assert!(
        ["Uid:\t33", "SigIgn:\t0000000000000000", "Seccomp:\t2"].iter().all(|line| status.contains(line)),
        "{status}"
    );
    assert_eq!(run("ls /proc/self/fd").ok().text(), "0\n1\n2\n3\n4");
    // It bites.
    assert_eq!(run("bash -c :").code, 128 + 31);
    host.service(&format!("stop {name}")).ok();
}

#[test]
fn a_user_who_may_gain_privileges_has_the_filter_all_the_same() {
    let host = Host::small();
    for users in ["auto", "host"] {
        let name = host.running(users, &format!("--userns {users} --no-new-privs off --uid 33"));
        let sleep = format!("/proc/$(pgrep --parent {})/status", host.holder(&name));
        let execute = |user: &str| format!("virt-sandbox-service execute {user} {name} -- cat /proc/self/status");
        let none = "0000000000000000";
        for (show, held) in [
            (format!("cat {sleep}"), none),
            (execute(""), none),
            (execute("--user 34"), none),
            (execute("--user 0"), "00000000800405fb"),
        ] {
            let status = host.bash(&format!("{show} | grep -E '^(NoNewPrivs|Seccomp|CapPrm):' | tr -d '\t'")).ok();
            assert_eq!(status.text(), format!("CapPrm:{held}\nNoNewPrivs:0\nSeccomp:2"), "{show}");
        }
    }
}
