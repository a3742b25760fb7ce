//! The daemon's own instruments, by the Collector's names: `receiver_accepted_records`, `exporter_queue_size`, …
//!
//! Names here have no prefix: the reader of the metrics adds `flowtap_`, and `flowtap.` where they are pushed. Every place that can turn something away has
//! its counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flowtap_pipeline::telemetry::DeliveryTelemetry;
use flowtap_pipeline::{ComponentId, HISTOGRAM_BUCKETS, Output, PipelineKind, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::overflow::Overflow;
use crate::pulse::Pulse;
use crate::queues::Queues;

/// Upper bounds of how long a batch takes, in seconds: from one that is empty to one that takes an interval.
/// As many as a [`HistogramPoint`](flowtap_pipeline::HistogramPoint) has, so that exporters can push them.
const BATCH_BOUNDS: [f64; HISTOGRAM_BUCKETS] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 5.0,
];

fn batch_duration(meter: &Meter, name: &'static str, description: &'static str) -> Histogram<f64> {
    meter
        .f64_histogram(name)
        .with_description(description)
        .with_unit("s")
        .with_boundaries(BATCH_BOUNDS.to_vec())
        .build()
}

/// Counts connections that were open when their receiver was removed or replaced by one that does not continue with them.
pub(crate) fn detached_connections(meter: &Meter) -> Counter<u64> {
    meter
        .u64_counter("receiver_detached_connections")
        .with_description(
            "Open connections of a receiver that a reload removed or replaced, with which no other receiver continued, \
             counted by each pipeline `metrics`.",
        )
        .with_unit("{connection}")
        .build()
}

/// Shows when the receiver of `pulse` last had a whole scan, as long as it lives.
pub(crate) fn observe_scans(meter: &Meter, id: &ComponentId, pulse: &Arc<Pulse>) {
    let (pulse, attributes) = (Arc::downgrade(pulse), [KeyValue::new("receiver", id.to_string())]);
    meter
        .f64_observable_gauge("receiver_last_scan_timestamp")
        .with_description("Unix time at which a receiver's last complete scan ended; 0 before the first.")
        .with_unit("s")
        .with_callback(move |observer| {
            if let Some(pulse) = pulse.upgrade() {
                observer.observe(pulse.last_scan().as_secs_f64(), &attributes);
            }
        })
        .build();
}

/// Shows when a pipeline's last window closed, as long as the pipeline holds `closed_at`, in nanoseconds since the epoch.
pub(crate) fn observe_windows(meter: &Meter, pipeline: &str, closed_at: &Arc<AtomicU64>) {
    let attributes = [KeyValue::new("pipeline", pipeline.to_owned())];
    let closed_at = Arc::downgrade(closed_at);
    meter
        .f64_observable_gauge("window_last_close_timestamp")
        .with_description("Unix time of the end of a pipeline's last window; 0 before the first.")
        .with_unit("s")
        .with_callback(move |observer| {
            if let Some(closed_at) = closed_at.upgrade() {
                let nanos = closed_at.load(Ordering::Relaxed);
                observer.observe(Timestamp::from_nanos(nanos).as_secs_f64(), &attributes);
            }
        })
        .build();
}

/// Counters of a receiver's output.
#[derive(Clone, Debug)]
pub struct ReceiverTelemetry {
    accepted: Counter<u64>,
    batch: Histogram<f64>,
    attributes: [KeyValue; 1],
}

impl ReceiverTelemetry {
    /// Instruments of the receiver `id`.
    pub fn new(meter: &Meter, id: &ComponentId) -> Self {
        Self {
            accepted: meter
                .u64_counter("receiver_accepted_records")
                .with_description("Flow records that a receiver passed to its pipelines.")
                .with_unit("{record}")
                .build(),
            batch: batch_duration(
                meter,
                "receiver_batch_duration",
                "Duration of a batch through the processors and windows of all pipelines.",
            ),
            attributes: [KeyValue::new("receiver", id.to_string())],
        }
    }

    /// A batch has been through all pipelines.
    pub fn took(&self, time: Duration) {
        self.batch.record(time.as_secs_f64(), &self.attributes);
    }

