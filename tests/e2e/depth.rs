//! Details of a connection in addition to its bytes: the reason of a failed connect, retransmits,
//! resets, its process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use nix::sys::socket::{setsockopt, sockopt};

use crate::daemon::Daemon;
use crate::exposition::Exposition;
use crate::netns;
use crate::require;
use crate::shielded::{Watch, again_if_hidden};
use crate::traffic::{Counted, Held, exchange};

const MODES: [&str; 2] = ["receivers.ebpf.mode=sockets", "receivers.ebpf.mode=events"];

/// Failed connects for `reason` in the namespace `netns`.
fn failures(scrape: &Exposition, reason: &str, netns: &str) -> u64 {
    let labels = [("reason", reason), ("netns", netns)];
    scrape.sum("primus_lens_network_tcp_connect_failures", &labels)
}

/// Runs a command of this thread's network namespace.
fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("sh");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// A connect that is given up after one SYN and its repetition.
fn connect_impatiently(address: SocketAddr) -> std::io::Error {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .expect("a socket");
    setsockopt(&socket, sockopt::TcpUserTimeout, &500).expect("a timeout");
    let address = nix::sys::socket::SockaddrStorage::from(address);
    let refused =
        nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).expect_err("no answer");
    refused.into()
}

#[test]
fn refused_unreachable_and_timed_out_connects_show_under_their_reasons_in_both_modes() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    for mode in MODES {
        let shown = (0..5).any(|_| failed_connects_show(mode));
        assert!(
            shown,
            "{mode}: process 1 was interrupted by what ended a connect, each time"
        );
    }
}

/// Whether all was seen, or else the machine has shielded some from every program.
fn failed_connects_show(mode: &str) -> bool {
    let daemon = Daemon::start(&[
        mode,
        netns::BY_NETNS,
        "processors.window.families.network_tcp_connect_failures.labels=[reason, type, netns]",
    ]);
    let watch = Watch::start(&[7000, 7001, 7002]);
    let netns = netns::within_new(|| {
        sh("nft add table inet t
            nft 'add chain inet t out { type filter hook output priority 0; }'
            nft add rule inet t out tcp dport 7001 drop
            nft add rule inet t out tcp dport 7002 reject with icmp type host-unreachable");
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for _ in 0..3 {
            TcpStream::connect(at(7000)).expect_err("nobody listens");
        }
        connect_impatiently(at(7001));
        connect_impatiently(at(7002));
        netns::label()
    });
    if let Some(watch) = watch {
        let (changes, shielded) = watch.changes();
        assert_eq!(changes, 10, "a beginning and an end of each");
        if shielded > 0 {
            eprintln!("once more: {shielded} changes came while a thread of process 1 was current");
            return false;
        }
    }
    daemon.scrape_until("each failure under its reason", |scrape| {
        failures(scrape, "refused", &netns) == 3
            && failures(scrape, "timed_out", &netns) == 1
            && failures(scrape, "unreachable", &netns) == 1
    });
    let failed = [("event", "failed"), ("flow", "egress"), ("netns", &*netns)];
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(
        window.totals.sum("primus_lens_network_tcp_connections", &failed),
        5,
        "{mode}"
    );
    true
}

/// Begins to connect to `address` and returns before it ends.
fn begin_to_connect(address: SocketAddr) -> socket2::Socket {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    let pending = socket.connect(&address.into()).expect_err("no answer yet");
    assert_eq!(
        pending.raw_os_error(),
        Some(nix::errno::Errno::EINPROGRESS as i32)
    );
    socket
}

/// Connects, and gives up at once. Returns whether that was before the retransmission time-out of the SYN, whatever the scheduler did.
fn give_up_at_once(address: SocketAddr) -> bool {
    /// `TCP_TIMEOUT_INIT`, `include/net/tcp.h`.
    const SYN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
    let begun = std::time::Instant::now();
    drop(begin_to_connect(address));
    begun.elapsed() < SYN_TIMEOUT
}

#[test]
fn a_connect_that_is_given_up_has_had_no_answer_once_its_syn_was_sent_again() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    for mode in MODES {
        let daemon = Daemon::start(&[
            mode,
            "processors.window.families.network_tcp_connect_failures.labels=[reason, netns]",
            "processors.window.families.network_tcp_syn_retransmits.labels=[flow, netns]",
        ]);
        let (netns, late) = netns::within_new(|| {
            sh("nft add table inet t
                nft 'add chain inet t in { type filter hook input priority 0; }'
                nft add rule inet t in tcp dport 7001 drop");
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 7001));
            let patient = begin_to_connect(at);
            // The scheduler may hold this up for as long as that.
            let late = u64::from(!give_up_at_once(at));
            // The second SYN follows the first by a second.
            let deadline = std::time::Instant::now() + crate::daemon::WAIT_TIMEOUT;
            while !sh("ss -tinH state syn-sent").contains("retrans:1/1") {
                assert!(std::time::Instant::now() < deadline, "the SYN was not sent again");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            drop(patient);
            (netns::label(), late)
        });
        daemon.scrape_until("both failures", |scrape| {
            let (no_answer, aborted) = (
                failures(scrape, "no_answer", &netns),
                failures(scrape, "aborted", &netns),
            );
            no_answer + aborted == 2 && (1 - late..=1).contains(&aborted)
        });
        let labels = [("flow", "egress"), ("netns", &*netns)];
        let sent_again = daemon
            .scrape()
            .sum("primus_lens_network_tcp_syn_retransmits", &labels);
        // One that was given up late has also retransmitted its SYN.
        assert!((1..=1 + late).contains(&sent_again), "{mode}: {sent_again}");
    }
}

