//! Counts of ICMP messages by type, from the kernel's own counters of one network namespace (`net/snmp`, `net/snmp6`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flowtap_pipeline::IcmpCount;

use crate::listen_scan::{namespace, process_dir};

/// Of one type: version, direction and number.
type Kind = (bool, bool, u8);

/// The counters, as they stood when they were read last.
#[derive(Debug)]
pub(in super::super) struct IcmpCounters {
    files: [PathBuf; 2],
    netns: u32,
    known: HashMap<Kind, u64>,
    failed: bool,
}

impl IcmpCounters {
    /// Of the namespace whose listening ports are read. `None` if they can't be read, which is logged.
    pub(in super::super) fn open(proc_root: &Path) -> Option<Self> {
        let process = process_dir(proc_root);
        let mut counters = Self {
            files: ["net/snmp", "net/snmp6"].map(|file| process.join(file)),
            netns: namespace(&process)
                .ok()
                .and_then(|inode| u32::try_from(inode).ok())
                .unwrap_or(0),
            known: HashMap::new(),
            failed: false,
        };
        match counters.look() {
            Ok(now) => counters.known = now,
            Err(error) => {
                tracing::warn!(%error, "ICMP messages are not counted: the kernel's counters can't be read\n  \
                     hint: mount the host's /proc, and set `proc_root` to it");
                return None;
            }
        }
        Some(counters)
    }

    /// Whether a receiver with this `proc_root` can continue with it.
    pub(in super::super) fn suits(&self, proc_root: &Path) -> bool {
        self.files[0].parent() == Some(process_dir(proc_root).join("net").as_path())
    }

    /// Adds what was counted since the last call.
    pub(super) fn read(&mut self, counts: &mut Vec<IcmpCount>) {
        let now = match self.look() {
            Ok(now) => now,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(%error, "ICMP messages are not counted: the kernel's counters can't be read\n  \
                     hint: mount the host's /proc, and set `proc_root` to it");
                }
                return;
            }
        };
        self.failed = false;
        for (kind, total) in &now {
            let known = self.known.get(kind).copied().unwrap_or(0);
            let (is_v6, is_sent, message_type) = *kind;
            // A counter that fell is another one.
            let count = total.checked_sub(known).unwrap_or(*total);
            if count > 0 {
                counts.push(IcmpCount {
                    netns: self.netns,
                    is_v6,
                    is_sent,
                    message_type,
                    count,
                });
            }
        }
        self.known = now;
    }

    fn look(&self) -> io::Result<HashMap<Kind, u64>> {
        let [snmp, snmp6] = &self.files;
        let mut counters = HashMap::new();
        of_snmp(&fs::read_to_string(snmp)?, &mut counters);
        match fs::read_to_string(snmp6) {
            Ok(text) => of_snmp6(&text, &mut counters),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(counters)
    }
}

/// The line pair `IcmpMsg:` of names and values. A type is absent until there was a message of it.
fn of_snmp(text: &str, counters: &mut HashMap<Kind, u64>) {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IcmpMsg:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return;
    };
    for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
        add(counters, false, name, value);
    }
}

/// Lines such as `Icmp6InType134 5`.
fn of_snmp6(text: &str, counters: &mut HashMap<Kind, u64>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(value)) = (words.next(), words.next())
            && let Some(name) = name.strip_prefix("Icmp6")
        {
            add(counters, true, name, value);
        }
    }
}

/// Adds a counter whose name ends as `InType3` does.
fn add(counters: &mut HashMap<Kind, u64>, is_v6: bool, name: &str, value: &str) {
    let number = |prefix: &str| name.strip_prefix(prefix)?.parse::<u8>().ok();
    let kind = match (number("InType"), number("OutType")) {
        (Some(number), _) => (is_v6, false, number),
        (_, Some(number)) => (is_v6, true, number),
        _ => return,
    };
    if let Ok(value) = value.parse() {
        counters.insert(kind, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_both_versions_are_read_by_their_numbers() {
        let mut counters = HashMap::new();
        of_snmp(
            "Icmp: InMsgs InErrors\nIcmp: 5 1\nIcmpMsg: InType3 InType8 OutType0\nIcmpMsg: 4 2 2\n",
            &mut counters,
        );
        of_snmp6(
            "Icmp6InMsgs 9\nIcmp6InType134 7\nIcmp6OutType143 3\nUdp6InDatagrams 5\n",
            &mut counters,
        );
        let mut found: Vec<_> = counters.into_iter().collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ((false, false, 3), 4),
                ((false, false, 8), 2),
                ((false, true, 0), 2),
                ((true, false, 134), 7),
                ((true, true, 143), 3),
            ]
        );
    }
}
