//! The identity of a series: a small key that is hashed and compared without touching the heap.
//!
//! A key has a value for each configured label of its family, and nothing for the others: so series
//! are summed over omitted labels. Labels of one connection or process are rare, so they are in a
//! separate table ([`Details`]) and a key has the index of their row.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use flowtap_pipeline::{
    DnsRcode, DnsType, DropKind, DropReason, EventType, FindingKind, Flow, FlowKind, LabelValue, Limit,
    Naming, PeerClass, Queue, ReadingLabels, ResetBy, TcpRecord, UdpApp, UdpRecord,
};

use super::details::Details;
use super::icmp::IcmpType;
use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::catalog::{Label, LabelSet};

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Outbound,
    Inbound,
}

impl Direction {
    /// From the word that a reading has for it, which is OpenTelemetry's.
    fn of_reading(labels: &ReadingLabels) -> Option<Self> {
        match labels.get(Label::Direction)? {
            "transmit" => Some(Self::Outbound),
            "receive" => Some(Self::Inbound),
            _ => None,
        }
    }

    const fn named(self, naming: Naming) -> &'static str {
        match (naming, self) {
            (Naming::PrimusLens, Self::Outbound) => "outbound",
            (Naming::PrimusLens, Self::Inbound) => "inbound",
            (Naming::Otel, Self::Outbound) => "transmit",
            (Naming::Otel, Self::Inbound) => "receive",
        }
    }
}

/// An event of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ConnectionEvent {
    Opened,
    Closed,
    Failed,
    Reset(ResetBy),
}

impl ConnectionEvent {
    /// Its bits in a hash.
    const fn bits(self) -> u8 {
        match self {
            Self::Opened => 0,
            Self::Closed => 1,
            Self::Failed => 2,
            Self::Reset(by) => 3 + by as u8,
        }
    }

    /// The same, of a family that has no label for the side that reset the connection.
    const fn without_side(self) -> Self {
        match self {
            Self::Reset(_) => Self::Reset(ResetBy::Unknown),
            event => event,
        }
    }

    const fn reset_by(self) -> ResetBy {
        match self {
            Self::Reset(by) => by,
            _ => ResetBy::Unknown,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::Reset(_) => "reset",
        }
    }
}

/// Why a connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FailureReason {
    Refused,
    TimedOut,
    Unreachable,
    Reset,
    /// No local port was left to connect from.
    NoLocalPort,
    /// Closed by the application before it was established.
    Aborted,
    /// The same, after the retransmission time-out of its SYN: nobody had answered.
    NoAnswer,
    /// A datagram was larger than the path takes.
    MessageTooBig,
    Other,
    // Of DNS lookups: OpenTelemetry's values of `error.type`.
    HostNotFound,
    TryAgain,
    NoRecovery,
}

impl FailureReason {
    /// From the record of a connect that failed, or of a connection that broke.
    pub(super) const fn of_tcp(record: &TcpRecord) -> Self {
        if record.is_unanswered() {
            Self::NoAnswer
        } else {
            Self::of(record.failure)
        }
    }

    /// From the errno (`include/uapi/asm-generic/errno.h`).
    pub(super) const fn of(errno: u16) -> Self {
        match errno {
            111 => Self::Refused,
            110 => Self::TimedOut,
            100 | 101 | 112 | 113 => Self::Unreachable,
            104 => Self::Reset,
            99 => Self::NoLocalPort,
            90 => Self::MessageTooBig,
            0 => Self::Aborted,
            _ => Self::Other,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::NoLocalPort => "no_local_port",
            Self::Aborted => "aborted",
            Self::NoAnswer => "no_answer",
            Self::MessageTooBig => "message_too_big",
            Self::Other => "other",
            Self::HostNotFound => "host_not_found",
            Self::TryAgain => "try_again",
            Self::NoRecovery => "no_recovery",
        }
    }
}

/// Why the connect of `record` failed, or its connection broke, in one word.
pub(crate) const fn failure_reason(record: &TcpRecord) -> &'static str {
    FailureReason::of_tcp(record).as_str()
}

/// The newest ICMP error of `record` in one word, if it has one.
pub(crate) const fn udp_error(record: &UdpRecord) -> Option<&'static str> {
    match record.error {
        _ if record.errors <= 0 => None,
        0 => Some(FailureReason::Other.as_str()),
        errno => Some(FailureReason::of(errno).as_str()),
    }
}

