//! The table of open connections: which series of the gauge counts each.
//!
//! In: connections that open, close, or are open (a census). Out: which series gains one and which loses one. The rules:
//!
//! 1. A connection counts once, however often it is reported as open; its close takes it out of the series that counts it,
//!    whatever labels the close itself has.
//! 2. A connection that is reported as open again, with other labels than before, moves to the series of the new ones.
//! 3. A census ends with nothing left that it has not seen: the close of the rest was lost.
//! 4. A close of a connection that is not in the table is of one whose opening was not seen, and changes nothing.
//! 5. Connections that do not fit are counted by series only: a close takes one out of the series
//!    of the close's own labels, if that counts any. The next census corrects the errors of this.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Connections that a table follows one by one. It takes 17 to 36 bytes for each.
const MAX_CONNECTIONS: usize = 1 << 20;

/// A table that has a quarter of its room in use gives half of it back, unless it is as small as that.
const SMALL: usize = 1 << 12;

/// A connection, and what counts it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    cookie: u64,
    /// Number of the series' slot.
    slot: u32,
    /// Index of the receiver that reports it.
    receiver: u16,
    /// That of the receiver when it was reported last.
    census: u16,
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
    /// Connections that did not fit, by slot.
    untracked: HashMap<u32, u64>,
}

/// The change caused by a connection's being open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Nothing: it is counted there already.
    Already,
    /// It counts from now on.
    Added,
    /// The same, but the table has no room for it.
    Untracked,
    /// This slot counted it until now.
    MovedFrom(u32),
}

/// The table.
#[derive(Debug)]
pub(super) struct Connections {
    table: HashTable<Connection>,
    hasher: RandomState,
    /// By index.
    feeds: Vec<Feed>,
    max: usize,
}

impl Default for Connections {
    fn default() -> Self {
        Self::new(MAX_CONNECTIONS)
    }
}

impl Connections {
    /// An empty table with room for `max` connections.
    pub(super) fn new(max: usize) -> Self {
        Self {
            table: HashTable::new(),
            hasher: RandomState::default(),
            feeds: Vec::new(),
            max,
        }
    }

    /// Number of connections in the table.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Number of open connections that `receiver` has reported, those that did not fit included.
    pub(super) fn open_of(&self, receiver: u16) -> u64 {
        let followed = self.table.iter().filter(|known| known.receiver == receiver);
        let feed = self.feeds.get(usize::from(receiver));
        let untracked: u64 = feed.map_or(0, |feed| feed.untracked.values().sum());
        followed.count() as u64 + untracked
    }

