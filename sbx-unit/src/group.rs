//! The targets of the host that start and stop all containers of a unit.
//!
//! Who belongs to a group is said by a drop-in of its target for each, named after the container: a link in `*.wants`
//! would be what enables a unit. The target goes with its last container.

use crate::files::{self, GROUP_MARK, Inner, MARK};
use crate::place::{Owner, enabling_links, open, owner, put, unfinished, unlink};
use crate::unit::{GROUP, UnitName};
use anyhow::{Context, Result, ensure};
use rustix::fs::RenameFlags;
use sbx::store::entries;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;

    #[test]
    fn a_group_lasts_as_long_as_it_has_containers_and_is_never_anothers() {
        let directory = env::temp_dir().join(format!("sbx-unit-group-{}", std::process::id()));
        let wants = directory.join("multi-user.target.wants");
        fs::create_dir_all(&wants).expect("mkdir");
        let (a, b): (Name, Name) = ("a".parse().expect("name"), "b".parse().expect("name"));
        let [x, y, foreign]: [UnitName; 3] = ["x", "y@1", "foreign"].map(|unit| unit.parse().expect(unit));
        let listed = || -> Vec<_> {
            let mut files = entries(&directory).expect("entries");
            files.extend(
                files.clone().iter().filter(|file| file.is_dir()).flat_map(|dir| entries(dir).expect("entries")),
            );
            let names = files.iter().map(|file| file.strip_prefix(&directory).expect("below").display().to_string());
            std::collections::BTreeSet::from_iter(names).into_iter().collect()
        };
        let before = listed();
        join(&directory, &a, &x).expect("join");
        join(&directory, &b, &x).expect("join");
        join(&directory, &b, &x).expect("join again");
        join(&directory, &b, &y).expect("join another");
        std::os::unix::fs::symlink("../x_sandbox.target", wants.join("x_sandbox.target")).expect("enable");
        assert_eq!(leave(&directory, &a).expect("leave"), [""; 0]);
        assert_eq!(leave(&directory, &a).expect("leave again"), [""; 0]);
        assert!(listed().contains(&"x_sandbox.target.d/b_sandbox.conf".to_owned()));
        let mut ended = leave(&directory, &b).expect("leave");
        ended.sort();
        assert_eq!(ended, ["x_sandbox.target", "y@_sandbox.target"]);
        assert_eq!(listed(), before);
        // A target that is the administrator's, and what she has added to one of ours.
        fs::write(directory.join("foreign_sandbox.target"), "[Unit]\n").expect("write");
        let error = check(&directory, &foreign).expect_err("another's").to_string();
        assert!(
            error.ends_with("is not the target of the containers of foreign.service: it stays as it is"),
            "{error}"
        );
        join(&directory, &a, &x).expect("join");
        fs::write(directory.join("x_sandbox.target.d/override.conf"), "[Unit]\n").expect("write");
        assert_eq!(leave(&directory, &a).expect("leave"), ["x_sandbox.target"]);
        assert!(directory.join("x_sandbox.target.d/override.conf").exists());
        assert!(directory.join("foreign_sandbox.target").exists());
        fs::remove_dir_all(&directory).expect("rm");
    }
}
