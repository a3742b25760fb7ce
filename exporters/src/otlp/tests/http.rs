//! Over HTTP: a server with scripted answers, in bytes.

use std::io::Read;

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request as it came.
struct Received {
    head: String,
    body: Vec<u8>,
}

/// Answers each connection's one request with the next of `answers`, then closes; nothing at all where that is empty.
async fn server(answers: Vec<&'static str>) -> (String, Arc<Mutex<Vec<Received>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let received: Arc<Mutex<Vec<Received>>> = Arc::default();
    let seen = Arc::clone(&received);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            seen.lock().unwrap().push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (endpoint, received)
}

async fn read_request(stream: &mut TcpStream) -> Received {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "a request");
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let length: usize = length.parse().unwrap();
    while bytes.len() < end + length {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "a body");
    }
    Received {
        head,
        body: bytes[end..].to_vec(),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn by_http(endpoint: &str, protocol: Protocol, compression: Compression) -> Config {
    Config {
        protocol: Some(protocol),
        compression: Some(compression),
        ..config(endpoint)
    }
}

#[tokio::test]
async fn protobuf_and_json_arrive_packed_or_not_at_the_path_of_metrics() {
    for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let (endpoint, received) = server(vec![OK]).await;
            let exported = export(by_http(&endpoint, protocol, compression), snapshot(42)).await;
            assert_eq!(exported, Exported { sent: 3, failed: 0 });
            let received = received.lock().unwrap();
            let Received { head, body } = &received[0];
            assert!(head.starts_with("post /v1/metrics http/1.1\r\n"), "{head}");
            let body = match compression {
                Compression::None => body.clone(),
                Compression::Gzip => {
                    assert!(head.contains("content-encoding: gzip"), "{head}");
                    let mut text = Vec::new();
                    flate2::read::GzDecoder::new(&**body)
                        .read_to_end(&mut text)
                        .unwrap();
                    text
                }
                Compression::Zstd => {
                    assert!(head.contains("content-encoding: zstd"), "{head}");
                    zstd::stream::decode_all(&**body).unwrap()
                }
            };
            if protocol == Protocol::HttpProtobuf {
                assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                let request = ExportMetricsServiceRequest::decode(&*body).unwrap();
                assert_eq!(first_total(&request), 42);
            } else {
                assert!(head.contains("content-type: application/json"), "{head}");
                // The Collector's reader refuses `null` for a field that is not set.
                let text = str::from_utf8(&body).unwrap();
                assert!(!text.contains("null"), "{text}");
                let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
                check_names(&json, "");
                let metric = &json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0];
                assert_eq!(metric["name"], "primus_lens_network_bytes");
                // The first has ended.
                let point = &metric["sum"]["dataPoints"][1];
                // 64-bit numbers are text in protobuf's JSON.
                assert_eq!(point["asInt"], "42", "{point}");
                assert_eq!(point["timeUnixNano"], "5000", "{point}");
                assert_eq!(
                    point["attributes"][0]["value"]["stringValue"], "192.0.2.7",
                    "{point}"
                );
            }
        }
    }
}

/// Checks every key against the names that protobuf's JSON gives the fields of OTLP's messages, and the form of its value: 64-bit
/// numbers are strings of digits, enums are numbers (OTLP specification, "JSON Protobuf Encoding").
fn check_names(value: &serde_json::Value, key: &str) {
    const MESSAGES: &[&str] = &[
        "resourceMetrics",
        "resource",
        "attributes",
        "value",
        "scopeMetrics",
        "scope",
        "metrics",
        "sum",
        "gauge",
        "histogram",
        "dataPoints",
    ];
    const STRINGS: &[&str] = &[
        "key",
        "stringValue",
        "name",
        "version",
        "description",
        "unit",
        "schemaUrl",
    ];
    const LONG: &[&str] = &[
        "intValue",
        "startTimeUnixNano",
        "timeUnixNano",
        "asInt",
        "count",
        "bucketCounts",
    ];
    const NUMBERS: &[&str] = &[
        "aggregationTemporality",
        "flags",
        "droppedAttributesCount",
        "asDouble",
        "doubleValue",
        "explicitBounds",
        "min",
        "max",
    ];
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                check_names(value, key);
            }
        }
        serde_json::Value::Array(values) => {
            for value in values {
                check_names(value, key);
            }
        }
        serde_json::Value::String(text) if LONG.contains(&key) => {
            assert!(text.parse::<u64>().is_ok(), "{key}: {text}");
        }
        serde_json::Value::String(_) => assert!(STRINGS.contains(&key), "{key}"),
        // The sum of a histogram is a number, that of a metric a message.
        serde_json::Value::Number(_) => assert!(NUMBERS.contains(&key) || key == "sum", "{key}"),
        serde_json::Value::Bool(_) => assert!(matches!(key, "isMonotonic" | "boolValue"), "{key}"),
        serde_json::Value::Null => panic!("{key} is null"),
    }
    if value.is_object() && !key.is_empty() {
        assert!(MESSAGES.contains(&key), "{key}");
    }
}

