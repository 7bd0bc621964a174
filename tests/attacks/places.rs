//! Attacks on paths: a link, or another file, where a tool reads, writes or mounts.

use super::{Canary, state};
use crate::kills::is_long;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};
use support::Host;

// CVE-2013-6456: what was done to a running container's devices followed the links in its /dev.

#[test]
fn links_that_root_inside_puts_into_its_file_systems_lead_no_tool_outside() {
    let host = Host::small();
    let mut canary = Canary::new(&host);
    let name = host.running("a", "");
    let to = &canary.path;
    let plant =
        format!("ln -s {to} /dev/x; ln -s {to} /run/x; mv /etc/d /etc/old; ln -s {to} /etc/d; ln -s {to} /var/x");
    host.inside(&name, &plant).ok();
    let state = state(&host, &name).display().to_string();
    canary.assert_reached(&format!("mknod /proc/$(jq .sbx.state.holder.pid {state})/root/dev/x/made c 1 3"));
    let verbs = [
        format!("virt-sandbox-service set --memory 64M --pids 64 {name}"),
        format!("virt-sandbox-service upgrade {name}"),
        format!("virt-sandbox-service diff {name}"),
        format!("virt-sandbox-service export --force {name} >archive"),
        format!("virt-sandbox-service execute {name} -- true"),
        format!("sbx-label check {name}"),
        format!("sbx-cg freeze {name}; sbx-cg show {name}; sbx-cg thaw {name}"),
        format!("sbx-cg update <{state} | sbx-fs resize | sbx-net up"),
        format!("virt-sandbox-service stop {name}"),
        format!("virt-sandbox-service start {name}"),
        format!("virt-sandbox-service stop {name}"),
        format!("virt-sandbox-service delete {name}"),
    ];
    for verb in verbs {
        host.bash(&verb).ok();
        canary.assert_untouched(&verb);
    }
}

// CVE-2015-1335, CVE-2019-18837, CVE-2021-30465, CVE-2024-45310: a place to mount on, or to make, was another one by the time
// that its path was used.

/// Exchanges two names all the time while `work` is done.
fn while_exchanged<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("renameat2");
            }
        });
        // Also when it panics.
        let _stop = Stop(&is_done);
        work()
    })
}

#[test]
fn a_place_that_is_exchanged_for_a_link_while_it_is_mounted_on_is_never_outside() {
    let host = Host::small();
    let mut canary = Canary::new(&host);
    let name = host.name("a");
    host.line("mkdir data").ok();
    let data = host.path("tmp/data").display().to_string();
    host.service(&format!("create -m host-bind:/srv/spot/deep={data} {name} -- /bin/sleep 1000")).ok();
    let [spot, link] = ["srv/spot", "srv/link"].map(|place| host.tree(&name).join(place));
    fs::create_dir(&spot).expect("a directory");
    symlink(&canary.path, &link).expect("a link");
    let place = spot.display().to_string();
    let naive = format!(
        "for ((; SECONDS < 60; )); do
            ! [ -L {place} ] && mkdir -p {place}/deep && mount --bind {data} {place}/deep && umount {place}/deep
            [ ! -e canary/deep ] || break; done 2>/dev/null"
    );
    while_exchanged(&spot, &link, || canary.assert_reached(&naive));
    let count = if is_long() { 10_000 } else { 200 };
    let definition = host.definition(&name).display().to_string();
    let starts = format!(
        "for ((i = 0; i < {count}; i++)); do
            rmdir {place}/deep {}/deep 2>/dev/null
            sbx-ns create <{definition} | sbx-fs mount >/dev/null 2>>refused && echo; sbx-ns remove {name}; done | wc -l",
        link.display()
    );
    let mounted: usize = while_exchanged(&spot, &link, || {
        // As many as fit into the time that one command may take.
        let script = starts.replace(&count.to_string(), &(count / 20).to_string());
        (0..20).map(|_| host.bash(&script).ok().text().parse::<usize>().expect("a number")).sum()
    });
    canary.assert_untouched("starts");
    // Of both there were some.
    let refused = host.line("cat refused").ok().text();
    assert!(mounted > 0 && mounted + refused.lines().count() == count, "{mounted}: {refused}");
    assert!(refused.lines().all(|line| line.starts_with("sbx-fs: cannot mount ")), "{refused}");
    host.service(&format!("delete {name}")).ok();
    canary.assert_untouched("delete");
}

