//! As many short connections as the machine makes, without flowtap and in both modes: is any lost, and what does one cost?
//!
//! One process per pair of threads, each in a separate network namespace, so that its connections
//! are identified by the label `netns`. The client keeps some connections open at a time, to
//! addresses that change, sends a request on each and reads the answer; the server closes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::agent::{self, Agent};
use crate::kernel;

/// Argument with which this program makes connections.
pub(crate) const ARGUMENT: &str = "--churn";

const PROCESSES: usize = 4;

const SECONDS: u64 = 10;

/// Connections that a client has open at a time: fewer than a listener's queue holds.
const AT_ONCE: usize = 32;

/// Payload bytes, each way.
const MESSAGE: usize = 16;

/// Three windows.
const SETTLE: Duration = Duration::from_secs(16);

pub(crate) fn run() {
    println!(
        "churn: {PROCESSES} processes, each in its network namespace, {SECONDS} s; {MESSAGE} bytes each way per connection"
    );
    println!(
        "{:<9} {:>12} {:>14} {:>7} {:>10} {:>10} {:>10} {:>7} {:>7} {:>8} {:>12} {:>9} {:>12} {:>8}",
        "mode",
        "connections",
        "connections/s",
        "ratio",
        "opened",
        "closed",
        "bytes",
        "failed",
        "lost",
        "put off",
        "kernel ns/c",
        "ns/change",
        "CPU us/c",
        "RSS MiB"
    );
    let off = kernel::Stats::without(|| connections(&mut Workers::start()));
    println!("{:<9} {off:>12} {:>14.0} {:>7.3}", "off", per_second(off), 1.0);
    for mode in ["sockets", "events"] {
        measure(mode, off);
    }
    println!(
        "opened, closed, bytes: the lesser of both ends, over the application's own count; lost: records that were turned \
         away, put off: segments whose bytes came later; per connection: both \
         ends; ns/change: both programs at a state change; these two in 10 s of their own"
    );
}

fn per_second(connections: u64) -> f64 {
    connections as f64 / SECONDS as f64
}

fn measure(mode: &str, off: u64) {
    let (scrape, telemetry) = (agent::free_address(), agent::free_address());
    let agent = Agent::start(&[
        &format!("receivers.ebpf.mode={mode}"),
        &format!("exporters.prometheus.endpoint={scrape}"),
        &format!("service.telemetry.metrics.endpoint={telemetry}"),
        "processors.window.families.network_tcp_connections.labels=[flow, event, netns]",
        "processors.window.families.network_tcp_flow_egress.labels=[netns]",
        "processors.window.families.network_tcp_flow_ingress.labels=[netns]",
    ]);
    let mut workers = Workers::start();
    let before = agent.usage();
    // The kernel's clock is asked twice for each run of a program that it takes the time of: how many connections there can be is
    // seen without that.
    let quick = kernel::Stats::without(|| connections(&mut workers));
    let programs = programs_on_the_path();
    let timed = connections(&mut workers);
    let made = quick + timed;
    let [programs_ns, of_changes_ns, changes] = {
        let after = programs_on_the_path();
        [0, 1, 2].map(|number| (after[number] - programs[number]) as f64)
    };
    thread::sleep(SETTLE);
    let after = agent.usage();
    let text = agent::scrape(scrape).expect("a scrape");
    let count = |event: &str, flow: &str| {
        let labels = [&*format!("event=\"{event}\""), &*format!("flow=\"{flow}\"")];
        workers.sum(&text, "network_tcp_connections", &labels)
    };
    // The least: what is lost at one end must not be made up for by the other.
    let least = |event| count(event, "egress").min(count(event, "ingress"));
    let bytes = ["egress", "ingress"].map(|flow| {
        let name = format!("network_tcp_flow_{flow}");
        workers.sum(&text, &name, &[])
    });
    let own = agent::scrape(telemetry).expect("a scrape");
    let refused = |labels: &[&str]| agent::sum(&own, "receiver_refused_records_total", labels);
    // Its bytes come with the next record of the socket, or with its close.
    let put_off = refused(&["reason=\"segment_put_off\""]);
    let lost = refused(&[]) - put_off;
    let made_bytes = (made * 2 * MESSAGE as u64) as f64;
    println!(
        "{mode:<9} {made:>12} {:>14.0} {:>7.3} {:>10.6} {:>10.6} {:>10.6} {:>7} {lost:>7} {put_off:>8} {:>12.0} {:>9.0} {:>12.2} {:>8.1}",
        per_second(quick),
        quick as f64 / off as f64,
        least("opened") / made as f64,
        least("closed") / made as f64,
        bytes[0].min(bytes[1]) / made_bytes,
        count("failed", "egress") + count("failed", "ingress"),
        programs_ns / timed as f64,
        of_changes_ns / changes,
        (after.cpu_seconds - before.cpu_seconds) / made as f64 * 1e6,
        after.rss_kib as f64 / 1024.0
    );
    for line in own
        .lines()
        .filter(|line| line.contains("receiver_refused_records_total{") && !line.ends_with(" 0"))
    {
        println!("          {line}");
    }
}

