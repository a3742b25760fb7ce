//! The processor `kubernetes`: who are the two ends, in the cluster's words?
//!
//! In: records. Out: the same with `peer_names` and `local_names`. The rules:
//!
//! 1. The peer is what has its address: a pod, a service, or a node. A service has its pods' workload, if all of them have the
//!    same one.
//! 2. Where the address on the wire is known to be another one, the peer is what has that: the pod behind the service, or the
//!    client behind a masquerade. Its service stays that of the socket's address.
//! 3. This side is the pod whose container the process is in; else what has the local address.
//! 4. Addresses unknown to the cluster have no names.
//! 5. The zone of an end is that of its node.
//!
//! Names become labels only where the config selects them (`processors.window.families`). The state
//! of the cluster comes from the extension `kubernetes`, which also gives the processor `policy` the
//! ranges of pods, services and DNS.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use flowtap_pipeline::{
    BuildContext, BuildError, ClusterState, ComponentConfig, Contract, Dependency, Factory, Flow, FlowBatch,
    KubernetesNames, Processor, ProcessorConfig, ProcessorStage, RecordField, Stability, Subscription,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nothing can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default()
            .fills([RecordField::ClusterNames])
            .reads_addresses()
            .depends_on(Dependency::ClusterNames)
    }
}

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Transform(Box::new(Kubernetes::new(context))))
    }
}

/// The processor type `kubernetes`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "kubernetes",
    "adds the names of both ends: pod, workload, namespace, service, node",
    Stability::Beta,
);

/// Pods behind services whose names are kept; beyond it they are made anew.
const BACKENDS: usize = 1 << 14;

/// The processor.
#[derive(Debug)]
pub struct Kubernetes {
    cluster: Subscription<ClusterState>,
    /// Names of a pod with its service, by the addresses of both: of the cluster as it was read last.
    backends: HashMap<(IpAddr, IpAddr), Arc<KubernetesNames>>,
}

impl Kubernetes {
    /// A processor that follows the cluster's state.
    pub fn new(context: &BuildContext) -> Self {
        Self {
            cluster: Subscription::new(&context.cluster),
            backends: HashMap::new(),
        }
    }

    fn peer_names(&mut self, flow: &Flow) -> Option<Arc<KubernetesNames>> {
        let known = &self.cluster.last().by_address;
        let of_socket = known.get(&flow.remote.addr);
        let Some(backend) = flow.backend().map(|backend| backend.addr) else {
            return of_socket.map(Arc::clone);
        };
        let (pod, service) = match (known.get(&backend), of_socket) {
            (None, of_socket) => return of_socket.map(Arc::clone),
            (Some(pod), Some(service)) if !service.service.is_empty() => (pod, service),
            (Some(pod), _) => return Some(Arc::clone(pod)),
        };
        if self.backends.len() >= BACKENDS {
            self.backends.clear();
        }
        let names = self
            .backends
            .entry((flow.remote.addr, backend))
            .or_insert_with(|| {
                Arc::new(KubernetesNames {
                    service: service.service.clone(),
                    ..(**pod).clone()
                })
            });
        Some(Arc::clone(names))
    }

    fn zone(&self, names: Option<&Arc<KubernetesNames>>) -> Option<Arc<str>> {
        self.cluster.last().zones.get(&*names?.node).map(Arc::clone)
    }
}

