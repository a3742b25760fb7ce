//! Config of the processor `policy`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flowtap_pipeline::{ComponentConfig, Contract, Dependency, PeerClass, RecordField, Violation};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::cidr::{Cidr, InvalidCidr};

/// An entry of a list: a range, or a file of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Entry {
    /// `10.0.0.0/8`, or a single address.
    Range(Cidr),
    /// `file:/etc/flowtap/partners.txt`: a range per line; `#` begins a comment. Read again when it changes.
    File(PathBuf),
}

impl Entry {
    /// The file that it names.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::Range(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl JsonSchema for Entry {
    fn schema_name() -> Cow<'static, str> {
        "Entry".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^\s*(file:.+|[0-9a-fA-F:.]+(/[0-9]{1,3})?)\s*$",
            "examples": ["10.0.0.0/8", "192.0.2.1", "file:/etc/flowtap/partners.txt"],
        })
    }
}

impl FromStr for Entry {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().strip_prefix("file:") {
            Some(path) => Ok(Self::File(PathBuf::from(path))),
            None => text.parse().map(Self::Range),
        }
    }
}

impl TryFrom<String> for Entry {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        entry.to_string()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// A class of the operator's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomClass {
    /// Its name, the value of the label `type`.
    pub name: String,
    /// Its ranges.
    pub cidrs: Vec<Entry>,
}

/// The address ranges of each class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `internalHosts`. Private addresses (RFC 1918), the shared ones of carriers and overlays (RFC 6598), link-local ones (RFC
    /// 3927), and IPv6's unique local and link-local ranges.
    pub internal_hosts: Vec<Entry>,
    /// `localhost`.
    pub localhost: Vec<Entry>,
    /// `k8sPod`, in addition to the cluster's ranges.
    pub k8s_pod: Vec<Entry>,
    /// `k8sSvc`, in addition to the cluster's ranges.
    pub k8s_svc: Vec<Entry>,
    /// `dns`, in addition to the cluster's DNS service, the name servers of `resolv.conf`, and port
    /// 53.
    pub dns: Vec<Entry>,
    /// `docker`. Empty: the networks of this machine's Docker bridges.
    pub docker: Vec<Entry>,
    /// `abnormalFlowBlackList`: beats every other list.
    pub abnormal_black_list: Vec<Entry>,
    /// `abnormalFlowWhiteList`: beats every list but the black one.
    pub abnormal_white_list: Vec<Entry>,
    /// Custom classes. Of equal prefixes they take precedence.
    pub classes: Vec<CustomClass>,
    /// Whether records also get the rule that decided their class, for the label `policy_rule` and flow logs.
    pub rules: bool,
}

impl Default for Config {
    fn default() -> Self {
        let range = |net| Entry::Range(Cidr(net));
        let v4 = |a, b, length| range(IpNet::V4(Ipv4Net::new_assert([a, b, 0, 0].into(), length)));
        let v6 = |first: u16, length| {
            let address = [first, 0, 0, 0, 0, 0, 0, 0];
            range(IpNet::V6(Ipv6Net::new_assert(address.into(), length)))
        };
        Self {
            internal_hosts: vec![
                v4(10, 0, 8),
                v4(100, 64, 10),
                v4(169, 254, 16),
                v4(172, 16, 12),
                v4(192, 168, 16),
                v6(0xfc00, 7),
                v6(0xfe80, 10),
            ],
            localhost: vec![v4(127, 0, 8), range(IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)))],
            k8s_pod: Vec::new(),
            k8s_svc: Vec::new(),
            dns: Vec::new(),
            docker: Vec::new(),
            abnormal_black_list: Vec::new(),
            abnormal_white_list: Vec::new(),
            classes: Vec::new(),
            rules: false,
        }
    }
}

impl Config {
    /// Its lists, each with the keys to it.
    fn lists(&self) -> impl Iterator<Item = (String, &Vec<Entry>)> {
        let own = self.classes.iter().enumerate();
        let own = own.map(|(index, class)| (format!("classes: {index}: cidrs"), &class.cidrs));
        let lists = [
            ("internal_hosts", &self.internal_hosts),
            ("localhost", &self.localhost),
            ("k8s_pod", &self.k8s_pod),
            ("k8s_svc", &self.k8s_svc),
            ("dns", &self.dns),
            ("docker", &self.docker),
            ("abnormal_black_list", &self.abnormal_black_list),
            ("abnormal_white_list", &self.abnormal_white_list),
        ];
        let lists = lists.into_iter().map(|(key, list)| (key.to_owned(), list));
        lists.chain(own)
    }

    /// The files that its lists name.
    pub(super) fn files(&self) -> Vec<&Path> {
        let entries = self.lists().flat_map(|(_, list)| list);
        entries.filter_map(Entry::file).collect()
    }

    /// The keys to the entry that names `file`, as the beginning of a [`BuildError`](flowtap_pipeline::BuildError)'s message.
    pub(super) fn keys_to(&self, file: &Path) -> Option<String> {
        self.lists().find_map(|(keys, list)| {
            let index = list.iter().position(|entry| entry.file() == Some(file))?;
            Some(format!("{keys}: {index}"))
        })
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default()
            // Port 53 on the server's side is DNS.
            .needs(RecordField::Role)
            .reads_addresses()
            .fills([RecordField::Class])
            .fills_with(RecordField::PolicyRule, &["rules"], self.rules)
            .classes(self.classes.iter().map(|class| &class.name))
            .reads(self.files())
            .depends_on(Dependency::ClusterRanges)
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        let mut names = HashSet::new();
        for (index, class) in self.classes.iter().enumerate() {
            let name = &class.name;
            let message = if PeerClass::is_built_in(name) {
                format!("`{name}` is a built-in class; hint: set its ranges in its own list")
            } else if !names.insert(name) {
                format!("duplicate class `{name}`; hint: add to the `cidrs` of the first")
            } else if !is_class_name(name) {
                format!("invalid class name `{name}`: expected letters, digits, `_` and `-`, a letter first")
            } else {
                continue;
            };
            faults.push(Violation::new(&format!("classes.{index}.name"), message));
        }
        faults
    }
}

fn is_class_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_own_classes_must_be_new_and_fit_for_a_label() {
        let class = |name: &str| CustomClass {
            name: name.to_owned(),
            cidrs: Vec::new(),
        };
        let config = Config {
            classes: ["partners", "dns", "partners", "9lives", "a b", "cdn-eu"]
                .map(class)
                .into(),
            ..Config::default()
        };
        let at: Vec<_> = config
            .validate()
            .into_iter()
            .map(|fault| fault.path[1].clone())
            .collect();
        assert_eq!(at, ["1", "2", "3", "4"]);
    }
}
