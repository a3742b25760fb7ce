use std::collections::HashMap;
use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::testing::{context, record};
use crate::window::config::FamilyConfig;
use crate::window::families::FamilyId;
use flowtap_pipeline::{Endpoint, Naming, NodeInfo};

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * SECOND)
}

fn window(max_series: usize, expiration: u64) -> Window {
    window_of(Config::default(), max_series, expiration)
}

fn window_of(exposition: Config, max_series: usize, expiration: u64) -> Window {
    let config = Config {
        interval: Duration::from_secs(5),
        max_series: NonZeroUsize::new(max_series).unwrap(),
        metric_expiration: Duration::from_secs(expiration),
        ..exposition
    };
    let mut window = Window::new(&config, &context(NodeInfo::default()));
    window.begin(at(2));
    window
}

fn flow(kind: FlowKind, class: PeerClass, sent: i64, received: i64) -> FlowRecord {
    FlowRecord {
        kind: Some(kind),
        class: Some(class),
        sent_bytes: sent,
        received_bytes: received,
        rtt_us: 250,
        ..record("192.0.2.1:40000", "198.51.100.7:443")
    }
}

fn fold(window: &mut Window, records: &[FlowRecord]) {
    window.fold(&FlowBatch {
        records: records.to_vec(),
        ..FlowBatch::default()
    });
}

/// Every series of a snapshot: `name{labels}` and total, or count of a histogram.
fn shown(snapshot: &Snapshot) -> HashMap<String, u64> {
    let mut shown = HashMap::new();
    for family in &snapshot.families {
        let name = |labels: &str| format!("{}{{{labels}}}", family.family.name);
        match &family.points {
            Points::Sums(points) => {
                shown.extend(points.iter().map(|p| (name(&p.series.joined_labels()), p.total)));
            }
            Points::Histograms(points) => {
                shown.extend(
                    points
                        .iter()
                        .map(|p| (name(&p.series.joined_labels()), p.count())),
                );
            }
        }
    }
    shown
}

#[test]
fn with_little_memory_new_series_fold_and_with_none_records_are_shed_until_there_is_some_again() {
    let context = context(NodeInfo::default());
    let mut window = Window::new(&Config::default(), &context);
    window.begin(at(2));
    let peer = |last: u8| FlowRecord {
        kind: Some(FlowKind::Egress),
        class: Some(PeerClass::ExternalHosts),
        sent_bytes: 100,
        ..record("192.0.2.1:40000", &format!("198.51.100.{last}:443"))
    };
    let series = |last: u8| {
        format!(
            r#"network_tcp_flow_egress{{raddr="198.51.100.{last}",rport="443",direction="outbound",type="externalHosts"}}"#
        )
    };
    let other = r#"network_tcp_flow_egress{raddr="other",rport="other",direction="other",type="other"}"#;
    fold(&mut window, &[peer(1)]);
    context.memory.set(MemoryState::Short);
    fold(&mut window, &[peer(1), peer(2)]);
    context.memory.set(MemoryState::Exhausted);
    let opened = FlowRecord {
        events: Events::OPENED,
        ..peer(1)
    };
    fold(&mut window, &[peer(1), opened]);
    context.memory.set(MemoryState::Ample);
    fold(&mut window, &[peer(3)]);
    let shown = shown(&window.advance(at(5)).unwrap());
    assert_eq!(shown[&series(1)], 200);
    assert_eq!(shown[other], 100);
    assert_eq!(shown[&series(3)], 100);
    assert!(!shown.contains_key(&series(2)), "{shown:?}");
    // What happened to a connection is not shed.
    let active: u64 = shown
        .iter()
        .filter(|(name, _)| name.starts_with("network_tcp_connections_active"))
        .map(|(_, value)| value)
        .sum();
    assert_eq!(active, 1);
}

