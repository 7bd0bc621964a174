//! What SIGKILL at a system call of a whole verb leaves, and a disk that is full: nothing that delete does not find.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs};
use support::{Host, Outcome, binaries, run, scripts, skip};

/// The system calls that change what outlives a process, and what keeps others from that: a call of one with any of
/// these words in its line of strace(1), or of one without words.
const CHANGES: &[(&str, &[&str])] = &[
    ("open", CREATES),
    ("openat", CREATES),
    ("openat2", CREATES),
    ("mkdir", &[]),
    ("mkdirat", &[]),
    ("mknod", &[]),
    ("mknodat", &[]),
    ("link", &[]),
    ("linkat", &[]),
    ("symlink", &[]),
    ("symlinkat", &[]),
    ("rename", &[]),
    ("renameat", &[]),
    ("renameat2", &[]),
    ("unlink", &[]),
    ("unlinkat", &[]),
    ("rmdir", &[]),
    ("chmod", &[]),
    ("fchmod", &[]),
    ("fchmodat", &[]),
    ("fchmodat2", &[]),
    ("chown", &[]),
    ("fchown", &[]),
    ("lchown", &[]),
    ("fchownat", &[]),
    ("utimensat", &[]),
    ("setxattr", &[]),
    ("lsetxattr", &[]),
    ("fsetxattr", &[]),
    ("removexattr", &[]),
    ("lremovexattr", &[]),
    ("fremovexattr", &[]),
    ("truncate", &[]),
    ("ftruncate", &[]),
    ("fallocate", &[]),
    ("copy_file_range", &[]),
    ("sendfile", FILE),
    ("write", FILE),
    ("writev", FILE),
    ("pwrite64", FILE),
    ("pwritev", FILE),
    ("pwritev2", FILE),
    ("ioctl", &["LOOP_", "FICLONE"]),
    ("flock", &[]),
    ("sync", &[]),
    ("syncfs", &[]),
    ("fsync", &[]),
    ("fdatasync", &[]),
    ("fsopen", &[]),
    ("fsconfig", &[]),
    ("fsmount", &[]),
    ("open_tree", &[]),
    ("move_mount", &[]),
    ("mount_setattr", &[]),
    ("mount", &[]),
    ("umount2", &[]),
    ("pivot_root", &[]),
    ("bpf", &[]),
    ("clone3", &[]),
    ("execveat", &[]),
    ("setns", &[]),
    ("unshare", &[]),
    ("sethostname", &[]),
    ("bind", &[]),
    ("listen", &[]),
    ("sendmsg", &[]),
    ("sendto", &[]),
    ("pidfd_send_signal", &[]),
];

const CREATES: &[&str] = &["O_CREAT", "O_TRUNC", "O_TMPFILE"];

/// A descriptor that has a path, and is no pipe; and the word that releases a holder.
const FILE: &[&str] = &["</", "\"!\""];

/// The programs that verbs call, but for those that only read.
const PROGRAMS: [&str; 14] = [
    "sbx-unit",
    "sbx-label",
    "sbx-ns",
    "sbx-cg",
    "sbx-fs",
    "sbx-net",
    "sbx-exec",
    "flock",
    "ln",
    "mkfs.ext4",
    "mkdir",
    "mv",
    "rm",
    "sync",
];

/// The verbs themselves, and what they are made of.
const SCRIPTS: [&str; 3] = ["virt-sandbox-service", "sbx-start", "sbx-stop"];

/// Stands in a program's place, and says what it is called with. A step is told from others by its command line. What it
/// starts is a step of its own.
const SHIM: &str = r#"#!/bin/sh
step="${0##*/} $*"
if [ -n "$TRACES" ]; then
    printf '%s\0' "$step" >"$TRACES/$$"
    set -- -y -ttt -A -o "$TRACES/$$" -e trace="$CALLS" -- REAL "$@"
elif [ "$STEP" = "$step" ]; then
    set -- ${AT:+-P "$AT"} -o "$WATCH" -e trace="$CALL" -e inject="$CALL:signal=KILL:when=$NUMBER" -- REAL "$@"
else
    exec REAL "$@"
fi
exec strace -f -b execve -qq "$@"
"#;

/// A call that changes something, of one of a verb's steps.
struct Call {
    time: String,
    step: String,
    name: String,
    /// Which alone is counted of calls that also read: of those there are more or less each time.
    path: Option<String>,
    /// Among those of that name, path and process.
    number: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Of the process that makes the call: others go on, and the verb takes back what it can.
    OfOne,
    /// Of all processes of the verb, as a machine ends that loses its power.
    OfAll,
}

