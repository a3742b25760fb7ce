//! Cost of a datagram, of a DNS transaction, and of TCP beside them, with each way to count UDP and with the usual design, programs on
//! every packet of the device (`datagrams.bpf.c`). All of it over loopback:
//!
//! - a datagram of 64 bytes, sent and taken; a query of 33 bytes with its answer; a TCP exchange of 64 bytes each way: CPU time of the
//!   thread that does both ends, less that with nothing attached;
//! - TCP in blocks of 32 KiB, both ends in one thread: bytes per second of its CPU time, as ratios to the slice with nothing attached of the
//!   same round. Other programs on the machine hardly change it;
//! - TCP throughput of one connection by the clock, and the kernel's time in it, as ratios to the run with nothing attached that is next to it.
//!
//! Ways take turns in short slices, so that drifts of the machine hit all alike; each result is the median.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use flowtap_ebpf::{Hooks, Udp, UdpOptions};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

use crate::kernel::{self, Stats};

const SLICES: usize = 40;
const PAIRS: u32 = 5_000;

/// Of a slice: their messages, four each, fit into the ring.
const TRANSACTIONS: u32 = 500;

/// A block of TCP, which the window of a new connection has room for, and how many there are in a slice.
pub(crate) const BLOCK: usize = 32 << 10;
const BLOCKS: u32 = 1_000;

/// Bytes of a run of one TCP connection, and how many runs there are.
const BULK: usize = 256 << 20;
const RUNS: usize = 21;

/// A way to count.
#[derive(Clone, Copy, Debug)]
enum Way {
    Nothing,
    Udp(&'static str, Hooks),
    /// A program of `datagrams.bpf.c`.
    Packets(&'static str, &'static str),
}

const WAYS: [Way; 6] = [
    Way::Nothing,
    Way::Udp("functions", Hooks::Functions),
    Way::Udp("cgroup", Hooks::Cgroup),
    Way::Udp("tracepoints", Hooks::Tracepoints),
    Way::Packets("packets (tc), flows", "count_datagram"),
    Way::Packets("packets (tc), flows and DNS", "follow_dns"),
];

/// Programs that count, until they are dropped.
#[derive(Debug)]
enum Attached {
    Nothing,
    Udp(Box<Udp>),
    Packets(#[expect(dead_code, reason = "kept for its programs")] Ebpf),
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "off",
            Self::Udp(name, _) | Self::Packets(name, _) => name,
        }
    }

    /// `None` where it does not load.
    fn attach(self, object: &Object, dns_port: u16) -> Option<Attached> {
        match self {
            Self::Nothing => Some(Attached::Nothing),
            Self::Udp(_, hooks) => {
                let options = UdpOptions {
                    hooks,
                    max_flows: 16_384,
                    idle: Duration::from_secs(15),
                    dns_ports: vec![dns_port],
                    dns_ring_bytes: 1 << 21,
                };
                Udp::load(&options).ok().map(|udp| Attached::Udp(Box::new(udp)))
            }
            Self::Packets(_, program) => Some(Attached::Packets(object.attach(program, dns_port))),
        }
    }
}

impl Attached {
    /// Empties the rings, as flowtap does.
    fn drain(&mut self) {
        if let Self::Udp(udp) = self {
            udp.drain_dns(|_| {}).expect("a ring");
            udp.drain_closed(|_| {}).expect("a ring");
        }
    }
}

/// The compiled programs of the usual design, gone with their folder.
#[derive(Debug)]
struct Object(tempfile::TempDir);

impl Object {
    fn compile() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/benches/overhead/datagrams.bpf.c");
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
        let status = Command::new(clang)
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
            .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(folder.path().join("datagrams.bpf.o"))
            .status();
        assert!(status.is_ok_and(|status| status.success()), "clang");
        Self(folder)
    }

    fn attach(&self, name: &str, dns_port: u16) -> Ebpf {
        let mut ebpf = EbpfLoader::new()
            .override_global("dns_port", &dns_port, true)
            .load_file(self.0.path().join("datagrams.bpf.o"))
            .expect("programs that load");
        if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 6, 0)) {
            // Without TCX. There may be one already.
            let _ = aya::programs::tc::qdisc_add_clsact("lo");
        }
        let program: &mut SchedClassifier = ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .expect("a program");
        program.load().expect("loaded");
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            program.attach("lo", side).expect("attached");
        }
        ebpf
    }
}

