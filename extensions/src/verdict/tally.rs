//! Evidence from records, by peer: what `flowtap diagnose` gathers for as long as it measures, and the live view for a short period.

mod listener;
mod measured;
mod open;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use flowtap_pipeline::{DropRecord, Events, Flow, FlowKind, ListeningRecord, PeerClass, Queues, TcpRecord};

use self::listener::Listener;
pub(crate) use self::measured::is_failed_connect;
use self::measured::is_own;
use self::open::Open;
use super::details::Details;
use super::evidence::{Evidence, Listening};

/// Maximum number of peers that are listed; records of further ones count in the sum only.
pub const MAX_PEERS: usize = 4096;

/// Connections whose queues are known at a time.
const MAX_CONNECTIONS: usize = 100_000;

/// The kernel's number of the state CLOSE (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;

/// Listening sockets that are known at a time; drops of further ones count in the sum only.
const MAX_LISTENERS: usize = 4096;

/// A socket: the index of its receiver, and its cookie.
type Socket = (u16, u64);

/// A peer, in one role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// Its address.
    pub addr: IpAddr,
    /// Port of the side that serves.
    pub port: u16,
    /// Whether this machine serves.
    pub serves: bool,
}

impl Peer {
    /// The peer of `flow`.
    pub fn of(flow: &Flow) -> Self {
        Self {
            addr: flow.remote.addr,
            port: server_port(flow),
            serves: flow.kind == Some(FlowKind::Ingress),
        }
    }

    /// `ingress` if this machine serves, else `egress`.
    pub const fn role(&self) -> &'static str {
        if self.serves { "ingress" } else { "egress" }
    }
}

/// The port of the side that serves.
pub const fn server_port(flow: &Flow) -> u16 {
    match flow.kind {
        Some(FlowKind::Ingress) => flow.local.port,
        _ => flow.remote.port,
    }
}

/// Evidence of a peer, with its class, its details and the process of the newest record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfPeer {
    /// The measurements.
    pub evidence: Evidence,
    /// Class of the peer.
    pub class: Option<PeerClass>,
    /// Name of the process of this machine, padded with zeros.
    pub comm: [u8; 16],
    /// Whether records name other processes as well.
    pub is_shared: bool,
    /// Names, and the ends behind its address.
    pub details: Details,
}

impl OfPeer {
    /// Remembers the class and the details, and the process if the record has it.
    fn describe(&mut self, flow: &Flow) {
        self.class = flow.class.or(self.class);
        self.details.update(flow);
        if flow.comm[0] != 0 {
            self.is_shared |= self.comm[0] != 0 && self.comm != flow.comm;
            self.comm = flow.comm;
        }
    }

    /// Adds what was gathered before, or of another port.
    pub(crate) fn merge(&mut self, before: &Self) {
        self.evidence.merge(&before.evidence);
        self.details.merge(&before.details);
        let differ = self.comm[0] != 0 && before.comm[0] != 0 && self.comm != before.comm;
        self.is_shared |= before.is_shared || differ;
    }
}

/// A connect that waits for an answer.
#[derive(Clone, Debug)]
struct Connecting {
    peer: Peer,
    syn_retransmits: u8,
    is_unanswered: bool,
    is_own: bool,
    class: Option<PeerClass>,
    comm: [u8; 16],
}

/// Sums over a period.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Over everything.
    pub all: Evidence,
    /// By peer, at most [`MAX_PEERS`].
    pub peers: HashMap<Peer, OfPeer>,
    /// Packets that this machine dropped and that are lost, by the kernel's reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Records of peers beyond [`MAX_PEERS`].
    pub further: u64,
    /// Records of connections whose queues are not known, as there were too many.
    pub unqueued: u64,
    listeners: HashMap<Socket, Listener>,
}

/// Evidence gathered so far, and the queues of open connections.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    sums: Sums,
    queues: HashMap<Socket, (Peer, Open)>,
    connecting: HashMap<Socket, Connecting>,
}

impl Tally {
    /// Adds `record`, of the receiver with this index.
    pub fn add_tcp(&mut self, receiver: u16, record: &TcpRecord) {
        self.add_tcp_of(receiver, record, i64::MAX);
    }

    /// The same, of a period that is at most `longest` µs long. A connection that did nothing has no record, so its next one may
    /// have waited for the application for hours.
    pub fn add_tcp_of(&mut self, receiver: u16, record: &TcpRecord, longest: i64) {
        let peer = Peer::of(&record.flow);
        let socket = (receiver, record.flow.cookie);
        if record.is_connecting() {
            self.add_connecting(socket, peer, record);
            return;
        }
        if record.events != Events::NONE {
            self.connecting.remove(&socket);
        }
        let sums = &mut self.sums;
        let mut open = self
            .queues
            .get(&socket)
            .map_or_else(Open::default, |(_, open)| *open);
        let stop = open.update(record);
        sums.all.add(record, longest);
        sums.all.add_stop(stop);
        if sums.peers.len() < MAX_PEERS || sums.peers.contains_key(&peer) {
            let of_peer = sums.peers.entry(peer.clone()).or_default();
            of_peer.evidence.add(record, longest);
            of_peer.evidence.add_stop(stop);
            of_peer.describe(&record.flow);
        } else {
            sums.further += 1;
        }
        if record.events.contains(Events::CLOSED) {
            self.queues.remove(&socket);
        } else if record.queues == Queues::EMPTY {
            // Most connections have nothing queued: they take no place.
            self.queues.remove(&socket);
        } else if self.queues.len() < MAX_CONNECTIONS || self.queues.contains_key(&socket) {
            self.queues.insert(socket, (peer, open));
        } else {
            sums.unqueued += 1;
        }
    }

