//! Folds dropped packets into series.

use flowtap_pipeline::DropRecord;
use flowtap_pipeline::catalog::FamilyId;

use super::super::event_label::EventLabel;
use super::super::key::KeyInputs;
use super::Window;

impl Window {
    pub(super) fn fold_drop(&mut self, record: &DropRecord) {
        let inputs = KeyInputs {
            cause: Some(EventLabel::Drop(record.reason)),
            ..KeyInputs::default()
        };
        let key = match &record.flow {
            Some(flow) => self.catalog.key(FamilyId::Drops, flow, inputs),
            None => {
                self.catalog
                    .key_without_flow(FamilyId::Drops, record.netns, inputs, record.is_unattributed)
            }
        };
        let Some(key) = key else { return };
        let packets = i64::try_from(record.packets).unwrap_or(i64::MAX);
        let hashed = (self.sums.hash(&key), key);
        self.sums.change(hashed, packets, self.opened, &mut self.catalog);
    }
}
