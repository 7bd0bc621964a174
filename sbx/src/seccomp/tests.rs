use super::program::NO_CALL;
use super::*;
use proptest::prelude::*;

/// What the program answers, by the rules of the kernel's machine (bpf(4) of BSD, which it follows).
fn run(program: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [number, arch, 0, 0].to_vec();
    data.extend(args.iter().flat_map(|arg| [*arg as u32, (*arg >> 32) as u32]));
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let step = &program[at];
        let (code, k) = (u32::from(step.code), step.k);
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match code & 0x07 {
            libc::BPF_LD => accumulator = data[k as usize / 4],
            libc::BPF_ALU => accumulator &= k,
            libc::BPF_RET => return k,
            _ => {
                at += match code & 0xf0 {
                    libc::BPF_JEQ => jump(accumulator == k),
                    libc::BPF_JGT => jump(accumulator > k),
                    libc::BPF_JGE => jump(accumulator >= k),
                    libc::BPF_JSET => jump(accumulator & k != 0),
                    _ => k as usize,
                }
            }
        }
    }
}

fn compile(text: &str) -> Result<Filter> {
    serde_json::from_str::<Seccomp>(text)?.compile()
}

fn number(name: &str) -> u32 {
    super::number(name).expect("a system call").id() as u32
}

fn native_arch() -> u32 {
    native().expect("an architecture").audit
}

