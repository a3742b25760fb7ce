//! The receiver `sock_diag`, in a separate network namespace, with traffic whose own count is the
//! oracle.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt::ReuseAddr,
};

use crate::daemon::{Daemon, LastWindow, read};
use crate::exposition::Exposition;
use crate::handover::{BY_PORT, Stops, events};
use crate::links::{BYTES, DROPS, run, send};
use crate::netns;
use crate::open_connections::active;
use crate::require;
use crate::traffic::{Counted, Held, churn, exchange};

const PIPELINE: &str = "service.pipelines.metrics.receivers=[sock_diag]";
const CONNECTIONS: &str =
    "processors.window.families.network_tcp_connections.labels=[flow, event, type, lport, rport]";
const LABELS: &str = "[raddr, rport, lport, direction, type, role_source]";

/// A daemon that dumps this often.
fn start(interval: &str) -> Daemon {
    let families = ["egress", "ingress"]
        .map(|side| format!("processors.window.families.network_tcp_flow_{side}.labels={LABELS}"));
    let interval = format!("receivers.sock_diag.interval={interval}");
    Daemon::start(&[&interval, PIPELINE, CONNECTIONS, &families[0], &families[1]])
}

/// The last window of a daemon that stops in good order.
fn stop(daemon: Daemon) -> LastWindow {
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    window
}

fn sources(seen: &Exposition, side: &str, label: &str, port: u16) -> Vec<String> {
    let (name, port) = (format!("primus_lens_network_tcp_flow_{side}"), port.to_string());
    let labels = [(label, port.as_str())];
    let mut sources: Vec<_> = seen
        .select(&name, &labels)
        .filter(|sample| sample.value > 0.0)
        .map(|sample| sample.labels["role_source"].clone())
        .collect();
    sources.dedup();
    sources
}

#[test]
fn bytes_are_exact_where_this_machine_drops_what_it_sends() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") || !require::program("tc") {
        return;
    }
    let (sent, shown) = netns::within_new(|| {
        let daemon = start("200ms");
        let mut sent = Vec::new();
        for (name, begin, dropped, end) in DROPS {
            for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                // Not an ephemeral one: a connection of which segments were dropped shows its role by its ports.
                let loopback = SocketAddr::new(loopback, 7_001 + u16::try_from(sent.len()).unwrap());
                let (port, read) = send(loopback, BYTES, || {
                    run(begin);
                });
                assert_eq!(read, BYTES);
                let lost = run(dropped);
                assert_ne!(lost.trim(), "0", "{name} dropped nothing");
                run(end);
                sent.push((name, port));
            }
        }
        (sent, stop(daemon))
    });
    for (name, port) in sent {
        let expected = Counted {
            client_sent: BYTES as u64,
            server_received: BYTES as u64,
            ..Counted::default()
        };
        assert_eq!(Counted::of_port(&shown.totals, port), expected, "{name}");
    }
}

#[test]
fn connections_shorter_than_an_interval_are_counted_to_the_byte() {
    const MANY: usize = 2_000;
    let Some(_machine) = require::root() else {
        return;
    };
    netns::within_new(|| {
        let daemon = start("2s");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = churn(&listener, MANY, 700).unwrap();
        // Scrapes are also connections of this namespace.
        let text = port.to_string();
        let count = |seen: &Exposition, event| {
            [("egress", "rport"), ("ingress", "lport")].map(|(flow, label)| {
                let labels = [("flow", flow), ("event", event), (label, text.as_str())];
                seen.sum("primus_lens_network_tcp_connections", &labels)
            })
        };
        let all = [MANY as u64; 2];
        let seen = daemon.scrape_until("the end of every connection", |scrape| {
            count(scrape, "closed") == all
        });
        assert_eq!(count(&seen, "opened"), all);
        assert_eq!(Counted::of_port(&seen, port), sent);
        let dumped = daemon
            .telemetry()
            .sum("flowtap_receiver_accepted_records_total", &[]);
        assert!(dumped < 3 * MANY as u64, "{dumped} records: dumps have seen them");
    });
}

