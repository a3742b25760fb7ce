//! The flows of batches, folded by who talks to whom and bounded.
//!
//! An address may be of one pod and later of another. So the ends of a flow are resolved while it is observed, at the listing of the
//! cluster that follows it ([`History`]), and the same addresses with other pods are another flow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtap_model::cluster_objects::{ClusterChange, PortProtocol};
use flowtap_model::{Events, Flow, FlowBatch, FlowKind, TcpRecord, Timestamp, Transport};

use crate::cluster::{Cluster, PodId};
use crate::history::{Backends, CLOCK_TOLERANCE, Ends, History, Owner, Span, Version};

/// A flow, as this machine saw it: the client's port does not matter to a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObservedFlow {
    /// This machine's address.
    pub local: IpAddr,
    /// The container of this end's process.
    pub container: Option<Arc<str>>,
    /// The peer's address.
    pub remote: IpAddr,
    /// The server's port.
    pub port: u16,
    /// Whether this end is the server.
    pub serves: bool,
    /// The transport protocol.
    pub transport: Transport,
}

impl ObservedFlow {
    /// Its protocol, as policies name it.
    pub const fn protocol(&self) -> Option<PortProtocol> {
        match self.transport {
            Transport::Tcp => Some(PortProtocol::Tcp),
            Transport::Udp => Some(PortProtocol::Udp),
            Transport::UdpLite | Transport::Other => None,
        }
    }

    fn of(flow: &Flow) -> Self {
        let serves = flow.kind == Some(FlowKind::Ingress);
        Self {
            local: flow.local.addr,
            container: flow.container_id.clone(),
            remote: flow.remote.addr,
            port: if serves { flow.local.port } else { flow.remote.port },
            serves,
            transport: flow.transport,
        }
    }
}

/// The amount of a flow that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records, of any signal.
    pub records: u64,
    /// Connections that were opened, or open when the observation began.
    pub connections: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Payload bytes, both ways.
    pub bytes: i64,
    /// Whether any record was of more than a connect without an answer: a connection, or a datagram.
    pub has_talked: bool,
    /// When it was seen; `None` if it was not, or if the observation has no times.
    pub when: Option<When>,
}

/// A time as exactly as watermarks show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// The watermark before the first record.
    first: Timestamp,
    /// The watermark before the last record.
    last: Timestamp,
    /// A record is not later than this after the watermark before it.
    gap: Duration,
}

impl When {
    /// Whether all of it may have been within `other`, by another machine's clock.
    pub fn is_within(&self, other: &Self) -> bool {
        self.first.plus(self.gap).plus(CLOCK_TOLERANCE) >= other.first
            && self.last <= other.last.plus(other.gap).plus(CLOCK_TOLERANCE)
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            gap: self.gap.max(other.gap),
        }
    }
}

impl Tally {
    /// Whether anything was seen.
    pub const fn is_seen(&self) -> bool {
        self.records > 0 || self.when.is_some()
    }

    /// Whether nothing but connects was seen that failed, or still waited when they were last seen.
    pub const fn is_attempt(&self) -> bool {
        self.records > 0 && !self.has_talked
    }

    /// Adds what another machine or time saw of it.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.connections += other.connections;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.has_talked |= other.has_talked;
        self.when = match (self.when, other.when) {
            (Some(when), Some(other)) => Some(when.and(&other)),
            (when, other) => when.or(other),
        };
    }
}

/// A conversation as its two ends saw it, which count the same connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// Seen by the client.
    pub client: Tally,
    /// Seen by the server.
    pub server: Tally,
}

impl Sides {
    /// Adds other conversations, or the same at another time.
    pub fn add(&mut self, other: &Self) {
        self.client.add(&other.client);
        self.server.add(&other.server);
    }

    /// The view of the end that saw more.
    pub fn tally(&self) -> Tally {
        Tally {
            records: self.client.records.max(self.server.records),
            connections: self.client.connections.max(self.server.connections),
            failed: self.client.failed.max(self.server.failed),
            bytes: self.client.bytes.max(self.server.bytes),
            has_talked: self.client.has_talked || self.server.has_talked,
            when: None,
        }
    }
}

