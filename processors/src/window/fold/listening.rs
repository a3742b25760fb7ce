//! Folds listening sockets into series.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{FlowBatch, ListeningRecord};

use super::super::key::KeyInputs;
use super::Window;

impl Window {
    pub(super) fn fold_listening(&mut self, receiver: u16, records: &[ListeningRecord]) {
        for record in records {
            // A detached receiver's sockets are not followed: nothing would end them.
            if receiver != FlowBatch::DETACHED && !self.listening.take(receiver, record) {
                self.telemetry.untracked();
            }
            if record.drops > 0 {
                let drops = i64::try_from(record.drops).unwrap_or(i64::MAX);
                self.add(FamilyId::ListenDrops, &record.flow, KeyInputs::default(), drops);
            }
        }
    }

    /// Sets the gauges.
    pub(super) fn show_listening(&mut self) {
        for (key, change) in self.listening.changes(&mut self.catalog) {
            let hashed = (self.sums.hash(&key), key);
            self.sums.change(hashed, change, self.opened, &mut self.catalog);
        }
        self.sums.flush(self.opened, &mut self.catalog);
    }
}
