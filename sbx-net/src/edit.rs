//! What the document says of networks.

use anyhow::{Result, ensure};
use sbx::Document;
use serde_json::{Value, json};

/// Fills in the network, where the document has none.
pub fn plan(doc: &mut Document) -> Result<()> {
    doc.name()?;
    if doc.get("sbx.net").is_none() {
        doc.set("sbx.net", json!({ "interfaces": [] }))?;
    }
    check(doc)
}

/// An interface that is not understood must not be left out in silence.
pub fn check(doc: &Document) -> Result<()> {
    let interfaces: Vec<Value> = doc.read("sbx.net.interfaces")?.unwrap_or_default();
    ensure!(interfaces.is_empty(), "sbx.net.interfaces: only loopback is supported, which needs no entry");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_loopback_alone_and_nothing_else_is_taken_for_it() {
        let mut doc = Document::new(&"a".parse().expect("name"));
        plan(&mut doc).expect("plan");
        assert_eq!(doc.get("sbx.net"), Some(&json!({ "interfaces": [] })));
        for bad in [r#"{"interfaces":[{"x":1}]}"#, r#"{"interfaces":5}"#] {
            let mut doc = Document::parse(format!(r#"{{"sbx":{{"name":"a","net":{bad}}}}}"#).as_bytes()).expect("doc");
            assert!(plan(&mut doc).is_err(), "{bad}");
        }
    }
}
