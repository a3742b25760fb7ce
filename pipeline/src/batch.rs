//! The batch: what a receiver hands to its pipelines in one call, in place, and fills again.
//!
//! Listener changes travel with the records, not beside them, so that a replay sees them at the same point. All of
//! them apply before the first record of the batch.

use serde::{Deserialize, Serialize};

use crate::record::FlowRecord;

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// Inode number of its network namespace; 0 if unknown.
    pub netns: u32,
    /// The port it listens on.
    pub port: u16,
    /// The kernel's socket cookie: tells several listeners on one port apart.
    pub cookie: u64,
}

/// A change of the listening-port table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Where an event was counted on its way out of the kernel, in capture modes that have a record per event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventHop {
    /// Read from a ring buffer.
    Received,
    /// Turned away at the receiver's full channel.
    Dropped,
}

/// What an event told of: the seed's two types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// A received segment.
    TcpFlow,
    /// A connection that opened, closed or failed.
    TcpConn,
}

impl EventType {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TcpFlow => "tcpflow",
            Self::TcpConn => "tcpconn",
        }
    }
}

/// How many events passed, or did not pass, a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCount {
    /// Which hop.
    pub hop: EventHop,
    /// Which events.
    pub event_type: EventType,
    /// How many, since the batch before.
    pub count: u64,
}

/// Records and listener changes, in the order they were seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowBatch {
    /// Changes of the listening-port table; they apply before `records`.
    pub listeners: Vec<ListenChange>,
    /// What the sockets did.
    pub records: Vec<FlowRecord>,
    /// What the receiver counted per event; empty in modes that have none.
    pub counts: Vec<EventCount>,
}

impl FlowBatch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.records.is_empty() && self.counts.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.listeners.clear();
        self.records.clear();
        self.counts.clear();
    }
}
