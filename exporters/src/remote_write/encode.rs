//! Snapshots as compressed `WriteRequest`s (`prometheus/prompb/remote.proto` and `types.proto`).
//!
//! Written by hand: a request is made of thousands of small messages, and the labels of a histogram's samples differ in but
//! two values. Field numbers stand beside the fields; a test decodes the bytes with messages of prost.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, HistogramPoint, Points, Series, Snapshot, Timestamp,
};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tower::BoxError;

use super::config::Config;
use crate::naming::prometheus_name;
use crate::prometheus::canonical;
use crate::push::Request;

/// The one NaN that says that a series has ended (Prometheus remote write 1.0, "Stale Markers").
const STALE_MARKER: u64 = 0x7ff0_0000_0000_0002;

/// A series that ended, and when.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) at: Timestamp,
    pub(super) family: &'static Family,
    pub(super) series: Arc<Series>,
}

/// What does not change from snapshot to snapshot.
#[derive(Debug)]
pub(super) struct Encoder {
    namespace: String,
    external_labels: BTreeMap<String, String>,
    max_samples: usize,
}

impl Encoder {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            namespace: config.namespace.clone(),
            external_labels: config.external_labels.clone(),
            max_samples: config.max_samples_per_send,
        }
    }

    /// `ended` and then `snapshot` in as many requests as `max_samples` asks for; none if there is nothing to tell. With a
    /// label `pipeline`, if one is given.
    ///
    /// What ended goes first: a series of the same labels may have begun since, and samples of one series have to come
    /// in the order of their times.
    pub(super) fn encode<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        ended: &'a [Ended],
        pipeline: Option<&'a str>,
    ) -> Requests<'a> {
        let ended = ended.iter().map(|ended| Point {
            family: ended.family,
            series: &ended.series,
            at: ended.at,
            value: Value::Ended,
        });
        let live = snapshot
            .families
            .iter()
            .flat_map(|family| points(family, snapshot.at));
        let points: Box<dyn Iterator<Item = Point<'a>> + Send + 'a> = Box::new(ended.chain(live));
        Requests {
            encoder: self,
            pipeline,
            last: snapshot.last,
            points: points.peekable(),
            metrics: Vec::new(),
            labels: Labels::default(),
            open: Vec::new(),
            snappy: snap::raw::Encoder::new(),
            compressed: Vec::new(),
        }
    }

    /// The labels of a series but for the metric's name and a bucket's bound.
    fn labels(&self, series: &Series, pipeline: Option<&str>, labels: &mut Labels) {
        let mut pairs: Vec<_> = series.pairs().collect();
        let more = pipeline.map(|pipeline| ("pipeline", pipeline));
        let external = self
            .external_labels
            .iter()
            .map(|(name, value)| (&**name, &**value));
        for (name, value) in more.into_iter().chain(external) {
            // A series' own labels count for more, as in Prometheus.
            if pairs.iter().all(|(known, _)| *known != name) {
                pairs.push((name, Cow::Borrowed(value)));
            }
        }
        // By bytes, as the specification has it: capitals come before `__name__`.
        pairs.sort_unstable_by_key(|(name, _)| *name);
        labels.clear();
        // An empty label is the same as none, and must not be sent.
        for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
            let part = match *name {
                name if name < NAME => &mut labels.before_name,
                name if name < BOUND => &mut labels.before_bound,
                _ => &mut labels.behind,
            };
            push_label(part, name, value);
        }
    }
}

/// The label that holds the metric's name.
const NAME: &str = "__name__";

/// The label that holds a bucket's upper bound.
const BOUND: &str = "le";

/// What is told of a series.
struct Point<'a> {
    family: &'static Family,
    series: &'a Series,
    at: Timestamp,
    value: Value<'a>,
}

enum Value<'a> {
    Sum(u64),
    Histogram(&'a HistogramPoint),
    /// There is none any more.
    Ended,
}

fn points(family: &FamilySnapshot, at: Timestamp) -> Box<dyn Iterator<Item = Point<'_>> + Send + '_> {
    let point = move |series, value| Point {
        family: family.family,
        series,
        at,
        value,
    };
    match &family.points {
        Points::Sums(points) => Box::new(
            points
                .iter()
                .map(move |sum| point(&sum.series, Value::Sum(sum.total))),
        ),
        Points::Histograms(points) => Box::new(
            points
                .iter()
                .map(move |histogram| point(&histogram.series, Value::Histogram(histogram))),
        ),
    }
}

/// A series' labels, encoded once for all its samples; in between come the name, and a bucket's bound.
#[derive(Debug, Default)]
struct Labels {
    before_name: Vec<u8>,
    before_bound: Vec<u8>,
    behind: Vec<u8>,
}

impl Labels {
    fn clear(&mut self) {
        self.before_name.clear();
        self.before_bound.clear();
        self.behind.clear();
    }
}

/// A family's names and bounds as labels, encoded once rather than per series.
struct Metric {
    family: &'static Family,
    name: Vec<u8>,
    bucket: Vec<u8>,
    sum: Vec<u8>,
    count: Vec<u8>,
    /// `le` of each bucket.
    bounds: Vec<Vec<u8>>,
}

