//! What all processes of a running container are made to do at once.

use crate::apply::{MOMENT, PARTS, PATIENCE, PAYLOAD, existing};
use crate::tree::{self, KILL};
use anyhow::{Context, Result, bail};
use sbx::Name;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

/// How a cgroup is frozen and thawed by what is written to a file, and which line of which file says that it is frozen
/// (cgroup-v2.rst, and freezer-subsystem.rst of v1).
struct Freezer {
    file: &'static str,
    freeze: &'static str,
    thaw: &'static str,
    told: &'static str,
    frozen: &'static str,
}

const V2: Freezer =
    Freezer { file: "cgroup.freeze", freeze: "1", thaw: "0", told: "cgroup.events", frozen: "frozen 1" };
const V1: Freezer =
    Freezer { file: "freezer.state", freeze: "FROZEN", thaw: "THAWED", told: "freezer.state", frozen: "FROZEN" };

/// The parts of a container's cgroup in the hierarchy where they can be frozen, and how. A unit's own cgroup is left
/// to systemd, which has a freezer of its own (systemctl(1)).
fn freezer(name: &Name) -> Result<(Freezer, Vec<PathBuf>)> {
    let bases = existing(name)?;
    for freezer in [V2, V1] {
        let has = |base: &&PathBuf| PARTS.iter().all(|part| base.join(part).join(freezer.file).exists());
        if let Some(base) = bases.iter().find(has) {
            return Ok((freezer, PARTS.map(|part| base.join(part)).to_vec()));
        }
    }
    bail!("{name} cannot be frozen: no freezer here")
}

impl Freezer {
    fn write(&self, cgroup: &Path, what: &str) -> Result<()> {
        let path = cgroup.join(self.file);
        fs::write(&path, what).with_context(|| format!("cannot write {}", path.display()))
    }

    fn is_frozen(&self, cgroup: &Path) -> Option<bool> {
        let text = fs::read_to_string(cgroup.join(self.told)).ok()?;
        Some(text.lines().any(|line| line == self.frozen))
    }

    /// Freezes a cgroup with all below it, and waits until the last of its processes has stopped.
    fn freeze(&self, cgroup: &Path) -> Result<()> {
        self.write(cgroup, self.freeze)?;
        let deadline = Instant::now() + PATIENCE;
        while self.is_frozen(cgroup) != Some(true) {
            if Instant::now() > deadline {
                bail!("{} does not freeze", cgroup.display());
            }
            thread::sleep(MOMENT);
        }
        Ok(())
    }
}

/// Stops all processes of a container where they are, until they are thawed.
pub fn freeze(name: &Name) -> Result<()> {
    let (freezer, parts) = freezer(name)?;
    let frozen = parts.iter().try_for_each(|part| freezer.freeze(part));
    // All or none.
    if frozen.is_err() { thaw(name).and(frozen) } else { frozen }
}

/// Lets the processes of a container go on.
pub fn thaw(name: &Name) -> Result<()> {
    let (freezer, parts) = freezer(name)?;
    parts.iter().try_for_each(|part| freezer.write(part, freezer.thaw))
}

/// Whether the container in a cgroup is frozen, by whomever.
pub fn is_frozen(base: &Path) -> Option<bool> {
    let payload = base.join(PAYLOAD);
    [V2, V1].iter().find_map(|freezer| freezer.is_frozen(&payload))
}

/// Thaws what v1's freezer has frozen below a cgroup, if anything is.
pub fn thaw_v1(base: &Path) {
    for part in PARTS {
        let _ = V1.write(&base.join(part), V1.thaw);
    }
}

/// Kills all processes of a container, its first one among them.
pub fn kill(name: &Name) -> Result<()> {
    let (_, parts) = freezer(name)?;
    if parts.iter().all(|part| part.join(KILL).exists()) {
        return parts.iter().try_for_each(|part| {
            fs::write(part.join(KILL), "1").with_context(|| format!("cannot kill what is in {}", part.display()))
        });
    }
    // v1 has no such file. What is frozen makes no more processes while it is gone through.
    freeze(name)?;
    let killed = parts.iter().try_for_each(|part| tree::from_the_leaves(part, tree::kill));
    thaw(name).and(killed)
}
