//! Bytes of open connections, for the histogram of connection sizes.
//!
//! In: what the records of a connection moved. Out: their sums, when it closes. A sum that lacks a part is not given out: a connection
//! that the table had no room for, or whose records were dropped, has none.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// Connections that a table follows. It takes 37 to 74 bytes for each.
const MAX_CONNECTIONS: usize = 1 << 20;

/// A table that has a quarter of its room in use gives half of it back, unless it is as small as that.
const SMALL: usize = 1 << 12;

/// Bytes sent and received. Differences are signed, so for a moment they may be too high.
pub(super) type Moved = [i64; 2];

/// The table.
#[derive(Debug)]
pub(super) struct Sizes {
    /// By the receiver's index and the socket's cookie.
    open: HashMap<(u16, u64), Moved, RandomState>,
    max: usize,
    /// Whether a connection that is not in the table may have moved bytes.
    is_incomplete: bool,
}

impl Default for Sizes {
    fn default() -> Self {
        Self::new(MAX_CONNECTIONS)
    }
}

impl Sizes {
    /// An empty table with room for `max` connections.
    fn new(max: usize) -> Self {
        Self {
            open: HashMap::default(),
            max,
            is_incomplete: false,
        }
    }

    /// Adds what an open connection has moved.
    pub(super) fn add(&mut self, receiver: u16, cookie: u64, moved: Moved) {
        let is_full = self.open.len() >= self.max;
        match self.open.get_mut(&(receiver, cookie)) {
            Some(known) => *known = plus(*known, moved),
            None if is_full => self.is_incomplete = true,
            None => {
                self.open.insert((receiver, cookie), moved);
            }
        }
    }

    /// A connection closes, whose last record has `moved` these bytes; `is_whole`: it also is its first record. Returns the sums.
    pub(super) fn close(
        &mut self,
        receiver: u16,
        cookie: u64,
        moved: Moved,
        is_whole: bool,
    ) -> Option<Moved> {
        let known = self.open.remove(&(receiver, cookie));
        self.shrink();
        match known {
            Some(known) => Some(plus(known, moved)),
            None => (is_whole || !self.is_incomplete).then_some(moved),
        }
    }

    /// A connection is left out, here as everywhere.
    pub(super) fn remove(&mut self, receiver: u16, cookie: u64) {
        self.open.remove(&(receiver, cookie));
    }

    /// A record of a connection was dropped.
    pub(super) fn forget(&mut self, receiver: u16, cookie: u64) {
        self.open.remove(&(receiver, cookie));
        self.is_incomplete = true;
    }

    /// Drops connections of `receiver` that are not open: the record of their close was lost.
    pub(super) fn retain_open(&mut self, receiver: u16, is_open: impl Fn(u64) -> bool) {
        self.open
            .retain(|(of, cookie), _| *of != receiver || is_open(*cookie));
        self.shrink();
    }

    fn shrink(&mut self) {
        let room = self.open.capacity();
        if room > SMALL && self.open.len() < room / 4 {
            self.open.shrink_to(room / 2);
        }
    }
}

fn plus(a: Moved, b: Moved) -> Moved {
    [a[0].saturating_add(b[0]), a[1].saturating_add(b[1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_room_has_no_size_unless_it_is_one_record() {
        let mut sizes = Sizes::new(1);
        sizes.add(0, 1, [10, 1]);
        sizes.add(0, 1, [-2, 0]);
        assert_eq!(
            sizes.close(0, 7, [5, 5], false),
            Some([5, 5]),
            "it had moved nothing before"
        );
        sizes.add(0, 2, [10, 1]);
        assert_eq!(sizes.close(0, 2, [1, 1], false), None);
        assert_eq!(sizes.close(0, 3, [1, 1], true), Some([1, 1]));
        assert_eq!(sizes.close(0, 1, [2, 2], false), Some([10, 3]));
        assert_eq!(sizes.open.len(), 0);
    }

    #[test]
    fn what_a_census_does_not_find_is_dropped() {
        let mut sizes = Sizes::new(10);
        for (receiver, cookie) in [(0, 1), (0, 2), (1, 2)] {
            sizes.add(receiver, cookie, [1, 1]);
        }
        sizes.retain_open(0, |cookie| cookie == 1);
        assert_eq!(sizes.open.len(), 2);
        sizes.forget(1, 2);
        assert_eq!(sizes.close(1, 2, [0, 0], false), None);
    }
}
