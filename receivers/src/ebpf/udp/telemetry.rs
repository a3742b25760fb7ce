//! Own metrics of UDP: the step in use, and what was not counted by peer.

use std::collections::HashMap;

use flowtap_ebpf::udp::abi::{UdpSeen, UdpTotals};
use flowtap_ebpf::{ProgramMisses, Step};
use flowtap_pipeline::BuildContext;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

/// The label value where no step works.
const NO_STEP: &str = "none";

/// Programs that count datagrams. A skipped run is at most one that was passed over: the kernel's functions and tracepoints are shared with
/// raw sockets, and those of lengths with TCP, which the program would have left out.
const COUNTING: [&str; 8] = [
    "sent4",
    "sent6",
    "taken",
    "sent4_probe",
    "sent6_probe",
    "taken_probe",
    "length_sent",
    "length_received",
];

fn step_gauge(context: &BuildContext) -> Gauge<u64> {
    let gauge = context.meter.u64_gauge("receiver_udp_step");
    let description = "1 for the step by which UDP is measured, the way its programs are attached; 1 for `none` where UDP is wanted and no \
                       step works.";
    gauge.with_description(description).build()
}

/// Shows whether UDP is wanted and not measured, for a receiver without programs for UDP.
pub(super) fn record_unmeasured(context: &BuildContext, is_wanted: bool) {
    let receiver = KeyValue::new("receiver", context.id.to_string());
    step_gauge(context).record(u64::from(is_wanted), &[receiver, KeyValue::new("step", NO_STEP)]);
}

#[derive(Debug)]
pub(super) struct Telemetry {
    step: Gauge<u64>,
    unplaced: Counter<u64>,
    lost: Counter<u64>,
    records: Counter<u64>,
    receiver: KeyValue,
    reported: UdpSeen,
    reported_misses: HashMap<&'static str, u64>,
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext) -> Self {
        let meter = &context.meter;
        Self {
            step: step_gauge(context),
            unplaced: meter
                .u64_counter("receiver_udp_unplaced")
                .with_description(
                    "UDP datagrams that were counted without peer, in series `other`, because a table or a ring was full.",
                )
                .with_unit("{datagram}")
                .build(),
            lost: meter
                .u64_counter("receiver_udp_lost")
                .with_description("UDP datagrams that are in no series, by reason.")
                .with_unit("{datagram}")
                .build(),
            records: meter
                .u64_counter("receiver_refused_records")
                .with_description("Records that the kernel side could not report, by reason.")
                .with_unit("{record}")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
            reported: UdpSeen::default(),
            reported_misses: HashMap::new(),
        }
    }

    /// Shows the step, and counters at 0, so that alerts on them work from the start.
    pub(super) fn begin(&self, step: Step) {
        let labels = [self.receiver.clone(), KeyValue::new("step", step.as_str())];
        self.step.record(1, &labels);
        let none = [self.receiver.clone(), KeyValue::new("step", NO_STEP)];
        self.step.record(0, &none);
        self.add_unplaced(&UdpTotals::default());
        self.add_losses(0, &UdpSeen::default());
    }

    /// The step is in use no longer.
    pub(super) fn end(&self, step: Step) {
        let labels = [self.receiver.clone(), KeyValue::new("step", step.as_str())];
        self.step.record(0, &labels);
    }

    pub(super) fn add_unplaced(&self, new: &UdpTotals) {
        let by_direction = [
            ("outbound", new.sent_datagrams),
            ("inbound", new.received_datagrams),
        ];
        for (direction, datagrams) in by_direction {
            let labels = [self.receiver.clone(), KeyValue::new("direction", direction)];
            self.unplaced.add(datagrams, &labels);
        }
    }

    /// Counts what was added to the kernel side's totals since the last call.
    pub(super) fn update(&mut self, seen: &UdpSeen, misses: &[ProgramMisses]) {
        let before = std::mem::replace(&mut self.reported, *seen);
        let added = UdpSeen {
            closed_lost: seen.closed_lost.saturating_sub(before.closed_lost),
            dns_lost: seen.dns_lost.saturating_sub(before.dns_lost),
            dns_unread: seen.dns_unread.saturating_sub(before.dns_unread),
            unparsed: seen.unparsed.saturating_sub(before.unparsed),
            ..UdpSeen::default()
        };
        let mut passed_over = 0;
        for ProgramMisses { program, misses } in misses {
            let known = self.reported_misses.insert(program, *misses).unwrap_or(0);
            if COUNTING.contains(program) {
                passed_over += misses.saturating_sub(known);
            }
        }
        if passed_over > 0 {
            tracing::warn!(
                datagrams = passed_over,
                "the kernel passed over programs of UDP, because a thread was preempted inside one of them, or inside bpf(2); these \
                 datagrams are in no series\n  \
                 hint: use a kernel that does not preempt (preempt=none or preempt=voluntary), which misses none"
            );
        }
        self.add_losses(passed_over, &added);
    }

    fn add_losses(&self, passed_over: u64, added: &UdpSeen) {
        for (reason, count) in [("passed_over", passed_over), ("unparsed", added.unparsed)] {
            self.lost
                .add(count, &[self.receiver.clone(), KeyValue::new("reason", reason)]);
        }
        let records = [
            ("udp_ring_full", added.closed_lost),
            ("dns_ring_full", added.dns_lost),
            ("dns_payload_in_pages", added.dns_unread),
        ];
        for (reason, count) in records {
            self.records
                .add(count, &[self.receiver.clone(), KeyValue::new("reason", reason)]);
        }
    }
}
