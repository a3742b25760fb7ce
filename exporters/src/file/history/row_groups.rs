//! Parquet: row groups that can't match are not read, nor columns that nobody needs.

use std::fs::File;
use std::io;

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use flowtap_pipeline::LogField;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicate, ArrowPredicateFn, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowFilter,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, RowGroupMetaData};
use parquet::file::statistics::Statistics as ColumnStatistics;

use super::columns::{
    Columns, EVENT, HOST, PIPELINE, TIME, check, in_micros, is_time, is_timed, logs, offer_all, times,
};
use super::guard::guarded;
use super::query::{Query, is_in_time, is_of_pipeline, micros};
use super::row::{ALWAYS, Row};
use super::statistics::{Kind, Scanned, Statistics, invalid};

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// Rows that are decoded together.
const BATCH_ROWS: usize = 8192;

/// Calls `each` with the rows that match.
pub(super) fn scan(
    file: File,
    query: &Query,
    fields: &[LogField],
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> io::Result<Scanned> {
    // Types are those of Parquet, not of the Arrow program that wrote it: a string is one, however that program held it.
    let mut options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    if query.from.is_some() || query.to.is_some() || query.peer.is_some() {
        // Where the pages are, to pass over those without a row that matches.
        options = options.with_offset_index_policy(PageIndexPolicy::Optional);
    }
    let builder = guarded(|| Builder::try_new_with_options(file, options).map_err(io::Error::other))?;
    if check(builder.schema())? == Kind::Other {
        return Ok(Scanned::OTHER);
    }
    check_compression(&builder)?;
    let metadata = builder.metadata();
    let mut groups = Vec::new();
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        statistics.records += rows;
        if guarded(|| can_match(&builder, index, group, query).map_err(io::Error::other))? {
            statistics.read += rows;
            groups.push(index);
        }
    }
    if groups.is_empty() {
        return Ok(Scanned::LOGS);
    }
    let wanted = ALWAYS.iter().chain(fields).map(|field| field.column());
    let pipeline = query.pipeline.is_some().then_some(PIPELINE);
    let mask = columns(&builder, wanted.chain([TIME, EVENT, HOST]).chain(pipeline));
    let filter = predicates(&builder, query);
    let builder = builder
        .with_row_groups(groups)
        .with_projection(mask)
        .with_row_filter(filter)
        .with_batch_size(BATCH_ROWS);
    let mut reader = guarded(|| builder.build().map_err(io::Error::other))?;
    let (mut untimed, mut is_read) = (0, false);
    while let Some(batch) = guarded(|| reader.next().transpose().map_err(io::Error::other)).transpose() {
        match batch {
            Ok(batch) => untimed += offer_all(&batch, query, statistics, each),
            Err(error) if !is_read => return Err(error),
            // A reader that has panicked is not asked again.
            Err(error) => {
                return Ok(Scanned {
                    kind: Kind::Logs,
                    damage: Some(format!("the records after some were not read: {error}")),
                });
            }
        }
        is_read = true;
    }
    Ok(logs(untimed))
}

/// Names a compression that can't be read before the reader calls it a feature that it does not have.
fn check_compression(builder: &Builder) -> io::Result<()> {
    let groups = builder.metadata().row_groups().iter();
    let mut compressions = groups
        .flat_map(RowGroupMetaData::columns)
        .map(ColumnChunkMetaData::compression);
    let unknown = compressions.find(|compression| {
        !matches!(
            compression,
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)
        )
    });
    match unknown {
        None => Ok(()),
        Some(compression) => {
            let name = compression.to_string();
            let name = name.split('(').next().unwrap_or_default().to_lowercase();
            Err(invalid(format!(
                "it is compressed with {name}, which flowtap does not read; hint: write it again with zstd or snappy, or without compression"
            )))
        }
    }
}

fn columns<'a>(builder: &Builder, names: impl IntoIterator<Item = &'a str>) -> ProjectionMask {
    ProjectionMask::columns(builder.parquet_schema(), names)
}

