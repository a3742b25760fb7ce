//! Log records as flows of IPFIX.

use std::net::IpAddr;

use flowtap_pipeline::log::Outcome;
use flowtap_pipeline::{Endpoint, LogRecord, RoleSource, Timestamp, Transport};

/// `flowEndReason`: nothing has moved for a while.
const IDLE_TIMEOUT: u8 = 1;

/// `flowEndReason`: the flow goes on, and this is a part of it.
const ACTIVE_TIMEOUT: u8 = 2;

/// `flowEndReason`: the end was detected.
const END_DETECTED: u8 = 3;

/// `flowEndReason`: measuring ended before the flow did.
const FORCED_END: u8 = 4;

/// A flow as its record has it, in both directions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FlowRecord {
    /// Start of the time that the record covers, in milliseconds since the epoch.
    pub(super) start: u64,
    /// Its end.
    pub(super) end: u64,
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    pub(super) protocol: u8,
    /// From source to destination it left this machine.
    pub(super) egress: bool,
    pub(super) end_reason: u8,
    /// Payload bytes from source to destination.
    pub(super) octets: u64,
    pub(super) packets: u64,
    /// The source is known to have opened it.
    pub(super) initiated: bool,
    pub(super) reverse_octets: u64,
    pub(super) reverse_packets: u64,
    /// Socket cookie; 0 if unknown.
    pub(super) id: u64,
    /// Inode number of the network namespace; 0 if unknown.
    pub(super) observation_point: u64,
    /// Probability with which it was kept.
    pub(super) probability: f64,
}

impl FlowRecord {
    /// The flow of `record`, and the payload bytes by which it exceeds what was measured: counts of IPFIX are never negative. `None`
    /// for a record that is of no flow.
    pub(super) fn of(record: &LogRecord) -> Option<(Self, u64)> {
        let part = record.part()?;
        let (source, destination) = record.ends();
        let delta = &part.delta;
        let (sent, received) = record.oriented(delta.sent_bytes, delta.received_bytes);
        let (packets, reverse_packets) = record.oriented(delta.sent_packets, delta.received_packets);
        let excess = [sent, received].map(|bytes| bytes.min(0).unsigned_abs());
        let flow = Self {
            start: millis(part.interval_start(record.at)),
            end: millis(record.at),
            source,
            destination,
            protocol: protocol(record.flow.transport),
            egress: record.is_client(),
            end_reason: end_reason(part.outcome),
            octets: count(sent),
            packets: count(packets),
            initiated: record.flow.role_source != RoleSource::Assumed,
            reverse_octets: count(received),
            reverse_packets: count(reverse_packets),
            id: record.flow.cookie,
            observation_point: record.flow.netns.into(),
            probability: part.probability,
        };
        Some((flow, excess.iter().sum()))
    }

    /// The flow from destination to source.
    pub(super) fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            egress: !self.egress,
            octets: self.reverse_octets,
            packets: self.reverse_packets,
            reverse_octets: self.octets,
            reverse_packets: self.packets,
            initiated: false,
            ..self.clone()
        }
    }

    /// Whether anything went from source to destination.
    pub(super) const fn has_moved(&self) -> bool {
        self.octets > 0 || self.packets > 0
    }

    pub(super) const fn is_ipv6(&self) -> bool {
        !matches!(
            (self.source.addr, self.destination.addr),
            (IpAddr::V4(_), IpAddr::V4(_))
        )
    }
}

const fn end_reason(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Idle => IDLE_TIMEOUT,
        Outcome::Active => ACTIVE_TIMEOUT,
        Outcome::Closed | Outcome::Reset | Outcome::Failed | Outcome::Lost => END_DETECTED,
        Outcome::Detached => FORCED_END,
    }
}

/// IANA's number of the protocol; 255 ("Reserved") for one that is unknown.
const fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
        Transport::UdpLite => 136,
        Transport::Other => 255,
    }
}

fn count(number: i64) -> u64 {
    number.max(0).unsigned_abs()
}

const fn millis(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000_000
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::logs;

    /// The connection that closed, of [`logs`].
    pub(in crate::ipfix) fn flow() -> FlowRecord {
        FlowRecord::of(&logs().records[0]).unwrap().0
    }

    #[test]
    fn a_closed_connection_of_a_client_is_a_flow_that_left_this_machine() {
        let flow = flow();
        assert_eq!((flow.start, flow.end), (2_500, 5_000));
        assert_eq!((flow.source.port, flow.destination.port), (50_000, 443));
        assert_eq!((flow.octets, flow.reverse_octets), (81, 3_000));
        assert_eq!((flow.packets, flow.reverse_packets), (5, 6));
        assert_eq!(
            (flow.egress, flow.end_reason, flow.protocol),
            (true, END_DETECTED, 6)
        );
        let back = flow.reversed();
        assert_eq!((back.source.port, back.octets, back.packets), (443, 3_000, 6));
        assert!(!back.egress);
        assert_eq!(back.reversed().octets, 81);
    }

    #[test]
    fn counts_are_never_negative_and_the_excess_is_reported() {
        let mut batch = logs();
        let flowtap_pipeline::LogBody::Connection(log) = &mut batch.records[0].body else {
            unreachable!("a connection");
        };
        log.delta.sent_bytes = -7;
        log.delta.received_segments = i64::MIN;
        let (flow, excess) = FlowRecord::of(&batch.records[0]).unwrap();
        assert_eq!((flow.octets, flow.reverse_octets, excess), (0, 3_000, 7));
        assert_eq!(flow.reverse_packets, 0);
    }

    #[test]
    fn ends_of_two_families_are_written_as_ipv6() {
        let mut flow = flow();
        assert!(!flow.is_ipv6());
        flow.destination.addr = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        assert!(flow.is_ipv6());
    }
}
