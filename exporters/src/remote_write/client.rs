//! One request to the endpoint: a POST with the protocol's headers.

use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flowtap_pipeline::Exported;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tower::{BoxError, Service};

use super::config::Config;
use crate::push::Request;
use crate::push::http::Poster;

/// Which version of the protocol the body is in (Prometheus remote write 1.0, "Protocol").
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// The way to the endpoint.
#[derive(Clone, Debug)]
pub(super) struct Client {
    poster: Poster,
}

impl Client {
    /// A client that connects with its first request.
    pub(super) fn new(config: &Config) -> Result<Self, BoxError> {
        let poster = Poster::new(
            config.endpoint.parse()?,
            headers(config)?,
            &config.tls,
            is_temporary,
        )?;
        Ok(Self { poster })
    }
}

/// A server in trouble is asked again (Prometheus remote write 1.0, "Retries & Backoff"); whatever else it refuses it would
/// refuse again.
fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

fn headers(config: &Config) -> Result<HeaderMap, BoxError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
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
        let poster = self.poster.clone();
        async move {
            poster.post(request.body, Some("snappy")).await?;
            Ok(Exported {
                sent: request.points,
                failed: 0,
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
        let temporary = |status| is_temporary(StatusCode::from_u16(status).unwrap());
        for status in [429, 500, 501, 502, 503, 504, 599] {
            assert!(temporary(status), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 413, 422] {
            assert!(!temporary(status), "{status}");
        }
    }
}
