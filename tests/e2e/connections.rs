//! Connections of exporters that push, failing in every way: a scripted peer fails the first attempts and then takes everything. All
//! that was exported meanwhile must arrive, from memory and from disk, and no point may be given up.
//!
//! The peer speaks HTTP/1.1 and HTTP/2 by hand, frame by frame, and shares no code with the daemon.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::daemon::{Daemon, Launch};
use crate::exposition::Exposition;
use crate::netns::within_new;
use crate::peers::ask_until;
use crate::require;

/// Fault of a peer in an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Closes the connection it has accepted.
    Close,
    /// Resets the connection after some bytes of the request.
    ResetWhileReading,
    /// Resets the connection once it has the whole request, as the kernel does for a process that is killed.
    ResetAfterRequest,
    /// Closes the connection once it has the whole request.
    CloseAfterRequest,
    /// Announces that it goes away, once it has the whole request.
    GoAway,
    /// Resets the stream with a code of HTTP/2.
    ResetStream(u32),
    /// Says nothing.
    Stall,
    /// Answers what is of no protocol.
    Garbage,
    /// Answers with a status of HTTP.
    Status(u16),
    /// Answers with a status of HTTP, a content type and a body, as proxies, web servers and login pages do.
    Page(u16, &'static str, &'static str),
    /// Over HTTP/2: answers as gRPC, without a status.
    NoGrpcStatus(&'static [u8]),
    /// Answers with a status of gRPC.
    GrpcStatus(u8),
}

/// Pages of proxies in front of a peer that is away.
const PAGES: [Fault; 8] = [
    Fault::Page(429, "text/html", "<html><h1>429 Too Many Requests</h1></html>"),
    Fault::Page(502, "text/html", "<html><h1>502 Bad Gateway</h1></html>"),
    Fault::Page(503, "text/html", "<html><h1>503 Service Unavailable</h1></html>"),
    Fault::Page(503, "text/plain", "no healthy upstream"),
    Fault::Page(503, "application/json", "{\"a\":1}"),
    Fault::Page(504, "text/html", "<html><h1>504 Gateway Time-out</h1></html>"),
    Fault::Page(200, "text/html", "<html>log in</html>"),
    Fault::Page(200, "text/plain", "Hi"),
];

/// The ways of OTLP.
const PROTOCOLS: [&str; 3] = ["grpc", "http/protobuf", "http/json"];

/// Neither HTTP/1.1 nor a frame of HTTP/2.
const GARBAGE: &[u8] = &[b'?'; 400];

/// Codes of HTTP/2 with which a stream is reset (RFC 9113, section 7), but for `INADEQUATE_SECURITY`, which no retry gets over.
const STREAM_CODES: [u32; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13];

/// A peer that fails `faults` times, then works. It counts what it took.
#[derive(Debug)]
pub(crate) struct Peer {
    fault: Fault,
    left: AtomicUsize,
    pub(crate) taken: AtomicUsize,
    /// Pings of HTTP/2 that it received.
    pings: AtomicUsize,
    /// Whether it leaves pings without a response, as a machine that has lost the connection does.
    is_mute: AtomicBool,
    /// Connections that were closed by the other end.
    closed: AtomicUsize,
}

