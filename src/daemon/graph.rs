//! From a checked config to the stages, wired.

use std::num::NonZeroUsize;
use std::sync::Arc;

use flowtap_config::Config;
use flowtap_engine::runner::{ExporterNode, Graph, PipelineNode, ReceiverNode};
use flowtap_engine::stages::{Stages, fingerprint};
use flowtap_extensions::live::tap::{self, Tap};
use flowtap_extensions::{memory_limiter, node};
use flowtap_pipeline::{
    BuildContext, BuildError, ClusterState, ComponentId, Contract, Findings, NodeInfo, PipelineKind,
    Published, QueueConfig, Resource, SharedMemoryPressure, StatusBoard,
};
use opentelemetry::metrics::Meter;

use crate::exit::ExitError;

/// Host and cluster state shared with components; updated by watchers.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) node: Arc<Published<NodeInfo>>,
    pub(crate) cluster: Arc<Published<ClusterState>>,
    pub(crate) memory: Arc<SharedMemoryPressure>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) findings: Arc<Findings>,
    pub(crate) status: StatusBoard,
}

impl Environment {
    /// This machine as it is now, and no cluster.
    pub(crate) fn now() -> Self {
        Self {
            node: Published::new(node::describe()),
            cluster: Published::new(ClusterState::default()),
            memory: Arc::default(),
            resource: Arc::default(),
            findings: Arc::default(),
            status: StatusBoard::default(),
        }
    }

    /// The same with the attributes that name this flowtap.
    pub(crate) fn named(resource: Resource) -> Self {
        Self {
            resource: Arc::new(resource),
            ..Self::now()
        }
    }

    /// The context in which the component `id` is built. `strict`: it fails instead of degrading.
    pub(crate) fn context(&self, id: &ComponentId, meter: &Meter, strict: bool) -> BuildContext {
        BuildContext {
            id: id.clone(),
            pipeline: "".into(),
            meter: meter.clone(),
            several_pipelines: false,
            resource: Arc::clone(&self.resource),
            node: Arc::clone(&self.node),
            cluster: Arc::clone(&self.cluster),
            label_changes: Arc::default(),
            memory: Arc::clone(&self.memory),
            findings: Arc::clone(&self.findings),
            status: self.status.clone(),
            strict,
            is_replay: false,
        }
    }
}

/// Checks the limits of the daemon's memory against this machine.
///
/// # Errors
/// A limit that memory can't reach here.
pub(crate) fn check_memory(config: &Config) -> Result<(), ExitError> {
    memory_limiter::check(&config.service.memory_limiter).map_err(|error| {
        let path = ["service", "memory_limiter", "limit_mib"];
        let mut errors = config.error_at(&path, &error.to_string());
        for diagnostic in &mut errors.0 {
            diagnostic.help = Some(error.hint());
        }
        ExitError::config(&errors)
    })
}

/// Builds every component that a pipeline uses: receivers and exporters once, processors once per
/// pipeline. `strict`: components fail instead of degrading.
///
/// # Errors
/// The first component that can't be built on this machine.
pub(crate) fn build(
    config: &Config,
    meter: &Meter,
    environment: &Environment,
    strict: bool,
) -> Result<Graph, BuildError> {
    let builder = Builder {
        config,
        meter,
        environment,
        strict,
    };
    let mut graph = Graph::default();
    builder.receivers(&mut graph)?;
    builder.exporters(&mut graph)?;
    builder.pipelines(&mut graph)?;
    Ok(graph)
}

/// Builds the nodes of a graph, kind by kind.
struct Builder<'a> {
    config: &'a Config,
    meter: &'a Meter,
    environment: &'a Environment,
    strict: bool,
}

