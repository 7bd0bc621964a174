//! virt-sandbox, with SELinux enforcing.

use crate::selinux::{Permissive, denials, harmful_denials};
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
        assert!(
            shown.starts_with("system_u:system_r:sbx_sandbox_t:s0:c") && shown.contains("sbx_file_t:s0:c"),
            "{shown}"
        );
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

#[test]
fn a_sandbox_reads_what_etc_has_for_all_and_no_secret_and_a_service_reads_none_of_it() {
    let host = Host::machine();
    host.bash("echo settings >/etc/sbx-settings && restorecon /etc/sbx-settings; dmesg --clear").ok();
    let ordinary = "cat /etc/passwd /etc/hosts /etc/nsswitch.conf /etc/localtime >/dev/null
        getent passwd root; getent hosts localhost; id; date; ls -l / /etc/ssl/certs /usr/bin /opt >/dev/null
        cp /etc/group $HOME; mv $HOME/group /tmp; find /etc/alternatives /proc/self -maxdepth 1 >/dev/null
        awk 'END { print NR }' /etc/passwd; ps ax; df; jq -n 1; bash -c 'sleep 0.1 & wait'; cat /etc/sbx-settings";
    for options in ["", "-p", "-S nobody", "--net host"] {
        let said =
            host.run(["bash", "-c", &format!("virt-sandbox {options} -- sh -ec \"$0\""), ordinary], "").ok().text();
        assert!(said.ends_with("settings"), "{said}");
    }
    assert_eq!(harmful_denials(&host), [""; 0]);

    // Root's by its owner and mode, and not masked where it is bound to; and by a service that has got hold of the host's /etc.
    let secret = "virt-sandbox -p -m host-bind:/mnt/secret=/etc/shadow,ro -- grep -q ^root: /mnt/secret";
    let settings = "runcon system_u:system_r:sbx_t:s0:c1,c2 grep -q settings /etc/sbx-settings";
    for (attack, file) in [(secret, "shadow"), (settings, "sbx-settings")] {
        host.line("dmesg --clear").ok();
        host.bash(attack).assert_code(2);
        let read = |line: &String| line.contains("{ read }") && line.contains(&format!("name=\"{file}\""));
        assert!(denials(&host).iter().any(read), "{file} is not in the log: {:?}", denials(&host));
        let permissive = Permissive::new(&host);
        assert_eq!(host.bash(attack).code, 0, "{file}: it is not SELinux that holds this");
        drop(permissive);
    }
    host.line("rm /etc/sbx-settings").ok();
}

#[test]
fn an_ordinary_users_sandboxes_are_apart_and_have_limits() {
    let host = Host::machine();
    // Of a login the service manager is told the directory by PAM.
    let manager = "useradd --create-home alice && mkdir -p /run/systemd/system/user@.service.d &&
        printf '[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\n' >/run/systemd/system/user@.service.d/directory.conf &&
        systemctl daemon-reload && systemctl start user@$(id -u alice).service";
    host.bash(manager).ok();
    let alice = |script: &str| {
        let line = "export XDG_RUNTIME_DIR=/run/user/$(id -u alice) HOME=/home/alice; cd &&
            exec setpriv --reuid=alice --regid=alice --init-groups bash -c \"$0\"";
        host.run(["bash", "-c", line, script], "")
    };
    let label = "virt-sandbox -- sh -c 'id -un; cat /proc/self/attr/current; stat -c \" %C\" /tmp'";
    let shown = alice(label).ok().text();
    let [first, second] = [&shown, &alice(label).ok().text()];
    assert!(first.starts_with("alice\nsystem_u:system_r:sbx_sandbox_t:s0:c") && first.contains("sbx_file_t:s0:c"));
    assert_ne!(first, second);
    // What the one has written the other cannot read, though both are hers.
    alice("mkdir shared && chcon -t sbx_file_t shared && virt-sandbox --bind shared -- sh -c 'echo mine >shared/mine'")
        .ok();
    let other = alice("virt-sandbox --bind shared -- cat shared/mine").assert_code(1);
    assert!(other.stderr.contains("Permission denied"), "{other}");
    let permissive = Permissive::new(&host);
    assert_eq!(alice("virt-sandbox --bind shared -- cat shared/mine").ok().text(), "mine");
    drop(permissive);

    let memory = "head -c 90000000 /dev/zero | tail -c 90000000 | wc -c";
    assert_eq!(alice(&format!("virt-sandbox --memory 1G -- sh -c '{memory}'")).ok().text(), "90000000");
    // A service manager may end all of a scope then.
    assert_ne!(alice(&format!("virt-sandbox --memory 48M -- sh -c '{memory}'")).text(), "90000000");
    let forks = alice("virt-sandbox --pids 20 -- sh -c 'for i in $(seq 30); do sleep 1 & done; wait'").assert_code(2);
    assert!(forks.stderr.contains("Cannot fork"), "{forks}");
    let scopes = "XDG_RUNTIME_DIR=/run/user/$(id -u alice) setpriv --reuid=alice --regid=alice --init-groups \
        systemctl --user list-units --plain --no-legend 'run-*.scope'";
    crate::until(&host, &format!("left=$({scopes}) && [ -z \"$left$(find /run/user/*/sbx/run -mindepth 1)\" ]"));
    host.bash("systemctl stop user@$(id -u alice).service; userdel --remove alice").ok();
}
