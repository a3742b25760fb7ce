//! Helpers shared by the tests of several processors.

use flowtap_pipeline::testing::Instruments;
use flowtap_pipeline::{BuildContext, NodeInfo, Published};

pub(crate) use flowtap_pipeline::testing::{flow, record};

/// A context on a node like `node`, with instruments that nobody reads.
pub(crate) fn context(node: NodeInfo) -> BuildContext {
    BuildContext {
        node: Published::new(node),
        ..flowtap_pipeline::testing::context("test")
    }
}

/// The counters that Prometheus gets.
#[derive(Clone, Debug)]
pub(crate) struct Counters(Instruments);

impl Counters {
    /// `flowtap_processor_dropped_records_total` with this reason.
    pub(crate) fn dropped_records(&self, reason: &str) -> u64 {
        self.0.sum("processor_dropped_records", "reason", reason)
    }

    /// `flowtap_processor_dropped_bytes_total` with this reason.
    pub(crate) fn dropped_bytes(&self, reason: &str) -> u64 {
        self.0.sum("processor_dropped", "reason", reason)
    }

    /// The value of each series of a counter or gauge, with its labels as a text, in order.
    pub(crate) fn series(&self, name: &str) -> Vec<(String, u64)> {
        self.0.series(name)
    }
}

/// A context whose counters are read.
pub(crate) fn counted_context(node: NodeInfo) -> (BuildContext, Counters) {
    let instruments = Instruments::new();
    let context = BuildContext {
        meter: instruments.meter(),
        ..context(node)
    };
    (context, Counters(instruments))
}
