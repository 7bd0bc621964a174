//! The ids of a container that has a user namespace: which of the host's its own stand for (user_namespaces(7)), and
//! that no other has them.

use crate::claim::Claims;
use crate::{Document, Name, namespace, passwd, rootless, store};
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::str::FromStr;

/// The registry of ranges.
const KIND: &str = "ids";

/// Where the document has the ranges.
pub(crate) const MAPPINGS: [&str; 2] = ["linux.uidMappings", "linux.gidMappings"];

/// As many ids as programs expect that there are, with nobody's (65534) among them.
const SIZE: u32 = 1 << 16;

/// What systemd leaves to containers (systemd's UIDS-GIDS): whole ranges from the first id on, so that each container's
/// lowest half is zero.
const CONTAINERS: (u32, u32) = (0x0008_0000, 0x6fff_0000);

/// Below are the host's own, those that systemd gives to services for a while (DynamicUser=) among them.
const LOWEST: u32 = 1 << 16;

/// A range of user ids and one of group ids, which stand for 0 and those after it inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The host's user id that is root inside.
    pub uid: u32,
    /// The host's group id that is root's inside.
    pub gid: u32,
    /// How many there are of each.
    pub size: u32,
}

/// `linux.uidMappings` and `linux.gidMappings` as the OCI runtime specification has them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mapping {
    #[serde(rename = "containerID")]
    pub container: u32,
    #[serde(rename = "hostID")]
    pub host: u32,
    pub size: u32,
}

impl Mapping {
    /// As a line of the kernel's, or the arguments of newuidmap(1), has it.
    pub fn numbers(&self) -> [String; 3] {
        [self.container, self.host, self.size].map(|number| number.to_string())
    }
}

/// Ids that are somebody's: the first, how many, and whose.
struct Taken {
    first: u32,
    size: u32,
    whose: String,
}

impl Taken {
    fn overlaps(&self, first: u32, size: u32) -> bool {
        // In 64 bits: the end of a range may be beyond the last id.
        let ends = |first: u32, size: u32| (u64::from(first), u64::from(first) + u64::from(size));
        let ((one, its_end), (other, end)) = (ends(self.first, self.size), ends(first, size));
        one < end && other < its_end
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.uid, self.gid, self.size)
    }
}

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u32>> = text.split(':').map(passwd::id).collect();
        let Some([uid, gid, size]) = numbers.as_deref() else {
            return Err(format!("bad ids {text:?}: UID:GID:SIZE"));
        };
        let ids = Self { uid: *uid, gid: *gid, size: *size };
        // The last id means "none" (setresuid(2)).
        let fits = |first: u32| first >= LOWEST && first.checked_add(*size).is_some();
        let is_good = *size > 0 && fits(*uid) && fits(*gid);
        is_good.then_some(ids).ok_or_else(|| format!("bad ids {text:?}: from {LOWEST} on, to {} at most", u32::MAX - 1))
    }
}

impl Ids {
    /// Those of the document; none if it has no user namespace of its own, or that of an ordinary user, who has none.
    pub fn of(doc: &Document) -> Result<Option<Self>> {
        if rootless::is_rootless(doc)? || !has_namespace(doc)? {
            return Ok(None);
        }
        let ids = Self::wished(doc)?;
        ids.map(Some).context("linux.uidMappings: the user namespace has no ids: sbx-ns alloc claims them")
    }

    /// Those of the document, if it says which.
    fn wished(doc: &Document) -> Result<Option<Self>> {
        let [uids, gids] = MAPPINGS.map(|path| -> Result<Option<(u32, u32)>> {
            match doc.read::<Vec<Mapping>>(path)?.as_deref() {
                None => Ok(None),
                Some([Mapping { container: 0, host, size }]) => Ok(Some((*host, *size))),
                Some(_) => bail!("{path}: one range, which begins with 0 inside, is supported"),
            }
        });
        match (uids?, gids?) {
            (None, None) => Ok(None),
            (Some((uid, size)), Some((gid, same))) if size == same => {
                let text = Self { uid, gid, size }.to_string();
                text.parse().map(Some).map_err(|error: String| anyhow!(error)).context(MAPPINGS[0])
            }
            _ => bail!("linux.uidMappings and linux.gidMappings are not of one size"),
        }
    }

    /// Fills them in.
    pub fn fill(self, doc: &mut Document) -> Result<()> {
        MAPPINGS
            .into_iter()
            .zip([self.uid, self.gid])
            .try_for_each(|(path, host)| doc.set(path, json!([Mapping { container: 0, host, size: self.size }])))
    }

    /// Takes them out.
    pub fn clear(doc: &mut Document) {
        MAPPINGS.into_iter().for_each(|path| doc.unset(path));
    }

    /// The file that `newuidmap` would write for one of the two (user_namespaces(7)).
    pub fn map(first: u32, size: u32) -> String {
        format!("0 {first} {size}\n")
    }

