//! From a checked config to the stages, wired.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowtap_config::Config;
use flowtap_pipeline::runner::{ExporterNode, Graph, PipelineNode, ReceiverNode};
use flowtap_pipeline::{BuildContext, BuildError, ClusterState, ComponentId, Live, NodeInfo, ProcessorStage};
use opentelemetry::metrics::Meter;

use crate::node;

/// What is around flowtap, kept up to date by who has made it.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) node: Arc<Live<NodeInfo>>,
    pub(crate) cluster: Arc<Live<ClusterState>>,
}

impl Surroundings {
    /// This machine as it is now, and no cluster.
    pub(crate) fn now() -> Self {
        Self {
            node: Live::new(node::describe()),
            cluster: Live::new(ClusterState::default()),
        }
    }
}

/// Builds every component that a pipeline uses: receivers and exporters once, processors once per pipeline. `strict`: none
/// may make do with less than its config asks for.
///
/// # Errors
/// The first component that can't be built on this machine.
pub(crate) fn build(
    config: &Config,
    meter: &Meter,
    around: &Surroundings,
    strict: bool,
) -> Result<Graph, BuildError> {
    let context = |id: &ComponentId, pipeline: &str| BuildContext {
        id: id.clone(),
        pipeline: pipeline.into(),
        meter: meter.clone(),
        node: Arc::clone(&around.node),
        cluster: Arc::clone(&around.cluster),
        strict,
    };
    let mut graph = Graph::default();
    let mut receivers = BTreeMap::new();
    for (id, receiver) in &config.receivers {
        if config
            .pipelines
            .values()
            .any(|pipeline| pipeline.receivers.contains(id))
        {
            receivers.insert(id, graph.receivers.len());
            let receiver = receiver.build(&context(id, ""))?;
            graph.receivers.push(ReceiverNode {
                id: id.clone(),
                receiver,
            });
        }
    }
    let mut exporters = BTreeMap::new();
    for (id, config_of) in &config.exporters {
        if config
            .pipelines
            .values()
            .any(|pipeline| pipeline.exporters.contains(id))
        {
            exporters.insert(id, graph.exporters.len());
            let exporter = config_of.build(&context(id, ""))?;
            graph.exporters.push(ExporterNode {
                id: id.clone(),
                exporter,
                queue: config_of.queue(),
            });
        }
    }
    for (name, pipeline) in &config.pipelines {
        let mut processors = Vec::new();
        let mut window = None;
        // The config's check has made sure of the ids and of the window at the end.
        for (id, processor) in pipeline
            .processors
            .iter()
            .filter_map(|id| config.processors.get_key_value(id))
        {
            match processor.build(&context(id, name))? {
                ProcessorStage::Transform(processor) => processors.push(processor),
                ProcessorStage::Aggregate(aggregator) => window = Some(aggregator),
            }
        }
        let Some(aggregator) = window else { continue };
        let indices = |ids: &[ComponentId], known: &BTreeMap<&ComponentId, usize>| {
            ids.iter().filter_map(|id| known.get(id).copied()).collect()
        };
        graph.pipelines.push(PipelineNode {
            receivers: indices(&pipeline.receivers, &receivers),
            processors,
            aggregator,
            exporters: indices(&pipeline.exporters, &exporters),
        });
    }
    Ok(graph)
}
