//! The newest records of a pipeline, as evidence by peer.
//!
//! In: the records that reach the pipeline's window, and its watermarks. Out: the [`Sums`] of the last 15 to 30 seconds, or of the
//! last interval of the receivers if that is longer. The rules:
//!
//! 1. Records count while somebody asks: from the first request on, until no request has come for a minute. Otherwise a batch costs a
//!    look at a flag.
//! 2. The clock is the watermarks, as of every stage.
//! 3. Peers, connections and listening sockets have the bounds of [`Tally`], and edges that of [`Edges`], in each of two periods.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{FlowBatch, Observer, Timestamp};

use super::map::Edges;
use crate::verdict::{Sums, Tally};

/// Length of a period, at least. An answer covers the last complete one and the one that is open.
const PERIOD: Duration = Duration::from_secs(15);

/// Time after the last request from which on records are not counted.
const INTEREST: Duration = Duration::from_secs(60);

/// The newest records.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Somebody has asked: records are counted.
    counts: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody has asked since the last watermark.
    asked: bool,
    /// When the interest ends; `None` before the first watermark that follows a request.
    until: Option<Timestamp>,
    /// The newest watermark.
    now: Timestamp,
    /// Time between the newest watermark and the one before.
    interval: Duration,
    /// Where the complete period began, if there is one.
    before: Option<(Timestamp, Sums, Edges)>,
    /// Where the open period began; `None` if that was before the first watermark.
    began: Option<Timestamp>,
    tally: Tally,
    edges: Edges,
}

/// Evidence of a period.
#[derive(Debug)]
pub(super) struct Measured {
    /// End of the period.
    pub(super) at: Timestamp,
    /// Its length.
    pub(super) length: Duration,
    pub(super) sums: Sums,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest evidence; `None` if nothing has been measured yet. Measuring goes on for a while because of this.
    pub(super) fn ask(&self) -> Option<Measured> {
        self.asked().measured()
    }

    /// The same with the edges of the same period.
    pub(super) fn ask_with_edges(&self) -> Option<(Measured, Edges)> {
        let state = self.asked();
        let measured = state.measured()?;
        let before = state.before.as_ref().map(|(_, _, edges)| edges);
        Some((measured, state.edges.with(before)))
    }

    /// The state, of which somebody has asked.
    fn asked(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.asked = true;
        if !self.counts.swap(true, Ordering::Relaxed) {
            state.began = (state.now != Timestamp::default()).then_some(state.now);
        }
        state
    }
}

impl State {
    fn measured(&self) -> Option<Measured> {
        let began = match &self.before {
            Some((began, ..)) => *began,
            None => self.began?,
        };
        if self.now <= began {
            return None;
        }
        let before = self.before.as_ref().map(|(_, sums, _)| sums);
        Some(Measured {
            at: self.now,
            length: self.now.since(began),
            sums: self.tally.sums(before, |_, _| true),
        })
    }
}

impl Observer for Recent {
    fn observe(&self, batch: &FlowBatch) {
        if !self.counts.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.lock();
        // Records before the first watermark have no beginning.
        let Some(began) = state.began else { return };
        let began = state.before.as_ref().map_or(began, |(began, ..)| *began);
        let longest = state.now.since(began) + state.interval;
        let longest = match state.interval {
            Duration::ZERO => i64::MAX,
            _ => i64::try_from(longest.as_micros()).unwrap_or(i64::MAX),
        };
        let tally = &mut state.tally;
        for record in &batch.tcp {
            tally.add_tcp_of(batch.receiver, record, longest);
        }
        for record in &batch.listening {
            tally.add_listening(batch.receiver, record);
        }
        for record in &batch.drops {
            tally.add_drop(record);
        }
        state.edges.add(batch, longest);
    }

    fn advance(&self, to: Timestamp) {
        let mut state = self.lock();
        let set_back = to < state.now;
        if state.now != Timestamp::default() {
            state.interval = to.since(state.now);
        }
        state.now = to;
        if std::mem::take(&mut state.asked) {
            state.until = Some(to.plus(INTEREST));
        }
        let is_over = state.until.is_none_or(|until| to >= until);
        if !self.counts.load(Ordering::Relaxed) || is_over || set_back {
            let goes_on = set_back && !is_over;
            *state = State {
                now: to,
                interval: state.interval,
                until: state.until.filter(|_| goes_on),
                began: goes_on.then_some(to),
                ..State::default()
            };
            self.counts.store(goes_on, Ordering::Relaxed);
            return;
        }
        match state.began {
            None => state.began = Some(to),
            Some(began) if to.since(began) >= PERIOD => {
                let sums = state.tally.take();
                let edges = std::mem::take(&mut state.edges);
                state.before = Some((began, sums, edges));
                state.began = Some(to);
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::TcpRecord;
    use flowtap_pipeline::testing::record;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn batch(sent_bytes: i64) -> FlowBatch {
        FlowBatch {
            tcp: vec![TcpRecord {
                sent_bytes,
                ..record("10.0.0.1:40000", "192.0.2.7:443")
            }],
            ..FlowBatch::default()
        }
    }

    #[test]
    fn nothing_is_counted_until_somebody_asks_and_again_when_nobody_has_for_a_minute() {
        let recent = Recent::default();
        recent.advance(at(1));
        recent.observe(&batch(1));
        assert!(recent.lock().tally.sums(None, |_, _| true).peers.is_empty());
        assert!(recent.ask().is_none());
        recent.observe(&batch(10));
        recent.advance(at(6));
        let measured = recent.ask().unwrap();
        assert_eq!((measured.at, measured.length), (at(6), Duration::from_secs(5)));
        assert_eq!(measured.sums.all.sent_bytes, 10);
        for second in 7..80 {
            recent.observe(&batch(1));
            recent.advance(at(second));
        }
        recent.observe(&batch(1));
        assert!(recent.lock().tally.sums(None, |_, _| true).peers.is_empty());
        assert!(recent.ask().is_none());
    }

    #[test]
    fn an_answer_covers_the_last_complete_period_and_the_open_one() {
        let recent = Recent::default();
        recent.advance(at(100));
        recent.ask();
        for second in 101..=160 {
            recent.observe(&batch(1));
            recent.advance(at(second));
            let measured = recent.ask().unwrap();
            // A record a second: no gap and nothing twice.
            assert_eq!(measured.length.as_secs(), measured.sums.all.sent_bytes);
            assert!(measured.length <= 2 * PERIOD);
        }
        let measured = recent.ask().unwrap();
        assert!(measured.length >= PERIOD, "{measured:?}");
    }

    #[test]
    fn a_long_interval_is_a_period() {
        let recent = Recent::default();
        recent.advance(at(100));
        recent.ask();
        for minute in 1..=2 {
            recent.observe(&batch(7));
            recent.advance(at(100 + 40 * minute));
            let measured = recent.ask().unwrap();
            assert_eq!((measured.length.as_secs(), measured.sums.all.sent_bytes), (40, 7));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_begins_a_period() {
        let recent = Recent::default();
        recent.advance(at(100));
        recent.ask();
        recent.observe(&batch(7));
        recent.advance(at(101));
        recent.advance(at(50));
        assert!(recent.ask().is_none());
        recent.observe(&batch(3));
        recent.advance(at(52));
        let measured = recent.ask().unwrap();
        assert_eq!((measured.length.as_secs(), measured.sums.all.sent_bytes), (2, 3));
    }
}
