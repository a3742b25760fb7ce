//! DNS transactions through the whole daemon.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, get};
use crate::dns_server::{Behaviour, Dnsmasq, Responder};
use crate::exposition::{Exposition, Sample};
use crate::flow_logs::{is_in, records};
use crate::peers::ask_until;
use crate::{netns, require};

/// 400 transactions of the generator, whose arithmetic is the oracle.
const GENERATED: &[&str] = &[
    "service.pipelines.metrics.receivers=[generator]",
    "receivers.generator.interval=100ms",
    "receivers.generator.flows=30",
    "receivers.generator.server_share=0",
    "receivers.generator.max_intervals=4",
    "receivers.generator.dns_queries_per_interval=100",
];

fn start(set: &[&str]) -> Daemon {
    Daemon::launch(Launch {
        set: &[GENERATED, set].concat(),
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    })
}

#[test]
fn queries_are_counted_by_outcome_and_observed_when_they_were_answered() {
    let daemon = start(&[]);
    let queries = "primus_lens_network_dns_queries";
    let scrape = daemon.scrape_until("all transactions", |seen| seen.sum(queries, &[]) == 400);
    for (rcode, count) in [("NOERROR", 380), ("NXDOMAIN", 16), ("timeout", 4)] {
        let labels = [("rcode", rcode), ("raddr", "192.0.2.53"), ("flow", "egress")];
        assert_eq!(scrape.sum(queries, &labels), count, "{rcode}");
    }
    let of_type = |qtype| scrape.sum(queries, &[("qtype", qtype)]);
    assert_eq!((of_type("A"), of_type("AAAA")), (200, 200));
    assert_eq!(scrape.sum("primus_lens_network_dns_retries", &[]), 4);
    let answered = scrape.sum("primus_lens_network_dns_duration_count", &[]);
    assert_eq!(answered, 396);
    let named = |sample: &Sample| sample.labels.values().any(|value| value.contains("example"));
    assert!(!scrape.0.iter().any(named), "a name without names");
}

#[test]
fn names_are_labels_and_name_the_peers_of_connections_where_the_config_asks_for_both() {
    let daemon = start(&[
        "receivers.generator.dns_names=10",
        "processors.names.sources=[dns]",
        "service.pipelines.metrics.processors=[direction, policy, names, window]",
        "processors.window.families.network_dns_queries.labels=[qname, rcode]",
        "processors.window.families.network_tcp_flow_egress.labels=[raddr, direction, peer_name, peer_name_source]",
    ]);
    let queries = "primus_lens_network_dns_queries";
    let bytes = "primus_lens_network_tcp_flow_egress";
    let scrape = daemon.scrape_until("all transactions", |seen| seen.sum(queries, &[]) == 400);
    assert_eq!(scrape.sum(queries, &[("qname", "host3.example.com")]), 40);
    // Connections have the name as long as they live, so the last interval is named.
    let named = scrape
        .select(bytes, &[("peer_name_source", "dns"), ("direction", "outbound")])
        .count();
    assert_eq!(named, 10);
    let of_host = [("peer_name", "host3.example.com"), ("raddr", "198.18.0.3")];
    assert!(scrape.sum(bytes, &of_host) > 0);
    let mut nameless = scrape.select(bytes, &[("raddr", "198.18.0.20")]);
    assert!(nameless.all(|sample| !sample.labels.contains_key("peer_name")));
}

// The tests from here on measure real messages, by programs of the root cgroup: they load wherever flowtap runs as root.

const QUERIES: &str = "primus_lens_network_dns_queries";

/// For a test that finds its own series by its namespace.
const REAL: [&str; 8] = [
    "receivers.ebpf.udp.hooks=cgroup",
    "receivers.ebpf.dns.timeout=1s",
    "processors.window.families.network_dns_queries.labels=[flow, qtype, rcode, netns]",
    "processors.window.families.network_dns_duration.labels=[flow, netns]",
    "processors.window.families.network_dns_retries.labels=[flow, netns]",
    "processors.window.families.network_dns_truncated.labels=[flow, netns]",
    "processors.window.families.network_dns_search_misses.labels=[netns]",
    "receivers.ebpf.dns.max_pending=65536",
];

