//! The attempts and the outgoing bytes of a subject within an interval, and within the time of an interval that begins in the middle of
//! the one before: what is cut by the end of an interval is whole in that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use flowtap_pipeline::Flow;

use super::counted::{Counted, Port};
use super::cut::{CutTried, Usual};
use super::history::Peak;

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

/// The first port of an address.
#[derive(Debug)]
struct First {
    port: Port,
    /// Whether it was tried in the second half of the interval.
    is_late: bool,
    /// Whether any port of the address was.
    is_any_late: bool,
}

/// Ports of an address beside the first one.
#[derive(Debug, Default)]
struct Further {
    /// With whether each was tried in the second half of the interval.
    ports: HashMap<Port, bool>,
    /// Their number, if they made room.
    closed: Option<usize>,
}

/// Addresses and ports that a subject tried in the open interval.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// With the first port of each: most have one.
    addresses: HashMap<IpAddr, First>,
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
    /// Those of the half of the interval before, with the first half of this one.
    pub(super) cut: CutTried,
}

impl Tried {
    /// One that begins with what was tried late in the interval before, when that much was usual.
    pub(super) fn after(before: &Self, usual: Usual) -> Self {
        Self {
            cut: CutTried::after(before.late(), usual),
            ..Self::default()
        }
    }

    /// Addresses and ports of the second half of the interval.
    fn late(&self) -> Vec<(IpAddr, Port)> {
        let mut late = Vec::new();
        for (addr, first) in self.addresses.iter().filter(|(_, first)| first.is_any_late) {
            let further = self.further.get(addr).map(|further| &further.ports);
            let further = further.into_iter().flatten();
            let ports = further.filter(|(_, is_late)| **is_late).map(|(port, _)| *port);
            let before = late.len();
            late.extend(first.is_late.then_some((*addr, first.port)));
            late.extend(ports.map(|port| (*addr, port)));
            // One whose ports have made room is still an address.
            if late.len() == before {
                late.push((*addr, first.port));
            }
        }
        late
    }

    /// Counts an attempt; `is_late`: in the second half of the interval. Returns whether there was room for it.
    pub(super) fn push(&mut self, flow: &Flow, is_late: bool) -> bool {
        let (addr, port) = (flow.remote.addr, (flow.remote.port, flow.transport));
        let is_full = self.addresses.len() >= MAX_ADDRESSES;
        match self.addresses.entry(addr) {
            Entry::Vacant(_) if is_full => {
                self.is_least = true;
                return false;
            }
            Entry::Vacant(new) => {
                new.insert(First {
                    port,
                    is_late,
                    is_any_late: is_late,
                });
                if !is_late {
                    self.cut.push(flow, true);
                }
                self.newest = Some(flow.clone());
                if self.most.is_none() {
                    self.most = Some((Counted::exactly(1), flow.clone()));
                }
                return true;
            }
            Entry::Occupied(first) => {
                let first = first.into_mut();
                first.is_any_late |= is_late;
                if first.port == port {
                    first.is_late |= is_late;
                    return true;
                }
            }
        }
        self.push_further(flow, port, is_late)
    }

    /// Counts a port of an address that has another one.
    fn push_further(&mut self, flow: &Flow, port: Port, is_late: bool) -> bool {
        let addr = flow.remote.addr;
        if self.is_out_of_ports && !self.further.contains_key(&addr) {
            return false;
        }
        let further = self.further.entry(addr).or_default();
        if let Some(was_late) = further.ports.get_mut(&port) {
            *was_late |= is_late;
            return true;
        }
        let has_room = further.closed.is_none() && !self.is_out_of_ports;
        if has_room {
            further.ports.insert(port, is_late);
            self.further_ports += 1;
            self.newest = Some(flow.clone());
            if !is_late {
                self.cut.push(flow, false);
            }
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

    /// The most addresses in the time of an interval.
    pub(super) fn most_destinations(&self) -> Counted {
        let (whole, cut) = (self.destinations(), self.cut.destinations());
        if cut.count > whole.count { cut } else { whole }
    }

    /// The most ports of an address in the time of an interval, and the newest flow to it.
    pub(super) fn most_ports(&self) -> Option<&(Counted, Flow)> {
        let whole = self.most.as_ref()?;
        let cut = self.cut.most.as_ref();
        Some(cut.filter(|(cut, _)| cut.count > whole.0.count).unwrap_or(whole))
    }
}

/// Peers of a subject whose bytes are counted in an interval. One that gets more than a sixteenth of all bytes is among these.
const MAX_PEERS: usize = 16;

/// Bytes that a subject sent to external peers in the open interval.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) whole: Sum,
    /// Those of the half of the interval before with the first half of this one; in the second half those of that.
    shifted: Sum,
    /// The first of these, in the second half.
    cut: Option<(u64, Option<Largest>)>,
    /// The largest amount that was usual before the interval before.
    pub(super) usual: Option<Peak>,
}

impl Sent {
    /// Counts bytes; `is_late`: in the second half of the interval.
    pub(super) fn push(&mut self, flow: &Flow, bytes: u64, is_late: bool) {
        self.whole.push(flow, bytes);
        if is_late {
            self.end_cut();
        }
        self.shifted.push(flow, bytes);
    }

    fn end_cut(&mut self) {
        if self.cut.is_none() {
            let cut = std::mem::take(&mut self.shifted);
            self.cut = Some((cut.bytes, cut.largest()));
        }
    }

    /// The most bytes in the time of an interval, and who got the most of them.
    pub(super) fn most(&mut self) -> (u64, Option<Largest>) {
        self.end_cut();
        match self.cut.take() {
            Some(cut) if cut.0 > self.whole.bytes => cut,
            _ => (self.whole.bytes, self.whole.largest()),
        }
    }

    /// The beginning of the next interval, when this was the largest usual amount. Bytes that were reported are not a part of it.
    pub(super) fn next(self, usual: Peak, is_reported: bool) -> Self {
        Self {
            shifted: if is_reported { Sum::default() } else { self.shifted },
            usual: Some(usual),
            ..Self::default()
        }
    }
}

/// Bytes that a subject sent to external peers, and to which of them the most.
#[derive(Debug, Default)]
pub(super) struct Sum {
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

impl Sum {
    fn push(&mut self, flow: &Flow, bytes: u64) {
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
    fn largest(&self) -> Option<Largest> {
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
            flow: largest.flow.clone(),
            bytes,
            is_least: largest.inherited > 0,
            is_known: most.is_none_or(|most| bytes >= most),
        })
    }
}

/// The peer that got the most of the bytes that a subject sent.
#[derive(Debug)]
pub(super) struct Largest {
    pub(super) flow: Flow,
    pub(super) bytes: u64,
    /// Whether it may have got more than `bytes`.
    pub(super) is_least: bool,
    /// Whether no other one can have got more.
    pub(super) is_known: bool,
}
