//! What the document says of labels.

use crate::level::{Choice, Level};
use anyhow::{Context, Result, anyhow, ensure};
use sbx::Document;
use selinux::OpaqueSecurityContext;

/// Where a container's processes and files have their labels: the path, and user and role of a new label.
const LABELS: [(&str, &str); 2] =
    [("process.selinuxLabel", "system_u:system_r"), ("linux.mountLabel", "system_u:object_r")];

/// The SELinux types of a container: of its processes and of its private files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Types {
    pub process: String,
    pub file: String,
}

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Wish {
    pub process_type: Option<String>,
    pub file_type: Option<String>,
    pub label: Option<String>,
    pub choice: Choice,
}

impl Wish {
    /// The types asked for, or else those of the policy.
    pub fn types(&self, policy: Types) -> Types {
        Types {
            process: self.process_type.clone().unwrap_or(policy.process),
            file: self.file_type.clone().unwrap_or(policy.file),
        }
    }

    /// Fills in the label asked for; returns what the pair is to be chosen from.
    pub fn take_label(&self, doc: &mut Document) -> Result<Choice> {
        let Some(label) = &self.label else { return Ok(self.choice) };
        let bad = || format!("bad label {label:?}: USER:ROLE:TYPE:s0, perhaps with :cA,cB");
        let parts: Vec<&str> = label.splitn(5, ':').collect();
        ensure!(parts.len() >= 4 && parts[3] == "s0" && parts.iter().all(|part| !part.is_empty()), bad());
        doc.set(LABELS[0].0, label.as_str())?;
        match parts.get(4) {
            Some(pair) => Ok(Choice::Pair(pair.parse().map_err(|error: String| anyhow!(error)).with_context(bad)?)),
            None => Ok(self.choice),
        }
    }
}

/// Fills in both labels. One that the document has keeps its user, role and type, and gets the level.
pub fn fill(doc: &mut Document, types: &Types, level: Level) -> Result<()> {
    for ((path, origin), kind) in LABELS.into_iter().zip([&types.process, &types.file]) {
        let text = doc.read::<String>(path)?.unwrap_or_else(|| format!("{origin}:{kind}:s0"));
        let bad = || format!("{path}: bad SELinux context {text:?}");
        let context = OpaqueSecurityContext::new(&text).with_context(bad)?;
        context.set_range_str(&format!("s0:{level}")).with_context(bad)?;
        let context = context.to_c_string().with_context(bad)?.to_str().with_context(bad)?.to_owned();
        doc.set(path, context)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_label_has_the_types_and_a_given_one_keeps_its_own() {
        let types = Types { process: "sbx_t".into(), file: "sbx_file_t".into() };
        let text = br#"{"linux":{"mountLabel":"u:r:t:s0:c9,c10"}}"#;
        let mut doc = Document::parse(text).expect("document");
        fill(&mut doc, &types, "c1,c2".parse().expect("level")).expect("fill");
        let label = |path: &str| doc.require::<String>(path).expect("label");
        assert_eq!(label("process.selinuxLabel"), "system_u:system_r:sbx_t:s0:c1,c2");
        assert_eq!(label("linux.mountLabel"), "u:r:t:s0:c1,c2");
        let wish = |label: &str| Wish { label: Some(label.into()), ..Wish::default() };
        let choice = wish("u:r:t:s0:c5,c7").take_label(&mut doc).expect("a pair");
        assert_eq!(choice.pairs(3).map(|pair| pair.to_string()).collect::<Vec<_>>(), ["c5,c7"]);
        fill(&mut doc, &types, "c5,c7".parse().expect("level")).expect("fill");
        assert_eq!(doc.require::<String>("process.selinuxLabel").expect("label"), "u:r:t:s0:c5,c7");
        assert!(wish("u:r:t:s0").take_label(&mut doc).expect("no pair").pairs(3).count() > 1);
        for bad in ["", "u:r:t", "u:r:t:s0:", "u:r:t:s0:c5", "u:r:t:s0:c1,c2,c3", "u::t:s0:c1,c2", "u:r:t:s1:c1,c2"] {
            assert!(wish(bad).take_label(&mut doc).is_err(), "{bad}");
        }
        let mut doc = Document::parse(br#"{"linux":{"mountLabel":"nonsense"}}"#).expect("document");
        assert!(fill(&mut doc, &types, "c1,c2".parse().expect("level")).is_err());
    }
}
