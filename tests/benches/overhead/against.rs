//! The same load with others of flowtap's kind: off, a program on every packet, pmacctd, and flowtap in both modes;
//! interleaved, each with its windows of 5 s.
//!
//! The counted quantity differs by design. flowtap counts payload as TCP does, once; the others
//! count IP packets with their headers. So theirs is shown unchanged, and less 52 bytes a packet
//! (IPv4, TCP, timestamps), as their users would calculate it.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::agent::{self, Agent};
use crate::capture::Object;
use crate::exchange::{Done, Exchange};
use crate::kernel;
use crate::pmacct::Pmacct;

/// Rounds; each has all, so that drifts of the machine hit all alike.
const ROUNDS: usize = 3;

/// Headers of a packet without options but timestamps.
const HEADERS: u64 = 52;

/// Two windows, and what reading takes.
const SETTLE: Duration = Duration::from_secs(11);

const LOADS: [(&str, Exchange); 2] = [
    (
        "small: 64 bytes asked, 512 answered",
        Exchange {
            connections: 16,
            requests: 15_000,
            request: 64,
            answer: 512,
        },
    ),
    (
        "bulk: 64 bytes asked, 256 KiB answered",
        Exchange {
            connections: 16,
            requests: 2_000,
            request: 64,
            answer: 256 << 10,
        },
    ),
];

#[derive(Clone, Copy, Debug)]
enum Contender {
    Off,
    Capture,
    Pmacct,
    Flowtap(&'static str),
}

const CONTENDERS: [Contender; 5] = [
    Contender::Off,
    Contender::Capture,
    Contender::Pmacct,
    Contender::Flowtap("sockets"),
    Contender::Flowtap("events"),
];

impl Contender {
    const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Capture => "every packet (tc)",
            Self::Pmacct => "pmacctd",
            Self::Flowtap(mode) => mode,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    messages_per_second: f64,
    segments: f64,
    kernel_ns: f64,
    cpu_seconds: f64,
    rss_kib: u64,
    /// The application's own bytes, and what was counted of them.
    bytes: f64,
    counted: f64,
    /// The same without headers, where they are counted.
    payload: f64,
    /// Events, in the mode that has them.
    events: f64,
}

pub(crate) fn run() {
    let (object, pmacct) = (Object::compile(), Pmacct::new());
    for (name, exchange) in LOADS {
        let mut sums = [Sums::default(); CONTENDERS.len()];
        for round in 0..ROUNDS {
            for step in 0..CONTENDERS.len() {
                // Another order each round.
                let number = (round + step) % CONTENDERS.len();
                measure(CONTENDERS[number], exchange, &object, &pmacct, &mut sums[number]);
            }
        }
        println!(
            "against others, {name}; {} connections, {} messages, {ROUNDS} rounds each",
            exchange.connections,
            exchange.messages()
        );
        print(&sums);
    }
}

fn print(sums: &[Sums; CONTENDERS.len()]) {
    println!(
        "{:<18} {:>10} {:>7} {:>14} {:>9} {:>8} {:>16} {:>16}",
        "", "messages/s", "ratio", "kernel ns/seg", "CPU s", "RSS MiB", "counted / sent", "less headers"
    );
    for (contender, sum) in CONTENDERS.iter().zip(sums) {
        print!(
            "{:<18} {:>10.0} {:>7.3}",
            contender.name(),
            sum.messages_per_second / ROUNDS as f64,
            sum.messages_per_second / sums[0].messages_per_second
        );
        if matches!(contender, Contender::Off) {
            println!();
            continue;
        }
        let kernel = if matches!(contender, Contender::Pmacct) {
            "not BPF".to_owned()
        } else {
            format!("{:.2}", sum.kernel_ns / sum.segments)
        };
        println!(
            " {kernel:>14} {:>9.2} {:>8.1} {:>16.9} {:>16.9}",
            sum.cpu_seconds / ROUNDS as f64,
            sum.rss_kib as f64 / 1024.0,
            sum.counted / sum.bytes,
            sum.payload / sum.bytes
        );
    }
    let ratio = |of: fn(&Sums) -> f64, number: usize| of(&sums[number]) / of(&sums[3]).max(1e-9);
    println!(
        "over mode sockets: kernel time of every packet {:.0}, of events {:.0}; agent's CPU of every packet {:.1}, \
         pmacctd {:.1}, events {:.1}",
        ratio(|sum| sum.kernel_ns, 1),
        ratio(|sum| sum.kernel_ns, 4),
        ratio(|sum| sum.cpu_seconds, 1),
        ratio(|sum| sum.cpu_seconds, 2),
        ratio(|sum| sum.cpu_seconds, 4),
    );
    println!(
        "mode events, all of the agent: {:.2} us of CPU an event, {:.2} million a second on one core\n",
        sums[4].cpu_seconds / sums[4].events * 1e6,
        sums[4].events / sums[4].cpu_seconds / 1e6
    );
}

fn measure(contender: Contender, exchange: Exchange, object: &Object, pmacct: &Pmacct, sums: &mut Sums) {
    let scrape = agent::free_address();
    let agent = match contender {
        Contender::Off => None,
        Contender::Capture => Some(object.start()),
        Contender::Pmacct => Some(pmacct.start()),
        Contender::Flowtap(mode) => Some(Agent::start(&[
            &format!("receivers.ebpf.mode={mode}"),
            &format!("exporters.prometheus.endpoint={scrape}"),
        ])),
    };
    let (before, segments) = (agent.as_ref().map(Agent::usage), kernel::segments());
    let done = exchange.run();
    let segments = kernel::segments() - segments;
    sums.messages_per_second += exchange.messages() as f64 / done.took.as_secs_f64();
    let (Some(agent), Some(before)) = (agent, before) else {
        return;
    };
    thread::sleep(SETTLE);
    let after = agent.usage();
    sums.segments += segments as f64;
    sums.kernel_ns += (after.programs_ns - before.programs_ns) as f64;
    sums.cpu_seconds += after.cpu_seconds - before.cpu_seconds;
    sums.rss_kib = sums.rss_kib.max(after.rss_kib);
    sums.bytes += done.bytes as f64;
    match contender {
        Contender::Off => {}
        Contender::Capture => sums.add_packets(object.counted(done.port)),
        Contender::Pmacct => sums.add_packets(pmacct.counted(done.port)),
        Contender::Flowtap(_) => sums.add_flowtap(scrape, &done),
    }
}

impl Sums {
    fn add_packets(&mut self, [packets, bytes]: [u64; 2]) {
        self.counted += bytes as f64;
        self.payload += bytes.saturating_sub(HEADERS * packets) as f64;
    }

    /// Both ends are on this machine, and each reports all bytes: the count is the mean of the two.
    fn add_flowtap(&mut self, scrape: SocketAddr, done: &Done) {
        let text = agent::scrape(scrape).expect("a scrape");
        let port = |label: &str| format!("{label}=\"{}\"", done.port);
        let counted = agent::sum(&text, "network_tcp_flow_egress", &[&port("rport")])
            + agent::sum(&text, "network_tcp_flow_ingress", &[&port("lport")]);
        self.counted += counted / 2.0;
        self.payload += counted / 2.0;
        self.events += agent::sum(&text, "bpf_event_recv", &[]);
    }
}
