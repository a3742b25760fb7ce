//! A request on its way to a server.

use bytes::Bytes;
use flowtap_pipeline::PipelineKind;

/// An encoded request. Cloning it for a retry copies no bytes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The encoded message.
    pub(crate) body: Bytes,
    /// Whether it holds points of series or log records.
    pub(crate) kind: PipelineKind,
    /// Number of points or log records that it holds.
    pub(crate) items: u64,
    /// Whether flowtap is stopping.
    pub(crate) last: bool,
}

/// The requests that wait for each other: those of a kind, or all.
pub(crate) type Lane = Option<PipelineKind>;
