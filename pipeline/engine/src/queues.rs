//! The queues of an exporter: one, or one for each kind of output.

use flowtap_pipeline::{Output, PipelineKind, QueueConfig};

use crate::queue::OutputQueue;

/// One queue, or one for each kind if the peers of an exporter may fail separately: what waits for one must not hold the other up.
#[derive(Debug)]
pub struct Queues {
    /// Of metrics, and of log records also if they have none of their own.
    metrics: OutputQueue,
    logs: Option<OutputQueue>,
}

impl From<OutputQueue> for Queues {
    fn from(queue: OutputQueue) -> Self {
        Self {
            metrics: queue,
            logs: None,
        }
    }
}

impl Queues {
    /// Empty ones, as large as `config` has it each.
    pub(crate) fn new(config: QueueConfig, separates_kinds: bool) -> Self {
        Self {
            metrics: OutputQueue::new(config),
            logs: separates_kinds.then(|| OutputQueue::new(config)),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &OutputQueue> {
        std::iter::once(&self.metrics).chain(&self.logs)
    }

    /// See [`OutputQueue::push`].
    #[must_use = "dropped outputs must be counted"]
    pub(crate) fn push(&self, output: Output) -> Vec<Output> {
        let queue = match (output.kind(), &self.logs) {
            (PipelineKind::Logs, Some(logs)) => logs,
            _ => &self.metrics,
        };
        queue.push(output)
    }

    /// See [`OutputQueue::grow`].
    pub(crate) fn grow(&self, config: &QueueConfig) {
        self.all().for_each(|queue| queue.grow(config));
    }

    /// See [`OutputQueue::follow`].
    pub(crate) fn follow(&self, config: &QueueConfig) {
        self.all().for_each(|queue| queue.follow(config));
    }

    /// Moves what waits here and is `wanted` before what waits in `next`, the queues of an exporter of the same type. Returns what
    /// was dropped for want of room.
    #[must_use = "dropped outputs must be counted"]
    pub(crate) fn move_to(&self, next: &Self, wanted: impl Fn(&Output) -> bool) -> Vec<Output> {
        let pairs = self.all().zip(next.all());
        pairs
            .flat_map(|(queue, next)| next.prepend(queue.take(&wanted)))
            .collect()
    }

    /// See [`OutputQueue::relieve`].
    pub(crate) fn relieve(&self, relieved: bool) {
        self.all().for_each(|queue| queue.relieve(relieved));
    }

    /// See [`OutputQueue::close`].
    pub(crate) fn close(&self) {
        self.all().for_each(OutputQueue::close);
    }

    /// See [`OutputQueue::give_up`].
    pub(crate) fn give_up(&self) -> Vec<Output> {
        self.all().flat_map(OutputQueue::give_up).collect()
    }

    /// Whether no output waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().all(OutputQueue::is_empty)
    }

    /// Number of outputs in the longest queue.
    pub(crate) fn len(&self) -> usize {
        self.all().map(OutputQueue::len).max().unwrap_or_default()
    }

    /// Maximum number of outputs in a queue.
    pub(crate) fn capacity(&self) -> usize {
        self.metrics.capacity()
    }
}
