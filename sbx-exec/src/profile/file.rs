//! Filters in files: as the OCI runtime specification has them, and with the conditions that Docker and Podman add.

use anyhow::{Context, Result, ensure};
use caps::{Capability, CapsHashSet};
use serde::Deserialize;
use serde_json::{Value, from_value};
use std::path::Path;

/// When a rule is there: `includes` and `excludes` of a rule of containers-common's and Docker's profiles.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct When {
    caps: Vec<Capability>,
    /// As Go names architectures.
    arches: Vec<String>,
    min_kernel: Option<Version>,
}

/// The first two numbers of a kernel's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Version(u32, u32);

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut numbers = text.split(['.', '-']).map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(first), Some(second)) => Ok(Self(first, second)),
            _ => Err(format!("{text:?} is no kernel's version")),
        }
    }
}

/// The host that rules are chosen for.
#[derive(Debug)]
struct Machine {
    architecture: &'static str,
    kernel: Version,
}

impl Machine {
    /// This one.
    fn new() -> Result<Self> {
        let uname = nix::sys::utsname::uname().context("cannot read the kernel's version")?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let kernel = uname.release().to_string_lossy().into_owned().try_into();
        Ok(Self { architecture, kernel: kernel.map_err(anyhow::Error::msg)? })
    }
}

impl When {
    fn read(rule: &mut Value, key: &str) -> Result<Option<Self>> {
        let found = rule.as_object_mut().and_then(|rule| rule.remove(key)).filter(|value| !value.is_null());
        found.map(from_value).transpose().with_context(|| key.to_owned())
    }

    fn is_empty(&self) -> bool {
        self.caps.is_empty() && self.arches.is_empty() && self.min_kernel.is_none()
    }

    /// Whether it holds in all that it names.
    fn holds(&self, capabilities: &CapsHashSet, machine: &Machine) -> bool {
        self.caps.iter().all(|capability| capabilities.contains(capability))
            && (self.arches.is_empty() || self.arches.iter().any(|name| name == machine.architecture))
            && self.min_kernel.is_none_or(|least| machine.kernel >= least)
    }

    /// Whether anything that it names holds.
    fn touches(&self, capabilities: &CapsHashSet, machine: &Machine) -> bool {
        self.caps.iter().any(|capability| capabilities.contains(capability))
            || self.arches.iter().any(|name| name == machine.architecture)
            || self.min_kernel.is_some_and(|least| machine.kernel >= least)
    }
}

/// A JSON file.
pub fn read(path: &Path) -> Result<Value> {
    let read = || Ok(serde_json::from_slice(&std::fs::read(path)?)?);
    let value: Result<Value> = read();
    let value = value.with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(value.is_object(), "cannot read {}: it is no JSON object", path.display());
    Ok(value)
}

/// The filter in a file, for who has these capabilities on this machine.
pub fn filter(path: &Path, capabilities: &CapsHashSet) -> Result<Value> {
    resolve(read(path)?, capabilities, &Machine::new()?).with_context(|| path.display().to_string())
}

/// The filter with those rules alone that are for who has these capabilities, on this machine.
fn resolve(mut filter: Value, capabilities: &CapsHashSet, machine: &Machine) -> Result<Value> {
    if let Some(rules) = filter.get_mut("syscalls").and_then(Value::as_array_mut) {
        let mut chosen = Vec::new();
        for mut rule in std::mem::take(rules) {
            let includes = When::read(&mut rule, "includes")?.unwrap_or_default();
            let excludes = When::read(&mut rule, "excludes")?.unwrap_or_default();
            if includes.holds(capabilities, machine)
                && (excludes.is_empty() || !excludes.touches(capabilities, machine))
            {
                // Docker's older files have one name.
                if let Some(name) = rule.as_object_mut().and_then(|rule| rule.remove("name")).filter(|name| name != "")
                {
                    rule["names"] = Value::Array(vec![name]);
                }
                chosen.push(rule);
            }
        }
        *rules = chosen;
    }
    // Which architectures come with which: the filter refuses all but this one.
    if let Some(filter) = filter.as_object_mut() {
        filter.remove("archMap");
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(rules: Value, capabilities: &[Capability]) -> Vec<String> {
        let machine = Machine { architecture: "amd64", kernel: Version(6, 1) };
        let filter = json!({ "defaultAction": "SCMP_ACT_ERRNO", "archMap": [], "syscalls": rules });
        let filter = resolve(filter, &capabilities.iter().copied().collect(), &machine).expect("resolve");
        assert!(filter.get("archMap").is_none());
        let rules = filter["syscalls"].as_array().expect("rules").iter();
        rules.map(|rule| rule["names"][0].as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn a_rule_is_there_when_its_conditions_hold() {
        let rules = json!([
            { "names": ["read"], "action": "SCMP_ACT_ALLOW" },
            { "name": "write", "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {} },
            { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": { "caps": ["CAP_SYS_ADMIN"], "arches": ["s390"] } },
            { "names": ["sync"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["arm64"] } },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
            { "names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "6.10" } },
        ]);
        assert_eq!(names(rules.clone(), &[]), ["read", "write", "clone", "ptrace"]);
        assert_eq!(names(rules, &[Capability::CAP_SYS_ADMIN]), ["read", "write", "mount", "ptrace"]);
    }

    #[test]
    fn a_condition_that_is_not_understood_is_an_error() {
        let machine = Machine { architecture: "amd64", kernel: Version(6, 1) };
        for when in [json!({ "caps": ["CAP_MAGIC"] }), json!({ "caps": 1 }), json!({ "minKernel": "new" }), json!(1)] {
            let filter = json!({ "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": when }] });
            assert!(resolve(filter, &CapsHashSet::new(), &machine).is_err());
        }
    }
}
