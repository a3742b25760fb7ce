//! The option `inspect`: protocols of real programs at both ends of each connection, names of TLS servers, exchanges against the
//! applications' own counts and clocks, and the budget. Alone where first bytes are compared: those of the whole machine share a
//! buffer, and a test run starves its reader.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
    sockopt,
};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT};
use crate::exposition::Exposition;
use crate::flow_logs::{is_in, launch_with, records};
use crate::peers::ask_until;
use crate::recordings::Recorder;
use crate::shielded::{Watch, again_if_segments_hidden};
use crate::{netns, require};

const CONNECTIONS: &str = "primus_lens_network_tcp_connections";
const EXCHANGES: &str = "primus_lens_network_tcp_exchanges";
const DURATION_SUM: &str = "primus_lens_network_tcp_exchange_duration_sum";

/// All of it, for as long as it takes.
const ALL: [&str; 7] = [
    "receivers.ebpf.inspect.protocols=true",
    "receivers.ebpf.inspect.server_names=full",
    "receivers.ebpf.inspect.exchanges=true",
    "receivers.ebpf.inspect.budget=100%",
    "processors.window.families.network_tcp_connections.labels=[flow, event, netns, protocol, server_name]",
    "processors.window.families.network_tcp_exchanges.labels=[flow, server_port, netns, protocol]",
    "processors.window.families.network_tcp_exchange_duration.labels=[flow, server_port, netns]",
];

/// Connections of each kind.
const EACH: u64 = 5;

const BOTH_ENDS: [&str; 2] = ["egress", "ingress"];

/// A server. Killed when dropped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it; waits until it accepts at `port` of this thread's namespace.
    fn start(command: &mut Command, port: u16) -> Self {
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let server = Self(process.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{command:?} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// nginx with HTTP/1.1 at 8080, and at 8082 with `TCP_DEFER_ACCEPT`, HTTP/2 at 8081 and TLS at 8443,
/// there with a slow part, which a backend at 9000 answers. Its log has a line per request.
pub(crate) fn nginx(dir: &Path) -> Server {
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args([
            "-nodes", "-subj", "/CN=test", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem",
        ])
        .current_dir(dir));
    let at = dir.display();
    let config = format!(
        "daemon off; user root; worker_processes 1; pid {at}/pid; error_log stderr;
         events {{}}
         http {{
           access_log {at}/access.log; keepalive_requests 1000000;
           server {{ listen 127.0.0.1:8080; return 200 ok; }}
           server {{ listen 127.0.0.1:8081 http2; return 200 ok; }}
           server {{ listen 127.0.0.1:8082 deferred; return 200 ok; }}
           server {{ listen 127.0.0.1:8443 ssl http2; ssl_protocols TLSv1.2 TLSv1.3;
                     location / {{ return 200 ok; }}
                     location /slow/ {{ proxy_pass http://127.0.0.1:9000; }}
                     ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem; }}
         }}"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    Server::start(
        Command::new("nginx")
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(dir.join("nginx.conf")),
        8443,
    )
}

pub(crate) fn curl(arguments: &[&str]) {
    run(Command::new("curl")
        .args(["-sSfk", "--noproxy", "*"])
        .args(["--resolve", "api.example.test:8443:127.0.0.1"])
        .args(arguments));
}

/// PostgreSQL at 5432, which does not run as root.
fn postgresql(dir: &Path) -> Option<Server> {
    let bin = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .map(|version| version.path().join("bin"))
        .find(|bin| bin.join("initdb").exists())?;
    let data = dir.join("data");
    nix::unistd::chown(dir, Some(65_534.into()), Some(65_534.into())).unwrap();
    let as_nobody = |program: &str| {
        let mut command = Command::new(bin.join(program));
        command.uid(65_534).gid(65_534).current_dir(dir);
        command
    };
    run(as_nobody("initdb")
        .args(["-U", "test", "--auth=trust", "--no-sync", "-D"])
        .arg(&data));
    Some(Server::start(
        as_nobody("postgres")
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            // Its own count: a line per connection that it lets in, and per statement.
            .args(["-c", "log_statement=all", "-c", "log_connections=on"])
            .args(["-c", "logging_collector=on", "-c", "log_filename=log"])
            .args(["-c", &format!("log_directory={}", dir.display()), "-k"])
            .arg(dir)
            .arg("-D")
            .arg(&data),
        5432,
    ))
}

/// Requests that the servers have answered, by their own counts.
#[derive(Debug)]
struct OwnCounts {
    http: u64,
    http2: u64,
    redis: u64,
    postgresql: Option<u64>,
}

/// Commands that Redis has processed, with the one that asks for the number.
fn commands_of_redis() -> u64 {
    let output = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "info", "stats"])
        .output()
        .expect("redis-cli");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().map(str::trim);
    let before = lines.find_map(|line| line.strip_prefix("total_commands_processed:"));
    before
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or_else(|| panic!("{text}"))
        + 1
}

/// Requests over one connection of HTTP/2 without TLS, each after the answer to the one before. The server's settings are acknowledged with
/// the next request, so that nothing else is sent.
fn requests_of_h2c(count: u32) {
    const SETTINGS: u8 = 4;
    const ACK: u8 = 1;
    const END_STREAM: u8 = 1;
    const HEADERS: u8 = 1;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let mut connection = TcpStream::connect("127.0.0.1:8081").unwrap();
    connection.set_nodelay(true).unwrap();
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(SETTINGS, 0, 0, &[]));
    // GET, http, the path and the authority, as RFC 7541 encodes them.
    let request = b"\x82\x86\x04\x05/h2c/\x01\x04test";
    for number in 0..count {
        let stream = 2 * number + 1;
        out.extend(frame(HEADERS, END_STREAM | 4, stream, request));
        connection.write_all(&out).unwrap();
        out.clear();
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).unwrap();
            let [_, a, b, kind, flags, ..] = head;
            let mut payload = vec![0; usize::from(a) << 8 | usize::from(b)];
            connection.read_exact(&mut payload).unwrap();
            if kind == SETTINGS && flags & ACK == 0 {
                out.extend(frame(SETTINGS, ACK, 0, &[]));
            }
            if kind <= HEADERS && flags & END_STREAM != 0 && head[5..] == stream.to_be_bytes() {
                break;
            }
        }
    }
}

