//! What of the host a container gets.

use crate::copy::{Copier, Entry, Extent, Verdict};
use crate::packages::{self, Package};
use crate::secrets::{Secret, Secrets};
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};
use sbx::inner::IDENTITY;
use sbx::{Document, Name, store};
use serde_json::json;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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

/// What is the host's own and no secret, beside what every container has anew: the other name of its machine-id, and
/// its disks, for which systemd would wait at boot.
const OWN: [&str; 4] = ["etc/crypttab", "etc/integritytab", "etc/veritytab", "var/lib/dbus/machine-id"];

/// Where the administrator's units are. A container gets those that it runs, and nothing that starts others.
const UNITS: [&str; 3] = ["/etc/systemd/system", "/etc/systemd/system.attached", "/etc/systemd/system.control"];

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Wish {
    /// Another container, instead of the host.
    pub from: Option<Name>,
    pub copy: bool,
    /// Whether files are copied though they are being written.
    pub force: bool,
    pub packages: Vec<Package>,
    pub secrets: Vec<Secret>,
}

/// What is cloned for the units and options of a document.
pub struct Selection {
    units: Vec<String>,
    copy: bool,
    packages: Vec<Package>,
    let_in: Vec<Secret>,
    /// The directories of the packages below /var.
    paths: Vec<String>,
    /// The store, which is never copied into itself, wherever it is.
    stores: Vec<PathBuf>,
    pub secrets: Secrets,
}

impl Selection {
    /// What the document and the wish ask for together, of what is below `host`.
    pub fn of(doc: &Document, wish: &Wish, host: &Path) -> Result<Self> {
        let name = doc.name()?;
        let units: Vec<String> = doc.read("sbx.unit.names")?.unwrap_or_default();
        let copy = wish.copy || doc.read("sbx.clone.copy")?.unwrap_or_default();
        let known = doc.read("sbx.clone.packages")?.unwrap_or_default();
        let packages = union([known, wish.packages.clone(), packages::owners(&units)?]);
        let let_in = union([doc.read("sbx.clone.secrets")?.unwrap_or_default(), wish.secrets.clone()]);
        let mut paths = packages::directories(host, &units, &packages)?;
        paths.retain(|path| !VAR.contains(&path.as_str()));
        let stores = [store::config_dir(), store::state_dir(), store::container(&name)];
        Ok(Self {
            secrets: Secrets::of(host, &let_in)?,
            stores: stores.map(|place| place.canonicalize().unwrap_or(place)).into(),
            units,
            copy,
            packages,
            let_in,
            paths,
        })
    }

    /// How much of the packages' directories a new container gets.
    pub fn extent(&self) -> Extent {
        if self.copy { Extent::Whole } else { Extent::Node }
    }

    /// The directories below /var that every container has, and those of the packages.
    pub fn nodes(&self) -> Vec<&Path> {
        VAR.into_iter().chain(self.paths.iter().map(String::as_str)).map(Path::new).collect()
    }

    /// What is copied with its content, and is not to change meanwhile.
    pub fn contents(&self) -> Vec<&Path> {
        if self.copy { outermost(&self.paths, Extent::Whole).into_iter().map(Path::new).collect() } else { Vec::new() }
    }

    /// Copies /etc, without what is the host's alone, and the directories below /var, those of the packages with or
    /// without their content. Returns what there is to say of it.
    pub fn copy(&self, host: &Path, target: &OwnedFd, extent: Extent) -> Result<Vec<String>> {
        let source = open(host, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {}", host.display()))?;
        let Self { units, stores, secrets, .. } = self;
        let copier = Copier::new(source, target.try_clone()?, |path: &Path, entry: &Entry| {
            let beneath = path.strip_prefix("/").unwrap_or(path);
            let is_own = IDENTITY.iter().chain(&OWN).any(|own| Path::new(own) == beneath);
            if is_own || stores.iter().any(|place| place == path) || is_foreign_unit(path, entry, units) {
                Ok(Verdict::Leave)
            } else {
                secrets.judge(path, entry)
            }
        })?;
        copier.copy("/etc".as_ref(), Extent::Whole)?;
        for path in VAR {
            copier.copy(path.as_ref(), Extent::Node)?;
        }
        for path in outermost(&self.paths, extent) {
            copier.copy(path.as_ref(), extent)?;
        }
        Ok(copier.notes())
    }

    /// Fills in sbx.clone.
    pub fn record(&self, doc: &mut Document) -> Result<()> {
        doc.set("sbx.clone.copy", self.copy)?;
        doc.set("sbx.clone.packages", json!(self.packages))?;
        doc.set("sbx.clone.paths", json!(outermost(&self.paths, self.extent())))?;
        doc.set("sbx.clone.secrets", json!(self.let_in))
    }
}

/// Of what is copied whole the outermost directories: each comes with what is below it.
fn outermost(paths: &[String], extent: Extent) -> Vec<&String> {
    let is_below = |path: &&String| paths.iter().any(|above| above != *path && Path::new(path).starts_with(above));
    paths.iter().filter(|path| extent == Extent::Node || !is_below(path)).collect()
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
}
