//! The rules: all of them in one table, which is replaced as a whole, in one transaction.
//!
//! Packets are given to a container's chains by the interface that they come from or go to, found in a map. What other
//! tables have is left alone: a packet that one of those drops is dropped.

use crate::bridge::Gateways;
use crate::network::{Address, Egress, Publish};
use crate::record::Record;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// The table, in the family that has IPv4 and IPv6.
const TABLE: &str = "sbx";

/// Puts the rules of these containers into the place of those that there are.
pub fn load(records: &[Record], gateways: Gateways) -> Result<()> {
    nft(&ruleset(records, gateways)).context("cannot set the firewall")
}

/// Takes all rules away. Without nft(8) there are none.
pub fn clear() -> Result<()> {
    let table = table();
    let commands = json!({ "nftables": [{ "add": { "table": table } }, { "delete": { "table": table } }] });
    match nft(&commands) {
        Err(error) if is_missing(&error) => Ok(()),
        cleared => cleared.context("cannot clear the firewall"),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// One transaction.
fn nft(commands: &Value) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-j", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft, of the package nftables")?;
    // One that does not read has something to say.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(commands.to_string().as_bytes()));
    let output = child.wait_with_output().context("cannot run nft")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft: {}", said.lines().next().unwrap_or("it failed without a word"));
    Ok(())
}

fn table() -> Value {
    json!({ "family": "inet", "name": TABLE })
}

/// Commands as they are collected. Chains come before maps, which lead to them, and maps before rules, which use them.
#[derive(Debug, Default)]
struct Commands {
    chains: Vec<Value>,
    maps: Vec<Value>,
    rules: Vec<Value>,
}

impl Commands {
    fn base(&mut self, name: &str, kind: &str, hook: &str, priority: i32) {
        self.chains.push(json!({ "add": { "chain": {
            "family": "inet", "table": TABLE, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        } } }));
    }

    fn chain(&mut self, name: &str) {
        self.chains.push(json!({ "add": { "chain": { "family": "inet", "table": TABLE, "name": name } } }));
    }

    fn rule(&mut self, chain: &str, expressions: impl IntoIterator<Item = Value>) {
        let expressions: Vec<Value> = expressions.into_iter().collect();
        self.rules.push(json!({ "add": { "rule": {
            "family": "inet", "table": TABLE, "chain": chain, "expr": expressions,
        } } }));
    }

    /// A map to chains, by a key of this type.
    fn verdicts(&mut self, name: &str, key: Value, chains: Vec<(Value, String)>) {
        let elements: Vec<Value> =
            chains.into_iter().map(|(key, chain)| json!([key, { "jump": { "target": chain } }])).collect();
        let mut map = json!({ "family": "inet", "table": TABLE, "name": name, "type": key, "map": "verdict" });
        if !elements.is_empty() {
            map["elem"] = elements.into();
        }
        self.maps.push(json!({ "add": { "map": map } }));
    }
}

/// What the rules are for: a container's interface on our network.
#[derive(Debug)]
struct Container<'a> {
    record: &'a Record,
    link: &'a str,
    addresses: Vec<IpAddr>,
}

/// All rules as commands of nft(8) (libnftables-json(5)).
fn ruleset(records: &[Record], gateways: Gateways) -> Value {
    let containers: Vec<Container<'_>> = records
        .iter()
        .filter_map(|record| {
            let made = record.ours()?;
            let addresses = made.addresses.iter().map(|address| address.0.ip).collect();
            Some(Container { record, link: made.link.as_deref()?, addresses })
        })
        .collect();
    let mut commands = Commands::default();
    let (from, to) = (meta("iifname"), meta("oifname"));
    commands.base("guard", "filter", "prerouting", -300);
    commands.base("input", "filter", "input", 0);
    commands.base("forward", "filter", "forward", 0);
    commands.base("published", "nat", "prerouting", -100);
    commands.base("published-here", "nat", "output", -100);
    commands.base("sources", "nat", "postrouting", 100);

    let links = |prefix: &str, of: &dyn Fn(&Container<'_>) -> bool| -> Vec<(Value, String)> {
        let chains = containers.iter().filter(|container| of(container));
        chains.map(|container| (container.link.into(), format!("{prefix}-{}", container.record.name.0))).collect()
    };
    commands.verdicts("guards", json!("ifname"), links("guard", &|_| true));
    commands.verdicts("senders", json!("ifname"), links("from", &|container| container.record.egress.is_some()));
    commands.verdicts("receivers", json!("ifname"), links("to", &|_| true));

    commands.rule("guard", [vmap(from.clone(), "guards")]);
    let known = matches(json!({ "ct": { "key": "state" } }), json!(["established", "related"]));
    for (chain, maps) in
        [("input", vec![(&from, "senders")]), ("forward", vec![(&from, "senders"), (&to, "receivers")])]
    {
        commands.rule(chain, [known.clone(), accept()]);
        for (key, map) in maps {
            commands.rule(chain, [vmap(key.clone(), map)]);
        }
    }
    for container in &containers {
        guard(&mut commands, container);
        egress(&mut commands, container);
        ingress(&mut commands, container, &containers);
    }
    publish(&mut commands, &containers);
    sources(&mut commands, &containers, gateways);
    let table = table();
    let first = ["add", "delete", "add"].map(|verb| json!({ verb: { "table": table } }));
    let all: Vec<Value> = first.into_iter().chain(commands.chains).chain(commands.maps).chain(commands.rules).collect();
    json!({ "nftables": all })
}

