//! The flow record: what one TCP socket did since it was last looked at.
//!
//! Receivers fill everything above the line "filled by processors"; addresses arrive canonical (an IPv4-mapped IPv6
//! address is already IPv4). Byte and segment counts are signed differences: a socket that is read by the window's
//! scan while it closes can first be shown too high and then be put right by a negative difference, and only the sum
//! counts.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::cluster::KubernetesNames;

/// One end of a connection.
///
/// ```
/// use std::net::IpAddr;
/// use flowtap_model::Endpoint;
///
/// let mapped: IpAddr = "::ffff:192.0.2.7".parse()?;
/// assert_eq!(Endpoint::new(mapped, 443).to_string(), "192.0.2.7:443");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address, canonical: never IPv4-mapped IPv6.
    pub addr: IpAddr,
    /// The TCP port, in host byte order.
    pub port: u16,
}

impl Endpoint {
    /// An end at `addr` (folded to IPv4 if it is IPv4-mapped) and `port`.
    pub fn new(addr: IpAddr, port: u16) -> Self {
        Self {
            addr: addr.to_canonical(),
            port,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

/// Events of the connection since the last record, as a set of bits.
///
/// ```
/// use flowtap_model::Events;
///
/// let events = Events::CLOSED | Events::RESET;
/// assert!(events.contains(Events::CLOSED));
/// assert!(!events.contains(Events::OPENED));
/// assert_eq!(Events::from_bits(events.bits()), events);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events(u8);

impl Events {
    /// Nothing but traffic.
    pub const NONE: Self = Self(0);
    /// Established; the first record of this connection.
    pub const OPENED: Self = Self(1);
    /// Closed; the last record of this connection.
    pub const CLOSED: Self = Self(1 << 1);
    /// A connect that was never established; `failure` holds the errno.
    pub const FAILED: Self = Self(1 << 2);
    /// Ended by a reset, from either side. Comes with `CLOSED`.
    pub const RESET: Self = Self(1 << 3);
    /// Was open before flowtap was: counted from then on, and its opening was not seen.
    pub const ADOPTED: Self = Self(1 << 4);
    /// Is open: reported again by a [census](crate::batch::Census), whether it moved bytes or not.
    pub const OPEN: Self = Self(1 << 5);

    /// The set with exactly these bits; unknown bits are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b11_1111)
    }

    /// The bits, as `from_bits` takes them.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every event of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Events {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
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

/// Class of the remote address, the Go exporter's `ip_source_type`.
///
/// ```
/// use flowtap_model::PeerClass;
///
/// assert_eq!(PeerClass::K8sPod.as_str(), "k8sPod");
/// assert!(PeerClass::is_built_in("dns"));
/// let partners = PeerClass::custom("partners").expect("fewer than 65,000 names");
/// assert_eq!(partners.as_str(), "partners");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each variant is its label value, and the policy processor documents them"
)]
pub enum PeerClass {
    K8sPod,
    K8sSvc,
    Dns,
    Localhost,
    Docker,
    InternalHosts,
    ExternalHosts,
    AbnormalFlowBlackList,
    AbnormalFlowWhiteList,
    Unknown,
    Error,
    /// A class of the operator's own.
    Custom(CustomClassId),
}

/// A class of the operator's own: the number of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CustomClassId(u16);

impl CustomClassId {
    /// Maximum number of names.
    const MAX: u16 = 65_000;

    /// The number of the first, after those that are built in.
    const FIRST: u16 = 11;
}

/// Names of classes that configs have brought in. Each is kept for good, so that a class is as small as a built-in one; only
/// a config can add to them.
static CUSTOM_CLASSES: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

impl PeerClass {
    /// Every class that is built in.
    pub const BUILT_IN: [Self; 11] = [
        Self::K8sPod,
        Self::K8sSvc,
        Self::Dns,
        Self::Localhost,
        Self::Docker,
        Self::InternalHosts,
        Self::ExternalHosts,
        Self::AbnormalFlowBlackList,
        Self::AbnormalFlowWhiteList,
        Self::Unknown,
        Self::Error,
    ];

    /// Every class that there is so far, in the order of their numbers.
    pub fn known() -> Vec<Self> {
        let custom = CUSTOM_CLASSES
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        let custom = (0..CustomClassId::MAX)
            .take(custom)
            .map(|index| Self::Custom(CustomClassId(index)));
        Self::BUILT_IN.into_iter().chain(custom).collect()
    }

    /// Whether a class of this name is built in.
    pub fn is_built_in(name: &str) -> bool {
        Self::BUILT_IN.iter().any(|class| class.as_str() == name)
    }

    /// The class of the operator's own with this name; `None` if there have been 65,000 others since flowtap started.
    pub fn custom(name: &str) -> Option<Self> {
        let mut names = CUSTOM_CLASSES.write().unwrap_or_else(PoisonError::into_inner);
        let index = names.iter().position(|known| *known == name);
        let class = u16::try_from(index.unwrap_or(names.len())).ok()?;
        let class = CustomClassId((class < CustomClassId::MAX).then_some(class)?);
        if index.is_none() {
            names.push(Box::leak(name.into()));
        }
        Some(Self::Custom(class))
    }

