//! Snapshots as compressed `WriteRequest`s (`prometheus/prompb/remote.proto` and `types.proto`).
//!
//! Written by hand: a request is made of thousands of small messages, and the labels of a histogram's samples differ in but
//! two values. Field numbers stand beside the fields; a test decodes the bytes with messages of prost.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flowtap_pipeline::{Family, FamilyKind, HistogramPoint, Points, Series, Snapshot, Timestamp};
use prost::encoding::{WireType, encode_key, encode_varint};
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
    pub(super) fn encode(
        &self,
        snapshot: &Snapshot,
        ended: &[Ended],
        pipeline: Option<&str>,
    ) -> Result<Vec<Request>, BoxError> {
        let mut requests = Requests::new(self.max_samples, snapshot.last);
        for Ended { at, family, series } in ended {
            let mut labels = self.labels(series, pipeline);
            let metric = Metric::new(&self.namespace, family);
            requests.point(metric.samples())?;
            match family.kind {
                FamilyKind::Counter | FamilyKind::Gauge => {
                    requests.sample(labels.named(&metric.name), STALE_MARKER, *at);
                }
                FamilyKind::Histogram(_) => {
                    metric.push_histogram(&mut requests, &mut labels, &[], [STALE_MARKER; 2], *at);
                }
            }
        }
        for family in &snapshot.families {
            let metric = Metric::new(&self.namespace, family.family);
            match &family.points {
                Points::Sums(points) => {
                    for point in points {
                        let mut labels = self.labels(&point.series, pipeline);
                        requests.point(metric.samples())?;
                        let value = (point.total as f64).to_bits();
                        requests.sample(labels.named(&metric.name), value, snapshot.at);
                    }
                }
                Points::Histograms(points) => {
                    for point in points {
                        let mut labels = self.labels(&point.series, pipeline);
                        requests.point(metric.samples())?;
                        let (buckets, rest) = values(point);
                        metric.push_histogram(&mut requests, &mut labels, &buckets, rest, snapshot.at);
                    }
                }
            }
        }
        requests.flush()?;
        Ok(requests.done)
    }

    fn labels<'a>(&'a self, series: &'a Series, pipeline: Option<&'a str>) -> Labels<'a> {
        let mut pairs: Vec<_> = series.pairs().collect();
        let borrowed = |value| Cow::Borrowed(value);
        let more = pipeline.map(|pipeline| ("pipeline", pipeline));
        let external = self
            .external_labels
            .iter()
            .map(|(name, value)| (&**name, &**value));
        for (name, value) in more.into_iter().chain(external) {
            // A series' own labels count for more, as in Prometheus.
            if pairs.iter().all(|(known, _)| *known != name) {
                pairs.push((name, borrowed(value)));
            }
        }
        // An empty label is the same as none, and must not be sent.
        pairs.retain(|(_, value)| !value.is_empty());
        pairs.extend([(NAME, borrowed("")), (BOUND, borrowed(""))]);
        // By bytes, as the specification has it: capitals come before `__name__`.
        pairs.sort_unstable_by_key(|(name, _)| *name);
        Labels(pairs)
    }
}

/// The label that holds the metric's name.
const NAME: &str = "__name__";

/// The label that holds a bucket's upper bound.
const BOUND: &str = "le";

/// Labels in their order, with room for the name and a bucket's bound, which differ from sample to sample. Those that are
/// empty are not sent.
struct Labels<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Labels<'a> {
    fn set(&mut self, name: &str, value: &'a str) {
        if let Some((_, slot)) = self.0.iter_mut().find(|(known, _)| *known == name) {
            *slot = Cow::Borrowed(value);
        }
    }

    fn named(&mut self, name: &'a str) -> &Self {
        self.set(NAME, name);
        self
    }
}

/// A family's names and bounds, made once per request rather than per series.
struct Metric {
    name: String,
    bucket: String,
    sum: String,
    count: String,
    /// `le` of each bucket.
    bounds: Vec<String>,
}

