//! How far a process is trusted: its limits, its capabilities, and the system calls that it may make.

use crate::{Document, seccomp};
use anyhow::{Context, Result, anyhow, ensure};
use caps::{Capability, CapsHashSet};
use nix::sys::resource::Resource;
use serde::Deserialize;

/// What of a confinement is no matter of the container's.
#[derive(Debug)]
pub struct Profile {
    pub(super) rlimits: Vec<(Resource, u64, u64)>,
    pub(super) bounding: CapsHashSet,
    pub(super) effective: CapsHashSet,
    pub(super) permitted: CapsHashSet,
    pub(super) no_new_privs: bool,
    pub(super) seccomp: seccomp::Filter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Capabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
    permitted: Vec<String>,
    inheritable: Vec<String>,
    ambient: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: String,
    soft: u64,
    hard: u64,
}

impl Profile {
    /// Reads and checks what the document asks for. A capability, limit or rule that is not understood is an error.
    pub fn of(doc: &Document) -> Result<Self> {
        let capabilities: Capabilities = doc.read("process.capabilities")?.unwrap_or_default();
        // A set that is not empty would hand capabilities to programs without file capabilities: CVE-2022-29162.
        ensure!(
            capabilities.inheritable.is_empty() && capabilities.ambient.is_empty(),
            "process.capabilities: inheritable and ambient must be empty"
        );
        let rlimits: Vec<Rlimit> = doc.read("process.rlimits")?.unwrap_or_default();
        let seccomp = doc.read::<seccomp::Seccomp>("linux.seccomp")?;
        Ok(Self {
            rlimits: rlimits.into_iter().map(rlimit).collect::<Result<_>>()?,
            bounding: capability_set(&capabilities.bounding)?,
            effective: capability_set(&capabilities.effective)?,
            permitted: capability_set(&capabilities.permitted)?,
            no_new_privs: doc.read("process.noNewPrivileges")?.unwrap_or(false),
            seccomp: seccomp.map(|seccomp| seccomp.compile()).transpose().context("linux.seccomp")?.unwrap_or_default(),
        })
    }

    /// No right at all, and no system calls but these.
    pub fn only<'a>(calls: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let calls = seccomp::Seccomp::of(vec![seccomp::Rule::allow(calls)]);
        Self { no_new_privs: true, ..Self::of(&Document::default())? }.with_calls(&calls)
    }

    /// With these system calls in the place of the document's.
    pub fn with_calls(self, calls: &seccomp::Seccomp) -> Result<Self> {
        Ok(Self { seccomp: calls.compile().context("linux.seccomp")?, ..self })
    }
}

fn capability_set(names: &[String]) -> Result<CapsHashSet> {
    names
        .iter()
        .map(|name| name.parse::<Capability>().map_err(|_| anyhow!("process.capabilities: no capability {name:?}")))
        .collect()
}

fn rlimit(limit: Rlimit) -> Result<(Resource, u64, u64)> {
    let resource = resource(&limit.kind).with_context(|| format!("process.rlimits: no limit {:?}", limit.kind))?;
    Ok((resource, limit.soft, limit.hard))
}

/// What a limit is of, by its name in the document: `RLIMIT_NOFILE` (setrlimit(2)).
pub fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_AS" => Resource::RLIMIT_AS,
        "RLIMIT_CORE" => Resource::RLIMIT_CORE,
        "RLIMIT_CPU" => Resource::RLIMIT_CPU,
        "RLIMIT_DATA" => Resource::RLIMIT_DATA,
        "RLIMIT_FSIZE" => Resource::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => Resource::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => Resource::RLIMIT_NICE,
        "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
        "RLIMIT_RSS" => Resource::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => Resource::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => Resource::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => Resource::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => Resource::RLIMIT_STACK,
        _ => return None,
    })
}
