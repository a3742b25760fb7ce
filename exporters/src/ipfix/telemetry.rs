//! Counters of what has no flow record, or one that differs from what was measured.

use flowtap_pipeline::BuildContext;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::message::Part;

/// Why a log record is left out: IPFIX has no elements for it.
const UNSUPPORTED: &str = "unsupported";

#[derive(Clone, Debug)]
pub(super) struct Telemetry {
    dropped: Counter<u64>,
    excess: Counter<u64>,
    refused: Counter<u64>,
    unacknowledged: Counter<u64>,
    exporter: [KeyValue; 1],
    dropped_attributes: [KeyValue; 2],
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext) -> Self {
        let exporter = KeyValue::new("exporter", context.id.to_string());
        let telemetry = Self {
            dropped: context
                .meter
                .u64_counter("exporter_dropped_log_records")
                .with_description("Log records that an exporter left out, by reason.")
                .with_unit("{record}")
                .build(),
            excess: context
                .meter
                .u64_counter("exporter_excess")
                .with_description(
                    "Payload bytes by which exported flows exceed what was measured, because their format has no negative counts.",
                )
                .with_unit("By")
                .build(),
            refused: context
                .meter
                .u64_counter("exporter_refused_datagrams")
                .with_description("ICMP port-unreachable errors received by an exporter.")
                .with_unit("{datagram}")
                .build(),
            unacknowledged: context
                .meter
                .u64_counter("exporter_unacknowledged_log_records")
                .with_description("Log records that were sent over a stream and not acknowledged before the exporter stopped.")
                .with_unit("{record}")
                .build(),
            dropped_attributes: [exporter.clone(), KeyValue::new("reason", UNSUPPORTED)],
            exporter: [exporter],
        };
        telemetry.count(0, 0);
        telemetry.refused.add(0, &telemetry.exporter);
        telemetry.unacknowledged(0);
        telemetry
    }

    /// Counts what `part` leaves out.
    pub(super) fn left_out(&self, part: &Part) {
        if part.unsupported > 0 || part.excess_bytes > 0 {
            self.count(part.unsupported, part.excess_bytes);
        }
    }

    fn count(&self, unsupported: u64, excess_bytes: u64) {
        self.dropped.add(unsupported, &self.dropped_attributes);
        self.excess.add(excess_bytes, &self.exporter);
    }

    /// Counts a refusal: at least one datagram before it has not arrived.
    pub(super) fn refused(&self) {
        self.refused.add(1, &self.exporter);
    }

    /// Counts records that may be lost.
    pub(super) fn unacknowledged(&self, records: u64) {
        self.unacknowledged.add(records, &self.exporter);
    }
}
