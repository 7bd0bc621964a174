//! The labels of the files of a private tree: what they are, and how they are changed.
//!
//! Nothing is reached by its path but the tree itself, once. What a walk meets is looked at and labelled by one
//! descriptor, so that it is the same inode whatever happens to its name meanwhile.

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, getxattr, openat, setxattr};
use rustix::io::Errno;
use sbx::tree::{Id, Node, link, walk};
use sbx::{Document, landlock, storage, store};
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where a file has its label (xattr(7)).
const ATTRIBUTE: &str = "security.selinux";

/// The longest label: the kernel writes it into one page.
const LONGEST: usize = 4096;

/// What the host starts and runs from: nothing in it is a container's.
const HOST: [&str; 11] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"];

/// What other things lie in: a tree may be below, but it is none of these.
const SHARED: [&str; 14] = [
    "/",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// A private tree.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    root: Node,
}

impl Tree {
    /// The tree of a document.
    pub fn of(doc: &Document) -> Result<Self> {
        let path = store::tree_of(doc)?;
        Self::private(storage::open(doc)?, &path)
    }

    /// The tree at `path`, if there is one. What leads to it is the administrator's, and may be a link.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(CWD, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            root => {
                let root = root.with_context(|| format!("cannot open {}", path.display()))?;
                Self::private(root, path).map(Some)
            }
        }
    }

    fn private(root: OwnedFd, path: &Path) -> Result<Self> {
        let failed = || format!("cannot open {}", path.display());
        let root = Node::of(root).with_context(failed)?;
        ensure!(is_private(&root).with_context(failed)?, "{} is a directory of the host", path.display());
        Ok(Self { path: path.to_owned(), root })
    }

    /// Gives every file the label that `wanted` has for the one that it has, if any. If `act` is not set, or if
    /// there is one that may not be labelled, none is.
    pub fn change<'a>(&self, act: bool, wanted: impl Fn(Option<&str>) -> Option<&'a str> + Send) -> Result<()> {
        landlock::writing_only_below(&[], || self.change_each(act, wanted))
    }

    fn change_each<'a>(&self, act: bool, wanted: impl Fn(Option<&str>) -> Option<&'a str>) -> Result<()> {
        let mut changes = false;
        // Files of several names, by the number of those not yet seen: one outside of the tree is not ours to label.
        let mut unseen: HashMap<Id, (u32, PathBuf)> = HashMap::new();
        self.each(|node, path, found| {
            if wanted(found).is_none() {
                return Ok(());
            }
            changes = true;
            if is_linked(node) {
                let (names, _) = unseen.entry(node.id()).or_insert_with(|| (node.stat.stx_nlink, path.to_owned()));
                *names = names.saturating_sub(1);
            }
            Ok(())
        })?;
        if let Some((_, path)) = unseen.values().find(|(names, _)| *names > 0) {
            bail!("{}: {} has a hard link outside of it", self.path.display(), path.display());
        }
        if !act || !changes {
            return Ok(());
        }
        self.each(|node, _, found| {
            let Some(label) = wanted(found) else { return Ok(()) };
            ensure!(!is_linked(node) || unseen.contains_key(&node.id()), "it was linked meanwhile");
            set(node, label).with_context(|| format!("cannot label it {label}"))
        })
    }

    /// The label of the directory that the tree is in.
    pub fn label_around(&self) -> Result<Option<String>> {
        get(&self.root.enter()?.above()?)
            .with_context(|| format!("cannot read the label around {}", self.path.display()))
    }

    /// Visits every file, a directory before what is in it, with its path in the container and its label, if any.
    pub fn each(&self, mut visit: impl FnMut(&Node, &Path, Option<&str>) -> Result<()>) -> Result<()> {
        let mut path = PathBuf::from("/");
        let visit = |node: &Node, path: &Path| {
            ensure!(node.stat.stx_mnt_id == self.root.stat.stx_mnt_id, "it is a mount point");
            visit(node, path, get(node).context("cannot read its label")?.as_deref())
        };
        walk(&self.root, &mut path, visit).with_context(|| format!("{}: {}", self.path.display(), path.display()))
    }
}

/// Whether a directory can be a container's: not one of the host's, by whatever path or mount it was reached.
fn is_private(root: &Node) -> Result<bool> {
    let ids = |paths: &[&str]| -> Result<Vec<Id>> {
        let nodes = paths.iter().map(|path| match openat(CWD, *path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            fd => Ok(Some(Node::of(fd?)?.id())),
        });
        nodes.filter_map(Result::transpose).collect()
    };
    if ids(&SHARED)?.contains(&root.id()) {
        return Ok(false);
    }
    let host = ids(&HOST)?;
    let mut here = root.enter()?;
    loop {
        if host.contains(&here.id()) {
            return Ok(false);
        }
        let above = here.above()?;
        if above.id() == here.id() {
            return Ok(true);
        }
        here = above;
    }
}

/// Whether other names may lead to it.
fn is_linked(node: &Node) -> bool {
    !node.is_directory() && node.stat.stx_nlink > 1
}

/// The label of an inode.
fn get(node: &Node) -> Result<Option<String>> {
    let mut label = Vec::with_capacity(LONGEST);
    match getxattr(link(node), ATTRIBUTE, spare_capacity(&mut label)) {
        // It has none, or its file system knows none.
        Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
        read => read?,
    };
    // The kernel and libselinux count the zero behind it.
    while label.pop_if(|byte| *byte == 0).is_some() {}
    String::from_utf8(label).map(Some).context("it is not UTF-8")
}

