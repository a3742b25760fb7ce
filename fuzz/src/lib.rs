//! Shared by the fuzz targets: a pipeline as in the default config, which takes arbitrary records.
//!
//! # Layout
//!
//! | target | input |
//! |---|---|
//! | `fuzz-config` | texts of configs, as YAML, as TOML and as `--set` |
//! | `fuzz-kernel` | contents of a ring buffer or an iterator of the kernel side |
//! | `fuzz-records` | recordings |
//!
//! A target fails by a panic, by taking too long, or by taking too much memory; libFuzzer watches all three. Overflows panic, as
//! the profile `fuzz` has the checks of a debug build.
#![forbid(unsafe_code)]

use std::sync::Arc;

use flowtap_exporters::prometheus;
use flowtap_pipeline::{
    Aggregator, BuildContext, ClusterState, FlowBatch, NodeInfo, Processor, ProcessorConfig, ProcessorStage,
    Published, Timestamp,
};
use flowtap_processors::{direction, policy, window};

/// `direction`, `policy` and `window`, at their defaults, and the text of a scrape.
pub struct Pipeline {
    processors: Vec<Box<dyn Processor>>,
    window: Box<dyn Aggregator>,
}

impl Pipeline {
    /// A pipeline on the machine `node`; `None` if it can't be built.
    pub fn new(node: NodeInfo, began: Timestamp) -> Option<Self> {
        let node = Published::new(node);
        let cluster = Published::new(ClusterState::default());
        let build = |config: &dyn ProcessorConfig, id: &str| {
            let context = BuildContext {
                id: id.parse().ok()?,
                pipeline: "fuzz".into(),
                meter: opentelemetry::global::meter("fuzz"),
                several_pipelines: false,
                resource: Arc::default(),
                node: Arc::clone(&node),
                cluster: Arc::clone(&cluster),
                memory: Arc::default(),
                status: flowtap_pipeline::StatusBoard::default(),
                strict: true,
            };
            config.build(&context).ok()
        };
        let mut processors = Vec::new();
        for (config, id) in [
            (&direction::Config::default() as &dyn ProcessorConfig, "direction"),
            (&policy::Config::default(), "policy"),
        ] {
            match build(config, id)? {
                ProcessorStage::Transform(processor) => processors.push(processor),
                ProcessorStage::Aggregate(_) => return None,
            }
        }
        let ProcessorStage::Aggregate(mut window) = build(&window::Config::default(), "window")? else {
            return None;
        };
        window.begin(began);
        Some(Self { processors, window })
    }

    /// A batch on its way.
    pub fn take(&mut self, mut batch: FlowBatch) {
        for processor in &mut self.processors {
            processor.process(&mut batch);
        }
        self.window.fold(&batch);
    }

    /// Nothing before `to` is missing.
    pub fn advance(&mut self, to: Timestamp) {
        self.window.advance(to);
    }

    /// The end; returns what a scrape shows.
    pub fn finish(mut self, at: Timestamp) -> String {
        prometheus::text("primus_lens", vec![Arc::new(self.window.finish(at))])
    }
}