    /// Counts `records` that were passed to the pipelines.
    pub fn accepted(&self, records: usize) {
        self.accepted.add(records as u64, &self.attributes);
    }
}

/// Counters of the points and log records passed to an exporter.
#[derive(Clone, Debug)]
pub struct ExporterTelemetry {
    deliveries: DeliveryTelemetry,
    enqueue_failed_points: Counter<u64>,
    enqueue_failed_records: Counter<u64>,
    batch: Histogram<f64>,
    attributes: [KeyValue; 1],
    overflow: Arc<Overflow>,
}

impl ExporterTelemetry {
    /// Instruments of the exporter `id` that is fed by `queue` with outputs of `kinds`, whose counters stand at 0 from the start.
    /// `is_pulled`: its clients ask for them.
    pub fn new(
        meter: &Meter,
        id: &ComponentId,
        queue: &Arc<Queues>,
        kinds: &[PipelineKind],
        is_pulled: bool,
    ) -> Self {
        let attributes = [KeyValue::new("exporter", id.to_string())];
        let (observed, labels) = (Arc::downgrade(queue), attributes.clone());
        meter
            .u64_observable_gauge("exporter_queue_size")
            .with_description("Snapshots and batches of log records that wait for an exporter; in the longer queue of one that has a queue for each.")
            .with_unit("{batch}")
            .with_callback(move |observer| {
                if let Some(queue) = observed.upgrade() {
                    observer.observe(queue.len() as u64, &labels);
                }
            })
            .build();
        let (observed, labels) = (Arc::downgrade(queue), attributes.clone());
        meter
            .u64_observable_gauge("exporter_queue_capacity")
            .with_description(
                "Snapshots and batches of log records that may wait for an exporter, in each of its queues.",
            )
            .with_unit("{batch}")
            .with_callback(move |observer| {
                if let Some(queue) = observed.upgrade() {
                    observer.observe(queue.capacity() as u64, &labels);
                }
            })
            .build();
        let telemetry = Self {
            deliveries: DeliveryTelemetry::new(meter, id),
            enqueue_failed_points: meter
                .u64_counter("exporter_enqueue_failed_metric_points")
                .with_description("Points of snapshots that were dropped from an exporter's full queue.")
                .with_unit("{datapoint}")
                .build(),
            enqueue_failed_records: meter
                .u64_counter("exporter_enqueue_failed_log_records")
                .with_description("Log records that were dropped from an exporter's full queue.")
                .with_unit("{record}")
                .build(),
            batch: batch_duration(
                meter,
                "exporter_batch_duration",
                "Duration of a snapshot or batch of log records in an exporter, until its delivery or failure.",
            ),
            attributes,
            overflow: Arc::new(Overflow::new(id, is_pulled)),
        };
        for kind in kinds {
            telemetry.deliveries.sent(*kind, 0);
            telemetry.deliveries.failed(*kind, 0);
            telemetry.count_enqueue_failed(*kind, 0);
        }
        telemetry
    }

    /// Counters of its requests.
    pub const fn deliveries(&self) -> &DeliveryTelemetry {
        &self.deliveries
    }

    /// The exporter is done with an output.
    pub fn took(&self, time: Duration) {
        self.batch.record(time.as_secs_f64(), &self.attributes);
    }

    /// Counts outputs that were dropped from the queue when one came, which may be none, and warns of them.
    pub fn enqueued(&self, dropped: &[Output]) {
        let items = dropped.iter().map(|output| (output.kind(), output.items()));
        for (kind, items) in items.clone() {
            self.count_enqueue_failed(kind, items);
        }
        self.overflow.add(items);
    }

    /// Warns of what was dropped since the last warning, at the end.
    pub(crate) fn report_overflow(&self) {
        self.overflow.report();
    }

    fn count_enqueue_failed(&self, kind: PipelineKind, items: u64) {
        let counter = match kind {
            PipelineKind::Metrics => &self.enqueue_failed_points,
            PipelineKind::Logs => &self.enqueue_failed_records,
        };
        counter.add(items, &self.attributes);
    }
}
