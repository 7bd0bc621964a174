//! What a reboot of the machine does: tests/vm/test runs one after the other, and reboots in between.

use support::Host;

/// Where the first leaves what the second compares.
const KEPT: &str = "/var/tmp/before-the-reboot";

/// The addresses that containers have.
const ADDRESSES: &str =
    "for name in boot-disabled boot-enabled; do sbx-net show $name | jq -c .interfaces[0].addresses; done";

/// The host's interfaces, and the chains of its containers.
const NETWORK: &str =
    "ip -o link | wc -l; nft -j list chains | jq -r '.nftables[].chain.name // empty' | grep -- - | sort";

/// What that is with no container but the enabled one running: its own, and lo and sbx0.
const ENABLED: &str = "3\nguard-boot-enabled\nport-tcp-8080\npublished-here\nto-boot-enabled";

#[test]
#[ignore = "has its place before a reboot"]
fn before_a_reboot() {
    let host = Host::machine();
    host.service("create -N dhcp --publish 8080:80 -u cron boot-enabled").ok();
    host.service("enable boot-enabled").ok();
    host.service("create -N dhcp boot-disabled -- /usr/bin/sleep infinity").ok();
    host.bash("systemctl start boot-enabled_sandbox boot-disabled_sandbox").ok();
    assert_eq!(host.service("list -r").ok().text(), "boot-disabled\nboot-enabled");
    host.bash(&format!(
        "mkdir {KEPT} && cp -a --no-preserve=context /proc/sys/kernel/random/boot_id /run/sbx {KEPT}/ && {ADDRESSES} >{KEPT}/addresses"
    ))
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
    assert_eq!(host.bash(NETWORK).text(), ENABLED);
    // As after a crash on a host that keeps /run: what it says is of another boot, and is not believed.
    host.bash(&format!("cp -a {KEPT}/sbx/boot-disabled /run/sbx/ && [ -e /run/sbx/boot-disabled/ready ]")).ok();
    assert_eq!(host.service("list -r").ok().text(), "boot-enabled");
    host.service("start boot-disabled").ok();
    assert_eq!(host.service("list -r").ok().text(), "boot-disabled\nboot-enabled");
    host.bash(&format!("{ADDRESSES} | cmp {KEPT}/addresses")).ok();
    host.bash(&format!("rm -r {KEPT}")).ok();
    next_boot_has_selinux(host, "disabled");
}

/// Leaves the machine for the next boot as it is now, but for SELinux.
fn next_boot_has_selinux(host: Host, state: &str) {
    // Not by way of another file, which would have no label where SELinux is off.
    host.bash(&format!("f=/etc/selinux/config && t=$(sed s/^SELINUX=.*/SELINUX={state}/ $f) && echo \"$t\" >$f")).ok();
    std::mem::forget(host);
}

/// The label of what is executed in a container.
fn label(host: &Host, name: &str) -> String {
    host.inside(name, "tr -d '\\0' </proc/self/attr/current").ok().text()
}

#[test]
#[ignore = "has its place after a reboot"]
fn while_selinux_is_off() {
    let host = Host::machine();
    assert_eq!(host.line("getenforce").text(), "Disabled");
    // What was made before starts at boot all the same, and its journal tells.
    assert_eq!(host.service("list -r").ok().text(), "boot-enabled");
    let journal = host.line("journalctl --boot --output cat --unit boot-enabled_sandbox").ok().text();
    assert!(journal.contains("SELinux is off: the label of boot-enabled has no effect"), "{journal}");
    host.service("create -u cron boot-unlabelled").ok();
    for name in ["boot-enabled", "boot-unlabelled"] {
        host.service(&format!("start {name}")).ok();
        assert_eq!(label(&host, name), "kernel");
        host.inside(name, "touch /srv/made-while-selinux-is-off && systemctl is-active cron").ok();
    }
    // The host's own files are Debian's to relabel, which takes long.
    host.line("rm -f /.autorelabel").ok();
    next_boot_has_selinux(host, "enforcing");
}

#[test]
#[ignore = "has its place after a reboot"]
fn when_selinux_is_on_again() {
    let host = Host::machine();
    assert_eq!(host.line("getenforce").text(), "Enforcing");
    assert_eq!(host.service("list -r").ok().text(), "boot-enabled");
    // What any host needs then. systemd reads the label of a unit with the unit.
    host.bash("restorecon -R /etc /var && systemctl daemon-reload").ok();
    for name in ["boot-enabled", "boot-unlabelled"] {
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("start {name}")).ok();
        host.inside(name, "systemctl is-active cron").ok();
        let definition = host.bash(&format!("jq -r .process.selinuxLabel /etc/sbx/{name}.json")).ok().text();
        assert_eq!(label(&host, name), definition);
        assert_eq!(host.line(&format!("sbx-label check {name}")).ok().text(), "[]");
    }
    assert_ne!(label(&host, "boot-enabled"), label(&host, "boot-unlabelled"));
    for name in ["boot-enabled", "boot-disabled", "boot-unlabelled"] {
        host.service(&format!("stop {name}")).ok();
    }
    assert_eq!(host.bash("ip -o link | wc -l; nft list ruleset").ok().text(), "1");
}
