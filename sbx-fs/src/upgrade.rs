//! Takes what has changed on the host into a private tree, three ways: what the clone was given (the manifest), what
//! it would be given now, and what the container has made of it.

use crate::apply::{open_directory, tree_of};
use crate::copy::{self, Extent};
use crate::manifest::{Kind, Manifest, State};
use crate::select::{Selection, Wish};
use crate::tree;
use anyhow::{Context, Error, Result, ensure};
use rustix::fs::{AtFlags, Mode, RenameFlags, openat, renameat, renameat_with, syncfs, unlinkat};
use rustix::io::Errno;
use sbx::storage::{self, Storage};
use sbx::tree::{DIRECTORY, Node};
use sbx::{Name, inner, label, landlock, store, tool};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the host's state is cloned to before it is compared: on the file system of the tree, and beside it if that has
/// other things too, so that a file gets from one into the other by its name alone.
const STAGED: &str = ".sbx-upgrade";

/// A directory that has no name yet, in the staged tree.
const UNNAMED: &str = ".new";

/// How the host's version of a file is called beside the container's own.
const BESIDE: &str = ".sbx-new";

/// What becomes of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// New on the host, and taken over.
    Add,
    /// Changed on the host, not here, and taken over.
    Update,
    /// Gone on the host, not changed here, and removed.
    Remove,
    /// Changed or removed here, and kept so; whether the host's version is put beside it.
    Keep { beside: bool },
}

/// Takes the host's changes into the tree of `name`, if `act`; returns them as a JSON array. The manifest moves on when
/// all of them are on disk, so that an upgrade that was cut short can be done again.
pub fn upgrade(name: &Name, act: bool) -> Result<Vec<u8>> {
    let doc = store::load(name)?;
    ensure!(doc.get("sbx.base").is_none(), "container {name} has a root of its own: it upgrades itself");
    let tree = tree_of(&doc)?;
    let base = Manifest::load(name)?;
    let selection = Selection::of(&doc, &Wish::default(), "/".as_ref())?;
    let label = storage::file_label(&doc)?;
    let staging = match Storage::of(&doc)? {
        Storage::Directory => open_directory(&store::container(name))?,
        // On the file system of the tree itself; root inside may do there what he may do with the tree.
        Storage::Image { .. } | Storage::Overlay => tree.try_clone()?,
    };
    let upgrade = || {
        unstage(&staging)?;
        let upgraded = stage(&staging).with_context(|| format!("cannot make {STAGED} of {name}")).and_then(|staged| {
            selection.copy("/".as_ref(), &staged, Extent::Node)?;
            let host = Manifest::of(&staged, &selection.nodes(), |_, _| true)?;
            let ours = Manifest::compared(&tree, &selection.nodes(), &[&base, &host])?;
            let mut changes = plan(&base, &host, &ours);
            if act {
                carry_out(&mut changes, &staged, &tree)?;
                syncfs(&tree).with_context(|| format!("cannot sync the tree of {name}"))?;
            }
            Ok((changes, host))
        });
        let unstaged = unstage(&staging);
        upgraded.and_then(|upgraded| unstaged.map(|()| upgraded))
    };
    let (changes, host) = label::making("fscreate", label.as_deref(), || {
        landlock::writing_only_below(&[staging.as_fd(), tree.as_fd()], upgrade)
    })?;
    if act && host != base {
        host.save(name)?;
    }
    Ok(format!("{}\n", told(&changes)).into_bytes())
}

fn stage(staging: &OwnedFd) -> Result<OwnedFd> {
    let (staged, _) = copy::directory(&Node::of(staging.try_clone()?)?, STAGED.as_ref())?;
    Ok(openat(staged, ".", DIRECTORY, Mode::empty())?)
}

/// Removes what this upgrade, or one that was cut short, has staged.
fn unstage(staging: &OwnedFd) -> Result<()> {
    let staging = staging.try_clone()?;
    tool::all(tree::remove(staging, STAGED.as_ref(), Path::new(STAGED)).into_iter().map(Err))
}

