//! The store of series: one hash look-up per changed series, and nothing on the heap once a series is made.
//!
//! With many series each look-up is a handful of cache misses, and one after the other they would be most of what a record
//! costs. So changes are gathered, and looked up many at a time by two loops that do little else, so that the processor waits
//! for several at once: first each change finds its slot's number in the table, by more bits of the hash than two keys will ever
//! share but by chance; then the slot shows whether it is that key's, and takes the change. The table has nothing but those bits
//! and numbers, and a slot is one cache line.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use flowtap_pipeline::{Buckets, Series, Timestamp};
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::catalog::Catalog;
use super::config::{Top, TopBy};
use super::key::Key;
use flowtap_pipeline::catalog::{FAMILIES, FamilyId};

/// A counter or a gauge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    /// The true sum. Differences are signed, so for a moment it may stand above what it will be.
    running: i64,
    /// Of a counter: what was shown last. Of a gauge: what it [holds](Sum::hold).
    shown: u64,
}

/// Value of a series.
///
/// A record reads and writes a slot's key, time and value, which are one cache line. The series itself is read when a window closes:
/// it is in the line if there is room for it, and otherwise in a table beside the slots.
pub(super) trait Value: Clone + Default {
    /// Change of the value by a record.
    type Change: Copy + std::fmt::Debug;
    /// The series, if it is in the slot.
    type Near: std::fmt::Debug;
    /// The series, if it is beside the slots; a default has none.
    type Far: Default + std::fmt::Debug;

    /// Puts the series of a slot in its place.
    fn place(series: Series) -> (Self::Near, Self::Far);

    /// The series of a slot; `None` if the slot is free.
    fn series<'a>(near: &'a Self::Near, far: &'a Self::Far) -> Option<&'a Series>;

    fn apply(&mut self, change: Self::Change);

    /// Whether a change takes back what another has added.
    fn is_decrement(change: Self::Change) -> bool;

    /// Number of what it counts, for its rank among others.
    fn count(&self) -> u64;

    /// Takes out what has come to it since it was exposed as `last`, and resets it to nothing.
    fn take_since(&mut self, last: &Self) -> Self;

    /// Whether there is nothing in it.
    fn is_nothing(&self) -> bool;

    /// Adds what was taken out of another.
    fn merge(&mut self, taken: &Self);
}

impl Value for Sum {
    type Change = i64;
    type Near = Series;
    type Far = ();

    fn place(series: Series) -> (Series, ()) {
        (series, ())
    }

    fn series<'a>(near: &'a Series, (): &'a ()) -> Option<&'a Series> {
        Some(near)
    }

    fn apply(&mut self, difference: i64) {
        self.running = self.running.saturating_add(difference);
    }

    fn is_decrement(difference: i64) -> bool {
        difference < 0
    }

    fn count(&self) -> u64 {
        self.running.max(0).unsigned_abs()
    }

    /// `shown` is what was exposed: a total that was held back counts as well, so that sums stay exact.
    fn take_since(&mut self, _: &Self) -> Self {
        let Self { running, shown } = std::mem::take(self);
        let running = running.saturating_sub_unsigned(shown);
        Self { running, shown: 0 }
    }

    fn is_nothing(&self) -> bool {
        self.running == 0
    }

    fn merge(&mut self, taken: &Self) {
        self.apply(taken.running);
    }
}

impl Sum {
    /// For a counter: the total and what it has grown by since the last time. Never falls.
    pub(super) fn total(&mut self) -> (u64, u64) {
        let total = self.shown.max(self.running.max(0).unsigned_abs());
        let delta = total - self.shown;
        self.shown = total;
        (total, delta)
    }

    /// For a gauge: what it stands at.
    pub(super) fn level(&self) -> u64 {
        self.shown.saturating_add(self.running.max(0).unsigned_abs())
    }

    /// For a gauge: counts `more` that are followed one by one, apart from differences, so that none of these can take away one
    /// of those. While it holds any its level is not 0, and its series stays.
    pub(super) const fn hold(&mut self, more: u64) {
        self.shown = self.shown.saturating_add(more);
    }

    /// For a gauge: counts `fewer` of what it holds.
    pub(super) const fn release(&mut self, fewer: u64) {
        self.shown = self.shown.saturating_sub(fewer);
    }
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: Buckets,
    pub(super) sum: f64,
}

