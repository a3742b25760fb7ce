//! Observed flows joined with the cluster: which pods, nodes and other addresses talk to each other.
//!
//! The rules:
//!
//! 1. This machine's end is the pod of its container; else the pod that has its address; else the node.
//! 2. The other end is the pod, the node, or the service that has its address; else it is outside the cluster. An address in
//!    the pods' range that no known pod has is of a pod that is unknown.
//! 3. A service's address stands for each pod behind the service that has the port, at that pod's port: policies apply after the
//!    translation. The pods behind a port that no service of the address has are not known, unless the address is a node's, nor are those of
//!    a service that selects no pod that is known: their addresses and ports are not the service's.
//! 4. A pod on its node's network is its node.
//! 5. Loopback is not judged: it stays in one pod.
//! 6. Without pods, this machine's end is assumed to be selected by every policy, and the other may be any pod.
//! 7. An address is of the pod that had it when the flow was seen ([`crate::history`]); if that is not known, of a pod that is unknown.
//! 8. A conversation that was seen at both of its ends is one. An end that is not known to the other is what it is known to be where it
//!    was seen, if it was seen there for all of that time; a pod that it is known to be to the other is not replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use flowtap_model::cluster_objects::PortProtocol;

use crate::cluster::{Cluster, PodId};
use crate::history::{Backends, Ends, Owner};
use crate::observed::{Observed, ObservedFlow, Sides, Tally};

/// The kind of an end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// A pod with an address of its own.
    Pod(PodId),
    /// A node, or a pod on its network.
    Node(String),
    /// A pod that is not known.
    UnknownPod,
    /// The same, of a service: the address and the port are the service's, and those of the pod are not known.
    UnknownBackend,
    /// Neither.
    Outside,
    /// Without a cluster: the end that policies are applied to.
    Assumed,
    /// Without a cluster: anything.
    Anything,
}

impl Party {
    /// Whether a machine that has seen the other end does not know it: it may be any other.
    const fn is_guess(&self) -> bool {
        match self {
            Self::UnknownPod | Self::UnknownBackend | Self::Outside | Self::Anything => true,
            Self::Node(name) => name.is_empty(),
            Self::Pod(_) | Self::Assumed => false,
        }
    }
}

/// An end of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// Its kind.
    pub party: Party,
    /// Its address. That of a pod is one of its own.
    pub address: IpAddr,
}

/// The subject of a verdict: two ends, and the server's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conversation {
    /// The end that connects.
    pub client: End,
    /// The end that is connected to.
    pub server: End,
    /// The server's port.
    pub port: u16,
    /// The protocol; `None` for one that policies do not know.
    pub protocol: Option<PortProtocol>,
}

/// Conversations, and what was left out.
#[derive(Debug, Default)]
pub struct Conversations {
    /// Each conversation, and how much of it was seen.
    pub seen: BTreeMap<Conversation, Sides>,
    /// Pods that were seen from inside: of the others only a part of the traffic is known.
    pub local_pods: BTreeSet<PodId>,
    /// Records of flows over loopback.
    pub loopback: u64,
    /// Flows of which only connects were seen that failed, or still waited.
    pub attempts: u64,
    /// Flows to services without a selector, judged by the service's address.
    pub unresolved_services: u64,
    /// Flows to a port of a service's address that no service has: its pods are not known.
    pub without_port: u64,
    /// Flows to a service whose selector selects no pod that is known.
    pub without_pods: u64,
    /// Flows with an address that several pods have or had, or whose pod had ended: whose it was then is not known.
    pub unclear: u64,
}

impl Conversations {
    /// Adds what was observed on a machine with the addresses `machine`. Without `attempts`, flows that never connected are
    /// counted and left out.
    pub fn add(&mut self, observed: &Observed, cluster: &Cluster, machine: &[IpAddr], attempts: bool) {
        self.loopback += observed.loopback;
        let here = machine.iter().find_map(|address| cluster.node_at(*address));
        for (flow, ends, tally) in observed.iter() {
            if tally.is_attempt() && !attempts {
                self.attempts += 1;
            } else {
                let view = View {
                    flow,
                    ends,
                    observed,
                    cluster,
                    machine,
                };
                let local = view.local_end(here);
                if let Party::Pod(id) = local.party {
                    self.local_pods.insert(id);
                }
                // Which of a service's pods had how many connections is not known: the sum over them is right.
                let mut tally = *tally;
                for conversation in self.conversations(&view, &local) {
                    let sides = self.seen.entry(conversation).or_default();
                    let side = if flow.serves {
                        &mut sides.server
                    } else {
                        &mut sides.client
                    };
                    side.add(&tally);
                    tally = Tally {
                        when: tally.when,
                        ..Tally::default()
                    };
                }
            }
        }
        self.unite();
    }

