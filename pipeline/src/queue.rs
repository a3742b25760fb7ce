//! The bounded queue of snapshots in front of each exporter: a slow or dead exporter slows nobody else.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::snapshot::Snapshot;

/// What to do when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Drop the oldest snapshot: the newest holds all running totals.
    #[default]
    DropOldest,
    /// Drop the one that comes.
    DropNewest,
}

/// How much may wait before an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Snapshots that may wait.
    pub size: NonZeroUsize,
    /// What gives way when it is full.
    pub when_full: WhenFull,
}

impl Default for QueueConfig {
    fn default() -> Self {
        const SIZE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        Self {
            size: SIZE,
            when_full: WhenFull::default(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Snapshot>>,
    closed: bool,
}

/// A bounded queue with one producer side and one consumer.
#[derive(Debug)]
pub struct SnapshotQueue {
    config: QueueConfig,
    state: Mutex<State>,
    changed: Notify,
}

impl SnapshotQueue {
    /// An empty queue.
    pub fn new(config: QueueConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Appends `snapshot`. Returns the snapshot that had to give way, if one had to; after `close`, that is the one
    /// that came.
    #[must_use = "a snapshot that gave way has to be counted"]
    pub fn push(&self, snapshot: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        let mut state = self.lock();
        if state.closed {
            return Some(snapshot);
        }
        let dropped = if state.waiting.len() < self.config.size.get() {
            None
        } else if self.config.when_full == WhenFull::DropOldest {
            state.waiting.pop_front()
        } else {
            return Some(snapshot);
        };
        state.waiting.push_back(snapshot);
        drop(state);
        self.changed.notify_one();
        dropped
    }

    /// The next snapshot; `None` once the queue is closed and drained. For one consumer. Cancel-safe.
    pub async fn pop(&self) -> Option<Arc<Snapshot>> {
        loop {
            {
                let mut state = self.lock();
                if let Some(snapshot) = state.waiting.pop_front() {
                    return Some(snapshot);
                }
                if state.closed {
                    return None;
                }
            }
            // `notify_one` leaves a permit behind, so a push between the look and this wait is not missed.
            self.changed.notified().await;
        }
    }

    /// Lets the consumer drain what waits, and no more come in.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Closes the queue and empties it. Returns how many points were in it.
    pub fn give_up(&self) -> u64 {
        let mut state = self.lock();
        state.closed = true;
        state
            .waiting
            .drain(..)
            .map(|snapshot| snapshot.points() as u64)
            .sum()
    }

    /// How many snapshots wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many may wait.
    pub fn capacity(&self) -> usize {
        self.config.size.get()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement above, so a panic elsewhere can't have torn it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use std::time::Duration;

    fn snapshot(at: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            pipeline: "flows".into(),
            at: Timestamp::from_nanos(at),
            window: Duration::from_secs(5),
            last: false,
            families: Vec::new(),
        })
    }

    fn queue(size: usize, when_full: WhenFull) -> SnapshotQueue {
        SnapshotQueue::new(QueueConfig {
            size: NonZeroUsize::new(size).unwrap(),
            when_full,
        })
    }

    fn at(snapshot: Option<Arc<Snapshot>>) -> Option<u64> {
        snapshot.map(|s| s.at.as_nanos())
    }

    #[tokio::test]
    async fn a_full_queue_gives_up_its_oldest_and_says_so() {
        let queue = queue(2, WhenFull::DropOldest);
        assert_eq!(at(queue.push(snapshot(1))), None);
        assert_eq!(at(queue.push(snapshot(2))), None);
        assert_eq!(at(queue.push(snapshot(3))), Some(1));
        queue.close();
        assert_eq!(at(queue.pop().await), Some(2));
        assert_eq!(at(queue.pop().await), Some(3));
        assert_eq!(at(queue.pop().await), None);
    }

    #[tokio::test]
    async fn a_full_queue_can_refuse_the_newest_instead() {
        let queue = queue(1, WhenFull::DropNewest);
        assert_eq!(at(queue.push(snapshot(1))), None);
        assert_eq!(at(queue.push(snapshot(2))), Some(2));
        assert_eq!(at(queue.pop().await), Some(1));
    }

    #[tokio::test]
    async fn a_waiting_consumer_is_woken_by_close() {
        let queue = Arc::new(queue(1, WhenFull::DropOldest));
        let consumer = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.pop().await.is_none() }
        });
        tokio::task::yield_now().await;
        queue.close();
        assert!(consumer.await.unwrap());
        assert_eq!(at(queue.push(snapshot(1))), Some(1));
    }
}
