//! The pipelines as a receiver sees them: a place to put batches and watermarks.

use std::fmt::{Debug, Display};

use flowtap_model::{FlowBatch, Timestamp};

/// Where one receiver puts what it has.
///
/// ```
/// use flowtap_pipeline::{FlowBatch, Sink, Timestamp};
///
/// /// Counts what a receiver passes on, in a test of it.
/// #[derive(Debug, Default)]
/// struct Count {
///     records: usize,
///     until: Timestamp,
/// }
///
/// impl Sink for Count {
///     fn accept(&mut self, batch: &mut FlowBatch) {
///         self.records += batch.records();
///         batch.clear();
///     }
///
///     fn wants_census(&self) -> bool {
///         false
///     }
///
///     fn watermark(&mut self, to: Timestamp) {
///         self.until = to;
///     }
///
///     fn scan_failed(&mut self, _: &dyn std::fmt::Display) {}
///
///     fn records_refused(&mut self, _: &dyn std::fmt::Display) {}
/// }
///
/// let mut sink = Count::default();
/// sink.accept(&mut FlowBatch::default());
/// sink.watermark(Timestamp::from_nanos(5));
/// assert_eq!((sink.records, sink.until.as_nanos()), (0, 5));
/// ```
pub trait Sink: Debug + Send {
    /// Runs `batch` through every pipeline of this receiver, and empties it.
    fn accept(&mut self, batch: &mut FlowBatch);

    /// Whether a pipeline should be shown every open connection once more, because its window is new or lacks some: a receiver
    /// that can do a [census](flowtap_model::Census) asks before each of its scans.
    fn wants_census(&self) -> bool;

    /// Reports that everything up to `to` has been accepted, so that windows that end by then can close.
    fn watermark(&mut self, to: Timestamp);

    /// Reports that the scan before the next watermark failed: after a few of these in a row the receiver is not ok.
    fn scan_failed(&mut self, error: &dyn Display);

    /// Reports that records were refused, which are lost and counted; `reason` says how many and why. The receiver is not ok until
    /// none has been refused for a while.
    fn records_refused(&mut self, reason: &dyn Display);
}
