//! The exporter `prometheus`: serves the newest snapshot at `/metrics`.
//!
//! In: snapshots. Out: text format 0.0.4, `OpenMetrics` 1.0.0 or protobuf, as the scraper requests.
//! The rules:
//!
//! 1. Only the newest snapshot of each pipeline is kept; a scrape shows one snapshot from its first line to its last. The first
//!    after the start is that with which the pipeline's window opens, so that a scrape is not empty until it closes.
//! 2. Labels were rendered when a series was made, so a scrape is a copy; it is made, and packed, in chunks as the peer reads
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
        let mut response = body(Packed::new(exposition)).into_response();
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
struct Packed {
    chunks: Exposition,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Packed {
    fn new(chunks: Exposition) -> Self {
        Self {
            chunks,
            encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
        }
    }
}

impl Iterator for Packed {
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
mod tests {
    use super::*;
    use crate::testing::{certificate, context, many, snapshot};
    use flowtap_net::tls::{ClientTls, ServerTls};
    use std::net::SocketAddr;
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
    async fn a_scrape_shows_the_newest_snapshot_and_before_the_first_what_the_target_is() {
        let config = Config {
            endpoint: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        let mut exporter = PrometheusExporter::new(&config, &context()).unwrap();
        let mut service = exporter.start().await.unwrap();
        let address = exporter.address();

        let empty = get_path(address, "GET /metrics").await;
        assert!(
            empty.starts_with("HTTP/1.0 200")
                && empty.contains("target_info{host_name=\"node1\",service_instance_id=\"")
                && empty.contains(concat!(
                    "flowtap_build_info{version=\"",
                    env!("CARGO_PKG_VERSION"),
                    "\"} 1\n"
                )),
            "{empty}"
        );

        for total in [1, 42] {
            let exported = service
                .ready()
                .await
                .unwrap()
                .call(flowtap_pipeline::Output::from(snapshot(total)))
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
    async fn the_version_is_in_a_scrape_once_also_if_it_has_the_daemons_own_metrics() {
        let exporter = PrometheusExporter::new(&Config::default(), &context()).unwrap();
        let shown = || exporter.shared.exposition(Format::Text);
        let lines = |exposition: Exposition| {
            let bytes: Vec<u8> = exposition.flatten().collect();
            let text = String::from_utf8(bytes).unwrap();
            text.matches("\nflowtap_build_info{").count()
        };
        assert_eq!(lines(shown()), 1);
        exporter.shared.take(Arc::new(Snapshot {
            pipeline: "".into(),
            ..snapshot(1)
        }));
        assert_eq!(lines(shown()), 0);
    }

    /// An exporter of `config` at any port that shows `snapshot`; its service must live as long as it.
    async fn serving(config: Config, snapshot: Snapshot) -> (PrometheusExporter, ExportService) {
        let config = Config {
            endpoint: "127.0.0.1:0".parse().unwrap(),
            ..config
        };
        let mut exporter = PrometheusExporter::new(&config, &context()).unwrap();
        let mut service = exporter.start().await.unwrap();
        service
            .ready()
            .await
            .unwrap()
            .call(flowtap_pipeline::Output::from(snapshot))
            .await
            .unwrap();
        (exporter, service)
    }

    fn unpacked(answer: &[u8]) -> String {
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer[end + 4..]), &mut text)
            .unwrap();
        text
    }

    #[tokio::test]
    async fn a_scraper_gets_the_format_and_the_packing_that_it_asks_for() {
        let config = Config {
            target_info: false,
            ..Config::default()
        };
        let (exporter, _service) = serving(config, many(20_000)).await;
        let mut stream = TcpStream::connect(exporter.address()).await.unwrap();
        let request = "GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\
                       Accept-Encoding: gzip\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let head = String::from_utf8_lossy(&answer[..400]).to_lowercase();
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        assert!(head.contains("content-encoding: gzip"), "{head}");
        let text = unpacked(&answer);
        assert!(
            text.ends_with("} 19999\n# EOF\n"),
            "{}",
            &text[text.len() - 100..]
        );
        assert_eq!(text.lines().count(), 20_004);
        assert!(
            answer.len() * 5 < text.len(),
            "{} of {}",
            answer.len(),
            text.len()
        );
    }

    #[tokio::test]
    async fn a_scraper_that_asks_for_protobuf_gets_it() {
        let config = Config {
            target_info: false,
            ..Config::default()
        };
        let (exporter, _service) = serving(config, many(1)).await;
        let mut stream = TcpStream::connect(exporter.address()).await.unwrap();
        let accept =
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
        let request = format!("GET /metrics HTTP/1.0\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.contains(&format!("content-type: {accept}\r\n")),
            "{answer}"
        );
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        // A length, then field 1 of so many bytes.
        assert_eq!(
            body[1..].find("\u{a}\u{19}primus_lens_network_bytes"),
            Some(0),
            "{body}"
        );
    }

    #[tokio::test]
    async fn a_scraper_without_the_password_is_asked_for_it() {
        let config = Config {
            basic_auth: Some(BasicAuth {
                username: "Aladdin".to_owned(),
                password: "open sesame".to_owned(),
            }),
            ..Config::default()
        };
        let (exporter, _service) = serving(config, snapshot(1)).await;
        let refused = get_path(exporter.address(), "GET /metrics").await;
        assert!(refused.starts_with("HTTP/1.0 401"), "{refused}");
        assert!(refused.contains("www-authenticate: Basic realm="), "{refused}");
        assert!(!refused.contains("192.0.2.7"), "{refused}");

        let mut stream = TcpStream::connect(exporter.address()).await.unwrap();
        let request = "GET /metrics HTTP/1.0\r\nAuthorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }

    #[test]
    fn empty_passwords_and_tokens_are_refused() {
        use flowtap_pipeline::ComponentConfig;

        let auth = |username: &str, password: &str| {
            Some(BasicAuth {
                username: username.to_owned(),
                password: password.to_owned(),
            })
        };
        let keys = |config: Config| -> Vec<String> {
            let faults = config.validate();
            faults.iter().map(|fault| fault.path.join(".")).collect()
        };
        let with = |basic_auth, bearer_token: Option<&str>| Config {
            basic_auth,
            bearer_token: bearer_token.map(str::to_owned),
            ..Config::default()
        };
        assert_eq!(keys(with(auth("scraper", ""), None)), ["basic_auth.password"]);
        assert_eq!(
            keys(with(auth("", "x"), Some(" "))),
            ["basic_auth.username", "bearer_token"]
        );
        assert!(keys(with(auth("scraper", "x"), Some("t0ken"))).is_empty());
    }

    /// Whether a scrape over TLS succeeds, trusting `ca`.
    async fn scraped(address: SocketAddr, tls: &ClientTls) -> Result<String, std::io::Error> {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.client_config().unwrap()));
        let stream = TcpStream::connect(address).await?;
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[tokio::test]
    async fn over_tls_clients_can_be_asked_for_certificates_and_a_new_certificate_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let (server, client) = (folder.path().join("server"), folder.path().join("client"));
        certificate(&server, "localhost");
        certificate(&client, "scraper");
        let tls = ServerTls {
            cert_file: server.with_extension("crt"),
            key_file: server.with_extension("key"),
            client_ca_file: Some(client.with_extension("crt")),
        };
        let config = Config {
            tls: Some(tls),
            ..Config::default()
        };
        let (exporter, _service) = serving(config, snapshot(7)).await;
        let trusting = |certificate: bool| ClientTls {
            ca_file: Some(server.with_extension("crt")),
            cert_file: certificate.then(|| client.with_extension("crt")),
            key_file: certificate.then(|| client.with_extension("key")),
            server_name: None,
        };
        let answer = scraped(exporter.address(), &trusting(true)).await.unwrap();
        assert!(
            answer.contains("network_bytes{raddr=\"192.0.2.7\"} 7\n"),
            "{answer}"
        );
        assert!(scraped(exporter.address(), &trusting(false)).await.is_err());

        // A new certificate: a client that trusts only that one is served once it has been read.
        certificate(&server, "localhost");
        while scraped(exporter.address(), &trusting(true)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn a_key_that_can_not_be_read_is_named() {
        let tls = ServerTls {
            cert_file: "/nowhere/server.crt".into(),
            ..ServerTls::default()
        };
        let config = Config {
            tls: Some(tls),
            ..Config::default()
        };
        let error = PrometheusExporter::new(&config, &context())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("/nowhere/server.crt"), "{error}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = taken.local_addr().unwrap();
        let mut exporter = PrometheusExporter::new(
            &Config {
                endpoint,
                ..Config::default()
            },
            &context(),
        )
        .unwrap();
        let error = exporter.start().await.err().unwrap().to_string();
        assert!(error.contains(&endpoint.to_string()), "{error}");
    }
}
