//! What a reboot of the machine does: tests/vm/test runs the first, reboots, and runs the second.

use support::Host;

/// Where the first leaves what the second compares.
const KEPT: &str = "/var/tmp/before-the-reboot";

#[test]
#[ignore = "has its place before a reboot"]
fn before_a_reboot() {
    let host = Host::machine();
    host.service("create -u cron boot-enabled").ok();
    host.service("enable boot-enabled").ok();
    host.service("create boot-disabled -- /usr/bin/sleep infinity").ok();
    host.bash("systemctl start boot-enabled_sandbox boot-disabled_sandbox").ok();
    assert_eq!(host.service("list -r").ok().text(), "boot-disabled\nboot-enabled");
    host.bash(&format!("mkdir {KEPT} && cp -a --no-preserve=context /proc/sys/kernel/random/boot_id /run/sbx {KEPT}/"))
        .ok();
    // Its end is not to stop what is to be running when the machine goes down.
    std::mem::forget(host);
}

#[test]
#[ignore = "has its place after a reboot"]
fn after_a_reboot() {
    let host = Host::machine();
    host.bash(&format!("! cmp /proc/sys/kernel/random/boot_id {KEPT}/boot_id")).ok();
    assert_eq!(host.line("systemctl is-system-running --wait").text(), "running");
    assert_eq!(host.service("list -r").ok().text(), "boot-enabled");
    host.inside("boot-enabled", "systemctl is-active cron").ok();
    assert_eq!(host.line("systemctl is-active boot-disabled_sandbox").text(), "inactive");
    // As after a crash on a host that keeps /run: what it says is of another boot, and is not believed.
    host.bash(&format!("cp -a {KEPT}/sbx/boot-disabled /run/sbx/ && [ -e /run/sbx/boot-disabled/ready ]")).ok();
    assert_eq!(host.service("list -r").ok().text(), "boot-enabled");
    host.service("start boot-disabled").ok();
    assert_eq!(host.service("list -r").ok().text(), "boot-disabled\nboot-enabled");
    host.bash(&format!("rm -r {KEPT}")).ok();
}
