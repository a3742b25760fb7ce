//! The kernel's own counts.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Turns the statistics of programs on; puts back what was when dropped.
#[derive(Debug)]
pub(crate) struct Stats(String);

impl Stats {
    pub(crate) fn enable() -> Self {
        let before = fs::read_to_string(STATS).expect("kernel.bpf_stats_enabled");
        fs::write(STATS, "1").expect("kernel.bpf_stats_enabled");
        Self(before)
    }

    /// Result of `measure` while the kernel takes no times.
    pub(crate) fn without<T>(measure: impl FnOnce() -> T) -> T {
        fs::write(STATS, "0").expect("kernel.bpf_stats_enabled");
        let measured = measure();
        fs::write(STATS, "1").expect("kernel.bpf_stats_enabled");
        measured
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        let _ = fs::write(STATS, self.0.trim());
    }
}

/// A program's statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Program {
    pub(crate) run_time_ns: u64,
    pub(crate) runs: u64,
}

/// Numbers of the programs that were loaded before the first measurement, which are of neither flowtap nor what it is compared with.
static OTHERS: OnceLock<HashSet<u64>> = OnceLock::new();

/// The programs of what is measured, by name. Only one agent runs at a time.
pub(crate) fn programs() -> BTreeMap<String, Program> {
    let others = OTHERS.get().expect("remember_others is called first");
    let mut programs = BTreeMap::<String, Program>::new();
    for program in listed() {
        if others.contains(&number(&program)) {
            continue;
        }
        // By the kernel's own types, where bpftool finds them; else the 15 characters that the kernel keeps.
        let name = program["name"].as_str().unwrap_or_default();
        let sum = programs.entry(name.to_owned()).or_default();
        sum.run_time_ns += program["run_time_ns"].as_u64().unwrap_or(0);
        sum.runs += program["run_cnt"].as_u64().unwrap_or(0);
    }
    programs
}

/// Leaves the programs that are loaded now out of every measurement.
pub(crate) fn remember_others() {
    OTHERS.get_or_init(|| listed().iter().map(number).collect());
}

fn listed() -> Vec<serde_json::Value> {
    let output = Command::new("bpftool")
        .args(["--json", "prog", "show"])
        .output()
        .expect("bpftool");
    serde_json::from_slice(&output.stdout).expect("a list in JSON")
}

fn number(program: &serde_json::Value) -> u64 {
    program["id"].as_u64().expect("a number")
}

/// TCP segments received by this namespace.
pub(crate) fn segments() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp").expect("/proc/net/snmp");
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(name, _)| *name == "InSegs").expect("InSegs");
    value.parse().expect("a number")
}

/// Memory taken from the kernel's general-purpose caches, in KiB, with each object's share of its
/// slab. Not all slab memory: that of sockets, files and names varies by itself.
pub(crate) fn kmalloc_kib() -> u64 {
    let text = fs::read_to_string("/proc/slabinfo").expect("/proc/slabinfo");
    let bytes = |line: &str| -> Option<u64> {
        let mut words = line.split_whitespace();
        words.next().filter(|name| name.starts_with("kmalloc-"))?;
        let [active, _all, _bytes, per_slab, pages] =
            [(); 5].map(|()| words.next().and_then(|word| word.parse::<u64>().ok()));
        Some(active? * pages? * 4096 / per_slab?)
    };
    text.lines().filter_map(bytes).sum::<u64>() / 1024
}

/// A field of a file that is written as /proc/meminfo is, in KiB.
pub(crate) fn field_kib(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("a file of /proc");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{file} has no {name}"))
}
