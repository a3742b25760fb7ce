//! The clock of `watch`: the time that passes between watermarks, which come at the pace at which receivers look at sockets.
//!
//! Watermarks have the system's time, which may be set: by hours when NTP corrects it, by decades on a machine whose clock has no
//! battery. Intervals, learning and forgetting must go on as if nothing had happened.

use std::time::Duration;

use flowtap_pipeline::Timestamp;

/// The least gap between two watermarks that is taken for a jump.
const LONGEST_GAP: Duration = Duration::from_secs(600);

/// The same, in intervals.
const INTERVALS_OF_JUMP: u32 = 10;

/// The same as a multiple of the gap before: receivers may look less often.
const MULTIPLE_OF_JUMP: u32 = 4;

/// A clock that a jump of the system's clock does not move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Its time: at first the system's, from then on the time that passed.
    now: Timestamp,
    /// The system's at the newest watermark.
    system: Timestamp,
    /// The gap before the newest watermark.
    gap: Duration,
    pub(super) pace: Pace,
}

/// A jump of the system's clock, or a pause of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Jump {
    /// Negative if it was set back.
    pub(super) seconds: f64,
}

impl Clock {
    /// A clock that shows `now` when the system's shows `system`.
    pub(super) fn new(now: Timestamp, system: Timestamp) -> Self {
        Self {
            now,
            system,
            ..Self::default()
        }
    }

    pub(super) const fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) const fn system(&self) -> Timestamp {
        self.system
    }

    /// Moves it to the watermark `to`, with intervals of this length. A jump is returned, and does not move it.
    pub(super) fn advance(&mut self, to: Timestamp, interval: Duration) -> Option<Jump> {
        let back = self.system.since(to);
        if back > Duration::ZERO {
            // A receiver that is added may be behind the others. So is a clock that was set back by little, and waits.
            if back <= interval.max(2 * self.pace.interval()) {
                return None;
            }
            self.system = to;
            return Some(Jump {
                seconds: -back.as_secs_f64(),
            });
        }
        let gap = to.since(self.system);
        let before = std::mem::replace(&mut self.gap, gap);
        self.system = to;
        if gap
            > LONGEST_GAP
                .max(interval.saturating_mul(INTERVALS_OF_JUMP))
                .max(before.saturating_mul(MULTIPLE_OF_JUMP))
        {
            return Some(Jump {
                seconds: gap.as_secs_f64(),
            });
        }
        self.pace.push(gap);
        self.now = self.now.plus(gap);
        None
    }
}

/// Gaps between watermarks that are remembered.
const GAPS: usize = 8;

/// The time between watermarks: the interval of the receivers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    gaps: [Duration; GAPS],
    next: usize,
    interval: Duration,
}

impl Pace {
    /// Adds a gap. Several receivers have watermarks at the same time, which is none.
    pub(super) fn push(&mut self, gap: Duration) {
        if gap > Duration::ZERO {
            self.gaps[self.next] = gap;
            self.next = (self.next + 1) % GAPS;
            let mut gaps = self.gaps;
            gaps.sort_unstable();
            // A single one that a busy machine made longer is not the interval.
            self.interval = gaps[GAPS - 2];
        }
    }

    /// The interval of the receivers: the second longest of the newest gaps.
    pub(super) const fn interval(&self) -> Duration {
        self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_do_not_move_it_and_the_pace_of_a_receiver_that_looks_seldom_is_none() {
        let minute = Duration::from_secs(60);
        let at = |seconds| Timestamp::from_nanos(seconds * 1_000_000_000);
        let mut clock = Clock::new(at(1_000), at(10_000_000));
        let mut system = 10_000_000_i64;
        for (gap, moved, jump) in [
            (5, 5, None),
            (300, 300, None),
            (-30, 0, None),
            (30, 0, None),
            (5, 5, None),
            (-3_600, 0, Some(-3_600.0)),
            (5, 5, None),
            (15 * 86_400, 0, Some(1_296_000.0)),
            (5, 5, None),
            (-15 * 86_400, 0, Some(-1_296_000.0)),
            (5, 5, None),
            // A receiver with an interval of 20 minutes from here on.
            (1_200, 0, Some(1_200.0)),
            (1_200, 1_200, None),
            (1_200, 1_200, None),
        ] {
            let before = clock.now();
            system += gap;
            let found = clock.advance(at(u64::try_from(system).unwrap()), minute);
            assert_eq!(found.map(|jump| jump.seconds), jump, "{gap}");
            assert_eq!(clock.now().since(before).as_secs(), moved, "{gap}");
        }
    }

    #[test]
    fn the_interval_is_that_of_the_slowest_receiver_and_not_a_late_watermark() {
        let pace = |gaps: &[u64]| {
            let mut pace = Pace::default();
            for gap in gaps {
                pace.push(Duration::from_secs(*gap));
            }
            pace.interval().as_secs()
        };
        assert_eq!(pace(&[]), 0);
        assert_eq!(pace(&[5, 5]), 5);
        assert_eq!(pace(&[5, 5, 5, 40, 5, 5]), 5);
        assert_eq!(pace(&[0, 30, 0, 0, 30, 0]), 30);
        assert_eq!(pace(&[5, 5, 30, 30, 30, 30, 30, 30, 30, 30]), 30);
        assert_eq!(pace(&[30, 30, 5, 5, 5, 5, 5, 5, 5, 5]), 5);
    }
}
