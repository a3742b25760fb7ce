//! Gives flows the verdicts on their peers, from the newest records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use super::{Flow, OfRecords};
use crate::verdict::{OfPeer, Peer, Sums, process_name};

/// Flows that only failed connects made, at most.
const MAX_FAILED: usize = 100;

/// Gives each flow what its peer's records say, where its labels name the peer's address. Peers to which every connect failed have
/// no bytes, and so no flow: they are added.
pub(super) fn attach(flows: &mut Vec<Flow>, sums: &Sums) {
    let mut by_addr: HashMap<IpAddr, Vec<(&Peer, &OfPeer)>> = HashMap::new();
    for (peer, of_peer) in &sums.peers {
        by_addr.entry(peer.addr).or_default().push((peer, of_peer));
    }
    let mut shown: HashSet<&Peer> = HashSet::new();
    for flow in flows.iter_mut() {
        let known = flow.label("raddr").parse().ok();
        let Some(peers) = known.and_then(|addr: IpAddr| by_addr.get(&addr)) else {
            continue;
        };
        let matching: Vec<_> = peers.iter().filter(|(peer, _)| is_of(flow, peer)).collect();
        let Some((_, first)) = matching.first() else {
            continue;
        };
        let mut all = OfPeer::clone(first);
        for (_, other) in &matching[1..] {
            all.merge(other);
        }
        shown.extend(matching.iter().map(|(peer, _)| *peer));
        flow.recent = Some(OfRecords::new(&all));
        let min_rtt_us = all.evidence.min_rtt_us;
        if min_rtt_us > 0 {
            flow.rtt_microseconds = Some(f64::from(min_rtt_us));
        }
    }
    let mut failed: Vec<_> = sums
        .peers
        .iter()
        .filter(|(peer, of_peer)| of_peer.evidence.failed.total() > 0 && !shown.contains(peer))
        .collect();
    failed.sort_by_key(|(peer, of_peer)| (std::cmp::Reverse(of_peer.evidence.failed.total()), *peer));
    let added = failed.into_iter().take(MAX_FAILED);
    flows.extend(added.map(|(peer, of_peer)| failed_flow(peer, of_peer)));
}

/// Whether the labels of `flow` allow `peer`.
fn is_of(flow: &Flow, peer: &Peer) -> bool {
    let port = flow.port();
    flow.role.as_deref().is_none_or(|role| role == peer.role())
        && (port.is_empty() || port.parse() == Ok(peer.port))
}

/// A flow without bytes.
fn failed_flow(peer: &Peer, of_peer: &OfPeer) -> Flow {
    let labels = [
        ("raddr", peer.addr.to_string()),
        (if peer.serves { "lport" } else { "rport" }, peer.port.to_string()),
        (
            "type",
            of_peer.class.map_or("", |class| class.as_str()).to_owned(),
        ),
        ("comm", process_name(&of_peer.comm).unwrap_or_default()),
    ];
    let labels: BTreeMap<_, _> = labels
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Flow {
        role: Some(peer.role().to_owned()),
        labels,
        recent: Some(OfRecords::new(of_peer)),
        ..Flow::default()
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::testing::record;
    use flowtap_pipeline::{Events, FlowKind, SendTime, TcpRecord};

    use super::*;
    use crate::verdict::{Cause, Tally};

    fn row(labels: &[(&str, &str)], role: Option<&str>) -> Flow {
        Flow {
            metric: "network_tcp_flow_egress".to_owned(),
            role: role.map(str::to_owned),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Flow::default()
        }
    }

    fn slow(remote: &str, min_rtt_us: u32) -> TcpRecord {
        let mut record = record("10.0.0.1:40000", remote).with_flow(|mut flow| {
            flow.kind = Some(FlowKind::Egress);
            flow
        });
        record.time = SendTime {
            receiver_us: 900_000,
            application_us: 100_000,
            ..SendTime::ZERO
        };
        record.min_rtt_us = min_rtt_us;
        record.retransmits = 2;
        record
    }

    #[test]
    fn a_row_has_the_verdict_of_its_peer_port_and_role_and_no_other_rows() {
        let mut tally = Tally::default();
        tally.add_tcp(0, &slow("192.0.2.7:443", 200));
        let mut fine = slow("192.0.2.7:80", 100);
        fine.time = SendTime {
            application_us: 1_000_000,
            ..SendTime::ZERO
        };
        tally.add_tcp(0, &fine);
        let peer = ("raddr", "192.0.2.7");
        let mut flows = vec![
            row(&[peer, ("rport", "443")], Some("egress")),
            row(&[peer, ("rport", "80")], Some("egress")),
            // Its labels have no port: both.
            row(&[peer], None),
            row(&[peer, ("lport", "443")], Some("ingress")),
            row(&[("peer_service", "shop/web")], None),
        ];
        attach(&mut flows, &tally.sums(None, |_, _| true));
        let cause = |flow: &Flow| {
            flow.recent
                .as_ref()
                .map(|recent| (recent.cause, recent.retransmits))
        };
        let causes: Vec<_> = flows.iter().map(cause).collect();
        assert_eq!(
            causes,
            [
                Some((Cause::Receiver, 2)),
                Some((Cause::Application, 2)),
                Some((Cause::Receiver, 4)),
                None,
                None
            ]
        );
        let times: Vec<_> = flows.iter().map(|flow| flow.rtt_microseconds).collect();
        assert_eq!(times, [Some(200.0), Some(100.0), Some(100.0), None, None]);
    }

    #[test]
    fn a_row_has_the_process_of_its_records_and_says_if_there_are_several() {
        let of = |process: &str| {
            slow("192.0.2.7:443", 200).with_flow(|mut flow| {
                flow.comm = [0; 16];
                flow.comm[..process.len()].copy_from_slice(process.as_bytes());
                flow
            })
        };
        let mut tally = Tally::default();
        let mut process = |names: &[&str]| {
            for name in names {
                tally.add_tcp(0, &of(name));
            }
            let mut flows = vec![row(&[("raddr", "192.0.2.7"), ("rport", "443")], Some("egress"))];
            attach(&mut flows, &tally.sums(None, |_, _| true));
            flows[0].process()
        };
        assert_eq!(process(&["curl", "", "curl"]), "curl");
        assert_eq!(process(&["web"]), "web,..");
    }

    #[test]
    fn a_peer_to_which_every_connect_fails_has_a_row() {
        let mut tally = Tally::default();
        let failed = TcpRecord {
            events: Events::FAILED,
            failure: 111,
            ..slow("192.0.2.7:443", 0)
        };
        tally.add_tcp(
            0,
            &TcpRecord {
                time: SendTime::ZERO,
                ..failed
            },
        );
        let mut flows = Vec::new();
        attach(&mut flows, &tally.sums(None, |_, _| true));
        assert_eq!((flows[0].peer(), flows[0].port()), ("192.0.2.7", "443"));
        let recent = flows[0].recent.as_ref().unwrap();
        assert_eq!((recent.cause, recent.failed), (Cause::Refused, 1));
    }
}
