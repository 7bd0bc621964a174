//! Containers as units of the host: groups, reload, the main process, journals, updates of the host's packages.

use std::fs;
use support::Host;

use crate::{property, until};

/// Tells Apache in a container's tree to redirect a path, once it has read its configuration again.
fn redirect(host: &Host, name: &str, path: &str) {
    let file = host.tree(name).join(format!("etc/apache2/conf-enabled/{path}.conf"));
    fs::write(file, format!("Redirect /{path} http://new.example/\n")).expect("a configuration");
}

/// A script inside that fails unless the path is redirected.
fn is_redirected(path: &str) -> String {
    format!(
        "exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q 'Location: http://new' <&3"
    )
}

#[test]
fn a_group_starts_and_stops_its_containers_and_the_hosts_service_reloads_them_and_no_more() {
    let host = Host::machine();
    let before = host.snapshot();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    for name in [&a, &b] {
        host.service(&format!("create -C -u apache2 {name}")).ok();
    }
    host.line("systemctl start apache2_sandbox.target").ok();
    assert_eq!(host.service("list -r").ok().text(), format!("{a}\n{b}"));
    for name in [&a, &b] {
        let holder = host.holder(name);
        assert_eq!(property(&host, &format!("{name}_sandbox"), "MainPID"), holder);
        let journal = host.bash(&format!("journalctl --merge --quiet _HOSTNAME={name} --unit apache2")).ok().text();
        assert!(journal.contains("Started apache2.service"), "{journal}");
        redirect(&host, name, "one");
    }
    // The host's own does not run, which is what systemctl says.
    let reload = host.line("systemctl reload apache2").assert_code(1);
    assert!(reload.stderr.contains("apache2.service is not active, cannot reload"), "{reload}");
    for name in [&a, &b] {
        let check = is_redirected("one").replace('\'', "'\\''");
        until(&host, &format!("virt-sandbox-service execute {name} -- bash -c '{check}'"));
    }
    // The second comes while the first is under way, and is not lost.
    redirect(&host, &a, "two");
    host.bash(&format!("systemctl reload --no-block {a}_sandbox && sleep 1")).ok();
    redirect(&host, &a, "three");
    host.line(&format!("systemctl reload {a}_sandbox")).ok();
    for path in ["two", "three"] {
        host.inside(&a, &is_redirected(path)).ok();
    }
    // The host's own comes and goes.
    host.bash("systemctl start apache2 && systemctl restart apache2 && systemctl stop apache2").ok();
    assert_eq!(host.service("list -r").ok().text(), format!("{a}\n{b}"));
    host.line("systemctl stop apache2_sandbox.target").ok();
    for name in [&a, &b] {
        until(&host, &format!("[ \"$(systemctl is-active {name}_sandbox)\" = inactive ]"));
        assert_eq!(property(&host, &format!("{name}_sandbox"), "Result"), "success");
    }
    assert_eq!(host.service("list -r").ok().text(), "");
    for name in [&a, &b] {
        host.service(&format!("delete {name}")).ok();
    }
    host.assert_as(&before, "delete");
}