// CVE-2018-15664: a path was checked, and was another one by the time that it was copied from.

#[test]
fn a_place_that_is_exchanged_for_a_link_while_it_is_copied_is_never_outside() {
    let host = Host::small();
    let canary = Canary::new(&host);
    let name = host.running("a", "");
    let [spot, link] = ["srv/spot", "srv/link"].map(|place| host.tree(&name).join(place));
    fs::create_dir(&spot).expect("a directory");
    fs::write(spot.join("f"), "inside").expect("a file");
    symlink(&canary.path, &link).expect("a link");
    let place = spot.display().to_string();
    let naive = format!("until [ -L {place} ] || cp {place}/f got && grep untouched got; do :; done");
    while_exchanged(&spot, &link, || host.bash(&naive)).ok();
    let copies = "for i in {1..50}; do
        sbx-fs export --force NAME >archive && echo exported && ! grep -ao untouched archive
        rm -rf copy && sbx-fs clone --force TREE/srv copy && echo cloned && ! grep -rho untouched copy; done 2>&1"
        .replace("NAME", &name)
        .replace("TREE", &host.tree(&name).display().to_string());
    let said = while_exchanged(&spot, &link, || host.bash(&copies)).text();
    let copied = |what| said.lines().filter(|line| *line == what).count();
    assert!(copied("exported") == 50 && copied("cloned") == 50 && said.lines().count() == 100, "{said}");
}

// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867, CVE-2026-41579, CVE-2026-47766: a link in the place of
// the container's /proc, /sys or /dev.

#[test]
fn a_file_system_that_root_inside_replaces_by_a_link_before_a_start_does_not_reach_the_host() {
    let host = Host::small();
    let mut canary = Canary::new(&host);
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    let tree = host.tree(&name);
    let outside = canary.path.clone();
    for (place, naive) in [
        ("proc", "mount -t proc proc"),
        ("sys", "mount -t sysfs sysfs"),
        ("dev", "chmod 0700 . && cd . && touch --"),
        ("run", "mount -t tmpfs tmpfs"),
        ("tmp", "mount -t tmpfs tmpfs"),
    ] {
        let (path, aside) = (tree.join(place), tree.join("aside"));
        let existed = fs::rename(&path, &aside).is_ok();
        for target in [outside.as_str(), "/var/opt"] {
            symlink(target, &path).expect("a link");
            if target == outside {
                let made = if place == "dev" { "/made" } else { "" };
                canary.assert_reached(&format!("{naive} {}{made}", path.display()));
            }
            let start = host.service(&format!("start {name}"));
            canary.assert_untouched(place);
            if ["proc", "sys", "dev"].contains(&place) {
                let start = start.assert_code(1);
                assert!(start.stderr.contains(&format!("a symbolic link is in the way to /{place}")), "{start}");
            }
            host.service(&format!("stop {name}")).ok();
            canary.assert_untouched(place);
            fs::remove_file(&path).expect("unlink");
        }
        if existed {
            fs::rename(&aside, &path).expect("rename");
        }
    }
    host.service(&format!("start {name}")).ok();
}

// CVE-2025-31133, CVE-2025-62161: a mask that was bound from what the container had as /dev/null.

