//! One record: an event, the flow that it is about, and when it was seen.

use std::sync::Arc;
use std::time::Duration;

use super::{ConnectionLog, DnsLog, DropLog, FindingLog, FlowPart, UdpLog};
use crate::dns::{DnsOutcome, DnsRecord, DnsType};
use crate::drops::DropRecord;
use crate::endpoint::Endpoint;
use crate::finding::{FindingKind, FindingRecord};
use crate::flow::{Flow, FlowKind, Role};
use crate::time::Timestamp;

/// One event.
///
/// ```
/// use flowtap_model::log::UdpLog;
/// use flowtap_model::{Endpoint, Flow, LogBody, LogRecord, Role, Timestamp, Transport};
///
/// let (server, client) = (Endpoint::new([192, 0, 2, 1].into(), 53), Endpoint::new([198, 51, 100, 7].into(), 40_000));
/// let record = LogRecord {
///     at: Timestamp::from_nanos(5),
///     flow: Flow { transport: Transport::Udp, role: Role::Server, ..Flow::new(server, client) },
///     body: LogBody::Udp(UdpLog::default()),
/// };
/// assert_eq!(record.event_name(), "flowtap.udp.flow");
/// // The end that sent the first datagram, and the other one.
/// assert_eq!(record.ends(), (client, server));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// When it was seen; of a connection or a UDP flow the end of the time that the record covers.
    pub at: Timestamp,
    /// The ends, the process, the names.
    pub flow: Flow,
    /// The event.
    pub body: LogBody,
}

/// The events that there are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LogBody {
    /// A TCP connection, or a part of one.
    Connection(ConnectionLog),
    /// A UDP flow, or a part of one.
    Udp(UdpLog),
    /// A DNS transaction.
    Dns(Box<DnsLog>),
    /// Dropped packets of a flow.
    Drop(DropLog),
    /// A finding of the processor `watch`.
    Finding(Box<FindingLog>),
}

/// Severity of a record, by OpenTelemetry's numbers ("Logs Data Model", "Field: `SeverityNumber`").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// An event as expected.
    Info = 9,
    /// A failure.
    Warn = 13,
}

impl Severity {
    /// The severity's short name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
        }
    }
}

