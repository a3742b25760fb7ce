//! The runner: starts exporters first and receivers last, drives them, and stops them the other way round.
//!
//! Stop: receivers deliver pending records, each window closes once more, exporters drain their
//! queues; all within one deadline, whatever a peer does: no queue blocks any longer, and snapshots
//! not delivered by then are counted as lost. Whatever ends the run (a signal, a fatal error of a
//! receiver, a panic) ends it in this order.
//!
//! A graph can be exchanged for another while it runs ([`Runner::apply`]): what has the same id and the same config lives on,
//! with all that it knows; the rest stops and starts in the same order.

mod own;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flowtap_pipeline::{
    ComponentId, ComponentKind, ExportService, Exporter, Inheritance, Output, PipelineKind, QueueConfig,
    Receiver, StageError, State, StatusBoard, Timestamp,
};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all, select_all};
use opentelemetry::metrics::Meter;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, ServiceExt};

pub use self::own::Collect;
use self::own::OwnMetrics;
use crate::chain::{Chain, ExporterHandle, SharedChain, lock};
use crate::pulse::Pulse;
use crate::queue::OutputQueue;
use crate::sink::{ChainSet, ChainSink};
use crate::stages::Stages;
use crate::telemetry::{ExporterTelemetry, ReceiverTelemetry, observe_scans, observe_windows};

/// A receiver to run.
pub struct ReceiverNode {
    /// Its id.
    pub id: ComponentId,
    /// Its whole config: another text is another receiver.
    pub fingerprint: String,
    /// The receiver.
    pub receiver: Box<dyn Receiver>,
}

/// An exporter to run.
pub struct ExporterNode {
    /// Its id.
    pub id: ComponentId,
    /// Its whole config.
    pub fingerprint: String,
    /// The exporter.
    pub exporter: Box<dyn Exporter>,
    /// The queue in front of it.
    pub queue: QueueConfig,
    /// Kinds of the pipelines that feed it.
    pub kinds: Vec<PipelineKind>,
}

/// A pipeline to run.
pub struct PipelineNode {
    /// Its id.
    pub name: Arc<str>,
    /// The kind of its output.
    pub kind: PipelineKind,
    /// Receivers of the graph that feed it.
    pub receivers: Vec<ComponentId>,
    /// Its processors and its aggregator.
    pub stages: Stages,
    /// Exporters of the graph that it feeds.
    pub exporters: Vec<ComponentId>,
}

/// Everything to run, wired.
#[derive(Debug, Default)]
pub struct Graph {
    /// The receivers.
    pub receivers: Vec<ReceiverNode>,
    /// The exporters.
    pub exporters: Vec<ExporterNode>,
    /// The pipelines between them.
    pub pipelines: Vec<PipelineNode>,
    /// Exporters of the graph that take the daemon's own metrics.
    pub telemetry: Vec<ComponentId>,
}

impl std::fmt::Debug for ReceiverNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ReceiverNode").field(&self.id).finish()
    }
}

impl std::fmt::Debug for ExporterNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ExporterNode")
            .field(&self.id)
            .field(&self.queue)
            .finish()
    }
}

impl std::fmt::Debug for PipelineNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineNode")
            .field("name", &self.name)
            .field("receivers", &self.receivers)
            .field("exporters", &self.exporters)
            .finish_non_exhaustive()
    }
}

/// The error that ended a run early, or that occurred at its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A component did not start.
    #[error("{id} did not start: {source}")]
    Start {
        /// Which component.
        id: ComponentId,
        /// Why.
        source: StageError,
    },
    /// A component can't go on.
    #[error("{id} stopped: {source}")]
    Failed {
        /// Which component.
        id: ComponentId,
        /// Why.
        source: StageError,
    },
    /// A component panicked.
    #[error("{id} panicked: {message}")]
    Panicked {
        /// Which component.
        id: ComponentId,
        /// Message of the panic.
        message: String,
    },
    /// The system gave no thread or runtime for a receiver.
    #[error("no thread for {id}: {source}")]
    Thread {
        /// Which component.
        id: ComponentId,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A receiver did not stop.
    #[error("{id} did not stop within {waited:?}; its last records may be missing")]
    Stuck {
        /// Which component.
        id: ComponentId,
        /// Time that was waited.
        waited: Duration,
    },
    /// Some exporter had not drained its queue when the deadline came.
    #[error("stopped by the deadline of {deadline:?} with {items} points and log records not yet exported")]
    Deadline {
        /// The deadline.
        deadline: Duration,
        /// Points and log records that were given up.
        items: u64,
    },
}