#[test]
fn reloads_of_another_interval_lose_no_byte_and_no_connection() {
    const AT_ONCE: usize = 40;
    let Some(_machine) = require::root() else {
        return;
    };
    netns::within_new(|| {
        let daemon = Daemon::start(&[&BY_PORT[..], &["service.shutdown_timeout=60s"]].concat());
        let config = read(&daemon.config()).replace("receivers: [ebpf]", "receivers: [sock_diag]");
        let with = |interval: &str| {
            let receiver = format!("sock_diag: {{interval: {interval}}}");
            config.replace("ebpf: {interval: 200ms}", &receiver)
        };
        assert!(daemon.reload(&with("100ms")), "{}", daemon.status());
        let listener = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            (listener, port)
        };
        let ((held_listener, held_port), (short_listener, short_port)) = (listener(), listener());
        let mut held = Held::open(&held_listener, 10).unwrap();
        let stop = AtomicBool::new(false);
        let (held_bytes, (short_bytes, short_count)) = thread::scope(|scope| {
            // Also when a round fails: the scope waits for the traffic.
            let stops = Stops(&stop);
            let (held, stop) = (&mut held, &stop);
            let held = scope.spawn(move || {
                let mut sent = Counted::default();
                while !stop.load(Ordering::Relaxed) {
                    sent += held.exchange(500).unwrap();
                }
                sent
            });
            let short = scope.spawn(|| {
                let (mut sent, mut count) = (Counted::default(), 0);
                while !stop.load(Ordering::Relaxed) {
                    sent += churn(&short_listener, AT_ONCE, 300).unwrap();
                    count += AT_ONCE as u64;
                    thread::sleep(Duration::from_millis(20));
                }
                (sent, count)
            });
            for round in 0..20 {
                let interval = ["150ms", "100ms"][round % 2];
                assert!(
                    daemon.reload(&with(interval)),
                    "round {round}: {}",
                    daemon.status()
                );
            }
            drop(stops);
            (held.join().unwrap(), short.join().unwrap())
        });
        let seen = daemon.scrape_until("the end of every connection", |seen| {
            events(seen, "closed", short_port) == [short_count; 2]
                && Counted::of_port(seen, held_port) == held_bytes
        });
        assert_eq!(events(&seen, "opened", short_port), [short_count; 2]);
        // A FIN that a dump finds and the report of the close does not is a byte more, one per end at most.
        let shown = Counted::of_port(&seen, short_port);
        assert_eq!(
            (shown.client_sent, shown.server_sent),
            (short_bytes.client_sent, short_bytes.server_sent)
        );
        let more = (shown.client_received + shown.server_received)
            .checked_sub(short_bytes.client_received + short_bytes.server_received);
        assert!(
            more.is_some_and(|more| more <= 2 * short_count),
            "{shown:?}, {short_bytes:?}"
        );
        assert_eq!(active(&seen, held_port), [10, 10]);
        assert_eq!(active(&seen, short_port), [0, 0]);
        let own = daemon.telemetry();
        let refused = own.sum(
            "flowtap_receiver_refused_records_total",
            &[("receiver", "sock_diag")],
        );
        assert_eq!(refused, 0, "{own:#?}");
    });
}

#[test]
fn a_change_to_another_receiver_counts_the_connections_that_nobody_continues_with() {
    const DETACHED: &str = "flowtap_receiver_detached_connections_total";
    let Some(_machine) = require::root() else {
        return;
    };
    netns::within_new(|| {
        let daemon = Daemon::start(&BY_PORT);
        let with_ebpf = read(&daemon.config());
        let with_sock_diag = with_ebpf
            .replace("receivers: [ebpf]", "receivers: [sock_diag]")
            .replace("ebpf: {interval: 200ms}", "sock_diag: {interval: 100ms}");
        assert!(daemon.reload(&with_sock_diag), "{}", daemon.status());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut held = Held::open(&listener, 10).unwrap();
        daemon.scrape_until("both ends of each", |seen| active(seen, port) == [10, 10]);
        let of = |receiver| daemon.telemetry().sum(DETACHED, &[("receiver", receiver)]);
        assert_eq!(of("sock_diag"), 0);
        // Another interval is no other receiver.
        let slower = with_sock_diag.replace("{interval: 100ms}", "{interval: 150ms}");
        assert!(daemon.reload(&slower), "{}", daemon.status());
        assert_eq!(of("sock_diag"), 0);

        assert!(daemon.reload(&with_ebpf), "{}", daemon.status());
        let counted = of("sock_diag");
        // Scrapes are also connections of this namespace.
        assert!((20..40).contains(&counted), "{counted}");
        // The new one adopts them, with those of other namespaces.
        daemon.scrape_until("both ends of each", |seen| {
            active(seen, port).into_iter().all(|open| open >= 10)
        });
        held.exchange(500).unwrap();
    });
}

