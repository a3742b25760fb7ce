//! From a journal to the Parquet file that it becomes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::ZstdLevel;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::config::Compression;
use super::frames::Loss;
use super::journal::{Batches, of_arrow};

/// A row group is held in memory until it is this long.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// Columns that a reader looks for one value in, of many: row groups without it are found by a Bloom filter.
const LOOKED_UP: [&str; 2] = ["source_address", "destination_address"];

/// Distinct values that such a filter has room for; it is folded down to those that there are.
const MAX_DISTINCT: u64 = 100_000;

/// The result of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Converted {
    pub(super) rows: u64,
    /// Whether the journal's end was not whole, as after a crash.
    pub(super) torn: bool,
    /// Bytes of the journal that could not be interpreted, although they are not its end.
    pub(super) damaged: u64,
}

/// Writes the rows of `journal` to `target`, which is replaced, and puts it on the disk. Without rows there is no file.
///
/// # Errors
/// The system's error, of reading or writing.
pub(super) fn convert(journal: &Path, target: &Path, compression: Compression) -> io::Result<Converted> {
    let mut batches = Batches::open(journal)?;
    let Some(schema) = batches.schema() else {
        return Ok(converted(0, batches.loss()));
    };
    let metadata = schema.metadata().iter();
    let metadata: Vec<_> = metadata
        .map(|(name, value)| KeyValue::new(name.clone(), value.clone()))
        .collect();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // Peers and traffic are private.
        .mode(0o600)
        .open(target)?;
    let properties = properties(compression, &schema)
        .set_key_value_metadata(Some(metadata))
        .build();
    let plain = Arc::new(Schema::new(schema.fields().clone()));
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&plain), Some(properties)).map_err(of_parquet)?;
    let mut rows = 0;
    for batch in &mut batches {
        // Its schema has the metadata, which the file has as its own.
        let batch = RecordBatch::try_new(Arc::clone(&plain), batch?.columns().to_vec()).map_err(of_arrow)?;
        writer.write(&batch).map_err(of_parquet)?;
        rows += batch.num_rows() as u64;
    }
    let file: File = writer.into_inner().map_err(of_parquet)?;
    file.sync_all()?;
    Ok(converted(rows, batches.loss()))
}

const fn converted(rows: u64, loss: Loss) -> Converted {
    Converted {
        rows,
        torn: loss.torn > 0,
        damaged: loss.damaged,
    }
}

fn properties(compression: Compression, schema: &Schema) -> WriterPropertiesBuilder {
    let compression = match compression {
        Compression::Snappy => parquet::basic::Compression::SNAPPY,
        Compression::Zstd => parquet::basic::Compression::ZSTD(ZstdLevel::default()),
        Compression::None | Compression::Gzip => parquet::basic::Compression::UNCOMPRESSED,
    };
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        // In the form that parquet-java parses: otherwise it does not trust the statistics.
        .set_created_by(concat!("flowtap version ", env!("CARGO_PKG_VERSION")).to_owned());
    for name in LOOKED_UP {
        if schema.column_with_name(name).is_some() {
            let column = ColumnPath::from(name);
            properties = properties
                .set_column_bloom_filter_enabled(column.clone(), true)
                .set_column_bloom_filter_max_ndv(column, MAX_DISTINCT);
        }
    }
    properties
}

/// The system's own error, if that is what it was.
fn of_parquet(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        error => io::Error::other(error),
    }
}
