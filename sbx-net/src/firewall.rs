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
