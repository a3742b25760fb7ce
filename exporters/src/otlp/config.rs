//! Config of the exporter `otlp`, and what the environment says where the config is silent.

use std::collections::BTreeMap;
use std::env;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use flowtap_pipeline::address;
use flowtap_pipeline::schema::{DurationText, SizeText};
use flowtap_pipeline::{ComponentConfig, Contract, QueueConfig, Signal, Violation};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::naming;
use crate::push::connect::{Dial, Proxy};
use crate::push::endpoint::{Endpoint, EndpointError};
pub use crate::push::retry::RetryConfig;
use crate::push::storage::StorageConfig;
use flowtap_net::tls::ClientTls;

/// Where the metrics of a collector's base address are (OTLP specification, "OTLP/HTTP Request").
const METRICS_PATH: &str = "/v1/metrics";

/// The same of log records.
const LOGS_PATH: &str = "/v1/logs";

/// Transport of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP/1.1.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    /// JSON over HTTP/1.1.
    #[serde(rename = "http/json")]
    HttpJson,
}

impl Protocol {
    fn from_variable(text: &str) -> Option<Self> {
        match text {
            "grpc" => Some(Self::Grpc),
            "http/protobuf" => Some(Self::HttpProtobuf),
            "http/json" => Some(Self::HttpJson),
            _ => None,
        }
    }

    /// Where a collector listens by default (OTLP specification, "Default Port").
    const fn default_port(self) -> u16 {
        match self {
            Self::Grpc => 4317,
            Self::HttpProtobuf | Self::HttpJson => 4318,
        }
    }

    /// Its name in a config.
    const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            Self::HttpJson => "http/json",
        }
    }
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    #[default]
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    fn from_variable(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Temporality of points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Temporality {
    /// Totals since the start of their series.
    #[default]
    Cumulative,
    /// Increase since the request before.
    Delta,
}

impl Temporality {
    /// flowtap has no up-down counters, so `lowmemory` is `delta` here.
    fn from_variable(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "cumulative" => Some(Self::Cumulative),
            "delta" | "lowmemory" => Some(Self::Delta),
            _ => None,
        }
    }
}

/// When HTTP/2 pings are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepaliveConfig {
    /// Silence of a connection before a ping. Unset: half of `interval`, and 10s at least: gRPC
    /// servers close a connection after more than two pings without a request in between.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub time: Option<Duration>,
    /// Maximum time to the response to a ping before the connection is closed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

impl Default for KeepaliveConfig {
    fn default() -> Self {
        Self {
            time: None,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Settings. Where a key is unset, the variables of the OpenTelemetry specification ("OTLP Exporter
/// Configuration") apply, those for metrics before those for all signals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector: `http://host:port`, `https://host:port` or `unix:///path/of/socket`. `host:port` is `http`, or `https` with port
    /// 443 or a key in `tls`; a host alone has the protocol's port. Over HTTP, `/v1/metrics` is appended to its path unless it ends so, and `/v1/logs` for log records. Unset: `OTEL_EXPORTER_OTLP_ENDPOINT`, or the protocol's port on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The full URL of the metrics over HTTP, used as it is, in place of `endpoint`. Unset: `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_endpoint: Option<String>,
    /// The full URL of log records over HTTP, used as it is. Unset: `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`, or `/v1/logs` in place of the
    /// `/v1/metrics` of metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs_endpoint: Option<String>,
    /// Transport of requests. Unset: `OTEL_EXPORTER_OTLP_PROTOCOL`, or `grpc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Interval at which snapshots are sent.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Headers of every request, beside those of `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: BTreeMap<String, String>,
    /// Compression of requests. Unset: `OTEL_EXPORTER_OTLP_COMPRESSION`, or `gzip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Maximum duration of an attempt. Unset: `OTEL_EXPORTER_OTLP_TIMEOUT` in milliseconds, or 10s.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub timeout: Option<Duration>,
    /// Maximum duration of connecting, over all addresses of a name together; each has an equal
    /// share, so that one that does not answer leaves time for the others. Unset: half of
    /// `timeout`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub connect_timeout: Option<Duration>,
    /// HTTP/2 pings, which find a connection that is dead. For `grpc`.
    pub keepalive: KeepaliveConfig,
    /// A proxy to connect through: `http://`, `https://` or `socks5://`, with its credentials if it wants any. Unset: `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case, which do not apply to addresses of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    /// TLS of `https://`. Unset files: `OTEL_EXPORTER_OTLP_CERTIFICATE`, `_CLIENT_CERTIFICATE`, `_CLIENT_KEY`.
    pub tls: ClientTls,
    /// Retries of failed requests.
    pub retry: RetryConfig,
    /// Queue of snapshots and batches of log records while a request is under way.
    pub sending_queue: QueueConfig,
    /// Requests wait on disk, and survive flowtap. Unset: in memory only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageConfig>,
    /// Temporality of points. Unset: `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`, or
    /// `cumulative`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporality: Option<Temporality>,
    /// Send a point 0 before the first point of a counter or histogram, so that `increase()` in a
    /// Prometheus counts its first value. Has no effect with `temporality: delta`.
    pub zero_points: bool,
    /// Prefix of every metric's name; may be empty.
    pub namespace: String,
    /// Points or log records per request; a snapshot or batch with more is split.
    pub max_points_per_request: NonZeroUsize,
    /// Maximum bytes of a request before compression; collectors reject more than 4 MiB over gRPC
    /// unless configured otherwise.
    #[serde(with = "flowtap_pipeline::size")]
    #[schemars(with = "SizeText")]
    pub max_request_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        const POINTS: NonZeroUsize = NonZeroUsize::new(8192).unwrap();
        Self {
            endpoint: None,
            metrics_endpoint: None,
            logs_endpoint: None,
            protocol: None,
            interval: Duration::from_secs(15),
            headers: BTreeMap::new(),
            compression: None,
            timeout: None,
            connect_timeout: None,
            keepalive: KeepaliveConfig::default(),
            proxy_url: None,
            tls: ClientTls::default(),
            retry: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
            storage: None,
            temporality: None,
            zero_points: true,
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
            max_points_per_request: POINTS,
            max_request_bytes: 4 << 20,
        }
    }
}

/// The config with what the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// With the path of metrics, over HTTP.
    pub(super) endpoint: Endpoint,
    /// Of log records.
    pub(super) logs_endpoint: Endpoint,
    pub(super) protocol: Protocol,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) compression: Compression,
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    /// Interval and timeout.
    pub(super) keepalive: (Duration, Duration),
    pub(super) proxy_url: Option<String>,
    pub(super) tls: ClientTls,
    pub(super) temporality: Temporality,
}

