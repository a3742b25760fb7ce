//! The bounded queue of outputs (snapshots, batches of log records) in front of each exporter: a slow or dead exporter slows nobody
//! else.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::PoisonError;
#[cfg(not(all(test, feature = "loom")))]
use std::sync::{Condvar, Mutex, MutexGuard};

use flowtap_pipeline::{Output, QueueConfig, WhenFull};
#[cfg(all(test, feature = "loom"))]
use loom::sync::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

#[derive(Debug)]
struct State {
    when_full: WhenFull,
    /// Maximum number of outputs, and of their bytes.
    size: NonZeroUsize,
    max_bytes: usize,
    waiting: VecDeque<Output>,
    bytes: usize,
    closed: bool,
    /// Whether nothing waits for room, whatever the config says.
    relieved: bool,
}

impl State {
    fn pop(&mut self) -> Option<Output> {
        let output = self.waiting.pop_front()?;
        self.bytes -= output.bytes();
        Some(output)
    }

    /// Whether what waits leaves no room for `bytes` more.
    fn is_full(&self, bytes: usize) -> bool {
        !self.waiting.is_empty()
            && (self.waiting.len() >= self.size.get() || self.bytes.saturating_add(bytes) > self.max_bytes)
    }
}

/// A bounded queue with one producer side and one consumer.
#[derive(Debug)]
pub struct OutputQueue {
    state: Mutex<State>,
    changed: Notify,
    /// Wakes callers that wait to push.
    room: Condvar,
}

impl OutputQueue {
    /// An empty queue.
    pub fn new(config: QueueConfig) -> Self {
        let state = State {
            when_full: config.when_full,
            size: config.size,
            max_bytes: config.max_bytes,
            waiting: VecDeque::new(),
            bytes: 0,
            closed: false,
            relieved: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            room: Condvar::new(),
        }
    }

