//! Networks of containers, each on a host with a network of its own: interfaces, addresses, published ports, and the
//! rules that keep containers apart.

use serde_json::Value;
use std::fs;
use support::networks::{address, gateway, interface, two_apaches};
use support::{Host, Outcome};

/// A command that its containers run.
const IDLE: &str = "/bin/sleep 600";

/// Begins a container by its steps, without a tree: namespaces, a network, and a holder.
fn begin(host: &Host, name: &str, options: &str) -> Outcome {
    host.bash(&format!(
        "sbx-unit command --name {name} -- {IDLE} | sbx-ns plan | sbx-net plan {options} | sbx-ns create | sbx-net up"
    ))
}

/// What of the kernel's is changed, beside links.
const SETTINGS: &str =
    "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/*/{forwarding,accept_ra}; nft list ruleset";

/// A script in a container's network namespace, with all that its container may not do.
fn within(host: &Host, name: &str, script: &str) -> Outcome {
    let pid = host.holder(name);
    host.run(["nsenter", "--target", &pid, "--net", "--", "bash", "-c", script], "")
}

fn end(host: &Host, name: &str) {
    host.bash(&format!("sbx-net remove --addresses {name} && sbx-ns remove {name}")).ok();
}

/// Has a container answer each connection to a port with the address that it is from.
fn serve(host: &Host, name: &str, port: u16) {
    let answer = "SYSTEM:echo $SOCAT_PEERADDR";
    let listen = format!("socat TCP4-LISTEN:{port},fork,reuseaddr '{answer}' >/dev/null 2>&1 </dev/null &");
    within(host, name, &listen).ok();
    within(host, name, &format!("until ss -Hltn sport = :{port} | grep -q .; do sleep 0.02; done")).ok();
}

/// What a connection to an address and port is answered, if it is.
const ASK: &str = "timeout 1 socat - TCP4:";

/// The packets and their rule's chain that counters have counted, where that is not nothing.
fn counted(host: &Host) -> Vec<String> {
    let rules = host.line("nft -j list table inet sbx").ok().json();
    let rules = rules["nftables"].as_array().expect("rules").iter().map(|entry| &entry["rule"]);
    let counted = rules.flat_map(|rule| {
        let counters = rule["expr"].as_array().into_iter().flatten().map(|part| part["counter"]["packets"].as_u64());
        counters.flatten().filter(|packets| *packets > 0).map(|_| rule["chain"].as_str().unwrap_or_default().to_owned())
    });
    counted.collect()
}

#[test]
fn two_apaches_are_reached_by_address_and_port_and_do_not_reach_each_other_until_allowed() {
    let host = Host::new();
    host.line("ip link set lo up").ok();
    two_apaches(&host);
}

#[test]
fn up_and_remove_are_done_once_and_leave_nothing_on_any_way() {
    let host = Host::new();
    let name = host.name("a");
    // Rules of others, which stay.
    host.bash("nft add table inet other; nft add chain inet other input '{ type filter hook input priority 0; }'").ok();
    let (before, set) = (host.snapshot(), host.bash(SETTINGS).ok().text());
    begin(&host, &name, "--network dhcp --publish 8080:80").ok();
    assert_ne!(host.bash(SETTINGS).ok().text(), set);
    let once = host.bash("ip address; nft list ruleset").ok().text();
    host.bash(&format!("sbx-ns show {name} | sbx-net up")).ok();
    assert_eq!(host.bash("ip address; nft list ruleset").ok().text(), once, "up twice");
    end(&host, &name);
    end(&host, &name);
    host.assert_as(&before, "remove");
    assert_eq!(host.bash(SETTINGS).ok().text(), set);

    // Its holder is killed, and the machine's links go with it; the rest is found.
    begin(&host, &name, "--network dhcp").ok();
    host.bash(&format!("kill -KILL {}", host.holder(&name))).ok();
    end(&host, &name);
    host.assert_as(&before, "kill");
    assert_eq!(host.bash(SETTINGS).ok().text(), set);

    // After a start of the machine there are neither links nor what was kept for its last one.
    begin(&host, &name, "--network dhcp").ok();
    let kept = host.path("runtime/.network");
    let record = kept.join(format!("{name}.json"));
    let text = fs::read_to_string(&record).expect("a record");
    end(&host, &name);
    fs::create_dir(&kept).expect("a directory");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("an id");
    fs::write(&record, text.replace(boot.trim(), "another")).expect("a record");
    assert_eq!(host.line("sbx-net list").ok().text(), "[]");
    host.line(&format!("sbx-net show {name}")).assert_failure(1, "sbx-net", &[&name]);
    begin(&host, &name, "--network dhcp").ok();
    end(&host, &name);
    host.assert_as(&before, "a start of the machine");
}

