//! Answers to a request over gRPC, judged before `tonic` decodes them.
//!
//! Whatever is at the address, or on the way to it, can answer over HTTP/2: a proxy with the page of an error, a website, a server that is
//! cut off. `tonic` derives a status from these as well, and nothing in that says that no server sent it. So the status is read here, from
//! a `grpc-status` header or trailer alone, and an answer without one is a lost request: another attempt may reach the collector.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::BoxError;

use super::status_details;
use crate::push::error::{Failure, Lost, Refused};
use crate::push::http::{
    MAX_ANSWER_BYTES, beginning, content_type, media_type, retry_after, said, text_wait,
};
use crate::push::secrets::Secrets;

/// The header, or trailer, of a status.
const STATUS: &str = "grpc-status";

/// Flag and length before a message of gRPC.
const FRAME_BYTES: usize = 5;

/// An answer as `tonic` decodes it.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Reads the answer of an attempt that `began` then and may take `timeout`. The one that is returned has the status 0 and a message.
///
/// # Errors
/// [`Refused`] with any other status of the server; [`Lost`] if there is none, or the answer breaks off. Neither repeats `secrets`.
pub(super) async fn read<B>(
    response: Response<B>,
    began: Instant,
    timeout: Duration,
    secrets: &Secrets,
) -> Result<Answer, Failure>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let (head, body) = status_details::check(response).into_parts();
    let given = status(&head.headers);
    match given {
        // The body of such an answer is empty.
        Some(status) if is_grpc(&head) && status.code() != Code::Ok => {
            return Err(Refused::new(status, secrets).into());
        }
        _ => {}
    }
    if !is_grpc(&head) || head.status != StatusCode::OK {
        let text = beginning(body, text_wait(began, timeout)).await;
        return Err(foreign(&head, &text, secrets));
    }
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| Lost::without(&*error, secrets))?;
    let trailers = body.trailers().cloned();
    let message = body.to_bytes();
    let Some(status) = given.or_else(|| trailers.as_ref().and_then(status)) else {
        return Err(foreign(&head, &message, secrets));
    };
    if status.code() != Code::Ok {
        return Err(Refused::new(status, secrets).into());
    }
    if !is_framed(&message) {
        return Err(foreign(&head, &message, secrets));
    }
    let body = Full::new(message).with_trailers(ready(trailers.map(Ok)));
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

