//! Makes the cgroups, changes their limits, and removes them.

use crate::device::{self, Policy};
use crate::edit::{check_path, path};
use crate::hierarchy::{Hierarchy, mounted};
use crate::limit::{Limit, enable, no_others};
use crate::order;
use crate::tree::{self, KILL};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use sbx::cgroup::Cgroups;
use sbx::ids::Ids;
use sbx::lifeline::{Lifeline, Undoing};
use sbx::{Document, Name, host, store, tool};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The parts of a container's cgroup: the container, executed commands, and on a delegated one what started it.
pub const PAYLOAD: &str = "payload";
pub const EXEC: &str = "exec";
pub const PARTS: [&str; 2] = [PAYLOAD, EXEC];
const SUPERVISOR: &str = "supervisor";

/// The controllers of v1 in whose hierarchies a container always has a place: for what is shown of it, and so that a
/// limit can be set while it runs.
const COUNTED: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "blkio"];

/// What a process needs to be in a cpuset of v1.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// The files of a cgroup by which processes and controllers are moved, on v1 and v2.
const MOVING: [&str; 4] = ["cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"];

/// What an init inside can pass on to its own units on v2, where the host offers it.
const DELEGATED: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// How long the kernel may take to end, freeze or move processes, and systemd to set limits.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait before looking again.
pub const MOMENT: Duration = Duration::from_millis(1);

/// How often a cgroup is made again when the one above it has just gone.
const ATTEMPTS: usize = 100;

/// A container's cgroup in one hierarchy.
struct Place {
    base: PathBuf,
    v2: bool,
    /// Whether a service manager has given it to us: then the limits are its to set, and ours to read.
    delegated: bool,
    /// Whether it is one of those in which the kernel asks who may use a device.
    restricts_devices: bool,
    /// Whether the container has it mounted, for its own systemd.
    is_seen: bool,
    limits: Vec<Limit>,
}

/// Makes the cgroups with their limits, and records them. Those that end by themselves are for limits alone.
pub fn create(doc: &mut Document, end: Option<Lifeline>, act: bool) -> Result<()> {
    let name = doc.name()?;
    let is_while = end.is_some();
    // While this process looks where.
    let undoing = end.filter(|_| act).map(|end| end.at_end(|| remove(&name))).transpose()?;
    check_path(doc, &name)?;
    let devices = Policy::of(doc)?;
    let mut places = places(&name, &mounted()?, &Limit::all(doc)?, &devices)?;
    let (parts, exec) = if is_while { (&PARTS[..1], PAYLOAD) } else { (&PARTS[..], EXEC) };
    if is_while {
        places.retain(|place| place.restricts_devices || !place.limits.is_empty());
        // Others would go with them.
        ensure!(places.iter().all(|place| !place.base.exists()), "there are cgroups of {name} already");
    }
    if places.iter().any(|place| !place.delegated) {
        no_others(doc)?;
    }
    places.iter().filter(|place| place.delegated).try_for_each(Place::verify)?;
    if !act {
        return Ok(());
    }
    let undoing = undoing.filter(|_| !places.is_empty());
    let _doing = undoing.map(Undoing::will_be).transpose()?;
    places.iter().try_for_each(|place| place.make(parts))?;
    for Place { base, v2, .. } in places.iter().filter(|place| place.restricts_devices) {
        parts.iter().try_for_each(|part| devices.enforce(&base.join(part), *v2))?;
    }
    if let Some(label) = doc.read::<String>("linux.mountLabel")?.filter(|_| host::runs_selinux()) {
        places.iter().try_for_each(|place| give_label(&place.base.join(PAYLOAD), &label))?;
    }
    if let Some(ids) = Ids::of(doc)? {
        let seen = places.iter().filter(|place| place.is_seen);
        seen.map(|place| place.base.join(PAYLOAD)).try_for_each(|payload| delegate(&payload, ids))?;
    }
    let all = |part: &str| places.iter().map(|place| place.base.join(part)).collect();
    let cgroups = Cgroups { payload: all(PAYLOAD), exec: all(exec) };
    doc.set("sbx.state.cgroups", serde_json::to_value(cgroups).context("sbx.state.cgroups")?)
}

