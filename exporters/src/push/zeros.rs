//! Series whose 0 no peer has yet.
//!
//! A store takes an increase from what it has seen: the 0 before the first sample of a series is due until a request with that series
//! was delivered. It never follows a later sample of the series: a store would refuse the request. A request on disk counts as under way.
//!
//! A peer may have written a request although it answered with an error, or not at all. A request that repeats a 0 and is refused for
//! what it has (`400`, for example) is therefore followed by one without; only if that one fails as well, the 0 is due again.

use std::collections::HashMap;
use std::time::Duration;

use flowtap_pipeline::{Series, SeriesId, Snapshot, Timestamp};

use super::fate::Fate;
use super::zero_at;

/// Longest time from a 0 to its first sample: a Prometheus refuses samples that are older than an hour.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// Series whose start has not arrived.
#[derive(Debug, Default)]
pub(crate) struct Zeros(HashMap<SeriesId, Late>);

#[derive(Debug)]
struct Late {
    /// Keeps the address, which is the key, from being another series's.
    series: Series,
    state: State,
    /// Whether a request with the 0 has failed.
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Goes with the next sample.
    Due,
    /// The next sample goes without: the 0 may be what the peer refuses.
    Held,
    /// Requests on disk have the series: the first of these numbers with the 0.
    Stored { first: u64, last: u64 },
}

/// Which series of one snapshot have a 0 before their sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts {
    /// Series that began at this time or later are new; none if there is no time.
    new_since: Option<Timestamp>,
    /// Of older ones: whether the 0 is due.
    late: HashMap<SeriesId, bool>,
}

/// A series in a request whose fate matters.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    series: Series,
    /// With its 0.
    zero: bool,
}

impl Starts {
    /// Those that began at `new_since` or later.
    #[cfg(test)]
    pub(crate) fn since(new_since: Option<Timestamp>) -> Self {
        Self {
            new_since,
            late: HashMap::new(),
        }
    }

    /// The time of the 0 before the sample of `series` at `at`, if it has one.
    pub(crate) fn zero_at(&self, series: &Series, at: Timestamp) -> Option<Timestamp> {
        let is_new = series.start() >= self.new_since?;
        if is_new {
            return Some(zero_at(series, at));
        }
        if self.late.is_empty() || !*self.late.get(&series.id())? {
            return None;
        }
        let oldest = at.as_nanos().saturating_sub(super::nanos(MAX_AGE));
        Some(zero_at(series, at).max(Timestamp::from_nanos(oldest)))
    }

    /// Input of [`Zeros::settle`] for a sample of `series`; `zero`: a 0 precedes it.
    pub(crate) fn carried(&self, series: &Series, zero: bool) -> Option<Carried> {
        let matters = zero || (!self.late.is_empty() && self.late.contains_key(&series.id()));
        matters.then(|| Carried {
            series: series.clone(),
            zero,
        })
    }
}

impl Zeros {
    /// Forgets what ended in `snapshot`.
    pub(crate) fn forget_ended(&mut self, snapshot: &Snapshot) {
        if self.0.is_empty() {
            return;
        }
        for series in snapshot.families.iter().flat_map(|family| &family.ended) {
            self.0.remove(&series.id());
        }
        // As after a reload that removed a family.
        self.0.retain(|_, late| late.series.is_shared());
    }

    /// The zeros of the next snapshot: of series that began at `new_since` or later, and those that are due.
    pub(crate) fn starts(&self, new_since: Timestamp) -> Starts {
        let late = self.0.iter();
        Starts {
            new_since: Some(new_since),
            late: late.map(|(id, late)| (*id, late.state == State::Due)).collect(),
        }
    }

    /// The request with `carried` has met `fate`.
    pub(crate) fn settle(&mut self, carried: Vec<Carried>, fate: Fate) {
        for Carried { series, zero } in carried {
            let id = series.id();
            let known = self.0.get_mut(&id);
            match (fate, known) {
                (Fate::Delivered, _) => {
                    self.0.remove(&id);
                }
                (Fate::Failed { content }, Some(late)) => {
                    if !matches!(late.state, State::Stored { .. }) {
                        late.fail(zero, content);
                    }
                }
                (Fate::Stored(number), Some(late)) => late.store(number),
                (fate, None) if zero => {
                    let mut late = Late {
                        series,
                        state: State::Due,
                        again: false,
                    };
                    match fate {
                        Fate::Stored(number) => late.store(number),
                        _ => late.fail(zero, false),
                    }
                    self.0.insert(id, late);
                }
                (_, None) => {}
            }
        }
    }

