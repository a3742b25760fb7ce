//! Answers of a real Prometheus to the queries about DNS and UDP of docs/queries.md, against what clients and servers know.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT};
use crate::dns_server::{Behaviour, Responder};
use crate::netns::Namespace;
use crate::peers::ask_until;
use crate::queries::{Answers, families, near, of, parts, questions, values};
use crate::require;
use crate::stores::Store;

// Name servers: one that takes its time, one that knows no name, one that fails, one that does not answer.
const SLOW: &str = "127.0.0.2";
const EMPTY: &str = "127.0.0.3";
const FAILING: &str = "127.0.0.4";
const SILENT: &str = "127.0.0.5";
/// Time that the slow one takes.
const DELAY: Duration = Duration::from_millis(60);

// UDP peers: with much traffic, with little, without a listener, that does not read.
const MUCH: &str = "127.0.0.7";
const LITTLE: &str = "127.0.0.8";
const NOBODY: &str = "127.0.0.9";
const FULL: &str = "127.0.0.10";
/// Bytes that are sent in a round.
const BYTES: [usize; 2] = [5_000, 500];

const NAME: &str = "www.example.com";
/// The same with a domain of a search list.
const MISS: &str = "www.example.com.ns.svc.test";

/// A query of type A.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.extend(b"\0\0\x01\0\x01");
    bytes
}

/// Asks once more for as long as no answer comes, from the same socket, as resolvers do.
fn ask(server: &str, name: &str, tries: u32) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect((server, 53)).unwrap();
    // Only the server that never answers is waited for in vain.
    let patience = if server == SILENT {
        Duration::from_millis(300)
    } else {
        WAIT_TIMEOUT
    };
    socket.set_read_timeout(Some(patience)).unwrap();
    let id = socket.local_addr().unwrap().port();
    (0..tries).any(|_| {
        socket.send(&query(id, name)).unwrap();
        socket.recv(&mut [0; 512]).is_ok()
    })
}

/// Servers of everything.
struct Servers {
    resolvers: Vec<Responder>,
    peers: [UdpSocket; 2],
    full: UdpSocket,
}

