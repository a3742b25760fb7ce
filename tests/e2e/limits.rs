//! What limits a connection: experiments whose construction says what the time goes to, against `ss` as a second oracle.
//!
//! All of them run in one namespace, each on its port, with the daemon in it: mode by mode.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use crate::daemon::Daemon;
use crate::exposition::Exposition;
use crate::netns;
use crate::require;

/// Life of each connection.
const LIFE: Duration = Duration::from_secs(5);

const SEND_TIME: &str = "primus_lens_network_tcp_send_time";
const FAMILIES: [&str; 4] = [
    "processors.window.families.network_tcp_send_time.labels=[limit, flow, server_port]",
    "processors.window.families.network_tcp_rto_time.labels=[flow, server_port]",
    "processors.window.families.network_tcp_connection_duration.labels=[flow, server_port]",
    "processors.window.families.network_tcp_connections.labels=[event, reset_by, flow, server_port]",
];

/// What the end that accepts does.
#[derive(Clone, Copy, Debug)]
enum Server {
    Reads,
    /// 1 MB/s.
    ReadsSlowly,
    NeverReads,
    /// Answers each request after so long.
    AnswersAfter(Duration),
}

/// What the end that connects does.
#[derive(Clone, Copy, Debug)]
enum Client {
    WritesAllTheTime,
    /// 1,000 bytes each 100 ms.
    WritesNowAndThen,
    /// A request after each answer.
    Asks,
}

#[derive(Clone, Copy, Debug)]
struct Experiment {
    name: &'static str,
    port: u16,
    server: Server,
    client: Client,
    /// What nearly all of the time goes to.
    limit: &'static str,
}

/// The port of which the queueing discipline lets 20 Mbit/s pass.
const SLOW_LINK: u16 = 7_101;
/// The port to which nothing but small packets get.
const BLACK_HOLE: u16 = 7_102;

const EXPERIMENTS: [Experiment; 6] = [
    Experiment {
        name: "a slow link",
        port: SLOW_LINK,
        server: Server::Reads,
        client: Client::WritesAllTheTime,
        limit: "network",
    },
    Experiment {
        name: "a black hole",
        port: BLACK_HOLE,
        server: Server::Reads,
        client: Client::WritesAllTheTime,
        limit: "network",
    },
    Experiment {
        name: "a slow reader",
        port: 7_103,
        server: Server::ReadsSlowly,
        client: Client::WritesAllTheTime,
        limit: "receiver",
    },
    Experiment {
        name: "a peer that never reads",
        port: 7_104,
        server: Server::NeverReads,
        client: Client::WritesAllTheTime,
        limit: "receiver",
    },
    Experiment {
        name: "a server that thinks",
        port: 7_105,
        server: Server::AnswersAfter(Duration::from_millis(20)),
        client: Client::Asks,
        limit: "answer",
    },
    Experiment {
        name: "an application that has little to send",
        port: 7_106,
        server: Server::Reads,
        client: Client::WritesNowAndThen,
        limit: "application",
    },
];

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("sh");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

fn serve(listener: &TcpListener, server: Server) {
    let (mut stream, _) = listener.accept().expect("a client");
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = match server {
            Server::Reads => stream.read(&mut buffer),
            Server::ReadsSlowly => {
                thread::sleep(Duration::from_millis(20));
                stream.read(&mut buffer[..20_000])
            }
            Server::NeverReads => {
                thread::sleep(LIFE + Duration::from_secs(1));
                return;
            }
            Server::AnswersAfter(thought) => {
                let read = stream.read(&mut buffer);
                if matches!(read, Ok(1..)) {
                    thread::sleep(thought);
                    // The client may have gone.
                    if stream.write_all(&[7; 1_000]).is_err() {
                        return;
                    }
                }
                read
            }
        };
        if !matches!(read, Ok(1..)) {
            return;
        }
    }
}

/// Seconds of the clocks that `ss` shows of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Oracle {
    busy: f64,
    receiver: f64,
    buffer: f64,
    age: f64,
}

