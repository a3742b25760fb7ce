//! Rows of a batch of columns, from Parquet or from a journal.

use std::io;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_empty_array,
};
use arrow_schema::{DataType, Schema, TimeUnit};
use flowtap_pipeline::LogField;

use super::guard::guarded;
use super::query::{Query, offer};
use super::row::Row;
use super::statistics::{Kind, Scanned, Statistics, invalid};
use crate::file::frames::Loss;
use crate::file::journal::Batches;

/// The column of the time, which is that of no field.
pub(super) const TIME: &str = "timestamp";

/// The column of the event's name, the same.
pub(super) const EVENT: &str = "event";

/// The column of the node's name, the same.
pub(super) const HOST: &str = "host";

/// The column of the pipeline, the same.
pub(super) const PIPELINE: &str = "pipeline";

/// Columns without which a file of records would be read as something that it is not.
const REQUIRED: [&str; 7] = [
    EVENT,
    LogField::Role.column(),
    LogField::Outcome.column(),
    LogField::SourceAddress.column(),
    LogField::DestinationAddress.column(),
    LogField::SourceBytes.column(),
    LogField::DestinationBytes.column(),
];

/// The columns of a batch, those that it has. Other programs write them in other types: numbers and times are converted.
pub(super) struct Columns {
    at: Option<TimestampMicrosecondArray>,
    texts: [Option<StringArray>; TEXTS.len()],
    integers: [Option<Int64Array>; INTEGERS.len()],
    numbers: [Option<Float64Array>; NUMBERS.len()],
    event: Option<StringArray>,
    host: Option<StringArray>,
    pipeline: Option<StringArray>,
}

const TEXTS: [LogField; 11] = [
    LogField::SourceAddress,
    LogField::DestinationAddress,
    LogField::Role,
    LogField::Outcome,
    LogField::Error,
    LogField::Comm,
    LogField::LocalNamespace,
    LogField::LocalWorkload,
    LogField::PeerClass,
    LogField::PeerName,
    LogField::PeerWorkload,
];

const INTEGERS: [LogField; 5] = [
    LogField::SourcePort,
    LogField::DestinationPort,
    LogField::SourceBytes,
    LogField::DestinationBytes,
    LogField::Retransmits,
];

const NUMBERS: [LogField; 2] = [LogField::Duration, LogField::MinRtt];

impl Columns {
    pub(super) fn of(batch: &RecordBatch) -> Self {
        let column = |name: &str| batch.column_by_name(name).map(|column| &**column);
        Self {
            at: column(TIME).and_then(times),
            texts: TEXTS.map(|field| texts(column(field.column())?)),
            integers: INTEGERS.map(|field| integers(column(field.column())?)),
            numbers: NUMBERS.map(|field| numbers(column(field.column())?)),
            event: column(EVENT).and_then(texts),
            host: column(HOST).and_then(texts),
            pipeline: column(PIPELINE).and_then(texts),
        }
    }

    /// Whether the row has a time.
    pub(super) fn is_timed(&self, index: usize) -> bool {
        self.at.as_ref().is_some_and(|at| is_timed(at, index))
    }

    pub(super) fn row(&self, index: usize) -> Row<'_> {
        fn text(column: Option<&StringArray>, index: usize) -> &str {
            match column {
                Some(column) if column.is_valid(index) => column.value(index),
                _ => "",
            }
        }
        let text = |column| text(column, index);
        let integer = |column: Option<&Int64Array>| match column {
            Some(column) if column.is_valid(index) => column.value(index),
            _ => 0,
        };
        let number = |column: Option<&Float64Array>| match column {
            Some(column) if column.is_valid(index) => column.value(index),
            _ => 0.0,
        };
        let [
            source,
            destination,
            role,
            outcome,
            error,
            comm,
            namespace,
            workload,
            class,
            name,
            peer_workload,
        ] = self.texts.each_ref().map(|column| text(column.as_ref()));
        let [
            source_port,
            destination_port,
            source_bytes,
            destination_bytes,
            retransmits,
        ] = self.integers.each_ref().map(|column| integer(column.as_ref()));
        let [duration, min_rtt] = self.numbers.each_ref().map(|column| number(column.as_ref()));
        let mut row = Row {
            event: text(self.event.as_ref()),
            at: self.at.as_ref().map_or(0, |at| at.value(index)),
            host: text(self.host.as_ref()),
            pipeline: text(self.pipeline.as_ref()),
            local_address: source,
            local_port: source_port,
            peer_address: destination,
            peer_port: destination_port,
            is_client: role != "server",
            outcome,
            error,
            sent: source_bytes,
            received: destination_bytes,
            retransmits,
            duration,
            min_rtt,
            comm,
            local_namespace: namespace,
            local_workload: workload,
            peer_class: class,
            peer_name: name,
            peer_workload,
        };
        row.orient();
        row
    }
}

