//! Shared by the fuzz targets: a pipeline as in the default config, which takes arbitrary records.
//!
//! # Layout
//!
//! | target | input |
//! |---|---|
//! | `fuzz-answers` | responses of collectors and stores, over HTTP/1.1 and gRPC, to the exporters that push |
//! | `fuzz-config` | texts of configs, as YAML, as TOML and as `--set` |
//! | `fuzz-dns` | DNS messages, sent and received, some cut off |
//! | `fuzz-kernel` | contents of a ring buffer or an iterator of the kernel side |
//! | `fuzz-kubernetes` | lists and watches of the Kubernetes API |
//! | `fuzz-manifests` | manifests of NetworkPolicies and of objects of a cluster |
//! | `fuzz-mmdb` | databases of places |
//! | `fuzz-records` | recordings |
//! | `fuzz-requests` | requests to a listener |
//! | `fuzz-sockets` | datagrams of the kernel's socket diagnosis, and `net/tcp` of a proc file system |
//!
//! A target fails by a panic, by taking too long, or by taking too much memory; libFuzzer watches all three. Overflows panic, as
//! the profile `fuzz` has the checks of a debug build.
#![forbid(unsafe_code)]

use std::sync::Arc;

use flowtap_ebpf::Event;
use flowtap_engine::Stages;
use flowtap_exporters::prometheus;
use flowtap_pipeline::{
    BuildContext, ComponentId, FlowBatch, NodeInfo, ProcessorConfig, Published, Snapshot, Timestamp,
};
use flowtap_processors::{direction, policy, window};
use flowtap_receivers::ebpf::flow_record;

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

    /// Ends it; returns the last snapshot.
    pub fn finish_snapshot(mut self, at: Timestamp) -> Option<Arc<Snapshot>> {
        self.0.finish(at).into_snapshot()
    }

    /// Ends it; returns the text of a scrape.
    pub fn finish(mut self, at: Timestamp) -> String {
        let last = self.0.finish(at).into_snapshot();
        prometheus::text("primus_lens", last.into_iter().collect())
    }
}

/// A snapshot with a few series, from the records of a seed; `None` if these are of an earlier layout.
pub fn snapshot() -> Option<Arc<Snapshot>> {
    const RECORDS: &[u8] = include_bytes!("../seeds/kernel/mixed");
    let mut pipeline = Pipeline::new(NodeInfo::default(), Timestamp::from_nanos(0))?;
    let (mut batch, mut rest) = (FlowBatch::default(), RECORDS);
    while let Ok((event, after)) = Event::read(rest) {
        if let Event::Flow(flow) = event {
            batch.tcp.push(flow_record(&flow));
        }
        rest = after;
    }
    if batch.tcp.is_empty() {
        return None;
    }
    pipeline.take(batch);
    pipeline.finish_snapshot(Timestamp::from_nanos(5_000_000_000))
}
