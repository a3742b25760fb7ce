//! Time as flowtap counts it: nanoseconds since the Unix epoch.
//!
//! Stages below the receivers never read a clock: the time of a window comes to them with the tick, so that a
//! replay is deterministic and a test needs no sleep.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment, in nanoseconds since the Unix epoch (UTC). Good until the year 2554.
///
/// ```
/// use std::time::Duration;
/// use flowtap_model::Timestamp;
///
/// let at = Timestamp::from_nanos(1_500_000_000);
/// assert_eq!(at.next_multiple(Duration::from_secs(1)), Timestamp::from_nanos(2_000_000_000));
/// assert_eq!(at.plus(Duration::from_millis(1)).since(at), Duration::from_millis(1));
/// assert_eq!(at.to_string(), "1.500000000");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The system's clock, now. A clock before 1970 reads as 1970.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(nanos(since_epoch))
    }

    /// Nanoseconds since the epoch, the unit of OTLP's `*_unix_nano` fields.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since the epoch.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Time between `earlier` and this; zero if `earlier` is later (a clock that was set back).
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `duration` more, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// The first multiple of `interval` after this moment. An interval of zero counts as one nanosecond.
    #[must_use]
    pub fn next_multiple(self, interval: Duration) -> Self {
        let interval = nanos(interval).max(1);
        Self((self.0 / interval).saturating_add(1).saturating_mul(interval))
    }
}

impl fmt::Display for Timestamp {
    /// Seconds since the epoch, with the nanoseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_multiple_is_always_after_the_moment() {
        let interval = Duration::from_secs(5);
        assert_eq!(Timestamp(0).next_multiple(interval), Timestamp(5_000_000_000));
        assert_eq!(
            Timestamp(4_999_999_999).next_multiple(interval),
            Timestamp(5_000_000_000)
        );
        assert_eq!(
            Timestamp(5_000_000_000).next_multiple(interval),
            Timestamp(10_000_000_000)
        );
    }

    #[test]
    fn since_an_later_moment_is_zero() {
        assert_eq!(Timestamp(1).since(Timestamp(2)), Duration::ZERO);
    }
}
