//! The time line: what a pipeline's records add up to, step by step, over the last 15 minutes.
//!
//! In: the records that reach the pipeline's window, and its watermarks. Out: a [`Point`] for each step. The rules:
//!
//! 1. Records count whether or not anybody asks, so that a page that is opened after an incident shows it. This costs a few additions
//!    per record; nothing is looked up.
//! 2. The clock is the watermarks, as of every stage. A step takes [`STEP`], or an interval of the receivers if that is longer.
//! 3. At most [`MAX_POINTS`] steps are kept, and none that ended [`KEPT`] ago.
//! 4. Differences can be negative; a sum that is negative at the end of a step counts in the next one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowtap_pipeline::{Events, FlowBatch, ResetBy, Timestamp};
use serde::{Deserialize, Serialize};

use crate::verdict::is_failed_connect;

/// Length of a step, at least.
const STEP: Duration = Duration::from_secs(5);

/// Age from which on a step is dropped.
pub(super) const KEPT: Duration = Duration::from_secs(15 * 60);

/// Maximum number of steps: those that fit into [`KEPT`], and the open one.
pub const MAX_POINTS: usize = 15 * 60 / 5 + 1;

/// The answer to `GET /timeline`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The pipeline whose records it rests on; empty if there is none.
    pub pipeline: String,
    /// Every pipeline that can be asked for.
    pub pipelines: Vec<String>,
    /// Seconds after which a step is dropped.
    pub kept_seconds: f64,
    /// The oldest first. The last one is still open.
    pub points: Vec<Point>,
}

/// Sums of one step, over all records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its end, in seconds since 1970.
    pub at: f64,
    /// Its length.
    pub seconds: f64,
    /// Payload bytes sent, over TCP and UDP.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// TCP connections opened.
    pub opened: u64,
    /// Connects that failed.
    pub failed: u64,
    /// TCP connections that either side reset.
    pub resets: u64,
    /// Segments retransmitted.
    pub retransmits: u64,
    /// Packets that this machine dropped, and that were lost.
    pub dropped_packets: u64,
}

/// Sums that are not in a point yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    sent_bytes: i64,
    received_bytes: i64,
    opened: u64,
    failed: u64,
    resets: u64,
    retransmits: i64,
    dropped_packets: u64,
}

/// The steps of one pipeline.
#[derive(Debug, Default)]
pub(super) struct Steps(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: Sums,
    /// Where the open step began; `None` before the first watermark.
    began: Option<Timestamp>,
    now: Timestamp,
    /// Complete steps with their ends.
    complete: VecDeque<(Timestamp, Point)>,
}

impl Sums {
    fn of(batch: &FlowBatch) -> Self {
        let mut sums = Self::default();
        for record in &batch.tcp {
            sums.sent_bytes += record.sent_bytes;
            sums.received_bytes += record.received_bytes;
            sums.retransmits += record.retransmits;
            sums.opened += u64::from(record.events.contains(Events::OPENED));
            sums.failed += u64::from(is_failed_connect(record));
            sums.resets += u64::from(record.reset_by != ResetBy::Unknown);
        }
        for record in &batch.udp {
            sums.sent_bytes += record.sent_bytes;
            sums.received_bytes += record.received_bytes;
        }
        for record in batch.drops.iter().filter(|record| record.reason.kind().is_loss()) {
            sums.dropped_packets += record.packets;
        }
        sums
    }

    fn add(&mut self, other: &Self) {
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.opened += other.opened;
        self.failed += other.failed;
        self.resets += other.resets;
        self.retransmits += other.retransmits;
        self.dropped_packets += other.dropped_packets;
    }

    /// The point of a step of this length that ends `at`.
    fn point(&self, at: Timestamp, length: Duration) -> Point {
        let counted = |sum: i64| sum.max(0).unsigned_abs();
        Point {
            at: at.as_secs_f64(),
            seconds: length.as_secs_f64(),
            sent_bytes: counted(self.sent_bytes),
            received_bytes: counted(self.received_bytes),
            opened: self.opened,
            failed: self.failed,
            resets: self.resets,
            retransmits: counted(self.retransmits),
            dropped_packets: self.dropped_packets,
        }
    }

    /// The part that a point does not show.
    fn owed(&self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.min(0),
            received_bytes: self.received_bytes.min(0),
            retransmits: self.retransmits.min(0),
            ..Self::default()
        }
    }
}

impl Steps {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole after every statement below, so a panic elsewhere can't have torn it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the records of `batch`.
    pub(super) fn observe(&self, batch: &FlowBatch) {
        let sums = Sums::of(batch);
        // Outside of the lock: a request copies under it.
        if sums != Sums::default() {
            self.lock().open.add(&sums);
        }
    }