impl Servers {
    fn start() -> Self {
        let plain = Behaviour {
            rcode: 0,
            truncated: false,
            delay: Duration::ZERO,
            ignored: 0,
        };
        let resolvers = [
            (
                SLOW,
                Behaviour {
                    delay: DELAY,
                    ..plain
                },
            ),
            (EMPTY, Behaviour { rcode: 3, ..plain }),
            (FAILING, Behaviour { rcode: 2, ..plain }),
            (
                SILENT,
                Behaviour {
                    ignored: u64::MAX,
                    ..plain
                },
            ),
        ];
        let full = UdpSocket::bind((FULL, 0)).unwrap();
        nix::sys::socket::setsockopt(&full, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
        Self {
            resolvers: resolvers
                .map(|(address, how)| Responder::start(&format!("{address}:53"), how))
                .into(),
            peers: [MUCH, LITTLE].map(|address| UdpSocket::bind((address, 0)).unwrap()),
            full,
        }
    }

    fn round(&self) {
        for _ in 0..3 {
            assert!(ask(SLOW, NAME, 1));
            assert!(ask(FAILING, NAME, 1));
            // The name of the search list, then the name itself.
            assert!(ask(EMPTY, MISS, 1));
            assert!(ask(EMPTY, NAME, 1));
        }
        assert!(!ask(SILENT, NAME, 2));
        for (peer, bytes) in self.peers.iter().zip(BYTES) {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
            let address: SocketAddr = peer.local_addr().unwrap();
            for _ in 0..5 {
                client.send_to(&vec![1; bytes / 5], address).unwrap();
                let (_, from) = peer.recv_from(&mut [0; 2048]).unwrap();
                peer.send_to(&[2; 10], from).unwrap();
                client.recv(&mut [0; 10]).unwrap();
            }
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            client
                .send_to(&[1; 500], self.full.local_addr().unwrap())
                .unwrap();
        }
        // A port that has just been given up has no listener.
        let gone = UdpSocket::bind((NOBODY, 0)).unwrap().local_addr().unwrap();
        client.connect(gone).unwrap();
        client.send(b"anybody?").unwrap();
        client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        client.recv(&mut [0; 10]).unwrap_err();
    }
}

fn dns(answers: &Answers<'_>) {
    let failing = answers.ask("Share of DNS queries that fail, by name server");
    assert_eq!(values(&failing, "raddr"), BTreeSet::from([FAILING, SILENT]));
    assert!(failing.iter().all(|(_, share)| *share > 0.99), "{failing:?}");

    let why = answers.ask("Why DNS queries fail, by name server");
    for (server, rcode) in [(EMPTY, "NXDOMAIN"), (FAILING, "SERVFAIL"), (SILENT, "timeout")] {
        assert!(of(&why, &[("raddr", server), ("rcode", rcode)]) > 0.0, "{why:?}");
    }

    // A quantile is somewhere in its bucket, which begins at 50 ms; a busy machine adds to it.
    let times = answers.ask("Time that a name server takes, 95th percentile");
    let slow = of(&times, &[("raddr", SLOW)]);
    assert!((0.05..=1.0).contains(&slow), "{times:?}");
    assert!(slow > of(&times, &[("raddr", FAILING)]), "{times:?}");

    let repeated = answers.ask("DNS queries that were repeated, by name server");
    assert_eq!(values(&repeated, "raddr"), BTreeSet::from([SILENT]));

    let wasted = answers.ask("Share of DNS queries that a search list wastes");
    near(of(&wasted, &[("raddr", EMPTY)]), 0.5, 0.25);

    let names = answers.ask("Names that are asked for and don't exist");
    assert_eq!(values(&names, "qname"), BTreeSet::from([NAME, MISS]));
}

fn udp(answers: &Answers<'_>, full: &str) {
    let step = answers.ask("Is UDP measured, and by which hooks?");
    assert_eq!(values(&step, "step"), BTreeSet::from(["cgroup"]));

    let peers = answers.ask("Peers that receive the most over UDP");
    let bytes = [MUCH, LITTLE].map(|address| of(&peers, &[("raddr", address)]));
    near(bytes[0] / bytes[1], BYTES[0] as f64 / BYTES[1] as f64, 0.25);

    let datagrams = answers.ask("UDP datagrams in each direction");
    for flow in ["egress", "ingress"] {
        for direction in ["inbound", "outbound"] {
            assert!(of(&datagrams, &[("flow", flow), ("direction", direction)]) > 0.0);
        }
    }

    let slow = answers.ask("UDP sockets that read too slowly");
    assert_eq!(values(&slow, "lport"), BTreeSet::from([full]));

    let unreachable = answers.ask("UDP peers that can't be reached");
    assert_eq!(values(&unreachable, "raddr"), BTreeSet::from([NOBODY]));
}

#[test]
fn the_queries_about_dns_and_udp_answer_what_clients_and_servers_know() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let net = Namespace::new();
    let (text, queries) = questions(parts()[1]);
    let families = families(&text, "network_dns_");
    assert_eq!(families.len(), 1, "{families:?}");
    let own = format!("processors.filter={{include: [{{netns: [{}]}}]}}", net.label());
    let mut set = vec![
        "service.pipelines.metrics.processors=[direction, policy, filter, window]",
        &own,
        "receivers.ebpf.udp.hooks=cgroup",
        "receivers.ebpf.dns.names=full",
        "receivers.ebpf.dns.timeout=1s",
        // A series that was scraped stays until the end.
        "processors.window.metric_expiration=10m",
    ];
    set.extend(families.iter().map(String::as_str));
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus]",
        set: &set,
        ..Launch::default()
    });
    let servers = net.run(Servers::start);
    let timed_out = [("rcode", "timeout"), ("flow", "egress")];
    // A series has no rate in the scrape that it begins with. So the first round makes all of them, and those after it their rates.
    net.run(|| servers.round());
    daemon.scrape_until("the query without an answer", |seen| {
        seen.sum("primus_lens_network_dns_queries", &timed_out) == 1
    });
    let (target, own) = (daemon.scrape_address(), daemon.telemetry_address());
    let job = "scrape_configs:\n- job_name: flowtap\n  scrape_interval: 1s\n";
    let prometheus = Store::prometheus(
        Path::new("prometheus"),
        &format!("{job}  static_configs: [{{targets: ['{target}', '{own}']}}]\n"),
        &[],
    );
    for round in 1..=3 {
        let in_vain = || {
            let query = "sum(primus_lens_network_dns_queries{rcode=\"timeout\",flow=\"egress\"})";
            let seen = prometheus.number(query)?;
            (seen > f64::from(round) - 0.5).then_some(())
        };
        ask_until("the queries without an answer", in_vain);
        net.run(|| servers.round());
    }
    ask_until("the bytes of every round", || {
        let query =
            format!("sum(primus_lens_network_udp_flow_egress{{raddr=\"{MUCH}\",direction=\"outbound\"}})");
        (prometheus.number(&query)? > 4.0 * BYTES[0] as f64 - 0.5).then_some(())
    });
    ask_until("the last query without an answer", || {
        let query = "sum(primus_lens_network_dns_queries{rcode=\"timeout\",flow=\"egress\"})";
        (prometheus.number(query)? > 3.5).then_some(())
    });
    let answers = Answers::new(queries, &prometheus);
    dns(&answers);
    let full = servers.full.local_addr().unwrap().port().to_string();
    udp(&answers, &full);
    assert_eq!(answers.left(), [""; 0]);
    drop(daemon);
    assert_eq!(
        servers.resolvers.into_iter().map(Responder::stop).sum::<u64>(),
        4 * (3 * 4 + 2)
    );
}
