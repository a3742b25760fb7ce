//! Snapshots as `ExportMetricsServiceRequest` bytes (`opentelemetry/proto/metrics/v1/metrics.proto`).
//!
//! Written by hand, because a series brings its attributes encoded: the messages of `opentelemetry-proto` would have to
//! build each of them anew, every time. Field numbers stand beside the fields; a test decodes the bytes with those messages.

use std::ops::Range;

use bytes::Bytes;
use flowtap_pipeline::resource::SCHEMA_URL;
use flowtap_pipeline::{
    Buckets, Exponential, Family, FamilyKind, FamilySnapshot, HISTOGRAM_BUCKETS, HistogramPoint, Naming,
    PipelineKind, Points, Series, Snapshot, SumPoint, Timestamp, ValuePoint, ZERO_THRESHOLD,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::config::Config;
use super::deltas::{Deltas, HistogramPart, SumPart, ValuePart};
use super::ended::Ended;
use crate::naming::{full_name, pipeline_attribute};
use crate::push::Request;
use crate::push::zero_at;
use crate::wire::{
    FIXED64_BYTES, begin, len_delimited, packed_len, push_bytes, push_fixed64, push_packed_varints,
    push_varint, varint_len, zigzag,
};

/// `AGGREGATION_TEMPORALITY_DELTA`
const DELTA: u64 = 1;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`
const CUMULATIVE: u64 = 2;

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`
const NO_RECORDED_VALUE: u64 = 1;

/// The counts of a histogram's buckets.
const BUCKET_BYTES: usize = 8;

/// A request, and the points of the snapshot that it contains: block, and positions in it. Of differences a block is the family with
/// the same index.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) request: Request,
    pub(super) points: Vec<(usize, Range<usize>)>,
}

/// The part that does not change from snapshot to snapshot.
#[derive(Debug)]
pub(super) struct Encoder {
    namespace: String,
    max_points: u64,
    max_bytes: usize,
    /// Whether points carry the name of their pipeline: two of them could be the same series otherwise.
    several_pipelines: bool,
    /// `ResourceMetrics.resource`, encoded with key and length.
    resource: Vec<u8>,
    /// `ResourceMetrics.schema_url` and `ScopeMetrics.schema_url`, which have the same field number.
    schema_url: Vec<u8>,
    /// `ScopeMetrics.scope`, like the resource.
    scope: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(
        config: &Config,
        resource: &flowtap_pipeline::Resource,
        several_pipelines: bool,
    ) -> Self {
        Self {
            namespace: config.namespace.clone(),
            max_points: config.max_points_per_request.get() as u64,
            max_bytes: config.max_request_bytes,
            several_pipelines,
            resource: encoded_resource(resource),
            schema_url: field(3, SCHEMA_URL.as_bytes()),
            scope: encoded_scope(),
        }
    }

