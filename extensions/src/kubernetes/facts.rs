//! The parts of API objects that are kept: the few fields needed for ranges and names.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use flowtap_pipeline::{ClusterRanges, ClusterState, KubernetesNames, cluster};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use serde::Deserialize;

/// Kept fields of one kind of object.
pub(super) trait Projection: Sized {
    /// The object.
    type Object: ResourceExt;

    /// `node_name` is the node that flowtap runs on.
    fn of(object: &Self::Object, node_name: Option<&str>) -> Self;
}

/// All objects of a kind, by namespace and name.
#[derive(Debug)]
pub(super) struct ObjectCache<F> {
    current: HashMap<(String, String), F>,
    /// A list that is being read takes the place of the current one when it is whole: until then, and while the API is
    /// away, what was known stays.
    incoming: HashMap<(String, String), F>,
}

impl<F> Default for ObjectCache<F> {
    fn default() -> Self {
        Self {
            current: HashMap::new(),
            incoming: HashMap::new(),
        }
    }
}

impl<F: Projection> ObjectCache<F> {
    pub(super) fn apply(&mut self, event: &Event<F::Object>, node_name: Option<&str>) {
        let key = |object: &F::Object| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => self.incoming.clear(),
            Event::InitApply(object) => {
                self.incoming.insert(key(object), F::of(object, node_name));
            }
            Event::InitDone => self.current = std::mem::take(&mut self.incoming),
            Event::Apply(object) => {
                self.current.insert(key(object), F::of(object, node_name));
            }
            Event::Delete(object) => {
                self.current.remove(&key(object));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    fn values(&self) -> impl Iterator<Item = &F> {
        self.current.values()
    }
}

/// Labels of a node's topology zone; the second is that of Kubernetes before 1.17.
const ZONE_LABELS: [&str; 2] = [
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/zone",
];

/// Of a node: the ranges of its pods, its own addresses, and its zone.
#[derive(Debug)]
pub(super) struct NodeFacts {
    name: String,
    zone: Option<Arc<str>>,
    pods: Vec<IpNet>,
    addresses: Vec<IpAddr>,
}

impl Projection for NodeFacts {
    type Object = Node;

    fn of(node: &Node, _: Option<&str>) -> Self {
        let spec = node.spec.as_ref();
        let ranges = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        let range = spec.and_then(|spec| spec.pod_cidr.clone());
        let status = node.status.as_ref();
        let addresses = status
            .and_then(|status| status.addresses.as_deref())
            .unwrap_or_default();
        let labels = node.labels();
        let zone = ZONE_LABELS.iter().find_map(|label| labels.get(*label));
        Self {
            name: node.name_any(),
            zone: zone
                .filter(|zone| !zone.is_empty())
                .map(|zone| zone.as_str().into()),
            pods: nets(ranges.iter().chain(&range).map(String::as_str)),
            addresses: addresses
                .iter()
                .filter(|address| matches!(&*address.type_, "InternalIP" | "ExternalIP"))
                .filter_map(|address| ip(&address.address))
                .collect(),
        }
    }
}

/// Of a pod: its names, its own addresses, its labels, and its containers if it is on this node.
#[derive(Debug)]
pub(super) struct PodFacts {
    names: Arc<KubernetesNames>,
    addresses: Vec<IpAddr>,
    /// For the selectors of services; none of a pod that has ended.
    labels: Labels,
    containers: Vec<Box<str>>,
}

/// Labels of a pod, or those that a service selects by.
type Labels = Box<[(Box<str>, Box<str>)]>;

fn labels_of(map: &BTreeMap<String, String>) -> Labels {
    map.iter()
        .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
        .collect()
}

impl Projection for PodFacts {
    type Object = Pod;

    fn of(pod: &Pod, node_name: Option<&str>) -> Self {
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        // A pod on its node's network has its node's address.
        let on_host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let status = pod.status.as_ref();
        let addresses = status
            .and_then(|status| status.pod_ips.as_deref())
            .unwrap_or_default();
        let is_here = node_name.is_some_and(|here| here == node);
        let phase = status.and_then(|status| status.phase.as_deref());
        let has_ended = matches!(phase, Some("Succeeded" | "Failed"));
        let names = KubernetesNames {
            namespace: pod.namespace().unwrap_or_default(),
            pod: pod.name_any(),
            workload: workload(pod),
            service: String::new(),
            node,
        };
        Self {
            names: Arc::new(names),
            addresses: addresses
                .iter()
                .filter(|_| !on_host)
                .filter_map(|address| ip(&address.ip))
                .collect(),
            labels: if has_ended {
                Labels::default()
            } else {
                labels_of(pod.labels())
            },
            containers: if is_here { containers(pod) } else { Vec::new() },
        }
    }
}

/// The workload of a pod, by its controller.
fn workload(pod: &Pod) -> String {
    let owners = pod.owner_references();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return String::new();
    };
    let hash = pod.labels().get("pod-template-hash");
    cluster::workload(&owner.kind, &owner.name, hash.map_or("", String::as_str))
}

/// The ids of all containers: `containerd://<id>`.
fn containers(pod: &Pod) -> Vec<Box<str>> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let statuses = lists.into_iter().flatten().flatten();
    let ids = statuses.filter_map(|container| container.container_id.as_deref()?.split_once("://"));
    ids.map(|(_, id)| id.into()).collect()
}

