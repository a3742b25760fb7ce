//! The runner: starts exporters first and receivers last, drives them, and stops them the other way round.
//!
//! Stop: receivers hand on what is pending, each window closes once more, exporters drain their queues; all within one
//! deadline. Whatever ends the run (a signal, a receiver that can't go on, a panic) ends it in this order.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use opentelemetry::metrics::Meter;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, ServiceExt};

use crate::component::ComponentId;
use crate::queue::{QueueConfig, SnapshotQueue};
use crate::sink::{Chain, Outlet, Sink};
use crate::stage::{Aggregator, ExportService, Exporter, Processor, Receiver, StageError};
use crate::telemetry::{ExporterTelemetry, ReceiverTelemetry};
use crate::time::Timestamp;

/// A receiver to run.
pub struct ReceiverNode {
    /// Its id.
    pub id: ComponentId,
    /// The receiver.
    pub receiver: Box<dyn Receiver>,
}

/// An exporter to run.
pub struct ExporterNode {
    /// Its id.
    pub id: ComponentId,
    /// The exporter.
    pub exporter: Box<dyn Exporter>,
    /// The queue in front of it.
    pub queue: QueueConfig,
}

/// A pipeline to run: indices into [`Graph::receivers`] and [`Graph::exporters`].
pub struct PipelineNode {
    /// Receivers that feed it.
    pub receivers: Vec<usize>,
    /// Its processors but the window, in order.
    pub processors: Vec<Box<dyn Processor>>,
    /// Its window.
    pub aggregator: Box<dyn Aggregator>,
    /// Exporters that it feeds.
    pub exporters: Vec<usize>,
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
            .field("receivers", &self.receivers)
            .field("exporters", &self.exporters)
            .finish_non_exhaustive()
    }
}

/// What ended a run early, or went wrong at its end.
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
        /// What the panic said.
        message: String,
    },
    /// The system gave no thread or runtime for a receiver.
    #[error("no thread for {id}: {source}")]
    Thread {
        /// Which component.
        id: ComponentId,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some exporter had not drained its queue when the deadline came.
    #[error("stopped by the deadline of {deadline:?} with {points} points not yet exported")]
    Deadline {
        /// The deadline.
        deadline: Duration,
        /// Points that were given up.
        points: u64,
    },
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
    let mut exporters = Exporters::start(graph.exporters, meter).await?;
    let chains: Vec<_> = graph
        .pipelines
        .into_iter()
        .map(|mut pipeline| {
            pipeline.aggregator.begin(Timestamp::now());
            let outlets = pipeline
                .exporters
                .iter()
                .map(|&index| exporters.outlets[index].clone())
                .collect();
            let chain = Chain::new(pipeline.processors, pipeline.aggregator, outlets);
            (pipeline.receivers, Arc::new(Mutex::new(chain)))
        })
        .collect();

    let stop_receivers = CancellationToken::new();
    let mut receivers = FuturesUnordered::new();
    let mut outcome = Ok(());
    for (index, node) in graph.receivers.into_iter().enumerate() {
        let fed = chains.iter().filter(|(from, _)| from.contains(&index));
        let fed: Vec<_> = fed.map(|(_, chain)| Arc::clone(chain)).collect();
        let sink = Sink::new(&fed, ReceiverTelemetry::new(meter, &node.id));
        match start_receiver(node, sink, stop_receivers.clone()).await {
            Ok(ended) => receivers.push(ended),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }

    if outcome.is_ok() {
        ready();
        // A component that ends by itself ends the run: without it the numbers would stand still unnoticed.
        outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = receivers.next() => ended,
            ended = exporters.next_ended() => ended,
        };
    }

    let stopped = tokio::time::timeout(deadline, async {
        stop_receivers.cancel();
        let mut outcome = Ok(());
        while let Some(ended) = receivers.next().await {
            outcome = outcome.and(ended);
        }
        for (_, chain) in &chains {
            chain
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .finish(Timestamp::now());
        }
        outcome.and(exporters.drain().await)
    })
    .await;
    outcome.and(stopped.unwrap_or_else(|_elapsed| Err(exporters.give_up(deadline))))
}

/// The exporters at work, each a task behind its queue.
struct Exporters {
    outlets: Vec<Outlet>,
    tasks: JoinSet<Result<(), RunError>>,
}

