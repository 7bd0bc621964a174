//! The hierarchies of control groups that are mounted here, and where this process is in each.

use anyhow::{Context, Result};
use sbx::mountinfo::{self, Mount};
use sbx::procfs;
use std::path::{Path, PathBuf};

/// One mounted hierarchy (cgroups(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its controllers, or its `name=` on v1.
    pub controllers: Vec<String>,
    /// Whether it is the unified hierarchy of v2.
    pub v2: bool,
    /// The directory of the cgroup that this process is in.
    pub own: PathBuf,
}

impl Hierarchy {
    /// Whether the controller is this hierarchy's: on v2 one that the root offers.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Whether it is the one in which a systemd of v1 keeps its units.
    pub fn is_systemd(&self) -> bool {
        self.controllers.iter().any(|name| name == "name=systemd")
    }
}

/// The hierarchies that this process sees.
pub fn mounted() -> Result<Vec<Hierarchy>> {
    let read = |path: &str| procfs::read(path).with_context(|| format!("cannot read {path}"));
    let cgroup = read("/proc/self/cgroup")?;
    let mut found = among(&mountinfo::parse(&read("/proc/self/mountinfo")?)?, &String::from_utf8_lossy(&cgroup));
    for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.v2) {
        let offered = procfs::read(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
        let offered = String::from_utf8_lossy(&offered);
        hierarchy.controllers = offered.split_whitespace().map(str::to_owned).collect();
    }
    Ok(found)
}

/// The hierarchies among the mounts, with what /proc/self/cgroup says of them. Each counts once, however often it is
/// mounted; which controllers v2 has is in none of the two.
fn among(mounts: &[Mount], cgroup: &str) -> Vec<Hierarchy> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for mount in mounts.iter().filter(|mount| ["cgroup", "cgroup2"].contains(&mount.kind.as_str())) {
        let v2 = mount.kind == "cgroup2";
        let member = |line: &&str| {
            let names = line.split(':').nth(1).unwrap_or_default();
            if v2 {
                line.starts_with("0::")
            } else {
                !names.is_empty() && names.split(',').all(|name| mount.has_parameter(name))
            }
        };
        let Some(line) = cgroup.lines().find(member) else { continue };
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
        let path = Path::new(fields.next().unwrap_or_default());
        let below = path.strip_prefix(&mount.root).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
        let found = Hierarchy {
            own: mount.point.join(below),
            mount: mount.point.clone(),
            controllers: controllers.map(str::to_owned).collect(),
            v2,
        };
        if hierarchies.iter().all(|known| known.v2 != v2 || known.controllers != found.controllers) {
            hierarchies.push(found);
        }
    }
    hierarchies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
        among(&mountinfo::parse(mountinfo.as_bytes()).expect("mounts"), cgroup)
    }

    #[test]
    fn a_hybrid_host_has_v1_controllers_beside_an_empty_unified_hierarchy() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
            35 30 0:28 / /mnt/memory rw - cgroup cgroup rw,memory\n";
        let cgroup = "9:name=systemd:/user.slice\n5:memory:/a b\n3:cpu,cpuacct:/\n0::/user.slice/s\n";
        let all = parse(mountinfo, cgroup);
        let text: Vec<String> =
            all.iter().map(|h| format!("{} {}", h.controllers.join(","), h.own.display())).collect();
        assert_eq!(
            text,
            [
                "cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct/",
                "memory /sys/fs/cgroup/memory/a b",
                "name=systemd /sys/fs/cgroup/systemd/user.slice",
                " /sys/fs/cgroup/unified/user.slice/s",
            ]
        );
        assert!(all[2].is_systemd() && all[3].v2);
    }

    #[test]
    fn a_v2_host_has_one_hierarchy() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let all = parse(mountinfo, "0::/system.slice/a_sandbox.service\n");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].own, Path::new("/sys/fs/cgroup/system.slice/a_sandbox.service"));
    }

    #[test]
    fn a_hierarchy_that_this_process_is_not_in_is_passed_over() {
        assert!(parse("", "").is_empty());
        assert!(parse("30 24 0:26 / /c rw - cgroup cgroup rw,memory\n", "0::/\n").is_empty());
    }
}
