//! The exporter `remote_write`: pushes snapshots to whatever takes Prometheus remote write, 1.0 or 2.0, as a Prometheus with
//! `--web.enable-remote-write-receiver` does.
//!
//! In: snapshots. Out: `WriteRequest`s, or `Request`s of 2.0, in snappy's block format, sent by POST. The rules, in order:
//!
//! 1. Of the incoming windows, one per `interval` passes, and the last one always. Series that
//!    ended in the skipped ones are kept until then, and longer if the request fails.
//! 2. Each live series has one sample, at the end of the window; a histogram has `_bucket`, `_sum` and `_count`, or is one native
//!    histogram with its own buckets. Names are those of `/metrics`. A series that ended has a stale marker, once, just after the
//!    start of the window in which it did: after its last sample, and before those of a series of the same labels that a reload begins.
//! 3. A counter or histogram of which no request was delivered yet has a sample 0 before, just after it began: a store takes an
//!    increase from what it has seen, and would miss all that came before the first sample. It is not sent for series that began before
//!    this exporter, whose samples a store may have.
//! 4. Labels are sorted, and none is empty. `job` and `instance` name this flowtap and its node. Where the config feeds the exporter
//!    from several pipelines, each series has the pipeline's name as a label, or two of them could be the same.
//! 5. A request has `max_samples_per_send` samples at most, and is made when the one before it has been delivered, or given up.
//! 6. With `storage` a request is written to disk first, and sent from there by a separate task, oldest first: it stays until it is
//!    delivered or permanently rejected.
//! 7. Lost connections, 5xx and 429 are retried, with exponential backoff and jitter, or after a
//!    server's longer `Retry-After`. An attempt that takes longer than `timeout` counts as failed.
//!    Any other unsuccessful response is final. A server of 2.0 reports the written samples: those
//!    of a rejected request count as sent; a success without such a report, or of no sample, is an error, and one of fewer samples than
//!    there are points is a success in part.

mod client;
mod config;
mod encode;
mod factory;

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flowtap_pipeline::{
    BuildContext, ExportService, Exported, Exporter, Persistence, PipelineKind, SharedState, Snapshot,
    StageError, metrics_only,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::{BoxError, Service};

use self::client::Client;
pub use self::config::Config;
use self::encode::{Encoder, Part};
pub use self::factory::FACTORY;
use crate::push;
use crate::push::delivery::{Delivery, Spool};
use crate::push::fate::Fate;
use crate::push::health::{Addresses, Health};
use crate::push::markers::Ended;
use crate::push::progress::{Noted, Progress, UnderWay};

/// The exporter.
#[derive(Debug)]
pub struct RemoteWriteExporter {
    config: Config,
    context: BuildContext,
    spool: Spool,
    progress: Progress,
}

impl RemoteWriteExporter {
    /// An exporter that dials nothing yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        let storage = config.storage.as_ref();
        let progress = Progress::new(
            config.endpoint.clone(),
            storage.map(|storage| &*storage.directory),
            config.zero_samples,
            context,
        );
        Self {
            progress,
            config,
            context: context.clone(),
            spool: Spool::default(),
        }
    }

    async fn service(&mut self) -> Result<RemoteWriteService, StageError> {
        let dial = self
            .config
            .dial()
            .map_err(|error| StageError::Other(error.into()))?;
        tracing::info!(
            exporter = %self.context.id,
            endpoint = %dial.endpoint,
            proxy = dial.proxy.as_ref().map(tracing::field::display),
            "pushing over remote write"
        );
        let health = Health::new(&self.context, Addresses::one(&dial.endpoint));
        let client = Client::new(&self.config, dial).map_err(StageError::Other)?;
        let sender = push::sender(client, &self.config.retry, self.config.timeout, health.clone());
        let storage = self.config.storage.as_ref();
        let fates = self.progress.fates();
        let delivery =
            Delivery::open(sender, storage, &health, &self.context, fates, &mut self.spool).await?;
        Ok(RemoteWriteService {
            interval: self.config.interval,
            encoder: Arc::new(Encoder::new(&self.config, &self.context)),
            delivery,
            health,
            progress: self.progress.clone(),
        })
    }
}

impl Exporter for RemoteWriteExporter {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        async move {
            let service = self.service().await?;
            Ok(metrics_only(service))
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        self.spool.stop().boxed()
    }

    fn persistence(&self) -> Persistence {
        match self.config.storage {
            Some(_) => Persistence::OnDisk,
            None if cfg!(feature = "storage") => Persistence::With("storage"),
            None => Persistence::Never,
        }
    }

    fn shared_state(&self) -> Option<SharedState> {
        Some(Arc::new(self.progress.clone()))
    }

    fn take_over(&mut self, before: SharedState) {
        if let Ok(before) = before.downcast::<Progress>() {
            self.progress.take_over(&before);
        }
    }
}

/// Thins, encodes, and sends part by part.
struct RemoteWriteService {
    interval: Duration,
    encoder: Arc<Encoder>,
    delivery: Delivery,
    health: Health,
    /// Shared with the snapshot under way.
    progress: Progress,
}

impl Service<Arc<Snapshot>> for RemoteWriteService {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness is awaited part by part, below.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, snapshot: Arc<Snapshot>) -> Self::Future {
        self.progress.take_fates();
        let Noted { ended, starts, held } = self.progress.note(&snapshot, self.interval);
        let Some(ended) = ended else {
            return futures::future::ready(Ok(Exported::default())).boxed();
        };
        let (progress, taken_at) = (self.progress.clone(), Instant::now());
        let (encoder, mut delivery) = (Arc::clone(&self.encoder), self.delivery.clone());
        let health = self.health.clone();
        async move {
            let (mut exported, mut markers_sent) = (Exported::default(), 0);
            let mut parts = encoder.encode(&snapshot, &ended, &starts);
            let next = || {
                let part = parts.next()?.map(|part| {
                    let markers = ended[markers_sent..][..part.ended].to_vec();
                    markers_sent += part.ended;
                    (part, markers)
                });
                Some(part)
            };
            let split = |part: &mut Result<(Part, Vec<Ended>), BoxError>| {
                let parts = part.as_mut().ok();
                parts
                    .map(|(part, markers)| (mem::take(&mut part.carried), mem::take(markers)))
                    .unwrap_or_default()
            };
            let mut under_way = UnderWay::new(&progress, &snapshot.pipeline, split, next);
            while let Some(part) = under_way.next() {
                let (Part { request, .. }, _) = part?;
                let items = request.items;
                let fate = match delivery.send_tracked(&health, request).await {
                    Ok((part, fate)) => {
                        exported.sent += part.sent;
                        exported.failed += part.failed;
                        fate
                    }
                    // The other parts may fare better.
                    Err(error) => {
                        exported.failed += items;
                        health.gave_up(&error, PipelineKind::Metrics, items);
                        Fate::failed(&error)
                    }
                };
                under_way.settle(fate);
            }
            drop(under_way);
            held.note(Arc::clone(&snapshot), taken_at.elapsed());
            Ok(exported)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
