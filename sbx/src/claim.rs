//! Claims: things of which each container has one of its own, such as an MCS level.
//!
//! A claim is a symbolic link from the thing to its owner's name: it is taken atomically, with its owner in it, it
//! survives a crash and a reboot, and `ls -l` shows the registry.

use crate::{Name, store};
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// The registry of one kind of thing.
#[derive(Debug)]
pub struct Claims {
    kind: &'static str,
    dir: PathBuf,
}

impl Claims {
    /// The registry of `kind` (`mcs`, `ids`, `addresses`) in the store.
    pub fn of(kind: &'static str) -> Self {
        Self { kind, dir: store::state_dir().join("claims").join(kind) }
    }

    /// All claims as (thing, owner), sorted by thing.
    pub fn list(&self) -> Result<Vec<(String, String)>> {
        let mut claims = Vec::new();
        for entry in store::entries(&self.dir)? {
            // One that goes away meanwhile, or that is no link, is no claim.
            if let (Ok(owner), Some(thing)) = (fs::read_link(&entry), entry.file_name()) {
                claims.push((thing.to_string_lossy().into_owned(), owner.to_string_lossy().into_owned()));
            }
        }
        claims.sort();
        Ok(claims)
    }

    /// The thing that `owner` holds, if any.
    pub fn held_by(&self, owner: &Name) -> Result<Option<String>> {
        Ok(self.list()?.into_iter().find_map(|(thing, name)| (name == owner.as_str()).then_some(thing)))
    }

    /// Keeps others from taking any, as long as the descriptor is open: for things that may overlap.
    pub fn lock(&self) -> Result<fs::File> {
        self.make()?;
        store::lock(&self.dir).with_context(|| format!("cannot lock {}", self.dir.display()))
    }

    /// Takes the first free one of `candidates` for `owner`; `None` if there is none.
    pub fn take(&self, owner: &Name, candidates: impl IntoIterator<Item = String>) -> Result<Option<String>> {
        self.make()?;
        for thing in candidates {
            match symlink(owner.as_str(), self.dir.join(&thing)) {
                Ok(()) => return Ok(Some(thing)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot claim {} {thing}", self.kind)),
            }
        }
        Ok(None)
    }

    fn make(&self) -> Result<()> {
        store::make(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))
    }

    /// Gives back whatever `owner` holds. Nothing to give back is a success.
    pub fn release(&self, owner: &Name) -> Result<()> {
        for (thing, _) in self.list()?.into_iter().filter(|(_, name)| name == owner.as_str()) {
            match fs::remove_file(self.dir.join(&thing)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot release {} {thing}", self.kind));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
