//! What the tests share: a host of its own for each test, the tools and scripts that run on it, and what they leave.

pub mod lives;
pub mod networks;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, mkdtemp};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

/// How long one command may take. One that hangs, or that leaves a process holding its stdout, is a failure.
const PATIENCE: Duration = Duration::from_secs(150);

/// How long what ends may take to be gone: a killed process leaves its cgroup and its parent a moment later.
const SETTLING: Duration = Duration::from_secs(5);

/// Directories of the store, which the first container of a host makes and none removes.
const STORE: [&str; 10] = [
    "config",
    "units",
    "journal",
    "bin",
    "runtime",
    "state/containers",
    "state/claims/mcs",
    "state/claims/ids",
    "state/claims/addresses",
    "tmp",
];

/// One test's host: mounts, processes, links, /run and a store that are its own, or a whole machine. What the former
/// shares with the machine are the files of its root and the control groups, where a prefix tells its containers from
/// others'. Its store lies below TMPDIR: the suite makes hundreds of trees, and is quick where that is a tmpfs.
#[derive(Debug)]
pub struct Host {
    /// Its PID 1, which reaps orphans until its stdin closes. The machine's is not ours.
    init: Option<Child>,
    pid: u32,
    dir: PathBuf,
    prefix: String,
    /// Whose the users of its containers are, where a test asks for nothing: the default if it is none.
    users: Option<String>,
}

impl Host {
    /// The virtual machine itself, with what `scripts/install` has installed there. One test at a time.
    pub fn machine() -> Self {
        assert_eq!(env::var("SBX_MACHINE").as_deref(), Ok("1"), "not a machine to try things on: run scripts/test");
        let dir = mkdtemp(&env::temp_dir().join("sbx-XXXXXX")).expect("a temporary directory");
        fs::create_dir(dir.join("tmp")).expect("a directory");
        // Here too the first container makes directories that none removes.
        let claims = ["mcs", "ids", "addresses"].map(|kind| format!("/var/lib/sbx/claims/{kind}"));
        for part in
            ["/etc/sbx", "/run/sbx", "/var/lib/sbx/containers"].into_iter().chain(claims.iter().map(String::as_str))
        {
            DirBuilder::new().recursive(true).mode(0o700).create(part).expect("a directory of the store");
        }
        Self { init: None, pid: 1, dir, prefix: "vm".to_owned(), users: users() }
    }

    /// A new one in namespaces of its own.
    #[expect(clippy::new_without_default, reason = "makes processes and mounts")]
    pub fn new() -> Self {
        guard();
        let dir = mkdtemp(&env::temp_dir().join("sbx-XXXXXX")).expect("a temporary directory");
        for part in STORE {
            fs::create_dir_all(dir.join(part)).expect("a directory of the store");
        }
        let suffix = dir.to_string_lossy().chars().rev().take(6).collect::<String>();
        let mut init = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--ipc", "--uts", "--net", "--", "bash", "-c"])
            .arg("mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/systemd/system && echo && read -r")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        init.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("a host");
        let children = format!("/proc/{0}/task/{0}/children", init.id());
        let pid = fs::read_to_string(children).expect("children").trim().parse().expect("one child");
        Self { init: Some(init), pid, dir, prefix: format!("t{suffix}"), users: users() }
    }

    /// Directories of its root become its own, over the machine's: what is changed in them goes with it.
    pub fn with_own(self, directories: &[&str]) -> Self {
        let script = "mkdir $0/over && mount -t tmpfs tmpfs $0/over && for d; do
            mkdir $0/over/$d $0/over/$d.work &&
            mount -t overlay overlay -o lowerdir=/$d,upperdir=$0/over/$d,workdir=$0/over/$d.work /$d || exit; done";
        let place = self.path("tmp").display().to_string();
        self.run(["bash", "-c", script, &place].iter().chain(directories), "").ok();
        self
    }

    /// A new one with a small /etc of its own, so that a container is soon made.
    pub fn small() -> Self {
        let host = Self::new().with_own(&["etc"]);
        let needed = "! -name passwd ! -name group ! -name ld.so.cache ! -name mke2fs.conf ! -name nsswitch.conf";
        host.bash(&format!("find /etc -mindepth 1 -maxdepth 1 {needed} -exec rm -r -- {{}} +")).ok();
        host.bash("cd /etc && mkdir d && echo x >d/file && ln -s file d/link && setfattr -n user.x -v y d/file").ok();
        host
    }