/// Whether the answer is called one of gRPC, or not called anything.
fn is_grpc(head: &Parts) -> bool {
    let media_type = media_type(&head.headers);
    let rest = media_type.strip_prefix("application/grpc");
    media_type.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

/// The status in `headers`, if there is one, and it is a number.
fn status(headers: &HeaderMap) -> Option<Status> {
    let given = headers.get(STATUS)?.as_bytes();
    let is_number = !given.is_empty() && given.iter().all(u8::is_ascii_digit);
    is_number.then(|| Status::from_header_map(headers)).flatten()
}

/// Whether `body` begins with a whole message.
fn is_framed(body: &[u8]) -> bool {
    let Some((head, rest)) = body.split_first_chunk::<FRAME_BYTES>() else {
        return false;
    };
    let [flag, length @ ..] = head;
    *flag <= 1 && rest.len() >= u32::from_be_bytes(*length) as usize
}

/// The failure that an answer is without a status of gRPC, or without the message that this promises.
fn foreign(head: &Parts, body: &[u8], secrets: &Secrets) -> Failure {
    let kind = content_type(&head.headers, secrets);
    let mut text = format!("HTTP status {} ({kind})", head.status);
    if head.status == StatusCode::OK {
        text.push_str(" that is not a gRPC response");
    } else {
        let _ = write!(text, ", in gRPC {:?}", code(head.status));
    }
    if is_grpc(head) && head.status == StatusCode::OK {
        let lacks = match (status(&head.headers), body.len()) {
            (None, _) if !is_framed(body) => "a status and a whole message are missing",
            (None, _) => "its status is missing",
            (Some(_), 0) => "its message is missing",
            (Some(_), _) => "its message is not whole",
        };
        let _ = write!(text, "; {lacks}");
    }
    let said = said(&head.headers, body, secrets);
    if said.chars().any(|c| c.is_ascii_graphic()) {
        let _ = write!(text, ": {said}");
    }
    Lost::saying(text, retry_after(&head.headers)).into()
}

/// The code that stands for an answer of HTTP (gRPC, `doc/http-grpc-status-mapping.md`). It is for the message: none of these is a
/// decision of the collector, so each is retried.
const fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);
    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    /// A message of no bytes, not compressed.
    const EMPTY: &[u8] = &[0; FRAME_BYTES];

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    async fn of(
        status: u16,
        head: &[(&'static str, &str)],
        body: &'static [u8],
        trailers: Option<&[(&'static str, &str)]>,
    ) -> Result<Answer, Failure> {
        let trailers = trailers.map(|trailers| Ok(headers(trailers)));
        let body = Full::new(Bytes::from_static(body)).with_trailers(ready(trailers));
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = headers(head);
        read(
            response,
            Instant::now(),
            TIMEOUT,
            &Secrets::new(["Bearer hunter2"]),
        )
        .await
    }

    #[tokio::test]
    async fn an_answer_without_a_status_of_grpc_is_a_lost_request_with_what_is_known_of_it() {
        for status in [
            400, 401, 403, 404, 408, 413, 429, 500, 501, 502, 503, 504, 511, 302,
        ] {
            let bodies = [
                ("text/html", "<html><h1>no</h1></html>"),
                ("text/plain", "no healthy upstream"),
                ("application/json", "{\"code\":5}"),
            ];
            for (kind, body) in bodies {
                let error = of(status, &[("content-type", kind)], body.as_bytes(), None)
                    .await
                    .unwrap_err();
                assert!(matches!(error, Failure::Lost(_)), "{status} {kind}: {error}");
                let text = error.to_string();
                let begins = format!("HTTP status {}", StatusCode::from_u16(status).unwrap());
                assert!(
                    text.starts_with(&begins) && text.contains(kind) && text.ends_with(body),
                    "{text}"
                );
            }
            let bare = of(status, &[], b"", None).await.unwrap_err();
            assert!(matches!(bare, Failure::Lost(_)), "{status}: {bare}");
        }
        let unavailable = of(502, &[("content-type", "text/html")], b"", None)
            .await
            .unwrap_err();
        assert_eq!(
            unavailable.to_string(),
            "HTTP status 502 Bad Gateway (text/html), in gRPC Unavailable"
        );
        let wait = of(503, &[("retry-after", "7")], b"", None).await.unwrap_err();
        assert!(format!("{wait:?}").contains("retry_after: Some(7s)"), "{wait:?}");
    }

    #[tokio::test]
    async fn a_success_without_a_status_of_grpc_is_a_lost_request() {
        let ok = Some(&[(STATUS, "0")][..]);
        for (head, body, trailers) in [
            (
                &[("content-type", "text/html")][..],
                &b"<html>log in</html>"[..],
                None,
            ),
            (&[("content-type", "text/html")], b"", None),
            (&[("content-type", "text/html"), (STATUS, "0")], b"", None),
            (&[("content-type", "application/json")], b"{\"code\":5}", None),
            (&[("content-type", "application/grpc-web")], EMPTY, ok),
            (&[], b"welcome", None),
            (&[], b"", None),
            // No trailers, others, and a status that is not a number.
            (&[GRPC], EMPTY, None),
            (&[GRPC], EMPTY, Some(&[("x", "y")])),
            (&[GRPC], EMPTY, Some(&[(STATUS, "abc")])),
            (&[GRPC, (STATUS, "abc")], b"", None),
            (&[GRPC], b"", None),
            // Half a message, none, and what is called gRPC and is not.
            (&[GRPC], b"\0\0\0\0\x10abc", ok),
            (&[GRPC, (STATUS, "0")], b"", None),
            (&[GRPC], b"", ok),
            (&[GRPC], b"<html>log in</html>", ok),
        ] {
            let error = of(200, head, body, trailers).await.unwrap_err();
            assert!(matches!(error, Failure::Lost(_)), "{head:?} {body:?}: {error}");
            assert!(!error.to_string().contains("flag"), "{error}");
        }
        let page = of(200, &[("content-type", "text/html")], b"<html>log\n in", None).await;
        assert_eq!(
            page.unwrap_err().to_string(),
            "HTTP status 200 OK (text/html) that is not a gRPC response: <html>log\\n in"
        );
    }

    #[tokio::test]
    async fn a_status_that_a_server_sent_is_its_answer() {
        let head = of(200, &[GRPC, (STATUS, "3"), ("grpc-message", "no")], b"", None).await;
        let trailer = of(200, &[GRPC], b"", Some(&[(STATUS, "3"), ("grpc-message", "no")])).await;
        // Whatever else it answers.
        let garbage = of(
            200,
            &[GRPC],
            b"<html>",
            Some(&[(STATUS, "3"), ("grpc-message", "no")]),
        )
        .await;
        let proxy = of(503, &[GRPC, (STATUS, "3"), ("grpc-message", "no")], b"", None).await;
        let unnamed = of(200, &[(STATUS, "3"), ("grpc-message", "no")], b"", None).await;
        for answer in [head, trailer, garbage, proxy, unnamed] {
            let error = answer.unwrap_err();
            assert!(matches!(error, Failure::Refused(_)), "{error}");
            assert_eq!(error.to_string(), "gRPC status InvalidArgument: no");
        }
        for head in [&[GRPC][..], &[("content-type", "application/grpc+proto")], &[]] {
            let answer = of(200, head, EMPTY, Some(&[(STATUS, "0")])).await.unwrap();
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()[STATUS], "0");
            assert_eq!(&*body.to_bytes(), EMPTY);
        }
    }

    #[tokio::test]
    async fn an_answer_that_repeats_a_secret_is_shown_without_it() {
        let html = [("content-type", "text/html")];
        let page = of(502, &html, b"you sent authorization: Bearer hunter2", None).await;
        let status = of(
            200,
            &[GRPC, (STATUS, "16"), ("grpc-message", "bad hunter2")],
            b"",
            None,
        )
        .await;
        for error in [page.unwrap_err(), status.unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("REDACTED") && !text.contains("hunter2"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_status_counts_while_the_body_drips() {
        let drips = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Some((
                Ok::<_, BoxError>(hyper::body::Frame::data(Bytes::from_static(b"x"))),
                (),
            ))
        });
        let mut response = Response::new(http_body_util::StreamBody::new(Box::pin(drips)));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let began = Instant::now();
        let error = read(response, began, TIMEOUT, &Secrets::default())
            .await
            .unwrap_err();
        assert!(error.to_string().ends_with("in gRPC Unavailable: xxx"), "{error}");
        assert!(began.elapsed() < TIMEOUT);
    }
}
