//! The attributes of a series, from the bytes that they are rendered to once.

use flowtap_pipeline::{Family, FamilyKind, Series};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, NumberDataPoint};
use prost::Message;

/// In the order of the labels. They were encoded by ourselves: a test shows that they decode.
pub(crate) fn attributes(family: &Family, series: &Series) -> Vec<KeyValue> {
    let decoded = match family.kind {
        FamilyKind::Histogram(_) => {
            HistogramDataPoint::decode(&*series.attributes).map(|point| point.attributes)
        }
        FamilyKind::Counter | FamilyKind::Gauge => {
            NumberDataPoint::decode(&*series.attributes).map(|point| point.attributes)
        }
    };
    decoded.unwrap_or_default()
}
