//! Sessions, against listeners of the tests that look at headers and sets only; tests/e2e/ipfix.rs has real collectors.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use flowtap_pipeline::testing::{ExporterTest, Instruments, config};
use flowtap_pipeline::{BuildContext, LogBatch};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;
use tower::{Service, ServiceExt};

use super::FACTORY;
use super::elements::DOMAIN_TEMPLATE;
use crate::testing::{certificate, logs};

/// Longest wait for anything that happens by itself.
const WAIT: Duration = Duration::from_secs(20);

/// The header of a message, and the ids of its sets.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    sequence: u32,
    domain: u32,
    sets: Vec<u16>,
}

impl Seen {
    fn of(message: &[u8]) -> Self {
        let u16_at = |at: usize| u16::from_be_bytes(message[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        assert_eq!(
            (u16_at(0), usize::from(u16_at(2))),
            (10, message.len()),
            "a version and a length"
        );
        let (mut at, mut sets) = (16, Vec::new());
        while at < message.len() {
            sets.push(u16_at(at));
            at += usize::from(u16_at(at + 2));
        }
        assert_eq!(at, message.len(), "sets end with the message");
        Self {
            sequence: u32_at(8),
            domain: u32_at(12),
            sets,
        }
    }

    fn has(sequence: u32, sets: &[u16]) -> Self {
        Self {
            sequence,
            domain: 7,
            sets: sets.to_vec(),
        }
    }
}

/// The template of [`logs`]: IPv4, biflows, not sampled.
const FLOWS: u16 = 260;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn next_message(stream: &mut TcpStream) -> Seen {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut message = vec![0; 4];
    stream.read_exact(&mut message).unwrap();
    let length = u16::from_be_bytes([message[2], message[3]]);
    message.resize(length.into(), 0);
    stream.read_exact(&mut message[4..]).unwrap();
    Seen::of(&message)
}

fn next_datagram(socket: &UdpSocket) -> Seen {
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).unwrap();
    Seen::of(&buffer[..length])
}

fn start(address: SocketAddr, more: &str) -> ExporterTest {
    let yaml = format!("{{endpoint: \"{address}\", observation_domain_id: 7, {more}}}");
    ExporterTest::start(FACTORY, &yaml)
}

#[test]
fn each_connection_starts_with_the_templates_and_numbers_its_records_from_0() {
    let (listener, address) = listener();
    let mut exporter = start(address, "protocol: tcp, retry: {initial_interval: 10ms}");
    for _ in 0..2 {
        assert_eq!(exporter.export_logs(logs()).unwrap().sent, 2);
        let mut stream = listener.accept().unwrap().0;
        assert_eq!(next_message(&mut stream), Seen::has(0, &[2, 3]));
        assert_eq!(next_message(&mut stream), Seen::has(0, &[2]));
        assert_eq!(next_message(&mut stream), Seen::has(0, &[DOMAIN_TEMPLATE]));
        assert_eq!(next_message(&mut stream), Seen::has(1, &[FLOWS]));
        // A second batch has no templates.
        assert_eq!(exporter.export_logs(logs()).unwrap().sent, 2);
        assert_eq!(next_message(&mut stream), Seen::has(3, &[FLOWS]));
        // The collector closes the connection here, which the exporter has to notice before its next message.
    }
    exporter.stop();
}

#[test]
fn the_end_of_a_connection_is_read_by_the_collector() {
    let (listener, address) = listener();
    let mut exporter = start(address, "protocol: tcp");
    exporter.export_logs(logs()).unwrap();
    let mut stream = listener.accept().unwrap().0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || stream.read_to_end(&mut Vec::new()));
        exporter.stop();
        assert!(reader.join().unwrap().unwrap() > 0);
    });
}

/// The collector reads nothing, and then closes the connection: what its kernel had no room for is written again.
#[test]
fn what_was_not_acknowledged_is_written_again_on_the_next_connection() {
    const BATCHES: usize = 2_000;
    let (listener, address) = listener();
    // Room for a few messages.
    setsockopt(&listener, RcvBuf, &4096).unwrap();
    let mut exporter = start(address, "protocol: tcp, retry: {initial_interval: 10ms}");
    for _ in 0..BATCHES {
        assert_eq!(exporter.export_logs(logs()).unwrap().sent, 2);
    }
    // Unread input: the connection is reset.
    drop(listener.accept().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut stream = listener.accept().unwrap().0;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes.len()
        });
        assert_eq!(exporter.export_logs(logs()).unwrap().sent, 2);
        exporter.stop();
        // A message of one batch has more than 150 bytes; a few KiB of the first ones were acknowledged.
        let bytes = reader.join().unwrap();
        assert!(bytes > BATCHES * 150 - 50_000, "{bytes}");
    });
}

