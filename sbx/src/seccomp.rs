//! `linux.seccomp` of the document, compiled to one program for the kernel (seccomp(2)).
//!
//! It means what it means to runc and crun, which hand it to libseccomp:
//!
//! - a rule that gives the default answer is passed over, and so is a name that this architecture does not have;
//! - of the rules of a call that have no conditions the first counts, and those with conditions count for nothing beside it;
//! - conditions on several arguments hold together; of several on one argument each is a rule of its own.
//!
//! Where rules with conditions overlap, libseccomp's answer depends on the order of its tree; ours is the strictest.
//! A call by the convention of another architecture ends the process, whatever `architectures` lists: on x86-64 the
//! calls of i386, and those of x32, whose numbers have a bit more.

mod program;

use crate::sys;
use anyhow::{Context, Result, ensure};
use nix::libc::{self, sock_filter};
use program::{Call, program};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fmt;
use syscalls::Sysno;

/// An architecture whose calls we know.
struct Architecture {
    /// As Rust calls it.
    name: &'static str,
    /// As the OCI runtime specification calls it.
    oci: &'static str,
    /// `AUDIT_ARCH_*` of linux/audit.h.
    audit: u32,
    /// The lowest number of another convention's calls, which the kernel reports as this architecture's.
    foreign: Option<u32>,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture { name: "x86_64", oci: "SCMP_ARCH_X86_64", audit: 0xc000_003e, foreign: Some(0x4000_0000) },
    Architecture { name: "aarch64", oci: "SCMP_ARCH_AARCH64", audit: 0xc000_00b7, foreign: None },
];

/// The highest errno that a filter can give (`MAX_ERRNO` of linux/err.h).
const MAX_ERRNO: u32 = 4095;

/// `linux.seccomp` as the OCI runtime specification has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    default_action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "list")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    flags: Vec<Flag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener_path: Option<String>,
    #[serde(default, deserialize_with = "list")]
    syscalls: Vec<Rule>,
}

/// What some calls are answered, if all conditions hold.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    names: Vec<Called>,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    args: Vec<Condition>,
}

/// What is called by a name.
#[derive(Debug)]
enum Called {
    Known(Sysno),
    /// Nothing on this architecture, or nothing at all.
    Unknown(Box<str>),
}

/// What an argument must be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    index: u8,
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_two: Option<u64>,
    op: Op,
}

/// What a call is answered. Not `SCMP_ACT_NOTIFY`: there is nobody to be notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Op {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Flag {
    /// All threads: each of ours has but one.
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
}

/// A filter that is ready to be loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Empty where there is nothing to filter.
    pub program: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
    pub flags: libc::c_ulong,
}

impl Filter {
    /// Loads it for this thread and what it executes, for good. Needs no_new_privs or CAP_SYS_ADMIN.
    pub fn load(&self) -> std::io::Result<()> {
        if self.program.is_empty() { Ok(()) } else { sys::seccomp(&self.program, self.flags) }
    }
}

impl Seccomp {
    /// What these rules let through, and nothing else: other calls do not exist (ENOSYS).
    pub fn of(syscalls: Vec<Rule>) -> Self {
        Self {
            default_action: Action::Errno,
            default_errno_ret: Some(libc::ENOSYS as u32),
            architectures: vec![format!("SCMP_ARCH_{}", ARCH.to_uppercase())],
            flags: Vec::new(),
            listener_path: None,
            syscalls,
        }
    }

    /// The filter; an error names what of it cannot be had.
    pub fn compile(&self) -> Result<Filter> {
        let architecture = native()?;
        let listed = &self.architectures;
        ensure!(
            listed.is_empty() || listed.iter().any(|name| name == architecture.oci),
            "architectures: {} is not among them",
            architecture.oci
        );
        ensure!(self.listener_path.is_none(), "listenerPath: a listener is not supported");
        let default = answer(self.default_action, self.default_errno_ret).context("defaultErrnoRet")?;
        let calls = self.calls(default)?;
        if calls.is_empty() && self.default_action == Action::Allow {
            return Ok(Filter::default());
        }
        let flags = self.flags.iter().fold(0, |flags, flag| {
            flags
                | match flag {
                    Flag::Tsync => 0,
                    Flag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
                    Flag::SpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                }
        });
        let program = program(architecture, default, calls);
        ensure!(program.len() <= libc::BPF_MAXINSNS as usize, "more rules than the kernel takes");
        Ok(Filter { program, flags })
    }

