//! The pipelines as a receiver sees them: a place to put batches and watermarks.
//!
//! A batch runs through every pipeline's processors and into its window here, synchronously, on the
//! receiver's own thread. A pipeline with several receivers is shared in a lock; its window closes
//! once every one of them has passed the window's end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{ComponentId, FlowBatch, Output, PipelineKind, Snapshot, Timestamp};

use crate::queues::Queues;
use crate::stages::Stages;
use crate::telemetry::ExporterTelemetry;

/// An exporter's queues with their counters.
#[derive(Clone, Debug)]
pub struct ExporterHandle {
    /// The queue, or a queue for each kind.
    pub queue: Arc<Queues>,
    /// The exporter's counters.
    pub telemetry: ExporterTelemetry,
    /// Whether it gets the output with which a pipeline's first window opens.
    pub wants_opening: bool,
}

impl ExporterHandle {
    pub(crate) fn push(&self, output: Output) {
        self.telemetry.enqueued(&self.queue.push(output));
    }
}

/// A pipeline's synchronous part: processors, window, and the queues that the window feeds.
pub struct Chain {
    name: Arc<str>,
    stages: Stages,
    exporters: Vec<(ComponentId, ExporterHandle)>,
    feeds: BTreeMap<ComponentId, Feed>,
    /// Where the first window began. A watermark before that is of a receiver whose interval is longer, and not of a clock that
    /// was set back.
    began: Timestamp,
    /// The end of the last window that was closed, in nanoseconds since the epoch.
    closed_at: Arc<AtomicU64>,
}

/// One of the receivers that feed a chain.
#[derive(Clone, Copy, Debug)]
struct Feed {
    /// Stands for the receiver in batches.
    index: u16,
    /// Its latest watermark; `None` before the first one, which every window waits for.
    watermark: Option<Timestamp>,
    /// Its newest watermark, also of the time before it was restarted.
    newest: Option<Timestamp>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("name", &self.name)
            .field("stages", &self.stages)
            .field("exporters", &self.exporters)
            .field("feeds", &self.feeds)
            .finish_non_exhaustive()
    }
}

/// A chain that receivers and the runner share.
pub type SharedChain = Arc<Mutex<Chain>>;

