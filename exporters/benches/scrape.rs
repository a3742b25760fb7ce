//! A scrape of many series: ours, against the `prometheus` crate's gathering and encoding of the same, and what a series costs.
//!
//! Ratios within one run; `cargo bench -p flowtap-exporters --bench scrape`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that can't be set up has nothing to say"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flowtap_exporters::prometheus::text;
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, LabelValue, Naming, Points, Series, Snapshot, SumPoint, Timestamp,
};
use prometheus::{IntCounterVec, Opts, Registry, TextEncoder};

const SERIES: u32 = 100_000;

const NAME: &str = "network_tcp_flow_egress";

const FAMILY: Family = Family {
    name: NAME,
    naming: Naming::PrimusLens,
    help: "Payload bytes of TCP connections that this machine opened, by peer.",
    unit: "By",
    kind: FamilyKind::Counter,
};

fn addr(number: u32) -> IpAddr {
    IpAddr::from(Ipv4Addr::from(0xc633_6400_u32.wrapping_add(number)))
}

fn snapshot() -> Arc<Snapshot> {
    let point = |number: u32| {
        let pairs = [
            ("raddr", LabelValue::Addr(addr(number))),
            ("rport", LabelValue::Port(443)),
            ("direction", LabelValue::Text("outbound")),
            ("type", LabelValue::Text("externalHosts")),
        ];
        SumPoint {
            series: Arc::new(Series::new(&FAMILY, pairs, None, Timestamp::from_nanos(1))),
            total: u64::from(number) * 1_000,
            delta: 1,
            updated: Timestamp::from_nanos(1),
        }
    };
    let family = FamilySnapshot {
        family: &FAMILY,
        points: Points::Sums((0..SERIES).map(point).collect()),
        ended: Vec::new(),
    };
    Arc::new(Snapshot {
        pipeline: "flows".into(),
        at: Timestamp::from_nanos(1),
        window: Duration::from_secs(5),
        last: false,
        families: vec![family],
    })
}

fn registry() -> Registry {
    let registry = Registry::new();
    let options = Opts::new(format!("primus_lens_{NAME}"), FAMILY.help);
    let counters = IntCounterVec::new(options, &["raddr", "rport", "direction", "type"]).unwrap();
    registry.register(Box::new(counters.clone())).unwrap();
    for number in 0..SERIES {
        let raddr = addr(number).to_string();
        counters
            .with_label_values(&[&raddr, "443", "outbound", "externalHosts"])
            .inc_by(u64::from(number) * 1_000);
    }
    registry
}

fn scrape(criterion: &mut Criterion) {
    let (snapshot, registry) = (snapshot(), registry());
    let ours = text("primus_lens", vec![Arc::clone(&snapshot)]);
    let theirs = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert_eq!(ours.lines().count(), theirs.lines().count(), "the same series");
    println!("a scrape of {SERIES} series: {} bytes", ours.len());
    let mut group = criterion.benchmark_group("scrape");
    group
        .throughput(Throughput::Elements(u64::from(SERIES)))
        .sample_size(10);
    group.bench_function("flowtap", |bencher| {
        bencher.iter(|| black_box(text("primus_lens", vec![Arc::clone(&snapshot)])));
    });
    group.bench_function("prometheus_crate", |bencher| {
        bencher.iter(|| black_box(TextEncoder::new().encode_to_string(&registry.gather()).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, scrape);
criterion_main!(benches);
