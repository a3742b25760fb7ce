//! Records of UDP flows.

use std::time::Duration;

use super::{Moved, Outcome};
use crate::udp::{UdpApp, UdpRecord};

/// Payload bytes and datagrams of a UDP flow, as this machine's socket counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams {
    /// Payload bytes sent.
    pub sent_bytes: i64,
    /// Payload bytes that an application took.
    pub received_bytes: i64,
    /// Datagrams sent.
    pub sent_datagrams: i64,
    /// Datagrams that an application took.
    pub received_datagrams: i64,
    /// Datagrams for which the socket's receive buffer had no room.
    pub drops: i64,
    /// ICMP errors that the socket was notified of.
    pub errors: i64,
}

impl Datagrams {
    /// The sum, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
            sent_datagrams: self.sent_datagrams.saturating_add(other.sent_datagrams),
            received_datagrams: self.received_datagrams.saturating_add(other.received_datagrams),
            drops: self.drops.saturating_add(other.drops),
            errors: self.errors.saturating_add(other.errors),
        }
    }

    /// The difference, saturating.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_sub(other.sent_bytes),
            received_bytes: self.received_bytes.saturating_sub(other.received_bytes),
            sent_datagrams: self.sent_datagrams.saturating_sub(other.sent_datagrams),
            received_datagrams: self.received_datagrams.saturating_sub(other.received_datagrams),
            drops: self.drops.saturating_sub(other.drops),
            errors: self.errors.saturating_sub(other.errors),
        }
    }

    /// The same with 0 in place of each negative count.
    #[must_use]
    pub fn positive(self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.max(0),
            received_bytes: self.received_bytes.max(0),
            sent_datagrams: self.sent_datagrams.max(0),
            received_datagrams: self.received_datagrams.max(0),
            drops: self.drops.max(0),
            errors: self.errors.max(0),
        }
    }

    /// Payload bytes in both directions.
    pub fn payload(self) -> u64 {
        let bytes = [self.sent_bytes, self.received_bytes];
        bytes.into_iter().map(|bytes| bytes.max(0).unsigned_abs()).sum()
    }
}

impl From<&UdpRecord> for Datagrams {
    fn from(record: &UdpRecord) -> Self {
        Self {
            sent_bytes: record.sent_bytes,
            received_bytes: record.received_bytes,
            sent_datagrams: record.sent_datagrams,
            received_datagrams: record.received_datagrams,
            drops: record.drops,
            errors: record.errors,
        }
    }
}

impl From<Datagrams> for Moved {
    fn from(counts: Datagrams) -> Self {
        Self {
            sent_bytes: counts.sent_bytes,
            received_bytes: counts.received_bytes,
            sent_packets: counts.sent_datagrams,
            received_packets: counts.received_datagrams,
        }
    }
}

/// The datagrams of one socket and one peer over the whole life of their flow, or over the time since its record before.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpLog {
    /// State at the end of the time that the record covers: active, closed, idle or detached.
    pub outcome: Outcome,
    /// The newest ICMP error in that time, in one word; in the last record, that of the flow.
    pub error: Option<&'static str>,
    /// Number of records of this flow before this one, those that sampling left out included.
    pub sequence: u32,
    /// Whether its beginning was not followed.
    pub adopted: bool,
    /// Time from the start of the interval that had its first datagram to the end of the record.
    pub duration: Duration,
    /// Time that the record covers.
    pub interval: Duration,
    /// Counted in the time that the record covers. The sum over all records of a flow is the total.
    pub delta: Datagrams,
    /// Counted since the flow was first seen.
    pub total: Datagrams,
    /// The application protocol that its first datagram shows.
    pub app: UdpApp,
    /// Probability with which this record was kept: below 1 only with sampling.
    pub probability: f64,
}

impl UdpLog {
    /// Whether datagrams were lost at this socket, or an ICMP error came back.
    pub const fn is_failure(&self) -> bool {
        self.error.is_some() || self.delta.drops > 0
    }
}

impl Default for UdpLog {
    /// The first and only record of a flow that moved nothing.
    fn default() -> Self {
        Self {
            outcome: Outcome::Closed,
            error: None,
            sequence: 0,
            adopted: false,
            duration: Duration::ZERO,
            interval: Duration::ZERO,
            delta: Datagrams::default(),
            total: Datagrams::default(),
            app: UdpApp::Unknown,
            probability: 1.0,
        }
    }
}
