//! A command inside with a terminal, or with the caller's streams.

use crate::kills::can_trace;
use crate::rootless::{AS_ALICE, Users};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::Host;

/// How long something that is awaited may take to be shown.
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody at a terminal of 33 lines and 77 columns, on which a command runs.
struct Session {
    terminal: File,
    /// The side of the command: as long as it is open there is a terminal.
    theirs: OwnedFd,
    /// Its modes before the command.
    before: String,
    command: Child,
    shown: String,
}

impl Session {
    fn new(host: &Host, argv: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).expect("a terminal");
        unlockpt(&terminal).expect("a terminal");
        let theirs = ioctl_tiocgptpeer(&terminal, flags).expect("a terminal");
        resize(&terminal, 33, 77);
        let stream = || Stdio::from(theirs.try_clone().expect("a stream"));
        let mut command = host.command([&["setsid", "--ctty", "--wait", "--"], argv].concat());
        command.env("TERM", "xterm").stdin(stream()).stdout(stream()).stderr(stream());
        let before = modes(&theirs);
        let command = command.spawn().expect("a command");
        Self { terminal: terminal.into(), theirs, before, command, shown: String::new() }
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("typed");
    }

    /// Reads what is shown, if there is something soon.
    fn look(&mut self) {
        let mut polled = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::from(50_u8)).expect("poll") > 0 {
            let mut buffer = [0; 4096];
            let length = self.terminal.read(&mut buffer).expect("shown");
            self.shown += &String::from_utf8_lossy(&buffer[..length]);
        }
    }

    /// Waits until something is shown, and forgets all up to it.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            match self.shown.find(text) {
                Some(begin) => break begin + text.len(),
                None => assert!(Instant::now() < deadline, "{text:?} is not shown: {:?}", self.shown),
            }
            self.look();
        };
        self.shown.drain(..end);
    }

    /// Waits until the terminal passes on every byte.
    #[track_caller]
    fn is_raw(&self) {
        let deadline = Instant::now() + PATIENCE;
        while modes(&self.theirs) == self.before {
            assert!(Instant::now() < deadline, "the terminal is as it was");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end of the command, and that the terminal is as it was; the status, as a shell has it.
    #[track_caller]
    fn ends(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.command.try_wait().expect("a status") {
                break status;
            }
            assert!(Instant::now() < deadline, "does not end: {:?}", self.shown);
            self.look();
        };
        self.look();
        while modes(&self.theirs) != self.before {
            assert!(Instant::now() < deadline, "the terminal is not as it was");
            thread::sleep(Duration::from_millis(20));
        }
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }
}

fn resize(terminal: impl AsFd, ws_row: u16, ws_col: u16) {
    tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
}

/// The modes of a terminal.
fn modes(terminal: &OwnedFd) -> String {
    let stdin = terminal.try_clone().expect("a stream");
    let output = Command::new("stty").arg("-g").stdin(stdin).output().expect("stty");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("modes")
}

/// A host with a running container of one command.
fn running() -> (Host, String) {
    let host = Host::small();
    let name = host.running("a", "");
    (host, name)
}

/// Executes a script of bash's in a container, at a terminal.
fn at_terminal(host: &Host, name: &str, script: &str) -> Session {
    Session::new(host, &["virt-sandbox-service", "execute", name, "--", "bash", "-c", script])
}

#[test]
fn a_terminal_inside_has_the_size_of_the_callers_at_once_and_follows_it() {
    let (host, name) = running();
    let script = "trap 'stty size; exit 5' WINCH; stty size; tty; [ -t 2 ] && echo $TERM; while :; do sleep 0.1; done";
    let mut session = at_terminal(&host, &name, script);
    session.sees("33 77\r\n/dev/pts/0\r\nxterm\r\n");
    resize(&session.terminal, 40, 100);
    session.sees("40 100\r\n");
    assert_eq!(session.ends(), 5);
}

#[test]
fn keys_act_inside_and_not_on_the_caller() {
    let (host, name) = running();
    let mut session = at_terminal(&host, &name, "echo begun; sleep 1000");
    session.sees("begun");
    session.is_raw();
    session.types("\x03");
    assert_eq!(session.ends(), 130);
    let mut session = Session::new(&host, &["virt-sandbox-service", "connect", &name]);
    session.types("PS1= HISTFILE=; echo $0 $PWD; echo $((6 * 7)); sleep 1002\n");
    session.sees("-bash /root\r\n42\r\n");
    host.bash("until pgrep --full '^sleep 1002'; do sleep 0.1; done").ok();
    session.types("\x1a");
    session.sees("Stopped");
    session.types("kill -9 %1; sleep 0.1; :\n");
    session.sees("Killed");
    session.types("exit 7\n");
    assert_eq!(session.ends(), 7);
    // ^D ends the input, and what was typed ahead is read.
    let mut session = at_terminal(&host, &name, "sleep 1; tr a-z A-Z; exit 3");
    session.is_raw();
    session.types("typed\n\x04");
    session.sees("TYPED\r\n");
    assert_eq!(session.ends(), 3);
}

