//! Ranks of the series of families with a `top`: which of them are exposed, and what goes to `other`.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry as MapEntry;

use flowtap_pipeline::{Series, Timestamp};

use super::super::catalog::Catalog;
use super::super::config::TopBy;
use super::super::key::Key;
use super::super::value::Value;
use super::{Rank, Store};
use flowtap_pipeline::catalog::{FAMILIES, FamilyId};

/// A series that is exposed stays so until another has this much more: two that are alike don't take turns.
const LEAD: f64 = 1.25;

impl<V: Value> Store<V> {
    /// Decides which series of families with a `top` are exposed in the window that closes, which began at `start`; what the others
    /// have counted in it goes to `other`. Returns the series that are exposed no longer.
    ///
    /// A series that becomes exposed begins at 0 with this window: what it counted before is in `other`. One that ceases to be ends,
    /// with what was exposed of it. So each change is counted in one series, and no counter jumps.
    pub(in super::super) fn rank(
        &mut self,
        start: Timestamp,
        catalog: &mut Catalog,
    ) -> Vec<(FamilyId, Series)> {
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
    pub(in super::super) const fn take_outranked(&mut self) -> [u64; FAMILIES.len()] {
        std::mem::replace(&mut self.outranked, [0; FAMILIES.len()])
    }
}
