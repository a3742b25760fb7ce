//! The attempts and the outgoing bytes of a subject within an interval.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use flowtap_pipeline::{Flow, Transport};

/// Addresses and ports of a subject that are counted in an interval; further ones add nothing to what is known.
const MAX_TRIED: usize = 8192;

/// Addresses and ports that a subject tried in the open interval.
#[derive(Debug, Default)]
pub(super) struct Tried {
    ends: HashSet<(IpAddr, u16, Transport)>,
    /// Ports by address.
    ports: HashMap<IpAddr, usize>,
    /// The number of ports of the address of which the most were tried, and the newest flow to it.
    pub(super) most: Option<(usize, Flow)>,
    pub(super) newest: Option<Flow>,
}

impl Tried {
    pub(super) fn push(&mut self, flow: &Flow) {
        let end = (flow.remote.addr, flow.remote.port, flow.transport);
        if self.ends.len() >= MAX_TRIED || !self.ends.insert(end) {
            return;
        }
        let ports = self.ports.entry(flow.remote.addr).or_default();
        *ports += 1;
        if self.most.as_ref().is_none_or(|(most, _)| *ports > *most) {
            self.most = Some((*ports, flow.clone()));
        }
        self.newest = Some(flow.clone());
    }

    pub(super) fn destinations(&self) -> usize {
        self.ports.len()
    }
}

/// Peers of a subject whose bytes are counted in an interval. One that gets more than a sixteenth of them is among these.
const MAX_PEERS: usize = 16;

/// Bytes that a subject sent to external peers in the open interval, and to which of them the most.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    /// As the algorithm "space-saving" counts: a further peer takes the place of the one with the fewest bytes, and its count.
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    flow: Flow,
    bytes: u64,
    /// Those of the peers that had its place before.
    inherited: u64,
}

impl Sent {
    pub(super) fn push(&mut self, flow: &Flow, bytes: u64) {
        self.bytes += bytes;
        let addr = flow.remote.addr;
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.flow.remote.addr == addr) {
            peer.bytes += bytes;
            return;
        }
        let mut peer = Peer {
            flow: flow.clone(),
            bytes,
            inherited: 0,
        };
        if self.peers.len() < MAX_PEERS {
            self.peers.push(peer);
        } else if let Some(least) = self.peers.iter_mut().min_by_key(|peer| peer.bytes) {
            peer.bytes += least.bytes;
            peer.inherited = least.bytes;
            *least = peer;
        }
    }

    /// A flow to the peer that got the most bytes, and how many it got at least.
    pub(super) fn largest(&self) -> Option<(&Flow, u64)> {
        let peers = self.peers.iter();
        let known = peers.map(|peer| (&peer.flow, peer.bytes - peer.inherited));
        known.max_by_key(|(_, bytes)| *bytes)
    }
}
