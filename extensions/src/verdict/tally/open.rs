//! Open connections with something queued: the time in which nothing got through.

use flowtap_pipeline::{Events, Queues, TcpRecord};

/// Time in time-outs, in µs, after which nothing gets through also on a path that has brought something after an earlier one: it takes
/// seven retransmissions, each after twice the time of the one before. Of a path that drops two segments of three, one connection in
/// seventeen is as silent.
const LONG_SILENCE_US: i64 = 20_000_000;

/// An open connection that has something queued.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    pub(super) queues: Queues,
    /// Whether its last record has time in a retransmission time-out.
    is_in_time_out: bool,
    /// Whether something was acknowledged after a time-out.
    has_recovered: bool,
    /// Time in time-outs since the peer has acknowledged anything, in µs.
    silent_us: i64,
    /// The part of it that is in the sums of this period.
    counted_us: i64,
    /// The part of this period that is not.
    pending_us: i64,
}

/// Change of the time in which nothing got through, in µs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stop {
    pub(super) unacknowledged_us: i64,
    pub(super) held_back_us: i64,
}

impl Open {
    /// Nothing of the connection is in the sums of the next period, which has no more time than passes in it.
    pub(super) const fn begin_period(&mut self) {
        self.counted_us = 0;
        self.pending_us = 0;
    }

    /// Takes the next record of the connection. One that is seen for the first time may have had bytes in flight before: it counts as if
    /// it had not, so that less was acknowledged of it than was in fact.
    pub(super) fn update(&mut self, record: &TcpRecord) -> Stop {
        let is_broken = record.failure != 0 || record.events.contains(Events::RESET);
        let in_flight = i64::from(self.queues.unacked) + record.sent_bytes;
        // Bytes in flight when a connection broke were not acknowledged; the queues of its last record are empty in any case.
        let is_acknowledged = !is_broken && in_flight > i64::from(record.queues.unacked);
        // TCP keeps a segment that this machine's own firewall dropped among those to send (`tcp_write_xmit()`): it is never in flight.
        let is_held_back = in_flight == 0 && record.queues.unacked == 0 && record.queues.unsent > 0;
        let unacknowledged_us = if is_acknowledged {
            self.has_recovered |= self.is_in_time_out;
            self.silent_us = 0;
            self.pending_us = 0;
            -std::mem::take(&mut self.counted_us)
        } else {
            self.silent_us += record.rto_us;
            self.pending_us += record.rto_us;
            // A path that has brought something after a time-out loses most, not all.
            let counts = !self.has_recovered || self.silent_us >= LONG_SILENCE_US;
            let added_us = if counts {
                std::mem::take(&mut self.pending_us)
            } else {
                0
            };
            self.counted_us += added_us;
            added_us
        };
        self.is_in_time_out = record.rto_us > 0 || self.silent_us > 0;
        self.queues = record.queues;
        Stop {
            unacknowledged_us,
            held_back_us: if is_held_back { record.time.network_us } else { 0 },
        }
    }
}
