//! Config of the exporter `otlp`, and what the environment says where the config is silent.

use std::collections::BTreeMap;
use std::env;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;
use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Exporter, ExporterConfig, Factory, Fault, QueueConfig,
};
use http::{HeaderName, HeaderValue, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OtlpExporter;
use crate::naming;
pub use crate::push::retry::RetryConfig;
use crate::push::storage::StorageConfig;
use crate::tls::ClientTls;

/// Where the metrics of a collector's base address are (OTLP specification, "OTLP/HTTP Request").
const METRICS_PATH: &str = "/v1/metrics";

/// How requests travel.
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
    const fn default_endpoint(self) -> &'static str {
        match self {
            Self::Grpc => "http://127.0.0.1:4317",
            Self::HttpProtobuf | Self::HttpJson => "http://127.0.0.1:4318",
        }
    }
}

/// How requests are packed.
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

/// What points tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Temporality {
    /// Totals since the start of their series.
    #[default]
    Cumulative,
    /// What has come since the request before.
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

/// What can be set. Where a key is unset, the variables of the OpenTelemetry specification ("OTLP Exporter Configuration")
/// have their say, those for metrics before those for all signals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector, `http://host:port` or `https://host:port`; by HTTP, `/v1/metrics` is added to what has no path. Unset:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, or the protocol's port on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How requests travel. Unset: `OTEL_EXPORTER_OTLP_PROTOCOL`, or `grpc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How often a snapshot is sent.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Headers of every request, beside those of `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: BTreeMap<String, String>,
    /// How requests are packed. Unset: `OTEL_EXPORTER_OTLP_COMPRESSION`, or `gzip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// How long an attempt may take. Unset: `OTEL_EXPORTER_OTLP_TIMEOUT` in milliseconds, or 10s.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub timeout: Option<Duration>,
    /// TLS of `https://`. Unset files: `OTEL_EXPORTER_OTLP_CERTIFICATE`, `_CLIENT_CERTIFICATE`, `_CLIENT_KEY`.
    pub tls: ClientTls,
    /// How a failed request is tried again.
    pub retry: RetryConfig,
    /// What may wait while a request is under way.
    pub sending_queue: QueueConfig,
    /// Requests wait on disk, and survive flowtap. Unset: in memory only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageConfig>,
    /// What points tell. Unset: `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`, or `cumulative`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporality: Option<Temporality>,
    /// What every metric's name begins with; may be empty.
    pub namespace: String,
    /// Points per request; a snapshot with more is split.
    pub max_points_per_request: NonZeroUsize,
    /// Bytes per request before packing; collectors refuse more than 4 MiB by gRPC unless told otherwise.
    pub max_request_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        const POINTS: NonZeroUsize = NonZeroUsize::new(8192).unwrap();
        Self {
            endpoint: None,
            protocol: None,
            interval: Duration::from_secs(15),
            headers: BTreeMap::new(),
            compression: None,
            timeout: None,
            tls: ClientTls::default(),
            retry: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
            storage: None,
            temporality: None,
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
            max_points_per_request: POINTS,
            max_request_bytes: 4 << 20,
        }
    }
}

/// The config with what the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// With the path, by HTTP.
    pub(super) endpoint: String,
    pub(super) protocol: Protocol,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) compression: Compression,
    pub(super) timeout: Duration,
    pub(super) tls: ClientTls,
    pub(super) temporality: Temporality,
}

impl Config {
    /// With the environment of this process.
    pub(super) fn resolved(&self) -> Result<Resolved, Vec<Fault>> {
        self.resolve(&|name| env::var(name).ok())
    }