impl Death {
    /// Where strace writes what happens: to whom it matters.
    const fn watch(self) -> &'static str {
        match self {
            Self::OfOne => "/dev/null",
            Self::OfAll => "|grep -q 'killed by SIGKILL' && kill -KILL -$VERB 0",
        }
    }
}

/// What a verb is killed by.
struct Kill<'a> {
    call: &'a Call,
    death: Death,
    /// The first call of that name.
    is_first: bool,
}

impl Kill<'_> {
    /// Whether the verb has lost one of the tools in its pipe, and is there to take back what they all did.
    fn is_undone(&self) -> bool {
        self.death == Death::OfOne && self.call.step.starts_with("sbx-") && !self.call.step.contains(" remove ")
    }
}

/// A verb, whose steps can be killed.
struct Verb<'a> {
    host: &'a Host,
    line: &'a str,
    /// How the steps begin that are killed.
    step: &'a str,
    /// Where the programs of the verb are, each with a shim in its place.
    installed: PathBuf,
    traces: PathBuf,
}

impl<'a> Verb<'a> {
    fn new(host: &'a Host, line: &'a str) -> Self {
        let [installed, traces] = ["tmp/installed", "tmp/traces"].map(|path| host.path(path));
        for dir in [&installed, &traces] {
            fs::create_dir_all(dir).expect("a directory");
        }
        let shim = |program: &str, real: &Path| {
            let file = installed.join(program);
            fs::write(&file, SHIM.replace("REAL", &real.display().to_string())).expect("a shim");
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("a mode");
        };
        for shared in ["common.sh", "lib.sh"] {
            fs::copy(scripts().join(shared), installed.join(shared)).expect("a script");
        }
        // Scripts take the tools that lie beside them.
        for script in SCRIPTS {
            let real = installed.join(format!("{script}.real"));
            fs::copy(scripts().join(script), &real).expect("a script");
            shim(script, &real);
        }
        let places = [binaries(), "/usr/sbin".into(), "/usr/bin".into()];
        for program in PROGRAMS {
            let real = places.iter().map(|place| place.join(program)).find(|path| path.exists()).expect(program);
            shim(program, &real);
        }
        Self { host, line, step: "", installed, traces }
    }

    fn run(&self, variables: &[(&str, &str)]) -> Outcome {
        // A process group that has a number inside, also for those that leave it.
        let line = format!("export VERB=$$; {}", self.line);
        let mut command = self.host.command(["setsid", "--wait", "bash", "-c", &line]);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.installed.display());
        command.env("PATH", path).envs(variables.iter().copied());
        run(command, "")
    }

    /// Runs it to its end; all of its calls that change something, the first one first.
    fn calls(&self) -> Vec<Call> {
        let names: Vec<_> = CHANGES.iter().map(|(name, _)| format!("?{name}")).collect();
        let traces = self.traces.display().to_string();
        self.run(&[("TRACES", &traces), ("CALLS", &names.join(","))]).ok();
        let files = fs::read_dir(&self.traces).expect("traces").flatten().map(|entry| entry.path());
        let mut calls: Vec<_> = files.flat_map(|file| changes(&fs::read_to_string(file).expect("a trace"))).collect();
        fs::remove_dir_all(&self.traces).expect("remove");
        fs::create_dir(&self.traces).expect("a directory");
        calls.retain(|call| call.step.starts_with(self.step));
        calls.sort_by(|a, b| a.time.cmp(&b.time));
        calls
    }

    fn kill(&self, Kill { call, death, .. }: &Kill) {
        let outcome = self.run(&[
            ("STEP", &call.step),
            ("CALL", &call.name),
            ("AT", call.path.as_deref().unwrap_or_default()),
            ("NUMBER", &call.number.to_string()),
            ("WATCH", death.watch()),
        ]);
        let died = if *death == Death::OfAll { outcome.code == 128 + 9 } else { outcome.code != 0 };
        assert!(died, "nothing was killed at call {} of {} of {}: {outcome}", call.number, call.name, call.step);
    }

    /// Kills it at its calls: by default at the first and the last of each name, with `SBX_LONG=1` at all. `prepare`
    /// makes what it works on, and `check` asserts that nothing is left, also of one that was not killed.
    fn kill_all(&self, prepare: impl Fn(), check: impl Fn(&str, Option<&Kill>)) {
        prepare();
        let calls = self.calls();
        check(self.line, None);
        let mut by_name = BTreeMap::<_, Vec<_>>::new();
        for call in &calls {
            by_name.entry(&call.name).or_default().push(call);
        }
        let mut kills = 0;
        for (name, calls) in by_name {
            let last = calls.len() - 1;
            let chosen = calls.iter().enumerate().filter(|(i, _)| is_long() || [0, last].contains(i));
            for (i, call) in chosen {
                for death in [Death::OfOne, Death::OfAll] {
                    let kill = Kill { call, death, is_first: i == 0 };
                    prepare();
                    self.kill(&kill);
                    let what = format!("{}: {death:?} at {name} {i} of {last}, of {}", self.line, call.step);
                    check(&what, Some(&kill));
                    kills += 1;
                }
            }
        }
        assert!(kills > 0, "{}: nothing to kill", self.line);
        if is_long() {
            let _ = writeln!(io::stderr(), "{}: {kills} kills", self.line);
        }
    }
}