/// The chain itself. A panic while it was locked has ended the run, so the state it left does not
/// matter.
pub(crate) fn lock(chain: &SharedChain) -> MutexGuard<'_, Chain> {
    chain.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chain {
    /// A chain whose first window begins now, and that nothing feeds yet. Exporters that are scraped get what it opens with. Others
    /// do not: they would push one request more, in which nothing has happened.
    pub fn new(name: Arc<str>, mut stages: Stages, exporters: Vec<(ComponentId, ExporterHandle)>) -> Self {
        let began = Timestamp::now();
        stages.begin(began);
        if let Some(opening) = stages.opening() {
            for (_, handle) in exporters.iter().filter(|(_, handle)| handle.wants_opening) {
                handle.push(opening.clone());
            }
        }
        Self {
            name,
            stages,
            exporters,
            feeds: BTreeMap::new(),
            began,
            closed_at: Arc::default(),
        }
    }

    /// The end of the last window that was closed, in nanoseconds since the epoch; changes with each.
    pub(crate) fn closed_at(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.closed_at)
    }

    /// Lets `receivers` feed it, beside those that do.
    pub(crate) fn attach_receivers(&mut self, receivers: &[ComponentId]) {
        for id in receivers {
            if self.feeds.contains_key(id) {
                continue;
            }
            let is_free = |index: &u16| self.feeds.values().all(|feed| feed.index != *index);
            // A config has far fewer receivers.
            let index = (0..FlowBatch::DETACHED).find(is_free);
            let feed = Feed {
                index: index.unwrap_or(FlowBatch::DETACHED),
                watermark: None,
                newest: None,
            };
            self.feeds.insert(id.clone(), feed);
        }
    }

    /// Restricts its receivers to `receivers`. Called when the others have delivered their last
    /// records, which otherwise would have no receiver. Returns the others, each with the number of its connections that were open.
    pub(crate) fn retain_receivers(&mut self, receivers: &[ComponentId]) -> Vec<(ComponentId, u64)> {
        let mut leaving = Vec::new();
        self.feeds.retain(|id, feed| {
            let stays = receivers.contains(id);
            if !stays {
                leaving.push((id.clone(), feed.index));
            }
            stays
        });
        let stages = &mut self.stages;
        let forgotten = leaving.into_iter();
        forgotten
            .map(|(id, index)| (id, stages.forget_connections(index)))
            .collect()
    }

    /// A receiver begins anew: it has not come anywhere yet, and whatever was open is for it to report. Returns the number of
    /// connections that were open.
    pub(crate) fn reset_watermark(&mut self, receiver: &ComponentId) -> u64 {
        let Some(feed) = self.feeds.get_mut(receiver) else {
            return 0;
        };
        feed.watermark = None;
        let index = feed.index;
        self.stages.forget_connections(index)
    }

    /// Takes on what has changed: processors and window whose config is the same live on, with all that they know.
    pub(crate) fn reconcile(&mut self, stages: Stages) {
        let now = Timestamp::now();
        if let Some(output) = self.stages.reconcile(stages, now) {
            self.began = now;
            self.emit(&output.replaced());
        }
    }

    /// Replaces the exporters that it feeds.
    pub(crate) fn set_exporters(&mut self, exporters: Vec<(ComponentId, ExporterHandle)>) {
        self.exporters = exporters;
    }

    /// Feeds the queues of `handle` instead of those that `exporter` had, if it feeds them.
    pub(crate) fn exchange_exporter(&mut self, exporter: &ComponentId, handle: &ExporterHandle) {
        for (_, fed) in self.exporters.iter_mut().filter(|(id, _)| id == exporter) {
            *fed = handle.clone();
        }
    }

    /// Whether it feeds these queues.
    #[cfg(test)]
    pub(crate) fn feeds(&self, queue: &Arc<Queues>) -> bool {
        self.exporters
            .iter()
            .any(|(_, handle)| Arc::ptr_eq(&handle.queue, queue))
    }

    /// Feeds `exporter` no more.
    pub(crate) fn detach_exporter(&mut self, exporter: &ComponentId) {
        self.exporters.retain(|(id, _)| id != exporter);
    }

    pub(crate) fn accept(&mut self, receiver: &ComponentId, batch: &mut FlowBatch) {
        let feed = self.feeds.get(receiver);
        batch.receiver = feed.map_or(FlowBatch::DETACHED, |feed| feed.index);
        self.stages.accept(batch);
    }

    pub(crate) fn advance(&mut self, receiver: &ComponentId, to: Timestamp) {
        // A receiver that feeds it no more has nothing to say.
        let Some(feed) = self.feeds.get_mut(receiver) else {
            return;
        };
        feed.watermark = Some(to);
        let before = feed.newest.replace(to);
        // One that has not come anywhere yet may still have records of this window.
        let Some(slowest) = self.slowest() else {
            return;
        };
        if before.is_some_and(|before| to < before) {
            // Only a clock that was set back does that; then windows follow it.
            self.began = slowest;
        }
        if let Some(output) = self.stages.advance(slowest.max(self.began)) {
            self.emit(&output);
        }
    }

    /// The lowest watermark of all receivers; `None` if one has not sent any.
    fn slowest(&self) -> Option<Timestamp> {
        let watermarks = self.feeds.values().map(|feed| feed.watermark);
        watermarks.min().flatten()
    }

    pub(crate) fn wants_census(&self, receiver: &ComponentId) -> bool {
        let feed = self.feeds.get(receiver);
        feed.is_some_and(|feed| self.stages.wants_census(feed.index))
    }

    /// Closes the window for good and passes its output to every exporter.
    pub fn finish(&mut self, at: Timestamp) {
        let output = self.stages.finish(at);
        self.emit(&output);
    }

    /// The same for a pipeline that is removed while flowtap keeps running: its last snapshot is
    /// followed by one without families, which withdraws its series. Log records are not state, so nothing follows them.
    pub(crate) fn retire(&mut self) {
        let at = Timestamp::now();
        let output = self.stages.finish(at);
        let has_series = output.kind() == PipelineKind::Metrics;
        self.emit(&output);
        if has_series {
            self.emit(&Output::from(Snapshot {
                pipeline: Arc::clone(&self.name),
                at,
                window: Duration::ZERO,
                last: true,
                replaced: false,
                families: Vec::new(),
            }));
        }
    }

    fn emit(&self, output: &Output) {
        self.closed_at.store(output.at().as_nanos(), Ordering::Relaxed);
        // A snapshot without points still says that there are none; log records say nothing if there are none.
        if output.kind() == PipelineKind::Logs && output.items() == 0 {
            return;
        }
        for (_, handle) in &self.exporters {
            handle.push(output.clone());
        }
    }
}

#[cfg(test)]
mod tests;
