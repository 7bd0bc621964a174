//! Networks of containers, under systemd and with SELinux enforcing.

use crate::selinux::harmful_denials;
use support::Host;
use support::networks::{address, two_apaches};

#[test]
fn two_apaches_on_our_network_without_a_denial_that_matters() {
    let host = Host::machine();
    host.line("dmesg --clear").ok();
    two_apaches(&host);
    assert_eq!(harmful_denials(&host), [""; 0]);
}

#[test]
fn an_interface_of_a_parent_is_one_of_its_network() {
    let host = Host::machine();
    host.bash("ip link add lan type dummy && ip link set lan up").ok();
    let before = host.snapshot();
    host.line("dmesg --clear").ok();
    for mode in ["macvlan", "ipvlan"] {
        let [web, client] = ["web", "client"].map(|name| host.name(&format!("{mode}-{name}")));
        let network = |number: u8| format!("-N mode={mode},source=lan,address=192.0.2.{number}/24");
        host.service(&format!("create -C {} -u apache2.service {web}", network(11))).ok();
        host.service(&format!("create {} {client} -- /usr/bin/sleep infinity", network(12))).ok();
        for name in [&web, &client] {
            host.service(&format!("start {name}")).ok();
            assert_eq!(host.inside(name, "ls /sys/class/net").ok().text(), "eth0\nlo");
        }
        assert_eq!(address(&host, &web), "192.0.2.11");
        let ask = "exec 3<>/dev/tcp/192.0.2.11/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3";
        assert!(host.inside(&client, ask).ok().text().contains("200 OK"), "{mode}");
        // The parent does not give it to its own host.
        host.bash(&format!("timeout 1 bash -c '{ask}'")).assert_code(1);
        for name in [&web, &client] {
            host.service(&format!("stop {name}")).ok();
            host.service(&format!("delete {name}")).ok();
        }
        host.assert_as(&before, mode);
    }
    assert_eq!(harmful_denials(&host), [""; 0]);
    host.line("ip link delete lan").ok();
}
