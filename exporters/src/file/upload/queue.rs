//! Finished files that are not uploaded yet: the folder is the queue, and this its index.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::names::Name;

/// Cloning it shares it. Writers put names in, the task of uploads takes them out. Bounded by the files on the disk, and so by
/// `rotation`.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By age; the text is the key of the object, which is the path below the root.
    waiting: Mutex<BTreeMap<(Name, String), Attempts>>,
    changed: Notify,
}

/// Failed uploads of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    failed: u32,
    /// When the next one is due; `None` before the first.
    due: Option<Instant>,
}

/// Files to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A file.
    File(Name, String),
    /// Nothing until then.
    At(Instant),
    /// Nothing until a name is put in.
    Nothing,
}

impl Queue {
    pub(super) fn put(&self, name: Name, key: String) {
        self.waiting().entry((name, key)).or_default();
        self.0.changed.notify_one();
    }

    /// Takes a name out. Returns whether it was there.
    pub(super) fn remove(&self, name: &Name, key: &str) -> bool {
        self.waiting().remove(&(name.clone(), key.to_owned())).is_some()
    }

    /// The file whose upload is due at `now`: of those that failed least often the oldest, so that one that the store refuses is
    /// in no other's way.
    pub(super) fn next(&self, now: Instant) -> Next {
        let waiting = self.waiting();
        let due = waiting
            .iter()
            .filter(|(_, attempts)| attempts.due.is_none_or(|due| due <= now));
        if let Some(((name, key), _)) = due.min_by_key(|(_, attempts)| attempts.failed) {
            return Next::File(name.clone(), key.clone());
        }
        let earliest = waiting.values().filter_map(|attempts| attempts.due).min();
        earliest.map_or(Next::Nothing, Next::At)
    }

    /// Every file, in the order of [`next`](Self::next), whether it is due or not.
    pub(super) fn all(&self) -> Vec<(Name, String)> {
        let waiting = self.waiting();
        let mut all: Vec<_> = waiting.iter().collect();
        all.sort_by_key(|(_, attempts)| attempts.failed);
        all.into_iter().map(|(file, _)| file.clone()).collect()
    }

    /// An upload of a file failed. Returns how often by now; 0 if it was taken out meanwhile.
    pub(super) fn failed(&self, name: &Name, key: &str) -> u32 {
        let mut waiting = self.waiting();
        let Some(attempts) = waiting.get_mut(&(name.clone(), key.to_owned())) else {
            return 0;
        };
        attempts.failed = attempts.failed.saturating_add(1);
        attempts.failed
    }

    /// Its next upload is due at `due`.
    pub(super) fn defer(&self, name: &Name, key: &str, due: Instant) {
        if let Some(attempts) = self.waiting().get_mut(&(name.clone(), key.to_owned())) {
            attempts.due = Some(due);
        }
    }

    /// Whether there is a file whose last upload failed.
    pub(super) fn has_failed(&self) -> bool {
        self.waiting().values().any(|attempts| attempts.failed > 0)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Waits until a name was put in since the last wait.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<(Name, String), Attempts>> {
        // Every statement under the lock leaves it whole.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flowtap_pipeline::Timestamp;

    use super::*;

    #[test]
    fn a_file_that_failed_comes_after_those_that_did_not_and_when_it_is_due() {
        let queue = Queue::default();
        let names = [1, 2].map(|second| Name::starting(Timestamp::from_nanos(second * 1_000_000_000)));
        for (name, key) in names.iter().zip(["a", "b"]) {
            queue.put(name.clone(), key.to_owned());
        }
        let now = Instant::now();
        let later = now + Duration::from_secs(9);
        let file = |index: usize| Next::File(names[index].clone(), ["a", "b"][index].to_owned());
        assert_eq!(queue.next(now), file(0));
        assert_eq!(queue.failed(&names[0], "a"), 1);
        queue.defer(&names[0], "a", later);
        assert_eq!(queue.next(now), file(1));
        assert_eq!(queue.next(later), file(1), "one that never failed is first");
        assert!(queue.remove(&names[1], "b") && queue.has_failed());
        assert_eq!(queue.next(now), Next::At(later));
        assert_eq!(queue.next(later), file(0));
        // A file that is put in again keeps its failures.
        queue.put(names[0].clone(), "a".to_owned());
        assert_eq!(queue.failed(&names[0], "a"), 2);
        assert!(queue.remove(&names[0], "a") && !queue.has_failed());
        assert_eq!(queue.next(now), Next::Nothing);
        assert_eq!(queue.failed(&names[0], "a"), 0);
    }
}