#[test]
fn a_fast_open_connection_is_counted_before_its_handshake_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("python3") || !require::program("nft") {
        return;
    }
    netns::within_new(|| {
        let daemon = start("100ms");
        let mut program = fast_open_server();
        let counted = |seen: &Exposition| {
            let counted = Counted::of_port(seen, 7001);
            (counted.server_received, counted.server_sent)
        };
        daemon.scrape_until("both directions in SYN_RECV", |seen| counted(seen) == (777, 333));
        // It resets the connection, which clears the counters.
        drop(program.stdin.take());
        assert!(program.wait().unwrap().success());
        let seen = daemon.scrape_until("the close", |seen| events(seen, "closed", 7001)[1] == 1);
        assert_eq!(counted(&seen), (777, 333));
        assert_eq!(events(&seen, "opened", 7001)[1], 1);
    });
}

/// A server with a connection that the client's side of the handshake never completes, on port 7001. It
/// has 777 bytes read and 333 sent in `SYN_RECV`, and resets the connection when its standard input ends.
fn fast_open_server() -> Child {
    const PROGRAM: &str = r#"
import socket, struct, subprocess, sys
subprocess.run(["sysctl", "-qw", "net.ipv4.tcp_fastopen=0x607"], check=True)
subprocess.run(["nft", "table inet t { chain i { type filter hook input priority 0; tcp sport 7001 tcp flags & syn == syn drop; }; }"], check=True)
l = socket.socket(); l.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16); l.bind(("127.0.0.1", 7001)); l.listen()
c = socket.socket(); c.setblocking(False)
try: c.sendto(b"s" * 777, socket.MSG_FASTOPEN, l.getsockname())
except BlockingIOError: pass
s = l.accept()[0]
got = 0
while got < 777: got += len(s.recv(777 - got))
s.sendall(b"a" * 333)
assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 3, "SYN_RECV"
sys.stdin.read()
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
"#;
    Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3")
}

#[test]
fn sent_bytes_are_exact_and_received_ones_to_a_byte_a_connection_whoever_shuts_down_first() {
    const MANY: usize = 500;
    let Some(_machine) = require::root() else {
        return;
    };
    let (seen, sent) = netns::within_new(|| {
        let daemon = start("2s");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Each end shuts down its sending half, and reads to the end of the stream.
        let sent = exchange(&listener, MANY, 5).unwrap();
        let seen = daemon.scrape_until("what the applications sent", |scrape| {
            let seen = Counted::of_port(scrape, port);
            (seen.client_sent, seen.server_sent) == (sent.client_sent, sent.server_sent)
        });
        (Counted::of_port(&seen, port), sent)
    });
    for (seen, counted) in [
        (seen.client_received, sent.client_received),
        (seen.server_received, sent.server_received),
    ] {
        let allowed = counted.saturating_sub(MANY as u64)..=counted + MANY as u64;
        assert!(allowed.contains(&seen), "{seen} for {counted}");
    }
}

#[test]
fn the_last_interval_of_a_long_connection_is_counted() {
    let Some(_machine) = require::root() else {
        return;
    };
    let (port, sent, window) = netns::within_new(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut held = Held::open(&listener, 20).unwrap();
        let daemon = start("1h");
        let sent = held.exchange(30_000).unwrap();
        drop(held);
        (port, sent, stop(daemon))
    });
    assert_eq!(Counted::of_port(&window.totals, port), sent);
}

