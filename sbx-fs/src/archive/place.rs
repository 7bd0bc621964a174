//! Where a member of an archive is to be.

use super::ROOT;
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The path in the private tree, absolute there, that a member's path stands for. One that is anywhere else, or that
/// does not go straight down, is refused (CVE-2001-1267, CVE-2016-6321).
pub fn in_tree(member: &Path) -> Result<PathBuf> {
    let parts = parts(member)?;
    let (root, below) = parts.split_first().context("it has no path")?;
    ensure!(*root == ROOT.as_bytes(), "it is not beneath {ROOT}/");
    Ok([OsStr::new("/")].into_iter().chain(below.iter().map(|part| OsStr::from_bytes(part))).collect())
}

/// Whether a member is the one of this name.
pub fn is(member: &Path, name: &str) -> bool {
    parts(member).is_ok_and(|parts| parts == [name.as_bytes()])
}

/// The components of a path. `./` before it, and `/` behind it, are as other programs write the same.
fn parts(member: &Path) -> Result<Vec<&[u8]>> {
    let path = member.as_os_str().as_bytes();
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let parts: Vec<_> = path.split(|byte| *byte == b'/').collect();
    ensure!(!parts.iter().any(|part| matches!(*part, b"" | b"." | b"..")), "its path does not go straight down");
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_straight_below_the_root_of_the_tree() {
        let place = |path: &str| in_tree(path.as_ref()).map(|path| path.display().to_string()).ok();
        for (path, expected) in [("root", "/"), ("root/", "/"), ("./root/etc/", "/etc"), ("root/etc/x y", "/etc/x y")] {
            assert_eq!(place(path).as_deref(), Some(expected), "{path}");
        }
        for path in [
            "",
            ".",
            "/",
            "./",
            "/root/x",
            "//root/x",
            "../root/x",
            "root/../x",
            "root/x/..",
            "root//x",
            "root/./x",
            "root/x//",
            "././root/x",
            "rootx/y",
            "etc/passwd",
            "manifest",
            "root/..",
        ] {
            assert_eq!(place(path), None, "{path}");
        }
        assert!(is("./manifest".as_ref(), "manifest") && !is("root/manifest".as_ref(), "manifest"));
    }
}
