//! The section `service`, but for its pipelines.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use flowtap_pipeline::Fault;
use flowtap_pipeline::schema::{AddressText, DurationText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The daemon itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// The admin listener.
    pub admin: AdminConfig,
    /// The daemon's own metrics and logs.
    pub telemetry: TelemetryConfig,
    /// The Kubernetes cluster around it.
    pub kubernetes: KubernetesConfig,
    /// How long stopping may take: the last window, and the exporters' queues.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub shutdown_timeout: Duration,
}

impl ServiceConfig {
    /// Everything that is wrong with values of the right type.
    pub(crate) fn validate(&self) -> Vec<Fault> {
        let endpoint = self.telemetry.metrics.otlp.endpoint.as_deref();
        let wrong = endpoint.filter(|endpoint| {
            let host = endpoint.strip_prefix("http://");
            host.is_none_or(|host| host.is_empty() || host.starts_with(['/', ':']))
        });
        let fault = |endpoint| {
            let message = format!("`{endpoint}` is no address like http://127.0.0.1:4317");
            Fault::new("telemetry.metrics.otlp.endpoint", message)
        };
        wrong.map(fault).into_iter().collect()
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            admin: AdminConfig::default(),
            telemetry: TelemetryConfig::default(),
            kubernetes: KubernetesConfig::default(),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port of `/healthz` and `/readyz`; null for none.
    #[schemars(with = "Option<AddressText>")]
    pub endpoint: Option<SocketAddr>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            endpoint: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 13133))),
        }
    }
}

/// The Kubernetes cluster around it: the ranges of pods, services and DNS, and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// Whether the cluster is asked, if there is one: by the pod's service account, or by a kubeconfig.
    pub enabled: bool,
    /// A kubeconfig; null for the pod's service account, else `$KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// Name of the node that flowtap runs on; null for `$NODE_NAME`, else the host's name.
    pub node_name: Option<String>,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            kubeconfig: None,
            node_name: None,
        }
    }
}

/// The daemon's own metrics and logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Its metrics.
    pub metrics: MetricsConfig,
    /// Its logs.
    pub logs: LogsConfig,
}

/// The daemon's own metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port of `/metrics`; null for none.
    #[schemars(with = "Option<AddressText>")]
    pub endpoint: Option<SocketAddr>,
    /// Where they are pushed.
    pub otlp: PushConfig,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            endpoint: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8888))),
            otlp: PushConfig::default(),
        }
    }
}

/// A push by OTLP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PushConfig {
    /// A collector, `http://host:port`, by gRPC; null for none.
    pub endpoint: Option<String>,
}

/// The daemon's logs, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// The least level that is written: error, warn, info, debug or trace; or a filter such as `flowtap=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: an object per line.
    Json,
}
