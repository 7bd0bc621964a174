//! Makes the cgroups, shows what is used, and removes them.

use crate::edit::{check_path, path};
use crate::hierarchy::{Hierarchy, mounted};
use crate::limit::{Limit, enable, no_others};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::getxattr;
use sbx::cgroup::Cgroups;
use sbx::process::Recorded;
use sbx::{Document, Name, store, tool};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The parts of a container's cgroup: the container, executed commands, and on a delegated one what started it.
const PAYLOAD: &str = "payload";
const EXEC: &str = "exec";
const SUPERVISOR: &str = "supervisor";

/// Kills all below a cgroup of v2, Linux 5.14.
const KILL: &str = "cgroup.kill";

/// What an init inside can pass on to its own units on v2, where the host offers it.
const DELEGATED: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// How long killed processes may take to leave their cgroup.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a cgroup is made again when the one above it has just gone.
const ATTEMPTS: usize = 100;

/// A container's cgroup in one hierarchy.
struct Place {
    base: PathBuf,
    v2: bool,
    /// Whether a service manager has given it to us: then the limits are its to set, and ours to read.
    delegated: bool,
    limits: Vec<Limit>,
}

/// Makes the cgroups with their limits, and records them.
pub fn create(doc: &mut Document, act: bool) -> Result<()> {
    let name = doc.name()?;
    check_path(doc, &name)?;
    let places = places(&name, &mounted()?, &Limit::all(doc)?)?;
    if places.iter().any(|place| !place.delegated) {
        no_others(doc)?;
    }
    places.iter().filter(|place| place.delegated).try_for_each(Place::verify)?;
    if !act {
        return Ok(());
    }
    places.iter().try_for_each(Place::make)?;
    let all = |part: &str| places.iter().map(|place| place.base.join(part)).collect();
    let cgroups = Cgroups { payload: all(PAYLOAD), exec: all(EXEC) };
    doc.set("sbx.state.cgroups", serde_json::to_value(cgroups).context("sbx.state.cgroups")?)
}

