//! The processor `kubernetes`: who are the two ends, in the cluster's words?
//!
//! In: records. Out: the same with `peer_names` and `local_names`. The rules:
//!
//! 1. The peer is what has its address: a pod, a service, or a node.
//! 2. This side is the pod whose container the process is in; else what has the local address.
//! 3. Addresses unknown to the cluster have no names.
//!
//! Names become labels only where the config selects them (`processors.window.families`). The state
//! of the cluster comes from the extension `kubernetes`, which also gives the processor `policy` the
//! ranges of pods, services and DNS.

use std::sync::Arc;

use flowtap_pipeline::{
    BuildContext, BuildError, ClusterState, ComponentConfig, Contract, Dependency, Factory, FlowBatch,
    Processor, ProcessorConfig, ProcessorStage, RecordField, Stability, Subscription,
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
        Ok(ProcessorStage::Transform(Box::new(Kubernetes {
            cluster: Subscription::new(&context.cluster),
        })))
    }
}

/// The processor type `kubernetes`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "kubernetes",
    "adds the names of both ends: pod, workload, namespace, service, node",
    Stability::Beta,
);

/// The processor.
#[derive(Debug)]
pub struct Kubernetes {
    cluster: Subscription<ClusterState>,
}

impl Processor for Kubernetes {
    fn process(&mut self, batch: &mut FlowBatch) {
        self.cluster.refresh();
        let known = self.cluster.last();
        for flow in batch.flows_mut() {
            flow.peer_names = known.by_address.get(&flow.remote.addr).map(Arc::clone);
            let container = flow.container_id.as_deref();
            flow.local_names = container
                .and_then(|id| known.by_container.get(id))
                .or_else(|| known.by_address.get(&flow.local.addr))
                .map(Arc::clone);
        }
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::Flow;
    use flowtap_pipeline::{KubernetesNames, NodeInfo};

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
        let mut kubernetes = Kubernetes {
            cluster: Subscription::new(&context.cluster),
        };
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
}
