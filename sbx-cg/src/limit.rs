//! The limits that the document asks for, and the controllers that enforce them.

use crate::hierarchy::Hierarchy;
use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{MaxValue, error::Error as CgroupError};
use sbx::Document;
use serde_json::{Map, Value};
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes. Swap is not counted in, nor limited: that is the host's to say.
    Memory(i64),
    /// Processes and threads.
    Pids(i64),
    /// Microseconds of processor time in each period of so many.
    Cpu { quota: i64, period: u64 },
    /// Share of the disks' time.
    IoWeight(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "a memory limit of {bytes} bytes"),
            Self::Pids(number) => write!(f, "a limit of {number} processes"),
            Self::Cpu { quota, period } => write!(f, "a processor limit of {quota} of each {period} us"),
            Self::IoWeight(weight) => write!(f, "an I/O weight of {weight}"),
        }
    }
}

/// The number behind a key, in a text that has one on each line.
pub fn field<T: FromStr>(text: &str, key: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

impl Limit {
    /// The limits of `linux.resources`. One that means "unlimited" (-1, 0) is none.
    pub fn all(doc: &Document) -> Result<Vec<Self>> {
        let number = |field: &str| -> Result<Option<i64>> {
            Ok(doc.read(&format!("linux.resources.{field}"))?.filter(|number| *number > 0))
        };
        let period = number("cpu.period")?.unwrap_or(100_000).unsigned_abs();
        let limits = [
            number("memory.limit")?.map(Self::Memory),
            number("pids.limit")?.map(Self::Pids),
            number("cpu.quota")?.map(|quota| Self::Cpu { quota, period }),
            number("blockIO.weight")?.map(|weight| Self::IoWeight(weight.unsigned_abs())),
        ];
        Ok(limits.into_iter().flatten().collect())
    }

    /// The controller that enforces it.
    pub fn controller(self, v2: bool) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Pids(_) => "pids",
            Self::Cpu { .. } => "cpu",
            Self::IoWeight(_) if v2 => "io",
            Self::IoWeight(_) => "blkio",
        }
    }

    /// The hierarchy whose controller enforces it: on a hybrid host the controllers are v1's.
    pub fn hierarchy(self, hierarchies: &[Hierarchy]) -> Result<usize> {
        let place = hierarchies.iter().position(|hierarchy| hierarchy.has(self.controller(hierarchy.v2)));
        place.with_context(|| format!("{self} cannot be enforced: no {} controller here", self.controller(false)))
    }

    /// Refuses a memory limit of v2 that is below what cannot be had back: the kernel would kill for it, the
    /// container's first process perhaps. v1 refuses by itself.
    pub fn check_room(self, cgroup: &Path, v2: bool) -> Result<()> {
        let (Self::Memory(bytes), true) = (self, v2) else { return Ok(()) };
        // Where memory is not counted yet, there is nothing to compare.
        let Ok(current) = fs::read_to_string(cgroup.join("memory.current")) else { return Ok(()) };
        let stat = fs::read_to_string(cgroup.join("memory.stat")).unwrap_or_default();
        let spare = ["inactive_file", "active_file", "slab_reclaimable"].into_iter();
        let spare: i64 = spare.filter_map(|key| field::<i64>(&stat, key)).sum();
        let used = current.trim().parse::<i64>()? - spare;
        ensure!(used < bytes, "{self} is too small: {used} bytes are in use in {}", cgroup.display());
        Ok(())
    }

    /// Sets it on a cgroup.
    pub fn set(self, cgroup: &Path, v2: bool) -> Result<()> {
        let (point, root) = (cgroup.to_owned(), cgroup.to_owned());
        let result: Result<(), CgroupError> = match self {
            Self::Memory(bytes) => MemController::new(point, root, v2).set_limit(bytes),
            Self::Pids(number) => PidController::new(point, root, v2).set_pid_max(MaxValue::Value(number)),
            Self::Cpu { quota, period } => {
                CpuController::new(point, root, v2).set_cfs_quota_and_period(Some(quota), Some(period))
            }
            // The library has the names of older kernels.
            Self::IoWeight(weight) => {
                let path = cgroup.join(weight_file(cgroup, v2)?);
                return fs::write(&path, weight.to_string())
                    .with_context(|| format!("{self} cannot be set in {}", path.display()));
            }
        };
        // Its errors repeat their cause in words of their own.
        let result = result.map_err(|error| anyhow!("{}", Error::from(error).root_cause()));
        result.with_context(|| format!("{self} cannot be set on {}", cgroup.display()))
    }

    /// Reads it back: what the kernel took, or what a service manager has set, must be what was asked for.
    pub fn verify(self, cgroup: &Path, v2: bool) -> Result<()> {
        let read = |file: &str| -> Result<String> {
            let path = cgroup.join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("{self} cannot be read back: {}", path.display()))?;
            Ok(text.trim().to_owned())
        };
        let (found, right) = match (self, v2) {
            (Self::Memory(bytes), _) => {
                let found = read(if v2 { "memory.max" } else { "memory.limit_in_bytes" })?;
                // The kernel counts in pages.
                let right = found.parse().is_ok_and(|found: i64| found <= bytes && bytes - found < MAX_PAGE);
                (found, right)
            }
            (Self::Pids(number), _) => exactly(read("pids.max")?, &number.to_string()),
            (Self::Cpu { quota, period }, true) => exactly(read("cpu.max")?, &format!("{quota} {period}")),
            (Self::Cpu { quota, period }, false) => {
                let found = format!("{} {}", read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
                exactly(found, &format!("{quota} {period}"))
            }
            (Self::IoWeight(weight), _) => {
                let text = read(weight_file(cgroup, v2)?)?;
                // On v2 "default 100"; more lines are those of single devices.
                let first = text.lines().next().unwrap_or_default();
                exactly(first.trim_start_matches("default ").to_owned(), &weight.to_string())
            }
        };
        ensure!(right, "{self} is not in force: {} has {found:?}", cgroup.display());
        Ok(())
    }
}

