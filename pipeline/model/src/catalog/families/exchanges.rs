//! Families of exchanges: a request and the beginning of its answer.

use super::super::definition::{Definition, otel};
use super::super::label::Label;
use super::bounds::CONNECT_BOUNDS;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

const LABELS: &[Label] = &[Label::Raddr, Label::ServerPort, Label::Flow, Label::Type];

const MORE: &[Label] = &[Label::Rport, Label::Lport, Label::NetworkType];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Definition] = &[
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_exchanges",
            help: "Requests over TCP that were answered: changes of the side that speaks, with TLS as well. Needs `inspect.exchanges` of the receiver ebpf.",
            unit: Unit::Count("{exchange}"),
            kind: FamilyKind::Counter,
        },
        otel: otel(
            "flowtap.tcp.exchanges",
            "Requests over TCP that were answered: changes of the side that speaks, with TLS as well. Needs `inspect.exchanges` of the receiver ebpf.",
            Unit::Count("{exchange}"),
            FamilyKind::Counter,
        ),
        labels: LABELS,
        more: MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: "network_tcp_exchange_duration",
            help: "Time in seconds from the last segment of a request over TCP to the first one of its answer. At a client it includes the network.",
            unit: Unit::Seconds,
            kind: FamilyKind::Histogram(&CONNECT_BOUNDS),
        },
        otel: otel(
            "flowtap.tcp.exchange.duration",
            "Time from the last segment of a request over TCP to the first one of its answer. At a client it includes the network.",
            Unit::Seconds,
            FamilyKind::Histogram(&CONNECT_BOUNDS),
        ),
        labels: LABELS,
        more: MORE,
        details: &Label::DETAILS,
        enabled: true,
        only: None,
    },
];
