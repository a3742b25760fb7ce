//! Series that have ended since the last snapshot that was passed on.

use flowtap_pipeline::{Series, Snapshot, Timestamp};

/// Series that have ended, by family: from the windows since the last that went on, so no more than there can be series in
/// that time. Each with the end of its last window.
#[derive(Debug, Default)]
pub(super) struct Ended(pub(super) Vec<Vec<(Timestamp, Series)>>);

impl Ended {
    pub(super) fn add(&mut self, snapshot: &Snapshot) {
        let families = self.0.len().max(snapshot.families.len());
        self.0.resize_with(families, Vec::new);
        for (ended, family) in self.0.iter_mut().zip(&snapshot.families) {
            ended.extend(family.ended.iter().map(|series| (snapshot.at, series.clone())));
        }
    }

    pub(super) fn of(&self, family: usize) -> &[(Timestamp, Series)] {
        self.0.get(family).map_or(&[], Vec::as_slice)
    }
}
