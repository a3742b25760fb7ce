//! Snapshots as `ExportMetricsServiceRequest` bytes (`opentelemetry/proto/metrics/v1/metrics.proto`).
//!
//! Written by hand, because a series brings its attributes encoded: the messages of `opentelemetry-proto` would have to
//! build each of them anew, every time. Field numbers stand beside the fields; a test decodes the bytes with those messages.

use std::fs;
use std::ops::Range;

use bytes::Bytes;
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, HISTOGRAM_BUCKETS, HistogramPoint, Points, Series, Snapshot, SumPoint,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::Ended;
use super::config::Config;
use super::deltas::{Deltas, HistogramPart, SumPart};
use crate::naming::full_name;
use crate::push::Request;

/// `AGGREGATION_TEMPORALITY_DELTA`
const DELTA: u64 = 1;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`
const CUMULATIVE: u64 = 2;

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`
const NO_RECORDED_VALUE: u64 = 1;

/// A fixed64, double or sfixed64 with its key.
const FIXED_BYTES: usize = 9;

/// The counts of a histogram's buckets.
const BUCKET_BYTES: usize = 8 * (HISTOGRAM_BUCKETS + 1);

/// A request, and which points of the snapshot it tells of: family, and positions in it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) request: Request,
    pub(super) points: Vec<(usize, Range<usize>)>,
}

/// What does not change from snapshot to snapshot.
#[derive(Debug)]
pub(super) struct Encoder {
    namespace: String,
    max_points: usize,
    max_bytes: usize,
    /// `ResourceMetrics.resource`, encoded with key and length.
    resource: Vec<u8>,
    /// `ScopeMetrics.scope`, likewise.
    scope: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(config: &Config) -> Self {
        let scope = InstrumentationScope {
            name: "flowtap".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        Self {
            namespace: config.namespace.clone(),
            max_points: config.max_points_per_request.get(),
            max_bytes: config.max_request_bytes,
            resource: field(1, &resource().encode_to_vec()),
            scope: field(1, &scope.encode_to_vec()),
        }
    }

    /// Which requests `snapshot` makes, as many as the limits ask for; none if there is nothing to tell. With `deltas`, what has
    /// come since what those hold.
    pub(super) fn encode<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        ended: &'a Ended,
        deltas: Option<&Deltas>,
    ) -> Encoding<'a> {
        let heads: Vec<_> = snapshot
            .families
            .iter()
            .map(|family| Head::new(self, family.family, deltas.is_some()))
            .collect();
        let points = PointWriter {
            snapshot,
            ended,
            deltas,
        };
        Encoding {
            plans: self.plan(&points, &heads),
            encoder: self,
            snapshot,
            ended,
            heads,
        }
    }

    /// Which points go into which request, with every length: so each byte is written once, to where it stays.
    fn plan(&self, points: &PointWriter<'_>, heads: &[Head<'_>]) -> Vec<Plan> {
        let mut plans = vec![Plan::default()];
        for (index, (family, head)) in points.snapshot.families.iter().zip(heads).enumerate() {
            let mut metric = PlannedMetric::new(index, 0);
            for number in 0..points.count(index, family) {
                metric.range.end = number + 1;
                let Some(len) = points.len(head, index, number) else {
                    continue;
                };
                metric.points += 1;
                metric.data_len += len_delimited(len);
                let Some(plan) = plans.last_mut() else { continue };
                let full = plan.points + metric.points == self.max_points as u64
                    || plan.metrics_len + metric.len(head) >= self.room();
                if full {
                    plan.push(
                        std::mem::replace(&mut metric, PlannedMetric::new(index, number + 1)),
                        head,
                    );
                    plans.push(Plan::default());
                }
            }
            if let Some(plan) = plans.last_mut() {
                plan.push(metric, head);
            }
        }
        plans.retain(|plan| plan.points > 0);
        plans
    }

    /// What may be in a request beside its resource, with room for one point more.
    fn room(&self) -> usize {
        const POINT: usize = 4096;
        let fixed = self.resource.len() + self.scope.len() + POINT;
        self.max_bytes.saturating_sub(fixed)
    }

    /// `ExportMetricsServiceRequest { resource_metrics: [ResourceMetrics { resource, scope_metrics: [...] }] }`
    fn write(&self, plan: &Plan, points: &PointWriter<'_>, heads: &[Head<'_>]) -> Part {
        let scope_len = self.scope.len() + plan.metrics_len;
        let resource_len = self.resource.len() + len_delimited(scope_len);
        let mut body = Vec::with_capacity(len_delimited(resource_len));
        push_head(&mut body, 1, resource_len);
        body.extend_from_slice(&self.resource);
        push_head(&mut body, 2, scope_len);
        body.extend_from_slice(&self.scope);
        for metric in plan.metrics.iter().filter(|metric| metric.points > 0) {
            let head = &heads[metric.family];
            // `ScopeMetrics.metrics`
            push_head(&mut body, 2, metric.content_len(head));
            body.extend_from_slice(&head.bytes);
            push_head(&mut body, head.data_field, metric.data_len + head.behind.len());
            for number in metric.range.clone() {
                points.push(&mut body, head, metric.family, number);
            }
            body.extend_from_slice(&head.behind);
        }
        debug_assert_eq!(
            body.len(),
            len_delimited(resource_len),
            "what was planned was written"
        );
        Part {
            request: Request {
                body: Bytes::from(body),
                points: plan.points,
                last: points.snapshot.last,
            },
            points: plan
                .metrics
                .iter()
                .map(|metric| (metric.family, metric.range.clone()))
                .collect(),
        }
    }
}

