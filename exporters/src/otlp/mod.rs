//! The exporter `otlp`: pushes snapshots and log records to an OpenTelemetry collector, by gRPC or HTTP.
//!
//! In: snapshots, batches of log records. Out: `ExportMetricsServiceRequest`s, `ExportLogsServiceRequest`s. The layers, outermost first:
//!
//! 1. Thin, of snapshots only: of the incoming windows, one per `interval` passes, and the last one always; series
//!    that ended in the others are reported with it.
//! 2. Encode: once per snapshot, from attribute bytes that were encoded once per series; split at
//!    `max_points_per_request` and `max_request_bytes`, each part when the one before it has been delivered, or given up. As
//!    totals, or as what has come since the last delivery ([`deltas`]). A counter or histogram that began after
//!    this exporter has a point 0 before its total until a request with it is delivered: a store that ignores start times takes an
//!    increase from what it has seen. Of a pipeline no request's newest point is older than that of the request before: a Prometheus would refuse it.
//! 3. Store, if configured: from then on a request is sent by a separate task, and stays on disk
//!    until it is delivered or permanently rejected.
//! 4. Retry: what the OTLP specification calls retryable, with exponential backoff and jitter; a server's `RetryInfo` or
//!    `Retry-After` has its way. An attempt that takes longer than `timeout` counts as failed.
//! 5. Points and log records that the collector rejects in a partial success are logged, and counted as failed;
//!    they are not retried.

mod answer;
mod client;
mod config;
mod deltas;
mod encode;
mod ended;
mod envelope;
mod factory;
mod json;
mod logs;
mod remarks;
mod status_details;

