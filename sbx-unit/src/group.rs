//! The targets of the host that start and stop all containers of a unit.
//!
//! Who belongs to a group is said by a drop-in of its target for each, named after the container: a link in `*.wants`
//! would be what enables a unit. The target goes with its last container.

use crate::files::{self, GROUP_MARK, Inner, MARK};
use crate::place::{Owner, enabling_links, entries, open, owner, put, unfinished, unlink};
use crate::unit::{GROUP, UnitName};
use anyhow::{Context, Result, ensure};
use rustix::fs::RenameFlags;
use sbx::{Name, tool};
use std::fs;
use std::path::Path;

/// How the names of all drop-ins of containers end.
const MEMBER: &str = "_sandbox.conf";

fn member(name: &Name) -> String {
    format!("{name}{MEMBER}")
}

/// Refuses a group whose target is another's.
pub fn check(directory: &Path, unit: &UnitName) -> Result<()> {
    let group = unit.group()?;
    let path = directory.join(&group);
    let ours = owner(&path, (GROUP_MARK, &group))? != Owner::Another;
    ensure!(ours, "{} is not the target of the containers of {unit}: it stays as it is", path.display());
    Ok(())
}

/// Makes the container one of its unit's group. The drop-in comes first, by which [`leave`] finds the rest.
pub fn join(directory: &Path, name: &Name, unit: &UnitName) -> Result<()> {
    let group = unit.group()?;
    let members = directory.join(format!("{group}.d"));
    let failed = || format!("cannot write {}", directory.join(&group).display());
    fs::create_dir_all(&members).with_context(failed)?;
    let member_of_it = Inner::Text(files::member(name));
    put(&open(&members).with_context(failed)?, &member(name), &member_of_it, RenameFlags::empty())
        .with_context(failed)?;
    let target = Inner::Text(files::group(&group));
    put(&open(directory).with_context(failed)?, &group, &target, RenameFlags::empty()).with_context(failed)
}

/// Takes the container out of all groups; returns those that are no more.
pub fn leave(directory: &Path, name: &Name) -> Result<Vec<String>> {
    let suffix = format!("{GROUP}.d");
    let mut ended = Vec::new();
    let groups = entries(directory)?.into_iter().filter_map(|members| {
        let group = members.file_name()?.to_str()?.strip_suffix(".d")?.to_owned();
        members.to_str()?.ends_with(&suffix).then_some((group, members))
    });
    tool::all(groups.map(|(group, members)| {
        let ours = members.join(member(name));
        let others = |path: &Path| path != ours && path.to_str().is_some_and(|path| path.ends_with(MEMBER));
        let mut parts = Vec::new();
        let target = directory.join(&group);
        let is_last = !entries(&members)?.iter().any(|path| others(path));
        if is_last && owner(&target, (GROUP_MARK, &group))? == Owner::Ours {
            parts.extend(enabling_links(directory, &group)?.iter().map(|link| unlink(link)));
            parts.push(unlink(&directory.join(unfinished(&group))));
            parts.push(unlink(&target));
            ended.push(group);
        }
        parts.push(unlink(&members.join(unfinished(&member(name)))));
        if owner(&ours, (MARK, name.as_str()))? == Owner::Ours {
            parts.push(unlink(&ours));
        }
        // Not where another container, or the administrator, has something in it.
        let _ = fs::remove_dir(&members);
        tool::all(parts)
    }))?;
    Ok(ended)
}
