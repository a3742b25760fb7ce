//! The exporter `file`: writes the changes of each window to files, as a history for `flowtap history`, `DuckDB`,
//! `ClickHouse`, Spark.
//!
//! In: snapshots, batches of log records. Out: JSON lines or Parquet. The rules, in order:
//!
//! 1. A row for each series that the window changed: the window, the series, its total and what the window added. Labels
//!    are one column, by their own names. Of log records a row each, with a column per field; these have files of their own.
//! 2. A window's rows are in one file, and a file's rows are in one partition. A file is finished with the window that takes it
//!    to `rotation.max_bytes` or to `rotation.max_age`, by the time of windows; with the first row of the next partition; or
//!    when flowtap stops. Log records can come late, so the file of their partition before stays open beside the current one, until
//!    none has come for two minutes.
//! 3. A file that is being written ends in `.partial`. It has its own name once it is whole and on the disk, so a
//!    reader never sees half of one.
//! 4. A row that was written is in the file at once, in Parquet's case in its journal (`journal`), from which the file is made
//!    when it is finished (`convert`). A crash loses the rows that had not been written; a power failure what was not synced
//!    either (`sync_interval`).
//! 5. Files that a crash left, or that could not be finished, are finished at the next start, or a minute later, as
//!    `.recovered` (`recovery`). Each is counted. One with damage other than a torn end is kept beside it as `.corrupt`.
//! 6. Of finished files the newest are kept, by `rotation.max_files`, `max_total_bytes` and `max_retention`, the one just finished
//!    always; those of a time still to come are not counted (`retention`). No file is touched whose name does not fit the pattern.
//! 7. With `upload` finished files are also put into an object store (`upload`).
//! 8. Rows that can't be written count as failed, are logged once, and each window tries again.

mod config;
mod content;
#[cfg(feature = "parquet")]
mod convert;
#[cfg(not(feature = "parquet"))]
#[path = "no_convert.rs"]
mod convert;
mod factory;
mod frames;
pub mod history;
#[cfg(feature = "parquet")]
mod journal;
mod json;
#[cfg(feature = "parquet")]
mod log_columns;
mod log_row;
mod names;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "no_parquet.rs"]
mod parquet;
mod recovery;
mod retention;
mod row;
mod telemetry;
#[cfg(feature = "parquet")]
mod times;
#[cfg(feature = "object-store")]
mod upload;
#[cfg(not(feature = "object-store"))]
#[path = "no_upload.rs"]
mod upload;
mod upload_config;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use flowtap_pipeline::{BuildContext, ExportService, Exporter, Output, PipelineKind, StageError};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;
use tower::util::BoxService;
use tower::{BoxError, service_fn};

pub use self::config::{Compression, Config, Format, Rotation};
use self::content::Content;
pub use self::factory::FACTORY;
use self::telemetry::Telemetry;
use self::upload::{UploadTask, Uploads};
pub use self::upload_config::UploadConfig;
use self::writer::Writer;

/// The exporter.
#[derive(Debug)]
pub struct FileExporter {
    metrics: Arc<Mutex<Writer>>,
    logs: Arc<Mutex<Writer>>,
    uploads: Option<Uploads>,
    upload_task: UploadTask,
    strict: bool,
}

impl FileExporter {
    /// An exporter that has opened nothing yet.
    ///
    /// # Errors
    /// The reason why the config's `path` is not valid, or why the object store of `upload` can't be used.
    pub fn new(config: &Config, context: &BuildContext) -> Result<Self, String> {
        let telemetry = Telemetry::new(context);
        let uploads = config
            .upload
            .as_ref()
            .map(|upload| Uploads::new(upload, config.root(), context))
            .transpose()
            .map_err(|message| format!("upload: {message}"))?;
        let writer = |kind| {
            let writer = Writer::new(
                config,
                &context.resource,
                telemetry.clone(),
                uploads.clone(),
                kind,
            );
            writer
                .map(|writer| Arc::new(Mutex::new(writer)))
                .map_err(|message| format!("path: {message}"))
        };
        Ok(Self {
            metrics: writer(PipelineKind::Metrics)?,
            logs: writer(PipelineKind::Logs)?,
            uploads,
            upload_task: UploadTask::default(),
            strict: context.strict,
        })
    }

    /// Does `work` where it may block.
    async fn blocking<T: Send + 'static>(
        writer: Arc<Mutex<Writer>>,
        work: impl FnOnce(&mut Writer) -> T + Send + 'static,
    ) -> Result<T, BoxError> {
        let work = move || work(&mut writer.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(spawn_blocking(work).await?)
    }
}

impl Exporter for FileExporter {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        async move {
            let prepare = |writer: &mut Writer| (writer.prepare(), writer.folder().display().to_string());
            let (prepared, folder) = Self::blocking(Arc::clone(&self.metrics), prepare).await?;
            // In the same folder: one message is enough if it can't be used.
            Self::blocking(Arc::clone(&self.logs), prepare).await?.0.ok();
            match prepared {
                Ok(()) => tracing::info!(folder, "writing files"),
                Err(error) if self.strict => {
                    return Err(StageError::Unsupported {
                        what: format!("can't write files to {folder}: {error}"),
                        remedy: format!(
                            "{}; or set `path` to another folder",
                            flowtap_pipeline::files::write_hint(&error)
                        ),
                    });
                }
                // A disk that is mounted later must not prevent measuring.
                Err(error) => tracing::warn!(
                    folder,
                    %error,
                    "no files can be written yet; hint: {}; name it by an absolute path",
                    flowtap_pipeline::files::write_hint(&error)
                ),
            }
            if let Some(uploads) = &self.uploads {
                uploads.forget_removed();
                uploads.start(&mut self.upload_task);
            }
            let (metrics, logs) = (Arc::clone(&self.metrics), Arc::clone(&self.logs));
            Ok(BoxService::new(service_fn(move |output: Output| {
                let writer = match output.kind() {
                    PipelineKind::Metrics => &metrics,
                    PipelineKind::Logs => &logs,
                };
                Self::blocking(Arc::clone(writer), move |writer| match &output {
                    Output::Metrics(snapshot) => writer.write(Content::Metrics(snapshot)),
                    Output::Logs(batch) => writer.write(Content::logs(batch)),
                })
            })))
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async move {
            for writer in [&self.metrics, &self.logs] {
                if let Err(error) = Self::blocking(Arc::clone(writer), Writer::finish).await {
                    tracing::error!(%error, "the last file was not finished; hint: start flowtap again with the same `path` to finish it");
                }
            }
            self.upload_task.stop().await;
        }
        .boxed()
    }
}

#[cfg(test)]
#[cfg(feature = "parquet")]
mod tests;