    /// The ids of `name`: those that it holds, or else those of the document, or any that are free; claimed if `act`.
    /// None, for a document without a user namespace.
    pub fn claim(doc: &Document, name: &Name, act: bool) -> Result<Option<Self>> {
        if !has_namespace(doc)? {
            return Ok(None);
        }
        let (claims, wished) = (Claims::of(KIND), Self::wished(doc)?);
        // No two look for what is free at the same time.
        let _lock = act.then(|| claims.lock()).transpose()?;
        if let Some(held) = Self::held_by(name)? {
            ensure!(wished.is_none_or(|wished| wished == held), "container {name} has the ids {held}");
            return Ok(Some(held));
        }
        let ids = match wished {
            Some(wished) => wished.free()?,
            None => Self::any()?,
        };
        if act {
            claims.take(name, [ids.to_string()])?.with_context(|| format!("the ids {ids} are not free"))?;
        }
        Ok(Some(ids))
    }

    /// Refuses ids that `name` does not hold: they may be another's.
    pub fn verify(self, name: &Name) -> Result<()> {
        let is_own = Self::held_by(name)? == Some(self);
        ensure!(is_own, "linux.uidMappings: container {name} does not hold the ids {self}: sbx-ns alloc claims them");
        Ok(())
    }

    fn held_by(name: &Name) -> Result<Option<Self>> {
        let held = Claims::of(KIND).held_by(name)?.map(|held| held.parse());
        held.transpose().map_err(|error: String| anyhow!("claim of {name}: {error}"))
    }

    /// Gives back what `name` holds.
    pub fn release(name: &Name) -> Result<()> {
        Claims::of(KIND).release(name)
    }

    /// These, unless somebody has one of them.
    fn free(self) -> Result<Self> {
        let [users, groups] = taken()?;
        for (taken, first, kind) in [(users, self.uid, "user"), (groups, self.gid, "group")] {
            if let Some(Taken { first, size, whose }) = taken.iter().find(|taken| taken.overlaps(first, self.size)) {
                let last = u64::from(*first) + u64::from(*size) - 1;
                bail!("the ids {self} are not free: {whose} has the {kind} ids {first} to {last}");
            }
        }
        Ok(self)
    }

    /// A range that is free, of users and groups alike. Which of them is chance: a range that was just given back, and of
    /// which a file may be left somewhere, is not the next container's.
    fn any() -> Result<Self> {
        let mut random = [0; 4];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .context("cannot get random bytes")?;
        let (first, last) = CONTAINERS;
        let count = (last - first) / SIZE;
        let begin = u32::from_ne_bytes(random) % count;
        let taken = taken()?;
        let mut all = (0..count).map(|number| first + (begin + number) % count * SIZE);
        let free = all.find(|first| taken.iter().flatten().all(|taken| !taken.overlaps(*first, SIZE)));
        let uid = free.context("no range of ids is free")?;
        Ok(Self { uid, gid: uid, size: SIZE })
    }
}

/// Whether the document has a user namespace of its own.
pub fn has_namespace(doc: &Document) -> Result<bool> {
    if doc.get("linux.namespaces").is_none() {
        return Ok(false);
    }
    let user = namespace::of(doc)?.into_iter().find(|(kind, _)| kind.flag == CloneFlags::CLONE_NEWUSER);
    let is_joined = user.as_ref().is_some_and(|(_, namespace)| namespace.path.is_some());
    ensure!(!is_joined, "linux.namespaces: an existing user namespace cannot be joined");
    Ok(user.is_some())
}

/// The user ids and the group ids that are somebody's: claimed here, set aside for somebody's own containers
/// (subuid(5)), in the host's own files, or in a user namespace that there is.
fn taken() -> Result<[Vec<Taken>; 2]> {
    let mut taken = [Vec::new(), Vec::new()];
    for (ids, owner) in Claims::of(KIND).list()? {
        let Ok(Ids { uid, gid, size }) = ids.parse() else { continue };
        for (taken, first) in taken.iter_mut().zip([uid, gid]) {
            taken.push(Taken { first, size, whose: format!("container {owner}") });
        }
    }
    let files = [("/etc/subuid", "/etc/passwd", "uid_map"), ("/etc/subgid", "/etc/group", "gid_map")];
    for (taken, (ranges, names, map)) in taken.iter_mut().zip(files) {
        let set_aside = |line: &String| {
            range(line).map(|(name, first, size)| Taken { first, size, whose: format!("{name} of {ranges}") })
        };
        taken.extend(lines(ranges)?.iter().filter_map(set_aside));
        taken.extend(lines(names)?.iter().filter_map(|line| entry(line, names)));
        for process in store::entries("/proc".as_ref())? {
            let Some(pid) =
                process.file_name().and_then(|name| name.to_str()).filter(|name| passwd::id(name).is_some())
            else {
                continue;
            };
            // One that has ended has none any more.
            let text = fs::read_to_string(process.join(map)).unwrap_or_default();
            taken.extend(text.lines().filter_map(|line| mapped(line, pid)));
        }
    }
    Ok(taken)
}

