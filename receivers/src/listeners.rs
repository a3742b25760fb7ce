//! Listening sockets: from running totals to differences.
//!
//! In: records whose `drops` are what the kernel has counted since the socket began to listen. Out: the same with what came since the
//! record before. The rules:
//!
//! 1. A socket that is adopted counts from there; one that appears later counts from its beginning.
//! 2. The kernel keeps the total of a socket that listens no more, and may listen again: the last ones are remembered.
//! 3. A socket of which three looks have shown nothing has closed, and the record of that was lost.

use std::collections::{HashMap, VecDeque};

use flowtap_pipeline::ListeningRecord;

/// Sockets that listen no more, and whose totals are remembered.
const CLOSED: usize = 1024;

/// Looks without a record after which a socket has closed.
const LOOKS: u32 = 3;

/// The totals.
#[derive(Debug, Default)]
pub(crate) struct ListenerTotals {
    known: HashMap<u64, Known>,
    closed: VecDeque<(u64, u64)>,
    /// Looks up to now.
    looks: u32,
}

#[derive(Debug)]
struct Known {
    drops: u64,
    look: u32,
    record: ListeningRecord,
}

impl ListenerTotals {
    /// Makes differences of the totals in `records`.
    pub(crate) fn settle(&mut self, records: &mut [ListeningRecord]) {
        for record in records {
            let (cookie, total) = (record.flow.cookie, record.drops);
            let before = self.known.get(&cookie).map(|known| known.drops);
            let before = before.or_else(|| {
                let closed = self.closed.iter().find(|(closed, _)| *closed == cookie);
                closed.map(|(_, total)| *total)
            });
            let adopted = if record.adopted { total } else { 0 };
            record.drops = total.saturating_sub(before.unwrap_or(adopted));
            if record.closed {
                self.close(cookie, total, record);
            } else {
                let known = Known {
                    drops: total,
                    look: self.looks,
                    record: record.clone(),
                };
                self.known.insert(cookie, known);
            }
        }
    }

    /// The record of a close has the port alone: the rest is taken from the one before.
    fn close(&mut self, cookie: u64, total: u64, record: &mut ListeningRecord) {
        if let Some(known) = self.known.remove(&cookie) {
            record.flow = known.record.flow;
        }
        if self.closed.len() >= CLOSED {
            self.closed.pop_front();
        }
        self.closed.retain(|(closed, _)| *closed != cookie);
        self.closed.push_back((cookie, total));
    }

    /// Ends a look; adds records of sockets that have not been shown for long to `records`.
    pub(crate) fn end_look(&mut self, records: &mut Vec<ListeningRecord>) {
        let looks = self.looks;
        let gone = self
            .known
            .extract_if(|_, known| looks.saturating_sub(known.look) >= LOOKS);
        for (cookie, known) in gone {
            if self.closed.len() >= CLOSED {
                self.closed.pop_front();
            }
            self.closed.push_back((cookie, known.drops));
            records.push(ListeningRecord {
                drops: 0,
                backlog: 0,
                wait_us: None,
                closed: true,
                ..known.record
            });
        }
        self.looks = self.looks.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use flowtap_pipeline::Endpoint;

    fn record(cookie: u64, total: u64, closed: bool) -> ListeningRecord {
        let mut record = ListeningRecord::new(Endpoint::new(Ipv4Addr::LOCALHOST.into(), 80));
        record.flow.cookie = cookie;
        record.drops = total;
        record.closed = closed;
        record
    }

    fn adopt(totals: &mut ListenerTotals, cookie: u64, total: u64) -> u64 {
        let mut records = [record(cookie, total, false)];
        records[0].adopted = true;
        totals.settle(&mut records);
        records[0].drops
    }

    fn settled(totals: &mut ListenerTotals, cookie: u64, total: u64, closed: bool) -> u64 {
        let mut records = [record(cookie, total, closed)];
        totals.settle(&mut records);
        records[0].drops
    }

    #[test]
    fn an_adopted_socket_counts_from_now_on_and_a_new_one_from_its_beginning() {
        let mut totals = ListenerTotals::default();
        assert_eq!(adopt(&mut totals, 1, 100), 0, "before flowtap");
        assert_eq!(settled(&mut totals, 1, 107, false), 7);
        assert_eq!(settled(&mut totals, 2, 5, false), 5, "new");
        assert_eq!(settled(&mut totals, 1, 108, true), 1, "until it closes");
        assert_eq!(settled(&mut totals, 3, 4, true), 4, "shorter than a look");
    }

    #[test]
    fn a_socket_that_listens_again_does_not_count_its_past_again() {
        let mut totals = ListenerTotals::default();
        assert_eq!(settled(&mut totals, 1, 30, false), 30);
        assert_eq!(settled(&mut totals, 1, 31, true), 1);
        assert_eq!(settled(&mut totals, 1, 33, false), 2);
    }

    #[test]
    fn a_socket_whose_close_was_lost_ends_after_three_looks() {
        let mut totals = ListenerTotals::default();
        settled(&mut totals, 1, 3, false);
        let mut ended = Vec::new();
        for _ in 0..LOOKS {
            totals.end_look(&mut ended);
        }
        assert!(ended.is_empty());
        totals.end_look(&mut ended);
        assert_eq!((ended.len(), ended[0].closed, ended[0].drops), (1, true, 0));
        assert_eq!(settled(&mut totals, 1, 5, false), 2, "it was only not shown");
    }

    #[test]
    fn totals_of_closed_sockets_are_bounded() {
        let mut totals = ListenerTotals::default();
        for cookie in 0..5_000 {
            settled(&mut totals, cookie, 1, true);
        }
        assert_eq!(totals.closed.len(), CLOSED);
    }
}
