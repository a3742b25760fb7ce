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
//! known, or a namespace of which only the name is known; for the pods of a service that are not known, also their addresses and ports. It
//! is known if it is the same whichever policies select a pod that is not known.

mod decision;
mod idle;

pub use self::decision::{Decision, Exemption, Outcome, RuleRef, Verdict};
pub use self::idle::Idle;

use std::collections::HashMap;

use flowtap_model::cluster_objects::PortProtocol;

use crate::cluster::{Cluster, NAMESPACE_NAME, PodId};
use crate::conversation::{Conversation, End, Party};
use crate::policy::{Direction, NetworkPolicy, Peer, Port, PortMatch, Rule};
use crate::selector::Selector;
use crate::service_ports::named_ports;

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
            Party::UnknownPod | Party::UnknownBackend | Party::Assumed if other.address == own.address => {
                return Decision::Exempt(Exemption::SamePod);
            }
            Party::UnknownPod | Party::UnknownBackend => {
                return self.whichever_selects(direction, other, about);
            }
            Party::Assumed => self.isolating(direction).collect(),
        };
        if selected.is_empty() {
            return Decision::NotIsolated;
        }
        self.by_rules(direction, &selected, other, about)
    }

    /// The decision for a pod of which it is not known which policies select it: that of every selection, if they agree. That none selects
    /// it is possible always, so they never agree on a denial.
    fn whichever_selects(&self, direction: Direction, other: &End, about: &Conversation) -> Decision {
        let (allowing, mut open): (Vec<_>, Vec<_>) = self.isolating(direction).partition(|policy| {
            let decision = self.by_rules(direction, &[policy], other, about);
            decision.outcome() == Outcome::Allowed
        });
        // A policy that does not allow it does not matter if each pod that it selects is selected by one that does.
        open.retain(|policy| {
            let there = allowing.iter().filter(|it| it.namespace == policy.namespace);
            let there: Vec<_> = there.map(|it| &it.pods).collect();
            policy.pods.matches_without(&there)
        });
        let names = |policies: &[&NetworkPolicy]| policies.iter().map(ToString::to_string).collect();
        if !open.is_empty() {
            Decision::Undecided {
                policies: names(&open),
                rule: None,
                namespace: None,
            }
        } else if allowing.is_empty() {
            Decision::NotIsolated
        } else {
            Decision::AllowedByEach {
                policies: names(&allowing),
            }
        }
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
        let mut open = Vec::new();
        for policy in selected {
            for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                let (peer_matches, peer) = self.peers(policy, rule, other);
                let (port_matches, port) = self.ports(rule, about);
                let reference = || RuleRef {
                    policy: policy.to_string(),
                    direction,
                    rule: index,
                    peer,
                    port,
                };
                match peer_matches.min(port_matches) {
                    Match::Yes => return Decision::Allowed(reference()),
                    Match::Maybe => {
                        may = may.or_else(|| Some(reference()));
                        if port_matches == Match::Yes {
                            open.extend(self.open_namespaces(policy, rule, other));
                        }
                    }
                    Match::No if peer_matches == Match::Yes && near.is_none() => {
                        let ports: Vec<_> = rule.ports.iter().map(Port::to_string).collect();
                        near = Some((reference(), ports.join(", ")));
                    }
                    Match::No => {}
                }
            }
        }
        let policies = selected.iter().map(ToString::to_string).collect();
        match may {
            Some(rule) if self.is_in_any(other, &open) => Decision::Allowed(rule),
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

    /// The selectors of a rule that labels of the peer's namespace decide about which are not known.
    fn open_namespaces<'b>(
        &'b self,
        policy: &'b NetworkPolicy,
        rule: &'b Rule,
        other: &'b End,
    ) -> impl Iterator<Item = &'b Selector> {
        let peers = rule.peers.iter();
        let open = peers.filter(|peer| self.peer(policy, peer, other) == Match::Maybe);
        open.filter_map(|peer| match peer {
            Peer::Pods { namespaces, .. } => namespaces.as_ref(),
            Peer::Block { .. } => None,
        })
    }

    /// Whether the namespace of a known pod is selected by one of these, whatever its labels are that are not known.
    fn is_in_any(&self, other: &End, selectors: &[&Selector]) -> bool {
        let Party::Pod(id) = other.party else {
            return false;
        };
        let name = self.cluster.pod(id).namespace.clone();
        let known = Selector::of_labels([(NAMESPACE_NAME.to_owned(), name)].into());
        !known.matches_without(selectors)
    }

    /// Whether a rule's peers match, and the one that does best.
    fn peers(&self, policy: &NetworkPolicy, rule: &Rule, other: &End) -> (Match, Option<usize>) {
        best(&rule.peers, |peer| self.peer(policy, peer, other))
    }

    fn peer(&self, policy: &NetworkPolicy, peer: &Peer, other: &End) -> Match {
        let (namespaces, pods) = match peer {
            Peer::Block { cidr, except } if other.party == Party::UnknownBackend => {
                // Its address is of the family that the service's is of.
                return match cidr.prefix_len() {
                    _ if cidr.addr().is_ipv4() != other.address.is_ipv4() => Match::No,
                    0 if except.is_empty() => Match::Yes,
                    _ => Match::Maybe,
                };
            }
            Peer::Block { cidr, except } => {
                let is_out = except.iter().any(|net| net.contains(&other.address));
                return (cidr.contains(&other.address) && !is_out).into();
            }
            Peer::Pods { namespaces, pods } => (namespaces, pods),
        };
        let id = match &other.party {
            Party::Pod(id) => *id,
            // Also for a selector of everything: an address in the pods' range may be a node's, as of its bridge or tunnel.
            Party::UnknownPod | Party::UnknownBackend | Party::Anything | Party::Assumed => {
                return Match::Maybe;
            }
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
            // The port is the service's, not its pod's.
            PortMatch::Range(first, last) if about.server.party == Party::UnknownBackend => {
                match (*first, *last) {
                    (..=1, u16::MAX) => Match::Yes,
                    _ => Match::Maybe,
                }
            }
            PortMatch::Range(first, last) => (*first <= about.port && about.port <= *last).into(),
            // A name is looked up in the pod that is connected to, in both directions.
            PortMatch::Name(name) => match &about.server.party {
                Party::Pod(id) => {
                    let mut named = named_ports(self.cluster.pod(*id), name, protocol);
                    named.any(|port| port == about.port).into()
                }
                Party::UnknownPod | Party::UnknownBackend | Party::Anything | Party::Assumed => Match::Maybe,
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
