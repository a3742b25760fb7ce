//! Capture modes: each exact within its guarantee, losses counted, the choice reported.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use crate::daemon::{Daemon, Launch, flowtap, get};
use crate::exposition::Exposition;
use crate::kernel_objects;
use crate::netns;
use crate::require;
use crate::traffic::{Counted, Held, exchange};

const EVENTS: &str = "receivers.ebpf.mode=events";
const CONNECTIONS: usize = 3_000;

/// Which mode the daemon says that it is in.
fn mode_of(daemon: &Daemon) -> String {
    let own = daemon.telemetry();
    let told: Vec<_> = own.select("flowtap_receiver_mode", &[]).collect();
    assert_eq!(told.len(), 1, "{own:#?}");
    assert!(!told[0].labels["reason"].is_empty(), "{told:?}");
    told[0].labels["mode"].clone()
}

/// In the namespace `netns`, if that is not empty.
fn connections(seen: &Exposition, flow: &str, event: &str, netns: &str) -> u64 {
    let labels = [("flow", flow), ("event", event), ("netns", netns)];
    let labels = if netns.is_empty() { &labels[..2] } else { &labels };
    seen.sum("primus_lens_network_tcp_connections", labels)
}

/// Everything that the daemon lost, of whatever traffic: records for `reason`, bytes sent and received.
fn lost(daemon: &Daemon, reason: &str) -> (u64, [u64; 2]) {
    let own = daemon.telemetry();
    let records = own.sum("flowtap_receiver_refused_records_total", &[("reason", reason)]);
    let bytes = |direction| {
        own.sum(
            "flowtap_receiver_refused_bytes_total",
            &[("direction", direction)],
        )
    };
    (records, ["outbound", "inbound"].map(bytes))
}

/// All bytes that the daemon shows, sent and received.
fn shown(seen: &Exposition) -> [u64; 2] {
    let families = [
        "primus_lens_network_tcp_flow_egress",
        "primus_lens_network_tcp_flow_ingress",
        "primus_lens_network_flow_dns",
        "primus_lens_network_k8s_tcp_flow",
    ];
    let sum = |direction| {
        families
            .map(|family| seen.sum(family, &[("direction", direction)]))
            .iter()
            .sum()
    };
    ["outbound", "inbound"].map(sum)
}

/// Settings of a daemon whose bytes are distinguished by namespace, and by direction in every
/// family.
const BY_NETNS: [&str; 4] = [
    netns::FLOWS_BY_NETNS[0],
    netns::FLOWS_BY_NETNS[1],
    "processors.window.families.network_flow_dns.labels=[direction, netns]",
    "processors.window.families.network_k8s_tcp_flow.labels=[direction, netns]",
];

/// A daemon with these settings cannot read while 3,000 connections are made. Its losses are
/// counted, for `reason` at least once, so that together with the exported bytes nothing is
/// missing.
///
/// Losses are of the whole machine, the connections are not all that is on it. A second daemon with room for all of it says what
/// the rest moved: what was lost may be more than what is missing here by that much, and no less.
fn what_is_not_shown_is_counted(set: &[&str], reason: &str, seed: u64) {
    let mut roomy = vec!["receivers.ebpf.ring_buffer_bytes=67108864"];
    roomy.extend(BY_NETNS);
    let witness = Daemon::start(&roomy);
    let mut settings = BY_NETNS.to_vec();
    settings.extend(set);
    let daemon = Daemon::start(&settings);
    let (netns, port, sent) = daemon.while_paused(|| {
        netns::within_new(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            (
                netns::label(),
                port,
                exchange(&listener, CONNECTIONS, seed).unwrap(),
            )
        })
    });
    let of_test = |seen: &Exposition| Counted::of_port_in(seen, port, &netns);

    // The last of its losses is known a tick after its last record.
    daemon.scrape_until("all that was sent, shown or lost", |seen| {
        let (_, bytes) = lost(&daemon, reason);
        let seen = of_test(seen).ways();
        (0..2).all(|way| seen[way] + bytes[way] >= sent.ways()[way])
    });
    let (records, bytes) = lost(&daemon, reason);
    let seen = of_test(&daemon.scrape());
    assert!(records > 0, "{set:?}: nothing was lost: {seen:?} of {sent:?}");
    let status = daemon.status()["components"]["receivers/ebpf"].clone();
    assert_eq!(status["state"], "recoverable_error", "{set:?}: {status}");
    let error = status["error"].as_str().unwrap_or_default();
    assert!(
        error.starts_with("records are refused, and lost: "),
        "{set:?}: {error}"
    );
    // It measures on: `get` asserts 200.
    get(daemon.admin_address(), "/readyz");

    // Its scans may come after the segments that the other one lost: the rest is waited for.
    witness.scrape_until("at least the rest of what was lost", |scrape| {
        of_test(scrape) == sent
            && shown(scrape).into_iter().enumerate().all(|(way, all)| {
                let missing = sent.ways()[way].saturating_sub(seen.ways()[way]);
                bytes[way].saturating_sub(missing) <= all - sent.ways()[way]
            })
    });
    drop(witness);
    // The final counts are no more than the traffic.
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let last = of_test(&window.totals).ways();
    assert!(
        (0..2).all(|way| last[way] <= sent.ways()[way]),
        "{last:?} of {sent:?}"
    );
}

