//! What the document says of namespaces.

use anyhow::{Result, anyhow, bail, ensure};
use nix::sched::CloneFlags;
use sbx::ids::Ids;
use sbx::name::Hostname;
use sbx::namespace::{self, KINDS};
use sbx::rootless::{self, Maps};
use sbx::{Document, passwd};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::str::FromStr;

/// The holder is the first process of its PID namespace, and its root is replaced: those two are always its own.
const OWN: CloneFlags = CloneFlags::CLONE_NEWPID.union(CloneFlags::CLONE_NEWNS);

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Wish {
    pub hostname: Option<Hostname>,
    pub users: Option<Users>,
}

/// Whose the ids of a container are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// The host's.
    Host,
    /// Those of a user namespace, for which some of the host's that are free are claimed.
    Auto,
    /// Those of a user namespace, for which these are.
    Range(Ids),
    /// An ordinary user's own, and inside those of another user and group, if some are named.
    Keep(Option<(u32, u32)>),
}

/// How an ordinary user's own ids are asked for.
const KEEP: &str = "keep-id";

impl FromStr for Users {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "host" => Ok(Self::Host),
            "auto" => Ok(Self::Auto),
            KEEP => Ok(Self::Keep(None)),
            _ => match text.strip_prefix(KEEP).and_then(|rest| rest.strip_prefix(':')?.split_once(':')) {
                Some((uid, gid)) => {
                    let ids = passwd::id(uid).zip(passwd::id(gid));
                    ids.map(|ids| Self::Keep(Some(ids))).ok_or_else(|| format!("bad ids {text:?}: {KEEP}:UID:GID"))
                }
                None => text
                    .parse()
                    .map(Self::Range)
                    .map_err(|error| format!("bad user namespace: {error}, auto, host or {KEEP}[:UID:GID]")),
            },
        }
    }
}

/// Fills in the namespaces and the host name, where the document has none, and what is asked for.
pub fn plan(doc: &mut Document, mut wish: Wish) -> Result<()> {
    let name = doc.name()?;
    if doc.get("linux.namespaces").is_none() {
        let all = KINDS.iter().filter(|kind| kind.flag != CloneFlags::CLONE_NEWUSER);
        let all: Vec<_> = all.map(|kind| json!({ "type": kind.name })).collect();
        doc.set("linux.namespaces", all)?;
        // He may have no other without it.
        wish.users = wish.users.or_else(|| rootless::is_ordinary().then_some(Users::Keep(None)));
    }
    if let Some(users) = wish.users {
        let mut namespaces: Vec<Value> = doc.require("linux.namespaces")?;
        namespaces.retain(|namespace| namespace["type"] != USER);
        rootless::clear(doc);
        if users != Users::Host {
            namespaces.insert(0, json!({ "type": USER }));
        }
        match users {
            Users::Range(ids) => ids.fill(doc)?,
            Users::Keep(inside) => Maps::new(inside)?.fill(doc)?,
            Users::Host | Users::Auto => {}
        }
        doc.set("linux.namespaces", namespaces)?;
    }
    match wish.hostname {
        Some(hostname) => doc.set("hostname", String::from(hostname)),
        None if doc.get("hostname").is_none() => doc.set("hostname", name.hostname()),
        None => Ok(()),
    }
}

/// The user namespace's type in the document.
const USER: &str = "user";

/// What `linux.namespaces` asks for.
#[derive(Debug)]
pub struct Plan {
    /// The namespaces to make.
    pub new: CloneFlags,
    /// The namespaces to join, and where they are.
    pub joined: Vec<(CloneFlags, PathBuf)>,
    /// The host name to set.
    pub hostname: Option<String>,
    /// The ids of a user namespace.
    pub ids: Option<Ids>,
    /// Those of an ordinary user's.
    pub maps: Option<Maps>,
}

