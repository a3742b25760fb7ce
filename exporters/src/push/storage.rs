//! Requests on disk: written before they are sent, taken away once they are delivered.
//!
//! Requests that a `kill -9` or a power cut leaves are sent after the next start. A request that
//! was delivered, but not yet removed, is sent twice: at least once. To remove one needs room on the disk, to read one does not: on a
//! full disk, those that are delivered are skipped until they can be removed. Each is compressed and has a
//! checksum; one that does not match it is removed and counted. A file that can't be read as a
//! whole is set aside under another name, and replaced by a new one, also while flowtap runs.

mod config;
mod table;
mod value;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{BuildContext, PipelineKind, Replaced, Timestamp, WhenFull, WrittenFolder};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use redb::Database;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::config::StorageConfig;
use self::table::{REQUESTS, copy, count, each_value, footprint, is_damage, oldest, open};
use self::value::{decode, encode, items_of};
use super::fate::{Fate, Fates};
use super::warned::{Warned, is_news};
use super::{Lane, Request};

/// Pause after a failure to remove what is delivered: after each, redb has to be reopened.
const REMOVAL_PAUSE: Duration = Duration::from_secs(5);

/// Why requests can't be kept.
#[derive(Debug)]
pub struct StorageError {
    path: PathBuf,
    /// Part of the message.
    source: Box<redb::Error>,
    /// The cause, if the folder was replaced.
    replaced: Option<String>,
}

impl StorageError {
    /// Whether another process has the file, or an exporter of this one that has not ended yet.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(*self.source, redb::Error::DatabaseAlreadyOpen)
    }
}

impl std::error::Error for StorageError {}

impl std::fmt::Display for StorageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        // redb speaks of a lock, which nobody knows from the config.
        if self.is_in_use() {
            return write!(
                f,
                "storage.directory: another process, or another exporter of this one, uses {path}; \
                 hint: stop the other flowtap, or choose another `storage.directory`"
            );
        }
        write!(f, "storage.directory: {path}: {}", self.source)?;
        match &self.replaced {
            Some(replaced) => write!(f, ": {replaced}"),
            None => Ok(()),
        }
    }
}

/// A request that waits, with its number.
#[derive(Debug)]
pub(crate) struct Stored {
    number: u64,
    lane: Lane,
    value_len: usize,
    pub(crate) request: Request,
}

#[derive(Debug, Default)]
struct State {
    /// `None` after a failure: redb must be reopened then, which the next caller does.
    database: Option<Database>,
    /// The device and the inode of the file that is open.
    file: Option<(u64, u64)>,
    /// Whether the requests of the file have been counted.
    counted: bool,
    next: u64,
    bytes: u64,
    items: u64,
    /// The number before which no request waits, by lane: requests of a lane are delivered in their order.
    from: BTreeMap<Lane, u64>,
    /// Delivered requests that could not be removed yet, with the lengths of their values: they must not be sent twice.
    delivered: BTreeMap<u64, usize>,
    /// When their removal is tried again.
    removal_at: Option<Instant>,
    /// The last warning about them.
    warned: Warned,
    /// The request of each lane that is being sent: it makes room for no other.
    under_way: BTreeMap<Lane, u64>,
    /// Of requests with points.
    fates: Fates,
    /// Writes fail, as on a full disk.
    #[cfg(test)]
    full: bool,
}

/// Requests on disk.
#[derive(Debug)]
pub(crate) struct Storage {
    path: PathBuf,
    folder: WrittenFolder,
    config: StorageConfig,
    state: Mutex<State>,
    changed: Changed,
    telemetry: Telemetry,
}

/// Wakes the lanes.
#[derive(Debug, Default)]
struct Changed {
    /// The lane of metrics, or that of all.
    metrics: Notify,
    logs: Notify,
}

impl Changed {
    fn notify(&self, kind: PipelineKind) {
        self.metrics.notify_one();
        if kind == PipelineKind::Logs {
            self.logs.notify_one();
        }
    }

    const fn of(&self, lane: Lane) -> &Notify {
        match lane {
            Some(PipelineKind::Logs) => &self.logs,
            _ => &self.metrics,
        }
    }
}

#[derive(Debug)]
struct Telemetry {
    corrupt: Counter<u64>,
    dropped: Counter<u64>,
    exporter: KeyValue,
}

