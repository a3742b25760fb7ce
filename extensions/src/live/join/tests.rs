use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::live::Bytes;
use flowtap_pipeline::{
    HISTOGRAM_BUCKETS, HistogramPoint, LabelValue, Naming, Series, SumPoint, Timestamp, ValuePoint,
};

const AT: Timestamp = Timestamp::from_nanos(10_000_000_000);

/// The labels of a series.
type Pairs<'a> = &'a [(&'a str, &'a str)];

fn series(id: FamilyId, naming: Naming, labels: &[(&str, &str)]) -> Series {
    let pairs = labels
        .iter()
        .map(|(name, value)| (*name, LabelValue::Text(value)));
    Series::new(id.definition().named(naming), pairs, None, Timestamp::default())
}

fn sums(id: FamilyId, naming: Naming, rows: &[(Pairs<'_>, u64, u64)]) -> FamilySnapshot {
    let points = rows.iter().map(|(labels, total, delta)| SumPoint {
        series: series(id, naming, labels),
        total: *total,
        delta: *delta,
        updated: AT,
    });
    FamilySnapshot {
        family: id.definition().named(naming),
        points: Points::Sums(points.collect()),
        ended: Vec::new(),
    }
}

fn times(naming: Naming, rows: &[(Pairs<'_>, u64, f64)]) -> FamilySnapshot {
    let points = rows.iter().map(|(labels, count, sum)| {
        let mut buckets = [0; HISTOGRAM_BUCKETS + 1];
        buckets[3] = *count;
        HistogramPoint {
            series: series(FamilyId::Rtt, naming, labels),
            buckets: buckets.into(),
            sum: *sum,
            updated: AT,
        }
    });
    FamilySnapshot {
        family: FamilyId::Rtt.definition().named(naming),
        points: Points::Histograms(points.collect()),
        ended: Vec::new(),
    }
}

fn latest(families: Vec<FamilySnapshot>) -> Latest {
    Latest {
        snapshot: Arc::new(Snapshot {
            pipeline: "metrics".into(),
            at: AT,
            window: Duration::from_secs(2),
            last: false,
            replaced: false,
            families,
        }),
        before: Vec::new(),
    }
}

#[test]
fn both_directions_are_one_flow_with_the_peers_round_trip_time_and_retransmits() {
    let out: &[_] = &[
        ("raddr", "192.0.2.7"),
        ("rport", "443"),
        ("direction", "outbound"),
    ];
    let back: &[_] = &[("raddr", "192.0.2.7"), ("rport", "443"), ("direction", "inbound")];
    let other: &[_] = &[
        ("raddr", "192.0.2.8"),
        ("rport", "443"),
        ("direction", "outbound"),
    ];
    let mut latest = latest(vec![
        sums(
            FamilyId::Egress,
            Naming::PrimusLens,
            &[(out, 100, 10), (back, 7, 0), (other, 5, 0)],
        ),
        times(
            Naming::PrimusLens,
            &[
                (&[("raddr", "192.0.2.7"), ("direction", "outbound")], 2, 300.0),
                (&[("raddr", "192.0.2.7"), ("direction", "inbound")], 3, 600.0),
            ],
        ),
        sums(
            FamilyId::Retransmits,
            Naming::PrimusLens,
            &[(&[("raddr", "192.0.2.7"), ("type", "externalHosts")], 9, 1)],
        ),
    ]);
    let Points::Histograms(points) = &latest.snapshot.families[1].points else {
        panic!("histograms");
    };
    latest.before = vec![Before {
        series: points[1].series.clone(),
        count: 1,
        sum: 100.0,
    }];
    let flows = flows(&latest, &[]);
    assert_eq!(flows.len(), 2);
    let flow = &flows[0];
    assert_eq!((flow.peer(), flow.port()), ("192.0.2.7", "443"));
    assert_eq!(flow.role.as_deref(), Some("egress"));
    assert!(!flow.labels.contains_key("direction"));
    let bytes = |total, per_second| Some(Bytes { total, per_second });
    assert_eq!(
        (flow.outbound, flow.inbound, flow.undirected),
        (bytes(100, 5.0), bytes(7, 0.0), None)
    );
    // (300 + 600 - 100) / (2 + 3 - 1)
    assert_eq!(flow.smoothed_rtt_microseconds, Some(200.0));
    assert_eq!(flow.rtt_microseconds, None, "a mean is not the smallest");
    let seen = Retransmits {
        total: 9,
        last_window: 1,
    };
    assert_eq!(flow.retransmits, Some(seen));
    assert_eq!(
        (flows[1].smoothed_rtt_microseconds, flows[1].retransmits),
        (None, None)
    );
}

#[test]
fn retransmits_of_an_address_are_shown_at_none_of_its_ports_if_there_are_several() {
    let peer = ("raddr", "192.0.2.7");
    let retransmits = |labels: Pairs<'_>| sums(FamilyId::Retransmits, Naming::PrimusLens, &[(labels, 9, 1)]);
    let egress = |rows: &[(Pairs<'_>, u64, u64)]| sums(FamilyId::Egress, Naming::PrimusLens, rows);
    let ingress = |rows: &[(Pairs<'_>, u64, u64)]| sums(FamilyId::Ingress, Naming::PrimusLens, rows);
    let shown = |families| {
        let flows = flows(&latest(families), &[]);
        let totals = flows.iter().map(|flow| flow.retransmits.map(|seen| seen.total));
        totals.collect::<Vec<_>>()
    };
    let two_ports: &[(Pairs<'_>, _, _)] = &[
        (&[peer, ("rport", "80")], 1, 1),
        (&[peer, ("rport", "443")], 1, 1),
    ];
    assert_eq!(shown(vec![egress(two_ports), retransmits(&[peer])]), [None, None]);
    let of_a_port = retransmits(&[peer, ("rport", "443")]);
    assert_eq!(shown(vec![egress(two_ports), of_a_port]), [None, Some(9)]);
    let one: &[(Pairs<'_>, _, _)] = &[(&[peer], 1, 1)];
    assert_eq!(
        shown(vec![egress(one), ingress(one), retransmits(&[peer])]),
        [None, None]
    );
    assert_eq!(shown(vec![egress(one), retransmits(&[peer])]), [Some(9)]);
}

#[test]
fn a_flow_shows_the_answers_of_its_peer_and_its_protocol_by_either_naming() {
    for (naming, bytes, protocol) in [
        (Naming::PrimusLens, FamilyId::Egress, "protocol"),
        (Naming::Otel, FamilyId::Io, "network.protocol.name"),
    ] {
        let raddr = if naming == Naming::Otel {
            "network.peer.address"
        } else {
            "raddr"
        };
        let mut answers = times(naming, &[(&[(raddr, "192.0.2.7")], 4, 0.01)]);
        answers.family = FamilyId::ExchangeDuration.definition().named(naming);
        let latest = latest(vec![
            sums(
                bytes,
                naming,
                &[(&[(raddr, "192.0.2.7"), (protocol, "http")], 9, 9)],
            ),
            answers,
        ]);
        let flow = flows(&latest, &[]).remove(0);
        assert_eq!(flow.label("protocol"), "http", "{naming:?}");
        assert_eq!(flow.exchanges, Some(4));
        assert!((flow.answer_microseconds.unwrap() - 2_500.0).abs() < 1e-6);
        assert_eq!(flow.smoothed_rtt_microseconds, None);
    }
}

#[test]
fn a_flow_shows_what_its_senders_waited_for_in_the_last_window() {
    let peer = ("raddr", "192.0.2.7");
    let point = |limit, value| ValuePoint {
        series: series(FamilyId::SendTime, Naming::PrimusLens, &[peer, ("limit", limit)]),
        value,
        updated: AT,
    };
    let points = vec![point("network", 3.5), point("answer", 1.0)];
    let before = Before {
        series: points[0].series.clone(),
        count: 0,
        sum: 3.0,
    };
    let mut latest = latest(vec![
        sums(FamilyId::Egress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
        FamilySnapshot {
            family: FamilyId::SendTime.definition().named(Naming::PrimusLens),
            points: Points::Values(points),
            ended: Vec::new(),
        },
    ]);
    latest.before = vec![before];
    let expected = Shares {
        network: 0.5,
        answer: 1.0,
        ..Shares::default()
    };
    assert_eq!(flows(&latest, &[])[0].send_time, Some(expected));
}

#[test]
fn the_smallest_and_the_smoothed_times_are_kept_apart() {
    let peer = ("raddr", "192.0.2.7");
    let mut least = times(Naming::PrimusLens, &[(&[peer], 1, 15.0)]);
    least.family = FamilyId::MinRtt.definition().named(Naming::PrimusLens);
    let latest = latest(vec![
        sums(FamilyId::Egress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
        times(Naming::PrimusLens, &[(&[peer], 1, 20_000.0)]),
        least,
    ]);
    let flow = &flows(&latest, &[])[0];
    assert_eq!(
        (flow.rtt_microseconds, flow.smoothed_rtt_microseconds),
        (Some(15.0), Some(20_000.0))
    );
}

#[test]
fn times_are_separate_by_role_where_they_have_one() {
    let peer = ("raddr", "192.0.2.7");
    let latest = latest(vec![
        sums(FamilyId::Egress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
        sums(FamilyId::Ingress, Naming::PrimusLens, &[(&[peer], 1, 1)]),
        times(
            Naming::PrimusLens,
            &[
                (&[peer, ("flow", "egress")], 1, 10.0),
                (&[peer, ("flow", "ingress")], 1, 20.0),
            ],
        ),
    ]);
    let times: Vec<_> = flows(&latest, &[])
        .iter()
        .map(|flow| flow.smoothed_rtt_microseconds)
        .collect();
    assert_eq!(times, [Some(10.0), Some(20.0)]);
}

#[test]
fn opentelemetrys_naming_gives_the_same_flows_in_the_configs_words() {
    let latest = latest(vec![
        sums(
            FamilyId::Io,
            Naming::Otel,
            &[(
                &[
                    ("network.peer.address", "192.0.2.7"),
                    ("flowtap.role", "ingress"),
                    ("server.port", "80"),
                    ("network.io.direction", "receive"),
                    ("flowtap.peer.class", "externalHosts"),
                    ("process.executable.name", "nginx"),
                ],
                4,
                2,
            )],
        ),
        times(
            Naming::Otel,
            &[(&[("network.peer.address", "192.0.2.7")], 1, 0.000_25)],
        ),
    ]);
    let flows = flows(&latest, &[]);
    let flow = &flows[0];
    assert_eq!(
        (
            flow.peer(),
            flow.port(),
            flow.class(),
            flow.process().as_str(),
            flow.metric.as_str()
        ),
        ("192.0.2.7", "80", "externalHosts", "nginx", "network_tcp_io")
    );
    assert_eq!(flow.inbound.map(|bytes| bytes.total), Some(4));
    assert!((flow.smoothed_rtt_microseconds.unwrap() - 250.0).abs() < 1e-6);
}

#[test]
fn labels_that_a_pipeline_renames_join_by_their_names_in_the_config() {
    for naming in [Naming::PrimusLens, Naming::Otel] {
        let peer = ("who", "192.0.2.7");
        let id = match naming {
            Naming::PrimusLens => FamilyId::Egress,
            Naming::Otel => FamilyId::Io,
        };
        let latest = latest(vec![
            sums(id, naming, &[(&[peer], 10, 10)]),
            times(naming, &[(&[peer], 2, 300.0)]),
        ]);
        let renamed = [("who".to_owned(), Label::Raddr)];
        let flows = flows(&latest, &renamed);
        assert_eq!(flows[0].peer(), "192.0.2.7");
        assert!(flows[0].smoothed_rtt_microseconds.is_some(), "{naming:?}");
    }
}

#[test]
fn a_window_without_the_peers_address_shows_no_time_that_may_be_anothers() {
    let latest = latest(vec![
        sums(FamilyId::Dns, Naming::PrimusLens, &[(&[], 3, 3)]),
        times(Naming::PrimusLens, &[(&[("raddr", "192.0.2.7")], 1, 10.0)]),
    ]);
    let flows = flows(&latest, &[]);
    assert_eq!((flows[0].peer(), flows[0].class()), ("(all)", "dns"));
    assert_eq!(flows[0].undirected.map(|bytes| bytes.total), Some(3));
    assert_eq!(flows[0].smoothed_rtt_microseconds, None);
}
