//! Config of the processor `filter`.

use flowtap_pipeline::{ComponentConfig, Contract, RecordField, Transport, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ports::PortRange;
use crate::cidr::Cidr;

/// Settings. A record passes if a matcher of `include` matches it, or if there are none, and if no matcher of `exclude` does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Matchers of records to keep. Empty: all.
    pub include: Vec<Matcher>,
    /// Matchers of records to drop.
    pub exclude: Vec<Matcher>,
    /// Whether connections of this process are kept: scrapes of its metrics, and what its exporters push.
    #[serde(rename = "self")]
    pub own: OwnTraffic,
}

/// Handling of flowtap's own connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OwnTraffic {
    /// They are filtered like any others.
    #[default]
    Include,
    /// They are dropped.
    Exclude,
}

/// Side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// This machine opened the connection.
    Client,
    /// This machine accepted it.
    Server,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TransportName {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    UdpLite,
}

impl From<TransportName> for Transport {
    fn from(name: TransportName) -> Self {
        match name {
            TransportName::Tcp => Self::Tcp,
            TransportName::Udp => Self::Udp,
            TransportName::UdpLite => Self::UdpLite,
        }
    }
}

/// Conditions that a record must meet, all of them. Each is a list of which one entry has to match. Names may have `*` and `?`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Matcher {
    /// Ranges, `10.0.0.0/8` or single addresses: of either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Vec<Cidr>>,
    /// The same, of the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<Vec<Cidr>>,
    /// The same, of this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<Vec<Cidr>>,
    /// Ports, `443` or `8000-8100`: of either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Vec<PortRange>>,
    /// The same, of the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<Vec<PortRange>>,
    /// The same, of this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<Vec<PortRange>>,
    /// The same, of the side that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_port: Option<Vec<PortRange>>,
    /// One or two ends, in either order: the first is one end of the connection, the second the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<Vec<End>>,
    /// Classes of the peer, such as `localhost`, or custom ones of `policy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Vec<String>>,
    /// `client` if this machine opened the connection, `server` if it accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Vec<Side>>,
    /// `tcp`, `udp` or `udplite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Vec<TransportName>>,
    /// Inode numbers of network namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<Vec<u32>>,
    /// Names of processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<Vec<String>>,
    /// Ids of containers, or their first 12 digits or more; `*` for any container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<Vec<String>>,
    /// Namespaces of the peer; `*` for any, `""` for a peer without one. The processor `kubernetes` fills this and the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_namespace: Option<Vec<String>>,
    /// Pods of the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_pod: Option<Vec<String>>,
    /// Workloads of the peer: `Deployment/web`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_workload: Option<Vec<String>>,
    /// Services of the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_service: Option<Vec<String>>,
    /// Nodes of the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_node: Option<Vec<String>>,
    /// Namespaces of this side's pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_namespace: Option<Vec<String>>,
    /// Pods of this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pod: Option<Vec<String>>,
    /// Workloads of this side's pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_workload: Option<Vec<String>>,
}

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct End {
    /// Its ranges. Unset: any address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Vec<Cidr>>,
    /// Its ports. Unset: any port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Vec<PortRange>>,
}

/// Length of a list that is set.
fn len<T>(list: Option<&Vec<T>>) -> Option<usize> {
    list.map(Vec::len)
}

fn append<T>(list: &mut Option<Vec<T>>, more: Option<Vec<T>>) {
    match (list, more) {
        (Some(list), Some(mut more)) => list.append(&mut more),
        (list, more) => *list = list.take().or(more),
    }
}

