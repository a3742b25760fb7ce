//! One request to the endpoint: a POST with the protocol's headers, and what the answer's headers say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flowtap_pipeline::Exported;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tower::BoxError;

use super::config::{Config, ProtobufMessage, VERSION_HEADER};
use crate::push::connect::Dial;
use crate::push::http::{HttpFailure, Poster};
use crate::push::secrets::Secrets;
use crate::push::{self, Request};

/// Headers with the written parts of a request (Prometheus remote write 2.0, "Required `Written`
/// Response Headers"); exemplars have a separate header, and are not sent.
static WRITTEN_HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("x-prometheus-remote-write-samples-written"),
    HeaderName::from_static("x-prometheus-remote-write-histograms-written"),
];

/// The way to the endpoint.
#[derive(Clone, Debug)]
pub(super) struct Client {
    poster: Poster,
    message: ProtobufMessage,
    native_histograms: bool,
}

/// Success, as a server answers that read the message by another schema and found nothing in it (Prometheus remote write 2.0,
/// "Required `Written` Response Headers").
#[derive(Debug, thiserror::Error)]
#[error(
    "the server accepted the request without reporting the written samples: it does not support remote write 2.0; hint: set `protobuf_message: prometheus.WriteRequest`"
)]
struct NotUnderstood;

/// Success, although nothing was written: as Prometheus does, it is taken for a failure that would be the same again.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server accepted the request and wrote no sample of it; hint: look for the reason in the server's log; one without support for remote write 2.0 needs `protobuf_message: prometheus.WriteRequest`"
)]
struct NothingWritten;

impl Client {
    /// A client that connects with its first request.
    pub(super) fn new(config: &Config, dial: Dial) -> Result<Self, BoxError> {
        let headers = headers(config)?;
        let credentials = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let mut secrets: Vec<_> = config.headers.values().cloned().collect();
        secrets.extend(credentials.map(str::to_owned));
        secrets.extend(dial.secrets());
        let poster = Poster::new(dial, headers, Secrets::new(secrets), is_temporary)?;
        Ok(Self {
            poster,
            message: config.protobuf_message,
            native_histograms: config.send_native_histograms,
        })
    }

    async fn write(&self, request: Request) -> Result<Exported, BoxError> {
        let answer = self.poster.post(request.body, Some("snappy")).await;
        let all = Exported {
            sent: request.items,
            failed: 0,
        };
        if self.message == ProtobufMessage::V1 {
            return answer.map(|_| all);
        }
        match answer {
            Ok(answer) => match written(answer.headers()) {
                None => Err(Box::new(NotUnderstood)),
                Some(0) if request.items > 0 => Err(Box::new(NothingWritten)),
                Some(written) if written < request.items => {
                    let (sent, failed) = (written, request.items - written);
                    tracing::warn!(
                        sent,
                        failed,
                        "the store wrote a part of a request that it accepted; hint: look for the reason in the store's log"
                    );
                    Ok(Exported { sent, failed })
                }
                // A point can be several samples: how many are missing is not known beyond that.
                Some(_) => Ok(all),
            },
            Err(error) => self.taken_in_part(request.items, &error).ok_or(error),
        }
    }

    /// The points that a server wrote although it rejected the request. With classic histograms a
    /// point has many samples, and the written ones are unknown, so then the whole request counts
    /// as rejected.
    fn taken_in_part(&self, points: u64, error: &BoxError) -> Option<Exported> {
        let failure = error.downcast_ref::<HttpFailure>()?;
        let sent = written(&failure.headers)?.min(points);
        if failure.temporary || !self.native_histograms || sent == 0 {
            return None;
        }
        tracing::warn!(sent, failed = points - sent, %error, "points were refused; \
                hint: look for the reason in the store's log");
        Some(Exported {
            sent,
            failed: points - sent,
        })
    }
}

/// Number of samples that the server wrote; `None` if it does not report it.
fn written(headers: &HeaderMap) -> Option<u64> {
    WRITTEN_HEADERS
        .iter()
        .filter_map(|name| headers.get(name))
        .map(|count| count.to_str().ok()?.trim().parse::<u64>().ok())
        .reduce(|sum, count| Some(sum?.saturating_add(count?)))?
}

/// A server in trouble is asked again (Prometheus remote write 1.0, "Retries & Backoff"), as is one that did not get the request in
/// time (RFC 9110, section 15.5.9); it would refuse anything else again.
fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

fn headers(config: &Config) -> Result<HeaderMap, BoxError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let (kind, version) = match config.protobuf_message {
        ProtobufMessage::V1 => ("application/x-protobuf", "0.1.0"),
        ProtobufMessage::V2 => (
            "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            "2.0.0",
        ),
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(VERSION_HEADER, HeaderValue::from_static(version));
    headers.insert(USER_AGENT, HeaderValue::from_static(push::USER_AGENT));
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

impl push::Client for Client {
    async fn send(&self, request: Request) -> Result<Exported, BoxError> {
        self.write(request).await
    }

    fn reconnect(&self) {
        self.poster.reconnect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
        let temporary = |status| is_temporary(StatusCode::from_u16(status).unwrap());
        for status in [408, 429, 500, 501, 502, 503, 504, 599] {
            assert!(temporary(status), "{status}");
        }
        for status in [301, 307, 308, 400, 401, 403, 404, 413, 422] {
            assert!(!temporary(status), "{status}");
        }
    }
}