#[test]
fn bytes_go_to_the_family_of_their_kind_in_their_direction() {
    let mut window = window(10, 600);
    fold(
        &mut window,
        &[
            flow(FlowKind::Egress, PeerClass::ExternalHosts, 10, 20),
            flow(FlowKind::Ingress, PeerClass::InternalHosts, 30, 0),
        ],
    );
    let shown = shown(&window.advance(at(5)).unwrap());
    let egress = |direction| {
        format!(
            r#"network_tcp_flow_egress{{raddr="198.51.100.7",rport="443",direction="{direction}",type="externalHosts"}}"#
        )
    };
    assert_eq!(shown[&egress("outbound")], 10);
    assert_eq!(shown[&egress("inbound")], 20);
    let ingress = r#"network_tcp_flow_ingress{lport="40000",raddr="198.51.100.7",direction="outbound",type="internalHosts"}"#;
    assert_eq!(shown[ingress], 30);
    // A direction without bytes makes no series.
    assert_eq!(
        shown
            .keys()
            .filter(|key| key.starts_with("network_tcp_flow_ingress"))
            .count(),
        1
    );
    let rtt = |direction| format!(r#"network_tcp_flow_rtt{{raddr="198.51.100.7",direction="{direction}"}}"#);
    assert_eq!((shown[&rtt("outbound")], shown[&rtt("inbound")]), (2, 1));
}

#[test]
fn pods_services_and_dns_are_summed_and_have_no_round_trip_time() {
    let mut window = window(10, 600);
    fold(
        &mut window,
        &[
            flow(FlowKind::Egress, PeerClass::K8sPod, 1, 2),
            flow(FlowKind::Ingress, PeerClass::K8sPod, 4, 8),
            flow(FlowKind::Egress, PeerClass::K8sSvc, 16, 32),
            flow(FlowKind::Egress, PeerClass::Dns, 64, 128),
        ],
    );
    let shown = shown(&window.advance(at(5)).unwrap());
    let expected = [
        (r#"network_k8s_tcp_flow{type="k8sPod"}"#.to_owned(), 15),
        (r#"network_k8s_tcp_flow{type="k8sSvc"}"#.to_owned(), 48),
        ("network_flow_dns{}".to_owned(), 192),
    ];
    assert_eq!(shown, HashMap::from(expected));
}

#[test]
fn near_peers_have_round_trip_times_where_the_config_wants_them_and_otel_has_them_in_seconds() {
    let exposition = Config {
        rtt_of_near_peers: true,
        naming: Naming::Otel,
        ..Config::default()
    };
    let mut window = window_of(exposition, 10, 600);
    let near = [
        PeerClass::K8sPod,
        PeerClass::K8sSvc,
        PeerClass::Dns,
        PeerClass::Localhost,
        PeerClass::Docker,
    ];
    fold(
        &mut window,
        &near.map(|class| flow(FlowKind::Egress, class, 1, 0)),
    );
    let snapshot = window.advance(at(5)).unwrap();
    let family = &snapshot.families[FamilyId::Rtt as usize];
    let Points::Histograms(points) = &family.points else {
        panic!("histograms")
    };
    assert_eq!((family.family.name, family.family.unit), ("flowtap.tcp.rtt", "s"));
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].count(), 5);
    assert!(
        (points[0].sum - 5.0 * 0.000_25).abs() < 1e-12,
        "{}",
        points[0].sum
    );
    // 250 µs are above the bound of 200 µs and at most 300 µs.
    assert_eq!(points[0].buckets[3], 5);
}

#[test]
fn a_connection_that_opened_when_memory_was_short_is_not_open_for_ever() {
    let context = context(NodeInfo::default());
    let mut window = Window::new(&Config::default(), &context);
    window.begin(at(2));
    let with = |events| FlowRecord {
        events,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 0, 0)
    };
    let active = |snapshot: &Snapshot| {
        let shown = shown(snapshot).into_iter();
        let active = shown.filter(|(name, _)| name.starts_with("network_tcp_connections_active"));
        active.collect::<Vec<_>>()
    };
    let other = r#"network_tcp_connections_active{flow="other",type="other"}"#.to_owned();
    context.memory.set(MemoryState::Short);
    fold(&mut window, &[with(Events::OPENED), with(Events::OPENED)]);
    assert_eq!(active(&window.advance(at(5)).unwrap()), [(other.clone(), 2)]);
    context.memory.set(MemoryState::Ample);
    fold(&mut window, &[with(Events::CLOSED)]);
    assert_eq!(active(&window.advance(at(10)).unwrap()), [(other, 1)]);
}

