//! Exporters of a runner: each has a task that takes outputs from its queue.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flowtap_pipeline::{
    ComponentId, ComponentKind, ExportService, Exporter, Output, Persistence, State, StatusBoard,
};
use futures::FutureExt;
use futures::future::join_all;
use tower::{BoxError, Service, ServiceExt};

use super::Runner;
use super::error::{RunError, error_chain, panic_message};
use super::graph::{ExporterNode, Feeds};
use super::running::{InFlight, NextExporter, RunningExporter, Shared};
use crate::chain::{Chain, ExporterHandle};
use crate::queue::OutputQueue;
use crate::queues::Queues;
use crate::telemetry::ExporterTelemetry;

/// Maximum time for which an exporter that was given up may take to end: it leaves its state and its files to the next one.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

impl Runner {
    /// Replaces the exporters by those of `nodes`, but for those that stay the same.
    pub(super) async fn apply_exporters(
        &mut self,
        nodes: Vec<ExporterNode>,
        feeds: &Feeds,
    ) -> Result<(), RunError> {
        let same = |running: Option<&RunningExporter>, node: &ExporterNode| {
            running
                .is_some_and(|running| running.fingerprint == node.fingerprint && !running.task.is_finished())
        };
        let (kept, new): (Vec<_>, Vec<_>) = nodes
            .into_iter()
            .partition(|node| same(self.exporters.get(&node.id), node));
        // Before any pipeline of the new graph pushes: the exporter is the same, and more may feed it.
        for node in &kept {
            if let Some(running) = self.exporters.get(&node.id) {
                running.handle.queue.grow(&node.queue);
            }
        }
        let leaving: Vec<_> = self
            .exporters
            .keys()
            .filter(|id| !kept.iter().any(|node| node.id == **id))
            .cloned()
            .collect();
        let starting: Vec<_> = new.iter().map(|node| node.id.clone()).collect();
        self.prepare(new);
        self.release(leaving, feeds).await;
        // Before new ones start: one of them may be about to listen on the same port.
        self.drain_leaving().await?;
        for id in starting {
            self.start_exporter(id).await?;
        }
        Ok(())
    }

    /// Makes the queues of the exporters that are to start. Those of a graph that did not start go on, with what waits in them.
    fn prepare(&mut self, nodes: Vec<ExporterNode>) {
        let mut before = std::mem::take(&mut self.next);
        for node in nodes {
            let handle = if let Some(next) = before.remove(&node.id) {
                // A pipeline that waits for room holds its lock, which the reload needs.
                next.handle.queue.relieve(true);
                next.handle.queue.follow(&node.queue);
                next.handle
            } else {
                let queue = Arc::new(Queues::new(node.queue, node.exporter.separates_kinds()));
                ExporterHandle {
                    telemetry: ExporterTelemetry::new(
                        &self.meter,
                        &node.id,
                        &queue,
                        &node.kinds,
                        node.is_pulled,
                    ),
                    queue,
                    wants_opening: node.wants_opening,
                }
            };
            let id = node.id.clone();
            let node = Mutex::new(Some(node));
            self.next.insert(id, NextExporter { node, handle });
        }
        for next in before.values() {
            count_lost(&next.handle, next.handle.queue.give_up());
        }
    }

    /// Closes the queues of exporters that leave. Outputs that wait there, and those that come later, go to those that replace them, as far
    /// as the pipelines feed these as well.
    async fn release(&mut self, leaving: Vec<ComponentId>, feeds: &Feeds) {
        for id in &leaving {
            if let Some(exporter) = self.exporters.get(id) {
                self.status
                    .set(ComponentKind::Exporter, id, State::Stopping, None);
                // Its queue must not block any longer.
                exporter.handle.queue.relieve(true);
            }
        }
        for (name, pipeline) in &self.pipelines {
            let next = |id: &ComponentId| {
                let next = self.next.get(id).filter(|_| feeds.has(id, name))?;
                Some(next.handle.clone())
            };
            let changes: Vec<_> = leaving.iter().map(|id| (id.clone(), next(id))).collect();
            let change = move |chain: &mut Chain| {
                for (id, next) in &changes {
                    match next {
                        Some(handle) => chain.exchange_exporter(id, handle),
                        None => chain.detach_exporter(id),
                    }
                }
            };
            self.on_chain(&pipeline.chain, change).await;
        }
        for id in leaving {
            let Some(exporter) = self.exporters.remove(&id) else {
                continue;
            };
            let queue = &exporter.handle.queue;
            queue.close();
            if let Some(NextExporter { handle, .. }) = self.next.get(&id) {
                let dropped = queue.move_to(&handle.queue, |output| feeds.has_output(&id, output));
                handle.telemetry.enqueued(&dropped);
            }
            if let Some(state) = &exporter.shared.0 {
                self.shared_states.insert(id.clone(), Arc::clone(state));
            }
            self.leaving.insert(id, exporter);
        }
    }

