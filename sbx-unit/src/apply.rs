//! What the host has, what is written to it and into a container's tree, and the undo.

use crate::edit::{Init, Units};
use crate::files::{self, Inner, MARK};
use crate::place::{self, Owner, enabling_links, open, owner, put, unfinished, unlink};
use crate::unit::{self, LASTING, VOLATILE};
use crate::{group, journal};
use anyhow::{Context, Result, ensure};
use rustix::fs::RenameFlags;
use rustix::process::{chdir, chroot};
use sbx::passwd::{self, Identity};
use sbx::{Document, Name, host, inner, storage, store, tool};
use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};

/// Where systemd itself may be.
const INIT: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// Makes the directory that a document's root is made from the root of this process, which then finds there what it looks
/// for, as the container will. The host's stays the root where the document names none; says which it is.
pub fn enter_base(doc: &Document) -> Result<bool> {
    let Some(base) = doc.read::<PathBuf>("sbx.base")? else { return Ok(false) };
    chroot(&base).and_then(|()| chdir("/")).with_context(|| format!("cannot enter {}", base.display()))?;
    Ok(true)
}

/// The systemd of this root.
pub fn systemd() -> Result<&'static str> {
    let found = INIT.into_iter().find(|path| Path::new(path).exists());
    found.with_context(|| format!("there is no systemd: neither {}", INIT.join(" nor ")))
}

/// The init of this root, whichever it is.
pub fn init() -> Result<(&'static str, Init)> {
    const PATH: &str = "/sbin/init";
    let program = Path::new(PATH).canonicalize().with_context(|| format!("cannot run {PATH}"))?;
    let is_systemd = program.file_name().is_some_and(|name| name == "systemd");
    Ok((PATH, if is_systemd { Init::Systemd } else { Init::Other }))
}

/// Who a command is to be, by the users of this root; root if nothing is said.
pub fn identity(user: Option<&passwd::Spec>) -> Result<Identity> {
    let Some(user) = user else { return Ok(Identity::default()) };
    let root = File::open("/").context("cannot open /")?;
    user.resolve(&passwd::read(&root)?, &passwd::read_groups(&root)?)
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

/// Writes the inner systemd's files, the host's unit and groups, and links the journal.
pub fn write(doc: &Document, scripts: Option<PathBuf>, act: bool) -> Result<()> {
    let name = doc.name()?;
    let units: Units = doc.read("sbx.unit")?.unwrap_or_default();
    let names = units.names()?;
    let mut files = files::inner(&units)?;
    // A root of its own has nothing of the host's /run.
    let shared = names.iter().filter(|_| doc.get("sbx.base").is_none());
    for unit in shared {
        let volatile = unit::volatile(unit, Path::new(VOLATILE), Path::new(LASTING))?;
        files.extend(volatile.into_iter().map(|(path, text)| (format!("{}/{path}", inner::UNITS), Inner::Text(text))));
    }
    let unit = Inner::Text(files::host_unit(&name, doc, &self::scripts(scripts)?)?);
    let directory = store::unit_dir();
    let path = directory.join(name.unit());
    let owner = owner(&path, (MARK, name.as_str()))?;
    ensure!(owner != Owner::Another, "{} is not the unit of container {name}: it stays as it is", path.display());
    names.iter().try_for_each(|unit| group::check(&directory, unit))?;
    if !act {
        return Ok(());
    }
    if !files.is_empty() {
        let root = storage::open(doc)?;
        place::write_inner(&root, &files)?;
        journal::link(doc, &root, &store::journal_dir())?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = lock(&directory)?;
    for unit in &names {
        group::join(&directory, &name, unit)?;
    }
    let place = || format!("cannot write {}", path.display());
    let flags = match owner {
        // Another's that has come meanwhile is not replaced.
        Owner::Ours => RenameFlags::empty(),
        _ => RenameFlags::NOREPLACE,
    };
    put(&open(&directory).with_context(place)?, &name.unit(), &unit, flags).with_context(place)?;
    drop(lock);
    if host::runs_systemd() { reload(&name.unit(), &files::limits(doc)?) } else { Ok(()) }
}

/// Has systemd read the unit. On one that runs it would set other limits with the next start only: they are set as
/// properties first, and what systemd notes down of that goes again, since the unit says the same.
fn reload(unit: &str, limits: &[String]) -> Result<()> {
    if !limits.is_empty() && systemctl(&["is-active", "--quiet", unit]).is_ok() {
        let limits = limits.iter().map(String::as_str);
        systemctl(&["set-property", "--runtime", unit].into_iter().chain(limits.clone()).collect::<Vec<_>>())?;
        let keys = limits.filter_map(|limit| limit.split('=').next());
        tool::all(keys.map(|key| unlink(&properties(unit).join(format!("50-{key}.conf")))))?;
    }
    systemctl(&["daemon-reload"])
}

/// Where systemd notes down the properties that a unit has until the next boot (systemd.unit(5)).
fn properties(unit: &str) -> PathBuf {
    Path::new("/run/systemd/system.control").join(format!("{unit}.d"))
}

/// Containers of other names come and go meanwhile, and share a group's target.
fn lock(directory: &Path) -> Result<Option<File>> {
    match store::lock(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some).with_context(|| format!("cannot lock {}", directory.display())),
    }
}

/// Removes the host's unit with its drop-ins and the links that enable it, its groups if it is the last one in them, and
/// the journal's link. Where the unit is another's, it stays.
pub fn remove(name: &Name) -> Result<()> {
    let (directory, unit) = (store::unit_dir(), name.unit());
    let path = directory.join(&unit);
    let mut parts = vec![journal::unlink_all(name, &store::journal_dir())];
    let lock = lock(&directory)?;
    let ended = group::leave(&directory, name).unwrap_or_else(|error| {
        parts.push(Err(error));
        Vec::new()
    });
    let ours = owner(&path, (MARK, name.as_str()))? != Owner::Another;
    if ours {
        match enabling_links(&directory, &unit) {
            Ok(links) => parts.extend(links.iter().map(|link| unlink(link))),
            Err(error) => parts.push(Err(error)),
        }
        parts.push(unlink(&directory.join(unfinished(&unit))));
        // Last, as the record of the rest.
        parts.push(unlink(&path));
    }
    drop(lock);
    if host::runs_systemd() {
        if ours {
            // What the administrator has set for it would hold for the next container of this name.
            parts.push(systemctl(&["--no-reload", "revert", &unit]));
        }
        parts.push(systemctl(&["daemon-reload"]));
        // These fail where there is nothing to forget, which is as well.
        let _ = systemctl(&["reset-failed", &unit]);
        ended.iter().for_each(|group| drop(systemctl(&["stop", group])));
    }
    tool::all(parts)
}

/// Runs systemctl, whose words become part of the error: stderr has one line.
fn systemctl(args: &[&str]) -> Result<()> {
    let failed = || format!("cannot run systemctl {}", args.join(" "));
    let output = Command::new("systemctl").args(args).stdin(Stdio::null()).output().with_context(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemctl {} failed: {}", args.join(" "), said.trim());
    Ok(())
}
