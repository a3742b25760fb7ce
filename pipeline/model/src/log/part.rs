//! The fields that records of connections and of UDP flows have in common.

use std::time::Duration;

use crate::time::Timestamp;

/// State of a connection at the end of the time that a record covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is open: further records follow.
    Active,
    /// Both ends closed it; of a UDP flow, this machine's socket closed.
    Closed,
    /// A UDP flow that moved nothing for so long that it counts as ended.
    Idle,
    /// One end reset it.
    Reset,
    /// It was established, and an error other than a reset ended it: nobody answered, or the network said that it is unreachable.
    Broken,
    /// It was never established.
    Failed,
    /// It is open no longer, and the record of its end was lost.
    Lost,
    /// flowtap stopped following it: it is open, and no further record follows.
    Detached,
}

impl Outcome {
    /// The field's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Reset => "reset",
            Self::Broken => "broken",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Detached => "detached",
        }
    }

    /// Whether the connection failed.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Reset | Self::Broken | Self::Failed)
    }

    /// Whether further records of the connection follow.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Active)
    }
}

/// Payload bytes and packets: segments of TCP, datagrams of UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Payload bytes sent.
    pub sent_bytes: i64,
    /// Payload bytes received.
    pub received_bytes: i64,
    /// Packets sent.
    pub sent_packets: i64,
    /// Packets received.
    pub received_packets: i64,
}

/// A connection or a UDP flow over the time that a record covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowPart {
    /// State at the end of that time.
    pub outcome: Outcome,
    /// The error, in one word.
    pub error: Option<&'static str>,
    /// Number of records before this one, those that sampling left out included.
    pub sequence: u32,
    /// Whether its beginning was not counted.
    pub adopted: bool,
    /// Time from its beginning to the end of the record.
    pub duration: Duration,
    /// Time that the record covers.
    pub interval: Duration,
    /// Counted in that time.
    pub delta: Moved,
    /// Counted since its beginning.
    pub total: Moved,
    /// Probability with which this record was kept.
    pub probability: f64,
}

impl FlowPart {
    /// Its beginning, if the record ends at `at`.
    pub fn started(&self, at: Timestamp) -> Timestamp {
        before(at, self.duration)
    }

    /// Start of the time that the record covers, if it ends at `at`.
    pub fn interval_start(&self, at: Timestamp) -> Timestamp {
        before(at, self.interval)
    }
}

fn before(at: Timestamp, time: Duration) -> Timestamp {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanos(at.as_nanos().saturating_sub(nanos))
}
