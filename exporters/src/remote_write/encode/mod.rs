//! Snapshots as compressed requests, in either version of the message.
//!
//! Written by hand: a request is made of thousands of small messages, and labels, which are most of it, are kept encoded or as
//! references. A test decodes the bytes with messages of prost.
//!
//! | module | |
//! |---|---|
//! | `labels` | the labels of a series, sorted |
//! | `native` | a histogram as one sample |
//! | `sample` | points and the samples that they become |
//! | `v1` | `prometheus.WriteRequest` |
//! | `v2` | `io.prometheus.write.v2.Request` |

mod labels;
mod native;
mod sample;
mod v1;
mod v2;

use std::iter::Peekable;

use bytes::Bytes;
use flowtap_pipeline::{BuildContext, Family, PipelineKind, Snapshot};
use tower::BoxError;

use self::labels::Labels;
use self::sample::{Metric, Point, Value, points};
use super::config::{Config, ProtobufMessage};
use crate::naming::pipeline_label;
use crate::push::Request;
use crate::push::markers::Ended;
use crate::push::zeros::{Carried, Starts};

/// The part that does not change from snapshot to snapshot.
#[derive(Debug)]
pub(super) struct Encoder {
    namespace: String,
    /// Labels of every series that has none of that name itself.
    labels: Vec<(String, String)>,
    several_pipelines: bool,
    max_samples: usize,
    message: ProtobufMessage,
    native_histograms: bool,
}

impl Encoder {
    pub(super) fn new(config: &Config, context: &BuildContext) -> Self {
        Self {
            namespace: config.namespace.clone(),
            labels: config.labels(&context.resource),
            several_pipelines: context.several_pipelines,
            max_samples: config.max_samples_per_send,
            message: config.protobuf_message,
            native_histograms: config.send_native_histograms,
        }
    }

    /// Encodes `ended` and then `snapshot` as as many requests as `max_samples` requires; none if
    /// there are no samples. `starts` says which series have a sample 0 before theirs.
    ///
    /// Ended series go first: a series of the same labels may have begun since, and samples of one
    /// series must be in the order of their times.
    pub(super) fn encode<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        ended: &'a [Ended],
        starts: &'a Starts,
    ) -> Requests<'a> {
        let ended = ended.iter().map(|ended| Point {
            family: ended.family,
            series: &ended.series,
            at: ended.at,
            value: Value::Ended,
            zero_at: None,
        });
        let live = snapshot
            .families
            .iter()
            .flat_map(move |family| points(family, snapshot.at, starts));
        let points: Box<dyn Iterator<Item = Point<'a>> + Send + 'a> = Box::new(ended.chain(live));
        let several = self.several_pipelines && !snapshot.is_telemetry();
        Requests {
            encoder: self,
            starts,
            pipeline: several.then_some(&*snapshot.pipeline),
            last: snapshot.last,
            points: points.peekable(),
            metrics: Vec::new(),
            labels: Labels::default(),
            open: match self.message {
                ProtobufMessage::V1 => Open::V1(v1::WriteRequest::default()),
                ProtobufMessage::V2 => Open::V2(Box::new(v2::Request::new(self.native_histograms))),
            },
            snappy: snap::raw::Encoder::new(),
            compressed: Vec::new(),
        }
    }

    /// Labels of every series of `family`, unless its own labels have that name.
    fn more<'a>(
        &'a self,
        family: &Family,
        pipeline: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pipeline = pipeline.map(|pipeline| (pipeline_label(family.naming), pipeline));
        let labels = self.labels.iter().map(|(name, value)| (&**name, &**value));
        pipeline.into_iter().chain(labels)
    }
}

/// A request that is being filled, in either version.
enum Open {
    V1(v1::WriteRequest),
    V2(Box<v2::Request>),
}

impl Open {
    fn clear(&mut self) {
        match self {
            Self::V1(request) => request.clear(),
            Self::V2(request) => request.clear(),
        }
    }

    /// Number of samples of a point of `metric`.
    fn samples(&self, metric: &Metric) -> usize {
        match self {
            Self::V2(request) if request.native_histograms => 1,
            Self::V1(_) | Self::V2(_) => metric.samples(),
        }
    }

    /// Appends a point. `number` is that of its metric, from 0 on.
    fn push(&mut self, number: usize, metric: &Metric, labels: &Labels<'_>, point: &Point<'_>) {
        match self {
            Self::V1(request) => request.push(number, metric, labels, point),
            Self::V2(request) => request.push(number, metric, labels, point),
        }
    }

    /// The whole message.
    fn bytes(&mut self) -> &[u8] {
        match self {
            Self::V1(request) => request.bytes(),
            Self::V2(request) => request.bytes(),
        }
    }
}

/// The requests of a snapshot. Each is made when it is asked for, so that there is one at a time, however many series there are.
pub(super) struct Requests<'a> {
    encoder: &'a Encoder,
    starts: &'a Starts,
    pipeline: Option<&'a str>,
    last: bool,
    points: Peekable<Box<dyn Iterator<Item = Point<'a>> + Send + 'a>>,
    /// Of families that have come.
    metrics: Vec<Metric>,
    labels: Labels<'a>,
    /// A request before it is compressed.
    open: Open,
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
        let bytes = self.open.bytes();
        let room = snap::raw::max_compress_len(bytes.len());
        self.compressed.resize(room.max(self.compressed.len()), 0);
        let len = self.snappy.compress(bytes, &mut self.compressed)?;
        Ok(Bytes::copy_from_slice(&self.compressed[..len]))
    }
}

/// A request, and what is to be made up for if it is not delivered.
pub(super) struct Part {
    pub(super) request: Request,
    pub(super) carried: Vec<Carried>,
    /// Number of the ended series in it: they come before all others.
    pub(super) ended: usize,
}

impl Iterator for Requests<'_> {
    type Item = Result<Part, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.open.clear();
        let (mut samples, mut points, mut ended) = (0, 0, 0);
        let mut carried = Vec::new();
        while let Some(family) = self.points.peek().map(|point| point.family) {
            let number = self.metric(family);
            // A point goes in one request, so that it arrives whole or fails whole.
            let zeros = self.points.peek().is_some_and(|point| point.zero_at.is_some());
            samples += self.open.samples(&self.metrics[number]) * (1 + usize::from(zeros));
            if points > 0 && samples > self.encoder.max_samples {
                break;
            }
            let point = self.points.next()?;
            self.labels
                .set(point.series, self.encoder.more(family, self.pipeline));
            self.open
                .push(number, &self.metrics[number], &self.labels, &point);
            points += 1;
            match point.value {
                Value::Ended => ended += 1,
                _ => carried.extend(self.starts.carried(point.series, point.zero_at.is_some())),
            }
        }
        if points == 0 {
            return None;
        }
        Some(self.compress().map(|body| Part {
            request: Request {
                body,
                kind: PipelineKind::Metrics,
                items: points,
                last: self.last,
            },
            carried,
            ended,
        }))
    }
}
