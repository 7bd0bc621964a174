//! The document that the tools pass on: an OCI runtime-spec config with one object more, `sbx`.
//!
//! What a tool does not know survives it: unknown keys, their order, and numbers of any size and spelling. It reads a leaf
//! into a type of its own and writes its own leaves back; all else stays the text that it came as. So a tool costs little
//! more than to start it: nine tenths of a document are the filter for system calls, which most only pass on.

use crate::Name;
use anyhow::{Context, Result, anyhow};
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;
use std::io::Write;

/// The version of the OCI runtime specification that our fields follow; the crun of Debian 12 refuses a later one.
const OCI_VERSION: &str = "1.1.0";

/// One container's document. Fields are addressed by dotted paths: `linux.mountLabel`.
#[derive(Debug, Clone)]
pub struct Document(Node);

/// A value of the document.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Box<RawValue>")]
enum Node {
    Object(IndexMap<String, Node>),
    /// JSON that nobody has looked into.
    Text(Box<str>),
}

impl Default for Document {
    /// One that says nothing.
    fn default() -> Self {
        Self(Node::Object(IndexMap::new()))
    }
}

impl Document {
    /// How many bytes hold most documents that have no filter of system calls.
    pub const USUAL: usize = 8 << 10;

    /// A new document that holds a name and nothing else.
    pub fn new(name: &Name) -> Self {
        Self(json!({ "ociVersion": OCI_VERSION, "sbx": { "name": name.as_str() } }).into())
    }

    /// Reads one JSON object, and nothing after it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let what = "document is not a JSON object";
        let mut bytes = Cow::Borrowed(bytes);
        // Text is printed as it came, and a document is one line; an escape could be half of a character, which only he who
        // reads it would notice.
        if [b'\n', b'\\'].iter().any(|byte| bytes.trim_ascii_end().contains(byte)) {
            let value: Value = serde_json::from_slice(&bytes).context(what)?;
            bytes = value.to_string().into_bytes().into();
        }
        let members: IndexMap<String, &RawValue> = serde_json::from_slice(&bytes).context(what)?;
        // So that a field such as `linux.mountLabel` is found without reading through `linux` each time.
        let members = members.into_iter().map(|(key, text)| (key, Node::opened(text.get())));
        Ok(Self(Node::Object(members.collect())))
    }

    /// The document as one line of JSON, with its newline.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(Self::USUAL);
        // To memory, which takes all.
        let _ = writeln!(line, "{}", self.0);
        line
    }

    /// The container's name, `sbx.name`.
    pub fn name(&self) -> Result<Name> {
        let text: String = self.require("sbx.name").context("a document starts with --name NAME")?;
        text.parse().context("sbx.name")
    }

    /// The JSON at `path`, if there is any. `null` counts as absent.
    pub fn get(&self, path: &str) -> Option<String> {
        let node = path.split('.').try_fold(Cow::Borrowed(&self.0), |node, key| match node {
            Cow::Borrowed(Node::Object(members)) => members.get(key).map(Cow::Borrowed),
            node => node.into_owned().open()?.swap_remove(key).map(Cow::Owned),
        });
        node.filter(|node| !node.is_null()).map(|node| node.to_string())
    }

    /// The value at `path` as a type of the caller's; an error names the path.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(text) = self.get(path) else { return Ok(None) };
        let value = serde_json::from_str(&text).map_err(|error| {
            // Nobody has seen the text whose line and column it tells.
            let text = error.to_string();
            anyhow!("{}", text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what))
        });
        value.map(Some).with_context(|| path.to_owned())
    }

    /// Like [`Document::read`], where the field must be there.
    pub fn require<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(path)?.ok_or_else(|| anyhow!("the document has no {path}"))
    }

    /// Writes a value at `path` and makes the objects that lead there. What stood there is replaced in place.
    pub fn set(&mut self, path: &str, value: impl Serialize) -> Result<()> {
        let mut place = &mut self.0;
        for key in path.split('.') {
            if place.is_null() {
                *place = Node::Object(IndexMap::new());
            }
            let object = place.open().with_context(|| format!("{path}: a parent is not an object"))?;
            place = object.entry(key.to_owned()).or_insert_with(|| Value::Null.into());
        }
        *place = Node::Text(serde_json::to_string(&value).with_context(|| path.to_owned())?.into());
        Ok(())
    }

    /// Removes the value at `path`; keeps the order of what remains.
    pub fn unset(&mut self, path: &str) {
        let (parent, key) = path.rsplit_once('.').map_or(("", path), |(parent, key)| (parent, key));
        let keys = parent.split('.').filter(|key| !key.is_empty());
        let object = keys.into_iter().try_fold(&mut self.0, |node, key| node.open()?.get_mut(key));
        if let Some(object) = object.and_then(Node::open) {
            object.shift_remove(key);
        }
    }
}

