//! Requests on disk: written before they are sent, taken away once they are delivered.
//!
//! What a `kill -9` or a power cut leaves is sent after the next start. A request that was delivered, but not yet taken away, is
//! sent again: at least once. Each has a checksum; what does not match it is taken away and counted, and a file that can't be
//! read as a whole is put aside under another name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flowtap_pipeline::{BuildContext, Fault, WhenFull};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Request;

/// Requests by number, in the order in which they came: checksum (4 bytes), points (8 bytes), body.
const REQUESTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requests");

const HEAD_BYTES: usize = 12;

/// What is kept of the file in memory.
const CACHE_BYTES: usize = 1 << 20;

/// Where requests wait, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// A folder, made if it is missing. One exporter's only.
    pub directory: PathBuf,
    /// Bytes of requests that may wait.
    #[serde(default = "max_bytes")]
    pub max_bytes: u64,
    /// What gives way when there are that many.
    #[serde(default)]
    pub when_full: WhenFull,
}

const fn max_bytes() -> u64 {
    256 << 20
}

impl StorageConfig {
    /// What is wrong with it.
    pub(crate) fn validate(&self) -> Option<Fault> {
        let path = |key: &str| vec!["storage".to_owned(), key.to_owned()];
        if self.when_full == WhenFull::Block {
            return Some(Fault {
                path: path("when_full"),
                message: "a disk that is full would stop the exporter: choose drop_oldest or drop_newest"
                    .to_owned(),
            });
        }
        (self.max_bytes < 1 << 20).then(|| Fault {
            path: path("max_bytes"),
            message: "must be at least 1048576: less holds no request".to_owned(),
        })
    }
}

/// Why requests can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct StorageError {
    path: PathBuf,
    source: Box<redb::Error>,
}

/// A request that waits, with its number.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) number: u64,
    pub(crate) request: Request,
}

