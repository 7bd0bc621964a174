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

use crate::sys;
use anyhow::{Context, Result, bail, ensure};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter,
};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
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

/// The number of a call that a tracer has taken away (ptrace(2)): no call at all.
const NO_CALL: u32 = u32::MAX;

/// `linux.seccomp` as the OCI runtime specification has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    default_action: Action,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "list")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    flags: Vec<Flag>,
    listener_path: Option<String>,
    #[serde(default, deserialize_with = "list")]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<Called>,
    action: Action,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "list")]
    args: Vec<Condition>,
}

/// The call that a name means here, if there is one.
#[derive(Debug)]
struct Called(Option<Sysno>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    index: u8,
    value: u64,
    value_two: Option<u64>,
    op: Op,
}

/// What a call is answered. Not `SCMP_ACT_NOTIFY`: there is nobody to be notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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

#[derive(Debug, Clone, Copy, Deserialize)]
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

#[derive(Debug, Clone, Copy, Deserialize)]
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
    pub program: BpfProgram,
    /// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
    pub flags: libc::c_ulong,
}

/// The rules of one call: each with its answer.
enum Call {
    Always(u32),
    If(Vec<(u32, BpfProgram)>),
}

impl Filter {
    /// Loads it for this thread and what it executes, for good. Needs no_new_privs or CAP_SYS_ADMIN.
    pub fn load(&self) -> std::io::Result<()> {
        if self.program.is_empty() { Ok(()) } else { sys::seccomp(&self.program, self.flags) }
    }
}

impl Seccomp {
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
    fn calls(&self, default: u32) -> Result<Vec<(u32, Call)>> {
        let mut answers = Vec::new();
        for rule in &self.syscalls {
            // What the tables of this architecture do not have cannot be called by that name.
            let calls = rule.names.iter().filter_map(|name| name.0);
            let name = || calls.clone().next().map_or("a rule", |call| call.name());
            let answer = answer(rule.action, rule.errno_ret).with_context(name)?;
            let conditions = rule.conditions().with_context(name)?;
            if answer != default {
                answers.extend(calls.map(|call| (call.id() as u32, answer, conditions.clone())));
            }
        }
        // Those of one call stay in the order of their rules.
        answers.sort_by_key(|(number, ..)| *number);
        let calls = answers.chunk_by(|(one, ..), (next, ..)| one == next).map(|answers| {
            let always = answers.iter().find(|(.., conditions)| conditions.is_empty());
            let call = always.map_or_else(
                || {
                    let mut rules: Vec<_> = answers
                        .iter()
                        .flat_map(|(_, answer, conditions)| conditions.iter().map(|rule| (*answer, rule.clone())))
                        .collect();
                    rules.sort_by_key(|(answer, _)| strictness(*answer));
                    Call::If(rules)
                },
                |(_, answer, _)| Call::Always(*answer),
            );
            (answers[0].0, call)
        });
        Ok(calls.collect())
    }
}

impl Rule {
    /// The alternatives of its conditions; none if it has no condition.
    fn conditions(&self) -> Result<Vec<BpfProgram>> {
        let conditions = self.args.iter().map(Condition::compile).collect::<Result<Vec<_>>>()?;
        let indexes: BTreeSet<u8> = self.args.iter().map(|condition| condition.index).collect();
        let rules = if indexes.len() < self.args.len() {
            conditions.into_iter().map(|condition| vec![condition]).collect()
        } else {
            Vec::from_iter(Some(conditions).filter(|conditions| !conditions.is_empty()))
        };
        rules.into_iter().map(|conditions| Ok(SeccompRule::new(conditions)?.into())).collect()
    }
}

impl Condition {
    fn compile(&self) -> Result<SeccompCondition> {
        let mut length = SeccompCmpArgLen::Qword;
        let (op, value) = match self.op {
            Op::Ne => (SeccompCmpOp::Ne, self.value),
            Op::Lt => (SeccompCmpOp::Lt, self.value),
            Op::Le => (SeccompCmpOp::Le, self.value),
            Op::Eq => (SeccompCmpOp::Eq, self.value),
            Op::Ge => (SeccompCmpOp::Ge, self.value),
            Op::Gt => (SeccompCmpOp::Gt, self.value),
            // The mask is the first value, what is left of the argument is compared with the second.
            Op::MaskedEq => {
                if self.value <= u32::MAX.into() {
                    length = SeccompCmpArgLen::Dword;
                }
                (SeccompCmpOp::MaskedEq(self.value), self.value_two.unwrap_or_default() & self.value)
            }
        };
        if self.index > 5 {
            bail!("a system call has no argument {}", self.index);
        }
        Ok(SeccompCondition::new(self.index, length, op, value)?)
    }
}

