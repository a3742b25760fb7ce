//! Whether policies allow a conversation, and the rule that decides.
//!
//! The rules, per direction and pod (API reference of `NetworkPolicySpec`, and "Network Policies" of the Kubernetes concepts):
//!
//! 1. A pod always reaches itself, and its own node always reaches it and is reached by it.
//! 2. A pod that no policy selects for the direction is not isolated: everything is allowed.
//! 3. Else what any rule of any policy that selects it allows is allowed; the first such rule is named. Everything else is
//!    denied, by all policies that select it.
//! 4. A conversation is allowed if its client's egress and its server's ingress are. Answers need no rule.
//!
//! Choices where the reference leaves one: a pod on its node's network is its node, so selectors neither select nor match it
//! (the most common implementation, says the reference); `ipBlock` matches pods' addresses as well; a service is judged by
//! the pods behind it, after the translation of addresses.
//!
//! A verdict that can't be known is `Undecided`, never allowed or denied: a selector that would have to match a pod that is not
//! known, or a namespace of which only the name is known.

mod idle;

pub use self::idle::Idle;

use std::collections::HashMap;
use std::fmt;

use flowtap_model::cluster_objects::PortProtocol;

use crate::cluster::{Cluster, PodId};
use crate::conversation::{Conversation, End, Party};
use crate::policy::{Direction, NetworkPolicy, Peer, Port, PortMatch, Rule};
use crate::selector::Selector;
use crate::service_ports::named_ports;

/// Why no policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// The end is not a pod that policies can select.
    NotAPod,
    /// The other end is the same pod.
    SamePod,
    /// The other end is the pod's own node.
    OwnNode,
}

/// A rule, by its place in its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// `namespace/name` of the policy.
    pub policy: String,
    /// The direction.
    pub direction: Direction,
    /// The rule's index.
    pub rule: usize,
    /// Index of the peer that matched; `None` if the rule names none.
    pub peer: Option<usize>,
    /// Index of the port that matched; `None` if the rule names none.
    pub port: Option<usize>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} spec.{}[{}]", self.policy, self.direction, self.rule)?;
        if let Some(peer) = self.peer {
            write!(f, ".{}[{peer}]", self.direction.peers_key())?;
        }
        match (self.peer, self.port) {
            (Some(_), Some(port)) => write!(f, " and .ports[{port}]"),
            (None, Some(port)) => write!(f, ".ports[{port}]"),
            (_, None) => Ok(()),
        }
    }
}

/// The decision of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No policy is asked.
    Exempt(Exemption),
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule allows it.
    Allowed(RuleRef),
    /// It depends on a pod, or on labels of a namespace, that are not known.
    Undecided {
        /// The policies that would have to be asked.
        policies: Vec<String>,
        /// The rule that may allow it; `None` if it is not known which policies select the pod.
        rule: Option<RuleRef>,
        /// The namespace whose labels decide and are not known; `None` if it is a pod that is not known.
        namespace: Option<String>,
    },
    /// No rule of the policies that isolate the pod allows it.
    Denied {
        /// These policies.
        policies: Vec<String>,
        /// A rule that names the peer, with other ports.
        near: Option<(RuleRef, String)>,
    },
}

impl Decision {
    /// The outcome.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Exempt(_) | Self::NotIsolated | Self::Allowed(_) => Outcome::Allowed,
            Self::Undecided { .. } => Outcome::Undecided,
            Self::Denied { .. } => Outcome::Denied,
        }
    }

    /// The name of its kind, for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exempt(Exemption::NotAPod) => "not_a_pod",
            Self::Exempt(Exemption::SamePod) => "same_pod",
            Self::Exempt(Exemption::OwnNode) => "own_node",
            Self::NotIsolated => "not_isolated",
            Self::Allowed(_) => "allowed",
            Self::Undecided { .. } => "undecided",
            Self::Denied { .. } => "denied",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exempt(Exemption::NotAPod) => f.write_str("not a pod that policies can select"),
            Self::Exempt(Exemption::SamePod) => f.write_str("a pod always reaches itself"),
            Self::Exempt(Exemption::OwnNode) => f.write_str("a pod and its own node always reach each other"),
            Self::NotIsolated => f.write_str("no policy isolates the pod"),
            Self::Allowed(rule) => write!(f, "allowed by {rule}"),
            Self::Undecided {
                rule: Some(rule),
                namespace: Some(namespace),
                ..
            } => write!(
                f,
                "depends on labels of the namespace {namespace}, which is not listed: {rule}"
            ),
            Self::Undecided { rule: Some(rule), .. } => write!(f, "depends on an unknown pod: {rule}"),
            Self::Undecided {
                policies, rule: None, ..
            } => {
                write!(
                    f,
                    "depends on whether {} select the unknown pod",
                    policies.join(", ")
                )
            }
            Self::Denied { policies, near } => {
                write!(
                    f,
                    "isolated by {}, no rule of which allows it",
                    policies.join(", ")
                )?;
                match near {
                    Some((rule, ports)) => write!(f, "; {rule} allows the peer on {ports}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Whether a conversation is allowed. In this order the worse wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It is.
    Allowed,
    /// It can't be known.
    Undecided,
    /// It is not.
    Denied,
}

impl Outcome {
    /// Its name, for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Undecided => "undecided",
            Self::Denied => "denied",
        }
    }
}