    /// Makes one conversation of those that have the same addresses and port, and that one end's view and the other's may be of. An
    /// address is of several pods in turn, so that a view with another pod stays, as does one that may be of more than one.
    fn unite(&mut self) {
        let mut same = BTreeMap::<_, Vec<Conversation>>::new();
        for conversation in self.seen.keys() {
            let Conversation {
                client,
                server,
                port,
                protocol,
            } = conversation;
            let ends = (client.address, server.address, *port, *protocol);
            same.entry(ends).or_default().push(conversation.clone());
        }
        for views in same.into_values().filter(|views| views.len() > 1) {
            let wholes: Vec<_> = views.iter().map(|view| self.whole(view, &views)).collect();
            for (view, whole) in views.into_iter().zip(wholes) {
                if view != whole {
                    let sides = self.seen.remove(&view).unwrap_or_default();
                    self.seen.entry(whole).or_default().add(&sides);
                }
            }
        }
    }

    /// A view with the end that it only guesses as those of the other `views` know it which were seen there.
    fn whole(&self, view: &Conversation, views: &[Conversation]) -> Conversation {
        let seen = |view: &Conversation| self.seen.get(view).copied().unwrap_or_default();
        let sides = seen(view);
        let mut whole = view.clone();
        match (sides.client.is_seen(), sides.server.is_seen()) {
            (true, false) => {
                let others = views.iter().map(|other| {
                    let own = (&other.server, seen(other).server);
                    (own, &other.client)
                });
                if let Some(server) = known((&view.server, sides.client), &view.client, others) {
                    whole.server = server;
                }
            }
            (false, true) => {
                let others = views.iter().map(|other| {
                    let own = (&other.client, seen(other).client);
                    (own, &other.server)
                });
                if let Some(client) = known((&view.client, sides.server), &view.server, others) {
                    whole.client = client;
                }
            }
            _ => {}
        }
        whole
    }

    fn conversations(&mut self, view: &View<'_>, local: &End) -> Vec<Conversation> {
        let View { flow, cluster, .. } = *view;
        let is_local_unclear = is_unclear(view.local_owner(), local);
        let protocol = flow.protocol();
        let conversation = |remote: End, port| {
            let (client, server) = if flow.serves {
                (remote, local.clone())
            } else {
                (local.clone(), remote)
            };
            Conversation {
                client,
                server,
                port,
                protocol,
            }
        };
        let remote = flow.remote;
        let behind = view.behind();
        let mut has_pods = !matches!(behind, Some(Behind::NoPods));
        if let Some(Behind::Pods(backends)) = &behind {
            let ends = backends.iter().filter_map(|(id, port)| {
                let pod = cluster.pod(*id);
                let same_family = |addr: &&IpAddr| addr.is_ipv4() == remote.is_ipv4();
                let address = *pod.addresses.iter().find(same_family)?;
                let party = if pod.host_network {
                    Party::Node(pod.node.clone())
                } else {
                    Party::Pod(*id)
                };
                Some(conversation(End { party, address }, *port))
            });
            let found: Vec<_> = ends.collect();
            if !found.is_empty() {
                self.unclear += u64::from(is_local_unclear);
                return found;
            }
            // Pods without an address of the family that the service's is of are not those that have been reached.
            has_pods = backends.is_empty();
            self.unresolved_services += u64::from(has_pods);
        }
        let mut party = view.remote(local);
        let has_port = !matches!(behind, Some(Behind::NoPort));
        if matches!(party, Party::Outside | Party::UnknownPod) && !(has_port && has_pods) {
            party = Party::UnknownBackend;
            let count = if has_port {
                &mut self.without_pods
            } else {
                &mut self.without_port
            };
            *count += 1;
        }
        let end = End {
            party,
            address: remote,
        };
        self.unclear += u64::from(is_local_unclear || is_unclear(view.remote_owner(), &end));
        vec![conversation(end, flow.port)]
    }
}

/// The end that `guess` is, seen from the end `own`: the only one of the other end's views that `own` may be in, if they cover the time.
fn known<'a>(
    (guess, tally): (&End, Tally),
    own: &End,
    others: impl Iterator<Item = ((&'a End, Tally), &'a End)>,
) -> Option<End> {
    if !guess.party.is_guess() {
        return None;
    }
    let is_during = |other: &Tally| match (tally.when, other.when) {
        // Without pods there is nothing that an address changes to.
        _ if guess.party == Party::Anything => true,
        (Some(when), Some(other)) => when.is_within(&other),
        _ => true,
    };
    let fitting = others.filter(|((end, seen), guess)| {
        seen.is_seen()
            && is_during(seen)
            && !matches!(end.party, Party::UnknownPod | Party::UnknownBackend)
            && (*guess == own || guess.party.is_guess())
    });
    let ends: BTreeSet<_> = fitting.map(|((end, _), _)| end).collect();
    let mut ends = ends.into_iter();
    match (ends.next(), ends.next()) {
        (Some(end), None) => Some(end.clone()),
        _ => None,
    }
}

/// The ends behind an address of services.
#[derive(Debug)]
enum Behind {
    /// The pods of a service, with the port of each.
    Pods(Vec<(PodId, u16)>),
    /// A service that has the port selects no pod that is known.
    NoPods,
    /// No service has the port.
    NoPort,
}

