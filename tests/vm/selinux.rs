//! SELinux, enforcing: what separates containers from each other and from the host, and that it is SELinux which does.

use std::collections::BTreeSet;
use support::Host;

/// The table of docs/selinux.md: type, class and permission of what is denied and does no harm.
fn harmless() -> BTreeSet<[String; 3]> {
    let (_, denials) = include_str!("../../docs/selinux.md").split_once("## Denials").expect("the denials");
    let rows = denials.lines().filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|row| {
        let mut words = row.split('|').nth(2).unwrap_or_default().split_whitespace();
        [words.next(), words.next(), words.next()].map(|word| word.expect("type, class, permission").to_owned())
    })
    .collect()
}

/// What runs in containers, and in sandboxes.
const DOMAINS: [&str; 2] = ["sbx_t", "sbx_sandbox_t"];

/// What the kernel has denied to containers since the log was cleared.
pub fn denials(host: &Host) -> Vec<String> {
    let log = host.bash("dmesg").ok().text();
    let is_of_ours = |line: &&str| DOMAINS.iter().any(|domain| line.contains(&format!(":{domain}:")));
    log.lines().filter(|line| line.contains("avc:  denied") && is_of_ours(line)).map(str::to_owned).collect()
}

/// Those that are not documented as harmless.
pub fn harmful_denials(host: &Host) -> Vec<String> {
    let harmless = harmless();
    let known = |line: &String| {
        let between = |start: &str, end: &str| Some(line.split_once(start)?.1.split_once(end)?.0);
        let field = |name: &str| line.split_once(name)?.1.split(' ').next();
        let kind = field("tcontext=").and_then(|context| context.split(':').nth(2)).map(|kind| match kind {
            kind if DOMAINS.contains(&kind) => "self",
            kind => kind,
        });
        let denied = [kind, field("tclass="), between("{ ", " }")].map(|word| word.unwrap_or_default().to_owned());
        harmless.contains(&denied)
    };
    denials(host).into_iter().filter(|line| !known(line)).collect()
}

/// While it lives SELinux only writes down what it would deny.
pub struct Permissive<'a>(&'a Host);

impl<'a> Permissive<'a> {
    pub fn new(host: &'a Host) -> Self {
        host.line("setenforce 0").ok();
        Self(host)
    }
}

impl Drop for Permissive<'_> {
    fn drop(&mut self) {
        self.0.line("setenforce 1");
    }
}

#[test]
fn two_containers_of_one_service_are_kept_apart_by_their_labels() {
    let host = Host::machine();
    let [a, b] = ["a", "b"].map(|name| host.name(name));
    host.line("dmesg --clear").ok();
    for name in [&a, &b] {
        host.service(&format!("create -C -u apache2.service {name}")).ok();
    }
    // As an administrator may have it, though it is unwise: the other's files, readable for all by their modes.
    let source = format!("/var/lib/sbx/containers/{b}/root/var/www");
    let mount = format!(r#"{{"destination":"/mnt","type":"bind","source":"{source}","options":["rbind"]}}"#);
    host.bash(&format!("f=/etc/sbx/{a}.json && jq -c '.mounts += [{mount}]' $f >/tmp/f && cat /tmp/f >$f")).ok();
    for name in [&a, &b] {
        host.service(&format!("start {name}")).ok();
    }

    // A whole life of one of them, with a command and a reload.
    host.inside(&b, "systemctl is-active apache2 && id >/tmp/x && rm /tmp/x").ok();
    host.service(&format!("reload {b}")).ok();
    assert_eq!(harmful_denials(&host), [""; 0]);

    let label = |name: &str, path: &str| host.bash(&format!("jq -r {path} /etc/sbx/{name}.json")).ok().text();
    for name in [&a, &b] {
        let processes = format!("sbx-ns show {name} | jq -r '.sbx.state.cgroups.payload[]'");
        let processes = format!("find $({processes}) -name cgroup.procs -exec cat {{}} +");
        let labels =
            format!("for pid in $({processes}); do tr -d '\\0' </proc/$pid/attr/current; echo; done | sort -u");
        let process = label(name, ".process.selinuxLabel");
        assert!(process.contains(":sbx_t:s0:c"), "{process}");
        assert_eq!(host.bash(&labels).ok().text(), process);
        assert_eq!(host.inside(name, "cat /proc/self/attr/current").ok().text().trim_end_matches('\0'), process);
        let files = format!("find /var/lib/sbx/containers/{name}/root -printf '%Z\\n' | sort -u");
        assert_eq!(host.bash(&files).ok().text(), label(name, ".linux.mountLabel"));
    }
    assert_ne!(label(&a, ".process.selinuxLabel"), label(&b, ".process.selinuxLabel"));

    let read = "cat /mnt/html/index.html";
    let denied = host.inside(&a, read).assert_code(1);
    assert!(denied.stderr.contains("Permission denied"), "{denied}");
    let (subject, object) = (label(&a, ".process.selinuxLabel"), label(&b, ".linux.mountLabel"));
    let avc = |line: &String| line.contains(&subject) && line.contains(&object);
    assert!(denials(&host).iter().any(avc), "not in the log: {:?}", denials(&host));
    let permissive = Permissive::new(&host);
    assert!(host.inside(&a, read).ok().text().contains("Apache"));
    drop(permissive);
    assert!(host.inside(&a, read).code != 0);
}

#[test]
fn a_leaked_descriptor_of_the_host_s_is_of_no_use_to_a_container() {
    let host = Host::machine();
    let domain = "runcon system_u:system_r:sbx_t:s0:c1,c2";
    host.line("dmesg --clear").ok();
    for directory in ["/usr/local", "/etc", "/home"] {
        let file = format!("{directory}/sbx-leak");
        host.bash(&format!("echo ours >{file} && restorecon {file} && chmod 0666 {file}")).ok();
        // The descriptor is open for writing, and is the process's: modes and mounts have nothing to say any more.
        let attack = format!("{domain} bash -c 'echo theirs >&7' 7>>{file}; cat {file}");
        assert_eq!(host.bash(&attack).text(), "ours", "{file}");
        let permissive = Permissive::new(&host);
        assert_eq!(host.bash(&attack).text(), "ours\ntheirs", "{file}: it is not SELinux that holds this");
        drop(permissive);
        let of_file = |line: &&String| line.contains("sbx-leak") && line.contains("permissive=0");
        assert!(denials(&host).iter().any(|line| of_file(&line)), "{file} is not in the log: {:?}", denials(&host));
        host.bash(&format!("rm {file}; dmesg --clear")).ok();
    }
}
