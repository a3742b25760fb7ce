//! Evidence, gathered from records by peer and port.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use flowtap_extensions::verdict::{Evidence, Listening};
use flowtap_pipeline::{
    Aggregator, DropKind, Events, FlowBatch, FlowKind, ListeningRecord, Output, Queues, ResetBy, Snapshot,
    TcpRecord, Timestamp,
};

use super::target::{Target, server_port};

/// Maximum number of peers that are listed; records of further ones count in the sum only.
const MAX_PEERS: usize = 4096;

/// Connections whose queues are known at a time.
const MAX_CONNECTIONS: usize = 100_000;

/// The kernel's number of the state CLOSE (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;

/// A peer, in one role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) addr: IpAddr,
    /// Of the side that serves.
    pub(super) port: u16,
    /// Whether this machine serves.
    pub(super) serves: bool,
}

/// The evidence gathered so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    /// Of all that belongs to the target.
    pub(super) sum: Evidence,
    pub(super) peers: HashMap<Peer, Evidence>,
    /// Packets that this machine dropped and that are lost, by the kernel's reason.
    pub(super) drops: BTreeMap<&'static str, u64>,
    /// Records of peers beyond [`MAX_PEERS`].
    pub(super) further: u64,
    /// Records of connections whose queues are not known, as there were too many.
    pub(super) unqueued: u64,
    queues: HashMap<u64, (Peer, Queues)>,
    /// Retransmitted SYNs of each connect that waits for an answer.
    connecting: HashMap<u64, (Peer, u8)>,
    listeners: HashMap<u64, (u16, Listening)>,
}

impl Gathered {
    fn take_tcp(&mut self, record: &TcpRecord) {
        let peer = Peer {
            addr: record.flow.remote.addr,
            port: server_port(&record.flow),
            serves: record.flow.kind == Some(FlowKind::Ingress),
        };
        let cookie = record.flow.cookie;
        if record.is_connecting() {
            self.take_connecting(peer, record);
            return;
        }
        if record.events != Events::NONE {
            self.connecting.remove(&cookie);
        }
        add(&mut self.sum, record);
        if self.peers.len() < MAX_PEERS || self.peers.contains_key(&peer) {
            add(self.peers.entry(peer.clone()).or_default(), record);
        } else {
            self.further += 1;
        }
        if record.events.contains(Events::CLOSED) {
            self.queues.remove(&cookie);
        } else if self.queues.len() < MAX_CONNECTIONS || self.queues.contains_key(&cookie) {
            self.queues.insert(cookie, (peer, record.queues));
        } else {
            self.unqueued += 1;
        }
    }

    fn take_connecting(&mut self, peer: Peer, record: &TcpRecord) {
        let cookie = record.flow.cookie;
        if record.state == TCP_CLOSE {
            self.connecting.remove(&cookie);
        } else if self.connecting.len() < MAX_CONNECTIONS || self.connecting.contains_key(&cookie) {
            self.connecting.insert(cookie, (peer, record.syn_retransmits));
        } else {
            self.unqueued += 1;
        }
    }

    fn take_listening(&mut self, record: &ListeningRecord) {
        let known = self.listeners.entry(record.flow.cookie).or_default();
        known.0 = record.flow.local.port;
        let drops = known.1.drops + record.drops;
        known.1 = Listening {
            backlog: u64::from(record.backlog),
            limit: u64::from(record.limit),
            drops,
            oldest_wait: f64::from(record.wait_us.unwrap_or(0)) / 1e6,
        };
    }

    /// Ends it: what is queued, waits and listens now counts.
    fn finish(&mut self, target: &Target) {
        for (peer, syn_retransmits) in std::mem::take(&mut self.connecting).into_values() {
            // One that was sent a moment ago may still be answered.
            if syn_retransmits == 0 {
                continue;
            }
            let add = |evidence: &mut Evidence| {
                evidence.waiting += 1;
                evidence.syn_retransmits += u64::from(syn_retransmits);
            };
            add(&mut self.sum);
            if self.peers.len() < MAX_PEERS || self.peers.contains_key(&peer) {
                add(self.peers.entry(peer).or_default());
            } else {
                self.further += 1;
            }
        }
        for (peer, queues) in std::mem::take(&mut self.queues).into_values() {
            let add = |evidence: &mut Evidence| {
                evidence.unsent += u64::from(queues.unsent);
                evidence.unread += u64::from(queues.unread);
            };
            add(&mut self.sum);
            self.peers.get_mut(&peer).map(add).unwrap_or_default();
        }
        let served: Vec<u16> = self
            .peers
            .keys()
            .filter(|peer| peer.serves)
            .map(|peer| peer.port)
            .collect();
        for (port, listening) in std::mem::take(&mut self.listeners).into_values() {
            // Of a peer those count that it is connected to.
            if !matches!(target, Target::Peer(..)) || served.contains(&port) {
                let sum = &mut self.sum.listening;
                sum.backlog += listening.backlog;
                sum.limit += listening.limit;
                sum.drops += listening.drops;
                sum.oldest_wait = sum.oldest_wait.max(listening.oldest_wait);
            }
        }
    }
}

fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}

/// Adds what `record` says. Differences can be negative, and only their sum counts.
fn add(evidence: &mut Evidence, record: &TcpRecord) {
    let count = |sum: &mut u64, difference: i64| *sum = sum.saturating_add_signed(difference);
    let shares = &mut evidence.shares;
    shares.network += seconds(record.time.network_us);
    shares.answer += seconds(record.time.answer_us);
    shares.receiver += seconds(record.time.receiver_us);
    shares.buffer += seconds(record.time.buffer_us);
    shares.application += seconds(record.time.application_us);
    evidence.rto += seconds(record.rto_us);
    count(&mut evidence.sent_bytes, record.sent_bytes);
    count(&mut evidence.received_bytes, record.received_bytes);
    count(&mut evidence.sent_segments, record.sent_segments);
    count(&mut evidence.retransmits, record.retransmits);
    evidence.syn_retransmits += u64::from(record.syn_retransmits);
    if record.min_rtt_us > 0 && (evidence.min_rtt_us == 0 || record.min_rtt_us < evidence.min_rtt_us) {
        evidence.min_rtt_us = record.min_rtt_us;
    }
    if record.events.contains(Events::OPENED) {
        evidence.opened += 1;
    }
    if record.events.contains(Events::FAILED) {
        add_failure(evidence, record);
    }
    match record.reset_by {
        ResetBy::Local => evidence.reset_by_local += 1,
        ResetBy::Remote => evidence.reset_by_peer += 1,
        ResetBy::Unknown => {}
    }
}

/// By the errno (`include/uapi/asm-generic/errno.h`).
fn add_failure(evidence: &mut Evidence, record: &TcpRecord) {
    let failed = &mut evidence.failed;
    match record.failure {
        111 => failed.refused += 1,
        110 => failed.no_answer += 1,
        100 | 101 | 112 | 113 => failed.unreachable += 1,
        99 => failed.no_local_port += 1,
        0 if record.syn_retransmits > 0 => failed.no_answer += 1,
        // Given up by the application at once.
        0 => {}
        _ => failed.other += 1,
    }
}

/// The end of the path: gathers in place of a window.
#[derive(Debug)]
pub(super) struct Gather {
    target: Arc<Target>,
    gathered: Arc<Mutex<Gathered>>,
}

impl Gather {
    pub(super) fn new(target: Arc<Target>) -> (Self, Arc<Mutex<Gathered>>) {
        let gathered = Arc::<Mutex<Gathered>>::default();
        let gather = Self {
            target,
            gathered: Arc::clone(&gathered),
        };
        (gather, gathered)
    }
}

impl Aggregator for Gather {
    fn begin(&mut self, _: Timestamp) {}

    fn fold(&mut self, batch: &FlowBatch) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let target = &self.target;
        for record in batch.tcp.iter().filter(|record| target.matches(&record.flow)) {
            gathered.take_tcp(record);
        }
        let is_peer = matches!(**target, Target::Peer(..));
        let listening = batch.listening.iter();
        for record in listening.filter(|record| is_peer || target.matches_listener(&record.flow)) {
            gathered.take_listening(record);
        }
        let is_loss = |kind| {
            matches!(
                kind,
                DropKind::Policy | DropKind::Full | DropKind::Nobody | DropKind::Broken
            )
        };
        for record in batch.drops.iter().filter(|record| is_loss(record.reason.kind())) {
            *gathered.drops.entry(record.reason.as_str()).or_default() += record.packets;
        }
    }

    fn advance(&mut self, _: Timestamp) -> Option<Output> {
        None
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.finish(&self.target);
        Output::from(Snapshot::of_nothing(at))
    }
}

#[cfg(test)]
mod tests {
    use flowtap_extensions::verdict::{Cause, judge};
    use flowtap_pipeline::testing::{flow, record};
    use flowtap_pipeline::{Endpoint, Flow, SendTime};

    use super::*;

