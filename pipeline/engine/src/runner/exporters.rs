//! Exporters of a runner: each has a task that takes outputs from its queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use flowtap_pipeline::{
    ComponentId, ComponentKind, ExportService, Exporter, Persistence, State, StatusBoard,
};
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Mutex;
use tower::{BoxError, Service, ServiceExt};

use super::Runner;
use super::error::{RunError, error_chain, panic_message};
use super::graph::ExporterNode;
use super::running::{InFlight, RunningExporter, Shared};
use crate::chain::ExporterHandle;
use crate::queue::OutputQueue;
use crate::queues::Queues;
use crate::telemetry::ExporterTelemetry;

impl Runner {
    pub(super) async fn apply_exporters(&mut self, nodes: Vec<ExporterNode>) -> Result<(), RunError> {
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
                if let Some(state) = &exporter.shared.0 {
                    self.shared_states.insert(id.clone(), Arc::clone(state));
                }
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
                let running = leaving.iter().filter(|(_, running)| !running.task.is_finished());
                for (exporter, running) in running {
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
            is_pulled,
            wants_opening,
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
        let queue = Arc::new(Queues::new(queue, exporter.separates_kinds()));
        let telemetry = ExporterTelemetry::new(&self.meter, &id, &queue, &kinds, is_pulled);
        let handle = ExporterHandle {
            queue,
            telemetry,
            wants_opening,
        };
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
        self.exporters.insert(id, running);
        Ok(())
    }
}

/// Counts what waits for `exporter`, and what it has under way, as lost, and ends it; returns the number of points and log records.
pub(super) fn abandon(exporter: &RunningExporter) -> u64 {
    let waiting = exporter.handle.queue.give_up();
    let waiting = waiting.iter().map(|output| (output.kind(), output.items()));
    let mut lost = 0;
    for (kind, items) in waiting.chain(exporter.in_flight.take_all()) {
        exporter.handle.telemetry.deliveries().failed(kind, items);
        lost += items;
    }
    exporter.task.abort();
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
    let service = Mutex::new(service);
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
    service: &Mutex<ExportService>,
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
