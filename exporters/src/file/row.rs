//! Rows: one for each series that a window changed.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, HISTOGRAM_BUCKETS, Points, Series, Snapshot, Timestamp,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use serde::{Serialize, Serializer};

use crate::attributes::attributes;
use crate::naming::full_name;

/// One series in one window. Field names are the keys of the JSON objects, and the columns of Parquet.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    #[serde(serialize_with = "as_text")]
    pub(super) window_start: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub(super) window_end: Timestamp,
    pub(super) pipeline: &'a str,
    pub(super) name: &'a str,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) unit: &'static str,
    pub(super) labels: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(super) value: Value<'a>,
}

/// What a row tells; `None` is for what a type does not have.
#[derive(Debug, Default, Serialize)]
pub(super) struct Value<'a> {
    /// Everything counted since the series began; of a gauge, what it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<i64>,
    /// What this window added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delta: Option<i64>,
    /// Values observed since the series began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<i64>,
    /// Their sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sum: Option<f64>,
    /// Upper bounds of all buckets but the last, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bounds: Option<&'a [f64]>,
    /// How many of the values are in each bucket, not cumulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) buckets: Option<[i64; HISTOGRAM_BUCKETS + 1]>,
}

/// In UTC, to the microsecond, as Parquet has it.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields on by reference"
)]
fn as_text<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let time = UNIX_EPOCH + Duration::from_nanos(at.as_nanos());
    serializer.collect_str(&humantime::format_rfc3339_micros(time))
}

/// Hands each row of `snapshot` to `each`, until that fails.
pub(super) fn each_row<E>(
    namespace: &str,
    snapshot: &Snapshot,
    mut each: impl FnMut(Row<'_>) -> Result<(), E>,
) -> Result<(), E> {
    for family in &snapshot.families {
        let name = full_name(namespace, family.family);
        let row = |series: &Series, value| Row {
            window_start: start(snapshot),
            window_end: snapshot.at,
            pipeline: &snapshot.pipeline,
            name: &name,
            kind: match family.family.kind {
                FamilyKind::Counter => "counter",
                FamilyKind::Gauge => "gauge",
                FamilyKind::Histogram(_) => "histogram",
            },
            unit: family.family.unit,
            labels: labels(family.family, series),
            value,
        };
        for (series, value) in changed(snapshot.at, family) {
            each(row(series, value))?;
        }
    }
    Ok(())
}

/// How many rows `snapshot` has.
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

/// The series that this window changed, and what they tell.
fn changed(at: Timestamp, family: &FamilySnapshot) -> Box<dyn Iterator<Item = (&Series, Value<'_>)> + '_> {
    let kind = family.family.kind;
    match &family.points {
        Points::Sums(points) => {
            let changed = points
                .iter()
                .filter(move |point| point.updated == at || point.delta > 0);
            Box::new(changed.map(move |point| {
                let value = Value {
                    total: Some(signed(point.total)),
                    // What a gauge shows is no sum of anything.
                    delta: (kind == FamilyKind::Counter).then(|| signed(point.delta)),
                    ..Value::default()
                };
                (&*point.series, value)
            }))
        }
        Points::Histograms(points) => {
            let bounds = match kind {
                FamilyKind::Histogram(bounds) => Some(&bounds[..]),
                FamilyKind::Counter | FamilyKind::Gauge => None,
            };
            let changed = points.iter().filter(move |point| point.updated == at);
            Box::new(changed.map(move |point| {
                let value = Value {
                    count: Some(signed(point.count())),
                    sum: Some(point.sum),
                    bounds,
                    buckets: Some(point.buckets.map(signed)),
                    ..Value::default()
                };
                (&*point.series, value)
            }))
        }
    }
}

/// Readers differ in what they make of unsigned integers, and no total comes to 2^63 in the life of a machine.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The labels by their own names: those of the attributes, which Prometheus's rules have not changed.
fn labels(family: &Family, series: &Series) -> BTreeMap<String, String> {
    attributes(family, series)
        .into_iter()
        .map(|KeyValue { key, value, .. }| (key, text(value.and_then(|value| value.value))))
        .collect()
}

fn text(value: Option<any_value::Value>) -> String {
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        // A series has no attributes of other types.
        _ => String::new(),
    }
}
