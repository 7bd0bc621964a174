//! MCS levels: pairs of categories, and the range that they are chosen from.

use std::fmt;
use std::str::FromStr;

/// Two different categories, the lower first. A pair of equal ones would be a single category, which every pair
/// that has it dominates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Level {
    low: u16,
    high: u16,
}

/// The highest category that a policy has: `c1023`.
const MAX_CATEGORY: u16 = 1023;

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{},c{}", self.low, self.high)
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("bad pair of categories {text:?}: two different ones of c0 to c{MAX_CATEGORY}");
        let (low, high) = text.split_once(',').ok_or_else(bad)?;
        let category = |text: &str| number(text.strip_prefix('c')?);
        let (low, high) = category(low).zip(category(high)).ok_or_else(bad)?;
        if low == high { Err(bad()) } else { Ok(Self { low: low.min(high), high: low.max(high) }) }
    }
}

/// What a pair is chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All pairs of the categories from the first to the second.
    Range(u16, u16),
    /// This one, and no other.
    Pair(Level),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Range(0, MAX_CATEGORY)
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once('-').and_then(|(low, high)| number(low).zip(number(high)));
        match ends {
            Some((low, high)) if low < high => Ok(Self::Range(low, high)),
            _ => Err(format!("bad range of categories {text:?}: LOW-HIGH within 0-{MAX_CATEGORY}")),
        }
    }
}

impl Choice {
    /// Every pair once, beginning at a random one: two who choose at the same time seldom meet, and a choice without a
    /// free pair comes to an end.
    pub fn pairs(self, random: u64) -> impl Iterator<Item = Level> {
        let (first, categories) = match self {
            Self::Range(low, high) => (low, u64::from(high - low) + 1),
            Self::Pair(_) => (0, 2),
        };
        let all = categories * (categories - 1) / 2;
        (0..all).map(move |i| {
            if let Self::Pair(pair) = self {
                return pair;
            }
            // Pair number 0 is (0,1); then come (0,2) (1,2); (0,3) (1,3) (2,3); and so on.
            let number = (random % all + i) % all;
            let high = (8 * number + 1).isqrt().div_ceil(2);
            let low = number - high * (high - 1) / 2;
            Level { low: first + low as u16, high: first + high as u16 }
        })
    }
}

fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n <= MAX_CATEGORY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_level_is_two_different_categories_the_lower_first() {
        assert_eq!("c7,c3".parse::<Level>().expect("pair").to_string(), "c3,c7");
        for bad in ["", "c1", "c1,c1", "1,2", "c1,c1024", "c1,c2,c3", "c-1,c2", "c1,c+2", "c1, c2"] {
            assert!(bad.parse::<Level>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_range_has_each_of_its_pairs_once_wherever_it_begins() {
        for random in [0, 5, u64::MAX] {
            let range: Choice = "1020-1023".parse().expect("range");
            let pairs: Vec<Level> = range.pairs(random).collect();
            assert_eq!(pairs.len(), 6);
            assert_eq!(pairs.iter().collect::<HashSet<_>>().len(), 6);
            assert!(pairs.iter().all(|pair| pair.low < pair.high && pair.low >= 1020));
        }
        assert_eq!(Choice::default().pairs(1).count(), 523_776);
        for bad in ["", "5", "5-5", "6-5", "0-1024", "-1-5", "a-b"] {
            assert!(bad.parse::<Choice>().is_err(), "{bad:?}");
        }
    }
}
