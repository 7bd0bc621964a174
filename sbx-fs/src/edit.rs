//! What the document says of the file system.

use anyhow::{Result, bail};
use sbx::Document;
use std::path::Path;

pub fn layout(_doc: &mut Document, _host: &Path) -> Result<()> {
    bail!("layout is not there yet")
}
