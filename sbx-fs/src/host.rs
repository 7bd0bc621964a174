//! What a container has of its host whatever its document says: the names of programs, and of what is hidden.

use anyhow::{Context, Result};
use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A host as a layout finds it, which may be before there is a document.
#[derive(Debug, Default)]
pub struct Host {
    /// Its root directory.
    pub root: PathBuf,
    programs: Vec<Programs>,
    /// What of its processors is to be masked.
    pub throttles: Vec<String>,
}

impl Host {
    pub fn at(root: &Path) -> Result<Self> {
        Ok(Self { root: root.to_owned(), programs: programs(root)?, throttles: thermal_throttles(root) })
    }

    /// The names beside /usr that it has, or another root in its place.
    pub fn programs(&self, other: Option<&Path>) -> Result<Cow<'_, [Programs]>> {
        other.map_or(Ok(Cow::Borrowed(&self.programs)), |root| programs(root).map(Cow::Owned))
    }
}

/// The names beside /usr that programs and libraries are found under: links into /usr, or trees of their own on a
/// host whose /usr is not merged.
const PROGRAMS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// One of the names beside /usr as a host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Programs {
    /// A link, which the private tree gets too.
    Link { name: &'static str, target: PathBuf },
    /// A real directory, which is shared like /usr.
    Tree { name: &'static str },
}

/// Which of the names beside /usr there are below `host`, the host's root directory.
pub fn programs(host: &Path) -> Result<Vec<Programs>> {
    let mut found = Vec::new();
    for name in PROGRAMS {
        let path = host.join(name);
        match fs::read_link(&path) {
            Ok(target) => found.push(Programs::Link { name, target }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Not a link.
            Err(error) if error.kind() == ErrorKind::InvalidInput && path.is_dir() => {
                found.push(Programs::Tree { name });
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(found)
}

/// The links that a root has which is made of memory, over that with these programs.
pub fn links(programs: &[Programs]) -> Vec<(PathBuf, PathBuf)> {
    let programs = programs.iter().filter_map(|found| match found {
        Programs::Link { name, target } => Some((Path::new("/").join(name), target.clone())),
        Programs::Tree { .. } => None,
    });
    let own = [("/var/run", "/run"), ("/var/lock", "/run/lock"), ("/var/tmp", "/tmp")]
        .map(|(path, target)| (path.into(), target.into()));
    programs.chain(own).collect()
}

/// Whether a path of a private tree is one of those names.
pub fn is_programs(path: &Path) -> bool {
    PROGRAMS.iter().any(|name| path.strip_prefix("/").unwrap_or(path) == Path::new(name))
}

/// The programs of a host, as containers have them.
pub fn shared(programs: &[Programs]) -> impl Iterator<Item = String> {
    let split = programs.iter().filter_map(|found| match found {
        Programs::Tree { name } => Some(format!("/{name}")),
        Programs::Link { .. } => None,
    });
    ["/usr".to_owned()].into_iter().chain(split)
}

/// How often each processor was throttled tells what other containers do; OCI's masks know no wildcard.
fn thermal_throttles(host: &Path) -> Vec<String> {
    const CPUS: &str = "sys/devices/system/cpu";
    // A kernel without the directory has nothing to mask.
    let cpus = fs::read_dir(host.join(CPUS)).into_iter().flatten().flatten();
    let is_number = |name: &str| name.strip_prefix("cpu").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    let names = cpus.filter_map(|cpu| cpu.file_name().into_string().ok()).filter(|name| is_number(name));
    let found = names.map(|name| format!("/{CPUS}/{name}/thermal_throttle"));
    let mut found: Vec<String> = found.filter(|path| host.join(&path[1..]).is_dir()).collect();
    found.sort();
    found
}