/// Of the programs that are on the path of a connection, which the scan is not: the run time of all, that of the two at state
/// changes, and how many changes they were run for.
fn programs_on_the_path() -> [u64; 3] {
    let programs = kernel::programs();
    let of = |names: &[&str]| {
        let found = names.iter().filter_map(|name| programs.get(*name));
        found.fold((0, 0), |(ns, runs), program| {
            (ns + program.run_time_ns, runs + program.runs)
        })
    };
    let (first, changes) = of(&["on_state_change", "state"]);
    let (second, _) = of(&["on_state_nested", "state_nested"]);
    let (rest, _) = of(&["segment", "on_tcp_probe", "connect_probe", "close_probe"]);
    [first + second + rest, first + second, changes]
}

/// Has all of them make connections; how many they made.
fn connections(workers: &mut Workers) -> u64 {
    for worker in &mut workers.0 {
        writeln!(worker.child.stdin.as_mut().expect("stdin"), "go").expect("a worker");
    }
    workers.0.iter_mut().map(Worker::number).sum()
}

/// Processes that make connections.
struct Workers(Vec<Worker>);

struct Worker {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    /// Inode of its network namespace.
    netns: u64,
}

impl Worker {
    fn number(&mut self) -> u64 {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a worker");
        line.trim().parse().expect("a number")
    }
}

impl Workers {
    fn start() -> Self {
        let workers = (0..PROCESSES).map(|_| {
            let mut child = Command::new(std::env::current_exe().expect("this program"))
                .args([ARGUMENT, &SECONDS.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a worker");
            let stdout = BufReader::new(child.stdout.take().expect("stdout"));
            let mut worker = Worker {
                child,
                stdout,
                netns: 0,
            };
            worker.netns = worker.number();
            worker
        });
        Self(workers.collect())
    }

    /// [`agent::sum`] over their network namespaces.
    fn sum(&self, text: &str, name: &str, labels: &[&str]) -> f64 {
        let namespaces = self.0.iter().map(|worker| {
            let netns = format!("netns=\"{}\"", worker.netns);
            let labels: Vec<_> = labels.iter().copied().chain([&*netns]).collect();
            agent::sum(text, name, &labels)
        });
        namespaces.fold(0.0, |sum, netns| sum + netns)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// A worker's life: says its network namespace, makes connections for `seconds` for each line that it reads, says how many.
pub(crate) fn connect(seconds: u64) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "ip link set lo up");
    let netns = fs::read_link("/proc/thread-self/ns/net").expect("a network namespace");
    let netns = netns.to_string_lossy();
    println!("{}", netns.trim_start_matches("net:[").trim_end_matches(']'));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let mut message = [0; MESSAGE];
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            stream.read_exact(&mut message).expect("received");
            stream.write_all(&message).expect("sent");
        }
    });
    let mut line = String::new();
    // For each line; the namespace lives until there is none.
    while std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        println!("{}", connections_for(Duration::from_secs(seconds), port));
    }
}

/// Number of connections to `port` that can be made in this time.
fn connections_for(time: Duration, port: u16) -> u64 {
    let end = std::time::Instant::now() + time;
    let (mut made, mut address) = (0_u64, 0_u8);
    while std::time::Instant::now() < end {
        address = address % 250 + 1;
        let open: Vec<_> = (0..AT_ONCE)
            .map(|_| TcpStream::connect((Ipv4Addr::new(127, 0, 1, address), port)).expect("a connection"))
            .collect();
        let mut message = [b'm'; MESSAGE];
        for mut stream in &open {
            stream.write_all(&message).expect("sent");
        }
        for mut stream in open {
            stream.read_exact(&mut message).expect("received");
            made += 1;
        }
    }
    made
}
