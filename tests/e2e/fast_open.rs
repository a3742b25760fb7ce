//! Exchanges of clients whose request leaves with the SYN (TCP Fast Open, RFC 7413), against the applications' own clocks and the
//! kernel's counters of Fast Open.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::daemon::{Daemon, WAIT_TIMEOUT};
use crate::exposition::Exposition;
use crate::{netns, require};

const EXCHANGES: &str = "primus_lens_network_tcp_exchanges";
const CONNECTIONS: &str = "primus_lens_network_tcp_connections";
const DURATION_SUM: &str = "primus_lens_network_tcp_exchange_duration_sum";

const SET: [&str; 5] = [
    "receivers.ebpf.inspect.exchanges=true",
    "receivers.ebpf.inspect.budget=100%",
    "processors.window.families.network_tcp_connections.labels=[flow, event, netns, server_port]",
    "processors.window.families.network_tcp_exchanges.labels=[flow, server_port, netns]",
    "processors.window.families.network_tcp_exchange_duration.labels=[flow, server_port, netns]",
];

const THOUGHT: Duration = Duration::from_millis(5);

/// Sets `net.ipv4.tcp_fastopen` of this thread's namespace, which `listen(2)` and `connect(2)` read.
fn set_fast_open(bits: u32) {
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", bits.to_string()).unwrap();
}

/// Clients, servers, and listeners that need not ask for it (`TFO_SERVER_WO_SOCKOPT1`).
const EVERYWHERE: u32 = 0x403;

/// Clients, and servers that ask for it.
const ON_REQUEST: u32 = 0x3;

/// A counter of `/proc/net/netstat`, of this thread's namespace.
fn netstat(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines
        .chunks(2)
        .flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()));
    let value = pairs.into_iter().find(|(key, _)| *key == name);
    value.unwrap_or_else(|| panic!("no {name}")).1.parse().unwrap()
}

/// Of the applications' own clocks, in seconds.
#[derive(Debug, Default)]
struct Times {
    server: f64,
    client: f64,
}

/// One connection with one request, that leaves with the SYN where the client has a cookie of the server.
fn ask(listener: &TcpListener, times: &mut Times) {
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut server, _) = listener.accept().unwrap();
            server.read_exact(&mut [0; 1000]).unwrap();
            let came = Instant::now();
            thread::sleep(THOUGHT);
            let thought = came.elapsed();
            server.write_all(&[1; 50]).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            thought
        });
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        setsockopt(&client, sockopt::TcpFastOpenConnect, &true).unwrap();
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        let mut client = TcpStream::from(client);
        let asked = Instant::now();
        client.write_all(&[0; 1000]).unwrap();
        client.read_exact(&mut [0; 50]).unwrap();
        times.client += asked.elapsed().as_secs_f64();
        drop(client);
        times.server += server.join().unwrap().as_secs_f64();
    });
}

fn labels<'a>(netns: &'a str, port: &'a str) -> [(&'static str, &'a str); 3] {
    [("netns", netns), ("server_port", port), ("flow", "egress")]
}

/// The sum of the times of a client's exchanges.
fn duration(seen: &Exposition, netns: &str, port: &str) -> f64 {
    seen.select(DURATION_SUM, &labels(netns, port))
        .map(|sample| sample.value)
        .sum()
}

#[test]
fn the_time_of_a_request_that_left_with_the_syn_is_that_of_the_client() {
    const COUNT: u64 = 10;
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&SET);
    let (netns, made) = netns::within_new(|| {
        set_fast_open(EVERYWHERE);
        let taking = TcpListener::bind("127.0.0.1:0").unwrap();
        set_fast_open(ON_REQUEST);
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
        // The first one fetches the cookie, which is one per address.
        let mut taken = Times::default();
        for _ in 0..=COUNT {
            ask(&taking, &mut taken);
        }
        assert_eq!(
            netstat("TCPFastOpenActive"),
            COUNT,
            "requests that left with the SYN and were taken"
        );
        // Its SYN has data, which the server ignores: it leaves again.
        let mut refused = Times::default();
        ask(&refusing, &mut refused);
        assert_eq!(
            netstat("TCPFastOpenActiveFail"),
            1,
            "requests that left with the SYN and were not"
        );
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
        let made = [(port(&taking), COUNT + 1, taken), (port(&refusing), 1, refused)];
        (netns::label(), made)
    });
    let seen = daemon.scrape_until("all exchanges", |seen| {
        made.iter()
            .all(|(port, count, _)| seen.sum(EXCHANGES, &labels(&netns, port)) >= *count)
    });
    for (port, count, times) in &made {
        assert_eq!(seen.sum(EXCHANGES, &labels(&netns, port)), *count);
        let kernel = duration(&seen, &netns, port);
        let rounding = *count as f64 * 2e-6;
        assert!(
            times.server <= kernel + rounding && kernel <= times.client + rounding,
            "{count} exchanges took {kernel} s at the client's kernel; its clock and the server's: {times:?}"
        );
    }
}

#[test]
fn a_request_whose_departure_is_not_known_is_counted_as_untimed() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    let daemon = Daemon::start(&SET);
    let untimed = [("reason", "exchange_untimed")];
    let lost = "flowtap_receiver_inspect_lost_total";
    let before = daemon.telemetry().sum(lost, &untimed);
    let (netns, port) = netns::within_new(|| {
        set_fast_open(EVERYWHERE);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cookies = TcpListener::bind("127.0.0.1:0").unwrap();
        ask(&cookies, &mut Times::default());
        // No answer to a SYN comes before the client has repeated it; the request in the first one is taken.
        let rules = "table inet lossy { chain in { type filter hook input priority 0; \
                     tcp flags & (syn | ack) == syn | ack drop; }; }";
        nft(&[rules]);
        thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&listener, &mut Times::default()));
            let deadline = Instant::now() + WAIT_TIMEOUT;
            while netstat("TCPSynRetrans") == 0 {
                assert!(Instant::now() < deadline, "no SYN was repeated");
                thread::sleep(Duration::from_millis(10));
            }
            nft(&["flush ruleset"]);
            asking.join().unwrap();
        });
        assert_eq!(
            netstat("TCPFastOpenActive"),
            1,
            "requests that left with the SYN and were taken"
        );
        (netns::label(), listener.local_addr().unwrap().port().to_string())
    });
    daemon.telemetry_until("the exchange without a time", |own| {
        own.sum(lost, &untimed) > before
    });
    let closed = [&labels(&netns, &port)[..], &[("event", "closed")]].concat();
    let seen = daemon.scrape_until("the closed connection", |seen| {
        seen.sum(CONNECTIONS, &closed) == 1
    });
    assert_eq!(seen.sum(EXCHANGES, &labels(&netns, &port)), 0);
}

fn nft(arguments: &[&str]) {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
