//! The texts of the files that make units of a container: the host's unit, and what the inner systemd reads.

use crate::edit::{Init, Units};
use crate::settings;
use crate::unit::{GROUP, UnitName};
use anyhow::{Context, Result, anyhow, ensure};
use sbx::inner::{DROP_IN, MASKS, SNAKEOIL, TARGET, UNITS};
use sbx::{Document, Name};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The key of `[Unit]` that marks a unit of the host as ours; systemd passes over what begins with `X-`.
pub const MARK: &str = "X-Sbx-Name";

/// The same for the target of a group.
pub const GROUP_MARK: &str = "X-Sbx-Group";

/// Longer than sbx-start waits for the lock and boot for the units (120 and 90), so that it is they who tell what went
/// wrong.
const START_SECONDS: u32 = 300;

/// Long enough for a database to write back what it holds.
const STOP_SECONDS: u32 = 300;

/// Where the inner systemd keeps its journal: only if it is there does the journal outlive the container's run.
pub const JOURNAL: &str = "var/log/journal";

/// Makes the key of TLS that Debian's servers begin with, PostgreSQL among them. It proves nothing, being signed by
/// nobody, yet somebody may have come to know the host by it: a clone gets the certificate without the key, and the
/// container makes a pair of its own before its first service starts. The key's name comes last and says that it is
/// done.
const KEY_MAKER: &str = "\
[Unit]
Description=Placeholder of a TLS key
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target
ConditionPathExists=/etc/ssl/certs/ssl-cert-snakeoil.pem
ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key
ConditionFileIsExecutable=/usr/bin/openssl

[Service]
Type=oneshot
ExecStart=openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=%H \\
    -keyout /etc/ssl/private/.sbx.key -out /etc/ssl/certs/ssl-cert-snakeoil.pem
ExecStart=chgrp ssl-cert /etc/ssl/private/.sbx.key
ExecStart=chmod 0640 /etc/ssl/private/.sbx.key
ExecStart=mv /etc/ssl/private/.sbx.key /etc/ssl/private/ssl-cert-snakeoil.key
";

/// What is written beneath the container's root.
#[derive(Debug, PartialEq, Eq)]
pub enum Inner {
    /// A file with this text.
    Text(String),
    /// A link to /dev/null.
    Mask,
    /// A directory, which may be there already.
    Directory,
}

