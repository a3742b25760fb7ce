//! DNS transactions through the whole daemon.

use crate::daemon::{Daemon, Launch};

/// 400 transactions of the generator, whose arithmetic is the oracle.
const GENERATED: &[&str] = &[
    "service.pipelines.flows.receivers=[generator]",
    "receivers.generator.interval=100ms",
    "receivers.generator.flows=30",
    "receivers.generator.server_share=0",
    "receivers.generator.max_intervals=4",
    "receivers.generator.dns_queries_per_interval=100",
];

fn start(set: &[&str]) -> Daemon {
    Daemon::launch(Launch {
        set: &[GENERATED, set].concat(),
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    })
}

#[test]
fn queries_are_counted_by_outcome_and_observed_when_they_were_answered() {
    let daemon = start(&[]);
    let queries = "primus_lens_network_dns_queries";
    let scrape = daemon.scrape_until("all transactions", |seen| seen.sum(queries, &[]) == 400);
    for (rcode, count) in [("NOERROR", 380), ("NXDOMAIN", 16), ("timeout", 4)] {
        let labels = [("rcode", rcode), ("raddr", "192.0.2.53"), ("flow", "egress")];
        assert_eq!(scrape.sum(queries, &labels), count, "{rcode}");
    }
    let of_type = |qtype| scrape.sum(queries, &[("qtype", qtype)]);
    assert_eq!((of_type("A"), of_type("AAAA")), (200, 200));
    assert_eq!(scrape.sum("primus_lens_network_dns_retries", &[]), 4);
    let answered = scrape.sum("primus_lens_network_dns_duration_count", &[]);
    assert_eq!(answered, 396);
    let named =
        |sample: &crate::exposition::Sample| sample.labels.values().any(|value| value.contains("example"));
    assert!(!scrape.0.iter().any(named), "a name without names");
}

#[test]
fn names_are_labels_and_name_the_peers_of_connections_where_the_config_asks_for_both() {
    let daemon = start(&[
        "receivers.generator.dns_names=10",
        "processors.names.sources=[dns]",
        "service.pipelines.flows.processors=[direction, policy, names, window]",
        "processors.window.families.network_dns_queries.labels=[qname, rcode]",
        "processors.window.families.network_tcp_flow_egress.labels=[raddr, direction, peer_name, peer_name_source]",
    ]);
    let queries = "primus_lens_network_dns_queries";
    let bytes = "primus_lens_network_tcp_flow_egress";
    let scrape = daemon.scrape_until("all transactions", |seen| seen.sum(queries, &[]) == 400);
    assert_eq!(scrape.sum(queries, &[("qname", "host3.example.com")]), 40);
    // Connections have the name as long as they live, so the last interval is named.
    let named = scrape
        .select(bytes, &[("peer_name_source", "dns"), ("direction", "outbound")])
        .count();
    assert_eq!(named, 10);
    let of_host = [("peer_name", "host3.example.com"), ("raddr", "198.18.0.3")];
    assert!(scrape.sum(bytes, &of_host) > 0);
    let mut nameless = scrape.select(bytes, &[("raddr", "198.18.0.20")]);
    assert!(nameless.all(|sample| !sample.labels.contains_key("peer_name")));
}
