//! The attempts and the outgoing bytes of a subject within an interval.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use flowtap_pipeline::{Flow, Transport};

/// Addresses that a subject tried and that are counted in an interval. Ports have a separate bound, so that a decoy of ports, which
/// costs nothing on loopback, leaves all the room for addresses, and the other way round.
pub(super) const MAX_ADDRESSES: usize = 8192;

/// Ports that are counted in an interval, beside the first one of each address. With more, those of the address that has the most are
/// counted no further: a decoy leaves room for other addresses.
const MAX_PORTS: usize = 8192;

/// Ports of one address that are counted, with the first one.
pub(super) const MAX_PORTS_OF_ADDRESS: usize = MAX_PORTS + 1;

/// Ports of an address at least that make room for those of others: fewer would make little.
const LEAST_ROOM: usize = 64;

/// A number that is known, or the bound up to which it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) count: usize,
    /// Whether there were more.
    pub(super) is_least: bool,
}

impl Counted {
    pub(super) const fn exactly(count: usize) -> Self {
        Self {
            count,
            is_least: false,
        }
    }
}

type Port = (u16, Transport);

/// Ports of an address beside the first one.
#[derive(Debug, Default)]
struct Further {
    ports: HashSet<Port>,
    /// Their number, if they made room.
    closed: Option<usize>,
}

/// Addresses and ports that a subject tried in the open interval.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// With the first port of each: most have one.
    addresses: HashMap<IpAddr, Port>,
    further: HashMap<IpAddr, Further>,
    /// Ports in `further`.
    further_ports: usize,
    /// Whether no address has so many ports that they make room.
    is_out_of_ports: bool,
    /// Whether there were more addresses.
    is_least: bool,
    /// The ports of the address of which the most were tried, and the newest flow to it.
    pub(super) most: Option<(Counted, Flow)>,
    pub(super) newest: Option<Flow>,
}

impl Tried {
    /// Counts an attempt. Returns whether there was room for it.
    pub(super) fn push(&mut self, flow: &Flow) -> bool {
        let (addr, port) = (flow.remote.addr, (flow.remote.port, flow.transport));
        let is_full = self.addresses.len() >= MAX_ADDRESSES;
        match self.addresses.entry(addr) {
            Entry::Vacant(_) if is_full => {
                self.is_least = true;
                return false;
            }
            Entry::Vacant(new) => {
                new.insert(port);
                self.newest = Some(flow.clone());
                if self.most.is_none() {
                    self.most = Some((Counted::exactly(1), flow.clone()));
                }
                return true;
            }
            Entry::Occupied(first) if *first.get() == port => return true,
            Entry::Occupied(_) => {}
        }
        self.push_further(flow, port)
    }

    /// Counts a port of an address that has another one.
    fn push_further(&mut self, flow: &Flow, port: Port) -> bool {
        let addr = flow.remote.addr;
        if self.is_out_of_ports && !self.further.contains_key(&addr) {
            return false;
        }
        let further = self.further.entry(addr).or_default();
        if further.ports.contains(&port) {
            return true;
        }
        let has_room = further.closed.is_none() && !self.is_out_of_ports;
        if has_room {
            further.ports.insert(port);
            self.further_ports += 1;
            self.newest = Some(flow.clone());
        }
        let count = 1 + further.closed.unwrap_or(further.ports.len());
        if let Some((most, newest)) = &mut self.most
            && (count > most.count || newest.remote.addr == addr)
        {
            *most = Counted {
                count,
                is_least: !has_room,
            };
            if has_room {
                newest.clone_from(flow);
            }
        }
        if self.further_ports >= MAX_PORTS {
            self.make_room();
        }
        has_room
    }

    /// Counts the ports of the address that has the most of them no further.
    fn make_room(&mut self) {
        let all = self.further.values_mut();
        match all.max_by_key(|further| further.ports.len()) {
            Some(further) if further.ports.len() >= LEAST_ROOM => {
                let closed = std::mem::take(&mut further.ports).len();
                further.closed = Some(closed);
                self.further_ports -= closed;
            }
            _ => self.is_out_of_ports = true,
        }
    }

    pub(super) fn destinations(&self) -> Counted {
        Counted {
            count: self.addresses.len(),
            is_least: self.is_least,
        }
    }
}

/// Peers of a subject whose bytes are counted in an interval. One that gets more than a sixteenth of all bytes is among these.
const MAX_PEERS: usize = 16;

/// Bytes that a subject sent to external peers in the open interval, and to which of them the most.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    /// As the algorithm "space-saving" counts: a further peer takes the place of the one with the fewest bytes, and its count.
    peers: Vec<Peer>,
    /// Whether a peer has lost its place.
    has_replaced: bool,
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
            self.has_replaced = true;
        }
    }

    /// A flow to the peer that got the most bytes, as far as that is known.
    pub(super) fn largest(&self) -> Option<Largest<'_>> {
        let at_least = |peer: &Peer| peer.bytes - peer.inherited;
        let largest = self.peers.iter().max_by_key(|peer| at_least(peer))?;
        let bytes = at_least(largest);
        let others = self.peers.iter().filter(|peer| !std::ptr::eq(*peer, largest));
        // A peer that has lost its place got as many as the fewest that a place has, at most.
        let without_place = self
            .has_replaced
            .then(|| self.peers.iter().map(|peer| peer.bytes).min());
        let most = others.map(|peer| peer.bytes).chain(without_place.flatten()).max();
        Some(Largest {
            flow: &largest.flow,
            bytes,
            is_least: largest.inherited > 0,
            is_known: most.is_none_or(|most| bytes >= most),
        })
    }
}

/// The peer that got the most of the bytes that a subject sent.
#[derive(Debug)]
pub(super) struct Largest<'a> {
    pub(super) flow: &'a Flow,
    pub(super) bytes: u64,
    /// Whether it may have got more than `bytes`.
    pub(super) is_least: bool,
    /// Whether no other one can have got more.
    pub(super) is_known: bool,
}
