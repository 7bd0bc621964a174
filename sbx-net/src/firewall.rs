//! The rules: all of them in one table, which is changed in one transaction.
//!
//! Packets are given to a container's chains by the interface that they come from or go to, found in a map. What other
//! tables have is left alone: a packet that one of those drops is dropped.
//!
//! A change leaves all base chains, and what the maps say of others, in place. Were the table replaced, a packet of
//! another container could come by the new one's chains before they are in use and by the old one's after: it would find
//! no rule, and the connection that it begins would not be led inside. Rules need no such care: a packet finds those of a
//! chain from before a change or from after it.

use crate::address::Address;
use crate::bridge::Gateways;
use crate::network::{Egress, Publish};
use crate::record::Record;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

/// The table, in the family that has IPv4 and IPv6.
const TABLE: &str = "sbx";

/// Puts the rules of these containers into the place of those that there are.
pub fn load(records: &[Record], gateways: Gateways) -> Result<()> {
    let change = || change(&rules(records, gateways).commands(&Table::read()?));
    change().context("cannot set the firewall")
}

/// Takes all rules away. Without nft(8) there are none.
pub fn clear() -> Result<()> {
    // A table that is not there cannot be deleted.
    match change(&["add", "delete"].map(|verb| command(verb, "table", json!({ "name": TABLE })))) {
        Err(error) if is_missing(&error) => Ok(()),
        cleared => cleared.context("cannot clear the firewall"),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// One transaction.
fn change(commands: &[Value]) -> Result<()> {
    let output = nft(&["-f", "-"], &json!({ "nftables": commands }).to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft: {}", said.lines().next().unwrap_or("it failed without a word"));
    Ok(())
}

fn nft(args: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new("nft")
        .arg("-j")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft, of the package nftables")?;
    // One that does not read has something to say.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    child.wait_with_output().context("cannot run nft")
}

/// A command of libnftables-json(5) about a thing of our table.
fn command(verb: &str, kind: &str, mut thing: Value) -> Value {
    thing["family"] = "inet".into();
    if kind != "table" {
        thing["table"] = TABLE.into();
    }
    json!({ verb: { kind: thing } })
}

/// What a map says: to which chain packets of a key go.
#[derive(Debug, PartialEq)]
struct Element {
    map: String,
    key: Value,
    chain: String,
}

impl Element {
    fn command(&self, verb: &str) -> Value {
        let verdict = json!([self.key, { "jump": { "target": self.chain } }]);
        command(verb, "element", json!({ "name": self.map, "elem": [verdict] }))
    }
}

/// What the kernel has of the table.
#[derive(Debug, Default)]
struct Table {
    chains: BTreeSet<String>,
    elements: Vec<Element>,
}

impl Table {
    /// Of a table that is not there it has nothing. Whatever else may be wrong keeps the table from being changed, too.
    fn read() -> Result<Self> {
        let output = nft(&["list", "table", "inet", TABLE], "")?;
        let mut table = Self::default();
        if output.status.success() {
            let listed: Value = serde_json::from_slice(&output.stdout).context("cannot read what nft lists")?;
            listed["nftables"].as_array().into_iter().flatten().for_each(|thing| table.note(thing));
        }
        Ok(table)
    }

    fn note(&mut self, thing: &Value) {
        self.chains.extend(thing["chain"]["name"].as_str().map(str::to_owned));
        let map = &thing["map"];
        for element in map["elem"].as_array().into_iter().flatten() {
            if let (Some(map), Some(chain)) = (map["name"].as_str(), element[1]["jump"]["target"].as_str()) {
                self.elements.push(Element { map: map.to_owned(), key: element[0].clone(), chain: chain.to_owned() });
            }
        }
    }
}

/// All rules, as they are collected.
#[derive(Debug, Default)]
struct Rules {
    chains: Vec<Value>,
    maps: Vec<Value>,
    elements: Vec<Element>,
    rules: Vec<Value>,
}

impl Rules {
    fn base(&mut self, name: &str, kind: &str, hook: &str, priority: i32) {
        self.chains.push(json!({ "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept" }));
    }

    fn chain(&mut self, name: &str) {
        self.chains.push(json!({ "name": name }));
    }

    fn rule(&mut self, chain: &str, expressions: impl IntoIterator<Item = Value>) {
        let expressions: Vec<Value> = expressions.into_iter().collect();
        self.rules.push(json!({ "chain": chain, "expr": expressions }));
    }

    /// A map to chains, by a key of this type.
    fn verdicts(&mut self, name: &str, key: Value, chains: impl IntoIterator<Item = (Value, String)>) {
        self.maps.push(json!({ "name": name, "type": key, "map": "verdict" }));
        let elements = chains.into_iter().map(|(key, chain)| Element { map: name.to_owned(), key, chain });
        self.elements.extend(elements);
    }

    /// The transaction that makes the table be these rules. Chains come before what leads to them, and those that nothing
    /// leads to any more go last.
    fn commands(&self, table: &Table) -> Vec<Value> {
        let chain = |verb, name: &Value| command(verb, "chain", json!({ "name": name }));
        let wanted = |name: &str| self.chains.iter().any(|chain| chain["name"] == name);
        let gone = table.elements.iter().filter(|element| !self.elements.contains(element));
        let new = self.elements.iter().filter(|element| !table.elements.contains(element));
        let unused = table.chains.iter().filter(|name| !wanted(name));
        std::iter::once(command("add", "table", json!({ "name": TABLE })))
            .chain(self.chains.iter().map(|chain| command("add", "chain", chain.clone())))
            .chain(self.chains.iter().map(|it| chain("flush", &it["name"])))
            .chain(self.maps.iter().map(|map| command("add", "map", map.clone())))
            .chain(self.rules.iter().map(|rule| command("add", "rule", rule.clone())))
            .chain(gone.map(|element| element.command("delete")))
            .chain(new.map(|element| element.command("add")))
            .chain(unused.map(|name| chain("delete", &json!(name))))
            .collect()
    }
}

/// What the rules are for: a container's interface on our network.
#[derive(Debug)]
struct Container<'a> {
    record: &'a Record,
    link: &'a str,
    addresses: Vec<IpAddr>,
}

fn rules(records: &[Record], gateways: Gateways) -> Rules {
    let containers: Vec<Container<'_>> = records
        .iter()
        .filter_map(|record| {
            let made = record.ours()?;
            let addresses = made.addresses.iter().map(|address| address.0.ip).collect();
            Some(Container { record, link: made.link.as_deref()?, addresses })
        })
        .collect();
    let mut rules = Rules::default();
    let (from, to) = (meta("iifname"), meta("oifname"));
    rules.base("guard", "filter", "prerouting", -300);
    rules.base("input", "filter", "input", 0);
    rules.base("forward", "filter", "forward", 0);
    rules.base("published", "nat", "prerouting", -100);
    rules.base("published-here", "nat", "output", -100);
    rules.base("sources", "nat", "postrouting", 100);

    let links = |prefix: &str, of: &dyn Fn(&Container<'_>) -> bool| -> Vec<(Value, String)> {
        let chains = containers.iter().filter(|container| of(container));
        chains.map(|container| (container.link.into(), format!("{prefix}-{}", container.record.name.0))).collect()
    };
    rules.verdicts("guards", json!("ifname"), links("guard", &|_| true));
    rules.verdicts("senders", json!("ifname"), links("from", &|container| container.record.egress.is_some()));
    rules.verdicts("receivers", json!("ifname"), links("to", &|_| true));

    rules.rule("guard", [vmap(from.clone(), "guards")]);
    let known = matches(json!({ "ct": { "key": "state" } }), json!(["established", "related"]));
    for (chain, maps) in
        [("input", vec![(&from, "senders")]), ("forward", vec![(&from, "senders"), (&to, "receivers")])]
    {
        rules.rule(chain, [known.clone(), accept()]);
        for (key, map) in maps {
            rules.rule(chain, [vmap(key.clone(), map)]);
        }
    }
    for container in &containers {
        guard(&mut rules, container);
        egress(&mut rules, container);
        ingress(&mut rules, container, &containers);
    }
    publish(&mut rules, &containers);
    sources(&mut rules, &containers, gateways);
    rules
}

/// Nobody sends from an address that is another's; nor to the host's loopback, which what is published there opens
/// (CVE-2020-8558).
fn guard(rules: &mut Rules, container: &Container<'_>) {
    let chain = format!("guard-{}", container.record.name.0);
    rules.chain(&chain);
    if let Some(mac) = container.record.ours().and_then(|made| made.mac.as_ref()) {
        rules.rule(&chain, [differs(payload("ether", "saddr"), json!(mac)), counter(), drop()]);
    }
    for (family, any) in [("ip", "0.0.0.0"), ("ip6", "::")] {
        let own = addresses(container, family).map(|ip| json!(ip)).chain([json!(any)]);
        let own = json!({ "set": own.collect::<Vec<_>>() });
        rules.rule(&chain, [differs(payload(family, "saddr"), own), counter(), drop()]);
    }
    rules.rule(&chain, [matches(payload("ip", "daddr"), loopback()), counter(), drop()]);
}

/// Where it may connect to. What is not said is anywhere.
fn egress(rules: &mut Rules, container: &Container<'_>) {
    let Some(egress) = &container.record.egress else { return };
    let chain = format!("from-{}", container.record.name.0);
    rules.chain(&chain);
    match &egress.0 {
        Egress::All => return,
        Egress::None => {}
        Egress::Dns => {
            let ports = matches(meta("l4proto"), json!({ "set": ["tcp", "udp"] }));
            rules.rule(&chain, [ports, matches(payload("th", "dport"), json!(53)), json!({ "return": null })]);
        }
        Egress::Networks(networks) => {
            for network in networks {
                let to = matches(payload(family(network.ip), "daddr"), prefix(network));
                rules.rule(&chain, [to, json!({ "return": null })]);
            }
        }
    }
    rules.rule(&chain, [counter(), reject()]);
}

/// Who may connect to it: whoever comes by a published port, the containers that are allowed, and the host, whose packets
/// are not forwarded.
fn ingress(rules: &mut Rules, container: &Container<'_>, all: &[Container<'_>]) {
    let chain = format!("to-{}", container.record.name.0);
    rules.chain(&chain);
    rules.rule(&chain, [matches(json!({ "ct": { "key": "status" } }), json!("dnat")), accept()]);
    for allowed in all.iter().filter(|other| container.record.allow.contains(&other.record.name)) {
        for ip in &allowed.addresses {
            rules.rule(&chain, [matches(payload(family(*ip), "saddr"), json!(ip)), accept()]);
        }
    }
    rules.rule(&chain, [counter(), reject()]);
}

/// The ports of the host that lead inside: a chain a port, since two containers may have it on two addresses.
fn publish(rules: &mut Rules, containers: &[Container<'_>]) {
    let mut ports: BTreeMap<(&str, u16), Vec<(&Container<'_>, &Publish)>> = BTreeMap::new();
    for container in containers {
        for publish in &container.record.publish {
            ports.entry((publish.protocol.as_str(), publish.host)).or_default().push((container, publish));
        }
    }
    let chain = |protocol: &str, port: u16| format!("port-{protocol}-{port}");
    let elements = ports.keys().map(|(protocol, port)| (json!({ "concat": [protocol, port] }), chain(protocol, *port)));
    rules.verdicts("ports", json!(["inet_proto", "inet_service"]), elements);
    let local = matches(json!({ "fib": { "result": "type", "flags": ["daddr"] } }), json!("local"));
    let key = json!({ "concat": [meta("l4proto"), payload("th", "dport")] });
    // What goes to ::1 cannot be led elsewhere, as the kernel has no route_localnet for IPv6: it is left to be refused.
    rules.rule("published-here", [matches(payload("ip6", "daddr"), json!("::1")), accept()]);
    for base in ["published", "published-here"] {
        rules.rule(base, [local.clone(), vmap(key.clone(), "ports")]);
    }
    for ((protocol, port), published) in ports {
        let chain = chain(protocol, port);
        rules.chain(&chain);
        for (container, publish) in published {
            for family in ["ip", "ip6"] {
                let Some(ip) = addresses(container, family).next() else { continue };
                let to = json!({ "dnat": { "family": family, "addr": ip, "port": publish.port } });
                let here = match publish.address {
                    Some(address) if self::family(address) != family => continue,
                    Some(address) => matches(payload(family, "daddr"), json!(address)),
                    None => matches(meta("nfproto"), json!(if family == "ip" { "ipv4" } else { "ipv6" })),
                };
                rules.rule(&chain, [here, matches(meta("l4proto"), json!(protocol)), to]);
            }
        }
    }
}

/// Whom packets come from: outside, the host in place of a container; inside, the gateway in place of the host's loopback
/// and of the container itself, when it has come by its own published port. All others keep their source.
fn sources(rules: &mut Rules, containers: &[Container<'_>], gateways: Gateways) {
    for gateway in gateways.all() {
        let family = family(gateway.ip);
        let (source, to) = (payload(family, "saddr"), payload(family, "daddr"));
        let network = prefix(&Address::new(gateway.first(), gateway.prefix));
        let by_gateway = json!({ "snat": { "family": family, "addr": gateway.ip } });
        for container in containers {
            let out = matches(meta("oifname"), json!(container.link));
            if family == "ip" {
                rules.rule("sources", [out.clone(), matches(source.clone(), loopback()), by_gateway.clone()]);
            }
            for ip in addresses(container, family) {
                rules.rule("sources", [out.clone(), matches(source.clone(), json!(ip)), by_gateway.clone()]);
            }
        }
        let inner = [matches(source, network.clone()), differs(to, network)];
        rules.rule(
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
mod tests;
