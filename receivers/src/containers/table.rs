//! Containers by the ids of cgroups, bounded.
//!
//! An id is never given to another cgroup (`kernfs`: 64 bits, from a counter), so an entry stays true. A cgroup that was removed is
//! kept for as long as room for removed ones lasts: its last connections end after it.

use std::collections::{HashMap, VecDeque};
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
    /// The oldest in front.
    removed: VecDeque<u64>,
}

impl Table {
    pub(super) fn get(&self, id: u64) -> Option<&Container> {
        self.containers.get(&id)
    }

    /// Adds a cgroup; `false` if there was no room. One that was removed gives its place to one that exists.
    pub(super) fn insert(&mut self, id: u64, container: Container) -> bool {
        if self.containers.len() >= MAX_CGROUPS && !self.containers.contains_key(&id) {
            let Some(oldest) = self.removed.pop_front() else {
                return false;
            };
            self.containers.remove(&oldest);
        }
        self.containers.insert(id, container);
        true
    }

    /// Marks a cgroup as removed; forgets the one that was removed longest ago if there are too many.
    pub(super) fn remove(&mut self, id: u64) {
        if !self.containers.contains_key(&id) {
            return;
        }
        self.removed.push_back(id);
        if self.removed.len() > MAX_REMOVED
            && let Some(oldest) = self.removed.pop_front()
        {
            self.containers.remove(&oldest);
        }
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
        assert_eq!(
            table.removed.len(),
            MAX_REMOVED,
            "what is not known is not removed"
        );
    }
}
