//! A value that is replaced as a whole while others look at it: this machine's addresses, the cluster's ranges and names.
//!
//! Its own code has no state between two steps: `load` and `store` are one operation of [`ArcSwap`] each, which loom can't drive, as it is
//! built on the atomics of `std`; `arc-swap` checks itself under Miri and sanitizers. A stress test is here instead.
//!
//! Readers on a hot path hold a [`Subscription`], which costs one load and one comparison of pointers as
//! long as nothing has changed.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// The value, shared by its writer and its readers.
///
/// ```
/// use flowtap_pipeline::{Published, Subscription};
///
/// let value = Published::new(1);
/// let mut reader = Subscription::new(&value);
/// value.store(2);
/// assert!(reader.refresh());
/// assert_eq!(**reader.last(), 2);
/// ```
pub struct Published<T>(ArcSwap<T>);

impl<T> Published<T> {
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

impl<T: fmt::Debug> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Published").field(&self.load()).finish()
    }
}

/// A reader, and the value that it read last.
///
/// ```
/// use flowtap_pipeline::{Published, Subscription};
///
/// let value = Published::new("old");
/// let mut reader = Subscription::new(&value);
/// assert!(!reader.refresh());
/// value.store("new");
/// assert!(reader.refresh());
/// ```
#[derive(Debug)]
pub struct Subscription<T> {
    published: Arc<Published<T>>,
    last: Arc<T>,
}

impl<T> Subscription<T> {
    /// Sees what is there now.
    pub fn new(published: &Arc<Published<T>>) -> Self {
        Self {
            published: Arc::clone(published),
            last: published.load(),
        }
    }

    /// The value that was read last.
    pub fn last(&self) -> &Arc<T> {
        &self.last
    }

    /// Looks again; whether it was replaced since.
    pub fn refresh(&mut self) -> bool {
        let now = self.published.0.load();
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
        let published = Published::new(1);
        let mut subscription = Subscription::new(&published);
        assert!(!subscription.refresh());
        published.store(2);
        assert!(subscription.refresh());
        assert_eq!(**subscription.last(), 2);
        assert!(!subscription.refresh());
    }

    #[test]
    fn many_readers_see_whole_values_that_never_go_back_and_at_last_the_newest() {
        const WRITES: u64 = 20_000;
        const READERS: usize = 4;
        /// On the heap, so that a value that was freed or is half written would show.
        fn value(index: u64) -> [Box<u64>; 4] {
            std::array::from_fn(|_| Box::new(index))
        }
        let published = Published::new(value(0));
        let begun = std::sync::Barrier::new(READERS + 1);
        let read = &|by_subscription: bool| {
            let mut subscription = Subscription::new(&published);
            begun.wait();
            let (mut last, mut seen) = (0, 0_u64);
            while last < WRITES {
                let now = if by_subscription {
                    let before = Arc::clone(subscription.last());
                    let changed = subscription.refresh();
                    assert_eq!(changed, !Arc::ptr_eq(&before, subscription.last()));
                    Arc::clone(subscription.last())
                } else {
                    published.load()
                };
                let index = *now[0];
                assert!(now.iter().all(|part| **part == index), "{now:?}");
                assert!(index >= last, "{index} after {last}");
                last = index;
                seen += 1;
            }
            seen
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|reader| scope.spawn(move || read(reader % 2 == 0)))
                .collect();
            begun.wait();
            for index in 1..=WRITES {
                published.store(value(index));
            }
            for reader in readers {
                assert!(reader.join().unwrap() > 0);
            }
        });
        // Every other value was freed.
        assert_eq!(Arc::strong_count(&published.load()), 2);
    }
}