use std::collections::HashSet;
use std::mem;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use flowtap_pipeline::{
    BuildContext, ExportService, Exported, Exporter, LogBatch, Output, Persistence, PipelineKind, Resource,
    SharedState, Snapshot, StageError, Timestamp,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::util::BoxService;
use tower::{BoxError, Service};

use self::client::Client;
use self::config::Resolved;
pub use self::config::{Compression, Config, Protocol, RetryConfig, Temporality};
use self::deltas::Deltas;
use self::encode::{Encoder, Part};
use self::ended::Ended;
pub use self::factory::FACTORY;
use self::logs::LogEncoder;
use crate::push::delivery::{Delivery, Spool};
use crate::push::fate::Fate;
use crate::push::health::{Addresses, Health};
use crate::push::progress::{Noted, Progress, UnderWay};
use crate::push::zeros::Starts;
use crate::push::{self, Senders, lock};

/// The exporter.
#[derive(Debug)]
pub struct OtlpExporter {
    config: Config,
    resolved: Resolved,
    context: BuildContext,
    spool: Spool,
    /// Of differences: what is delivered.
    deltas: Option<Arc<Mutex<Deltas>>>,
    progress: Progress,
}

/// State that an exporter leaves to the one that replaces it.
struct State {
    deltas: Option<Arc<Mutex<Deltas>>>,
    progress: Progress,
}

impl OtlpExporter {
    /// An exporter that dials nothing yet.
    ///
    /// # Errors
    /// The reason why a TLS file can't be used.
    pub fn new(config: Config, context: &BuildContext) -> Result<Self, BoxError> {
        let resolved = config.resolved().map_err(|fault| fault.message)?;
        // Checked before anything starts, not at the first request.
        for endpoint in [&resolved.endpoint, &resolved.logs_endpoint] {
            let checked = resolved.tls.config_for(endpoint.is_tls());
            checked.map_err(|error| format!("tls: {error}"))?;
        }
        let deltas = (resolved.temporality == Temporality::Delta)
            .then(|| Arc::new(Mutex::new(Deltas::new(Timestamp::now()).counted(context))));
        let storage = config.storage.as_ref();
        let progress = Progress::new(
            resolved.endpoint.to_string(),
            storage.map(|storage| &*storage.directory),
            config.zero_points,
            context,
        );
        Ok(Self {
            config,
            resolved,
            context: context.clone(),
            spool: Spool::default(),
            deltas,
            progress,
        })
    }

    async fn service(&mut self) -> Result<OtlpService, StageError> {
        let addresses = match self.resolved.protocol {
            Protocol::Grpc => Addresses::one(&self.resolved.endpoint),
            Protocol::HttpProtobuf | Protocol::HttpJson => {
                Addresses::new(&self.resolved.endpoint, &self.resolved.logs_endpoint)
            }
        };
        let health = Health::new(&self.context, addresses);
        // A connection for each kind as well: one that hangs is replaced, and with it the answer that another request waits for.
        let sender = || {
            let client = Client::new(&self.resolved, &self.context.id).map_err(StageError::Other)?;
            Ok::<_, StageError>(push::sender(
                client,
                &self.config.retry,
                self.resolved.timeout,
                health.clone(),
            ))
        };
        let senders = Senders::by_kind(sender()?, sender()?);
        let storage = self.config.storage.as_ref();
        let fates = self.progress.fates();
        let delivery =
            Delivery::open(senders, storage, &health, &self.context, fates, &mut self.spool).await?;
        Ok(OtlpService {
            interval: self.config.interval,
            met: HashSet::new(),
            progress: self.progress.clone(),
            encoder: Arc::new(Encoder::new(
                &self.config,
                &self.context.resource,
                self.context.several_pipelines,
            )),
            log_encoder: Arc::new(LogEncoder::new(
                self.config.max_points_per_request.get() as u64,
                self.config.max_request_bytes,
                &self.context.resource,
            )),
            deltas: self.deltas.clone(),
            delivery,
            health,
        })
    }
}

impl Exporter for OtlpExporter {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        // Within the future: the channel wants a runtime around it.
        async move {
            let service = self.service().await?;
            let proxy = self.resolved.dial().proxy;
            tracing::info!(
                exporter = %self.context.id,
                endpoint = %self.resolved.endpoint,
                logs_endpoint = self.resolved.separate_logs_endpoint().map(tracing::field::display),
                proxy = proxy.map(tracing::field::display),
                "pushing over OTLP"
            );
            Ok(BoxService::new(service))
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        self.spool.stop().boxed()
    }

    fn separates_kinds(&self) -> bool {
        true
    }

    fn persistence(&self) -> Persistence {
        match self.config.storage {
            Some(_) => Persistence::OnDisk,
            None if cfg!(feature = "storage") => Persistence::With("storage"),
            None => Persistence::Never,
        }
    }

    fn shared_state(&self) -> Option<SharedState> {
        Some(Arc::new(State {
            deltas: self.deltas.clone(),
            progress: self.progress.clone(),
        }))
    }

    fn take_over(&mut self, before: SharedState) {
        let Ok(before) = before.downcast::<State>() else {
            return;
        };
        // Shared, not copied: a delivery that the other exporter still notes while it is given up counts for this one.
        let left = self.progress.take_over(&before.progress);
        if let (Some(deltas), Some(before)) = (&mut self.deltas, &before.deltas) {
            if let Some(fates) = left {
                lock(before).leave_stored(fates);
            }
            *deltas = Arc::clone(before);
        }
    }
}

/// Thins, encodes, and sends or stores part by part.
struct OtlpService {
    interval: Duration,
    /// Pipelines of which a snapshot has come.
    met: HashSet<Arc<str>>,
    /// Shared with the snapshot under way.
    progress: Progress,
    encoder: Arc<Encoder>,
    log_encoder: Arc<LogEncoder>,
    deltas: Option<Arc<Mutex<Deltas>>>,
    delivery: Delivery,
    health: Health,
}

impl Service<Output> for OtlpService {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness is awaited part by part, below.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, output: Output) -> Self::Future {
        match output {
            Output::Metrics(snapshot) => self.push_snapshot(snapshot),
            Output::Logs(batch) => self.push_logs(batch),
        }
    }
}

