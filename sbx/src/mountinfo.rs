//! The mounts of a process, as the kernel lists them (proc_pid_mountinfo(5)).

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id.
    pub id: u64,
    /// The id of the mount that it is on.
    pub parent: u64,
    /// Which directory of its file system is its root.
    pub root: PathBuf,
    /// Where it is.
    pub point: PathBuf,
    /// Whether the mount, not only its file system, is read-only.
    pub read_only: bool,
    /// The type of its file system.
    pub kind: String,
    parameters: String,
}

/// Reads what a mountinfo file holds.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mount>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Mount::parse(line).context("mountinfo has a line of another form")).collect()
}

impl Mount {
    /// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE PARAMETERS`
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let text = |field: &[u8]| Some(str::from_utf8(field).ok()?.to_owned());
        let (id, parent) = (text(fields.next()?)?.parse().ok()?, text(fields.next()?)?.parse().ok()?);
        let mut path = |skip: usize| Some(OsString::from_vec(unescape(fields.nth(skip)?)).into());
        let (root, point) = (path(1)?, path(0)?);
        let read_only = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
        fields.find(|field| *field == b"-")?;
        let (kind, parameters) = (text(fields.next()?)?, text(fields.nth(1)?)?);
        Some(Self { id, parent, root, point, read_only, kind, parameters })
    }

    /// Whether its file system has this parameter.
    pub fn has_parameter(&self, parameter: &str) -> bool {
        self.parameters.split(',').any(|known| known == parameter)
    }
}

/// Undoes the kernel's escapes: `\040` is a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        let escaped = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_line_is_read_with_its_escapes_and_any_number_of_tags() {
        let line = br"36 35 98:0 /mnt1 /a\040b\134\011\xff ro,noatime shared:1 master:2 - cgroup none rw,name=systemd";
        let mount = Mount::parse(line).expect("mount");
        assert_eq!((mount.root.as_path(), mount.point.as_path()), (Path::new("/mnt1"), Path::new("/a b\\\t\\xff")));
        assert!((mount.id, mount.parent, mount.read_only, mount.kind.as_str()) == (36, 35, true, "cgroup"));
        assert!(mount.has_parameter("name=systemd") && !mount.has_parameter("systemd"));
        let plain = Mount::parse(b"1 0 0:1 / / rw - tmpfs  rw,errors=remount-ro").expect("mount");
        assert!(!plain.read_only && plain.kind == "tmpfs");
        for bad in [&b""[..], b"1 2 3", b"x 1 0:1 / / rw - a b c", b"1 0 0:1 / / rw tmpfs tmpfs rw"] {
            assert_eq!(Mount::parse(bad), None);
        }
    }
}