/// Waits until the retransmission time-out of each connect of this namespace has passed, by the third number of the timer of `ss`.
fn await_time_outs() {
    let deadline = std::time::Instant::now() + crate::daemon::WAIT_TIMEOUT;
    while sh("ss -tnoH state syn-sent")
        .lines()
        // `ss` shows no timer while its handler runs.
        .any(|line| !line.contains("timer:(") || line.trim_end().ends_with(",0)"))
    {
        assert!(std::time::Instant::now() < deadline, "a SYN is not overdue");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_connect_that_is_given_up_while_its_syn_waits_for_a_neighbour_has_had_no_answer() {
    /// Of no other test: changes of its connections that programs did not see excuse a failure.
    const PORT: u16 = 7443;
    let Some(_machine) = require::root() else {
        return;
    };
    for mode in MODES {
        // The timer of a neighbour ends a connect, and may interrupt process 1.
        again_if_hidden(PORT, PORT, || connects_without_neighbour_show(mode, PORT));
    }
}

/// Gives up connects to two addresses that no neighbour has, before and after their time-out, and waits for the end of two more.
fn connects_without_neighbour_show(mode: &str, port: u16) {
    let daemon = Daemon::start(&[
        mode,
        "processors.window.families.network_tcp_connect_failures.labels=[reason, netns]",
        "processors.window.families.network_tcp_syn_retransmits.labels=[flow, netns]",
    ]);
    let (netns, late) = netns::within_new(|| {
        // Frames leave, and nobody answers: the SYN waits for as long as there are probes, one a second.
        sh("ip link add v0 type veth peer name v1
            ip link set v1 up
            ip link set v0 up
            ip address add 10.201.0.1/24 dev v0
            ip address add fd00:201::1/64 dev v0 nodad
            echo 60 > /proc/sys/net/ipv4/neigh/v0/mcast_solicit
            echo 60 > /proc/sys/net/ipv6/neigh/v0/mcast_solicit");
        let addresses = [7, 8].map(|host: u8| {
            let v4 = SocketAddr::from((Ipv4Addr::new(10, 201, 0, host), port));
            let v6: SocketAddr = format!("[fd00:201::{host}]:{port}").parse().unwrap();
            [v4, v6]
        });
        let patient = addresses[0].map(begin_to_connect);
        let late = addresses[0]
            .map(give_up_at_once)
            .iter()
            .filter(|early| !**early)
            .count() as u64;
        await_time_outs();
        let waiting = sh("ss -tinH state syn-sent");
        assert!(!waiting.contains("retrans:"), "a SYN was sent again: {waiting}");
        drop(patient);
        // Of one that waits until there are no more the kernel reports why.
        sh("echo 1 > /proc/sys/net/ipv4/neigh/v0/mcast_solicit
            echo 1 > /proc/sys/net/ipv6/neigh/v0/mcast_solicit");
        for address in addresses[1] {
            let error = TcpStream::connect(address).expect_err("no neighbour");
            assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EHOSTUNREACH as i32));
        }
        (netns::label(), late)
    });
    daemon.scrape_until_none("all failures", |scrape| {
        let of = |reason| failures(scrape, reason, &netns);
        let (no_answer, aborted, unreachable) = (of("no_answer"), of("aborted"), of("unreachable"));
        // Those that were given up late may be of either reason.
        let is_right = no_answer + aborted == 4 && (2 - late..=2).contains(&aborted) && unreachable == 2;
        let found = format!(
            "{mode}: {no_answer} without an answer, {aborted} aborted, {unreachable} unreachable; \
             {late} were given up late"
        );
        (!is_right).then_some(found).into_iter().collect()
    });
    let labels = [("flow", "egress"), ("netns", &*netns)];
    let sent_again = daemon
        .scrape()
        .sum("primus_lens_network_tcp_syn_retransmits", &labels);
    assert_eq!(sent_again, 0, "{mode}");
}

#[test]
fn connections_that_end_by_a_reset_are_counted_at_both_ends() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    for mode in MODES {
        let daemon = Daemon::start(&[mode, netns::BY_NETNS]);
        let netns = netns::within_new(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            for _ in 0..7 {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                server.write_all(b"never read").unwrap();
                // Data that was received and not read makes the close a reset.
                client.peek(&mut [0]).unwrap();
                drop(client);
                assert!(server.read(&mut [0]).is_err(), "no reset has come");
            }
            netns::label()
        });
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        for flow in ["egress", "ingress"] {
            let of = |event| {
                window.totals.sum(
                    "primus_lens_network_tcp_connections",
                    &[("event", event), ("flow", flow), ("netns", &netns)],
                )
            };
            assert_eq!((of("reset"), of("closed")), (7, 7), "{mode} {flow}");
        }
    }
}

