//! Names of containers and what is derived from them.

use std::fmt;
use std::str::FromStr;

/// A container's name: `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
///
/// The alphabet has no `/`, and the first character rules out `.`, `..` and hidden files, so a name is one safe
/// path component and one safe part of a unit's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

/// The longest name in bytes. The kernel's limit for a host name is the same (`HOST_NAME_MAX`, gethostname(2)).
const MAX_LEN: usize = 64;

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the container's systemd unit on the host.
    pub fn unit(&self) -> String {
        format!("{}_sandbox.service", self.0)
    }

    /// The host name inside: the name, less what systemd refuses in one (hostname(5)): empty labels, and hyphens at
    /// either end of a label.
    pub fn hostname(&self) -> String {
        let labels = self.0.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty());
        labels.collect::<Vec<_>>().join(".")
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        match text.as_bytes() {
            [first, ..] if first.is_ascii_alphanumeric() && text.len() <= MAX_LEN && text.bytes().all(rest) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(BadName(text.chars().take(MAX_LEN + 1).collect())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no container's name.
#[derive(Debug)]
pub struct BadName(String);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad container name {:?}: 1 to {MAX_LEN} of A-Z a-z 0-9 _ . -, the first a letter or digit", self.0)
    }
}

impl std::error::Error for BadName {}

/// A host name that systemd takes (hostname(5)): labels of letters, digits, `-` and `_`, at most 64 bytes in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(String);

impl FromStr for Hostname {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if text.len() <= MAX_LEN && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("bad host name {text:?}"))
        }
    }
}

impl From<Hostname> for String {
    fn from(Hostname(text): Hostname) -> Self {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_safe_path_component() {
        for good in ["a", "apache1", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(good.parse::<Name>().expect(good).as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\nb", "a%n", "é", &"x".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_host_name_is_the_name_less_what_systemd_refuses() {
        let hostname = |text: &str| text.parse::<Name>().expect(text).hostname();
        assert_eq!(hostname("apache1"), "apache1");
        assert_eq!(hostname("www.example_1.org"), "www.example_1.org");
        assert_eq!(hostname("a..b-.c."), "a.b.c");
    }

    #[test]
    fn host_names_are_what_systemd_takes() {
        for bad in ["", ".", "a.", "a..b", "-a", "a-", "a b", "a\nb", &"x".repeat(65)] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
        }
    }
}
