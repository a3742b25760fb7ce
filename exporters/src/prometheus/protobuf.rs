//! Families as `io.prometheus.client.MetricFamily`, each after its length
//! (`prometheus/client_model`, `metrics.proto`).
//!
//! Labels stand once per series there, where text has them on each of a histogram's 19 lines. A family has to say how long it is
//! before its first series, so lengths are reckoned without writing anything. Written by hand, like the other protocols: a test
//! decodes the bytes with messages of prost. Field numbers stand beside the fields.

use flowtap_pipeline::labels::push_label_name;
use flowtap_pipeline::{Family, FamilyKind, HistogramPoint, Pair, PairValue, Series, Timestamp};
use prost::encoding::encoded_len_varint;

use crate::native;
use crate::wire::{
    FIXED64_BYTES, begin, len_delimited, push_bytes, push_fixed64, push_packed, push_varint, varint_len,
};

/// Bytes of a bucket with its key and length, except for its count.
const BUCKET_FIXED_BYTES: usize = 3 + FIXED64_BYTES;

/// A series and what it stands at. `Metric`: label 1, gauge 2, counter 3, `timestamp_ms` 6, histogram 7.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric<'a> {
    pub(super) family: &'static Family,
    /// Labels of every series, by [`push_label`].
    pub(super) common: &'a [u8],
    pub(super) series: &'a Series,
    pub(super) value: Value<'a>,
    pub(super) at: Option<Timestamp>,
    /// Whether its start time is exported.
    pub(super) created: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(f64),
    Histogram(&'a HistogramPoint),
}

impl Metric<'_> {
    /// Its length, including its key and its own length.
    pub(super) fn len(&self) -> usize {
        len_delimited(self.content_len(self.value_len()))
    }

    /// Appends it to its family, whose field 4 it is.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let value_len = self.value_len();
        begin(out, 4, self.content_len(value_len));
        out.extend_from_slice(self.common);
        for pair in self.series.pairs() {
            push_pair(out, pair);
        }
        begin(out, self.value_field(), value_len);
        match self.value {
            Value::Number(value) => push_fixed64(out, 1, value.to_bits()),
            Value::Histogram(point) => {
                // `Histogram`: sample_count 1, sample_sum 2, bucket 3.
                push_varint(out, 1, point.count());
                push_fixed64(out, 2, (point.sum).to_bits());
                for (count, bound) in self.buckets() {
                    push_bucket(out, count, bound);
                }
                if self.family.kind == FamilyKind::ExponentialHistogram {
                    native::push(out, native::SCRAPE, point.buckets.exponential());
                }
            }
        }
        if let Some((field, start)) = self.start() {
            begin(out, field, time_len(start));
            push_time(out, start);
        }
        if let Some(at) = self.at {
            push_varint(out, 6, milliseconds(at));
        }
    }

    fn content_len(&self, value_len: usize) -> usize {
        let at = self.at.map_or(0, |at| varint_len(milliseconds(at)));
        self.common.len() + self.series.label_pairs_len() + len_delimited(value_len) + at
    }

    const fn value_field(&self) -> u32 {
        match self.family.kind {
            FamilyKind::Gauge | FamilyKind::UpDownCounter => 2,
            FamilyKind::Counter => 3,
            FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => 7,
        }
    }

    fn value_len(&self) -> usize {
        let value = match self.value {
            Value::Number(_) => FIXED64_BYTES,
            Value::Histogram(point) => {
                let counts = self.buckets().map(|(count, _)| encoded_len_varint(count));
                let buckets = self.buckets().count() * BUCKET_FIXED_BYTES + counts.sum::<usize>();
                let native = match self.family.kind {
                    FamilyKind::ExponentialHistogram => native::len(point.buckets.exponential()),
                    _ => 0,
                };
                varint_len(point.count()) + FIXED64_BYTES + buckets + native
            }
        };
        value
            + self
                .start()
                .map_or(0, |(_, start)| len_delimited(time_len(start)))
    }

    /// Cumulative counts, and their upper bounds.
    fn buckets(&self) -> impl Iterator<Item = (u64, f64)> {
        // Native histograms have none.
        let by_bounds = match (self.value, self.family.kind) {
            (Value::Histogram(point), FamilyKind::Histogram(bounds)) => Some((point, bounds)),
            _ => None,
        };
        by_bounds.into_iter().flat_map(|(point, bounds)| {
            let cumulated = point.counts(bounds).scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            });
            cumulated.zip(bounds.iter().copied().chain([f64::INFINITY]))
        })
    }

    /// `created_timestamp`, by its field: 3 of a `Counter`, 15 of a `Histogram`.
    fn start(&self) -> Option<(u32, Timestamp)> {
        let field = match self.family.kind {
            FamilyKind::Counter => 3,
            FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => 15,
            FamilyKind::Gauge | FamilyKind::UpDownCounter => return None,
        };
        self.created.then_some((field, self.series.start()))
    }
}

