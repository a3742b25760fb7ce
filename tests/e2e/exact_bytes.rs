//! The sums of client and server, both directions, equal what the applications counted, to the byte.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use crate::daemon::Daemon;
use crate::netns;
use crate::peers::Peer;
use crate::require;
use crate::traffic::{Counted, Held, exchange};

const CONNECTIONS: usize = 3_000;

/// With room for what other programs on the machine do meanwhile, whose ports may be the same in other namespaces.
fn by_netns(set: &[&str]) -> Daemon {
    let mut all = vec!["receivers.ebpf.ring_buffer_bytes=67108864"];
    all.extend(netns::FLOWS_BY_NETNS);
    all.extend(set);
    Daemon::start(&all)
}

fn exact_on(set: &[&str], listener: &TcpListener, seed: u64) {
    let port = listener.local_addr().unwrap().port();
    let daemon = by_netns(set);
    let sent = exchange(listener, CONNECTIONS, seed).unwrap();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port_in(&window.totals, port, &netns::label()), sent);
}

#[test]
fn three_thousand_ipv4_connections_are_counted_to_the_byte_at_both_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    exact_on(&[], &TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), 4);
}

#[test]
fn three_thousand_ipv6_connections_are_counted_to_the_byte_at_both_ends() {
    let Some(_machine) = require::root() else {
        return;
    };
    exact_on(&[], &TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(), 6);
}

#[test]
fn three_thousand_connections_in_another_network_namespace_are_counted_to_the_byte() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = by_netns(&[]);
    let (netns, port, sent) = netns::within_new(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        (
            netns::label(),
            listener.local_addr().unwrap().port(),
            exchange(&listener, CONNECTIONS, 9).unwrap(),
        )
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port_in(&window.totals, port, &netns), sent);
}

#[test]
fn connections_that_were_open_before_are_counted_from_the_start_on_in_every_namespace() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    let mut daemon = None;
    let home = netns::label();
    let ports_and_counts = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut here = Held::open(&listener, 100).unwrap();
        here.exchange(5_000).unwrap();
        netns::within_new(|| {
            let other = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
            let mut there = Held::open(&other, 100).unwrap();
            there.exchange(7_000).unwrap();
            daemon = Some(by_netns(&[]));
            let adopted = [
                (
                    listener.local_addr().unwrap().port(),
                    home.clone(),
                    here.exchange(40_000).unwrap(),
                ),
                (
                    other.local_addr().unwrap().port(),
                    netns::label(),
                    there.exchange(60_000).unwrap(),
                ),
            ];
            // Still open when the last window closes: the scan alone has to find the bytes.
            let (status, window) = daemon.take().unwrap().stop();
            assert!(status.success(), "{status}");
            adopted.map(|(port, netns, sent)| (Counted::of_port_in(&window.totals, port, &netns), sent))
        })
    };
    for (seen, sent) in ports_and_counts {
        assert_eq!(seen, sent);
    }
}

#[test]
fn connections_of_another_namespace_that_no_process_has_accepted_are_counted_as_not_adopted() {
    const WAITING: usize = 7;
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    // In another namespace than the daemon, in whose own they would be adopted.
    let clients = netns::within_new(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..WAITING)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        // Looked for by process: one has to be in the namespace.
        let sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        (listener, clients, Peer(sleeper))
    });
    let daemon = by_netns(&[]);
    // Other namespaces of the machine may have such connections as well.
    daemon.telemetry_until("connections that were not adopted", |seen| {
        seen.sum("flowtap_receiver_unadopted_connections_total", &[]) >= WAITING as u64
    });
    let text = "connections of other network namespaces were open before flowtap";
    assert!(daemon.said().contains(text), "{}", daemon.said());
    drop(clients);
}

/// One socket: a connect that is refused, then connections of so many bytes, each ended by a connect to nowhere (connect(2):
/// `AF_UNSPEC`). Rust's standard library has no socket that connects twice.
const CONNECTS_AGAIN: &str = "
import ctypes, socket, sys
closed, port, *sizes = map(int, sys.argv[1:])
client = socket.socket()
try:
    client.connect(('127.0.0.1', closed))
    sys.exit('somebody listens there')
except ConnectionRefusedError:
    pass
for size in sizes:
    client.connect(('127.0.0.1', port))
    client.sendall(bytes(size))
    assert client.recv(2) == b'y'
    assert ctypes.CDLL(None).connect(client.fileno(), bytes(16), 16) == 0
