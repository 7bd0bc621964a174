//! Files at their places: whose they are, how they are put there whole, and how they are taken away.

use crate::files::Inner;
use crate::parse::parse;
use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, mkdirat, openat, openat2, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use sbx::store;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Whose a unit of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Nobody,
    /// It has our mark, and with it the right value.
    Ours,
    /// The administrator, or a container of another name: it stays as it is.
    Another,
}

/// Whose the unit at `path` is, by the mark that ours have in `[Unit]`.
pub fn owner(path: &Path, (mark, value): (&str, &str)) -> Result<Owner> {
    let failed = || format!("cannot read {}", path.display());
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(error) => return Err(error).with_context(failed),
        Ok(metadata) if !metadata.is_file() => return Ok(Owner::Another),
        Ok(_) => {}
    }
    let text = fs::read(path).with_context(failed)?;
    let assignments = parse(&String::from_utf8_lossy(&text)).unwrap_or_default();
    let ours = assignments.iter().any(|a| a.section == "Unit" && a.key == mark && a.value == value);
    Ok(if ours { Owner::Ours } else { Owner::Another })
}

/// Writes beneath the container's root, which is the container's own when it is written again: no link is followed.
pub fn write_inner(root: &OwnedFd, inner: &[(String, Inner)]) -> Result<()> {
    for (path, file) in inner {
        let failed = || format!("cannot write {path} beneath the container's root");
        let (directories, name) = path.rsplit_once('/').with_context(failed)?;
        let mut directory = root.try_clone().with_context(failed)?;
        for component in directories.split('/') {
            directory = beneath(&directory, component).with_context(failed)?;
        }
        put(&directory, name, file, RenameFlags::empty()).with_context(failed)?;
    }
    Ok(())
}

pub fn open(directory: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory of `directory`; makes it if it is not there.
fn beneath(directory: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {}
        made => made?,
    }
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), how)
}

/// The name under which a file is made before it is whole.
pub fn unfinished(name: &str) -> String {
    format!(".{name}.new")
}

/// Puts a file into `directory`, whole or not at all.
pub fn put(directory: impl AsFd, name: &str, file: &Inner, flags: RenameFlags) -> Result<()> {
    let unfinished = unfinished(name);
    match unlinkat(&directory, &unfinished, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match file {
        Inner::Directory => return beneath(&directory, name).map(drop).map_err(Into::into),
        Inner::Mask => symlinkat("/dev/null", &directory, &unfinished)?,
        Inner::Text(text) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&directory, &unfinished, flags, Mode::from_raw_mode(0o644))?);
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
    }
    renameat_with(&directory, &unfinished, &directory, name, flags)?;
    Ok(())
}

/// What `systemctl enable` made: links called `unit` in `*.wants` and the like.
pub fn enabling_links(directory: &Path, unit: &str) -> Result<Vec<PathBuf>> {
    let enables = |parent: &PathBuf| {
        ["wants", "requires", "upholds"].map(|kind| Some(OsStr::new(kind))).contains(&parent.extension())
    };
    let links = store::entries(directory)?.into_iter().filter(enables).map(|parent| parent.join(unit));
    Ok(links.filter(|link| link.is_symlink()).collect())
}

/// Removes a file, which may be gone.
pub fn unlink(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::os::unix::fs::symlink;

    fn directory(test: &str) -> PathBuf {
        let directory = env::temp_dir().join(format!("sbx-unit-{test}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("mkdir");
        directory
    }

    #[test]
    fn a_unit_is_ours_by_its_mark_only() {
        let directory = directory("owner");
        let path = directory.join("a_sandbox.service");
        let owner = || owner(&path, ("X-Sbx-Name", "a")).expect("owner");
        assert_eq!(owner(), Owner::Nobody);
        fs::write(&path, "[Unit]\nX-Sbx-Name=a\n").expect("write");
        assert_eq!(owner(), Owner::Ours);
        for foreign in ["", "[Unit]\nX-Sbx-Name=b\n", "[Service]\nX-Sbx-Name=a\n", "# X-Sbx-Name=a\n", "[Unit\n"] {
            fs::write(&path, foreign).expect("write");
            assert_eq!(owner(), Owner::Another, "{foreign:?}");
        }
        fs::remove_file(&path).expect("rm");
        symlink("/dev/null", &path).expect("symlink");
        assert_eq!(owner(), Owner::Another, "a mask is the administrator's");
        fs::remove_dir_all(&directory).expect("rm");
    }

    #[test]
    fn no_link_of_the_container_is_followed() {
        let directory = directory("beneath");
        let (root, outside) = (directory.join("root"), directory.join("outside"));
        fs::create_dir_all(root.join("etc/systemd")).expect("mkdir");
        fs::create_dir(&outside).expect("mkdir");
        let files = [("etc/systemd/system/x".to_owned(), Inner::Text("new".into())), ("etc/y".into(), Inner::Mask)];
        fs::write(outside.join("file"), "old").expect("write");
        // Links in the place of the file and of its unfinished self are replaced.
        fs::create_dir(root.join("etc/systemd/system")).expect("mkdir");
        symlink(outside.join("file"), root.join("etc/systemd/system/x")).expect("symlink");
        symlink(outside.join("file"), root.join("etc/systemd/system/.x.new")).expect("symlink");
        write_inner(&open(&root).expect("root"), &files).expect("write");
        assert_eq!(fs::read_to_string(root.join("etc/systemd/system/x")).expect("read"), "new");
        assert_eq!(fs::read_link(root.join("etc/y")).expect("link"), Path::new("/dev/null"));
        // A link in the place of a directory is refused.
        fs::remove_dir_all(root.join("etc/systemd/system")).expect("rm");
        symlink(&outside, root.join("etc/systemd/system")).expect("symlink");
        assert!(write_inner(&open(&root).expect("root"), &files).is_err());
        assert!(
            write_inner(&open(&root).expect("root"), &[("etc/systemd/system".to_owned(), Inner::Directory)]).is_err()
        );
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 1);
        assert_eq!(fs::read_to_string(outside.join("file")).expect("read"), "old");
        fs::remove_dir_all(&directory).expect("rm");
    }
}
