//! The labels that a series can have.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::family::Naming;
use crate::field::RecordField;

/// A label. Its config spelling is its name, except that [`EventType`](Self::EventType) is also
/// exposed as `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Label {
    /// The peer's address.
    Raddr,
    /// The peer's port.
    Rport,
    /// This side's port.
    Lport,
    /// The port of the side that serves.
    ServerPort,
    /// `outbound` for what this side sent, `inbound` for what it received.
    Direction,
    /// Class of the peer's address.
    Type,
    /// `ingress` if this side serves, `egress` if it is the client.
    Flow,
    /// `opened`, `closed`, `failed`, `reset` or `broken`.
    Event,
    /// Why a connect failed, or a packet was dropped.
    Reason,
    /// `tcpflow` or `tcpconn`.
    EventType,
    /// This side's address.
    Laddr,
    /// The rule that decided the role: `handshake`, `counters`, `listener`, `ports` or `assumed`; of UDP also
    /// `first_datagram` or `bound`.
    RoleSource,
    /// Inode number of the network namespace.
    Netns,
    /// Process id.
    Pid,
    /// Name of the process.
    Comm,
    /// cgroup v2 id of the process.
    CgroupId,
    /// Id of the process's container, from the path of its cgroup.
    ContainerId,
    /// Namespace of the peer, a pod or service.
    PeerNamespace,
    /// The peer's pod.
    PeerPod,
    /// Owner of the peer's pod: `Deployment/web`.
    PeerWorkload,
    /// The peer, as a service.
    PeerService,
    /// The peer's node.
    PeerNode,
    /// Namespace of this side's pod.
    LocalNamespace,
    /// This side's pod.
    LocalPod,
    /// Owner of this side's pod.
    LocalWorkload,
    /// `ipv4` or `ipv6`.
    NetworkType,
    /// Reason that a sender waits: `network`, `answer`, `receiver`, `buffer` or `application`.
    Limit,
    /// `unsent`, `unacked` or `unread`.
    Queue,
    /// The side that reset a connection: `local` or `remote`.
    ResetBy,
    /// Kind of a finding: `first_contact`, `fan_out`, `failure_surge`, `volume_surge`, `beacon`, `black_list` or `not_on_white_list`.
    Finding,
    /// Kind of a drop: `policy`, `full`, `nobody`, `broken`, `tcp`, `end` or `other`.
    Kind,
    /// Type of a DNS question: `A`, `AAAA`, `SRV`, ...
    Qtype,
    /// Response code of a DNS answer: `NOERROR`, `NXDOMAIN`, ..., or `timeout` without one.
    Rcode,
    /// The name of a DNS question, as configured by `receivers.ebpf.dns.names`.
    Qname,
    /// Name of the peer's address.
    PeerName,
    /// The source of that name: `dns` or `hosts`.
    PeerNameSource,
    /// Application protocol of a UDP flow: `quic`, or empty.
    App,
    /// Type of an ICMP message, by its name: `destination_unreachable`.
    IcmpType,
    /// Name of the network that the peer is in, as `processors.attributes.networks` has it.
    PeerNetwork,
    /// Number of the peer's autonomous system.
    PeerAsn,
    /// Organisation that operates it.
    PeerAsOrg,
    /// Country of the peer's address: `DE`.
    PeerCountry,
    /// The address that the peer really has: the pod behind a service address, or the client behind a masquerade.
    Backend,
    /// The port of the pod behind a service address.
    BackendPort,
    /// Part of a connection in the way through a proxy: `to_proxy`, `from_application`, `at_proxy` or `loopback`.
    Hop,
    /// Topology zone of this side's node.
    LocalZone,
    /// Topology zone of the peer's node.
    PeerZone,
    /// The rule of the processor `policy` that decided the class: a list and its range, `internal_hosts 10.0.0.0/8`; empty if none did.
    PolicyRule,
    /// Name of an RDMA device, as the kernel has it: `mlx5_0`.
    Device,
    /// Port of an RDMA device; empty for what is of the device as a whole.
    Port,
    /// Name of a counter, as the driver of the device has it.
    Counter,
    /// Type of a queue pair: `RC`, `UD`, `GSI`, ...
    QpType,
    /// State of a queue pair: `RTS`, `ERR`, ...
    QpState,
    /// Application protocol of a TCP connection, by its first bytes: `http`, `http2`, `grpc`, `tls`, `redis`, ..., `unknown`; empty if they were not seen.
    Protocol,
    /// The name that the client of a TLS connection asks for, as configured by `receivers.ebpf.inspect.server_names`.
    ServerName,
}

