//! The exporter `prometheus`: serves the newest snapshot at `/metrics`.
//!
//! In: snapshots. Out: text format 0.0.4, `OpenMetrics` 1.0.0 or protobuf, as the scraper requests.
//! The rules:
//!
//! 1. Only the newest snapshot of each pipeline is kept; a scrape shows one snapshot from its first line to its last. The first
//!    after the start is that with which the pipeline's window opens, so that a scrape is not empty until it closes.
//! 2. Labels were rendered when a series was made, so a scrape is a copy; it is made, and compressed, in chunks as the peer reads
//!    them, so memory does not grow with the number of series.
//! 3. Where the config feeds it from several pipelines, every series has the pipeline's name as a label, or two of them could be
//!    the same.
//! 4. Names stay what they are: `OpenMetrics` wants counters to end in `_total`, so those that don't are of type `unknown` there.
//! 5. No more than `max_connections` at a time: the next takes the place of one without a request ([`flowtap_net::listener`]).

mod auth;
mod config;
mod entry;
mod exposition;
mod factory;
mod negotiate;
mod protobuf;
mod target_info;
mod text;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use flowtap_pipeline::{BuildContext, ExportService, Exported, Exporter, Snapshot, StageError, metrics_only};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use self::auth::Auth;
pub use self::auth::BasicAuth;
pub use self::config::{Config, CreatedTimestamps};
use self::exposition::{Exposition, Style};
pub use self::factory::FACTORY;
use self::negotiate::Format;
#[cfg(feature = "remote-write")]
pub(crate) use self::text::canonical;
use flowtap_net::listener::{AllowedHosts, ClosedConnections, Listener};
use flowtap_net::tls::{ListenerTls, TlsError};

const INDEX: &str =
    "<!doctype html><title>flowtap</title><h1>flowtap</h1><p><a href=\"/metrics\">metrics</a></p>\n";

/// State shared by scrapes and the service.
#[derive(Debug)]
struct Shared {
    style: Style,
    auth: Auth,
    /// The series `target_info`, if it is exposed.
    target: Option<Arc<Snapshot>>,
    /// The series `flowtap_build_info`, exposed with it.
    build: Option<Arc<Snapshot>>,
    /// The newest snapshot by pipeline.
    newest: Mutex<BTreeMap<Arc<str>, Arc<Snapshot>>>,
}

impl Shared {
    fn take(&self, snapshot: Arc<Snapshot>) -> Exported {
        let sent = snapshot.points() as u64;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if snapshot.families.is_empty() {
            // From a pipeline that was removed.
            newest.remove(&snapshot.pipeline);
        } else {
            newest.insert(Arc::clone(&snapshot.pipeline), snapshot);
        }
        Exported { sent, failed: 0 }
    }

    fn exposition(&self, format: Format) -> Exposition {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // The daemon's own metrics, which come from no pipeline, have it themselves.
        let build = self.build.iter().filter(|_| !newest.contains_key(""));
        let snapshots = self.target.iter().chain(build).chain(newest.values()).cloned();
        Exposition::new(&self.style, format, snapshots.collect())
    }
}