#[test]
fn the_callers_terminal_is_as_it_was_whatever_is_killed() {
    let (host, name) = running();
    let before = host.snapshot();
    // The command, the process that waits for it, and the one that passes on.
    let outer = "pgrep --oldest --exact sbx-exec";
    let relay = format!("pgrep --exact --parent $({outer}) sbx-exec");
    for (victim, status) in [("pgrep --exact sleep | tail -1", 137), (outer, 137), (&relay, 129)] {
        let mut session = at_terminal(&host, &name, "echo begun; exec sleep 1001");
        session.sees("begun");
        session.is_raw();
        host.bash(&format!("kill -9 $({victim})")).ok();
        assert_eq!(session.ends(), status, "{victim}");
        host.assert_as(&before, victim);
    }
}

#[test]
fn two_escapes_and_a_hangup_end_the_connection_and_leave_nothing() {
    let (host, name) = running();
    let before = host.snapshot();
    let mut session = Session::new(&host, &["virt-sandbox-service", "connect", &name]);
    session.types("PS1= HISTFILE=; echo $((6 * 7))\n");
    session.sees("42");
    session.types("\x1d\x1d");
    assert_eq!(session.ends(), 129);
    host.assert_as(&before, "two escapes");
    // Nor what does not hear that the terminal is gone.
    let mut session = at_terminal(&host, &name, "trap '' HUP; echo begun; while :; do sleep 0.1; done");
    session.sees("begun");
    session.types("\x1d");
    thread::sleep(Duration::from_millis(1100));
    session.types("\x1da\x1d");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(session.command.try_wait().expect("a status"), None, "not two in a row and soon");
    session.types("\x1d\x1d");
    assert_eq!(session.ends(), 137);
    host.assert_as(&before, "two escapes");
    let Session { terminal, theirs, mut command, .. } = {
        let mut session = at_terminal(&host, &name, "echo begun; sleep 1000");
        session.sees("begun");
        session
    };
    drop((terminal, theirs));
    command.wait().expect("a status");
    host.assert_as(&before, "a hangup");
}

#[test]
fn a_terminal_is_its_users() {
    let (host, name) = running();
    fs::write(host.tree(&name).join("etc/passwd"), "root:x:0:0::/:\nweb:x:33:33::/:\n").expect("a file");
    let script = "stat -c '%U %G %a' $(tty); echo opened >$(tty)";
    let execute = ["virt-sandbox-service", "execute", "--user", "web", &name, "--", "bash", "-c", script];
    let mut session = Session::new(&host, &execute);
    session.sees("web tty 620\r\nopened\r\n");
    assert_eq!(session.ends(), 0);
}

#[test]
fn a_terminal_of_the_callers_is_never_inside() {
    let (host, name) = running();
    let script = format!("virt-sandbox-service execute {name} -- bash -c 'readlink /proc/self/fd/*' </dev/tty");
    // With the host's users its streams are the caller's, but for the null device.
    let count = "| grep /dev/ | grep -vc null; true";
    // Not all of the streams are terminals, so that there is none inside.
    for streams in [format!("2>&1 {count}"), format!("2>/dev/null {count}"), format!("{count} 2>/dev/null")] {
        let mut session = Session::new(&host, &["bash", "-c", &format!("{script} {streams}; echo end")]);
        session.sees("0\r\nend\r\n");
        assert_eq!(session.ends(), 0);
    }
    let mut session =
        Session::new(&host, &["bash", "-c", &format!("echo $(virt-sandbox-service execute {name} -- head -1)")]);
    session.types("typed\n");
    session.sees("typed\r\ntyped\r\n");
    assert_eq!(session.ends(), 0);
}

