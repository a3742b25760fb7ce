//! Components while they run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_pipeline::{ComponentId, Inheritance, Output, Persistence, PipelineKind, SharedState};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::RunError;
use super::graph::ExporterNode;
use crate::chain::{ExporterHandle, SharedChain};
use crate::sink::ChainSet;

/// Kinds and numbers of the items that an exporter has taken from its queue and is not done with, and the number of those that it
/// was done with without delivering them while flowtap stopped.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// By kind: an exporter that separates them has one output of each under way.
    current: Mutex<BTreeMap<PipelineKind, u64>>,
    undelivered: AtomicU64,
}

impl InFlight {
    pub(super) fn set(&self, output: &Output) {
        self.lock().insert(output.kind(), output.items());
    }

    /// Takes those of a kind: the caller counts them.
    pub(super) fn take(&self, kind: PipelineKind) -> Option<u64> {
        self.lock().remove(&kind)
    }

    /// Takes them all: the caller counts them.
    pub(super) fn take_all(&self) -> BTreeMap<PipelineKind, u64> {
        std::mem::take(&mut *self.lock())
    }

    /// Adds items that the exporter gave up while flowtap stops.
    pub(super) fn undelivered(&self, items: u64) {
        self.undelivered.fetch_add(items, Ordering::Relaxed);
    }

    /// Number of items that it gave up while flowtap stops. They are counted as failed.
    pub(super) fn lost(&self) -> u64 {
        self.undelivered.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PipelineKind, u64>> {
        // Every statement under the lock leaves it whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// State that a running exporter shares with the one that replaces it.
#[derive(Clone)]
pub(super) struct Shared(pub(super) Option<SharedState>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shared").field(&self.0.is_some()).finish()
    }
}

/// A running exporter: a task fed by its queue.
#[derive(Debug)]
pub(super) struct RunningExporter {
    pub(super) fingerprint: String,
    pub(super) handle: ExporterHandle,
    /// Outputs that it has taken from its queues and is not done with.
    pub(super) in_flight: Arc<InFlight>,
    pub(super) persistence: Persistence,
    /// Items that count as sent, and that its peer has not acknowledged.
    pub(super) unacknowledged: Option<Arc<AtomicU64>>,
    pub(super) shared: Shared,
    pub(super) task: JoinHandle<Result<(), RunError>>,
}

impl RunningExporter {
    /// Number of items that it gave up while flowtap stops, and of those that its peer has not acknowledged.
    pub(super) fn lost(&self) -> u64 {
        let unacknowledged = self.unacknowledged.as_ref();
        self.in_flight.lost() + unacknowledged.map_or(0, |items| items.load(Ordering::Relaxed))
    }
}

/// An exporter of a new graph until it is started. Where it replaces another one of its id, the pipelines feed its queues already.
#[derive(Debug)]
pub(super) struct NextExporter {
    /// `None` once it did not start: its queues wait for the one of another graph. In a lock that is never contended, because an
    /// exporter need not be `Sync`.
    pub(super) node: Mutex<Option<ExporterNode>>,
    pub(super) handle: ExporterHandle,
}

impl NextExporter {
    pub(super) fn take(&mut self) -> Option<ExporterNode> {
        let node = self.node.get_mut().unwrap_or_else(PoisonError::into_inner);
        node.take()
    }
}

/// A running pipeline.
#[derive(Debug)]
pub(super) struct RunningPipeline {
    pub(super) chain: SharedChain,
    pub(super) receivers: Vec<ComponentId>,
}

/// A running receiver, on its own thread.
#[derive(Debug)]
pub(super) struct RunningReceiver {
    pub(super) fingerprint: String,
    pub(super) chains: ChainSet,
    pub(super) stop: CancellationToken,
    pub(super) ends: oneshot::Receiver<ReceiverEnd>,
}

/// The result of a receiver's thread, with the state that it leaves to its replacement.
pub(super) type ReceiverEnd = Result<Option<Inheritance>, RunError>;

impl RunningReceiver {
    /// Waits for its end.
    pub(super) async fn end(&mut self, id: &ComponentId) -> ReceiverEnd {
        let dropped = || RunError::Panicked {
            id: id.clone(),
            message: "without a message".to_owned(),
        };
        (&mut self.ends).await.unwrap_or_else(|_| Err(dropped()))
    }
}