impl OtlpService {
    /// Every batch goes on: there is no later one that would repeat it.
    fn push_logs(&self, batch: Arc<LogBatch>) -> BoxFuture<'static, Result<Exported, BoxError>> {
        let (encoder, mut delivery) = (Arc::clone(&self.log_encoder), self.delivery.clone());
        let health = self.health.clone();
        async move {
            let (mut exported, mut next) = (Exported::default(), 0);
            while let Some(request) = encoder.next_part(&batch, &mut next) {
                let items = request.items;
                match delivery.send(&health, request).await {
                    Ok(part) => {
                        exported.sent += part.sent;
                        exported.failed += part.failed;
                    }
                    // The other parts may fare better.
                    Err(error) => {
                        exported.failed += items;
                        health.gave_up(&error, PipelineKind::Logs, items);
                    }
                }
            }
            Ok(exported)
        }
        .boxed()
    }

    /// Settles the fates of requests on disk, and notes `snapshot`.
    fn note(&mut self, snapshot: &Snapshot) -> Noted {
        let fates = self.progress.take_fates();
        if let Some(deltas) = &self.deltas {
            let mut deltas = lock(deltas);
            for (number, fate) in fates {
                deltas.settle_stored(number, fate);
            }
            deltas.meet(snapshot);
            if self.met.insert(Arc::clone(&snapshot.pipeline)) {
                // The first one since this exporter took over: what ended since the last one of the exporter before is in no snapshot.
                deltas.forget_unshared();
            }
        }
        let mut noted = self.progress.note(snapshot, self.interval);
        if self.deltas.is_some() {
            noted.starts = Starts::default();
        }
        noted
    }

    fn push_snapshot(&mut self, snapshot: Arc<Snapshot>) -> BoxFuture<'static, Result<Exported, BoxError>> {
        let Noted { ended, starts, held } = self.note(&snapshot);
        let Some(ended) = ended.map(Ended::new) else {
            return futures::future::ready(Ok(Exported::default())).boxed();
        };
        let (progress, taken_at) = (self.progress.clone(), Instant::now());
        let (encoder, deltas, mut delivery) = (
            Arc::clone(&self.encoder),
            self.deltas.clone(),
            self.delivery.clone(),
        );
        let health = self.health.clone();
        async move {
            let mut exported = Exported::default();
            let deltas = deltas.as_deref();
            let mut encoding = encoder.encode(&snapshot, &ended, deltas.is_some(), &starts);
            let split = |part: &mut Part| (mem::take(&mut part.carried), mem::take(&mut part.ended));
            let next = || encoding.next_part(deltas.map(lock).as_deref());
            let mut under_way = UnderWay::new(&progress, &snapshot.pipeline, split, next);
            while let Some(part) = under_way.next() {
                let fate = delivered(&mut delivery, &health, part.request, &mut exported).await;
                if let Some(deltas) = deltas {
                    lock(deltas).settle(&snapshot, &part.points, fate);
                }
                under_way.settle(fate);
            }
            drop(under_way);
            if let Some(deltas) = deltas {
                let rest = {
                    let mut deltas = lock(deltas);
                    deltas.forget(&snapshot.pipeline, &ended);
                    deltas.take_rest(&snapshot)
                };
                let (nothing, no_starts) = (Ended::default(), Starts::default());
                let mut encoding = encoder.encode(&rest.snapshot, &nothing, true, &no_starts);
                while let Some(part) = encoding.next_part(Some(&rest.deltas)) {
                    let fate = delivered(&mut delivery, &health, part.request, &mut exported).await;
                    lock(deltas).settle_rest(&rest, &part.points, fate);
                }
            }
            held.note(snapshot, taken_at.elapsed());
            Ok(exported)
        }
        .boxed()
    }
}

/// Sends `request`, counts what comes of it in `exported`, and returns its fate. An error is its own: others may fare better.
async fn delivered(
    delivery: &mut Delivery,
    health: &Health,
    request: push::Request,
    exported: &mut Exported,
) -> Fate {
    let points = request.items;
    match delivery.send_tracked(health, request).await {
        Ok((sent, fate)) => {
            exported.sent += sent.sent;
            exported.failed += sent.failed;
            fate
        }
        Err(error) => {
            exported.failed += points;
            health.gave_up(&error, PipelineKind::Metrics, points);
            Fate::failed(&error)
        }
    }
}

/// The requests that `snapshot` makes, as totals: for measurements of it.
pub fn encoded(config: &Config, snapshot: &Snapshot) -> Vec<bytes::Bytes> {
    let mut ended = Ended::default();
    ended.add(snapshot);
    let encoder = Encoder::new(config, &Resource::default(), false);
    let starts = Starts::default();
    let mut encoding = encoder.encode(snapshot, &ended, false, &starts);
    let parts = std::iter::from_fn(|| encoding.next_part(None));
    parts.map(|part| part.request.body).collect()
}

#[cfg(test)]
mod tests;
