//! Rows of log records: common columns, then one for each field of the catalogue ([`LogField`](flowtap_pipeline::LogField)).

use std::io;

use flowtap_pipeline::log::LOG_SCHEMA_VERSION;
use flowtap_pipeline::{LogBatch, LogRecord, LogValue, Timestamp};
use serde::Serialize;

use super::row::{Origin, as_text};

/// The columns before those of fields. Field names are the keys of the JSON objects, and the columns of Parquet.
#[derive(Debug, Serialize)]
pub(super) struct Head<'a> {
    /// End of the time that the record covers.
    #[serde(serialize_with = "as_text")]
    pub(super) timestamp: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub(super) interval_start: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub(super) connection_start: Timestamp,
    pub(super) host: &'a str,
    pub(super) instance: &'a str,
    /// Of flowtap.
    pub(super) version: &'static str,
    pub(super) schema_version: u8,
    pub(super) pipeline: &'a str,
    pub(super) event: &'static str,
    pub(super) severity: &'static str,
}

impl<'a> Head<'a> {
    pub(super) fn new(origin: &'a Origin, batch: &'a LogBatch, record: &LogRecord) -> Self {
        let part = record.part();
        Self {
            timestamp: record.at,
            interval_start: part.map_or(record.at, |part| part.interval_start(record.at)),
            connection_start: part.map_or(record.at, |part| part.started(record.at)),
            host: &origin.host,
            instance: &origin.instance,
            version: env!("CARGO_PKG_VERSION"),
            schema_version: LOG_SCHEMA_VERSION,
            pipeline: &batch.pipeline,
            event: record.event_name(),
            severity: record.severity().as_str(),
        }
    }
}

/// Appends `record` as a line.
pub(super) fn push_line(
    out: &mut Vec<u8>,
    origin: &Origin,
    batch: &LogBatch,
    record: &LogRecord,
) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Head::new(origin, batch, record))?;
    // Its fields stand in the same object.
    out.pop();
    let mut outcome = Ok(());
    record.visit(|field, value| {
        if outcome.is_ok() {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(field.column().as_bytes());
            out.extend_from_slice(b"\":");
            outcome = push_value(out, &value);
        }
    });
    outcome?;
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn push_value(out: &mut Vec<u8>, value: &LogValue<'_>) -> io::Result<()> {
    match value {
        LogValue::Text(text) => serde_json::to_writer(out, text)?,
        LogValue::Address(address) => serde_json::to_writer(out, address)?,
        LogValue::Integer(number) => serde_json::to_writer(out, number)?,
        LogValue::Number(number) => serde_json::to_writer(out, number)?,
        LogValue::Flag(flag) => serde_json::to_writer(out, flag)?,
    }
    Ok(())
}
