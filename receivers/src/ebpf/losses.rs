//! Counters of what the kernel side could not hand on.

use flowtap_ebpf::Losses;
use flowtap_pipeline::BuildContext;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// Running totals of what was turned away at the channel of mode `events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChannelLosses {
    records: u64,
    sent: i64,
    received: i64,
}

impl ChannelLosses {
    /// Adds one record with its bytes.
    pub(super) const fn add(&mut self, sent: i64, received: i64) {
        self.records += 1;
        self.sent += sent;
        self.received += received;
    }
}

/// The counters, and what they stood at.
#[derive(Debug)]
pub(super) struct LossTelemetry {
    records: Counter<u64>,
    bytes: Counter<u64>,
    scan_failures: Counter<u64>,
    receiver: KeyValue,
    told: Losses,
    told_channel: ChannelLosses,
}

impl LossTelemetry {
    /// Counters of the receiver that is being built. They begin at 0 rather than absent, so that an alert on them
    /// works from the start.
    pub(super) fn new(context: &BuildContext) -> Self {
        let meter = &context.meter;
        let telemetry = Self {
            records: meter
                .u64_counter("receiver_refused_records")
                .with_description("Records that the kernel could not hand on, by reason.")
                .with_unit("{record}")
                .build(),
            bytes: meter
                // The bridge to Prometheus adds the unit to the name: `receiver_refused_bytes_total`.
                .u64_counter("receiver_refused")
                .with_description("Payload bytes that refused records would have told of, by direction.")
                .with_unit("By")
                .build(),
            scan_failures: meter
                .u64_counter("receiver_scan_failures")
                .with_description("Scans that were cut short; the next one makes up for each.")
                .with_unit("{scan}")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
            told: Losses::default(),
            told_channel: ChannelLosses::default(),
        };
        telemetry.add(&Losses::default());
        telemetry
            .scan_failures
            .add(0, std::slice::from_ref(&telemetry.receiver));
        telemetry
    }

    /// Counts what came on top since the last call. `losses` are the kernel side's running totals.
    pub(super) fn update(&mut self, losses: &Losses) {
        let told = std::mem::replace(&mut self.told, *losses);
        if told == *losses {
            return;
        }
        let new = Losses {
            flows: losses.flows.saturating_sub(told.flows),
            sent: losses.sent.saturating_sub(told.sent),
            received: losses.received.saturating_sub(told.received),
            listeners: losses.listeners.saturating_sub(told.listeners),
            untracked: losses.untracked.saturating_sub(told.untracked),
            segments: losses.segments.saturating_sub(told.segments),
            scan_writes: losses.scan_writes.saturating_sub(told.scan_writes),
        };
        self.add(&new);
        tracing::warn!(
            connections = new.flows,
            sent_bytes = new.sent,
            received_bytes = new.received,
            listeners = new.listeners,
            untracked = new.untracked,
            segments_put_off = new.segments,
            scan_writes = new.scan_writes,
            "the kernel could not hand everything on; a larger `ring_buffer_bytes` or shorter `interval` helps"
        );
    }

    /// Counts what was turned away at the channel since the last call.
    pub(super) fn update_channel(&mut self, lost: &ChannelLosses) {
        let told = std::mem::replace(&mut self.told_channel, *lost);
        let records = lost.records - told.records;
        if records == 0 {
            return;
        }
        let sent = u64::try_from(lost.sent - told.sent).unwrap_or(0);
        let received = u64::try_from(lost.received - told.received).unwrap_or(0);
        self.add_records("channel_full", records);
        self.add_bytes(sent, received);
        tracing::warn!(
            records,
            sent,
            received,
            "events were dropped at a full channel; see `channel_capacity`"
        );
    }

    /// Counts a scan that was cut short.
    pub(super) fn scan_failed(&self) {
        self.scan_failures.add(1, std::slice::from_ref(&self.receiver));
    }

    fn add(&self, new: &Losses) {
        let records = [
            ("ring_full", new.flows),
            ("ring_full_listener", new.listeners),
            ("no_kernel_memory", new.untracked),
            ("scan_write", new.scan_writes),
            ("segment_put_off", new.segments),
            ("channel_full", 0),
        ];
        for (reason, count) in records {
            self.add_records(reason, count);
        }
        self.add_bytes(new.sent, new.received);
    }

    fn add_records(&self, reason: &'static str, count: u64) {
        self.records
            .add(count, &[self.receiver.clone(), KeyValue::new("reason", reason)]);
    }

    fn add_bytes(&self, sent: u64, received: u64) {
        for (direction, count) in [("outbound", sent), ("inbound", received)] {
            self.bytes.add(
                count,
                &[self.receiver.clone(), KeyValue::new("direction", direction)],
            );
        }
    }
}
