//! Helpers shared by the tests of several processors.

use std::sync::{Arc, Weak};
use std::time::Duration;

use flowtap_pipeline::{BuildContext, NodeInfo, Published};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics, Sum, SumDataPoint,
};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};

pub(crate) use flowtap_pipeline::testing::{flow, record};

/// A context on a node like `node`, with instruments that nobody reads.
pub(crate) fn context(node: NodeInfo) -> BuildContext {
    BuildContext {
        node: Published::new(node),
        ..flowtap_pipeline::testing::context("test")
    }
}

/// The counters that Prometheus gets, read as it reads them.
#[derive(Clone, Debug)]
pub(crate) struct Counters(Arc<ManualReader>);

impl MetricReader for Counters {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

impl Counters {
    /// `flowtap_processor_dropped_records_total` with this reason.
    pub(crate) fn dropped_records(&self, reason: &str) -> u64 {
        self.sum("processor_dropped_records", reason)
    }

    /// `flowtap_processor_dropped_bytes_total` with this reason.
    pub(crate) fn dropped_bytes(&self, reason: &str) -> u64 {
        self.sum("processor_dropped", reason)
    }

    /// The value of each series of a counter or gauge, with its labels as a text, in order.
    pub(crate) fn series(&self, name: &str) -> Vec<(String, u64)> {
        let mut metrics = ResourceMetrics::default();
        self.collect(&mut metrics).unwrap();
        let labels = |attributes: &mut dyn Iterator<Item = &KeyValue>| {
            let labels = attributes.map(|label| format!("{}={}", label.key, label.value));
            let mut labels: Vec<_> = labels.collect();
            labels.sort();
            labels.join(",")
        };
        let mut series = Vec::new();
        let all = metrics.scope_metrics().flat_map(ScopeMetrics::metrics);
        for metric in all.filter(|metric| metric.name() == name) {
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    let points = sum.data_points();
                    series.extend(points.map(|point| (labels(&mut point.attributes()), point.value())));
                }
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => {
                    let points = gauge.data_points();
                    series.extend(points.map(|point| (labels(&mut point.attributes()), point.value())));
                }
                _ => {}
            }
        }
        series.sort();
        series
    }

    fn sum(&self, name: &str, reason: &str) -> u64 {
        let mut metrics = ResourceMetrics::default();
        self.collect(&mut metrics).unwrap();
        let of_reason = metrics
            .scope_metrics()
            .flat_map(ScopeMetrics::metrics)
            .filter(|metric| metric.name() == name)
            .filter_map(|metric| match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => Some(sum),
                _ => None,
            })
            .flat_map(Sum::data_points)
            .filter(|point| {
                let mut attributes = point.attributes();
                attributes.any(|attribute| *attribute == KeyValue::new("reason", reason.to_owned()))
            });
        of_reason.map(SumDataPoint::value).sum()
    }
}

/// A context whose counters are read, for as long as the provider is kept.
pub(crate) fn counted_context(node: NodeInfo) -> (BuildContext, Counters, SdkMeterProvider) {
    let counters = Counters(Arc::new(ManualReader::builder().build()));
    let provider = SdkMeterProvider::builder().with_reader(counters.clone()).build();
    let context = BuildContext {
        meter: provider.meter("flowtap"),
        ..context(node)
    };
    (context, counters, provider)
}
