//! The counted event in the key of a series: of a connection, a lookup, a drop, a limit, a queue, a finding.

use flowtap_pipeline::catalog::{Label, LabelSet};
use flowtap_pipeline::{
    DnsRcode, DnsType, DropKind, DropReason, EventType, FindingKind, Limit, Queue, ResetBy, TcpRecord,
    UdpRecord,
};

use super::icmp::IcmpType;

/// An event of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ConnectionEvent {
    Opened,
    Closed,
    Failed,
    Reset(ResetBy),
    Broken,
}

impl ConnectionEvent {
    /// Its bits in a hash.
    pub(super) const fn bits(self) -> u8 {
        match self {
            Self::Opened => 0,
            Self::Closed => 1,
            Self::Failed => 2,
            Self::Reset(by) => 3 + by as u8,
            Self::Broken => 6,
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
            Self::Broken => "broken",
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

/// Type and outcome of a DNS transaction in one byte, four bits each; a field is 0 where the family has no such label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DnsLabels(pub(super) u8);

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
    pub(super) fn within(self, labels: LabelSet) -> Option<Self> {
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

    pub(super) const fn reset_by(self) -> &'static str {
        match self {
            Self::Event(event) => event.reset_by().as_str(),
            _ => "",
        }
    }

    /// The value of `label`; empty if it is another one's.
    pub(super) fn value(self, label: Label) -> &'static str {
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