#[test]
fn what_was_started_by_hand_or_killed_is_supervised_and_a_unit_deleted_by_hand_leaves_nothing() {
    let host = Host::machine();
    let before = host.snapshot();
    let name = host.name("a");
    let unit = format!("{name}_sandbox.service");
    host.service(&format!("create -u cron {name}")).ok();
    host.line(&format!("systemd-run --quiet --wait --collect sbx-start {name}")).ok();
    let main = |host: &Host| property(host, &unit, "MainPID");
    assert_eq!((main(&host).as_str(), property(&host, &unit, "ActiveState").as_str()), ("0", "inactive"));
    host.line(&format!("systemctl start {unit}")).ok();
    let first = main(&host);
    assert_eq!(host.bash(&format!("readlink /proc/{first}/exe")).ok().text(), "/usr/lib/systemd/systemd");
    // cron has nothing to reload, and systemd says so.
    let reload = host.service(&format!("reload {name}")).assert_code(1);
    assert!(reload.stderr.contains("not applicable for unit cron.service"), "{reload}");

    host.bash(&format!("kill -KILL {first}")).ok();
    until(&host, &format!("[ \"$(systemctl show -P NRestarts -P ActiveState {unit} | paste -s)\" = $'1\\tactive' ]"));
    assert_ne!(main(&host), first);
    host.inside(&name, "systemctl is-active cron").ok();
    host.service(&format!("stop {name}")).ok();
    assert_eq!(property(&host, &unit, "Result"), "success");

    // A start that fails is a failed unit, and not tried again.
    let drop_ins = host.tree(&name).join("etc/systemd/system/cron.service.d");
    fs::create_dir_all(&drop_ins).expect("a directory");
    fs::write(drop_ins.join("x.conf"), "[Service]\nExecStartPre=/bin/false\nRestart=no\n").expect("a drop-in");
    let start = host.service(&format!("start {name}")).assert_code(1);
    assert!(start.stderr.contains("not active: cron.service"), "{start}");
    assert_eq!(property(&host, &unit, "ActiveState"), "failed");
    assert_eq!(property(&host, &unit, "NRestarts"), "0");

    host.service(&format!("enable {name}")).ok();
    assert_eq!(host.line(&format!("systemctl is-enabled {unit}")).ok().text(), "enabled");
    host.bash(&format!("systemctl set-property {unit} TasksMax=100 && rm /etc/systemd/system/{unit}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

/// Builds a package whose program tells its version, and whose unit runs it.
const PACKAGE: &str = r#"
    set -e
    mkdir -p pkg/DEBIAN pkg/usr/bin pkg/lib/systemd/system
    printf '%s\n' 'Package: sbx-probe' "Version: $VERSION" 'Architecture: all' 'Maintainer: nobody' \
        'Description: probe' >pkg/DEBIAN/control
    printf '%s\n' '#!/bin/sh' 'set -e' 'systemctl daemon-reload' 'deb-systemd-invoke restart sbx-probe.service' \
        >pkg/DEBIAN/postinst
    printf '%s\n' '[Service]' 'ExecStart=/usr/bin/sbx-probe infinity' >pkg/lib/systemd/system/sbx-probe.service
    { cat /usr/bin/sleep; printf '\nversion %s' "$VERSION"; } >pkg/usr/bin/sbx-probe
    chmod 0755 pkg/DEBIAN/postinst pkg/usr/bin/sbx-probe
    dpkg-deb --build --root-owner-group pkg "probe$VERSION.deb"
"#;

#[test]
fn an_update_of_a_package_reaches_all_containers_of_its_service_and_restarts_no_other() {
    let host = Host::machine();
    for version in ["1", "2"] {
        host.bash(&PACKAGE.replace("$VERSION", version)).ok();
    }
    host.line("dpkg -i probe1.deb").ok();
    let [a, b, other] = ["a", "b", "other"].map(|name| host.name(name));
    for name in [&a, &b] {
        host.service(&format!("create -u sbx-probe {name}")).ok();
    }
    host.service(&format!("create {other} -- /usr/bin/sleep infinity")).ok();
    host.bash(&format!("systemctl start {a}_sandbox {b}_sandbox {other}_sandbox")).ok();
    let version =
        |name: &str| host.inside(name, "tail -n 1 /proc/$(systemctl show -P MainPID sbx-probe)/exe").ok().text();
    let main = |name: &str| property(&host, &format!("{name}_sandbox"), "MainPID");
    assert_eq!([version(&a), version(&b)], ["version 1", "version 1"]);
    let mains = [&a, &b, &other].map(|name| main(name));
    host.line("dpkg -i probe2.deb").ok();
    assert_eq!([version(&a), version(&b)], ["version 2", "version 2"]);
    let after = [&a, &b, &other].map(|name| main(name));
    assert!(after[0] != mains[0] && after[1] != mains[1] && after[2] == mains[2], "{mains:?} {after:?}");
    host.bash("systemctl stop sbx-probe; dpkg --purge sbx-probe").ok();
}
