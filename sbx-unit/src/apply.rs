//! What the host has, what is written to it and into a container's tree, and the undo.

use crate::edit::Units;
use crate::files::{self, Inner, MARK};
use crate::parse::parse;
use crate::unit::{self, LASTING, VOLATILE};
use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, mkdirat, openat, openat2, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use sbx::{Document, Name, host, store, tool};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};

/// Where systemd itself may be.
const INIT: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// The host's systemd.
pub fn init() -> Result<&'static str> {
    let found = INIT.into_iter().find(|path| Path::new(path).exists());
    found.with_context(|| format!("the host has no systemd: neither {}", INIT.join(" nor ")))
}

/// The host's users.
pub fn passwd() -> Result<Vec<u8>> {
    fs::read("/etc/passwd").context("cannot read /etc/passwd")
}

/// The directory of the scripts that the host's unit runs: the one asked for, or where PATH has sbx-start.
pub fn scripts(wanted: Option<PathBuf>) -> Result<PathBuf> {
    let Some(directory) = wanted else {
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).find(|directory| directory.is_absolute() && has_start(directory));
        return found.context("no sbx-start along PATH: give its directory by --scripts");
    };
    let directory = path::absolute(&directory).with_context(|| format!("bad directory {directory:?}"))?;
    ensure!(has_start(&directory), "no sbx-start in {}", directory.display());
    Ok(directory)
}

fn has_start(directory: &Path) -> bool {
    directory.join("sbx-start").is_file()
}

/// Whose a unit of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Container,
    /// The administrator, or a container of another name: it stays as it is.
    Another,
}

/// Whose the unit at `path` is: the container's if it has our mark and the name.
fn owner(path: &Path, name: &Name) -> Result<Owner> {
    let failed = || format!("cannot read {}", path.display());
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(error) => return Err(error).with_context(failed),
        Ok(metadata) if !metadata.is_file() => return Ok(Owner::Another),
        Ok(_) => {}
    }
    let text = fs::read(path).with_context(failed)?;
    let assignments = parse(&String::from_utf8_lossy(&text)).unwrap_or_default();
    let ours = assignments.iter().any(|a| a.section == "Unit" && a.key == MARK && a.value == name.as_str());
    Ok(if ours { Owner::Container } else { Owner::Another })
}

