//! The table of decisions: a connection is kept or dropped as a whole.
//!
//! The class, the role, the process and the names of a connection can become known, or change, while it is open. If each record
//! were judged by itself, the opening of a connection could pass and its close not, and a gauge of open connections would count it
//! for ever. So the decision of a connection is made once, by its first record, and applies until its close. The rules:
//!
//! 1. A record of a connection that is in the table follows the decision there.
//! 2. A record of one that is not is decided by its own fields, which the table then holds.
//! 3. A [census](flowtap_pipeline::Census) reports every open connection: each is decided anew. That is the one point at which a
//!    decision can change without leaving a gauge wrong, as the window makes its gauge from the same records.
//! 4. While many records contradict their decisions, the table asks for a census.
//! 5. A census ends with nothing left that it has not seen: the close of the rest was lost.
//! 6. Connections that do not fit are decided by each record for itself, and counted.

use std::hash::BuildHasher;

use flowtap_pipeline::Events;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Connections that a table follows. It takes 17 to 36 bytes for each.
const MAX_CONNECTIONS: usize = 1 << 20;

/// A census is due once one in so many connections contradicts its decision.
const TOLERANCE: usize = 16;

/// A table that has a quarter of its room in use returns half of it, unless it is as small as that.
const SMALL: usize = 1 << 12;

/// An open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    cookie: u64,
    /// Index of the receiver that reports it.
    receiver: u16,
    /// That of the receiver when it was reported last.
    census: u16,
    keep: bool,
    /// Whether a later record would be decided otherwise.
    contradicted: bool,
}

const _: () = assert!(
    size_of::<Connection>() == 16,
    "an entry takes more memory than is documented"
);

impl Connection {
    const fn is(&self, receiver: u16, cookie: u64) -> bool {
        self.cookie == cookie && self.receiver == receiver
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        hash_of(hasher, self.receiver, self.cookie)
    }

    /// Whether to keep a further record with these `events`, of which `wanted` is the decision by its own fields.
    fn follow(&mut self, feed: &mut Feed, events: Events, wanted: bool) -> bool {
        let keep = if events.contains(Events::OPEN) {
            wanted
        } else {
            self.keep
        };
        let contradicted = keep != wanted;
        match (self.contradicted, contradicted) {
            (false, true) => feed.contradicted += 1,
            (true, false) => feed.contradicted -= 1,
            (true, true) | (false, false) => {}
        }
        let now = Self {
            census: feed.census,
            keep,
            contradicted,
            ..*self
        };
        // Most records change nothing, and a cache line that is not written need not be written back.
        if now != *self {
            *self = now;
        }
        keep
    }
}

/// State of a receiver.
#[derive(Clone, Copy, Debug, Default)]
struct Feed {
    /// Counts its censuses, also those that were not ended; wraps.
    census: u16,
    /// Whether one is under way.
    begun: bool,
    /// Its connections that contradict their decision.
    contradicted: usize,
}

/// A record that is to be decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Cookie of the socket, which is unique for the receiver; 0 if it is unknown.
    pub(super) cookie: u64,
    pub(super) events: Events,
    /// The decision by the record's own fields.
    pub(super) wanted: bool,
}

impl Candidate {
    const NONE: Self = Self {
        cookie: 0,
        events: Events::NONE,
        wanted: false,
    };
}

/// Records that are decided together.
pub(super) const GROUP: usize = 64;

const _: () = assert!(GROUP == u64::BITS as usize, "an answer has a bit for each record");

/// Where a connection is in the table, if it is there.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u64,
    index: Option<usize>,
}

impl Place {
    const NONE: Self = Self { hash: 0, index: None };
}

/// The table.
#[derive(Debug)]
pub(super) struct Decisions {
    table: HashTable<Connection>,
    hasher: RandomState,
    /// By index.
    feeds: Vec<Feed>,
    max: usize,
    /// Records that were decided by themselves as the table was full, since the last call of [`Decisions::take_untracked`].
    untracked: u64,
}

