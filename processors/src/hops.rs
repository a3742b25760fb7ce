//! Connections on the way through a proxy of this machine: whether both of their legs count.

use flowtap_pipeline::{Hop, TcpRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reason of records that are left out by [`Hops::DropLocal`].
pub(crate) const LOCAL_HOP: &str = "local_hop";

/// Connections that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hops {
    /// All: bytes through a sidecar count once for the application and once for the sidecar.
    #[default]
    Keep,
    /// Those that leave their network namespace: of the hops `to_proxy`, `from_application` and `loopback` none counts.
    DropLocal,
}

impl Hops {
    /// Whether `record` is of a connection that does not count.
    pub(crate) fn drops(self, record: &TcpRecord) -> bool {
        self == Self::DropLocal && record.flow.hop().is_some_and(Hop::is_local)
    }
}

/// Payload bytes of a record, for the counter of what is left out.
pub(crate) fn payload(record: &TcpRecord) -> u64 {
    let bytes = [record.sent_bytes, record.received_bytes];
    bytes.into_iter().map(|bytes| bytes.max(0).unsigned_abs()).sum()
}
