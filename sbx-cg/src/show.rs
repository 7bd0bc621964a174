//! What a container uses, and how far it may.

use crate::apply::{EXEC, PAYLOAD, existing};
use crate::limit::field;
use crate::order::is_frozen;
use anyhow::Result;
use sbx::Name;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// The files of a container's cgroups, in all hierarchies.
struct Files(Vec<PathBuf>);

impl Files {
    /// The first text of a file that `find` finds something in: v1 and v2 have files of the same name.
    fn find<T>(&self, file: &str, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|base| find(&fs::read_to_string(base.join(file)).ok()?))
    }

    /// A file that holds a number. What is unlimited reads "max", or on v1 a number that is negative or beyond all
    /// memory.
    fn number(&self, file: &str) -> Option<u64> {
        self.find(file, |text| text.trim().parse().ok()).filter(|number| *number < 1 << 62)
    }

    /// The number behind a key of a file.
    fn field(&self, file: &str, key: &str) -> Option<u64> {
        self.find(file, |text| field(text, key))
    }

    /// The sum over all devices of v2's `8:0 KEY=NUMBER` or v1's `8:0 KEY NUMBER`.
    fn sum(&self, file: &str, key: &str) -> Option<u64> {
        self.find(file, |text| {
            let words: Vec<&str> = text.split([' ', '\n', '=']).collect();
            Some(words.windows(2).filter(|pair| pair[0] == key).filter_map(|pair| pair[1].parse::<u64>().ok()).sum())
        })
    }

    /// The processor limit, in processors.
    fn cpus(&self) -> Option<f64> {
        let v2 = self.find("cpu.max", |text| {
            let (quota, period) = text.trim().split_once(' ')?;
            Some((quota.parse().ok()?, period.parse().ok()?))
        });
        let v1 = || Some((self.number("cpu.cfs_quota_us")?, self.number("cpu.cfs_period_us")?));
        v2.or_else(v1).map(|(quota, period)| quota as f64 / period as f64)
    }

    /// The I/O weight: the default one, not those of single devices.
    fn weight(&self) -> Option<u64> {
        let files = ["io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight"];
        files.into_iter().find_map(|file| self.field(file, "default").or_else(|| self.number(file)))
    }
}

/// All of it as JSON. What the kernel does not count is null. Amounts of memory and of I/O are in bytes; `atLimit`
/// says how often a limit was in the way.
pub fn show(name: &Name) -> Result<Vec<u8>> {
    let files = Files(existing(name)?);
    let parts =
        |part: &str| files.0.iter().map(|base| base.join(part)).filter(|part| part.is_dir()).collect::<Vec<_>>();
    let memory = json!({
        "current": files.number("memory.current").or_else(|| files.number("memory.usage_in_bytes")),
        "peak": files.number("memory.peak").or_else(|| files.number("memory.max_usage_in_bytes")),
        "limit": files.number("memory.max").or_else(|| files.number("memory.limit_in_bytes")),
        "atLimit": files.field("memory.events", "max").or_else(|| files.number("memory.failcnt")),
        "oomKills": files.field("memory.events", "oom_kill").or_else(|| files.field("memory.oom_control", "oom_kill")),
    });
    let pids = json!({
        "current": files.number("pids.current"),
        "peak": files.number("pids.peak"),
        "limit": files.number("pids.max"),
        "atLimit": files.field("pids.events", "max"),
    });
    let microseconds = |nanoseconds: Option<u64>| nanoseconds.map(|ns| ns / 1000);
    let cpu = json!({
        "usageMicroseconds":
            files.field("cpu.stat", "usage_usec").or_else(|| microseconds(files.number("cpuacct.usage"))),
        "limit": files.cpus(),
        "periods": files.field("cpu.stat", "nr_periods"),
        "throttledPeriods": files.field("cpu.stat", "nr_throttled"),
        "throttledMicroseconds": files
            .field("cpu.stat", "throttled_usec")
            .or_else(|| microseconds(files.field("cpu.stat", "throttled_time"))),
    });
    let v1 = "blkio.throttle.io_service_bytes_recursive";
    let io = json!({
        "readBytes": files.sum("io.stat", "rbytes").or_else(|| files.sum(v1, "Read")),
        "writtenBytes": files.sum("io.stat", "wbytes").or_else(|| files.sum(v1, "Write")),
        "weight": files.weight(),
    });
    let shown: Value = json!({
        "name": name.as_str(),
        "payload": parts(PAYLOAD),
        "exec": parts(EXEC),
        "frozen": files.0.iter().find_map(|base| is_frozen(base)),
        "memory": memory,
        "pids": pids,
        "cpu": cpu,
        "io": io,
    });
    Ok(format!("{shown}\n").into_bytes())
}