";

fn a_socket_that_connects_again(mode: &str) {
    const SIZES: [usize; 3] = [1_000, 20_000, 300];
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = {
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        gone.local_addr().unwrap().port()
    };
    let daemon = by_netns(&[
        mode,
        "processors.window.families.network_tcp_connections.labels=[flow, event, rport, netns]",
    ]);
    let mut client = Command::new("python3")
        .args(["-c", CONNECTS_AGAIN, &closed.to_string(), &port.to_string()])
        .args(SIZES.map(|size| size.to_string()))
        .spawn()
        .unwrap();
    for size in SIZES {
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut vec![0; size]).unwrap();
        server.write_all(b"y").unwrap();
        assert!(server.read(&mut [0]).is_err(), "it ends by a reset");
    }
    assert!(client.wait().unwrap().success());
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let bytes = SIZES.iter().sum::<usize>() as u64;
    let answers = SIZES.len() as u64;
    let counted = Counted {
        client_sent: bytes,
        client_received: answers,
        server_sent: answers,
        server_received: bytes,
    };
    let netns = netns::label();
    assert_eq!(Counted::of_port_in(&window.totals, port, &netns), counted);
    let events = |event, port: u16| {
        let labels = [
            ("flow", "egress"),
            ("event", event),
            ("rport", &*port.to_string()),
            ("netns", &*netns),
        ];
        window.totals.sum("primus_lens_network_tcp_connections", &labels)
    };
    for event in ["opened", "closed", "reset"] {
        assert_eq!(events(event, port), answers, "{event}");
    }
    assert_eq!((events("failed", closed), events("failed", port)), (1, 0));
}

#[test]
fn a_socket_that_connects_again_is_as_many_connections() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::mode_sockets() {
        return;
    }
    a_socket_that_connects_again("receivers.ebpf.mode=sockets");
}

#[test]
fn a_socket_that_connects_again_is_as_many_connections_in_mode_events() {
    let Some(_machine) = require::root() else {
        return;
    };
    a_socket_that_connects_again("receivers.ebpf.mode=events");
}

/// `IPPROTO_MPTCP`, `include/uapi/linux/in.h`.
const MPTCP: i32 = 262;

/// Bytes that the socket of this namespace with the local port `port` has sent, each of them acknowledged, and received, by `ss`.
fn bytes_by_ss(port: u16) -> [u64; 2] {
    let shown = crate::links::run(&format!("ss -tinH state established 'sport = :{port}'"));
    ["bytes_acked:", "bytes_received:"].map(|name| {
        let mut fields = shown.split_whitespace();
        let field = fields.find_map(|field| field.strip_prefix(name));
        field.map_or(0, |bytes| bytes.parse().expect("a number"))
    })
}

#[test]
fn a_subflow_of_mptcp_that_was_open_before_has_the_bytes_that_tcp_sent() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("ss") {
        return;
    }
    let open = || {
        let (domain, kind) = (socket2::Domain::IPV4, socket2::Type::STREAM);
        socket2::Socket::new(domain, kind, Some(socket2::Protocol::from(MPTCP)))
    };
    let Ok(listener) = open() else {
        require::skip("this test needs a kernel with MPTCP");
        return;
    };
    drop(listener);
    netns::within_new(|| {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (listener, client) = (open().unwrap(), open().unwrap());
        listener.bind(&any.into()).unwrap();
        listener.listen(1).unwrap();
        client.connect(&listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (mut client, mut server) = (TcpStream::from(client), TcpStream::from(server));
        let port = server.local_addr().unwrap().port();
        let pass = |from: &mut TcpStream, to: &mut TcpStream, bytes| {
            from.write_all(&vec![b'm'; bytes]).unwrap();
            to.read_exact(&mut vec![0; bytes]).unwrap();
        };
        let daemon = Daemon::start(&netns::FLOWS_BY_NETNS);
        pass(&mut client, &mut server, 70_000);
        pass(&mut server, &mut client, 80_000);
        // MPTCP may retransmit bytes on its only subflow, as it does over loopback: for TCP they are new ones.
        daemon.scrape_until("the bytes of `ss`", |seen| {
            let [sent, received] = bytes_by_ss(port);
            let expected = Counted {
                client_sent: received,
                client_received: sent,
                server_sent: sent,
                server_received: received,
            };
            sent >= 80_000
                && received >= 70_000
                && Counted::of_port_in(seen, port, &netns::label()) == expected
        });
    });
}
