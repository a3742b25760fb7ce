//! Records of a pipeline, as far as the live view keeps them: the newest ones while somebody asks, and always the sums of the last
//! 15 minutes.

use flowtap_pipeline::{FlowBatch, Observer, Timestamp};

use super::recent::Recent;
use super::timeline::Steps;

/// The records of a pipeline, as far as the live view keeps them.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) recent: Recent,
    pub(super) steps: Steps,
}

impl Observer for Observed {
    fn observe(&self, batch: &FlowBatch) {
        self.steps.observe(batch);
        self.recent.observe(batch);
    }

    fn advance(&self, to: Timestamp) {
        self.steps.advance(to);
        self.recent.advance(to);
    }
}