/// Of a service: its names and addresses, and the labels of its pods.
#[derive(Debug)]
pub(super) struct ServiceFacts {
    names: Arc<KubernetesNames>,
    /// Empty where its endpoints are not chosen by labels.
    selector: Labels,
    addresses: Vec<IpAddr>,
}

impl Projection for ServiceFacts {
    type Object = Service;

    fn of(service: &Service, _: Option<&str>) -> Self {
        let spec = service.spec.as_ref();
        let addresses = spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        let address = spec.and_then(|spec| spec.cluster_ip.clone());
        // A headless service has `None` here, which is not an address.
        let addresses = addresses.iter().chain(&address).filter_map(|address| ip(address));
        let names = KubernetesNames {
            namespace: service.namespace().unwrap_or_default(),
            service: service.name_any(),
            ..KubernetesNames::default()
        };
        Self {
            names: Arc::new(names),
            selector: selector.map(labels_of).unwrap_or_default(),
            addresses: addresses.collect(),
        }
    }
}

impl ServiceFacts {
    /// The service's names, with the owner of its pods if all that it selects have the same one.
    fn with_workload(&self, pods: &HashMap<&str, Vec<&PodFacts>>) -> Arc<KubernetesNames> {
        let unchanged = || Arc::clone(&self.names);
        if self.selector.is_empty() || self.addresses.is_empty() {
            return unchanged();
        }
        let Some(pods) = pods.get(&*self.names.namespace) else {
            return unchanged();
        };
        let mut selected = pods.iter().filter(|pod| pod.is_selected_by(&self.selector));
        let Some(first) = selected.next().map(|pod| &pod.names.workload) else {
            return unchanged();
        };
        if first.is_empty() || selected.any(|pod| pod.names.workload != *first) {
            return unchanged();
        }
        Arc::new(KubernetesNames {
            workload: first.clone(),
            ..(*self.names).clone()
        })
    }
}

impl PodFacts {
    fn is_selected_by(&self, selector: &Labels) -> bool {
        selector.iter().all(|label| self.labels.contains(label))
    }
}

/// Of the `ConfigMap` that kubeadm leaves: the ranges that the cluster was made with.
#[derive(Debug)]
pub(super) struct KubeadmFacts {
    pods: Vec<IpNet>,
    services: Vec<IpNet>,
}

impl Projection for KubeadmFacts {
    type Object = ConfigMap;

    fn of(map: &ConfigMap, _: Option<&str>) -> Self {
        let data = map.data.as_ref();
        let networking = data
            .and_then(|data| data.get("ClusterConfiguration"))
            .and_then(|text| serde_saphyr::from_str::<ClusterConfiguration>(text).ok())
            .unwrap_or_default()
            .networking;
        Self {
            pods: nets(networking.pod_subnet.split(',')),
            services: nets(networking.service_subnet.split(',')),
        }
    }
}

/// `ClusterConfiguration` of kubeadm.k8s.io, as far as it is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ClusterConfiguration {
    networking: Networking,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Networking {
    pod_subnet: String,
    service_subnet: String,
}

