//! What attacked programs like ours (the CVE numbers stand with each test): every attack is first shown to work against
//! a run that lacks the defence.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use support::Host;

/// A host with a running container of one command.
fn running(host: &Host, options: &str) -> String {
    let name = host.name("a");
    host.service(&format!("create {options} {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    name
}

/// Compiles a program of tests/programs into the container's tree, where it is `/root/PROGRAM`.
fn compile(host: &Host, container: &str, program: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(program).with_extension("c");
    let target = host.tree(container).join("root").join(program);
    host.run(
        ["cc", "-static", "-O1", "-Wall", "-Werror", "-o"].map(Path::new).into_iter().chain([&*target, &*source]),
        "",
    )
    .ok();
}

/// CVE-2019-5736: a program inside is the one that enters, and somebody inside holds it open and writes to it later.
#[test]
fn the_program_that_enters_a_container_cannot_be_written_to_from_inside() {
    let host = Host::new();
    let name = running(&host, "");
    compile(&host, &name, "overwrite");
    std::os::unix::fs::symlink("/proc/self/exe", host.tree(&name).join("root/evil")).expect("a link");
    // What the attack wrote, and whether a copy of the program has changed. It waits inside for a while.
    let attack = |program: &str, enter: &str, waits: &str| -> (String, bool) {
        let copy = host.path("tmp").join(program);
        host.bash(&format!("cp \"$(command -v {program})\" {}", copy.display())).ok();
        let (inode, before) = (fs::metadata(&copy).expect("a copy").ino(), fs::read(&copy).expect("a copy"));
        let enter_and_wait = format!("./{program} {enter} /root/evil {waits}");
        let outcome = host.bash(&format!(
            "{{ sleep 20 | {enter_and_wait} 3<document; }} >/dev/null 2>&1 &
             {program} {enter} /root/overwrite {inode} 3<document"
        ));
        (outcome.ok().text(), fs::read(&copy).expect("a copy") != before)
    };
    let document = host.line(&format!("sbx-ns show {name}")).ok();
    fs::write(host.path("tmp/document"), &document.stdout).expect("a document");
    let holder = document.json()["sbx"]["state"]["holder"]["pid"].clone();
    let namespaces = format!("--target {holder} --all --");
    let weak = attack("nsenter", &namespaces, "--pid=/proc/self/ns/pid sleep 20");
    assert_eq!(weak, ("open\nwritten".to_owned(), true));
    let ours = attack("sbx-exec", "run --document 3 --", "profile");
    assert_eq!(ours, ("open\nRead-only file system".to_owned(), false));
}
