//! UDP: sums by peer equal the application's own count, by the hooks that this machine has.
//!
//! `tests/vm/udp.sh` has the many ways to send and receive, and every step on every kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT};
use crate::exposition::Exposition;
use crate::{netns, require};

/// Programs of the root cgroup: they load wherever flowtap runs as root, and show peers.
const BY_CGROUP: &str = "receivers.ebpf.udp.hooks=cgroup";

/// Labels by which a test finds its own series, whatever else this machine sends.
const LABELS: [&str; 3] = [
    "processors.window.families.network_udp_flow_egress.labels=[raddr, rport, direction, type, netns, comm]",
    "processors.window.families.network_udp_flow_ingress.labels=[lport, raddr, direction, type, netns]",
    "processors.window.families.network_udp_drops.labels=[lport, netns]",
];

const EGRESS: &str = "primus_lens_network_udp_flow_egress";
const INGRESS: &str = "primus_lens_network_udp_flow_ingress";
const DROPS: &str = "primus_lens_network_udp_drops";
const DATAGRAMS: &str = "primus_lens_network_udp_datagrams";

fn daemon(set: &[&str]) -> Daemon {
    let mut all = LABELS.to_vec();
    all.extend(set);
    Daemon::start(&all)
}

/// Bytes as a server and its clients count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    requests: u64,
    answers: u64,
}

/// Clients on separate sockets, each with some requests that are answered.
fn exchange(server: &UdpSocket, clients: usize) -> Counted {
    let at = server.local_addr().unwrap();
    let mut counted = Counted::default();
    for number in 0..clients {
        let client = UdpSocket::bind((unspecified(at.ip()), 0)).unwrap();
        client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        for round in 0..3 {
            let request = vec![1; 100 + number + round];
            counted.requests += client.send_to(&request, at).unwrap() as u64;
            let mut buffer = [0; 2048];
            let (bytes, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(bytes, request.len());
            counted.answers += server.send_to(&buffer[..bytes / 2], from).unwrap() as u64;
            assert_eq!(client.recv(&mut buffer).unwrap(), bytes / 2);
        }
    }
    counted
}

const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Bytes of a server's port in a namespace: sent and received by clients, then by the server.
fn of_port(seen: &Exposition, port: u16, netns: &str) -> [Counted; 2] {
    let port = port.to_string();
    let bytes = |name, label, direction| {
        seen.sum(
            name,
            &[(label, port.as_str()), ("direction", direction), ("netns", netns)],
        )
    };
    [
        Counted {
            requests: bytes(EGRESS, "rport", "outbound"),
            answers: bytes(EGRESS, "rport", "inbound"),
        },
        Counted {
            requests: bytes(INGRESS, "lport", "inbound"),
            answers: bytes(INGRESS, "lport", "outbound"),
        },
    ]
}

#[test]
fn requests_and_answers_are_counted_to_the_byte_at_both_ends_in_every_namespace() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = daemon(&[BY_CGROUP]);
    let mut expected = Vec::new();
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let server = UdpSocket::bind((address, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        expected.push((port, netns::label(), exchange(&server, 200)));
    }
    let elsewhere = netns::within_new(|| {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        (port, netns::label(), exchange(&server, 200))
    });
    expected.push(elsewhere);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    for (port, netns, counted) in expected {
        assert_eq!(of_port(&window.totals, port, &netns), [counted; 2], "port {port}");
    }
}

/// Bytes that were sent with a full table, and the sum of those that the series of the port and `other` show.
fn with_a_full_table() -> [u64; 2] {
    let daemon = daemon(&[BY_CGROUP, "receivers.ebpf.udp.max_flows=64"]);
    // Each client stays open, so 64 of them have a place, and 64 peers of the server.
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = server.local_addr().unwrap();
    let clients: Vec<_> = (0..300)
        .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .collect();
    let mut bytes = 0;
    for client in &clients {
        bytes += client.send_to(&[1; 500], at).unwrap() as u64;
        server.recv(&mut [0; 500]).unwrap();
    }
    let telemetry = daemon.telemetry_until("datagrams without a place", |seen| {
        seen.sum(
            "flowtap_receiver_udp_unplaced_total",
            &[("direction", "outbound")],
        ) > 0
    });
    let unplaced = telemetry.sum(
        "flowtap_receiver_udp_unplaced_total",
        &[("direction", "outbound")],
    );
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let port = at.port().to_string();
    let placed = window
        .totals
        .sum(EGRESS, &[("rport", &port), ("direction", "outbound")]);
    let other = window
        .totals
        .sum(EGRESS, &[("rport", "other"), ("direction", "outbound")]);
    assert!(placed < bytes, "{placed} of {bytes} have a place");
    assert!(
        placed + other >= bytes,
        "{placed} with a place, {other} without one, {bytes} were sent"
    );
    assert!(
        unplaced * 500 >= bytes - placed,
        "{unplaced} datagrams without a place"
    );
    [bytes, placed + other]
}

#[test]
fn a_full_table_leaves_the_sum_of_series_and_other_whole() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    // Datagrams of others on this machine that found no place are in `other` as well, and nothing shows whose they are. No run may
    // show less than was sent, and one of these must show no more.
    let mut runs = Vec::new();
    let exact = (0..5).any(|_| {
        let [sent, shown] = with_a_full_table();
        runs.push((sent, shown));
        sent == shown
    });
    assert!(exact, "bytes sent, bytes shown: {runs:?}");
}

