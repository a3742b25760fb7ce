//! Limits of a connection: experiments whose construction says what the time goes to, against `ss` as a second oracle.
//!
//! All of them run in one namespace, each on its port, with the daemon in it: mode by mode. No other test runs meanwhile: what waits for
//! a CPU waits for none of the limits.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use socket2::SockRef;

use crate::connecting;
use crate::daemon::{Daemon, flowtap};
use crate::drops::Counters;
use crate::exposition::Exposition;
use crate::listening;
use crate::netns;
use crate::require;

/// Life of each connection.
const LIFE: Duration = Duration::from_secs(5);

const FAMILIES: [&str; 5] = [
    "processors.window.families.network_tcp_send_time.labels=[limit, flow, server_port, netns]",
    "processors.window.families.network_tcp_rto_time.labels=[flow, server_port, netns]",
    "processors.window.families.network_tcp_connection_duration.labels=[flow, server_port, netns]",
    "processors.window.families.network_tcp_connections.labels=[event, reset_by, flow, server_port, netns]",
    "processors.window.families.network_tcp_ecn_ce.labels=[flow, server_port, netns]",
];

/// Behaviour of the end that accepts.
#[derive(Clone, Copy, Debug)]
enum Server {
    Reads,
    /// 1 MB/s.
    ReadsSlowly,
    NeverReads,
    /// Answers each request after so long.
    AnswersAfter(Duration),
}

/// Behaviour of the end that connects.
#[derive(Clone, Copy, Debug)]
enum Client {
    WritesAllTheTime,
    /// 1,000 bytes each 100 ms.
    WritesNowAndThen,
    /// As much as the slow link takes in half a second, each second.
    WritesHalfTheTime,
    /// All the time, from a send buffer of 16 KiB: the kernel takes the time for the buffer's only while nothing else waits, so over a
    /// slow link its clocks vary; they are what `ss` shows.
    WritesFromASmallBuffer,
    /// A request after each answer.
    Asks,
}

#[derive(Clone, Copy, Debug)]
struct Experiment {
    name: &'static str,
    port: u16,
    server: Server,
    client: Client,
    /// Limit that the time counts for in which the application had something to send.
    limit: &'static str,
    /// Part of that time, at least.
    part: f64,
    /// The application's own part, from and to: it waits for a CPU after each answer, on a busy machine for long.
    application: (f64, f64),
    /// The cause that `diagnose` names: one of these.
    causes: &'static [&'static str],
}

/// The port of which the queueing discipline lets 20 Mbit/s pass.
const SLOW_LINK: u16 = 7_101;
/// The port to which nothing but small packets get.
const BLACK_HOLE: u16 = 7_102;
const SLOW_READER: u16 = 7_103;
const THINKING_SERVER: u16 = 7_105;
const PAUSES: u16 = 7_107;
/// The port to which one segment of a hundred is dropped.
const LOSSY: u16 = 7_108;
/// The port to which one segment of a hundred is marked (ECN).
const MARKED: u16 = 7_109;
const BACK_TO_BACK: u16 = 7_115;

/// Over the slow link: the first three of them at once, as each of them only waits for it; then one after the other.
const OVER_THE_LINK: [Experiment; 6] = [
    Experiment {
        name: "a slow link",
        port: SLOW_LINK,
        server: Server::Reads,
        client: Client::WritesAllTheTime,
        limit: "network",
        part: 1.0,
        application: (0.0, 0.0),
        causes: &["network", "loss"],
    },
    Experiment {
        name: "one segment of a hundred is dropped",
        port: LOSSY,
        server: Server::Reads,
        client: Client::WritesAllTheTime,
        limit: "network",
        part: 1.0,
        application: (0.0, 0.0),
        causes: &["loss"],
    },
    Experiment {
        name: "a router that marks congestion",
        port: MARKED,
        server: Server::Reads,
        client: Client::WritesAllTheTime,
        limit: "network",
        part: 1.0,
        application: (0.0, 0.0),
        causes: &["network", "loss"],
    },
    Experiment {
        name: "a slow link, half the time idle",
        port: PAUSES,
        server: Server::Reads,
        client: Client::WritesHalfTheTime,
        limit: "network",
        part: 1.0,
        application: (0.45, 0.5),
        causes: &["network", "loss"],
    },
    Experiment {
        name: "a slow reader behind a slow link",
        port: 7_112,
        server: Server::ReadsSlowly,
        client: Client::WritesAllTheTime,
        limit: "receiver",
        part: 0.6,
        application: (0.0, 0.0),
        causes: &["receiver"],
    },
    Experiment {
        name: "a small send buffer",
        port: 7_113,
        server: Server::Reads,
        client: Client::WritesFromASmallBuffer,
        limit: "network",
        part: 0.45,
        application: (0.0, 0.1),
        causes: &["network", "buffer"],
    },
];

