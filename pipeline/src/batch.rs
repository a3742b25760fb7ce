//! The batch: what a receiver hands to its pipelines in one call, in place, and fills again.
//!
//! Listener changes travel with the records, not beside them, so that a replay sees them at the same point. All of
//! them apply before the first record of the batch.

use crate::record::FlowRecord;

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listener {
    /// Inode number of its network namespace; 0 if unknown.
    pub netns: u32,
    /// The port it listens on.
    pub port: u16,
    /// The kernel's socket cookie: tells several listeners on one port apart.
    pub cookie: u64,
}

/// A change of the listening-port table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenChange {
    /// A socket listens, or was found listening. Idempotent by cookie.
    Opened(Listener),
    /// A socket listens no more.
    Closed(Listener),
    /// What a rescan found in one namespace: replaces what the rescan before it found there, and leaves what
    /// `Opened` and `Closed` tell alone.
    Rescanned {
        /// Inode number of the namespace that was scanned.
        netns: u32,
        /// Every listening port in it.
        ports: Vec<u16>,
    },
}

/// Records and listener changes, in the order they were seen.
#[derive(Clone, Debug, Default)]
pub struct FlowBatch {
    /// Changes of the listening-port table; they apply before `records`.
    pub listeners: Vec<ListenChange>,
    /// What the sockets did.
    pub records: Vec<FlowRecord>,
}

impl FlowBatch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.records.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.listeners.clear();
        self.records.clear();
    }
}
