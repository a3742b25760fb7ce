//! Dropped packets: how many the kernel dropped for one reason in one network namespace, and whose they were.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::flow::Flow;

/// The kernel's reason for a drop, by the name that the running kernel has for it (`enum skb_drop_reason`) without its prefix
/// `SKB_DROP_REASON_`. Numbers differ between kernels, so only names leave a receiver.
///
/// ```
/// use flowtap_model::{DropKind, DropReason};
///
/// let reason = DropReason::new("NETFILTER_DROP");
/// assert_eq!(reason.as_str(), "NETFILTER_DROP");
/// assert_eq!(reason.kind(), DropKind::Policy);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DropReason(u8);

/// Reasons that have been seen, each with its kind. A name is kept for good; kernels have fewer than 200, of which a machine sees a few.
static REASONS: RwLock<Vec<(&'static str, DropKind)>> = RwLock::new(Vec::new());

impl DropReason {
    /// A reason that is not known, or has no place among 255.
    pub const OTHER: Self = Self(u8::MAX);

    /// The reason of this name; [`OTHER`](Self::OTHER) after 255 different ones.
    pub fn new(name: &str) -> Self {
        if name == Self::OTHER.as_str() {
            return Self::OTHER;
        }
        let find = |known: &[(&str, DropKind)]| known.iter().position(|(known, _)| *known == name);
        let known = find(&REASONS.read().unwrap_or_else(PoisonError::into_inner));
        let index = known.unwrap_or_else(|| {
            let mut known = REASONS.write().unwrap_or_else(PoisonError::into_inner);
            find(&known).unwrap_or_else(|| {
                if known.len() < usize::from(u8::MAX) {
                    known.push((Box::leak(name.into()), DropKind::of(name)));
                    known.len() - 1
                } else {
                    known.len()
                }
            })
        });
        u8::try_from(index).map_or(Self::OTHER, Self)
    }

    /// The name; `other` for what has none.
    pub fn as_str(self) -> &'static str {
        self.known().map_or("other", |(name, _)| name)
    }

    /// The kind of event that the drop is.
    pub fn kind(self) -> DropKind {
        self.known().map_or(DropKind::Other, |(_, kind)| kind)
    }

    /// Its number in this process.
    pub const fn index(self) -> u8 {
        self.0
    }

    fn known(self) -> Option<(&'static str, DropKind)> {
        let reasons = REASONS.read().unwrap_or_else(PoisonError::into_inner);
        reasons.get(usize::from(self.0)).copied()
    }
}

impl fmt::Debug for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for DropReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for DropReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::new(&name))
    }
}

/// The kind of event that a drop is. Only the first four are loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropKind {
    /// A rule says so: netfilter, traffic control, XDP, a socket's filter, a security module.
    Policy,
    /// A queue or a buffer has no room.
    Full,
    /// Nobody takes it: no socket, no route, no neighbour.
    Nobody,
    /// The packet is malformed, or a checksum is wrong.
    Broken,
    /// TCP's own housekeeping: duplicates, old segments, window probes. Data that is needed is retransmitted.
    Tcp,
    /// Packets left in a queue when a socket closed.
    End,
    /// Anything else, and reasons whose name the kernel does not have.
    Other,
}

/// Kinds by name: the first pattern that fits decides. `*` stands for any text, at either end.
pub const DROP_KINDS: &[(&str, DropKind)] = &[
    ("NETFILTER_DROP", DropKind::Policy),
    ("SOCKET_FILTER", DropKind::Policy),
    ("BPF_CGROUP_EGRESS", DropKind::Policy),
    ("SECURITY_HOOK", DropKind::Policy),
    ("XFRM_POLICY", DropKind::Policy),
    ("XDP", DropKind::Policy),
    ("TC_*", DropKind::Policy),
    ("TAP_*", DropKind::Policy),
    ("IP_RPFILTER", DropKind::Policy),
    ("ARP_PVLAN_DISABLE", DropKind::Policy),
    ("TCP_MD5*", DropKind::Policy),
    ("TCP_AO*", DropKind::Policy),
    ("TCP_AUTH_HDR", DropKind::Policy),
    ("TCP_MINTTL", DropKind::Policy),
    ("QDISC_*", DropKind::Full),
    ("CAKE_*", DropKind::Full),
    ("FQ_*", DropKind::Full),
    ("DUALPI2_*", DropKind::Full),
    ("*_RCVBUFF", DropKind::Full),
    ("SOCKET_BACKLOG", DropKind::Full),
    ("CPU_BACKLOG", DropKind::Full),
    ("FULL_RING", DropKind::Full),
    ("PROTO_MEM", DropKind::Full),
    ("PFMEMALLOC", DropKind::Full),
    ("NOMEM", DropKind::Full),
    ("NEIGH_QUEUEFULL", DropKind::Full),
    ("TCP_LISTEN_OVERFLOW", DropKind::Full),
    ("TCP_OFO_QUEUE_PRUNE", DropKind::Full),
    ("NO_SOCKET", DropKind::Nobody),
    ("*NOROUTES", DropKind::Nobody),
    ("IP_NOPROTO", DropKind::Nobody),
    ("NEIGH_*", DropKind::Nobody),
    ("NO_TX_TARGET", DropKind::Nobody),
    ("VXLAN_VNI_NOT_FOUND", DropKind::Nobody),
    ("*_CSUM", DropKind::Broken),
    ("*_INHDR", DropKind::Broken),
    ("*_BAD_EXTHDR", DropKind::Broken),
    ("IPV6_NDISC_NS_OTHERHOST", DropKind::Other),
    ("IPV6_NDISC_*", DropKind::Broken),
    ("PKT_TOO_*", DropKind::Broken),
    ("HDR_TRUNC", DropKind::Broken),
    ("SKB_GSO_SEG", DropKind::Broken),
    ("DEV_HDR", DropKind::Broken),
    ("INVALID_PROTO", DropKind::Broken),
    ("IP_INADDRERRORS", DropKind::Broken),
    ("IP_INVALID_*", DropKind::Broken),
    ("IP_LOCAL*", DropKind::Broken),
    ("IP_TUNNEL_ECN", DropKind::Broken),
    ("DUP_FRAG", DropKind::Broken),
    ("FRAG_*", DropKind::Broken),
    ("*_INVALID_HDR", DropKind::Broken),
    ("*_INVALID_FRAME", DropKind::Broken),
    ("MAC_INVALID_SOURCE", DropKind::Broken),
    ("TCP_FLAGS", DropKind::Broken),
    ("TCP_INVALID_SYN", DropKind::Broken),
    ("TCP_CLOSE", DropKind::End),
    ("TCP_ABORT_ON_DATA", DropKind::End),
    ("SOCKET_CLOSE", DropKind::End),
    ("QUEUE_PURGE", DropKind::End),
    ("UNIX_*", DropKind::End),
    ("TCP_*", DropKind::Tcp),
];

