//! Coverage of UDP: datagrams that were measured, beside the kernel's own counters of one network namespace.
//!
//! | `counter` | the kernel's | measured |
//! |---|---|---|
//! | `udp_received` | `InDatagrams` of UDP and UDP-Lite, IPv4 and IPv6 | datagrams that an application took; with `hooks: cgroup`, that were queued |
//! | `udp_sent` | `OutDatagrams` of the same | datagrams sent |
//!
//! 1. The comparison begins before the programs are attached, and goes on while a reload replaces them: a datagram that no program
//!    saw is in the kernel's count alone. Those of the self-tests are in neither.
//! 2. The kernel counts a buffer of segmentation offload once, so with it more is measured than the kernel counts. With `hooks: cgroup`
//!    more is measured also by what nobody takes from its queue: the kernel counts a datagram when it is taken.
//! 3. Datagrams without a place in a table count as measured, whatever their namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flowtap_ebpf::udp::abi::UdpTotals;
use flowtap_pipeline::{BuildContext, UdpRecord};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use crate::listen_scan::{namespace, process_dir};

/// Received, then sent.
type Counts = [u64; 2];

const COUNTERS: [&str; 2] = ["udp_received", "udp_sent"];

/// The comparison.
#[derive(Debug)]
pub(in crate::ebpf) struct UdpCoverage {
    proc_root: PathBuf,
    measured: [i64; 2],
    kernel: Option<Kernel>,
    reported: [Counts; 2],
    measured_counter: Counter<u64>,
    kernel_counter: Counter<u64>,
    receiver: KeyValue,
}

#[derive(Debug)]
struct Kernel {
    files: [PathBuf; 2],
    netns: u32,
    /// Whether that is this process's own namespace.
    is_own: bool,
    start: Counts,
}

impl Kernel {
    fn open(proc_root: &Path) -> io::Result<Self> {
        let process = process_dir(proc_root);
        let files = ["net/snmp", "net/snmp6"].map(|file| process.join(file));
        let netns = namespace(&process)?;
        Ok(Self {
            netns: u32::try_from(netns).unwrap_or(0),
            is_own: namespace(Path::new("/proc/self")).is_ok_and(|own| own == netns),
            start: read(&files)?,
            files,
        })
    }
}

impl UdpCoverage {
    /// Counts from now on.
    pub(super) fn new(context: &BuildContext, proc_root: &Path) -> Self {
        let kernel = Kernel::open(proc_root);
        if let Err(error) = &kernel {
            tracing::warn!(%error, "the kernel's own counters of UDP can't be read; its coverage is not exported\n  \
                 hint: mount the host's /proc, and set `proc_root` to it");
        }
        let meter = &context.meter;
        Self {
            proc_root: proc_root.to_owned(),
            measured: [0; 2],
            kernel: kernel.ok(),
            reported: [[0; 2]; 2],
            measured_counter: meter
                .u64_counter("receiver_coverage_measured")
                .with_description("Measured counterpart of the kernel's counter, since the start.")
                .build(),
            kernel_counter: meter
                .u64_counter("receiver_coverage_kernel")
                .with_description("The kernel's own count since the start (/proc/net/snmp), by counter.")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
        }
    }

    /// Whether it is of the namespace that this root shows.
    pub(super) fn suits(&self, proc_root: &Path) -> bool {
        self.proc_root == proc_root
    }

    /// Leaves out datagrams of this process that the kernel has counted since the start, and that are not measured.
    pub(super) const fn leave_out(&mut self, own: &UdpTotals) {
        if let Some(kernel) = &mut self.kernel
            && kernel.is_own
        {
            kernel.start[0] += own.received_datagrams;
            kernel.start[1] += own.sent_datagrams;
        }
    }

    /// Takes datagrams without a place into account.
    pub(super) fn observe_unplaced(&mut self, new: &UdpTotals) {
        for (measured, new) in self
            .measured
            .iter_mut()
            .zip([new.received_datagrams, new.sent_datagrams])
        {
            *measured += i64::try_from(new).unwrap_or(i64::MAX);
        }
    }

    /// Takes a record into account.
    pub(super) fn observe(&mut self, record: &UdpRecord) {
        let is_ours = |kernel: &Kernel| record.flow.netns == kernel.netns || record.flow.netns == 0;
        if self.kernel.as_ref().is_some_and(is_ours) {
            self.measured[0] += record.received_datagrams;
            self.measured[1] += record.sent_datagrams;
        }
    }

    /// Compares with the kernel's counters, and exports the result.
    pub(super) fn tick(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        let Ok(now) = read(&kernel.files) else { return };
        for (index, name) in COUNTERS.into_iter().enumerate() {
            let labels = [self.receiver.clone(), KeyValue::new("counter", name)];
            let measured = self.measured[index].max(0).unsigned_abs();
            let counted = now[index].saturating_sub(kernel.start[index]);
            let pairs = [
                (&self.measured_counter, measured),
                (&self.kernel_counter, counted),
            ];
            for ((counter, total), reported) in pairs.into_iter().zip(&mut self.reported) {
                // A correction downwards waits until it is made up for: counters do not fall.
                counter.add(total.saturating_sub(reported[index]), &labels);
                reported[index] = reported[index].max(total);
            }
        }
    }
}

fn read([snmp, snmp6]: &[PathBuf; 2]) -> io::Result<Counts> {
    let mut counts = of_snmp(&fs::read_to_string(snmp)?);
    // A kernel without IPv6 has no such file.
    let v6 = of_snmp6(&fs::read_to_string(snmp6).unwrap_or_default());
    counts[0] += v6[0];
    counts[1] += v6[1];
    Ok(counts)
}

/// The line pairs `Udp:` and `UdpLite:` of names and values.
fn of_snmp(text: &str) -> Counts {
    let mut counts = [0; 2];
    for protocol in ["Udp:", "UdpLite:"] {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            add(&mut counts, name, value);
        }
    }
    counts
}

/// Lines such as `Udp6InDatagrams 5`.
fn of_snmp6(text: &str) -> Counts {
    let mut counts = [0; 2];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(value)) = (words.next(), words.next())
            && let Some(name) = name.strip_prefix("Udp6").or(name.strip_prefix("UdpLite6"))
        {
            add(&mut counts, name, value);
        }
    }
    counts
}

fn add(counts: &mut Counts, name: &str, value: &str) {
    let index = match name {
        "InDatagrams" => 0,
        "OutDatagrams" => 1,
        _ => return,
    };
    counts[index] += value.parse::<u64>().unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_and_both_protocols_are_added_up() {
        let snmp = "Udp: InDatagrams NoPorts InErrors OutDatagrams\nUdp: 10 1 0 20\n\
                    UdpLite: InDatagrams NoPorts InErrors OutDatagrams\nUdpLite: 1 0 0 2\n";
        assert_eq!(of_snmp(snmp), [11, 22]);
        let snmp6 = "Udp6InDatagrams 100\nUdp6NoPorts 3\nUdp6OutDatagrams 200\nUdpLite6InDatagrams 5\nUdpLite6OutDatagrams 6\n";
        assert_eq!(of_snmp6(snmp6), [105, 206]);
    }
}
