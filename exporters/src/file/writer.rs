//! The file that is being written, and when it is finished.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flowtap_pipeline::{BuildContext, Exported, PipelineKind, Resource, Timestamp};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::config::{Compression, Config, Format, Rotation};
use super::content::Content;
use super::json::{self, JsonFile};
use super::names::{Name, Names};
use super::parquet::ParquetFile;
use super::row::Origin;

/// Names that are tried for a file before it is given up.
const MAX_NAMES: usize = 10_000;

/// Counters of files and rows.
#[derive(Clone, Debug)]
pub(super) struct Telemetry {
    files: Counter<u64>,
    lost: Counter<u64>,
    exporter: KeyValue,
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
                .with_description("Rows counted as written whose file could not be finished.")
                .with_unit("{row}")
                .build(),
            exporter: KeyValue::new("exporter", context.id.to_string()),
        };
        for event in ["finished", "removed", "recovered", "discarded"] {
            telemetry.file(event, 0);
        }
        telemetry.lost(0);
        telemetry
    }

    fn file(&self, event: &'static str, files: u64) {
        self.files
            .add(files, &[self.exporter.clone(), KeyValue::new("event", event)]);
    }

    fn lost(&self, rows: u64) {
        self.lost.add(rows, std::slice::from_ref(&self.exporter));
    }
}

#[derive(Debug)]
enum Output {
    Json(JsonFile),
    Parquet(Box<ParquetFile>),
}

/// A file that is being written.
#[derive(Debug)]
struct Open {
    name: Name,
    path: PathBuf,
    /// When its first window began.
    begun: Timestamp,
    rows: u64,
    /// Rows among these that are not counted as sent yet: files could not be finished of late.
    pending: u64,
    output: Output,
    /// Shows another exporter on the same path that this file is in use.
    _lock: Flock<File>,
}

impl Open {
    fn bytes(&self) -> u64 {
        match &self.output {
            Output::Json(file) => file.bytes(),
            Output::Parquet(file) => file.bytes(),
        }
    }
}

/// Writes series or log records to files, one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    kind: PipelineKind,
    names: Names,
    format: Format,
    compression: Compression,
    origin: Origin,
    rotation: Rotation,
    telemetry: Telemetry,
    open: Option<Open>,
    /// Whether the last write failed: a failure that lasts is logged once.
    failing: bool,
    /// The end of the newest window: what this exporter takes for now.
    now: Timestamp,
    /// Finished files that begin later than that, as last reported.
    future_files: usize,
}

impl Writer {
    pub(super) fn new(
        config: &Config,
        resource: &Resource,
        telemetry: Telemetry,
        kind: PipelineKind,
    ) -> Result<Self, String> {
        let names = Names::new(&config.path, config.extension())?;
        Ok(Self {
            kind,
            names: match kind {
                PipelineKind::Metrics => names,
                PipelineKind::Logs => names.of_logs(),
            },
            format: config.format,
            compression: config.compression(),
            origin: Origin::new(&config.namespace, resource),
            rotation: config.rotation,
            telemetry,
            open: None,
            failing: false,
            now: Timestamp::default(),
            future_files: 0,
        })
    }

    /// The folder of the files.
    pub(super) fn folder(&self) -> &Path {
        &self.names.folder
    }

    /// Whether the last attempt failed.
    #[cfg(test)]
    pub(super) const fn failing(&self) -> bool {
        self.failing
    }

