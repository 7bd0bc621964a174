//! What of a definition goes along to another host.

use crate::extra::Extra;
use crate::packages::Package;
use anyhow::{Result, anyhow};
use sbx::name::Hostname;
use sbx::{Document, Name};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::to_value;
use std::collections::BTreeMap;

/// The limits that sbx-cg(8) sets.
const LIMITS: [&str; 5] = ["memory.limit", "cpu.quota", "cpu.period", "pids.limit", "blockIO.weight"];

/// What a definition that may be anybody's says of what a container is: its units or its command, its limits, and
/// what it was made of. What says how it is confined, and what of a host it uses, is made anew by the steps of create.
pub fn portable(doc: &Document, name: &Name) -> Result<Document> {
    let mut portable = Document::new(name);
    let mut taken = Taken { from: doc, to: &mut portable };
    let has_units = doc.read::<Vec<String>>("sbx.unit.names")?.is_some_and(|units| !units.is_empty());
    let has_programs = doc.get("sbx.base").is_some();
    taken.field::<Vec<String>>("sbx.unit.names")?;
    if has_programs {
        // No directory of this host's.
        taken.to.set("sbx.base", "archive")?;
        taken.field::<BTreeMap<String, Vec<String>>>("sbx.unit.switchedOff")?;
        taken.field::<String>("sbx.unit.init")?;
        taken.field::<String>("sbx.unit.stopSignal")?;
    }
    // Otherwise units are run by the host's systemd, whatever an archive says.
    if has_programs || !has_units {
        taken.field::<Vec<String>>("process.args")?;
        taken.field::<Vec<String>>("process.env")?;
        taken.field::<String>("process.cwd")?;
        taken.field::<u32>("process.user.uid")?;
        taken.field::<u32>("process.user.gid")?;
    }
    for limit in LIMITS {
        taken.field::<i64>(&format!("linux.resources.{limit}"))?;
    }
    taken.field::<bool>("sbx.clone.copy")?;
    taken.field::<Vec<Package>>("sbx.clone.packages")?;
    taken.field::<Vec<Extra>>("sbx.mounts")?;
    let origin = doc.name()?;
    if let Some(hostname) = hostname(doc)?.filter(|hostname| *hostname != origin.hostname()) {
        portable.set("hostname", hostname)?;
    }
    portable.set("sbx.clone.from", origin.as_str())?;
    Ok(portable)
}

/// The host name, which is to be one as systemd takes it (hostname(5)).
pub fn hostname(doc: &Document) -> Result<Option<String>> {
    let Some(hostname) = doc.read::<String>("hostname")? else { return Ok(None) };
    let hostname = hostname.parse::<Hostname>().map_err(|error| anyhow!("hostname: {error}"))?;
    Ok(Some(hostname.into()))
}

/// Fields that one document takes from another.
struct Taken<'a> {
    from: &'a Document,
    to: &'a mut Document,
}

impl Taken<'_> {
    /// Takes a field, if it is there and of its type.
    fn field<T: DeserializeOwned + Serialize>(&mut self, path: &str) -> Result<()> {
        match self.from.read::<T>(path)? {
            Some(value) => self.to.set(path, to_value(value)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portable(text: &str) -> Result<String> {
        let doc = Document::parse(text.as_bytes()).expect("document");
        Ok(String::from_utf8(super::portable(&doc, &"b".parse().expect("name"))?.to_line()).expect("UTF-8"))
    }

    #[test]
    fn what_a_definition_says_of_a_host_does_not_go_along() {
        let text = r#"{
            "ociVersion": "1.2.0", "hostname": "a", "annotations": { "x": "y" }, "hooks": { "prestart": [{ "path": "/bin/sh" }] },
            "root": { "path": "/" }, "mounts": [{ "destination": "/srv", "type": "bind", "source": "/etc" }],
            "process": {
                "args": ["/bin/sh"], "env": ["A=1"], "cwd": "/", "terminal": true, "user": { "uid": 1, "gid": 2, "umask": 0 },
                "capabilities": { "bounding": ["CAP_SYS_ADMIN"] }, "noNewPrivileges": false, "selinuxLabel": "x",
                "rlimits": [], "oomScoreAdj": -1000, "apparmorProfile": "unconfined"
            },
            "linux": {
                "namespaces": [{ "type": "network", "path": "/proc/1/ns/net" }], "seccomp": {}, "mountLabel": "x",
                "devices": [], "cgroupsPath": "/system.slice", "sysctl": {}, "uidMappings": [],
                "resources": { "memory": { "limit": 5, "swap": 6 }, "devices": [{ "allow": true }], "unified": {} }
            },
            "sbx": { "name": "a", "state": {}, "net": {}, "x": 1, "clone": { "copy": true, "secrets": ["/etc/shadow"] } }
        }"#;
        let expected = concat!(
            r#"{"ociVersion":"1.1.0","sbx":{"name":"b","clone":{"copy":true,"from":"a"}},"#,
            r#""process":{"args":["/bin/sh"],"env":["A=1"],"cwd":"/","user":{"uid":1,"gid":2}},"#,
            r#""linux":{"resources":{"memory":{"limit":5}}}}"#,
            "\n"
        );
        assert_eq!(portable(text).expect("portable"), expected);
    }

    #[test]
    fn a_container_of_units_has_no_process_of_its_own_and_keeps_a_host_name_that_it_was_given() {
        let text = r#"{"hostname":"_web","process":{"args":["/bin/sh"]},"sbx":{"name":"a","unit":{"names":["x"],"stopSignal":"SIGKILL"}}}"#;
        let expected = r#"{"ociVersion":"1.1.0","sbx":{"name":"b","unit":{"names":["x"]},"clone":{"from":"a"}},"hostname":"_web"}"#;
        assert_eq!(portable(text).expect("portable"), format!("{expected}\n"));
    }

    #[test]
    fn a_root_of_its_own_goes_along_with_what_runs_it() {
        let text = r#"{"process":{"args":["/sbin/init"]},"sbx":{"name":"a","base":"/etc",
            "unit":{"init":"systemd","stopSignal":"SIGRTMIN+3","x":1}}}"#;
        let expected = concat!(
            r#"{"ociVersion":"1.1.0","sbx":{"name":"b","base":"archive","unit":{"init":"systemd","#,
            r#""stopSignal":"SIGRTMIN+3"},"clone":{"from":"a"}},"process":{"args":["/sbin/init"]}}"#
        );
        assert_eq!(portable(text).expect("portable"), format!("{expected}\n"));
    }

    #[test]
    fn a_field_of_another_type_is_refused() {
        for bad in [
            r#"{}"#,
            r#"{"sbx":{"name":"../a"}}"#,
            r#"{"sbx":{"name":"a"},"process":{"args":"/bin/sh"}}"#,
            r#"{"sbx":{"name":"a"},"process":{"user":{"uid":-1}}}"#,
            r#"{"sbx":{"name":"a"},"hostname":"a\nb"}"#,
            r#"{"sbx":{"name":"a"},"hostname":"-a"}"#,
            r#"{"sbx":{"name":"a"},"linux":{"resources":{"pids":{"limit":"5"}}}}"#,
            r#"{"sbx":{"name":"a","clone":{"packages":["--root=/"]}}}"#,
            r#"{"sbx":{"name":"a","mounts":["ram:/proc=1M"]}}"#,
            r#"{"sbx":{"name":"a","unit":{"names":[1]}}}"#,
        ] {
            assert!(portable(bad).is_err(), "{bad}");
        }
    }
}