    /// Encodes `snapshot` as as many requests as the limits require; none if no point has to be
    /// sent. Values are differences to those that [`Encoding::next_part`] is given, if these are
    /// `deltas`; else a series that began at `new_since` or later has a point 0 before its first.
    pub(super) fn encode<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        ended: &'a Ended,
        deltas: bool,
        new_since: Option<Timestamp>,
    ) -> Encoding<'a> {
        let pipeline = (self.several_pipelines && !snapshot.is_telemetry()).then_some(&*snapshot.pipeline);
        let blocks = if deltas {
            Block::of_deltas(snapshot)
        } else {
            Block::of_totals(snapshot, ended)
        };
        Encoding {
            heads: blocks
                .iter()
                .map(|block| Head::new(self, block.family, deltas, pipeline))
                .collect(),
            blocks,
            encoder: self,
            snapshot,
            new_since: new_since.filter(|_| !deltas),
            cursor: Cursor::default(),
        }
    }

    /// Which points go into the next request, with every length: so each byte is written once, to where it stays.
    fn plan(&self, points: &PointWriter<'_>, heads: &[Head<'_>], cursor: &mut Cursor) -> Plan {
        let mut plan = Plan::default();
        while let Some(block) = points.blocks.get(cursor.family) {
            let (index, head) = (cursor.family, &heads[cursor.family]);
            let mut metric = PlannedMetric::new(index, cursor.point);
            for i in cursor.point..block.count() {
                block.points.prefetch(i.saturating_sub(block.ended.len()));
                let Some(len) = points.len(head, block, i) else {
                    metric.range.end = i + 1;
                    continue;
                };
                let (written, data_len) = match points.zero_at(head, block, i) {
                    Some(_) => (
                        2,
                        len_delimited(len) + len_delimited(PointWriter::zero_len(head, block, i, len)),
                    ),
                    None => (1, len_delimited(len)),
                };
                let full = plan.points + metric.points + written > self.max_points
                    || plan.metrics_len + metric.len(head) >= self.room();
                // A request has a series at least, whatever its resource takes.
                if full && plan.points + metric.points > 0 {
                    cursor.point = i;
                    plan.push(metric, head);
                    return plan;
                }
                metric.range.end = i + 1;
                metric.points += written;
                metric.data_len += data_len;
            }
            plan.push(metric, head);
            *cursor = Cursor {
                family: index + 1,
                point: 0,
            };
        }
        plan
    }

    /// Maximum size of a request's points, without its resource, with room for one point more and
    /// the 0 before it.
    fn room(&self) -> usize {
        const POINTS: usize = 4096;
        let fixed = self.resource.len() + self.scope.len() + 2 * self.schema_url.len() + POINTS;
        self.max_bytes.saturating_sub(fixed)
    }

    /// `ExportMetricsServiceRequest { resource_metrics: [ResourceMetrics { resource, scope_metrics: [...] }] }`
    fn write(&self, plan: &Plan, points: &PointWriter<'_>, heads: &[Head<'_>]) -> Part {
        // The scope follows the conventions where the names of its metrics do.
        let is_otel = |family: &FamilySnapshot| family.family.naming == Naming::Otel;
        let scope_schema: &[u8] = if points.snapshot.families.iter().all(is_otel) {
            &self.schema_url
        } else {
            &[]
        };
        let scope_len = self.scope.len() + plan.metrics_len + scope_schema.len();
        let resource_len = self.resource.len() + len_delimited(scope_len) + self.schema_url.len();
        let mut body = Vec::with_capacity(len_delimited(resource_len));
        begin(&mut body, 1, resource_len);
        body.extend_from_slice(&self.resource);
        begin(&mut body, 2, scope_len);
        body.extend_from_slice(&self.scope);
        for metric in plan.metrics.iter().filter(|metric| metric.points > 0) {
            let head = &heads[metric.family];
            // `ScopeMetrics.metrics`
            begin(&mut body, 2, metric.content_len(head));
            body.extend_from_slice(&head.bytes);
            begin(&mut body, head.data_field, metric.data_len + head.behind.len());
            for i in metric.range.clone() {
                points.push(&mut body, head, &points.blocks[metric.family], i);
            }
            body.extend_from_slice(&head.behind);
        }
        body.extend_from_slice(scope_schema);
        body.extend_from_slice(&self.schema_url);
        debug_assert_eq!(
            body.len(),
            len_delimited(resource_len),
            "the planned points were written"
        );
        Part {
            request: Request {
                body: Bytes::from(body),
                kind: PipelineKind::Metrics,
                items: plan.points,
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

/// The requests of a snapshot. Each is planned and written when it is asked for: so there is one at a time, however many series
/// there are, and what was planned is still in the CPU's caches.
pub(super) struct Encoding<'a> {
    encoder: &'a Encoder,
    snapshot: &'a Snapshot,
    blocks: Vec<Block<'a>>,
    new_since: Option<Timestamp>,
    heads: Vec<Head<'a>>,
    cursor: Cursor,
}

/// The points of one `Metric`: the series of a family that have ended, then its live points. A series of the same labels may have
/// begun since one ended, and points of one stream have to come in the order of their times.
struct Block<'a> {
    family: &'static Family,
    points: &'a Points,
    ended: &'a [(Timestamp, Series)],
}

/// The live points of a family that has none.
static NO_POINTS: Points = Points::Sums(Vec::new());

impl<'a> Block<'a> {
    /// Of a snapshot's families, each in its place; differences have no ends.
    fn of_deltas(snapshot: &'a Snapshot) -> Vec<Self> {
        let families = snapshot.families.iter();
        families.map(|family| Self::new(family, &[])).collect()
    }

    /// Families that have ended series only come first: one of them may be as a live one was before a reload.
    fn of_totals(snapshot: &'a Snapshot, ended: &'a Ended) -> Vec<Self> {
        let live = || {
            snapshot
                .families
                .iter()
                .filter(|family| !family.points.is_empty())
        };
        let is_live = |gone: &'static Family| live().any(|family| family.family == gone);
        let gone = ended.families().filter(|(family, _)| !is_live(family));
        let gone = gone.map(|(family, ended)| Self {
            family,
            points: &NO_POINTS,
            ended,
        });
        gone.chain(live().map(|family| Self::new(family, ended.of(family.family))))
            .collect()
    }

    const fn new(family: &'a FamilySnapshot, ended: &'a [(Timestamp, Series)]) -> Self {
        Self {
            family: family.family,
            points: &family.points,
            ended,
        }
    }

    /// Maximum number of points.
    fn count(&self) -> usize {
        self.ended.len() + self.points.len()
    }
}

/// Where the next request begins.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    family: usize,
    point: usize,
}

