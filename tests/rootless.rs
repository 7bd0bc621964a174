//! virt-sandbox for an ordinary user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use support::{Host, Outcome, binaries, scripts};

/// A host of which `alice` is a user. What she runs is where she can reach it, and nothing is set aside for her.
pub struct Users(pub Host);

/// How something is run as her.
pub const AS_ALICE: [&str; 11] = [
    "setpriv",
    "--reuid=alice",
    "--regid=alice",
    "--init-groups",
    "env",
    "--ignore-environment",
    "--chdir=/home/alice",
    "HOME=/home/alice",
    "PATH=/home/sbx/scripts:/home/sbx/target/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM=xterm",
    "XDG_RUNTIME_DIR=/home/alice/run",
];

impl Users {
    pub fn new() -> Self {
        let host = Host::new().with_own(&["etc"]);
        let make = "mount -t tmpfs tmpfs /home && mkdir -p /home/sbx/scripts /home/sbx/target/bin &&
            mount --bind $0 /home/sbx/scripts && mount --bind $1 /home/sbx/target/bin &&
            : >/etc/subuid && : >/etc/subgid && useradd --create-home --key SUB_UID_COUNT=0 --key SUB_GID_COUNT=0 alice &&
            useradd bob && mkdir -m 700 /home/alice/run /home/alice/.ssh && echo key >/home/alice/.ssh/id &&
            chown -R alice: /home/alice && ! grep alice /etc/subuid";
        let [scripts, binaries] = [scripts(), binaries()].map(|path| path.display().to_string());
        host.run(["bash", "-c", make, &scripts, &binaries], "").ok();
        Self(host)
    }

    /// Runs a script as alice.
    fn alice(&self, script: &str) -> Outcome {
        self.0.run(AS_ALICE.iter().chain(&["bash", "-c", script]), "")
    }

    /// Runs a script in a sandbox of hers.
    fn inside(&self, options: &str, script: &str) -> Outcome {
        let sandbox =
            ["virt-sandbox"].into_iter().chain(options.split_whitespace()).chain(["--", "bash", "-c", script]);
        self.0.run(AS_ALICE.into_iter().chain(sandbox), "")
    }

    /// Asserts that nothing of hers is left but the directories of her store.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let left = "for i in {1..100}; do
            left=$(pgrep -u alice; find ~/run -mindepth 1 ! -path '*/sbx' ! -path '*/run' ! -path '*/claims*' ! -name state)
            [ \"$left\" ] || exit 0; sleep 0.05; done; echo \"$left\"; ps -fu alice; exit 1";
        self.0.run(["env", "HOME=/home/alice", "bash", "-c", left], "").ok();
    }
}

#[test]
fn an_ordinary_user_is_himself_inside_and_confined() {
    let users = Users::new();
    let who = users.0.line("id -u alice").ok().text();
    let id = format!("uid={who}(alice) gid={who}(alice) groups={who}(alice)");
    assert_eq!(users.alice("virt-sandbox -- id").ok().text(), id);
    let shown = "grep -h '^Cap\\|NoNewPrivs\\|Seccomp:\\|Groups' /proc/self/status; pwd; echo $HOME; ls /sys/class/net;
        cat /proc/self/uid_map /proc/self/setgroups";
    let shown = users.inside("", shown).ok().text();
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let none = "0000000000000000";
    let sets = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}: {none} ")).concat();
    assert_eq!(
        shown,
        format!("Groups: {who} {sets}NoNewPrivs: 1 Seccomp: 2 /home/alice /home/alice lo {who} {who} 1 deny")
    );
    let other = users.inside("-p", "id -u; cat /proc/self/uid_map; touch ~/x /tmp/x; ls ~");
    assert_eq!(other.ok().text().split_whitespace().collect::<Vec<_>>(), ["0", "0", &who, "1", "x"]);
    assert_eq!(users.alice("virt-sandbox -S nobody -- id -un").ok().text(), "nobody");
    users.alice("virt-sandbox --home ro -- cat .ssh/id").ok();
    users.assert_nothing_left();
}

#[test]
fn an_ordinary_user_compiles_and_serves_inside() {
    let users = Users::new();
    users.inside("", "cd && echo 'int main(void) { return 7; }' >a.c && cc -o a a.c && ./a").assert_code(7);
    let serve = "cd && echo page >index.html && python3 -m http.server --bind 127.0.0.1 8000 >log 2>&1 &
        for i in {1..100}; do curl -s http://127.0.0.1:8000/ && break; sleep 0.1; done; kill $!";
    assert_eq!(users.inside("", serve).ok().text(), "page");
    users.alice("mkdir project && virt-sandbox --bind project -- sh -c 'cd project && echo made >here'").ok();
    assert_eq!(users.alice("cat project/here").ok().text(), "made");
    users.assert_nothing_left();
}

