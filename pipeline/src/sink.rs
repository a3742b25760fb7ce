//! The pipelines as a receiver sees them: a place to put batches and watermarks.
//!
//! A batch runs through every pipeline's processors and into its window here, synchronously, on the receiver's own
//! thread. A pipeline with several receivers is shared behind a lock; its window closes once every one of them has
//! come past the window's end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::batch::FlowBatch;
use crate::component::ComponentId;
use crate::queue::SnapshotQueue;
use crate::snapshot::Snapshot;
use crate::stage::{Aggregator, Processor};
use crate::telemetry::{ExporterTelemetry, ReceiverTelemetry};
use crate::time::Timestamp;

/// An exporter's queue with its counters.
#[derive(Clone, Debug)]
pub struct Outlet {
    /// The queue.
    pub queue: Arc<SnapshotQueue>,
    /// The exporter's counters.
    pub telemetry: ExporterTelemetry,
}

impl Outlet {
    fn push(&self, snapshot: Arc<Snapshot>) {
        for gave_way in self.queue.push(snapshot) {
            self.telemetry.enqueue_failed(gave_way.points() as u64);
        }
    }
}

/// A processor, and what it was made from.
pub struct ProcessorNode {
    /// Its id.
    pub id: ComponentId,
    /// Its whole config: another text is another processor.
    pub fingerprint: String,
    /// The processor.
    pub processor: Box<dyn Processor>,
}

/// A pipeline's window, and what it was made from.
pub struct WindowNode {
    /// Its whole config.
    pub fingerprint: String,
    /// The window.
    pub aggregator: Box<dyn Aggregator>,
}

/// A pipeline's synchronous part: processors, window, and the queues behind it.
pub struct Chain {
    name: Arc<str>,
    processors: Vec<ProcessorNode>,
    window: WindowNode,
    outlets: Vec<(ComponentId, Outlet)>,
    /// How far each receiver has come.
    watermarks: BTreeMap<ComponentId, Timestamp>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("name", &self.name)
            .field("processors", &self.processors.len())
            .field("outlets", &self.outlets)
            .field("watermarks", &self.watermarks)
            .finish_non_exhaustive()
    }
}

/// A chain that receivers and the runner share.
pub type SharedChain = Arc<Mutex<Chain>>;

