//! The newest snapshot of a pipeline, with what is compared with it.

use std::sync::Arc;

use flowtap_pipeline::{Series, Snapshot};

/// Totals of a series one window before: of a histogram, or of a counter that is not in whole numbers, which has no count.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) series: Series,
    pub(super) count: u64,
    pub(super) sum: f64,
}

/// The newest snapshot of a pipeline.
#[derive(Debug)]
pub(super) struct Latest {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) before: Vec<Before>,
}