#[test]
fn an_adopted_connection_has_its_true_role_without_a_listener_and_keeps_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let (ports, window) = netns::within_new(|| {
        // The kernel's choice: both ports of the connection are ephemeral.
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (gone, drains) = (bind(), bind());
        let ports = [&gone, &drains].map(|listener| listener.local_addr().unwrap().port());
        let mut held = [&gone, &drains].map(|listener| Held::open(listener, 5).unwrap());
        drop(gone);
        let daemon = start("200ms");
        let mut sent = Counted::default();
        for _ in 0..2 {
            for held in &mut held {
                sent += held.exchange(1_000).unwrap();
            }
            let shown = |seen: &Exposition| {
                let mut shown = Counted::of_port(seen, ports[0]);
                shown += Counted::of_port(seen, ports[1]);
                shown == sent
            };
            daemon.scrape_until("what was exchanged", shown);
            // From now on nobody listens; the second round is the drain.
            run(&format!("ss -tlnH sport = :{} | grep -q .", ports[1]));
        }
        drop(drains);
        sent = Counted::default();
        for held in &mut held {
            sent += held.exchange(1_000).unwrap();
        }
        drop(held);
        (ports, stop(daemon))
    });
    for port in ports {
        // 5 connections, 3 rounds.
        let all = Counted {
            client_sent: 15_000,
            client_received: 15_000,
            server_sent: 15_000,
            server_received: 15_000,
        };
        assert_eq!(Counted::of_port(&window.totals, port), all);
        for (side, label) in [("egress", "rport"), ("ingress", "lport")] {
            assert_eq!(sources(&window.totals, side, label, port), ["counters"]);
        }
        let active = "primus_lens_network_tcp_connections_active";
        assert_eq!(window.totals.sum(active, &[]), 0);
    }
}

/// A proxy's connection to the peer: from a port that the redirect exempts.
pub(crate) fn from_port(port: u16, to: SocketAddr) -> TcpStream {
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    let stream = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    setsockopt(&stream, ReuseAddr, &true).unwrap();
    bind(stream.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).unwrap();
    connect(stream.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    stream.into()
}

/// Bytes to the peer through a redirect to a local proxy: by the class of the application's connection, and of the proxy's.
fn redirected(daemon: impl FnOnce() -> Daemon + Send) -> (u64, u64) {
    let (window, peer) = netns::within_new(|| {
        run("ip addr add 198.51.100.1/32 dev lo");
        run("nft 'table ip n { chain o { type nat hook output priority -100; \
             ip daddr 198.51.100.1 tcp dport 8080 tcp sport != 15002 redirect to :15001; }; }'");
        let daemon = daemon();
        let (peer, proxy) = (
            TcpListener::bind("198.51.100.1:8080").unwrap(),
            TcpListener::bind("127.0.0.1:15001").unwrap(),
        );
        let address = peer.local_addr().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut accepted, _) = proxy.accept().unwrap();
                let mut onward = from_port(15_002, address);
                std::io::copy(&mut accepted, &mut onward).unwrap();
            });
            scope.spawn(|| {
                let (mut accepted, _) = peer.accept().unwrap();
                let read = std::io::copy(&mut accepted, &mut std::io::sink()).unwrap();
                assert_eq!(read, 10_000);
            });
            TcpStream::connect(address)
                .unwrap()
                .write_all(&[b'x'; 10_000])
                .unwrap();
        });
        (stop(daemon), address)
    });
    let port = peer.port().to_string();
    let to = |class| {
        let labels = [
            ("rport", port.as_str()),
            ("direction", "outbound"),
            ("type", class),
        ];
        window.totals.sum("primus_lens_network_tcp_flow_egress", &labels)
    };
    (to("localhost"), to("externalHosts"))
}

#[test]
fn bytes_that_a_local_proxy_relays_count_once_to_the_peer_by_sock_diag() {
    let Some(_machine) = require::root() else {
        return;
    };
    if require::program("nft") {
        assert_eq!(redirected(|| start("200ms")), (10_000, 10_000));
    }
}

#[test]
fn bytes_that_a_local_proxy_relays_count_once_to_the_peer_in_mode_sockets() {
    let Some(_machine) = require::root() else {
        return;
    };
    if require::program("nft") {
        assert_eq!(redirected(|| Daemon::start(&[])), (10_000, 10_000));
    }
}
