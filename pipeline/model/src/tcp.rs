//! The record of a TCP socket: what it did since it was last looked at.
//!
//! Byte and segment counts are signed differences: a socket that is read by the window's scan while it closes can first be
//! shown too high and then be put right by a negative difference, and only the sum counts.

use serde::{Deserialize, Serialize};

use crate::flow::Flow;
use crate::inspection::Exchanges;
use crate::limits::{Queues, ResetBy, SendTime};

/// Events of the connection since the last record, as a set of bits.
///
/// ```
/// use flowtap_model::Events;
///
/// let events = Events::CLOSED | Events::RESET;
/// assert!(events.contains(Events::CLOSED));
/// assert!(!events.contains(Events::OPENED));
/// assert_eq!(Events::from_bits(events.bits()), events);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events(u8);

impl Events {
    /// Nothing but traffic.
    pub const NONE: Self = Self(0);
    /// Established; the first record of this connection.
    pub const OPENED: Self = Self(1);
    /// Closed; the last record of this connection.
    pub const CLOSED: Self = Self(1 << 1);
    /// A connect that was never established; `failure` holds the errno.
    pub const FAILED: Self = Self(1 << 2);
    /// Ended by a reset, from either side. Comes with `CLOSED`.
    pub const RESET: Self = Self(1 << 3);
    /// Was open before flowtap was: counted from then on, and its opening was not seen.
    pub const ADOPTED: Self = Self(1 << 4);
    /// Is open: reported again by a [census](crate::batch::Census), whether it moved bytes or not.
    pub const OPEN: Self = Self(1 << 5);
    /// Alone: a connect that waits for an answer. Nothing has moved, `age_us` is the time since the SYN, `syn_retransmits` counts
    /// up to now, and a `state` of CLOSE says that it waits no more, however it ended.
    pub const CONNECTING: Self = Self(1 << 6);
    /// Comes with `FAILED`: the retransmission time-out of the SYN had passed, whether it could be retransmitted or not.
    pub const UNANSWERED: Self = Self(1 << 7);

    /// The set with exactly these bits.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits, as `from_bits` takes them.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every event of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Events {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The first retransmission time-out of a SYN (RFC 6298, section 2.1).
const SYN_TIMEOUT_US: u64 = 1_000_000;

/// The changes of one TCP socket since its last record.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_model::{Endpoint, Events, Flow, TcpRecord};
///
/// let local = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 50_000);
/// let remote = Endpoint::new(Ipv4Addr::new(192, 0, 2, 7).into(), 443);
/// let mut record = TcpRecord::new(Flow::new(local, remote));
/// record.sent_bytes = 81;
/// record.events = Events::OPENED;
/// assert_eq!(record.received_bytes, 0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpRecord {
    /// The socket, its peer and its owner.
    pub flow: Flow,
    /// Payload bytes sent; each counts once, however often it was transmitted.
    pub sent_bytes: i64,
    /// Payload bytes received in order, the FIN not counted.
    pub received_bytes: i64,
    /// Segments sent, retransmissions and pure acknowledgements included.
    pub sent_segments: i64,
    /// Segments received.
    pub received_segments: i64,
    /// Segments retransmitted.
    pub retransmits: i64,
    /// The kernel's smoothed round-trip time, in µs; 0 before the first sample.
    pub rtt_us: u32,
    /// The smallest round-trip time seen, in µs; 0 before the first sample.
    pub min_rtt_us: u32,
    /// Congestion window, in segments.
    pub cwnd: u32,
    /// TCP state, the kernel's number (`include/net/tcp_states.h`).
    pub state: u8,
    /// Events of the connection since the last record.
    pub events: Events,
    /// Why a connect failed or a connection broke, as an errno; 0 for none.
    pub failure: u16,
    /// From SYN to ESTABLISHED, in µs, for connections that this machine opened; 0 if not seen.
    pub handshake_us: u32,
    /// From ESTABLISHED (or adoption) to this record, in µs.
    pub age_us: u64,
    /// Time since the last record, by limit.
    pub time: SendTime,
    /// Part of it that was spent in retransmission time-outs, in µs. From Linux 6.7 on.
    pub rto_us: i64,
    /// Bytes that are queued.
    pub queues: Queues,
    /// Segments received ahead of a gap.
    pub out_of_order: i64,
    /// Segments sent that TCP took for lost.
    pub lost: i64,
    /// Segments sent that were acknowledged with a congestion mark (ECN).
    pub ecn_ce: i64,
    /// Retransmissions of the SYN, or of the SYN-ACK, in the record of an opened connection or a failed connect. Up to now in that
    /// of a connect that waits, which no counter takes.
    pub syn_retransmits: u8,
    /// Whether the last round-trip sample may contain the peer's think time: this side had no more to send.
    pub is_application_limited: bool,
    /// The side that reset the connection, with [`Events::RESET`].
    pub reset_by: ResetBy,
    /// Exchanges since the last record; `None` if there were none, or they are not asked for.
    pub exchanges: Option<Box<Exchanges>>,
}

