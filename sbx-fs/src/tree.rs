//! How a directory tree goes.

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{AtFlags, Mode, OFlags, open, unlinkat};
use rustix::io::Errno;
use sbx::tool;
use sbx::tree::{Id, Node};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Removes what is at `path`, with all that is below it. Nothing there is a success.
pub fn remove_at(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { bail!("bad path {}", path.display()) };
    match open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => Ok(()),
        dir => {
            let dir = dir.with_context(|| format!("cannot remove {}", path.display()))?;
            tool::all(remove(dir, name, path).into_iter().map(Err))
        }
    }
}

/// Removes `name` in the directory `dir`, with all that is below it. Goes on past errors; `path` is for their text.
pub fn remove(dir: OwnedFd, name: &OsStr, path: &Path) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    if let Err(error) = remove_walk(dir, name, path, &mut errors) {
        errors.push(error);
    }
    errors
}

/// One directory on the way down.
struct Level {
    id: Id,
    name: OsString,
    rest: Vec<OsString>,
    /// Whether something in it could not be removed, so that it cannot be either.
    stays: bool,
}

fn remove_walk(dir: OwnedFd, name: &OsStr, path: &Path, errors: &mut Vec<anyhow::Error>) -> Result<()> {
    let mut here = Node::of(dir)?;
    let mount = here.stat.stx_mnt_id;
    let mut path = path.parent().map(PathBuf::from).unwrap_or_default();
    let mut levels = vec![Level { id: here.id(), name: OsString::new(), rest: vec![name.to_owned()], stays: false }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.rest.pop() else {
            // Nothing is left in this directory: go up and remove it from there.
            let Some(Level { name, mut stays, .. }) = levels.pop() else { break };
            let Some(above) = levels.last_mut() else { break };
            here = here.leave(above.id).map_err(|error| anyhow!("cannot remove {}: {error}", path.display()))?;
            if !stays && let Err(error) = unlinkat(&here, &name, AtFlags::REMOVEDIR) {
                errors.push(anyhow!("cannot remove {}: {error}", path.display()));
                stays = true;
            }
            above.stays |= stays;
            path.pop();
            continue;
        };
        path.push(&name);
        match remove_one(&here, &name, mount) {
            Ok(None) => {
                path.pop();
            }
            Ok(Some((inner, rest))) => {
                levels.push(Level { id: inner.id(), name, rest, stays: false });
                here = inner;
            }
            Err(error) => {
                errors.push(anyhow!("cannot remove {}: {error}", path.display()));
                level.stays = true;
                path.pop();
            }
        }
    }
    Ok(())
}

/// Removes what is no directory; opens and lists one, to be emptied first.
fn remove_one(dir: &Node, name: &OsStr, mount: u64) -> Result<Option<(Node, Vec<OsString>)>> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ISDIR) => {}
        Err(Errno::BUSY) => bail!("it is a mount point"),
        Err(error) => return Err(error.into()),
    }
    let Some(node) = Node::at(dir, name)? else { return Ok(None) };
    if node.stat.stx_mnt_id != mount {
        bail!("it is a mount point");
    }
    let node = node.enter()?;
    let names = node.list()?;
    Ok(Some((node, names)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_with_all_that_is_in_it_and_no_link_is_followed() {
        let scratch = Scratch::new("remove");
        let path = |name: &str| scratch.path().join(name);
        fs::create_dir_all(path("place/a/b")).expect("directory");
        fs::create_dir_all(path("kept/inner")).expect("directory");
        fs::write(path("kept/file"), "canary").expect("canary");
        for (target, link) in [("../kept", "place/up"), ("/", "place/a/root"), ("nowhere", "place/a/b/dangling")] {
            symlink(target, path(link)).expect("link");
        }
        let open = || OwnedFd::from(File::open(scratch.path()).expect("open"));
        for _ in 0..2 {
            let errors = remove(open(), "place".as_ref(), &path("place"));
            assert!(errors.is_empty(), "{errors:?}");
        }
        assert!(!path("place").exists());
        assert_eq!(fs::read(path("kept/file")).expect("canary"), b"canary");
        assert!(path("kept/inner").is_dir());
        symlink("kept", path("place")).expect("link");
        assert!(remove(open(), "place".as_ref(), &path("place")).is_empty());
        assert!(path("kept/inner").is_dir() && fs::symlink_metadata(path("place")).is_err());
    }
}