/// The chain itself. A panic while it was locked has ended the run, so what it left behind is of no account.
pub(crate) fn lock(chain: &SharedChain) -> MutexGuard<'_, Chain> {
    chain.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chain {
    /// A chain whose first window begins now, and that nothing feeds yet.
    pub fn new(
        name: Arc<str>,
        processors: Vec<ProcessorNode>,
        mut window: WindowNode,
        outlets: Vec<(ComponentId, Outlet)>,
    ) -> Self {
        window.aggregator.begin(Timestamp::now());
        Self {
            name,
            processors,
            window,
            outlets,
            watermarks: BTreeMap::new(),
        }
    }

    /// Lets `receivers` feed it, and no others.
    pub(crate) fn fed_by(&mut self, receivers: &[ComponentId]) {
        self.watermarks.retain(|id, _| receivers.contains(id));
        for id in receivers {
            self.watermarks.entry(id.clone()).or_default();
        }
    }

    /// A receiver begins anew: until it says otherwise, it has come nowhere.
    pub(crate) fn restarts(&mut self, receiver: &ComponentId) {
        if let Some(watermark) = self.watermarks.get_mut(receiver) {
            *watermark = Timestamp::default();
        }
    }

    /// Takes on what has changed: processors and window whose config is the same live on, with all that they know.
    pub(crate) fn become_like(&mut self, processors: Vec<ProcessorNode>, window: WindowNode) {
        let mut before = std::mem::take(&mut self.processors);
        for new in processors {
            let same = |old: &ProcessorNode| old.id == new.id && old.fingerprint == new.fingerprint;
            let kept = before
                .iter()
                .position(same)
                .map(|place| before.swap_remove(place));
            self.processors.push(kept.unwrap_or(new));
        }
        if window.fingerprint != self.window.fingerprint {
            // What the old one holds is told before the new one begins at nought.
            let now = Timestamp::now();
            let mut snapshot = self.window.aggregator.finish(now);
            snapshot.last = false;
            self.emit(snapshot);
            self.window = window;
            self.window.aggregator.begin(now);
        }
    }

    /// Replaces the exporters behind it.
    pub(crate) fn feed(&mut self, outlets: Vec<(ComponentId, Outlet)>) {
        self.outlets = outlets;
    }

    /// Feeds `exporter` no more.
    pub(crate) fn leave(&mut self, exporter: &ComponentId) {
        self.outlets.retain(|(id, _)| id != exporter);
    }

    fn accept(&mut self, batch: &mut FlowBatch) {
        for node in &mut self.processors {
            node.processor.process(batch);
        }
        self.window.aggregator.fold(batch);
    }

    fn advance(&mut self, receiver: &ComponentId, to: Timestamp) {
        // A receiver that feeds it no more has nothing to say.
        let Some(watermark) = self.watermarks.get_mut(receiver) else {
            return;
        };
        *watermark = to;
        let slowest = self.watermarks.values().copied().min().unwrap_or(to);
        if let Some(snapshot) = self.window.aggregator.advance(slowest) {
            self.emit(snapshot);
        }
    }

    /// Closes the window for good and hands its snapshot to every exporter.
    pub fn finish(&mut self, at: Timestamp) {
        let snapshot = self.window.aggregator.finish(at);
        self.emit(snapshot);
    }

    /// The same of a pipeline that is no more while flowtap runs on: behind its last snapshot comes one without families, which
    /// says that there is nothing of it to be shown any longer.
    pub(crate) fn vanish(&mut self) {
        let at = Timestamp::now();
        self.finish(at);
        self.emit(Snapshot {
            pipeline: Arc::clone(&self.name),
            at,
            window: Duration::ZERO,
            last: true,
            families: Vec::new(),
        });
    }

    fn emit(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        for (_, outlet) in &self.outlets {
            outlet.push(Arc::clone(&snapshot));
        }
    }
}

/// The chains that a receiver feeds; can be exchanged while it runs.
pub(crate) type Fed = Arc<ArcSwap<Vec<SharedChain>>>;

/// Where one receiver puts what it has.
#[derive(Debug)]
pub struct Sink {
    receiver: ComponentId,
    chains: Fed,
    telemetry: ReceiverTelemetry,
    /// For every pipeline but the last, which gets the batch itself.
    copy: FlowBatch,
}

impl Sink {
    /// The sink of `receiver` into `chains`.
    pub(crate) fn new(receiver: ComponentId, chains: Fed, telemetry: ReceiverTelemetry) -> Self {
        Self {
            receiver,
            chains,
            telemetry,
            copy: FlowBatch::default(),
        }
    }

    /// Runs `batch` through every pipeline of this receiver, and empties it.
    pub fn accept(&mut self, batch: &mut FlowBatch) {
        if batch.is_empty() {
            return;
        }
        self.telemetry.accepted(batch.records.len());
        let began = Instant::now();
        let chains = self.chains.load();
        if let Some((last, others)) = chains.split_last() {
            for chain in others {
                self.copy.listeners.clone_from(&batch.listeners);
                self.copy.records.clone_from(&batch.records);
                self.copy.counts.clone_from(&batch.counts);
                lock(chain).accept(&mut self.copy);
            }
            lock(last).accept(batch);
        }
        self.telemetry.took(began.elapsed());
        batch.clear();
    }

    /// Tells that everything up to `to` has been handed on, so that windows that end by then can close.
    pub fn watermark(&mut self, to: Timestamp) {
        for chain in self.chains.load().iter() {
            lock(chain).advance(&self.receiver, to);
        }
    }
}
