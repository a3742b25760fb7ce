//! Helpers shared by the tests of several processors.

use std::net::SocketAddr;

use flowtap_pipeline::{BuildContext, ClusterState, Endpoint, FlowRecord, NodeInfo, Published};

/// A context on a node like `node`, with instruments that nobody reads.
pub(crate) fn context(node: NodeInfo) -> BuildContext {
    BuildContext {
        id: "test".parse().unwrap(),
        pipeline: "flows".into(),
        meter: opentelemetry::global::meter("test"),
        several_pipelines: false,
        resource: std::sync::Arc::default(),
        node: Published::new(node),
        cluster: Published::new(ClusterState::default()),
        memory: std::sync::Arc::default(),
        status: flowtap_pipeline::StatusBoard::default(),
        strict: false,
    }
}

/// An empty record between two ends, written as `192.0.2.1:80` or `[::1]:80`.
pub(crate) fn record(local: &str, remote: &str) -> FlowRecord {
    let end = |text: &str| {
        let address: SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    };
    FlowRecord::new(end(local), end(remote))
}
