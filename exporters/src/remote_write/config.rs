//! Config of the exporter `remote_write`.

use std::collections::BTreeMap;
use std::time::Duration;

use flowtap_pipeline::address;
use flowtap_pipeline::resource::SERVICE_NAME;
use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{ComponentConfig, Contract, HISTOGRAM_BUCKETS, QueueConfig, Resource, Violation};
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::naming;
use crate::prometheus::BasicAuth;
use crate::push::connect::Dial;
use crate::push::endpoint::{Endpoint, EndpointError};
use crate::push::proxy::Proxy;
use crate::push::retry::RetryConfig;
use crate::push::secrets;
use crate::push::storage::StorageConfig;
use flowtap_net::tls::ClientTls;

/// Which version of the protocol the body is in (Prometheus remote write 1.0 and 2.0, "Protocol").
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// Samples of one histogram: its buckets, the one without bound, its sum and its count. They go in one request.
const HISTOGRAM_SAMPLES: usize = HISTOGRAM_BUCKETS + 3;

/// In place of an attribute: [`Resource::node`].
const NODE: &str = "node";

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// URL to write to, such as `http://prometheus:9090/api/v1/write`, or `unix:///path/of/socket`. `host:port` is
    /// `http://host:port/api/v1/write`, or `https` with port 443 or a key in `tls`.
    pub endpoint: String,
    /// Prefix of every metric's name; may be empty.
    pub namespace: String,
    /// Minimum interval at which snapshots are sent.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Maximum duration of an attempt.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// Maximum duration of connecting, over all addresses of a name together; each has an equal
    /// share, so that one that does not answer leaves time for the others. Unset: half of
    /// `timeout`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub connect_timeout: Option<Duration>,
    /// A proxy to connect through: `http://`, `https://` or `socks5://`, with credentials if required. Unset: `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case, which do not apply to addresses of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    /// Headers of every request.
    pub headers: BTreeMap<String, String>,
    /// Labels of every series that has none of that name itself, such as `cluster: blue`. They replace those of `resource_labels`.
    pub external_labels: BTreeMap<String, String>,
    /// Labels of every series that name this flowtap and its node, by the resource attribute whose value they have. `node` stands for
    /// a `service.instance.id` that was configured, else `k8s.node.name`, else `host.name`, else `service.instance.id`.
    pub resource_labels: BTreeMap<String, String>,
    /// Send a sample 0 before the first sample of a counter or histogram, so that `increase()`
    /// counts its first value.
    pub zero_samples: bool,
    /// Credentials for HTTP basic authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Bearer token to send instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<String>,
    /// TLS, where the endpoint is `https`.
    pub tls: ClientTls,
    /// Retries of failed requests.
    pub retry: RetryConfig,
    /// Queue of snapshots while a request is under way.
    pub sending_queue: QueueConfig,
    /// Keeps requests on disk until they are delivered. Unset: in memory only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageConfig>,
    /// Samples per request; a snapshot with more is split.
    pub max_samples_per_send: usize,
    /// Message type. That of remote write 2.0 is much smaller and has the start time of each
    /// series; not every store supports it.
    pub protobuf_message: ProtobufMessage,
    /// Send each histogram as one native histogram with its own buckets, instead of 19 series.
    /// Requires the message of 2.0, and a store that accepts native histograms: Prometheus before
    /// version 3.8 must be configured for it.
    pub send_native_histograms: bool,
}

/// A message, by its full name, as Prometheus has it in its own config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProtobufMessage {
    /// That of remote write 1.0.
    #[default]
    #[serde(rename = "prometheus.WriteRequest")]
    V1,
    /// That of remote write 2.0.
    #[serde(rename = "io.prometheus.write.v2.Request")]
    V2,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            connect_timeout: None,
            proxy_url: None,
            headers: BTreeMap::new(),
            external_labels: BTreeMap::new(),
            resource_labels: [("job", SERVICE_NAME), ("instance", NODE)]
                .map(|(label, attribute)| (label.to_owned(), attribute.to_owned()))
                .into(),
            zero_samples: true,
            basic_auth: None,
            bearer_token: None,
            tls: ClientTls::default(),
            retry: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
            storage: None,
            max_samples_per_send: 2000,
            protobuf_message: ProtobufMessage::default(),
            send_native_histograms: false,
        }
    }
}

