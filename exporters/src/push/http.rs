//! A POST over HTTP/1.1, with TLS.

use std::error::Error;
use std::io::Read;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use flate2::read::MultiGzDecoder;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, PROXY_AUTHORIZATION, RETRY_AFTER,
};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::channel::Channel;
use super::connect::Dial;
use super::error::{Lost, peer_text};
use super::secrets::Secrets;
use super::tunnel::hint_of;

/// Longest answer that is read; a longer one counts as none.
pub(crate) const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Maximum bytes of an error's text that are kept. More than is shown: what is struck out of it must be there whole.
const MAX_SAID_BYTES: usize = 4096;

/// Longest time for which the text of an error is awaited once its status is there.
const MAX_TEXT_WAIT: Duration = Duration::from_secs(1);

/// An answer other than a success.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {status}{}{said}{proxy}", if said.is_empty() { "" } else { ": " })]
pub(crate) struct HttpFailure {
    pub(crate) status: StatusCode,
    /// Whether the protocol allows retrying the same request.
    pub(crate) temporary: bool,
    /// When the peer wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) headers: HeaderMap,
    /// The beginning of what it said, if that is text.
    said: String,
    /// That a proxy may have sent it, with what helps then; empty without one.
    proxy: String,
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
    /// The content type of a page for browsers, if `headers` name one.
    fn content_type(headers: &HeaderMap) -> Option<&'static str> {
        let media_type = media_type(headers);
        let mut pages = ["text/html", "application/xhtml+xml"].into_iter();
        pages.find(|page| *page == media_type)
    }
}

/// The media type that `headers` name, in small letters; empty without one.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// A success with a body that is neither of the protocol nor of its content type: something else answers at this address.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {status} with an unexpected body ({content_type}){}{said}", if said.is_empty() { "" } else { ": " })]
pub(crate) struct Misunderstood {
    status: StatusCode,
    content_type: String,
    said: String,
}

impl Misunderstood {
    /// `answer` could not be decoded. It may repeat `secrets`.
    fn new(answer: &Response<Bytes>, secrets: &Secrets) -> Self {
        let body = answer.body();
        Self {
            status: answer.status(),
            content_type: content_type(answer.headers(), secrets),
            said: said(answer.headers(), &body[..body.len().min(MAX_SAID_BYTES)], secrets),
        }
    }
}

/// The content type that `headers` name, for a message.
pub(crate) fn content_type(headers: &HeaderMap, secrets: &Secrets) -> String {
    match headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
        Some(text) => peer_text(&String::from_utf8_lossy(text), secrets),
        None => "no content type".to_owned(),
    }
}

/// The text of a body that begins with `body`, for a message.
pub(crate) fn said(headers: &HeaderMap, body: &[u8], secrets: &Secrets) -> String {
    let unpacked = is_gzip(headers).then(|| {
        let mut text = Vec::new();
        // Of one that was cut, what is there.
        let _ = MultiGzDecoder::new(body)
            .take(MAX_SAID_BYTES as u64)
            .read_to_end(&mut text);
        text
    });
    let body = unpacked.as_deref().unwrap_or(body);
    peer_text(&String::from_utf8_lossy(body), secrets)
}

fn is_gzip(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    encoding.is_some_and(|encoding| {
        [&b"gzip"[..], b"x-gzip"]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(encoding.trim_ascii()))
    })
}

/// The decompressed `body`, if `headers` say that it is compressed with gzip, and that can be read.
fn unpacked(headers: &HeaderMap, body: Bytes) -> Bytes {
    if body.is_empty() || !is_gzip(headers) {
        return body;
    }
    let mut text = Vec::new();
    let read = MultiGzDecoder::new(&*body)
        .take(MAX_ANSWER_BYTES as u64)
        .read_to_end(&mut text);
    read.map_or(body, |_| Bytes::from(text))
}