fn set(node: &Node, label: &str) -> Result<()> {
    let value = CString::new(label)?;
    Ok(setxattr(link(node), ATTRIBUTE, value.as_bytes_with_nul(), XattrFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, lgetxattr, lsetxattr, mknodat};
    use std::fs;
    use std::os::unix::fs::symlink;

    const OURS: &str = "system_u:object_r:sbx_file_t:s0:c1,c2";

    /// A store with a tree of all kinds of files, where labels can be had: on tmpfs by root, also without SELinux.
    struct Case(PathBuf);

    impl Case {
        fn new(test: &str) -> Option<Self> {
            let path = std::env::temp_dir().join(format!("sbx-label-{test}-{}", std::process::id()));
            fs::create_dir_all(path.join("root/etc/deep")).expect("directory");
            let case = Self(path);
            if !rustix::process::geteuid().is_root() {
                assert!(std::env::var_os("SBX_MUST_WORK").is_none(), "needs root");
                eprintln!("skipped: needs root");
                return None;
            }
            fs::write(case.0.join("canary"), "").expect("file");
            fs::write(case.0.join("root/etc/deep/file"), "").expect("file");
            fs::hard_link(case.0.join("root/etc/deep/file"), case.0.join("root/etc/second")).expect("link");
            symlink(case.0.join("canary"), case.0.join("root/etc/link")).expect("link");
            symlink(&case.0, case.0.join("root/out")).expect("link");
            let fifo = case.0.join("root/fifo");
            mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).expect("fifo");
            for path in ["canary", "root", "root/etc/deep/file", "root/etc/link"] {
                case.set(path, "u:object_r:etc_t:s0");
            }
            Some(case)
        }

        fn set(&self, path: &str, label: &str) {
            lsetxattr(self.0.join(path), ATTRIBUTE, label.as_bytes(), XattrFlags::empty()).expect(path);
        }

        fn label(&self, path: &str) -> String {
            let mut label = Vec::with_capacity(LONGEST);
            match lgetxattr(self.0.join(path), ATTRIBUTE, spare_capacity(&mut label)) {
                Err(Errno::NODATA) => String::new(),
                read => read.map(|_| String::from_utf8(label).expect(path)).expect(path),
            }
        }

        fn tree(&self) -> Result<Tree> {
            Tree::at(&self.0.join("root")).map(|tree| tree.expect("a tree"))
        }

        fn relabel(&self, act: bool) -> Result<()> {
            self.tree()?.change(act, |found| (found != Some(OURS)).then_some(OURS))
        }

        /// How many files of the tree have another label.
        fn drift(&self) -> usize {
            let mut drift = 0;
            let count = |_: &Node, _: &Path, found: Option<&str>| {
                drift += usize::from(found != Some(OURS));
                Ok(())
            };
            self.tree().and_then(|tree| tree.each(count)).expect("walk");
            drift
        }
    }

    impl Drop for Case {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_file_of_the_tree_gets_the_label_and_nothing_that_a_link_leads_to() {
        let Some(case) = Case::new("all") else { return };
        case.relabel(false).expect("dry run");
        assert_eq!(case.drift(), 8);
        case.relabel(true).expect("relabel");
        assert_eq!(case.drift(), 0);
        for path in ["root", "root/etc/deep/file", "root/etc/link", "root/fifo"] {
            assert_eq!(case.label(path), format!("{OURS}\0"), "{path}");
        }
        assert_eq!(case.label("canary"), "u:object_r:etc_t:s0");
        assert_eq!(case.label("."), "");
        assert!(Tree::at(&case.0.join("none")).expect("nothing there").is_none());
    }

    #[test]
    fn a_file_with_a_name_outside_of_the_tree_is_refused_before_any_is_labelled() {
        let Some(case) = Case::new("linked") else { return };
        fs::hard_link(case.0.join("canary"), case.0.join("root/etc/zz")).expect("link");
        let error = case.relabel(true).expect_err("a link outside").to_string();
        assert!(error.contains("/etc/zz has a hard link outside"), "{error}");
        assert_eq!(case.drift(), 9);
        // One that has the label already, as a backup of hard links has, is left alone.
        case.set("canary", OURS);
        case.relabel(true).expect("relabel");
        assert_eq!(case.label("canary"), OURS);
    }

    #[test]
    fn a_directory_of_the_host_is_no_tree_however_it_is_reached() {
        let Some(case) = Case::new("host") else { return };
        for host in
            HOST.iter().chain(&SHARED).chain(&["/usr/lib", "/usr/share/doc"]).filter(|path| Path::new(path).is_dir())
        {
            let by_way_of = case.0.join("by");
            symlink(Path::new(host).join(".."), &by_way_of).expect("link");
            let name = Path::new(host).file_name().unwrap_or(".".as_ref());
            let path = by_way_of.join(name);
            // Which ones are links themselves depends on the host.
            let error = Tree::at(&path).expect_err(host);
            let is_link = fs::symlink_metadata(&path).expect(host).is_symlink();
            assert!(is_link || error.to_string().ends_with("is a directory of the host"), "{host}: {error:#}");
            fs::remove_file(by_way_of).expect("link");
        }
        symlink(case.0.join("root"), case.0.join("again")).expect("link");
        assert!(Tree::at(&case.0.join("again")).is_err());
    }
}
