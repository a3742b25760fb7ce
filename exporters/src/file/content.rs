//! The content of a file: series of windows, or log records. A file has rows of one kind.

use flowtap_pipeline::{LogBatch, Snapshot, Timestamp};

use super::row;

/// One output of a pipeline, to be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    /// A row per series that the window changed.
    Metrics(&'a Snapshot),
    /// A row per record.
    Logs(&'a LogBatch),
}

impl Content<'_> {
    /// Number of rows.
    pub(super) fn rows(self) -> u64 {
        match self {
            Self::Metrics(snapshot) => row::rows(snapshot),
            Self::Logs(batch) => batch.records.len() as u64,
        }
    }

    /// The beginning of the time that it covers: of log records their common end, so that a file is named by the first.
    pub(super) fn start(self) -> Timestamp {
        match self {
            Self::Metrics(snapshot) => row::start(snapshot),
            Self::Logs(batch) => batch.at,
        }
    }

    /// The end of the time that it covers.
    pub(super) const fn at(self) -> Timestamp {
        match self {
            Self::Metrics(snapshot) => snapshot.at,
            Self::Logs(batch) => batch.at,
        }
    }
}
