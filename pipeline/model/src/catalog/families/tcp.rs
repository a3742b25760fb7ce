//! Families of TCP connections: bytes, round-trip times, openings and ends.

use super::super::definition::STABLE_LABELS;
use super::super::entry::{COUNT, COUNTER, Entry, histogram};
use super::super::label::Label;
use super::bounds::{
    CONNECT_BOUNDS, LIFE_BOUNDS, RTT_BOUNDS, SIZE_BOUNDS, WIDE_RTT_BOUNDS, WIDE_RTT_BOUNDS_SECONDS,
};
use crate::family::{FamilyKind, Naming};
use crate::unit::Unit;

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Entry] = &[
    Entry {
        names: ["network_tcp_bytes", "flowtap.node.tcp.io"],
        help: "Payload bytes of all TCP connections. Its series exist from the start, so an increase is whole.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[Label::Flow, Label::Direction, Label::Type],
        more: &[Label::NetworkType],
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_io", "flowtap.tcp.io"],
        help: "Payload bytes of TCP connections, by peer.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[
            Label::Raddr,
            Label::ServerPort,
            Label::Direction,
            Label::Flow,
            Label::Type,
        ],
        more: &[Label::Rport, Label::Lport, Label::NetworkType],
        details: &Label::DETAILS,
        only: Some(Naming::Otel),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_flow_egress", "flowtap.tcp.egress.io"],
        help: "Payload bytes of TCP connections that this machine opened, by peer. Those of DNS are in network_flow_dns, those of pods and services in network_k8s_tcp_flow.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[Label::Raddr, Label::Rport, Label::Direction, Label::Type],
        more: &[Label::Lport, Label::ServerPort, Label::NetworkType],
        details: &Label::DETAILS,
        only: Some(Naming::PrimusLens),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_flow_ingress", "flowtap.tcp.ingress.io"],
        help: "Payload bytes of TCP connections that this machine accepted, by peer. Those of DNS are in network_flow_dns, those of pods and services in network_k8s_tcp_flow.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[Label::Lport, Label::Raddr, Label::Direction, Label::Type],
        more: &[Label::Rport, Label::ServerPort, Label::NetworkType],
        details: &Label::DETAILS,
        only: Some(Naming::PrimusLens),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_k8s_tcp_flow", "flowtap.tcp.k8s.io"],
        help: "Payload bytes to and from pods and services of the cluster.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Direction,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        only: Some(Naming::PrimusLens),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_flow_dns", "flowtap.dns.io"],
        help: "Payload bytes to and from name servers, over TCP and UDP.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Direction,
            Label::Flow,
            Label::Type,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        only: Some(Naming::PrimusLens),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_flow_rtt", "flowtap.tcp.rtt"],
        help: "Smoothed round-trip time in microseconds of connections that moved bytes, once per interval. Of requests that are answered within 40 ms it includes the time that the answer takes: see network_tcp_flow_min_rtt.",
        otel_help: Some(
            "Smoothed round-trip time of connections that moved bytes, once per interval, where the sender had more to send.",
        ),
        unit: Unit::Microseconds,
        otel_unit: Some(Unit::Seconds),
        kinds: [
            FamilyKind::Histogram(&RTT_BOUNDS),
            FamilyKind::Histogram(&WIDE_RTT_BOUNDS_SECONDS),
        ],
        labels: &[Label::Raddr, Label::Direction],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Type,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_flow_min_rtt", "flowtap.tcp.min_rtt"],
        help: "Smallest round-trip time in microseconds that the kernel measured recently, of connections that moved bytes, once per interval.",
        otel_help: Some(
            "Smallest round-trip time that the kernel measured recently, of connections that moved bytes, once per interval.",
        ),
        unit: Unit::Microseconds,
        otel_unit: Some(Unit::Seconds),
        kinds: [
            FamilyKind::Histogram(&WIDE_RTT_BOUNDS),
            FamilyKind::Histogram(&WIDE_RTT_BOUNDS_SECONDS),
        ],
        labels: &[Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_connections", "flowtap.tcp.connection.events"],
        help: "TCP connections that were opened, closed, reset, or failed to open.",
        unit: Unit::Count("{connection}"),
        kinds: COUNTER,
        labels: &[Label::Flow, Label::Event, Label::Type],
        more: &[
            Label::ResetBy,
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_connections_active", "flowtap.tcp.connection.active"],
        help: "TCP connections that are open.",
        unit: Unit::Count("{connection}"),
        kinds: COUNT,
        labels: &[Label::Flow, Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
        ],
        details: STABLE_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_connect_failures", "flowtap.tcp.connect.failures"],
        help: "Connects that failed, by reason.",
        unit: Unit::Count("{connection}"),
        kinds: COUNTER,
        labels: &[Label::Reason, Label::Type],
        more: &[Label::Raddr, Label::Rport, Label::NetworkType],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_connect_duration", "flowtap.tcp.connect.duration"],
        help: "Time in seconds from the SYN to the established connection, for connections that this machine opened.",
        unit: Unit::Seconds,
        kinds: histogram(&CONNECT_BOUNDS),
        labels: &[Label::Raddr, Label::Type],
        more: &[Label::Rport, Label::NetworkType],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: [
            "network_tcp_connection_duration",
            "flowtap.tcp.connection.duration",
        ],
        help: "Time in seconds from the established connection, or its adoption by flowtap, to its end.",
        otel_help: Some("Time from the established connection, or its adoption by flowtap, to its end."),
        unit: Unit::Seconds,
        kinds: histogram(&LIFE_BOUNDS),
        labels: &[Label::Flow, Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_connection_bytes", "flowtap.tcp.connection.io"],
        help: "Payload bytes of a closed connection in each direction, from its beginning or since flowtap follows it.",
        unit: Unit::Bytes,
        kinds: histogram(&SIZE_BOUNDS),
        labels: &[Label::Flow, Label::Direction, Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: false,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_segments", "flowtap.tcp.segments"],
        help: "TCP segments, by peer: retransmissions and acknowledgements without payload included.",
        unit: Unit::Count("{segment}"),
        kinds: COUNTER,
        labels: &[Label::Raddr, Label::Direction, Label::Type],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        enabled: false,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_retransmits", "flowtap.tcp.retransmits"],
        help: "Retransmitted TCP segments, by peer.",
        unit: Unit::Count("{segment}"),
        kinds: COUNTER,
        labels: &[Label::Raddr, Label::Type],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Flow,
            Label::NetworkType,
        ],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["bpf_event_recv", "flowtap.bpf.events.received"],
        help: "Events read from the kernel's ring buffers, in the capture mode that has a record per event.",
        unit: Unit::Count("{event}"),
        kinds: COUNTER,
        labels: &[Label::EventType],
        ..Entry::EMPTY
    },
    Entry {
        names: ["bpf_event_chan_drop", "flowtap.bpf.events.dropped"],
        help: "Events dropped because the channel after the ring buffers was full.",
        unit: Unit::Count("{event}"),
        kinds: COUNTER,
        labels: &[Label::EventType],
        ..Entry::EMPTY
    },
];
