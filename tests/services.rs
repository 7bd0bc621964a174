//! Debian's own services, each with a life of its own.

use serde_json::json;
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
fn what_is_started_along_with_a_unit_starts_too_and_what_it_cannot_have_is_told() {
    let host = Host::new().with_own(&["usr"]);
    let unit = |path: &str, text: &str| {
        let path = host.root("/usr/lib/systemd/system").join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a unit");
    };
    let service = |more: &str| format!("[Service]\nExecStart=/usr/bin/sleep 1000\nPrivateTmp=yes\n{more}");
    unit("probe.service", &format!("[Unit]\nRequires=helper.service\nAfter=helper.service\n{}", service("")));
    unit("helper.service", &service("ProtectSystem=strict\n"));
    unit("linked.service", &service("[Unit]\nWants=probe.service\n"));
    unit("probe.service.wants/linked.service", &service(""));
    let name = host.name("a");
    host.service(&format!("create -u probe {name}")).ok();
    let off = host.bash(&format!("jq -c .sbx.unit.switchedOff {}/{name}.json", host.path("config").display())).ok();
    let expected = json!({ "helper.service": ["PrivateTmp", "ProtectSystem"], "linked.service": ["PrivateTmp"], "probe.service": ["PrivateTmp"] });
    assert_eq!(off.json(), expected);
    host.service(&format!("start {name}")).ok();
    host.inside(&name, "systemctl is-active probe helper linked").ok();
    host.service(&format!("stop {name}")).ok();
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

#[test]
fn a_unit_starts_inside_whatever_it_asks_for() {
    let host = Host::new();
    let asks = [
        "BindPaths=/srv:/mnt\nTemporaryFileSystem=/mnt\nLogNamespace=x\nExtensionDirectories=/srv\nPrivateUsers=yes",
        "CPUSchedulingPolicy=fifo\nCPUSchedulingPriority=5\nIOSchedulingClass=realtime\nNUMAPolicy=local\nNice=-5",
        "CPUSchedulingPriority=5\nStandardInput=tty\nStandardOutput=tty\nStandardError=tty\nOOMScoreAdjust=-900",
        "User=www-data\nPrivateDevices=yes\nProtectClock=yes\nRestrictAddressFamilies=AF_UNIX\nRestrictNamespaces=yes",
        "AmbientCapabilities=CAP_SYS_ADMIN\nCapabilityBoundingSet=CAP_SYS_ADMIN\nLimitNOFILE=infinity\nLimitRTPRIO=9",
        "LoadCredential=c:/etc/hostname\nKeyringMode=private\nPAMName=cron\nRuntimeDirectory=x\nDeviceAllow=/dev/null",
        "SystemCallFilter=@system-service\nMemoryDenyWriteExecute=yes\nRestrictSUIDSGID=yes\nIPAddressDeny=any",
    ];
    let mut units = String::new();
    for (number, ask) in asks.iter().enumerate() {
        host.unit(&format!("ask{number}.service"), &format!("[Service]\n{ask}\nExecStart=/bin/sleep 1000\n"));
        units += &format!(" -u ask{number}");
    }
    let name = host.name("ask");
    host.service(&format!("create{units} {name}")).ok();
    host.service(&format!("start {name}")).ok();
    // They are of the simple type: one that could not be executed has failed a moment later.
    host.inside(&name, "sleep 2").ok();
    let states = host.inside(&name, "systemctl --failed --plain --no-legend list-units 'ask*'").ok().text();
    assert_eq!(states, "");
}
