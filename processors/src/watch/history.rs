//! Usual values: short histories, and comparisons with them.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Values that a history keeps.
const LENGTH: usize = 32;

/// Values that it needs before it says what is usual.
const ENOUGH: usize = 8;

/// Deviation below which no history is taken to be: a fifth more or less is always usual.
const LEAST_DEVIATION: f64 = 0.2;

/// The largest score of an amount: 64 doublings, beyond a byte.
pub(super) const MAX_SCORE: f64 = 64.0 / LEAST_DEVIATION;

/// The newest amounts, as logarithms: a surge is a multiple, not a difference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    /// Doublings.
    doublings: VecDeque<f32>,
}

/// A value beyond the usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Surge {
    pub(super) score: f64,
    pub(super) median: f64,
    /// The largest usual amount.
    pub(super) largest: f64,
}

impl Surge {
    /// Whether `amount` is a surge by a score of at least `score`.
    pub(super) fn is_one(&self, amount: u64, score: f64) -> bool {
        let amount = amount as f64;
        self.score >= score
            && amount >= self.median * VOLUME_MULTIPLE
            && amount >= self.largest * PEAK_MULTIPLE
    }
}

/// The least multiple of the usual amount that is a surge.
const VOLUME_MULTIPLE: f64 = 4.0;

/// Seconds between two large amounts that are two occasions, and not one.
const APART: u32 = 3600;

/// The amounts of a contact, or of a subject: the newest ones, and the largest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Volume {
    newest: History,
    /// The largest while `watch` learned, or later on two occasions.
    usual: Peak,
    /// The largest on an occasion after that, and when it began.
    once: Peak,
}

impl Volume {
    /// Compares `amount` at `now`, in seconds, with what is usual; `None` if that is not known. `before`: the largest that was usual before
    /// the interval before, if that had an amount, which is left out.
    pub(super) fn compare(&self, amount: u64, now: u32, before: Option<Peak>) -> Option<Surge> {
        let surge = self.newest.compare(amount, before.is_some())?;
        let largest = before.unwrap_or(self.usual).get(now);
        // The median is of all intervals, also of those that were reported: what has come in half of them is usual.
        Some(Surge {
            largest: largest.max(surge.median),
            ..surge
        })
    }

    /// The largest that is usual.
    pub(super) const fn usual(&self) -> Peak {
        self.usual
    }

    /// Takes `factor` times as much for usual.
    pub(super) fn scale(&mut self, factor: f32) {
        self.newest.scale(factor);
        self.usual.scale(factor);
        self.once.scale(factor);
    }

    /// Adds the amount of an interval at `now`, in seconds, and the `most` in the time of one. While `learning` the largest is usual; later
    /// one of which half came before, on another occasion.
    pub(super) fn push(&mut self, amount: u64, most: u64, now: u32, learning: bool) {
        self.newest.push(amount);
        let amount = most as f64;
        if learning || amount <= self.usual.get(now) {
            self.usual.raise(amount, now);
            return;
        }
        let before = self.once.get(now);
        let is_another = now.saturating_sub(self.once.at) >= APART;
        if before > 0.0 && is_another && amount * 2.0 >= before {
            self.usual.raise(amount.min(before), now);
        }
        if amount > before {
            let began = if before > 0.0 && !is_another {
                self.once.at
            } else {
                now
            };
            self.once.raise(amount, now);
            self.once.at = began;
        }
    }
}

impl History {
    /// Compares `amount` with the history, without the newest value if there are enough others; `None` if it is too short.
    pub(super) fn compare(&self, amount: u64, without_newest: bool) -> Option<Surge> {
        let length = self.doublings.len();
        if length < ENOUGH {
            return None;
        }
        let length = length - usize::from(without_newest && length > ENOUGH);
        let values = self.doublings.iter().take(length);
        let mut values: Vec<f64> = values.map(|value| f64::from(*value)).collect();
        let median = median(&mut values);
        let mut deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        // For values of a normal distribution 1.4826 times the median deviation is the standard deviation.
        let deviation = (1.4826 * self::median(&mut deviations)).max(LEAST_DEVIATION);
        Some(Surge {
            score: (log2(amount) - median) / deviation,
            median: median.exp2(),
            largest: 0.0,
        })
    }

    /// Takes `factor` times as much for usual.
    pub(super) fn scale(&mut self, factor: f32) {
        let more = factor.log2();
        for value in &mut self.doublings {
            *value += more;
        }
    }

    /// Adds an amount; the oldest makes room.
    pub(super) fn push(&mut self, amount: u64) {
        if self.doublings.len() == LENGTH {
            self.doublings.pop_front();
        }
        self.doublings.push_back((amount.max(1) as f32).log2());
    }
}

