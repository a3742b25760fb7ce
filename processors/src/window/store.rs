//! The store of series: one hash look-up per changed series, and nothing on the heap once a series is made.
//!
//! With many series each look-up is a handful of cache misses, and one after the other they would be most of what a record
//! costs. So changes are gathered, and looked up many at a time by two loops that do little else, so that the processor waits
//! for several at once: first each change finds its slot's number in the table, by more bits of the hash than two keys will ever
//! share but by chance; then the slot shows whether it is that key's, and takes the change. The table has nothing but those bits
//! and numbers, and a slot is one cache line.

mod rank;

use std::collections::HashMap;
use std::hash::BuildHasher;

use flowtap_pipeline::{Series, Timestamp};
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::catalog::Catalog;
use super::config::Top;
use super::key::Key;
use super::value::{Histogram, Sum, Value};
use flowtap_pipeline::catalog::FAMILIES;

/// Rank of a series in a family that exposes some.
#[derive(Clone, Copy, Debug, Default)]
struct Rank<V> {
    score: f64,
    /// The value when the last window closed, if it is exposed; else nothing.
    last: V,
    is_exposed: bool,
}

/// A live series, as it is shown when a window closes.
#[derive(Debug)]
pub(super) struct Live<'a, V> {
    pub(super) key: &'a Key,
    pub(super) series: &'a Series,
    /// End of the window that changed it last.
    pub(super) updated: Timestamp,
    pub(super) value: &'a mut V,
}

/// Place of a live series.
#[derive(Debug)]
#[repr(align(64))]
struct Slot<V: Value> {
    key: Key,
    /// End of the window that changed it last; [`CHANGED`] until that is known.
    updated: Timestamp,
    value: V,
    near: V::Near,
}

const _: () = assert!(
    size_of::<Option<Slot<Sum>>>() == 64 && size_of::<Option<Slot<Histogram>>>() == 64,
    "a slot is larger than a cache line"
);
const _: () = assert!(
    size_of::<<Sum as Value>::Far>() == 0 && size_of::<<Histogram as Value>::Far>() == size_of::<Series>(),
    "a series takes more beside the slots than its pointer"
);

/// In the window that is open.
const CHANGED: Timestamp = Timestamp::from_nanos(u64::MAX);

/// Changes that are looked up together.
const PENDING: usize = 64;

/// Slots that a store keeps whether they are live or not.
const LEAST: usize = 1024;

/// In place of the number of a slot.
const NO_SLOT: u32 = u32::MAX;

/// The table's entry for a series.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The high half of its key's hash.
    hash: u32,
    /// Of its slot.
    index: u32,
}

