//! virt-sandbox: one command in a sandbox over the host's own root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use support::{Host, Outcome};

fn sandbox(host: &Host, options: &str, script: &str) -> Outcome {
    let words = options.split_whitespace().chain(["--", "sh", "-c", script]);
    host.run(["virt-sandbox"].into_iter().chain(words), "")
}

#[test]
fn streams_and_status_are_the_commands() {
    let host = Host::new();
    host.line("virt-sandbox /bin/false").assert_code(1);
    host.bash("virt-sandbox /bin/date >date.txt && [ -s date.txt ]").ok();
    host.bash("head -c 300000 /dev/urandom >src && virt-sandbox /bin/cat <src >dst && cmp src dst").ok();
    let apart = sandbox(&host, "", "echo out; echo err >&2; exit 3").assert_code(3);
    assert_eq!((apart.text().as_str(), apart.stderr.as_str()), ("out", "err\n"));
    sandbox(&host, "", "kill -9 $$").assert_code(137);
    sandbox(&host, "", "kill -TERM $$").assert_code(143);
    assert_eq!(host.bash("virt-sandbox -- sh -c 'read -r x; echo $?' <&-").ok().text(), "1");
    let missing = host.line("virt-sandbox -- /no/such").assert_code(127);
    assert!(missing.stderr.contains("cannot execute /no/such"), "{missing}");
    host.line("virt-sandbox -- /etc/passwd").assert_code(126);
    for (line, code, why) in [
        ("virt-sandbox", 2, "a command is missing"),
        ("virt-sandbox --no-such x", 2, "unknown option '--no-such'"),
        ("virt-sandbox -p -S nobody x", 2, "-p and -S do not go together"),
        ("virt-sandbox -c qemu:///session x", 1, "only lxc:///"),
        ("virt-sandbox -m host-bind:/srv=/no/such x", 125, "cannot mount /no/such"),
        ("virt-sandbox -m disk:/srv=/x x", 125, "bad mount"),
        ("virt-sandbox --net mode=nosuch x", 125, "bad mode"),
        ("virt-sandbox --memory 1M x", 125, "too small"),
        ("virt-sandbox -i /tmp/x=/no/such x", 125, "/no/such"),
        ("virt-sandbox --x11 x", 1, "--x11: DISPLAY is '', and no display of this host"),
        ("virt-sandbox --wayland x", 1, "no socket"),
        ("virt-sandbox --bind", 2, "option --bind needs a value"),
        ("virt-sandbox -m", 2, "option -m needs a value"),
    ] {
        let refused = host.line(line).assert_code(code);
        assert!(refused.stderr.contains(why), "{refused}");
    }
}

