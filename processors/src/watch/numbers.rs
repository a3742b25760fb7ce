//! The numbers of findings: their names, their precision, and the kinds of findings that have them.
//!
//! `docs/findings.md` has a table of them for each kind.

use flowtap_pipeline::FindingKind;

/// Defines [`Number`]: each with its name in records, the decimal places that it is rounded to, and its kinds.
macro_rules! numbers {
    ($($(#[$doc:meta])* $number:ident $name:literal, $decimals:literal, [$($kind:ident),+];)+) => {
        /// A number of a finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Number {
            $($(#[$doc])* $number,)+
        }

        impl Number {
            /// Every number.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$number),+];

            /// Its name in records.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$number => $name,)+
                }
            }

            /// Kinds of findings that may have it.
            pub(super) const fn kinds(self) -> &'static [FindingKind] {
                match self {
                    $(Self::$number => &[$(FindingKind::$kind),+],)+
                }
            }

            const fn decimals(self) -> i32 {
                match self {
                    $(Self::$number => $decimals,)+
                }
            }
        }
    };
}

numbers! {
    NewCountry "new_country", 0, [FirstContact];
    Destinations "destinations", 0, [FanOut];
    Ports "ports", 0, [FanOut, Beacon];
    Usual "usual", 1, [FanOut];
    LargestUsual "largest_usual", 0, [FanOut];
    Failed "failed", 0, [FailureSurge];
    Tried "tried", 0, [FailureSurge];
    Ratio "ratio", 3, [FailureSurge];
    UsualRatio "usual_ratio", 3, [FailureSurge];
    Bytes "bytes", 0, [VolumeSurge, Beacon];
    UsualBytes "usual_bytes", 0, [VolumeSurge];
    LargestUsualBytes "largest_usual_bytes", 0, [VolumeSurge];
    Score "score", 2, [VolumeSurge];
    PeerBytes "peer_bytes", 0, [VolumeSurge];
    PeriodSeconds "period_seconds", 1, [Beacon];
    Variation "variation", 3, [Beacon];
    Times "times", 0, [Beacon];
    /// That of the interval, in tenths if it is shorter than one.
    Seconds "seconds", 1, [FanOut, FailureSurge, VolumeSurge];
    /// 1 if a count, or `peer_bytes`, was not counted to the end.
    AtLeast "at_least", 0, [FanOut, VolumeSurge];
}

impl Number {
    /// `value` with the decimal places that this number has in sentences and records.
    pub(super) fn round(self, value: f64) -> f64 {
        let scale = 10_f64.powi(self.decimals());
        (value * scale).round() / scale
    }

    /// Its name and `value`, for a record.
    pub(super) fn of(self, value: f64) -> (&'static str, f64) {
        (self.name(), self.round(value))
    }
}
