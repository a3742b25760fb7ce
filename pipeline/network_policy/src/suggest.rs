//! The least policies that allow what was observed.
//!
//! The rules:
//!
//! 1. A policy for each workload of which a pod was seen from inside. It selects by the labels that all its pods share, as few
//!    of them as distinguish it from other pods of its namespace.
//! 2. A policy allows everything observed of every pod that it selects, those of other workloads with the same labels too: so
//!    no pod is isolated by a policy that does not know its traffic.
//! 3. A peer that is a pod is allowed by its workload's labels and its namespace's name; one outside the cluster by its
//!    address, or the whole prefix or named range that this is in. No prefix or range contains an address of the cluster: a
//!    node, what was seen on one where no pods are known, a service and a pod that is not known are allowed by their own addresses alone.
//! 4. A pod and itself, and a pod and its own node, need no rule.
//! 5. Where UDP was not observed, or not with its peers, a policy allows DNS, which nothing works without.
//! 6. Without pods, one policy selects every pod of a namespace, with addresses alone.
//! 7. Objects are read leniently, from files and recordings. Names and labels that the API server would refuse are in no
//!    suggested policy.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use flowtap_model::cluster_objects::{ObjectLabels, PodObject, PortProtocol};
use flowtap_model::plain_text;
use ipnet::IpNet;

use crate::cluster::{Cluster, NAMESPACE_NAME, PodId};
use crate::conversation::{Conversation, Conversations, End, Party};
use crate::manifest::names::{is_label_key, is_label_value, is_namespace};
use crate::policy::{Direction, NetworkPolicy, Peer, Port, PortMatch, Rule};
use crate::selector::Selector;

/// Labels that differ between pods of a workload, or change with each of its revisions.
const VOLATILE: [&str; 12] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "helm.sh/chart",
    "app.kubernetes.io/version",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Labels that name a workload by convention: tried first.
const NAMING: [&str; 6] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "k8s-app",
    "app",
    "name",
];

/// Settings.
#[derive(Clone, Debug)]
pub struct SuggestOptions {
    /// Prefix length that IPv4 addresses outside the cluster are widened to, where none of the cluster's addresses is in it.
    pub prefix_v4: u8,
    /// The same for IPv6.
    pub prefix_v6: u8,
    /// Named ranges: an address outside the cluster in one is allowed by the whole range, or the part of it that no address of the cluster
    /// is in.
    pub ranges: Vec<(IpNet, String)>,
    /// Ranges of pods beside those of the nodes.
    pub pod_ranges: Vec<IpNet>,
    /// Ranges of services.
    pub service_ranges: Vec<IpNet>,
    /// Why DNS is allowed that was not seen; `None` if it is not.
    pub dns: Option<&'static str>,
    /// The namespace of the policy that is made without pods.
    pub namespace: String,
}

impl Default for SuggestOptions {
    fn default() -> Self {
        Self {
            prefix_v4: 32,
            prefix_v6: 128,
            ranges: Vec::new(),
            pod_ranges: Vec::new(),
            service_ranges: Vec::new(),
            dns: Some("no UDP was observed"),
            namespace: "default".to_owned(),
        }
    }
}

/// A policy, and what to know before it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// The policy.
    pub policy: NetworkPolicy,
    /// Notes.
    pub notes: Vec<String>,
}

/// The policies, by namespace and name, and workloads that none can be made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suggestions {
    /// The policies.
    pub policies: Vec<Suggestion>,
    /// Workloads without a policy, with the reason.
    pub without: Vec<String>,
}