impl Storage {
    /// Opens or creates the file. One that can't be opened now, such as on a disk that is mounted
    /// later, is opened by the first request that can: that must not prevent measuring, unless
    /// `strict`.
    ///
    /// # Errors
    /// [`StorageError`] with the path, if another process has the file or flowtap is strict.
    pub(crate) fn open(config: &StorageConfig, context: &BuildContext) -> Result<Arc<Self>, StorageError> {
        let exporter = KeyValue::new("exporter", context.id.to_string());
        let counter = |name, description| {
            let counter = context
                .meter
                .u64_counter(name)
                .with_description(description)
                .with_unit("{request}")
                .build();
            counter.add(0, std::slice::from_ref(&exporter));
            counter
        };
        let telemetry = Telemetry {
            corrupt: counter(
                "exporter_storage_corrupt_requests",
                "Requests on disk that did not match their checksum, and files that could not be read.",
            ),
            dropped: counter(
                "exporter_storage_dropped_requests",
                "Requests dropped because the requests on disk had reached their limit.",
            ),
            exporter,
        };
        // If that fails, so does what follows, with the message.
        let _ = fs::create_dir_all(&config.directory);
        let storage = Arc::new(Self {
            folder: WrittenFolder::new(&config.directory),
            path: config.directory.join("requests.redb"),
            config: config.clone(),
            state: Mutex::default(),
            changed: Changed::default(),
            telemetry,
        });
        let opened = storage.with(&mut storage.lock(), |_| Ok(()));
        if let Err(error) = opened {
            if context.strict || error.is_in_use() {
                return Err(error);
            }
            tracing::error!(exporter = %context.id, %error, "requests can't be kept on disk for now; they are sent from memory; hint: free space, and use a storage.directory that flowtap's user can write to");
        }
        let (requests, bytes) = storage.waiting();
        if requests > 0 {
            tracing::info!(exporter = %context.id, requests, bytes, "requests of an earlier run wait on disk");
        }
        storage.show(context);
        Ok(storage)
    }

    /// Gauges of what waits.
    fn show(self: &Arc<Self>, context: &BuildContext) {
        let gauge = |name, description, unit, value: fn((u64, u64)) -> u64| {
            let (storage, exporter) = (Arc::downgrade(self), self.telemetry.exporter.clone());
            context
                .meter
                .u64_observable_gauge(name)
                .with_description(description)
                .with_unit(unit)
                .with_callback(move |observer| {
                    if let Some(storage) = storage.upgrade() {
                        observer.observe(value(storage.waiting()), std::slice::from_ref(&exporter));
                    }
                })
                .build();
        };
        gauge(
            "exporter_storage_requests",
            "Requests that wait on disk.",
            "{request}",
            |(requests, _)| requests,
        );
        gauge(
            "exporter_storage_size",
            "Bytes of the waiting requests on disk.",
            "By",
            |(_, bytes)| bytes,
        );
    }

    /// [`Self::keep`] without the request's fate.
    #[cfg(test)]
    fn push(&self, request: &Request) -> Result<Vec<(PipelineKind, u64)>, StorageError> {
        self.keep(request).map(|(_, dropped)| dropped)
    }

    /// Appends `request`; it is on disk when this returns, unless it is dropped itself. Returns the items that were dropped for
    /// it, or with it, by kind.
    ///
    /// # Errors
    /// [`StorageError`]: it is not on disk.
    pub(crate) fn keep(&self, request: &Request) -> Result<(Fate, Vec<(PipelineKind, u64)>), StorageError> {
        let value = encode(request);
        let size = footprint(value.len());
        let mut state = self.lock();
        // Before the limit is looked at: it may be the first time that the file can be read.
        self.with(&mut state, |_| Ok(()))?;
        self.follow(&mut state)?;
        let mut dropped = Vec::new();
        while state.items > 0 && state.bytes + size > self.config.max_bytes {
            if self.config.when_full == WhenFull::DropNewest {
                // Those that are delivered must not be in the way of a new one. If they can't be removed, it is sent from memory.
                if !state.delivered.is_empty() {
                    self.try_to_remove_delivered(&mut state)?;
                    continue;
                }
                self.count_dropped();
                dropped.push((request.kind, request.items));
                return Ok((Fate::Failed { content: false }, dropped));
            }
            let under_way: Vec<_> = state.under_way.values().copied().collect();
            let found = self.with(&mut state, |database| {
                let mut found = oldest(database, 0, None)?;
                // The peer may have these by now: counted as lost, they would be counted twice.
                while let Some((number, _)) = found.as_ref().filter(|(number, _)| under_way.contains(number))
                {
                    found = oldest(database, number + 1, None)?;
                }
                Ok(found)
            })?;
            let Some((number, oldest)) = found else {
                break;
            };
            self.remove_number(&mut state, number, oldest.len())?;
            if state.delivered.remove(&number).is_some() {
                continue;
            }
            self.count_dropped();
            let (kind, items) = items_of(&oldest);
            if kind == PipelineKind::Metrics {
                state.fates.push(number, Fate::Failed { content: false });
            }
            dropped.push((kind, items));
        }
        let number = state.next;
        self.write(&mut state, |database| {
            let transaction = database.begin_write()?;
            transaction.open_table(REQUESTS)?.insert(number, &*value)?;
            Ok(transaction.commit()?)
        })?;
        // There is room now.
        state.removal_at = None;
        state.next = number + 1;
        state.items += 1;
        state.bytes += size;
        drop(state);
        self.changed.notify(request.kind);
        Ok((Fate::Stored(number), dropped))
    }