#[tokio::test]
async fn what_the_specification_lists_is_tried_again_and_nothing_else() {
    let cases: [(&str, bool); 11] = [
        (
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\nconnection: close\r\n\r\nbusy",
            true,
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>nginx</html>",
            true,
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"a\":1}",
            true,
        ),
        // Nothing at all, no HTTP, and an end in the middle of the answer.
        ("", true),
        ("SSH-2.0-OpenSSH_9.2\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", true),
        (
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwhat",
            false,
        ),
        (
            "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            false,
        ),
    ];
    for (answer, again) in cases {
        let (endpoint, received) = server(vec![answer, OK]).await;
        let exported = export(
            by_http(&endpoint, Protocol::HttpProtobuf, Compression::None),
            snapshot(1),
        )
        .await;
        let expected = if again { (3, 0, 2) } else { (0, 3, 1) };
        let attempts = received.lock().unwrap().len();
        assert_eq!((exported.sent, exported.failed, attempts), expected, "{answer}");
    }
}

#[tokio::test]
async fn a_success_that_is_no_answer_of_otlp_is_retried() {
    const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
    const JSON: &str = "content-type: application/json\r\n";
    // A sender of pages for browsers, of a greeting or of an error is not a collector. The one after it is.
    let others = [
        ("content-type: text/html; charset=utf-8\r\n", "<html>login</html>"),
        ("content-type: TEXT/HTML\r\n", ""),
        ("content-type: text/plain\r\n", "welcome to nginx"),
        // Protobuf with unknown fields, by chance.
        ("content-type: text/plain\r\n", "Hi"),
        ("content-type: text/plain\r\n", "0\n"),
        ("", "Hi"),
        (PROTOBUF, "Hi"),
        (JSON, "Hi"),
        ("content-type: application/octet-stream\r\n", "\u{7f}\u{7f}\u{7f}"),
        ("", "<html>login</html>"),
        (PROTOBUF, "<html>login</html>"),
        (PROTOBUF, "\u{7f}\u{7f}\u{7f}\u{7f}"),
        (JSON, "<html>login</html>"),
        (JSON, "{\"error\":\"login required\",\"code\":401}"),
        (JSON, "[]"),
        (JSON, "null"),
        ("content-type: application/problem+json\r\n", "{\"title\":\"no\"}"),
        ("", "{\"error\":\"no\"}"),
    ];
    for (content_type, body) in others {
        let length = body.len();
        let other = format!(
            "HTTP/1.1 200 OK\r\n{content_type}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .leak();
        for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
            let (endpoint, received) = server(vec![other, other, OK]).await;
            let config = by_http(&endpoint, protocol, Compression::None);
            let exported = export(config, snapshot(1)).await;
            assert_eq!(exported, Exported { sent: 3, failed: 0 }, "{other}");
            assert_eq!(received.lock().unwrap().len(), 3, "{other}");
        }
    }
}

#[tokio::test]
async fn a_success_that_is_empty_or_of_otlp_is_a_success() {
    for content_type in [
        "",
        "content-type: application/x-protobuf\r\n",
        "content-type: application/json\r\n",
    ] {
        for body in [
            "",
            "{}",
            "{\"partialSuccess\":{}}",
            "{\"partialSuccess\":null,\"x\":1}",
        ] {
            for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\n{content_type}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let (endpoint, received) = server(vec![answer.clone().leak()]).await;
                let config = by_http(&endpoint, protocol, Compression::None);
                let exported = export(config, snapshot(1)).await;
                assert_eq!(exported, Exported { sent: 3, failed: 0 }, "{answer}");
                assert_eq!(received.lock().unwrap().len(), 1, "{answer}");
            }
        }
    }
    let (endpoint, _) = server(vec!["HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"]).await;
    let config = by_http(&endpoint, Protocol::HttpProtobuf, Compression::None);
    assert_eq!(export(config, snapshot(1)).await, Exported { sent: 3, failed: 0 });
}