impl Default for Decisions {
    fn default() -> Self {
        Self::new(MAX_CONNECTIONS)
    }
}

impl Decisions {
    /// An empty table with room for `max` connections.
    fn new(max: usize) -> Self {
        Self {
            table: HashTable::new(),
            hasher: RandomState::default(),
            feeds: Vec::new(),
            max,
            untracked: 0,
        }
    }

    /// Decides about records of `receiver` one after the other; bit `i` of the answer is whether to keep the one at `i`.
    ///
    /// With many connections a look-up is a cache miss or two. So all connections are looked up first, by a loop that does nothing
    /// else and has the processor wait for several at a time.
    pub(super) fn decide_group(&mut self, receiver: u16, records: impl Iterator<Item = Candidate>) -> u64 {
        let mut found = [(Candidate::NONE, Place::NONE); GROUP];
        let mut len = 0;
        for (slot, record) in found.iter_mut().zip(records) {
            slot.0 = record;
            len += 1;
        }
        for (record, place) in &mut found[..len] {
            *place = self.look_up(receiver, record.cookie);
        }
        let mut kept = 0;
        for (index, (record, place)) in found[..len].iter().enumerate() {
            kept |= u64::from(self.decide(receiver, *record, *place)) << index;
        }
        kept
    }

    fn look_up(&self, receiver: u16, cookie: u64) -> Place {
        let hash = hash_of(&self.hasher, receiver, cookie);
        let index = self
            .table
            .find_bucket_index(hash, |known| known.is(receiver, cookie));
        Place { hash, index }
    }

    /// Whether to keep `record`, whose connection was at `place` a moment ago.
    fn decide(&mut self, receiver: u16, record: Candidate, place: Place) -> bool {
        let Candidate {
            cookie,
            events,
            wanted,
        } = record;
        // Connections without a cookie can't be distinguished. One that is to be opened is not one yet: its opening decides, or its
        // failure.
        if cookie == 0 || events == Events::CONNECTING {
            return wanted;
        }
        let hash = place.hash;
        let is_it = |known: &Connection| known.is(receiver, cookie);
        // A record before this one can have opened or closed a connection, and moved others with that.
        let index = place
            .index
            .filter(|index| self.table.get_bucket(*index).is_some_and(is_it));
        if events.contains(Events::CLOSED) || events.contains(Events::FAILED) {
            let index = index.or_else(|| self.table.find_bucket_index(hash, is_it));
            let Some(Ok(known)) = index.map(|index| self.table.get_bucket_entry(index)) else {
                return wanted;
            };
            let (known, _) = known.remove();
            if known.contradicted {
                self.feed(receiver).contradicted -= 1;
            }
            return known.keep;
        }
        let feed = feed(&mut self.feeds, receiver);
        if let Some(known) = index.and_then(|index| self.table.get_bucket_mut(index)) {
            return known.follow(feed, events, wanted);
        }
        let is_full = self.table.len() >= self.max;
        let hasher = &self.hasher;
        match self.table.entry(hash, is_it, |known| known.hash(hasher)) {
            Entry::Occupied(mut known) => known.get_mut().follow(feed, events, wanted),
            Entry::Vacant(_) if is_full => {
                self.untracked += 1;
                wanted
            }
            Entry::Vacant(place) => {
                place.insert(Connection {
                    cookie,
                    receiver,
                    census: feed.census,
                    keep: wanted,
                    contradicted: false,
                });
                wanted
            }
        }
    }

    /// Whether `receiver` should do a census, as many of its connections would be decided otherwise now.
    pub(super) fn wants_census(&self, receiver: u16) -> bool {
        let feed = self.feeds.get(usize::from(receiver));
        // In proportion to the table, as a census costs a record for each connection: one process that changes its name must not
        // cause one.
        feed.is_some_and(|feed| feed.contradicted > self.table.len() / TOLERANCE)
    }

    /// A census of `receiver` begins.
    pub(super) fn begin_census(&mut self, receiver: u16) {
        let feed = self.feed(receiver);
        feed.census = feed.census.wrapping_add(1);
        feed.begun = true;
    }

