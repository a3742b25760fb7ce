//! The ordered stop of a runner, within one deadline.

use flowtap_pipeline::{ComponentKind, State, Timestamp};

use super::Runner;
use super::error::RunError;
use super::exporters::abandon;

impl Runner {
    /// Lets no queue block any longer: a full one drops its oldest, counted.
    pub(super) fn relieve(&self) {
        for exporter in self.exporters.values().chain(self.leaving.values()) {
            exporter.handle.queue.relieve(true);
        }
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
