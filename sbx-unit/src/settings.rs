//! What a service asks of systemd that systemd cannot do inside, where it has no CAP_SYS_ADMIN and no new namespaces.
//!
//! Some of these settings make the start fail (226/NAMESPACE, 217/USER), others are passed over with a warning, and
//! which of the two it is depends on systemd's version and on what else the unit sets. A drop-in switches all of them
//! off, so that a unit behaves alike under every version, and the user is told. Tried with systemd 252 and 257.
//!
//! Not here is what systemd does as far as it may: limits, Nice=, OOMScoreAdjust=, capabilities, seccomp.

use crate::unit::Unit;
use anyhow::{Result, bail};

/// A setting that is switched off.
struct Setting {
    name: &'static str,
    /// The value that stands for "not set". An empty one also ends a list.
    neutral: &'static str,
    /// The values that do not work; none given means all but the neutral one.
    fails: &'static [&'static str],
}

const fn setting(name: &'static str, neutral: &'static str) -> Setting {
    Setting { name, neutral, fails: &[] }
}

const SETTINGS: &[Setting] = &[
    setting("PrivateTmp", "no"),
    setting("PrivateDevices", "no"),
    setting("PrivateNetwork", "no"),
    setting("PrivateIPC", "no"),
    setting("PrivatePIDs", "no"),
    setting("PrivateUsers", "no"),
    setting("PrivateMounts", "no"),
    setting("PrivateBPF", "no"),
    setting("ProtectSystem", "no"),
    setting("ProtectHome", "no"),
    setting("ProtectHostname", "no"),
    setting("ProtectClock", "no"),
    setting("ProtectKernelTunables", "no"),
    setting("ProtectKernelModules", "no"),
    setting("ProtectKernelLogs", "no"),
    setting("ProtectControlGroups", "no"),
    setting("ProtectProc", "default"),
    setting("ProcSubset", "all"),
    setting("MountAPIVFS", "no"),
    setting("MountFlags", ""),
    setting("ReadWritePaths", ""),
    setting("ReadOnlyPaths", ""),
    setting("InaccessiblePaths", ""),
    setting("ExecPaths", ""),
    setting("NoExecPaths", ""),
    // The names of the three of before systemd 231.
    setting("ReadWriteDirectories", ""),
    setting("ReadOnlyDirectories", ""),
    setting("InaccessibleDirectories", ""),
    setting("TemporaryFileSystem", ""),
    setting("BindPaths", ""),
    setting("BindReadOnlyPaths", ""),
    setting("BindLogSockets", "no"),
    setting("MountImages", ""),
    setting("ExtensionImages", ""),
    setting("ExtensionDirectories", ""),
    setting("LogNamespace", ""),
    setting("NetworkNamespacePath", ""),
    setting("IPCNamespacePath", ""),
    setting("NUMAPolicy", ""),
    Setting { name: "CPUSchedulingPolicy", neutral: "", fails: &["fifo", "rr", "1", "2"] },
    setting("CPUSchedulingPriority", "0"),
    Setting { name: "IOSchedulingClass", neutral: "", fails: &["realtime", "1"] },
    // There is no terminal.
    Setting { name: "StandardInput", neutral: "null", fails: &["tty", "tty-force", "tty-fail"] },
    Setting { name: "StandardOutput", neutral: "journal", fails: &["tty"] },
    Setting { name: "StandardError", neutral: "journal", fails: &["tty"] },
];

/// What cannot be switched off without making another service of it: the name, the value that stands for "not set",
/// and the advice.
const REFUSED: [(&str, &str, &str); 3] = [
    ("RootDirectory", "/", "run it in a container of its own, without"),
    ("RootImage", "", "run it in a container of its own, without"),
    ("DynamicUser", "no", "give it a User= of its own by a drop-in of the host"),
];

/// From systemd 255 on a service with User= and any of [`SECCOMP`] does not start where CAP_SYS_ADMIN is missing
/// (217/USER), since systemd wants to keep that capability until the filters are loaded. It does not try when a filter
/// forbids the service to give up capabilities, of which a service with User= has none.
const CAPSET: (&str, &str) = ("capset(2)", "SystemCallFilter=~capset\nSystemCallErrorNumber=EPERM");

/// The settings that make systemd load a seccomp filter, beside those that are switched off.
const SECCOMP: [&str; 9] = [
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallLog",
];

