//! What the document says of limits.

use crate::device::{self, Devices};
use crate::quantity::{Cpus, IoWeight, Pids};
use anyhow::{Result, ensure};
use sbx::{Document, Name, Size};
use serde_json::json;

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Wish {
    pub memory: Option<Size>,
    pub cpus: Option<Cpus>,
    pub pids: Option<Pids>,
    pub io_weight: Option<IoWeight>,
    pub devices: Option<Devices>,
}

/// Fills in the cgroup's path and the limits asked for; others stay as they are.
pub fn limit(doc: &mut Document, wish: &Wish) -> Result<()> {
    let name = doc.name()?;
    check_path(doc, &name)?;
    doc.set("linux.cgroupsPath", path(&name))?;
    let cpus = wish.cpus;
    for (field, value) in [
        ("memory.limit", wish.memory.map(|size| size.0)),
        ("cpu.quota", cpus.map(|cpus| cpus.0)),
        ("cpu.period", cpus.map(|_| Cpus::PERIOD)),
        ("pids.limit", wish.pids.map(|pids| pids.0)),
        ("blockIO.weight", wish.io_weight.map(|weight| weight.0)),
    ] {
        if let Some(value) = value {
            doc.set(&format!("linux.resources.{field}"), value)?;
        }
    }
    if let Some(devices) = wish.devices {
        doc.set(device::FIELD, json!(device::rules(devices)))?;
    }
    Ok(())
}

/// Where a container's cgroups lie below a hierarchy's root, unless a service manager has delegated one.
pub fn path(name: &Name) -> String {
    format!("/sbx/{name}")
}

/// The place is derived from the name, so that it can be found again: another one is refused.
pub fn check_path(doc: &Document, name: &Name) -> Result<()> {
    let (wanted, given) = (path(name), doc.read::<String>("linux.cgroupsPath")?);
    let given = given.unwrap_or_else(|| wanted.clone());
    ensure!(given == wanted, "linux.cgroupsPath: {given:?} is not {wanted}, where the cgroups of {name} are");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_fill_in_their_fields_and_no_others() {
        let text = br#"{"sbx":{"name":"a"},"linux":{"resources":{"memory":{"limit":5,"x":1},"pids":{"limit":7}}}}"#;
        let mut doc = Document::parse(text).expect("document");
        let wish = Wish { memory: "1M".parse().ok(), cpus: "0.5".parse().ok(), ..Wish::default() };
        limit(&mut doc, &wish).expect("limit");
        let expected = r#"{"sbx":{"name":"a"},"linux":{"resources":{"memory":{"limit":1048576,"x":1},"pids":{"limit":7},"cpu":{"quota":50000,"period":100000}},"cgroupsPath":"/sbx/a"}}"#;
        assert_eq!(String::from_utf8(doc.to_line()).expect("utf-8"), format!("{expected}\n"));
    }

    #[test]
    fn a_path_that_is_not_the_names_is_refused() {
        let mut doc = Document::parse(br#"{"sbx":{"name":"a"},"linux":{"cgroupsPath":"/system.slice"}}"#).expect("doc");
        assert!(limit(&mut doc, &Wish::default()).is_err());
    }
}
