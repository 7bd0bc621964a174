//! Containers that are made of others, and what is refused to be copied.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use support::Host;

fn read(host: &Host, name: &str, file: &str) -> String {
    fs::read_to_string(host.tree(name).join(file)).expect(file)
}

#[test]
fn a_clone_is_like_its_source_and_is_another() {
    let host = Host::new();
    host.unit("probe@.service", "[Service]\nExecStart=/bin/sleep 1000\nPrivateTmp=yes\n");
    let before = host.snapshot();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    host.service(&format!("create -u probe@ --memory 256M {a}")).ok();
    let tree = host.tree(&a);
    fs::write(tree.join("srv/page"), "mine").expect("a page");
    fs::write(tree.join("etc/motd"), "mine").expect("an edit");
    fs::write(tree.join("etc/hosts"), format!("127.0.0.1 localhost\n127.0.1.1\t{a} {a}.example # {a}\n10.0.0.1 db\n"))
        .expect("an edit");
    host.service(&format!("start {a}")).ok();
    host.service(&format!("clone {a} {b}")).ok();

    let unit = format!("probe@{b}.service");
    let (first, second) = (host.defined(&a), host.defined(&b));
    assert_eq!(second["sbx"]["unit"]["names"], serde_json::json!([unit]));
    assert_eq!(second["sbx"]["unit"]["switchedOff"][&unit], serde_json::json!(["PrivateTmp"]));
    assert_eq!(second["sbx"]["name"], b.as_str());
    assert_eq!(second["linux"]["resources"], first["linux"]["resources"]);
    assert_eq!(second["process"]["capabilities"], first["process"]["capabilities"]);
    for field in ["/hostname", "/root/path", "/process/selinuxLabel", "/linux/mountLabel", "/linux/cgroupsPath"] {
        assert_ne!(second.pointer(field), first.pointer(field), "{field}");
        assert!(second.pointer(field).is_some(), "{field}");
    }
    assert_eq!(read(&host, &b, "srv/page"), "mine");
    assert_eq!(read(&host, &b, "etc/motd"), "mine");
    assert_eq!(
        read(&host, &b, "etc/hosts"),
        format!("127.0.0.1 localhost\n127.0.1.1\t{b} {a}.example # {b}\n10.0.0.1 db\n")
    );
    assert_eq!(read(&host, &b, "etc/hostname"), format!("{b}\n"));
    let ids = ["/etc/machine-id".into(), tree.join("etc/machine-id"), host.tree(&b).join("etc/machine-id")];
    let ids = ids.map(|path| fs::read_to_string(path).unwrap_or_default());
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    // It can be upgraded as the other one can.
    let diff = host.service(&format!("diff {b}")).ok().text();
    assert!(diff.lines().any(|line| line == "changed /etc/motd") && !diff.contains("/etc/host"), "{diff}");

    host.service(&format!("start {b}")).ok();
    assert_eq!(host.inside(&b, "hostname; systemctl is-active probe@*").ok().text(), format!("{b}\nactive"));
    assert_eq!(fs::read_dir(host.tree(&b).join("var/log/journal")).expect("journals").count(), 1);
    for name in [&a, &b] {
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
    }
    host.assert_as(&before, "delete");
}

#[test]
fn a_clone_that_cannot_be_made_leaves_nothing_and_its_source_as_it_was() {
    let host = Host::new();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    host.service(&format!("create {a} -- /bin/sleep 1000")).ok();
    let before = host.snapshot();
    host.service(&format!("clone {a} {a}")).assert_failure(2, "virt-sandbox-service", &["itself"]);
    host.service(&format!("clone {a}")).assert_failure(2, "virt-sandbox-service", &["NAME"]);
    host.service(&format!("clone none {b}")).assert_failure(1, "virt-sandbox-service", &["no container none"]);
    // Whatever the container has made of its directories, nothing is written through it.
    let etc = host.tree(&a).join("etc");
    fs::rename(&etc, etc.with_file_name("etc.mine")).expect("move");
    std::os::unix::fs::symlink("/etc", &etc).expect("link");
    host.service(&format!("clone {a} {b}")).assert_failure(1, "sbx-fs", &["etc"]);
    assert_eq!(host.service("list").ok().text(), a);
    fs::remove_file(&etc).expect("remove");
    fs::rename(etc.with_file_name("etc.mine"), &etc).expect("move");
    host.assert_as(&before, "failed clones");
    host.service(&format!("clone {a} {b}")).ok();
    host.service(&format!("clone {a} {b}")).assert_failure(1, "virt-sandbox-service", &["exists"]);
}

