//! Values of series: sums, which are counters and gauges, and histograms.

use flowtap_pipeline::{Buckets, Series};

/// A counter or a gauge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    /// The true sum. Differences are signed, so for a moment it may stand above what it will be.
    running: i64,
    /// Of a counter: what was shown last. Of a gauge: what it [holds](Sum::hold).
    shown: u64,
}

/// Value of a series.
///
/// A record reads and writes a slot's key, time and value, which are one cache line. The series itself is read when a window closes:
/// it is in the line if there is room for it, and otherwise in a table beside the slots.
pub(super) trait Value: Clone + Default {
    /// Change of the value by a record.
    type Change: Copy + std::fmt::Debug;
    /// The series, if it is in the slot.
    type Near: std::fmt::Debug;
    /// The series, if it is beside the slots; a default has none.
    type Far: Default + std::fmt::Debug;

    /// Puts the series of a slot in its place.
    fn place(series: Series) -> (Self::Near, Self::Far);

    /// The series of a slot; `None` if the slot is free.
    fn series<'a>(near: &'a Self::Near, far: &'a Self::Far) -> Option<&'a Series>;

    fn apply(&mut self, change: Self::Change);

    /// Whether a change takes back what another has added.
    fn is_decrement(change: Self::Change) -> bool;

    /// Number of what it counts, for its rank among others.
    fn count(&self) -> u64;

    /// Takes out what has come to it since it was exposed as `last`, and resets it to nothing.
    fn take_since(&mut self, last: &Self) -> Self;

    /// Whether there is nothing in it.
    fn is_nothing(&self) -> bool;

    /// Adds what was taken out of another.
    fn merge(&mut self, taken: &Self);
}

impl Value for Sum {
    type Change = i64;
    type Near = Series;
    type Far = ();

    fn place(series: Series) -> (Series, ()) {
        (series, ())
    }

    fn series<'a>(near: &'a Series, (): &'a ()) -> Option<&'a Series> {
        Some(near)
    }

    fn apply(&mut self, difference: i64) {
        self.running = self.running.saturating_add(difference);
    }

    fn is_decrement(difference: i64) -> bool {
        difference < 0
    }

    fn count(&self) -> u64 {
        self.running.max(0).unsigned_abs()
    }

    /// `shown` is what was exposed: a total that was held back counts as well, so that sums stay exact.
    fn take_since(&mut self, _: &Self) -> Self {
        let Self { running, shown } = std::mem::take(self);
        let running = running.saturating_sub_unsigned(shown);
        Self { running, shown: 0 }
    }

    fn is_nothing(&self) -> bool {
        self.running == 0
    }

    fn merge(&mut self, taken: &Self) {
        self.apply(taken.running);
    }
}

impl Sum {
    /// For a counter: the total and what it has grown by since the last time. Never falls.
    pub(super) fn total(&mut self) -> (u64, u64) {
        let total = self.shown.max(self.running.max(0).unsigned_abs());
        let delta = total - self.shown;
        self.shown = total;
        (total, delta)
    }

    /// For a gauge: what it stands at.
    pub(super) fn level(&self) -> u64 {
        self.shown.saturating_add(self.running.max(0).unsigned_abs())
    }

    /// For a gauge: counts `more` that are followed one by one, apart from differences, so that none of these can take away one
    /// of those. While it holds any its level is not 0, and its series stays.
    pub(super) const fn hold(&mut self, more: u64) {
        self.shown = self.shown.saturating_add(more);
    }

    /// For a gauge: counts `fewer` of what it holds.
    pub(super) const fn release(&mut self, fewer: u64) {
        self.shown = self.shown.saturating_sub(fewer);
    }
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: Buckets,
    pub(super) sum: f64,
}

/// A value, and the upper bounds of the family's buckets, each in its bucket; `None` if the buckets are exponential.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    pub(super) value: f64,
    pub(super) bounds: Option<&'static [f64]>,
}

impl Value for Histogram {
    type Change = Observation;
    type Near = ();
    type Far = Option<Series>;

    fn place(series: Series) -> ((), Option<Series>) {
        ((), Some(series))
    }

    fn series<'a>((): &'a (), far: &'a Option<Series>) -> Option<&'a Series> {
        far.as_ref()
    }

    fn apply(&mut self, Observation { value, bounds }: Observation) {
        self.buckets.record(value, bounds);
        self.sum += value;
    }

    fn is_decrement(_: Observation) -> bool {
        false
    }

    fn count(&self) -> u64 {
        self.buckets.count()
    }

    fn take_since(&mut self, last: &Self) -> Self {
        let taken = std::mem::take(self);
        Self {
            buckets: taken.buckets.since(&last.buckets),
            sum: taken.sum - last.sum,
        }
    }

    fn is_nothing(&self) -> bool {
        self.count() == 0
    }

    fn merge(&mut self, taken: &Self) {
        self.buckets.merge(&taken.buckets);
        self.sum += taken.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_holds_a_correction_back_until_it_is_made_up_for() {
        let mut sum = Sum::default();
        sum.apply(100);
        assert_eq!(sum.total(), (100, 100));
        sum.apply(-1);
        assert_eq!(sum.total(), (100, 0));
        sum.apply(11);
        assert_eq!(sum.total(), (110, 10));
    }

    #[test]
    fn an_observation_on_a_bound_is_in_that_bounds_bucket() {
        const BOUNDS: [f64; 2] = [50.0, 100.0];
        let mut histogram = Histogram::default();
        for value in [1.0, 50.0, 50.5, 100.0, 101.0] {
            histogram.apply(Observation {
                value,
                bounds: Some(&BOUNDS),
            });
        }
        assert_eq!(histogram.buckets.explicit()[..3], [2, 2, 1]);
        assert!((histogram.sum - 302.5).abs() < f64::EPSILON);
    }
}
