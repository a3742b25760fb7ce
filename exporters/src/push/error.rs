//! Failures of delivery attempts, in words an operator can act on.

use std::error::Error;
use std::time::Duration;

use flowtap_pipeline::plain::plain;
use http_body_util::LengthLimitError;
use tonic::Status;
use tower::BoxError;

use super::secrets::Secrets;

/// Longest text of a peer that is logged.
const MAX_PEER_TEXT: usize = 300;

/// The error of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) text: String,
    /// Of TLS: it names the cause, where what follows on the socket is a consequence.
    pub(crate) is_tls: bool,
}

/// The connection failed before the peer answered: refused, reset, closed, or a stream that the peer or a proxy reset.
///
/// So is a request that something else than the peer answered, such as a proxy over gRPC. The peer has made no decision about the
/// request, so it may be retried.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Lost {
    text: String,
    reason: Option<h2::Reason>,
    /// When a proxy wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

impl Lost {
    #[cfg(any(test, feature = "ipfix"))]
    pub(crate) fn new(error: &(dyn Error + 'static)) -> Self {
        Self::without(error, &Secrets::default())
    }

    /// The same without `secrets`: the text that a peer gives for closing a connection is in it.
    pub(crate) fn without(error: &(dyn Error + 'static), secrets: &Secrets) -> Self {
        let reason = sources(error).find_map(|cause| cause.downcast_ref::<h2::Error>()?.reason());
        Self {
            text: peer_text(&causes(error), secrets),
            reason,
            retry_after: None,
        }
    }

    /// One of which `text` says all.
    pub(crate) const fn saying(text: String, retry_after: Option<Duration>) -> Self {
        Self {
            text,
            reason: None,
            retry_after,
        }
    }

    /// The same of a connection that broke by an error of its own: that one is named where `error` says only that the connection is gone,
    /// or names what follows from the end of TLS.
    pub(crate) fn on(error: &(dyn Error + 'static), broken: Option<Broken>, secrets: &Secrets) -> Self {
        let mut lost = Self::without(error, secrets);
        let is_gone = sources(error).any(|cause| {
            let cause = cause.downcast_ref::<hyper::Error>();
            cause.is_some_and(|cause| cause.is_canceled() || cause.is_closed())
        });
        if let Some(broken) = broken
            && lost.reason.is_none()
            && (is_gone || broken.is_tls)
            && !lost.text.contains(&broken.text)
        {
            lost.text = format!("connection error: {}", broken.text);
        }
        lost
    }

    /// Whether a later attempt can succeed. gRPC maps HTTP/2 error codes to statuses ("gRPC over HTTP2", "Errors"); of these only
    /// `INADEQUATE_SECURITY`, which is `PERMISSION_DENIED`, is about the client rather than about the moment. `INTERNAL` and
    /// `RESOURCE_EXHAUSTED` are final when a server sends them as the answer to a request. As the reset of a stream they come from
    /// proxies and from servers that are going away or overloaded, and nothing says that the request itself was refused.
    pub(crate) fn is_retryable(&self) -> bool {
        self.reason != Some(h2::Reason::INADEQUATE_SECURITY)
    }
}

/// No answer within the attempt's time limit.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {}", humantime::format_duration(*.0))]
pub(crate) struct TimedOut(pub(crate) Duration);

/// A gRPC status that the server sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("gRPC status {:?}{}{said}", .status.code(), if said.is_empty() { "" } else { ": " })]
pub(crate) struct Refused {
    pub(crate) status: Status,
    said: String,
}

impl Refused {
    pub(crate) fn new(status: Status, secrets: &Secrets) -> Self {
        let said = peer_text(status.message(), secrets);
        Self { status, said }
    }
}

/// The failure of an attempt over gRPC, on its way through `tonic`.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Lost(Lost),
    #[error("{0}")]
    Refused(Refused),
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// The failure that `status` of `tonic` stands for. None of them is a status that a server sent: those are a [`Refused`] before `tonic`
/// sees them. They come from a connection, or are about an answer that `tonic` can't read, and say nothing about the request.
pub(crate) fn from_status(status: &Status, secrets: &Secrets) -> BoxError {
    let Some(source) = status.source() else {
        let text = peer_text(status.message(), secrets);
        return Box::new(Lost::saying(
            format!("the peer's answer can't be read: {text}"),
            None,
        ));
    };
    match source.downcast_ref() {
        Some(Failure::Refused(refused)) => Box::new(refused.clone()),
        Some(Failure::Lost(lost)) => Box::new(lost.clone()),
        None => Box::new(Lost::without(source, secrets)),
    }
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// An error followed by its causes. The HTTP client's outermost error says only in which phase it failed, so it is left out, as is
/// a cause whose text the error around it has already given.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    peer_text(&causes(error), &Secrets::default())
}

/// The same of an error with a text of a peer, which may repeat `secrets`.
#[cfg(feature = "object-store")]
pub(crate) fn chain_without(error: &(dyn Error + 'static), secrets: &Secrets) -> String {
    peer_text(&causes(error), secrets)
}

fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in sources(error) {
        let is_wrapper = cause.is::<hyper_util::client::legacy::Error>() && cause.source().is_some();
        let part = if cause.is::<LengthLimitError>() {
            "the peer's answer is too large".to_owned()
        } else if cause.downcast_ref::<h2::Error>().is_some_and(is_planned_end) {
            "the server closed the connection (GOAWAY NO_ERROR)".to_owned()
        } else {
            advised(readable(cause.to_string()))
        };
        if is_wrapper || text.ends_with(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

/// Whether the server has ended the connection without an error, as when it stops or balances its load. h2 calls that an error which is
/// "not a result of an error".
fn is_planned_end(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// `text` with words in place of what rustls prints of a certificate's fault, which is the name of a Rust value.
fn readable(text: String) -> String {
    const BEGIN: &str = "Other(OtherError(";
    let Some((before, rest)) = text.split_once(BEGIN) else {
        return text;
    };
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    let words = match &rest[..end] {
        "CaUsedAsEndEntity" => {
            "it is the certificate of an authority (CA:TRUE), which a server can't have; \
             hint: give the peer a certificate that the authority has signed"
        }
        name => return format!("{before}{}", words(name)),
    };
    format!("{before}{words}")
}

/// Errors of libraries that say neither which key causes them nor what to do, each with a hint.
const HINTS: [(&str, &str); 6] = [
    (
        "UnknownIssuer",
        "set `tls.ca_file` to the certificate of the authority that signed the peer's",
    ),
    (
        "received fatal alert: CertificateRequired",
        "the peer wants a certificate of its clients: set `tls.cert_file` and `tls.key_file`",
    ),
    (
        "received corrupt message of type InvalidContentType",
        "the peer does not speak TLS on this port: check `endpoint`, its port and http or https",
    ),
    (
        "connection error detected: frame with invalid size",
        "the peer does not speak gRPC (HTTP/2) on this port: check `endpoint`, http or https, and `protocol`",
    ),
    ("invalid HTTP version parsed", NOT_HTTP1),
    ("received unexpected message from connection", NOT_HTTP1),
];

const NOT_HTTP1: &str =
    "the peer does not speak HTTP/1.1 on this port: check `endpoint`, http or https, and `protocol`";

/// `text` with the hint that belongs to it, if there is one.
fn advised(text: String) -> String {
    let hint = HINTS.iter().find(|(of, _)| text.ends_with(of));
    match hint {
        Some((_, hint)) => format!("{text}; hint: {hint}"),
        None => text,
    }
}

/// `MissingExtension` as `missing extension`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Returns text of a peer as one line without `secrets` and control characters, of at most [`MAX_PEER_TEXT`] characters before they are
/// escaped.
pub(crate) fn peer_text(text: &str, secrets: &Secrets) -> String {
    // Before it is cut: the beginning of a secret is secret as well.
    let text = secrets.strike(text);
    let text = text.trim();
    match text.char_indices().nth(MAX_PEER_TEXT) {
        Some((end, _)) => format!("{}…", plain(&text[..end])),
        None => plain(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_server_that_closes_a_connection_without_an_error_is_named() {
        let (near, mut far) = tokio::io::duplex(4096);
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        let request = http::Request::get("http://peer/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        // Empty SETTINGS; GOAWAY, by which no stream was processed.
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        far.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0]).await.unwrap();
        far.write_all(&[0; 8]).await.unwrap();
        let (answer, _) = tokio::join!(answer, connection);
        let said = chain(&answer.unwrap_err());
        assert_eq!(said, "the server closed the connection (GOAWAY NO_ERROR)");
    }

    #[test]
    fn a_status_of_tonic_is_a_lost_request_unless_it_holds_the_one_of_a_server() {
        let secrets = Secrets::default();
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let lost = from_status(&Status::from_error(Box::new(reset)), &secrets);
        assert!(lost.is::<Lost>(), "{lost}");
        assert_eq!(lost.to_string(), "connection reset");
        for own in [Status::internal("garbage"), Status::unknown("garbage")] {
            let lost = from_status(&own, &secrets);
            assert!(lost.is::<Lost>(), "{lost}");
            assert_eq!(lost.to_string(), "the peer's answer can't be read: garbage");
        }
        let sent = Refused::new(Status::unknown("no such table"), &secrets);
        let refused = from_status(&Status::from_error(Box::new(Failure::from(sent))), &secrets);
        assert!(refused.is::<Refused>(), "{refused}");
        assert_eq!(refused.to_string(), "gRPC status Unknown: no such table");
        let proxy = Lost::saying("a page".to_owned(), Some(Duration::from_secs(7)));
        let lost = from_status(&Status::from_error(Box::new(Failure::from(proxy))), &secrets);
        let lost = lost.downcast_ref::<Lost>().unwrap();
        assert_eq!(lost.retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_error_of_tls_is_named_in_place_of_what_follows_from_it() {
        let broken = |text: &str, is_tls| {
            Some(Broken {
                text: text.to_owned(),
                is_tls,
            })
        };
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        let of = |broken| Lost::on(&pipe, broken, &Secrets::default()).to_string();
        assert_eq!(of(None), "broken pipe");
        assert_eq!(of(broken("connection reset", false)), "broken pipe");
        assert_eq!(of(broken("bad alert", true)), "connection error: bad alert");
    }

    #[tokio::test]
    async fn an_answer_beyond_the_limit_is_called_too_large() {
        use http_body_util::{BodyExt, Full, Limited};
        let body = Limited::new(Full::new(bytes::Bytes::from_static(b"long")), 3);
        let error = body.collect().await.unwrap_err();
        assert_eq!(Lost::new(&*error).to_string(), "the peer's answer is too large");
    }

    #[test]
    fn only_inadequate_security_is_final_among_the_codes_of_http2() {
        for code in 0..=13 {
            let reason = h2::Reason::from(code);
            let lost = Lost::new(&h2::Error::from(reason));
            assert_eq!(
                lost.is_retryable(),
                reason != h2::Reason::INADEQUATE_SECURITY,
                "{reason:?}"
            );
        }
    }

    #[test]
    fn a_fault_of_a_certificate_is_said_in_words() {
        let of = |text: &str| chain(&io::Error::other(text.to_owned()));
        let authority = of("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))");
        assert!(
            authority.starts_with("invalid peer certificate: it is the certificate of an authority"),
            "{authority}"
        );
        assert_eq!(
            of("invalid peer certificate: Other(OtherError(MaximumSignatureChecksExceeded))"),
            "invalid peer certificate: maximum signature checks exceeded"
        );
        assert_eq!(
            of("invalid peer certificate: Expired"),
            "invalid peer certificate: Expired"
        );
    }

    #[test]
    fn an_error_of_a_library_has_a_hint_once_and_at_its_end() {
        for (text, hint) in HINTS {
            let outer = io::Error::other(io::Error::other(text));
            assert_eq!(chain(&outer), format!("{text}; hint: {hint}"));
        }
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(chain(&unknown).contains("tls.ca_file"), "{}", chain(&unknown));
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(chain(&plain).contains("does not speak TLS"), "{}", chain(&plain));
    }

    #[test]
    fn causes_are_listed_once_and_control_characters_are_escaped() {
        let inner = io::Error::other("certificate expired");
        let outer = io::Error::other(inner);
        assert_eq!(chain(&outer), "certificate expired");
        assert_eq!(
            peer_text("\x1b]0;PWNED\x07\nFAKE line", &Secrets::default()),
            "\\u{1b}]0;PWNED\\u{7}\\nFAKE line"
        );
        assert!(peer_text(&"x".repeat(5000), &Secrets::default()).len() < 310);
    }
}
