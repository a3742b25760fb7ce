//! Delivery state of an exporter that pushes: its entry in `/status`, and what its log says about failures.
//!
//! The state follows attempts, not requests: a request may be retried for minutes, and with storage for ever, and in that time the
//! operator must see that nothing arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::telemetry::DeliveryTelemetry;
use flowtap_pipeline::{BuildContext, ComponentId, ComponentKind, PipelineKind, State, StatusBoard};
use tokio::time::Instant;
use tower::BoxError;

use super::storage::StorageError;
use super::verdict::{asked_delay, described, is_temporary};
use super::warned::{Warned, is_news};
use super::{Lane, Request};

/// Cloning it shares it. Losses that no warning has counted are reported when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Inner>);

/// The addresses of an exporter, as they may be shown.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    metrics: String,
    logs: String,
}

impl Addresses {
    /// Different addresses for points of series and for log records.
    pub(crate) fn new(metrics: &impl ToString, logs: &impl ToString) -> Self {
        Self {
            metrics: metrics.to_string(),
            logs: logs.to_string(),
        }
    }

    /// The same address for both.
    pub(crate) fn one(address: &impl ToString) -> Self {
        let address = address.to_string();
        Self::new(&address, &address)
    }

    fn of(&self, kind: PipelineKind) -> &str {
        match kind {
            PipelineKind::Metrics => &self.metrics,
            PipelineKind::Logs => &self.logs,
        }
    }
}

#[derive(Debug)]
struct Inner {
    id: ComponentId,
    addresses: Addresses,
    board: StatusBoard,
    deliveries: DeliveryTelemetry,
    records: Mutex<Records>,
    points: Attempts,
    logs: Attempts,
}

/// Attempts to send requests of a kind.
#[derive(Debug, Default)]
struct Attempts {
    /// Whether the newest request is under way, not waiting for its next attempt.
    is_attempting: AtomicBool,
    /// Attempts that failed and that another one follows.
    retries: AtomicU64,
}

#[derive(Debug, Default)]
struct Records {
    /// Kinds of which there was a request.
    attempted: BTreeSet<PipelineKind>,
    /// Those that fail: one may be fine while the other fails, also at the same address.
    peers: BTreeMap<PipelineKind, Peer>,
    points: Lost,
    logs: Lost,
    /// Why requests can't be kept on disk, or delivered ones not be removed.
    storage: Option<String>,
    /// Warnings of requests that can't be kept.
    unkept: Warned,
}

impl Records {
    fn lost(&mut self, kind: PipelineKind) -> &mut Lost {
        match kind {
            PipelineKind::Metrics => &mut self.points,
            PipelineKind::Logs => &mut self.logs,
        }
    }

    /// The addresses that fail, each with its last error, and with the kind if another has the same address and not the same error;
    /// `None` if none does.
    fn error(&self, addresses: &Addresses) -> Option<String> {
        let error_of = |kind| self.peers.get(&kind).map(|peer| &peer.error);
        let is_shared = addresses.metrics == addresses.logs && self.attempted.len() > 1;
        let names_kind = is_shared && error_of(PipelineKind::Metrics) != error_of(PipelineKind::Logs);
        let mut errors: Vec<_> = self
            .peers
            .iter()
            .map(|(kind, peer)| {
                let (address, error) = (addresses.of(*kind), &peer.error);
                if names_kind {
                    format!("{address} ({}): {error}", kind.items())
                } else {
                    format!("{address}: {error}")
                }
            })
            .chain(self.storage.clone())
            .collect();
        errors.dedup();
        (!errors.is_empty()).then(|| errors.join("; "))
    }
}

/// A peer that fails.
#[derive(Debug)]
struct Peer {
    since: Instant,
    error: String,
    /// The last warnings of retries.
    retried: Warned,
}

/// Requests of a kind that were given up.
#[derive(Debug, Default)]
struct Lost {
    warned: Warned,
    /// Items that no warning has counted yet, and why the newest of them were lost.
    unreported: u64,
    error: String,
    /// Whether, and when, `storage` would have kept it.
    of_storage: &'static str,
}

impl Health {
    pub(crate) fn new(context: &BuildContext, addresses: Addresses) -> Self {
        Self(Arc::new(Inner {
            id: context.id.clone(),
            addresses,
            board: context.status.clone(),
            deliveries: DeliveryTelemetry::new(&context.meter, &context.id),
            records: Mutex::default(),
            points: Attempts::default(),
            logs: Attempts::default(),
        }))
    }

