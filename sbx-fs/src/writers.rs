//! Who writes files that are about to be copied: a copy of a database's files that changes underneath is worth nothing.

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, OFlags, Statx, StatxFlags, statx};
use sbx::tree::{Id, Node, walk};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The files that processes have open to write anywhere in them, and which process it is. One that only appends, as
/// to a log, does no harm: what is copied was all of it at some time.
pub struct Writers(HashMap<Id, PathBuf>);

impl Writers {
    /// As it is now: a process may end, close and open at any time.
    pub fn now() -> Result<Self> {
        let is_process = |name: &OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
        let processes = fs::read_dir("/proc").context("cannot read /proc")?.flatten();
        let processes = processes.filter(|entry| is_process(&entry.file_name())).map(|entry| entry.path());
        let written = processes.flat_map(|process| {
            let descriptors = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
            let written = descriptors.filter(|entry| fs::read_to_string(entry.path()).is_ok_and(|info| writes(&info)));
            written.filter_map(move |entry| {
                let file = process.join("fd").join(entry.file_name());
                let stat = statx(CWD, file, AtFlags::empty(), StatxFlags::BASIC_STATS).ok()?;
                Some((id(&stat), process.clone()))
            })
        });
        let mut files = HashMap::new();
        for (file, process) in written {
            // Whoever inherited it comes after whoever opened it, as a rule.
            files.entry(file).or_insert(process);
        }
        Ok(Self(files))
    }

    /// Fails, naming the process, if it writes a file.
    pub fn refuse(&self, stat: &Statx) -> Result<()> {
        let Some(process) = self.0.get(&id(stat)) else { return Ok(()) };
        bail!("it is being written by {}: stop it first, or copy all the same with --force", told(process));
    }
}

/// Fails, naming it, if a regular file below `paths`, but for those that are left out, is being written.
pub fn refuse(root: impl AsFd, paths: &[&Path], is_left_out: impl Fn(&Path) -> bool) -> Result<()> {
    let writers = Writers::now()?;
    for path in paths {
        let Some(node) = Node::beneath(&root, path)? else { continue };
        let mut place = path.to_path_buf();
        walk(&node, &mut place, |node, path| {
            if node.kind() == FileType::RegularFile && !path.ancestors().any(&is_left_out) {
                writers.refuse(&node.stat)?;
            }
            Ok(())
        })
        .with_context(|| format!("cannot copy {}", place.display()))?;
    }
    Ok(())
}

fn id(stat: &Statx) -> Id {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

/// Whether the flags of a descriptor (proc_pid_fdinfo(5)) let it write anywhere in its file.
fn writes(info: &str) -> bool {
    let flags = info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    let flags = OFlags::from_bits_retain(flags.unwrap_or_default());
    flags.intersects(OFlags::WRONLY | OFlags::RDWR) && !flags.contains(OFlags::APPEND)
}

/// A process as its administrator knows it: by its program and its unit.
fn told(process: &Path) -> String {
    let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
    let cgroup = read("cgroup");
    let unit = cgroup.split(['/', '\n']).find(|part| part.ends_with(".service"));
    let pid = process.file_name().unwrap_or_default().display();
    let of = unit.map(|unit| format!(" of {unit}")).unwrap_or_default();
    format!("{} (process {pid}{of})", read("comm").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs::File;

    #[test]
    fn who_writes_is_named_and_who_appends_or_reads_is_not() {
        let scratch = Scratch::new("writers");
        let open = || File::open(scratch.path()).expect("scratch");
        let path = scratch.path().join("d/data");
        fs::create_dir(scratch.path().join("d")).expect("directory");
        fs::write(&path, "").expect("file");
        let refused = |path: &str| {
            refuse(open(), &[Path::new(path)], |path| path.ends_with("left")).map_err(|error| format!("{error:#}"))
        };
        let reader = File::open(&path).expect("file");
        let appender = File::options().append(true).open(&path).expect("file");
        assert_eq!(refused("/d"), Ok(()));
        for writer in [File::options().write(true).open(&path), File::options().read(true).write(true).open(&path)] {
            let error = refused("/d").expect_err("is written");
            assert!(error.starts_with("cannot copy /d/data: it is being written by "), "{error}");
            assert!(error.contains(&format!("(process {}", std::process::id())), "{error}");
            assert_eq!(refused("/none"), Ok(()));
            drop(writer);
        }
        assert_eq!(refused("/d"), Ok(()));
        fs::create_dir(scratch.path().join("left")).expect("directory");
        let _writer = File::create(scratch.path().join("left/data")).expect("file");
        assert_eq!(refused("/"), Ok(()));
        drop((reader, appender));
    }
}