#[test]
fn a_terminal_is_there_if_it_is_asked_for() {
    let (host, name) = running();
    let run = |options: &str, stdin: &str| {
        let script = format!("sbx-exec run --document 3 {options} 3< <(sbx-ns show {name})");
        host.run(["bash", "-c", &script], stdin)
    };
    let outcome = run("--tty -- bash -c 'stty size; tty; echo err >&2; exit 4'", "").assert_code(4);
    assert_eq!((outcome.text().as_str(), outcome.stderr.as_str()), ("24 80\r\n/dev/pts/0\r\nerr\r", ""));
    for (stdin, shown) in [("a\n", "a\r\na\r"), ("ab", "abab"), ("", "")] {
        assert_eq!(run("--tty=on -- cat", stdin).ok().text(), shown);
    }
    // Much of it, in both directions.
    let much = "0123456789\n".repeat(20_000);
    let stripped = run("--tty=on -- bash -c 'stty -echo -onlcr; echo; exec cat'", &much).ok().text();
    assert!(stripped.ends_with(&much[much.len() - 100..much.len() - 1]), "{} bytes", stripped.len());
    let mut session = Session::new(
        &host,
        &["bash", "-c", &format!("sbx-exec run --document 3 --tty=off tty 3< <(sbx-ns show {name})")],
    );
    session.sees("not a tty\r\n");
    assert_eq!(session.ends(), 1);
    run("--tty=no true", "").assert_failure(125, "sbx-exec", &["bad value", "no"]);
}

#[test]
fn streams_are_apart_and_may_be_closed() {
    let (host, name) = running();
    let execute = |script: &str, streams: &str| {
        host.bash(&format!("virt-sandbox-service execute {name} -- bash -c '{script}' {streams}"))
    };
    let both = "echo out; echo err >&2; cat; exit 7";
    let said = |outcome: support::Outcome| (outcome.code, outcome.text(), outcome.stderr);
    assert_eq!(said(execute(both, "<<<in")), (7, "out\nin".into(), "err\n".into()));
    assert_eq!(said(execute(both, "<&-")), (7, "out".into(), "err\n".into()));
    assert_eq!(said(execute(both, "<<<in >&-")), (7, String::new(), "err\n".into()));
    assert_eq!(said(execute(both, "<<<in 2>&-")), (7, "out\nin".into(), String::new()));
    assert_eq!(said(execute(both, "<&- >&- 2>&-")), (7, String::new(), String::new()));
    // What did not arrive is no success, whatever the command's own status.
    for (script, streams) in [("echo err >&2", "2>/dev/full"), ("head -c 300000 /dev/zero", ">/dev/full")] {
        execute(script, streams).assert_code(125);
    }
    execute("echo out", ">/dev/full").assert_failure(125, "sbx-exec", &["descriptor 1", "No space left on device"]);
    // Who reads no more is told so.
    assert_eq!(execute("trap \"\" PIPE; yes; echo $? >/root/status", "| head -1").text(), "y");
    host.inside(&name, "until [ -s /root/status ]; do sleep 0.1; done").ok();
}

#[test]
fn a_container_that_stops_meanwhile_is_named_once() {
    let (host, name) = running();
    let mut session = at_terminal(&host, &name, "echo begun; sleep 1000");
    session.sees("begun");
    let waiting = host.run(["bash", "-c", &format!(
        "virt-sandbox-service execute {name} -- bash -c 'echo begun; sleep 1000' 2>said | {{ read && virt-sandbox-service stop {name}; }}
         echo ${{PIPESTATUS[0]}}; cat said; virt-sandbox-service delete {name}; virt-sandbox-service execute {name} -- true"
    )], "");
    let said = format!("sbx-exec: container {name} has stopped");
    assert_eq!(waiting.text(), format!("137\n{said}"));
    assert_eq!(waiting.stderr, format!("virt-sandbox-service: no container {name}\n"));
    session.sees(&format!("{said}\r\n"));
    assert_eq!(session.ends(), 137);
}

// What attacked programs like this one: attacks.rs has the table.

/// As root inside: types into the terminal on its standard input, or says why not. TIOCSTI is 0x5412.
const TYPES: &str = "perl -e 'ioctl(STDIN, 0x5412, my $c = q(!)) or print qq($!\\n)'";

#[test]
fn nothing_inside_types_on_the_callers_terminal() {
    let (host, name) = running();
    // The profile forbids it; here it is not what stops it.
    host.service(&format!("stop {name}")).ok();
    host.edit(&name, "del(.linux.seccomp)");
    host.service(&format!("start {name}")).ok();
    let holder = host.holder(&name);
    let careless = format!("nsenter --target {holder} --mount --pid -- {TYPES}");
    let ours = format!("virt-sandbox-service execute {name} -- {TYPES}");
    let apart = format!("{ours} 2>/dev/null");
    for (attack, typed) in [(&careless, "[!]"), (&ours, "[]"), (&apart, "[]")] {
        let mut session = Session::new(&host, &["bash", "-c", &format!("{attack}; read -t 1 -n 1 x; echo \"[$x]\"")]);
        session.sees(typed);
        assert_eq!(session.ends(), 0);
    }
}

