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

    /// `snapshot` in as many requests as the limits ask for; none if there is nothing to tell. With `deltas`, what has come
    /// since what those hold.
    pub(super) fn encode(&self, snapshot: &Snapshot, deltas: Option<&Deltas>) -> Vec<Part> {
        let mut writing = Writing {
            encoder: self,
            snapshot,
            deltas,
            parts: Vec::new(),
            metrics: Vec::new(),
            data: Vec::new(),
            points: 0,
            told: Vec::new(),
        };
        for (index, family) in snapshot.families.iter().enumerate() {
            writing.push_family(index, family);
        }
        writing.finish_request();
        writing.parts
    }
}

/// A snapshot on its way into requests.
struct Writing<'a> {
    encoder: &'a Encoder,
    snapshot: &'a Snapshot,
    deltas: Option<&'a Deltas>,
    parts: Vec<Part>,
    /// `ScopeMetrics.metrics` of the open request.
    metrics: Vec<u8>,
    /// Points of the open metric.
    data: Vec<u8>,
    /// Points of the open request.
    points: u64,
    told: Vec<(usize, Range<usize>)>,
}

impl Writing<'_> {
    fn push_family(&mut self, index: usize, family: &FamilySnapshot) {
        let head = Head::new(self.encoder, family.family, self.deltas.is_some());
        let live = family.points.len();
        // By differences an ended series has nothing to tell.
        let ended = if self.deltas.is_some() {
            0
        } else {
            family.ended.len()
        };
        let mut first = 0;
        for number in 0..live + ended {
            let before = self.data.len();
            match &family.points {
                Points::Sums(points) if number < live => self.push_sum(&head, &points[number]),
                Points::Histograms(points) if number < live => self.push_histogram(&head, &points[number]),
                points => self.push_ended(points, &family.ended[number - live]),
            }
            if self.data.len() == before {
                continue;
            }
            self.points += 1;
            let full = self.points == self.encoder.max_points as u64;
            if full || self.metrics.len() + self.data.len() + head.bytes.len() >= self.room() {
                self.finish_metric(&head, index, first..number + 1);
                self.finish_request();
                first = number + 1;
            }
        }
        self.finish_metric(&head, index, first..live + ended);
    }

    /// What may be in a request beside its resource, with room for one point more.
    fn room(&self) -> usize {
        const POINT: usize = 4096;
        let fixed = self.encoder.resource.len() + self.encoder.scope.len() + POINT;
        self.encoder.max_bytes.saturating_sub(fixed)
    }

    /// `Metric` around the points that are there.
    fn finish_metric(&mut self, head: &Head<'_>, index: usize, range: Range<usize>) {
        if !range.is_empty() {
            self.told.push((index, range));
        }
        if self.data.is_empty() {
            return;
        }
        let data_len = self.data.len() + head.behind.len();
        let len = head.bytes.len() + 1 + encoded_len_varint(data_len as u64) + data_len;
        let out = &mut self.metrics;
        encode_key(2, WireType::LengthDelimited, out);
        encode_varint(len as u64, out);
        out.extend_from_slice(&head.bytes);
        encode_key(head.data_field, WireType::LengthDelimited, out);
        encode_varint(data_len as u64, out);
        out.append(&mut self.data);
        out.extend_from_slice(&head.behind);
    }

    /// `ExportMetricsServiceRequest { resource_metrics: [ResourceMetrics { resource, scope_metrics: [...] }] }`
    fn finish_request(&mut self) {
        let told = std::mem::take(&mut self.told);
        if self.metrics.is_empty() {
            return;
        }
        let (resource, scope) = (&self.encoder.resource, &self.encoder.scope);
        let scope_len = scope.len() + self.metrics.len();
        let resource_len = resource.len() + 1 + encoded_len_varint(scope_len as u64) + scope_len;
        let mut body = Vec::with_capacity(resource_len + 16);
        encode_key(1, WireType::LengthDelimited, &mut body);
        encode_varint(resource_len as u64, &mut body);
        body.extend_from_slice(resource);
        encode_key(2, WireType::LengthDelimited, &mut body);
        encode_varint(scope_len as u64, &mut body);
        body.extend_from_slice(scope);
        body.append(&mut self.metrics);
        self.parts.push(Part {
            request: Request {
                body: Bytes::from(body),
                points: std::mem::take(&mut self.points),
                last: self.snapshot.last,
            },
            points: told,
        });
    }

    /// `NumberDataPoint`: start 2, time 3, `as_int` 6, attributes 7.
    fn push_sum(&mut self, head: &Head<'_>, point: &SumPoint) {
        let gauge = head.family.kind == FamilyKind::Gauge;
        let part = match self.deltas.filter(|_| !gauge) {
            Some(deltas) => deltas.of_sum(point),
            None => Some(SumPart {
                start: point.series.start,
                value: point.total,
            }),
        };
        let Some(part) = part else { return };
        let attributes = &point.series.attributes;
        push_length(&mut self.data, 3 * FIXED_BYTES + attributes.len());
        push_fixed(&mut self.data, 2, part.start.as_nanos());
        push_fixed(&mut self.data, 3, self.snapshot.at.as_nanos());
        // sfixed64; a total beyond 2^63 is not reached in the life of a machine.
        push_fixed(&mut self.data, 6, part.value);
        self.data.extend_from_slice(attributes);
    }

    /// `HistogramDataPoint`: start 2, time 3, count 4, sum 5, `bucket_counts` 6, `explicit_bounds` 7, attributes 9.
    fn push_histogram(&mut self, head: &Head<'_>, point: &HistogramPoint) {
        const BUCKETS: usize = HISTOGRAM_BUCKETS + 1;
        let part = match self.deltas {
            Some(deltas) => deltas.of_histogram(point),
            None => Some(HistogramPart {
                start: point.series.start,
                buckets: point.buckets,
                sum: point.sum,
            }),
        };
        let Some(part) = part else { return };
        let attributes = &point.series.attributes;
        // A key, a length that takes two bytes, the counts.
        let buckets_len = 1 + encoded_len_varint(8 * BUCKETS as u64) + 8 * BUCKETS;
        let len = 4 * FIXED_BYTES + buckets_len + head.bounds.len() + attributes.len();
        let out = &mut self.data;
        push_length(out, len);
        push_fixed(out, 2, part.start.as_nanos());
        push_fixed(out, 3, self.snapshot.at.as_nanos());
        push_fixed(out, 4, part.buckets.iter().sum());
        push_fixed(out, 5, part.sum.to_bits());
        encode_key(6, WireType::LengthDelimited, out);
        encode_varint(8 * BUCKETS as u64, out);
        for count in part.buckets {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&head.bounds);
        out.extend_from_slice(attributes);
    }

    /// A point that says that its series is no more: without value, flags 8 of a `NumberDataPoint`, 10 of a
    /// `HistogramDataPoint`.
    fn push_ended(&mut self, points: &Points, series: &Series) {
        let flags = match points {
            Points::Sums(_) => 8,
            Points::Histograms(_) => 10,
        };
        let out = &mut self.data;
        push_length(out, 2 * FIXED_BYTES + 2 + series.attributes.len());
        push_fixed(out, 2, series.start.as_nanos());
        push_fixed(out, 3, self.snapshot.at.as_nanos());
        push_number_field(out, flags, NO_RECORDED_VALUE);
        out.extend_from_slice(&series.attributes);
    }
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

/// The key of `data_points`, field 1, with a length.
fn push_length(out: &mut Vec<u8>, len: usize) {
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
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
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
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
