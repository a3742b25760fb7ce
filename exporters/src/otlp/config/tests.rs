//! Tests of the config and of the environment's part in it.

use super::*;
use crate::push::endpoint::Endpoint;

#[test]
fn every_fault_is_reported_at_once() {
    let config = Config {
        endpoint: Some("ftp://collector".to_owned()),
        timeout: Some(Duration::ZERO),
        namespace: "9".to_owned(),
        headers: BTreeMap::from([("bad name".to_owned(), "x".to_owned())]),
        tls: ClientTls {
            cert_file: Some("client.crt".into()),
            ..ClientTls::default()
        },
        ..Config::default()
    };
    let keys: Vec<_> = config
        .validate()
        .into_iter()
        .map(|fault| fault.path.join("."))
        .collect();
    assert_eq!(
        keys,
        ["namespace", "endpoint", "timeout", "tls", "headers.bad name"]
    );
}

fn resolved(config: &Config, variables: &[(&str, &str)]) -> Result<Resolved, Violation> {
    resolved_with(config, variables, &mut Vec::new())
}

fn resolved_with(
    config: &Config,
    variables: &[(&str, &str)],
    ignored: &mut Vec<Violation>,
) -> Result<Resolved, Violation> {
    let variable = |name: &str| {
        let variable = variables.iter().find(|(key, _)| *key == name);
        variable.map(|(_, value)| (*value).to_owned())
    };
    config.resolve(&variable, ignored)
}

#[test]
fn an_endpoint_needs_no_scheme_unless_headers_would_be_sent_unencrypted() {
    let config = |endpoint: &str, protocol, ca: Option<&str>| Config {
        endpoint: Some(endpoint.to_owned()),
        protocol: Some(protocol),
        tls: ClientTls {
            ca_file: ca.map(Into::into),
            ..ClientTls::default()
        },
        ..Config::default()
    };
    for (endpoint, protocol, ca, expected) in [
        ("collector:5", Protocol::Grpc, None, "http://collector:5"),
        ("collector", Protocol::Grpc, None, "http://collector:4317"),
        (
            "collector",
            Protocol::HttpJson,
            None,
            "http://collector:4318/v1/metrics",
        ),
        ("collector:443", Protocol::Grpc, None, "https://collector:443"),
        (
            "collector:5",
            Protocol::Grpc,
            Some("/ca.pem"),
            "https://collector:5",
        ),
        ("http://collector", Protocol::Grpc, None, "http://collector"),
    ] {
        let resolved = resolved(&config(endpoint, protocol, ca), &[]).unwrap();
        assert_eq!(resolved.endpoint.to_string(), expected, "{endpoint}");
    }
    let with_key = |endpoint: &str| Config {
        headers: BTreeMap::from([("api-key".to_owned(), "hunter2".to_owned())]),
        ..config(endpoint, Protocol::Grpc, None)
    };
    for endpoint in [
        "collector:443",
        "localhost:4317",
        "127.0.0.1",
        "http://collector",
        "[::1]:1",
    ] {
        assert!(resolved(&with_key(endpoint), &[]).is_ok(), "{endpoint}");
    }
    let fault = resolved(&with_key("collector:4317"), &[]).unwrap_err();
    assert!(
        fault.message.contains("hint: write `https://collector:4317`"),
        "{fault:?}"
    );
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2"),
    ];
    let fault = resolved(&Config::default(), &variables).unwrap_err();
    assert!(
        fault.message.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "),
        "{fault:?}"
    );
}

