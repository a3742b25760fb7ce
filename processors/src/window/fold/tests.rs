use std::collections::HashMap;
use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::testing::{context, record};
use crate::window::FamilyBuckets;
use crate::window::config::FamilyConfig;
use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::findings::Registration;
use flowtap_pipeline::{
    Census, Endpoint, Events, FindingKind, FindingRecord, Flow, FlowKind, HISTOGRAM_BUCKETS, HistogramPoint,
    Naming, NodeInfo, PeerClass, Points, Queues, ResetBy, Role, SendTime, Snapshot, SumPoint, TcpRecord,
    Unit,
};

const SECOND: u64 = 1_000_000_000;

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * SECOND)
}

pub(super) fn window(max_series: usize, expiration: u64) -> Window {
    window_of(Config::default(), max_series, expiration)
}

pub(super) fn window_of(exposition: Config, max_series: usize, expiration: u64) -> Window {
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

fn flow(kind: FlowKind, class: PeerClass, sent: i64, received: i64) -> TcpRecord {
    TcpRecord {
        sent_bytes: sent,
        received_bytes: received,
        rtt_us: 250,
        ..record("192.0.2.1:40000", "198.51.100.7:443").with_flow(|flow| Flow {
            kind: Some(kind),
            class: Some(class),
            ..flow
        })
    }
}

fn fold(window: &mut Window, records: &[TcpRecord]) {
    window.fold(&FlowBatch {
        tcp: records.to_vec(),
        ..FlowBatch::default()
    });
}

/// Families but that of totals, which has all its series always.
fn of_peers(snapshot: &Snapshot) -> impl Iterator<Item = &FamilySnapshot> {
    let totals = FamilyId::Totals as usize;
    snapshot
        .families
        .iter()
        .enumerate()
        .filter(move |(index, _)| *index != totals)
        .map(|(_, family)| family)
}

/// Every series of a snapshot: `name{labels}` and total, microseconds of a time, or count of a histogram.
pub(super) fn shown(snapshot: &Snapshot) -> HashMap<String, u64> {
    let mut shown = HashMap::new();
    for family in of_peers(snapshot) {
        let name = |labels: &str| format!("{}{{{labels}}}", family.family.name);
        match &family.points {
            Points::Sums(points) => {
                shown.extend(points.iter().map(|p| (name(&p.series.joined_labels()), p.total)));
            }
            Points::Values(points) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "times are positive, and of seconds here"
                )]
                let microseconds = |value: f64| (value * 1e6).round() as u64;
                shown.extend(
                    points
                        .iter()
                        .map(|p| (name(&p.series.joined_labels()), microseconds(p.value))),
                );
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
    let peer = |last: u8| TcpRecord {
        sent_bytes: 100,
        ..record("192.0.2.1:40000", &format!("198.51.100.{last}:443")).with_flow(|flow| Flow {
            kind: Some(FlowKind::Egress),
            class: Some(PeerClass::ExternalHosts),
            ..flow
        })
    };
    let series = |last: u8| {
        format!(
            r#"network_tcp_flow_egress{{raddr="198.51.100.{last}",rport="443",direction="outbound",type="externalHosts"}}"#
        )
    };
    let other =
        r#"network_tcp_flow_egress{raddr="other",rport="other",direction="outbound",type="externalHosts"}"#;
    fold(&mut window, &[peer(1)]);
    context.memory.set(MemoryPressure::Soft);
    fold(&mut window, &[peer(1), peer(2)]);
    context.memory.set(MemoryPressure::Hard);
    let opened = TcpRecord {
        events: Events::OPENED,
        ..peer(1)
    };
    fold(&mut window, &[peer(1), opened]);
    context.memory.set(MemoryPressure::None);
    fold(&mut window, &[peer(3)]);
    let shown = shown(&window.advance(at(5)).unwrap());
    assert_eq!(shown[&series(1)], 200);
    assert_eq!(shown[other], 100);
    assert_eq!(shown[&series(3)], 100);
    assert!(!shown.contains_key(&series(2)), "{shown:?}");
    // Connection events are not dropped.
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
        rtt_include_local_peers: true,
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
    assert_eq!(
        (family.family.name, family.family.unit),
        ("flowtap.tcp.rtt", Unit::Seconds)
    );
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].count(), 5);
    assert!(
        (points[0].sum - 5.0 * 0.000_25).abs() < 1e-12,
        "{}",
        points[0].sum
    );
    // 250 µs are above the bound of 100 µs and at most 250 µs. A connection that moved bytes both ways counts once.
    assert_eq!(points[0].buckets.explicit()[2], 5);
}

#[test]
fn a_connection_that_opened_when_memory_was_short_is_not_open_for_ever() {
    let context = context(NodeInfo::default());
    let mut window = Window::new(&active_window_config(), &context);
    window.begin(at(2));
    let with = |events| TcpRecord {
        events,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 0, 0)
    };
    let active = |snapshot: &Snapshot| {
        let shown = shown(snapshot).into_iter();
        let active = shown.filter(|(name, _)| name.starts_with("network_tcp_connections_active"));
        active.collect::<Vec<_>>()
    };
    let other = r#"network_tcp_connections_active{flow="egress",raddr="other"}"#.to_owned();
    context.memory.set(MemoryPressure::Soft);
    fold(&mut window, &[with(Events::OPENED), with(Events::OPENED)]);
    assert_eq!(active(&window.advance(at(5)).unwrap()), [(other.clone(), 2)]);
    context.memory.set(MemoryPressure::None);
    fold(&mut window, &[with(Events::CLOSED)]);
    assert_eq!(active(&window.advance(at(10)).unwrap()), [(other, 1)]);
}

