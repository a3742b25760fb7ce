//! The graph of components that a runner is built from, and the one that is running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flowtap_pipeline::{ComponentId, Exporter, Output, PipelineKind, QueueConfig, Receiver};

use crate::stages::Stages;

/// A receiver to run.
pub struct ReceiverNode {
    /// Its id.
    pub id: ComponentId,
    /// Its whole config: another text is another receiver.
    pub fingerprint: String,
    /// The receiver.
    pub receiver: Box<dyn Receiver>,
}

/// An exporter to run.
pub struct ExporterNode {
    /// Its id.
    pub id: ComponentId,
    /// Its whole config.
    pub fingerprint: String,
    /// The exporter.
    pub exporter: Box<dyn Exporter>,
    /// The queue in front of it.
    pub queue: QueueConfig,
    /// Kinds of the pipelines that feed it.
    pub kinds: Vec<PipelineKind>,
    /// Whether its clients ask for outputs, such as by a scrape.
    pub is_pulled: bool,
    /// Whether it gets the output with which a pipeline's first window opens, to show it until that window closes.
    pub wants_opening: bool,
}

/// A pipeline to run.
pub struct PipelineNode {
    /// Its id.
    pub name: Arc<str>,
    /// The kind of its output.
    pub kind: PipelineKind,
    /// Receivers of the graph that feed it.
    pub receivers: Vec<ComponentId>,
    /// Its processors and its aggregator.
    pub stages: Stages,
    /// Exporters of the graph that it feeds.
    pub exporters: Vec<ComponentId>,
}

/// Everything to run, wired.
#[derive(Debug, Default)]
pub struct Graph {
    /// The receivers.
    pub receivers: Vec<ReceiverNode>,
    /// The exporters.
    pub exporters: Vec<ExporterNode>,
    /// The pipelines between them.
    pub pipelines: Vec<PipelineNode>,
    /// Exporters of the graph that take the daemon's own metrics.
    pub telemetry: Vec<ComponentId>,
}

/// The pipelines that feed each exporter of a graph, and the exporters that take the daemon's own metrics.
#[derive(Debug)]
pub(super) struct Feeds {
    pipelines: BTreeMap<ComponentId, BTreeSet<Arc<str>>>,
    telemetry: Vec<ComponentId>,
}

impl Feeds {
    pub(super) fn of(graph: &Graph) -> Self {
        let mut pipelines = BTreeMap::<_, BTreeSet<_>>::new();
        for node in &graph.pipelines {
            for exporter in &node.exporters {
                let feeding = pipelines.entry(exporter.clone()).or_default();
                feeding.insert(Arc::clone(&node.name));
            }
        }
        Self {
            pipelines,
            telemetry: graph.telemetry.clone(),
        }
    }

    /// Whether `pipeline` feeds `exporter`.
    pub(super) fn has(&self, exporter: &ComponentId, pipeline: &str) -> bool {
        let feeding = self.pipelines.get(exporter);
        feeding.is_some_and(|feeding| feeding.contains(pipeline))
    }

    /// Whether the pipeline of `output`, or the daemon if it has its own metrics, feeds `exporter`.
    pub(super) fn has_output(&self, exporter: &ComponentId, output: &Output) -> bool {
        match output {
            Output::Metrics(snapshot) if snapshot.is_telemetry() => self.telemetry.contains(exporter),
            Output::Metrics(snapshot) => self.has(exporter, &snapshot.pipeline),
            Output::Logs(batch) => self.has(exporter, &batch.pipeline),
        }
    }
}

impl std::fmt::Debug for ReceiverNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ReceiverNode").field(&self.id).finish()
    }
}

impl std::fmt::Debug for ExporterNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ExporterNode")
            .field(&self.id)
            .field(&self.queue)
            .finish()
    }
}

impl std::fmt::Debug for PipelineNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineNode")
            .field("name", &self.name)
            .field("receivers", &self.receivers)
            .field("exporters", &self.exporters)
            .finish_non_exhaustive()
    }
}
