//! What attacked programs like this one, by CVE: each attack is first made against the same state without our care, by the
//! call that the attacked program made, and reaches what it must not reach; then the real tools do the same work.
//!
//! | CVE | test, or why there is none |
//! | --- | --- |
//! | 2013-6456 | `links_that_root_inside_puts_into_its_file_systems_lead_no_tool_outside` |
//! | 2015-1335, 2019-18837, 2021-30465, 2024-45310 | `a_place_that_is_exchanged_for_a_link_while_it_is_mounted_on_is_never_outside` |
//! | 2019-19921, 2023-27561, 2023-28642, 2025-54867, 2026-41579, 2026-47766 | `a_file_system_that_root_inside_replaces_by_a_link_before_a_start_does_not_reach_the_host` |
//! | 2025-31133, 2025-62161 | `masks_are_of_the_null_device_whatever_lies_in_its_place` |
//! | 2015-1334, 2015-3631, 2019-16884, 2025-52881, 2025-62596 | `what_is_written_to_proc_arrives_whatever_is_mounted_there`, sbx/src/procfs.rs |
//! | 2024-5154, 2024-9341, 2025-24965, 2025-9566 | `links_in_a_private_tree_lead_no_verb_outside` |
//! | 2015-2925 | `a_directory_that_the_host_renames_out_of_a_share_leads_its_guests_nowhere` |
//! | 2015-1331, 2021-44731 | `nothing_is_made_at_a_name_that_others_could_have_taken` |
//! | 2021-41091 | `nobody_else_passes_through_the_directories_of_containers` |
//! | 2016-8659, 2020-5291 | `a_tool_that_is_set_user_id_refuses_whoever_it_would_give_rights_to` |
//! | 2022-31214 | `a_record_of_a_process_that_is_not_in_the_containers_cgroup_is_neither_entered_nor_killed`, `a_record_that_others_could_have_written_is_not_believed`, `a_process_that_got_the_pid_of_one_that_has_ended_is_not_taken_for_it` |
//! | 2022-0811 | `a_document_that_asks_for_a_sysctl_is_refused_whatever_the_value` |
//! | 2020-15257 | `no_socket_of_ours_is_in_the_abstract_name_space` |
//! | 2025-23266 | `no_hook_is_run_and_no_environment_crosses` |
//! | 2020-17368, 2024-32462 | `words_that_look_like_options_or_like_a_shells_are_words` |
//! | 2026-40226 | `settings_beside_or_inside_a_root_are_not_read` |
//! | 2019-5736 | `a_holders_program_cannot_be_written_and_it_is_small`, `a_program_that_enters_a_container_cannot_be_written_there` |
//! | 2021-41133, 2017-5226, 2019-10063 | `a_program_inside_finds_the_calls_that_the_page_names_and_no_others` in hardening.rs |
//! | 2022-0185, 2022-0492 | `neither_namespaces_nor_hierarchies_are_made_inside` in hardening.rs |
//! | 2023-25809 | `an_init_has_the_cgroups_below_its_own_and_a_command_none` in hardening.rs |
//! | 2022-1227 | `no_program_of_the_container_runs_outside_of_it` in hardening.rs |
//! | 2022-27649, 2022-27650, 2022-29162, 2025-27612 | `no_capability_is_inherited_whatever_is_added` in hardening.rs |
//! | 2015-3630, 2018-10892 | `what_changes_the_host_is_not_opened_for_writing` in hardening.rs |
//! | 2018-6764, 2019-14271 | `nothing_of_the_container_is_loaded_before_the_command` in hardening.rs |
//! | 2018-15664 | `a_place_that_is_exchanged_for_a_link_while_it_is_copied_is_never_outside` |
//! | 2019-10144 | `an_executed_command_is_as_confined_as_the_container`, `an_executed_command_is_as_confined_as_a_service` in cases.rs |
//! | 2016-3697, 2017-1000082, 2026-30892 | `a_user_is_the_exact_number_whatever_users_are_called` |
//! | 2022-2995, 2022-36109 | `a_command_is_in_the_groups_of_its_user_and_in_no_other` |
//! | 2022-4318 | `no_variable_adds_a_line_to_passwd` |
//! | 2024-21626 | `nothing_of_the_caller_leaks_into_an_executed_command` in cases.rs, `no_directory_of_the_hosts_is_entered_by_a_descriptor` |
//! | 2016-8649, 2016-9962 | `a_process_that_enters_shows_no_descriptor_of_the_hosts` |
//! | 2016-7545, 2016-10124 | `nothing_inside_types_on_the_callers_terminal` in terminal.rs |
//! | 2015-3627, 2025-52565 | `no_link_inside_is_opened_for_a_terminal` in terminal.rs |
//! | 2021-20199 | `a_published_port_tells_who_came_and_leads_from_wherever` in net.rs |
//! | 2014-8989, 2017-5985, 2022-47952, 2026-39402, 2026-40224 | SECURITY.md: attacks that cannot apply |
//!
//! Without a CVE: names that lead elsewhere, `a_bad_name_is_wrong_usage_in_every_verb` in refusals.rs; words that end a line of a
//! unit, `what_systemd_reads_of_a_unit_is_what_was_written`; what a killed verb leaves, kills.rs.