impl Exporters {
    async fn start(nodes: Vec<ExporterNode>, meter: &Meter) -> Result<Self, RunError> {
        let mut started = Self {
            outlets: Vec::new(),
            tasks: JoinSet::new(),
        };
        for ExporterNode {
            id,
            mut exporter,
            queue,
        } in nodes
        {
            let service = match exporter.start().await {
                Ok(service) => service,
                Err(source) => return Err(RunError::Start { id, source }),
            };
            let queue = Arc::new(SnapshotQueue::new(queue));
            let telemetry = ExporterTelemetry::new(meter, &id, &queue);
            let outlet = Outlet { queue, telemetry };
            started.outlets.push(outlet.clone());
            started.tasks.spawn(async move {
                let work = AssertUnwindSafe(drive_exporter(&id, exporter, service, &outlet));
                work.catch_unwind().await.map_err(|panic| RunError::Panicked {
                    id,
                    message: said(&*panic),
                })
            });
        }
        Ok(started)
    }

    /// Waits for an exporter that ends although its queue is open. Never ends if there is no exporter.
    async fn next_ended(&mut self) -> Result<(), RunError> {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            // Not joined: only an abort does that, and none happens before `give_up`.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    /// Lets every exporter finish what waits for it.
    async fn drain(&mut self) -> Result<(), RunError> {
        for outlet in &self.outlets {
            outlet.queue.close();
        }
        let mut outcome = Ok(());
        while let Some(joined) = self.tasks.join_next().await {
            outcome = outcome.and(joined.unwrap_or(Ok(())));
        }
        outcome
    }

    /// Counts what still waits as lost and ends the tasks.
    fn give_up(&mut self, deadline: Duration) -> RunError {
        let mut points = 0;
        for outlet in &self.outlets {
            let lost = outlet.queue.give_up();
            outlet.telemetry.deliveries().failed(lost);
            points += lost;
        }
        self.tasks.abort_all();
        RunError::Deadline { deadline, points }
    }
}

/// Takes snapshots from the queue to the service until the queue is closed and drained.
async fn drive_exporter(
    id: &ComponentId,
    mut exporter: Box<dyn Exporter>,
    mut service: ExportService,
    outlet: &Outlet,
) {
    while let Some(snapshot) = outlet.queue.pop().await {
        let points = snapshot.points() as u64;
        let called: Result<_, BoxError> = async { service.ready().await?.call(snapshot).await }.await;
        match called {
            Ok(exported) => {
                outlet.telemetry.deliveries().sent(exported.sent);
                outlet.telemetry.deliveries().failed(exported.failed);
            }
            Err(error) => {
                outlet.telemetry.deliveries().failed(points);
                tracing::warn!(exporter = %id, points, error = chain_of(&*error), "snapshot not exported");
            }
        }
    }
    drop(service);
    exporter.stop().await;
}

/// Starts a receiver on a thread of its own and waits until it is attached. The future that is returned ends when the
/// receiver does.
async fn start_receiver(
    node: ReceiverNode,
    mut sink: Sink,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), RunError>> + Send, RunError> {
    let ReceiverNode { id, mut receiver } = node;
    let (started, starts) = oneshot::channel();
    let (ended, ends) = oneshot::channel();
    let thread_id = id.clone();
    let work = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(source) => {
                let _ = started.send(Err(RunError::Thread {
                    id: thread_id,
                    source,
                }));
                return;
            }
        };
        let receive = async {
            if let Err(source) = receiver.start() {
                let _ = started.send(Err(RunError::Start {
                    id: thread_id.clone(),
                    source,
                }));
                return Ok(());
            }
            // The run may have been given up meanwhile; then `stop` is cancelled, too.
            let _ = started.send(Ok(()));
            let ran = receiver.run(&mut sink, stop).await;
            ran.map_err(|source| RunError::Failed {
                id: thread_id.clone(),
                source,
            })
        };
        let outcome = runtime.block_on(AssertUnwindSafe(receive).catch_unwind());
        let outcome = outcome.unwrap_or_else(|panic| {
            Err(RunError::Panicked {
                id: thread_id,
                message: said(&*panic),
            })
        });
        let _ = ended.send(outcome);
    };
    // The kernel keeps 15 bytes of a thread's name.
    let name = format!("recv-{id}").chars().take(15).collect();
    if let Err(source) = thread::Builder::new().name(name).spawn(work) {
        return Err(RunError::Thread { id, source });
    }
    let dropped = |id: &ComponentId| RunError::Panicked {
        id: id.clone(),
        message: "in its start".to_owned(),
    };
    match starts.await {
        Ok(Ok(())) => Ok(async move { ends.await.unwrap_or_else(|_| Err(dropped(&id))) }),
        Ok(Err(error)) => Err(error),
        // The panic was in `start`: its text comes by the other channel.
        Err(_) => Err(ends
            .await
            .ok()
            .and_then(Result::err)
            .unwrap_or_else(|| dropped(&id))),
    }
}

/// The text of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// An error with everything that caused it, on one line.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
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
