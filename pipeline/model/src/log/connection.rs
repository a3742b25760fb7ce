//! TCP connections.

use std::time::Duration;

use super::{Moved, Outcome};

/// Payload bytes and segments of a connection, as this machine's socket counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Payload bytes sent; each counts once, however often it was transmitted.
    pub sent_bytes: i64,
    /// Payload bytes received in order.
    pub received_bytes: i64,
    /// Segments sent, retransmissions and pure acknowledgements included.
    pub sent_segments: i64,
    /// Segments received.
    pub received_segments: i64,
    /// Segments retransmitted.
    pub retransmits: i64,
    /// Requests that were answered.
    pub exchanges: i64,
    /// The time of their answers, in µs.
    pub answer_us: i64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
            sent_segments: self.sent_segments.saturating_add(other.sent_segments),
            received_segments: self.received_segments.saturating_add(other.received_segments),
            retransmits: self.retransmits.saturating_add(other.retransmits),
            exchanges: self.exchanges.saturating_add(other.exchanges),
            answer_us: self.answer_us.saturating_add(other.answer_us),
        }
    }

    /// Payload bytes in both directions.
    pub fn payload(&self) -> u64 {
        let bytes = [self.sent_bytes, self.received_bytes];
        bytes.into_iter().map(|bytes| bytes.max(0).unsigned_abs()).sum()
    }
}

impl From<Counts> for Moved {
    fn from(counts: Counts) -> Self {
        Self {
            sent_bytes: counts.sent_bytes,
            received_bytes: counts.received_bytes,
            sent_packets: counts.sent_segments,
            received_packets: counts.received_segments,
        }
    }
}

/// A TCP connection over its whole life, or over the time since its record before.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionLog {
    /// State at the end of the time that the record covers.
    pub outcome: Outcome,
    /// Why the connect failed, in one word.
    pub error: Option<&'static str>,
    /// Number of records of this connection before this one, those that sampling left out included.
    pub sequence: u32,
    /// Whether it was open before flowtap was, so that its beginning was not counted.
    pub adopted: bool,
    /// Time from its establishment or adoption to the end of the record.
    pub duration: Duration,
    /// Time that the record covers.
    pub interval: Duration,
    /// Counted in the time that the record covers. The sum over all records of a connection is the total.
    pub delta: Counts,
    /// Counted since the connection was first seen.
    pub total: Counts,
    /// The kernel's smoothed round-trip time; zero before the first sample.
    pub rtt: Duration,
    /// The smallest round-trip time; zero before the first sample.
    pub min_rtt: Duration,
    /// From SYN to ESTABLISHED, of connections that this machine opened; zero if not seen.
    pub handshake: Duration,
    /// Probability with which this record was kept, which a reader divides by to estimate sums: below 1 only with sampling.
    pub probability: f64,
}