/// Total retransmits of the connections in this namespace as `ss` shows them: `retrans:<now>/<total>`.
fn retransmits_by_ss() -> u64 {
    let shown = sh("ss -tinH state established");
    let totals = shown.split_whitespace().filter_map(|word| {
        let (_, total) = word.strip_prefix("retrans:")?.split_once('/')?;
        total.parse::<u64>().ok()
    });
    totals.sum()
}

#[test]
fn under_loss_retransmits_equal_those_of_ss_and_bytes_stay_exact() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") || !require::program("ss") {
        return;
    }
    let daemon = Daemon::start(&[]);
    let peer = "10.213.7.1";
    let (port, sent, by_ss, mut held) = netns::within_new(|| {
        sh(&format!(
            "ip address add {peer}/32 dev lo
             nft add table inet t
             nft 'add chain inet t in {{ type filter hook input priority 0; }}'
             nft add rule inet t in meta length '>' 1000 numgen random mod 100 '<' 7 drop"
        ));
        let listener = TcpListener::bind((peer, 0)).unwrap();
        let mut held = Held::open(&listener, 8).unwrap();
        let mut sent = Counted::default();
        for _ in 0..4 {
            sent += held.exchange(500_000).unwrap();
        }
        // Everything has been read by its peer, so nothing is left to retransmit.
        let port = listener.local_addr().unwrap().port();
        (port, sent, retransmits_by_ss(), held)
    });
    assert!(by_ss > 20, "only {by_ss} retransmits: the rule did not drop");
    let seen = daemon.scrape_until("as many retransmits as ss", |scrape| {
        scrape.sum("primus_lens_network_tcp_retransmits", &[("raddr", peer)]) == by_ss
    });
    assert_eq!(Counted::of_port(&seen, port), sent);
    // And none that came later, or was counted twice.
    held.shutdown(Shutdown::Both);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(
        window
            .totals
            .sum("primus_lens_network_tcp_retransmits", &[("raddr", peer)]),
        by_ss
    );
    assert_eq!(Counted::of_port(&window.totals, port), sent);
}

const BY_PROCESS: [&str; 2] = [
    "processors.window.families.network_tcp_flow_egress.labels=[rport, direction, pid, comm, container_id]",
    "processors.window.families.network_tcp_flow_ingress.labels=[lport, direction, pid, comm]",
];