    pub(crate) fn exporter(&self) -> &ComponentId {
        &self.0.id
    }

    pub(crate) fn deliveries(&self) -> &DeliveryTelemetry {
        &self.0.deliveries
    }

    /// An attempt to send a request of `kind` begins.
    pub(crate) fn attempting(&self, kind: PipelineKind) {
        self.records().attempted.insert(kind);
        self.0.attempts(kind).is_attempting.store(true, Ordering::Relaxed);
    }

    /// Whether the newest request of `lane` has been sent, and not failed in a way that it is retried after.
    pub(crate) fn is_attempting(&self, lane: Lane) -> bool {
        self.0
            .of_lane(lane)
            .any(|attempts| attempts.is_attempting.load(Ordering::Relaxed))
    }

    /// Attempts of `lane` so far that failed and that another one follows.
    pub(crate) fn retries(&self, lane: Lane) -> u64 {
        self.0
            .of_lane(lane)
            .map(|attempts| attempts.retries.load(Ordering::Relaxed))
            .sum()
    }

    /// An attempt to send a request of `kind` succeeded.
    pub(crate) fn succeeded(&self, kind: PipelineKind) {
        let Inner { id, addresses, .. } = &*self.0;
        let endpoint = addresses.of(kind);
        let mut records = self.records();
        let Some(peer) = records.peers.remove(&kind) else {
            return;
        };
        let lost = std::mem::take(records.lost(kind)).unreported;
        self.show(&records);
        drop(records);
        let after = humantime::format_duration(Duration::from_secs(peer.since.elapsed().as_secs()));
        // Those that no warning has counted yet.
        let lost = (lost > 0).then_some(lost);
        tracing::info!(exporter = %id, endpoint, %after, lost, "delivering again");
    }

    /// An attempt to send a request of `kind` failed.
    pub(crate) fn failed(&self, kind: PipelineKind, error: &BoxError) {
        let mut records = self.records();
        let peer = records.peers.entry(kind).or_insert_with(|| Peer {
            since: Instant::now(),
            error: String::new(),
            retried: Warned::default(),
        });
        peer.error = described(error);
        self.show(&records);
    }

    /// A failed request is retried after `wait`.
    pub(crate) fn retrying(&self, error: &BoxError, request: &Request, wait: Duration) {
        self.0.deliveries.retried();
        let attempts = self.0.attempts(request.kind);
        attempts.retries.fetch_add(1, Ordering::Relaxed);
        attempts.is_attempting.store(false, Ordering::Relaxed);
        let Inner { id, addresses, .. } = &*self.0;
        let (endpoint, items) = (addresses.of(request.kind), request.items);
        let error = described(error);
        let is_warning = {
            let mut records = self.records();
            let peer = records.peers.get_mut(&request.kind);
            peer.is_some_and(|peer| is_news(&mut peer.retried, &error))
        };
        if is_warning {
            tracing::warn!(exporter = %id, endpoint, %error, items, ?wait, "delivery failed and is retried; \
                hint: fix the cause that the error names; new data waits in `sending_queue`, or in `storage` if that is set; \
                data beyond their limits is dropped, with a warning, and counted in `flowtap_exporter_enqueue_failed_*`, or `…_send_failed_*` of `storage`");
        } else {
            tracing::debug!(exporter = %id, endpoint, %error, items, ?wait, "delivery failed and is retried");
        }
    }

    /// A request of `items` is given up.
    pub(crate) fn gave_up(&self, error: &BoxError, kind: PipelineKind, items: u64) {
        let Inner { id, addresses, .. } = &*self.0;
        let (endpoint, asked) = (addresses.of(kind), asked_delay(error));
        let (is_temporary, error) = (is_temporary(error), described(error));
        let Some(items) = self.newly_lost(&error, of_storage(is_temporary), kind, items) else {
            tracing::debug!(exporter = %id, endpoint, %error, items, "{} were not delivered", kind.items());
            return;
        };
        let lost = kind.items();
        if is_temporary && asked.is_some_and(|asked| !asked.is_zero()) {
            tracing::warn!(exporter = %id, endpoint, %error, items, "{lost} were given up: the wait that the peer asks for is longer than \
                what is left of `retry.max_elapsed_time`; hint: fix the cause that the error names, or raise that key; with `storage`, of \
                `otlp` and `remote_write`, requests are kept until they are delivered");
        } else if is_temporary {
            tracing::warn!(exporter = %id, endpoint, %error, items, "{lost} were not delivered within `retry.max_elapsed_time`; \
                hint: fix the cause that the error names; with `storage`, of `otlp` and `remote_write`, requests are kept until they \
                are delivered");
        } else {
            tracing::warn!(exporter = %id, endpoint, %error, items, "{lost} were not delivered, and are not retried; \
                hint: fix the cause that the error names; `storage` does not keep requests that the peer refuses");
        }
    }