impl LogRecord {
    /// The event's name.
    pub const fn event_name(&self) -> &'static str {
        match self.body {
            LogBody::Connection(_) => "flowtap.tcp.connection",
            LogBody::Udp(_) => "flowtap.udp.flow",
            LogBody::Dns(_) => "flowtap.dns.transaction",
            LogBody::Drop(_) => "flowtap.drop",
            LogBody::Finding(_) => "flowtap.finding",
        }
    }

    /// The event's severity.
    pub fn severity(&self) -> Severity {
        match &self.body {
            LogBody::Connection(log) if log.outcome.is_failure() => Severity::Warn,
            LogBody::Udp(log) if log.is_failure() => Severity::Warn,
            LogBody::Dns(log) if log.is_failure() => Severity::Warn,
            LogBody::Drop(log) if log.is_loss() => Severity::Warn,
            LogBody::Connection(_) | LogBody::Udp(_) | LogBody::Dns(_) | LogBody::Drop(_) => Severity::Info,
            // A new destination is worth reading; the other kinds are worth a look at once.
            LogBody::Finding(log) if matches!(log.kind, FindingKind::FirstContact) => Severity::Info,
            LogBody::Finding(_) => Severity::Warn,
        }
    }

    /// The event as a sentence, if it has one.
    pub fn message(&self) -> Option<&str> {
        Some(&*self.finding()?.text)
    }

    /// Whether this machine's end opened the connection, as far as is known.
    pub fn is_client(&self) -> bool {
        match (self.flow.kind, self.flow.role) {
            (Some(FlowKind::Egress), _) | (None, Role::Client | Role::Unknown) => true,
            (Some(FlowKind::Ingress), _) | (None, Role::Server) => false,
        }
    }

    /// The end that opened the connection, and the other one.
    pub fn ends(&self) -> (Endpoint, Endpoint) {
        self.oriented(self.flow.local, self.flow.remote)
    }

    /// `sent` by and `received` from this machine's end, as what went from source to destination, and back.
    pub fn oriented<T>(&self, sent: T, received: T) -> (T, T) {
        if self.is_client() {
            (sent, received)
        } else {
            (received, sent)
        }
    }

    /// The connection that the record is about, if it is about one.
    pub const fn connection(&self) -> Option<&ConnectionLog> {
        match &self.body {
            LogBody::Connection(log) => Some(log),
            LogBody::Udp(_) | LogBody::Dns(_) | LogBody::Drop(_) | LogBody::Finding(_) => None,
        }
    }

    /// The UDP flow that the record is about, if it is about one.
    pub const fn udp(&self) -> Option<&UdpLog> {
        match &self.body {
            LogBody::Udp(log) => Some(log),
            LogBody::Connection(_) | LogBody::Dns(_) | LogBody::Drop(_) | LogBody::Finding(_) => None,
        }
    }

    /// The DNS transaction that the record is about, if it is about one.
    pub fn dns(&self) -> Option<&DnsLog> {
        match &self.body {
            LogBody::Dns(log) => Some(log),
            LogBody::Connection(_) | LogBody::Udp(_) | LogBody::Drop(_) | LogBody::Finding(_) => None,
        }
    }

    /// The dropped packets that the record is about, if it is about some.
    pub const fn dropped(&self) -> Option<&DropLog> {
        match &self.body {
            LogBody::Drop(log) => Some(log),
            LogBody::Connection(_) | LogBody::Udp(_) | LogBody::Dns(_) | LogBody::Finding(_) => None,
        }
    }

    /// The finding that the record is about, if it is about one.
    pub fn finding(&self) -> Option<&FindingLog> {
        match &self.body {
            LogBody::Finding(log) => Some(log),
            LogBody::Connection(_) | LogBody::Udp(_) | LogBody::Dns(_) | LogBody::Drop(_) => None,
        }
    }

    /// The part of a connection or of a UDP flow that the record is about, if it is about one.
    ///
    /// ```
    /// use flowtap_model::log::{Datagrams, UdpLog};
    /// use flowtap_model::{Endpoint, Flow, LogBody, LogRecord, Timestamp, Transport};
    ///
    /// let end = Endpoint::new([192, 0, 2, 1].into(), 53);
    /// let sent = Datagrams { sent_bytes: 40, sent_datagrams: 1, ..Datagrams::default() };
    /// let record = LogRecord {
    ///     at: Timestamp::from_nanos(5),
    ///     flow: Flow { transport: Transport::Udp, ..Flow::new(end, end) },
    ///     body: LogBody::Udp(UdpLog { delta: sent, total: sent, ..UdpLog::default() }),
    /// };
    /// assert_eq!(record.part().unwrap().delta.sent_packets, 1);
    /// ```
    pub fn part(&self) -> Option<FlowPart> {
        match &self.body {
            LogBody::Connection(log) => Some(FlowPart {
                outcome: log.outcome,
                error: log.error,
                sequence: log.sequence,
                adopted: log.adopted,
                duration: log.duration,
                interval: log.interval,
                delta: log.delta.into(),
                total: log.total.into(),
                probability: log.probability,
            }),
            LogBody::Udp(log) => Some(FlowPart {
                outcome: log.outcome,
                error: log.error,
                sequence: log.sequence,
                adopted: log.adopted,
                duration: log.duration,
                interval: log.interval,
                delta: log.delta.into(),
                total: log.total.into(),
                probability: log.probability,
            }),
            LogBody::Dns(_) | LogBody::Drop(_) | LogBody::Finding(_) => None,
        }
    }
}

impl From<&DnsRecord> for LogRecord {
    fn from(record: &DnsRecord) -> Self {
        let is_answered = matches!(record.outcome, DnsOutcome::Answered(_));
        Self {
            at: record.at,
            flow: record.flow.clone(),
            body: LogBody::Dns(Box::new(DnsLog {
                name: record.qname.clone(),
                question: DnsType::of(record.qtype),
                rcode: record.outcome.rcode(),
                duration: is_answered.then(|| Duration::from_micros(record.latency_us.into())),
                retries: record.retries,
            })),
        }
    }
}

impl DropRecord {
    /// The record of a drop that was seen before `at`; `None` if it is not known whose packets they were.
    pub fn to_log(&self, at: Timestamp) -> Option<LogRecord> {
        Some(LogRecord {
            at,
            flow: self.flow.clone()?,
            body: LogBody::Drop(DropLog {
                reason: self.reason,
                packets: self.packets,
                bytes: self.bytes,
            }),
        })
    }
}

impl From<&FindingRecord> for LogRecord {
    fn from(finding: &FindingRecord) -> Self {
        let numbers = finding
            .numbers
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        Self {
            at: finding.at,
            flow: finding.flow.clone(),
            body: LogBody::Finding(Box::new(FindingLog {
                kind: finding.kind,
                subject: Arc::clone(&finding.subject),
                object: Arc::clone(&finding.object),
                text: Arc::clone(&finding.text),
                numbers: numbers.collect::<Vec<_>>().join(" "),
            })),
        }
    }
}
