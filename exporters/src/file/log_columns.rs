//! Log records in Parquet: the common columns, and one for each field, null where a record has no value.

use std::sync::{Arc, LazyLock};

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use flowtap_pipeline::log::LogFieldType;
use flowtap_pipeline::{LogBatch, LogField, LogRecord, LogValue};

use super::log_row::Head;
use super::row::Origin;
use super::times::{micros, time_type};

const TIMES: [&str; 3] = ["timestamp", "interval_start", "connection_start"];
const TEXTS: [&str; 6] = ["host", "instance", "version", "pipeline", "event", "severity"];

pub(super) static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let times = TIMES.map(|name| Field::new(name, time_type(), false));
    let texts = TEXTS.map(|name| Field::new(name, DataType::Utf8, false));
    let version = Field::new("schema_version", DataType::Int64, false);
    let fields = LogField::ALL.iter().map(|field| {
        let data_type = match field.value_type() {
            LogFieldType::Text => DataType::Utf8,
            LogFieldType::Integer => DataType::Int64,
            LogFieldType::Number => DataType::Float64,
            LogFieldType::Flag => DataType::Boolean,
        };
        Field::new(field.column(), data_type, true)
    });
    let all: Vec<_> = times
        .into_iter()
        .chain(texts)
        .chain([version])
        .chain(fields)
        .collect();
    Arc::new(Schema::new(all))
});

/// The column of a field that is being filled.
enum Column {
    Text(StringBuilder),
    Integer(Int64Builder),
    Number(Float64Builder),
    Flag(BooleanBuilder),
}

impl Column {
    fn of(field: LogField) -> Self {
        match field.value_type() {
            LogFieldType::Text => Self::Text(StringBuilder::new()),
            LogFieldType::Integer => Self::Integer(Int64Builder::new()),
            LogFieldType::Number => Self::Number(Float64Builder::new()),
            LogFieldType::Flag => Self::Flag(BooleanBuilder::new()),
        }
    }

    /// A value of another type than the column's, which a test rules out, is null.
    fn push(&mut self, value: Option<LogValue<'_>>) {
        match (self, value) {
            (Self::Text(column), Some(LogValue::Text(text))) => column.append_value(text),
            (Self::Text(column), Some(LogValue::Address(address))) => {
                column.append_value(address.to_string());
            }
            (Self::Text(column), _) => column.append_null(),
            (Self::Integer(column), Some(LogValue::Integer(number))) => column.append_value(number),
            (Self::Integer(column), _) => column.append_null(),
            (Self::Number(column), Some(LogValue::Number(number))) => column.append_value(number),
            (Self::Number(column), _) => column.append_null(),
            (Self::Flag(column), Some(LogValue::Flag(flag))) => column.append_value(flag),
            (Self::Flag(column), _) => column.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(column) => Arc::new(column.finish()),
            Self::Integer(column) => Arc::new(column.finish()),
            Self::Number(column) => Arc::new(column.finish()),
            Self::Flag(column) => Arc::new(column.finish()),
        }
    }
}

/// Columns that are being filled.
pub(super) struct Columns {
    pub(super) rows: usize,
    times: [TimestampMicrosecondBuilder; 3],
    texts: [StringBuilder; 6],
    schema_version: Int64Builder,
    fields: Vec<Column>,
}

impl Columns {
    pub(super) fn new() -> Self {
        let times = || TimestampMicrosecondBuilder::new().with_data_type(time_type());
        Self {
            rows: 0,
            times: [times(), times(), times()],
            texts: Default::default(),
            schema_version: Int64Builder::new(),
            fields: LogField::ALL.iter().map(|field| Column::of(*field)).collect(),
        }
    }

    pub(super) fn push(&mut self, origin: &Origin, batch: &LogBatch, record: &LogRecord) {
        let head = Head::new(origin, batch, record);
        let times = [head.timestamp, head.interval_start, head.connection_start];
        for (column, at) in self.times.iter_mut().zip(times) {
            column.append_value(micros(at));
        }
        let texts = [
            head.host,
            head.instance,
            head.version,
            head.pipeline,
            head.event,
            head.severity,
        ];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.append_value(text);
        }
        self.schema_version.append_value(head.schema_version.into());
        for (column, field) in self.fields.iter_mut().zip(LogField::ALL) {
            column.push(field.value(record));
        }
        self.rows += 1;
    }

    pub(super) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(SCHEMA.fields().len());
        for column in &mut self.times {
            columns.push(Arc::new(column.finish()));
        }
        for column in &mut self.texts {
            columns.push(Arc::new(column.finish()));
        }
        columns.push(Arc::new(self.schema_version.finish()));
        columns.extend(self.fields.iter_mut().map(Column::finish));
        RecordBatch::try_new(Arc::clone(&SCHEMA), columns)
    }
}
