//! Responses to the exporters that push. The first byte chooses exporter and protocol; over HTTP/1.1 the rest is what the peer sends, as it
//! is, and over gRPC it becomes a message, a status and its details, in valid frames.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use flowtap_exporters::{otlp, remote_write};
use flowtap_pipeline::{BuildContext, ExportService, Exporter, ExporterConfig, Output};
use http::{HeaderMap, HeaderValue, Response};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tower::{Service, ServiceExt};

/// Longer than any answer takes that comes at all.
const TIMEOUT: &str = "2s";

/// A config of each, for `endpoint`.
const TARGETS: [(&str, &str); 5] = [
    ("otlp", "protocol: grpc"),
    ("otlp", "protocol: http/protobuf"),
    ("otlp", "protocol: http/json"),
    ("remote_write", "protobuf_message: prometheus.WriteRequest"),
    ("remote_write", "protobuf_message: io.prometheus.write.v2.Request"),
];

/// An exporter at work, and the listener that it pushes to.
struct Target {
    listener: TcpListener,
    service: ExportService,
    _exporter: Box<dyn Exporter>,
}

fn config(kind: &str, keys: &str, address: SocketAddr) -> Option<Box<dyn ExporterConfig>> {
    let text = format!("endpoint: http://{address}\n{keys}\ntimeout: {TIMEOUT}\nretry: {{enabled: false}}\n");
    Some(match kind {
        "otlp" => {
            // A point 0 before another counts as one itself.
            let text = format!("{text}compression: none\nzero_points: false\n");
            Box::new(serde_saphyr::from_str::<otlp::Config>(&text).ok()?)
        }
        _ => Box::new(serde_saphyr::from_str::<remote_write::Config>(&text).ok()?),
    })
}

async fn target((kind, keys): (&str, &str)) -> Option<Target> {
    let listener = TcpListener::bind("127.0.0.1:0").await.ok()?;
    let config = config(kind, keys, listener.local_addr().ok()?)?;
    let context = BuildContext::new(kind.parse().ok()?);
    let mut exporter = config.build(&context).ok()?;
    let service = exporter.start().await.ok()?;
    Some(Target {
        listener,
        service,
        _exporter: exporter,
    })
}

fn start() -> Option<(Runtime, Vec<Target>)> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let targets = runtime.block_on(async {
        let mut targets = Vec::new();
        for of in TARGETS {
            targets.push(target(of).await?);
        }
        Some(targets)
    })?;
    Some((runtime, targets))
}

/// Answers the one request of `stream` with `bytes`, and closes.
async fn answer_http(mut stream: TcpStream, bytes: &[u8]) {
    let mut request = vec![0; 64 << 10];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    // Until the client closes, or nothing of the answer would be sure to arrive.
    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
}

/// Answers with a status, of which the details are `details`, and with `message` in the body.
async fn answer_grpc(stream: TcpStream, bytes: &[u8]) -> Option<()> {
    let ([flags, status, length], rest) = bytes.split_first_chunk::<3>()?;
    let (details, message) = rest.split_at(rest.len().min(usize::from(*length)));
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(request) = connection.accept().await {
        let (_, mut respond) = request.ok()?;
        let head = Response::builder().header("content-type", "application/grpc");
        let head = match flags >> 1 & 3 {
            1 => head.header("grpc-encoding", "gzip"),
            2 => head.header("grpc-encoding", "zstd"),
            _ => head,
        };
        let mut stream = respond.send_response(head.body(()).ok()?, false).ok()?;
        let mut framed = vec![flags & 1];
        framed.extend(u32::try_from(message.len()).ok()?.to_be_bytes());
        framed.extend(message);
        stream.send_data(Bytes::from(framed), false).ok()?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(u16::from(status % 18)));
        if let Ok(text) = HeaderValue::from_bytes(details) {
            trailers.insert("grpc-message", text.clone());
            trailers.insert("grpc-status-details-bin", text);
        }
        stream.send_trailers(trailers).ok()?;
        connection.graceful_shutdown();
    }
    Some(())
}

thread_local!(static WORLD: RefCell<Option<(Runtime, Vec<Target>)>> = RefCell::new(start()));

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    WORLD.with_borrow_mut(|world| {
        let Some((runtime, targets)) = world else {
            unreachable!("the configs are valid");
        };
        let index = usize::from(first) % TARGETS.len();
        let Target {
            listener, service, ..
        } = &mut targets[index];
        let snapshot = flowtap_fuzz::snapshot();
        let points = snapshot.as_ref().map_or(0, |snapshot| snapshot.points());
        let Some(snapshot) = snapshot else { return };
        runtime.block_on(async {
            let serving = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        return;
                    };
                    if index == 0 {
                        let _ = answer_grpc(stream, bytes).await;
                    } else {
                        answer_http(stream, bytes).await;
                    }
                }
            };
            let pushing = async {
                let service = service
                    .ready()
                    .await
                    .unwrap_or_else(|_| unreachable!("always ready"));
                service.call(Output::Metrics(snapshot)).await
            };
            let exporting = async {
                tokio::select! {
                    exported = pushing => Some(exported),
                    () = serving => None,
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(8), exporting).await;
            assert!(ended.is_ok(), "the exporter waits beyond its timeout");
            let Ok(Some(exported)) = ended else { return };
            if let Ok(exported) = exported {
                assert!(
                    exported.sent + exported.failed <= points as u64,
                    "{exported:?} of {points}"
                );
            }
        });
    });
});
