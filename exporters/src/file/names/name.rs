//! The name of a file: when it begins.

use std::time::{Duration, UNIX_EPOCH};

use flowtap_pipeline::Timestamp;

/// One name that fits the pattern. They sort by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::file) struct Name {
    /// When its first window began, such as `20260102T030405Z`.
    pub(super) time: String,
    /// Distinguishes files that began in the same second.
    pub(super) number: u32,
    pub(super) recovered: bool,
}

impl Name {
    /// The first name of a file whose first window begins at `start`.
    pub(in crate::file) fn starting(start: Timestamp) -> Self {
        let time = UNIX_EPOCH + Duration::from_nanos(start.as_nanos());
        let mut time = humantime::format_rfc3339_seconds(time).to_string();
        time.retain(|c| c != '-' && c != ':');
        Self {
            time,
            number: 0,
            recovered: false,
        }
    }

    /// The next, if this one is taken.
    pub(in crate::file) fn next(self) -> Self {
        Self {
            number: self.number.saturating_add(1),
            ..self
        }
    }

    /// Whether it begins after a file that begins at `moment` would.
    pub(in crate::file) fn is_after(&self, moment: Timestamp) -> bool {
        self.time > Self::starting(moment).time
    }

    /// The file that is kept of it after a crash.
    pub(in crate::file) fn recovered(self) -> Self {
        Self {
            recovered: true,
            ..self
        }
    }

    /// `2026-01-02`
    pub(super) fn date(&self) -> String {
        let part = |range| self.time.get(range).unwrap_or_default();
        format!("{}-{}-{}", part(0..4), part(4..6), part(6..8))
    }

    /// `03`
    pub(super) fn hour(&self) -> &str {
        self.time.get(9..11).unwrap_or_default()
    }
}
