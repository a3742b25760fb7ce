//! Tests of `top`: which series are exposed, and that nothing is lost or counted twice.

use std::collections::BTreeMap;

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::testing::{AggregatorTest, config, record};
use flowtap_pipeline::{FlowKind, PeerClass, Points, Series, Snapshot, TcpRecord};

use super::FACTORY;

const RTT: &str = "network_tcp_flow_rtt";
const EGRESS: &str = "network_tcp_flow_egress";

fn window(family: &str, top: &str) -> AggregatorTest {
    AggregatorTest::new(
        FACTORY,
        &format!(
            "{{interval: 5s, metric_expiration: 20s, families: {{{family}: {{top: {top}, labels: [raddr]}}}}}}"
        ),
    )
}

fn sent(peer: u8, bytes: i64) -> TcpRecord {
    let mut record = record("192.0.2.1:40000", &format!("203.0.113.{peer}:443"));
    record.flow.kind = Some(FlowKind::Egress);
    record.flow.class = Some(PeerClass::ExternalHosts);
    record.sent_bytes = bytes;
    record.rtt_us = 60;
    record
}

/// Totals and increases by the label of the peer.
fn shown(snapshot: &Snapshot) -> BTreeMap<String, (u64, u64)> {
    let Points::Sums(points) = &snapshot.families[FamilyId::Egress as usize].points else {
        panic!("sums")
    };
    let shown = points.iter().map(|point| {
        let peer = point.series.joined_labels().replace("203.0.113.", "");
        let peer = peer.trim_start_matches("raddr=\"").trim_end_matches('"');
        (peer.to_owned(), (point.total, point.delta))
    });
    shown.collect()
}

fn of(pairs: &[(&str, u64, u64)]) -> BTreeMap<String, (u64, u64)> {
    let pairs = pairs.iter();
    pairs
        .map(|(peer, total, delta)| ((*peer).to_owned(), (*total, *delta)))
        .collect()
}

#[test]
fn the_largest_are_exposed_and_the_rest_is_in_other() {
    let mut window = window(EGRESS, "{n: 2}");
    window.fold([sent(1, 100), sent(2, 500), sent(3, 300), sent(4, 10)]);
    let snapshot = window.advance(5).unwrap();
    assert_eq!(
        shown(&snapshot),
        of(&[("2", 500, 500), ("3", 300, 300), ("other", 110, 110)])
    );
    // 4 takes the place of 3, whose series ends. Its earlier value stays in `other`.
    window.fold([sent(2, 400), sent(3, 1), sent(4, 1_000)]);
    let snapshot = window.advance(10).unwrap();
    assert_eq!(
        shown(&snapshot),
        of(&[("2", 900, 400), ("4", 1_000, 1_000), ("other", 111, 1)])
    );
    let ended = &snapshot.families[FamilyId::Egress as usize].ended;
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].joined_labels(), r#"raddr="203.0.113.3""#);
    // It comes back from 0.
    window.fold([sent(3, 5_000)]);
    let snapshot = window.advance(15).unwrap();
    assert_eq!(shown(&snapshot)["3"], (5_000, 5_000));
}

#[test]
fn two_that_are_alike_do_not_take_turns() {
    let mut window = window(EGRESS, "{n: 1}");
    window.fold([sent(1, 1_000), sent(2, 990)]);
    assert!(shown(&window.advance(5).unwrap()).contains_key("1"));
    for at in 2..10 {
        window.fold([sent(1, 1_000), sent(2, 1_100)]);
        assert!(shown(&window.advance(at * 5).unwrap()).contains_key("1"), "{at}");
    }
}

#[test]
fn by_total_an_old_giant_outranks_a_burst() {
    for (by, expected) in [("total", "1"), ("rate", "2")] {
        let mut window = window(EGRESS, &format!("{{n: 1, by: {by}}}"));
        for at in 1..=3 {
            window.fold([sent(1, 1_000)]);
            window.advance(at * 5).unwrap();
        }
        window.fold([sent(1, 1), sent(2, 1_500)]);
        let shown = shown(&window.advance(20).unwrap());
        assert!(shown.contains_key(expected), "{by}: {shown:?}");
    }
}