impl Oracle {
    /// Of the connection to `port`, which began at `since`.
    fn read(port: u16, since: Instant) -> Self {
        let shown = sh(&format!("ss -tinOH state established dport = :{port}"));
        let field = |name: &str| {
            let (_, rest) = shown.split_once(&format!(" {name}:"))?;
            let (milliseconds, _) = rest.split_once("ms")?;
            milliseconds.parse::<f64>().ok()
        };
        let seconds = |name| field(name).unwrap_or(0.0) / 1e3;
        let (receiver, buffer) = (seconds("rwnd_limited"), seconds("sndbuf_limited"));
        Self {
            busy: seconds("busy") - receiver - buffer,
            receiver,
            buffer,
            age: since.elapsed().as_secs_f64(),
        }
    }
}

/// One connection; returns what `ss` shows at its end, which is a reset.
fn connect(experiment: &Experiment) -> Oracle {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, experiment.port)).expect("a connection");
    let since = Instant::now();
    setsockopt(&stream, sockopt::TcpCongestion, &"cubic".into()).expect("a congestion control");
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("an option");
    stream
        .set_write_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout");
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    let bytes = vec![1; 1 << 16];
    while since.elapsed() < LIFE {
        match experiment.client {
            Client::WritesAllTheTime => match stream.write(&bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{}: {error}", experiment.name),
            },
            Client::WritesNowAndThen => {
                stream.write_all(&bytes[..1_000]).expect("room");
                thread::sleep(Duration::from_millis(100));
            }
            Client::Asks => {
                stream.write_all(&bytes[..200]).expect("room");
                stream.read_exact(&mut [0; 1_000]).expect("an answer");
            }
        }
    }
    Oracle::read(experiment.port, since)
}

/// Runs these experiments at once; returns what `ss` has shown, by port.
fn run_together(experiments: &[Experiment]) -> Vec<(u16, Oracle)> {
    thread::scope(|scope| {
        let clients: Vec<_> = experiments
            .iter()
            .map(|experiment| {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, experiment.port));
                let listener = TcpListener::bind(address).expect("a port");
                scope.spawn(move || serve(&listener, experiment.server));
                (experiment.port, scope.spawn(move || connect(experiment)))
            })
            .collect();
        clients
            .into_iter()
            .map(|(port, client)| (port, client.join().expect("no panic")))
            .collect()
    })
}

