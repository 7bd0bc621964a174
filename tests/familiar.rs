//! Command lines that libvirt-sandbox's virt-sandbox-service took work here as they are, with Debian's names of packages
//! and units.

use std::fs;
use std::path::Path;
use support::{Host, Outcome, installed};

/// What is called otherwise here.
const CALLED: [(&str, &str); 3] =
    [("httpd.service", "apache2.service"), ("crond.service", "cron.service"), ("sendmail", "logrotate")];

/// The names that the command lines give containers: on a test's host they are its own.
const NAMES: [&str; 7] = ["apache1", "httpd1", "httpd2", "foobar1", "mycron", "test.example.org", "demo"];

/// The word as a test types it.
fn here(host: &Host, word: &str) -> String {
    let called = CALLED.iter().find(|(theirs, _)| *theirs == word).map_or(word, |(_, ours)| ours);
    if NAMES.contains(&called) { host.name(called) } else { called.to_owned() }
}

/// Types a verb of virt-sandbox-service with all that follows it, and then `stdin`.
fn typed(host: &Host, line: &str, stdin: &str) -> Outcome {
    let words = line.split(' ').map(|word| here(host, word));
    host.run(["virt-sandbox-service".to_owned()].into_iter().chain(words), stdin)
}

#[test]
fn a_web_server_lives_by_the_familiar_command_lines() {
    if !installed(&["/usr/sbin/apache2", "/usr/sbin/ifconfig"]) {
        return;
    }
    let host = Host::new();
    let before = host.snapshot();
    let typed = |line: &str| typed(&host, line, "").ok().text();
    let name = |name: &str| host.name(name);
    let created = typed("create -C -u httpd.service apache1");
    let said: Vec<&str> = created.lines().map(|line| line.rsplit_once(' ').map_or(line, |(said, _)| said)).collect();
    assert_eq!(said, ["Created sandbox container dir", "Created unit file", "Created sandbox config"]);
    typed("start apache1");
    let links = typed("execute -C ifconfig apache1");
    assert!(links.starts_with("lo: flags=") && links.contains("inet 127.0.0.1 "), "{links}");

    typed("create -C -u httpd.service httpd1");
    typed("start httpd1");
    for shell in ["execute httpd1 -- /bin/sh", "connect httpd1"] {
        let outcome = self::typed(&host, shell, "hostname; systemctl is-active apache2; exit 3\n").assert_code(3);
        assert_eq!(outcome.text(), format!("{}\nactive", name("httpd1")), "{shell}");
    }
    typed("reload -u httpd.service httpd1");
    typed("upgrade httpd1");
    assert_eq!(typed("list -r"), [name("apache1"), name("httpd1")].join("\n"));
    typed("stop httpd1");
    typed("clone -s static,label=system_u:system_r:svirt_lxc_net_t:s0:c1,c2 httpd1 httpd2");
    let label = "/process/selinuxLabel";
    assert_eq!(
        host.defined(&name("httpd2")).pointer(label).expect("a label"),
        "system_u:system_r:svirt_lxc_net_t:s0:c1,c2"
    );
    typed("delete httpd1");
    typed("stop apache1");
    assert_eq!(typed("list"), [name("apache1"), name("httpd2")].join("\n"));
    typed("delete apache1");
    typed("delete httpd2");
    host.assert_as(&before, "delete");
}

#[test]
fn a_command_a_package_and_a_template_are_given_by_the_familiar_command_lines() {
    if !installed(&["/usr/sbin/cron", "/usr/sbin/logrotate", "/usr/sbin/nginx"]) {
        return;
    }
    let host = Host::new().with_own(&["usr"]);
    let foobar = "#!/bin/sh\necho $(id -u) $* >/tmp/said; exec sleep 1000\n";
    fs::write(host.root("/usr/bin/foobar"), foobar).expect("a program");
    host.line("chmod 755 /usr/bin/foobar").ok();
    typed(&host, "create -U 1234 foobar1 -- /usr/bin/foobar -a -b", "").ok();
    typed(&host, "start foobar1", "").ok();
    let said = "until [ -s /tmp/said ]; do sleep 0.1; done; cat /tmp/said";
    assert_eq!(host.inside(&host.name("foobar1"), said).ok().text(), "1234 -a -b");

    // What the package has in /var comes along.
    typed(&host, "create -u crond.service -P sendmail mycron", "").ok();
    typed(&host, "create -u crond.service demo", "").ok();
    let has = |name: &str, path: &str| host.tree(&host.name(name)).join(path).is_dir();
    assert_eq!(["mycron", "demo"].map(|name| has(name, "var/lib/logrotate")), [true, false]);

    // Of a service per name, which no package owns, it is the package that is named.
    host.unit("nginx_lxc@.service", "[Service]\nExecStart=/usr/sbin/nginx -g 'daemon off;'\n");
    typed(&host, "create -u nginx_lxc@ test.example.org --package nginx", "").ok();
    typed(&host, "start test.example.org", "").ok();
    let name = host.name("test.example.org");
    assert_eq!(host.inside(&name, &format!("systemctl is-active nginx_lxc@{name}")).ok().text(), "active");
    assert!(has("test.example.org", "var/lib/nginx/body"));
}

#[test]
fn mounts_and_networks_are_given_by_the_familiar_words() {
    let host = Host::new();
    let scratch = host.path("tmp/scratch").display().to_string();
    fs::create_dir(&scratch).expect("a directory");
    let begun = |options: &str, look: &str| {
        let text = format!("create {} demo -- /bin/sleep 1000", options.replace("/var/lib/sandbox/demo/tmp", &scratch));
        typed(&host, &text, "").ok();
        typed(&host, "start demo", "").ok();
        let shown = host.inside(&host.name("demo"), look).ok().text();
        typed(&host, "stop demo", "").ok();
        typed(&host, "delete demo", "").ok();
        shown
    };
    begun("-m host-bind:/tmp=/var/lib/sandbox/demo/tmp", "echo tea >/tmp/tea");
    assert_eq!(fs::read_to_string(format!("{scratch}/tea")).expect("made inside"), "tea\n");
    assert_eq!(begun("-m ram:/tmp=500M", "df --output=size -k /tmp | tail -n 1").trim(), "512000");
    let addresses = "ip -o address show eth0 | grep -o 'inet.* scope global'";
    let leased = begun("-N dhcp,source=default", addresses);
    assert!(leased.starts_with("inet 10.83."), "{leased}");
    let address = begun("-N address=192.168.122.1/24%192.168.122.255", addresses);
    assert_eq!(address, "inet 192.168.122.1/24 brd 192.168.122.255 scope global");
    let routed = "-N address=192.168.122.1/24,route=192.168.122.255/24%192.168.1.1";
    assert!(begun(routed, "ip route").contains("192.168.122.0/24 via 192.168.1.1 dev eth0 "));
    // A kernel without IPv6 has no such address.
    if Path::new("/proc/sys/net/ipv6").exists() {
        assert_eq!(begun("-N address=2001:212::204:2/64", addresses), "inet6 2001:212::204:2/64 scope global");
    }
}
