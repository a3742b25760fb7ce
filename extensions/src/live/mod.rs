//! The live view's data: what `GET /flows` answers with, and what `flowtap top` and the status page show.
//!
//! In: the newest snapshot of a pipeline, from the [`tap`]. Out: a [`Flow`] per peer, further
//! distinguished by the window's labels. The rules:
//!
//! 1. Series of the byte families that differ in their direction only are one flow, with what went out and what came in.
//! 2. Labels have the config's names, whichever naming the window has.
//! 3. Round-trip times, retransmits and send times have fewer labels than bytes; a flow shows those of all series that agree with it in
//!    the labels that both have, one of which must be the peer's address. Where several flows agree, the values belong to all of them
//!    together, and none shows them; but the smallest round-trip time is that of the path, which they share.
//! 4. The newest records of a peer, port and role take precedence: the verdict, the smallest round-trip time, retransmissions and
//!    failed connects. They are counted while there is a client, and with them the edges of the [`map`].
//! 5. The [`timeline`] adds up all records, always.

mod causes;
mod join;
mod latest;
mod map;
mod observed;
mod recent;
mod routes;
pub mod tap;
mod timeline;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use flowtap_pipeline::catalog::FamilyId;
use serde::{Deserialize, Serialize};

pub use self::map::{Edge, MAX_EDGES, Map, Others};
pub use self::timeline::{MAX_POINTS, Point, Timeline};
use crate::verdict::{Cause, Details, Evidence, OfPeer, PeerVerdict, Shares, Verdict, judge, process_name};

/// The answer to `GET /flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// The pipeline that they are of; empty as long as no window has closed.
    pub pipeline: String,
    /// Every pipeline that can be asked for.
    pub pipelines: Vec<String>,
    /// The end of the last window, in seconds since 1970.
    pub at: f64,
    /// Length of that window.
    pub window_seconds: f64,
    /// Number of all flows; `flows` has at most the requested number.
    pub total: usize,
    /// Bytes that all of them sent and received in the last window.
    pub outbound_bytes_per_second: f64,
    /// The other way.
    pub inbound_bytes_per_second: f64,
    /// The first ones by the order that was asked for.
    pub flows: Vec<Flow>,
}

/// One row of the live view.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// The metric that counts it, by its name in the config.
    pub metric: String,
    /// `egress` if this machine opened the connections, `ingress` if it accepted them; null where the window sums that away.
    pub role: Option<String>,
    /// Its identity, without the direction.
    pub labels: BTreeMap<String, String>,
    /// Sent bytes.
    #[serde(default)]
    pub outbound: Option<Bytes>,
    /// Received bytes.
    #[serde(default)]
    pub inbound: Option<Bytes>,
    /// Both, where the window sums the direction away.
    #[serde(default)]
    pub undirected: Option<Bytes>,
    /// The smallest round-trip time, of the newest records; before them the mean of the smallest times in the last window, where the
    /// window has them by address.
    #[serde(default)]
    pub rtt_microseconds: Option<f64>,
    /// Mean of the smoothed round-trip times in the last window, which contain the time of the peer's answers.
    #[serde(default)]
    pub smoothed_rtt_microseconds: Option<f64>,
    /// Mean time of answers in the last window, with the receiver's option `inspect.exchanges`: of this machine, if it serves.
    #[serde(default)]
    pub answer_microseconds: Option<f64>,
    /// Requests of the last window that were answered.
    #[serde(default)]
    pub exchanges: Option<u64>,
    /// Segments that were retransmitted to the peer; null where the metric's labels are those of other flows as well.
    #[serde(default)]
    pub retransmits: Option<Retransmits>,
    /// Seconds of its connections in the last window, by what their senders waited for.
    #[serde(default)]
    pub send_time: Option<Shares>,
    /// Verdict on its peer, from the newest records.
    #[serde(default)]
    pub recent: Option<OfRecords>,
}