use crate::kills::{can_trace, is_long};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};
use support::{Host, skip};

/// The verbs of virt-sandbox-service.
const VERBS: [&str; 17] = [
    "create", "clone", "start", "stop", "enable", "disable", "list", "execute", "connect", "reload", "refresh",
    "upgrade", "diff", "export", "import", "set", "delete",
];

/// A place of the host's that nothing inside may reach, and what is there.
struct Canary<'a> {
    host: &'a Host,
    path: String,
    before: String,
}

/// All that is in a place, and what is mounted anywhere.
const LOOK: &str = "{ find canary -maxdepth 2 -printf '%p %i %y %m %U %G %s %l %T@ %C@\\n' | sort
    cat canary/f canary/null canary/d/f; cat /proc/self/mountinfo; } 2>/dev/null";

impl<'a> Canary<'a> {
    fn new(host: &'a Host) -> Self {
        let mut canary = Self { host, path: host.path("tmp/canary").display().to_string(), before: String::new() };
        canary.renew();
        canary
    }

    fn renew(&mut self) {
        let make = "rm -rf canary && mkdir -p canary/d && echo untouched | tee canary/f canary/null canary/d/f";
        self.host.bash(make).ok();
        self.before = self.host.bash(LOOK).ok().text();
    }

    /// Asserts that what is done without our care, in mounts of its own, reaches it.
    #[track_caller]
    fn assert_reached(&mut self, script: &str) {
        let all = format!("{LOOK} >before; {script}; {LOOK} >after; ! cmp before after");
        self.host.run(["unshare", "--mount", "--", "bash", "-c", &all], "").ok();
        self.renew();
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        assert_eq!(self.host.bash(LOOK).ok().text(), self.before, "{what}");
    }
}

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

// CVE-2015-1331, CVE-2021-44731: names that could be foretold, in directories that all share.

/// What a script makes in directories that all share, at names that are not new for certain.
fn made_in_shared_places(host: &Host, script: &str) -> Vec<String> {
    let calls = "?open,openat,?creat,?mkdir,mkdirat,?mknod,mknodat,?symlink,symlinkat,?link,linkat,bind";
    host.run(["strace", "-f", "-qq", "-o", "trace", "-e", &format!("trace={calls}"), "bash", "-c", script], "").ok();
    let trace = host.line("cat trace").ok().text();
    let shared = ["\"/tmp/", "\"/var/tmp/", "\"/dev/shm/", "\"/run/lock/"];
    let makes = |line: &&str| !line.contains("open") || line.contains("O_CREAT") && !line.contains("O_EXCL");
    trace
        .lines()
        .filter(|line| shared.iter().any(|place| line.contains(place)))
        .filter(makes)
        .map(str::to_owned)
        .collect()
}

