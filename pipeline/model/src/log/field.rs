//! The catalogue of the fields that records have: names, types and values.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{Counts, LogRecord, Moved};
use crate::cluster::KubernetesNames;
use crate::plain_text;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum LogValue<'a> {
    /// Text, escaped.
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
    SourceAddress "source.address" "source_address" Text "Address of the end that opened the connection; of UDP, the one that sent first; of dropped packets, their sender.",
        |record| Some(LogValue::Address(record.ends().0.addr));
    SourcePort "source.port" "source_port" Integer "Port of the same end.",
        |record| Some(integer(record.ends().0.port));
    DestinationAddress "destination.address" "destination_address" Text "Address of the end that accepted the connection; of UDP, the other one; of dropped packets, their receiver.",
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
    PeerNetwork "flowtap.peer.network.name" "peer_network" Text "Name of the network that the peer's address is in, by the processor `attributes`.",
        |record| text(record.flow.peer_network.as_deref()?);
    Outcome "flowtap.connection.outcome" "outcome" Text "State at the end of the record: `active`, `closed`, `idle`, `reset`, `broken`, `failed`, `lost` or `detached`.",
        |record| text(record.part()?.outcome.as_str());
    Error "error.type" "error" Text "Why the connect failed, or the connection broke; of UDP the newest ICMP error in the interval.",
        |record| text(record.part()?.error?);
    ConnectionId "flowtap.connection.id" "connection_id" Integer "The kernel's socket cookie: unique on a machine until it restarts.",
        // Of a DNS transaction the flow's cookie only joins a query and its answer: it need not be the kernel's.
        |record| known(record.flow.cookie).filter(|_| record.dns().is_none());
    Sequence "flowtap.connection.sequence" "sequence" Integer "Number of records of this connection or flow before this one, those that sampling left out included.",
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
    PeerNameSource "flowtap.peer.name.source" "peer_name_source" Text "Source of that name: `dns` or `hosts`.",
        |record| text(record.flow.peer_name.as_ref()?.source.as_str());
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
    SamplingProbability "flowtap.sampling.probability" "sampling_probability" Number "Probability with which this record was kept: divide by it to estimate sums. Below 1 only with sampling.",
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
    DnsName "dns.question.name" "dns_name" Text "Name that a DNS client asked for, as configured by `receivers.ebpf.dns.names`.",
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

impl LogRecord {
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

fn names(names: Option<&KubernetesNames>, name: fn(&KubernetesNames) -> &String) -> Option<LogValue<'_>> {
    text(name(names?))
}

fn text(text: &str) -> Option<LogValue<'_>> {
    (!text.is_empty()).then(|| LogValue::Text(plain_text::escape(text)))
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

fn comm(comm: &[u8; 16]) -> Option<LogValue<'_>> {
    let name = plain_text::process_name(comm);
    (!name.is_empty()).then_some(LogValue::Text(name))
}