#[test]
fn increases_of_series_and_other_are_exactly_the_bytes_whatever_changes_places() {
    let mut window = window(EGRESS, "{n: 5}");
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut sum, mut last) = (0, BTreeMap::<(String, u64), u64>::new());
    let mut places_changed = 0;
    for at in 1..=60 {
        let mut bytes = 0;
        for _ in 0..random(40) {
            let peer = u8::try_from(random(30)).unwrap();
            let more = random(10_000) * (1 + u64::from(peer) * (at % 5));
            bytes += more;
            window.fold([sent(peer, i64::try_from(more).unwrap())]);
        }
        let snapshot = window.advance(at * 5).unwrap();
        let increases: u64 = shown(&snapshot).values().map(|(_, delta)| delta).sum();
        assert_eq!(increases, bytes, "window {at}");
        sum += bytes;
        let family = &snapshot.families[FamilyId::Egress as usize];
        places_changed += family.ended.len();
        let Points::Sums(points) = &family.points else {
            panic!("sums")
        };
        assert!(points.len() <= 6);
        for point in points {
            let id = (point.series.joined_labels(), point.series.start().as_nanos());
            let before = last.insert(id, point.total).unwrap_or_default();
            assert!(point.total >= before, "a counter fell");
        }
    }
    assert!(places_changed > 10, "{places_changed}");
    // Each series at its end, and what is left.
    assert_eq!(last.values().sum::<u64>(), sum);
}

#[test]
fn a_histogram_keeps_the_number_of_its_observations() {
    let mut window = window(RTT, "{n: 1}");
    let mut counts = BTreeMap::<(String, u64), u64>::new();
    let mut all = 0;
    for at in 1..=20_u8 {
        for peer in 0..4 {
            let times = if peer == at / 5 { 9 } else { 1 };
            all += times;
            window.fold((0..times).map(|_| sent(peer, 1)));
        }
        let snapshot = window.advance(u64::from(at) * 5).unwrap();
        let Points::Histograms(points) = &snapshot.families[FamilyId::Rtt as usize].points else {
            panic!("histograms")
        };
        assert!(points.len() <= 2);
        for point in points {
            let id = (point.series.joined_labels(), point.series.start().as_nanos());
            counts.insert(id, point.count());
        }
    }
    assert!(counts.len() >= 4, "{counts:?}");
    assert_eq!(counts.values().sum::<u64>(), all);
}

#[test]
fn series_beyond_the_top_expire_without_a_trace_and_budgets_are_per_family() {
    let mut small = AggregatorTest::new(
        FACTORY,
        "{interval: 5s, max_series: 1000, families: {network_tcp_flow_egress: {max_series: 2, metric_expiration: 5s, labels: [raddr]}}}",
    );
    small.fold((1..=9).map(|peer| sent(peer, 10)));
    let snapshot = small.advance(5).unwrap();
    assert_eq!(shown(&snapshot)["other"], (70, 70));
    assert!(snapshot.families[FamilyId::Rtt as usize].points.len() == 9);
    let snapshot = small.advance(10).unwrap();
    assert_eq!(snapshot.families[FamilyId::Egress as usize].ended.len(), 3);
    assert!(snapshot.families[FamilyId::Rtt as usize].ended.is_empty());
    let mut top = window(EGRESS, "{n: 1}");
    top.fold([sent(1, 10), sent(2, 20)]);
    top.advance(5).unwrap();
    top.fold([sent(2, 20)]);
    let snapshot = top.advance(25).unwrap();
    let ended = snapshot.families[FamilyId::Egress as usize].ended.iter();
    let ended: Vec<_> = ended.map(Series::joined_labels).collect();
    assert_eq!(
        ended,
        [r#"raddr="other""#],
        "a series that was never exposed does not end"
    );
}

#[test]
fn what_can_have_no_top_or_no_such_budget_is_an_error_with_its_key() {
    for (family, expected) in [
        (
            "network_tcp_connections_active: {top: {n: 5}}",
            "families.network_tcp_connections_active.top: only a counter or a histogram",
        ),
        (
            "network_tcp_flow_egress: {max_series: 10, top: {n: 11}}",
            "families.network_tcp_flow_egress.top: 11 series are more than `max_series`, which is 10",
        ),
        (
            "network_tcp_flow_egress: {metric_expiration: 1s}",
            "families.network_tcp_flow_egress.metric_expiration: must be at least `interval`",
        ),
        ("network_tcp_flow_egress: {top: {by: rate}}", "missing field"),
    ] {
        let error = config(FACTORY, &format!("families: {{{family}}}")).expect_err(family);
        assert!(error.contains(expected), "{error}");
    }
}
