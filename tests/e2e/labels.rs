//! Egress and ingress are distinguished, with the right port, and `direction` follows the bytes.

use std::net::{Ipv4Addr, TcpListener};

use crate::daemon::{Daemon, get};
use crate::require;
use crate::traffic::Held;

const EGRESS: &str = "primus_lens_network_tcp_flow_egress";
const INGRESS: &str = "primus_lens_network_tcp_flow_ingress";

#[test]
fn client_shows_as_egress_and_server_as_ingress_with_bytes_in_their_direction() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut held = Held::open(&listener, 1).unwrap();
    held.exchange(12_345).unwrap();

    let served = |scrape: &crate::exposition::Exposition| {
        scrape.sum(EGRESS, &[("rport", &port)]) == 2 * 12_345
            && scrape.sum(INGRESS, &[("lport", &port)]) == 2 * 12_345
    };
    let scrape = daemon.scrape_until("both ends of the connection", served);
    for (family, port_label) in [(EGRESS, "rport"), (INGRESS, "lport")] {
        for direction in ["outbound", "inbound"] {
            let labels = [
                ("raddr", "127.0.0.1"),
                (port_label, &*port),
                ("direction", direction),
                ("type", "localhost"),
            ];
            let samples: Vec<_> = scrape.select(family, &labels).collect();
            assert_eq!(samples.len(), 1, "{family} {direction}: {samples:?}");
            assert_eq!(scrape.sum(family, &labels), 12_345, "{family} {direction}");
            assert_eq!(samples[0].labels.len(), 4, "{family}: {samples:?}");
        }
    }
    // The client's own port is nobody's business.
    assert_eq!(scrape.select(INGRESS, &[("lport", &port)]).count(), 2);
}

#[test]
fn a_series_leaves_the_scrape_when_it_has_expired() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&["processors.window.metric_expiration=1s"]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    Held::open(&listener, 1).unwrap().exchange(10).unwrap();
    daemon.scrape_until("the series", |scrape| scrape.sum(EGRESS, &[("rport", &port)]) > 0);
    daemon.scrape_until("its end", |scrape| {
        scrape.select(EGRESS, &[("rport", &port)]).count() == 0
    });
}

#[test]
fn a_scrape_before_the_first_traffic_is_valid_and_the_daemons_own_metrics_begin_at_zero() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    get(daemon.scrape_address(), "/metrics");
    let own = daemon.telemetry();
    let refused = "flowtap_receiver_refused_records_total";
    assert_eq!(
        own.select(refused, &[("reason", "ring_full")]).count(),
        1,
        "{own:#?}"
    );
    assert_eq!(own.sum(refused, &[]), 0);
}

#[test]
fn a_series_has_the_rule_that_decided_its_class_if_it_is_asked_for() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[
        "processors.policy.rules=true",
        "processors.policy.classes=[{name: here, cidrs: [127.0.0.0/30]}]",
        "processors.window.families.network_tcp_flow_egress.labels=[raddr, rport, direction, type, policy_rule]",
    ]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    Held::open(&listener, 1).unwrap().exchange(10).unwrap();
    let labels = [
        ("rport", &*port),
        ("type", "here"),
        ("policy_rule", "here 127.0.0.0/30"),
    ];
    daemon.scrape_until("the series with its rule", |scrape| {
        scrape.sum(EGRESS, &labels) == 20
    });
}
