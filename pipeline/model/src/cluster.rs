//! State of the Kubernetes cluster: owners and names of its addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Address ranges of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterRanges {
    /// Of pods.
    pub pods: Vec<IpNet>,
    /// Of services.
    pub services: Vec<IpNet>,
    /// Its DNS service.
    pub dns: Vec<IpAddr>,
}

/// Names of one address or container. Names that do not apply are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KubernetesNames {
    /// Namespace of the pod or service.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Owner of the pod: `Deployment/web`, `DaemonSet/agent`, `Job/nightly`.
    pub workload: String,
    /// Name of the service.
    pub service: String,
    /// Name of the node that the pod runs on, or that the address is of.
    pub node: String,
}

/// The known state. Empty outside a cluster.
///
/// ```
/// use std::net::IpAddr;
/// use std::sync::Arc;
/// use flowtap_model::{ClusterState, KubernetesNames};
///
/// let names = KubernetesNames { pod: "web-1".to_owned(), ..KubernetesNames::default() };
/// let mut cluster = ClusterState::default();
/// cluster.by_address.insert(IpAddr::from([10, 244, 0, 7]), Arc::new(names));
/// assert_eq!(cluster.by_address.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Shared, so that it shows by its pointer whether ranges have changed or only names.
    pub ranges: Arc<ClusterRanges>,
    /// Names by address: pods with their own address, services, nodes.
    pub by_address: HashMap<IpAddr, Arc<KubernetesNames>>,
    /// Names by container id, of this node's pods.
    pub by_container: HashMap<Box<str>, Arc<KubernetesNames>>,
    /// Topology zones by the name of their node.
    pub zones: HashMap<Box<str>, Arc<str>>,
}