#[test]
fn an_ordinary_users_sandbox_reaches_nothing_of_his() {
    let users = Users::new();
    let attempt = "cat /home/alice/.ssh/id; echo x >>/home/alice/.profile; touch /home/alice/new /usr/new /etc/new /x; cat /etc/shadow;
        kill -0 $(cat /proc/[0-9]*/status | sed -n 's/^Pid:\\t//p' | grep -vx \"1\\|$$\"); kill -9 -1;
        unshare -Ur true; mount -t tmpfs tmpfs /tmp; cat /proc/1/environ; ls /proc/1/root/ /proc/1/fd/";
    let script =
        format!("cd; sleep 1009 & virt-sandbox -- bash -c '{}'; kill $! && ls -A", attempt.replace('\'', "'\\''"));
    let outcome = users.alice(&script).ok();
    // Her processes, her files, are as they were.
    assert!(
        !outcome.text().contains("key") && !outcome.text().split_whitespace().any(|name| name == "new"),
        "{outcome}"
    );
    for refused in [
        ".ssh/id: No such file",
        "touch: cannot touch '/usr/new': Read-only",
        "touch: cannot touch '/etc/new': Read-only",
        "touch: cannot touch '/x': Read-only",
        "cat: /etc/shadow: Permission denied",
        "unshare: unshare failed: Operation not permitted",
        "mount: /tmp: must be superuser",
        "/proc/1/environ: Permission denied",
        "/proc/1/root/",
        "/proc/1/fd/",
    ] {
        assert!(outcome.stderr.contains(refused), "{refused}: {outcome}");
    }
    // What it could do without.
    assert_eq!(users.alice("cat .ssh/id").ok().text(), "key");
    // A program with the id of hers is not made for others.
    let outcome = users
        .alice("mkdir -m 777 s; virt-sandbox --bind s -- sh -c 'cp /usr/bin/id s; chmod 4755 s/id'")
        .assert_code(1);
    assert!(outcome.stderr.contains("Operation not permitted"), "{outcome}");
    assert_eq!(fs::metadata(users.0.root("/home/alice/s/id")).expect("a file").mode() & 0o6000, 0);
    users.alice("cd s && chmod 4755 id").ok();
    // Nor does one that is there give another's rights.
    let set_id = "cp /usr/bin/id /home/alice/s/roots && chmod 4755 /home/alice/s/roots";
    users.0.bash(set_id).ok();
    assert_ne!(users.alice("virt-sandbox --bind s -- s/roots -u").ok().text(), "0");
    assert_eq!(users.alice("s/roots -u").ok().text(), "0");
    users.assert_nothing_left();
}

#[test]
fn ids_that_are_set_aside_are_had_as_root_inside() {
    let users = Users::new();
    users.0.bash("for file in uid gid; do echo alice:700000:65536 >/etc/sub$file; done").ok();
    let maps = "tail -n +2 /proc/self/[ug]id_map | grep 700000 | wc -l; cat /proc/self/setgroups; touch /tmp/x; chown 33:33 /tmp/x;
        stat -c %u:%g /tmp/x; setpriv --reuid 33 --regid 33 --clear-groups id -un";
    let outcome = users.inside("-p", maps).ok();
    assert_eq!(outcome.text(), "2\nallow\n33:33\nwww-data");
    // Who is not to become another has no others.
    assert_eq!(users.alice("virt-sandbox -- wc -l /proc/self/uid_map").ok().text(), "1 /proc/self/uid_map");
    users.assert_nothing_left();
}

#[test]
fn an_ordinary_users_sandbox_ends_with_its_caller() {
    let users = Users::new();
    for hundredth in (1..40).step_by(3) {
        let line = format!("timeout -s KILL 0.{hundredth:02} virt-sandbox -- sleep 1000");
        assert_ne!(users.alice(&line).code, 0);
        users.assert_nothing_left();
    }
    users.alice("virt-sandbox -- sh -c 'sleep 1003 & exit 3'").assert_code(3);
    users.assert_nothing_left();
}

#[test]
fn what_only_root_can_give_an_ordinary_user_is_refused_by_name() {
    let users = Users::new();
    for (options, code, why) in [
        ("--net dhcp", 1, "--net dhcp: only root can have one"),
        ("--memory 64M", 1, "--memory: needs a service manager of the user's own"),
        ("-m host-image:/srv=/home/alice/.profile", 125, "cannot mount /home/alice/.profile"),
        ("--bind /home/bob", 125, "cannot mount /home/bob"),
    ] {
        let refused = users.alice(&format!("virt-sandbox {options} -- true")).assert_code(code);
        assert!(refused.stderr.contains(why), "{refused}");
    }
    let refused = users.alice("virt-sandbox-service list").assert_code(1);
    assert_eq!(refused.stderr, "virt-sandbox-service: must be root\n");
    // A store that is another's, or that another could change, is not hers.
    users.0.bash("mkdir -m 777 /home/bobs && chown bob: /home/bobs").ok();
    let refused = users.alice("XDG_RUNTIME_DIR=/home/bobs virt-sandbox -n box -- true").assert_code(125);
    assert!(refused.stderr.contains("others can change /home/bobs"), "{refused}");
    // Nor is one at a name that everybody knows.
    let ways = ["ln -s /home/alice $place", "mkdir $place && chown bob $place"];
    for way in ways {
        users.0.bash(&format!("place=/tmp/sbx-$(id -u alice); rm -rf $place; {way}")).ok();
        let refused = users.alice("unset XDG_RUNTIME_DIR; virt-sandbox -n box -- true").assert_code(1);
        assert!(refused.stderr.contains("is another's"), "{refused}");
    }
    assert_eq!(users.0.bash("ls /home/alice; rm -rf /tmp/sbx-$(id -u alice)").ok().text(), "run");
    users.assert_nothing_left();
}
