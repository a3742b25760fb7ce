//! Batches of log records as `ExportLogsServiceRequest` bytes (`opentelemetry/proto/logs/v1/logs.proto`).
//!
//! Written by hand, as metrics are: an attribute's name and type are known from the catalogue of fields, so no message is built for
//! each. Field numbers stand beside the fields; a test decodes the bytes with the messages of `opentelemetry-proto`.

use bytes::Bytes;
use flowtap_pipeline::resource::SCHEMA_URL;
use flowtap_pipeline::{LogBatch, LogRecord, LogValue, PipelineKind, Timestamp};

use super::envelope::{encoded_resource, encoded_scope, field};
use crate::push::Request;
use crate::wire::{begin, len_delimited, push_bytes, push_fixed64, push_varint};

/// The part that does not change from batch to batch.
#[derive(Debug)]
pub(super) struct LogEncoder {
    max_records: u64,
    max_bytes: usize,
    /// `ResourceLogs.resource`, encoded with key and length.
    resource: Vec<u8>,
    /// `ScopeLogs.scope`, like the resource.
    scope: Vec<u8>,
    /// `ResourceLogs.schema_url`.
    schema_url: Vec<u8>,
}

impl LogEncoder {
    pub(super) fn new(max_records: u64, max_bytes: usize, resource: &flowtap_pipeline::Resource) -> Self {
        Self {
            max_records,
            max_bytes,
            resource: encoded_resource(resource),
            scope: encoded_scope(),
            schema_url: field(3, SCHEMA_URL.as_bytes()),
        }
    }

    /// The next request of `batch`, from the record at `next` on, which moves past its last; `None` after the last.
    pub(super) fn next_part(&self, batch: &LogBatch, next: &mut usize) -> Option<Request> {
        let fixed = self.resource.len() + self.scope.len() + self.schema_url.len();
        // Keys and lengths around them.
        let room = self.max_bytes.saturating_sub(fixed + 32);
        let (mut records, mut items) = (Vec::new(), 0);
        let mut record = Vec::new();
        for log in &batch.records[*next..] {
            record.clear();
            push_record(&mut record, log, batch.at);
            let full = items >= self.max_records || records.len() + len_delimited(record.len()) > room;
            // A request has a record at least, whatever its resource takes.
            if full && items > 0 {
                break;
            }
            // `ScopeLogs.log_records`
            push_bytes(&mut records, 2, &record);
            items += 1;
        }
        if items == 0 {
            return None;
        }
        *next += usize::try_from(items).unwrap_or(usize::MAX);
        let scope_len = self.scope.len() + records.len();
        let resource_len = self.resource.len() + len_delimited(scope_len) + self.schema_url.len();
        let mut body = Vec::with_capacity(len_delimited(resource_len));
        // `ExportLogsServiceRequest.resource_logs`, `ResourceLogs.scope_logs`
        begin(&mut body, 1, resource_len);
        body.extend_from_slice(&self.resource);
        begin(&mut body, 2, scope_len);
        body.extend_from_slice(&self.scope);
        body.extend_from_slice(&records);
        body.extend_from_slice(&self.schema_url);
        Some(Request {
            body: Bytes::from(body),
            kind: PipelineKind::Logs,
            items,
            last: batch.last,
        })
    }
}

/// `LogRecord { time_unix_nano, severity_number, severity_text, body, attributes, observed_time_unix_nano, event_name }`
fn push_record(out: &mut Vec<u8>, log: &LogRecord, observed: Timestamp) {
    let severity = log.severity();
    push_fixed64(out, 1, log.at.as_nanos());
    push_varint(out, 2, severity as u64);
    push_bytes(out, 3, severity.as_str().as_bytes());
    let mut value = Vec::new();
    if let Some(message) = log.message() {
        push_bytes(&mut value, 1, message.as_bytes());
        push_bytes(out, 5, &value);
    }
    log.visit(|attribute, of| {
        value.clear();
        push_value(&mut value, &of);
        let name = attribute.name().as_bytes();
        // `KeyValue { key, value }`
        begin(out, 6, len_delimited(name.len()) + len_delimited(value.len()));
        push_bytes(out, 1, name);
        push_bytes(out, 2, &value);
    });
    push_fixed64(out, 11, observed.as_nanos());
    push_bytes(out, 12, log.event_name().as_bytes());
}

