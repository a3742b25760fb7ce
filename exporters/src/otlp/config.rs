//! Config of the exporter `otlp`.

mod checks;
mod options;
mod resolved;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use flowtap_net::tls::ClientTls;
use flowtap_pipeline::schema::{DurationText, SizeText};
use flowtap_pipeline::{ComponentConfig, Contract, QueueConfig, Signal, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::options::{Compression, Protocol, Temporality};
pub(super) use self::resolved::Resolved;
use crate::naming;
use crate::push::proxy::Proxy;
pub use crate::push::retry::RetryConfig;
use crate::push::storage::StorageConfig;

/// Message of a build without zstd.
pub(super) const NO_ZSTD: &str =
    "this build can't compress with zstd; hint: write `gzip`, or build flowtap with the feature `zstd`";

/// When HTTP/2 pings are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepaliveConfig {
    /// Silence of a connection before a ping. Unset: half of `interval`, at least 10s: gRPC
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
    /// A proxy to connect through: `http://`, `https://` or `socks5://`, with credentials if required. Unset: `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case, which do not apply to addresses of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    /// TLS of `https://`. Unset files: `OTEL_EXPORTER_OTLP_CERTIFICATE`, `_CLIENT_CERTIFICATE`, `_CLIENT_KEY`.
    pub tls: ClientTls,
    /// Retries of failed requests.
    pub retry: RetryConfig,
    /// Queue of snapshots while a request is under way, and another one, as large, of batches of log records.
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
        self.validate_endpoints(&resolved, &mut faults);
        self.validate_times(&resolved, &mut faults);
        faults.extend(self.retry.validate());
        faults.extend(resolved.tls.validate());
        if resolved.compression == Compression::Zstd && cfg!(not(feature = "zstd")) {
            faults.push(Violation::new("compression", NO_ZSTD));
        }
        faults.extend(self.storage.iter().filter_map(StorageConfig::validate));
        let together = if self.zero_points { 2 } else { 1 };
        if self.max_points_per_request.get() < together {
            let message = "must be at least 2 with `zero_points`: a series' first point and the 0 before it go together";
            faults.push(Violation::new("max_points_per_request", message));
        }
        if self.max_request_bytes < 16 << 10 {
            faults.push(Violation::new("max_request_bytes", "must be at least 16384"));
        }
        resolved.validate_headers(&mut faults);
        faults
    }

    fn warnings(&self) -> Vec<Violation> {
        let mut warnings = Vec::new();
        let Ok(resolved) = self.resolved_with(&mut warnings) else {
            return warnings;
        };
        let is_tls = resolved.endpoint.is_tls() || resolved.logs_endpoint.is_tls();
        if self.tls != ClientTls::default() && !is_tls {
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
        let contract = self.storage.iter().fold(contract, |contract, storage| {
            contract.owns("storage.directory", &storage.directory)
        });
        match self.resolved() {
            Ok(resolved) => {
                let proxy = self.proxy_url.as_deref().and_then(Proxy::parse);
                let contract = contract.dials("endpoint", &resolved.endpoint);
                let contract = resolved
                    .separate_logs_endpoint()
                    .into_iter()
                    .fold(contract, |contract, logs| contract.dials("logs_endpoint", logs));
                proxy
                    .iter()
                    .fold(contract, |contract, proxy| contract.dials("proxy_url", proxy))
                    .reads(resolved.tls.files())
            }
            // `validate` reports it, and nothing is started.
            Err(_) => contract,
        }
    }
}

#[cfg(test)]
mod tests;
