//! Objects of a Kubernetes cluster, reduced to the fields that names and network policies depend on. A recording made in a
//! cluster holds them, so that it can be judged elsewhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterRanges, ClusterState, KubernetesNames, workload};
use crate::time::Timestamp;

/// Labels of an object.
pub type ObjectLabels = BTreeMap<String, String>;

/// A transport protocol as Kubernetes names it. A recording holds a variant by its position: append new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortProtocol {
    /// `TCP`, the default.
    #[default]
    Tcp,
    /// `UDP`.
    Udp,
    /// `SCTP`.
    Sctp,
}

impl PortProtocol {
    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The spelling of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceObject {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: ObjectLabels,
}

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: PortProtocol,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodObject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its owner, such as `Deployment/web`; empty without one. See [`workload`].
    pub workload: String,
    /// Its labels.
    pub labels: ObjectLabels,
    /// Its addresses; those of its node if it is on its node's network.
    pub addresses: Vec<IpAddr>,
    /// Whether it is on its node's network.
    pub host_network: bool,
    /// Whether it has ended: its addresses may belong to another pod by now.
    pub ended: bool,
    /// Its node.
    pub node: String,
    /// Addresses of its node.
    pub node_addresses: Vec<IpAddr>,
    /// Ids of its containers.
    pub containers: Vec<String>,
    /// Ports with a name.
    pub ports: Vec<NamedPort>,
}

/// The port of the pods behind a service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container's port.
    Name(String),
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: PortProtocol,
    /// The port of the pods.
    pub target: TargetPort,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceObject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Addresses that lead to its pods.
    pub addresses: Vec<IpAddr>,
    /// Labels of its pods; empty if its endpoints are managed otherwise.
    pub selector: ObjectLabels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeObject {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The ranges that addresses of its pods come from.
    pub pod_ranges: Vec<IpNet>,
}

/// Objects of a cluster.
///
/// ```
/// use flowtap_model::cluster_objects::{ClusterObjects, PodObject};
///
/// let pod = PodObject {
///     name: "web-1".to_owned(),
///     addresses: vec![[10, 244, 0, 7].into()],
///     ..PodObject::default()
/// };
/// let objects = ClusterObjects { pods: vec![pod], ..ClusterObjects::default() };
/// assert_eq!(objects.state().by_address.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterObjects {
    /// Namespaces.
    pub namespaces: Vec<NamespaceObject>,
    /// Pods.
    pub pods: Vec<PodObject>,
    /// Services.
    pub services: Vec<ServiceObject>,
    /// Nodes.
    pub nodes: Vec<NodeObject>,
}

impl ClusterObjects {
    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.pods.is_empty()
            && self.services.is_empty()
            && self.nodes.is_empty()
    }

    /// Adds `newer`, which replaces objects of the same name.
    pub fn merge(&mut self, newer: Self) {
        replace(&mut self.namespaces, newer.namespaces, |it| {
            (String::new(), it.name.clone())
        });
        replace(&mut self.pods, newer.pods, |it| {
            (it.namespace.clone(), it.name.clone())
        });
        replace(&mut self.services, newer.services, |it| {
            (it.namespace.clone(), it.name.clone())
        });
        replace(&mut self.nodes, newer.nodes, |it| {
            (String::new(), it.name.clone())
        });
    }

    /// The objects that `before` does not have, or has otherwise.
    #[must_use]
    pub fn without(mut self, before: &Self) -> Self {
        retain_new(&mut self.namespaces, &before.namespaces, |it| ("", &it.name));
        retain_new(&mut self.pods, &before.pods, |it| (&it.namespace, &it.name));
        retain_new(&mut self.services, &before.services, |it| {
            (&it.namespace, &it.name)
        });
        retain_new(&mut self.nodes, &before.nodes, |it| ("", &it.name));
        self
    }

    /// The objects that `others` has none of the same name for.
    #[must_use]
    pub fn except(mut self, others: &Self) -> Self {
        retain_unnamed(&mut self.namespaces, &others.namespaces, |it| ("", &it.name));
        retain_unnamed(&mut self.pods, &others.pods, |it| (&it.namespace, &it.name));
        retain_unnamed(&mut self.services, &others.services, |it| {
            (&it.namespace, &it.name)
        });
        retain_unnamed(&mut self.nodes, &others.nodes, |it| ("", &it.name));
        self
    }

    /// The same objects in parts, each with at most `size` of a kind. Without objects there is no part.
    pub fn chunks(mut self, size: usize) -> Vec<Self> {
        let mut parts = Vec::new();
        while !self.is_empty() {
            parts.push(Self {
                namespaces: take(&mut self.namespaces, size),
                pods: take(&mut self.pods, size),
                services: take(&mut self.services, size),
                nodes: take(&mut self.nodes, size),
            });
        }
        parts
    }

    /// The same with the `CronJob` as the workload of its runs' pods: recordings of earlier builds have the `Job` of each run.
    #[must_use]
    pub fn with_cron_jobs(mut self) -> Self {
        for pod in &mut self.pods {
            if let Some(job) = pod.workload.strip_prefix("Job/") {
                pod.workload = workload("Job", job, "");
            }
        }
        self
    }

    /// The names and ranges that processors use.
    pub fn state(&self) -> ClusterState {
        let ranges = ClusterRanges {
            pods: self
                .nodes
                .iter()
                .flat_map(|node| node.pod_ranges.clone())
                .collect(),
            ..ClusterRanges::default()
        };
        let (mut by_address, mut by_container) = (HashMap::new(), HashMap::new());
        for node in &self.nodes {
            let names = Arc::new(KubernetesNames {
                node: node.name.clone(),
                ..KubernetesNames::default()
            });
            by_address.extend(node.addresses.iter().map(|addr| (*addr, Arc::clone(&names))));
        }
        for service in &self.services {
            let names = Arc::new(KubernetesNames {
                namespace: service.namespace.clone(),
                service: service.name.clone(),
                ..KubernetesNames::default()
            });
            by_address.extend(service.addresses.iter().map(|addr| (*addr, Arc::clone(&names))));
        }
        for pod in &self.pods {
            let names = Arc::new(KubernetesNames {
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
                workload: pod.workload.clone(),
                service: String::new(),
                node: pod.node.clone(),
            });
            for id in &pod.containers {
                by_container.insert(id.as_str().into(), Arc::clone(&names));
            }
            // A pod on its node's network has its node's address, and that of a pod that has ended may be another's.
            if !pod.host_network && !pod.ended {
                by_address.extend(pod.addresses.iter().map(|addr| (*addr, Arc::clone(&names))));
            }
        }
        ClusterState {
            ranges: Arc::new(ranges),
            by_address,
            by_container,
            // A recording has no labels of nodes.
            zones: HashMap::new(),
        }
    }
}