#[test]
fn connections_are_counted_by_event_and_those_that_are_open_are_known() {
    let mut window = window(10, 600);
    let with = |events, failure| FlowRecord {
        events,
        failure,
        role: Role::Client,
        handshake_us: 300,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 0, 0)
    };
    let opened = with(Events::OPENED, 0);
    fold(
        &mut window,
        &[
            opened.clone(),
            opened,
            with(Events::ADOPTED, 0),
            with(Events::OPENED | Events::CLOSED, 0),
            with(Events::CLOSED | Events::RESET, 104),
            with(Events::FAILED, 111),
            with(Events::FAILED, 110),
        ],
    );
    let shown = shown(&window.advance(at(5)).unwrap());
    let event = |event| {
        shown[&format!(r#"network_tcp_connections{{flow="egress",event="{event}",type="externalHosts"}}"#)]
    };
    assert_eq!(
        (event("opened"), event("closed"), event("reset"), event("failed")),
        (3, 2, 1, 2)
    );
    assert_eq!(
        shown[r#"network_tcp_connections_active{flow="egress",type="externalHosts"}"#],
        2
    );
    let failed =
        |reason| shown[&format!(r#"network_tcp_connect_failures{{reason="{reason}",type="externalHosts"}}"#)];
    assert_eq!((failed("refused"), failed("timed_out")), (1, 1));
    assert_eq!(
        shown[r#"network_tcp_connect_duration{raddr="198.51.100.7",type="externalHosts"}"#],
        3
    );
}

#[test]
fn windows_close_on_multiples_of_their_interval_and_not_before() {
    let mut window = window(10, 600);
    assert!(window.advance(at(4)).is_none());
    let first = window.advance(at(5)).unwrap();
    assert_eq!(
        (first.at, first.window, first.last),
        (at(5), Duration::from_secs(3), false)
    );
    assert!(window.advance(at(9)).is_none());
    // A late tick closes one window, not two.
    assert_eq!(window.advance(at(17)).unwrap().at, at(17));
    assert!(window.advance(at(19)).is_none());
    assert!(window.advance(at(20)).is_some());
    assert!(window.finish(at(21)).last);
}

#[test]
fn windows_follow_a_clock_that_was_set_back() {
    let mut window = window(10, 600);
    window.advance(at(1000)).unwrap();
    assert_eq!(window.advance(at(100)).unwrap().at, at(100));
    assert!(window.advance(at(104)).is_none());
    assert_eq!(window.advance(at(105)).unwrap().at, at(105));
}

#[test]
fn a_series_that_nothing_changes_leaves_and_is_listed_once() {
    let mut window = window(10, 10);
    fold(&mut window, &[flow(FlowKind::Egress, PeerClass::Dns, 5, 0)]);
    let live_and_ended = |snapshot: Snapshot| {
        let dns = &snapshot.families[FamilyId::Dns as usize];
        (dns.points.len(), dns.ended.len())
    };
    assert_eq!(live_and_ended(window.advance(at(5)).unwrap()), (1, 0));
    assert_eq!(live_and_ended(window.advance(at(10)).unwrap()), (1, 0));
    assert_eq!(live_and_ended(window.advance(at(15)).unwrap()), (0, 1));
    assert_eq!(live_and_ended(window.advance(at(20)).unwrap()), (0, 0));
    // It may come again, and then begins anew.
    fold(&mut window, &[flow(FlowKind::Egress, PeerClass::Dns, 7, 0)]);
    let snapshot = window.advance(at(25)).unwrap();
    let Points::Sums(points) = &snapshot.families[FamilyId::Dns as usize].points else {
        panic!("sums")
    };
    assert_eq!((points[0].total, points[0].series.start()), (7, at(20)));
}

#[test]
fn an_open_connection_is_shown_however_long_nothing_happens() {
    let mut window = window(10, 10);
    let opened = FlowRecord {
        events: Events::OPENED,
        ..flow(FlowKind::Egress, PeerClass::Dns, 0, 0)
    };
    fold(&mut window, &[opened]);
    for tick in (5..100).step_by(5) {
        let snapshot = window.advance(at(tick)).unwrap();
        assert_eq!(
            snapshot.families[FamilyId::ConnectionsActive as usize]
                .points
                .len(),
            1,
            "at {tick}"
        );
    }
}

#[test]
fn ten_thousand_peers_against_a_budget_of_one_thousand_are_1001_series_with_true_sums() {
    let mut window = window(1000, 600);
    for number in 0..10_000u32 {
        let remote = Endpoint::new(std::net::IpAddr::V4((0x0a00_0000 + number).into()), 443);
        fold(
            &mut window,
            &[FlowRecord {
                remote,
                ..flow(
                    FlowKind::Egress,
                    PeerClass::InternalHosts,
                    i64::from(number) + 1,
                    0,
                )
            }],
        );
    }
    assert_eq!(window.sums.take_folded()[FamilyId::Egress as usize], 9_000);
    let snapshot = window.advance(at(5)).unwrap();
    let Points::Sums(points) = &snapshot.families[FamilyId::Egress as usize].points else {
        panic!("sums")
    };
    assert_eq!(points.len(), 1001);
    assert_eq!(
        points.iter().map(|point| point.total).sum::<u64>(),
        (1..=10_000).sum::<u64>()
    );
    let other = points
        .iter()
        .filter(|point| point.series.joined_labels().contains("other"))
        .count();
    assert_eq!(other, 1);
}

const BYTE_FAMILIES: [FamilyId; 4] = [FamilyId::Egress, FamilyId::Ingress, FamilyId::K8s, FamilyId::Dns];

fn any_record() -> impl Strategy<Value = FlowRecord> {
    let class = prop_oneof![
        Just(PeerClass::K8sPod),
        Just(PeerClass::Dns),
        Just(PeerClass::Localhost),
        Just(PeerClass::ExternalHosts)
    ];
    let kind = prop_oneof![Just(FlowKind::Ingress), Just(FlowKind::Egress)];
    (kind, class, 0..5u8, 0..3u16, 0..1000i64, 0..1000i64).prop_map(
        |(kind, class, host, port, sent, received)| {
            let remote = Endpoint::new([192, 0, 2, host].into(), port);
            let local = Endpoint::new([192, 0, 2, 200].into(), port);
            FlowRecord {
                local,
                remote,
                pid: u32::from(port),
                ..flow(kind, class, sent, received)
            }
        },
    )
}

/// Any choice of the labels that each family of bytes can have, by either naming.
fn any_exposition() -> impl Strategy<Value = Config> {
    let labels = BYTE_FAMILIES.map(|id| {
        let possible: Vec<_> = id.definition().possible().collect();
        let count = possible.len();
        prop::sample::subsequence(possible, 0..=count)
    });
    let naming = prop_oneof![Just(Naming::PrimusLens), Just(Naming::Otel)];
    (labels, naming).prop_map(|(labels, naming)| {
        let name = |id: FamilyId| id.definition().family.name.to_owned();
        let own = |labels| FamilyConfig {
            enabled: true,
            labels: Some(labels),
        };
        Config {
            naming,
            families: BYTE_FAMILIES.map(name).into_iter().zip(labels.map(own)).collect(),
            ..Config::default()
        }
    })
}

proptest! {
    #[test]
    fn sums_over_all_series_equal_the_bytes_that_went_in_whatever_the_labels_the_budget_and_the_expiry(
        windows in prop::collection::vec(prop::collection::vec(any_record(), 0..20), 1..20),
        exposition in any_exposition(),
        max_series in 1..12usize,
        expiration in 5..20u64,
    ) {
        let mut window = window_of(exposition, max_series, expiration);
        let (mut went_in, mut deltas) = (0, 0);
        let mut last = HashMap::new();
        let mut ended = 0;
        for (number, records) in windows.iter().enumerate() {
            fold(&mut window, records);
            went_in += records.iter().map(|r| r.sent_bytes + r.received_bytes).sum::<i64>().unsigned_abs();
            let snapshot = window.advance(at(5 * (number as u64 + 1))).unwrap();
            for family in BYTE_FAMILIES.map(|id| &snapshot.families[id as usize]) {
                let Points::Sums(points) = &family.points else { panic!("sums") };
                prop_assert!(points.len() <= max_series + 1);
                for point in points {
                    deltas += point.delta;
                    let key = point.series.id();
                    last.insert(key, (point.series.clone(), point.total));
                }
                for series in &family.ended {
                    ended += last.remove(&series.id()).map_or(0, |(_, total)| total);
                }
            }
        }
        let live: u64 = last.values().map(|(_, total)| total).sum();
        prop_assert_eq!(live + ended, went_in);
        prop_assert_eq!(deltas, went_in);
    }
}
