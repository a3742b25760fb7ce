//! The section `service`, but for its pipelines.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use flowtap_pipeline::schema::{AddressText, DurationText};
use flowtap_pipeline::{Violation, address};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::log_level;

/// The daemon itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// Extensions that run, in the order in which they start: ids, each defined in `extensions`.
    pub extensions: Vec<String>,
    /// The admin listener.
    pub admin: AdminConfig,
    /// The daemon's own metrics and logs.
    pub telemetry: TelemetryConfig,
    /// Reaction to a memory shortage.
    pub memory_limiter: MemoryLimiterConfig,
    /// The Kubernetes cluster around it.
    pub kubernetes: KubernetesConfig,
    /// The sandbox that `flowtap run` enters at the start.
    pub sandbox: SandboxConfig,
    /// Maximum duration of stopping: the last window, and draining the exporters' queues.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub shutdown_timeout: Duration,
}

impl ServiceConfig {
    /// Everything that is wrong with values of the right type.
    pub(crate) fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        let wrong = self.telemetry.metrics.otlp.url().filter(|url| {
            let host = url.strip_prefix("http://");
            host.is_none_or(|host| host.is_empty() || host.starts_with(['/', ':']) || host.contains('@'))
        });
        if wrong.is_some() {
            faults.push(Violation::new(
                "telemetry.metrics.otlp.endpoint",
                "is not a valid endpoint: expected http://host:port, such as http://127.0.0.1:4317; hint: for TLS, headers or HTTP \
                 name an `otlp` exporter in `telemetry.metrics.exporters`",
            ));
        }
        if let Err(message) = log_level::check(&self.telemetry.logs.level) {
            faults.push(Violation::new("telemetry.logs.level", message));
        }
        if self.telemetry.resource.contains_key("") {
            faults.push(Violation::new("telemetry.resource", "an attribute needs a name"));
        }
        if self.telemetry.metrics.interval.is_zero() {
            faults.push(Violation::new(
                "telemetry.metrics.interval",
                "must be longer than 0s",
            ));
        }
        if self.telemetry.logs.sampling.tick.is_zero() {
            let key = "telemetry.logs.sampling.tick";
            faults.push(Violation::new(key, "must be longer than 0s"));
        }
        faults.extend(self.memory_limiter.validate());
        if self.sandbox.tcp_ports && !self.sandbox.landlock {
            let message = "is a rule of Landlock, which is off; hint: set `sandbox.landlock: true`, or leave the key out";
            faults.push(Violation::new("sandbox.tcp_ports", message));
        }
        faults
    }

    /// The keys whose values are not those of `other`, from `service` on.
    pub fn changed_keys(&self, other: &Self) -> Vec<String> {
        let value = |service: &Self| serde_json::to_value(service).unwrap_or_default();
        let mut keys = Vec::new();
        collect_changed("service", &value(self), &value(other), &mut keys);
        if keys.is_empty() && self != other {
            // In a value that a printed config does not show.
            keys.push("service".to_owned());
        }
        keys
    }
}

/// Adds the keys of the innermost maps in which `a` and `b` differ.
fn collect_changed(key: &str, a: &serde_json::Value, b: &serde_json::Value, keys: &mut Vec<String>) {
    if let (Some(a), Some(b)) = (a.as_object(), b.as_object()) {
        let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
        for name in names {
            let of = |map: &serde_json::Map<_, _>| map.get(name).cloned().unwrap_or_default();
            collect_changed(&format!("{key}.{name}"), &of(a), &of(b), keys);
        }
    } else if a != b {
        keys.push(key.to_owned());
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            extensions: Vec::new(),
            admin: AdminConfig::default(),
            telemetry: TelemetryConfig::default(),
            memory_limiter: MemoryLimiterConfig::default(),
            kubernetes: KubernetesConfig::default(),
            sandbox: SandboxConfig::default(),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port of the admin listener: `/healthz`, `/readyz`, `/status`, the status page and
    /// flows as JSON, without authentication; null for none. For probes from other hosts use the
    /// extension `health_check`.
    #[serde(with = "flowtap_pipeline::address::option")]
    #[schemars(with = "Option<AddressText>")]
    pub endpoint: Option<SocketAddr>,
    /// Names that `Host` may have in requests over the loopback interface, beside addresses and `localhost`; `*` for any. Other names
    /// get 421, so that no web page can read this by DNS rebinding.
    pub allowed_hosts: Vec<String>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            endpoint: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 13134))),
            allowed_hosts: Vec::new(),
        }
    }
}

/// Limits of the daemon's memory, as the OpenTelemetry Collector's `memory_limiter` has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryLimiterConfig {
    /// Interval of the memory checks.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub check_interval: Duration,
    /// The hard limit of memory without pages of files and the kernel's rings, in MiB: above it records are shed, and counted. Null for
    /// three quarters of the limit that systemd or a container runtime has set, none without one; 0 for none. More than that limit, or
    /// than the machine's memory, is an error.
    pub limit_mib: Option<u32>,
    /// Distance of the soft limit below the hard one, above which new series fold into `other`;
    /// null for a fifth of `limit_mib`.
    pub spike_limit_mib: Option<u32>,
}

