//! Cost of the option `inspect`, over loopback:
//!
//! - an exchange of 64 bytes each way on one connection, a short connection with one exchange, and blocks of 32 KiB: CPU time of the thread
//!   that does both ends, less that with nothing attached, for each segment on which the program ran and for each connection;
//! - the run time of the programs in each of these by the kernel's count;
//! - the throughput of one connection with and without it, in pairs;
//! - a load that would take more than the budget: what it takes, and the share that is seen.
//!
//! Ways take turns in short slices, so that drifts of the machine hit all alike; each result is the median.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flowtap_ebpf::{Inspect, InspectOptions};

use crate::agent::{self, Agent};
use crate::exchange::Exchange;
use crate::kernel::{self, Stats};
use crate::udp::{BLOCK, bulk, connection, each, median, pass_block, spread};

const SLICES: usize = 30;
const EXCHANGES: u32 = 4_000;
const BLOCKS: u32 = 500;

/// Of a slice: what they report fits into the buffers.
const CONNECTIONS: u32 = 200;

/// Pairs of runs of one connection.
const RUNS: usize = 21;

/// Of a budget: until the credit of the start is spent, and then.
const WARM_UP: Duration = Duration::from_secs(12);
const MEASURED: Duration = Duration::from_secs(30);

/// The load that exceeds it: short-lived threads that exchange as quickly as they can.
const LOAD: Exchange = Exchange {
    connections: 8,
    requests: 500,
    request: 64,
    answer: 64,
};

/// Names of the programs.
const PROGRAMS: [&str; 2] = ["inspect", "inspect_states"];

/// A setting of the option.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    options: Option<InspectOptions>,
}

const fn way(name: &'static str, first_bytes: bool, exchanges: bool, translations: bool) -> Way {
    Way {
        name,
        options: Some(InspectOptions {
            first_bytes,
            exchanges,
            translations,
        }),
    }
}

const WAYS: [Way; 5] = [
    Way {
        name: "off",
        options: None,
    },
    way("exchanges", false, true, true),
    way("protocols", true, false, true),
    way("both", true, true, true),
    way("both, `translation: off`", true, true, false),
];

/// Figures of each slice: nanoseconds of the thread, and runs of the program.
#[derive(Debug, Default)]
struct Times {
    exchange: Vec<f64>,
    connection: Vec<f64>,
    block: Vec<f64>,
    runs: [Vec<f64>; 3],
}

pub(crate) fn run() {
    println!(
        "inspect: cost of an exchange of 64 bytes each way, of a connection with one, and of {BLOCK} bytes, over loopback"
    );
    let mut ways: Vec<_> = WAYS
        .iter()
        .map(|way| {
            let programs = way
                .options
                .map(|options| Inspect::load(options).expect("programs that load"));
            (*way, programs, Times::default())
        })
        .collect();
    let mut ends = connection();
    Stats::without(|| {
        for _ in 0..SLICES {
            for (_, programs, times) in &mut ways {
                attach(programs);
                slice(programs.as_mut(), &mut ends, times);
                detach(programs);
            }
        }
    });
    report(&mut ways);
    for (way, programs, _) in &mut ways {
        attach(programs);
        if let Some(programs) = programs {
            println!(
                "  {}: ns a run by the kernel{}",
                way.name,
                run_times(programs, &mut ends)
            );
        }
        detach(programs);
    }
    throughput(&mut ways);
    drop(ways);
    off_runs_nothing(&mut ends);
    budgets();
}

fn attach(programs: &mut Option<Inspect>) {
    if let Some(programs) = programs {
        programs.attach().expect("attached");
    }
}

fn detach(programs: &mut Option<Inspect>) {
    if let Some(programs) = programs {
        programs.detach().expect("detached");
    }
}

/// Empties the buffers, as flowtap does.
fn drain(programs: &mut Inspect) {
    let _malformed = programs.drain_first_bytes(|_| {});
    programs.drain_events(|_| {}).expect("a ring");
}

fn slice(mut programs: Option<&mut Inspect>, ends: &mut [TcpStream; 2], times: &mut Times) {
    let mut buffer = vec![1; BLOCK];
    let mut measure = |kind: usize, count: u32, work: &mut dyn FnMut()| -> f64 {
        let runs = |programs: &Option<&mut Inspect>| {
            programs
                .as_ref()
                .map_or(0, |programs| programs.seen().expect("a map").runs)
        };
        let before = runs(&programs);
        let time = each(count, |_| work());
        // `each` begins with a tenth that it does not measure.
        let all = f64::from(count + count / 10);
        times.runs[kind].push((runs(&programs) - before) as f64 / all);
        if let Some(programs) = programs.as_deref_mut() {
            drain(programs);
        }
        time
    };
    let exchange = measure(0, EXCHANGES, &mut || exchange(ends));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let connection = measure(1, CONNECTIONS, &mut || short_connection(&listener));
    let block = measure(2, BLOCKS, &mut || pass_block(ends, &mut buffer));
    times.exchange.push(exchange);
    times.connection.push(connection);
    times.block.push(block);
}