impl Encoding<'_> {
    /// The next request. With `deltas`, what has come since what those hold.
    pub(super) fn next_part(&mut self, deltas: Option<&Deltas>) -> Option<Part> {
        let points = PointWriter {
            snapshot: self.snapshot,
            blocks: &self.blocks,
            deltas,
            new_since: self.new_since,
        };
        let plan = self.encoder.plan(&points, &self.heads, &mut self.cursor);
        (plan.points > 0).then(|| self.encoder.write(&plan, &points, &self.heads))
    }
}

/// Plan of one request.
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
    /// Includes points that are not sent.
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

/// Writes points of a snapshot.
struct PointWriter<'a> {
    snapshot: &'a Snapshot,
    blocks: &'a [Block<'a>],
    deltas: Option<&'a Deltas>,
    new_since: Option<Timestamp>,
}

impl PointWriter<'_> {
    fn sum_part(&self, head: &Head<'_>, point: &SumPoint) -> Option<SumPart> {
        match self.deltas.filter(|_| !head.family.kind.can_fall()) {
            Some(deltas) => deltas.of_sum(point),
            None => Some(SumPart {
                start: point.series.start(),
                value: point.total,
            }),
        }
    }

    fn value_part(&self, head: &Head<'_>, point: &ValuePoint) -> Option<ValuePart> {
        match self.deltas.filter(|_| !head.family.kind.can_fall()) {
            Some(deltas) => deltas.of_value(point),
            None => Some(ValuePart {
                start: point.series.start(),
                value: point.value,
            }),
        }
    }

    fn histogram_part(&self, point: &HistogramPoint) -> Option<HistogramPart> {
        match self.deltas {
            Some(deltas) => deltas.of_histogram(point),
            None => Some(HistogramPart {
                start: point.series.start(),
                buckets: point.buckets.clone(),
                sum: point.sum,
            }),
        }
    }

    /// The time of the point 0 that goes before this one, if one does. A gauge does not count from 0.
    fn zero_at(&self, head: &Head<'_>, block: &Block<'_>, i: usize) -> Option<Timestamp> {
        let new_since = self.new_since.filter(|_| !head.family.kind.can_fall())?;
        let i = i.checked_sub(block.ended.len())?;
        let series = match block.points {
            Points::Sums(points) => &points[i].series,
            Points::Values(points) => &points[i].series,
            Points::Histograms(points) => &points[i].series,
        };
        zero_at(series, self.snapshot.at).filter(|_| series.start() >= new_since)
    }

    /// Length of a point 0 before a point of `len` bytes, without key and length: the same, but for exponential buckets.
    fn zero_len(head: &Head<'_>, block: &Block<'_>, i: usize, len: usize) -> usize {
        let live = i.checked_sub(block.ended.len());
        match (block.points, live) {
            (Points::Histograms(points), Some(i)) if head.is_exponential => {
                exponential_len(head, &points[i].series, &Exponential::new())
            }
            _ => len,
        }
    }

    /// Length of the output of [`Self::push`] for a point itself, without key and length; `None` if the point is not sent.
    fn len(&self, head: &Head<'_>, block: &Block<'_>, i: usize) -> Option<usize> {
        let Some(i) = i.checked_sub(block.ended.len()) else {
            return Some(ended_len(head, &block.ended[i].1));
        };
        match block.points {
            Points::Sums(points) => {
                self.sum_part(head, &points[i])?;
                Some(number_len(head, &points[i].series))
            }
            Points::Values(points) => {
                self.value_part(head, &points[i])?;
                Some(number_len(head, &points[i].series))
            }
            Points::Histograms(points) => {
                let part = self.histogram_part(&points[i])?;
                let series = &points[i].series;
                Some(if head.is_exponential {
                    exponential_len(head, series, part.buckets.exponential())
                } else {
                    histogram_len(head, series)
                })
            }
        }
    }

    /// Appends a point, unless it is not sent, and the 0 before it where there is one.
    fn push(&self, out: &mut Vec<u8>, head: &Head<'_>, block: &Block<'_>, i: usize) {
        let (at, zero_at) = (self.snapshot.at, self.zero_at(head, block, i));
        let Some(i) = i.checked_sub(block.ended.len()) else {
            push_ended(out, head, &block.ended[i]);
            return;
        };
        match block.points {
            Points::Sums(points) => {
                let point = &points[i];
                if let Some(part) = self.sum_part(head, point) {
                    // `as_int` 6, sfixed64; a total beyond 2^63 is not reached in the life of a machine.
                    for (at, value) in zero_at.map(|at| (at, 0)).into_iter().chain([(at, part.value)]) {
                        push_number(out, head, &point.series, [part.start, at], (6, value));
                    }
                }
            }
            Points::Values(points) => {
                let point = &points[i];
                if let Some(part) = self.value_part(head, point) {
                    // `as_double` 4.
                    for (at, value) in zero_at.map(|at| (at, 0.0)).into_iter().chain([(at, part.value)]) {
                        push_number(out, head, &point.series, [part.start, at], (4, value.to_bits()));
                    }
                }
            }
            Points::Histograms(points) => {
                let point = &points[i];
                if let Some(part) = self.histogram_part(point) {
                    let zero = HistogramPart {
                        start: part.start,
                        buckets: Buckets::default(),
                        sum: 0.0,
                    };
                    for (at, part) in zero_at.map(|at| (at, &zero)).into_iter().chain([(at, &part)]) {
                        if head.is_exponential {
                            push_exponential(out, head, &point.series, at, part);
                        } else {
                            push_histogram(out, head, &point.series, at, part);
                        }
                    }
                }
            }
        }
    }
}

