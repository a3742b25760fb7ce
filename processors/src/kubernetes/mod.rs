//! The processor `kubernetes`: who are the two ends, in the cluster's words?
//!
//! In: records. Out: the same with `peer_names` and `local_names`. The rules:
//!
//! 1. The peer is what has its address: a pod, a service, or a node.
//! 2. This side is the pod whose container the process is in; else what has the local address.
//! 3. Addresses unknown to the cluster have no names.
//!
//! Names become labels only where the config selects them (`processors.window.families`). The state
//! of the cluster comes from [`watch`], which also gives the processor `policy` the ranges of pods,
//! services and DNS.

mod client;
mod facts;
pub mod watch;

use std::sync::Arc;

use flowtap_pipeline::{
    BuildContext, BuildError, ClusterState, ComponentConfig, Contract, Dependency, Factory, FlowBatch,
    Processor, ProcessorConfig, ProcessorStage, RecordField, Seen, Stability,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::client::{ClientError, client};
pub use self::watch::{WatchConfig, watch};

/// Nothing can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default()
            .fills([RecordField::ClusterNames])
            .depends_on(Dependency::ClusterNames)
    }
}

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Transform(Box::new(Kubernetes {
            cluster: Seen::new(&context.cluster),
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
    cluster: Seen<ClusterState>,
}

impl Processor for Kubernetes {
    fn process(&mut self, batch: &mut FlowBatch) {
        self.cluster.refresh();
        let known = self.cluster.last();
        for record in &mut batch.records {
            record.peer_names = known.by_address.get(&record.remote.addr).map(Arc::clone);
            let container = record.container_id.as_deref();
            record.local_names = container
                .and_then(|id| known.by_container.get(id))
                .or_else(|| known.by_address.get(&record.local.addr))
                .map(Arc::clone);
        }
    }
}

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