/// What becomes of one entry, of which each side has a state or none. Nothing, where the host has not changed it, or
/// where the container has what the host has.
fn decide(base: Option<&State>, host: Option<&State>, ours: Option<&State>) -> Option<Change> {
    if host == base || host == ours {
        return None;
    }
    Some(match (base, host, ours) {
        (None, Some(_), None) => Change::Add,
        (Some(_), Some(_), _) if ours == base => Change::Update,
        (Some(base), Some(host), Some(ours)) if is_between(base, host, ours) => Change::Update,
        (Some(_), None, _) if ours == base => Change::Remove,
        // There is no directory beside a directory.
        (_, host, ours) => Change::Keep { beside: ours.is_some() && host.is_some_and(|host| !host.is_directory()) },
    })
}

/// Whether a directory has of each thing what it had or what it is to get: an update of it was cut short.
fn is_between(base: &State, host: &State, ours: &State) -> bool {
    let between = |part: fn(&State) -> u32| [part(base), part(host)].contains(&part(ours));
    [base, host, ours].iter().all(|state| state.is_directory())
        && between(|state| state.mode)
        && between(|state| state.uid)
        && between(|state| state.gid)
}

/// What becomes of all that the clone was given, or would be.
fn plan(base: &Manifest, host: &Manifest, ours: &Manifest) -> BTreeMap<PathBuf, Change> {
    let is_directory = |of: &Manifest, path: &Path| of.0.get(path).is_some_and(State::is_directory);
    let paths: BTreeSet<&PathBuf> = base.0.keys().chain(host.0.keys()).collect();
    let change = |path: &PathBuf| Some((path.clone(), decide(base.0.get(path), host.0.get(path), ours.0.get(path))?));
    let mut changes: BTreeMap<PathBuf, Change> =
        paths.into_iter().filter(|path| !inner::is_ours(path)).filter_map(change).collect();
    // What is below /var is data: no directory of it goes, or becomes something else.
    let stays = |path: &Path| path.starts_with("/etc") || is_directory(ours, path) == is_directory(host, path);
    changes.retain(|path, change| *change != Change::Remove || path.starts_with("/etc"));
    for (path, change) in &mut changes {
        if *change == Change::Update && !stays(path) {
            *change = Change::Keep { beside: false };
        }
    }

    // A directory goes, or becomes something else, only with all that is in it.
    let leaves = |path: &Path| is_directory(ours, path) && !is_directory(host, path);
    let leaving: Vec<PathBuf> = changes.keys().rev().filter(|path| leaves(path)).cloned().collect();
    for path in leaving {
        let mut inside = ours.0.range(path.clone()..).skip(1).take_while(|(inner, _)| inner.starts_with(&path));
        if inside.any(|(inner, _)| changes.get(inner) != Some(&Change::Remove)) {
            let beside = host.0.contains_key(&path);
            changes.insert(path, Change::Keep { beside });
        }
    }

    // What is taken over needs the directory that it is in.
    let wanted: Vec<PathBuf> = changes.keys().cloned().collect();
    for path in wanted {
        let parent = path.parent().unwrap_or(&path);
        let has_parent = match changes.get(parent) {
            Some(Change::Add | Change::Update) => is_directory(host, parent),
            Some(Change::Remove) => false,
            _ => parent == Path::new("/") || is_directory(ours, parent),
        };
        if !has_parent && matches!(changes[&path], Change::Add | Change::Update) {
            changes.insert(path, Change::Keep { beside: false });
        }
    }
    changes
}

/// Carries the changes out. What the container has put in the way since it was looked at, or a name that there cannot
/// be, makes a change one that is kept.
fn carry_out(changes: &mut BTreeMap<PathBuf, Change>, staged: &OwnedFd, tree: &OwnedFd) -> Result<()> {
    for (path, change) in changes.iter_mut().rev().filter(|(_, change)| **change == Change::Remove) {
        match remove(tree, path) {
            Err(error) if is_in_the_way(&error) => *change = Change::Keep { beside: false },
            removed => removed.with_context(|| format!("cannot remove {}", path.display()))?,
        }
    }
    for (path, change) in changes {
        let name = path.file_name().unwrap_or_default().to_owned();
        let name = match change {
            Change::Add | Change::Update => name,
            Change::Keep { beside: true } => [name, BESIDE.into()].into_iter().collect::<OsString>(),
            Change::Keep { beside: false } | Change::Remove => continue,
        };
        match install(path, staged, tree, name) {
            Err(error) if is_in_the_way(&error) => *change = Change::Keep { beside: false },
            installed => installed.with_context(|| format!("cannot write {}", path.display()))?,
        }
    }
    Ok(())
}

