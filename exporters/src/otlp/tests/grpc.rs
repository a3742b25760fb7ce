//! Over HTTP/2: a server with scripted answers, which need not be of gRPC.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use ::http::{HeaderMap, HeaderName, Response, StatusCode};
use bytes::Bytes;

/// An answer: status, content type, body, and `grpc-status` in trailers.
#[derive(Clone, Copy, Debug)]
struct Scripted(u16, Option<&'static str>, &'static [u8], Option<&'static str>);

const GRPC: Option<&str> = Some("application/grpc");
/// A message of no bytes, not compressed.
const EMPTY: &[u8] = &[0; 5];
const TAKEN: Scripted = Scripted(200, GRPC, EMPTY, Some("0"));

impl Scripted {
    fn send(self, mut respond: h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
        let Self(status, content_type, body, trailer) = self;
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if let Some(content_type) = content_type {
            let content_type = content_type.parse().unwrap();
            response.headers_mut().insert("content-type", content_type);
        }
        let mut stream = respond.send_response(response, false)?;
        stream.send_data(Bytes::from_static(body), trailer.is_none())?;
        match trailer {
            Some(status) => stream.send_trailers(HeaderMap::from_iter([(
                HeaderName::from_static("grpc-status"),
                status.parse().unwrap(),
            )])),
            None => Ok(()),
        }
    }
}

/// Answers the first two requests with `fault`, and takes all others. Counts all.
async fn server(fault: Scripted) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let counted = Arc::clone(&counted);
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                        }
                        let number = counted.fetch_add(1, Ordering::SeqCst);
                        let answer = if number < 2 { fault } else { TAKEN };
                        answer.send(respond).unwrap();
                    });
                }
            });
        }
    });
    (endpoint, requests)
}

#[tokio::test]
async fn what_no_grpc_server_answers_is_retried() {
    const HTML: Option<&str> = Some("text/html");
    const PAGE: &[u8] = b"<html>an error, or a login</html>";
    let statuses = [200, 302, 400, 401, 403, 404, 408, 429, 500, 502, 503, 504, 511];
    let mut faults: Vec<_> = statuses
        .iter()
        .map(|status| Scripted(*status, HTML, PAGE, None))
        .collect();
    faults.extend([
        Scripted(503, Some("text/plain"), b"no healthy upstream", None),
        Scripted(503, Some("application/json"), b"{\"a\":1}", None),
        Scripted(502, None, PAGE, None),
        Scripted(408, None, b"", None),
        Scripted(200, HTML, b"", None),
        Scripted(200, None, b"welcome", None),
        Scripted(200, Some("application/json"), b"{\"code\":5}", None),
        // Without a status, and without a message, or with half a one.
        Scripted(200, GRPC, EMPTY, None),
        Scripted(200, GRPC, EMPTY, Some("abc")),
        Scripted(200, GRPC, b"", Some("0")),
        Scripted(200, GRPC, b"\0\0\0\0\x10abc", Some("0")),
        Scripted(200, GRPC, b"\0\0\0\0\x03\xff\xff\xff", Some("0")),
    ]);
    for fault in faults {
        let (endpoint, requests) = server(fault).await;
        let exported = export(config(&endpoint), snapshot(1)).await;
        assert_eq!(exported, Exported { sent: 3, failed: 0 }, "{fault:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn a_status_that_a_server_sends_is_final_whatever_its_answer_is_otherwise() {
    for fault in [
        Scripted(200, GRPC, b"", Some("3")),
        Scripted(200, GRPC, b"<html>", Some("13")),
        Scripted(200, GRPC, b"", Some("99")),
    ] {
        let (endpoint, requests) = server(fault).await;
        let exported = export(config(&endpoint), snapshot(1)).await;
        assert_eq!(exported, Exported { sent: 0, failed: 3 }, "{fault:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn the_error_of_an_answer_that_is_no_grpc_has_its_status_and_text_without_secrets() {
    let page = Scripted(
        502,
        Some("text/html"),
        b"<h1>Bad\x1b Gateway</h1> for hunter2sEcReT",
        None,
    );
    let (endpoint, _) = server(page).await;
    let config = Config {
        headers: [("authorization".to_owned(), "Bearer hunter2sEcReT".to_owned())].into(),
        retry: RetryConfig {
            enabled: false,
            ..RetryConfig::default()
        },
        ..config(&endpoint)
    };
    let context = context();
    let mut service = OtlpExporter::new(config, &context)
        .unwrap()
        .start()
        .await
        .unwrap();
    let service = service.ready().await.unwrap();
    service.call(Output::from(snapshot(1))).await.unwrap();
    let error = context.status.load()["exporters/test"].error.clone().unwrap();
    let expected = "HTTP status 502 Bad Gateway (text/html), in gRPC Unavailable: \
                    <h1>Bad\\u{1b} Gateway</h1> for REDACTED";
    assert!(error.ends_with(expected), "{error}");
}
