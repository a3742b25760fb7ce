//! The content of a file: series of windows, or log records. A file has rows of one kind, and of one partition.

use flowtap_pipeline::{LogBatch, LogRecord, Snapshot, Timestamp};

use super::names::Names;
use super::row;

/// In nanoseconds.
const HOUR: u64 = 3_600_000_000_000;

/// One output of a pipeline, or the part of it that belongs to one partition.
#[derive(Clone, Debug)]
pub(super) enum Content<'a> {
    /// A row per series that the window changed.
    Metrics(&'a Snapshot),
    /// A row per record.
    Logs {
        batch: &'a LogBatch,
        records: Vec<&'a LogRecord>,
    },
}

impl<'a> Content<'a> {
    /// All records of `batch`.
    pub(super) fn logs(batch: &'a LogBatch) -> Self {
        Self::Logs {
            batch,
            records: batch.records.iter().collect(),
        }
    }

    /// The parts that belong to one partition of `names` each, the earliest first. A window is in the partition of its beginning, a
    /// record in that of its own time: a batch can have records of two hours.
    pub(super) fn by_partition(self, names: &Names) -> Vec<Self> {
        let Self::Logs { batch, mut records } = self else {
            return vec![self];
        };
        let Some(first) = records.first().filter(|_| names.is_partitioned()) else {
            return vec![Self::Logs { batch, records }];
        };
        // Nearly all batches: no partition is shorter than an hour.
        let hour = |record: &LogRecord| record.at.as_nanos() / HOUR;
        let begin = hour(first);
        if records.iter().all(|record| hour(record) == begin) {
            return vec![Self::Logs { batch, records }];
        }
        // A stable sort: records of the same time stay in their order.
        records.sort_by_key(|record| record.at);
        let parts = records.chunk_by(|one, next| names.partition(one.at) == names.partition(next.at));
        parts
            .map(|records| Self::Logs {
                batch,
                records: records.to_vec(),
            })
            .collect()
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> u64 {
        match self {
            Self::Metrics(snapshot) => row::rows(snapshot),
            Self::Logs { records, .. } => records.len() as u64,
        }
    }

    /// The time that names its file and decides the partition: the beginning of the window, or the first of the records.
    pub(super) fn first(&self) -> Timestamp {
        match self {
            Self::Metrics(snapshot) => row::start(snapshot),
            Self::Logs { batch, records } => {
                let times = records.iter().map(|record| record.at);
                times.min().unwrap_or(batch.at)
            }
        }
    }

    /// The beginning of the time that it covers, which a file's age is counted from: of log records their common end.
    pub(super) fn start(&self) -> Timestamp {
        match self {
            Self::Metrics(snapshot) => row::start(snapshot),
            Self::Logs { batch, .. } => batch.at,
        }
    }

    /// The end of the time that it covers.
    pub(super) const fn at(&self) -> Timestamp {
        match self {
            Self::Metrics(snapshot) => snapshot.at,
            Self::Logs { batch, .. } => batch.at,
        }
    }
}
