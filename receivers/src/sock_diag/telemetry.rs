//! Instruments of the receiver.

use flowtap_pipeline::BuildContext;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// Why the last difference of a connection is not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossReason {
    /// The kernel's receive buffer was full.
    ReceiveBufferFull,
    /// Too many waited for the receiver.
    ChannelFull,
    /// The kernel had cleared the counters: the connection was aborted (`SO_LINGER` of 0), disconnected (`AF_UNSPEC`), of an MPTCP socket,
    /// whose subflows the kernel disconnects, or never accepted.
    CountersCleared,
    /// It closed at about the time that closes were dropped, so it may have been counted.
    Ambiguous,
}

impl LossReason {
    const ALL: [Self; 4] = [
        Self::ReceiveBufferFull,
        Self::ChannelFull,
        Self::CountersCleared,
        Self::Ambiguous,
    ];

    const fn reason(self) -> &'static str {
        match self {
            Self::ReceiveBufferFull => "receive_buffer_full",
            Self::ChannelFull => "channel_full",
            Self::CountersCleared => "counters_cleared",
            Self::Ambiguous => "ambiguous_close",
        }
    }
}

/// The counters.
#[derive(Debug)]
pub(super) struct Telemetry {
    refused: Counter<u64>,
    dump_failures: Counter<u64>,
    receiver: KeyValue,
}

impl Telemetry {
    /// Counters of the receiver that is being built. They begin at 0 rather than absent, so that an alert on them works from
    /// the start.
    pub(super) fn new(context: &BuildContext) -> Self {
        let meter = &context.meter;
        let telemetry = Self {
            refused: meter
                .u64_counter("receiver_refused_records")
                .with_description("Records that the kernel could not report, by reason.")
                .with_unit("{record}")
                .build(),
            dump_failures: meter
                .u64_counter("receiver_scan_failures")
                .with_description("Scans that were cut short; the next one makes up for each.")
                .with_unit("{scan}")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
        };
        for refused in LossReason::ALL {
            telemetry.refused(refused, 0);
        }
        telemetry
            .dump_failures
            .add(0, std::slice::from_ref(&telemetry.receiver));
        telemetry
    }

    pub(super) fn refused(&self, why: LossReason, count: u64) {
        self.refused.add(
            count,
            &[self.receiver.clone(), KeyValue::new("reason", why.reason())],
        );
    }

    pub(super) fn dump_failed(&self) {
        self.dump_failures.add(1, std::slice::from_ref(&self.receiver));
    }
}