#[derive(Debug, Default)]
struct State {
    /// `None` after a failure: redb takes nothing more then, and the next who wants it opens it again.
    database: Option<Database>,
    next: u64,
    bytes: u64,
    items: u64,
    /// One that is delivered, and could not be taken away yet: it must not be sent again.
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
    /// Opens or makes the file.
    ///
    /// # Errors
    /// [`StorageError`] with the path.
    pub(crate) fn open(config: &StorageConfig, context: &BuildContext) -> Result<Arc<Self>, StorageError> {
        let path = config.directory.join("requests.redb");
        let failed = |source: redb::Error| StorageError {
            path: path.clone(),
            source: Box::new(source),
        };
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
                "Requests that gave way because those on disk had reached their limit.",
            ),
            exporter,
        };
        fs::create_dir_all(&config.directory).map_err(|error| failed(redb::Error::Io(error)))?;
        let database = match open(&path) {
            Ok(database) => database,
            Err(DatabaseError::Storage(redb::StorageError::Corrupted(what))) => {
                let aside = path.with_extension("corrupt");
                tracing::error!(file = %path.display(), aside = %aside.display(), what, "a file of requests can't be read and is put aside");
                telemetry
                    .corrupt
                    .add(1, std::slice::from_ref(&telemetry.exporter));
                fs::rename(&path, &aside).map_err(|error| failed(redb::Error::Io(error)))?;
                open(&path).map_err(|error| failed(error.into()))?
            }
            // Another process has it, or the system refuses.
            Err(error) => return Err(failed(error.into())),
        };
        let mut state = count(&database).map_err(&failed)?;
        state.database = Some(database);
        if state.items > 0 {
            tracing::info!(
                requests = state.items,
                bytes = state.bytes,
                "requests of an earlier run wait on disk"
            );
        }
        let storage = Arc::new(Self {
            path,
            config: config.clone(),
            state: Mutex::new(state),
            changed: Notify::new(),
            telemetry,
        });
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
            "Bytes of the requests that wait on disk.",
            "By",
            |(_, bytes)| bytes,
        );
    }

    /// Appends `request`; it is on disk when this returns. Returns the points that gave way for it, or with it.
    ///
    /// # Errors
    /// [`StorageError`]: it is not on disk.
    pub(crate) fn push(&self, request: &Request) -> Result<u64, StorageError> {
        let mut state = self.lock();
        let size = request.body.len() as u64;
        let mut gave_way = 0;
        while state.items > 0 && state.bytes + size > self.config.max_bytes {
            if self.config.when_full == WhenFull::DropNewest {
                self.telemetry
                    .dropped
                    .add(1, std::slice::from_ref(&self.telemetry.exporter));
                return Ok(gave_way + request.points);
            }
            let Some(oldest) = self.with(&mut state, oldest)? else {
                break;
            };
            self.telemetry
                .dropped
                .add(1, std::slice::from_ref(&self.telemetry.exporter));
            gave_way += points_of(&oldest.1);
            self.take_away(&mut state, oldest.0, oldest.1.len())?;
        }
        let mut value = Vec::with_capacity(HEAD_BYTES + request.body.len());
        value.extend_from_slice(&[0; 4]);
        value.extend_from_slice(&request.points.to_le_bytes());
        value.extend_from_slice(&request.body);
        let checksum = crc32fast::hash(&value[4..]);
        value[..4].copy_from_slice(&checksum.to_le_bytes());
        let number = state.next;
        self.with(&mut state, |database| {
            let transaction = database.begin_write()?;
            transaction.open_table(REQUESTS)?.insert(number, &*value)?;
            Ok(transaction.commit()?)
        })?;
        state.next += 1;
        state.items += 1;
        state.bytes += size;
        drop(state);
        self.changed.notify_one();
        Ok(gave_way)
    }

    /// The oldest request; `None` if none waits. What does not match its checksum is taken away, and counted.
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
                self.take_away(&mut state, number, value.len())?;
                state.delivered = None;
                continue;
            }
            let checksum = value.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            if value.len() >= HEAD_BYTES && checksum == Some(crc32fast::hash(&value[4..])) {
                let request = Request {
                    points: points_of(&value),
                    body: Bytes::from(value).slice(HEAD_BYTES..),
                    last: false,
                };
                return Ok(Some(Stored { number, request }));
            }
            tracing::error!(file = %self.path.display(), number, "a request on disk is damaged and is skipped");
            self.telemetry
                .corrupt
                .add(1, std::slice::from_ref(&self.telemetry.exporter));
            self.take_away(&mut state, number, value.len())?;
        }
    }

    /// Waits until there is something new.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes `stored` away: it is delivered, or given up.
    ///
    /// # Errors
    /// [`StorageError`]: it is still there, and will be taken away before the next; by another run it is sent again.
    pub(crate) fn remove(&self, stored: &Stored) -> Result<(), StorageError> {
        let mut state = self.lock();
        state.delivered = Some(stored.number);
        self.take_away(&mut state, stored.number, stored.request.body.len() + HEAD_BYTES)?;
        state.delivered = None;
        Ok(())
    }

    /// How many requests wait, and their bytes.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let state = self.lock();
        (state.items, state.bytes)
    }

    fn take_away(&self, state: &mut State, number: u64, value_len: usize) -> Result<(), StorageError> {
        let removed = self.with(state, |database| {
            let transaction = database.begin_write()?;
            let removed = transaction.open_table(REQUESTS)?.remove(number)?.is_some();
            transaction.commit()?;
            Ok(removed)
        })?;
        // It may have given way to newer ones while it was sent.
        if removed {
            state.items = state.items.saturating_sub(1);
            state.bytes = state
                .bytes
                .saturating_sub(value_len.saturating_sub(HEAD_BYTES) as u64);
        }
        Ok(())
    }

    /// Does `work` with the file, which is opened again if something failed before. A full disk is such a thing: redb wants to be
    /// opened again after any write that failed.
    fn with<T>(
        &self,
        state: &mut State,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let attempt = || -> Result<T, redb::Error> {
            let database = match state.database.take() {
                Some(database) => database,
                None => open(&self.path)?,
            };
            let done = work(&database)?;
            state.database = Some(database);
            Ok(done)
        };
        attempt().map_err(|source| StorageError {
            path: self.path.clone(),
            source: Box::new(source),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts that a panic elsewhere left behind are off by one at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

fn oldest(database: &Database) -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(REQUESTS)?;
    let first = table.first()?;
    Ok(first.map(|(number, value)| (number.value(), value.value().to_vec())))
}

fn count(database: &Database) -> Result<State, redb::Error> {
    // Made if it is not there, so that reading it never fails for want of it.
    let transaction = database.begin_write()?;
    transaction.open_table(REQUESTS)?;
    transaction.commit()?;
    let mut state = State::default();
    for entry in database.begin_read()?.open_table(REQUESTS)?.iter()? {
        let (number, value) = entry?;
        state.next = number.value() + 1;
        state.items += 1;
        state.bytes += value.value().len().saturating_sub(HEAD_BYTES) as u64;
    }
    Ok(state)
}

fn points_of(value: &[u8]) -> u64 {
    value
        .get(4..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::context;

    fn request(text: &str) -> Request {
        Request {
            body: Bytes::from(text.to_owned()),
            points: text.len() as u64,
            last: false,
        }
    }

    fn config(directory: &Path) -> StorageConfig {
        StorageConfig {
            directory: directory.to_owned(),
            max_bytes: max_bytes(),
            when_full: WhenFull::DropOldest,
        }
    }

    fn bodies(storage: &Storage) -> Vec<String> {
        let mut bodies = Vec::new();
        while let Some(stored) = storage.first().unwrap() {
            bodies.push(String::from_utf8(stored.request.body.to_vec()).unwrap());
            storage.remove(&stored).unwrap();
        }
        bodies
    }

    #[test]
    fn requests_come_back_in_their_order_after_a_restart_with_their_points() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        for text in ["one", "two", "three"] {
            assert_eq!(storage.push(&request(text)).unwrap(), 0);
        }
        storage.remove(&storage.first().unwrap().unwrap()).unwrap();
        drop(storage);
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        assert_eq!(storage.waiting(), (2, 8));
        assert_eq!(storage.first().unwrap().unwrap().request.points, 3);
        storage.push(&request("four")).unwrap();
        assert_eq!(bodies(&storage), ["two", "three", "four"]);
        assert_eq!(storage.waiting(), (0, 0));
    }

    #[test]
    fn at_its_limit_the_oldest_or_the_newest_gives_way_and_its_points_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let small = |when_full| StorageConfig {
            max_bytes: 10,
            when_full,
            ..config(folder.path())
        };
        let storage = Storage::open(&small(WhenFull::DropOldest), &context()).unwrap();
        for text in ["aaaa", "bbbb"] {
            storage.push(&request(text)).unwrap();
        }
        assert_eq!(storage.push(&request("cccc")).unwrap(), 4);
        drop(storage);
        let storage = Storage::open(&small(WhenFull::DropNewest), &context()).unwrap();
        assert_eq!(storage.push(&request("dddd")).unwrap(), 4);
        assert_eq!(bodies(&storage), ["bbbb", "cccc"]);
    }

    #[test]
    fn a_damaged_request_is_skipped_and_the_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        for text in ["one", "two", "three"] {
            storage.push(&request(text)).unwrap();
        }
        let state = storage.lock();
        let transaction = state.database.as_ref().unwrap().begin_write().unwrap();
        transaction
            .open_table(REQUESTS)
            .unwrap()
            .insert(1, &b"\x01\x02\x03\x04\x03\0\0\0\0\0\0\0two"[..])
            .unwrap();
        transaction.commit().unwrap();
        drop(state);
        assert_eq!(bodies(&storage), ["one", "three"]);
    }

    #[test]
    fn after_a_failure_the_file_is_opened_again_and_what_was_delivered_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        for text in ["one", "two"] {
            storage.push(&request(text)).unwrap();
        }
        let first = storage.first().unwrap().unwrap();
        // As if it had been delivered, and taking it away had failed.
        let mut state = storage.lock();
        state.delivered = Some(first.number);
        let failed = storage.with(&mut state, |_| -> Result<(), redb::Error> {
            Err(redb::Error::Io(std::io::ErrorKind::StorageFull.into()))
        });
        assert!(failed.unwrap_err().to_string().contains("requests.redb"));
        assert!(state.database.is_none());
        drop(state);
        assert_eq!(bodies(&storage), ["two"]);
    }

    #[test]
    fn a_file_that_is_none_is_refused_or_put_aside_and_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("requests.redb"), "this is something else").unwrap();
        match Storage::open(&config(folder.path()), &context()) {
            Ok(storage) => assert!(bodies(&storage).is_empty()),
            Err(error) => assert!(error.to_string().contains("requests.redb"), "{error}"),
        }
    }

    #[test]
    fn a_file_belongs_to_one_exporter() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Storage::open(&config(folder.path()), &context()).unwrap();
        let second = Storage::open(&config(folder.path()), &context());
        assert!(second.err().unwrap().to_string().contains("requests.redb"));
    }
}
