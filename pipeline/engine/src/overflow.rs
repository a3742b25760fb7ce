//! Warnings about what an exporter's full queue could not hold.
//!
//! In: the items that were dropped with each output that came. Out: a warning at once, then one a minute with the sum since the one
//! before, and one at the end with the rest: every item is in one of them.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowtap_pipeline::{ComponentId, PipelineKind};

/// The least time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A queue that has dropped nothing for this long is not full any more.
const OVER: Duration = Duration::from_secs(1);

/// Losses of one exporter's queue.
#[derive(Debug)]
pub(crate) struct Overflow {
    exporter: ComponentId,
    is_pulled: bool,
    pending: Mutex<Pending>,
}

/// Items that no warning has named yet.
#[derive(Debug, Default)]
struct Pending {
    lost: Lost,
    warned: Option<Instant>,
    /// When the first and the last of them were dropped.
    dropped: Option<(Instant, Instant)>,
}

/// The losses that a warning names, and their times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    lost: Lost,
    /// Since when they were dropped, and until when, if that is over.
    since: Duration,
    until: Option<Duration>,
}

/// Items that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lost {
    points: u64,
    records: u64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, records } = self;
        match (points, records) {
            (points, 0) => write!(f, "{points} metric points"),
            (0, records) => write!(f, "{records} log records"),
            _ => write!(f, "{points} metric points and {records} log records"),
        }
    }
}

impl Pending {
    fn add(&mut self, kind: PipelineKind, items: u64, now: Instant) {
        let first = self.dropped.map_or(now, |(first, _)| first);
        self.dropped = Some((first, now));
        match kind {
            PipelineKind::Metrics => self.lost.points += items,
            PipelineKind::Logs => self.lost.records += items,
        }
    }

    /// The losses that a warning names at `now`, if one is due.
    fn due(&mut self, now: Instant) -> Option<Due> {
        let is_early = |warned: Instant| now.saturating_duration_since(warned) < WARN_INTERVAL;
        if self.lost == Lost::default() || self.warned.is_some_and(is_early) {
            return None;
        }
        self.warned = Some(now);
        self.take(now)
    }

    fn take(&mut self, now: Instant) -> Option<Due> {
        let (first, last) = self.dropped.take()?;
        let ago = |then| now.saturating_duration_since(then);
        Some(Due {
            lost: std::mem::take(&mut self.lost),
            since: ago(first),
            until: Some(ago(last)).filter(|until| *until >= OVER),
        })
    }
}

impl Overflow {
    /// Of an exporter whose clients ask for outputs, if `is_pulled`: no peer can be too slow for its queue.
    pub(crate) fn new(exporter: &ComponentId, is_pulled: bool) -> Self {
        Self {
            exporter: exporter.clone(),
            is_pulled,
            pending: Mutex::default(),
        }
    }

    /// Adds what was dropped for one output, which may be nothing, and warns if that is due.
    pub(crate) fn add(&self, dropped: impl IntoIterator<Item = (PipelineKind, u64)>) {
        let due = {
            let mut pending = self.lock();
            let now = Instant::now();
            for (kind, items) in dropped {
                pending.add(kind, items, now);
            }
            pending.due(now)
        };
        if let Some(due) = due {
            self.warn(due);
        }
    }

    /// Warns of what no warning has named yet. Also when it is dropped; but the last clone may outlive the log.
    pub(crate) fn report(&self) {
        let rest = self.lock().take(Instant::now());
        if let Some(due) = rest {
            self.warn(due);
        }
    }

    fn warn(&self, Due { lost, since, until }: Due) {
        let (what, remedy) = self.words(lost, until.is_some());
        let ago = |time: Duration| format!("{} s ago", time.as_secs());
        let (since, until) = (ago(since), until.map(ago));
        tracing::warn!(exporter = %self.exporter, dropped = %lost, since, until, "{what}; hint: {remedy}");
    }

