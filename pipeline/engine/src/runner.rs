//! The runner: starts exporters first and receivers last, drives them, and stops them the other way round.
//!
//! Stop: receivers deliver pending records, each window closes once more, exporters drain their
//! queues; all within one deadline, whatever a peer does: no queue blocks any longer, and snapshots
//! not delivered by then, or given up before, are counted as lost. Whatever ends the run (a signal, a fatal error of a
//! receiver, a panic) ends it in this order.
//!
//! A graph can be exchanged for another while it runs ([`Runner::apply`]): what has the same id and the same config lives on,
//! with all that it knows; the rest stops and starts in the same order.

mod error;
mod exporters;
mod graph;
mod own;
mod pipelines;
mod receivers;
mod running;
mod stop;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowtap_pipeline::{ComponentId, ComponentKind, Inheritance, SharedState, State, StatusBoard};
use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use opentelemetry::metrics::{Counter, Meter};
use tokio_util::sync::CancellationToken;

pub use self::error::RunError;
use self::graph::Feeds;
pub use self::graph::{ExporterNode, Graph, PipelineNode, ReceiverNode};
pub use self::own::Collect;
use self::own::OwnMetrics;
use self::running::{NextExporter, RunningExporter, RunningPipeline, RunningReceiver};
use crate::telemetry::detached_connections;

/// Runs `graph` until `stop` is cancelled or a component ends.
///
/// `ready` is called once, when every exporter takes snapshots and every receiver is attached.
///
/// # Errors
/// The first [`RunError`]. Everything was still stopped in order.
pub async fn run(
    graph: Graph,
    meter: &Meter,
    stop: CancellationToken,
    deadline: Duration,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let mut runner = Runner::new(meter, deadline, StatusBoard::default());
    let mut outcome = runner.apply(graph).await;
    if outcome.is_ok() {
        ready();
        outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = runner.ended() => ended,
        };
    }
    outcome.and(runner.stop().await)
}

/// Runs a graph of components.
pub struct Runner {
    meter: Meter,
    /// Connections that receivers have left open, with which no other continued.
    detached: Counter<u64>,
    deadline: Duration,
    status: StatusBoard,
    exporters: BTreeMap<ComponentId, RunningExporter>,
    /// Exporters that a new graph leaves out, while they drain.
    leaving: BTreeMap<ComponentId, RunningExporter>,
    /// Exporters of the new graph, until they are started; those of one that did not start, until the next graph.
    next: BTreeMap<ComponentId, NextExporter>,
    pipelines: BTreeMap<Arc<str>, RunningPipeline>,
    receivers: BTreeMap<ComponentId, RunningReceiver>,
    /// State left by receivers for their replacements, until these are started. In a lock that is
    /// never contended, because an inheritance need not be `Sync`, and a future of the runner must
    /// be `Send`.
    inheritances: Mutex<BTreeMap<ComponentId, Inheritance>>,
    /// States of exporters that a new graph leaves out or replaces, until a graph has been applied: after one that
    /// fails, the one before comes back.
    shared_states: BTreeMap<ComponentId, SharedState>,
    /// Interval and source of the own metrics that are pushed once exporters have started.
    unstarted: Option<(Duration, Collect)>,
    own_metrics: Option<OwnMetrics>,
    /// Set when the stop begins: what exporters give up from then on is lost by it.
    stopping: Arc<AtomicBool>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("exporters", &self.exporters)
            .field("pipelines", &self.pipelines)
            .field("receivers", &self.receivers)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// Nothing runs yet. `deadline`: how long stopping may take, of all or of what a new graph leaves out.
    pub fn new(meter: &Meter, deadline: Duration, status: StatusBoard) -> Self {
        Self {
            meter: meter.clone(),
            detached: detached_connections(meter),
            deadline,
            status,
            exporters: BTreeMap::new(),
            leaving: BTreeMap::new(),
            next: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            receivers: BTreeMap::new(),
            inheritances: Mutex::default(),
            shared_states: BTreeMap::new(),
            unstarted: None,
            own_metrics: None,
            stopping: Arc::default(),
        }
    }

