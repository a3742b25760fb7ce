//! The file that is being written, and when it is finished.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use flowtap_pipeline::{BuildContext, Exported, Resource, Snapshot, Timestamp};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::config::{Compression, Config, Format, Rotation};
use super::json::{self, JsonFile};
use super::names::{Name, Names};
use super::parquet::ParquetFile;
use super::row::{Origin, rows, start};

/// Names that are tried for a file before it is given up.
const MAX_NAMES: usize = 10_000;

/// What became of files and rows.
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
                .with_description("Files of an exporter, by what became of them.")
                .with_unit("{file}")
                .build(),
            lost: context
                .meter
                .u64_counter("exporter_lost_rows")
                .with_description("Rows that were taken for written, and whose file could not be finished.")
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
    output: Output,
    /// Tells another exporter on the same path that this file is not left behind.
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

/// Writes snapshots to files, one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    names: Names,
    format: Format,
    compression: Compression,
    origin: Origin,
    rotation: Rotation,
    telemetry: Telemetry,
    open: Option<Open>,
    /// Whether nothing could be written of late: what goes on for long is told once.
    failing: bool,
}

impl Writer {
    pub(super) fn new(config: &Config, resource: &Resource, telemetry: Telemetry) -> Result<Self, String> {
        Ok(Self {
            names: Names::new(&config.path, config.extension())?,
            format: config.format,
            compression: config.compression(),
            origin: Origin::new(&config.namespace, resource),
            rotation: config.rotation,
            telemetry,
            open: None,
            failing: false,
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

    /// Makes the folder, and puts in order what a crash has left behind there.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        fs::create_dir_all(&self.names.folder)?;
        let (_, left) = self.names.list()?;
        for name in left {
            let path = self.names.partial(&name);
            if let Err(error) = self.take_up(name) {
                tracing::warn!(path = %path.display(), %error, "what was left behind can't be put in order");
            }
        }
        self.prune()
    }

    /// One file that was being written: lines are good up to the last that is whole, Parquet has no footer and can't be read.
    fn take_up(&self, name: Name) -> io::Result<()> {
        let path = self.names.partial(&name);
        let file = OpenOptions::new().write(true).open(&path)?;
        let Some(_lock) = lock(file)? else {
            tracing::warn!(path = %path.display(), "another flowtap writes this file; give each exporter a path of its own");
            return Ok(());
        };
        let length = match (self.format, self.compression) {
            (Format::Parquet, _) => {
                fs::remove_file(&path)?;
                self.telemetry.file("discarded", 1);
                tracing::warn!(path = %path.display(), "a Parquet file that was not finished is removed: it can't be read");
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
        tracing::warn!(path = %recovered.display(), "a file that was not finished is kept");
        Ok(())
    }

    /// Writes the rows of `snapshot`.
    pub(super) fn write(&mut self, snapshot: &Snapshot) -> Exported {
        let rows = rows(snapshot);
        match self.try_write(snapshot, rows) {
            Ok(()) => Exported {
                sent: rows,
                failed: 0,
            },
            Err(error) => {
                self.complain(&error);
                Exported {
                    sent: 0,
                    failed: rows,
                }
            }
        }
    }

    fn try_write(&mut self, snapshot: &Snapshot, rows: u64) -> io::Result<()> {
        self.forget_removed();
        let begun = start(snapshot);
        if self.is_aged(begun) {
            self.finish();
        }
        if rows > 0 {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.create(begun)?,
            };
            let written = match &mut open.output {
                Output::Json(file) => file.write(&self.origin, snapshot),
                Output::Parquet(file) => file.write(&self.origin, snapshot),
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
                    self.discard(&open);
                    return Err(error);
                }
            }
        }
        let is_full = |open: &Open| open.bytes() >= self.rotation.max_bytes;
        if self.open.as_ref().is_some_and(is_full) || self.is_aged(snapshot.at) {
            self.finish();
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
        fs::create_dir_all(&self.names.folder)?;
        let mut name = Name::starting(begun);
        for _ in 0..MAX_NAMES {
            let path = self.names.partial(&name);
            // A finished file must not be written over, nor one that is being written.
            if !self.names.finished(&name).exists() {
                match OpenOptions::new().append(true).create_new(true).open(&path) {
                    Ok(file) => return self.begin(name, path, begun, file),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            name = name.next();
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{MAX_NAMES} files of one second are there already"),
        ))
    }

    fn begin(&self, name: Name, path: PathBuf, begun: Timestamp, file: File) -> io::Result<Open> {
        let begin = || {
            let lock = lock(file.try_clone()?)?.ok_or(io::ErrorKind::WouldBlock)?;
            let output = match self.format {
                Format::Json => Output::Json(JsonFile::new(file, self.compression == Compression::Gzip)),
                Format::Parquet => {
                    Output::Parquet(Box::new(ParquetFile::new(file, self.compression, &self.origin)?))
                }
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
            output,
            _lock: lock,
        })
    }

    /// Finishes the open file, if there is one: to the disk, and then to its own name.
    pub(super) fn finish(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let Open {
            name,
            path,
            rows,
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
            self.telemetry.lost(rows);
            if self.format == Format::Parquet {
                remove(&path);
                self.telemetry.file("discarded", 1);
            }
            self.complain(&error);
            return;
        }
        self.telemetry.file("finished", 1);
        self.settle();
        if let Err(error) = self.prune() {
            tracing::warn!(folder = %self.folder().display(), %error, "old files can't be removed");
        }
    }

    /// A file that somebody has removed takes no more rows: nobody would ever read them.
    fn forget_removed(&mut self) {
        if let Some(open) = self.open.take_if(|open| !open.path.exists()) {
            self.telemetry.lost(open.rows);
            tracing::warn!(path = %open.path.display(), rows = open.rows, "a file was removed while it was being written");
        }
    }

    /// Gives up a file that can't be finished.
    fn discard(&self, open: &Open) {
        remove(&open.path);
        self.telemetry.lost(open.rows);
        self.telemetry.file("discarded", 1);
    }

    /// Removes the oldest files beyond `max_files`.
    fn prune(&self) -> io::Result<()> {
        if self.rotation.max_files == 0 {
            return Ok(());
        }
        let (finished, _) = self.names.list()?;
        let surplus = finished.len().saturating_sub(self.rotation.max_files);
        for name in &finished[..surplus] {
            fs::remove_file(self.names.finished(name))?;
            self.telemetry.file("removed", 1);
        }
        Ok(())
    }

    fn settle(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(folder = %self.folder().display(), "files can be written again");
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(folder = %self.folder().display(), %error, "files can't be written; tried again with each window");
        }
    }
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
