//! The records of an extended header, `LENGTH KEYWORD=VALUE`, which say what the header has no room for.

use crate::look::XATTR_MAX;
use anyhow::{Context, Result, ensure};
use rustix::fs::Timespec;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

/// What the keyword of an extended attribute begins with.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records by their keywords.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    pub fn parse(mut text: &[u8]) -> Result<Self> {
        let mut records = BTreeMap::new();
        while !text.is_empty() {
            let (record, rest) = first(text).context("an extended header is malformed")?;
            let equals = record.iter().position(|byte| *byte == b'=').context("an extended header is malformed")?;
            records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
            text = rest;
        }
        Ok(Self(records))
    }

    pub fn text(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(key, value)| record(&[key, b"=".as_slice(), value].concat())).collect()
    }

    pub fn set(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), value.into());
    }

    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key.as_bytes()).map(Vec::as_slice)
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|text| decimal(text).context(key.to_owned())).transpose()
    }

    pub fn time(&self, key: &str) -> Result<Option<Timespec>> {
        self.get(key).map(|text| time(text).with_context(|| format!("bad {key}"))).transpose()
    }

    pub fn set_time(&mut self, key: &str, Timespec { tv_sec, tv_nsec }: Timespec) {
        // What is before 1970 counts from there backwards.
        let text = match (tv_sec, tv_nsec) {
            (..0, 1..) => format!("-{}.{:09}", -(tv_sec + 1), 1_000_000_000 - tv_nsec),
            _ => format!("{tv_sec}.{tv_nsec:09}"),
        };
        self.set(key, text);
    }

    /// The extended attributes, which together are no more than a file system has room for. In their keywords `=` and
    /// `%` are escaped, as GNU tar does it.
    pub fn attributes(&self) -> Result<Vec<(CString, Vec<u8>)>> {
        let attribute = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            let name = key.strip_prefix(XATTR)?;
            let name = CString::new(replace(&replace(name, b"%3D", b"="), b"%25", b"%"));
            Some(name.context("the name of an attribute has a zero byte").map(|name| (name, value.clone())))
        };
        let attributes: Vec<_> = self.0.iter().filter_map(attribute).collect::<Result<_>>()?;
        let length: usize = attributes.iter().map(|(name, value)| name.count_bytes() + value.len()).sum();
        ensure!(length <= 2 * XATTR_MAX, "its attributes have {length} bytes");
        Ok(attributes)
    }

    pub fn set_attribute(&mut self, name: &CStr, value: &[u8]) {
        let name = replace(&replace(name.to_bytes(), b"%", b"%25"), b"=", b"%3D");
        self.0.insert([XATTR, &name].concat(), value.to_owned());
    }

    /// Whether there is a record of a family that is not one of `known`.
    pub fn has_others(&self, family: &str, known: &[&str]) -> bool {
        self.0.keys().any(|key| {
            key.strip_prefix(family.as_bytes()).is_some_and(|rest| !known.iter().any(|known| known.as_bytes() == rest))
        })
    }
}

/// The first record, and what follows it.
fn first(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&text[..space]).ok()?).ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    Some((record.get(space + 1..)?.strip_suffix(b"\n")?, rest))
}

/// A record with its length, in which the digits of that count too.
fn record(text: &[u8]) -> Vec<u8> {
    let rest = text.len() + 2;
    let digits = |length: usize| length.to_string().len();
    let mut length = rest + digits(rest);
    length = rest + digits(length);
    [length.to_string().as_bytes(), b" ", text, b"\n"].concat()
}

/// A decimal number: digits and nothing else.
pub fn decimal(text: &[u8]) -> Result<u64> {
    ensure!(
        !text.is_empty() && text.iter().all(u8::is_ascii_digit),
        "{:?} is no number",
        text.escape_ascii().to_string()
    );
    str::from_utf8(text)?.parse().context("a number is too large")
}

/// Seconds since 1970, with or without a fraction.
fn time(text: &[u8]) -> Result<Timespec> {
    let (is_before, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?)?;
    let fraction = text.get(point + 1..).unwrap_or_default().iter().chain(b"000000000").take(9);
    let nanoseconds = decimal(&fraction.copied().collect::<Vec<_>>())?.cast_signed();
    Ok(match (is_before, nanoseconds) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, _) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds },
    })
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        match rest.strip_prefix(from) {
            Some(behind) => {
                replaced.extend(to);
                rest = behind;
            }
            None => {
                replaced.push(*first);
                rest = others;
            }
        }
    }
    replaced
}
