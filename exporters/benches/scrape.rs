//! A scrape of many series: flowtap's, against the `prometheus` crate's gathering and encoding of
//! the same, and against the SDK's counters exported by `opentelemetry-prometheus`.
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
use flowtap_exporters::prometheus::{chunks, text};
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, LabelValue, Naming, Points, Rendered, Series, Snapshot, SumPoint,
    Timestamp, Unit,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::{IntCounterVec, Opts, Registry, TextEncoder};

const SERIES: u32 = 100_000;

const NAME: &str = "network_tcp_flow_egress";

const FAMILY: Family = Family {
    name: NAME,
    naming: Naming::PrimusLens,
    help: "Payload bytes of TCP connections that this machine opened, by peer.",
    unit: Unit::Bytes,
    kind: FamilyKind::Counter,
};

fn addr(index: u32) -> IpAddr {
    IpAddr::from(Ipv4Addr::from(0xc633_6400_u32.wrapping_add(index)))
}

fn snapshot() -> Arc<Snapshot> {
    // As the window makes its series: labels of few values are shared.
    let shared = [
        ("direction", LabelValue::Text("outbound")),
        ("type", LabelValue::Text("externalHosts")),
    ];
    let shared = Arc::new(Rendered::new(&FAMILY, shared));
    let point = |index: u32| {
        let pairs = [
            ("raddr", LabelValue::Addr(addr(index))),
            ("rport", LabelValue::Port(443)),
        ];
        let series = Series::new(
            &FAMILY,
            pairs,
            Some(Arc::clone(&shared)),
            Timestamp::from_nanos(1),
        );
        SumPoint {
            series,
            total: u64::from(index) * 1_000,
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
        pipeline: "metrics".into(),
        at: Timestamp::from_nanos(1),
        window: Duration::from_secs(5),
        last: false,
        replaced: false,
        families: vec![family],
    })
}

fn registry() -> Registry {
    let registry = Registry::new();
    let options = Opts::new(format!("primus_lens_{NAME}"), FAMILY.help);
    let counters = IntCounterVec::new(options, &["raddr", "rport", "direction", "type"]).unwrap();
    registry.register(Box::new(counters.clone())).unwrap();
    for index in 0..SERIES {
        let raddr = addr(index).to_string();
        counters
            .with_label_values(&[&raddr, "443", "outbound", "externalHosts"])
            .inc_by(u64::from(index) * 1_000);
    }
    registry
}

/// The same in a counter of the SDK, and the registry that the bridge answers for it.
fn bridge() -> (SdkMeterProvider, Registry) {
    let registry = Registry::new();
    let bridge = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .with_namespace("primus_lens")
        .without_counter_suffixes()
        .without_units()
        .scope_info_enabled(false)
        .without_target_info()
        .build()
        .unwrap();
    let provider = SdkMeterProvider::builder()
        .with_reader(bridge)
        .with_view(|_: &Instrument| {
            Stream::builder()
                .with_cardinality_limit(SERIES as usize)
                .build()
                .ok()
        })
        .build();
    let counter = provider
        .meter("bench")
        .u64_counter(NAME)
        .with_description(FAMILY.help)
        .build();
    for index in 0..SERIES {
        let attributes = [
            KeyValue::new("raddr", addr(index).to_string()),
            KeyValue::new("rport", "443"),
            KeyValue::new("direction", "outbound"),
            KeyValue::new("type", "externalHosts"),
        ];
        counter.add(u64::from(index) * 1_000, &attributes);
    }
    (provider, registry)
}

fn gathered(registry: &Registry) -> String {
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

fn scrape(criterion: &mut Criterion) {
    let (snapshot, registry) = (snapshot(), registry());
    let ours = text("primus_lens", vec![Arc::clone(&snapshot)]);
    let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples(&ours), samples(&gathered(&registry)), "the same series");
    println!("a scrape of {SERIES} series: {} bytes", ours.len());
    let mut group = criterion.benchmark_group("scrape");
    group
        .throughput(Throughput::Elements(u64::from(SERIES)))
        .sample_size(10);
    group.bench_function("flowtap", |bencher| {
        bencher.iter(|| black_box(text("primus_lens", vec![Arc::clone(&snapshot)])));
    });
    // As the daemon answers: a piece at a time, and never all of it in memory.
    group.bench_function("flowtap_in_pieces", |bencher| {
        bencher.iter(|| {
            let pieces = chunks("primus_lens", vec![Arc::clone(&snapshot)]);
            pieces.map(|piece| black_box(piece).len()).sum::<usize>()
        });
    });
    group.bench_function("prometheus_crate", |bencher| {
        bencher.iter(|| black_box(gathered(&registry)));
    });
    let (_provider, bridged) = bridge();
    assert_eq!(samples(&ours), samples(&gathered(&bridged)), "the same series");
    group.bench_function("opentelemetry_prometheus", |bencher| {
        bencher.iter(|| black_box(gathered(&bridged)));
    });
    group.finish();
}

criterion_group!(benches, scrape);
criterion_main!(benches);