#[test]
fn it_reads_programs_and_writes_nothing_but_its_own() {
    let host = Host::new();
    let before = host.snapshot();
    let places = "for place in / /etc /usr /opt /run /var /dev /proc/sys/kernel /sys $HOME /tmp /var/tmp /dev/shm; do
        touch $place/x 2>/dev/null && echo $place; done";
    // It is root, to whom what it has a mount of its own of belongs.
    assert_eq!(sandbox(&host, "", places).ok().text(), "/run\n/dev\n/root\n/tmp\n/var/tmp\n/dev/shm");
    assert_eq!(sandbox(&host, "-S nobody", places).ok().text(), "/nonexistent\n/tmp\n/var/tmp\n/dev/shm");
    let who = "id -u; id -g; pwd; echo $HOME; grep -h '^Cap[PEB]\\|NoNewPrivs\\|Seccomp:' /proc/self/status";
    let shown = sandbox(&host, "", who).ok().text().replace('\t', "");
    let none = "CapPrm:0000000000000000\nCapEff:0000000000000000\nCapBnd:0000000000000000";
    assert_eq!(shown, format!("0\n0\n/root\n/root\n{none}\nNoNewPrivs:1\nSeccomp:2"));
    assert_eq!(sandbox(&host, "-p", "grep CapEff /proc/self/status").ok().text(), "CapEff:\t00000000800405fb");
    assert_eq!(sandbox(&host, "-S nobody", "id -un; id -gn").ok().text(), "nobody\nnogroup");
    assert_eq!(sandbox(&host, "-S daemon", "echo $HOME; ls /usr/sbin | grep -x chroot").ok().text(), "/home\nchroot");
    assert_eq!(
        host.bash("unset HOME; virt-sandbox -- sh -c 'echo $HOME $PATH'").ok().text(),
        "/home /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    // Where the caller is, if that can be seen inside.
    assert_eq!(host.bash("cd /usr/share && virt-sandbox -- pwd").ok().text(), "/usr/share");
    assert_eq!(sandbox(&host, "", "ls /sys/class/net; set -- /proc/[0-9]*; echo $#").ok().text(), "lo\n2");
    assert_eq!(sandbox(&host, "--env A=b=c --env HOME=/tmp", "echo $A $HOME").ok().text(), "b=c /tmp");
    // What it runs as process 1 is no more than it is itself, and nothing of it can be had.
    let first = "cat /proc/1/status | grep '^Cap[PE]'; cat /proc/1/environ; ls -l /proc/1/fd /proc/1/exe";
    let shown = sandbox(&host, "", first);
    assert!(shown.text().starts_with("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000"), "{shown}");
    assert!(shown.stderr.contains("Permission denied"), "{shown}");
    host.assert_as(&before, "sandboxes");
}

#[test]
fn root_inside_reads_of_the_hosts_configuration_what_everybody_may() {
    let host = Host::new();
    // One of its own, which can have other ids, as an overlay cannot.
    host.bash("mkdir etc && mount -t tmpfs tmpfs etc && cp -a /etc/. etc && mount --move etc /etc && rmdir etc").ok();
    host.bash("cd /etc && for f in secret.p12 shadow new; do echo secret >$f; chmod 600 $f; done; echo all >all").ok();
    let read = "cat /etc/secret.p12 /etc/shadow 2>/dev/null; cat /etc/all; stat -c %U /etc/all";
    // Nor with all that a privileged one may do.
    for options in ["", "-p", "-S root"] {
        assert_eq!(sandbox(&host, options, read).ok().text(), "all\nnobody", "{options}");
    }
    assert!(host.bash(read).ok().text().starts_with("secret\nsecret\nall"));
    // Whom the modes keep from it needs no more.
    assert_eq!(sandbox(&host, "-S nobody", read).ok().text(), "all\nroot");
    // One that comes meanwhile takes the place of another.
    let line = "virt-sandbox -- bash -c 'echo; until [ $(cat /etc/all) = other ]; do sleep 0.05; done; ! cat /etc/shadow' >said & pid=$!
        until [ -s said ]; do sleep 0.05; done; mv /etc/new /etc/shadow; echo other >/etc/all; wait $pid";
    host.bash(line).ok();
}

#[test]
fn it_is_called_in_any_way_and_hands_on_what_it_is_given() {
    let host = Host::new();
    let before = host.snapshot();
    let odd = ["", " a  b ", "it's", "'", "$HOME `id` $(id)", "*\\?", "-n", "two\nlines\n\n"];
    let script = "CALL -e \"V=$*\" -- sh -c 'printf \"%s|\" \"$@\" \"$V\"' sh \"$@\"";
    let expected = odd.map(|word| format!("{word}|")).concat() + &odd.join(" ") + "|";
    let called = "$(command -v virt-sandbox)";
    for call in [
        "virt-sandbox",
        &format!("bash --posix {called}"),
        &format!("env -i SBX_RUNTIME_DIR=$SBX_RUNTIME_DIR {called}"),
    ] {
        let outcome = host.run([&["bash", "-c", &script.replace("CALL", call), "bash"], &odd[..]].concat(), "").ok();
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), expected, "{call}");
    }
    for wrong in ["-n '' true", "-S '' true", "--tmp= true", "--privileged=/usr/bin/id", "--shell=no true"] {
        let refused = host.bash(&format!("virt-sandbox {wrong}")).assert_code(2);
        assert!(refused.stderr.contains(" value\n") || refused.stderr.contains("takes no value"), "{refused}");
    }
    assert_eq!(host.bash("echo said | virt-sandbox -i /tmp/x=/dev/stdin -- cat /tmp/x").ok().text(), "said");
    // Children of the caller's, which it takes the place of, are not waited for.
    host.bash("sh -c 'sleep 1006 & echo $! >child; exec virt-sandbox -- true'; kill $(cat child); rm child").ok();
    host.assert_as(&before, "calls of many kinds");
    // In PID namespaces of their own they have the same pids.
    let apart = "for n in {1..8}; do unshare --pid --fork --mount-proc virt-sandbox -- true & all+=($!); done
        for one in ${all[@]}; do wait $one || exit; done";
    host.bash(apart).ok();
}