/// A flow, and what is known of its ends.
#[derive(Clone, Copy, Debug)]
struct View<'a> {
    flow: &'a ObservedFlow,
    ends: &'a Ends,
    observed: &'a Observed,
    cluster: &'a Cluster,
    /// Addresses of the machine that has seen the flow.
    machine: &'a [IpAddr],
}

impl View<'_> {
    /// The pod that had an address; `elsewhere` is what the cluster's objects have, for an observation without pods.
    fn pod(&self, owner: Owner, elsewhere: impl FnOnce() -> Option<PodId>) -> Option<PodId> {
        match owner {
            Owner::Elsewhere => elsewhere(),
            Owner::Pod(version) => self.observed.pod(version),
            Owner::Unclear | Owner::Nobody => None,
        }
    }

    /// The pod of this end's container, as the cluster's objects have it.
    fn contained(&self) -> Option<PodId> {
        let container = self.flow.container.as_deref();
        container.and_then(|id| self.cluster.pod_of_container(id))
    }

    /// Whose this machine's end was. A file of a cluster's objects may have several pods with one address.
    fn local_owner(&self) -> Owner {
        match self.ends.local {
            Owner::Elsewhere if self.contained().is_none() && self.cluster.is_shared(self.flow.local) => {
                Owner::Unclear
            }
            owner => owner,
        }
    }

    /// The same of the peer.
    fn remote_owner(&self) -> Owner {
        match self.ends.remote {
            Owner::Elsewhere if self.cluster.is_shared(self.flow.remote) => Owner::Unclear,
            owner => owner,
        }
    }

    /// The ends behind the peer, if it is a service.
    fn behind(&self) -> Option<Behind> {
        if self.flow.serves {
            return None;
        }
        if self.ends.local != Owner::Elsewhere {
            return Some(match self.ends.backends.as_ref()? {
                Backends::NoPort => Behind::NoPort,
                Backends::NoPods => Behind::NoPods,
                Backends::Pods(pods) => {
                    let pods = pods.iter();
                    let known =
                        pods.filter_map(|(version, port)| Some((self.observed.pod(*version)?, *port)));
                    Behind::Pods(known.collect())
                }
            });
        }
        if !self.cluster.is_service(self.flow.remote) {
            return None;
        }
        let ObservedFlow { remote, port, .. } = *self.flow;
        let of_protocol = |protocol| {
            let pods = self.cluster.backends(remote, port, protocol)?;
            if pods.is_empty() && self.cluster.has_selector(remote, port, protocol) {
                return Some(Behind::NoPods);
            }
            Some(Behind::Pods(pods))
        };
        let behind = self.flow.protocol().and_then(of_protocol);
        Some(behind.unwrap_or(Behind::NoPort))
    }

    fn remote(&self, local: &End) -> Party {
        let Self { cluster, machine, .. } = *self;
        let remote = self.flow.remote;
        if !cluster.has_pods() {
            return Party::Anything;
        }
        let owner = self.remote_owner();
        if let Some(id) = self.pod(owner, || cluster.pod_at(remote)) {
            return Party::Pod(id);
        }
        if machine.contains(&remote) {
            // An address of the machine that no object names is its node's: a bridge, a gateway of pods.
            return match (&local.party, cluster.node_at(remote)) {
                (Party::Pod(id), _) => Party::Node(cluster.pod(*id).node.clone()),
                (_, Some(name)) => Party::Node(name.to_owned()),
                _ => Party::Node(String::new()),
            };
        }
        if let Some(name) = cluster.node_at(remote) {
            Party::Node(name.to_owned())
        } else if owner == Owner::Unclear || cluster.is_pod_range(remote) {
            Party::UnknownPod
        } else {
            Party::Outside
        }
    }

    /// This machine's end. `here` is the name of its node.
    fn local_end(&self, here: Option<&str>) -> End {
        let Self { cluster, machine, .. } = *self;
        let address = self.flow.local;
        if !cluster.has_pods() {
            return End {
                party: Party::Assumed,
                address,
            };
        }
        let elsewhere = || self.contained().or_else(|| cluster.pod_at(address));
        let owner = self.local_owner();
        let party = match self.pod(owner, elsewhere) {
            Some(id) if cluster.pod(id).host_network => Party::Node(cluster.pod(id).node.clone()),
            Some(id) => Party::Pod(id),
            // A bridge of the node has an address of its pods' range.
            None if machine.contains(&address) => {
                let name = cluster.node_at(address).or(here).unwrap_or_default();
                Party::Node(name.to_owned())
            }
            None if cluster.node_at(address).is_some() => {
                Party::Node(cluster.node_at(address).unwrap_or_default().to_owned())
            }
            None if owner == Owner::Unclear || cluster.is_pod_range(address) => Party::UnknownPod,
            None => Party::Node(String::new()),
        };
        End { party, address }
    }
}

/// Whether an end is of a pod that is not known because of what happened to its address.
const fn is_unclear(owner: Owner, end: &End) -> bool {
    matches!((owner, &end.party), (Owner::Unclear, Party::UnknownPod))
}

#[cfg(test)]
mod tests;