    /// A connection is open, and its labels are those of the series in `slot`.
    pub(super) fn place(&mut self, receiver: u16, cookie: u64, slot: u32) -> Placed {
        let hash = self.hasher.hash_one((receiver, cookie));
        let census = self.feed(receiver).census;
        let is_full = self.table.len() >= self.max;
        let is_it = |known: &Connection| known.cookie == cookie && known.receiver == receiver;
        let hasher = &self.hasher;
        match self.table.entry(hash, is_it, |known| hash_of(hasher, known)) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.census = census;
                let before = std::mem::replace(&mut known.slot, slot);
                if before == slot {
                    Placed::Already
                } else {
                    Placed::MovedFrom(before)
                }
            }
            Entry::Vacant(_) if is_full => {
                *self.feed(receiver).untracked.entry(slot).or_default() += 1;
                Placed::Untracked
            }
            Entry::Vacant(place) => {
                place.insert(Connection {
                    cookie,
                    slot,
                    receiver,
                    census,
                });
                Placed::Added
            }
        }
    }

    /// Whether a connection is in the table, or might be among those of its receiver that did not fit.
    pub(super) fn may_be_open(&self, receiver: u16, cookie: u64) -> bool {
        let hash = self.hasher.hash_one((receiver, cookie));
        let is_it = |known: &Connection| known.cookie == cookie && known.receiver == receiver;
        self.has_untracked(receiver) || self.table.find(hash, is_it).is_some()
    }

    /// A connection has closed; returns the slot that counted it.
    pub(super) fn remove(&mut self, receiver: u16, cookie: u64) -> Option<u32> {
        let hash = self.hasher.hash_one((receiver, cookie));
        let is_it = |known: &Connection| known.cookie == cookie && known.receiver == receiver;
        let (known, _) = self.table.find_entry(hash, is_it).ok()?.remove();
        Some(known.slot)
    }

    /// Whether connections of `receiver` are counted that are not in the table.
    pub(super) fn has_untracked(&self, receiver: u16) -> bool {
        let feed = self.feeds.get(usize::from(receiver));
        feed.is_some_and(|feed| !feed.untracked.is_empty())
    }

    /// A connection that is not in the table has closed, and `slot` is the series of its labels; whether that counted one.
    pub(super) fn remove_untracked(&mut self, receiver: u16, slot: u32) -> bool {
        let untracked = &mut self.feed(receiver).untracked;
        let Some(count) = untracked.get_mut(&slot) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            untracked.remove(&slot);
        }
        true
    }

    /// Whether `receiver` should do a census: it has not done one, or there is room for what did not fit.
    pub(super) fn wants_census(&self, receiver: u16) -> bool {
        let Some(feed) = self.feeds.get(usize::from(receiver)) else {
            return true;
        };
        let untracked: u64 = feed.untracked.values().sum();
        // With room to spare, or the next connections would want the next census.
        let room = (self.max - self.max / 8).saturating_sub(self.table.len()) as u64;
        !feed.complete || (1..=room).contains(&untracked)
    }

    /// Wants a census of every receiver: connections may count from now on that did not, or the other way round.
    pub(super) fn request_census(&mut self) {
        for feed in &mut self.feeds {
            feed.complete = false;
        }
    }

    /// A census begins; `each` is shown the slots of what is not in the table, with how many they count no longer: the census
    /// will report these anew.
    pub(super) fn begin_census(&mut self, receiver: u16, mut each: impl FnMut(u32, u64)) {
        let feed = self.feed(receiver);
        feed.census = feed.census.wrapping_add(1);
        feed.begun = true;
        for (slot, count) in feed.untracked.drain() {
            each(slot, count);
        }
    }

    /// A census ends; `each` is shown the slot of every connection that it has not seen, which is in the table no longer. The
    /// end of a census whose beginning was not seen says nothing.
    pub(super) fn end_census(&mut self, receiver: u16, mut each: impl FnMut(u32)) {
        let feed = self.feed(receiver);
        if !std::mem::take(&mut feed.begun) {
            return;
        }
        feed.complete = true;
        let census = feed.census;
        self.table.retain(|known| {
            let stays = known.receiver != receiver || known.census == census;
            if !stays {
                each(known.slot);
            }
            stays
        });
    }

    /// The slots of series have moved; `moved` has the new index of each, by the old one.
    pub(super) fn renumber(&mut self, moved: &[u32]) {
        let place = |slot: u32| moved.get(slot as usize).copied().unwrap_or(slot);
        for known in &mut self.table {
            known.slot = place(known.slot);
        }
        for feed in &mut self.feeds {
            let untracked = std::mem::take(&mut feed.untracked);
            feed.untracked = untracked.into_iter().map(|(slot, n)| (place(slot), n)).collect();
        }
    }

    /// Gives back memory that many connections took which have closed.
    pub(super) fn shrink(&mut self) {
        let needed = self.table.len();
        if self.table.capacity() > (4 * needed).max(SMALL) {
            let hasher = &self.hasher;
            self.table
                .shrink_to((2 * needed).max(SMALL / 2), |known| hash_of(hasher, known));
        }
    }

    fn feed(&mut self, receiver: u16) -> &mut Feed {
        let index = usize::from(receiver);
        if index >= self.feeds.len() {
            self.feeds.resize_with(index + 1, Feed::default);
        }
        &mut self.feeds[index]
    }
}

fn hash_of(hasher: &RandomState, known: &Connection) -> u64 {
    hasher.hash_one((known.receiver, known.cookie))
}

