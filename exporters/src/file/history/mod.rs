//! Reads what the exporter `file` wrote: the log records of connections, as `flowtap history` shows them.
//!
//! In: folders, and a query. Out: a [`Row`] per record that matches, and counts of what was read.
//!
//! 1. Files are known by their content, whatever the config named them: Parquet, JSON lines (also with gzip), and the journals of Parquet
//!    files that are being written.
//! 2. Of Parquet, row groups are left out by their statistics (time) and Bloom filters (peer); of the others the columns of the query's
//!    conditions are read first, and further ones for the rows that match.
//! 3. Memory is bounded by a batch of rows, whatever the folder holds.
//! 4. A file or folder that can't be read is reported, and so is one that is read in part, never left out silently. Only the end of a
//!    file that is being written may be torn.
//! 5. A file whose contents make a decoder panic is one that can't be read.
//! 6. Files are read as they were when they were found, as often as is necessary.

#[cfg(feature = "parquet")]
mod columns;
mod files;
#[cfg(feature = "parquet")]
mod guard;
mod lines;
mod query;
mod row;
#[cfg(feature = "parquet")]
mod row_groups;
mod statistics;

use std::io;

use flowtap_pipeline::LogField;

pub use self::files::Files;
use self::files::{Content, Found};
pub use self::query::{Network, Query};
pub use self::row::{ALWAYS, Row};
pub use self::statistics::Statistics;
use self::statistics::{Kind, Scanned};
use super::frames::{Frames, Loss, Packing, Section};
#[cfg(feature = "parquet")]
use super::journal::Batches;

/// Calls `each` with every row of `files` that matches; of the fields, those of [`ALWAYS`] and of `fields` are read. A second call reads
/// the same rows as the first one, also if the files have changed since.
pub fn scan(files: &Files, query: &Query, fields: &[LogField], mut each: impl FnMut(&Row<'_>)) -> Statistics {
    let mut statistics = files.statistics.clone();
    for file in &files.found {
        match scan_file(file, query, fields, &mut statistics, &mut each) {
            Ok(Some(Scanned { kind, damage })) => {
                match kind {
                    Kind::Logs => statistics.files += 1,
                    Kind::Other => statistics.other_files += 1,
                }
                if let Some(damage) = damage {
                    statistics.damaged(&file.path, &damage);
                }
            }
            Ok(None) => {}
            Err(error) => statistics.unreadable(&file.path, &error),
        }
    }
    statistics
}

/// `None` if it is none of our files.
fn scan_file(
    found: &Found,
    query: &Query,
    fields: &[LogField],
    statistics: &mut Statistics,
    each: &mut impl FnMut(&Row<'_>),
) -> io::Result<Option<Scanned>> {
    let Some((content, file)) = found.open()? else {
        return Ok(None);
    };
    let growing = found.is_growing;
    let scanned = match content {
        Content::Lines => {
            let section = Section::first(file, found.length);
            lines::scan(section, growing, query, statistics, each)
        }
        Content::PackedLines => {
            let frames = Frames::new(Packing::Gzip, Section::first(file, found.length));
            let loss = frames.loss();
            let scanned = lines::scan(frames, growing, query, statistics, each);
            scanned.and_then(|scanned| with_loss(scanned, loss.get(), growing))
        }
        #[cfg(feature = "parquet")]
        Content::Parquet => row_groups::scan(file, query, fields, statistics, each),
        #[cfg(feature = "parquet")]
        Content::Journal => {
            let batches = Batches::new(file, found.length)?;
            columns::scan_journal(batches, query, statistics, each)
                .and_then(|(scanned, loss)| with_loss(scanned, loss, growing))
        }
        #[cfg(not(feature = "parquet"))]
        Content::Parquet | Content::Journal => {
            let _ = fields;
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this build can't read Parquet; hint: build it with the feature `parquet`",
            ))
        }
    };
    scanned.map(Some)
}

/// The result of reading a file with frames: bytes that could not be interpreted are damage, but for the torn end of a file that is
/// being written.
fn with_loss(scanned: Scanned, loss: Loss, growing: bool) -> io::Result<Scanned> {
    let torn = if growing { 0 } else { loss.torn };
    if loss.damaged + torn == 0 {
        return Ok(scanned);
    }
    let mut damage = match (loss.damaged, torn) {
        (0, torn) => format!("its last {torn} bytes are not whole"),
        (damaged, _) => format!("{damaged} bytes of it are damaged"),
    };
    if scanned.kind == Kind::Other && scanned.damage.is_none() {
        return Err(statistics::invalid(damage));
    }
    if let Some(further) = scanned.damage {
        damage = format!("{damage}; {further}");
    }
    Ok(Scanned {
        kind: scanned.kind,
        damage: Some(damage),
    })
}

#[cfg(test)]
#[cfg(feature = "parquet")]
mod tests;
