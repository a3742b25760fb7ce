//! A value that is replaced as a whole while others look at it: this machine's addresses, the cluster's ranges and names.
//!
//! Readers on a hot path hold a [`Seen`], which costs one load and one comparison of pointers as
//! long as nothing has changed.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// The value, shared by its writer and its readers.
///
/// ```
/// use flowtap_pipeline::{Live, Seen};
///
/// let value = Live::new(1);
/// let mut reader = Seen::new(&value);
/// value.store(2);
/// assert!(reader.refresh());
/// assert_eq!(**reader.last(), 2);
/// ```
pub struct Live<T>(ArcSwap<T>);

impl<T> Live<T> {
    /// Begins with `value`.
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(value)))
    }

    /// The value as it is now.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces it.
    pub fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.load()).finish()
    }
}

/// A reader, and the value that it read last.
///
/// ```
/// use flowtap_pipeline::{Live, Seen};
///
/// let value = Live::new("old");
/// let mut reader = Seen::new(&value);
/// assert!(!reader.refresh());
/// value.store("new");
/// assert!(reader.refresh());
/// ```
#[derive(Debug)]
pub struct Seen<T> {
    live: Arc<Live<T>>,
    last: Arc<T>,
}

impl<T> Seen<T> {
    /// Sees what is there now.
    pub fn new(live: &Arc<Live<T>>) -> Self {
        Self {
            live: Arc::clone(live),
            last: live.load(),
        }
    }

    /// The value that was read last.
    pub fn last(&self) -> &Arc<T> {
        &self.last
    }

    /// Looks again; whether it was replaced since.
    pub fn refresh(&mut self) -> bool {
        let now = self.live.0.load();
        let changed = !Arc::ptr_eq(&now, &self.last);
        if changed {
            self.last = Arc::clone(&now);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_seen_once() {
        let live = Live::new(1);
        let mut seen = Seen::new(&live);
        assert!(!seen.refresh());
        live.store(2);
        assert!(seen.refresh());
        assert_eq!(**seen.last(), 2);
        assert!(!seen.refresh());
    }
}
