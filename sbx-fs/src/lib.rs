//! What sbx-fs does, apart from its command line: a library for the program, and for what tests its parsers.

#![allow(missing_docs, reason = "nobody else uses it")]

pub mod apply;
pub mod archive;
pub mod clone;
mod content;
mod copy;
pub mod edit;
mod extra;
pub mod host;
mod image;
pub mod look;
pub mod manifest;
pub mod mount;
mod packages;
mod parallel;
pub mod pax;
mod progress;
pub mod resize;
mod resolvers;
#[cfg(test)]
mod scratch;
mod secrets;
pub mod select;
mod snapshot;
mod tree;
pub mod upgrade;
mod writers;
