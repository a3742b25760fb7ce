//! Bytes in the queues of open connections: what the gauge stands at.
//!
//! In: the queues of each connection as its last record had them. Out: how much each series of the gauge changes when a window
//! closes. A connection whose queues are empty is not here, so these are few. One of which no record has come for as long as series
//! live is forgotten: the record of its close was lost.

use std::collections::HashMap;
use std::time::Duration;

use flowtap_pipeline::{Queue, Queues as Bytes, Timestamp};
use foldhash::fast::RandomState;

use super::key::{Key, sort_changes};

/// Connections with queued bytes that are followed.
const MAX_CONNECTIONS: usize = 1 << 16;

/// Index of a receiver, and the cookie of one of its sockets.
type Connection = (u16, u64);

/// Whether a connection's queues are in the gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Yes,
    /// There is no room for another connection.
    Full,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    /// Series of each of [`Queue::ALL`].
    keys: [Key; Queue::ALL.len()],
    bytes: Bytes,
    /// Beginning of the window that has the last record.
    seen: Timestamp,
}

/// Connections with bytes in their queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    connections: HashMap<Connection, Queued, RandomState>,
    /// Current values of the series.
    levels: HashMap<Key, i64, RandomState>,
}

impl Queues {
    /// The queues of a connection are these.
    pub(super) fn note(
        &mut self,
        connection: Connection,
        keys: [Key; Queue::ALL.len()],
        bytes: Bytes,
        seen: Timestamp,
    ) -> Noted {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&connection) {
            return Noted::Full;
        }
        self.connections.insert(connection, Queued { keys, bytes, seen });
        Noted::Yes
    }

    /// The queues of a connection are empty, or it has closed.
    pub(super) fn forget(&mut self, connection: Connection) {
        if !self.connections.is_empty() {
            self.connections.remove(&connection);
        }
    }

    /// Returns the changes of the series that have changed. Connections that were `seen` longer ago than `expiration` are forgotten.
    pub(super) fn changes(&mut self, now: Timestamp, expiration: Duration) -> Vec<(Key, i64)> {
        if self.connections.is_empty() && self.levels.is_empty() {
            return Vec::new();
        }
        self.connections
            .retain(|_, queued| now.since(queued.seen) < expiration);
        let mut levels: HashMap<Key, i64, RandomState> = HashMap::default();
        for queued in self.connections.values() {
            for (queue, key) in Queue::ALL.into_iter().zip(queued.keys) {
                let bytes = i64::from(queued.bytes.of(queue));
                if bytes > 0 {
                    *levels.entry(key).or_default() += bytes;
                }
            }
        }
        let mut changes = Vec::new();
        for (key, level) in &levels {
            let change = level - self.levels.remove(key).unwrap_or(0);
            if change != 0 {
                changes.push((*key, change));
            }
        }
        changes.extend(self.levels.drain().map(|(key, level)| (key, -level)));
        self.levels = levels;
        if self.connections.capacity() > 4 * self.connections.len().max(1024) {
            self.connections.shrink_to(2 * self.connections.len());
        }
        sort_changes(&mut changes);
        changes
    }
}