    /// Its index, below `u16::MAX`: half as large, for tables of many classes.
    pub const fn index(self) -> u16 {
        match self {
            Self::K8sPod => 0,
            Self::K8sSvc => 1,
            Self::Dns => 2,
            Self::Localhost => 3,
            Self::Docker => 4,
            Self::InternalHosts => 5,
            Self::ExternalHosts => 6,
            Self::AbnormalFlowBlackList => 7,
            Self::AbnormalFlowWhiteList => 8,
            Self::Unknown => 9,
            Self::Error => 10,
            Self::Custom(CustomClassId(index)) => index + CustomClassId::FIRST,
        }
    }

    /// The class with this number.
    pub fn from_index(index: u16) -> Option<Self> {
        if let Some(built_in) = Self::BUILT_IN.get(usize::from(index)) {
            return Some(*built_in);
        }
        let own = index - CustomClassId::FIRST;
        (own < CustomClassId::MAX).then_some(Self::Custom(CustomClassId(own)))
    }

    /// The value of the label `type`, spelt as the seed spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::K8sPod => "k8sPod",
            Self::K8sSvc => "k8sSvc",
            Self::Dns => "dns",
            Self::Localhost => "localhost",
            Self::Docker => "docker",
            Self::InternalHosts => "internalHosts",
            Self::ExternalHosts => "externalHosts",
            Self::AbnormalFlowBlackList => "abnormalFlowBlackList",
            Self::AbnormalFlowWhiteList => "abnormalFlowWhiteList",
            Self::Unknown => "unknown",
            Self::Error => "error",
            Self::Custom(CustomClassId(index)) => {
                let names = CUSTOM_CLASSES.read().unwrap_or_else(PoisonError::into_inner);
                // An index is only obtained together with its name.
                names.get(usize::from(index)).copied().unwrap_or("unknown")
            }
        }
    }
}

/// The changes of one TCP socket since its last record.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_model::{Endpoint, Events, FlowRecord};
///
/// let local = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 50_000);
/// let remote = Endpoint::new(Ipv4Addr::new(192, 0, 2, 7).into(), 443);
/// let mut record = FlowRecord::new(local, remote);
/// record.sent_bytes = 81;
/// record.events = Events::OPENED;
/// assert_eq!(record.received_bytes, 0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// This machine's end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
    /// Inode number of the socket's network namespace; 0 if unknown.
    pub netns: u32,
    /// The kernel's socket cookie: unique for the machine's uptime; 0 if unknown.
    pub cookie: u64,
    /// Payload bytes sent; each counts once, however often it was transmitted.
    pub sent_bytes: i64,
    /// Payload bytes received in order, the FIN not counted.
    pub received_bytes: i64,
    /// Segments sent, retransmissions and pure acknowledgements included.
    pub sent_segments: i64,
    /// Segments received.
    pub received_segments: i64,
    /// Segments retransmitted.
    pub retransmits: i64,
    /// The kernel's smoothed round-trip time, in µs; 0 before the first sample.
    pub rtt_us: u32,
    /// The smallest round-trip time seen, in µs; 0 before the first sample.
    pub min_rtt_us: u32,
    /// Congestion window, in segments.
    pub cwnd: u32,
    /// TCP state, the kernel's number (`include/net/tcp_states.h`).
    pub state: u8,
    /// Events of the connection since the last record.
    pub events: Events,
    /// Why a connect failed or a connection broke, as an errno; 0 for none.
    pub failure: u16,
    /// From SYN to ESTABLISHED, in µs, for connections that this machine opened; 0 if not seen.
    pub handshake_us: u32,
    /// From ESTABLISHED (or adoption) to this record, in µs.
    pub age_us: u64,
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
}

impl FlowRecord {
    /// An empty record between two ends: no traffic, no events, nothing known.
    pub const fn new(local: Endpoint, remote: Endpoint) -> Self {
        Self {
            local,
            remote,
            netns: 0,
            cookie: 0,
            sent_bytes: 0,
            received_bytes: 0,
            sent_segments: 0,
            received_segments: 0,
            retransmits: 0,
            rtt_us: 0,
            min_rtt_us: 0,
            cwnd: 0,
            state: 0,
            events: Events::NONE,
            failure: 0,
            handshake_us: 0,
            age_us: 0,
            role: Role::Unknown,
            role_source: RoleSource::Assumed,
            pid: 0,
            comm: [0; 16],
            cgroup_id: 0,
            container_id: None,
            kind: None,
            class: None,
            peer_names: None,
            local_names: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_comes_back_from_its_number() {
        let own = ["partners", "backups", "partners"].map(|name| PeerClass::custom(name).unwrap());
        assert_eq!(own[0], own[2]);
        assert_ne!(own[0], own[1]);
        assert_eq!(own[1].as_str(), "backups");
        for class in PeerClass::BUILT_IN.into_iter().chain(own) {
            assert_eq!(PeerClass::from_index(class.index()), Some(class));
        }
        assert_eq!(PeerClass::from_index(u16::MAX), None);
    }
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_mapped_address_is_folded_to_ipv4() {
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped();
        let end = Endpoint::new(IpAddr::V6(mapped), 443);
        assert_eq!(end.addr, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(end.to_string(), "192.0.2.7:443");
        assert_eq!(
            Endpoint::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 53).to_string(),
            "[::1]:53"
        );
    }

    #[test]
    fn events_keep_only_the_bits_they_know() {
        let events = Events::from_bits(0xff);
        assert!(events.contains(Events::CLOSED | Events::RESET));
        assert_eq!(events.bits(), 0b11_1111);
        assert!(!Events::CLOSED.contains(Events::CLOSED | Events::RESET));
    }
}