    /// A path of its root, as this process reaches it.
    pub fn root(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.pid).into()
    }

    /// A container's name that no other test has.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// A path in this test's directory: `config`, `state`, `runtime`, `units`, `tmp`; `bin` comes first in PATH.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// A container's private tree.
    pub fn tree(&self, name: &str) -> PathBuf {
        let state = if self.init.is_some() { self.path("state") } else { "/var/lib/sbx".into() };
        state.join("containers").join(name).join("root")
    }

    /// A command on this host, in a clean environment, a process group of its own, and a directory that no container
    /// must see.
    pub fn command<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Command {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut command = Command::new("env");
        command.env_clear().env("PATH", path);
        if self.init.is_some() {
            let first = [self.path("bin"), binaries(), scripts()].map(|dir| dir.display().to_string()).join(":");
            command = Command::new("nsenter");
            command
                .args(["--target", &self.pid.to_string(), "--mount", "--pid", "--ipc", "--uts", "--net", "--", "env"])
                .env_clear()
                .env("PATH", format!("{first}:{path}"))
                .env("SBX_CONFIG_DIR", self.path("config"))
                .env("SBX_STATE_DIR", self.path("state"))
                .env("SBX_RUNTIME_DIR", self.path("runtime"))
                .env("SBX_UNIT_DIR", self.path("units"))
                .env("SBX_JOURNAL_DIR", self.path("journal"));
        }
        command.arg("--chdir").arg(self.path("tmp")).args(argv);
        command.env("LC_ALL", "C").env("HOME", "/root").process_group(0);
        command
    }

    /// Runs a program with `stdin`, to its end.
    pub fn run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>, stdin: impl Into<Vec<u8>>) -> Outcome {
        run(self.command(argv), stdin)
    }

    /// Runs a line of words, without a shell.
    pub fn line(&self, line: &str) -> Outcome {
        self.run(line.split_whitespace(), "")
    }

    /// Runs a script, as an administrator would type it.
    pub fn bash(&self, script: &str) -> Outcome {
        self.run(["bash", "-c", script], "")
    }

    /// Adds a unit to this host, which no package owns.
    pub fn unit(&self, name: &str, text: &str) {
        fs::write(self.root("/run/systemd/system").join(name), text).expect("a unit");
    }

    /// Has sshfs(1) reach any other host at once: it has the files of this one. False if that cannot be had here.
    pub fn has_storage(&self) -> bool {
        let server = "/usr/lib/openssh/sftp-server";
        if !installed(&["/dev/fuse", "/usr/bin/sshfs", server]) {
            return false;
        }
        let ssh = self.path("bin/ssh");
        fs::write(&ssh, format!("#!/bin/sh\nexec {server}\n")).expect("a program");
        fs::set_permissions(ssh, PermissionsExt::from_mode(0o755)).expect("a mode");
        true
    }

    /// `virt-sandbox-service`, with a line of words.
    pub fn service(&self, line: &str) -> Outcome {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let users = self.users.as_deref().filter(|_| verb == "create" && !rest.contains("--userns"));
        let users = users.into_iter().flat_map(|users| ["--userns", users]);
        let words = ["virt-sandbox-service", verb].into_iter().chain(users).chain(rest.split_whitespace());
        self.run(words, "")
    }

    /// A running container of one command, made with these options of create: its name.
    pub fn running(&self, name: &str, options: &str) -> String {
        let name = self.name(name);
        self.service(&format!("create {options} {name} -- /bin/sleep 1000")).ok();
        self.service(&format!("start {name}")).ok();
        name
    }

    /// The pid of a running container's holder: one that may be signalled.
    pub fn holder(&self, name: &str) -> String {
        let pid = self.run(["sbx-ns", "show", name], "").ok().json()["sbx"]["state"]["holder"]["pid"].as_i64();
        pid.filter(|pid| *pid > 1).expect("a holder").to_string()
    }

    /// The file of a container's definition.
    pub fn definition(&self, name: &str) -> PathBuf {
        self.path("config").join(format!("{name}.json"))
    }

    /// What a container's definition says.
    pub fn defined(&self, name: &str) -> Value {
        let text = fs::read(self.definition(name)).expect("a definition");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// Changes a container's definition by a filter of jq's.
    pub fn edit(&self, name: &str, filter: &str) {
        let file = self.definition(name).display().to_string();
        self.run(["bash", "-c", "jq -c \"$1\" \"$2\" >new && cat new >\"$2\" && rm new", "edit", filter, &file], "")
            .ok();
    }

    /// A script inside a running container.
    pub fn inside(&self, name: &str, script: &str) -> Outcome {
        self.run(["virt-sandbox-service", "execute", name, "--", "bash", "-c", script], "")
    }

    /// All that is on this host and could be left behind, one thing a line.
    pub fn snapshot(&self) -> BTreeSet<String> {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        // A machine has processes of its own that come and go: those in other PID namespaces are containers'.
        let own = fs::read_link("/proc/self/ns/pid").ok();
        let mut things = BTreeSet::new();
        for mount in read(format!("/proc/{}/mountinfo", self.pid)).lines() {
            things.insert(format!("mount {mount}"));
        }
        for link in read(format!("/proc/{}/net/dev", self.pid)).lines().skip(2) {
            things.insert(format!("link {}", link.split(':').next().unwrap_or_default().trim()));
        }
        for block in entries(Path::new("/sys/block")) {
            let file = read(block.join("loop/backing_file"));
            if [self.dir.as_path(), Path::new("/var/lib/sbx")].iter().any(|ours| Path::new(&file).starts_with(ours)) {
                things.insert(format!("loop {} {}", block.display(), file.trim_end()));
            }
        }
        for process in entries(&root.join("proc")) {
            let pid = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // One that ends while it is looked at is gone.
            if pid.bytes().all(|b| b.is_ascii_digit())
                && pid != "1"
                && (self.init.is_some() || fs::read_link(process.join("ns/pid")).is_ok_and(|ns| Some(ns) != own))
                && let Ok(comm) = fs::read_to_string(process.join("comm"))
            {
                things.insert(format!("process {pid} {}", comm.trim_end()));
            }
        }
        for cgroup in self.cgroups() {
            walk(&cgroup, &mut |path, meta| {
                if meta.is_dir() {
                    things.insert(format!("cgroup {}", path.display()));
                }
            });
        }
        let mut places = vec![root.join("etc/systemd/system"), self.dir.clone()];
        if self.init.is_some() {
            places.push(root.join("run"));
        } else {
            places.extend(["/run/sbx", "/etc/sbx", "/var/lib/sbx"].map(PathBuf::from));
            // The machine's own journal goes on.
            for journal in entries(Path::new("/var/log/journal")) {
                things.insert(format!("journal {}", journal.display()));
            }
            for unit in self.bash("systemctl list-units --all --plain --no-legend | grep sandbox").text().lines() {
                things.insert(format!("unit {unit}"));
            }
        }
        for dir in places {
            walk(&dir, &mut |path, meta| {
                let mut line = format!("file {} {:o}", path.display(), meta.mode());
                if !meta.is_dir() {
                    let _ = write!(line, " {} bytes of {}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec());
                }
                things.insert(line);
            });
        }
        things
    }

    /// Asserts that this host is as it was.
    #[track_caller]
    pub fn assert_as(&self, before: &BTreeSet<String>, after_what: &str) {
        let deadline = Instant::now() + SETTLING;
        loop {
            let now = self.snapshot();
            let gone = before.difference(&now).map(|thing| format!("\n- {thing}"));
            let new = now.difference(before).map(|thing| format!("\n+ {thing}"));
            let difference = gone.chain(new).collect::<String>();
            if difference.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "the host has changed after {after_what}:{difference}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The cgroups of this test's containers, in all hierarchies.
    fn cgroups(&self) -> Vec<PathBuf> {
        if self.init.is_none() {
            let ours = |path: &PathBuf| path.to_string_lossy().ends_with("_sandbox.service");
            let slices = ["/sys/fs/cgroup/sbx", "/sys/fs/cgroup/system.slice"].map(|slice| entries(Path::new(slice)));
            return slices.into_iter().flatten().filter(ours).collect();
        }
        let mounts = Path::new("/sys/fs/cgroup");
        let hierarchies = entries(mounts).into_iter().chain([mounts.to_owned()]);
        let ours = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&self.prefix));
        hierarchies.flat_map(|hierarchy| entries(&hierarchy.join("sbx"))).filter(ours).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        match &mut self.init {
            // Its PID 1 ends, and with it all its processes and mounts.
            Some(init) => {
                drop(init.stdin.take());
                let _ = init.wait();
            }
            // What a test that failed has left would fail the next.
            None => drop(self.bash(
                "cd /etc/sbx && for file in *.json .*.new; do name=${file#.} name=${name%.*}
                 [ -e \"$file\" ] && virt-sandbox-service stop \"$name\"; virt-sandbox-service delete \"$name\"; done",
            )),
        }
        for cgroup in self.cgroups() {
            let mut directories = vec![cgroup.clone()];
            walk(&cgroup, &mut |path, meta| {
                if meta.is_dir() {
                    directories.push(path.to_owned());
                }
            });
            directories.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// What it was.
    pub command: String,
    /// Its exit status; 128 and the signal's number if one ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
}

impl Outcome {
    /// Asserts an exit status.
    #[track_caller]
    pub fn assert_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.assert_code(0)
    }

    /// Asserts a failure as the contract has it: nothing on stdout, one line of `tool` on stderr, which has all of
    /// `words`.
    #[track_caller]
    pub fn assert_failure(self, code: i32, tool: &str, words: &[&str]) -> Self {
        let this = self.assert_code(code);
        assert_eq!(String::from_utf8_lossy(&this.stdout), "", "{this}");
        let line = this.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(line.starts_with(&format!("{tool}: ")) && !line.contains('\n'), "not one line of {tool}: {this}");
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} is not in {this}");
        this
    }

    /// stdout as text, without its last newline.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.text();
        let short: String = text.chars().take(2_000).collect();
        write!(f, "{}\n  exit: {}\n  stdout: {short}\n  stderr: {}", self.command, self.code, self.stderr)
    }
}

/// Runs a command with `stdin`, to its end.
pub fn run(mut command: Command, stdin: impl Into<Vec<u8>>) -> Outcome {
    let words: Vec<_> = command.get_args().skip_while(|arg| *arg != "--chdir").skip(2).collect();
    let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsenter");
    let group = Pid::from_raw(child.id() as i32);
    let (mut pipe, stdin) = (child.stdin.take().expect("a pipe"), stdin.into());
    // A command that does not read its stdin closes it, which is no failure.
    thread::spawn(move || drop(pipe.write_all(&stdin)));
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    let output = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _ = killpg(group, Signal::SIGKILL);
        panic!("{shown}: hangs, or leaves a process that holds its streams");
    });
    let output = output.expect("a status");
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default());
    Outcome { command: shown, code, stdout: output.stdout, stderr: String::from_utf8_lossy(&output.stderr).into() }
}