#[test]
fn auto_takes_mode_sockets_on_a_kernel_that_has_it_and_a_metric_says_so() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    let daemon = Daemon::start(&[]);
    assert_eq!(mode_of(&daemon), "sockets");
}

#[test]
fn the_quick_scan_is_taken_where_the_kernel_has_what_it_calls() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::program("bpftool") {
        return;
    }
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let has_cast = symbols
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some("bpf_rdonly_cast"));
    let daemon = Daemon::start(&[]);
    if mode_of(&daemon) != "sockets" {
        require::skip("this test needs a kernel that takes mode sockets (flowtap doctor)");
        return;
    }
    let mut scans: Vec<_> = kernel_objects::names(&kernel_objects::of(daemon.pid()).programs)
        .into_iter()
        .filter(|name| name.starts_with("scan_") && name != "scan_listeners")
        .collect();
    scans.sort();
    // A kernel that refuses iterators over the elements of maps has the table alone.
    let expected = match (storage_can_be_scanned(), has_cast) {
        (true, true) => vec!["scan_all", "scan_by_cast", "scan_table"],
        (true, false) => vec!["scan_all", "scan_sockets"],
        (false, _) => vec!["scan_table"],
    };
    assert_eq!(scans, expected);
}

/// Whether this kernel takes an iterator over socket storage, as `flowtap doctor` has tried.
pub(crate) fn storage_can_be_scanned() -> bool {
    let output = flowtap().args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let scan = findings.iter().find(|finding| {
        finding["found"]
            .as_str()
            .is_some_and(|found| found.contains("scan_sockets"))
    });
    scan.unwrap_or_else(|| panic!("no finding of scan_sockets in {report}"))["verdict"] == "ok"
}

#[test]
fn mode_events_counts_to_the_byte_once_connections_have_closed_and_drops_nothing() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let mut settings = vec![
        EVENTS,
        netns::BY_NETNS,
        "receivers.ebpf.ring_buffer_bytes=67108864",
    ];
    settings.extend(BY_NETNS);
    let daemon = Daemon::start(&settings);
    let (netns, port, sent) = netns::within_new(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (
            netns::label(),
            port,
            exchange(&listener, CONNECTIONS, 11).unwrap(),
        )
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port_in(&window.totals, port, &netns), sent);
    for flow in ["egress", "ingress"] {
        for event in ["opened", "closed"] {
            assert_eq!(
                connections(&window.totals, flow, event, &netns),
                CONNECTIONS as u64,
                "{flow} {event}"
            );
        }
    }
    let received = |kind| window.totals.sum("primus_lens_bpf_event_recv", &[("type", kind)]);
    // Both ends, opened and closed; and the listener's end may have been received as well.
    assert!(received("tcpconn") >= 4 * CONNECTIONS as u64, "{}", window.log);
    assert!(received("tcpflow") > 0);
}

#[test]
fn mode_events_counts_in_every_namespace_and_ipv6() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[EVENTS, BY_NETNS[0], BY_NETNS[1]]);
    assert_eq!(mode_of(&daemon), "events");
    let (netns, port, sent) = netns::within_new(|| {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        (
            netns::label(),
            listener.local_addr().unwrap().port(),
            exchange(&listener, 500, 12).unwrap(),
        )
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port_in(&window.totals, port, &netns), sent);
}

#[test]
fn received_bytes_of_an_open_connection_are_exact_in_mode_events() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[EVENTS, BY_NETNS[0], BY_NETNS[1]]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, 20).unwrap();
    let sent = held.exchange(30_000).unwrap();
    let netns = netns::label();
    daemon.scrape_until("the received bytes of both ends", |scrape| {
        let seen = Counted::of_port_in(scrape, port, &netns);
        (seen.client_received, seen.server_received) == (sent.client_received, sent.server_received)
    });
}