    /// A census of `receiver` ends: it has seen every connection that is open. The end of one whose beginning was not seen says
    /// nothing.
    pub(super) fn end_census(&mut self, receiver: u16) {
        let feed = feed(&mut self.feeds, receiver);
        if !std::mem::take(&mut feed.begun) {
            return;
        }
        self.table.retain(|known| {
            let stays = known.receiver != receiver || known.census == feed.census;
            if !stays && known.contradicted {
                feed.contradicted -= 1;
            }
            stays
        });
        let needed = self.table.len();
        if self.table.capacity() > (4 * needed).max(SMALL) {
            let hasher = &self.hasher;
            self.table
                .shrink_to((2 * needed).max(SMALL / 2), |known| known.hash(hasher));
        }
    }

    /// Records that were decided by themselves as the table was full, since the last call.
    pub(super) fn take_untracked(&mut self) -> u64 {
        std::mem::take(&mut self.untracked)
    }

    fn feed(&mut self, receiver: u16) -> &mut Feed {
        feed(&mut self.feeds, receiver)
    }
}

fn feed(feeds: &mut Vec<Feed>, receiver: u16) -> &mut Feed {
    let index = usize::from(receiver);
    if index >= feeds.len() {
        feeds.resize_with(index + 1, Feed::default);
    }
    &mut feeds[index]
}

