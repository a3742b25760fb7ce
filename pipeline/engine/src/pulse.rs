//! A receiver's pulse: when it last had a whole scan, whether its thread still runs, and whether it loses records.
//!
//! In: what its sink sees: watermarks, failed scans, refused records, and the time spent in pipelines. Out: its [`Health`], on demand. A
//! receiver that is silent looks the same as a quiet network on every other metric, so its health is judged by the clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowtap_pipeline::Timestamp;
use flowtap_pipeline::status::{FAILURES, Health, Probe};

/// Intervals without a watermark after which it is not ok.
const INTERVALS: u32 = 3;

/// It has this long whatever its interval is: a busy machine is not a fault.
const MIN_GRACE: Duration = Duration::from_secs(5);

/// It has lost records for so long after the last ones, or for [`INTERVALS`]: losses come in bursts, and somebody has to see them.
const MIN_LOSS: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct State {
    /// When the last watermark came.
    last: Instant,
    /// The gaps between the last three watermarks, newest first; a single late one is not the interval.
    gaps: [Duration; 2],
    /// The end of the last whole scan.
    scanned: Timestamp,
    failures: u32,
    /// Whether the scan that is under way has failed.
    failed: bool,
    /// Why the last failed scan did.
    last_error: String,
    /// When records were last refused, and why.
    refused: Option<(Instant, String)>,
    /// Since when the receiver's thread is in its pipelines.
    in_pipelines: Option<Instant>,
}

/// The pulse of one receiver.
#[derive(Debug)]
pub struct Pulse(Mutex<State>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Mutex::new(State {
            last: Instant::now(),
            gaps: [Duration::ZERO; 2],
            scanned: Timestamp::default(),
            failures: 0,
            failed: false,
            last_error: String::new(),
            refused: None,
            in_pipelines: None,
        }))
    }
}

impl Pulse {
    /// The thread goes into its pipelines.
    pub(crate) fn enter(&self) {
        self.lock().in_pipelines = Some(Instant::now());
    }

    /// It comes back.
    pub(crate) fn leave(&self) {
        self.lock().in_pipelines = None;
    }

