//! The clock of `watch`: the time that passes between watermarks, which come at the pace at which receivers look at sockets.
//!
//! Watermarks have the system's time, which may be set: by hours when NTP corrects it, by decades on a machine whose clock has no
//! battery. Intervals, learning and forgetting must go on as if nothing had happened.

use std::time::Duration;

use flowtap_pipeline::Timestamp;

/// The least gap between two watermarks that is taken for a jump.
const LONGEST_GAP: Duration = Duration::from_secs(600);

/// The same as a multiple of the gaps that are usual: receivers may look less often.
const MULTIPLE_OF_JUMP: u32 = 4;

/// Gaps of one length, one after the other, that are the interval of a receiver and not jumps.
const ALIKE: u32 = 4;

/// The longest gap that becomes usual after shorter ones. A machine that sleeps for hours, and wakes for a moment at a time, has some.
const LONGEST_CHANGE: Duration = Duration::from_secs(3600);

/// A clock that a jump of the system's clock does not move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Its time: at first the system's, from then on the time that passed.
    now: Timestamp,
    /// The system's at the newest watermark.
    system: Timestamp,
    pub(super) pace: Pace,
    /// The newest gap that was taken for a jump, and how many of its length came one after the other.
    long: Duration,
    alike: u32,
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
            self.alike = 0;
            return Some(Jump {
                seconds: -back.as_secs_f64(),
            });
        }
        let gap = to.since(self.system);
        self.system = to;
        if self.is_jump(gap) {
            return Some(Jump {
                seconds: gap.as_secs_f64(),
            });
        }
        self.pace.push(gap);
        self.now = self.now.plus(gap);
        None
    }

    /// Whether `gap` is a jump ahead. The one before says nothing: clocks are set twice, machines sleep again.
    fn is_jump(&mut self, gap: Duration) -> bool {
        if gap <= LONGEST_GAP.max(self.pace.usual().saturating_mul(MULTIPLE_OF_JUMP)) {
            // Of several receivers, whose watermarks may be the same.
            if gap > Duration::ZERO {
                self.alike = 0;
            }
            return false;
        }
        let is_alike = gap.abs_diff(self.long) <= self.long / 8;
        self.alike = if is_alike { self.alike.saturating_add(1) } else { 1 };
        self.long = gap;
        let may_be_interval = gap <= LONGEST_CHANGE || !self.pace.has_shorter(gap);
        self.alike < ALIKE || !may_be_interval
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

    /// The median of the newest gaps, which a few longer ones do not move.
    fn usual(&self) -> Duration {
        let mut gaps = self.gaps;
        gaps.sort_unstable();
        gaps[(GAPS - 1) / 2]
    }

    /// Whether one of the newest gaps is less than half of `gap`.
    fn has_shorter(&self, gap: Duration) -> bool {
        let mut known = self.gaps.iter().filter(|gap| !gap.is_zero());
        known.any(|known| *known * 2 < gap)
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
            // Twice, and then back.
            (15 * 86_400, 0, Some(1_296_000.0)),
            (15 * 86_400, 0, Some(1_296_000.0)),
            (-30 * 86_400, 0, Some(-2_592_000.0)),
            // Boots, each with a longer pause than the one before.
            (6 * 365 * 86_400, 0, Some(189_216_000.0)),
            (86_460, 0, Some(86_460.0)),
            (-6 * 366 * 86_400, 0, Some(-189_734_400.0)),
            (600, 600, None),
            (2_400, 0, Some(2_400.0)),
            (9_600, 0, Some(9_600.0)),
            (5, 5, None),
            // Sleeps of a machine that wakes for a moment at a time.
            (10_800, 0, Some(10_800.0)),
            (10_830, 0, Some(10_830.0)),
            (10_830, 0, Some(10_830.0)),
            (10_830, 0, Some(10_830.0)),
            (10_830, 0, Some(10_830.0)),
            (10_830, 0, Some(10_830.0)),
            (5, 5, None),
            // A receiver with an interval of 20 minutes from here on.
            (1_200, 0, Some(1_200.0)),
            (1_200, 0, Some(1_200.0)),
            (1_200, 0, Some(1_200.0)),
            (1_200, 1_200, None),
            (1_200, 1_200, None),
            (1_200, 1_200, None),
            (1_200, 1_200, None),
            (1_200, 1_200, None),
            (1_200, 1_200, None),
            // It misses two looks.
            (3_600, 3_600, None),
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
    fn receivers_that_look_every_few_hours_have_time_from_the_fourth_look_on() {
        let hours = Duration::from_secs(3 * 3600);
        let mut clock = Clock::new(Timestamp::default(), Timestamp::default().plus(hours));
        let mut moved = Vec::new();
        for looks in 2..8 {
            let jump = clock.advance(Timestamp::default().plus(hours * looks), Duration::from_secs(60));
            moved.push(jump.is_none());
        }
        assert_eq!(moved, [false, false, false, true, true, true]);
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