/// Whether a row group can have a row that matches, by its statistics and Bloom filters.
fn can_match(
    builder: &Builder,
    index: usize,
    group: &RowGroupMetaData,
    query: &Query,
) -> Result<bool, ParquetError> {
    let column = |name: &str| {
        group
            .columns()
            .iter()
            .position(|column| column.column_path().string() == name)
    };
    let unit = match builder
        .schema()
        .field_with_name(TIME)
        .map(arrow_schema::Field::data_type)
    {
        Ok(DataType::Timestamp(unit, _)) => Some(*unit),
        _ => None,
    };
    let statistics = column(TIME).and_then(|time| group.column(time).statistics());
    if let (Some(unit), Some(ColumnStatistics::Int64(times))) = (unit, statistics)
        && let (Some(first), Some(last)) = (times.min_opt(), times.max_opt())
        // Records without a time are reported.
        && times.null_count_opt() == Some(0)
        && is_time(in_micros(unit, *first))
        && is_time(in_micros(unit, *last))
        && (query.from.is_some_and(|from| in_micros(unit, *last) < micros(from))
            || query.to.is_some_and(|to| in_micros(unit, *first) >= micros(to)))
    {
        return Ok(false);
    }
    let Some(address) = query.peer.and_then(|peer| peer.single()) else {
        return Ok(true);
    };
    let address = address.to_string();
    for field in [LogField::SourceAddress, LogField::DestinationAddress] {
        let Some(column) = column(field.column()) else {
            continue;
        };
        match builder.get_row_group_column_bloom_filter(index, column)? {
            Some(filter) if !filter.check(&*address) => {}
            _ => return Ok(true),
        }
    }
    Ok(false)
}

/// Conditions on few columns, which are read before the others.
fn predicates(builder: &Builder, query: &Query) -> RowFilter {
    let mut predicates: Vec<Box<dyn ArrowPredicate>> = Vec::new();
    let query = query.clone();
    if query.from.is_some() || query.to.is_some() {
        let range = query.clone();
        let in_time = move |batch: RecordBatch| {
            let times = batch.column_by_name(TIME).and_then(|column| times(column));
            // A record without a time is kept, to be reported.
            let chosen = (0..batch.num_rows()).map(|index| match &times {
                Some(times) if is_timed(times, index) => Some(is_in_time(&range, times.value(index))),
                _ => Some(true),
            });
            Ok(chosen.collect())
        };
        predicates.push(Box::new(ArrowPredicateFn::new(columns(builder, [TIME]), in_time)));
    }
    if let Some(peer) = query.peer {
        let ends = [
            LogField::SourceAddress,
            LogField::DestinationAddress,
            LogField::Role,
        ];
        let single = peer.single().map(|address| address.to_string());
        let of_peer = move |batch: RecordBatch| {
            let columns = Columns::of(&batch);
            let rows = (0..batch.num_rows()).map(|index| columns.row(index).peer_address);
            let contains = |address: &str| match &single {
                Some(single) => single == address,
                None => peer.contains_text(address),
            };
            Ok(rows.map(|address| Some(contains(address))).collect())
        };
        let mask = columns(builder, ends.map(LogField::column));
        predicates.push(Box::new(ArrowPredicateFn::new(mask, of_peer)));
    }
    if query.failed {
        let failed = |batch: RecordBatch| {
            let columns = Columns::of(&batch);
            let rows = (0..batch.num_rows()).map(|index| Some(columns.row(index).has_failed()));
            Ok(rows.collect())
        };
        let mask = columns(
            builder,
            [LogField::Outcome, LogField::Error].map(LogField::column),
        );
        predicates.push(Box::new(ArrowPredicateFn::new(mask, failed)));
    }
    if query.pipeline.is_some() {
        let of_pipeline = move |batch: RecordBatch| {
            let columns = Columns::of(&batch);
            let rows = (0..batch.num_rows()).map(|index| Some(is_of_pipeline(&query, &columns.row(index))));
            Ok(rows.collect())
        };
        let mask = columns(builder, [PIPELINE]);
        predicates.push(Box::new(ArrowPredicateFn::new(mask, of_pipeline)));
    }
    RowFilter::new(predicates)
}
