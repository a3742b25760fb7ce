//! Requests on disk: written before they are sent, taken away once they are delivered.
//!
//! Requests that a `kill -9` or a power cut leaves are sent after the next start. A request that
//! was delivered, but not yet removed, is sent twice: at least once. Each is compressed and has a
//! checksum; one that does not match it is removed and counted. A file that can't be read as a
//! whole is set aside under another name, and replaced by a new one, also while flowtap runs.

use std::fs;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flowtap_pipeline::schema::SizeText;
use flowtap_pipeline::{BuildContext, PipelineKind, Timestamp, Violation, WhenFull};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Request;

/// Requests by number, in the order in which they came: checksum (4 bytes), number of items (7 bytes), encoding of the body and kind of
/// the items (1 byte), body.
const REQUESTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requests");

const HEAD_BYTES: usize = 12;

/// Encodings of a body. The first is that of requests of earlier versions, whose points had eight bytes.
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Added to the encoding: the items are log records, not points.
const LOGS: u8 = 0x80;

/// zstd's default level.
const ZSTD_LEVEL: i32 = 3;

/// redb stores a value in separate pages, a power of two of these bytes, with some of them for
/// itself.
const PAGE_BYTES: u64 = 4096;
const PAGE_OVERHEAD: u64 = 64;

/// Memory for the file's cache.
const CACHE_BYTES: usize = 1 << 20;

/// Where requests wait, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// A directory for this exporter alone; created if it is missing.
    pub directory: PathBuf,
    /// Maximum bytes of the compressed requests in the file. The file itself can be some MiB
    /// larger, and by half while the oldest are dropped.
    #[serde(default = "max_bytes", with = "flowtap_pipeline::size")]
    #[schemars(with = "SizeText")]
    pub max_bytes: u64,
    /// Overflow policy.
    #[serde(default)]
    pub when_full: WhenFull,
}

const fn max_bytes() -> u64 {
    256 << 20
}

