//! With `inspect`, the ends of connections behind a translation that are shorter than the pause between two scans: each against the
//! applications' own addresses and `conntrack -L`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, WAIT_TIMEOUT};
use crate::flow_logs::{launch_with, records};
use crate::shielded::again_if_segments_hidden;
use crate::translation::{BACKENDS, Ends, Net, by_conntrack, logged};
use crate::{netns, require};

/// Connections of a case.
const CONNECTIONS: usize = 200;

/// No scan finds one of them: they take milliseconds.
const SCAN_INTERVAL: &str = "receivers.ebpf.interval=10m";

/// The end that closes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closes {
    Client,
    /// Right after its answer, so that the acknowledgement of that comes after the FIN.
    Server,
}

/// Each connection: a request with the client's own address, and an answer.
fn converse(net: &Net, address: SocketAddr, closes: Closes) -> Vec<Ends> {
    let any: IpAddr = if address.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let listeners: Vec<_> = net.server.run(|| {
        BACKENDS
            .map(|port| TcpListener::bind((any, port)).expect("a listener"))
            .into()
    });
    for listener in &listeners {
        listener.set_nonblocking(true).expect("an option");
    }
    thread::scope(|scope| {
        let served = scope.spawn(|| serve(&listeners, address, closes));
        net.client.run(|| {
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect(address).expect("a connection");
                let own = stream.local_addr().expect("an address");
                stream.write_all(format!("{own:<64}").as_bytes()).expect("sent");
                stream.read_exact(&mut [0; 64]).expect("an answer");
                if closes == Closes::Server {
                    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
                }
            }
        });
        served.join().expect("no panic")
    })
}

fn serve(listeners: &[TcpListener], asked: SocketAddr, closes: Closes) -> Vec<Ends> {
    let mut ends = Vec::new();
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while ends.len() < CONNECTIONS {
        assert!(Instant::now() < deadline, "{} came", ends.len());
        for (mut stream, seen) in listeners.iter().filter_map(|listener| listener.accept().ok()) {
            stream.set_nonblocking(false).expect("an option");
            let mut message = [0; 64];
            stream.read_exact(&mut message).expect("a request");
            let client = String::from_utf8_lossy(&message);
            ends.push(Ends {
                client: client.trim_end().parse().expect("an address"),
                asked,
                server: stream.local_addr().expect("an address"),
                seen,
            });
            stream.write_all(&message).expect("sent");
            if closes == Closes::Client {
                assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
            }
        }
        thread::sleep(Duration::from_micros(100));
    }
    ends
}

/// The address and port of the other end in the newest record of a connection, which its close has made.
fn backend(records: &[Value], netns: &str, role: &str, ends: [SocketAddr; 2]) -> Option<SocketAddr> {
    let found = logged(records, netns, role, ends);
    let last = found
        .last()
        .unwrap_or_else(|| panic!("no record of {ends:?} at the {role}"));
    assert_eq!(last["outcome"], "closed", "{last}");
    let address = last["backend"].as_str()?;
    let port = u16::try_from(last["backend_port"].as_u64()?).expect("a port");
    Some(SocketAddr::new(address.parse().expect("an address"), port))
}

/// Starts the daemon in `mode`.
fn start(mode: &str, folder: &Path, more: &[&str]) -> Daemon {
    let mode = format!("receivers.ebpf.mode={mode}");
    launch_with(folder, &[&[&*mode, SCAN_INTERVAL], more].concat())
}

fn short_connections(mode: &str, closes: Closes) {
    const INSPECT: &str = "receivers.ebpf.inspect={protocols: true, budget: 100%}";
    netns::reserve();
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = start(mode, folder.path(), &[INSPECT]);
    let net = Net::new(false);
    net.translate();
    let cases = [
        ("10.96.0.10:80", false),
        ("10.96.0.11:80", true),
        ("[fd96::10]:80", false),
    ];
    let cases = cases.map(|(address, masqueraded)| {
        let address: SocketAddr = address.parse().expect("an address");
        let ends = converse(&net, address, closes);
        if require::program("conntrack") {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            let listed = by_conntrack(&net.node, family);
            for end in &ends {
                let found = listed.get(&end.client.port());
                assert_eq!(found, Some(&end.server), "conntrack: {end:?}");
            }
            net.node.sh(&format!("conntrack -F -f {family} 2>&1"));
        }
        (ends, masqueraded)
    });
    let (at_client, at_server) = (net.client.label(), net.server.label());
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}: {}", window.log);
    let records = records(folder.path());
    for (ends, masqueraded) in &cases {
        let mut unknown = 0;
        for end in ends {
            let of_client = backend(&records, &at_client, "client", [end.client, end.asked]);
            assert_eq!(of_client, Some(end.server), "{mode}, {closes:?}: {end:?}");
            let of_server = backend(&records, &at_server, "server", [end.seen, end.server]);
            unknown += usize::from(*masqueraded && of_server.is_none());
            if of_server.is_some() || closes == Closes::Client {
                let real = masqueraded.then_some(end.client);
                assert_eq!(of_server, real, "{mode}, {closes:?}: {end:?}");
            }
        }
        eprintln!(
            "{mode}, {closes:?}: {unknown} clients of {} are unknown",
            ends.len()
        );
        // The headers of an answer whose acknowledgement comes after the FIN may not have come to the NAT at the last look.
        assert!(unknown <= ends.len() / 10, "{mode}, {closes:?}: {unknown}");
    }
}

#[test]
fn backends_and_clients_of_every_short_connection_are_known_in_mode_sockets() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if require::program("nft") && require::mode_sockets() {
        for closes in [Closes::Client, Closes::Server] {
            again_if_segments_hidden(|| short_connections("sockets", closes));
        }
    }
}

#[test]
fn backends_and_clients_of_every_short_connection_are_known_in_mode_events() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if require::program("nft") {
        again_if_segments_hidden(|| short_connections("events", Closes::Client));
    }
}

/// Nothing is read with `translation: off`, and without `inspect` a scan has to find something in flight.
#[test]
fn without_inspect_or_with_translation_off_short_connections_have_no_backend() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::program("nft") || !require::mode_sockets() {
        return;
    }
    for more in [
        &[][..],
        &[
            "receivers.ebpf.inspect={protocols: true, budget: 100%}",
            "receivers.ebpf.translation=off",
        ],
    ] {
        netns::reserve();
        let folder = tempfile::tempdir().expect("a folder");
        let daemon = start("sockets", folder.path(), more);
        let net = Net::new(false);
        net.translate();
        let ends = converse(&net, "10.96.0.10:80".parse().expect("an address"), Closes::Client);
        let at_client = net.client.label();
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}: {}", window.log);
        let records = records(folder.path());
        for end in ends {
            let of_client = backend(&records, &at_client, "client", [end.client, end.asked]);
            assert_eq!(of_client, None, "{more:?}: {end:?}");
        }
    }
}
