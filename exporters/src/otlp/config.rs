//! Config of the exporter `otlp`.

use std::collections::BTreeMap;
use std::env;
use std::num::NonZeroUsize;
use std::time::Duration;

use figment::value::Value;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Exporter, ExporterConfig, Factory, Fault, QueueConfig,
};
use http::Uri;
use serde::{Deserialize, Serialize};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};

use super::OtlpExporter;
use crate::naming;

/// Where a collector listens by default (OTLP specification, "OTLP/gRPC Default Port").
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:4317";

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// gRPC over HTTP/2.
    #[default]
    Grpc,
}

/// How requests are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    #[default]
    Gzip,
}

/// What points tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Temporality {
    /// Totals since the start of their series.
    #[default]
    Cumulative,
}

/// How a failed request is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Whether at all.
    pub enabled: bool,
    /// The longest wait before the first retry; it doubles from one to the next.
    #[serde(with = "humantime_serde")]
    pub initial_interval: Duration,
    /// The longest wait before any retry.
    #[serde(with = "humantime_serde")]
    pub max_interval: Duration,
    /// After how long a request is given up.
    #[serde(with = "humantime_serde")]
    pub max_elapsed_time: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            initial_interval: Duration::from_secs(5),
            max_interval: Duration::from_secs(30),
            max_elapsed_time: Duration::from_secs(300),
        }
    }
}

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector, `http://host:port`. Unset: `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT`, or
    /// `http://127.0.0.1:4317`.
    pub endpoint: Option<String>,
    /// How requests travel.
    pub protocol: Protocol,
    /// How often a snapshot is sent.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Metadata of every request.
    pub headers: BTreeMap<String, String>,
    /// How requests are packed.
    pub compression: Compression,
    /// How long an attempt may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How a failed request is tried again.
    pub retry: RetryConfig,
    /// What may wait while a request is under way.
    pub sending_queue: QueueConfig,
    /// What points tell.
    pub temporality: Temporality,
    /// What every metric's name begins with; may be empty.
    pub namespace: String,
    /// Points per request; a snapshot with more is split.
    pub max_points_per_request: NonZeroUsize,
}

impl Default for Config {
    fn default() -> Self {
        const POINTS: NonZeroUsize = NonZeroUsize::new(8192).unwrap();
        Self {
            endpoint: None,
            protocol: Protocol::default(),
            interval: Duration::from_secs(15),
            headers: BTreeMap::new(),
            compression: Compression::default(),
            timeout: Duration::from_secs(10),
            retry: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
            temporality: Temporality::default(),
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
            max_points_per_request: POINTS,
        }
    }
}

impl Config {
    /// The collector's address: from the config, the environment, or the default.
    pub(super) fn endpoint(&self) -> String {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        self.endpoint
            .clone()
            .or_else(|| variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"))
            .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))
            .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())
    }
}

impl ComponentConfig for Config {
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }

    fn validate(&self) -> Vec<Fault> {
        let mut faults: Vec<_> = naming::validate(&self.namespace).into_iter().collect();
        let endpoint = self.endpoint();
        match endpoint.parse::<Uri>() {
            Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => {}
            Ok(uri) if uri.scheme_str() == Some("https") => {
                let message = format!(
                    "`{endpoint}`: TLS is not supported yet; use http:// to a collector on this node"
                );
                faults.push(Fault::new("endpoint", message));
            }
            _ => faults.push(Fault::new(
                "endpoint",
                format!("`{endpoint}` is no address like {DEFAULT_ENDPOINT}"),
            )),
        }
        let positive = [
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("retry.initial_interval", self.retry.initial_interval),
            ("retry.max_interval", self.retry.max_interval),
        ];
        for (key, _) in positive.into_iter().filter(|(_, duration)| duration.is_zero()) {
            faults.push(Fault::new(key, "must be longer than 0s"));
        }
        for (name, value) in &self.headers {
            let valid = AsciiMetadataKey::from_bytes(name.as_bytes()).is_ok()
                && AsciiMetadataValue::try_from(value.as_str()).is_ok();
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
}

impl ExporterConfig for Config {
    fn queue(&self) -> QueueConfig {
        self.sending_queue
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        Ok(Box::new(OtlpExporter::new(self.clone(), context)))
    }
}

/// The exporter type `otlp`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory {
    type_name: "otlp",
    summary: "pushes to an OpenTelemetry collector by gRPC",
    parse: |value| Ok(Box::new(value.deserialize::<Config>()?)),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_at_once() {
        let config = Config {
            endpoint: Some("collector:4317".to_owned()),
            timeout: Duration::ZERO,
            namespace: "9".to_owned(),
            headers: BTreeMap::from([("bad name".to_owned(), "x".to_owned())]),
            ..Config::default()
        };
        let keys: Vec<_> = config
            .validate()
            .into_iter()
            .map(|fault| fault.path.join("."))
            .collect();
        assert_eq!(keys, ["namespace", "endpoint", "timeout", "headers.bad name"]);
    }

    #[test]
    fn https_is_refused_rather_than_sent_in_the_clear() {
        let config = Config {
            endpoint: Some("https://collector:4317".to_owned()),
            ..Config::default()
        };
        assert!(config.validate()[0].message.contains("TLS"));
    }
}