/// Which protocol an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum NetworkType {
    Ipv4,
    Ipv6,
}

impl NetworkType {
    pub(super) const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// An address as 16 bytes, which are aligned to 8; IPv4 as IPv4-mapped, which no canonical address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Addr {
    high: u64,
    low: u64,
}

impl Addr {
    /// Where a family has no label for the peer.
    const NONE: Self = Self { high: 0, low: 0 };

    /// Of what has no flow: the label is `other`, or empty. Both are multicast addresses that the registry has reserved.
    const OTHER: Self = Self {
        high: u64::MAX,
        low: 0,
    };
    const EMPTY: Self = Self {
        high: u64::MAX,
        low: 1,
    };

    fn new(addr: IpAddr) -> Self {
        let addr = match addr {
            IpAddr::V4(addr) => addr.to_ipv6_mapped(),
            IpAddr::V6(addr) => addr,
        };
        let word = |half: &[u16]| {
            half.iter()
                .fold(0, |word, &segment| word << 16 | u64::from(segment))
        };
        let segments = addr.segments();
        let (high, low) = segments.split_at(4);
        Self {
            high: word(high),
            low: word(low),
        }
    }

    fn is_other(self) -> bool {
        self == Self::OTHER
    }

    fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    fn get(self) -> IpAddr {
        let bits = u128::from(self.high) << 64 | u128::from(self.low);
        IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical()
    }
}

/// Type and outcome of a DNS transaction in one byte, four bits each; a field is 0 where the family has no such label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DnsLabels(u8);

const _: () = assert!(DnsType::ALL.len() < 16 && DnsRcode::ALL.len() < 16);

impl DnsLabels {
    pub(super) const fn new(qtype: DnsType, rcode: DnsRcode) -> Self {
        Self((qtype as u8 + 1) << 4 | (rcode as u8 + 1))
    }

    /// Those that are in `labels`.
    const fn within(self, labels: LabelSet) -> Self {
        let qtype = if labels.has(Label::Qtype) { 0xf0 } else { 0 };
        let rcode = if labels.has(Label::Rcode) { 0x0f } else { 0 };
        Self(self.0 & (qtype | rcode))
    }

    fn qtype(self) -> &'static str {
        let index = usize::from(self.0 >> 4).checked_sub(1);
        let qtype = index.and_then(|index| DnsType::ALL.get(index));
        qtype.map_or("", |qtype| qtype.as_str())
    }

    fn rcode(self) -> &'static str {
        let index = usize::from(self.0 & 0x0f).checked_sub(1);
        let rcode = index.and_then(|index| DnsRcode::ALL.get(index));
        rcode.map_or("", |rcode| rcode.as_str())
    }
}

/// The counted event, for families with a label for that. No family has more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventLabel {
    Event(ConnectionEvent),
    Reason(FailureReason),
    EventType(EventType),
    Limit(Limit),
    Queue(Queue),
    Finding(FindingKind),
    Drop(DropReason),
    /// Where the kind is a label, and the reason is not.
    DropKind(DropKind),
    Dns(DnsLabels),
    Icmp(IcmpType),
}

impl EventLabel {
    /// The part of it that a family with these labels distinguishes.
    fn within(self, labels: LabelSet) -> Option<Self> {
        let has = |label| labels.has(label).then_some(self);
        match self {
            Self::Drop(reason) if !labels.has(Label::Reason) => {
                labels.has(Label::Kind).then(|| Self::DropKind(reason.kind()))
            }
            Self::Event(_) if !labels.has(Label::Event) => None,
            Self::Event(event) if !labels.has(Label::ResetBy) => Some(Self::Event(event.without_side())),
            Self::Event(_) | Self::Drop(_) | Self::DropKind(_) => Some(self),
            Self::Reason(_) => has(Label::Reason),
            Self::EventType(_) => has(Label::EventType),
            Self::Limit(_) => has(Label::Limit),
            Self::Queue(_) => has(Label::Queue),
            Self::Icmp(_) => has(Label::IcmpType),
            Self::Dns(dns) => Some(Self::Dns(dns.within(labels))),
            Self::Finding(_) => has(Label::Finding),
        }
    }

