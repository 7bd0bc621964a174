//! What the document says of units and of the command that a container runs.

use crate::settings;
use crate::unit::{Unit, UnitName};
use anyhow::{Result, anyhow, ensure};
use sbx::Document;
use sbx::passwd::Identity;
use serde::{Deserialize, Serialize};
use serde_json::{json, to_value};
use std::collections::BTreeMap;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `sbx.unit`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Units {
    /// The wanted units; none in a generic command's container.
    pub names: Vec<String>,
    /// For each unit the settings that do not work inside.
    pub switched_off: BTreeMap<String, Vec<String>>,
    /// The init of a root of its own, which runs what that root says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// The signal that ends the container's PID 1 in an orderly way.
    pub stop_signal: Option<String>,
}

/// An init, by whether it says when it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// It does, as sd_notify(3) has it, and ends by SIGRTMIN+3 (its CONTAINER_INTERFACE).
    Systemd,
    /// It may be any: it is ready when it has been executed.
    Other,
}

/// `container` tells systemd where it is (its CONTAINER_INTERFACE).
const INIT_ENVIRONMENT: [&str; 2] = [PATH, "container=sbx"];

/// What ends systemd in an orderly way (systemd(1)).
const INIT_STOP_SIGNAL: &str = "SIGRTMIN+3";

impl Units {
    /// The wanted units by their checked names.
    pub fn names(&self) -> Result<Vec<UnitName>> {
        self.names.iter().map(|name| name.parse().map_err(|error| anyhow!("sbx.unit.names: {error}"))).collect()
    }

    /// The stop signal by its checked name.
    pub fn stop_signal(&self) -> Result<&str> {
        let signal = self.stop_signal.as_deref().unwrap_or("SIGTERM");
        let rest = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'+' || b == b'-';
        ensure!(signal.starts_with("SIG") && signal.bytes().all(rest), "sbx.unit.stopSignal: no signal {signal:?}");
        Ok(signal)
    }
}

/// What a document has of units. An instance that is called like the container that this one was cloned from, such as
/// `foo@SOURCE`, is called like this one.
pub fn known(doc: &Document) -> Result<Units> {
    let Units { names, switched_off, init, stop_signal } = doc.read("sbx.unit")?.unwrap_or_default();
    let (name, source) = (doc.name()?, doc.read::<String>("sbx.clone.from")?);
    let source = source.map(|source| format!("@{source}.service"));
    let renamed = |unit: String| match source.as_deref().and_then(|source| unit.strip_suffix(source)) {
        Some(template) => format!("{template}@{name}.service"),
        None => unit,
    };
    Ok(Units {
        names: names.into_iter().map(renamed).collect(),
        switched_off: switched_off.into_iter().map(|(unit, settings)| (renamed(unit), settings)).collect(),
        init,
        stop_signal,
    })
}

/// Makes the container one of units: systemd runs them, and what is started along with them.
pub fn read(doc: &mut Document, units: &[Unit], along: &[Unit]) -> Result<()> {
    let mut wanted = Units { stop_signal: Some(INIT_STOP_SIGNAL.into()), ..Units::default() };
    for unit in units {
        let name = unit.name.to_string();
        // Asked for twice, or by an alias too.
        if wanted.names.contains(&name) {
            continue;
        }
        let off = settings::switched_off(unit)?;
        if !off.is_empty() {
            wanted.switched_off.insert(name.clone(), off);
        }
        wanted.names.push(name);
    }
    for unit in along {
        // One that cannot run inside fails there, by itself.
        if let Some(off) = settings::switched_off(unit).ok().filter(|off| !off.is_empty()) {
            wanted.switched_off.insert(unit.name.to_string(), off);
        }
    }
    doc.set("sbx.unit", to_value(&wanted)?)
}

/// Has the container run systemd, which is at `path`, for its units alone.
pub fn systemd(doc: &mut Document, path: &str) -> Result<()> {
    process(doc, &[path.to_owned(), "--unit=sbx.target".into()], &INIT_ENVIRONMENT, &Identity::default())
}

/// Makes the container one that boots as its root says: `path` is its init.
pub fn init(doc: &mut Document, path: &str, init: Init) -> Result<()> {
    let signal = if init == Init::Systemd { INIT_STOP_SIGNAL } else { "SIGTERM" };
    process(doc, &[path.to_owned()], &INIT_ENVIRONMENT, &Identity::default())?;
    doc.set("sbx.unit", json!({ "init": init, "stopSignal": signal }))
}