#[test]
fn connections_are_counted_by_event_and_those_that_are_open_are_known() {
    let mut window = window(10, 600);
    let with = |events, failure| TcpRecord {
        events,
        failure,
        handshake_us: 300,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 0, 0).with_flow(|flow| Flow {
            role: Role::Client,
            ..flow
        })
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
            with(Events::OPENED | Events::CLOSED, 110),
            with(Events::FAILED, 111),
            with(Events::FAILED, 110),
        ],
    );
    let shown = shown(&window.advance(at(5)).unwrap());
    let event = |event| {
        shown[&format!(r#"network_tcp_connections{{flow="egress",event="{event}",type="externalHosts"}}"#)]
    };
    assert_eq!(
        (
            event("opened"),
            event("closed"),
            event("reset"),
            event("broken"),
            event("failed")
        ),
        (4, 3, 1, 1, 2)
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
        4
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

/// The histograms of a family.
fn histograms(snapshot: &Snapshot, id: FamilyId) -> Vec<HistogramPoint> {
    match &snapshot.families[id as usize].points {
        Points::Histograms(points) => points.clone(),
        points => panic!("{points:?}"),
    }
}

/// A config with these families on.
fn with_families(families: &[(FamilyId, FamilyConfig)]) -> Config {
    let named = |(id, own): &(FamilyId, FamilyConfig)| {
        let own = FamilyConfig {
            enabled: Some(true),
            ..own.clone()
        };
        (id.definition().family.name.to_owned(), own)
    };
    Config {
        families: families.iter().map(named).collect(),
        ..Config::default()
    }
}

#[test]
fn segments_and_retransmits_have_the_same_labels_so_that_a_ratio_can_be_computed() {
    let config = with_families(&[(FamilyId::Segments, FamilyConfig::default())]);
    let mut window = window_of(config, 10, 600);
    let record = TcpRecord {
        sent_segments: 40,
        received_segments: 20,
        retransmits: 2,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 0, 0)
    };
    fold(&mut window, &[record.clone(), record]);
    let shown = shown(&window.advance(at(5)).unwrap());
    let segments = |direction| {
        format!(
            r#"network_tcp_segments{{raddr="198.51.100.7",direction="{direction}",type="externalHosts"}}"#
        )
    };
    assert_eq!(shown[&segments("outbound")], 80);
    assert_eq!(shown[&segments("inbound")], 40);
    let retransmits = r#"network_tcp_retransmits{raddr="198.51.100.7",type="externalHosts"}"#;
    assert_eq!(shown[retransmits], 4);
}

#[test]
fn a_histogram_has_the_buckets_of_the_config() {
    let own = FamilyConfig {
        buckets: Some(FamilyBuckets::Bounds(vec![1_000.0, 60_000.0, 70_000.0])),
        ..FamilyConfig::default()
    };
    let config = with_families(&[(FamilyId::Rtt, own), (FamilyId::MinRtt, FamilyConfig::default())]);
    let mut window = window_of(config, 10, 600);
    let far = |rtt_us| TcpRecord {
        rtt_us,
        min_rtt_us: 60_100,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 1, 0)
    };
    fold(&mut window, &[far(60_500), far(60_900), far(90_000)]);
    let snapshot = window.advance(at(5)).unwrap();
    let family = snapshot.families[FamilyId::Rtt as usize].family;
    let FamilyKind::Histogram(bounds) = family.kind else {
        panic!("{family:?}")
    };
    assert_eq!(bounds, [1_000.0, 60_000.0, 70_000.0]);
    let point = &histograms(&snapshot, FamilyId::Rtt)[0];
    assert!(point.counts(bounds).eq([0, 0, 2, 1]));
    // By default the smallest round-trip time has bounds up to 10 s.
    let smallest = &histograms(&snapshot, FamilyId::MinRtt)[0];
    assert_eq!(
        (smallest.buckets.explicit()[10], smallest.count()),
        (3, 3),
        "{smallest:?}"
    );
}

#[test]
fn exponential_buckets_follow_the_values_and_a_snapshot_keeps_what_it_showed() {
    let own = FamilyConfig {
        buckets: Some(FamilyBuckets::Exponential),
        ..FamilyConfig::default()
    };
    let mut window = window_of(with_families(&[(FamilyId::Rtt, own)]), 10, 600);
    let far = |rtt_us| TcpRecord {
        rtt_us,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 1, 0)
    };
    fold(&mut window, &[far(60_500), far(60_900), far(90_000)]);
    let first = window.advance(at(5)).unwrap();
    assert_eq!(
        first.families[FamilyId::Rtt as usize].family.kind,
        FamilyKind::ExponentialHistogram
    );
    fold(&mut window, &[far(50)]);
    let second = window.advance(at(10)).unwrap();
    let [first, second] = [first, second].map(|snapshot| histograms(&snapshot, FamilyId::Rtt).remove(0));
    assert_eq!((first.count(), second.count()), (3, 4));
    assert!((first.sum - 211_400.0).abs() < 1e-6, "{}", first.sum);
    let buckets = first.buckets.exponential();
    let holds = |value: f64| {
        let mut bounds = (buckets.offset()..)
            .zip(buckets.counts())
            .map(|(index, count)| (buckets.bounds(index), *count));
        bounds.find(|((lower, upper), _)| *lower < value && value <= *upper)
    };
    let ((lower, upper), count) = holds(60_700.0).unwrap();
    assert!(
        (1..=2).contains(&count) && upper / lower < 1.03,
        "{lower} {upper} {count}"
    );
    assert_eq!(holds(90_000.0).unwrap().1, 1);
    assert_eq!(second.buckets.since(&first.buckets).count(), 1);
}