/// The requests of a snapshot. Each is written when it is asked for, so that there is one at a time, however many series there
/// are.
pub(super) struct Encoding<'a> {
    encoder: &'a Encoder,
    snapshot: &'a Snapshot,
    ended: &'a Ended,
    heads: Vec<Head<'a>>,
    plans: Vec<Plan>,
}

impl Encoding<'_> {
    /// How many requests there are.
    pub(super) const fn parts(&self) -> usize {
        self.plans.len()
    }

    /// The request with this number, from 0. Of what it tells, `deltas` must hold the same as they did for
    /// [`Encoder::encode`].
    pub(super) fn part(&self, number: usize, deltas: Option<&Deltas>) -> Part {
        let points = PointWriter {
            snapshot: self.snapshot,
            ended: self.ended,
            deltas,
        };
        self.encoder.write(&self.plans[number], &points, &self.heads)
    }
}

/// What goes into one request.
#[derive(Debug, Default)]
struct Plan {
    metrics: Vec<PlannedMetric>,
    metrics_len: usize,
    points: u64,
}

impl Plan {
    fn push(&mut self, metric: PlannedMetric, head: &Head<'_>) {
        if metric.points > 0 {
            self.metrics_len += metric.len(head);
            self.points += metric.points;
        }
        if !metric.range.is_empty() {
            self.metrics.push(metric);
        }
    }
}

/// Some points of a family, as one `Metric`.
#[derive(Debug)]
struct PlannedMetric {
    family: usize,
    /// With those that have nothing to tell.
    range: Range<usize>,
    /// Those that do.
    points: u64,
    data_len: usize,
}

impl PlannedMetric {
    const fn new(family: usize, first: usize) -> Self {
        Self {
            family,
            range: first..first,
            points: 0,
            data_len: 0,
        }
    }

    fn content_len(&self, head: &Head<'_>) -> usize {
        head.bytes.len() + len_delimited(self.data_len + head.behind.len())
    }

    fn len(&self, head: &Head<'_>) -> usize {
        len_delimited(self.content_len(head))
    }
}

/// Writes points of a snapshot: live ones first, then those that have ended.
struct PointWriter<'a> {
    snapshot: &'a Snapshot,
    ended: &'a Ended,
    deltas: Option<&'a Deltas>,
}

