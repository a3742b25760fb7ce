//! Cost of flowtap, on an idle machine; as root. Parts, of which any can be given after `--`:
//!
//! | part | measures |
//! |---|---|
//! | `load` | redis-benchmark with flowtap off, in mode `sockets` and in mode `events`, interleaved |
//! | `scan` | 1,000 to 100,000 open sockets, idle and changed |
//! | `against` | one load with others of its kind: a program on every packet, pmacctd |
//! | `churn` | as many short connections as the machine makes: is any lost? |
//! | `drain` | mode `events`: throughput of one core from the ring, and whether drops are counted exactly |
//! | `drops` | a dropped packet, counted by reason and by flow |
//! | `startup` | to the first attached program, to the first scrape |
//! | `tick` | a window's end with 100,000 synthetic flows and every exporter |
//! | `inspect` | a segment and a connection with the option `inspect`, and whether its budget is kept |
//! | `udp` | a datagram by each way to count it, and a TCP exchange beside it |
//! | `memory` | of the process and of the kernel, idle and with many flows |
//!
//! Kernel time is what the kernel itself counts per program (`kernel.bpf_stats_enabled`, `bpftool prog`), segments are the
//! kernel's (`/proc/net/snmp`), an agent's CPU and memory are those of `/proc/<pid>`. Everything on loopback.

#![expect(
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a benchmark prints, and ends where a test would fail"
)]

mod against;
mod agent;
mod capture;
mod churn;
mod drain;
mod drops;
mod exchange;
mod inspect;
mod kernel;
mod load;
mod memory;
mod pmacct;
mod scan;
mod startup;
mod tick;
mod udp;

use std::time::Duration;

use agent::{Agent, Usage};
use load::Redis;

/// Rounds per mode; each has all modes once, so that drifts of the machine hit all alike.
const ROUNDS: usize = 3;

/// Connections of the load.
const CONNECTIONS: u32 = 50;

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Requests a second, one per round.
    throughput: f64,
    /// Programs' run time in the kernel.
    kernel_ns: f64,
    segments: f64,
    cpu_seconds: f64,
    wall_seconds: f64,
    rss_kib: u64,
}

impl Sums {
    fn per_million_segments(&self) -> f64 {
        self.kernel_ns / self.segments * 1e6
    }
}

/// Parts in the order in which they run.
const PARTS: [(&str, fn()); 11] = [
    ("load", load),
    ("scan", scan::run),
    ("against", against::run),
    ("churn", churn::run),
    ("drain", drain::run),
    ("drops", drops::run),
    ("startup", startup::run),
    ("tick", tick::run),
    ("inspect", inspect::run),
    ("udp", udp::run),
    ("memory", memory::run),
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    // Arguments with which this program calls itself.
    match &*arguments {
        [scan::ARGUMENT, connections] => return scan::hold(connections.parse().expect("a number")),
        [capture::ARGUMENT, object, totals] => return capture::run(object, totals),
        [churn::ARGUMENT, seconds] => return churn::connect(seconds.parse().expect("a number")),
        _ => {}
    }
    // `cargo bench` calls every benchmark with `--bench`; `cargo test --benches` without.
    if !arguments.contains(&"--bench") {
        return;
    }
    let named: Vec<_> = arguments
        .into_iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    for name in &named {
        assert!(PARTS.iter().any(|(part, _)| part == name), "no part {name}");
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "this benchmark loads eBPF programs: run it as root"
    );
    kernel::remember_others();
    let _stats = kernel::Stats::enable();
    for (name, run) in PARTS {
        if named.is_empty() || named.contains(&name) {
            run();
            println!();
        }
    }
}

fn load() {
    overhead();
    idle_agent();
}

/// One load, three ways.
fn overhead() {
    let redis = Redis::start();
    let modes = [None, Some("sockets"), Some("events")];
    let mut sums = [Sums::default(); 3];
    redis.benchmark(CONNECTIONS, load::REQUESTS / 4);
    for round in 0..ROUNDS {
        for step in 0..modes.len() {
            // Another order each round.
            let number = (round + step) % modes.len();
            measure(&redis, modes[number], &mut sums[number]);
        }
    }
    println!(
        "load: redis-benchmark, {CONNECTIONS} connections, {} requests, {ROUNDS} rounds each",
        load::REQUESTS
    );
    println!(
        "{:<9} {:>12} {:>10} {:>22} {:>14} {:>10}",
        "mode", "requests/s", "ratio", "kernel ms / M segments", "agent CPU %", "RSS MiB"
    );
    let off = sums[0].throughput;
    for (mode, sums) in modes.iter().zip(&sums) {
        println!(
            "{:<9} {:>12.0} {:>10.3} {:>22.4} {:>14.2} {:>10.1}",
            mode.unwrap_or("off"),
            sums.throughput / ROUNDS as f64,
            sums.throughput / off,
            sums.per_million_segments() / 1e6,
            sums.cpu_seconds / sums.wall_seconds.max(1e-9) * 100.0,
            sums.rss_kib as f64 / 1024.0
        );
    }
    println!(
        "kernel time per segment, events over sockets: {:.0}\n",
        sums[2].per_million_segments() / sums[1].per_million_segments()
    );
}

fn measure(redis: &Redis, mode: Option<&str>, sums: &mut Sums) {
    let agent = mode.map(|mode| Agent::start(&[&format!("receivers.ebpf.mode={mode}")]));
    let (before, segments) = (agent.as_ref().map(Agent::usage), kernel::segments());
    let throughput = redis.benchmark(CONNECTIONS, load::REQUESTS);
    sums.segments += (kernel::segments() - segments) as f64;
    sums.throughput += throughput;
    if let (Some(agent), Some(before)) = (&agent, before) {
        sums.add(&before, &agent.usage());
    }
}

impl Sums {
    fn add(&mut self, before: &Usage, after: &Usage) {
        self.kernel_ns += (after.programs_ns - before.programs_ns) as f64;
        self.cpu_seconds += after.cpu_seconds - before.cpu_seconds;
        self.wall_seconds += after.at.duration_since(before.at).as_secs_f64();
        self.rss_kib = self.rss_kib.max(after.rss_kib);
    }
}

/// CPU time of the agent itself while 1,000 connections are busy.
fn idle_agent() {
    const BUSY: u32 = 1_000;
    let redis = Redis::start();
    let agent = Agent::start(&["receivers.ebpf.mode=sockets"]);
    // The default interval is 5 s: some ticks must fall into the load.
    let before = agent.usage();
    let mut after = agent.usage();
    while after.at.duration_since(before.at) < Duration::from_secs(20) {
        redis.benchmark(BUSY, load::REQUESTS / 2);
        after = agent.usage();
    }
    let wall = after.at.duration_since(before.at).as_secs_f64();
    println!(
        "mode sockets, {BUSY} active connections: agent CPU {:.3} % of a core over {:.0} s",
        (after.cpu_seconds - before.cpu_seconds) / wall * 100.0,
        wall
    );
}
