//! Debian's own services, each with a life of its own.

use std::fs;
use std::path::Path;
use support::lives::live;
use support::{Host, skip};

#[test]
fn apache2_is_created_used_reloaded_restarted_and_deleted() {
    live("apache2", &Host::new());
}

#[test]
fn nginx_is_created_used_reloaded_restarted_and_deleted() {
    live("nginx", &Host::new());
}

#[test]
fn mariadb_is_created_used_restarted_and_deleted() {
    live("mariadb", &Host::new());
}

#[test]
fn redis_is_created_used_restarted_and_deleted() {
    live("redis-server", &Host::new());
}

#[test]
fn postgresql_is_created_used_reloaded_restarted_and_deleted() {
    live("postgresql@", &Host::new());
}

#[test]
fn memcached_is_created_used_restarted_and_deleted() {
    live("memcached", &Host::new());
}

#[test]
fn cron_is_created_used_restarted_and_deleted() {
    live("cron", &Host::new());
}

#[test]
fn what_a_unit_cannot_have_is_told_by_name_and_its_environment_is_the_clones() {
    let host = Host::new();
    host.unit(
        "tea.service",
        "[Service]\nEnvironmentFile=/etc/default/tea\nPrivateTmp=yes\nProtectSystem=strict\nBindPaths=/srv:/mnt\n\
        PrivateDevices=no\nExecStart=/bin/sh -c 'echo $$TEA >/srv/said && exec sleep infinity'\n",
    );
    let name = host.name("tea");
    // What there is to say of a success is for terminals.
    let told = host.bash(&format!("script -qec 'sbx-unit read --name {name} tea >/dev/null' /dev/null")).ok().text();
    assert_eq!(told.trim_end(), "sbx-unit: tea.service: switched off inside: PrivateTmp, ProtectSystem, BindPaths");
    host.service(&format!("create -u tea {name}")).ok();
    let file = host.tree(&name).join("etc/default/tea");
    fs::write(&file, "TEA=green\n").expect("a file of the clone");
    host.service(&format!("start {name}")).ok();
    assert_eq!(host.inside(&name, "cat /srv/said").ok().text(), "green");
    fs::write(&file, "TEA=black\n").expect("a file of the clone");
    host.inside(&name, "systemctl restart tea").ok();
    assert_eq!(host.inside(&name, "cat /srv/said").ok().text(), "black");
}

#[test]
fn the_placeholder_key_of_tls_is_the_containers_own() {
    let (key, certificate) = ("etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem");
    let Ok(hosts) = fs::read(Path::new("/").join(key)) else {
        return skip("ssl-cert is not installed");
    };
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create -u cron {name}")).ok();
    let key = host.tree(&name).join(key);
    assert!(!key.exists());
    host.service(&format!("start {name}")).ok();
    let own = fs::read(&key).expect("a key");
    assert_ne!(own, hosts);
    let says = |script: &str| host.inside(&name, script).ok().text();
    assert_eq!(says("stat -c '%a %U:%G' /etc/ssl/private/*"), "640 root:ssl-cert");
    assert_eq!(
        says(&format!("openssl x509 -noout -subject -in /{certificate} | tr -d ' '")),
        format!("subject=CN={name}")
    );
    let public = says("openssl pkey -pubout -in /etc/ssl/private/ssl-cert-snakeoil.key");
    assert_eq!(says(&format!("openssl x509 -noout -pubkey -in /{certificate}")), public);
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("start {name}")).ok();
    assert_eq!(fs::read(&key).expect("a key"), own);
}