impl StorageConfig {
    /// A violation of its settings, if any.
    pub(crate) fn validate(&self) -> Option<Violation> {
        let path = |key: &str| vec!["storage".to_owned(), key.to_owned()];
        if self.when_full == WhenFull::Block {
            return Some(Violation {
                path: path("when_full"),
                message: "a full disk would stop the exporter; expected drop_oldest or drop_newest"
                    .to_owned(),
            });
        }
        (self.max_bytes < 1 << 20).then(|| Violation {
            path: path("max_bytes"),
            message: "must be at least 1048576, to hold a request".to_owned(),
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

fn open(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

/// Whether an error is about the content of the file, not about the disk or another process.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        redb::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

fn oldest(database: &Database) -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(REQUESTS)?;
    let first = table.first()?;
    Ok(first.map(|(number, value)| (number.value(), value.value().to_vec())))
}

/// The next number, how many requests there are, and the bytes that they take up.
fn count(database: &Database) -> Result<(u64, u64, u64), redb::Error> {
    // Created if it is missing, so that reading it never fails for want of it.
    let transaction = database.begin_write()?;
    transaction.open_table(REQUESTS)?;
    transaction.commit()?;
    let (mut next, mut items, mut bytes) = (0, 0, 0);
    for entry in database.begin_read()?.open_table(REQUESTS)?.iter()? {
        let (number, value) = entry?;
        next = number.value() + 1;
        items += 1;
        bytes += footprint(value.value().len());
    }
    Ok((next, items, bytes))
}

/// Bytes that a value uses in the file.
const fn footprint(value_len: usize) -> u64 {
    let bytes = value_len as u64 + PAGE_OVERHEAD;
    if bytes < PAGE_BYTES {
        PAGE_BYTES
    } else {
        bytes.next_power_of_two()
    }
}

fn encode(request: &Request) -> Vec<u8> {
    // Compressing into memory fails only for want of it.
    let compressed = zstd::bulk::compress(&request.body, ZSTD_LEVEL);
    let (encoding, body) = match &compressed {
        Ok(compressed) if compressed.len() < request.body.len() => (ZSTD, &**compressed),
        _ => (PLAIN, &*request.body),
    };
    let mut value = Vec::with_capacity(HEAD_BYTES + body.len());
    value.extend_from_slice(&[0; 4]);
    let [items @ .., _] = request.items.to_le_bytes();
    value.extend_from_slice(&items);
    let kind = match request.kind {
        PipelineKind::Metrics => 0,
        PipelineKind::Logs => LOGS,
    };
    value.push(encoding | kind);
    value.extend_from_slice(body);
    let checksum = crc32fast::hash(&value[4..]);
    value[..4].copy_from_slice(&checksum.to_le_bytes());
    value
}

/// The request that `value` holds; `None` if it is damaged.
fn decode(value: Vec<u8>) -> Option<Request> {
    let checksum = u32::from_le_bytes(*value.first_chunk()?);
    if value.len() < HEAD_BYTES || checksum != crc32fast::hash(&value[4..]) {
        return None;
    }
    let (kind, items) = items_of(&value);
    let body = match value[HEAD_BYTES - 1] & !LOGS {
        PLAIN => Bytes::from(value).slice(HEAD_BYTES..),
        // Its length is trusted: the checksum says that it is what was written.
        ZSTD => Bytes::from(zstd::stream::decode_all(&value[HEAD_BYTES..]).ok()?),
        _ => return None,
    };
    Some(Request {
        body,
        kind,
        items,
        last: false,
    })
}

fn items_of(value: &[u8]) -> (PipelineKind, u64) {
    let Some(&bytes) = value.get(4..).and_then(<[u8]>::first_chunk::<8>) else {
        return (PipelineKind::Metrics, 0);
    };
    let [items @ .., encoding] = bytes;
    let kind = if encoding & LOGS == 0 {
        PipelineKind::Metrics
    } else {
        PipelineKind::Logs
    };
    let mut whole = [0; 8];
    whole[..7].copy_from_slice(&items);
    (kind, u64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::context;

    fn request(text: &str) -> Request {
        Request {
            body: Bytes::from(text.to_owned()),
            kind: PipelineKind::Logs,
            items: text.len() as u64,
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
            assert_eq!(storage.push(&request(text)).unwrap(), []);
        }
        storage.remove(&storage.first().unwrap().unwrap()).unwrap();
        drop(storage);
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        assert_eq!(storage.waiting(), (2, 2 * PAGE_BYTES));
        assert_eq!(storage.first().unwrap().unwrap().request.items, 3);
        storage.push(&request("four")).unwrap();
        assert_eq!(bodies(&storage), ["two", "three", "four"]);
        assert_eq!(storage.waiting(), (0, 0));
    }

    #[test]
    fn at_its_limit_the_oldest_or_the_newest_is_dropped_and_its_points_are_returned() {
        let folder = tempfile::tempdir().unwrap();
        let small = |when_full| StorageConfig {
            max_bytes: 2 * PAGE_BYTES,
            when_full,
            ..config(folder.path())
        };
        let storage = Storage::open(&small(WhenFull::DropOldest), &context()).unwrap();
        for text in ["aaaa", "bbbb"] {
            storage.push(&request(text)).unwrap();
        }
        assert_eq!(storage.push(&request("cccc")).unwrap(), [(PipelineKind::Logs, 4)]);
        drop(storage);
        let storage = Storage::open(&small(WhenFull::DropNewest), &context()).unwrap();
        assert_eq!(storage.push(&request("dddd")).unwrap(), [(PipelineKind::Logs, 4)]);
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
            Err(redb::Error::Io(io::ErrorKind::StorageFull.into()))
        });
        assert!(failed.unwrap_err().to_string().contains("requests.redb"));
        assert!(state.database.is_none());
        drop(state);
        assert_eq!(bodies(&storage), ["two"]);
    }

    #[test]
    fn a_request_takes_as_much_room_as_it_does_compressed_and_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        let text = "the same again and again ".repeat(40_000);
        storage.push(&request(&text)).unwrap();
        assert_eq!(storage.waiting(), (1, PAGE_BYTES), "a megabyte before");
        let stored = storage.first().unwrap().unwrap();
        assert_eq!(stored.request.items, text.len() as u64);
        storage.remove(&stored).unwrap();
        assert_eq!(storage.waiting(), (0, 0));
        assert_eq!(stored.request.body, text);
    }

    #[test]
    fn a_request_of_an_earlier_version_is_delivered() {
        let mut value = [&[0; 4][..], &3_u64.to_le_bytes(), b"two"].concat();
        let checksum = crc32fast::hash(&value[4..]);
        value[..4].copy_from_slice(&checksum.to_le_bytes());
        let request = decode(value).unwrap();
        assert_eq!((request.items, &*request.body), (3, &b"two"[..]));
    }

    #[test]
    fn the_limit_is_that_of_the_file_within_what_the_documentation_allows() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 16 << 20;
        let bounded = StorageConfig {
            max_bytes: limit,
            ..config(folder.path())
        };
        let storage = Storage::open(&bounded, &context()).unwrap();
        // Noise, which does not compress, of the length that uses most space: just above a power of
        // two.
        let noise: Vec<u8> = (0..(1 << 20) + 100).map(|_| fastrand::u8(..)).collect();
        let mut dropped = 0;
        for _ in 0..40 {
            let request = Request {
                body: noise.clone().into(),
                kind: PipelineKind::Metrics,
                items: 1,
                last: false,
            };
            dropped += storage.push(&request).unwrap().len() as u64;
        }
        let (requests, bytes) = storage.waiting();
        assert_eq!((requests + dropped, bytes), (40, requests << 21));
        assert_eq!(requests, 8);
        let file = fs::metadata(folder.path().join("requests.redb")).unwrap();
        let allocated = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
        assert!(allocated <= limit * 3 / 2 + (8 << 20), "{allocated}");
    }

    #[test]
    fn every_damaged_file_is_set_aside_under_a_name_of_its_own_and_measuring_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("requests.redb");
        let whole = {
            let storage = Storage::open(&config(folder.path()), &context()).unwrap();
            storage.push(&request("one")).unwrap();
            drop(storage);
            fs::read(&file).unwrap()
        };
        let truncated = whole[..whole.len() / 3].to_vec();
        let torn = [&whole[..1024], &vec![0xa5; whole.len() - 1024]].concat();
        let damaged = [
            b"this is something else".to_vec(),
            vec![0; 10_000],
            (0..100_000).map(|_| fastrand::u8(..)).collect(),
            truncated,
            torn,
        ];
        for (index, content) in damaged.iter().enumerate() {
            fs::write(&file, content).unwrap();
            let storage = Storage::open(&config(folder.path()), &context()).unwrap();
            assert_eq!(storage.push(&request("two")).unwrap(), [], "{index}");
            assert_eq!(bodies(&storage), ["two"], "{index}");
            let aside = fs::read_dir(folder.path()).unwrap().filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("requests.corrupt-")
            });
            assert_eq!(aside.count(), index + 1);
        }
    }

    #[test]
    fn a_directory_that_comes_late_is_used_from_then_on_and_strict_runs_refuse_it() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("mount");
        // A file in its place: no right of root gets over that.
        fs::write(&directory, "").unwrap();
        let strict = BuildContext {
            strict: true,
            ..context()
        };
        let refused = Storage::open(&config(&directory), &strict).err().unwrap();
        assert!(refused.to_string().contains("mount"), "{refused}");
        let storage = Storage::open(&config(&directory), &context()).unwrap();
        assert!(storage.push(&request("one")).is_err());
        fs::remove_file(&directory).unwrap();
        storage.push(&request("two")).unwrap();
        assert_eq!(bodies(&storage), ["two"]);
    }

    #[test]
    fn a_file_belongs_to_one_exporter() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Storage::open(&config(folder.path()), &context()).unwrap();
        let second = Storage::open(&config(folder.path()), &context());
        assert!(second.err().unwrap().to_string().contains("requests.redb"));
    }
}
