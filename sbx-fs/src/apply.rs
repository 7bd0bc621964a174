//! The private tree: how it is made, and how it goes.

use anyhow::{Result, bail};
use sbx::{Document, Name};
use std::path::PathBuf;

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Wish {
    pub copy: bool,
    pub packages: Vec<String>,
    pub secrets: Vec<PathBuf>,
}

pub fn clone(_doc: &mut Document, _wish: &Wish, _act: bool) -> Result<()> {
    bail!("clone is not there yet")
}

pub fn remove(_name: &Name) -> Result<()> {
    bail!("remove is not there yet")
}