/// The half of a hash that an [`Entry`] has.
const fn high(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Live series of one kind of value, of any number of families.
#[derive(Debug)]
pub(super) struct Store<V: Value> {
    pending: Vec<(u64, Key, V::Change)>,
    /// By the hash of their keys.
    numbers: HashTable<Entry>,
    hasher: RandomState,
    slots: Vec<Option<Slot<V>>>,
    /// By index of the slot.
    far: Vec<V::Far>,
    free: Vec<u32>,
    /// Live series by family, `other` not counted.
    live: [usize; FAMILIES.len()],
    max_series: [usize; FAMILIES.len()],
    tops: [Option<Top>; FAMILIES.len()],
    /// By index of the slot: series of families that have a `top`. Others are exposed.
    ranks: HashMap<u32, Rank<V>, RandomState>,
    /// Windows in which changes of a series went to `other` as others rank above it, by family, since they were last taken.
    outranked: [u64; FAMILIES.len()],
    /// Whether memory is short: as if every family had as many series as it may.
    full: bool,
    /// Records that went into a series `other`, by family, since they were last taken.
    folded: [u64; FAMILIES.len()],
}

impl<V: Value> Store<V> {
    pub(super) fn new(max_series: &[usize; FAMILIES.len()], tops: &[Option<Top>; FAMILIES.len()]) -> Self {
        Self {
            pending: Vec::with_capacity(PENDING),
            numbers: HashTable::new(),
            hasher: RandomState::default(),
            slots: Vec::new(),
            far: Vec::new(),
            free: Vec::new(),
            live: [0; FAMILIES.len()],
            max_series: *max_series,
            tops: *tops,
            ranks: HashMap::default(),
            outranked: [0; FAMILIES.len()],
            full: false,
            folded: [0; FAMILIES.len()],
        }
    }

    /// The hash of a key, as [`Store::change`] takes it.
    #[inline]
    pub(super) fn hash(&self, key: &Key) -> u64 {
        hash(&self.hasher, key)
    }

    /// Changes `key`'s series, or its family's `other` if there is no room for one more, at the
    /// latest with the next [`Store::flush`]. A new series begins at `start`.
    #[inline]
    pub(super) fn change(
        &mut self,
        (hash, key): (u64, Key),
        change: V::Change,
        start: Timestamp,
        catalog: &mut Catalog,
    ) {
        self.pending.push((hash, key, change));
        if self.pending.len() == PENDING {
            self.flush(start, catalog);
        }
    }

    /// Whatever there is stays; `max_series` is for series that are new, `tops` from the end of the window on.
    pub(super) const fn set_budgets(
        &mut self,
        max_series: &[usize; FAMILIES.len()],
        tops: &[Option<Top>; FAMILIES.len()],
    ) {
        self.max_series = *max_series;
        self.tops = *tops;
    }

    /// Makes every change that was gathered.
    pub(super) fn flush(&mut self, start: Timestamp, catalog: &mut Catalog) {
        let mut numbers = [NO_SLOT; PENDING];
        for ((hash, _, _), index) in self.pending.iter().zip(&mut numbers) {
            let entry = self.numbers.find(*hash, |entry| entry.hash == high(*hash));
            *index = entry.map_or(NO_SLOT, |entry| entry.index);
        }
        let mut pending = std::mem::take(&mut self.pending);
        for ((hash, key, change), index) in pending.drain(..).zip(numbers) {
            let found = self.slots.get_mut(index as usize).and_then(Option::as_mut);
            let slot = match found {
                Some(slot) if slot.key == key => slot,
                _ => self.slot(hash, key, V::is_decrement(change), start, catalog),
            };
            slot.updated = CHANGED;
            slot.value.apply(change);
        }
        self.pending = pending;
    }

    /// The slot of a key that is new, has come twice, or shares half a hash with another. Where there is an `other`, no series begins
    /// with what takes back: what it takes back went there, as there was no room for a series then.
    #[cold]
    fn slot(
        &mut self,
        hash: u64,
        key: Key,
        is_decrement: bool,
        start: Timestamp,
        catalog: &mut Catalog,
    ) -> &mut Slot<V> {
        let index = self.index(hash, &key).or_else(|| {
            let other = is_decrement.then(|| key.folded())?;
            let index = self.index(self.hash(&other), &other)?;
            self.folded[key.family() as usize] += 1;
            Some(index)
        });
        let index = index.unwrap_or_else(|| self.insert(hash, key, start, catalog));
        // The number is of a slot that is taken: slots and numbers come and go together.
        self.slots[index as usize].get_or_insert_with(|| {
            let (slot, far) = Slot::new(key, start, catalog);
            self.far[index as usize] = far;
            slot
        })
    }

    /// Index of the slot of `key`'s series, or of its family's `other` if there is no room for one
    /// more. The slot belongs to that series as long as it stays (see [`Store::sweep`]).
    pub(super) fn slot_of(
        &mut self,
        (hash, key): (u64, Key),
        start: Timestamp,
        catalog: &mut Catalog,
    ) -> u32 {
        let index = self.index(hash, &key);
        index.unwrap_or_else(|| self.insert(hash, key, start, catalog))
    }

    /// The same of a series that there is already.
    pub(super) fn find(&self, (hash, key): (u64, Key)) -> Option<u32> {
        self.index(hash, &key).or_else(|| {
            let other = key.folded();
            self.index(self.hash(&other), &other)
        })
    }

    /// Whether the key has a series, other than its family's `other`.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.index(self.hash(key), key).is_some()
    }

    /// The value in a slot, which changes in the window that is open.
    pub(super) fn value_mut(&mut self, index: u32) -> Option<&mut V> {
        let slot = self.slots.get_mut(index as usize)?.as_mut()?;
        slot.updated = CHANGED;
        Some(&mut slot.value)
    }

    fn index(&self, hash: u64, key: &Key) -> Option<u32> {
        let is_it = |entry: &Entry| {
            let slot = self.slots[entry.index as usize].as_ref();
            slot.is_some_and(|slot| slot.key == *key)
        };
        self.numbers.find(hash, is_it).map(|entry| entry.index)
    }

    fn insert(&mut self, hash: u64, key: Key, start: Timestamp, catalog: &mut Catalog) -> u32 {
        let family = key.family() as usize;
        let (hash, key) = if key.is_other() {
            (hash, key)
        } else if self.live[family] < self.max_series[family] && !self.full
            || catalog.has_few_series(key.family())
        {
            self.live[family] += 1;
            (hash, key)
        } else {
            self.folded[family] += 1;
            let other = key.folded();
            let hash = self.hash(&other);
            if let Some(index) = self.index(hash, &other) {
                return index;
            }
            (hash, other)
        };
        let (slot, far) = Slot::new(key, start, catalog);
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(slot);
            self.far[index as usize] = far;
            index
        } else {
            self.slots.push(Some(slot));
            self.far.push(far);
            // Memory ends before there are 2^32 slots.
            u32::try_from(self.slots.len() - 1).unwrap_or(NO_SLOT - 1)
        };
        if self.tops[family].is_some() && !key.is_other() {
            self.ranks.insert(index, Rank::default());
        }
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_of = |entry: &Entry| {
            let slot = slots[entry.index as usize].as_ref();
            slot.map_or(0, |slot| self::hash(hasher, &slot.key))
        };
        let entry = Entry {
            hash: high(hash),
            index,
        };
        self.numbers.insert_unique(hash, entry, hash_of);
        index
    }

    /// Every live series, in a stable order.
    pub(super) fn series(&self) -> impl Iterator<Item = (&Key, &Series)> {
        let slots = self.slots.iter().zip(&self.far);
        slots.filter_map(|(slot, far)| {
            let slot = slot.as_ref()?;
            Some((&slot.key, V::series(&slot.near, far)?))
        })
    }

    /// Shows every live series to `each`, in a stable order, after it was marked as updated `at` if it has changed, and whether it is
    /// exposed. A series leaves if `each` says so. If that has moved slots, returns the new index of each, by the old one.
    pub(super) fn sweep(
        &mut self,
        at: Timestamp,
        catalog: &mut Catalog,
        mut each: impl FnMut(Live<'_, V>, bool) -> bool,
    ) -> Option<Vec<u32>> {
        for ((index, place), far) in (0..).zip(&mut self.slots).zip(&mut self.far) {
            let Some(slot) = place else { continue };
            let Some(series) = V::series(&slot.near, far) else {
                continue;
            };
            if slot.updated == CHANGED {
                slot.updated = at;
            }
            let live = Live {
                key: &slot.key,
                series,
                updated: slot.updated,
                value: &mut slot.value,
            };
            let is_exposed =
                self.ranks.is_empty() || self.ranks.get(&index).is_none_or(|rank| rank.is_exposed);
            if !each(live, is_exposed) {
                self.ranks.remove(&index);
                let hash = hash(&self.hasher, &slot.key);
                if let Ok(entry) = self.numbers.find_entry(hash, |entry| entry.index == index) {
                    entry.remove();
                }
                catalog.close(&slot.key);
                if !slot.key.is_other() {
                    self.live[slot.key.family() as usize] -= 1;
                }
                self.free.push(index);
                *place = None;
                *far = V::Far::default();
            }
        }
        (self.slots.len() > LEAST && self.free.len() > self.slots.len() / 4 * 3).then(|| self.compact())
    }

    /// Moves the live series together, in their order, and frees the rest: after a mass expiry the slots would keep their memory for
    /// as long as the window lives. Returns the new index of each slot, by the old one.
    fn compact(&mut self) -> Vec<u32> {
        let live = self.slots.len() - self.free.len();
        let mut moved = vec![NO_SLOT; self.slots.len()];
        let places = moved
            .iter_mut()
            .zip(&self.slots)
            .filter(|(_, slot)| slot.is_some());
        for ((place, _), index) in places.zip(0..) {
            *place = index;
        }
        let mut far = Vec::with_capacity(live);
        let beside = self.far.drain(..).zip(&self.slots);
        far.extend(beside.filter_map(|(far, slot)| slot.is_some().then_some(far)));
        let mut slots = Vec::with_capacity(live);
        slots.extend(self.slots.drain(..).flatten().map(Some));
        let mut numbers = HashTable::with_capacity(live);
        for (slot, index) in slots.iter().flatten().zip(0..) {
            let hash = hash(&self.hasher, &slot.key);
            let entry = Entry {
                hash: high(hash),
                index,
            };
            // There is room for all of them, so none is hashed again.
            numbers.insert_unique(hash, entry, |_| 0);
        }
        let ranks = std::mem::take(&mut self.ranks).into_iter();
        self.ranks = ranks.map(|(index, rank)| (moved[index as usize], rank)).collect();
        self.slots = slots;
        self.far = far;
        self.numbers = numbers;
        self.free = Vec::new();
        moved
    }

    /// Whether new series fold into `other` from now on, whatever room there is.
    pub(super) const fn set_frozen(&mut self, full: bool) {
        self.full = full;
    }

    /// Live series by family, `other` not counted.
    pub(super) const fn live(&self) -> &[usize; FAMILIES.len()] {
        &self.live
    }

    /// Records that went into a series `other`, by family, since the last call.
    pub(super) fn take_folded(&mut self) -> [u64; FAMILIES.len()] {
        std::mem::replace(&mut self.folded, [0; FAMILIES.len()])
    }
}

#[inline]
fn hash(hasher: &RandomState, key: &Key) -> u64 {
    hasher.hash_one(key) ^ key.direction_salt()
}

impl<V: Value> Slot<V> {
    /// The slot of a new series, and the part of it that is beside the slots.
    fn new(key: Key, start: Timestamp, catalog: &mut Catalog) -> (Self, V::Far) {
        let (near, far) = V::place(catalog.open(&key, start));
        let slot = Self {
            key,
            updated: start,
            value: V::default(),
            near,
        };
        (slot, far)
    }
}

#[cfg(test)]
mod tests;
