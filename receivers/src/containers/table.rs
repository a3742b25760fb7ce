//! Containers by the ids of cgroups, bounded.
//!
//! An id is never given to another cgroup (`kernfs`: 64 bits, from a counter), so an entry stays true. A cgroup that was removed is
//! kept for as long as room for removed ones lasts: its last connections end after it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Cgroups that exist. A kernel can have 2^32; machines have some thousands.
const MAX_CGROUPS: usize = 1 << 16;

/// Cgroups that were removed and are still known.
const MAX_REMOVED: usize = 1 << 13;

/// The id of a cgroup's container; `None` if it belongs to none.
pub(super) type Container = Option<Arc<str>>;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    containers: HashMap<u64, Container>,
    /// The oldest in front, each once.
    removed: VecDeque<u64>,
    /// The same ids.
    is_removed: HashSet<u64>,
}

impl Table {
    pub(super) fn get(&self, id: u64) -> Option<&Container> {
        self.containers.get(&id)
    }

    /// Adds a cgroup; `false` if there was no room. One that was removed gives its place to one that exists.
    pub(super) fn insert(&mut self, id: u64, container: Container) -> bool {
        let is_full = self.containers.len() >= MAX_CGROUPS && !self.containers.contains_key(&id);
        if is_full && !self.forget_oldest() {
            return false;
        }
        self.containers.insert(id, container);
        true
    }

    /// Marks a cgroup as removed; forgets the one that was removed longest ago if there are too many.
    pub(super) fn remove(&mut self, id: u64) {
        if !self.containers.contains_key(&id) || !self.is_removed.insert(id) {
            return;
        }
        self.removed.push_back(id);
        if self.removed.len() > MAX_REMOVED {
            self.forget_oldest();
        }
    }

    /// Marks all as removed but `existing`.
    pub(super) fn remove_all_but(&mut self, existing: &HashSet<u64>) {
        let known = self.containers.keys().copied();
        let gone: Vec<_> = known.filter(|id| !existing.contains(id)).collect();
        for id in gone {
            self.remove(id);
        }
    }

    /// Forgets the one that was removed longest ago; `false` if there is none.
    fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.removed.pop_front() else {
            return false;
        };
        self.is_removed.remove(&oldest);
        self.containers.remove(&oldest);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_is_bounded_and_what_was_removed_is_forgotten_first() {
        let mut table = Table::default();
        let full = MAX_CGROUPS as u64;
        assert!((0..full).all(|id| table.insert(id, None)));
        assert!(!table.insert(full, None), "full");
        assert!(table.insert(0, Some("again".into())), "it is known already");
        table.remove(7);
        assert!(table.get(7).is_some(), "its connections may still end");
        assert!(table.insert(full, None));
        assert!(table.get(7).is_none());
        assert!(table.get(full).is_some());
        assert!(!table.insert(full + 1, None));
    }

    #[test]
    fn removed_cgroups_are_kept_up_to_a_bound() {
        let mut table = Table::default();
        let many = MAX_REMOVED as u64 + 10;
        for id in 0..many {
            assert!(table.insert(id, None));
            table.remove(id);
        }
        assert_eq!(table.containers.len(), MAX_REMOVED);
        assert!(table.get(9).is_none());
        assert!(table.get(10).is_some());
        table.remove(3);
        table.remove(10);
        assert_eq!(
            table.removed.len(),
            MAX_REMOVED,
            "what is not known is not removed, and what was removed not again"
        );
    }

    #[test]
    fn what_a_walk_does_not_find_is_removed_and_still_known() {
        let mut table = Table::default();
        assert!((0..10).all(|id| table.insert(id, None)));
        table.remove(4);
        table.remove_all_but(&(0..8).collect());
        let removed: HashSet<_> = table.removed.iter().copied().collect();
        assert_eq!(removed, [4, 8, 9].into());
        assert!(table.get(9).is_some());
    }
}
