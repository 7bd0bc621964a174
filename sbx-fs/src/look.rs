//! What an inode has beside its content: owner, mode, times and extended attributes.

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Statx, StatxTimestamp, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod,
    flistxattr_query, fremovexattr, getxattr, listxattr, listxattr_query, setxattr, utimensat,
};
use rustix::io::Errno;
use sbx::tree::{Node, link};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// The most that the list of an inode's attributes takes, and the most that one value takes (xattr(7)).
pub const XATTR_MAX: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// A symbolic link has none of its own.
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    pub accessed: Timespec,
    pub modified: Timespec,
    pub attributes: Vec<(CString, Vec<u8>)>,
}

impl Look {
    /// That of an inode, with those of its attributes that mean the same elsewhere.
    pub fn of(node: &Node) -> Result<Self> {
        Self::at(&node.stat, node)
    }

    /// The same, of what was looked at already, and open otherwise since.
    pub fn at(stat: &Statx, inode: impl AsFd) -> Result<Self> {
        let Statx { stx_uid, stx_gid, stx_mode, stx_atime, stx_mtime, .. } = *stat;
        let has_mode = FileType::from_raw_mode(stx_mode.into()) != FileType::Symlink;
        let time = |time: StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
        Ok(Self {
            mode: has_mode.then(|| u32::from(stx_mode) & 0o7777),
            uid: stx_uid,
            gid: stx_gid,
            accessed: time(stx_atime),
            modified: time(stx_mtime),
            attributes: attributes_of(inode.as_fd())?,
        })
    }

    /// Gives it to an inode. The order counts: a new owner takes the setuid bit and the file's capabilities away, and
    /// every change but that of the times sets the times.
    pub fn put_on(&self, target: impl AsFd) -> Result<()> {
        let target = target.as_fd();
        chownat(target, "", Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)), AtFlags::EMPTY_PATH)?;
        if let Some(mode) = self.mode {
            let mode = Mode::from_raw_mode(mode);
            by_path(fchmod(target, mode), || chmod(link(target), mode))?;
        }
        for (name, value) in &self.attributes {
            setxattr(link(target), name.as_c_str(), value, XattrFlags::empty()).with_context(|| attribute(name))?;
        }
        let times = Timestamps { last_access: self.accessed, last_modification: self.modified };
        Ok(utimensat(target, "", &times, AtFlags::EMPTY_PATH)?)
    }
}

fn attribute(name: &CStr) -> String {
    format!("attribute {}", name.to_string_lossy())
}

/// Takes the attributes away that a directory has, as of itself or by default from the one that it is in.
pub fn undress(target: impl AsFd) -> Result<()> {
    for name in names(target.as_fd())? {
        fremovexattr(&target, &*name).with_context(|| attribute(&name))?;
    }
    Ok(())
}

/// The extended attributes of an inode, ACLs and file capabilities among them.
pub fn attributes_of(inode: BorrowedFd) -> Result<Vec<(CString, Vec<u8>)>> {
    let value = |name: CString| {
        let mut value = Vec::with_capacity(XATTR_MAX);
        getxattr(link(inode), &*name, spare_capacity(&mut value)).with_context(|| attribute(&name))?;
        value.shrink_to_fit();
        Ok((name, value))
    };
    names(inode)?.into_iter().map(value).collect()
}

fn names(inode: BorrowedFd) -> Result<Vec<CString>> {
    let mut names = Vec::with_capacity(match by_path(flistxattr_query(inode), || listxattr_query(link(inode))) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => XATTR_MAX,
        Err(error) => return Err(error.into()),
    });
    listxattr(link(inode), spare_capacity(&mut names))?;
    let names = names.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    Ok(names.filter(|name| is_kept(name.to_bytes())).map(CStr::to_owned).collect())
}

/// Of a call on a descriptor that only looks (O_PATH) the same by its path in procfs, which takes longer.
fn by_path<T>(done: rustix::io::Result<T>, again: impl FnOnce() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    if matches!(done, Err(Errno::BADF)) { again() } else { done }
}

/// Of the attributes those that mean the same on the copy. The SELinux label is the container's own, EVM's
/// signature is of the inode, and what else begins with `system.` or a file system's name is the file system's.
fn is_kept(name: &[u8]) -> bool {
    let kept: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
    kept.iter().any(|prefix| name.starts_with(prefix)) && !matches!(name, b"security.selinux" | b"security.evm")
}
