//! One request to the endpoint: a POST, and what its answer means.

use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flowtap_pipeline::Exported;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;
use tower::{BoxError, Service};

use super::config::Config;

/// Which version of the protocol the body is in (Prometheus remote write 1.0, "Protocol").
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// How much of an answer is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How much of a refusal's text is told.
const MAX_SAID_CHARS: usize = 300;

/// A compressed `WriteRequest`. Cloning it for a retry copies no bytes.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) body: Bytes,
    /// How many points it holds.
    pub(super) points: u64,
    /// Whether flowtap is stopping.
    pub(super) last: bool,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// No connection, or no answer that is HTTP.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// An answer that is no success.
    #[error("{status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Refused {
        status: StatusCode,
        /// When the peer wants to be asked again.
        retry_after: Option<Duration>,
        /// The beginning of what it said.
        said: String,
    },
}

/// The way to the endpoint.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
}

impl Client {
    /// A client that connects with its first request.
    pub(super) fn new(config: &Config) -> Result<Self, BoxError> {
        let mut connector = HttpsConnectorBuilder::new()
            .with_tls_config(config.tls.client_config()?)
            .https_or_http();
        if let Some(name) = &config.tls.server_name {
            let name = ServerName::try_from(name.clone())?;
            connector = connector.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        Ok(Self {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .build(connector.enable_http1().build()),
            uri: config.endpoint.parse()?,
            headers: headers(config)?,
        })
    }
}

fn headers(config: &Config) -> Result<HeaderMap, BoxError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(VERSION_HEADER, HeaderValue::from_static("0.1.0"));
    let agent = concat!("flowtap/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    let basic = config.basic_auth.as_ref().map(|auth| {
        let pair = format!("{}:{}", auth.username, auth.password);
        format!("Basic {}", STANDARD.encode(pair))
    });
    let bearer = config
        .bearer_token
        .as_ref()
        .map(|token| format!("Bearer {token}"));
    if let Some(credentials) = basic.or(bearer) {
        let mut credentials = HeaderValue::try_from(credentials)?;
        credentials.set_sensitive(true);
        headers.insert(AUTHORIZATION, credentials);
    }
    Ok(headers)
}

impl Service<Request> for Client {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A connection is awaited in `call`, so that waiting for it is under the timeout, too.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut message = http::Request::new(Full::new(request.body));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = self.uri.clone();
        *message.headers_mut() = self.headers.clone();
        let answer = self.http.request(message);
        async move {
            let answer = answer.await.map_err(|error| no_answer(&error))?;
            let (head, body) = answer.into_parts();
            // Read to its end, or the connection could not be used again.
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            if head.status.is_success() {
                return Ok(Exported {
                    sent: request.points,
                    failed: 0,
                });
            }
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let said = String::from_utf8_lossy(&body);
            Err(SendError::Refused {
                status: head.status,
                retry_after: retry_after(&head.headers),
                said: said.trim().chars().take(MAX_SAID_CHARS).collect(),
            }
            .into())
        }
        .boxed()
    }
}

/// What went wrong on the way, with its cause: "client error" alone would help nobody.
fn no_answer(error: &hyper_util::client::legacy::Error) -> SendError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    SendError::NoAnswer(text)
}

/// Seconds, or a date (RFC 9110, section 10.2.3). A date is compared with the one of the answer: the clocks of two machines
/// differ, and no clock is needed here.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(asked).ok()?;
    let now = httpdate::parse_http_date(text(DATE)?).ok()?;
    Some(then.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_says_when_in_seconds_or_by_a_date_on_its_own_clock() {
        const DATED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
        let asked = |value: &str| {
            let pair = |name, value: &str| (name, value.parse().unwrap());
            retry_after(&HeaderMap::from_iter([
                pair(RETRY_AFTER, value),
                pair(DATE, DATED),
            ]))
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            asked("Wed, 21 Oct 2015 07:28:30 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(asked("Wed, 21 Oct 2015 07:20:00 GMT"), Some(Duration::ZERO));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }
}