/// Whether a test is to take its time.
pub fn is_long() -> bool {
    env::var("SBX_LONG").is_ok_and(|value| value == "1")
}

/// The calls of a trace that have changed something.
fn changes(trace: &str) -> Vec<Call> {
    let (step, trace) = trace.split_once('\0').expect("a step");
    let mut counts = BTreeMap::new();
    let call = |line: &str| {
        let (process, rest) = line.split_once(' ')?;
        let (time, call) = rest.trim_start().split_once(' ')?;
        let (name, arguments) = call.split_once('(')?;
        let (_, words) = CHANGES.iter().find(|(known, _)| *known == name)?;
        let path = (*words == CREATES).then(|| arguments.split('"').nth(1)).flatten().map(str::to_owned);
        let count = counts.entry((process.to_owned(), name.to_owned(), path.clone())).or_insert(0);
        *count += 1;
        let changes = words.is_empty() || words.iter().any(|word| arguments.contains(word));
        (changes && ![" = -1 E", "</dev/null>"].iter().any(|word| arguments.contains(word))).then(|| Call {
            time: time.to_owned(),
            step: step.to_owned(),
            name: name.to_owned(),
            path,
            number: *count,
        })
    };
    trace.lines().filter_map(call).collect()
}

/// All that is in the store, with what it says.
fn store(host: &Host) -> String {
    let script =
        "cd $0 && find config units state ! -type d -printf '%p %y %m %U %G %l\\n' -o -printf '%p %m\\n' | sort
        find config units state -type f ! -name '*.img' -print0 | sort -z | xargs -0r cksum";
    host.run(["bash", "-c", script, &host.path("").display().to_string()], "").ok().text()
}

/// What of the kernel's network is set, beside links.
fn network(host: &Host) -> String {
    host.bash("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/*/forwarding; nft list ruleset").ok().text()
}

/// Deletes `name`, of which there may be nothing.
fn delete(host: &Host, name: &str) {
    let deleted = host.service(&format!("delete {name}"));
    if deleted.code != 0 {
        deleted.assert_failure(1, "virt-sandbox-service", &[&format!("no container {name}")]);
    }
}

/// Kills a verb that makes `name`, or deletes it, and asserts each time that a delete leaves all as it was.
fn kill_and_delete(host: &Host, name: &str, prepare: impl Fn(), line: &str) {
    let verb = Verb::new(host, line);
    let (before, kept) = (host.snapshot(), store(host));
    verb.kill_all(prepare, |what, kill| {
        if kill.is_some_and(|kill| !kill.is_first && kill.death == Death::OfAll) {
            // What is left does not hinder the next.
            let again = host.service(&format!("create {name} -- /bin/sleep 1000"));
            assert!(again.code == 0 || again.stderr.contains("exists"), "{what}: {again}");
        }
        if !kill.is_some_and(Kill::is_undone) {
            delete(host, name);
        }
        host.assert_as(&before, what);
        assert_eq!(store(host), kept, "{what}");
        // Once of each name.
        if kill.is_none_or(|kill| kill.is_first && kill.death == Death::OfAll) {
            host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
            host.service(&format!("delete {name}")).ok();
        }
    });
}

/// Whether strace is there.
pub fn can_trace() -> bool {
    let can = Path::new("/usr/bin/strace").exists();
    if !can {
        skip("strace is not installed");
    }
    can
}

fn kill_creates(options: &str) {
    if can_trace() {
        let host = Host::small();
        let name = host.name("x");
        let line = format!("virt-sandbox-service create {options} {name} -- /bin/sleep 1000");
        kill_and_delete(&host, &name, || (), &line);
    }
}