/// The inner systemd's files by their paths beneath the root. A generic command's container has none.
pub fn inner(units: &Units) -> Result<Vec<(String, Inner)>> {
    let names = units.names()?;
    if names.is_empty() && units.init != Some(Init::Systemd) {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    if !names.is_empty() {
        files.push((format!("{UNITS}/{TARGET}"), Inner::Text(target(&names))));
        files.push((format!("{UNITS}/{SNAKEOIL}"), Inner::Text(KEY_MAKER.into())));
    }
    for (name, off) in &units.switched_off {
        let name: UnitName = name.parse().map_err(|error: String| anyhow!("sbx.unit.switchedOff: {error}"))?;
        files.push((format!("{UNITS}/{name}.d/{DROP_IN}"), Inner::Text(settings::drop_in(off)?)));
    }
    files.extend(MASKS.map(|path| (path.to_owned(), Inner::Mask)));
    files.push((JOURNAL.to_owned(), Inner::Directory));
    Ok(files)
}

fn target(names: &[UnitName]) -> String {
    let names = names.iter().map(UnitName::as_str).collect::<Vec<_>>().join(" ");
    format!(
        "[Unit]\nDescription=The services of this container\nRequires={names}\nAfter={names}\n\
        Wants={SNAKEOIL}\nAllowIsolate=yes\n"
    )
}

/// The target of a group of containers, which can be enabled as each of them can.
pub fn group(group: &str) -> String {
    let unit = group.replace(GROUP, ".service");
    format!(
        "[Unit]\nDescription=All containers of {unit}\n{GROUP_MARK}={group}\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

/// The drop-in that makes a container part of a group. A container that fails to start does not stop the others.
pub fn member(name: &Name) -> String {
    format!("[Unit]\n{MARK}={name}\nWants={}\n", name.unit())
}

/// The host's unit. `scripts` is the directory of sbx-start.
pub fn host_unit(name: &Name, doc: &Document, scripts: &Path) -> Result<String> {
    let units: Units = doc.read("sbx.unit")?.unwrap_or_default();
    let names = units.names()?;
    let script = |script: &str| path(&scripts.join(script));
    let mut text = format!("[Unit]\nDescription=Container {name}\n{MARK}={name}\nAfter=network.target\n");
    for unit in &names {
        text += &format!("PartOf={}\nReloadPropagatedFrom={unit}\n", unit.group()?);
    }
    if let Some(root) = doc.read::<PathBuf>("root.path")? {
        text += &format!("RequiresMountsFor={}\n", path(&root)?);
    }
    if let Some(elsewhere) = doc.read::<PathBuf>("sbx.path")? {
        text += &format!("RequiresMountsFor={}\n", path(&elsewhere)?);
    }
    text += "\n[Service]\nType=notify\nNotifyAccess=main\n";
    text += &format!("ExecStart={} {name}\nExecStopPost={} {name}\n", script("sbx-start")?, script("sbx-stop")?);
    if names.is_empty() && units.init.is_none() {
        // The command's status when the stop signal ended it, as its init passes it on.
        text += "SuccessExitStatus=143\n";
    } else if !names.is_empty() {
        let units: String = names.iter().map(|unit| format!(" -u {}", argument(unit.as_str()))).collect();
        text += &format!("ExecReload={} reload{units} {name}\n", script("virt-sandbox-service")?);
    }
    // What was killed may live; a start that failed or took too long would again. Services inside are restarted inside.
    text += "Restart=on-abort\n";
    text += &format!("KillMode=mixed\nKillSignal={}\n", units.stop_signal()?);
    text += &format!("TimeoutStartSec={START_SECONDS}\nTimeoutStopSec={STOP_SECONDS}\nDelegate=yes\n");
    for limit in limits(doc)? {
        text += &limit;
        text.push('\n');
    }
    text += "\n[Install]\nWantedBy=multi-user.target\n";
    Ok(text)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    memory: Memory,
    pids: Pids,
    cpu: Cpu,
    #[serde(rename = "blockIO")]
    block_io: BlockIo,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
    reservation: Option<i64>,
    swap: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pids {
    limit: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlockIo {
    weight: Option<u64>,
}

/// `linux.resources` as settings of the unit, whose cgroup has one writer, systemd.
pub fn limits(doc: &Document) -> Result<Vec<String>> {
    let Resources { memory, pids, cpu, block_io } = doc.read("linux.resources")?.unwrap_or_default();
    let mut settings = Vec::new();
    let mut set = |key: &str, value: Option<String>| settings.extend(value.map(|value| format!("{key}={value}")));
    // OCI's word for no limit is a number that is not positive.
    let amount = |limit: Option<i64>| limit.map(|n| if n > 0 { n.to_string() } else { "infinity".into() });
    set("MemoryMax", amount(memory.limit));
    set("MemoryLow", amount(memory.reservation));
    // OCI's swap is that of memory and swap together.
    let swap = match (memory.limit, memory.swap) {
        (Some(limit), Some(swap)) if limit > 0 && swap > 0 => {
            ensure!(swap >= limit, "linux.resources.memory: swap {swap} is less than limit {limit}");
            Some((swap - limit).to_string())
        }
        (_, swap) => swap.filter(|swap| *swap <= 0).map(|_| "infinity".into()),
    };
    set("MemorySwapMax", swap);
    set("TasksMax", amount(pids.limit));
    if let Some(quota) = cpu.quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0) {
        let period = cpu.period.unwrap_or(100_000);
        let hundredths =
            quota.saturating_mul(10_000).checked_div(period).context("linux.resources.cpu: period is 0")?;
        ensure!(hundredths > 0, "linux.resources.cpu: quota {quota} is too small for a period of {period}");
        set("CPUQuota", Some(format!("{}.{:02}%", hundredths / 100, hundredths % 100)));
        set("CPUQuotaPeriodSec", cpu.period.map(|period| format!("{period}us")));
    }
    // The range of v1 onto that of v2, as runc and crun map it.
    set("CPUWeight", cpu.shares.map(|n| (1 + n.clamp(2, 262_144).saturating_sub(2) * 9_999 / 262_142).to_string()));
    // Not mapped: those who have none have 100 on either.
    set("IOWeight", block_io.weight.map(|n| n.to_string()));
    for (key, list) in [("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems)] {
        let list = list.filter(|list| !list.is_empty());
        let is_list = |list: &String| list.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-');
        ensure!(list.as_ref().is_none_or(is_list), "linux.resources.cpu: bad list {list:?}");
        set(key, list);
    }
    Ok(settings)
}

/// A path, also as the program of a command line (systemd.service(5)): quoted, with specifiers escaped. Variables are
/// not expanded in it, so that a dollar stands for itself; what systemd refuses in it, escaped or not, is an error.
fn path(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{path:?} is not UTF-8, as a unit must be"))?;
    let refused = |c: char| c.is_control() || matches!(c, '"' | '\'' | '\\');
    ensure!(!text.contains(refused), "{path:?} has a quote, backslash or control character, which systemd refuses");
    Ok(quoted(text))
}

/// Another word of a command line, in which variables are expanded too.
fn argument(text: &str) -> String {
    quoted(text).replace('$', "$$")
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@,=".contains(&b);
    if text.bytes().all(plain) { escaped } else { format!("\"{escaped}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sbx::inner::is_ours;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn doc(text: &str) -> Document {
        Document::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn the_inner_files_are_a_target_drop_ins_and_masks() {
        let text = r#"{"names":["a.service","b@x.service"],"switchedOff":{"b@x.service":["PrivateTmp"]}}"#;
        let files = inner(&serde_json::from_str(text).expect("units")).expect("files");
        let target = "[Unit]\nDescription=The services of this container\nRequires=a.service b@x.service\n\
            After=a.service b@x.service\nWants=sbx-snakeoil.service\nAllowIsolate=yes\n";
        let expected = [
            ("etc/systemd/system/sbx.target", Inner::Text(target.into())),
            ("etc/systemd/system/sbx-snakeoil.service", Inner::Text(KEY_MAKER.into())),
            ("etc/systemd/system/b@x.service.d/zz-sbx.conf", Inner::Text("[Service]\nPrivateTmp=no\n".into())),
            (MASKS[0], Inner::Mask),
            (MASKS[1], Inner::Mask),
            (JOURNAL, Inner::Directory),
        ];
        assert_eq!(files, expected.map(|(path, file)| (path.to_owned(), file)));
        assert_eq!(inner(&Units::default()).expect("none"), []);
        // No upgrade of the tree touches them.
        assert!(files.iter().all(|(path, _)| is_ours(Path::new(path)) || path == JOURNAL));
    }

    #[test]
    fn limits_become_settings_of_the_unit() {
        let text = r#"{"linux":{"resources":{"memory":{"limit":1000,"swap":1500,"reservation":-1},"pids":{"limit":0},
            "cpu":{"quota":150000,"shares":1024,"cpus":"0-1"},"blockIO":{"weight":500}}}}"#;
        let expected = [
            "MemoryMax=1000",
            "MemoryLow=infinity",
            "MemorySwapMax=500",
            "TasksMax=infinity",
            "CPUQuota=150.00%",
            "CPUWeight=39",
            "IOWeight=500",
            "AllowedCPUs=0-1",
        ];
        assert_eq!(limits(&doc(text)).expect("limits"), expected);
        assert_eq!(limits(&doc("{}")).expect("none"), [""; 0]);
        for bad in [
            r#"{"cpu":{"quota":1,"period":0}}"#,
            r#"{"cpu":{"quota":1,"period":1000000}}"#,
            r#"{"cpu":{"cpus":"0\nExecStart=/x"}}"#,
            r#"{"memory":{"limit":2,"swap":1}}"#,
            r#"{"memory":{"limit":"x"}}"#,
        ] {
            assert!(limits(&doc(&format!(r#"{{"linux":{{"resources":{bad}}}}}"#))).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_of_a_command_line_mean_themselves() {
        assert_eq!(path(Path::new("/usr/bin/x")).expect("plain"), "/usr/bin/x");
        assert_eq!(path(Path::new("/a b/%h$x")).expect("odd"), r#""/a b/%%h$x""#);
        assert_eq!(argument(r"a@b\x2dc$HOME.service"), r#""a@b\\x2dc$$HOME.service""#);
        for bad in ["/a\nExecStart=/b", "/a\"", "/a'", "/a\\"] {
            assert!(path(Path::new(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_root_of_its_own_that_boots_gets_no_target_and_no_login_without_a_console() {
        let files = |text: &str| inner(&serde_json::from_str(text).expect(text)).expect("files");
        let paths: Vec<_> = files(r#"{"init":"systemd"}"#).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, [MASKS[0], MASKS[1], JOURNAL]);
        assert_eq!(files(r#"{"init":"other"}"#), []);
    }

    /// Asks systemd itself, where it is installed.
    #[test]
    fn systemd_finds_nothing_wrong_with_a_units_and_with_a_commands_container() {
        let directory = std::env::temp_dir().join(format!("sbx-unit %h $x verify-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("mkdir");
        for script in ["sbx-start", "sbx-stop", "virt-sandbox-service"] {
            let path = directory.join(script);
            fs::write(&path, "#!/bin/sh\n").expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let resources = r#""linux":{"resources":{"memory":{"limit":1000000,"swap":1500000},"pids":{"limit":9},
            "cpu":{"quota":12345,"period":100000,"shares":1024,"cpus":"0"},"blockIO":{"weight":500}}}"#;
        for (name, unit) in [
            ("unit", r#"{"names":["a.service","b@c\\x2dd.service"],"stopSignal":"SIGRTMIN+3"}"#),
            ("command", r#"{"stopSignal":"SIGTERM"}"#),
            ("init", r#"{"init":"systemd","stopSignal":"SIGRTMIN+3"}"#),
        ] {
            let doc = doc(&format!(r#"{{"root":{{"path":"/a b/%h"}},"sbx":{{"unit":{unit}}},{resources}}}"#));
            let name: Name = name.parse().expect("name");
            let path = directory.join(name.unit());
            fs::write(&path, host_unit(&name, &doc, &directory).expect("unit")).expect("write");
            let mut written = vec![path];
            for unit in doc.read::<Units>("sbx.unit").expect("units").unwrap_or_default().names().expect("names") {
                let target = unit.group().expect("group");
                let members = directory.join(format!("{target}.d"));
                fs::create_dir(&members).expect("mkdir");
                fs::write(members.join("x.conf"), member(&name)).expect("write");
                written.push(directory.join(&target));
                fs::write(directory.join(&target), group(&target)).expect("write");
            }
            match Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&written).output() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    assert!(std::env::var_os("SBX_MUST_WORK").is_none(), "systemd-analyze is not installed");
                    eprintln!("not verified: systemd-analyze is not installed");
                }
                output => {
                    let output = output.expect("systemd-analyze");
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(output.status.success() && !said.contains("sandbox"), "{said}");
                }
            }
        }
        fs::remove_dir_all(&directory).expect("rm");
    }
}