    /// Creates the folder, and recovers files that a crash has left there.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        create_folder(&self.names.folder)?;
        let (_, left) = self.names.list()?;
        for name in left {
            let path = self.names.partial(&name);
            if let Err(error) = self.take_up(name) {
                tracing::warn!(path = %path.display(), %error, "files left by a crash can't be recovered; \
                hint: move them away, or make them readable and writable");
            }
        }
        // Old files are removed with the first one that is finished: until a window has come it is not known what is old.
        Ok(())
    }

    /// One file that was being written: lines are good up to the last that is whole, Parquet has no footer and can't be read.
    fn take_up(&self, name: Name) -> io::Result<()> {
        let path = self.names.partial(&name);
        let file = OpenOptions::new().write(true).open(&path)?;
        let Some(_lock) = lock(file)? else {
            tracing::warn!(path = %path.display(), "another flowtap writes this file; hint: give each exporter a different path");
            return Ok(());
        };
        let length = match (self.format, self.compression) {
            (Format::Parquet, _) => {
                fs::remove_file(&path)?;
                self.telemetry.file("discarded", 1);
                tracing::warn!(path = %path.display(), "a Parquet file that was not finished is removed: it can't be read; \
                hint: lower `rotation.max_age` to lose less at a crash");
                return Ok(());
            }
            (Format::Json, Compression::Gzip) => fs::metadata(&path)?.len(),
            (Format::Json, _) => json::mend(&path)?,
        };
        if length == 0 {
            return fs::remove_file(&path);
        }
        let mut name = name.recovered();
        while self.names.finished(&name).exists() {
            name = name.next();
        }
        let recovered = self.names.finished(&name);
        fs::rename(&path, &recovered)?;
        self.telemetry.file("recovered", 1);
        tracing::warn!(path = %recovered.display(), "a file that was not finished is kept; \
                hint: read it as any other; it has no last rows");
        Ok(())
    }

    /// Writes the rows of `content`.
    pub(super) fn write(&mut self, content: Content<'_>) -> Exported {
        let rows = content.rows();
        self.now = content.at();
        let mut exported = Exported::default();
        match self.try_write(content, rows, &mut exported) {
            Ok(()) if self.failing && self.open.is_some() => {
                // Parquet in memory, after a file that could not be finished: not delivered until this one is.
                if let Some(open) = &mut self.open {
                    open.pending += rows;
                }
            }
            // Unless they were in a file that could not be finished.
            Ok(()) if !self.failing => exported.sent += rows,
            Ok(()) => {}
            Err(error) => {
                self.complain(&error);
                exported.failed += rows;
            }
        }
        exported
    }

    /// Adds to `exported` what became of earlier rows, and of those of `content` if their file could not be finished.
    fn try_write(&mut self, content: Content<'_>, rows: u64, exported: &mut Exported) -> io::Result<()> {
        self.forget_removed(exported);
        let begun = content.start();
        if self.is_aged(begun) {
            self.finish_file(0, exported);
        }
        if rows > 0 {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.create(begun)?,
            };
            let written = match &mut open.output {
                Output::Json(file) => file.write(&self.origin, content),
                Output::Parquet(file) => file.write(&self.origin, content),
            };
            match (written, self.format) {
                (Ok(()), format) => {
                    open.rows += rows;
                    self.open = Some(open);
                    // Parquet may be held in memory still: it proves itself when its file is finished.
                    if format == Format::Json {
                        self.settle();
                    }
                }
                // The lines before are as they were.
                (Err(error), Format::Json) => {
                    self.open = Some(open);
                    return Err(error);
                }
                (Err(error), Format::Parquet) => {
                    exported.failed += open.pending;
                    self.discard(&open);
                    return Err(error);
                }
            }
        }
        let is_full = |open: &Open| open.bytes() >= self.rotation.max_bytes;
        if self.open.as_ref().is_some_and(is_full) || self.is_aged(content.at()) {
            self.finish_file(rows, exported);
        }
        Ok(())
    }

    /// Whether the open file spans its time at `moment`, or is of a time that is still to come: the clock was set back.
    fn is_aged(&self, moment: Timestamp) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| moment < open.begun || moment.since(open.begun) >= self.rotation.max_age)
    }

    fn create(&self, begun: Timestamp) -> io::Result<Open> {
        create_folder(&self.names.folder)?;
        let mut name = Name::starting(begun);
        for _ in 0..MAX_NAMES {
            let path = self.names.partial(&name);
            // A finished file must not be written over, nor one that is being written.
            if !self.names.finished(&name).exists() {
                // Peers and traffic are private.
                let private = OpenOptions::new()
                    .append(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path);
                match private {
                    Ok(file) => return self.begin(name, path, begun, file),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            name = name.next();
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{MAX_NAMES} files of one second exist already"),
        ))
    }

    fn begin(&self, name: Name, path: PathBuf, begun: Timestamp, file: File) -> io::Result<Open> {
        let begin = || {
            let lock = lock(file.try_clone()?)?.ok_or(io::ErrorKind::WouldBlock)?;
            let output = match self.format {
                Format::Json => Output::Json(JsonFile::new(file, self.compression == Compression::Gzip)),
                Format::Parquet => Output::Parquet(Box::new(ParquetFile::new(
                    file,
                    self.compression,
                    &self.origin,
                    self.kind,
                )?)),
            };
            Ok((output, lock))
        };
        let begun_file: io::Result<_> = begin();
        let (output, lock) = begun_file.inspect_err(|_| remove(&path))?;
        Ok(Open {
            name,
            path,
            begun,
            rows: 0,
            pending: 0,
            output,
            _lock: lock,
        })
    }

    /// Finishes the open file, if there is one. Returns what became of rows that were not counted yet.
    pub(super) fn finish(&mut self) -> Exported {
        let mut exported = Exported::default();
        self.finish_file(0, &mut exported);
        exported
    }

    /// The same; `current` of its rows are of the snapshot that is being written, and not counted yet either.
    fn finish_file(&mut self, current: u64, exported: &mut Exported) {
        let Some(open) = self.open.take() else {
            return;
        };
        let Open {
            name,
            path,
            rows,
            pending,
            output,
            _lock,
            ..
        } = open;
        let synced = match output {
            Output::Json(file) => file.finish(),
            Output::Parquet(file) => file.finish(),
        };
        let finished = synced.and_then(|()| {
            fs::rename(&path, self.names.finished(&name))?;
            // The name is on the disk once the folder is.
            File::open(&self.names.folder)?.sync_all()
        });
        if let Err(error) = finished {
            let uncounted = pending + current;
            exported.failed += uncounted;
            self.telemetry.lost(rows.saturating_sub(uncounted));
            if self.format == Format::Parquet {
                remove(&path);
                self.telemetry.file("discarded", 1);
            }
            self.complain(&error);
            return;
        }
        exported.sent += pending;
        self.telemetry.file("finished", 1);
        self.settle();
        if let Err(error) = self.prune(&name) {
            tracing::warn!(folder = %self.folder().display(), %error, "old files can't be removed; hint: they must belong to flowtap's user");
        }
    }

    /// A file that somebody has removed takes no more rows: nobody would ever read them.
    fn forget_removed(&mut self, exported: &mut Exported) {
        if let Some(open) = self.open.take_if(|open| !open.path.exists()) {
            exported.failed += open.pending;
            self.telemetry.lost(open.rows - open.pending);
            tracing::warn!(path = %open.path.display(), rows = open.rows, "a file was removed while it was being written; \
                hint: remove only files that are finished");
        }
    }

    /// Gives up a file that can't be finished.
    fn discard(&self, open: &Open) {
        remove(&open.path);
        self.telemetry.lost(open.rows - open.pending);
        self.telemetry.file("discarded", 1);
    }

    /// Removes the oldest files beyond `max_files`, of which `newest` is one. Files of a time that is still to come are neither
    /// counted nor removed: the clock was ahead when they were written, and by name each of them is newer than `newest`.
    fn prune(&mut self, newest: &Name) -> io::Result<()> {
        if self.rotation.max_files == 0 {
            return Ok(());
        }
        let (finished, _) = self.names.list()?;
        let (future, past): (Vec<_>, Vec<_>) = finished
            .into_iter()
            .filter(|name| name != newest)
            .partition(|name| name.is_after(self.now));
        self.report_future(&future);
        let surplus = (past.len() + 1).saturating_sub(self.rotation.max_files);
        for name in &past[..surplus.min(past.len())] {
            fs::remove_file(self.names.finished(name))?;
            self.telemetry.file("removed", 1);
        }
        Ok(())
    }

    fn report_future(&mut self, future: &[Name]) {
        if future.len() > self.future_files
            && let Some(first) = future.first()
        {
            tracing::warn!(
                files = future.len(),
                first = %self.names.finished(first).display(),
                now = %self.now,
                "files dated in the future are neither counted nor removed by rotation; hint: the clock was ahead once, remove them by hand"
            );
        }
        self.future_files = future.len();
    }

    fn settle(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(folder = %self.folder().display(), "files can be written again");
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(folder = %self.folder().display(), %error, "files can't be written; tried again with each window; hint: free space, or a smaller rotation.max_files");
        }
    }
}

/// Creates the folder, for its owner only.
fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The lock on `file`; `None` if somebody else has it.
fn lock(file: File) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a file can't be removed");
    }
}