impl Label {
    /// Labels beyond those of the default profile: of one connection or process rather than of a peer.
    pub const DETAILS: [Self; 29] = [
        Self::Laddr,
        Self::RoleSource,
        Self::Netns,
        Self::Pid,
        Self::Comm,
        Self::CgroupId,
        Self::ContainerId,
        Self::PeerNamespace,
        Self::PeerPod,
        Self::PeerWorkload,
        Self::PeerService,
        Self::PeerNode,
        Self::LocalNamespace,
        Self::LocalPod,
        Self::LocalWorkload,
        Self::PeerName,
        Self::PeerNameSource,
        Self::PeerNetwork,
        Self::PeerAsn,
        Self::PeerAsOrg,
        Self::PeerCountry,
        Self::Backend,
        Self::BackendPort,
        Self::Hop,
        Self::LocalZone,
        Self::PeerZone,
        Self::PolicyRule,
        Self::Protocol,
        Self::ServerName,
    ];

    /// The label's name by OpenTelemetry's semantic conventions (registry, "Network", "Kubernetes", "Process", "Container",
    /// "Error"); by `flowtap.` for what they have no name for.
    pub const fn otel_name(self) -> &'static str {
        match self {
            Self::Raddr => "network.peer.address",
            Self::Rport => "network.peer.port",
            Self::Lport => "network.local.port",
            Self::ServerPort => "server.port",
            Self::Direction => "network.io.direction",
            Self::Type => "flowtap.peer.class",
            Self::EventType => "flowtap.event.type",
            Self::Flow => "flowtap.role",
            Self::Event => "flowtap.connection.event",
            Self::Reason => "error.type",
            Self::Laddr => "network.local.address",
            Self::RoleSource => "flowtap.role.source",
            Self::Netns => "flowtap.netns.inode",
            Self::Pid => "process.pid",
            Self::Comm => "process.executable.name",
            Self::CgroupId => "flowtap.cgroup.id",
            Self::ContainerId => "container.id",
            Self::PeerNamespace => "flowtap.peer.k8s.namespace.name",
            Self::PeerPod => "flowtap.peer.k8s.pod.name",
            Self::PeerWorkload => "flowtap.peer.k8s.workload.name",
            Self::PeerService => "flowtap.peer.k8s.service.name",
            Self::PeerNode => "flowtap.peer.k8s.node.name",
            Self::LocalNamespace => "k8s.namespace.name",
            Self::LocalPod => "k8s.pod.name",
            Self::LocalWorkload => "flowtap.k8s.workload.name",
            Self::NetworkType => "network.type",
            Self::Limit => "flowtap.tcp.limit",
            Self::Queue => "flowtap.tcp.queue",
            Self::ResetBy => "flowtap.reset.by",
            Self::Finding => "flowtap.finding.kind",
            Self::Kind => "flowtap.drop.kind",
            Self::Qtype => "flowtap.dns.question.type",
            Self::Rcode => "flowtap.dns.response_code",
            Self::Qname => "dns.question.name",
            Self::PeerName => "flowtap.peer.name",
            Self::PeerNameSource => "flowtap.peer.name.source",
            // Families have one of the two: the one of UDP, or the one of TCP.
            Self::App | Self::Protocol => "network.protocol.name",
            Self::IcmpType => "flowtap.icmp.type",
            Self::PeerNetwork => "flowtap.peer.network.name",
            Self::PeerAsn => "flowtap.peer.as.number",
            Self::PeerAsOrg => "flowtap.peer.as.organization.name",
            Self::PeerCountry => "flowtap.peer.geo.country.iso_code",
            Self::Backend => "flowtap.peer.translated.address",
            Self::BackendPort => "flowtap.peer.translated.port",
            Self::Hop => "flowtap.hop",
            Self::LocalZone => "cloud.availability_zone",
            Self::PeerZone => "flowtap.peer.cloud.availability_zone",
            Self::PolicyRule => "flowtap.policy.rule",
            Self::Device => "flowtap.rdma.device",
            Self::Port => "flowtap.rdma.port",
            Self::Counter => "flowtap.rdma.counter",
            Self::QpType => "flowtap.rdma.queue_pair.type",
            Self::QpState => "flowtap.rdma.queue_pair.state",
            Self::ServerName => "server.address",
        }
    }

    /// The field of a record that its value comes from, if a processor or only some receivers fill it.
    pub const fn field(self) -> Option<RecordField> {
        match self {
            Self::Flow | Self::RoleSource | Self::ServerPort => Some(RecordField::Role),
            Self::Type => Some(RecordField::Class),
            Self::Netns => Some(RecordField::Netns),
            Self::Pid | Self::Comm | Self::CgroupId => Some(RecordField::Process),
            Self::ContainerId => Some(RecordField::Container),
            Self::PeerNamespace
            | Self::PeerPod
            | Self::PeerWorkload
            | Self::PeerService
            | Self::PeerNode
            | Self::LocalNamespace
            | Self::LocalPod
            | Self::LocalWorkload
            | Self::LocalZone
            | Self::PeerZone => Some(RecordField::ClusterNames),
            Self::Backend | Self::BackendPort => Some(RecordField::Translation),
            Self::Qname => Some(RecordField::DnsName),
            Self::PeerName | Self::PeerNameSource => Some(RecordField::PeerName),
            Self::PeerNetwork => Some(RecordField::PeerNetwork),
            Self::PeerAsn | Self::PeerAsOrg | Self::PeerCountry => Some(RecordField::PeerPlace),
            Self::PolicyRule => Some(RecordField::PolicyRule),
            Self::Protocol => Some(RecordField::Protocol),
            Self::ServerName => Some(RecordField::ServerName),
            Self::Raddr
            | Self::Rport
            | Self::Lport
            | Self::Direction
            | Self::Event
            | Self::Reason
            | Self::EventType
            | Self::Laddr
            | Self::NetworkType
            | Self::Limit
            | Self::Queue
            | Self::ResetBy
            | Self::Finding
            | Self::Kind
            | Self::Qtype
            | Self::Rcode
            | Self::App
            | Self::IcmpType
            | Self::Hop
            | Self::Device
            | Self::Port
            | Self::Counter
            | Self::QpType
            | Self::QpState => None,
        }
    }

    /// Whether it has so few values that most series have it in common with others.
    pub const fn has_few_values(self) -> bool {
        matches!(
            self,
            Self::Direction
                | Self::Type
                | Self::EventType
                | Self::Flow
                | Self::Event
                | Self::Reason
                | Self::NetworkType
                | Self::Limit
                | Self::Queue
                | Self::ResetBy
                | Self::Finding
                | Self::Kind
                | Self::Qtype
                | Self::Rcode
                | Self::App
                | Self::IcmpType
        )
    }

    /// Whether it says what is counted, rather than of whom.
    pub const fn is_of_what_is_counted(self) -> bool {
        self.has_few_values() && !matches!(self, Self::Type | Self::Flow | Self::NetworkType)
    }

    /// The label's name by `naming`.
    pub const fn named(self, naming: Naming) -> &'static str {
        match naming {
            Naming::PrimusLens => self.name(),
            Naming::Otel => self.otel_name(),
        }
    }

    /// The label's name in an exposition by the Go exporter's naming, and in a config by either.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raddr => "raddr",
            Self::Rport => "rport",
            Self::Lport => "lport",
            Self::ServerPort => "server_port",
            Self::Direction => "direction",
            Self::Type | Self::EventType => "type",
            Self::Flow => "flow",
            Self::Event => "event",
            Self::Reason => "reason",
            Self::Laddr => "laddr",
            Self::RoleSource => "role_source",
            Self::Netns => "netns",
            Self::Pid => "pid",
            Self::Comm => "comm",
            Self::CgroupId => "cgroup_id",
            Self::ContainerId => "container_id",
            Self::PeerNamespace => "peer_namespace",
            Self::PeerPod => "peer_pod",
            Self::PeerWorkload => "peer_workload",
            Self::PeerService => "peer_service",
            Self::PeerNode => "peer_node",
            Self::LocalNamespace => "local_namespace",
            Self::LocalPod => "local_pod",
            Self::LocalWorkload => "local_workload",
            Self::NetworkType => "network_type",
            Self::Limit => "limit",
            Self::Queue => "queue",
            Self::ResetBy => "reset_by",
            Self::Finding => "finding",
            Self::Kind => "kind",
            Self::Qtype => "qtype",
            Self::Rcode => "rcode",
            Self::Qname => "qname",
            Self::PeerName => "peer_name",
            Self::PeerNameSource => "peer_name_source",
            Self::App => "app",
            Self::IcmpType => "icmp_type",
            Self::PeerNetwork => "peer_network",
            Self::PeerAsn => "peer_asn",
            Self::PeerAsOrg => "peer_as_org",
            Self::PeerCountry => "peer_country",
            Self::Backend => "backend",
            Self::BackendPort => "backend_port",
            Self::Hop => "hop",
            Self::LocalZone => "local_zone",
            Self::PeerZone => "peer_zone",
            Self::PolicyRule => "policy_rule",
            Self::Device => "device",
            Self::Port => "port",
            Self::Counter => "counter",
            Self::QpType => "qp_type",
            Self::QpState => "qp_state",
            Self::Protocol => "protocol",
            Self::ServerName => "server_name",
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of labels.
///
/// ```
/// use flowtap_model::catalog::{Label, LabelSet};
///
/// let labels = LabelSet::new(&[Label::Raddr, Label::Lport]);
/// assert!(labels.has(Label::Raddr) && !labels.has(Label::Pid));
/// assert!(!labels.without(Label::Raddr).has(Label::Raddr));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSet(u64);

impl LabelSet {
    /// Of one connection, process or name.
    const DETAILS: Self = Self(Self::new(&Label::DETAILS).0 | Self::new(&[Label::Qname]).0);

    /// The set of `labels`.
    pub const fn new(labels: &[Label]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < labels.len() {
            bits |= 1_u64 << labels[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Whether `label` is in it.
    pub const fn has(self, label: Label) -> bool {
        self.0 & 1_u64 << label as u8 != 0
    }

    /// Those other than `label`.
    #[must_use]
    pub const fn without(self, label: Label) -> Self {
        Self(self.0 & !(1_u64 << label as u8))
    }

    /// Those that are of one connection, process or name.
    #[must_use]
    pub const fn details(self) -> Self {
        Self(self.0 & Self::DETAILS.0)
    }

    /// Whether no label is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}
