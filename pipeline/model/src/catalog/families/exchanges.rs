//! Families of exchanges: a request and the beginning of its answer.

use super::super::entry::{COUNTER, Entry, histogram};
use super::super::label::Label;
use super::bounds::CONNECT_BOUNDS;
use crate::unit::Unit;

const LABELS: &[Label] = &[Label::Raddr, Label::ServerPort, Label::Flow, Label::Type];

const MORE: &[Label] = &[Label::Rport, Label::Lport, Label::NetworkType];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Entry] = &[
    Entry {
        names: ["network_tcp_exchanges", "flowtap.tcp.exchanges"],
        help: "Requests over TCP that were answered: changes of the side that speaks, with TLS as well. Needs `inspect.exchanges` of the receiver ebpf.",
        unit: Unit::Count("{exchange}"),
        kinds: COUNTER,
        labels: LABELS,
        more: MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_exchange_duration", "flowtap.tcp.exchange.duration"],
        help: "Time in seconds from the last segment of a request over TCP to the first one of its answer. At a client it includes the network.",
        otel_help: Some(
            "Time from the last segment of a request over TCP to the first one of its answer. At a client it includes the network.",
        ),
        unit: Unit::Seconds,
        kinds: histogram(&CONNECT_BOUNDS),
        labels: LABELS,
        more: MORE,
        details: &Label::DETAILS,
        ..Entry::EMPTY
    },
];