/// A peer that answers every request with `head`, and then with `parts`, one every 300 ms.
async fn dripping(head: &'static str, parts: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let parts = parts.clone();
            tokio::spawn(async move {
                read_request(&mut stream).await;
                stream.write_all(head.as_bytes()).await.unwrap();
                for part in parts {
                    // The other end may have closed the connection.
                    let _ = stream.write_all(&part).await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            });
        }
    });
    endpoint
}

#[tokio::test]
async fn the_status_of_an_error_counts_although_its_text_takes_longer_than_the_timeout() {
    let drips = vec![b"x".to_vec(); 20];
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n";
    let config = Config {
        timeout: Some(Duration::from_secs(2)),
        ..by_http(
            &dripping(head, drips).await,
            Protocol::HttpProtobuf,
            Compression::None,
        )
    };
    let began = std::time::Instant::now();
    let context = context();
    let mut service = OtlpExporter::new(config, &context)
        .unwrap()
        .start()
        .await
        .unwrap();
    let service = service.ready().await.unwrap();
    let exported = service.call(Output::from(snapshot(1))).await.unwrap();
    assert_eq!(exported, Exported { sent: 0, failed: 3 });
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let error = context.status.load()["exporters/test"].error.clone().unwrap();
    assert!(error.contains("HTTP status 400 Bad Request: xx"), "{error}");
}

#[tokio::test]
async fn a_secret_that_a_peer_repeats_is_in_no_error() {
    let answers = [
        "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\nauthorization=Bearer hunter2sEcReT",
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nyou sent hunter2sEcReT",
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\nyou sent hunter2sEcReT",
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\ncan't POST /?token=hunter2sEcReT",
    ];
    for answer in answers {
        let (endpoint, _) = server(vec![answer]).await;
        let config = Config {
            headers: [("authorization".to_owned(), "Bearer hunter2sEcReT".to_owned())].into(),
            retry: RetryConfig {
                enabled: false,
                ..RetryConfig::default()
            },
            ..by_http(
                &format!("{endpoint}/?token=hunter2sEcReT"),
                Protocol::HttpProtobuf,
                Compression::None,
            )
        };
        let context = context();
        let mut service = OtlpExporter::new(config, &context)
            .unwrap()
            .start()
            .await
            .unwrap();
        let service = service.ready().await.unwrap();
        let exported = service.call(Output::from(snapshot(1))).await.unwrap();
        assert_eq!(exported, Exported { sent: 0, failed: 3 });
        let error = context.status.load()["exporters/test"].error.clone().unwrap();
        assert!(
            error.contains("REDACTED") && !error.contains("hunter2"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn answers_are_asked_for_without_compression_and_read_in_gzip() {
    // partial_success { rejected_data_points: 2 }
    let packed = client::gzip(b"\n\x02\x08\x02").unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    );
    let endpoint = dripping(head.leak(), vec![packed.to_vec()]).await;
    let config = by_http(&endpoint, Protocol::HttpProtobuf, Compression::None);
    assert_eq!(export(config, snapshot(1)).await, Exported { sent: 1, failed: 2 });

    let (endpoint, received) = server(vec![OK]).await;
    export(
        by_http(&endpoint, Protocol::HttpProtobuf, Compression::None),
        snapshot(1),
    )
    .await;
    let received = received.lock().unwrap();
    assert!(
        received[0].head.contains("accept-encoding: identity\r\n"),
        "{}",
        received[0].head
    );
}

#[tokio::test]
async fn a_partial_success_is_counted_in_whichever_encoding_it_comes() {
    let json = "{\"partialSuccess\":{\"rejectedDataPoints\":\"2\",\"errorMessage\":\"too old\"}}";
    // partial_success { rejected_data_points: 2 }
    let protobuf = "\n\u{2}\u{8}\u{2}";
    for body in [json, protobuf] {
        for content_type in [
            "",
            "content-type: application/json\r\n",
            "Content-Type: application/x-protobuf\r\n",
            "content-type: application/json; charset=utf-8\r\n",
            "content-type: application/octet-stream\r\n",
        ] {
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{content_type}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            for protocol in [Protocol::HttpJson, Protocol::HttpProtobuf] {
                let (endpoint, received) = server(vec![answer.clone().leak()]).await;
                let config = by_http(&endpoint, protocol, Compression::None);
                let expected = Exported { sent: 1, failed: 2 };
                assert_eq!(
                    export(config, snapshot(1)).await,
                    expected,
                    "{answer} to {protocol:?}"
                );
                assert_eq!(received.lock().unwrap().len(), 1);
            }
        }
    }
}
