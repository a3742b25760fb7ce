//! Log records: events of flows, one by one, as aggregators of `logs` pipelines give them to exporters.
//!
//! In: the events of an aggregator. Out, to exporters: the fields of each record by the catalogue [`LogField`], which every format
//! (attributes, columns, lines) is written from.
//!
//! TCP connections ([`ConnectionLog`]), UDP flows ([`UdpLog`]), DNS transactions ([`DnsLog`]), dropped packets ([`DropLog`]) and findings
//! ([`FindingLog`]) are events so far. A further one is a variant of [`LogBody`], with its name in [`LogRecord::event_name`], and rows in
//! [`LogField`]; exporters need no change then.

mod part;
mod udp;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::KubernetesNames;
use crate::dns::{DnsOutcome, DnsRcode, DnsRecord, DnsType};
use crate::drops::{DropKind, DropReason, DropRecord};
use crate::endpoint::Endpoint;
use crate::finding::{FindingKind, FindingRecord};
use crate::flow::{Flow, FlowKind, Role};
use crate::time::Timestamp;

pub use self::part::{FlowPart, Moved};
pub use self::udp::{Datagrams, UdpLog};

/// Version of the fields of log records. A field that is added does not change it; one that is removed or means something else does.
pub const LOG_SCHEMA_VERSION: u8 = 1;

/// Log records of one pipeline, in the order in which their events were seen.
///
/// ```
/// use flowtap_model::LogBatch;
///
/// let batch = LogBatch::default();
/// assert!(batch.records.is_empty() && !batch.last);
/// ```
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// The pipeline it comes from.
    pub pipeline: Arc<str>,
    /// Every event up to this moment is in this batch or an earlier one.
    pub at: Timestamp,
    /// Whether it is the last one: flowtap is stopping.
    pub last: bool,
    /// The records.
    pub records: Vec<LogRecord>,
    /// Number of records at the end that are detached for no other reason than that this batch is the last.
    pub cut_short: usize,
}

impl LogBatch {
    /// The same batch of an aggregator that another one continues: connections that were cut short stay active.
    pub(crate) fn continue_with_another(&mut self) {
        self.last = false;
        let first = self
            .records
            .len()
            .saturating_sub(std::mem::take(&mut self.cut_short));
        for record in &mut self.records[first..] {
            match &mut record.body {
                LogBody::Connection(log) => log.outcome = Outcome::Active,
                LogBody::Udp(log) => log.outcome = Outcome::Active,
                LogBody::Dns(_) | LogBody::Drop(_) | LogBody::Finding(_) => {}
            }
        }
    }

    /// Bytes of memory that it takes, names that records share not included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.records.capacity() * size_of::<LogRecord>()
    }
}

/// One event.
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

/// A DNS transaction over UDP. Its record's flow is of the socket that asked, or that answered.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsLog {
    /// The name that was asked for, as the receiver's config wants names; `None` if it wants none.
    pub name: Option<Arc<str>>,
    /// Type of the question.
    pub question: DnsType,
    /// Response code, or the reason why there is none.
    pub rcode: DnsRcode,
    /// From the first query to the answer; `None` without an answer.
    pub duration: Option<Duration>,
    /// Retries of the query.
    pub retries: u32,
}

impl DnsLog {
    /// Whether the client got no answer that it can use. A name that does not exist is an answer.
    pub const fn is_failure(&self) -> bool {
        !matches!(
            self.rcode,
            DnsRcode::NoError | DnsRcode::NxDomain | DnsRcode::Multicast
        )
    }
}

/// Packets of a flow that the kernel dropped for one reason in one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropLog {
    /// The kernel's reason.
    pub reason: DropReason,
    /// Packets, as the kernel has them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl DropLog {
    /// Whether it is loss, and not housekeeping of TCP or of a socket that closes.
    pub fn is_loss(&self) -> bool {
        let kind = self.reason.kind();
        matches!(
            kind,
            DropKind::Policy | DropKind::Full | DropKind::Nobody | DropKind::Broken
        )
    }
}

