//! The document that the tools pass on: an OCI runtime-spec config with one object more, `sbx`.
//!
//! It stays a JSON value throughout, so that what a tool does not know survives it: unknown keys, their order, and
//! numbers of any size. A tool reads a leaf into a type of its own and writes its own leaves back.

use crate::Name;
use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The version of the OCI runtime specification that our fields follow; the crun of Debian 12 refuses a later one.
const OCI_VERSION: &str = "1.1.0";

/// One container's document. Fields are addressed by dotted paths: `linux.mountLabel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Document(Value);

impl Document {
    /// A new document that holds a name and nothing else.
    pub fn new(name: &Name) -> Self {
        Self(json!({ "ociVersion": OCI_VERSION, "sbx": { "name": name.as_str() } }))
    }

    /// Reads one JSON object, and nothing after it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(bytes).context("document is not JSON")?;
        if !value.is_object() {
            bail!("document is not a JSON object");
        }
        Ok(Self(value))
    }

    /// The document as one line of JSON, with its newline.
    pub fn to_line(&self) -> Vec<u8> {
        format!("{}\n", self.0).into_bytes()
    }

    /// The container's name, `sbx.name`.
    pub fn name(&self) -> Result<Name> {
        let text: String = self.require("sbx.name").context("a document starts with --name NAME")?;
        text.parse().context("sbx.name")
    }

    /// The value at `path`, if there is one. `null` counts as absent.
    pub fn get(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.0, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// The value at `path` as a type of the caller's; an error names the path.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(value) = self.get(path) else { return Ok(None) };
        T::deserialize(value).map(Some).with_context(|| path.to_owned())
    }

    /// Like [`Document::read`], where the field must be there.
    pub fn require<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(path)?.ok_or_else(|| anyhow!("the document has no {path}"))
    }

    /// Writes a value at `path` and makes the objects that lead there. What stood there is replaced in place.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) -> Result<()> {
        let mut place = &mut self.0;
        for key in path.split('.') {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            let object = place.as_object_mut().with_context(|| format!("{path}: a parent is not an object"))?;
            place = object.entry(key).or_insert(Value::Null);
        }
        *place = value.into();
        Ok(())
    }

    /// Removes the value at `path`; keeps the order of what remains.
    pub fn unset(&mut self, path: &str) {
        let (parent, key) = path.rsplit_once('.').map_or(("", path), |(parent, key)| (parent, key));
        let keys = parent.split('.').filter(|key| !key.is_empty());
        let object = keys.into_iter().try_fold(&mut self.0, |value, key| value.get_mut(key));
        if let Some(object) = object.and_then(Value::as_object_mut) {
            object.shift_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_their_order_and_big_numbers_survive() {
        let text =
            r#"{"z":18446744073709551616,"a":1.50,"sbx":{"foreign":[1,{"b":null}],"name":"x"},"linux":{"k":-0.0}}"#;
        let mut doc = Document::parse(text.as_bytes()).expect("parse");
        doc.set("linux.mountLabel", "l").expect("set");
        let expected = text.replace(r#"{"k":-0.0}"#, r#"{"k":-0.0,"mountLabel":"l"}"#) + "\n";
        assert_eq!(String::from_utf8(doc.to_line()).expect("utf-8"), expected);
    }

    #[test]
    fn set_replaces_in_place_and_refuses_to_lose_a_scalar() {
        let mut doc = Document::parse(br#"{"a":{"b":1,"c":2},"d":3}"#).expect("parse");
        doc.set("a.b", 5).expect("set");
        doc.set("e.f", true).expect("set");
        assert!(doc.set("d.x", 1).is_err());
        doc.unset("a.c");
        doc.unset("no.such");
        assert_eq!(doc.to_line(), b"{\"a\":{\"b\":5},\"d\":3,\"e\":{\"f\":true}}\n");
    }

    #[test]
    fn only_one_json_object_is_a_document() {
        for bad in ["", "[]", "1", "{} {}", "{", "{\"a\":}"] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn errors_name_the_path() {
        let doc = Document::parse(br#"{"sbx":{"name":"a/b"},"root":{"path":1}}"#).expect("parse");
        assert!(format!("{:#}", doc.name().expect_err("name")).starts_with("sbx.name: bad container name"));
        assert!(format!("{:#}", doc.require::<String>("root.path").expect_err("path")).starts_with("root.path: "));
        assert!(format!("{:#}", doc.require::<String>("no.such").expect_err("none")).contains("no no.such"));
    }
}