/// Sockets that the measurements go through.
#[derive(Debug)]
struct Ends {
    datagrams: [UdpSocket; 2],
    /// The side that asks, and the name server.
    dns: [UdpSocket; 2],
    exchange: [TcpStream; 2],
}

/// Nanoseconds of each slice.
#[derive(Debug, Default)]
struct Times {
    datagram: Vec<f64>,
    transaction: Vec<f64>,
    exchange: Vec<f64>,
    block: Vec<f64>,
}

pub(crate) fn run() {
    let object = Object::compile();
    let mut ends = Ends {
        datagrams: pair(),
        dns: pair(),
        exchange: connection(),
    };
    let dns_port = ends.dns[1].local_addr().expect("bound").port();
    println!("cost of a datagram, of a DNS transaction, and of a TCP exchange, over loopback");
    let mut times: Vec<Option<Times>> = WAYS.iter().map(|_| Some(Times::default())).collect();
    Stats::without(|| {
        for _ in 0..SLICES {
            for (way, known) in WAYS.iter().zip(&mut times) {
                let Some(times) = known else { continue };
                let Some(mut attached) = way.attach(&object, dns_port) else {
                    *known = None;
                    continue;
                };
                slice(&mut ends, times);
                attached.drain();
            }
        }
    });
    report(&mut times);
    for line in programs_of(&object, &mut ends, dns_port) {
        println!("{line}");
    }
    throughput(&object, dns_port);
}

fn slice(ends: &mut Ends, times: &mut Times) {
    let Ends {
        datagrams,
        dns,
        exchange,
    } = ends;
    // The ring is empty yet: a transaction that has no room in it costs less.
    times.transaction.push(each(TRANSACTIONS, |id| ask(dns, id)));
    times.datagram.push(each(PAIRS, |_| pass(datagrams)));
    times.exchange.push(each(PAIRS, |_| echo(exchange)));
    let mut buffer = vec![1; BLOCK];
    times
        .block
        .push(each(BLOCKS, |_| pass_block(exchange, &mut buffer)));
}

fn report(times: &mut [Option<Times>]) {
    let mut off = [0.0; 3];
    let blocks_off = times[0]
        .as_ref()
        .map(|times| times.block.clone())
        .unwrap_or_default();
    for (way, times) in WAYS.iter().zip(times) {
        let Some(times) = times else {
            println!("  {}: does not load here", way.name());
            continue;
        };
        let now =
            [&mut times.datagram, &mut times.transaction, &mut times.exchange].map(|slices| median(slices));
        if matches!(way, Way::Nothing) {
            off = now;
            let [datagram, transaction, exchange] = now;
            println!(
                "  off: {datagram:.0} ns a datagram, {transaction:.0} ns a transaction, {exchange:.0} ns an exchange, \
                 {:.2} GiB of TCP per second of CPU time",
                BLOCK as f64 / median(&mut times.block) * 1e9 / f64::from(1 << 30)
            );
            continue;
        }
        let mut ratios: Vec<_> = blocks_off
            .iter()
            .zip(&times.block)
            .map(|(off, with)| off / with)
            .collect();
        let [datagram, transaction, exchange] = [0, 1, 2].map(|index| now[index] - off[index]);
        println!(
            "  {}: {datagram:+.0} ns a datagram, {transaction:+.0} ns a transaction, {exchange:+.0} ns an exchange, \
             TCP per CPU time {} of off",
            way.name(),
            spread(&mut ratios)
        );
    }
}

/// Run time of each way's programs by the kernel's count; an empty program shows some 50 ns of it.
fn programs_of(object: &Object, ends: &mut Ends, dns_port: u16) -> Vec<String> {
    let mut lines = Vec::new();
    for way in &WAYS[1..] {
        let Some(attached) = way.attach(object, dns_port) else {
            continue;
        };
        for (what, count, work) in [
            (
                "datagrams",
                PAIRS,
                (|ends, _| pass(&ends.datagrams)) as fn(&mut Ends, u32),
            ),
            ("queries and answers", TRANSACTIONS, |ends, id| ask(&ends.dns, id)),
        ] {
            let before = kernel::programs();
            for id in 0..count {
                work(ends, id);
            }
            for (name, program) in kernel::programs() {
                let earlier = before.get(&name).copied().unwrap_or_default();
                let runs = program.runs - earlier.runs;
                if runs >= u64::from(count) {
                    let each = (program.run_time_ns - earlier.run_time_ns) as f64 / runs as f64;
                    lines.push(format!("  {}, {what}: {name} {each:.0} ns a run", way.name()));
                }
            }
        }
        drop(attached);
    }
    lines
}

