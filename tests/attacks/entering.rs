//! Attacks on who enters a container: its program, its descriptors.

use crate::kills::is_long;
use std::fs;
use support::Host;

// CVE-2019-5736: the container wrote to the program that the host had started it with.

#[test]
fn a_holders_program_cannot_be_written_and_it_is_small() {
    let host = Host::small();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    // A program of its own: one that runs elsewhere too could not be written anyway.
    fs::copy(support::binaries().join("sbx-ns"), host.path("bin/sbx-ns")).expect("a program");
    let definition = host.definition(&name).display().to_string();
    let start = "sbx-cg create | sbx-ns create | sbx-fs mount | sbx-exec boot >/dev/null 2>&1";
    host.bash(&format!("<{definition} {start}")).ok();
    let write = |pid: &str, end: &str| format!("exec 9</proc/{pid}/exe && {end}; echo x >>/proc/self/fd/9");
    // Whoever has it open can write to a program that has ended.
    let other = "cp /usr/bin/sleep . && { ./sleep 1000 & until [ /proc/$!/exe -ef sleep ]; do :; done; }";
    host.bash(&format!("{other}; {}", write("$!", "kill $!; wait $!"))).ok();
    let holder = host.holder(&name);
    let share = format!("sed -nE 's/^Pss:\\s*([0-9]+) kB/\\1/p' /proc/{holder}/smaps_rollup");
    let kilobytes: u32 = host.bash(&share).ok().text().parse().expect("a number");
    assert!(kilobytes < 1024, "{kilobytes} KiB");
    let written = host.bash(&write(&holder, &format!("sbx-ns remove {name}"))).assert_code(1);
    assert!(written.stderr.contains("Read-only file system"), "{written}");
}

#[test]
fn a_program_that_enters_a_container_cannot_be_written_there() {
    let host = Host::small();
    let name = host.name("a");
    // Root inside is the owner of the host's programs.
    host.service(&format!("create --userns host {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    let interpreters = "printf '#!/proc/self/exe\\n' >/root/naive; printf '#!/proc/self/exe run\\n' >/root/ours";
    host.inside(&name, &format!("{interpreters}; chmod 0755 /root/naive /root/ours")).ok();
    // Programs of their own: those that run elsewhere too could not be written anyway.
    fs::copy("/usr/bin/nsenter", host.path("tmp/enter")).expect("a program");
    fs::copy(support::binaries().join("sbx-exec"), host.path("bin/sbx-exec")).expect("a program");
    let inside = format!("nsenter --target {} --mount --pid", host.holder(&name));
    let attack = |script: &str| {
        let find = format!("until pid=$(grep -lx {script} /proc/[0-9]*/comm | cut -d / -f 3) && [ $pid ]; do :; done");
        let busy = r#"case $said in *"file busy") ;; *) echo "$said" >&2; exit 1 ;; esac"#;
        let write = format!("until said=$({{ echo x >>/proc/self/fd/9; }} 2>&1); do {busy}; done");
        format!("{inside} bash -c '{find}; exec 9</proc/$pid/exe; kill -9 $pid; {write}'")
    };
    host.bash(&format!("./{} /root/naive & {}", inside.replace("nsenter", "enter"), attack("naive"))).ok();
    // Which calls itself as it has been called.
    let ours = format!("sleep 1000 | virt-sandbox-service execute {name} -- /root/ours & {}", attack("exe"));
    let written = host.bash(&format!("trap 'kill $(jobs -p)' EXIT; set -m; {ours}")).assert_code(1);
    assert!(written.stderr.contains("Read-only file system"), "{written}");
}

// CVE-2024-21626: a working directory that was a descriptor of whoever started the command.

#[test]
fn no_directory_of_the_hosts_is_entered_by_a_descriptor() {
    let host = Host::small();
    let name = host.running("a", "");
    let here = host.path("tmp").display().to_string();
    let with_descriptors = |command: &str| host.bash(&format!("touch marker; exec 9<{here} 4</; {command}"));
    let careless =
        format!("nsenter --target {} --mount --pid -- bash -c 'cd /proc/self/fd/9 && ls'", host.holder(&name));
    assert!(with_descriptors(&careless).ok().text().contains("marker"));
    for number in 3..20 {
        for options in ["", "--user 33"] {
            let execute = format!("virt-sandbox-service execute {options} --cwd /proc/self/fd/{number} {name} -- ls");
            let outcome = with_descriptors(&execute).assert_code(125);
            assert!(outcome.stderr.contains("working directory") && outcome.text().is_empty(), "{outcome}");
        }
    }
}

// CVE-2016-8649, CVE-2016-9962: root inside traced a process that was about to enter, and had its descriptors.

/// As root inside, who may trace: for each process that comes, looks for a descriptor that leads to the canary, and whether it
/// may be traced, as whoever opens its memory may (ptrace(2)).
const TRACES: &str = r#"
    sub comm { open(my $f, '<', "/proc/$_[0]/comm") ? <$f> // '' : '' }
    $| = 1;
    print "begun\n";
    while (! -e '/root/stop') {
        opendir my $proc, '/proc' or die;
        for my $pid (grep /^\d+$/, readdir $proc) {
            next if $pid == $$ || $pid == 1;
            for my $fd (glob "/proc/$pid/fd/*") {
                my $file = readlink $fd // next;
                print "reached $file\n" if $file =~ /canary/ && open(my $f, '<', $fd);
            }
            print "traced\n" if comm($pid) =~ /sbx-exec/ && open(my $f, '+<', "/proc/$pid/mem") && comm($pid) =~ /sbx-exec/;
        }
    }
"#;

#[test]
fn a_process_that_enters_shows_no_descriptor_of_the_hosts() {
    let host = Host::small();
    let name = host.name("a");
    // More than the profile gives: the capability with which every process of its own can be traced. With the host's users it
    // would be every process: SECURITY.md.
    host.service(&format!("create --userns auto {name} -- /bin/sleep 1000")).ok();
    let add = |set: &str| format!(".process.capabilities.{set} += [\"CAP_SYS_PTRACE\"]");
    host.edit(&name, &["bounding", "effective", "permitted"].map(add).join(" | "));
    host.service(&format!("start {name}")).ok();
    fs::write(host.tree(&name).join("root/traces"), TRACES).expect("a script");
    let traced = |enter: &str| {
        let attack = format!("virt-sandbox-service execute {name} -- perl /root/traces >said");
        let script = format!(
            "echo secret >canary; ({attack}) & until grep -q begun said; do :; done; exec 9<canary; {enter}
             virt-sandbox-service execute {name} -- touch /root/stop; wait; sort -u said; virt-sandbox-service execute {name} -- rm /root/stop"
        );
        host.bash(&script).ok().text()
    };
    let namespaces = format!("--target {} --user --mount --pid --setuid 0 --setgid 0", host.holder(&name));
    let careless = traced(&format!("for i in {{1..10}}; do nsenter {namespaces} -- sleep 0.1; done"));
    assert!(careless.contains("reached") && careless.contains("canary"), "{careless}");
    let count = if is_long() { 1000 } else { 300 };
    let ours = format!(
        "sbx-ns show {name} >document; for i in {{1..{count}}}; do sbx-exec run --document 3 -- true 3<document; done"
    );
    assert_eq!(traced(&ours), "begun");
}
