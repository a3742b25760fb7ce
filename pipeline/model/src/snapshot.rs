//! The snapshot: every live series at the end of one window, immutable and shared by every exporter.
//!
//! It contains running totals and this window's differences, so that exporters keep no state about
//! series and can't disagree with each other.

use std::sync::Arc;
use std::time::Duration;

use crate::family::Family;
use crate::histogram::Buckets;
use crate::series::{Series, prefetch_series};
use crate::time::Timestamp;

/// A sum's or a gauge's series at the end of a window.
#[derive(Clone, Debug)]
pub struct SumPoint {
    /// Which series.
    pub series: Series,
    /// Everything counted since `series.start()`.
    pub total: u64,
    /// Increase in this window.
    pub delta: u64,
    /// The end of the window that last changed it.
    pub updated: Timestamp,
}

/// A histogram's series at the end of a window.
#[derive(Clone, Debug)]
pub struct HistogramPoint {
    /// Which series.
    pub series: Series,
    /// Observations per bucket since `series.start()`.
    pub buckets: Buckets,
    /// Sum of all observed values, in the family's unit.
    pub sum: f64,
    /// The end of the window that last changed it.
    pub updated: Timestamp,
}

impl HistogramPoint {
    /// The buckets of a histogram with these upper bounds.
    pub fn counts(&self, bounds: &[f64]) -> impl Iterator<Item = u64> + use<> {
        self.buckets.explicit().into_iter().take(bounds.len() + 1)
    }

    /// Number of observed values.
    pub fn count(&self) -> u64 {
        self.buckets.count()
    }
}

/// A counter's or a gauge's series whose value is not a whole number, such as seconds.
#[derive(Clone, Debug)]
pub struct ValuePoint {
    /// Which series.
    pub series: Series,
    /// Of a counter everything counted since `series.start()`.
    pub value: f64,
    /// The end of the window that last changed it.
    pub updated: Timestamp,
}

/// The points of one family.
///
/// ```
/// use flowtap_model::Points;
///
/// let points = Points::Sums(Vec::new());
/// for index in 0..points.len() {
///     // Before the series of a point is read.
///     points.prefetch(index);
/// }
/// assert!(points.is_empty());
/// ```
#[derive(Clone, Debug)]
pub enum Points {
    /// Of a counter or a gauge, in whole numbers.
    Sums(Vec<SumPoint>),
    /// Of a counter or a gauge.
    Values(Vec<ValuePoint>),
    /// Of a histogram.
    Histograms(Vec<HistogramPoint>),
}

impl Points {
    /// Number of series.
    pub fn len(&self) -> usize {
        match self {
            Self::Sums(points) => points.len(),
            Self::Values(points) => points.len(),
            Self::Histograms(points) => points.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `more` points.
    pub fn reserve(&mut self, more: usize) {
        match self {
            Self::Sums(points) => points.reserve_exact(more),
            Self::Values(points) => points.reserve_exact(more),
            Self::Histograms(points) => points.reserve_exact(more),
        }
    }

    /// To be called for each point in turn, before its series is looked at: brings those of the next points into the CPU's caches,
    /// all of them at the same time, where one after the other would wait for memory (ADR 16).
    pub fn prefetch(&self, index: usize) {
        const AHEAD: usize = 32;
        if !index.is_multiple_of(AHEAD) {
            return;
        }
        match self {
            Self::Sums(points) => {
                prefetch_series(points.iter().skip(index).take(AHEAD).map(|point| &point.series));
            }
            // A few dozen.
            Self::Values(_) => {}
            Self::Histograms(points) => {
                prefetch_series(points.iter().skip(index).take(AHEAD).map(|point| &point.series));
            }
        }
    }
}

/// One family at the end of a window.
#[derive(Clone, Debug)]
pub struct FamilySnapshot {
    /// Which family.
    pub family: &'static Family,
    /// Its live series.
    pub points: Points,
    /// Series that expired in this window: listed once, here, and never again.
    pub ended: Vec<Series>,
}

/// Every family at the end of a window.
///
/// ```
/// use std::time::Duration;
/// use flowtap_model::{Snapshot, Timestamp};
///
/// let snapshot = Snapshot {
///     pipeline: "metrics".into(),
///     at: Timestamp::from_nanos(5_000_000_000),
///     window: Duration::from_secs(5),
///     last: false,
///     replaced: false,
///     families: Vec::new(),
/// };
/// assert_eq!(snapshot.points(), 0);
/// assert!(!snapshot.is_telemetry());
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The pipeline it comes from; empty for the daemon's own metrics, which come from none.
    pub pipeline: Arc<str>,
    /// The end of the window.
    pub at: Timestamp,
    /// Length of the window.
    pub window: Duration,
    /// Whether it is the last one: flowtap is stopping, and an exporter that thins windows out must pass this one on.
    pub last: bool,
    /// Whether series in it end because the window or its config is replaced: exporters that do not
    /// push every window push this one, or the last values of these series would be lost.
    pub replaced: bool,
    /// The families, in a fixed order. Empty if the pipeline was removed while flowtap keeps
    /// running: its series are withdrawn.
    pub families: Vec<FamilySnapshot>,
}

impl Snapshot {
    /// The last snapshot of what gives no series, such as a recorder at the end of a path.
    pub fn of_nothing(at: Timestamp) -> Self {
        Self {
            pipeline: "".into(),
            at,
            window: Duration::ZERO,
            last: true,
            replaced: false,
            families: Vec::new(),
        }
    }

    /// Bytes of memory that it takes, but for the series, which it shares.
    pub fn bytes(&self) -> usize {
        let of = |family: &FamilySnapshot| {
            let points = match &family.points {
                Points::Sums(points) => points.capacity() * size_of::<SumPoint>(),
                Points::Values(points) => points.capacity() * size_of::<ValuePoint>(),
                Points::Histograms(points) => {
                    let heap = points.iter().map(|point| match &point.buckets {
                        Buckets::Explicit(counts) => counts.heap_bytes(),
                        Buckets::Exponential(exponential) => exponential.heap_bytes(),
                    });
                    points.capacity() * size_of::<HistogramPoint>() + heap.sum::<usize>()
                }
            };
            points + family.ended.capacity() * size_of::<Series>() + size_of::<FamilySnapshot>()
        };
        size_of::<Self>() + self.families.iter().map(of).sum::<usize>()
    }

    /// Whether it holds the daemon's own metrics.
    pub fn is_telemetry(&self) -> bool {
        self.pipeline.is_empty()
    }

    /// Number of live series, over all families.
    pub fn points(&self) -> usize {
        self.families.iter().map(|family| family.points.len()).sum()
    }
}
