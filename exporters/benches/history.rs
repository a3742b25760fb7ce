//! A day of flow logs, as the exporter `file` writes it: the data of `tests/history/measure`.
//!
//! `cargo bench -p flowtap-exporters --bench history -- DIRECTORY RECORDS` writes Parquet with a partition per hour, by the exporter
//! itself, and prints how long that took. 2026-01-02, 100,000 peers of which few have most of the traffic, every 50th connection failed.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that can't be set up has nothing to say"
)]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use flowtap_exporters::file::{Config, FileExporter, Format, Rotation};
use flowtap_pipeline::log::{ConnectionLog, Counts, Outcome};
use flowtap_pipeline::{
    BuildContext, Endpoint, Exporter, Flow, FlowKind, LogBatch, LogBody, LogRecord, Output, Timestamp,
};
use tower::{Service, ServiceExt};

/// 2026-01-02T00:00:00Z
const BEGIN: u64 = 1_767_312_000;
const DAY: u64 = 86_400;
/// Seconds that a batch covers.
const INTERVAL: u64 = 5;
const PEERS: u32 = 100_000;
const PROCESSES: [&str; 8] = [
    "nginx",
    "postgres",
    "redis-server",
    "envoy",
    "kubelet",
    "curl",
    "java",
    "python3",
];

/// The connection of this number.
fn record(index: u64, at: Timestamp, random: &mut fastrand::Rng) -> LogRecord {
    // Some peers have most of the connections.
    let most = random.u32(..PEERS);
    let peer = random.u32(..=most);
    let remote = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + peer);
    let port = random.u16(32_768..61_000);
    let is_client = peer.is_multiple_of(2);
    let (local_port, remote_port) = if is_client { (port, 443) } else { (8443, port) };
    let mut flow = Flow::new(
        Endpoint::new(Ipv4Addr::new(192, 168, 0, 1).into(), local_port),
        Endpoint::new(remote.into(), remote_port),
    );
    flow.cookie = index + 1;
    flow.kind = Some(if is_client {
        FlowKind::Egress
    } else {
        FlowKind::Ingress
    });
    let process = (peer % 8) as usize;
    flow.pid = 1000 + peer % 8;
    flow.comm[..PROCESSES[process].len()].copy_from_slice(PROCESSES[process].as_bytes());
    let failed = index.is_multiple_of(50);
    let mut bytes = |most: i64| if failed { 0 } else { random.i64(100..most) };
    let counts = Counts {
        sent_bytes: bytes(100_000),
        received_bytes: bytes(1_000_000),
        sent_segments: bytes(800),
        received_segments: bytes(900),
        retransmits: i64::from(index.is_multiple_of(31)),
        ..Counts::default()
    };
    let duration = Duration::from_micros(random.u64(1000..5_000_000));
    LogRecord {
        at,
        flow,
        body: LogBody::Connection(ConnectionLog {
            outcome: if failed { Outcome::Failed } else { Outcome::Closed },
            error: failed.then_some("refused"),
            sequence: 0,
            adopted: false,
            duration,
            interval: duration,
            delta: counts,
            total: counts,
            rtt: Duration::from_micros(random.u64(200..20_000)),
            min_rtt: Duration::from_micros(random.u64(100..200)),
            handshake: Duration::from_micros(random.u64(100..30_000)),
            probability: 1.0,
        }),
    }
}

async fn write(directory: &str, records: u64) {
    let config = Config {
        path: format!("{directory}/date={{date}}/hour={{hour}}"),
        format: Format::Parquet,
        rotation: Rotation {
            max_files: 0,
            max_bytes: 1 << 30,
            ..Rotation::default()
        },
        ..Config::default()
    };
    let context = BuildContext::new("file".parse().unwrap());
    let mut exporter = FileExporter::new(&config, &context).unwrap();
    let mut service = exporter.start().await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let batches = DAY / INTERVAL;
    let mut written = 0;
    for batch in 0..batches {
        let at = Timestamp::from_nanos((BEGIN + batch * INTERVAL) * 1_000_000_000);
        let until = records * (batch + 1) / batches;
        let records = (written..until)
            .map(|index| record(index, at, &mut random))
            .collect();
        written = until;
        let batch = LogBatch {
            pipeline: "logs".into(),
            at,
            records,
            ..LogBatch::default()
        };
        let exported = service
            .ready()
            .await
            .unwrap()
            .call(Output::from(batch))
            .await
            .unwrap();
        assert_eq!(exported.failed, 0);
    }
    drop(service);
    exporter.stop().await;
}

fn main() {
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [directory, records] = &arguments[..] else {
        println!("usage: cargo bench -p flowtap-exporters --bench history -- DIRECTORY RECORDS");
        return;
    };
    let records: u64 = records.parse().unwrap();
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    runtime.block_on(write(directory, records));
    println!(
        "{records} records in {:.1} s, {:.0} ns each",
        begun.elapsed().as_secs_f64(),
        begun.elapsed().as_nanos() as f64 / records as f64
    );
}