    /// Every record up to `to` has been counted.
    pub(super) fn advance(&self, to: Timestamp) {
        let mut state = self.lock();
        // The clock was set back: steps that have not come yet would be in the way of those that will.
        if to < state.now {
            state.complete.retain(|(end, _)| *end <= to);
            state.began = None;
        }
        state.now = to;
        let began = *state.began.get_or_insert(to);
        let length = to.since(began);
        if length < STEP {
            return;
        }
        let point = state.open.point(to, length);
        state.open = state.open.owed();
        state.began = Some(to);
        state.complete.push_back((to, point));
        while let Some((end, _)) = state.complete.front()
            && (to.since(*end) >= KEPT || state.complete.len() >= MAX_POINTS)
        {
            state.complete.pop_front();
        }
    }

    /// Every step, the oldest first, with the open one.
    pub(super) fn points(&self) -> Vec<Point> {
        let state = self.lock();
        let complete = state.complete.iter().map(|(_, point)| *point);
        let length = state.began.map_or(Duration::ZERO, |began| state.now.since(began));
        let open = (!length.is_zero()).then(|| state.open.point(state.now, length));
        complete.chain(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::testing::{batch, record};
    use flowtap_pipeline::{DropReason, DropRecord, TcpRecord, UdpRecord};

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn sent(bytes: i64) -> FlowBatch {
        batch([TcpRecord {
            sent_bytes: bytes,
            ..record("10.0.0.1:40000", "192.0.2.7:443")
        }])
    }

    #[test]
    fn each_record_is_in_one_step_and_the_open_step_is_shown() {
        let steps = Steps::default();
        // Before the first watermark.
        steps.observe(&sent(1));
        steps.advance(at(100));
        assert_eq!(steps.points(), []);
        for second in 101..=112 {
            steps.observe(&sent(10));
            steps.advance(at(second));
        }
        let points = steps.points();
        let seen: Vec<_> = points
            .iter()
            .map(|point| (point.at, point.seconds, point.sent_bytes))
            .collect();
        assert_eq!(seen, [(105.0, 5.0, 51), (110.0, 5.0, 50), (112.0, 2.0, 20)]);
    }

    #[test]
    fn a_long_interval_is_a_step() {
        let steps = Steps::default();
        steps.advance(at(100));
        steps.observe(&sent(7));
        steps.advance(at(160));
        let points = steps.points();
        assert_eq!(points.len(), 1);
        assert_eq!(
            (points[0].seconds.to_bits(), points[0].sent_bytes),
            (60_f64.to_bits(), 7)
        );
    }

    #[test]
    fn bytes_of_all_transports_failures_resets_and_losses_are_counted() {
        let tcp = |change: fn(&mut TcpRecord)| {
            let mut record = record("10.0.0.1:40000", "192.0.2.7:443");
            change(&mut record);
            record
        };
        let mut records = batch([
            tcp(|record| (record.received_bytes, record.retransmits) = (30, 3)),
            tcp(|record| record.events = Events::OPENED),
            tcp(|record| (record.events, record.failure) = (Events::FAILED, 111)),
            // Given up by the application at once.
            tcp(|record| record.events = Events::FAILED),
            tcp(|record| record.reset_by = ResetBy::Remote),
        ]);
        let flow = records.tcp[0].flow.clone();
        records.udp.push(UdpRecord {
            sent_bytes: 4,
            received_bytes: 5,
            ..UdpRecord::new(flow)
        });
        for (reason, packets) in [("NO_SOCKET", 6), ("TCP_OLD_DATA", 7)] {
            records.drops.push(DropRecord {
                packets,
                ..DropRecord::new(DropReason::new(reason), 1)
            });
        }
        let steps = Steps::default();
        steps.advance(at(1));
        steps.observe(&records);
        steps.advance(at(6));
        let expected = Point {
            at: 6.0,
            seconds: 5.0,
            sent_bytes: 4,
            received_bytes: 35,
            opened: 1,
            failed: 1,
            resets: 1,
            retransmits: 3,
            dropped_packets: 6,
        };
        assert_eq!(steps.points(), [expected]);
    }

    #[test]
    fn a_sum_that_is_negative_counts_in_the_next_step() {
        let steps = Steps::default();
        steps.advance(at(0));
        for (second, bytes) in [(5, 10), (10, -4), (15, 9)] {
            steps.observe(&sent(bytes));
            steps.advance(at(second));
        }
        let sent: Vec<_> = steps.points().iter().map(|point| point.sent_bytes).collect();
        assert_eq!(sent, [10, 0, 5]);
    }

    #[test]
    fn a_day_leaves_fifteen_minutes() {
        let steps = Steps::default();
        for second in 0..86_400 {
            steps.advance(at(second));
        }
        let points = steps.points();
        assert!(points.len() <= MAX_POINTS, "{}", points.len());
        let first = points[0].at - points[0].seconds;
        let covered = points[points.len() - 1].at - first;
        assert!((895.0..=905.0).contains(&covered), "{covered}");
        // A pause, as of a machine that slept.
        steps.advance(at(100_000));
        assert_eq!(steps.points().len(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_no_steps_of_the_future() {
        let steps = Steps::default();
        for second in [100, 105, 110, 104, 109] {
            steps.observe(&sent(1));
            steps.advance(at(second));
        }
        let ends: Vec<_> = steps.points().iter().map(|point| point.at).collect();
        assert_eq!(ends, [109.0]);
    }
}