/// The beginning of `body`. It is read to its end, so that the connection can be used again, but not for longer than `wait`: the status
/// is what counts, and the text is for the log.
pub(crate) async fn beginning<B: Body + Unpin>(mut body: B, wait: Duration) -> Vec<u8> {
    let (mut text, mut length) = (Vec::new(), 0);
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            length += data.remaining();
            let room = MAX_SAID_BYTES - text.len();
            let part = data.copy_to_bytes(data.remaining().min(room));
            text.extend_from_slice(&part);
            if length > MAX_ANSWER_BYTES {
                break;
            }
        }
    };
    // Text that has come by then is all that is shown.
    let _ = tokio::time::timeout(wait, read).await;
    text
}

/// The time for which the text of an error may be awaited in an attempt that `began` then and may take `timeout`: less than is left of that, as it
/// would hide the status.
pub(crate) fn text_wait(began: Instant, timeout: Duration) -> Duration {
    (timeout.saturating_sub(began.elapsed()) / 2).min(MAX_TEXT_WAIT)
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
            proxy: String::new(),
        }
    }
}

/// Posts to one address.
#[derive(Clone, Debug)]
pub(crate) struct Poster {
    channel: Channel<Full<Bytes>>,
    headers: HeaderMap,
    secrets: Secrets,
    temporary: fn(StatusCode) -> bool,
}

impl Poster {
    /// Posts to `dial`'s endpoint, with `headers` in every request. An answer that repeats one of `secrets` is shown without it.
    /// `temporary` decides after which responses the protocol allows retrying the same request.
    ///
    /// # Errors
    /// A TLS file that can't be used.
    pub(crate) fn new(
        dial: Dial,
        mut headers: HeaderMap,
        secrets: Secrets,
        temporary: fn(StatusCode) -> bool,
    ) -> Result<Self, BoxError> {
        if let Some(credentials) = dial.proxy_authorization() {
            headers.insert(PROXY_AUTHORIZATION, credentials);
        }
        // Answers are short, and what is in them is to be read. A name that the config sets stays.
        headers
            .entry(ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static("identity"));
        Ok(Self {
            channel: Channel::new(dial, None)?,
            headers,
            secrets,
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
        let (client, began) = (self.channel.client(), Instant::now());
        let lost = |error: &(dyn Error + 'static)| Lost::on(error, self.channel.broken(), &self.secrets);
        let answer = client.request(request).await.map_err(|error| lost(&error))?;
        self.channel.answered();
        let (head, body) = answer.into_parts();
        let wait = text_wait(began, self.channel.dial().user_timeout);
        let text = |body: &[u8]| said(&head.headers, body, &self.secrets);
        if !head.status.is_success() {
            return Err(Box::new(HttpFailure {
                status: head.status,
                temporary: (self.temporary)(head.status),
                retry_after: retry_after(&head.headers),
                said: text(&beginning(body, wait).await),
                headers: head.headers,
                proxy: self.of_proxy(head.status),
            }));
        }
        if let Some(content_type) = Page::content_type(&head.headers) {
            let body = beginning(body, wait).await;
            // An empty one says nothing, whatever it is called: the protocol decides.
            if !body.is_empty() {
                return Err(Box::new(Page {
                    status: head.status,
                    content_type,
                    said: text(&body),
                }));
            }
            return Ok(Response::from_parts(head, Bytes::new()));
        }
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| lost(&*error))?.to_bytes();
        let body = unpacked(&head.headers, body);
        Ok(Response::from_parts(head, body))
    }

    /// The end of the text of a failure with `status`, where a proxy passes requests on and may be the one that answered.
    fn of_proxy(&self, status: StatusCode) -> String {
        let Some(proxy) = self.channel.dial().forwarding_proxy() else {
            return String::new();
        };
        match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                format!("; from the proxy {proxy}; hint: {}", hint_of(proxy, status))
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                format!("; from the peer or the proxy {proxy}")
            }
            _ => String::new(),
        }
    }

    /// The failure that `answer` is, which is not of the protocol.
    pub(crate) fn misunderstood(&self, answer: &Response<Bytes>) -> Misunderstood {
        Misunderstood::new(answer, &self.secrets)
    }

    /// The next request uses a new connection.
    pub(crate) fn reconnect(&self) {
        self.channel.reconnect();
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