    /// Lets exporters that are being removed finish what waits for them, all within one deadline.
    async fn drain_leaving(&mut self) -> Result<(), RunError> {
        let tasks = self.leaving.values_mut().map(|exporter| &mut exporter.task);
        let drained = tokio::time::timeout(self.deadline, join_all(tasks)).await;
        let mut leaving = std::mem::take(&mut self.leaving);
        for id in leaving.keys() {
            self.status.remove(ComponentKind::Exporter, id);
        }
        match drained {
            Ok(ends) => ends.into_iter().try_for_each(|joined| joined.unwrap_or(Ok(()))),
            Err(_elapsed) => {
                // They leave all the same: what they could not deliver is counted, and flowtap runs on.
                leaving.retain(|_, running| !running.task.is_finished());
                for (exporter, running) in &leaving {
                    let (items, deadline) = (abandon(running) + running.lost(), self.deadline);
                    if items == 0 && running.persistence == Persistence::OnDisk {
                        tracing::info!(
                            %exporter,
                            ?deadline,
                            "an exporter that is being removed leaves requests on disk; they are sent by the next one with its `storage`"
                        );
                        continue;
                    }
                    tracing::warn!(
                        %exporter,
                        items,
                        ?deadline,
                        "an exporter that is being removed did not deliver everything in time; \
                        hint: raise service.shutdown_timeout"
                    );
                }
                let tasks = leaving.values_mut().map(|exporter| &mut exporter.task);
                // Either way they are done with: their outputs are counted.
                let _ = tokio::time::timeout(ABORT_TIMEOUT, join_all(tasks)).await;
                Ok(())
            }
        }
    }

    /// Starts the exporters of a graph that a stop has kept from starting, if something waits for them. Their queues are closed.
    pub(super) async fn start_waiting(&mut self) -> Result<(), RunError> {
        let waiting = self.next.iter().filter(|(_, next)| !next.handle.queue.is_empty());
        let waiting: Vec<_> = waiting.map(|(id, _)| id.clone()).collect();
        let mut outcome = Ok(());
        for id in waiting {
            outcome = outcome.and(self.start_exporter(id).await);
        }
        outcome
    }

    /// Counts what waits for exporters that have not started as lost, and returns the number of points and log records.
    pub(super) fn abandon_next(&self) -> u64 {
        let next = self.next.values();
        next.map(|next| count_lost(&next.handle, next.handle.queue.give_up()))
            .sum()
    }

