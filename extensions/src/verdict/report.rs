//! Verdicts on peers, as `flowtap diagnose` and `/verdicts` list them.

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, process_name};
use super::judge::{Verdict, judge};
use super::tally::{OfPeer, Peer, Sums};

/// The verdict on one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerVerdict {
    /// Address of the peer.
    pub raddr: String,
    /// Port of the side that serves.
    pub server_port: u16,
    /// `ingress` if this machine serves, else `egress`.
    pub flow: String,
    /// Class of the peer, if it is known.
    #[serde(rename = "type")]
    pub class: Option<String>,
    /// Process of this machine, of the newest record, if it is known.
    pub comm: Option<String>,
    /// The cause, a sentence, and its evidence.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The numbers that it rests on.
    pub measured: Evidence,
}

impl PeerVerdict {
    fn new(peer: &Peer, of_peer: &OfPeer) -> Self {
        Self {
            raddr: peer.addr.to_string(),
            server_port: peer.port,
            flow: peer.role().to_owned(),
            class: of_peer.class.map(|class| class.as_str().to_owned()),
            comm: process_name(&of_peer.comm),
            verdict: judge(&of_peer.evidence),
            measured: of_peer.evidence.clone(),
        }
    }
}

/// The verdicts on at most `limit` peers of `sums`: those first that were limited for the longest time, or to which connects failed.
pub fn verdicts(sums: &Sums, limit: usize) -> Vec<PeerVerdict> {
    let mut peers: Vec<(&Peer, &OfPeer)> = sums.peers.iter().collect();
    let weight = |evidence: &Evidence| {
        let limited = evidence.shares.total() - evidence.shares.application;
        let failed = evidence.failed.total() + evidence.listening.drops;
        (limited + failed as f64, evidence.shares.total())
    };
    peers.sort_by(|(a_peer, a), (b_peer, b)| {
        let (a, b) = (weight(&a.evidence), weight(&b.evidence));
        (b.0.total_cmp(&a.0))
            .then(b.1.total_cmp(&a.1))
            .then(a_peer.cmp(b_peer))
    });
    let peers = peers.into_iter().take(limit);
    peers
        .map(|(peer, of_peer)| PeerVerdict::new(peer, of_peer))
        .collect()
}