/// A finding. Its record's flow is the newest that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingLog {
    /// Kind of the finding.
    pub kind: FindingKind,
    /// Whose traffic it is: a workload, a container or a process.
    pub subject: Arc<str>,
    /// The other end: a workload, a name, an address range; empty if there are many.
    pub object: Arc<str>,
    /// A sentence.
    pub text: Arc<str>,
    /// The numbers that it rests on, as `name=value` pairs.
    pub numbers: String,
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

    fn counted(&self, totals: bool) -> Option<Moved> {
        let part = self.part()?;
        Some(if totals { part.total } else { part.delta })
    }

    /// Payload bytes from source to destination, and back.
    fn bytes(&self, totals: bool) -> Option<(i64, i64)> {
        let counts = self.counted(totals)?;
        Some(self.oriented(counts.sent_bytes, counts.received_bytes))
    }

    /// Segments or datagrams from source to destination, and back.
    fn packets(&self) -> Option<(i64, i64)> {
        let counts = self.counted(false)?;
        Some(self.oriented(counts.sent_packets, counts.received_packets))
    }

    /// Calls `each` with every field that the record has, in the order of [`LogField::ALL`].
    pub fn visit<'a>(&'a self, mut each: impl FnMut(LogField, LogValue<'a>)) {
        for field in LogField::ALL {
            if let Some(value) = field.value(self) {
                each(*field, value);
            }
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

/// State of a connection at the end of the time that a record covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is open: further records follow.
    Active,
    /// Both ends closed it; of a UDP flow, this machine's socket closed.
    Closed,
    /// A UDP flow that moved nothing for so long that it counts as ended.
    Idle,
    /// One end reset it.
    Reset,
    /// It was never established.
    Failed,
    /// It is open no longer, and the record of its end was lost.
    Lost,
    /// flowtap stopped following it: it is open, and no further record follows.
    Detached,
}

impl Outcome {
    /// The field's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Reset => "reset",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Detached => "detached",
        }
    }

    /// Whether the connection failed.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Reset | Self::Failed)
    }

    /// Whether further records of the connection follow.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Active)
    }
}

/// Payload bytes and segments of a connection, as this machine's socket counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Payload bytes sent; each counts once, however often it was transmitted.
    pub sent_bytes: i64,
    /// Payload bytes received in order.
    pub received_bytes: i64,
    /// Segments sent, retransmissions and pure acknowledgements included.
    pub sent_segments: i64,
    /// Segments received.
    pub received_segments: i64,
    /// Segments retransmitted.
    pub retransmits: i64,
    /// Requests that were answered.
    pub exchanges: i64,
    /// The time of their answers, in µs.
    pub answer_us: i64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
            sent_segments: self.sent_segments.saturating_add(other.sent_segments),
            received_segments: self.received_segments.saturating_add(other.received_segments),
            retransmits: self.retransmits.saturating_add(other.retransmits),
            exchanges: self.exchanges.saturating_add(other.exchanges),
            answer_us: self.answer_us.saturating_add(other.answer_us),
        }
    }

    /// Payload bytes in both directions.
    pub fn payload(&self) -> u64 {
        let bytes = [self.sent_bytes, self.received_bytes];
        bytes.into_iter().map(|bytes| bytes.max(0).unsigned_abs()).sum()
    }
}

