//! File systems of the kernel's, which come from nowhere on the host.

use super::plan::Attributes;
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, XattrFlags, fsetxattr, openat};
use sbx::ids::Ids;
use sbx::mount::{self, Opening, Parameter};
use sbx::passwd;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What shows processes.
const PROC: &str = "proc";

/// The file systems that a container may have, how each takes an SELinux label, and whether what it shows depends on the
/// namespaces in which it is configured.
const KINDS: [(&str, Labelling, bool); 7] = [
    (PROC, Labelling::None, true),
    ("sysfs", Labelling::None, true),
    ("tmpfs", Labelling::Context, false),
    ("devpts", Labelling::Context, false),
    ("mqueue", Labelling::Root, true),
    ("cgroup", Labelling::None, true),
    ("cgroup2", Labelling::None, true),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Labelling {
    /// The policy says what is what.
    None,
    /// By the parameter `context`, for all that is ever in it.
    Context,
    /// On its root directory: the kernel made it together with the IPC namespace, without a context.
    Root,
}

/// Whose a file system is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owner<'a> {
    /// The label of all that is in it.
    pub label: Option<&'a str>,
    /// Whose ids inside are not the host's.
    pub ids: Option<Ids>,
}

/// Gives a file system to root inside, or to those whom its parameters name as they are known inside. The kernel takes
/// the ids of whoever mounts it, which is the host's root.
fn own(kind: &str, parameters: &mut Vec<Parameter>, ids: Ids) -> Result<()> {
    let has_owner = kind == "tmpfs";
    for (name, first) in [("uid", ids.uid), ("gid", ids.gid)] {
        match parameters.iter_mut().find(|(key, _)| key == name) {
            Some((_, value)) => {
                let inside = value.as_deref().and_then(passwd::id).filter(|id| *id < ids.size);
                let inside = inside
                    .with_context(|| format!("{name}={} is not an id inside", value.as_deref().unwrap_or_default()))?;
                *value = Some((first + inside).to_string());
            }
            None if has_owner => parameters.push((name.to_owned(), Some(first.to_string()))),
            None => {}
        }
    }
    Ok(())
}

/// A file system to be made.
#[derive(Debug)]
pub struct FileSystem {
    pub kind: &'static str,
    pub attributes: Attributes,
    parameters: Vec<Parameter>,
    root_label: Option<String>,
    /// Whether it is to be configured in the namespaces in which it is to be.
    pub shows_namespaces: bool,
}

impl FileSystem {
    /// One of `kind`, with parameters of the form `KEY` or `KEY=VALUE`.
    pub fn new(kind: &str, parameters: &[&str], attributes: Attributes, owner: Owner<'_>) -> Result<Self> {
        let known = KINDS.iter().find(|(known, ..)| *known == kind);
        let (kind, labelling, shows_namespaces) = *known.with_context(|| format!("type {kind:?} is not supported"))?;
        let parameter = |text: &&str| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => ((*text).to_owned(), None),
        };
        let mut parameters: Vec<_> = parameters.iter().map(parameter).collect();
        if let Some(ids) = owner.ids {
            own(kind, &mut parameters, ids)?;
        }
        let label_for = |way| owner.label.filter(|_| labelling == way).map(str::to_owned);
        // Not quoted, as it would be for mount(8): here a comma separates nothing.
        parameters.extend(label_for(Labelling::Context).map(|label| ("context".to_owned(), Some(label))));
        Ok(Self { kind, attributes, parameters, root_label: label_for(Labelling::Root), shows_namespaces })
    }

    /// A context with all parameters, which the kernel has understood: [`mount::configure`].
    pub fn configure(&self) -> Result<OwnedFd> {
        mount::configure(self.kind, Path::new(self.kind), &self.parameters)
    }

    /// Begins to open what shows processes, if that is what it is: those of the PID namespace that this process's children
    /// are in, and itself is not.
    pub fn begin(&self) -> Result<Option<Opening>> {
        (self.kind == PROC).then(|| Opening::begin(PROC)).transpose()
    }

    /// The same as [`FileSystem::configure`] in the namespaces that this process has joined, with what has been begun.
    pub fn configure_inside(&self, begun: Option<Opening>) -> Result<OwnedFd> {
        let context = begun.map_or_else(|| Ok(mount::open(self.kind)?), Opening::end)?;
        mount::set_up(context, Path::new(self.kind), &self.parameters)
    }

    /// Makes it of its context: a mount that is attached nowhere yet, and has no attributes yet.
    pub fn make(&self, context: &OwnedFd) -> Result<OwnedFd> {
        let mount = mount::create(context)?;
        if let Some(label) = &self.root_label {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(&mount, ".", flags, Mode::empty())
                .and_then(|root| fsetxattr(root, "security.selinux", label.as_bytes(), XattrFlags::empty()))
                .with_context(|| format!("cannot label it {label}"))?;
        }
        Ok(mount)
    }
}
