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

fn of(records: &[Record]) -> Rules {
    let gateway = |text: &str| text.parse().expect(text);
    rules(records, Gateways { v4: gateway("10.83.0.1/16"), v6: Some(gateway("fd00::1/64")) })
}

/// The rules of a chain, each as its expressions.
fn chain(rules: &Rules, chain: &str) -> Vec<String> {
    let rules = rules.rules.iter().filter(|rule| rule["chain"] == chain);
    rules.map(|rule| rule["expr"].to_string()).collect()
}

/// What the kernel has after a transaction, if it had nothing before.
fn after(commands: &[Value]) -> Table {
    let mut table = Table::default();
    for command in commands {
        table.note(&command["add"]);
        let element = &command["add"]["element"];
        table.note(&json!({ "map": element }));
    }
    table
}

#[test]
fn what_is_led_to_comes_before_what_leads_there() {
    let rules = of(&[record("a", 2, json!({ "egress": "none" })), record("b", 3, json!({}))]);
    let commands = rules.commands(&Table::default());
    let place = |kind: &str| commands.iter().map(|command| command["add"][kind].is_object()).collect::<Vec<_>>();
    let last = |kind: &str| place(kind).iter().rposition(|found| *found).expect(kind);
    let first = |kind: &str| place(kind).iter().position(|found| *found).expect(kind);
    assert_eq!(last("table"), 0);
    assert!(last("chain") < first("map") && last("map") < first("rule") && last("rule") < first("element"));
    let in_map = |map: &str| {
        let elements = rules.elements.iter().filter(|element| element.map == map);
        elements.map(|element| (element.key.as_str(), element.chain.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(in_map("senders"), [(Some("a-1"), "from-a")]);
    assert_eq!(in_map("receivers"), [(Some("a-1"), "to-a"), (Some("b-1"), "to-b")]);
    assert_eq!(in_map("ports"), []);
}

#[test]
fn a_change_leaves_alone_what_is_of_others_and_takes_away_what_is_of_none() {
    let publish = json!({ "publish": [{ "host": 80, "port": 80 }] });
    let [a, b, c] = [record("a", 2, publish), record("b", 3, json!({})), record("c", 4, json!({}))];
    let there = after(&of(&[a.clone(), b]).commands(&Table::default()));
    let commands = of(&[a, c]).commands(&there);
    let about = |verb: &str, kind: &str| {
        let things = commands.iter().map(|command| &command[verb][kind]).filter(|thing| thing.is_object());
        things.map(|thing| thing.get("elem").unwrap_or(&thing["name"]).to_string()).collect::<Vec<_>>()
    };
    let verdict = |link: &str, chain: &str| json!([[link, { "jump": { "target": chain } }]]).to_string();
    assert_eq!(about("add", "element"), [verdict("c-1", "guard-c"), verdict("c-1", "to-c")]);
    assert_eq!(about("delete", "element"), [verdict("b-1", "guard-b"), verdict("b-1", "to-b")]);
    assert_eq!(about("delete", "chain"), ["\"guard-b\"", "\"to-b\""]);
    assert!(about("delete", "map").is_empty() && about("delete", "table").is_empty());
    // Each chain is emptied before its rules are added: none is there twice.
    assert_eq!(about("flush", "chain"), about("add", "chain"));
}

#[test]
fn who_is_allowed_is_let_in_by_all_addresses_and_all_others_are_refused() {
    let [a, b, c] =
        [record("a", 2, json!({ "allow": ["b", "absent"] })), record("b", 3, json!({})), record("c", 4, json!({}))];
    let to_a = chain(&of(&[a, b, c]), "to-a");
    assert_eq!(to_a.len(), 4);
    assert!(to_a[0].contains("dnat") && to_a[1].contains("10.83.0.3") && to_a[2].contains("fd00::3"), "{to_a:?}");
    assert!(to_a[3].contains("counter") && to_a[3].contains("reject"), "{to_a:?}");
}

#[test]
fn a_port_on_two_addresses_leads_to_two_containers() {
    let on = |address: &str| json!({ "publish": [{ "address": address, "host": 80, "port": 8080 }] });
    let records = [record("a", 2, on("192.0.2.1")), record("b", 3, on("192.0.2.2")), record("c", 4, on("2001:db8::1"))];
    let rules = chain(&of(&records), "port-tcp-80");
    let leads = |rule: &str, from: &str, to: &str| rule.contains(from) && rule.contains(to);
    assert!(
        rules.len() == 3 && leads(&rules[0], "192.0.2.1", "10.83.0.2") && leads(&rules[1], "192.0.2.2", "10.83.0.3")
    );
    assert!(leads(&rules[2], "2001:db8::1", "fd00::4"), "{rules:?}");
}

#[test]
fn a_container_that_is_not_on_our_network_has_no_rules() {
    let mut other = record("a", 2, json!({}));
    other.interfaces[0].source = "br0".into();
    other.allow = vec![Text("b".parse().expect("a name"))];
    let all = json!(of(&[other]).commands(&Table::default())).to_string();
    assert!(!all.contains("a-1") && !all.contains("10.83.0.2"), "{all}");
}
