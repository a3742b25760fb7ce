//! Shared by the fuzz targets: a pipeline as in the default config, which takes arbitrary records.
//!
//! # Layout
//!
//! | target | input |
//! |---|---|
//! | `fuzz-config` | texts of configs, as YAML, as TOML and as `--set` |
//! | `fuzz-dns` | DNS messages, sent and received, some cut off |
//! | `fuzz-kernel` | contents of a ring buffer or an iterator of the kernel side |
//! | `fuzz-records` | recordings |
//!
//! A target fails by a panic, by taking too long, or by taking too much memory; libFuzzer watches all three. Overflows panic, as
//! the profile `fuzz` has the checks of a debug build.
#![forbid(unsafe_code)]

use std::sync::Arc;

use flowtap_engine::Stages;
use flowtap_exporters::prometheus;
use flowtap_pipeline::{
    BuildContext, ComponentId, FlowBatch, NodeInfo, ProcessorConfig, Published, Timestamp,
};
use flowtap_processors::{direction, policy, window};

/// `direction`, `policy` and `window`, at their defaults, and the text of a scrape.
pub struct Pipeline(Stages);

impl Pipeline {
    /// A pipeline on the machine `node`; `None` if it can't be built.
    pub fn new(node: NodeInfo, began: Timestamp) -> Option<Self> {
        let node = Published::new(node);
        let configs: [(ComponentId, &dyn ProcessorConfig); 3] = [
            ("direction".parse().ok()?, &direction::Config::default()),
            ("policy".parse().ok()?, &policy::Config::default()),
            ("window".parse().ok()?, &window::Config::default()),
        ];
        let configs = configs.iter().map(|(id, config)| (id, *config));
        let context = |id: &ComponentId| BuildContext {
            pipeline: "fuzz".into(),
            node: Arc::clone(&node),
            strict: true,
            ..BuildContext::new(id.clone())
        };
        let mut stages = Stages::build(configs, context).ok()??;
        stages.begin(began);
        Some(Self(stages))
    }

    /// Runs a batch through it.
    pub fn take(&mut self, mut batch: FlowBatch) {
        self.0.accept(&mut batch);
    }

    /// Nothing before `to` is missing.
    pub fn advance(&mut self, to: Timestamp) {
        self.0.advance(to);
    }

    /// Ends it; returns the text of a scrape.
    pub fn finish(mut self, at: Timestamp) -> String {
        let last = self.0.finish(at).into_snapshot();
        prometheus::text("primus_lens", last.into_iter().collect())
    }
}
