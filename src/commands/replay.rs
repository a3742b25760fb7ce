//! `flowtap replay`: a recording through the pipelines of a config, and what `/metrics` shows at its end. The same recording and
//! config give the same text, to the byte.

use std::path::Path;
use std::sync::Arc;

use flowtap_config::{Config, PipelineConfig};
use flowtap_engine::Stages;
use flowtap_exporters::prometheus;
use flowtap_pipeline::cluster_objects::ClusterChange;
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::{
    BuildContext, ClusterObjects, ClusterState, ComponentId, Findings, NodeInfo, Output, PipelineId,
    Published, Timestamp,
};
use flowtap_receivers::replay::{Frame, Reader, RecordingError};

use crate::exit::{Code, ExitError};

/// The text.
///
/// # Errors
/// A recording that can't be read to its end; a component that can't be built.
pub(crate) fn replay(config: &Config, file: &Path) -> Result<String, ExitError> {
    let mut snapshots = Vec::new();
    for (id, pipeline) in &config.pipelines {
        let mut recording = Recording::open(file)?;
        let stages = recording.stages(config, id, pipeline)?;
        // Log records have no place in an exposition.
        snapshots.extend(recording.play(stages)?.into_snapshot());
    }
    Ok(prometheus::text(&namespace(config), snapshots))
}

/// The namespace of the first exporter `prometheus`, if there is one.
fn namespace(config: &Config) -> String {
    let mut exporters = config.exporters.values();
    let first = exporters.find_map(|exporter| downcast::<prometheus::Config>(&**exporter));
    first.map_or_else(
        || prometheus::Config::default().namespace,
        |config| config.namespace.clone(),
    )
}

/// A recording, open at its beginning.
pub(crate) struct Recording {
    reader: Reader,
    began: Timestamp,
    node: NodeInfo,
    /// Objects of its cluster that have been read so far, and what processors know of them.
    objects: ClusterObjects,
    cluster: Arc<Published<ClusterState>>,
    findings: Arc<Findings>,
}

impl Recording {
    pub(crate) fn open(file: &Path) -> Result<Self, ExitError> {
        let (reader, began, node) = Reader::open(file).map_err(unreadable)?;
        Ok(Self {
            reader,
            began,
            node,
            objects: ClusterObjects::default(),
            cluster: Published::new(ClusterState::default()),
            findings: Arc::default(),
        })
    }

    /// The machine that it was made on.
    pub(crate) const fn node(&self) -> &NodeInfo {
        &self.node
    }

    /// Objects of the cluster that it was made in, once it has been played.
    pub(crate) fn into_objects(self) -> ClusterObjects {
        self.objects
    }

    /// Build context of the stages: the machine that the recording was made on.
    pub(crate) fn context(&self, id: &ComponentId, pipeline: &str) -> BuildContext {
        BuildContext {
            pipeline: pipeline.into(),
            node: Published::new(self.node.clone()),
            cluster: Arc::clone(&self.cluster),
            findings: Arc::clone(&self.findings),
            strict: true,
            is_replay: true,
            ..BuildContext::new(id.clone())
        }
    }

    /// The processors of a pipeline, and its aggregator.
    pub(crate) fn stages(
        &self,
        config: &Config,
        pipeline_id: &PipelineId,
        pipeline: &PipelineConfig,
    ) -> Result<Stages, ExitError> {
        let configs = pipeline
            .processors
            .iter()
            .filter_map(|id| Some((id, &**config.processors.get(id)?)));
        let stages = Stages::build(configs, |id| self.context(id, pipeline_id.as_str()))?;
        // The config's check has made sure of it.
        stages.ok_or_else(|| ExitError::new(Code::Software, "a pipeline without a window"))
    }

    /// Plays it to its end; returns the last output.
    pub(crate) fn play(&mut self, stages: Stages) -> Result<Output, ExitError> {
        self.play_and(stages, |_, _| {})
    }

    /// The same; `listed` takes what each listing of the cluster showed, in parts, before the records after it.
    pub(crate) fn play_with_cluster(
        &mut self,
        stages: Stages,
        listed: impl FnMut(ClusterChange),
    ) -> Result<Output, ExitError> {
        self.play_all(stages, |_, _| {}, listed)
    }

    /// The same; after each frame `found` may take the findings that it led to, with the time of the recording.
    pub(crate) fn play_and(
        &mut self,
        stages: Stages,
        found: impl FnMut(&Findings, Timestamp),
    ) -> Result<Output, ExitError> {
        self.play_all(stages, found, |_| {})
    }

    fn play_all(
        &mut self,
        mut stages: Stages,
        mut found: impl FnMut(&Findings, Timestamp),
        mut listed: impl FnMut(ClusterChange),
    ) -> Result<Output, ExitError> {
        stages.begin(self.began);
        let mut now = self.began;
        for frame in &mut self.reader {
            found(&self.findings, now);
            match frame.map_err(unreadable)? {
                Frame::Start { .. } => {}
                Frame::Batch(mut batch) => stages.accept(&mut batch),
                Frame::Watermark(at) => {
                    stages.advance(at);
                    now = at;
                }
                Frame::End(at) => {
                    let output = stages.finish(at);
                    found(&self.findings, at);
                    return Ok(output);
                }
                Frame::Cluster(objects) => {
                    let objects = objects.with_cron_jobs();
                    self.objects.merge(objects.clone());
                    self.cluster.store(self.objects.state());
                    listed(ClusterChange {
                        objects,
                        ..ClusterChange::default()
                    });
                }
                Frame::Listed { gone, starts } => listed(ClusterChange {
                    gone,
                    starts,
                    ..ClusterChange::default()
                }),
            }
        }
        // A reader ends with the end of the recording, or with an error.
        Err(ExitError::new(Code::Software, "a recording without an end"))
    }
}

fn unreadable(error: RecordingError) -> ExitError {
    let code = match &error {
        RecordingError::Io { .. } => Code::NoInput,
        _ => Code::Data,
    };
    ExitError::new(code, error)
}
