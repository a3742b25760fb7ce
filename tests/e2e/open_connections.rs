//! The gauge of open connections: it is what is open, whatever was lost, and whatever was reloaded.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use crate::daemon::{Daemon, read};
use crate::exposition::Exposition;
use crate::handover::BY_PORT;
use crate::require;
use crate::traffic::{Held, churn};

/// Number of open connections to `port`: clients' ends, servers' ends.
pub(crate) fn active(seen: &Exposition, port: u16) -> [u64; 2] {
    let port = port.to_string();
    [("egress", "rport"), ("ingress", "lport")].map(|(flow, label)| {
        let labels = [("flow", flow), (label, &*port)];
        seen.sum("primus_lens_network_tcp_connections_active", &labels)
    })
}

/// Number of clients' ends to `port` that are established, as counted by the kernel.
pub(crate) fn open_by_ss(port: u16) -> usize {
    let filter = format!("dport = :{port}");
    let shown = Command::new("ss")
        .args(["-Htn", "state", "established", &filter])
        .output()
        .expect("ss");
    assert!(shown.status.success(), "{shown:?}");
    String::from_utf8_lossy(&shown.stdout).lines().count()
}

fn right_again_after_the_ring_was_full(mode: &str) {
    const HELD: usize = 200;
    let small = ["receivers.ebpf.ring_buffer_bytes=65536"];
    let daemon = Daemon::start(&[&[mode], &small[..], &BY_PORT[..]].concat());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let held = Held::open(&listener, HELD).unwrap();
    let rest = Held::open(&listener, 3).unwrap();
    daemon.scrape_until("all of them", |seen| active(seen, port) == [HELD as u64 + 3; 2]);
    daemon.while_paused(|| {
        // The ring holds some hundred records.
        churn(&other, 2_000, 10).unwrap();
        drop(held);
    });
    daemon.scrape_until("those that are left", |seen| active(seen, port) == [3, 3]);
    assert_eq!(open_by_ss(port), 3);
    let own = daemon.telemetry();
    let lost = own.sum(
        "flowtap_receiver_refused_records_total",
        &[("reason", "ring_full")],
    );
    assert!(lost > 0, "the ring was not full: {own:#?}");
    drop(rest);
    daemon.scrape_until("none", |seen| active(seen, port) == [0, 0]);
}

#[test]
fn connections_whose_close_found_the_ring_full_are_open_no_longer() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    right_again_after_the_ring_was_full("receivers.ebpf.mode=sockets");
}

#[test]
fn in_mode_events_connections_whose_close_found_the_ring_full_are_open_no_longer() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    right_again_after_the_ring_was_full("receivers.ebpf.mode=events");
}

#[test]
fn in_mode_events_connections_that_open_while_the_ring_is_full_are_open() {
    // Their records take more than the ring has. They are idle, and have no others.
    const HELD: usize = 300;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let set = [
        "receivers.ebpf.mode=events",
        "receivers.ebpf.ring_buffer_bytes=65536",
    ];
    let daemon = Daemon::start(&[&set, &BY_PORT[..]].concat());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = daemon.while_paused(|| Held::open(&listener, HELD).unwrap());
    daemon.scrape_until("all of them", |seen| active(seen, port) == [HELD as u64; 2]);
    assert_eq!(open_by_ss(port), HELD);
    let reason = [("reason", "opening_put_off")];
    daemon.telemetry_until("openings that found no room", |own| {
        own.sum("flowtap_receiver_refused_records_total", &reason) > 0
    });
    drop(held);
    daemon.scrape_until("none", |seen| active(seen, port) == [0, 0]);
}

fn a_window_that_changes_knows_what_is_open(mode: &str) {
    let daemon = Daemon::start(&[&[mode], &BY_PORT[..]].concat());
    let config = read(&daemon.config());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let ten = Held::open(&listener, 10).unwrap();
    let others = Held::open(&listener, 10).unwrap();
    daemon.scrape_until("20", |seen| active(seen, port) == [20, 20]);
    let other_window = config.replace("window: {", "window: {metric_expiration: 601s, ");
    assert_ne!(other_window, config);
    assert!(daemon.reload(&other_window));
    daemon.scrape_until("20 in the new window", |seen| active(seen, port) == [20, 20]);
    drop(ten);
    daemon.scrape_until("10 of them", |seen| active(seen, port) == [10, 10]);
    let more = Held::open(&listener, 8).unwrap();
    daemon.scrape_until("8 more", |seen| active(seen, port) == [18, 18]);
    assert_eq!(open_by_ss(port), 18);
    // A pipeline that is added also gets them.
    let second = format!(
        "{other_window}    metrics/second:\n      receivers: [ebpf]\n      processors: [direction, policy, window]\n      exporters: [prometheus]\n"
    );
    assert!(daemon.reload(&second));
    daemon.scrape_until("both pipelines", |seen| active(seen, port) == [36, 36]);
    drop((others, more));
    daemon.scrape_until("none", |seen| active(seen, port) == [0, 0]);
}

#[test]
fn a_window_that_is_reloaded_knows_what_is_open() {
    let Some(_machine) = require::root() else {
        return;
    };
    a_window_that_changes_knows_what_is_open("receivers.ebpf.mode=sockets");
}

#[test]
fn in_mode_events_a_window_that_is_reloaded_knows_what_is_open() {
    let Some(_machine) = require::root() else {
        return;
    };
    a_window_that_changes_knows_what_is_open("receivers.ebpf.mode=events");
}

#[test]
fn a_receiver_that_is_slower_to_begin_makes_no_window_of_1970() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let config = read(&daemon.config());
    let two = |flows: u32| {
        config
            .replace(
                "receivers:\n",
                &format!("receivers:\n  generator: {{flows: {flows}, interval: 1500ms}}\n"),
            )
            .replace("receivers: [ebpf]", "receivers: [ebpf, generator]")
    };
    let generated =
        |seen: &Exposition| seen.sum("primus_lens_network_tcp_connections", &[("event", "opened")]);
    for flows in [50, 70] {
        // The second time one of the two begins anew, in a window that lives on.
        assert!(daemon.reload(&two(flows)));
        daemon.scrape_until("the flows", |seen| generated(seen) >= u64::from(flows));
    }
    // Its 50 of before are open no longer, its 70 are.
    daemon.scrape_until("what is open", |seen| {
        seen.sum(
            "primus_lens_network_tcp_connections_active",
            &[("type", "externalHosts")],
        ) >= 70
    });
    assert!(daemon.reload(&config));
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert!(!window.log.contains("set back"), "{}", window.log);
}

#[test]
fn the_number_of_live_series_goes_down_to_none_when_all_have_expired() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let config = read(&daemon.config())
        .replace(
            "ebpf: {interval: 200ms}",
            "generator: {flows: 300, interval: 200ms, max_intervals: 10, churn_per_interval: 300}",
        )
        .replace("receivers: [ebpf]", "receivers: [generator]")
        .replace("window: {", "window: {metric_expiration: 1s, ");
    assert!(daemon.reload(&config));
    let live = |seen: &Exposition| {
        seen.sum(
            "flowtap_processor_live_series",
            &[("family", "network_tcp_flow_egress")],
        )
    };
    daemon.telemetry_until("series", |seen| live(seen) > 0);
    daemon.telemetry_until("none", |seen| live(seen) == 0);
}