#[test]
fn no_link_inside_is_opened_for_a_terminal() {
    if !can_trace() {
        return;
    }
    let (host, name) = running();
    let links = "while :; do for name in console ptmx tty; do ln -sfn /etc/canary /dev/$name; done; done";
    host.inside(&name, "echo untouched >/etc/canary; chmod 0666 /etc/canary").ok();
    host.bash(&format!(
        "virt-sandbox-service execute {name} -- bash -c '{links}' >/dev/null 2>&1 </dev/null & sleep 0.5"
    ))
    .ok();
    // Whoever opens a terminal by its path opens what root inside has put there.
    let holder = host.holder(&name);
    let careless = format!(
        "nsenter --target {holder} --mount -- bash -c 'echo reached >/dev/ptmx'; cat {}",
        host.tree(&name).join("etc/canary").display()
    );
    assert_eq!(host.bash(&careless).ok().text(), "reached");
    host.inside(&name, "echo untouched >/etc/canary").ok();
    for _ in 0..5 {
        let trace = host.path("tmp/trace").display().to_string();
        let strace =
            ["strace", "--follow-forks", "--trace=execve,execveat,open,openat,openat2,ioctl", "--output", &trace];
        let mut session = Session::new(
            &host,
            &[&strace, ["virt-sandbox-service", "execute", &name, "--", "/usr/bin/tty"].as_slice()].concat(),
        );
        session.sees("/dev/pts/");
        assert_eq!(session.ends(), 0);
        let trace = fs::read_to_string(trace).expect("a trace");
        let (ours, _) = trace.split_once("execve(\"/usr/bin/tty\"").expect("the command");
        let names = ["/pts", "ptmx\"", "/console"];
        let opened: Vec<_> =
            ours.lines().filter(|line| line.contains("open") && names.iter().any(|name| line.contains(name))).collect();
        assert!(opened.len() == 2 && opened.iter().all(|line| line.contains("RESOLVE_NO_SYMLINKS")), "{opened:?}");
        assert!(ours.contains("TIOCGPTPEER"), "{ours}");
    }
    assert_eq!(host.inside(&name, "cat /etc/canary").ok().text(), "untouched");
}

#[test]
fn what_is_not_devpts_is_not_opened_for_a_terminal() {
    let host = Host::small();
    // The mounts are the host's root's.
    let name = host.running("a", "--userns host");
    let enter = format!("nsenter --target {} --mount --", host.holder(&name));
    for (mount, why) in [
        ("mkfifo /root/pipe && mount --bind /root/pipe /dev/pts/ptmx", "Cross-device link"),
        ("mount -t tmpfs tmpfs /dev/pts && mkfifo /dev/pts/ptmx", "is not devpts"),
    ] {
        host.bash(&format!("{enter} bash -c '{mount}'")).ok();
        // Whoever waits to read from a pipe sees that it is opened.
        let read = format!("{enter} cat /dev/pts/ptmx & sleep 0.2");
        let opened = |by: &str| host.bash(&format!("{read}; {by}; sleep 0.2; kill $! && echo unopened"));
        assert_eq!(opened(&format!("{enter} bash -c ': <>/dev/pts/ptmx'")).text(), "");
        let run = format!("sbx-exec run --document 3 --tty -- true 3< <(sbx-ns show {name})");
        let refused = opened(&run);
        assert!(refused.text() == "unopened" && refused.stderr.contains(why), "{refused}");
    }
}

#[test]
fn a_sandbox_has_a_terminal_of_its_own() {
    let host = Host::new();
    let before = host.snapshot();
    let mut session =
        Session::new(&host, &["virt-sandbox", "--", "bash", "-c", "stty size; tty; echo $TERM; sleep 1000"]);
    session.sees("33 77\r\n/dev/pts/0\r\nxterm\r\n");
    session.is_raw();
    session.types("\x03");
    assert_eq!(session.ends(), 130);
    let mut session = Session::new(&host, &["virt-sandbox", "--shell", "--", "sh", "-c", "echo beside"]);
    session.sees("beside");
    session.types("echo $((6 * 7)); exit 4\n");
    session.sees("42\r\n");
    assert_eq!(session.ends(), 4);
    host.assert_as(&before, "sandboxes");
}

#[test]
fn an_ordinary_user_has_an_interactive_shell_in_a_sandbox() {
    let users = Users::new();
    let mut session =
        Session::new(&users.0, &[&AS_ALICE[..], &["virt-sandbox", "--", "bash", "--norc", "-i"]].concat());
    session.types("PS1=; stty size; tty; id -un\n");
    session.sees("33 77\r\n/dev/pts/0\r\nalice\r\n");
    session.types("sh -c 'echo $((6 * 7)); exec sleep 1000'\n");
    session.sees("42\r\n");
    session.types("\x1a");
    session.sees("Stopped");
    session.types("exit; exit 6\n");
    assert_eq!(session.ends(), 6);
}
