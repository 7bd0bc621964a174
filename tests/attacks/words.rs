//! Attacks by words: of a document, a command line, a setting, a unit, a user.

use super::Canary;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::{Host, skip};

/// The verbs of virt-sandbox-service.
const VERBS: [&str; 17] = [
    "create", "clone", "start", "stop", "enable", "disable", "list", "execute", "connect", "reload", "refresh",
    "upgrade", "diff", "export", "import", "set", "delete",
];

// CVE-2022-0811: a sysctl whose value smuggled in another.

#[test]
fn a_document_that_asks_for_a_sysctl_is_refused_whatever_the_value() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let definition = host.definition(&name).display().to_string();
    // As one who hands on all of them as one word, here with one that is this host's alone.
    let naive = "tr + '\\n' <<<kernel/shm_rmid_forced=1+kernel/domainname=smuggled |
        while IFS== read -r key value; do echo $value >/proc/sys/$key; done; cat /proc/sys/kernel/domainname";
    assert_eq!(host.bash(naive).ok().text(), "smuggled");
    let core = "/proc/sys/kernel/core_pattern";
    let before = host.line(&format!("cat {core}")).ok().text();
    let sysctls = [
        r#"{"kernel.shm_rmid_forced": "1"}"#,
        r#"{"kernel.shm_rmid_forced": "1+kernel.core_pattern=x"}"#,
        r#"{"kernel.shm_rmid_forced": "1\nkernel.core_pattern=x"}"#,
        r#"{"kernel.core_pattern": "|/x"}"#,
    ];
    for sysctl in sysctls {
        host.edit(&name, &format!(".linux.sysctl = {sysctl}"));
        let key = if sysctl.contains("|/x") { "kernel.core_pattern" } else { "kernel.shm_rmid_forced" };
        let words = ["linux.sysctl", key, "cannot be set"];
        host.bash(&format!("sbx-ns create <{definition}")).assert_failure(1, "sbx-ns", &words);
        let start = host.service(&format!("start {name}")).assert_code(1);
        assert!(start.stderr.contains(words[2]), "{start}");
        assert_eq!(host.line(&format!("cat {core}")).ok().text(), before);
    }
}

// CVE-2025-23266: a hook took over what the container had in its environment; or the container what its caller had.