    /// `stored` has met `fate`.
    pub(crate) fn settle(&self, stored: &Stored, fate: Fate) {
        if stored.request.kind == PipelineKind::Metrics {
            self.lock().fates.push(stored.number, fate);
        }
    }

    /// The fates of requests with points since the last call.
    pub(crate) fn fates(&self) -> VecDeque<(u64, Fate)> {
        self.lock().fates.take()
    }

    fn count_dropped(&self) {
        self.telemetry
            .dropped
            .add(1, std::slice::from_ref(&self.telemetry.exporter));
    }

    /// The oldest request of `lane` that is not delivered; `None` if none waits. Requests that do not match their checksum are
    /// removed, and counted.
    ///
    /// # Errors
    /// [`StorageError`] if the file can't be read.
    pub(crate) fn first(&self, lane: Lane) -> Result<Option<Stored>, StorageError> {
        let mut state = self.lock();
        self.remove_delivered(&mut state);
        loop {
            let from = state.from.get(&lane).copied().unwrap_or_default();
            let Some((number, value)) = self.with(&mut state, |database| oldest(database, from, lane))?
            else {
                // Those of other lanes need not be passed once more.
                let next = state.next;
                state.from.insert(lane, next);
                return Ok(None);
            };
            let value_len = value.len();
            if let Some(request) = decode(value) {
                state.under_way.insert(lane, number);
                return Ok(Some(Stored {
                    number,
                    lane,
                    value_len,
                    request,
                }));
            }
            tracing::error!(file = %self.path.display(), number, "a request on disk is damaged and is skipped; \
                hint: check the disk");
            self.telemetry
                .corrupt
                .add(1, std::slice::from_ref(&self.telemetry.exporter));
            // Of either kind: that of log records is in nobody's books.
            state.fates.push(number, Fate::Failed { content: false });
            state.from.insert(lane, number + 1);
            state.delivered.insert(number, value_len);
            self.remove_delivered(&mut state);
        }
    }

    /// Waits until there is something new, or time to try again to remove what is delivered.
    pub(crate) async fn changed(&self, lane: Lane) {
        let unremoved = self.unremoved() > 0;
        tokio::select! {
            () = self.changed.of(lane).notified() => {}
            () = tokio::time::sleep(REMOVAL_PAUSE), if unremoved => {}
        }
    }

    /// Takes `stored` away: it is delivered, or given up. One that can't be removed for want of room is skipped from now on; another
    /// run would send it a second time.
    pub(crate) fn remove(&self, stored: &Stored) {
        let mut state = self.lock();
        state.under_way.remove(&stored.lane);
        state.from.insert(stored.lane, stored.number + 1);
        state.delivered.insert(stored.number, stored.value_len);
        self.remove_delivered(&mut state);
    }

    /// Tries a last time to remove what is delivered.
    pub(crate) fn remove_rest(&self) {
        let mut state = self.lock();
        state.removal_at = None;
        self.remove_delivered(&mut state);
    }