impl MemoryLimiterConfig {
    /// Distance of the soft limit below the hard one, `limit`, in MiB.
    pub fn spike_mib(&self, limit: u32) -> u32 {
        self.spike_limit_mib.unwrap_or(limit / 5)
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.check_interval.is_zero() {
            faults.push(Violation::new(
                "memory_limiter.check_interval",
                "must be longer than 0s",
            ));
        }
        if let Some(limit) = self.limit_mib.filter(|limit| *limit > 0)
            && self.spike_mib(limit) >= limit
        {
            let message = format!("must be less than `limit_mib`, which is {limit}");
            faults.push(Violation::new("memory_limiter.spike_limit_mib", message));
        }
        faults
    }
}

impl Default for MemoryLimiterConfig {
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(1),
            limit_mib: None,
            spike_limit_mib: None,
        }
    }
}

/// The Kubernetes cluster around it: the ranges of pods, services and DNS, and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// Whether the cluster's API is used, if there is one: with the pod's service account, or with
    /// a kubeconfig.
    pub enabled: bool,
    /// A kubeconfig; null for the pod's service account, else those of `$KUBECONFIG`, merged as by kubectl.
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

/// Mechanisms of the kernel that close what flowtap does not need. `--no-sandbox` skips all of them, and keeps all capabilities. Changes
/// apply at the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// Whether Landlock limits files to those of the config, and signals and abstract Unix sockets to flowtap itself.
    pub landlock: bool,
    /// Whether a seccomp filter refuses system calls that flowtap does not make.
    pub seccomp: bool,
    /// Whether Landlock also limits TCP to the ports that the config names (Linux 6.7). A reload that needs another port is then refused.
    pub tcp_ports: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            landlock: true,
            seccomp: true,
            tcp_ports: false,
        }
    }
}

/// The daemon's own metrics and logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Attributes that name this flowtap and its node in everything that it exports; null removes one that was detected. They replace
    /// those of `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
    pub resource: BTreeMap<String, Option<String>>,
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
    #[serde(with = "flowtap_pipeline::address::option")]
    #[schemars(with = "Option<AddressText>")]
    pub endpoint: Option<SocketAddr>,
    /// Exporters of this config that also receive them.
    pub exporters: Vec<String>,
    /// Interval at which those, and `otlp`, receive them.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// A push that is independent of the exporters whose failures it reports.
    pub otlp: PushConfig,
    /// Names that `Host` may have in requests over the loopback interface, beside addresses and `localhost`; `*` for any. Other names
    /// get 421, so that no web page can read this by DNS rebinding.
    pub allowed_hosts: Vec<String>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            endpoint: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9460))),
            exporters: Vec::new(),
            interval: Duration::from_secs(15),
            otlp: PushConfig::default(),
            allowed_hosts: Vec::new(),
        }
    }
}

/// A push by the OpenTelemetry SDK: over gRPC, without TLS, to a collector on this machine or beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PushConfig {
    /// The collector, `http://host:port` or `host:port`; null for none.
    pub endpoint: Option<String>,
}

impl PushConfig {
    /// The endpoint with its scheme and port.
    pub fn url(&self) -> Option<Cow<'_, str>> {
        let endpoint = self.endpoint.as_deref()?;
        Some(address::with_scheme(endpoint, 4317, false))
    }
}

/// The daemon's logs, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// The least level that is written: error, warn, info, debug or trace; or a filter such as `flowtap=debug,info`.
    pub level: String,
    /// Format of log lines.
    pub format: LogFormat,
    /// Rate limit per call site.
    pub sampling: SamplingConfig,
}

/// Messages of one place in the code: the first few of each tick are written, then how many were not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Whether messages are suppressed.
    pub enabled: bool,
    /// Period over which messages are counted.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub tick: Duration,
    /// Messages written per call site and tick; further ones are counted.
    pub initial: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            tick: Duration::from_secs(10),
            initial: 10,
        }
    }
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
            sampling: SamplingConfig::default(),
        }
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: an object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_changed_are_named_from_the_section_on() {
        let before = ServiceConfig::default();
        assert_eq!(before.changed_keys(&before), Vec::<String>::new());
        let mut now = before.clone();
        now.shutdown_timeout = Duration::from_secs(1);
        now.admin.endpoint = None;
        now.telemetry.metrics.interval = Duration::from_secs(99);
        assert_eq!(
            now.changed_keys(&before),
            [
                "service.admin.endpoint",
                "service.shutdown_timeout",
                "service.telemetry.metrics.interval"
            ]
        );
    }
}