impl RunError {
    /// Which component it is about, if it is about one.
    pub const fn component(&self) -> Option<&ComponentId> {
        match self {
            Self::Start { id, .. }
            | Self::Failed { id, .. }
            | Self::Panicked { id, .. }
            | Self::Thread { id, .. }
            | Self::Stuck { id, .. } => Some(id),
            Self::Deadline { .. } => None,
        }
    }
}

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
    deadline: Duration,
    status: StatusBoard,
    exporters: BTreeMap<ComponentId, RunningExporter>,
    /// Exporters that a new graph leaves out, while they drain.
    leaving: BTreeMap<ComponentId, RunningExporter>,
    pipelines: BTreeMap<Arc<str>, RunningPipeline>,
    receivers: BTreeMap<ComponentId, RunningReceiver>,
    /// State left by receivers for their replacements, until these are started. In a lock that is
    /// never contended, because an inheritance need not be `Sync`, and a future of the runner must
    /// be `Send`.
    inheritances: Mutex<BTreeMap<ComponentId, Inheritance>>,
    /// Interval and source of the own metrics that are pushed once exporters have started.
    unstarted: Option<(Duration, Collect)>,
    own_metrics: Option<OwnMetrics>,
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

/// Kind and number of the items that an exporter has taken from its queue and is not done with.
#[derive(Debug, Default)]
struct InFlight(Mutex<Option<(PipelineKind, u64)>>);

impl InFlight {
    fn set(&self, output: &Output) {
        *self.lock() = Some((output.kind(), output.items()));
    }

