//! Brings a container's network up.

use crate::edit;
use crate::netlink::Route;
use anyhow::{Context, Result, ensure};
use nix::sched::CloneFlags;
use sbx::Document;
use sbx::namespace;

/// The index of the loopback interface: the first that a network namespace has.
const LOOPBACK: u32 = 1;

/// Sets the loopback interface up, in the container's own network namespace. Without one there is nothing to do: the
/// host's is never touched.
pub fn up(doc: &Document, act: bool) -> Result<()> {
    let name = doc.name()?;
    ensure!(edit::of(doc)?.interfaces.is_empty(), "sbx.net.interfaces: only loopback can be brought up");
    let holder = sbx::holder::of(doc)?.with_context(|| format!("container {name} is not running"))?;
    let own = namespace::flags(doc)?.contains(CloneFlags::CLONE_NEWNET);
    if !act || !own {
        return Ok(());
    }
    namespace::join(&holder, CloneFlags::CLONE_NEWNET)?;
    Route::open()?.set_up(LOOPBACK).with_context(|| format!("cannot set the loopback interface of {name} up"))
}
