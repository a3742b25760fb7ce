//! Rows of a batch of columns, from Parquet or from a journal.

use std::fs::File;
use std::io;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use flowtap_pipeline::LogField;

use super::query::{Query, matches};
use super::row::Row;
use super::statistics::{Kind, Statistics};
use crate::file::journal::Batches;

/// The column of the time, which is that of no field.
pub(super) const TIME: &str = "timestamp";

/// The columns of a batch, those that it has.
pub(super) struct Columns<'a> {
    at: Option<&'a TimestampMicrosecondArray>,
    texts: [Option<&'a StringArray>; TEXTS.len()],
    integers: [Option<&'a Int64Array>; INTEGERS.len()],
    numbers: [Option<&'a Float64Array>; NUMBERS.len()],
    host: Option<&'a StringArray>,
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

impl<'a> Columns<'a> {
    pub(super) fn of(batch: &'a RecordBatch) -> Self {
        let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
        let integer = |field: LogField| {
            batch
                .column_by_name(field.column())?
                .as_primitive_opt::<Int64Type>()
        };
        let number = |field: LogField| {
            batch
                .column_by_name(field.column())?
                .as_primitive_opt::<Float64Type>()
        };
        let time = |name: &str| {
            batch
                .column_by_name(name)?
                .as_primitive_opt::<TimestampMicrosecondType>()
        };
        Self {
            at: time(TIME),
            texts: TEXTS.map(|field| text(field.column())),
            integers: INTEGERS.map(integer),
            numbers: NUMBERS.map(number),
            host: text("host"),
        }
    }

    pub(super) fn row(&self, index: usize) -> Row<'a> {
        let text = |column: Option<&'a StringArray>| match column {
            Some(column) if column.is_valid(index) => column.value(index),
            _ => "",
        };
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
        ] = self.texts.map(text);
        let [
            source_port,
            destination_port,
            source_bytes,
            destination_bytes,
            retransmits,
        ] = self.integers.map(integer);
        let [duration, min_rtt] = self.numbers.map(number);
        let mut row = Row {
            at: self.at.map_or(0, |at| at.value(index)),
            host: text(self.host),
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

/// Calls `each` with the rows of a journal that match.
pub(super) fn scan_journal(
    file: File,
    query: &Query,
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> io::Result<Kind> {
    let Some(batches) = Batches::new(file)? else {
        return Ok(Kind::Other);
    };
    if batches.schema().column_with_name(TIME).is_none() {
        return Ok(Kind::Other);
    }
    for batch in batches {
        let columns = Columns::of(&batch);
        statistics.records += batch.num_rows() as u64;
        statistics.read += batch.num_rows() as u64;
        for row in (0..batch.num_rows()).map(|index| columns.row(index)) {
            if matches(query, &row) {
                statistics.matching += 1;
                each(&row);
            }
        }
    }
    Ok(Kind::Logs)
}