impl Peer {
    pub(crate) fn start(fault: Fault, faults: usize) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = Arc::new(Self {
            fault,
            left: AtomicUsize::new(faults),
            taken: AtomicUsize::new(0),
            pings: AtomicUsize::new(0),
            is_mute: AtomicBool::new(false),
            closed: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&peer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (peer, stream) = (Arc::clone(&serving), stream.unwrap());
                // A daemon that hangs up is not a failure of the peer.
                thread::spawn(move || {
                    let served = peer.serve(stream);
                    if served.is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
                        peer.closed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        (peer, port)
    }

    /// Whether this attempt is one to fail.
    fn fails(&self) -> bool {
        let spent = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        spent.is_ok()
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        match self.fault {
            Fault::Close if self.fails() => return Ok(()),
            Fault::ResetWhileReading if self.fails() => {
                stream.read_exact(&mut [0; 30])?;
                return reset(&stream);
            }
            _ => {}
        }
        let mut start = [0; 24];
        stream.read_exact(&mut start)?;
        if start.starts_with(b"PRI * HTTP/2.0") {
            self.serve_http2(stream)
        } else {
            self.serve_http1(stream, start.to_vec())
        }
    }

    fn serve_http1(&self, mut stream: TcpStream, mut bytes: Vec<u8>) -> io::Result<()> {
        loop {
            let end = loop {
                if let Some(end) = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    break end + 4;
                }
                read_more(&mut stream, &mut bytes)?;
            };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let (_, length) = head.split_once("content-length: ").expect("a length");
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            while bytes.len() < end + length {
                read_more(&mut stream, &mut bytes)?;
            }
            bytes.drain(..end + length);
            if self.fails() {
                match self.fault {
                    Fault::ResetAfterRequest => return reset(&stream),
                    Fault::Stall => thread::sleep(Duration::from_secs(60)),
                    Fault::Garbage => return stream.write_all(GARBAGE),
                    Fault::Status(status) => {
                        write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")?;
                        continue;
                    }
                    Fault::Page(status, kind, body) => {
                        let length = body.len();
                        write!(
                            stream,
                            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
                        )?;
                        continue;
                    }
                    _ => return Ok(()),
                }
            }
            self.taken.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    }

    fn serve_http2(&self, mut stream: TcpStream) -> io::Result<()> {
        write_frame(&mut stream, SETTINGS, 0, 0, &[])?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload)?;
            match kind {
                SETTINGS if flags & 1 == 0 => write_frame(&mut stream, SETTINGS, 1, 0, &[])?,
                PING if flags & 1 == 0 => {
                    self.pings.fetch_add(1, Ordering::SeqCst);
                    if !self.is_mute.load(Ordering::SeqCst) {
                        write_frame(&mut stream, PING, 1, 0, &payload)?;
                    }
                }
                DATA if length > 0 => {
                    write_frame(&mut stream, WINDOW_UPDATE, 0, 0, &length.to_be_bytes())?;
                }
                _ => {}
            }
            if !matches!(kind, DATA | HEADERS) || flags & END_STREAM == 0 {
                continue;
            }
            if self.fails() {
                match self.fault {
                    Fault::ResetAfterRequest => return reset(&stream),
                    Fault::GoAway => {
                        // NO_ERROR, and no stream was looked at.
                        write_frame(&mut stream, GOAWAY, 0, 0, &[0; 8])?;
                        return Ok(());
                    }
                    Fault::ResetStream(code) => {
                        write_frame(&mut stream, RST_STREAM, 0, id, &code.to_be_bytes())?;
                        continue;
                    }
                    Fault::Stall => thread::sleep(Duration::from_secs(60)),
                    Fault::Garbage => return stream.write_all(GARBAGE),
                    Fault::Status(status) => {
                        write_frame(&mut stream, HEADERS, 5, id, &status_header(status))?;
                        continue;
                    }
                    Fault::Page(status, kind, body) => {
                        let mut headers = status_header(status);
                        headers.extend_from_slice(b"\x0f\x10");
                        headers.push(u8::try_from(kind.len()).unwrap());
                        headers.extend_from_slice(kind.as_bytes());
                        write_frame(&mut stream, HEADERS, 4, id, &headers)?;
                        write_frame(&mut stream, DATA, END_STREAM, id, body.as_bytes())?;
                        continue;
                    }
                    Fault::NoGrpcStatus(body) => {
                        write_frame(&mut stream, HEADERS, 4, id, OK_HEADERS)?;
                        write_frame(&mut stream, DATA, END_STREAM, id, body)?;
                        continue;
                    }
                    Fault::GrpcStatus(status) => {
                        let headers = [OK_HEADERS, &grpc_status(status)].concat();
                        write_frame(&mut stream, HEADERS, 5, id, &headers)?;
                        continue;
                    }
                    Fault::Close | Fault::CloseAfterRequest | Fault::ResetWhileReading => return Ok(()),
                }
            }
            self.taken.fetch_add(1, Ordering::SeqCst);
            write_frame(&mut stream, HEADERS, 4, id, OK_HEADERS)?;
            // A message of no bytes, not compressed.
            write_frame(&mut stream, DATA, 0, id, &[0; 5])?;
            write_frame(&mut stream, HEADERS, 5, id, &grpc_status(0))?;
        }
    }
}

/// Types and flags of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

/// `:status: 200` and `content-type: application/grpc`, without the dynamic table (RFC 7541).
const OK_HEADERS: &[u8] = b"\x88\x0f\x10\x10application/grpc";

/// `:status`, in digits.
fn status_header(status: u16) -> Vec<u8> {
    let mut header = vec![0x08, 3];
    header.extend_from_slice(status.to_string().as_bytes());
    header
}

fn grpc_status(code: u8) -> Vec<u8> {
    let mut header = b"\x00\x0bgrpc-status".to_vec();
    let code = code.to_string();
    header.push(u8::try_from(code.len()).unwrap());
    header.extend_from_slice(code.as_bytes());
    header
}

fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut part = [0; 16_384];
    match stream.read(&mut part)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => {
            bytes.extend_from_slice(&part[..length]);
            Ok(())
        }
    }
}