#[test]
fn up_and_remove_that_are_killed_at_any_call_are_taken_back_by_remove() {
    let host = Host::new();
    let name = host.name("a");
    let (before, set) = (host.snapshot(), host.bash(SETTINGS).ok().text());
    let killed = |call: &str, number: usize, what: &str| {
        format!("strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={number} {what}")
    };
    let document =
        format!("sbx-unit command --name {name} -- {IDLE} | sbx-ns plan | sbx-net plan --network dhcp | sbx-ns create");
    let remove = format!("sbx-net remove --addresses {name}");
    for call in ["sendto", "rename", "execve", "write", "setns", "symlink", "mkdir", "unlink", "rmdir"] {
        for number in 1.. {
            let up = host.bash(&format!("{document} | {} >/dev/null", killed(call, number, "sbx-net up")));
            let undo = host.bash(&killed(call, number, &remove));
            end(&host, &name);
            host.assert_as(&before, &format!("kill at {call} {number}"));
            if (up.code, undo.code) == (0, 0) {
                break;
            }
        }
    }
    assert_eq!(host.bash(SETTINGS).ok().text(), set);
}

#[test]
fn names_that_begin_alike_are_up_together() {
    let host = Host::new();
    let names = [1, 2].map(|n| host.name(&format!("customer-webserver-{n}")));
    for name in &names {
        begin(&host, name, "--network dhcp").ok();
    }
    let both = names.each_ref().map(|name| interface(&host, name));
    for key in ["link", "mac", "addresses"] {
        assert_ne!(both[0][key], both[1][key], "{key}");
    }
    for (name, shown) in names.iter().zip(&both) {
        let link = shown["link"].as_str().expect("a link");
        assert!(link.len() <= 15 && name.starts_with(&link[..8]), "{link}");
        let mac = shown["mac"].as_str().expect("a mac");
        let inside = within(&host, name, "ip -br link show eth0").ok().text();
        assert!(inside.contains(mac), "{inside}");
        let knock =
            format!("socat -u OPEN:/dev/null TCP4:{}:9 2>&1 | grep -o 'Connection refused'", address(&host, name));
        host.bash(&knock).ok();
        end(&host, name);
    }
}

#[test]
fn what_is_sent_by_a_lie_is_dropped_and_counted() {
    let host = Host::new();
    host.bash("ip link set lo up; for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$file; done").ok();
    let [liar, other] = ["liar", "other"].map(|name| host.name(name));
    begin(&host, &other, "--network dhcp").ok();
    let (gateway, theirs) = (gateway(&host), address(&host, &other));
    let heard = |to: &str| {
        let script = format!(
            "timeout 1 socat -u UDP4-RECV:999 - | head -c 4 & until ss -Hlun sport = :999 | grep -q .; do sleep 0.02; done
             echo hear | nsenter --target {} --net -- socat -u - UDP4-SENDTO:{to}; wait",
            host.holder(&liar)
        );
        host.bash(&script).text()
    };
    let honest = format!("{gateway}:999");
    // The last is CVE-2020-8558: the host's own services, where a port is published to its loopback.
    let loopback = format!(
        "ip address flush dev lo; echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet;
         ip route add 127.0.0.1 via {gateway} dev eth0 onlink"
    );
    for (prepare, to) in [
        (format!("ip address add {theirs}/32 dev eth0"), format!("{honest},bind={theirs}")),
        ("ip link set eth0 address 02:00:00:00:00:99".into(), honest.clone()),
        (loopback, "127.0.0.1:999".into()),
    ] {
        begin(&host, &liar, "--network dhcp --publish 8080:80").ok();
        host.bash("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$file; done").ok();
        assert_eq!(heard(&honest), "hear");
        assert_eq!(counted(&host), [""; 0]);
        within(&host, &liar, &prepare).ok();
        assert_eq!(heard(&to), "", "{prepare}");
        assert_eq!(counted(&host), [format!("guard-{liar}")], "{prepare}");
        host.line(&format!("nft flush chain inet sbx guard-{liar}")).ok();
        assert_eq!(heard(&to), "hear", "without the guard: {prepare}");
        end(&host, &liar);
    }
}

