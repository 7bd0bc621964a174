//! docs/contract.md: every verb of every tool against every number of it.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Number, Value, json};
use std::fmt::{self, Display};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::{Host, Outcome};

/// A verb that reads a document and prints one, called in a way that works.
struct Filter {
    line: &'static str,
    /// It changes the host, and takes `--dry-run`.
    applies: bool,
    /// The fields that it may change.
    owns: &'static [&'static str],
}

const fn edit(line: &'static str, owns: &'static [&'static str]) -> Filter {
    Filter { line, applies: false, owns }
}

const fn apply(line: &'static str, owns: &'static [&'static str]) -> Filter {
    Filter { line, applies: true, owns }
}

/// All filters in the order of the pipe: each has its document from those before it. The first two are alternatives to
/// the third.
const FILTERS: [Filter; 19] = [
    edit("sbx-unit read apache2.service", UNIT),
    edit("sbx-fs base /usr", &["sbx.base"]),
    edit("sbx-unit command -- /bin/sleep 60", UNIT),
    apply("sbx-label alloc", &["process.selinuxLabel", "linux.mountLabel"]),
    edit("sbx-ns plan", &["linux.namespaces", "linux.uidMappings", "linux.gidMappings", "hostname"]),
    apply("sbx-ns alloc", &["linux.uidMappings", "linux.gidMappings"]),
    edit("sbx-cg limit --memory 64M --pids 64", CGROUP),
    edit("sbx-fs layout --mount ram:/srv/ram=4K", FILES),
    apply("sbx-fs clone", FILES),
    edit("sbx-net plan --network dhcp --publish 8080:80", &["sbx.net"]),
    edit("sbx-exec profile", PROFILE),
    apply("sbx-unit write", UNIT),
    apply("sbx-label relabel", &[]),
    apply("sbx-cg create", CGROUP),
    apply("sbx-ns create", &["sbx.state.holder"]),
    apply("sbx-net up", &[]),
    apply("sbx-fs mount", &[]),
    apply("sbx-fs resize", &[]),
    apply("sbx-cg update", CGROUP),
];

const UNIT: &[&str] = &["sbx.unit", "process.args", "process.env", "process.cwd", "process.user", "process.terminal"];
const CGROUP: &[&str] = &["linux.resources", "linux.cgroupsPath", "sbx.state.cgroups"];
const FILES: &[&str] =
    &["root", "mounts", "linux.maskedPaths", "linux.readonlyPaths", "sbx.clone", "sbx.mounts", "sbx.store", "sbx.path"];
const PROFILE: &[&str] = &["process.capabilities", "process.noNewPrivileges", "process.rlimits", "linux.seccomp"];

/// Verbs that take a name: undos, reports and orders.
const UNDOS: [&str; 6] = [
    "sbx-unit remove",
    "sbx-net remove --addresses",
    "sbx-ns remove --ids",
    "sbx-cg remove",
    "sbx-fs remove",
    "sbx-label remove",
];
const SHOWS: [&str; 6] =
    ["sbx-ns show", "sbx-cg show", "sbx-net show", "sbx-label check", "sbx-fs diff", "sbx-fs export"];
const ORDERS: [&str; 4] = ["sbx-cg freeze", "sbx-cg thaw", "sbx-cg kill", "sbx-fs upgrade"];
/// Verbs that take nothing.
const LISTS: [&str; 3] = ["sbx-net list", "sbx-label list", "sbx-ns list"];
/// Verbs that end a pipe, and the one that begins one with an archive.
const ENDS: [&str; 4] = ["sbx-exec run -- true", "sbx-exec boot", "sbx-exec stop", "sbx-fs import --name c"];

impl Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.line)
    }
}