impl Config {
    /// Labels of every series. One whose attribute is not known is left out.
    pub(super) fn labels(&self, resource: &Resource) -> Vec<(String, String)> {
        let mut labels = BTreeMap::new();
        for (label, attribute) in &self.resource_labels {
            let value = match attribute.as_str() {
                NODE => Some(resource.node()),
                name => resource.get(name),
            };
            let value = value.filter(|value| !value.is_empty());
            labels.extend(value.map(|value| (label.clone(), value.to_owned())));
        }
        labels.extend(self.external_labels.clone());
        labels.into_iter().collect()
    }

    /// The endpoint. A host that is written without a scheme has Prometheus' port and path unless it has its own.
    pub(super) fn parsed_endpoint(&self) -> Result<Endpoint, EndpointError> {
        let url = address::with_scheme(&self.endpoint, 9090, self.tls != ClientTls::default());
        let endpoint = Endpoint::parse(&url)?;
        Ok(
            if endpoint.uri().path() == "/" && !self.endpoint.contains("://") {
                endpoint.below("/api/v1/write")
            } else {
                endpoint
            },
        )
    }

    fn endpoint_fault(&self) -> Option<Violation> {
        const EXAMPLE: &str = "http://127.0.0.1:9090/api/v1/write";
        if self.endpoint.is_empty() {
            let message = format!("must be set: the URL to write to, such as {EXAMPLE}");
            return Some(Violation::new("endpoint", message));
        }
        let endpoint = self.parsed_endpoint();
        let secret = self.basic_auth.is_some() || self.bearer_token.is_some() || !self.headers.is_empty();
        if secret && !self.endpoint.contains("://") && endpoint.as_ref().is_ok_and(Endpoint::is_exposed) {
            let text = &self.endpoint;
            let message = format!(
                "no scheme, and credentials or `headers` may be secret; hint: write `https://{text}`, or `http://{text}` to send \
                 them unencrypted"
            );
            return Some(Violation::new("endpoint", message));
        }
        let error = endpoint.err()?;
        let hint = match &error {
            EndpointError::UserInfo => "; hint: put them into `basic_auth`",
            EndpointError::Invalid { .. } => "",
        };
        Some(Violation::new("endpoint", format!("{error}{hint}")))
    }

    fn connection_faults(&self) -> impl Iterator<Item = Violation> {
        let proxy = self
            .proxy_url
            .as_ref()
            .filter(|url| Proxy::parse(url).is_none())
            .map(|_| {
                let message =
                    "invalid proxy: expected `http://host:port`, `https://host:port` or `socks5://host:port`";
                Violation::new("proxy_url", message)
            });
        let connect = self.connect_timeout.and_then(|connect_timeout| {
            let message = if connect_timeout.is_zero() {
                "must be longer than 0s"
            } else if connect_timeout > self.timeout {
                "must not be longer than `timeout`"
            } else {
                return None;
            };
            Some(Violation::new("connect_timeout", message))
        });
        let blank = self
            .proxy_url
            .as_ref()
            .filter(|url| secrets::has_empty_password(url))
            .map(|_| Violation::new("proxy_url", secrets::EMPTY_PASSWORD));
        [proxy, connect, blank].into_iter().flatten()
    }

    /// Connection settings. Uses a proxy of the environment if the config has none.
    pub(super) fn dial(&self) -> Result<Dial, EndpointError> {
        let endpoint = self.parsed_endpoint()?;
        Ok(Dial {
            proxy: match &self.proxy_url {
                Some(url) => Proxy::parse(url),
                None => Proxy::from_environment(&endpoint),
            },
            endpoint,
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout.unwrap_or(self.timeout / 2),
            user_timeout: self.timeout,
            http2: false,
        })
    }

