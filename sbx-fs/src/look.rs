//! What an inode has beside its content: owner, mode, times and extended attributes.

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Statx, StatxTimestamp, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat,
    getxattr, listxattr, listxattr_query, setxattr, utimensat,
};
use rustix::io::Errno;
use sbx::tree::{Node, link};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

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
        let Statx { stx_uid, stx_gid, stx_mode, stx_atime, stx_mtime, .. } = node.stat;
        let time = |time: StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
        Ok(Self {
            mode: (node.kind() != FileType::Symlink).then(|| u32::from(stx_mode) & 0o7777),
            uid: stx_uid,
            gid: stx_gid,
            accessed: time(stx_atime),
            modified: time(stx_mtime),
            attributes: attributes_of(&link(node))?,
        })
    }

    /// Gives it to an inode. The order counts: a new owner takes the setuid bit and the file's capabilities away, and
    /// every change but that of the times sets the times.
    pub fn put_on(&self, target: impl AsFd) -> Result<()> {
        let path = link(&target);
        chownat(&target, "", Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)), AtFlags::EMPTY_PATH)?;
        if let Some(mode) = self.mode {
            chmod(&path, Mode::from_raw_mode(mode))?;
        }
        for (name, value) in &self.attributes {
            setxattr(&path, name.as_c_str(), value, XattrFlags::empty()).with_context(|| attribute(name))?;
        }
        let times = Timestamps { last_access: self.accessed, last_modification: self.modified };
        Ok(utimensat(&target, "", &times, AtFlags::EMPTY_PATH)?)
    }
}

fn attribute(name: &CStr) -> String {
    format!("attribute {}", name.to_string_lossy())
}

/// The extended attributes of what a path leads to, ACLs and file capabilities among them.
pub fn attributes_of(path: &str) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut names = Vec::with_capacity(match listxattr_query(path) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => XATTR_MAX,
        Err(error) => return Err(error.into()),
    });
    listxattr(path, spare_capacity(&mut names))?;
    let names = names.split_inclusive(|b| *b == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    let value = |name: &CStr| {
        let mut value = Vec::with_capacity(XATTR_MAX);
        getxattr(path, name, spare_capacity(&mut value)).with_context(|| attribute(name))?;
        value.shrink_to_fit();
        Ok((name.to_owned(), value))
    };
    names.filter(|name| is_kept(name.to_bytes())).map(value).collect()
}

/// Of the attributes those that mean the same on the copy. The SELinux label is the container's own, EVM's
/// signature is of the inode, and what else begins with `system.` or a file system's name is the file system's.
fn is_kept(name: &[u8]) -> bool {
    let kept: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
    kept.iter().any(|prefix| name.starts_with(prefix)) && !matches!(name, b"security.selinux" | b"security.evm")
}
