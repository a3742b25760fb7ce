//! The receiver `generator` through the whole daemon: series and sums are what the arithmetic of its config says. No test here
//! needs a privilege, and as root they give them up.

use crate::daemon::{Daemon, Launch};
use crate::exposition::Exposition;

const PIPELINE: &str = "service.pipelines.metrics.receivers=[generator]";
const INTERVAL: &str = "receivers.generator.interval=100ms";

const FLOWS: u64 = 600;
/// 40 % of them.
const SERVED: u64 = 240;
/// A quarter of them.
const BY_IPV6: u64 = 150;
const INTERVALS: u64 = 3;
const CHURN: u64 = 20;
const SENT: u64 = 700;
const RECEIVED: u64 = 1_100;

fn start(set: &[&str]) -> Daemon {
    Daemon::launch(Launch {
        set: &[&[PIPELINE, INTERVAL], set].concat(),
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    })
}

fn connections(seen: &Exposition, event: &str) -> u64 {
    seen.sum("primus_lens_network_tcp_connections", &[("event", event)])
}

/// Whether the sums are those of all intervals.
fn is_complete(seen: &Exposition) -> bool {
    let families = [
        ("primus_lens_network_tcp_flow_egress", FLOWS - SERVED),
        ("primus_lens_network_tcp_flow_ingress", SERVED),
    ];
    let bytes = families.iter().all(|(family, peers)| {
        [("outbound", SENT), ("inbound", RECEIVED)]
            .iter()
            .all(|(direction, bytes)| {
                seen.sum(family, &[("direction", direction)]) == peers * INTERVALS * bytes
            })
    });
    bytes
        && connections(seen, "opened") == FLOWS + INTERVALS * CHURN
        && connections(seen, "closed") == INTERVALS * CHURN
        && seen.sum("primus_lens_network_tcp_connections_active", &[]) == FLOWS
}

#[test]
fn a_scrape_has_exactly_the_series_and_the_bytes_that_the_config_implies() {
    let daemon = start(&[
        "receivers.generator.flows=600",
        "receivers.generator.max_intervals=3",
        "receivers.generator.churn_per_interval=20",
        "receivers.generator.sent_bytes=700",
        "receivers.generator.received_bytes=1100",
        "receivers.generator.ipv6_share=0.25",
        "receivers.generator.server_share=0.4",
    ]);
    assert!(
        daemon.said().contains("generating synthetic flows"),
        "{}",
        daemon.said()
    );
    let scrape = daemon.scrape_until("the sums of all intervals", is_complete);
    let egress: Vec<_> = scrape
        .select("primus_lens_network_tcp_flow_egress", &[])
        .collect();
    let ingress: Vec<_> = scrape
        .select("primus_lens_network_tcp_flow_ingress", &[])
        .collect();
    // A series for each direction of each peer, all of one class.
    assert_eq!(
        (egress.len() as u64, ingress.len() as u64),
        (2 * (FLOWS - SERVED), 2 * SERVED)
    );
    let series = || egress.iter().chain(&ingress);
    assert!(series().all(|sample| sample.labels["type"] == "externalHosts"));
    let by_ipv6 = series().filter(|sample| sample.labels["raddr"].contains(':'));
    assert_eq!(by_ipv6.count() as u64, 2 * BY_IPV6);
    // And each peer has moved as much as any other.
    let outbound = series().filter(|sample| sample.labels["direction"] == "outbound");
    for sample in outbound {
        assert!(
            (sample.value - (INTERVALS * SENT) as f64).abs() < f64::EPSILON,
            "{sample:?}"
        );
    }
    let records = daemon.telemetry().sum(
        "flowtap_receiver_accepted_records_total",
        &[("receiver", "generator")],
    );
    assert_eq!(records, FLOWS + INTERVALS * (FLOWS + 2 * CHURN));
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert!(
        is_complete(&window.totals),
        "more than was to come: {}",
        window.log
    );
}

