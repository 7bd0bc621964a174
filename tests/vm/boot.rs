//! What a reboot of the machine does: tests/vm/test runs the first, reboots, and runs the second.

use support::Host;

#[test]
#[ignore = "has its place before a reboot"]
fn before_a_reboot() {
    let host = Host::machine();
    host.bash("cp /proc/sys/kernel/random/boot_id /var/tmp/boot_id").ok();
}

#[test]
#[ignore = "has its place after a reboot"]
fn after_a_reboot() {
    let host = Host::machine();
    host.bash("! cmp /proc/sys/kernel/random/boot_id /var/tmp/boot_id").ok();
}
