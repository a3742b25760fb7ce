//! The table of open connections.
//!
//! A connection is found by its receiver and its socket's cookie, or by its ends where the kernel has no cookies.

use std::time::Duration;

use flowtap_pipeline::log::{ConnectionLog, Counts, Outcome};
use flowtap_pipeline::{Endpoint, Events, Flow, TcpRecord, Timestamp};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::config::{Always, Sample};
use super::loss::LossReason;
use super::sampling;
use crate::window::failure_reason;

/// A table that has a quarter of its room in use gives half of it back, unless it is as small as that.
pub(super) const SMALL: usize = 1 << 10;

/// Connections that the table has let go of.
pub(super) type Closing = Vec<Connection>;

/// Identity of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Receiver and cookie.
    Cookie(u16, u64),
    /// Receiver, network namespace, local and remote end.
    Ends(u16, u32, Endpoint, Endpoint),
}

impl Key {
    pub(super) const fn of(receiver: u16, flow: &Flow) -> Self {
        if flow.cookie == 0 {
            Self::Ends(receiver, flow.netns, flow.local, flow.remote)
        } else {
            Self::Cookie(receiver, flow.cookie)
        }
    }
}

/// A connection from the first record to the last.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) flow: Flow,
    pub(super) outcome: Outcome,
    receiver: u16,
    /// That of the receiver when the connection was reported last.
    census: u16,
    adopted: bool,
    error: Option<&'static str>,
    /// Number of records before, those that sampling left out included.
    sequence: u32,
    /// Sum of the differences in these records.
    reported: Counts,
    total: Counts,
    /// Age when it was reported last, in µs.
    age_us: u64,
    rtt_us: u32,
    min_rtt_us: u32,
    handshake_us: u32,
    /// Its beginning, known from the first watermark after it.
    began: Option<Timestamp>,
    /// End of its record before, or its beginning.
    reported_at: Timestamp,
}

impl Connection {
    /// The connection of its first record.
    pub(super) fn first(receiver: u16, record: &TcpRecord) -> Self {
        let seen = record.events.contains(Events::OPENED) || record.events.contains(Events::FAILED);
        let mut connection = Self {
            flow: record.flow.clone(),
            outcome: Outcome::Active,
            receiver,
            census: 0,
            adopted: !seen,
            error: None,
            sequence: 0,
            reported: Counts::default(),
            total: Counts::default(),
            age_us: 0,
            rtt_us: 0,
            min_rtt_us: 0,
            handshake_us: 0,
            began: None,
            reported_at: Timestamp::default(),
        };
        connection.add(record);
        connection
    }

    fn add(&mut self, record: &TcpRecord) {
        let exchanges = record.exchanges.as_deref();
        self.total = self.total.plus(Counts {
            sent_bytes: record.sent_bytes,
            received_bytes: record.received_bytes,
            sent_segments: record.sent_segments,
            received_segments: record.received_segments,
            retransmits: record.retransmits,
            exchanges: exchanges.map_or(0, |exchanges| exchanges.count().try_into().unwrap_or(i64::MAX)),
            answer_us: exchanges.map_or(0, |exchanges| exchanges.sum_us().try_into().unwrap_or(i64::MAX)),
        });
        // A record of its bytes may have come before that of its opening.
        self.adopted &= !record.events.contains(Events::OPENED);
        self.age_us = self.age_us.max(record.age_us);
        // Zero stands for unknown: a close need not know what a record before did.
        for (known, new) in [
            (&mut self.rtt_us, record.rtt_us),
            (&mut self.min_rtt_us, record.min_rtt_us),
            (&mut self.handshake_us, record.handshake_us),
        ] {
            if new > 0 {
                *known = new;
            }
        }
        if record.failure > 0 || record.events.contains(Events::FAILED) {
            self.error = Some(failure_reason(record));
        }
    }

    /// The first watermark after its first record: its beginning is as long before it as it was old.
    pub(super) fn begin(&mut self, at: Timestamp) {
        if self.began.is_none() {
            let age = self.age_us.saturating_mul(1000);
            let began = Timestamp::from_nanos(at.as_nanos().saturating_sub(age));
            self.began = Some(began);
            self.reported_at = began;
        }
    }

    pub(super) const fn reported_at(&self) -> Timestamp {
        self.reported_at
    }

    /// Counted and in no record yet.
    pub(super) const fn unreported(&self) -> Counts {
        Counts {
            sent_bytes: self.total.sent_bytes - self.reported.sent_bytes,
            received_bytes: self.total.received_bytes - self.reported.received_bytes,
            sent_segments: self.total.sent_segments - self.reported.sent_segments,
            received_segments: self.total.received_segments - self.reported.received_segments,
            retransmits: self.total.retransmits - self.reported.retransmits,
            exchanges: self.total.exchanges - self.reported.exchanges,
            answer_us: self.total.answer_us - self.reported.answer_us,
        }
    }