impl Resolved {
    /// The same for log records, whose path over HTTP is another.
    pub(super) fn dial_logs(&self) -> Dial {
        Dial {
            endpoint: self.logs_endpoint.clone(),
            ..self.dial()
        }
    }

    /// Connection settings. Uses a proxy of the environment if the config has none.
    pub(super) fn dial(&self) -> Dial {
        Dial {
            endpoint: self.endpoint.clone(),
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout,
            user_timeout: self.timeout,
            proxy: match &self.proxy_url {
                Some(url) => Proxy::parse(url),
                None => Proxy::from_environment(&self.endpoint),
            },
            http2: self.protocol == Protocol::Grpc,
        }
    }
}

impl Config {
    /// With the environment of this process.
    pub(super) fn resolved(&self) -> Result<Resolved, Violation> {
        self.resolve(&of_process, &mut Vec::new())
    }

    /// With `variable`, whose empty values count as unset. One that can't be read is ignored, and is in `ignored` with what is used
    /// instead (OpenTelemetry specification, "Environment Variable Specification").
    fn resolve(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
        ignored: &mut Vec<Violation>,
    ) -> Result<Resolved, Violation> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = |suffix: &str| {
            let both = ["OTEL_EXPORTER_OTLP_METRICS_", "OTEL_EXPORTER_OTLP_"];
            both.into_iter()
                .map(|prefix| format!("{prefix}{suffix}"))
                .find_map(|name| given(&name).map(|value| (name, value)))
        };
        let mut ignore = |key: &str, (name, value): (&str, &str), expected: &str, used: &str| {
            let message = format!("{name} is ignored, {used} is used: expected {expected}, found `{value}`");
            ignored.push(Violation::new(key, message));
        };
        let protocol = self.protocol.or_else(|| {
            let (name, value) = named("PROTOCOL")?;
            let protocol = Protocol::from_variable(&value);
            if protocol.is_none() {
                let used = format!("`{}`", Protocol::default().name());
                ignore(
                    "protocol",
                    (&name, &value),
                    "`grpc`, `http/protobuf` or `http/json`",
                    &used,
                );
            }
            protocol
        });
        let compression = self.compression.or_else(|| {
            let (name, value) = named("COMPRESSION")?;
            let compression = Compression::from_variable(&value);
            if compression.is_none() {
                ignore(
                    "compression",
                    (&name, &value),
                    "`none`, `gzip` or `zstd`",
                    "`gzip`",
                );
            }
            compression
        });
        let timeout = self.timeout.or_else(|| {
            let (name, value) = named("TIMEOUT")?;
            let timeout = value.parse().ok().filter(|&millis| millis > 0);
            if timeout.is_none() {
                ignore("timeout", (&name, &value), "milliseconds", "10s");
            }
            timeout.map(Duration::from_millis)
        });
        let temporality = self.temporality.or_else(|| {
            let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
            let value = given(name)?;
            let temporality = Temporality::from_variable(&value);
            if temporality.is_none() {
                let expected = "`cumulative`, `delta` or `lowmemory`";
                ignore("temporality", (name, &value), expected, "`cumulative`");
            }
            temporality
        });
        let mut headers = BTreeMap::new();
        if let Some((name, value)) = named("HEADERS") {
            if let Some(parsed) = parse_headers(&value) {
                headers = parsed;
            } else {
                let expected = "`name=value` pairs, separated by commas";
                ignore("headers", (&name, "[redacted]"), expected, "no header");
            }
        }
        headers.extend(self.headers.clone());
        let file = |own: &Option<PathBuf>, suffix| own.clone().or_else(|| Some(named(suffix)?.1.into()));
        let tls = ClientTls {
            ca_file: file(&self.tls.ca_file, "CERTIFICATE"),
            cert_file: file(&self.tls.cert_file, "CLIENT_CERTIFICATE"),
            key_file: file(&self.tls.key_file, "CLIENT_KEY"),
            server_name: self.tls.server_name.clone(),
        };
        let protocol = protocol.unwrap_or_default();
        let endpoint = self.endpoint_of(protocol, &given, !headers.is_empty())?;
        let logs_endpoint = self.logs_endpoint_of(protocol, &endpoint, &given)?;
        let timeout = timeout.unwrap_or(Duration::from_secs(10));
        Ok(Resolved {
            endpoint,
            logs_endpoint,
            protocol,
            headers,
            compression: compression.unwrap_or_default(),
            timeout,
            connect_timeout: self.connect_timeout.unwrap_or(timeout / 2),
            keepalive: (
                self.keepalive
                    .time
                    .unwrap_or((self.interval / 2).max(Duration::from_secs(10))),
                self.keepalive.timeout,
            ),
            proxy_url: self.proxy_url.clone(),
            tls,
            temporality: temporality.unwrap_or_default(),
        })
    }

    /// The endpoint of log records, if that of metrics is `metrics`.
    fn logs_endpoint_of(
        &self,
        protocol: Protocol,
        metrics: &Endpoint,
        given: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Endpoint, Violation> {
        if protocol == Protocol::Grpc {
            return Ok(metrics.clone());
        }
        let variable = || given("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT");
        // The environment is for what the config leaves open.
        let is_open = self.endpoint.is_none() && self.metrics_endpoint.is_none();
        let full = self.logs_endpoint.clone();
        match full.or_else(|| variable().filter(|_| is_open)) {
            Some(url) => {
                let url =
                    address::with_scheme(&url, protocol.default_port(), self.tls != ClientTls::default());
                Endpoint::parse(&url).map_err(|error| Violation::new("logs_endpoint", error.to_string()))
            }
            None => Ok(metrics.beside(METRICS_PATH, LOGS_PATH)),
        }
    }

    /// The endpoint, or the fault of the key or the variable that it comes from.
    fn endpoint_of(
        &self,
        protocol: Protocol,
        given: &dyn Fn(&str) -> Option<String>,
        has_headers: bool,
    ) -> Result<Endpoint, Violation> {
        let variable = |name: &'static str| given(name).map(|value| (name, value));
        let own = |key, value: &Option<String>| value.clone().map(|value| (key, value));
        // The first that is set counts; those of metrics are used as they are.
        let full = own("metrics_endpoint", &self.metrics_endpoint);
        let base = own("endpoint", &self.endpoint);
        let (full, base) = match (full, base) {
            (Some(full), _) => (Some(full), None),
            (None, Some(base)) => (None, Some(base)),
            (None, None) => (
                variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
                variable("OTEL_EXPORTER_OTLP_ENDPOINT"),
            ),
        };
        let is_full = full.is_some();
        let default = || ("endpoint", "127.0.0.1".to_owned());
        let (origin, text) = full.or(base).unwrap_or_else(default);
        let fault = |message: &str| match origin {
            "endpoint" | "metrics_endpoint" => Violation::new(origin, message),
            variable => Violation::new("endpoint", format!("{variable}: {message}")),
        };
        let url = address::with_scheme(&text, protocol.default_port(), self.tls != ClientTls::default());
        let endpoint = Endpoint::parse(&url).map_err(|error| {
            let hint = match &error {
                EndpointError::UserInfo => {
                    "; hint: put them into `headers`, such as `Authorization: Basic …`"
                }
                EndpointError::Invalid { .. } => "",
            };
            fault(&format!("{error}{hint}"))
        })?;
        if has_headers && endpoint.is_exposed() && !text.contains("://") {
            return Err(fault(&format!(
                "no scheme, and `headers` may be secret; hint: write `https://{text}`, or `http://{text}` to send them unencrypted"
            )));
        }
        Ok(if protocol == Protocol::Grpc || is_full {
            endpoint
        } else {
            endpoint.below(METRICS_PATH)
        })
    }
}

