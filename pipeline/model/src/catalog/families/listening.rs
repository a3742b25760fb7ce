//! Families of listening sockets.

use super::super::definition::{Definition, otel};
use super::super::label::Label;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

/// Labels of a listening socket: of itself and of its process.
const LISTENER_LABELS: &[Label] = &[
    Label::Laddr,
    Label::Netns,
    Label::Pid,
    Label::Comm,
    Label::CgroupId,
    Label::ContainerId,
    Label::LocalNamespace,
    Label::LocalPod,
    Label::LocalWorkload,
];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Definition] = &[
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_listen_backlog",
            help: "Connections that wait to be accepted, by listening port.",
            unit: Unit::Count("{connection}"),
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.listen.backlog",
            "Connections that wait to be accepted, by listening port.",
            Unit::Count("{connection}"),
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_listen_backlog_limit",
            help: "Connections that may wait to be accepted, by listening port; further ones are dropped.",
            unit: Unit::Count("{connection}"),
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.listen.backlog.limit",
            "Connections that may wait to be accepted, by listening port; further ones are dropped.",
            Unit::Count("{connection}"),
            FamilyKind::UpDownCounter,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_listen_drops",
            help: "Connections that listening sockets dropped, most often because their queue was full, by listening port.",
            unit: Unit::Count("{connection}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.listen.drops",
            "Connections that listening sockets dropped, most often because their queue was full, by listening port.",
            Unit::Count("{connection}"),
            FamilyKind::Counter,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_accept_wait",
            help: "Time in seconds for which the first connection of a queue has waited to be accepted, by listening port.",
            unit: Unit::Seconds,
            kind: FamilyKind::Gauge,
        },
        otel: otel(
            "flowtap.tcp.accept.wait",
            "Time for which the first connection of a queue has waited to be accepted, by listening port.",
            Unit::Seconds,
            FamilyKind::Gauge,
        ),
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        enabled: true,
        only: None,
    },
];