impl Metric {
    fn new(namespace: &str, family: &Family) -> Self {
        let name = prometheus_name(namespace, family);
        let bounds = match family.kind {
            // As a Prometheus stores them that scrapes, so that both ways lead to the same series.
            FamilyKind::Histogram(bounds) => {
                let bounds = bounds.iter().map(|bound| canonical(*bound));
                bounds.chain(["+Inf".to_owned()]).collect()
            }
            FamilyKind::Counter | FamilyKind::Gauge => Vec::new(),
        };
        Self {
            bucket: format!("{name}_bucket"),
            sum: format!("{name}_sum"),
            count: format!("{name}_count"),
            name,
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

    /// Buckets that are not given are [`STALE_MARKER`]s.
    fn push_histogram<'a>(
        &'a self,
        requests: &mut Requests,
        labels: &mut Labels<'a>,
        buckets: &[u64],
        [sum, count]: [u64; 2],
        at: Timestamp,
    ) {
        for (number, bound) in self.bounds.iter().enumerate() {
            labels.set(BOUND, bound);
            let value = buckets.get(number).copied().unwrap_or(STALE_MARKER);
            requests.sample(labels.named(&self.bucket), value, at);
        }
        labels.set(BOUND, "");
        requests.sample(labels.named(&self.sum), sum, at);
        requests.sample(labels.named(&self.count), count, at);
    }
}

/// Cumulated buckets, and [sum, count], as bits.
fn values(point: &HistogramPoint) -> (Vec<u64>, [u64; 2]) {
    let mut count = 0;
    let buckets = point.buckets.iter().map(|in_bucket| {
        count += in_bucket;
        (count as f64).to_bits()
    });
    let buckets = buckets.collect();
    (buckets, [point.sum.to_bits(), (count as f64).to_bits()])
}

/// Requests that are done, and the one that is being filled.
struct Requests {
    max_samples: usize,
    last: bool,
    open: Vec<u8>,
    samples: usize,
    points: u64,
    snappy: snap::raw::Encoder,
    /// One series, before its length is known.
    scratch: Vec<u8>,
    pair: Vec<u8>,
    done: Vec<Request>,
}

impl Requests {
    fn new(max_samples: usize, last: bool) -> Self {
        Self {
            max_samples,
            last,
            open: Vec::new(),
            samples: 0,
            points: 0,
            snappy: snap::raw::Encoder::new(),
            scratch: Vec::new(),
            pair: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Makes room for a point of so many samples. They go in one request, so that a point arrives whole or fails whole.
    fn point(&mut self, samples: usize) -> Result<(), BoxError> {
        if self.samples + samples > self.max_samples {
            self.flush()?;
        }
        self.samples += samples;
        self.points += 1;
        Ok(())
    }

    /// `WriteRequest.timeseries` 1. `TimeSeries`: labels 1 (`Label`: name 1, value 2), samples 2 (`Sample`: value 1,
    /// timestamp 2, in milliseconds).
    fn sample(&mut self, labels: &Labels<'_>, value: u64, at: Timestamp) {
        self.scratch.clear();
        for (name, value) in labels.0.iter().filter(|(_, value)| !value.is_empty()) {
            self.pair.clear();
            push_field(&mut self.pair, 1, name.as_bytes());
            push_field(&mut self.pair, 2, value.as_bytes());
            push_field(&mut self.scratch, 1, &self.pair);
        }
        self.pair.clear();
        encode_key(1, WireType::SixtyFourBit, &mut self.pair);
        self.pair.extend_from_slice(&value.to_le_bytes());
        encode_key(2, WireType::Varint, &mut self.pair);
        encode_varint(at.as_nanos() / 1_000_000, &mut self.pair);
        push_field(&mut self.scratch, 2, &self.pair);
        push_field(&mut self.open, 1, &self.scratch);
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        if self.points == 0 {
            return Ok(());
        }
        self.done.push(Request {
            body: Bytes::from(self.snappy.compress_vec(&self.open)?),
            points: std::mem::take(&mut self.points),
            last: self.last,
        });
        self.open.clear();
        self.samples = 0;
        Ok(())
    }
}

fn push_field(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}