/// The newest records of a peer, port and role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OfRecords {
    /// The limit of the traffic.
    pub cause: Cause,
    /// The same as a sentence.
    pub sentence: String,
    /// Segments retransmitted.
    pub retransmits: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Process of this machine, of the newest record, if it is known.
    #[serde(default)]
    pub comm: Option<String>,
    /// Whether records name other processes as well.
    #[serde(default)]
    pub several_processes: bool,
    /// Name of the peer's address, by the processor `names`.
    #[serde(default)]
    pub peer_name: Option<String>,
    /// Its source: `dns` or `hosts`.
    #[serde(default)]
    pub peer_name_source: Option<String>,
    /// The end behind the peer's address, where it is known to be another one: address, and port unless it is a client.
    #[serde(default)]
    pub backend: Option<String>,
    /// The part of its connections in the way through a proxy.
    #[serde(default)]
    pub hop: Option<String>,
    /// Application protocol, with the receiver's option `inspect.protocols`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// The name that TLS clients ask for, with `inspect.server_names`.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Which of these fields have other values in other records.
    #[serde(default)]
    pub several: Vec<String>,
}

impl OfRecords {
    fn new(of_peer: &OfPeer) -> Self {
        let evidence = &of_peer.evidence;
        let verdict = judge(evidence);
        let Details {
            peer_name,
            backend,
            hop,
            protocol,
            server_name,
        } = &of_peer.details;
        let several = [
            ("peer_name", peer_name.is_shared),
            ("backend", backend.is_shared),
            ("hop", hop.is_shared),
            ("protocol", protocol.is_shared),
            ("server_name", server_name.is_shared),
        ];
        let several = several.into_iter().filter(|(_, is_shared)| *is_shared);
        Self {
            cause: verdict.cause,
            sentence: verdict.sentence,
            retransmits: evidence.retransmits,
            failed: evidence.failed.total(),
            comm: process_name(&of_peer.comm),
            several_processes: of_peer.is_shared,
            peer_name: peer_name.value.as_ref().map(|peer| peer.name.to_string()),
            peer_name_source: peer_name
                .value
                .as_ref()
                .map(|peer| peer.source.as_str().to_owned()),
            backend: backend.value.map(|end| match end.port {
                0 => end.addr.to_string(),
                _ => end.to_string(),
            }),
            hop: hop.value.map(|hop| hop.as_str().to_owned()),
            protocol: protocol.value.map(|protocol| protocol.as_str().to_owned()),
            server_name: server_name.value.as_deref().map(str::to_owned),
            several: several.map(|(name, _)| name.to_owned()).collect(),
        }
    }
}

/// The answer to `GET /verdicts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// The pipeline whose records it rests on; empty if there is none.
    pub pipeline: String,
    /// Every pipeline that can be asked for.
    pub pipelines: Vec<String>,
    /// The end of the period, in seconds since 1970.
    pub at: f64,
    /// Length of the period; 0 if nothing has been measured yet: measuring begins with a request.
    pub seconds: f64,
    /// The verdict on everything.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The numbers that it rests on.
    pub measured: Evidence,
    /// Packets that the kernel dropped on this machine, and that were lost, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Number of peers that are counted one by one, at most [`MAX_PEERS`](crate::verdict::MAX_PEERS); `peers` has at most the
    /// requested number.
    pub total: usize,
    /// Those first that were limited for the longest time, or to which connects failed.
    pub peers: Vec<PeerVerdict>,
    /// Records of peers beyond those that are counted by peer.
    pub records_of_further_peers: u64,
    /// Records of connections whose queues are not in the sums.
    pub records_without_queues: u64,
}

/// Bytes that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bytes {
    /// Since the series began.
    pub total: u64,
    /// In the last window.
    pub per_second: f64,
}

/// Retransmitted segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retransmits {
    /// Since the series began.
    pub total: u64,
    /// In the last window.
    pub last_window: u64,
}

/// An order of flows. Numbers: the largest first; text: by the alphabet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Bytes per second, both ways.
    #[default]
    Rate,
    /// Bytes per second that went out.
    Outbound,
    /// Bytes per second that came in.
    Inbound,
    /// Bytes since the beginning, both ways.
    Total,
    /// Round-trip time.
    Rtt,
    /// Retransmits of the last window, then all of them.
    Retransmits,
    /// The peer's name.
    Peer,
    /// The server's port.
    Port,
    /// Ingress or egress.
    Role,
    /// The peer's class.
    Class,
    /// The process.
    Process,
    /// Limits of the traffic, the worst first.
    Cause,
}