/// A value, and the upper bounds of the family's buckets, each in its bucket; `None` if the buckets are exponential.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    pub(super) value: f64,
    pub(super) bounds: Option<&'static [f64]>,
}

impl Value for Histogram {
    type Change = Observation;
    type Near = ();
    type Far = Option<Series>;

    fn place(series: Series) -> ((), Option<Series>) {
        ((), Some(series))
    }

    fn series<'a>((): &'a (), far: &'a Option<Series>) -> Option<&'a Series> {
        far.as_ref()
    }

    fn apply(&mut self, Observation { value, bounds }: Observation) {
        self.buckets.record(value, bounds);
        self.sum += value;
    }

    fn is_decrement(_: Observation) -> bool {
        false
    }

    fn count(&self) -> u64 {
        self.buckets.count()
    }

    fn take_since(&mut self, last: &Self) -> Self {
        let taken = std::mem::take(self);
        Self {
            buckets: taken.buckets.since(&last.buckets),
            sum: taken.sum - last.sum,
        }
    }

    fn is_nothing(&self) -> bool {
        self.count() == 0
    }

    fn merge(&mut self, taken: &Self) {
        self.buckets.merge(&taken.buckets);
        self.sum += taken.sum;
    }
}

/// Rank of a series in a family that exposes some.
#[derive(Clone, Copy, Debug, Default)]
struct Rank<V> {
    score: f64,
    /// The value when the last window closed, if it is exposed; else nothing.
    last: V,
    is_exposed: bool,
}