/// Appends all of a family but its metrics, which take `metrics_len` bytes. `MetricFamily`: name 1, help 2, type 3, metric 4.
pub(super) fn push_head(out: &mut Vec<u8>, name: &str, family: &Family, metrics_len: usize) {
    let kind = match family.kind {
        FamilyKind::Counter => 0,
        FamilyKind::Gauge | FamilyKind::UpDownCounter => 1,
        FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => 4,
    };
    let head_len = len_delimited(name.len()) + len_delimited(family.help.len()) + varint_len(kind);
    push_packed(out, (head_len + metrics_len) as u64);
    push_bytes(out, 1, name.as_bytes());
    push_bytes(out, 2, family.help.as_bytes());
    push_varint(out, 3, kind);
}

/// Appends a `LabelPair` as field 1: name 1, value 2.
pub(super) fn push_label(out: &mut Vec<u8>, name: &str, value: &str) {
    begin(out, 1, len_delimited(name.len()) + len_delimited(value.len()));
    push_bytes(out, 1, name.as_bytes());
    push_bytes(out, 2, value.as_bytes());
}

/// The same of a series' own label.
fn push_pair(out: &mut Vec<u8>, pair: Pair<'_>) {
    let mut digits = itoa::Buffer::new();
    let value = match pair.value {
        PairValue::Text(text) => text,
        PairValue::Integer(number) => digits.format(number).as_bytes(),
    };
    begin(
        out,
        1,
        len_delimited(pair.name.len()) + len_delimited(value.len()),
    );
    begin(out, 1, pair.name.len());
    push_label_name(out, pair.name);
    push_bytes(out, 2, value);
}

/// Appends a `Bucket` as field 3: `cumulative_count` 1, `upper_bound` 2. Most of a scrape is these.
#[inline]
fn push_bucket(out: &mut Vec<u8>, count: u64, bound: f64) {
    begin(out, 3, BUCKET_FIXED_BYTES - 2 + encoded_len_varint(count));
    push_varint(out, 1, count);
    push_fixed64(out, 2, bound.to_bits());
}

fn milliseconds(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000_000
}

/// `google.protobuf.Timestamp`: seconds 1, nanos 2.
fn push_time(out: &mut Vec<u8>, at: Timestamp) {
    push_varint(out, 1, at.as_nanos() / 1_000_000_000);
    push_varint(out, 2, at.as_nanos() % 1_000_000_000);
}

