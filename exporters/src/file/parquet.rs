//! Parquet: a column per field of a row; labels are a map, so that a label more changes no schema.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use arrow_array::builder::{
    Float64Builder, Int64Builder, ListBuilder, MapBuilder, MapFieldNames, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use flowtap_pipeline::log::LOG_SCHEMA_VERSION;
use flowtap_pipeline::{Buckets, Pair, PipelineKind, Snapshot};

use super::content::Content;
use super::journal::Journal;
use super::log_columns;
use super::row::{Origin, Row, SCHEMA_VERSION, Table, Value, signed, sorted_labels};
use super::times::{micros, time_type};

/// Rows that are passed to the writer together.
const BATCH_ROWS: usize = 8192;

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let list = |item| DataType::List(Arc::new(Field::new("element", item, true)));
    let pair = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, false),
    ];
    let entries = Field::new("key_value", DataType::Struct(pair.into()), false);
    let fields = vec![
        Field::new("window_start", time_type(), false),
        Field::new("window_end", time_type(), false),
        Field::new("host", DataType::Utf8, false),
        Field::new("instance", DataType::Utf8, false),
        Field::new("version", DataType::Utf8, false),
        Field::new("schema_version", DataType::Int64, false),
        Field::new("naming", DataType::Utf8, false),
        Field::new("pipeline", DataType::Utf8, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("type", DataType::Utf8, false),
        Field::new("unit", DataType::Utf8, false),
        Field::new("labels", DataType::Map(Arc::new(entries), false), false),
        Field::new("total", DataType::Int64, true),
        Field::new("delta", DataType::Int64, true),
        Field::new("value", DataType::Float64, true),
        Field::new("count", DataType::Int64, true),
        Field::new("sum", DataType::Float64, true),
        Field::new("bounds", list(DataType::Float64), true),
        Field::new("buckets", list(DataType::Int64), true),
    ];
    Arc::new(Schema::new(fields))
});

/// A file of rows that is being written: a journal, which becomes Parquet when it is finished.
#[derive(Debug)]
pub(super) struct ParquetFile {
    journal: Journal,
}

impl ParquetFile {
    /// Onto an empty `file` that is open for appending.
    ///
    /// # Errors
    /// The schema can't be encoded.
    pub(super) fn new(file: File, origin: &Origin, kind: PipelineKind) -> io::Result<Self> {
        let (schema, version) = match kind {
            PipelineKind::Metrics => (&SCHEMA, SCHEMA_VERSION),
            PipelineKind::Logs => (&log_columns::SCHEMA, LOG_SCHEMA_VERSION),
        };
        let schema = Schema::new_with_metadata(schema.fields().clone(), metadata(origin, version));
        Ok(Self {
            journal: Journal::new(file, &Arc::new(schema))?,
        })
    }

    /// Appends the rows of `content`, which is of the file's kind: all of them, or none.
    ///
    /// # Errors
    /// The system's error. The file is unchanged.
    pub(super) fn write(&mut self, origin: &Origin, content: &Content<'_>) -> io::Result<()> {
        match content {
            Content::Metrics(snapshot) => self.journal.write(SeriesBatches::new(origin, snapshot)),
            Content::Logs { batch, records } => {
                let mut columns = log_columns::Columns::new();
                self.journal.write(records.chunks(BATCH_ROWS).map(|records| {
                    for record in records {
                        columns.push(origin, batch, record);
                    }
                    columns.finish()
                }))
            }
        }
    }

    /// Its length. The finished file is smaller.
    pub(super) const fn bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// Puts everything on the disk.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.journal.sync()
    }
}

/// The rows of a snapshot, some thousand at a time.
struct SeriesBatches<'a> {
    rows: Box<dyn Iterator<Item = (Rc<Table<'a>>, Row<'a>)> + 'a>,
    columns: Columns,
}

impl<'a> SeriesBatches<'a> {
    fn new(origin: &'a Origin, snapshot: &'a Snapshot) -> Self {
        let rows = Table::all(origin, snapshot).flat_map(|table| {
            let table = Rc::new(table);
            table.rows().map(move |row| (Rc::clone(&table), row))
        });
        Self {
            rows: Box::new(rows),
            columns: Columns::new(),
        }
    }
}

impl Iterator for SeriesBatches<'_> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut labels = Vec::new();
        for (table, row) in self.rows.by_ref().take(BATCH_ROWS) {
            sorted_labels(row.series, &mut labels);
            if let Err(error) = self.columns.push(&table, &labels, row.value) {
                return Some(Err(error));
            }
        }
        (self.columns.rows > 0).then(|| self.columns.finish())
    }
}