/// Makes the container one of a generic command.
pub fn command(doc: &mut Document, args: &[String], user: &Identity) -> Result<()> {
    process(doc, args, &[PATH], user)?;
    doc.set("sbx.unit", json!({ "stopSignal": "SIGTERM" }))
}

fn process(doc: &mut Document, args: &[String], env: &[&str], user: &Identity) -> Result<()> {
    doc.set("process.args", args)?;
    doc.set("process.env", env)?;
    doc.set("process.cwd", "/")?;
    doc.set("process.user.uid", user.uid)?;
    doc.set("process.user.gid", user.gid)?;
    if user.groups.is_empty() {
        doc.unset("process.user.additionalGids");
        return Ok(());
    }
    doc.set("process.user.additionalGids", &*user.groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_container_runs_systemd() {
        let text = br#"{"process":{"user":{"umask":7,"uid":5},"x":1},"sbx":{"name":"n","unit":{"old":1}}}"#;
        let mut doc = Document::parse(text).expect("document");
        let units = [
            Unit::of_text("a", "[Service]\nPrivateTmp=yes\n"),
            Unit::of_text("b", "[Service]\n"),
            Unit::of_text("a", "[Service]\nPrivateTmp=yes\n"),
        ];
        read(&mut doc, &units, &[]).expect("read");
        systemd(&mut doc, "/lib/systemd/systemd").expect("systemd");
        let expected = concat!(
            r#"{"process":{"user":{"umask":7,"uid":0,"gid":0},"x":1,"#,
            r#""args":["/lib/systemd/systemd","--unit=sbx.target"],"#,
            r#""env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","container=sbx"],"cwd":"/"},"#,
            r#""sbx":{"name":"n","unit":{"names":["a.service","b.service"],"#,
            r#""switchedOff":{"a.service":["PrivateTmp"]},"stopSignal":"SIGRTMIN+3"}}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(doc.to_line()).expect("utf-8"), expected);
    }

    #[test]
    fn what_is_called_like_the_source_of_a_clone_is_called_like_the_clone() {
        let known = |clone: &str| {
            let units = r#"{"names":["foo@a.service","foo@c.service","a.service"],"switchedOff":{"foo@a.service":[]}}"#;
            let text = format!(r#"{{"sbx":{{"name":"b","clone":{clone},"unit":{units}}}}}"#);
            let units = super::known(&Document::parse(text.as_bytes()).expect("document")).expect("units");
            [units.names, units.switched_off.into_keys().collect()].concat().join(" ")
        };
        assert_eq!(known(r#"{"from":"a"}"#), "foo@b.service foo@c.service a.service foo@b.service");
        assert_eq!(known("{}"), "foo@a.service foo@c.service a.service foo@a.service");
    }

    #[test]
    fn a_commands_container_has_no_units() {
        let mut doc = Document::new(&"n".parse().expect("name"));
        let mut user = Identity { uid: 7, gid: 8, groups: vec![9] };
        command(&mut doc, &["ls".into(), "-l".into()], &user).expect("command");
        assert_eq!(doc.require::<Vec<String>>("process.args").expect("args"), ["ls", "-l"]);
        assert_eq!(doc.get("process.user").as_deref(), Some(r#"{"uid":7,"gid":8,"additionalGids":[9]}"#));
        user.groups.clear();
        command(&mut doc, &["ls".into(), "-l".into()], &user).expect("command");
        assert_eq!(doc.get("process.user").as_deref(), Some(r#"{"uid":7,"gid":8}"#));
        let units: Units = doc.require("sbx.unit").expect("units");
        assert_eq!(units, Units { stop_signal: Some("SIGTERM".into()), ..Units::default() });
    }

    #[test]
    fn what_a_document_says_is_checked_before_it_reaches_a_file() {
        let units = |text: &str| serde_json::from_str::<Units>(text).expect(text);
        assert!(units(r#"{"names":["a.service\nExecStart=/x"]}"#).names().is_err());
        assert!(units(r#"{"names":["../a"]}"#).names().is_err());
        assert!(units(r#"{"stopSignal":"SIGTERM\nx"}"#).stop_signal().is_err());
        assert!(units(r#"{"stopSignal":"9"}"#).stop_signal().is_err());
        assert_eq!(units("{}").stop_signal().expect("default"), "SIGTERM");
    }
}
