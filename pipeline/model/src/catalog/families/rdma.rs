//! Families of RDMA devices. They are filled from readings, so their labels are those that the receiver gives.

use super::super::definition::{Definition, otel};
use super::super::label::Label;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

/// Labels of what a device counts by its own names.
const COUNTER_LABELS: &[Label] = &[Label::Device, Label::Port, Label::Counter];

const fn family(
    names: [&'static str; 2],
    help: &'static str,
    unit: Unit,
    kinds: [FamilyKind; 2],
    labels: &'static [Label],
) -> Definition {
    Definition {
        family: Family {
            naming: Naming::PrimusLens,
            name: names[0],
            help,
            unit,
            kind: kinds[0],
        },
        otel: otel(names[1], help, unit, kinds[1]),
        labels,
        more: &[],
        details: &[],
        enabled: true,
        only: None,
    }
}

const COUNTER: [FamilyKind; 2] = [FamilyKind::Counter, FamilyKind::Counter];
const GAUGE: [FamilyKind; 2] = [FamilyKind::Gauge, FamilyKind::Gauge];
const COUNT: [FamilyKind; 2] = [FamilyKind::Gauge, FamilyKind::UpDownCounter];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Definition] = &[
    family(
        ["network_rdma_bytes", "flowtap.rdma.io"],
        "Bytes that ports of RDMA devices sent and received.",
        Unit::Bytes,
        COUNTER,
        &[Label::Device, Label::Port, Label::Direction],
    ),
    family(
        ["network_rdma_packets", "flowtap.rdma.packets"],
        "Packets that ports of RDMA devices sent and received.",
        Unit::Count("{packet}"),
        COUNTER,
        &[Label::Device, Label::Port, Label::Direction],
    ),
    family(
        ["network_rdma_retries", "flowtap.rdma.retries"],
        "Retransmissions of RDMA devices and what causes them: lost, duplicate and reordered packets, and receivers that were not ready.",
        Unit::Count("{event}"),
        COUNTER,
        COUNTER_LABELS,
    ),
    family(
        ["network_rdma_congestion", "flowtap.rdma.congestion"],
        "Signs of congestion that RDMA devices saw: ECN marks, congestion notifications, waiting for credits.",
        Unit::Count("{event}"),
        COUNTER,
        COUNTER_LABELS,
    ),
    family(
        ["network_rdma_errors", "flowtap.rdma.errors"],
        "Errors and discarded packets of RDMA devices.",
        Unit::Count("{error}"),
        COUNTER,
        COUNTER_LABELS,
    ),
    family(
        ["network_rdma_counters", "flowtap.rdma.counters"],
        "Counters of RDMA devices that are in no other metric, by the names that their driver has for them.",
        Unit::Count("{event}"),
        COUNTER,
        COUNTER_LABELS,
    ),
    family(
        ["network_rdma_link_up", "flowtap.rdma.link.up"],
        "Whether the link of a port of an RDMA device is active: 1 or 0.",
        Unit::Count("{link}"),
        GAUGE,
        &[Label::Device, Label::Port],
    ),
    family(
        ["network_rdma_link_rate", "flowtap.rdma.link.rate"],
        "Rate of the link of a port of an RDMA device, in bytes per second.",
        Unit::BytesPerSecond,
        GAUGE,
        &[Label::Device, Label::Port],
    ),
    Definition {
        more: &[Label::Port, Label::Pid],
        ..family(
            ["network_rdma_queue_pairs", "flowtap.rdma.queue_pairs"],
            "Queue pairs of RDMA devices, by type, state and process.",
            Unit::Count("{queue_pair}"),
            COUNT,
            &[Label::Device, Label::QpType, Label::QpState, Label::Comm],
        )
    },
];