/// `NumberDataPoint`: start 2, time 3, the value in its field, attributes 7.
fn push_number(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    series: &Series,
    [start, at]: [Timestamp; 2],
    (field, bits): (u32, u64),
) {
    begin(out, 1, number_len(head, series));
    push_fixed64(out, 2, start.as_nanos());
    push_fixed64(out, 3, at.as_nanos());
    push_fixed64(out, field, bits);
    push_attributes(out, head, series);
}

/// `HistogramDataPoint`: start 2, time 3, count 4, sum 5, `bucket_counts` 6, `explicit_bounds` 7, attributes 9.
fn push_histogram(out: &mut Vec<u8>, head: &Head<'_>, series: &Series, at: Timestamp, part: &HistogramPart) {
    begin(out, 1, histogram_len(head, series));
    push_fixed64(out, 2, part.start.as_nanos());
    push_fixed64(out, 3, at.as_nanos());
    push_fixed64(out, 4, part.buckets.count());
    push_fixed64(out, 5, part.sum.to_bits());
    begin(out, 6, head.buckets * BUCKET_BYTES);
    for count in part.buckets.explicit().iter().take(head.buckets) {
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.extend_from_slice(&head.bounds);
    push_attributes(out, head, series);
}

/// `ExponentialHistogramDataPoint`: attributes 1, start 2, time 3, count 4, sum 5, scale 6, `zero_count` 7, positive 8 (`Buckets`:
/// offset 1, `bucket_counts` 2), `zero_threshold` 14.
fn push_exponential(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    series: &Series,
    at: Timestamp,
    part: &HistogramPart,
) {
    let buckets = part.buckets.exponential();
    begin(out, 1, exponential_len(head, series, buckets));
    push_fixed64(out, 2, part.start.as_nanos());
    push_fixed64(out, 3, at.as_nanos());
    push_fixed64(out, 4, buckets.count());
    push_fixed64(out, 5, part.sum.to_bits());
    push_varint(out, 6, zigzag(buckets.scale().into()));
    push_fixed64(out, 7, buckets.zero_count());
    if !buckets.counts().is_empty() {
        begin(out, 8, positive_len(buckets));
        push_varint(out, 1, zigzag(buckets.offset().into()));
        push_packed_varints(out, 2, buckets.counts().iter().copied());
    }
    push_fixed64(out, 14, ZERO_THRESHOLD.to_bits());
    push_attributes(out, head, series);
}

fn positive_len(buckets: &Exponential) -> usize {
    varint_len(zigzag(buckets.offset().into())) + len_delimited(packed_len(buckets.counts().iter().copied()))
}

fn exponential_len(head: &Head<'_>, series: &Series, buckets: &Exponential) -> usize {
    let positive = if buckets.counts().is_empty() {
        0
    } else {
        len_delimited(positive_len(buckets))
    };
    6 * FIXED64_BYTES + varint_len(zigzag(buckets.scale().into())) + positive + attributes_len(head, series)
}

/// A point of a series that has ended: flags 8 of a `NumberDataPoint`, 10 of both data points of histograms. A histogram has a sum, buckets
/// and their bounds as well, all of them 0: a Prometheus ends only the series `_sum` and `_bucket` that the point still has.
fn push_ended(out: &mut Vec<u8>, head: &Head<'_>, (at, series): &(Timestamp, Series)) {
    begin(out, 1, ended_len(head, series));
    push_fixed64(out, 2, series.start().as_nanos());
    push_fixed64(out, 3, at.as_nanos());
    let flags = match head.family.kind {
        FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => 8,
        FamilyKind::Histogram(_) => {
            push_fixed64(out, 5, 0.0_f64.to_bits());
            push_bytes(
                out,
                6,
                &[0; BUCKET_BYTES * (HISTOGRAM_BUCKETS + 1)][..head.buckets * BUCKET_BYTES],
            );
            out.extend_from_slice(&head.bounds);
            10
        }
        FamilyKind::ExponentialHistogram => {
            push_fixed64(out, 5, 0.0_f64.to_bits());
            10
        }
    };
    push_varint(out, flags, NO_RECORDED_VALUE);
    push_attributes(out, head, series);
}

fn push_attributes(out: &mut Vec<u8>, head: &Head<'_>, series: &Series) {
    for part in series.attributes() {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&head.pipeline);
}

fn attributes_len(head: &Head<'_>, series: &Series) -> usize {
    series.attributes_len() + head.pipeline.len()
}

fn number_len(head: &Head<'_>, series: &Series) -> usize {
    3 * FIXED64_BYTES + attributes_len(head, series)
}

fn histogram_len(head: &Head<'_>, series: &Series) -> usize {
    4 * FIXED64_BYTES
        + len_delimited(head.buckets * BUCKET_BYTES)
        + head.bounds.len()
        + attributes_len(head, series)
}

/// Two times, and flags, which take a byte after their key; of a histogram, what [`push_ended`] adds.
fn ended_len(head: &Head<'_>, series: &Series) -> usize {
    let histogram = match head.family.kind {
        FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => 0,
        FamilyKind::Histogram(_) => {
            FIXED64_BYTES + len_delimited(head.buckets * BUCKET_BYTES) + head.bounds.len()
        }
        FamilyKind::ExponentialHistogram => FIXED64_BYTES,
    };
    2 * FIXED64_BYTES + 2 + histogram + attributes_len(head, series)
}

/// Common beginning and end of every metric of a family.
struct Head<'a> {
    family: &'a Family,
    /// `Metric`: name 1, description 2, unit 3.
    bytes: Vec<u8>,
    /// `Metric`: gauge 5, sum 7, histogram 9, `exponential_histogram` 10.
    data_field: u32,
    /// Whether it is the last of these.
    is_exponential: bool,
    /// Sum and Histogram: `aggregation_temporality` 2; Sum: `is_monotonic` 3.
    behind: Vec<u8>,
    /// Buckets of a histogram, the one without bound included.
    buckets: usize,
    /// `explicit_bounds`, encoded.
    bounds: Vec<u8>,
    /// The attribute with the pipeline's name, if points have one: field 7 of a `NumberDataPoint`, 9 of a `HistogramDataPoint`, 1 of an
    /// `ExponentialHistogramDataPoint`.
    pipeline: Vec<u8>,
}

