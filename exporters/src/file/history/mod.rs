//! Reads what the exporter `file` wrote: the log records of connections, as `flowtap history` shows them.
//!
//! In: a folder, and a query. Out: a [`Row`] per record that matches, and counts of what was read.
//!
//! 1. Files are known by their content, whatever the config named them: Parquet, JSON lines (also with gzip), and the journals of Parquet
//!    files that are being written.
//! 2. Of Parquet, row groups are left out by their statistics (time) and Bloom filters (peer); of the others the columns of the query's
//!    conditions are read first, and further ones for the rows that match.
//! 3. Memory is bounded by a batch of rows, whatever the folder holds.
//! 4. A file that can't be read is reported, never left out silently.

#[cfg(feature = "parquet")]
mod columns;
mod files;
mod lines;
mod query;
mod row;
#[cfg(feature = "parquet")]
mod row_groups;
mod statistics;

use std::io;
use std::path::{Path, PathBuf};

use flowtap_pipeline::LogField;

use self::files::Content;
pub use self::files::find;
pub use self::query::{Network, Query};
pub use self::row::{ALWAYS, Row};
use self::statistics::Kind;
pub use self::statistics::Statistics;

/// Calls `each` with every row of `files` that matches; of the fields, those of [`ALWAYS`] and of `fields` are read.
pub fn scan(
    files: &[PathBuf],
    query: &Query,
    fields: &[LogField],
    mut each: impl FnMut(&Row<'_>),
) -> Statistics {
    let mut statistics = Statistics::default();
    for path in files {
        match scan_file(path, query, fields, &mut statistics, &mut each) {
            Ok(Some(Kind::Logs)) => statistics.files += 1,
            Ok(Some(Kind::Other)) => statistics.other_files += 1,
            Ok(None) => {}
            Err(error) => statistics.unreadable(path, &error),
        }
    }
    statistics
}

/// `None` if it is none of our files, or there no longer.
fn scan_file(
    path: &Path,
    query: &Query,
    fields: &[LogField],
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> io::Result<Option<Kind>> {
    let Some((content, file)) = files::open(path)? else {
        return Ok(None);
    };
    match content {
        Content::Lines => lines::scan(file, query, statistics, each).map(Some),
        Content::PackedLines => {
            lines::scan(flate2::read::MultiGzDecoder::new(file), query, statistics, each).map(Some)
        }
        #[cfg(feature = "parquet")]
        Content::Parquet => row_groups::scan(file, query, fields, statistics, each).map(Some),
        #[cfg(feature = "parquet")]
        Content::Journal => columns::scan_journal(file, query, statistics, each).map(Some),
        #[cfg(not(feature = "parquet"))]
        Content::Parquet | Content::Journal => {
            let _ = fields;
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this build can't read Parquet; hint: build it with the feature `parquet`",
            ))
        }
    }
}

#[cfg(test)]
#[cfg(feature = "parquet")]
mod tests;