    /// The items of `lane` that wait in a file that somebody removed or replaced, and that can't be written again: no later start finds it.
    pub(crate) fn orphaned(&self, lane: Lane) -> BTreeMap<PipelineKind, u64> {
        let mut orphaned = BTreeMap::new();
        let mut state = self.lock();
        let Err(error) = self.follow(&mut state) else {
            return orphaned;
        };
        let State {
            database, delivered, ..
        } = &*state;
        if let Some(database) = database {
            // One that can't be read has no numbers.
            let _ = each_value(database, |number, value| {
                let (kind, items) = items_of(value);
                if lane.is_none_or(|of| of == kind) && !delivered.contains_key(&number) {
                    *orphaned.entry(kind).or_default() += items;
                }
            });
        }
        if !orphaned.is_empty() {
            tracing::warn!(exporter = %self.telemetry.exporter.value, %error, lost = ?orphaned,
                "the file of requests was removed or replaced while flowtap used it: what waits in it is lost; \
                hint: stop flowtap before `storage.directory` is moved or emptied");
        }
        orphaned
    }

    /// Writes the requests to a new file if that in use is no longer at its path: it would be gone when flowtap stops.
    fn follow(&self, state: &mut State) -> Result<(), StorageError> {
        if state.file.is_none() || identity(&self.path) == state.file {
            return Ok(());
        }
        let Some(database) = state.database.take() else {
            return Ok(());
        };
        let moved = self.rewrite(&database);
        match moved {
            Ok(new) => {
                state.database = Some(new);
                state.file = identity(&self.path);
                tracing::warn!(exporter = %self.telemetry.exporter.value, file = %self.path.display(), requests = state.items,
                    "the file of requests was removed or replaced while flowtap used it, and is written again; \
                    hint: stop flowtap before `storage.directory` is moved or emptied");
                Ok(())
            }
            Err(source) => {
                state.database = Some(database);
                Err(self.failed(source))
            }
        }
    }

    /// A new file at the path, with the requests of `database`. What is there is renamed.
    fn rewrite(&self, database: &Database) -> Result<Database, redb::Error> {
        fs::create_dir_all(&self.config.directory)?;
        let beside = self.path.with_extension("redb-new");
        let new = copy(database, &beside)?;
        if self.path.exists() {
            let now = Timestamp::now().as_nanos() / 1_000_000_000;
            fs::rename(&self.path, self.path.with_extension(format!("replaced-{now}")))?;
        }
        fs::rename(beside, &self.path)?;
        Ok(new)
    }

    /// Number of delivered requests that are still in the file.
    pub(crate) fn unremoved(&self) -> usize {
        self.lock().delivered.len()
    }

