//! Reloads that change the receiver: the new one continues without a gap.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::daemon::{Daemon, read};
use crate::exposition::Exposition;
use crate::flow_logs;
use crate::open_connections::{active, open_by_ss};
use crate::require;
use crate::shielded::again_if_hidden;
use crate::traffic::{Counted, Held, exchange};

/// Labels by which connections of one port are found.
pub(crate) const BY_PORT: [&str; 3] = [
    // As many as there are ephemeral ports, with either role and each event.
    "processors.window.max_series=1000000",
    "processors.window.families.network_tcp_connections.labels=[flow, event, type, lport, rport]",
    "processors.window.families.network_tcp_connections_active.labels=[flow, type, lport, rport]",
];

/// The receiver in a config of these tests.
const RECEIVER: &str = "ebpf: {interval: 200ms}";

/// Pause between two rounds of traffic, for other programs on the machine.
const PACE: Duration = Duration::from_millis(10);

/// Sets the flag when dropped: the traffic ends also when a round fails.
pub(crate) struct Stops<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn local() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Number of times that `event` happened to connections of `port`: clients' ends, servers' ends.
pub(crate) fn events(seen: &Exposition, event: &str, port: u16) -> [u64; 2] {
    let port = port.to_string();
    [("egress", "rport"), ("ingress", "lport")].map(|(flow, label)| {
        let labels = [("flow", flow), ("event", event), (label, &*port)];
        seen.sum("primus_lens_network_tcp_connections", &labels)
    })
}

/// Everything that is shown of connections of `port`, for messages.
fn of_port(seen: &Exposition, port: u16) -> Vec<String> {
    let port = port.to_string();
    let families = ["network_tcp_connections", "network_tcp_connections_active"];
    let shown = families.iter().flat_map(|family| {
        let name = format!("primus_lens_{family}");
        let mut samples = Vec::new();
        for label in ["lport", "rport"] {
            let labels = [(label, &*port)];
            let of_port = seen.select(&name, &labels);
            samples.extend(of_port.map(|sample| format!("{name} {:?} {}", sample.labels, sample.value)));
        }
        samples
    });
    shown.collect()
}

/// Reloads `rounds` times, each time what `variant` makes of the config, while connections are held, come and go, and are idle;
/// then everything must have been counted. No reload changes the keys in `set`.
fn nothing_is_missed(set: &[&str], rounds: usize, variant: impl Fn(&str, usize) -> String) {
    let (short_listener, short_port) = local();
    again_if_hidden(short_port, short_port, || {
        nothing_is_missed_of(&short_listener, set, rounds, &variant);
    });
}

fn nothing_is_missed_of(
    short_listener: &TcpListener,
    set: &[&str],
    rounds: usize,
    variant: &impl Fn(&str, usize) -> String,
) {
    const SHORT: usize = 50;
    const IDLE: usize = 20;
    // The last window has a series for each short connection, which a busy machine takes its time to print.
    let timeout = "service.shutdown_timeout=60s";
    let daemon = Daemon::start(&[set, &[timeout], &BY_PORT[..]].concat());
    let config = read(&daemon.config());
    assert!(config.contains(RECEIVER));
    let ((held_listener, held_port), (idle_listener, idle_port)) = (local(), local());
    let short_port = short_listener.local_addr().unwrap().port();
    let mut held = Held::open(&held_listener, 10).unwrap();
    let idle = Held::open(&idle_listener, IDLE).unwrap();
    let stop = AtomicBool::new(false);
    let (held_bytes, (short_bytes, short_count)) = thread::scope(|scope| {
        let stops = Stops(&stop);
        let held = &mut held;
        let held = scope.spawn(|| {
            let mut sent = Counted::default();
            while !stop.load(Ordering::Relaxed) {
                sent += held.exchange(500).unwrap();
                thread::sleep(PACE);
            }
            sent
        });
        let short = scope.spawn(|| {
            let (mut sent, mut count) = (Counted::default(), 0);
            while !stop.load(Ordering::Relaxed) {
                sent += exchange(short_listener, SHORT, count).unwrap();
                count += SHORT as u64;
                thread::sleep(PACE);
            }
            (sent, count)
        });
        for round in 0..rounds {
            assert!(
                daemon.reload(&variant(&config, round)),
                "round {round}: {}",
                daemon.status()
            );
        }
        drop(stops);
        (held.join().unwrap(), short.join().unwrap())
    });
    // Of idle connections nothing is known but that they are open.
    daemon.scrape_until("the idle connections", |seen| {
        active(seen, idle_port) == [IDLE as u64; 2]
    });
    assert_eq!(open_by_ss(idle_port), IDLE);
    // In mode events what is sent is known when a connection closes.
    drop((idle, held));
    daemon.scrape_until("their end", |seen| {
        active(seen, idle_port) == [0, 0] && active(seen, held_port) == [0, 0]
    });
    let own = daemon.telemetry();
    let own: Vec<_> = own
        .0
        .iter()
        .filter(|sample| sample.name.contains("_coverage_") || sample.name.contains("_program_misses_"))
        .map(|sample| format!("{} {:?} {}", sample.name, sample.labels, sample.value))
        .collect();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}: {}", window.log);
    let lost = window
        .log
        .lines()
        .find(|line| line.contains("could not report everything"));
    assert_eq!(lost, None);
    assert_eq!(Counted::of_port(&window.totals, held_port), held_bytes);
    assert_eq!(Counted::of_port(&window.totals, short_port), short_bytes);
    for event in ["opened", "closed"] {
        assert_eq!(
            events(&window.totals, event, short_port),
            [short_count; 2],
            "{event}: {own:#?}"
        );
        assert_eq!(
            events(&window.totals, event, idle_port),
            [IDLE as u64; 2],
            "{event}: {:#?}\n{}",
            of_port(&window.totals, idle_port),
            window.log
        );
    }
    assert_eq!(active(&window.totals, short_port), [0, 0]);
    assert!(!window.log.contains("restarts the measurement"), "{}", window.log);
}

