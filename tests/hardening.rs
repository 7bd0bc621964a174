//! What the profile holds: what a program inside finds is what docs/hardening.md says, and no more than Podman lets through.

use nix::libc::{AF_ALG, AF_VSOCK};
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

/// What the probe says in a container with these options: an answer for each question.
fn probe(host: &Host, name: &str, options: &str) -> BTreeMap<String, String> {
    let place = host.path("tmp").join("probe");
    if !place.exists() {
        fs::create_dir(&place).expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("probe.c");
        let made = Command::new("cc").args(["-static", "-O1", "-o"]).arg(place.join("probe")).arg(source).status();
        assert!(made.expect("cc").success());
    }
    let name = host.running(name, &format!("-m host-bind:/srv/probe={},ro {options}", place.display()));
    let said = host.line(&format!("virt-sandbox-service execute {name} -- /srv/probe/probe")).ok().text();
    host.service(&format!("stop {name}")).ok();
    answers(&said)
}

fn answers(said: &str) -> BTreeMap<String, String> {
    let lines = said.lines().map(|line| line.rsplit_once(' ').expect("an answer"));
    lines.map(|(question, answer)| (question.to_owned(), answer.to_owned())).collect()
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hardening.md")).expect("docs/hardening.md")
}

/// The cells of a line of the page's table.
fn line(page: &str, of: &str) -> Vec<String> {
    let line = page.lines().find(|line| line.starts_with(&format!("| {of} |"))).expect(of);
    line.split('|').skip(2).map(|cell| cell.trim().to_owned()).collect()
}

/// The words of a cell, up to what is said about all of them.
fn words(cell: &str) -> BTreeSet<String> {
    cell.split(';').next().unwrap_or_default().split(", ").map(str::to_owned).collect()
}