fn log2(amount: u64) -> f64 {
    (amount.max(1) as f64).log2()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// Days in which the largest usual amount halves: one that comes every week stays usual, one that does not come again is forgotten.
const HALVING: f64 = 14.0;

const DAY: u32 = 86_400;

/// The largest amount, which becomes less with time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Peak {
    doublings: f32,
    /// Seconds; 0 if there is none.
    at: u32,
}

impl Peak {
    /// The amount at `now`, in seconds, as a whole number; 0 if there is none.
    pub(super) fn get(self, now: u32) -> f64 {
        if self.at == 0 {
            return 0.0;
        }
        // Once a day: two pipelines that begin a second apart find the same.
        let days = now.saturating_sub(self.at) / DAY;
        (f64::from(self.doublings) - f64::from(days) / HALVING)
            .exp2()
            .round()
    }

    /// Raises it to `amount`, if that is more.
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm is small")]
    pub(super) fn raise(&mut self, amount: f64, now: u32) {
        if amount >= self.get(now) {
            *self = Self {
                doublings: amount.max(1.0).log2() as f32,
                at: now.max(1),
            };
        }
    }

    fn scale(&mut self, factor: f32) {
        self.doublings += factor.log2();
    }
}

/// Multiple of the usual count in an interval from which on a count may be a scan.
const COUNT_MULTIPLE: f64 = 4.0;

/// The same of the largest usual count.
const PEAK_MULTIPLE: f64 = 2.0;

/// Counts of something that a subject has, in intervals in which it has any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// That of the counts that were not reported.
    mean: Mean,
    /// That of all counts: so many that come again and again become usual.
    all: Mean,
    /// The largest that was not reported.
    largest: Peak,
}

/// The usual count, for a finding about one that is not: of the same counts both, those that were not reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct UsualCount {
    pub(super) mean: f64,
    pub(super) largest: f64,
}

impl Counts {
    /// Compares the `most` in the time of an interval at `now`, in seconds, with what is usual, then makes `count`, that of the interval, a
    /// part of that. Returns what is usual if it is far more than that, and at least `least`. While `learning` every count is usual.
    ///
    /// `before`: what was usual before the interval before, if that had a count, which is left out: it may be the first part of a scan. It
    /// becomes what was usual before this one.
    pub(super) fn judge(
        &mut self,
        [count, most]: [usize; 2],
        least: usize,
        before: &mut Option<Self>,
        now: u32,
        learning: bool,
    ) -> Option<UsualCount> {
        let known = before.unwrap_or(*self);
        let (mean, largest) = (known.mean.value, known.largest.get(now));
        let usual = UsualCount {
            mean,
            // It becomes less with time, and the mean does not.
            largest: largest.max(mean.ceil()),
        };
        let amount = most as f64;
        let is_unusual = !learning
            && most >= least
            && amount >= mean.max(known.all.so_far(largest)) * COUNT_MULTIPLE
            && amount >= largest * PEAK_MULTIPLE;
        if is_unusual {
            // The interval before is a part of what is reported.
            (self.mean, self.largest) = (known.mean, known.largest);
        }
        *before = Some(*self);
        self.all.push(count as f64);
        if !is_unusual {
            self.mean.push(count as f64);
            self.largest.raise(amount, now);
        }
        is_unusual.then_some(usual)
    }

    /// Whether there are enough counts to have a mean.
    #[cfg(test)]
    pub(super) fn is_known(&self) -> bool {
        self.all.get().is_some()
    }

    /// Takes `factor` times as many for usual.
    pub(super) fn scale(&mut self, factor: f32) {
        self.mean.scale(factor);
        self.all.scale(factor);
        self.largest.scale(factor);
    }
}

/// Weight of a new value in a running mean.
const WEIGHT: f64 = 0.05;

/// A running mean of what has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Mean {
    value: f64,
    seen: u8,
}

impl Mean {
    /// The mean; `None` before there are enough values.
    pub(super) fn get(&self) -> Option<f64> {
        (usize::from(self.seen) >= ENOUGH).then_some(self.value)
    }

    /// The mean of the values that there are, however few. As long as they are few, one far larger value outweighs them: then it is
    /// `largest` at most, the largest that was usual.
    fn so_far(&self, largest: f64) -> f64 {
        self.get().unwrap_or_else(|| self.value.min(largest))
    }

    /// Takes `factor` times as much for usual.
    pub(super) fn scale(&mut self, factor: f32) {
        self.value *= f64::from(factor);
    }

    pub(super) fn push(&mut self, value: f64) {
        self.seen = self.seen.saturating_add(1);
        let weight = WEIGHT.max(1.0 / f64::from(self.seen));
        self.value += weight * (value - self.value);
    }
}

