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
#[derive(Clone, Copy, Debug)]
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

/// Identity of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionId {
    /// Index of the receiver.
    pub(super) receiver: u16,
    /// Cookie of the socket, which is unique for the receiver.
    pub(super) cookie: u64,
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

    /// Whether to keep a record with these `events`, of which `wanted` is the decision by its own fields.
    pub(super) fn decide(&mut self, id: ConnectionId, events: Events, wanted: bool) -> bool {
        let ConnectionId { receiver, cookie } = id;
        let hash = self.hasher.hash_one((receiver, cookie));
        let is_it = |known: &Connection| known.cookie == cookie && known.receiver == receiver;
        if events.contains(Events::CLOSED) || events.contains(Events::FAILED) {
            let Ok(known) = self.table.find_entry(hash, is_it) else {
                return wanted;
            };
            let (known, _) = known.remove();
            if known.contradicted {
                self.feed(receiver).contradicted -= 1;
            }
            return known.keep;
        }
        if events == Events::CONNECTING {
            // Not a connection yet: its opening decides, or its failure.
            return wanted;
        }
        let feed = feed(&mut self.feeds, receiver);
        let is_full = self.table.len() >= self.max;
        let hasher = &self.hasher;
        match self.table.entry(hash, is_it, |known| hash_of(hasher, known)) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.census = feed.census;
                if events.contains(Events::OPEN) {
                    known.keep = wanted;
                }
                let contradicted = known.keep != wanted;
                match (known.contradicted, contradicted) {
                    (false, true) => feed.contradicted += 1,
                    (true, false) => feed.contradicted -= 1,
                    (true, true) | (false, false) => {}
                }
                known.contradicted = contradicted;
                known.keep
            }
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
                .shrink_to((2 * needed).max(SMALL / 2), |known| hash_of(hasher, known));
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

fn hash_of(hasher: &RandomState, known: &Connection) -> u64 {
    hasher.hash_one((known.receiver, known.cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(cookie: u64) -> ConnectionId {
        ConnectionId { receiver: 0, cookie }
    }

    #[test]
    fn a_decision_holds_from_the_first_record_to_the_close() {
        let mut decisions = Decisions::default();
        assert!(decisions.decide(id(7), Events::OPENED, true));
        assert!(decisions.decide(id(7), Events::NONE, false));
        assert!(decisions.decide(id(7), Events::CLOSED, false));
        // The next connection with this cookie is another one.
        assert!(!decisions.decide(id(7), Events::OPENED, false));
        assert!(!decisions.decide(id(7), Events::CLOSED | Events::RESET, true));
        assert!(decisions.table.is_empty());
        let other = ConnectionId {
            receiver: 1,
            cookie: 7,
        };
        assert!(!decisions.decide(id(7), Events::OPENED, false));
        assert!(
            decisions.decide(other, Events::OPENED, true),
            "another receiver's"
        );
    }

    #[test]
    fn a_connect_that_waits_is_decided_by_its_record_and_leaves_no_entry() {
        let mut decisions = Decisions::default();
        assert!(decisions.decide(id(7), Events::CONNECTING, true));
        assert!(!decisions.decide(id(7), Events::CONNECTING, false));
        assert!(decisions.table.is_empty());
    }

    #[test]
    fn contradictions_ask_for_a_census_which_decides_anew() {
        let mut decisions = Decisions::default();
        for cookie in 0..47 {
            decisions.decide(id(cookie), Events::OPENED, true);
        }
        for cookie in 0..2 {
            assert!(decisions.decide(id(cookie), Events::NONE, false));
            assert!(decisions.decide(id(cookie), Events::NONE, false));
        }
        assert!(!decisions.wants_census(0), "2 of 47 are few");
        assert!(decisions.decide(id(2), Events::NONE, false));
        assert!(decisions.wants_census(0));
        assert!(decisions.decide(id(2), Events::CLOSED, false));
        assert!(
            !decisions.wants_census(0),
            "a connection that closes counts no longer"
        );
        assert!(decisions.decide(id(3), Events::NONE, false));
        decisions.begin_census(0);
        for cookie in (0..47).filter(|cookie| *cookie != 2) {
            assert_eq!(decisions.decide(id(cookie), Events::OPEN, cookie > 3), cookie > 3);
        }
        decisions.end_census(0);
        assert!(!decisions.wants_census(0));
        assert!(!decisions.decide(id(0), Events::CLOSED, true));
        assert!(decisions.decide(id(9), Events::CLOSED, false));
    }

    #[test]
    fn a_census_forgets_connections_whose_close_was_lost() {
        let mut decisions = Decisions::default();
        decisions.decide(id(1), Events::OPENED, true);
        decisions.decide(id(2), Events::OPENED, true);
        decisions.decide(id(2), Events::NONE, false);
        decisions.end_census(0);
        assert_eq!(
            decisions.table.len(),
            2,
            "a census that did not begin says nothing"
        );
        decisions.begin_census(0);
        decisions.decide(id(1), Events::OPEN, true);
        decisions.end_census(0);
        assert_eq!(decisions.table.len(), 1);
        assert!(!decisions.wants_census(0));
    }

    #[test]
    fn connections_without_room_are_decided_by_each_record_and_counted() {
        let mut decisions = Decisions::new(2);
        for cookie in 0..4 {
            assert!(decisions.decide(id(cookie), Events::OPENED, true));
        }
        assert_eq!(decisions.take_untracked(), 2);
        assert!(decisions.decide(id(0), Events::NONE, false));
        assert!(!decisions.decide(id(3), Events::NONE, false));
        assert_eq!(decisions.take_untracked(), 1);
        assert_eq!(decisions.take_untracked(), 0);
    }
}
