//! Snapshots as `ExportMetricsServiceRequest` bytes (`opentelemetry/proto/metrics/v1/metrics.proto`).
//!
//! Written by hand, because a series brings its attributes encoded: the messages of `opentelemetry-proto` would have to
//! build each of them anew, every time. Field numbers stand beside the fields; a test decodes the bytes with those messages.

mod block;
mod data_point;
mod head;
mod plan;
mod point;

use std::ops::Range;

use bytes::Bytes;
use flowtap_pipeline::resource::SCHEMA_URL;
use flowtap_pipeline::{FamilySnapshot, Naming, PipelineKind, Snapshot};

use self::block::Block;
use self::head::Head;
use self::plan::{Cursor, Plan, PlannedMetric};
use self::point::PointWriter;
use super::config::Config;
use super::deltas::Deltas;
use super::ended::Ended;
use super::envelope::{encoded_resource, encoded_scope, field};
use crate::push::Request;
use crate::push::markers::Ended as Marker;
use crate::push::zeros::{Carried, Starts};
use crate::wire::{begin, len_delimited};

/// A request, and the points of the snapshot that it contains: block, and positions in it. Of differences a block is the family with
/// the same index.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) request: Request,
    pub(super) points: Vec<(usize, Range<usize>)>,
    /// Series to be made up for if it is not delivered.
    pub(super) carried: Vec<Carried>,
    pub(super) ended: Vec<Marker>,
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
    /// `deltas`; else `starts` says which series have a point 0 before theirs.
    pub(super) fn encode<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        ended: &'a Ended,
        deltas: bool,
        starts: &'a Starts,
    ) -> Encoding<'a> {
        let pipeline = (self.several_pipelines && !snapshot.is_telemetry()).then_some(&*snapshot.pipeline);
        let blocks = if deltas {
            Block::of_deltas(snapshot)
        } else if self.fills_a_request(ended) {
            Block::of_totals_apart(snapshot, ended)
        } else {
            Block::of_totals(snapshot, ended)
        };
        Encoding {
            heads: blocks
                .iter()
                .map(|block| Head::new(&self.namespace, block.family, deltas, pipeline))
                .collect(),
            blocks,
            encoder: self,
            snapshot,
            starts,
            cursor: Cursor::default(),
        }
    }

    /// Whether a request could have points of `ended` alone, after one with live points.
    fn fills_a_request(&self, ended: &Ended) -> bool {
        // A live point, and the 0 before it.
        const LIVE: u64 = 2;
        let (points, bytes) = ended.size();
        points + LIVE > self.max_points || bytes >= self.room()
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
                let zero_at = points.zero_at(head, block, i);
                let (written, data_len) = match zero_at {
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
                plan.carried.extend(points.carried(block, i, zero_at.is_some()));
                plan.ended.extend(block.ended.get(i).map(|(at, series)| Marker {
                    at: *at,
                    family: block.family,
                    series: series.clone(),
                }));
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
            carried: Vec::new(),
            ended: Vec::new(),
        }
    }
}

/// The requests of a snapshot. Each is planned and written when it is asked for: so there is one at a time, however many series
/// there are, and what was planned is still in the CPU's caches.
pub(super) struct Encoding<'a> {
    encoder: &'a Encoder,
    snapshot: &'a Snapshot,
    blocks: Vec<Block<'a>>,
    starts: &'a Starts,
    heads: Vec<Head<'a>>,
    cursor: Cursor,
}

impl Encoding<'_> {
    /// The next request. With `deltas`, what has come since what those hold.
    pub(super) fn next_part(&mut self, deltas: Option<&Deltas>) -> Option<Part> {
        let points = PointWriter {
            snapshot: self.snapshot,
            blocks: &self.blocks,
            deltas,
            starts: self.starts,
        };
        let mut plan = self.encoder.plan(&points, &self.heads, &mut self.cursor);
        (plan.points > 0).then(|| Part {
            carried: std::mem::take(&mut plan.carried),
            ended: std::mem::take(&mut plan.ended),
            ..self.encoder.write(&plan, &points, &self.heads)
        })
    }
}
