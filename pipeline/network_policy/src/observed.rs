//! The flows of batches, folded by who talks to whom and bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use flowtap_model::{Events, Flow, FlowBatch, FlowKind, Transport};

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
}

impl Tally {
    /// Whether nothing but failed connects was seen.
    pub const fn is_attempt(&self) -> bool {
        self.failed > 0 && self.failed >= self.records
    }

    /// Adds what another machine or time saw of it.
    pub const fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.connections += other.connections;
        self.failed += other.failed;
        self.bytes += other.bytes;
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
    pub const fn add(&mut self, other: &Self) {
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
        }
    }
}

/// The flows.
#[derive(Debug)]
pub struct Observed {
    flows: HashMap<ObservedFlow, Tally>,
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
        for flow in batch.traffic() {
            self.has_udp |= flow.transport == Transport::Udp;
            if let Some(tally) = self.entry(flow) {
                tally.records += 1;
            }
        }
        for record in &batch.udp {
            if record.flow.remote.port == 0 {
                // Drops and errors of a socket are no traffic.
                let has_bytes = u64::from(record.sent_bytes != 0 || record.received_bytes != 0);
                if record.unplaced {
                    self.unplaced += has_bytes;
                } else {
                    self.without_peer += has_bytes;
                }
            } else if let Some(tally) = self.flows.get_mut(&ObservedFlow::of(&record.flow)) {
                tally.connections += u64::from(record.opened);
                tally.bytes += record.sent_bytes + record.received_bytes;
            }
        }
        for record in &batch.tcp {
            if let Some(tally) = self.flows.get_mut(&ObservedFlow::of(&record.flow)) {
                let seen = |event| u64::from(record.events.contains(event));
                tally.connections += seen(Events::OPENED) + seen(Events::ADOPTED);
                tally.failed += seen(Events::FAILED);
                tally.bytes += record.sent_bytes + record.received_bytes;
            }
        }
    }

    fn entry(&mut self, flow: &Flow) -> Option<&mut Tally> {
        if flow.local.addr.is_loopback() || flow.remote.addr.is_loopback() {
            self.loopback += 1;
            return None;
        }
        let key = ObservedFlow::of(flow);
        if self.flows.len() >= self.max && !self.flows.contains_key(&key) {
            self.left_out += 1;
            return None;
        }
        Some(self.flows.entry(key).or_default())
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = (&ObservedFlow, &Tally)> {
        self.flows.iter()
    }
}
