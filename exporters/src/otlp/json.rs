//! OTLP's JSON, on top of what the crate of OTLP's messages derives.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use serde::Serialize;
use serde_json::Value;

/// Encodes a request. A field that is not set is left out: the crate writes `null` for it (`min` and `max` of every histogram), which
/// protobuf's JSON allows a reader to take and the Collector's reader does not.
pub(super) fn encode(request: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut value = serde_json::to_value(request)?;
    remove_nulls(&mut value);
    serde_json::to_vec(&value).map(Bytes::from)
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// Decodes an answer. By hand: 64-bit numbers are strings in protobuf's JSON, and collectors write them as numbers as well.
pub(super) fn decode_response(answer: &[u8]) -> Result<ExportMetricsServiceResponse, serde_json::Error> {
    let answer: Value = if answer.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(answer)?
    };
    let partial = &answer["partialSuccess"];
    // By kind.
    let rejected = [&partial["rejectedDataPoints"], &partial["rejectedLogRecords"]];
    let rejected = rejected
        .into_iter()
        .find(|field| !field.is_null())
        .unwrap_or(&Value::Null);
    let rejected = rejected.as_i64().or_else(|| rejected.as_str()?.parse().ok());
    let message = partial["errorMessage"].as_str().unwrap_or_default();
    Ok(ExportMetricsServiceResponse {
        partial_success: partial.is_object().then(|| ExportMetricsPartialSuccess {
            rejected_data_points: rejected.unwrap_or(0),
            error_message: message.to_owned(),
        }),
    })
}