/// The address, port and protocol of what may be a service.
type Service = (IpAddr, u16, Option<PortProtocol>);

/// The flows.
#[derive(Debug)]
pub struct Observed {
    /// Flows up to the newest listing of the cluster, with their ends.
    flows: HashMap<(ObservedFlow, Ends), Tally>,
    /// Flows since then.
    recent: HashMap<ObservedFlow, Recent>,
    history: History,
    /// The pods behind services between the newest two listings.
    backends: HashMap<Service, Backends>,
    /// The id of each version of the history's pods, once they are in a cluster.
    ids: Vec<PodId>,
    /// The listing that ends the time of the recent flows, as far as it has been read.
    pending: Option<ClusterChange>,
    /// Everything before this has been seen.
    now: Timestamp,
    /// The longest time between two watermarks since the newest listing.
    gap: Duration,
    max: usize,
    /// Records of flows for which there was no room here.
    pub left_out: u64,
    /// Records of UDP flows for which the receiver's table had no room: their ends are not known.
    pub unplaced: u64,
    /// Records of UDP sockets whose peers the receiver's hooks do not show.
    pub without_peer: u64,
    /// Whether a record of UDP was seen: without one, names were looked up unseen.
    pub has_udp: bool,
    /// Records of flows over loopback, which policies do not see. They take no room.
    pub loopback: u64,
}

impl Observed {
    /// A table of up to `max` flows.
    pub fn new(max: usize) -> Self {
        Self {
            flows: HashMap::new(),
            recent: HashMap::new(),
            history: History::default(),
            backends: HashMap::new(),
            ids: Vec::new(),
            pending: None,
            now: Timestamp::default(),
            gap: Duration::ZERO,
            max,
            left_out: 0,
            unplaced: 0,
            without_peer: 0,
            has_udp: false,
            loopback: 0,
        }
    }

    /// Adds the records of a batch, after the processor `direction`.
    pub fn fold(&mut self, batch: &FlowBatch) {
        self.end_listing();
        for flow in batch.traffic() {
            self.has_udp |= flow.transport == Transport::Udp;
            if let Some(tally) = self.entry(flow) {
                tally.records += 1;
            }
        }
        for record in &batch.udp {
            if record.flow.remote.port == 0 {
                // Drops and errors of a socket are not traffic.
                let has_bytes = u64::from(record.sent_bytes != 0 || record.received_bytes != 0);
                if record.unplaced {
                    self.unplaced += has_bytes;
                } else {
                    self.without_peer += has_bytes;
                }
            } else if let Some(tally) = self.recent_of(&record.flow) {
                tally.connections += u64::from(record.opened);
                tally.has_talked = true;
                tally.bytes += record.sent_bytes + record.received_bytes;
            }
        }
        for record in &batch.tcp {
            if let Some(tally) = self.recent_of(&record.flow) {
                let seen = |event| u64::from(record.events.contains(event));
                tally.connections += seen(Events::OPENED) + seen(Events::ADOPTED);
                tally.failed += seen(Events::FAILED);
                tally.bytes += record.sent_bytes + record.received_bytes;
                tally.has_talked |= is_of_connection(record);
            }
        }
        for record in &batch.dns {
            if let Some(tally) = self.recent_of(&record.flow) {
                tally.has_talked = true;
            }
        }
    }

    fn entry(&mut self, flow: &Flow) -> Option<&mut Tally> {
        if flow.local.addr.is_loopback() || flow.remote.addr.is_loopback() {
            self.loopback += 1;
            return None;
        }
        let key = ObservedFlow::of(flow);
        if self.recent.len() >= self.max && !self.recent.contains_key(&key) {
            self.left_out += 1;
            return None;
        }
        let recent = self.recent.entry(key).or_insert(Recent {
            tally: Tally::default(),
            first: self.now,
            last: self.now,
        });
        recent.last = self.now;
        Some(&mut recent.tally)
    }

    fn recent_of(&mut self, flow: &Flow) -> Option<&mut Tally> {
        let recent = self.recent.get_mut(&ObservedFlow::of(flow));
        recent.map(|recent| &mut recent.tally)
    }