    fn header_faults(&self) -> impl Iterator<Item = Violation> {
        self.headers.iter().filter_map(|(name, value)| {
            let message = match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), _) if is_reserved(&name) => "is a header that the exporter sets itself",
                (Ok(AUTHORIZATION), Ok(_)) if self.basic_auth.is_some() || self.bearer_token.is_some() => {
                    "is already set by `basic_auth` or `bearer_token`"
                }
                (Ok(_), Ok(_)) => secrets::header_fault(name, value)?,
                _ => "is not a valid header: printable ASCII only",
            };
            Some(below("headers", name, message))
        })
    }

    fn label_faults(&self) -> impl Iterator<Item = Violation> {
        let maps = [
            ("external_labels", &self.external_labels),
            ("resource_labels", &self.resource_labels),
        ];
        let names = maps
            .into_iter()
            .flat_map(|(key, map)| map.keys().map(move |name| (key, name)));
        names.filter_map(|(key, name)| {
            let message = if !naming::is_label(name) {
                format!("`{name}` can't be a label's name: letters, digits and `_`, no digit first, not `__`")
            } else if ["le", "quantile"].contains(&name.as_str()) {
                format!("`{name}` is reserved for histograms and summaries; hint: choose another name")
            } else {
                return None;
            };
            Some(below(key, name, message))
        })
    }

    /// Violations of the credentials. An empty one is most often that of a variable or file that is
    /// empty.
    fn auth_faults(&self) -> impl Iterator<Item = Violation> {
        let colon = self
            .basic_auth
            .as_ref()
            .filter(|auth| auth.username.contains(':'))
            .map(|_| {
                Violation::new(
                    "basic_auth.username",
                    "can't have a colon: it ends the name (RFC 7617)",
                )
            });
        let two = (self.basic_auth.is_some() && self.bearer_token.is_some()).then(|| {
            Violation::new(
                "bearer_token",
                "can't be combined with `basic_auth`: set one of them",
            )
        });
        let token = self
            .bearer_token
            .as_ref()
            .filter(|token| HeaderValue::try_from(*token).is_err())
            .map(|_| Violation::new("bearer_token", "can't be sent: printable ASCII only"));
        let no_password = self
            .basic_auth
            .as_ref()
            .filter(|auth| auth.password.is_empty())
            .map(|_| Violation::new("basic_auth.password", secrets::EMPTY));
        let no_token = self
            .bearer_token
            .as_ref()
            .filter(|token| token.trim().is_empty())
            .map(|_| Violation::new("bearer_token", secrets::EMPTY));
        [colon, two, token, no_password, no_token].into_iter().flatten()
    }
}

fn is_reserved(name: &HeaderName) -> bool {
    [
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        HOST,
        USER_AGENT,
        VERSION_HEADER,
    ]
    .contains(name)
}

/// A fault at an entry of a map. The entry's name may hold dots.
fn below(map: &str, entry: &str, message: impl Into<String>) -> Violation {
    Violation {
        path: vec![map.to_owned(), entry.to_owned()],
        message: message.into(),
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        let contract = Contract::default()
            .reads(self.tls.files())
            .writes(self.storage.iter().map(|storage| &storage.directory));
        let contract = self.storage.iter().fold(contract, |contract, storage| {
            contract.owns("storage.directory", &storage.directory)
        });
        let proxy = self.proxy_url.as_deref().and_then(Proxy::parse);
        let contract = proxy
            .iter()
            .fold(contract, |contract, proxy| contract.dials("proxy_url", proxy));
        match self.parsed_endpoint() {
            Ok(endpoint) => contract.dials("endpoint", endpoint),
            // `validate` reports it, and nothing is started.
            Err(_) => contract,
        }
    }

    fn warnings(&self) -> Vec<Violation> {
        let over_tls = self.parsed_endpoint().is_ok_and(|endpoint| endpoint.is_tls());
        let tls = (self.tls != ClientTls::default() && !over_tls).then(|| {
            let message = "has no effect with an endpoint `http://`; hint: write `https://`, or remove it";
            Violation::new("tls", message)
        });
        tls.into_iter().chain(self.path_warning()).collect()
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults: Vec<_> = self.endpoint_fault().into_iter().collect();
        faults.extend(naming::validate(&self.namespace));
        let positive = [("interval", self.interval), ("timeout", self.timeout)];
        for (key, _) in positive.into_iter().filter(|(_, duration)| duration.is_zero()) {
            faults.push(Violation::new(key, "must be longer than 0s"));
        }
        faults.extend(self.connection_faults());
        faults.extend(self.retry.validate());
        faults.extend(self.storage.iter().filter_map(StorageConfig::validate));
        faults.extend(self.header_faults());
        faults.extend(self.label_faults());
        faults.extend(self.auth_faults());
        faults.extend(self.tls.validate());
        let together = HISTOGRAM_SAMPLES * if self.zero_samples { 2 } else { 1 };
        if self.max_samples_per_send < together {
            let message = format!(
                "must be at least {together}: the samples of a histogram, and their zeros, are sent together"
            );
            faults.push(Violation::new("max_samples_per_send", message));
        }
        if self.send_native_histograms && self.protobuf_message == ProtobufMessage::V1 {
            let message = "needs `protobuf_message: io.prometheus.write.v2.Request`: the message of 1.0 does not support them";
            faults.push(Violation::new("send_native_histograms", message));
        }
        faults
    }
}

