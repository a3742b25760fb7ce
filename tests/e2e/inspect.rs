//! The option `inspect`: protocols of real programs at both ends of each connection, names of TLS servers, exchanges against the
//! applications' own counts and clocks, and the budget. Alone where first bytes are compared: those of the whole machine share a
//! buffer, and a test run starves its reader.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, WAIT_TIMEOUT};
use crate::exposition::Exposition;
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
struct Server(Child);

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

/// nginx with HTTP/1.1 at 8080, HTTP/2 at 8081 and TLS at 8443. Its log has a line per request.
fn nginx(dir: &Path) -> Server {
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
           server {{ listen 127.0.0.1:8443 ssl http2; return 200 ok;
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

fn curl(arguments: &[&str]) {
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
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k"])
            .arg(dir)
            .arg("-D")
            .arg(&data),
        5432,
    ))
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
    let daemon = Daemon::start(&ALL);
    let traffic = || {
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
                curl(&["--http2-prior-knowledge", "http://127.0.0.1:8081/"]);
                curl(&["--http2", "https://api.example.test:8443/"]);
                run(Command::new("redis-cli").args(["-h", "127.0.0.1", "ping"]));
                if servers.2.is_some() {
                    run(Command::new("psql")
                        .args(["-h", "127.0.0.1", "-U", "test", "-c", "select 1", "postgres"])
                        .current_dir("/"));
                }
            }
            let log = fs::read_to_string(dir.path().join("access.log")).unwrap();
            let requests = log.lines().filter(|line| line.contains("HTTP/1.1\"")).count();
            assert_eq!(requests as u64, 21 * EACH);
            (netns::label(), requests as u64, servers.2.is_some())
        })
    };
    let (netns, _, has_postgresql) =
        until_right(&daemon, traffic, |seen, (netns, requests, has_postgresql)| {
            let mut expected = vec![
                ("http", 2 * EACH),
                ("http2", EACH),
                ("tls", EACH),
                ("redis", EACH),
            ];
            if *has_postgresql {
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
                let of_http = [
                    ("netns", &**netns),
                    ("flow", flow),
                    ("server_port", "8080"),
                    ("protocol", "http"),
                ];
                let found = seen.sum(EXCHANGES, &of_http);
                if found != *requests {
                    wrong.push(format!("{flow} exchanges: {found} of {requests}"));
                }
            }
            wrong
        });
    if !has_postgresql {
        require::skip("PostgreSQL is not installed (make setup-test)");
    }
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

/// Makes traffic until a round of it has nothing wrong. Only a round in which the daemon counted losses may have.
fn until_right<T>(
    daemon: &Daemon,
    traffic: impl Fn() -> T,
    wrong: impl Fn(&Exposition, &T) -> Vec<String>,
) -> T {
    for _ in 0..20 {
        let before = lost(daemon);
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
            assert!(Instant::now() < deadline, "nothing was lost, and {found:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
    panic!("no round without losses");
}

/// Connects, and passes each part on its own: the next one is sent when the server has read it and answered with a byte.
fn converse(parts: &[&[u8]]) {
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
}

/// The first message of a TLS client, with a key share of post-quantum size before its name.
fn client_hello(name: &[u8]) -> Vec<u8> {
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

/// Of the applications' own clocks, in seconds.
struct Times {
    server: f64,
    client: f64,
}

/// Requests and answers over one connection, of a server that thinks for a while.
fn requests(count: usize, thought: Duration) -> (u16, Times) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut server, _) = listener.accept().unwrap();
            server.set_nodelay(true).unwrap();
            let mut sum = Duration::ZERO;
            for _ in 0..count {
                server.read_exact(&mut [0; 100]).unwrap();
                let came = Instant::now();
                thread::sleep(thought);
                let answered = Instant::now();
                server.write_all(&[1; 300]).unwrap();
                sum += answered - came;
            }
            sum
        });
        let mut client = TcpStream::connect(address).unwrap();
        client.set_nodelay(true).unwrap();
        let mut sum = Duration::ZERO;
        for _ in 0..count {
            let asked = Instant::now();
            client.write_all(&[0; 100]).unwrap();
            client.read_exact(&mut [0; 300]).unwrap();
            sum += asked.elapsed();
        }
        let server = server.join().unwrap();
        let times = Times {
            server: server.as_secs_f64(),
            client: sum.as_secs_f64(),
        };
        (address.port(), times)
    })
}

#[test]
fn exchanges_are_those_of_the_applications_and_their_time_is_between_that_of_both_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&ALL);
    for (count, thought) in [(500, Duration::ZERO), (100, Duration::from_millis(3))] {
        let (netns, (port, times)) = netns::within_new(|| (netns::label(), requests(count, thought)));
        let port = port.to_string();
        let labels = |flow: &'static str| [("netns", &*netns), ("server_port", &*port), ("flow", flow)];
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
        eprintln!(
            "{count} exchanges of {thought:?}: the client's clock has {:.1} us more each than the kernel",
            (times.client - client) / count as f64 * 1e6
        );
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
