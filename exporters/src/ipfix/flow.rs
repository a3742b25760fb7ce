//! Log records as flows of IPFIX.

use std::net::IpAddr;

use flowtap_pipeline::log::{DropLog, Outcome};
use flowtap_pipeline::{DropKind, DropReason, Endpoint, LogRecord, RoleSource, Timestamp, Transport};

/// `flowEndReason`: nothing has moved for a while.
const IDLE_TIMEOUT: u8 = 1;

/// `flowEndReason`: the flow goes on, and this is a part of it.
const ACTIVE_TIMEOUT: u8 = 2;

/// `flowEndReason`: the end was detected.
const END_DETECTED: u8 = 3;

/// `flowEndReason`: measuring ended before the flow did.
const FORCED_END: u8 = 4;

/// Causes of `forwardingStatus` for dropped packets (RFC 7270, section 4.12): the first pattern that fits a reason decides, with `*` at
/// either end. Of the others the kind decides.
const STATUSES: &[(&str, u8)] = &[
    ("IP_RPFILTER", 140),
    ("*NOROUTES", 131),
    ("NEIGH_*", 132),
    ("PKT_TOO_BIG", 133),
    ("IP_CSUM", 134),
    ("PKT_TOO_SMALL", 135),
    ("HDR_TRUNC", 136),
    ("*_INHDR", 136),
];

/// `forwardingStatus`: dropped by an access list.
const ACL_DROP: u8 = 130;

/// `forwardingStatus`: dropped, for no reason that it has a number for.
const DROPPED: u8 = 128;

/// Dropped packets of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) octets: u64,
    pub(super) packets: u64,
    /// `forwardingStatus`
    pub(super) status: u8,
}

impl From<&DropLog> for Dropped {
    fn from(log: &DropLog) -> Self {
        Self {
            octets: log.bytes,
            packets: log.packets,
            status: status(log.reason),
        }
    }
}

fn status(reason: DropReason) -> u8 {
    let name = reason.as_str();
    let fits = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start),
        _ => name == pattern,
    };
    match STATUSES.iter().find(|(pattern, _)| fits(pattern)) {
        Some((_, status)) => *status,
        None if reason.kind() == DropKind::Policy => ACL_DROP,
        None => DROPPED,
    }
}

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
    /// The packets, of a record of dropped ones: none of them arrived.
    pub(super) dropped: Option<Dropped>,
}

impl FlowRecord {
    /// The flow of `record`, and the payload bytes by which it exceeds what was measured: counts of IPFIX are never negative. `None`
    /// for a record that is of no flow.
    pub(super) fn of(record: &LogRecord) -> Option<(Self, u64)> {
        if let Some(log) = record.dropped() {
            return Some((Self::of_drop(record, log), 0));
        }
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
            dropped: None,
        };
        Some((flow, excess.iter().sum()))
    }

    /// Dropped packets: they have the time at which they were seen. The source is their sender.
    fn of_drop(record: &LogRecord, log: &DropLog) -> Self {
        let (source, destination) = record.ends();
        Self {
            start: millis(record.at),
            end: millis(record.at),
            source,
            destination,
            protocol: protocol(record.flow.transport),
            egress: record.is_client(),
            end_reason: 0,
            octets: 0,
            packets: 0,
            initiated: false,
            reverse_octets: 0,
            reverse_packets: 0,
            id: record.flow.cookie,
            observation_point: record.flow.netns.into(),
            probability: 1.0,
            dropped: Some(log.into()),
        }
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
        Outcome::Closed | Outcome::Reset | Outcome::Broken | Outcome::Failed | Outcome::Lost => END_DETECTED,
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
    use flowtap_pipeline::LogBody;

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
        let LogBody::Connection(log) = &mut batch.records[0].body else {
            unreachable!("a connection");
        };
        log.delta.sent_bytes = -7;
        log.delta.received_segments = i64::MIN;
        let (flow, excess) = FlowRecord::of(&batch.records[0]).unwrap();
        assert_eq!((flow.octets, flow.reverse_octets, excess), (0, 3_000, 7));
        assert_eq!(flow.reverse_packets, 0);
    }

    #[test]
    fn a_udp_flow_is_a_flow_of_protocol_17_and_an_idle_one_has_its_end_reason() {
        use flowtap_pipeline::log::{Datagrams, UdpLog};

        let mut record = logs().records[0].clone();
        record.flow.transport = Transport::Udp;
        record.body = LogBody::Udp(UdpLog {
            outcome: Outcome::Idle,
            delta: Datagrams {
                sent_bytes: 40,
                received_bytes: 120,
                sent_datagrams: 1,
                received_datagrams: 2,
                ..Datagrams::default()
            },
            ..UdpLog::default()
        });
        let (flow, excess) = FlowRecord::of(&record).unwrap();
        assert_eq!((flow.protocol, flow.end_reason, excess), (17, IDLE_TIMEOUT, 0));
        assert_eq!((flow.octets, flow.reverse_octets), (40, 120));
        assert_eq!((flow.packets, flow.reverse_packets), (1, 2));
    }

    #[test]
    fn dropped_packets_have_the_status_of_their_reason_and_no_octets_that_arrived() {
        for (reason, status) in [
            ("NETFILTER_DROP", ACL_DROP),
            ("IP_RPFILTER", 140),
            ("IP_INNOROUTES", 131),
            ("NEIGH_FAILED", 132),
            ("PKT_TOO_BIG", 133),
            ("IP_CSUM", 134),
            ("IP_INHDR", 136),
            ("UDP_CSUM", DROPPED),
            ("NO_SOCKET", DROPPED),
            ("TCP_OLD_SEQUENCE", DROPPED),
        ] {
            let record = LogRecord {
                body: LogBody::Drop(DropLog {
                    reason: DropReason::new(reason),
                    packets: 3,
                    bytes: 180,
                }),
                ..logs().records[0].clone()
            };
            let (flow, excess) = FlowRecord::of(&record).unwrap();
            let dropped = flow.dropped.unwrap();
            assert_eq!(
                (dropped.packets, dropped.octets, dropped.status),
                (3, 180, status),
                "{reason}"
            );
            assert_eq!((flow.octets, flow.has_moved(), excess), (0, false, 0));
        }
    }

    #[test]
    fn ends_of_two_families_are_written_as_ipv6() {
        let mut flow = flow();
        assert!(!flow.is_ipv6());
        flow.destination.addr = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        assert!(flow.is_ipv6());
    }
}
