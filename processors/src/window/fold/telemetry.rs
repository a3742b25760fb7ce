//! The metrics of the window itself.

use flowtap_pipeline::BuildContext;
use flowtap_pipeline::catalog::{Definition, FAMILIES};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

use super::super::readings::Rejection;

/// Gauges of the store's size.
#[derive(Debug)]
pub(super) struct Telemetry {
    live: Gauge<u64>,
    /// Families that `live` was recorded for, which must also be reported when they fall to 0.
    recorded: [bool; FAMILIES.len()],
    folded: Counter<u64>,
    outranked: Counter<u64>,
    connections: Gauge<u64>,
    untracked: Counter<u64>,
    unqueued: Counter<u64>,
    uncounted_connects: Counter<u64>,
    unsized_connections: Counter<u64>,
    rejected_readings: Counter<u64>,
    pipeline: KeyValue,
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext) -> Self {
        let counter = |name, description, unit| {
            let counter = context.meter.u64_counter(name);
            counter.with_description(description).with_unit(unit).build()
        };
        let gauge = |name, description, unit| {
            let gauge = context.meter.u64_gauge(name);
            gauge.with_description(description).with_unit(unit).build()
        };
        let telemetry = Self {
            live: gauge(
                "processor_live_series",
                "Series that a window holds, by family.",
                "{series}",
            ),
            recorded: [false; FAMILIES.len()],
            folded: counter(
                "processor_folded_records",
                "Changes folded into a series `other` because their family is at `max_series`.",
                "{record}",
            ),
            outranked: counter(
                "processor_outranked_series",
                "Series whose changes of a window went to `other`, as others rank above them (`top`); each counts once per window.",
                "{series}",
            ),
            connections: gauge(
                "processor_tracked_connections",
                "Open connections that an aggregator follows one by one.",
                "{connection}",
            ),
            untracked: counter(
                "processor_untracked_connections",
                "Open connections beyond those that a window can follow one by one, and counts by series alone.",
                "{connection}",
            ),
            unqueued: counter(
                "processor_unqueued_records",
                "Records of connections with queued bytes beyond those that a window can follow one by one; the gauge of \
                     queued bytes lacks theirs.",
                "{record}",
            ),
            uncounted_connects: counter(
                "processor_uncounted_connecting_records",
                "Records of connects that wait for an answer beyond those that a window can follow one by one; the gauges of \
                     these lack theirs.",
                "{record}",
            ),
            unsized_connections: counter(
                "processor_unsized_connections",
                "Connections that closed and are not in the histogram of connection sizes, because not all of their bytes were \
                     followed.",
                "{connection}",
            ),
            rejected_readings: counter(
                "processor_rejected_readings",
                "Readings of devices that no series could take, by reason.",
                "{record}",
            ),
            pipeline: KeyValue::new("pipeline", context.pipeline.to_string()),
        };
        for reason in Rejection::ALL {
            telemetry.reject_reading(reason, 0);
        }
        let counters = [
            &telemetry.untracked,
            &telemetry.unqueued,
            &telemetry.uncounted_connects,
            &telemetry.unsized_connections,
        ];
        for counter in counters {
            counter.add(0, std::slice::from_ref(&telemetry.pipeline));
        }
        for family in &FAMILIES {
            telemetry.folded.add(0, &telemetry.labels(family));
            telemetry.outranked.add(0, &telemetry.labels(family));
        }
        telemetry
    }

    fn labels(&self, family: &Definition) -> [KeyValue; 2] {
        [self.pipeline.clone(), KeyValue::new("family", family.family.name)]
    }

    /// Records how many series each family has, and counts what went into a series `other`.
    pub(super) fn record_series(&mut self, live: impl Fn(usize) -> u64, folded: &[[u64; FAMILIES.len()]; 2]) {
        for (family, definition) in FAMILIES.iter().enumerate() {
            let live = live(family);
            self.recorded[family] |= live > 0;
            if self.recorded[family] {
                self.live.record(live, &self.labels(definition));
            }
            let folded = folded.iter().map(|by_family| by_family[family]).sum();
            if folded > 0 {
                self.folded.add(folded, &self.labels(definition));
            }
        }
    }

    /// Counts series whose changes went to a series `other` by their rank.
    pub(super) fn record_outranked(&self, outranked: &[[u64; FAMILIES.len()]; 2]) {
        for (family, definition) in FAMILIES.iter().enumerate() {
            let outranked = outranked.iter().map(|by_family| by_family[family]).sum();
            if outranked > 0 {
                self.outranked.add(outranked, &self.labels(definition));
            }
        }
    }

    pub(super) fn record_connections(&self, tracked: u64) {
        self.connections
            .record(tracked, std::slice::from_ref(&self.pipeline));
    }

    pub(super) fn untracked(&self) {
        self.untracked.add(1, std::slice::from_ref(&self.pipeline));
    }

    pub(super) fn unsized_connection(&self) {
        self.unsized_connections
            .add(1, std::slice::from_ref(&self.pipeline));
    }

    pub(super) fn reject_reading(&self, reason: Rejection, count: u64) {
        let reason = KeyValue::new("reason", reason.as_str());
        self.rejected_readings
            .add(count, &[self.pipeline.clone(), reason]);
    }

    pub(super) fn unqueued(&self) {
        self.unqueued.add(1, std::slice::from_ref(&self.pipeline));
    }

    pub(super) fn uncounted_connect(&self) {
        self.uncounted_connects
            .add(1, std::slice::from_ref(&self.pipeline));
    }
}