#[test]
fn what_a_service_has_on_the_host_is_cloned_as_it_is_whatever_it_is() {
    let host = Host::new().with_own(&["etc", "var"]);
    let name = host.name("a");
    let make = "cd /var/lib/redis && mkfifo fifo && mknod device c 1 3 && ln -s ../nowhere dangling && ln -s . up &&
        touch setuid shared capable && chown redis: setuid shared && chmod 4755 setuid && setfacl -m u:33:rwx shared &&
        setcap cap_net_bind_service=ep capable && ln -s ../../../etc/passwd /etc/redis/passwd && cp /etc/passwd linked &&
        ln linked again && truncate -s 100M sparse";
    host.bash(make).ok();
    let socket = UnixListener::bind(host.root("/var/lib/redis/socket")).expect("a socket");
    host.bash(&format!("timeout 60 virt-sandbox-service create -C -u redis-server {name}")).ok();
    for (directory, expected) in [("/etc/redis", ""), ("/var/lib/redis", "cS+++++++++ socket")] {
        let copy = host.tree(&name).join(&directory[1..]).display().to_string();
        let compare = format!("rsync -aHAXnc --delete --itemize-changes {directory}/ {copy}/");
        assert_eq!(host.line(&compare).ok().text(), expected, "{directory}");
    }
    let sparse = fs::metadata(host.tree(&name).join("var/lib/redis/sparse")).expect("a file");
    assert!(sparse.blocks() < 100 && sparse.len() == 100 << 20);
    drop(socket);
}

/// A MariaDB of the host's. It ends with the host.
fn mariadb(host: &Host) -> Child {
    host.bash("mkdir /run/mysqld && chown mysql /run/mysqld").ok();
    let mut command = host.command(["mariadbd", "--user=mysql", "--skip-networking", "--innodb-flush-method=fsync"]);
    let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server");
    host.bash("for i in {1..300}; do mariadb -e 'select 1' >/dev/null 2>&1 && exit; sleep 0.1; done; exit 1").ok();
    host.bash(
        "mariadb -e 'create database shop; create table shop.t (i int) engine=innodb; insert into shop.t values (42)'",
    )
    .ok();
    server
}

#[test]
fn a_database_that_runs_is_not_copied_unless_it_is_asked_for() {
    let host = Host::new().with_own(&["var"]);
    let name = host.name("a");
    let mut server = mariadb(&host);
    let create = |option: &str| host.service(&format!("create -C {option} -u mariadb {name}"));
    create("").assert_failure(1, "sbx-fs", &["/var/lib/mysql/", "being written by mariadbd (process ", "--force"]);
    assert_eq!(host.service("list").ok().text(), "");
    create("--force").ok();
    host.service(&format!("delete {name}")).ok();
    host.bash("mariadb-admin shutdown").ok();
    server.wait().expect("a server");
    create("").ok();
    host.service(&format!("start {name}")).ok();
    assert_eq!(host.inside(&name, "mariadb -N -e 'select i from shop.t'").ok().text(), "42");
    // The container's own is one that runs, too.
    let clone = host.service(&format!("clone {name} {}", host.name("b")));
    clone.assert_failure(1, "sbx-fs", &["/var/lib/mysql/", "being written by mariadbd (process "]);
}