impl Plan {
    /// Reads and checks the document.
    pub fn of(doc: &Document) -> Result<Self> {
        let (ids, maps) = (Ids::of(doc)?, Maps::of(doc)?);
        let mut plan = Self { new: CloneFlags::empty(), joined: Vec::new(), hostname: None, ids, maps };
        for (kind, namespace) in namespace::of(doc)? {
            match namespace.path {
                None => plan.new |= kind.flag,
                Some(path) if !OWN.contains(kind.flag) => plan.joined.push((kind.flag, path)),
                Some(_) => bail!("linux.namespaces: an existing {} namespace cannot be joined", kind.name),
            }
        }
        // Refused rather than ignored, since who asks for one relies on it. None is ever written, so that no value can smuggle
        // in another (CVE-2022-0811).
        if let Some(key) = doc.read::<Map<String, Value>>("linux.sysctl")?.unwrap_or_default().keys().next() {
            bail!("linux.sysctl: {key} cannot be set");
        }
        ensure!(plan.new.contains(OWN), "linux.namespaces: a pid and a mount namespace are needed");
        // It is joined in the container's cgroup, when the right to do so is gone.
        let joins_cgroup = plan.joined.iter().any(|(flag, _)| *flag == CloneFlags::CLONE_NEWCGROUP);
        ensure!(
            !plan.new.contains(CloneFlags::CLONE_NEWUSER) || !joins_cgroup,
            "linux.namespaces: an existing cgroup namespace cannot be joined from a user namespace"
        );
        if let Some(hostname) = doc.read::<String>("hostname")? {
            ensure!(plan.new.contains(CloneFlags::CLONE_NEWUTS), "hostname: needs a uts namespace of its own");
            plan.hostname = Some(hostname.parse::<Hostname>().map_err(|error| anyhow!("hostname: {error}"))?.into());
        }
        Ok(plan)
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
        plan(&mut doc, Wish::default()).expect("plan");
        let plan = Plan::of(&doc).expect("plan");
        let all = KINDS.iter().fold(CloneFlags::empty(), |all, kind| all | kind.flag);
        assert_eq!(plan.new, all - CloneFlags::CLONE_NEWUSER);
        assert!(plan.joined.is_empty());
        assert_eq!(plan.hostname.as_deref(), Some("apache1"));
    }

    #[test]
    fn what_the_document_has_is_kept() {
        let text = r#"{"sbx":{"name":"a"},"hostname":"b","linux":{"namespaces":[{"type":"pid","x":1},{"type":"mount"},{"type":"uts"}]}}"#;
        let mut doc = Document::parse(text.as_bytes()).expect("document");
        plan(&mut doc, Wish::default()).expect("plan");
        assert_eq!(doc.to_line(), format!("{text}\n").into_bytes());
        plan(&mut doc, Wish { hostname: Some("c.d".parse().expect("host name")), users: None }).expect("plan");
        assert_eq!(doc.require::<String>("hostname").expect("host name"), "c.d");
    }

    #[test]
    fn a_user_namespace_is_asked_for_or_not_and_the_last_word_holds() {
        let users = |doc: &mut Document, users: &str| {
            plan(doc, Wish { hostname: None, users: Some(users.parse().expect(users)) }).expect(users);
        };
        let text = r#"{"sbx":{"name":"a"},"hostname":"b","linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"uts"}]}}"#;
        let mut doc = Document::parse(text.as_bytes()).expect("document");
        users(&mut doc, "524288:524288:65536");
        let ids = Plan::of(&doc).expect("plan").ids.expect("ids");
        assert_eq!(ids.to_string(), "524288:524288:65536");
        users(&mut doc, "auto");
        assert!(Plan::of(&doc).expect_err("no ids").to_string().contains("sbx-ns alloc"));
        users(&mut doc, "host");
        assert_eq!(doc.to_line(), format!("{text}\n").into_bytes());
        for bad in ["", "Auto", "root", "0:0:65536"] {
            assert!(bad.parse::<Users>().is_err(), "{bad}");
        }
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
            r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}],"sysctl":{"kernel.shm_rmid_forced":"1"}}}"#,
            r#"{}"#,
        ] {
            assert!(plan_of(bad).is_err(), "{bad}");
        }
    }
}
