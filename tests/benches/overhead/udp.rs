//! Cost of a datagram: one sent and taken over loopback, 64 bytes, with each way to count it and with the usual design, a program
//! on every packet. And of a TCP exchange of the same size, which functions of UDP must not touch.
//!
//! CPU time of the thread that does both ends, per pair of a send and a receive. Ways take turns in short slices, so that drifts of the
//! machine hit all alike; each result is the median.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use flowtap_ebpf::{Hooks, Udp, UdpOptions};
use nix::time::{ClockId, clock_gettime};

use crate::capture::Object;
use crate::kernel::{self, Stats};

const SLICES: usize = 40;
const PAIRS: u32 = 5_000;

/// A way to count; what it returns counts until it is dropped.
struct Way {
    name: &'static str,
    attach: fn(&Object) -> Option<Box<dyn std::any::Any>>,
}

const WAYS: [Way; 5] = [
    Way {
        name: "off",
        attach: |_| Some(Box::new(())),
    },
    Way {
        name: "functions",
        attach: |_| load(Hooks::Functions),
    },
    Way {
        name: "cgroup",
        attach: |_| load(Hooks::Cgroup),
    },
    Way {
        name: "tracepoints",
        attach: |_| load(Hooks::Tracepoints),
    },
    Way {
        name: "packets (tc)",
        attach: |object| Some(Box::new(object.start())),
    },
];

fn load(hooks: Hooks) -> Option<Box<dyn std::any::Any>> {
    let options = UdpOptions {
        hooks,
        max_flows: 16_384,
        idle: Duration::from_secs(15),
        dns_ports: vec![53],
        dns_ring_bytes: 1 << 21,
    };
    Udp::load(&options)
        .ok()
        .map(|udp| Box::new(udp) as Box<dyn std::any::Any>)
}

pub(crate) fn run() {
    println!(
        "cost of a datagram of 64 bytes, sent and taken over loopback, and of a TCP exchange of 64 bytes"
    );
    let object = Object::compile();
    let datagrams = datagrams();
    let mut exchange = exchange();
    let mut times = vec![(Vec::new(), Vec::new()); WAYS.len()];
    let mut absent = [false; WAYS.len()];
    let programs = programs_of(&object, &datagrams);
    Stats::without(|| {
        for _ in 0..SLICES {
            for (way, ((udp, tcp), absent)) in WAYS.iter().zip(times.iter_mut().zip(&mut absent)) {
                let Some(attached) = (way.attach)(&object) else {
                    *absent = true;
                    continue;
                };
                udp.push(per_pair(|| pass(&datagrams)));
                tcp.push(per_pair(|| ask(&mut exchange)));
                drop(attached);
            }
        }
    });
    let (off_udp, off_tcp) = (median(&mut times[0].0), median(&mut times[0].1));
    println!("  off: {off_udp:.0} ns a datagram, {off_tcp:.0} ns an exchange");
    for (way, ((udp, tcp), absent)) in WAYS.iter().zip(times.iter_mut().zip(absent)).skip(1) {
        if absent {
            println!("  {}: does not load here", way.name);
            continue;
        }
        println!(
            "  {}: {:+.0} ns a datagram, {:+.0} ns an exchange",
            way.name,
            median(udp) - off_udp,
            median(tcp) - off_tcp
        );
    }
    for line in programs {
        println!("{line}");
    }
}

/// Run time of each way's programs by the kernel's count; an empty program shows some 50 ns of it.
fn programs_of(object: &Object, sockets: &[UdpSocket; 2]) -> Vec<String> {
    let mut lines = Vec::new();
    for way in &WAYS[1..] {
        let Some(attached) = (way.attach)(object) else {
            continue;
        };
        for _ in 0..PAIRS {
            pass(sockets);
        }
        for (name, program) in kernel::programs() {
            if program.runs >= u64::from(PAIRS) {
                let each = program.run_time_ns as f64 / program.runs as f64;
                lines.push(format!("  {}: {name} {each:.0} ns a run", way.name));
            }
        }
        drop(attached);
    }
    lines
}

fn datagrams() -> [UdpSocket; 2] {
    let [one, two] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket"));
    one.connect(two.local_addr().expect("bound")).expect("connected");
    two.connect(one.local_addr().expect("bound")).expect("connected");
    [one, two]
}

fn exchange() -> [TcpStream; 2] {
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

fn ask([client, server]: &mut [TcpStream; 2]) {
    let mut bytes = [1; 64];
    client.write_all(&bytes).expect("sent");
    server.read_exact(&mut bytes).expect("received");
}

/// Nanoseconds of this thread.
fn per_pair(mut pair: impl FnMut()) -> f64 {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"));
    for _ in 0..PAIRS / 10 {
        pair();
    }
    let start = now();
    for _ in 0..PAIRS {
        pair();
    }
    now().saturating_sub(start).as_secs_f64() * 1e9 / f64::from(PAIRS)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
