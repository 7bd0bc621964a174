use super::*;

const INIT: &str = r#""sbx":{"unit":{"init":"systemd"}}"#;
const HYBRID: Kernel = Kernel { selinux: false, v1: true, systemd: true, unified: true };

fn plan(text: &str, kernel: &Kernel) -> Result<Plan> {
    Plan::of(&Document::parse(text.as_bytes()).expect("document"), kernel, &Host::default())
}

fn mounts(mount: &str, kernel: &Kernel) -> Result<Vec<Mount>> {
    plan(&format!(r#"{{"root":{{"path":"/r"}},"mounts":[{mount}],{INIT}}}"#), kernel).map(|plan| plan.mounts)
}

#[test]
fn options_are_attributes_of_a_mount_or_of_its_tree_and_the_last_word_holds() {
    let attributes = Attributes::of(&["ro", "rnodev", "noatime", "relatime", "exec", "noexec", "suid"]);
    let top = Change {
        set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC,
        clear: MOUNT_ATTR__ATIME | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID,
    };
    assert_eq!(attributes, Attributes { top, tree: Change { set: MOUNT_ATTR_NODEV, clear: 0 } });
    assert_eq!(attributes.read_only(), ReadOnly::Top);
    assert_eq!(Attributes::of(&["ro", "rro"]).read_only(), ReadOnly::Tree);
    assert_eq!(Attributes::of(&["ro", "rw"]).read_only(), ReadOnly::No);
    for foreign in ["", "r", "rr", "rslave", "size=1", "RO", "rrro"] {
        assert!(!Attributes::default().take(foreign), "{foreign:?}");
    }
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    for (mount, reason) in [
        (r#"{"destination":"/x","type":"bind","source":"/s","options":["rslave"]}"#, r#"mounts: /x: option "rslave""#),
        (r#"{"destination":"/x","type":"bind","source":"s"}"#, "source s is not absolute"),
        (r#"{"destination":"/x","options":["rbind"]}"#, "source is missing"),
        (r#"{"destination":"/x","type":"overlay"}"#, r#"type "overlay" is not supported"#),
        (r#"{"destination":"/x"}"#, r#"type "" is not supported"#),
        (r#"{"destination":"/x","type":"cgroup","options":["cpu"]}"#, r#"option "cpu""#),
        (r#"{"destination":"x","type":"tmpfs"}"#, "x is not a path below the root"),
        (r#"{"destination":"/","type":"tmpfs"}"#, "/ is not a path below the root"),
        (r#"{"destination":"/a/../..","type":"tmpfs"}"#, "is not a path below the root"),
    ] {
        let error = format!("{:#}", mounts(mount, &HYBRID).expect_err(mount));
        assert!(error.contains(reason), "{error}");
    }
    assert!(plan(r#"{"root":{"path":"r"}}"#, &HYBRID).is_err());
    assert!(plan(r#"{"root":{"path":"/r"},"linux":{"maskedPaths":["/a/../b"]}}"#, &HYBRID).is_err());
}

#[test]
fn a_container_sees_of_the_cgroups_what_the_host_has_and_no_controllers() {
    let shown = |host| -> Vec<String> {
        let mounts = mounts(r#"{"destination":"/c","type":"cgroup","options":["nosuid"]}"#, &host);
        mounts.expect("mounts").iter().map(Mount::to_string).collect()
    };
    assert_eq!(shown(HYBRID), ["tmpfs on /c", "cgroup on /c/systemd", "cgroup2 on /c/unified"]);
    assert_eq!(shown(Kernel { systemd: false, unified: false, ..HYBRID }), ["tmpfs on /c"]);
    assert_eq!(shown(Kernel { v1: false, ..HYBRID }), ["cgroup2 on /c"]);
    assert!(mounts(r#"{"destination":"/c","type":"cgroup"}"#, &Kernel::default()).is_err());
    let without_init = plan(r#"{"root":{"path":"/r"},"mounts":[{"destination":"/c","type":"cgroup"}]}"#, &HYBRID);
    assert_eq!(without_init.expect("plan").mounts.len(), 0);
}

#[test]
fn a_dev_of_the_container_s_own_has_the_six_nodes_right_after_it() {
    let text = r#"{"destination":"/dev/","type":"tmpfs"},{"destination":"/dev/shm","type":"tmpfs"}"#;
    let mounts = mounts(text, &HYBRID).expect("mounts");
    assert_eq!(mounts.len(), 8);
    assert!(mounts[1..7].iter().all(|mount| matches!(&mount.source, Source::Bind(Bind { device: Some(_), .. }))));
}

#[test]
fn a_label_is_for_the_file_systems_that_take_one_where_selinux_is_on() {
    let text = r#"{"root":{"path":"/r"},"linux":{"mountLabel":"u:r:t:s0:c1,c2"},"mounts":[
            {"destination":"/proc","type":"proc"},{"destination":"/run","type":"tmpfs"}]}"#;
    let labels = |host| -> Vec<bool> {
        let plan = plan(text, &host).expect("plan");
        plan.mounts.iter().map(|mount| format!("{:?}", mount.source).contains("c1,c2")).collect()
    };
    assert_eq!(labels(Kernel { selinux: true, ..HYBRID }), [false, true]);
    assert_eq!(labels(HYBRID), [false, false]);
}

#[test]
fn a_memory_file_system_is_of_the_container_s_own_root_and_its_ids_are_those_inside() {
    let ids = r#"[{"containerID":0,"hostID":600000,"size":65536}]"#;
    let text = |mounts: &str| {
        let linux = format!(r#""namespaces":[{{"type":"user"}}],"uidMappings":{ids},"gidMappings":{ids}"#);
        format!(r#"{{"root":{{"path":"/r"}},"linux":{{{linux}}},"mounts":[{mounts}]}}"#)
    };
    let mounts = r#"{"destination":"/run","type":"tmpfs"},{"destination":"/dev/pts","type":"devpts","options":["gid=5"]},
            {"destination":"/x","type":"tmpfs","options":["uid=33","mode=700"]},{"destination":"/proc","type":"proc"}"#;
    let plan_of = |text: &str| plan(text, &HYBRID);
    let mounts: Vec<String> =
        plan_of(&text(mounts)).expect("plan").mounts.iter().map(|mount| format!("{:?}", mount.source)).collect();
    for (mount, has) in mounts.iter().zip([&["600000"; 2][..], &["600005"], &["600033", "600000"], &[]]) {
        assert!(has.iter().all(|id| mount.contains(id)), "{mount}");
        assert_eq!(mount.matches("6000").count(), has.len(), "{mount}");
    }
    let beyond = r#"{"destination":"/x","type":"tmpfs","options":["gid=65536"]}"#;
    let error = format!("{:#}", plan_of(&text(beyond)).expect_err(beyond));
    assert!(error.contains("gid=65536 is not an id inside"), "{error}");
    let overlay = text("").replacen('{', r#"{"sbx":{"name":"a","store":{"kind":"overlay"}},"#, 1);
    assert!(plan_of(&overlay).is_err());
}
