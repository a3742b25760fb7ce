//! Delivered values of each series: the starting points of the next differences.
//!
//! A difference runs from the last delivered value, not from the window before: the next request
//! includes the increase of a failed request, and of windows that the interval skips. A request on disk counts as delivered, and its
//! increases are owed again if it is refused or dropped there. Series that end before their increase is delivered have a request of
//! their own. An exporter that replaces another continues from the totals that its predecessor delivered. One added to a running
//! pipeline starts from those of its first snapshot.

mod increase;
mod owed;
mod rest;
mod total;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use flowtap_pipeline::{
    Buckets, BuildContext, Family, FamilySnapshot, HistogramPoint, Points, Series, SeriesId, Snapshot,
    SumPoint, Timestamp, ValuePoint,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use self::increase::{Amount, Increase};
use self::total::{Delivered, HistogramTotals, Total};
use super::ended::Ended;
use crate::push::fate::Fate;
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
    /// Increases that requests on disk report, with the number of points that there was no room for.
    stored: BTreeMap<u64, (Arc<str>, Vec<Increase>, usize)>,
    /// By pipeline: increases that series that have ended still owe.
    rest: HashMap<Arc<str>, HashMap<SeriesId, Increase>>,
    lost: Option<(Counter<u64>, [KeyValue; 1])>,
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
            stored: BTreeMap::new(),
            rest: HashMap::new(),
            lost: None,
        }
    }

    /// With a counter of what is lost.
    pub(super) fn counted(mut self, context: &BuildContext) -> Self {
        let counter = context
            .meter
            .u64_counter("exporter_lost_delta_points")
            .with_description(
                "Points of differences that were not delivered, and whose increase is in no later point.",
            )
            .with_unit("{point}")
            .build();
        let attributes = [KeyValue::new("exporter", context.id.to_string())];
        counter.add(0, &attributes);
        self.lost = Some((counter, attributes));
        self
    }

    fn count_lost(&self, points: usize) {
        if let Some((counter, attributes)) = &self.lost {
            counter.add(points as u64, attributes);
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
        let (start, value) = match self.sums.get(&point.series.id()) {
            Some(delivered) => (delivered.until, delivered.increase(&point.total)),
            None => (point.series.start(), point.total),
        };
        (value > 0).then_some(SumPart { start, value })
    }

    /// The same of a counter that is not in whole numbers.
    pub(super) fn of_value(&self, point: &ValuePoint) -> Option<ValuePart> {
        let (start, value) = match self.values.get(&point.series.id()) {
            Some(delivered) => (delivered.until, delivered.increase(&point.value)),
            None => (point.series.start(), point.value),
        };
        (value > 0.0).then_some(ValuePart { start, value })
    }

    /// The same of a histogram.
    pub(super) fn of_histogram(&self, point: &HistogramPoint) -> Option<HistogramPart> {
        let total = HistogramTotals::of(point);
        let (start, HistogramTotals { buckets, sum }) = match self.histograms.get(&point.series.id()) {
            Some(delivered) => (delivered.until, delivered.increase(&total)),
            None => (point.series.start(), total),
        };
        (buckets.count() > 0).then_some(HistogramPart { start, buckets, sum })
    }

    /// These points of `snapshot` have met `fate`.
    pub(super) fn settle(&mut self, snapshot: &Snapshot, reported: &[(usize, Range<usize>)], fate: Fate) {
        if let Fate::Failed { .. } = fate {
            for (index, range) in reported {
                self.see(snapshot, *index, range.clone());
            }
            return;
        }
        if let Fate::Stored(number) = fate {
            let increases = reported.iter().flat_map(|(index, range)| {
                let family = &snapshot.families[*index];
                range.clone().filter_map(|i| self.reported(family, i))
            });
            let increases = increases.collect();
            self.keep(number, &snapshot.pipeline, increases);
        }
        for (index, range) in reported {
            self.know(snapshot, *index, range.clone(), |_| true);
        }
    }

    /// The increase that a point reports, unless it does not count from 0.
    fn reported(&self, family: &FamilySnapshot, i: usize) -> Option<Increase> {
        if family.family.kind.can_fall() {
            return None;
        }
        let (series, start, amount) = match &family.points {
            Points::Sums(points) => {
                let part = self.of_sum(&points[i])?;
                (&points[i].series, part.start, Amount::Sum(part.value))
            }
            Points::Values(points) => {
                let part = self.of_value(&points[i])?;
                (&points[i].series, part.start, Amount::Value(part.value))
            }
            Points::Histograms(points) => {
                let HistogramPart { start, buckets, sum } = self.of_histogram(&points[i])?;
                let totals = Box::new(HistogramTotals { buckets, sum });
                (&points[i].series, start, Amount::Histogram(totals))
            }
        };
        Some(Increase {
            family: family.family,
            series: series.clone(),
            start,
            amount,
        })
    }

    /// The totals of these points, which were not delivered: the last ones of their series, perhaps.
    fn see(&mut self, snapshot: &Snapshot, family: usize, range: Range<usize>) {
        fn seen<T: Total>(known: &mut HashMap<SeriesId, Delivered<T>>, series: &Series, total: T) {
            let nothing = || Delivered::new(series, series.start(), T::default());
            known.entry(series.id()).or_insert_with(nothing).seen = total;
        }
        let family = &snapshot.families[family];
        match &family.points {
            Points::Sums(_) | Points::Values(_) if family.family.kind.can_fall() => {}
            Points::Sums(points) => {
                for point in &points[range] {
                    seen(&mut self.sums, &point.series, point.total);
                }
            }
            Points::Values(points) => {
                for point in &points[range] {
                    seen(&mut self.values, &point.series, point.value);
                }
            }
            Points::Histograms(points) => {
                for point in &points[range] {
                    let total = HistogramTotals::of(point);
                    seen(&mut self.histograms, &point.series, total);
                }
            }
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
                    let delivered = Delivered::new(&point.series, until, point.total);
                    self.sums.insert(point.series.id(), delivered);
                }
            }
            Points::Values(points) => {
                for point in points[range].iter().filter(|point| wanted(&point.series)) {
                    let delivered = Delivered::new(&point.series, until, point.value);
                    self.values.insert(point.series.id(), delivered);
                }
            }
            Points::Histograms(points) => {
                for point in points[range].iter().filter(|point| wanted(&point.series)) {
                    let total = HistogramTotals::of(point);
                    let delivered = Delivered::new(&point.series, until, total);
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

    /// Forgets series of `pipeline` that have ended, but for what they owe.
    pub(super) fn forget(&mut self, pipeline: &Arc<str>, ended: &Ended) {
        fn owed<T: Total>(
            known: &mut HashMap<SeriesId, Delivered<T>>,
            family: &'static Family,
            series: &Series,
            amount: impl Fn(T) -> Amount,
        ) -> Option<Increase> {
            let delivered = known.remove(&series.id())?;
            let amount = amount(delivered.increase(&delivered.seen));
            Some(Increase {
                family,
                series: delivered.series,
                start: delivered.until,
                amount,
            })
        }
        for (family, ended) in ended.families() {
            for (_, series) in ended {
                let owed = owed(&mut self.sums, family, series, Amount::Sum)
                    .or_else(|| owed(&mut self.values, family, series, Amount::Value))
                    .or_else(|| {
                        owed(&mut self.histograms, family, series, |totals| {
                            Amount::Histogram(Box::new(totals))
                        })
                    });
                if let Some(owed) = owed {
                    self.leave(pipeline, owed);
                }
            }
        }
    }
}
