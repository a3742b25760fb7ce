//! The daemon's own metrics as snapshots, so that they go through the same exporters as flows: same queue, TLS, headers, storage,
//! retries.
//!
//! A metric's name is that of its instrument after `flowtap.`, which by OpenTelemetry's rules becomes the name that `/metrics` has. A
//! series lives on from reading to reading, as those of a window do: exporters keep what they delivered by series.

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_pipeline::telemetry::Reading;
use flowtap_pipeline::{
    Family, FamilyKind, FamilySnapshot, HISTOGRAM_BUCKETS, HistogramPoint, LabelValue, Naming, Points,
    Series, Snapshot, SumPoint, Timestamp, Unit, ValuePoint,
};
use opentelemetry::KeyValue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, Metric, MetricData, ResourceMetrics, ScopeMetrics,
};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};

/// A reader that the provider and [`OwnMetrics`] share.
#[derive(Clone, Debug, Default)]
pub struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: std::sync::Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// The last value of a series.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Whole(u64),
    Fraction(f64),
    Histogram([u64; HISTOGRAM_BUCKETS + 1], f64),
}

/// A series that lives on.
#[derive(Debug)]
struct Cell {
    series: Series,
    value: Value,
    updated: Timestamp,
    /// The reading in which it was seen last.
    seen: Timestamp,
}

type Labels = Vec<(String, String)>;

/// A metric that has been seen. Metrics are as many as instruments, so their descriptions are kept for good.
#[derive(Debug)]
struct Known {
    family: &'static Family,
    cells: HashMap<Labels, Cell>,
}

/// The daemon's own metrics.
#[derive(Debug)]
pub struct OwnMetrics {
    reader: SharedReader,
    /// In the order in which they came: exporters know a family by its place.
    known: Vec<Known>,
    /// Metrics that no snapshot can hold, which is logged once.
    rejected: Vec<String>,
}

