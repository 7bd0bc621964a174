//! What people read and what their shell completes, held to what the tools and scripts do.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Host, scripts, skip};

/// The project's directory.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const COMMANDS: [&str; 9] =
    ["sbx-label", "sbx-ns", "sbx-cg", "sbx-fs", "sbx-net", "sbx-unit", "sbx-exec", "virt-sandbox-service", SANDBOX];

/// It has no verbs: it takes any command.
const SANDBOX: &str = "virt-sandbox";

/// Asks for the completion of the last of its words, as the shell does.
const COMPLETE: &str = r#"
    . "$1" && shift
    read -r _ _ function _ < <(complete -p "$1")
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    "$function" "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What a command can be called with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interface {
    verbs: BTreeSet<String>,
    options: BTreeSet<String>,
}

impl Interface {
    /// As `--help` has it: verbs in the lines of usage, options anywhere.
    fn of_help(host: &Host, command: &str) -> Self {
        let help = host.run([command, "--help"], "").ok().text();
        let usage = help.lines().filter_map(|line| {
            let call = line.trim_start_matches("usage:").trim_start().strip_prefix(command)?.strip_prefix(' ')?;
            call.split(' ').next().filter(|word| word.starts_with(char::is_lowercase))
        });
        let words = help.split(|c: char| c.is_whitespace() || "[],;|".contains(c));
        let options = words.filter(|word| word.starts_with('-') && word.contains(char::is_alphabetic));
        Self { verbs: usage.map(str::to_owned).collect(), options: options.map(str::to_owned).collect() }
    }

    /// As the source of the man page has it: verbs are `Cm` in the synopsis, options `Fl` anywhere (mdoc(7)).
    fn of_man_page(command: &str) -> Self {
        let section = if command == SANDBOX { 1 } else { 8 };
        let page = format!("{ROOT}/docs/man/{command}.{section}");
        let page = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page}: {error}"));
        let mut interface = Self::default();
        let mut section = "";
        for line in page.lines().filter_map(|line| line.strip_prefix('.')) {
            section = line.strip_prefix("Sh ").unwrap_or(section);
            let mut name = "";
            for word in line.split_whitespace() {
                match (word.as_bytes(), name) {
                    ([b'A'..=b'Z', b'a'..=b'z'], _) => name = word,
                    (_, "Fl") if word.contains(char::is_alphabetic) => {
                        interface.options.insert(format!("-{word}"));
                    }
                    (_, "Cm") if section == "SYNOPSIS" && word.contains(char::is_alphabetic) => {
                        interface.verbs.insert(word.to_owned());
                    }
                    _ => {}
                }
            }
        }
        interface
    }

    /// As it is completed after the command, and after each of its verbs.
    fn of_completion(host: &Host, command: &str) -> Self {
        let verbs = if command == SANDBOX { BTreeSet::new() } else { completion(host, &[command, ""]) };
        let options = verbs.iter().flat_map(|verb| completion(host, &[command, verb, "-"]));
        let options = options.chain(completion(host, &[command, "-"])).collect();
        Self { verbs, options }
    }
}

fn completion(host: &Host, words: &[&str]) -> BTreeSet<String> {
    let file = scripts().join("completions.bash").display().to_string();
    let outcome = host.run([&["bash", "-c", COMPLETE, "bash", &file], words].concat(), "").ok();
    assert_eq!(outcome.stderr, "", "{outcome}");
    outcome.text().lines().map(str::to_owned).collect()
}

/// Whether a command, or a verb of it, knows an option. It is given without a value, a name or a document, and so has
/// no effect.
fn takes(host: &Host, call: &[&str], option: &str) -> bool {
    let stderr = host.run([call, &[option]].concat(), "").stderr;
    // What is not understood is quoted; so is, by the tools, the option whose value is missing.
    stderr.contains("missing argument") || !stderr.contains(&format!("'{option}'"))
}

/// The files of a kind below a directory, but for what is built or hidden.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut found = Vec::new();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
    found
}

#[test]
fn help_man_page_and_completion_agree_on_verbs_and_options() {
    let host = Host::new();
    for command in COMMANDS {
        let help = Interface::of_help(&host, command);
        assert_eq!(help.verbs.is_empty(), command == SANDBOX, "{command}: {help:?}");
        assert!(help.options.contains("--help"), "{command}: {help:?}");
        assert_eq!(Interface::of_man_page(command), help, "{command}: the man page (left) and --help");
        assert_eq!(Interface::of_completion(&host, command), help, "{command}: the completion (left) and --help");
    }
}