/// Makes policies for what was observed; none for nothing.
pub fn suggest(seen: &Conversations, cluster: &Cluster, options: &SuggestOptions) -> Suggestions {
    if seen.seen.is_empty() {
        // A policy without rules would deny everything.
        return Suggestions::default();
    }
    let ranges = options.pod_ranges.iter().chain(&options.service_ranges);
    let mut inside = cluster.addresses();
    inside.extend(ranges.map(IpNet::network));
    let ends = seen.seen.keys().flat_map(|it| [&it.client, &it.server]);
    inside.extend(ends.filter(|end| is_of_node(end)).map(|end| end.address));
    let mut pods = HashMap::<_, Vec<_>>::new();
    for (id, pod) in cluster.pods() {
        let member = Member {
            id,
            pod,
            workload: workload_of(pod).1,
        };
        pods.entry(&*pod.namespace).or_default().push(member);
    }
    let mut conversations = HashMap::<_, Vec<_>>::new();
    for conversation in seen.seen.keys() {
        let Conversation { client, server, .. } = conversation;
        for (direction, own) in [(Direction::Egress, client), (Direction::Ingress, server)] {
            let key = (direction, &own.party);
            conversations.entry(key).or_default().push(conversation);
        }
    }
    let maker = Maker {
        seen,
        cluster,
        options,
        inside,
        pods,
        conversations,
        selectors: RefCell::default(),
    };
    if !cluster.has_pods() {
        return maker.by_address();
    }
    maker.by_workload()
}

struct Maker<'a> {
    seen: &'a Conversations,
    cluster: &'a Cluster,
    options: &'a SuggestOptions,
    /// Addresses that no widened prefix may contain: those of the cluster, and the first one of each of its ranges.
    inside: BTreeSet<IpAddr>,
    /// The pods of each namespace.
    pods: HashMap<&'a str, Vec<Member<'a>>>,
    /// The conversations of each end.
    conversations: HashMap<(Direction, &'a Party), Vec<&'a Conversation>>,
    /// Selectors that have been made, by namespace and workload.
    selectors: RefCell<HashMap<(String, String), Selector>>,
}

/// A pod, and the owner that is its workload.
struct Member<'a> {
    id: PodId,
    pod: &'a PodObject,
    workload: String,
}