/// When a pod got its addresses, as far as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStart {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was created: it had no address before.
    pub created: Timestamp,
    /// When its first container started: it had its addresses by then. `None` if none has.
    pub started: Option<Timestamp>,
}

/// The difference between a listing of a cluster's objects and the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterChange {
    /// Objects that are new or different.
    pub objects: ClusterObjects,
    /// Namespace and name of pods that are gone.
    pub gone: Vec<(String, String)>,
    /// The start of pods among `objects`.
    pub starts: Vec<PodStart>,
}

impl ClusterChange {
    /// Whether nothing differs.
    pub const fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.gone.is_empty()
    }

    /// Adds the change that a later listing showed.
    pub fn merge(&mut self, newer: Self) {
        let back: HashSet<_> = newer
            .objects
            .pods
            .iter()
            .map(|pod| (&pod.namespace, &pod.name))
            .collect();
        self.gone
            .retain(|(namespace, name)| !back.contains(&(namespace, name)));
        let gone: HashSet<_> = newer
            .gone
            .iter()
            .map(|(namespace, name)| (namespace, name))
            .collect();
        self.objects
            .pods
            .retain(|pod| !gone.contains(&(&pod.namespace, &pod.name)));
        self.objects.merge(newer.objects);
        self.gone.extend(newer.gone);
        self.starts.extend(newer.starts);
    }
}

fn retain_new<T: PartialEq>(list: &mut Vec<T>, before: &[T], key: impl Fn(&T) -> (&str, &str)) {
    let known: HashMap<_, _> = before.iter().map(|object| (key(object), object)).collect();
    list.retain(|object| known.get(&key(object)) != Some(&object));
}

fn retain_unnamed<T>(list: &mut Vec<T>, others: &[T], key: impl Fn(&T) -> (&str, &str)) {
    if list.is_empty() {
        return;
    }
    let named: HashSet<_> = others.iter().map(&key).collect();
    list.retain(|object| !named.contains(&key(object)));
}

fn take<T>(list: &mut Vec<T>, size: usize) -> Vec<T> {
    let rest = list.split_off(list.len().min(size.max(1)));
    std::mem::replace(list, rest)
}