    /// Takes them: the caller counts them.
    fn take(&self) -> Option<(PipelineKind, u64)> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<(PipelineKind, u64)>> {
        // Every statement under the lock leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running exporter: a task fed by its queue.
#[derive(Debug)]
struct RunningExporter {
    fingerprint: String,
    handle: ExporterHandle,
    /// The output that it has taken from its queue, until it is done with it.
    in_flight: Arc<InFlight>,
    task: JoinHandle<Result<(), RunError>>,
}

#[derive(Debug)]
struct RunningPipeline {
    chain: SharedChain,
    receivers: Vec<ComponentId>,
}

/// A running receiver, on its own thread.
#[derive(Debug)]
struct RunningReceiver {
    fingerprint: String,
    chains: ChainSet,
    stop: CancellationToken,
    ends: oneshot::Receiver<ReceiverEnd>,
}

/// The result of a receiver's thread, with the state that it leaves to its replacement.
type ReceiverEnd = Result<Option<Inheritance>, RunError>;

impl RunningReceiver {
    /// Waits for its end.
    async fn end(&mut self, id: &ComponentId) -> ReceiverEnd {
        let dropped = || RunError::Panicked {
            id: id.clone(),
            message: "without a message".to_owned(),
        };
        (&mut self.ends).await.unwrap_or_else(|_| Err(dropped()))
    }
}

impl Runner {
    /// Nothing runs yet. `deadline`: how long stopping may take, of all or of what a new graph leaves out.
    pub fn new(meter: &Meter, deadline: Duration, status: StatusBoard) -> Self {
        Self {
            meter: meter.clone(),
            deadline,
            status,
            exporters: BTreeMap::new(),
            leaving: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            receivers: BTreeMap::new(),
            inheritances: Mutex::default(),
            unstarted: None,
            own_metrics: None,
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
        self.apply_exporters(graph.exporters).await?;
        if let Some((interval, collect)) = self.unstarted.take() {
            self.own_metrics = Some(OwnMetrics::start(interval, collect));
        }
        self.set_own_metrics(&graph.telemetry);
        self.apply_pipelines(graph.pipelines).await;
        let applied = self.apply_receivers(graph.receivers).await;
        if applied.is_ok() {
            for pipeline in self.pipelines.values() {
                let receivers = pipeline.receivers.clone();
                self.on_chain(&pipeline.chain, move |chain| {
                    chain.retain_receivers(&receivers);
                })
                .await;
            }
        }
        for exporter in self.exporters.values() {
            exporter.handle.queue.relieve(false);
        }
        applied
    }

    fn inheritances(&mut self) -> &mut BTreeMap<ComponentId, Inheritance> {
        self.inheritances
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no queue block any longer: a full one drops its oldest, counted.
    fn relieve(&self) {
        for exporter in self.exporters.values().chain(self.leaving.values()) {
            exporter.handle.queue.relieve(true);
        }
    }

    /// Runs `work` on a chain, away from the async workers: a receiver holds its chain for as long as an exporter that blocks has
    /// no room. After the deadline that exporter drops its oldest snapshot instead.
    async fn on_chain<T: Send + 'static>(
        &self,
        chain: &SharedChain,
        work: impl FnOnce(&mut Chain) -> T + Send + 'static,
    ) -> T {
        let chain = Arc::clone(chain);
        let mut task = tokio::task::spawn_blocking(move || work(&mut lock(&chain)));
        let joined = match tokio::time::timeout(self.deadline, &mut task).await {
            Ok(joined) => joined,
            Err(_elapsed) => {
                let deadline = self.deadline;
                tracing::warn!(
                    ?deadline,
                    "a pipeline waits for an exporter with `when_full: block`, which drops its oldest snapshot for the new config; \
                hint: use `when_full: drop_oldest`, or a faster destination"
                );
                self.relieve();
                task.await
            }
        };
        match joined {
            Ok(result) => result,
            // As if it had run here.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and this future with it.
            Err(_) => std::future::pending().await,
        }
    }

    fn set_own_metrics(&self, exporters: &[ComponentId]) {
        if let Some(own) = &self.own_metrics {
            let running = exporters.iter().filter_map(|id| self.exporters.get(id));
            own.set(running.map(|exporter| exporter.handle.clone()).collect());
        }
    }

    async fn apply_exporters(&mut self, nodes: Vec<ExporterNode>) -> Result<(), RunError> {
        let same = |running: Option<&RunningExporter>, node: &ExporterNode| {
            running
                .is_some_and(|running| running.fingerprint == node.fingerprint && !running.task.is_finished())
        };
        let (kept, new): (Vec<_>, Vec<_>) = nodes
            .into_iter()
            .partition(|node| same(self.exporters.get(&node.id), node));
        let leaving: Vec<_> = self
            .exporters
            .keys()
            .filter(|id| !kept.iter().any(|node| node.id == **id))
            .cloned()
            .collect();
        for id in &leaving {
            if let Some(exporter) = self.exporters.get(id) {
                self.status
                    .set(ComponentKind::Exporter, id, State::Stopping, None);
                // Its queue must not block any longer.
                exporter.handle.queue.relieve(true);
            }
        }
        for pipeline in self.pipelines.values() {
            let leaving = leaving.clone();
            self.on_chain(&pipeline.chain, move |chain| {
                for id in &leaving {
                    chain.detach_exporter(id);
                }
            })
            .await;
        }
        for id in leaving {
            if let Some(exporter) = self.exporters.remove(&id) {
                exporter.handle.queue.close();
                self.leaving.insert(id, exporter);
            }
        }
        // Before new ones start: one of them may be about to listen on the same port.
        self.drain_leaving().await?;
        for node in new {
            self.start_exporter(node).await?;
        }
        Ok(())
    }

    /// Lets exporters that are being removed finish what waits for them, all within one deadline.
    async fn drain_leaving(&mut self) -> Result<(), RunError> {
        let tasks = self.leaving.values_mut().map(|exporter| &mut exporter.task);
        let drained = tokio::time::timeout(self.deadline, join_all(tasks)).await;
        let leaving = std::mem::take(&mut self.leaving);
        for id in leaving.keys() {
            self.status.remove(ComponentKind::Exporter, id);
        }
        match drained {
            Ok(ends) => ends.into_iter().try_for_each(|joined| joined.unwrap_or(Ok(()))),
            Err(_elapsed) => {
                // They leave all the same: what they could not deliver is counted, and flowtap runs on.
                for (exporter, running) in &leaving {
                    if !running.task.is_finished() {
                        let (items, deadline) = (abandon(running), self.deadline);
                        tracing::warn!(
                            %exporter,
                            items,
                            ?deadline,
                            "an exporter that is being removed did not deliver everything in time; \
                        hint: raise service.shutdown_timeout"
                        );
                    }
                }
                Ok(())
            }
        }
    }

    async fn start_exporter(&mut self, node: ExporterNode) -> Result<(), RunError> {
        let ExporterNode {
            id,
            fingerprint,
            mut exporter,
            queue,
            kinds,
        } = node;
        self.status
            .set(ComponentKind::Exporter, &id, State::Starting, None);
        let service = match exporter.start().await {
            Ok(service) => service,
            Err(source) => return Err(self.failed(ComponentKind::Exporter, RunError::Start { id, source })),
        };
        self.status.set(ComponentKind::Exporter, &id, State::Ok, None);
        let queue = Arc::new(OutputQueue::new(queue));
        let telemetry = ExporterTelemetry::new(&self.meter, &id, &queue, &kinds);
        let handle = ExporterHandle { queue, telemetry };
        let in_flight = Arc::<InFlight>::default();
        let (task_id, task_handle, status) = (id.clone(), handle.clone(), self.status.clone());
        let task_in_flight = Arc::clone(&in_flight);
        let task = tokio::spawn(async move {
            let work = drive_exporter(
                &task_id,
                exporter,
                service,
                &task_handle,
                &task_in_flight,
                &status,
            );
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            outcome.map_err(|panic| RunError::Panicked {
                id: task_id,
                message: panic_message(&*panic),
            })
        });
        let running = RunningExporter {
            fingerprint,
            handle,
            in_flight,
            task,
        };
        self.exporters.insert(id, running);
        Ok(())
    }

    async fn apply_pipelines(&mut self, nodes: Vec<PipelineNode>) {
        let gone: Vec<_> = self
            .pipelines
            .keys()
            .filter(|name| !nodes.iter().any(|node| node.name == **name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(pipeline) = self.pipelines.remove(&name) {
                self.unfeed(&pipeline.chain);
                self.on_chain(&pipeline.chain, Chain::retire).await;
            }
        }
        for node in nodes {
            let exporters = node
                .exporters
                .iter()
                .filter_map(|id| Some((id.clone(), self.exporters.get(id)?.handle.clone())))
                .collect();
            if let Some(pipeline) = self.pipelines.get(&node.name) {
                let receivers = node.receivers.clone();
                let reconcile = move |chain: &mut Chain| {
                    chain.set_exporters(exporters);
                    chain.reconcile(node.stages);
                    chain.attach_receivers(&node.receivers);
                };
                self.on_chain(&pipeline.chain, reconcile).await;
                if let Some(pipeline) = self.pipelines.get_mut(&node.name) {
                    pipeline.receivers = receivers;
                }
            } else {
                let mut chain = Chain::new(Arc::clone(&node.name), node.stages, exporters);
                chain.attach_receivers(&node.receivers);
                observe_windows(&self.meter, &node.name, &chain.closed_at());
                let running = RunningPipeline {
                    chain: Arc::new(Mutex::new(chain)),
                    receivers: node.receivers,
                };
                self.pipelines.insert(node.name, running);
            }
        }
    }

    /// No receiver feeds `chain` any more.
    fn unfeed(&self, chain: &SharedChain) {
        for receiver in self.receivers.values() {
            let without = |fed: &Arc<Vec<SharedChain>>| {
                let others = fed.iter().filter(|other| !Arc::ptr_eq(other, chain));
                others.cloned().collect::<Vec<_>>()
            };
            receiver.chains.rcu(without);
        }
    }

    async fn apply_receivers(&mut self, nodes: Vec<ReceiverNode>) -> Result<(), RunError> {
        let leaving: Vec<_> = self
            .receivers
            .iter()
            .filter(|(id, running)| {
                let same = |node: &ReceiverNode| node.id == **id && node.fingerprint == running.fingerprint;
                !nodes.iter().any(same)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in leaving {
            let is_replaced = nodes.iter().any(|node| node.id == id);
            let Some(receiver) = self.receivers.get_mut(&id) else {
                continue;
            };
            self.status
                .set(ComponentKind::Receiver, &id, State::Stopping, None);
            receiver.stop.cancel();
            // In the map until it has ended, so that stopping waits for it if this future is dropped. One that waits for an
            // exporter gets the second half of the time without.
            let waited = self.deadline;
            let ended = match tokio::time::timeout(waited / 2, receiver.end(&id)).await {
                Ok(ended) => Ok(ended),
                Err(_elapsed) => {
                    for exporter in self.exporters.values() {
                        exporter.handle.queue.relieve(true);
                    }
                    tokio::time::timeout(waited / 2, receiver.end(&id)).await
                }
            };
            self.receivers.remove(&id);
            self.status.remove(ComponentKind::Receiver, &id);
            let stuck = |_| {
                Err(RunError::Stuck {
                    id: id.clone(),
                    waited,
                })
            };
            let inheritance = ended.unwrap_or_else(stuck)?;
            if let Some(inheritance) = inheritance.filter(|_| is_replaced) {
                self.inheritances().insert(id, inheritance);
            }
        }
        for node in nodes {
            let fed = self.chains_of(&node.id);
            match self.receivers.get(&node.id) {
                Some(running) => running.chains.store(Arc::new(fed)),
                None => self.start_receiver(node, fed).await?,
            }
        }
        // Only a start that failed leaves any, and then the graph before takes it over again.
        self.inheritances().clear();
        Ok(())
    }

    /// The chains that `receiver` feeds.
    fn chains_of(&self, receiver: &ComponentId) -> Vec<SharedChain> {
        let fed = self
            .pipelines
            .values()
            .filter(|pipeline| pipeline.receivers.contains(receiver));
        fed.map(|pipeline| Arc::clone(&pipeline.chain)).collect()
    }

    async fn start_receiver(&mut self, node: ReceiverNode, fed: Vec<SharedChain>) -> Result<(), RunError> {
        let ReceiverNode {
            id,
            fingerprint,
            mut receiver,
        } = node;
        self.status
            .set(ComponentKind::Receiver, &id, State::Starting, None);
        let inheritance = self.inheritances().remove(&id);
        let continues = inheritance.is_some_and(|inheritance| receiver.take_over(inheritance).is_ok());
        if !continues {
            for chain in &fed {
                let receiver = id.clone();
                self.on_chain(chain, move |chain| chain.reset_watermark(&receiver))
                    .await;
            }
        }
        let chains: ChainSet = Arc::new(ArcSwap::from_pointee(fed));
        let telemetry = ReceiverTelemetry::new(&self.meter, &id);
        let pulse = Arc::new(Pulse::default());
        observe_scans(&self.meter, &id, &pulse);
        let sink = ChainSink::new(id.clone(), Arc::clone(&chains), telemetry, Arc::clone(&pulse));
        let stop = CancellationToken::new();
        // If this future is dropped while the receiver attaches, the receiver ends as soon as it has.
        let guard = stop.clone().drop_guard();
        match start_receiver(&id, receiver, sink, stop.clone()).await {
            Ok(ends) => {
                guard.disarm();
                self.status.set(ComponentKind::Receiver, &id, State::Ok, None);
                self.status.watch(&id, pulse);
                let running = RunningReceiver {
                    fingerprint,
                    chains,
                    stop,
                    ends,
                };
                self.receivers.insert(id, running);
                Ok(())
            }
            Err((error, inheritance)) => {
                if let Some(inheritance) = inheritance {
                    self.inheritances().insert(id, inheritance);
                }
                Err(self.failed(ComponentKind::Receiver, error))
            }
        }
    }

    /// Reports `error` in the component states.
    fn failed(&self, kind: ComponentKind, error: RunError) -> RunError {
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

    /// Stops everything in order: receivers, windows, exporters.
    ///
    /// # Errors
    /// The first that went wrong at the end; [`RunError::Deadline`] with what was not exported in time.
    pub async fn stop(mut self) -> Result<(), RunError> {
        let stopped = tokio::time::timeout(self.deadline, self.stop_in_order()).await;
        stopped.unwrap_or_else(|_elapsed| Err(self.give_up()))
    }

    async fn stop_in_order(&mut self) -> Result<(), RunError> {
        let mut outcome = Ok(());
        // A receiver that waits for room in a queue could not stop, nor let go of its chains.
        self.relieve();
        for (id, receiver) in &self.receivers {
            self.status
                .set(ComponentKind::Receiver, id, State::Stopping, None);
            receiver.stop.cancel();
        }
        // One that hangs must not take the time of the exporters, nor the last window of the others.
        let waited = self.deadline / 2;
        let until = tokio::time::Instant::now() + waited;
        for (id, receiver) in &mut self.receivers {
            // One that has ended before said why then.
            if !receiver.ends.is_terminated() {
                let ended = tokio::time::timeout_at(until, receiver.end(id)).await;
                let stuck = |_| {
                    Err(RunError::Stuck {
                        id: id.clone(),
                        waited,
                    })
                };
                outcome = outcome.and(ended.unwrap_or_else(stuck).map(drop));
            }
        }
        for pipeline in self.pipelines.values() {
            self.on_chain(&pipeline.chain, |chain| chain.finish(Timestamp::now()))
                .await;
        }
        // After the last windows, so that their losses are in it; before the queues close.
        if let Some(own) = &self.own_metrics {
            own.finish().await;
        }
        for (id, exporter) in self.exporters.iter().chain(&self.leaving) {
            self.status
                .set(ComponentKind::Exporter, id, State::Stopping, None);
            exporter.handle.queue.close();
        }
        for exporter in self.exporters.values_mut().chain(self.leaving.values_mut()) {
            if !exporter.task.is_finished() {
                outcome = outcome.and((&mut exporter.task).await.unwrap_or(Ok(())));
            }
        }
        outcome
    }

    /// Counts what was not delivered as lost and ends the tasks.
    fn give_up(&self) -> RunError {
        let exporters = self.exporters.values().chain(self.leaving.values());
        let items = exporters.map(abandon).sum();
        let deadline = self.deadline;
        // Logged here, because the caller may be ended before the error is shown.
        tracing::warn!(
            items,
            ?deadline,
            "not everything was exported by the deadline; the rest is lost; \
                hint: raise service.shutdown_timeout, or use `storage`"
        );
        RunError::Deadline { deadline, items }
    }
}

/// Counts what waits for `exporter`, and what it has under way, as lost, and ends it; returns the number of points and log records.
fn abandon(exporter: &RunningExporter) -> u64 {
    let waiting = exporter.handle.queue.give_up();
    let waiting = waiting.iter().map(|output| (output.kind(), output.items()));
    let mut lost = 0;
    for (kind, items) in waiting.chain(exporter.in_flight.take()) {
        exporter.handle.telemetry.deliveries().failed(kind, items);
        lost += items;
    }
    exporter.task.abort();
    lost
}

/// Takes outputs from the queue to the service until the queue is closed and drained.
async fn drive_exporter(
    id: &ComponentId,
    mut exporter: Box<dyn Exporter>,
    mut service: ExportService,
    handle: &ExporterHandle,
    in_flight: &InFlight,
    status: &StatusBoard,
) {
    let set_state = |state, error| status.set(ComponentKind::Exporter, id, state, error);
    while let Some(output) = handle.queue.pop().await {
        let began = Instant::now();
        in_flight.set(&output);
        let called: Result<_, BoxError> = async { service.ready().await?.call(output).await }.await;
        let Some((kind, items)) = in_flight.take() else {
            // Given up, and counted, a moment ago.
            return;
        };
        handle.telemetry.took(began.elapsed());
        match called {
            Ok(exported) => {
                handle.telemetry.deliveries().sent(kind, exported.sent);
                handle.telemetry.deliveries().failed(kind, exported.failed);
                if exported.failed > 0 {
                    // An exporter that watches its own attempts has given the cause already.
                    if status.is_failing(ComponentKind::Exporter, id) {
                        continue;
                    }
                    let message = format!(
                        "{} {} were not delivered; the log has the reason",
                        exported.failed,
                        kind.items()
                    );
                    set_state(State::RecoverableError, Some(message));
                } else if exported.sent > 0 {
                    set_state(State::Ok, None);
                }
            }
            Err(error) => {
                handle.telemetry.deliveries().failed(kind, items);
                let error = error_chain(&*error);
                tracing::warn!(exporter = %id, items, error, "{} not exported; \
                hint: fix the cause that the error names", kind.items());
                set_state(State::RecoverableError, Some(error));
            }
        }
    }
    drop(service);
    exporter.stop().await;
}

/// Starts a receiver on its own thread and waits until it is attached. Returns a handle to its end;
/// an error includes the state that the receiver had taken over.
async fn start_receiver(
    id: &ComponentId,
    mut receiver: Box<dyn Receiver>,
    mut sink: ChainSink,
    stop: CancellationToken,
) -> Result<oneshot::Receiver<ReceiverEnd>, (RunError, Option<Inheritance>)> {
    let (started, starts) = oneshot::channel();
    let (ended, ends) = oneshot::channel();
    let thread_id = id.clone();
    let work = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(source) => {
                let error = RunError::Thread {
                    id: thread_id,
                    source,
                };
                let _ = started.send(Err((error, receiver.hand_over())));
                return;
            }
        };
        let receive = async {
            if let Err(source) = receiver.start() {
                let error = RunError::Start {
                    id: thread_id.clone(),
                    source,
                };
                let _ = started.send(Err((error, receiver.hand_over())));
                return Ok(None);
            }
            // The run may have been given up meanwhile; then `stop` is also cancelled.
            let _ = started.send(Ok(()));
            let ran = receiver.run(&mut sink, stop).await;
            ran.map(|()| receiver.hand_over())
                .map_err(|source| RunError::Failed {
                    id: thread_id.clone(),
                    source,
                })
        };
        let outcome = runtime.block_on(AssertUnwindSafe(receive).catch_unwind());
        let outcome = outcome.unwrap_or_else(|panic| {
            Err(RunError::Panicked {
                id: thread_id,
                message: panic_message(&*panic),
            })
        });
        let _ = ended.send(outcome);
    };
    // The kernel keeps 15 bytes of a thread's name.
    let name = format!("recv-{id}").chars().take(15).collect();
    if let Err(source) = thread::Builder::new().name(name).spawn(work) {
        let error = RunError::Thread {
            id: id.clone(),
            source,
        };
        return Err((error, None));
    }
    let dropped = |id: &ComponentId| RunError::Panicked {
        id: id.clone(),
        message: "in its start".to_owned(),
    };
    match starts.await {
        Ok(Ok(())) => Ok(ends),
        Ok(Err(error)) => Err(error),
        // The panic was in `start`: its text comes by the other channel.
        Err(_) => {
            let error = ends.await.ok().and_then(Result::err);
            Err((error.unwrap_or_else(|| dropped(id)), None))
        }
    }
}

/// The text of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// An error with everything that caused it, on one line.
fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
