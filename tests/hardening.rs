//! What the profile holds: what a program inside finds is what docs/hardening.md says, and no more than Podman lets through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};
use support::{Host, skip};
use syscalls::Sysno;

/// Everything that the profile refuses is let through, as far as the kernel lets root do it.
const WEAK: &str = "--userns host --cap all --seccomp unconfined --no-new-privs off";

/// Podman's own filter (package golang-github-containers-common).
const PODMANS: &str = "/usr/share/containers/seccomp.json";

/// The first system call that Podman's filter, and what crun compiles one with, may be too old to name.
const TOO_NEW: u32 = 449;

/// A running container of one command.
fn running(host: &Host, name: &str, options: &str) -> String {
    let name = host.name(name);
    host.service(&format!("create {options} {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    name
}

/// What the probe says in a container with these options: an answer for each question.
fn probe(host: &Host, name: &str, options: &str) -> BTreeMap<String, String> {
    let place = host.path("tmp").join("probe");
    if !place.exists() {
        fs::create_dir(&place).expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("probe.c");
        let made = Command::new("cc").args(["-static", "-O1", "-o"]).arg(place.join("probe")).arg(source).status();
        assert!(made.expect("cc").success());
    }
    let name = running(host, name, &format!("-m host-bind:/srv/probe={},ro {options}", place.display()));
    let said = host.line(&format!("virt-sandbox-service execute {name} -- /srv/probe/probe")).ok().text();
    host.service(&format!("stop {name}")).ok();
    answers(&said)
}

fn answers(said: &str) -> BTreeMap<String, String> {
    let lines = said.lines().map(|line| line.rsplit_once(' ').expect("an answer"));
    lines.map(|(question, answer)| (question.to_owned(), answer.to_owned())).collect()
}

/// The calls that the page says are let through.
fn documented() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hardening.md");
    let page = fs::read_to_string(page).expect("docs/hardening.md");
    let (_, list) = page.split_once("## System calls that are let through").expect("the list");
    list.lines().filter(|line| line.starts_with("    ")).flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The name of a call by its number.
fn call(question: &str) -> Option<(u32, String)> {
    let number = question.strip_prefix("call ")?.parse().expect("a number");
    Some((number, Sysno::new(number as usize)?.name().to_owned()))
}

// CVE-2021-41133: new calls were not on the list of what is refused; CVE-2022-0185: a bug behind fsopen and unshare.

#[test]
fn a_program_inside_finds_the_calls_that_the_page_names_and_no_others() {
    let host = Host::small();
    let ours = probe(&host, "a", "");
    let weak = probe(&host, "b", "--seccomp unconfined");
    let podmans = probe(&host, "c", &format!("--seccomp {PODMANS}"));
    let strict = probe(&host, "d", "--profile strict");
    let documented = documented();
    for (question, answer) in &ours {
        let Some((number, name)) = call(question) else { continue };
        // Let through for some arguments only; or asked no filter about, since the kernel makes it itself (Linux 6.14).
        if ["clone", "personality", "uretprobe", "uprobe"].contains(&name.as_str()) {
            continue;
        }
        // What the kernel itself refuses is not the filter's.
        if documented.contains(&name) {
            assert_eq!(answer, &weak[question], "{name}");
        } else {
            assert_ne!(answer, "there", "{name}");
        }
        if answer == "there" && number < TOO_NEW {
            assert_eq!(podmans[question], "there", "Podman does not let {name} through");
        }
        if strict[question] == "there" {
            assert_eq!(answer, "there", "{name}");
        }
    }
    let numbers = ours.keys().filter(|question| question.starts_with("call ")).count();
    assert_eq!(numbers, 601);
    // The filter is what keeps them out: most of them are there without it.
    let kept_out = |name: &str| {
        let number = name.parse::<Sysno>().expect("a call").id();
        let question = format!("call {number}");
        (ours[&question].as_str(), weak[&question].as_str())
    };
    for name in ["add_key", "request_key", "userfaultfd", "open_tree", "mount_setattr", "setns", "kcmp"] {
        let (ours, weak) = kept_out(name);
        assert!(ours == "refused" && weak != "absent", "{name}: {ours} {weak}");
    }
    assert!(strict.values().filter(|answer| *answer == "there").count() < ours.len());
    // CVE-2017-5226, and CVE-2019-10063: the kernel looks at the low half of the request.
    for ioctl in ["TIOCSTI", "TIOCSTI|1<<32", "TIOCLINUX", "TIOCLINUX|1<<32"] {
        let question = format!("ioctl {ioctl}");
        assert_eq!((ours[&question].as_str(), weak[&question].as_str()), ("refused", "there"), "{ioctl}");
    }
    assert_eq!((ours["ioctl TIOCGWINSZ"].as_str(), ours["family AF_UNIX"].as_str()), ("there", "there"));
    for family in ["family AF_ALG", "family AF_VSOCK"] {
        assert_eq!(ours[family], "refused");
        assert_ne!(weak[family], "refused");
    }
    // Other ABIs have other numbers for what is refused.
    if env::consts::ARCH == "x86_64" {
        assert_eq!(ours["x32 getpid"], "killed");
        if weak["i386 getpid"] == "there" {
            assert_eq!(ours["i386 getpid"], "killed");
        }
    }
}

#[test]
fn an_oci_runtime_answers_by_a_definitions_filter_as_we_do() {
    if !Path::new("/usr/bin/crun").exists() {
        return skip("crun is not installed");
    }
    let host = Host::small();
    let name = host.name("a");
    let ours = probe(&host, "a", "--userns host");
    let definition = host.path("config").join(format!("{name}.json"));
    // crun does not know a host with cgroups of both versions.
    host.bash("! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified").ok();
    host.line("mkdir -m 0700 /run/crun").ok();
    // Nothing but the filter and what it takes to load it: the probe is a root of its own.
    let config = r#"{
        ociVersion, root: { path: "rootfs" }, mounts: [], linux: { namespaces: [{ type: "mount" }, { type: "pid" }], seccomp: .linux.seccomp },
        process: (.process | { capabilities, noNewPrivileges, args: ["/probe"], cwd: "/", user: { uid: 0, gid: 0 } })
    }"#;
    let bundle = format!(
        "mkdir -p bundle/rootfs/dev && cp probe/probe bundle/rootfs && jq '{config}' {} >bundle/config.json
         crun run --bundle bundle {name}",
        definition.display()
    );
    let theirs = answers(&host.bash(&bundle).ok().text());
    assert_eq!(theirs.len(), ours.len());
    // Names of newer calls may be none to it.
    for (question, answer) in
        ours.iter().filter(|(question, _)| call(question).is_none_or(|(number, _)| number < TOO_NEW))
    {
        assert_eq!((question, &theirs[question]), (question, answer));
    }
}

// CVE-2022-29162, CVE-2022-27650, CVE-2022-27649, CVE-2025-27612: an inheritable set that was not empty.

#[test]
fn no_capability_is_inherited_whatever_is_added() {
    let host = Host::small();
    let sets = "grep -E '^Cap(Inh|Amb|Prm|Bnd)' /proc/self/status | tr -d '\\t' | sort";
    let naive = host.bash(&format!("setpriv --inh-caps +net_raw bash -c \"{sets}\"")).ok().text();
    assert!(!naive.contains("CapInh:0000000000000000"), "{naive}");
    for (name, options, held) in [
        ("a", "", "00000000800405fb"),
        ("b", "--cap +net_raw --cap -chown", "00000000800425fa"),
        ("c", "--cap -all", "0000000000000000"),
        ("d", "--profile strict --cap kill", "0000000000000020"),
    ] {
        let name = running(&host, name, options);
        let none = "0000000000000000";
        let expected = format!("CapAmb:{none}\nCapBnd:{held}\nCapInh:{none}\nCapPrm:{held}");
        assert_eq!(host.inside(&name, sets).ok().text(), expected, "{options}");
    }
}

// CVE-2015-3630, CVE-2018-10892: files of /proc by which the host could be changed.

#[test]
fn what_changes_the_host_is_not_opened_for_writing() {
    let host = Host::small();
    let name = running(&host, "a", "--userns host");
    let definition = fs::read(host.path("config").join(format!("{name}.json"))).expect("a definition");
    let doc: serde_json::Value = serde_json::from_slice(&definition).expect("JSON");
    let of = |key: &str| doc["linux"][key].as_array().expect(key).clone();
    let (mut opened, mut refused) = (0, 0);
    let files = "find $0 -xdev -maxdepth 3 -type f -perm /222 2>/dev/null | head -n 40";
    for path in of("maskedPaths").into_iter().chain(of("readonlyPaths")) {
        let path = path.as_str().expect("a path");
        // Opened only: nothing is written.
        let script = format!("for file in $({}); do echo $file; done", files.replace("$0", path));
        for file in host.bash(&script).text().lines() {
            let open = format!("{{ exec 9<>{file}; }} 2>/dev/null");
            if host.bash(&open).code != 0 {
                continue;
            }
            opened += 1;
            let inside = host.inside(&name, &format!("{open} && [ ! -c {file} ]"));
            assert_ne!(inside.code, 0, "{file}");
            refused += 1;
        }
    }
    assert!(opened > 10 && opened == refused, "{opened}");
}

// CVE-2022-0492: a cgroup hierarchy, and its release_agent, mounted in a user namespace. CVE-2022-0185.

#[test]
fn neither_namespaces_nor_hierarchies_are_made_inside() {
    let host = Host::small();
    let attacks = [
        ("unshare --user --map-root-user true", "Operation not permitted"),
        ("unshare --mount true", "Operation not permitted"),
        ("mount -t cgroup2 none /mnt && umount /mnt", "permission denied"),
        ("mount -t tmpfs none /mnt && umount /mnt", "permission denied"),
        ("hostname other && hostname \"$HOSTNAME\"", "must be root"),
    ];
    let weak = running(&host, "weak", WEAK);
    let plain = running(&host, "plain", "");
    for (attack, why) in attacks {
        host.inside(&weak, attack).ok();
        let refused = host.inside(&plain, attack);
        assert!(refused.code != 0 && refused.stderr.contains(why), "{refused}");
    }
}

// CVE-2018-15664, CVE-2019-14271: libraries of the container's were loaded by who had entered it.

#[test]
fn nothing_of_the_container_is_loaded_before_the_command() {
    let host = Host::small();
    let name = running(&host, "a", "");
    host.inside(&name, "echo /root/evil.so >/etc/ld.so.preload; touch /root/evil.so").ok();
    let trace = |command: &str| host.bash(&format!("strace -f -qq -e trace=openat,open,openat2,execve {command} 2>&1"));
    let tree = host.tree(&name).display().to_string();
    // A dynamic program that has entered a root asks that root's files who a user is.
    let naive = trace(&format!("chroot --userspec=daemon {tree} /bin/true")).stdout;
    let naive = String::from_utf8_lossy(&naive);
    assert!(naive.contains("\"/etc/nsswitch.conf\""), "{naive}");
    let ours = trace(&format!("virt-sandbox-service execute {name} -- /bin/true")).stdout;
    let ours = String::from_utf8_lossy(&ours);
    // From the first step into the container to the command.
    let (before, _) = ours.rsplit_once("execve(\"/bin/true\"").expect("the command");
    let (_, entered) = before.rsplit_once("execve(").expect("sbx-exec");
    for loaded in ["ld.so.preload", "evil.so", "libnss", "nsswitch.conf", "gconv", "locale", "ld.so.cache"] {
        assert!(!entered.contains(loaded), "{loaded}: {entered}");
    }
    assert!(entered.contains("\"etc/passwd\"") || entered.contains("passwd"), "{entered}");
}
