//! Look-ups in a cluster's objects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use flowtap_model::cluster_objects::{ClusterObjects, ObjectLabels, PodObject, PortProtocol};
use ipnet::IpNet;

use crate::history::History;
use crate::service_ports::{backend_port, service_port};

/// The label that the API server puts on every namespace.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Index of a pod in its [`Cluster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub(crate) usize);

/// The objects, and indexes of them.
#[derive(Debug, Default)]
pub struct Cluster {
    /// After the pods that were listed last come those of histories.
    objects: ClusterObjects,
    /// Number of pods that were listed last.
    listed: usize,
    namespaces: HashMap<String, ObjectLabels>,
    /// Labels of the namespaces of pods of histories that have others now.
    namespaces_then: HashMap<PodId, ObjectLabels>,
    /// Namespaces that only their pods name: of their labels no other than that with their name is known.
    unlisted: HashSet<String>,
    pods_by_address: HashMap<IpAddr, Vec<PodId>>,
    pods_by_container: HashMap<String, PodId>,
    services: HashMap<IpAddr, Vec<usize>>,
    nodes: HashMap<IpAddr, String>,
}

impl Cluster {
    /// Indexes `objects`. `machine` are the addresses of the machine that flows were observed on: they are of its node.
    pub fn new(objects: ClusterObjects, machine: &[IpAddr]) -> Self {
        let mut cluster = Self::default();
        for pod in &objects.pods {
            // Every pod's namespace exists, whether it was listed or not.
            cluster.namespaces.entry(pod.namespace.clone()).or_default();
            cluster.unlisted.insert(pod.namespace.clone());
        }
        for namespace in &objects.namespaces {
            cluster.unlisted.remove(&namespace.name);
            cluster
                .namespaces
                .insert(namespace.name.clone(), namespace.labels.clone());
        }
        for (name, labels) in &mut cluster.namespaces {
            *labels = with_name(std::mem::take(labels), name);
        }
        for node in &objects.nodes {
            let addresses = node.addresses.iter().map(|addr| (*addr, node.name.clone()));
            cluster.nodes.extend(addresses);
        }
        for (index, pod) in objects.pods.iter().enumerate() {
            let id = PodId(index);
            let containers = pod.containers.iter().map(|container| (container.clone(), id));
            cluster.pods_by_container.extend(containers);
            if !pod.node.is_empty() {
                let on_host = pod.host_network.then_some(&pod.addresses).into_iter().flatten();
                let addresses = pod.node_addresses.iter().chain(on_host);
                cluster
                    .nodes
                    .extend(addresses.map(|addr| (*addr, pod.node.clone())));
            }
            if !pod.host_network && !pod.ended {
                for address in &pod.addresses {
                    let pods = cluster.pods_by_address.entry(*address).or_default();
                    if pods.last() != Some(&id) {
                        pods.push(id);
                    }
                }
            }
        }
        for (index, service) in objects.services.iter().enumerate() {
            for address in &service.addresses {
                cluster.services.entry(*address).or_default().push(index);
            }
        }
        let here = machine.iter().find_map(|addr| cluster.nodes.get(addr)).cloned();
        if let Some(here) = here {
            // Loopback is not an address of the node for anybody else.
            let own = machine.iter().filter(|addr| !addr.is_loopback());
            cluster.nodes.extend(own.map(|addr| (*addr, here.clone())));
        }
        cluster.listed = objects.pods.len();
        cluster.objects = objects;
        cluster
    }

    /// Whether any pod is known. Without one, policies can be judged by address alone.
    pub const fn has_pods(&self) -> bool {
        !self.objects.pods.is_empty()
    }

    /// The pod with this id.
    pub fn pod(&self, id: PodId) -> &PodObject {
        &self.objects.pods[id.0]
    }

    /// Every pod with an address of its own.
    pub fn pods(&self) -> impl Iterator<Item = (PodId, &PodObject)> {
        let pods = self.objects.pods.iter().enumerate();
        pods.filter(|(_, pod)| !pod.host_network)
            .map(|(index, pod)| (PodId(index), pod))
    }

    /// The pod that has this address now; `None` if several have it.
    pub fn pod_at(&self, address: IpAddr) -> Option<PodId> {
        match self.pods_by_address.get(&address)?[..] {
            [id] => Some(id),
            _ => None,
        }
    }

    /// Whether several pods have this address: which of them a flow is of is not known.
    pub fn is_shared(&self, address: IpAddr) -> bool {
        let pods = self.pods_by_address.get(&address);
        pods.is_some_and(|pods| pods.len() > 1)
    }

    /// The pod of a container.
    pub fn pod_of_container(&self, container: &str) -> Option<PodId> {
        self.pods_by_container.get(container).copied()
    }

    /// The node that has this address.
    pub fn node_at(&self, address: IpAddr) -> Option<&str> {
        self.nodes.get(&address).map(String::as_str)
    }