impl Maker<'_> {
    fn by_address(&self) -> Suggestions {
        let mut notes =
            vec!["without pods: selects every pod of the namespace, and allows addresses alone".to_owned()];
        let policy = self.policy(
            "flowtap-observed",
            &self.options.namespace,
            Selector::default(),
            &[Party::Assumed],
            &mut notes,
        );
        Suggestions {
            policies: vec![Suggestion { policy, notes }],
            without: Vec::new(),
        }
    }

    fn by_workload(&self) -> Suggestions {
        let mut suggestions = Suggestions::default();
        let local = self.seen.local_pods.iter().map(|id| self.cluster.pod(*id));
        let workloads: BTreeSet<_> = local.map(workload_of).collect();
        let mut made = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (namespace, workload) in workloads {
            if !is_namespace(&namespace) {
                let reason = "its namespace has a name that no cluster accepts";
                suggestions
                    .without
                    .push(format!("{}: {reason}", shown(&namespace, &workload)));
                continue;
            }
            let selector = self.selector(&namespace, &workload);
            if selector.labels.is_empty() {
                let reason = "its pods share no label that a policy could select them by";
                suggestions
                    .without
                    .push(format!("{}: {reason}", shown(&namespace, &workload)));
                continue;
            }
            if !made.insert((namespace.clone(), selector.clone())) {
                continue;
            }
            let mut notes = Vec::new();
            let others = self.other_workloads(&namespace, &workload, &selector);
            if !others.is_empty() {
                notes.push(format!("its labels also select {}", others.join(", ")));
            }
            let name = unique_name(&namespace, &workload, &mut names);
            let selected = self.selected(&namespace, &selector);
            let own: Vec<_> = selected.map(|member| Party::Pod(member.id)).collect();
            let policy = self.policy(&name, &namespace, selector, &own, &mut notes);
            suggestions.policies.push(Suggestion { policy, notes });
        }
        suggestions
    }

    fn policy(
        &self,
        name: &str,
        namespace: &str,
        pods: Selector,
        own: &[Party],
        notes: &mut Vec<String>,
    ) -> NetworkPolicy {
        let mut egress = self.rules(Direction::Egress, namespace, own, notes);
        if let Some(reason) = self.options.dns {
            egress.push(dns_rule());
            notes.push(format!("{reason}: DNS to kube-dns is allowed unseen"));
        }
        NetworkPolicy {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            pods,
            ingress: Some(self.rules(Direction::Ingress, namespace, own, notes)),
            egress: Some(egress),
        }
    }

    /// A rule per set of ports, with every peer that was seen on just these.
    fn rules(
        &self,
        direction: Direction,
        namespace: &str,
        parties: &[Party],
        notes: &mut Vec<String>,
    ) -> Vec<Rule> {
        let mut ports_of = BTreeMap::<Peer, BTreeSet<Option<Port>>>::new();
        let of_each = parties
            .iter()
            .filter_map(|party| self.conversations.get(&(direction, party)));
        let conversations: BTreeSet<_> = of_each.flatten().collect();
        for conversation in conversations {
            let Conversation { client, server, .. } = conversation;
            let (own, other) = match direction {
                Direction::Ingress => (server, client),
                Direction::Egress => (client, server),
            };
            if own.address == other.address || self.is_own_node(own, other) {
                continue;
            }
            let port = conversation.protocol.map(|protocol| Port {
                protocol,
                // Port 0 stands for one that is not known.
                port: match conversation.port {
                    0 => PortMatch::Any,
                    port => PortMatch::Range(port, port),
                },
            });
            let peer = self.peer(namespace, other, notes);
            ports_of.entry(peer).or_default().insert(port);
        }
        let mut rules = BTreeMap::<Vec<Port>, Vec<Peer>>::new();
        for (peer, ports) in ports_of {
            // A protocol that policies do not know is allowed by a rule without ports alone.
            let ports = ports.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default();
            rules.entry(ports).or_default().push(peer);
        }
        rules
            .into_iter()
            .map(|(ports, peers)| Rule { peers, ports })
            .collect()
    }

    fn is_own_node(&self, own: &End, other: &End) -> bool {
        match (&own.party, &other.party) {
            (Party::Pod(id), Party::Node(name)) => !name.is_empty() && *name == self.cluster.pod(*id).node,
            _ => false,
        }
    }

    fn peer(&self, namespace: &str, other: &End, notes: &mut Vec<String>) -> Peer {
        let Party::Pod(id) = other.party else {
            return self.block(other, notes);
        };
        let pod = self.cluster.pod(id);
        let (own, workload) = workload_of(pod);
        let selector = self.selector(&own, &workload);
        if selector.labels.is_empty() {
            note(
                notes,
                format!(
                    "{} has no labels: the whole namespace {} is allowed in its place",
                    shown(&own, &workload),
                    plain_text::name(&own)
                ),
            );
        }
        let name = [(NAMESPACE_NAME.to_owned(), own.clone())].into();
        let labels = self.cluster.namespace_of(id);
        let is_labelled = labels.and_then(|labels| labels.get(NAMESPACE_NAME)) == Some(&own);
        if own != namespace && !(is_labelled && is_label_value(&own)) {
            // Somebody has changed the label that the API server sets, or the name is none that a cluster accepts.
            return self.block(other, notes);
        }
        Peer::Pods {
            namespaces: (own != namespace).then(|| Selector::of_labels(name)),
            pods: Some(selector),
        }
    }

    fn block(&self, other: &End, notes: &mut Vec<String>) -> Peer {
        let address = other.address;
        let exact = |cidr| Peer::Block {
            cidr,
            except: Vec::new(),
        };
        if self.is_pod(other) {
            let reason = match other.party {
                Party::Pod(_) => {
                    "is of a pod that no selector can name; another pod can have this address later"
                }
                Party::UnknownBackend => {
                    "is of services, and the pods behind the port are not known: policies apply to these, not to the service's address"
                }
                Party::UnknownPod if self.cluster.is_shared(address) => {
                    "is of several pods, and which of them was meant is not known"
                }
                _ => {
                    "is in the cluster's range of pods, and no pod that is known has it; another pod can have this address later"
                }
            };
            note(notes, format!("doubtful: {address} {reason}"));
            return exact(IpNet::from(address));
        }
        let is_inside = is_of_node(other)
            || self
                .options
                .service_ranges
                .iter()
                .any(|range| range.contains(&address));
        if is_inside {
            return exact(IpNet::from(address));
        }
        let mut holding = self
            .options
            .ranges
            .iter()
            .filter(|(range, _)| range.contains(&address));
        let outside = self.shortest_outside(address);
        let whole = IpNet::from(address);
        let prefix = |length: u8| {
            let length = length.min(whole.max_prefix_len());
            IpNet::new(address, length).map_or(whole, |net| net.trunc())
        };
        if let Some((range, name)) = holding.next() {
            let (range, length) = (range.trunc(), range.prefix_len());
            if length >= outside {
                note(notes, format!("{range} is {name}"));
                return exact(range);
            }
            let cidr = prefix(outside);
            note(
                notes,
                format!(
                    "{cidr} instead of {range}, which is {name} and has addresses of {}",
                    self.inside_of()
                ),
            );
            return exact(cidr);
        }
        let wanted = match address {
            IpAddr::V4(_) => self.options.prefix_v4,
            IpAddr::V6(_) => self.options.prefix_v6,
        };
        let cidr = prefix(wanted.max(outside));
        if cidr.prefix_len() > wanted {
            note(
                notes,
                format!(
                    "{cidr} instead of a /{wanted}, which has addresses of {}",
                    self.inside_of()
                ),
            );
        }
        exact(cidr)
    }

    /// The owner of the addresses that no prefix may have.
    const fn inside_of(&self) -> &'static str {
        if self.cluster.has_pods() {
            "the cluster"
        } else {
            "the cluster or of ends on a recorded node"
        }
    }

    /// Whether the end is a pod, known or not.
    fn is_pod(&self, end: &End) -> bool {
        let address = end.address;
        match end.party {
            Party::Pod(_) | Party::UnknownPod | Party::UnknownBackend => true,
            Party::Node(_) | Party::Assumed => false,
            Party::Outside | Party::Anything => {
                self.cluster.is_pod_range(address)
                    || self
                        .options
                        .pod_ranges
                        .iter()
                        .any(|range| range.contains(&address))
            }
        }
    }

    /// Length of the shortest prefix of an address that has no address of the cluster. For an address outside a range all
    /// addresses of the range differ from it in the same bit, so the first one stands for them.
    fn shortest_outside(&self, address: IpAddr) -> u8 {
        // In the order of addresses the one that has the most leading bits in common is a neighbour.
        let below = self.inside.range(..=address).next_back();
        let above = self.inside.range(address..).next();
        let common = below.into_iter().chain(above);
        common
            .filter_map(|inside| common_bits(*inside, address))
            .max()
            .map_or(0, |bits| bits + 1)
    }

    /// As few of the labels that all pods of a workload share as select no other pod of its namespace; if some are selected
    /// anyway, all that make a difference.
    fn selector(&self, namespace: &str, workload: &str) -> Selector {
        let key = (namespace.to_owned(), workload.to_owned());
        if let Some(made) = self.selectors.borrow().get(&key) {
            return made.clone();
        }
        let made = self.new_selector(namespace, workload);
        self.selectors.borrow_mut().insert(key, made.clone());
        made
    }

    fn new_selector(&self, namespace: &str, workload: &str) -> Selector {
        let there = self.members(namespace);
        let mut members = there.iter().filter(|it| it.workload == workload);
        let Some(first) = members.next() else {
            return Selector::default();
        };
        let mut shared = first.pod.labels.clone();
        for member in members {
            shared.retain(|key, value| member.pod.labels.get(key) == Some(value));
        }
        shared.retain(|key, value| {
            !VOLATILE.contains(&key.as_str()) && is_label_key(key) && is_label_value(value)
        });
        let others = |labels: &ObjectLabels| {
            let selector = Selector::of_labels(labels.clone());
            there
                .iter()
                .filter(|it| it.workload != workload && selector.matches(&it.pod.labels))
                .count()
        };
        let naming = NAMING.iter().filter_map(|key| shared.get_key_value(*key));
        let rest = shared.iter().filter(|(key, _)| !NAMING.contains(&key.as_str()));
        let (mut chosen, mut left) = (ObjectLabels::new(), usize::MAX);
        for (key, value) in naming.chain(rest) {
            if left == 0 {
                break;
            }
            chosen.insert(key.clone(), value.clone());
            let now = others(&chosen);
            if now == left && chosen.len() > 1 {
                // It distinguishes nothing.
                chosen.remove(key);
            }
            left = now;
        }
        Selector::of_labels(chosen)
    }

    fn members(&self, namespace: &str) -> &[Member<'_>] {
        self.pods.get(namespace).map_or(&[], Vec::as_slice)
    }

    fn selected(&self, namespace: &str, selector: &Selector) -> impl Iterator<Item = &Member<'_>> {
        let there = self.members(namespace).iter();
        there.filter(move |it| selector.matches(&it.pod.labels))
    }

    fn other_workloads(&self, namespace: &str, workload: &str, selector: &Selector) -> Vec<String> {
        let workloads = self.selected(namespace, selector).map(|member| &member.workload);
        let others: BTreeSet<_> = workloads.filter(|other| *other != workload).collect();
        others
            .into_iter()
            .map(|other| plain_text::name(other).into_owned())
            .collect()
    }
}