#[test]
fn what_is_bound_is_the_hosts_and_what_is_included_is_copied_from_inside() {
    let host = Host::new();
    let before = host.snapshot();
    fs::create_dir(host.path("tmp/scratch")).expect("a directory");
    fs::write(host.path("tmp/foo"), "foo").expect("a file");
    host.bash(
        "virt-sandbox -c lxc:/// -m host-bind:$HOME=$PWD/scratch -i $HOME/in/foo=$PWD/foo -- sh -c 'cp ~/in/foo ~/bar'",
    )
    .ok();
    assert_eq!(fs::read_to_string(host.path("tmp/scratch/bar")).expect("made inside"), "foo");
    host.bash("echo /tmp/foo=$PWD/foo >list && virt-sandbox -I list -- grep -q foo /tmp/foo").ok();
    host.bash("cd scratch && virt-sandbox --bind . -- touch here && [ -e here ]").ok();
    let refused = host.bash("cd scratch && virt-sandbox --ro . -- touch there").assert_code(1);
    assert!(refused.stderr.contains("Read-only file system"), "{refused}");
    host.bash("virt-sandbox --ro foo:/srv/foo -- cat /srv/foo").ok();
    assert_eq!(host.bash("virt-sandbox --home scratch -- ls ~").ok().text(), "bar\nhere\nin");
    assert_eq!(
        host.bash("HOME=$PWD/scratch virt-sandbox --home ro -- sh -c 'ls ~; ! touch ~/x'").ok().text(),
        "bar\nhere\nin"
    );
    host.bash("virt-sandbox --tmp scratch -- sh -c 'touch /tmp/tmp' && [ -e scratch/tmp ]").ok();
    let size = "stat -f -c '%b %S' /tmp | { read -r n size; echo $((n * size)); }";
    assert_eq!(sandbox(&host, "--tmp 3M", size).ok().text(), (3 << 20).to_string());

    // One place by two names is one place.
    let twice = "mkdir a; virt-sandbox -m ram:/usr/lib/apt=1M -m ram:/lib/apt=1M -m host-bind:/usr/lib/apt/a=$PWD/a -- \
        ls /usr/lib/apt; rmdir a";
    assert_eq!(host.bash(twice).ok().text(), "a");
    // A link that an earlier sandbox has left in a directory of the host's does not lead out of the next one.
    fs::create_dir(host.path("tmp/outside")).expect("a directory");
    symlink(host.path("tmp/outside"), host.path("tmp/scratch/link")).expect("a link");
    let refused = host.bash("virt-sandbox --home scratch -i $HOME/link/foo=$PWD/foo -- true").assert_code(125);
    assert!(refused.stderr.contains("cannot include"), "{refused}");
    host.bash("virt-sandbox -I / true").assert_failure(1, "virt-sandbox", &["cannot read '/'"]);
    // A path is one, whatever is in it: what could be taken for another is not mounted.
    host.bash("mkdir scratch/a scratch/a,ro scratch/a=b").ok();
    for path in ["scratch/a,ro", "scratch/a=b"] {
        let refused = host.bash(&format!("virt-sandbox --bind {path} true"));
        refused.assert_failure(1, "virt-sandbox", &["cannot bind", path]);
    }
    assert_eq!(fs::read_dir(host.path("tmp/outside")).expect("a directory").count(), 0);
    host.bash("rm -r -- *").ok();
    host.assert_as(&before, "sandboxes");
}

