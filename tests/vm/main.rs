//! Tests that need systemd as PID 1, cgroup v2 and SELinux enforcing: run by tests/vm/test in a virtual machine, one
//! at a time, with what `scripts/install` has installed there.

mod boot;
mod label;
mod limits;
mod net;
mod sandbox;
mod selinux;
mod services;
mod stores;
mod units;

use std::thread::sleep;
use std::time::{Duration, Instant};
use support::Host;

/// How long what goes on by itself may take, emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until a script succeeds.
#[track_caller]
fn until(host: &Host, script: &str) {
    let deadline = Instant::now() + PATIENCE;
    while host.bash(script).code != 0 {
        assert!(Instant::now() < deadline, "does not come true: {script}\n{}", host.bash(script));
        sleep(Duration::from_millis(500));
    }
}

fn property(host: &Host, unit: &str, property: &str) -> String {
    host.line(&format!("systemctl show --property {property} --value {unit}")).ok().text()
}

#[test]
fn the_machine_is_as_the_tests_need_it() {
    let host = Host::machine();
    assert_eq!(host.line("getenforce").text(), "Enforcing");
    assert_eq!(host.line("systemctl is-system-running").text(), "running");
    assert_eq!(host.line("stat -f -c %T /sys/fs/cgroup").text(), "cgroup2fs");
    host.service("--version").ok();
}
