//! Requests to the listener of the exporter `prometheus`: bytes of a connection, as they are.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use flowtap_exporters::prometheus::Config;
use flowtap_pipeline::{BuildContext, ExporterConfig, Output};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tower::{Service, ServiceExt};

/// The listener, with a snapshot to serve.
struct Served {
    runtime: Runtime,
    address: SocketAddr,
}

fn serve() -> Option<Served> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .ok()?
        .local_addr()
        .ok()?;
    let config = Config {
        endpoint: address,
        bearer_token: Some("t0ken".to_owned()),
        timeout: Duration::from_millis(200),
        ..Config::default()
    };
    let context = BuildContext::new("prometheus".parse().ok()?);
    let mut exporter = config.build(&context).ok()?;
    runtime.block_on(async {
        let mut service = exporter.start().await.ok()?;
        let snapshot = flowtap_fuzz::snapshot()?;
        service
            .ready()
            .await
            .ok()?
            .call(Output::Metrics(snapshot))
            .await
            .ok()
    })?;
    // It listens for as long as this process lives.
    std::mem::forget(exporter);
    Some(Served { runtime, address })
}

thread_local!(static SERVED: Option<Served> = serve());

fuzz_target!(|bytes: &[u8]| {
    SERVED.with(|served| {
        let Some(Served { runtime, address }) = served else {
            unreachable!("the config is valid, and its port free");
        };
        let response = runtime.block_on(async {
            let mut stream = TcpStream::connect(address).await.ok()?;
            // The listener may close before it has read everything.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut response = Vec::new();
            let _ = stream.read_to_end(&mut response).await;
            Some(response)
        });
        let response = response.unwrap_or_default();
        assert!(
            response.is_empty() || response.starts_with(b"HTTP/1."),
            "{:?}",
            String::from_utf8_lossy(&response[..response.len().min(100)])
        );
        let text = String::from_utf8_lossy(&response);
        let has_token = bytes
            .windows(5)
            .any(|window| window.eq_ignore_ascii_case(b"t0ken"));
        assert!(has_token || !text.contains("# TYPE"), "{text}");
    });
});
