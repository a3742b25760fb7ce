//! UDP beside what sockets send and take as datagrams: copies for raw sockets, datagrams that a filter refuses, and messages of error
//! queues.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};

use nix::sys::socket::{MsgFlags, SockaddrStorage, TimestampingFlag, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use crate::daemon::{Daemon, LastWindow, WAIT_TIMEOUT};
use crate::{netns, require};

const EGRESS: &str = "primus_lens_network_udp_flow_egress";
const INGRESS: &str = "primus_lens_network_udp_flow_ingress";
const DATAGRAMS: &str = "primus_lens_network_udp_datagrams";

fn daemon(hooks: &str) -> Daemon {
    let hooks = format!("receivers.ebpf.udp.hooks={hooks}");
    Daemon::start(&[
        &hooks,
        "processors.window.families.network_udp_flow_egress.labels=[direction, netns]",
        "processors.window.families.network_udp_flow_ingress.labels=[direction, netns]",
        "processors.window.families.network_udp_datagrams.labels=[direction, netns]",
    ])
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// Bytes and datagrams of a namespace, sent and then received.
fn moved(window: &LastWindow, netns: &str) -> [[u64; 2]; 2] {
    ["outbound", "inbound"].map(|direction| {
        let sum = |family| {
            let labels = [("direction", direction), ("netns", netns)];
            window.totals.sum(family, &labels)
        };
        [sum(EGRESS) + sum(INGRESS), sum(DATAGRAMS)]
    })
}

/// A UDP header without a checksum, and a payload of so many bytes.
fn datagram(source: u16, destination: u16, payload: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload).unwrap();
    let mut datagram = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    datagram.resize(8 + payload, 7);
    datagram
}

#[test]
fn a_raw_socket_has_no_flow_and_its_copies_are_not_received_again() {
    const COUNT: u64 = 20;
    const BYTES: usize = 100;
    const OF_RAW: usize = 27;
    let Some(_machine) = require::root() else {
        return;
    };
    for hooks in ["cgroup", "tracepoints"] {
        let daemon = daemon(hooks);
        let netns = netns::within_new(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
            raw.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
            let raw = UdpSocket::from(raw);
            let (client, server) = (socket(), socket());
            let mut buffer = [0; 256];
            for _ in 0..COUNT {
                client.send_to(&[1; BYTES], server.local_addr().unwrap()).unwrap();
                assert_eq!(server.recv(&mut buffer).unwrap(), BYTES);
                // With the headers of IPv4 and UDP.
                assert_eq!(raw.recv(&mut buffer).unwrap(), BYTES + 28);
            }
            // The kernel takes it for one of the client's, and the server gets it.
            let forged = datagram(port(&client), port(&server), OF_RAW);
            raw.send_to(&forged, (Ipv4Addr::LOCALHOST, 0)).unwrap();
            assert_eq!(server.recv(&mut buffer).unwrap(), OF_RAW);
            netns::label()
        });
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        let sent = COUNT * BYTES as u64;
        let expected = [[sent, COUNT], [sent + OF_RAW as u64, COUNT + 1]];
        assert_eq!(moved(&window, &netns), expected, "{hooks}");
    }
}

#[test]
fn datagrams_that_the_filter_of_a_socket_drops_are_not_received() {
    const COUNT: u64 = 10;
    const BYTES: usize = 100;
    /// `BPF_RET | BPF_K`: so many bytes of the packet are kept.
    const KEEP: u16 = 0x06;
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = daemon("cgroup");
    if daemon
        .said()
        .contains("the filter of a socket or a cgroup drops count as received here")
    {
        require::skip("this test needs the socket at the tracepoint kfree_skb (Linux 6.11)");
        return;
    }
    let netns = netns::within_new(|| {
        let (client, server) = (socket(), socket());
        let at = server.local_addr().unwrap();
        let send = || {
            for _ in 0..COUNT {
                client.send_to(&[1; BYTES], at).unwrap();
            }
        };
        SockRef::from(&server)
            .attach_filter(&[SockFilter::new(KEEP, 0, 0, 0)])
            .unwrap();
        send();
        SockRef::from(&server).detach_filter().unwrap();
        send();
        let mut buffer = [0; 256];
        for _ in 0..COUNT {
            assert_eq!(server.recv(&mut buffer).unwrap(), BYTES);
        }
        server.set_nonblocking(true).unwrap();
        assert_eq!(
            server.recv(&mut buffer).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        netns::label()
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let received = COUNT * BYTES as u64;
    let expected = [[2 * received, 2 * COUNT], [received, COUNT]];
    assert_eq!(moved(&window, &netns), expected);
}

#[test]
fn messages_of_the_error_queue_are_not_received_datagrams() {
    const COUNT: u64 = 5;
    const BYTES: usize = 100;
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = daemon("tracepoints");
    let netns = netns::within_new(|| {
        let socket = socket();
        // Nobody has the port.
        socket.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        setsockopt(
            &socket,
            sockopt::Timestamping,
            &TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE,
        )
        .unwrap();
        for _ in 0..COUNT {
            socket.send(&[1; BYTES]).unwrap();
            assert_eq!(
                socket.take_error().unwrap().unwrap().kind(),
                ErrorKind::ConnectionRefused
            );
        }
        let (mut messages, mut buffer) = (0, [0; 256]);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let mut take = || {
            let mut vectors = [std::io::IoSliceMut::new(&mut buffer)];
            recvmsg::<SockaddrStorage>(fd, &mut vectors, None, flags).is_ok()
        };
        while take() {
            messages += 1;
        }
        assert_eq!(messages, 2 * COUNT, "an error and a time stamp of each");
        netns::label()
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(moved(&window, &netns), [[COUNT * BYTES as u64, COUNT], [0; 2]]);
}
