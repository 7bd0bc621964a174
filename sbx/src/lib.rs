//! What all sbx tools share.
//!
//! A tool reads a document ([`Document`]), does one step, and prints the document ([`tool`] is that contract).
//! What a step leaves on the host lies at a place derived from the container's [`Name`] ([`store`], [`claim`]).
//! [`confine`] is the one routine that gives up privileges, [`holder`] the conversation with the process that
//! holds a container's namespaces, [`process`] the rule by which a recorded process is believed.

pub mod cgroup;
pub mod claim;
pub mod confine;
pub mod document;
pub mod holder;
pub mod host;
pub mod ids;
pub mod inner;
pub mod label;
pub mod landlock;
pub mod lifeline;
pub mod mount;
pub mod mountinfo;
pub mod name;
pub mod namespace;
pub mod passwd;
pub mod process;
pub mod procfs;
pub mod program;
pub mod rights;
pub mod rootless;
pub mod seccomp;
pub mod size;
pub mod storage;
pub mod store;
pub mod sys;
pub mod terminal;
pub mod tool;
pub mod tree;

/// The memory of a tool that does its step and ends. musl's own allocator gives a page back as soon as it is free, which takes
/// as long as the step, and is right for a process that stays: the holder.
#[cfg(target_env = "musl")]
pub use dlmalloc::GlobalDlmalloc as Memory;
pub use document::Document;
pub use name::Name;
pub use size::Size;
#[cfg(not(target_env = "musl"))]
pub use std::alloc::System as Memory;