const _: () = assert!(
    size_of::<Connection>() == 16,
    "an entry takes more memory than is documented"
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots that an ended census takes one out of.
    fn ended(connections: &mut Connections, receiver: u16) -> Vec<u32> {
        let mut slots = Vec::new();
        connections.end_census(receiver, |slot| slots.push(slot));
        slots.sort_unstable();
        slots
    }

    fn begun(connections: &mut Connections, receiver: u16) -> Vec<(u32, u64)> {
        let mut slots = Vec::new();
        connections.begin_census(receiver, |slot, count| slots.push((slot, count)));
        slots
    }

    #[test]
    fn a_connection_counts_once_and_is_taken_from_where_it_counts() {
        let mut connections = Connections::default();
        assert_eq!(connections.place(0, 7, 3), Placed::Added);
        assert_eq!(connections.place(0, 7, 3), Placed::Already);
        assert_eq!(connections.place(0, 7, 5), Placed::MovedFrom(3));
        assert_eq!(connections.place(1, 7, 9), Placed::Added, "another receiver's");
        assert_eq!(connections.remove(0, 7), Some(5));
        assert_eq!(connections.remove(0, 7), None);
        assert_eq!(connections.remove(1, 7), Some(9));
    }

    #[test]
    fn a_census_leaves_what_it_has_seen_and_what_has_opened_meanwhile_and_other_receivers() {
        let mut connections = Connections::default();
        for (receiver, cookie) in [(0, 1), (0, 2), (0, 3), (1, 1)] {
            connections.place(receiver, cookie, u32::try_from(cookie).unwrap());
        }
        assert!(connections.wants_census(0));
        begun(&mut connections, 0);
        connections.place(0, 2, 2);
        connections.place(0, 4, 4);
        assert_eq!(ended(&mut connections, 0), [1, 3]);
        assert_eq!(connections.len(), 3);
        assert!(!connections.wants_census(0));
        assert!(connections.wants_census(1));
    }

    #[test]
    fn a_census_that_was_not_ended_or_not_begun_takes_nothing_away() {
        let mut connections = Connections::default();
        connections.place(0, 1, 1);
        connections.place(0, 2, 2);
        assert!(ended(&mut connections, 0).is_empty());
        assert!(connections.wants_census(0), "what had no beginning was no census");
        begun(&mut connections, 0);
        connections.place(0, 1, 1);
        // It failed; the next one sees the other connection alone.
        begun(&mut connections, 0);
        connections.place(0, 2, 2);
        assert_eq!(ended(&mut connections, 0), [1]);
    }

    #[test]
    fn what_does_not_fit_is_counted_by_series_until_a_census_has_room_for_it() {
        let mut connections = Connections::new(16);
        begun(&mut connections, 0);
        ended(&mut connections, 0);
        for cookie in 1..=16 {
            assert_eq!(connections.place(0, cookie, 1), Placed::Added);
        }
        assert_eq!(connections.place(0, 17, 2), Placed::Untracked);
        assert_eq!(connections.place(0, 18, 2), Placed::Untracked);
        assert!(!connections.wants_census(0), "it would not help");
        assert!(connections.has_untracked(0));
        assert!(!connections.remove_untracked(0, 1), "of another series");
        assert!(connections.remove_untracked(0, 2));
        for cookie in 1..=8 {
            connections.remove(0, cookie);
        }
        assert!(connections.wants_census(0));
        assert_eq!(begun(&mut connections, 0), [(2, 1)]);
        for cookie in (9..=16).chain([18]) {
            assert_ne!(connections.place(0, cookie, 1), Placed::Untracked);
        }
        assert!(ended(&mut connections, 0).is_empty());
        assert!(!connections.has_untracked(0) && !connections.wants_census(0));
    }

    #[test]
    fn a_table_takes_at_most_36_bytes_a_connection_and_gives_memory_back() {
        let mut connections = Connections::default();
        let bytes = |connections: &Connections| connections.table.allocation_size();
        for cookie in 1..=1_000_000 {
            connections.place(0, cookie, 0);
        }
        assert!(
            (17_000_000..=36_000_000).contains(&bytes(&connections)),
            "{}",
            bytes(&connections)
        );
        for cookie in 1..=999_000 {
            connections.remove(0, cookie);
        }
        connections.shrink();
        assert!(bytes(&connections) < 100_000, "{}", bytes(&connections));
        assert_eq!(connections.remove(0, 999_500), Some(0));
    }
}
