//! Prints what the UDP programs count, for tests that compare it with the applications' own counts.
//!
//! `udp_flows [functions|cgroup|tracepoints] [MAX_FLOWS] [DNS_PORT]`: loads the programs, prints `step NAME`, and reads lines from
//! standard input. At each line it prints the flows that moved since the last one, as `flow` with the sums by socket and peer, then
//! `other`, `seen` and `end`. It ends with its input.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use flowtap_ebpf::abi::AF_INET;
use flowtap_ebpf::udp::monotonic_ns;
use flowtap_ebpf::{Hooks, Udp, UdpChange, UdpDelta, UdpOptions};

type Sums = BTreeMap<String, UdpDelta>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    let hooks = match argument(0) {
        Some("cgroup") => Hooks::Cgroup,
        Some("tracepoints") => Hooks::Tracepoints,
        _ => Hooks::Functions,
    };
    let mut udp = Udp::load(&UdpOptions {
        hooks,
        max_flows: argument(1).map_or(Ok(16_384), str::parse)?,
        idle: Duration::from_secs(15),
        dns_ports: argument(2).map(str::parse).transpose()?.into_iter().collect(),
        dns_ring_bytes: 1 << 20,
    })?;
    for refusal in udp.refused().iter().chain(udp.absent()) {
        writeln!(std::io::stderr(), "{}: {}", refusal.what, refusal.error)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "step {}", udp.step().as_str())?;
    for refusal in udp.absent() {
        writeln!(out, "absent {}", refusal.what)?;
    }
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let mut sums = Sums::new();
        udp.scan(monotonic_ns(), |change| add(&mut sums, change))?;
        for (flow, delta) in &sums {
            writeln!(out, "flow {flow} {}", text(delta))?;
        }
        let mut datagrams = 0;
        udp.drain_dns(|datagram| {
            datagrams += 1;
            assert_eq!(datagram.payload.len(), datagram.head.captured_bytes as usize);
        })?;
        let other = udp.unplaced();
        writeln!(
            out,
            "other {} {} {} {}",
            other.sent, other.sent_datagrams, other.received, other.received_datagrams
        )?;
        let seen = udp.seen()?;
        writeln!(
            out,
            "seen {} {} overflow {} {} closed_lost {} dns {datagrams} dns_lost {} dns_unread {} unparsed {}",
            seen.seen.sent_datagrams,
            seen.seen.received_datagrams,
            seen.overflow.sent_datagrams,
            seen.overflow.received_datagrams,
            seen.closed_lost,
            seen.dns_lost,
            seen.dns_unread,
            seen.unparsed
        )?;
        for program in udp.program_misses()? {
            writeln!(out, "misses {} {}", program.program, program.misses)?;
        }
        writeln!(out, "end")?;
        out.flush()?;
    }
    Ok(())
}

fn add(sums: &mut Sums, change: &UdpChange) {
    let (flow, delta) = (&change.flow, &change.delta);
    let end = |bytes: [u8; 16], port| SocketAddr::new(address(flow.key.family, bytes), port);
    let comm = String::from_utf8_lossy(&flow.comm);
    let name = format!(
        "{} {} {} {} {} {} {}",
        flow.key.protocol,
        flow.key.local_port,
        end(flow.key.remote_addr, flow.key.remote_port),
        flow.marks,
        flow.pid,
        flow.netns,
        comm.trim_end_matches('\0').replace(' ', "_"),
    );
    let sum = sums.entry(name).or_default();
    sum.sent += delta.sent;
    sum.received += delta.received;
    sum.sent_datagrams += delta.sent_datagrams;
    sum.received_datagrams += delta.received_datagrams;
    sum.dropped += delta.dropped;
    sum.errors += delta.errors;
}

fn text(delta: &UdpDelta) -> String {
    format!(
        "{} {} {} {} {} {}",
        delta.sent,
        delta.sent_datagrams,
        delta.received,
        delta.received_datagrams,
        delta.dropped,
        delta.errors
    )
}

fn address(family: u16, bytes: [u8; 16]) -> IpAddr {
    if family == AF_INET {
        let [a, b, c, d, ..] = bytes;
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from(bytes).into()
    }
}
