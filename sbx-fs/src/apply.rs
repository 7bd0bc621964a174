//! The private tree: how it is made, and how it goes.

use crate::copy::{Copier, Entry, Extent, Verdict, create};
use crate::edit::{Programs, programs};
use crate::packages::{self, Package};
use crate::secrets::{Secret, Secrets};
use crate::tree;
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, ResolveFlags, chmodat, mkdirat, open, openat2, symlinkat};
use rustix::rand::{GetRandomFlags, getrandom};
use sbx::{Document, Name, host, store, tool};
use serde_json::json;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directories of a private tree that are not copied, with their modes: mount points, and what begins empty.
const DIRECTORIES: [(&str, u32); 12] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
];

/// What of the host's /var every container has, without its content.
const VAR: [&str; 14] = [
    "/var",
    "/var/adm",
    "/var/backups",
    "/var/cache",
    "/var/empty",
    "/var/lib",
    "/var/local",
    "/var/lock",
    "/var/log",
    "/var/mail",
    "/var/opt",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];

/// What is the host's own and no secret: who it is, and its disks, for which systemd would wait at boot.
const IDENTITY: [&str; 8] = [
    "/etc/machine-id",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/integritytab",
    "/etc/veritytab",
    "/var/lib/dbus/machine-id",
];

/// Where the administrator's units are. A container gets those that it runs, and nothing that starts others.
const UNITS: [&str; 3] = ["/etc/systemd/system", "/etc/systemd/system.attached", "/etc/systemd/system.control"];

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Wish {
    pub copy: bool,
    pub packages: Vec<Package>,
    pub secrets: Vec<Secret>,
}

/// What is cloned, and to where.
struct Plan {
    name: Name,
    tree: PathBuf,
    hostname: String,
    label: Option<String>,
    units: Vec<String>,
    secrets: Secrets,
    copy: bool,
    paths: Vec<String>,
}

/// Makes the private tree from what is below `host`, the host's root directory, and fills in sbx.clone. Returns what
/// there is to say of it.
pub fn clone(doc: &mut Document, wish: Wish, host: &Path, act: bool) -> Result<Vec<String>> {
    let name = doc.name()?;
    let units: Vec<String> = doc.read("sbx.unit.names")?.unwrap_or_default();
    let copy = wish.copy || doc.read("sbx.clone.copy")?.unwrap_or_default();
    let packages =
        union([doc.read("sbx.clone.packages")?.unwrap_or_default(), wish.packages, packages::owners(&units)?]);
    let secrets = union([doc.read("sbx.clone.secrets")?.unwrap_or_default(), wish.secrets]);
    let mut paths = packages::directories(host, &units, &packages)?;
    paths.retain(|path| !VAR.contains(&path.as_str()));
    if copy {
        // A directory comes with what is below it.
        let all = paths.clone();
        paths.retain(|path| !all.iter().any(|above| above != path && Path::new(path).starts_with(above)));
    }
    let plan = Plan {
        tree: vacant(doc)?,
        hostname: doc.read("hostname")?.unwrap_or_else(|| name.hostname()),
        label: doc.read("linux.mountLabel")?,
        secrets: Secrets::of(host, &secrets)?,
        paths: paths.clone(),
        name,
        units,
        copy,
    };
    let notes = if act { plan.carry_out(host)? } else { Vec::new() };
    doc.set("sbx.clone.copy", copy)?;
    doc.set("sbx.clone.packages", json!(packages))?;
    doc.set("sbx.clone.paths", paths)?;
    doc.set("sbx.clone.secrets", json!(secrets))?;
    Ok(notes)
}

/// All lists as one, in order and each thing once.
fn union<T: PartialEq, const N: usize>(lists: [Vec<T>; N]) -> Vec<T> {
    lists.into_iter().flatten().fold(Vec::new(), |mut all, item| {
        if !all.contains(&item) {
            all.push(item);
        }
        all
    })
}

