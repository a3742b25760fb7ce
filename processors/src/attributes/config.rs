//! Config of the processor `attributes`.

use std::collections::{BTreeMap, HashMap};

use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::{ComponentConfig, Contract, LabelChanges, RecordField, Violation};
use schemars::JsonSchema;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// Settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Labels that every series of the pipeline has in addition, with their values.
    pub add: BTreeMap<String, String>,
    /// Renames labels: `raddr: peer`.
    pub rename: BTreeMap<String, String>,
    /// Labels that series are summed over, whatever families ask for.
    pub drop: Vec<Label>,
    /// Shortens addresses to a prefix. Unset: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<Truncate>,
    /// Networks with their names, which the label `peer_network` has. Of networks that contain an address the smallest counts.
    pub networks: Vec<Network>,
}

/// Shortening of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Truncate {
    /// Bits of an IPv4 address that stay.
    #[schemars(range(max = 32))]
    pub ipv4: u8,
    /// Bits of an IPv6 address that stay.
    #[schemars(range(max = 128))]
    pub ipv6: u8,
    /// The ends whose address is shortened, on the wire as well.
    pub ends: Vec<AddressOf>,
    /// Classes of the peer for which addresses are shortened. Empty: all.
    pub classes: Vec<String>,
}

impl Default for Truncate {
    fn default() -> Self {
        Self {
            ipv4: 24,
            ipv6: 56,
            ends: vec![AddressOf::Remote],
            classes: Vec::new(),
        }
    }
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressOf {
    /// The peer's.
    Remote,
    /// This side's.
    Local,
}

/// A network with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name, the value of the label `peer_network`.
    pub name: String,
    /// Its ranges.
    pub cidrs: Vec<Cidr>,
}

/// The label that a config calls `name`.
fn label(name: &str) -> Option<Label> {
    let text: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    Label::deserialize(text).ok()
}

/// The reason why a label can't have this name.
fn name_fault(name: &str) -> Option<String> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    if !name.starts_with(first) || !name.chars().all(rest) {
        return Some(format!(
            "invalid label name `{name}`: expected letters, digits, `_` and `.`, a letter first"
        ));
    }
    if name.starts_with("__") || matches!(name, "le" | "quantile" | "pipeline") {
        return Some(format!("`{name}` is reserved; hint: choose another name"));
    }
    // The labels of a series go before those of the exporter `remote_write`, and a scrape's: series of all nodes would be one.
    if matches!(name, "job" | "instance") {
        return Some(format!(
            "`{name}` names this flowtap and its node in Prometheus; hint: choose another name"
        ));
    }
    None
}

impl Config {
    /// The changes of labels, which the pipeline's window applies.
    fn label_changes(&self) -> LabelChanges {
        let renamed = self.rename.iter();
        LabelChanges {
            add: self.add.clone().into_iter().collect(),
            rename: renamed
                .filter_map(|(from, to)| Some((label(from)?, to.clone())))
                .collect(),
            drop: self.drop.clone(),
        }
    }

    fn validate_networks(&self, faults: &mut Vec<Violation>) {
        let mut seen = HashMap::new();
        for (index, network) in self.networks.iter().enumerate() {
            let at = format!("networks.{index}");
            if network.name.is_empty() {
                faults.push(Violation::new(&format!("{at}.name"), "is empty"));
            }
            if network.cidrs.is_empty() {
                let message = "is an empty list, which no address is in; hint: add a range";
                faults.push(Violation::new(&format!("{at}.cidrs"), message));
            }
            for (entry, cidr) in network.cidrs.iter().enumerate() {
                if let Some(other) = seen.insert(*cidr, &network.name) {
                    let message =
                        format!("`{cidr}` is also a range of `{other}`; hint: remove one of the two");
                    faults.push(Violation::new(&format!("{at}.cidrs.{entry}"), message));
                }
            }
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        let mut contract = Contract::default().changes_labels(self.label_changes());
        if !self.networks.is_empty() || self == &Self::default() {
            contract = contract.fills([RecordField::PeerNetwork]).reads_addresses();
        }
        if let Some(truncate) = &self.truncate {
            contract = contract.truncates_addresses(&["truncate"]);
            for (index, class) in truncate.classes.iter().enumerate() {
                let path = ["truncate", "classes", &index.to_string()];
                contract = contract
                    .needs_for(RecordField::Class, &path)
                    .names_class(class, &path);
            }
        }
        contract
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        for name in self.add.keys() {
            if let Some(message) = name_fault(name) {
                // A name may have dots, so the path is a list, not a text with dots.
                let path = vec!["add".to_owned(), name.clone()];
                faults.push(Violation { path, message });
            }
        }
        let mut taken = HashMap::new();
        for (from, to) in &self.rename {
            let message = if label(from).is_none() {
                format!("unknown label `{from}`; hint: docs/metrics.md lists the labels")
            } else if label(from).is_some_and(|label| self.drop.contains(&label)) {
                format!("`{from}` is also in `drop`; hint: remove it from one of the two")
            } else if let Some(fault) = name_fault(to) {
                fault
            } else if self.add.contains_key(to) {
                format!("`{to}` is also in `add`; hint: choose another name")
            } else if let Some(other) = taken.insert(to, from) {
                format!("`{other}` is also renamed to `{to}`; hint: choose another name")
            } else {
                continue;
            };
            faults.push(Violation {
                path: vec!["rename".to_owned(), from.clone()],
                message,
            });
        }
        for (index, label) in self.drop.iter().enumerate() {
            if self.drop[..index].contains(label) {
                faults.push(Violation::new(&format!("drop.{index}"), "is a duplicate"));
            }
        }
        if let Some(truncate) = &self.truncate {
            for (key, bits, max) in [("ipv4", truncate.ipv4, 32), ("ipv6", truncate.ipv6, 128)] {
                if bits > max {
                    let message = format!("must be at most {max}, the bits of an address");
                    faults.push(Violation::new(&format!("truncate.{key}"), message));
                }
            }
            if truncate.ends.is_empty() {
                let message = "is an empty list, so no address is shortened; hint: write `[remote]`";
                faults.push(Violation::new("truncate.ends", message));
            }
        }
        self.validate_networks(&mut faults);
        faults
    }

    fn warnings(&self) -> Vec<Violation> {
        if self == &Self::default() {
            let message = "changes nothing; hint: set `add`, `rename`, `drop`, `truncate` or `networks`, or remove the processor";
            return vec![Violation::new("", message)];
        }
        Vec::new()
    }
}