/// A TCP connection over its whole life, or over the time since its record before.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionLog {
    /// State at the end of the time that the record covers.
    pub outcome: Outcome,
    /// Why the connect failed, in one word.
    pub error: Option<&'static str>,
    /// Number of records of this connection before this one.
    pub sequence: u32,
    /// Whether it was open before flowtap was, so that its beginning was not counted.
    pub adopted: bool,
    /// Time from its establishment or adoption to the end of the record.
    pub duration: Duration,
    /// Time that the record covers.
    pub interval: Duration,
    /// Counted in the time that the record covers. The sum over all records of a connection is the total.
    pub delta: Counts,
    /// Counted since the connection was first seen.
    pub total: Counts,
    /// The kernel's smoothed round-trip time; zero before the first sample.
    pub rtt: Duration,
    /// The smallest round-trip time; zero before the first sample.
    pub min_rtt: Duration,
    /// From SYN to ESTABLISHED, of connections that this machine opened; zero if not seen.
    pub handshake: Duration,
    /// Probability with which the connection had a record, which a reader divides by to estimate sums: below 1 only with sampling.
    pub probability: f64,
}

fn names(names: Option<&KubernetesNames>, name: fn(&KubernetesNames) -> &String) -> Option<LogValue<'_>> {
    text(name(names?))
}

fn text(text: &str) -> Option<LogValue<'_>> {
    (!text.is_empty()).then_some(LogValue::Text(Cow::Borrowed(text)))
}

fn integer(number: impl TryInto<i64>) -> LogValue<'static> {
    LogValue::Integer(number.try_into().unwrap_or(i64::MAX))
}

/// Zero stands for unknown.
fn known(number: impl TryInto<i64>) -> Option<LogValue<'static>> {
    let number = integer(number);
    (number != LogValue::Integer(0)).then_some(number)
}

fn seconds(time: Duration) -> LogValue<'static> {
    LogValue::Number(time.as_secs_f64())
}

fn known_seconds(time: Duration) -> Option<LogValue<'static>> {
    (!time.is_zero()).then(|| seconds(time))
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum LogValue<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// An IP address, which formats write as text.
    Address(IpAddr),
    /// A whole number.
    Integer(i64),
    /// Any number.
    Number(f64),
    /// True or false.
    Flag(bool),
}

impl fmt::Display for LogValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Address(address) => address.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

/// The types of fields, as columns have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFieldType {
    /// [`LogValue::Text`] and [`LogValue::Address`].
    Text,
    /// [`LogValue::Integer`].
    Integer,
    /// [`LogValue::Number`].
    Number,
    /// [`LogValue::Flag`].
    Flag,
}

impl LogFieldType {
    /// Its name in the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Flag => "boolean",
        }
    }
}

macro_rules! fields {
    ($($variant:ident $name:literal $column:literal $type:ident $help:literal, |$log:ident| $value:expr;)*) => {
        /// A field of log records.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum LogField {
            $(#[doc = $help] $variant,)*
        }

        impl LogField {
            /// Every field, in the order in which formats have them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name by OpenTelemetry's attribute registry; by `flowtap.` for what that has no name for.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Its name in files: a column of Parquet, a key of JSON.
            pub const fn column(self) -> &'static str {
                match self { $(Self::$variant => $column),* }
            }

            /// Its type.
            pub const fn value_type(self) -> LogFieldType {
                match self { $(Self::$variant => LogFieldType::$type),* }
            }

            /// Its meaning.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),* }
            }

            /// Its value in `record`; `None` if the record has none.
            pub fn value(self, record: &LogRecord) -> Option<LogValue<'_>> {
                match self { $(Self::$variant => { let $log = record; $value })* }
            }
        }
    };
}