impl Builder<'_> {
    /// The kinds of the pipelines that feed an exporter.
    fn feeding(&self, id: &ComponentId) -> Vec<PipelineKind> {
        let pipelines = self.config.pipelines.iter();
        let feeding = pipelines.filter(|(_, pipeline)| pipeline.exporters.contains(id));
        feeding.map(|(pipeline, _)| pipeline.kind()).collect()
    }

    /// The number of those with series: only these can be mistaken for those of another pipeline.
    fn with_series(&self, id: &ComponentId) -> usize {
        let kinds = self.feeding(id).into_iter();
        kinds.filter(|kind| *kind == PipelineKind::Metrics).count()
    }

    fn context(&self, id: &ComponentId, pipeline: &str) -> BuildContext {
        BuildContext {
            several_pipelines: self.with_series(id) > 1,
            pipeline: pipeline.into(),
            ..self.environment.context(id, self.meter, self.strict)
        }
    }

    fn receivers(&self, graph: &mut Graph) -> Result<(), BuildError> {
        for (id, receiver) in &self.config.receivers {
            let mut pipelines = self.config.pipelines.values();
            if pipelines.any(|pipeline| pipeline.receivers.contains(id)) {
                graph.receivers.push(ReceiverNode {
                    id: id.clone(),
                    fingerprint: fingerprint(&**receiver),
                    receiver: receiver.build(&self.context(id, ""))?,
                });
            }
        }
        Ok(())
    }

    fn exporters(&self, graph: &mut Graph) -> Result<(), BuildError> {
        let wanted = &self.config.service.telemetry.metrics.exporters;
        for (id, exporter) in &self.config.exporters {
            let takes_own_metrics = wanted.iter().any(|wanted| wanted == id.as_str());
            let mut kinds = self.feeding(id);
            let feeding = kinds.len() + usize::from(takes_own_metrics);
            if takes_own_metrics {
                graph.telemetry.push(id.clone());
                kinds.push(PipelineKind::Metrics);
            }
            kinds.sort_unstable();
            kinds.dedup();
            if kinds.is_empty() {
                continue;
            }
            let is_pulled = is_pulled(&exporter.contract());
            graph.exporters.push(ExporterNode {
                id: id.clone(),
                // With a second pipeline its series have a label more: it begins anew.
                fingerprint: format!("{} {}", fingerprint(&**exporter), self.with_series(id) > 1),
                exporter: exporter.build(&self.context(id, ""))?,
                queue: queue_of(exporter.queue(), is_pulled, feeding),
                kinds,
                is_pulled,
                wants_opening: is_pulled,
            });
        }
        Ok(())
    }

    fn pipelines(&self, graph: &mut Graph) -> Result<(), BuildError> {
        for (name, pipeline) in &self.config.pipelines {
            let configs = pipeline
                .processors
                .iter()
                .filter_map(|id| Some((id, &**self.config.processors.get(id)?)));
            // The config's check has made sure of the ids and of the aggregator at the end.
            let Some(stages) = Stages::build(configs, |id| self.context(id, name.as_str()))? else {
                continue;
            };
            graph.pipelines.push(PipelineNode {
                name: name.as_str().into(),
                kind: name.kind(),
                receivers: pipeline.receivers.clone(),
                stages,
                exporters: pipeline.exporters.clone(),
            });
        }
        Ok(())
    }
}

/// Whether an exporter of this contract waits for its clients, and connects to none.
fn is_pulled(contract: &Contract) -> bool {
    !contract.listens.is_empty() && contract.dials.is_empty()
}

/// The queue of an exporter that `feeding` pipelines feed. Where it is scraped, a snapshot of each has room: their
/// windows close at the same moment, and what is dropped is missing from all scrapes until the next window.
fn queue_of(queue: QueueConfig, is_pulled: bool, feeding: usize) -> QueueConfig {
    let Some(feeding) = NonZeroUsize::new(feeding).filter(|_| is_pulled) else {
        return queue;
    };
    QueueConfig {
        size: feeding.max(queue.size),
        max_bytes: queue.max_bytes.saturating_mul(feeding.get()),
        ..queue
    }
}

/// Makes every pipeline of `graph` that gives series feed `tap`, which also observes its records.
pub(crate) fn attach_tap(graph: &mut Graph, tap: &Tap) {
    // A test makes sure that it is an id.
    let Ok(id) = tap::ID.parse::<ComponentId>() else {
        return;
    };
    let with_series = |pipeline: &&mut PipelineNode| pipeline.kind == PipelineKind::Metrics;
    let mut names = Vec::new();
    for pipeline in graph.pipelines.iter_mut().filter(with_series) {
        pipeline.exporters.push(id.clone());
        pipeline.stages.observe(tap.observer(&pipeline.name));
        names.push(Arc::clone(&pipeline.name));
    }
    graph.exporters.push(ExporterNode {
        id,
        // Always the same: it lives on over every reload.
        fingerprint: String::new(),
        exporter: Box::new(tap.clone()),
        queue: queue_of(QueueConfig::default(), true, names.len()),
        kinds: vec![PipelineKind::Metrics],
        is_pulled: true,
        // It shows flows of windows that have closed.
        wants_opening: false,
    });
    tap.retain(&names);
}

/// The pipelines of `config`, as the live view needs to know them.
pub(crate) fn tapped_pipelines(config: &Config) -> Vec<tap::Pipeline> {
    let described = config.pipelines.iter().map(|(id, pipeline)| {
        let processors = pipeline.processors.iter();
        let processors = processors.filter_map(|id| config.processors.get(id));
        let renamed = processors.flat_map(|config| config.contract().label_changes.rename);
        tap::Pipeline {
            name: id.as_str().into(),
            kind: id.kind(),
            renamed: renamed.map(|(label, name)| (name, label)).collect(),
        }
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tap_is_the_last_exporter_of_every_pipeline() {
        let mut graph = Graph::default();
        attach_tap(&mut graph, &Tap::default());
        assert_eq!(graph.exporters[0].id.to_string(), tap::ID);
    }

    #[test]
    fn the_queue_of_a_scraped_exporter_has_room_for_a_snapshot_of_each_pipeline() {
        let one = QueueConfig {
            size: NonZeroUsize::MIN,
            ..QueueConfig::default()
        };
        let size = |is_pulled, feeding| queue_of(one, is_pulled, feeding).size.get();
        assert_eq!((size(true, 3), size(true, 1), size(true, 0)), (3, 1, 1));
        assert_eq!(size(false, 3), 1);
    }

    #[test]
    fn exporters_that_are_scraped_are_those_that_listen() {
        let is_pulled = |name: &str| {
            let registry = crate::components::registry();
            is_pulled(&registry.exporters()[name].default().contract())
        };
        assert!(is_pulled("prometheus"));
        assert!(!is_pulled("otlp") && !is_pulled("debug"));
    }
}