/// A series that is exposed stays so until another has this much more: two that are alike don't take turns.
const LEAD: f64 = 1.25;

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

    /// Decides which series of families with a `top` are exposed in the window that closes, which began at `start`; what the others
    /// have counted in it goes to `other`. Returns the series that are exposed no longer.
    ///
    /// A series that becomes exposed begins at 0 with this window: what it counted before is in `other`. One that ceases to be ends,
    /// with what was exposed of it. So each change is counted in one series, and no counter jumps.
    pub(super) fn rank(&mut self, start: Timestamp, catalog: &mut Catalog) -> Vec<(FamilyId, Series)> {
        let mut ended = Vec::new();
        if self.tops.iter().all(Option::is_none) && self.ranks.is_empty() {
            return ended;
        }
        let candidates = self.score(catalog);
        let mut taken: Vec<(Key, V)> = Vec::new();
        for (family, mut candidates) in candidates {
            let n = self.tops[family as usize].map_or(usize::MAX, |top| top.n.get());
            if n < candidates.len() {
                // The highest score first; of equal ones that of the older slot.
                candidates.select_nth_unstable_by(n, |(a, first), (b, second)| {
                    b.total_cmp(a).then_with(|| first.cmp(second))
                });
            }
            for (place, (_, index)) in candidates.into_iter().enumerate() {
                let far = &mut self.far[index as usize];
                let Some(slot) = self.slots[index as usize].as_mut() else {
                    continue;
                };
                let rank = self.ranks.entry(index).or_default();
                let was_exposed = std::mem::replace(&mut rank.is_exposed, place < n);
                match (was_exposed, rank.is_exposed) {
                    (true, true) => {}
                    (false, true) => (slot.near, *far) = V::place(catalog.render(&slot.key, start)),
                    (exposed, false) => {
                        if let Some(series) = V::series(&slot.near, far).filter(|_| exposed) {
                            ended.push((family, series.clone()));
                        }
                        let change = slot.value.take_since(&rank.last);
                        if !change.is_nothing() {
                            self.outranked[family as usize] += 1;
                            taken.push((slot.key.folded(), change));
                        }
                    }
                }
                rank.last = slot.value.clone();
            }
        }
        for (other, change) in taken {
            let hashed = (self.hash(&other), other);
            let index = self.slot_of(hashed, start, catalog);
            if let Some(value) = self.value_mut(index) {
                value.merge(&change);
            }
        }
        let tops = &self.tops;
        let slots = &self.slots;
        self.ranks.retain(|index, _| {
            let slot = slots[*index as usize].as_ref();
            slot.is_some_and(|slot| tops[slot.key.family() as usize].is_some())
        });
        ended
    }

    /// The scores of the series of each family that has a `top`, or had one, with the indices of their slots.
    fn score(&mut self, catalog: &Catalog) -> BTreeMap<FamilyId, Vec<(f64, u32)>> {
        let mut candidates: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, slot) in (0..).zip(&self.slots) {
            let Some(slot) = slot else { continue };
            let family = slot.key.family();
            if slot.key.is_other() || catalog.has_few_series(family) {
                continue;
            }
            let rank = match (self.tops[family as usize], self.ranks.entry(index)) {
                (None, MapEntry::Vacant(_)) => continue,
                (_, MapEntry::Occupied(rank)) => rank.into_mut(),
                // It was there, and exposed, before the family had a `top`.
                (Some(_), MapEntry::Vacant(place)) => place.insert(Rank {
                    last: slot.value.clone(),
                    is_exposed: true,
                    ..Rank::default()
                }),
            };
            let increase = slot.value.count().saturating_sub(rank.last.count()) as f64;
            rank.score = match self.tops[family as usize].map(|top| top.by) {
                Some(TopBy::Rate) => rank.score / 2.0 + increase,
                Some(TopBy::Total) | None => rank.score + increase,
            };
            let lead = if rank.is_exposed { LEAD } else { 1.0 };
            candidates
                .entry(family)
                .or_default()
                .push((rank.score * lead, index));
        }
        candidates
    }

    /// Windows in which changes of a series went to `other` as others rank above it, by family, since the last call.
    pub(super) const fn take_outranked(&mut self) -> [u64; FAMILIES.len()] {
        std::mem::replace(&mut self.outranked, [0; FAMILIES.len()])
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
mod tests {
    use super::*;

    #[test]
    fn after_a_mass_expiry_the_memory_of_the_slots_is_freed_and_what_is_left_is_found_again() {
        use super::super::config::Config;
        use super::super::key::KeyInputs;
        use super::super::packed::Direction;

        let mut catalog = Catalog::new(&Config::default(), &std::sync::Arc::default());
        let mut store = Store::<Sum>::new(&[usize::MAX; FAMILIES.len()], &[None; FAMILIES.len()]);
        let start = Timestamp::from_nanos(1);
        let keys: Vec<_> = (0..5_000_u32)
            .filter_map(|i| {
                let record =
                    crate::testing::record("192.0.2.1:80", &format!("10.0.{}.{}:4000", i / 250, i % 250));
                let inputs = KeyInputs {
                    direction: Some(Direction::Outbound),
                    ..KeyInputs::default()
                };
                catalog.key(FamilyId::Egress, &record.flow, inputs)
            })
            .collect();
        assert_eq!(keys.len(), 5_000);
        let mut change = |store: &mut Store<Sum>, key: &Key| {
            store.change((store.hash(key), *key), 1, start, &mut catalog);
            store.flush(start, &mut catalog);
        };
        for key in &keys {
            change(&mut store, key);
        }
        let mut shown = 0;
        let mut other = Catalog::new(&Config::default(), &std::sync::Arc::default());
        store.sweep(start, &mut other, |_, _| {
            shown += 1;
            shown % 100 == 0
        });
        assert!(store.slots.capacity() < 200, "{}", store.slots.capacity());
        for key in &keys {
            change(&mut store, key);
        }
        let mut totals = BTreeMap::new();
        store.sweep(start, &mut other, |slot, _| {
            *totals.entry(slot.value.total().0).or_insert(0) += 1;
            true
        });
        let expected = [(1, 4_950), (2, 50)].into();
        assert_eq!(totals, expected, "series of one change, and of two");
    }

    #[test]
    fn a_counter_holds_a_correction_back_until_it_is_made_up_for() {
        let mut sum = Sum::default();
        sum.apply(100);
        assert_eq!(sum.total(), (100, 100));
        sum.apply(-1);
        assert_eq!(sum.total(), (100, 0));
        sum.apply(11);
        assert_eq!(sum.total(), (110, 10));
    }

    #[test]
    fn an_observation_on_a_bound_is_in_that_bounds_bucket() {
        const BOUNDS: [f64; 2] = [50.0, 100.0];
        let mut histogram = Histogram::default();
        for value in [1.0, 50.0, 50.5, 100.0, 101.0] {
            histogram.apply(Observation {
                value,
                bounds: Some(&BOUNDS),
            });
        }
        assert_eq!(histogram.buckets.explicit()[..3], [2, 2, 1]);
        assert!((histogram.sum - 302.5).abs() < f64::EPSILON);
    }
}