#[test]
fn a_create_that_is_killed_at_any_kind_of_call_is_found_by_delete() {
    kill_creates("--userns auto");
}

#[test]
fn a_create_of_an_image_that_is_killed_at_any_kind_of_call_is_found_by_delete() {
    kill_creates("--store image:24M");
}

#[test]
fn a_create_of_an_overlay_that_is_killed_at_any_kind_of_call_is_found_by_delete() {
    kill_creates("--store overlay");
}

#[test]
fn an_import_that_is_killed_at_any_kind_of_call_is_found_by_delete() {
    if can_trace() {
        let host = Host::small();
        let [origin, name] = ["a", "x"].map(|name| host.name(name));
        let archive = host.path("tmp/archive").display().to_string();
        host.service(&format!("create {origin} -- /bin/sleep 1000")).ok();
        host.bash(&format!("virt-sandbox-service export {origin} >{archive}")).ok();
        let line = format!("virt-sandbox-service import {name} <{archive}");
        kill_and_delete(&host, &name, || (), &line);
    }
}

#[test]
fn a_clone_that_is_killed_at_any_kind_of_call_is_found_by_delete_and_its_source_is_whole() {
    if can_trace() {
        let host = Host::small();
        let [source, name] = ["a", "x"].map(|name| host.name(name));
        host.service(&format!("create --userns auto {source} -- /bin/sleep 1000")).ok();
        kill_and_delete(&host, &name, || (), &format!("virt-sandbox-service clone {source} {name}"));
    }
}

#[test]
fn a_delete_that_is_killed_at_any_kind_of_call_is_done_by_the_next_one() {
    for options in ["--userns auto", "--store image:24M", "--store overlay"] {
        if can_trace() {
            let host = Host::small();
            let name = host.name("x");
            let create = || drop(host.service(&format!("create {options} {name} -- /bin/sleep 1000")).ok());
            kill_and_delete(&host, &name, create, &format!("virt-sandbox-service delete {name}"));
        }
    }
}

/// Kills a verb of the life of `name`, which `prepare` has made, and asserts each time that it can be deleted.
fn kill_and_end(host: &Host, name: &str, prepare: impl Fn(), verb: &Verb) {
    let (before, kept) = (host.snapshot(), (store(host), network(host)));
    verb.kill_all(prepare, |what, kill| {
        if kill.is_some_and(|kill| !kill.is_first && kill.death == Death::OfAll) {
            host.service(&format!("start {name}")).ok();
            host.inside(name, "true").ok();
        }
        let deleted = host.service(&format!("delete {name}"));
        if deleted.code != 0 {
            deleted.assert_failure(1, "virt-sandbox-service", &[&format!("container {name} is running")]);
            host.service(&format!("stop {name}")).ok();
            host.service(&format!("delete {name}")).ok();
        }
        host.assert_as(&before, what);
        let again = host.service(&format!("delete {name}"));
        again.assert_failure(1, "virt-sandbox-service", &[&format!("no container {name}")]);
        host.assert_as(&before, what);
        assert_eq!((store(host), network(host)), kept, "{what}");
    });
}

#[test]
fn a_start_that_is_killed_at_any_kind_of_call_is_ended_by_delete() {
    let stores = ["directory", "image:24M", "overlay"];
    for store in &stores[..if is_long() { stores.len() } else { 1 }] {
        if can_trace() {
            let host = Host::small();
            let name = host.name("x");
            let create = || drop(host.service(&format!("create --store {store} {name} -- /bin/sleep 1000")).ok());
            kill_and_end(&host, &name, create, &Verb::new(&host, &format!("virt-sandbox-service start {name}")));
        }
    }
}

#[test]
fn a_network_that_is_killed_at_any_kind_of_call_is_ended_by_delete() {
    if can_trace() {
        let host = Host::small();
        let name = host.name("x");
        let create = || {
            host.service(&format!("create -N dhcp --publish 8080:80 {name} -- /bin/sleep 1000")).ok();
        };
        let line = format!("virt-sandbox-service start {name} && virt-sandbox-service stop {name}");
        kill_and_end(&host, &name, create, &Verb { step: "sbx-net ", ..Verb::new(&host, &line) });
    }
}