#[test]
fn a_hundred_reloads_of_every_kind_under_load_lose_no_byte_and_no_connection() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    nothing_is_missed(&["receivers.ebpf.mode=sockets"], 100, |config, round| {
        let with = |keys: &str| config.replace(RECEIVER, &format!("ebpf: {{{keys}}}"));
        match round % 8 {
            0 => with("interval: 200ms, scan_listen_interval: 61s"),
            1 => with("interval: 300ms"),
            2 => with("interval: 200ms, ring_buffer_bytes: 1048576"),
            3 => with("interval: 200ms, ring_buffer_bytes: 8388608, scan_listen_interval: 5s"),
            4 => with("interval: 200ms, proc_root: /proc/.")
                .replace("  policy:\n", "  policy: {internal_hosts: [10.7.0.0/16]}\n"),
            5 => with("interval: 200ms, channel_capacity: 1000"),
            6 => format!(
                "{config}    metrics/second:\n      receivers: [ebpf]\n      processors: [direction, policy, window]\n      exporters: [debug]\n"
            ),
            _ => config.to_owned(),
        }
    });
}

#[test]
fn in_mode_events_a_change_around_the_programs_loses_no_byte_and_no_connection() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    nothing_is_missed(&["receivers.ebpf.mode=events"], 30, |config, round| {
        let with = |keys: &str| config.replace(RECEIVER, &format!("ebpf: {{{keys}}}"));
        match round % 4 {
            0 => with("interval: 300ms"),
            1 => with("interval: 200ms, channel_capacity: 300000"),
            2 => with("interval: 200ms, scan_listen_interval: 5s, proc_root: /proc/."),
            _ => config.to_owned(),
        }
    });
}

#[test]
fn reloads_that_alternate_modes_rings_and_limits_lose_no_byte_and_no_connection() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    nothing_is_missed(&[], 40, |config, round| {
        let with = |keys: &str| config.replace(RECEIVER, &format!("ebpf: {{{keys}}}"));
        match round % 8 {
            0 => with("interval: 200ms, mode: events"),
            1 => with("interval: 200ms, mode: events, ring_buffer_bytes: 4194304"),
            2 => with("interval: 300ms, mode: sockets"),
            3 => with("interval: 200ms, max_sockets: 50000"),
            4 => with("interval: 200ms, mode: events, max_sockets: 60000, channel_capacity: 300000"),
            5 => with("interval: 200ms, mode: events, max_sockets: 90000"),
            6 => with("interval: 200ms, mode: sockets, ring_buffer_bytes: 1048576"),
            _ => config.to_owned(),
        }
    });
}

#[test]
fn a_table_that_grows_with_each_reload_loses_no_byte_and_no_connection() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    // Connections that are held from before the first reload on keep the oldest table in use.
    nothing_is_missed(&[], 20, |config, round| {
        let with = |keys: &str| config.replace(RECEIVER, &format!("ebpf: {{{keys}}}"));
        // Each fourth reload adds a table, and those between have smaller limits.
        let entries = [70_000, 30_000][round % 2] + (round / 4) * 10_000;
        match round % 4 {
            3 => with(&format!("interval: 200ms, mode: events, max_sockets: {entries}")),
            _ => with(&format!("interval: 200ms, max_sockets: {entries}")),
        }
    });
}

#[test]
fn series_that_are_the_same_under_another_config_of_the_window_count_on() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    nothing_is_missed(&["receivers.ebpf.mode=sockets"], 20, |config, round| {
        let with = |keys: &str| config.replace("window: {interval: 200ms}", &format!("window: {{{keys}}}"));
        match round % 4 {
            0 => with("interval: 300ms"),
            1 => with("interval: 200ms, metric_expiration: 601s"),
            // Labels of another family.
            2 => with("interval: 200ms, families: {network_tcp_connect_failures: {labels: [reason]}}"),
            _ => config.to_owned(),
        }
    });
}

