//! `linux.seccomp` of the document, compiled to programs for the kernel.
//!
//! The OCI format has one default action and any number of rules, each with its own action; a program of the compiler
//! has two actions. So there is one program for what is let through, and one more for each other action of rules.
//! The kernel runs all and takes the strictest answer (seccomp(2)).
//!
//! Rules are read as runc and crun read them: names that the kernel's tables do not have are passed over, and so are rules
//! whose action is the default; conditions on different arguments must all hold, but of a rule that has several on one
//! argument any.

use anyhow::{Context, Result, bail, ensure};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use syscalls::Sysno;

/// The architectures that the OCI runtime specification names, each behind `SCMP_ARCH_`.
const ARCHITECTURES: &str = "
    X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC
    PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB
";

/// The highest error that a system call can return (the kernel's `MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// `linux.seccomp` as the OCI runtime specification has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    default_action: Action,
    default_errno_ret: Option<u32>,
    /// More that the filter is for. Calls of all but this program's own architecture kill whoever makes them.
    #[serde(default, deserialize_with = "list")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    flags: Vec<String>,
    listener_path: Option<String>,
    #[serde(default, deserialize_with = "list")]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: Action,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "list")]
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

/// A list, which is `null` where a program in Go had none.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What the compiler wants: the rules of each system call, any of which is a match.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Seccomp {
    /// The programs, in the order in which they are to be installed.
    pub fn compile(&self) -> Result<Vec<BpfProgram>> {
        let known = |name: &&String| {
            name.strip_prefix("SCMP_ARCH_")
                .is_some_and(|name| ARCHITECTURES.split_whitespace().any(|known| known == name))
        };
        if let Some(other) = self.architectures.iter().find(|name| !known(name)) {
            bail!("linux.seccomp.architectures: no architecture {other:?}");
        }
        // For several threads, of which there is one.
        if let Some(flag) = self.flags.iter().find(|flag| *flag != "SECCOMP_FILTER_FLAG_TSYNC") {
            bail!("linux.seccomp.flags: {flag} is not supported");
        }
        ensure!(self.listener_path.is_none(), "linux.seccomp.listenerPath is not supported");
        let default = verdict(self.default_action, self.default_errno_ret)?;
        let mut let_through = Rules::new();
        let mut strict: Vec<(SeccompAction, Rules)> = Vec::new();
        for rule in &self.syscalls {
            let action = verdict(rule.action, rule.errno_ret)?;
            if action == default {
                continue;
            }
            for name in &rule.names {
                let Some(number) = number(name) else { continue };
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
        // A program that refuses the call by which programs are installed comes last.
        let installs = i64::from(Sysno::seccomp.id());
        let mut programs = Vec::new();
        // Of equally strict answers the kernel takes that of the program that came last: that of the first rule, unless
        // another has to come last.
        for (action, rules) in strict.into_iter().rev() {
            programs.push((rules.contains_key(&installs), program(rules, SeccompAction::Allow, action)?));
        }
        if default != SeccompAction::Allow {
            programs.push((!let_through.contains_key(&installs), program(let_through, default, SeccompAction::Allow)?));
        }
        if !programs.is_empty() && cfg!(target_arch = "x86_64") {
            programs.push((false, no_x32()));
        }
        programs.sort_by_key(|(is_last, _)| *is_last);
        Ok(programs.into_iter().map(|(_, program)| program).collect())
    }
}

/// The number of a system call on this architecture, if it has one of that name.
pub fn number(name: &str) -> Option<Sysno> {
    let number = name.parse().ok();
    // The compiler's table of newer architectures has another name for it than the kernel and libseccomp.
    number.or_else(|| if name == "newfstatat" { "fstatat".parse().ok() } else { None })
}

/// A rule without conditions matches always, and makes those with conditions superfluous.
fn add(rules: &mut Rules, number: i64, conditions: &[Condition]) -> Result<()> {
    let known = rules.get(&number);
    if conditions.is_empty() {
        rules.insert(number, Vec::new());
    } else if known.is_none_or(|rules| !rules.is_empty()) {
        let each = if differ(conditions) { conditions.len() } else { 1 };
        for all in conditions.chunks(each) {
            let all = all.iter().map(Condition::compile).collect::<Result<Vec<_>>>()?;
            rules.entry(number).or_default().push(SeccompRule::new(all)?);
        }
    }
    Ok(())
}

/// Whether each condition is on an argument of its own.
fn differ(conditions: &[Condition]) -> bool {
    conditions.iter().map(|condition| condition.index).collect::<BTreeSet<_>>().len() == conditions.len()
}

/// Refuses the calls of the x32 ABI, which have the architecture of others and numbers above theirs: to a filter that lets
/// through what it does not name, they would be such. ENOSYS, as from a kernel without them.
fn no_x32() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32_SYSCALL_BIT: u32 = 0x4000_0000;
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    vec![
        instruction(LOAD_NUMBER, 0, 0),
        instruction(JUMP_IF_AT_LEAST, 1, X32_SYSCALL_BIT),
        instruction(RETURN, 0, SeccompAction::Errno(nix::libc::ENOSYS as u32).into()),
        instruction(RETURN, 0, u32::from(SeccompAction::Allow)),
    ]
}

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).context("linux.seccomp")?;
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).context("linux.seccomp")?;
    filter.try_into().context("linux.seccomp")
}

