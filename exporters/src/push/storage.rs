//! Requests on disk: written before they are sent, taken away once they are delivered.
//!
//! Requests that a `kill -9` or a power cut leaves are sent after the next start. A request that
//! was delivered, but not yet removed, is sent twice: at least once. Each is compressed and has a
//! checksum; one that does not match it is removed and counted. A file that can't be read as a
//! whole is set aside under another name, and replaced by a new one, also while flowtap runs.

mod config;
mod table;
mod value;

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_pipeline::{BuildContext, PipelineKind, Timestamp, WhenFull};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use redb::Database;
use tokio::sync::Notify;

pub use self::config::StorageConfig;
use self::table::{REQUESTS, count, footprint, is_damage, oldest, open};
use self::value::{decode, encode, items_of};
use super::Request;

/// Why requests can't be kept.
#[derive(Debug)]
pub struct StorageError {
    path: PathBuf,
    /// Part of the message.
    source: Box<redb::Error>,
}

impl std::error::Error for StorageError {}

impl std::fmt::Display for StorageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        // redb speaks of a lock, which nobody knows from the config.
        if matches!(*self.source, redb::Error::DatabaseAlreadyOpen) {
            return write!(
                f,
                "storage.directory: another process uses {path}; \
                 hint: stop the other flowtap, or choose another `storage.directory`"
            );
        }
        write!(f, "storage.directory: {path}: {}", self.source)
    }
}

/// A request that waits, with its number.
#[derive(Debug)]
pub(crate) struct Stored {
    number: u64,
    value_len: usize,
    pub(crate) request: Request,
}

#[derive(Debug, Default)]
struct State {
    /// `None` after a failure: redb must be reopened then, which the next caller does.
    database: Option<Database>,
    /// Whether the requests of the file have been counted.
    counted: bool,
    next: u64,
    bytes: u64,
    items: u64,
    /// A delivered request that could not be removed yet: it must not be sent twice.
    delivered: Option<u64>,
}

/// Requests on disk.
#[derive(Debug)]
pub(crate) struct Storage {
    path: PathBuf,
    config: StorageConfig,
    state: Mutex<State>,
    changed: Notify,
    telemetry: Telemetry,
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
        let storage = Arc::new(Self {
            path: config.directory.join("requests.redb"),
            config: config.clone(),
            state: Mutex::default(),
            changed: Notify::new(),
            telemetry,
        });
        let opened = storage.with(&mut storage.lock(), |_| Ok(()));
        if let Err(error) = opened {
            if context.strict || matches!(*error.source, redb::Error::DatabaseAlreadyOpen) {
                return Err(error);
            }
            tracing::error!(exporter = %context.id, %error, "requests can't be kept on disk for now; they are sent from memory; hint: free space, and a storage.directory that flowtap's user can write to");
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

    /// Appends `request`; it is on disk when this returns. Returns the items that were dropped for
    /// it, or with it, by kind.
    ///
    /// # Errors
    /// [`StorageError`]: it is not on disk.
    pub(crate) fn push(&self, request: &Request) -> Result<Vec<(PipelineKind, u64)>, StorageError> {
        let value = encode(request);
        let size = footprint(value.len());
        let mut state = self.lock();
        // Before the limit is looked at: it may be the first time that the file can be read.
        self.with(&mut state, |_| Ok(()))?;
        let mut dropped = Vec::new();
        while state.items > 0 && state.bytes + size > self.config.max_bytes {
            if self.config.when_full == WhenFull::DropNewest {
                self.count_dropped();
                dropped.push((request.kind, request.items));
                return Ok(dropped);
            }
            let Some((number, oldest)) = self.with(&mut state, oldest)? else {
                break;
            };
            self.remove_number(&mut state, number, oldest.len())?;
            self.count_dropped();
            dropped.push(items_of(&oldest));
        }
        let number = state.next;
        self.with(&mut state, |database| {
            let transaction = database.begin_write()?;
            transaction.open_table(REQUESTS)?.insert(number, &*value)?;
            Ok(transaction.commit()?)
        })?;
        state.next = number + 1;
        state.items += 1;
        state.bytes += size;
        drop(state);
        self.changed.notify_one();
        Ok(dropped)
    }

    fn count_dropped(&self) {
        self.telemetry
            .dropped
            .add(1, std::slice::from_ref(&self.telemetry.exporter));
    }

    /// The oldest request; `None` if none waits. Requests that do not match their checksum are
    /// removed, and counted.
    ///
    /// # Errors
    /// [`StorageError`] if the file can't be read.
    pub(crate) fn first(&self) -> Result<Option<Stored>, StorageError> {
        let mut state = self.lock();
        loop {
            let Some((number, value)) = self.with(&mut state, oldest)? else {
                return Ok(None);
            };
            if state.delivered == Some(number) {
                self.remove_number(&mut state, number, value.len())?;
                state.delivered = None;
                continue;
            }
            let value_len = value.len();
            if let Some(request) = decode(value) {
                return Ok(Some(Stored {
                    number,
                    value_len,
                    request,
                }));
            }
            tracing::error!(file = %self.path.display(), number, "a request on disk is damaged and is skipped; \
                hint: check the disk");
            self.telemetry
                .corrupt
                .add(1, std::slice::from_ref(&self.telemetry.exporter));
            self.remove_number(&mut state, number, value_len)?;
        }
    }

    /// Waits until there is something new.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes `stored` away: it is delivered, or given up.
    ///
    /// # Errors
    /// [`StorageError`]: the request is still stored, and will be removed before the next; another
    /// run would send it a second time.
    pub(crate) fn remove(&self, stored: &Stored) -> Result<(), StorageError> {
        let mut state = self.lock();
        state.delivered = Some(stored.number);
        self.remove_number(&mut state, stored.number, stored.value_len)?;
        state.delivered = None;
        Ok(())
    }

    /// Number of requests that wait, and their bytes.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let state = self.lock();
        (state.items, state.bytes)
    }

    fn remove_number(&self, state: &mut State, number: u64, value_len: usize) -> Result<(), StorageError> {
        let removed = self.with(state, |database| {
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

    /// Does `work` with the file, which is opened first if that has failed before: redb must be reopened after any write that
    /// failed, as on a full disk. A file that turns out to be damaged is set aside, and `work` done with a new one.
    fn with<T>(
        &self,
        state: &mut State,
        work: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let failed = |source| StorageError {
            path: self.path.clone(),
            source: Box::new(source),
        };
        match self.attempt(state, &work) {
            Err(error) if is_damage(&error) => {
                self.set_aside(state, &error).map_err(failed)?;
                self.attempt(state, &work).map_err(failed)
            }
            outcome => outcome.map_err(failed),
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
                open(&self.path)?
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
        *state = State {
            next: state.next,
            ..State::default()
        };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts that a panic elsewhere left are off by one at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