impl Matcher {
    /// Its keys that are set, each with the number of entries.
    fn keys(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let all = [
            ("address", len(self.address.as_ref())),
            ("remote_address", len(self.remote_address.as_ref())),
            ("local_address", len(self.local_address.as_ref())),
            ("port", len(self.port.as_ref())),
            ("remote_port", len(self.remote_port.as_ref())),
            ("local_port", len(self.local_port.as_ref())),
            ("server_port", len(self.server_port.as_ref())),
            ("ends", len(self.ends.as_ref())),
            ("class", len(self.class.as_ref())),
            ("role", len(self.role.as_ref())),
            ("transport", len(self.transport.as_ref())),
            ("netns", len(self.netns.as_ref())),
            ("comm", len(self.comm.as_ref())),
            ("container_id", len(self.container_id.as_ref())),
            ("peer_namespace", len(self.peer_namespace.as_ref())),
            ("peer_pod", len(self.peer_pod.as_ref())),
            ("peer_workload", len(self.peer_workload.as_ref())),
            ("peer_service", len(self.peer_service.as_ref())),
            ("peer_node", len(self.peer_node.as_ref())),
            ("local_namespace", len(self.local_namespace.as_ref())),
            ("local_pod", len(self.local_pod.as_ref())),
            ("local_workload", len(self.local_workload.as_ref())),
        ];
        all.into_iter().filter_map(|(key, len)| Some((key, len?)))
    }

    /// Its only key, if a list of another matcher with that key alone can be joined to its list.
    pub(super) fn only_list(&self) -> Option<&'static str> {
        let mut keys = self.keys();
        let (key, _) = keys.next()?;
        // Two lists of ends are not one.
        (keys.next().is_none() && key != "ends").then_some(key)
    }

    /// Joins the lists of `other` to its own: it matches what either did, if both have the same single key.
    pub(super) fn join(&mut self, other: Self) {
        append(&mut self.address, other.address);
        append(&mut self.remote_address, other.remote_address);
        append(&mut self.local_address, other.local_address);
        append(&mut self.port, other.port);
        append(&mut self.remote_port, other.remote_port);
        append(&mut self.local_port, other.local_port);
        append(&mut self.server_port, other.server_port);
        append(&mut self.class, other.class);
        append(&mut self.role, other.role);
        append(&mut self.transport, other.transport);
        append(&mut self.netns, other.netns);
        append(&mut self.comm, other.comm);
        append(&mut self.container_id, other.container_id);
        append(&mut self.peer_namespace, other.peer_namespace);
        append(&mut self.peer_pod, other.peer_pod);
        append(&mut self.peer_workload, other.peer_workload);
        append(&mut self.peer_service, other.peer_service);
        append(&mut self.peer_node, other.peer_node);
        append(&mut self.local_namespace, other.local_namespace);
        append(&mut self.local_pod, other.local_pod);
        append(&mut self.local_workload, other.local_workload);
    }

    /// Names of processes that the kernel can't have, each with its index and the part of it that the kernel keeps.
    fn endless_names(&self) -> impl Iterator<Item = (usize, &str, String)> {
        let names = self.comm.iter().flatten().enumerate();
        names.filter_map(|(index, name)| {
            let mut bytes = 0;
            // An escape stands for one byte: `\x09`.
            let mut escaped = 0;
            let kept: String = name
                .char_indices()
                .take_while(|(at, c)| {
                    if *at < escaped {
                        return true;
                    }
                    let digits = name[*at..].strip_prefix("\\x").and_then(|rest| rest.get(..2));
                    if digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
                        escaped = at + 4;
                    }
                    bytes += match c {
                        '*' => 0,
                        // It stands for any byte that is not UTF-8, `?` for any character.
                        '\u{fffd}' | '?' => 1,
                        c => c.len_utf8(),
                    };
                    bytes <= COMM_BYTES
                })
                .map(|(_, c)| c)
                .collect();
            (kept.len() < name.len()).then_some((index, &**name, kept))
        })
    }

    /// Whether one of its keys is about what can become known, or change, while a connection is open.
    pub(super) fn can_change(&self) -> bool {
        self.keys().any(|(key, _)| !STABLE_KEYS.contains(&key))
    }

    fn validate(&self, at: &str, faults: &mut Vec<Violation>) {
        let mut keys = self.keys().peekable();
        if keys.peek().is_none() {
            let message =
                "has no condition, so it matches every record; hint: set a key such as `port`, or remove it";
            faults.push(Violation::new(at, message));
        }
        for (key, len) in keys {
            if len == 0 {
                let message =
                    "is an empty list, which matches no record; hint: add an entry, or remove the key";
                faults.push(Violation::new(&format!("{at}.{key}"), message));
            }
        }
        for (key, list) in [("comm", &self.comm), ("container_id", &self.container_id)] {
            let empty = list.iter().flatten().position(String::is_empty);
            if let Some(index) = empty {
                let message = "is empty, which matches no record; hint: remove it, or write `*` for any";
                faults.push(Violation::new(&format!("{at}.{key}.{index}"), message));
            }
        }
        let ends = self.ends.as_deref().unwrap_or_default();
        if ends.len() > 2 {
            let message = format!(
                "has {} entries, and a connection has 2 ends; hint: one matcher for each pair",
                ends.len()
            );
            faults.push(Violation::new(&format!("{at}.ends"), message));
        }
        for (index, end) in ends.iter().enumerate() {
            let at = format!("{at}.ends.{index}");
            match (len(end.address.as_ref()), len(end.port.as_ref())) {
                (None, None) => faults.push(Violation::new(
                    &at,
                    "has no condition; hint: set `address`, `port` or both",
                )),
                (Some(0), _) | (_, Some(0)) => {
                    faults.push(Violation::new(&at, "has an empty list, which matches no record"));
                }
                _ => {}
            }
        }
    }
}