/// Messages that PostgreSQL has answered: that a client wants to connect, and statements. It writes its log a little later: waits until
/// there are as many as were sent.
fn messages_of_postgresql(dir: &Path, sent: u64) -> u64 {
    let counts = |line: &&str| line.contains("connection authorized: ") || line.contains("LOG:  statement: ");
    ask_until("PostgreSQL's log", || {
        let log = fs::read_to_string(dir.join("log")).ok()?;
        let count = log.lines().filter(counts).count() as u64;
        (count >= sent).then_some(count)
    })
}

/// Connections that closed, of a protocol, at an end.
fn closed(seen: &Exposition, netns: &str, flow: &str, protocol: &str) -> u64 {
    let labels = [
        ("netns", netns),
        ("flow", flow),
        ("protocol", protocol),
        ("event", "closed"),
    ];
    seen.sum(CONNECTIONS, &labels)
}

/// Requests of programs to servers in a separate namespace. Returns its label, and the servers' counts.
fn requests_of_programs() -> (String, OwnCounts) {
    let (dir, pgdir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    netns::within_new(|| {
        let servers = (
            nginx(dir.path()),
            Server::start(
                Command::new("redis-server")
                    .args(["--port", "6379", "--bind", "127.0.0.1", "--save", ""])
                    .current_dir(dir.path()),
                6379,
            ),
            postgresql(pgdir.path()),
        );
        for _ in 0..EACH {
            curl(&[
                "--http1.1",
                "-H",
                "Connection: close",
                "http://127.0.0.1:8080/closed",
            ]);
            curl(&["--http1.1", "http://127.0.0.1:8080/[1-20]"]);
            curl(&["--http2-prior-knowledge", "http://127.0.0.1:8081/h2c/"]);
            requests_of_h2c(20);
            curl(&["--http2", "https://api.example.test:8443/"]);
            run(Command::new("redis-cli").args(["-h", "127.0.0.1", "-r", "20", "ping"]));
            if servers.2.is_some() {
                run(Command::new("psql")
                    .args(["-h", "127.0.0.1", "-U", "test"])
                    .args(["-c", "select 1", "-c", "select 2", "-c", "select 3", "postgres"])
                    // Without a question for encryption before the first message.
                    .envs([("PGSSLMODE", "disable"), ("PGGSSENCMODE", "disable")])
                    .current_dir("/"));
            }
        }
        let log = fs::read_to_string(dir.path().join("access.log")).unwrap();
        let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count() as u64;
        let counts = OwnCounts {
            http: lines("HTTP/1.1\""),
            http2: lines("/h2c/"),
            redis: commands_of_redis(),
            postgresql: servers
                .2
                .is_some()
                .then(|| messages_of_postgresql(pgdir.path(), 4 * EACH)),
        };
        assert_eq!(
            (counts.http, counts.http2, counts.redis),
            (21 * EACH, 21 * EACH, 20 * EACH + 1)
        );
        assert!(
            counts.postgresql.is_none_or(|count| count == 4 * EACH),
            "{counts:?}"
        );
        (netns::label(), counts)
    })
}

/// Counts that differ from those of the programs.
fn wrong_of_programs(seen: &Exposition, (netns, counts): &(String, OwnCounts)) -> Vec<String> {
    let mut expected = vec![
        ("http", 2 * EACH),
        ("http2", 2 * EACH),
        ("tls", EACH),
        // One more asks for the count.
        ("redis", EACH + 1),
    ];
    if counts.postgresql.is_some() {
        expected.push(("postgresql", EACH));
    }
    let mut wrong = Vec::new();
    for flow in BOTH_ENDS {
        for (protocol, count) in &expected {
            let found = closed(seen, netns, flow, protocol);
            if found != *count {
                wrong.push(format!("{flow} {protocol}: {found} of {count}"));
            }
        }
        let named = [
            ("netns", &**netns),
            ("flow", flow),
            ("event", "closed"),
            ("server_name", "api.example.test"),
        ];
        let found = seen.sum(CONNECTIONS, &named);
        if found != EACH {
            wrong.push(format!("{flow} named: {found} of {EACH}"));
        }
        // The settings that each end of curl's connections acknowledges may count as well.
        for (port, count, more) in [
            ("8080", Some(counts.http), 0),
            ("8081", Some(counts.http2), 2 * EACH),
            ("6379", Some(counts.redis), 0),
            ("5432", counts.postgresql, 0),
        ] {
            let Some(count) = count else { continue };
            let found = seen.sum(
                EXCHANGES,
                &[("netns", &**netns), ("flow", flow), ("server_port", port)],
            );
            if !(count..=count + more).contains(&found) {
                wrong.push(format!("{flow} exchanges at {port}: {found} of {count}"));
            }
        }
    }
    wrong
}

#[test]
fn every_connection_of_real_programs_has_its_protocol_at_both_ends() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !["nginx", "redis-server", "curl"]
        .map(require::program)
        .into_iter()
        .all(|found| found)
    {
        return;
    }
    let logs = tempfile::tempdir().unwrap();
    let daemon = launch_with(logs.path(), &ALL);
    let (netns, counts) = until_right(&daemon, requests_of_programs, wrong_of_programs);
    if counts.postgresql.is_none() {
        require::skip("PostgreSQL is not installed (make setup-test)");
    }
    // The protocols that curl offers for HTTP/2, at both ends.
    ask_until("the records of TLS", || {
        let records = records(logs.path());
        let named = records.iter().filter(|record| {
            is_in(record, &netns)
                && record["server_name"] == "api.example.test"
                && record["outcome"] == "closed"
        });
        let offered: Vec<_> = named.map(|record| record["alpn"].clone()).collect();
        assert!(offered.iter().all(|alpn| alpn == "h2,http/1.1"), "{offered:?}");
        (offered.len() as u64 == 2 * EACH).then_some(())
    });
    let seen = daemon.scrape();
    for flow in BOTH_ENDS {
        assert_eq!(closed(&seen, &netns, flow, "unknown"), 0, "{flow}");
    }
}

