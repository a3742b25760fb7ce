//! The map: which processes and workloads of this node talk to which peers, how much, and how well.
//!
//! In: the records that reach the pipeline's window, while somebody asks. Out: an [`Edge`] for each process (or pod) of this node and
//! peer, of the same period as the verdicts. The rules:
//!
//! 1. Edges are at most [`MAX_EDGES`]; records of further ones are counted.
//! 2. An answer has the edges with the most bytes, and as many as half of them with the most failed connects. The others are summed.
//! 3. The verdict on an edge rests on its own records. Queues, connects that wait and listening sockets are known by peer only: if its
//!    records show no limit, and these are the limit of its peer, port and role, that is the verdict.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use flowtap_pipeline::flow::Transport;
use flowtap_pipeline::{Flow as FlowEnds, FlowBatch, KubernetesNames, PeerClass, TcpRecord, UdpRecord};
use serde::{Deserialize, Serialize};

use crate::verdict::{Cause, Evidence, Peer, Sums, judge, process_name};

/// Maximum number of edges that are counted one by one.
pub const MAX_EDGES: usize = 4096;

/// The answer to `GET /map`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Map {
    /// The pipeline whose records it rests on; empty if there is none.
    pub pipeline: String,
    /// Every pipeline that can be asked for.
    pub pipelines: Vec<String>,
    /// The end of the period, in seconds since 1970.
    pub at: f64,
    /// Length of the period; 0 if nothing has been measured yet: measuring begins with a request.
    pub seconds: f64,
    /// Number of edges that are counted one by one, at most [`MAX_EDGES`].
    pub total: usize,
    /// Those with the most bytes, and those with the most failed connects.
    pub edges: Vec<Edge>,
    /// Sums of the edges that are not listed.
    pub others: Others,
    /// Records of edges beyond those that are counted one by one.
    pub records_of_further_edges: u64,
}

/// The traffic of a process or pod of this node with a peer. Names that are not known are null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Process of this node.
    pub comm: Option<String>,
    /// Its container, unless it is one of a pod that is known.
    pub container_id: Option<String>,
    /// Namespace of its pod.
    pub local_namespace: Option<String>,
    /// Its pod.
    pub local_pod: Option<String>,
    /// Owner of that pod.
    pub local_workload: Option<String>,
    /// Address of the peer.
    pub raddr: String,
    /// Its name.
    pub peer_name: Option<String>,
    /// Namespace of its pod or service.
    pub peer_namespace: Option<String>,
    /// Its pod.
    pub peer_pod: Option<String>,
    /// Owner of that pod.
    pub peer_workload: Option<String>,
    /// Its service.
    pub peer_service: Option<String>,
    /// Class of the peer.
    #[serde(rename = "type")]
    pub class: Option<String>,
    /// Port of the side that serves.
    pub server_port: u16,
    /// `ingress` if this machine serves, else `egress`.
    pub flow: String,
    /// `tcp`, `udp` or `udplite`.
    pub transport: String,
    /// Payload bytes sent in the period.
    pub sent_bytes: u64,
    /// Payload bytes received in the period.
    pub received_bytes: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Segments retransmitted.
    pub retransmits: u64,
    /// The limit of its traffic; null of UDP.
    pub cause: Option<Cause>,
    /// The same as a sentence; empty of UDP.
    pub sentence: String,
}

/// Sums of edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Others {
    /// Number of edges.
    pub edges: usize,
    /// Payload bytes sent in the period.
    pub sent_bytes: u64,
    /// Payload bytes received in the period.
    pub received_bytes: u64,
    /// Connects that failed.
    pub failed: u64,
}

/// An edge: one end is a process, a container or a pod of this node, the other a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    peer: Peer,
    transport: &'static str,
    comm: [u8; 16],
    container_id: Option<Arc<str>>,
    names: Option<Arc<KubernetesNames>>,
}

impl Key {
    fn of(flow: &FlowEnds) -> Self {
        let names = flow.local_names.clone();
        Self {
            peer: Peer::of(flow),
            transport: flow.transport.as_str(),
            comm: flow.comm,
            container_id: flow.container_id.clone().filter(|_| names.is_none()),
            names,
        }
    }
}

/// Measurements of an edge, and the newest names of its peer.
#[derive(Clone, Debug, Default)]
struct OfEdge {
    /// Of UDP: its bytes.
    evidence: Evidence,
    class: Option<PeerClass>,
    peer_name: Option<Arc<str>>,
    peer_names: Option<Arc<KubernetesNames>>,
}

