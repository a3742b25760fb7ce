//! Tests of the exporter, over TCP.

use super::*;
use crate::testing::{certificate, context, many, snapshot};
use flowtap_net::tls::{ClientTls, ServerTls};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

async fn get_path(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_scrape_shows_the_newest_snapshot_and_before_the_first_what_the_target_is() {
    let config = Config {
        endpoint: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    };
    let mut exporter = PrometheusExporter::new(&config, &context()).unwrap();
    let mut service = exporter.start().await.unwrap();
    let address = exporter.address();

    let empty = get_path(address, "GET /metrics").await;
    assert!(
        empty.starts_with("HTTP/1.0 200")
            && empty.contains("target_info{host_name=\"node1\",service_instance_id=\"")
            && empty.contains(concat!(
                "flowtap_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1\n"
            )),
        "{empty}"
    );

    for total in [1, 42] {
        let exported = service
            .ready()
            .await
            .unwrap()
            .call(flowtap_pipeline::Output::from(snapshot(total)))
            .await
            .unwrap();
        assert_eq!(exported, Exported { sent: 2, failed: 0 });
    }
    let full = get_path(address, "GET /metrics").await;
    assert!(full.contains("content-type: text/plain; version=0.0.4"), "{full}");
    assert!(
        full.contains("primus_lens_network_bytes{raddr=\"192.0.2.7\"} 42\n"),
        "{full}"
    );
    assert!(get_path(address, "GET /").await.contains("/metrics"));
    assert!(
        get_path(address, "GET /nothing")
            .await
            .starts_with("HTTP/1.0 404")
    );
    assert!(
        get_path(address, "POST /metrics")
            .await
            .starts_with("HTTP/1.0 405")
    );

    drop(service);
    exporter.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");
}

#[tokio::test]
async fn the_version_is_in_a_scrape_once_also_if_it_has_the_daemons_own_metrics() {
    let exporter = PrometheusExporter::new(&Config::default(), &context()).unwrap();
    let shown = || exporter.shared.exposition(Format::Text);
    let lines = |exposition: Exposition| {
        let bytes: Vec<u8> = exposition.flatten().collect();
        let text = String::from_utf8(bytes).unwrap();
        text.matches("\nflowtap_build_info{").count()
    };
    assert_eq!(lines(shown()), 1);
    exporter.shared.take(Arc::new(Snapshot {
        pipeline: "".into(),
        ..snapshot(1)
    }));
    assert_eq!(lines(shown()), 0);
}

/// An exporter of `config` at any port that shows `snapshot`; its service must live as long as it.
async fn serving(config: Config, snapshot: Snapshot) -> (PrometheusExporter, ExportService) {
    let config = Config {
        endpoint: "127.0.0.1:0".parse().unwrap(),
        ..config
    };
    let mut exporter = PrometheusExporter::new(&config, &context()).unwrap();
    let mut service = exporter.start().await.unwrap();
    service
        .ready()
        .await
        .unwrap()
        .call(flowtap_pipeline::Output::from(snapshot))
        .await
        .unwrap();
    (exporter, service)
}

fn unpacked(answer: &[u8]) -> String {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer[end + 4..]), &mut text).unwrap();
    text
}

#[tokio::test]
async fn a_scraper_gets_the_format_and_the_packing_that_it_asks_for() {
    let config = Config {
        target_info: false,
        ..Config::default()
    };
    let (exporter, _service) = serving(config, many(20_000)).await;
    let mut stream = TcpStream::connect(exporter.address()).await.unwrap();
    let request = "GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\
                   Accept-Encoding: gzip\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head = String::from_utf8_lossy(&answer[..400]).to_lowercase();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let text = unpacked(&answer);
    assert!(
        text.ends_with("} 19999\n# EOF\n"),
        "{}",
        &text[text.len() - 100..]
    );
    assert_eq!(text.lines().count(), 20_004);
    assert!(
        answer.len() * 5 < text.len(),
        "{} of {}",
        answer.len(),
        text.len()
    );
}