/// Has scripts use the places that there are without an environment that names others.
const BUILT_IN: &str = "unset SBX_CONFIG_DIR SBX_STATE_DIR SBX_RUNTIME_DIR SBX_UNIT_DIR SBX_JOURNAL_DIR;";

#[test]
fn nothing_is_made_at_a_name_that_others_could_have_taken() {
    let host = Host::new().with_own(&["etc", "var"]);
    if !can_trace() {
        return;
    }
    assert_eq!(made_in_shared_places(&host, "mktemp; echo >/tmp/sbx.lock; rm /tmp/sbx.lock").len(), 1);
    let name = host.name("a");
    let life = [
        "create -C NAME -- /bin/sleep 1000",
        "start NAME",
        "execute NAME -- true",
        "upgrade NAME",
        "stop NAME",
        "delete NAME",
    ];
    let life = life.map(|verb| format!("virt-sandbox-service {}", verb.replace("NAME", &name))).join(" && ");
    assert_eq!(made_in_shared_places(&host, &format!("{BUILT_IN} {life}")), [""; 0]);
}

// CVE-2021-41091: whoever could pass through the directories of containers could use what is set-user-ID in them.

#[test]
fn nobody_else_passes_through_the_directories_of_containers() {
    let host = Host::new().with_own(&["etc", "var"]);
    let name = host.name("a");
    let create =
        format!("virt-sandbox-service create -C {name} -- /bin/sleep 1000 && virt-sandbox-service start {name}");
    host.bash(&format!("{BUILT_IN} {create}")).ok();
    let tree = format!("/var/lib/sbx/containers/{name}/root");
    host.bash(&format!("cp /usr/bin/id {tree}/var/opt && chmod 4755 {tree}/var/opt/id")).ok();
    // setpriv itself has its rights until it has executed something.
    let nobody = |rights: &str, command: &str| {
        host.bash(&format!("{BUILT_IN} exec setpriv --reuid 65534 --clear-groups {rights} env -- {command}"))
    };
    let attacks = [
        format!("{tree}/var/opt/id -u"),
        "ls /var/lib/sbx".to_owned(),
        "ls /run/sbx".to_owned(),
        format!("ls /var/lib/sbx/containers/{name}"),
        format!("cat /run/sbx/{name}/document.json"),
        format!("cat /etc/sbx/{name}.json"),
        format!("perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(qq(/run/sbx/{name}/control)) or die'"),
        "ln -s /etc /run/sbx/link".to_owned(),
    ];
    for attack in &attacks {
        let refused = nobody("", attack);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{refused}");
    }
    for verb in ["list", &format!("execute {name} -- id")] {
        let reading = "--inh-caps +dac_read_search --ambient-caps +dac_read_search";
        nobody(reading, &format!("virt-sandbox-service {verb}")).assert_failure(1, "virt-sandbox-service", &["root"]);
    }
    host.bash("chmod 0755 /var/lib/sbx /var/lib/sbx/containers /var/lib/sbx/containers/*").ok();
    assert_eq!(nobody("", &attacks[0]).ok().text(), "0");
}

// CVE-2016-8659, CVE-2020-5291: a program that is set-user-ID believed what its caller handed it.