#[test]
fn a_boot_of_units_that_is_killed_at_any_kind_of_call_is_ended_by_delete() {
    if can_trace() {
        let host = Host::small();
        let name = host.name("x");
        host.unit("idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
        let line = format!("virt-sandbox-service start {name}");
        let create = || drop(host.service(&format!("create -u idle {name}")).ok());
        kill_and_end(&host, &name, create, &Verb { step: "sbx-exec boot ", ..Verb::new(&host, &line) });
    }
}

#[test]
fn a_stop_that_is_killed_at_any_kind_of_call_is_ended_by_delete() {
    if can_trace() {
        let host = Host::small();
        let name = host.name("x");
        let start = || {
            host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
            host.service(&format!("start {name}")).ok();
        };
        kill_and_end(&host, &name, start, &Verb::new(&host, &format!("virt-sandbox-service stop {name}")));
    }
}

#[test]
fn an_execute_that_is_killed_at_any_kind_of_call_leaves_the_container_as_it_was() {
    if can_trace() {
        let host = Host::small();
        let name = host.running("x", "");
        let line = format!("virt-sandbox-service execute {name} -- true");
        let (verb, before) = (Verb::new(&host, &line), host.snapshot());
        verb.kill_all(
            || (),
            |what, _| {
                host.assert_as(&before, what);
                host.bash(&line).ok();
            },
        );
    }
}

#[test]
fn a_set_that_is_killed_at_any_kind_of_call_is_done_by_the_next_one() {
    if can_trace() {
        let host = Host::small();
        let name = host.running("x", "");
        let [other, set] = [96, 64].map(|n| format!("virt-sandbox-service set --memory {n}M --pids {n} {name}"));
        host.bash(&set).ok();
        let limits = || {
            let shown = host.line(&format!("sbx-cg show {name}")).ok().json();
            ["memory", "pids"].map(|kind| shown[kind]["limit"].to_string())
        };
        let look = || (store(&host), limits());
        // The other steps are an upgrade's too.
        let step = if is_long() { "" } else { "sbx-cg update" };
        let (verb, kept) = (Verb { step, ..Verb::new(&host, &set) }, look());
        verb.kill_all(
            || drop(host.bash(&other).ok()),
            |what, _| {
                host.bash(&set).ok();
                assert_eq!(look(), kept, "{what}");
            },
        );
    }
}

/// A container that there is something to upgrade of: its host has files and a unit that have changed since, of which
/// some were edited inside.
fn outdated(host: &Host) -> String {
    let name = host.name("x");
    let unit = "[Service]\nExecStart=/bin/sleep infinity\n";
    host.bash("cd /etc/d && mkdir old.d && touch edited updated mode gone old.d/gone").ok();
    host.unit("idle.service", unit);
    host.service(&format!("create -u idle {name}")).ok();
    host.bash(&format!("cd {}/etc/d && echo mine | tee edited >taken", host.tree(&name).display())).ok();
    let change = "cd /etc/d && echo 2 | tee edited >updated && chmod 0600 mode && echo theirs >taken
        rm -r gone old.d && mkdir new.d && cd new.d && ln -s new link
        head -c 100000 /dev/urandom >new && setfattr -n user.x -v z new";
    host.bash(change).ok();
    host.unit("idle.service", &format!("{unit}PrivateTmp=yes\n"));
    name
}

#[test]
fn an_upgrade_that_is_killed_at_any_kind_of_call_is_done_by_the_next_one() {
    if !can_trace() {
        return;
    }
    let host = Host::small();
    let name = outdated(&host);
    let upgrade = format!("upgrade {name}");
    let line = format!("virt-sandbox-service {upgrade}");
    let (verb, kept) = (Verb::new(&host, &line), Kept::of(&host));
    let before = host.snapshot();
    host.service(&upgrade).ok();
    let (upgraded, diff) = (store(&host), host.service(&format!("diff {name}")).ok().text());
    kept.restore();
    verb.kill_all(
        || (),
        |what, _| {
            host.service(&upgrade).ok();
            assert_eq!(store(&host), upgraded, "{what}");
            assert_eq!(host.service(&format!("diff {name}")).ok().text(), diff, "{what}");
            kept.restore();
            host.assert_as(&before, what);
        },
    );
}

/// The store of a host as it was once.
struct Kept<'a>(&'a Host);

impl<'a> Kept<'a> {
    fn of(host: &'a Host) -> Self {
        host.bash("mkdir kept && cp -a ../config ../units ../state ../journal kept").ok();
        Self(host)
    }

    fn restore(&self) {
        let script = "for dir in config units state journal; do
            find ../$dir -mindepth 1 -delete && cp -a kept/$dir/. ../$dir || exit; done";
        self.0.bash(script).ok();
    }
}