fn reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

fn write_frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

/// An exporter with its peer.
struct Case {
    name: String,
    faults: usize,
    peer: Arc<Peer>,
}

/// Exporters to peers that fail as `faults` say, each once from memory and once from disk below `dir`.
fn cases(
    protocol: &str,
    faults: &[Fault],
    host: &str,
    dir: &std::path::Path,
    text: &mut String,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, fault) in faults.iter().enumerate() {
        for stored in [false, true] {
            // Windows are 200 ms long, and two fsyncs for each of so many exporters are too much for a disk.
            // An attempt that stalls takes the whole timeout.
            let times = if matches!(fault, Fault::Stall) { 2 } else { 4 };
            let (peer, port) = Peer::start(*fault, times);
            let way = if stored { "disk" } else { "memory" };
            let name = format!("otlp/{}-{index}-{way}", protocol.replace('/', "-"));
            let storage = if stored {
                format!(", storage: {{directory: {}}}", dir.join(&name).display())
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "  {name}: {{endpoint: \"http://{host}:{port}\", protocol: {protocol}, interval: 1s, timeout: 1s, \
                 retry: {{initial_interval: 20ms, max_interval: 100ms}}{storage}}}"
            );
            cases.push(Case {
                name,
                faults: times,
                peer,
            });
        }
    }
    cases
}

/// A daemon of synthetic flows with those exporters.
fn launch(exporters: &str, cases: &[Case]) -> Daemon {
    let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    let list = format!("exporters: [debug, prometheus, {}]", names.join(", "));
    Daemon::launch(Launch {
        list: &list,
        exporters,
        set: &[
            "service.pipelines.metrics.receivers=[generator]",
            "receivers.generator.interval=100ms",
            "receivers.generator.flows=4",
        ],
        ..Launch::default()
    })
}

fn own(telemetry: &Exposition, metric: &str, case: &Case) -> u64 {
    telemetry.sum(&format!("flowtap_exporter_{metric}"), &[("exporter", &case.name)])
}