fn verdict(action: Action, errno: Option<u32>) -> Result<SeccompAction> {
    let errno = errno.unwrap_or(nix::libc::EPERM as u32);
    ensure!(errno <= MAX_ERRNO, "linux.seccomp: no error has the number {errno}");
    Ok(match action {
        Action::Allow => SeccompAction::Allow,
        Action::Log => SeccompAction::Log,
        Action::Trace => SeccompAction::Trace(errno),
        Action::Errno => SeccompAction::Errno(errno),
        Action::Trap => SeccompAction::Trap,
        Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
    })
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
    use proptest::array;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn compile(text: &str) -> Result<Vec<BpfProgram>> {
        serde_json::from_str::<Seccomp>(text)?.compile()
    }

    /// What the kernel does at a call, as seccomp(2) and the kernel's filter.h have it: all programs run, the last first, and of
    /// the answers the strictest stands, of equally strict ones the first.
    fn decide(programs: &[BpfProgram], architecture: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = [number, architecture, 0, 0].to_vec();
        data.extend(args.iter().flat_map(|arg| [*arg as u32, (*arg >> 32) as u32]));
        let answers = programs.iter().rev().map(|program| interpret(program, &data));
        answers.chain([SeccompAction::Allow.into()]).min_by_key(|answer| strictness(*answer)).expect("an answer")
    }

    fn strictness(answer: u32) -> i32 {
        (answer & 0xffff_0000) as i32
    }

    /// What one program returns, of the words of `struct seccomp_data`.
    fn interpret(program: &[sock_filter], data: &[u32]) -> u32 {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let mut jump_if = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                0x20 => accumulator = data[k as usize / 4],
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => jump_if(accumulator == k),
                0x25 => jump_if(accumulator > k),
                0x35 => jump_if(accumulator >= k),
                0x45 => jump_if(accumulator & k != 0),
                0x06 => return k,
                other => panic!("no instruction {other:#x}"),
            }
        }
    }

    /// What the rules say of a call, without a program: the strictest answer, or those that are equally strict.
    fn evaluate(seccomp: &Seccomp, name: &str, args: [u64; 6]) -> Vec<u32> {
        let action = |action, errno| verdict(action, errno).expect("an action");
        let default = action(seccomp.default_action, seccomp.default_errno_ret);
        let rules = seccomp.syscalls.iter().map(|rule| (rule, action(rule.action, rule.errno_ret)));
        let rules: Vec<_> = rules.filter(|(_, action)| *action != default).collect();
        let holds = |condition: &Condition| {
            let Condition { index, value, value_two, op } = *condition;
            let arg = args[usize::from(index)];
            match op {
                Op::Ne => arg != value,
                Op::Lt => arg < value,
                Op::Le => arg <= value,
                Op::Eq => arg == value,
                Op::Ge => arg >= value,
                Op::Gt => arg > value,
                Op::MaskedEq => arg & value == value_two.unwrap_or_default() & value,
            }
        };
        let matches = |rule: &Rule| {
            let Rule { args, .. } = rule;
            let is_on_one = |a: &Condition| args.iter().filter(|b| a.index == b.index).count() > 1;
            let holds = if args.iter().any(is_on_one) { args.iter().any(holds) } else { args.iter().all(holds) };
            holds && rule.names.iter().any(|known| known == name)
        };
        let matched = rules.iter().filter(|(rule, _)| matches(rule)).map(|(_, action)| u32::from(action.clone()));
        let mut answers: Vec<u32> = matched.collect();
        let Some(strictest) = answers.iter().copied().map(strictness).min() else { return vec![default.into()] };
        answers.retain(|answer| strictness(*answer) == strictest);
        answers
    }

    /// Numbers that differ from one another in the high half, in the low half, and by one.
    fn number() -> impl Strategy<Value = u64> {
        let half = || prop_oneof![0..3_u64, Just(0x7fff_ffff), Just(0x8000_0000), Just(0xffff_ffff)];
        (half(), half()).prop_map(|(high, low)| high << 32 | low)
    }

    fn action() -> impl Strategy<Value = (Action, Option<u32>)> {
        let action = select(vec![
            Action::Allow,
            Action::Log,
            Action::Trace,
            Action::Errno,
            Action::Errno,
            Action::Trap,
            Action::KillThread,
            Action::KillProcess,
        ]);
        (action, prop_oneof![Just(None), Just(Some(1)), Just(Some(38))])
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let op = select(vec![Op::Ne, Op::Lt, Op::Le, Op::Eq, Op::Ge, Op::Gt, Op::MaskedEq]);
        let fields = (0..3_u8, number(), proptest::option::of(number()), op);
        fields.prop_map(|(index, value, value_two, op)| Condition { index, value, value_two, op })
    }

    const NAMES: [&str; 5] = ["read", "openat", "clone", "seccomp", "no_such_call"];

    fn seccomp() -> impl Strategy<Value = Seccomp> {
        let names = proptest::sample::subsequence(NAMES.map(str::to_owned).to_vec(), 0..NAMES.len());
        let rule = (names, action(), vec(condition(), 0..4));
        let rule = rule.prop_map(|(names, (action, errno_ret), args)| Rule { names, action, errno_ret, args });
        (action(), vec(rule, 0..8)).prop_map(|((default_action, default_errno_ret), syscalls)| Seccomp {
            default_action,
            default_errno_ret,
            architectures: Vec::new(),
            flags: Vec::new(),
            listener_path: None,
            syscalls,
        })
    }

    /// AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 of the kernel's audit.h.
    const OWN: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

    /// AUDIT_ARCH_I386.
    const OTHER: u32 = 0x4000_0003;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn programs_decide_as_the_rules_say(
            seccomp in seccomp(),
            calls in vec((select(NAMES[..4].to_vec()), array::uniform6(number())), 1..16),
        ) {
            let programs = seccomp.compile().expect("compile");
            for (name, args) in calls {
                let number = super::number(name).expect("a call").id() as u32;
                let (decision, said) = (decide(&programs, OWN, number, args), evaluate(&seccomp, name, args));
                prop_assert!(said.contains(&decision), "{} {:?}: {:#x} {:x?}", name, args, decision, said);
                if !programs.is_empty() {
                    prop_assert_eq!(decide(&programs, OTHER, number, args), u32::from(SeccompAction::KillProcess));
                }
            }
        }
    }

    const X32: u32 = 0x4000_0000;

    #[test]
    fn another_abi_is_no_way_around_what_is_refused() {
        let deny = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#;
        let programs = compile(deny).expect("compile");
        let answer = |architecture, number| decide(&programs, architecture, number, [0; 6]);
        let mount = Sysno::mount.id() as u32;
        assert_eq!(answer(OWN, mount), u32::from(SeccompAction::Errno(1)));
        assert_eq!(answer(OTHER, mount), u32::from(SeccompAction::KillProcess));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(answer(OWN, X32 | mount), u32::from(SeccompAction::Errno(38)));
        }
        assert!(compile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).expect("compile").is_empty());
    }

    #[test]
    fn what_refuses_the_call_that_installs_programs_is_installed_last() {
        let installs = Sysno::seccomp.id() as u32;
        for text in [
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mount"],"action":"SCMP_ACT_TRAP"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["seccomp"],"action":"SCMP_ACT_TRAP"}]}"#,
        ] {
            let programs = compile(text).expect("compile");
            assert!(programs.len() > 1);
            for program in &programs[..programs.len() - 1] {
                assert_eq!(
                    decide(std::slice::from_ref(program), OWN, installs, [0; 6]),
                    u32::from(SeccompAction::Allow),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn lists_that_are_null_are_empty() {
        let null = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":null,"flags":null,"syscalls":null}"#;
        assert!(compile(null).is_ok());
        let rule = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":null}]}"#;
        assert!(compile(rule).is_ok());
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_not_a_hole() {
        for bad in [
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x86_64"]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_VAX"]}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#,
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
