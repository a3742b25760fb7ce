//! The pipelines as a receiver sees them: a place to put batches and watermarks.
//!
//! A batch runs through every pipeline's processors and into its window here, synchronously, on the receiver's own
//! thread. A pipeline with several receivers is shared behind a lock; its window closes once every one of them has
//! come past the window's end.

use std::sync::{Arc, Mutex, PoisonError};

use crate::batch::FlowBatch;
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

/// A pipeline's synchronous part: processors, window, and the queues behind it.
pub struct Chain {
    processors: Vec<Box<dyn Processor>>,
    aggregator: Box<dyn Aggregator>,
    outlets: Vec<Outlet>,
    /// How far each receiver has come.
    watermarks: Vec<Timestamp>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("processors", &self.processors.len())
            .field("outlets", &self.outlets)
            .field("watermarks", &self.watermarks)
            .finish_non_exhaustive()
    }
}

impl Chain {
    /// A chain for as many receivers as [`Chain::join`] will be called for.
    pub fn new(
        processors: Vec<Box<dyn Processor>>,
        aggregator: Box<dyn Aggregator>,
        outlets: Vec<Outlet>,
    ) -> Self {
        Self {
            processors,
            aggregator,
            outlets,
            watermarks: Vec::new(),
        }
    }

    /// Adds a receiver; returns its number.
    fn join(&mut self) -> usize {
        self.watermarks.push(Timestamp::default());
        self.watermarks.len() - 1
    }

    fn accept(&mut self, batch: &mut FlowBatch) {
        for processor in &mut self.processors {
            processor.process(batch);
        }
        self.aggregator.fold(batch);
    }

    fn advance(&mut self, receiver: usize, to: Timestamp) {
        self.watermarks[receiver] = to;
        let slowest = self.watermarks.iter().copied().min().unwrap_or(to);
        if let Some(snapshot) = self.aggregator.advance(slowest) {
            self.emit(snapshot);
        }
    }

    /// Closes the window for good and hands its snapshot to every exporter.
    pub fn finish(&mut self, at: Timestamp) {
        let snapshot = self.aggregator.finish(at);
        self.emit(snapshot);
    }

    fn emit(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        for outlet in &self.outlets {
            outlet.push(Arc::clone(&snapshot));
        }
    }
}

/// Where one receiver puts what it has.
#[derive(Debug)]
pub struct Sink {
    chains: Vec<(Arc<Mutex<Chain>>, usize)>,
    telemetry: ReceiverTelemetry,
    /// For every pipeline but the last, which gets the batch itself.
    copy: FlowBatch,
}

impl Sink {
    /// A sink into `chains`.
    pub fn new(chains: &[Arc<Mutex<Chain>>], telemetry: ReceiverTelemetry) -> Self {
        let join = |chain: &Arc<Mutex<Chain>>| {
            let number = chain.lock().unwrap_or_else(PoisonError::into_inner).join();
            (Arc::clone(chain), number)
        };
        Self {
            chains: chains.iter().map(join).collect(),
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
        let Some(((last, _), others)) = self.chains.split_last() else {
            batch.clear();
            return;
        };
        for (chain, _) in others {
            self.copy.listeners.clone_from(&batch.listeners);
            self.copy.records.clone_from(&batch.records);
            self.copy.counts.clone_from(&batch.counts);
            chain
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .accept(&mut self.copy);
        }
        last.lock().unwrap_or_else(PoisonError::into_inner).accept(batch);
        batch.clear();
    }

    /// Tells that everything up to `to` has been handed on, so that windows that end by then can close.
    pub fn watermark(&mut self, to: Timestamp) {
        for (chain, number) in &self.chains {
            chain
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .advance(*number, to);
        }
    }
}
