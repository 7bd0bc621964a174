//! Attacks on what a tool believes: names that others could have taken, records and callers.

use super::state;
use crate::kills::can_trace;
use support::Host;

// CVE-2015-1331, CVE-2021-44731: names that could be foretold, in directories that all share.

/// What a script makes in directories that all share, at names that are not new for certain.
fn made_in_shared_places(host: &Host, script: &str) -> Vec<String> {
    let calls = "?open,openat,?creat,?mkdir,mkdirat,?mknod,mknodat,?symlink,symlinkat,?link,linkat,bind";
    host.run(["strace", "-f", "-qq", "-o", "trace", "-e", &format!("trace={calls}"), "bash", "-c", script], "").ok();
    let trace = host.line("cat trace").ok().text();
    let shared = ["\"/tmp/", "\"/var/tmp/", "\"/dev/shm/", "\"/run/lock/"];
    let makes = |line: &&str| !line.contains("open") || line.contains("O_CREAT") && !line.contains("O_EXCL");
    trace
        .lines()
        .filter(|line| shared.iter().any(|place| line.contains(place)))
        .filter(makes)
        .map(str::to_owned)
        .collect()
}

/// Has scripts use the places that there are without an environment that names others.
const BUILT_IN: &str = "unset SBX_CONFIG_DIR SBX_STATE_DIR SBX_RUNTIME_DIR SBX_UNIT_DIR SBX_JOURNAL_DIR;";

#[test]
fn nothing_is_made_at_a_name_that_others_could_have_taken() {
    let host = Host::new().with_own(&["etc", "var"]);
    if !can_trace() {
        return;
    }
    assert_eq!(made_in_shared_places(&host, "mktemp; echo >/tmp/sbx.lock; rm /tmp/sbx.lock").len(), 1);
    let name = host.name("a");
    let life = [
        "create -C NAME -- /bin/sleep 1000",
        "start NAME",
        "execute NAME -- true",
        "upgrade NAME",
        "stop NAME",
        "delete NAME",
    ];
    let life = life.map(|verb| format!("virt-sandbox-service {}", verb.replace("NAME", &name))).join(" && ");
    assert_eq!(made_in_shared_places(&host, &format!("{BUILT_IN} {life}")), [""; 0]);
}

// CVE-2020-15257: a socket in the abstract name space, where no mode of a file protects it.

