//! Which devices the processes of a container may use, whatever nodes they get hold of: the `devices` controller of v1
//! (devices.rst of the kernel's documentation), and on v2 a BPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15).

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, Mode, OFlags, openat};
use sbx::{Document, sys};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// Where the rules stand in a document.
pub const FIELD: &str = "linux.resources.devices";

/// The character devices of [`Devices::Closed`], as devices.txt of the kernel's documentation numbers them; no minor
/// number means all. They may be used, not made.
const USED: [(u32, Option<u32>); 8] = [
    // null, zero, full, random, urandom
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    // tty, and ptmx with the terminals that come of it
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// One rule of `linux.resources.devices`, as the OCI runtime specification has it. The last one that fits a device
/// counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    allow: bool,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    major: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minor: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "a")]
    All,
    #[serde(rename = "b")]
    Block,
    #[serde(rename = "c", alias = "u")]
    Character,
}

/// Which devices are meant by a word: those of `DevicePolicy=` of systemd.resource-control(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// All that there is a node of.
    Auto,
    /// The few that are the same everywhere, and hold nothing: null, zero, full, random, urandom, terminals.
    Closed,
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "closed" => Ok(Self::Closed),
            _ => Err(format!("bad devices {text:?}: auto or closed")),
        }
    }
}

/// The rules that stand for it.
pub fn rules(devices: Devices) -> Vec<Rule> {
    if devices == Devices::Auto {
        return Vec::new();
    }
    let none = Rule { allow: false, kind: None, major: None, minor: None, access: Some("rwm".into()) };
    let used = USED.map(|(major, minor)| Rule {
        allow: true,
        kind: Some(Kind::Character),
        major: Some(major.into()),
        minor: minor.map(Into::into),
        access: Some("rw".into()),
    });
    [none].into_iter().chain(used).collect()
}

/// The rules of a document, understood.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Checked>,
}

/// A rule whose numbers and letters are what the kernel takes. `None` is any.
#[derive(Debug, Clone, Copy)]
struct Checked {
    allow: bool,
    block: Option<bool>,
    major: Option<u32>,
    minor: Option<u32>,
    /// `BPF_DEVCG_ACC_*` of linux/bpf.h.
    access: u32,
}

/// Letter and bit of each access.
const ACCESSES: [(char, u32); 3] = [('m', 1), ('r', 2), ('w', 4)];

impl Policy {
    /// Reads and checks the rules. None at all means that nothing is restricted.
    pub fn of(doc: &Document) -> Result<Self> {
        let rules: Vec<Rule> = doc.read(FIELD)?.unwrap_or_default();
        Ok(Self { rules: rules.iter().map(Rule::check).collect::<Result<_>>().context(FIELD)? })
    }

    /// Whether it restricts anything.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Has it hold for a cgroup in which nothing runs yet, and which has no others below it.
    pub fn enforce(&self, cgroup: &Path, v2: bool) -> Result<()> {
        let enforce = || if v2 { self.attach(cgroup) } else { self.list(cgroup) };
        enforce().with_context(|| format!("cannot restrict the devices of {}", cgroup.display()))
    }

    /// The kernel begins with "all", and takes one rule at a write.
    fn list(&self, cgroup: &Path) -> Result<()> {
        for rule in &self.rules {
            let file = cgroup.join(if rule.allow { "devices.allow" } else { "devices.deny" });
            let line = rule.line();
            fs::write(&file, &line).with_context(|| format!("cannot write {line:?} to {}", file.display()))?;
        }
        Ok(())
    }

    fn attach(&self, cgroup: &Path) -> Result<()> {
        let cgroup = openat(CWD, cgroup, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(sys::restrict_devices(cgroup, &self.program())?)
    }

    /// The program, which is given a `struct bpf_cgroup_dev_ctx` of linux/bpf.h in register 1 and returns whether the
    /// access is granted. What no rule fits is granted, as on v1.
    fn program(&self) -> Vec<u64> {
        let kind_and_access = 2;
        let (kind, access, major, minor, scratch) = (3, 4, 5, 6, 7);
        let mut program = vec![
            bpf::load(kind_and_access, bpf::CONTEXT, 0),
            bpf::load(major, bpf::CONTEXT, 4),
            bpf::load(minor, bpf::CONTEXT, 8),
            bpf::copy(kind, kind_and_access),
            bpf::and(kind, 0xffff),
            bpf::copy(access, kind_and_access),
            bpf::shift_right(access, 16),
        ];
        // The last one that fits counts: it is asked first.
        for rule in self.rules.iter().rev() {
            let verdict = [bpf::set(bpf::RESULT, rule.allow.into()), bpf::exit()];
            let mut tests: Vec<bpf::Test> = Vec::new();
            let kind_of = |block| if block { BLOCK } else { CHARACTER };
            tests.extend(rule.block.map(|block| bpf::Test::Differs(kind, kind_of(block))));
            tests.extend(rule.major.map(|number| bpf::Test::Differs(major, number)));
            tests.extend(rule.minor.map(|number| bpf::Test::Differs(minor, number)));
            // All that is asked for must be granted, and nothing of it refused.
            program.push(bpf::copy(scratch, access));
            if rule.allow {
                program.push(bpf::and(scratch, ALL_ACCESS & !rule.access));
                tests.push(bpf::Test::Differs(scratch, 0));
            } else {
                program.push(bpf::and(scratch, rule.access));
                tests.push(bpf::Test::Equals(scratch, 0));
            }
            let end = tests.len() + verdict.len();
            // Over the tests that are left, and the verdict.
            program.extend(tests.iter().enumerate().map(|(place, test)| test.jump((end - place - 1) as u16)));
            program.extend(verdict);
        }
        program.extend([bpf::set(bpf::RESULT, 1), bpf::exit()]);
        program
    }
}

/// `BPF_DEVCG_DEV_*` of linux/bpf.h.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

const ALL_ACCESS: u32 = 7;

impl Rule {
    fn check(&self) -> Result<Checked> {
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).with_context(|| format!("bad device number {number}")),
        };
        let access = self.access.as_deref().unwrap_or("rwm");
        let mut bits = 0;
        for letter in access.chars() {
            let known = ACCESSES.iter().find(|(known, _)| *known == letter);
            bits |= known.with_context(|| format!("bad access {access:?}: of r, w and m"))?.1;
        }
        ensure!(bits != 0, "a rule without access");
        let checked = Checked {
            allow: self.allow,
            block: match self.kind {
                None | Some(Kind::All) => None,
                Some(kind) => Some(kind == Kind::Block),
            },
            major: number(self.major)?,
            minor: number(self.minor)?,
            access: bits,
        };
        // On v1 such a rule is about all devices, whatever else it says.
        if checked.block.is_none() && (checked.major, checked.minor, checked.access) != (None, None, ALL_ACCESS) {
            bail!("a rule for all types has no numbers, and all of rwm");
        }
        Ok(checked)
    }
}