fn of_process(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// `name=value,name=value`, with values encoded as in a URL (W3C Baggage, without properties).
fn parse_headers(text: &str) -> Option<BTreeMap<String, String>> {
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value.trim())
                .decode_utf8()
                .ok()?;
            Some((name.trim().to_owned(), value.into_owned()))
        })
        .collect()
}

impl ComponentConfig for Config {
    fn validate(&self) -> Vec<Violation> {
        let mut faults: Vec<_> = naming::validate(&self.namespace).into_iter().collect();
        let resolved = match self.resolved() {
            Ok(resolved) => resolved,
            Err(fault) => {
                faults.push(fault);
                // So that the other keys are checked although the endpoint is wrong.
                let rest = Self {
                    endpoint: Some("http://127.0.0.1".to_owned()),
                    metrics_endpoint: None,
                    logs_endpoint: None,
                    ..self.clone()
                };
                let Ok(resolved) = rest.resolved() else {
                    return faults;
                };
                resolved
            }
        };
        if self.metrics_endpoint.is_some() && resolved.protocol == Protocol::Grpc {
            let message = "is only for HTTP; hint: use `endpoint` with `protocol: grpc`";
            faults.push(Violation::new("metrics_endpoint", message));
        }
        if self.logs_endpoint.is_some() && resolved.protocol == Protocol::Grpc {
            let message = "is only for HTTP; hint: use `endpoint` with `protocol: grpc`";
            faults.push(Violation::new("logs_endpoint", message));
        }
        if let Some(url) = &self.proxy_url
            && Proxy::parse(url).is_none()
        {
            let message =
                "invalid proxy: expected `http://host:port`, `https://host:port` or `socks5://host:port`";
            faults.push(Violation::new("proxy_url", message));
        }
        if resolved.connect_timeout > resolved.timeout {
            faults.push(Violation::new(
                "connect_timeout",
                "must not be longer than `timeout`",
            ));
        }
        for (key, duration) in [
            ("interval", self.interval),
            ("timeout", resolved.timeout),
            ("connect_timeout", self.connect_timeout.unwrap_or(Duration::MAX)),
            ("keepalive.time", resolved.keepalive.0),
            ("keepalive.timeout", resolved.keepalive.1),
        ] {
            if duration.is_zero() {
                faults.push(Violation::new(key, "must be longer than 0s"));
            }
        }
        faults.extend(self.retry.validate());
        faults.extend(resolved.tls.validate());
        faults.extend(self.storage.iter().filter_map(StorageConfig::validate));
        let together = if self.zero_points { 2 } else { 1 };
        if self.max_points_per_request.get() < together {
            let message = "must be at least 2 with `zero_points`: a series' first point and the 0 before it go together";
            faults.push(Violation::new("max_points_per_request", message));
        }
        if self.max_request_bytes < 16 << 10 {
            faults.push(Violation::new("max_request_bytes", "must be at least 16384"));
        }
        for (name, value) in &resolved.headers {
            let valid = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).is_ok()
                && HeaderValue::from_str(value).is_ok();
            if !valid {
                let path = vec!["headers".to_owned(), name.clone()];
                faults.push(Violation {
                    path,
                    message: "is not a valid header: printable ASCII only".to_owned(),
                });
            }
        }
        faults
    }

    fn warnings(&self) -> Vec<Violation> {
        let mut warnings = Vec::new();
        let Ok(resolved) = self.resolve(&of_process, &mut warnings) else {
            return warnings;
        };
        if self.tls != ClientTls::default() && !resolved.endpoint.is_tls() {
            warnings.push(Violation::new(
                "tls",
                "has no effect with an endpoint `http://`; hint: write `https://`, or remove it",
            ));
        }
        if self.keepalive != KeepaliveConfig::default() && resolved.protocol != Protocol::Grpc {
            warnings.push(Violation::new(
                "keepalive",
                "has an effect with `protocol: grpc` only; hint: remove it",
            ));
        }
        warnings
    }

    fn contract(&self) -> Contract {
        let contract = Contract::default()
            .takes([Signal::Metrics, Signal::Logs])
            .writes(self.storage.iter().map(|storage| &storage.directory));
        match self.resolved() {
            Ok(resolved) => contract
                .dials("endpoint", &resolved.endpoint)
                .reads(resolved.tls.files()),
            // `validate` reports it, and nothing is started.
            Err(_) => contract,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_at_once() {
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
}
