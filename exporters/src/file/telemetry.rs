//! Counters of files and rows, and the state of writing for `/status`.

use flowtap_pipeline::{BuildContext, ComponentId, ComponentKind, State, StatusBoard};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// Counters of the files of an exporter.
#[derive(Clone, Debug)]
pub(super) struct Telemetry {
    files: Counter<u64>,
    lost: Counter<u64>,
    exporter: KeyValue,
    id: ComponentId,
    status: StatusBoard,
}

/// An event of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileEvent {
    /// It is whole, and on the disk.
    Finished,
    /// A crash had left it, or it could not be finished at first; its rows are in a finished file now.
    Recovered,
    /// It was left without a row that can be read.
    Discarded,
    /// It is damaged, and was set aside; its rows that can be read are in a finished file.
    Corrupt,
    /// Removed by `max_files`.
    Removed,
    /// Removed by `max_total_bytes`.
    RemovedBytes,
    /// Removed by `max_retention`.
    RemovedAge,
}

impl FileEvent {
    const ALL: [Self; 7] = [
        Self::Finished,
        Self::Recovered,
        Self::Discarded,
        Self::Corrupt,
        Self::Removed,
        Self::RemovedBytes,
        Self::RemovedAge,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Recovered => "recovered",
            Self::Discarded => "discarded",
            Self::Corrupt => "corrupt",
            Self::Removed => "removed",
            Self::RemovedBytes => "removed_bytes",
            Self::RemovedAge => "removed_age",
        }
    }
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext) -> Self {
        let telemetry = Self {
            files: context
                .meter
                .u64_counter("exporter_files")
                .with_description("Files of an exporter, by event.")
                .with_unit("{file}")
                .build(),
            lost: context
                .meter
                .u64_counter("exporter_lost_rows")
                .with_description("Rows counted as written whose file was removed before it was finished.")
                .with_unit("{row}")
                .build(),
            exporter: KeyValue::new("exporter", context.id.to_string()),
            id: context.id.clone(),
            status: context.status.clone(),
        };
        for event in FileEvent::ALL {
            telemetry.add(event, 0);
        }
        telemetry.lost(0);
        telemetry
    }

    /// Counts a file.
    pub(super) fn file(&self, event: FileEvent) {
        self.add(event, 1);
    }

    fn add(&self, event: FileEvent, files: u64) {
        let attributes = [self.exporter.clone(), KeyValue::new("event", event.as_str())];
        self.files.add(files, &attributes);
    }

    /// Shows why files can't be written.
    pub(super) fn failing(&self, error: &str) {
        let error = Some(error.to_owned());
        self.status
            .set(ComponentKind::Exporter, &self.id, State::RecoverableError, error);
    }

    /// Files can be written again, which failed with `error`.
    pub(super) fn recovered(&self, error: &str) {
        self.status.recover(ComponentKind::Exporter, &self.id, error);
    }

    /// Counts rows that are lost although they were written.
    pub(super) fn lost(&self, rows: u64) {
        self.lost.add(rows, std::slice::from_ref(&self.exporter));
    }
}