/// The decisions of both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of the client's pod.
    pub egress: Decision,
    /// Of the server's pod.
    pub ingress: Decision,
}

impl Verdict {
    /// The outcome for the conversation.
    pub fn outcome(&self) -> Outcome {
        self.egress.outcome().max(self.ingress.outcome())
    }
}

/// Truth of a match, where a pod may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Maybe,
    Yes,
}

impl From<bool> for Match {
    fn from(matches: bool) -> Self {
        if matches { Self::Yes } else { Self::No }
    }
}

/// Policies, ready to judge conversations in one cluster.
#[derive(Debug)]
pub struct Judge<'a> {
    cluster: &'a Cluster,
    policies: &'a [NetworkPolicy],
    by_namespace: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Judge<'a> {
    /// Of `policies`, in `cluster`.
    pub fn new(policies: &'a [NetworkPolicy], cluster: &'a Cluster) -> Self {
        let mut by_namespace = HashMap::<_, Vec<_>>::new();
        for (index, policy) in policies.iter().enumerate() {
            by_namespace.entry(&*policy.namespace).or_default().push(index);
        }
        Self {
            cluster,
            policies,
            by_namespace,
        }
    }

    /// The verdict on a conversation.
    pub fn judge(&self, conversation: &Conversation) -> Verdict {
        let Conversation { client, server, .. } = conversation;
        Verdict {
            egress: self.decide(Direction::Egress, client, server, conversation),
            ingress: self.decide(Direction::Ingress, server, client, conversation),
        }
    }

    fn decide(&self, direction: Direction, own: &End, other: &End, about: &Conversation) -> Decision {
        let selected: Vec<&NetworkPolicy> = match &own.party {
            Party::Node(_) | Party::Outside | Party::Anything => {
                return Decision::Exempt(Exemption::NotAPod);
            }
            Party::Pod(id) => {
                // An address is of one pod: the other end may be known with the labels that it had at another time.
                if other.party == own.party || other.address == own.address {
                    return Decision::Exempt(Exemption::SamePod);
                }
                let node = &self.cluster.pod(*id).node;
                if matches!(&other.party, Party::Node(name) if name == node && !name.is_empty()) {
                    return Decision::Exempt(Exemption::OwnNode);
                }
                self.selecting(*id)
                    .filter(|it| it.rules(direction).is_some())
                    .collect()
            }
            // An address is of one pod, whichever this is.
            Party::UnknownPod | Party::Assumed if other.address == own.address => {
                return Decision::Exempt(Exemption::SamePod);
            }
            Party::UnknownPod => {
                let policies: Vec<_> = self.isolating(direction).map(ToString::to_string).collect();
                return if policies.is_empty() {
                    Decision::NotIsolated
                } else {
                    Decision::Undecided {
                        policies,
                        rule: None,
                        namespace: None,
                    }
                };
            }
            Party::Assumed => self.isolating(direction).collect(),
        };
        if selected.is_empty() {
            return Decision::NotIsolated;
        }
        self.by_rules(direction, &selected, other, about)
    }

    /// The policies that isolate anything in this direction.
    fn isolating(&self, direction: Direction) -> impl Iterator<Item = &'a NetworkPolicy> {
        self.policies
            .iter()
            .filter(move |it| it.rules(direction).is_some())
    }

    /// The policies that select a pod.
    fn selecting(&self, id: PodId) -> impl Iterator<Item = &'a NetworkPolicy> {
        let pod = self.cluster.pod(id);
        let there = self.by_namespace.get(&*pod.namespace).into_iter().flatten();
        let policies = there.map(|index| &self.policies[*index]);
        policies.filter(|policy| policy.pods.matches(&pod.labels))
    }

    fn by_rules(
        &self,
        direction: Direction,
        selected: &[&NetworkPolicy],
        other: &End,
        about: &Conversation,
    ) -> Decision {
        let (mut may, mut near) = (None, None);
        for policy in selected {
            for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                let (peer_matches, peer) = self.peers(policy, rule, other);
                let (port_matches, port) = self.ports(rule, about);
                let reference = RuleRef {
                    policy: policy.to_string(),
                    direction,
                    rule: index,
                    peer,
                    port,
                };
                match peer_matches.min(port_matches) {
                    Match::Yes => return Decision::Allowed(reference),
                    Match::Maybe => may = may.or(Some(reference)),
                    Match::No if peer_matches == Match::Yes => {
                        let ports: Vec<_> = rule.ports.iter().map(Port::to_string).collect();
                        near = near.or(Some((reference, ports.join(", "))));
                    }
                    Match::No => {}
                }
            }
        }
        let policies = selected.iter().map(ToString::to_string).collect();
        match may {
            Some(rule) => Decision::Undecided {
                policies,
                rule: Some(rule),
                // A pod that is known leaves open nothing but its namespace.
                namespace: match &other.party {
                    Party::Pod(id) => Some(self.cluster.pod(*id).namespace.clone()),
                    _ => None,
                },
            },
            None => Decision::Denied { policies, near },
        }
    }

    /// Whether a rule's peers match, and the one that does best.
    fn peers(&self, policy: &NetworkPolicy, rule: &Rule, other: &End) -> (Match, Option<usize>) {
        best(&rule.peers, |peer| self.peer(policy, peer, other))
    }

    fn peer(&self, policy: &NetworkPolicy, peer: &Peer, other: &End) -> Match {
        let (namespaces, pods) = match peer {
            Peer::Block { cidr, except } => {
                let is_out = except.iter().any(|net| net.contains(&other.address));
                return (cidr.contains(&other.address) && !is_out).into();
            }
            Peer::Pods { namespaces, pods } => (namespaces, pods),
        };
        let id = match &other.party {
            Party::Pod(id) => *id,
            Party::UnknownPod | Party::Anything | Party::Assumed => return Match::Maybe,
            Party::Node(_) | Party::Outside => return Match::No,
        };
        let pod = self.cluster.pod(id);
        let in_namespace = match namespaces {
            None => (pod.namespace == policy.namespace).into(),
            Some(selector) => self.namespace(selector, id),
        };
        let is_selected = pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels));
        in_namespace.min(is_selected.into())
    }

    fn namespace(&self, selector: &Selector, id: PodId) -> Match {
        let Some(labels) = self.cluster.namespace_of(id) else {
            return Match::No;
        };
        if self.cluster.is_listed(id) {
            return selector.matches(labels).into();
        }
        selector.matches_partly(labels).map_or(Match::Maybe, Match::from)
    }

    /// Whether a rule's ports match, and the one that does best.
    fn ports(&self, rule: &Rule, about: &Conversation) -> (Match, Option<usize>) {
        best(&rule.ports, |port| {
            if Some(port.protocol) == about.protocol {
                self.port(&port.port, port.protocol, about)
            } else {
                Match::No
            }
        })
    }

    fn port(&self, port: &PortMatch, protocol: PortProtocol, about: &Conversation) -> Match {
        match port {
            PortMatch::Any => Match::Yes,
            PortMatch::Range(first, last) => (*first <= about.port && about.port <= *last).into(),
            // A name is looked up in the pod that is connected to, in both directions.
            PortMatch::Name(name) => match &about.server.party {
                Party::Pod(id) => {
                    let mut named = named_ports(self.cluster.pod(*id), name, protocol);
                    named.any(|port| port == about.port).into()
                }
                Party::UnknownPod | Party::Anything | Party::Assumed => Match::Maybe,
                Party::Node(_) | Party::Outside => Match::No,
            },
        }
    }
}

/// The best match among `elements` and its index. An empty list matches everything.
fn best<T>(elements: &[T], matches: impl Fn(&T) -> Match) -> (Match, Option<usize>) {
    if elements.is_empty() {
        return (Match::Yes, None);
    }
    let mut found = (Match::No, None);
    for (index, element) in elements.iter().enumerate() {
        let now = matches(element);
        if now > found.0 {
            found = (now, Some(index));
        }
    }
    found
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
