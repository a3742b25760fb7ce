//! The processor `filter` in the daemon: what it drops is counted to the byte, what it keeps is exact, and the gauge of open
//! connections follows a filter that changes.

use std::net::{Ipv4Addr, TcpListener};

use crate::daemon::{Daemon, Launch, read};
use crate::handover::BY_PORT;
use crate::open_connections::{active, open_by_ss};
use crate::require;
use crate::traffic::{Counted, Held, exchange};

const PROCESSORS: &str = "service.pipelines.metrics.processors=[direction, policy, filter, window]";
const REASON: [(&str, &str); 1] = [("reason", "filter")];

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn records_in_are_records_out_and_dropped_ones() {
    const SENT: u64 = 700;
    const RECEIVED: u64 = 1_100;
    let daemon = Daemon::launch(Launch {
        set: &[
            PROCESSORS,
            "service.pipelines.metrics.receivers=[generator]",
            "receivers.generator={flows: 600, interval: 100ms, max_intervals: 3, server_share: 0.4, sent_bytes: 700, received_bytes: 1100}",
            "processors.filter={exclude: [{role: [server]}]}",
        ],
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    });
    let scrape = daemon.scrape_until("the bytes of the clients", |seen| {
        seen.sum("primus_lens_network_tcp_flow_egress", &[]) == 360 * 3 * (SENT + RECEIVED)
    });
    assert_eq!(scrape.sum("primus_lens_network_tcp_flow_ingress", &[]), 0);
    assert_eq!(
        scrape.sum("primus_lens_network_tcp_bytes", &[]),
        360 * 3 * (SENT + RECEIVED)
    );
    assert_eq!(scrape.sum("primus_lens_network_tcp_connections_active", &[]), 360);
    let own = daemon.telemetry();
    assert_eq!(
        own.sum("flowtap_processor_dropped_bytes_total", &REASON),
        240 * 3 * (SENT + RECEIVED)
    );
    // A record for each flow in each interval, and one more for its opening where that comes by itself.
    let accepted = own.sum("flowtap_receiver_accepted_records_total", &[]);
    let dropped = own.sum("flowtap_processor_dropped_records_total", &REASON);
    assert_eq!(
        accepted * 240,
        dropped * 600,
        "{accepted} records, {dropped} dropped"
    );
}

#[test]
fn two_filters_with_opposite_matchers_drop_every_record_once_tcp_and_udp() {
    const UDP: u64 = 300;
    const INTERVALS: u64 = 3;
    let daemon = Daemon::launch(Launch {
        set: &[
            PROCESSORS,
            "service.pipelines.metrics.receivers=[generator]",
            "service.pipelines.metrics/rest={receivers: [generator], processors: [direction, policy, filter/rest, window], exporters: [debug]}",
            "exporters.debug={}",
            "receivers.generator={flows: 600, udp_flows: 300, udp_datagrams: 5, udp_datagram_bytes: 100, interval: 100ms, max_intervals: 3, server_share: 0.4}",
            "processors.filter={exclude: [{transport: [udp]}]}",
            "processors.filter/rest={include: [{transport: [udp]}]}",
        ],
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    });
    let own = daemon.telemetry_until("the records of every interval", |own| {
        own.sum(
            "flowtap_processor_dropped_records_total",
            &[("processor", "filter"), REASON[0]],
        ) >= UDP * INTERVALS
    });
    // A record that one filter passes on is one that the other drops, so both together are what came in.
    let accepted = own.sum("flowtap_receiver_accepted_records_total", &[]);
    let by = |processor| {
        own.sum(
            "flowtap_processor_dropped_records_total",
            &[("processor", processor), REASON[0]],
        )
    };
    let (udp, rest) = (by("filter"), by("filter/rest"));
    assert_eq!(udp + rest, accepted, "{udp} and {rest}");
    assert_eq!(udp, UDP * INTERVALS);
    let passed = |processor| {
        own.sum(
            "flowtap_processor_filter_passed_records_total",
            &[("processor", processor)],
        )
    };
    assert_eq!(
        (passed("filter"), passed("filter/rest")),
        (rest, udp),
        "in = passed + dropped"
    );
    let bytes = own.sum(
        "flowtap_processor_dropped_bytes_total",
        &[("processor", "filter"), REASON[0]],
    );
    assert_eq!(bytes, UDP * INTERVALS * 5 * 100 * 2, "sent and received");
    let scrape = daemon.scrape();
    assert_eq!(scrape.sum("primus_lens_network_udp_flow_egress", &[]), 0);
    assert_eq!(scrape.sum("primus_lens_network_udp_flow_ingress", &[]), 0);
    assert!(scrape.sum("primus_lens_network_tcp_bytes", &[]) > 0);
}

#[test]
fn connections_beyond_the_table_of_decisions_are_counted() {
    const BEYOND: u64 = 1_000;
    let flows = (1 << 20) + BEYOND;
    let daemon = Daemon::launch(Launch {
        set: &[
            PROCESSORS,
            "service.pipelines.metrics.receivers=[generator]",
            &format!("receivers.generator={{flows: {flows}, interval: 1s, max_intervals: 1}}"),
            "processors.filter={include: [{class: [k8sPod]}]}",
        ],
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    });
    let untracked = "flowtap_processor_filter_untracked_records_total";
    let own = daemon.telemetry_until("records without a place in the table", |own| {
        own.sum(untracked, &[]) > 0
    });
    assert_eq!(
        own.sum(untracked, &[("processor", "filter")]) % BEYOND,
        0,
        "a record each"
    );
}