/// The exporter.
#[derive(Debug)]
pub struct PrometheusExporter {
    config: Config,
    shared: Arc<Shared>,
    closed: ClosedConnections,
    /// The config's key of the address, for errors.
    key: String,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl PrometheusExporter {
    /// An exporter that does not listen yet.
    ///
    /// # Errors
    /// A certificate or key that can't be used.
    pub fn new(config: &Config, context: &BuildContext) -> Result<Self, TlsError> {
        if let Some(files) = &config.tls {
            ListenerTls::new(files)?;
        }
        let closed = ClosedConnections::new(&context.meter, &format!("exporters/{}", context.id));
        let shared = Shared {
            style: Style::new(config, context.several_pipelines),
            auth: Auth::new(config.basic_auth.as_ref(), config.bearer_token.as_deref()),
            target: config
                .target_info
                .then(|| target_info::target_info(&context.resource, &config.labels)),
            build: config
                .target_info
                .then(|| target_info::build_info(&config.labels)),
            newest: Mutex::default(),
        };
        Ok(Self {
            config: config.clone(),
            shared: Arc::new(shared),
            closed,
            key: format!("exporters.{}.endpoint", context.id),
            stop: CancellationToken::new(),
            server: None,
        })
    }

    /// Where it listens: of interest if the config says port 0.
    #[cfg(test)]
    const fn address(&self) -> std::net::SocketAddr {
        self.config.endpoint
    }
}

impl Exporter for PrometheusExporter {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        async move {
            let address = self.config.endpoint;
            let failed = |source| StageError::Listen {
                address,
                key: self.key.clone(),
                source,
            };
            let mut listener = Listener::bind(address, self.closed.clone())
                .await
                .map_err(failed)?
                .limits(self.config.max_connections.get(), self.config.timeout)
                .hosts(AllowedHosts::new(&self.config.allowed_hosts));
            self.config.endpoint = listener.address();
            if let Some(files) = &self.config.tls {
                let tls = ListenerTls::new(files).map_err(|error| StageError::Other(error.into()))?;
                listener = listener.tls(tls);
            }
            let scheme = if self.config.tls.is_some() {
                "https"
            } else {
                "http"
            };
            let address = self.config.endpoint;
            tracing::info!(%address, "metrics on {scheme}://{address}/metrics");
            let routes = Router::new()
                .route("/", get(|| async { Html(INDEX) }))
                .route("/metrics", get(scrape))
                .with_state(Arc::clone(&self.shared));
            self.server = Some(tokio::spawn(listener.serve(routes, self.stop.clone())));
            let shared = Arc::clone(&self.shared);
            let service = service_fn(move |snapshot| {
                let exported = shared.take(snapshot);
                async move { Ok::<_, BoxError>(exported) }
            });
            Ok(metrics_only(service))
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async move {
            self.stop.cancel();
            if let Some(server) = self.server.take() {
                // It has its own deadline; a panic in it was already logged.
                let _ = server.await;
            }
        }
        .boxed()
    }
}

async fn scrape(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !shared.auth.allows(&headers) {
        let challenge = [(header::WWW_AUTHENTICATE, shared.auth.challenge())];
        return (StatusCode::UNAUTHORIZED, challenge, "401 Unauthorized\n").into_response();
    }
    let format = Format::negotiate(&headers);
    let exposition = shared.exposition(format);
    let mut response = if negotiate::takes_gzip(&headers) {
        let mut response = body(Compressed::new(exposition)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        body(exposition).into_response()
    };
    let content_type = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    // The response depends on these.
    let vary = HeaderValue::from_static("accept, accept-encoding");
    response.headers_mut().insert(header::VARY, vary);
    response
}

fn body(chunks: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>)))
}

/// Chunks of an exposition, compressed with gzip as they come.
struct Compressed {
    chunks: Exposition,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Compressed {
    fn new(chunks: Exposition) -> Self {
        Self {
            chunks,
            encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
        }
    }
}

impl Iterator for Compressed {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(chunk) = self.chunks.next() else {
                // Writing to memory does not fail.
                let rest = self.encoder.take()?.finish().unwrap_or_default();
                return Some(Bytes::from(rest));
            };
            if encoder.write_all(&chunk).is_ok() && !encoder.get_ref().is_empty() {
                return Some(Bytes::from(std::mem::take(encoder.get_mut())));
            }
        }
    }
}

/// An exposition of `snapshots`, one per pipeline, as a scrape sends it: chunk by chunk.
pub fn chunks(namespace: &str, snapshots: Vec<Arc<Snapshot>>) -> impl Iterator<Item = Bytes> {
    let config = Config {
        namespace: namespace.to_owned(),
        ..Config::default()
    };
    let style = Style::new(&config, snapshots.len() > 1);
    Exposition::new(&style, Format::Text, snapshots)
}

/// The same as a whole.
pub fn text(namespace: &str, snapshots: Vec<Arc<Snapshot>>) -> String {
    let mut text = String::new();
    for chunk in chunks(namespace, snapshots) {
        // Made of text.
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

#[cfg(test)]
mod tests;
