//! The confinement: the default one, a strict one, one from a file, and what options change of it.

mod calls;
mod file;

use anyhow::{Context, Result, ensure};
use caps::{Capability, CapsHashSet};
use sbx::confine::{Profile, resource};
use sbx::seccomp::Seccomp;
use sbx::{Document, tool};
use serde_json::{Value, from_value, json};
use std::path::PathBuf;
use std::str::FromStr;

/// The capabilities that a container keeps: enough for systemd as process 1 and for what services do to their own
/// files, users and low ports. What reaches the kernel's or another's things is not among them.
const CAPABILITIES: [Capability; 11] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// The limits, soft and hard, that are set rather than inherited from whoever starts the container. A core dump would
/// go where the host's core_pattern says. Limits that may need raising are left alone: that takes CAP_SYS_RESOURCE,
/// which not every root has, and an init inside makes do with what it inherits.
const RLIMITS: [(&str, u64, u64); 1] = [("RLIMIT_CORE", 0, 0)];

/// The fields of the document that a profile is made of.
const FIELDS: [&str; 4] = ["process.capabilities", "process.noNewPrivileges", "process.rlimits", "linux.seccomp"];

/// What the document's confinement begins with. All of it is filled in, whatever was there.
#[derive(Debug)]
pub enum Base {
    Default,
    /// No capability, and fewer system calls: for a command that needs neither.
    Strict,
    /// Those of the fields that this JSON file has.
    File(PathBuf),
}

/// A filter for system calls.
#[derive(Debug)]
pub enum Filter {
    Default,
    None,
    File(PathBuf),
}

/// A capability, or all, to be added or dropped.
#[derive(Debug)]
pub struct Change {
    adds: bool,
    /// All, if none is named.
    capability: Option<Capability>,
}

/// A limit: `TYPE=SOFT[:HARD]`.
#[derive(Debug)]
pub struct Limit {
    kind: String,
    soft: u64,
    hard: u64,
}

/// What is asked for.
#[derive(Debug, Default)]
pub struct Wish {
    pub base: Option<Base>,
    pub capabilities: Vec<Change>,
    pub seccomp: Option<Filter>,
    pub limits: Vec<Limit>,
    pub no_new_privs: Option<Switch>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    On,
    Off,
}

impl FromStr for Base {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "strict" => Ok(Self::Strict),
            path if path.contains('/') || path.ends_with(".json") => Ok(Self::File(path.into())),
            _ => Err(format!("bad profile {text:?}: default, strict, or a file (./FILE, FILE.json)")),
        }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "default" => Self::Default,
            "unconfined" => Self::None,
            path => Self::File(path.into()),
        })
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (adds, name) = match text.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, text.strip_prefix('+').unwrap_or(text)),
        };
        let name = name.to_ascii_uppercase();
        if name == "ALL" {
            return Ok(Self { adds, capability: None });
        }
        let full = format!("CAP_{}", name.strip_prefix("CAP_").unwrap_or(&name));
        let capability = full.parse().map_err(|_| format!("no capability {text:?}: see capabilities(7)"))?;
        Ok(Self { adds, capability: Some(capability) })
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("bad limit {text:?}: TYPE=SOFT[:HARD], numbers or unlimited");
        let (kind, values) = text.split_once('=').ok_or_else(bad)?;
        let kind = kind.to_ascii_uppercase();
        let value = |value: &str| match value {
            "unlimited" => Some(u64::MAX),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (value(soft).ok_or_else(bad)?, value(hard).ok_or_else(bad)?);
        if soft > hard {
            return Err(format!("bad limit {text:?}: the soft one is above the hard one"));
        }
        let kind = format!("RLIMIT_{}", kind.strip_prefix("RLIMIT_").unwrap_or(&kind));
        resource(&kind).ok_or_else(|| format!("bad limit {text:?}: no type {kind}: see setrlimit(2)"))?;
        Ok(Self { kind, soft, hard })
    }
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?}: on or off")),
        }
    }
}

/// Fills in the profile: what is asked for, and the default where there is nothing to begin with.
pub fn fill(doc: &mut Document, wish: &Wish) -> Result<()> {
    match fill_all_but_calls(doc, wish)? {
        Calls::Ours(filter) => doc.set("linux.seccomp", filter),
        Calls::Given(filter) => doc.set("linux.seccomp", filter),
    }
}