/// A query of 33 bytes for `www.example.com`, type A.
fn query(id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"\x03www\x07example\x03com\0\0\x01\0\x01");
    bytes
}

/// Runs a client of the resolver; returns what it printed. It may fail, as a lookup of a name that does not exist does.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the client");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn dig(arguments: &[&str]) -> String {
    run(Command::new("dig")
        .args(["+tries=1", "+time=5", "+nocookie"])
        .args(arguments))
}

/// `getent`, with a separate `resolv.conf`.
fn getent(resolv_conf: &Path, arguments: &[&str]) -> String {
    let script = "mount --make-rprivate / && mount --bind \"$0\" /etc/resolv.conf && exec getent \"$@\"";
    run(Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(resolv_conf)
        .args(arguments))
}

#[test]
fn counts_equal_the_query_log_of_a_name_server_by_type_and_outcome_at_both_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&REAL);
    let directory = tempfile::tempdir().unwrap();
    let resolv_conf = directory.path().join("resolv.conf");
    fs::write(
        &resolv_conf,
        "nameserver 127.0.0.1\nsearch ns.svc.test svc.test test\noptions ndots:5\n",
    )
    .unwrap();
    let long = "x".repeat(200);
    let text = format!("--txt-record=big.test,{long},{long},{long}");
    let (netns, logged, misses) = netns::within_new(|| {
        let server = Dnsmasq::start(&[
            "--local=/test/",
            "--host-record=www.test,192.0.2.7,2001:db8::7",
            &text,
            "--edns-packet-max=1232",
        ]);
        for _ in 0..20 {
            assert!(dig(&["@127.0.0.1", "www.test", "A"]).contains("192.0.2.7"));
            assert!(dig(&["@::1", "www.test", "AAAA"]).contains("2001:db8::7"));
            assert!(dig(&["@127.0.0.1", "nowhere.test", "A"]).contains("NXDOMAIN"));
            assert!(dig(&["@127.0.0.1", "www.elsewhere", "A"]).contains("REFUSED"));
            let answer = dig(&["@127.0.0.1", "+bufsize=1232", "+ignore", "big.test", "TXT"]);
            assert!(answer.contains(&long), "{answer}");
        }
        // By glibc: A and AAAA from one socket, for three names of the search list that do not exist and one that does.
        let mut misses = 0;
        for _ in 0..5 {
            assert!(getent(&resolv_conf, &["ahosts", "www.test"]).contains("192.0.2.7"));
            misses += 2 * 3;
        }
        (netns::label(), server.stop(), misses)
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let seen = &window.totals;
    let total: u64 = logged.values().sum();
    assert_eq!(total, 20 * 5 + 5 * 8, "{logged:?}");
    for flow in ["egress", "ingress"] {
        let of = |labels: &[(&str, &str)]| {
            let labels = [&[("flow", flow), ("netns", netns.as_str())], labels].concat();
            seen.sum(QUERIES, &labels)
        };
        assert_eq!(of(&[]), total, "{flow}");
        for (qtype, count) in &logged {
            assert_eq!(of(&[("qtype", qtype)]), *count, "{flow} {qtype}");
        }
        assert_eq!(of(&[("rcode", "NXDOMAIN")]), 20 + misses, "{flow}");
        assert_eq!(of(&[("rcode", "REFUSED")]), 20, "{flow}");
        assert_eq!(of(&[("rcode", "timeout")]), 0, "{flow}");
    }
    let of_netns = [("netns", netns.as_str())];
    assert_eq!(
        seen.sum("primus_lens_network_dns_search_misses", &of_netns),
        misses
    );
    assert_eq!(seen.sum("primus_lens_network_dns_retries", &of_netns), 0);
    // The log is what it was asked to leave out: no name is in it.
    assert!(!window.log.contains("www.test"), "{}", window.log);
}

/// Sends a query once more for as long as no answer comes, from the same socket, as resolvers do.
fn ask(server: &str, id: u16, tries: u32) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    (0..tries).any(|_| {
        socket.send(&query(id)).unwrap();
        socket.recv(&mut [0; 512]).is_ok()
    })
}