/// Pauses between activities that are kept.
const PAUSES: usize = 16;

/// Pauses that are needed to call them regular.
const REGULAR: usize = 10;

/// The least quiet time in seconds that separates two activities.
const QUIET: u32 = 20;

/// Looks at a socket in a pause, at least. With fewer, all pauses are the same number of looks, however much they vary: a time that is
/// known up to a look has a deviation of 0.4 of the time between two looks, of the difference of two, which has to be a tenth at most.
const LOOKS: u32 = 4;

/// Quiet time in seconds that separates two activities, with looks at sockets at intervals of `looks`: each of these shows traffic since the
/// one before, so that one without traffic has to be between.
fn quiet(looks: Duration) -> u32 {
    let seconds = (looks.saturating_mul(3) / 2).as_secs();
    QUIET.max(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// An activity, up to the beginning of the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Pause {
    /// From its beginning to that of the next.
    seconds: u32,
    /// At most 4 GiB.
    bytes: u32,
}

/// When a contact was active.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rhythm {
    /// Of each activity, the oldest first.
    pauses: Vec<Pause>,
    began: u32,
    last: u32,
    /// Bytes of the activity that goes on.
    bytes: u64,
}

/// Activities at regular intervals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Regular {
    pub(super) period: f64,
    pub(super) variation: f64,
    pub(super) bytes: u64,
    pub(super) times: usize,
}

/// Whether one of two pauses is longer than the other by a quarter at most.
pub(super) fn is_like(one: f64, other: f64) -> bool {
    one <= other * 1.25 && other <= one * 1.25
}

impl Rhythm {
    /// Something moved at `now`, in seconds, or since the look before; `looks` is the time between two.
    pub(super) fn push(&mut self, now: u32, bytes: u64, looks: Duration) {
        if self.began == 0 {
            (self.began, self.last) = (now, now);
        } else if now.saturating_sub(self.last) >= quiet(looks) {
            if self.pauses.len() == PAUSES {
                self.pauses.remove(0);
            }
            self.pauses.push(Pause {
                seconds: now.saturating_sub(self.began),
                bytes: u32::try_from(self.bytes).unwrap_or(u32::MAX),
            });
            (self.began, self.bytes) = (now, 0);
        }
        self.last = now;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// When its activities began, and their bytes; the oldest first. The last one may go on.
    fn activities(&self) -> impl Iterator<Item = (u32, u64)> {
        let kept: u32 = self.pauses.iter().map(|pause| pause.seconds).sum();
        let mut began = self.began.saturating_sub(kept);
        let ended = self.pauses.iter().map(move |pause| {
            let activity = (began, u64::from(pause.bytes));
            began += pause.seconds;
            activity
        });
        ended.chain([(self.began, self.bytes)])
    }

    /// That of all of them together, as far back as each of them is kept; `looks` is the time between two looks at sockets.
    pub(super) fn of_all<'a>(rhythms: impl Iterator<Item = &'a Self> + Clone, looks: Duration) -> Self {
        let full = rhythms.clone().filter(|rhythm| rhythm.pauses.len() == PAUSES);
        let since = full.filter_map(|rhythm| rhythm.activities().next());
        let since = since.map(|(began, _)| began).max().unwrap_or(0);
        let activities = rhythms.flat_map(Self::activities);
        let mut activities: Vec<_> = activities.filter(|(began, _)| *began >= since).collect();
        activities.sort_unstable();
        let mut all = Self::default();
        for (began, bytes) in activities {
            all.push(began, bytes, looks);
        }
        all
    }