#[test]
fn a_connections_size_is_what_its_records_add_up_to_in_each_direction() {
    let mut window = window_of(
        with_families(&[(FamilyId::ConnectionSize, FamilyConfig::default())]),
        10,
        600,
    );
    let with = |cookie, events, sent, received| {
        let record = TcpRecord {
            events,
            ..flow(FlowKind::Egress, PeerClass::ExternalHosts, sent, received)
        };
        record.with_flow(|flow| Flow { cookie, ..flow })
    };
    fold(
        &mut window,
        &[
            with(1, Events::OPENED, 100, 0),
            with(2, Events::OPENED | Events::CLOSED, 7, 70),
            with(1, Events::NONE, 50, 2_000),
            with(3, Events::OPENED, 1_000, 1_000),
            with(1, Events::CLOSED, -1, 3),
        ],
    );
    let points = histograms(&window.advance(at(5)).unwrap(), FamilyId::ConnectionSize);
    let mut shown: Vec<_> = points
        .iter()
        .map(|point| (point.series.joined_labels(), point.count(), point.sum))
        .collect();
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    let labels = |direction| format!(r#"flow="egress",direction="{direction}",type="externalHosts""#);
    assert_eq!(
        shown,
        [(labels("inbound"), 2, 2_073.0), (labels("outbound"), 2, 156.0)]
    );
}

#[test]
fn the_life_of_a_connection_is_observed_at_its_end() {
    let mut window = window(10, 600);
    let with = |events, age_us| TcpRecord {
        events,
        age_us,
        ..flow(FlowKind::Ingress, PeerClass::Docker, 0, 0)
    };
    fold(
        &mut window,
        &[
            with(Events::OPENED, 0),
            with(Events::NONE, 2_000_000),
            with(Events::CLOSED, 2_500_000),
        ],
    );
    let points = histograms(&window.advance(at(5)).unwrap(), FamilyId::ConnectionDuration);
    assert_eq!(points.len(), 1);
    assert_eq!(
        points[0].series.joined_labels(),
        r#"flow="ingress",type="docker""#
    );
    assert_eq!(points[0].count(), 1);
    assert!((points[0].sum - 2.5).abs() < 1e-9, "{}", points[0].sum);
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
fn totals_have_all_their_series_from_the_start_and_these_never_leave_or_fold() {
    for (naming, total) in [
        (
            Naming::PrimusLens,
            r#"flow="egress",direction="outbound",type="externalHosts""#,
        ),
        (
            Naming::Otel,
            r#"flowtap_role="egress",network_io_direction="transmit",flowtap_peer_class="externalHosts""#,
        ),
    ] {
        let config = Config {
            naming,
            ..Config::default()
        };
        let mut window = window_of(config, 1, 5);
        let totals = |snapshot: &Snapshot| {
            let family = &snapshot.families[FamilyId::Totals as usize];
            assert!(family.ended.is_empty());
            match &family.points {
                Points::Sums(points) => points.clone(),
                points => panic!("{points:?}"),
            }
        };
        let of = |points: &[SumPoint]| {
            let point = points.iter().find(|point| point.series.joined_labels() == total);
            point.map(|point| (point.total, point.delta, point.series.start()))
        };
        let first = totals(&window.advance(at(5)).unwrap());
        // Built-in classes, and those that other tests of this process have named.
        assert!(first.len() >= 44 && first.len() % 4 == 0, "{}", first.len());
        assert_eq!(of(&first), Some((0, 0, at(2))));
        // Two peers, of which one folds.
        let peer = flow(FlowKind::Egress, PeerClass::ExternalHosts, 10, 0);
        let other = Endpoint::new([192, 0, 2, 99].into(), 80);
        fold(
            &mut window,
            &[
                peer.clone().with_flow(|flow| Flow {
                    remote: other,
                    ..flow
                }),
                peer,
            ],
        );
        assert_eq!(
            of(&totals(&window.advance(at(10)).unwrap())),
            Some((20, 20, at(2)))
        );
        for idle in [15, 20, 25] {
            let points = totals(&window.advance(at(idle)).unwrap());
            assert_eq!(of(&points), Some((20, 0, at(2))));
            // So that a file has no rows of them.
            assert!(points.iter().all(|point| point.updated < at(15)));
        }
    }
}

#[test]
fn an_open_connection_is_shown_however_long_nothing_happens() {
    let mut window = window(10, 10);
    let opened = TcpRecord {
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
            &[flow(
                FlowKind::Egress,
                PeerClass::InternalHosts,
                i64::from(number) + 1,
                0,
            )
            .with_flow(|flow| Flow { remote, ..flow })],
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

/// Families of bytes by peer; those of one naming are empty by the other.
const BYTE_FAMILIES: [FamilyId; 5] = [
    FamilyId::Io,
    FamilyId::Egress,
    FamilyId::Ingress,
    FamilyId::K8s,
    FamilyId::Dns,
];

fn any_record() -> impl Strategy<Value = TcpRecord> {
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
            flow(kind, class, sent, received).with_flow(|flow| Flow {
                local,
                remote,
                pid: u32::from(port),
                ..flow
            })
        },
    )
}

/// Any choice of the labels that each family of bytes can have, by either naming.
fn any_exposition() -> impl Strategy<Value = Config> {
    let labels = BYTE_FAMILIES.map(|id| {
        let possible: Vec<_> = id.definition().possible(Naming::PrimusLens).collect();
        let count = possible.len();
        prop::sample::subsequence(possible, 0..=count)
    });
    let naming = prop_oneof![Just(Naming::PrimusLens), Just(Naming::Otel)];
    (labels, naming).prop_map(|(labels, naming)| {
        let name = |id: FamilyId| id.definition().family.name.to_owned();
        let own = |labels| FamilyConfig {
            labels: Some(labels),
            ..FamilyConfig::default()
        };
        Config {
            naming,
            families: BYTE_FAMILIES
                .into_iter()
                .zip(labels)
                .filter(|(id, _)| id.definition().is_of(naming))
                .map(|(id, labels)| (name(id), own(labels)))
                .collect(),
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
                let folds = |point: &&SumPoint| point.series.joined_labels().contains("=\"other\"");
                let (others, own): (Vec<_>, Vec<_>) = points.iter().partition(folds);
                // Each role, direction, class and network type has its own.
                prop_assert!(others.len() <= 2 * 2 * 4);
                prop_assert!(own.len() <= max_series || others.is_empty() && own.len() <= 2 * 2 * 4);
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

/// A record of the connection `cookie` to the peer `198.51.100.<peer>`.
fn about(cookie: u64, peer: u8, kind: FlowKind, events: Events) -> TcpRecord {
    TcpRecord {
        events,
        ..record("192.0.2.1:40000", &format!("198.51.100.{peer}:443")).with_flow(|flow| Flow {
            cookie,
            kind: Some(kind),
            class: Some(PeerClass::ExternalHosts),
            ..flow
        })
    }
}

fn opened(cookie: u64, peer: u8) -> TcpRecord {
    about(cookie, peer, FlowKind::Egress, Events::OPENED)
}

fn of_receiver(receiver: u16, census: Census, records: &[TcpRecord]) -> FlowBatch {
    FlowBatch {
        receiver,
        census,
        tcp: records.to_vec(),
        ..FlowBatch::default()
    }
}

/// Shows how many connections are open by flow and peer.
fn active_window_config() -> Config {
    let mut exposition = Config::default();
    let labels = FamilyConfig {
        labels: Some(vec![Label::Flow, Label::Raddr]),
        ..FamilyConfig::default()
    };
    exposition
        .families
        .insert("network_tcp_connections_active".to_owned(), labels);
    exposition
}

fn active_window() -> Window {
    window_of(active_window_config(), 10, 600)
}

/// The gauge: its series that are not 0, as `egress 198.51.100.7` and the level.
fn active(snapshot: &Snapshot) -> Vec<(String, u64)> {
    let Points::Sums(points) = &snapshot.families[FamilyId::ConnectionsActive as usize].points else {
        panic!("sums")
    };
    let mut levels: Vec<_> = points
        .iter()
        .filter(|point| point.total > 0)
        .map(|point| {
            let values: Vec<_> = point
                .series
                .pairs()
                .map(|pair| pair.value.text().into_owned())
                .collect();
            (values.join(" "), point.total)
        })
        .collect();
    levels.sort();
    levels
}

fn level(label: &str, level: u64) -> (String, u64) {
    (label.to_owned(), level)
}

#[test]
fn a_connection_whose_close_was_lost_is_open_until_the_next_census() {
    let mut window = active_window();
    window.fold(&of_receiver(
        0,
        Census::NONE,
        &[opened(1, 1), opened(2, 1), opened(3, 2)],
    ));
    assert_eq!(
        active(&window.advance(at(5)).unwrap()),
        [level("egress 198.51.100.1", 2), level("egress 198.51.100.2", 1)]
    );
    // The close of 1 was lost, that of 3 comes in the middle of the census.
    assert!(window.wants_census(0));
    let open = |cookie, peer| about(cookie, peer, FlowKind::Egress, Events::OPEN);
    let begins = Census {
        begins: true,
        ends: false,
    };
    let ends = Census {
        begins: false,
        ends: true,
    };
    window.fold(&of_receiver(0, begins, &[open(3, 2)]));
    let closed = about(3, 2, FlowKind::Egress, Events::CLOSED);
    window.fold(&of_receiver(0, ends, &[open(2, 1), closed, opened(4, 3)]));
    assert!(!window.wants_census(0));
    let snapshot = window.advance(at(10)).unwrap();
    assert_eq!(
        active(&snapshot),
        [level("egress 198.51.100.1", 1), level("egress 198.51.100.3", 1)]
    );
    // A census opens no connection.
    let events = shown(&snapshot);
    let opened = r#"network_tcp_connections{flow="egress",event="opened",type="externalHosts"}"#;
    assert_eq!(events[opened], 4);
}

#[test]
fn a_close_that_has_another_role_than_the_opening_takes_the_connection_out_of_where_it_was() {
    let mut window = active_window();
    window.fold(&of_receiver(0, Census::NONE, &[opened(1, 1), opened(2, 1)]));
    let closed = about(1, 9, FlowKind::Ingress, Events::CLOSED);
    window.fold(&of_receiver(0, Census::NONE, &[closed]));
    assert_eq!(
        active(&window.advance(at(5)).unwrap()),
        [level("egress 198.51.100.1", 1)]
    );
}

#[test]
fn a_connection_that_a_census_finds_with_other_labels_moves_there() {
    let mut window = active_window();
    window.fold(&of_receiver(0, Census::NONE, &[opened(1, 1), opened(2, 1)]));
    let found = about(1, 1, FlowKind::Ingress, Events::OPEN);
    window.fold(&of_receiver(0, Census::NONE, &[found]));
    assert_eq!(
        active(&window.advance(at(5)).unwrap()),
        [level("egress 198.51.100.1", 1), level("ingress 198.51.100.1", 1)]
    );
}

#[test]
fn a_window_that_is_new_has_every_connection_after_a_census_and_none_below_zero() {
    let mut window = active_window();
    // Of connections that the window before it knew.
    let closed = |cookie| about(cookie, 1, FlowKind::Egress, Events::CLOSED);
    window.fold(&of_receiver(0, Census::NONE, &[closed(1), closed(2)]));
    let open: Vec<_> = (3..8)
        .map(|cookie| about(cookie, 1, FlowKind::Egress, Events::OPEN))
        .collect();
    window.fold(&of_receiver(0, Census::WHOLE, &open));
    window.fold(&of_receiver(0, Census::NONE, &[closed(3), opened(9, 1)]));
    assert_eq!(
        active(&window.advance(at(5)).unwrap()),
        [level("egress 198.51.100.1", 5)]
    );
}

#[test]
fn two_receivers_with_the_same_cookies_are_distinguished_and_one_that_leaves_takes_its_own_along() {
    let mut window = active_window();
    for receiver in [0, 1] {
        window.fold(&of_receiver(
            receiver,
            Census::NONE,
            &[opened(1, 1), opened(2, 2)],
        ));
    }
    let closed = about(1, 1, FlowKind::Egress, Events::CLOSED);
    window.fold(&of_receiver(1, Census::NONE, std::slice::from_ref(&closed)));
    assert_eq!(
        active(&window.advance(at(5)).unwrap()),
        [level("egress 198.51.100.1", 1), level("egress 198.51.100.2", 2)]
    );
    window.fold(&of_receiver(0, Census::WHOLE, &[]));
    // Records that it still delivers have no known receiver.
    window.fold(&of_receiver(
        FlowBatch::DETACHED,
        Census::NONE,
        &[opened(3, 3), closed],
    ));
    assert_eq!(
        active(&window.advance(at(10)).unwrap()),
        [level("egress 198.51.100.2", 1)]
    );
}

#[test]
fn connections_beyond_those_that_can_be_followed_are_counted_by_series_and_put_right_by_a_census() {
    let mut window = active_window();
    window.connections = Connections::new(16);
    window.fold(&of_receiver(0, Census::WHOLE, &[]));
    let all: Vec<_> = (1..=20).map(|cookie| opened(cookie, 1)).collect();
    window.fold(&of_receiver(0, Census::NONE, &all));
    assert_eq!(
        active(&window.advance(at(5)).unwrap()),
        [level("egress 198.51.100.1", 20)]
    );
    // One closes with other labels and is missed, one with the same, and most of the others.
    let closed = |cookie, peer| about(cookie, peer, FlowKind::Egress, Events::CLOSED);
    window.fold(&of_receiver(0, Census::NONE, &[closed(17, 2), closed(18, 1)]));
    let most: Vec<_> = (1..=10).map(|cookie| closed(cookie, 1)).collect();
    window.fold(&of_receiver(0, Census::NONE, &most));
    assert_eq!(
        active(&window.advance(at(10)).unwrap()),
        [level("egress 198.51.100.1", 9)]
    );
    assert!(window.wants_census(0));
    let open: Vec<_> = (11..=16)
        .chain([19, 20])
        .map(|cookie| about(cookie, 1, FlowKind::Egress, Events::OPEN))
        .collect();
    window.fold(&of_receiver(0, Census::WHOLE, &open));
    assert_eq!(
        active(&window.advance(at(15)).unwrap()),
        [level("egress 198.51.100.1", 8)]
    );
    assert!(!window.wants_census(0));
}

#[test]
fn connections_in_the_series_other_leave_it_when_they_close_whatever_room_there_is_by_then() {
    let mut window = window_of(active_window_config(), 1, 600);
    window.fold(&of_receiver(
        0,
        Census::NONE,
        &[opened(1, 1), opened(2, 2), opened(3, 3)],
    ));
    assert_eq!(
        active(&window.advance(at(5)).unwrap()),
        [level("egress 198.51.100.1", 1), level("egress other", 2)]
    );
    let closed = |cookie, peer| about(cookie, peer, FlowKind::Egress, Events::CLOSED);
    window.fold(&of_receiver(0, Census::NONE, &[closed(1, 1), closed(3, 3)]));
    assert_eq!(
        active(&window.advance(at(10)).unwrap()),
        [level("egress other", 1)]
    );
}

#[test]
fn a_series_that_counts_an_open_connection_does_not_expire_whatever_closes_that_nobody_can_place() {
    let mut window = active_window();
    window.fold(&of_receiver(0, Census::NONE, &[opened(1, 1)]));
    // Of a receiver that knows no cookies: below zero, as its openings were not seen.
    let closed = about(0, 1, FlowKind::Egress, Events::CLOSED);
    window.fold(&of_receiver(1, Census::NONE, &[closed]));
    for tick in (5..2000).step_by(5) {
        assert_eq!(
            active(&window.advance(at(tick)).unwrap()),
            [level("egress 198.51.100.1", 1)],
            "at {tick}"
        );
    }
}

#[test]
fn a_family_that_is_not_exposed_wants_no_census_and_follows_nothing() {
    let mut exposition = Config::default();
    let off = FamilyConfig {
        enabled: Some(false),
        ..FamilyConfig::default()
    };
    exposition
        .families
        .insert("network_tcp_connections_active".to_owned(), off);
    let mut window = window_of(exposition, 10, 600);
    window.fold(&of_receiver(0, Census::NONE, &[opened(1, 1)]));
    assert!(!window.wants_census(0));
    assert_eq!(window.connections.len(), 0);
}

/// Connection events in any order, including impossible ones.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Opens(u64, u8),
    Closes(u64, u8),
    ClosesUnseen(u64),
    Census,
}

fn anything() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (1..30u64, 0..4u8).prop_map(|(cookie, peer)| Happens::Opens(cookie, peer)),
        (1..30u64, 0..4u8).prop_map(|(cookie, peer)| Happens::Closes(cookie, peer)),
        (1..30u64).prop_map(Happens::ClosesUnseen),
        Just(Happens::Census),
    ]
}

proptest! {
    #[test]
    fn after_a_census_the_gauge_is_the_connections_that_are_open_whatever_was_lost(
        happens in prop::collection::vec(anything(), 1..200),
        max in 4..40usize,
        max_series in 1..5usize,
    ) {
        let mut window = window_of(active_window_config(), max_series, 10);
        window.connections = Connections::new(max);
        let mut open = HashMap::new();
        let mut tick = 5;
        for step in happens.into_iter().chain([Happens::Census]) {
            match step {
                Happens::Opens(cookie, peer) => {
                    open.insert(cookie, peer);
                    window.fold(&of_receiver(0, Census::NONE, &[opened(cookie, peer)]));
                }
                Happens::Closes(cookie, peer) => {
                    open.remove(&cookie);
                    let closed = about(cookie, peer, FlowKind::Ingress, Events::CLOSED);
                    window.fold(&of_receiver(0, Census::NONE, &[closed]));
                }
                Happens::ClosesUnseen(cookie) => {
                    open.remove(&cookie);
                }
                Happens::Census => {
                    let found: Vec<_> = open
                        .iter()
                        .map(|(cookie, peer)| about(*cookie, *peer, FlowKind::Egress, Events::OPEN))
                        .collect();
                    window.fold(&of_receiver(0, Census::WHOLE, &found));
                    let snapshot = window.advance(at(tick)).unwrap();
                    tick += 5;
                    let shown: u64 = active(&snapshot).iter().map(|(_, level)| level).sum();
                    prop_assert_eq!(shown, open.len() as u64);
                }
            }
        }
    }
}

/// The snapshot of a window of `config` that has taken over from `before`, which has been finished.
fn taken_over(config: &Config, context: &BuildContext, before: Window, now: u64) -> Window {
    let mut window = Window::new(config, context);
    window.take_over(Box::new(before).hand_over().unwrap());
    window.begin(at(now));
    window
}

#[test]
fn series_that_are_the_same_under_another_config_count_on_and_the_others_begin_anew() {
    let context = context(NodeInfo::default());
    let mut window = Window::new(&Config::default(), &context);
    window.begin(at(2));
    let open = |events, cookie| TcpRecord {
        events,
        ..flow(FlowKind::Egress, PeerClass::ExternalHosts, 100, 30).with_flow(|flow| Flow { cookie, ..flow })
    };
    fold(&mut window, &[open(Events::OPENED, 7), open(Events::OPENED, 8)]);
    window.finish(at(4));

    let mut config = Config {
        interval: Duration::from_secs(10),
        ..Config::default()
    };
    let labels = FamilyConfig {
        labels: Some(vec![Label::Event]),
        ..FamilyConfig::default()
    };
    config
        .families
        .insert("network_tcp_connections".to_owned(), labels);
    let mut window = taken_over(&config, &context, window, 4);
    fold(&mut window, &[open(Events::CLOSED, 7)]);
    let snapshot = window.advance(at(10)).unwrap();
    let shown = shown(&snapshot);
    let total = |start: &str| {
        let of = shown.iter().filter(|(name, _)| name.starts_with(start));
        of.map(|(_, total)| *total).sum::<u64>()
    };
    assert_eq!(total("network_tcp_flow_egress{"), 3 * (100 + 30), "{shown:?}");
    let Points::Sums(totals) = &snapshot.families[FamilyId::Totals as usize].points else {
        panic!("a counter");
    };
    let bytes: u64 = totals.iter().map(|point| point.total).sum();
    assert_eq!(bytes, 3 * (100 + 30));
    assert_eq!(total("network_tcp_connections_active{"), 1, "{shown:?}");
    assert_eq!(
        total("network_tcp_connections{"),
        1,
        "the one that closed: {shown:?}"
    );
    let of = |name: &str| -> &FamilySnapshot {
        let family = snapshot.families.iter().find(|family| family.family.name == name);
        family.unwrap()
    };
    let Points::Sums(egress) = &of("network_tcp_flow_egress").points else {
        panic!("a counter");
    };
    assert!(egress.iter().all(|point| point.series.start() == at(2)));
    assert!(
        egress.iter().all(|point| point.total == 3 * point.delta),
        "{egress:?}"
    );
    let connections = of("network_tcp_connections");
    assert_eq!(connections.ended.len(), 1, "the series of the other labels");
    let Points::Sums(points) = &connections.points else {
        panic!("a counter");
    };
    assert_eq!(points[0].series.start(), at(4));
}

#[test]
fn another_naming_takes_over_no_series() {
    let context = context(NodeInfo::default());
    let mut window = Window::new(&Config::default(), &context);
    window.begin(at(2));
    fold(
        &mut window,
        &[flow(FlowKind::Egress, PeerClass::ExternalHosts, 100, 30)],
    );
    window.finish(at(4));
    let config = Config {
        naming: Naming::Otel,
        ..Config::default()
    };
    let mut window = taken_over(&config, &context, window, 4);
    let snapshot = window.advance(at(10)).unwrap();
    assert_eq!(shown(&snapshot).values().sum::<u64>(), 0);
    // They end under the names that they had.
    let ended = |name: &str| {
        let of_name = snapshot
            .families
            .iter()
            .filter(|family| family.family.name == name);
        of_name.map(|family| family.ended.len()).sum::<usize>()
    };
    assert_eq!(ended("network_tcp_flow_egress"), 2);
    assert_eq!(ended("network.tcp.io"), 0);
    assert!(window.wants_census(0));
    // Once.
    let next = window.advance(at(20)).unwrap();
    assert!(next.families.iter().all(|family| family.ended.is_empty()));
}

#[test]
fn series_of_a_family_that_a_reload_disables_are_listed_as_ended() {
    let context = context(NodeInfo::default());
    let mut window = Window::new(&Config::default(), &context);
    window.begin(at(2));
    fold(
        &mut window,
        &[flow(FlowKind::Egress, PeerClass::ExternalHosts, 100, 30)],
    );
    window.finish(at(4));
    let mut config = Config::default();
    let disabled = FamilyConfig {
        enabled: Some(false),
        ..FamilyConfig::default()
    };
    config
        .families
        .insert("network_tcp_flow_egress".to_owned(), disabled);
    let mut window = taken_over(&config, &context, window, 4);
    let snapshot = window.advance(at(10)).unwrap();
    let egress = snapshot
        .families
        .iter()
        .filter(|family| family.family.name == "network_tcp_flow_egress");
    assert_eq!(egress.map(|family| family.ended.len()).sum::<usize>(), 2);
}

#[test]
fn series_of_a_family_that_a_reload_gives_other_buckets_end_with_the_buckets_that_they_had() {
    let context = context(NodeInfo::default());
    let mut window = Window::new(&Config::default(), &context);
    window.begin(at(2));
    let moved = flow(FlowKind::Egress, PeerClass::ExternalHosts, 100, 30);
    fold(&mut window, std::slice::from_ref(&moved));
    window.finish(at(4));
    let mut config = Config::default();
    let few = FamilyConfig {
        buckets: Some(FamilyBuckets::Bounds(vec![1_000.0, 60_000.0])),
        ..FamilyConfig::default()
    };
    config.families.insert("network_tcp_flow_rtt".to_owned(), few);
    let mut window = taken_over(&config, &context, window, 4);
    fold(&mut window, &[moved]);
    let snapshot = window.advance(at(10)).unwrap();
    let of_rtt = snapshot
        .families
        .iter()
        .filter(|family| family.family.name == "network_tcp_flow_rtt");
    let counts: Vec<_> = of_rtt
        .map(|family| {
            let FamilyKind::Histogram(bounds) = family.family.kind else {
                panic!("a histogram")
            };
            (bounds.len(), family.points.len(), family.ended.len())
        })
        .collect();
    // Series of two directions.
    assert_eq!(counts, [(2, 2, 0), (HISTOGRAM_BUCKETS, 0, 2)]);
}

#[test]
fn labels_in_another_order_are_the_same_series_and_count_on() {
    let context = context(NodeInfo::default());
    let with_labels = |labels: [Label; 2]| {
        let mut config = Config::default();
        let labels = FamilyConfig {
            labels: Some(labels.to_vec()),
            ..FamilyConfig::default()
        };
        config
            .families
            .insert("network_tcp_flow_egress".to_owned(), labels);
        config
    };
    let mut window = Window::new(&with_labels([Label::Raddr, Label::Direction]), &context);
    window.begin(at(2));
    let moved = flow(FlowKind::Egress, PeerClass::ExternalHosts, 100, 30);
    fold(&mut window, std::slice::from_ref(&moved));
    window.finish(at(4));
    let config = with_labels([Label::Direction, Label::Raddr]);
    let mut window = taken_over(&config, &context, window, 4);
    fold(&mut window, &[moved]);
    let snapshot = window.advance(at(10)).unwrap();
    let egress = &snapshot.families[FamilyId::Egress as usize];
    assert_eq!(egress.ended.len(), 0);
    let Points::Sums(points) = &egress.points else {
        panic!("a counter");
    };
    let totals: Vec<_> = points.iter().map(|point| point.total).collect();
    assert_eq!(totals.iter().sum::<u64>(), 2 * (100 + 30), "{totals:?}");
    assert_eq!(totals.len(), 2);
}

#[test]
fn a_connection_that_outlives_a_mass_expiry_is_taken_from_the_gauge_that_counts_it() {
    let mut window = window(10_000, 10);
    let peer = |number: u16| TcpRecord {
        sent_bytes: 100,
        ..record("192.0.2.1:40000", &format!("198.51.100.7:{number}")).with_flow(|flow| Flow {
            kind: Some(FlowKind::Egress),
            class: Some(PeerClass::ExternalHosts),
            ..flow
        })
    };
    let with = |events| TcpRecord {
        events,
        ..peer(443).with_flow(|flow| Flow { cookie: 9, ..flow })
    };
    // The gauge's series comes after all that will expire.
    fold(&mut window, &(1_000..6_000).map(peer).collect::<Vec<_>>());
    fold(&mut window, &[with(Events::OPENED)]);
    window.advance(at(5)).unwrap();
    fold(&mut window, &[peer(443)]);
    let gauge = r#"network_tcp_connections_active{flow="egress",type="externalHosts"}"#;
    let after = shown(&window.advance(at(15)).unwrap());
    assert!(after.len() < 20, "the others have expired: {}", after.len());
    assert_eq!(after[gauge], 1);
    fold(&mut window, &[with(Events::CLOSED)]);
    let closed = shown(&window.advance(at(20)).unwrap());
    assert_eq!(closed[gauge], 0);
    let bytes = r#"network_tcp_flow_egress{raddr="198.51.100.7",rport="443",direction="outbound",type="externalHosts"}"#;
    assert_eq!(closed[bytes], 300);
}

/// A record of a connection in class external.
fn limited(cookie: u64) -> TcpRecord {
    record("192.0.2.1:40000", "198.51.100.7:443").with_flow(|flow| Flow {
        cookie,
        class: Some(PeerClass::ExternalHosts),
        ..flow
    })
}

#[test]
fn the_time_of_connections_adds_up_by_what_it_went_to() {
    let mut window = window(100, 60);
    let with = |time| TcpRecord { time, ..limited(7) };
    let first = SendTime {
        network_us: 2_000_000,
        application_us: 500_000,
        ..SendTime::ZERO
    };
    // A look at the middle of an episode that has been counted may be taken back.
    let second = SendTime {
        network_us: -1,
        receiver_us: 1_000_000,
        ..SendTime::ZERO
    };
    fold(&mut window, &[with(first), with(second)]);
    let snapshot = window.advance(at(5)).unwrap();
    let shown = shown(&snapshot);
    let of = |limit| {
        shown.get(&format!(
            r#"network_tcp_send_time{{limit="{limit}",type="externalHosts"}}"#
        ))
    };
    assert_eq!(of("network"), Some(&1_999_999));
    assert_eq!(of("receiver"), Some(&1_000_000));
    assert_eq!(of("application"), Some(&500_000));
    assert_eq!(of("answer"), None, "no time, no series");
    let family = &snapshot.families[FamilyId::SendTime as usize];
    let Points::Values(points) = &family.points else {
        panic!("seconds are no whole numbers")
    };
    let seconds: f64 = points.iter().map(|point| point.value).sum();
    assert!((seconds - 3.499_999).abs() < 1e-9, "{seconds}");
}

#[test]
fn queued_bytes_are_what_each_connection_had_when_it_was_looked_at_last() {
    let mut window = window(100, 20);
    let queued = |cookie, unsent, unread, events| TcpRecord {
        queues: Queues {
            unsent,
            unacked: 0,
            unread,
        },
        events,
        ..limited(cookie)
    };
    let of = |snapshot: &Snapshot, queue| {
        let name = format!(r#"network_tcp_queued_bytes{{queue="{queue}",type="externalHosts"}}"#);
        shown(snapshot).get(&name).copied()
    };
    let records = [
        queued(1, 1_000, 0, Events::NONE),
        queued(2, 100, 5, Events::NONE),
        queued(1, 300, 0, Events::NONE),
    ];
    fold(&mut window, &records);
    let snapshot = window.advance(at(5)).unwrap();
    assert_eq!(of(&snapshot, "unsent"), Some(400), "the last look counts");
    assert_eq!(of(&snapshot, "unread"), Some(5));
    assert_eq!(of(&snapshot, "unacked"), None);
    // One is empty now, of the other nothing new is known.
    fold(&mut window, &[queued(1, 0, 0, Events::NONE)]);
    let snapshot = window.advance(at(10)).unwrap();
    assert_eq!(of(&snapshot, "unsent"), Some(100));
    // A closed one has nothing queued.
    fold(
        &mut window,
        &[queued(2, 9, 9, Events::CLOSED), queued(3, 8, 0, Events::NONE)],
    );
    let snapshot = window.advance(at(15)).unwrap();
    assert_eq!(of(&snapshot, "unsent"), Some(8));
    assert_eq!(of(&snapshot, "unread"), Some(0));
    // The record of the close of the third was lost.
    let snapshot = window.advance(at(40)).unwrap();
    assert_eq!(of(&snapshot, "unsent"), Some(0));
}

#[test]
fn connects_that_wait_are_in_gauges_until_they_end_and_in_no_counter() {
    let mut window = window(100, 20);
    let record = |cookie, events, state, syn_retransmits| TcpRecord {
        events,
        state,
        syn_retransmits,
        ..limited(cookie)
    };
    let waits = |cookie, syn_retransmits| record(cookie, Events::CONNECTING, 2, syn_retransmits);
    let of = |snapshot: &Snapshot, name| {
        let name = format!(r#"network_tcp_{name}{{type="externalHosts"}}"#);
        shown(snapshot).get(&name).copied()
    };
    fold(&mut window, &[waits(1, 0), waits(2, 1), waits(3, 0), waits(4, 2)]);
    fold(&mut window, &[waits(1, 1), waits(2, 2)]);
    let snapshot = window.advance(at(5)).unwrap();
    assert_eq!(of(&snapshot, "connecting"), Some(4));
    assert_eq!(of(&snapshot, "connecting_retransmits"), Some(1 + 2 + 2));
    assert_eq!(of(&snapshot, "syn_retransmits"), None);
    // One is answered, one fails, one is no longer found; of the last nothing new is known.
    let ends = [
        record(1, Events::OPENED, 1, 1),
        record(2, Events::FAILED, 7, 3),
        record(3, Events::CONNECTING, 7, 0),
    ];
    fold(&mut window, &ends);
    let snapshot = window.advance(at(10)).unwrap();
    assert_eq!(of(&snapshot, "connecting"), Some(1));
    assert_eq!(of(&snapshot, "connecting_retransmits"), Some(2));
    assert_eq!(of(&snapshot, "syn_retransmits"), Some(1 + 3));
    // The record of its end was lost.
    let snapshot = window.advance(at(35)).unwrap();
    assert_eq!(of(&snapshot, "connecting"), Some(0));
}

#[test]
fn a_connect_that_was_given_up_without_an_answer_says_so() {
    let mut window = window(100, 60);
    let failed = |syn_retransmits| TcpRecord {
        events: Events::FAILED,
        syn_retransmits,
        ..limited(0)
    };
    let overdue = TcpRecord {
        events: Events::FAILED | Events::UNANSWERED,
        ..failed(0)
    };
    // One that the network has answered is not among them, however late.
    let refused = TcpRecord {
        failure: 111,
        ..overdue.clone()
    };
    fold(&mut window, &[failed(0), failed(2), failed(1), overdue, refused]);
    let shown = shown(&window.advance(at(5)).unwrap());
    let of = |reason| {
        let name = format!(r#"network_tcp_connect_failures{{reason="{reason}",type="externalHosts"}}"#);
        shown.get(&name).copied()
    };
    assert_eq!(
        (of("no_answer"), of("aborted"), of("refused")),
        (Some(3), Some(1), Some(1))
    );
    assert_eq!(
        shown.get(r#"network_tcp_syn_retransmits{type="externalHosts"}"#),
        Some(&3)
    );
}

#[test]
fn a_reset_says_by_which_side_only_where_that_is_a_label() {
    let reset = |reset_by| TcpRecord {
        events: Events::CLOSED | Events::RESET,
        reset_by,
        ..limited(0)
    };
    let records = [
        reset(ResetBy::Local),
        reset(ResetBy::Remote),
        reset(ResetBy::Remote),
    ];
    let count = |labels: Option<Vec<Label>>, series: &str| {
        let mut config = Config::default();
        let own = FamilyConfig {
            labels,
            ..FamilyConfig::default()
        };
        config.families.insert("network_tcp_connections".to_owned(), own);
        let mut window = window_of(config, 100, 60);
        fold(&mut window, &records);
        let shown = shown(&window.advance(at(5)).unwrap());
        shown
            .get(&format!("network_tcp_connections{{{series}}}"))
            .copied()
    };
    let by_side = Some(vec![Label::Event, Label::ResetBy]);
    assert_eq!(
        count(by_side.clone(), r#"event="reset",reset_by="local""#),
        Some(1)
    );
    assert_eq!(count(by_side, r#"event="reset",reset_by="remote""#), Some(2));
    assert_eq!(count(Some(vec![Label::Event]), r#"event="reset""#), Some(3));
}

#[test]
fn by_opentelemetrys_naming_samples_that_hold_the_peers_think_time_are_no_round_trips() {
    let count = |naming| {
        let config = Config {
            naming,
            ..Config::default()
        };
        let mut window = window_of(config, 100, 60);
        let with = |is_application_limited| TcpRecord {
            rtt_us: 250,
            sent_bytes: 1,
            is_application_limited,
            ..limited(0)
        };
        fold(&mut window, &[with(true), with(false), with(false)]);
        let snapshot = window.advance(at(5)).unwrap();
        let Points::Histograms(points) = &snapshot.families[FamilyId::Rtt as usize].points else {
            panic!("no histogram")
        };
        points.iter().map(HistogramPoint::count).sum::<u64>()
    };
    assert_eq!((count(Naming::PrimusLens), count(Naming::Otel)), (3, 2));
}

mod dns;

#[test]
fn a_window_opens_with_the_series_that_exist_from_the_start_at_0_and_closes_as_if_nobody_had_looked() {
    let (mut shown_early, mut other) = (window(10, 60), window(10, 60));
    let opening = Aggregator::opening(&shown_early)
        .unwrap()
        .into_snapshot()
        .unwrap();
    assert_eq!(
        (opening.at, opening.window, opening.last),
        (at(2), Duration::ZERO, false)
    );
    let totals = |snapshot: &Snapshot| {
        let Points::Sums(points) = &snapshot.families[FamilyId::Totals as usize].points else {
            panic!("totals are no sums");
        };
        points.clone()
    };
    let labels = |points: &[SumPoint]| -> Vec<String> {
        let points = points.iter();
        points.map(|point| point.series.joined_labels()).collect()
    };
    let opened = totals(&opening);
    assert_eq!(opening.points(), opened.len());
    assert!(
        opened
            .iter()
            .all(|point| (point.total, point.delta) == (0, 0) && point.series.start() == at(2))
    );
    let [early, late] = [&mut shown_early, &mut other].map(|window| totals(&window.advance(at(5)).unwrap()));
    assert_eq!(labels(&opened), labels(&late));
    let values = |points: &[SumPoint]| -> Vec<_> {
        let points = points.iter();
        points
            .map(|point| (point.total, point.delta, point.updated))
            .collect()
    };
    assert_eq!(values(&early), values(&late));
}

/// Findings of a snapshot, by their labels.
fn findings(snapshot: &Snapshot) -> HashMap<String, u64> {
    let family = &snapshot.families[FamilyId::Findings as usize];
    let Points::Sums(points) = &family.points else {
        panic!("findings are no sums");
    };
    points
        .iter()
        .map(|point| (point.series.joined_labels(), point.total))
        .collect()
}

fn finding(kind: FindingKind) -> FlowBatch {
    let record = flow(FlowKind::Egress, PeerClass::ExternalHosts, 0, 0);
    FlowBatch {
        findings: vec![FindingRecord {
            flow: record.flow,
            kind,
            at: at(3),
            subject: "curl".into(),
            object: "".into(),
            text: "".into(),
            numbers: Vec::new(),
        }],
        ..FlowBatch::default()
    }
}

/// A window of a pipeline that has the processor `watch`, and that processor's place, with these labels of findings.
fn watched_window(labels: Option<Vec<Label>>) -> (Window, Registration) {
    let context = context(NodeInfo::default());
    let registration = context.findings.register("watch", &context.pipeline);
    let mut config = Config {
        interval: Duration::from_secs(5),
        metric_expiration: Duration::from_secs(60),
        ..Config::default()
    };
    let own = FamilyConfig {
        labels,
        ..FamilyConfig::default()
    };
    config.families.insert("network_findings".to_owned(), own);
    let mut window = Window::new(&config, &context);
    window.begin(at(2));
    (window, registration)
}

#[test]
fn findings_have_series_at_0_from_the_start_which_never_leave_where_something_watches() {
    let (mut watched, _registration) = watched_window(None);
    let opened = findings(&watched.opening());
    let external = |kind: &str| format!(r#"finding="{kind}",type="externalHosts""#);
    for kind in FindingKind::ALL {
        let of_kind = opened
            .keys()
            .filter(|labels| labels.contains(&format!(r#""{kind}""#)));
        assert!(of_kind.count() > 0, "{kind}: {opened:?}");
    }
    assert!(opened.values().all(|total| *total == 0), "{opened:?}");
    assert!(opened.contains_key(&external("beacon")) && !opened.contains_key(&external("black_list")));

    watched.fold(&finding(FindingKind::Beacon));
    assert_eq!(findings(&watched.advance(at(5)).unwrap())[&external("beacon")], 1);
    let later = watched.advance(at(500)).unwrap();
    assert_eq!(findings(&later)[&external("beacon")], 1);
    assert_eq!(findings(&later).len(), opened.len());
    watched.fold(&finding(FindingKind::Beacon));
    assert_eq!(
        findings(&watched.advance(at(505)).unwrap())[&external("beacon")],
        2
    );

    let mut unwatched = window(10, 60);
    assert!(findings(&unwatched.opening()).is_empty());
    assert!(findings(&unwatched.advance(at(5)).unwrap()).is_empty());
}

#[test]
fn findings_by_peer_begin_with_the_first_one_and_expire() {
    let (mut by_peer, _registration) = watched_window(Some(vec![Label::Finding, Label::Raddr]));
    assert!(findings(&by_peer.opening()).is_empty());
    by_peer.fold(&finding(FindingKind::Beacon));
    assert_eq!(findings(&by_peer.advance(at(5)).unwrap()).len(), 1);
    assert!(findings(&by_peer.advance(at(500)).unwrap()).is_empty());

    let labels = vec![Label::Finding, Label::Flow, Label::NetworkType];
    let (by_role, registration) = watched_window(Some(labels));
    assert_eq!(findings(&by_role.opening()).len(), 4 * FindingKind::ALL.len());
    drop(registration);
}
