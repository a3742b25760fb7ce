//! The exporter `otlp`: pushes snapshots to an OpenTelemetry collector, by gRPC, as cumulative points.
//!
//! In: snapshots. Out: `ExportMetricsServiceRequest`s. The layers, outermost first:
//!
//! 1. Thin: of the windows that come, one per `interval` goes on, and the last one always.
//! 2. Encode: once per snapshot, from attribute bytes that were encoded once per series; split at
//!    `max_points_per_request`.
//! 3. Retry: what the OTLP specification calls retryable, with exponential backoff and jitter; a server's `RetryInfo` has
//!    its way. An attempt that takes longer than `timeout` counts as failed.
//! 4. What the collector refuses in a partial success is logged, and counted as failed; it is not sent again.

mod client;
mod config;
mod encode;
mod retry;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flowtap_pipeline::{BuildContext, ExportService, Exported, Exporter, Snapshot, StageError, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::util::{BoxCloneSyncService, BoxService};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use self::client::{Client, Request};
pub use self::config::{Compression, Config, FACTORY, Protocol, RetryConfig, Temporality};
use self::encode::Encoder;
use self::retry::Backoff;

/// A request on its way through retry and timeout.
type Inner = BoxCloneSyncService<Request, Exported, BoxError>;

/// The exporter.
#[derive(Debug)]
pub struct OtlpExporter {
    config: Config,
}

impl OtlpExporter {
    /// An exporter that dials nothing yet.
    pub fn new(config: Config, _: &BuildContext) -> Self {
        Self { config }
    }

    fn service(&self) -> Result<OtlpService, StageError> {
        let client = Client::new(&self.config).map_err(StageError::Other)?;
        let inner = ServiceBuilder::new()
            .concurrency_limit(1)
            .retry(Backoff::new(&self.config.retry))
            .timeout(self.config.timeout)
            .service(client);
        Ok(OtlpService {
            interval: self.config.interval,
            passed: HashMap::new(),
            encoder: Arc::new(Encoder::new(&self.config)),
            inner: BoxCloneSyncService::new(inner),
        })
    }
}

impl Exporter for OtlpExporter {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        // Within the future: the channel wants a runtime around it.
        async move {
            let service = self.service()?;
            tracing::info!(endpoint = self.config.endpoint(), "pushing by OTLP");
            Ok(BoxService::new(service))
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

/// Thins, encodes, and sends part by part.
struct OtlpService {
    interval: Duration,
    /// When each pipeline's last snapshot went on.
    passed: HashMap<Arc<str>, Timestamp>,
    encoder: Arc<Encoder>,
    inner: Inner,
}

impl OtlpService {
    /// Whether `snapshot` goes on. Ticks come a moment early or late; a twentieth of the interval is let pass.
    fn is_due(&mut self, snapshot: &Snapshot) -> bool {
        let slack = self.interval / 20;
        let last = self.passed.get(&snapshot.pipeline);
        let due = snapshot.last
            || last
                .is_none_or(|&last| snapshot.at < last || snapshot.at.since(last) + slack >= self.interval);
        if due {
            self.passed.insert(Arc::clone(&snapshot.pipeline), snapshot.at);
        }
        due
    }
}

impl Service<Arc<Snapshot>> for OtlpService {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness is awaited part by part, below.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, snapshot: Arc<Snapshot>) -> Self::Future {
        if !self.is_due(&snapshot) {
            return futures::future::ready(Ok(Exported::default())).boxed();
        }
        let (encoder, mut inner) = (Arc::clone(&self.encoder), self.inner.clone());
        async move {
            let mut exported = Exported::default();
            for request in encoder.encode(&snapshot) {
                let points = request.points;
                match inner.ready().await?.call(request).await {
                    Ok(part) => {
                        exported.sent += part.sent;
                        exported.failed += part.failed;
                    }
                    // The other parts may fare better.
                    Err(error) => {
                        exported.failed += points;
                        tracing::warn!(points, %error, "points were not delivered");
                    }
                }
            }
            Ok(exported)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
