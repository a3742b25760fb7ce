//! Evidence from records, by peer: what `flowtap diagnose` gathers for as long as it measures, and the live view for a short period.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use flowtap_pipeline::{
    DropRecord, Events, Flow, FlowKind, ListeningRecord, PeerClass, Queues, ResetBy, TcpRecord,
};

use super::details::Details;
use super::evidence::{Answers, Evidence, Listening, ListeningSocket, process_name};

/// Maximum number of peers that are listed; records of further ones count in the sum only.
pub const MAX_PEERS: usize = 4096;

/// Time in time-outs, in µs, after which nothing gets through also on a path that has brought something after an earlier one: it takes
/// seven retransmissions, each after twice the time of the one before. Of a path that drops two segments of three, one connection in
/// seventeen is as silent.
const LONG_SILENCE_US: i64 = 20_000_000;

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

/// A listening socket: its queue as its last record has it, and what it dropped in the period.
#[derive(Clone, Copy, Debug, Default)]
struct Listener {
    port: u16,
    /// Its process; 0 and empty if it is not known.
    pid: u32,
    comm: [u8; 16],
    backlog: u64,
    limit: u64,
    drops: u64,
    oldest_wait: f64,
    closed: bool,
}

impl Listener {
    fn update(&mut self, record: &ListeningRecord) {
        let flow = &record.flow;
        // A record may lack the process that one before had.
        let owner = if flow.pid == 0 && flow.comm[0] == 0 {
            (self.pid, self.comm)
        } else {
            (flow.pid, flow.comm)
        };
        *self = Self {
            port: flow.local.port,
            pid: owner.0,
            comm: owner.1,
            backlog: u64::from(record.backlog),
            limit: u64::from(record.limit),
            drops: self.drops + record.drops,
            oldest_wait: f64::from(record.wait_us.unwrap_or(0)) / 1e6,
            closed: record.closed,
        };
    }

    /// As evidence, which names those that dropped connections.
    fn evidence(&self) -> Listening {
        let Self {
            backlog,
            limit,
            drops,
            ..
        } = *self;
        let socket = (drops > 0).then(|| ListeningSocket {
            port: self.port,
            pid: (self.pid != 0).then_some(self.pid),
            comm: process_name(&self.comm),
            backlog,
            limit,
            drops,
            closed: self.closed,
        });
        Listening {
            backlog,
            limit,
            drops,
            oldest_wait: self.oldest_wait,
            sockets: Vec::from_iter(socket),
        }
    }
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

/// Whether `record` is of a connect that failed: not of one that the application gave up at once, before the time-out of its SYN.
pub(crate) fn is_failed_connect(record: &TcpRecord) -> bool {
    record.events.contains(Events::FAILED) && (record.failure != 0 || record.is_unanswered())
}

/// Whether both ends are in the same network namespace: Linux connects to an address of its own from that address, or from another one
/// of the loopback device.
fn is_own(flow: &Flow) -> bool {
    flow.local.addr == flow.remote.addr || flow.remote.addr.is_loopback()
}

fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}

/// An open connection that has something queued.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    queues: Queues,
    /// Whether its last record has time in a retransmission time-out.
    is_in_time_out: bool,
    /// Whether something was acknowledged after a time-out.
    has_recovered: bool,
    /// Time in time-outs since the peer has acknowledged anything, in µs.
    silent_us: i64,
    /// The part of it that is in the sums of this period.
    counted_us: i64,
    /// The part of this period that is not.
    pending_us: i64,
}

/// Change of the time in which nothing got through, in µs.
#[derive(Clone, Copy, Debug, Default)]
struct Stop {
    unacknowledged_us: i64,
    held_back_us: i64,
}

impl Open {
    /// Nothing of the connection is in the sums of the next period, which has no more time than passes in it.
    const fn begin_period(&mut self) {
        self.counted_us = 0;
        self.pending_us = 0;
    }

    /// Takes the next record of the connection. One that is seen for the first time may have had bytes in flight before: it counts as if
    /// it had not, so that less was acknowledged of it than was in fact.
    fn update(&mut self, record: &TcpRecord) -> Stop {
        let is_broken = record.failure != 0 || record.events.contains(Events::RESET);
        let in_flight = i64::from(self.queues.unacked) + record.sent_bytes;
        // Bytes in flight when a connection broke were not acknowledged; the queues of its last record are empty in any case.
        let is_acknowledged = !is_broken && in_flight > i64::from(record.queues.unacked);
        // TCP keeps a segment that this machine's own firewall dropped among those to send (`tcp_write_xmit()`): it is never in flight.
        let is_held_back = in_flight == 0 && record.queues.unacked == 0 && record.queues.unsent > 0;
        let unacknowledged_us = if is_acknowledged {
            self.has_recovered |= self.is_in_time_out;
            self.silent_us = 0;
            self.pending_us = 0;
            -std::mem::take(&mut self.counted_us)
        } else {
            self.silent_us += record.rto_us;
            self.pending_us += record.rto_us;
            // A path that has brought something after a time-out loses most, not all.
            let counts = !self.has_recovered || self.silent_us >= LONG_SILENCE_US;
            let added_us = if counts {
                std::mem::take(&mut self.pending_us)
            } else {
                0
            };
            self.counted_us += added_us;
            added_us
        };
        self.is_in_time_out = record.rto_us > 0 || self.silent_us > 0;
        self.queues = record.queues;
        Stop {
            unacknowledged_us,
            held_back_us: if is_held_back { record.time.network_us } else { 0 },
        }
    }
}

