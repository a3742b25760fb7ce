//! Delivered values of each series: the starting points of the next differences.
//!
//! A difference runs from the last delivered value, not from the window before: the next request
//! includes the increase of a failed request, and of windows that the interval skips. A request on disk counts as delivered, and its
//! increases are owed again if it is refused or dropped there. Series that end before their increase is delivered have a request of
//! their own. An exporter that replaces another continues from the totals that its predecessor delivered. One added to a running
//! pipeline starts from those of its first snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use flowtap_pipeline::{
    Buckets, BuildContext, Family, FamilySnapshot, HistogramPoint, Points, Series, SeriesId, Snapshot,
    SumPoint, Timestamp, ValuePoint,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::ended::Ended;
use crate::push::fate::Fate;
use crate::push::{ended_at, nanos};

/// Points whose increase is kept apart from the series: of requests on disk, and of series that have ended. Beyond, what a request
/// on disk had counted is lost if that fails.
const MAX_KEPT: usize = 500_000;

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

#[derive(Debug)]
struct Delivered<T> {
    /// Keeps the address, which is the key, from being another series's.
    series: Series,
    until: Timestamp,
    total: T,
    /// The newest total that is known.
    seen: T,
    /// The increase reported by requests that failed after they counted as delivered.
    owed: T,
}

/// A value that grows.
trait Total: Clone + Default {
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
struct HistogramTotals {
    buckets: Buckets,
    sum: f64,
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

impl<T: Total> Delivered<T> {
    /// Delivered up to `until`, when it was `total`.
    fn new(series: &Series, until: Timestamp, total: T) -> Self {
        Self {
            series: series.clone(),
            until,
            seen: total.clone(),
            total,
            owed: T::default(),
        }
    }

    /// The increase to be reported once it is `total`.
    fn increase(&self, total: &T) -> T {
        let mut increase = total.since(&self.total);
        increase.add(&self.owed);
        increase
    }
}

/// The increase that a point reports.
#[derive(Clone, Debug)]
struct Increase {
    family: &'static Family,
    series: Series,
    start: Timestamp,
    amount: Amount,
}

#[derive(Clone, Debug)]
enum Amount {
    Sum(u64),
    Value(f64),
    Histogram(Box<HistogramTotals>),
}

impl Amount {
    fn is_nothing(&self) -> bool {
        match self {
            Self::Sum(value) => *value == 0,
            Self::Value(value) => *value <= 0.0,
            Self::Histogram(totals) => totals.buckets.count() == 0,
        }
    }

    fn add(&mut self, more: &Self) {
        match (self, more) {
            (Self::Sum(value), Self::Sum(more)) => value.add(more),
            (Self::Value(value), Self::Value(more)) => value.add(more),
            (Self::Histogram(totals), Self::Histogram(more)) => totals.add(more),
            // A series has values of one kind.
            _ => {}
        }
    }
}

/// The increases that ended series still owe, as a snapshot that they would have been in, and the deltas that it is encoded with.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) snapshot: Snapshot,
    pub(super) deltas: Deltas,
    /// By family of that snapshot.
    increases: Vec<Vec<Increase>>,
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
        let total = HistogramTotals {
            buckets: point.buckets.clone(),
            sum: point.sum,
        };
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

    /// The request on disk of this `number` reports `increases`.
    fn keep(&mut self, number: u64, pipeline: &Arc<str>, mut increases: Vec<Increase>) {
        let stored: usize = self.stored.values().map(|(_, kept, _)| kept.len()).sum();
        let rest: usize = self.rest.values().map(HashMap::len).sum();
        let room = MAX_KEPT.saturating_sub(stored + rest);
        let without = increases.len().saturating_sub(room);
        increases.truncate(room);
        self.stored
            .insert(number, (Arc::clone(pipeline), increases, without));
    }

    /// The request on disk of this `number` has met `fate`.
    pub(super) fn settle_stored(&mut self, number: u64, fate: Fate) {
        let Some((pipeline, increases, without)) = self.stored.remove(&number) else {
            return;
        };
        if fate == Fate::Delivered {
            return;
        }
        self.count_lost(without);
        for increase in increases {
            self.owe(&pipeline, increase);
        }
    }