/// Nobody sends from an address that is another's; nor to the host's loopback, which what is published there opens
/// (CVE-2020-8558).
fn guard(commands: &mut Commands, container: &Container<'_>) {
    let chain = format!("guard-{}", container.record.name.0);
    commands.chain(&chain);
    if let Some(mac) = container.record.ours().and_then(|made| made.mac.as_ref()) {
        commands.rule(&chain, [differs(payload("ether", "saddr"), json!(mac)), counter(), drop()]);
    }
    for (family, any) in [("ip", "0.0.0.0"), ("ip6", "::")] {
        let own = addresses(container, family).map(|ip| json!(ip)).chain([json!(any)]);
        let own = json!({ "set": own.collect::<Vec<_>>() });
        commands.rule(&chain, [differs(payload(family, "saddr"), own), counter(), drop()]);
    }
    commands.rule(&chain, [matches(payload("ip", "daddr"), loopback()), counter(), drop()]);
}

/// Where it may connect to. What is not said is anywhere.
fn egress(commands: &mut Commands, container: &Container<'_>) {
    let Some(egress) = &container.record.egress else { return };
    let chain = format!("from-{}", container.record.name.0);
    commands.chain(&chain);
    match &egress.0 {
        Egress::All => return,
        Egress::None => {}
        Egress::Dns => {
            let ports = matches(meta("l4proto"), json!({ "set": ["tcp", "udp"] }));
            commands.rule(&chain, [ports, matches(payload("th", "dport"), json!(53)), json!({ "return": null })]);
        }
        Egress::Networks(networks) => {
            for network in networks {
                let to = matches(payload(family(network.ip), "daddr"), prefix(network));
                commands.rule(&chain, [to, json!({ "return": null })]);
            }
        }
    }
    commands.rule(&chain, [counter(), reject()]);
}

/// Who may connect to it: whoever comes by a published port, the containers that are allowed, and the host, whose packets
/// are not forwarded.
fn ingress(commands: &mut Commands, container: &Container<'_>, all: &[Container<'_>]) {
    let chain = format!("to-{}", container.record.name.0);
    commands.chain(&chain);
    commands.rule(&chain, [matches(json!({ "ct": { "key": "status" } }), json!("dnat")), accept()]);
    for allowed in all.iter().filter(|other| container.record.allow.contains(&other.record.name)) {
        for ip in &allowed.addresses {
            commands.rule(&chain, [matches(payload(family(*ip), "saddr"), json!(ip)), accept()]);
        }
    }
    commands.rule(&chain, [counter(), reject()]);
}