#[test]
fn a_verb_takes_the_options_that_are_completed_for_it_and_no_others() {
    let host = Host::new();
    for command in COMMANDS {
        let Interface { verbs, options } = Interface::of_completion(&host, command);
        let calls = verbs.iter().map(|verb| vec![command, verb]).chain([vec![command]]);
        for call in calls {
            let completed = completion(&host, &[&*call, &["-"]].concat());
            let taken = options.iter().filter(|option| takes(&host, &call, option)).cloned().collect();
            assert_eq!(completed, taken, "{}: completed (left) and taken", call.join(" "));
        }
    }
}

#[test]
fn every_man_page_is_clean() {
    let pages: Vec<_> =
        fs::read_dir(format!("{ROOT}/docs/man")).expect("pages").map(|page| page.expect("a page").path()).collect();
    match Command::new("mandoc").args(["-Tlint", "-W", "warning"]).args(pages).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => skip("mandoc is not installed"),
        output => {
            let output = output.expect("mandoc");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

#[test]
fn every_link_to_a_file_of_the_project_leads_to_one() {
    let mut broken = Vec::new();
    for page in files(ROOT.as_ref(), "md") {
        let text = fs::read_to_string(&page).expect("a page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next()) {
            if !link.contains(':') && !page.with_file_name(link).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn every_example_is_named_in_their_readme() {
    let examples = scripts().join("examples");
    let readme = fs::read_to_string(examples.join("README.md")).expect("a README");
    for example in fs::read_dir(examples).expect("examples") {
        let name = example.expect("an example").file_name().into_string().expect("a name");
        assert!(name == "README.md" || readme.contains(&name), "{name} is not in the README");
    }
}

/// The allow rules of the policy: who, what, class.
fn rules_of_the_policy() -> BTreeSet<[String; 3]> {
    let policy = fs::read_to_string(format!("{ROOT}/sbx-label/policy/sbx.cil")).expect("the policy");
    let rules = policy.lines().flat_map(|line| line.split("(allow ").skip(1));
    let rule = |rule: &str| {
        let mut words = rule.split(['(', ')', ' ']).filter(|word| !word.is_empty()).map(str::to_owned);
        [words.next(), words.next(), words.next()].map(|word| word.expect("a word of a rule"))
    };
    rules.map(rule).collect()
}

/// Those that a table explains: each row is for all of its subjects, objects and classes.
fn rules_explained() -> BTreeSet<[String; 3]> {
    let page = fs::read_to_string(format!("{ROOT}/docs/selinux.md")).expect("the page");
    let (_, page) = page.split_once("## The rules").expect("the rules");
    let (rules, _) = page.split_once("## Denials").expect("the denials");
    let mut explained = BTreeSet::new();
    for row in rules.lines().filter(|line| line.starts_with("| sbx")) {
        let cells: Vec<Vec<&str>> = row.split('|').map(|cell| cell.split_whitespace().collect()).collect();
        for who in &cells[1] {
            for what in &cells[2] {
                explained.extend(cells[3].iter().map(|class| [*who, *what, *class].map(str::to_owned)));
            }
        }
    }
    explained
}

#[test]
fn each_rule_of_the_policy_has_its_reason_and_each_reason_a_rule() {
    assert_eq!(rules_explained(), rules_of_the_policy(), "explained (left) and in the policy");
}

/// The numbers of CVEs in a text.
fn cves(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '-').map(|word| word.trim_matches('-'));
    words.filter(|word| word.len() > 8 && word.as_bytes()[4] == b'-').collect()
}

#[test]
fn each_attack_of_the_table_has_its_test_or_the_reason_why_there_is_none() {
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file");
    let attacks = read(format!("{ROOT}/tests/attacks.rs").into());
    let tests: String = files(format!("{ROOT}/tests").as_ref(), "rs").into_iter().map(read).collect();
    let security = read(format!("{ROOT}/SECURITY.md").into());
    let rows: Vec<_> = attacks.lines().filter(|line| line.starts_with("//! | 20")).collect();
    for row in &rows {
        let names: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        let missing = names.iter().find(|name| !tests.contains(&format!("\nfn {name}() {{")));
        assert_eq!(missing, None, "{row}");
        assert!(!names.is_empty() || cves(row).is_subset(&cves(&security)), "{row}");
    }
    let headings = tests.lines().filter(|line| line.starts_with("// CVE-"));
    let told = headings.flat_map(cves).collect::<BTreeSet<_>>();
    assert!(told.is_subset(&cves(&rows.concat())), "{told:?}");
}
