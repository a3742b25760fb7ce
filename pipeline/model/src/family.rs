//! A metric family: the name, unit and type that its series have in common.

use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::Unit;

/// Upper bounds that a histogram can have at most; there is one bucket more, without a bound.
pub const HISTOGRAM_BUCKETS: usize = 16;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FamilyKind {
    /// A monotonic sum.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A sum that goes up and down: what OpenTelemetry calls an up-down counter, and Prometheus a gauge.
    UpDownCounter,
    /// Observations in buckets with these upper bounds, at most [`HISTOGRAM_BUCKETS`]; one more bucket, without bound,
    /// follows.
    Histogram(&'static [f64]),
    /// Observations in buckets whose bounds are powers of a base: an exponential histogram of OpenTelemetry, a native one of
    /// Prometheus.
    ExponentialHistogram,
}

impl FamilyKind {
    /// Whether its values can fall, so that a rate of it has no meaning.
    pub const fn can_fall(self) -> bool {
        matches!(self, Self::Gauge | Self::UpDownCounter)
    }

    /// Whether it is a histogram, with whatever buckets.
    pub const fn is_histogram(self) -> bool {
        matches!(self, Self::Histogram(_) | Self::ExponentialHistogram)
    }

    /// Histograms with these upper bounds, which have to rise, and of which there are [`HISTOGRAM_BUCKETS`] at most.
    ///
    /// Bounds live until the process ends; equal ones are stored once.
    pub fn histogram(bounds: &[f64]) -> Self {
        static KNOWN: Mutex<Vec<&'static [f64]>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().copied().find(|found| *found == bounds);
        Self::Histogram(found.unwrap_or_else(|| {
            let new: &'static [f64] = bounds.to_vec().leak();
            known.push(new);
            new
        }))
    }
}

/// Naming of metrics and labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// The Go exporter's: `network_tcp_flow_egress` after a namespace, `raddr`.
    #[default]
    PrimusLens,
    /// OpenTelemetry's semantic conventions: `flowtap.tcp.io`, `network.peer.address`. Ports and ids are integers.
    Otel,
}

/// A metric: what all its series share.
///
/// ```
/// use flowtap_model::{Family, FamilyKind, Naming, Unit};
///
/// const RETRANSMITS: Family = Family {
///     name: "network_tcp_retransmits",
///     naming: Naming::PrimusLens,
///     help: "Retransmitted TCP segments, by peer.",
///     unit: Unit::Count("{segment}"),
///     kind: FamilyKind::Counter,
/// };
/// assert_eq!(RETRANSMITS.kind, FamilyKind::Counter);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// Name, such as `network_tcp_flow_egress`; without the namespace, where `naming` has one.
    pub name: &'static str,
    /// Naming that the name belongs to.
    pub naming: Naming,
    /// One sentence for the reader of a scrape.
    pub help: &'static str,
    /// Unit of its values.
    pub unit: Unit,
    /// Its type.
    pub kind: FamilyKind,
}

impl Family {
    /// The same family with other buckets. As bounds do, it lives until the process ends.
    pub fn with_kind(&self, kind: FamilyKind) -> &'static Self {
        static KNOWN: Mutex<Vec<&'static Family>> = Mutex::new(Vec::new());
        let new = Self { kind, ..*self };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().copied().find(|found| **found == new);
        found.unwrap_or_else(|| {
            let new: &'static Self = Box::leak(Box::new(new));
            known.push(new);
            new
        })
    }
}
