//! The container's own /etc/passwd, parsed here: a name service library loaded from a container's file system would
//! be the container's code (CVE-2019-14271).

use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// One user as passwd(5) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell; empty means /bin/sh.
    pub shell: String,
}

/// A file that is larger than this is not read: nobody has that many users, and the file is the container's.
const MAX_BYTES: u64 = 4 << 20;

/// The entry of `uid` in a passwd file. Lines that are not exactly what passwd(5) says are passed over.
pub fn find(text: &[u8], uid: u32) -> Option<User> {
    text.split(|b| *b == b'\n').filter_map(entry).find(|user| user.uid == uid)
}

/// The entry of the user called `name`, likewise.
pub fn find_name(text: &[u8], name: &str) -> Option<User> {
    text.split(|b| *b == b'\n').filter_map(entry).find(|user| user.name == name)
}

/// Reads the file at /etc/passwd of the current root. A missing one has no users.
pub fn read(root: impl AsFd) -> Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    let path = std::ffi::OsStr::from_bytes(b"etc/passwd");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = match openat2(root, path, flags, Mode::empty(), how) {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        fd => fd.context("cannot open the container's /etc/passwd")?,
    };
    let file = File::from(fd);
    let mut bytes = Vec::new();
    // A FIFO or a device in its place is never read.
    if file.metadata().context("cannot stat the container's /etc/passwd")?.is_file() {
        file.take(MAX_BYTES).read_to_end(&mut bytes).context("cannot read the container's /etc/passwd")?;
    }
    Ok(bytes)
}

fn entry(line: &[u8]) -> Option<User> {
    let line = std::str::from_utf8(line).ok()?;
    let [name, _, uid, gid, _, home, shell] = line.split(':').collect::<Vec<_>>().try_into().ok()?;
    let user = User { name: name.into(), uid: id(uid)?, gid: id(gid)?, home: home.into(), shell: shell.into() };
    (!name.is_empty() && user.home.starts_with('/')).then_some(user)
}

/// A user or group id: digits only, and not the one that means "no change" (`(uid_t) -1`, setresuid(2)).
pub fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_entries_count() {
        let text = b"bad:x:0\n:x:0:0::/:/bin/sh\nr:x:0day:0::/:\nrel:x:0:0::root:\nroot:x:0:0:root:/root:/bin/bash\n\
            too:x:0:0::/:/bin/sh:more\n\xff:x:7:7::/:\nw:x:33:33:w:/var/www:\n";
        let root = find(text, 0).expect("root");
        assert_eq!((root.name.as_str(), root.home.as_str(), root.shell.as_str()), ("root", "/root", "/bin/bash"));
        assert_eq!(find(text, 33).expect("w").shell, "");
        assert_eq!(find(text, 7), None);
        assert_eq!(find_name(text, "w").expect("w").gid, 33);
        assert_eq!(find_name(text, "rel"), None);
    }

    #[test]
    fn ids_are_digits_and_nothing_else() {
        for bad in ["", "+1", "-1", " 1", "1 ", "0day", "1:", "4294967295", "4294967296", "٣"] {
            assert_eq!(id(bad), None, "{bad:?}");
        }
        assert_eq!(id("0"), Some(0));
        assert_eq!(id("4294967294"), Some(u32::MAX - 1));
    }
}
