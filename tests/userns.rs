//! Containers whose users are their own.

use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use support::{Host, skip};

/// Whether the store, a tmpfs, can have other ids.
fn can_map() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|number| number.parse().ok()).take(2).collect();
    let can = numbers.as_slice() >= &[6, 3];
    if !can {
        skip("a tmpfs can map ids since Linux 6.3");
    }
    can
}

/// The first user and group of a container, as its claim says.
fn first(host: &Host, name: &str) -> u32 {
    let claims =
        fs::read_dir(host.path("state/claims/ids")).expect("claims").map(|claim| claim.expect("a claim").path());
    let own = claims.filter(|claim| fs::read_link(claim).is_ok_and(|owner| owner == std::path::Path::new(name)));
    let [own] = own.collect::<Vec<_>>().try_into().expect("one claim");
    let ids = own.file_name().and_then(|ids| ids.to_str()).expect("ids");
    let [uid, gid, size] = ids.split(':').map(|id| id.parse().expect("a number")).collect::<Vec<u32>>()[..] else {
        panic!("{ids}");
    };
    assert_eq!((gid, size), (uid, 65_536));
    uid
}

#[test]
fn root_inside_is_nobody_outside_and_in_another_container() {
    if !can_map() {
        return;
    }
    let host = Host::new();
    let names = ["a", "b"].map(|name| host.running(name, "--userns auto"));
    let [one, other] = [0, 1].map(|index| first(&host, &names[index]));
    assert!(one.abs_diff(other) >= 65_536, "{one} {other}");
    for (name, first) in names.iter().zip([one, other]) {
        let ids = host.bash(&format!("sed -nE 's/^(Uid|Gid):\\s*//p' /proc/{}/status", host.holder(name))).ok().text();
        let four = [first; 4].map(|id| id.to_string()).join("\t");
        assert_eq!(ids, format!("{four}\n{four}"));
        assert_eq!(host.inside(name, "id -u; id -g; id -G").ok().text(), "0\n0\n0");
        host.inside(name, "umask 077 && echo secret >/root/secret && echo secret >/tmp/secret").ok();
    }
    let [plain, same] = ["c", "d"].map(|name| host.running(name, "--userns host"));
    for name in [&plain, &same] {
        host.inside(name, "umask 077 && echo secret >/root/secret && echo secret >/tmp/secret").ok();
    }
    // Root of one container without any capability, as if it had got out of its namespaces and into another's mounts.
    let drop = "--clear-groups --inh-caps -all --bounding-set -all";
    let escaped = |id: u32, name: &str, command: &str| {
        let pid = host.holder(name);
        host.bash(&format!("nsenter --target {pid} --mount setpriv --reuid {id} --regid {id} {drop} {command}"))
    };
    for attack in ["cat /tmp/secret", "cat /root/secret", "chmod 0644 /tmp/secret", "touch /etc/passwd"] {
        escaped(one, &names[0], attack).ok();
        escaped(one, &names[1], attack).assert_code(1);
        // The ids of all without user namespaces are the same, and the host's.
        escaped(0, &same, attack).ok();
    }
    let signal = |id: u32, name: &str| {
        host.bash(&format!("setpriv --reuid {id} --regid {id} {drop} bash -c 'kill -0 {}'", host.holder(name)))
    };
    signal(one, &names[0]).ok();
    signal(one, &names[1]).assert_code(1);
    signal(one, &same).assert_code(1);
    signal(0, &same).ok();
}

#[test]
fn files_keep_their_owners_on_disk_and_have_them_inside() {
    if !can_map() {
        return;
    }
    let host = Host::new();
    let name = host.name("a");
    let shared = host.path("tmp/shared");
    fs::create_dir(&shared).expect("a directory");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).expect("a mode");
    host.bash("touch shared/web && chown www-data:www-data shared/web && setfacl -m u:mail:rw,g:33:r shared/web").ok();
    let mount = format!("host-bind:/srv={}", shared.display());
    host.service(&format!("create --userns auto -m {mount} {name} -- /bin/sleep 1000")).ok();
    let shadow = host.tree(&name).join("etc/shadow");
    let owner = |path: &std::path::Path| fs::metadata(path).map(|file| (file.uid(), file.gid())).expect("a file");
    let before = owner(&shadow);
    host.service(&format!("start {name}")).ok();
    // No file is nobody's but what is the host's.
    let nobodys =
        "find / /usr /run /tmp /dev /dev/shm /srv -xdev \\( -uid 65534 -o -gid 65534 \\) | sort | tr '\\n' ' '";
    let hosts = "/dev/full /dev/mqueue /dev/null /dev/pts /dev/random /dev/tty /dev/urandom /dev/zero /proc /sys ";
    assert_eq!(host.inside(&name, nobodys).ok().text(), hosts);
    assert_eq!(
        host.inside(&name, "stat -c %U:%G /etc/shadow /usr/bin/env /srv/web").ok().text(),
        "root:shadow\nroot:root\nwww-data:www-data"
    );
    let acl = host.inside(&name, "getfacl -cE /srv/web").ok().text();
    assert!(acl.contains("user:mail:rw-") && acl.contains("group:www-data:r--"), "{acl}");
    let write = "cd /srv && touch root new && chown www-data:adm new && setfacl -m u:mail:r new && mkdir /var/d && chown 7:8 /var/d";
    host.inside(&name, write).ok();
    assert_eq!(owner(&shared.join("root")), (0, 0));
    assert_eq!(owner(&shared.join("new")), (33, 4));
    assert_eq!(owner(&host.tree(&name).join("var/d")), (7, 8));
    assert_eq!(owner(&shadow), before);
    let acl = host.bash("getfacl -cE shared/new").ok().text();
    assert!(acl.contains("user:mail:r--"), "{acl}");
    // Ids beyond its own cannot be given to a file.
    for ids in ["65536", "0:65536", "4294967294"] {
        let chown = host.inside(&name, &format!("chown {ids} /srv/root"));
        assert!(chown.code == 1 && chown.stderr.contains("Invalid argument"), "{chown}");
    }
    host.bash("chown 65536 shared/root").ok();
    assert_eq!(host.inside(&name, "stat -c %u /srv/root").ok().text(), "65534");
    let chown = host.inside(&name, "chown 0 /srv/root");
    assert!(chown.code == 1 && chown.stderr.contains("Operation not permitted"), "{chown}");
}