/// The profile of a base, whatever a document has.
pub fn alone(wish: &Wish) -> Result<Profile> {
    let mut doc = Document::default();
    let filter = match fill_all_but_calls(&mut doc, wish)? {
        Calls::Ours(filter) => filter,
        Calls::Given(filter) => from_value(filter).context("linux.seccomp")?,
    };
    Profile::of(&doc)?.with_calls(&filter)
}

/// Nine tenths of a document, which are not made text where nobody reads that.
enum Calls {
    Ours(Seccomp),
    Given(Value),
}

/// Fills in the profile but for the filter of calls, which it returns.
fn fill_all_but_calls(doc: &mut Document, wish: &Wish) -> Result<Calls> {
    let is_strict = matches!(wish.base, Some(Base::Strict));
    let [capabilities, no_new_privs, limits, seccomp] = beginning(doc, &wish.base)?;

    let bounding = capabilities.as_ref().map(|sets| from_value::<Vec<Capability>>(sets["bounding"].clone()));
    let bounding = bounding.transpose().context("process.capabilities.bounding")?.map(CapsHashSet::from_iter);
    let defaults = || CAPABILITIES.into_iter().filter(|_| !is_strict).collect();
    let held = changed(bounding.unwrap_or_else(defaults), &wish.capabilities);
    let capabilities = capabilities.filter(|_| wish.capabilities.is_empty()).unwrap_or_else(|| sets(&held));

    let no_new_privs = wish.no_new_privs.map(|switch| json!(switch == Switch::On)).or(no_new_privs);
    doc.set("process.capabilities", capabilities)?;
    doc.set("process.noNewPrivileges", no_new_privs.unwrap_or(json!(true)))?;
    doc.set("process.rlimits", limited(limits, &wish.limits)?)?;
    if wish.no_new_privs == Some(Switch::Off) {
        tool::note("sbx-exec", "no_new_privs is off: programs inside may gain what their files give them");
    }
    Ok(match (&wish.seccomp, seccomp) {
        (Some(Filter::None), _) => Calls::Given(json!({ "defaultAction": "SCMP_ACT_ALLOW" })),
        (Some(Filter::File(path)), _) => Calls::Given(file::filter(path, &held)?),
        (None, Some(seccomp)) => Calls::Given(seccomp),
        (None | Some(Filter::Default), _) => Calls::Ours(calls::filter(&held, is_strict)),
    })
}

/// What the fields have before anything is changed: the document's, a file's, or nothing where the default is wanted.
fn beginning(doc: &Document, base: &Option<Base>) -> Result<[Option<Value>; 4]> {
    match base {
        None => {
            let [capabilities, no_new_privs, limits, seccomp] = FIELDS.map(|field| doc.read(field));
            Ok([capabilities?, no_new_privs?, limits?, seccomp?])
        }
        Some(Base::Default | Base::Strict) => Ok(FIELDS.map(|_| None)),
        Some(Base::File(path)) => {
            let file = file::read(path)?;
            let present = |value: &&Value| !value.is_null();
            let pointer = |field: &str| format!("/{}", field.replace('.', "/"));
            let fields = FIELDS.map(|field| file.pointer(&pointer(field)).filter(present).cloned());
            ensure!(fields.iter().any(Option::is_some), "{}: it has none of {}", path.display(), FIELDS.join(", "));
            Ok(fields)
        }
    }
}

fn sets(capabilities: &CapsHashSet) -> Value {
    let mut names: Vec<String> = capabilities.iter().map(Capability::to_string).collect();
    names.sort();
    json!({ "bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": [] })
}

fn changed(mut capabilities: CapsHashSet, changes: &[Change]) -> CapsHashSet {
    for Change { adds, capability } in changes {
        match (adds, capability) {
            (true, Some(capability)) => drop(capabilities.insert(*capability)),
            (false, Some(capability)) => drop(capabilities.remove(capability)),
            (true, None) => capabilities = caps::all(),
            (false, None) => capabilities.clear(),
        }
    }
    capabilities
}