impl Checked {
    /// As v1 takes it.
    fn line(self) -> String {
        let Some(block) = self.block else { return "a".into() };
        let number = |number: Option<u32>| number.map_or("*".into(), |number| number.to_string());
        let letters = ACCESSES.iter().filter(|(_, bit)| self.access & bit != 0).map(|(letter, _)| letter);
        let kind = if block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), letters.collect::<String>())
    }
}

/// Instructions of BPF (instruction-set.rst of the kernel's documentation), each as the number that it is.
mod bpf {
    /// Where the verdict is expected, and where the context is.
    pub const RESULT: u8 = 0;
    pub const CONTEXT: u8 = 1;

    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const SET: u8 = 0xb4;
    const COPY: u8 = 0xbc;
    const JUMP_IF_EQUAL: u8 = 0x16;
    const JUMP_UNLESS_EQUAL: u8 = 0x56;
    const EXIT: u8 = 0x95;

    /// `struct bpf_insn` of linux/bpf.h: operation, registers, offset, number.
    fn instruction(code: u8, to: u8, from: u8, offset: u16, number: u32) -> u64 {
        let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        let [low, high] = offset.to_ne_bytes();
        let [a, b, c, d] = number.to_ne_bytes();
        u64::from_ne_bytes([code, registers, low, high, a, b, c, d])
    }

    pub fn load(to: u8, from: u8, offset: u16) -> u64 {
        instruction(LOAD_WORD, to, from, offset, 0)
    }

    pub fn and(register: u8, number: u32) -> u64 {
        instruction(AND, register, 0, 0, number)
    }

    pub fn shift_right(register: u8, bits: u32) -> u64 {
        instruction(SHIFT_RIGHT, register, 0, 0, bits)
    }

    pub fn set(register: u8, number: u32) -> u64 {
        instruction(SET, register, 0, 0, number)
    }

    pub fn copy(to: u8, from: u8) -> u64 {
        instruction(COPY, to, from, 0, 0)
    }

    pub fn exit() -> u64 {
        instruction(EXIT, 0, 0, 0, 0)
    }

    /// When to jump, by a register and a number.
    pub enum Test {
        Equals(u8, u32),
        Differs(u8, u32),
    }

    impl Test {
        /// Jumps over so many instructions.
        pub fn jump(&self, over: u16) -> u64 {
            match *self {
                Self::Equals(register, number) => instruction(JUMP_IF_EQUAL, register, 0, over, number),
                Self::Differs(register, number) => instruction(JUMP_UNLESS_EQUAL, register, 0, over, number),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Result<Policy> {
        Policy::of(&Document::parse(format!(r#"{{"linux":{{"resources":{{"devices":{rules}}}}}}}"#).as_bytes())?)
    }

    #[test]
    fn rules_are_written_as_v1_takes_them() {
        let lines = |rules: &str| policy(rules).expect(rules).rules.into_iter().map(Checked::line).collect::<Vec<_>>();
        let default = serde_json::to_string(&rules(Devices::Closed)).expect("JSON");
        assert_eq!(
            lines(&default),
            ["a", "c 1:3 rw", "c 1:5 rw", "c 1:7 rw", "c 1:8 rw", "c 1:9 rw", "c 5:0 rw", "c 5:2 rw", "c 136:* rw"]
        );
        assert_eq!(lines(r#"[{"allow":true,"type":"b","major":8,"minor":-1}]"#), ["b 8:* mrw"]);
        assert!(policy(&serde_json::to_string(&rules(Devices::Auto)).expect("JSON")).expect("none").is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            r#"{"allow":false}"#,
            r#"[{"type":"c"}]"#,
            r#"[{"allow":true,"type":"p","major":1,"minor":3}]"#,
            r#"[{"allow":true,"type":"c","major":-2}]"#,
            r#"[{"allow":true,"type":"c","major":4294967296}]"#,
            r#"[{"allow":true,"type":"c","access":"x"}]"#,
            r#"[{"allow":true,"type":"c","access":""}]"#,
            r#"[{"allow":true,"type":"a","major":1}]"#,
            r#"[{"allow":false,"access":"w"}]"#,
        ] {
            assert!(policy(bad).is_err(), "{bad}");
        }
    }
}