fn report(ways: &mut [(Way, Option<Inspect>, Times)]) {
    let mut off = [0.0; 3];
    for (way, programs, times) in ways {
        let Times {
            exchange,
            connection,
            block,
            runs,
        } = times;
        let now = [exchange, connection, block].map(|slices| median(slices));
        if programs.is_none() {
            off = now;
            println!(
                "  off: {:.0} ns an exchange, {:.0} ns a connection, {:.0} ns a block",
                now[0], now[1], now[2]
            );
            continue;
        }
        let runs = runs.each_mut().map(|runs| median(runs));
        let added: [f64; 3] = std::array::from_fn(|kind| now[kind] - off[kind]);
        println!(
            "  {}: {:+.0} ns an exchange ({:.1} runs, {:.0} ns each), {:+.0} ns a connection ({:.1} runs), {:+.0} ns a block ({:.1} runs, \
             {:.0} ns each; {:.3} of the bytes per CPU time)",
            way.name,
            added[0],
            runs[0],
            added[0] / runs[0],
            added[1],
            runs[1],
            added[2],
            runs[2],
            added[2] / runs[2],
            off[2] / now[2]
        );
    }
}

/// Run time of the programs by the kernel's count; an empty program shows some 50 ns of it.
fn run_times(programs: &mut Inspect, ends: &mut [TcpStream; 2]) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let mut buffer = vec![1; BLOCK];
    let mut text = String::new();
    for (what, count) in [
        ("exchanges", EXCHANGES),
        ("connections", CONNECTIONS),
        ("blocks", BLOCKS),
    ] {
        // Those of this way alone run.
        let before = kernel::programs();
        for _ in 0..count {
            match what {
                "exchanges" => exchange(ends),
                "connections" => short_connection(&listener),
                _ => pass_block(ends, &mut buffer),
            }
        }
        let after = kernel::programs();
        drain(programs);
        let _ = write!(text, "; {what}:");
        for name in PROGRAMS {
            let [now, then] =
                [&after, &before].map(|programs| programs.get(name).copied().unwrap_or_default());
            let runs = now.runs - then.runs;
            if runs > 0 {
                let each = (now.run_time_ns - then.run_time_ns) as f64 / runs as f64;
                let _ = write!(text, " {name} {each:.0}");
            }
        }
    }
    text
}

/// Throughput of one connection: each run beside one with nothing attached, in turn before and after it.
fn throughput(ways: &mut [(Way, Option<Inspect>, Times)]) {
    println!(
        "  throughput of one connection, and the kernel's time in it, as ratios to off: median (quartiles) of {RUNS} pairs"
    );
    Stats::without(|| {
        let _ = bulk();
        for (way, programs, _) in ways {
            if programs.is_none() {
                continue;
            }
            let mut ratios = [Vec::new(), Vec::new()];
            for run in 0..RUNS {
                let before = (run % 2 == 0).then(bulk);
                attach(programs);
                let with = bulk();
                detach(programs);
                if let Some(programs) = programs {
                    drain(programs);
                }
                let off = before.unwrap_or_else(bulk);
                // Throughput is the inverse of the time.
                ratios[0].push(off.0 / with.0);
                ratios[1].push(with.1 / off.1);
            }
            let [throughput, kernel] = ratios.map(|mut ratios| spread(&mut ratios));
            println!("  {}: throughput {throughput}, kernel time {kernel}", way.name);
        }
    });
}

/// The daemon without the option: no program of it is loaded, and none at all runs for segments of an open connection.
fn off_runs_nothing(ends: &mut [TcpStream; 2]) {
    let _agent = Agent::start(&["receivers.ebpf.mode=sockets", "receivers.ebpf.interval=10m"]);
    let count = || -> u64 { kernel::programs().values().map(|program| program.runs).sum() };
    for name in PROGRAMS {
        assert!(!kernel::programs().contains_key(name), "{name} is loaded");
    }
    let before = count();
    for _ in 0..EXCHANGES {
        exchange(ends);
    }
    println!(
        "  flowtap without `inspect`: {} runs of its programs in {EXCHANGES} exchanges",
        count() - before
    );
}

fn budgets() {
    println!("  budgets, under a load that would take more; CPU time in % of one CPU:");
    println!(
        "  {:<8} {:>14} {:>12} {:>16} {:>16} {:>11} {:>16} {:>10} {:>14}",
        "budget",
        "exchanges/s",
        "own count",
        "programs' time",
        "flowtap's time",
        "attached %",
        "exchanges seen %",
        "lost %",
        "settled %"
    );
    for budget in [None, Some("100%"), Some("1%"), Some("0.1%")] {
        under_load(budget);
    }
    println!(
        "  own count: flowtap_receiver_inspect_cpu_time_seconds_total; programs' time: by the kernel, with the time that it takes to take it; \
         lost: exchanges without room in the ring; settled: connections with a protocol"
    );
}

