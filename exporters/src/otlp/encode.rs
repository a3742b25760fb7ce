//! Snapshots as `ExportMetricsServiceRequest` bytes (`opentelemetry/proto/metrics/v1/metrics.proto`).
//!
//! Written by hand, because a series brings its attributes encoded: the messages of `opentelemetry-proto` would have to
//! build each of them anew, every time. Field numbers stand beside the fields; a test decodes the bytes with those messages.

use std::fs;

use bytes::Bytes;
use flowtap_pipeline::{
    FamilyKind, FamilySnapshot, HistogramPoint, Points, Series, Snapshot, SumPoint, Timestamp,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::client::Request;
use super::config::Config;
use crate::naming::full_name;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`
const CUMULATIVE: u64 = 2;

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`
const NO_RECORDED_VALUE: u64 = 1;

/// What does not change from snapshot to snapshot.
#[derive(Debug)]
pub(super) struct Encoder {
    namespace: String,
    max_points: usize,
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
            resource: field(1, &resource().encode_to_vec()),
            scope: field(1, &scope.encode_to_vec()),
        }
    }

    /// `snapshot` in as many requests as `max_points` asks for; none if there is nothing to tell.
    pub(super) fn encode(&self, snapshot: &Snapshot) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut open = Open::default();
        for family in &snapshot.families {
            let total = family.points.len() + family.ended.len();
            let mut first = 0;
            while first < total {
                let room = self.max_points - open.points;
                let end = total.min(first + room);
                self.push_metric(&mut open.metrics, snapshot, family, first..end);
                open.points += end - first;
                first = end;
                if open.points == self.max_points {
                    requests.push(self.finish(&std::mem::take(&mut open), snapshot.last));
                }
            }
        }
        if open.points > 0 {
            requests.push(self.finish(&open, snapshot.last));
        }
        requests
    }

    /// `ExportMetricsServiceRequest { resource_metrics: [ResourceMetrics { resource, scope_metrics: [...] }] }`
    fn finish(&self, open: &Open, last: bool) -> Request {
        let scope_metrics = field(2, &[&*self.scope, &*open.metrics].concat());
        let resource_metrics = field(1, &[&*self.resource, &*scope_metrics].concat());
        Request {
            body: Bytes::from(resource_metrics),
            points: open.points as u64,
            last,
        }
    }

    /// `ScopeMetrics.metrics`: one `Metric` with some of a family's points, live ones first, then ended ones.
    fn push_metric(
        &self,
        out: &mut Vec<u8>,
        snapshot: &Snapshot,
        family: &FamilySnapshot,
        range: std::ops::Range<usize>,
    ) {
        let mut data = Vec::new();
        let live = family.points.len();
        let mut scratch = Vec::new();
        for number in range {
            scratch.clear();
            match &family.points {
                Points::Sums(points) if number < live => {
                    push_number(&mut scratch, snapshot.at, &points[number]);
                }
                Points::Histograms(points) if number < live => {
                    push_histogram(&mut scratch, snapshot.at, family.family.kind, &points[number]);
                }
                points => push_ended(&mut scratch, snapshot.at, points, &family.ended[number - live]),
            }
            push_field(&mut data, 1, &scratch);
        }
        // Sum and Histogram: aggregation_temporality 2; Sum: is_monotonic 3. Metric: gauge 5, sum 7, histogram 9.
        let data_field = match family.family.kind {
            FamilyKind::Gauge => 5,
            FamilyKind::Counter => {
                push_number_field(&mut data, 2, CUMULATIVE);
                push_number_field(&mut data, 3, 1);
                7
            }
            FamilyKind::Histogram(_) => {
                push_number_field(&mut data, 2, CUMULATIVE);
                9
            }
        };
        let mut metric = Vec::with_capacity(data.len() + 256);
        push_field(
            &mut metric,
            1,
            full_name(&self.namespace, family.family).as_bytes(),
        );
        push_field(&mut metric, 2, family.family.help.as_bytes());
        push_field(&mut metric, 3, family.family.unit.as_bytes());
        push_field(&mut metric, data_field, &data);
        push_field(out, 2, &metric);
    }
}

/// A request that is being filled.
#[derive(Default)]
struct Open {
    metrics: Vec<u8>,
    points: usize,
}

/// `NumberDataPoint`: start 2, time 3, `as_int` 6, attributes 7.
fn push_number(out: &mut Vec<u8>, at: Timestamp, point: &SumPoint) {
    push_fixed(out, 2, point.series.start.as_nanos());
    push_fixed(out, 3, at.as_nanos());
    // sfixed64; a total beyond 2^63 is not reached in the life of a machine.
    push_fixed(out, 6, point.total);
    out.extend_from_slice(&point.series.attributes);
}

/// `HistogramDataPoint`: start 2, time 3, count 4, sum 5, `bucket_counts` 6, `explicit_bounds` 7, attributes 9.
fn push_histogram(out: &mut Vec<u8>, at: Timestamp, kind: FamilyKind, point: &HistogramPoint) {
    let FamilyKind::Histogram(bounds) = kind else {
        return;
    };
    push_fixed(out, 2, point.series.start.as_nanos());
    push_fixed(out, 3, at.as_nanos());
    push_fixed(out, 4, point.count());
    push_fixed(out, 5, point.sum.to_bits());
    let packed: Vec<u8> = point
        .buckets
        .iter()
        .flat_map(|count| count.to_le_bytes())
        .collect();
    push_field(out, 6, &packed);
    let packed: Vec<u8> = bounds
        .iter()
        .flat_map(|bound| bound.to_bits().to_le_bytes())
        .collect();
    push_field(out, 7, &packed);
    out.extend_from_slice(&point.series.attributes);
}

/// A point that says that its series is no more: without value, flags 8 of a `NumberDataPoint`, 10 of a
/// `HistogramDataPoint`.
fn push_ended(out: &mut Vec<u8>, at: Timestamp, points: &Points, series: &Series) {
    push_fixed(out, 2, series.start.as_nanos());
    push_fixed(out, 3, at.as_nanos());
    let flags = match points {
        Points::Sums(_) => 8,
        Points::Histograms(_) => 10,
    };
    push_number_field(out, flags, NO_RECORDED_VALUE);
    out.extend_from_slice(&series.attributes);
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