impl OfEdge {
    fn describe(&mut self, flow: &FlowEnds) {
        self.class = flow.class.or(self.class);
        if let Some(name) = &flow.peer_name {
            self.peer_name = Some(Arc::clone(&name.name));
        }
        if let Some(names) = &flow.peer_names {
            self.peer_names = Some(Arc::clone(names));
        }
    }
}

/// The edges of a period.
#[derive(Clone, Debug, Default)]
pub(super) struct Edges {
    by_key: HashMap<Key, OfEdge>,
    /// Records of edges beyond [`MAX_EDGES`].
    further: u64,
}

impl Edges {
    /// Adds the records of `batch`, of a period that is at most `longest` µs long.
    pub(super) fn add(&mut self, batch: &FlowBatch, longest: i64) {
        for record in &batch.tcp {
            self.add_tcp(record, longest);
        }
        // Without a peer's port a record is of a socket, not of two ends.
        let with_peer = |record: &&UdpRecord| record.flow.remote.port != 0 && !record.unplaced;
        for record in batch.udp.iter().filter(with_peer) {
            self.add_udp(record);
        }
    }

    fn add_tcp(&mut self, record: &TcpRecord, longest: i64) {
        let Some(edge) = self.edge(&record.flow) else {
            return;
        };
        // A connect that waits has an edge, and no measurements.
        if !record.is_connecting() {
            edge.evidence.add(record, longest);
        }
    }

    fn add_udp(&mut self, record: &UdpRecord) {
        let Some(edge) = self.edge(&record.flow) else {
            return;
        };
        let evidence = &mut edge.evidence;
        evidence.sent_bytes = evidence.sent_bytes.saturating_add_signed(record.sent_bytes);
        evidence.received_bytes = evidence
            .received_bytes
            .saturating_add_signed(record.received_bytes);
    }

    /// The edge of `flow`; `None` if there is no room for it.
    fn edge(&mut self, flow: &FlowEnds) -> Option<&mut OfEdge> {
        let key = Key::of(flow);
        if self.by_key.len() >= MAX_EDGES && !self.by_key.contains_key(&key) {
            self.further += 1;
            return None;
        }
        let edge = self.by_key.entry(key).or_default();
        edge.describe(flow);
        Some(edge)
    }

    /// Those since `before`, and those of `before`.
    pub(super) fn with(&self, before: Option<&Self>) -> Self {
        let mut edges = self.clone();
        let Some(before) = before else { return edges };
        edges.further += before.further;
        for (key, theirs) in &before.by_key {
            if let Some(ours) = edges.by_key.get_mut(key) {
                ours.evidence.merge(&theirs.evidence);
            } else if edges.by_key.len() < MAX_EDGES {
                edges.by_key.insert(key.clone(), theirs.clone());
            } else {
                edges.further += 1;
            }
        }
        edges
    }

    /// Fills `map` with at most `limit` edges. `sums`: what is known of their peers.
    pub(super) fn fill(&self, map: &mut Map, limit: usize, sums: &Sums) {
        map.total = self.by_key.len();
        (map.edges, map.others) = self.chosen(limit, sums);
        map.records_of_further_edges = self.further;
    }

    /// At most `limit` edges, and the sums of the others.
    fn chosen(&self, limit: usize, sums: &Sums) -> (Vec<Edge>, Others) {
        let bytes = |edge: &OfEdge| edge.evidence.sent_bytes + edge.evidence.received_bytes;
        let failures = |key: &Key, edge: &OfEdge| {
            let waiting = sums.peers.get(&key.peer).map_or(0, |peer| peer.evidence.waiting);
            edge.evidence.failed.total() + waiting
        };
        let mut all: Vec<(&Key, &OfEdge)> = self.by_key.iter().collect();
        all.sort_by_cached_key(|(key, edge)| (std::cmp::Reverse(failures(key, edge)), *key));
        let failing = all.iter().take_while(|(key, edge)| failures(key, edge) > 0);
        let mut listed: HashSet<&Key> = failing.take(limit / 2).map(|(key, _)| *key).collect();
        all.sort_by_key(|(key, edge)| (std::cmp::Reverse(bytes(edge)), *key));
        for (key, edge) in &all {
            if listed.len() >= limit {
                break;
            }
            // A connection that neither moved a byte nor failed is not worth a line.
            if bytes(edge) > 0 {
                listed.insert(*key);
            }
        }
        let mut edges = Vec::with_capacity(listed.len());
        let mut others = Others::default();
        for (key, edge) in all {
            if listed.contains(key) {
                edges.push(edge_of(key, edge, sums));
            } else {
                others.edges += 1;
                others.sent_bytes += edge.evidence.sent_bytes;
                others.received_bytes += edge.evidence.received_bytes;
                others.failed += edge.evidence.failed.total();
            }
        }
        (edges, others)
    }
}

