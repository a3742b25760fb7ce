//! Requests on disk: written before they are sent, taken away once they are delivered.
//!
//! Requests that a `kill -9` or a power cut leaves are sent after the next start. A request that
//! was delivered, but not yet removed, is sent twice: at least once. To remove one needs room on the disk, to read one does not: on a
//! full disk, those that are delivered are skipped until they can be removed. Each is compressed and has a
//! checksum; one that does not match it is removed and counted. A file that can't be read as a
//! whole is set aside under another name, and replaced by a new one, also while flowtap runs.

mod access;
mod config;
mod error;
mod removal;
mod table;
mod telemetry;
mod value;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{BuildContext, PipelineKind, WrittenFolder};
use redb::Database;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::config::{StorageConfig, WhenDiskFull};
pub use self::error::StorageError;
use self::table::{REQUESTS, each_value, footprint, oldest};
use self::telemetry::Telemetry;
use self::value::{decode, encode, items_of};
use super::fate::{Fate, Fates};
use super::warned::Warned;
use super::{Lane, Request};

/// Pause after a failure to remove what is delivered: after each, redb has to be reopened.
const REMOVAL_PAUSE: Duration = Duration::from_secs(5);

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

impl Storage {
    /// [`Self::open_with`] fates that nobody takes.
    #[cfg(test)]
    pub(crate) fn open(config: &StorageConfig, context: &BuildContext) -> Result<Arc<Self>, StorageError> {
        Self::open_with(config, context, Fates::default())
    }

    /// Opens or creates the file, whose requests leave their fates in `fates`. One that can't be opened now, such as on a disk that is mounted
    /// later, is opened by the first request that can: that must not prevent measuring, unless
    /// `strict`.
    ///
    /// # Errors
    /// [`StorageError`] with the path, if another process has the file or flowtap is strict.
    pub(crate) fn open_with(
        config: &StorageConfig,
        context: &BuildContext,
        fates: Fates,
    ) -> Result<Arc<Self>, StorageError> {
        // If that fails, so does what follows, with the message.
        let _ = fs::create_dir_all(&config.directory);
        let storage = Arc::new(Self {
            folder: WrittenFolder::new(&config.directory),
            path: config.directory.join("requests.redb"),
            config: config.clone(),
            state: Mutex::new(State {
                fates,
                ..State::default()
            }),
            changed: Changed::default(),
            telemetry: Telemetry::new(context),
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
            tracing::info!(exporter = %context.id, requests, bytes, "requests that were left on disk are sent first");
        }
        let shown = Arc::downgrade(&storage);
        storage
            .telemetry
            .show(context, move || shown.upgrade().map(|storage| storage.waiting()));
        Ok(storage)
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
        if !self.make_room(&mut state, size, &mut dropped)? {
            self.telemetry.count_dropped();
            dropped.push((request.kind, request.items));
            return Ok((Fate::Failed { content: false }, dropped));
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

    /// Makes room for `size` bytes, and adds the items that are dropped for them to `dropped`, by kind. Returns whether there is room.
    fn make_room(
        &self,
        state: &mut State,
        size: u64,
        dropped: &mut Vec<(PipelineKind, u64)>,
    ) -> Result<bool, StorageError> {
        while state.items > 0 && state.bytes + size > self.config.max_bytes {
            if self.config.when_full == WhenDiskFull::DropNewest {
                // Those that are delivered must not be in the way of a new one. If they can't be removed, it is sent from memory.
                if !state.delivered.is_empty() {
                    self.try_to_remove_delivered(state)?;
                    continue;
                }
                return Ok(false);
            }
            let under_way: Vec<_> = state.under_way.values().copied().collect();
            let found = self.with(state, |database| {
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
            self.remove_number(state, number, oldest.len())?;
            if state.delivered.remove(&number).is_some() {
                continue;
            }
            self.telemetry.count_dropped();
            let (kind, items) = items_of(&oldest);
            if kind == PipelineKind::Metrics {
                state.fates.push(number, Fate::Failed { content: false });
            }
            dropped.push((kind, items));
        }
        Ok(true)
    }

    /// `stored` has met `fate`.
    pub(crate) fn settle(&self, stored: &Stored, fate: Fate) {
        if stored.request.kind == PipelineKind::Metrics {
            self.lock().fates.push(stored.number, fate);
        }
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
            tracing::error!(exporter = %self.telemetry.exporter(), file = %self.path.display(), number, "a request on disk is damaged and is skipped; \
                hint: check the disk");
            self.telemetry.count_corrupt(1);
            // Of either kind: that of log records is in nobody's books.
            state.fates.push(number, Fate::Failed { content: false });
            state.from.insert(lane, number + 1);
            state.delivered.insert(number, value_len);
            self.remove_delivered(&mut state);
        }
    }

    /// Whether a request of `lane` waits, or is being sent. One that can't be read is in nobody's way.
    pub(crate) fn is_waiting(&self, lane: Lane) -> bool {
        let mut state = self.lock();
        let from = state.from.get(&lane).copied().unwrap_or_default();
        let first = self.with(&mut state, |database| oldest(database, from, lane));
        first.is_ok_and(|found| found.is_some())
    }

    /// Lets writes fail, or succeed again.
    #[cfg(test)]
    pub(crate) fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Waits until there is something new, or time to try again to remove what is delivered.
    pub(crate) async fn changed(&self, lane: Lane) {
        let unremoved = self.unremoved() > 0;
        tokio::select! {
            () = self.changed.of(lane).notified() => {}
            () = tokio::time::sleep(REMOVAL_PAUSE), if unremoved => {}
        }
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
            tracing::warn!(exporter = %self.telemetry.exporter(), %error, lost = ?orphaned,
                "the file of requests was removed or replaced while flowtap used it: requests that wait in it are lost; \
                hint: stop flowtap before `storage.directory` is moved or emptied");
        }
        orphaned
    }

    /// Whether there is a file, which may have requests even if it can't be opened.
    pub(crate) fn has_file(&self) -> bool {
        self.path.exists()
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

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts that a panic elsewhere left are off by one at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