/// The ports of the host that lead inside: a chain a port, since two containers may have it on two addresses.
fn publish(commands: &mut Commands, containers: &[Container<'_>]) {
    let mut ports: BTreeMap<(&str, u16), Vec<(&Container<'_>, &Publish)>> = BTreeMap::new();
    for container in containers {
        for publish in &container.record.publish {
            ports.entry((publish.protocol.as_str(), publish.host)).or_default().push((container, publish));
        }
    }
    let chain = |protocol: &str, port: u16| format!("port-{protocol}-{port}");
    let elements = ports.keys().map(|(protocol, port)| (json!({ "concat": [protocol, port] }), chain(protocol, *port)));
    commands.verdicts("ports", json!(["inet_proto", "inet_service"]), elements.collect());
    let local = matches(json!({ "fib": { "result": "type", "flags": ["daddr"] } }), json!("local"));
    let key = json!({ "concat": [meta("l4proto"), payload("th", "dport")] });
    // What goes to ::1 cannot be led elsewhere, as the kernel has no route_localnet for IPv6: it is left to be refused.
    commands.rule("published-here", [matches(payload("ip6", "daddr"), json!("::1")), accept()]);
    for base in ["published", "published-here"] {
        commands.rule(base, [local.clone(), vmap(key.clone(), "ports")]);
    }
    for ((protocol, port), published) in ports {
        let chain = chain(protocol, port);
        commands.chain(&chain);
        for (container, publish) in published {
            for family in ["ip", "ip6"] {
                let Some(ip) = addresses(container, family).next() else { continue };
                let to = json!({ "dnat": { "family": family, "addr": ip, "port": publish.port } });
                let here = match publish.address {
                    Some(address) if self::family(address) != family => continue,
                    Some(address) => matches(payload(family, "daddr"), json!(address)),
                    None => matches(meta("nfproto"), json!(if family == "ip" { "ipv4" } else { "ipv6" })),
                };
                commands.rule(&chain, [here, matches(meta("l4proto"), json!(protocol)), to]);
            }
        }
    }
}

/// Whom packets come from: outside, the host in place of a container; inside, the gateway in place of the host's loopback
/// and of the container itself, when it has come by its own published port. All others keep their source.
fn sources(commands: &mut Commands, containers: &[Container<'_>], gateways: Gateways) {
    for gateway in gateways.all() {
        let family = family(gateway.ip);
        let (source, to) = (payload(family, "saddr"), payload(family, "daddr"));
        let network = prefix(&Address::new(gateway.first(), gateway.prefix));
        let by_gateway = json!({ "snat": { "family": family, "addr": gateway.ip } });
        for container in containers {
            let out = matches(meta("oifname"), json!(container.link));
            if family == "ip" {
                commands.rule("sources", [out.clone(), matches(source.clone(), loopback()), by_gateway.clone()]);
            }
            for ip in addresses(container, family) {
                commands.rule("sources", [out.clone(), matches(source.clone(), json!(ip)), by_gateway.clone()]);
            }
        }
        let inner = [matches(source, network.clone()), differs(to, network)];
        commands.rule(
            "sources",
            inner.into_iter().chain([differs(meta("oifname"), json!("lo")), json!({ "masquerade": null })]),
        );
    }
}

fn addresses<'a>(container: &'a Container<'_>, of: &str) -> impl Iterator<Item = IpAddr> + use<'a> {
    let is_v6 = of == "ip6";
    container.addresses.iter().copied().filter(move |ip| ip.is_ipv6() == is_v6)
}

const fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "ip6" } else { "ip" }
}

fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn prefix(network: &Address) -> Value {
    json!({ "prefix": { "addr": network.first(), "len": network.prefix } })
}

fn loopback() -> Value {
    prefix(&Address::new(IpAddr::from([127, 0, 0, 0]), 8))
}

fn matches(left: Value, right: Value) -> Value {
    let operator = if left.get("ct").is_some() { "in" } else { "==" };
    json!({ "match": { "op": operator, "left": left, "right": right } })
}

fn differs(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "!=", "left": left, "right": right } })
}

fn vmap(key: Value, map: &str) -> Value {
    json!({ "vmap": { "key": key, "data": format!("@{map}") } })
}

fn counter() -> Value {
    json!({ "counter": null })
}

fn accept() -> Value {
    json!({ "accept": null })
}

fn drop() -> Value {
    json!({ "drop": null })
}

