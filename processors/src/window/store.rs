//! The store of series: one hash look-up per touched series, and nothing on the heap once a series is made.

use std::sync::Arc;

use flowtap_pipeline::{HISTOGRAM_BUCKETS, Series, Timestamp};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::catalog::Catalog;
use super::families::FAMILIES;
use super::key::Key;

/// A counter or a gauge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    /// The true sum. Differences are signed, so for a moment it may stand above what it will be.
    running: i64,
    /// What was shown last.
    shown: u64,
}

impl Sum {
    pub(super) const fn add(&mut self, difference: i64) {
        self.running = self.running.saturating_add(difference);
    }

    /// For a counter: the total and what it has grown by since the last time. Never falls.
    pub(super) fn total(&mut self) -> (u64, u64) {
        let total = self.shown.max(self.running.max(0).unsigned_abs());
        let delta = total - self.shown;
        self.shown = total;
        (total, delta)
    }

    /// For a gauge: what it stands at.
    pub(super) fn level(&self) -> u64 {
        self.running.max(0).unsigned_abs()
    }
}

/// A histogram.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: [u64; HISTOGRAM_BUCKETS + 1],
    pub(super) sum: f64,
}

impl Histogram {
    /// `bounds` are upper bounds, each in its bucket.
    pub(super) fn observe(&mut self, value: f64, bounds: &[f64; HISTOGRAM_BUCKETS]) {
        self.buckets[bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }
}

/// A live series.
#[derive(Debug)]
pub(super) struct Slot<V> {
    pub(super) key: Key,
    pub(super) series: Arc<Series>,
    /// End of the window that changed it last.
    pub(super) updated: Timestamp,
    touched: bool,
    pub(super) value: V,
}

/// Live series of one kind of value, of any number of families.
#[derive(Debug)]
pub(super) struct Store<V> {
    slots_by_key: HashMap<Key, usize, RandomState>,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<usize>,
    /// Live series by family, `other` not counted.
    live: [usize; FAMILIES.len()],
    max_series: usize,
    /// Records that went into a series `other`, by family, since they were last taken.
    folded: [u64; FAMILIES.len()],
}

impl<V: Default> Store<V> {
    pub(super) fn new(max_series: usize) -> Self {
        Self {
            slots_by_key: HashMap::with_hasher(RandomState::default()),
            slots: Vec::new(),
            free: Vec::new(),
            live: [0; FAMILIES.len()],
            max_series,
            folded: [0; FAMILIES.len()],
        }
    }

    /// The value of `key`'s series, or of its family's `other` if there is no room for one more. A series that is new
    /// begins at `start`.
    pub(super) fn touch(&mut self, key: Key, start: Timestamp, catalog: &mut Catalog) -> &mut V {
        let number = match self.slots_by_key.get(&key) {
            Some(&number) => number,
            None => self.insert(key, start, catalog),
        };
        // The number is of a slot that is taken: slots and numbers come and go together.
        let slot = self.slots[number].get_or_insert_with(|| Slot::new(key, start, catalog));
        slot.touched = true;
        &mut slot.value
    }

    #[cold]
    fn insert(&mut self, key: Key, start: Timestamp, catalog: &mut Catalog) -> usize {
        let family = key.family() as usize;
        let key = if key.is_other() {
            key
        } else if self.live[family] < self.max_series {
            self.live[family] += 1;
            key
        } else {
            self.folded[family] += 1;
            let other = Key::other(key.family());
            if let Some(&number) = self.slots_by_key.get(&other) {
                return number;
            }
            other
        };
        let slot = Some(Slot::new(key, start, catalog));
        let number = if let Some(number) = self.free.pop() {
            self.slots[number] = slot;
            number
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        self.slots_by_key.insert(key, number);
        number
    }

    /// Shows every live series to `each`, in a stable order, after it was marked as updated `at` if it was touched. A
    /// series leaves if `each` says so.
    pub(super) fn sweep(
        &mut self,
        at: Timestamp,
        catalog: &mut Catalog,
        mut each: impl FnMut(&mut Slot<V>) -> Keep,
    ) {
        for (number, place) in self.slots.iter_mut().enumerate() {
            let Some(slot) = place else { continue };
            if std::mem::take(&mut slot.touched) {
                slot.updated = at;
            }
            if each(slot) == Keep::No {
                self.slots_by_key.remove(&slot.key);
                catalog.close(&slot.key);
                if !slot.key.is_other() {
                    self.live[slot.key.family() as usize] -= 1;
                }
                self.free.push(number);
                *place = None;
            }
        }
    }

    /// Live series by family, `other` not counted.
    pub(super) const fn live(&self) -> &[usize; FAMILIES.len()] {
        &self.live
    }

    /// Records that went into a series `other`, by family, since the last call.
    pub(super) fn take_folded(&mut self) -> [u64; FAMILIES.len()] {
        std::mem::take(&mut self.folded)
    }
}

/// Whether a series stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    No,
}

impl<V: Default> Slot<V> {
    fn new(key: Key, start: Timestamp, catalog: &mut Catalog) -> Self {
        Self {
            key,
            series: Arc::new(catalog.open(&key, start)),
            updated: start,
            touched: false,
            value: V::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_holds_a_correction_back_until_it_is_made_up_for() {
        let mut sum = Sum::default();
        sum.add(100);
        assert_eq!(sum.total(), (100, 100));
        sum.add(-1);
        assert_eq!(sum.total(), (100, 0));
        sum.add(11);
        assert_eq!(sum.total(), (110, 10));
    }

    #[test]
    fn an_observation_on_a_bound_is_in_that_bounds_bucket() {
        let mut bounds = [f64::INFINITY; HISTOGRAM_BUCKETS];
        bounds[..2].copy_from_slice(&[50.0, 100.0]);
        let mut histogram = Histogram::default();
        for value in [1.0, 50.0, 50.5, 100.0, 101.0] {
            histogram.observe(value, &bounds);
        }
        assert_eq!(histogram.buckets[..3], [2, 2, 1]);
        assert!((histogram.sum - 302.5).abs() < f64::EPSILON);
    }
}
