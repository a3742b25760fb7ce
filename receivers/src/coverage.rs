//! Coverage: the measured share of the kernel's counts.
//!
//! In: records on their way to the pipelines; once per tick the kernel's own counters of one network namespace
//! (`/proc/<pid>/net/snmp`, RFC 4022). Out: for each counter both running totals since the start, and the ratio of
//! what they grew by in the last minute:
//!
//! | `counter` | the kernel's | measured |
//! |---|---|---|
//! | `active_opens` | `ActiveOpens` | connections opened as client, and connects that failed |
//! | `passive_opens` | `PassiveOpens` | connections accepted |
//! | `retransmits` | `RetransSegs` | retransmits of connections; the kernel also counts those of SYN-ACKs |
//! | `segments_received` | `InSegs` | segments of connections; the kernel also counts those for no connection |
//! | `segments_sent` | `OutSegs` - `RetransSegs` | the same, without retransmissions |
//!
//! The namespace is the one whose listening ports are scanned; records of others are left out.
//! Measurements lag behind the kernel's counters by up to an interval, and adopted connections
//! begin with flowtap.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flowtap_pipeline::{BuildContext, Events, FlowBatch, Role, Sink, TcpRecord, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

use crate::extras::Extras;
use crate::listen_scan::{namespace, process_dir};

/// Names of the counters, in the order of [`Totals`].
const COUNTERS: [&str; 5] = [
    "active_opens",
    "passive_opens",
    "retransmits",
    "segments_received",
    "segments_sent",
];

/// No local port to connect from (`include/uapi/asm-generic/errno.h`).
const EADDRNOTAVAIL: u16 = 99;

type Totals = [i64; COUNTERS.len()];

/// The time that the ratio covers: long enough that the lag of an interval between both sides is of
/// little weight, short enough that a fault shows, and shows no longer once it is over.
const RATIO_PERIOD: Duration = Duration::from_secs(60);

/// The least time between two moments that are remembered for the ratio, so that they are few.
const RATIO_STEP: Duration = Duration::from_secs(5);

/// The comparison.
#[derive(Debug)]
pub struct Coverage {
    measured: Totals,
    /// Where the kernel's counters are, whose they are, and what they stood at in the beginning.
    kernel: Option<Kernel>,
    reported: [Totals; 2],
    recent: Recent,
    telemetry: Telemetry,
}

/// Both running totals at moments of the last [`RATIO_PERIOD`].
#[derive(Debug, Default)]
struct Recent(VecDeque<(Instant, [Totals; 2])>);

impl Recent {
    /// Adds the totals of what was measured and of what the kernel counted. Returns the share that was measured since the last
    /// moment that is a period ago, or since the first; `None` of a counter that has never moved.
    fn ratios(&mut self, now: Instant, totals: [Totals; 2]) -> [Option<f64>; COUNTERS.len()] {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.0.back().is_none_or(|(at, _)| since(*at) >= RATIO_STEP) {
            self.0.push_back((now, totals));
        }
        // The first of two may go once the second is old enough.
        while self.0.get(1).is_some_and(|(at, _)| since(*at) >= RATIO_PERIOD) {
            self.0.pop_front();
        }
        let [measured, kernel] = totals;
        let [measured_before, kernel_before] = self.0.front().map_or(totals, |(_, totals)| *totals);
        std::array::from_fn(|counter| {
            let kernel_moved = kernel[counter] - kernel_before[counter];
            let measured_moved = measured[counter] - measured_before[counter];
            match kernel_moved {
                // Of nothing, nothing is missing.
                ..=0 => (kernel[counter] > 0).then_some(1.0),
                moved => Some(measured_moved as f64 / moved as f64),
            }
        })
    }
}

#[derive(Debug)]
struct Kernel {
    snmp: PathBuf,
    netns: u32,
    start: Totals,
}

impl Kernel {
    fn open(proc_root: &Path) -> io::Result<Self> {
        let process = process_dir(proc_root);
        let snmp = process.join("net/snmp");
        Ok(Self {
            netns: u32::try_from(namespace(&process)?).unwrap_or(0),
            start: read(&snmp)?,
            snmp,
        })
    }
}