#[test]
fn failures_delay_loss_and_truncation_are_seen_as_they_happened() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&REAL);
    let plain = Behaviour {
        rcode: 0,
        truncated: false,
        delay: Duration::ZERO,
        ignored: 0,
    };
    let (netns, received) = netns::within_new(|| {
        let fails = Responder::start("127.0.0.2:53", Behaviour { rcode: 2, ..plain });
        let slow = Responder::start(
            "127.0.0.3:53",
            Behaviour {
                delay: Duration::from_millis(50),
                ..plain
            },
        );
        let loses = Responder::start("127.0.0.4:53", Behaviour { ignored: 2, ..plain });
        let truncates = Responder::start(
            "127.0.0.5:53",
            Behaviour {
                truncated: true,
                ..plain
            },
        );
        let silent = Responder::start(
            "127.0.0.6:53",
            Behaviour {
                ignored: u64::MAX,
                ..plain
            },
        );
        for id in 0..10 {
            assert!(ask("127.0.0.2:53", id, 1));
            assert!(ask("127.0.0.3:53", id, 1));
            assert!(ask("127.0.0.5:53", id, 1));
        }
        assert!(ask("127.0.0.4:53", 1, 3), "answered at the third attempt");
        assert!(!ask("127.0.0.6:53", 1, 2));
        let all = [fails, slow, loses, truncates, silent].map(Responder::stop);
        (netns::label(), all.iter().sum::<u64>())
    });
    assert_eq!(received, 10 + 10 + 3 + 10 + 2);
    let of_netns = [("netns", netns.as_str())];
    // The last to end: every other transaction is in the same window or an earlier one.
    let seen = daemon.scrape_until("the time-outs", |seen| {
        seen.sum(QUERIES, &[("rcode", "timeout"), ("netns", &netns)]) == 2
    });
    for flow in ["egress", "ingress"] {
        let labels = [("flow", flow), ("netns", netns.as_str())];
        let of = |rcode| {
            seen.sum(
                QUERIES,
                &[("rcode", rcode), ("flow", flow), ("netns", netns.as_str())],
            )
        };
        assert_eq!(
            (of("SERVFAIL"), of("NOERROR"), of("timeout")),
            (10, 21, 1),
            "{flow}"
        );
        let retries = seen.sum("primus_lens_network_dns_retries", &labels);
        assert_eq!(retries, 2 + 1, "{flow}");
        // Queries and retries are the datagrams that the servers received.
        assert_eq!(seen.sum(QUERIES, &labels) + retries, received, "{flow}");
        assert_eq!(
            seen.sum("primus_lens_network_dns_truncated", &labels),
            10,
            "{flow}"
        );
        let count = |le: &str| {
            seen.sum(
                "primus_lens_network_dns_duration_bucket",
                &[("le", le), ("flow", flow), ("netns", netns.as_str())],
            )
        };
        // Ten are slow, and one was answered at the third attempt.
        assert!(
            count("+Inf") - count("0.05") >= 11,
            "{flow}: {} {}",
            count("+Inf"),
            count("0.05")
        );
        assert_eq!(count("+Inf"), 31, "{flow}");
    }
    assert_eq!(seen.sum("primus_lens_network_dns_search_misses", &of_netns), 0);
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn a_transaction_takes_as_long_as_its_server_says_and_no_longer_than_its_client_waits() {
    const COUNT: u16 = 50;
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&REAL);
    let (netns, server, client) = netns::within_new(|| {
        let slow = Responder::start(
            "127.0.0.1:53",
            Behaviour {
                rcode: 0,
                truncated: false,
                delay: Duration::from_millis(5),
                ignored: 0,
            },
        );
        let began = Instant::now();
        for id in 0..COUNT {
            assert!(ask_patiently("127.0.0.1:53", id));
        }
        let client = began.elapsed();
        (netns::label(), slow.busy(), client)
    });
    let count = |seen: &Exposition, flow| {
        let labels = [("flow", flow), ("netns", netns.as_str())];
        seen.sum("primus_lens_network_dns_duration_count", &labels)
    };
    let all = u64::from(COUNT);
    let seen = daemon.scrape_until("all transactions", |seen| {
        count(seen, "egress") == all && count(seen, "ingress") == all
    });
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    // Microseconds are rounded down.
    let bounds = server.as_secs_f64() - f64::from(COUNT) * 1e-6..=client.as_secs_f64();
    for flow in ["egress", "ingress"] {
        let labels = [("flow", flow), ("netns", netns.as_str())];
        let mut sums = seen.select("primus_lens_network_dns_duration_sum", &labels);
        let sum: f64 = sums.next().expect("a histogram").value;
        assert!(bounds.contains(&sum), "{flow}: {sum} s, not {bounds:?}");
    }
}