impl PartialEq for Document {
    /// Whether both are printed alike.
    fn eq(&self, other: &Self) -> bool {
        self.to_line() == other.to_line()
    }
}

impl Node {
    fn is_null(&self) -> bool {
        matches!(self, Self::Text(text) if **text == *"null")
    }

    /// An object's members, or the text of anything else.
    fn opened(text: &str) -> Self {
        // Not tried in vain: to say where a text is wrong takes longer than to read it.
        let members = if text.starts_with('{') { serde_json::from_str(text).ok() } else { None };
        members.map_or_else(|| Self::Text(text.into()), Self::Object)
    }

    /// The members of an object. What was text until now is taken apart.
    fn open(&mut self) -> Option<&mut IndexMap<String, Node>> {
        if let Self::Text(text) = self {
            *self = Self::opened(text);
        }
        if let Self::Object(members) = self { Some(members) } else { None }
    }
}

impl From<Box<RawValue>> for Node {
    fn from(text: Box<RawValue>) -> Self {
        Self::Text(text.into())
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        Self::Text(value.to_string().into())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Object(members) => {
                for (at, (key, member)) in members.iter().enumerate() {
                    write!(f, "{}{}:{member}", if at == 0 { '{' } else { ',' }, Value::from(key.as_str()))?;
                }
                f.write_str(if members.is_empty() { "{}" } else { "}" })
            }
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
    fn lines_become_one_and_what_no_text_can_be_is_refused_by_whoever_passes_it_on() {
        let doc = Document::parse(b"{ \"a\":\n [1,\n  {\"\\u0062\": 1.50}]\n}\n").expect("parse");
        assert_eq!(doc.to_line(), b"{\"a\":[1,{\"b\":1.50}]}\n");
        let half = |place: &str| format!(r#"{{"sbx":{{"name":"x"}},{place}}}"#);
        for place in [r#""a":"\ud800""#, r#""linux":{"\ud800":1}"#, r#""linux":{"a":{"b":["\ud800"]}}"#] {
            assert!(Document::parse(half(place).as_bytes()).is_err(), "{place}");
        }
        assert!(Document::parse(b"{\"a\":{\"b\":[\"\xff\"]}}").is_err());
    }

    #[test]
    fn a_field_is_found_however_deep_and_whatever_was_taken_apart() {
        let mut doc = Document::parse(br#"{"a":{"b":{"c":{"d":[1],"e":null}}}}"#).expect("parse");
        assert_eq!(doc.get("a.b.c.d").as_deref(), Some("[1]"));
        assert_eq!((doc.get("a.b.c.e"), doc.get("a.b.c.d.x"), doc.get("b")), (None, None, None));
        doc.set("a.b.c.f", "x").expect("set");
        assert_eq!(doc.get("a").as_deref(), Some(r#"{"b":{"c":{"d":[1],"e":null,"f":"x"}}}"#));
        let error = doc.read::<u8>("a.b.c.f").expect_err("a number");
        assert_eq!(format!("{error:#}"), r#"a.b.c.f: invalid type: string "x", expected u8"#);
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