/// Runs every experiment: that of the slow link, which is the whole loopback device, and then the others.
fn run_experiments() -> BTreeMap<u16, Oracle> {
    let [slow_link, others @ ..] = &EXPERIMENTS;
    sh("ip link set lo mtu 1500
        tc qdisc add dev lo root tbf rate 20mbit burst 32k limit 200k");
    let mut oracles = run_together(std::slice::from_ref(slow_link));
    sh(&format!(
        "tc qdisc del dev lo root
         nft add table inet t
         nft 'add chain inet t in {{ type filter hook input priority 0; }}'
         nft add rule inet t in tcp dport {BLACK_HOLE} meta length gt 100 drop"
    ));
    oracles.extend(run_together(others));
    oracles.into_iter().collect()
}

/// Seconds that connections to `port` spent on `limit`, seen from the end that connected.
fn seconds(seen: &Exposition, port: u16, limit: &str) -> f64 {
    let port = port.to_string();
    let labels = [("limit", limit), ("flow", "egress"), ("server_port", &*port)];
    seen.select(SEND_TIME, &labels).map(|sample| sample.value).sum()
}

const LIMITS: [&str; 5] = ["network", "answer", "receiver", "buffer", "application"];

/// The life of the connection to `port`, once it has ended.
fn duration(seen: &Exposition, port: u16) -> Option<f64> {
    let port = port.to_string();
    let labels = [("flow", "egress"), ("server_port", &*port)];
    let name = "primus_lens_network_tcp_connection_duration_sum";
    seen.select(name, &labels).map(|sample| sample.value).next()
}

/// What the daemon says of the experiments, once all of them have ended.
fn measure(set: &[&str]) -> (BTreeMap<u16, Oracle>, Exposition) {
    let settings: Vec<&str> = FAMILIES.iter().chain(set).copied().collect();
    netns::within_new(|| {
        let daemon = Daemon::start(&settings);
        let oracles = run_experiments();
        let seen = daemon.scrape_until("the ends of all connections", |seen| {
            EXPERIMENTS
                .iter()
                .all(|experiment| duration(seen, experiment.port).is_some())
        });
        (oracles, seen)
    })
}

fn time_goes_where_the_experiment_makes_it_go(set: &[&str], sum_tolerance: f64) -> Exposition {
    let (oracles, seen) = measure(set);
    for Experiment {
        name, port, limit, ..
    } in EXPERIMENTS
    {
        let times = LIMITS.map(|limit| (limit, seconds(&seen, port, limit)));
        let total: f64 = times.iter().map(|(_, seconds)| seconds).sum();
        let life = duration(&seen, port).unwrap();
        let shown = format!("{set:?}, {name}: {times:?} in {life} s; ss: {:?}", oracles[&port]);
        assert!(
            (total / life - 1.0).abs() <= sum_tolerance,
            "{shown}: sum {total}"
        );
        let share = |name: &str| seconds(&seen, port, name) / total;
        assert!(share(limit) >= 0.95, "{shown}");
        let oracle = oracles[&port];
        let pairs = [
            (share("network") + share("answer"), oracle.busy),
            (share("receiver"), oracle.receiver),
            (share("buffer"), oracle.buffer),
        ];
        for (ours, theirs) in pairs {
            assert!((ours - theirs / oracle.age).abs() <= 0.05, "{shown}");
        }
    }
    seen
}

/// Seconds in retransmission time-outs of connections to `port`.
fn rto_seconds(seen: &Exposition, port: u16) -> f64 {
    let port = port.to_string();
    let labels = [("flow", "egress"), ("server_port", &*port)];
    seen.select("primus_lens_network_tcp_rto_time", &labels)
        .map(|sample| sample.value)
        .sum()
}

/// Version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok());
    (
        numbers.next().expect("a version"),
        numbers.next().expect("a minor version"),
    )
}

/// Where the kernel counts it: from Linux 6.7 on.
fn black_hole_is_time_outs(seen: &Exposition) {
    if kernel() >= (6, 7) {
        let rto = rto_seconds(seen, BLACK_HOLE);
        assert!(rto >= 0.85 * LIFE.as_secs_f64(), "{rto} s");
        assert!(rto_seconds(seen, 7_105) < 0.1, "a peer that answers");
    }
}

/// Resets of connections to `port` by the end that connected, as each end has it.
fn resets(seen: &Exposition, port: u16, flow: &str, by: &str) -> u64 {
    let port = port.to_string();
    let labels = [
        ("event", "reset"),
        ("reset_by", by),
        ("flow", flow),
        ("server_port", &*port),
    ];
    seen.sum("primus_lens_network_tcp_connections", &labels)
}

fn have_tools() -> bool {
    ["nft", "tc", "ss"].into_iter().all(require::program)
}

#[test]
fn the_time_of_a_connection_goes_to_what_its_experiment_makes_it_wait_for() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !have_tools() {
        return;
    }
    for mode in ["sockets", "events"] {
        let mode = format!("receivers.ebpf.mode={mode}");
        let seen = time_goes_where_the_experiment_makes_it_go(&[&mode], 0.005);
        black_hole_is_time_outs(&seen);
        // The client resets each: its end knows that it did, the other one that it did not.
        for port in [SLOW_LINK, 7_103, 7_105] {
            assert_eq!(resets(&seen, port, "egress", "local"), 1, "{mode}, port {port}");
            assert_eq!(resets(&seen, port, "ingress", "remote"), 1, "{mode}, port {port}");
        }
    }
}

#[test]
fn sock_diag_sees_the_same_within_its_interval() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !have_tools() {
        return;
    }
    let set = [
        "service.pipelines.flows.receivers=[sock_diag]",
        "receivers.sock_diag.interval=200ms",
    ];
    // It learns of a connection at the first look, up to an interval after it began.
    let seen = time_goes_where_the_experiment_makes_it_go(&set, 0.05);
    black_hole_is_time_outs(&seen);
}
