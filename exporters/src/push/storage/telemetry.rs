//! The metrics of requests on disk.

use flowtap_pipeline::BuildContext;
use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, Value};

#[derive(Debug)]
pub(super) struct Telemetry {
    corrupt: Counter<u64>,
    dropped: Counter<u64>,
    exporter: KeyValue,
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext) -> Self {
        let exporter = KeyValue::new("exporter", context.id.to_string());
        let counter = |name, description| {
            let counter = context
                .meter
                .u64_counter(name)
                .with_description(description)
                .with_unit("{request}")
                .build();
            counter.add(0, std::slice::from_ref(&exporter));
            counter
        };
        Self {
            corrupt: counter(
                "exporter_storage_corrupt_requests",
                "Requests on disk that did not match their checksum, and files that could not be read.",
            ),
            dropped: counter(
                "exporter_storage_dropped_requests",
                "Requests dropped because the requests on disk had reached their limit.",
            ),
            exporter,
        }
    }

    /// The id of the exporter.
    pub(super) const fn exporter(&self) -> &Value {
        &self.exporter.value
    }

    pub(super) fn count_corrupt(&self, requests: u64) {
        self.corrupt.add(requests, std::slice::from_ref(&self.exporter));
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.add(1, std::slice::from_ref(&self.exporter));
    }

    /// Creates the gauges of the requests, and of their bytes, that are `waiting`.
    pub(super) fn show(
        &self,
        context: &BuildContext,
        waiting: impl Fn() -> Option<(u64, u64)> + Clone + Send + Sync + 'static,
    ) {
        let gauge = |name, description, unit, value: fn((u64, u64)) -> u64| {
            let (waiting, exporter) = (waiting.clone(), self.exporter.clone());
            context
                .meter
                .u64_observable_gauge(name)
                .with_description(description)
                .with_unit(unit)
                .with_callback(move |observer| {
                    if let Some(waiting) = waiting() {
                        observer.observe(value(waiting), std::slice::from_ref(&exporter));
                    }
                })
                .build();
        };
        gauge(
            "exporter_storage_requests",
            "Requests that wait on disk.",
            "{request}",
            |(requests, _)| requests,
        );
        gauge(
            "exporter_storage_size",
            "Bytes of the waiting requests on disk.",
            "By",
            |(_, bytes)| bytes,
        );
    }
}