impl TcpRecord {
    /// An empty record of `flow`: no traffic, no events.
    pub const fn new(flow: Flow) -> Self {
        Self {
            flow,
            sent_bytes: 0,
            received_bytes: 0,
            sent_segments: 0,
            received_segments: 0,
            retransmits: 0,
            rtt_us: 0,
            min_rtt_us: 0,
            cwnd: 0,
            state: 0,
            events: Events::NONE,
            failure: 0,
            handshake_us: 0,
            age_us: 0,
            time: SendTime::ZERO,
            rto_us: 0,
            queues: Queues::EMPTY,
            out_of_order: 0,
            lost: 0,
            ecn_ce: 0,
            syn_retransmits: 0,
            is_application_limited: false,
            reset_by: ResetBy::Unknown,
            exchanges: None,
        }
    }

    /// Whether an error ended the connection, which no end had closed or reset.
    pub const fn is_broken(&self) -> bool {
        self.failure != 0
            && self.events.contains(Events::CLOSED)
            && !self.events.contains(Events::RESET)
            && !self.events.contains(Events::FAILED)
    }

    /// Whether it is of a connect that waits for an answer, or that did until now.
    pub const fn is_connecting(&self) -> bool {
        self.events.bits() == Events::CONNECTING.bits()
    }

    /// Whether nobody has answered the SYN of a connect that waits, or that the application has given up, within its retransmission
    /// time-out. A SYN that can't leave this machine is not retransmitted: so one that waits for as long as the time-out counts as well.
    pub const fn is_unanswered(&self) -> bool {
        let (waited, overdue) = if self.is_connecting() {
            (true, self.age_us >= SYN_TIMEOUT_US)
        } else {
            let given_up = self.failure == 0 && self.events.contains(Events::FAILED);
            (given_up, self.events.contains(Events::UNANSWERED))
        };
        waited && (overdue || self.syn_retransmits > 0)
    }

    /// The same record with another flow, made from its own.
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use flowtap_model::{Endpoint, Flow, TcpRecord};
    ///
    /// let end = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 80);
    /// let record = TcpRecord::new(Flow::new(end, end)).with_flow(|flow| Flow { pid: 7, ..flow });
    /// assert_eq!(record.flow.pid, 7);
    /// ```
    #[must_use]
    pub fn with_flow(self, change: impl FnOnce(Flow) -> Flow) -> Self {
        Self {
            flow: change(self.flow),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_events_has_a_meaning_and_is_kept() {
        let events = Events::from_bits(0xff);
        assert!(events.contains(Events::CLOSED | Events::RESET | Events::UNANSWERED));
        assert_eq!(events.bits(), 0xff);
        assert!(!Events::CLOSED.contains(Events::CLOSED | Events::RESET));
    }
}
