//! The queues of listening sockets, by socket, and what the gauges of them stand at.
//!
//! A record has the length of a socket's queue at one moment, and a series is of all sockets with its labels. So the last record of
//! each socket is kept, and when the window closes the gauges are set from all of them: queues and limits are added up, of waiting
//! times the longest counts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use flowtap_pipeline::ListeningRecord;
use flowtap_pipeline::catalog::FamilyId;

use super::catalog::Catalog;
use super::key::{Key, KeyInputs, sort_changes};

/// Listening sockets that are followed at most; the queues of further ones are not shown, their drops are.
const SOCKETS: usize = 1 << 15;

/// Gauges by socket.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// By receiver and cookie.
    sockets: HashMap<(u16, u64), ListeningRecord>,
    /// Values of the series.
    shown: HashMap<Key, i64>,
}

impl Listening {
    /// Takes a record; returns whether there was room for it.
    pub(super) fn take(&mut self, receiver: u16, record: &ListeningRecord) -> bool {
        let socket = (receiver, record.flow.cookie);
        if record.closed {
            self.sockets.remove(&socket);
            return true;
        }
        let is_full = self.sockets.len() >= SOCKETS;
        match self.sockets.entry(socket) {
            Entry::Occupied(mut entry) => {
                entry.insert(record.clone());
            }
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(entry) => {
                entry.insert(record.clone());
            }
        }
        true
    }

    /// The same for a window in which only the series of some families are still there.
    pub(super) fn of_series(mut self, stays: impl Fn(FamilyId) -> bool) -> Self {
        self.shown.retain(|key, _| stays(key.family()));
        self
    }

    /// Forgets the sockets of a receiver that reports none any more.
    pub(super) fn end_receiver(&mut self, receiver: u16) {
        self.sockets.retain(|(of, _), _| *of != receiver);
    }

    /// The changes of the gauges since the last call.
    pub(super) fn changes(&mut self, catalog: &mut Catalog) -> Vec<(Key, i64)> {
        let mut levels = HashMap::<Key, i64>::new();
        for record in self.sockets.values() {
            let gauges = [
                (FamilyId::ListenBacklog, Some(record.backlog)),
                (FamilyId::ListenLimit, Some(record.limit)),
                (FamilyId::AcceptWait, record.wait_us),
            ];
            for (family, value) in gauges {
                let Some(value) = value else { continue };
                if let Some(key) = catalog.key(family, &record.flow, KeyInputs::default()) {
                    let level = levels.entry(key).or_default();
                    *level = if family == FamilyId::AcceptWait {
                        i64::from(value).max(*level)
                    } else {
                        level.saturating_add(i64::from(value))
                    };
                }
            }
        }
        let before = std::mem::replace(&mut self.shown, levels);
        let gone = before.keys().filter(|key| !self.shown.contains_key(*key));
        let gone = gone.map(|key| (*key, 0));
        // Also those that stay as they are: their series would expire.
        let now = self.shown.iter().map(|(key, level)| (*key, *level));
        let changes = now.chain(gone);
        let mut changes: Vec<_> = changes
            .map(|(key, level)| (key, level - before.get(&key).copied().unwrap_or(0)))
            .collect();
        sort_changes(&mut changes);
        changes
    }
}
