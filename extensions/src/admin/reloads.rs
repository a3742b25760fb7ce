//! Outcomes of config reloads, for `/status` and the own metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_pipeline::Timestamp;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use serde::Serialize;

/// Result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReloadStatus {
    /// Number of reloads that were applied.
    pub applied: u64,
    /// Number of reloads that were refused.
    pub refused: u64,
    /// When either was last, in nanoseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_unix_nano: Option<u64>,
    /// Why the last one was refused, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The same, shared, and counted.
#[derive(Clone, Debug)]
pub struct ReloadRecorder {
    outcome: Arc<Mutex<ReloadStatus>>,
    counter: Counter<u64>,
}

impl ReloadRecorder {
    /// None yet.
    pub fn new(meter: &Meter) -> Self {
        let counter = meter
            .u64_counter("config_reloads")
            .with_description("Config reloads, by outcome.")
            .with_unit("{reload}")
            .build();
        for outcome in ["applied", "refused"] {
            counter.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        Self {
            outcome: Arc::default(),
            counter,
        }
    }

    /// Counts a config that was applied.
    pub fn applied(&self) {
        self.counter.add(1, &[KeyValue::new("outcome", "applied")]);
        let mut outcome = self.lock();
        outcome.applied += 1;
        outcome.error = None;
        outcome.last_unix_nano = Some(Timestamp::now().as_nanos());
    }

    /// Counts a config that was refused, with the reason.
    pub fn refused(&self, why: &str) {
        self.counter.add(1, &[KeyValue::new("outcome", "refused")]);
        let mut outcome = self.lock();
        outcome.refused += 1;
        outcome.error = Some(why.to_owned());
        outcome.last_unix_nano = Some(Timestamp::now().as_nanos());
    }

    /// Returns the counts and the last error.
    pub fn load(&self) -> ReloadStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ReloadStatus> {
        // Every statement under the lock leaves it whole.
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
