//! `flowtap replay`: a recording through the pipelines of a config, and what `/metrics` shows at its end. The same recording and
//! config give the same text, to the byte.

use std::path::Path;
use std::sync::Arc;

use flowtap_config::{Config, PipelineConfig};
use flowtap_exporters::prometheus;
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::{
    Aggregator, BuildContext, ClusterState, ComponentId, NodeInfo, Processor, ProcessorStage, Published,
    Snapshot,
};
use flowtap_receivers::replay::{Frame, Reader, RecordingError};
use opentelemetry::metrics::Meter;

use crate::exit::{Code, ExitError};

/// The text.
///
/// # Errors
/// A recording that can't be read to its end; a component that can't be built.
pub(crate) fn replay(config: &Config, file: &Path) -> Result<String, ExitError> {
    let mut snapshots = Vec::new();
    for (name, pipeline) in &config.pipelines {
        let recording = Recording::open(file)?;
        let (processors, aggregator) = recording.stages(config, name, pipeline)?;
        snapshots.push(Arc::new(recording.play(processors, aggregator)?));
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

/// The processors of a pipeline, and its window.
type Stages = (Vec<Box<dyn Processor>>, Box<dyn Aggregator>);

/// A recording, open at its beginning.
pub(crate) struct Recording {
    reader: Reader,
    began: flowtap_pipeline::Timestamp,
    node: NodeInfo,
}

impl Recording {
    pub(crate) fn open(file: &Path) -> Result<Self, ExitError> {
        let (reader, began, node) = Reader::open(file).map_err(unreadable)?;
        Ok(Self { reader, began, node })
    }

    /// Build context of the stages: the machine that the recording was made on.
    pub(crate) fn context(&self, id: &ComponentId, pipeline: &str) -> BuildContext {
        BuildContext {
            id: id.clone(),
            pipeline: pipeline.into(),
            // Nobody reads what they count of themselves.
            meter: silent(),
            several_pipelines: false,
            resource: Arc::default(),
            node: Published::new(self.node.clone()),
            cluster: Published::new(ClusterState::default()),
            memory: Arc::default(),
            status: flowtap_pipeline::StatusBoard::default(),
            strict: true,
        }
    }

    /// The processors of a pipeline, and its window.
    pub(crate) fn stages(
        &self,
        config: &Config,
        name: &str,
        pipeline: &PipelineConfig,
    ) -> Result<Stages, ExitError> {
        let (mut processors, mut window) = (Vec::new(), None);
        for id in &pipeline.processors {
            let Some(processor) = config.processors.get(id) else {
                continue;
            };
            match processor.build(&self.context(id, name))? {
                ProcessorStage::Transform(processor) => processors.push(processor),
                ProcessorStage::Aggregate(aggregator) => window = Some(aggregator),
            }
        }
        // The config's check has made sure of it.
        let window = window.ok_or_else(|| ExitError::new(Code::Software, "a pipeline without a window"))?;
        Ok((processors, window))
    }

    /// Plays it to its end; returns the last window.
    pub(crate) fn play(
        self,
        mut processors: Vec<Box<dyn Processor>>,
        mut aggregator: Box<dyn Aggregator>,
    ) -> Result<Snapshot, ExitError> {
        aggregator.begin(self.began);
        for frame in self.reader {
            match frame.map_err(unreadable)? {
                Frame::Start { .. } => {}
                Frame::Batch(mut batch) => {
                    for processor in &mut processors {
                        processor.process(&mut batch);
                    }
                    aggregator.fold(&batch);
                }
                Frame::Watermark(at) => {
                    aggregator.advance(at);
                }
                Frame::End(at) => return Ok(aggregator.finish(at)),
            }
        }
        // A reader ends with the end of the recording, or with an error.
        Err(ExitError::new(Code::Software, "a recording without an end"))
    }
}

fn silent() -> Meter {
    opentelemetry::global::meter("flowtap")
}

fn unreadable(error: RecordingError) -> ExitError {
    let code = match &error {
        RecordingError::Io { .. } => Code::NoInput,
        _ => Code::Data,
    };
    ExitError::new(code, error)
}
