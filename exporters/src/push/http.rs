//! A POST over HTTP/1.1, with TLS.

use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use tower::BoxError;

use super::channel::Channel;
use super::connect::Dial;
use super::error::{Lost, peer_text};

/// Longest answer that is read; a longer one counts as none.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Maximum bytes of an error's text that are read.
const MAX_SAID_BYTES: usize = 300;

/// An answer other than a success.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {status}{}{said}", if said.is_empty() { "" } else { ": " })]
pub(crate) struct HttpFailure {
    pub(crate) status: StatusCode,
    /// Whether the protocol allows retrying the same request.
    pub(crate) temporary: bool,
    /// When the peer wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) headers: HeaderMap,
    /// The beginning of what it said, if that is text.
    said: String,
}

/// A success with a page for browsers: what answers is a login page or a proxy's page, not the peer, which never got the request.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {status} with a page ({content_type}) instead of the peer's answer{}{said}", if said.is_empty() { "" } else { ": " })]
pub(crate) struct Page {
    status: StatusCode,
    content_type: &'static str,
    said: String,
}

impl Page {
    /// The page that `answer` is, if it is one.
    fn of(answer: &Response<Bytes>) -> Option<Self> {
        let given = answer.headers().get(CONTENT_TYPE)?.to_str().ok()?;
        let media_type = given.split(';').next().unwrap_or_default().trim();
        let mut pages = ["text/html", "application/xhtml+xml"].into_iter();
        let content_type = pages.find(|page| page.eq_ignore_ascii_case(media_type))?;
        let body = answer.body();
        // An empty one says nothing, whatever it is called.
        (!body.is_empty()).then(|| Self {
            status: answer.status(),
            content_type,
            said: peer_text(&String::from_utf8_lossy(&body[..body.len().min(MAX_SAID_BYTES)])),
        })
    }
}

/// A success with a body that is neither of the protocol nor of its content type: something else answers at this address.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {status} with a body ({content_type}) that is no answer to the request{}{said}", if said.is_empty() { "" } else { ": " })]
pub(crate) struct Misunderstood {
    status: StatusCode,
    content_type: String,
    said: String,
}

impl Misunderstood {
    /// `answer` could not be decoded.
    pub(crate) fn new(answer: &Response<Bytes>) -> Self {
        let content_type = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let body = answer.body();
        Self {
            status: answer.status(),
            content_type: match content_type {
                Some(text) => peer_text(&String::from_utf8_lossy(text)),
                None => "no content type".to_owned(),
            },
            said: peer_text(&String::from_utf8_lossy(&body[..body.len().min(MAX_SAID_BYTES)])),
        }
    }
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

/// Posts to one address.
#[derive(Clone, Debug)]
pub(crate) struct Poster {
    channel: Channel<Full<Bytes>>,
    headers: HeaderMap,
    temporary: fn(StatusCode) -> bool,
}

impl Poster {
    /// Posts to `dial`'s endpoint, with `headers` in every request. `temporary` decides after which
    /// responses the protocol allows retrying the same request.
    ///
    /// # Errors
    /// A TLS file that can't be used.
    pub(crate) fn new(
        dial: Dial,
        mut headers: HeaderMap,
        temporary: fn(StatusCode) -> bool,
    ) -> Result<Self, BoxError> {
        if let Some(credentials) = dial.proxy_authorization() {
            headers.insert(PROXY_AUTHORIZATION, credentials);
        }
        Ok(Self {
            channel: Channel::new(dial, None)?,
            headers,
            temporary,
        })
    }

    /// Posts `body` and returns the answer, if that is a success.
    ///
    /// # Errors
    /// [`HttpFailure`], [`Page`] or [`Lost`].
    pub(crate) async fn post(
        &self,
        body: Bytes,
        encoding: Option<&'static str>,
    ) -> Result<Response<Bytes>, BoxError> {
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.channel.dial().endpoint.uri().clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(encoding) = encoding {
            let encoding = HeaderValue::from_static(encoding);
            request.headers_mut().insert(CONTENT_ENCODING, encoding);
        }
        let client = self.channel.client();
        let lost = |error: &(dyn Error + 'static)| Lost::on(error, self.channel.broken());
        let answer = client.request(request).await.map_err(|error| lost(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        if head.status.is_success() {
            let body = body.map_err(|error| lost(&*error))?;
            let answer = Response::from_parts(head, body.to_bytes());
            return match Page::of(&answer) {
                Some(page) => Err(Box::new(page)),
                None => Ok(answer),
            };
        }
        // The status is what counts; the text is for the log.
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let said = String::from_utf8_lossy(&body[..body.len().min(MAX_SAID_BYTES)]);
        Err(Box::new(HttpFailure {
            status: head.status,
            temporary: (self.temporary)(head.status),
            retry_after: retry_after(&head.headers),
            said: peer_text(&said),
            headers: head.headers,
        }))
    }

    /// The next request uses a new connection.
    pub(crate) fn reconnect(&self) {
        self.channel.reconnect();
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Any number of digits is a delay; one that no integer holds is longer than any wait.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
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
        assert_eq!(asked("99999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1000));
        assert!(asked(&later).is_some_and(|wait| wait > Duration::from_secs(900)));
        for nonsense in ["", "soon", "-1", "+1", "1.5"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }
}
