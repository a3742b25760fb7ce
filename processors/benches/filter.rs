//! Cost of a record that a filter drops, beside that of one that the window folds.
//!
//! Over 100,000 connections in an order that no cache knows. `dropped` is the filter alone, `folded` the window alone; a record that
//! passes costs both. By what never changes (`port`, `address`) a record is judged by itself; by what can (`class`, `comm`) its
//! connection is looked up.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that can't be set up has nothing to say"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flowtap_pipeline::testing::{AggregatorTest, ProcessorTest};
use flowtap_pipeline::{Endpoint, Flow, FlowBatch, FlowKind, PeerClass, TcpRecord};
use flowtap_processors::{filter, window};

const CONNECTIONS: usize = 100_000;

/// Records that are passed on at a time.
const BATCH: usize = 1_024;

/// Matchers that match every record.
const MATCHERS: [(&str, &str); 5] = [
    ("port", "{server_port: [22, 80, 443, 8000-8100]}"),
    ("local_port", "{local_port: [40000]}"),
    ("address", "{remote_address: [11.0.0.0/8, 192.168.0.0/16]}"),
    ("class", "{class: [externalHosts, partners]}"),
    ("comm", "{comm: ['ser*', nginx]}"),
];

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

criterion_group!(benches, drop_or_fold);
criterion_main!(benches);