/// Waits until every exporter has delivered, and checks that none gave anything up on the way.
fn all_arrives(daemon: &Daemon, cases: &[Case]) {
    let telemetry = daemon.telemetry_until("deliveries of every exporter", |telemetry| {
        cases.iter().all(|case| {
            let queued = own(telemetry, "storage_requests", case);
            own(telemetry, "sent_metric_points_total", case) > 0 && queued <= 2
        })
    });
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|case| {
            let Case { name, faults, peer } = case;
            let failed = own(&telemetry, "send_failed_metric_points_total", case);
            let retried = own(&telemetry, "retried_requests_total", case);
            let taken = peer.taken.load(Ordering::SeqCst);
            let right = failed == 0 && retried >= *faults as u64 && taken > 0;
            let fault = peer.fault;
            (!right).then(|| {
                format!("{name} {fault:?}: {failed} points given up, {retried} retries, {taken} taken")
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each of the faults by each protocol, some at a time: a debug build has enough to do with their exporters.
fn all_are_survived(protocols: &[&str], faults: &[Fault]) {
    for faults in faults.chunks(12 / protocols.len()) {
        let (dir, mut text) = (tempfile::tempdir().unwrap(), String::new());
        let mut all = Vec::new();
        for protocol in protocols {
            all.extend(cases(protocol, faults, "127.0.0.1", dir.path(), &mut text));
        }
        let daemon = launch(&text, &all);
        all_arrives(&daemon, &all);
    }
}

#[test]
fn what_a_broken_connection_interrupts_is_delivered_over_grpc() {
    let mut faults = vec![
        Fault::Close,
        Fault::ResetWhileReading,
        Fault::ResetAfterRequest,
        Fault::CloseAfterRequest,
        Fault::GoAway,
        Fault::Stall,
        Fault::Garbage,
        Fault::Status(429),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(504),
        // UNAVAILABLE and CANCELLED.
        Fault::GrpcStatus(14),
        Fault::GrpcStatus(1),
        // Answers that no gRPC server sends: they say nothing about the request.
        Fault::Status(408),
        Fault::Page(401, "text/html", "<html>who are you?</html>"),
        Fault::Page(404, "text/html", "<html>not found</html>"),
        Fault::Page(500, "text/html", "<html>oops</html>"),
        Fault::Page(511, "text/html", "<html>log in</html>"),
        Fault::Page(200, "application/json", "{\"code\":5}"),
        // No trailers, and half a message.
        Fault::NoGrpcStatus(&[0; 5]),
        Fault::NoGrpcStatus(b"\0\0\0\0\x10abc"),
    ];
    faults.extend(STREAM_CODES.map(Fault::ResetStream));
    faults.extend(PAGES);
    all_are_survived(&["grpc"], &faults);
}

#[test]
fn what_a_broken_connection_interrupts_is_delivered_over_http() {
    let mut faults = vec![
        Fault::Close,
        Fault::ResetWhileReading,
        Fault::ResetAfterRequest,
        Fault::CloseAfterRequest,
        Fault::Stall,
        Fault::Garbage,
        Fault::Status(408),
        Fault::Status(429),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(504),
        Fault::Page(200, "application/json", "{\"error\":\"log in\"}"),
        Fault::Page(200, "application/problem+json", "{\"title\":\"no\"}"),
        Fault::Page(200, "application/x-protobuf", "<html>log in</html>"),
    ];
    faults.extend(PAGES);
    all_are_survived(&["http/protobuf", "http/json"], &faults);
}

#[test]
fn an_idle_connection_is_pinged_and_closed_when_no_response_comes() {
    let (peer, port) = Peer::start(Fault::Close, 0);
    let text = format!(
        "  otlp: {{endpoint: \"http://127.0.0.1:{port}\", interval: 10m, keepalive: {{time: 200ms, timeout: 3s}}}}\n"
    );
    let case = Case {
        name: "otlp".to_owned(),
        faults: 0,
        peer: Arc::clone(&peer),
    };
    let daemon = launch(&text, &[case]);
    let (of, closed) = (
        |count: &AtomicUsize| count.load(Ordering::SeqCst),
        || peer.closed.load(Ordering::SeqCst),
    );
    ask_until("pings of an idle connection", || {
        (of(&peer.taken) == 1 && of(&peer.pings) >= 5).then_some(())
    });
    assert_eq!(closed(), 0, "the peer responds");
    peer.is_mute.store(true, Ordering::SeqCst);
    ask_until("the end of a connection without responses", || {
        (closed() == 1).then_some(())
    });
    // The last window goes out on a new one.
    peer.is_mute.store(false, Ordering::SeqCst);
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(of(&peer.taken), 2);
}

/// Runs a command of a test's network namespace.
fn run(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let status = Command::new(program).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// An address, 10.99.0.3, to which packets are lost until it is this machine's.
fn black_hole() {
    run("ip link add void type veth peer name end");
    run("ip addr add 10.99.0.1/24 dev void");
    run("ip link set void up");
    run("ip link set end up");
    // A neighbour with a permanent entry, so that no failing ARP informs the sender that the
    // address is unreachable.
    run("ip neigh add 10.99.0.3 lladdr 02:00:00:00:00:03 dev void nud permanent");
}

/// Packets that come in are dropped as `rules` of nftables have it.
fn drop_packets(dir: &std::path::Path, rules: &str) {
    let file = dir.join("rules");
    let table =
        format!("table inet dead {{\nchain in {{\ntype filter hook input priority 0;\n{rules}\n}}\n}}\n");
    std::fs::write(&file, table).unwrap();
    run(&format!("nft -f {}", file.display()));
}

#[test]
fn a_host_that_drops_every_packet_is_waited_for() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        black_hole();
        let (dir, mut text) = (tempfile::tempdir().unwrap(), String::new());
        let mut all = Vec::new();
        for protocol in PROTOCOLS {
            // The peer's behaviour does not matter: it has no faults left once it can be reached.
            all.extend(cases(
                protocol,
                &[Fault::Close],
                "10.99.0.3",
                dir.path(),
                &mut text,
            ));
        }
        for case in &mut all {
            case.peer.left.store(0, Ordering::SeqCst);
            case.faults = 2;
        }
        let daemon = launch(&text, &all);
        daemon.telemetry_until("failed attempts of every exporter", |telemetry| {
            all.iter()
                .all(|case| own(telemetry, "retried_requests_total", case) >= 2)
        });
        run("ip addr add 10.99.0.3/32 dev lo");
        all_arrives(&daemon, &all);
    });
}

#[test]
fn a_name_whose_first_address_is_dead_is_delivered_to_by_every_exporter() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        // Both are addresses of this namespace, so that the resolver leaves them in the order of
        // the file (RFC 6724 would put this machine's first). Packets to the first are dropped.
        run("ip addr add 10.99.0.2/32 dev lo");
        run("ip addr add 10.99.0.3/32 dev lo");
        // A file of hosts that only this thread and its children see.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        run("mount --make-rprivate /");
        let (dir, mut text) = (tempfile::tempdir().unwrap(), String::new());
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "10.99.0.3 collector.test\n10.99.0.2 collector.test\n").unwrap();
        run(&format!("mount --bind {} /etc/hosts", hosts.display()));
        drop_packets(dir.path(), "ip daddr 10.99.0.3 drop");
        let mut all = Vec::new();
        for protocol in PROTOCOLS {
            all.extend(cases(
                protocol,
                &[Fault::Close],
                "collector.test",
                dir.path(),
                &mut text,
            ));
        }
        let (peer, port) = Peer::start(Fault::Close, 0);
        let _ = writeln!(
            text,
            "  remote_write: {{endpoint: \"http://collector.test:{port}/write\", interval: 200ms, timeout: 1s}}"
        );
        all.push(Case {
            name: "remote_write".to_owned(),
            faults: 0,
            peer,
        });
        for case in &mut all {
            case.peer.left.store(0, Ordering::SeqCst);
            case.faults = 0;
        }
        let daemon = launch(&text, &all);
        all_arrives(&daemon, &all);
    });
}

