//! ICMP: errors of UDP sockets by flow, against the errors that the sockets returned; messages by type, against
//! `/proc/net/snmp` and `/proc/net/snmp6`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, SockaddrStorage, TimestampingFlag, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::daemon::{Daemon, WAIT_TIMEOUT};
use crate::{links, netns, require};

const ERRORS: &str = "primus_lens_network_udp_errors";
const MESSAGES: &str = "primus_lens_network_icmp_messages";

/// A router in a separate network namespace: `inner` is this namespace's end of the link to it. Destinations beyond it are
/// too narrow, unreachable, and prohibited.
struct Router {
    shell: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Router {
    fn start() -> Self {
        let mut shell = Command::new("unshare")
            .args(["--net", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut router = Self { shell, answers };
        router.run("true");
        let pid = router.shell.id();
        links::run(&format!(
            "ip link add inner type veth peer name outer netns {pid} && ip addr add 10.28.0.1/24 dev inner \
             && ip link set inner up && ip route add default via 10.28.0.2"
        ));
        router.run(
            "set -e; ip link set lo up; ip addr add 10.28.0.2/24 dev outer; ip link set outer up; \
             echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; \
             ip link add narrow type veth peer name far; ip link set far up; ip link set narrow mtu 1300 up; ip addr add 10.28.1.1/24 dev narrow; \
             ip route add unreachable 10.28.2.0/24; ip route add prohibit 10.28.3.0/24",
        );
        router
    }

    /// Runs commands in its namespace, and waits for their end.
    fn run(&mut self, commands: &str) {
        let stdin = self.shell.stdin.as_mut().unwrap();
        writeln!(stdin, "{commands}; echo done").unwrap();
        let answer = self.answers.next().expect("the router's shell ended").unwrap();
        assert_eq!(answer, "done");
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Sends datagrams on a connected socket until it has an error, and returns that. A router reports a route's error to a host
/// once per second (`net.ipv4.route.error_cost`), and is silent about those in between.
fn provoke(peer: SocketAddr, bytes: usize, receives_errors: bool) -> i32 {
    let local = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.connect(peer).unwrap();
    if receives_errors {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    }
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        socket.send(&vec![1; bytes]).unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        if error.kind() != ErrorKind::WouldBlock || Instant::now() > deadline {
            return error.raw_os_error().unwrap();
        }
    }
}

#[test]
fn errors_that_sockets_return_are_counted_by_peer_and_reason() {
    const EMSGSIZE: i32 = nix::errno::Errno::EMSGSIZE as i32;
    const ECONNREFUSED: i32 = nix::errno::Errno::ECONNREFUSED as i32;
    const ROUNDS: u16 = 2;
    const EHOSTUNREACH: i32 = nix::errno::Errno::EHOSTUNREACH as i32;
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[
        "receivers.ebpf.udp.hooks=cgroup",
        "processors.window.families.network_udp_errors.labels=[raddr, reason, netns]",
    ]);
    if daemon
        .said()
        .contains("drops or errors of UDP are not counted here")
    {
        require::skip("this test needs the tracepoint inet_sk_error_report (Linux 5.14)");
        return;
    }
    let netns = netns::within_new(|| {
        let _router = Router::start();
        for index in 0..ROUNDS {
            let port = 40_000 + index;
            let at = |net, host| SocketAddr::from((Ipv4Addr::new(10, 28, net, host), port));
            let host = u8::try_from(index).unwrap() + 9;
            // Nobody has the port.
            assert_eq!(provoke(at(0, 2), 100, false), ECONNREFUSED);
            assert_eq!(
                provoke((Ipv6Addr::LOCALHOST, port).into(), 100, false),
                ECONNREFUSED
            );
            // Fragmentation is needed: another peer each time, as the kernel remembers the size that its path takes.
            assert_eq!(provoke(at(1, host), 1400, false), EMSGSIZE);
            // No route, of which only a socket is notified that asks for it; and an administrator's rule, which ends a
            // connected one's call.
            assert_eq!(provoke(at(2, host), 100, true), EHOSTUNREACH);
            assert_eq!(provoke(at(3, host), 100, false), EHOSTUNREACH);
        }
        netns::label()
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let of = |raddr: &str, reason: &str| {
        window
            .totals
            .sum(ERRORS, &[("raddr", raddr), ("reason", reason), ("netns", &netns)])
    };
    assert_eq!((of("10.28.0.2", "refused"), of("::1", "refused")), (2, 2));
    for host in 9..11 {
        assert_eq!(of(&format!("10.28.1.{host}"), "message_too_big"), 1, "{host}");
        assert_eq!(of(&format!("10.28.2.{host}"), "unreachable"), 1, "{host}");
        assert_eq!(of(&format!("10.28.3.{host}"), "unreachable"), 1, "{host}");
    }
    assert_eq!(
        window.totals.sum(ERRORS, &[("netns", &netns)]),
        u64::from(5 * ROUNDS)
    );
}

#[test]
fn errors_count_once_however_many_are_queued_and_time_stamps_are_none() {
    const COUNT: u16 = 5;
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[
        "receivers.ebpf.udp.hooks=cgroup",
        "processors.window.families.network_udp_errors.labels=[raddr, reason, netns]",
    ]);
    let netns = netns::within_new(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        setsockopt(
            &socket,
            sockopt::Timestamping,
            &TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE,
        )
        .unwrap();
        for _ in 0..COUNT {
            // On loopback the message is there when the call returns; it is left in the queue, with the time stamp, and only the
            // error is taken.
            socket.send(b"x").unwrap();
            assert_eq!(
                socket.take_error().unwrap().unwrap().kind(),
                ErrorKind::ConnectionRefused
            );
        }
        // Each message that is taken out is a notification of those that are left.
        let (mut errors, mut buffer) = (0, [0; 64]);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let mut take = || {
            let mut vectors = [std::io::IoSliceMut::new(&mut buffer)];
            recvmsg::<SockaddrStorage>(fd, &mut vectors, None, flags).is_ok()
        };
        while take() {
            errors += 1;
        }
        assert!(errors > COUNT, "{errors} messages, of time stamps as well");
        netns::label()
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let counted = window
        .totals
        .sum(ERRORS, &[("reason", "refused"), ("netns", &netns)]);
    assert_eq!(counted, u64::from(COUNT));
}

/// Messages of ICMP by the kernel's counters of this namespace, by their names there, such as `InType3`.
fn of_icmp() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IcmpMsg:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The same of ICMPv6, such as `Icmp6InType1`.
fn of_icmp6() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let pairs = text
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace));
    pairs
        .map(|(name, value)| (name.to_owned(), value.trim().parse().unwrap()))
        .collect()
}

/// Messages of each type of the test, in the order of [`TYPES`], sent and received.
fn messages() -> Vec<[u64; 2]> {
    let (v4, v6) = (of_icmp(), of_icmp6());
    let count = |counts: &BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    TYPES
        .iter()
        .map(|(_, of_v4, of_v6)| {
            ["Out", "In"].map(|way| {
                count(&v4, &format!("{way}Type{of_v4}")) + count(&v6, &format!("Icmp6{way}Type{of_v6}"))
            })
        })
        .collect()
}

/// The label of a type, and its numbers of ICMP and ICMPv6.
const TYPES: [(&str, u8, u8); 3] = [
    ("destination_unreachable", 3, 1),
    ("echo_request", 8, 128),
    ("echo_reply", 0, 129),
];

#[test]
fn messages_are_counted_by_type_as_the_kernel_counts_them() {
    const COUNT: u64 = 50;
    let Some(_machine) = require::root() else {
        return;
    };
    let before = messages();
    let daemon = Daemon::start(&["receivers.ebpf.udp.hooks=cgroup"]);
    let start = messages();
    for _ in 0..COUNT {
        provoke("127.0.0.1:9".parse().unwrap(), 10, false);
        provoke("[::1]:9".parse().unwrap(), 10, false);
    }
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        ping(address, COUNT);
    }
    let end = messages();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let after = messages();
    for (number, (icmp_type, ..)) in TYPES.iter().enumerate() {
        for (index, direction) in ["outbound", "inbound"].into_iter().enumerate() {
            let labels = [("direction", direction), ("icmp_type", icmp_type)];
            let seen = window.totals.sum(MESSAGES, &labels);
            let least = end[number][index] - start[number][index];
            let most = after[number][index] - before[number][index];
            // Others of this namespace may have caused some, before and after those of the test.
            assert!(
                (least..=most).contains(&seen),
                "{icmp_type} {direction}: {seen}, {least} to {most}"
            );
            assert!(least >= 2 * COUNT, "{icmp_type} {direction}: {least}");
        }
    }
}

/// Sends echo requests to an address of this machine, and waits for the reply to each.
fn ping(address: IpAddr, count: u64) {
    let (domain, protocol, message) = if address.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4, [8, 0, 0, 0, 0, 7, 0, 0])
    } else {
        (Domain::IPV6, Protocol::ICMPV6, [128, 0, 0, 0, 0, 7, 0, 0])
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let mut socket = {
        socket.connect(&SocketAddr::new(address, 0).into()).unwrap();
        socket
    };
    for number in 0..u16::try_from(count).unwrap() {
        let mut message = message;
        message[6..].copy_from_slice(&number.to_be_bytes());
        // Of ICMPv6 the kernel fills in the checksum.
        if address.is_ipv4() {
            let sum = !(0x0800_u16 + 7 + number);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        socket.write_all(&message).unwrap();
        let mut reply = [0; 128];
        loop {
            let length = socket.read(&mut reply).unwrap();
            // Of IPv4 the header comes first; requests pass this socket as well.
            let of_icmp = if address.is_ipv4() {
                &reply[20..length]
            } else {
                &reply[..length]
            };
            if matches!(of_icmp[0], 0 | 129) && of_icmp[4..8] == message[4..] {
                break;
            }
        }
    }
}
