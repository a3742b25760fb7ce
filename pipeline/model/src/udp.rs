//! The record of a UDP socket and one of its peers, and counts of ICMP messages.

use serde::{Deserialize, Serialize};

use crate::flow::Flow;

/// The application protocol that the first datagram of a flow shows. A recording holds a variant by its position: append
/// new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UdpApp {
    /// None that is known.
    #[default]
    Unknown,
    /// QUIC, version 1 or 2: its connections begin with a long header (RFC 9000, RFC 9369).
    Quic,
}

impl UdpApp {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Quic => "quic",
        }
    }
}

/// State of a flow after a record. A recording holds a variant by its position: append new ones. The first two are what a recording had
/// as false and true, when this was a flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UdpEnd {
    /// Further records may follow.
    #[default]
    Open,
    /// The socket closed.
    Closed,
    /// The flow was idle, and its place was given up: the next datagram begins another flow.
    Idle,
}

impl UdpEnd {
    /// Whether the record is the last one of its flow.
    pub const fn is_last(self) -> bool {
        !matches!(self, Self::Open)
    }
}

/// The changes of one socket and one peer since the last record.
///
/// Differences are signed: a hook that counts at the socket's queue takes back what the queue had no room for.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_model::{Endpoint, Flow, Transport, UdpRecord};
///
/// let local = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 50_000);
/// let remote = Endpoint::new(Ipv4Addr::new(192, 0, 2, 7).into(), 443);
/// let flow = Flow { transport: Transport::Udp, ..Flow::new(local, remote) };
/// let record = UdpRecord { sent_bytes: 1200, sent_datagrams: 1, ..UdpRecord::new(flow) };
/// assert_eq!(record.received_bytes, 0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UdpRecord {
    /// The socket, its peer and its owner. A remote port 0 stands for no peer: a drop or an error of a socket that is not
    /// connected, or hooks that do not show peers.
    pub flow: Flow,
    /// Payload bytes sent.
    pub sent_bytes: i64,
    /// Payload bytes that an application took.
    pub received_bytes: i64,
    /// Datagrams sent; segmentation offload counts each.
    pub sent_datagrams: i64,
    /// Datagrams that an application took.
    pub received_datagrams: i64,
    /// Datagrams for which the socket's receive buffer had no room.
    pub drops: i64,
    /// ICMP errors that the socket was notified of.
    pub errors: i64,
    /// The last one, as an errno; 0 for none.
    pub error: u16,
    /// The application protocol.
    pub app: UdpApp,
    /// The first record of this flow.
    pub opened: bool,
    /// Whether this is the last one.
    pub end: UdpEnd,
    /// Of flows that had no place in a table: the flow's ends and owner are not known.
    pub unplaced: bool,
}

impl UdpRecord {
    /// An empty record of `flow`.
    pub const fn new(flow: Flow) -> Self {
        Self {
            flow,
            sent_bytes: 0,
            received_bytes: 0,
            sent_datagrams: 0,
            received_datagrams: 0,
            drops: 0,
            errors: 0,
            error: 0,
            app: UdpApp::Unknown,
            opened: false,
            end: UdpEnd::Open,
            unplaced: false,
        }
    }

    /// The same record with another flow, made from its own.
    #[must_use]
    pub fn with_flow(self, change: impl FnOnce(Flow) -> Flow) -> Self {
        Self {
            flow: change(self.flow),
            ..self
        }
    }
}

/// ICMP messages of one type that the kernel counted in a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpCount {
    /// Inode number of the namespace.
    pub netns: u32,
    /// `ICMPv6`, not `ICMP`.
    pub is_v6: bool,
    /// Sent, not received.
    pub is_sent: bool,
    /// The message's type (RFC 792, RFC 4443).
    pub message_type: u8,
    /// Messages since the batch before.
    pub count: u64,
}