/// Over the loopback device as it is, all at once.
const OTHERS: [Experiment; 7] = [
    Experiment {
        name: "a black hole",
        port: BLACK_HOLE,
        server: Server::Reads,
        client: Client::WritesAllTheTime,
        limit: "network",
        part: 1.0,
        application: (0.0, 0.0),
        causes: &["black_hole"],
    },
    Experiment {
        name: "a slow reader",
        port: SLOW_READER,
        server: Server::ReadsSlowly,
        client: Client::WritesAllTheTime,
        limit: "receiver",
        part: 1.0,
        application: (0.0, 0.0),
        causes: &["receiver"],
    },
    Experiment {
        name: "a peer that never reads",
        port: 7_104,
        server: Server::NeverReads,
        client: Client::WritesAllTheTime,
        limit: "receiver",
        part: 1.0,
        application: (0.0, 0.0),
        causes: &["receiver"],
    },
    Experiment {
        name: "a server that thinks",
        port: THINKING_SERVER,
        server: Server::AnswersAfter(Duration::from_millis(20)),
        client: Client::Asks,
        limit: "answer",
        part: 1.0,
        application: (0.0, 0.6),
        causes: &["answer"],
    },
    Experiment {
        name: "a server that thinks a little",
        port: 7_114,
        server: Server::AnswersAfter(Duration::from_millis(5)),
        client: Client::Asks,
        limit: "answer",
        part: 1.0,
        application: (0.0, 0.8),
        causes: &["answer"],
    },
    Experiment {
        name: "requests back to back",
        port: BACK_TO_BACK,
        server: Server::AnswersAfter(Duration::ZERO),
        client: Client::Asks,
        limit: "answer",
        part: 0.85,
        application: (0.0, 0.9),
        causes: &["answer"],
    },
    Experiment {
        name: "an application that has little to send",
        port: 7_106,
        server: Server::Reads,
        client: Client::WritesNowAndThen,
        limit: "application",
        part: 1.0,
        application: (0.9, 1.0),
        causes: &["application"],
    },
];

fn experiments() -> impl Iterator<Item = &'static Experiment> {
    OVER_THE_LINK.iter().chain(&OTHERS)
}

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

/// A connection as `ss` shows it: seconds of its clocks, and segments.
#[derive(Clone, Copy, Debug, Default)]
struct Oracle {
    busy: f64,
    receiver: f64,
    buffer: f64,
    age: f64,
    /// Segments that were acknowledged with a congestion mark.
    marked: f64,
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
        let number = |name: &str| {
            let (_, rest) = shown.split_once(&format!(" {name}:"))?;
            rest.split_whitespace().next()?.parse::<f64>().ok()
        };
        let seconds = |name| field(name).unwrap_or(0.0) / 1e3;
        let (receiver, buffer) = (seconds("rwnd_limited"), seconds("sndbuf_limited"));
        Self {
            busy: seconds("busy") - receiver - buffer,
            receiver,
            buffer,
            age: since.elapsed().as_secs_f64(),
            marked: number("delivered_ce").unwrap_or(0.0),
        }
    }
}