/// Gives the cgroups that a container has other limits, and reads each back. What would have processes killed at once
/// is refused.
pub fn update(doc: &mut Document, act: bool) -> Result<()> {
    let name = doc.name()?;
    check_path(doc, &name)?;
    let limits = Limit::all(doc)?;
    let hierarchies = mounted()?;
    let place = |base: PathBuf| {
        let hierarchy = hierarchies.iter().position(|hierarchy| base.starts_with(&hierarchy.mount))?;
        let v2 = hierarchies[hierarchy].v2;
        let delegated = is_delegated(&base, &name);
        Some((hierarchy, Place { base, v2, delegated, restricts_devices: false, is_seen: false, limits: Vec::new() }))
    };
    // A dry run also serves a container that is yet to be made.
    let bases = if act { existing(&name)? } else { existing(&name).unwrap_or_default() };
    let mut places: Vec<(usize, Place)> = bases.into_iter().filter_map(place).collect();
    if places.iter().any(|(_, place)| !place.delegated) {
        no_others(doc)?;
    }
    for limit in limits {
        let hierarchy = limit.hierarchy(&hierarchies)?;
        if let Some((_, place)) = places.iter_mut().find(|(of, _)| *of == hierarchy) {
            place.limits.push(limit);
        }
    }
    for (_, Place { base, v2, limits, .. }) in &places {
        limits.iter().try_for_each(|limit| limit.check_room(base, *v2))?;
    }
    if !act {
        return Ok(());
    }
    places.iter().try_for_each(|(_, place)| if place.delegated { place.await_limits() } else { place.set_limits() })
}

/// Where the container needs a cgroup: wherever something is limited, restricted or counted, where systemd keeps its
/// units, and where all of a cgroup can be frozen and killed.
fn places(name: &Name, hierarchies: &[Hierarchy], limits: &[Limit], devices: &Policy) -> Result<Vec<Place>> {
    let unified = hierarchies.iter().any(|hierarchy| hierarchy.v2);
    let mut places: Vec<(bool, Place)> = hierarchies
        .iter()
        .map(|hierarchy| {
            let counts = COUNTED.iter().any(|controller| hierarchy.has(controller));
            let restricts_devices = !devices.is_empty() && (hierarchy.v2 || hierarchy.has("devices"));
            let freezes = !unified && hierarchy.has("freezer");
            let is_seen = hierarchy.v2 || hierarchy.is_systemd();
            let needed = is_seen || counts || freezes || restricts_devices;
            let (base, delegated) = match delegated(hierarchy, name) {
                Some(cgroup) => (cgroup, true),
                None => (own_place(hierarchy, name), false),
            };
            (needed, Place { base, v2: hierarchy.v2, delegated, restricts_devices, is_seen, limits: Vec::new() })
        })
        .collect();
    for limit in limits {
        let (_, place) = &mut places[limit.hierarchy(hierarchies)?];
        place.limits.push(*limit);
    }
    let places: Vec<Place> = places.into_iter().filter_map(|(needed, place)| needed.then_some(place)).collect();
    if places.is_empty() {
        bail!("no cgroup hierarchy is mounted");
    }
    let restricted = devices.is_empty() || places.iter().any(|place| place.restricts_devices);
    ensure!(restricted, "{} cannot be enforced: no devices controller here", device::FIELD);
    Ok(places)
}

fn own_place(hierarchy: &Hierarchy, name: &Name) -> PathBuf {
    hierarchy.mount.join(path(name).trim_start_matches('/'))
}

/// The cgroup of the container's unit, if this process runs for it: right in it, or in a part such as systemd's
/// `.control`.
fn delegated(hierarchy: &Hierarchy, name: &Name) -> Option<PathBuf> {
    hierarchy.own.ancestors().find(|cgroup| is_delegated(cgroup, name)).map(Path::to_owned)
}

/// Whether a cgroup is the one of the container's unit, and systemd has marked it as given away (Delegate=). What was
/// given to another unit may hold another container.
fn is_delegated(cgroup: &Path, name: &Name) -> bool {
    let mut value = [0; 8];
    cgroup.file_name().is_some_and(|file| *file == *name.unit())
        && getxattr(cgroup, "trusted.delegate", &mut value[..]).is_ok_and(|length| value[..length] == *b"1")
}

impl Place {
    /// Makes the parts, below the limits.
    fn make(&self, parts: &[&str]) -> Result<()> {
        let Self { base, v2, delegated, .. } = self;
        let above = base.parent().context("a cgroup has a parent")?;
        if !delegated {
            make_directory(base)?;
            self.set_limits()?;
        } else if *v2 {
            vacate(base)?;
        }
        if *v2 {
            enable(base, &DELEGATED, &[])?;
        }
        let parts: Vec<PathBuf> = parts.iter().map(|part| base.join(part)).collect();
        parts.iter().try_for_each(|part| make_directory(part))?;
        if !v2 && above.join(CPUSET[0]).exists() {
            [above, base].into_iter().chain(parts.iter().map(PathBuf::as_path)).try_for_each(fill_cpuset)?;
        }
        Ok(())
    }

    /// Sets the limits of a cgroup of our own.
    fn set_limits(&self) -> Result<()> {
        let Self { base, v2, limits, .. } = self;
        if *v2 {
            let needed: Vec<&str> = limits.iter().map(|limit| limit.controller(true)).collect();
            for above in base.ancestors().skip(1).take(2).collect::<Vec<_>>().into_iter().rev() {
                enable(above, &needed, &needed)?;
            }
        }
        limits.iter().try_for_each(|limit| limit.set(base, *v2))?;
        self.verify()
    }

