//! What `up` has made, written down before it is made: `remove` finds it there, whatever became of `up`. One file for
//! each container that has interfaces, valid as long as its holder lives.

use crate::address::{Address, Mac};
use crate::network::{DEFAULT, Egress, Mode, Publish, Text};
use anyhow::{Context, Result};
use sbx::process::Recorded;
use sbx::{Name, store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: Text<Name>,
    pub holder: Recorded,
    /// Whether `up` came to its end.
    pub complete: bool,
    pub interfaces: Vec<Made>,
    #[serde(default)]
    pub publish: Vec<Publish>,
    #[serde(default)]
    pub allow: Vec<Text<Name>>,
    #[serde(default)]
    pub egress: Option<Text<Egress>>,
}

/// An interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its name inside.
    pub name: String,
    pub mode: Mode,
    pub source: String,
    /// Its other end, on the host.
    #[serde(default)]
    pub link: Option<String>,
    #[serde(default)]
    pub mac: Option<Text<Mac>>,
    pub addresses: Vec<Text<Address>>,
}

impl Made {
    /// Whether it is on our own network.
    pub fn is_ours(&self) -> bool {
        self.mode == Mode::Bridge && self.source == DEFAULT
    }
}

impl Record {
    /// Whether the container still runs.
    pub fn is_live(&self) -> bool {
        self.holder.open().is_ok_and(|holder| holder.is_some())
    }

    /// The interface on our own network.
    pub fn ours(&self) -> Option<&Made> {
        self.interfaces.iter().find(|made| made.is_ours())
    }

    /// Reads that of a container.
    pub fn of(name: &Name) -> Result<Option<Self>> {
        read(&file(name))
    }

    /// Those of all containers.
    pub fn all() -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for path in store::entries(&directory())? {
            // What was not written to its end, and what is no container's, is left out.
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse::<Name>().ok());
            all.extend(name.map_or(Ok(None), |name| Self::of(&name))?);
        }
        all.sort_by(|one: &Self, other| one.name.0.cmp(&other.name.0));
        Ok(all)
    }

    /// Writes it.
    pub fn keep(&self) -> Result<()> {
        write(&file(&self.name.0), self)
    }

    /// Takes that of a container away, and the directory of the last one.
    pub fn forget(name: &Name) -> Result<()> {
        remove(&file(name))
    }
}

/// Nobody else changes networks of this host as long as there is the descriptor.
pub fn lock() -> Result<File> {
    let directory = store::runtime_dir();
    let locked = store::make(&directory).and_then(|()| store::lock(&directory));
    locked.with_context(|| format!("cannot lock {}", directory.display()))
}

/// No container's name begins with a dot.
fn directory() -> PathBuf {
    store::runtime_dir().join(".network")
}

fn file(name: &Name) -> PathBuf {
    directory().join(format!("{name}.json"))
}

/// What is kept of our own bridge.
pub fn of_bridge() -> PathBuf {
    directory().join(".bridge.json")
}

/// Reads a record, if there is one.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let failed = || format!("cannot read {}", path.display());
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => serde_json::from_slice(&text.with_context(failed)?).with_context(failed).map(Some),
    }
}

/// Writes a record as a whole.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        store::make(&directory())?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a record, if there is one; and the directory, if it was the last.
pub fn remove(path: &Path) -> Result<()> {
    for path in [path.with_extension("new"), path.to_owned()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    let _ = fs::remove_dir(directory());
    Ok(())
}
