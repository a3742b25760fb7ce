//! The identity of a series: a small key that is hashed and compared without touching the heap.
//!
//! A key has a value for each configured label of its family, and nothing for the others: so series
//! are summed over omitted labels. Labels of one connection or process are rare, so they are in a
//! separate table ([`Details`]) and a key has the index of their row.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use flowtap_pipeline::{EventType, Flow, FlowKind, LabelValue, Naming, PeerClass, ReadingLabels, UdpApp};

use super::details::Details;
use super::event_label::EventLabel;
use super::icmp::IcmpType;
use super::packed::{Direction, NetworkType, Packed};
use super::peer_addr::Addr;
use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::catalog::{Label, LabelSet};

/// Inputs of a key that only some families have a label for, in addition to the record's own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyInputs<'a> {
    pub(super) direction: Option<Direction>,
    pub(super) cause: Option<EventLabel>,
    /// The name of a DNS question.
    pub(super) qname: Option<&'a Arc<str>>,
    pub(super) app: UdpApp,
}

/// Labels of one of the counts in [`totals`](super::totals).
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) class: PeerClass,
    pub(super) flow: FlowKind,
    pub(super) direction: Direction,
    pub(super) network_type: NetworkType,
}

/// A series: its family and the values of its labels. Half a cache line, so that a series' slot is a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    raddr: Addr,
    /// Row of [`Details`]; 0 for none, [`OTHER`] for what a family at its budget has no series for.
    details: u32,
    rport: u16,
    lport: u16,
    /// Port of the side that serves.
    server_port: u16,
    /// [`PeerClass::index`], or [`NO_CLASS`].
    class: u16,
    family: FamilyId,
    packed: Packed,
    cause: Option<EventLabel>,
}

const _: () = assert!(size_of::<Key>() == 32, "a slot is larger than a cache line");

/// No row: memory ends long before there are as many.
const OTHER: u32 = u32::MAX;

/// Where a family has no label for the class, or nothing is known of it. No class has this number.
const NO_CLASS: u16 = u16::MAX;

/// Of what found no room among flows. No class has this number.
const OTHER_CLASS: u16 = u16::MAX - 1;

impl Hash for Key {
    /// In four words, instead of field by field, and without the direction, which [`Key::direction_salt`] has.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [class, class_high] = self.class.to_ne_bytes();
        let (cause, of) = match self.cause {
            None => (0, 0),
            Some(EventLabel::Event(event)) => (1, event.bits()),
            Some(EventLabel::Reason(reason)) => (2, reason as u8),
            Some(EventLabel::EventType(event_type)) => (3, event_type as u8),
            Some(EventLabel::Limit(limit)) => (4, limit as u8),
            Some(EventLabel::Queue(queue)) => (5, queue as u8),
            Some(EventLabel::Drop(reason)) => (6, reason.index()),
            Some(EventLabel::DropKind(kind)) => (7, kind as u8),
            Some(EventLabel::Dns(dns)) => (8, dns.0),
            Some(EventLabel::Finding(kind)) => (9, kind as u8),
            Some(EventLabel::Icmp(message)) => (10, message as u8),
        };
        let [server_port, server_port_high] = self.server_port.to_ne_bytes();
        let bytes = [
            self.family as u8,
            class,
            class_high,
            self.packed.without_direction(),
            cause,
            of,
            server_port,
            server_port_high,
        ];
        state.write_u64(self.raddr.high);
        state.write_u64(self.raddr.low);
        let numbers = u64::from(self.details) << 32 | u64::from(self.rport) << 16 | u64::from(self.lport);
        state.write_u64(numbers);
        state.write_u64(u64::from_ne_bytes(bytes));
    }
}

impl Key {
    const fn empty(family: FamilyId) -> Self {
        Self {
            raddr: Addr::NONE,
            details: 0,
            rport: 0,
            lport: 0,
            server_port: 0,
            class: NO_CLASS,
            family,
            packed: Packed(0),
            cause: None,
        }
    }