/// Of a `ServiceCIDR`: its ranges.
#[derive(Debug)]
pub(super) struct ServiceCidrFacts(Vec<IpNet>);

impl Projection for ServiceCidrFacts {
    type Object = ServiceCIDR;

    fn of(cidr: &ServiceCIDR, _: Option<&str>) -> Self {
        let ranges = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref());
        Self(nets(ranges.unwrap_or_default().iter().map(String::as_str)))
    }
}

/// Everything that is watched.
#[derive(Debug, Default)]
pub(super) struct ClusterCache {
    pub(super) kubeadm: ObjectCache<KubeadmFacts>,
    pub(super) nodes: ObjectCache<NodeFacts>,
    pub(super) service_cidrs: ObjectCache<ServiceCidrFacts>,
    pub(super) dns: ObjectCache<ServiceFacts>,
    pub(super) services: ObjectCache<ServiceFacts>,
    pub(super) pods: ObjectCache<PodFacts>,
}

impl ClusterCache {
    /// The state as others see it. `before` lends its ranges if they are the same.
    pub(super) fn state(&self, before: &ClusterState) -> ClusterState {
        let mut ranges = ClusterRanges {
            pods: self.kubeadm.values().flat_map(|map| map.pods.clone()).collect(),
            services: self
                .kubeadm
                .values()
                .flat_map(|map| map.services.clone())
                .collect(),
            dns: self.dns.values().flat_map(|dns| dns.addresses.clone()).collect(),
        };
        ranges
            .pods
            .extend(self.nodes.values().flat_map(|node| &node.pods));
        ranges
            .services
            .extend(self.service_cidrs.values().flat_map(|cidr| &cidr.0));
        // Sorted, so that the same ranges are equal, whatever order they came in.
        for list in [&mut ranges.pods, &mut ranges.services] {
            list.sort_unstable();
            list.dedup();
        }
        ranges.dns.sort_unstable();
        ranges.dns.dedup();
        ClusterState {
            ranges: if ranges == *before.ranges {
                Arc::clone(&before.ranges)
            } else {
                Arc::new(ranges)
            },
            by_address: self.by_address(),
            by_container: self.by_container(),
            zones: self.zones(),
        }
    }

    fn zones(&self) -> HashMap<Box<str>, Arc<str>> {
        let nodes = self.nodes.values();
        nodes
            .filter_map(|node| Some((node.name.as_str().into(), Arc::clone(node.zone.as_ref()?))))
            .collect()
    }

    fn by_address(&self) -> HashMap<IpAddr, Arc<KubernetesNames>> {
        let mut names = HashMap::new();
        for node in self.nodes.values() {
            let of_node = Arc::new(KubernetesNames {
                node: node.name.clone(),
                ..KubernetesNames::default()
            });
            names.extend(node.addresses.iter().map(|addr| (*addr, Arc::clone(&of_node))));
        }
        let pods = self.pods_by_namespace();
        for service in self.services.values() {
            let of_service = service.with_workload(&pods);
            names.extend(
                service
                    .addresses
                    .iter()
                    .map(|addr| (*addr, Arc::clone(&of_service))),
            );
        }
        for pod in self.pods.values() {
            names.extend(pod.addresses.iter().map(|addr| (*addr, Arc::clone(&pod.names))));
        }
        names
    }

    fn pods_by_namespace(&self) -> HashMap<&str, Vec<&PodFacts>> {
        let mut pods = HashMap::<_, Vec<_>>::new();
        for pod in self.pods.values() {
            pods.entry(&*pod.names.namespace).or_default().push(pod);
        }
        pods
    }

    fn by_container(&self) -> HashMap<Box<str>, Arc<KubernetesNames>> {
        let pods = self.pods.values();
        pods.flat_map(|pod| {
            pod.containers
                .iter()
                .map(|id| (id.clone(), Arc::clone(&pod.names)))
        })
        .collect()
    }
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|addr| addr.to_canonical())
}

/// The ranges among `texts`; the API has checked them, so what is none is left out.
fn nets<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpNet> {
    texts
        .filter_map(|text| text.trim().parse::<IpNet>().ok())
        .map(|net| net.trunc())
        .collect()
}
