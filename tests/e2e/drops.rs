//! Dropped packets, against nft's, tc's and the kernel's own counters of one network namespace.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use crate::daemon::Daemon;
use crate::exposition::Exposition;
use crate::links::run;
use crate::netns;
use crate::require;

const DROPS: &str = "primus_lens_network_drops";
const LABELS: &str = "processors.window.families.network_drops.labels=[reason, type, kind, netns]";
const LABELS_OF_FLOWS: &str =
    "processors.window.families.network_drops.labels=[reason, type, kind, netns, raddr, rport, lport]";

/// Whether this kernel gives a reason for a drop, by `flowtap doctor`.
fn reasons() -> bool {
    let output = crate::daemon::flowtap()
        .args(["doctor", "--json"])
        .output()
        .expect("flowtap");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let found = findings
        .iter()
        .any(|finding| finding["need"] == "tp_btf/kfree_skb" && finding["verdict"] == "ok");
    if !found {
        require::skip("this test needs Linux 5.17 (flowtap doctor)");
    }
    found
}

/// The kernel's counters of a network namespace, which can be read from any other.
#[derive(Debug)]
pub(crate) struct Counters([File; 2]);

impl Counters {
    /// Those of this thread's namespace.
    pub(crate) fn open() -> Self {
        Self(
            ["snmp", "netstat"].map(|name| {
                File::open(format!("/proc/thread-self/net/{name}")).expect("the kernel's counters")
            }),
        )
    }

    /// A counter of the line pair `table`: names, then values.
    pub(crate) fn get(&self, table: &str, name: &str) -> u64 {
        let of = |mut file: &File| -> Option<u64> {
            let mut text = String::new();
            file.rewind().expect("the beginning");
            file.read_to_string(&mut text).expect("counters");
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with(table)).collect();
            let [names, values] = lines[..] else { return None };
            let mut pairs = names.split_whitespace().zip(values.split_whitespace());
            let (_, value) = pairs.find(|(found, _)| *found == name)?;
            value.parse().ok()
        };
        self.0.iter().find_map(of).expect("a counter")
    }
}

fn socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket")
}

/// Sends `count` datagrams of 100 bytes; what can't be sent is dropped somewhere, which is what this is about.
fn send(socket: &UdpSocket, count: u32, to: impl Fn(u32) -> SocketAddr) {
    for index in 0..count {
        let _ = socket.send_to(&[0; 100], to(index));
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Drops of these labels.
fn drops(scrape: &Exposition, netns: &str, labels: &[(&str, &str)]) -> u64 {
    let mut all = vec![("netns", netns)];
    all.extend(labels);
    scrape.sum(DROPS, &all)
}

fn first_number(text: &str, after: &str) -> u64 {
    let (_, rest) = text.split_once(after).expect("a count");
    let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).expect("a number")
}

/// Waits for `expected` drops of these labels, and then for them to stay.
fn assert_drops(daemon: &Daemon, netns: &str, labels: &[(&str, &str)], expected: u64) {
    assert!(expected > 0, "{labels:?}: nothing was dropped");
    let what = format!("{expected} drops of {labels:?}");
    daemon.scrape_until(&what, |seen| drops(seen, netns, labels) >= expected);
    let scrape = daemon.scrape();
    assert_eq!(drops(&scrape, netns, labels), expected, "{labels:?}: {scrape:?}");
}

/// The counters of a namespace after each kind of drop.
#[derive(Debug)]
struct Expected {
    netns: String,
    netfilter: u64,
    nobody: u64,
    full: u64,
    queue: u64,
}

/// Makes the kernel drop packets in a new namespace.
fn drop_in_each_way() -> Expected {
    netns::within_new(|| {
        let (counters, socket) = (Counters::open(), socket());
        run(
            "nft 'table inet t { chain i { type filter hook input priority 0; \
             udp dport 7101 counter drop; }; }'",
        );
        send(&socket, 1_000, |_| loopback(7101));
        let netfilter = first_number(&run("nft list table inet t"), "counter packets");
        run("nft delete table inet t");

        send(&socket, 1_000, |_| loopback(7102));
        for _ in 0..100 {
            assert!(TcpStream::connect(loopback(7103)).is_err());
        }
        let nobody = counters.get("Udp:", "NoPorts") + counters.get("Tcp:", "OutRsts");

        let reader = UdpSocket::bind(loopback(7104)).unwrap();
        nix::sys::socket::setsockopt(&reader, nix::sys::socket::sockopt::RcvBuf, &4_096).unwrap();
        send(&socket, 1_000, |_| loopback(7104));
        let full = counters.get("Udp:", "RcvbufErrors");

        run("tc qdisc add dev lo root tbf rate 1mbit burst 2k limit 4k");
        send(&socket, 500, |_| loopback(7104));
        let queue = first_number(&run("tc -s qdisc show dev lo root"), "dropped");
        run("tc qdisc del dev lo root");
        Expected {
            netns: netns::label(),
            netfilter,
            nobody,
            // Datagrams that pass the queue find no room in the socket.
            full: full.max(counters.get("Udp:", "RcvbufErrors")),
            queue,
        }
    })
}

#[test]
fn drops_are_those_that_nft_tc_and_the_kernel_count() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") || !require::program("tc") || !reasons() {
        return;
    }
    for mode in ["reasons", "flows"] {
        let daemon = Daemon::start(&[&format!("receivers.ebpf.drops={mode}"), LABELS]);
        let expected = drop_in_each_way();
        assert_eq!((expected.netfilter, expected.nobody), (1_000, 1_100));
        let netns = &*expected.netns;
        for (reason, kind, count) in [
            ("NETFILTER_DROP", "policy", expected.netfilter),
            ("NO_SOCKET", "nobody", expected.nobody),
            ("SOCKET_RCVBUFF", "full", expected.full),
        ] {
            assert_drops(&daemon, netns, &[("reason", reason), ("kind", kind)], count);
            // With flows each has a peer, of class `localhost` on loopback.
            let classified = drops(
                &daemon.scrape(),
                netns,
                &[("reason", reason), ("type", "localhost")],
            );
            assert_eq!(
                classified,
                if mode == "flows" { count } else { 0 },
                "{mode}: {reason}"
            );
        }
        assert!(expected.queue > 0, "{expected:?}");
        let scrape = daemon.scrape_until("drops of the queue", |seen| {
            of_queues(seen, netns) >= expected.queue
        });
        // Packets that the queue holds when it goes are not dropped for want of room.
        assert_eq!(of_queues(&scrape, netns), expected.queue, "{scrape:?}");
        let (status, _) = daemon.stop();
        assert!(status.success(), "{status}");
    }
}