/// Data that the daemon has counted as lost, on a machine that is too busy for it: the counters cover the whole machine.
fn lost(daemon: &Daemon) -> u64 {
    let own = daemon.telemetry();
    let buffer = [("reason", "first_bytes_buffer_full")];
    let early = [("reason", "settled_early")];
    let ring = [("reason", "ring_full")];
    own.sum("flowtap_receiver_inspect_lost_total", &buffer)
        + own.sum("flowtap_receiver_inspect_lost_total", &early)
        + own.sum("flowtap_receiver_refused_records_total", &ring)
}

/// Events that `inspect` has counted as lost, by reason.
fn inspect_lost(daemon: &Daemon) -> Vec<(String, f64)> {
    let own = daemon.telemetry();
    let counts = own.select("flowtap_receiver_inspect_lost_total", &[]);
    counts
        .filter(|sample| sample.value > 0.0)
        .map(|sample| (sample.labels["reason"].clone(), sample.value))
        .collect()
}

/// Makes traffic until a round of it has nothing wrong. Only a round may have in which the daemon counted losses, or in which the machine
/// has hidden a segment from every program.
fn until_right<T>(
    daemon: &Daemon,
    traffic: impl Fn() -> T,
    wrong: impl Fn(&Exposition, &T) -> Vec<String>,
) -> T {
    for _ in 0..20 {
        let before = lost(daemon);
        let watch = Watch::start_hidden_segments();
        let made = traffic();
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let found = wrong(&daemon.scrape(), &made);
            if found.is_empty() {
                return made;
            }
            if lost(daemon) > before {
                eprintln!("another round: data was lost, and {found:?}");
                break;
            }
            let hidden = watch.as_ref().map_or(0, Watch::hidden);
            if hidden > 0 {
                eprintln!("another round: {hidden} events were hidden from eBPF programs, and {found:?}");
                break;
            }
            assert!(
                Instant::now() < deadline,
                "nothing was lost, and {found:?}; the daemon's own counts: {:?}",
                inspect_lost(daemon)
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
    panic!("no round without losses");
}

/// Connects, and passes each part on its own: the next one is sent when the server has read it and answered with a byte. Returns the
/// server's port.
pub(crate) fn converse(parts: &[&[u8]]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut server, _) = listener.accept().unwrap();
            for part in parts {
                server.read_exact(&mut vec![0; part.len()]).unwrap();
                server.write_all(b".").unwrap();
            }
            // The client closes first.
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        });
        let mut client = TcpStream::connect(address).unwrap();
        client.set_nodelay(true).unwrap();
        for part in parts {
            client.write_all(part).unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    });
    address.port()
}

