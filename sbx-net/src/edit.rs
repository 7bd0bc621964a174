//! What the document says of networks.

use crate::network::{Egress, Network, Publish, Spec, Text, link_name};
use anyhow::{Context, Result, anyhow, ensure};
use sbx::{Document, Name, store};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Wish {
    pub networks: Vec<Spec>,
    pub publish: Vec<Publish>,
    pub allow: Vec<Name>,
    pub egress: Option<Egress>,
}

/// The kind of the namespace, in `linux.namespaces`.
const KIND: &str = "network";

/// Fills in the network, where the document has none, and what is asked for.
pub fn plan(doc: &mut Document, wish: Wish) -> Result<()> {
    doc.name()?;
    let mut network: Network = doc.read("sbx.net")?.unwrap_or_default();
    if !wish.networks.is_empty() {
        attach(doc, &mut network, wish.networks)?;
    }
    if !wish.publish.is_empty() {
        network.publish = wish.publish;
    }
    if !wish.allow.is_empty() {
        network.allow = wish.allow.into_iter().map(Text).collect();
    }
    if let Some(egress) = wish.egress {
        network.egress = Some(Text(egress)).filter(|egress| egress.0 != Egress::All);
    }
    check(&network)?;
    doc.set("sbx.net", json!(network))
}

/// Writes down the interfaces, eth0 upward, and whose namespace it is: one of its own, unless another is asked for.
fn attach(doc: &mut Document, network: &mut Network, specs: Vec<Spec>) -> Result<()> {
    let is_alone = specs.len() == 1;
    network.interfaces.clear();
    let mut namespace = Some(json!({ "type": KIND }));
    for spec in specs {
        match spec {
            Spec::Interface(mut interface) => {
                interface.name = format!("eth{}", network.interfaces.len());
                network.interfaces.push(interface);
                continue;
            }
            Spec::None => {}
            Spec::Host => namespace = None,
            Spec::Namespace(path) => namespace = Some(json!({ "type": KIND, "path": path })),
            Spec::Container(name) => namespace = Some(json!({ "type": KIND, "path": namespace_of(&name) })),
        }
        ensure!(is_alone, "none, host, netns= and container= go with no other network");
    }
    let Some(mut namespaces) = doc.read::<Vec<Value>>("linux.namespaces")? else {
        // Of a document that has no namespaces yet, sbx-ns plan makes one with all.
        let is_own = namespace.is_some_and(|namespace| namespace.get("path").is_none());
        ensure!(is_own, "linux.namespaces is missing: sbx-ns plan comes before");
        return Ok(());
    };
    let place = namespaces.iter().position(|namespace| namespace["type"] == KIND);
    match (place, namespace) {
        (Some(place), Some(namespace)) => namespaces[place] = namespace,
        (Some(place), None) => drop(namespaces.remove(place)),
        (None, Some(namespace)) => namespaces.push(namespace),
        (None, None) => {}
    }
    doc.set("linux.namespaces", namespaces)
}

/// Where `up` of a container leaves a link to its network namespace, for as long as it runs.
pub fn namespace_of(name: &Name) -> PathBuf {
    store::runtime(name).join("netns")
}

/// `sbx.net` of a document, checked. One that is not understood must not be left out in silence.
pub fn of(doc: &Document) -> Result<Network> {
    let network = doc.read("sbx.net")?.unwrap_or_default();
    check(&network)?;
    Ok(network)
}

