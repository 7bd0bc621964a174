//! Private trees that are no directories, and roots of their own, where SELinux is enforcing and systemd runs.

use crate::selinux::harmful_denials;
use support::Host;

/// The label that the definition has for the files.
fn label(host: &Host, name: &str) -> String {
    host.bash(&format!("jq -r .linux.mountLabel /etc/sbx/{name}.json")).ok().text()
}

/// The labels of the files of a container that runs, but for those of its mounts.
fn labels(host: &Host, name: &str) -> String {
    let holder = host.holder(name);
    host.bash(&format!("cd /proc/{holder}/root && find etc var -printf '%Z\n' | sort -u")).ok().text()
}

#[test]
fn a_service_in_an_image_or_over_a_snapshot_has_a_label_of_its_own_and_moves_as_an_archive() {
    for store in ["image:96M", "overlay"] {
        let host = Host::machine();
        let [a, moved] = ["a", "moved"].map(|name| host.name(name));
        host.line("dmesg --clear").ok();
        host.service(&format!("create -C --store {store} -u apache2.service {a}")).ok();
        host.service(&format!("start {a}")).ok();
        assert_eq!(labels(&host, &a), label(&host, &a), "{store}");
        host.inside(&a, "echo mine >/var/www/html/mine && systemctl reload apache2").ok();
        assert_eq!(host.service(&format!("upgrade {a}")).ok().text(), "");
        if store != "overlay" {
            // Grown while it is in use.
            host.service(&format!("set -i 200 {a}")).ok();
            let size = host.inside(&a, "df --output=size -m / | tail -n 1").ok().text();
            assert!(size.trim().parse::<u64>().expect("a size") > 150, "{size}");
        }
        host.bash(&format!(
            "virt-sandbox-service export --force {a} | virt-sandbox-service import --store {store} {moved}"
        ))
        .ok();
        host.service(&format!("start {moved}")).ok();
        assert_eq!(labels(&host, &moved), label(&host, &moved), "{store}");
        assert_ne!(label(&host, &a), label(&host, &moved));
        assert_eq!(
            host.inside(&moved, "cat /var/www/html/mine; systemctl is-active apache2").ok().text(),
            "mine\nactive"
        );
        assert_eq!(harmful_denials(&host), [""; 0], "{store}");
        for name in [&a, &moved] {
            host.service(&format!("stop {name}")).ok();
            host.service(&format!("delete {name}")).ok();
        }
        assert_eq!(host.bash("losetup --list --noheadings; ls -A /var/lib/sbx/containers").ok().text(), "");
    }
}

#[test]
fn a_root_of_its_own_runs_its_own_programs_under_a_label_and_an_image_of_the_hosts_has_that_too() {
    let host = Host::machine();
    let name = host.name("own");
    let [root, image] = ["tmp/root", "tmp/data.img"].map(|path| host.path(path).display().to_string());
    host.line("dmesg --clear").ok();
    host.bash(&format!(
        "mkdir -p {root}/bin {root}/etc {root}/var && cp /bin/busybox {root}/bin/ && ln -s busybox {root}/bin/sh &&
         ln -s busybox {root}/bin/sleep && echo root:x:0:0::/:/bin/sh >{root}/etc/passwd &&
         truncate -s 16M {image} && mkfs.ext4 -q -F {image}"
    ))
    .ok();
    host.service(&format!("create --root {root} -m host-image:/data={image} {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    assert_eq!(labels(&host, &name), label(&host, &name));
    let script = "echo kept >/data/kept && cat /data/kept && [ ! -e /usr/bin/env ] && echo own";
    let inside = host.run(["virt-sandbox-service", "execute", &name, "--", "/bin/busybox", "sh", "-c", script], "");
    assert_eq!(inside.ok().text(), "kept\nown");
    assert_eq!(harmful_denials(&host), [""; 0]);
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
}