/// The first message of a TLS client, with a key share of post-quantum size before its name.
pub(crate) fn client_hello(name: &[u8]) -> Vec<u8> {
    let short = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let name = [&[0][..], &short(name)].concat();
    let extensions = [
        &[0, 51][..],
        &short(&[5; 1700]),
        &[0, 16],
        &short(&short(b"\x02h2\x08http/1.1")),
        &[0, 0],
        &short(&short(&name)),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &short(&[0x13, 1]),
        &[1, 0],
        &short(&extensions),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &short(&message)].concat()
}

#[test]
fn names_are_found_in_large_and_divided_messages_and_hostile_ones_are_no_labels() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let daemon = Daemon::start(&ALL);
    let grpc_begins = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let grpc_headers =
        b"\x00\x00\x0f\x01\x04\x00\x00\x00\x01\x83\x86\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64";
    let traffic = || {
        netns::within_new(|| {
            for _ in 0..EACH {
                let large = client_hello(b"large.example.test");
                assert!(large.len() > 1_700, "{}", large.len());
                converse(&[&large]);
                let divided = client_hello(b"divided.example.test");
                let (first, second) = divided.split_at(1_400);
                converse(&[first, second]);
                converse(&[&client_hello(b"evil\"} 1\n")]);
                converse(&[&client_hello(b"192.0.2.7")]);
                converse(&[grpc_begins, grpc_headers]);
                converse(&[b"nothing that anybody speaks"]);
            }
            netns::label()
        })
    };
    until_right(&daemon, traffic, |seen, netns| {
        let mut wrong = Vec::new();
        for flow in BOTH_ENDS {
            for (name, count) in [
                ("large.example.test", EACH),
                ("divided.example.test", EACH),
                ("invalid", 2 * EACH),
            ] {
                let labels = [
                    ("netns", &**netns),
                    ("flow", flow),
                    ("event", "closed"),
                    ("protocol", "tls"),
                    ("server_name", name),
                ];
                let found = seen.sum(CONNECTIONS, &labels);
                if found != count {
                    wrong.push(format!("{flow} {name}: {found} of {count}"));
                }
            }
            for protocol in ["grpc", "unknown"] {
                let found = closed(seen, netns, flow, protocol);
                if found != EACH {
                    wrong.push(format!("{flow} {protocol}: {found} of {EACH}"));
                }
            }
        }
        wrong
    });
    let text = format!("{:?}", daemon.scrape());
    assert!(!text.contains("evil") && !text.contains("192.0.2.7"), "{text}");
    let own = daemon.telemetry_until("invalid names", |own| {
        own.sum(
            "flowtap_receiver_inspect_lost_total",
            &[("reason", "invalid_name")],
        ) >= 4 * EACH
    });
    // Of the other reasons, other tests at work may be the cause.
    let malformed = [("reason", "malformed_record")];
    assert_eq!(own.sum("flowtap_receiver_inspect_lost_total", &malformed), 0);
}

