//! ICMP: errors of UDP sockets by flow, against the errors that the sockets returned; messages by type, against
//! `/proc/net/snmp`.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, SockaddrStorage, TimestampingFlag, recvmsg, setsockopt, sockopt};

use crate::daemon::{Daemon, WAIT_TIMEOUT};
use crate::{links, netns, require};

const ERRORS: &str = "primus_lens_network_udp_errors";
const MESSAGES: &str = "primus_lens_network_icmp_messages";

/// A router in a network namespace of its own: `inner` is this namespace's end of the link to it. Destinations beyond it are
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

/// Messages of type 3, sent and received, by the kernel's counters of this namespace.
fn unreachables() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IcmpMsg:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let pairs: Vec<_> = names.split_whitespace().zip(values.split_whitespace()).collect();
    ["OutType3", "InType3"].map(|wanted| {
        let found = pairs.iter().find(|(name, _)| *name == wanted);
        found.map_or(0, |(_, value)| value.parse().unwrap())
    })
}

#[test]
fn messages_are_counted_by_type_as_the_kernel_counts_them() {
    const COUNT: u64 = 50;
    let Some(_machine) = require::root() else {
        return;
    };
    let before = unreachables();
    let daemon = Daemon::start(&["receivers.ebpf.udp.hooks=cgroup"]);
    let start = unreachables();
    for _ in 0..COUNT {
        provoke("127.0.0.1:9".parse().unwrap(), 10, false);
    }
    let end = unreachables();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let after = unreachables();
    for (index, direction) in ["outbound", "inbound"].into_iter().enumerate() {
        let labels = [("direction", direction), ("icmp_type", "destination_unreachable")];
        let seen = window.totals.sum(MESSAGES, &labels);
        // Others of this namespace may have caused some, before and after those of the test.
        assert!(
            (end[index] - start[index]..=after[index] - before[index]).contains(&seen),
            "{direction}: {seen}, {start:?} to {end:?}, {before:?} to {after:?}"
        );
        assert!(seen >= COUNT);
    }
}
