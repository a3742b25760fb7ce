//! The part of a record that is watched, whatever its transport.

use flowtap_pipeline::{Events, Flow, FlowKind, TcpRecord, Transport, UdpRecord};

use super::ends::{DNS, server_port};

/// The part of a record that is watched.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) flow: &'a Flow,
    /// A connection, or a UDP flow, began.
    pub(super) opened: bool,
    /// A connect failed.
    pub(super) failed: bool,
    pub(super) sent: u64,
    pub(super) received: u64,
}

fn moved(bytes: i64) -> u64 {
    bytes.max(0).unsigned_abs()
}

impl<'a> Seen<'a> {
    pub(super) fn of_tcp(record: &'a TcpRecord) -> Self {
        Self {
            flow: &record.flow,
            opened: record.events.contains(Events::OPENED),
            failed: record.events.contains(Events::FAILED),
            sent: moved(record.sent_bytes),
            received: moved(record.received_bytes),
        }
    }

    /// `None` for a record without a peer: of flows that had no place in a table, of a socket that is not connected, and of groups.
    pub(super) fn of_udp(record: &'a UdpRecord) -> Option<Self> {
        let peer = record.flow.remote.addr;
        if record.unplaced || peer.is_unspecified() || peer.is_multicast() || is_broadcast(&record.flow) {
            return None;
        }
        Some(Self {
            flow: &record.flow,
            opened: record.opened && record.sent_datagrams > 0,
            failed: false,
            sent: moved(record.sent_bytes),
            received: moved(record.received_bytes),
        })
    }

    pub(super) const fn tries(&self) -> bool {
        self.opened || self.failed
    }

    /// Whether it is a connect that failed, refused or without an answer, and no part of a connection.
    pub(super) const fn is_connect_alone(&self) -> bool {
        self.failed && !self.opened && self.received == 0
    }

    /// Whether the subject serves.
    pub(super) fn serves(&self) -> bool {
        self.flow.kind == Some(FlowKind::Ingress)
    }

    pub(super) fn is_udp(&self) -> bool {
        self.flow.transport != Transport::Tcp
    }

    /// Whether it is a question to a name server, over UDP.
    pub(super) fn is_dns(&self) -> bool {
        self.is_udp() && !self.serves() && server_port(self.flow) == DNS
    }
}

fn is_broadcast(flow: &Flow) -> bool {
    matches!(flow.remote.addr, std::net::IpAddr::V4(addr) if addr.is_broadcast())
}