    fn owe(&mut self, pipeline: &Arc<str>, increase: Increase) {
        let id = increase.series.id();
        match &increase.amount {
            Amount::Sum(value) => {
                if let Some(delivered) = self.sums.get_mut(&id) {
                    return delivered.owed.add(value);
                }
            }
            Amount::Value(value) => {
                if let Some(delivered) = self.values.get_mut(&id) {
                    return delivered.owed.add(value);
                }
            }
            Amount::Histogram(totals) => {
                if let Some(delivered) = self.histograms.get_mut(&id) {
                    return delivered.owed.add(totals);
                }
            }
        }
        self.leave(pipeline, increase);
    }

    /// The series of `increase` has ended.
    fn leave(&mut self, pipeline: &Arc<str>, increase: Increase) {
        if increase.amount.is_nothing() {
            return;
        }
        let rest = self.rest.entry(Arc::clone(pipeline)).or_default();
        if let Some(known) = rest.get_mut(&increase.series.id()) {
            known.amount.add(&increase.amount);
        } else if rest.len() < MAX_KEPT {
            rest.insert(increase.series.id(), increase);
        } else {
            self.count_lost(1);
        }
    }

    /// Takes what ended series of the pipeline of `snapshot` owe, as points of the start of its window: theirs are not after it.
    pub(super) fn take_rest(&mut self, snapshot: &Snapshot) -> Rest {
        let at = ended_at(snapshot);
        let mut deltas = Self::new(self.began);
        let mut families: Vec<FamilySnapshot> = Vec::new();
        let mut increases: Vec<Vec<Increase>> = Vec::new();
        let owed = self.rest.remove(&snapshot.pipeline).unwrap_or_default();
        for increase in owed.into_values() {
            let Increase {
                family,
                series,
                start,
                amount,
            } = increase.clone();
            let id = series.id();
            let known = families.iter().position(|known| known.family == family);
            let place = known.unwrap_or_else(|| {
                let points = match amount {
                    Amount::Sum(_) => Points::Sums(Vec::new()),
                    Amount::Value(_) => Points::Values(Vec::new()),
                    Amount::Histogram(_) => Points::Histograms(Vec::new()),
                };
                families.push(FamilySnapshot {
                    family,
                    points,
                    ended: Vec::new(),
                });
                increases.push(Vec::new());
                families.len() - 1
            });
            match (&mut families[place].points, amount) {
                (Points::Sums(points), Amount::Sum(total)) => {
                    deltas.sums.insert(id, Delivered::new(&series, start, 0));
                    points.push(SumPoint {
                        series,
                        total,
                        delta: total,
                        updated: at,
                    });
                }
                (Points::Values(points), Amount::Value(value)) => {
                    deltas.values.insert(id, Delivered::new(&series, start, 0.0));
                    points.push(ValuePoint {
                        series,
                        value,
                        updated: at,
                    });
                }
                (Points::Histograms(points), Amount::Histogram(totals)) => {
                    let nothing = HistogramTotals::default();
                    deltas
                        .histograms
                        .insert(id, Delivered::new(&series, start, nothing));
                    let HistogramTotals { buckets, sum } = *totals;
                    points.push(HistogramPoint {
                        series,
                        buckets,
                        sum,
                        updated: at,
                    });
                }
                // A family has values of one kind.
                _ => continue,
            }
            increases[place].push(increase);
        }
        Rest {
            snapshot: Snapshot {
                pipeline: Arc::clone(&snapshot.pipeline),
                at,
                window: snapshot.window,
                last: snapshot.last,
                replaced: false,
                families,
            },
            deltas,
            increases,
        }
    }

    /// These points of `rest` have met `fate`.
    pub(super) fn settle_rest(&mut self, rest: &Rest, reported: &[(usize, Range<usize>)], fate: Fate) {
        if fate == Fate::Delivered {
            return;
        }
        let increases = reported
            .iter()
            .flat_map(|(family, range)| rest.increases[*family][range.clone()].iter().cloned());
        if let Fate::Stored(number) = fate {
            self.keep(number, &rest.snapshot.pipeline, increases.collect());
        } else {
            for increase in increases {
                self.leave(&rest.snapshot.pipeline, increase);
            }
        }
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
                    let total = HistogramTotals {
                        buckets: point.buckets.clone(),
                        sum: point.sum,
                    };
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
                    let total = HistogramTotals {
                        buckets: point.buckets.clone(),
                        sum: point.sum,
                    };
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