    /// The consequence of a full queue, and the fix.
    const fn words(&self, lost: Lost, is_over: bool) -> (&'static str, &'static str) {
        if self.is_pulled {
            let what = if is_over {
                "snapshots were dropped before a scrape could show them; totals of the next one include theirs"
            } else {
                "snapshots are dropped before a scrape can show them; totals of the next one include theirs"
            };
            (
                what,
                "flowtap gets too little CPU time: raise its limit, or the `interval` of its windows",
            )
        } else {
            let what = match (is_over, lost.records > 0) {
                (false, true) => "an exporter's queue is full, and log records that it can't hold are lost",
                (false, false) => {
                    "an exporter's queue is full, and points that it can't hold are dropped; those of later snapshots replace them"
                }
                (true, true) => {
                    "an exporter's queue was full, and log records that it could not hold are lost"
                }
                (true, false) => {
                    "an exporter's queue was full, and points that it could not hold were dropped; those of later snapshots replace them"
                }
            };
            (what, "restore the peer, or give `sending_queue` more room")
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Every statement under the lock leaves it whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Overflow {
    fn drop(&mut self) {
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_and_no_key_is_named_where_clients_ask() {
        let words = |is_pulled| {
            let overflow = Overflow::new(&"a".parse().unwrap(), is_pulled);
            let (what, remedy) = overflow.words(Lost::default(), false);
            format!("{what}; {remedy}")
        };
        assert!(words(false).contains("restore the peer, or give `sending_queue`"));
        let pulled = words(true);
        assert!(pulled.contains("before a scrape can show them"), "{pulled}");
        assert!(!pulled.contains("peer") && !pulled.contains("queue"), "{pulled}");
    }

    #[test]
    fn a_queue_that_is_still_full_is_in_the_present_tense_and_one_that_was_in_the_past() {
        let lost = |points, records| Lost { points, records };
        for (is_pulled, lost) in [(true, lost(1, 0)), (false, lost(1, 0)), (false, lost(0, 1))] {
            let overflow = Overflow::new(&"a".parse().unwrap(), is_pulled);
            for is_over in [false, true] {
                let (what, _) = overflow.words(lost, is_over);
                let is_past = ["was full", "were dropped", "could"]
                    .iter()
                    .any(|word| what.contains(word));
                assert_eq!(is_past, is_over, "{what}");
            }
        }
    }

    #[test]
    fn what_is_reported_at_the_end_is_reported_once_and_while_clones_are_left() {
        let overflow = Overflow::new(&"a".parse().unwrap(), false);
        for _ in 0..2 {
            overflow.add([(PipelineKind::Metrics, 3)]);
        }
        assert_eq!(overflow.lock().lost.points, 3, "of the second, no warning is due");
        overflow.report();
        assert_eq!(overflow.lock().take(Instant::now()), None);
    }

    #[test]
    fn losses_are_named_at_once_and_then_their_sum_once_a_minute() {
        let mut pending = Pending::default();
        let began = Instant::now();
        assert_eq!(pending.due(began), None, "nothing is lost");
        pending.add(PipelineKind::Logs, 90, began);
        let lost = pending.due(began).unwrap().lost;
        assert_eq!(lost.to_string(), "90 log records");
        for second in 1..60 {
            let now = began + Duration::from_secs(second);
            pending.add(PipelineKind::Logs, 1, now);
            assert_eq!(pending.due(now), None);
        }
        let now = began + WARN_INTERVAL;
        pending.add(PipelineKind::Metrics, 2, now);
        let due = pending.due(now).unwrap();
        assert_eq!(due.lost.to_string(), "2 metric points and 59 log records");
        assert_eq!((due.since, due.until), (Duration::from_secs(59), None));
        // Points that were dropped 50 s ago, and nothing since: it is over.
        pending.add(PipelineKind::Metrics, 2, now + Duration::from_secs(10));
        let due = pending.due(now + WARN_INTERVAL).unwrap();
        assert_eq!(due.until, Some(Duration::from_secs(50)));
        assert_eq!(pending.due(began + 3 * WARN_INTERVAL), None, "nothing since");
    }
}