    const fn reset_by(self) -> &'static str {
        match self {
            Self::Event(event) => event.reset_by().as_str(),
            _ => "",
        }
    }

    /// The value of `label`; empty if it is another one's.
    fn value(self, label: Label) -> &'static str {
        match (self, label) {
            (Self::Event(event), Label::Event) => event.as_str(),
            (Self::Reason(reason), Label::Reason) => reason.as_str(),
            (Self::EventType(event_type), Label::EventType) => event_type.as_str(),
            (Self::Limit(limit), Label::Limit) => limit.as_str(),
            (Self::Queue(queue), Label::Queue) => queue.as_str(),
            (Self::Dns(dns), Label::Qtype) => dns.qtype(),
            (Self::Dns(dns), Label::Rcode) => dns.rcode(),
            (Self::Finding(kind), Label::Finding) => kind.as_str(),
            (Self::Drop(reason), Label::Reason) => reason.as_str(),
            (Self::Drop(reason), Label::Kind) => reason.kind().as_str(),
            (Self::DropKind(kind), Label::Kind) => kind.as_str(),
            (Self::Icmp(message), Label::IcmpType) => message.as_str(),
            _ => "",
        }
    }
}

/// Inputs of a key that only some families have a label for, in addition to the record's own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyInputs<'a> {
    pub(super) direction: Option<Direction>,
    pub(super) cause: Option<EventLabel>,
    /// The name of a DNS question.
    pub(super) qname: Option<&'a Arc<str>>,
    pub(super) app: UdpApp,
}

/// Role, direction, network type and application protocol in one byte, two bits each; a field is 0 where the family has no such label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Packed(u8);

impl Packed {
    const FLOW_SHIFT: u8 = 0;
    const DIRECTION_SHIFT: u8 = 2;
    const NETWORK_TYPE_SHIFT: u8 = 4;
    const APP_SHIFT: u8 = 6;
    const FIELD: u8 = 0b11;

    fn new(flow: Option<FlowKind>, direction: Option<Direction>, network_type: Option<NetworkType>) -> Self {
        let flow = flow.map_or(0, |flow| flow as u8 + 1);
        let direction = direction.map_or(0, |direction| direction as u8 + 1);
        let network_type = network_type.map_or(0, |network_type| network_type as u8 + 1);
        Self(
            flow << Self::FLOW_SHIFT
                | direction << Self::DIRECTION_SHIFT
                | network_type << Self::NETWORK_TYPE_SHIFT,
        )
    }

    const fn field(self, shift: u8) -> u8 {
        self.0 >> shift & Self::FIELD
    }

    const fn flow(self) -> Option<FlowKind> {
        match self.field(Self::FLOW_SHIFT) {
            0 => None,
            field if field == FlowKind::Ingress as u8 + 1 => Some(FlowKind::Ingress),
            _ => Some(FlowKind::Egress),
        }
    }

    const fn direction(self) -> Option<Direction> {
        match self.field(Self::DIRECTION_SHIFT) {
            0 => None,
            field if field == Direction::Outbound as u8 + 1 => Some(Direction::Outbound),
            _ => Some(Direction::Inbound),
        }
    }

    const fn network_type(self) -> Option<NetworkType> {
        match self.field(Self::NETWORK_TYPE_SHIFT) {
            0 => None,
            field if field == NetworkType::Ipv4 as u8 + 1 => Some(NetworkType::Ipv4),
            _ => Some(NetworkType::Ipv6),
        }
    }

    const fn with_app(self, app: UdpApp) -> Self {
        Self(self.0 & !(Self::FIELD << Self::APP_SHIFT) | (app as u8) << Self::APP_SHIFT)
    }

    const fn app(self) -> UdpApp {
        match self.field(Self::APP_SHIFT) {
            field if field == UdpApp::Quic as u8 => UdpApp::Quic,
            _ => UdpApp::Unknown,
        }
    }

    const fn without_direction(self) -> u8 {
        self.0 & !(Self::FIELD << Self::DIRECTION_SHIFT)
    }

    const fn with_direction(self, direction: Direction) -> Self {
        Self(self.without_direction() | (direction as u8 + 1) << Self::DIRECTION_SHIFT)
    }
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
    fn addresses_of_both_families_come_back_as_they_went_in() {
        for text in ["192.0.2.7", "0.0.0.0", "::", "2001:db8::1", "::1"] {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::new(addr).get(), addr);
        }
        assert_ne!(
            Addr::new("0.0.0.0".parse().unwrap()),
            Addr::new("::".parse().unwrap())
        );
    }

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