impl Filter {
    /// Its command line, with further options.
    fn call<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        call(self.line, options)
    }

    /// Its command line without an effect, with further options.
    fn harmless<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        let dry: &[&str] = if self.applies { &["--dry-run"] } else { &[] };
        call(self.line, &[dry, options].concat())
    }

    fn is_alternative(&self) -> bool {
        ["sbx-unit read", "sbx-fs base"].iter().any(|verb| self.line.starts_with(verb))
    }

    /// Carries out all that comes before it in the pipe; the document that it gets.
    fn input(&self, host: &Host) -> Vec<u8> {
        let before = FILTERS.iter().take_while(|filter| filter.line != self.line);
        let doc = before.fold(start(&host.name("c")), |doc, filter| match filter.line {
            _ if filter.is_alternative() => doc,
            _ => host.run(filter.call(&[]), doc).ok().stdout,
        });
        // Otherwise there would be nothing to claim.
        let is_claim = self.line == "sbx-ns alloc";
        if is_claim { host.run(["sbx-ns", "plan", "--userns", "auto"], doc).ok().stdout } else { doc }
    }
}

/// The tool of a command line.
fn tool(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// Puts options behind the verb of a command line.
fn call<'a>(line: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let mut words: Vec<_> = line.split(' ').collect();
    words.splice(2..2, options.iter().copied());
    words
}

/// A document that holds a name.
fn start(name: &str) -> Vec<u8> {
    json!({ "ociVersion": "1.1.0", "sbx": { "name": name } }).to_string().into_bytes()
}

/// Runs a check for each item on a host of its own, to the last one, and fails if one has failed.
fn each<T: Display>(items: impl IntoIterator<Item = T>, check: impl Fn(&T, &Host)) {
    let failed = |item: &T| catch_unwind(AssertUnwindSafe(|| check(item, &Host::new()))).is_err();
    let failed: Vec<_> = items.into_iter().filter(failed).map(|item| item.to_string()).collect();
    assert!(failed.is_empty(), "not as the contract says: {}", failed.join(", "));
}

fn edits() -> impl Iterator<Item = &'static Filter> {
    FILTERS.iter().filter(|filter| !filter.applies)
}

fn applies() -> impl Iterator<Item = &'static Filter> {
    FILTERS.iter().filter(|filter| filter.applies)
}

/// Verbs that take a name, and nothing on stdin.
fn with_names() -> impl Iterator<Item = &'static str> {
    UNDOS.into_iter().chain(SHOWS).chain(ORDERS)
}

fn all_lines() -> impl Iterator<Item = &'static str> {
    let filters = FILTERS.iter().map(|filter| filter.line);
    filters.chain(with_names()).chain(LISTS).chain(ENDS)
}

/// What no tool can know: of every type, in places of every kind, with numbers that a double cannot hold.
fn with_foreign_keys(document: &[u8]) -> Vec<u8> {
    let foreign = r#"{"z":18446744073709551616,"a":1.50,"m":[{"null":null,"":-0.0}]}"#;
    let foreign: Value = serde_json::from_str(foreign).expect("JSON");
    let mut document: Value = serde_json::from_slice(document).expect("a document");
    for path in ["", "/sbx", "/process", "/linux"] {
        if path.len() > 1 && document.pointer(path).is_none() {
            document[&path[1..]] = json!({});
        }
        let object = document.pointer_mut(path).and_then(Value::as_object_mut).expect("an object");
        let rest = std::mem::take(object);
        // One before all others and one behind them.
        object.insert("zz first".into(), foreign.clone());
        object.extend(rest);
        object.insert("aa last".into(), foreign.clone());
    }
    document.to_string().into_bytes()
}

/// What is left of a document without `fields`, as text: its order and the spelling of its numbers count.
fn without(document: &[u8], fields: &[&str]) -> String {
    fn remove(object: &mut Map<String, Value>, path: &str) {
        let (key, rest) = path.split_once('.').unwrap_or((path, ""));
        match object.get_mut(key) {
            Some(Value::Object(inner)) if !rest.is_empty() => {
                remove(inner, rest);
                if inner.is_empty() {
                    object.shift_remove(key);
                }
            }
            _ if rest.is_empty() => drop(object.shift_remove(key)),
            _ => {}
        }
    }
    let mut document: Map<String, Value> = serde_json::from_slice(document).expect("a document");
    fields.iter().for_each(|field| remove(&mut document, field));
    Value::Object(document).to_string()
}

/// The exit status of wrong usage: `run` has one status for all that is not its command's.
fn usage(line: &str) -> i32 {
    if line.starts_with("sbx-exec run") { 125 } else { 2 }
}

