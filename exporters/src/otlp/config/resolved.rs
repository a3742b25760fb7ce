//! The config, completed from the environment where it is silent.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use flowtap_net::tls::ClientTls;
use flowtap_pipeline::{Violation, address};

use super::Config;
use super::options::{Compression, Protocol, Temporality};
use crate::push::connect::Dial;
use crate::push::endpoint::{Endpoint, EndpointError};
use crate::push::proxy::Proxy;

/// Where the metrics of a collector's base address are (OTLP specification, "OTLP/HTTP Request").
const METRICS_PATH: &str = "/v1/metrics";

/// The same of log records.
const LOGS_PATH: &str = "/v1/logs";

/// The config with what the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::otlp) struct Resolved {
    /// With the path of metrics, over HTTP.
    pub(in crate::otlp) endpoint: Endpoint,
    /// Of log records.
    pub(in crate::otlp) logs_endpoint: Endpoint,
    pub(in crate::otlp) protocol: Protocol,
    pub(in crate::otlp) headers: BTreeMap<String, String>,
    pub(in crate::otlp) compression: Compression,
    pub(in crate::otlp) timeout: Duration,
    pub(in crate::otlp) connect_timeout: Duration,
    /// Interval and timeout.
    pub(in crate::otlp) keepalive: (Duration, Duration),
    pub(in crate::otlp) proxy_url: Option<String>,
    pub(in crate::otlp) tls: ClientTls,
    pub(in crate::otlp) temporality: Temporality,
}

impl Resolved {
    /// The same for log records, whose path over HTTP is another.
    pub(in crate::otlp) fn dial_logs(&self) -> Dial {
        self.dial_to(&self.logs_endpoint)
    }

    /// The address of log records if these go to another peer than metrics.
    pub(in crate::otlp) fn separate_logs_endpoint(&self) -> Option<&Endpoint> {
        let logs = &self.logs_endpoint;
        (logs.uri().authority() != self.endpoint.uri().authority()).then_some(logs)
    }

    /// Connection settings. Uses a proxy of the environment if the config has none.
    pub(in crate::otlp) fn dial(&self) -> Dial {
        self.dial_to(&self.endpoint)
    }

    fn dial_to(&self, endpoint: &Endpoint) -> Dial {
        Dial {
            endpoint: endpoint.clone(),
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout,
            user_timeout: self.timeout,
            proxy: match &self.proxy_url {
                Some(url) => Proxy::parse(url),
                None => Proxy::from_environment(endpoint),
            },
            http2: self.protocol == Protocol::Grpc,
        }
    }
}

impl Config {
    /// With the environment of this process.
    pub(in crate::otlp) fn resolved(&self) -> Result<Resolved, Violation> {
        self.resolved_with(&mut Vec::new())
    }

    /// The same; variables that can't be read are in `ignored`.
    pub(super) fn resolved_with(&self, ignored: &mut Vec<Violation>) -> Result<Resolved, Violation> {
        self.resolve(&of_process, ignored)
    }

    /// With `variable`, whose empty values count as unset. One that can't be read is ignored, and is in `ignored` with what is used
    /// instead (OpenTelemetry specification, "Environment Variable Specification").
    pub(super) fn resolve(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
        ignored: &mut Vec<Violation>,
    ) -> Result<Resolved, Violation> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut environment = Environment {
            given: &given,
            ignored,
        };
        let protocol = self.protocol.or_else(|| environment.protocol());
        let compression = self.compression.or_else(|| environment.compression());
        let timeout = self.timeout.or_else(|| environment.timeout());
        let temporality = self.temporality.or_else(|| environment.temporality());
        let mut headers = environment.headers();
        headers.extend(self.headers.clone());
        let file = |own: &Option<PathBuf>, suffix| {
            let named = || Some(environment.named(suffix)?.1.into());
            own.clone().or_else(named)
        };
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
        let keepalive_time = self.keepalive.time;
        Ok(Resolved {
            endpoint,
            logs_endpoint,
            protocol,
            headers,
            compression: compression.unwrap_or_default(),
            timeout,
            connect_timeout: self.connect_timeout.unwrap_or(timeout / 2),
            keepalive: (
                keepalive_time.unwrap_or((self.interval / 2).max(Duration::from_secs(10))),
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

/// Variables of OpenTelemetry. One that can't be read is ignored, and reported with what is used instead.
struct Environment<'a> {
    /// The value of a variable, unless it is empty.
    given: &'a dyn Fn(&str) -> Option<String>,
    ignored: &'a mut Vec<Violation>,
}

impl Environment<'_> {
    /// The variable of metrics that ends in `suffix`, else that of all signals: its name and value.
    fn named(&self, suffix: &str) -> Option<(String, String)> {
        let both = ["OTEL_EXPORTER_OTLP_METRICS_", "OTEL_EXPORTER_OTLP_"];
        both.into_iter()
            .map(|prefix| format!("{prefix}{suffix}"))
            .find_map(|name| (self.given)(&name).map(|value| (name, value)))
    }

    fn ignore(&mut self, key: &str, (name, value): (&str, &str), expected: &str, used: &str) {
        let message = format!("{name} is ignored, {used} is used: expected {expected}, found `{value}`");
        self.ignored.push(Violation::new(key, message));
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let (name, value) = self.named("PROTOCOL")?;
        let protocol = Protocol::from_variable(&value);
        if protocol.is_none() {
            let expected = "`grpc`, `http/protobuf` or `http/json`";
            let used = format!("`{}`", Protocol::default().name());
            self.ignore("protocol", (&name, &value), expected, &used);
        }
        protocol
    }

    fn compression(&mut self) -> Option<Compression> {
        let (name, value) = self.named("COMPRESSION")?;
        let compression = Compression::from_variable(&value);
        if compression.is_none() {
            self.ignore("compression", (&name, &value), Compression::VALUES, "`gzip`");
        }
        compression
    }

    fn timeout(&mut self) -> Option<Duration> {
        let (name, value) = self.named("TIMEOUT")?;
        let timeout = value.parse().ok().filter(|&millis| millis > 0);
        if timeout.is_none() {
            self.ignore("timeout", (&name, &value), "milliseconds", "10s");
        }
        timeout.map(Duration::from_millis)
    }

    fn temporality(&mut self) -> Option<Temporality> {
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let value = (self.given)(name)?;
        let temporality = Temporality::from_variable(&value);
        if temporality.is_none() {
            let expected = "`cumulative`, `delta` or `lowmemory`";
            self.ignore("temporality", (name, &value), expected, "`cumulative`");
        }
        temporality
    }

    fn headers(&mut self) -> BTreeMap<String, String> {
        let Some((name, value)) = self.named("HEADERS") else {
            return BTreeMap::new();
        };
        parse_headers(&value).unwrap_or_else(|| {
            let expected = "`name=value` pairs, separated by commas";
            self.ignore("headers", (&name, "[redacted]"), expected, "no header");
            BTreeMap::new()
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
