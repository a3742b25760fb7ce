//! The flow: who talks to whom, and what is known of both ends. Every signal's record embeds one.
//!
//! Receivers fill everything above the line "filled by processors"; addresses arrive canonical (an IPv4-mapped IPv6
//! address is already IPv4).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::KubernetesNames;
use crate::endpoint::Endpoint;
use crate::inspection::Inspection;
use crate::peer_class::PeerClass;
use crate::place::Place;
use crate::translation::{Arrival, Translation};

/// The transport protocol. A recording holds a variant by its position: append new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP, and MPTCP by its subflows.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite (RFC 3828).
    UdpLite,
    /// Another protocol, or none that is known: of dropped packets.
    Other,
}

impl Transport {
    /// The value of the attribute `network.transport`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpLite => "udplite",
            Self::Other => "other",
        }
    }
}

/// Which side of the handshake this socket was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Not seen, and not yet decided.
    #[default]
    Unknown,
    /// It called `connect`.
    Client,
    /// It was accepted.
    Server,
}

/// The evidence for a role. A recording holds a variant by its position: append new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RoleSource {
    /// The handshake was seen.
    Handshake,
    /// The listening-port table of the socket's network namespace.
    Listener,
    /// Nothing: it was assumed.
    #[default]
    Assumed,
    /// The socket's counters: the SYN of the end that connected counts as an acknowledged byte.
    Counters,
    /// The two port numbers: one is ephemeral, the other is not.
    Ports,
    /// The message itself: a query or an answer.
    Message,
    /// Of UDP: the direction of the first datagram.
    FirstDatagram,
    /// Of UDP: the first datagram came in, but to a connected socket whose port the kernel chose.
    Bound,
}

impl RoleSource {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Listener => "listener",
            Self::Assumed => "assumed",
            Self::Counters => "counters",
            Self::Ports => "ports",
            Self::Message => "message",
            Self::FirstDatagram => "first_datagram",
            Self::Bound => "bound",
        }
    }
}

/// Whether this side serves the flow or is its client. Not to be mixed up with the direction of bytes: a socket of
/// either kind both sends (`outbound`) and receives (`inbound`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKind {
    /// This side serves.
    Ingress,
    /// This side is the client.
    Egress,
}

impl FlowKind {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Where the name of an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameSource {
    /// An answer of a name server that a process of the same network namespace got.
    Dns,
    /// The file `/etc/hosts` of the node.
    Hosts,
}

impl NameSource {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Hosts => "hosts",
        }
    }
}

/// Name of a peer's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerName {
    /// The name, in lower case.
    pub name: Arc<str>,
    /// Its source.
    pub source: NameSource,
}

/// The two ends of some traffic: one socket of this machine, its peer, its owner, and what processors know of them.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_model::{Endpoint, Flow, Transport};
///
/// let local = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 50_000);
/// let remote = Endpoint::new(Ipv4Addr::new(192, 0, 2, 7).into(), 443);
/// let flow = Flow { pid: 7, ..Flow::new(local, remote) };
/// assert_eq!(flow.transport, Transport::Tcp);
/// assert_eq!(flow.class, None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// This machine's end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
    /// The transport protocol.
    pub transport: Transport,
    /// Inode number of the socket's network namespace; 0 if unknown.
    pub netns: u32,
    /// The kernel's socket cookie: unique for the machine's uptime; 0 if unknown.
    pub cookie: u64,
    /// Which side this is.
    pub role: Role,
    /// The rule that decided `role`.
    pub role_source: RoleSource,
    /// Process id (thread group) in the initial pid namespace; 0 if unknown.
    pub pid: u32,
    /// Name of the process, NUL-padded.
    pub comm: [u8; 16],
    /// cgroup v2 id of the process; 0 if unknown.
    pub cgroup_id: u64,
    /// Id of the process's container, if it is in one that is known.
    pub container_id: Option<Arc<str>>,
    /// The ends on the wire, if they are known to be other ones; `None` does not prove that they are not.
    pub translation: Option<Arc<Translation>>,
    /// The interface on which its packets arrive.
    pub arrival: Arrival,
    /// Findings in its first bytes; `None` if they were not seen, or not asked for.
    pub inspection: Option<Arc<Inspection>>,

    // ---- filled by processors, and no part of a recording ----
    /// Ingress or egress; `None` before the direction processor.
    #[serde(skip)]
    pub kind: Option<FlowKind>,
    /// Class of the remote address; `None` before the policy processor, unless another one knows better.
    #[serde(skip)]
    pub class: Option<PeerClass>,
    /// Names of the peer in the cluster; `None` before the kubernetes processor, or if it has none.
    #[serde(skip)]
    pub peer_names: Option<Arc<KubernetesNames>>,
    /// Names of this side.
    #[serde(skip)]
    pub local_names: Option<Arc<KubernetesNames>>,
    /// Name of the peer's address, with its source; `None` before the names processor, or if it knows none.
    #[serde(skip)]
    pub peer_name: Option<PeerName>,
    /// Name of the network that the peer is in; `None` before the attributes processor, or if it has none.
    #[serde(skip)]
    pub peer_network: Option<Arc<str>>,
    /// Topology zone of this side's node; `None` before the kubernetes processor, or if it is not known.
    #[serde(skip)]
    pub local_zone: Option<Arc<str>>,
    /// Topology zone of the peer's node.
    #[serde(skip)]
    pub peer_zone: Option<Arc<str>>,
    /// Operator and country of the peer's address; `None` before the geoip processor, or if its databases don't have it.
    #[serde(skip)]
    pub peer_place: Option<Arc<Place>>,
    /// The rule that decided the class: a list and its range; `None` unless the policy processor fills it, and where no rule did.
    #[serde(skip)]
    pub policy_rule: Option<Arc<str>>,
}

impl Flow {
    /// A TCP flow between two ends of which nothing else is known.
    pub const fn new(local: Endpoint, remote: Endpoint) -> Self {
        Self {
            local,
            remote,
            transport: Transport::Tcp,
            netns: 0,
            cookie: 0,
            role: Role::Unknown,
            role_source: RoleSource::Assumed,
            pid: 0,
            comm: [0; 16],
            cgroup_id: 0,
            container_id: None,
            translation: None,
            arrival: Arrival::Unknown,
            inspection: None,
            kind: None,
            class: None,
            peer_names: None,
            local_names: None,
            peer_name: None,
            peer_network: None,
            local_zone: None,
            peer_zone: None,
            peer_place: None,
            policy_rule: None,
        }
    }
}
