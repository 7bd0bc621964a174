//! File systems that are mounted by descriptor (fsopen(2), Linux 5.2), and attached nowhere yet.

use crate::store;
use crate::sys::{self, Child};
use anyhow::{Context, Error, Result, anyhow};
use rustix::fs::{Mode, OFlags};
use rustix::io::{DupFlags, Errno, dup3};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A key, and a value if it is not a flag.
pub type Parameter = (String, Option<String>);

/// How often another free loop device is asked for, where somebody else was quicker.
const TRIES: usize = 64;

/// A context for a file system of `kind`: [`set_up`].
pub fn configure(kind: &str, source: &Path, parameters: &[Parameter]) -> Result<OwnedFd> {
    set_up(open(kind)?, source, parameters)
}

/// A context for a file system of `kind`. It belongs to the namespaces in which this is called, and shows their processes,
/// interfaces or cgroups.
pub fn open(kind: &str) -> rustix::io::Result<OwnedFd> {
    fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
}

/// A context that a child opens in its own namespaces: in another PID namespace than this process, where this one has joined
/// that (setns(2)).
#[derive(Debug)]
pub struct Opening {
    child: Child,
    /// The child has not a copy of the descriptors but the same, of which this one becomes the context.
    place: OwnedFd,
}

impl Opening {
    /// Begins to open it.
    pub fn begin(kind: &str) -> Result<Self> {
        let mut place = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let Some(child) = sys::clone3(nix::libc::CLONE_FILES, None).context("cannot fork")? else {
            let opened = open(kind).and_then(|context| dup3(&context, &mut place, DupFlags::CLOEXEC));
            sys::exit(opened.map_or_else(Errno::raw_os_error, |()| 0));
        };
        Ok(Self { child, place })
    }

    /// The context, once it is there.
    pub fn end(self) -> Result<OwnedFd> {
        match self.child.wait()? {
            0 => Ok(self.place),
            errno => Err(Errno::from_raw_os_error(errno.into()).into()),
        }
    }
}

/// A context with parameters that the kernel has understood.
pub fn set_up(context: OwnedFd, source: &Path, parameters: &[Parameter]) -> Result<OwnedFd> {
    let told = |set: rustix::io::Result<()>| set.map_err(|error| explain(&context, error));
    told(fsconfig_set_string(&context, "source", source))?;
    for (key, value) in parameters {
        told(match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        })?;
    }
    Ok(context)
}

/// Makes the file system: a mount without attributes.
pub fn create(context: &OwnedFd) -> Result<OwnedFd> {
    fsconfig_create(context).map_err(|error| explain(context, error))?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Both in one.
pub fn new(kind: &str, source: &Path, parameters: &[Parameter]) -> Result<OwnedFd> {
    create(&configure(kind, source, parameters)?)
}

/// What the kernel says of a failure: a line such as `e tmpfs: Unknown parameter 'x'`, or else the number.
fn explain(context: &OwnedFd, error: Errno) -> Error {
    let mut line = [0; 256];
    let length = rustix::io::read(context, &mut line).unwrap_or_default();
    match line.get(2..length) {
        Some(text) => Error::new(error).context(String::from_utf8_lossy(text).trim_end().to_owned()),
        None => error.into(),
    }
}

/// The loop device that a file has, if any, and what keeps it meanwhile.
pub fn loop_device_of(file: &File) -> Result<Option<(PathBuf, File)>> {
    let wanted = file.metadata().map(|file| (file.dev(), file.ino()))?;
    for block in store::entries(Path::new("/sys/block"))? {
        let Some(name) = block.file_name().filter(|_| block.join("loop").is_dir()) else { continue };
        let path = Path::new("/dev").join(name);
        // One that is gone by now was not mounted. Not for writing, of which others would be told (udev(7)).
        let Ok(device) = File::open(&path) else { continue };
        // Nobody can take it away while it is open.
        if sys::loop_file(&device).is_ok_and(|has| has == wanted) {
            return Ok(Some((path, device)));
        }
    }
    Ok(None)
}

/// A block device of a file's content (loop(4)): its path, and what keeps it until it is mounted. When nobody has it
/// any more the kernel takes it back, and only then lets go of `file`.
pub fn loop_device(file: &File, read_only: bool) -> Result<(PathBuf, File)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control");
    let control = control.context("cannot open /dev/loop-control")?;
    for _ in 0..TRIES {
        let path = PathBuf::from(format!("/dev/loop{}", sys::loop_get_free(&control)?));
        let device = File::options().read(true).write(!read_only).open(&path);
        let device = device.with_context(|| format!("cannot open {}", path.display()))?;
        match sys::loop_configure(&device, file, read_only) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {}
            configured => {
                configured.with_context(|| format!("cannot set up {}", path.display()))?;
                return Ok((path, device));
            }
        }
    }
    Err(anyhow!("no loop device is free"))
}
