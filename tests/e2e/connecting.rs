//! Connects that wait for an answer: the gauges against `ss`, and the SYNs that were retransmitted against the kernel's count.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use crate::daemon::Daemon;
use crate::exposition::Exposition;
use crate::links::run;
use crate::{netns, require};

const CONNECTING: &str = "primus_lens_network_tcp_connecting";
const RETRANSMITS: &str = "primus_lens_network_tcp_connecting_retransmits";
const CONNECTIONS: &str = "primus_lens_network_tcp_connections";

const LABELS: [&str; 4] = [
    "processors.window.families.network_tcp_connecting.labels=[server_port]",
    "processors.window.families.network_tcp_connecting_retransmits.labels=[server_port]",
    "processors.window.families.network_tcp_syn_retransmits.labels=[server_port]",
    "processors.window.families.network_tcp_connections.labels=[server_port, flow, event]",
];

/// Drops what comes to a port of this namespace.
pub(crate) fn silence(port: u16) {
    run(&format!(
        "nft add table inet silent && nft 'add chain inet silent in {{ type filter hook input priority 0; }}' \
         && nft add rule inet silent in tcp dport {port} drop"
    ));
}

/// Begins to connect.
pub(crate) fn begin(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let error = socket.connect(&address.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EINPROGRESS as i32));
    socket
}

/// Sockets of this namespace that wait, and those of them that have retransmitted their SYN, by `ss`.
pub(crate) fn waiting(port: u16) -> (usize, usize) {
    let sockets = run(&format!("ss -Htno state syn-sent 'dport = :{port}'"));
    // The third number of the timer counts retransmissions.
    let retransmitted = |line: &&str| line.contains("timer:(on,") && !line.trim_end().ends_with(",0)");
    (
        sockets.lines().count(),
        sockets.lines().filter(retransmitted).count(),
    )
}

fn of_port(seen: &Exposition, name: &str, port: u16, more: &[(&str, &str)]) -> u64 {
    let port = port.to_string();
    seen.sum(name, &[&[("server_port", port.as_str())], more].concat())
}

/// Retransmitted SYNs of this thread's namespace.
fn syn_retransmits() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let found = pairs.find(|(name, _)| *name == "TCPSynRetrans");
    found.unwrap().1.parse().unwrap()
}

/// Five connects wait; two are given up, and three are answered at last.
fn follows_connects(set: &[&str], port: u16, sees_syn_retransmits: bool) {
    netns::within_new(|| {
        let daemon = Daemon::start(&[&LABELS[..], set].concat());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        silence(port);
        let mut connects: Vec<_> = (0..5).map(|_| begin(port)).collect();
        let seen = daemon.scrape_until("connects with retransmitted SYNs", |seen| {
            of_port(seen, CONNECTING, port, &[]) == 5 && of_port(seen, RETRANSMITS, port, &[]) >= 5
        });
        assert_eq!(waiting(port), (5, 5));
        // None of it has ended, so no counter has it.
        assert_eq!(of_port(&seen, CONNECTIONS, port, &[]), 0);
        connects.truncate(3);
        daemon.scrape_until("two connects less", |seen| {
            of_port(seen, CONNECTING, port, &[]) == 3
        });
        run("nft delete table inet silent");
        daemon.scrape_until("no connect that waits", |seen| {
            of_port(seen, CONNECTING, port, &[]) == 0
                && of_port(
                    seen,
                    CONNECTIONS,
                    port,
                    &[("flow", "egress"), ("event", "opened")],
                ) == 3
        });
        assert_eq!(waiting(port), (0, 0));
        drop((listener, connects));
        let retransmitted = syn_retransmits();
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        assert_eq!(of_port(&window.totals, RETRANSMITS, port, &[]), 0);
        if sees_syn_retransmits {
            let counted = of_port(
                &window.totals,
                "primus_lens_network_tcp_syn_retransmits",
                port,
                &[],
            );
            assert_eq!(counted, retransmitted, "each counts once");
        }
    });
}

#[test]
fn connects_under_way_are_in_the_gauges_until_they_end_in_mode_sockets() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !(require::mode_sockets() && require::program("nft")) {
        return;
    }
    follows_connects(&["receivers.ebpf.mode=sockets"], 28_201, true);
}

#[test]
fn connects_under_way_are_in_the_gauges_until_they_end_in_sock_diag() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    let set = [
        "service.pipelines.metrics.receivers=[sock_diag]",
        "receivers.sock_diag.interval=200ms",
    ];
    follows_connects(&set, 28_202, false);
}