/// Whether something else is where a change was to be made, rather than that the host cannot make it.
fn is_in_the_way(error: &Error) -> bool {
    let errno = error.downcast_ref::<Errno>().copied();
    let errno = errno.or_else(|| Errno::from_io_error(error.downcast_ref::<io::Error>()?));
    let obstacles =
        [Errno::NOTEMPTY, Errno::EXIST, Errno::NOTDIR, Errno::ISDIR, Errno::NOENT, Errno::LOOP, Errno::NAMETOOLONG];
    errno.is_some_and(|errno| obstacles.contains(&errno))
}

/// The directory that a path of the tree is in, which the container may have made anything of.
fn parent(tree: &OwnedFd, path: &Path) -> Result<Node> {
    let parent = path.parent().unwrap_or(path);
    Ok(Node::beneath(tree, parent)?.ok_or(Errno::NOENT)?.enter()?)
}

fn remove(tree: &OwnedFd, path: &Path) -> Result<()> {
    let (parent, name) = (parent(tree, path)?, path.file_name().unwrap_or_default());
    match Node::at(&parent, name)? {
        Some(node) => unlink(&parent, name, &node),
        None => Ok(()),
    }
}

fn unlink(parent: impl AsFd, name: &OsStr, node: &Node) -> Result<()> {
    let flags = if node.is_directory() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    Ok(unlinkat(parent, name, flags)?)
}

/// Puts what is staged for `path` into the tree, under `name`, in one step: a file as it is, a directory without what is
/// in it. One that is there already becomes alike.
fn install(path: &Path, staged: &OwnedFd, tree: &OwnedFd, name: OsString) -> Result<()> {
    let (from, to) = (parent(staged, path)?, parent(tree, path)?);
    let old = path.file_name().unwrap_or_default();
    let node = Node::at(&from, old)?.context("it is gone")?;
    match Node::at(&to, &name)? {
        Some(there) if there.is_directory() && node.is_directory() => return copy::dress(&node, there),
        Some(there) if there.is_directory() != node.is_directory() => unlink(&to, &name, &there)?,
        _ => {}
    }
    if !node.is_directory() {
        return Ok(renameat(&from, old, &to, &name)?);
    }
    // Beside what is staged, where no path leads.
    let top = Node::of(staged.try_clone()?)?;
    let (made, _) = copy::directory(&top, UNNAMED.as_ref())?;
    copy::dress(&node, made)?;
    Ok(renameat_with(&top, UNNAMED, &to, &name, RenameFlags::NOREPLACE)?)
}

fn told(changes: &BTreeMap<PathBuf, Change>) -> Value {
    let told = |(path, change): (&PathBuf, &Change)| {
        let word = match change {
            Change::Add => "added",
            Change::Update => "updated",
            Change::Remove => "removed",
            Change::Keep { .. } => "kept",
        };
        let path = path.to_string_lossy();
        match change {
            Change::Keep { beside: true } => json!({ "path": path, "change": word, "new": format!("{path}{BESIDE}") }),
            _ => json!({ "path": path, "change": word }),
        }
    };
    changes.iter().map(told).collect()
}

