//! Capture modes: each exact within what it promises, what it can't hand on counted, the choice told.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use crate::daemon::{Daemon, LastWindow, Launch};
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

/// Numbers behind `key=` in the log's warnings, added up.
fn told_in_log(window: &LastWindow, key: &str) -> u64 {
    let key = format!(" {key}=");
    let numbers = window.log.lines().filter_map(|line| line.split_once(&key));
    numbers
        .map(|(_, rest)| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap()
        })
        .sum()
}

/// What a 3,000-connection exchange moved, and what a daemon with these settings made of it that could not read meanwhile.
fn exchanged_while_paused(set: &[&str], seed: u64) -> (Counted, Counted, LastWindow) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = Daemon::start(set);
    let sent = daemon.while_paused(|| exchange(&listener, CONNECTIONS, seed).unwrap());
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    (sent, Counted::of_port(&window.totals, port), window)
}

#[test]
fn auto_takes_mode_sockets_on_a_kernel_that_has_it_and_a_metric_says_so() {
    let Some(_machine) = require::root() else {
        return;
    };
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
    let before = kernel_objects::programs();
    let _daemon = Daemon::start(&[]);
    let scans: Vec<_> = kernel_objects::programs()
        .difference(&before)
        .filter(|(_, name)| name.starts_with("scan_"))
        .map(|(_, name)| name.clone())
        .collect();
    assert_eq!(scans, [if has_cast { "scan_by_cast" } else { "scan_sockets" }]);
}

#[test]
fn mode_events_counts_to_the_byte_once_connections_have_closed_and_drops_nothing() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let daemon = Daemon::start(&[EVENTS, netns::BY_NETNS]);
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
    assert_eq!(Counted::of_port(&window.totals, port), sent);
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
    // Both ends, opened and closed; and the listener's end may have come in, too.
    assert!(received("tcpconn") >= 4 * CONNECTIONS as u64, "{}", window.log);
    assert!(received("tcpflow") > 0);
    assert_eq!(window.totals.sum("primus_lens_bpf_event_chan_drop", &[]), 0);
    assert!(
        !window.log.contains("could not hand everything on"),
        "{}",
        window.log
    );
}

#[test]
fn mode_events_counts_in_every_namespace_and_ipv6() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[EVENTS]);
    assert_eq!(mode_of(&daemon), "events");
    let (port, sent) = netns::within_new(|| {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        (
            listener.local_addr().unwrap().port(),
            exchange(&listener, 500, 12).unwrap(),
        )
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port(&window.totals, port), sent);
}

#[test]
fn received_bytes_of_an_open_connection_are_exact_in_mode_events() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[EVENTS]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, 20).unwrap();
    let sent = held.exchange(30_000).unwrap();
    daemon.scrape_until("the received bytes of both ends", |scrape| {
        let seen = Counted::of_port(scrape, port);
        (seen.client_received, seen.server_received) == (sent.client_received, sent.server_received)
    });
}

#[test]
fn what_a_full_channel_turns_away_is_counted_and_the_sum_is_right() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let (sent, seen, window) = exchanged_while_paused(&[EVENTS, "receivers.ebpf.channel_capacity=1"], 13);
    assert!(
        window.totals.sum("primus_lens_bpf_event_chan_drop", &[]) > 0,
        "nothing was dropped"
    );
    // The log tells bytes with each warning; and no other traffic is on this machine.
    let lost = |key| told_in_log(&window, key);
    assert_eq!(
        seen.client_sent + seen.server_sent + lost("sent"),
        sent.client_sent + sent.server_sent
    );
    assert_eq!(
        seen.client_received + seen.server_received + lost("received"),
        sent.client_received + sent.server_received
    );
}

#[test]
fn what_a_ring_of_4_kib_turns_away_is_counted_and_the_sum_is_right() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    for mode in ["receivers.ebpf.mode=sockets", EVENTS] {
        let (sent, seen, window) =
            exchanged_while_paused(&[mode, "receivers.ebpf.ring_buffer_bytes=4096"], 14);
        let lost = |key| told_in_log(&window, key);
        let said = format!("{mode}: {seen:?} of {sent:?}\n{}", window.log);
        assert!(lost("connections") > 0, "nothing was lost; {said}");
        assert_eq!(
            seen.client_sent + seen.server_sent + lost("sent_bytes"),
            sent.client_sent + sent.server_sent,
            "{said}"
        );
        assert_eq!(
            seen.client_received + seen.server_received + lost("received_bytes"),
            sent.client_received + sent.server_received,
            "{said}"
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
    let daemon = Daemon::start(&[
        "receivers.ebpf.mode=sockets",
        "receivers.ebpf.ring_buffer_bytes=4096",
    ]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, OPEN).unwrap();
    let mut sent = Counted::default();
    for _ in 0..3 {
        sent += held.exchange(1_000).unwrap();
        daemon.scrape_until("what the applications counted", |scrape| {
            Counted::of_port(scrape, port) == sent
        });
    }
    let refused = daemon
        .telemetry()
        .sum("flowtap_receiver_refused_records_total", &[]);
    assert_eq!(refused, 0, "nothing has closed, and a scan turns nothing away");
}

#[test]
fn fifty_thousand_short_connections_are_all_opened_closed_and_exact() {
    const SHORT: usize = 50_000;
    const LISTENERS: usize = 5;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    // Not optimised, and beside a load that takes every processor, it needs more room than a release (docs/performance.md).
    let ring = "receivers.ebpf.ring_buffer_bytes=16777216";
    let daemon = Daemon::start(&[netns::BY_NETNS, ring]);
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
        assert_eq!(Counted::of_port(&window.totals, port), moved);
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
    assert!(
        !window.log.contains("could not hand everything on"),
        "{}",
        window.log
    );
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
        "connections shorter than an interval",
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
    if !require::program("bpftool") {
        return;
    }
    let (programs, maps) = (kernel_objects::programs(), kernel_objects::maps());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, 100).unwrap();
    let daemon = Daemon::start(&[]);
    held.exchange(1_000).unwrap();
    assert!(kernel_objects::programs().len() > programs.len());
    daemon.kill();
    // The kernel frees them when their last reader has left, a moment after the process.
    kernel_objects::wait_until_only(&programs, &maps);

    let daemon = Daemon::start(&[]);
    let sent = held.exchange(3_000).unwrap();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port(&window.totals, port), sent);
}
