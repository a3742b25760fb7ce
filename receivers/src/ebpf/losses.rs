//! Counters of what the kernel side could not report.

use std::collections::HashMap;
use std::io;

use flowtap_ebpf::{Losses, ProgramMisses};
use flowtap_pipeline::BuildContext;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::unadopted::Unadopted;

/// Reason of connections whose addresses on the wire found no room in the receiver's table.
const TRANSLATIONS_FULL: &str = "translations_full";

/// Running totals of what was dropped at the channel of mode `events`.
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

/// The counters, and the totals that they stand for.
#[derive(Debug)]
pub(super) struct LossTelemetry {
    records: Counter<u64>,
    bytes: Counter<u64>,
    redirected: Counter<u64>,
    unadopted: Counter<u64>,
    misses: Counter<u64>,
    scan_failures: Counter<u64>,
    receiver: KeyValue,
    reported: Losses,
    reported_misses: HashMap<&'static str, u64>,
    reported_channel: ChannelLosses,
    reported_translations: u64,
}

impl LossTelemetry {
    /// Counters of the receiver that is being built. They begin at 0 rather than absent, so that an alert on them
    /// works from the start.
    pub(super) fn new(context: &BuildContext) -> Self {
        let meter = &context.meter;
        let telemetry = Self {
            records: meter
                .u64_counter("receiver_refused_records")
                .with_description("Records that the kernel side could not report, by reason.")
                .with_unit("{record}")
                .build(),
            bytes: meter
                // The bridge to Prometheus adds the unit to the name: `receiver_refused_bytes_total`.
                .u64_counter("receiver_refused")
                .with_description("Payload bytes of refused records, by direction.")
                .with_unit("By")
                .build(),
            redirected: meter
                .u64_counter("receiver_redirected_connections")
                .with_description(
                    "Connections in a sockmap: bytes that BPF redirects do not pass TCP and are not measured.",
                )
                .with_unit("{connection}")
                .build(),
            unadopted: meter
                .u64_counter("receiver_unadopted_connections")
                .with_description(
                    "Connections of other network namespaces that were open before flowtap and that no process has a file of.",
                )
                .with_unit("{connection}")
                .build(),
            misses: meter
                .u64_counter("receiver_program_misses")
                .with_description(
                    "Runs of a BPF program that the kernel skipped because it was already running on that CPU.",
                )
                .with_unit("{run}")
                .build(),
            scan_failures: meter
                .u64_counter("receiver_scan_failures")
                .with_description("Scans that were cut short; the next one makes up for each.")
                .with_unit("{scan}")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
            reported: Losses::default(),
            reported_misses: HashMap::new(),
            reported_channel: ChannelLosses::default(),
            reported_translations: 0,
        };
        telemetry.add(&Losses::default());
        telemetry.add_unadopted(0);
        telemetry
            .scan_failures
            .add(0, std::slice::from_ref(&telemetry.receiver));
        telemetry
    }

    /// Counts what was added since the last call. `losses` are the kernel side's running totals. Returns why records of connections
    /// were refused, if some were: others are reported again, or lose no bytes.
    pub(super) fn update(&mut self, losses: &Losses) -> Option<String> {
        if self.reported == *losses {
            return None;
        }
        let new = added(&mut self.reported, losses);
        self.add(&new);
        tracing::warn!(
            connections = new.flows,
            sent_bytes = new.sent,
            received_bytes = new.received,
            listeners = new.listeners,
            untracked = new.untracked,
            segments_postponed = new.segments,
            openings_postponed = new.openings,
            missed_closes = new.missed_closes,
            scan_writes = new.scan_writes,
            redirected = new.redirected,
            owners = new.owners,
            "the kernel side could not report everything; hint: use a larger `ring_buffer_bytes` or a shorter `interval` where \
             connections are lost, a larger `max_sockets` or `net.core.optmem_max` where they are untracked"
        );
        refusal(&new)
    }

    /// Counts runs that the kernel skipped since the last call, by program.
    pub(super) fn update_misses(&mut self, misses: &[ProgramMisses]) {
        for ProgramMisses { program, misses } in misses {
            let known = self.reported_misses.insert(program, *misses);
            let labels = [self.receiver.clone(), KeyValue::new("program", *program)];
            // Also a first 0, so that the series exists.
            if known != Some(*misses) {
                self.misses
                    .add(misses.saturating_sub(known.unwrap_or(0)), &labels);
            }
        }
    }

    /// Counts what was dropped at the channel since the last call, and returns it in words.
    pub(super) fn update_channel(&mut self, lost: &ChannelLosses) -> Option<String> {
        let before = self.reported_channel;
        if lost.records == before.records {
            return None;
        }
        self.reported_channel = ChannelLosses {
            records: lost.records,
            sent: lost.sent.max(before.sent),
            received: lost.received.max(before.received),
        };
        let records = lost.records - before.records;
        let sent = self.reported_channel.sent - before.sent;
        let received = self.reported_channel.received - before.received;
        self.add_records("channel_full", records);
        self.add_bytes(sent, received);
        tracing::warn!(
            records,
            sent,
            received,
            "events are dropped at a full channel; hint: use a larger `channel_capacity`, or mode `sockets`"
        );
        Some(format!(
            "{records} events at a full channel; hint: use a larger `channel_capacity`, or mode `sockets`"
        ))
    }

