//! Finished files that are not uploaded yet: the folder is the queue, and this its index.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::super::names::Name;

/// Cloning it shares it. Writers put names in, the task of uploads takes them out. Bounded by the files on the disk, and so by
/// `rotation`.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By age; the text is the key of the object, which is the path below the root.
    waiting: Mutex<BTreeSet<(Name, String)>>,
    changed: Notify,
}

impl Queue {
    pub(super) fn put(&self, name: Name, key: String) {
        self.waiting().insert((name, key));
        self.0.changed.notify_one();
    }

    /// Takes a name out. Returns whether it was there.
    pub(super) fn remove(&self, name: &Name, key: &str) -> bool {
        self.waiting().remove(&(name.clone(), key.to_owned()))
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<(Name, String)> {
        self.waiting().first().cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Waits until a name was put in since the last wait.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<(Name, String)>> {
        // Every statement under the lock leaves it whole.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
