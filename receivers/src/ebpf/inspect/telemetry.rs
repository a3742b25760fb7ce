//! Own metrics of the option `inspect`: how much of the time it is at work, what that costs, and what it could not keep.

use std::time::Duration;

use flowtap_ebpf::abi::InspectSeen;
use flowtap_pipeline::BuildContext;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

use super::table::{Closed, Rejected};

#[derive(Debug)]
pub(super) struct Telemetry {
    ratio: Gauge<f64>,
    time: Counter<f64>,
    cpu_time: Counter<f64>,
    connections: Counter<u64>,
    lost: Counter<u64>,
    tracked: Gauge<u64>,
    receiver: KeyValue,
    counts_connections: bool,
    seen: InspectSeen,
    missed: u64,
    malformed: u64,
    rejected: Rejected,
    closed: Closed,
    /// Time since the gauge was set, and the part of it in which the programs were attached.
    elapsed: Duration,
    attached: Duration,
}

/// Time after which the gauge is set anew.
const RATIO_OVER: Duration = Duration::from_secs(10);

impl Telemetry {
    pub(super) fn new(context: &BuildContext, counts_connections: bool) -> Self {
        let meter = &context.meter;
        let telemetry = Self {
            ratio: meter
                .f64_gauge("receiver_inspect_ratio")
                .with_description("Share of the last ten seconds in which the programs of `inspect` were attached: below 1 where their budget is spent.")
                .build(),
            time: meter
                .f64_counter("receiver_inspect_time")
                .with_description("Time in which the programs of `inspect` were attached or detached, by state.")
                .with_unit("s")
                .build(),
            cpu_time: meter
                .f64_counter("receiver_inspect_cpu_time")
                .with_description("CPU time that `inspect` has taken, as its budget counts it: of the programs, by timed samples, and of reading what they report.")
                .with_unit("s")
                .build(),
            connections: meter
                .u64_counter("receiver_inspect_connections")
                .with_description("Closed TCP connections by result of `inspect`: recognized, unrecognized, or unseen.")
                .with_unit("{connection}")
                .build(),
            lost: meter
                .u64_counter("receiver_inspect_lost")
                .with_description("Events that `inspect` could not keep or report, by reason.")
                .with_unit("{event}")
                .build(),
            tracked: meter
                .u64_gauge("receiver_inspect_tracked_connections")
                .with_description("TCP connections that `inspect` follows.")
                .with_unit("{connection}")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
            counts_connections,
            seen: InspectSeen::default(),
            missed: 0,
            malformed: 0,
            rejected: Rejected::default(),
            closed: Closed::default(),
            elapsed: Duration::ZERO,
            attached: Duration::ZERO,
        };
        // From the start, so that alerts on increases work.
        telemetry.add_lost(&InspectSeen::default(), 0, 0, &Rejected::default());
        telemetry.add_closed(&Closed::default());
        telemetry.record_ratio(1.0);
        telemetry
    }

    fn record_ratio(&self, ratio: f64) {
        self.ratio.record(ratio, std::slice::from_ref(&self.receiver));
    }

    /// The programs are gone.
    pub(super) fn end(&self) {
        self.record_ratio(0.0);
        self.tracked.record(0, std::slice::from_ref(&self.receiver));
    }

    /// After `elapsed` in one state.
    pub(super) fn add_time(&mut self, elapsed: Duration, was_attached: bool, cost: Duration) {
        let state = if was_attached { "attached" } else { "detached" };
        let labels = [self.receiver.clone(), KeyValue::new("state", state)];
        self.time.add(elapsed.as_secs_f64(), &labels);
        self.cpu_time
            .add(cost.as_secs_f64(), std::slice::from_ref(&self.receiver));
        self.elapsed += elapsed;
        if was_attached {
            self.attached += elapsed;
        }
        if self.elapsed >= RATIO_OVER {
            self.record_ratio(self.attached.as_secs_f64() / self.elapsed.as_secs_f64());
            (self.elapsed, self.attached) = (Duration::ZERO, Duration::ZERO);
        }
    }

    /// Counts what was added to the running totals since the last call.
    pub(super) fn update(
        &mut self,
        seen: &InspectSeen,
        missed: u64,
        malformed: u64,
        rejected: Rejected,
        closed: Closed,
        tracked: usize,
    ) {
        let before = std::mem::replace(&mut self.seen, *seen);
        let added = InspectSeen {
            exchanges_lost: seen.exchanges_lost.saturating_sub(before.exchanges_lost),
            first_bytes_lost: seen.first_bytes_lost.saturating_sub(before.first_bytes_lost),
            untracked: seen.untracked.saturating_sub(before.untracked),
            unknown_roles: seen.unknown_roles.saturating_sub(before.unknown_roles),
            exchanges_untimed: seen.exchanges_untimed.saturating_sub(before.exchanges_untimed),
            exchanges_too_long: seen.exchanges_too_long.saturating_sub(before.exchanges_too_long),
            translations_lost: seen.translations_lost.saturating_sub(before.translations_lost),
            ..InspectSeen::default()
        };
        let new_rejected = Rejected {
            connections: rejected.connections - self.rejected.connections,
            settled_early: rejected.settled_early - self.rejected.settled_early,
            exchanges: rejected.exchanges - self.rejected.exchanges,
            openings: rejected.openings - self.rejected.openings,
            handshakes: rejected.handshakes - self.rejected.handshakes,
            invalid_names: rejected.invalid_names - self.rejected.invalid_names,
            folded_names: rejected.folded_names - self.rejected.folded_names,
        };
        let new_closed = Closed {
            recognized: closed.recognized - self.closed.recognized,
            unrecognized: closed.unrecognized - self.closed.unrecognized,
            unseen: closed.unseen - self.closed.unseen,
        };
        self.add_lost(
            &added,
            missed.saturating_sub(self.missed),
            malformed.saturating_sub(self.malformed),
            &new_rejected,
        );
        self.add_closed(&new_closed);
        self.tracked
            .record(tracked as u64, std::slice::from_ref(&self.receiver));
        (self.missed, self.malformed) = (missed, malformed);
        (self.rejected, self.closed) = (rejected, closed);
    }

    fn add_lost(&self, seen: &InspectSeen, missed: u64, malformed: u64, rejected: &Rejected) {
        let reasons = [
            ("exchange_ring_full", seen.exchanges_lost),
            ("first_bytes_buffer_full", seen.first_bytes_lost),
            ("no_storage", seen.untracked),
            ("unknown_role", seen.unknown_roles),
            ("exchange_untimed", seen.exchanges_untimed),
            ("exchange_too_long", seen.exchanges_too_long),
            ("translation_ring_full", seen.translations_lost),
            ("program_missed", missed),
            ("malformed_record", malformed),
            ("too_many_connections", rejected.connections),
            ("settled_early", rejected.settled_early),
            ("exchange_without_record", rejected.exchanges),
            ("opening_unseen", rejected.openings),
            ("tls_handshake", rejected.handshakes),
            ("invalid_name", rejected.invalid_names),
            ("folded_name", rejected.folded_names),
        ];
        for (reason, count) in reasons {
            let labels = [self.receiver.clone(), KeyValue::new("reason", reason)];
            self.lost.add(count, &labels);
        }
    }

    fn add_closed(&self, closed: &Closed) {
        if !self.counts_connections {
            return;
        }
        let results = [
            ("recognized", closed.recognized),
            ("unrecognized", closed.unrecognized),
            ("unseen", closed.unseen),
        ];
        for (result, count) in results {
            let labels = [self.receiver.clone(), KeyValue::new("result", result)];
            self.connections.add(count, &labels);
        }
    }
}