/// The limits, each wished one in the place of one of the same type.
fn limited(limits: Option<Value>, wishes: &[Limit]) -> Result<Value> {
    let entry = |kind: &str, soft: u64, hard: u64| json!({ "type": kind, "soft": soft, "hard": hard });
    let defaults = || RLIMITS.into_iter().map(|(kind, soft, hard)| entry(kind, soft, hard)).collect();
    let limits: Option<Vec<Value>> = limits.map(from_value).transpose().context("process.rlimits")?;
    let mut limits = limits.unwrap_or_else(defaults);
    for Limit { kind, soft, hard } in wishes {
        limits.retain(|entry| entry["type"] != kind.as_str());
        limits.push(entry(kind, *soft, *hard));
    }
    Ok(Value::Array(limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, wish: Wish) -> Document {
        let mut doc = Document::parse(text.as_bytes()).expect("document");
        fill(&mut doc, &wish).expect("fill");
        doc
    }

    const EMPTY: &str = r#"{"sbx":{"name":"a"}}"#;

    fn bounding(doc: &Document) -> Vec<String> {
        doc.require("process.capabilities.bounding").expect("capabilities")
    }

    #[test]
    fn a_second_time_changes_nothing_and_what_the_document_has_is_kept() {
        let mut doc = filled(EMPTY, Wish::default());
        let again = doc.clone();
        fill(&mut doc, &Wish::default()).expect("fill");
        assert_eq!(doc, again);
        let doc = filled(
            r#"{"sbx":{"name":"a"},"process":{"noNewPrivileges":false,"capabilities":{"bounding":["CAP_KILL"]},"x":1}}"#,
            Wish::default(),
        );
        assert_eq!(doc.get("process.noNewPrivileges").as_deref(), Some("false"));
        assert_eq!((bounding(&doc), doc.get("process.x").as_deref()), (vec!["CAP_KILL".to_owned()], Some("1")));
    }

    #[test]
    fn options_add_and_drop_and_the_filter_follows() {
        let changes = ["+net_raw", "-CAP_CHOWN", "sys_time"].map(|change| change.parse().expect("a change"));
        let doc = filled(EMPTY, Wish { capabilities: changes.into(), ..Wish::default() });
        let names = bounding(&doc);
        assert!(names.iter().any(|name| name == "CAP_NET_RAW") && !names.iter().any(|name| name == "CAP_CHOWN"));
        assert_eq!(names.len(), CAPABILITIES.len() + 1);
        let rules: Vec<Value> = doc.require("linux.seccomp.syscalls").expect("rules");
        let allowed = rules[0]["names"].as_array().expect("names");
        assert!(allowed.contains(&json!("clock_settime")) && !allowed.contains(&json!("mount")));
        let none = ["-all", "+kill"].map(|change| change.parse().expect("a change"));
        let doc = filled(EMPTY, Wish { capabilities: none.into(), ..Wish::default() });
        assert_eq!(bounding(&doc), ["CAP_KILL"]);
    }

    #[test]
    fn a_base_takes_the_place_of_what_there_is() {
        let doc = filled(
            r#"{"sbx":{"name":"a"},"process":{"noNewPrivileges":false}}"#,
            Wish { base: Some(Base::Strict), ..Wish::default() },
        );
        assert_eq!(doc.get("process.noNewPrivileges").as_deref(), Some("true"));
        assert_eq!(bounding(&doc), [""; 0]);
    }

    #[test]
    fn limits_replace_those_of_their_type() {
        let limits = ["nofile=64:128", "RLIMIT_CORE=unlimited"].map(|limit| limit.parse().expect("a limit"));
        let doc = filled(EMPTY, Wish { limits: limits.into(), ..Wish::default() });
        let expected = json!([
            { "type": "RLIMIT_NOFILE", "soft": 64, "hard": 128 },
            { "type": "RLIMIT_CORE", "soft": u64::MAX, "hard": u64::MAX },
        ]);
        assert_eq!(doc.require::<Value>("process.rlimits").expect("limits"), expected);
        for bad in ["nofile", "nofile=", "nofile=x", "nofile=+1", "nofile=2:1", "=1:", "=1", "nosuch=1"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn words_that_are_not_understood_are_refused() {
        for bad in ["", "+", "net_raw2", "++kill", "CAP_CAP_KILL"] {
            assert!(bad.parse::<Change>().is_err(), "{bad:?}");
        }
        assert!("stric".parse::<Base>().is_err() && "yes".parse::<Switch>().is_err());
    }
}