#[test]
fn accepted_and_connecting_sockets_show_their_process_in_both_modes() {
    let Some(_machine) = require::root() else {
        return;
    };
    let pid = std::process::id().to_string();
    for mode in MODES {
        let daemon = Daemon::start(&[mode, BY_PROCESS[0], BY_PROCESS[1]]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let sent = exchange(&listener, 200, 21).unwrap();
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        let sum = |family: &str, label, direction| {
            window
                .totals
                .sum(family, &[(label, &port), ("direction", direction), ("pid", &pid)])
        };
        let egress = |direction| sum("primus_lens_network_tcp_flow_egress", "rport", direction);
        assert_eq!(
            (egress("outbound"), egress("inbound")),
            (sent.client_sent, sent.client_received),
            "{mode}: {:#?}",
            window.totals
        );
        // A record that is made before the server has shut down its side has no process yet.
        let ingress = |direction| sum("primus_lens_network_tcp_flow_ingress", "lport", direction);
        assert!(
            ingress("outbound") > 0 && ingress("outbound") <= sent.server_sent,
            "{mode}"
        );
    }
}

#[test]
fn a_connection_that_was_accepted_before_the_start_shows_the_process_that_holds_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut held = Held::open(&listener, 3).unwrap();
    let daemon = Daemon::start(&BY_PROCESS);
    let sent = held.exchange(5_000).unwrap();
    let pid = std::process::id().to_string();
    daemon.scrape_until("both ends with their process", |scrape| {
        let sum = |family, label| scrape.sum(family, &[(label, &*port), ("pid", &*pid)]);
        sum("primus_lens_network_tcp_flow_ingress", "lport") == sent.server_sent + sent.server_received
            && sum("primus_lens_network_tcp_flow_egress", "rport") == sent.client_sent + sent.client_received
    });
}

#[test]
fn round_trip_time_connect_time_and_open_connections_are_real() {
    let Some(_machine) = require::root() else {
        return;
    };
    let peer = "10.213.9.1";
    let daemon =
        Daemon::start(&["processors.window.families.network_tcp_connections_active.labels=[raddr, flow]"]);
    let held = netns::within_new(|| {
        sh(&format!("ip address add {peer}/32 dev lo"));
        let listener = TcpListener::bind((peer, 0)).unwrap();
        let mut held = Held::open(&listener, 4).unwrap();
        held.exchange(100).unwrap();
        held
    });
    let scrape = daemon.scrape_until("round-trip times of both directions", |scrape| {
        ["outbound", "inbound"].iter().all(|direction| {
            let labels = [("raddr", peer), ("direction", direction)];
            scrape.sum("primus_lens_network_tcp_flow_rtt_count", &labels) >= 8
        })
    });
    let of_peer = [("raddr", peer)];
    assert_eq!(
        scrape.sum("primus_lens_network_tcp_connect_duration_count", &of_peer),
        4
    );
    let sum = scrape
        .select("primus_lens_network_tcp_flow_rtt_sum", &of_peer)
        .map(|sample| sample.value)
        .sum::<f64>();
    assert!(sum.is_finite() && sum > 0.0, "{sum}");
    let active = |scrape: &Exposition| {
        scrape.sum(
            "primus_lens_network_tcp_connections_active",
            &[("flow", "egress"), ("raddr", peer)],
        )
    };
    assert_eq!(active(&scrape), 4);
    drop(held);
    daemon.scrape_until("their end", |scrape| active(scrape) == 0);
}

#[test]
fn coverage_says_that_everything_the_kernel_counted_was_measured() {
    let Some(_machine) = require::root() else {
        return;
    };
    // In a namespace without anybody else's connections, some of which are always under way.
    let own = netns::within_new(|| {
        let daemon = Daemon::start(&[]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        exchange(&listener, 500, 31).unwrap();
        daemon.telemetry_until("all opened connections, as the kernel counts them", |own| {
            ["active_opens", "passive_opens"].iter().all(|counter| {
                let of = |name| own.sum(name, &[("counter", counter)]);
                let measured = of("flowtap_receiver_coverage_measured_total");
                measured >= 500 && measured == of("flowtap_receiver_coverage_kernel_total")
            })
        })
    });
    for counter in ["active_opens", "passive_opens"] {
        let labels = [("counter", counter)];
        let ratio = own.select("flowtap_receiver_coverage_ratio", &labels);
        let ratios: Vec<_> = ratio.map(|sample| sample.value).collect();
        assert_eq!(ratios, [1.0], "{counter}");
    }
}
