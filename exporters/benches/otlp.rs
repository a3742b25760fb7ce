//! OTLP bytes of many points: ours, against the messages of `opentelemetry-proto` built and encoded, and against the SDK, from its
//! counters to the same bytes.
//!
//! Ratios within one run; `cargo bench -p flowtap-exporters --bench otlp`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that can't be set up has nothing to say"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flowtap_exporters::otlp;
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, LabelValue, Naming, Points, Series, Snapshot, SumPoint, Timestamp,
    Unit,
};
use opentelemetry::KeyValue as Attribute;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics as Collected;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{Instrument, PeriodicReader, SdkMeterProvider, Stream, Temporality};
use prost::Message;

const POINTS: u32 = 100_000;

const FAMILY: Family = Family {
    name: "network_tcp_flow_egress",
    naming: Naming::PrimusLens,
    help: "Payload bytes of TCP connections that this machine opened, by peer.",
    unit: Unit::Bytes,
    kind: FamilyKind::Counter,
};

/// The attributes of a point, six of them.
fn attributes(index: u32) -> [(&'static str, String); 6] {
    [
        ("raddr", std::net::Ipv4Addr::from(index).to_string()),
        ("rport", (index % 65_536).to_string()),
        ("direction", "outbound".to_owned()),
        ("type", "externalHosts".to_owned()),
        ("comm", "nginx".to_owned()),
        ("netns", "4026531840".to_owned()),
    ]
}

fn snapshot() -> Arc<Snapshot> {
    let point = |index: u32| {
        let attributes = attributes(index);
        let pairs = attributes
            .iter()
            .map(|(name, value)| (*name, LabelValue::Text(value)));
        SumPoint {
            series: Series::new(&FAMILY, pairs, None, Timestamp::from_nanos(1)),
            total: u64::from(index),
            delta: 1,
            updated: Timestamp::from_nanos(1),
        }
    };
    Arc::new(Snapshot {
        pipeline: "metrics".into(),
        at: Timestamp::from_nanos(1_700_000_000_000_000_000),
        window: Duration::from_secs(5),
        last: false,
        replaced: false,
        families: vec![FamilySnapshot {
            family: &FAMILY,
            points: Points::Sums((0..POINTS).map(point).collect()),
            ended: Vec::new(),
        }],
    })
}

/// A series where messages are built: its attributes as text, and its total.
fn messages(series: &[([(&'static str, String); 6], i64)]) -> Vec<u8> {
    let points = series.iter().map(|(attributes, total)| NumberDataPoint {
        attributes: attributes
            .iter()
            .map(|(name, value)| KeyValue {
                key: (*name).to_owned(),
                value: Some(AnyValue {
                    value: Some(any_value::Value::StringValue(value.clone())),
                }),
                ..KeyValue::default()
            })
            .collect(),
        start_time_unix_nano: 1,
        time_unix_nano: 1_700_000_000_000_000_000,
        value: Some(number_data_point::Value::AsInt(*total)),
        ..NumberDataPoint::default()
    });
    let metric = Metric {
        name: FAMILY.name.to_owned(),
        description: FAMILY.help.to_owned(),
        unit: FAMILY.unit.as_str().to_owned(),
        data: Some(metric::Data::Sum(Sum {
            data_points: points.collect(),
            aggregation_temporality: 2,
            is_monotonic: true,
        })),
        ..Metric::default()
    };
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics: vec![metric],
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    request.encode_to_vec()
}

/// As opentelemetry-otlp exports, up to the bytes of a request.
struct Encoder(Arc<AtomicUsize>);

impl PushMetricExporter for Encoder {
    async fn export(&self, metrics: &Collected) -> OTelSdkResult {
        let request = ExportMetricsServiceRequest::from(metrics);
        self.0.store(request.encode_to_vec().len(), Ordering::Relaxed);
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

/// A counter of the SDK with every series in it, and the length of the last request. Exports when flushed.
fn sdk(series: &[([(&'static str, String); 6], i64)]) -> (SdkMeterProvider, Arc<AtomicUsize>) {
    let bytes = Arc::new(AtomicUsize::new(0));
    let reader = PeriodicReader::builder(Encoder(Arc::clone(&bytes)))
        .with_interval(Duration::from_secs(86_400))
        .build();
    let room = series.len();
    let provider = SdkMeterProvider::builder()
        .with_reader(reader)
        .with_view(move |_: &Instrument| Stream::builder().with_cardinality_limit(room).build().ok())
        .build();
    let counter = provider
        .meter("bench")
        .u64_counter(FAMILY.name)
        .with_description(FAMILY.help)
        .with_unit(FAMILY.unit.as_str())
        .build();
    for (attributes, total) in series {
        let attributes = attributes
            .clone()
            .map(|(name, value)| Attribute::new(name, value));
        counter.add(u64::try_from(*total).unwrap(), &attributes);
    }
    (provider, bytes)
}

fn encode(criterion: &mut Criterion) {
    let snapshot = snapshot();
    let config = otlp::Config {
        max_points_per_request: usize::MAX.try_into().unwrap(),
        max_request_bytes: usize::MAX,
        ..otlp::Config::default()
    };
    let series: Vec<_> = (0..POINTS)
        .map(|index| (attributes(index), i64::from(index)))
        .collect();
    let ours: usize = otlp::encoded(&config, &snapshot)
        .iter()
        .map(bytes::Bytes::len)
        .sum();
    let (provider, by_sdk) = sdk(&series);
    provider.force_flush().unwrap();
    println!(
        "{POINTS} points: {ours} bytes, as messages {}, by the SDK {}",
        messages(&series).len(),
        by_sdk.load(Ordering::Relaxed)
    );
    let mut group = criterion.benchmark_group("otlp");
    group
        .throughput(Throughput::Elements(u64::from(POINTS)))
        .sample_size(10);
    group.bench_function("flowtap", |bencher| {
        bencher.iter(|| black_box(otlp::encoded(&config, &snapshot)));
    });
    group.bench_function("messages", |bencher| {
        bencher.iter(|| black_box(messages(&series)));
    });
    group.bench_function("sdk", |bencher| bencher.iter(|| provider.force_flush().unwrap()));
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
