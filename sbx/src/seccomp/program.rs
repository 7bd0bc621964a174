//! The program of a filter, for the machine of classic BPF (Documentation/networking/filter.rst of Linux).

use super::{Architecture, Condition, Op};
use nix::libc::{self, sock_filter};
use std::collections::{BTreeMap, BTreeSet};

/// Where `struct seccomp_data` of linux/seccomp.h has the number, the architecture, and the arguments of 64 bits.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The number of a call that a tracer has taken away (ptrace(2)): no call at all.
pub const NO_CALL: u32 = u32::MAX;

/// What a call is answered: always, or by the first of these whose conditions hold, or else by default.
pub enum Call<'a> {
    Always(u32),
    If(Vec<(u32, &'a [Condition])>),
}

/// Answers each call as those that are listed, in the order of their numbers, and else by default.
pub fn program(architecture: &Architecture, default: u32, calls: Vec<(u32, Call)>) -> Vec<sock_filter> {
    // Each is the first number of those that are answered alike.
    let mut ranges = Vec::new();
    let mut from = |first: u32, call| {
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
    let mut program = Backwards::default();
    program.search(&ranges, default);
    program.put(load(NUMBER));
    let (native, foreign) = (program.code.len(), program.give(libc::SECCOMP_RET_KILL_PROCESS));
    program.compare(libc::BPF_JEQ, architecture.audit, native, foreign);
    program.put(load(ARCHITECTURE));
    program.code.reverse();
    program.code
}

impl Condition {
    /// The lower half of its argument, and the first and the last value that this may have, if it asks for a range of it.
    fn range(&self) -> Option<(u32, u32, u32)> {
        let mask = u32::try_from(self.value).ok().filter(|mask| mask.leading_ones() + mask.trailing_zeros() >= 32)?;
        let first = self.value_two.unwrap_or_default() as u32 & mask;
        matches!(self.op, Op::MaskedEq).then_some((self.at(), first, first | !mask))
    }

    /// Where its argument is: instructions take 32 bits, of which the lower come first on each of the architectures.
    fn at(&self) -> u32 {
        ARGUMENTS + 8 * u32::from(self.index)
    }
}

/// By which ranges of one argument's lower half a call is answered, if that is all that its rules ask for: the first number of
/// each.
fn ranges<'a>(rules: &[(u32, &[Condition])], default: u32) -> Option<(u32, Vec<(u32, Call<'a>)>)> {
    let range = |(answer, conditions): &(u32, &[Condition])| match conditions {
        [condition] => condition.range().map(|range| (*answer, range)),
        _ => None,
    };
    let all: Vec<_> = rules.iter().map(range).collect::<Option<_>>()?;
    let (_, (at, ..)) = *all.first()?;
    if all.iter().any(|(_, (other, ..))| *other != at) {
        return None;
    }
    let edges = all.iter().flat_map(|(_, (_, first, last))| [Some(*first), last.checked_add(1)]).flatten();
    let edges: BTreeSet<u32> = edges.chain([0]).collect();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for edge in edges {
        let found = all.iter().find(|(_, (_, first, last))| (*first..=*last).contains(&edge));
        let answer = found.map_or(default, |(answer, _)| *answer);
        if ranges.last().is_none_or(|(_, last)| *last != answer) {
            ranges.push((edge, answer));
        }
    }
    let are_several = ranges.len() > 1;
    are_several.then(|| (at, ranges.into_iter().map(|(first, answer)| (first, Call::Always(answer))).collect()))
}

/// The farthest that a comparison skips, and what is so near that it still is when both branches of one are there.
const REACH: usize = u8::MAX as usize;
const NEAR: usize = 192;

/// A program from its end on: all jumps go forward, to what is there already. A place in it is how many instructions
/// there are from there to the end. The kernel takes the longer to load it the longer it is, and runs it for each call that
/// there is then, and for many calls whenever they are made.
#[derive(Default)]
struct Backwards {
    code: Vec<sock_filter>,
    /// Where answers were given last.
    given: BTreeMap<u32, usize>,
}

impl Backwards {
    /// Puts an instruction before all others.
    fn put(&mut self, instruction: sock_filter) -> usize {
        self.code.push(instruction);
        self.code.len()
    }