    /// A request of `items` was dropped for want of room on disk.
    pub(crate) fn no_room(&self, kind: PipelineKind, items: u64) {
        const FULL: &str = "the requests on disk have reached `storage.max_bytes`";
        const MORE: &str = "give `storage.max_bytes` more room";
        self.0.deliveries.failed(kind, items);
        if let Some(items) = self.newly_lost(FULL, MORE, kind, items) {
            let Inner { id, addresses, .. } = &*self.0;
            let consequence = match kind {
                PipelineKind::Metrics => {
                    "are dropped before they can be sent; later requests have their totals"
                }
                PipelineKind::Logs => "are dropped before they can be sent, and are lost",
            };
            tracing::warn!(exporter = %id, endpoint = addresses.of(kind), error = FULL, items,
                "{} {consequence}; hint: restore the peer, or {MORE}; counted in `flowtap_exporter_send_failed_*`", kind.items());
        }
    }

    /// A request can't be kept on disk: a full or broken disk costs the protection from a restart, not the data.
    pub(crate) fn unkept(&self, error: &StorageError) {
        self.storage_fault(Some(error));
        let id = &self.0.id;
        if is_news(&mut self.records().unkept, &error.to_string()) {
            tracing::warn!(exporter = %id, %error, "requests can't be kept on disk; they are sent from memory; \
                hint: make room, or the right to write, in `storage.directory`");
        } else {
            tracing::debug!(exporter = %id, %error, "a request can't be kept on disk; it is sent from memory");
        }
    }

    /// Requests can't be written to disk or removed from it, or they can again.
    pub(crate) fn storage_fault(&self, error: Option<&StorageError>) {
        let error = error.map(ToString::to_string);
        let mut records = self.records();
        if records.storage != error {
            records.storage = error;
            self.show(&records);
        }
    }

    /// The number of items that a warning is due for: these, and those since the last one. `None` if there was one of the same cause a
    /// short while ago.
    fn newly_lost(
        &self,
        error: &str,
        of_storage: &'static str,
        kind: PipelineKind,
        items: u64,
    ) -> Option<u64> {
        let mut records = self.records();
        let lost = records.lost(kind);
        lost.unreported += items;
        error.clone_into(&mut lost.error);
        lost.of_storage = of_storage;
        is_news(&mut lost.warned, error).then(|| std::mem::take(&mut lost.unreported))
    }

    fn show(&self, records: &Records) {
        let error = records.error(&self.0.addresses);
        let state = if error.is_some() {
            State::RecoverableError
        } else {
            State::Ok
        };
        self.0
            .board
            .set(ComponentKind::Exporter, &self.0.id, state, error);
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.records()
    }
}

impl Inner {
    const fn attempts(&self, kind: PipelineKind) -> &Attempts {
        match kind {
            PipelineKind::Metrics => &self.points,
            PipelineKind::Logs => &self.logs,
        }
    }

    fn of_lane(&self, lane: Lane) -> impl Iterator<Item = &Attempts> {
        let kinds = [PipelineKind::Metrics, PipelineKind::Logs].into_iter();
        kinds
            .filter(move |kind| lane.is_none_or(|lane| lane == *kind))
            .map(|kind| self.attempts(kind))
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // Every statement under the lock leaves it whole.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    /// The exporter has ended: no later warning will count what was lost since the last one.
    fn drop(&mut self) {
        for kind in [PipelineKind::Metrics, PipelineKind::Logs] {
            let Lost {
                unreported,
                error,
                of_storage,
                ..
            } = std::mem::take(self.records().lost(kind));
            if unreported > 0 {
                tracing::warn!(exporter = %self.id, endpoint = self.addresses.of(kind), error, items = unreported,
                    "{} were not delivered before the exporter stopped; hint: fix the cause that the error names; {}",
                    kind.items(), of_storage);
            }
        }
    }
}

/// The effect of `storage` on requests that were given up when the exporter stopped.
const fn of_storage(is_temporary: bool) -> &'static str {
    if is_temporary {
        "with `storage`, of `otlp` and `remote_write`, requests that fail for a while are kept for the next start"
    } else {
        "`storage` does not keep requests that the peer refuses"
    }
}

#[cfg(test)]
mod tests;
