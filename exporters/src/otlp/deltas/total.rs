//! Totals of series, and what of them is delivered.

use flowtap_pipeline::{Buckets, HistogramPoint, Series, Timestamp};

/// A value that grows.
pub(super) trait Total: Clone + Default {
    fn since(&self, before: &Self) -> Self;
    fn add(&mut self, more: &Self);
}

impl Total for u64 {
    fn since(&self, before: &Self) -> Self {
        self.saturating_sub(*before)
    }

    fn add(&mut self, more: &Self) {
        *self = self.saturating_add(*more);
    }
}

impl Total for f64 {
    fn since(&self, before: &Self) -> Self {
        (self - before).max(0.0)
    }

    fn add(&mut self, more: &Self) {
        *self += more;
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct HistogramTotals {
    pub(super) buckets: Buckets,
    pub(super) sum: f64,
}

impl HistogramTotals {
    pub(super) fn of(point: &HistogramPoint) -> Self {
        Self {
            buckets: point.buckets.clone(),
            sum: point.sum,
        }
    }
}

impl Total for HistogramTotals {
    fn since(&self, before: &Self) -> Self {
        Self {
            buckets: self.buckets.since(&before.buckets),
            sum: self.sum - before.sum,
        }
    }

    fn add(&mut self, more: &Self) {
        self.buckets.merge(&more.buckets);
        self.sum += more.sum;
    }
}

/// The total of a series as it was delivered.
#[derive(Debug)]
pub(super) struct Delivered<T> {
    /// Keeps the address, which is the key, from being another series's.
    pub(super) series: Series,
    pub(super) until: Timestamp,
    pub(super) total: T,
    /// The newest total that is known.
    pub(super) seen: T,
    /// The increase reported by requests that failed after they counted as delivered.
    pub(super) owed: T,
}

impl<T: Total> Delivered<T> {
    /// Delivered up to `until`, when it was `total`.
    pub(super) fn new(series: &Series, until: Timestamp, total: T) -> Self {
        Self {
            series: series.clone(),
            until,
            seen: total.clone(),
            total,
            owed: T::default(),
        }
    }

    /// The increase to be reported once it is `total`.
    pub(super) fn increase(&self, total: &T) -> T {
        let mut increase = total.since(&self.total);
        increase.add(&self.owed);
        increase
    }
}