/// Asserts that a tool bore what it was given: it succeeded, or failed as the contract has it.
#[track_caller]
fn assert_borne(outcome: Outcome, line: &str) {
    let code = outcome.code;
    assert!([0, 1, 2, usage(line)].contains(&code), "{outcome}");
    if code != 0 {
        outcome.assert_failure(code, tool(line), &[]);
    }
}

#[test]
fn n01_a_verb_prints_one_document_as_one_line() {
    each(&FILTERS, |filter, host| {
        let outcome = host.run(filter.call(&[]), filter.input(host)).ok();
        assert!(outcome.json().is_object(), "{outcome}");
        assert_eq!(outcome.stdout.iter().filter(|b| **b == b'\n').count(), 1, "{outcome}");
        assert_eq!(outcome.stdout.last(), Some(&b'\n'), "{outcome}");
    });
}

#[test]
fn n02_a_verb_changes_only_the_fields_that_it_owns() {
    each(&FILTERS, |filter, host| {
        let input = with_foreign_keys(&filter.input(host));
        let outcome = host.run(filter.call(&[]), input.clone()).ok();
        assert_eq!(without(&outcome.stdout, filter.owns), without(&input, filter.owns), "{}", outcome.command);
    });
}

#[test]
fn n02_unknown_keys_of_any_document_survive_an_edit() {
    each(edits(), |filter, host| {
        let name = host.name("c");
        let mut runner = TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
        let property = |(mut document, known): (Map<String, Value>, [Map<String, Value>; 3])| {
            for (key, object) in ["linux", "process", "sbx"].into_iter().zip(known) {
                document.insert(key.to_owned(), object.into());
            }
            document["sbx"]["name"] = name.as_str().into();
            // Owned fields in a random document would be of random types.
            let input = without(Value::Object(document).to_string().as_bytes(), filter.owns);
            let outcome = host.run(filter.call(&[]), input.as_bytes()).ok();
            assert_eq!(without(&outcome.stdout, filter.owns), without(input.as_bytes(), filter.owns));
            Ok(())
        };
        runner.run(&(object(), [object(), object(), object()]), property).unwrap_or_else(|error| panic!("{error}"));
    });
}

/// Any JSON object of a few levels; its keys have a letter that no field of ours has.
fn object() -> impl Strategy<Value = Map<String, Value>> {
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u128>().prop_map(|n| n.to_string()),
        "-?(0|[1-9][0-9]{0,30})\\.[0-9]{1,30}",
        "-?[1-9]e[-+][1-9][0-9]{0,3}",
    ];
    let number = number.prop_map(|text| Value::Number(serde_json::from_str::<Number>(&text).expect("a number")));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number,
        any::<String>().prop_map(Value::String)
    ];
    let key = || "[a-zA-Z.\u{e9}]{0,6}\u{df}".prop_map(String::from);
    let map = move |value: BoxedStrategy<Value>| {
        proptest::collection::vec((key(), value), 0..5).prop_map(|entries| entries.into_iter().collect::<Map<_, _>>())
    };
    let value = leaf.prop_recursive(3, 24, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            map(inner.boxed()).prop_map(Value::Object),
        ]
    });
    map(value.boxed())
}

#[test]
fn n03_a_name_starts_a_document_and_stdin_is_not_read() {
    each(edits(), |filter, host| {
        let name = host.name("new");
        let outcome = host.run(filter.call(&["--name", &name]), "this is no document").ok();
        assert_eq!(outcome.json()["sbx"]["name"], name.as_str(), "{outcome}");
        assert_eq!(outcome.json()["ociVersion"], "1.1.0", "{outcome}");
    });
    each(applies(), |filter, host| {
        let name = host.name("new");
        let outcome = host.run(filter.harmless(&["--name", &name]), "this is no document");
        match outcome.code {
            0 => assert_eq!(outcome.json()["sbx"]["name"], name.as_str(), "{outcome}"),
            // It says which field the new document lacks.
            _ => drop(outcome.assert_failure(1, tool(filter.line), &["the document has no "])),
        }
    });
}

#[test]
fn n03_a_document_without_a_name_says_how_one_starts() {
    let named = [
        "sbx-label alloc",
        "sbx-ns plan",
        "sbx-ns alloc",
        "sbx-cg limit --memory 64M --pids 64",
        "sbx-fs layout --mount ram:/srv/ram=4K",
    ];
    each(named, |line, host| {
        host.run(call(line, &[]), "{}").assert_failure(1, tool(line), &["sbx.name", "--name NAME"]);
    });
}

