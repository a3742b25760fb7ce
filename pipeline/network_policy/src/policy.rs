//! A `NetworkPolicy`, checked and with its defaults filled in.

use std::fmt;

use flowtap_model::cluster_objects::PortProtocol;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::selector::Selector;

/// A direction, from the view of the pod that a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// The key of its rules in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The key of the peers in one of its rules.
    pub const fn peers_key(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Pods: in the policy's namespace if `namespaces` is `None`, and all of them if `pods` is `None`.
    Pods {
        /// `namespaceSelector`.
        namespaces: Option<Selector>,
        /// `podSelector`.
        pods: Option<Selector>,
    },
    /// Addresses in `cidr` and in none of `except`.
    Block {
        /// `cidr`.
        cidr: IpNet,
        /// `except`.
        except: Vec<IpNet>,
    },
}

impl Peer {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        match self {
            Self::Pods { namespaces, pods } => {
                if let Some(namespaces) = namespaces {
                    object.insert("namespaceSelector".to_owned(), namespaces.to_value());
                }
                if let Some(pods) = pods {
                    object.insert("podSelector".to_owned(), pods.to_value());
                }
            }
            Self::Block { cidr, except } => {
                let mut block = json!({"cidr": cidr.to_string()});
                if !except.is_empty() {
                    block["except"] = except.iter().map(|net| Value::from(net.to_string())).collect();
                }
                object.insert("ipBlock".to_owned(), block);
            }
        }
        Value::Object(object)
    }
}

/// The port numbers that an element of `ports` stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortMatch {
    /// All of the protocol.
    Any,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The port that the destination pod gives this name.
    Name(String),
}

/// An element of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its protocol.
    pub protocol: PortProtocol,
    /// Its numbers.
    pub port: PortMatch,
}

impl Port {
    fn to_value(&self) -> Value {
        let mut object = json!({"protocol": self.protocol.as_str()});
        match &self.port {
            PortMatch::Any => {}
            PortMatch::Range(first, last) => {
                object["port"] = json!(first);
                if last > first {
                    object["endPort"] = json!(last);
                }
            }
            PortMatch::Name(name) => object["port"] = json!(name),
        }
        object
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol.as_str())?;
        match &self.port {
            PortMatch::Any => Ok(()),
            PortMatch::Range(first, last) if first == last => write!(f, " {first}"),
            PortMatch::Range(first, last) => write!(f, " {first}-{last}"),
            PortMatch::Name(name) => write!(f, " {name}"),
        }
    }
}

/// A rule: any of its peers on any of its ports. An empty list stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `from` or `to`.
    pub peers: Vec<Peer>,
    /// `ports`.
    pub ports: Vec<Port>,
}

impl Rule {
    fn to_value(&self, direction: Direction) -> Value {
        let mut object = Map::new();
        if !self.peers.is_empty() {
            let peers = self.peers.iter().map(Peer::to_value).collect();
            object.insert(direction.peers_key().to_owned(), peers);
        }
        if !self.ports.is_empty() {
            let ports = self.ports.iter().map(Port::to_value).collect();
            object.insert("ports".to_owned(), ports);
        }
        Value::Object(object)
    }
}

/// A policy. It isolates the pods that it selects in each direction that it has rules for, if only an empty list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace, which the pods that it selects are in.
    pub namespace: String,
    /// Its name; `web-*` for one that the API server generates from `web-`.
    pub name: String,
    /// `podSelector`.
    pub pods: Selector,
    /// Rules of the direction; `None` if `policyTypes` does not have it.
    pub ingress: Option<Vec<Rule>>,
    /// As `ingress`.
    pub egress: Option<Vec<Rule>>,
}

impl NetworkPolicy {
    /// Whether its name is what the API server generates one from: others may have the same.
    pub fn is_name_generated(&self) -> bool {
        self.name.ends_with('*')
    }

    /// The rules of a direction; `None` if the policy does not isolate in it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Its form in the API.
    pub fn to_value(&self) -> Value {
        let mut spec = json!({"podSelector": self.pods.to_value()});
        let mut types = Vec::new();
        for (direction, name) in [(Direction::Ingress, "Ingress"), (Direction::Egress, "Egress")] {
            let Some(rules) = self.rules(direction) else {
                continue;
            };
            types.push(name);
            if !rules.is_empty() {
                spec[direction.as_str()] = rules.iter().map(|rule| rule.to_value(direction)).collect();
            }
        }
        spec["policyTypes"] = json!(types);
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        })
    }
}

impl fmt::Display for NetworkPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