impl Sort {
    /// Every order, as [`Sort::name`] spells them.
    pub const ALL: [Self; 12] = [
        Self::Rate,
        Self::Outbound,
        Self::Inbound,
        Self::Total,
        Self::Rtt,
        Self::Retransmits,
        Self::Peer,
        Self::Port,
        Self::Role,
        Self::Class,
        Self::Process,
        Self::Cause,
    ];

    /// Its spelling in `?sort=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Total => "total",
            Self::Rtt => "rtt",
            Self::Retransmits => "retransmits",
            Self::Peer => "peer",
            Self::Port => "port",
            Self::Role => "role",
            Self::Class => "class",
            Self::Process => "process",
            Self::Cause => "cause",
        }
    }

    /// Whether the largest comes first.
    pub const fn is_descending(self) -> bool {
        !matches!(
            self,
            Self::Peer | Self::Port | Self::Role | Self::Class | Self::Process
        )
    }

    /// The order by its spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.name() == name)
    }

    /// Which of two flows comes first. Flows that are equal in it stand by their totals, then by their labels, so that rows do
    /// not jump about.
    pub fn compare(self, a: &Flow, b: &Flow) -> Ordering {
        let descending = |of: fn(&Flow) -> f64| of(b).total_cmp(&of(a));
        let first = match self {
            Self::Rate => descending(Flow::rate),
            Self::Outbound => descending(|flow| per_second(flow.outbound)),
            Self::Inbound => descending(|flow| per_second(flow.inbound)),
            Self::Total => b.total().cmp(&a.total()),
            // Those without one come last.
            Self::Rtt => descending(|flow| flow.rtt_microseconds.unwrap_or(-1.0)),
            Self::Retransmits => {
                let key = |flow: &Flow| {
                    let recent = flow.recent.as_ref().map(|recent| recent.retransmits);
                    (
                        recent,
                        flow.retransmits.map(|seen| (seen.last_window, seen.total)),
                    )
                };
                key(b).cmp(&key(a))
            }
            Self::Peer => a.peer().cmp(b.peer()),
            Self::Port => a.port_number().cmp(&b.port_number()),
            Self::Role => a.role.cmp(&b.role),
            Self::Class => a.class().cmp(b.class()),
            Self::Process => a.process().cmp(&b.process()),
            Self::Cause => {
                let key = |flow: &Flow| flow.cause().map_or(0, Cause::severity);
                key(b).cmp(&key(a))
            }
        };
        first
            .then_with(|| b.total().cmp(&a.total()))
            .then_with(|| (&a.metric, &a.labels).cmp(&(&b.metric, &b.labels)))
    }
}