    /// Number of requests that wait, and their bytes.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let state = self.lock();
        let delivered: u64 = state.delivered.values().map(|len| footprint(*len)).sum();
        (
            state.items.saturating_sub(state.delivered.len() as u64),
            state.bytes.saturating_sub(delivered),
        )
    }

    /// Removes what is delivered, unless that has failed a moment ago.
    fn remove_delivered(&self, state: &mut State) {
        let early = state.removal_at.is_some_and(|at| Instant::now() < at);
        if state.delivered.is_empty() || early {
            return;
        }
        let Err(error) = self.try_to_remove_delivered(state) else {
            return;
        };
        if is_news(&mut state.warned, &error.to_string()) {
            tracing::warn!(
                exporter = %self.telemetry.exporter.value,
                %error,
                requests = state.delivered.len(),
                "delivered requests can't be removed from disk, and are skipped; \
                    hint: make room, or the right to write, in `storage.directory`; if flowtap stops before, they are sent a second time"
            );
        }
    }

    /// The same at once; the next attempt is later if it fails.
    fn try_to_remove_delivered(&self, state: &mut State) -> Result<(), StorageError> {
        let delivered = std::mem::take(&mut state.delivered);
        let removed = self.write(state, |database| {
            let transaction = database.begin_write()?;
            let mut removed = Vec::with_capacity(delivered.len());
            let mut table = transaction.open_table(REQUESTS)?;
            for (number, value_len) in &delivered {
                // It may have given way to newer ones while it was sent.
                if table.remove(number)?.is_some() {
                    removed.push(*value_len);
                }
            }
            drop(table);
            transaction.commit()?;
            Ok(removed)
        });
        match removed {
            Ok(removed) => {
                for value_len in removed {
                    state.items = state.items.saturating_sub(1);
                    state.bytes = state.bytes.saturating_sub(footprint(value_len));
                }
                state.removal_at = None;
                state.warned = Warned::default();
                Ok(())
            }
            Err(error) => {
                state.delivered = delivered;
                state.removal_at = Some(Instant::now() + REMOVAL_PAUSE);
                Err(error)
            }
        }
    }

    fn remove_number(&self, state: &mut State, number: u64, value_len: usize) -> Result<(), StorageError> {
        let removed = self.write(state, |database| {
            let transaction = database.begin_write()?;
            let removed = transaction.open_table(REQUESTS)?.remove(number)?.is_some();
            transaction.commit()?;
            Ok(removed)
        })?;
        // It may have given way to newer ones while it was sent.
        if removed {
            state.items = state.items.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(footprint(value_len));
        }
        Ok(())
    }

    /// The same as [`Storage::with`], of work that needs room on the disk.
    fn write<T>(
        &self,
        state: &mut State,
        work: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        #[cfg(test)]
        if state.full {
            return self.with(state, |_| {
                Err(redb::Error::Io(std::io::ErrorKind::StorageFull.into()))
            });
        }
        self.with(state, work)
    }

    /// Does `work` with the file, which is opened first if that has failed before: redb must be reopened after any write that
    /// failed, as on a full disk. A file that turns out to be damaged is set aside, and `work` done with a new one.
    fn with<T>(
        &self,
        state: &mut State,
        work: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let failed = |source| self.failed(source);
        match self.attempt(state, &work) {
            Err(error) if is_damage(&error) => {
                self.set_aside(state, &error).map_err(failed)?;
                self.attempt(state, &work).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    fn failed(&self, source: redb::Error) -> StorageError {
        StorageError {
            path: self.path.clone(),
            replaced: match &source {
                redb::Error::Io(error) => self
                    .folder
                    .explain(error)
                    .map(|replaced| format!("{replaced}; hint: {}", Replaced::HINT)),
                _ => None,
            },
            source: Box::new(source),
        }
    }

    fn attempt<T>(
        &self,
        state: &mut State,
        work: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        // Of a damaged file redb's debug assertions may fail; in a release they are errors.
        let guarded = || {
            let database = if let Some(database) = state.database.take() {
                database
            } else {
                fs::create_dir_all(&self.config.directory)?;
                let database = open(&self.path)?;
                state.file = identity(&self.path);
                database
            };
            if !state.counted {
                let next;
                (next, state.items, state.bytes) = count(&database)?;
                state.next = state.next.max(next);
                state.counted = true;
            }
            let done = work(&database)?;
            state.database = Some(database);
            Ok(done)
        };
        std::panic::catch_unwind(AssertUnwindSafe(guarded)).unwrap_or_else(|_| {
            let message = "redb panicked; the message is above".to_owned();
            Err(redb::Error::Corrupted(message))
        })
    }

    /// Gives a damaged file a name that none has, so that it can be looked at, and forgets what it held.
    fn set_aside(&self, state: &mut State, why: &redb::Error) -> Result<(), redb::Error> {
        let now = Timestamp::now().as_nanos() / 1_000_000_000;
        let names = (0..).map(|attempt| {
            let suffix = if attempt == 0 {
                String::new()
            } else {
                format!("-{attempt}")
            };
            self.path.with_extension(format!("corrupt-{now}{suffix}"))
        });
        for aside in names {
            if aside.exists() {
                continue;
            }
            tracing::error!(
                file = %self.path.display(),
                aside = %aside.display(),
                error = %why,
                requests = state.items,
                "the file of requests is damaged; it is set aside, and a new one is created; \
                hint: check the disk; the file that was set aside can be deleted"
            );
            fs::rename(&self.path, aside)?;
            break;
        }
        self.telemetry
            .corrupt
            .add(state.items.max(1), std::slice::from_ref(&self.telemetry.exporter));
        // Numbers go on: one that is under way must not be taken for another in the new file.
        // Of the newest numbers; that of one under way comes with its answer.
        let mut fates = std::mem::take(&mut state.fates);
        let held = state.next.saturating_sub(state.items)..state.next;
        let under_way = std::mem::take(&mut state.under_way);
        for number in held.filter(|number| under_way.values().all(|sent| sent != number)) {
            fates.push(number, Fate::Failed { content: false });
        }
        *state = State {
            next: state.next,
            under_way,
            fates,
            ..State::default()
        };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts that a panic elsewhere left are off by one at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device and the inode of the file at `path`.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
