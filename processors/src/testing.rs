//! Helpers shared by the tests of several processors.

use flowtap_pipeline::{BuildContext, NodeInfo, Published};

pub(crate) use flowtap_pipeline::testing::{flow, record};

/// A context on a node like `node`, with instruments that nobody reads.
pub(crate) fn context(node: NodeInfo) -> BuildContext {
    BuildContext {
        node: Published::new(node),
        ..flowtap_pipeline::testing::context("test")
    }
}