/// One connection; returns what `ss` shows at its end, which is a reset.
fn connect(experiment: &Experiment, congestion_control: &str) -> Oracle {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, experiment.port)).expect("a connection");
    let since = Instant::now();
    setsockopt(&stream, sockopt::TcpCongestion, &congestion_control.into()).expect("a congestion control");
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
    if matches!(experiment.client, Client::WritesFromASmallBuffer) {
        SockRef::from(&stream)
            .set_send_buffer_size(1 << 14)
            .expect("an option");
    }
    // 20 Mbit/s, less the headers of Ethernet, IP and TCP (66 of 1,514 bytes), for half of each second.
    let per_second = 20e6 / 8.0 * (1448.0 / 1514.0) / 2.0;
    let mut written = 0.0;
    while since.elapsed() < LIFE {
        match experiment.client {
            Client::WritesHalfTheTime => {
                let second = since.elapsed().as_secs_f64().floor() + 1.0;
                let left = per_second * second - written;
                if left < 1.0 {
                    thread::sleep(Duration::from_secs_f64(second).saturating_sub(since.elapsed()));
                    continue;
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "at least 1, and bounded by the buffer"
                )]
                let length = (left as usize).min(bytes.len());
                match stream.write(&bytes[..length]) {
                    Ok(count) => written += count as f64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{}: {error}", experiment.name),
                }
            }
            Client::WritesAllTheTime | Client::WritesFromASmallBuffer => match stream.write(&bytes) {
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
fn run_together(experiments: &[Experiment], congestion_control: &str) -> Vec<(u16, Oracle)> {
    thread::scope(|scope| {
        let clients: Vec<_> = experiments
            .iter()
            .map(|experiment| {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, experiment.port));
                let listener = TcpListener::bind(address).expect("a port");
                scope.spawn(move || serve(&listener, experiment.server));
                (
                    experiment.port,
                    scope.spawn(move || connect(experiment, congestion_control)),
                )
            })
            .collect();
        clients
            .into_iter()
            .map(|(port, client)| (port, client.join().expect("no panic")))
            .collect()
    })
}

/// Runs every experiment: those of the slow link, which is the whole loopback device, and then the others.
fn run_experiments(congestion_control: &str) -> BTreeMap<u16, Oracle> {
    sh(&format!(
        "ip link set lo mtu 1500
         echo 1 > /proc/sys/net/ipv4/tcp_ecn
         tc qdisc add dev lo root tbf rate 20mbit burst 32k limit 200k
         nft add table inet t
         nft 'add chain inet t in {{ type filter hook input priority 0; }}'
         nft add rule inet t in tcp dport {BLACK_HOLE} meta length gt 100 drop
         nft add rule inet t in tcp dport {LOSSY} meta length gt 100 numgen inc mod 100 0 drop
         nft add rule inet t in tcp dport {MARKED} ip ecn != not-ect numgen inc mod 100 0 ip ecn set ce"
    ));
    let (together, alone) = OVER_THE_LINK.split_at(3);
    let mut oracles = run_together(together, congestion_control);
    for experiment in alone {
        oracles.extend(run_together(std::slice::from_ref(experiment), congestion_control));
    }
    sh("tc qdisc del dev lo root");
    oracles.extend(run_together(&OTHERS, congestion_control));
    sh("nft delete table inet t");
    oracles.into_iter().collect()
}

const LIMITS: [&str; 5] = ["network", "answer", "receiver", "buffer", "application"];

/// The daemon's measurements of the experiments' connections.
#[derive(Debug)]
struct Seen {
    exposition: Exposition,
    netns: String,
}

impl Seen {
    /// The sum of a metric over connections to `port`, as the end `flow` has them.
    fn sum(&self, name: &str, port: u16, flow: &str, more: &[(&str, &str)]) -> f64 {
        let port = port.to_string();
        let of = [("flow", flow), ("server_port", &*port), ("netns", &*self.netns)];
        let labels = [&of, more].concat();
        let name = format!("primus_lens_network_tcp_{name}");
        let samples = self.exposition.select(&name, &labels);
        samples.map(|sample| sample.value).sum::<f64>() + 0.0
    }

    /// Seconds that went to `limit`, seen from the end that connected.
    fn seconds(&self, port: u16, limit: &str) -> f64 {
        self.sum("send_time", port, "egress", &[("limit", limit)])
    }

    /// Seconds that went to any limit.
    fn total(&self, port: u16) -> f64 {
        LIMITS.iter().map(|limit| self.seconds(port, limit)).sum()
    }

    /// The life of the connection; 0 before it has ended.
    fn life(&self, port: u16) -> f64 {
        self.sum("connection_duration_sum", port, "egress", &[])
    }

