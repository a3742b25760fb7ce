//! Counters of uploads, and what the log and `/status` have of them.

use flowtap_pipeline::{BuildContext, ComponentId, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::health::Health;
use super::queue::Queue;

/// Counters of the uploads of an exporter.
#[derive(Clone, Debug)]
pub(super) struct Telemetry {
    uploads: Counter<u64>,
    bytes: Counter<u64>,
    exporter: KeyValue,
    id: ComponentId,
    url: String,
    health: Health,
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext, url: &str, queue: &Queue) -> Self {
        let exporter = KeyValue::new("exporter", context.id.to_string());
        let (waiting, labels) = (queue.clone(), [exporter.clone()]);
        context
            .meter
            .u64_observable_gauge("exporter_upload_queue_size")
            .with_description("Finished files that are not uploaded yet.")
            .with_unit("{file}")
            .with_callback(move |observer| observer.observe(waiting.len() as u64, &labels))
            .build();
        let telemetry = Self {
            uploads: context
                .meter
                .u64_counter("exporter_uploads")
                .with_description("Uploads of finished files, by outcome.")
                .with_unit("{upload}")
                .build(),
            bytes: context
                .meter
                .u64_counter("exporter_uploaded_size")
                .with_description("Bytes of files that the object store has acknowledged.")
                .with_unit("By")
                .build(),
            exporter,
            id: context.id.clone(),
            url: url.to_owned(),
            health: Health::new(url, queue),
        };
        for outcome in ["delivered", "retried", "abandoned"] {
            telemetry.add(outcome, 0);
        }
        telemetry.bytes.add(0, std::slice::from_ref(&telemetry.exporter));
        telemetry
    }

    pub(super) const fn health(&self) -> &Health {
        &self.health
    }

    pub(super) fn delivered(&self, key: &str, bytes: u64) {
        self.add("delivered", 1);
        self.bytes.add(bytes, std::slice::from_ref(&self.exporter));
        tracing::debug!(exporter = %self.id, url = self.url, key, bytes, "a file is uploaded");
        if self.health.settled() {
            tracing::info!(exporter = %self.id, url = self.url, "no upload fails any more");
        }
    }

    /// An upload failed, and is retried. The same failure is logged once.
    pub(super) fn retried(&self, key: &str, error: &str) {
        self.add("retried", 1);
        if self.health.failed(key, error, Timestamp::now()) {
            tracing::warn!(exporter = %self.id, url = self.url, key, error, "an upload failed and is retried; \
                hint: fix the cause that the error names; files stay on the disk until `rotation` removes them");
        } else {
            tracing::debug!(exporter = %self.id, url = self.url, key, error, "an upload failed and is retried");
        }
    }

    /// A file was removed before it was uploaded.
    pub(super) fn abandoned(&self, key: &str) {
        self.add("abandoned", 1);
        self.health.abandoned();
        self.health.settled();
        tracing::warn!(exporter = %self.id, url = self.url, key, "a file was removed before it was uploaded; \
                hint: use a larger `rotation.max_files`, `max_total_bytes` or `max_retention`");
    }

    fn add(&self, outcome: &'static str, uploads: u64) {
        let attributes = [self.exporter.clone(), KeyValue::new("outcome", outcome)];
        self.uploads.add(uploads, &attributes);
    }
}