#[test]
fn no_payload_leaves_the_receiver_with_all_of_inspect_on() {
    const MARKER: &str = "xq7marker7qx";
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (logs, recording) = (dir.path().join("logs"), dir.path().join("recording"));
    let daemon = Daemon::launch(Launch {
        exporters: &format!("  file: {{path: \"{}\"}}\n", logs.display()),
        set: &[
            &ALL[..],
            &[
                "processors.connections={interval: 200ms}",
                "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, connections], exporters: [file]}",
            ],
        ]
        .concat(),
        environment: &[("FLOWTAP_LOG", "trace")],
        ..Launch::default()
    });
    let of_recorder: Vec<_> = ALL
        .into_iter()
        .filter(|set| set.starts_with("receivers."))
        .collect();
    let recorder = Recorder::with(&recording, &of_recorder);
    // In a path, a header and a body; in a key, a user's name, and bytes of no protocol; in a name that no host can have, in
    // protocols that a client of TLS offers, and in random bytes and a key share.
    let http =
        format!("POST /{MARKER} HTTP/1.1\r\nHost: {MARKER}.test\r\nContent-Length: 12\r\n\r\n{MARKER}");
    let redis = format!("*2\r\n$3\r\nGET\r\n${}\r\n{MARKER}\r\n", MARKER.len());
    let unknown = format!("{MARKER} that nobody speaks");
    let replace = |bytes: Vec<u8>, filler: u8| {
        let run = [filler; MARKER.len()];
        let at = bytes.windows(run.len()).position(|window| window == run).unwrap();
        [&bytes[..at], MARKER.as_bytes(), &bytes[at + run.len()..]].concat()
    };
    // The random bytes are 7, the key share 5.
    let of_tls = replace(replace(client_hello(b"right.example.test"), 7), 5);
    let offered = client_hello(b"right.example.test");
    let at = offered
        .windows(9)
        .position(|window| window == b"\x08http/1.1")
        .unwrap();
    let offered = [&offered[..=at], &MARKER.as_bytes()[..8], &offered[at + 9..]].concat();
    let hostile = client_hello(format!("{MARKER} \"}} 1").as_bytes());
    let messages: [&[u8]; 6] = [
        http.as_bytes(),
        redis.as_bytes(),
        unknown.as_bytes(),
        &of_tls,
        &offered,
        &hostile,
    ];
    let traffic = || {
        netns::within_new(|| {
            for message in messages {
                converse(&[message]);
            }
            netns::label()
        })
    };
    let netns = until_right(&daemon, traffic, |seen, netns| {
        let mut wrong = Vec::new();
        for flow in BOTH_ENDS {
            for (protocol, count) in [("http", 1), ("redis", 1), ("unknown", 1), ("tls", 3)] {
                let found = closed(seen, netns, flow, protocol);
                if found != count {
                    wrong.push(format!("{flow} {protocol}: {found} of {count}"));
                }
            }
        }
        wrong
    });
    ask_until("the records of each connection", || {
        let ended = |record: &serde_json::Value| is_in(record, &netns) && record["outcome"] == "closed";
        let ended = records(&logs).iter().filter(|record| ended(record)).count();
        (ended == 2 * messages.len()).then_some(())
    });
    recorder.stop();
    let scrape = format!("{:?} {:?}", daemon.scrape(), daemon.telemetry());
    let flows = crate::daemon::get(daemon.admin_address(), "/flows?limit=10000");
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let files = fs::read_dir(&logs).unwrap().map(|file| file.unwrap().path());
    let mut places: Vec<(String, Vec<u8>)> = files
        .map(|file| (file.display().to_string(), fs::read(file).unwrap()))
        .collect();
    assert!(!places.is_empty());
    places.extend([
        ("the scrapes".to_owned(), scrape.into_bytes()),
        ("the live view".to_owned(), flows.into_bytes()),
        ("the log".to_owned(), window.log.into_bytes()),
        ("the debug exporter".to_owned(), window.stdout.into_bytes()),
        ("the recording".to_owned(), fs::read(&recording).unwrap()),
    ]);
    // Eight bytes of it stand in the protocols that one client offers.
    let marker = &MARKER.as_bytes()[..8];
    for (place, bytes) in places {
        assert!(!bytes.is_empty(), "{place}");
        let found = bytes.windows(marker.len()).position(|window| window == marker);
        assert_eq!(found, None, "{place}");
    }
}

/// Of the applications' own clocks, in seconds.
struct Times {
    server: f64,
    client: f64,
    /// That the threads of the server and the client were ready to run, and waited for a processor.
    waited: [f64; 2],
}

/// Seconds that this thread has waited for a processor.
fn waited() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    nanoseconds as f64 / 1e9
}

/// Requests and answers over one connection. `prepare` has each end of it; `think`, the server's, comes before each answer.
fn requests(
    count: usize,
    prepare: impl Fn(&TcpStream) + Sync,
    think: impl Fn(&TcpStream) + Sync,
) -> (u16, Times) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut server, _) = listener.accept().unwrap();
            server.set_nodelay(true).unwrap();
            prepare(&server);
            let before = waited();
            let mut sum = Duration::ZERO;
            for _ in 0..count {
                server.read_exact(&mut [0; 100]).unwrap();
                let came = Instant::now();
                think(&server);
                let answered = Instant::now();
                server.write_all(&[1; 300]).unwrap();
                sum += answered - came;
            }
            // The client closes first: what it received is acknowledged.
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            (sum, waited() - before)
        });
        let mut client = TcpStream::connect(address).unwrap();
        client.set_nodelay(true).unwrap();
        prepare(&client);
        let before = waited();
        let mut sum = Duration::ZERO;
        for _ in 0..count {
            let asked = Instant::now();
            client.write_all(&[0; 100]).unwrap();
            client.read_exact(&mut [0; 300]).unwrap();
            sum += asked.elapsed();
        }
        let of_client = waited() - before;
        drop(client);
        let (server, of_server) = server.join().unwrap();
        let times = Times {
            server: server.as_secs_f64(),
            client: sum.as_secs_f64(),
            waited: [of_server, of_client],
        };
        (address.port(), times)
    })
}

/// The times of all exchanges at the client and at the server. Asserts that both counts are right, and that the times are between
/// those of the applications.
fn times_at_both_ends(daemon: &Daemon, netns: &str, port: u16, count: usize, times: &Times) -> (f64, f64) {
    let port = port.to_string();
    let labels = |flow: &'static str| [("netns", netns), ("server_port", &*port), ("flow", flow)];
    let seen = daemon.scrape_until("all exchanges", |seen| {
        BOTH_ENDS
            .iter()
            .all(|flow| seen.sum(EXCHANGES, &labels(flow)) >= count as u64)
    });
    let sum = |flow| {
        seen.select(DURATION_SUM, &labels(flow))
            .map(|sample| sample.value)
            .sum::<f64>()
    };
    let (client, server) = (sum("egress"), sum("ingress"));
    for flow in BOTH_ENDS {
        assert_eq!(seen.sum(EXCHANGES, &labels(flow)), count as u64, "{flow}");
    }
    // Whatever the scheduler does, the kernel sees a request before the server has read it, and an answer after the server has
    // begun to write it; and at the client the other way round. Times are rounded to microseconds.
    let rounding = count as f64 * 1e-6;
    let order = [times.server, server, client, times.client];
    assert!(
        order.windows(2).all(|pair| pair[0] <= pair[1] + rounding),
        "{count} exchanges: server, kernel there, kernel at the client, client: {order:?}"
    );
    (client, server)
}

