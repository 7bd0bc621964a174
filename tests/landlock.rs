//! What a step writes that is led out of its tree: nothing, where the kernel has Landlock.

use std::fs;
use std::path::Path;
use support::{Host, skip};

/// What the way out begins with: a directory that the step meets in the tree.
const CANARY: &str = "canary";

/// A command that opens the canary beneath one directory, and writes into it after having done so this often.
struct Step<'a> {
    host: &'a Host,
    line: String,
    below: String,
    often: usize,
}

impl Step<'_> {
    /// Runs it under strace(1), in a directory with one of what is outside, open as descriptor 9.
    fn run(&self, options: &str) -> support::Outcome {
        let line = &self.line;
        self.host.bash(&format!("strace -f -y -o trace -e trace=openat,/landlock {options} {line} 9<outside"))
    }

    /// The number of the call by which the directory is opened, among those of its thread, which has restricted itself by
    /// then.
    fn call(&self) -> usize {
        self.run("").ok();
        let trace = fs::read_to_string(self.host.path("tmp/trace")).expect("a trace");
        let lines: Vec<_> = trace.lines().filter_map(|line| line.split_once(' ')).collect();
        let opens = |call: &str| call.contains(&format!("\"{CANARY}\"")) && call.contains(&self.below);
        let mut openings = (0..lines.len()).filter(|at| opens(lines[*at].1));
        let at = openings.nth(self.often - 1).unwrap_or_else(|| panic!("{}: {trace}", self.line));
        let calls =
            || lines[..=at].iter().filter(|(thread, _)| *thread == lines[at].0).map(|(_, call)| call.trim_start());
        let restricts = |call: &str| call.starts_with("landlock_restrict_self(") && call.ends_with(" = 0");
        assert!(calls().any(restricts), "{} is not restricted: {trace}", self.line);
        calls().filter(|call| call.starts_with("openat(")).count()
    }
}

fn outside(host: &Host) -> String {
    host.bash("find outside -printf '%p %m %s\n' | sort").ok().text()
}

/// Runs a step whose way into the canary is another one, with and without Landlock. `again` makes what it works on.
fn lead_astray(step: &Step, again: impl Fn()) {
    let host = step.host;
    let without = "-e inject=landlock_create_ruleset:error=";
    again();
    let astray = format!("-e inject=openat:retval=9:when={}", step.call());
    host.bash("rm -rf outside && mkdir outside && echo >outside/kept").ok();
    let before = outside(host);
    again();
    let failed = step.run(&astray).assert_code(1);
    assert!(failed.stderr.contains("Permission denied"), "{failed}");
    assert_eq!(outside(host), before, "{failed}");
    again();
    let failed = step.run(&format!("{astray} {without}ENOSYS"));
    assert_ne!(outside(host), before, "it was not led out: {failed}");
    for error in ["ENOSYS", "EOPNOTSUPP"] {
        again();
        step.run(&format!("{without}{error}")).ok();
    }
}

fn can_trace() -> bool {
    let can = Path::new("/usr/bin/strace").exists();
    if !can {
        skip("strace is not installed");
    }
    can
}

/// A host with the canary in its /etc and little else, and what is outside.
fn small() -> Host {
    let host = Host::new().with_own(&["etc"]);
    let needed = "! -name passwd ! -name group ! -name ld.so.cache";
    host.bash(&format!("find /etc -mindepth 1 -maxdepth 1 {needed} -exec rm -r -- {{}} +")).ok();
    host.bash(&format!("mkdir outside /etc/{CANARY} && echo x | tee /etc/{CANARY}/new >/etc/{CANARY}/old")).ok();
    host
}

#[test]
fn a_clone_that_is_led_out_of_its_tree_writes_nothing_there() {
    if !can_trace() {
        return;
    }
    let host = small();
    host.bash(&format!("mkdir -p from/a/b/c && cp -a /etc/{CANARY} from/a/b/c")).ok();
    let step = Step { host: &host, line: "sbx-fs clone from to".into(), below: "/.to.sbx-new/a/b/c>".into(), often: 1 };
    lead_astray(&step, || drop(host.bash("rm -rf to .to.sbx-new").ok()));
    for store in ["directory", "image:24M", "overlay"] {
        let name = host.name("x");
        host.bash(&format!("sbx-fs layout --store {store} --name {name} >document")).ok();
        let (below, often) = match store {
            "directory" => (format!("/{name}/root/etc>"), 1),
            "overlay" => (format!("/{name}/lower.new/etc>"), 1),
            // Of a mount that is attached nowhere the path begins at its root: the host's comes first.
            _ => ("</etc>, ".into(), 2),
        };
        let step = Step { host: &host, line: "sbx-fs clone <document >/dev/null".into(), below, often };
        lead_astray(&step, || drop(host.line(&format!("sbx-fs remove {name}")).ok()));
    }
}

#[test]
fn an_import_or_an_upgrade_or_a_removal_that_is_led_out_of_its_tree_writes_nothing_there() {
    if !can_trace() {
        return;
    }
    let host = small();
    let [origin, name] = ["a", "x"].map(|name| host.name(name));
    host.service(&format!("create {origin} -- /bin/sleep 1000")).ok();
    let root = |name: &str| format!("{}/etc>", host.tree(name).display());
    let run = |line: &str| drop(host.bash(line).ok());
    run(&format!("sbx-fs export {origin} >archive"));

    let import = format!("sbx-fs import --name {name} <archive >document");
    let step = Step { host: &host, line: import.clone(), below: root(&name), often: 2 };
    lead_astray(&step, || run(&format!("sbx-fs remove {name}")));

    let step = Step { host: &host, line: format!("sbx-fs remove {name}"), below: root(&name), often: 1 };
    lead_astray(&step, || run(&format!("sbx-fs remove {name} && {import}")));

    run("cp -a ../state kept");
    run(&format!("echo changed >/etc/{CANARY}/new"));
    let step = Step { host: &host, line: format!("sbx-fs upgrade {origin}"), below: root(&origin), often: 2 };
    lead_astray(&step, || run("find ../state -mindepth 1 -delete && cp -a kept/. ../state"));
}

#[test]
fn an_export_can_write_to_its_stdout_alone() {
    if can_trace() {
        let host = small();
        let name = host.name("a");
        host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
        let below = format!("{}/etc>", host.tree(&name).display());
        let step = Step { host: &host, line: format!("sbx-fs export --force {name} >archive"), below, often: 1 };
        assert!(step.call() > 0);
        assert!(host.bash("tar tf archive").ok().text().contains(CANARY));
    }
}
