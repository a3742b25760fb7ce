//! The daemon's own metrics on their way to exporters of the config: a snapshot per interval, and a last one when the run ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use flowtap_pipeline::telemetry::Reading;
use flowtap_pipeline::{Output, Snapshot, Timestamp};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval_at};

use crate::chain::ExporterHandle;

/// Returns the daemon's own metrics as they stand.
pub type Collect = Box<dyn FnMut(Reading) -> Snapshot + Send + Sync>;

/// The function that reads the metrics, and the time of its last run.
struct Source {
    collect: Collect,
    since: Timestamp,
    finished: bool,
}

/// A task that pushes the daemon's own metrics.
pub(super) struct OwnMetrics {
    source: Arc<Mutex<Source>>,
    exporters: Arc<ArcSwap<Vec<ExporterHandle>>>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for OwnMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OwnMetrics").field(&self.exporters).finish()
    }
}

impl OwnMetrics {
    /// Starts it, once exporters have. Needs a runtime around it.
    pub(super) fn start(interval: Duration, collect: Collect) -> Self {
        let since = Timestamp::now();
        let source = Arc::new(Mutex::new(Source {
            collect,
            since,
            finished: false,
        }));
        let exporters = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let (read, targets) = (Arc::clone(&source), Arc::clone(&exporters));
        let task = tokio::spawn(async move {
            let mut ticks = interval_at(tokio::time::Instant::now() + interval, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                push(&read, &targets, false).await;
            }
        });
        Self {
            source,
            exporters,
            task,
        }
    }

    /// Pushes to these exporters from now on.
    pub(super) fn set(&self, exporters: Vec<ExporterHandle>) {
        self.exporters.store(Arc::new(exporters));
    }

    /// Pushes the metrics a last time.
    pub(super) async fn finish(&self) {
        self.task.abort();
        push(&self.source, &self.exporters, true).await;
    }
}

impl Drop for OwnMetrics {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn push(source: &Arc<Mutex<Source>>, exporters: &Arc<ArcSwap<Vec<ExporterHandle>>>, last: bool) {
    if exporters.load().is_empty() {
        return;
    }
    let (source, exporters) = (Arc::clone(source), Arc::clone(exporters));
    // Instruments read /proc when they are asked, and a queue may block until it has room.
    let work = move || {
        // Held until the queues have it: a task that is aborted leaves this running, and its snapshot must not follow the last one.
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        if source.finished {
            return;
        }
        source.finished = last;
        let at = Timestamp::now();
        let reading = Reading {
            since: source.since,
            at,
            last,
        };
        source.since = at;
        let output = Output::from((source.collect)(reading));
        for handle in exporters.load().iter() {
            handle.push(output.clone());
        }
    };
    // A panic has been reported by the hook; the next push tries again.
    let _ = spawn_blocking(work).await;
}