/// A machine beside the host, at 192.0.2.2; the host is 192.0.2.1.
fn neighbour(host: &Host) {
    host.bash(
        "ip link set lo up && ip netns add lan && ip link add lan type veth peer name lan netns lan && ip address add 192.0.2.1/24 dev lan &&
         ip link set lan up && ip -n lan address add 192.0.2.2/24 dev lan && ip -n lan link set lan up && ip -n lan link set lo up",
    )
    .ok();
}

#[test]
fn a_published_port_tells_who_came_and_leads_from_wherever() {
    let host = Host::new();
    neighbour(&host);
    let [web, other] = ["web", "other"].map(|name| host.name(name));
    begin(&host, &web, "--network dhcp --publish 8080:80 --publish 192.0.2.1:8443:443").ok();
    begin(&host, &other, "--network dhcp --publish 192.0.2.9:8443:443").ok();
    serve(&host, &web, 80);
    serve(&host, &web, 443);
    let lan = |to: &str| host.bash(&format!("ip netns exec lan {ASK}{to} </dev/null")).text();
    assert_eq!(lan("192.0.2.1:8080"), "192.0.2.2");
    assert_eq!(lan("192.0.2.1:8443"), "192.0.2.2");
    // CVE-2021-20199: a program that forwards connects from the container's own loopback, which is trusted there.
    let pid = host.holder(&web);
    let connect = format!("nsenter --target {pid} --net -- socat - TCP4\\:127.0.0.1\\:80");
    host.bash(&format!("socat TCP4-LISTEN:8081,fork,reuseaddr 'EXEC:{connect}' >/dev/null 2>&1 </dev/null &")).ok();
    host.bash("until ss -Hltn sport = :8081 | grep -q .; do sleep 0.02; done").ok();
    assert_eq!(lan("192.0.2.1:8081"), "127.0.0.1");
    let gateway = gateway(&host);
    for to in ["127.0.0.1:8080", "192.0.2.1:8080"] {
        let from = if to.starts_with("127") { gateway.as_str() } else { "192.0.2.1" };
        assert_eq!(host.bash(&format!("{ASK}{to} </dev/null")).text(), from, "{to}");
    }
    host.bash(&format!("{ASK}127.0.0.1:8443 </dev/null")).assert_code(1);
    assert_eq!(within(&host, &other, &format!("{ASK}192.0.2.1:8080 </dev/null")).text(), address(&host, &other));
    assert_eq!(within(&host, &web, &format!("{ASK}192.0.2.1:8080 </dev/null")).text(), gateway);
    // Nobody outside comes by another way.
    host.bash("ip -n lan route add 10.83.0.0/16 via 192.0.2.1").ok();
    assert_eq!(lan(&format!("{}:80", address(&host, &web))), "");
    assert_eq!(counted(&host), [format!("to-{web}")]);
}