    /// The scan that is under way failed.
    pub(crate) fn scan_failed(&self, error: String) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.failed = true;
        state.last_error = error;
    }

    /// Records were refused.
    pub(crate) fn records_refused(&self, reason: String, now: Instant) {
        self.lock().refused = Some((now, reason));
    }

    /// A scan has ended, well unless it was reported as failed.
    pub(crate) fn watermark(&self, to: Timestamp, now: Instant) {
        let mut state = self.lock();
        let gap = now.saturating_duration_since(state.last);
        state.gaps = [gap, state.gaps[0]];
        state.last = now;
        if !std::mem::take(&mut state.failed) {
            state.failures = 0;
            state.scanned = to;
        }
    }

    /// Returns the end of the last whole scan; 0 before the first.
    pub fn last_scan(&self) -> Timestamp {
        self.lock().scanned
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every statement under the lock leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe for Pulse {
    fn health(&self, now: Instant) -> Health {
        let state = self.lock();
        let interval = state.gaps[0].min(state.gaps[1]);
        let patience = MIN_GRACE.max(interval * INTERVALS);
        if let Some(since) = state.in_pipelines {
            let waited = now.saturating_duration_since(since);
            if waited > patience {
                return Health::Blocked(waited);
            }
        }
        let waited = now.saturating_duration_since(state.last);
        if waited > patience && state.in_pipelines.is_none() {
            return Health::Stalled(waited);
        }
        if state.failures >= FAILURES {
            return Health::Failing(state.last_error.clone());
        }
        if let Some((at, reason)) = &state.refused
            && now.saturating_duration_since(*at) <= MIN_LOSS.max(interval * INTERVALS)
        {
            return Health::Losing(reason.clone());
        }
        Health::Ok
    }
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::status::{self, StatusBoard};
    use flowtap_pipeline::{ComponentId, ComponentKind};

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_receiver_is_not_ok_after_three_failed_scans_and_until_one_succeeds() {
        let pulse = Pulse::default();
        let now = Instant::now();
        for scan in 1..=3 {
            assert_eq!(pulse.health(now), Health::Ok, "before failure {scan}");
            pulse.scan_failed("Too many open files".to_owned());
            pulse.watermark(at(scan), now);
        }
        assert_eq!(
            pulse.health(now),
            Health::Failing("Too many open files".to_owned())
        );
        assert_eq!(pulse.last_scan(), at(0));
        pulse.watermark(at(4), now);
        assert_eq!((pulse.health(now), pulse.last_scan()), (Health::Ok, at(4)));
    }

    #[test]
    fn a_receiver_that_is_silent_for_three_intervals_is_not_ok() {
        let pulse = Pulse::default();
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        for n in [10, 20, 30] {
            pulse.watermark(at(n), second(n));
        }
        assert_eq!(pulse.health(second(59)), Health::Ok);
        assert_eq!(pulse.health(second(61)), Health::Stalled(Duration::from_secs(31)));
        // The gap of the fault itself is not taken for the interval.
        pulse.watermark(at(90), second(90));
        assert_eq!(
            pulse.health(second(121)),
            Health::Stalled(Duration::from_secs(31))
        );
    }

    #[test]
    fn a_receiver_that_waits_for_an_exporter_is_blocked_and_not_stalled() {
        let pulse = Pulse::default();
        pulse.enter();
        let later = Instant::now() + Duration::from_secs(60);
        assert!(matches!(pulse.health(later), Health::Blocked(_)));
        pulse.leave();
        assert!(matches!(pulse.health(later), Health::Stalled(_)));
    }

    #[test]
    fn a_receiver_that_refuses_records_is_not_ok_for_a_while_and_measures_on() {
        let (board, pulse) = (StatusBoard::default(), std::sync::Arc::new(Pulse::default()));
        let id: ComponentId = "ebpf".parse().unwrap();
        board.set(ComponentKind::Receiver, &id, status::State::Ok, None);
        board.watch(&id, std::sync::Arc::<Pulse>::clone(&pulse));
        let now = Instant::now();
        pulse.watermark(at(1), now);
        pulse.records_refused("3 records".to_owned(), now);
        let status = board.load()["receivers/ebpf"].clone();
        assert_eq!(status.state, status::State::RecoverableError);
        assert_eq!(
            status.error.as_deref(),
            Some("records are refused, and lost: 3 records")
        );
        assert!(
            board.is_measuring(),
            "a restart, or no more scrapes, would lose more"
        );
        let later = |seconds| {
            let later = now + Duration::from_secs(seconds);
            pulse.watermark(at(seconds), later);
            pulse.health(later)
        };
        assert_eq!(later(2), Health::Losing("3 records".to_owned()));
        assert_eq!(later(3), Health::Losing("3 records".to_owned()));
        assert_eq!(later(31), Health::Ok);
        // The receiver has long intervals.
        pulse.records_refused("1 record".to_owned(), now + Duration::from_secs(60));
        for seconds in [60, 120] {
            later(seconds);
        }
        assert_eq!(later(180), Health::Losing("1 record".to_owned()));
        assert_eq!(later(241), Health::Ok);
    }

    #[test]
    fn a_receiver_whose_scans_fail_is_not_ok_although_nobody_has_set_that() {
        let (board, pulse) = (StatusBoard::default(), std::sync::Arc::new(Pulse::default()));
        let id: ComponentId = "ebpf".parse().unwrap();
        board.set(ComponentKind::Receiver, &id, status::State::Ok, None);
        board.watch(&id, std::sync::Arc::<Pulse>::clone(&pulse));
        assert!(board.is_measuring() && board.is_alive());
        for _ in 0..3 {
            pulse.scan_failed("Too many open files".to_owned());
            pulse.watermark(Timestamp::default(), Instant::now());
        }
        let status = board.load()["receivers/ebpf"].clone();
        assert_eq!(status.state, status::State::RecoverableError);
        assert!(status.error.unwrap().contains("Too many open files"));
        assert!(!board.is_measuring() && board.is_alive(), "alive, and not ready");
        pulse.watermark(Timestamp::default(), Instant::now());
        assert_eq!(board.load()["receivers/ebpf"].state, status::State::Ok);
        assert!(board.is_measuring());
    }
}