/// The collector reads nothing until it is connected to for the third time.
#[test]
fn at_the_end_a_collector_that_is_slow_to_read_gets_everything_that_it_had_no_room_for() {
    const BATCHES: usize = 2_000;
    let (listener, address) = listener();
    setsockopt(&listener, RcvBuf, &4096).unwrap();
    let mut exporter = start(address, "protocol: tcp");
    for _ in 0..BATCHES {
        assert_eq!(exporter.export_logs(logs()).unwrap().sent, 2);
    }
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let _unread = [listener.accept().unwrap(), listener.accept().unwrap()];
            let mut bytes = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
            bytes.len()
        });
        exporter.stop();
        let bytes = reader.join().unwrap();
        assert!(bytes > BATCHES * 150 - 100_000, "{bytes}");
    });
}

#[tokio::test]
async fn what_is_not_acknowledged_when_the_deadline_cuts_the_end_is_counted() {
    let (listener, address) = listener();
    setsockopt(&listener, RcvBuf, &4096).unwrap();
    let instruments = Instruments::new();
    let context = BuildContext {
        meter: instruments.meter(),
        ..flowtap_pipeline::testing::context("ipfix")
    };
    let yaml = format!("{{endpoint: \"{address}\", protocol: tcp}}");
    let mut exporter = config(FACTORY, &yaml).unwrap().build(&context).unwrap();
    let mut service = exporter.start().await.unwrap();
    let unacknowledged = exporter.unacknowledged().unwrap();
    for _ in 0..2_000 {
        let service = service.ready().await.unwrap();
        assert_eq!(service.call(logs().into()).await.unwrap().sent, 2);
    }
    drop(service);
    // The deadline of a run.
    let stopped = tokio::time::timeout(Duration::from_millis(100), exporter.stop()).await;
    assert!(stopped.is_err(), "it does not give up by itself");
    let left = unacknowledged.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..4_000).contains(&left), "{left}");
    let counted = instruments.sum("exporter_unacknowledged_log_records", "exporter", "ipfix");
    assert_eq!(counted, left);
}

#[test]
fn datagrams_have_the_templates_again_when_they_are_due() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut exporter = start(socket.local_addr().unwrap(), "template_refresh: 1ns");
    exporter.export_logs(logs()).unwrap();
    exporter.export_logs(logs()).unwrap();
    for (sequence, set) in [
        (0, 2),
        (0, 2),
        (0, DOMAIN_TEMPLATE),
        (1, FLOWS),
        (3, 2),
        (3, 2),
        (3, DOMAIN_TEMPLATE),
        (4, FLOWS),
    ] {
        let seen = next_datagram(&socket);
        assert_eq!((seen.sequence, seen.sets[0]), (sequence, set));
    }
}

#[test]
fn datagrams_that_a_host_refuses_are_tried_again_until_they_are_given_up() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let retry = "retry: {initial_interval: 1ms, max_interval: 1ms, max_elapsed_time: 100ms}";
    let mut exporter = start(address, retry);
    let exported = exporter.export_logs(logs()).unwrap();
    assert_eq!((exported.sent, exported.failed), (0, 2));
}

#[test]
fn a_batch_without_records_opens_no_session() {
    let (listener, address) = listener();
    listener.set_nonblocking(true).unwrap();
    let mut exporter = start(address, "protocol: tcp");
    let empty = LogBatch {
        records: Vec::new(),
        ..logs()
    };
    exporter.export_logs(empty).unwrap();
    assert!(listener.accept().is_err());
}

#[test]
fn a_tls_file_that_cant_be_used_is_an_error_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    certificate(&folder.path().join("ca"), "localhost");
    let build = |ca: &str| {
        let path = folder.path().join(ca);
        let yaml = format!(
            "{{endpoint: localhost, protocol: tls, tls: {{ca_file: \"{}\"}}}}",
            path.display()
        );
        let config = config(FACTORY, &yaml).unwrap();
        config
            .build(&flowtap_pipeline::testing::context("ipfix"))
            .map(drop)
    };
    build("ca.crt").unwrap();
    let error = build("missing.crt").unwrap_err();
    assert!(error.to_string().contains("missing.crt"), "{error}");
}
