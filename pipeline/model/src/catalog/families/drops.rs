//! Families of dropped packets.

use super::super::entry::{COUNTER, Entry};
use super::super::label::Label;
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
pub(super) const FAMILIES: &[Entry] = &[Entry {
    names: ["network_drops", "flowtap.network.drops"],
    help: "Packets that the kernel dropped, by its reason; of kinds tcp, end and other no data is lost.",
    unit: Unit::Count("{packet}"),
    kinds: COUNTER,
    labels: &[Label::Reason, Label::Type, Label::Kind],
    more: &[Label::Raddr, Label::Rport, Label::Lport, Label::NetworkType],
    details: DROP_LABELS,
    ..Entry::EMPTY
}];
