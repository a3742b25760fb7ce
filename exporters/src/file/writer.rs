//! The files that are being written, and when they are finished.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowtap_pipeline::{Exported, PipelineKind, Replaced, Resource, Timestamp, WrittenFolder};
use nix::fcntl::Flock;

use super::config::{Compression, Config, Format, Rotation};
use super::content::Content;
use super::convert::convert;
use super::json::JsonFile;
use super::names::{Name, Names};
use super::parquet::ParquetFile;
use super::recovery::{Recovery, lock, publish, remove, set_aside};
use super::retention::Retention;
use super::row::Origin;
use super::telemetry::{FileEvent, Telemetry};
use super::upload::Uploads;

/// Names that are tried for a file before it is given up.
const MAX_NAMES: usize = 10_000;

/// Files of log records that are being written: that of the current partition, and that of the one before it.
const MAX_OPEN: usize = 2;

/// After this time without a row a file of log records is finished whose partition is over. A UDP flow that ends idle has its record in the
/// partition of its last datagram, and by then there are records of the next one.
const LATE: Duration = Duration::from_secs(120);

/// Files that could not be finished are tried again after this time.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Output {
    Json(JsonFile),
    Parquet(Box<ParquetFile>),
}

impl Output {
    fn write(&mut self, origin: &Origin, content: &Content<'_>) -> io::Result<()> {
        match self {
            Self::Json(file) => file.write(origin, content),
            Self::Parquet(file) => file.write(origin, content),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self {
            Self::Json(file) => file.sync(),
            Self::Parquet(file) => file.sync(),
        }
    }

    const fn bytes(&self) -> u64 {
        match self {
            Self::Json(file) => file.bytes(),
            Self::Parquet(file) => file.bytes(),
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
struct Open {
    name: Name,
    path: PathBuf,
    partition: String,
    /// When its first window began.
    begun: Timestamp,
    /// The end of the window with which it was last put on the disk.
    synced: Timestamp,
    /// The end of the newest window with a row of it.
    written: Timestamp,
    rows: u64,
    output: Output,
    /// Shows another exporter on the same path that this file is in use.
    _lock: Flock<File>,
}

/// Writes series or log records to files, one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    kind: PipelineKind,
    names: Names,
    /// The folder of all kinds, below which the sandbox permits files.
    root: WrittenFolder,
    format: Format,
    compression: Compression,
    origin: Origin,
    rotation: Rotation,
    sync_interval: Duration,
    telemetry: Telemetry,
    uploads: Option<Uploads>,
    /// At most [`MAX_OPEN`], each of another partition; the newest is the last.
    open: Vec<Open>,
    /// Why the last write failed, if it did: a failure that lasts is logged once.
    failing: Option<String>,
    /// The end of the newest window: what this exporter takes for now.
    now: Timestamp,
    /// When files were last left unfinished, if there are any.
    unfinished: Option<Timestamp>,
    retention: Retention,
}

impl Writer {
    pub(super) fn new(
        config: &Config,
        resource: &Resource,
        telemetry: Telemetry,
        uploads: Option<Uploads>,
        kind: PipelineKind,
    ) -> Result<Self, String> {
        Ok(Self {
            kind,
            names: config.names(kind, resource.node())?,
            root: WrittenFolder::new(config.root()),
            format: config.format,
            compression: config.compression(),
            origin: Origin::new(&config.namespace, resource),
            rotation: config.rotation,
            sync_interval: config.sync_interval,
            telemetry,
            uploads,
            open: Vec::new(),
            failing: None,
            now: Timestamp::default(),
            unfinished: None,
            retention: Retention::default(),
        })
    }

    /// The folder that all files are in.
    pub(super) fn folder(&self) -> &Path {
        &self.names.root
    }

    /// Why the last attempt failed.
    #[cfg(test)]
    pub(super) fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    /// Creates the folder, and finishes files that a crash has left there.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        create_folder(&self.names.root)?;
        self.root.refresh();
        // Old files are removed with the first one that is finished: until a window has come it is not known what is old.
        self.recover()
    }

    fn recover(&mut self) -> io::Result<()> {
        let recovery = Recovery {
            names: &self.names,
            format: self.format,
            compression: self.compression,
            telemetry: &self.telemetry,
        };
        let left = recovery.run(&self.open.iter().map(|open| &open.name).collect::<Vec<_>>())?;
        self.unfinished = (left > 0).then_some(self.now);
        if let Some(uploads) = &self.uploads {
            let (finished, _) = self.names.list()?;
            for name in finished {
                uploads.finished(&name, &self.names.finished(&name));
            }
        }
        Ok(())
    }

    /// Writes the rows of `content`.
    pub(super) fn write(&mut self, content: Content<'_>) -> Exported {
        self.now = content.at();
        let mut exported = Exported::default();
        for part in content.by_partition(&self.names) {
            let rows = part.rows();
            match self.write_part(&part, rows) {
                Ok(()) => exported.sent += rows,
                Err(error) => {
                    self.complain(&error);
                    exported.failed += rows;
                }
            }
        }
        self.maintain();
        exported
    }

    fn write_part(&mut self, part: &Content<'_>, rows: u64) -> io::Result<()> {
        self.forget_removed();
        let partition = self.names.partition(part.first());
        self.finish_aged(part.start());
        if rows > 0 {
            let kept = self.open.iter().position(|open| open.partition == partition);
            let mut open = if let Some(index) = kept {
                self.open.remove(index)
            } else {
                self.make_room();
                self.create(part, partition)?
            };
            let written = open.output.write(&self.origin, part);
            match written {
                Ok(()) => {
                    open.rows += rows;
                    open.written = part.at();
                    self.keep(open);
                }
                Err(error) => {
                    // The rows before are as they were.
                    if open.rows == 0 {
                        remove(&open.path);
                    } else {
                        self.keep(open);
                    }
                    return Err(error);
                }
            }
            self.settle();
        }
        self.finish_those(|open, writer| open.output.bytes() >= writer.rotation.max_bytes);
        self.finish_aged(part.at());
        Ok(())
    }

    /// Finishes the files that must not be open beside a new one. Of series a window is in one partition, and none comes late.
    fn make_room(&mut self) {
        let others = match self.kind {
            PipelineKind::Logs => MAX_OPEN - 1,
            PipelineKind::Metrics => 0,
        };
        while self.open.len() > others {
            let oldest = self.open.remove(0);
            self.finish_one(&oldest);
        }
    }

    fn keep(&mut self, open: Open) {
        self.open.push(open);
        self.open.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Finishes the files that span their time at `moment`, that are of a time that is still to come (the clock was set back), or whose
    /// partition has been over for long enough.
    fn finish_aged(&mut self, moment: Timestamp) {
        let current = self.names.partition(moment);
        self.finish_those(|open, writer| {
            let is_over = writer.kind == PipelineKind::Logs && open.partition != current;
            let (since, limit) = if is_over {
                (open.written, LATE)
            } else {
                (open.begun, writer.rotation.max_age)
            };
            moment < open.begun || moment.since(since) >= limit
        });
    }

    fn finish_those(&mut self, mut is_due: impl FnMut(&Open, &Self) -> bool) {
        if self.open.is_empty() {
            return;
        }
        let (due, open) = std::mem::take(&mut self.open)
            .into_iter()
            .partition::<Vec<_>, _>(|open| is_due(open, self));
        self.open = open;
        for open in &due {
            self.finish_one(open);
        }
    }

    /// Syncs, tries again what could not be finished, and removes what is too old.
    fn maintain(&mut self) {
        let now = self.now;
        let mut failure = None;
        let is_due = |open: &&mut Open| now < open.synced || now.since(open.synced) >= self.sync_interval;
        for open in self.open.iter_mut().filter(is_due) {
            open.synced = now;
            failure = open.output.sync().err().or(failure);
        }
        if let Some(error) = failure {
            self.complain(&error);
        }
        if self
            .unfinished
            .is_some_and(|since| now < since || now.since(since) >= RETRY)
        {
            match self.recover() {
                Ok(()) if self.unfinished.is_none() => {
                    tracing::info!(folder = %self.folder().display(), "files that could not be finished are finished now");
                }
                Ok(()) => {}
                Err(_) => self.unfinished = Some(now),
            }
        }
        if self.retention.is_due(now, &self.rotation) {
            self.prune(None);
        }
    }

    fn create(&self, part: &Content<'_>, partition: String) -> io::Result<Open> {
        let mut name = Name::starting(part.first());
        create_folder(&self.names.folder(&name))?;
        for _ in 0..MAX_NAMES {
            let path = self.names.partial(&name);
            // A finished file must not be written over, nor one that is being written; and a journal beside its own finished file
            // has been converted (`recovery`).
            let taken = [&name, &name.clone().recovered()].map(|name| self.names.finished(name).exists());
            if taken == [false; 2] {
                // Peers and traffic are private.
                let private = OpenOptions::new()
                    .append(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path);
                match private {
                    Ok(file) => {
                        let (output, lock) = self.begin(file).inspect_err(|_| remove(&path))?;
                        return Ok(Open {
                            name,
                            path,
                            partition,
                            begun: part.start(),
                            synced: part.start(),
                            written: part.start(),
                            rows: 0,
                            output,
                            _lock: lock,
                        });
                    }
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

    fn begin(&self, file: File) -> io::Result<(Output, Flock<File>)> {
        let lock = lock(file.try_clone()?)?.ok_or(io::ErrorKind::WouldBlock)?;
        let output = match self.format {
            Format::Json => Output::Json(JsonFile::new(file, self.compression == Compression::Gzip)),
            Format::Parquet => Output::Parquet(Box::new(ParquetFile::new(file, &self.origin, self.kind)?)),
        };
        Ok((output, lock))
    }

    /// Finishes the files that are open.
    pub(super) fn finish(&mut self) {
        self.finish_those(|_, _| true);
    }

    /// Finishes a file. If that fails, its rows stay where they are, and it is tried again.
    fn finish_one(&mut self, open: &Open) {
        if let Err(error) = self.publish(open) {
            if self.unfinished.replace(self.now).is_none() {
                tracing::warn!(path = %open.path.display(), %error, "a file can't be finished; its rows are kept, and it is tried again in a minute; \
                hint: free space, or use a smaller rotation.max_bytes");
            }
            return;
        }
        self.telemetry.file(FileEvent::Finished);
        if let Some(uploads) = &self.uploads {
            uploads.finished(&open.name, &self.names.finished(&open.name));
        }
        self.prune(Some(&open.name));
    }

    fn publish(&self, open: &Open) -> io::Result<()> {
        let target = self.names.finished(&open.name);
        match &open.output {
            Output::Json(file) => {
                file.sync()?;
                publish(&self.names, &open.path, &target)
            }
            Output::Parquet(_) => {
                let temporary = self.names.converting(&open.name);
                let converted = convert(&open.path, &temporary, self.compression)
                    .and_then(|converted| {
                        if converted.damaged > 0 {
                            set_aside(&open.path, converted.damaged, &self.telemetry)?;
                        }
                        Ok(converted)
                    })
                    .and_then(|converted| publish(&self.names, &temporary, &target).map(|()| converted))
                    .inspect_err(|_| remove(&temporary))?;
                if converted.rows < open.rows {
                    self.telemetry.lost(open.rows - converted.rows);
                    tracing::warn!(path = %target.display(), rows = open.rows - converted.rows, "rows that were written can't be read again; \
                hint: check the disk");
                }
                fs::remove_file(&open.path)
            }
        }
    }

    /// A file that somebody has removed takes no more rows: nobody would ever read them.
    fn forget_removed(&mut self) {
        for open in self.open.extract_if(.., |open| !open.path.exists()) {
            self.telemetry.lost(open.rows);
            tracing::warn!(path = %open.path.display(), rows = open.rows, "a file was removed while it was being written; \
                hint: remove only files that are finished");
        }
    }

    fn prune(&mut self, newest: Option<&Name>) {
        let removed = |name: &Name| {
            if let Some(uploads) = &self.uploads {
                uploads.removed(name, &self.names.finished(name));
            }
        };
        let pruned = self.retention.apply(
            &self.names,
            &self.rotation,
            newest,
            self.now,
            &self.telemetry,
            removed,
        );
        if let Err(error) = pruned {
            tracing::warn!(folder = %self.folder().display(), %error, "old files can't be removed; hint: make flowtap's user their owner");
        }
    }

    fn settle(&mut self) {
        if let Some(error) = self.failing.take() {
            self.telemetry.recovered(&error);
            tracing::info!(folder = %self.folder().display(), "files can be written again");
        }
    }

    pub(super) fn complain(&mut self, error: &io::Error) {
        let folder = self.folder().display();
        let (cause, hint) = match self.root.explain(error) {
            Some(replaced) => (format!("{error}: {replaced}"), Replaced::HINT),
            None => (error.to_string(), hint(error)),
        };
        let message = format!("files can't be written to {folder}: {cause}; hint: {hint}");
        // Another cause is news, the same is not.
        if self.failing.as_ref() != Some(&message) {
            tracing::warn!(
                "files can't be written to {folder}: {cause}; tried again with each window; hint: {hint}"
            );
        }
        self.telemetry.failing(&message);
        self.failing = Some(message);
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space, or a smaller rotation.max_files"
        }
        _ => flowtap_pipeline::files::write_hint(error),
    }
}

/// Creates the folder, for its owner only.
fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