    /// Whether the address is in a range that pods get theirs from.
    pub fn is_pod_range(&self, address: IpAddr) -> bool {
        let mut ranges = self.objects.nodes.iter().flat_map(|node| &node.pod_ranges);
        ranges.any(|range: &IpNet| range.contains(&address))
    }

    /// The addresses of pods, nodes and services, and the first one of each range of pods.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        let objects = &self.objects;
        let pods = objects.pods.iter().flat_map(|pod| &pod.addresses);
        let services = objects.services.iter().flat_map(|service| &service.addresses);
        let ranges = objects.nodes.iter().flat_map(|node| &node.pod_ranges);
        let mut addresses: BTreeSet<IpAddr> =
            pods.chain(services).chain(self.nodes.keys()).copied().collect();
        addresses.extend(ranges.map(IpNet::network));
        addresses
    }

    /// Labels of a namespace, the one with its name included.
    pub fn namespace(&self, name: &str) -> Option<&ObjectLabels> {
        self.namespaces.get(name)
    }

    /// Labels of a pod's namespace.
    pub fn namespace_of(&self, id: PodId) -> Option<&ObjectLabels> {
        let then = self.namespaces_then.get(&id);
        then.or_else(|| self.namespace(&self.pod(id).namespace))
    }

    /// Whether all labels of a pod's namespace are known.
    pub fn is_listed(&self, id: PodId) -> bool {
        self.namespaces_then.contains_key(&id) || !self.unlisted.contains(&self.pod(id).namespace)
    }

    /// Whether a service has this address.
    pub fn is_service(&self, address: IpAddr) -> bool {
        self.services.contains_key(&address)
    }

    /// The pods behind a port of a service's address, each with its own port: empty if they are not chosen by a selector, and `None` if no
    /// service of the address has the port. Several may have it.
    pub fn backends(&self, address: IpAddr, port: u16, protocol: PortProtocol) -> Option<Vec<(PodId, u16)>> {
        let services = self.services.get(&address).into_iter().flatten();
        let services = services.map(|index| &self.objects.services[*index]);
        let services: Vec<_> = services
            .filter(|service| service_port(service, port, protocol).is_some())
            .collect();
        if services.is_empty() {
            return None;
        }
        let pods = self.objects.pods[..self.listed].iter().enumerate();
        let backends = pods.filter(|(_, pod)| !pod.ended).flat_map(|(index, pod)| {
            let ports = services.iter();
            let ports = ports.filter_map(|service| backend_port(service, port, protocol, pod));
            let ports: BTreeSet<_> = ports.collect();
            ports.into_iter().map(move |port| (PodId(index), port))
        });
        Some(backends.collect())
    }

    /// Whether a service of the address chooses the pods behind this port by a selector.
    pub fn has_selector(&self, address: IpAddr, port: u16, protocol: PortProtocol) -> bool {
        let services = self.services.get(&address).into_iter().flatten();
        let mut services = services.map(|index| &self.objects.services[*index]);
        services
            .any(|service| !service.selector.is_empty() && service_port(service, port, protocol).is_some())
    }

    /// Adds the pods of a history, as they were then, without their addresses: these are of the pods that have them now. Returns the
    /// id of each version.
    pub fn keep(&mut self, history: &History) -> Vec<PodId> {
        let mut ids = HashMap::<_, Vec<PodId>>::new();
        for (index, pod) in self.objects.pods.iter().enumerate() {
            let name = (pod.namespace.clone(), pod.name.clone());
            ids.entry(name).or_default().push(PodId(index));
        }
        let versions = history.versions().iter();
        let kept = versions.map(|version| {
            let pod = &version.pod;
            let labels = version.namespace.clone();
            let labels = labels.map(|labels| with_name(labels, &pod.namespace));
            let named = ids.entry((pod.namespace.clone(), pod.name.clone())).or_default();
            let known = named.iter().find(|id| self.is_same(**id, pod, labels.as_ref()));
            if let Some(known) = known {
                return *known;
            }
            let id = PodId(self.objects.pods.len());
            self.objects.pods.push(pod.clone());
            // A namespace that was not listed then is what is known of it from elsewhere.
            let labels = labels.filter(|labels| self.namespaces.get(&pod.namespace) != Some(labels));
            if let Some(labels) = labels {
                self.namespaces_then.insert(id, labels);
            }
            named.push(id);
            id
        });
        kept.collect()
    }

    /// Whether a pod is the same for policies, with the labels of its namespace.
    fn is_same(&self, id: PodId, pod: &PodObject, namespace: Option<&ObjectLabels>) -> bool {
        let known = &self.objects.pods[id.0];
        let known = PodObject {
            ended: pod.ended,
            containers: pod.containers.clone(),
            ..known.clone()
        };
        known == *pod && namespace.is_none_or(|labels| self.namespace_of(id) == Some(labels))
    }
}

/// Labels of a namespace with the one that the API server adds.
fn with_name(mut labels: ObjectLabels, name: &str) -> ObjectLabels {
    labels
        .entry(NAMESPACE_NAME.to_owned())
        .or_insert_with(|| name.to_owned());
    labels
}
