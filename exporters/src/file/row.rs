//! Rows: one for each series that a window changed.

use std::time::{Duration, UNIX_EPOCH};

use flowtap_pipeline::{
    FamilyKind, FamilySnapshot, HistogramPoint, Naming, Pair, Points, Resource, Series, Snapshot, SumPoint,
    Timestamp, ValuePoint,
};
use serde::{Serialize, Serializer};

use crate::naming::full_name;

/// Version of the rows' columns. A column that is added does not change it; one that is removed or means something else does.
pub(super) const SCHEMA_VERSION: u8 = 1;

/// Attributes of where rows come from, the same for all rows of a file.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// Prefix of the names of metrics.
    pub(super) namespace: String,
    pub(super) host: String,
    pub(super) instance: String,
    /// Every attribute of the resource.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(dead_code, reason = "metadata of Parquet; JSON has columns")
    )]
    pub(super) resource: Vec<(String, String)>,
}

impl Origin {
    pub(super) fn new(namespace: &str, resource: &Resource) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            namespace: namespace.to_owned(),
            host: resource.node().to_owned(),
            instance: resource.instance().to_owned(),
            resource: resource.attributes().map(owned).collect(),
        }
    }
}

/// The common beginning of the rows of a family in one window. Field names are the keys of the JSON
/// objects, and the columns of Parquet.
#[derive(Debug, Serialize)]
pub(super) struct Head<'a> {
    #[serde(serialize_with = "as_text")]
    pub(super) window_start: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub(super) window_end: Timestamp,
    pub(super) host: &'a str,
    pub(super) instance: &'a str,
    /// Of flowtap.
    pub(super) version: &'static str,
    pub(super) schema_version: u8,
    pub(super) naming: &'static str,
    pub(super) pipeline: &'a str,
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) unit: &'static str,
}

/// A series in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) series: &'a Series,
    pub(super) value: Value<'a>,
}

/// Values of a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// `total`, everything counted since the series began, and `delta`, what this window added.
    Counter(&'a SumPoint),
    /// `total`, the gauge's value. It is not a sum, so there is no `delta`.
    Gauge(&'a SumPoint),
    /// `value`, of a counter or a gauge that is not in whole numbers.
    Number(&'a ValuePoint),
    /// `count` of values observed since the series began; their `sum`; upper `bounds` of all buckets but the last, which has none;
    /// `buckets`, how many of the values are in each, not cumulated. With exponential buckets each row has its own bounds.
    Histogram(&'a HistogramPoint),
}

/// The rows of a family in one window.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) head: Head<'a>,
    at: Timestamp,
    family: &'a FamilySnapshot,
}

impl<'a> Table<'a> {
    /// The tables of `snapshot`.
    pub(super) fn all(origin: &'a Origin, snapshot: &'a Snapshot) -> impl Iterator<Item = Self> {
        snapshot.families.iter().map(move |family| Self {
            head: Head {
                window_start: start(snapshot),
                window_end: snapshot.at,
                host: &origin.host,
                instance: &origin.instance,
                version: env!("CARGO_PKG_VERSION"),
                schema_version: SCHEMA_VERSION,
                naming: match family.family.naming {
                    Naming::PrimusLens => "primus_lens",
                    Naming::Otel => "otel",
                },
                pipeline: &snapshot.pipeline,
                name: full_name(&origin.namespace, family.family),
                kind: match family.family.kind {
                    FamilyKind::Counter => "counter",
                    FamilyKind::Gauge | FamilyKind::UpDownCounter => "gauge",
                    FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => "histogram",
                },
                unit: family.family.unit.as_str(),
            },
            at: snapshot.at,
            family,
        })
    }

    /// Of a histogram whose rows all have the same.
    pub(super) const fn bounds(&self) -> Option<&'static [f64]> {
        match self.family.family.kind {
            FamilyKind::Histogram(bounds) => Some(bounds),
            FamilyKind::Counter
            | FamilyKind::Gauge
            | FamilyKind::UpDownCounter
            | FamilyKind::ExponentialHistogram => None,
        }
    }

    /// One for each series that the window changed.
    pub(super) fn rows(&self) -> Box<dyn Iterator<Item = Row<'a>> + 'a> {
        let points = &self.family.points;
        let changed = changed(self.at, self.family);
        Box::new(changed.map(|(i, row)| {
            points.prefetch(i);
            row
        }))
    }
}

/// The labels of `series` by their own names, in the order of these, in place of what is in `labels`.
pub(super) fn sorted_labels<'a>(series: &'a Series, labels: &mut Vec<Pair<'a>>) {
    labels.clear();
    labels.extend(series.pairs());
    labels.sort_unstable_by_key(|label| label.name);
}

/// In UTC, to the microsecond, as Parquet has it.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields on by reference"
)]
pub(super) fn as_text<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let time = UNIX_EPOCH + Duration::from_nanos(at.as_nanos());
    serializer.collect_str(&humantime::format_rfc3339_micros(time))
}

/// Number of rows of `snapshot`.
pub(super) fn rows(snapshot: &Snapshot) -> u64 {
    let families = snapshot.families.iter();
    families
        .map(|family| changed(snapshot.at, family).count() as u64)
        .sum()
}

/// When the window began.
pub(super) fn start(snapshot: &Snapshot) -> Timestamp {
    let length = u64::try_from(snapshot.window.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanos(snapshot.at.as_nanos().saturating_sub(length))
}

/// The series that a window changed, each with the index of its point, and their values.
fn changed(at: Timestamp, family: &FamilySnapshot) -> Box<dyn Iterator<Item = (usize, Row<'_>)> + '_> {
    let row = |series, value| Row { series, value };
    match (&family.points, family.family.kind) {
        (Points::Sums(points), kind) => {
            let points = points.iter().enumerate();
            let changed = points.filter(move |(_, point)| point.updated == at || point.delta > 0);
            Box::new(changed.map(move |(i, point)| {
                let value = match kind {
                    FamilyKind::Gauge | FamilyKind::UpDownCounter => Value::Gauge(point),
                    FamilyKind::Counter | FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => {
                        Value::Counter(point)
                    }
                };
                (i, row(&point.series, value))
            }))
        }
        (Points::Values(points), _) => {
            let points = points.iter().enumerate();
            let changed = points.filter(move |(_, point)| point.updated == at);
            Box::new(changed.map(move |(i, point)| (i, row(&point.series, Value::Number(point)))))
        }
        (Points::Histograms(points), _) => {
            let points = points.iter().enumerate();
            let changed = points.filter(move |(_, point)| point.updated == at);
            Box::new(changed.map(move |(i, point)| (i, row(&point.series, Value::Histogram(point)))))
        }
    }
}

/// Readers differ in what they make of unsigned integers, and no total comes to 2^63 in the life of a machine.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
