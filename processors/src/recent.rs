//! A bounded map that forgets what has not been used for longest.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of two generations. Entries go into the young one, and those that are used come back into it; when it holds half the
/// capacity, it becomes the old one, and what was left in that is evicted. So an entry that nobody removes does not stay for
/// ever, and one that is used does.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> Recent<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: capacity / 2,
        }
    }

    /// The value of `key`, with how many entries were evicted to keep it.
    pub(crate) fn get(&mut self, key: K) -> (Option<V>, usize) {
        if let Some(value) = self.young.get(&key) {
            return (Some(value.clone()), 0);
        }
        // Most often there is no old one.
        match self.old.remove(&key) {
            Some(value) => (Some(value.clone()), self.insert(key, value)),
            None => (None, 0),
        }
    }

    /// Sets the value of `key`; returns how many entries were evicted.
    pub(crate) fn insert(&mut self, key: K, value: V) -> usize {
        let mut evicted = 0;
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            evicted = old.len();
        }
        self.young.insert(key, value);
        evicted
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if self.young.remove(key).is_none() {
            self.old.remove(key);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_evicted_is_counted() {
        let mut recent = Recent::new(8);
        let mut evicted = recent.insert(0, "used");
        for key in 1..100 {
            evicted += recent.insert(key, "idle");
            let (value, more) = recent.get(0);
            assert_eq!(value, Some("used"), "after {key}");
            evicted += more;
        }
        assert_eq!(recent.young.len() + recent.old.len() + evicted, 100);
        assert!(recent.young.len() + recent.old.len() <= 8);
        assert_eq!(recent.get(99).0, Some("idle"));
        assert_eq!(recent.get(1).0, None);
        recent.remove(&0);
        assert_eq!(recent.get(0).0, None);
    }
}
