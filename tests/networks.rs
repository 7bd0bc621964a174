//! What an administrator sees of containers with a network: told once, for each host that the tests have.

use crate::{Host, skip};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What `show` says of the first interface.
pub fn interface(host: &Host, name: &str) -> Value {
    host.line(&format!("sbx-net show {name}")).ok().json()["interfaces"][0].clone()
}

/// The address of the first interface, without its prefix.
pub fn address(host: &Host, name: &str) -> String {
    let address = interface(host, name)["addresses"][0].as_str().expect("an address").to_owned();
    address.split('/').next().unwrap_or_default().to_owned()
}

/// The host's address on sbx0.
pub fn gateway(host: &Host) -> String {
    host.bash("ip -4 -br address show sbx0 | grep -o '[0-9.]*/' | tr -d /").ok().text()
}

/// Two web servers on our network: reached by address and by port, and apart until allowed.
pub fn two_apaches(host: &Host) {
    if !Path::new("/usr/sbin/apache2").exists() {
        skip("apache2 is not installed");
        return;
    }
    let before = host.snapshot();
    let names = [host.name("one"), host.name("two")];
    for (name, port) in names.iter().zip([8081, 8082]) {
        host.service(&format!("create -C -N dhcp,source=default --publish {port}:80 -u apache2.service {name}")).ok();
        fs::write(host.tree(name).join("var/www/html/index.html"), name).expect("a page");
        host.service(&format!("start {name}")).ok();
    }
    let fetch =
        |from: &str| format!("exec 3<>/dev/tcp/{from} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && tail -n 1 <&3");
    for (name, port) in names.iter().zip([8081, 8082]) {
        let gateway = gateway(host);
        for from in [format!("{}/80", address(host, name)), format!("127.0.0.1/{port}"), format!("{gateway}/{port}")] {
            assert_eq!(host.bash(&fetch(&from)).ok().text(), *name, "{from}");
        }
        assert_eq!(host.inside(name, "ls /sys/class/net").ok().text(), "eth0\nlo");
    }
    let links = host.line("ip -o link").ok().text();
    let ends = names.each_ref().map(|name| interface(host, name)["link"].as_str().expect("a link").to_owned());
    assert!(ends.iter().all(|end| links.contains(end)) && !links.contains("eth0"), "{links}");

    let other = fetch(&format!("{}/80", address(host, &names[1])));
    host.inside(&names[0], &other).assert_code(1);
    host.service(&format!("set --allow {} {}", names[0], names[1])).ok();
    assert_eq!(host.inside(&names[0], &other).ok().text(), names[1]);
    host.inside(&names[1], &fetch(&format!("{}/80", address(host, &names[0])))).assert_code(1);

    // The address is the container's until it is deleted.
    let addresses = names.each_ref().map(|name| address(host, name));
    for name in &names {
        host.service(&format!("stop {name}")).ok();
    }
    assert_eq!(host.bash("ip -o link | wc -l; nft list ruleset").ok().text(), "1");
    host.service(&format!("start {}", names[1])).ok();
    assert_eq!(address(host, &names[1]), addresses[1]);
    host.service(&format!("stop {}", names[1])).ok();
    for name in &names {
        host.service(&format!("delete {name}")).ok();
    }
    host.assert_as(&before, "delete");
}