#[test]
fn n04_empty_stdin_is_a_failure_without_a_word_and_without_an_effect() {
    each(&FILTERS, |filter, host| {
        filter.input(host);
        let before = host.snapshot();
        for nothing in ["", " \n"] {
            let outcome = host.run(filter.call(&[]), nothing);
            assert_eq!((outcome.code, outcome.text().as_str(), outcome.stderr.as_str()), (1, "", ""), "{outcome}");
        }
        host.assert_as(&before, filter.line);
    });
}

#[test]
fn n04_what_is_not_one_json_object_is_refused_before_any_effect() {
    each(&FILTERS, |filter, host| {
        let input = filter.input(host);
        let before = host.snapshot();
        let twice = [input.as_slice(), &input].concat();
        let half = &input[..input.len() / 2];
        for bad in [b"[]".as_slice(), b"7", b"null", b"\"x\"", b"{", b"{}}", b"\xff\xfe{}", b"\0", half, &twice] {
            host.run(filter.call(&[]), bad).assert_failure(1, tool(filter.line), &["document is not"]);
        }
        host.assert_as(&before, filter.line);
    });
}

#[test]
fn n04_a_full_disk_behind_stdout_is_a_failure() {
    each(&FILTERS, |filter, host| {
        let full = ["bash", "-c", "exec \"$@\" >/dev/full", "full"];
        let input = filter.input(host);
        host.run(full.into_iter().chain(filter.harmless(&[])), input).assert_failure(1, tool(filter.line), &["stdout"]);
    });
    each(LISTS, |line, host| {
        host.bash(&format!("{line} >/dev/full")).assert_failure(1, tool(line), &["stdout"]);
    });
}

#[test]
fn n04_a_terminal_on_stdin_is_wrong_usage() {
    each(&FILTERS, |filter, host| {
        // script(1) gives the command a terminal; its standard error is kept apart.
        let line = format!("{} 2>{}", filter.harmless(&[]).join(" "), host.path("tmp/stderr").display());
        let outcome = host.run(["script", "-qec", &line, "/dev/null"], "").assert_code(2);
        assert_eq!(outcome.text(), "", "{outcome}");
        let stderr = fs::read_to_string(host.path("tmp/stderr")).expect("stderr");
        assert_eq!(stderr, format!("{}: stdin is a terminal: pipe a document in\n", tool(filter.line)));
    });
}

#[test]
fn n04_wrong_usage_exits_2_with_one_line() {
    each(all_lines(), |line, host| {
        let input = start(&host.name("c"));
        let wrong = |code, argv: Vec<&str>| drop(host.run(argv, input.clone()).assert_failure(code, tool(line), &[]));
        wrong(usage(line), call(line, &["--no-such-option"]));
        wrong(usage(line), call(line, &["-x"]));
        wrong(2, vec![tool(line), "no-such-verb"]);
        wrong(2, vec![tool(line), ""]);
        wrong(2, vec![tool(line)]);
    });
}

#[test]
fn n04_operands_that_are_missing_or_too_many_are_wrong_usage() {
    each(with_names(), |line, host| {
        host.line(line).assert_failure(2, tool(line), &["NAME"]);
        host.line(&format!("{line} a b")).assert_failure(2, tool(line), &["b"]);
    });
    let with_operands = ["sbx-unit read apache2.service", "sbx-unit command -- /bin/sleep 60"];
    each(all_lines().filter(|line| !with_operands.contains(line) && !line.starts_with("sbx-exec run")), {
        |line, host| {
            let operands: &[&str] = if with_names().any(|other| other == *line) { &["a", "b"] } else { &["a"] };
            host.run(call(line, operands), start(&host.name("c"))).assert_failure(2, tool(line), &[]);
        }
    });
}

#[test]
fn n05_a_report_about_nothing_and_an_order_to_it_fail() {
    each(SHOWS.into_iter().chain(ORDERS), |line, host| {
        let before = host.snapshot();
        let name = host.name("c");
        host.line(&format!("{line} {name}")).assert_failure(1, tool(line), &[&name]);
        host.assert_as(&before, line);
    });
}

