//! A receiver's end of the pipelines that it feeds.
//!
//! A batch runs through every pipeline's processors and into its window here, synchronously, on the receiver's own
//! thread.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use flowtap_pipeline::{ComponentId, FlowBatch, Sink, Timestamp};

use crate::chain::{SharedChain, lock};
use crate::pulse::Pulse;
use crate::telemetry::ReceiverTelemetry;

/// The chains that a receiver feeds; can be exchanged while it runs.
pub(crate) type ChainSet = Arc<ArcSwap<Vec<SharedChain>>>;

/// The sink of one receiver: its batches and watermarks go into the chains of its pipelines.
#[derive(Debug)]
pub(crate) struct ChainSink {
    receiver: ComponentId,
    chains: ChainSet,
    telemetry: ReceiverTelemetry,
    pulse: Arc<Pulse>,
    /// For every pipeline but the last, which gets the batch itself.
    copy: FlowBatch,
}

impl ChainSink {
    /// The sink of `receiver` into `chains`.
    pub(crate) fn new(
        receiver: ComponentId,
        chains: ChainSet,
        telemetry: ReceiverTelemetry,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            receiver,
            chains,
            telemetry,
            pulse,
            copy: FlowBatch::default(),
        }
    }
}

impl Sink for ChainSink {
    fn accept(&mut self, batch: &mut FlowBatch) {
        if batch.is_empty() {
            return;
        }
        self.telemetry.accepted(batch.records());
        let began = Instant::now();
        self.pulse.enter();
        let chains = self.chains.load();
        if let Some((last, others)) = chains.split_last() {
            for chain in others {
                self.copy.copy_from(batch);
                lock(chain).accept(&self.receiver, &mut self.copy);
            }
            lock(last).accept(&self.receiver, batch);
        }
        self.pulse.leave();
        self.telemetry.took(began.elapsed());
        batch.clear();
    }

    fn wants_census(&self) -> bool {
        self.pulse.enter();
        let chains = self.chains.load();
        let wants = chains
            .iter()
            .any(|chain| lock(chain).wants_census(&self.receiver));
        self.pulse.leave();
        wants
    }

    fn watermark(&mut self, to: Timestamp) {
        self.pulse.enter();
        for chain in self.chains.load().iter() {
            lock(chain).advance(&self.receiver, to);
        }
        self.pulse.leave();
        self.pulse.watermark(to, Instant::now());
    }

    fn scan_failed(&mut self, error: &dyn Display) {
        self.pulse.scan_failed(error.to_string());
    }

    fn records_refused(&mut self, reason: &dyn Display) {
        self.pulse.records_refused(reason.to_string(), Instant::now());
    }
}