impl Processor for Kubernetes {
    fn process(&mut self, batch: &mut FlowBatch) {
        if self.cluster.refresh() {
            self.backends.clear();
        }
        for flow in batch.flows_mut() {
            flow.peer_names = self.peer_names(flow);
            let known = self.cluster.last();
            let container = flow.container_id.as_deref();
            flow.local_names = container
                .and_then(|id| known.by_container.get(id))
                .or_else(|| known.by_address.get(&flow.local.addr))
                .map(Arc::clone);
            if !known.zones.is_empty() {
                flow.local_zone = self.zone(flow.local_names.as_ref());
                flow.peer_zone = self.zone(flow.peer_names.as_ref());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::{DnsOutcome, DnsRecord, Endpoint, NodeInfo, Translation, Transport, UdpRecord};

    use super::*;
    use crate::testing::{context, record};

    const CONTAINER: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";

    #[test]
    fn both_ends_are_named_this_one_by_its_container_first() {
        let context = context(NodeInfo::default());
        let named = |pod: &str| {
            Arc::new(KubernetesNames {
                pod: pod.to_owned(),
                ..KubernetesNames::default()
            })
        };
        let mut kubernetes = Kubernetes::new(&context);
        let mut state = ClusterState::default();
        for (address, pod) in [
            ("10.244.1.7", "web"),
            ("10.244.1.8", "cart"),
            ("10.244.1.9", "agent"),
        ] {
            state.by_address.insert(address.parse().unwrap(), named(pod));
        }
        state.by_container.insert(CONTAINER.into(), named("contained"));
        context.cluster.store(state);
        let mut batch = FlowBatch {
            tcp: vec![
                record("10.244.1.7:40000", "10.244.1.8:80").with_flow(|flow| Flow {
                    container_id: Some(CONTAINER.into()),
                    ..flow
                }),
                record("10.244.1.9:40000", "198.51.100.1:80"),
            ],
            ..FlowBatch::default()
        };
        kubernetes.process(&mut batch);
        let pods = |names: &Option<Arc<KubernetesNames>>| names.as_ref().map(|names| names.pod.clone());
        let seen: Vec<_> = batch
            .tcp
            .iter()
            .map(|record| (pods(&record.flow.local_names), pods(&record.flow.peer_names)))
            .collect();
        assert_eq!(
            seen,
            [
                (Some("contained".to_owned()), Some("cart".to_owned())),
                (Some("agent".to_owned()), None),
            ]
        );
    }

    #[test]
    fn datagrams_and_transactions_have_the_same_names_as_connections() {
        let context = context(NodeInfo::default());
        let mut kubernetes = Kubernetes::new(&context);
        let named = |pod: &str, service: &str, node: &str| {
            Arc::new(KubernetesNames {
                namespace: "shop".to_owned(),
                pod: pod.to_owned(),
                service: service.to_owned(),
                node: node.to_owned(),
                ..KubernetesNames::default()
            })
        };
        let mut state = ClusterState::default();
        let mut name = |address: &str, names| state.by_address.insert(address.parse().unwrap(), names);
        name("10.244.1.7", named("web", "", "north"));
        name("10.244.2.8", named("quic", "", "south"));
        name("10.96.0.10", named("", "kube-dns", ""));
        state
            .by_container
            .insert(CONTAINER.into(), named("contained", "", "north"));
        state.zones.insert("north".into(), "a".into());
        state.zones.insert("south".into(), "b".into());
        context.cluster.store(state);
        let flow = |local: &str, remote: &str| Flow {
            transport: Transport::Udp,
            ..record(local, remote).flow
        };
        let of_container = Flow {
            container_id: Some(CONTAINER.into()),
            ..flow("10.244.1.7:40001", "10.96.0.10:53")
        };
        let mut batch = FlowBatch {
            udp: vec![
                UdpRecord::new(flow("10.244.1.7:40000", "10.244.2.8:443")),
                UdpRecord::new(of_container.clone()),
                UdpRecord::new(flow("10.244.1.7:40002", "198.51.100.1:443")),
            ],
            dns: vec![DnsRecord::new(of_container, 1, DnsOutcome::Answered(0))],
            ..FlowBatch::default()
        };
        kubernetes.process(&mut batch);
        let of_dns = batch.dns.iter().map(|record| &record.flow);
        let flows = batch.udp.iter().map(|record| &record.flow).chain(of_dns);
        let seen: Vec<_> = flows
            .map(|flow| {
                let of = |names: &Option<Arc<KubernetesNames>>, name: fn(&KubernetesNames) -> &String| {
                    names
                        .as_deref()
                        .map_or_else(String::new, |names| name(names).clone())
                };
                let zone = |zone: &Option<Arc<str>>| zone.as_deref().unwrap_or("").to_owned();
                [
                    of(&flow.local_names, |names| &names.pod),
                    of(&flow.peer_names, |names| &names.pod),
                    of(&flow.peer_names, |names| &names.service),
                    zone(&flow.local_zone),
                    zone(&flow.peer_zone),
                ]
            })
            .collect();
        let of_resolver = ["contained", "", "kube-dns", "a", ""];
        assert_eq!(
            seen,
            [
                ["web", "quic", "", "a", "b"],
                of_resolver,
                ["web", "", "", "a", ""],
                of_resolver,
            ]
        );
    }

    #[test]
    fn a_service_has_the_pod_behind_it_and_each_end_its_zone() {
        let context = context(NodeInfo::default());
        let mut kubernetes = Kubernetes::new(&context);
        let mut state = ClusterState::default();
        let mut name = |address: &str, names: KubernetesNames| {
            state.by_address.insert(address.parse().unwrap(), Arc::new(names));
        };
        let pod = |pod: &str, node: &str| KubernetesNames {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            node: node.to_owned(),
            ..KubernetesNames::default()
        };
        name("10.244.1.7", pod("web", "north"));
        name("10.244.2.8", pod("cart", "south"));
        name(
            "10.96.0.10",
            KubernetesNames {
                namespace: "shop".to_owned(),
                service: "cart".to_owned(),
                ..KubernetesNames::default()
            },
        );
        name(
            "192.0.2.1",
            KubernetesNames {
                node: "north".to_owned(),
                ..KubernetesNames::default()
            },
        );
        state.zones.insert("north".into(), "a".into());
        state.zones.insert("south".into(), "b".into());
        context.cluster.store(state);
        let translated = |local: &str, remote: &str, backend: &str| {
            let mut record = record(local, remote);
            let remote = backend.parse::<std::net::SocketAddr>().unwrap();
            record.flow.translation = Some(Arc::new(Translation {
                local: record.flow.local,
                remote: Endpoint::new(remote.ip(), remote.port()),
            }));
            record
        };
        let mut batch = FlowBatch {
            tcp: vec![
                translated("10.244.1.7:40000", "10.96.0.10:80", "10.244.2.8:8080"),
                // A client behind its node's masquerade.
                translated("10.244.2.8:8080", "192.0.2.1:50000", "10.244.1.7:40000"),
                translated("10.244.1.7:40001", "10.96.0.10:80", "203.0.113.1:8080"),
                record("10.244.1.7:40002", "10.96.0.10:80"),
            ],
            ..FlowBatch::default()
        };
        kubernetes.process(&mut batch);
        let seen: Vec<_> = batch
            .tcp
            .iter()
            .map(|record| {
                let names = record.flow.peer_names.as_deref().unwrap();
                let zone = |zone: &Option<Arc<str>>| zone.as_deref().unwrap_or("").to_owned();
                [
                    names.pod.clone(),
                    names.service.clone(),
                    zone(&record.flow.local_zone),
                    zone(&record.flow.peer_zone),
                ]
            })
            .collect();
        assert_eq!(
            seen,
            [
                ["cart", "cart", "a", "b"],
                ["web", "", "b", "a"],
                ["", "cart", "a", ""],
                ["", "cart", "a", ""],
            ]
        );
    }
}
