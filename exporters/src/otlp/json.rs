//! OTLP's JSON, on top of what the crate of OTLP's messages derives.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use serde::Serialize;
use serde_json::{Map, Value};

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

/// Decodes an answer. By hand: 64-bit numbers are strings in protobuf's JSON, and collectors write them as numbers as well. `None` if it is
/// not one of OTLP: no object, or one with fields of which OTLP defines none, such as the `error` of a proxy.
pub(super) fn decode_response(answer: &[u8]) -> Option<ExportMetricsServiceResponse> {
    if answer.is_empty() {
        return Some(ExportMetricsServiceResponse::default());
    }
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let fields = answer.as_object()?;
    // protobuf's JSON has a reader take the names of the definition as well.
    let of = |fields: &Map<String, Value>, names: &[&str]| {
        let mut values = names.iter().filter_map(|name| fields.get(*name));
        values.find(|value| !value.is_null()).cloned()
    };
    let names = ["partialSuccess", "partial_success"];
    if !fields.is_empty() && !names.iter().any(|name| fields.contains_key(*name)) {
        return None;
    }
    let Some(partial) = of(fields, &names) else {
        return Some(ExportMetricsServiceResponse::default());
    };
    let partial = partial.as_object()?;
    // By kind.
    let rejected = of(
        partial,
        &[
            "rejectedDataPoints",
            "rejectedLogRecords",
            "rejected_data_points",
            "rejected_log_records",
        ],
    );
    let rejected = rejected.and_then(|count| count.as_i64().or_else(|| count.as_str()?.parse().ok()));
    let message = of(partial, &["errorMessage", "error_message"]);
    let message = message.as_ref().and_then(Value::as_str).unwrap_or_default();
    Some(ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: rejected.unwrap_or(0),
            error_message: message.to_owned(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_no_field_or_one_of_otlp() {
        let rejected = |text: &str| {
            let answer = decode_response(text.as_bytes())?;
            Some(answer.partial_success.map(|partial| partial.rejected_data_points))
        };
        for (text, expected) in [
            ("", None),
            ("{}", None),
            (" {}\n", None),
            ("{\"partialSuccess\":null}", None),
            ("{\"partialSuccess\":null,\"x\":1}", None),
            ("{\"partialSuccess\":{}}", Some(0)),
            (
                "{\"x\":1,\"partialSuccess\":{\"rejectedDataPoints\":\"2\"}}",
                Some(2),
            ),
            ("{\"partialSuccess\":{\"rejectedLogRecords\":2}}", Some(2)),
            ("{\"partial_success\":{\"rejected_data_points\":\"2\"}}", Some(2)),
        ] {
            assert_eq!(rejected(text), Some(expected), "{text}");
        }
        for text in [
            "{\"error\":\"login required\",\"code\":401}",
            "{\"title\":\"no\"}",
            "{\"partialSuccess\":\"no\"}",
            "[]",
            "null",
            "\"ok\"",
            "0",
            "<html>",
        ] {
            assert_eq!(rejected(text), None, "{text}");
        }
    }
}