/// Whether the end is on a node: the node itself, or, where no pods are known, whatever has this address on a recorded machine.
const fn is_of_node(end: &End) -> bool {
    matches!(end.party, Party::Node(_) | Party::Assumed)
}

/// Namespace and owner of a pod; one without an owner is its own workload.
pub fn workload_of(pod: &PodObject) -> (String, String) {
    let workload = if pod.workload.is_empty() {
        format!("Pod/{}", pod.name)
    } else {
        pod.workload.clone()
    };
    (pod.namespace.clone(), workload)
}

/// A workload in a note.
fn shown(namespace: &str, workload: &str) -> String {
    format!("{}/{}", plain_text::name(namespace), plain_text::name(workload))
}

fn dns_rule() -> Rule {
    let labels =
        |key: &str, value: &str| Some(Selector::of_labels([(key.to_owned(), value.to_owned())].into()));
    let port = |protocol| Port {
        protocol,
        port: PortMatch::Range(53, 53),
    };
    Rule {
        peers: vec![Peer::Pods {
            namespaces: labels(NAMESPACE_NAME, "kube-system"),
            pods: labels("k8s-app", "kube-dns"),
        }],
        ports: vec![port(PortProtocol::Udp), port(PortProtocol::Tcp)],
    }
}

/// The number of leading bits that two addresses have in common; `None` for addresses of different families.
fn common_bits(one: IpAddr, other: IpAddr) -> Option<u8> {
    let zeros = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return None,
    };
    u8::try_from(zeros).ok()
}