/// Whether a cause that rests on what is known by peer only is that of an edge, whose own measurements say `own`.
const fn explains(of_peer: Cause, own: Cause) -> bool {
    match of_peer {
        Cause::Reader | Cause::NoAnswer => own.is_unlimited(),
        Cause::AcceptQueue => own.is_unlimited() || matches!(own, Cause::NoAnswer),
        Cause::BlackHole => matches!(
            own,
            Cause::Network | Cause::Loss | Cause::Receiver | Cause::Answer | Cause::Buffer
        ),
        _ => false,
    }
}

fn edge_of(key: &Key, edge: &OfEdge, sums: &Sums) -> Edge {
    let evidence = &edge.evidence;
    let verdict = (key.transport == Transport::Tcp.as_str()).then(|| {
        let own = judge(evidence);
        let of_peer = sums.peers.get(&key.peer).map(|peer| judge(&peer.evidence));
        match of_peer {
            Some(of_peer) if explains(of_peer.cause, own.cause) => of_peer,
            _ => own,
        }
    });
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let local =
        |name: fn(&KubernetesNames) -> &String| key.names.as_deref().and_then(|names| set(name(names)));
    let peer = |name: fn(&KubernetesNames) -> &String| {
        let names = edge.peer_names.as_deref();
        names.and_then(|names| set(name(names)))
    };
    Edge {
        comm: process_name(&key.comm),
        container_id: key.container_id.as_deref().and_then(set),
        local_namespace: local(|names| &names.namespace),
        local_pod: local(|names| &names.pod),
        local_workload: local(|names| &names.workload),
        raddr: key.peer.addr.to_string(),
        peer_name: edge.peer_name.as_deref().and_then(set),
        peer_namespace: peer(|names| &names.namespace),
        peer_pod: peer(|names| &names.pod),
        peer_workload: peer(|names| &names.workload),
        peer_service: peer(|names| &names.service),
        class: edge.class.map(|class| class.as_str().to_owned()),
        server_port: key.peer.port,
        flow: key.peer.role().to_owned(),
        transport: key.transport.to_owned(),
        sent_bytes: evidence.sent_bytes,
        received_bytes: evidence.received_bytes,
        opened: evidence.opened,
        failed: evidence.failed.total(),
        retransmits: evidence.retransmits,
        cause: verdict.as_ref().map(|verdict| verdict.cause),
        sentence: verdict.map(|verdict| verdict.sentence).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::testing::{batch, record};
    use flowtap_pipeline::{Events, FlowKind, Queues, SendTime};

    use super::*;
    use crate::verdict::Tally;

    fn comm(name: &str) -> [u8; 16] {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        comm
    }

    fn of(process: &str, remote: &str, sent_bytes: i64) -> TcpRecord {
        let record = record("10.0.0.1:40000", remote).with_flow(|flow| FlowEnds {
            comm: comm(process),
            kind: Some(FlowKind::Egress),
            ..flow
        });
        TcpRecord { sent_bytes, ..record }
    }

    fn failing(process: &str, remote: &str) -> TcpRecord {
        TcpRecord {
            events: Events::FAILED,
            failure: 111,
            ..of(process, remote, 0)
        }
    }

    fn edges(records: impl IntoIterator<Item = TcpRecord>) -> (Edges, Sums) {
        let records = batch(records);
        let (mut edges, mut tally) = (Edges::default(), Tally::default());
        edges.add(&records, i64::MAX);
        for record in &records.tcp {
            tally.add_tcp(0, record);
        }
        (edges, tally.sums(None, |_, _| true))
    }

    #[test]
    fn processes_that_talk_to_the_same_peer_are_separate_edges_that_add_up_to_it() {
        let (edges, sums) = edges([
            of("web", "192.0.2.7:443", 5),
            of("cron", "192.0.2.7:443", 2),
            of("web", "192.0.2.7:443", 6),
        ]);
        let (listed, others) = edges.chosen(10, &sums);
        let seen: Vec<_> = listed
            .iter()
            .map(|edge| {
                (
                    edge.comm.as_deref(),
                    edge.sent_bytes,
                    edge.server_port,
                    &*edge.flow,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [(Some("web"), 11, 443, "egress"), (Some("cron"), 2, 443, "egress")]
        );
        assert_eq!(others, Others::default());
        assert_eq!(sums.all.sent_bytes, 13);
    }

    #[test]
    fn failing_edges_have_half_of_the_room_and_the_rest_is_summed() {
        let talkers = (0..8).map(|n| of("web", &format!("192.0.2.{n}:443"), 100 + n));
        let failures = (0..8).map(|n| failing("web", &format!("198.51.100.{n}:443")));
        let (edges, sums) = edges(talkers.chain(failures));
        let (listed, others) = edges.chosen(6, &sums);
        let sent: Vec<_> = listed.iter().map(|edge| (edge.sent_bytes, edge.failed)).collect();
        assert_eq!(sent, [(107, 0), (106, 0), (105, 0), (0, 1), (0, 1), (0, 1)]);
        assert_eq!(listed[3].cause, Some(Cause::Refused));
        let expected = Others {
            edges: 10,
            sent_bytes: 100 + 101 + 102 + 103 + 104,
            received_bytes: 0,
            failed: 5,
        };
        assert_eq!(others, expected);
    }

    #[test]
    fn a_connect_that_waits_is_an_edge_with_the_verdict_of_its_peer() {
        let waits = TcpRecord {
            events: Events::CONNECTING,
            state: 2,
            syn_retransmits: 3,
            ..of("web", "192.0.2.7:443", 0)
        };
        let (edges, sums) = edges([waits]);
        let (listed, _) = edges.chosen(10, &sums);
        assert_eq!((listed.len(), listed[0].cause), (1, Some(Cause::NoAnswer)));
    }

    #[test]
    fn an_edge_through_which_nothing_gets_is_a_black_hole_as_its_peer_is() {
        let silent = TcpRecord {
            queues: Queues {
                unsent: 9_000,
                unacked: 1_448,
                unread: 0,
            },
            rto_us: 3_000_000,
            time: SendTime {
                network_us: 3_000_000,
                ..SendTime::default()
            },
            sent_segments: 5,
            retransmits: 4,
            ..of("web", "192.0.2.7:443", 1_448)
        };
        let (edges, sums) = edges([silent]);
        let (listed, _) = edges.chosen(10, &sums);
        assert_eq!(listed[0].cause, Some(Cause::BlackHole), "{}", listed[0].sentence);
    }

    #[test]
    fn datagrams_are_edges_without_a_verdict() {
        let mut flow = of("dig", "192.0.2.53:53", 0).flow;
        flow.transport = Transport::Udp;
        let udp = UdpRecord {
            sent_bytes: 40,
            received_bytes: 200,
            ..UdpRecord::new(flow)
        };
        let mut edges = Edges::default();
        edges.add(
            &FlowBatch {
                udp: vec![udp],
                ..FlowBatch::default()
            },
            i64::MAX,
        );
        let (listed, _) = edges.chosen(10, &Sums::default());
        let edge = &listed[0];
        assert_eq!((&*edge.transport, edge.cause), ("udp", None));
        assert_eq!((edge.sent_bytes, edge.received_bytes), (40, 200));
    }

    #[test]
    fn a_pod_has_its_names_and_no_container_id() {
        let names = KubernetesNames {
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            workload: "Deployment/web".to_owned(),
            ..KubernetesNames::default()
        };
        let in_container = of("web", "192.0.2.7:443", 1).with_flow(|flow| FlowEnds {
            container_id: Some("0123abcd".into()),
            ..flow
        });
        let in_pod = of("web", "192.0.2.7:443", 2).with_flow(|flow| FlowEnds {
            container_id: Some("4567cdef".into()),
            local_names: Some(Arc::new(names)),
            ..flow
        });
        let (edges, sums) = edges([in_container, in_pod]);
        let (listed, _) = edges.chosen(10, &sums);
        let seen: Vec<_> = listed
            .iter()
            .map(|edge| (edge.local_workload.as_deref(), edge.container_id.as_deref()))
            .collect();
        assert_eq!(seen, [(Some("Deployment/web"), None), (None, Some("0123abcd"))]);
    }

    #[test]
    fn edges_beyond_the_bound_are_counted_over_both_periods() {
        let at = |n: u32| of("web", &format!("10.{}.{}.1:443", n / 256, n % 256), 1);
        let (before, _) = edges((0..5_000).map(at));
        let (now, _) = edges((3_000..5_000).map(at));
        assert_eq!((before.by_key.len(), before.further), (MAX_EDGES, 904));
        let both = now.with(Some(&before));
        assert_eq!(both.by_key.len(), MAX_EDGES);
        // 904 records, and the edges of before that found no room.
        assert_eq!(both.further, 904 + 904);
    }
}
