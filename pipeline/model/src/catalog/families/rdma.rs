//! Families of RDMA devices. They are filled from readings, so their labels are those that the receiver gives.

use super::super::entry::{COUNT, COUNTER, Entry, GAUGE};
use super::super::label::Label;
use crate::unit::Unit;

/// Labels of what a device counts by its own names.
const COUNTER_LABELS: &[Label] = &[Label::Device, Label::Port, Label::Counter];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Entry] = &[
    Entry {
        names: ["network_rdma_bytes", "flowtap.rdma.io"],
        help: "Bytes that ports of RDMA devices sent and received.",
        unit: Unit::Bytes,
        kinds: COUNTER,
        labels: &[Label::Device, Label::Port, Label::Direction],
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_packets", "flowtap.rdma.packets"],
        help: "Packets that ports of RDMA devices sent and received.",
        unit: Unit::Count("{packet}"),
        kinds: COUNTER,
        labels: &[Label::Device, Label::Port, Label::Direction],
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_retries", "flowtap.rdma.retries"],
        help: "Retransmissions of RDMA devices and what causes them: lost, duplicate and reordered packets, and receivers that were not ready.",
        unit: Unit::Count("{event}"),
        kinds: COUNTER,
        labels: COUNTER_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_congestion", "flowtap.rdma.congestion"],
        help: "Signs of congestion that RDMA devices saw: ECN marks, congestion notifications, waiting for credits.",
        unit: Unit::Count("{event}"),
        kinds: COUNTER,
        labels: COUNTER_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_errors", "flowtap.rdma.errors"],
        help: "Errors and discarded packets of RDMA devices.",
        unit: Unit::Count("{error}"),
        kinds: COUNTER,
        labels: COUNTER_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_counters", "flowtap.rdma.counters"],
        help: "Counters of RDMA devices that are in no other metric, by the names that their driver has for them.",
        unit: Unit::Count("{event}"),
        kinds: COUNTER,
        labels: COUNTER_LABELS,
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_link_up", "flowtap.rdma.link.up"],
        help: "Whether the link of a port of an RDMA device is active: 1 or 0.",
        unit: Unit::Count("{link}"),
        kinds: GAUGE,
        labels: &[Label::Device, Label::Port],
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_link_rate", "flowtap.rdma.link.rate"],
        help: "Rate of the link of a port of an RDMA device, in bytes per second.",
        unit: Unit::BytesPerSecond,
        kinds: GAUGE,
        labels: &[Label::Device, Label::Port],
        ..Entry::EMPTY
    },
    Entry {
        names: ["network_rdma_queue_pairs", "flowtap.rdma.queue_pairs"],
        help: "Queue pairs of RDMA devices, by type, state and process.",
        unit: Unit::Count("{queue_pair}"),
        kinds: COUNT,
        labels: &[Label::Device, Label::QpType, Label::QpState, Label::Comm],
        more: &[Label::Port, Label::Pid],
        ..Entry::EMPTY
    },
];