/// Asks once, and waits for the answer.
fn ask_patiently(server: &str, id: u16) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    socket.send(&query(id)).unwrap();
    socket.recv(&mut [0; 512]).is_ok()
}

/// Asks at most so many times a second, and less often if the machine is slower.
fn ask_at_rate(server: &UdpSocket, client: &UdpSocket, count: u16, rate: u32) {
    let (began, mut buffer) = (Instant::now(), [0; 512]);
    for id in 0..count {
        let due = began + Duration::from_secs(1) * u32::from(id) / rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        client.send(&query(id)).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        buffer[2] |= 0x80;
        server.send_to(&buffer[..length], from).unwrap();
        client.recv(&mut buffer).unwrap();
    }
}

#[test]
fn ten_thousand_queries_a_second_with_a_ring_of_64_kib_are_in_the_outcomes_or_counted_as_lost() {
    const COUNT: u16 = 30_000;
    let Some(_machine) = require::root() else {
        return;
    };
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    // A port that nobody else on this machine asks.
    let ports = format!("receivers.ebpf.dns.ports=[{}]", at.port());
    let small = ["receivers.ebpf.dns.ring_buffer_bytes=65536", ports.as_str()];
    let daemon = Daemon::start(&[&REAL[..], &small].concat());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(at).unwrap();
    ask_at_rate(&server, &client, COUNT, 10_000);
    let lost = |own: &Exposition| {
        own.sum(
            "flowtap_receiver_refused_records_total",
            &[("reason", "dns_ring_full")],
        )
    };
    // Each message passes two sockets; a transaction that was answered is two messages.
    let messages = 4 * u64::from(COUNT);
    let outcomes = |seen: &Exposition| {
        let timed_out = seen.sum(QUERIES, &[("rcode", "timeout")]);
        2 * (seen.sum(QUERIES, &[]) - timed_out) + timed_out
    };
    // Windows close after the counts of losses, so those are complete once the outcomes are.
    let accounted =
        |own: &Exposition| lost(own) + own.sum("flowtap_receiver_dns_rejected_messages_total", &[]);
    let all = |seen: &Exposition| outcomes(seen) + accounted(&daemon.telemetry()) >= messages;
    let seen = daemon.scrape_until("each message in an outcome or a loss", all);
    let own = daemon.telemetry();
    eprintln!("{} of {messages} messages lost", lost(&own));
    assert_eq!(outcomes(&seen) + accounted(&own), messages);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(outcomes(&window.totals) + accounted(&own), messages);
}

#[test]
fn messages_that_a_small_ring_has_no_room_for_are_counted_to_the_last_one() {
    const COUNT: u16 = 10_000;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let daemon = Daemon::start(&[&REAL[..], &["receivers.ebpf.dns.ring_buffer_bytes=65536"]].concat());
    // The daemon reads nothing meanwhile.
    let netns = daemon.while_paused(|| {
        netns::within_new(|| {
            let server = UdpSocket::bind("127.0.0.1:53").unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect("127.0.0.1:53").unwrap();
            let mut buffer = [0; 512];
            for id in 0..COUNT {
                client.send(&query(id)).unwrap();
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                buffer[2] |= 0x80;
                server.send_to(&buffer[..length], from).unwrap();
                client.recv(&mut buffer).unwrap();
            }
            netns::label()
        })
    });
    let lost = |own: &Exposition| {
        own.sum(
            "flowtap_receiver_refused_records_total",
            &[("reason", "dns_ring_full")],
        )
    };
    daemon.telemetry_until("the losses", |own| lost(own) > 0);
    // Until queries whose answers were lost have timed out.
    let own = daemon.telemetry_until("the end of every query", |own| {
        own.sum("flowtap_receiver_dns_pending_queries", &[]) == 0
    });
    let rejected = own.sum("flowtap_receiver_dns_rejected_messages_total", &[]);
    let lost = lost(&own);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let of = |labels: &[(&str, &str)]| {
        let labels = [&[("netns", netns.as_str())], labels].concat();
        window.totals.sum(QUERIES, &labels)
    };
    let timed_out = of(&[("rcode", "timeout")]);
    let answered = of(&[]) - timed_out;
    // Each message passes two sockets; a transaction that was answered is two messages.
    let messages = 4 * u64::from(COUNT);
    assert_eq!(2 * answered + timed_out + rejected + lost, messages);
    assert!(lost > messages / 2, "{lost} lost of {messages}");
}

