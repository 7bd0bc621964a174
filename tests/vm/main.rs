//! Tests that need systemd as PID 1, cgroup v2 and SELinux enforcing: run by tests/vm/test in a virtual machine, one
//! at a time, with what `scripts/install` has installed there.

mod boot;
mod label;
mod selinux;
mod services;
mod units;

use support::Host;

#[test]
fn the_machine_is_as_the_tests_need_it() {
    let host = Host::machine();
    assert_eq!(host.line("getenforce").text(), "Enforcing");
    assert_eq!(host.line("systemctl is-system-running").text(), "running");
    assert_eq!(host.line("stat -f -c %T /sys/fs/cgroup").text(), "cgroup2fs");
    host.service("--version").ok();
}
