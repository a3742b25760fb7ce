//! Gauges of readings: the last level of each, and the values that the series have been set to.
//!
//! A reading is of one set of labels, and a series is of all readings with its labels, of which the config may have left some out. So
//! the last level of each is kept, and when the window closes the series are set to their sums. A level that was not read again for as
//! long as series live is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use flowtap_pipeline::catalog::{FAMILIES, FamilyId};
use flowtap_pipeline::{ReadingLabels, Timestamp};

use super::catalog::Catalog;
use super::key::Key;

/// Levels that are followed at most.
const LEVELS: usize = 1 << 14;

/// Why a window can't take a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The catalogue has no such family, or it is not filled from readings.
    UnknownFamily,
    /// The increase of a gauge, or the level of a counter.
    WrongKind,
    /// There is no room for another level.
    TooManyLevels,
}

impl Rejection {
    pub(super) const ALL: [Self; 3] = [Self::UnknownFamily, Self::WrongKind, Self::TooManyLevels];

    /// The label value.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownFamily => "unknown_family",
            Self::WrongKind => "wrong_kind",
            Self::TooManyLevels => "too_many_levels",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Level {
    value: u64,
    /// Beginning of the window that has the last reading.
    seen: Timestamp,
}

/// Levels by receiver, family and labels.
#[derive(Debug, Default)]
pub(super) struct Readings {
    levels: HashMap<(u16, FamilyId, ReadingLabels), Level>,
    /// By the labels that the family has. Not by key: a key has the number of a row, which another series can have once the family is at
    /// its budget. In order, so that a replay makes new series in the same order.
    shown: BTreeMap<Shown, Gauge>,
}

/// A family, and labels that it has.
type Shown = (FamilyId, ReadingLabels);

/// The value of a series.
#[derive(Clone, Copy, Debug, Default)]
struct Gauge {
    level: i64,
    /// Whether it is in the series `other`, where it stays: another place would lack it when it ends. `None` until it was decided.
    is_folded: Option<bool>,
}

impl Readings {
    /// Takes a level; returns whether there was room for it.
    pub(super) fn take(
        &mut self,
        receiver: u16,
        family: FamilyId,
        labels: &ReadingLabels,
        value: u64,
        seen: Timestamp,
    ) -> bool {
        let level = Level { value, seen };
        let key = (receiver, family, labels.clone());
        if let Some(known) = self.levels.get_mut(&key) {
            *known = level;
            return true;
        }
        if self.levels.len() >= LEVELS {
            return false;
        }
        self.levels.insert(key, level);
        true
    }

    /// Forgets a level.
    pub(super) fn end(&mut self, receiver: u16, family: FamilyId, labels: &ReadingLabels) {
        self.levels.remove(&(receiver, family, labels.clone()));
    }

    /// Forgets the levels of a receiver that has ended, or starts anew.
    pub(super) fn end_receiver(&mut self, receiver: u16) {
        self.levels.retain(|(of, _, _), _| *of != receiver);
    }

    /// The same for a window in which only the series of some families are still there.
    pub(super) fn of_series(mut self, stays: impl Fn(FamilyId) -> bool) -> Self {
        self.shown.retain(|(family, _), _| stays(*family));
        self
    }

    /// The changes of the gauges since the last call. Those that stay as they are have a change of 0, or they would expire.
    pub(super) fn changes(
        &mut self,
        now: Timestamp,
        expiration: &[Duration; FAMILIES.len()],
        catalog: &mut Catalog,
    ) -> Vec<(Key, i64)> {
        if self.levels.is_empty() && self.shown.is_empty() {
            return Vec::new();
        }
        self.levels
            .retain(|(_, family, _), level| now.since(level.seen) < expiration[*family as usize]);
        let mut gauges = BTreeMap::<Shown, Gauge>::new();
        for ((_, family, labels), level) in &self.levels {
            if let Some(exposed) = catalog.labels_of(*family) {
                let gauge = gauges.entry((*family, labels.within(exposed))).or_default();
                let level = i64::try_from(level.value).unwrap_or(i64::MAX);
                gauge.level = gauge.level.saturating_add(level);
            }
        }
        let mut changes = Vec::new();
        let mut change = |(family, labels): &Shown, before: Gauge, level: i64| {
            if let Some(key) = catalog.key_of_reading(*family, labels) {
                let is_folded = before.is_folded == Some(true);
                let key = if is_folded { key.folded() } else { key };
                changes.push((key, level.saturating_sub(before.level)));
            }
        };
        let mut before = std::mem::take(&mut self.shown);
        for (shown, gauge) in &mut gauges {
            let before = before.remove(shown).unwrap_or_default();
            gauge.is_folded = before.is_folded;
            change(shown, before, gauge.level);
        }
        for (shown, gauge) in &before {
            change(shown, *gauge, 0);
        }
        self.shown = gauges;
        changes
    }

    /// Notes which of the gauges that are new have a series, once the changes were made.
    pub(super) fn note_folded(&mut self, catalog: &mut Catalog, has_series: impl Fn(&Key) -> bool) {
        for ((family, labels), gauge) in &mut self.shown {
            if gauge.is_folded.is_none() {
                let key = catalog.key_of_reading(*family, labels);
                gauge.is_folded = key.map(|key| !has_series(&key));
            }
        }
    }
}