/// The calls that the page says are let through.
fn documented() -> BTreeSet<String> {
    let page = page();
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
        if ["clone", "personality", "socket", "uretprobe", "uprobe"].contains(&name.as_str()) {
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
    assert_eq!(ours["ioctl TIOCGWINSZ"], "there");
    let families = |probed: &BTreeMap<String, String>| -> Vec<i32> {
        let refused = probed.iter().filter(|(_, answer)| *answer != "there");
        refused.filter_map(|(question, _)| question.strip_prefix("family ")?.parse().ok()).collect()
    };
    assert_eq!(families(&weak), [0; 0]);
    assert_eq!(families(&ours), [AF_ALG, AF_VSOCK]);
    assert!(families(&podmans).iter().all(|family| families(&ours).contains(family)));
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
    let definition = host.definition(&name);
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

#[test]
fn a_program_inside_finds_the_rest_of_what_the_page_says() {
    let host = Host::small();
    let page = page();
    let name = host.running("a", "--userns auto");
    let inside = |script: &str| host.inside(&name, script).ok().text();
    let found = |script: &str| -> BTreeSet<String> { inside(script).lines().map(str::to_owned).collect() };

    let namespaces = [
        ("pid", "pid"),
        ("mnt", "mount"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("net", "network"),
        ("cgroup", "cgroup"),
        ("user", "user"),
    ];
    let is_own = |kind: &str| {
        let link = format!("readlink /proc/self/ns/{kind}");
        inside(&link) != host.bash(&link).ok().text()
    };
    let own: BTreeSet<_> =
        namespaces.iter().filter(|(kind, _)| is_own(kind)).map(|(_, name)| name.to_string()).collect();
    assert_eq!(words(&line(&page, "namespaces")[0]), own);
    let outside = host.bash(&format!("stat -c %u /proc/{}", host.holder(&name))).ok().text();
    assert!(outside.parse::<u32>().is_ok_and(|id| id >= 65536), "{outside}");
    assert_eq!(inside("ls /sys/class/net"), "lo");

    let bounding = u64::from_str_radix(&inside("sed -n 's/^CapBnd:\\s*//p' /proc/self/status"), 16).expect("a set");
    assert_eq!(line(&page, "capabilities")[0], bounding.count_ones().to_string());
    assert_eq!(inside("grep -c '^NoNewPrivs:.1$' /proc/self/status; ulimit -c; ulimit -Hc"), "1\n0\n0");
    assert_eq!(inside("cat /proc/sys/user/max_user_namespaces"), "0");

    let there = |name: &String| Path::new("/proc").join(name).exists();
    let read_only =
        found("sed -nE 's:^[^ ]+ [^ ]+ [^ ]+ /[^ ]+ /proc/([^ ]+) ro,.* - proc .*:\\1:p' /proc/self/mountinfo");
    let cells = line(&page, "read-only in /proc");
    let documented = words(&cells[0]);
    assert_eq!(read_only, documented.iter().filter(|name| there(name)).cloned().collect());
    // What others mask, and Podman makes read-only.
    let masked = line(&page, "masked")[2].replace("/proc/", "");
    let places = words(&masked).into_iter().chain(words(&cells[1])).filter(|name| !read_only.contains(name));
    let places = places.map(|name| format!("/proc/{name}"));
    let in_sys = ["/sys/firmware", "/sys/fs/selinux", "/sys/devices/virtual/powercap"].map(str::to_owned);
    let mut hidden = 0;
    for place in places.chain(in_sys) {
        let is_empty = format!("[ -d {place} ] && [ -z \"$(ls -A {place})\" ] || [ -c {place} ] || ! [ -e {place} ]");
        hidden += usize::from(host.bash(&is_empty).code != 0);
        host.inside(&name, &is_empty).ok();
    }
    assert!(hidden > 3, "{hidden}");

    let writable = "for place in /*/ /dev/shm/; do ( : >${place}probe && rm ${place}probe && echo ${place%/} ) 2>/dev/null; done; :";
    assert_eq!(found(writable), words(&line(&page, "writable")[0]));
}

#[test]
fn a_program_inside_has_the_devices_the_programs_and_the_processes_that_the_page_says() {
    let host = Host::small();
    let page = page();
    let found = |said: String| said.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let name = host.running("a", "--userns host");
    let inside = |script: &str| host.inside(&name, script).ok().text();

    let mut devices = found(inside("find /dev ! -path '/dev/pts/*' ! -type d ! -type l -printf '%P\\n'"));
    assert_eq!(inside("stat -f -c %T /dev/pts; ls /dev/pts"), "devpts\nptmx");
    devices.insert("its own terminals".to_owned());
    assert_eq!(devices, words(&line(&page, "devices")[0]));
    let make = "mknod /root/null c 1 3 && rm /root/null";
    host.bash(make).ok();
    // Nor by whoever has the capability: the cgroup's devices are these.
    let maker = host.running("maker", "--userns host --cap +mknod");
    for name in [&name, &maker] {
        let refused = host.inside(name, make);
        assert!(refused.code != 0 && refused.stderr.contains("Operation not permitted"), "{refused}");
    }

    assert_eq!(words(&line(&page, "/usr")[0]), ["the host's", "read-only"].map(str::to_owned).into());
    let identity = "stat -c '%d %i' /usr /usr/bin/env";
    assert_eq!(inside(identity), host.bash(identity).ok().text());
    let writable = "find /usr -maxdepth 3 ! -type l -writable -print -quit";
    assert_ne!(host.bash(writable).ok().text(), "");
    assert_eq!(inside(writable), "");
    let refused = host.inside(&name, "touch /usr/new");
    assert!(refused.stderr.contains("Read-only file system"), "{refused}");

    assert_eq!(line(&page, "processes")[0], "a limit when asked for (`--pids`)");
    let limited = host.running("limited", "--pids 20");
    let many = "for i in {1..30}; do sleep 5 & done 2>&1; kill $(jobs -p)";
    assert_eq!(inside(many), "");
    let refused = host.inside(&limited, many);
    assert!(refused.text().contains("Resource temporarily unavailable"), "{refused}");
}

// CVE-2022-1227: what the container had in the place of a program ran outside of it.

#[test]
fn no_program_of_the_container_runs_outside_of_it() {
    let host = Host::small();
    let tree = host.path("tmp/tree");
    // Whatever a tool or a script calls by name, and what the loader loads for it.
    let programs = [
        "bash",
        "cat",
        "chroot",
        "cp",
        "env",
        "find",
        "getent",
        "id",
        "ip",
        "jq",
        "journalctl",
        "ls",
        "mount",
        "nsenter",
        "ps",
        "readlink",
        "restorecon",
        "rm",
        "sbx-exec",
        "sbx-fs",
        "sbx-ns",
        "setfattr",
        "sh",
        "sleep",
        "stat",
        "systemctl",
        "tar",
        "umount",
    ];
    let marker = "#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\n
        int main(int argc, char **argv) { char ns[64] = {0}; ssize_t n = readlink(\"/proc/self/ns/pid\", ns, 63);
        int fd = open(\"/marker\", O_WRONLY | O_APPEND | O_CREAT, 0666); dprintf(fd, \"%s %s\\n\", argv[0], n > 0 ? ns : \"none\");
        if (getpid() == 1 || argc > 1 && argv[1][0] == '9') sleep(1000); return 0; }\n";
    let source = host.path("tmp/marker.c");
    fs::write(&source, marker).expect("a source");
    let made = Command::new("cc").args(["-static", "-o"]).arg(host.path("tmp/marker")).arg(source).status();
    assert!(made.expect("cc").success());
    let place = tree.display();
    let make = format!(
        "mkdir -p {place}/etc {place}/usr/bin {place}/usr/sbin && cd {place} && cp ../marker usr/bin &&
         ln -s usr/bin bin && ln -s usr/sbin sbin && echo root:x:0:0::/:/bin/sh >etc/passwd && echo root:x:0: >etc/group &&
         for name in {}; do ln -f usr/bin/marker usr/bin/$name; ln -f usr/bin/marker usr/sbin/$name; done &&
         echo /usr/bin/evil.so >etc/ld.so.preload",
        programs.join(" ")
    );
    host.bash(&make).ok();
    let name = host.name("a");
    host.service(&format!("create --root {place} {name} -- /usr/bin/sleep 999")).ok();
    let marks = host.tree(&name).join("marker");
    let outside = host.line("readlink /proc/self/ns/pid").ok().text();
    // As one who looks at a container with its own programs.
    host.bash(&format!("mkdir -p {0}/proc && mount --bind /proc {0}/proc && chroot {0} ps; umount {0}/proc", place))
        .ok();
    let marked = fs::read_to_string(tree.join("marker")).expect("a marker");
    assert_eq!(marked, format!("ps {outside}\n"));
    fs::remove_file(tree.join("marker")).expect("unlink");
    for verb in [
        "start NAME",
        "list -r",
        "execute NAME -- ps",
        "set --pids 64 NAME",
        "diff NAME",
        "reload NAME",
        "refresh NAME",
        "upgrade NAME",
        "export --force NAME",
        "stop NAME",
        "start NAME",
        "connect NAME",
    ] {
        let outcome = host.service(&verb.replace("NAME", &name));
        assert!(outcome.code < 2, "{outcome}");
    }
    let marked = fs::read_to_string(&marks).expect("markers");
    assert!(marked.lines().all(|line| line.contains(" pid:[") && !line.ends_with(&outside)), "{marked}");
    let called: BTreeSet<&str> = marked.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(called.into_iter().collect::<Vec<_>>(), ["-sh", "/usr/bin/sleep", "ps"]);
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
        let name = host.running(name, options);
        let none = "0000000000000000";
        let expected = format!("CapAmb:{none}\nCapBnd:{held}\nCapInh:{none}\nCapPrm:{held}");
        assert_eq!(host.inside(&name, sets).ok().text(), expected, "{options}");
    }
}

// CVE-2015-3630, CVE-2018-10892: files of /proc by which the host could be changed.

#[test]
fn what_changes_the_host_is_not_opened_for_writing() {
    let host = Host::small();
    let name = host.running("a", "--userns host");
    let doc = host.defined(&name);
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
    let weak = host.running("weak", WEAK);
    let plain = host.running("plain", "");
    for (attack, why) in attacks {
        host.inside(&weak, attack).ok();
        let refused = host.inside(&plain, attack);
        assert!(refused.code != 0 && refused.stderr.contains(why), "{refused}");
    }
    // Nor is one there: what is mounted begins below the root of its hierarchy, and a command can write to nothing of it.
    let agents = "find /sys/fs/cgroup -name release_agent";
    assert_ne!(host.bash(agents).ok().text(), "");
    assert_eq!(host.inside(&plain, agents).ok().text(), "");
    let opened =
        "find /sys/fs/cgroup -type f | while read -r file; do { exec 9>>$file; } 2>/dev/null && echo $file; done; :";
    assert_eq!(host.inside(&plain, opened).ok().text(), "");
}

// CVE-2023-25809: cgroups of the host's could be written to.

#[test]
fn an_init_has_the_cgroups_below_its_own_and_a_command_none() {
    let host = Host::small();
    host.unit("idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    let init = host.name("init");
    host.service(&format!("create -u idle {init}")).ok();
    host.service(&format!("start {init}")).ok();
    let command = host.running("command", "");
    let state = host.line(&format!("sbx-ns show {init}")).ok().json()["sbx"]["state"]["cgroups"].take();
    let own: Vec<_> = state["payload"].as_array().expect("cgroups").iter().filter_map(|path| path.as_str()).collect();
    let all = own.last().and_then(|path| Path::new(path).ancestors().nth(2)).expect("a directory").display();
    let cell = line(&page(), "cgroup file system").swap_remove(0);
    assert_eq!(cell, "its own, read-only for a command; systemd's part for systemd");
    let weak = host.running("weak", &format!("--userns host -m host-bind:/srv={all}"));
    // A directory is the same one however it is reached.
    let find = "find -P /sys/fs/cgroup /srv -type d -writable -fstype cgroup -printf '%D %i\\n' -o \
        -type d -writable -fstype cgroup2 -printf '%D %i\\n'";
    let found = |said: String| said.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let below = found(host.bash(&find.replace("/sys/fs/cgroup /srv", &own.join(" "))).ok().text());
    let writable = |name: &str| found(host.inside(name, find).ok().text());
    assert!(!writable(&weak).is_subset(&below));
    let writable_to_init = writable(&init);
    assert!(!writable_to_init.is_empty() && writable_to_init.is_subset(&below), "{writable_to_init:?}: {below:?}");
    assert_eq!(writable(&command), BTreeSet::new());
}

// CVE-2018-6764, CVE-2019-14271: libraries of the container's were loaded by who had entered it.

#[test]
fn nothing_of_the_container_is_loaded_before_the_command() {
    let host = Host::small();
    let name = host.running("a", "");
    host.inside(&name, "echo /root/evil.so >/etc/ld.so.preload; touch /root/evil.so").ok();
    let trace = |command: &str| {
        let said = host.bash(&format!("strace -f -qq -e trace=openat,open,openat2,execve {command} 2>&1"));
        String::from_utf8(said.stdout).expect("a trace")
    };
    let tree = host.tree(&name).display().to_string();
    // A dynamic program that has entered a root asks that root's files who a user is.
    let naive = trace(&format!("chroot --userspec=daemon {tree} /bin/true"));
    assert!(naive.contains("\"/etc/nsswitch.conf\""), "{naive}");
    let execute = format!("virt-sandbox-service execute {name} -- /bin/true");
    let verbs = ["stop", "start", "stop"].map(|verb| format!("virt-sandbox-service {verb} {name}"));
    let life = format!("bash -c '{}'", verbs.join(" && "));
    for (ours, command) in [(execute, "/bin/true"), (life, "/bin/sleep")] {
        let ours = trace(&ours);
        // From the first step into the container to the command.
        let (before, _) = ours.rsplit_once(&format!("execve(\"{command}\"")).expect("the command");
        let (_, entered) = before.rsplit_once("execve(").expect("sbx-exec");
        for loaded in ["ld.so.preload", "evil.so", "libnss", "nsswitch.conf", "gconv", "locale", "ld.so.cache"] {
            assert!(!entered.contains(loaded), "{loaded}: {entered}");
        }
        assert!(entered.contains("\"etc/passwd\""), "{entered}");
    }
}