    /// Resets that the end `flow` has seen.
    fn resets(&self, port: u16, flow: &str, by: &str) -> f64 {
        self.sum("connections", port, flow, &[("event", "reset"), ("reset_by", by)])
    }
}

/// The experiments as `ss` and as the daemon show them, once all of them have ended and their times add up to their lives within `of_sum`:
/// in mode `events` segments and ends come by two rings, so a window can have an end before the segments that were before it.
fn measure(set: &[&str], of_sum: f64) -> (BTreeMap<u16, Oracle>, Seen) {
    let settings: Vec<&str> = FAMILIES.iter().chain(set).copied().collect();
    netns::within_new(|| {
        let daemon = Daemon::start(&settings);
        let oracles = run_experiments("cubic");
        let seen = |exposition: &Exposition| Seen {
            exposition: exposition.clone(),
            netns: netns::label(),
        };
        daemon.scrape_until_none("the times of all connections", |exposition| {
            let seen = seen(exposition);
            let is_missing = |port| {
                let (life, total) = (seen.life(port), seen.total(port));
                life == 0.0 || (total / life - 1.0).abs() > of_sum
            };
            let missing = experiments().filter(|experiment| is_missing(experiment.port));
            let shown = |port| format!("{} of {} s", seen.total(port), seen.life(port));
            missing
                .map(|experiment| format!("{}: {}", experiment.name, shown(experiment.port)))
                .collect()
        });
        (oracles, seen(&daemon.scrape()))
    })
}

/// The shares are those of the experiments within `tolerance`, and add up to the lives of the connections within `of_sum`.
fn time_goes_where_the_experiment_makes_it_go(
    set: &[&str],
    tolerance: f64,
    of_sum: f64,
) -> (BTreeMap<u16, Oracle>, Seen) {
    let (oracles, seen) = measure(set, of_sum);
    for experiment in experiments() {
        let (port, oracle) = (experiment.port, oracles[&experiment.port]);
        let times = LIMITS.map(|limit| (limit, seen.seconds(port, limit)));
        let total = seen.total(port);
        let life = seen.life(port);
        let shown = format!(
            "{set:?}, {}: {times:?} in {life} s, together {total}; {oracle:?}",
            experiment.name
        );
        eprintln!("{shown}");
        assert!((total / life - 1.0).abs() <= of_sum, "{shown}");
        let share = |name: &str| seen.seconds(port, name) / total;
        let (least, most) = experiment.application;
        assert!(
            (least - tolerance..=most + tolerance).contains(&share("application")),
            "{shown}"
        );
        let of_rest = match experiment.limit {
            "application" => share("application"),
            limit => share(limit) / (1.0 - share("application")),
        };
        assert!(of_rest >= experiment.part - tolerance, "{shown}");
        let pairs = [
            (share("network") + share("answer"), oracle.busy),
            (share("receiver"), oracle.receiver),
            (share("buffer"), oracle.buffer),
        ];
        for (ours, theirs) in pairs {
            assert!((ours - theirs / oracle.age).abs() <= tolerance, "{shown}");
        }
    }
    (oracles, seen)
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
fn black_hole_is_time_outs(seen: &Seen) {
    if kernel() >= (6, 7) {
        let rto = |port| seen.sum("rto_time", port, "egress", &[]);
        assert!(
            rto(BLACK_HOLE) >= 0.85 * LIFE.as_secs_f64(),
            "{} s",
            rto(BLACK_HOLE)
        );
        assert!(rto(THINKING_SERVER) < 0.1, "of a peer that answers");
    }
}

fn have_tools() -> bool {
    ["nft", "tc", "ss"].into_iter().all(require::program)
}

#[test]
fn the_time_of_a_connection_goes_to_what_its_experiment_makes_it_wait_for() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !have_tools() {
        return;
    }
    for mode in ["sockets", "events"] {
        let mode = format!("receivers.ebpf.mode={mode}");
        let (oracles, seen) = time_goes_where_the_experiment_makes_it_go(&[&mode], 0.05, 0.005);
        black_hole_is_time_outs(&seen);
        let marked = seen.sum("ecn_ce", MARKED, "egress", &[]);
        let shown = oracles[&MARKED].marked;
        // `ss` looked a moment before the end.
        assert!(
            shown > 10.0 && (shown..=shown * 1.2 + 10.0).contains(&marked),
            "{mode}: {marked} segments with a mark, by `ss` {shown}"
        );
        // The client resets each: its end says that it did, and the other one that the peer did.
        for port in [SLOW_LINK, SLOW_READER, THINKING_SERVER] {
            let ends = [("egress", "local"), ("ingress", "remote")];
            let resets = ends.map(|(flow, by)| format!("{:.0}", seen.resets(port, flow, by)));
            assert_eq!(resets, ["1", "1"], "{mode}, port {port}");
        }
    }
}