/// A connection whose packets are dropped from some moment on, as by a firewall that forgot it, while new ones work.
#[test]
fn a_connection_that_died_silently_is_replaced_after_the_first_timeout() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let (dir, mut text) = (tempfile::tempdir().unwrap(), String::new());
        let mut all = Vec::new();
        for protocol in PROTOCOLS {
            all.extend(cases(
                protocol,
                &[Fault::Close],
                "127.0.0.1",
                dir.path(),
                &mut text,
            ));
        }
        for case in &mut all {
            case.peer.left.store(0, Ordering::SeqCst);
            case.faults = 0;
        }
        let daemon = launch(&text, &all);
        all_arrives(&daemon, &all);
        let established = established();
        assert!(established.len() >= all.len(), "{established:?}");
        let ports: Vec<_> = established
            .iter()
            .map(|client| client.port().to_string())
            .collect();
        let ports = ports.join(", ");
        drop_packets(
            dir.path(),
            &format!("tcp sport {{ {ports} }} drop\ntcp dport {{ {ports} }} drop"),
        );
        let before: Vec<_> = all
            .iter()
            .map(|case| case.peer.taken.load(Ordering::SeqCst))
            .collect();
        daemon.telemetry_until("requests on new connections", |_| {
            let taken = all.iter().zip(&before);
            taken
                .into_iter()
                .all(|(case, before)| case.peer.taken.load(Ordering::SeqCst) > before + 2)
        });
        all_arrives(&daemon, &all);
    });
}

/// Clients' ends of the connections from the daemon to the peers of this network namespace.
fn established() -> Vec<SocketAddr> {
    let output = Command::new("ss")
        .args(["-Htnp", "state", "established"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // The peers are threads of this process, which has another name.
    text.lines()
        .filter(|line| line.contains("\"flowtap\""))
        .filter_map(|line| line.split_whitespace().nth(2)?.parse().ok())
        .filter(|address: &SocketAddr| address.port() >= 32_768)
        .collect()
}