/// What the container has changed of what it was given, as a JSON array: the administrator, or its services. A new
/// directory is told by what is in it.
pub fn diff(name: &Name) -> Result<Vec<u8>> {
    let tree = tree_of(&store::load(name)?)?;
    let base = Manifest::load(name)?;
    let ours = Manifest::compared(tree, &[], &[&base])?;
    let paths: BTreeSet<&PathBuf> = base.0.keys().chain(ours.0.keys()).collect();
    let changed =
        paths.into_iter().filter(|path| path.starts_with("/etc") && !inner::is_ours(path)).filter_map(|path| {
            let is_told_by_its_content = |path: &PathBuf| {
                let mut next = ours.0.range(path.clone()..).skip(1);
                next.next().is_some_and(|(next, _)| next.starts_with(path))
            };
            let word = match (base.0.get(path), ours.0.get(path)) {
                (None, Some(State { kind: Kind::Directory, .. })) if is_told_by_its_content(path) => return None,
                (None, _) => "added",
                (Some(_), None) => "removed",
                (Some(base), Some(ours)) if base != ours => "changed",
                _ => return None,
            };
            Some(json!({ "path": path.to_string_lossy(), "change": word }))
        });
    Ok(format!("{}\n", Value::from_iter(changed)).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest of lines: a path that ends by `/` is a directory, of a file the word after it is the content.
    fn manifest(text: &str) -> Manifest {
        let state = |kind| State::new(kind, 0o644);
        let entries = text.split_whitespace().map(|word| match (word.strip_suffix('/'), word.split_once('=')) {
            (Some(directory), _) => (PathBuf::from(directory), state(Kind::Directory)),
            (_, Some((file, content))) => (PathBuf::from(file), state(Kind::File(1, Some(content.into())))),
            _ => panic!("{word}"),
        });
        Manifest(entries.collect())
    }

    #[track_caller]
    fn assert_plan(base: &str, host: &str, ours: &str, expected: &str) {
        let changes = plan(&manifest(base), &manifest(host), &manifest(ours));
        let word = |change: &Change| match change {
            Change::Add => "add",
            Change::Update => "update",
            Change::Remove => "remove",
            Change::Keep { beside: true } => "beside",
            Change::Keep { beside: false } => "keep",
        };
        let told: Vec<String> =
            changes.iter().map(|(path, change)| format!("{}:{}", path.display(), word(change))).collect();
        assert_eq!(told.join(" "), expected, "{base} | {host} | {ours}");
    }

    #[test]
    fn each_side_may_have_changed_a_file_or_not() {
        for (base, host, ours, expected) in [
            ("/etc/a=1", "/etc/a=1", "/etc/a=1", ""),
            ("/etc/a=1", "/etc/a=1", "/etc/a=2", ""),
            ("/etc/a=1", "/etc/a=1", "", ""),
            ("/etc/a=1", "/etc/a=2", "/etc/a=1", "/etc/a:update"),
            ("/etc/a=1", "/etc/a=2", "/etc/a=2", ""),
            ("/etc/a=1", "/etc/a=2", "/etc/a=3", "/etc/a:beside"),
            ("/etc/a=1", "/etc/a=2", "", "/etc/a:keep"),
            ("/etc/a=1", "", "/etc/a=1", "/etc/a:remove"),
            ("/etc/a=1", "", "/etc/a=2", "/etc/a:keep"),
            ("/etc/a=1", "", "", ""),
            ("", "/etc/a=1", "", "/etc/a:add"),
            ("", "/etc/a=1", "/etc/a=1", ""),
            ("", "/etc/a=1", "/etc/a=2", "/etc/a:beside"),
            ("", "", "/etc/a=1", ""),
        ] {
            assert_plan(&format!("/etc/ {base}"), &format!("/etc/ {host}"), &format!("/etc/ {ours}"), expected);
        }
    }

    #[test]
    fn a_directory_goes_with_the_last_of_its_files_and_no_file_comes_without_one() {
        let base = "/etc/ /etc/d/ /etc/d/a=1";
        assert_plan(base, "/etc/", base, "/etc/d:remove /etc/d/a:remove");
        assert_plan(base, "/etc/", "/etc/ /etc/d/ /etc/d/a=1 /etc/d/own=1", "/etc/d:keep /etc/d/a:remove");
        assert_plan(base, "/etc/", "/etc/ /etc/d/ /etc/d/a=2", "/etc/d:keep /etc/d/a:keep");
        // A file takes its place, or stands beside it.
        assert_plan(base, "/etc/ /etc/d=1", base, "/etc/d:update /etc/d/a:remove");
        assert_plan(base, "/etc/ /etc/d=1", "/etc/ /etc/d/ /etc/d/a=1 /etc/d/own=1", "/etc/d:beside /etc/d/a:remove");
        // And the other way round.
        assert_plan("/etc/ /etc/d=1", base, "/etc/ /etc/d=1", "/etc/d:update /etc/d/a:add");
        assert_plan("/etc/ /etc/d=1", base, "/etc/ /etc/d=2", "/etc/d:keep /etc/d/a:keep");
        // One that was removed here comes back neither by itself nor by a file in it.
        assert_plan(base, "/etc/ /etc/d/ /etc/d/a=1 /etc/d/b=1", "/etc/", "/etc/d/b:keep");
    }

    #[test]
    fn what_is_below_var_is_added_and_never_removed() {
        assert_plan("/var/ /var/a/", "/var/ /var/b/", "/var/ /var/a/", "/var/b:add");
        assert_plan("/var/ /var/a/", "/var/ /var/a=link", "/var/ /var/a/", "/var/a:keep");
    }
}