    fn gathered(target: Target, tcp: Vec<TcpRecord>, listening: Vec<ListeningRecord>) -> Gathered {
        let (mut gather, gathered) = Gather::new(Arc::new(target));
        gather.fold(&FlowBatch {
            tcp,
            listening,
            ..FlowBatch::default()
        });
        gather.finish(Timestamp::from_nanos(1));
        gathered.lock().unwrap().clone()
    }

    #[test]
    fn evidence_is_the_sum_of_what_belongs_to_the_target_and_queues_are_the_last_that_were_seen() {
        let of = |remote: &str, receiver_us, unread| TcpRecord {
            time: SendTime {
                receiver_us,
                application_us: 1_000_000,
                ..SendTime::default()
            },
            sent_bytes: 100,
            queues: Queues {
                unread,
                ..Queues::EMPTY
            },
            ..record("10.0.0.1:40000", remote).with_flow(|flow| Flow { cookie: 9, ..flow })
        };
        let records = vec![
            of("192.0.2.7:443", 4_000_000, 500),
            of("192.0.2.7:443", 5_000_000, 7),
            of("192.0.2.8:443", 9_000_000, 3),
        ];
        let found = gathered(Target::parse("192.0.2.7").unwrap(), records, Vec::new());
        assert!((found.sum.shares.receiver - 9.0).abs() < 1e-9, "{found:?}");
        assert_eq!((found.sum.sent_bytes, found.sum.unread), (200, 7));
        assert_eq!(found.peers.len(), 1);
        assert_eq!(judge(&found.sum).cause, Cause::Receiver);
    }

    #[test]
    fn connects_fail_for_the_reason_that_an_operator_looks_for() {
        let failed = |failure, syn_retransmits| TcpRecord {
            events: Events::FAILED,
            failure,
            syn_retransmits,
            ..record("10.0.0.1:40000", "192.0.2.7:443")
        };
        let records = vec![failed(111, 0), failed(0, 2), failed(110, 6), failed(0, 0)];
        let found = gathered(Target::All, records, Vec::new());
        assert_eq!((found.sum.failed.refused, found.sum.failed.no_answer), (1, 2));
        assert_eq!(judge(&found.sum).cause, Cause::NoAnswer);
    }

    #[test]
    fn connects_that_wait_for_an_answer_to_a_second_syn_count_until_they_end() {
        let waits = |cookie, syn_retransmits| {
            TcpRecord {
                events: Events::CONNECTING,
                state: 2,
                syn_retransmits,
                ..record("10.0.0.1:40000", "192.0.2.7:443")
            }
            .with_flow(|flow| Flow { cookie, ..flow })
        };
        let ended = |cookie, events, state| TcpRecord {
            events,
            state,
            syn_retransmits: 0,
            ..waits(cookie, 0)
        };
        let records = vec![
            waits(1, 1),
            waits(2, 1),
            waits(3, 1),
            waits(4, 0),
            waits(1, 3),
            ended(2, Events::OPENED, 1),
            ended(3, Events::CONNECTING, 7),
        ];
        let found = gathered(Target::All, records, Vec::new());
        assert_eq!((found.sum.waiting, found.sum.syn_retransmits), (1, 3));
        assert_eq!(found.sum.failed.total(), 0);
        let of_peer: Vec<_> = found.peers.values().map(|evidence| evidence.waiting).collect();
        assert_eq!(of_peer, [1]);
        let silent = gathered(Target::All, vec![waits(1, 2)], Vec::new());
        assert_eq!(judge(&silent.sum).cause, Cause::NoAnswer);
    }

    #[test]
    fn a_peer_has_the_listening_sockets_that_it_is_connected_to() {
        let listener = |port, drops| {
            let local = Endpoint::new([10, 0, 0, 1].into(), port);
            ListeningRecord {
                drops,
                backlog: 5,
                limit: 4,
                flow: Flow {
                    cookie: u64::from(port),
                    ..Flow::new(local, flow("0.0.0.0:0", "0.0.0.0:0").remote)
                },
                ..ListeningRecord::new(local)
            }
        };
        let served = record("10.0.0.1:80", "192.0.2.7:40000").with_flow(|flow| Flow {
            kind: Some(FlowKind::Ingress),
            ..flow
        });
        let listening = vec![listener(80, 40), listener(80, 5), listener(81, 7)];
        let found = gathered(Target::parse("192.0.2.7").unwrap(), vec![served], listening);
        assert_eq!((found.sum.listening.drops, found.sum.listening.limit), (45, 4));
        assert_eq!(judge(&found.sum).cause, Cause::AcceptQueue);
    }
}