#[test]
fn datagrams_that_a_socket_has_no_room_for_are_dropped_and_not_received() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = daemon(&[BY_CGROUP]);
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    nix::sys::socket::setsockopt(&server, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for _ in 0..200 {
        client.send_to(&[1; 500], server.local_addr().unwrap()).unwrap();
    }
    server.set_nonblocking(true).unwrap();
    let mut received = 0;
    while server.recv(&mut [0; 500]).is_ok() {
        received += 1;
    }
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let netns = netns::label();
    let own = |name, direction: &[(&str, &str)]| {
        let port = port.to_string();
        let mut labels = vec![("lport", port.as_str()), ("netns", netns.as_str())];
        labels.extend(direction);
        window.totals.sum(name, &labels)
    };
    assert!((1..200).contains(&received), "{received}");
    assert_eq!(own(DROPS, &[]), 200 - received);
    assert_eq!(own(INGRESS, &[("direction", "inbound")]), 500 * received);
}

#[test]
fn coverage_is_whole_by_the_kernels_own_counters() {
    let Some(_machine) = require::root() else {
        return;
    };
    // In a separate namespace, so that nothing else is in the kernel's counters.
    netns::within_new(|| {
        let daemon = daemon(&[BY_CGROUP]);
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            exchange(&UdpSocket::bind((address, 0)).unwrap(), 50);
        }
        // Three requests and three answers for each client.
        let datagrams = 2 * 2 * 3 * 50;
        let of = |own: &Exposition, side: &str, counter| {
            own.sum(
                &format!("flowtap_receiver_coverage_{side}_total"),
                &[("counter", counter)],
            )
        };
        let own = daemon.telemetry_until("every datagram", |own| {
            ["udp_sent", "udp_received"]
                .iter()
                .all(|counter| of(own, "measured", counter) >= datagrams)
        });
        for counter in ["udp_sent", "udp_received"] {
            let both = ["measured", "kernel"].map(|side| of(&own, side, counter));
            assert_eq!(both, [datagrams; 2], "{counter}");
        }
        let (status, _) = daemon.stop();
        assert!(status.success(), "{status}");
    });
}

/// Requests and answers of two sockets, until `done`. Returns the number of datagrams.
fn exchange_until(done: &AtomicBool) -> u64 {
    let [client, server] = [(); 2].map(|()| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        socket
    });
    let deadline = Instant::now() + 2 * WAIT_TIMEOUT;
    let (mut datagrams, mut buffer) = (0, [0; 64]);
    while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
        client.send_to(&[1; 50], server.local_addr().unwrap()).unwrap();
        let (bytes, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..bytes], from).unwrap();
        client.recv(&mut buffer).unwrap();
        datagrams += 2;
    }
    datagrams
}