fields! {
    SourceAddress "source.address" "source_address" Text "Address of the end that opened the connection; of UDP, the one that sent first.",
        |record| Some(LogValue::Address(record.ends().0.addr));
    SourcePort "source.port" "source_port" Integer "Port of the same end.",
        |record| Some(integer(record.ends().0.port));
    DestinationAddress "destination.address" "destination_address" Text "Address of the end that accepted the connection; of UDP, the other one.",
        |record| Some(LogValue::Address(record.ends().1.addr));
    DestinationPort "destination.port" "destination_port" Integer "Port of the same end.",
        |record| Some(integer(record.ends().1.port));
    NetworkTransport "network.transport" "network_transport" Text "`tcp`, `udp` or `udplite`.",
        |record| text(record.flow.transport.as_str());
    NetworkType "network.type" "network_type" Text "`ipv4` or `ipv6`.",
        |record| text(if record.flow.remote.addr.is_ipv4() { "ipv4" } else { "ipv6" });
    Role "flowtap.role" "role" Text "Role of this machine's end: `client` if it is the source, `server` if it is the destination.",
        |record| text(if record.is_client() { "client" } else { "server" });
    RoleSource "flowtap.role.source" "role_source" Text "The rule that decided the role: `handshake`, `counters`, `listener`, `ports` or `assumed`; of UDP also `first_datagram` or `bound`.",
        |record| text(record.flow.role_source.as_str());
    PeerClass "flowtap.peer.class" "peer_class" Text "Class of the peer's address.",
        |record| text(record.flow.class?.as_str());
    Outcome "flowtap.connection.outcome" "outcome" Text "State at the end of the record: `active`, `closed`, `idle`, `reset`, `failed`, `lost` or `detached`.",
        |record| text(record.part()?.outcome.as_str());
    Error "error.type" "error" Text "Why the connect failed, or the connection broke; of UDP the newest ICMP error in the interval.",
        |record| text(record.part()?.error?);
    ConnectionId "flowtap.connection.id" "connection_id" Integer "The kernel's socket cookie: unique on a machine until it restarts.",
        |record| known(record.flow.cookie);
    Sequence "flowtap.connection.sequence" "sequence" Integer "Number of records of this connection or flow before this one.",
        |record| Some(integer(record.part()?.sequence));
    Adopted "flowtap.connection.adopted" "adopted" Flag "Whether its beginning was not counted: it was open before flowtap was, or was not followed.",
        |record| Some(LogValue::Flag(record.part()?.adopted));
    Duration "flowtap.connection.duration" "duration" Number "Seconds from its establishment, adoption or first datagram to the end of the record.",
        |record| Some(seconds(record.part()?.duration));
    Interval "flowtap.interval.duration" "interval" Number "Seconds that the record covers.",
        |record| Some(seconds(record.part()?.interval));
    SourceBytes "flowtap.source.bytes" "source_bytes" Integer "Payload bytes from source to destination in the interval.",
        |record| Some(integer(record.bytes(false)?.0));
    DestinationBytes "flowtap.destination.bytes" "destination_bytes" Integer "Payload bytes from destination to source in the interval.",
        |record| Some(integer(record.bytes(false)?.1));
    SourcePackets "flowtap.source.packets" "source_packets" Integer "Segments or datagrams from source to destination in the interval.",
        |record| Some(integer(record.packets()?.0));
    DestinationPackets "flowtap.destination.packets" "destination_packets" Integer "Segments or datagrams from destination to source in the interval.",
        |record| Some(integer(record.packets()?.1));
    Retransmits "flowtap.retransmits" "retransmits" Integer "Segments that this machine's end retransmitted in the interval.",
        |record| Some(integer(record.connection()?.delta.retransmits));
    SourceBytesTotal "flowtap.source.bytes_total" "source_bytes_total" Integer "Payload bytes from source to destination since the connection or flow was first seen.",
        |record| Some(integer(record.bytes(true)?.0));
    DestinationBytesTotal "flowtap.destination.bytes_total" "destination_bytes_total" Integer "Payload bytes from destination to source since the connection or flow was first seen.",
        |record| Some(integer(record.bytes(true)?.1));
    RetransmitsTotal "flowtap.retransmits_total" "retransmits_total" Integer "Segments that this machine's end has retransmitted since the connection was first seen.",
        |record| Some(integer(record.connection()?.total.retransmits));
    Rtt "flowtap.rtt.smoothed" "rtt" Number "Smoothed round-trip time in seconds.",
        |record| known_seconds(record.connection()?.rtt);
    MinRtt "flowtap.rtt.min" "min_rtt" Number "Smallest round-trip time in seconds.",
        |record| known_seconds(record.connection()?.min_rtt);
    Handshake "flowtap.handshake.duration" "handshake" Number "Seconds from SYN to ESTABLISHED, if this machine is the client.",
        |record| known_seconds(record.connection()?.handshake);
    Pid "process.pid" "pid" Integer "Process of this machine's end.",
        |record| known(record.flow.pid);
    Comm "process.executable.name" "comm" Text "Name of the process.",
        |record| comm(&record.flow.comm);
    CgroupId "flowtap.cgroup.id" "cgroup_id" Integer "cgroup v2 id of the process.",
        |record| known(record.flow.cgroup_id);
    ContainerId "container.id" "container_id" Text "Id of the process's container.",
        |record| text(record.flow.container_id.as_deref()?);
    Netns "flowtap.netns.inode" "netns" Integer "Inode number of the network namespace of this machine's end.",
        |record| known(record.flow.netns);
    LocalNamespace "k8s.namespace.name" "local_namespace" Text "Kubernetes namespace of this machine's end.",
        |record| names(record.flow.local_names.as_deref(), |names| &names.namespace);
    LocalPod "k8s.pod.name" "local_pod" Text "Pod of this machine's end.",
        |record| names(record.flow.local_names.as_deref(), |names| &names.pod);
    LocalWorkload "flowtap.k8s.workload.name" "local_workload" Text "Owner of this end's pod: `Deployment/web`.",
        |record| names(record.flow.local_names.as_deref(), |names| &names.workload);
    PeerName "flowtap.peer.name" "peer_name" Text "Name of the peer's address, such as from a DNS answer.",
        |record| text(&record.flow.peer_name.as_ref()?.name);
    PeerNamespace "flowtap.peer.k8s.namespace.name" "peer_namespace" Text "Kubernetes namespace of the peer.",
        |record| names(record.flow.peer_names.as_deref(), |names| &names.namespace);
    PeerPod "flowtap.peer.k8s.pod.name" "peer_pod" Text "Pod of the peer.",
        |record| names(record.flow.peer_names.as_deref(), |names| &names.pod);
    PeerWorkload "flowtap.peer.k8s.workload.name" "peer_workload" Text "Owner of the peer's pod.",
        |record| names(record.flow.peer_names.as_deref(), |names| &names.workload);
    PeerService "flowtap.peer.k8s.service.name" "peer_service" Text "The peer, as a service.",
        |record| names(record.flow.peer_names.as_deref(), |names| &names.service);
    PeerNode "flowtap.peer.k8s.node.name" "peer_node" Text "Node of the peer.",
        |record| names(record.flow.peer_names.as_deref(), |names| &names.node);
    Backend "flowtap.peer.translated.address" "backend" Text "Address that the peer really has, where it is known to be another one than the socket's: the pod behind a service address, the client behind a masquerade.",
        |record| Some(LogValue::Address(record.flow.backend()?.addr));
    BackendPort "flowtap.peer.translated.port" "backend_port" Integer "Port of that end.",
        |record| Some(integer(record.flow.backend()?.port));
    Frontend "flowtap.local.translated.address" "frontend" Text "Address by which the peer knows this machine's end, where it is known to be another one: the service address that a client connected to, the address that a masquerade gave to this client.",
        |record| Some(LogValue::Address(record.flow.frontend()?.addr));
    FrontendPort "flowtap.local.translated.port" "frontend_port" Integer "Port of that end.",
        |record| Some(integer(record.flow.frontend()?.port));
    Hop "flowtap.hop" "hop" Text "Part of the connection in the way through a proxy: `to_proxy`, `from_application`, `at_proxy` or `loopback`.",
        |record| text(record.flow.hop()?.as_str());
    LocalZone "cloud.availability_zone" "local_zone" Text "Topology zone of this machine's end.",
        |record| text(record.flow.local_zone.as_deref()?);
    PeerZone "flowtap.peer.cloud.availability_zone" "peer_zone" Text "Topology zone of the peer.",
        |record| text(record.flow.peer_zone.as_deref()?);
    SamplingProbability "flowtap.sampling.probability" "sampling_probability" Number "Probability with which the connection or flow had a record: divide by it to estimate sums. Below 1 only with sampling.",
        |record| Some(LogValue::Number(record.part()?.probability));
    PolicyRule "flowtap.policy.rule" "policy_rule" Text "The rule that decided the peer's class, with `processors.policy.rules`.",
        |record| text(record.flow.policy_rule.as_deref()?);
    Protocol "network.protocol.name" "protocol" Text "Application protocol: by the first bytes of the connection, with `receivers.ebpf.inspect.protocols`; of UDP `quic`, by the first datagram.",
        |record| protocol(record);
    ProtocolVersion "network.protocol.version" "protocol_version" Text "Its version, where the first bytes settle it: `2` of HTTP/2.",
        |record| text(record.flow.inspection.as_ref()?.protocol?.version()?);
    ServerName "server.address" "server_name" Text "The name that the client of a TLS connection asks for, with `receivers.ebpf.inspect.server_names`.",
        |record| text(record.flow.inspection.as_ref()?.server_name_full.as_deref()?);
    Alpn "flowtap.tls.client.alpn" "alpn" Text "Protocols that the client of a TLS connection offers: `h2,http/1.1`.",
        |record| text(record.flow.inspection.as_ref()?.alpn.as_deref()?);
    Exchanges "flowtap.exchanges" "exchanges" Integer "Requests in the interval that were answered, with `receivers.ebpf.inspect.exchanges`.",
        |record| counted(record.connection()?.delta.exchanges);
    AnswerTime "flowtap.exchanges.duration" "exchanges_duration" Number "Seconds that their answers took, as a sum.",
        |record| answer_time(&record.connection()?.delta);
    UdpDrops "flowtap.udp.drops" "udp_drops" Integer "Datagrams in the interval for which the socket's receive buffer had no room; absent at 0.",
        |record| counted(record.udp()?.delta.drops);
    UdpErrors "flowtap.udp.errors" "udp_errors" Integer "ICMP errors in the interval that the UDP socket was notified of; absent at 0.",
        |record| counted(record.udp()?.delta.errors);
    DnsName "dns.question.name" "dns_name" Text "Name that a DNS client asked for, as `receivers.ebpf.dns.names` wants it.",
        |record| text(record.dns()?.name.as_deref()?);
    DnsType "flowtap.dns.question.type" "dns_type" Text "Type of a DNS question, such as `AAAA`.",
        |record| text(record.dns()?.question.as_str());
    DnsRcode "flowtap.dns.response_code" "dns_rcode" Text "Response code of a DNS answer, such as `NXDOMAIN`; `timeout` without an answer.",
        |record| text(record.dns()?.rcode.as_str());
    DnsDuration "flowtap.dns.duration" "dns_duration" Number "Seconds from the first query to the answer.",
        |record| Some(seconds(record.dns()?.duration?));
    DnsRetries "flowtap.dns.retries" "dns_retries" Integer "Retries of a DNS query.",
        |record| Some(integer(record.dns()?.retries));
    DropReason "flowtap.drop.reason" "drop_reason" Text "The kernel's reason for dropping packets.",
        |record| text(record.dropped()?.reason.as_str());
    DropKind "flowtap.drop.kind" "drop_kind" Text "Kind of a drop: `policy`, `full`, `nobody`, `broken` (loss), `tcp`, `end` (no loss), `other`.",
        |record| text(record.dropped()?.reason.kind().as_str());
    DroppedPackets "flowtap.drop.packets" "dropped_packets" Integer "Packets that were dropped.",
        |record| Some(integer(record.dropped()?.packets));
    DroppedBytes "flowtap.drop.bytes" "dropped_bytes" Integer "Bytes of these packets.",
        |record| Some(integer(record.dropped()?.bytes));
    FindingKind "flowtap.finding.kind" "finding" Text "Kind of the finding.",
        |record| text(record.finding()?.kind.as_str());
    FindingSubject "flowtap.finding.subject" "finding_subject" Text "Whose traffic the finding is about: a workload, a container or a process.",
        |record| text(&record.finding()?.subject);
    FindingObject "flowtap.finding.object" "finding_object" Text "The other end: a workload, a name, an address range; absent if there are many.",
        |record| text(&record.finding()?.object);
    FindingText "flowtap.finding.text" "finding_text" Text "The finding as a sentence.",
        |record| text(&record.finding()?.text);
    FindingNumbers "flowtap.finding.numbers" "finding_numbers" Text "The numbers that it rests on, as `name=value` pairs.",
        |record| text(&record.finding()?.numbers);
}