#[test]
fn a_reload_to_another_mode_exports_the_mode_that_it_measures_in() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    let daemon = Daemon::start(&BY_PORT);
    let config = read(&daemon.config());
    for (mode, before) in [("events", "sockets"), ("sockets", "events")] {
        let other = config.replace(RECEIVER, &format!("ebpf: {{interval: 200ms, mode: {mode}}}"));
        assert!(daemon.reload(&other));
        let modes = daemon.telemetry();
        let of = |mode| modes.sum("flowtap_receiver_mode", &[("mode", mode)]);
        assert_eq!((of(mode), of(before)), (1, 0), "{modes:#?}");
    }
}

/// Byte of a request after which the server's thread stops, and that of any other.
const LAST: u8 = b'.';
const REQUEST: u8 = b'q';

/// A request and an answer on a connection, which the client closes. Returns the client's port.
fn ask(server: SocketAddr, request: u8) -> io::Result<u16> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&[request; 10])?;
    stream.read_exact(&mut [0; 20])?;
    Ok(stream.local_addr()?.port())
}

/// Answers requests until the last one.
fn answer(listener: &TcpListener) -> io::Result<()> {
    let mut request = [0; 10];
    while request[0] != LAST {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut request)?;
        stream.write_all(&[b'a'; 20])?;
        io::copy(&mut stream, &mut io::sink())?;
    }
    Ok(())
}

/// Makes connections to a busy server until `stop` is set; returns how many there were from each of the clients' ports.
fn keep_busy(listener: &TcpListener, stop: &AtomicBool) -> BTreeMap<u16, usize> {
    const CLIENTS: usize = 4;
    let server = listener.local_addr().unwrap();
    let mut ports = BTreeMap::new();
    thread::scope(|scope| {
        let client = || {
            let mut ports = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                ports.push(ask(server, REQUEST).unwrap());
                // Reloads may take long on a busy machine: 400 connections a second were more than it could read then.
                thread::sleep(5 * PACE);
            }
            ports.push(ask(server, LAST).unwrap());
            ports
        };
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| answer(listener).unwrap());
                scope.spawn(client)
            })
            .collect();
        for client in clients {
            for port in client.join().unwrap() {
                *ports.entry(port).or_default() += 1;
            }
        }
    });
    ports
}

/// Number of records that end a connection, by role, the client's port and the outcome.
fn ends(records: &[serde_json::Value], port: u16) -> BTreeMap<(String, u16, String), usize> {
    let mut ends = BTreeMap::new();
    let connections = flow_logs::of_port(records, port);
    for record in connections.values().flatten() {
        let outcome = record["outcome"].as_str().unwrap();
        if outcome == "active" {
            continue;
        }
        let role = record["role"].as_str().unwrap().to_owned();
        let client = flow_logs::number(record, "source_port").try_into().unwrap();
        *ends.entry((role, client, outcome.to_owned())).or_default() += 1;
    }
    ends
}

#[test]
fn a_change_of_mode_ends_no_connection_of_a_busy_server_twice_in_its_flow_log() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A busy machine takes its time to read what all of it does.
    let daemon = flow_logs::launch_with(dir.path(), &["service.shutdown_timeout=60s"]);
    let config = read(&daemon.config());
    assert!(config.contains(RECEIVER));
    let (listener, port) = local();
    let stop = AtomicBool::new(false);
    let made = thread::scope(|scope| {
        let stops = Stops(&stop);
        let traffic = scope.spawn(|| keep_busy(&listener, &stop));
        for round in 0..40 {
            let keys = match round % 4 {
                0 => "mode: events",
                // Other rings, and the same mode.
                1 => "mode: events, ring_buffer_bytes: 4194304",
                2 => "mode: sockets",
                _ => "mode: sockets, ring_buffer_bytes: 8388608",
            };
            let other = config.replace(RECEIVER, &format!("ebpf: {{interval: 200ms, {keys}}}"));
            assert!(daemon.reload(&other), "round {round}: {}", daemon.status());
        }
        drop(stops);
        traffic.join().unwrap()
    });
    // The end of each is written by the next batch, and no other end by those after it.
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}: {}", window.log);
    let expected: BTreeMap<_, _> = made
        .iter()
        .flat_map(|(&client, &count)| {
            ["client", "server"].map(|role| ((role.to_owned(), client, "closed".to_owned()), count))
        })
        .collect();
    let records = flow_logs::records(dir.path());
    let adopted = flow_logs::of_port(&records, port);
    let adopted = adopted
        .values()
        .flatten()
        .filter(|record| record["adopted"] == true);
    assert_eq!(adopted.count(), 0);
    let seen = ends(&records, port);
    let of_others = |(end, count): &(_, &usize)| expected.get(*end) != Some(*count);
    let wrong: Vec<_> = seen.iter().filter(of_others).collect();
    assert!(wrong.is_empty(), "of {} ports: {wrong:?}", made.len());
    assert_eq!(seen.len(), expected.len());
}