    pub(super) fn has_moved(&self) -> bool {
        self.total != self.reported
    }

    /// The probability with which connections like this one have records; `None` if this one has none.
    pub(super) fn chance(&self, sample: &Sample) -> Option<f64> {
        let is = |kind| match kind {
            Always::Failed => self.outcome == Outcome::Failed || self.error.is_some(),
            Always::Reset => self.outcome == Outcome::Reset,
            Always::Retransmitting => self.total.retransmits > 0,
            Always::Dropping => false,
        };
        if sample.always.iter().any(|kind| is(*kind)) {
            return Some(1.0);
        }
        sampling::chance(self.identity(), sample.ratio)
    }

    fn identity(&self) -> u64 {
        if self.flow.cookie != 0 {
            return self.flow.cookie;
        }
        let ports = u64::from(self.flow.local.port) << 16 | u64::from(self.flow.remote.port);
        ports << 32 | u64::from(self.flow.netns)
    }

    /// Its record up to `at`, which the next one continues.
    pub(super) fn report(&mut self, outcome: Outcome, probability: f64, at: Timestamp) -> ConnectionLog {
        let is_over = matches!(
            outcome,
            Outcome::Closed | Outcome::Reset | Outcome::Broken | Outcome::Failed
        );
        let duration = match self.began {
            Some(began) if !is_over => at.since(began),
            _ => micros(self.age_us),
        };
        let interval = if self.sequence == 0 {
            duration
        } else {
            at.since(self.reported_at)
        };
        let sequence = self.sequence;
        let delta = self.pass_over(outcome, at);
        ConnectionLog {
            outcome,
            error: self.error,
            sequence,
            adopted: self.adopted,
            duration,
            interval,
            delta,
            total: self.total,
            rtt: micros(self.rtt_us.into()),
            min_rtt: micros(self.min_rtt_us.into()),
            handshake: micros(self.handshake_us.into()),
            probability,
        }
    }

    /// Goes past the record up to `at` as if it had been made, and returns its differences: the next one continues it.
    ///
    /// A connection outside the sample does that whenever one in the sample has a record. If it joins those that are always kept, its
    /// records are of the time from then on alone: for the time before, those of the sample stand, divided by their probability.
    pub(super) fn pass_over(&mut self, outcome: Outcome, at: Timestamp) -> Counts {
        let delta = if outcome.is_final() {
            self.unreported()
        } else {
            positive(self.unreported())
        };
        self.reported = self.reported.plus(delta);
        self.reported_at = at;
        self.sequence = self.sequence.saturating_add(1);
        delta
    }
}

/// Whether a record is of a connection that has ended before: `sock_diag` finds a difference when a process lets go of a socket whose
/// connection it has reported as closed. As a separate connection it would have a second end.
fn is_after_end(record: &TcpRecord) -> bool {
    /// `include/net/tcp_states.h`.
    const TCP_CLOSE: u8 = 7;
    record.events == Events::NONE && record.state == TCP_CLOSE
}

/// Time as records have it.
const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The counts that can be reported now: a correction waits for the increase that it corrects.
fn positive(counts: Counts) -> Counts {
    Counts {
        sent_bytes: counts.sent_bytes.max(0),
        received_bytes: counts.received_bytes.max(0),
        sent_segments: counts.sent_segments.max(0),
        received_segments: counts.received_segments.max(0),
        retransmits: counts.retransmits.max(0),
        exchanges: counts.exchanges.max(0),
        answer_us: counts.answer_us.max(0),
    }
}

/// Replaces `known` by `new`, which is of a later record. A process, a translation or names that only `known` has stay.
pub(super) fn learn(known: &mut Flow, new: &Flow) {
    let before = std::mem::replace(known, new.clone());
    if known.pid == 0 {
        let Flow {
            pid,
            comm,
            cgroup_id,
            container_id,
            ..
        } = before;
        (known.pid, known.comm) = (pid, comm);
        (known.cgroup_id, known.container_id) = (cgroup_id, container_id);
    }
    known.translation = known.translation.take().or(before.translation);
    known.inspection = known.inspection.take().or(before.inspection);
    known.local_names = known.local_names.take().or(before.local_names);
    known.peer_names = known.peer_names.take().or(before.peer_names);
}

/// State of a receiver.
#[derive(Clone, Debug, Default)]
struct Feed {
    /// Counts its censuses, also those that were not ended; wraps.
    census: u16,
    /// Whether a census is under way.
    begun: bool,
    /// Whether one has ended: from then on the table has every connection of it.
    complete: bool,
    /// Records of connections that did not fit, since the last census began.
    rejected: u64,
}

