//! Quantities as an administrator writes them.

use std::str::FromStr;

/// Processor time, as microseconds in each [`Cpus::PERIOD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub i64);

impl Cpus {
    /// The kernel's own default period in microseconds.
    pub const PERIOD: i64 = 100_000;

    /// The least quota that the kernel takes, in microseconds (sched-bwc.rst).
    const MIN: i64 = 1_000;
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let quota = text.parse().ok().filter(|cpus| plain && *cpus <= 10_000.0);
        let quota = quota.map(|cpus: f64| (cpus * Self::PERIOD as f64).round() as i64);
        quota
            .filter(|quota| *quota >= Self::MIN)
            .map(Self)
            .ok_or_else(|| format!("bad number of processors {text:?}: 0.01 or more"))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<const MIN: i64, const MAX: i64>(pub i64);

/// A number of processes and threads: up to the kernel's limit of pids (`PID_MAX_LIMIT`).
pub type Pids = Count<1, 4_194_304>;

/// A share of the disks' time, as `blockIO.weight` of the OCI runtime specification.
pub type IoWeight = Count<10, 1000>;

impl<const MIN: i64, const MAX: i64> FromStr for Count<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && (MIN..=MAX).contains(number));
        number.map(Self).ok_or_else(|| format!("bad number {text:?}: {MIN} to {MAX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_a_quota_of_the_period() {
        let cpus = |text: &str| text.parse::<Cpus>().map(|cpus| cpus.0).ok();
        assert_eq!(cpus("0.5"), Some(50_000));
        assert_eq!(cpus("2"), Some(200_000));
        for bad in ["", ".", "0", "0.001", "-1", "inf", "NaN", "1e3", "1,5", "10001"] {
            assert_eq!(cpus(bad), None, "{bad}");
        }
    }

    #[test]
    fn counts_have_their_bounds() {
        assert_eq!("1".parse::<Pids>().map(|pids| pids.0), Ok(1));
        assert!("0".parse::<Pids>().is_err() && "+5".parse::<Pids>().is_err() && "".parse::<Pids>().is_err());
        assert!("9".parse::<IoWeight>().is_err() && "1001".parse::<IoWeight>().is_err());
    }
}