impl Metric {
    fn new(namespace: &str, family: &'static Family) -> Self {
        let name = prometheus_name(namespace, family);
        let label = |name: &str, value: &str| {
            let mut out = Vec::new();
            push_label(&mut out, name, value);
            out
        };
        let bounds = match family.kind {
            // As a Prometheus stores them that scrapes, so that both ways lead to the same series.
            FamilyKind::Histogram(bounds) => {
                let bounds = bounds.iter().map(|bound| canonical(*bound));
                let bounds = bounds.chain(["+Inf".to_owned()]);
                bounds.map(|bound| label(BOUND, &bound)).collect()
            }
            FamilyKind::Counter | FamilyKind::Gauge => Vec::new(),
        };
        Self {
            family,
            bucket: label(NAME, &format!("{name}_bucket")),
            sum: label(NAME, &format!("{name}_sum")),
            count: label(NAME, &format!("{name}_count")),
            name: label(NAME, &name),
            bounds,
        }
    }

    /// How many samples a point of it has.
    const fn samples(&self) -> usize {
        if self.bounds.is_empty() {
            1
        } else {
            self.bounds.len() + 2
        }
    }

    /// Appends the samples of a point.
    fn push(&self, out: &mut Vec<u8>, labels: &Labels, value: &Value<'_>, at: Timestamp) {
        let at = milliseconds(at);
        let mut push = |name, bound, value| push_sample(out, labels, name, bound, value, &at);
        match value {
            Value::Sum(total) => push(&self.name, &[], (*total as f64).to_bits()),
            Value::Ended if self.bounds.is_empty() => push(&self.name, &[], STALE_MARKER),
            Value::Ended => {
                for bound in &self.bounds {
                    push(&self.bucket, bound, STALE_MARKER);
                }
                push(&self.sum, &[], STALE_MARKER);
                push(&self.count, &[], STALE_MARKER);
            }
            Value::Histogram(point) => {
                let mut count = 0;
                for (bound, in_bucket) in self.bounds.iter().zip(point.buckets) {
                    count += in_bucket;
                    push(&self.bucket, bound, (count as f64).to_bits());
                }
                push(&self.sum, &[], point.sum.to_bits());
                push(&self.count, &[], (count as f64).to_bits());
            }
        }
    }
}

/// The requests of a snapshot. Each is made when it is asked for, so that there is one at a time, however many series there are.
pub(super) struct Requests<'a> {
    encoder: &'a Encoder,
    pipeline: Option<&'a str>,
    last: bool,
    points: Peekable<Box<dyn Iterator<Item = Point<'a>> + Send + 'a>>,
    /// Of families that have come.
    metrics: Vec<Metric>,
    labels: Labels,
    /// A request before it is compressed.
    open: Vec<u8>,
    snappy: snap::raw::Encoder,
    compressed: Vec<u8>,
}

impl Requests<'_> {
    /// The number of `family` among the metrics.
    fn metric(&mut self, family: &'static Family) -> usize {
        let known = self
            .metrics
            .iter()
            .position(|metric| std::ptr::eq(metric.family, family));
        known.unwrap_or_else(|| {
            self.metrics.push(Metric::new(&self.encoder.namespace, family));
            self.metrics.len() - 1
        })
    }

    fn compress(&mut self) -> Result<Bytes, BoxError> {
        let room = snap::raw::max_compress_len(self.open.len());
        self.compressed.resize(room.max(self.compressed.len()), 0);
        let len = self.snappy.compress(&self.open, &mut self.compressed)?;
        Ok(Bytes::copy_from_slice(&self.compressed[..len]))
    }
}

impl Iterator for Requests<'_> {
    type Item = Result<Request, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.open.clear();
        let (mut samples, mut points) = (0, 0);
        while let Some(family) = self.points.peek().map(|point| point.family) {
            let number = self.metric(family);
            // A point goes in one request, so that it arrives whole or fails whole.
            samples += self.metrics[number].samples();
            if points > 0 && samples > self.encoder.max_samples {
                break;
            }
            let point = self.points.next()?;
            self.encoder.labels(point.series, self.pipeline, &mut self.labels);
            self.metrics[number].push(&mut self.open, &self.labels, &point.value, point.at);
            points += 1;
        }
        if points == 0 {
            return None;
        }
        Some(self.compress().map(|body| Request {
            body,
            points,
            last: self.last,
        }))
    }
}

/// `Sample.timestamp` 2, in milliseconds.
fn milliseconds(at: Timestamp) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(2, WireType::Varint, &mut out);
    encode_varint(at.as_nanos() / 1_000_000, &mut out);
    out
}

/// `WriteRequest.timeseries` 1. `TimeSeries`: labels 1, samples 2 (`Sample`: value 1, timestamp 2).
fn push_sample(out: &mut Vec<u8>, labels: &Labels, name: &[u8], bound: &[u8], value: u64, at: &[u8]) {
    const VALUE_BYTES: usize = 9;
    let parts = [
        &labels.before_name,
        name,
        &labels.before_bound,
        bound,
        &labels.behind,
    ];
    let sample_len = VALUE_BYTES + at.len();
    // Its key and its length take a byte each.
    let len = parts.iter().map(|part| part.len()).sum::<usize>() + 2 + sample_len;
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
    for part in parts {
        out.extend_from_slice(part);
    }
    encode_key(2, WireType::LengthDelimited, out);
    encode_varint(sample_len as u64, out);
    encode_key(1, WireType::SixtyFourBit, out);
    out.extend_from_slice(&value.to_le_bytes());
    out.extend_from_slice(at);
}

/// `TimeSeries.labels` 1 (`Label`: name 1, value 2).
fn push_label(out: &mut Vec<u8>, name: &str, value: &str) {
    let len = [name, value].map(|text| 1 + encoded_len_varint(text.len() as u64) + text.len());
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(len.iter().sum::<usize>() as u64, out);
    push_field(out, 1, name.as_bytes());
    push_field(out, 2, value.as_bytes());
}

fn push_field(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}