#[test]
fn no_user_namespace_is_made_inside_whatever_the_profile() {
    if !can_map() {
        return;
    }
    let host = Host::new();
    let name = host.name("a");
    host.bash("unshare --user true").ok();
    for users in ["host", "auto"] {
        host.service(&format!("create --userns {users} {name} -- /bin/sleep 1000")).ok();
        host.service(&format!("start {name}")).ok();
        let refused = host.inside(&name, "unshare --user true").assert_code(1);
        assert!(refused.stderr.contains("Operation not permitted"), "{refused}");
        host.service(&format!("stop {name}")).ok();
        host.edit(&name, "del(.linux.seccomp)");
        host.service(&format!("start {name}")).ok();
        let outcome = host.inside(&name, "unshare --user true");
        if users == "host" {
            outcome.ok();
        } else {
            assert!(outcome.code == 1 && outcome.stderr.contains("No space left on device"), "{outcome}");
            let raise = host.inside(&name, "echo 1 >/proc/sys/user/max_user_namespaces");
            assert!(raise.code == 1 && raise.stderr.contains("Read-only file system"), "{raise}");
        }
        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
    }
}

#[test]
fn ids_are_nobodys_but_one_containers_until_it_is_deleted() {
    let host = Host::new().with_own(&["etc"]);
    let [name, other] = ["a", "b"].map(|name| host.name(name));
    host.bash("echo alice:700000:65536 >/etc/subuid; echo staff:1000000:10 >/etc/subgid").ok();
    host.bash("echo bob:x:800000:800000::/:/bin/sh >>/etc/passwd").ok();
    let before = host.snapshot();
    let create = |name: &str, users: &str| host.service(&format!("create --userns {users} {name} -- /bin/sleep 1000"));
    create(&name, "600000:1200000:1000").ok();
    let definition = host.definition(&name).display().to_string();
    let mapping = host.bash(&format!("jq -c .linux.gidMappings {definition}")).ok().json();
    assert_eq!(mapping, json!([{ "containerID": 0, "hostID": 1_200_000, "size": 1000 }]));
    let taken = host.snapshot();
    for (users, whose) in [
        ("600999:2000000:1", &*format!("container {name} has the user ids 600000 to 600999")),
        ("2000000:1199999:2", "has the group ids 1200000 to 1200999"),
        ("500000:2000000:100001", "has the user ids"),
        ("765535:2000000:1", "alice of /etc/subuid has the user ids 700000 to 765535"),
        ("2000000:1000009:1", "staff of /etc/subgid has the group ids"),
        ("799999:2000000:2", "bob of /etc/passwd has the user ids 800000 to 800000"),
    ] {
        create(&other, users).assert_failure(1, "sbx-ns", &["are not free", whose]);
        host.assert_as(&taken, users);
    }
    for users in ["0:0:65536", "600000", "600000:600000:0", "Auto"] {
        create(&other, users).assert_failure(2, "sbx-ns", &["bad "]);
    }
    // Beside them is room for others.
    create(&other, "601000:1201000:1000").ok();
    host.service(&format!("delete {other}")).ok();
    // One that nobody has claimed, or that is another's, is not believed.
    host.edit(&name, ".linux.uidMappings[0].hostID = 610000");
    let start = host.service(&format!("start {name}")).assert_code(1);
    assert!(start.stderr.contains("does not hold the ids 610000:1200000:1000"), "{start}");
    // What ends a container leaves them to it, and a clone has ids of its own.
    host.line(&format!("sbx-ns remove {name}")).ok();
    let clone = host.name("c");
    host.service(&format!("clone {name} {clone}")).ok();
    first(&host, &clone);
    host.service(&format!("delete {clone}")).ok();
    create(&other, "600000:2000000:1").assert_failure(1, "sbx-ns", &[&name]);
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
    create(&other, "600000:1200000:1000").ok();
    host.service(&format!("delete {other}")).ok();
}