/// The lines of a file; none, if there is no such file.
pub(crate) fn lines(path: &str) -> Result<Vec<String>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        bytes => {
            let bytes = bytes.with_context(|| format!("cannot read {path}"))?;
            Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
        }
    }
}

/// `NAME:FIRST:SIZE` of subuid(5).
pub(crate) fn range(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.split(':');
    Some((fields.next()?, passwd::id(fields.next()?)?, passwd::id(fields.next()?)?))
}

/// `NAME:PASSWORD:ID:...` of passwd(5) and group(5).
fn entry(line: &str, file: &str) -> Option<Taken> {
    let mut fields = line.split(':');
    let (name, first) = (fields.next()?, passwd::id(fields.nth(1)?)?);
    Some(Taken { first, size: 1, whose: format!("{name} of {file}") })
}

/// `INSIDE OUTSIDE SIZE` of a process. That of the first namespace has all ids, and says nothing.
fn mapped(line: &str, pid: &str) -> Option<Taken> {
    let mut fields = line.split_whitespace().skip(1).map(|field| field.parse::<u32>().ok());
    let (first, size) = (fields.next()??, fields.next()??);
    (size != u32::MAX).then(|| Taken { first, size, whose: format!("process {pid}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_three_numbers_that_the_host_has_no_use_for() {
        let ids: Ids = "524288:589824:65536".parse().expect("ids");
        assert_eq!(ids, Ids { uid: 524_288, gid: 589_824, size: 65_536 });
        assert_eq!(ids.to_string(), "524288:589824:65536");
        for good in ["65536:65536:1", "4294901760:65536:65535"] {
            assert!(good.parse::<Ids>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "auto",
            "65536",
            "65536:65536",
            "65536:65536:1:1",
            "65535:65536:1",
            "65536:65535:1",
            "65536:65536:0",
            "4294901760:65536:65536",
            "+65536:65536:1",
            "65536: 65536:1",
            "4294967296:65536:1",
        ] {
            assert!(bad.parse::<Ids>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_document_has_them_as_the_specification_says() {
        let parse = |text: &str| Document::parse(text.as_bytes()).expect("document");
        let mut doc = parse(r#"{"linux":{"namespaces":[{"type":"user"}]}}"#);
        assert!(Ids::of(&doc).is_err());
        let ids = Ids { uid: 524_288, gid: 589_824, size: 65_536 };
        ids.fill(&mut doc).expect("fill");
        let mappings = r#"[{"containerID":0,"hostID":589824,"size":65536}]"#;
        assert_eq!(doc.get("linux.gidMappings").as_deref(), Some(mappings));
        assert_eq!(Ids::of(&doc).expect("ids"), Some(ids));
        Ids::clear(&mut doc);
        assert!(Ids::of(&doc).is_err());
        assert_eq!(
            Ids::of(&parse(r#"{"linux":{"namespaces":[{"type":"pid"}],"uidMappings":[]}}"#)).expect("ids"),
            None
        );
        assert_eq!(Ids::of(&parse("{}")).expect("ids"), None);
        let one = r#"{"containerID":0,"hostID":524288,"size":65536}"#;
        for bad in [
            format!(r#""uidMappings":[{one}]"#),
            format!(r#""uidMappings":[{one},{one}],"gidMappings":[{one}]"#),
            format!(r#""uidMappings":[{one}],"gidMappings":[{}]"#, one.replace("65536", "65537")),
            format!(r#""uidMappings":[{0}],"gidMappings":[{0}]"#, one.replace(":0,", ":1,")),
            format!(r#""uidMappings":[{0}],"gidMappings":[{0}]"#, one.replace("524288", "1000")),
        ] {
            let doc = parse(&format!(r#"{{"linux":{{"namespaces":[{{"type":"user"}}],{bad}}}}}"#));
            assert!(Ids::of(&doc).is_err(), "{bad}");
        }
        assert!(Ids::of(&parse(r#"{"linux":{"namespaces":[{"type":"user","path":"/proc/1/ns/user"}]}}"#)).is_err());
    }

    #[test]
    fn whose_ids_are_is_found_where_the_host_has_it() {
        let overlap = |taken: Option<Taken>, first, size| taken.is_some_and(|taken| taken.overlaps(first, size));
        let alice = Taken { first: 100_000, size: 65_536, whose: "alice".to_owned() };
        assert!(alice.overlaps(165_535, 1) && alice.overlaps(0, 100_001));
        assert!(!alice.overlaps(165_536, 65_536) && !alice.overlaps(0, 100_000));
        assert_eq!(range("alice:100000:65536"), Some(("alice", 100_000, 65_536)));
        assert!(overlap(entry("bob:x:70000:70000::/:/bin/sh", "/etc/passwd"), 65_536, 65_536));
        assert!(overlap(mapped("         0     524288      65536", "7"), 524_288, 1));
        assert!(mapped("         0          0 4294967295", "1").is_none());
        assert!(range("alice:x:1").is_none() && entry("bob:x", "/etc/passwd").is_none());
    }
}