#[test]
fn what_a_full_channel_turns_away_is_counted_and_the_sum_is_right() {
    let Some(_machine) = require::root() else {
        return;
    };
    what_is_not_shown_is_counted(&[EVENTS, "receivers.ebpf.channel_capacity=1"], "channel_full", 13);
}

#[test]
fn what_a_ring_of_4_kib_turns_away_is_counted_and_the_sum_is_right() {
    let Some(_machine) = require::root() else {
        return;
    };
    what_is_not_shown_is_counted(
        &[EVENTS, "receivers.ebpf.ring_buffer_bytes=4096"],
        "ring_full",
        14,
    );
    if require::mode_sockets() {
        let sockets = "receivers.ebpf.mode=sockets";
        what_is_not_shown_is_counted(
            &[sockets, "receivers.ebpf.ring_buffer_bytes=4096"],
            "ring_full",
            14,
        );
    }
}

#[test]
fn a_scan_that_finds_more_than_the_ring_has_room_for_shows_it_all() {
    /// Records of both ends take thirty times the ring.
    const OPEN: usize = 400;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    let daemon = Daemon::start(&[
        "receivers.ebpf.mode=sockets",
        "receivers.ebpf.ring_buffer_bytes=4096",
        BY_NETNS[0],
        BY_NETNS[1],
    ]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let netns = netns::label();
    let mut held = Held::open(&listener, OPEN).unwrap();
    let mut sent = Counted::default();
    for _ in 0..3 {
        sent += held.exchange(1_000).unwrap();
        daemon.scrape_until("what the applications counted", |scrape| {
            Counted::of_port_in(scrape, port, &netns) == sent
        });
    }
    // Nothing of these connections has closed, so that all of their bytes are shown: a scan turns nothing away.
}

#[test]
fn fifty_thousand_short_connections_are_all_opened_closed_and_exact() {
    const SHORT: usize = 50_000;
    const LISTENERS: usize = 5;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    // Not optimised, and beside a load that takes every processor, it needs more room than a release (docs/performance.md).
    let ring = "receivers.ebpf.ring_buffer_bytes=67108864";
    let daemon = Daemon::start(&[netns::BY_NETNS, ring, BY_NETNS[0], BY_NETNS[1]]);
    let (netns, ports) = netns::within_new(|| {
        // Several ports: the client's ends wait out TIME_WAIT, and each listener has its own 28,000 of them.
        let mut ports = Vec::new();
        for number in 0..LISTENERS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let moved = crate::traffic::churn(&listener, SHORT / LISTENERS, 100 + number).unwrap();
            ports.push((port, moved));
        }
        (netns::label(), ports)
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    for (port, moved) in ports {
        assert_eq!(Counted::of_port_in(&window.totals, port, &netns), moved);
    }
    for flow in ["egress", "ingress"] {
        for event in ["opened", "closed"] {
            assert_eq!(
                connections(&window.totals, flow, event, &netns),
                SHORT as u64,
                "{flow} {event}"
            );
        }
    }
}

#[test]
fn without_privileges_sock_diag_steps_in_with_a_notice_and_counts_open_connections_exactly() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::launch(Launch {
        unprivileged: true,
        ..Launch::default()
    });
    let said = daemon.said();
    for words in [
        "CAP_BPF",
        "setcap cap_bpf,cap_perfmon+ep",
        "sock_diag",
        "other network namespaces and processes are not seen",
    ] {
        assert!(said.contains(words), "no {words} in:\n{said}");
    }
    assert_eq!(mode_of(&daemon), "sock_diag");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, 50).unwrap();
    let sent = held.exchange(20_000).unwrap();
    daemon.scrape_until("what the applications counted", |scrape| {
        Counted::of_port(scrape, port) == sent
    });
    drop(held);
    let closed = |scrape: &Exposition| {
        connections(scrape, "egress", "closed", "") >= 50
            && connections(scrape, "ingress", "closed", "") >= 50
    };
    daemon.scrape_until("the ends of the connections", closed);
}

#[test]
fn after_kill_9_nothing_is_left_in_the_kernel_and_the_next_start_adopts_what_is_open() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::program("bpftool") || !require::mode_sockets() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, 100).unwrap();
    let daemon = Daemon::start(&[]);
    held.exchange(1_000).unwrap();
    let objects = kernel_objects::of(daemon.pid());
    assert!(
        !objects.programs.is_empty() && !objects.maps.is_empty(),
        "{objects:?}"
    );
    daemon.kill();
    // The kernel frees them when their last reader has left, a moment after the process.
    kernel_objects::wait_until_gone(&objects);

    let daemon = Daemon::start(&BY_NETNS);
    let sent = held.exchange(3_000).unwrap();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port_in(&window.totals, port, &netns::label()), sent);
}