/// Packets for which a queueing discipline had no room.
fn of_queues(scrape: &Exposition, netns: &str) -> u64 {
    let labels = [("kind", "full"), ("netns", netns)];
    let of = |reason: Option<&String>| reason.is_some_and(|reason| reason.starts_with("QDISC_"));
    let found = scrape
        .select(DROPS, &labels)
        .filter(|sample| of(sample.labels.get("reason")));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are whole and positive"
    )]
    found.map(|sample| sample.value as u64).sum()
}

#[test]
fn a_flood_of_drops_of_more_flows_than_there_is_room_for_loses_no_count() {
    const FLOOD: u32 = 200_000;
    const FLOWS: u32 = 6_000;
    let Some(_machine) = require::root() else {
        return;
    };
    if !reasons() {
        return;
    }
    let daemon = Daemon::start(&["receivers.ebpf.drops=flows", LABELS_OF_FLOWS]);
    let (netns, expected) = netns::within_new(|| {
        let (counters, socket) = (Counters::open(), socket());
        // 127.0.0.0/8 is this machine: each address is a flow.
        send(&socket, FLOOD, |index| {
            let [.., high, low] = (index % FLOWS + 1).to_be_bytes();
            (Ipv4Addr::new(127, 1, high, low), 7201).into()
        });
        (netns::label(), counters.get("Udp:", "NoPorts"))
    });
    {
        let netns = &*netns;
        assert_eq!(expected, u64::from(FLOOD));
        let nobody = [("reason", "NO_SOCKET")];
        assert_drops(&daemon, netns, &nobody, expected);
        let scrape = daemon.scrape();
        let unattributed = [("reason", "NO_SOCKET"), ("type", "other"), ("raddr", "other")];
        let refused = drops(&scrape, netns, &unattributed);
        assert!(refused > 0, "{FLOWS} flows of 4,096 places");
        // Sent to an address of 127.0.0.0/8, from 127.0.0.1: received by the one, from the other.
        let of_peer = [("raddr", "127.0.0.1"), ("lport", "7201"), ("type", "localhost")];
        assert_eq!(drops(&scrape, netns, &of_peer) + refused, expected);
    }
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn a_reload_changes_how_drops_are_counted_and_loses_none() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !reasons() {
        return;
    }
    let daemon = Daemon::start(&[]);
    let (netns, counters, socket) = netns::within_new(|| (netns::label(), Counters::open(), socket()));
    let config = std::fs::read_to_string(daemon.config()).unwrap();
    let with = |mode: &str| {
        let text = config.replace(
            "ebpf: {interval: 200ms}",
            &format!("ebpf: {{interval: 200ms, drops: {mode}}}"),
        );
        text.replace(
            "window: {interval: 200ms}",
            "window: {interval: 200ms, families: {network_drops: {labels: [reason, netns]}}}",
        )
    };
    let of_nobody = [("reason", "NO_SOCKET")];
    for (rounds, mode) in (1..).zip(["reasons", "flows", "reasons"]) {
        assert!(daemon.reload(&with(mode)), "{mode}");
        send(&socket, 500, |_| loopback(7301));
        assert_drops(&daemon, &netns, &of_nobody, 500 * rounds);
    }
    assert!(daemon.reload(&with("off")));
    send(&socket, 500, |_| loopback(7301));
    assert_eq!(counters.get("Udp:", "NoPorts"), 2_000);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(drops(&window.totals, &netns, &of_nobody), 1_500);
}
