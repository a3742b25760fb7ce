//! Memory of the process and of the kernel: at rest, and with many flows.
//!
//! A ring's pages are the kernel's; the process maps them, so they are in its RSS, too: the sum counts them once.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::agent::Agent;
use crate::kernel;
use crate::scan::Holders;

/// Two windows.
const SETTLE: Duration = Duration::from_secs(11);

pub(crate) fn run() {
    println!("memory, MiB; a flow is a socket, both ends of each connection are here; each has moved a byte");
    println!(
        "{:<9} {:>8} {:>8} {:>8} {:>14} {:>8} {:>9} {:>10} {:>8}",
        "mode", "flows", "RSS", "PSS", "rings in RSS", "maps", "storage", "B/socket", "sum"
    );
    for (mode, flows) in [
        ("sockets", 0),
        ("sockets", 10_000),
        ("sockets", 100_000),
        ("events", 0),
    ] {
        measure(mode, flows);
    }
}

fn measure(mode: &str, flows: usize) {
    let mut holders = Holders::start(flows / 2);
    // What the sockets themselves take once they have been used is not flowtap's.
    holders.exchange();
    thread::sleep(Duration::from_secs(1));
    let slab = kernel::kmalloc_kib();
    let agent = Agent::start(&[&format!("receivers.ebpf.mode={mode}")]);
    holders.exchange();
    thread::sleep(SETTLE);
    let slab = kernel::kmalloc_kib().saturating_sub(slab);
    let rollup = format!("/proc/{}/smaps_rollup", agent.pid());
    let (rss, pss) = (
        kernel::field_kib(&rollup, "Rss"),
        kernel::field_kib(&rollup, "Pss"),
    );
    let (rings, maps) = (rings_kib(agent.pid()), maps_kib(agent.pid()));
    // The storages come from these caches; a machine at rest takes from them, too.
    let storage = if flows == 0 { 0 } else { slab };
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "{mode:<9} {flows:>8} {:>8.1} {:>8.1} {:>14.1} {:>8.1} {:>9.1} {:>10.0} {:>8.1}",
        mib(rss),
        mib(pss),
        mib(rings),
        mib(maps),
        mib(storage),
        (storage * 1024) as f64 / flows.max(1) as f64,
        mib(rss.saturating_sub(rings) + maps + storage)
    );
}

/// Resident pages of mapped BPF maps.
fn rings_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
    let mut of_a_map = false;
    let mut sum = 0;
    for line in text.lines() {
        if let Some(rss) = line.strip_prefix("Rss:") {
            if of_a_map {
                let kib = rss
                    .split_whitespace()
                    .next()
                    .and_then(|kib| kib.parse::<u64>().ok());
                sum += kib.unwrap_or_default();
            }
        } else if !line
            .split_whitespace()
            .next()
            .is_some_and(|word| word.ends_with(':'))
        {
            of_a_map = line.contains("bpf-map");
        }
    }
    sum
}

/// What the kernel charges for the maps that the process has open.
fn maps_kib(pid: u32) -> u64 {
    let folder = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("fdinfo");
    let mut maps = HashMap::new();
    for entry in folder.map_while(Result::ok) {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum::<u64>() / 1024
}
