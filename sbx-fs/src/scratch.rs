//! A directory for one test, which goes with it.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether owners, devices and `trusted.` attributes can be had here. A test that needs them says that it is skipped.
pub fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        assert!(std::env::var_os("SBX_MUST_WORK").is_none(), "needs root");
        eprintln!("skipped: needs root");
    }
    is_root
}

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sbx-fs-{test}-{}", std::process::id()));
        fs::create_dir(&path).expect("scratch directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that fails may leave what cannot be removed: its own message counts.
        let _ = fs::remove_dir_all(&self.0);
    }
}
