//! Claims of levels, and what this host's policy offers.

use crate::edit::Types;
use crate::files::Tree;
use crate::level::{Choice, Level};
use crate::reserved;
use anyhow::{Context, Result, anyhow, ensure};
use sbx::claim::Claims;
use sbx::storage::Storage;
use sbx::{Document, Name, store, tool};
use selinux::{KernelSupport, SecurityContext};
use serde_json::json;
use std::collections::HashSet;
use std::ffi::CString;
use std::fs;

/// The registry of levels.
const KIND: &str = "mcs";

/// The types that our own policy module has.
const OURS: (&str, &str) = ("sbx_t", "sbx_file_t");

/// The pair of `name`: the one that it holds, or else a free one of the choice, claimed if `act`.
pub fn claim(name: &Name, choice: Choice, act: bool) -> Result<Level> {
    let claims = Claims::of(KIND);
    if let Some(held) = claims.held_by(name)? {
        let held: Level = held.parse().map_err(|error| anyhow!("claim of {name}: {error}"))?;
        ensure!(!matches!(choice, Choice::Pair(pair) if pair != held), "container {name} has the pair {held}");
        return Ok(held);
    }
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).context("cannot get random bytes")?;
    let taken: HashSet<String> = claims.list()?.into_iter().map(|(level, _)| level).collect();
    let reserved = reserved::levels()?;
    let pairs = choice.pairs(u64::from_ne_bytes(random)).filter(|pair| !reserved.contains(pair));
    let mut free = pairs.map(|pair| pair.to_string()).filter(|pair| !taken.contains(pair));
    let level = if act { claims.take(name, free)? } else { free.next() };
    let level = level.with_context(|| match choice {
        Choice::Pair(pair) => format!("the pair {pair} is not free for {name}"),
        Choice::Range(..) => format!("no pair of categories is free for {name}"),
    })?;
    level.parse().map_err(|error: String| anyhow!(error))
}

/// All claims as a JSON array.
pub fn list() -> Result<Vec<u8>> {
    let claims = Claims::of(KIND).list()?;
    let claims: Vec<_> =
        claims.into_iter().map(|(level, name)| json!({ "name": name, "level": format!("s0:{level}") })).collect();
    Ok(format!("{}\n", json!(claims)).into_bytes())
}

/// Gives back what `name` holds, once no file of its tree has it: those get the label of the directory that the tree
/// is in.
pub fn remove(name: &Name) -> Result<()> {
    let claims = Claims::of(KIND);
    if is_enabled()
        && let Some(level) = claims.held_by(name)?.map(|pair| format!(":{pair}"))
        && let Some(tree) = Tree::at(&store::tree(name))?
    {
        let plain = tree.label_around()?;
        tree.change(true, |found| found.filter(|label| label.ends_with(&level)).and(plain.as_deref()))?;
    }
    claims.release(name)
}

/// Gives every file of the private tree the label that the document has for it. Where SELinux is off, or where the
/// document has none, they stay as they are.
pub fn relabel(doc: &Document, act: bool) -> Result<()> {
    let name = doc.name()?;
    let Some(label) = doc.read::<String>("linux.mountLabel")? else { return Ok(()) };
    if !is_enabled() {
        tool::note("sbx-label", &format!("SELinux is off: the label of {name} has no effect"));
        return Ok(());
    }
    let label = known(&label)?;
    if !Storage::of(doc)?.labels_files() || !act && !store::container(&name).exists() {
        // Or a dry run of clone has made none.
        return Ok(());
    }
    Tree::of(doc)?.change(act, |found| (found != Some(&label)).then_some(&*label))
}

/// The files whose label is not the one that the definition of `name` has for them, as a JSON array: what relabel
/// would change. Where SELinux is off, labels are kept on disk all the same.
pub fn check(name: &Name) -> Result<Vec<u8>> {
    let doc = store::load(name)?;
    let mut drift = Vec::new();
    let label: Option<String> = doc.read("linux.mountLabel")?;
    if let Some(label) = label.filter(|_| Storage::of(&doc).is_ok_and(Storage::labels_files)) {
        let label = if is_enabled() { known(&label)? } else { label };
        Tree::of(&doc)?.each(|_, path, found| {
            if found != Some(&label) {
                drift.push(json!({ "path": path.to_string_lossy(), "label": found }));
            }
            Ok(())
        })?;
    }
    Ok(format!("{}\n", json!(drift)).into_bytes())
}

/// A label as the kernel writes it. One that its policy does not know would be stored all the same, and keep everybody
/// from the file.
fn known(label: &str) -> Result<String> {
    let failed = || format!("the SELinux policy does not know the label {label:?}");
    let text = CString::new(label).with_context(failed)?;
    let canonical = SecurityContext::from_c_str(&text, true).canonicalize().with_context(failed)?;
    let canonical = canonical.to_c_string().with_context(failed)?.with_context(failed)?;
    Ok(canonical.to_str().with_context(failed)?.to_owned())
}

/// Whether SELinux is enabled.
pub fn is_enabled() -> bool {
    selinux::kernel_support() != KernelSupport::Unsupported
}

/// The types that containers get here: ours where our module is loaded, else those that the policy names for
/// containers. Where SELinux is off, ours are written down for the day when it is on.
pub fn policy_types() -> Result<Types> {
    let ours = Types { process: OURS.0.into(), file: OURS.1.into() };
    if !is_enabled() {
        return Ok(ours);
    }
    let candidates = [Some(ours), lxc_contexts()];
    let known = |types: &Types| {
        [format!("system_u:system_r:{}:s0", types.process), format!("system_u:object_r:{}:s0", types.file)]
            .into_iter()
            .all(|text| {
                let context = CString::new(text).unwrap_or_default();
                SecurityContext::from_c_str(&context, true).check() == Some(true)
            })
    };
    candidates
        .into_iter()
        .flatten()
        .find(known)
        .context("the SELinux policy has no type for containers: load sbx's module, or give --type and --file-type")
}

/// The types of the policy's own `lxc_contexts` file (lxc_contexts(5) of SELinux): lines of `key = "context"`.
fn lxc_contexts() -> Option<Types> {
    let config = fs::read_to_string("/etc/selinux/config").ok()?;
    let policy = config.lines().find_map(|line| line.strip_prefix("SELINUXTYPE="))?.trim();
    let text = fs::read_to_string(format!("/etc/selinux/{policy}/contexts/lxc_contexts")).ok()?;
    let kind = |key: &str| {
        let (_, value) = text.lines().filter_map(|line| line.split_once('=')).find(|(k, _)| k.trim() == key)?;
        value.trim().trim_matches('"').split(':').nth(2).map(str::to_owned)
    };
    Some(Types { process: kind("process")?, file: kind("file")? })
}