fn hash_of(hasher: &RandomState, receiver: u16, cookie: u64) -> u64 {
    // The hasher has a random seed. Two connections with the same hash are distinguished by their cookies and receivers.
    hasher.hash_one(cookie ^ u64::from(receiver) << 48)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    impl Decisions {
        /// Of a single record.
        fn decide_one(&mut self, receiver: u16, cookie: u64, events: Events, wanted: bool) -> bool {
            let record = Candidate {
                cookie,
                events,
                wanted,
            };
            self.decide_group(receiver, std::iter::once(record)) != 0
        }
    }

    #[test]
    fn a_decision_holds_from_the_first_record_to_the_close() {
        let mut decisions = Decisions::default();
        assert!(decisions.decide_one(0, 7, Events::OPENED, true));
        assert!(decisions.decide_one(0, 7, Events::NONE, false));
        assert!(decisions.decide_one(0, 7, Events::CLOSED, false));
        // The next connection with this cookie is another one.
        assert!(!decisions.decide_one(0, 7, Events::OPENED, false));
        assert!(!decisions.decide_one(0, 7, Events::CLOSED | Events::RESET, true));
        assert!(decisions.table.is_empty());
        assert!(!decisions.decide_one(0, 7, Events::OPENED, false));
        assert!(
            decisions.decide_one(1, 7, Events::OPENED, true),
            "another receiver's"
        );
    }

    #[test]
    fn a_connect_that_waits_is_decided_by_its_record_and_leaves_no_entry() {
        let mut decisions = Decisions::default();
        assert!(decisions.decide_one(0, 7, Events::CONNECTING, true));
        assert!(!decisions.decide_one(0, 7, Events::CONNECTING, false));
        assert!(decisions.table.is_empty());
    }

    #[test]
    fn contradictions_ask_for_a_census_which_decides_anew() {
        let mut decisions = Decisions::default();
        for cookie in 1..48 {
            decisions.decide_one(0, cookie, Events::OPENED, true);
        }
        for cookie in 1..3 {
            assert!(decisions.decide_one(0, cookie, Events::NONE, false));
            assert!(decisions.decide_one(0, cookie, Events::NONE, false));
        }
        assert!(!decisions.wants_census(0), "2 of 47 are few");
        assert!(decisions.decide_one(0, 3, Events::NONE, false));
        assert!(decisions.wants_census(0));
        assert!(decisions.decide_one(0, 3, Events::CLOSED, false));
        assert!(
            !decisions.wants_census(0),
            "a connection that closes counts no longer"
        );
        assert!(decisions.decide_one(0, 4, Events::NONE, false));
        decisions.begin_census(0);
        for cookie in (1..48).filter(|cookie| *cookie != 3) {
            assert_eq!(
                decisions.decide_one(0, cookie, Events::OPEN, cookie > 4),
                cookie > 4
            );
        }
        decisions.end_census(0);
        assert!(!decisions.wants_census(0));
        assert!(!decisions.decide_one(0, 1, Events::CLOSED, true));
        assert!(decisions.decide_one(0, 9, Events::CLOSED, false));
    }

    #[test]
    fn a_census_forgets_connections_whose_close_was_lost() {
        let mut decisions = Decisions::default();
        decisions.decide_one(0, 1, Events::OPENED, true);
        decisions.decide_one(0, 2, Events::OPENED, true);
        decisions.decide_one(0, 2, Events::NONE, false);
        decisions.end_census(0);
        assert_eq!(
            decisions.table.len(),
            2,
            "a census that did not begin says nothing"
        );
        decisions.begin_census(0);
        decisions.decide_one(0, 1, Events::OPEN, true);
        decisions.end_census(0);
        assert_eq!(decisions.table.len(), 1);
        assert!(!decisions.wants_census(0));
    }

    #[test]
    fn connections_without_room_are_decided_by_each_record_and_counted() {
        let mut decisions = Decisions::new(2);
        for cookie in 1..5 {
            assert!(decisions.decide_one(0, cookie, Events::OPENED, true));
        }
        assert_eq!(decisions.take_untracked(), 2);
        assert!(decisions.decide_one(0, 1, Events::NONE, false));
        assert!(!decisions.decide_one(0, 4, Events::NONE, false));
        assert_eq!(decisions.take_untracked(), 1);
        assert_eq!(decisions.take_untracked(), 0);
    }

    #[test]
    fn records_without_a_cookie_are_decided_each_by_itself() {
        let mut decisions = Decisions::default();
        assert!(decisions.decide_one(0, 0, Events::OPENED, true));
        assert!(!decisions.decide_one(0, 0, Events::NONE, false));
        assert!(decisions.table.is_empty());
    }

    /// Entries without their places.
    fn entries(decisions: &Decisions) -> Vec<Connection> {
        let mut entries: Vec<_> = decisions.table.iter().copied().collect();
        entries.sort_by_key(|known| (known.receiver, known.cookie));
        entries
    }

    proptest! {
        /// Connections that open, grow the table and close within a group, and censuses between groups.
        #[test]
        fn a_group_is_decided_as_its_records_would_be_one_after_the_other(
            groups in vec((0..2_u16, 0..6_u8, vec((0..30_u64, 0..7_usize, any::<bool>()), 0..=GROUP)), 1..20),
            max in prop_oneof![Just(8), Just(MAX_CONNECTIONS)],
        ) {
            let kinds = [
                Events::NONE,
                Events::OPENED,
                Events::CLOSED,
                Events::OPENED | Events::CLOSED,
                Events::FAILED,
                Events::OPEN,
                Events::CONNECTING,
            ];
            let (mut together, mut single) = (Decisions::new(max), Decisions::new(max));
            for (receiver, census, records) in groups {
                let records = records.into_iter().map(|(cookie, kind, wanted)| Candidate {
                    cookie,
                    events: kinds[kind],
                    wanted,
                });
                if census == 0 {
                    together.begin_census(receiver);
                    single.begin_census(receiver);
                }
                let kept = together.decide_group(receiver, records.clone());
                for (index, record) in records.enumerate() {
                    let Candidate { cookie, events, wanted } = record;
                    let keep = single.decide_one(receiver, cookie, events, wanted);
                    prop_assert_eq!(kept >> index & 1 != 0, keep, "{} of {:?}", index, record);
                }
                if census == 1 {
                    together.end_census(receiver);
                    single.end_census(receiver);
                }
                prop_assert_eq!(entries(&together), entries(&single));
                prop_assert_eq!(together.wants_census(receiver), single.wants_census(receiver));
                prop_assert_eq!(together.take_untracked(), single.take_untracked());
            }
        }
    }
}