/// Whether all of it goes together.
fn check(network: &Network) -> Result<()> {
    for (place, interface) in network.interfaces.iter().enumerate() {
        let name = &interface.name;
        let bad = || format!("sbx.net.interfaces: {name}");
        link_name(name).and_then(|_| interface.check()).map_err(|why| anyhow!(why)).with_context(bad)?;
        let is_twice = name == "lo" || network.interfaces[..place].iter().any(|other| other.name == *name);
        ensure!(!is_twice, "sbx.net.interfaces: {name} is there twice");
    }
    let ours = network.interfaces.iter().filter(|interface| interface.is_ours()).count();
    ensure!(ours <= 1, "sbx.net.interfaces: source=default is there twice");
    let has_rules = !network.publish.is_empty() || !network.allow.is_empty() || network.egress.is_some();
    ensure!(ours == 1 || !has_rules, "sbx.net: publish, allow and egress go with an interface of source=default");
    for (place, publish) in network.publish.iter().enumerate() {
        let is_loopback = publish.address.is_some_and(|address| address.is_ipv6() && address.is_loopback());
        ensure!(!is_loopback, "sbx.net.publish: ::1 cannot lead elsewhere: 127.0.0.1 can");
        let is_twice = network.publish[..place].iter().any(|other| other.overlaps(publish));
        ensure!(!is_twice, "sbx.net.publish: port {} is there twice", publish.port_of_host());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACES: &str =
        r#"{"sbx":{"name":"a"},"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"uts"}]}}"#;

    fn document(text: &str) -> Document {
        Document::parse(text.as_bytes()).expect(text)
    }

    fn planned(text: &str, networks: &[&str]) -> Result<Document> {
        let mut doc = document(text);
        let networks = networks.iter().map(|spec| spec.parse().expect(spec)).collect();
        plan(&mut doc, Wish { networks, ..Wish::default() })?;
        Ok(doc)
    }

    #[test]
    fn the_default_is_loopback_alone() {
        let mut doc = Document::new(&"a".parse().expect("name"));
        plan(&mut doc, Wish::default()).expect("plan");
        assert_eq!(doc.get("sbx.net").as_deref(), Some(r#"{"interfaces":[]}"#));
    }

    #[test]
    fn interfaces_are_numbered_and_what_is_asked_for_again_replaces_them() {
        let doc = planned(NAMESPACES, &["dhcp", "source=br0,address=10.0.0.2/8"]).expect("plan");
        let names =
            |doc: &Document| of(doc).expect("net").interfaces.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&doc), ["eth0", "eth1"]);
        let text = String::from_utf8(doc.to_line()).expect("text");
        assert_eq!(planned(&text, &[]).expect("plan"), doc);
        assert_eq!(names(&planned(&text, &["source=br1"]).expect("plan")), ["eth0"]);
    }

    #[test]
    fn the_namespace_is_the_one_that_is_asked_for() {
        let namespaces = |specs: &[&str]| {
            let doc = planned(NAMESPACES, specs)?;
            doc.require::<Value>("linux.namespaces").map(|namespaces| namespaces.to_string())
        };
        let with = |entry: &str| format!(r#"[{{"type":"pid"}}{entry},{{"type":"uts"}}]"#);
        assert_eq!(namespaces(&["dhcp"]).expect("own"), with(r#",{"type":"network"}"#));
        assert_eq!(namespaces(&["none"]).expect("own"), with(r#",{"type":"network"}"#));
        assert_eq!(namespaces(&["host"]).expect("host"), with(""));
        assert_eq!(namespaces(&["netns=/x"]).expect("path"), with(r#",{"type":"network","path":"/x"}"#));
        let path = namespace_of(&"b".parse().expect("name"));
        let expected = with(&format!(r#",{{"type":"network","path":"{}"}}"#, path.display()));
        assert_eq!(namespaces(&["container=b"]).expect("another's"), expected);
        let host = String::from_utf8(planned(NAMESPACES, &["host"]).expect("host").to_line()).expect("text");
        let again = planned(&host, &["none"]).expect("own").require::<Value>("linux.namespaces").expect("namespaces");
        assert_eq!(again[2], json!({ "type": "network" }));
        for bad in [&["host", "dhcp"] as &[_], &["dhcp", "none"], &["container=b", "container=c"], &["dhcp", "dhcp"]] {
            assert!(namespaces(bad).is_err(), "{bad:?}");
        }
        let none = r#"{"sbx":{"name":"a"}}"#;
        assert!(planned(none, &["host"]).is_err() && planned(none, &["dhcp"]).is_ok());
    }

    #[test]
    fn what_is_not_understood_or_does_not_go_together_is_refused() {
        for bad in [
            r#"{"interfaces":[{"x":1}]}"#,
            r#"{"interfaces":5}"#,
            r#"{"interfaces":[],"firewall":"off"}"#,
            r#"{"interfaces":[{"name":"lo","source":"default"}]}"#,
            r#"{"interfaces":[{"name":"a/b","source":"default"}]}"#,
            r#"{"interfaces":[{"name":"eth0","source":"br0"},{"name":"eth0","source":"br0"}]}"#,
            r#"{"interfaces":[{"name":"eth0","source":"default","routes":[{"to":"::/0","via":"::1"}]}]}"#,
            r#"{"interfaces":[{"name":"eth0","source":"default","mac":"ff:ff:ff:ff:ff:ff"}]}"#,
            r#"{"interfaces":[],"publish":[{"host":80,"port":80}]}"#,
            r#"{"interfaces":[{"name":"eth0","source":"br0"}],"egress":"none"}"#,
            r#"{"interfaces":[{"name":"eth0","source":"default"}],"egress":"some"}"#,
            r#"{"interfaces":[{"name":"eth0","source":"default"}],"allow":["a/b"]}"#,
            r#"{"interfaces":[{"name":"eth0","source":"default"}],"publish":[{"address":"::1","host":80,"port":80}]}"#,
            r#"{"interfaces":[{"name":"eth0","source":"default"}],
                "publish":[{"host":80,"port":80},{"address":"127.0.0.1","host":80,"port":81}]}"#,
        ] {
            assert!(planned(&format!(r#"{{"sbx":{{"name":"a","net":{bad}}}}}"#), &[]).is_err(), "{bad}");
        }
    }
}
