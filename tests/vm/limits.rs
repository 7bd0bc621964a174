//! Limits under systemd, on cgroup v2: what the kernel holds a container to while its neighbour is served.

use crate::{PATIENCE, property, until};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::Host;

const MIB: u64 = 1 << 20;

/// How long an attack lasts.
const ATTACK: Duration = Duration::from_secs(10);

/// A container with limits, and another that shares the machine with it.
struct Neighbours {
    host: Host,
    limited: String,
    other: String,
    /// The cgroup of the limited one's unit.
    cgroup: PathBuf,
}

impl Neighbours {
    const MEMORY: u64 = 192 * MIB;
    const PIDS: u64 = 120;
    const CPUS: f64 = 0.5;

    fn new() -> Self {
        let host = Host::machine();
        let [limited, other] = ["limited", "other"].map(|name| host.name(name));
        let limits = format!("--memory {} --pids {} --cpus {}", Self::MEMORY, Self::PIDS, Self::CPUS);
        host.service(&format!("create -C -u apache2.service {limits} {limited}")).ok();
        host.service(&format!("create -C -u apache2.service {other}")).ok();
        for name in [&limited, &other] {
            host.service(&format!("start {name}")).ok();
        }
        let cgroup = format!("/sys/fs/cgroup/system.slice/{limited}_sandbox.service").into();
        Self { host, limited, other, cgroup }
    }

    /// Has the limited one do something while the other one is asked for its page all the time, which answers. The
    /// attacker's services live on.
    fn attack<T>(&self, script: &str, during: impl FnOnce() -> T) -> T {
        let Self { host, limited, other, .. } = self;
        let holder = || host.run(["sbx-ns", "show", limited], "").ok().json()["sbx"]["state"]["holder"].clone();
        let init = holder();
        let enough = host.tree(other).join("root/enough");
        let execute = |name: &str, script: &str| {
            let mut command = host.command(["virt-sandbox-service", "execute", name, "--", "bash", "-c", script]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a command")
        };
        let client = execute(other, ASK);
        let mut attack = execute(limited, &format!("exec >/dev/null 2>&1; {script}"));
        let result = during();
        fs::write(&enough, "").expect("a file");
        let client = client.wait_with_output().expect("a client");
        fs::remove_file(enough).expect("a file");
        let answers = String::from_utf8_lossy(&client.stdout);
        let slowest = answers.lines().filter_map(|line| line.parse::<u64>().ok()).max();
        assert!(client.status.success() && slowest.is_some_and(|ms| ms < 5000), "{script}: {client:?}");
        // What an executed command does can be ended by itself, even when no other could be executed.
        fs::write(self.cgroup.join("exec/cgroup.kill"), "1").expect("to kill");
        attack.wait().expect("an attack");
        assert_eq!(holder(), init, "{script}");
        host.inside(limited, "systemctl is-active apache2").ok();
        result
    }

    /// A number in a file of the limited one's cgroup: on the line of a key, or the only one.
    fn number(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(self.cgroup.join(file)).expect(file);
        let number = text.lines().find_map(|line| line.strip_prefix(key));
        number.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("{file} {key}: {text}"))
    }

    /// Waits until an attack has met its limit, and has tried on for a while.
    fn await_limit(&self, is_met: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_met() {
            assert!(Instant::now() < deadline, "the limit was not met");
            sleep(Duration::from_millis(500));
        }
        sleep(ATTACK / 2);
    }

    fn forks(&self) {
        let is_met = || self.number("pids.events", "max ") > 0;
        self.attack("bomb() { bomb | bomb & }; bomb; sleep 1000", || self.await_limit(is_met));
        assert_reached(self.number("pids.peak", ""), Self::PIDS);
    }

    fn computes(&self) {
        let used = || self.number("cpu.stat", "usage_usec ");
        let share = self.attack("for i in 1 2 3 4; do while :; do :; done & done; wait", || {
            // Once all of them do.
            sleep(ATTACK / 2);
            let (start, before) = (Instant::now(), used());
            sleep(ATTACK);
            (used() - before) as f64 / start.elapsed().as_micros() as f64
        });
        assert!((share / Self::CPUS - 1.0).abs() < 0.1, "{share} processors");
    }

    /// What lies in memory file systems is at most half of what the container may have.
    fn fills_file_systems(&self) {
        let places = "/tmp /run /run/lock /dev/shm /dev";
        let full = self.host.tree(&self.limited).join("root/full");
        let script = format!("for d in {places}; do cat /dev/zero >$d/hog; done; touch /root/full; sleep 1000");
        self.attack(&script, || self.await_limit(|| full.exists()));
        let held = self.host.inside(&self.limited, &format!("df -B1 --output=used {places} | tail -n +2")).ok().text();
        let held: u64 = held.split_whitespace().map(|used| used.parse::<u64>().expect("a number")).sum();
        assert_reached(held, Self::MEMORY / 2);
        assert_eq!(self.number("memory.events", "oom_kill "), 0);
        self.host.inside(&self.limited, "rm /tmp/hog /run/hog /run/lock/hog /dev/shm/hog /dev/hog").ok();
    }

