//! scripts/install, into a root of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use support::{Host, Outcome, scripts};

/// The files below a directory, links included, by their paths.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

fn install(host: &Host, root: &Path, arguments: &str) -> Outcome {
    let script = scripts().join("install");
    // Not with what the tests have in their PATH: it has an `install` of its own.
    host.bash(&format!(
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin DESTDIR={} {} {arguments}",
        root.display(),
        script.display()
    ))
}

#[test]
fn what_is_installed_works_and_is_taken_away_again() {
    let host = Host::new();
    let root = host.path("tmp/root");
    let (apt, foreign) = (root.join("etc/apt/apt.conf.d"), root.join("opt/x/sbin/foreign"));
    for directory in [&apt, &root.join("opt/x/sbin")] {
        fs::create_dir_all(directory).expect("a directory");
    }
    fs::write(&foreign, "not ours").expect("a file");
    let before = files(&root);

    install(&host, &root, "--prefix /opt/x").ok();
    let installed = files(&root);
    install(&host, &root, "--prefix /opt/x").ok();
    assert_eq!(files(&root), installed, "installed again (left) and once");
    for (directory, script) in [("bin", "virt-sandbox"), ("sbin", "virt-sandbox-service")] {
        let version = host.run([root.join("opt/x").join(directory).join(script), "--version".into()], "").ok().text();
        assert_eq!(version, format!("{script} {}", env!("CARGO_PKG_VERSION")));
    }
    for path in [
        "man/man1/virt-sandbox.1",
        "man/man8/sbx-stop.8",
        "man/man7/sbx.7",
        "bash-completion/completions/sbx-ns",
        "sbx/sbx.cil",
    ] {
        assert!(root.join("opt/x/share").join(path).is_file(), "{path} leads to nothing");
    }
    let hook = fs::read_to_string(apt.join("90sbx")).expect("the hook");
    assert!(hook.contains("/opt/x/sbin/virt-sandbox-service refresh"), "{hook}");

    // The store of another root is that of its containers.
    fs::create_dir_all(root.join("etc/sbx")).expect("a directory");
    fs::write(root.join("etc/sbx/a.json"), "{}").expect("a definition");
    install(&host, &root, "--prefix /opt/x --remove").assert_failure(1, "install", &["etc/sbx/a.json"]);
    fs::remove_file(root.join("etc/sbx/a.json")).expect("a definition");
    for _ in 0..2 {
        install(&host, &root, "--prefix /opt/x --remove").ok();
        assert_eq!(files(&root), before, "left over (left)");
    }
}

#[test]
fn a_program_of_somebody_else_s_is_not_replaced() {
    let host = Host::new();
    let root = host.path("tmp/root");
    let foreign = root.join("usr/local/sbin/sbx-ns");
    fs::create_dir_all(foreign.with_file_name("")).expect("a directory");
    fs::write(&foreign, "not ours").expect("a file");
    install(&host, &root, "").assert_failure(1, "install", &["sbx-ns is not ours"]);
    install(&host, &root, "--remove").ok();
    assert_eq!(fs::read_to_string(&foreign).expect("the file"), "not ours");
}