#[test]
fn what_libvirt_sandbox_took_works_as_it_was_typed() {
    let host = Host::new();
    host.bash("mkdir -p home/scratch demo/tmp; for file in foo bar; do echo $file >home/scratch/$file; done").ok();
    let typed = "export HOME=$PWD/home; echo 'cd $HOME && cat scratch/foo scratch/bar && echo kept >new' |
        virt-sandbox -c lxc:/// -m host-bind:$HOME=$HOME/scratch -i $HOME/scratch/foo -i $HOME/scratch/bar /bin/sh";
    assert_eq!(host.bash(typed).ok().text(), "foo\nbar");
    assert_eq!(host.bash("cat home/scratch/new home/scratch/scratch/foo").ok().text(), "kept\nfoo");
    host.bash("virt-sandbox -m host-bind:/tmp=$PWD/demo/tmp /bin/touch /tmp/x && [ -e demo/tmp/x ]").ok();
    assert_eq!(
        host.line("virt-sandbox -m ram:/tmp=500M /bin/df --output=size /tmp").ok().text(),
        "1K-blocks\n   512000"
    );
    for network in ["dhcp,source=default", "address=192.168.122.1/24%192.168.122.255", "address=2001:212::204:2/64"] {
        let links = host.line(&format!("virt-sandbox -N {network} /bin/ls /sys/class/net")).ok().text();
        assert_eq!(links, "eth0\nlo", "{network}");
    }
}

#[test]
fn another_root_takes_the_place_of_the_hosts() {
    let host = Host::new();
    let make = "mkdir -p other/{usr,etc,srv,var/lib/d} && mount --bind /usr other/usr && echo of the other >other/etc/which &&
        for name in bin lib lib64; do ln -s usr/$name other/$name; done; chmod 700 other/var/lib/d; touch other/srv/file";
    host.bash(make).ok();
    let before = host.snapshot();
    let look =
        "cat /etc/which; ls -d /opt /lib32 2>/dev/null; ls /var/lib /srv; ls /var/lib/d 2>&1; touch /etc/x /srv/file";
    let outcome = sandbox(&host, "-r other", look).assert_code(1);
    assert_eq!(
        outcome.text(),
        "of the other\n/srv:\nfile\n\n/var/lib:\nd\nls: cannot open directory '/var/lib/d': Permission denied"
    );
    assert_eq!(outcome.stderr.lines().count(), 2, "{outcome}");
    assert!(host.line("virt-sandbox -r no/such -- true").assert_code(1).stderr.contains("no root 'no/such'"));
    host.assert_as(&before, "another root");
}

#[test]
fn limits_and_networks_are_those_that_are_asked_for() {
    let host = Host::new();
    host.line("ip link set lo up").ok();
    let (before, name) = (host.snapshot(), host.name("s"));
    let named = |options: &str| format!("-n {name} {options}");
    let forks = sandbox(&host, &named("--pids 10"), "for i in $(seq 20); do sleep 1 & done; wait").assert_code(2);
    assert!(forks.stderr.contains("Cannot fork"), "{forks}");
    let memory = "head -c 90000000 /dev/zero | tail -c 90000000 | wc -c";
    assert_eq!(sandbox(&host, &named("--memory 1G"), memory).ok().text(), "90000000");
    assert_eq!(sandbox(&host, &named("--memory 48M"), memory).text(), "0");
    host.assert_as(&before, "limits");

    let links = "ls /sys/class/net; ip -4 -br address show eth0 | grep -o '10[.0-9]*/'";
    assert!(sandbox(&host, &named("--net dhcp"), links).ok().text().starts_with("eth0\nlo\n10.83."));
    host.assert_as(&before, "a network");
    assert_eq!(host.bash("nft list ruleset; find state/claims -type l 2>/dev/null").text(), "");
    let of_the_host = host.line("readlink /proc/self/ns/net").ok().text();
    assert_eq!(sandbox(&host, "--net host", "readlink /proc/self/ns/net").ok().text(), of_the_host);
    assert_ne!(sandbox(&host, "--net none", "readlink /proc/self/ns/net").ok().text(), of_the_host);
}

