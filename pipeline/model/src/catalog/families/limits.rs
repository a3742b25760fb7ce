//! Families of what limits TCP connections.

use super::super::entry::{COUNT, COUNTER, Entry};
use super::super::label::Label;
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
pub(super) const FAMILIES: &[Entry] = &[
    Entry {
        names: ["network_tcp_send_time", "flowtap.tcp.send.time"],
        help: "Life of TCP connections in seconds, by what their sender waited for; the sum is the time that they were open.",
        unit: Unit::Seconds,
        kinds: COUNTER,
        labels: &[Label::Limit, Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_rto_time", "flowtap.tcp.rto.time"],
        help: "Time in seconds from retransmission time-outs of TCP connections until all in flight was acknowledged.",
        unit: Unit::Seconds,
        kinds: COUNTER,
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_syn_retransmits", "flowtap.tcp.syn.retransmits"],
        help: "Retransmissions of SYN and SYN-ACK segments.",
        unit: Unit::Count("{segment}"),
        kinds: COUNTER,
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_queued_bytes", "flowtap.tcp.queued"],
        help: "Bytes in the queues of open TCP connections, at the last scan.",
        unit: Unit::Bytes,
        kinds: COUNT,
        labels: &[Label::Queue, Label::Type],
        more: LIMITS_MORE,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_out_of_order", "flowtap.tcp.out_of_order"],
        help: "TCP segments received ahead of a gap.",
        unit: Unit::Count("{segment}"),
        kinds: COUNTER,
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_lost", "flowtap.tcp.lost"],
        help: "TCP segments sent that TCP took for lost.",
        unit: Unit::Count("{segment}"),
        kinds: COUNTER,
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_ecn_ce", "flowtap.tcp.ecn.ce"],
        help: "TCP segments sent that were acknowledged with a congestion mark.",
        unit: Unit::Count("{segment}"),
        kinds: COUNTER,
        labels: &[Label::Type],
        more: LIMITS_MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_connecting", "flowtap.tcp.connecting"],
        help: "TCP connects that wait for an answer, at the last scan.",
        unit: Unit::Count("{connection}"),
        kinds: COUNT,
        labels: &[Label::Type],
        more: LIMITS_MORE,
        ..Entry::EMPTY
    },
    Entry {
        names: [
            "network_tcp_connecting_retransmits",
            "flowtap.tcp.connecting.retransmits",
        ],
        help: "SYN segments that TCP connects which wait for an answer have retransmitted so far.",
        unit: Unit::Count("{segment}"),
        kinds: COUNT,
        labels: &[Label::Type],
        more: LIMITS_MORE,
        ..Entry::EMPTY
    },
];