#[test]
fn coverage_continues_over_a_reload_of_udp_and_shows_what_that_missed() {
    let Some(_machine) = require::root() else {
        return;
    };
    // In a separate namespace, so that nothing else is in the kernel's counters.
    netns::within_new(|| {
        let daemon = daemon(&[
            BY_CGROUP,
            "processors.window.families.network_udp_datagrams.labels=[direction, netns]",
        ]);
        let text = std::fs::read_to_string(daemon.config()).unwrap();
        let done = AtomicBool::new(false);
        let datagrams = thread::scope(|scope| {
            let application = scope.spawn(|| exchange_until(&done));
            for max_flows in [20_000, 21_000, 22_000] {
                let ebpf = format!("ebpf: {{interval: 200ms, udp: {{max_flows: {max_flows}}}}}");
                let changed = text.replace("ebpf: {interval: 200ms}", &ebpf);
                assert!(daemon.reload(&changed), "{}", daemon.said());
            }
            done.store(true, Ordering::Relaxed);
            application.join().unwrap()
        });
        let of = |own: &Exposition, side: &str| {
            ["udp_sent", "udp_received"].map(|counter| {
                let name = format!("flowtap_receiver_coverage_{side}_total");
                own.sum(&name, &[("counter", counter)])
            })
        };
        let own = daemon.telemetry_until("every datagram in the kernel's count", |own| {
            of(own, "kernel").iter().all(|counted| *counted >= datagrams)
        });
        assert_eq!(of(&own, "kernel"), [datagrams; 2]);
        let measured = of(&own, "measured");
        assert!(
            measured.iter().all(|measured| *measured <= datagrams),
            "{measured:?} of {datagrams}"
        );
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        let netns = netns::label();
        let in_series = ["outbound", "inbound"].map(|direction| {
            let labels = [("direction", direction), ("netns", netns.as_str())];
            window.totals.sum(DATAGRAMS, &labels)
        });
        assert_eq!(in_series, measured, "what is missing is in the difference");
    });
}

/// The step by which UDP is measured, as `flowtap doctor` reports it; `none`, and why, where no step works.
fn step_by_doctor() -> (String, String) {
    let output = crate::daemon::flowtap().args(["doctor", "--json"]).output();
    let report: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let mut findings = report["findings"].as_array().unwrap().iter();
    let udp = findings.find(|finding| finding["need"] == "UDP").expect("UDP");
    let found = udp["found"].as_str().unwrap().to_owned();
    let step = found
        .strip_prefix("by ")
        .and_then(|found| found.split(',').next());
    let step = step.filter(|_| udp["verdict"] == "ok").unwrap_or("none");
    (step.to_owned(), found)
}

#[test]
fn by_default_log_metric_and_doctor_name_the_same_step_and_the_steps_that_failed() {
    let Some(_machine) = require::root() else {
        return;
    };
    let (step, found) = step_by_doctor();
    let daemon = Daemon::start(&[]);
    let own = daemon.telemetry_until("the step", |own| own.sum("flowtap_receiver_udp_step", &[]) > 0);
    assert_eq!(
        own.sum("flowtap_receiver_udp_step", &[("step", &step)]),
        1,
        "{step}"
    );
    assert_eq!(own.sum("flowtap_receiver_udp_step", &[]), 1, "one step is in use");
    daemon.scrape_until("a window", |_| true);
    let said = daemon.said();
    if step == "none" {
        // Its hint is on a separate line, with the error.
        let (_, warning) = said.split_once("UDP is not measured").expect("a warning");
        let warning = warning.lines().take(2).collect::<String>();
        assert!(warning.contains(&found), "{found} in {warning}");
        for tried in ["fentry: ", "kprobe_multi: ", "kprobe: "] {
            assert!(found.contains(tried), "{tried} in {found}");
        }
        assert!(!said.contains("measuring UDP"), "{said}");
    } else {
        let measuring = said.lines().find(|line| line.contains("measuring UDP"));
        let measuring = measuring.expect("a message");
        assert!(measuring.contains(&step), "{step} in {measuring}");
        assert!(!said.contains("UDP is not measured"), "{said}");
    }
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn a_reload_keeps_the_programs_of_udp_and_misses_nothing() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = daemon(&[BY_CGROUP]);
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let mut sum = Counted::default();
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    let programs = crate::kernel_objects::of(daemon.pid()).programs;
    for keys in [
        "interval: 250ms",
        "interval: 300ms",
        "interval: 300ms, udp: {idle: 20s}",
    ] {
        let counted = exchange(&server, 50);
        sum.requests += counted.requests;
        sum.answers += counted.answers;
        let changed = text.replace("ebpf: {interval: 200ms}", &format!("ebpf: {{{keys}}}"));
        assert!(daemon.reload(&changed), "{}", daemon.said());
    }
    assert_eq!(crate::kernel_objects::of(daemon.pid()).programs, programs);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(of_port(&window.totals, port, &netns::label()), [sum; 2]);
}

#[test]
fn without_udp_there_is_no_program_of_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::launch(Launch {
        set: &["receivers.ebpf.udp.enabled=false"],
        ..Launch::default()
    });
    let objects = crate::kernel_objects::of(daemon.pid());
    let names = crate::kernel_objects::names(&objects.programs);
    assert!(
        !names
            .iter()
            .any(|name| ["sent4", "taken", "cgroup_sent"].contains(&name.as_str())),
        "{names:?}"
    );
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
}