#[test]
fn egress_is_what_was_said_and_answers_go_anywhere() {
    let host = Host::new();
    neighbour(&host);
    host.bash("ip -n lan address add 198.51.100.1/32 dev lo; ip route add 198.51.100.1 via 192.0.2.2").ok();
    for port in [53, 80] {
        let listen = format!(
            "ip netns exec lan socat TCP4-LISTEN:{port},fork,reuseaddr 'SYSTEM:echo $SOCAT_PEERADDR' >/dev/null 2>&1 </dev/null &"
        );
        host.bash(&listen).ok();
    }
    host.bash("until [ $(ip netns exec lan ss -Hltn | wc -l) = 2 ]; do sleep 0.02; done").ok();
    let places = ["192.0.2.2:80", "192.0.2.2:53", "198.51.100.1:80"];
    for (egress, reached) in [("all", "+++"), ("none", "---"), ("dns", "-+-"), ("198.51.100.0/24", "--+")] {
        let name = host.name("a");
        begin(&host, &name, &format!("--network dhcp --publish 8080:80 --egress {egress}")).ok();
        serve(&host, &name, 80);
        let found: String = places
            .iter()
            .map(|place| {
                let answer = within(&host, &name, &format!("{ASK}{place} </dev/null")).text();
                // Outside it is the host who asks.
                if answer == "192.0.2.1" { '+' } else { '-' }
            })
            .collect();
        assert_eq!(found, reached, "{egress}");
        assert_eq!(
            host.bash(&format!("ip netns exec lan {ASK}192.0.2.1:8080 </dev/null")).text(),
            "192.0.2.2",
            "{egress}"
        );
        end(&host, &name);
    }
}

#[test]
fn a_busy_port_names_its_holder_and_nothing_is_left() {
    let host = Host::new();
    let [first, second] = ["first", "second"].map(|name| host.name(name));
    begin(&host, &first, "--network dhcp --publish 8080:80").ok();
    let before = host.snapshot();
    let refused = begin(&host, &second, "--network dhcp --publish 8080:81").assert_code(1);
    assert!(
        refused.stderr.contains(&format!("port 8080/tcp of the host is published by container {first}")),
        "{refused}"
    );
    end(&host, &second);
    host.assert_as(&before, "a port of another container");
    host.bash("socat TCP4-LISTEN:8090 /dev/null >/dev/null 2>&1 </dev/null & echo $! >listener").ok();
    host.bash("until ss -Hltn sport = :8090 | grep -q .; do sleep 0.02; done").ok();
    let pid = host.line("cat listener").ok().text();
    let refused = begin(&host, &second, "--network dhcp --publish 8090:80").assert_code(1);
    let expected = format!("port 8090/tcp of the host is in use by process {pid} (socat)");
    assert!(refused.stderr.contains(&expected), "{refused}");
    begin(&host, &host.name("third"), "--network dhcp --publish 192.0.2.1:8090:80/udp").ok();
}

#[test]
fn set_changes_who_may_connect_at_once_or_nothing() {
    let host = Host::new();
    neighbour(&host);
    let [first, second] = ["first", "second"].map(|name| host.name(name));
    for (name, port) in [(&first, 8080), (&second, 8081)] {
        host.service(&format!("create -N dhcp --publish {port}:80 {name} -- {IDLE}")).ok();
        host.service(&format!("start {name}")).ok();
    }
    serve(&host, &first, 80);
    let lan = |port: u16| host.bash(&format!("ip netns exec lan {ASK}192.0.2.1:{port} </dev/null")).text();
    assert_eq!((lan(8080), lan(8082)), ("192.0.2.2".into(), String::new()));
    host.service(&format!("set --publish 8082:80 {first}")).ok();
    assert_eq!((lan(8080), lan(8082)), (String::new(), "192.0.2.2".into()));
    let definition = || fs::read(host.definition(&first)).expect("a definition");
    let rules = || host.line("nft list ruleset").ok().text().replace(|c: char| c.is_ascii_digit(), "");
    let before = (definition(), rules());
    let refused = host.service(&format!("set --publish 8081:80 --egress none {first}"));
    refused.assert_failure(1, "sbx-net", &["port 8081/tcp", &second]);
    assert_eq!((definition(), rules()), before);
}