#[test]
fn no_hook_is_run_and_no_environment_crosses() {
    let host = Host::small();
    let mut canary = Canary::new(&host);
    let name = host.name("a");
    host.bash("printf '#!/bin/sh\nenv >%s/canary/hook\n' \"$PWD\" >hook && chmod +x hook").ok();
    canary.assert_reached("./hook");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let hook = host.path("tmp/hook").display().to_string();
    let hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let hooks = hooks.map(|kind| format!(r#"{kind}: [{{path: "{hook}"}}]"#)).join(", ");
    host.edit(&name, &format!(r#".hooks = {{{hooks}}} | .process.env += ["BASH_ENV={hook}"]"#));
    let leak = "export LEAK=canary LD_LIBRARY_PATH=/canary; ";
    host.bash(&format!("{leak} grep -z canary /proc/self/environ")).ok();
    host.bash(&format!("{leak} virt-sandbox-service start {name}")).ok();
    let seen = host.bash(&format!("{leak} virt-sandbox-service execute {name} -- cat /proc/self/environ")).ok();
    assert!(!seen.text().contains("canary/") && !seen.text().contains("LEAK"), "{seen}");
    host.service(&format!("stop {name}")).ok();
    canary.assert_untouched("a life with hooks");
}

// CVE-2024-32462, CVE-2020-17368: a word that was taken for an option, or for a line of a shell.

#[test]
fn words_that_look_like_options_or_like_a_shells_are_words() {
    let host = Host::small();
    let mut canary = Canary::new(&host);
    let name = host.name("a");
    let words = [
        "$(touch canary/made)",
        "`touch canary/made`",
        "; touch canary/made",
        "&& touch canary/made",
        "|touch canary/made",
    ];
    for word in words {
        canary.assert_reached(&format!("true {word}"));
    }
    let programs = ["--bind", "--document", "-c", "--"];
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    for program in words.iter().chain(&programs) {
        let file = host.tree(&name).join("etc").join(program.replace('/', "_"));
        fs::write(&file, "#!/bin/sh\nprintf '%s|' ran \"$@\"\n").expect("a program");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    host.edit(&name, r#".process.env |= map(select(startswith("PATH=") | not)) + ["PATH=/etc:/usr/bin"]"#);
    host.service(&format!("start {name}")).ok();
    let all: Vec<_> = words.iter().chain(&programs).copied().collect();
    for program in &all {
        let program = program.replace('/', "_");
        let ran = host.run([&["virt-sandbox-service", "execute", &name, "--", &program], &all[..]].concat(), "").ok();
        assert_eq!(ran.text(), format!("ran|{}|", all.join("|")));
    }
    let refused = |line: &[&str]| {
        let outcome = host.run([&["virt-sandbox-service"], line].concat(), "");
        assert!([1, 2].contains(&outcome.code), "{outcome}");
    };
    for word in all {
        VERBS.iter().for_each(|verb| refused(&[verb, "--", word, "--", "true"]));
        for option in ["-u", "--memory", "-m", "--uid", "--hostname", "-s", "-p", "--store"] {
            refused(&["create", option, word, &host.name("b"), "--", "true"]);
        }
        canary.assert_untouched(word);
    }
}

// CVE-2026-40226: settings were read from a file beside the container's root.

#[test]
fn settings_beside_or_inside_a_root_are_not_read() {
    let host = Host::small();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let tree = host.tree(&name);
    let definition = host.definition(&name).display().to_string();
    let loose = ".process.noNewPrivileges = false | .process.rlimits = []";
    let settings = "[Exec]\nPrivateUsers=no\nNoNewPrivileges=no\nCapability=all\n[Files]\nBind=/\n";
    for place in ["etc/sbx", "run/sbx", "etc/systemd/nspawn", "root", ".", "..", "../.."] {
        let place = tree.join(place);
        fs::create_dir_all(&place).expect("a directory");
        for file in [
            format!("{name}.nspawn"),
            "root.nspawn".into(),
            "config.json".into(),
            format!("{name}.json"),
            "settings".into(),
        ] {
            if file.ends_with(".json") {
                host.bash(&format!("jq -c '{loose}' {definition} >{}", place.join(file).display())).ok();
            } else {
                fs::write(place.join(file), settings).expect("settings");
            }
        }
    }
    let privileges = || {
        host.service(&format!("start {name}")).ok();
        let status = host.inside(&name, "grep -E '^(NoNewPrivs|Cap.*|Seccomp)' /proc/self/status").ok().text();
        host.service(&format!("stop {name}")).ok();
        status
    };
    let before = privileges();
    assert!(before.contains("NoNewPrivs:\t1"), "{before}");
    // The same settings, where they are read.
    host.edit(&name, loose);
    assert!(privileges().contains("NoNewPrivs:\t0"));
}

// No CVE: a word that ended, or changed, the line of a unit that it was written to.

/// What systemd itself takes a unit for, as its `--test` tells whoever is not root.
fn as_systemd_reads(host: &Host, unit: &str, lines: &str) -> String {
    let script = format!(
        "mkdir -p -m 755 /run/read && cp -- {unit} /run/read && chmod 644 /run/read/* && cd / &&
        exec setpriv --reuid 65534 --regid 65534 --clear-groups env -i SYSTEMD_UNIT_PATH=/run/read: \
            /lib/systemd/systemd --test --system --unit=\"$(basename {unit})\" 2>/dev/null |
        sed -n \"/-> Unit $(basename {unit}):/,/-> Unit .*_sandbox.target/p\" | grep -aE '{lines}' | sed 's/^\\s*//'"
    );
    host.bash(&script).text()
}

#[test]
fn what_systemd_reads_of_a_unit_is_what_was_written() {
    if !Path::new("/lib/systemd/systemd").exists() {
        return skip("systemd is not installed");
    }
    let host = Host::small();
    let name = host.name("a");
    let place = host.path("tmp/a b %h $x; y").display().to_string();
    fs::create_dir(&place).expect("a directory");
    host.unit("odd@.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    host.run(["virt-sandbox-service", "create", "-p", &place, "-u", r"odd@b\x2dc.service", &name], "").ok();
    let unit = host.path("units").join(format!("{name}_sandbox.service")).display().to_string();
    let lines = as_systemd_reads(&host, &unit, "RequiresMountsFor: .*a b|Command Line: .*reload");
    assert!(lines.contains(&format!("RequiresMountsFor: {place} (origin-file)")), "{lines}");
    assert!(lines.contains(r#"virt-sandbox-service reload -u "odd@b\\x2dc.service" "#), "{lines}");
    // Words that are not written as a unit wants them are others.
    host.bash(&format!(
        "printf '[Unit]\nRequiresMountsFor=%s\n[Service]\nExecStart=/bin/true\n' '{place}' >naive.service"
    ))
    .ok();
    let naive = as_systemd_reads(&host, "naive.service", "RequiresMountsFor: ");
    assert!(!naive.is_empty() && !naive.contains(&format!("{place} ")), "{naive}");
    for bad in ["a\nExecStart=/bin/x", "a\\", "a\"", "a'"] {
        let place = host.path("tmp").join(bad).display().to_string();
        fs::create_dir_all(&place).expect("a directory");
        let before = host.snapshot();
        let refused =
            host.run(["virt-sandbox-service", "create", "-p", &place, &host.name("b"), "--", "/bin/true"], "");
        assert!(refused.code == 1 && refused.stderr.lines().count() == 1, "{refused}");
        host.assert_as(&before, bad);
    }
}

// CVE-2016-3697, CVE-2017-1000082, CVE-2026-30892: a number was looked up as a name, or what is no number was taken for one.

#[test]
fn a_user_is_the_exact_number_whatever_users_are_called() {
    let host = Host::small();
    let name = host.running("a", "");
    for file in ["passwd", "group"] {
        let numbers =
            ["1000", "1", "0day", "+1", "-1", " 1", "4294967295"].map(|number| format!("{number}:x:0:0::/:\n"));
        fs::write(host.tree(&name).join("etc").join(file), numbers.concat()).expect("a file");
    }
    let id = |user: &str| {
        let execute = ["virt-sandbox-service", "execute", "--user", user, &name, "--", "bash", "-c"];
        host.run(execute.iter().chain(&["id -u; id -g; id -G"]), "")
    };
    let root = format!("/proc/{}/root", host.holder(&name));
    assert_eq!(host.run(["chroot", "--userspec", "1000", &root, "/usr/bin/id", "-u"], "").ok().text(), "0");
    for number in ["1000", "1", "54321"] {
        assert_eq!(id(number).ok().text(), [number; 3].join("\n"));
        assert_eq!(id(&format!("7:{number}")).ok().text(), ["7", number, number].join("\n"));
    }
    for bad in
        ["0day", "1:", "+1", "-1", "4294967295", " 1", "1 ", ":", ":0", "1:0day", "1:+1", "1:-1", "0x0", "nobody\n"]
    {
        id(bad).assert_failure(125, "sbx-exec", &["bad user"]);
    }
    id("").assert_failure(2, "virt-sandbox-service", &["--user needs a value"]);
    id("none").assert_failure(125, "sbx-exec", &["no user none in /etc/passwd"]);
}

// CVE-2022-2995, CVE-2022-36109: a command had the groups of whoever started it, or not all of its user.

#[test]
fn a_command_is_in_the_groups_of_its_user_and_in_no_other() {
    let host = Host::small();
    let name = host.running("a", "");
    fs::write(host.tree(&name).join("etc/passwd"), "root:x:0:0::/root:\nweb:x:33:34::/:\n").expect("a file");
    let group = "root:x:0:\nweb:x:34:\nlog:x:4:other,web\nno:x:5:webx\nagain:x:4:web\nbad:x:6:web:\nmail:x:8:web\n";
    fs::write(host.tree(&name).join("etc/group"), group).expect("a file");
    let with_groups = |argv: &[&str]| {
        let argv = [&["setpriv", "--groups", "0,42", "--"], argv].concat();
        host.run(argv, "").ok().text()
    };
    let enter = ["nsenter", "--target", &host.holder(&name), "--mount", "--"];
    let careless = ["setpriv", "--reuid", "33", "--regid", "34", "--keep-groups", "id", "-G"];
    assert_eq!(with_groups(&[&enter, careless.as_slice()].concat()), "34 0 42");
    for (user, groups) in [("web", "34 4 8"), ("33", "34 4 8"), ("web:log", "4"), ("33:9", "9"), ("7", "7"), ("0", "0")]
    {
        let execute = ["virt-sandbox-service", "execute", "--user", user, &name, "--"];
        assert_eq!(with_groups(&[&execute, ["id", "-G"].as_slice()].concat()), groups, "{user}");
        // The group of the user is among those that a program of another group would keep.
        let status =
            with_groups(&[&execute, ["sed", "-n", "s/^Groups:\\s*//p", "/proc/self/status"].as_slice()].concat());
        let mut kept: Vec<_> = groups.split(' ').collect();
        kept.sort_by_key(|gid| gid.parse::<u32>().ok());
        assert_eq!(status.split_whitespace().collect::<Vec<_>>(), kept, "{user}");
    }
    let execute = ["virt-sandbox-service", "execute", &name, "--", "id", "-G"];
    assert_eq!(with_groups(&execute), "0");
}

// CVE-2022-4318: a value of the environment was written to passwd, and had lines of its own.

#[test]
fn no_variable_adds_a_line_to_passwd() {
    let host = Host::small();
    let name = host.running("a", "");
    // As entrypoints do that give their user a name.
    let entrypoint = "echo \"me:x:$UID:0::$HOME:/bin/sh\" >>/etc/passwd; grep -c ^r::0:0: /etc/passwd";
    let passwd = host.tree(&name).join("etc/passwd");
    let before = fs::read(&passwd).expect("passwd");
    let home = "HOME=/\nr::0:0::/:";
    let enter = ["nsenter", "--target", &host.holder(&name), "--mount", "--", "env", home, "bash", "-c", entrypoint];
    assert_eq!(host.run(enter, "").ok().text(), "1");
    fs::write(&passwd, &before).expect("passwd");
    for variable in [home, "HOME=/:", "USER=r::0:0::/:\n", "LOGNAME=a:b", "SHELL=/bin/sh\nr::0:0::/:", "HOME", "=x"] {
        let execute = ["virt-sandbox-service", "execute", "--env", variable, &name, "--", "bash", "-c", entrypoint];
        host.run(execute, "").assert_failure(125, "sbx-exec", &["bad variable"]);
        host.edit(&name, &format!(".process.env += [{}]", serde_json::json!(variable)));
        host.service(&format!("stop {name}")).ok();
        assert_eq!(host.service(&format!("start {name}")).code, 1, "{variable}");
        host.edit(&name, ".process.env |= .[:-1]");
        host.service(&format!("start {name}")).ok();
    }
    assert_eq!(fs::read(&passwd).expect("passwd"), before);
}
