//! The mounts of a process, as the kernel lists them (proc_pid_mountinfo(5)).

use super::plan::ReadOnly;
use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, open, openat, statat};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The host's procfs. Its descriptor still leads there when the namespaces have been left and the path is gone.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    pub fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = open("/proc", flags, Mode::empty()).context("cannot open /proc")?;
        ensure!(fstatfs(&proc).context("cannot open /proc")?.f_type == PROC_SUPER_MAGIC, "/proc is not procfs");
        Ok(Self(proc))
    }

    /// The mounts that the caller sees now.
    pub fn mounts(&self) -> Result<Vec<Mount>> {
        let failed = "cannot read /proc/self/mountinfo";
        let file =
            openat(&self.0, "self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(failed)?;
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).context(failed)?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Mount::parse(line).context("/proc/self/mountinfo has a line of another form")).collect()
    }

    /// Device and inode of what a link in procfs leads to.
    pub fn identity(&self, link: &str) -> Result<(u64, u64)> {
        let stat = statat(&self.0, link, AtFlags::empty()).with_context(|| format!("cannot read /proc/{link}"))?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    parent: u64,
    point: PathBuf,
    read_only: bool,
    /// The type of its file system.
    pub kind: String,
    parameters: String,
}

impl Mount {
    /// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE PARAMETERS`
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let text = |field: &[u8]| Some(str::from_utf8(field).ok()?.to_owned());
        let (id, parent) = (text(fields.next()?)?.parse().ok()?, text(fields.next()?)?.parse().ok()?);
        let point = OsString::from_vec(unescape(fields.nth(2)?)).into();
        let read_only = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
        fields.find(|field| *field == b"-")?;
        let (kind, parameters) = (text(fields.next()?)?, text(fields.nth(1)?)?);
        Some(Self { id, parent, point, read_only, kind, parameters })
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

/// A mount that is writable though it was to be read-only. How far each mount of ours must be is told by its id; one
/// that it brought along, or that came later, belongs to the nearest one of ours above it.
pub fn writable<'a>(mounts: &'a [Mount], ours: &HashMap<u64, ReadOnly>) -> Option<&'a Path> {
    let parents: HashMap<u64, u64> = mounts.iter().map(|mount| (mount.id, mount.parent)).collect();
    let demanded = |id: u64| {
        let mut above = std::iter::successors(Some(id), |id| parents.get(id).copied()).take(mounts.len() + 1);
        above.find_map(|owner| ours.get(&owner).map(|read_only| (owner, *read_only)))
    };
    let wrong = |mount: &&Mount| match demanded(mount.id) {
        Some((_, ReadOnly::Tree)) => !mount.read_only,
        Some((owner, ReadOnly::Top)) => owner == mount.id && !mount.read_only,
        _ => false,
    };
    mounts.iter().find(wrong).map(|mount| mount.point.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes_and_any_number_of_tags() {
        let line = br"36 35 98:0 /mnt1 /a\040b\134\011\xff ro,noatime shared:1 master:2 - cgroup none rw,name=systemd";
        let mount = Mount::parse(line).expect("mount");
        assert_eq!(mount.point, Path::new("/a b\\\t\\xff"));
        assert!((mount.id, mount.parent, mount.read_only, mount.kind.as_str()) == (36, 35, true, "cgroup"));
        assert!(mount.has_parameter("name=systemd") && !mount.has_parameter("systemd"));
        let plain = Mount::parse(b"1 0 0:1 / / rw - tmpfs  rw,errors=remount-ro").expect("mount");
        assert!(!plain.read_only && plain.kind == "tmpfs");
        for bad in [&b""[..], b"1 2 3", b"x 1 0:1 / / rw - a b c", b"1 0 0:1 / / rw tmpfs tmpfs rw"] {
            assert_eq!(Mount::parse(bad), None);
        }
    }

    #[test]
    fn what_lies_below_a_read_only_tree_is_read_only_unless_the_document_says_so() {
        let mounts = |options: [&str; 5]| -> Vec<Mount> {
            let lines = [(1, 0, "/"), (2, 1, "/usr"), (3, 2, "/usr/local"), (4, 3, "/usr/local/x"), (5, 1, "/sys")];
            let line = |((id, parent, point), options)| format!("{id} {parent} 0:1 / {point} {options} - tmpfs t rw");
            let lines = lines.into_iter().zip(options).map(line);
            lines.map(|line| Mount::parse(line.as_bytes()).expect("mount")).collect()
        };
        let ours = HashMap::from([(1, ReadOnly::No), (2, ReadOnly::Tree), (5, ReadOnly::Top)]);
        assert_eq!(writable(&mounts(["rw", "ro", "ro", "ro", "ro"]), &ours), None);
        assert_eq!(writable(&mounts(["rw", "ro", "ro", "rw", "ro"]), &ours), Some(Path::new("/usr/local/x")));
        assert_eq!(writable(&mounts(["rw", "rw", "ro", "ro", "ro"]), &ours), Some(Path::new("/usr")));
        assert_eq!(writable(&mounts(["rw", "ro", "ro", "ro", "rw"]), &ours), Some(Path::new("/sys")));
        let wanted = HashMap::from([(2, ReadOnly::Tree), (3, ReadOnly::No)]);
        assert_eq!(writable(&mounts(["rw", "ro", "rw", "rw", "rw"]), &wanted), None);
    }
}