    /// Waits until systemd has set the limits of its cgroup: it does so some time after it has been told to.
    fn await_limits(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.verify() {
                Err(_) if Instant::now() < deadline => thread::sleep(MOMENT),
                verified => return verified,
            }
        }
    }

    fn verify(&self) -> Result<()> {
        self.limits.iter().try_for_each(|limit| limit.verify(&self.base, self.v2))
    }
}

/// Makes a cgroup, or takes the one that a create which was cut short has left. The cgroup above all containers goes
/// with the last of them, which may be just now: again.
fn make_directory(cgroup: &Path) -> Result<()> {
    let went = |error: &Error| matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV));
    let mut attempts = (0..ATTEMPTS).map(|_| fs::create_dir_all(cgroup));
    let made = attempts.find(|made| !made.as_ref().is_err_and(went));
    made.unwrap_or_else(|| Err(ErrorKind::NotFound.into()))
        .with_context(|| format!("cannot make the cgroup {}", cgroup.display()))
}

/// Gives the container's part the SELinux label of its files, which what is made below takes over: the policy lets it
/// change no other cgroup. Needs a policy with the capability `cgroup_seclabel`, as all have had since 2018.
fn give_label(cgroup: &Path, label: &str) -> Result<()> {
    let files = fs::read_dir(cgroup).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let files: Vec<PathBuf> = files.with_context(|| format!("cannot read {}", cgroup.display()))?;
    files.iter().map(PathBuf::as_path).chain([cgroup]).try_for_each(|path| {
        setxattr(path, "security.selinux", label.as_bytes(), XattrFlags::empty())
            .with_context(|| format!("cannot give {} the label {label}", path.display()))
    })
}

/// Gives the container's part to root of its user namespace, for systemd to keep its units in: the cgroup, and the files
/// by which processes and controllers are moved (cgroups(7), "Delegation"). What limits it stays the host's.
fn delegate(cgroup: &Path, ids: Ids) -> Result<()> {
    let files = MOVING.iter().map(|file| cgroup.join(file)).filter(|path| path.exists());
    files.chain([cgroup.to_owned()]).try_for_each(|path| {
        chown(&path, Some(ids.uid), Some(ids.gid)).with_context(|| format!("cannot give {} away", path.display()))
    })
}

/// A new cpuset of v1 has neither processors nor memory, and so no process could enter: it gets those of the one above.
fn fill_cpuset(cgroup: &Path) -> Result<()> {
    for file in CPUSET {
        let (ours, above) = (cgroup.join(file), cgroup.join("..").join(file));
        if fs::read_to_string(&ours).is_ok_and(|text| text.trim().is_empty()) {
            let copy = fs::read(above).and_then(|bytes| fs::write(&ours, bytes));
            copy.with_context(|| format!("cannot fill {}", ours.display()))?;
        }
    }
    Ok(())
}

/// Moves what runs in a delegated cgroup of v2 itself to a part of it, since no controller can be enabled beside
/// processes. The shell that started us may be forking meanwhile: again, until none is left.
fn vacate(base: &Path) -> Result<()> {
    let supervisor = base.join(SUPERVISOR);
    make_directory(&supervisor)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let processes = tree::processes(base)?;
        if processes.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("cannot move the processes of {} to {SUPERVISOR}: there are always more", base.display());
        }
        for pid in processes {
            match fs::write(supervisor.join("cgroup.procs"), pid.to_string()) {
                Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
                    return Err(error)
                        .with_context(|| format!("cannot move process {pid} to {}", supervisor.display()));
                }
                _ => {}
            }
        }
    }
}

/// Ends what is left in the cgroups of `name`, and removes them.
pub fn remove(name: &Name) -> Result<()> {
    let hierarchies = mounted()?;
    let parts = |base: PathBuf| match is_delegated(&base, name) {
        // The cgroup itself is systemd's.
        true => PARTS.map(|part| base.join(part)).to_vec(),
        false => vec![base],
    };
    let mut bases = bases(name, &hierarchies);
    bases.retain(|base| !is_removed(base, name));
    // What is frozen on v1 would not die.
    bases.iter().for_each(|base| order::thaw_v1(base));
    let mut trees: Vec<PathBuf> = bases.into_iter().flat_map(parts).collect();
    // First where all can be killed at once: then there is nobody left in the others to chase.
    trees.sort_by_key(|tree| !tree.join(KILL).exists());
    let deadline = Instant::now() + PATIENCE;
    let result = tool::all(trees.iter().map(|tree| {
        let inside = hierarchies.iter().any(|hierarchy| hierarchy.own.starts_with(tree));
        ensure!(!inside, "cannot remove the cgroup {} from inside it", tree.display());
        tree::remove(tree, deadline)
    }));
    for place in hierarchies.iter().map(|hierarchy| own_place(hierarchy, name)) {
        // Only the last container's remove can: while there are others, it is not empty.
        let _ = place.parent().map(fs::remove_dir);
    }
    result
}