#[test]
fn a_stop_in_the_middle_of_ten_million_records_ends_it_in_order() {
    let daemon = start(&["receivers.generator.flows=10000000"]);
    daemon.telemetry_until("the first records", |own| {
        own.sum("flowtap_receiver_accepted_records_total", &[]) > 0
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}: {}", window.log);
    let opened = connections(&window.totals, "opened");
    assert!((1..10_000_000).contains(&opened), "{opened}");
}

#[test]
fn datagrams_and_dropped_packets_are_in_the_families_of_udp_icmp_and_drops() {
    let daemon = start(&[
        "receivers.generator.flows=10",
        "receivers.generator.max_intervals=3",
        "receivers.generator.server_share=0.4",
        "receivers.generator.udp_flows=500",
        "receivers.generator.udp_churn_per_interval=20",
        "receivers.generator.udp_datagrams=4",
        "receivers.generator.udp_datagram_bytes=1100",
        "receivers.generator.dropped_packets_per_interval=50",
    ]);
    let (egress, ingress) = (
        "primus_lens_network_udp_flow_egress",
        "primus_lens_network_udp_flow_ingress",
    );
    let is_complete = |seen: &Exposition| {
        [(egress, 300), (ingress, 200)].iter().all(|(family, flows)| {
            ["outbound", "inbound"].iter().all(|direction| {
                seen.sum(family, &[("direction", direction)]) == INTERVALS * flows * 4 * 1100
            })
        }) && seen.sum("primus_lens_network_drops", &[]) == INTERVALS * 50
    };
    let seen = daemon.scrape_until("the sums of all intervals", is_complete);
    let datagrams = seen.sum("primus_lens_network_udp_datagrams", &[("direction", "outbound")]);
    assert_eq!(datagrams, INTERVALS * 500 * 4);
    // Every other flow is QUIC.
    let quic = [egress, ingress].map(|family| seen.sum(family, &[("app", "quic")]));
    assert_eq!(quic.iter().sum::<u64>(), INTERVALS * 500 * 4 * 1100);
    for (family, labels) in [
        ("primus_lens_network_udp_drops", None),
        ("primus_lens_network_udp_errors", Some(("reason", "refused"))),
        (
            "primus_lens_network_icmp_messages",
            Some(("direction", "inbound")),
        ),
    ] {
        let labels: Vec<_> = labels.into_iter().collect();
        assert_eq!(seen.sum(family, &labels), INTERVALS * 5, "{family}");
    }
    for reason in [
        "NETFILTER_DROP",
        "SOCKET_RCVBUFF",
        "NO_SOCKET",
        "IP_CSUM",
        "TCP_OLD_DATA",
    ] {
        let packets = seen.sum("primus_lens_network_drops", &[("reason", reason)]);
        assert_eq!(packets, INTERVALS * 10, "{reason}");
    }
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert!(
        is_complete(&window.totals),
        "more than was to come: {}",
        window.log
    );
}

#[test]
fn a_scrape_right_after_the_start_has_the_version_and_the_totals_at_0_and_nothing_is_pushed() {
    let daemon = start(&[
        "processors.window.interval=24h",
        "processors.window.metric_expiration=48h",
        "receivers.generator.flows=10",
    ]);
    // The log line that `start` waits for comes after the snapshot was queued, which the exporter's task then takes. No window closes.
    let first = daemon.scrape_until("the totals", |first| {
        first
            .select("primus_lens_network_tcp_bytes", &[])
            .next()
            .is_some()
    });
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(first.sum("flowtap_build_info", &version), 1, "{first:?}");
    let totals: Vec<_> = first.select("primus_lens_network_tcp_bytes", &[]).collect();
    assert!(totals.len() >= 44, "{first:?}");
    assert!(totals.iter().all(|sample| sample.value == 0.0), "{totals:?}");
    let points = |exporter: &str, own: &Exposition| {
        own.sum(
            "flowtap_exporter_sent_metric_points_total",
            &[("exporter", exporter)],
        )
    };
    let own = daemon.telemetry_until("the records", |own| {
        own.sum("flowtap_receiver_accepted_records_total", &[]) > 0
    });
    assert_eq!(points("prometheus", &own), totals.len() as u64);
    assert_eq!(
        points("debug", &own),
        0,
        "a snapshot was pushed before a window closed"
    );
}