impl<'a> Head<'a> {
    fn new(encoder: &Encoder, family: &'a Family, delta: bool, pipeline: Option<&str>) -> Self {
        let mut bytes = Vec::new();
        push_bytes(&mut bytes, 1, full_name(&encoder.namespace, family).as_bytes());
        push_bytes(&mut bytes, 2, family.help.as_bytes());
        push_bytes(&mut bytes, 3, family.unit.as_str().as_bytes());
        let temporality = if delta { DELTA } else { CUMULATIVE };
        let (mut behind, mut bounds, mut buckets) = (Vec::new(), Vec::new(), 0);
        let data_field = match family.kind {
            FamilyKind::Gauge => 5,
            // Cumulative, whatever the temporality of counters: so does the SDK's delta preference (OpenTelemetry
            // specification, "OTLP Exporter").
            FamilyKind::UpDownCounter => {
                push_varint(&mut behind, 2, CUMULATIVE);
                7
            }
            FamilyKind::Counter => {
                push_varint(&mut behind, 2, temporality);
                push_varint(&mut behind, 3, 1);
                7
            }
            FamilyKind::Histogram(upper) => {
                push_varint(&mut behind, 2, temporality);
                let packed: Vec<u8> = upper
                    .iter()
                    .flat_map(|bound| bound.to_bits().to_le_bytes())
                    .collect();
                push_bytes(&mut bounds, 7, &packed);
                buckets = upper.len() + 1;
                9
            }
            FamilyKind::ExponentialHistogram => {
                push_varint(&mut behind, 2, temporality);
                10
            }
        };
        let attributes_field = match data_field {
            9 => 9,
            10 => 1,
            _ => 7,
        };
        let pipeline = pipeline.map(|name| {
            let attribute = text(pipeline_attribute(family.naming), name);
            field(attributes_field, &attribute.encode_to_vec())
        });
        Self {
            family,
            bytes,
            data_field,
            is_exponential: data_field == 10,
            behind,
            buckets,
            bounds,
            pipeline: pipeline.unwrap_or_default(),
        }
    }
}

pub(super) fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    push_bytes(&mut out, number, content);
    out
}

/// `ResourceMetrics.resource`, and `ResourceLogs.resource`, which have the same field number; with key and length.
pub(super) fn encoded_resource(resource: &flowtap_pipeline::Resource) -> Vec<u8> {
    let resource = Resource {
        attributes: resource
            .attributes()
            .map(|(key, value)| text(key, value))
            .collect(),
        ..Resource::default()
    };
    field(1, &resource.encode_to_vec())
}

/// `ScopeMetrics.scope`, and `ScopeLogs.scope`, like the resource.
pub(super) fn encoded_scope() -> Vec<u8> {
    let scope = InstrumentationScope {
        name: "flowtap".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    field(1, &scope.encode_to_vec())
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}
