//! Exponential buckets as the native histograms of Prometheus, whose messages for scrapes and for remote write differ in their field
//! numbers only.

use flowtap_pipeline::{Exponential, ZERO_THRESHOLD};

use crate::wire::{
    FIXED64_BYTES, begin, len_delimited, packed_len, push_fixed64, push_packed_varints, push_varint,
    varint_len, zigzag,
};

/// Numbers of the fields of a message, all below 16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub(crate) schema: u32,
    pub(crate) zero_threshold: u32,
    pub(crate) zero_count: u32,
    pub(crate) positive_span: u32,
    pub(crate) positive_delta: u32,
}

/// `io.prometheus.client.Histogram` (`prometheus/client_model`, `metrics.proto`).
pub(crate) const SCRAPE: Fields = Fields {
    schema: 5,
    zero_threshold: 6,
    zero_count: 7,
    positive_span: 12,
    positive_delta: 13,
};

/// `Histogram` of remote write 1.0 (`prometheus/prompb/types.proto`) and 2.0, which has the same numbers.
#[cfg(feature = "remote-write")]
pub(crate) const REMOTE_WRITE: Fields = Fields {
    schema: 4,
    zero_threshold: 5,
    zero_count: 6,
    positive_span: 11,
    positive_delta: 12,
};

/// Appends the buckets: one span (`BucketSpan`: offset 1, length 2) of all from the first to the last that is not empty, and the
/// difference of each to the one before.
pub(crate) fn push(out: &mut Vec<u8>, fields: Fields, buckets: &Exponential) {
    push_varint(out, fields.schema, zigzag(buckets.scale().into()));
    push_fixed64(out, fields.zero_threshold, ZERO_THRESHOLD.to_bits());
    push_varint(out, fields.zero_count, buckets.zero_count());
    if let Some((offset, length)) = span(buckets) {
        begin(out, fields.positive_span, varint_len(offset) + varint_len(length));
        push_varint(out, 1, offset);
        push_varint(out, 2, length);
        push_packed_varints(out, fields.positive_delta, deltas(buckets));
    }
}

/// Bytes of the same.
pub(crate) fn len(buckets: &Exponential) -> usize {
    let head = varint_len(zigzag(buckets.scale().into())) + FIXED64_BYTES + varint_len(buckets.zero_count());
    head + span(buckets).map_or(0, |(offset, length)| {
        len_delimited(varint_len(offset) + varint_len(length)) + len_delimited(packed_len(deltas(buckets)))
    })
}

/// Offset and length of the span. There a bucket's index is that of its upper bound.
fn span(buckets: &Exponential) -> Option<(u64, u64)> {
    let length = buckets.counts().len() as u64;
    (length > 0).then(|| (zigzag(i64::from(buckets.offset()) + 1), length))
}

fn deltas(buckets: &Exponential) -> impl Iterator<Item = u64> + Clone {
    buckets.counts().iter().scan(0, |before, count| {
        let delta = count.wrapping_sub(*before).cast_signed();
        *before = *count;
        Some(zigzag(delta))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Histogram {
        #[prost(sint32, tag = "5")]
        schema: i32,
        #[prost(double, tag = "6")]
        zero_threshold: f64,
        #[prost(uint64, tag = "7")]
        zero_count: u64,
        #[prost(message, repeated, tag = "12")]
        positive_span: Vec<Span>,
        #[prost(sint64, repeated, tag = "13")]
        positive_delta: Vec<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Span {
        #[prost(sint32, tag = "1")]
        offset: i32,
        #[prost(uint32, tag = "2")]
        length: u32,
    }

    #[test]
    fn a_bucket_has_the_index_of_its_upper_bound_and_the_difference_to_the_one_before() {
        let mut buckets = Exponential::new();
        for value in [0.0, 1.0, 1.0, 1.01, 0.5] {
            buckets.record(value);
        }
        let mut bytes = Vec::new();
        push(&mut bytes, SCRAPE, &buckets);
        assert_eq!(bytes.len(), len(&buckets));
        let decoded: Histogram = prost::Message::decode(&*bytes).unwrap();
        assert_eq!((decoded.schema, decoded.zero_count), (5, 1));
        assert_eq!(decoded.zero_threshold.to_bits(), ZERO_THRESHOLD.to_bits());
        // 0.5 is 2^-1: 32 buckets below that of 1, which is 2^0.
        assert_eq!(
            decoded.positive_span,
            [Span {
                offset: -32,
                length: 34
            }]
        );
        let mut counts = vec![0; 34];
        (counts[0], counts[32], counts[33]) = (1, 2, 1);
        let decoded: Vec<_> = decoded
            .positive_delta
            .iter()
            .scan(0, |count, delta| {
                *count += delta;
                Some(*count)
            })
            .collect();
        assert_eq!(decoded, counts);
        let mut empty = Vec::new();
        push(&mut empty, REMOTE_WRITE, &Exponential::new());
        assert_eq!(empty.len(), len(&Exponential::new()));
    }
}