/// Removes the cgroup that a container had in a hierarchy, if nothing is in it any more, as is most often so.
fn is_removed(base: &Path, name: &Name) -> bool {
    let gone = |cgroup: &Path| match fs::remove_dir(cgroup) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    };
    PARTS.iter().all(|part| gone(&base.join(part))) && (is_delegated(base, name) || gone(base))
}

/// The cgroups that a container has, one a hierarchy.
pub fn existing(name: &Name) -> Result<Vec<PathBuf>> {
    let bases = bases(name, &mounted()?).into_iter().filter(|base| base.join(PAYLOAD).is_dir());
    let bases: Vec<PathBuf> = bases.collect();
    ensure!(!bases.is_empty(), "no cgroups of {name}");
    Ok(bases)
}

/// Wherever cgroups of `name` may be: at the place of its name in each hierarchy, in its unit's if this process runs
/// for that, and in its unit's where the running document says.
fn bases(name: &Name, hierarchies: &[Hierarchy]) -> BTreeSet<PathBuf> {
    let recorded = store::kept(name).ok().flatten();
    let recorded: Option<Cgroups> = recorded.and_then(|doc| doc.read("sbx.state.cgroups").ok().flatten());
    let recorded = recorded.unwrap_or_default().payload.into_iter().filter_map(|payload| {
        let base = payload.parent()?;
        is_delegated(base, name).then(|| base.to_owned())
    });
    let places = hierarchies.iter().map(|hierarchy| own_place(hierarchy, name));
    places.chain(hierarchies.iter().filter_map(|hierarchy| delegated(hierarchy, name))).chain(recorded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain files that look like cgroups of v2, in which the kernel would make them.
    fn unified(test: &str, offered: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("sbx-cg-{test}-{}", std::process::id()));
        for cgroup in [root.clone(), root.join("sbx"), root.join("sbx/a")] {
            fs::create_dir_all(&cgroup).expect("directory");
            fs::write(cgroup.join("cgroup.controllers"), offered).expect("file");
            fs::write(cgroup.join("cpu.max"), "max 100000\n").expect("file");
        }
        root
    }

    fn place(root: &Path, delegated: bool) -> Place {
        let limits = vec![Limit::Memory(64 << 20), Limit::Cpu { quota: 50_000, period: 100_000 }];
        Place { base: root.join("sbx/a"), v2: true, delegated, restricts_devices: false, is_seen: true, limits }
    }

    #[test]
    fn on_v2_the_controllers_are_enabled_from_the_root_down_and_the_limits_are_above_the_parts() {
        let root = unified("make", "cpu memory\n");
        // An empty one means there what that of the cgroup above has.
        for (cgroup, processors) in [("sbx", "0-1"), ("sbx/a", "")] {
            fs::write(root.join(cgroup).join(CPUSET[0]), processors).expect("file");
        }
        place(&root, false).make(&PARTS).expect("make");
        let read = |file: &str| fs::read_to_string(root.join(file)).expect(file);
        // A plain file has what was written last.
        for cgroup in ["", "sbx/", "sbx/a/"] {
            assert_eq!(read(&format!("{cgroup}cgroup.subtree_control")), "+cpu");
        }
        assert_eq!(read("sbx/a/cpuset.cpus"), "");
        assert_eq!(read("sbx/a/memory.max"), "67108864");
        assert_eq!(read("sbx/a/cpu.max"), "50000 100000");
        assert!(root.join("sbx/a/payload").is_dir() && root.join("sbx/a/exec").is_dir());
        fs::remove_dir_all(root).expect("clean up");
    }

    #[test]
    fn on_v2_a_controller_that_is_not_offered_is_named() {
        let root = unified("missing", "cpu\n");
        let error = place(&root, false).make(&PARTS).expect_err("no memory").to_string();
        assert_eq!(error, format!("the memory controller is not available in {}", root.display()));
        fs::remove_dir_all(root).expect("clean up");
    }

    #[test]
    fn in_a_units_cgroup_the_limits_are_only_compared() {
        let root = unified("unit", "cpu memory\n");
        fs::write(root.join("sbx/a/memory.max"), "max\n").expect("file");
        let error = place(&root, true).verify().expect_err("unlimited").to_string();
        assert!(error.starts_with("a memory limit of 67108864 bytes is not in force: "), "{error}");
        fs::remove_dir_all(root).expect("clean up");
    }
}