#[test]
fn nothing_is_left_however_it_ends() {
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("s");
    // At each moment of its life, its first steps among them.
    for hundredth in 1..30 {
        let line =
            format!("timeout -s KILL 0.{hundredth:02} virt-sandbox -n {name} --memory 64M -N dhcp -- sleep 1000");
        assert_ne!(host.line(&line).code, 0);
        host.assert_as(&before, &line);
    }
    // Its command is told of a signal; a sandbox whose caller is killed is ended as a whole.
    let told = "virt-sandbox -- bash -c 'trap \"exit 5\" TERM; echo; while :; do sleep 0.1; done' >said & pid=$!
        until [ -s said ]; do sleep 0.05; done; kill $pid; wait $pid; code=$?; rm said; exit $code";
    host.bash(told).assert_code(5);
    host.bash("virt-sandbox -- bash -c 'sleep 1003 & disown; exit'").ok();
    host.assert_as(&before, "a process in the background");
    // The steps on the way to it have been waited for.
    let children = "virt-sandbox -- sh -c 'echo; exec sleep 1005' >said & pid=$!
        until [ -s said ]; do sleep 0.05; done; rm said
        for n in {1..50}; do [[ $(ps -o stat= --ppid $pid) == *Z* ]] || break; sleep 0.1; done
        ps -o comm=,stat= --ppid $pid; kill $pid";
    let children = host.bash(children).ok().text();
    assert!(children.contains("sleep") && !children.contains('Z'), "{children}");
    host.assert_as(&before, "the steps");
    // A service manager sends a signal to all that belongs to it.
    let all = format!(
        "virt-sandbox -n {name} --memory 64M -N dhcp -- sh -c 'echo; exec sleep 1004' >said &
            until [ -s said ]; do sleep 0.05; done; rm said; kill -TERM -1; wait $!"
    );
    host.bash(&all).assert_code(143);
    host.assert_as(&before, "a signal to all");
    // There is one of a name.
    let twice = format!(
        "virt-sandbox -n {name} -- sh -c 'echo; sleep 1; exit 7' >said & pid=$!; until [ -s said ]; do sleep 0.05; done
            virt-sandbox -n {name} -- true; echo $?; rm said; wait $pid"
    );
    let twice = host.bash(&twice).assert_code(7);
    assert_eq!((twice.text().as_str(), twice.stderr.contains("is in use")), ("1", true), "{twice}");
    host.assert_as(&before, "two of a name");
    // A container of the name is another thing.
    let container = host.running("c", "");
    let refused = host.line(&format!("virt-sandbox -n {container} -- true")).assert_code(1);
    assert!(refused.stderr.contains(&format!("container {container} exists")), "{refused}");
    host.bash("sleep 0.5").ok();
    host.inside(&container, "true").ok();
    assert_eq!(host.bash("ls -A runtime state/containers 2>/dev/null").text(), "");
}