/// The place of the private tree, where nothing may be yet.
fn vacant(doc: &Document) -> Result<PathBuf> {
    let tree = store::tree_of(doc)?;
    match fs::read_dir(&tree) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(tree),
        entries => match entries.with_context(|| format!("cannot read {}", tree.display()))?.next() {
            None => Ok(tree),
            Some(_) => bail!("{} already exists", tree.display()),
        },
    }
}

impl Plan {
    fn carry_out(mut self, host: &Path) -> Result<Vec<String>> {
        let target = self.make_place().with_context(|| format!("cannot make {}", self.tree.display()))?;
        let source = open(host, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {}", host.display()))?;
        self.skeleton(&target, host)?;

        // The store is never copied into itself, wherever it is.
        let stores = [store::config_dir(), store::state_dir(), store::container(&self.name)];
        let stores = stores.map(|place| place.canonicalize().unwrap_or(place));
        let (units, secrets) = (&self.units, &mut self.secrets);
        let mut copier = Copier::new(source, target.try_clone()?, |path: &Path, entry: &Entry| {
            let is_host = stores.iter().any(|place| place == path) || IDENTITY.iter().any(|own| Path::new(own) == path);
            if is_host || is_foreign_unit(path, entry, units) { Ok(Verdict::Leave) } else { secrets.judge(path, entry) }
        });
        copier.copy("/etc".as_ref(), Extent::Whole)?;
        for path in VAR {
            copier.copy(path.as_ref(), Extent::Node)?;
        }
        for path in &self.paths {
            copier.copy(path.as_ref(), if self.copy { Extent::Whole } else { Extent::Node })?;
        }
        let mut notes = copier.notes;

        let (machine_id, hostname) = (machine_id()?, &self.hostname);
        let hosts = format!("127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for (path, mode, content) in [
            ("etc/machine-id", 0o444, machine_id),
            ("etc/hostname", 0o644, format!("{hostname}\n")),
            ("etc/hosts", 0o644, hosts),
            ("etc/fstab", 0o644, String::new()),
        ] {
            write(&target, path, mode, &content).with_context(|| format!("cannot write {path} of {}", self.name))?;
        }
        let mut withheld = self.secrets.withheld;
        if !withheld.is_empty() {
            withheld.sort();
            notes.push(format!("left out, unless --secret PATH lets it in: {}", withheld.join(", ")));
        }
        Ok(notes)
    }

    /// Makes the tree's directory. What is above it only root may pass: setuid programs in the tree are the
    /// container's (CVE-2021-41091).
    fn make_place(&self) -> Result<OwnedFd> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(store::container(&self.name))?;
        if let Some(label) = self.label.as_ref().filter(|_| host::runs_selinux()) {
            // All that this thread makes from now on is the container's, and never another's in between.
            fs::write("/proc/thread-self/attr/fscreate", label).with_context(|| format!("label {label}"))?;
        }
        match fs::create_dir(&self.tree) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = open(&self.tree, flags, Mode::empty())?;
        rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755))?;
        Ok(tree)
    }

    fn skeleton(&self, target: &OwnedFd, host: &Path) -> Result<()> {
        let make = |name: &str, mode: u32| {
            let mode = Mode::from_raw_mode(mode);
            mkdirat(target, name, mode)?;
            // The mode that a directory is made with is less the umask.
            chmodat(target, name, mode, rustix::fs::AtFlags::empty())
        };
        let context = |name: &str| format!("cannot make {}", self.tree.join(name).display());
        for (name, mode) in DIRECTORIES {
            make(name, mode).with_context(|| context(name))?;
        }
        for found in programs(host)? {
            match found {
                Programs::Link { name, target: text } => {
                    symlinkat(text, target, name).with_context(|| context(name))?
                }
                Programs::Tree { name } => make(name, 0o755).with_context(|| context(name))?,
            }
        }
        Ok(())
    }
}