fn under_load(budget: Option<&str>) {
    let (scraped, telemetry) = (agent::free_address(), agent::free_address());
    let inspect = budget.map(|budget| {
        format!("receivers.ebpf.inspect={{protocols: true, exchanges: true, budget: {budget}}}")
    });
    let endpoints = [
        format!("exporters.prometheus.endpoint={scraped}"),
        format!("service.telemetry.metrics.endpoint={telemetry}"),
        "receivers.ebpf.mode=sockets".to_owned(),
    ];
    let set: Vec<_> = endpoints.iter().chain(&inspect).map(String::as_str).collect();
    let agent = Agent::start(&set);
    let (done, exchanges, connections) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                LOAD.run();
                exchanges.fetch_add((LOAD.messages() / 2) as u64, Ordering::Relaxed);
                connections.fetch_add(LOAD.connections as u64, Ordering::Relaxed);
            }
        });
        let look = || Look::take(&agent, telemetry, scraped, [&exchanges, &connections]);
        thread::sleep(WARM_UP);
        let before = look();
        thread::sleep(MEASURED);
        let after = look();
        done.store(true, Ordering::Relaxed);
        after.print(&before, budget.unwrap_or("off"));
    });
}

/// Running totals at a moment.
struct Look {
    at: Instant,
    /// Exchanges and connections of the load.
    made: [u64; 2],
    programs_ns: u64,
    agent_seconds: f64,
    own_seconds: f64,
    attached_seconds: f64,
    detached_seconds: f64,
    exchanges: f64,
    lost: f64,
    settled: f64,
    closed: f64,
}

impl Look {
    fn take(agent: &Agent, telemetry: SocketAddr, scraped: SocketAddr, made: [&AtomicU64; 2]) -> Self {
        let programs = kernel::programs();
        let usage = agent.usage();
        let own = agent::scrape(telemetry).expect("own metrics");
        let seen = agent::scrape(scraped).expect("a scrape");
        let time = |state: &str| agent::sum(&own, "receiver_inspect_time_seconds_total", &[state]);
        let connections = |labels: &[&str]| agent::sum(&own, "receiver_inspect_connections_total", labels);
        Self {
            at: usage.at,
            made: made.map(|made| made.load(Ordering::Relaxed)),
            programs_ns: PROGRAMS
                .iter()
                .filter_map(|name| programs.get(*name))
                .map(|program| program.run_time_ns)
                .sum(),
            agent_seconds: usage.cpu_seconds,
            own_seconds: agent::sum(&own, "receiver_inspect_cpu_time_seconds_total", &[]),
            attached_seconds: time("state=\"attached\""),
            detached_seconds: time("state=\"detached\""),
            exchanges: agent::sum(&seen, "network_tcp_exchanges", &[]),
            lost: agent::sum(
                &own,
                "receiver_inspect_lost_total",
                &["reason=\"exchange_ring_full\""],
            ),
            settled: connections(&["result=\"recognized\""]) + connections(&["result=\"unrecognized\""]),
            closed: connections(&[]),
        }
    }

    fn print(&self, before: &Self, budget: &str) {
        let wall = self.at.duration_since(before.at).as_secs_f64();
        let made = (self.made[0] - before.made[0]) as f64;
        let (attached, detached) = (
            self.attached_seconds - before.attached_seconds,
            self.detached_seconds - before.detached_seconds,
        );
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole * 100.0 } else { 0.0 };
        println!(
            "  {budget:<8} {:>14.0} {:>12.3} {:>16.3} {:>16.3} {:>11.1} {:>16.1} {:>10.1} {:>14.1}",
            made / wall,
            share(self.own_seconds - before.own_seconds, wall),
            share((self.programs_ns - before.programs_ns) as f64 / 1e9, wall),
            share(self.agent_seconds - before.agent_seconds, wall),
            share(attached, attached + detached),
            // At both ends.
            share(self.exchanges - before.exchanges, 2.0 * made),
            share(self.lost - before.lost, 2.0 * made),
            share(self.settled - before.settled, self.closed - before.closed)
        );
    }
}

fn exchange([client, server]: &mut [TcpStream; 2]) {
    let mut bytes = [1; 64];
    client.write_all(&bytes).expect("sent");
    server.read_exact(&mut bytes).expect("received");
    server.write_all(&bytes).expect("sent");
    client.read_exact(&mut bytes).expect("received");
}

/// A connection with a request and an answer of HTTP.
fn short_connection(listener: &TcpListener) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example.test\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (mut server, _) = listener.accept().expect("accepted");
    client.write_all(REQUEST).expect("sent");
    server.read_exact(&mut [0; REQUEST.len()]).expect("received");
    server.write_all(ANSWER).expect("sent");
    client.read_exact(&mut [0; ANSWER.len()]).expect("received");
}
