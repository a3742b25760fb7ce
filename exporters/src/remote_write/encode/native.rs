//! Histograms that are one sample: with custom bounds, or exponential. The message `Histogram` has the same field numbers in both
//! versions: `count_int` 1, sum 3, schema 4, `positive_spans` 11 (`BucketSpan`: length 2), `positive_deltas` 12, timestamp 15,
//! `custom_values` 16; `start_timestamp` 17 only in 2.0.

use flowtap_pipeline::{Exponential, HistogramPoint};

use super::sample::{STALE_MARKER, Value};
use crate::native;
use crate::wire::{begin, push_fixed64, push_packed_varints, push_varint, zigzag};

/// The schema of a histogram with custom bounds, as a `sint32`.
const CUSTOM_BUCKETS: u64 = zigzag(-53);

/// Buckets of a metric.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layout<'a> {
    /// With these bounds, encoded as `custom_values`.
    Custom(&'a [u8]),
    Exponential,
}

/// A `Histogram` in place of what is in `out`.
pub(super) fn push_histogram(
    out: &mut Vec<u8>,
    value: &Value<'_>,
    layout: Layout<'_>,
    at: u64,
    start: Option<u64>,
) {
    out.clear();
    let (count, sum) = match value {
        Value::Histogram(point) => (point.count(), point.sum.to_bits()),
        Value::Zero => (0, 0),
        // Its sum marks its end.
        Value::Number(_) | Value::Ended => (0, STALE_MARKER),
    };
    push_varint(out, 1, count);
    push_fixed64(out, 3, sum);
    match (value, layout) {
        (Value::Histogram(point), Layout::Custom(bounds)) => {
            push_varint(out, 4, CUSTOM_BUCKETS);
            push_buckets(out, point);
            push_varint(out, 15, at);
            out.extend_from_slice(bounds);
        }
        (Value::Zero, Layout::Custom(bounds)) => {
            push_varint(out, 4, CUSTOM_BUCKETS);
            push_varint(out, 15, at);
            out.extend_from_slice(bounds);
        }
        (Value::Histogram(point), Layout::Exponential) => {
            native::push(out, native::REMOTE_WRITE, point.buckets.exponential());
            push_varint(out, 15, at);
        }
        (Value::Zero, Layout::Exponential) => {
            native::push(out, native::REMOTE_WRITE, &Exponential::new());
            push_varint(out, 15, at);
        }
        (Value::Number(_) | Value::Ended, _) => push_varint(out, 15, at),
    }
    if let Some(start) = start {
        push_varint(out, 17, start);
    }
}

/// One span of all buckets up to the last that is not empty, and the difference of each to the one before.
fn push_buckets(out: &mut Vec<u8>, point: &HistogramPoint) {
    let buckets = point.buckets.explicit();
    let empty = buckets.iter().rev().take_while(|count| **count == 0);
    let buckets = &buckets[..buckets.len() - empty.count()];
    if buckets.is_empty() {
        return;
    }
    // Fewer than 128, so its length takes a byte.
    begin(out, 11, 2);
    push_varint(out, 2, buckets.len() as u64);
    let deltas = buckets.iter().scan(0, |before, count| {
        let delta = count.wrapping_sub(*before).cast_signed();
        *before = *count;
        Some(zigzag(delta))
    });
    push_packed_varints(out, 12, deltas);
}
