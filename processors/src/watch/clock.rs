//! The clock of `watch`: the watermarks, which come at the pace at which receivers look at sockets.

use std::time::Duration;

/// Gaps between watermarks that are remembered.
const GAPS: usize = 8;

/// How far apart watermarks are: the interval of the receivers.
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