/// Throughput and kernel time of one TCP connection: each run beside one with nothing attached, in turn before and after it.
fn throughput(object: &Object, dns_port: u16) {
    println!(
        "TCP throughput of one connection, {} MiB, and the kernel's time in it, as ratios to off: median (quartiles) of {RUNS} pairs",
        BULK >> 20
    );
    Stats::without(|| {
        let _ = bulk();
        for way in &WAYS[1..] {
            let mut ratios = [Vec::new(), Vec::new()];
            for run in 0..RUNS {
                let before = (run % 2 == 0).then(bulk);
                let Some(mut attached) = way.attach(object, dns_port) else {
                    break;
                };
                let with = bulk();
                attached.drain();
                drop(attached);
                let off = before.unwrap_or_else(bulk);
                // Throughput is the inverse of the time.
                ratios[0].push(off.0 / with.0);
                ratios[1].push(with.1 / off.1);
            }
            if ratios[0].is_empty() {
                println!("  {}: does not load here", way.name());
                continue;
            }
            let [throughput, kernel] = ratios.map(|mut ratios| spread(&mut ratios));
            println!("  {}: throughput {throughput}, kernel time {kernel}", way.name());
        }
    });
}

/// Sends `BULK` bytes through a connection; returns the seconds that it took, and those of the kernel, on all CPUs.
pub(crate) fn bulk() -> (f64, f64) {
    let [mut client, mut server] = connection();
    let in_kernel = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
        usage.system_time().num_microseconds() as f64 / 1e6
    };
    let (began, before) = (Instant::now(), in_kernel());
    let reader = thread::spawn(move || {
        let (mut buffer, mut read) = (vec![0; 1 << 18], 0);
        while read < BULK {
            read += server.read(&mut buffer).expect("received");
        }
    });
    let block = vec![1; 1 << 18];
    for _ in 0..BULK >> 18 {
        client.write_all(&block).expect("sent");
    }
    reader.join().expect("all of it");
    (began.elapsed().as_secs_f64(), in_kernel() - before)
}

fn pair() -> [UdpSocket; 2] {
    let [one, two] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket"));
    one.connect(two.local_addr().expect("bound")).expect("connected");
    two.connect(one.local_addr().expect("bound")).expect("connected");
    [one, two]
}

/// Both ends of a connection.
pub(crate) fn connection() -> [TcpStream; 2] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    for end in [&client, &server] {
        end.set_nodelay(true).expect("TCP_NODELAY");
    }
    [client, server]
}

fn pass([from, to]: &[UdpSocket; 2]) {
    from.send(&[1; 64]).expect("sent");
    assert_eq!(to.recv(&mut [0; 128]).expect("received"), 64);
}

/// A query for `www.example.com`, type A, and an answer without records.
fn ask([client, server]: &[UdpSocket; 2], id: u32) {
    let mut message = [0; 33];
    let [.., high, low] = id.to_be_bytes();
    message[..12].copy_from_slice(&[high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message[12..].copy_from_slice(b"\x03www\x07example\x03com\0\0\x01\0\x01");
    client.send(&message).expect("sent");
    assert_eq!(server.recv(&mut message).expect("received"), 33);
    message[2] |= 0x80;
    server.send(&message).expect("sent");
    assert_eq!(client.recv(&mut message).expect("received"), 33);
}

fn echo([client, server]: &mut [TcpStream; 2]) {
    let mut bytes = [1; 64];
    client.write_all(&bytes).expect("sent");
    server.read_exact(&mut bytes).expect("received");
}

pub(crate) fn pass_block([client, server]: &mut [TcpStream; 2], buffer: &mut [u8]) {
    client.write_all(buffer).expect("sent");
    server.read_exact(buffer).expect("received");
}

/// Nanoseconds of this thread for each of `count`, which are numbered.
pub(crate) fn each(count: u32, mut work: impl FnMut(u32)) -> f64 {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"));
    for index in 0..count / 10 {
        work(60_000 + index % 5_000);
    }
    let start = now();
    for index in 0..count {
        work(index);
    }
    now().saturating_sub(start).as_secs_f64() * 1e9 / f64::from(count)
}

/// Median and quartiles.
pub(crate) fn spread(values: &mut [f64]) -> String {
    let middle = median(values);
    let [low, high] = [values.len() / 4, values.len() * 3 / 4].map(|index| values[index]);
    format!("{middle:.3} ({low:.3} to {high:.3})")
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
