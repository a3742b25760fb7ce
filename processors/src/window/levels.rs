//! Levels of connections that gauges add up, such as bytes in their queues: what the gauges stand at.
//!
//! In: the levels of each connection as its last record had them. Out: how much each series of the gauges changes when a window
//! closes. A connection whose levels are all zero need not be here, so these are few. One of which no record has come for as long as
//! series live is forgotten: the record of its end was lost.

use std::collections::HashMap;
use std::time::Duration;

use flowtap_pipeline::Timestamp;
use foldhash::fast::RandomState;

use super::key::{Key, sort_changes};

/// Connections that are followed.
const MAX_CONNECTIONS: usize = 1 << 16;

/// Index of a receiver, and the cookie of one of its sockets.
type Connection = (u16, u64);

/// Whether a connection's levels are in the gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Yes,
    /// There is no room for another connection.
    Full,
}

#[derive(Clone, Copy, Debug)]
struct Level<const N: usize> {
    /// The series of each.
    keys: [Key; N],
    values: [u32; N],
    /// Beginning of the window that has the last record.
    seen: Timestamp,
}

/// Connections, each with `N` levels.
#[derive(Debug, Default)]
pub(super) struct Levels<const N: usize> {
    connections: HashMap<Connection, Level<N>, RandomState>,
    /// Current values of the series.
    levels: HashMap<Key, i64, RandomState>,
}

impl<const N: usize> Levels<N> {
    /// The levels of a connection are these.
    pub(super) fn note(
        &mut self,
        connection: Connection,
        keys: [Key; N],
        values: [u32; N],
        seen: Timestamp,
    ) -> Noted {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&connection) {
            return Noted::Full;
        }
        self.connections.insert(connection, Level { keys, values, seen });
        Noted::Yes
    }

    /// The levels of a connection are zero, or it has ended.
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
            .retain(|_, level| now.since(level.seen) < expiration);
        let mut levels: HashMap<Key, i64, RandomState> = HashMap::default();
        for level in self.connections.values() {
            for (key, value) in level.keys.into_iter().zip(level.values) {
                if value > 0 {
                    *levels.entry(key).or_default() += i64::from(value);
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