/// The file of the I/O weight: which one there is depends on the I/O schedulers that the kernel has.
fn weight_file(cgroup: &Path, v2: bool) -> Result<&'static str> {
    let files = if v2 { ["io.weight", "io.bfq.weight"] } else { ["blkio.weight", "blkio.bfq.weight"] };
    let file = files.into_iter().find(|file| cgroup.join(file).exists());
    file.with_context(|| {
        format!("an I/O weight cannot be enforced: {} has no {}", cgroup.display(), files.join(" or "))
    })
}

/// The largest page of the architectures that we run on, in bytes.
const MAX_PAGE: i64 = 64 << 10;

fn exactly(found: String, wanted: &str) -> (String, bool) {
    let right = found == wanted;
    (found, right)
}

/// What of `linux.resources` is understood here, by controller.
const FIELDS: [(&str, &[&str]); 5] = [
    ("memory", &["limit"]),
    ("pids", &["limit"]),
    ("cpu", &["quota", "period"]),
    ("blockIO", &["weight"]),
    // A list: crate::device.
    ("devices", &[]),
];

/// Refuses a limit of another kind, which would silently not be in force. systemd may know it, and has set it then.
pub fn no_others(doc: &Document) -> Result<()> {
    let resources: Map<String, Value> = doc.read("linux.resources")?.unwrap_or_default();
    for (controller, limits) in &resources {
        let known = FIELDS.iter().find(|(name, _)| name == controller);
        let (_, fields) = known.with_context(|| format!("linux.resources.{controller} is not supported"))?;
        let other = limits
            .as_object()
            .into_iter()
            .flatten()
            .find(|(field, value)| !value.is_null() && !fields.contains(&field.as_str()));
        if let Some((field, _)) = other {
            bail!("linux.resources.{controller}.{field} is not supported");
        }
    }
    Ok(())
}

/// Enables what controllers of `wanted` the cgroup is offered, for its children (v2). Says which one it is not offered,
/// if that is needed.
pub fn enable(cgroup: &Path, wanted: &[&str], needed: &[&str]) -> Result<()> {
    let path = cgroup.join("cgroup.controllers");
    let offered = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let offered: Vec<&str> = offered.split_whitespace().collect();
    if let Some(missing) = needed.iter().find(|name| !offered.contains(name)) {
        bail!("the {missing} controller is not available in {}", cgroup.display());
    }
    for name in wanted.iter().filter(|name| offered.contains(name)) {
        let path = cgroup.join("cgroup.subtree_control");
        fs::write(&path, format!("+{name}"))
            .with_context(|| format!("cannot enable the {name} controller in {}", cgroup.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Hierarchy { mount: "/nowhere".into(), controllers, v2: false, own: "/nowhere".into() }
    }

    #[test]
    fn a_limit_without_a_controller_is_an_error_that_names_both() {
        let hierarchies = [hierarchy(&["cpu", "cpuacct"]), hierarchy(&["pids"])];
        assert_eq!(Limit::Pids(5).hierarchy(&hierarchies).expect("pids"), 1);
        let error = Limit::Memory(64 << 20).hierarchy(&hierarchies).expect_err("no memory").to_string();
        assert_eq!(error, "a memory limit of 67108864 bytes cannot be enforced: no memory controller here");
    }

    #[test]
    fn unlimited_is_no_limit() {
        let text = br#"{"linux":{"resources":{"memory":{"limit":-1},"pids":{"limit":0},"cpu":{"quota":5000}}}}"#;
        let doc = Document::parse(text).expect("document");
        assert_eq!(Limit::all(&doc).expect("limits"), [Limit::Cpu { quota: 5000, period: 100_000 }]);
        let doc = Document::parse(br#"{"linux":{"resources":{"memory":{"limit":"1M"}}}}"#).expect("document");
        assert!(Limit::all(&doc).is_err());
    }

    #[test]
    fn a_limit_that_is_not_understood_is_refused() {
        let others = |resources: &str| {
            let text = format!(r#"{{"linux":{{"resources":{resources}}}}}"#);
            no_others(&Document::parse(text.as_bytes()).expect("document")).map_err(|error| error.to_string())
        };
        assert!(others(r#"{"memory":{"limit":1},"cpu":{"quota":1,"shares":null}}"#).is_ok());
        assert_eq!(
            others(r#"{"memory":{"limit":1,"swap":2}}"#).expect_err("swap"),
            "linux.resources.memory.swap is not supported"
        );
        assert_eq!(others(r#"{"rdma":{}}"#).expect_err("rdma"), "linux.resources.rdma is not supported");
    }
}