#[test]
fn masks_are_of_the_null_device_whatever_lies_in_its_place() {
    let host = Host::small();
    let name = host.name("a");
    host.service(&format!("create {name} -- /bin/sleep 1000")).ok();
    host.bash("mkdir dev && cd dev && ln -s /proc/sys/kernel/core_pattern null && mkdir pts shm mqueue").ok();
    let (dev, definition) = (host.path("tmp/dev").display().to_string(), host.definition(&name));
    let definition = definition.display().to_string();
    // As one could who binds the path.
    let naive = format!("mount --bind {dev}/null /proc/keys && cmp /proc/keys /proc/sys/kernel/core_pattern");
    host.run(["unshare", "--mount", "--", "bash", "-c", &naive], "").ok();
    let bound = format!(
        r#"(.mounts[] | select(.destination == "/dev")) = {{destination: "/dev", type: "bind", source: "{dev}"}}"#
    );
    host.edit(&name, &bound);
    let core = host.line("cat /proc/sys/kernel/core_pattern").ok().text();
    let shown = format!(
        "pid=$(sbx-ns create <{definition} | sbx-fs mount | jq .sbx.state.holder.pid) && cd /proc/$pid/root &&
        jq -r '.linux.maskedPaths[] | .[1:]' {definition} | while read -r path; do
            [ ! -e $path ] || [ -d $path ] || stat -c '%F %t:%T' $path; done | sort -u; sbx-ns remove {name}"
    );
    assert_eq!(host.bash(&shown).ok().text(), "character special file 1:3");
    assert_eq!(host.line("cat /proc/sys/kernel/core_pattern").ok().text(), core);
    // And where the host's own is another file.
    host.bash("echo canary >file").ok();
    let replaced = format!("mount --bind file /dev/null && exec sbx-fs mount --dry-run <{definition}");
    let refused = host.run(["unshare", "--mount", "--", "bash", "-c", &replaced], "");
    refused.assert_failure(1, "sbx-fs", &["/dev/null", "it is not the character device 1:3"]);
    assert_eq!(host.line("cat file").ok().text(), "canary");
}

// CVE-2019-16884, CVE-2025-52881, CVE-2025-62596, CVE-2015-1334, CVE-2015-3631: what was written to /proc went elsewhere. That a
// label is, and what else may be mounted over a file, is tried in sbx/src/procfs.rs.

#[test]
fn what_is_written_to_proc_arrives_whatever_is_mounted_there() {
    let host = Host::small();
    let name = host.name("a");
    // The mount below is the host's root's, which in another user namespace could make none.
    host.service(&format!("create --userns host {name} -- /bin/sleep 1000")).ok();
    host.edit(&name, ".process.oomScoreAdj = 500");
    host.service(&format!("start {name}")).ok();
    let swallow = "mkdir -p /etc/proc/self /etc/proc/thread-self && touch /etc/proc/self/oom_score_adj \
        /etc/proc/thread-self/oom_score_adj && mount --bind /etc/proc /proc";
    let enter = format!("nsenter --target {} --mount --pid --", host.holder(&name));
    host.bash(&format!("{enter} sh -c '{swallow}'")).ok();
    let score = |command: &str, seconds: u32| {
        let find =
            format!("until pid=$(pgrep -x -f 'sleep {seconds}'); do sleep 0.02; done; cat /proc/$pid/oom_score_adj");
        host.bash(&format!("{command} >/dev/null 2>&1 & {find}; kill $pid")).ok().text()
    };
    assert_eq!(score(&format!("{enter} sh -c 'echo 500 >/proc/self/oom_score_adj && exec sleep 2000'"), 2000), "0");
    assert_eq!(score(&format!("virt-sandbox-service execute {name} -- sleep 3000"), 3000), "500");
}

// CVE-2024-9341, CVE-2024-5154, CVE-2025-9566, CVE-2025-24965: what a runtime itself wrote into a tree followed its links.

