//! Signals by name, as systemd's KillSignal= has them.

use nix::libc;
use std::str::FromStr;

/// A signal's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub i32);

/// The first realtime signal, as glibc counts, with which systemd is built. musl counts from one more, since it keeps
/// one more for itself: its `SIGRTMIN+3` would power systemd off the wrong way.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

impl Signal {
    pub const TERM: Self = Self(libc::SIGTERM);
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let offset = |text: &str| text.parse::<u8>().ok().map(i32::from);
        let realtime = text.strip_prefix("SIGRTMIN").map(|rest| match rest.strip_prefix('+') {
            Some(rest) => offset(rest).map(|offset| SIGRTMIN + offset),
            None => rest.is_empty().then_some(SIGRTMIN),
        });
        let number = match realtime {
            Some(number) => number,
            None => nix::sys::signal::Signal::from_str(text).ok().map(|signal| signal as i32),
        };
        number.filter(|number| *number <= SIGRTMAX).map(Self).ok_or_else(|| format!("no signal {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_systemd_calls_them() {
        let number = |text: &str| text.parse::<Signal>().map(|signal| signal.0).ok();
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("SIGRTMIN"), Some(34));
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!(number("SIGRTMIN+30"), Some(64));
        for bad in ["", "TERM", "15", "SIGRTMIN+31", "SIGRTMIN+", "SIGRTMIN3", "SIGRTMIN+-1", "SIGNO"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
