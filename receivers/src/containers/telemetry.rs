//! Counters of cgroups that could not be resolved or watched.

use flowtap_pipeline::ComponentId;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};

/// Why a record has no container although its process may be in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// The cgroup was removed before it was seen, or is outside of what can be seen.
    Gone,
    /// Looking it up now would exceed the bound on look-ups; the next record of the cgroup may succeed.
    Limited,
    /// cgroup v1: the process has ended, or its id belongs to another process by now.
    NoProcess,
}

/// Why a cgroup can't be followed from its creation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// The kernel's or flowtap's own bound on watches.
    WatchLimit,
    /// The kernel's queue of events was full; the whole tree was read again.
    QueueOverflow,
    /// It was removed before it could be looked at.
    RemovedBefore,
    /// The ring of the programs was full; the whole tree was read again.
    RingFull,
    /// The table of cgroups is full.
    TableFull,
    /// Its directory can't be read or watched.
    Unreadable,
}

/// The counters.
#[derive(Debug)]
pub(super) struct Telemetry {
    unresolved: Counter<u64>,
    gaps: Counter<u64>,
    receiver: KeyValue,
}

impl Telemetry {
    /// Counters of the receiver `id`. They begin at 0 rather than absent, so that an alert on them works from the start.
    pub(super) fn new(meter: &Meter, id: &ComponentId) -> Self {
        let telemetry = Self {
            unresolved: meter
                .u64_counter("receiver_unresolved_cgroups")
                .with_description("Records whose cgroup could not be resolved to a path, by reason.")
                .with_unit("{record}")
                .build(),
            gaps: meter
                .u64_counter("receiver_cgroup_watch_gaps")
                .with_description("Cgroups that could not be followed from their creation on, by reason.")
                .with_unit("{cgroup}")
                .build(),
            receiver: KeyValue::new("receiver", id.to_string()),
        };
        for reason in [Unresolved::Gone, Unresolved::Limited, Unresolved::NoProcess] {
            telemetry.add_unresolved(reason, 0);
        }
        for reason in [
            Gap::WatchLimit,
            Gap::QueueOverflow,
            Gap::RemovedBefore,
            Gap::RingFull,
            Gap::TableFull,
            Gap::Unreadable,
        ] {
            telemetry.add_gap(reason, 0);
        }
        telemetry
    }

    /// Counts a record without a container.
    pub(super) fn unresolved(&self, reason: Unresolved) {
        self.add_unresolved(reason, 1);
    }

    /// Counts a cgroup that is not followed.
    pub(super) fn gap(&self, reason: Gap) {
        self.add_gap(reason, 1);
    }

    /// Counts cgroups that were not seen to come or go.
    pub(super) fn gaps(&self, reason: Gap, count: u64) {
        self.add_gap(reason, count);
    }

    fn add_unresolved(&self, reason: Unresolved, count: u64) {
        let reason = match reason {
            Unresolved::Gone => "gone",
            Unresolved::Limited => "limited",
            Unresolved::NoProcess => "no_process",
        };
        self.unresolved
            .add(count, &[self.receiver.clone(), KeyValue::new("reason", reason)]);
    }

    fn add_gap(&self, reason: Gap, count: u64) {
        let reason = match reason {
            Gap::WatchLimit => "watch_limit",
            Gap::QueueOverflow => "queue_overflow",
            Gap::RemovedBefore => "removed_before",
            Gap::RingFull => "ring_full",
            Gap::TableFull => "table_full",
            Gap::Unreadable => "unreadable",
        };
        self.gaps
            .add(count, &[self.receiver.clone(), KeyValue::new("reason", reason)]);
    }
}
