//! Instruments for components: records that a processor drops, points and log records that an exporter delivers. By the Collector's
//! names.
//!
//! Names here have no prefix: the reader of the metrics adds `flowtap_`, and `flowtap.` where they are pushed.

use flowtap_model::{PipelineKind, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};

use crate::id::ComponentId;

/// Counters of the records that a processor dropped, by reason.
#[derive(Clone, Debug)]
pub struct ProcessorTelemetry {
    dropped: Counter<u64>,
    dropped_bytes: Counter<u64>,
    processor: KeyValue,
    pipeline: KeyValue,
}

impl ProcessorTelemetry {
    /// Instruments of the processor `id`, which drops for these `reasons`: each stands at 0 from the start.
    pub fn new(meter: &Meter, id: &ComponentId, pipeline: &str, reasons: &[&'static str]) -> Self {
        let telemetry = Self {
            dropped: meter
                .u64_counter("processor_dropped_records")
                .with_description("Flow records that a processor dropped, by reason.")
                .with_unit("{record}")
                .build(),
            dropped_bytes: meter
                // The bridge to Prometheus adds the unit to the name: `processor_dropped_bytes_total`.
                .u64_counter("processor_dropped")
                .with_description("Payload bytes of the flow records that a processor dropped, by reason.")
                .with_unit("By")
                .build(),
            processor: KeyValue::new("processor", id.to_string()),
            pipeline: KeyValue::new("pipeline", pipeline.to_owned()),
        };
        for reason in reasons {
            telemetry.add(0, 0, reason);
        }
        telemetry
    }

    /// Counts `records` with their `bytes` that were left out for `reason`.
    pub fn dropped(&self, records: u64, bytes: u64, reason: &'static str) {
        if records > 0 {
            self.add(records, bytes, reason);
        }
    }

    fn add(&self, records: u64, bytes: u64, reason: &'static str) {
        let attributes = [
            self.processor.clone(),
            self.pipeline.clone(),
            KeyValue::new("reason", reason),
        ];
        self.dropped.add(records, &attributes);
        self.dropped_bytes.add(bytes, &attributes);
    }
}

/// Counters of the points and log records in an exporter's requests.
#[derive(Clone, Debug)]
pub struct DeliveryTelemetry {
    sent_points: Counter<u64>,
    failed_points: Counter<u64>,
    sent_records: Counter<u64>,
    failed_records: Counter<u64>,
    retried: Counter<u64>,
    attributes: [KeyValue; 1],
}

impl DeliveryTelemetry {
    /// Instruments of the exporter `id`. Counters of items have a series from their first [`DeliveryTelemetry::sent`] on, which
    /// the engine calls with 0 for each kind of pipeline that feeds the exporter.
    pub fn new(meter: &Meter, id: &ComponentId) -> Self {
        let telemetry = Self {
            sent_points: items(
                meter,
                "exporter_sent_metric_points",
                "Points that an exporter delivered.",
                "{datapoint}",
            ),
            failed_points: items(
                meter,
                "exporter_send_failed_metric_points",
                "Points that an exporter could not deliver.",
                "{datapoint}",
            ),
            sent_records: items(
                meter,
                "exporter_sent_log_records",
                "Log records that an exporter delivered.",
                "{record}",
            ),
            failed_records: items(
                meter,
                "exporter_send_failed_log_records",
                "Log records that an exporter could not deliver.",
                "{record}",
            ),
            retried: meter
                .u64_counter("exporter_retried_requests")
                .with_description("Attempts beyond the first to deliver a request.")
                .with_unit("{request}")
                .build(),
            attributes: [KeyValue::new("exporter", id.to_string())],
        };
        // From the start, so that an alert on a rise sees the first one.
        telemetry.retried.add(0, &telemetry.attributes);
        telemetry
    }

    /// Counts `items` delivered.
    pub fn sent(&self, kind: PipelineKind, items: u64) {
        let counter = match kind {
            PipelineKind::Metrics => &self.sent_points,
            PipelineKind::Logs => &self.sent_records,
        };
        counter.add(items, &self.attributes);
    }

    /// Counts `items` that could not be delivered.
    pub fn failed(&self, kind: PipelineKind, items: u64) {
        let counter = match kind {
            PipelineKind::Metrics => &self.failed_points,
            PipelineKind::Logs => &self.failed_records,
        };
        counter.add(items, &self.attributes);
    }

    /// Counts an attempt beyond the first.
    pub fn retried(&self) {
        self.retried.add(1, &self.attributes);
    }
}

fn items(meter: &Meter, name: &'static str, description: &'static str, unit: &'static str) -> Counter<u64> {
    meter
        .u64_counter(name)
        .with_description(description)
        .with_unit(unit)
        .build()
}

/// A time at which the daemon's own metrics are read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The reading before; at first, when the exporters had started. A series that is new began here, at 0.
    pub since: Timestamp,
    /// Now.
    pub at: Timestamp,
    /// Whether it is the last one.
    pub last: bool,
}