/// `AnyValue`
fn push_value(out: &mut Vec<u8>, value: &LogValue<'_>) {
    match value {
        LogValue::Text(text) => push_bytes(out, 1, text.as_bytes()),
        LogValue::Address(address) => push_bytes(out, 1, address.to_string().as_bytes()),
        LogValue::Flag(flag) => push_varint(out, 2, u64::from(*flag)),
        // Two's complement, as protobuf has `int64`.
        LogValue::Integer(number) => push_varint(out, 3, number.cast_unsigned()),
        LogValue::Number(number) => push_fixed64(out, 4, number.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message;

    use super::*;
    use crate::testing::{logs, resource};

    fn parts(max_records: u64, max_bytes: usize) -> Vec<Request> {
        let encoder = LogEncoder::new(max_records, max_bytes, &resource());
        let (batch, mut next) = (logs(), 0);
        std::iter::from_fn(|| encoder.next_part(&batch, &mut next)).collect()
    }

    #[test]
    fn a_request_is_what_the_messages_of_opentelemetry_decode() {
        let parts = parts(100, 1 << 20);
        assert_eq!((parts.len(), parts[0].items), (1, 2));
        let request = ExportLogsServiceRequest::decode(parts[0].body.clone()).unwrap();
        let of_resource = &request.resource_logs[0];
        let attributes = &of_resource.resource.as_ref().unwrap().attributes;
        assert!(attributes.iter().any(|attribute| attribute.key == "host.name"));
        assert_eq!(of_resource.schema_url, SCHEMA_URL);
        let scope = &of_resource.scope_logs[0];
        assert_eq!(scope.scope.as_ref().unwrap().name, "flowtap");
        let [closed, failed] = &scope.log_records[..] else {
            panic!("{} records", scope.log_records.len());
        };
        assert_eq!(closed.event_name, "flowtap.tcp.connection");
        assert_eq!(
            (closed.time_unix_nano, closed.observed_time_unix_nano),
            (5_000_000_000, 5_000_000_000)
        );
        assert_eq!((closed.severity_number, &*closed.severity_text), (9, "INFO"));
        assert_eq!((failed.severity_number, &*failed.severity_text), (13, "WARN"));
        let value = |name: &str| {
            let attribute = closed.attributes.iter().find(|attribute| attribute.key == name);
            attribute.unwrap().value.as_ref().unwrap().value.clone().unwrap()
        };
        assert_eq!(
            value("source.address"),
            Value::StringValue("192.0.2.1".to_owned())
        );
        assert_eq!(value("destination.port"), Value::IntValue(443));
        assert_eq!(value("flowtap.destination.bytes"), Value::IntValue(3_000));
        assert_eq!(value("flowtap.connection.duration"), Value::DoubleValue(2.5));
        assert_eq!(value("flowtap.connection.adopted"), Value::BoolValue(false));
        let reason = failed
            .attributes
            .iter()
            .find(|attribute| attribute.key == "error.type");
        let reason = reason.unwrap().value.as_ref().unwrap().value.clone();
        assert_eq!(reason, Some(Value::StringValue("refused".to_owned())));
    }

    #[test]
    fn a_finding_has_its_sentence_as_the_body() {
        let mut batch = logs();
        let flow = batch.records[0].flow.clone();
        batch.records = vec![LogRecord::from(&flowtap_pipeline::FindingRecord {
            flow,
            kind: flowtap_pipeline::FindingKind::Beacon,
            at: Timestamp::from_nanos(7),
            subject: "curl".into(),
            object: "192.0.2.0/24".into(),
            text: "curl is in touch with 192.0.2.0/24".into(),
            numbers: vec![("period_seconds", 60.0)],
        })];
        let encoder = LogEncoder::new(100, 1 << 20, &resource());
        let part = encoder.next_part(&batch, &mut 0).unwrap();
        let request = ExportLogsServiceRequest::decode(part.body).unwrap();
        let record = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!(
            (&*record.event_name, record.severity_number),
            ("flowtap.finding", 13)
        );
        let text = |value: &Option<opentelemetry_proto::tonic::common::v1::AnyValue>| match value
            .as_ref()
            .and_then(|value| value.value.clone())
        {
            Some(Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(&record.body), "curl is in touch with 192.0.2.0/24");
        let kind = record
            .attributes
            .iter()
            .find(|attribute| attribute.key == "flowtap.finding.kind");
        assert_eq!(text(&kind.unwrap().value), "beacon");
    }

    #[test]
    fn a_batch_is_split_at_both_limits() {
        for (max_records, max_bytes) in [(1, 1 << 20), (100, 1_500)] {
            let parts = parts(max_records, max_bytes);
            assert_eq!(parts.iter().map(|part| part.items).collect::<Vec<_>>(), [1, 1]);
        }
    }
}