    /// Finds the range of a number by halves.
    fn search(&mut self, ranges: &[(u32, Call)], default: u32) -> usize {
        match ranges {
            [(_, Call::Always(answer))] => self.give(*answer),
            [(_, Call::If(rules))] => self.decide(rules, default),
            ranges => {
                let (below, above) = ranges.split_at(ranges.len() / 2);
                let (holds, fails) = (self.search(above, default), self.search(below, default));
                self.compare(libc::BPF_JGE, above[0].0, holds, fails)
            }
        }
    }

    /// Finds the first rule of which all conditions hold.
    fn decide(&mut self, rules: &[(u32, &[Condition])], default: u32) -> usize {
        if let Some((at, ranges)) = ranges(rules, default) {
            self.search(&ranges, default);
            return self.put(load(at));
        }
        rules.iter().rev().fold(self.give(default), |next, (answer, conditions)| {
            let answer = self.give(*answer);
            conditions.iter().rev().fold(answer, |holds, condition| self.decide_on(condition, holds, next))
        })
    }

    /// Goes on at one place if a condition holds, and at another if it does not.
    fn decide_on(&mut self, condition: &Condition, holds: usize, fails: usize) -> usize {
        let is_negated = matches!(condition.op, Op::Ne | Op::Lt | Op::Le);
        let (holds, fails) = if is_negated { (fails, holds) } else { (holds, fails) };
        let (mask, value) = match condition.op {
            // The mask is the first value, what is left of the argument is compared with the second.
            Op::MaskedEq => (condition.value, condition.value_two.unwrap_or_default() & condition.value),
            _ => (u64::MAX, condition.value),
        };
        let [low, high] = [0, 32].map(|bits| ((mask >> bits) as u32, (value >> bits) as u32));
        let at = condition.at();
        let order = match condition.op {
            Op::Lt | Op::Ge => libc::BPF_JGE,
            Op::Le | Op::Gt => libc::BPF_JGT,
            Op::Eq | Op::Ne | Op::MaskedEq => {
                let low = self.masked(at, low, holds, fails);
                return if high.0 == 0 { low } else { self.masked(at + 4, high, low, fails) };
            }
        };
        self.compare(order, low.1, holds, fails);
        let low = self.put(load(at));
        let is_high = self.compare(libc::BPF_JEQ, high.1, low, fails);
        self.compare(libc::BPF_JGT, high.1, holds, is_high);
        self.put(load(at + 4))
    }

    /// Compares what a mask leaves of one half of an argument.
    fn masked(&mut self, at: u32, (mask, value): (u32, u32), holds: usize, fails: usize) -> usize {
        if value == 0 {
            self.compare(libc::BPF_JSET, mask, fails, holds);
        } else if value == mask && mask.is_power_of_two() {
            self.compare(libc::BPF_JSET, mask, holds, fails);
        } else {
            self.compare(libc::BPF_JEQ, value, holds, fails);
            if mask != u32::MAX {
                self.put(step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask));
            }
        }
        self.put(load(at))
    }

    /// Goes on at one place if the comparison with what is loaded holds, and at another if it does not.
    fn compare(&mut self, comparison: u32, k: u32, holds: usize, fails: usize) -> usize {
        let [holds, fails] = [holds, fails].map(|place| self.within_reach(place));
        let [jt, jf] = [holds, fails].map(|place| (self.code.len() - place) as u8);
        self.put(sock_filter { jt, jf, ..step(libc::BPF_JMP | comparison | libc::BPF_K, k) })
    }

    /// The same place, or another that leads there, for the two instructions that come next.
    fn within_reach(&mut self, place: usize) -> usize {
        let skipped = self.code.len() - place;
        if skipped < REACH { place } else { self.put(step(libc::BPF_JMP | libc::BPF_JA, skipped as u32)) }
    }

    /// Where an answer is given.
    fn give(&mut self, answer: u32) -> usize {
        let near = self.code.len().saturating_sub(NEAR);
        match self.given.get(&answer) {
            Some(place) if *place > near => *place,
            _ => {
                let place = self.put(step(libc::BPF_RET | libc::BPF_K, answer));
                self.given.insert(answer, place);
                place
            }
        }
    }
}

fn load(offset: u32) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
