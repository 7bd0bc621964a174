//! Makes the cgroups, shows what is used, and removes them.

use crate::edit::{check_path, path};
use crate::hierarchy::{Hierarchy, mounted};
use crate::limit::{Limit, enable};
use anyhow::{Context, Result, bail};
use rustix::fs::getxattr;
use sbx::cgroup::Cgroups;
use sbx::process::Recorded;
use sbx::{Document, Name, store, tool};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The parts of a container's cgroup: the container, executed commands, and on a delegated one what started it.
const PAYLOAD: &str = "payload";
const EXEC: &str = "exec";
const SUPERVISOR: &str = "supervisor";

/// What an init inside can pass on to its own units on v2, where the host offers it.
const DELEGATED: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// How long killed processes may take to leave their cgroup.
const PATIENCE: Duration = Duration::from_secs(20);

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
    if !act {
        return Ok(());
    }
    places.iter().try_for_each(|place| make(place, &name))?;
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
            let delegated = is_delegated(&hierarchy.own);
            let base = if delegated { hierarchy.own.clone() } else { own_place(hierarchy, name) };
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

/// systemd marks what Delegate= gives away.
fn is_delegated(cgroup: &Path) -> bool {
    let mut value = [0; 8];
    getxattr(cgroup, "trusted.delegate", &mut value[..]).is_ok_and(|length| value[..length] == *b"1")
}

fn make(place: &Place, name: &Name) -> Result<()> {
    let Place { base, v2, delegated, limits } = place;
    let needed: Vec<&str> = limits.iter().map(|limit| limit.controller(*v2)).collect();
    if *delegated {
        if *v2 {
            vacate(base)?;
        }
    } else {
        let parent = base.parent().context("a cgroup has a parent")?;
        make_directory(parent)?;
        if *v2 {
            let root = parent.parent().context("a cgroup has a parent")?;
            enable(root, &needed, &needed)?;
            enable(parent, &needed, &needed)?;
        }
        make_directory(base)?;
        limits.iter().try_for_each(|limit| limit.set(base, *v2))?;
    }
    limits.iter().try_for_each(|limit| limit.verify(base, *v2)).with_context(|| format!("container {name}"))?;
    if *v2 {
        enable(base, &DELEGATED, &[])?;
    }
    make_directory(&base.join(PAYLOAD))?;
    make_directory(&base.join(EXEC))
}

/// Makes a cgroup, or takes the one that a create which was cut short has left. A new cpuset of v1 has neither
/// processors nor memory, and so no process could enter: it gets its parent's.
fn make_directory(cgroup: &Path) -> Result<()> {
    match fs::create_dir(cgroup) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make the cgroup {}", cgroup.display()));
        }
        _ => {}
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (ours, parents) = (cgroup.join(file), cgroup.join("..").join(file));
        let is_v1 = cgroup.join("tasks").exists();
        if is_v1 && fs::read_to_string(&ours).is_ok_and(|text| text.trim().is_empty()) {
            let copy = fs::read(parents).and_then(|bytes| fs::write(&ours, bytes));
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
    let bases: Vec<PathBuf> = bases(name)?.into_iter().filter(|base| base.join(PAYLOAD).is_dir()).collect();
    if bases.is_empty() {
        bail!("no cgroups of {name}");
    }
    let read = |file: &str| bases.iter().find_map(|base| fs::read_to_string(base.join(file)).ok());
    // What is unlimited reads "max", or on v1 a number beyond all memory.
    let number = |file: &str| read(file).and_then(|text| text.trim().parse::<u64>().ok()).filter(|n| *n < 1 << 62);
    let either = |v2: &str, v1: &str| number(v2).or_else(|| number(v1));
    let directories = |part: &str| bases.iter().map(|base| base.join(part)).collect::<Vec<_>>();
    let cpu =
        read("cpu.stat").and_then(|text| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()));
    let mut shown = Map::new();
    shown.insert("name".into(), json!(name.as_str()));
    shown.insert(PAYLOAD.into(), json!(directories(PAYLOAD)));
    shown.insert(EXEC.into(), json!(directories(EXEC)));
    for (key, current, limit) in [
        ("memory", either("memory.current", "memory.usage_in_bytes"), either("memory.max", "memory.limit_in_bytes")),
        ("pids", number("pids.current"), number("pids.max")),
        ("cpuMicroseconds", cpu.or_else(|| number("cpuacct.usage").map(|nanoseconds| nanoseconds / 1000)), None),
    ] {
        if let Some(current) = current {
            let value =
                if key == "cpuMicroseconds" { json!(current) } else { json!({ "current": current, "limit": limit }) };
            shown.insert(key.into(), value);
        }
    }
    Ok(format!("{}\n", Value::Object(shown)).into_bytes())
}