#[test]
fn exchanges_are_those_of_the_applications_and_their_time_is_between_that_of_both_ends() {
    /// Seconds per exchange that the kernel's clock and an application's may differ by.
    const DIFFERENCE: f64 = 200e-6;
    let Some(_machine) = require::root() else {
        return;
    };
    again_if_segments_hidden(|| {
        let daemon = Daemon::start(&ALL);
        for (count, thought) in [(500, Duration::ZERO), (100, Duration::from_millis(3))] {
            let mut rejected = Vec::new();
            // A machine that takes the processor away from this one gets further rounds.
            loop {
                assert!(rejected.len() < 10, "{thought:?}: {rejected:#?}");
                let (netns, (port, times)) = netns::within_new(|| {
                    let made = requests(count, |_| {}, |_| thread::sleep(thought));
                    (netns::label(), made)
                });
                let (client, server) = times_at_both_ends(&daemon, &netns, port, count, &times);
                let [at_server, at_client] = times.waited;
                let differences = [
                    server - times.server - at_server,
                    times.client - client - at_client,
                ]
                .map(|seconds| seconds.max(0.0) / count as f64);
                let measured = format!(
                    "{count} exchanges of {thought:?}: the clocks of server and client differ by {:.1} and {:.1} us each, \
                     without {:.1} and {:.1} us of waiting for a processor",
                    differences[0] * 1e6,
                    differences[1] * 1e6,
                    at_server / count as f64 * 1e6,
                    at_client / count as f64 * 1e6
                );
                eprintln!("{measured}");
                if differences.iter().all(|difference| *difference <= DIFFERENCE) {
                    break;
                }
                rejected.push(measured);
            }
        }
    });
}

#[test]
fn keepalives_while_an_answer_is_awaited_change_no_time() {
    let Some(_machine) = require::root() else {
        return;
    };
    again_if_segments_hidden(|| {
        let daemon = Daemon::start(&ALL);
        let (netns, (port, times)) = netns::within_new(|| {
            let keep_alive = |end: &TcpStream| {
                setsockopt(end, sockopt::KeepAlive, &true).unwrap();
                setsockopt(end, sockopt::TcpKeepIdle, &1).unwrap();
                setsockopt(end, sockopt::TcpKeepInterval, &1).unwrap();
            };
            let made = requests(2, keep_alive, |_| thread::sleep(Duration::from_millis(2500)));
            (netns::label(), made)
        });
        times_at_both_ends(&daemon, &netns, port, 2, &times);
    });
}

#[test]
fn times_are_from_first_transmissions_where_segments_are_lost() {
    const COUNT: usize = 40;
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    again_if_segments_hidden(|| {
        let daemon = Daemon::start(&ALL);
        // Each seventh segment with data of either end, from the fourth on.
        let rules = "table inet lossy { chain in { type filter hook input priority 0; \
                     tcp flags & psh == psh numgen inc mod 7 3 drop; }; }";
        let (netns, (port, times)) = netns::within_new(|| {
            run(Command::new("nft").arg(rules));
            (netns::label(), requests(COUNT, |_| {}, |_| {}))
        });
        let (client, server) = times_at_both_ends(&daemon, &netns, port, COUNT, &times);
        // A retransmission takes 200 ms. It is part of the client's times whichever segment it repeats, and of the server's only where
        // the answer would have been late: here it never is.
        assert!(times.client > 1.0, "nothing was lost: {} s", times.client);
        assert!(client > 0.9 * times.client, "{client} of {} s", times.client);
        assert!(server < 0.1 * times.client, "{server} of {} s", times.client);
    });
}

#[test]
fn a_request_that_completes_the_handshake_has_its_time_at_the_server() {
    const COUNT: usize = 3;
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    again_if_segments_hidden(|| {
        let daemon = Daemon::start(&ALL);
        // The first acknowledgement without data is the handshake's.
        let rules = "table inet lossy { chain in { type filter hook input priority 0; \
                     tcp flags == ack numgen inc mod 1000000 0 drop; }; }";
        let (netns, (port, times)) = netns::within_new(|| {
            run(Command::new("nft").arg(rules));
            let thought = Duration::from_millis(30);
            (
                netns::label(),
                requests(COUNT, |_| {}, |_| thread::sleep(thought)),
            )
        });
        times_at_both_ends(&daemon, &netns, port, COUNT, &times);
    });
}

