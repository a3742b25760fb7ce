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
