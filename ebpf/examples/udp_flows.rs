//! Prints what the UDP programs count, for tests that compare it with the applications' own counts.
//!
//! `udp_flows [functions|cgroup|tracepoints|STEP] [MAX_FLOWS] [DNS_PORT]`: loads the programs, prints `step NAME`, `refused STEP REASON`
//! for each step that was tried before, and reads lines from standard input. At each line it prints the flows that moved since the last
//! one, as `flow` with the sums by socket and peer, each datagram of the port as `dns`, then `other`, `seen`, `misses` and `end`. It
//! ends with its input. STEP is `fentry`, `kprobe_multi` or `kprobe`: that step and no other.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use flowtap_ebpf::abi::AF_INET;
use flowtap_ebpf::udp::abi::DnsDatagram;
use flowtap_ebpf::udp::monotonic_ns;
use flowtap_ebpf::{Hooks, Step, Udp, UdpChange, UdpDelta, UdpOptions};

type Sums = BTreeMap<String, UdpDelta>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    let hooks = match argument(0) {
        Some("cgroup") => Hooks::Cgroup,
        Some("tracepoints") => Hooks::Tracepoints,
        Some("fentry") => Hooks::Only(Step::Fentry),
        Some("kprobe_multi") => Hooks::Only(Step::KprobeMulti),
        Some("kprobe") => Hooks::Only(Step::Kprobe),
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
    for refusal in udp.refused() {
        let reason = refusal.error.to_string();
        writeln!(
            out,
            "refused {} {}",
            refusal.what,
            reason.lines().next().unwrap_or_default()
        )?;
    }
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
        let mut lines = Vec::new();
        udp.drain_dns(|datagram| {
            datagrams += 1;
            assert_eq!(datagram.payload.len(), datagram.head.captured_bytes as usize);
            lines.push(dns(datagram));
        })?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
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

/// Direction, local port, peer, process, namespace, name, bytes of the payload and of what was captured of it, flags and id.
fn dns(datagram: &DnsDatagram<'_>) -> String {
    let head = &datagram.head;
    let id = datagram
        .payload
        .first_chunk()
        .map_or(0, |bytes| u16::from_be_bytes(*bytes));
    format!(
        "dns {} {} {} {} {} {} {} {} {} {id}",
        head.direction,
        head.local_port,
        SocketAddr::new(address(head.family, head.remote_addr), head.remote_port),
        head.pid,
        head.netns,
        name_of(&head.comm),
        head.payload_bytes,
        head.captured_bytes,
        head.flags,
    )
}

/// `-` for none.
fn name_of(comm: &[u8; 16]) -> String {
    let comm = String::from_utf8_lossy(comm);
    match comm.trim_end_matches('\0') {
        "" => "-".to_owned(),
        comm => comm.replace(' ', "_"),
    }
}

fn add(sums: &mut Sums, change: &UdpChange) {
    let (flow, delta) = (&change.flow, &change.delta);
    let end = |bytes: [u8; 16], port| SocketAddr::new(address(flow.key.family, bytes), port);
    let name = format!(
        "{} {} {} {} {} {} {}",
        flow.key.protocol,
        flow.key.local_port,
        end(flow.key.remote_addr, flow.key.remote_port),
        flow.marks,
        flow.pid,
        flow.netns,
        name_of(&flow.comm),
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
