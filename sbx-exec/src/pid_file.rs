//! A file that tells others the pid of a command.

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, renameat, statat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process;

/// It is there, whole, as long as the command runs.
pub struct PidFile {
    path: PathBuf,
    /// Its directory, opened while its path is the host's.
    directory: OwnedFd,
    name: OsString,
    /// What it is called until it is written.
    new: OsString,
    file: File,
}

impl PidFile {
    /// Makes sure that there can be one. Before any namespace is joined.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = || format!("cannot make the pid file {}", path.display());
        let name = path.file_name().with_context(|| format!("{}: not a name", failed()))?.to_owned();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, directory, flags, Mode::empty()).with_context(failed)?;
        let new: OsString = [OsStr::new("."), &name, OsStr::new(&format!(".{}", process::id()))].into_iter().collect();
        // What a process with this pid has left, before it was killed.
        let _ = unlinkat(&directory, &new, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, &new, flags, Mode::from_raw_mode(0o644)).with_context(failed)?.into();
        Ok(Self { path: path.to_owned(), directory, name, new, file })
    }

    /// Writes it, in place of one that somebody has left.
    pub fn write(&mut self, pid: i32) -> Result<()> {
        let written = writeln!(self.file, "{pid}").map_err(anyhow::Error::from);
        written
            .and_then(|()| Ok(renameat(&self.directory, &self.new, &self.directory, &self.name)?))
            .with_context(|| format!("cannot write the pid file {}", self.path.display()))
    }
}

impl Drop for PidFile {
    /// It goes with the command, unless it is another's by now.
    fn drop(&mut self) {
        let same = |name: &OsStr| {
            let (ours, there) = (fstat(&self.file), statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW));
            ours.is_ok_and(|ours| there.is_ok_and(|there| (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)))
        };
        for name in [&self.new, &self.name] {
            if same(name) {
                // Nobody can be told that it is still there.
                let _ = unlinkat(&self.directory, name, AtFlags::empty());
            }
        }
    }
}
