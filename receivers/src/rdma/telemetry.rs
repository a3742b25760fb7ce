//! Instruments of the receiver.

use flowtap_pipeline::BuildContext;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// Why a value was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// The driver returned an error.
    Unreadable,
    /// The driver says that it does not have it.
    NotAvailable,
    /// The text is not what it should be.
    Malformed,
    /// More than the counter can have counted.
    Implausible,
    /// More counters or devices than the receiver follows.
    TooMany,
}

impl Unread {
    const ALL: [Self; 5] = [
        Self::Unreadable,
        Self::NotAvailable,
        Self::Malformed,
        Self::Implausible,
        Self::TooMany,
    ];

    const fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NotAvailable => "not_available",
            Self::Malformed => "malformed",
            Self::Implausible => "implausible",
            Self::TooMany => "too_many",
        }
    }
}

/// The counters. They begin at 0 rather than absent, so that an alert on them works from the start.
#[derive(Clone, Debug)]
pub(super) struct Telemetry {
    unread: Counter<u64>,
    resets: Counter<u64>,
    failures: Counter<u64>,
    missed: Counter<u64>,
    receiver: KeyValue,
}

impl Telemetry {
    pub(super) fn new(context: &BuildContext) -> Self {
        let meter = &context.meter;
        let telemetry = Self {
            unread: meter
                .u64_counter("receiver_unread_values")
                .with_description(
                    "Values of devices that could not be read, by reason; each counts once per interval.",
                )
                .with_unit("{value}")
                .build(),
            resets: meter
                .u64_counter("receiver_counter_resets")
                .with_description("Counters of devices that were reset; they count on from there.")
                .with_unit("{counter}")
                .build(),
            failures: meter
                .u64_counter("receiver_scan_failures")
                .with_description("Scans that were cut short; the next one makes up for each.")
                .with_unit("{scan}")
                .build(),
            missed: meter
                .u64_counter("receiver_missed_intervals")
                .with_description("Intervals that were left out because those before took too long.")
                .with_unit("{interval}")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
        };
        for unread in Unread::ALL {
            telemetry.unread(unread, 0);
        }
        for counter in [&telemetry.resets, &telemetry.failures, &telemetry.missed] {
            counter.add(0, std::slice::from_ref(&telemetry.receiver));
        }
        telemetry
    }

    pub(super) fn unread(&self, why: Unread, count: u64) {
        let reason = KeyValue::new("reason", why.reason());
        self.unread.add(count, &[self.receiver.clone(), reason]);
    }

    pub(super) fn reset(&self) {
        self.resets.add(1, std::slice::from_ref(&self.receiver));
    }

    pub(super) fn failed(&self) {
        self.failures.add(1, std::slice::from_ref(&self.receiver));
    }

    pub(super) fn missed(&self) {
        self.missed.add(1, std::slice::from_ref(&self.receiver));
    }
}