#[test]
fn servers_that_defer_accept_have_protocols_and_exchanges() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !["nginx", "curl"]
        .map(require::program)
        .into_iter()
        .all(|found| found)
    {
        return;
    }
    let daemon = Daemon::start(&ALL);
    let traffic = || {
        let dir = tempfile::tempdir().unwrap();
        netns::within_new(|| {
            let _server = nginx(dir.path());
            for _ in 0..EACH {
                curl(&["--http1.1", "http://127.0.0.1:8082/[1-3]"]);
            }
            let log = fs::read_to_string(dir.path().join("access.log")).unwrap();
            assert_eq!(log.lines().count() as u64, 3 * EACH);
            netns::label()
        })
    };
    until_right(&daemon, traffic, |seen, netns| {
        let mut wrong = Vec::new();
        for flow in BOTH_ENDS {
            // The server's end has not seen the request, so its protocol is settled at the close; exchanges that a scan has reported
            // before are without one.
            let of_port = [("netns", &**netns), ("flow", flow), ("server_port", "8082")];
            let (exchanges, closed) = (seen.sum(EXCHANGES, &of_port), closed(seen, netns, flow, "http"));
            if (exchanges, closed) != (3 * EACH, EACH) {
                wrong.push(format!("{flow}: {exchanges} exchanges, {closed} connections"));
            }
        }
        wrong
    });
}

/// Answers so many requests, each on a separate connection, after it has thought about them.
fn slow_backend(listener: &TcpListener, over: &AtomicBool, thought: Duration) {
    listener.set_nonblocking(true).unwrap();
    while !over.load(Ordering::Relaxed) {
        let Ok((mut connection, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        connection.set_nonblocking(false).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        thread::sleep(thought);
        connection
            .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .unwrap();
    }
}

/// Sets its flag when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_time_of_tls_ends_with_a_session_ticket_or_is_that_of_a_handshake() {
    const THOUGHT: Duration = Duration::from_millis(100);
    const REQUESTS: u64 = 3;
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !["nginx", "curl"]
        .map(require::program)
        .into_iter()
        .all(|found| found)
    {
        return;
    }
    let exchanges_alone = [
        "receivers.ebpf.inspect.exchanges=true",
        "receivers.ebpf.inspect.budget=100%",
        "processors.window.families.network_tcp_exchanges.labels=[flow, server_port, netns]",
        "processors.window.families.network_tcp_exchange_duration.labels=[flow, server_port, netns]",
    ];
    for settings in [&ALL[..], &exchanges_alone] {
        let daemon = Daemon::start(settings);
        // The least and the most that there can be of each connection: of TLS 1.3 the first request may be within the handshake.
        for (version, least) in [("1.2", REQUESTS), ("1.3", REQUESTS - 1)] {
            let traffic = || {
                let dir = tempfile::tempdir().unwrap();
                netns::within_new(|| {
                    let backend = TcpListener::bind("127.0.0.1:9000").unwrap();
                    let _server = nginx(dir.path());
                    let over = AtomicBool::new(false);
                    thread::scope(|scope| {
                        let _over = Over(&over);
                        scope.spawn(|| slow_backend(&backend, &over, THOUGHT));
                        let url = format!("https://api.example.test:8443/slow/[1-{REQUESTS}]");
                        for _ in 0..EACH {
                            curl(&[
                                "--http1.1",
                                &format!("--tlsv{version}"),
                                "--tls-max",
                                version,
                                &url,
                            ]);
                        }
                    });
                    netns::label()
                })
            };
            until_right(&daemon, traffic, |seen, netns| {
                let mut wrong = Vec::new();
                for flow in BOTH_ENDS {
                    let labels = [("netns", &**netns), ("server_port", "8443"), ("flow", flow)];
                    let count = seen.sum(EXCHANGES, &labels);
                    let time: f64 = seen
                        .select(DURATION_SUM, &labels)
                        .map(|sample| sample.value)
                        .sum();
                    let is_thought = time >= count as f64 * THOUGHT.as_secs_f64();
                    if !(EACH * least..=EACH * REQUESTS).contains(&count) || !is_thought {
                        wrong.push(format!("TLS {version}, {flow}: {count} in {time} s"));
                    }
                }
                wrong
            });
        }
    }
}

/// A segment with data from one end of a connection to the other, with an IPv4 header, at a place in the sequence space that has
/// nothing to do with the connection.
fn forged(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Vec<u8> {
    let payload = b"forged";
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let header = |checksum: u16| {
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let numbers = [sequence.to_be_bytes(), sequence.rotate_left(16).to_be_bytes()].concat();
        let flags = [5 << 4, 0x18, 4, 0];
        [
            &ports[..],
            &numbers,
            &flags,
            &checksum.to_be_bytes(),
            &[0, 0],
            payload,
        ]
        .concat()
    };
    let pseudo = [&addresses[..], &[0, 6], &length, &header(0)].concat();
    let mut sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    // The kernel fills in the length and the checksum of the IP header.
    let ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    [&ip[..], &addresses, &header(checksum)].concat()
}

#[test]
fn forged_segments_change_neither_times_nor_protocols() {
    let Some(_machine) = require::root() else {
        return;
    };
    again_if_segments_hidden(|| {
        let daemon = Daemon::start(&ALL);
        let (netns, (port, times)) = netns::within_new(|| {
            let raw = socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::Raw,
            )
            .unwrap();
            let forge = |server: &TcpStream| {
                let (SocketAddr::V4(server), SocketAddr::V4(client)) =
                    (server.local_addr().unwrap(), server.peer_addr().unwrap())
                else {
                    panic!("not IPv4");
                };
                for i in 1..16 {
                    for (from, to) in [(server, client), (client, server)] {
                        let segment = forged(from, to, i * 0x1111_1111);
                        let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
                        sendto(raw.as_raw_fd(), &segment, &to, MsgFlags::empty()).unwrap();
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            };
            (netns::label(), requests(3, |_| {}, forge))
        });
        times_at_both_ends(&daemon, &netns, port, 3, &times);
        // Forged bytes are not taken for the first ones: those were seen, and are of no protocol.
        daemon.scrape_until("both ends closed", |seen| {
            BOTH_ENDS
                .iter()
                .all(|flow| closed(seen, &netns, flow, "unknown") == 1)
        });
    });
}

#[test]
fn a_connection_that_opens_as_soon_as_flowtap_is_ready_has_its_protocol() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    for _ in 0..2 {
        let daemon = Daemon::start(&ALL);
        let greet = || {
            converse(&[b"EHLO client.test\r\n"]);
            netns::label()
        };
        until_right(&daemon, greet, |seen, netns| {
            let missing = BOTH_ENDS
                .iter()
                .filter(|flow| closed(seen, netns, flow, "smtp") != 1);
            missing.map(|flow| format!("{flow} smtp")).collect()
        });
    }
}

/// Buffers of performance events that a process has open.
fn perf_events(pid: i32) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .filter(|target| target.to_string_lossy().contains("perf_event"))
        .count()
}

#[test]
fn it_is_off_by_default_and_a_reload_turns_it_on_and_off() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let greet = || {
        netns::within_new(|| {
            converse(&[b"EHLO client.test\r\n"]);
            netns::label()
        })
    };
    let greeted = |seen: &Exposition, netns: &String| {
        let missing = BOTH_ENDS
            .iter()
            .filter(|flow| closed(seen, netns, flow, "smtp") != 1);
        missing.map(|flow| format!("{flow} smtp")).collect()
    };
    let pid = daemon.pid().as_raw();
    assert_eq!(perf_events(pid), 0);
    let text = fs::read_to_string(daemon.config()).unwrap();
    let on = text.replace(
        "ebpf: {interval: 200ms}",
        "ebpf: {interval: 200ms, inspect: {protocols: true, budget: 100%}}",
    );
    let on = on.replace(
        "window: {interval: 200ms}",
        "window: {interval: 200ms, families: {network_tcp_connections: {labels: [flow, event, netns, protocol]}}}",
    );
    assert_ne!(on, text);
    assert!(daemon.reload(&on));
    assert!(perf_events(pid) > 0);
    until_right(&daemon, greet, greeted);
    // Another interval leaves the programs where they are.
    assert!(daemon.reload(&on.replace("ebpf: {interval: 200ms", "ebpf: {interval: 300ms")));
    until_right(&daemon, greet, greeted);
    assert!(daemon.reload(&text));
    assert_eq!(perf_events(pid), 0);
}