/// Whoever tries learns at once that he may not.
fn reject() -> Value {
    json!({ "reject": { "type": "icmpx", "expr": "admin-prohibited" } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Text;

    fn record(name: &str, number: u8, more: Value) -> Record {
        let mut record = json!({
            "name": name, "complete": true, "holder": { "pid": 2, "startTime": 0, "bootId": "" },
            "interfaces": [{
                "name": "eth0", "mode": "bridge", "source": "default", "link": format!("{name}-1"),
                "mac": format!("02:00:00:00:00:{number:02x}"),
                "addresses": [format!("10.83.0.{number}/16"), format!("fd00::{number}/64")],
            }],
        });
        let fields = record.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        serde_json::from_value(record).expect("a record")
    }

    fn commands(records: &[Record]) -> Vec<Value> {
        let gateway = |text: &str| text.parse().expect(text);
        let gateways = Gateways { v4: gateway("10.83.0.1/16"), v6: Some(gateway("fd00::1/64")) };
        ruleset(records, gateways)["nftables"].as_array().expect("commands").clone()
    }

    /// The rules of a chain, each as its expressions.
    fn rules(commands: &[Value], chain: &str) -> Vec<String> {
        let rules = commands.iter().map(|command| &command["add"]["rule"]);
        rules.filter(|rule| rule["chain"] == chain).map(|rule| rule["expr"].to_string()).collect()
    }

    #[test]
    fn the_table_is_replaced_as_a_whole_and_what_is_led_to_comes_before_what_leads_there() {
        let commands = commands(&[record("a", 2, json!({ "egress": "none" })), record("b", 3, json!({}))]);
        let verbs: Vec<_> =
            commands.iter().take(3).map(|command| command.as_object().expect("one").keys().next()).collect();
        assert_eq!(verbs, ["add", "delete", "add"].map(|verb| Some(verb.to_owned())).each_ref().map(Option::as_ref));
        let place = |kind: &str| commands.iter().map(|command| command["add"][kind].is_object()).collect::<Vec<_>>();
        let (chains, maps, rules) = (place("chain"), place("map"), place("rule"));
        let last = |found: &[bool]| found.iter().rposition(|found| *found);
        let first = |found: &[bool]| found.iter().position(|found| *found);
        assert!(last(&chains) < first(&maps) && last(&maps) < first(&rules));
        let map = |name: &str| commands.iter().find(|command| command["add"]["map"]["name"] == name).cloned();
        let senders = map("senders").expect("a map")["add"]["map"]["elem"].clone();
        assert_eq!(senders, json!([["a-1", { "jump": { "target": "from-a" } }]]));
        let receivers = map("receivers").expect("a map")["add"]["map"]["elem"].clone();
        assert_eq!(receivers.as_array().map(Vec::len), Some(2));
        // None is published: a map without elements says so by having none.
        assert_eq!(map("ports").expect("a map")["add"]["map"]["elem"], Value::Null);
    }

    #[test]
    fn who_is_allowed_is_let_in_by_all_addresses_and_all_others_are_refused() {
        let [a, b, c] =
            [record("a", 2, json!({ "allow": ["b", "absent"] })), record("b", 3, json!({})), record("c", 4, json!({}))];
        let to_a = rules(&commands(&[a, b, c]), "to-a");
        assert_eq!(to_a.len(), 4);
        assert!(to_a[0].contains("dnat") && to_a[1].contains("10.83.0.3") && to_a[2].contains("fd00::3"), "{to_a:?}");
        assert!(to_a[3].contains("counter") && to_a[3].contains("reject"), "{to_a:?}");
    }

    #[test]
    fn a_port_on_two_addresses_leads_to_two_containers() {
        let on = |address: &str| json!({ "publish": [{ "address": address, "host": 80, "port": 8080 }] });
        let records =
            [record("a", 2, on("192.0.2.1")), record("b", 3, on("192.0.2.2")), record("c", 4, on("2001:db8::1"))];
        let rules = rules(&commands(&records), "port-tcp-80");
        let leads = |rule: &str, from: &str, to: &str| rule.contains(from) && rule.contains(to);
        assert!(
            rules.len() == 3
                && leads(&rules[0], "192.0.2.1", "10.83.0.2")
                && leads(&rules[1], "192.0.2.2", "10.83.0.3")
        );
        assert!(leads(&rules[2], "2001:db8::1", "fd00::4"), "{rules:?}");
    }

    #[test]
    fn a_container_that_is_not_on_our_network_has_no_rules() {
        let mut other = record("a", 2, json!({}));
        other.interfaces[0].source = "br0".into();
        other.allow = vec![Text("b".parse().expect("a name"))];
        let all = json!(commands(&[other])).to_string();
        assert!(!all.contains("a-1") && !all.contains("10.83.0.2"), "{all}");
    }
}