/// The names of what has to be switched off for `unit`. A unit that cannot run inside at all is an error.
pub fn switched_off(unit: &Unit) -> Result<Vec<String>> {
    for (name, neutral, advice) in REFUSED {
        if let Some(value) = set(unit, name, neutral) {
            bail!("{} has {name}={value}, which needs mounts inside the container: {advice}", unit.name);
        }
    }
    let fails =
        |s: &&Setting| set(unit, s.name, s.neutral).is_some_and(|value| s.fails.is_empty() || s.fails.contains(&value));
    let mut names: Vec<String> = SETTINGS.iter().filter(fails).map(|s| s.name.to_owned()).collect();
    if set(unit, "User", "").is_some() && SECCOMP.iter().any(|name| set(unit, name, "no").is_some()) {
        names.push(CAPSET.0.to_owned());
    }
    Ok(names)
}

/// The value of a setting: what it was given last. A setting whose neutral value is not empty ignores an empty one.
fn set<'a>(unit: &'a Unit, name: &'a str, neutral: &str) -> Option<&'a str> {
    let value = unit.service(name).rfind(|value| neutral.is_empty() || !value.is_empty())?;
    let is_no = matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "off" | "0" | "n" | "f");
    (!value.is_empty() && value != neutral && !(neutral == "no" && is_no)).then_some(value)
}

/// The drop-in that switches `names` off.
pub fn drop_in(names: &[String]) -> Result<String> {
    let mut text = "[Service]\n".to_owned();
    for name in names {
        let line = match SETTINGS.iter().find(|s| s.name == name) {
            Some(setting) => format!("{}={}", setting.name, setting.neutral),
            None if name == CAPSET.0 => CAPSET.1.to_owned(),
            None => bail!("sbx.unit.switchedOff: {name:?} is not a setting that is switched off"),
        };
        text += &line;
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(text: &str) -> Vec<String> {
        switched_off(&Unit::of_text("a", &format!("[Service]\n{text}"))).expect(text)
    }

    #[test]
    fn only_what_is_set_is_switched_off() {
        assert_eq!(off("PrivateTmp=true\nProtectHome=no\nProtectSystem=strict"), ["PrivateTmp", "ProtectSystem"]);
        assert_eq!(off("PrivateTmp=yes\nPrivateTmp=\nPrivateTmp=OFF"), [""; 0]);
        assert_eq!(off("PrivateTmp=no\nPrivateTmp=disconnected\nPrivateTmp="), ["PrivateTmp"]);
        assert_eq!(off("ReadWritePaths=/a\nReadWritePaths=\n"), [""; 0]);
        assert_eq!(off("ReadWritePaths=/a\nReadWritePaths=\nReadWritePaths=/b"), ["ReadWritePaths"]);
        assert_eq!(off("ProcSubset=all\nProtectProc=ptraceable"), ["ProtectProc"]);
        assert_eq!(off("CPUSchedulingPolicy=batch\nIOSchedulingClass=realtime"), ["IOSchedulingClass"]);
        assert_eq!(off("CPUSchedulingPriority=0\nNUMAPolicy=local\nNUMAPolicy="), [""; 0]);
        assert_eq!(off("StandardInput=tty-force\nStandardOutput=file:/x\nStandardError=inherit"), ["StandardInput"]);
        assert_eq!(off("Nice=-5\nLimitNOFILE=infinity\nRestrictNamespaces=yes\nNoNewPrivileges=yes"), [""; 0]);
    }

    #[test]
    fn a_user_with_filters_loses_the_call_that_systemd_would_want_for_it() {
        assert_eq!(off("User=www-data"), [""; 0]);
        assert_eq!(off("User=www-data\nLockPersonality=no"), [""; 0]);
        assert_eq!(off("User=www-data\nLockPersonality=yes"), ["capset(2)"]);
        assert_eq!(off("User=www-data\nSystemCallFilter=@system-service"), ["capset(2)"]);
    }

    #[test]
    fn what_would_be_another_service_is_refused() {
        for text in ["RootDirectory=/srv/x", "RootImage=/x.raw", "DynamicUser=yes"] {
            let unit = Unit::of_text("a", &format!("[Service]\n{text}"));
            let error = switched_off(&unit).expect_err(text).to_string();
            assert!(error.starts_with(&format!("a.service has {text}, which needs mounts")), "{error}");
        }
        assert_eq!(off("RootDirectory=/\nDynamicUser=no\nRootImage="), [""; 0]);
    }

    #[test]
    fn a_drop_in_is_made_of_known_settings_only() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let text = drop_in(&names(&["PrivateTmp", "BindPaths", "capset(2)"])).expect("drop-in");
        let expected = "[Service]\nPrivateTmp=no\nBindPaths=\nSystemCallFilter=~capset\nSystemCallErrorNumber=EPERM\n";
        assert_eq!(text, expected);
        assert!(drop_in(&names(&["PrivateTmp=no\nExecStartPre"])).is_err());
    }
}