    /// The series of `family` that `flow` goes to, with the labels that the family is exposed with. `details` is its row
    /// there, if it has one.
    pub(super) fn new(
        family: FamilyId,
        labels: LabelSet,
        flow: &Flow,
        inputs: KeyInputs<'_>,
        details: u32,
    ) -> Self {
        let with = |label, port| if labels.has(label) { port } else { 0 };
        Self {
            raddr: if labels.has(Label::Raddr) {
                Addr::new(flow.remote.addr)
            } else {
                Addr::NONE
            },
            details,
            rport: with(Label::Rport, flow.remote.port),
            lport: with(Label::Lport, flow.local.port),
            class: if labels.has(Label::Type) {
                class_of(flow).index()
            } else {
                NO_CLASS
            },
            server_port: with(Label::ServerPort, server_port(flow)),
            packed: Packed::new(
                labels.has(Label::Flow).then(|| kind_of(flow)),
                inputs.direction.filter(|_| labels.has(Label::Direction)),
                labels
                    .has(Label::NetworkType)
                    .then(|| NetworkType::of(flow.remote.addr)),
            )
            .with_app(if labels.has(Label::App) {
                inputs.app
            } else {
                UdpApp::Unknown
            }),
            cause: inputs.cause.and_then(|cause| cause.within(labels)),
            ..Self::empty(family)
        }
    }

    /// The series of what has no flow. With `is_unattributed` its peer is `other`, as of what finds no room among flows; else it is
    /// empty.
    pub(super) fn without_flow(
        family: FamilyId,
        labels: LabelSet,
        inputs: KeyInputs,
        details: u32,
        is_unattributed: bool,
    ) -> Self {
        let (raddr, class) = if is_unattributed {
            (Addr::OTHER, OTHER_CLASS)
        } else {
            (Addr::EMPTY, NO_CLASS)
        };
        Self {
            raddr: if labels.has(Label::Raddr) {
                raddr
            } else {
                Addr::NONE
            },
            details,
            class: if labels.has(Label::Type) { class } else { NO_CLASS },
            cause: inputs.cause.and_then(|cause| cause.within(labels)),
            ..Self::empty(family)
        }
    }

    /// The series of a count of all connections.
    pub(super) fn of_total(labels: LabelSet, cell: Cell) -> Self {
        let class = labels.has(Label::Type).then(|| cell.class.index());
        Self {
            class: class.unwrap_or(NO_CLASS),
            packed: Packed::new(
                labels.has(Label::Flow).then_some(cell.flow),
                labels.has(Label::Direction).then_some(cell.direction),
                labels.has(Label::NetworkType).then_some(cell.network_type),
            ),
            ..Self::empty(FamilyId::Totals)
        }
    }

    /// The series of `family` that counts events of this type.
    pub(super) fn of_events(family: FamilyId, labels: LabelSet, event_type: EventType) -> Self {
        Self {
            cause: labels
                .has(Label::EventType)
                .then_some(EventLabel::EventType(event_type)),
            ..Self::empty(family)
        }
    }

    /// The series of a count of ICMP messages.
    pub(super) fn of_icmp(
        labels: LabelSet,
        message: IcmpType,
        direction: Direction,
        network_type: NetworkType,
    ) -> Self {
        Self {
            packed: Packed::new(
                None,
                labels.has(Label::Direction).then_some(direction),
                labels.has(Label::NetworkType).then_some(network_type),
            ),
            cause: labels.has(Label::IcmpType).then_some(EventLabel::Icmp(message)),
            ..Self::empty(FamilyId::IcmpMessages)
        }
    }

    /// The series of a reading. `details` is the row of its labels, if it has one.
    pub(super) fn of_reading(
        family: FamilyId,
        labels: LabelSet,
        reading: &ReadingLabels,
        details: u32,
    ) -> Self {
        let direction = Direction::of_reading(reading).filter(|_| labels.has(Label::Direction));
        Self {
            details,
            packed: Packed::new(None, direction, None),
            ..Self::empty(family)
        }
    }

    /// The series that counts for this one where its family is at its budget: labels of few values stay, so that sums by
    /// them stay true; all others are `other`.
    pub(super) const fn folded(self) -> Self {
        Self {
            details: OTHER,
            class: self.class,
            packed: self.packed,
            cause: self.cause,
            ..Self::empty(self.family)
        }
    }