impl<'de> Deserialize<'de> for Called {
    /// A document has some hundred names: none is kept.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Called;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a system call")
            }

            fn visit_str<E>(self, name: &str) -> Result<Called, E> {
                Ok(Called(number(name)))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// The number of a system call on this architecture, if it has one of that name.
pub fn number(name: &str) -> Option<Sysno> {
    let number = name.parse().ok();
    // The compiler's table of newer architectures has another name for it than the kernel and libseccomp.
    number.or_else(|| if name == "newfstatat" { "fstatat".parse().ok() } else { None })
}

fn native() -> Result<&'static Architecture> {
    let known = ARCHITECTURES.iter().find(|architecture| architecture.name == ARCH);
    known.with_context(|| format!("the system calls of {ARCH} are not known"))
}

/// What the kernel takes for an answer: an action and 16 bits of its data.
fn answer(action: Action, errno: Option<u32>) -> Result<u32> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(u32::from(match action {
        Action::Allow => SeccompAction::Allow,
        Action::Log => SeccompAction::Log,
        Action::Trace => {
            SeccompAction::Trace(u16::try_from(errno).with_context(|| format!("no such data: {errno}"))?.into())
        }
        Action::Errno => {
            ensure!(errno <= MAX_ERRNO, "no such errno: {errno}");
            SeccompAction::Errno(errno)
        }
        Action::Trap => SeccompAction::Trap,
        Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
    }))
}

/// The kernel's own order of answers: the lower the stricter.
fn strictness(answer: u32) -> i32 {
    (answer & libc::SECCOMP_RET_ACTION_FULL) as i32
}

/// The first number of those that are answered alike, and how they are.
type Range = (u32, Call);

fn program(architecture: &Architecture, default: u32, calls: Vec<(u32, Call)>) -> BpfProgram {
    let mut ranges: Vec<Range> = Vec::new();
    let mut from = |first: u32, call: Call| {
        // Nothing lies between one call and the next.
        ranges.pop_if(|(last, _)| *last == first);
        match (ranges.last(), &call) {
            (Some((_, Call::Always(last))), Call::Always(answer)) if last == answer => {}
            _ => ranges.push((first, call)),
        }
    };
    from(0, Call::Always(default));
    for (number, call) in calls {
        from(number, call);
        from(number + 1, Call::Always(default));
    }
    if let Some(foreign) = architecture.foreign {
        from(foreign, Call::Always(libc::SECCOMP_RET_KILL_PROCESS));
        from(NO_CALL, Call::Always(default));
    }
    let kill = give(libc::SECCOMP_RET_KILL_PROCESS);
    let mut program = vec![load(4), unless(libc::BPF_JEQ, architecture.audit, 1), skip(1), kill, load(0)];
    program.extend(search(&ranges, default));
    program
}

/// Finds the range of a number by halves. The kernel runs the program for each call that there is when it is loaded, and for
/// many calls whenever they are made.
fn search(ranges: &[Range], default: u32) -> BpfProgram {
    match ranges {
        [] => Vec::new(),
        [(_, Call::Always(answer))] => vec![give(*answer)],
        [(_, Call::If(rules))] => {
            // One that does not hold goes on behind its answer.
            let tried = rules.iter().flat_map(|(answer, rule)| rule.iter().cloned().chain([give(*answer)]));
            tried.chain([give(default)]).collect()
        }
        ranges => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let (first, below, above) = (above[0].0, search(below, default), search(above, default));
            [vec![unless(libc::BPF_JGE, first, 1), skip(below.len())], below, above].concat()
        }
    }
}

/// Reads so many bytes into `struct seccomp_data` of linux/seccomp.h, which begins with the number and the architecture.
fn load(offset: u32) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn give(answer: u32) -> sock_filter {
    step(libc::BPF_RET | libc::BPF_K, answer)
}

fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Skips so many instructions.
fn skip(length: usize) -> sock_filter {
    step(libc::BPF_JMP | libc::BPF_JA, length as u32)
}

/// Skips so many instructions if the accumulator is not as said, and else none.
fn unless(condition: u32, k: u32, skipped: u8) -> sock_filter {
    sock_filter { jf: skipped, ..step(libc::BPF_JMP | condition | libc::BPF_K, k) }
}

/// A list, which is `null` where a program in Go had none.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