    /// Appends `output`. Returns the outputs that were dropped for it; after `close`, that is
    /// `output` itself. Waits for room if set by the config.
    #[must_use = "dropped outputs must be counted"]
    pub fn push(&self, output: Output) -> Vec<Output> {
        let bytes = output.bytes();
        let mut state = self.lock();
        let mut dropped = Vec::new();
        while !state.closed && state.is_full(bytes) {
            match state.when_full {
                WhenFull::DropNewest => return vec![output],
                WhenFull::DropOldest => dropped.extend(state.pop()),
                WhenFull::Block if state.relieved => dropped.extend(state.pop()),
                WhenFull::Block => {
                    state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if state.closed {
            dropped.push(output);
            return dropped;
        }
        state.bytes += bytes;
        state.waiting.push_back(output);
        drop(state);
        self.changed.notify_one();
        dropped
    }

    /// The next output; `None` once the queue is closed and drained. For one consumer. Cancel-safe.
    pub async fn pop(&self) -> Option<Output> {
        loop {
            {
                let mut state = self.lock();
                if let Some(output) = state.pop() {
                    self.room.notify_one();
                    return Some(output);
                }
                if state.closed {
                    return None;
                }
            }
            // `notify_one` leaves a permit, so a push between the check and this wait is not
            // missed.
            self.changed.notified().await;
        }
    }

    /// Takes what waits and is `wanted`, in its order.
    pub(crate) fn take(&self, wanted: impl Fn(&Output) -> bool) -> Vec<Output> {
        let mut state = self.lock();
        let (taken, left): (Vec<_>, Vec<_>) = state.waiting.drain(..).partition(wanted);
        state.bytes = left.iter().map(Output::bytes).sum();
        state.waiting = left.into();
        drop(state);
        self.room.notify_all();
        taken
    }

    /// Puts `outputs` before what waits, as if they had come first. Returns those that were dropped for want of room; a queue of
    /// [`WhenFull::Block`] takes them all, as nobody can wait here.
    #[must_use = "dropped outputs must be counted"]
    pub(crate) fn prepend(&self, outputs: Vec<Output>) -> Vec<Output> {
        let mut state = self.lock();
        let later: Vec<_> = state.waiting.drain(..).collect();
        state.bytes = 0;
        let mut dropped = Vec::new();
        for output in outputs.into_iter().chain(later) {
            let bytes = output.bytes();
            match state.when_full {
                WhenFull::DropNewest if state.is_full(bytes) => {
                    dropped.push(output);
                    continue;
                }
                WhenFull::DropOldest => {
                    while state.is_full(bytes) {
                        dropped.extend(state.pop());
                    }
                }
                WhenFull::DropNewest | WhenFull::Block => {}
            }
            state.bytes += bytes;
            state.waiting.push_back(output);
        }
        drop(state);
        self.changed.notify_one();
        dropped
    }

    /// Makes room for as much as `config` has it, if there is less. A queue never shrinks: it would drop what waits.
    pub(crate) fn grow(&self, config: &QueueConfig) {
        let mut state = self.lock();
        state.size = state.size.max(config.size);
        state.max_bytes = state.max_bytes.max(config.max_bytes);
        drop(state);
        self.room.notify_all();
    }

    /// Follows `config` from now on, with as much room as there was at least.
    pub(crate) fn follow(&self, config: &QueueConfig) {
        self.lock().when_full = config.when_full;
        self.grow(config);
    }

    /// Sets whether a full queue of [`WhenFull::Block`] drops its oldest instead of waiting: a producer holds its pipeline's lock
    /// while it waits, which stopping and reloading need.
    pub(crate) fn relieve(&self, relieved: bool) {
        self.lock().relieved = relieved;
        self.room.notify_all();
    }

    /// Lets the consumer drain what waits, and no more come in.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
        self.room.notify_all();
    }

    /// Closes the queue and empties it. Returns what was in it.
    pub fn give_up(&self) -> Vec<Output> {
        let mut state = self.lock();
        state.closed = true;
        state.bytes = 0;
        // A consumer that waits on an empty queue has to see that it is closed.
        self.changed.notify_one();
        self.room.notify_all();
        state.waiting.drain(..).collect()
    }

    /// Number of outputs in the queue.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Maximum number of outputs in the queue.
    pub fn capacity(&self) -> usize {
        self.lock().size.get()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement above, so a panic elsewhere can't have torn it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(feature = "loom")]
mod loom_tests;

#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use flowtap_pipeline::{Family, FamilyKind, FamilySnapshot, Naming, Points, Snapshot, Timestamp, Unit};
    use std::time::Duration;

    fn snapshot(at: u64) -> Output {
        Output::from(Snapshot {
            pipeline: "metrics".into(),
            at: Timestamp::from_nanos(at),
            window: Duration::from_secs(5),
            last: false,
            replaced: false,
            families: Vec::new(),
        })
    }

    fn queue(size: usize, when_full: WhenFull) -> OutputQueue {
        OutputQueue::new(QueueConfig {
            size: NonZeroUsize::new(size).unwrap(),
            when_full,
            ..QueueConfig::default()
        })
    }

    fn at(snapshots: impl IntoIterator<Item = Output>) -> Option<u64> {
        snapshots.into_iter().next().map(|output| output.at().as_nanos())
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
    async fn a_queue_that_grows_keeps_what_waits_and_never_shrinks() {
        let queue = queue(1, WhenFull::DropOldest);
        assert_eq!(at(queue.push(snapshot(1))), None);
        for size in [2, 1] {
            queue.grow(&QueueConfig {
                size: NonZeroUsize::new(size).unwrap(),
                ..QueueConfig::default()
            });
            assert_eq!(queue.capacity(), 2);
        }
        assert_eq!(at(queue.push(snapshot(2))), None);
        assert_eq!(at(queue.push(snapshot(3))), Some(1));
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

    #[tokio::test]
    async fn a_queue_is_full_of_bytes_too_but_one_snapshot_always_has_room() {
        let large = |at| {
            let family = FamilySnapshot {
                family: &FAMILY,
                points: Points::Sums(Vec::with_capacity(100)),
                ended: Vec::new(),
            };
            let whole = snapshot(at).into_snapshot().unwrap();
            Output::from(Snapshot {
                families: vec![family],
                ..Snapshot::clone(&whole)
            })
        };
        let queue = OutputQueue::new(QueueConfig {
            max_bytes: 5_000,
            ..QueueConfig::default()
        });
        assert!(large(1).bytes() > 2_500, "{}", large(1).bytes());
        assert_eq!(at(queue.push(large(1))), None);
        assert_eq!(at(queue.push(large(2))), Some(1));
        let tiny = OutputQueue::new(QueueConfig {
            max_bytes: 1,
            ..QueueConfig::default()
        });
        assert_eq!(at(tiny.push(large(1))), None);
        assert_eq!(at(tiny.pop().await), Some(1));
    }

    const FAMILY: Family = Family {
        name: "bytes",
        naming: Naming::PrimusLens,
        help: "",
        unit: Unit::Bytes,
        kind: FamilyKind::Counter,
    };

    #[tokio::test]
    async fn a_queue_that_blocks_waits_for_room_and_for_nothing_once_it_is_closed() {
        let queue = Arc::new(queue(1, WhenFull::Block));
        assert_eq!(at(queue.push(snapshot(1))), None);
        let producer = tokio::task::spawn_blocking({
            let queue = Arc::clone(&queue);
            move || (at(queue.push(snapshot(2))), at(queue.push(snapshot(3))))
        });
        assert_eq!(at(queue.pop().await), Some(1));
        // The second has room now; the third waits until the queue is closed.
        while queue.is_empty() {
            tokio::task::yield_now().await;
        }
        queue.close();
        assert_eq!(producer.await.unwrap(), (None, Some(3)));
        assert_eq!(at(queue.pop().await), Some(2));
    }

    #[tokio::test]
    async fn a_queue_that_is_relieved_blocks_nobody_and_gives_up_its_oldest() {
        let queue = Arc::new(queue(1, WhenFull::Block));
        assert_eq!(at(queue.push(snapshot(1))), None);
        let producer = tokio::task::spawn_blocking({
            let queue = Arc::clone(&queue);
            move || at(queue.push(snapshot(2)))
        });
        queue.relieve(true);
        assert_eq!(producer.await.unwrap(), Some(1));
        assert_eq!(at(queue.push(snapshot(3))), Some(2));
        assert_eq!(at(queue.pop().await), Some(3));
    }
}