#[test]
fn n05_an_undo_of_nothing_succeeds_in_silence() {
    each(UNDOS, |line, host| {
        let before = host.snapshot();
        for _ in 0..2 {
            let outcome = host.line(&format!("{line} {}", host.name("c"))).ok();
            assert_eq!((outcome.text().as_str(), outcome.stderr.as_str()), ("", ""), "{outcome}");
        }
        host.assert_as(&before, line);
    });
}

#[test]
fn n05_the_undos_take_everything_back_and_may_be_run_twice() {
    each(applies(), |filter, host| {
        let before = host.snapshot();
        let input = filter.input(host);
        host.run(filter.call(&[]), input).ok();
        for _ in 0..2 {
            for undo in UNDOS {
                host.line(&format!("{undo} {}", host.name("c"))).ok();
            }
            host.assert_as(&before, filter.line);
        }
    });
}

#[test]
fn n05_the_undo_of_one_container_leaves_another_alone() {
    each(applies(), |filter, host| {
        let input = filter.input(host);
        host.run(filter.call(&[]), input).ok();
        let before = host.snapshot();
        for undo in UNDOS {
            // A prefix of the name, and the name with something behind it.
            host.line(&format!("{undo} {}", host.name(""))).ok();
            host.line(&format!("{undo} {}", host.name("c2"))).ok();
        }
        host.assert_as(&before, filter.line);
    });
}

#[test]
fn n07_a_dry_run_touches_nothing_and_prints_what_would_be_printed() {
    each(applies(), |filter, host| {
        let input = filter.input(host);
        let before = host.snapshot();
        let dry = host.run(filter.call(&["--dry-run"]), input.clone()).ok();
        host.assert_as(&before, "--dry-run");
        let real = host.run(filter.call(&[]), input).ok();
        assert_eq!(shape(&dry), shape(&real));
    });
}

/// The paths of a document's fields without `sbx.state`, which only the real step learns.
fn shape(outcome: &Outcome) -> Vec<String> {
    fn collect(value: &Value, path: &str, paths: &mut Vec<String>) {
        paths.push(path.to_owned());
        match value {
            Value::Object(object) => object.iter().for_each(|(key, v)| collect(v, &format!("{path}.{key}"), paths)),
            Value::Array(array) => {
                array.iter().enumerate().for_each(|(i, v)| collect(v, &format!("{path}.{i}"), paths))
            }
            _ => {}
        }
    }
    let mut paths = Vec::new();
    let document = without(&outcome.stdout, &["sbx.state"]);
    collect(&serde_json::from_str(&document).expect("JSON"), "", &mut paths);
    paths
}

#[test]
fn n07_only_an_apply_verb_takes_dry_run() {
    each(edits(), |filter, host| {
        let outcome = host.run(filter.call(&["--dry-run"]), start(&host.name("c")));
        outcome.assert_failure(2, tool(filter.line), &["--dry-run"]);
    });
}

#[test]
fn n08_no_tool_leaves_a_process_but_the_holder() {
    each(&FILTERS, |filter, host| {
        let input = filter.input(host);
        let processes =
            || host.snapshot().into_iter().filter(|thing| thing.starts_with("process ")).collect::<Vec<_>>();
        let before = processes();
        host.run(filter.call(&[]), input).ok();
        let new: Vec<_> = processes().into_iter().filter(|process| !before.contains(process)).collect();
        assert_eq!(new.len(), usize::from(filter.line == "sbx-ns create"), "{new:?}");
        assert!(new.iter().all(|process| process.ends_with(" sbx-ns")), "{new:?}");
    });
}

#[test]
fn n08_state_of_another_boot_is_not_believed() {
    let host = Host::new();
    let name = host.name("c");
    created(&host);
    let show = || host.line(&format!("sbx-ns show {name}"));
    assert_eq!(show().ok().json()["sbx"]["name"], name.as_str());
    assert_eq!(host.line("sbx-ns list").ok().json()[0]["name"], name.as_str());
    let path = host.path("runtime").join(&name).join("document.json");
    let mut running: Value = serde_json::from_slice(&fs::read(&path).expect("a document")).expect("JSON");
    running["sbx"]["state"]["holder"]["bootId"] = json!("11111111-2222-3333-4444-555555555555");
    fs::write(&path, running.to_string()).expect("a document");
    show().assert_failure(1, "sbx-ns", &[&name]);
    assert_eq!(host.line("sbx-ns list").ok().json(), json!([]));
}