    /// Distinguishes the hashes of two keys that differ only in direction: a record changes both,
    /// and hashes one. The fractions of the square roots of 2 and 3 are as good as any bits.
    pub(super) const fn direction_salt(&self) -> u64 {
        match self.packed.direction() {
            None => 0,
            Some(Direction::Outbound) => 0x6a09_e667_f3bc_c908,
            Some(Direction::Inbound) => 0xbb67_ae85_84ca_a73b,
        }
    }

    /// The same for bytes that went the other way, if that is a label of it.
    pub(super) const fn towards(mut self, direction: Direction) -> Self {
        if self.packed.direction().is_some() {
            self.packed = self.packed.with_direction(direction);
        }
        self
    }

    pub(super) const fn family(&self) -> FamilyId {
        self.family
    }

    pub(super) const fn is_other(&self) -> bool {
        self.details == OTHER
    }

    /// Its row of [`Details`], if it has one.
    pub(super) const fn details(&self) -> u32 {
        self.details
    }

    /// The value of `label`; what is not known is empty.
    pub(super) fn value<'a>(&'a self, label: Label, naming: Naming, details: &'a Details) -> LabelValue<'a> {
        use LabelValue::{Addr, Port, Text};
        if self.is_other() && !label.has_few_values() {
            return Text("other");
        }
        match label {
            Label::Raddr if self.raddr.is_other() => Text("other"),
            Label::Raddr if self.raddr.is_empty() => Text(""),
            Label::Raddr => Addr(self.raddr.get()),
            Label::Rport => Port(self.rport),
            Label::Lport => Port(self.lport),
            Label::ServerPort => Port(self.server_port),
            Label::Direction => Text(
                self.packed
                    .direction()
                    .map_or("", |direction| direction.named(naming)),
            ),
            Label::Type if self.class == OTHER_CLASS => Text("other"),
            Label::Type => Text(PeerClass::from_index(self.class).map_or("", PeerClass::as_str)),
            Label::Flow => Text(self.packed.flow().map_or("", FlowKind::as_str)),
            Label::App => Text(self.packed.app().as_str()),
            Label::Event
            | Label::Reason
            | Label::EventType
            | Label::Limit
            | Label::Queue
            | Label::Kind
            | Label::Qtype
            | Label::Rcode
            | Label::Finding
            | Label::IcmpType => Text(self.cause.map_or("", |cause| cause.value(label))),
            Label::ResetBy => Text(self.cause.map_or("", EventLabel::reset_by)),
            Label::NetworkType => Text(self.packed.network_type().map_or("", NetworkType::as_str)),
            _ => details
                .get(self.details)
                .map_or(Text(""), |detail| detail.value(label)),
        }
    }
}

/// Puts changes of series in an order that depends on the series alone, so that a replay makes new series in the same order.
pub(super) fn sort_changes(changes: &mut [(Key, i64)]) {
    changes.sort_by_cached_key(|(key, _)| {
        // Of fixed seed, unlike that of a `HashMap`.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish()
    });
}

/// The class of the peer; before the policy processor has seen the record, unknown.
pub(super) fn class_of(flow: &Flow) -> PeerClass {
    flow.class.unwrap_or(PeerClass::Unknown)
}

/// The port of the side that serves.
pub(super) fn server_port(flow: &Flow) -> u16 {
    match kind_of(flow) {
        FlowKind::Ingress => flow.local.port,
        FlowKind::Egress => flow.remote.port,
    }
}

/// The kind of flow; before the direction processor has seen the record, egress.
pub(super) fn kind_of(flow: &Flow) -> FlowKind {
    flow.kind.unwrap_or(FlowKind::Egress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::flow;

    #[test]
    fn a_label_that_is_left_out_distinguishes_no_series() {
        let labels = LabelSet::new(&[Label::Raddr]);
        let key = |remote: &str| {
            let flow = flow("192.0.2.1:40000", remote);
            Key::new(FamilyId::Egress, labels, &flow, KeyInputs::default(), 0)
        };
        assert_eq!(key("198.51.100.7:443"), key("198.51.100.7:80"));
        assert_ne!(key("198.51.100.7:443"), key("198.51.100.8:443"));
    }
}