#[test]
fn series_that_others_outrank_are_counted_once_per_window() {
    let daemon = Daemon::launch(Launch {
        set: &[
            "service.pipelines.metrics.receivers=[generator]",
            "receivers.generator={flows: 50, interval: 100ms, max_intervals: 1}",
            "processors.window={interval: 200ms, families: {network_tcp_flow_egress: {top: {n: 10}, labels: [raddr, direction, type]}}}",
        ],
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    });
    let outranked = "flowtap_processor_outranked_series_total";
    let own = daemon.telemetry_until("series that others outrank", |own| own.sum(outranked, &[]) > 0);
    // 50 peers, of which 10 have a name.
    assert_eq!(
        own.sum(outranked, &[("family", "network_tcp_flow_egress")]),
        50 - 10
    );
    assert_eq!(own.sum(outranked, &[]), 50 - 10, "no other family has `top`");
}

#[test]
fn bytes_of_a_dropped_port_are_counted_as_dropped_and_others_are_exact() {
    let Some(_machine) = require::root() else {
        return;
    };
    let ((dropped, dropped_port), (kept, kept_port)) = (listen(), listen());
    let matcher = format!("processors.filter={{exclude: [{{server_port: [{dropped_port}]}}]}}");
    let daemon = Daemon::start(&[PROCESSORS, &matcher]);
    let not_seen = exchange(&dropped, 40, 71).unwrap();
    let sent = exchange(&kept, 40, 72).unwrap();
    daemon.scrape_until("the traffic that is kept", |seen| {
        Counted::of_port(seen, kept_port) == sent
    });
    let bytes =
        not_seen.client_sent + not_seen.client_received + not_seen.server_sent + not_seen.server_received;
    let own = daemon.telemetry_until("the traffic that is dropped", |own| {
        own.sum("flowtap_processor_dropped_bytes_total", &REASON) >= bytes
    });
    assert_eq!(own.sum("flowtap_processor_dropped_bytes_total", &REASON), bytes);
    // At least one for each end.
    assert!(own.sum("flowtap_processor_dropped_records_total", &REASON) >= 80);
    assert_eq!(
        Counted::of_port(&daemon.scrape(), dropped_port),
        Counted::default()
    );
}

#[test]
fn scrapes_of_the_daemon_itself_are_left_out_on_request() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[&[PROCESSORS, "processors.filter={self: exclude}"], &BY_PORT[..]].concat());
    let port = daemon.scrape_address().port();
    // The scraper's end is this program's, and stays.
    let scrape = daemon.scrape_until("the scraper's end", |seen| {
        seen.sum(
            "primus_lens_network_tcp_flow_egress",
            &[("rport", &port.to_string()), ("direction", "inbound")],
        ) > 0
    });
    daemon.telemetry_until("the daemon's end among what is dropped", |own| {
        own.sum("flowtap_processor_dropped_records_total", &REASON) > 0
    });
    let labels = [("lport", &*port.to_string())];
    for family in [
        "primus_lens_network_tcp_flow_ingress",
        "primus_lens_network_tcp_connections",
    ] {
        assert_eq!(scrape.select(family, &labels).count(), 0, "{family}");
        assert_eq!(daemon.scrape().select(family, &labels).count(), 0, "{family}");
    }
}

#[test]
fn a_filter_that_comes_and_goes_moves_the_gauge_of_open_connections() {
    const HELD: usize = 7;
    let Some(_machine) = require::root() else {
        return;
    };
    let (listener, port) = listen();
    let daemon = Daemon::start(&[&[PROCESSORS, "processors.filter={self: exclude}"], &BY_PORT[..]].concat());
    let held = Held::open(&listener, HELD).unwrap();
    daemon.scrape_until("all connections", |seen| active(seen, port) == [HELD as u64; 2]);
    let config = read(&daemon.config());
    let with = |filter: &str| config.replace("  policy:\n", &format!("  policy:\n  filter: {filter}\n"));
    // `--set` of the start is above the file: the file adds a list beside `self`.
    assert!(daemon.reload(&with(&format!("{{exclude: [{{local_port: [{port}]}}]}}"))));
    daemon.scrape_until("the clients' ends alone", |seen| {
        active(seen, port) == [HELD as u64, 0]
    });
    assert_eq!(open_by_ss(port), HELD);
    assert!(daemon.reload(&with("{exclude: [{role: [client]}]}")));
    daemon.scrape_until("the servers' ends alone", |seen| {
        active(seen, port) == [0, HELD as u64]
    });
    assert!(daemon.reload(&config));
    daemon.scrape_until("all again", |seen| active(seen, port) == [HELD as u64; 2]);
    drop(held);
    daemon.scrape_until("none", |seen| active(seen, port) == [0, 0]);
}