/// Where the container needs a cgroup: wherever a limit is enforced, where systemd keeps its units, and where all of a
/// cgroup can be frozen and killed.
fn places(name: &Name, hierarchies: &[Hierarchy], limits: &[Limit]) -> Result<Vec<Place>> {
    let unified = hierarchies.iter().any(|hierarchy| hierarchy.v2);
    let mut places: Vec<(bool, Place)> = hierarchies
        .iter()
        .map(|hierarchy| {
            let needed = hierarchy.v2 || hierarchy.is_systemd() || (!unified && hierarchy.has("freezer"));
            let (base, delegated) = match delegated(hierarchy, name) {
                Some(cgroup) => (cgroup, true),
                None => (own_place(hierarchy, name), false),
            };
            (needed, Place { base, v2: hierarchy.v2, delegated, limits: Vec::new() })
        })
        .collect();
    for limit in limits {
        let (needed, place) = &mut places[limit.hierarchy(hierarchies)?];
        *needed = true;
        place.limits.push(*limit);
    }
    let places: Vec<Place> = places.into_iter().filter_map(|(needed, place)| needed.then_some(place)).collect();
    if places.is_empty() {
        bail!("no cgroup hierarchy is mounted");
    }
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
    fn make(&self) -> Result<()> {
        let Self { base, v2, delegated, limits } = self;
        let above = base.parent().context("a cgroup has a parent")?;
        if !delegated {
            make_directory(base)?;
            if *v2 {
                let needed: Vec<&str> = limits.iter().map(|limit| limit.controller(true)).collect();
                let root = above.parent().context("a cgroup has a parent")?;
                enable(root, &needed, &needed)?;
                enable(above, &needed, &needed)?;
            }
            limits.iter().try_for_each(|limit| limit.set(base, *v2))?;
            self.verify()?;
        } else if *v2 {
            vacate(base)?;
        }
        if *v2 {
            enable(base, &DELEGATED, &[])?;
        }
        let [payload, exec] = [PAYLOAD, EXEC].map(|part| base.join(part));
        make_directory(&payload)?;
        make_directory(&exec)?;
        if !v2 {
            [above, base, &payload, &exec].into_iter().try_for_each(fill_cpuset)?;
        }
        Ok(())
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

/// A new cpuset of v1 has neither processors nor memory, and so no process could enter: it gets those of the one above.
fn fill_cpuset(cgroup: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
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
        let processes = processes(base)?;
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

/// What there is of a container's cgroups, and what is used.
pub fn show(name: &Name) -> Result<Vec<u8>> {
    let mut bases = bases(name, &mounted()?);
    bases.retain(|base| base.join(PAYLOAD).is_dir());
    if bases.is_empty() {
        bail!("no cgroups of {name}");
    }
    let directories = |part: &str| bases.iter().map(|base| base.join(part)).collect::<Vec<_>>();
    let read = |file: &str| bases.iter().find_map(|base| fs::read_to_string(base.join(file)).ok());
    // What is unlimited reads "max", or on v1 a number beyond all memory.
    let number = |file: &str| read(file).and_then(|text| text.trim().parse::<u64>().ok()).filter(|n| *n < 1 << 62);
    let either = |v2: &str, v1: &str| number(v2).or_else(|| number(v1));
    let figures = |current: Option<u64>, limit: Option<u64>| Some(json!({ "current": current?, "limit": limit }));
    // On v1 it is another file of the same name, without the line.
    let used = |base: &PathBuf| {
        let stat = fs::read_to_string(base.join("cpu.stat")).ok()?;
        stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok())
    };
    let cpu = bases.iter().find_map(used).or_else(|| Some(number("cpuacct.usage")? / 1000));
    let shown = [
        ("name", Some(json!(name.as_str()))),
        (PAYLOAD, Some(json!(directories(PAYLOAD)))),
        (EXEC, Some(json!(directories(EXEC)))),
        (
            "memory",
            figures(either("memory.current", "memory.usage_in_bytes"), either("memory.max", "memory.limit_in_bytes")),
        ),
        ("pids", figures(number("pids.current"), number("pids.max"))),
        ("cpu", cpu.map(|microseconds| json!({ "usageMicroseconds": microseconds }))),
    ];
    let shown: Map<_, _> = shown.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    Ok(format!("{}\n", Value::Object(shown)).into_bytes())
}

/// Ends what is left in the cgroups of `name`, and removes them.
pub fn remove(name: &Name) -> Result<()> {
    let hierarchies = mounted()?;
    let parts = |base: PathBuf| match is_delegated(&base, name) {
        // The cgroup itself is systemd's.
        true => vec![base.join(PAYLOAD), base.join(EXEC)],
        false => vec![base],
    };
    let mut trees: Vec<PathBuf> = bases(name, &hierarchies).into_iter().flat_map(parts).collect();
    // First where all can be killed at once: then there is nobody left in the others to chase.
    trees.sort_by_key(|tree| !tree.join(KILL).exists());
    let deadline = Instant::now() + PATIENCE;
    let result = tool::all(trees.iter().map(|tree| {
        let inside = hierarchies.iter().any(|hierarchy| hierarchy.own.starts_with(tree));
        ensure!(!inside, "cannot remove the cgroup {} from inside it", tree.display());
        remove_tree(tree, deadline)
    }));
    for place in hierarchies.iter().map(|hierarchy| own_place(hierarchy, name)) {
        // Only the last container's remove can: while there are others, it is not empty.
        let _ = place.parent().map(fs::remove_dir);
    }
    result
}

/// Wherever cgroups of `name` may be: at the place of its name in each hierarchy, in its unit's if this process runs
/// for that, and in its unit's where the running document says.
fn bases(name: &Name, hierarchies: &[Hierarchy]) -> BTreeSet<PathBuf> {
    let recorded = fs::read(store::running(name)).ok().and_then(|bytes| Document::parse(&bytes).ok());
    let recorded: Option<Cgroups> = recorded.and_then(|doc| doc.read("sbx.state.cgroups").ok().flatten());
    let recorded = recorded.unwrap_or_default().payload.into_iter().filter_map(|payload| {
        let base = payload.parent()?;
        is_delegated(base, name).then(|| base.to_owned())
    });
    let places = hierarchies.iter().map(|hierarchy| own_place(hierarchy, name));
    places.chain(hierarchies.iter().filter_map(|hierarchy| delegated(hierarchy, name))).chain(recorded).collect()
}

/// Kills what is in a cgroup and below, and removes it, until nothing is left.
fn remove_tree(cgroup: &Path, deadline: Instant) -> Result<()> {
    let failed = || format!("cannot remove the cgroup {}", cgroup.display());
    while cgroup.exists() {
        // It reaches also what is being forked.
        let all_killed = fs::write(cgroup.join(KILL), "1").is_ok();
        let left = remove_from_the_leaves(cgroup, all_killed).with_context(failed)?;
        if let Some(error) = left.filter(|_| Instant::now() > deadline) {
            return Err(error).with_context(failed);
        }
        // A killed process leaves its cgroup a moment later.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Goes once through a cgroup and all below it, and removes what it can; returns why some is left. It goes by steps of
/// one name: root inside may have made cgroups that lie deeper than a path is long.
fn remove_from_the_leaves(cgroup: &Path, all_killed: bool) -> Result<Option<Error>> {
    env::set_current_dir(cgroup)?;
    let mut left = None;
    let mut names: Vec<OsString> = Vec::new();
    let mut to_visit = vec![children()?];
    while let Some(children_left) = to_visit.last_mut() {
        if let Some(child) = children_left.pop() {
            // One that is gone is gone.
            if env::set_current_dir(&child).is_ok() {
                names.push(child);
                to_visit.push(children()?);
            }
            continue;
        }
        if !all_killed {
            kill(Path::new("."))?;
        }
        to_visit.pop();
        let name = names.pop();
        env::set_current_dir(if name.is_some() { "..".as_ref() } else { Path::new("/") })?;
        let removed = fs::remove_dir(name.as_ref().map_or(cgroup, Path::new));
        left = removed.err().filter(|error| error.kind() != ErrorKind::NotFound).or(left);
    }
    Ok(left)
}

/// The names of the cgroups right below the current directory.
fn children() -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(".")? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// Kills each process of one cgroup, by a descriptor that was opened while the process was in it.
fn kill(cgroup: &Path) -> Result<()> {
    for pid in processes(cgroup)? {
        let Ok(Some(process)) = Recorded::now(pid).and_then(|recorded| recorded.open()) else { continue };
        if processes(cgroup)?.contains(&pid) {
            process.signal(nix::libc::SIGKILL)?;
        }
    }
    Ok(())
}

/// The processes of one cgroup, in this PID namespace: those of others read 0.
fn processes(cgroup: &Path) -> Result<Vec<i32>> {
    let path = cgroup.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect())
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
        Place { base: root.join("sbx/a"), v2: true, delegated, limits }
    }

    #[test]
    fn on_v2_the_controllers_are_enabled_from_the_root_down_and_the_limits_are_above_the_parts() {
        let root = unified("make", "cpu memory\n");
        place(&root, false).make().expect("make");
        let read = |file: &str| fs::read_to_string(root.join(file)).expect(file);
        // A plain file has what was written last.
        for cgroup in ["", "sbx/", "sbx/a/"] {
            assert_eq!(read(&format!("{cgroup}cgroup.subtree_control")), "+cpu");
        }
        assert_eq!(read("sbx/a/memory.max"), "67108864");
        assert_eq!(read("sbx/a/cpu.max"), "50000 100000");
        assert!(root.join("sbx/a/payload").is_dir() && root.join("sbx/a/exec").is_dir());
        fs::remove_dir_all(root).expect("clean up");
    }

    #[test]
    fn on_v2_a_controller_that_is_not_offered_is_named() {
        let root = unified("missing", "cpu\n");
        let error = place(&root, false).make().expect_err("no memory").to_string();
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