impl PointWriter<'_> {
    /// How many points a family may have to tell of. By differences an ended series has nothing to tell.
    fn count(&self, index: usize, family: &FamilySnapshot) -> usize {
        let ended = if self.deltas.is_some() {
            0
        } else {
            self.ended.of(index).len()
        };
        family.points.len() + ended
    }

    fn sum_part(&self, head: &Head<'_>, point: &SumPoint) -> Option<SumPart> {
        match self.deltas.filter(|_| head.family.kind != FamilyKind::Gauge) {
            Some(deltas) => deltas.of_sum(point),
            None => Some(SumPart {
                start: point.series.start,
                value: point.total,
            }),
        }
    }

    fn histogram_part(&self, point: &HistogramPoint) -> Option<HistogramPart> {
        match self.deltas {
            Some(deltas) => deltas.of_histogram(point),
            None => Some(HistogramPart {
                start: point.series.start,
                buckets: point.buckets,
                sum: point.sum,
            }),
        }
    }

    /// Length of what [`Self::push`] writes, without key and length; `None` if the point has nothing to tell.
    fn len(&self, head: &Head<'_>, family: usize, number: usize) -> Option<usize> {
        match &self.snapshot.families[family].points {
            Points::Sums(points) if number < points.len() => {
                self.sum_part(head, &points[number])?;
                Some(sum_len(&points[number]))
            }
            Points::Histograms(points) if number < points.len() => {
                self.histogram_part(&points[number])?;
                Some(histogram_len(head, &points[number]))
            }
            points => Some(ended_len(&self.ended.of(family)[number - points.len()])),
        }
    }

    /// Appends a point, if it has something to tell.
    fn push(&self, out: &mut Vec<u8>, head: &Head<'_>, family: usize, number: usize) {
        match &self.snapshot.families[family].points {
            Points::Sums(points) if number < points.len() => {
                let point = &points[number];
                if let Some(part) = self.sum_part(head, point) {
                    self.push_sum(out, point, part);
                }
            }
            Points::Histograms(points) if number < points.len() => {
                let point = &points[number];
                if let Some(part) = self.histogram_part(point) {
                    self.push_histogram(out, head, point, &part);
                }
            }
            points => self.push_ended(out, points, &self.ended.of(family)[number - points.len()]),
        }
    }

    /// `NumberDataPoint`: start 2, time 3, `as_int` 6, attributes 7.
    fn push_sum(&self, out: &mut Vec<u8>, point: &SumPoint, part: SumPart) {
        push_head(out, 1, sum_len(point));
        push_fixed(out, 2, part.start.as_nanos());
        push_fixed(out, 3, self.snapshot.at.as_nanos());
        // sfixed64; a total beyond 2^63 is not reached in the life of a machine.
        push_fixed(out, 6, part.value);
        push_attributes(out, &point.series);
    }

    /// `HistogramDataPoint`: start 2, time 3, count 4, sum 5, `bucket_counts` 6, `explicit_bounds` 7, attributes 9.
    fn push_histogram(
        &self,
        out: &mut Vec<u8>,
        head: &Head<'_>,
        point: &HistogramPoint,
        part: &HistogramPart,
    ) {
        push_head(out, 1, histogram_len(head, point));
        push_fixed(out, 2, part.start.as_nanos());
        push_fixed(out, 3, self.snapshot.at.as_nanos());
        push_fixed(out, 4, part.buckets.iter().sum());
        push_fixed(out, 5, part.sum.to_bits());
        push_head(out, 6, BUCKET_BYTES);
        for count in part.buckets {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&head.bounds);
        push_attributes(out, &point.series);
    }

    /// A point that says that its series is no more: without value, flags 8 of a `NumberDataPoint`, 10 of a
    /// `HistogramDataPoint`.
    fn push_ended(&self, out: &mut Vec<u8>, points: &Points, series: &Series) {
        let flags = match points {
            Points::Sums(_) => 8,
            Points::Histograms(_) => 10,
        };
        push_head(out, 1, ended_len(series));
        push_fixed(out, 2, series.start.as_nanos());
        push_fixed(out, 3, self.snapshot.at.as_nanos());
        push_number_field(out, flags, NO_RECORDED_VALUE);
        push_attributes(out, series);
    }
}