fn note(notes: &mut Vec<String>, text: String) {
    if !notes.contains(&text) {
        notes.push(text);
    }
}

/// Longest part of a policy's name that is its workload's: `flowtap-` and a number have to fit into 253 bytes beside it.
const MAX_WORKLOAD_NAME: usize = 230;

/// A name for the policy of a workload: `flowtap-web`, as a DNS-1123 subdomain, with a number where that is taken.
fn unique_name(namespace: &str, workload: &str, taken: &mut BTreeSet<(String, String)>) -> String {
    let name = workload.split_once('/').map_or(workload, |(_, name)| name);
    let base = match subdomain(name) {
        name if name.is_empty() => "flowtap".to_owned(),
        name => format!("flowtap-{name}"),
    };
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    let mut names = std::iter::once(base.clone()).chain(numbered);
    names
        .find(|name| taken.insert((namespace.to_owned(), name.clone())))
        .unwrap_or(base)
}

/// `name` as a DNS-1123 subdomain: in lower case, with `-` for characters that it can't have. Empty if none is left.
fn subdomain(name: &str) -> String {
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.') => c,
        _ => '-',
    };
    let name: String = name.chars().map(allowed).take(MAX_WORKLOAD_NAME).collect();
    // Each label begins and ends with a letter or a digit.
    let labels = name.split('.').map(|label| label.trim_matches('-'));
    let labels: Vec<_> = labels.filter(|label| !label.is_empty()).collect();
    labels.join(".")
}

#[cfg(test)]
mod tests;