    fn takes_memory(&self) {
        let is_met = || self.number("memory.events", "oom_kill ") > 0;
        self.attack("tail /dev/zero; sleep 1000", || self.await_limit(is_met));
        assert_reached(self.number("memory.peak", ""), Self::MEMORY);
    }
}

/// Asks for the page until it is enough: how long each answer took, in milliseconds.
const ASK: &str = r"until [ -e /root/enough ]; do
    start=${EPOCHREALTIME/./}
    exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && grep -q '200 OK' <&3 || exit
    echo $(((${EPOCHREALTIME/./} - start) / 1000))
    sleep 0.1
done";

/// A limit is reached when what was used is at most a tenth below it, and not above.
#[track_caller]
fn assert_reached(used: u64, limit: u64) {
    assert!(used <= limit && used >= limit / 10 * 9, "{used} of {limit}");
}

#[test]
fn whatever_one_container_takes_ends_at_its_limit_and_its_neighbour_is_served() {
    let neighbours = Neighbours::new();
    neighbours.computes();
    neighbours.forks();
    neighbours.fills_file_systems();
    neighbours.takes_memory();
}

#[test]
fn limits_are_those_of_the_unit_and_its_cgroup_is_frozen_thawed_and_killed() {
    let host = Host::machine();
    let before = host.snapshot();
    let name = host.name("a");
    let unit = format!("{name}_sandbox.service");
    host.service(&format!("create -u cron --memory 256M --cpus 0.5 --pids 200 --io-weight 50 {name}")).ok();
    host.service(&format!("start {name}")).ok();
    let shown = || host.line(&format!("sbx-cg show {name}")).ok().json();
    let assert_limits = |memory: u64, pids: u64, cpus: f64, weight: u64| {
        let shown = shown();
        let limits = ["memory", "pids", "cpu"].map(|kind| &shown[kind]["limit"]);
        assert_eq!((limits, &shown["io"]["weight"]), ([&json!(memory), &json!(pids), &json!(cpus)], &json!(weight)));
        // systemd knows of them too.
        let known = ["MemoryMax", "TasksMax", "IOWeight"].map(|limit| property(&host, &unit, limit));
        assert_eq!(known, [memory, pids, weight].map(|limit| limit.to_string()));
    };
    assert_limits(256 * MIB, 200, 0.5, 50);
    host.service(&format!("set --memory 200M --cpus 1.5 --pids 150 --io-weight 70 {name}")).ok();
    assert_limits(200 * MIB, 150, 1.5, 70);
    host.service(&format!("set --memory 4M {name}")).assert_failure(1, "sbx-fs", &["too small"]);
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("start {name}")).ok();
    assert_limits(200 * MIB, 150, 1.5, 70);

    for (verb, frozen) in [("freeze", true), ("thaw", false)] {
        host.line(&format!("sbx-cg {verb} {name}")).ok();
        assert_eq!(shown()["frozen"], frozen);
    }
    host.inside(&name, "systemctl is-active cron").ok();
    host.line(&format!("sbx-cg kill {name}")).ok();
    until(&host, &format!("[ \"$(systemctl show -P NRestarts -P ActiveState {unit} | paste -s)\" = $'1\\tactive' ]"));
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn limits_of_a_container_that_ends_with_a_pipe_hold_it_and_end_with_it() {
    let host = Host::machine();
    let (before, name) = (host.snapshot(), host.name("w"));
    let script = format!(
        "mkfifo pipe && exec 4<>pipe 3<pipe && rm pipe
            sbx-cg create --name {name} --memory 64M --pids 20 --while 3 | sbx-ns create --while 3 --unlisted >doc
            cd /sys/fs/cgroup/sbx/{name} && cat memory.max pids.max && ls -d */ && wc -l <payload/cgroup.procs; cd ~-
            jq -r '.sbx.state.holder.pid' doc | diff - /sys/fs/cgroup/sbx/{name}/payload/cgroup.procs; rm doc
            exec 4>&-; for n in {{1..500}}; do [ -e /sys/fs/cgroup/sbx/{name} ] || break; sleep 0.01; done"
    );
    assert_eq!(host.bash(&script).ok().text(), "67108864\n20\npayload/\n1");
    host.assert_as(&before, "the pipe");
}