#[test]
fn a_connection_of_a_few_milliseconds_has_the_name_whose_answer_opened_it() {
    const BYTES: usize = 12_345;
    let Some(_machine) = require::root() else {
        return;
    };
    let named = [
        "receivers.ebpf.dns.names=full",
        "processors.names.sources=[dns]",
        "service.pipelines.metrics.processors=[direction, policy, names, window]",
        "processors.window.families.network_tcp_flow_egress.labels=[raddr, direction, peer_name, peer_name_source, netns]",
    ];
    let logs = [
        "processors.connections={interval: 200ms, active_timeout: 1s}",
        "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, names, connections], exporters: [file]}",
    ];
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::launch(Launch {
        exporters: &format!("  file: {{path: \"{}\"}}\n", dir.path().display()),
        set: &[&REAL[..], &named, &logs].concat(),
        ..Launch::default()
    });
    // Records are counted by peer from the first interval after a request on.
    ask_until("a verdict", || {
        let verdicts: Value = serde_json::from_str(&get(daemon.admin_address(), "/verdicts")).ok()?;
        (verdicts["seconds"].as_f64()? > 0.0).then_some(())
    });
    let netns = netns::within_new(|| {
        let server = Dnsmasq::start(&["--local=/test/", "--host-record=db.test,127.0.0.9"]);
        for address in ["127.0.0.9", "127.0.0.10"] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            if address == "127.0.0.9" {
                assert!(dig(&["@127.0.0.1", "db.test", "A"]).contains(address));
            }
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(&[7; BYTES]).unwrap();
            drop(client);
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), BYTES);
        }
        server.stop();
        netns::label()
    });
    ask_until("the name and its source in the live view", || {
        let flows: Value = serde_json::from_str(&get(daemon.admin_address(), "/flows?limit=10000")).ok()?;
        let mut flows = flows["flows"].as_array()?.iter();
        let flow = flows.find(|flow| {
            flow["labels"]["netns"] == *netns
                && flow["labels"]["raddr"] == "127.0.0.9"
                && !flow["recent"].is_null()
        })?;
        let recent = &flow["recent"];
        (recent["peer_name"] == "db.test" && recent["peer_name_source"] == "dns").then_some(())
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let records = records(dir.path());
    let clients = |address: &str| {
        let of_netns = records.iter().filter(|record| {
            is_in(record, &netns)
                && record["network_transport"] == "tcp"
                && record["role"] == "client"
                && record["destination_address"] == address
        });
        of_netns
            .map(|record| (record["peer_name"].clone(), record["peer_name_source"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(clients("127.0.0.9"), [("db.test".into(), "dns".into())]);
    assert_eq!(clients("127.0.0.10"), [(Value::Null, Value::Null)]);
    let of = |labels: &[(&str, &str)]| {
        let labels = [&[("direction", "outbound"), ("netns", netns.as_str())], labels].concat();
        window.totals.sum("primus_lens_network_tcp_flow_egress", &labels)
    };
    let name = [
        ("peer_name", "db.test"),
        ("peer_name_source", "dns"),
        ("raddr", "127.0.0.9"),
    ];
    assert_eq!(of(&name), BYTES as u64);
    assert_eq!(of(&[("raddr", "127.0.0.9")]), BYTES as u64, "all of it is named");
    assert_eq!(of(&[("raddr", "127.0.0.10")]), BYTES as u64);
    assert_eq!(of(&[("peer_name", "db.test")]), BYTES as u64, "nothing else is");
}
