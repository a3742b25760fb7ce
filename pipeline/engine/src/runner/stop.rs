//! The ordered stop of a runner, within one deadline.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use flowtap_pipeline::{ComponentKind, Persistence, State, Timestamp};

use super::Runner;
use super::error::RunError;
use super::exporters::abandon;

impl Runner {
    /// Lets no queue block any longer: a full one drops its oldest, counted.
    pub(super) fn relieve(&self) {
        for exporter in self.exporters.values().chain(self.leaving.values()) {
            exporter.handle.queue.relieve(true);
        }
        for exporter in self.next.values() {
            exporter.handle.queue.relieve(true);
        }
    }

    /// Stops everything in order: receivers, windows, exporters.
    ///
    /// # Errors
    /// The first that went wrong at the end; [`RunError::Deadline`] with what was not exported in time;
    /// [`RunError::Undelivered`] with what exporters gave up before it.
    pub async fn stop(mut self) -> Result<(), RunError> {
        self.stopping.store(true, Ordering::Release);
        let deadline = self.deadline;
        let mut measured = None;
        let stopped = tokio::time::timeout(deadline, self.stop_in_order(&mut measured)).await;
        stopped.unwrap_or_else(|_elapsed| self.give_up(measured))
    }

    /// Sets `measured` to the outcome of receivers and windows once nothing more comes from them.
    async fn stop_in_order(&mut self, measured: &mut Option<Result<(), RunError>>) -> Result<(), RunError> {
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
        for exporter in self.next.values() {
            exporter.handle.queue.close();
        }
        *measured = Some(outcome);
        let drained = self.drained().await;
        // After those that they replace.
        let started = self.start_waiting().await;
        let drained = drained.and(started).and(self.drained().await);
        self.report_overflow();
        let delivered = self.delivered();
        measured.take().unwrap_or(Ok(())).and(drained).and(delivered)
    }

    /// Waits until the exporters have ended, whose queues are closed.
    async fn drained(&mut self) -> Result<(), RunError> {
        let mut drained = Ok(());
        for exporter in self.exporters.values_mut().chain(self.leaving.values_mut()) {
            if !exporter.task.is_finished() {
                drained = drained.and((&mut exporter.task).await.unwrap_or(Ok(())));
            }
        }
        drained
    }

    /// Logs what full queues have dropped since the last line about it, while there is a log.
    fn report_overflow(&self) {
        for exporter in self.exporters.values().chain(self.leaving.values()) {
            exporter.handle.telemetry.report_overflow();
        }
    }

    /// Whether the exporters, which have ended, delivered everything that they took since the stop began.
    fn delivered(&self) -> Result<(), RunError> {
        let unstarted = self.abandon_next();
        let exporters = self.exporters.iter().chain(&self.leaving);
        let losing: Vec<_> = exporters
            .map(|(id, exporter)| (id.to_string(), exporter.lost()))
            .filter(|(_, lost)| *lost > 0)
            .collect();
        let items = unstarted + losing.iter().map(|(_, lost)| lost).sum::<u64>();
        if items == 0 {
            return Ok(());
        }
        let exporters: Vec<_> = losing.into_iter().map(|(id, _)| id).collect();
        // Only the exporter knows whether its peer was away, or refuses such requests for good.
        tracing::warn!(
            items,
            exporters = exporters.join(", "),
            "exporters gave up requests while flowtap stopped; their items are lost; \
                hint: fix the cause that the exporter's last warning names; its hint says whether `storage` would keep such requests"
        );
        Err(RunError::Undelivered { items })
    }

    /// Counts what was not delivered as lost and ends the tasks. Requests on disk are not lost: if only they are left, the outcome
    /// is the one of what was `measured`.
    fn give_up(&self, measured: Option<Result<(), RunError>>) -> Result<(), RunError> {
        let deadline = self.deadline;
        let (mut items, mut on_disk, mut remedies) = (self.abandon_next(), Vec::new(), Vec::new());
        let mut unwritten = Vec::new();
        let mut others = false;
        for (id, exporter) in self.exporters.iter().chain(&self.leaving) {
            let ended = exporter.task.is_finished();
            let waiting = abandon(exporter);
            exporter.handle.telemetry.report_overflow();
            let lost = waiting + exporter.lost();
            items += lost;
            match exporter.persistence {
                _ if ended => {}
                Persistence::OnDisk => {
                    on_disk.push(id.to_string());
                    if lost > 0 {
                        others = true;
                        unwritten.push(format!("exporters.{id}.storage.directory"));
                    }
                }
                Persistence::With(key) if waiting > 0 => {
                    others = true;
                    remedies.push(format!("exporters.{id}.{key}"));
                }
                _ => others = true,
            }
        }
        if !on_disk.is_empty() {
            tracing::info!(
                exporters = on_disk.join(", "),
                ?deadline,
                "not everything was sent by the deadline; requests on disk are sent after the next start"
            );
        }
        if let Some(measured) = measured
            && items == 0
            && !others
        {
            return measured;
        }
        let mut remedy = String::from("raise service.shutdown_timeout");
        if !remedies.is_empty() {
            let _ = write!(remedy, ", or set {}", remedies.join(", "));
        }
        if !unwritten.is_empty() {
            // In time, they would have been on disk, unless that is full.
            let _ = write!(remedy, ", and make sure that {} has room", unwritten.join(", "));
        }
        // Logged here, because the caller may be ended before the error is shown.
        tracing::warn!(
            items,
            ?deadline,
            "not everything was exported by the deadline; items that are not on disk are lost; hint: {remedy}"
        );
        Err(RunError::Deadline { deadline, items })
    }
}
