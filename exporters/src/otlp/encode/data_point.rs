//! The messages of data points, and their lengths.

use flowtap_pipeline::{Exponential, FamilyKind, HISTOGRAM_BUCKETS, Series, Timestamp, ZERO_THRESHOLD};

use super::head::Head;
use crate::otlp::deltas::HistogramPart;
use crate::wire::{
    FIXED64_BYTES, begin, len_delimited, packed_len, push_bytes, push_fixed64, push_packed_varints,
    push_varint, varint_len, zigzag,
};

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`
const NO_RECORDED_VALUE: u64 = 1;

/// The counts of a histogram's buckets.
const BUCKET_BYTES: usize = 8;

/// `NumberDataPoint`: start 2, time 3, the value in its field, attributes 7.
pub(super) fn push_number(
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
pub(super) fn push_histogram(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    series: &Series,
    at: Timestamp,
    part: &HistogramPart,
) {
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
pub(super) fn push_exponential(
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

pub(super) fn exponential_len(head: &Head<'_>, series: &Series, buckets: &Exponential) -> usize {
    let positive = if buckets.counts().is_empty() {
        0
    } else {
        len_delimited(positive_len(buckets))
    };
    6 * FIXED64_BYTES + varint_len(zigzag(buckets.scale().into())) + positive + attributes_len(head, series)
}

/// A point of a series that has ended: flags 8 of a `NumberDataPoint`, 10 of both data points of histograms. A histogram has a sum, buckets
/// and their bounds as well, all of them 0: a Prometheus ends only the series `_sum` and `_bucket` that the point still has.
pub(super) fn push_ended(out: &mut Vec<u8>, head: &Head<'_>, (at, series): &(Timestamp, Series)) {
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

pub(super) fn number_len(head: &Head<'_>, series: &Series) -> usize {
    3 * FIXED64_BYTES + attributes_len(head, series)
}

pub(super) fn histogram_len(head: &Head<'_>, series: &Series) -> usize {
    4 * FIXED64_BYTES
        + len_delimited(head.buckets * BUCKET_BYTES)
        + head.bounds.len()
        + attributes_len(head, series)
}

/// Two times, and flags, which take a byte after their key; of a histogram, what [`push_ended`] adds.
pub(super) fn ended_len(head: &Head<'_>, series: &Series) -> usize {
    let histogram = match head.family.kind {
        FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => 0,
        FamilyKind::Histogram(_) => {
            FIXED64_BYTES + len_delimited(head.buckets * BUCKET_BYTES) + head.bounds.len()
        }
        FamilyKind::ExponentialHistogram => FIXED64_BYTES,
    };
    2 * FIXED64_BYTES + 2 + histogram + attributes_len(head, series)
}
