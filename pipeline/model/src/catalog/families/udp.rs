//! Families of UDP and ICMP.

use super::super::entry::{COUNTER, Entry};
use super::super::label::Label;
use crate::family::Naming;
use crate::unit::Unit;

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Entry] = &[
    Entry {
        names: ["network_udp_io", "flowtap.udp.io"],
        help: "Payload bytes of UDP, by peer.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[
            Label::Raddr,
            Label::ServerPort,
            Label::Direction,
            Label::Flow,
            Label::Type,
            Label::App,
        ],
        more: &[Label::Rport, Label::Lport, Label::NetworkType],
        details: &Label::DETAILS,
        only: Some(Naming::Otel),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_udp_flow_egress", "flowtap.udp.egress.io"],
        help: "Payload bytes of UDP flows that this machine began, by peer. Those of DNS are in network_flow_dns, those of pods and services in network_k8s_udp_flow.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[
            Label::Raddr,
            Label::Rport,
            Label::Direction,
            Label::Type,
            Label::App,
        ],
        more: &[Label::Lport, Label::ServerPort, Label::NetworkType],
        details: &Label::DETAILS,
        only: Some(Naming::PrimusLens),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_udp_flow_ingress", "flowtap.udp.ingress.io"],
        help: "Payload bytes of UDP flows that a peer began, by peer. Those of DNS are in network_flow_dns, those of pods and services in network_k8s_udp_flow.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[
            Label::Lport,
            Label::Raddr,
            Label::Direction,
            Label::Type,
            Label::App,
        ],
        more: &[Label::Rport, Label::ServerPort, Label::NetworkType],
        details: &Label::DETAILS,
        only: Some(Naming::PrimusLens),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_k8s_udp_flow", "flowtap.udp.k8s.io"],
        help: "Payload bytes of UDP to and from pods and services of the cluster.",
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
            Label::App,
        ],
        details: &Label::DETAILS,
        only: Some(Naming::PrimusLens),
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_udp_datagrams", "flowtap.udp.datagrams"],
        help: "UDP datagrams; segmentation offload counts each.",
        unit: Unit::Count("{datagram}"),
        kinds: COUNTER,
        labels: &[Label::Flow, Label::Direction, Label::Type],
        more: &[
            Label::Raddr,
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::NetworkType,
            Label::App,
        ],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_udp_drops", "flowtap.udp.drops"],
        help: "UDP datagrams for which the receive buffer of a socket had no room.",
        unit: Unit::Count("{datagram}"),
        kinds: COUNTER,
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_udp_errors", "flowtap.udp.errors"],
        help: "ICMP errors that UDP sockets were notified of, by peer.",
        unit: Unit::Count("{error}"),
        kinds: COUNTER,
        labels: &[Label::Raddr, Label::Reason, Label::Type],
        more: &[
            Label::Rport,
            Label::Lport,
            Label::ServerPort,
            Label::Flow,
            Label::NetworkType,
            Label::App,
        ],
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_icmp_messages", "flowtap.icmp.messages"],
        help: "ICMP and ICMPv6 messages of the network namespace whose listening ports are read, by type.",
        unit: Unit::Count("{message}"),
        kinds: COUNTER,
        labels: &[Label::Direction, Label::IcmpType],
        more: &[Label::NetworkType],
        ..Entry::EMPTY
    },
];
