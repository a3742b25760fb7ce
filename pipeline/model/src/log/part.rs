//! The fields that records of connections and of UDP flows have in common.

use std::time::Duration;

use super::{LogBody, LogRecord, Outcome};
use crate::time::Timestamp;

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
    /// Number of records before this one.
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
    /// Probability with which it had a record.
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

impl LogRecord {
    /// The part of a connection or of a UDP flow that the record is about, if it is about one.
    ///
    /// ```
    /// use flowtap_model::log::{Datagrams, UdpLog};
    /// use flowtap_model::{Endpoint, Flow, LogBody, LogRecord, Timestamp, Transport};
    ///
    /// let end = Endpoint::new([192, 0, 2, 1].into(), 53);
    /// let sent = Datagrams { sent_bytes: 40, sent_datagrams: 1, ..Datagrams::default() };
    /// let record = LogRecord {
    ///     at: Timestamp::from_nanos(5),
    ///     flow: Flow { transport: Transport::Udp, ..Flow::new(end, end) },
    ///     body: LogBody::Udp(UdpLog { delta: sent, total: sent, ..UdpLog::default() }),
    /// };
    /// assert_eq!(record.part().unwrap().delta.sent_packets, 1);
    /// ```
    pub fn part(&self) -> Option<FlowPart> {
        match &self.body {
            LogBody::Connection(log) => Some(FlowPart {
                outcome: log.outcome,
                error: log.error,
                sequence: log.sequence,
                adopted: log.adopted,
                duration: log.duration,
                interval: log.interval,
                delta: log.delta.into(),
                total: log.total.into(),
                probability: log.probability,
            }),
            LogBody::Udp(log) => Some(FlowPart {
                outcome: log.outcome,
                error: log.error,
                sequence: log.sequence,
                adopted: log.adopted,
                duration: log.duration,
                interval: log.interval,
                delta: log.delta.into(),
                total: log.total.into(),
                probability: log.probability,
            }),
            LogBody::Dns(_) | LogBody::Drop(_) | LogBody::Finding(_) => None,
        }
    }
}