#[test]
fn many_that_claim_at_once_get_ids_of_their_own_each() {
    let host = Host::new();
    // The last ones lie above all that is chosen.
    let script = "for i in {1..40}; do sbx-ns plan --name $0$i --userns auto | sbx-ns alloc >/dev/null & done
        for i in {41..60}; do sbx-ns plan --name $0$i --userns 2000${i}0000:2000${i}0000:20000 | sbx-ns alloc >/dev/null 2>&1 & done; wait";
    host.run(["bash", "-c", script, &host.name("c")], "").ok();
    let mut ranges: Vec<(u32, u32)> = fs::read_dir(host.path("state/claims/ids"))
        .expect("claims")
        .map(|claim| {
            let claim = claim.expect("a claim").file_name().into_string().expect("ids");
            let numbers: Vec<u32> = claim.split(':').map(|number| number.parse().expect("a number")).collect();
            (numbers[0], numbers[2])
        })
        .collect();
    ranges.sort_unstable();
    // Of the last ones, each of which overlaps with the next, one in three has won at least.
    assert!(ranges.len() >= 40 + 7, "{}", ranges.len());
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
    }
}

#[test]
fn what_cannot_have_other_ids_is_refused_and_leaves_nothing() {
    let host = Host::new().with_own(&["usr"]);
    let name = host.name("a");
    let before = host.snapshot();
    let create = host.service(&format!("create --userns auto --store overlay {name} -- /bin/sleep 1000"));
    create.assert_failure(1, "sbx-fs", &["an overlay cannot have the ids of a user namespace"]);
    host.assert_as(&before, "create");
    // The host's /usr is an overlay here.
    host.service(&format!("create --userns auto {name} -- /bin/sleep 1000")).ok();
    let start = host.service(&format!("start {name}")).assert_code(1);
    assert!(start.stderr.contains("cannot mount /usr on /usr: its file system"), "{start}");
    host.service(&format!("delete {name}")).ok();
    host.assert_as(&before, "delete");
}

#[test]
fn a_clone_and_an_import_claim_anew_and_an_image_can_have_other_ids() {
    if !can_map() {
        return;
    }
    let host = Host::new();
    let [name, clone, copy] = ["a", "b", "c"].map(|name| host.name(name));
    host.service(&format!("create --userns auto -i 64M {name} -- /bin/sleep 1000")).ok();
    host.service(&format!("start {name}")).ok();
    assert_eq!(host.inside(&name, "echo x >/var/x && chown 33 /var/x && stat -c %u /var/x").ok().text(), "33");
    host.service(&format!("stop {name}")).ok();
    host.service(&format!("clone {name} {clone}")).ok();
    host.bash(&format!("virt-sandbox-service export {name} | virt-sandbox-service import --userns auto {copy}")).ok();
    let firsts: std::collections::BTreeSet<u32> = [&name, &clone, &copy].map(|name| first(&host, name)).into();
    assert_eq!(firsts.len(), 3);
    for other in [&clone, &copy] {
        host.service(&format!("start {other}")).ok();
        assert_eq!(host.inside(other, "stat -c %u /var/x").ok().text(), "33");
    }
}

#[test]
fn users_are_the_hosts_where_something_shared_cannot_have_other_ids_and_that_is_said() {
    let host = Host::new();
    let users = |options: &str| {
        let name = host.name("a");
        let created = host.line(&format!("virt-sandbox-service create {options} {name} -- /bin/true"));
        let said = created.stderr.trim_end().to_owned();
        created.ok();
        let doc = host.defined(&name);
        host.service(&format!("delete {name}")).ok();
        let kinds = doc["linux"]["namespaces"].as_array().expect("namespaces").iter().map(|one| one["type"].clone());
        (kinds.filter(|kind| kind == "user").count() == 1, said.replace(&name, "NAME"))
    };
    let other = "has the users of the host";
    let cannot = "cannot have the ids of a user namespace";
    assert_eq!(users("--store overlay"), (false, format!("NAME {other}: sbx.store: an overlay {cannot}")));
    // A procfs, as some network file systems.
    let said = format!("NAME {other}: /proc/fs: its file system, or one that is mounted below it, {cannot}");
    assert_eq!(users("-m host-bind:/srv/x=/proc/fs,ro"), (false, said));
    assert_eq!(users("--userns host"), (false, String::new()));
    if can_map() {
        assert_eq!(users(""), (true, String::new()));
        assert_eq!(users("-m host-bind:/srv/x=/etc,ro"), (true, String::new()));
    }
}