#[test]
fn a_tool_that_is_set_user_id_refuses_whoever_it_would_give_rights_to() {
    let host = Host::new();
    // Where others can execute it.
    host.bash("mkdir -m 755 /run/open && chmod 755 .. .").ok();
    let as_nobody = |program: &str, arguments: &str| {
        let name = program.rsplit('/').next().unwrap_or_default();
        let copy = format!("cp -- {program} /run/open/{name} && chmod 4755 /run/open/{name}");
        host.bash(&format!("{copy} && exec setpriv --reuid 65534 --clear-groups /run/open/{name} {arguments}"))
    };
    assert_eq!(as_nobody("/usr/bin/id", "-u").ok().text(), "0");
    for tool in ["sbx-unit", "sbx-label", "sbx-ns", "sbx-cg", "sbx-fs", "sbx-net", "sbx-exec"] {
        let program = support::binaries().join(tool).display().to_string();
        as_nobody(&program, "--version").assert_failure(1, tool, &["set-user-ID"]);
    }
}

// CVE-2022-31214: whoever joined a container believed a record that others had forged.

/// The running document that is kept of a container.
fn state(host: &Host, name: &str) -> PathBuf {
    host.path("runtime").join(name).join("document.json")
}

/// Has the state of a container name another process, which is the one that has this pid now.
fn forge(host: &Host, name: &str, pid: &str) {
    let file = state(host, name).display().to_string();
    let started = format!("sed 's/.*) //' /proc/{pid}/stat | cut -d ' ' -f 20");
    let edit = ".sbx.state.holder.pid = ($pid | tonumber) | .sbx.state.holder.startTime = ($start | tonumber)";
    let script = format!(
        "start=$({started}) && jq -c --arg pid {pid} --arg start \"$start\" '{edit}' {file} >new && cat new >{file}"
    );
    host.bash(&script).ok();
}

#[test]
fn a_record_of_a_process_that_is_not_in_the_containers_cgroup_is_neither_entered_nor_killed() {
    let host = Host::new();
    let [name, other] = ["a", "b"].map(|name| host.running(name, ""));
    let bystander = host.bash("sleep 1000 >/dev/null 2>&1 & echo $!").ok().text();
    for (pid, leads_to) in [(bystander, "/"), (host.holder(&other), "/run/b")] {
        host.inside(&other, "touch /run/b").ok();
        forge(&host, &name, &pid);
        // Who goes by the record comes out at another place.
        host.bash(&format!(
            "test -e /proc/$(jq .sbx.state.holder.pid {})/root{leads_to}",
            state(&host, &name).display()
        ))
        .ok();
        let words = [&pid, "is not in the cgroup of container", name.as_str()];
        host.line(&format!("sbx-ns show {name}")).assert_failure(1, "sbx-ns", &words);
        let forged = state(&host, &name).display().to_string();
        for verb in
            ["sbx-exec run -- touch /run/entered", "sbx-exec stop", "sbx-net up", "sbx-fs mount", "sbx-fs resize"]
        {
            let outcome = host.bash(&format!("exec {verb} <{forged}"));
            assert!(outcome.code != 0 && outcome.stderr.contains(words[1]), "{outcome}");
        }
        assert_ne!(host.inside(&name, "true").code, 0);
        host.line(&format!("sbx-ns remove {name}")).assert_failure(1, "sbx-ns", &words);
        host.line(&format!("sbx-ns remove {name}")).ok();
        host.bash(&format!("kill -0 {pid} && ! test -e /proc/{pid}/root/run/entered")).ok();
        host.service(&format!("start {name}")).ok();
    }
}

#[test]
fn a_record_that_others_could_have_written_is_not_believed() {
    let host = Host::new();
    let name = host.running("a", "");
    let file = state(&host, &name).display().to_string();
    let directory = host.path("runtime").join(&name).display().to_string();
    let forgeries = [
        (format!("chown 65534 {file}"), format!("chown 0 {file}")),
        (format!("chmod 0622 {file}"), format!("chmod 0600 {file}")),
        (format!("chown 65534 {directory}"), format!("chown 0 {directory}")),
        (format!("chmod 0777 {directory}"), format!("chmod 0700 {directory}")),
        (format!("mv {file} other && ln -s \"$PWD/other\" {file}"), format!("mv other {file}")),
    ];
    for (forge, restore) in forgeries {
        host.bash(&forge).ok();
        let show = host.line(&format!("sbx-ns show {name}")).assert_code(1);
        assert!(show.stderr.contains(&file), "{forge}: {show}");
        host.inside(&name, "true").assert_code(125);
        host.bash(&restore).ok();
        host.inside(&name, "true").ok();
    }
}

