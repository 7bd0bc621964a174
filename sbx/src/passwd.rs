//! The container's own /etc/passwd and /etc/group, parsed here: a name service library loaded from a container's file
//! system would be the container's code (CVE-2019-14271).

use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::str::FromStr;

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
    /// Login shell; empty means [`SHELL`].
    pub shell: String,
}

/// The shell of those who have no other.
pub const SHELL: &str = "/bin/sh";

impl User {
    /// The login shell, which is never empty.
    pub fn login_shell(&self) -> &str {
        if self.shell.is_empty() { SHELL } else { &self.shell }
    }
}

/// No more than this is read of a file: nobody has that many users, and the file is the container's.
const MAX_BYTES: u64 = 4 << 20;

/// How many bytes hold most of them.
const USUAL: usize = 4 << 10;

/// The entry of `uid` in a passwd file. Lines that are not exactly what passwd(5) says are passed over.
pub fn find(text: &[u8], uid: u32) -> Option<User> {
    text.split(|b| *b == b'\n').filter_map(entry).find(|user| user.uid == uid)
}

/// The entry of the user called `name`, likewise.
pub fn find_name(text: &[u8], name: &str) -> Option<User> {
    text.split(|b| *b == b'\n').filter_map(entry).find(|user| user.name == name)
}

/// Reads /etc/passwd of a root. A missing one has no users.
pub fn read(root: impl AsFd) -> Result<Vec<u8>> {
    read_file(root, "etc/passwd")
}

/// Reads /etc/group of a root, likewise.
pub fn read_groups(root: impl AsFd) -> Result<Vec<u8>> {
    read_file(root, "etc/group")
}

fn read_file(root: impl AsFd, path: &str) -> Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    let failed = |what: &str| format!("cannot {what} /{path}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = match openat2(root, path, flags, Mode::empty(), how) {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        fd => fd.with_context(|| failed("open"))?,
    };
    let file = File::from(fd);
    let mut bytes = Vec::with_capacity(USUAL);
    // A FIFO or a device in its place is never read.
    if file.metadata().with_context(|| failed("stat"))?.is_file() {
        file.take(MAX_BYTES).read_to_end(&mut bytes).with_context(|| failed("read"))?;
    }
    Ok(bytes)
}

/// A user, and perhaps a group, as `--user USER[:GROUP]` gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    user: Id,
    group: Option<Id>,
}

/// A number, or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    Number(u32),
    Name(String),
}

/// Who a process is: root, unless something else is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let parsed = Id::parse(user)
            .and_then(|user| Some(Self { user, group: group.map_or(Some(None), |group| Id::parse(group).map(Some))? }));
        parsed.ok_or_else(|| format!("bad user {text:?}: USER[:GROUP], each a number or a name"))
    }
}

impl Id {
    /// What begins with a digit is a number or nothing, never a name: neither a user `1000` with the id 0 nor `0day` is
    /// root (CVE-2016-3697, CVE-2017-1000082, CVE-2026-30892).
    fn parse(text: &str) -> Option<Self> {
        let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        match (id(text), text.as_bytes()) {
            (Some(number), _) => Some(Self::Number(number)),
            (None, [b'A'..=b'Z' | b'a'..=b'z' | b'_', ..]) if text.bytes().all(rest) => {
                Some(Self::Name(text.to_owned()))
            }
            _ => None,
        }
    }
}

impl Spec {
    /// Who that is, by the text of a passwd and of a group file. Without a group, it is that of the user's entry, beside
    /// all that have the user as a member; a number without an entry is its own group.
    pub fn resolve(&self, passwd: &[u8], group: &[u8]) -> Result<Identity> {
        let (uid, user) = match &self.user {
            Id::Number(uid) => (*uid, find(passwd, *uid)),
            Id::Name(name) => {
                let user = find_name(passwd, name).with_context(|| format!("no user {name} in /etc/passwd"))?;
                (user.uid, Some(user))
            }
        };
        let gid = match &self.group {
            None => user.as_ref().map_or(uid, |user| user.gid),
            Some(Id::Number(gid)) => *gid,
            Some(Id::Name(name)) => {
                find_group(group, name).with_context(|| format!("no group {name} in /etc/group"))?
            }
        };
        let groups = user.filter(|_| self.group.is_none()).map(|user| groups_of(group, &user.name));
        Ok(Identity { uid, gid, groups: groups.unwrap_or_default() })
    }
}

/// The id of the group called `name` in a group file. Lines that are not exactly what group(5) says are passed over.
pub fn find_group(text: &[u8], name: &str) -> Option<u32> {
    groups(text).find(|group| group.0 == name).map(|(_, gid, _)| gid)
}

/// The groups of which a user is a member, once each.
pub fn groups_of(text: &[u8], user: &str) -> Vec<u32> {
    let mut gids: Vec<u32> = groups(text)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|group| group.1)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// Name, id and members of each group.
fn groups(text: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let [name, _, gid, members] = std::str::from_utf8(line).ok()?.split(':').collect::<Vec<_>>().try_into().ok()?;
        (!name.is_empty()).then_some((name, id(gid)?, members))
    })
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

    #[test]
    fn a_user_is_an_exact_number_or_a_name() {
        let passwd = b"1000:x:0:0::/:\nweb:x:33:34::/:\n0day:x:0:0::/:\n";
        let group = b"34:x:0:\nstaff:x:50:other,web\nbad:x:0day:web\nmore:x:60:web:\nlog:x:4:web\nagain:x:4:web\n";
        let who = |text: &str| {
            let Identity { uid, gid, groups } = text.parse::<Spec>().expect(text).resolve(passwd, group).expect(text);
            (uid, gid, groups)
        };
        assert_eq!(who("0"), (0, 0, vec![]));
        assert_eq!(who("1000"), (1000, 1000, vec![]));
        assert_eq!(who("1"), (1, 1, vec![]));
        assert_eq!(who("33"), (33, 34, vec![4, 50]));
        assert_eq!(who("web"), (33, 34, vec![4, 50]));
        // With a group it is in no other.
        assert_eq!(who("33:5"), (33, 5, vec![]));
        assert_eq!(who("web:0"), (33, 0, vec![]));
        assert_eq!(who("1:staff"), (1, 50, vec![]));
        assert_eq!(who("web:34"), (33, 34, vec![]));
        for (text, why) in [("none", "no user none in /etc/passwd"), ("0:none", "no group none in /etc/group")] {
            let error = text.parse::<Spec>().expect(text).resolve(passwd, group).expect_err(text);
            assert_eq!(error.to_string(), why);
        }
        for bad in [
            "",
            ":",
            "1:",
            ":1",
            "0day",
            "+1",
            "-1",
            " 1",
            "1 ",
            "4294967295",
            "1:-1",
            "1:0day",
            "a b",
            "1:2:3",
            "web:",
        ] {
            assert!(bad.parse::<Spec>().is_err(), "{bad:?}");
        }
    }
}
