//! Ticks on multiples of an interval.

use std::time::Duration;

use flowtap_model::Timestamp;

/// Waits for multiples of an interval on the system's clock, so that receivers and windows fall on the same ticks.
#[derive(Debug)]
pub struct Ticker {
    interval: Duration,
    next: Timestamp,
}

impl Ticker {
    /// A ticker whose first tick is the next multiple of `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Timestamp::now().next_multiple(interval),
        }
    }

    /// Waits until the next multiple and returns it. Cancel-safe: a wait that was dropped is
    /// resumed.
    ///
    /// A tick that comes late is returned once, as the latest multiple that has passed; those before it are skipped.
    pub async fn tick(&mut self) -> Timestamp {
        loop {
            let now = Timestamp::now();
            if now >= self.next {
                let following = now.next_multiple(self.interval);
                let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
                let due = Timestamp::from_nanos(following.as_nanos() - interval);
                self.next = following;
                return due;
            }
            // A clock that was set back must not stop the ticks for as long as it was set back by.
            if self.next.since(now) > self.interval {
                self.next = now.next_multiple(self.interval);
            }
            tokio::time::sleep(self.next.since(now)).await;
        }
    }
}