#[test]
fn a_process_that_got_the_pid_of_one_that_has_ended_is_not_taken_for_it() {
    let host = Host::new();
    let name = host.running("a", "");
    let pid = host.holder(&name);
    let script = format!(
        "kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done
        until echo $(({pid} - 1)) >/proc/sys/kernel/ns_last_pid; sleep 1000 >/dev/null 2>&1 & [ $! = {pid} ]; do kill $!; done"
    );
    host.bash(&script).ok();
    // Who goes by the pid alone finds it alive.
    host.bash(&format!("kill -0 $(jq .sbx.state.holder.pid {})", state(&host, &name).display())).ok();
    host.line(&format!("sbx-ns show {name}")).assert_failure(1, "sbx-ns", &[&name, "is not running"]);
    host.inside(&name, "true").assert_code(125);
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    assert_eq!(host.bash(&format!("cat /proc/{pid}/comm")).ok().text(), "sleep");
}

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

// CVE-2020-15257: a socket in the abstract name space, where no mode of a file protects it.

#[test]
fn no_socket_of_ours_is_in_the_abstract_name_space() {
    let host = Host::small();
    let name = host.name("a");
    let abstract_ones = "grep @ /proc/net/unix";
    let other =
        "perl -MSocket -e '$^F = 9; socket(S, 1, 1, 0); bind(S, pack_sockaddr_un(qq(\\0x))) or die; exec @ARGV'";
    assert!(host.bash(&format!("{other} {abstract_ones}")).ok().text().ends_with("@x"));
    host.unit("idle.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    host.service(&format!("create -u idle {name}")).ok();
    let watched =
        format!("virt-sandbox-service start {name} & while kill -0 $! 2>/dev/null; do {abstract_ones}; done; wait $!");
    let started = host.bash(&watched).ok();
    assert_eq!(started.text(), "");
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

// No CVE: what we have found ourselves.

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
        ["0day", "1:", "+1", "-1", "4294967295", " 1", "1 ", "", ":", ":0", "1:0day", "1:+1", "1:-1", "0x0", "nobody\n"]
    {
        id(bad).assert_failure(125, "sbx-exec", &["bad user"]);
    }
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

#[test]
fn a_signal_to_its_group_does_not_leave_the_container() {
    let host = Host::new();
    let name = host.running("a", "");
    let script = |kill: &str| format!("sleep 1000 & {kill}; kill -0 $! && echo alive");
    host.bash(&script("bash -c 'kill -9 0'")).assert_code(137);
    let execute = format!("virt-sandbox-service execute {name} -- bash -c 'kill -9 0'");
    let outcome = host.bash(&format!("{}; kill $!", script(&execute))).ok();
    assert_eq!(outcome.text(), "alive", "{outcome}");
}

#[test]
fn the_hosts_null_device_is_not_reached_through_a_stream() {
    let host = Host::new();
    let name = host.name("a");
    // With a user namespace it has a pipe in the place of each stream.
    host.service(&format!("create --userns host {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    let outside = host.bash("exec </dev/null; chmod 0666 /proc/self/fd/0 && echo changed").ok();
    assert_eq!(outside.text(), "changed");
    let chmod = "chmod 0666 /proc/self/fd/0 /proc/1/fd/0 2>&1";
    let inside = host.bash(&format!("virt-sandbox-service execute {name} -- bash -c '{chmod}' </dev/null"));
    assert_eq!(inside.code, 1, "{inside}");
    assert!(inside.text().contains("Read-only file system"), "{inside}");
    // It is a null device all the same.
    let written = host.inside(&name, "echo x >/dev/null && echo written").ok();
    assert_eq!(written.text(), "written");
}

#[test]
fn a_command_may_have_fewer_capabilities_than_its_init_needs_to_start_it() {
    let host = Host::new();
    let name = host.name("a");
    host.service(&format!("create --uid 33 {name} -- /bin/sleep 1000")).ok();
    host.edit(&name, ".process.capabilities = {}");
    host.service(&format!("start {name}")).ok();
    let status = host.inside(&name, "sed -nE 's/^(Uid|CapEff|CapBnd):\\s*(\\S+).*/\\2/p' /proc/self/status").ok();
    assert_eq!(status.text(), "33\n0000000000000000\n0000000000000000");
}

#[test]
fn a_name_that_ends_like_a_lock_is_a_container_of_its_own() {
    let host = Host::new();
    let (one, other) = (host.running("a", ""), host.running("a.lock", ""));
    assert_eq!(host.service("list --running").ok().text(), format!("{one}\n{other}"));
}

#[test]
fn an_init_that_does_not_get_ready_does_not_hold_boot_beyond_its_time() {
    let host = Host::new();
    let name = host.name("a");
    // It talks all the time, and its preloaded library makes each program that boot asks wait for ever.
    host.unit("never.service", "[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sleep 1000\n");
    host.service(&format!("create -u never.service {name}")).ok();
    let library = host.tree(&name).join("etc/wait.so");
    let source = host.path("tmp/wait.c");
    let wait = "#include <unistd.h>\n#include <string.h>\nextern char *program_invocation_short_name;\n\
        __attribute__((constructor)) static void wait(void) { if (!strcmp(program_invocation_short_name, \"systemctl\")) pause(); }\n";
    fs::write(&source, wait).expect("a source");
    host.bash(&format!("gcc -D_GNU_SOURCE -shared -fPIC -o {} {}", library.display(), source.display())).ok();
    fs::write(host.tree(&name).join("etc/ld.so.preload"), "/etc/wait.so\n").expect("a file");
    let definition = host.definition(&name);
    let bring_up = "sbx-cg create | sbx-ns create | sbx-net up | sbx-fs mount";
    let begin = std::time::Instant::now();
    let boot = host.bash(&format!("<{} {bring_up} | sbx-exec boot --timeout 2", definition.display()));
    assert_eq!(boot.code, 1, "{boot}");
    assert!(boot.stderr.contains("systemctl is-active --quiet -- never.service: no answer in time"), "{boot}");
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
}

#[test]
fn cgroups_that_root_inside_has_made_deeper_than_a_path_is_long_are_removed() {
    let host = Host::new();
    let name = host.name("a");
    host.unit("idle.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    let before = host.snapshot();
    host.service(&format!("create -u idle.service {name}")).ok();
    host.service(&format!("start {name}")).ok();
    let deep = "cd /sys/fs/cgroup/systemd 2>/dev/null || cd /sys/fs/cgroup; n=$(printf 'd%.0s' {1..200}); \
        for i in {1..30}; do mkdir $n && cd $n || exit; done; pwd | wc -c";
    let length: usize = host.inside(&name, deep).ok().text().parse().expect("a number");
    assert!(length > 4096, "{length}");
    // An init that was stopped would have tidied up.
    host.line(&format!("sbx-ns remove {name}")).ok();
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn there_is_no_audit_inside_rather_than_one_that_refuses() {
    let host = Host::new();
    let name = host.running("a", "");
    let socket = |protocol| format!("perl -e 'socket(S, 16, 3, {protocol}) and print \"made\" or print $!'");
    // Of routes, then of audit: netlink(7).
    assert_eq!(host.inside(&name, &socket(0)).ok().text(), "made");
    assert_eq!(host.inside(&name, &socket(9)).ok().text(), "Address family not supported by protocol");
}
