//! A container as an archive: its definition, its manifest, and its private tree beneath `root/`.

mod definition;
mod export;
mod import;
pub mod place;

pub use export::export;
pub use import::{Terms, import, unpack};

/// The first member: what of the definition is not the host's.
const DEFINITION: &str = "definition.json";

/// The second one.
const MANIFEST: &str = "manifest";

/// What the paths of the private tree begin with.
const ROOT: &str = "root";