fn push_attributes(out: &mut Vec<u8>, series: &Series) {
    for part in series.attributes() {
        out.extend_from_slice(part);
    }
}

fn sum_len(point: &SumPoint) -> usize {
    3 * FIXED_BYTES + point.series.attributes_len()
}

fn histogram_len(head: &Head<'_>, point: &HistogramPoint) -> usize {
    4 * FIXED_BYTES + len_delimited(BUCKET_BYTES) + head.bounds.len() + point.series.attributes_len()
}

/// Two times, and flags, which take a byte behind their key.
fn ended_len(series: &Series) -> usize {
    2 * FIXED_BYTES + 2 + series.attributes_len()
}

/// What every metric of a family begins and ends with.
struct Head<'a> {
    family: &'a Family,
    /// `Metric`: name 1, description 2, unit 3.
    bytes: Vec<u8>,
    /// `Metric`: gauge 5, sum 7, histogram 9.
    data_field: u32,
    /// Sum and Histogram: `aggregation_temporality` 2; Sum: `is_monotonic` 3.
    behind: Vec<u8>,
    /// `explicit_bounds`, encoded.
    bounds: Vec<u8>,
}

impl<'a> Head<'a> {
    fn new(encoder: &Encoder, family: &'a Family, delta: bool) -> Self {
        let mut bytes = Vec::new();
        push_field(&mut bytes, 1, full_name(&encoder.namespace, family).as_bytes());
        push_field(&mut bytes, 2, family.help.as_bytes());
        push_field(&mut bytes, 3, family.unit.as_bytes());
        let temporality = if delta { DELTA } else { CUMULATIVE };
        let (mut behind, mut bounds) = (Vec::new(), Vec::new());
        let data_field = match family.kind {
            FamilyKind::Gauge => 5,
            FamilyKind::Counter => {
                push_number_field(&mut behind, 2, temporality);
                push_number_field(&mut behind, 3, 1);
                7
            }
            FamilyKind::Histogram(upper) => {
                push_number_field(&mut behind, 2, temporality);
                let packed: Vec<u8> = upper
                    .iter()
                    .flat_map(|bound| bound.to_bits().to_le_bytes())
                    .collect();
                push_field(&mut bounds, 7, &packed);
                9
            }
        };
        Self {
            family,
            bytes,
            data_field,
            behind,
            bounds,
        }
    }
}

/// Key and length of a field that has one.
fn push_head(out: &mut Vec<u8>, number: u32, len: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// Length of a field with a key of one byte, as all of ours are, and a length.
fn len_delimited(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn push_fixed(out: &mut Vec<u8>, number: u32, bits: u64) {
    encode_key(number, WireType::SixtyFourBit, out);
    out.extend_from_slice(&bits.to_le_bytes());
}

fn push_number_field(out: &mut Vec<u8>, number: u32, value: u64) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn push_field(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    push_head(out, number, content.len());
    out.extend_from_slice(content);
}

fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    push_field(&mut out, number, content);
    out
}

/// What is being described: this daemon on this machine, and what `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say
/// (OpenTelemetry specification, "Resource SDK").
fn resource() -> Resource {
    let variable = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.is_empty())
    };
    let mut attributes = vec![
        ("service.name".to_owned(), "flowtap".to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    if let Ok(name) = fs::read_to_string("/proc/sys/kernel/hostname") {
        attributes.push(("host.name".to_owned(), name.trim().to_owned()));
    }
    let given = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let given = given.split(',').filter_map(|pair| pair.split_once('='));
    let given = given.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    let service = variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name));
    for (key, value) in given.chain(service) {
        attributes.retain(|(known, _)| *known != key);
        attributes.push((key, value));
    }
    let attributes = attributes.into_iter().map(|(key, value)| {
        let value = Some(AnyValue {
            value: Some(any_value::Value::StringValue(value)),
        });
        KeyValue {
            key,
            value,
            ..KeyValue::default()
        }
    });
    Resource {
        attributes: attributes.collect(),
        ..Resource::default()
    }
}
