//! What we have found ourselves.

use std::fs;
use support::Host;

#[test]
fn a_signal_to_its_group_does_not_leave_the_container() {
    let host = Host::new();
    let name = host.running("a", "");
    let script = |kill: &str| format!("sleep 1000 & {kill}; kill -0 $! && echo alive");
    host.bash(&script("bash -c 'kill -9 0'")).assert_code(137);
    let execute = format!("virt-sandbox-service execute {name} -- bash -c 'kill -9 0'");
    let outcome = host.bash(&format!("{}; kill $!", script(&execute))).ok();
    assert_eq!(outcome.text(), "alive", "{outcome}");
}

#[test]
fn the_hosts_null_device_is_not_reached_through_a_stream() {
    let host = Host::new();
    let name = host.name("a");
    // With a user namespace it has a pipe in the place of each stream.
    host.service(&format!("create --userns host {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    let outside = host.bash("exec </dev/null; chmod 0666 /proc/self/fd/0 && echo changed").ok();
    assert_eq!(outside.text(), "changed");
    let chmod = "chmod 0666 /proc/self/fd/0 /proc/1/fd/0 2>&1";
    let inside = host.bash(&format!("virt-sandbox-service execute {name} -- bash -c '{chmod}' </dev/null"));
    assert_eq!(inside.code, 1, "{inside}");
    assert!(inside.text().contains("Read-only file system"), "{inside}");
    // It is a null device all the same.
    let written = host.inside(&name, "echo x >/dev/null && echo written").ok();
    assert_eq!(written.text(), "written");
}

#[test]
fn a_command_may_have_fewer_capabilities_than_its_init_needs_to_start_it() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create --uid 33 {name} -- /bin/sleep 1000")).ok();
    host.edit(&name, ".process.capabilities = {}");
    host.service(&format!("start {name}")).ok();
    let status = host.inside(&name, "sed -nE 's/^(Uid|CapEff|CapBnd):\\s*(\\S+).*/\\2/p' /proc/self/status").ok();
    assert_eq!(status.text(), "33\n0000000000000000\n0000000000000000");
}

#[test]
fn a_name_that_ends_like_a_lock_is_a_container_of_its_own() {
    let host = Host::new();
    let (one, other) = (host.running("a", ""), host.running("a.lock", ""));
    assert_eq!(host.service("list --running").ok().text(), format!("{one}\n{other}"));
}

#[test]
fn an_init_that_does_not_get_ready_does_not_hold_boot_beyond_its_time() {
    let host = Host::new();
    let name = host.name("a");
    // It talks all the time, and its preloaded library makes each program that boot asks wait for ever.
    host.unit("never.service", "[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sleep 1000\n");
    host.service(&format!("create -u never.service {name}")).ok();
    let library = host.tree(&name).join("etc/wait.so");
    let source = host.path("tmp/wait.c");
    let wait = "#include <unistd.h>\n#include <string.h>\nextern char *program_invocation_short_name;\n\
        __attribute__((constructor)) static void wait(void) { if (!strcmp(program_invocation_short_name, \"systemctl\")) pause(); }\n";
    fs::write(&source, wait).expect("a source");
    host.bash(&format!("gcc -D_GNU_SOURCE -shared -fPIC -o {} {}", library.display(), source.display())).ok();
    fs::write(host.tree(&name).join("etc/ld.so.preload"), "/etc/wait.so\n").expect("a file");
    let definition = host.definition(&name);
    let bring_up = "sbx-cg create | sbx-ns create | sbx-net up | sbx-fs mount";
    let begin = std::time::Instant::now();
    let boot = host.bash(&format!("<{} {bring_up} | sbx-exec boot --timeout 2", definition.display()));
    assert_eq!(boot.code, 1, "{boot}");
    assert!(boot.stderr.contains("systemctl is-active --quiet -- never.service: no answer in time"), "{boot}");
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
}

#[test]
fn cgroups_that_root_inside_has_made_deeper_than_a_path_is_long_are_removed() {
    let host = Host::new();
    let name = host.name("a");
    host.unit("idle.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    let before = host.snapshot();
    host.service(&format!("create -u idle.service {name}")).ok();
    host.service(&format!("start {name}")).ok();
    let deep = "cd /sys/fs/cgroup/systemd 2>/dev/null || cd /sys/fs/cgroup; n=$(printf 'd%.0s' {1..200}); \
        for i in {1..30}; do mkdir $n && cd $n || exit; done; pwd | wc -c";
    let length: usize = host.inside(&name, deep).ok().text().parse().expect("a number");
    assert!(length > 4096, "{length}");
    // An init that was stopped would have tidied up.
    host.line(&format!("sbx-ns remove {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn there_is_no_audit_inside_rather_than_one_that_refuses() {
    let host = Host::new();
    let name = host.running("a", "");
    let socket = |protocol| format!("perl -e 'socket(S, 16, 3, {protocol}) and print \"made\" or print $!'");
    // Of routes, then of audit: netlink(7).
    assert_eq!(host.inside(&name, &socket(0)).ok().text(), "made");
    assert_eq!(host.inside(&name, &socket(9)).ok().text(), "Address family not supported by protocol");
}