/// Writes the inner systemd's files and the host's unit.
pub fn write(doc: &Document, scripts: Option<PathBuf>, act: bool) -> Result<()> {
    let name = doc.name()?;
    let units: Units = doc.read("sbx.unit")?.unwrap_or_default();
    let mut inner = files::inner(&units)?;
    for unit in units.names()? {
        let volatile = unit::volatile(&unit, Path::new(VOLATILE), Path::new(LASTING))?;
        inner.extend(volatile.into_iter().map(|(path, text)| (format!("{}/{path}", files::UNITS), Inner::Text(text))));
    }
    let unit = Inner::Text(files::host_unit(&name, doc, &self::scripts(scripts)?)?);
    let directory = store::unit_dir();
    let path = directory.join(name.unit());
    let root = if inner.is_empty() { None } else { Some(doc.require::<PathBuf>("root.path")?) };
    let owner = owner(&path, &name)?;
    ensure!(owner != Owner::Another, "{} is not the unit of container {name}: it stays as it is", path.display());
    if !act {
        return Ok(());
    }
    if let Some(root) = root {
        write_inner(&root, &inner)?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let place = || format!("cannot write {}", path.display());
    let flags = match owner {
        // Another's that has come meanwhile is not replaced.
        Owner::Container => RenameFlags::empty(),
        _ => RenameFlags::NOREPLACE,
    };
    put(&open(&directory).with_context(place)?, &name.unit(), &unit, flags).with_context(place)?;
    if host::runs_systemd() { systemctl(&["daemon-reload"]) } else { Ok(()) }
}

/// Writes beneath the container's root, which is the container's own when it is written again: no link is followed.
fn write_inner(root: &Path, inner: &[(String, Inner)]) -> Result<()> {
    let top = open(root).with_context(|| format!("cannot open the container's root {}", root.display()))?;
    for (path, file) in inner {
        let failed = || format!("cannot write {path} beneath {}", root.display());
        let (directories, name) = path.rsplit_once('/').with_context(failed)?;
        let mut directory = top.try_clone().with_context(failed)?;
        for component in directories.split('/') {
            directory = beneath(&directory, component).with_context(failed)?;
        }
        put(&directory, name, file, RenameFlags::empty()).with_context(failed)?;
    }
    Ok(())
}

fn open(directory: &Path) -> rustix::io::Result<OwnedFd> {
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
fn unfinished(name: &str) -> String {
    format!(".{name}.new")
}

/// Puts a file into `directory`, whole or not at all.
fn put(directory: impl AsFd, name: &str, file: &Inner, flags: RenameFlags) -> Result<()> {
    let unfinished = unfinished(name);
    match unlinkat(&directory, &unfinished, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match file {
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

/// Removes the host's unit and the links that enable it. Where the unit is another's, none of it is ours.
pub fn remove(name: &Name) -> Result<()> {
    let (directory, unit) = (store::unit_dir(), name.unit());
    let path = directory.join(&unit);
    if owner(&path, name)? == Owner::Another {
        return Ok(());
    }
    let mut parts: Vec<Result<()>> = match enabling_links(&directory, &unit) {
        Ok(links) => links.iter().map(|link| unlink(link)).collect(),
        Err(error) => vec![Err(error)],
    };
    parts.push(unlink(&directory.join(unfinished(&unit))));
    // Last, as the record of the rest.
    parts.push(unlink(&path));
    if host::runs_systemd() {
        parts.push(systemctl(&["daemon-reload"]));
        // Fails where there is nothing to forget, which is as well.
        let _ = systemctl(&["reset-failed", &unit]);
    }
    tool::all(parts)
}

/// What `systemctl enable` made: links called `unit` in `*.wants` and the like.
fn enabling_links(directory: &Path, unit: &str) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(failed)?,
    };
    let mut links = Vec::new();
    for entry in entries {
        let parent = entry.with_context(failed)?.path();
        let enables = ["wants", "requires", "upholds"].map(|kind| Some(OsStr::new(kind))).contains(&parent.extension());
        let link = parent.join(unit);
        if enables && link.is_symlink() {
            links.push(link);
        }
    }
    Ok(links)
}

fn unlink(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Runs systemctl, whose words become part of the error: stderr has one line.
fn systemctl(args: &[&str]) -> Result<()> {
    let failed = || format!("cannot run systemctl {}", args.join(" "));
    let output = Command::new("systemctl").args(args).stdin(Stdio::null()).output().with_context(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemctl {} failed: {}", args.join(" "), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let name: Name = "a".parse().expect("name");
        assert_eq!(owner(&path, &name).expect("nobody's"), Owner::Nobody);
        fs::write(&path, "[Unit]\nX-Sbx-Name=a\n").expect("write");
        assert_eq!(owner(&path, &name).expect("ours"), Owner::Container);
        for foreign in ["", "[Unit]\nX-Sbx-Name=b\n", "[Service]\nX-Sbx-Name=a\n", "# X-Sbx-Name=a\n", "[Unit\n"] {
            fs::write(&path, foreign).expect("write");
            assert_eq!(owner(&path, &name).expect("another's"), Owner::Another, "{foreign:?}");
        }
        fs::remove_file(&path).expect("rm");
        symlink("/dev/null", &path).expect("symlink");
        assert_eq!(owner(&path, &name).expect("another's"), Owner::Another, "a mask is the administrator's");
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
        write_inner(&root, &files).expect("write");
        assert_eq!(fs::read_to_string(root.join("etc/systemd/system/x")).expect("read"), "new");
        assert_eq!(fs::read_link(root.join("etc/y")).expect("link"), Path::new("/dev/null"));
        // A link in the place of a directory is refused.
        fs::remove_dir_all(root.join("etc/systemd/system")).expect("rm");
        symlink(&outside, root.join("etc/systemd/system")).expect("symlink");
        assert!(write_inner(&root, &files).is_err());
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 1);
        assert_eq!(fs::read_to_string(outside.join("file")).expect("read"), "old");
        fs::remove_dir_all(&directory).expect("rm");
    }
}
