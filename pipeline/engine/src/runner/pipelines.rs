//! Pipelines of a runner: their chains, which receivers run.

use std::sync::{Arc, Mutex};

use flowtap_pipeline::ComponentId;

use super::Runner;
use super::graph::PipelineNode;
use super::running::RunningPipeline;
use crate::chain::{Chain, SharedChain, lock};
use crate::telemetry::observe_windows;

impl Runner {
    /// Runs `work` on a chain, away from the async workers: a receiver holds its chain for as long as an exporter that blocks has
    /// no room. After the deadline that exporter drops its oldest snapshot instead.
    pub(super) async fn on_chain<T: Send + 'static>(
        &self,
        chain: &SharedChain,
        work: impl FnOnce(&mut Chain) -> T + Send + 'static,
    ) -> T {
        let chain = Arc::clone(chain);
        let mut task = tokio::task::spawn_blocking(move || work(&mut lock(&chain)));
        let joined = match tokio::time::timeout(self.deadline, &mut task).await {
            Ok(joined) => joined,
            Err(_elapsed) => {
                let deadline = self.deadline;
                tracing::warn!(
                    ?deadline,
                    "a pipeline waits for an exporter with `when_full: block`, which drops its oldest snapshot for the new config; \
                hint: use `when_full: drop_oldest`, or a faster destination"
                );
                self.relieve();
                task.await
            }
        };
        match joined {
            Ok(result) => result,
            // As if it had run here.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and this future with it.
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) async fn apply_pipelines(&mut self, nodes: Vec<PipelineNode>) {
        let gone: Vec<_> = self
            .pipelines
            .keys()
            .filter(|name| !nodes.iter().any(|node| node.name == **name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(pipeline) = self.pipelines.remove(&name) {
                self.unfeed(&pipeline.chain);
                self.on_chain(&pipeline.chain, Chain::retire).await;
            }
        }
        for node in nodes {
            let exporters = node
                .exporters
                .iter()
                .filter_map(|id| Some((id.clone(), self.exporters.get(id)?.handle.clone())))
                .collect();
            if let Some(pipeline) = self.pipelines.get(&node.name) {
                let receivers = node.receivers.clone();
                let reconcile = move |chain: &mut Chain| {
                    chain.set_exporters(exporters);
                    chain.reconcile(node.stages);
                    chain.attach_receivers(&node.receivers);
                };
                self.on_chain(&pipeline.chain, reconcile).await;
                if let Some(pipeline) = self.pipelines.get_mut(&node.name) {
                    pipeline.receivers = receivers;
                }
            } else {
                let mut chain = Chain::new(Arc::clone(&node.name), node.stages, exporters);
                chain.attach_receivers(&node.receivers);
                observe_windows(&self.meter, &node.name, &chain.closed_at());
                let running = RunningPipeline {
                    chain: Arc::new(Mutex::new(chain)),
                    receivers: node.receivers,
                };
                self.pipelines.insert(node.name, running);
            }
        }
    }

    /// No receiver feeds `chain` any more.
    fn unfeed(&self, chain: &SharedChain) {
        for receiver in self.receivers.values() {
            let without = |fed: &Arc<Vec<SharedChain>>| {
                let others = fed.iter().filter(|other| !Arc::ptr_eq(other, chain));
                others.cloned().collect::<Vec<_>>()
            };
            receiver.chains.rcu(without);
        }
    }

    /// The chains that `receiver` feeds.
    pub(super) fn chains_of(&self, receiver: &ComponentId) -> Vec<SharedChain> {
        let fed = self
            .pipelines
            .values()
            .filter(|pipeline| pipeline.receivers.contains(receiver));
        fed.map(|pipeline| Arc::clone(&pipeline.chain)).collect()
    }
}
