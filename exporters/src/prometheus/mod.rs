//! The exporter `prometheus`: serves the newest snapshot at `/metrics`.
//!
//! In: snapshots. Out: the text exposition format 0.0.4 to whoever scrapes. The rules:
//!
//! 1. Only the newest snapshot of each pipeline is kept; a scrape shows one snapshot from its first line to its last.
//! 2. Labels were rendered when a series was made, so a scrape is a copy; it is made in chunks as the peer reads them, so
//!    memory does not grow with the number of series.
//! 3. With several pipelines every series has a label `pipeline` besides, or two of them could be the same.
//! 4. No more than [`MAX_SCRAPES`] scrapes at a time: the next gets 503, and is counted.

mod config;
mod exposition;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use flowtap_pipeline::{BuildContext, ExportService, Exported, Exporter, Snapshot, StageError};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::util::BoxService;
use tower::{BoxError, service_fn};

pub use self::config::{Config, FACTORY};
use self::exposition::Exposition;

/// Scrapes that may be under way at a time.
const MAX_SCRAPES: usize = 64;

/// How long scrapes that are under way may take to end when flowtap stops.
const LAST_SCRAPES: Duration = Duration::from_secs(1);

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str =
    "<!doctype html><title>flowtap</title><h1>flowtap</h1><p><a href=\"/metrics\">metrics</a></p>\n";

/// What scrapes and the service share.
#[derive(Debug)]
struct Shared {
    namespace: String,
    /// The newest snapshot by pipeline.
    newest: Mutex<BTreeMap<Arc<str>, Arc<Snapshot>>>,
    scrapes: Arc<Semaphore>,
    refused: Counter<u64>,
    exporter: KeyValue,
}

impl Shared {
    fn take(&self, snapshot: Arc<Snapshot>) -> Exported {
        let sent = snapshot.points() as u64;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.insert(Arc::clone(&snapshot.pipeline), snapshot);
        Exported { sent, failed: 0 }
    }

    fn exposition(&self) -> Exposition {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        Exposition::new(&self.namespace, newest.values().cloned().collect())
    }
}

/// The exporter.
#[derive(Debug)]
pub struct PrometheusExporter {
    endpoint: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl PrometheusExporter {
    /// An exporter that does not listen yet.
    pub fn new(config: &Config, context: &BuildContext) -> Self {
        let refused = context
            .meter
            .u64_counter("exporter_refused_scrapes")
            .with_description("Scrapes that were refused because too many were under way.")
            .with_unit("{request}")
            .build();
        let exporter = KeyValue::new("exporter", context.id.to_string());
        refused.add(0, std::slice::from_ref(&exporter));
        let shared = Shared {
            namespace: config.namespace.clone(),
            newest: Mutex::default(),
            scrapes: Arc::new(Semaphore::new(MAX_SCRAPES)),
            refused,
            exporter,
        };
        Self {
            endpoint: config.endpoint,
            shared: Arc::new(shared),
            stop: CancellationToken::new(),
            server: None,
        }
    }

    /// Where it listens: of interest if the config says port 0.
    #[cfg(test)]
    const fn address(&self) -> SocketAddr {
        self.endpoint
    }
}

impl Exporter for PrometheusExporter {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        async move {
            let failed = |source| StageError::Listen {
                address: self.endpoint,
                source,
            };
            let listener = TcpListener::bind(self.endpoint).await.map_err(failed)?;
            self.endpoint = listener.local_addr().map_err(failed)?;
            tracing::info!(address = %self.endpoint, "metrics on http://{}/metrics", self.endpoint);
            let routes = Router::new()
                .route("/", get(|| async { Html(INDEX) }))
                .route("/metrics", get(scrape))
                .with_state(Arc::clone(&self.shared));
            let stop = self.stop.clone().cancelled_owned();
            self.server = Some(tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop).await {
                    tracing::error!(%error, "the metrics listener has stopped");
                }
            }));
            let shared = Arc::clone(&self.shared);
            let service = service_fn(move |snapshot| {
                let exported = shared.take(snapshot);
                async move { Ok::<_, BoxError>(exported) }
            });
            Ok(BoxService::new(service))
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async move {
            self.stop.cancel();
            if let Some(server) = self.server.take() {
                let abort = server.abort_handle();
                if tokio::time::timeout(LAST_SCRAPES, server).await.is_err() {
                    abort.abort();
                }
            }
        }
        .boxed()
    }
}

async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(permit) = Arc::clone(&shared.scrapes).try_acquire_owned() else {
        shared.refused.add(1, std::slice::from_ref(&shared.exporter));
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at a time\n").into_response();
    };
    // The permit lives as long as the body: until the peer has read it all, or gone away.
    let chunks = shared.exposition().map(move |chunk| {
        let _ = &permit;
        Ok::<_, Infallible>(chunk)
    });
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        Body::from_stream(stream::iter(chunks)),
    )
        .into_response()
}

/// A whole exposition of `snapshots`, one per pipeline.
pub fn text(namespace: &str, snapshots: Vec<Arc<Snapshot>>) -> String {
    let mut text = String::new();
    for chunk in Exposition::new(namespace, snapshots) {
        // Made of text.
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, snapshot};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tower::{Service, ServiceExt};

    async fn get_path(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_scrape_shows_the_newest_snapshot_and_none_before_the_first() {
        let config = Config {
            endpoint: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        let mut exporter = PrometheusExporter::new(&config, &context());
        let mut service = exporter.start().await.unwrap();
        let address = exporter.address();

        let empty = get_path(address, "GET /metrics").await;
        assert!(
            empty.starts_with("HTTP/1.0 200") && empty.ends_with("\r\n\r\n"),
            "{empty}"
        );

        for total in [1, 42] {
            let exported = service
                .ready()
                .await
                .unwrap()
                .call(Arc::new(snapshot(total)))
                .await
                .unwrap();
            assert_eq!(exported, Exported { sent: 2, failed: 0 });
        }
        let full = get_path(address, "GET /metrics").await;
        assert!(full.contains("content-type: text/plain; version=0.0.4"), "{full}");
        assert!(
            full.contains("primus_lens_network_bytes{raddr=\"192.0.2.7\"} 42\n"),
            "{full}"
        );
        assert!(get_path(address, "GET /").await.contains("/metrics"));
        assert!(
            get_path(address, "GET /nothing")
                .await
                .starts_with("HTTP/1.0 404")
        );
        assert!(
            get_path(address, "POST /metrics")
                .await
                .starts_with("HTTP/1.0 405")
        );

        drop(service);
        exporter.stop().await;
        assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    }

    #[tokio::test]
    async fn one_scrape_too_many_at_a_time_is_refused() {
        let shared = PrometheusExporter::new(&Config::default(), &context()).shared;
        let held: Vec<_> =
            futures::future::join_all((0..MAX_SCRAPES).map(|_| scrape(State(Arc::clone(&shared))))).await;
        assert!(held.iter().all(|response| response.status() == StatusCode::OK));
        assert_eq!(
            scrape(State(Arc::clone(&shared))).await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        drop(held);
        assert_eq!(scrape(State(shared)).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = taken.local_addr().unwrap();
        let mut exporter = PrometheusExporter::new(
            &Config {
                endpoint,
                ..Config::default()
            },
            &context(),
        );
        let error = exporter.start().await.err().unwrap().to_string();
        assert!(error.contains(&endpoint.to_string()), "{error}");
    }
}