impl Coverage {
    /// Counts from now on.
    pub fn new(context: &BuildContext, proc_root: &Path) -> Self {
        let kernel = Kernel::open(proc_root);
        if let Err(error) = &kernel {
            tracing::warn!(%error, "the kernel's own counters can't be read; coverage is not exported; \
                hint: check receivers.ebpf.proc_root");
        }
        Self {
            measured: Totals::default(),
            kernel: kernel.ok(),
            reported: [Totals::default(); 2],
            // From 0: what happens before the first tick counts.
            recent: Recent([(Instant::now(), [Totals::default(); 2])].into()),
            telemetry: Telemetry::new(context),
        }
    }

    /// Takes records into account.
    pub fn observe(&mut self, records: &[TcpRecord]) {
        let Some(kernel) = &self.kernel else { return };
        for record in records {
            // A receiver that does not know namespaces sees its own only.
            if record.flow.netns != kernel.netns && record.flow.netns != 0 {
                continue;
            }
            let events = record.events;
            let opened = i64::from(events.contains(Events::OPENED));
            // The kernel counts an active open once there is a port to connect from.
            let failed = events.contains(Events::FAILED) && record.failure != EADDRNOTAVAIL;
            let of_server = i64::from(record.flow.role == Role::Server);
            let [active, passive, retransmits, received, sent] = &mut self.measured;
            *active += opened * (1 - of_server) + i64::from(failed);
            *passive += opened * of_server;
            *retransmits += record.retransmits;
            *received += record.received_segments;
            *sent += record.sent_segments - record.retransmits;
        }
    }

    /// Compares with the kernel's counters, and exports the result.
    pub fn tick(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        let now = match read(&kernel.snmp) {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "the kernel's own counters can't be read; \
                hint: check receivers.ebpf.proc_root");
                return;
            }
        };
        let mut counted = now;
        for (counted, start) in counted.iter_mut().zip(kernel.start) {
            *counted -= start;
        }
        let ratios = self.recent.ratios(Instant::now(), [self.measured, counted]);
        self.telemetry
            .record(&self.measured, &counted, &ratios, &mut self.reported);
    }
}

/// A sink with the comparison in front of it.
#[derive(Debug)]
pub(crate) struct MeteredSink<'a> {
    /// Records that come with the flows.
    pub(crate) extras: &'a mut Extras,
    /// Where the pipelines are.
    pub(crate) sink: &'a mut dyn Sink,
    /// Sees all that goes there.
    pub(crate) coverage: &'a mut Coverage,
}

impl MeteredSink<'_> {
    /// Hands a batch to the pipelines, and empties it.
    pub(crate) fn accept(&mut self, batch: &mut FlowBatch) {
        self.extras.listeners.settle(&mut batch.listening);
        self.coverage.observe(&batch.tcp);
        self.sink.accept(batch);
    }

    /// Whether a pipeline asks for a census.
    pub(crate) fn wants_census(&self) -> bool {
        self.sink.wants_census()
    }

    /// Reports that the scan before the next watermark failed.
    pub(crate) fn scan_failed(&mut self, error: &io::Error) {
        self.sink.scan_failed(error);
    }

    /// Reports that records were refused, for `reason`.
    pub(crate) fn records_refused(&mut self, reason: &str) {
        self.sink.records_refused(&reason);
    }

    /// Declares that no record before `at` is missing.
    pub(crate) fn watermark(&mut self, at: Timestamp) {
        self.coverage.tick();
        let mut batch = FlowBatch::default();
        self.extras.collect(&mut batch);
        if !batch.is_empty() {
            self.sink.accept(&mut batch);
        }
        self.sink.watermark(at);
    }
}

