//! Cost of a record that a filter drops, beside that of one that the window folds.
//!
//! Over 100,000 connections in an order that no cache knows. `dropped` is the filter alone, `folded` the window alone; a record that
//! passes costs both. By what never changes (`local_port`, `address`) a record is judged by itself; by what can (`port`, `class`, `comm`)
//! its connection is looked up.
//!
//! At the end it prints the ratio of both for each matcher, over batches of a receiver's size that have just been written, as a receiver's
//! are. It fails unless dropping costs clearly less than folding, by every matcher. Each round measures both one after the other, and the
//! median of the rounds counts, so that other work of the machine is in neither or both. Criterion's figures before are over records that
//! come from memory.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its result, and one that can't be set up has none"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};
use flowtap_pipeline::testing::{AggregatorTest, ProcessorTest};
use flowtap_pipeline::{Endpoint, Flow, FlowBatch, FlowKind, PeerClass, TcpRecord};
use flowtap_processors::{filter, window};
use nix::time::{ClockId, clock_gettime};

const CONNECTIONS: usize = 100_000;

/// Records that the receiver `ebpf` passes on at a time.
const BATCH: usize = 1_024;

/// Matchers that match every record.
const MATCHERS: [(&str, &str); 5] = [
    ("port", "{server_port: [22, 80, 443, 8000-8100]}"),
    ("local_port", "{local_port: [40000]}"),
    ("address", "{remote_address: [11.0.0.0/8, 192.168.0.0/16]}"),
    ("class", "{class: [externalHosts, partners]}"),
    ("comm", "{comm: ['ser*', nginx]}"),
];

/// The largest ratio that is clearly less than one.
const MOST: f64 = 0.9;

fn record(index: usize) -> TcpRecord {
    let index = u32::try_from(index).unwrap();
    let remote = IpAddr::from(Ipv4Addr::from(0x0b00_0000 + index));
    let local = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    TcpRecord {
        sent_bytes: 1_000,
        received_bytes: 2_000,
        ..TcpRecord::new(Flow {
            cookie: u64::from(index) + 1,
            kind: Some(FlowKind::Egress),
            class: Some(PeerClass::ExternalHosts),
            comm: *b"server\0\0\0\0\0\0\0\0\0\0",
            ..Flow::new(Endpoint::new(local, 40_000), Endpoint::new(remote, 443))
        })
    }
}

fn batches() -> Vec<FlowBatch> {
    let mut order: Vec<_> = (0..CONNECTIONS).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut order);
    order
        .chunks(BATCH)
        .map(|chunk| FlowBatch {
            tcp: chunk.iter().map(|&index| record(index)).collect(),
            ..FlowBatch::default()
        })
        .collect()
}

fn drop_or_fold(criterion: &mut Criterion) {
    let batches = batches();
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(CONNECTIONS as u64));
    group.sample_size(10);
    for (name, matcher) in MATCHERS {
        let mut filter = ProcessorTest::new(filter::FACTORY, &format!("exclude: [{matcher}]"));
        group.bench_function(BenchmarkId::new("dropped", name), |bencher| {
            let pass = |mut batches: Vec<FlowBatch>| {
                for batch in &mut batches {
                    filter.process_batch(black_box(batch));
                    assert!(batch.tcp.is_empty());
                }
                batches
            };
            bencher.iter_batched(|| batches.clone(), pass, BatchSize::LargeInput);
        });
    }
    let mut filter = ProcessorTest::new(filter::FACTORY, "exclude: [{server_port: [22, 80]}]");
    group.bench_function("kept", |bencher| {
        let pass = |mut batches: Vec<FlowBatch>| {
            for batch in &mut batches {
                filter.process_batch(black_box(batch));
            }
            batches
        };
        bencher.iter_batched(|| batches.clone(), pass, BatchSize::LargeInput);
    });
    let mut window = AggregatorTest::new(window::FACTORY, "{max_series: 1000000}");
    group.bench_function("folded", |bencher| {
        let fold = |batches: Vec<FlowBatch>| {
            for batch in &batches {
                window.fold_batch(black_box(batch));
            }
            batches
        };
        bencher.iter_batched(|| batches.clone(), fold, BatchSize::LargeInput);
    });
    group.finish();
}

/// Rounds of the comparison.
const ROUNDS: usize = 15;

/// Time that this thread has had a CPU: other threads of the machine take none of it.
fn on_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// CPU time that `pass` takes over all records.
fn time_of(batches: &[FlowBatch], mut pass: impl FnMut(&mut FlowBatch)) -> Duration {
    let times = batches.iter().map(|batch| {
        let mut batch = batch.clone();
        let start = on_cpu();
        pass(black_box(&mut batch));
        on_cpu().saturating_sub(start)
    });
    times.sum()
}

/// Fails unless dropping costs less than folding, by each matcher.
fn compare() {
    let batches = batches();
    let mut window = AggregatorTest::new(window::FACTORY, "{max_series: 1000000}");
    let mut dearer = Vec::new();
    for (name, matcher) in MATCHERS {
        let mut filter = ProcessorTest::new(filter::FACTORY, &format!("exclude: [{matcher}]"));
        let mut round = || {
            let dropped = time_of(&batches, |batch| filter.process_batch(batch));
            let folded = time_of(&batches, |batch| window.fold_batch(batch));
            [dropped, folded].map(|time| time.as_secs_f64() * 1e9 / CONNECTIONS as f64)
        };
        // Tables are filled by the first.
        round();
        let rounds: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
        let quartiles = |of: fn(&[f64; 2]) -> f64| {
            let mut sorted: Vec<_> = rounds.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            [ROUNDS / 4, ROUNDS / 2, ROUNDS * 3 / 4].map(|index| sorted[index])
        };
        let [quarter, median, three_quarters] = quartiles(|[dropped, folded]| dropped / folded);
        let ([_, dropped, _], [_, folded, _]) = (quartiles(|times| times[0]), quartiles(|times| times[1]));
        println!(
            "dropped / folded, {name}: {median:.2} ({quarter:.2} to {three_quarters:.2}); {dropped:.0} ns / {folded:.0} ns"
        );
        if median > MOST {
            dearer.push(name);
        }
    }
    assert!(
        dearer.is_empty(),
        "a record that is dropped costs more than {MOST} of one that is folded: {dearer:?}"
    );
}

criterion_group!(benches, drop_or_fold);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    compare();
}