#[test]
fn links_in_a_private_tree_lead_no_verb_outside() {
    let plants = [
        ("etc", "canary", "cp /etc/group R/etc/"),
        ("etc/resolv.conf", "canary/f", "cp /etc/group R/etc/resolv.conf"),
        ("etc/passwd", "canary/f", "sed -i --follow-symlinks s/root/toor/ R/etc/passwd; cp /etc/passwd R/etc/passwd"),
        ("etc/d", "canary", "rm -r R/etc/d/*"),
        ("etc/systemd/system", "canary/d", "touch R/etc/systemd/system/sbx.target"),
        ("var/log", "canary", "touch R/var/log/journal"),
        ("var", "..", ""),
    ];
    for (place, target, naive) in plants {
        let host = Host::small();
        let mut canary = Canary::new(&host);
        let [name, copy] = ["a", "b"].map(|name| host.name(name));
        host.unit("idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
        host.service(&format!("create -u idle {name}")).ok();
        let tree = host.tree(&name);
        let path = tree.join(place);
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        let target = if target == ".." { target.into() } else { host.path("tmp").join(target) };
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        symlink(target, &path).expect("a link");
        if !naive.is_empty() {
            canary.assert_reached(&naive.replace('R', &tree.display().to_string()));
        }
        // Something for an upgrade to do.
        host.bash("echo new >>/etc/d/file; echo new:x:99: >>/etc/group; echo >/etc/d/new").ok();
        for verb in ["upgrade", "diff", "export", "set --memory 64M", "start", "stop"] {
            let outcome = host.service(&format!("{verb} {name}"));
            assert!([0, 1].contains(&outcome.code), "{outcome}");
            canary.assert_untouched(&format!("{place}: {verb}"));
            assert!(!outcome.text().contains("untouched"), "{place}: {outcome}");
        }
        host.service(&format!("clone {name} {copy}"));
        canary.assert_untouched(&format!("{place}: clone"));
        host.bash(&format!("! grep -rq untouched {}", host.tree(&copy).display())).ok();
        for name in [&name, &copy] {
            host.service(&format!("delete {name}"));
            canary.assert_untouched(&format!("{place}: delete"));
            assert!(!host.tree(name).exists(), "{place}");
        }
    }
}

// CVE-2015-2925: a directory that was renamed out of what was bound.

#[test]
fn a_directory_that_the_host_renames_out_of_a_share_leads_its_guests_nowhere() {
    let host = Host::small();
    let name = host.name("a");
    host.bash("mkdir -p share/one share/two && echo x >secret").ok();
    let share = host.path("tmp/share").display().to_string();
    let leave = "mkdir q(in); select undef, undef, undef, .02 until -e q(moved);
        for (1..40) { chdir q(..); $reached = 1 if -e q(secret) } print $reached ? q(reached) : q(held)";
    let rename = |name: &str| {
        format!("until [ -e share/{name}/in ]; do sleep 0.02; done; mv share/{name} . && mkdir {name}/moved; wait")
    };
    // The root of a process, where nothing is mounted, does not hold it.
    let naive = format!("perl -e 'chdir q(share/one); chroot q(..) or die; {leave}' & {}", rename("one"));
    assert_eq!(host.bash(&naive).ok().text(), "reached");
    host.service(&format!("create -m host-bind:/srv={share} {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    let guest = format!("virt-sandbox-service execute {name} -- perl -e 'chdir q(/srv/two) or die; {leave}'");
    assert_eq!(host.bash(&format!("{guest} & {}", rename("two"))).ok().text(), "held");
}

#[test]
fn a_link_in_a_shared_directory_leads_no_mount_to_another_place_of_the_host() {
    let host = Host::new();
    let name = host.name("a");
    let [data, outside] = ["tmp/data", "tmp/outside"].map(|path| host.path(path));
    for directory in [data.join("conf"), outside.clone()] {
        fs::create_dir_all(directory).expect("a directory");
    }
    symlink(&data, host.path("tmp/link")).expect("a link");
    // The administrator's own link is followed, once.
    let link = host.path("tmp/link").display().to_string();
    let mounts = format!("-m host-bind:/srv={} -m host-bind:/opt/conf={link}/conf", data.display());
    host.service(&format!("create {mounts} {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    host.inside(&name, "touch /opt/conf/x && rm /srv/conf/x && umask 0").ok();
    host.service(&format!("stop {name}")).ok();
    // As root inside could, through the directory above.
    fs::remove_dir(data.join("conf")).expect("remove");
    symlink(&outside, data.join("conf")).expect("a link");
    let start = host.service(&format!("start {name}")).assert_code(1);
    assert!(start.stderr.contains("a symbolic link is in the way to"), "{start}");
    assert_eq!(host.service("list -r").ok().text(), "");
}

#[test]
fn a_link_inside_leads_no_second_mount_to_what_is_masked_at_the_first() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create -m guest-bind:/srv=/var/opt {name} -- /bin/sleep 1000")).ok();
    let tree = host.tree(&name);
    for place in ["/proc", "/usr", "/run"] {
        // As root inside could.
        let opt = tree.join("var/opt");
        let _ = fs::remove_file(&opt);
        let _ = fs::remove_dir(&opt);
        symlink(place, &opt).expect("a link");
        let start = host.service(&format!("start {name}")).assert_code(1);
        assert!(start.stderr.contains("it is not in the container's private tree"), "{start}");
    }
    assert_eq!(host.service("list -r").ok().text(), "");
}