impl OwnMetrics {
    /// Reads from `reader`.
    pub fn new(reader: SharedReader) -> Self {
        Self {
            reader,
            known: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// All of them as they stand.
    pub fn read(&mut self, reading: Reading) -> Snapshot {
        let mut metrics = ResourceMetrics::default();
        if let Err(error) = self.reader.collect(&mut metrics) {
            tracing::warn!(%error, "the daemon's own metrics can't be read; \
                hint: report this with the log at level debug");
        }
        for metric in metrics.scope_metrics().flat_map(ScopeMetrics::metrics) {
            self.take(metric, reading);
        }
        let families = self.known.iter_mut().map(|known| known.snapshot(reading.at));
        Snapshot {
            pipeline: "".into(),
            at: reading.at,
            window: reading.at.since(reading.since),
            last: reading.last,
            replaced: false,
            families: families.collect(),
        }
    }

    fn take(&mut self, metric: &Metric, reading: Reading) {
        let Some((kind, points)) = points_of(metric) else {
            if !self.rejected.iter().any(|name| name == metric.name()) {
                tracing::warn!(
                    metric = metric.name(),
                    "this metric can't be pushed; \
                hint: scrape it from service.telemetry.metrics.endpoint"
                );
                self.rejected.push(metric.name().to_owned());
            }
            return;
        };
        let name = metric.name().to_owned();
        let place = self.known.iter().position(|known| known.family.name == name);
        let place = place.unwrap_or_else(|| {
            self.known.push(Known::new(name, metric, kind));
            self.known.len() - 1
        });
        for (attributes, value) in points {
            self.known[place].note(attributes, value, reading);
        }
    }
}

impl Known {
    fn new(name: String, metric: &Metric, kind: FamilyKind) -> Self {
        let family = Family {
            name: name.leak(),
            naming: Naming::Otel,
            help: metric.description().to_owned().leak(),
            unit: Unit::of(metric.unit().to_owned().leak()),
            kind,
        };
        Self {
            family: Box::leak(Box::new(family)),
            cells: HashMap::new(),
        }
    }

    fn note(&mut self, attributes: Vec<KeyValue>, value: Value, reading: Reading) {
        let labels = attributes.into_iter().map(|KeyValue { key, value, .. }| {
            let value = value.as_str().into_owned();
            (key.to_string(), value)
        });
        let mut labels: Labels = labels.collect();
        labels.sort_unstable();
        let family = self.family;
        let cell = self.cells.entry(labels).or_insert_with_key(|labels| {
            let pairs = labels
                .iter()
                .map(|(name, value)| (&**name, LabelValue::Text(value)));
            Cell {
                series: Series::new(family, pairs, None, reading.since),
                value: value.clone(),
                updated: reading.at,
                seen: reading.at,
            }
        });
        if cell.value != value {
            cell.value = value;
            cell.updated = reading.at;
        }
        cell.seen = reading.at;
    }

    /// The series that were seen at `at`; the others have ended.
    fn snapshot(&mut self, at: Timestamp) -> FamilySnapshot {
        let mut ended = Vec::new();
        self.cells.retain(|_, cell| {
            if cell.seen != at {
                ended.push(cell.series.clone());
            }
            cell.seen == at
        });
        let (mut sums, mut values, mut histograms) = (Vec::new(), Vec::new(), Vec::new());
        for cell in self.cells.values() {
            let (series, updated) = (cell.series.clone(), cell.updated);
            match cell.value {
                Value::Whole(total) => sums.push(SumPoint {
                    series,
                    total,
                    // Nobody adds these up: a file has their totals.
                    delta: 0,
                    updated,
                }),
                Value::Fraction(value) => values.push(ValuePoint {
                    series,
                    value,
                    updated,
                }),
                Value::Histogram(buckets, sum) => histograms.push(HistogramPoint {
                    series,
                    buckets: buckets.into(),
                    sum,
                    updated,
                }),
            }
        }
        // A metric has values of one kind.
        let points = match self.family.kind {
            kind if kind.is_histogram() => Points::Histograms(histograms),
            _ if values.is_empty() => Points::Sums(sums),
            _ => Points::Values(values),
        };
        FamilySnapshot {
            family: self.family,
            points,
            ended,
        }
    }
}

/// Attributes and value of each point.
type Noted = Vec<(Vec<KeyValue>, Value)>;

/// The kind of a metric, and its points; `None` if a snapshot can't hold them.
fn points_of(metric: &Metric) -> Option<(FamilyKind, Noted)> {
    match metric.data() {
        AggregatedMetrics::U64(data) => points(data, Value::Whole, |sum| sum as f64),
        AggregatedMetrics::I64(data) => points(data, |value| Value::Fraction(value as f64), |sum| sum as f64),
        AggregatedMetrics::F64(data) => points(data, Value::Fraction, |sum| sum),
    }
}

fn points<T: Copy>(
    data: &MetricData<T>,
    number: impl Fn(T) -> Value,
    sum: impl Fn(T) -> f64,
) -> Option<(FamilyKind, Noted)> {
    match data {
        MetricData::Gauge(gauge) => {
            let points = gauge.data_points();
            let points = points.map(|point| (point.attributes().cloned().collect(), number(point.value())));
            Some((FamilyKind::Gauge, points.collect()))
        }
        MetricData::Sum(counter) => {
            let kind = if counter.is_monotonic() {
                FamilyKind::Counter
            } else {
                FamilyKind::UpDownCounter
            };
            let points = counter.data_points();
            let points = points.map(|point| (point.attributes().cloned().collect(), number(point.value())));
            Some((kind, points.collect()))
        }
        MetricData::Histogram(histogram) => {
            let mut points = Vec::new();
            let mut bounds = None;
            for point in histogram.data_points() {
                let upper: Vec<_> = point.bounds().collect();
                let counts: Vec<_> = point.bucket_counts().collect();
                let mut buckets = [0; HISTOGRAM_BUCKETS + 1];
                buckets.get_mut(..counts.len())?.copy_from_slice(&counts);
                bounds = Some(upper);
                points.push((
                    point.attributes().cloned().collect(),
                    Value::Histogram(buckets, sum(point.sum())),
                ));
            }
            Some((FamilyKind::histogram(&bounds?), points))
        }
        MetricData::ExponentialHistogram(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;
    use flowtap_engine::telemetry::ReceiverTelemetry;
    use flowtap_exporters::naming::prometheus_name;
    use flowtap_pipeline::Resource;
    use flowtap_pipeline::telemetry::DeliveryTelemetry;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn reading(since: u64, at: u64) -> Reading {
        Reading {
            since: Timestamp::from_nanos(since),
            at: Timestamp::from_nanos(at),
            last: false,
        }
    }

    /// Names as Prometheus has them, each with its value, or the number of its observations.
    fn values(snapshot: &Snapshot) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::new();
        for family in &snapshot.families {
            let name = prometheus_name("", family.family);
            let sum = match &family.points {
                Points::Sums(points) => points.iter().map(|point| point.total as f64).sum(),
                Points::Values(points) => points.iter().map(|point| point.value).sum(),
                Points::Histograms(points) => points.iter().map(|point| point.count() as f64).sum(),
            };
            values.insert(name, sum);
        }
        values
    }

    fn pushed() -> flowtap_config::MetricsConfig {
        flowtap_config::MetricsConfig {
            exporters: vec!["otlp".to_owned()],
            ..flowtap_config::MetricsConfig::default()
        }
    }

    #[test]
    fn what_is_pushed_has_the_names_and_values_that_metrics_has() {
        let telemetry = Telemetry::new(&Resource::default(), &pushed()).unwrap();
        let id = "otlp".parse().unwrap();
        DeliveryTelemetry::new(&telemetry.meter(), &id).failed(flowtap_pipeline::PipelineKind::Metrics, 7);
        ReceiverTelemetry::new(&telemetry.meter(), &id).took(Duration::from_millis(3));
        let pushed = values(&telemetry.own_metrics().unwrap().read(reading(1, 2)));
        let mut scraped = telemetry.reader().names();
        scraped.retain(|name| name != "target_info");
        assert_eq!(pushed.keys().cloned().collect::<Vec<_>>(), scraped);
        let whole = |name: &str| format!("{:.0}", pushed[name]);
        assert_eq!(whole("flowtap_exporter_send_failed_metric_points_total"), "7");
        assert_eq!(whole("flowtap_receiver_batch_duration_seconds"), "1");
        assert!(pushed["flowtap_process_uptime_seconds_total"] > 0.0);
    }

    #[test]
    fn a_series_lives_on_from_reading_to_reading_and_begins_where_it_was_not_yet_there() {
        let telemetry = Telemetry::new(&Resource::default(), &pushed()).unwrap();
        let mut own = telemetry.own_metrics().unwrap();
        let failed = |id: &str| {
            let exporter = DeliveryTelemetry::new(&telemetry.meter(), &id.parse().unwrap());
            exporter.failed(flowtap_pipeline::PipelineKind::Metrics, 0);
            exporter
        };
        let sums = |snapshot: &Snapshot| {
            let name = "flowtap.exporter_send_failed_metric_points";
            let family = snapshot.families.iter().find(|family| family.family.name == name);
            match &family.unwrap().points {
                Points::Sums(points) => points.clone(),
                other => panic!("{other:?}"),
            }
        };
        let first = failed("otlp");
        let before = sums(&own.read(reading(10, 20)));
        failed("remote_write");
        first.failed(flowtap_pipeline::PipelineKind::Metrics, 3);
        let after = sums(&own.read(reading(20, 30)));
        let same = after
            .iter()
            .find(|point| point.series.id() == before[0].series.id())
            .unwrap();
        assert_eq!((same.total, same.series.start().as_nanos()), (3, 10));
        let new = after
            .iter()
            .find(|point| point.series.id() != before[0].series.id())
            .unwrap();
        assert_eq!((new.total, new.series.start().as_nanos()), (0, 20));
    }
}
