//! Answers of a real Prometheus to the queries of docs/queries.md, over a link of 60 ms, against what the applications know.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Launch};
use crate::netns::Namespace;
use crate::peers::ask_until;
use crate::require;
use crate::stores::Store;
use crate::traffic::{Counted, Held};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 1);
/// Two addresses of the server: one is reached without loss, the other with.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 2);
const LOSSY: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 3);
/// One way.
const DELAY_MS: u32 = 30;

/// Connections that stay open, to each address.
const HELD: [usize; 2] = [6, 2];
/// Bytes of each of them, each way, in a round.
const BYTES: [usize; 2] = [30_000, 50_000];

/// Connections that a round opens in addition, how many of these are reset, and how many connects are refused.
const SHORT: usize = 12;
const RESET: usize = 3;
const REFUSED: usize = 3;
/// Bytes of a short connection, each way.
const SHORT_BYTES: usize = 1_000;

/// Client and server in separate namespaces, and the link between them.
struct Net {
    client: Namespace,
    server: Namespace,
    link: Child,
}

impl Net {
    fn new() -> Self {
        let (client, server) = (Namespace::new(), Namespace::new());
        let mut link = Command::new("python3")
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/slow_link.py"))
            .args([
                client.path(),
                server.path(),
                DELAY_MS.to_string(),
                LOSSY.to_string(),
                "5".to_owned(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(link.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        client.sh(&format!(
            "ip addr add {CLIENT}/24 dev link0 && ip link set link0 up"
        ));
        server.sh(&format!(
            "ip addr add {NEAR}/24 dev link0 && ip addr add {LOSSY}/24 dev link0 && ip link set link0 up"
        ));
        Self { client, server, link }
    }

    /// Takes the link away; returns how many packets it dropped.
    fn end(mut self) -> u64 {
        drop(self.link.stdin.take());
        let mut dropped = String::new();
        self.link
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut dropped)
            .unwrap();
        self.link.wait().unwrap();
        dropped.trim().parse().unwrap()
    }
}

/// The traffic, by the applications.
struct Traffic {
    listeners: [TcpListener; 2],
    held: [Held; 2],
    sent: [Counted; 2],
    /// Lives of short connections at the client.
    lives: Vec<Duration>,
}

impl Traffic {
    fn open(net: &Net) -> Self {
        let listeners =
            [NEAR, LOSSY].map(|address| net.server.run(|| TcpListener::bind((address, 0)).unwrap()));
        let mut held = listeners.each_ref().map(|_| None);
        for (index, listener) in listeners.iter().enumerate() {
            held[index] = Some(net.client.run(|| Held::open(listener, HELD[index]).unwrap()));
        }
        Self {
            listeners,
            held: held.map(Option::unwrap),
            sent: [Counted::default(); 2],
            lives: Vec::new(),
        }
    }

    fn address(&self, index: usize) -> SocketAddr {
        self.listeners[index].local_addr().unwrap()
    }

    /// A port of the near address on which nobody listens.
    fn closed_port(&self) -> u16 {
        let port = self.address(0).port();
        if port == u16::MAX { port - 1 } else { port + 1 }
    }

    fn round(&mut self, net: &Net) {
        for ((held, sent), bytes) in self.held.iter_mut().zip(&mut self.sent).zip(BYTES) {
            *sent += net.client.run(|| held.exchange(bytes).unwrap());
        }
        let near = self.address(0);
        for number in 0..SHORT {
            let began = Instant::now();
            let mut client = net.client.run(|| TcpStream::connect(near).unwrap());
            let (mut server, _) = self.listeners[0].accept().unwrap();
            let (message, mut buffer) = (vec![b's'; SHORT_BYTES], vec![0; SHORT_BYTES]);
            client.write_all(&message).unwrap();
            server.read_exact(&mut buffer).unwrap();
            server.write_all(&message).unwrap();
            client.read_exact(&mut buffer).unwrap();
            if number < RESET {
                socket2::SockRef::from(&client)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
                drop(client);
                server.read_exact(&mut [0]).unwrap_err();
            } else {
                client.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(server.read(&mut buffer).unwrap(), 0);
                drop(server);
                assert_eq!(client.read(&mut buffer).unwrap(), 0);
                self.lives.push(began.elapsed());
            }
            let bytes = SHORT_BYTES as u64;
            self.sent[0] += Counted {
                client_sent: bytes,
                client_received: bytes,
                server_sent: bytes,
                server_received: bytes,
            };
        }
        for _ in 0..REFUSED {
            let refused = net.client.run(|| TcpStream::connect((NEAR, self.closed_port())));
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        }
    }
}

/// The page up to its queries about DNS and UDP, these, and those about services, meshes and protocols.
pub(crate) fn parts() -> [&'static str; 3] {
    let page = include_str!("../../docs/queries.md");
    let (first, rest) = page.split_once("\n## DNS and UDP\n").unwrap();
    let (second, third) = rest.split_once("\n## Services, meshes and protocols\n").unwrap();
    [first, second, third]
}

/// The config of a part of the page, and its queries by what they answer.
pub(crate) fn questions(part: &'static str) -> (String, BTreeMap<&'static str, Vec<String>>) {
    let (_, rest) = part.split_once("```yaml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let rows = part
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let rows = rows.map(|row| {
        let (question, rest) = row[2..].split_once(" | ").unwrap();
        let queries = rest.split('`').skip(1).step_by(2);
        (question, queries.map(|query| query.replace("\\|", "|")).collect())
    });
    (text.to_owned(), rows.collect())
}

/// `--set` for each family of a config whose name begins with `beginning`.
pub(crate) fn families(text: &str, beginning: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(": {"));
    let families = lines.filter(|(family, _)| family.starts_with(beginning));
    families
        .map(|(family, rest)| format!("processors.window.families.{family}={{{rest}"))
        .collect()
}

pub(crate) type Series = Vec<(BTreeMap<String, String>, f64)>;

/// The value of the only series with these labels.
pub(crate) fn of(series: &Series, labels: &[(&str, &str)]) -> f64 {
    let matching: Vec<_> = series
        .iter()
        .filter(|(has, _)| {
            labels
                .iter()
                .all(|(name, value)| has.get(*name).is_some_and(|is| is == value))
        })
        .collect();
    assert_eq!(matching.len(), 1, "{labels:?} in {series:#?}");
    matching[0].1
}

pub(crate) fn values<'a>(series: &'a Series, label: &str) -> BTreeSet<&'a str> {
    series
        .iter()
        .filter(|(_, value)| *value > 0.0)
        .filter_map(|(labels, _)| labels.get(label).map(String::as_str))
        .collect()
}

pub(crate) fn near(seen: f64, expected: f64, share: f64) {
    assert!(
        (seen / expected - 1.0).abs() < share,
        "{seen} for {expected}, of which it may differ by {share}"
    );
}

/// The queries of the page, asked of a Prometheus.
pub(crate) struct Answers<'a> {
    queries: BTreeMap<&'static str, Vec<String>>,
    prometheus: &'a Store,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Answers<'a> {
    pub(crate) fn new(queries: BTreeMap<&'static str, Vec<String>>, prometheus: &'a Store) -> Self {
        Self {
            queries,
            prometheus,
            asked: RefCell::default(),
        }
    }

    /// The answer to the only query of a question.
    pub(crate) fn ask(&self, question: &'static str) -> Series {
        let mut answers = self.ask_all(question);
        assert_eq!(answers.len(), 1, "{question}");
        answers.remove(0)
    }

    /// The answers to all queries of a question.
    pub(crate) fn ask_all(&self, question: &'static str) -> Vec<Series> {
        self.asked.borrow_mut().insert(question);
        let queries = self.queries.get(question);
        let queries = queries.unwrap_or_else(|| panic!("no question {question:?}"));
        let ask = |query: &String| {
            let series = self.prometheus.series(query);
            eprintln!("{question}\n  {query}\n  {series:?}");
            series
        };
        queries.iter().map(ask).collect()
    }

    fn volumes(&self, traffic: &Traffic, target: &str) {
        let [to_near, _] = peers();
        let peers = self.ask("Peers that receive the most from this node");
        assert_eq!(peers[0].0["raddr"], to_near, "{peers:?}");
        let sent = traffic.sent.map(|sent| sent.client_sent as f64);
        near(peers[0].1 / peers[1].1, sent[0] / sent[1], 0.25);

        let bits = self.ask("Bits per second with each peer and port");
        let port = traffic.address(0).port().to_string();
        let way = |direction| {
            of(
                &bits,
                &[("raddr", &to_near), ("rport", &port), ("direction", direction)],
            )
        };
        near(way("outbound"), way("inbound"), 0.25);
        near(way("outbound"), peers[0].1 * 8.0, 0.01);

        let all = self.ask("All bytes of a node");
        let way = |direction| of(&all, &[("instance", target), ("direction", direction)]);
        near(way("outbound"), way("inbound"), 0.25);

        let open = self.ask("Open connections");
        for flow in ["egress", "ingress"] {
            let of_flow = open.iter().filter(|(has, _)| has["flow"] == flow);
            let seen: f64 = of_flow.map(|(_, value)| value).sum();
            near(seen, HELD.iter().sum::<usize>() as f64, 0.01);
        }
    }

    fn failures(&self) {
        let failed = self.ask("Share of connects that fail")[0].1;
        near(failed, REFUSED as f64 / (2 * SHORT + REFUSED) as f64, 0.25);
        let why = self.ask("Why connects fail");
        assert_eq!(values(&why, "reason"), BTreeSet::from(["refused"]));
        let reset = self.ask("Share of connections that are reset")[0].1;
        near(reset, RESET as f64 / SHORT as f64, 0.25);
        let retransmits = self.ask("Peers with the most retransmissions");
        assert_eq!(retransmits[0].0["raddr"], peers()[1], "{retransmits:?}");
        assert!(values(&self.ask("Servers that accept too slowly"), "lport").is_empty());
        let [records, bytes, coverage] = &self.ask_all("Was anything lost?")[..] else {
            panic!("three queries");
        };
        for lost in [records, bytes] {
            assert!(
                !lost.is_empty() && lost.iter().all(|(_, count)| *count < 0.5),
                "{lost:?}"
            );
        }
        assert!((0.5..=1.5).contains(&coverage[0].1), "{coverage:?}");
    }

    fn times(&self, traffic: &Traffic) {
        // Round-trip times are in microseconds by the default names. A quantile is somewhere in its bucket, which begins at 50 ms; a busy
        // machine adds to it.
        let quantiles = self.ask("Round-trip time, 95th percentile");
        let in_bucket = |(_, quantile): &(_, f64)| (50_000.0..=250_000.0).contains(quantile);
        assert!(
            !quantiles.is_empty() && quantiles.iter().all(in_bucket),
            "{quantiles:?}"
        );
        let round_trip = f64::from(2 * DELAY_MS) * 1_000.0;
        let means = self.ask("Mean round-trip time of each peer");
        for peer in peers().into_iter().chain([CLIENT.to_string()]) {
            let mean = of(&means, &[("raddr", &peer)]) / round_trip;
            assert!((0.98..=5.0).contains(&mean), "{mean} times the link's");
        }
        let connect = self.ask("Time to connect, 95th percentile")[0].1;
        assert!((0.05..=0.5).contains(&connect), "{connect}");
        let limits = self.ask("Time of senders by cause: the network, the peer, themselves");
        assert!(values(&limits, "limit").contains("network"), "{limits:?}");
        let mut lives = traffic.lives.clone();
        lives.sort();
        let life = lives[lives.len() / 2].as_secs_f64();
        let median = self.ask("Life of a connection, median")[0].1;
        assert!(
            (life / 3.0..=life * 3.0).contains(&median),
            "{median} s for {life} s"
        );
    }

    fn with_more_labels(&self, traffic: &Traffic) {
        let [to_near, to_lossy] = peers();
        let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
        let comm = comm.trim();
        for question in [
            "Bytes of each process as a client",
            "Bytes of each process as a server",
        ] {
            assert_eq!(
                values(&self.ask(question), "comm"),
                BTreeSet::from([comm]),
                "{question}"
            );
        }
        let fails = self.ask("Connects that fail: to what, by whom");
        let closed_port = traffic.closed_port().to_string();
        let labels = [
            ("raddr", to_near.as_str()),
            ("rport", &closed_port),
            ("comm", comm),
            ("reason", "refused"),
        ];
        assert!(of(&fails, &labels) > 0.0);
        let services = self.ask("Connections and resets of each service, and the side that reset");
        let port = traffic.address(0).port().to_string();
        let of_port = |event| [("server_port", port.as_str()), ("event", event)];
        let resets = [&of_port("reset")[..], &[("reset_by", "remote")]].concat();
        near(
            of(&services, &resets) / of(&services, &of_port("closed")),
            RESET as f64 / SHORT as f64,
            0.25,
        );
        for (labels, median) in self.ask("Bytes per connection, median") {
            assert!((250.0..=4_000.0).contains(&median), "{labels:?} {median}");
        }
        let shares = self.ask("Share of segments that are retransmitted, by peer");
        assert!(of(&shares, &[("raddr", &to_lossy)]) > 0.05, "{shares:?}");
        // Of a peer without any there may be no series.
        let few = |(has, share): &(BTreeMap<String, String>, f64)| has["raddr"] != to_near || *share < 0.05;
        assert!(shares.iter().all(few), "{shares:?}");
    }

    /// Questions that no one has asked.
    pub(crate) fn left(&self) -> Vec<&str> {
        let asked = self.asked.borrow();
        let left = self.queries.keys().filter(|question| !asked.contains(*question));
        left.copied().collect()
    }
}

/// The server's addresses: without loss, with.
fn peers() -> [String; 2] {
    [NEAR, LOSSY].map(|address| address.to_string())
}

#[test]
fn the_queries_of_the_page_answer_what_the_applications_know_of_a_link_of_60_ms() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let net = Net::new();
    let (text, queries) = questions(parts()[0]);
    let of_namespaces = format!(
        "processors.filter={{include: [{{netns: [{}, {}]}}]}}",
        net.client.label(),
        net.server.label()
    );
    let families = families(&text, "network_tcp_");
    assert_eq!(families.len(), 6, "{families:?}");
    let mut set = vec![
        "service.pipelines.metrics.processors=[direction, policy, filter, window]",
        &of_namespaces,
        // A series that was scraped stays until the end.
        "processors.window.metric_expiration=10m",
    ];
    set.extend(families.iter().map(String::as_str));
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus]",
        set: &set,
        ..Launch::default()
    });
    let mut traffic = Traffic::open(&net);
    let closed = |round: usize| (2 * SHORT * round) as f64 - 0.5;
    // A series has no rate in the scrape that it begins with. So the first round makes all of them, and those after it their rates.
    traffic.round(&net);
    daemon.scrape_until("the short connections of both ends", |seen| {
        seen.sum("primus_lens_network_tcp_connections", &[("event", "closed")]) as f64 > closed(1)
    });
    let job = "scrape_configs:\n- job_name: flowtap\n  scrape_interval: 1s\n";
    let (target, own) = (daemon.scrape_address().to_string(), daemon.telemetry_address());
    let prometheus = Store::prometheus(
        Path::new("prometheus"),
        &format!("{job}  static_configs: [{{targets: ['{target}', '{own}']}}]\n"),
        &[],
    );
    for round in 1..=3 {
        ask_until("the short connections of both ends", || {
            let seen = prometheus.number("sum(primus_lens_network_tcp_connections{event=\"closed\"})")?;
            (seen > closed(round)).then_some(())
        });
        traffic.round(&net);
    }
    let sent: u64 = traffic.sent.iter().map(|sent| sent.client_sent).sum();
    ask_until("the bytes of every round", || {
        let seen = prometheus.number("sum(primus_lens_network_tcp_flow_egress{direction=\"outbound\"})")?;
        (seen >= sent as f64 - 0.5).then_some(())
    });
    let answers = Answers::new(queries, &prometheus);
    answers.volumes(&traffic, &target);
    answers.failures();
    answers.times(&traffic);
    answers.with_more_labels(&traffic);
    // The first one needs a cluster: the tests of Kubernetes answer it. The second one needs `watch`: those of the alert do.
    assert_eq!(
        answers.left(),
        [
            "Bytes from workload to workload",
            "Findings of the last day, by node and kind"
        ]
    );
    drop(daemon);
    assert!(net.end() > 0, "the link dropped nothing");
}