#[test]
fn what_is_made_for_as_long_as_a_pipe_is_there_ends_with_it() {
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("w");
    let begin = "mkfifo pipe && exec 4<>pipe 3<pipe && rm pipe";
    let steps = |options: &str| {
        format!("sbx-fs layout --name {name} --store memory | sbx-ns create --while 3 {options} | sbx-fs mount")
    };
    let until = |gone: &str| format!("for n in {{1..500}}; do {gone} && break; sleep 0.01; done");

    // A container that nobody has to remove, nor knows but by its document.
    let unlisted =
        format!("{begin}; {} | sbx-exec run -- sh -c 'grep ^CapBnd /proc/1/status'; sbx-ns list", steps("--unlisted"));
    assert_eq!(host.bash(&unlisted).ok().text(), "CapBnd:\t0000000000000000\n[]");
    host.assert_as(&before, "unlisted");
    // One that is known: it runs nothing by itself, and what is kept of it is removed like that of all.
    let kept = format!(
        "{begin}; {} >doc; sbx-ns list | jq -r '.[].name'; sbx-exec boot <doc; echo $?
            {} >other; sbx-exec boot <other; echo $?
            exec 4>&-; {}; sbx-ns remove {name}; rm doc other",
        steps(""),
        steps("--unlisted"),
        until("[ \"$(sbx-ns list)\" = '[]' ]")
    );
    let kept = host.bash(&kept).ok();
    assert_eq!(kept.text(), format!("{name}\n1\n1"));
    assert!(kept.stderr.contains("cannot reach the holder") && kept.stderr.contains("takes no orders"), "{kept}");
    host.assert_as(&before, "kept");
    // Nobody has been told of it.
    let full = format!("{begin}; sbx-ns create --name {name} --while 3 --unlisted >/dev/full");
    host.bash(&full).assert_failure(1, "sbx-ns", &["cannot write to stdout"]);
    host.assert_as(&before, "a document that went nowhere");
    // Whatever becomes of those who made it, and of what is in it.
    let cgroups = format!(
        "{begin}; doc=$(timeout -s KILL 2 sbx-cg create --name {name} --pids 64 --while 3 2>&1)
            jq -r '.sbx.state.cgroups | .payload == .exec, (.payload[] | .[0:14])' <<<$doc | sort -u
            mapfile -t payload < <(jq -r '.sbx.state.cgroups.payload[]' <<<$doc)
            sleep 1011 3<&- 4>&- & for one in ${{payload[@]}}; do echo $! >$one/cgroup.procs; done
            exec 4>&-; wait; {}",
        until("[ ! -e ${payload[0]} ]")
    );
    assert_eq!(host.bash(&cgroups).ok().text(), "/sys/fs/cgroup\ntrue");
    host.assert_as(&before, "cgroups");
    // Also by one who began before that, and goes on after.
    let late = format!(
        "{begin}; strace -qq -o /dev/null -e trace=mkdir -e inject=mkdir:delay_enter=100000 \
                sbx-cg create --name {name} --pids 64 --while 3 >/dev/null 4>&- &
            sleep 0.1; exec 4>&-; wait; {}",
        until(&format!("! sbx-cg show {name} >/dev/null 2>&1"))
    );
    host.bash(&late).ok();
    host.assert_as(&before, "one who was late");
    let both = "sbx-cg create $@ >/dev/null; sbx-cg create $@ --while 3; code=$?; sbx-cg remove $2; exit $code";
    for (line, code, why) in [
        (format!("sbx-ns create --name {name} --unlisted"), 2, "--unlisted goes with --while"),
        (format!("sbx-ns create --name {name} --while x"), 2, "bad descriptor \"x\""),
        (format!("sbx-cg create --name {name} --while 0"), 2, "bad descriptor \"0\""),
        (format!("sbx-ns create --name {name} --while 9"), 1, "--while: descriptor 9"),
        (format!("sbx-ns create --name {name} --while 4"), 1, "is not that end of a pipe which is read from"),
        (format!("sbx-cg create --name {name} --while 4"), 1, "is not that end of a pipe which is read from"),
        (
            format!("sbx-ns plan --name {name} --userns 100000:100000:65536 | sbx-ns create --while 3 --unlisted"),
            1,
            "linux.uidMappings has to be given back",
        ),
        (format!("set -- --name {name} --pids 5; {both}"), 1, "there are cgroups of"),
    ] {
        let refused = host.bash(&format!("{begin}; {line}")).assert_code(code);
        assert!(refused.stderr.contains(why) && refused.stdout.is_empty(), "{refused}");
    }
    host.assert_as(&before, "what was refused");
}