/// The table.
#[derive(Debug)]
pub(super) struct Tracker {
    table: HashMap<Key, Connection, RandomState>,
    /// By index.
    feeds: Vec<Feed>,
    max: usize,
}

impl Tracker {
    /// An empty table with room for `max` connections.
    pub(super) fn new(max: usize) -> Self {
        Self {
            table: HashMap::with_hasher(RandomState::default()),
            feeds: Vec::new(),
            max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn connections_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.table.values_mut()
    }

    /// Adds `record` to its connection, which is open; a connection that is new needs room, and `may_grow`.
    pub(super) fn update(
        &mut self,
        key: Key,
        receiver: u16,
        record: &TcpRecord,
        may_grow: bool,
    ) -> Result<(), LossReason> {
        let has_room = self.table.len() < self.max;
        let feed = feed(&mut self.feeds, receiver);
        match self.table.entry(key) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.add(record);
                learn(&mut known.flow, &record.flow);
                known.census = feed.census;
                Ok(())
            }
            Entry::Vacant(_) if is_after_end(record) => Err(LossReason::AfterEnd),
            Entry::Vacant(place) if has_room && may_grow => {
                let mut connection = Connection::first(receiver, record);
                connection.census = feed.census;
                place.insert(connection);
                Ok(())
            }
            Entry::Vacant(_) => {
                feed.rejected += 1;
                Err(if may_grow {
                    LossReason::MaxConnections
                } else {
                    LossReason::MemoryLimit
                })
            }
        }
    }

    /// Takes a connection out that turns out not to count.
    pub(super) fn remove(&mut self, key: &Key) {
        self.table.remove(key);
    }

    /// Takes a connection out with its last record.
    pub(super) fn close(&mut self, key: Key, receiver: u16, record: &TcpRecord) -> Connection {
        match self.table.remove(&key) {
            Some(mut known) => {
                known.add(record);
                learn(&mut known.flow, &record.flow);
                known
            }
            None => Connection::first(receiver, record),
        }
    }

    /// Takes every connection of `receiver` out.
    pub(super) fn forget(&mut self, receiver: u16) -> Closing {
        *feed(&mut self.feeds, receiver) = Feed::default();
        self.take_out(|known| known.receiver == receiver)
    }

    pub(super) fn begin_census(&mut self, receiver: u16) {
        let feed = feed(&mut self.feeds, receiver);
        feed.census = feed.census.wrapping_add(1);
        feed.begun = true;
        feed.rejected = 0;
    }

    /// Takes out every connection of `receiver` that the census has not seen. The end of a census whose beginning was not seen says
    /// nothing.
    pub(super) fn end_census(&mut self, receiver: u16) -> Closing {
        let feed = feed(&mut self.feeds, receiver);
        if !std::mem::take(&mut feed.begun) {
            return Closing::new();
        }
        feed.complete = true;
        let census = feed.census;
        self.take_out(|known| known.receiver == receiver && known.census != census)
    }

    /// Whether `receiver` should do a census: it has not done one, or there is room for what did not fit.
    pub(super) fn wants_census(&self, receiver: u16) -> bool {
        let Some(feed) = self.feeds.get(usize::from(receiver)) else {
            return true;
        };
        // With room to spare, or the next connections would want the next census.
        let has_room = self.table.len() < self.max - self.max / 8;
        !feed.complete || (feed.rejected > 0 && has_room)
    }

    /// Every receiver should do a census.
    pub(super) fn request_census(&mut self) {
        for feed in &mut self.feeds {
            feed.complete = false;
        }
    }

    /// The clock was set back to `now`: times of the one before mean nothing.
    pub(super) fn restart_clock(&mut self, now: Timestamp) {
        for connection in self.table.values_mut() {
            connection.reported_at = connection.reported_at.min(now);
            connection.began = connection.began.map(|began| began.min(now));
        }
    }

    /// Continues with the connections of `before`, also with more than it has room for: the bound is on new ones. A connection that
    /// was let go of would come back with its next record, and count its records from 0 once more.
    pub(super) fn continue_with(&mut self, before: Self) {
        self.feeds = before.feeds;
        self.table = before.table;
    }

    /// Gives back memory that connections took which have ended.
    pub(super) fn shrink(&mut self) {
        let needed = self.table.len();
        if self.table.capacity() > (4 * needed).max(SMALL) {
            self.table.shrink_to((2 * needed).max(SMALL / 2));
        }
    }

    fn take_out(&mut self, mut gone: impl FnMut(&Connection) -> bool) -> Closing {
        let gone = self.table.extract_if(|_, known| gone(known));
        gone.map(|(_, connection)| connection).collect()
    }
}

fn feed(feeds: &mut Vec<Feed>, receiver: u16) -> &mut Feed {
    let index = usize::from(receiver);
    if index >= feeds.len() {
        feeds.resize_with(index + 1, Feed::default);
    }
    &mut feeds[index]
}
