//! Containers of an ordinary user. What he may not do on the host he may in a user namespace that he has made
//! (user_namespaces(7)): there he is himself, or anybody, and has no ids but his own and, as root, those that are set
//! aside for him (subuid(5)).

use crate::ids::{self, Ids, MAPPINGS, Mapping, range};
use crate::procfs::Procfs;
use crate::{Document, passwd};
use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Uid};
use serde_json::json;
use std::process::{Command, Stdio};
use std::{env, fs};

/// Whether this is an ordinary user's process. Not to be asked in a container's user namespace, where he may be root.
pub fn is_ordinary() -> bool {
    !Uid::effective().is_root()
}

/// Where the document says that the container is an ordinary user's.
const FIELD: &str = "sbx.rootless";

/// Whether the container is an ordinary user's.
pub fn is_rootless(doc: &Document) -> Result<bool> {
    Ok(doc.read(FIELD)?.unwrap_or(false))
}

/// Takes out whose the ids of a user namespace are, and that they are an ordinary user's.
pub fn clear(doc: &mut Document) {
    Ids::clear(doc);
    doc.unset(FIELD);
}

/// The programs that map more ids than one's own (newuidmap(1)), and what they go by.
const PROGRAMS: [(&str, &str); 2] = [("newuidmap", "/etc/subuid"), ("newgidmap", "/etc/subgid")];

/// The users and the groups of a user namespace, as the document has them.
#[derive(Debug)]
pub struct Maps([Vec<Mapping>; 2]);

impl Maps {
    /// This user and his group as `uid` and `gid`, or as themselves. Root has the users and groups too that are set
    /// aside, if there are any and what maps them: he may become any of them.
    pub fn new(inside: Option<(u32, u32)>) -> Result<Self> {
        ensure!(
            is_ordinary(),
            "only an ordinary user's ids are kept: root's containers have others, or all of the host's"
        );
        let (uid, gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
        let inside = inside.unwrap_or((uid, gid));
        let mut maps =
            [(inside.0, uid), (inside.1, gid)].map(|(container, host)| vec![Mapping { container, host, size: 1 }]);
        if inside == (0, 0)
            && let Some(ranges) = set_aside(uid)?
        {
            for (map, (host, size)) in maps.iter_mut().zip(ranges) {
                map.push(Mapping { container: 1, host, size });
            }
        }
        Ok(Self(maps))
    }

    /// Those of the document, if the container is an ordinary user's.
    pub fn of(doc: &Document) -> Result<Option<Self>> {
        if !is_rootless(doc)? {
            return Ok(None);
        }
        ensure!(is_ordinary() && ids::has_namespace(doc)?, "{FIELD}: only an ordinary user has such a container");
        let [users, groups] = MAPPINGS.map(|path| doc.require(path));
        Ok(Some(Self([users?, groups?])))
    }

    /// Fills them in.
    pub fn fill(self, doc: &mut Document) -> Result<()> {
        doc.set(FIELD, true)?;
        MAPPINGS.into_iter().zip(self.0).try_for_each(|(path, map)| doc.set(path, json!(map)))
    }

    /// Whether there is a group of this id inside.
    pub fn has_group(&self, gid: u32) -> bool {
        self.0[1].iter().any(|Mapping { container, size, .. }| gid.checked_sub(*container).is_some_and(|id| id < *size))
    }

    /// Gives them to the user namespace of a process.
    pub fn write(&self, procfs: &Procfs, pid: i32) -> Result<()> {
        let maps = self.0.each_ref().map(Vec::as_slice);
        if let [[user @ Mapping { size: 1, .. }], [group @ Mapping { size: 1, .. }]] = maps {
            // Who could leave a group would be free of what is forbidden to it (CVE-2014-8989).
            procfs.write(format!("{pid}/setgroups"), b"deny")?;
            return [("uid_map", user), ("gid_map", group)]
                .iter()
                .try_for_each(|(file, own)| procfs.write(format!("{pid}/{file}"), own.numbers().join(" ").as_bytes()));
        }
        for ((program, _), map) in PROGRAMS.iter().zip(&self.0) {
            let numbers = map.iter().flat_map(Mapping::numbers);
            let output = Command::new(program).arg(pid.to_string()).args(numbers).stdin(Stdio::null()).output();
            let output = output.with_context(|| format!("cannot run {program}"))?;
            if !output.status.success() {
                bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
            }
        }
        Ok(())
    }
}

/// The users and the groups that are set aside for this one, if there are both, and the programs that map them.
fn set_aside(uid: u32) -> Result<Option<[(u32, u32); 2]>> {
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let owners = [Some(uid.to_string()), passwd::find(&passwd, uid).map(|user| user.name)];
    let mut ranges = [(0, 0); 2];
    for (found, (program, file)) in ranges.iter_mut().zip(PROGRAMS) {
        let path = env::var_os("PATH").unwrap_or_default();
        if !env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
            return Ok(None);
        }
        let lines = ids::lines(file)?;
        let mut own = lines
            .iter()
            .filter_map(|line| range(line))
            .filter(|(owner, ..)| owners.iter().flatten().any(|o| o == owner));
        let Some((_, first, size)) = own.next() else { return Ok(None) };
        *found = (first, size);
    }
    Ok(Some(ranges))
}