/// Whether an entry is a unit, or belongs to one, that the container does not run. Drop-ins for all services
/// (`service.d`), and for all whose names begin alike (`foo-.service.d`), are also those of ours (systemd.unit(5)).
fn is_foreign_unit(path: &Path, entry: &Entry, units: &[String]) -> bool {
    let is_in = |parent: &Path| UNITS.iter().any(|dir| Path::new(dir) == parent);
    if !path.parent().is_some_and(is_in) {
        return false;
    }
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let is_ours = |name: &str| units.iter().any(|unit| unit == name || packages::template(unit) == name);
    let is_for_ours = |drop_ins: &str| match drop_ins.rsplit_once("-.") {
        Some((prefix, kind)) => units.iter().any(|unit| {
            let rest = unit.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|rest| rest.ends_with(&format!(".{kind}")))
        }),
        None => {
            is_ours(drop_ins)
                || units.iter().any(|unit| unit.rsplit_once('.').is_some_and(|(_, kind)| kind == drop_ins))
        }
    };
    let leads_to_ours = |target: &Path| target.file_name().and_then(OsStr::to_str).is_some_and(is_ours);
    let is_kept = match entry {
        Entry::Link(target) => is_ours(name) || leads_to_ours(target),
        Entry::Directory => name.strip_suffix(".d").is_some_and(is_for_ours),
        _ => is_ours(name),
    };
    !is_kept
}

/// A new machine id: 128 random bits, marked as systemd marks them (sd_id128_randomize(3)), as a version 4 UUID.
fn machine_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty()).context("cannot get random bytes")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text + "\n")
}

/// Makes one new file of the tree.
fn write(tree: &OwnedFd, path: &str, mode: u32, content: &str) -> Result<()> {
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { bail!("bad path {}", path.display()) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut file = create(openat2(tree, parent, flags, Mode::empty(), beneath)?, name)?;
    file.write_all(content.as_bytes())?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

/// Removes all that `name` has in the store. Nothing there is a success.
pub fn remove(name: &Name) -> Result<()> {
    let place = store::container(name);
    let parent = place.parent().unwrap_or(&place);
    match open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        parent => {
            let parent = parent.with_context(|| format!("cannot remove {}", place.display()))?;
            tool::all(tree::remove(parent, name.as_str().as_ref(), &place).into_iter().map(Err))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_its_own_units_and_what_belongs_to_them() {
        let units = ["apache2.service".to_owned(), "my-web-app@1.service".to_owned()];
        let foreign = |name: &str, entry: &Entry| is_foreign_unit(&Path::new(UNITS[0]).join(name), entry, &units);
        for drop_ins in
            ["apache2", "my-web-app@1", "my-web-app@", "my-web-", "my-"].map(|name| format!("{name}.service.d"))
        {
            assert!(!foreign(&drop_ins, &Entry::Directory), "{drop_ins}");
        }
        assert!(!foreign("service.d", &Entry::Directory));
        for other in
            ["multi-user.target.wants", "apache2.service.wants", "redis.service.d", "your-.service.d", "socket.d"]
        {
            assert!(foreign(other, &Entry::Directory), "{other}");
        }
        assert!(!foreign("apache2.service", &Entry::Other) && !foreign("my-web-app@.service", &Entry::Other));
        assert!(foreign("redis.service", &Entry::Other) && foreign("a1_sandbox.service", &Entry::Other));
        assert!(!foreign("httpd.service", &Entry::Link("/lib/systemd/system/apache2.service".as_ref())));
        assert!(foreign("sshd.service", &Entry::Link("/lib/systemd/system/ssh.service".as_ref())));
        assert!(!is_foreign_unit("/etc/systemd/journald.conf".as_ref(), &Entry::Other, &units));
        assert!(!is_foreign_unit("/etc/systemd/system/apache2.service.d/a.conf".as_ref(), &Entry::Other, &units));
    }

    #[test]
    fn a_machine_id_is_a_random_version_4_uuid() {
        let (one, two) = (machine_id().expect("id"), machine_id().expect("id"));
        assert_ne!(one, two);
        assert!(one.len() == 33 && one.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()), "{one:?}");
        assert!(one.as_bytes()[12] == b'4' && b"89ab".contains(&one.as_bytes()[16]), "{one:?}");
    }
}
