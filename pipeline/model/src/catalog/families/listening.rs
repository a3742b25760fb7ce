//! Families of listening sockets.

use super::super::entry::{COUNT, COUNTER, Entry, GAUGE};
use super::super::label::Label;
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
pub(super) const FAMILIES: &[Entry] = &[
    Entry {
        names: ["network_tcp_listen_backlog", "flowtap.tcp.listen.backlog"],
        help: "Connections that wait to be accepted, by listening port.",
        unit: Unit::Count("{connection}"),
        kinds: COUNT,
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: [
            "network_tcp_listen_backlog_limit",
            "flowtap.tcp.listen.backlog.limit",
        ],
        help: "Connections that may wait to be accepted, by listening port; further ones are dropped.",
        unit: Unit::Count("{connection}"),
        kinds: COUNT,
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_listen_drops", "flowtap.tcp.listen.drops"],
        help: "Connections that listening sockets dropped, most often because their queue was full, by listening port.",
        unit: Unit::Count("{connection}"),
        kinds: COUNTER,
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_tcp_accept_wait", "flowtap.tcp.accept.wait"],
        help: "Time in seconds for which the first connection of a queue has waited to be accepted, by listening port.",
        otel_help: Some(
            "Time for which the first connection of a queue has waited to be accepted, by listening port.",
        ),
        unit: Unit::Seconds,
        kinds: GAUGE,
        labels: &[Label::Lport],
        more: &[Label::NetworkType],
        details: LISTENER_LABELS,
        ..Entry::EMPTY
    },
];
