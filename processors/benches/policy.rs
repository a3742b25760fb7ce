//! The class of an address by the number of prefixes, and how long it takes to load them.
//!
//! A look-up should cost the same at 1,000 and at 100,000 prefixes, but for cache misses.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that can't be set up has nothing to say"
)]

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flowtap_pipeline::{ClusterRanges, NodeInfo};
use flowtap_processors::policy::{Config, Lists, Tables};
use ipnet::Ipv4Net;

const PREFIXES: [usize; 3] = [10, 1_000, 100_000];

/// Addresses that are looked up in turn: enough that no branch predictor knows them by heart.
const ADDRESSES: usize = 4_096;

/// Random prefixes of 8 to 32 bits, the same at every run.
fn prefixes(count: usize) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(7);
    let prefix = |random: &mut fastrand::Rng| {
        let net = Ipv4Net::new(Ipv4Addr::from(random.u32(..)), random.u8(8..=32)).unwrap();
        net.trunc().to_string()
    };
    (0..count).map(|_| prefix(&mut random)).collect()
}

fn tables(lists: &Lists) -> Tables {
    Tables::new(lists, &NodeInfo::default(), &ClusterRanges::default())
}

fn config(count: usize) -> Config {
    let list = prefixes(count).iter().map(|text| text.parse().unwrap()).collect();
    Config {
        internal_hosts: list,
        ..Config::default()
    }
}

fn look_up(criterion: &mut Criterion) {
    let mut random = fastrand::Rng::with_seed(8);
    let addresses: Vec<_> = (0..ADDRESSES)
        .map(|_| IpAddr::from(Ipv4Addr::from(random.u32(..))))
        .collect();
    let mut group = criterion.benchmark_group("look_up");
    group.throughput(Throughput::Elements(ADDRESSES as u64));
    for count in PREFIXES {
        let lists = Lists::read(&config(count)).unwrap();
        let tables = tables(&lists);
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                for addr in &addresses {
                    black_box(tables.class(black_box(*addr)));
                }
            });
        });
    }
    group.finish();
}

/// From a file to tables.
fn load(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for count in PREFIXES {
        let path = folder.path().join(count.to_string());
        fs::write(&path, prefixes(count).join("\n")).unwrap();
        let entry = format!("file:{}", path.display()).parse().unwrap();
        let config = Config {
            internal_hosts: vec![entry],
            ..Config::default()
        };
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                let lists = Lists::read(&config).unwrap();
                tables(&lists)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, look_up, load);
criterion_main!(benches);