    /// What each call is answered, where a rule says so, in the order of their numbers.
    fn calls(&self, default: u32) -> Result<Vec<(u32, Call<'_>)>> {
        let mut answers = Vec::new();
        for rule in &self.syscalls {
            // What the tables of this architecture do not have cannot be called by that name.
            let calls = rule.names.iter().filter_map(|name| match name {
                Called::Known(call) => Some(*call),
                Called::Unknown(_) => None,
            });
            let name = || calls.clone().next().map_or("a rule", |call| call.name());
            let answer = answer(rule.action, rule.errno_ret).with_context(name)?;
            let unknown = rule.args.iter().map(|condition| condition.index).find(|index| *index > 5);
            ensure!(unknown.is_none(), "{}: a system call has no argument {}", name(), unknown.unwrap_or_default());
            if answer != default {
                answers.extend(calls.map(|call| (call.id() as u32, answer, rule)));
            }
        }
        // Those of one call stay in the order of their rules.
        answers.sort_by_key(|(number, ..)| *number);
        let calls = answers.chunk_by(|(one, ..), (next, ..)| one == next).map(|answers| {
            let call = match answers.iter().find(|(.., rule)| rule.args.is_empty()) {
                Some((_, answer, _)) => Call::Always(*answer),
                None => {
                    let rules = answers.iter().map(|(_, answer, rule)| (*answer, rule.alternatives()));
                    let mut rules: Vec<_> =
                        rules.flat_map(|(answer, all)| all.map(move |conditions| (answer, conditions))).collect();
                    rules.sort_by_key(|(answer, _)| strictness(*answer));
                    Call::If(rules)
                }
            };
            (answers[0].0, call)
        });
        Ok(calls.collect())
    }
}

impl Rule {
    /// Lets calls through.
    pub fn allow<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            names: names.into_iter().map(Called::of).collect(),
            action: Action::Allow,
            errno_ret: None,
            args: Vec::new(),
        }
    }

    /// Has calls fail with an errno.
    pub fn fail<'a>(names: impl IntoIterator<Item = &'a str>, errno: u32) -> Self {
        Self { action: Action::Errno, errno_ret: Some(errno), ..Self::allow(names) }
    }

    /// Only if all of these hold.
    pub fn only_if(self, conditions: &[Condition]) -> Self {
        Self { args: conditions.to_vec(), ..self }
    }

    /// What holds alternatively: all of its conditions together, or each, if there are several on one argument.
    fn alternatives(&self) -> impl Iterator<Item = &[Condition]> {
        let indexes: BTreeSet<u8> = self.args.iter().map(|condition| condition.index).collect();
        self.args.chunks(if indexes.len() < self.args.len() { 1 } else { indexes.len() })
    }
}

impl Condition {
    /// Whether the argument of this index is the value, as far as the mask goes.
    pub fn masked(index: u8, mask: u32, value: u32) -> Self {
        Self { index, value: mask.into(), value_two: Some(value.into()), op: Op::MaskedEq }
    }
}

impl Called {
    fn of(name: &str) -> Self {
        number(name).map_or_else(|| Self::Unknown(name.into()), Self::Known)
    }

    fn name(&self) -> &str {
        match self {
            Self::Known(call) if call.name() == FSTATAT => NEWFSTATAT,
            Self::Known(call) => call.name(),
            Self::Unknown(name) => name,
        }
    }
}

impl Serialize for Called {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Called {
    /// A document has some hundred names, of which those that are known are not kept.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Called;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a system call")
            }

            fn visit_str<E>(self, name: &str) -> Result<Called, E> {
                Ok(Called::of(name))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// The table of newer architectures has another name for it than the kernel and libseccomp.
const FSTATAT: &str = "fstatat";
const NEWFSTATAT: &str = "newfstatat";

/// The number of a system call on this architecture, if it has one of that name.
pub fn number(name: &str) -> Option<Sysno> {
    name.parse().ok().or_else(|| if name == NEWFSTATAT { FSTATAT.parse().ok() } else { None })
}

fn native() -> Result<&'static Architecture> {
    let known = ARCHITECTURES.iter().find(|architecture| architecture.name == ARCH);
    known.with_context(|| format!("the system calls of {ARCH} are not known"))
}

/// What the kernel takes for an answer: an action and 16 bits of its data.
fn answer(action: Action, errno: Option<u32>) -> Result<u32> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Trace => {
            ensure!(errno <= libc::SECCOMP_RET_DATA, "no such data: {errno}");
            libc::SECCOMP_RET_TRACE | errno
        }
        Action::Errno => {
            ensure!(errno <= MAX_ERRNO, "no such errno: {errno}");
            libc::SECCOMP_RET_ERRNO | errno
        }
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
    })
}

/// The kernel's own order of answers: the lower the stricter.
fn strictness(answer: u32) -> i32 {
    (answer & libc::SECCOMP_RET_ACTION_FULL) as i32
}

/// A list, which is `null` where a program in Go had none.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
