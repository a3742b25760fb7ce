//! Delivered values of each series: the starting points of the next differences.
//!
//! A difference runs from the last delivered value, not from the window before: the next request
//! includes the increase of a failed request, and of windows that the interval skips. An exporter that replaces another continues
//! from the totals that its predecessor delivered. One added to a running pipeline starts from those of its first snapshot.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use flowtap_pipeline::{
    Buckets, HistogramPoint, Points, Series, SeriesId, Snapshot, SumPoint, Timestamp, ValuePoint,
};

use super::ended::Ended;
use crate::push::nanos;

/// A difference of a counter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SumPart {
    pub(super) start: Timestamp,
    pub(super) value: u64,
}

/// A difference of a counter that is not in whole numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ValuePart {
    pub(super) start: Timestamp,
    pub(super) value: f64,
}

/// A difference of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HistogramPart {
    pub(super) start: Timestamp,
    pub(super) buckets: Buckets,
    pub(super) sum: f64,
}

/// Totals as delivered, by series.
#[derive(Debug)]
pub(super) struct Deltas {
    /// When the exporter began, or the first of those that it goes on for.
    began: Timestamp,
    /// Pipelines of which a snapshot has come.
    met: HashSet<Arc<str>>,
    sums: HashMap<SeriesId, Delivered<u64>>,
    values: HashMap<SeriesId, Delivered<f64>>,
    histograms: HashMap<SeriesId, Delivered<HistogramTotals>>,
}

#[derive(Debug)]
struct Delivered<T> {
    /// Keeps the address, which is the key, from being another series's.
    series: Series,
    until: Timestamp,
    total: T,
}

#[derive(Clone, Debug)]
struct HistogramTotals {
    buckets: Buckets,
    sum: f64,
}

impl Deltas {
    /// Nothing is delivered yet.
    pub(super) fn new(began: Timestamp) -> Self {
        Self {
            began,
            met: HashSet::new(),
            sums: HashMap::new(),
            values: HashMap::new(),
            histograms: HashMap::new(),
        }
    }

    /// A snapshot has come. Of the first of a pipeline, series that are older than both its window and the exporter begin at their
    /// totals there. Older than the window alone are also those of a first snapshot that a full queue dropped: these are to be sent.
    pub(super) fn meet(&mut self, snapshot: &Snapshot) {
        if !self.met.insert(Arc::clone(&snapshot.pipeline)) {
            return;
        }
        let opened = Timestamp::from_nanos(snapshot.at.as_nanos().saturating_sub(nanos(snapshot.window)));
        let before = opened.min(self.began);
        for (index, family) in snapshot.families.iter().enumerate() {
            let all = 0..family.points.len();
            self.know(snapshot, index, all, |series| series.start() < before);
        }
    }

    /// The increase of `point` over the delivered value; `None` if there is none.
    pub(super) fn of_sum(&self, point: &SumPoint) -> Option<SumPart> {
        let (start, before) = match self.sums.get(&point.series.id()) {
            Some(delivered) => (delivered.until, delivered.total),
            None => (point.series.start(), 0),
        };
        let value = point.total.saturating_sub(before);
        (value > 0).then_some(SumPart { start, value })
    }

    /// The same of a counter that is not in whole numbers.
    pub(super) fn of_value(&self, point: &ValuePoint) -> Option<ValuePart> {
        let (start, before) = match self.values.get(&point.series.id()) {
            Some(delivered) => (delivered.until, delivered.total),
            None => (point.series.start(), 0.0),
        };
        let value = point.value - before;
        (value > 0.0).then_some(ValuePart { start, value })
    }

    /// The same of a histogram.
    pub(super) fn of_histogram(&self, point: &HistogramPoint) -> Option<HistogramPart> {
        let Some(delivered) = self.histograms.get(&point.series.id()) else {
            return (point.count() > 0).then_some(HistogramPart {
                start: point.series.start(),
                buckets: point.buckets.clone(),
                sum: point.sum,
            });
        };
        let buckets = point.buckets.since(&delivered.total.buckets);
        let sum = point.sum - delivered.total.sum;
        (buckets.count() > 0).then_some(HistogramPart {
            start: delivered.until,
            buckets,
            sum,
        })
    }

    /// These points of `snapshot` are delivered.
    pub(super) fn settle(&mut self, snapshot: &Snapshot, reported: &[(usize, Range<usize>)]) {
        for (index, range) in reported {
            self.know(snapshot, *index, range.clone(), |_| true);
        }
    }

    /// The next differences of these points, as far as their series are `wanted`, begin here.
    fn know(
        &mut self,
        snapshot: &Snapshot,
        family: usize,
        range: Range<usize>,
        wanted: impl Fn(&Series) -> bool,
    ) {
        let until = snapshot.at;
        let family = &snapshot.families[family];
        match &family.points {
            Points::Sums(_) | Points::Values(_) if family.family.kind.can_fall() => {}
            Points::Sums(points) => {
                for point in points[range].iter().filter(|point| wanted(&point.series)) {
                    let delivered = Delivered {
                        series: point.series.clone(),
                        until,
                        total: point.total,
                    };
                    self.sums.insert(point.series.id(), delivered);
                }
            }
            Points::Values(points) => {
                for point in points[range].iter().filter(|point| wanted(&point.series)) {
                    let delivered = Delivered {
                        series: point.series.clone(),
                        until,
                        total: point.value,
                    };
                    self.values.insert(point.series.id(), delivered);
                }
            }
            Points::Histograms(points) => {
                for point in points[range].iter().filter(|point| wanted(&point.series)) {
                    let delivered = Delivered {
                        series: point.series.clone(),
                        until,
                        total: HistogramTotals {
                            buckets: point.buckets.clone(),
                            sum: point.sum,
                        },
                    };
                    self.histograms.insert(point.series.id(), delivered);
                }
            }
        }
    }

    /// Forgets series that nothing else holds: they ended while no exporter had a snapshot that says so, as between two of which one
    /// replaces the other.
    pub(super) fn forget_unshared(&mut self) {
        self.sums.retain(|_, delivered| delivered.series.is_shared());
        self.values.retain(|_, delivered| delivered.series.is_shared());
        self.histograms
            .retain(|_, delivered| delivered.series.is_shared());
    }

    /// Number of series of which something is delivered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sums.len() + self.values.len() + self.histograms.len()
    }

    /// Forgets series that have ended.
    pub(super) fn forget(&mut self, ended: &Ended) {
        for (_, series) in ended.families().flat_map(|(_, ended)| ended) {
            self.sums.remove(&series.id());
            self.values.remove(&series.id());
            self.histograms.remove(&series.id());
        }
    }
}