fn replace<T>(list: &mut Vec<T>, newer: Vec<T>, key: impl Fn(&T) -> (String, String)) {
    let mut places: HashMap<_, _> = list.iter().map(&key).zip(0..).collect();
    for object in newer {
        if let Some(place) = places.get(&key(&object)) {
            list[*place] = object;
        } else {
            places.insert(key(&object), list.len());
            list.push(object);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, address: [u8; 4]) -> PodObject {
        PodObject {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            addresses: vec![address.into()],
            ..PodObject::default()
        }
    }

    #[test]
    fn objects_except_those_of_the_same_name() {
        let objects = ClusterObjects {
            pods: vec![pod("web", [10, 0, 0, 1]), pod("db", [10, 0, 0, 2])],
            ..ClusterObjects::default()
        };
        let others = ClusterObjects {
            pods: vec![pod("web", [10, 0, 0, 9])],
            ..ClusterObjects::default()
        };
        assert_eq!(objects.clone().except(&others).pods, [pod("db", [10, 0, 0, 2])]);
        assert_eq!(objects.clone().except(&ClusterObjects::default()), objects);
    }

    #[test]
    fn newer_objects_replace_those_of_the_same_name() {
        let mut objects = ClusterObjects {
            pods: vec![pod("web", [10, 0, 0, 1]), pod("db", [10, 0, 0, 2])],
            ..ClusterObjects::default()
        };
        objects.merge(ClusterObjects {
            pods: vec![pod("web", [10, 0, 0, 9]), pod("new", [10, 0, 0, 3])],
            ..ClusterObjects::default()
        });
        let seen: Vec<_> = objects
            .pods
            .iter()
            .map(|pod| (&*pod.name, pod.addresses[0]))
            .collect();
        let addr = |last| IpAddr::from([10, 0, 0, last]);
        assert_eq!(seen, [("web", addr(9)), ("db", addr(2)), ("new", addr(3))]);
    }

    #[test]
    fn objects_that_changed_are_new_and_others_are_not() {
        let objects = |pods| ClusterObjects {
            pods,
            ..ClusterObjects::default()
        };
        let before = objects(vec![pod("web", [10, 0, 0, 1]), pod("db", [10, 0, 0, 2])]);
        let now = objects(vec![
            pod("web", [10, 0, 0, 9]),
            pod("db", [10, 0, 0, 2]),
            pod("new", [10, 0, 0, 3]),
        ]);
        let names: Vec<_> = now
            .without(&before)
            .pods
            .into_iter()
            .map(|pod| pod.name)
            .collect();
        assert_eq!(names, ["web", "new"]);
    }

    #[test]
    fn of_two_changes_the_later_decides_whether_a_pod_is_gone() {
        let name = |name: &str| ("shop".to_owned(), name.to_owned());
        let change = |pods: Vec<PodObject>, gone: &[&str]| ClusterChange {
            objects: ClusterObjects {
                pods,
                ..ClusterObjects::default()
            },
            gone: gone.iter().map(|it| name(it)).collect(),
            ..ClusterChange::default()
        };
        let mut whole = change(vec![pod("web", [10, 0, 0, 1])], &["db"]);
        whole.merge(change(vec![pod("db", [10, 0, 0, 2])], &["web"]));
        assert_eq!(whole, change(vec![pod("db", [10, 0, 0, 2])], &["web"]));
        assert!(ClusterChange::default().is_empty() && !whole.is_empty());
    }

    #[test]
    fn runs_of_earlier_recordings_are_of_their_cron_job() {
        let of = |workload: &str| PodObject {
            workload: workload.to_owned(),
            ..pod("run", [10, 0, 0, 1])
        };
        let objects = ClusterObjects {
            pods: ["Job/backup-29000060", "Job/migrate", "Deployment/web", ""]
                .map(of)
                .into(),
            ..ClusterObjects::default()
        };
        let pods = objects.with_cron_jobs().pods.into_iter();
        let workloads: Vec<_> = pods.map(|pod| pod.workload).collect();
        assert_eq!(workloads, ["CronJob/backup", "Job/migrate", "Deployment/web", ""]);
    }

    #[test]
    fn parts_hold_every_object_once() {
        let pods = (0..5)
            .map(|last| pod(&format!("p{last}"), [10, 0, 0, last]))
            .collect();
        let namespace = NamespaceObject {
            name: "shop".to_owned(),
            ..NamespaceObject::default()
        };
        let objects = ClusterObjects {
            pods,
            namespaces: vec![namespace],
            ..ClusterObjects::default()
        };
        let parts = objects.clone().chunks(2);
        assert_eq!(
            parts.iter().map(|part| part.pods.len()).collect::<Vec<_>>(),
            [2, 2, 1]
        );
        let mut whole = ClusterObjects::default();
        for part in parts {
            whole.merge(part);
        }
        assert_eq!(whole, objects);
        assert!(ClusterObjects::default().chunks(2).is_empty());
    }

    #[test]
    fn an_ended_pod_has_no_address_and_a_host_pod_that_of_its_node() {
        let ended = PodObject {
            ended: true,
            ..pod("job", [10, 0, 0, 1])
        };
        let host = PodObject {
            host_network: true,
            containers: vec!["c1".to_owned()],
            ..pod("proxy", [192, 0, 2, 1])
        };
        let node = NodeObject {
            name: "n1".to_owned(),
            addresses: vec![[192, 0, 2, 1].into()],
            ..NodeObject::default()
        };
        let objects = ClusterObjects {
            pods: vec![ended, host],
            nodes: vec![node],
            ..ClusterObjects::default()
        };
        let state = objects.state();
        assert_eq!(state.by_address.len(), 1);
        assert_eq!(state.by_address[&IpAddr::from([192, 0, 2, 1])].node, "n1");
        assert_eq!(state.by_container["c1"].pod, "proxy");
    }
}