impl DropKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Policy,
        Self::Full,
        Self::Nobody,
        Self::Broken,
        Self::Tcp,
        Self::End,
        Self::Other,
    ];

    /// The kind of the reason `name`.
    pub fn of(name: &str) -> Self {
        let fits = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(end), _) => name.ends_with(end),
            (_, Some(start)) => name.starts_with(start),
            _ => name == pattern,
        };
        let found = DROP_KINDS.iter().find(|(pattern, _)| fits(pattern));
        found.map_or(Self::Other, |(_, kind)| *kind)
    }

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Full => "full",
            Self::Nobody => "nobody",
            Self::Broken => "broken",
            Self::Tcp => "tcp",
            Self::End => "end",
            Self::Other => "other",
        }
    }

    /// Whether data is lost: not in TCP's housekeeping, nor at an end.
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::Policy | Self::Full | Self::Nobody | Self::Broken)
    }
}

/// Packets that were dropped since the last record.
///
/// ```
/// use flowtap_model::{DropReason, DropRecord};
///
/// let mut record = DropRecord::new(DropReason::new("NO_SOCKET"), 4_026_531_840);
/// record.packets = 3;
/// assert_eq!(record.flow, None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropRecord {
    /// Whose packets; `None` if that was not looked at, or not known.
    pub flow: Option<Flow>,
    /// Whether flows are counted, and this one is not: the packet is not IP, or the table of flows was full.
    pub is_unattributed: bool,
    /// Inode number of the network namespace; 0 if unknown.
    pub netns: u32,
    /// Why.
    pub reason: DropReason,
    /// Packets, as the kernel has them: one of several segments counts once.
    pub packets: u64,
    /// Their bytes, from the header of the layer that dropped them.
    pub bytes: u64,
}

impl DropRecord {
    /// A record of no packets yet, without a flow.
    pub const fn new(reason: DropReason, netns: u32) -> Self {
        Self {
            flow: None,
            is_unattributed: false,
            netns,
            reason,
            packets: 0,
            bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_comes_back_by_its_name_and_not_by_its_number() {
        let reasons = ["NO_SOCKET", "QDISC_DROP", "NO_SOCKET"].map(DropReason::new);
        assert_eq!(reasons[0], reasons[2]);
        assert_ne!(reasons[0], reasons[1]);
        assert_eq!(reasons[1].as_str(), "QDISC_DROP");
        assert_eq!(DropReason::OTHER.as_str(), "other");
        assert_eq!(DropReason::new("other"), DropReason::OTHER);
        assert_eq!(DropReason::OTHER.kind(), DropKind::Other);
    }

    #[test]
    fn drops_that_lose_data_are_distinguished_from_housekeeping() {
        for (name, kind) in [
            ("NETFILTER_DROP", DropKind::Policy),
            ("TC_INGRESS", DropKind::Policy),
            ("QDISC_OVERLIMIT", DropKind::Full),
            ("SOCKET_RCVBUFF", DropKind::Full),
            ("NEIGH_QUEUEFULL", DropKind::Full),
            ("NEIGH_FAILED", DropKind::Nobody),
            ("IP_INNOROUTES", DropKind::Nobody),
            ("UDP_CSUM", DropKind::Broken),
            ("TCP_CSUM", DropKind::Broken),
            ("TCP_OLD_SEQUENCE", DropKind::Tcp),
            ("TCP_ZEROWINDOW", DropKind::Tcp),
            ("TCP_CLOSE", DropKind::End),
            ("QUEUE_PURGE", DropKind::End),
            ("NOT_SPECIFIED", DropKind::Other),
            ("OPENVSWITCH_5", DropKind::Other),
        ] {
            assert_eq!(DropKind::of(name), kind, "{name}");
        }
        let loss = DropKind::ALL.map(DropKind::is_loss);
        assert_eq!(loss, [true, true, true, true, false, false, false]);
    }

    #[test]
    fn no_pattern_is_hidden_by_an_earlier_one() {
        for (index, (pattern, kind)) in DROP_KINDS.iter().enumerate() {
            let example = pattern.replace('*', "X");
            assert_eq!(
                DropKind::of(&example),
                *kind,
                "{pattern}, the pattern with index {index}"
            );
        }
    }
}
