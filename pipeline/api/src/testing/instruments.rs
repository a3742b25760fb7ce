//! A meter that a test can read.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};

/// A meter whose counters and gauges of whole numbers a test reads, as Prometheus reads the daemon's.
///
/// ```
/// use flowtap_pipeline::BuildContext;
/// use flowtap_pipeline::opentelemetry::KeyValue;
/// use flowtap_pipeline::testing::{Instruments, context};
///
/// let instruments = Instruments::new();
/// let context = BuildContext {
///     meter: instruments.meter(),
///     ..context("drop_peers")
/// };
/// let dropped = context.meter.u64_counter("processor_dropped_records").build();
/// dropped.add(3, &[KeyValue::new("reason", "port")]);
/// let expected = [("reason=port".to_owned(), 3)];
/// assert_eq!(instruments.series("processor_dropped_records"), expected);
/// ```
#[derive(Clone, Debug)]
pub struct Instruments {
    reader: Reader,
    provider: SdkMeterProvider,
}

impl Default for Instruments {
    fn default() -> Self {
        Self::new()
    }
}

impl Instruments {
    /// Without an instrument.
    pub fn new() -> Self {
        let reader = Reader(Arc::new(ManualReader::builder().build()));
        let provider = SdkMeterProvider::builder().with_reader(reader.clone()).build();
        Self { reader, provider }
    }

    /// Returns the meter, for a context. Its instruments can be read as long as the value is kept.
    pub fn meter(&self) -> Meter {
        self.provider.meter("flowtap")
    }

    /// Returns the value of each series of a counter or gauge, in order of its labels, which are a text such as
    /// `pipeline=metrics,reason=port`. Names are without `flowtap_` and without what Prometheus adds, as the component gives them.
    ///
    /// # Panics
    /// If the instruments can't be read.
    pub fn series(&self, name: &str) -> Vec<(String, u64)> {
        let mut metrics = ResourceMetrics::default();
        super::or_fail(self.reader.collect(&mut metrics), "the instruments");
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

    /// Returns the sum of the series of a counter that have this label.
    ///
    /// # Panics
    /// If the instruments can't be read.
    pub fn sum(&self, name: &str, label: &str, value: &str) -> u64 {
        let wanted = format!("{label}={value}");
        let series = self.series(name).into_iter();
        series
            .filter(|(labels, _)| labels.split(',').any(|label| label == wanted))
            .map(|(_, value)| value)
            .sum()
    }
}

/// The SDK takes a reader by value, and a test reads it later.
#[derive(Clone, Debug)]
struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
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