/// An IPv6 address in brackets.
fn host_and_port(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn per_second(bytes: Option<Bytes>) -> f64 {
    bytes.map_or(0.0, |bytes| bytes.per_second)
}

impl Flow {
    /// Bytes per second, both ways.
    pub fn rate(&self) -> f64 {
        per_second(self.outbound) + per_second(self.inbound) + per_second(self.undirected)
    }

    /// Bytes since the beginning, both ways.
    pub fn total(&self) -> u64 {
        let all = [self.outbound, self.inbound, self.undirected];
        all.into_iter().flatten().map(|bytes| bytes.total).sum()
    }

    /// A label's value; empty if there is none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The peer: its address, or the name that the window puts in its place.
    pub fn peer(&self) -> &str {
        let names = [
            "raddr",
            "peer_name",
            "peer_pod",
            "peer_service",
            "peer_workload",
            "peer_namespace",
        ];
        let mut known = names.into_iter().map(|name| self.label(name));
        known.find(|value| !value.is_empty()).unwrap_or("(all)")
    }

    /// The port that is served: the peer's if this machine is the client, else this machine's own.
    pub fn port(&self) -> &str {
        let (first, second) = match self.role.as_deref() {
            Some("ingress") => ("lport", "rport"),
            _ => ("rport", "lport"),
        };
        let mut ports = ["server_port", first, second]
            .map(|label| self.label(label))
            .into_iter();
        ports.find(|port| !port.is_empty()).unwrap_or_default()
    }

    /// For an order: ports that are none come last.
    fn port_number(&self) -> u32 {
        self.port().parse().unwrap_or(u32::MAX)
    }

    /// The peer's class.
    pub fn class(&self) -> &str {
        match self.label("type") {
            "" if self.metric == FamilyId::Dns.definition().family.name => "dns",
            class => class,
        }
    }

    /// The limit of its traffic, if that is known.
    pub fn cause(&self) -> Option<Cause> {
        self.recent.as_ref().map(|recent| recent.cause)
    }

    /// A detail: of the labels, else of the newest records, with a mark if these name others. `name` is one of `peer_name`,
    /// `peer_name_source`, `backend`, `hop`, `protocol` and `server_name`; empty if it is not known.
    pub fn detail(&self, name: &str) -> String {
        let label = self.label(name);
        if !label.is_empty() {
            return match (name, self.label("backend_port")) {
                ("backend", port) if !port.is_empty() => host_and_port(label, port),
                _ => label.to_owned(),
            };
        }
        let Some(recent) = &self.recent else {
            return String::new();
        };
        let value = match name {
            "peer_name" => &recent.peer_name,
            "peer_name_source" => &recent.peer_name_source,
            "backend" => &recent.backend,
            "hop" => &recent.hop,
            "protocol" => &recent.protocol,
            "server_name" => &recent.server_name,
            _ => &None,
        };
        let is_shared = recent.several.iter().any(|other| other == name);
        value.as_ref().map_or_else(String::new, |value| {
            format!("{value}{}", if is_shared { ",.." } else { "" })
        })
    }

    /// The process: its name, and its id after a slash; unknown parts are left out. Where labels do not have it, the one that the newest
    /// records name, with a comma if they name others.
    pub fn process(&self) -> String {
        match (self.label("comm"), self.label("pid")) {
            ("", "") => match &self.recent {
                Some(OfRecords {
                    comm: Some(comm),
                    several_processes,
                    ..
                }) => format!("{comm}{}", if *several_processes { ",.." } else { "" }),
                _ => String::new(),
            },
            (comm, "") => comm.to_owned(),
            ("", pid) => pid.to_owned(),
            (comm, pid) => format!("{comm}/{pid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(peer: &str, rate: f64, rtt: Option<f64>) -> Flow {
        Flow {
            role: Some("egress".to_owned()),
            labels: BTreeMap::from([("raddr".to_owned(), peer.to_owned())]),
            outbound: Some(Bytes {
                total: 1,
                per_second: rate,
            }),
            rtt_microseconds: rtt,
            ..Flow::default()
        }
    }

    fn order(sort: Sort) -> Vec<String> {
        let mut flows = [
            flow("b", 1.0, Some(3.0)),
            flow("a", 2.0, None),
            flow("c", 2.0, Some(9.0)),
        ];
        flows.sort_by(|a, b| sort.compare(a, b));
        flows.iter().map(|flow| flow.peer().to_owned()).collect()
    }

    #[test]
    fn numbers_come_largest_first_text_by_the_alphabet_and_what_is_equal_stands_still() {
        assert_eq!(order(Sort::Rate), ["a", "c", "b"]);
        assert_eq!(order(Sort::Rtt), ["c", "b", "a"]);
        assert_eq!(order(Sort::Peer), ["a", "b", "c"]);
        assert_eq!(order(Sort::Retransmits), ["a", "b", "c"]);
    }

    #[test]
    fn every_order_is_found_by_its_name_which_is_also_its_name_in_json() {
        for sort in Sort::ALL {
            assert_eq!(Sort::from_name(sort.name()), Some(sort));
            assert_eq!(serde_json::to_value(sort).unwrap(), sort.name());
        }
        assert_eq!(Sort::from_name("colour"), None);
    }

    #[test]
    fn the_port_is_that_of_the_side_which_serves() {
        let labels = [("lport", "80"), ("rport", "40000")];
        let with = |role: Option<&str>| Flow {
            role: role.map(str::to_owned),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Flow::default()
        };
        assert_eq!(with(Some("ingress")).port(), "80");
        assert_eq!(with(Some("egress")).port(), "40000");
    }

    #[test]
    fn an_answer_of_an_older_or_newer_daemon_can_be_read() {
        let flow: Flow = serde_json::from_str(
            r#"{"metric": "m", "role": null, "labels": {}, "something_new": 1, "inbound": {"total": 1, "per_second": 2.0}}"#,
        )
        .unwrap();
        assert_eq!(flow.total(), 1);
        assert_eq!(flow.peer(), "(all)");
    }
}