impl Evidence {
    /// Adds the measurements of `record`. Differences can be negative, and only their sum counts.
    pub(crate) fn add(&mut self, record: &TcpRecord, longest: i64) {
        let count = |sum: &mut u64, difference: i64| *sum = sum.saturating_add_signed(difference);
        let shares = &mut self.shares;
        shares.network += seconds(record.time.network_us);
        shares.answer += seconds(record.time.answer_us);
        shares.receiver += seconds(record.time.receiver_us);
        shares.buffer += seconds(record.time.buffer_us);
        let limited = record.time.total_us().saturating_sub(record.time.application_us);
        let idle = longest.saturating_sub(limited).max(0);
        shares.application += seconds(record.time.application_us.min(idle));
        self.rto += seconds(record.rto_us);
        count(&mut self.sent_bytes, record.sent_bytes);
        count(&mut self.received_bytes, record.received_bytes);
        if is_own(&record.flow) {
            count(&mut self.received_here, record.received_bytes);
        }
        count(&mut self.sent_segments, record.sent_segments);
        count(&mut self.retransmits, record.retransmits);
        self.syn_retransmits += u64::from(record.syn_retransmits);
        self.take_min_rtt(record.min_rtt_us);
        // Where this machine serves, the answers are its own.
        let is_server = record.flow.kind == Some(FlowKind::Ingress);
        if let Some(exchanges) = record.exchanges.as_deref().filter(|_| !is_server) {
            self.answers.add(Answers {
                count: exchanges.count() as u64,
                seconds: exchanges.sum_us() as f64 / 1e6,
            });
        }
        if record.events.contains(Events::OPENED) {
            self.opened += 1;
        }
        if is_failed_connect(record) {
            self.add_failure(record);
        }
        match record.reset_by {
            ResetBy::Local => self.reset_by_local += 1,
            ResetBy::Remote => self.reset_by_peer += 1,
            ResetBy::Unknown => {}
        }
    }

    /// Adds time in which nothing got through.
    fn add_stop(&mut self, stop: Stop) {
        self.unacknowledged += seconds(stop.unacknowledged_us);
        self.held_back += seconds(stop.held_back_us);
    }

    fn take_min_rtt(&mut self, min_rtt_us: u32) {
        if min_rtt_us > 0 && (self.min_rtt_us == 0 || min_rtt_us < self.min_rtt_us) {
            self.min_rtt_us = min_rtt_us;
        }
    }

    /// By the errno (`include/uapi/asm-generic/errno.h`).
    fn add_failure(&mut self, record: &TcpRecord) {
        let failed = &mut self.failed;
        match record.failure {
            111 => failed.refused += 1,
            // Given up by the application, after a SYN was retransmitted.
            0 | 110 => {
                failed.no_answer += 1;
                self.dropped_connects += u64::from(is_own(&record.flow));
            }
            100 | 101 | 112 | 113 => failed.unreachable += 1,
            99 => failed.no_local_port += 1,
            _ => failed.other += 1,
        }
    }

    /// Adds what was measured before. Queues are not increases, and stay as they are.
    pub(crate) fn merge(&mut self, before: &Self) {
        self.shares.add(&before.shares);
        self.rto += before.rto;
        self.unacknowledged += before.unacknowledged;
        self.held_back += before.held_back;
        self.sent_bytes += before.sent_bytes;
        self.received_bytes += before.received_bytes;
        self.received_here += before.received_here;
        self.sent_segments += before.sent_segments;
        self.retransmits += before.retransmits;
        self.syn_retransmits += before.syn_retransmits;
        self.take_min_rtt(before.min_rtt_us);
        self.opened += before.opened;
        let (failed, theirs) = (&mut self.failed, &before.failed);
        failed.refused += theirs.refused;
        failed.no_answer += theirs.no_answer;
        failed.unreachable += theirs.unreachable;
        failed.no_local_port += theirs.no_local_port;
        failed.other += theirs.other;
        self.dropped_connects += before.dropped_connects;
        self.reset_by_local += before.reset_by_local;
        self.reset_by_peer += before.reset_by_peer;
        self.answers.add(before.answers);
        self.listening.add_drops(&before.listening);
        self.listening.rank();
    }
}

#[cfg(test)]
mod tests;