    /// Pushes what `collect` returns to the graph's exporters for the daemon's own metrics: once per `interval`, and when it stops.
    /// To be called before the first graph is applied.
    pub fn push_own_metrics(&mut self, interval: Duration, collect: Collect) {
        self.unstarted = Some((interval, collect));
    }

    /// Runs `graph` in place of the current one. Components with the same id and config keep
    /// running. May be dropped before it completes, when flowtap is to stop: [`Runner::stop`] then
    /// ends both new and removed components.
    ///
    /// # Errors
    /// The first [`RunError`]: then some of what is new may run, and some of what is old may have stopped. Apply a graph that
    /// works, or stop.
    pub async fn apply(&mut self, graph: Graph) -> Result<(), RunError> {
        // An exporter that leaves must not be pushed to while it drains.
        self.set_own_metrics(&[]);
        let feeds = Feeds::of(&graph);
        self.apply_exporters(graph.exporters, &feeds).await?;
        if let Some((interval, collect)) = self.unstarted.take() {
            self.own_metrics = Some(OwnMetrics::start(interval, collect));
        }
        self.set_own_metrics(&graph.telemetry);
        self.apply_pipelines(graph.pipelines).await;
        let applied = self.apply_receivers(graph.receivers).await;
        if applied.is_ok() {
            self.shared_states.clear();
            // One of a graph before, which did not start, is in none that runs.
            self.status
                .retain(ComponentKind::Exporter, |id| self.exporters.contains_key(id));
            self.status
                .retain(ComponentKind::Receiver, |id| self.receivers.contains_key(id));
            for pipeline in self.pipelines.values() {
                let receivers = pipeline.receivers.clone();
                let left = self
                    .on_chain(&pipeline.chain, move |chain| chain.retain_receivers(&receivers))
                    .await;
                for (receiver, connections) in left {
                    self.count_detached(&receiver, connections);
                }
            }
        }
        for exporter in self.exporters.values() {
            exporter.handle.queue.relieve(false);
        }
        applied
    }

    fn set_own_metrics(&self, exporters: &[ComponentId]) {
        if let Some(own) = &self.own_metrics {
            let running = exporters.iter().filter_map(|id| self.exporters.get(id));
            own.set(running.map(|exporter| exporter.handle.clone()).collect());
        }
    }

    /// Reports `error` in the component states.
    pub(super) fn failed(&self, kind: ComponentKind, error: RunError) -> RunError {
        if let Some(id) = error.component() {
            self.status
                .set(kind, id, State::PermanentError, Some(error.to_string()));
        }
        error
    }

    /// Waits for a component that ends by itself: without it the numbers would stand still unnoticed. Call it no more once it
    /// has returned, but [`Runner::stop`].
    ///
    /// # Errors
    /// Why it has ended.
    pub async fn ended(&mut self) -> Result<(), RunError> {
        let exporters = self.exporters.values_mut().map(|exporter| {
            // Not joined: only an abort does that, and none happens while it is waited for.
            let end = (&mut exporter.task).map(|joined| joined.unwrap_or(Ok(())));
            (ComponentKind::Exporter, end.boxed())
        });
        let receivers = self.receivers.iter_mut().map(|(id, receiver)| {
            let end = receiver.end(id).map(|ended| ended.map(drop));
            (ComponentKind::Receiver, end.boxed())
        });
        let (kinds, ends): (Vec<_>, Vec<BoxFuture<'_, _>>) = exporters.chain(receivers).unzip();
        if ends.is_empty() {
            return std::future::pending().await;
        }
        let (outcome, place, _) = select_all(ends).await;
        let kind = kinds[place];
        outcome.map_err(|error| self.failed(kind, error))
    }
}

#[cfg(test)]
mod replacement_tests;
#[cfg(test)]
mod tests;
