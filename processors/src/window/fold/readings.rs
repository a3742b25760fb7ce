//! Folds readings of devices into series.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{FlowBatch, ReadingRecord, ReadingValue, Timestamp};

use super::super::readings::Rejection;
use super::Window;

impl Window {
    pub(super) fn fold_reading(&mut self, receiver: u16, record: &ReadingRecord) {
        if let Err(reason) = self.try_fold_reading(receiver, record) {
            self.telemetry.reject_reading(reason, 1);
        }
    }

    pub(super) fn try_fold_reading(
        &mut self,
        receiver: u16,
        record: &ReadingRecord,
    ) -> Result<(), Rejection> {
        let family = FamilyId::from_name(&record.family)
            .filter(|family| family.takes_readings())
            .ok_or(Rejection::UnknownFamily)?;
        let is_gauge = self.catalog.family(family).kind.can_fall();
        match record.value {
            ReadingValue::Increase(increase) if !is_gauge => {
                if let Some(key) = self.catalog.key_of_reading(family, &record.labels) {
                    let increase = i64::try_from(increase).unwrap_or(i64::MAX);
                    let hashed = (self.sums.hash(&key), key);
                    self.sums.change(hashed, increase, self.opened, &mut self.catalog);
                }
            }
            // A detached receiver's levels are not followed: nothing would end them.
            ReadingValue::Level(_) if is_gauge && receiver == FlowBatch::DETACHED => {}
            ReadingValue::Level(level) if is_gauge => {
                if !self
                    .readings
                    .take(receiver, family, &record.labels, level, self.opened)
                {
                    return Err(Rejection::TooManyLevels);
                }
            }
            ReadingValue::Ended if is_gauge => self.readings.end(receiver, family, &record.labels),
            ReadingValue::Increase(_) | ReadingValue::Level(_) | ReadingValue::Ended => {
                return Err(Rejection::WrongKind);
            }
        }
        Ok(())
    }

    /// Sets the gauges.
    pub(super) fn show_readings(&mut self, at: Timestamp) {
        for (key, change) in self.readings.changes(at, &self.expiration, &mut self.catalog) {
            let hashed = (self.sums.hash(&key), key);
            self.sums.change(hashed, change, self.opened, &mut self.catalog);
        }
        self.sums.flush(self.opened, &mut self.catalog);
        let sums = &self.sums;
        self.readings.note_folded(&mut self.catalog, |key| sums.has(key));
    }
}