    fn add_connecting(&mut self, socket: Socket, peer: Peer, record: &TcpRecord) {
        if record.state == TCP_CLOSE {
            self.connecting.remove(&socket);
        } else if self.connecting.len() < MAX_CONNECTIONS || self.connecting.contains_key(&socket) {
            let connecting = Connecting {
                peer,
                syn_retransmits: record.syn_retransmits,
                is_unanswered: record.is_unanswered(),
                is_own: is_own(&record.flow),
                class: record.flow.class,
                comm: record.flow.comm,
            };
            self.connecting.insert(socket, connecting);
        } else {
            self.sums.unqueued += 1;
        }
    }

    /// Adds what a listening socket dropped; its queue is as `record` has it.
    pub fn add_listening(&mut self, receiver: u16, record: &ListeningRecord) {
        let listeners = &mut self.sums.listeners;
        let socket = (receiver, record.flow.cookie);
        if listeners.len() >= MAX_LISTENERS && !listeners.contains_key(&socket) {
            self.sums.all.listening.drops += record.drops;
            return;
        }
        let known = listeners.entry(socket).or_default();
        known.update(record);
        if record.closed && known.drops == 0 {
            listeners.remove(&socket);
        }
    }

    /// Adds packets that were dropped, if that was a loss.
    pub fn add_drop(&mut self, record: &DropRecord) {
        if record.reason.kind().is_loss() {
            *self.sums.drops.entry(record.reason.as_str()).or_default() += record.packets;
        }
    }

    /// Takes the sums out. Queues stay known, as do listening sockets that are at work.
    pub fn take(&mut self) -> Sums {
        let sums = std::mem::take(&mut self.sums);
        for (_, open) in self.queues.values_mut() {
            open.begin_period();
        }
        let at_work = sums.listeners.iter().filter(|(_, known)| !known.closed);
        self.sums.listeners = at_work
            .map(|(socket, known)| (*socket, Listener { drops: 0, ..*known }))
            .collect();
        sums
    }

    /// The sums since `before`, with what is queued now. `counts` says which listening sockets, by port, count in the sum of all.
    pub fn sums(&self, before: Option<&Sums>, counts: impl Fn(u16, &Sums) -> bool) -> Sums {
        let mut sums = self.sums.clone();
        if let Some(before) = before {
            sums.merge(before);
        }
        for (peer, Open { queues, .. }) in self.queues.values() {
            let add = |evidence: &mut Evidence| {
                evidence.unsent += u64::from(queues.unsent);
                evidence.unread += u64::from(queues.unread);
            };
            add(&mut sums.all);
            if let Some(of_peer) = sums.peers.get_mut(peer) {
                add(&mut of_peer.evidence);
            }
        }
        // One that was sent a moment ago may still be answered.
        let waiting = self.connecting.values();
        for connecting in waiting.filter(|connecting| connecting.is_unanswered) {
            sums.add_waiting(connecting);
        }
        let mut by_port: HashMap<u16, Listening> = HashMap::new();
        let mut full_ports = HashSet::new();
        for listener in std::mem::take(&mut sums.listeners).into_values() {
            let listening = listener.evidence();
            if counts(listener.port, &sums) {
                sums.all.listening.add(&listening);
                if listening.drops > 0 {
                    full_ports.insert(listener.port);
                }
            }
            by_port.entry(listener.port).or_default().add(&listening);
        }
        sums.all.listening.rank();
        by_port.values_mut().for_each(Listening::rank);
        sums.all.dropped_connects = 0;
        for (peer, of_peer) in &mut sums.peers {
            let listening = by_port.get(&peer.port);
            let evidence = &mut of_peer.evidence;
            // A connect to an own address has no answer for another reason where no socket of its port has dropped any.
            if listening.is_none_or(|listening| listening.drops == 0) {
                evidence.dropped_connects = 0;
            }
            if full_ports.contains(&peer.port) {
                sums.all.dropped_connects += evidence.dropped_connects;
            }
            if let Some(listening) = listening.filter(|_| peer.serves || evidence.dropped_connects > 0) {
                evidence.listening.add(listening);
            }
        }
        sums
    }
}

impl Sums {
    fn add_waiting(&mut self, connecting: &Connecting) {
        let add = |evidence: &mut Evidence| {
            evidence.waiting += 1;
            evidence.dropped_connects += u64::from(connecting.is_own);
            evidence.syn_retransmits += u64::from(connecting.syn_retransmits);
        };
        add(&mut self.all);
        if self.peers.len() < MAX_PEERS || self.peers.contains_key(&connecting.peer) {
            let of_peer = self.peers.entry(connecting.peer.clone()).or_insert(OfPeer {
                evidence: Evidence::default(),
                class: connecting.class,
                comm: connecting.comm,
                is_shared: false,
                details: Details::default(),
            });
            add(&mut of_peer.evidence);
        } else {
            self.further += 1;
        }
    }

    /// Adds what was gathered before.
    fn merge(&mut self, before: &Self) {
        self.all.merge(&before.all);
        for (peer, theirs) in &before.peers {
            if self.peers.len() < MAX_PEERS || self.peers.contains_key(peer) {
                let ours = self.peers.entry(peer.clone()).or_insert_with(|| OfPeer {
                    evidence: Evidence::default(),
                    details: theirs.details.clone(),
                    ..*theirs
                });
                ours.merge(theirs);
            } else {
                self.further += 1;
            }
        }
        for (reason, packets) in &before.drops {
            *self.drops.entry(reason).or_default() += packets;
        }
        self.further += before.further;
        self.unqueued += before.unqueued;
        for (socket, theirs) in &before.listeners {
            let ours = self
                .listeners
                .entry(*socket)
                .or_insert(Listener { drops: 0, ..*theirs });
            ours.drops += theirs.drops;
        }
    }
}

#[cfg(test)]
mod tests;
