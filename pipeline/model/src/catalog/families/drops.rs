//! Families of dropped packets.

use super::super::definition::{Definition, otel};
use super::super::label::Label;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

/// Labels of a dropped packet, which has no process.
const DROP_LABELS: &[Label] = &[
    Label::Laddr,
    Label::Netns,
    Label::PeerNamespace,
    Label::PeerPod,
    Label::PeerWorkload,
    Label::PeerService,
    Label::PeerNode,
    Label::LocalNamespace,
    Label::LocalPod,
    Label::LocalWorkload,
];

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Definition] = &[Definition {
    family: Family {
        naming: Naming::PrimusLens,
        name: "network_drops",
        help: "Packets that the kernel dropped, by its reason; of kinds tcp, end and other no data is lost.",
        unit: Unit::Count("{packet}"),
        kind: FamilyKind::Counter,
    },
    otel: otel(
        "flowtap.network.drops",
        "Packets that the kernel dropped, by its reason; of kinds tcp, end and other no data is lost.",
        Unit::Count("{packet}"),
        FamilyKind::Counter,
    ),
    labels: &[Label::Reason, Label::Type, Label::Kind],
    more: &[Label::Raddr, Label::Rport, Label::Lport, Label::NetworkType],
    details: DROP_LABELS,
    enabled: true,
    only: None,
}];