fn time_len(at: Timestamp) -> usize {
    varint_len(at.as_nanos() / 1_000_000_000) + varint_len(at.as_nanos() % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::super::entry::CHUNK_BYTES;
    use super::super::exposition::{Exposition, Style};
    use super::super::negotiate::Format;
    use super::*;
    use crate::testing::{many, snapshot};
    use flowtap_pipeline::Snapshot;
    use std::collections::HashSet;
    use std::sync::Arc;

    /// `metrics.proto` of `prometheus/client_model`, as far as it is written.
    mod model {
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct MetricFamily {
            #[prost(string, optional, tag = "1")]
            pub(super) name: Option<String>,
            #[prost(string, optional, tag = "2")]
            pub(super) help: Option<String>,
            #[prost(int32, optional, tag = "3")]
            pub(super) kind: Option<i32>,
            #[prost(message, repeated, tag = "4")]
            pub(super) metric: Vec<Metric>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Metric {
            #[prost(message, repeated, tag = "1")]
            pub(super) label: Vec<Label>,
            #[prost(message, optional, tag = "2")]
            pub(super) gauge: Option<Number>,
            #[prost(message, optional, tag = "3")]
            pub(super) counter: Option<Number>,
            #[prost(int64, optional, tag = "6")]
            pub(super) timestamp_ms: Option<i64>,
            #[prost(message, optional, tag = "7")]
            pub(super) histogram: Option<Histogram>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Label {
            #[prost(string, optional, tag = "1")]
            pub(super) name: Option<String>,
            #[prost(string, optional, tag = "2")]
            pub(super) value: Option<String>,
        }
        /// `Gauge`, and a `Counter` without exemplar.
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Number {
            #[prost(double, optional, tag = "1")]
            pub(super) value: Option<f64>,
            #[prost(message, optional, tag = "3")]
            pub(super) created: Option<Time>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Histogram {
            #[prost(uint64, optional, tag = "1")]
            pub(super) count: Option<u64>,
            #[prost(double, optional, tag = "2")]
            pub(super) sum: Option<f64>,
            #[prost(message, repeated, tag = "3")]
            pub(super) bucket: Vec<Bucket>,
            #[prost(sint32, optional, tag = "5")]
            pub(super) schema: Option<i32>,
            #[prost(double, optional, tag = "6")]
            pub(super) zero_threshold: Option<f64>,
            #[prost(uint64, optional, tag = "7")]
            pub(super) zero_count: Option<u64>,
            #[prost(message, repeated, tag = "12")]
            pub(super) positive_span: Vec<Span>,
            #[prost(sint64, repeated, tag = "13")]
            pub(super) positive_delta: Vec<i64>,
            #[prost(message, optional, tag = "15")]
            pub(super) created: Option<Time>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Span {
            #[prost(sint32, optional, tag = "1")]
            pub(super) offset: Option<i32>,
            #[prost(uint32, optional, tag = "2")]
            pub(super) length: Option<u32>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Bucket {
            #[prost(uint64, optional, tag = "1")]
            pub(super) count: Option<u64>,
            #[prost(double, optional, tag = "2")]
            pub(super) bound: Option<f64>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Time {
            #[prost(int64, optional, tag = "1")]
            pub(super) seconds: Option<i64>,
            #[prost(int32, optional, tag = "2")]
            pub(super) nanos: Option<i32>,
        }
    }

    fn families(config: &Config, snapshots: Vec<Arc<Snapshot>>) -> Vec<model::MetricFamily> {
        let bytes = Exposition::new(
            &Style::new(config, snapshots.len() > 1),
            Format::Protobuf,
            snapshots,
        )
        .collect::<Vec<_>>()
        .concat();
        let mut rest = &*bytes;
        let mut families = Vec::new();
        while !rest.is_empty() {
            families.push(prost::Message::decode_length_delimited(&mut rest).unwrap());
        }
        families
    }

    fn labels_of(metric: &model::Metric) -> Vec<(&str, &str)> {
        let pairs = metric.label.iter();
        pairs
            .map(|label| (label.name.as_deref().unwrap(), label.value.as_deref().unwrap()))
            .collect()
    }

    #[test]
    fn in_protobuf_families_have_their_length_and_histograms_their_labels_once() {
        let families = families(&Config::default(), vec![Arc::new(snapshot(42))]);
        let [bytes, rtt] = &*families else {
            panic!("{families:?}")
        };
        assert_eq!(bytes.name.as_deref(), Some("primus_lens_network_bytes"));
        assert_eq!(
            (bytes.help.as_deref(), bytes.kind),
            (Some("Bytes of a test."), Some(0))
        );
        assert_eq!(labels_of(&bytes.metric[0]), [("raddr", "192.0.2.7")]);
        let counter = bytes.metric[0].counter.as_ref().unwrap();
        // By default, as it costs a few bytes.
        assert!(counter.created.is_some());
        assert_eq!(counter.value, Some(42.0));
        assert_eq!(rtt.kind, Some(4));
        assert_eq!(labels_of(&rtt.metric[0]), [("raddr", "a\"b\\c\nd")]);
        let histogram = rtt.metric[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.count, histogram.sum), (Some(7), Some(12.5)));
        let buckets: Vec<_> = histogram
            .bucket
            .iter()
            .map(|bucket| (bucket.bound.unwrap(), bucket.count.unwrap()))
            .collect();
        assert_eq!(buckets[..2], [(0.5, 1), (1.0, 3)]);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 7)));
    }

    #[test]
    fn in_protobuf_exponential_buckets_are_a_native_histogram() {
        let snapshot = crate::testing::exponential(&[0.0, 0.5, 1.0, 1.0]);
        let families = families(&Config::default(), vec![Arc::new(snapshot)]);
        assert_eq!(families[0].kind, Some(4));
        let histogram = families[0].metric[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.count, histogram.sum), (Some(4), Some(2.5)));
        assert_eq!((histogram.schema, histogram.zero_count), (Some(5), Some(1)));
        assert!(histogram.bucket.is_empty() && histogram.zero_threshold.is_some());
        assert_eq!(histogram.positive_span[0].offset, Some(-32));
        assert_eq!(histogram.positive_delta.len(), 33);
        assert_eq!(histogram.positive_delta[32], 2);
        assert!(histogram.created.is_some());
    }

    #[test]
    fn in_protobuf_starts_are_written_by_default_and_labels_and_times_if_configured() {
        let config = Config {
            labels: [("cluster".to_owned(), "b\"lue".to_owned())].into(),
            timestamps: true,
            ..Config::default()
        };
        let at = Snapshot {
            at: Timestamp::from_nanos(1_700_000_000_123_456_789),
            ..snapshot(42)
        };
        let other = Snapshot {
            pipeline: "other".into(),
            ..at.clone()
        };
        for family in families(&config, vec![Arc::new(at), Arc::new(other)]) {
            let [flows, other] = &*family.metric else {
                panic!("{family:?}")
            };
            for (metric, pipeline) in [(flows, "metrics"), (other, "other")] {
                assert_eq!(
                    labels_of(metric)[..2],
                    [("cluster", "b\"lue"), ("pipeline", pipeline)]
                );
                assert_eq!(metric.timestamp_ms, Some(1_700_000_000_123));
                let counter = metric.counter.as_ref().map(|counter| &counter.created);
                let histogram = metric.histogram.as_ref().map(|histogram| &histogram.created);
                assert!(counter.or(histogram).is_some_and(Option::is_some), "{metric:?}");
            }
        }
    }

    #[test]
    fn in_protobuf_a_long_scrape_comes_in_chunks_and_every_series_once() {
        let snapshot = Arc::new(many(20_000));
        let style = Style::new(&Config::default(), false);
        let chunks: Vec<_> = Exposition::new(&style, Format::Protobuf, vec![Arc::clone(&snapshot)]).collect();
        assert!(chunks.len() > 5, "{} chunks", chunks.len());
        assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 4096));
        let families = families(&Config::default(), vec![snapshot]);
        let series: HashSet<_> = families
            .iter()
            .flat_map(|family| &family.metric)
            .map(labels_of)
            .collect();
        assert_eq!((families.len(), series.len()), (1, 20_000));
    }
}