/// Reads the counters of the line pair `Tcp:`: names, then values.
fn read(snmp: &Path) -> io::Result<Totals> {
    let text = fs::read_to_string(snmp)?;
    parse(&text).ok_or_else(|| {
        let message = format!("{} lacks a TCP counter", snmp.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

fn parse(text: &str) -> Option<Totals> {
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| -> Option<i64> {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    let retransmits = value("RetransSegs")?;
    Some([
        value("ActiveOpens")?,
        value("PassiveOpens")?,
        retransmits,
        value("InSegs")?,
        // Includes retransmitted segments.
        value("OutSegs")? - retransmits,
    ])
}

#[derive(Debug)]
struct Telemetry {
    measured: Counter<u64>,
    kernel: Counter<u64>,
    ratio: Gauge<f64>,
    receiver: KeyValue,
}

impl Telemetry {
    fn new(context: &BuildContext) -> Self {
        let meter = &context.meter;
        Self {
            measured: meter
                .u64_counter("receiver_coverage_measured")
                .with_description("Measured counterpart of the kernel's counter, since the start.")
                .build(),
            kernel: meter
                .u64_counter("receiver_coverage_kernel")
                .with_description("The kernel's own count since the start (/proc/net/snmp), by counter.")
                .build(),
            ratio: meter
                .f64_gauge("receiver_coverage_ratio")
                .with_description(
                    "Measured over counted by the kernel in the last minute, by the kernel's counter.",
                )
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
        }
    }

    fn record(
        &self,
        measured: &Totals,
        kernel: &Totals,
        ratios: &[Option<f64>; COUNTERS.len()],
        reported: &mut [Totals; 2],
    ) {
        for (index, name) in COUNTERS.into_iter().enumerate() {
            let labels = [self.receiver.clone(), KeyValue::new("counter", name)];
            let pairs = [(&self.measured, measured), (&self.kernel, kernel)];
            for ((counter, totals), reported) in pairs.into_iter().zip(reported.iter_mut()) {
                // A correction downwards waits until it is made up for: counters do not fall.
                let more = u64::try_from(totals[index] - reported[index]).unwrap_or(0);
                reported[index] = reported[index].max(totals[index]);
                counter.add(more, &labels);
            }
            if let Some(ratio) = ratios[index] {
                self.ratio.record(ratio, &labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names_wherever_they_stand() {
        let text = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
                    Tcp: RtoMin PassiveOpens ActiveOpens RetransSegs OutSegs InSegs\nTcp: 200 7 5 3 103 99\n";
        assert_eq!(parse(text), Some([5, 7, 3, 99, 100]));
        assert_eq!(parse("Tcp: ActiveOpens\nTcp: 5\n"), None);
        assert_eq!(parse("Udp: InDatagrams\nUdp: 5\n"), None);
    }

    #[test]
    fn the_ratio_covers_the_last_minute_and_recovers_after_a_loss() {
        let start = Instant::now();
        let mut recent = Recent([(start, [Totals::default(); 2])].into());
        let mut ratio = |second: u64, measured: i64, kernel: i64| {
            let totals = [[measured; 5], [kernel; 5]];
            recent.ratios(start + Duration::from_secs(second), totals)[0]
        };
        assert_eq!(ratio(1, 0, 0), None, "nothing has been counted");
        assert_eq!(ratio(2, 100, 100), Some(1.0));
        assert_eq!(ratio(10, 100, 200), Some(0.5), "a hundred were missed");
        assert_eq!(ratio(40, 200, 300), Some(200.0 / 300.0));
        assert_eq!(
            ratio(71, 300, 400),
            Some(1.0),
            "the loss is more than a minute ago"
        );
        assert_eq!(
            ratio(140, 300, 400),
            Some(1.0),
            "nothing happened in the last minute"
        );
        let bounded = (0..10_000).map(|tick| start + Duration::from_millis(200_000 + tick * 100));
        for now in bounded {
            recent.ratios(now, [[1; 5]; 2]);
        }
        assert!(recent.0.len() < 20, "{}", recent.0.len());
    }

    #[test]
    fn this_machines_counters_can_be_read() {
        assert!(read(Path::new("/proc/self/net/snmp")).is_ok());
    }
}