/// The resource, and the version of the columns.
fn metadata(origin: &Origin, version: u8) -> HashMap<String, String> {
    let schema = ("flowtap.schema_version".to_owned(), version.to_string());
    origin.resource.iter().cloned().chain([schema]).collect()
}

/// Columns that are being filled.
struct Columns {
    rows: usize,
    times: [TimestampMicrosecondBuilder; 2],
    /// Of where rows come from.
    origin: [StringBuilder; 3],
    schema_version: Int64Builder,
    texts: [StringBuilder; 5],
    labels: MapBuilder<StringBuilder, StringBuilder>,
    integers: [Int64Builder; 3],
    numbers: [Float64Builder; 2],
    bounds: ListBuilder<Float64Builder>,
    buckets: ListBuilder<Int64Builder>,
}

impl Columns {
    fn new() -> Self {
        let names = MapFieldNames {
            entry: "key_value".to_owned(),
            key: "key".to_owned(),
            value: "value".to_owned(),
        };
        let times = || TimestampMicrosecondBuilder::new().with_data_type(time_type());
        Self {
            rows: 0,
            times: [times(), times()],
            origin: Default::default(),
            schema_version: Int64Builder::new(),
            texts: Default::default(),
            labels: MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
                .with_values_field(Field::new("value", DataType::Utf8, false)),
            integers: Default::default(),
            numbers: Default::default(),
            bounds: ListBuilder::new(Float64Builder::new()).with_field(Field::new(
                "element",
                DataType::Float64,
                true,
            )),
            buckets: ListBuilder::new(Int64Builder::new()).with_field(Field::new(
                "element",
                DataType::Int64,
                true,
            )),
        }
    }

    fn push(&mut self, table: &Table<'_>, labels: &[Pair<'_>], value: Value<'_>) -> Result<(), ArrowError> {
        let head = &table.head;
        for (column, at) in self.times.iter_mut().zip([head.window_start, head.window_end]) {
            column.append_value(micros(at));
        }
        let origin = [head.host, head.instance, head.version];
        for (column, text) in self.origin.iter_mut().zip(origin) {
            column.append_value(text);
        }
        self.schema_version.append_value(head.schema_version.into());
        let texts = [head.naming, head.pipeline, &head.name, head.kind, head.unit];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.append_value(text);
        }
        for label in labels {
            self.labels.keys().append_value(label.name());
            self.labels.values().append_value(label.value.text());
        }
        self.labels.append(true)?;
        // Columns that a type does not have are null.
        let (numbers, histogram) = match value {
            Value::Counter(point) => ([Some(point.total), Some(point.delta), None], None),
            Value::Gauge(point) => ([Some(point.total), None, None], None),
            Value::Number(_) => ([None; 3], None),
            Value::Histogram(point) => ([None, None, Some(point.count())], Some(point)),
        };
        for (column, number) in self.integers.iter_mut().zip(numbers) {
            column.append_option(number.map(signed));
        }
        let number = match value {
            Value::Number(point) => Some(point.value),
            Value::Counter(_) | Value::Gauge(_) | Value::Histogram(_) => None,
        };
        let doubles = [number, histogram.map(|point| point.sum)];
        for (column, number) in self.numbers.iter_mut().zip(doubles) {
            column.append_option(number);
        }
        let layout = histogram.map(|point| match &point.buckets {
            Buckets::Explicit(_) => {
                let bounds = table.bounds().unwrap_or_default();
                (bounds.to_vec(), point.counts(bounds).collect())
            }
            Buckets::Exponential(buckets) => buckets.to_explicit(),
        });
        let (bounds, buckets) = layout.unzip();
        self.bounds
            .append_option(bounds.map(|bounds| bounds.into_iter().map(Some)));
        self.buckets
            .append_option(buckets.map(|counts| counts.into_iter().map(|count| Some(signed(count)))));
        self.rows += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(SCHEMA.fields().len());
        for column in &mut self.times {
            columns.push(Arc::new(column.finish()));
        }
        for column in &mut self.origin {
            columns.push(Arc::new(column.finish()));
        }
        columns.push(Arc::new(self.schema_version.finish()));
        for column in &mut self.texts {
            columns.push(Arc::new(column.finish()));
        }
        columns.push(Arc::new(self.labels.finish()));
        let [total, delta, count] = &mut self.integers;
        let [number, sum] = &mut self.numbers;
        columns.push(Arc::new(total.finish()));
        columns.push(Arc::new(delta.finish()));
        columns.push(Arc::new(number.finish()));
        columns.push(Arc::new(count.finish()));
        columns.push(Arc::new(sum.finish()));
        columns.push(Arc::new(self.bounds.finish()));
        columns.push(Arc::new(self.buckets.finish()));
        RecordBatch::try_new(Arc::clone(&SCHEMA), columns)
    }
}