    async fn start_exporter(&mut self, id: ComponentId) -> Result<(), RunError> {
        let Some(next) = self.next.get_mut(&id) else {
            return Ok(());
        };
        let handle = next.handle.clone();
        let Some(node) = next.take() else {
            return Ok(());
        };
        let ExporterNode {
            fingerprint,
            mut exporter,
            ..
        } = node;
        self.status
            .set(ComponentKind::Exporter, &id, State::Starting, None);
        // It stays there for another one, should this one not start.
        if let Some(before) = self.shared_states.get(&id) {
            exporter.take_over(Arc::clone(before));
        }
        let service = match exporter.start().await {
            Ok(service) => service,
            Err(source) => return Err(self.failed(ComponentKind::Exporter, RunError::Start { id, source })),
        };
        self.status.set(ComponentKind::Exporter, &id, State::Ok, None);
        let (persistence, shared) = (exporter.persistence(), Shared(exporter.shared_state()));
        let unacknowledged = exporter.unacknowledged();
        let in_flight = Arc::<InFlight>::default();
        let (task_id, task_handle, status) = (id.clone(), handle.clone(), self.status.clone());
        let (task_in_flight, stopping) = (Arc::clone(&in_flight), Arc::clone(&self.stopping));
        let task = tokio::spawn(async move {
            let work = drive_exporter(
                &task_id,
                exporter,
                service,
                &task_handle,
                &task_in_flight,
                &status,
                &stopping,
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
            persistence,
            unacknowledged,
            shared,
            task,
        };
        self.next.remove(&id);
        self.exporters.insert(id, running);
        Ok(())
    }
}

/// Counts what waits for `exporter`, and what it has under way, as lost, and ends it; returns the number of points and log records.
pub(super) fn abandon(exporter: &RunningExporter) -> u64 {
    let waiting = count_lost(&exporter.handle, exporter.handle.queue.give_up());
    let mut under_way = 0;
    for (kind, items) in exporter.in_flight.take_all() {
        exporter.handle.telemetry.deliveries().failed(kind, items);
        under_way += items;
    }
    exporter.task.abort();
    waiting + under_way
}

/// Counts `outputs`, and returns the number of their points and log records.
fn count_lost(handle: &ExporterHandle, outputs: Vec<Output>) -> u64 {
    let mut lost = 0;
    for output in outputs {
        handle
            .telemetry
            .deliveries()
            .failed(output.kind(), output.items());
        lost += output.items();
    }
    lost
}

/// Takes outputs from each queue to the service until the queues are closed and drained.
async fn drive_exporter(
    id: &ComponentId,
    mut exporter: Box<dyn Exporter>,
    service: ExportService,
    handle: &ExporterHandle,
    in_flight: &InFlight,
    status: &StatusBoard,
    stopping: &AtomicBool,
) {
    let service = tokio::sync::Mutex::new(service);
    let lanes = handle
        .queue
        .all()
        .map(|queue| drive_lane(id, queue, &service, handle, in_flight, status, stopping));
    let ends = join_all(lanes).await;
    drop(service);
    if !ends.contains(&LaneEnd::GivenUp) {
        exporter.stop().await;
    }
}

/// The end of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneEnd {
    Drained,
    /// The output under way has been counted as lost.
    GivenUp,
}

/// Takes outputs from `queue` to the service until the queue is closed and drained.
async fn drive_lane(
    id: &ComponentId,
    queue: &OutputQueue,
    service: &tokio::sync::Mutex<ExportService>,
    handle: &ExporterHandle,
    in_flight: &InFlight,
    status: &StatusBoard,
    stopping: &AtomicBool,
) -> LaneEnd {
    let undelivered = |items| {
        if stopping.load(Ordering::Acquire) {
            in_flight.undelivered(items);
        }
    };
    // The failure that is shown as this task has set it; an exporter that watches its own attempts shows others.
    let mut shown: Option<String> = None;
    let set_state = |state, error| status.set(ComponentKind::Exporter, id, state, error);
    while let Some(output) = queue.pop().await {
        let began = Instant::now();
        let kind = output.kind();
        in_flight.set(&output);
        let called: Result<_, BoxError> = async {
            // Locked until the call has begun: each lane waits for its own answers.
            let call = service.lock().await.ready().await?.call(output);
            call.await
        }
        .await;
        let Some(items) = in_flight.take(kind) else {
            // Given up, and counted, a moment ago.
            return LaneEnd::GivenUp;
        };
        handle.telemetry.took(began.elapsed());
        match called {
            Ok(exported) => {
                handle.telemetry.deliveries().sent(kind, exported.sent);
                handle.telemetry.deliveries().failed(kind, exported.failed);
                undelivered(exported.failed);
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
                    set_state(State::RecoverableError, Some(message.clone()));
                    shown = Some(message);
                } else if exported.sent > 0
                    && let Some(error) = shown.take()
                {
                    status.recover(ComponentKind::Exporter, id, &error);
                }
            }
            Err(error) => {
                handle.telemetry.deliveries().failed(kind, items);
                undelivered(items);
                let error = error_chain(&*error);
                tracing::warn!(exporter = %id, items, error, "{} not exported; \
                hint: fix the cause that the error names", kind.items());
                set_state(State::RecoverableError, Some(error.clone()));
                shown = Some(error);
            }
        }
    }
    LaneEnd::Drained
}