/// `SBX_TEST_USERNS=host`: containers have the host's users, where a test does not say that they have others.
fn users() -> Option<String> {
    env::var("SBX_TEST_USERNS").ok().filter(|users| !users.is_empty())
}

/// Says that a test cannot run here; in CI that is a failure.
pub fn skip(reason: &str) {
    assert!(env::var_os("SBX_MUST_WORK").is_none(), "cannot be tested here: {reason}");
    let _ = writeln!(io::stderr(), "skipped: {reason}");
}

/// Whether all of these programs, or other files, are on this machine.
pub fn installed(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !Path::new(program).exists());
    missing.inspect(|program| skip(&format!("there is no {program}"))).is_none()
}

/// The directory of the tools under test.
pub fn binaries() -> PathBuf {
    env::var_os("SBX_BIN").map_or_else(|| root().join("target/bin"), PathBuf::from)
}

/// The directory of the scripts under test.
pub fn scripts() -> PathBuf {
    env::var_os("SBX_SCRIPTS").map_or_else(|| root().join("scripts"), PathBuf::from)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// Refuses to run in the machine's own namespaces, where a bug in a tool could end the machine. The first PID
/// namespace has the same number on every machine: `PROC_PID_INIT_INO` of the kernel's proc_ns.h.
fn guard() {
    let first = fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new("pid:[4026531836]"));
    let asked = env::var_os("SBX_SAFE").is_some_and(|value| value == "1");
    assert!(asked && !first, "not in namespaces of its own: run the suite by scripts/test");
    assert!(nix::unistd::Uid::effective().is_root(), "the suite runs as root");
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

/// Visits a directory, if there is one, and all below it; parents come first, and no link is followed.
fn walk(path: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata)) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    visit(path, &meta);
    if meta.is_dir() {
        entries(path).iter().for_each(|entry| walk(entry, visit));
    }
}