#[tokio::test]
async fn a_scraper_that_asks_for_protobuf_gets_it() {
    let config = Config {
        target_info: false,
        ..Config::default()
    };
    let (exporter, _service) = serving(config, many(1)).await;
    let mut stream = TcpStream::connect(exporter.address()).await.unwrap();
    let accept =
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    let request = format!("GET /metrics HTTP/1.0\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains(&format!("content-type: {accept}\r\n")),
        "{answer}"
    );
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    // A length, then field 1 of so many bytes.
    assert_eq!(
        body[1..].find("\u{a}\u{19}primus_lens_network_bytes"),
        Some(0),
        "{body}"
    );
}

#[tokio::test]
async fn a_scraper_without_the_password_is_asked_for_it() {
    let config = Config {
        basic_auth: Some(BasicAuth {
            username: "Aladdin".to_owned(),
            password: "open sesame".to_owned(),
        }),
        ..Config::default()
    };
    let (exporter, _service) = serving(config, snapshot(1)).await;
    let refused = get_path(exporter.address(), "GET /metrics").await;
    assert!(refused.starts_with("HTTP/1.0 401"), "{refused}");
    assert!(refused.contains("www-authenticate: Basic realm="), "{refused}");
    assert!(!refused.contains("192.0.2.7"), "{refused}");

    let mut stream = TcpStream::connect(exporter.address()).await.unwrap();
    let request = "GET /metrics HTTP/1.0\r\nAuthorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[test]
fn empty_passwords_and_tokens_are_refused() {
    use flowtap_pipeline::ComponentConfig;

    let auth = |username: &str, password: &str| {
        Some(BasicAuth {
            username: username.to_owned(),
            password: password.to_owned(),
        })
    };
    let keys = |config: Config| -> Vec<String> {
        let faults = config.validate();
        faults.iter().map(|fault| fault.path.join(".")).collect()
    };
    let with = |basic_auth, bearer_token: Option<&str>| Config {
        basic_auth,
        bearer_token: bearer_token.map(str::to_owned),
        ..Config::default()
    };
    assert_eq!(keys(with(auth("scraper", ""), None)), ["basic_auth.password"]);
    assert_eq!(
        keys(with(auth("", "x"), Some(" "))),
        ["basic_auth.username", "bearer_token"]
    );
    assert!(keys(with(auth("scraper", "x"), Some("t0ken"))).is_empty());
}

/// Whether a scrape over TLS succeeds, trusting `ca`.
async fn scraped(address: SocketAddr, tls: &ClientTls) -> Result<String, std::io::Error> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.client_config().unwrap()));
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn over_tls_clients_can_be_asked_for_certificates_and_a_new_certificate_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = (folder.path().join("server"), folder.path().join("client"));
    certificate(&server, "localhost");
    certificate(&client, "scraper");
    let tls = ServerTls {
        cert_file: server.with_extension("crt"),
        key_file: server.with_extension("key"),
        client_ca_file: Some(client.with_extension("crt")),
    };
    let config = Config {
        tls: Some(tls),
        ..Config::default()
    };
    let (exporter, _service) = serving(config, snapshot(7)).await;
    let trusting = |certificate: bool| ClientTls {
        ca_file: Some(server.with_extension("crt")),
        cert_file: certificate.then(|| client.with_extension("crt")),
        key_file: certificate.then(|| client.with_extension("key")),
        server_name: None,
    };
    let answer = scraped(exporter.address(), &trusting(true)).await.unwrap();
    assert!(
        answer.contains("network_bytes{raddr=\"192.0.2.7\"} 7\n"),
        "{answer}"
    );
    assert!(scraped(exporter.address(), &trusting(false)).await.is_err());

    // A new certificate: a client that trusts only that one is served once it has been read.
    certificate(&server, "localhost");
    while scraped(exporter.address(), &trusting(true)).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_key_that_can_not_be_read_is_named() {
    let tls = ServerTls {
        cert_file: "/nowhere/server.crt".into(),
        ..ServerTls::default()
    };
    let config = Config {
        tls: Some(tls),
        ..Config::default()
    };
    let error = PrometheusExporter::new(&config, &context())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/nowhere/server.crt"), "{error}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = taken.local_addr().unwrap();
    let mut exporter = PrometheusExporter::new(
        &Config {
            endpoint,
            ..Config::default()
        },
        &context(),
    )
    .unwrap();
    let error = exporter.start().await.err().unwrap().to_string();
    assert!(error.contains(&endpoint.to_string()), "{error}");
}