/// Runs a verb on disks of sizes that are all too small. `undo` takes back what it does when it succeeds, and
/// `check` asserts what is left when it has failed.
fn fill_disks(host: &Host, line: &str, undo: impl Fn(), check: impl Fn(&str)) {
    let blocks =
        || -> u64 { host.bash("stat -f -c '%b - %f' disk | xargs expr || :").ok().text().parse().expect("blocks") };
    let resize = |size: u64| drop(host.bash(&format!("mount -o remount,size={}k disk", 4 * size)).ok());
    let before = blocks();
    host.bash(line).ok();
    let needed = blocks() - before;
    undo();
    assert!(needed >= 20, "{line} needs only {needed} blocks");
    // At last block by block, up to what it needs while it runs.
    let sizes = (0..8).map(|eighth| needed * eighth / 8).chain(needed - 3..);
    for (count, enough) in sizes.enumerate() {
        // Of no size would be of any.
        resize((before + enough).max(1));
        let outcome = host.bash(line);
        resize(LARGE);
        if outcome.code == 0 && count > 10 {
            return undo();
        }
        assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{outcome}");
        check(&format!("{line} with {enough} blocks: {}", outcome.stderr));
    }
}

/// The size of a disk, in blocks of 4 KiB, that holds all that is tried on it.
const LARGE: u64 = 10_000;

/// A host whose definitions, trees and units lie on one disk of a size of its own.
fn on_a_disk() -> Host {
    let host = Host::small();
    let script = format!(
        "mkdir disk && mount -t tmpfs -o mode=755,size={}k disk disk
         for dir in config units state; do cp -a ../$dir disk && mount --bind disk/$dir ../$dir || exit; done",
        4 * LARGE
    );
    host.bash(&script).ok();
    host
}

/// Fills disks with a verb that makes `name`, and asserts each time that nothing is left.
fn fill_and_find_nothing(host: &Host, name: &str, line: &str) {
    let (before, kept) = (host.snapshot(), store(host));
    let check = |what: &str| {
        assert_eq!(store(host), kept, "{what}");
        host.assert_as(&before, what);
    };
    fill_disks(host, line, || drop(host.service(&format!("delete {name}")).ok()), check);
}

#[test]
fn a_create_a_clone_or_an_import_that_fills_the_disk_says_so_and_leaves_nothing() {
    let host = on_a_disk();
    let [source, name] = ["a", "x"].map(|name| host.name(name));
    let service = "virt-sandbox-service";
    host.bash("head -c 100000 /dev/urandom >/etc/d/large").ok();
    fill_and_find_nothing(&host, &name, &format!("{service} create {name} -- /bin/sleep 1000"));
    host.service(&format!("create {source} -- /bin/sleep 1000")).ok();
    fill_and_find_nothing(&host, &name, &format!("{service} clone {source} {name}"));
    host.bash(&format!("{service} export {source} >archive")).ok();
    fill_and_find_nothing(&host, &name, &format!("{service} import {name} <archive"));
}

#[test]
fn an_upgrade_that_fills_the_disk_says_so_and_is_done_once_there_is_space() {
    let host = on_a_disk();
    let name = outdated(&host);
    let kept = Kept::of(&host);
    let upgrade = format!("upgrade {name}");
    host.service(&upgrade).ok();
    let upgraded = store(&host);
    kept.restore();
    let before = host.snapshot();
    let check = |what: &str| {
        host.service(&upgrade).ok();
        assert_eq!(store(&host), upgraded, "{what}");
        kept.restore();
        host.assert_as(&before, what);
    };
    fill_disks(&host, &format!("virt-sandbox-service {upgrade}"), || kept.restore(), check);
}

#[test]
fn a_definition_that_does_not_fit_on_its_disk_does_not_take_the_place_of_what_there_is() {
    let host = Host::small();
    let name = host.name("x");
    host.bash("mount -t tmpfs -o mode=700,size=64k config ../config").ok();
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    host.bash("head -c 100000 /dev/zero >../config/fill").assert_code(1);
    let (before, kept) = (host.snapshot(), store(&host));
    for verb in ["upgrade", "set --memory 64M"] {
        let failed = host.service(&format!("{verb} {name}"));
        failed.assert_failure(1, "virt-sandbox-service", &[&name, "No space left on device"]);
        assert_eq!(store(&host), kept, "{verb}");
        host.assert_as(&before, verb);
    }
    host.service(&format!("delete {name}")).ok();
}
