//! Mode `events`, at the level of the ring: a large ring is filled by real segments without a
//! reader, then one thread drains it as fast as it can; and a ring of the default size is overrun,
//! to see whether dropped records are counted exactly.
//!
//! Every message of the load is one segment, and every segment one event. There are also some for
//! acknowledgements and FINs that carry a change: bytes that their sender has sent, or bytes that
//! were put off.

use std::hint::black_box;
use std::time::Instant;

use flowtap_ebpf::{Event, Events, EventsOptions};

use crate::exchange::Exchange;

/// The default.
const RING: u32 = 1 << 24;

pub(crate) fn run() {
    println!("drain, mode events: one thread, from the ring to records");
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>16} {:>12} {:>16}",
        "ring MiB", "messages", "drained", "dropped", "besides messages", "ns/event", "million events/s"
    );
    fill(1 << 28, 18_000);
    fill(RING, 6_000);
}

/// Fills a ring of `bytes` by 16 connections of so many `requests`, then drains it.
fn fill(bytes: u32, requests: usize) {
    let mut events = Events::load(&EventsOptions {
        ring_buffer_bytes: bytes,
        max_sockets: 1 << 12,
        translation: true,
    })
    .expect("mode events");
    let exchange = Exchange {
        connections: 16,
        requests,
        request: 64,
        answer: 64,
    };
    let done = exchange.run();
    let port = done.port;
    let (mut ours, mut received) = (0_u64, 0_i64);
    let began = Instant::now();
    let drained = events.drain_segments(|event| {
        if let Event::Flow(flow) = black_box(&event)
            && [flow.tuple.local_port, flow.tuple.remote_port].contains(&port)
        {
            ours += 1;
            received += flow.received;
        }
    });
    let took = began.elapsed();
    let drained = drained.expect("drained");
    let dropped = events.losses().expect("losses").segments;
    let messages = exchange.messages() as u64;
    println!(
        "{:>10} {messages:>10} {ours:>10} {dropped:>10} {:>16} {:>12.1} {:>16.2}",
        bytes >> 20,
        i128::from(ours) + i128::from(dropped) - i128::from(messages),
        took.as_nanos() as f64 / drained as f64,
        drained as f64 / took.as_secs_f64() / 1e6
    );
    let _ = black_box(received);
}
