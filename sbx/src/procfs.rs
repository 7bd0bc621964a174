//! A procfs that is known to be one.
//!
//! What is at /proc may be anything: in a container whatever its root has put there, and a mount over one of its files
//! swallows what is written to it, such as a label (CVE-2019-16884, CVE-2025-52881).

use crate::mount;
use crate::mountinfo::{self, Mount};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat, openat2, statat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The inode of the root of every procfs (`PROC_ROOT_INO` of the kernel's linux/proc_fs.h).
const ROOT_INODE: u64 = 1;

/// How many bytes hold most files of the kernel's, which tell no size.
const USUAL: usize = 4 << 10;

/// Reads a file of the kernel's from wherever it is.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    whole(File::open(path)?)
}

fn whole(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A procfs of the PID namespace that it was opened in. It still leads there when the namespaces have been left, and
/// shows the caller's namespaces as they are when it is read.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// A procfs of the caller's own, attached nowhere, on which nobody can mount anything. Whoever may not have one,
    /// such as a process in a user namespace that sees part of a procfs only (user_namespaces(7)), gets the one at
    /// /proc, if it is one, and of it what nothing is mounted over.
    pub fn open() -> Result<Self> {
        let failed = "cannot open a procfs";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_forbidden = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(&(Errno::PERM | Errno::ACCESS)));
        let root = match mount::new("proc", Path::new("proc"), &[]) {
            Err(error) if is_forbidden(&error) => openat(CWD, "/proc", flags, Mode::empty()).context(failed)?,
            mount => mount.context(failed)?,
        };
        let is_procfs = fstatfs(&root).context(failed)?.f_type == PROC_SUPER_MAGIC
            && fstat(&root).context(failed)?.st_ino == ROOT_INODE;
        ensure!(is_procfs, "/proc is not procfs");
        Ok(Self(root))
    }

    /// Opens a file that is the procfs's own: nothing that is mounted on it, and nothing that a link of the kernel's
    /// leads to, such as an open file or a namespace.
    pub fn open_at(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<File> {
        let path = path.as_ref();
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::XDEV) => bail!("something is mounted over /proc/{}", path.display()),
            file => Ok(file.with_context(|| format!("cannot open /proc/{}", path.display()))?.into()),
        }
    }

    /// Opens what a link of the kernel's leads to, such as a namespace.
    pub fn follow(&self, link: &str) -> Result<OwnedFd> {
        let opened = openat(&self.0, link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        opened.with_context(|| format!("cannot open /proc/{link}"))
    }

    /// Reads a file.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        whole(self.open_at(path, OFlags::RDONLY)?).with_context(|| format!("cannot read /proc/{}", path.display()))
    }

    /// Writes a file, in one call, as the kernel wants it.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let path = path.as_ref();
        let file = self.open_at(path, OFlags::WRONLY)?;
        let written = rustix::io::write(&file, bytes).with_context(|| format!("cannot write /proc/{}", path.display()));
        ensure!(written? == bytes.len(), "/proc/{} has taken a part only", path.display());
        Ok(())
    }

    /// Writes a file of the calling thread's, such as `attr/exec`.
    pub fn write_self(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.write(Path::new("thread-self").join(path), bytes)
    }

    /// The mounts that the caller sees now.
    pub fn mounts(&self) -> Result<Vec<Mount>> {
        mountinfo::parse(&self.read("thread-self/mountinfo")?)
    }

    /// Device and inode of what a link of the kernel's leads to, such as `self/root`.
    pub fn identity(&self, link: &str) -> Result<(u64, u64)> {
        let stat = statat(&self.0, link, AtFlags::empty()).with_context(|| format!("cannot read /proc/{link}"))?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    /// Each thread has a name, and mounts if it wants.
    fn in_mounts_of_its_own(work: impl FnOnce() + Send + 'static) {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNS).expect("only root can try this");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("mount");
            work();
        };
        std::thread::spawn(work).join().expect("thread");
    }

    fn bind(source: &str, target: &str) {
        mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mount");
    }

    #[test]
    fn what_is_mounted_over_a_file_swallows_no_write() {
        in_mounts_of_its_own(|| {
            let shown = Procfs(openat(CWD, "/proc", OFlags::PATH, Mode::empty()).expect("/proc"));
            shown.write_self("comm", b"before").expect("write");
            bind("/dev/null", "/proc/thread-self/comm");
            std::fs::write("/proc/thread-self/comm", "swallowed").expect("write");
            let own = Procfs::open().expect("procfs");
            assert_eq!(own.read("thread-self/comm").expect("read"), b"before\n");
            own.write_self("comm", b"after").expect("write");
            assert_eq!(own.read("thread-self/comm").expect("read"), b"after\n");
            let error = shown.write_self("comm", b"swallowed").expect_err("written").to_string();
            assert!(error.contains("something is mounted over"), "{error}");
            assert!(own.open_at("thread-self/exe", OFlags::RDONLY).is_err(), "a link of the kernel's was followed");
        });
    }

    #[test]
    fn what_is_mounted_over_proc_is_not_asked() {
        in_mounts_of_its_own(|| {
            bind("/", "/proc");
            assert!(std::fs::read("/proc/self/stat").is_err());
            assert!(Procfs::open().expect("procfs").read("self/stat").is_ok());
        });
    }
}