/// Whether a file with this schema has log records.
///
/// # Errors
/// A column is missing, or of a type that can't be converted.
pub(super) fn check(schema: &Schema) -> io::Result<Kind> {
    let is_missing = |name: &&&str| schema.column_with_name(name).is_none();
    let has_time = schema.column_with_name(TIME).is_some();
    let missing = REQUIRED.iter().find(is_missing);
    if !has_time && missing.is_some() {
        return Ok(Kind::Other);
    }
    if let Some(missing) = missing.or((!has_time).then_some(&TIME)) {
        return Err(invalid(format!(
            "it has no column `{missing}`; hint: flow logs that were rewritten must keep the exporter's columns"
        )));
    }
    let expect = |name: &str, expected: &str, can_convert: fn(&dyn Array) -> bool| {
        let Some((_, field)) = schema.column_with_name(name) else {
            // A file of an earlier version has fewer.
            return Ok(());
        };
        let data_type = field.data_type();
        if can_convert(&*new_empty_array(data_type)) {
            return Ok(());
        }
        Err(invalid(format!(
            "column `{name}` has the type {data_type}; expected {expected}; hint: flow logs that were rewritten must keep the exporter's types"
        )))
    };
    expect(TIME, "a timestamp", |array| times(array).is_some())?;
    for name in TEXTS
        .map(LogField::column)
        .into_iter()
        .chain([EVENT, HOST, PIPELINE])
    {
        expect(name, "a string", |array| texts(array).is_some())?;
    }
    for field in INTEGERS {
        expect(field.column(), "an integer", |array| integers(array).is_some())?;
    }
    for field in NUMBERS {
        expect(field.column(), "a number", |array| numbers(array).is_some())?;
    }
    Ok(Kind::Logs)
}

/// The last microsecond of the year 9999, in microseconds since 1970: text has no later time (RFC 3339).
const LAST: i64 = 253_402_300_799_999_999;

/// Whether a time, in microseconds since 1970, is one that a record can have.
pub(super) const fn is_time(at: i64) -> bool {
    at >= 0 && at <= LAST
}

/// Whether the row has a time.
pub(super) fn is_timed(times: &TimestampMicrosecondArray, index: usize) -> bool {
    times.is_valid(index) && is_time(times.value(index))
}

/// A time of a column with this unit, in microseconds.
pub(super) const fn in_micros(unit: TimeUnit, time: i64) -> i64 {
    match unit {
        TimeUnit::Second => time.saturating_mul(1_000_000),
        TimeUnit::Millisecond => time.saturating_mul(1000),
        TimeUnit::Microsecond => time,
        TimeUnit::Nanosecond => time.div_euclid(1000),
    }
}

/// The values of a column of times, which are in UTC if it has no time zone. `None` if it is of another type.
pub(super) fn times(array: &dyn Array) -> Option<TimestampMicrosecondArray> {
    let DataType::Timestamp(unit, _) = array.data_type() else {
        return None;
    };
    let convert = |time| in_micros(*unit, time);
    Some(match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().unary(convert),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().unary(convert),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().clone(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().unary(convert),
    })
}

/// The same of texts. Some programs do not mark a column of bytes as text.
fn texts(array: &dyn Array) -> Option<StringArray> {
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().clone(),
        DataType::Binary => {
            let values = array.as_binary::<i32>().iter();
            values.map(|value| value.map(String::from_utf8_lossy)).collect()
        }
        _ => return None,
    })
}

/// The same of integers of any width.
fn integers(array: &dyn Array) -> Option<Int64Array> {
    Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().unary(i64::from),
        DataType::Int16 => array.as_primitive::<Int16Type>().unary(i64::from),
        DataType::Int32 => array.as_primitive::<Int32Type>().unary(i64::from),
        DataType::Int64 => array.as_primitive::<Int64Type>().clone(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().unary(i64::from),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().unary(i64::from),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().unary(i64::from),
        DataType::UInt64 => {
            let saturate = |value| i64::try_from(value).unwrap_or(i64::MAX);
            array.as_primitive::<UInt64Type>().unary(saturate)
        }
        _ => return None,
    })
}

/// The same of numbers.
#[expect(clippy::cast_precision_loss, reason = "seconds")]
fn numbers(array: &dyn Array) -> Option<Float64Array> {
    Some(match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().unary(f64::from),
        DataType::Float64 => array.as_primitive::<Float64Type>().clone(),
        _ => integers(array)?.unary(|value| value as f64),
    })
}

/// Rows of a batch that have no time, and were passed over.
pub(super) fn offer_all(
    batch: &RecordBatch,
    query: &Query,
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> u64 {
    let columns = Columns::of(batch);
    let mut untimed = 0;
    for index in 0..batch.num_rows() {
        if columns.is_timed(index) {
            offer(query, &columns.row(index), statistics, each);
        } else {
            untimed += 1;
        }
    }
    untimed
}

/// Log records, of which some have no time.
pub(super) fn logs(untimed: u64) -> Scanned {
    Scanned {
        kind: Kind::Logs,
        damage: (untimed > 0).then(|| format!("{untimed} records without a time from 1970 to 9999 not read")),
    }
}

/// Calls `each` with the rows of a journal that match.
pub(super) fn scan_journal(
    mut batches: Batches,
    query: &Query,
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> io::Result<(Scanned, Loss)> {
    let Some(schema) = batches.schema() else {
        return Ok((Scanned::OTHER, batches.loss()));
    };
    let kind = check(&schema)?;
    let mut untimed = 0;
    while let Some(batch) = guarded(|| batches.next().transpose()).transpose() {
        let batch = batch?;
        // Damage in a journal of series is reported as well.
        if kind == Kind::Logs {
            statistics.records += batch.num_rows() as u64;
            statistics.read += batch.num_rows() as u64;
            untimed += offer_all(&batch, query, statistics, each);
        }
    }
    let scanned = match kind {
        Kind::Logs => logs(untimed),
        Kind::Other => Scanned::OTHER,
    };
    Ok((scanned, batches.loss()))
}
