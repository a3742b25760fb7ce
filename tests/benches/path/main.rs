//! The path of a record, without the kernel: how fast, with how many allocations, and what a series takes.
//!
//! `cargo bench --bench path`. Costs per item and ratios within one run; docs/performance.md has a run of it.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program whose output is its purpose"
)]

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_engine::Stages;
use flowtap_exporters::{otlp, prometheus};
use flowtap_pipeline::catalog::{FamilyId, Label};
use flowtap_pipeline::{
    BuildContext, ComponentId, Endpoint, Flow, FlowBatch, KubernetesNames, Output, ProcessorConfig, Role,
    RoleSource, Snapshot, TcpRecord, Timestamp,
};
use flowtap_processors::window::{self, FamilyConfig};
use flowtap_processors::{direction, policy};

/// Records that are passed on at a time.
const BATCH: usize = 1_024;

/// Records that are counted, at each number of keys.
const RECORDS: usize = 8_000_000;

const PREFIXES: u32 = 1_000;

/// Argument for a run under a profiler: number of keys, and number of records. callgrind counts
/// instructions in [`measured`] alone with `--toggle-collect='*measured*'`.
const KEYS: &str = "--keys";

/// Labels beyond those of the default profile, which name the process or what the cluster calls both ends.
const MORE_LABELS: [(&str, &[Label]); 2] = [
    ("process", &[Label::Netns, Label::Pid, Label::Comm]),
    (
        "cluster",
        &[
            Label::PeerNamespace,
            Label::PeerWorkload,
            Label::LocalNamespace,
            Label::LocalWorkload,
        ],
    ),
];

/// Number of processes and workloads.
const NAMES: u32 = 500;

/// Argument with which this program calls itself.
const MEMORY: &str = "--memory";

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [argument, series] = &*arguments
        && argument == MEMORY
    {
        return memory(series.parse().unwrap());
    }
    if let [argument, keys, records] = &*arguments
        && argument == KEYS
    {
        return hot_path("default", &[], keys.parse().unwrap(), records.parse().unwrap());
    }
    // `cargo bench` calls every benchmark with `--bench`; `cargo test --benches` without.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    println!("direction -> policy ({PREFIXES} prefixes) -> window, one core");
    println!(
        "{:<8} {:>10} {:>14} {:>12} {:>18}",
        "labels", "live keys", "million rec/s", "ns/record", "allocations/record"
    );
    for keys in [1_000, 10_000, 100_000, 1_000_000] {
        hot_path("default", &[], keys, RECORDS);
    }
    for (name, labels) in MORE_LABELS {
        hot_path(name, labels, 100_000, RECORDS);
    }
    println!();
    // Each in a separate process with fresh memory.
    for series in ["100000", "1000000"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        assert!(command.args([MEMORY, series]).status().unwrap().success());
    }
    println!();
    tick(100_000);
}

fn context(id: &ComponentId) -> BuildContext {
    BuildContext {
        pipeline: "metrics".into(),
        strict: true,
        ..BuildContext::new(id.clone())
    }
}

/// The synchronous chain that the daemon runs.
struct Path(Stages);

impl Path {
    /// With `labels` beside the default ones.
    fn new(max_series: usize, labels: &[Label]) -> Self {
        let egress = FamilyId::Egress.definition();
        let labels = egress.labels.iter().chain(labels).copied().collect();
        let egress_config = FamilyConfig {
            labels: Some(labels),
            ..FamilyConfig::default()
        };
        let prefix = |index: u32| {
            let net = Ipv4Addr::from(0x0b00_0000 + (index << 12));
            format!("{net}/20").parse().unwrap()
        };
        // Neighbours differ, so that none can be merged.
        let of = |class| (0..PREFIXES).filter(move |index| index % 2 == class).map(prefix);
        let policy = policy::Config {
            internal_hosts: of(0).collect(),
            classes: vec![policy::CustomClass {
                name: "partners".to_owned(),
                cidrs: of(1).collect(),
            }],
            ..policy::Config::default()
        };
        let window = window::Config {
            max_series: max_series.try_into().unwrap(),
            families: [(egress.family.name.to_owned(), egress_config)].into(),
            ..window::Config::default()
        };
        let configs: [(ComponentId, &dyn ProcessorConfig); 3] = [
            ("direction".parse().unwrap(), &direction::Config::default()),
            ("policy".parse().unwrap(), &policy),
            ("window".parse().unwrap(), &window),
        ];
        let configs = configs.iter().map(|(id, config)| (id, *config));
        let mut stages = Stages::build(configs, context).unwrap().unwrap();
        stages.begin(Timestamp::from_nanos(1));
        Self(stages)
    }

    fn take(&mut self, batch: &mut FlowBatch) {
        self.0.accept(batch);
    }

    #[expect(clippy::panic, reason = "without a window there is nothing to measure")]
    fn advance(&mut self, to: Timestamp) -> Snapshot {
        let output = self.0.advance(to).and_then(Output::into_snapshot);
        let Some(snapshot) = output else {
            panic!("a window that has not closed");
        };
        Arc::unwrap_or_clone(snapshot)
    }
}

