//! Over TLS, to a collector that wants a client's certificate.

use super::*;
use crate::testing::certificate;
use flowtap_net::tls::{ClientTls, ListenerTls, ServerTls};
use std::path::Path;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// A collector with TLS, over gRPC, that trusts the certificate in `folder`.
async fn serve_tls(collector: &Collector, folder: &Path) -> String {
    certificate(&folder.join("server"), "localhost");
    certificate(&folder.join("client"), "flowtap");
    let tls = ListenerTls::new(&ServerTls {
        cert_file: folder.join("server.crt"),
        key_file: folder.join("server.key"),
        client_ca_file: Some(folder.join("client.crt")),
    })
    .unwrap();
    let mut config = rustls::ServerConfig::clone(&tls.config());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = serve(collector).await.replace("http://", "");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut plain = TcpStream::connect(&behind).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut stream, &mut plain).await });
            }
        }
    });
    format!("https://127.0.0.1:{port}")
}

#[tokio::test]
async fn with_its_certificate_it_is_let_in_and_without_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::default();
    let endpoint = serve_tls(&collector, folder.path()).await;
    let with = |own: bool, ca: &str| Config {
        tls: ClientTls {
            ca_file: Some(folder.path().join(ca)),
            cert_file: own.then(|| folder.path().join("client.crt")),
            key_file: own.then(|| folder.path().join("client.key")),
            server_name: Some("localhost".to_owned()),
        },
        retry: RetryConfig {
            enabled: false,
            ..RetryConfig::default()
        },
        ..config(&endpoint)
    };
    assert_eq!(
        export(with(true, "server.crt"), snapshot(42)).await,
        Exported { sent: 3, failed: 0 }
    );
    assert_eq!(first_total(&collector.received.lock().unwrap()[0]), 42);
    // No certificate; then one of a peer that is not trusted.
    assert_eq!(export(with(false, "server.crt"), snapshot(1)).await.failed, 3);
    assert_eq!(export(with(true, "client.crt"), snapshot(1)).await.failed, 3);
    assert_eq!(collector.received.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_alert_of_a_collector_that_wants_a_certificate_is_the_cause_that_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = serve_tls(&Collector::default(), folder.path()).await;
    // The client of HTTP/2 finds the connection gone before or after it has read the alert.
    for _ in 0..20 {
        let config = Config {
            tls: ClientTls {
                ca_file: Some(folder.path().join("server.crt")),
                server_name: Some("localhost".to_owned()),
                ..ClientTls::default()
            },
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
        let ready = service.ready().await.unwrap();
        assert_eq!(ready.call(Output::from(snapshot(1))).await.unwrap().failed, 3);
        let shown = context.status.load()["exporters/test"].error.clone().unwrap();
        assert!(
            shown.contains("received fatal alert: CertificateRequired"),
            "{shown}"
        );
    }
}

#[test]
fn a_file_that_is_missing_is_named_before_anything_starts() {
    let config = Config {
        tls: ClientTls {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..ClientTls::default()
        },
        ..Config::default()
    };
    let error = OtlpExporter::new(config, &context()).err().unwrap().to_string();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
}
