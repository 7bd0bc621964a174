//! The limits that the document asks for, and the controllers that enforce them.

use crate::hierarchy::Hierarchy;
use anyhow::{Context, Result, bail, ensure};
use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{MaxValue, error::Error as CgroupError};
use sbx::Document;
use std::fmt;
use std::fs;
use std::path::Path;

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

    /// Sets it on a cgroup.
    pub fn set(self, cgroup: &Path, v2: bool) -> Result<()> {
        let (point, root) = (cgroup.to_owned(), cgroup.to_owned());
        let result: Result<(), CgroupError> = match self {
            Self::Memory(bytes) => MemController::new(point, root, v2).set_limit(bytes),
            Self::Pids(number) => PidController::new(point, root, v2).set_pid_max(MaxValue::Value(number)),
            Self::Cpu { quota, period } => {
                CpuController::new(point, root, v2).set_cfs_quota_and_period(Some(quota), Some(period))
            }
            // The library knows only the scheduler's own weight on v2, not the controller's.
            Self::IoWeight(weight) if v2 => {
                let file = cgroup.join("io.weight");
                return fs::write(&file, weight.to_string()).with_context(|| format!("{self} cannot be set"));
            }
            Self::IoWeight(weight) => BlkIoController::new(point, root, v2).set_weight(weight),
        };
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
            (Self::IoWeight(weight), true) => exactly(read("io.weight")?, &format!("default {weight}")),
            (Self::IoWeight(weight), false) => exactly(read("blkio.weight")?, &weight.to_string()),
        };
        ensure!(right, "{self} is not in force: {} has {found:?}", cgroup.display());
        Ok(())
    }
}

/// The largest page of the architectures that we run on, in bytes.
const MAX_PAGE: i64 = 64 << 10;

fn exactly(found: String, wanted: &str) -> (String, bool) {
    let right = found == wanted;
    (found, right)
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
}
