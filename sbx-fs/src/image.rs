//! Image files that a container's tree is kept in.

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Mode, fchmod, unlinkat};
use rustix::io::Errno;
use sbx::storage;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes a file with an empty ext4 file system of `size` bytes, which takes as much of the disk as is in it.
pub fn make(path: &Path, size: u64) -> Result<()> {
    let make = || -> Result<()> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.set_len(size)?;
        // A file that is all hole has nothing to discard; the inode tables are set up when the file system is idle. No
        // blocks are kept for root: inside, services may be root.
        let options = ["-q", "-F", "-b", "4096", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"];
        storage::run("mkfs.ext4", &options, path, 0)?;
        Ok(file.sync_all()?)
    };
    make().with_context(|| format!("cannot make {}", path.display()))
}

/// The root directory of a new file system, as that of any other tree begins.
pub fn empty(root: OwnedFd) -> Result<OwnedFd> {
    match unlinkat(&root, "lost+found", AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error).context("cannot remove lost+found"),
    }
    fchmod(&root, Mode::from_raw_mode(0o755))?;
    Ok(root)
}
