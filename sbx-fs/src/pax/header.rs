//! The block before each member: fields of text, and of octal numbers.

use super::BLOCK;
use anyhow::{Context, Result, ensure};
use std::ops::Range;

pub const NAME: Range<usize> = 0..100;
pub const MODE: Range<usize> = 100..108;
pub const UID: Range<usize> = 108..116;
pub const GID: Range<usize> = 116..124;
pub const SIZE: Range<usize> = 124..136;
pub const MODIFIED: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
pub const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
pub const MAJOR: Range<usize> = 329..337;
pub const MINOR: Range<usize> = 337..345;
pub const PREFIX: Range<usize> = 345..500;

/// What POSIX has as magic number and version.
const USTAR: &[u8] = b"ustar\x0000";

#[derive(Debug)]
pub struct Header(pub [u8; BLOCK]);

impl Header {
    pub fn new(kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[TYPE] = kind;
        header.0[MAGIC].copy_from_slice(USTAR);
        header
    }

    /// Checks one that was read.
    pub fn check(&self) -> Result<()> {
        ensure!(self.0[MAGIC] == *USTAR, "it is no archive in the pax format");
        ensure!(self.octal(CHECKSUM)? == checksum(&self.0), "the checksum of a header is wrong");
        Ok(())
    }

    pub fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// The text of a field.
    pub fn text(&self, field: Range<usize>) -> &[u8] {
        self.0[field].split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Fills a field with as much of a text as it takes; tells whether that is all.
    pub fn set(&mut self, field: Range<usize>, text: &[u8]) -> bool {
        let length = text.len().min(field.len());
        self.0[field][..length].copy_from_slice(&text[..length]);
        length == text.len()
    }

    /// The number of a field.
    pub fn octal(&self, field: Range<usize>) -> Result<u64> {
        let text = self.text(field).trim_ascii();
        if text.is_empty() {
            return Ok(0);
        }
        ensure!(text.iter().all(u8::is_ascii_digit), "a number of a header is none");
        u64::from_str_radix(str::from_utf8(text)?, 8).context("a number of a header is none")
    }

    /// Fills a field with a number, or with 0 if that does not fit; tells whether it does.
    pub fn set_octal(&mut self, field: Range<usize>, number: u64) -> bool {
        let digits = field.len() - 1;
        let fits = number >> (3 * digits) == 0;
        let text = format!("{:0digits$o}", if fits { number } else { 0 });
        self.set(field, text.as_bytes()) && fits
    }
}

/// Puts the checksum into a header that is otherwise whole.
pub fn seal(header: &mut [u8]) {
    let sum = format!("{:06o}\0 ", checksum(header));
    header[CHECKSUM].copy_from_slice(sum.as_bytes());
}

/// The sum of all bytes, in which those of its own field count as spaces.
fn checksum(header: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| u64::from(if CHECKSUM.contains(&at) { b' ' } else { *byte });
    header.iter().enumerate().map(byte).sum()
}
