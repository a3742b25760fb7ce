//! Counters of what has no log record.

use flowtap_pipeline::log::Datagrams;
use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{BuildContext, TcpRecord, UdpRecord};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Gauge;

use super::loss::LossReason;
use super::tracker::Connection;
use super::udp::UdpFlow;

#[derive(Debug)]
pub(super) struct Telemetry {
    dropped: ProcessorTelemetry,
    tracked: Gauge<u64>,
    tracked_udp: Gauge<u64>,
    pipeline: KeyValue,
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext) -> Self {
        Self {
            dropped: ProcessorTelemetry::new(
                &context.meter,
                &context.id,
                &context.pipeline,
                &LossReason::ALL,
            ),
            tracked: context
                .meter
                .u64_gauge("processor_tracked_connections")
                .with_description("Open connections that an aggregator follows one by one.")
                .with_unit("{connection}")
                .build(),
            tracked_udp: context
                .meter
                .u64_gauge("processor_tracked_udp_flows")
                .with_description("UDP flows that an aggregator follows one by one.")
                .with_unit("{flow}")
                .build(),
            pipeline: KeyValue::new("pipeline", context.pipeline.to_string()),
        }
    }

    /// Counts the changes in `record`, which no log record will have.
    pub(super) fn lost(&self, record: &TcpRecord, reason: LossReason) {
        let bytes = [record.sent_bytes, record.received_bytes];
        let bytes = bytes.into_iter().map(|bytes| bytes.max(0).unsigned_abs()).sum();
        self.dropped.dropped(1, bytes, reason.as_str());
    }

    /// Counts the changes that `connection` has not reported, and that no log record will have.
    pub(super) fn left_out(&self, connection: &Connection, reason: LossReason) {
        self.dropped
            .dropped(1, connection.unreported().payload(), reason.as_str());
    }

    /// Counts the changes in `record`, which no log record will have.
    pub(super) fn lost_udp(&self, record: &UdpRecord, reason: LossReason) {
        let bytes = Datagrams::from(record).payload();
        self.dropped.dropped(1, bytes, reason.as_str());
    }

    /// Counts the changes that `flow` has not reported, and that no log record will have.
    pub(super) fn udp_left_out(&self, flow: &UdpFlow, reason: LossReason) {
        self.dropped
            .dropped(1, flow.unreported().payload(), reason.as_str());
    }

    /// Counts an event other than of a connection that no log record will have.
    pub(super) fn event_left_out(&self, reason: LossReason) {
        self.dropped.dropped(1, 0, reason.as_str());
    }

    pub(super) fn tracked(&self, connections: usize, udp_flows: usize) {
        let pipeline = std::slice::from_ref(&self.pipeline);
        self.tracked.record(connections as u64, pipeline);
        self.tracked_udp.record(udp_flows as u64, pipeline);
    }
}