    /// The pause of most activities, whatever they move: the median, if at least half of the pauses are like it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "seconds of a pause, which are compared by quarters"
    )]
    pub(super) fn period(&self) -> Option<f32> {
        let mut seconds: Vec<_> = self.pauses.iter().map(|pause| f64::from(pause.seconds)).collect();
        let median = median(&mut seconds);
        let alike = seconds.iter().filter(|pause| is_like(**pause, median)).count();
        (alike > 0 && alike * 2 >= seconds.len()).then_some(median as f32)
    }

    /// Whether the activities are regular: small, and with pauses that vary by `variation` at most.
    /// `looks` is the time between two looks at sockets.
    pub(super) fn regular(&self, variation: f64, bytes: u64, looks: Duration) -> Option<Regular> {
        let most_bytes = self.pauses.iter().map(|pause| pause.bytes).max();
        let most_bytes = u64::from(most_bytes.unwrap_or(0));
        if self.pauses.len() < REGULAR || most_bytes > bytes {
            return None;
        }
        let count = self.pauses.len() as f64;
        let seconds = self.pauses.iter().map(|pause| f64::from(pause.seconds));
        let mean = seconds.clone().sum::<f64>() / count;
        let squares = seconds.map(|pause| (pause - mean).powi(2));
        // A pause that is not a whole number of looks is seen as the whole number below or above it.
        let looks = looks.as_secs_f64();
        let part = if looks > 0.0 { (mean / looks).fract() } else { 0.0 };
        let of_looks = part * (1.0 - part) * looks.powi(2);
        let seen = (squares.sum::<f64>() / count - of_looks).max(0.0).sqrt() / mean;
        let is_seen_well = mean >= looks * f64::from(LOOKS);
        (seen <= variation && is_seen_well).then_some(Regular {
            period: mean,
            variation: seen,
            bytes: most_bytes,
            times: self.pauses.len() + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOKS_OF_A_TEST: Duration = Duration::from_secs(5);

    #[test]
    fn a_surge_is_measured_in_deviations_of_the_logarithm() {
        let mut history = History::default();
        for amount in [900, 1_000, 1_100, 1_000, 950, 1_050, 1_000] {
            history.push(amount);
            assert_eq!(history.compare(1_000_000, false), None, "too short");
        }
        history.push(1_000);
        let usual = history.compare(1_100, false).unwrap();
        assert!(usual.score < 1.0, "{usual:?}");
        let surge = history.compare(1_000_000, false).unwrap();
        assert!((surge.median - 1_000.0).abs() < 10.0, "{surge:?}");
        // Ten doublings, of at least a fifth each.
        assert!(surge.score > 40.0, "{surge:?}");
    }

    #[test]
    fn a_history_forgets_what_is_oldest() {
        let mut history = History::default();
        for _ in 0..LENGTH {
            history.push(10);
        }
        for _ in 0..LENGTH {
            history.push(1_000_000);
        }
        assert!(history.compare(1_000_000, false).unwrap().score.abs() < 0.05);
        assert_eq!(history.doublings.len(), LENGTH);
    }

    #[test]
    fn a_mean_is_known_after_enough_values_and_follows_the_newer_ones() {
        let mut mean = Mean::default();
        for _ in 0..ENOUGH {
            assert_eq!(mean.get(), None);
            mean.push(1.0);
        }
        assert_eq!(mean.get(), Some(1.0));
        for _ in 0..200 {
            mean.push(3.0);
        }
        assert!((mean.get().unwrap() - 3.0).abs() < 0.01);
    }

    #[test]
    fn regular_pauses_are_found_and_irregular_or_large_ones_are_not() {
        let rhythm = |pauses: &[u32], bytes| {
            let mut rhythm = Rhythm::default();
            let mut now = 1_000;
            for pause in pauses {
                // Two looks at one activity.
                rhythm.push(now, bytes, LOOKS_OF_A_TEST);
                rhythm.push(now + 5, 0, LOOKS_OF_A_TEST);
                now += pause;
            }
            rhythm
        };
        let steady = [60, 61, 59, 60, 60, 62, 58, 60, 60, 60, 61, 60];
        let regular = rhythm(&steady, 200).regular(0.1, 1_000, LOOKS_OF_A_TEST).unwrap();
        assert!(
            (regular.period - 60.0).abs() < 1.0 && regular.bytes == 200,
            "{regular:?}"
        );
        assert_eq!(
            rhythm(&steady, 200_000).regular(0.1, 1_000, LOOKS_OF_A_TEST),
            None,
            "large"
        );
        let people = [30, 200, 45, 600, 31, 90, 25, 400, 33, 150, 70, 500];
        assert_eq!(rhythm(&people, 200).regular(0.1, 1_000, LOOKS_OF_A_TEST), None);
        assert_eq!(
            rhythm(&steady[..8], 200).regular(0.1, 1_000, LOOKS_OF_A_TEST),
            None,
            "too few"
        );
    }

    #[test]
    fn one_large_transfer_hides_a_rhythm_for_as_long_as_its_pause_is_kept() {
        let kept = u32::try_from(PAUSES).unwrap();
        let mut rhythm = Rhythm::default();
        rhythm.push(1_000, 1_000_000, LOOKS_OF_A_TEST);
        for time in 1..=kept {
            rhythm.push(1_000 + time * 60, 200, LOOKS_OF_A_TEST);
            assert_eq!(rhythm.regular(0.1, 1_000, LOOKS_OF_A_TEST), None, "{time}");
        }
        rhythm.push(1_000 + (kept + 1) * 60, 200, LOOKS_OF_A_TEST);
        assert_eq!(rhythm.regular(0.1, 1_000, LOOKS_OF_A_TEST).unwrap().bytes, 200);
    }
}