    /// Counts connections whose addresses on the wire found no room since the last call; `refused` is the running total.
    pub(super) fn update_translations(&mut self, refused: u64) {
        let new = refused.saturating_sub(self.reported_translations);
        if new > 0 {
            self.reported_translations = refused;
            self.add_records(TRANSLATIONS_FULL, new);
        }
    }

    /// Counts connections that can't be adopted, and logs them.
    pub(super) fn count_unadopted(&self, found: io::Result<Unadopted>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "open connections that can't be adopted could not be counted; hint: check `proc_root`"
                );
                return;
            }
        };
        self.add_unadopted(found.connections);
        if found.connections > 0 || found.not_examined > 0 {
            tracing::warn!(
                connections = found.connections,
                namespaces = found.namespaces,
                namespaces_not_examined = found.not_examined,
                "connections of other network namespaces were open before flowtap, and no process has accepted them yet or has \
                 them any more: they are not measured; hint: start flowtap before what it is to measure"
            );
        }
    }

    fn add_unadopted(&self, connections: u64) {
        self.unadopted
            .add(connections, std::slice::from_ref(&self.receiver));
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
            ("opening_put_off", new.openings),
            ("owner_table_full", new.owners),
            ("close_missed", new.missed_closes),
            ("channel_full", 0),
            (TRANSLATIONS_FULL, 0),
        ];
        for (reason, count) in records {
            self.add_records(reason, count);
        }
        self.redirected
            .add(new.redirected, std::slice::from_ref(&self.receiver));
        self.add_bytes(new.sent, new.received);
    }

    fn add_records(&self, reason: &'static str, count: u64) {
        self.records
            .add(count, &[self.receiver.clone(), KeyValue::new("reason", reason)]);
    }

    fn add_bytes(&self, sent: i64, received: i64) {
        for (direction, bytes) in [("outbound", sent), ("inbound", received)] {
            self.bytes.add(
                bytes.max(0).unsigned_abs(),
                &[self.receiver.clone(), KeyValue::new("direction", direction)],
            );
        }
    }
}

/// Describes connections whose records were refused, if there are any.
fn refusal(new: &Losses) -> Option<String> {
    let reasons = [
        (
            new.flows,
            "connections that ended while the ring was full; hint: a larger `ring_buffer_bytes`, or a shorter `interval`",
        ),
        (
            new.untracked,
            "connections that could not be tracked; hint: a larger `max_sockets` or `net.core.optmem_max`",
        ),
    ];
    let reasons = reasons.into_iter().filter(|(count, _)| *count > 0);
    let reasons: Vec<_> = reasons.map(|(count, why)| format!("{count} {why}")).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Returns what `losses` add to `reported`, and moves it there. Bytes are sums of signed differences and can fall; their counter
/// then waits until they are above what it has counted.
fn added(reported: &mut Losses, losses: &Losses) -> Losses {
    let before = *reported;
    *reported = Losses {
        sent: losses.sent.max(before.sent),
        received: losses.received.max(before.received),
        ..*losses
    };
    Losses {
        flows: losses.flows.saturating_sub(before.flows),
        sent: reported.sent - before.sent,
        received: reported.received - before.received,
        listeners: losses.listeners.saturating_sub(before.listeners),
        untracked: losses.untracked.saturating_sub(before.untracked),
        segments: losses.segments.saturating_sub(before.segments),
        scan_writes: losses.scan_writes.saturating_sub(before.scan_writes),
        redirected: losses.redirected.saturating_sub(before.redirected),
        owners: losses.owners.saturating_sub(before.owners),
        openings: losses.openings.saturating_sub(before.openings),
        missed_closes: losses.missed_closes.saturating_sub(before.missed_closes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_are_reported_again_are_not_called_refused() {
        let refused = |flows, untracked| Losses {
            flows,
            untracked,
            listeners: 7,
            segments: 8,
            ..Losses::default()
        };
        assert_eq!(refusal(&refused(0, 0)), None);
        let both = refusal(&refused(2, 3)).unwrap();
        assert!(both.starts_with("2 connections that ended"), "{both}");
        assert!(
            both.contains("; 3 connections that could not be tracked"),
            "{both}"
        );
    }

    #[test]
    fn lost_bytes_that_are_taken_back_never_make_the_counter_fall() {
        let mut reported = Losses::default();
        let totals = |sent| Losses {
            flows: 1,
            sent,
            ..Losses::default()
        };
        let counted: Vec<_> = [700, -300, 500, 900]
            .map(|sent| added(&mut reported, &totals(sent)).sent)
            .into();
        assert_eq!(
            counted,
            [700, 0, 0, 200],
            "the counter stands at the highest total"
        );
    }
}