#[test]
fn a_clone_is_connected_alike_and_has_ports_and_addresses_of_its_own() {
    let host = Host::new();
    let names = ["first", "second", "third"].map(|name| host.name(name));
    let [first, second, third] = &names;
    host.service(&format!("create -N dhcp,mac=02:00:00:00:00:07 --publish 8080:80 --egress none {first} -- {IDLE}"))
        .ok();
    host.service(&format!("clone -N source=default,address=10.83.0.3/16 --publish 8081:80 {first} {second}")).ok();
    host.service(&format!("clone {second} {third}")).ok();
    for name in &names {
        host.service(&format!("start {name}")).ok();
    }
    let shown = names.each_ref().map(|name| host.line(&format!("sbx-net show {name}")).ok().json());
    assert!(shown.iter().all(|network| network["egress"] == "none"), "{shown:?}");
    let ports = shown.each_ref().map(|network| network["publish"][0]["host"].as_i64());
    assert_eq!(ports, [Some(8080), Some(8081), None]);
    let of = |key: &str| shown.each_ref().map(|network| network["interfaces"][0][key].to_string());
    assert!(of("mac")[0] == "\"02:00:00:00:00:07\"" && of("mac")[1..].iter().all(|mac| *mac != of("mac")[0]));
    assert_eq!(of("addresses")[1], "[\"10.83.0.3/16\"]");
    assert_ne!(of("addresses")[2], of("addresses")[1]);
}

#[test]
fn an_address_that_was_asked_for_is_nobody_elses() {
    let host = Host::new();
    let [first, second] = ["first", "second"].map(|name| host.name(name));
    let ask = "--network source=default,address=10.83.0.7/16,address=2001:db8::7,mac=02:00:00:00:00:07,mtu=1400";
    begin(&host, &first, ask).ok();
    let shown = interface(&host, &first);
    assert_eq!(shown["addresses"], serde_json::json!(["10.83.0.7/16", "2001:db8::7/64"]));
    let link = within(&host, &first, "ip link show eth0; ip -6 address show eth0").ok().text();
    for word in ["mtu 1400", "02:00:00:00:00:07", "2001:db8::7/64"] {
        assert!(link.contains(word), "{word}: {link}");
    }
    assert!(!link.contains("fe80") && !link.contains("dynamic"), "{link}");
    let refused = begin(&host, &second, ask).assert_code(1);
    assert!(refused.stderr.contains(&format!("the address 10.83.0.7 is container {first}'s")), "{refused}");
    end(&host, &first);
    end(&host, &second);
    begin(&host, &second, ask).ok();
}

#[test]
fn a_bridge_of_the_hosts_and_a_parent_are_connected_to() {
    let host = Host::new();
    neighbour(&host);
    host.bash(
        "ip link add br0 type bridge && ip address flush dev lan && ip link set lan master br0 && ip link set br0 up",
    )
    .ok();
    host.bash("ip address add 192.0.2.1/24 dev br0").ok();
    let links = || host.bash("ip -o link | cut -d ' ' -f 2").ok().text();
    let before = links();
    let names = ["a", "b", "c", "d"].map(|name| host.name(name));
    for (name, network) in names.iter().zip([
        "source=br0,address=192.0.2.11,route=0.0.0.0/0%192.0.2.2",
        "source=br0,address=192.0.2.12",
        "mode=macvlan,source=br0,address=192.0.2.13",
        "source=br0,address=192.0.2.14",
    ]) {
        begin(&host, name, &format!("--network {network}")).ok();
    }
    serve(&host, &names[1], 80);
    let lan = |to: &str| host.bash(&format!("ip netns exec lan {ASK}{to} </dev/null")).text();
    assert_eq!(lan("192.0.2.12:80"), "192.0.2.2");
    // Two containers on one bridge have nothing to do with each other.
    assert_eq!(within(&host, &names[0], &format!("{ASK}192.0.2.12:80 </dev/null")).text(), "");
    assert_eq!(within(&host, &names[0], "ip -4 route show default | cut -d ' ' -f 3").ok().text(), "192.0.2.2");
    serve(&host, &names[2], 80);
    assert_eq!(lan("192.0.2.13:80"), "192.0.2.2");
    assert_eq!(interface(&host, &names[2])["link"], Value::Null);
    for name in &names {
        end(&host, name);
    }
    assert_eq!(links(), before);
    for (network, why) in [
        ("source=nosuch,address=192.0.2.11", "eth0: there is no nosuch"),
        ("source=lan,address=192.0.2.11", "eth0: lan is no bridge"),
        ("mode=macvlan,source=nosuch", "eth0: there is no nosuch"),
    ] {
        let refused = begin(&host, &names[0], &format!("--network {network}")).assert_code(1);
        assert!(refused.stderr.contains(why), "{refused}");
        end(&host, &names[0]);
    }
}