#[test]
fn no_socket_of_ours_is_in_the_abstract_name_space() {
    let host = Host::small();
    let name = host.name("a");
    let abstract_ones = "grep @ /proc/net/unix";
    let other =
        "perl -MSocket -e '$^F = 9; socket(S, 1, 1, 0); bind(S, pack_sockaddr_un(qq(\\0x))) or die; exec @ARGV'";
    assert!(host.bash(&format!("{other} {abstract_ones}")).ok().text().ends_with("@x"));
    host.unit("idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    host.service(&format!("create -u idle {name}")).ok();
    let watched =
        format!("virt-sandbox-service start {name} & while kill -0 $! 2>/dev/null; do {abstract_ones}; done; wait $!");
    let started = host.bash(&watched).ok();
    assert_eq!(started.text(), "");
}

// CVE-2021-41091: whoever could pass through the directories of containers could use what is set-user-ID in them.

#[test]
fn nobody_else_passes_through_the_directories_of_containers() {
    let host = Host::new().with_own(&["etc", "var"]);
    let name = host.name("a");
    let create =
        format!("virt-sandbox-service create -C {name} -- /bin/sleep 1000 && virt-sandbox-service start {name}");
    host.bash(&format!("{BUILT_IN} {create}")).ok();
    let tree = format!("/var/lib/sbx/containers/{name}/root");
    host.bash(&format!("cp /usr/bin/id {tree}/var/opt && chmod 4755 {tree}/var/opt/id")).ok();
    // setpriv itself has its rights until it has executed something.
    let nobody = |rights: &str, command: &str| {
        host.bash(&format!("{BUILT_IN} exec setpriv --reuid 65534 --clear-groups {rights} env -- {command}"))
    };
    let attacks = [
        format!("{tree}/var/opt/id -u"),
        "ls /var/lib/sbx".to_owned(),
        "ls /run/sbx".to_owned(),
        format!("ls /var/lib/sbx/containers/{name}"),
        format!("cat /run/sbx/{name}/document.json"),
        format!("cat /etc/sbx/{name}.json"),
        format!("perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(qq(/run/sbx/{name}/control)) or die'"),
        "ln -s /etc /run/sbx/link".to_owned(),
    ];
    for attack in &attacks {
        let refused = nobody("", attack);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{refused}");
    }
    for verb in ["list", &format!("execute {name} -- id")] {
        let reading = "--inh-caps +dac_read_search --ambient-caps +dac_read_search";
        nobody(reading, &format!("virt-sandbox-service {verb}")).assert_failure(1, "virt-sandbox-service", &["root"]);
    }
    host.bash("chmod 0755 /var/lib/sbx /var/lib/sbx/containers /var/lib/sbx/containers/*").ok();
    assert_eq!(nobody("", &attacks[0]).ok().text(), "0");
}

// CVE-2016-8659, CVE-2020-5291: a program that is set-user-ID believed what its caller handed it.

#[test]
fn a_tool_that_is_set_user_id_refuses_whoever_it_would_give_rights_to() {
    let host = Host::new();
    // Where others can execute it.
    host.bash("mkdir -m 755 /run/open && chmod 755 .. .").ok();
    let as_nobody = |program: &str, arguments: &str| {
        let name = program.rsplit('/').next().unwrap_or_default();
        let copy = format!("cp -- {program} /run/open/{name} && chmod 4755 /run/open/{name}");
        host.bash(&format!("{copy} && exec setpriv --reuid 65534 --clear-groups /run/open/{name} {arguments}"))
    };
    assert_eq!(as_nobody("/usr/bin/id", "-u").ok().text(), "0");
    for tool in ["sbx-unit", "sbx-label", "sbx-ns", "sbx-cg", "sbx-fs", "sbx-net", "sbx-exec"] {
        let program = support::binaries().join(tool).display().to_string();
        as_nobody(&program, "--version").assert_failure(1, tool, &["set-user-ID"]);
    }
}

// CVE-2022-31214: whoever joined a container believed a record that others had forged.

/// Has the state of a container name another process, which is the one that has this pid now.
fn forge(host: &Host, name: &str, pid: &str) {
    let file = state(host, name).display().to_string();
    let started = format!("sed 's/.*) //' /proc/{pid}/stat | cut -d ' ' -f 20");
    let edit = ".sbx.state.holder.pid = ($pid | tonumber) | .sbx.state.holder.startTime = ($start | tonumber)";
    let script = format!(
        "start=$({started}) && jq -c --arg pid {pid} --arg start \"$start\" '{edit}' {file} >new && cat new >{file}"
    );
    host.bash(&script).ok();
}

#[test]
fn a_record_of_a_process_that_is_not_in_the_containers_cgroup_is_neither_entered_nor_killed() {
    let host = Host::new();
    let [name, other] = ["a", "b"].map(|name| host.running(name, ""));
    let bystander = host.bash("sleep 1000 >/dev/null 2>&1 & echo $!").ok().text();
    for (pid, leads_to) in [(bystander, "/"), (host.holder(&other), "/run/b")] {
        host.inside(&other, "touch /run/b").ok();
        forge(&host, &name, &pid);
        // Who goes by the record comes out at another place.
        host.bash(&format!(
            "test -e /proc/$(jq .sbx.state.holder.pid {})/root{leads_to}",
            state(&host, &name).display()
        ))
        .ok();
        let words = [&pid, "is not in the cgroup of container", name.as_str()];
        host.line(&format!("sbx-ns show {name}")).assert_failure(1, "sbx-ns", &words);
        let forged = state(&host, &name).display().to_string();
        for verb in
            ["sbx-exec run -- touch /run/entered", "sbx-exec stop", "sbx-net up", "sbx-fs mount", "sbx-fs resize"]
        {
            let outcome = host.bash(&format!("exec {verb} <{forged}"));
            assert!(outcome.code != 0 && outcome.stderr.contains(words[1]), "{outcome}");
        }
        assert_ne!(host.inside(&name, "true").code, 0);
        host.line(&format!("sbx-ns remove {name}")).assert_failure(1, "sbx-ns", &words);
        host.line(&format!("sbx-ns remove {name}")).ok();
        host.bash(&format!("kill -0 {pid} && ! test -e /proc/{pid}/root/run/entered")).ok();
        host.service(&format!("start {name}")).ok();
    }
}

#[test]
fn a_record_that_others_could_have_written_is_not_believed() {
    let host = Host::new();
    let name = host.running("a", "");
    let file = state(&host, &name).display().to_string();
    let directory = host.path("runtime").join(&name).display().to_string();
    let forgeries = [
        (format!("chown 65534 {file}"), format!("chown 0 {file}")),
        (format!("chmod 0622 {file}"), format!("chmod 0600 {file}")),
        (format!("chown 65534 {directory}"), format!("chown 0 {directory}")),
        (format!("chmod 0777 {directory}"), format!("chmod 0700 {directory}")),
        (format!("mv {file} other && ln -s \"$PWD/other\" {file}"), format!("mv other {file}")),
    ];
    for (forge, restore) in forgeries {
        host.bash(&forge).ok();
        let show = host.line(&format!("sbx-ns show {name}")).assert_code(1);
        assert!(show.stderr.contains(&file), "{forge}: {show}");
        host.inside(&name, "true").assert_code(125);
        host.bash(&restore).ok();
        host.inside(&name, "true").ok();
    }
}

#[test]
fn a_process_that_got_the_pid_of_one_that_has_ended_is_not_taken_for_it() {
    let host = Host::new();
    let name = host.running("a", "");
    let pid = host.holder(&name);
    let script = format!(
        "kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done
        until echo $(({pid} - 1)) >/proc/sys/kernel/ns_last_pid; sleep 1000 >/dev/null 2>&1 & [ $! = {pid} ]; do kill $!; done"
    );
    host.bash(&script).ok();
    // Who goes by the pid alone finds it alive.
    host.bash(&format!("kill -0 $(jq .sbx.state.holder.pid {})", state(&host, &name).display())).ok();
    host.line(&format!("sbx-ns show {name}")).assert_failure(1, "sbx-ns", &[&name, "is not running"]);
    host.inside(&name, "true").assert_code(125);
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    assert_eq!(host.bash(&format!("cat /proc/{pid}/comm")).ok().text(), "sleep");
}