#[test]
fn the_environment_speaks_where_the_config_is_silent_and_metrics_before_all_signals() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318/"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-key=a%20b, authorization=Bearer%20t",
        ),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/client.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/client.key"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory"),
    ];
    let resolved_config = resolved(&Config::default(), &variables).unwrap();
    let text = |value: &str| value.to_owned();
    let expected = Resolved {
        endpoint: Endpoint::parse("https://collector:4318/v1/metrics").unwrap(),
        logs_endpoint: Endpoint::parse("https://collector:4318/v1/logs").unwrap(),
        protocol: Protocol::HttpJson,
        headers: [
            (text("x-key"), text("a b")),
            (text("authorization"), text("Bearer t")),
        ]
        .into(),
        compression: Compression::Zstd,
        timeout: Duration::from_millis(2500),
        connect_timeout: Duration::from_millis(1250),
        keepalive: (Duration::from_secs(10), Duration::from_secs(10)),
        proxy_url: None,
        tls: ClientTls {
            ca_file: Some("/ca.pem".into()),
            cert_file: Some("/client.pem".into()),
            key_file: Some("/client.key".into()),
            server_name: None,
        },
        temporality: Temporality::Delta,
    };
    assert_eq!(resolved_config, expected);
    let logs = Config {
        protocol: Some(Protocol::HttpProtobuf),
        metrics_endpoint: Some("http://collector/m".to_owned()),
        logs_endpoint: Some("http://collector/l".to_owned()),
        ..Config::default()
    };
    let logs = resolved(&logs, &variables).unwrap().logs_endpoint;
    assert_eq!(logs, Endpoint::parse("http://collector/l").unwrap());

    let own = Config {
        endpoint: Some(text("http://other:4317")),
        protocol: Some(Protocol::Grpc),
        compression: Some(Compression::None),
        ..Config::default()
    };
    let resolved_config = resolved(&own, &variables).unwrap();
    assert_eq!(resolved_config.endpoint.uri().to_string(), "http://other:4317/");
    assert_eq!(
        (resolved_config.protocol, resolved_config.compression),
        (Protocol::Grpc, Compression::None)
    );
    // That of metrics is used as it is.
    let resolved_config = resolved(
        &Config::default(),
        &[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector/here"),
        ],
    );
    assert_eq!(
        resolved_config.unwrap().endpoint.to_string(),
        "http://collector/here"
    );
    // So is that key, which comes before any variable.
    let full = Config {
        metrics_endpoint: Some(text("http://collector/opentelemetry/push")),
        protocol: Some(Protocol::HttpProtobuf),
        ..Config::default()
    };
    let resolved_config = resolved(&full, &variables).unwrap();
    assert_eq!(
        resolved_config.endpoint.to_string(),
        "http://collector/opentelemetry/push"
    );
}

#[test]
fn credentials_in_an_endpoint_are_refused_with_the_key_or_the_variable_and_not_shown() {
    const SECRET: &str = "http://user:hunter2@collector:4317";
    let config = Config {
        endpoint: Some(SECRET.to_owned()),
        ..Config::default()
    };
    let faults = config.validate();
    assert_eq!(faults[0].path, ["endpoint"]);
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", SECRET)];
    let of_variable = resolved(&Config::default(), &variables).unwrap_err();
    assert!(of_variable.message.contains("OTEL_EXPORTER_OTLP_ENDPOINT"));
    for fault in faults.iter().chain([&of_variable]) {
        assert!(
            fault.message.contains("hint: put them into `headers`"),
            "{fault:?}"
        );
        assert!(!fault.message.contains("hunter2"), "{fault:?}");
    }
}

#[test]
fn a_variable_that_cant_be_read_is_ignored_with_a_warning_that_shows_no_secret() {
    let mut ignored = Vec::new();
    let resolved = resolved_with(
        &Config::default(),
        &[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "snappy"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "x"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ],
        &mut ignored,
    );
    assert_eq!(
        resolved,
        Ok(Config::default().resolve(&|_| None, &mut Vec::new()).unwrap())
    );
    let messages: Vec<_> = ignored.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "OTEL_EXPORTER_OTLP_PROTOCOL is ignored, `grpc` is used: expected `grpc`, `http/protobuf` or `http/json`, found \
             `carrier-pigeon`",
            "OTEL_EXPORTER_OTLP_COMPRESSION is ignored, `gzip` is used: expected `none`, `gzip` or `zstd`, found `snappy`",
            "OTEL_EXPORTER_OTLP_TIMEOUT is ignored, 10s is used: expected milliseconds, found `10s`",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is ignored, `cumulative` is used: expected `cumulative`, `delta` \
             or `lowmemory`, found `x`",
            "OTEL_EXPORTER_OTLP_HEADERS is ignored, no header is used: expected `name=value` pairs, separated by commas, found \
             `[redacted]`",
        ]
    );
}