#[test]
fn sock_diag_sees_the_same_within_its_interval() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !have_tools() {
        return;
    }
    let set = [
        "service.pipelines.metrics.receivers=[sock_diag]",
        "receivers.sock_diag.interval=200ms",
    ];
    // It learns of a connection's beginning and end at looks, up to an interval later.
    let (_, seen) = time_goes_where_the_experiment_makes_it_go(&set, 0.1, 0.1);
    black_hole_is_time_outs(&seen);
}

/// The answer of `flowtap diagnose` about this process while `run` is at work.
fn diagnosis(run: impl FnOnce()) -> serde_json::Value {
    let mut diagnose = flowtap();
    diagnose.args([
        "diagnose",
        &std::process::id().to_string(),
        "--json",
        "--limit",
        "1000",
        "--for",
        "10m",
    ]);
    let mut child = diagnose
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("flowtap");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let is_ready = |line: std::io::Result<String>| line.expect("text").contains("measuring");
    assert!(log.any(is_ready), "it never measured");
    run();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("a process");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The causes that it names for this process's connections, by port and end.
fn diagnosed(run: impl FnOnce()) -> BTreeMap<(u64, String), String> {
    let answer = diagnosis(run);
    let peers = answer["peers"].as_array().expect("peers").iter();
    let text = |peer: &serde_json::Value, key: &str| peer[key].as_str().expect("text").to_owned();
    peers
        .map(|peer| {
            eprintln!("{peer}");
            let port = peer["server_port"].as_u64().expect("a port");
            ((port, text(peer, "flow")), text(peer, "cause"))
        })
        .collect()
}

#[test]
fn diagnose_names_the_cause_of_each_experiment() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !have_tools() {
        return;
    }
    let known =
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").expect("a list");
    for congestion_control in ["cubic", "bbr"] {
        if !known.split_whitespace().any(|name| name == congestion_control) {
            continue;
        }
        let causes = netns::within_new(|| diagnosed(|| drop(run_experiments(congestion_control))));
        for experiment in experiments() {
            let expected = match experiment.port {
                BLACK_HOLE if kernel() < (6, 7) => &["loss"][..],
                // BBR paces also short requests: it has held back up to two thirds of them.
                BACK_TO_BACK if congestion_control == "bbr" => &["answer", "network"],
                _ => experiment.causes,
            };
            let cause = &causes[&(experiment.port.into(), "egress".to_owned())];
            assert!(
                expected.contains(&cause.as_str()),
                "{congestion_control}, {}: {cause}",
                experiment.name
            );
        }
    }
}

/// A port to which this machine's own firewall lets no data pass.
const DROPPED_HERE: u16 = 7_117;
/// A port to which two segments of five get.
const VERY_LOSSY: u16 = 7_118;

#[test]
fn diagnose_distinguishes_its_own_firewall_and_a_very_lossy_path_from_a_black_hole() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !have_tools() || !require::mode_sockets() {
        return;
    }
    let experiment = |port| Experiment {
        port,
        causes: &[],
        ..OVER_THE_LINK[0]
    };
    let answer = netns::within_new(|| {
        sh(&format!(
            "ip link set lo mtu 1500
             nft add table inet t
             nft 'add chain inet t in {{ type filter hook input priority 0; }}'
             nft 'add chain inet t out {{ type filter hook output priority 0; }}'
             nft add rule inet t out tcp dport {DROPPED_HERE} meta length gt 100 drop
             nft add rule inet t in tcp dport {VERY_LOSSY} meta length gt 100 numgen inc mod 5 '<' 3 drop"
        ));
        diagnosis(|| drop(run_together(&[DROPPED_HERE, VERY_LOSSY].map(experiment), "cubic")))
    });
    for (port, cause, begins) in [
        (DROPPED_HERE, "black_hole", "nothing leaves this machine: "),
        (VERY_LOSSY, "loss", "the network loses segments: "),
    ] {
        let mut peers = answer["peers"].as_array().expect("peers").iter();
        let peer = peers.find(|peer| peer["server_port"] == port && peer["flow"] == "egress");
        let peer = peer.unwrap_or_else(|| panic!("no port {port}: {answer}"));
        let sentence = peer["sentence"].as_str().expect("text");
        assert!(peer["cause"] == cause && sentence.starts_with(begins), "{peer}");
    }
}