/// The document of a container that has all but its command.
fn created(host: &Host) -> Vec<u8> {
    let filters = FILTERS.iter().filter(|filter| !filter.is_alternative());
    filters.fold(start(&host.name("c")), |doc, filter| host.run(filter.call(&[]), doc).ok().stdout)
}

/// Boots a container whose command does not end. It has boot's streams, which are nobody's.
fn boot(host: &Host, document: &[u8]) {
    let argv = ["bash", "-c", "sbx-exec boot --document 3 3<&0 </dev/null >/dev/null 2>&1"];
    host.run(argv, document).ok();
}

/// Calls sbx-exec with a document on descriptor 3.
fn exec(host: &Host, document: &[u8], argv: &[&str], stdin: &str) -> Outcome {
    let path = host.path("tmp/document");
    fs::write(&path, document).expect("a document");
    let script = format!("exec 3<{} && exec sbx-exec \"$@\"", path.display());
    host.run([&["bash", "-c", &script, "exec"], argv].concat(), stdin)
}

#[test]
fn n09_run_hands_on_streams_arguments_and_status() {
    let host = Host::new();
    let document = created(&host);
    let run = |command: &[&str], stdin: &str| {
        exec(&host, &document, &[&["run", "--document", "3", "--"], command].concat(), stdin)
    };
    boot(&host, &document);
    assert_eq!(run(&["cat"], "in\0and out").ok().stdout, b"in\0and out");
    let outcome = run(&["sh", "-c", "echo out; echo err >&2; exit 7"], "").assert_code(7);
    assert_eq!((outcome.text().as_str(), outcome.stderr.as_str()), ("out", "err\n"));
    assert_eq!(run(&["printf", "<%s>", "a b", "", "$(id)", "--"], "").ok().text(), "<a b><><$(id)><-->");
    for signal in [9, 15, 11] {
        run(&["sh", "-c", &format!("kill -{signal} $$")], "").assert_code(128 + signal);
    }
    run(&["no-such-command"], "").assert_failure(127, "sbx-exec", &["no-such-command"]);
    run(&["/etc/passwd"], "").assert_failure(126, "sbx-exec", &["/etc/passwd"]);
    // With the document on stdin the command has nothing to read.
    assert_eq!(host.run(["sbx-exec", "run", "--", "cat"], document.clone()).ok().text(), "");
    host.run(["sbx-exec", "stop"], document).ok();
}

#[test]
fn n09_what_is_not_the_commands_own_status_is_125() {
    let host = Host::new();
    let document = created(&host);
    for bad in ["{}", "[]", "{", r#"{"sbx":{"name":"c","state":{"holder":{"pid":1,"startTime":1,"bootId":"x"}}}}"#] {
        exec(&host, bad.as_bytes(), &["run", "--document", "3", "--", "true"], "").assert_failure(125, "sbx-exec", &[]);
        for verb in ["boot", "stop"] {
            exec(&host, bad.as_bytes(), &[verb, "--document", "3"], "").assert_failure(1, "sbx-exec", &[]);
        }
    }
    for descriptor in ["9", "-1", "x", "4294967296", ""] {
        let outcome = exec(&host, &document, &["run", "--document", descriptor, "--", "true"], "");
        outcome.assert_failure(125, "sbx-exec", &[]);
    }
    for (argv, code) in [(["run", "true"].as_slice(), 125), (&["boot"], 1), (&["stop"], 1)] {
        let outcome = host.run([&["sbx-exec"], argv].concat(), "");
        assert_eq!((outcome.code, outcome.text().as_str(), outcome.stderr.as_str()), (code, "", ""), "{outcome}");
    }
}

