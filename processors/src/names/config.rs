//! Config of the processor `names`.

use std::path::PathBuf;
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{ComponentConfig, Contract, RecordField, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most addresses that can have a name.
const MAX_ADDRESSES: usize = 1 << 22;

/// A source of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Answers of name servers that processes of the same network namespace got. Needs `receivers.ebpf.dns.names`.
    Dns,
    /// The file `hosts_file`.
    Hosts,
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Sources of names; the first one that knows the address wins.
    pub sources: Vec<Source>,
    /// Addresses that can have a name from DNS at a time, over all network namespaces: from 2 to 4,194,304. The one that was not used
    /// for longest is evicted.
    pub max_addresses: usize,
    /// Minimum time for which a name from DNS names new connections, whatever its time to live: clients connect some time after the
    /// answer. At most 1 day.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub min_ttl: Duration,
    /// The file with the names of this node, for the source `hosts`. It is read again when it changes.
    pub hosts_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sources: vec![Source::Dns, Source::Hosts],
            max_addresses: 1 << 16,
            min_ttl: Duration::from_secs(60),
            hosts_file: PathBuf::from("/etc/hosts"),
        }
    }
}

impl Config {
    /// Whether `source` is one of `sources`.
    pub(super) fn has(&self, source: Source) -> bool {
        self.sources.contains(&source)
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        let mut contract = Contract::default()
            .fills([RecordField::PeerName])
            .reads_addresses();
        if self.has(Source::Dns) {
            contract = contract.needs(RecordField::DnsName);
        }
        if self.has(Source::Hosts) {
            contract = contract.reads([&self.hosts_file]);
        }
        contract
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.sources.is_empty() {
            faults.push(Violation::new(
                "sources",
                "must name at least one of `dns`, `hosts`",
            ));
        }
        for (index, source) in self.sources.iter().enumerate() {
            if self.sources[..index].contains(source) {
                faults.push(Violation {
                    path: vec!["sources".to_owned(), index.to_string()],
                    message: "is a duplicate".to_owned(),
                });
            }
        }
        if !(2..=MAX_ADDRESSES).contains(&self.max_addresses) {
            let message = format!("must be from 2 to {MAX_ADDRESSES}");
            faults.push(Violation::new("max_addresses", message));
        }
        if self.min_ttl > Duration::from_secs(86_400) {
            faults.push(Violation::new("min_ttl", "must be at most 1d"));
        }
        faults
    }
}
