//! A POST over HTTP/1.1, with TLS.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::BoxError;

use crate::tls::ClientTls;

/// An answer is short; what goes on for longer than this is none.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// How much of an error's text is told.
const MAX_SAID_BYTES: usize = 300;

/// Connections over TLS or not, as the URI says.
///
/// # Errors
/// What is wrong with the files of `tls`.
pub(crate) fn connector(tls: &ClientTls, http2: bool) -> Result<HttpsConnector<HttpConnector>, BoxError> {
    let mut builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls.client_config()?)
        .https_or_http();
    if let Some(name) = &tls.server_name {
        let name = rustls::pki_types::ServerName::try_from(name.clone())?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(if http2 {
        builder.enable_http2().build()
    } else {
        builder.enable_http1().build()
    })
}

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
#[error("{status}{}{said}", if said.is_empty() { "" } else { ": " })]
pub(crate) struct HttpFailure {
    pub(crate) status: StatusCode,
    /// Whether the protocol has it that the same may be sent again.
    pub(crate) temporary: bool,
    /// When the peer wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) headers: HeaderMap,
    /// The beginning of what it said, if that is text.
    said: String,
}

#[cfg(test)]
impl HttpFailure {
    /// One that is temporary.
    pub(crate) fn asking_for(delay: Duration) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            temporary: true,
            retry_after: Some(delay),
            headers: HeaderMap::new(),
            said: String::new(),
        }
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer: {0}")]
pub(crate) struct NoAnswer(#[source] BoxError);

/// What is posted to one address.
#[derive(Clone, Debug)]
pub(crate) struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    temporary: fn(StatusCode) -> bool,
}

impl Poster {
    /// To `uri`, with `headers` in every request. Of `temporary` answers the protocol has it that the same may be sent again.
    ///
    /// # Errors
    /// What is wrong with the files of `tls`.
    pub(crate) fn new(
        uri: Uri,
        headers: HeaderMap,
        tls: &ClientTls,
        temporary: fn(StatusCode) -> bool,
    ) -> Result<Self, BoxError> {
        let client = Client::builder(TokioExecutor::new()).build(connector(tls, false)?);
        Ok(Self {
            client,
            uri,
            headers,
            temporary,
        })
    }

    /// Posts `body`; the answer, if that is a success.
    ///
    /// # Errors
    /// [`HttpFailure`] or [`NoAnswer`].
    pub(crate) async fn post(
        &self,
        body: Bytes,
        encoding: Option<&'static str>,
    ) -> Result<Response<Bytes>, BoxError> {
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(encoding) = encoding {
            let encoding = HeaderValue::from_static(encoding);
            request.headers_mut().insert(CONTENT_ENCODING, encoding);
        }
        let no_answer = |error: BoxError| NoAnswer(error);
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| no_answer(error.into()))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        if head.status.is_success() {
            return Ok(Response::from_parts(head, body.map_err(no_answer)?.to_bytes()));
        }
        // The status is what counts; the text is for the log.
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let said = str::from_utf8(&body[..body.len().min(MAX_SAID_BYTES)]).unwrap_or_default();
        Err(Box::new(HttpFailure {
            status: head.status,
            temporary: (self.temporary)(head.status),
            retry_after: retry_after(&head.headers),
            headers: head.headers,
            said: said.trim().to_owned(),
        }))
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_says_when_in_seconds_or_by_a_date() {
        let asked = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1000));
        assert!(asked(&later).is_some_and(|wait| wait > Duration::from_secs(900)));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }
}