    /// Advances the time: everything before `to` has been seen.
    pub fn advance(&mut self, to: Timestamp) {
        if self.now != Timestamp::default() {
            self.gap = self.gap.max(to.since(self.now));
        }
        self.now = to;
        // A listing stands before a watermark, after the records that are older than both.
        self.end_listing();
    }

    /// Adds what a listing of the cluster showed. A listing may come in parts; it ends with the next batch or watermark.
    pub fn list(&mut self, change: ClusterChange) {
        self.pending.get_or_insert_default().merge(change);
    }

    /// Ends the observation: no listing follows the newest flows.
    pub fn finish(&mut self) {
        self.end_listing();
        self.change(History::settle);
        self.resolve();
    }

    /// Advances the history. Backends that it has found stay if nothing differs from before, as to look through all pods takes long.
    fn change(&mut self, change: impl FnOnce(&mut History)) {
        let was_changing = self.history.is_changing();
        change(&mut self.history);
        if was_changing || self.history.is_changing() {
            self.backends.clear();
        }
    }

    fn end_listing(&mut self) {
        if let Some(change) = self.pending.take() {
            self.change(|history| history.apply(change));
            self.resolve();
        }
    }

    /// Resolves the ends of the recent flows.
    fn resolve(&mut self) {
        for (flow, mut recent) in self.recent.drain() {
            recent.tally.when = Some(When {
                first: recent.first,
                last: recent.last,
                gap: self.gap,
            });
            let local = (flow.local, flow.container.as_deref());
            // A record is not older than the watermark before it, and not newer than the one after it.
            let span = Span {
                first: recent.first,
                last: recent.last.plus(self.gap),
            };
            let mut ends = self.history.ends(local, flow.remote, span);
            if !flow.serves && ends.local != Owner::Elsewhere {
                let key = (flow.remote, flow.port, flow.protocol());
                ends.backends = self.backends.get(&key).cloned().or_else(|| {
                    let found = self.history.backends(flow.remote, flow.port, flow.protocol())?;
                    self.backends.insert(key, found.clone());
                    Some(found)
                });
            }
            let key = (flow, ends);
            if self.flows.len() >= self.max && !self.flows.contains_key(&key) {
                self.left_out += recent.tally.records;
            } else {
                self.flows.entry(key).or_default().add(&recent.tally);
            }
        }
        self.gap = Duration::ZERO;
    }

    /// Adds the pods that were seen to `cluster`, with the labels that they had then.
    pub fn keep_pods(&mut self, cluster: &mut Cluster) {
        self.ids = cluster.keep(&self.history);
    }

    /// The id of a pod that was seen, once [`Observed::keep_pods`] has been called.
    pub(crate) fn pod(&self, version: Version) -> Option<PodId> {
        self.ids.get(version.index()).copied()
    }

    /// Every flow, with its ends when it was seen.
    pub fn iter(&self) -> impl Iterator<Item = (&ObservedFlow, &Ends, &Tally)> {
        const UNRESOLVED: &Ends = &Ends {
            local: Owner::Elsewhere,
            remote: Owner::Elsewhere,
            backends: None,
        };
        let flows = self.flows.iter().map(|((flow, ends), tally)| (flow, ends, tally));
        let recent = self.recent.iter();
        flows.chain(recent.map(|(flow, recent)| (flow, UNRESOLVED, &recent.tally)))
    }
}

/// Whether a record is of a connection, and not of a connect alone. A connect is in several records if it waits for long, and in none
/// that says how it ended if it waits at the end of the recording: so each record is judged by itself, not by their number.
const fn is_of_connection(record: &TcpRecord) -> bool {
    let events = record.events;
    let has_opened =
        events.contains(Events::OPENED) || events.contains(Events::ADOPTED) || events.contains(Events::OPEN);
    let is_connect = events.contains(Events::FAILED) || events.contains(Events::CONNECTING);
    // Only what was connected receives payload.
    has_opened || !is_connect || record.received_bytes > 0
}

/// A flow since the newest listing.
#[derive(Debug)]
struct Recent {
    tally: Tally,
    /// The watermarks before its first and its last record.
    first: Timestamp,
    last: Timestamp,
}