fn protocol(record: &LogRecord) -> Option<LogValue<'_>> {
    match record.udp() {
        Some(log) => text(log.app.as_str()),
        None => text(record.flow.inspection.as_ref()?.protocol?.otel_name()),
    }
}

/// A count that is left out at 0.
fn counted(count: i64) -> Option<LogValue<'static>> {
    (count != 0).then(|| integer(count))
}

fn answer_time(counts: &Counts) -> Option<LogValue<'static>> {
    (counts.exchanges > 0).then(|| LogValue::Number(counts.answer_us as f64 / 1e6))
}

/// The name of a process, up to its first NUL.
fn comm(comm: &[u8]) -> Option<LogValue<'_>> {
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    (!name.is_empty()).then(|| LogValue::Text(String::from_utf8_lossy(name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::flow::Transport;
    use crate::udp::UdpApp;

    fn record(kind: FlowKind) -> LogRecord {
        let end = |last, port| Endpoint::new([192, 0, 2, last].into(), port);
        let mut flow = Flow::new(end(1, 50_000), end(7, 443));
        flow.kind = Some(kind);
        let delta = Counts {
            sent_bytes: 81,
            received_bytes: 3_000,
            ..Counts::default()
        };
        LogRecord {
            at: Timestamp::from_nanos(5_000_000_000),
            flow,
            body: LogBody::Connection(ConnectionLog {
                outcome: Outcome::Closed,
                error: None,
                sequence: 0,
                adopted: false,
                duration: Duration::from_secs(2),
                interval: Duration::from_secs(1),
                delta,
                total: delta,
                rtt: Duration::ZERO,
                min_rtt: Duration::ZERO,
                handshake: Duration::ZERO,
                probability: 1.0,
            }),
        }
    }

    #[test]
    fn the_source_is_the_end_that_connected() {
        let client = record(FlowKind::Egress);
        assert_eq!(
            LogField::SourcePort.value(&client),
            Some(LogValue::Integer(50_000))
        );
        assert_eq!(LogField::SourceBytes.value(&client), Some(LogValue::Integer(81)));
        let server = record(FlowKind::Ingress);
        assert_eq!(LogField::SourcePort.value(&server), Some(LogValue::Integer(443)));
        assert_eq!(
            LogField::SourceBytes.value(&server),
            Some(LogValue::Integer(3_000))
        );
        assert_eq!(
            LogField::DestinationBytes.value(&server),
            Some(LogValue::Integer(81))
        );
    }

    #[test]
    fn names_and_columns_are_unique_and_values_are_of_their_type() {
        let names: BTreeSet<_> = LogField::ALL.iter().map(|field| field.name()).collect();
        let columns: BTreeSet<_> = LogField::ALL.iter().map(|field| field.column()).collect();
        assert_eq!(
            (names.len(), columns.len()),
            (LogField::ALL.len(), LogField::ALL.len())
        );
        record(FlowKind::Egress).visit(|field, value| {
            let found = match value {
                LogValue::Text(_) | LogValue::Address(_) => LogFieldType::Text,
                LogValue::Integer(_) => LogFieldType::Integer,
                LogValue::Number(_) => LogFieldType::Number,
                LogValue::Flag(_) => LogFieldType::Flag,
            };
            assert_eq!(found, field.value_type(), "{field:?}");
        });
    }

    #[test]
    fn a_finding_has_its_flow_a_severity_by_its_kind_and_nothing_of_a_connection() {
        let finding = |kind| {
            LogRecord::from(&FindingRecord {
                flow: record(FlowKind::Egress).flow,
                kind,
                at: Timestamp::from_nanos(1),
                subject: "curl".into(),
                object: "".into(),
                text: "curl tried 120 addresses in 60 s; 3 are usual".into(),
                numbers: vec![("destinations", 120.0), ("usual", 3.0)],
            })
        };
        let log = finding(FindingKind::FanOut);
        assert_eq!(
            (log.event_name(), log.severity()),
            ("flowtap.finding", Severity::Warn)
        );
        assert_eq!(
            log.message(),
            Some("curl tried 120 addresses in 60 s; 3 are usual")
        );
        let mut seen = Vec::new();
        log.visit(|field, value| seen.push((field.column(), value.to_string())));
        for pair in [
            ("destination_address", "192.0.2.7"),
            ("finding", "fan_out"),
            ("finding_numbers", "destinations=120 usual=3"),
        ] {
            assert!(
                seen.contains(&(pair.0, pair.1.to_owned())),
                "{pair:?} of {seen:?}"
            );
        }
        for column in [
            "outcome",
            "source_bytes",
            "finding_object",
            "sampling_probability",
        ] {
            assert!(seen.iter().all(|(name, _)| *name != column), "{column}");
        }
        assert_eq!(finding(FindingKind::FirstContact).severity(), Severity::Info);
        assert_eq!(log.clone(), log);
    }

    #[test]
    fn a_udp_flow_has_the_fields_of_a_connection_but_for_those_of_tcp() {
        let counts = Datagrams {
            sent_bytes: 40,
            received_bytes: 120,
            sent_datagrams: 1,
            received_datagrams: 2,
            drops: 3,
            errors: 0,
        };
        let mut log = LogRecord {
            body: LogBody::Udp(UdpLog {
                outcome: Outcome::Idle,
                delta: counts,
                total: counts,
                app: UdpApp::Quic,
                ..UdpLog::default()
            }),
            ..record(FlowKind::Egress)
        };
        log.flow.transport = Transport::Udp;
        assert_eq!(
            (log.event_name(), log.severity()),
            ("flowtap.udp.flow", Severity::Warn)
        );
        let mut seen = Vec::new();
        log.visit(|field, value| seen.push((field.name(), value.to_string())));
        for (name, value) in [
            ("network.transport", "udp"),
            ("flowtap.connection.outcome", "idle"),
            ("flowtap.source.bytes", "40"),
            ("flowtap.destination.packets", "2"),
            ("flowtap.udp.drops", "3"),
            ("network.protocol.name", "quic"),
            ("flowtap.sampling.probability", "1"),
        ] {
            assert!(seen.contains(&(name, value.to_owned())), "{name} in {seen:?}");
        }
        for name in [
            "flowtap.retransmits",
            "flowtap.udp.errors",
            "flowtap.rtt.min",
            "error.type",
        ] {
            assert!(seen.iter().all(|(seen, _)| *seen != name), "{name}");
        }
        log.body = LogBody::Udp(UdpLog::default());
        assert_eq!(log.severity(), Severity::Info);
    }

    #[test]
    fn unknown_values_are_left_out() {
        let mut seen = Vec::new();
        record(FlowKind::Egress).visit(|field, _| seen.push(field));
        for field in [
            LogField::Pid,
            LogField::Comm,
            LogField::PeerPod,
            LogField::Error,
            LogField::Rtt,
        ] {
            assert!(!seen.contains(&field), "{field:?}");
        }
    }
}
