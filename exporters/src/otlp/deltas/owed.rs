//! Increases that are owed again: those of requests on disk that fail there, and of series that have ended.

use std::collections::HashMap;
use std::sync::Arc;

use super::Deltas;
use super::increase::{Amount, Increase};
use super::total::Total;
use crate::push::fate::Fate;

/// Points whose increase is kept apart from the series: of requests on disk, and of series that have ended. Beyond, what a request
/// on disk had counted is lost if that fails.
const MAX_KEPT: usize = 500_000;

impl Deltas {
    /// The request on disk of this `number` reports `increases`.
    pub(super) fn keep(&mut self, number: u64, pipeline: &Arc<str>, mut increases: Vec<Increase>) {
        let stored: usize = self.stored.values().map(|(_, kept, _)| kept.len()).sum();
        let rest: usize = self.rest.values().map(HashMap::len).sum();
        let room = MAX_KEPT.saturating_sub(stored + rest);
        let without = increases.len().saturating_sub(room);
        increases.truncate(room);
        self.stored
            .insert(number, (Arc::clone(pipeline), increases, without));
    }

    /// The request on disk of this `number` has met `fate`.
    pub(in crate::otlp) fn settle_stored(&mut self, number: u64, fate: Fate) {
        let Some((pipeline, increases, without)) = self.stored.remove(&number) else {
            return;
        };
        if fate == Fate::Delivered {
            return;
        }
        self.count_lost(without);
        for increase in increases {
            self.owe(&pipeline, increase);
        }
    }

    /// The requests on disk have met `fates`; the others are left there, and count as delivered.
    pub(in crate::otlp) fn leave_stored(&mut self, fates: impl IntoIterator<Item = (u64, Fate)>) {
        for (number, fate) in fates {
            self.settle_stored(number, fate);
        }
        self.stored.clear();
    }

    fn owe(&mut self, pipeline: &Arc<str>, increase: Increase) {
        let id = increase.series.id();
        match &increase.amount {
            Amount::Sum(value) => {
                if let Some(delivered) = self.sums.get_mut(&id) {
                    return delivered.owed.add(value);
                }
            }
            Amount::Value(value) => {
                if let Some(delivered) = self.values.get_mut(&id) {
                    return delivered.owed.add(value);
                }
            }
            Amount::Histogram(totals) => {
                if let Some(delivered) = self.histograms.get_mut(&id) {
                    return delivered.owed.add(totals);
                }
            }
        }
        self.leave(pipeline, increase);
    }

    /// The series of `increase` has ended.
    pub(super) fn leave(&mut self, pipeline: &Arc<str>, increase: Increase) {
        if increase.amount.is_nothing() {
            return;
        }
        let rest = self.rest.entry(Arc::clone(pipeline)).or_default();
        if let Some(known) = rest.get_mut(&increase.series.id()) {
            known.amount.add(&increase.amount);
        } else if rest.len() < MAX_KEPT {
            rest.insert(increase.series.id(), increase);
        } else {
            self.count_lost(1);
        }
    }
}
