//! Links on which this machine drops what its own TCP sends: in the queue, in netfilter, in a tc program.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, WAIT_TIMEOUT};
use crate::netns;
use crate::require;
use crate::shielded::again_if_hidden;
use crate::traffic::Counted;

/// Mechanisms that drop packets on their way out of loopback, and the command that shows their
/// count.
pub(crate) const DROPS: [(&str, &str, &str, &str); 3] = [
    (
        "a short queue",
        "tc qdisc replace dev lo root tbf rate 300mbit burst 70k limit 140k",
        "tc -s qdisc show dev lo root | sed -n 's/.*dropped \\([0-9]*\\).*/\\1/p'",
        "tc qdisc del dev lo root",
    ),
    (
        "a policer",
        "nft 'table inet t { chain o { type filter hook output priority 0; \
         meta length > 500 limit rate over 100/second burst 5 packets counter drop; }; }'",
        "nft list table inet t | sed -n 's/.*packets \\([0-9]*\\) bytes.*/\\1/p' | tail -1",
        "nft delete table inet t",
    ),
    (
        "netfilter in the output hook",
        "nft 'table inet t { chain o { type filter hook output priority 0; \
         meta length > 500 numgen inc mod 5 == 0 counter drop; }; }'",
        "nft list table inet t | sed -n 's/.*packets \\([0-9]*\\) bytes.*/\\1/p' | tail -1",
        "nft delete table inet t",
    ),
];

/// Bytes that each connection sends.
pub(crate) const BYTES: usize = 2_000_000;

/// Runs a command in the namespace of this thread; returns what it prints.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Sends `bytes` from a client to a server, which closes last; returns what the server read.
pub(crate) fn send(address: SocketAddr, bytes: usize, before: impl FnOnce()) -> (u16, usize) {
    let listener = TcpListener::bind(address).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    before();
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        server.read_to_end(&mut read).unwrap();
        read.len()
    });
    client.write_all(&vec![b'x'; bytes]).unwrap();
    drop(client);
    (address.port(), reader.join().unwrap())
}

/// Waits until every connection of this thread's namespace is closed: a FIN is dropped like any other segment.
fn await_closed() {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let open = run("ss -Htanoi state all exclude listening exclude time-wait");
        if open.trim().is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still open: {open}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A program that drops every seventh packet of a queue, for `tc filter`.
const DROPPING: &str = r#"
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
__u64 packets = 0;
SEC("tc")
int every_seventh(struct __sk_buff *skb)
{
	if (skb->len < 500)
		return TC_ACT_OK;
	return __sync_fetch_and_add(&packets, 1) % 7 ? TC_ACT_OK : TC_ACT_SHOT;
}
char gpl[] SEC("license") = "GPL";
"#;

/// The compiled program; `None` where it can't be had.
fn dropping_program(dir: &std::path::Path) -> Option<String> {
    let (source, object) = (dir.join("drop.bpf.c"), dir.join("drop.bpf.o"));
    std::fs::write(&source, DROPPING).unwrap();
    let compiled = Command::new("clang")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-c"])
        .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .args([&source, &std::path::PathBuf::from("-o"), &object])
        .status();
    compiled
        .is_ok_and(|status| status.success())
        .then(|| object.display().to_string())
}

/// Connections over each link.
const CONNECTIONS: u16 = 20;

/// Ports of all connections.
const FIRST_PORT: u16 = 7_001;
const LAST_PORT: u16 = 9_999;

/// Twenty connections, over each link in each mode with eBPF, IPv4 and IPv6.
#[test]
fn bytes_are_exact_in_modes_with_ebpf_where_this_machine_drops_what_it_sends() {
    // Alone: `make test-busy` has it beside other traffic.
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::program("nft") || !require::program("tc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = dropping_program(dir.path()) else {
        require::skip("this test needs clang for the BPF target (make setup)");
        return;
    };
    let attach = format!(
        "tc qdisc add dev lo clsact && tc filter add dev lo egress bpf direct-action obj {program} sec tc"
    );
    let tc = (
        "a tc program",
        attach.as_str(),
        "tc -s qdisc show dev lo clsact | sed -n 's/.*dropped \\([0-9]*\\).*/\\1/p'",
        "tc qdisc del dev lo clsact",
    );
    for mode in ["sockets", "events"] {
        if mode == "sockets" && !require::mode_sockets() {
            continue;
        }
        again_if_hidden(FIRST_PORT, LAST_PORT, || are_exact(mode, tc));
    }
}

/// The same over each link in one mode; `tc` is one more link.
fn are_exact(mode: &str, tc: (&str, &str, &str, &str)) {
    let mode_key = format!("receivers.ebpf.mode={mode}");
    let mut set = vec![mode_key.as_str(), "receivers.ebpf.ring_buffer_bytes=67108864"];
    set.extend(netns::FLOWS_BY_NETNS);
    let daemon = Daemon::start(&set);
    let (netns, ports) = netns::within_new(|| {
        let mut ports = Vec::new();
        for (name, begin, dropped, end) in DROPS.into_iter().chain([tc]) {
            for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                run(begin);
                // On a busy machine twenty connections may be slow enough for a link not to drop.
                loop {
                    let first = FIRST_PORT + u16::try_from(ports.len()).unwrap() * CONNECTIONS;
                    thread::scope(|scope| {
                        for port in first..first + CONNECTIONS {
                            scope.spawn(move || {
                                let address = SocketAddr::new(loopback, port);
                                let (_, read) = send(address, BYTES / 10, || {});
                                assert_eq!(read, BYTES / 10);
                            });
                        }
                    });
                    ports.push((name, first));
                    if run(dropped).trim() != "0" {
                        break;
                    }
                    assert!(ports.len() < 100, "{name} dropped nothing");
                }
                run(end);
            }
        }
        await_closed();
        (netns::label(), ports)
    });
    let expected = Counted {
        client_sent: BYTES as u64 / 10,
        server_received: BYTES as u64 / 10,
        ..Counted::default()
    };
    let all = || {
        ports
            .iter()
            .flat_map(|(name, first)| (*first..first + CONNECTIONS).map(move |port| (name, port)))
    };
    // Bytes that a client sent may be reported at its close, and a FIN is dropped like any
    // other segment.
    daemon.scrape_until_none("as many bytes as were sent", |seen| {
        all()
            .map(|(name, port)| (name, port, Counted::of_port_in(seen, port, &netns)))
            .filter(|(_, _, seen)| seen.client_sent < expected.client_sent)
            .map(|(name, port, seen)| format!("{mode}, {name}, port {port}: {seen:?}"))
            .collect()
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    for (name, port) in all() {
        let seen = Counted::of_port_in(&window.totals, port, &netns);
        assert_eq!(seen, expected, "{mode}, {name}, port {port}");
    }
}
