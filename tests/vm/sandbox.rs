//! virt-sandbox, with SELinux enforcing.

use support::Host;

#[test]
fn each_sandbox_has_a_label_of_its_own_and_gives_it_back() {
    let host = Host::machine();
    let before = host.snapshot();
    let claims = host.line("sbx-label list").ok().text();
    let script = "cat /proc/self/attr/current; stat -c ' %C' /tmp";
    let shown = || host.run(["virt-sandbox", "--memory", "256M", "--", "sh", "-c", script], "").ok().text();
    let [first, second] = [shown(), shown()];
    for shown in [&first, &second] {
        assert!(shown.starts_with("system_u:system_r:sbx_t:s0:c") && shown.contains("sbx_file_t:s0:c"), "{shown}");
    }
    assert_ne!(first, second);
    // What another one has written is another one's, even where its directory is the host's.
    host.bash("mkdir /srv/shared && chcon -t sbx_file_t /srv/shared && chmod 1777 /srv/shared").ok();
    host.bash("virt-sandbox --bind /srv/shared -- sh -c 'echo mine >/srv/shared/mine; chmod 644 /srv/shared/mine'")
        .ok();
    let other = host.bash("virt-sandbox --bind /srv/shared -- cat /srv/shared/mine").assert_code(1);
    assert!(other.stderr.contains("Permission denied"), "{other}");
    host.bash("rm -r /srv/shared").ok();
    assert_eq!(host.bash("virt-sandbox -- sh -c 'exit 3'; echo $?").ok().text(), "3");
    host.assert_as(&before, "sandboxes");
    crate::until(&host, &format!("[ '{claims}' = \"$(sbx-label list)\" ]"));
}
