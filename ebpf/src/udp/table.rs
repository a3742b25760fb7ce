//! Totals of each flow that have been given out.

use std::collections::HashMap;

use super::abi::{UdpFlow, UdpKey, UdpTotals};

/// A flow has been removed when this many scans have not shown it: a batch look-up can pass over an entry while others are
/// removed around it.
const SCANS: u32 = 3;

/// Changes of a flow since it was last shown. Signed: what a hook has counted at the queue is taken back if the queue had no
/// room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpDelta {
    /// Payload bytes.
    pub sent: i64,
    /// Payload bytes.
    pub received: i64,
    /// Datagrams.
    pub sent_datagrams: i64,
    /// Datagrams.
    pub received_datagrams: i64,
    /// Datagrams.
    pub dropped: i64,
    /// ICMP errors.
    pub errors: i64,
}

impl UdpDelta {
    fn between(before: &UdpTotals, now: &UdpTotals) -> Self {
        let since = |before: u64, now: u64| now.wrapping_sub(before).cast_signed();
        Self {
            sent: since(before.sent, now.sent),
            received: since(before.received, now.received),
            sent_datagrams: since(before.sent_datagrams, now.sent_datagrams),
            received_datagrams: since(before.received_datagrams, now.received_datagrams),
            dropped: since(before.dropped, now.dropped),
            errors: since(before.errors, now.errors),
        }
    }
}

/// A flow that moved, began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpChange {
    /// All that is known of it, with its totals.
    pub flow: UdpFlow,
    /// The increase of them.
    pub delta: UdpDelta,
    /// It is shown for the first time.
    pub opened: bool,
    /// It is shown for the last time.
    pub closed: bool,
    /// Because it was idle, not because its socket closed.
    pub idle: bool,
}

/// A flow: the socket's first one or another one, with its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Id {
    key: UdpKey,
    since_ns: u64,
    first: bool,
}

impl Id {
    const fn of(flow: &UdpFlow, first: bool) -> Self {
        Self {
            key: flow.key,
            since_ns: flow.since_ns,
            first,
        }
    }
}

#[derive(Debug)]
struct Given {
    totals: UdpTotals,
    scan: u32,
}

/// The flows, by what has been given out of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    flows: HashMap<Id, Given>,
    /// Sockets that closed with more than one flow, and when.
    closed: HashMap<u64, u64>,
    /// The sum of all that has been given out, of whichever flow.
    given: UdpTotals,
    scan: u32,
}

impl Table {
    pub(super) const fn given(&self) -> &UdpTotals {
        &self.given
    }

    pub(super) const fn begin_scan(&mut self) {
        self.scan = self.scan.wrapping_add(1);
    }

    /// Forgets what the scans no longer show. Sockets that closed before this scan have no flow left.
    pub(super) fn end_scan(&mut self) {
        let scan = self.scan;
        self.flows
            .retain(|_, given| scan.wrapping_sub(given.scan) < SCANS);
        self.closed.clear();
    }

    /// Returns what `flow` has done since it was last given out; `None` if nothing.
    pub(super) fn update(&mut self, flow: &UdpFlow, first: bool) -> Option<UdpChange> {
        let mut opened = false;
        let scan = self.scan;
        let given = self.flows.entry(Id::of(flow, first)).or_insert_with(|| {
            opened = true;
            Given {
                totals: UdpTotals::default(),
                scan,
            }
        });
        given.scan = scan;
        let delta = UdpDelta::between(&given.totals, &flow.totals);
        if delta == UdpDelta::default() && !opened {
            return None;
        }
        let before = given.totals;
        given.totals = flow.totals;
        self.given = self.given.plus(&flow.totals).minus(&before);
        Some(UdpChange {
            flow: *flow,
            delta,
            opened,
            closed: false,
            idle: false,
        })
    }

    /// The last of `flow`, which was idle.
    pub(super) fn expire(&mut self, flow: &UdpFlow, first: bool) -> UdpChange {
        UdpChange {
            idle: true,
            ..self.close(flow, first)
        }
    }

    /// The last of `flow`, whose socket closed.
    pub(super) fn close(&mut self, flow: &UdpFlow, first: bool) -> UdpChange {
        if first && flow.has_more != 0 {
            self.closed.insert(flow.key.socket, flow.last_ns);
        }
        let given = self.flows.remove(&Id::of(flow, first));
        let before = given.as_ref().map(|given| given.totals).unwrap_or_default();
        self.given = self.given.plus(&flow.totals).minus(&before);
        UdpChange {
            flow: *flow,
            delta: UdpDelta::between(&before, &flow.totals),
            opened: given.is_none(),
            closed: true,
            idle: false,
        }
    }

    /// Whether the socket has closed since this flow of it began. Another one may have its number by now.
    pub(super) fn is_closed(&self, flow: &UdpFlow) -> bool {
        let closed = self.closed.get(&flow.key.socket);
        closed.is_some_and(|&closed_ns| flow.since_ns <= closed_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(socket: u64, since_ns: u64, sent: u64) -> UdpFlow {
        UdpFlow {
            key: UdpKey {
                socket,
                ..UdpKey::default()
            },
            totals: UdpTotals {
                sent,
                ..UdpTotals::default()
            },
            since_ns,
            last_ns: since_ns,
            ..UdpFlow::default()
        }
    }

    #[test]
    fn differences_add_up_to_the_totals_whatever_shows_them_first() {
        let mut table = Table::default();
        let mut sum = 0;
        table.begin_scan();
        for total in [10, 10, 25] {
            let change = table.update(&flow(1, 7, total), true);
            sum += change.map_or(0, |change| change.delta.sent);
        }
        let last = table.close(&flow(1, 7, 40), true);
        sum += last.delta.sent;
        assert!(last.closed && !last.opened && !last.idle);
        assert_eq!((sum, table.given().sent), (40, 40));
    }

    #[test]
    fn a_number_that_is_used_again_begins_at_zero() {
        let mut table = Table::default();
        table.begin_scan();
        table.update(&flow(1, 7, 100), true);
        let next = table.update(&flow(1, 9, 30), true).expect("another flow");
        assert_eq!((next.delta.sent, next.opened), (30, true));
    }

    #[test]
    fn a_flow_of_a_socket_that_closed_before_it_began_is_another_sockets() {
        let mut table = Table::default();
        let mut first = flow(1, 7, 0);
        (first.has_more, first.last_ns) = (1, 50);
        table.close(&first, true);
        assert!(table.is_closed(&flow(1, 20, 0)));
        assert!(!table.is_closed(&flow(1, 60, 0)));
        assert!(!table.is_closed(&flow(2, 20, 0)));
    }

    #[test]
    fn a_flow_that_was_idle_ends_with_what_was_not_given_out_and_begins_anew() {
        let mut table = Table::default();
        table.begin_scan();
        table.update(&flow(1, 7, 10), false);
        let last = table.expire(&flow(1, 7, 12), false);
        assert!(last.closed && last.idle && !last.opened);
        assert_eq!(last.delta.sent, 2);
        let next = table.update(&flow(1, 7, 12), false).expect("another flow");
        assert!(next.opened && !next.closed);
    }

    #[test]
    fn flows_that_are_gone_are_forgotten() {
        let mut table = Table::default();
        table.begin_scan();
        table.update(&flow(1, 7, 1), true);
        for _ in 0..=SCANS {
            table.begin_scan();
            table.end_scan();
        }
        assert!(table.flows.is_empty());
    }
}