    /// With `variable`, whose empty values count as unset. Faults name the variable, if it is one that is wrong.
    fn resolve(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Resolved, Vec<Fault>> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = |suffix: &str| {
            let both = ["OTEL_EXPORTER_OTLP_METRICS_", "OTEL_EXPORTER_OTLP_"];
            both.into_iter()
                .map(|prefix| format!("{prefix}{suffix}"))
                .find_map(|name| given(&name).map(|value| (name, value)))
        };
        let mut faults = Vec::new();
        let mut wrong = |key: &str, name: &str, value: &str, expected: &str| {
            let message = format!("`{name}` is `{value}`; expected {expected}");
            faults.push(Fault::new(key, message));
        };
        let protocol = self.protocol.or_else(|| {
            let (name, value) = named("PROTOCOL")?;
            let protocol = Protocol::from_variable(&value);
            if protocol.is_none() {
                wrong("protocol", &name, &value, "grpc, http/protobuf or http/json");
            }
            protocol
        });
        let compression = self.compression.or_else(|| {
            let (name, value) = named("COMPRESSION")?;
            let compression = Compression::from_variable(&value);
            if compression.is_none() {
                wrong("compression", &name, &value, "none, gzip or zstd");
            }
            compression
        });
        let timeout = self.timeout.or_else(|| {
            let (name, value) = named("TIMEOUT")?;
            let timeout = value.parse().ok().map(Duration::from_millis);
            if timeout.is_none() {
                wrong("timeout", &name, &value, "milliseconds");
            }
            timeout
        });
        let temporality = self.temporality.or_else(|| {
            let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
            let value = given(name)?;
            let temporality = Temporality::from_variable(&value);
            if temporality.is_none() {
                wrong("temporality", name, &value, "cumulative, delta or lowmemory");
            }
            temporality
        });
        let mut headers = BTreeMap::new();
        if let Some((name, value)) = named("HEADERS") {
            match parse_headers(&value) {
                Some(parsed) => headers = parsed,
                None => wrong("headers", &name, "[redacted]", "name=value, separated by commas"),
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
        let endpoint = self.endpoint_of(protocol, &given);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Resolved {
            endpoint,
            protocol,
            headers,
            compression: compression.unwrap_or_default(),
            timeout: timeout.unwrap_or(Duration::from_secs(10)),
            tls,
            temporality: temporality.unwrap_or_default(),
        })
    }

    fn endpoint_of(&self, protocol: Protocol, given: &dyn Fn(&str) -> Option<String>) -> String {
        let base = match (&self.endpoint, given("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")) {
            (Some(endpoint), _) => endpoint.clone(),
            // Used as it is.
            (None, Some(endpoint)) => return endpoint,
            (None, None) => {
                given("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_else(|| protocol.default_endpoint().to_owned())
            }
        };
        if protocol == Protocol::Grpc || base.ends_with(METRICS_PATH) {
            base
        } else {
            format!("{}{METRICS_PATH}", base.trim_end_matches('/'))
        }
    }
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
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }

    fn validate(&self) -> Vec<Fault> {
        let mut faults: Vec<_> = naming::validate(&self.namespace).into_iter().collect();
        let resolved = match self.resolved() {
            Ok(resolved) => resolved,
            Err(more) => {
                faults.extend(more);
                return faults;
            }
        };
        let endpoint = &resolved.endpoint;
        let is_address = endpoint
            .parse::<Uri>()
            .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        if !is_address {
            let like = resolved.protocol.default_endpoint();
            let message = format!("`{endpoint}` is no address like {like}");
            faults.push(Fault::new("endpoint", message));
        }
        for (key, duration) in [("interval", self.interval), ("timeout", resolved.timeout)] {
            if duration.is_zero() {
                faults.push(Fault::new(key, "must be longer than 0s"));
            }
        }
        faults.extend(self.retry.validate());
        faults.extend(resolved.tls.validate());
        faults.extend(self.storage.iter().filter_map(StorageConfig::validate));
        if self.max_request_bytes < 16 << 10 {
            faults.push(Fault::new("max_request_bytes", "must be at least 16384"));
        }
        for (name, value) in &resolved.headers {
            let valid = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).is_ok()
                && HeaderValue::from_str(value).is_ok();
            if !valid {
                let path = vec!["headers".to_owned(), name.clone()];
                faults.push(Fault {
                    path,
                    message: "is no header that can be sent: printable ASCII only".to_owned(),
                });
            }
        }
        faults
    }

    fn writes(&self) -> Vec<PathBuf> {
        self.storage
            .iter()
            .map(|storage| storage.directory.clone())
            .collect()
    }
}

impl ExporterConfig for Config {
    fn queue(&self) -> QueueConfig {
        self.sending_queue
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        match OtlpExporter::new(self.clone(), context) {
            Ok(exporter) => Ok(Box::new(exporter)),
            Err(error) => Err(BuildError {
                id: context.id.clone(),
                message: error.to_string(),
            }),
        }
    }
}

/// The exporter type `otlp`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory {
    type_name: "otlp",
    summary: "pushes to an OpenTelemetry collector by gRPC or HTTP",
    parse: |value| Ok(Box::new(value.deserialize::<Config>()?)),
    schema: Config::json_schema,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_at_once() {
        let config = Config {
            endpoint: Some("collector:4317".to_owned()),
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

    fn resolved(config: &Config, variables: &[(&str, &str)]) -> Result<Resolved, Vec<Fault>> {
        config.resolve(&|name| {
            let variable = variables.iter().find(|(key, _)| *key == name);
            variable.map(|(_, value)| (*value).to_owned())
        })
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
        let told = resolved(&Config::default(), &variables).unwrap();
        let text = |value: &str| value.to_owned();
        let expected = Resolved {
            endpoint: text("https://collector:4318/v1/metrics"),
            protocol: Protocol::HttpJson,
            headers: [
                (text("x-key"), text("a b")),
                (text("authorization"), text("Bearer t")),
            ]
            .into(),
            compression: Compression::Zstd,
            timeout: Duration::from_millis(2500),
            tls: ClientTls {
                ca_file: Some("/ca.pem".into()),
                cert_file: Some("/client.pem".into()),
                key_file: Some("/client.key".into()),
                server_name: None,
            },
            temporality: Temporality::Delta,
        };
        assert_eq!(told, expected);

        let own = Config {
            endpoint: Some(text("http://other:4317")),
            protocol: Some(Protocol::Grpc),
            compression: Some(Compression::None),
            ..Config::default()
        };
        let told = resolved(&own, &variables).unwrap();
        assert_eq!(told.endpoint, "http://other:4317");
        assert_eq!(
            (told.protocol, told.compression),
            (Protocol::Grpc, Compression::None)
        );
        // That of metrics is used as it is.
        let told = resolved(
            &Config::default(),
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector/here"),
            ],
        );
        assert_eq!(told.unwrap().endpoint, "http://collector/here");
    }

    #[test]
    fn a_variable_that_is_wrong_is_named_and_a_secret_is_not_told() {
        let faults = resolved(
            &Config::default(),
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ],
        )
        .unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert!(
            told[0].contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `carrier-pigeon`"),
            "{told:?}"
        );
        assert!(told[1].contains("milliseconds"), "{told:?}");
        assert!(
            told[2].contains("OTEL_EXPORTER_OTLP_HEADERS") && !told[2].contains("hunter2"),
            "{told:?}"
        );
    }
}
