//! Folding of exchanges: requests over TCP, and the time of their answers.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{FamilyKind, TcpRecord};

use super::super::key::KeyInputs;
use super::super::value::Observation;
use super::Window;

impl Window {
    /// One key for all exchanges of the record, which may be thousands.
    pub(super) fn fold_exchanges(&mut self, record: &TcpRecord) {
        let Some(exchanges) = &record.exchanges else {
            return;
        };
        let count = i64::try_from(exchanges.count()).unwrap_or(i64::MAX);
        self.add(FamilyId::Exchanges, &record.flow, KeyInputs::default(), count);
        let family = FamilyId::ExchangeDuration;
        let bounds = match self.catalog.family(family).kind {
            FamilyKind::Histogram(bounds) => Some(bounds),
            _ => None,
        };
        let Some(key) = self.catalog.key(family, &record.flow, KeyInputs::default()) else {
            return;
        };
        let hash = self.histograms.hash(&key);
        for duration in &exchanges.durations_us {
            let value = f64::from(*duration) / 1e6;
            self.histograms.change(
                (hash, key),
                Observation { value, bounds },
                self.opened,
                &mut self.catalog,
            );
        }
    }
}