#[test]
fn the_document_of_an_unlisted_container_is_out_before_its_holder_is_at_rest_and_nothing_runs_before_that() {
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("w");
    // One that never comes to rest: it has its rights, and waits for an order.
    let met = format!(
        "sbx-fs layout --name {name} --store memory | sbx-ns create | sbx-fs mount >doc
            jq -c '.sbx.state.unlisted = true' doc >unlisted
            timeout 1 sbx-exec run -- touch /tmp/met <unlisted; echo $?
            sbx-exec run -- find /tmp -type f <doc; echo $?
            sbx-exec run -- touch /tmp/met <unlisted & sleep 0.2; sbx-ns remove {name}; wait $!; echo $?; rm doc unlisted"
    );
    let met = host.bash(&met).ok();
    assert_eq!(met.text(), "124\n0\n125");
    assert!(met.stderr.contains(&format!("sbx-exec: container {name} has ended")), "{met}");
    host.assert_as(&before, "a holder with rights");
    // One that cannot be executed, and what the next step makes of its document, if that is out.
    for (options, next) in [
        ("", "1\n0\n1".to_owned()),
        ("--while 3 --unlisted", format!("1\n1\nsbx-fs: container {name} is not running\n1")),
    ] {
        let fails = format!(
            "mkfifo pipe in && exec 4<>pipe 3<pipe; mkdir own && mount -n -t tmpfs tmpfs own && cp $(command -v sbx-ns) own
                own/sbx-ns create {options} <in >out & exec 5>in
                until [ $(readlink /proc/$!/exe) = $PWD/own/sbx-ns ]; do sleep 0.01; done
                mount -n -o remount,noexec own; sbx-ns plan --name {name} >&5; exec 5>&-; wait $!; echo $?; wc -l <out
                sbx-fs mount --store memory <out 2>&1; echo $?; umount -n own; rm -r pipe in own out; sbx-ns remove {name}"
        );
        let fails = host.bash(&fails).ok();
        assert_eq!(fails.text(), next, "{fails}");
        assert_eq!(fails.stderr.lines().count(), 1, "{fails}");
        assert!(fails.stderr.contains(&format!("cannot start the holder of {name}: cannot execute")), "{fails}");
        host.assert_as(&before, "a holder that cannot be executed");
    }
}

