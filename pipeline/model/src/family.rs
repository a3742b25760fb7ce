//! A metric family: the name, unit and type that its series have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bounds of a histogram; there is one bucket more, without an upper bound.
pub const HISTOGRAM_BUCKETS: usize = 16;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FamilyKind {
    /// A monotonic sum.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Observations in buckets with these upper bounds; one more bucket, without bound, follows.
    Histogram(&'static [f64; HISTOGRAM_BUCKETS]),
}

/// Whose names metrics and labels have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// The Go exporter's: `network_tcp_flow_egress` behind a namespace, `raddr`.
    #[default]
    PrimusLens,
    /// OpenTelemetry's semantic conventions: `flowtap.tcp.egress.io`, `network.peer.address`. Ports and ids are integers.
    Otel,
}

/// A metric: what all its series share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// Name, such as `network_tcp_flow_egress`; without the namespace, where `naming` has one.
    pub name: &'static str,
    /// Whose name that is.
    pub naming: Naming,
    /// One sentence for the reader of a scrape.
    pub help: &'static str,
    /// Unit in UCUM notation (`By`, `us`, `{connection}`), as OTLP wants it.
    pub unit: &'static str,
    /// Its type.
    pub kind: FamilyKind,
}
