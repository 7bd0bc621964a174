//! `linux.seccomp` of the document, compiled to programs for the kernel.
//!
//! The OCI format has one default action and any number of rules, each with its own action; a program of the compiler
//! has two actions. So there is one program for what is let through, and one more for each other action of rules.
//! The kernel runs all and takes the strictest answer (seccomp(2)).

use anyhow::{Context, Result, bail, ensure};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::str::FromStr;
use syscalls::Sysno;

/// `linux.seccomp` as the OCI runtime specification has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    default_action: Action,
    default_errno_ret: Option<u32>,
    /// More that the filter is for. Calls of all but this program's own architecture kill whoever makes them.
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: Action,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    index: u8,
    value: u64,
    value_two: Option<u64>,
    op: Op,
}

/// Each but that for a supervisor outside (SCMP_ACT_NOTIFY), which there is none of.
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
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
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

/// What the compiler wants: the rules of each system call, any of which is a match.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Seccomp {
    /// The programs, in the order in which they are to be installed.
    pub fn compile(&self) -> Result<Vec<BpfProgram>> {
        if let Some(other) = self.architectures.iter().find(|name| !name.starts_with("SCMP_ARCH_")) {
            bail!("linux.seccomp.architectures: no architecture {other:?}");
        }
        // For several threads, of which there is one.
        if let Some(flag) = self.flags.iter().find(|flag| *flag != "SECCOMP_FILTER_FLAG_TSYNC") {
            bail!("linux.seccomp.flags: {flag} is not supported");
        }
        ensure!(self.listener_path.is_none(), "linux.seccomp.listenerPath is not supported");
        let default = verdict(self.default_action, self.default_errno_ret);
        let mut let_through = Rules::new();
        let mut strict: Vec<(SeccompAction, Rules)> = Vec::new();
        for rule in &self.syscalls {
            let action = verdict(rule.action, rule.errno_ret);
            for name in &rule.names {
                // What this kernel's tables do not know cannot be called by that name: the default applies to it.
                let Ok(number) = Sysno::from_str(name) else { continue };
                let mut rules = vec![&mut let_through];
                if action != SeccompAction::Allow {
                    let place = strict.iter().position(|(known, _)| *known == action).unwrap_or_else(|| {
                        strict.push((action.clone(), Rules::new()));
                        strict.len() - 1
                    });
                    rules.push(&mut strict[place].1);
                }
                for rules in rules {
                    add(rules, i64::from(number.id()), &rule.args).with_context(|| format!("linux.seccomp: {name}"))?;
                }
            }
        }
        let mut programs = Vec::new();
        if default != SeccompAction::Allow {
            programs.push(program(let_through, default, SeccompAction::Allow)?);
        }
        for (action, rules) in strict {
            programs.push(program(rules, SeccompAction::Allow, action)?);
        }
        Ok(programs)
    }
}

/// Whether this architecture has a system call of that name.
pub fn is_known(name: &str) -> bool {
    Sysno::from_str(name).is_ok()
}

/// A rule without conditions matches always, and makes those with conditions superfluous.
fn add(rules: &mut Rules, number: i64, conditions: &[Condition]) -> Result<()> {
    let known = rules.get(&number);
    if conditions.is_empty() {
        rules.insert(number, Vec::new());
    } else if known.is_none_or(|rules| !rules.is_empty()) {
        let conditions = conditions.iter().map(Condition::compile).collect::<Result<Vec<_>>>()?;
        rules.entry(number).or_default().push(SeccompRule::new(conditions)?);
    }
    Ok(())
}

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).context("linux.seccomp")?;
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).context("linux.seccomp")?;
    filter.try_into().context("linux.seccomp")
}

fn verdict(action: Action, errno: Option<u32>) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Log => SeccompAction::Log,
        Action::Trace => SeccompAction::Trace(errno.unwrap_or(nix::libc::EPERM as u32)),
        Action::Errno => SeccompAction::Errno(errno.unwrap_or(nix::libc::EPERM as u32)),
        Action::Trap => SeccompAction::Trap,
        Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
    }
}

impl Condition {
    fn compile(&self) -> Result<SeccompCondition> {
        let (op, value) = match self.op {
            Op::Ne => (SeccompCmpOp::Ne, self.value),
            Op::Lt => (SeccompCmpOp::Lt, self.value),
            Op::Le => (SeccompCmpOp::Le, self.value),
            Op::Eq => (SeccompCmpOp::Eq, self.value),
            Op::Ge => (SeccompCmpOp::Ge, self.value),
            Op::Gt => (SeccompCmpOp::Gt, self.value),
            // The mask is the first value, what is left of the argument is compared with the second.
            Op::MaskedEq => (SeccompCmpOp::MaskedEq(self.value), self.value_two.unwrap_or_default()),
        };
        if self.index > 5 {
            bail!("a system call has no argument {}", self.index);
        }
        Ok(SeccompCondition::new(self.index, SeccompCmpArgLen::Qword, op, value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Result<Vec<BpfProgram>> {
        serde_json::from_str::<Seccomp>(text)?.compile()
    }

    #[test]
    fn there_is_one_program_for_the_default_and_one_for_each_errno() {
        let programs = compile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW"},
            {"names":["mount"],"action":"SCMP_ACT_ERRNO","errnoRet":1},
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97,"args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]}
        ]}"#,
        );
        assert_eq!(programs.expect("compile").len(), 3);
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_not_a_hole() {
        for bad in [
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x86_64"]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#,
            r#"{"syscalls":[]}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_XX"}]}]}"#,
        ] {
            assert!(compile(bad).is_err(), "{bad}");
        }
    }
}
