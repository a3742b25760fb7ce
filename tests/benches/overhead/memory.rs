//! Memory of the process and of the kernel: idle, and with many flows; and of the process with
//! synthetic flows, each to a separate peer.
//!
//! A ring's pages are the kernel's; the process maps them, so they are also in its RSS: the sum
//! counts them once.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::agent::{self, Agent};
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
        ("events", 10_000),
    ] {
        measure(mode, flows);
    }
    println!(
        "\nmemory with synthetic flows, each to a separate peer, all labels and families of the default config; MiB"
    );
    println!("{:>8} {:>9} {:>8}", "flows", "series", "RSS");
    for flows in [10_000, 100_000, 250_000] {
        synthetic(flows);
    }
}

/// A flow has two series of bytes, two of round-trip times, and half of them one of the connect time.
fn synthetic(flows: usize) {
    let telemetry = agent::free_address();
    let agent = Agent::start(&[
        "service.pipelines.metrics.receivers=[generator]",
        &format!("receivers.generator.flows={flows}"),
        "receivers.generator.interval=5s",
        "processors.window.max_series=2000000",
        &format!("service.telemetry.metrics.endpoint={telemetry}"),
    ]);
    thread::sleep(SETTLE);
    let own = agent::scrape(telemetry).expect("a scrape");
    println!(
        "{flows:>8} {:>9} {:>8.1}",
        agent::sum(&own, "processor_live_series", &[]),
        agent.usage().rss_kib as f64 / 1024.0
    );
}

fn measure(mode: &str, flows: usize) {
    let mut holders = Holders::start(flows / 2);
    // Memory that the sockets themselves take once they have been used is not flowtap's.
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
    // The storages come from these caches; an idle machine also takes from them.
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

/// Memory that the kernel charges for the maps that the process has open.
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
