//! `prometheus.WriteRequest` (`prometheus/prompb/remote.proto` and `types.proto`), of remote write 1.0. Field numbers stand beside
//! the fields.

use flowtap_pipeline::labels::push_label_name;

use super::labels::{Encoded, Labels, with_text};
use super::native::{Layout, push_histogram};
use super::sample::{Metric, Names, Point, Sampled, Value, each_sample, milliseconds};
use crate::wire::{FIXED64_BYTES, begin, len_delimited, push_bytes, push_fixed64, push_varint, varint_len};

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct WriteRequest {
    bytes: Vec<u8>,
    /// Names and bounds of metrics, by their number.
    names: Vec<Names>,
    own: Encoded,
    /// Labels of a sample up to its bound.
    prefix: Vec<u8>,
}

impl WriteRequest {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn push(&mut self, number: usize, metric: &Metric, labels: &Labels<'_>, point: &Point<'_>) {
        if number == self.names.len() {
            self.names
                .push(Names::new(metric, !metric.bounds.is_empty(), |name, value| {
                    let mut out = Vec::new();
                    push_label(&mut out, name.as_bytes(), value.as_bytes());
                    out
                }));
        }
        let names = &self.names[number];
        self.own.set(labels, |out, _, label| {
            with_text(label.value, |value| push_label(out, label.name, value));
        });
        let at = milliseconds(point.at);
        if metric.is_exponential() {
            self.push_exponential(number, point, at);
            return;
        }
        let mut prefixed = None;
        each_sample(metric, &point.value, |sampled, value| {
            let (name, bound) = names.of(sampled);
            // The same for all buckets, which are nearly all samples of a histogram.
            if !prefixed.is_some_and(|prefixed| std::ptr::eq(prefixed, name)) {
                self.prefix.clear();
                for part in [&*self.own.before_name, name, &self.own.before_bound] {
                    self.prefix.extend_from_slice(part);
                }
                prefixed = Some(name);
            }
            push_series(
                &mut self.bytes,
                [&self.prefix, bound, &self.own.behind],
                point.zero_at,
                (value, at),
            );
        });
    }
}

impl WriteRequest {
    /// `TimeSeries.histograms` 4, which a Prometheus takes although the specification of 1.0 has them not.
    fn push_exponential(&mut self, number: usize, point: &Point<'_>, at: u64) {
        let (name, _) = self.names[number].of(Sampled::Value);
        let labels = [
            &*self.own.before_name,
            name,
            &self.own.before_bound,
            &self.own.behind,
        ];
        self.prefix.clear();
        let zero = point.zero_at.map(|at| (&Value::Zero, at));
        let mut histogram = Vec::new();
        for (value, at) in zero.into_iter().chain([(&point.value, at)]) {
            push_histogram(&mut histogram, value, Layout::Exponential, at, None);
            push_bytes(&mut self.prefix, 4, &histogram);
        }
        let labels_len: usize = labels.iter().map(|part| part.len()).sum();
        begin(&mut self.bytes, 1, labels_len + self.prefix.len());
        for part in labels {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.extend_from_slice(&self.prefix);
    }
}

/// `WriteRequest.timeseries` 1. `TimeSeries`: labels 1, samples 2 (`Sample`: value 1, timestamp 2), in the order of their times.
#[inline]
fn push_series(out: &mut Vec<u8>, labels: [&[u8]; 3], zero_at: Option<u64>, (value, at): (u64, u64)) {
    let labels_len: usize = labels.iter().map(|part| part.len()).sum();
    let sample_len = |at| FIXED64_BYTES + varint_len(at);
    let zero_len = zero_at.map_or(0, |at| len_delimited(sample_len(at)));
    begin(out, 1, labels_len + zero_len + len_delimited(sample_len(at)));
    for part in labels {
        out.extend_from_slice(part);
    }
    let samples = zero_at.map(|at| (0, at)).into_iter().chain([(value, at)]);
    for (value, at) in samples {
        begin(out, 2, sample_len(at));
        push_fixed64(out, 1, value);
        push_varint(out, 2, at);
    }
}

/// `TimeSeries.labels` 1 (`Label`: name 1, value 2).
fn push_label(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    begin(out, 1, len_delimited(name.len()) + len_delimited(value.len()));
    begin(out, 1, name.len());
    push_label_name(out, name);
    push_bytes(out, 2, value);
}
