//! Config of the exporter `prometheus`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use flowtap_pipeline::schema::{AddressText, DurationText};
use flowtap_pipeline::{ComponentConfig, Contract, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::BasicAuth;
use crate::naming;
use flowtap_net::tls::ServerTls;

/// Formats with the start time of each series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CreatedTimestamps {
    /// No format.
    None,
    /// Protobuf, where it is a field of the series.
    #[default]
    Protobuf,
    /// Protobuf and `OpenMetrics`, where it is a line for each counter and histogram, and a
    /// separate series to a scraper that does not know it.
    All,
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port to listen on.
    #[serde(with = "flowtap_pipeline::address")]
    #[schemars(with = "AddressText")]
    pub endpoint: SocketAddr,
    /// Prefix of every metric's name; may be empty.
    pub namespace: String,
    /// Labels of every series, such as `cluster: blue`.
    pub labels: BTreeMap<String, String>,
    /// Whether a scrape has the series `target_info`, whose labels are the attributes of this flowtap and its node, and
    /// `flowtap_build_info`, whose label is its version.
    pub target_info: bool,
    /// Whether samples have the time of their window's end; otherwise the scraper's time is used.
    pub timestamps: bool,
    /// Formats that include the start time of series. A Prometheus started with
    /// `--enable-feature=created-timestamp-zero-ingestion` then sees the first bytes of a new series as an increase.
    pub created_timestamps: CreatedTimestamps,
    /// Maximum number of connections; a further one replaces the one that has waited longest for a
    /// request, which is counted.
    pub max_connections: NonZeroUsize,
    /// Time for which a request, a TLS handshake or the reading of a response may stall.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// Names that `Host` may have in requests over the loopback interface, beside addresses and `localhost`; `*` for any. Other names
    /// get 421, so that no web page can read the metrics by DNS rebinding.
    pub allowed_hosts: Vec<String>,
    /// TLS; unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
    /// Credentials for HTTP basic authentication, which scrapers must send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// A token that scrapers may send instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
        Self {
            endpoint: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
            labels: BTreeMap::new(),
            target_info: true,
            timestamps: false,
            created_timestamps: CreatedTimestamps::default(),
            max_connections: CONNECTIONS,
            timeout: Duration::from_secs(30),
            allowed_hosts: Vec::new(),
            tls: None,
            basic_auth: None,
            bearer_token: None,
        }
    }
}

impl ComponentConfig for Config {
    fn validate(&self) -> Vec<Violation> {
        let mut faults: Vec<_> = naming::validate(&self.namespace).into_iter().collect();
        for name in self.labels.keys().filter(|name| !naming::is_label(name)) {
            faults.push(Violation {
                path: vec!["labels".to_owned(), name.clone()],
                message: format!(
                    "`{name}` can't be a label's name: letters, digits and `_`, no digit first, not `__`"
                ),
            });
        }
        // Those of histograms and summaries, whatever the families.
        for name in ["le", "quantile"]
            .into_iter()
            .filter(|name| self.labels.contains_key(*name))
        {
            faults.push(Violation {
                path: vec!["labels".to_owned(), name.to_owned()],
                message: format!(
                    "`{name}` is reserved for histograms and summaries; hint: choose another name"
                ),
            });
        }
        if self.timeout.is_zero() {
            faults.push(Violation::new("timeout", "must be longer than 0s"));
        }
        if self
            .basic_auth
            .as_ref()
            .is_some_and(|auth| auth.username.contains(':'))
        {
            faults.push(Violation {
                path: vec!["basic_auth".to_owned(), "username".to_owned()],
                message: "can't have a colon: it ends the name (RFC 7617)".to_owned(),
            });
        }
        let empty = |path: &[&str]| {
            Violation {
            path: path.iter().map(|&key| key.to_owned()).collect(),
            message: "is empty, so it would protect nothing; hint: check the variable or file that it comes from, or remove the key"
                .to_owned(),
        }
        };
        if let Some(auth) = &self.basic_auth {
            if auth.username.is_empty() {
                faults.push(empty(&["basic_auth", "username"]));
            }
            if auth.password.is_empty() {
                faults.push(empty(&["basic_auth", "password"]));
            }
        }
        if self
            .bearer_token
            .as_ref()
            .is_some_and(|token| token.trim().is_empty())
        {
            faults.push(empty(&["bearer_token"]));
        }
        faults
    }

    fn contract(&self) -> Contract {
        let contract = Contract::default()
            .listens("endpoint", self.endpoint)
            .reads(self.tls.iter().flat_map(ServerTls::files));
        let names = self.labels.keys();
        names.fold(contract, |contract, name| {
            contract.adds_label(&["labels", name], name)
        })
    }
}