/// Ends what is left in the cgroups of `name`, and removes them.
pub fn remove(name: &Name) -> Result<()> {
    let hierarchies = mounted()?;
    let bases = bases(name)?;
    let delegated: Vec<PathBuf> = hierarchies.iter().map(|hierarchy| hierarchy.own.clone()).collect();
    let parts = bases.iter().map(|base| {
        if delegated.contains(base) {
            // The cgroup itself is the service manager's.
            tool::all([PAYLOAD, EXEC].map(|part| remove_tree(&base.join(part))))
        } else {
            remove_tree(base)
        }
    });
    let result = tool::all(parts);
    for hierarchy in &hierarchies {
        // It goes with its last container.
        let _ = fs::remove_dir(own_place(hierarchy, name).with_file_name(""));
    }
    result
}

/// Wherever cgroups of `name` may be: at the place of its name in each hierarchy, in a cgroup that this process was
/// delegated, and where the running document says.
fn bases(name: &Name) -> Result<BTreeSet<PathBuf>> {
    let hierarchies = mounted()?;
    let mut bases: BTreeSet<PathBuf> = hierarchies.iter().map(|hierarchy| own_place(hierarchy, name)).collect();
    bases.extend(hierarchies.into_iter().map(|hierarchy| hierarchy.own).filter(|own| is_delegated(own)));
    let recorded = fs::read(store::running(name)).ok().and_then(|bytes| Document::parse(&bytes).ok());
    let recorded = recorded.and_then(|doc| doc.read::<Cgroups>("sbx.state.cgroups").ok().flatten());
    bases.extend(
        recorded
            .into_iter()
            .flat_map(|cgroups| cgroups.payload)
            .filter_map(|payload| payload.ends_with(PAYLOAD).then(|| payload.parent().map(Path::to_owned)).flatten()),
    );
    Ok(bases)
}

/// Kills what is in a cgroup and below, and removes it from the leaves up, until nothing is left.
fn remove_tree(cgroup: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if !cgroup.exists() {
            return Ok(());
        }
        let tree = tree(cgroup);
        // Linux 5.14; it reaches also what is being forked.
        if fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
            tree.iter().try_for_each(|cgroup| kill(cgroup))?;
        }
        let left = tree.iter().rev().filter_map(|cgroup| fs::remove_dir(cgroup).err());
        let left: Vec<_> = left.filter(|error| error.kind() != ErrorKind::NotFound).collect();
        match left.into_iter().next() {
            None => return Ok(()),
            Some(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("cannot remove the cgroup {}", cgroup.display()));
            }
            // A killed process leaves its cgroup a moment later.
            Some(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A cgroup and all below it, parents first.
fn tree(cgroup: &Path) -> Vec<PathBuf> {
    let mut all = vec![cgroup.to_owned()];
    let mut next = 0;
    while let Some(cgroup) = all.get(next) {
        let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
        let children: Vec<_> = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        all.extend(children);
        next += 1;
    }
    all
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

/// The processes of one cgroup, in this PID namespace; those of others read 0. This one is not among them.
fn processes(cgroup: &Path) -> Result<Vec<i32>> {
    let path = cgroup.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect())
}