/// A script that prints how many bytes are held of what processes of the cgroup $name have asked for, the kernel's memory
/// included, once all has been given back that can be: by a file of v1, or of v2, where not all can.
const HELD: &str = "for directory in $(find /sys/fs/cgroup -maxdepth 3 -path \"*/sbx/$name\"); do
    for ask in 0:memory.force_empty 1G:memory.reclaim; do
        [ ! -e $directory/${ask#*:} ] || echo ${ask%:*} 2>/dev/null >$directory/${ask#*:}; done; done
    sbx-cg show $name | jq .memory.current;";

#[test]
fn many_at_once_and_one_after_the_other_do_not_fail_and_leave_nothing() {
    let host = Host::new();
    let before = host.snapshot();
    let name = host.name("many");
    let made = host.bash(&format!("sbx-cg limit --name {name} --memory 8G | sbx-cg create")).ok().json();
    let within = host.snapshot();
    let cgroups = made["sbx"]["state"]["cgroups"]["payload"].as_array().expect("cgroups").iter();
    let enter: String = cgroups.map(|cgroup| format!("echo 0 >{cgroup}/cgroup.procs; ")).collect();

    let many = if std::env::var("SBX_LONG").is_ok_and(|long| long == "1") { 500 } else { 60 };
    let line = format!(
        "seq {many} | xargs -P 8 -I N virt-sandbox -- sh -c 'echo N; [ \"$(cat /proc/1/comm)\" = sbx-ns ]' | sort -n"
    );
    let said = host.bash(&format!("{enter} set -o pipefail; {line}")).ok().text();
    assert_eq!(said, (1..=many).map(|n| n.to_string()).collect::<Vec<_>>().join("\n"));
    host.assert_as(&within, "many sandboxes");

    // Far less than sandboxes hold while they wait: one that left its namespaces would be told.
    let held = |script: &str| host.bash(&format!("name={name}; {script}")).ok().text().parse::<u64>().expect("bytes");
    // The kernel takes apart what has ended when it comes to it.
    let left = (0..20).map(|_| held(HELD)).find(|left| *left < 1 << 20);
    assert!(left.is_some(), "{} bytes after {many}", held(HELD));
    let waiting = "mkfifo end && exec 3<>end && touch said
        for n in {1..20}; do virt-sandbox -- sh -c 'echo; exec cat' <end >>said 3>&- & done
        until [ $(wc -l <said) = 20 ]; do sleep 0.1; done";
    let kept = held(&format!("{enter} {waiting}; {HELD} exec 3>&-; wait; rm end said"));
    assert!(kept > 1 << 20, "{kept} bytes by 20");
    host.line(&format!("sbx-cg remove {name}")).ok();
    host.assert_as(&before, "remove");
}

#[test]
fn no_file_gets_an_id_of_its_own_inside() {
    let host = Host::new();
    fs::create_dir(host.path("tmp/scratch")).expect("a directory");
    fs::set_permissions(host.path("tmp/scratch"), PermissionsExt::from_mode(0o777)).expect("a mode");
    // Whoever executes it outside, later, would be who the command was.
    let python = |text: &str| format!("python3 -c 'import os; os.chdir(\"/srv\"); os.umask(0); {text}'");
    let ways = [
        "cp /usr/bin/id /srv/id && chmod 4755 /srv/id".to_owned(),
        "install -m 2755 /usr/bin/id /srv/id".to_owned(),
        "mkdir /srv/id && chmod g+s /srv/id".to_owned(),
        python("os.mkdir(\"id\"); os.fchmod(os.open(\"id\", os.O_RDONLY), 0o4755)"),
        python("os.open(\"id\", os.O_CREAT | os.O_WRONLY, 0o4755)"),
        python(
            "f = os.open(\".\", os.O_TMPFILE | os.O_WRONLY, 0o2755); os.link(\"/proc/self/fd/%d\" % f, \"id\", src_dir_fd=f)",
        ),
        python("os.mknod(\"id\", 0o104755)"),
    ];
    for way in &ways {
        let make = |capability: &str| {
            let line = format!(
                "sbx-ns plan --name s | sbx-fs layout --store memory --mount host-bind:/srv=$PWD/scratch |
                 sbx-exec profile --cap -all{capability} | sbx-ns create | sbx-fs mount >doc &&
                 sbx-exec run --alone --document 3 -- bash -c \"$0\" 3<doc; sbx-ns remove s; rm doc"
            );
            let outcome = host.run(["bash", "-c", &line, way.as_str()], "");
            let mode = fs::symlink_metadata(host.path("tmp/scratch/id")).map_or(0, |made| made.mode() & 0o6000);
            host.bash("rm -rf scratch/id").ok();
            (mode, outcome)
        };
        // With the capability it works.
        let (mode, outcome) = make(" --cap fsetid");
        assert!(mode != 0, "{outcome}");
        let (mode, outcome) = make("");
        assert!(mode == 0, "{outcome}");
        assert!(outcome.stderr.contains("not permitted"), "{outcome}");
    }
    let refused = host.bash("virt-sandbox --bind scratch:/srv -- sh -c 'cp /usr/bin/id /srv/id; chmod 4755 /srv/id'");
    assert!(refused.stderr.contains("Operation not permitted"), "{refused}");
}