impl Config {
    fn path_warning(&self) -> Option<Violation> {
        let endpoint = self.parsed_endpoint().ok()?;
        let bare = endpoint.socket().is_none() && endpoint.uri().path_and_query()?.as_str() == "/";
        bare.then(|| {
            Violation::new(
                "endpoint",
                "has no path, which Prometheus rejects; hint: append `/api/v1/write`, or the path of another store",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &Config) -> Vec<String> {
        let faults = config.validate().into_iter();
        faults.map(|fault| fault.path.join(".")).collect()
    }

    #[test]
    fn empty_credentials_are_refused() {
        let config = Config {
            endpoint: "http://127.0.0.1:9090/api/v1/write".to_owned(),
            basic_auth: Some(BasicAuth {
                username: "me".to_owned(),
                password: String::new(),
            }),
            bearer_token: Some(" ".to_owned()),
            ..Config::default()
        };
        let faults = config.validate();
        let empty: Vec<_> = faults
            .iter()
            .filter(|fault| fault.message == secrets::EMPTY)
            .map(|fault| fault.path.join("."))
            .collect();
        assert_eq!(empty, ["basic_auth.password", "bearer_token"]);
    }

    #[test]
    fn every_fault_is_reported_at_once_with_its_key() {
        let map = |pairs: &[(&str, &str)]| {
            let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
            pairs.iter().map(owned).collect()
        };
        let config = Config {
            namespace: "9".to_owned(),
            interval: Duration::ZERO,
            headers: map(&[("bad name", "x"), ("Content-Type", "text/plain"), ("x-ok", "1")]),
            external_labels: map(&[("a.b", "x"), ("cluster", "blue")]),
            basic_auth: Some(BasicAuth {
                username: "a:b".to_owned(),
                password: "c".to_owned(),
            }),
            bearer_token: Some("t".to_owned()),
            retry: RetryConfig {
                max_interval: Duration::ZERO,
                ..RetryConfig::default()
            },
            max_samples_per_send: 18,
            send_native_histograms: true,
            ..Config::default()
        };
        assert_eq!(
            keys(&config),
            [
                "endpoint",
                "namespace",
                "interval",
                "retry.max_interval",
                "headers.Content-Type",
                "headers.bad name",
                "external_labels.a.b",
                "basic_auth.username",
                "bearer_token",
                "max_samples_per_send",
                "send_native_histograms",
            ]
        );
    }

    #[test]
    fn an_endpoint_is_an_http_address_without_a_password_in_it() {
        for (endpoint, valid) in [
            ("http://127.0.0.1:9090/api/v1/write", true),
            ("https://metrics.example/api/v1/push?tenant=a", true),
            ("prometheus:9090", true),
            ("/api/v1/write", false),
            ("ftp://127.0.0.1/", false),
            ("http://user:secret@127.0.0.1/api/v1/write", false),
        ] {
            let config = Config {
                endpoint: endpoint.to_owned(),
                ..Config::default()
            };
            assert_eq!(keys(&config).is_empty(), valid, "{endpoint}");
        }
    }
}