#[test]
fn a_load_beyond_the_budget_is_seen_for_a_part_of_the_time() {
    let Some(_machine) = require::root() else {
        return;
    };
    let set = [
        "receivers.ebpf.inspect.exchanges=true",
        "receivers.ebpf.inspect.budget=0.1%",
    ];
    let daemon = Daemon::start(&set);
    let done = AtomicBool::new(false);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let detached = "flowtap_receiver_inspect_time_seconds_total";
    let own = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut server, _) = listener.accept().unwrap();
            let mut byte = [0];
            while server.read(&mut byte).unwrap() > 0 {
                server.write_all(&byte).unwrap();
            }
        });
        scope.spawn(|| {
            let mut client = TcpStream::connect(address).unwrap();
            while !done.load(Ordering::Relaxed) {
                client.write_all(&[1]).unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
        });
        let own = daemon.telemetry_until("programs that are detached for a while", |own| {
            let times = own.select(detached, &[("state", "detached")]);
            times.map(|sample| sample.value).sum::<f64>() > 1.0
        });
        done.store(true, Ordering::Relaxed);
        own
    });
    let value = |name: &str| own.select(name, &[]).map(|sample| sample.value).sum::<f64>();
    let (cpu, elapsed) = (
        value("flowtap_receiver_inspect_cpu_time_seconds_total"),
        value(detached),
    );
    // The share, the credit of ten seconds, and what one interval of 100 ms takes too much.
    assert!(cpu <= 0.001 * (elapsed + 10.0) + 0.1, "{cpu} s of {elapsed} s");
}
