//! The syntax of unit files (systemd.syntax(7)), as systemd reads it.

use anyhow::{Result, bail};

/// One `Key=Value` of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The section's name.
    pub section: String,
    /// Never with white space around it.
    pub key: String,
    /// Likewise; empty, where systemd forgets the values before.
    pub value: String,
}

/// All assignments of a unit file in their order. What systemd passes over with a warning (a line without `=`, an
/// assignment outside of a section) is passed over; what makes it refuse the file is an error.
pub fn parse(text: &str) -> Result<Vec<Assignment>> {
    let mut assignments = Vec::new();
    let mut section = None;
    for line in logical_lines(text) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix('[') {
            match rest.strip_suffix(']') {
                Some(name) => section = Some(name.to_owned()),
                None => bail!("bad section header {line:?}"),
            }
        } else if let (Some((key, value)), Some(section)) = (line.split_once('='), &section) {
            let (section, key, value) = (section.clone(), key.trim().to_owned(), value.trim().to_owned());
            assignments.push(Assignment { section, key, value });
        }
    }
    Ok(assignments)
}

/// Joins lines that end in a backslash, which becomes a space. Comments are left out, also between continued lines.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // systemd ends a line at any of these.
    for line in text.split(['\n', '\r', '\0']).map(str::trim_start).filter(|line| !line.starts_with(['#', ';'])) {
        begun.push_str(line);
        // A backslash that is itself escaped continues nothing.
        let backslashes = line.bytes().rev().take_while(|b| *b == b'\\').count();
        if backslashes % 2 == 1 {
            begun.pop();
            begun.push(' ');
        } else {
            lines.push(std::mem::take(&mut begun));
        }
    }
    lines.push(begun);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assignment(section: &str, key: &str, value: &str) -> Assignment {
        Assignment { section: section.into(), key: key.into(), value: value.into() }
    }

    #[test]
    fn a_unit_file_is_read_as_systemd_reads_it() {
        let text = "\u{feff}Lost=1\n[Unit]\n# comment\n ; comment\nDescription = a = b \n\n[Service]\nno assignment\n\
            ExecStart=/bin/x \\\n# between\n  --one \\\n--two\nEnvironment=A=\\\\\nExecStart=\nLast=1 \\";
        let expected = [
            assignment("Unit", "Description", "a = b"),
            assignment("Service", "ExecStart", "/bin/x  --one  --two"),
            assignment("Service", "Environment", "A=\\\\"),
            assignment("Service", "ExecStart", ""),
            assignment("Service", "Last", "1"),
        ];
        assert_eq!(parse(text).expect("parse"), expected);
        assert!(parse("[Unit\nA=1\n").is_err());
        assert_eq!(parse("").expect("empty"), []);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read_whatever_stands_between(
            values in prop::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,9}", "([!-~]([ -~]*[!-\\[\\]-~])?)?"), 0..9),
            noise in prop::sample::select(vec!["", "\n", "# comment \\\n", " ; comment\n", " \t\n"]),
        ) {
            let mut text = "[Service]\n".to_owned();
            let mut expected = Vec::new();
            for (key, value) in values.iter().filter(|(_, value)| value != "\\") {
                text += &format!("{noise}{key} \\\n# between\n={value}\n");
                expected.push(assignment("Service", key, value));
            }
            prop_assert_eq!(parse(&text).expect("parse"), expected);
        }
    }
}