#[test]
fn n09_a_record_that_is_not_of_this_process_or_boot_is_not_believed() {
    let host = Host::new();
    let document: Value = serde_json::from_slice(&created(&host)).expect("a document");
    boot(&host, document.to_string().as_bytes());
    let innocent = host.bash("sleep 1000 >/dev/null 2>&1 & echo $!").ok().text();
    let innocent: Value = serde_json::from_str(&innocent).expect("a pid");
    for (field, value) in [("startTime", json!(1)), ("bootId", json!("another")), ("pid", innocent.clone())] {
        let mut forged = document.clone();
        forged["sbx"]["state"]["holder"][field] = value;
        let run = host.run(["sbx-exec", "run", "--", "true"], forged.to_string());
        run.assert_failure(125, "sbx-exec", &["not running"]);
        // What is not the recorded one has ended: there is nothing to stop.
        host.run(["sbx-exec", "stop"], forged.to_string()).ok();
    }
    host.run(["sbx-exec", "run", "--", "true"], document.to_string()).ok();
    host.line(&format!("readlink /proc/{innocent}/exe")).ok();
}

#[test]
fn n09_boot_waits_for_the_command_and_stop_for_its_end() {
    let host = Host::new();
    let with_args = |args: &[&str]| {
        let mut document: Value = serde_json::from_slice(&created(&host)).expect("a document");
        document["process"]["args"] = json!(args);
        document.to_string().into_bytes()
    };
    let wait =
        |args: &[&str], stdin: &str| exec(&host, &with_args(args), &["boot", "--document", "3", "--wait"], stdin);
    let undo = || UNDOS.iter().for_each(|undo| drop(host.line(&format!("{undo} {}", host.name("c"))).ok()));
    let before = host.snapshot();
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)] {
        wait(&["sh", "-c", script], "").assert_code(code);
        undo();
    }
    assert_eq!(wait(&["tr", "a-z", "A-Z"], "hello").ok().text(), "HELLO");
    undo();
    for (command, status) in [("no-such-command", 127), ("/etc/passwd", 126)] {
        wait(&[command], "").assert_failure(status, "sbx-exec", &[command]);
        undo();
        host.run(["sbx-exec", "boot"], with_args(&[command])).assert_failure(1, "sbx-exec", &[command]);
        undo();
    }
    // One that ignores the stop signal is killed.
    let document = with_args(&["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    boot(&host, &document);
    host.run(["sbx-exec", "stop", "--timeout", "1"], document.clone()).ok();
    host.run(["sbx-exec", "run", "--", "true"], document.clone()).assert_failure(125, "sbx-exec", &["not running"]);
    // It is at its end, however it got there.
    host.run(["sbx-exec", "stop"], document).ok();
    undo();
    fs::remove_file(host.path("tmp/document")).expect("remove");
    host.assert_as(&before, "all undos");
}

#[test]
fn n09_boot_of_what_runs_tells_only_the_service_manager() {
    let host = Host::new();
    let document = created(&host);
    boot(&host, &document);
    let socket = UnixDatagram::bind(host.path("tmp/notify")).expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    let again = format!("NOTIFY_SOCKET={} sbx-exec boot", host.path("tmp/notify").display());
    host.run(["bash", "-c", &again], document.clone()).ok();
    let mut message = [0; 100];
    let length = socket.recv(&mut message).expect("a message");
    let holder = &serde_json::from_slice::<Value>(&document).expect("a document")["sbx"]["state"]["holder"]["pid"];
    assert_eq!(String::from_utf8_lossy(&message[..length]), format!("READY=1\nMAINPID={holder}"));
    host.run(["sbx-exec", "boot", "--wait"], document.clone()).assert_failure(125, "sbx-exec", &["runs already"]);
    host.run(["sbx-exec", "run", "--", "true"], document).ok();
}

#[test]
fn n10_a_bad_name_is_wrong_usage_on_the_command_line() {
    let long = "x".repeat(65);
    let bad = ["", ".", "..", ".a", "-a", "_a", "a/b", "../a", "a b", "a\nb", "a%n", "\u{e9}", long.as_str()];
    each(&FILTERS, |filter, host| {
        for name in bad {
            let outcome = host.run(filter.harmless(&["--name", name]), "");
            outcome.assert_failure(2, tool(filter.line), &["bad container name"]);
        }
    });
    each(with_names(), |line, host| {
        for name in bad {
            host.run(call(line, &["--", name]), "").assert_failure(2, tool(line), &["bad container name"]);
        }
    });
}

#[test]
fn n10_a_bad_name_in_a_document_is_a_failure_without_an_effect() {
    each(applies(), |filter, host| {
        let input: Value = serde_json::from_slice(&filter.input(host)).expect("a document");
        let before = host.snapshot();
        for name in [json!(""), json!(".."), json!("a/b"), json!("a\nb"), json!("x".repeat(65)), json!(7), json!([])] {
            let mut input = input.clone();
            input["sbx"]["name"] = name;
            host.run(filter.call(&[]), input.to_string()).assert_failure(1, tool(filter.line), &["sbx.name"]);
        }
        host.assert_as(&before, filter.line);
    });
}

#[test]
fn n10_a_name_of_64_bytes_works_everywhere() {
    let host = Host::new();
    let name = format!("{:x<64}", host.name(""));
    let before = host.snapshot();
    let document = FILTERS
        .iter()
        .filter(|filter| !filter.is_alternative())
        .fold(start(&name), |doc, filter| host.run(filter.call(&[]), doc).ok().stdout);
    let document: Value = serde_json::from_slice(&document).expect("a document");
    assert_eq!(document["hostname"], name.as_str());
    for undo in UNDOS {
        host.line(&format!("{undo} {name}")).ok();
    }
    host.assert_as(&before, "all undos");
}

#[test]
fn n11_help_names_every_verb_and_option() {
    each(all_lines(), |line, host| {
        let [tool, verb] = line.split(' ').take(2).collect::<Vec<_>>().try_into().expect("a verb");
        let help = host.line(&format!("{tool} --help")).ok();
        assert_eq!(help.stderr, "", "{help}");
        assert!(help.text().split_whitespace().any(|word| word == verb), "{help}");
        assert!(help.text().contains("--help") && help.text().contains("--version"), "{help}");
        let filter = FILTERS.iter().find(|filter| filter.line == *line);
        assert!(filter.is_none_or(|_| help.text().contains("--name NAME")), "{help}");
        assert!(filter.is_none_or(|filter| !filter.applies || help.text().contains("--dry-run")), "{help}");
        let version = host.line(&format!("{tool} --version")).ok();
        assert_eq!(version.text(), format!("{tool} {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(host.line(&format!("setpriv --reuid 65534 --clear-groups {tool} --help")).ok().text(), help.text());
    });
}

#[test]
fn n11_arguments_that_are_no_utf8_are_borne() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bad = [b"\xff".as_slice(), b"--\xff", b"--name=\xff", b"-\xff", b"a\xffb"].map(OsStr::from_bytes);
    each(all_lines(), |line, host| {
        for bad in bad {
            let mut argv: Vec<_> = call(line, &[]).into_iter().map(OsStr::new).collect();
            argv.insert(2, bad);
            assert_borne(host.run(&argv, start(&host.name("c"))), line);
            argv.swap(1, 2);
            assert_borne(host.run(&argv, start(&host.name("c"))), line);
        }
    });
}

#[test]
fn n11_fields_of_a_wrong_type_are_borne_without_an_effect() {
    let wrong = [
        json!(true),
        json!(-1),
        serde_json::from_str("18446744073709551616").expect("a number"),
        json!("\0\n"),
        json!(["x", 7]),
        json!({ "a": { "b": [] } }),
        json!([{ "path": 1, "type": "x", "destination": "..", "names": "a" }]),
    ];
    each(&FILTERS, |filter, host| {
        let input: Value = serde_json::from_slice(&filter.input(host)).expect("a document");
        let before = host.snapshot();
        for field in FILTERS.iter().flat_map(|filter| filter.owns).chain(&["sbx", "process", "linux", "sbx.state"]) {
            let (parents, field) = field.rsplit_once('.').unwrap_or(("", field));
            for value in &wrong {
                let mut input = input.clone();
                let parent = parents.split('.').filter(|key| !key.is_empty()).try_fold(&mut input, |value, key| {
                    value.as_object_mut().map(|object| object.entry(key).or_insert_with(|| json!({})))
                });
                parent.expect("an object")[field] = value.clone();
                assert_borne(host.run(filter.harmless(&[]), input.to_string()), filter.line);
            }
        }
        host.assert_as(&before, filter.line);
    });
}