#[test]
fn a_container_joins_anothers_network_or_has_the_hosts() {
    let host = Host::new();
    let [first, second, third] = ["first", "second", "third"].map(|name| host.name(name));
    let refused = begin(&host, &second, &format!("--network container={first}")).assert_code(1);
    assert!(refused.stderr.contains(&format!("{first}/netns")), "{refused}");
    begin(&host, &first, "--network dhcp").ok();
    begin(&host, &second, &format!("--network container={first}")).ok();
    let network = |name: &str| within(&host, name, "readlink /proc/self/ns/net").ok().text();
    assert_eq!(network(&first), network(&second));
    begin(&host, &third, "--network host").ok();
    let of = format!("readlink /proc/{}/ns/net", host.holder(&third));
    assert_eq!(host.line(&of).ok().text(), host.line("readlink /proc/self/ns/net").ok().text());
    // So has one of a service, with a file system that shows it.
    for (network, expected) in [(format!("container={first}"), "eth0\nlo"), ("host".into(), "lo\nsbx0")] {
        let name = host.name("joined");
        host.service(&format!("create -N {network} {name} -- {IDLE}")).ok();
        host.service(&format!("start {name}")).ok();
        let links = host.inside(&name, "ls /sys/class/net").ok().text();
        assert!(links.starts_with(expected), "{network}: {links}");
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
    }
}

#[test]
fn a_host_without_ipv6_or_nft_or_with_something_else_in_the_bridges_place_says_so() {
    let host = Host::new().with_own(&["usr"]);
    let name = host.name("a");
    // Nothing is at the place where IPv6 has its settings.
    host.line("mount -t tmpfs tmpfs /proc/sys/net/ipv6").ok();
    begin(&host, &name, "--network dhcp").ok();
    assert_eq!(interface(&host, &name)["addresses"].as_array().map(Vec::len), Some(1));
    serve(&host, &name, 80);
    assert_ne!(host.bash(&format!("{ASK}{}:80 </dev/null", address(&host, &name))).text(), "");
    end(&host, &name);
    host.line("umount /proc/sys/net/ipv6").ok();

    let before = host.snapshot();
    // A kernel without bridges: each of its answers in turn is that it knows no such thing (EOPNOTSUPP, netlink(7)).
    let without = |number: usize| {
        let answer = "24000000020000000000000000000000a1ffffff";
        let poke =
            format!("strace -qq -o /dev/null -e inject=recvfrom:poke_exit=@arg2={answer}:when={number} sbx-net up");
        let planned = format!("sbx-unit command --name {name} -- {IDLE} | sbx-ns plan | sbx-net plan --network dhcp");
        let outcome = host.bash(&format!("{planned} | sbx-ns create | {poke} >/dev/null"));
        end(&host, &name);
        outcome.stderr
    };
    // Each is looked at before it is taken.
    let said: Vec<_> = (2..20).step_by(2).map(without).collect();
    assert!(said.iter().any(|line| line.contains("cannot make sbx0: this kernel has no bridges")), "{said:?}");
    host.assert_as(&before, "no bridges");
    host.line("ip link add sbx0 type ifb").ok();
    let refused = begin(&host, &name, "--network dhcp").assert_code(1);
    assert!(refused.stderr.contains("sbx0 is no bridge"), "{refused}");
    end(&host, &name);
    host.line("ip link delete sbx0").ok();
    host.line("ip link add busy type ifb").ok();
    host.bash("ip address add 10.83.4.1/24 dev busy && ip link set busy up").ok();
    let refused = begin(&host, &name, "--network dhcp").assert_code(1);
    assert!(refused.stderr.contains("the host has a route to 10.83.4.0/24"), "{refused}");
    end(&host, &name);
    // One that was made before, with another network, is used and stays.
    host.bash("ip link add sbx0 type bridge && ip address add 172.31.0.1/28 dev sbx0 && ip link set sbx0 up").ok();
    begin(&host, &name, "--network dhcp").ok();
    assert!(address(&host, &name).starts_with("172.31.0."));
    end(&host, &name);
    host.line("ip link show sbx0").ok();
    host.bash("ip link delete sbx0; ip link delete busy").ok();
    host.assert_as(&before, "another bridge");

    host.bash("rm -f /usr/sbin/nft").ok();
    let refused = begin(&host, &name, "--network dhcp").assert_code(1);
    assert!(refused.stderr.contains("cannot run nft, of the package nftables: No such file"), "{refused}");
    end(&host, &name);
    begin(&host, &name, "--network none").ok();
    end(&host, &name);
    host.assert_as(&before, "no nft");
}

