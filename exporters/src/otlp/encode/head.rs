//! The beginning and the end that every metric of a family has.

use flowtap_pipeline::{Family, FamilyKind};
use prost::Message;

use crate::naming::{full_name, pipeline_attribute};
use crate::otlp::envelope::{field, text};
use crate::wire::{push_bytes, push_varint};

/// `AGGREGATION_TEMPORALITY_DELTA`
const DELTA: u64 = 1;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`
const CUMULATIVE: u64 = 2;

/// Common beginning and end of every metric of a family.
pub(super) struct Head<'a> {
    pub(super) family: &'a Family,
    /// `Metric`: name 1, description 2, unit 3.
    pub(super) bytes: Vec<u8>,
    /// `Metric`: gauge 5, sum 7, histogram 9, `exponential_histogram` 10.
    pub(super) data_field: u32,
    /// Whether it is the last of these.
    pub(super) is_exponential: bool,
    /// Sum and Histogram: `aggregation_temporality` 2; Sum: `is_monotonic` 3.
    pub(super) behind: Vec<u8>,
    /// Buckets of a histogram, the one without bound included.
    pub(super) buckets: usize,
    /// `explicit_bounds`, encoded.
    pub(super) bounds: Vec<u8>,
    /// The attribute with the pipeline's name, if points have one: field 7 of a `NumberDataPoint`, 9 of a `HistogramDataPoint`, 1 of an
    /// `ExponentialHistogramDataPoint`.
    pub(super) pipeline: Vec<u8>,
}

impl<'a> Head<'a> {
    pub(super) fn new(namespace: &str, family: &'a Family, delta: bool, pipeline: Option<&str>) -> Self {
        let mut bytes = Vec::new();
        push_bytes(&mut bytes, 1, full_name(namespace, family).as_bytes());
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