/// A record of the connection with this number: bytes both ways, no round-trip time, so that it touches two series.
fn record(index: usize) -> TcpRecord {
    let index = u32::try_from(index).unwrap();
    let remote = IpAddr::from(Ipv4Addr::from(0x0b00_0000 + index));
    let local = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    TcpRecord {
        sent_bytes: 1_000,
        received_bytes: 2_000,
        ..TcpRecord::new(Flow {
            netns: 1,
            role: Role::Client,
            role_source: RoleSource::Handshake,
            pid: index % NAMES,
            comm: *b"server\0\0\0\0\0\0\0\0\0\0",
            ..Flow::new(Endpoint::new(local, 40_000), Endpoint::new(remote, 443))
        })
    }
}

/// Names that the processor `kubernetes` gives to records.
fn name(batches: &mut [FlowBatch]) {
    let names = |index: u32| KubernetesNames {
        namespace: format!("team-{}", index % 20),
        pod: format!("server-{index}-7c9f8d5b6c-abcde"),
        workload: format!("Deployment/server-{index}"),
        ..KubernetesNames::default()
    };
    let names: Vec<_> = (0..NAMES).map(names).map(Arc::new).collect();
    for record in batches.iter_mut().flat_map(|batch| &mut batch.tcp) {
        record.flow.peer_names = Some(Arc::clone(&names[record.flow.pid as usize]));
        record.flow.local_names = Some(Arc::clone(&names[0]));
    }
}

/// Batches over all keys, in an order that no cache knows.
fn batches(keys: usize) -> Vec<FlowBatch> {
    let mut order: Vec<_> = (0..keys).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut order);
    order
        .chunks(BATCH)
        .map(|chunk| FlowBatch {
            tcp: chunk.iter().map(|&index| record(index)).collect(),
            ..FlowBatch::default()
        })
        .collect()
}

/// All batches, so many times.
#[inline(never)]
fn measured(path: &mut Path, batches: &mut [FlowBatch], rounds: usize) -> Duration {
    let began = Instant::now();
    for _ in 0..rounds {
        for batch in &mut *batches {
            path.take(black_box(batch));
        }
    }
    began.elapsed()
}

fn hot_path(name_of_labels: &str, labels: &[Label], keys: usize, records: usize) {
    let mut path = Path::new(4 * keys, labels);
    let mut batches = batches(keys);
    if labels.contains(&Label::PeerWorkload) {
        name(&mut batches);
    }
    // The first round makes the series.
    for batch in &mut batches {
        path.take(batch);
    }
    let rounds = records.div_ceil(keys);
    let elapsed = measured(&mut path, &mut batches, rounds);
    let records = (rounds * keys) as f64;
    let counted = allocation_counter::measure(|| {
        for batch in &mut batches {
            path.take(batch);
        }
    });
    println!(
        "{name_of_labels:<8} {keys:>10} {:>14.2} {:>12.1} {:>18.6}",
        records / elapsed.as_secs_f64() / 1e6,
        elapsed.as_secs_f64() * 1e9 / records,
        counted.count_total as f64 / keys as f64
    );
}

fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Two series per key; everything that lives for them: keys, values, renderings, the snapshot that exporters hold.
fn memory(series: usize) {
    let keys = series / 2;
    let mut path = Path::new(series, &[]);
    let before = resident();
    for first in (0..keys).step_by(BATCH) {
        let mut batch = FlowBatch {
            tcp: (first..keys.min(first + BATCH)).map(record).collect(),
            ..FlowBatch::default()
        };
        path.take(&mut batch);
    }
    let snapshot = Arc::new(path.advance(Timestamp::from_nanos(5_000_000_000)));
    let with_snapshot = resident();
    let mut bytes = 0;
    let began = Instant::now();
    let mut peak = 0;
    for chunk in prometheus::chunks("primus_lens", vec![Arc::clone(&snapshot)]) {
        bytes += chunk.len();
        peak = peak.max(resident());
    }
    println!(
        "{} series: {} bytes each, all in; a scrape of {:.1} MB in {:.0} ms grows memory by {} KiB",
        snapshot.points(),
        (with_snapshot - before) / snapshot.points() as u64,
        bytes as f64 / 1e6,
        began.elapsed().as_secs_f64() * 1e3,
        peak.saturating_sub(with_snapshot) / 1024
    );
}

/// From the watermark that closes a window to what each exporter has made of it.
fn tick(flows: usize) {
    let mut path = Path::new(4 * flows, &[]);
    let mut batches = batches(flows);
    let mut window = |at: u64| -> (Snapshot, Duration) {
        for batch in &mut batches {
            path.take(batch);
        }
        let began = Instant::now();
        let snapshot = path.advance(Timestamp::from_nanos(at * 5_000_000_000));
        (snapshot, began.elapsed())
    };
    let _first = window(1);
    let (snapshot, closing) = window(2);
    let snapshot = Arc::new(snapshot);
    let began = Instant::now();
    let requests = otlp::encoded(&otlp::Config::default(), &snapshot);
    let encoding = began.elapsed();
    let began = Instant::now();
    let scraped: usize = prometheus::chunks("primus_lens", vec![Arc::clone(&snapshot)])
        .map(|chunk| chunk.len())
        .sum();
    let scraping = began.elapsed();
    println!(
        "a tick with {flows} changed flows ({} series): close {:.1} ms, otlp {:.1} ms ({} requests), a scrape {:.1} ms ({:.1} MB)",
        snapshot.points(),
        closing.as_secs_f64() * 1e3,
        encoding.as_secs_f64() * 1e3,
        requests.len(),
        scraping.as_secs_f64() * 1e3,
        scraped as f64 / 1e6
    );
}
