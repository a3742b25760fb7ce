//! A request on its way to a server.

use bytes::Bytes;

/// An encoded request. Cloning it for a retry copies no bytes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The encoded message.
    pub(crate) body: Bytes,
    /// Number of points that it holds.
    pub(crate) points: u64,
    /// Whether flowtap is stopping.
    pub(crate) last: bool,
}