/// Bytes of a process's name that the kernel keeps (`TASK_COMM_LEN` without the zero).
const COMM_BYTES: usize = 15;

/// Keys whose fields are the same in every record of a connection.
const STABLE_KEYS: [&str; 9] = [
    "address",
    "remote_address",
    "local_address",
    "port",
    "remote_port",
    "local_port",
    "ends",
    "transport",
    "netns",
];

/// The field of a record that the key of a matcher is about, if only some components fill it.
fn field(key: &str) -> Option<RecordField> {
    match key {
        "server_port" | "role" => Some(RecordField::Role),
        "class" => Some(RecordField::Class),
        "netns" => Some(RecordField::Netns),
        "comm" => Some(RecordField::Process),
        "container_id" => Some(RecordField::Container),
        _ if key.starts_with("peer_")
            || matches!(key, "local_namespace" | "local_pod" | "local_workload") =>
        {
            Some(RecordField::ClusterNames)
        }
        _ => None,
    }
}

impl Config {
    /// The matchers of both lists, each with its place.
    fn matchers(&self) -> impl Iterator<Item = (&'static str, usize, &Matcher)> {
        let lists = [("include", &self.include), ("exclude", &self.exclude)];
        lists.into_iter().flat_map(|(list, matchers)| {
            let matchers = matchers.iter().enumerate();
            matchers.map(move |(index, matcher)| (list, index, matcher))
        })
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        let mut contract = Contract::default().drops_records();
        if self.own == OwnTraffic::Exclude {
            contract = contract.needs_for(RecordField::Process, &["self"]);
        }
        for (list, index, matcher) in self.matchers() {
            let index = index.to_string();
            for (key, _) in matcher.keys() {
                if key == "ends" || key.ends_with("address") {
                    contract = contract.reads_addresses();
                }
                if let Some(field) = field(key) {
                    contract = contract.needs_for(field, &[list, &index, key]);
                }
            }
            for (entry, class) in matcher.class.iter().flatten().enumerate() {
                contract = contract.names_class(class, &[list, &index, "class", &entry.to_string()]);
            }
        }
        contract
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        for (list, index, matcher) in self.matchers() {
            matcher.validate(&format!("{list}.{index}"), &mut faults);
        }
        faults
    }

    fn warnings(&self) -> Vec<Violation> {
        if self == &Self::default() {
            let message = "keeps every record; hint: set `include`, `exclude` or `self: exclude`, or remove the processor";
            return vec![Violation::new("", message)];
        }
        let mut warnings = Vec::new();
        for (list, index, matcher) in self.matchers() {
            for (entry, name, kept) in matcher.endless_names() {
                let message = format!(
                    "`{name}` matches no process, as the kernel keeps {COMM_BYTES} bytes of a name; hint: write `{kept}`"
                );
                warnings.push(Violation::new(&format!("{list}.{index}.comm.{entry}"), message));
            }
        }
        warnings
    }
}