/// What a call is answered, by a filter.
fn ask(text: &str, name: &str, args: [u64; 6]) -> u32 {
    run(&compile(text).expect("a filter").program, native_arch(), number(name), args)
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const NONE: [u64; 6] = [0; 6];

#[test]
fn each_action_is_the_kernels() {
    for (action, expected) in [
        ("ALLOW", ALLOW),
        ("LOG", libc::SECCOMP_RET_LOG),
        ("TRACE", libc::SECCOMP_RET_TRACE | 7),
        ("ERRNO", ERRNO | 7),
        ("TRAP", libc::SECCOMP_RET_TRAP),
        ("KILL", libc::SECCOMP_RET_KILL_THREAD),
        ("KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD),
        ("KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
    ] {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_{action}","errnoRet":7}}]}}"#
        );
        assert_eq!(ask(&text, "read", NONE), expected, "{action}");
        assert_eq!(ask(&text, "write", NONE), ERRNO | 1, "{action}");
    }
}

#[test]
fn other_conventions_of_calling_end_the_process() {
    let filter =
        compile(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#);
    let program = filter.expect("a filter").program;
    let i386 = 0x4000_0003;
    assert_eq!(run(&program, i386, 21, NONE), libc::SECCOMP_RET_KILL_PROCESS);
    if let Some(foreign) = native().expect("an architecture").foreign {
        assert_eq!(run(&program, native_arch(), foreign | number("mount"), NONE), libc::SECCOMP_RET_KILL_PROCESS);
    }
    assert_eq!(run(&program, native_arch(), NO_CALL, NONE), ALLOW);
    assert_eq!(run(&program, native_arch(), number("mount"), NONE), ERRNO | 1);
}

#[test]
fn rules_of_one_call_are_merged_as_libseccomp_merges_them() {
    let rule = |action: &str, args: &str| {
        format!(r#"{{"names":["setns"],"action":"SCMP_ACT_{action}","errnoRet":7,"args":{args}}}"#)
    };
    let ask = |default: &str, rules: &[String], argument: u64| {
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_{default}","syscalls":[{}]}}"#, rules.join(","));
        ask(&text, "setns", [argument, 0, 0, 0, 0, 0])
    };
    let (always, never) = (rule("ALLOW", "null"), rule("ERRNO", "[]"));
    let if_one = rule("ERRNO", r#"[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]"#);
    // The first without conditions, and it hides those with.
    assert_eq!(ask("TRAP", &[always.clone(), never.clone()], 0), ALLOW);
    assert_eq!(ask("TRAP", &[never, always.clone()], 0), ERRNO | 7);
    assert_eq!(ask("TRAP", &[if_one.clone(), always.clone()], 1), ALLOW);
    assert_eq!(ask("TRAP", &[always.clone(), if_one.clone()], 1), ALLOW);
    // What is the default already is no rule.
    assert_eq!(ask("ALLOW", &[always, if_one.clone()], 1), ERRNO | 7);
    // Of several conditions on one argument, any.
    let either =
        rule("ALLOW", r#"[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]"#);
    assert_eq!(
        [1, 2, 3].map(|argument| ask("TRAP", std::slice::from_ref(&either), argument)),
        [ALLOW, ALLOW, libc::SECCOMP_RET_TRAP]
    );
    // Where rules overlap, the strictest.
    assert_eq!([1, 2].map(|argument| ask("TRAP", &[either.clone(), if_one.clone()], argument)), [ERRNO | 7, ALLOW]);
}

#[test]
fn what_is_not_understood_is_an_error_and_not_a_hole() {
    let rule = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],{rule}}}]}}"#);
    for (bad, word) in [
        (r#"{"syscalls":[]}"#.to_owned(), "defaultAction"),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.to_owned(), "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_X"]}"#.to_owned(), "SECCOMP_FILTER_FLAG_X"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#.to_owned(), "listenerPath"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390X"]}"#.to_owned(), "architectures"),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#.to_owned(), "4096"),
        (rule(r#""action":"SCMP_ACT_TRACE","errnoRet":65536"#), "65536"),
        (rule(r#""action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]"#), "argument 6"),
        (rule(r#""action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_XX"}]"#), "SCMP_CMP_XX"),
    ] {
        let error = compile(&bad).map(|_| ()).expect_err(&bad);
        assert!(format!("{error:#}").contains(word), "{bad}: {error:#}");
    }
}

/// Whether a condition holds, as the OCI format says it.
fn holds((index, op, value, second): &(u8, usize, u64, u64), args: &[u64; 6]) -> bool {
    let arg = args[usize::from(*index)];
    match op {
        0 => arg != *value,
        1 => arg < *value,
        2 => arg <= *value,
        3 => arg == *value,
        4 => arg >= *value,
        5 => arg > *value,
        _ => arg & value == second & value,
    }
}

/// Values that are often equal, also in one half; as masks, such as leave one bit, or the first ones.
fn value() -> impl Strategy<Value = u64> {
    let half = || prop_oneof![0_u64..3, Just(0x5412), Just(0x8000_0000), Just(0xffff_fff0), Just(0xffff_ffff)];
    (half(), half()).prop_map(|(high, low)| high << 32 | low)
}

proptest! {
    #[test]
    fn the_program_decides_as_the_rules_do(
        rules in prop::collection::vec((0_usize..3, prop::collection::btree_map(0_u8..6, (0_usize..7, value(), value()), 0..4)), 0..8),
        args in prop::array::uniform6(value()),
    ) {
        const OPS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
        const ACTIONS: [(&str, u32); 3] =
            [("KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS), ("ERRNO", ERRNO | 1), ("ALLOW", ALLOW)];
        let rules: Vec<(usize, Vec<_>)> = rules
            .into_iter()
            .map(|(action, args)| (action, args.into_iter().map(|(index, (op, value, two))| (index, op, value, two)).collect()))
            .collect();
        let json: Vec<_> = rules.iter().map(|(action, args)| {
            let args: Vec<_> = args.iter().map(|(index, op, value, two)| {
                serde_json::json!({"index": index, "op": format!("SCMP_CMP_{}", OPS[*op]), "value": value, "valueTwo": two})
            }).collect();
            serde_json::json!({"names": ["ioctl"], "action": format!("SCMP_ACT_{}", ACTIONS[*action].0), "args": args})
        }).collect();
        let text = serde_json::json!({"defaultAction": "SCMP_ACT_TRAP", "syscalls": json}).to_string();
        let always = rules.iter().find(|(_, args)| args.is_empty());
        let matching = rules.iter().filter(|(_, conditions)| conditions.iter().all(|condition| holds(condition, &args)));
        let expected = match always {
            Some((action, _)) => ACTIONS[*action].1,
            None => matching.map(|(action, _)| *action).min().map_or(libc::SECCOMP_RET_TRAP, |action| ACTIONS[action].1),
        };
        prop_assert_eq!(ask(&text, "ioctl", args), expected);
        prop_assert_eq!(ask(&text, "read", args), libc::SECCOMP_RET_TRAP);
    }
}