#[test]
fn no_request_is_lost_while_other_containers_start_and_stop() {
    let host = Host::new();
    neighbour(&host);
    let web = host.name("web");
    begin(&host, &web, "--network dhcp --publish 8080:80").ok();
    // Its workers are as many as it takes to answer all at once.
    let server = "daemon off; pid none; error_log stderr crit; events {} http { access_log off; client_body_temp_path .;
        proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .; server { listen 80 backlog=511; return 200 hi; } }";
    fs::write(host.path("tmp/nginx.conf"), server).expect("a file");
    within(&host, &web, "nginx -p . -e stderr -c nginx.conf >/dev/null 2>nginx.log </dev/null &").ok();
    within(&host, &web, "until ss -Hltn sport = :80 | grep -q .; do sleep 0.02; done").ok();
    let others = format!(
        "for n in $(seq 20); do name={}-$n
            sbx-unit command --name $name -- {IDLE} | sbx-ns plan | sbx-net plan --network dhcp --publish $((9000 + n)):80 |
                sbx-ns create | sbx-net up >/dev/null || exit
            [ $n -gt 10 ] || {{ sbx-net remove --addresses $name && sbx-ns remove $name; }} || exit
         done; for n in $(seq 11 20); do sbx-net remove --addresses {0}-$n && sbx-ns remove {0}-$n || exit; done",
        host.name("other")
    );
    let script = format!(
        "nft monitor destroy elements >gone & monitor=$!
         ({others}) & others=$!
         while kill -0 $others 2>/dev/null; do
             ip netns exec lan ab -q -c 100 -n 500 -s 10 http://192.0.2.1:8080/ >ab 2>&1 || {{ cat ab; exit 9; }}
             grep -E '^(Complete|Failed) requests' ab
         done; wait $others && kill $monitor"
    );
    let outcome = host.bash(&script).ok();
    // What leads to it was not even for an instant taken away, as it is for those that stop.
    let gone = fs::read_to_string(host.path("tmp/gone")).expect("what was taken away");
    let of = |name: &str| gone.lines().filter(|line| line.contains(&format!("-{name}"))).count();
    assert_eq!((of(&web), of(&host.name("other-11"))), (0, 2), "{gone}");
    let text = outcome.text();
    let words: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(
        words.len() >= 2 && words.chunks(2).all(|run| run == ["Complete requests: 500", "Failed requests: 0"]),
        "{outcome}"
    );
}
