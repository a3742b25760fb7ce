//! Families of what limits TCP connections.

use super::super::definition::{Definition, otel};
use super::super::label::Label;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

/// Further labels of what limits connections. By default their series are as few as the classes of peers: an address is a choice.
const LIMITS_MORE: &[Label] = &[
    Label::Raddr,
    Label::Rport,
    Label::Lport,
    Label::ServerPort,
    Label::Flow,
    Label::NetworkType,
];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Definition] = &[
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_send_time",
            help: "Life of TCP connections in seconds, by what their sender waited for; the sum is the time that they were open.",
            unit: Unit::Seconds,
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.send.time",
            "Life of TCP connections in seconds, by what their sender waited for; the sum is the time that they were open.",
            Unit::Seconds,
            FamilyKind::Counter,
        ),
        labels: &[Label::Limit, Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_rto_time",
            help: "Time in seconds from retransmission time-outs of TCP connections until all in flight was acknowledged.",
            unit: Unit::Seconds,
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.rto.time",
            "Time in seconds from retransmission time-outs of TCP connections until all in flight was acknowledged.",
            Unit::Seconds,
            FamilyKind::Counter,
        ),
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_syn_retransmits",
            help: "Retransmissions of SYN and SYN-ACK segments.",
            unit: Unit::Count("{segment}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.syn.retransmits",
            "Retransmissions of SYN and SYN-ACK segments.",
            Unit::Count("{segment}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_queued_bytes",
            help: "Bytes in the queues of open TCP connections, at the last scan.",
            unit: Unit::Bytes,
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.queued",
            "Bytes in the queues of open TCP connections, at the last scan.",
            Unit::Bytes,
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Queue, Label::Type],
        more: LIMITS_MORE,
        details: &[],
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_out_of_order",
            help: "TCP segments received ahead of a gap.",
            unit: Unit::Count("{segment}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.out_of_order",
            "TCP segments received ahead of a gap.",
            Unit::Count("{segment}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_lost",
            help: "TCP segments sent that TCP took for lost.",
            unit: Unit::Count("{segment}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.lost",
            "TCP segments sent that TCP took for lost.",
            Unit::Count("{segment}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_ecn_ce",
            help: "TCP segments sent that were acknowledged with a congestion mark.",
            unit: Unit::Count("{segment}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.ecn.ce",
            "TCP segments sent that were acknowledged with a congestion mark.",
            Unit::Count("{segment}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_connecting",
            help: "TCP connects that wait for an answer, at the last scan.",
            unit: Unit::Count("{connection}"),
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.connecting",
            "TCP connects that wait for an answer, at the last scan.",
            Unit::Count("{connection}"),
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &[],
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_connecting_retransmits",
            help: "SYN segments that TCP connects which wait for an answer have retransmitted so far.",
            unit: Unit::Count("{segment}"),
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.connecting.retransmits",
            "SYN segments that TCP connects which wait for an answer have retransmitted so far.",
            Unit::Count("{segment}"),
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &[],
        enabled: true,
        only: None,
    },
];
