//! What the document says of namespaces.

use anyhow::{Context, Result, bail, ensure};
use nix::sched::CloneFlags;
use sbx::Document;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use std::str::FromStr;

/// The namespaces that we know, by the names of the OCI runtime specification, and whether an existing one may be
/// joined. The holder is the first process of its PID namespace and its root is replaced, so those two are its own.
const KINDS: [(&str, CloneFlags, bool); 6] = [
    ("pid", CloneFlags::CLONE_NEWPID, false),
    ("mount", CloneFlags::CLONE_NEWNS, false),
    ("ipc", CloneFlags::CLONE_NEWIPC, true),
    ("uts", CloneFlags::CLONE_NEWUTS, true),
    ("network", CloneFlags::CLONE_NEWNET, true),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP, true),
];

/// Fills in the namespaces and the host name, where the document has none.
pub fn plan(doc: &mut Document, hostname: Option<Hostname>) -> Result<()> {
    let name = doc.name()?;
    if doc.get("linux.namespaces").is_none() {
        let all: Vec<_> = KINDS.iter().map(|(kind, _, _)| json!({ "type": kind })).collect();
        doc.set("linux.namespaces", all)?;
    }
    match hostname {
        Some(hostname) => doc.set("hostname", hostname.0),
        None if doc.get("hostname").is_none() => doc.set("hostname", name.hostname()),
        None => Ok(()),
    }
}

/// What `linux.namespaces` asks for.
#[derive(Debug)]
pub struct Plan {
    /// The namespaces to make.
    pub new: CloneFlags,
    /// The namespaces to join, and where they are.
    pub joined: Vec<(CloneFlags, PathBuf)>,
    /// The host name to set.
    pub hostname: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

impl Plan {
    /// Reads and checks the document.
    pub fn of(doc: &Document) -> Result<Self> {
        let namespaces: Vec<Namespace> = doc.require("linux.namespaces")?;
        let mut plan = Self { new: CloneFlags::empty(), joined: Vec::new(), hostname: None };
        let mut seen = CloneFlags::empty();
        for Namespace { kind, path } in namespaces {
            let known = KINDS.iter().find(|(name, _, _)| *name == kind);
            let (_, flag, joinable) =
                known.with_context(|| format!("linux.namespaces: type {kind:?} is not supported"))?;
            ensure!(!seen.contains(*flag), "linux.namespaces: type {kind:?} stands there twice");
            seen |= *flag;
            match path {
                None => plan.new |= *flag,
                Some(path) if *joinable => plan.joined.push((*flag, path)),
                Some(_) => bail!("linux.namespaces: an existing {kind} namespace cannot be joined"),
            }
        }
        for (kind, flag, joinable) in KINDS {
            ensure!(joinable || plan.new.contains(flag), "linux.namespaces: a {kind} namespace is missing");
        }
        if let Some(hostname) = doc.read::<String>("hostname")? {
            ensure!(plan.new.contains(CloneFlags::CLONE_NEWUTS), "hostname: needs a uts namespace of its own");
            plan.hostname = Some(hostname.parse::<Hostname>().map_err(|error| anyhow::anyhow!(error))?.0);
        }
        Ok(plan)
    }
}

/// A host name that systemd takes (hostname(5)): labels of letters, digits, `-` and `_`, at most 64 bytes in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(String);

impl FromStr for Hostname {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if text.len() <= sbx::name::MAX_LEN && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("bad host name {text:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(text: &str) -> Result<Plan> {
        Plan::of(&Document::parse(text.as_bytes())?)
    }

    #[test]
    fn a_plan_has_all_namespaces_and_the_name_as_host_name() {
        let mut doc = Document::new(&"apache1".parse().expect("name"));
        plan(&mut doc, None).expect("plan");
        let plan = Plan::of(&doc).expect("plan");
        assert_eq!(plan.new, KINDS.iter().fold(CloneFlags::empty(), |all, (_, flag, _)| all | *flag));
        assert!(plan.joined.is_empty());
        assert_eq!(plan.hostname.as_deref(), Some("apache1"));
    }

    #[test]
    fn what_the_document_has_is_kept() {
        let text = r#"{"sbx":{"name":"a"},"hostname":"b","linux":{"namespaces":[{"type":"pid","x":1},{"type":"mount"},{"type":"uts"}]}}"#;
        let mut doc = Document::parse(text.as_bytes()).expect("document");
        plan(&mut doc, None).expect("plan");
        assert_eq!(doc.to_line(), format!("{text}\n").into_bytes());
        plan(&mut doc, Some("c.d".parse().expect("host name"))).expect("plan");
        assert_eq!(doc.require::<String>("hostname").expect("host name"), "c.d");
    }

    #[test]
    fn a_namespace_path_is_joined_but_never_for_pid_and_mount() {
        let text =
            r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"network","path":"/run/netns/x"}]}}"#;
        let plan = plan_of(text).expect("plan");
        assert_eq!(plan.joined, [(CloneFlags::CLONE_NEWNET, PathBuf::from("/run/netns/x"))]);
        for bad in [
            r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"mount","path":"/proc/1/ns/mnt"}]}}"#,
            r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#,
            r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"mount"}]}}"#,
            r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"time"}]}}"#,
            r#"{"hostname":"x","linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}"#,
            r#"{"hostname":"x\ny","linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"uts"}]}}"#,
            r#"{}"#,
        ] {
            assert!(plan_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_names_are_what_systemd_takes() {
        for bad in ["", ".", "a.", "a..b", "-a", "a-", "a b", "a\nb", &"x".repeat(65)] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
        }
    }
}
