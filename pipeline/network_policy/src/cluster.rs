//! Look-ups in a cluster's objects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use flowtap_model::cluster_objects::{
    ClusterObjects, NamedPort, ObjectLabels, PodObject, PortProtocol, ServiceObject, TargetPort,
};
use ipnet::IpNet;

/// The label that the API server puts on every namespace.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Index of a pod in its [`Cluster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub(crate) usize);

/// The objects, and indexes of them.
#[derive(Debug, Default)]
pub struct Cluster {
    objects: ClusterObjects,
    namespaces: HashMap<String, ObjectLabels>,
    /// Namespaces that only their pods name: of their labels no other than that with their name is known.
    unlisted: HashSet<String>,
    pods_by_address: HashMap<IpAddr, PodId>,
    pods_by_container: HashMap<String, PodId>,
    services: HashMap<IpAddr, usize>,
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
            labels
                .entry(NAMESPACE_NAME.to_owned())
                .or_insert_with(|| name.clone());
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
                cluster
                    .pods_by_address
                    .extend(pod.addresses.iter().map(|addr| (*addr, id)));
            }
        }
        for (index, service) in objects.services.iter().enumerate() {
            cluster
                .services
                .extend(service.addresses.iter().map(|addr| (*addr, index)));
        }
        let here = machine.iter().find_map(|addr| cluster.nodes.get(addr)).cloned();
        if let Some(here) = here {
            // Loopback is not an address of the node for anybody else.
            let own = machine.iter().filter(|addr| !addr.is_loopback());
            cluster.nodes.extend(own.map(|addr| (*addr, here.clone())));
        }
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

    /// The pod that has this address now.
    pub fn pod_at(&self, address: IpAddr) -> Option<PodId> {
        self.pods_by_address.get(&address).copied()
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

    /// Whether all labels of a namespace are known.
    pub fn is_listed(&self, namespace: &str) -> bool {
        !self.unlisted.contains(namespace)
    }

    /// The service that has this address.
    pub fn service_at(&self, address: IpAddr) -> Option<&ServiceObject> {
        self.services
            .get(&address)
            .map(|index| &self.objects.services[*index])
    }

    /// The pods behind a service's port, each with its own port. Empty if they are not chosen by a selector.
    pub fn backends(&self, service: &ServiceObject, port: u16, protocol: PortProtocol) -> Vec<(PodId, u16)> {
        let same =
            |it: &&flowtap_model::cluster_objects::ServicePort| it.port == port && it.protocol == protocol;
        let Some(port) = service.ports.iter().find(same) else {
            return Vec::new();
        };
        if service.selector.is_empty() {
            return Vec::new();
        }
        let pods = self.objects.pods.iter().enumerate();
        let selected = pods.filter(|(_, pod)| {
            let mut wanted = service.selector.iter();
            !pod.ended
                && pod.namespace == service.namespace
                && wanted.all(|(key, value)| pod.labels.get(key) == Some(value))
        });
        let numbered = selected.filter_map(|(index, pod)| {
            let number = match &port.target {
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => named_port(pod, name, protocol)?,
            };
            Some((PodId(index), number))
        });
        numbered.collect()
    }
}

/// The numbers that a pod gives a port's name: names are unique in a container only.
pub(crate) fn named_ports<'a>(
    pod: &'a PodObject,
    name: &'a str,
    protocol: PortProtocol,
) -> impl Iterator<Item = u16> + 'a {
    let named = move |it: &&NamedPort| it.name == name && it.protocol == protocol;
    pod.ports.iter().filter(named).map(|it| it.port)
}

/// The number that a service means by a port's name: that of the first container.
fn named_port(pod: &PodObject, name: &str, protocol: PortProtocol) -> Option<u16> {
    named_ports(pod, name, protocol).next()
}