    /// The request on disk of this `number` has met `fate`. Requests are settled in the order of their numbers.
    pub(crate) fn settle_stored(&mut self, number: u64, fate: Fate) {
        self.0.retain(|_, late| {
            let State::Stored { first, last } = late.state else {
                return true;
            };
            if !(first..=last).contains(&number) {
                return true;
            }
            match fate {
                // With the 0, or with what is later: it can't come any more.
                Fate::Delivered => return false,
                Fate::Failed { content } if number == last => late.fail(first == last, content),
                // Later ones are under way.
                Fate::Failed { .. } | Fate::Stored(_) => {}
            }
            true
        });
    }
}

impl Zeros {
    /// Requests on disk are left there: their zeros are due.
    pub(crate) fn leave_stored(&mut self) {
        for late in self.0.values_mut() {
            if let State::Stored { .. } = late.state {
                late.fail(true, false);
            }
        }
    }
}

impl Late {
    fn fail(&mut self, zero: bool, content: bool) {
        self.state = if zero && content && self.again {
            State::Held
        } else {
            State::Due
        };
        self.again = true;
    }

    fn store(&mut self, number: u64) {
        self.state = match self.state {
            State::Stored { first, .. } => State::Stored { first, last: number },
            State::Due | State::Held => State::Stored {
                first: number,
                last: number,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BYTES;
    use flowtap_pipeline::LabelValue;

    const REFUSED: Fate = Fate::Failed { content: true };
    const AWAY: Fate = Fate::Failed { content: false };

    fn at(second: u64) -> Timestamp {
        Timestamp::from_nanos(second * 1_000_000_000)
    }

    /// Sends a sample at `second`, and returns whether it had a 0 before it.
    fn send(zeros: &mut Zeros, series: &Series, new_since: u64, second: u64, fate: Fate) -> bool {
        let starts = zeros.starts(at(new_since));
        let zero = starts.zero_at(series, at(second)).is_some();
        zeros.settle(starts.carried(series, zero).into_iter().collect(), fate);
        zero
    }

    fn series() -> Series {
        Series::new(&BYTES, [("raddr", LabelValue::Text("192.0.2.7"))], None, at(1))
    }

    #[test]
    fn a_zero_is_due_until_a_request_with_its_series_is_delivered_and_never_after_it() {
        let (mut zeros, series) = (Zeros::default(), series());
        assert!(send(&mut zeros, &series, 0, 5, AWAY));
        assert!(send(&mut zeros, &series, 5, 10, AWAY));
        assert!(send(&mut zeros, &series, 10, 15, Fate::Delivered));
        assert!(!send(&mut zeros, &series, 15, 20, Fate::Delivered));
        assert!(zeros.0.is_empty());
    }

    #[test]
    fn a_zero_that_the_peer_may_refuse_is_left_out_once_and_comes_again_if_it_was_not_the_cause() {
        let (mut zeros, series) = (Zeros::default(), series());
        let sent: Vec<_> = (1..7)
            .map(|n| send(&mut zeros, &series, 5 * n - 5, 5 * n, REFUSED))
            .collect();
        assert_eq!(sent, [true, true, false, true, false, true]);
        // Without it a request is taken: there is a later sample now.
        assert!(!send(&mut zeros, &series, 30, 35, Fate::Delivered));
        assert!(!send(&mut zeros, &series, 35, 40, REFUSED));
    }

    #[test]
    fn what_is_on_disk_is_under_way_until_all_of_it_has_failed() {
        for (fates, is_due) in [
            ([AWAY, AWAY], true),
            ([Fate::Delivered, AWAY], false),
            ([AWAY, Fate::Delivered], false),
        ] {
            let (mut zeros, series) = (Zeros::default(), series());
            assert!(send(&mut zeros, &series, 0, 5, Fate::Stored(7)));
            assert!(!send(&mut zeros, &series, 5, 10, Fate::Stored(9)));
            zeros.settle_stored(6, AWAY);
            zeros.settle_stored(7, fates[0]);
            zeros.settle_stored(9, fates[1]);
            assert_eq!(send(&mut zeros, &series, 10, 15, AWAY), is_due, "{fates:?}");
        }
    }

    #[test]
    fn a_late_zero_is_no_older_than_a_store_takes_it() {
        let (mut zeros, series) = (Zeros::default(), series());
        assert!(send(&mut zeros, &series, 0, 5, AWAY));
        let starts = zeros.starts(at(10_000));
        assert_eq!(starts.zero_at(&series, at(10_000)), Some(at(10_000 - 1_800)));
        assert_eq!(
            starts.zero_at(&series, at(60)),
            Some(at(1).plus(Duration::from_millis(2)))
        );
    }
}
