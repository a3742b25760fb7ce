//! Evidence from a record, and evidence of two periods as one.

use flowtap_pipeline::{Events, Flow, FlowKind, ResetBy, TcpRecord};

use super::open::Stop;
use crate::verdict::evidence::{Answers, Evidence};

impl Evidence {
    /// Adds the measurements of `record`. Differences can be negative, and only their sum counts.
    pub(crate) fn add(&mut self, record: &TcpRecord, longest: i64) {
        let count = |sum: &mut u64, difference: i64| *sum = sum.saturating_add_signed(difference);
        let shares = &mut self.shares;
        shares.network += seconds(record.time.network_us);
        shares.answer += seconds(record.time.answer_us);
        shares.receiver += seconds(record.time.receiver_us);
        shares.buffer += seconds(record.time.buffer_us);
        let limited = record.time.total_us().saturating_sub(record.time.application_us);
        let idle = longest.saturating_sub(limited).max(0);
        shares.application += seconds(record.time.application_us.min(idle));
        self.rto += seconds(record.rto_us);
        count(&mut self.sent_bytes, record.sent_bytes);
        count(&mut self.received_bytes, record.received_bytes);
        if is_own(&record.flow) {
            count(&mut self.received_here, record.received_bytes);
        }
        count(&mut self.sent_segments, record.sent_segments);
        count(&mut self.retransmits, record.retransmits);
        self.syn_retransmits += u64::from(record.syn_retransmits);
        self.take_min_rtt(record.min_rtt_us);
        // Where this machine serves, the answers are its own.
        let is_server = record.flow.kind == Some(FlowKind::Ingress);
        if let Some(exchanges) = record.exchanges.as_deref().filter(|_| !is_server) {
            self.answers.add(Answers {
                count: exchanges.count() as u64,
                seconds: exchanges.sum_us() as f64 / 1e6,
            });
        }
        if record.events.contains(Events::OPENED) {
            self.opened += 1;
        }
        if is_failed_connect(record) {
            self.add_failure(record);
        }
        match record.reset_by {
            ResetBy::Local => self.reset_by_local += 1,
            ResetBy::Remote => self.reset_by_peer += 1,
            ResetBy::Unknown => {}
        }
    }

    /// Adds time in which nothing got through.
    pub(super) fn add_stop(&mut self, stop: Stop) {
        self.unacknowledged += seconds(stop.unacknowledged_us);
        self.held_back += seconds(stop.held_back_us);
    }

    fn take_min_rtt(&mut self, min_rtt_us: u32) {
        if min_rtt_us > 0 && (self.min_rtt_us == 0 || min_rtt_us < self.min_rtt_us) {
            self.min_rtt_us = min_rtt_us;
        }
    }

    /// By the errno (`include/uapi/asm-generic/errno.h`).
    fn add_failure(&mut self, record: &TcpRecord) {
        let failed = &mut self.failed;
        match record.failure {
            111 => failed.refused += 1,
            // Given up by the application, after a SYN was retransmitted.
            0 | 110 => {
                failed.no_answer += 1;
                self.dropped_connects += u64::from(is_own(&record.flow));
            }
            100 | 101 | 112 | 113 => failed.unreachable += 1,
            99 => failed.no_local_port += 1,
            _ => failed.other += 1,
        }
    }

    /// Adds what was measured before. Queues are not increases, and stay as they are.
    pub(crate) fn merge(&mut self, before: &Self) {
        self.shares.add(&before.shares);
        self.rto += before.rto;
        self.unacknowledged += before.unacknowledged;
        self.held_back += before.held_back;
        self.sent_bytes += before.sent_bytes;
        self.received_bytes += before.received_bytes;
        self.received_here += before.received_here;
        self.sent_segments += before.sent_segments;
        self.retransmits += before.retransmits;
        self.syn_retransmits += before.syn_retransmits;
        self.take_min_rtt(before.min_rtt_us);
        self.opened += before.opened;
        let (failed, theirs) = (&mut self.failed, &before.failed);
        failed.refused += theirs.refused;
        failed.no_answer += theirs.no_answer;
        failed.unreachable += theirs.unreachable;
        failed.no_local_port += theirs.no_local_port;
        failed.other += theirs.other;
        self.dropped_connects += before.dropped_connects;
        self.reset_by_local += before.reset_by_local;
        self.reset_by_peer += before.reset_by_peer;
        self.answers.add(before.answers);
        self.listening.add_drops(&before.listening);
        self.listening.rank();
    }
}

/// Whether `record` is of a connect that failed: not of one that the application gave up at once, before the time-out of its SYN.
pub(crate) fn is_failed_connect(record: &TcpRecord) -> bool {
    record.events.contains(Events::FAILED) && (record.failure != 0 || record.is_unanswered())
}

/// Whether both ends are in the same network namespace: Linux connects to an address of its own from that address, or from another one
/// of the loopback device.
pub(super) fn is_own(flow: &Flow) -> bool {
    flow.local.addr == flow.remote.addr || flow.remote.addr.is_loopback()
}

fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}