/// A port that nobody listens on.
const REFUSES: u16 = 7_110;
/// A port to which nothing gets.
const SILENT: u16 = 7_111;
/// The same, of a connect that is not given up.
const WAITS: u16 = 7_112;

#[test]
fn diagnose_names_a_peer_that_refuses_and_one_that_does_not_answer() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !have_tools() {
        return;
    }
    let causes = netns::within_new(|| {
        sh(&format!(
            "nft add table inet t
             nft 'add chain inet t in {{ type filter hook input priority 0; }}'
             nft add rule inet t in tcp dport '{{ {SILENT}, {WAITS} }}' drop"
        ));
        let mut still_waits = None;
        let causes = diagnosed(|| {
            let to = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            // The first SYN is retransmitted after a second.
            let given_up = TcpStream::connect_timeout(&to(SILENT), Duration::from_millis(1_500));
            assert_eq!(given_up.unwrap_err().kind(), ErrorKind::TimedOut);
            let refused = TcpStream::connect(to(REFUSES));
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let waits = connecting::begin(WAITS);
            while connecting::waiting(WAITS) != (1, 1) {
                thread::yield_now();
            }
            still_waits = Some(waits);
        });
        drop(still_waits);
        causes
    });
    let cause = |port: u16| causes[&(port.into(), "egress".to_owned())].as_str();
    assert_eq!((cause(REFUSES), cause(SILENT)), ("refused", "no_answer"));
    assert_eq!(cause(WAITS), "no_answer");
}

/// The port of a server that accepts nothing.
const FULL: u16 = 7_116;

#[test]
fn diagnose_names_the_listening_socket_whose_queue_is_full() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() || !listening::require_listening() {
        return;
    }
    let answer = netns::within_new(|| {
        let mut held = None;
        let answer = diagnosis(|| {
            let counters = Counters::open();
            let server = listening::server(FULL, 1);
            let clients = listening::clients(FULL);
            while counters.get("TcpExt:", "ListenOverflows") == 0 {
                thread::sleep(Duration::from_millis(50));
            }
            // Until the queue has been read: once a second.
            thread::sleep(Duration::from_millis(2_500));
            held = Some((server, clients));
        });
        drop(held);
        answer
    });
    let socket = &answer["measured"]["listening"]["sockets"][0];
    let pid = u64::from(std::process::id());
    assert_eq!(
        (&socket["port"], &socket["pid"], &socket["limit"]),
        (&FULL.into(), &pid.into(), &1.into()),
        "{answer}"
    );
    let mut peers = answer["peers"].as_array().expect("peers").iter();
    let served = peers.find(|peer| peer["server_port"] == FULL && peer["flow"] == "ingress");
    let served = served.unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(served["cause"], "accept_queue", "{served}");
    // This process is also the client whose connects have no answer.
    assert_eq!(answer["cause"], "accept_queue", "{answer}");
    let mut peers = answer["peers"].as_array().expect("peers").iter();
    let client = peers.find(|peer| peer["server_port"] == FULL && peer["flow"] == "egress");
    assert_eq!(
        client.map(|client| &client["cause"]),
        Some(&"accept_queue".into()),
        "{answer}"
    );
    let sentence = served["sentence"].as_str().expect("text");
    let comm = socket["comm"].as_str().expect("text");
    let begins = format!("port {FULL}, {comm} (pid {pid}), accepts too slowly: ");
    assert!(sentence.starts_with(&begins), "{sentence}");
}
