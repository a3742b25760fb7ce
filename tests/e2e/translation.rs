//! The ends of connections behind a translation, against the applications' own addresses and `conntrack -L`; and the hops of a
//! sidecar.
//!
//! ```text
//! client 10.77.11.2 --- node: DNAT of 10.96.0.10:80 and 10.96.0.11:80, masquerade of the latter --- server 10.77.12.2
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Daemon, Launch, flowtap};
use crate::exposition::{Exposition, Sample};
use crate::flow_logs::{is_in, launch_with, records};
use crate::netns::{self, Namespace};
use crate::peers::ask_until;
use crate::recordings::{Recorder, output};
use crate::require;

/// Ports of the backends, on one of which a connection ends by chance.
pub(crate) const BACKENDS: [u16; 3] = [27_060, 27_061, 27_062];

/// Connections of a case.
const CONNECTIONS: usize = 12;

/// Labels with which each connection has series of its own.
const LABELS: [&str; 2] = [
    "processors.window.families.network_tcp_flow_egress.labels=[raddr, rport, lport, direction, netns, backend, backend_port, hop]",
    "processors.window.families.network_tcp_flow_ingress.labels=[raddr, rport, lport, direction, netns, backend, backend_port, hop]",
];

/// A client, a node and a server.
pub(crate) struct Net {
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    pub(crate) server: Namespace,
}

impl Net {
    pub(crate) fn new(bridged: bool) -> Self {
        let net = Self {
            client: Namespace::new(),
            node: Namespace::new(),
            server: Namespace::new(),
        };
        for (end, name, subnet) in [(&net.client, "vc", 11), (&net.server, "vs", 12)] {
            net.node.sh(&format!(
                "ip link add {name} type veth peer name eth0 netns {}; ip link set {name} up",
                end.path()
            ));
            let of_node = if bridged && name == "vs" {
                net.node
                    .sh("ip link add br0 type bridge; ip link set br0 up; ip link set vs master br0");
                "br0"
            } else {
                name
            };
            net.node.sh(&format!(
                "ip addr add 10.77.{subnet}.1/24 dev {of_node}; ip -6 addr add fd77:{subnet}::1/64 dev {of_node} nodad"
            ));
            end.sh(&format!(
                "ip addr add 10.77.{subnet}.2/24 dev eth0; ip -6 addr add fd77:{subnet}::2/64 dev eth0 nodad; ip link set eth0 up; \
                 ip route add default via 10.77.{subnet}.1; ip -6 route add default via fd77:{subnet}::1"
            ));
        }
        net.node
            .sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        net
    }

    /// The rules of kube-proxy: a service address for any of the backends, and one that the node masquerades.
    pub(crate) fn translate(&self) {
        let [first, second, third] = BACKENDS;
        let mut rules = Vec::new();
        for (address, to, family) in [
            ("ip daddr 10.96.0.10", "10.77.12.2", "ip"),
            ("ip daddr 10.96.0.11", "10.77.12.2", "ip"),
            ("ip6 daddr fd96::10", "[fd77:12::2]", "ip6"),
        ] {
            for (chance, port) in [
                ("numgen random mod 3 0", first),
                ("numgen random mod 2 0", second),
                ("", third),
            ] {
                rules.push(format!(
                    "{address} tcp dport 80 {chance} dnat {family} to {to}:{port}"
                ));
            }
        }
        let rules = rules.join("\n");
        self.node.sh(&format!(
            "nft -f - <<'E'
            table inet kp {{
              chain pre {{ type nat hook prerouting priority -100;
              {rules}
              }}
              chain post {{ type nat hook postrouting priority 100; ct original ip daddr 10.96.0.11 masquerade random; }}
            }}
E"
        ));
    }
}

/// A connection as its applications know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) asked: SocketAddr,
    /// The server's own end.
    pub(crate) server: SocketAddr,
    /// The client's end as the server sees it.
    pub(crate) seen: SocketAddr,
}

/// Connects to `address` of a server in another namespace, and exchanges requests and answers, with a pause before each, so that
/// what was sent waits for its acknowledgement, until `done`.
fn converse(net: &Net, listeners: &[TcpListener], address: SocketAddr, done: &AtomicBool) -> Vec<Ends> {
    let pause = Duration::from_millis(15);
    thread::scope(|scope| {
        let clients = net.client.run(|| {
            (0..CONNECTIONS)
                .map(|_| TcpStream::connect(address).expect("a connection"))
                .collect::<Vec<_>>()
        });
        let mut ends = Vec::new();
        let mut servers = BTreeMap::new();
        for listener in listeners {
            listener.set_nonblocking(true).expect("an option");
        }
        let deadline = std::time::Instant::now() + crate::daemon::WAIT_TIMEOUT;
        while servers.len() < clients.len() {
            assert!(std::time::Instant::now() < deadline, "{} came", servers.len());
            for listener in listeners {
                if let Ok((stream, seen)) = listener.accept() {
                    stream.set_nonblocking(false).expect("an option");
                    servers.insert(seen, stream);
                }
            }
        }
        for (seen, mut stream) in servers {
            // The first message names the client.
            let mut message = [0; 64];
            let server = stream.local_addr().expect("an address");
            let known = scope.spawn(move || {
                let mut client = None;
                while stream.read_exact(&mut message).is_ok() {
                    let text = String::from_utf8_lossy(&message);
                    client = client.or_else(|| text.trim_end().parse().ok());
                    thread::sleep(pause);
                    if stream.write_all(&message).is_err() {
                        break;
                    }
                }
                client.map(|client| Ends {
                    client,
                    asked: address,
                    server,
                    seen,
                })
            });
            ends.push(known);
        }
        for mut client in clients {
            scope.spawn(move || {
                let own = client.local_addr().expect("an address");
                let mut message = format!("{own:<64}").into_bytes();
                while !done.load(Ordering::Relaxed) {
                    client.write_all(&message).expect("sent");
                    client.read_exact(&mut message).expect("an answer");
                    thread::sleep(pause);
                }
            });
        }
        let ends = ends.into_iter().map(|end| end.join().expect("a server"));
        ends.map(|end| end.expect("a message")).collect()
    })
}

/// A label's value; a label without one is left out of an exposition.
fn label(sample: &Sample, name: &str) -> String {
    sample.labels.get(name).cloned().unwrap_or_default()
}

/// Ends a conversation, also if the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The backends that the series of one connection have, `""` among them where it was not known.
fn backends(seen: &Exposition, family: &str, lport: u16, peer: SocketAddr, netns: &str) -> Vec<[String; 2]> {
    let (lport, rport, raddr) = (lport.to_string(), peer.port().to_string(), peer.ip().to_string());
    let labels = [
        ("lport", &*lport),
        ("rport", &*rport),
        ("raddr", &*raddr),
        ("netns", netns),
    ];
    let series = seen
        .select(family, &labels)
        .map(|sample| ["backend", "backend_port"].map(|name| label(sample, name)));
    let mut known: Vec<_> = series.collect();
    known.sort();
    known.dedup();
    known
}

const EGRESS: &str = "primus_lens_network_tcp_flow_egress";
const INGRESS: &str = "primus_lens_network_tcp_flow_ingress";

/// The backend of each connection by `conntrack -L`: by the port of the client.
pub(crate) fn by_conntrack(node: &Namespace, family: &str) -> BTreeMap<u16, SocketAddr> {
    let listed = node.sh(&format!("conntrack -L -f {family} -p tcp 2>/dev/null"));
    let mut backends = BTreeMap::new();
    for line in listed.lines() {
        let values = |name: &str| -> Vec<&str> {
            let name = format!("{name}=");
            line.split_whitespace()
                .filter_map(|word| word.strip_prefix(&*name))
                .collect()
        };
        if let ([_, backend, ..], [client, port, ..]) = (&*values("src"), &*values("sport")) {
            let backend: IpAddr = backend.parse().expect("an address");
            let end = SocketAddr::new(backend, port.parse().expect("a port"));
            backends.insert(client.parse().expect("a port"), end);
        }
    }
    backends
}

/// Both ends of connections to `address` show the other one's real end, and never another one; with `masqueraded` the server's
/// peer is the node. Returns the ends as the applications know them.
fn shows_real_ends(daemon: &Daemon, net: &Net, address: SocketAddr, masqueraded: bool) -> Vec<Ends> {
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
    let done = AtomicBool::new(false);
    let (at_client, at_server) = (net.client.label(), net.server.label());
    let own_port = |port: u16| BACKENDS.contains(&port);
    thread::scope(|scope| {
        let ending = Done(&done);
        let talk = scope.spawn(|| converse(net, &listeners, address, &done));
        // Every connection is known at the ends where something is translated.
        let known = |seen: &Exposition, family: &str, netns: &str, of_case: &dyn Fn(u16, u16) -> bool| {
            let labels = [("netns", netns), ("direction", "outbound")];
            let mut ports: Vec<_> = seen
                .select(family, &labels)
                .filter(|sample| !label(sample, "backend").is_empty())
                .map(|sample| ["lport", "rport"].map(|label| sample.labels[label].parse().expect("a port")))
                .filter(|[lport, rport]: &[u16; 2]| of_case(*lport, *rport))
                .collect();
            ports.sort_unstable();
            ports.dedup();
            ports.len()
        };
        let peer = address.ip().to_string();
        let clients = |seen: &Exposition| {
            let labels = [("netns", &*at_client), ("raddr", &*peer)];
            let of_case: BTreeSet<_> = seen
                .select(EGRESS, &labels)
                .map(|sample| sample.labels["lport"].clone())
                .collect();
            known(seen, EGRESS, &at_client, &|lport, _| {
                of_case.contains(&lport.to_string())
            })
        };
        daemon.scrape_until_none("the real ends", |seen| {
            let mut missing = Vec::new();
            let found = clients(seen);
            if found < CONNECTIONS {
                missing.push(format!("backends of {address}: {found} of {CONNECTIONS}"));
            }
            if masqueraded {
                let found = known(seen, INGRESS, &at_server, &|lport, _| own_port(lport));
                if found < CONNECTIONS {
                    missing.push(format!("clients of {address}: {found} of {CONNECTIONS}"));
                }
            }
            missing
        });
        let listed = require::program("conntrack").then(|| {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            let listed = by_conntrack(&net.node, family);
            // The node's own namespace has the connections of this test alone.
            assert!(
                listed.len() >= CONNECTIONS,
                "`conntrack -L` lists {} of {CONNECTIONS}",
                listed.len()
            );
            listed
        });
        drop(ending);
        let ends = talk.join().expect("no panic");
        let seen = daemon.scrape();
        for end in &ends {
            if let Some(listed) = &listed {
                assert_eq!(
                    listed.get(&end.client.port()),
                    Some(&end.server),
                    "conntrack: {end:?}"
                );
            }
            let right = [end.server.ip().to_string(), end.server.port().to_string()];
            let known = backends(&seen, EGRESS, end.client.port(), end.asked, &at_client);
            for shown in &known {
                assert!(shown[0].is_empty() || *shown == right, "{end:?}: {known:?}");
            }
            assert!(known.contains(&right), "{end:?}: {known:?}");
            let real = end.client.ip().to_string();
            let known = backends(&seen, INGRESS, end.server.port(), end.seen, &at_server);
            for shown in &known {
                let is_right = masqueraded && shown[0] == real && shown[1].is_empty();
                assert!(shown[0].is_empty() || is_right, "{end:?}: {known:?}");
            }
            assert!(!known.is_empty(), "{end:?}");
        }
        ends
    })
}

/// Log records of connections of a namespace with these ends, the client's first, of one role.
pub(crate) fn logged<'a>(
    records: &'a [Value],
    netns: &str,
    role: &str,
    ends: [SocketAddr; 2],
) -> Vec<&'a Value> {
    let of_connection = records.iter().filter(|record| {
        is_in(record, netns)
            && record["role"] == role
            && record["source_port"] == ends[0].port()
            && record["source_address"] == ends[0].ip().to_string()
            && record["destination_port"] == ends[1].port()
            && record["destination_address"] == ends[1].ip().to_string()
    });
    of_connection.collect()
}

/// Flow logs have the backend at the client, and at the server the client behind a masquerade.
fn logs_show_real_ends(records: &[Value], net: &Net, ends: &[Ends], masqueraded: bool) {
    let (at_client, at_server) = (net.client.label(), net.server.label());
    let shown = |record: &Value, side: &str| {
        let (address, port) = (record[side].as_str()?, record[format!("{side}_port")].as_u64()?);
        let port = u16::try_from(port).expect("a port");
        Some(SocketAddr::new(address.parse().expect("an address"), port))
    };
    for end in ends {
        let of_client = logged(records, &at_client, "client", [end.client, end.asked]);
        let last = of_client.last().unwrap_or_else(|| panic!("no record of {end:?}"));
        assert_eq!(shown(last, "backend"), Some(end.server), "{last}");
        let of_server = logged(records, &at_server, "server", [end.seen, end.server]);
        let last_of_server = of_server.last().unwrap_or_else(|| panic!("no record of {end:?}"));
        let client = masqueraded.then_some(end.client);
        assert_eq!(shown(last_of_server, "backend"), client, "{last_of_server}");
        for record in of_client.iter().chain(&of_server) {
            // The node copies a packet that it forwards before it writes the source, which would be the frontend.
            assert_eq!(
                (&record["hop"], &record["frontend"]),
                (&Value::Null, &Value::Null),
                "{record}"
            );
        }
    }
}

/// The daemon in `mode`, with series for each connection, and flow logs in `folder`.
fn start_with_logs(mode: &str, set: &[&str], folder: &Path) -> Daemon {
    let mode = format!("receivers.ebpf.mode={mode}");
    let mut all = vec![&*mode];
    all.extend(LABELS);
    all.extend(set);
    launch_with(folder, &all)
}

/// Both ends, in a mode with eBPF, for service addresses of IPv4 and IPv6, without and with a masquerade.
fn every_translation_is_seen_through(mode: &str, bridged: bool) {
    netns::reserve();
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = start_with_logs(mode, &["receivers.ebpf.interval=100ms"], folder.path());
    let net = Net::new(bridged);
    net.translate();
    let cases = [
        ("10.96.0.10:80", false),
        ("10.96.0.11:80", true),
        ("[fd96::10]:80", false),
    ];
    let cases = cases.map(|(address, masqueraded)| {
        let address = address.parse().expect("an address");
        (shows_real_ends(&daemon, &net, address, masqueraded), masqueraded)
    });
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}: {}", window.log);
    let records = records(folder.path());
    for (ends, masqueraded) in &cases {
        logs_show_real_ends(&records, &net, ends, *masqueraded);
    }
}

/// A machine that gives its own connections another source: the client's record has the address that the server sees.
#[test]
fn a_masquerade_of_a_machines_own_connections_is_their_frontend() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    netns::reserve();
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = start_with_logs("events", &[], folder.path());
    let [client, server] = neighbours();
    client.sh(
        "ip addr add 10.77.12.9/24 dev eth0; \
         nft 'table ip own { chain post { type nat hook postrouting priority 100; ip daddr 10.77.12.2 snat to 10.77.12.9; }; }'",
    );
    let listener = server.run(|| TcpListener::bind("10.77.12.2:8080").expect("a listener"));
    let mut stream = client.run(|| {
        let from = "10.77.12.1:0".parse().expect("an address");
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::into(from)).expect("an address");
        let to: SocketAddr = "10.77.12.2:8080".parse().expect("an address");
        socket.connect(&to.into()).expect("a connection");
        TcpStream::from(socket)
    });
    let (mut accepted, seen) = listener.accept().expect("the client");
    let mut message = [b'x'; 100];
    for _ in 0..20 {
        stream.write_all(&message).expect("sent");
        accepted.read_exact(&mut message).expect("all");
        accepted.write_all(&message).expect("sent");
        stream.read_exact(&mut message).expect("an answer");
    }
    let own = stream.local_addr().expect("an address");
    drop((stream, accepted));
    let at_client = client.label();
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}: {}", window.log);
    assert_eq!(
        (own.ip().to_string(), seen.ip().to_string()),
        ("10.77.12.1".into(), "10.77.12.9".into())
    );
    let records = records(folder.path());
    let server = "10.77.12.2:8080".parse().expect("an address");
    let of_client = logged(&records, &at_client, "client", [own, server]);
    let last = of_client.last().expect("a record");
    assert_eq!(last["frontend"], "10.77.12.9", "{last}");
    assert_eq!(last["frontend_port"], seen.port(), "{last}");
    assert_eq!(last["backend"], Value::Null, "{last}");
}

#[test]
fn backends_and_masqueraded_clients_are_those_of_the_applications_in_mode_sockets() {
    let Some(_machine) = require::root() else {
        return;
    };
    if require::program("nft") && require::mode_sockets() {
        for bridged in [false, true] {
            every_translation_is_seen_through("sockets", bridged);
        }
    }
}

#[test]
fn backends_and_masqueraded_clients_are_those_of_the_applications_in_mode_events() {
    let Some(_machine) = require::root() else {
        return;
    };
    if require::program("nft") {
        every_translation_is_seen_through("events", true);
    }
}

/// A connection of an application through a sidecar that redirects it, to a server in another namespace: 10,000 bytes there, and
/// back if `answers`. Returns once all are read. Of the sidecar's own leg the port is one that the redirect exempts.
fn through_a_sidecar(client: &Namespace, server: &Namespace, answers: bool) {
    const OWN_PORT: u16 = 15_002;
    let address: SocketAddr = "10.77.12.2:8080".parse().expect("an address");
    client.sh(&format!(
        "nft 'table ip mesh {{ chain out {{ type nat hook output priority -100; \
         tcp dport 8080 tcp sport != {OWN_PORT} redirect to :15001; }}; }}'"
    ));
    let (peer, proxy) = (
        server.run(|| TcpListener::bind(address).expect("a listener")),
        client.run(|| TcpListener::bind("127.0.0.1:15001").expect("a listener")),
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut application, _) = proxy.accept().expect("the application");
            let mut onward = client.run(|| crate::sock_diag::from_port(OWN_PORT, address));
            let mut message = vec![0; 10_000];
            application.read_exact(&mut message).expect("all");
            onward.write_all(&message).expect("sent");
            if answers {
                onward.read_exact(&mut message).expect("all");
                application.write_all(&message).expect("sent");
            }
        });
        scope.spawn(|| {
            let (mut accepted, _) = peer.accept().expect("the sidecar");
            let mut message = vec![0; 10_000];
            accepted.read_exact(&mut message).expect("all");
            if answers {
                accepted.write_all(&message).expect("sent");
            }
        });
        let mut application = client.run(|| TcpStream::connect(address).expect("a connection"));
        let mut message = vec![b'x'; 10_000];
        application.write_all(&message).expect("sent");
        if answers {
            application.read_exact(&mut message).expect("all");
        }
    });
    client.sh("nft delete table ip mesh");
}

/// A client and a server with nothing between them.
fn neighbours() -> [Namespace; 2] {
    let (client, server) = (Namespace::new(), Namespace::new());
    client.sh(&format!(
        "ip link add eth0 type veth peer name eth0 netns {}; ip addr add 10.77.12.1/24 dev eth0; ip link set eth0 up",
        server.path()
    ));
    server.sh("ip addr add 10.77.12.2/24 dev eth0; ip link set eth0 up");
    [client, server]
}

/// Bytes that went `direction` by hop, of one family and namespace.
fn by_hop(seen: &Exposition, family: &str, netns: &str, direction: &str) -> BTreeMap<String, u64> {
    let of_netns = [("netns", netns), ("direction", direction)];
    let hops: BTreeSet<_> = seen
        .select(family, &of_netns)
        .map(|sample| label(sample, "hop"))
        .collect();
    let all = seen.sum(family, &of_netns);
    let mut sums = BTreeMap::new();
    for hop in hops.iter().filter(|hop| !hop.is_empty()) {
        let bytes = seen.sum(
            family,
            &[("netns", netns), ("direction", direction), ("hop", hop)],
        );
        sums.insert(hop.clone(), bytes);
    }
    // A label without a value is left out.
    let without = all - sums.values().sum::<u64>();
    sums.insert(String::new(), without);
    sums.retain(|_, bytes| *bytes > 0);
    sums
}

fn of(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs
        .iter()
        .map(|(hop, bytes)| ((*hop).to_owned(), *bytes))
        .collect()
}

fn sidecar_hops(mode: &str) {
    netns::reserve();
    for (hops, kept) in [("keep", true), ("drop_local", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let set = ["window", "connections"].map(|processor| format!("processors.{processor}.hops={hops}"));
        let daemon = start_with_logs(mode, &[&set[0], &set[1]], folder.path());
        let [client, server] = neighbours();
        through_a_sidecar(&client, &server, false);
        let (at_client, at_server) = (client.label(), server.label());
        let (status, window) = daemon.stop();
        assert!(status.success(), "{status}");
        let seen = &window.totals;
        let expected = if kept {
            of(&[("", 10_000), ("to_proxy", 10_000)])
        } else {
            of(&[("", 10_000)])
        };
        assert_eq!(
            by_hop(seen, EGRESS, &at_client, "outbound"),
            expected,
            "{mode}, {hops}"
        );
        let expected = if kept {
            of(&[("from_application", 10_000)])
        } else {
            of(&[])
        };
        assert_eq!(
            by_hop(seen, INGRESS, &at_client, "inbound"),
            expected,
            "{mode}, {hops}"
        );
        assert_eq!(
            by_hop(seen, INGRESS, &at_server, "inbound"),
            of(&[("", 10_000)]),
            "{mode}, {hops}"
        );
        // Flow logs, whose key is of its own.
        let records = records(folder.path());
        let logged = |netns: &str, role: &str| logged_by_hop(&records, netns, role);
        let expected = if kept {
            of(&[("", 10_000), ("to_proxy", 10_000)])
        } else {
            of(&[("", 10_000)])
        };
        assert_eq!(logged(&at_client, "client"), expected, "{mode}, {hops}");
        let expected = if kept {
            of(&[("from_application", 10_000)])
        } else {
            of(&[])
        };
        assert_eq!(logged(&at_client, "server"), expected, "{mode}, {hops}");
        assert_eq!(
            logged(&at_server, "server"),
            of(&[("", 10_000)]),
            "{mode}, {hops}"
        );
    }
}

/// Bytes from client to server by the hop of the newest record of their connection: the log has each connection in parts.
fn logged_by_hop(records: &[Value], netns: &str, role: &str) -> BTreeMap<String, u64> {
    let mut connections: BTreeMap<i64, (u64, &Value)> = BTreeMap::new();
    for record in records {
        if is_in(record, netns) && record["role"] == role {
            let id = record["connection_id"].as_i64().expect("an id");
            let (bytes, newest) = connections.entry(id).or_insert((0, record));
            *bytes += record["source_bytes"].as_u64().expect("a count");
            *newest = record;
        }
    }
    let mut sums = BTreeMap::new();
    for (bytes, newest) in connections.into_values() {
        let hop = newest["hop"].as_str().unwrap_or_default();
        *sums.entry(hop.to_owned()).or_default() += bytes;
    }
    sums.retain(|_, bytes| *bytes > 0);
    sums
}

#[test]
fn bytes_through_a_sidecar_count_once_on_request_and_by_hop_otherwise_in_mode_sockets() {
    let Some(_machine) = require::root() else {
        return;
    };
    if require::program("nft") && require::mode_sockets() {
        sidecar_hops("sockets");
    }
}

#[test]
fn bytes_through_a_sidecar_count_once_on_request_and_by_hop_otherwise_in_mode_events() {
    let Some(_machine) = require::root() else {
        return;
    };
    if require::program("nft") {
        sidecar_hops("events");
    }
}

/// A sidecar before the server: its hop is known by the headers of its answers.
#[test]
fn a_sidecar_before_a_server_has_its_hop() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    for (hops, kept) in [("keep", true), ("drop_local", false)] {
        hop_before_a_server("events", hops, kept);
        if require::mode_sockets() {
            hop_before_a_server("sockets", hops, kept);
        }
    }
}

/// The legs of a sidecar before a server: the client's, which leaves, and the one within, of which nothing counts with `drop_local`.
fn hop_before_a_server(mode: &str, hops: &str, kept: bool) {
    netns::reserve();
    let folder = tempfile::tempdir().expect("a folder");
    let set = ["window", "connections"].map(|processor| format!("processors.{processor}.hops={hops}"));
    let daemon = start_with_logs(
        mode,
        &[&set[0], &set[1], "receivers.ebpf.interval=100ms"],
        folder.path(),
    );
    let [client, server] = neighbours();
    server.sh(
        "nft 'table ip mesh { chain pre { type nat hook prerouting priority -100; tcp dport 8080 redirect to :15006; }; }'",
    );
    let listen = |at: &str| server.run(|| TcpListener::bind(at).expect("a listener"));
    let (proxy, application) = (listen("10.77.12.2:15006"), listen("127.0.0.1:8080"));
    let pause = if mode == "sockets" {
        Duration::from_millis(15)
    } else {
        Duration::ZERO
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut accepted, _) = proxy.accept().expect("the client");
            let mut inside = server.run(|| TcpStream::connect("127.0.0.1:8080").expect("the application"));
            let mut message = [0; 100];
            while accepted.read_exact(&mut message).is_ok() {
                inside.write_all(&message).expect("sent");
                inside.read_exact(&mut message).expect("an answer");
                accepted.write_all(&message).expect("sent");
            }
        });
        scope.spawn(|| {
            let (mut accepted, _) = application.accept().expect("the sidecar");
            let mut message = [0; 100];
            while accepted.read_exact(&mut message).is_ok() {
                thread::sleep(pause);
                accepted.write_all(&message).expect("sent");
            }
        });
        let mut stream = client.run(|| TcpStream::connect("10.77.12.2:8080").expect("a connection"));
        let mut message = [b'x'; 100];
        for _ in 0..100 {
            stream.write_all(&message).expect("sent");
            stream.read_exact(&mut message).expect("an answer");
            // A scan of mode `sockets` knows the hop while something is in flight.
            thread::sleep(pause);
        }
    });
    let (at_client, at_server) = (client.label(), server.label());
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    let of_server = by_hop(&window.totals, INGRESS, &at_server, "inbound");
    let at_server_as_client = by_hop(&window.totals, EGRESS, &at_server, "outbound");
    let within = if kept {
        of(&[("loopback", 10_000)])
    } else {
        of(&[])
    };
    assert_eq!(at_server_as_client, within, "{mode}, {hops}");
    assert_eq!(
        of_server.get("loopback"),
        within.get("loopback"),
        "{mode}, {hops}: {of_server:?}"
    );
    // Bytes before the hop was known have none.
    let at_proxy = of_server.get("at_proxy").copied().unwrap_or(0);
    let before = of_server.get("").copied().unwrap_or(0);
    assert_eq!(at_proxy + before, 10_000, "{mode}, {hops}: {of_server:?}");
    assert!(
        at_proxy >= if mode == "events" { 9_000 } else { 1 },
        "{mode}, {hops}: {of_server:?}"
    );
    let of_client = by_hop(&window.totals, EGRESS, &at_client, "outbound");
    assert_eq!(of_client, of(&[("", 10_000)]), "{mode}, {hops}");
    let records = records(folder.path());
    let mut expected = of(&[("at_proxy", 10_000)]);
    expected.extend(within.clone());
    assert_eq!(
        logged_by_hop(&records, &at_server, "server"),
        expected,
        "{mode}, {hops}"
    );
    // The proxy's peer knows it by the address that it asked for.
    let at_proxy = records.iter().filter(|record| record["hop"] == "at_proxy");
    for record in at_proxy.filter(|record| is_in(record, &at_server)) {
        let ends = ["frontend", "frontend_port"].map(|side| record[side].clone());
        assert_eq!(ends, [Value::from("10.77.12.2"), Value::from(8080)], "{record}");
    }
    assert_eq!(
        logged_by_hop(&records, &at_server, "client"),
        within,
        "{mode}, {hops}"
    );
    assert_eq!(
        logged_by_hop(&records, &at_client, "client"),
        of(&[("", 10_000)]),
        "{mode}, {hops}"
    );
}

/// A client of the service at 10.96.0.10: HTTP requests with a pause before each answer, so that what was sent waits for its
/// acknowledgement. Returns the port of the backend that answered.
fn ask_by_http(net: &Net) -> u16 {
    let listeners: Vec<_> = net.server.run(|| {
        BACKENDS
            .map(|port| TcpListener::bind(("0.0.0.0", port)).expect("a listener"))
            .into()
    });
    for listener in &listeners {
        listener.set_nonblocking(true).expect("an option");
    }
    let mut client = net
        .client
        .run(|| TcpStream::connect("10.96.0.10:80").expect("a connection"));
    let deadline = std::time::Instant::now() + crate::daemon::WAIT_TIMEOUT;
    let mut server = loop {
        assert!(std::time::Instant::now() < deadline, "no connection");
        if let Some((server, _)) = listeners.iter().find_map(|listener| listener.accept().ok()) {
            break server;
        }
    };
    server.set_nonblocking(false).expect("an option");
    let request = b"GET / HTTP/1.1\r\nHost: shop.example.test\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for _ in 0..60 {
        client.write_all(request).expect("sent");
        server.read_exact(&mut vec![0; request.len()]).expect("a request");
        thread::sleep(Duration::from_millis(15));
        server.write_all(answer).expect("sent");
        client.read_exact(&mut vec![0; answer.len()]).expect("an answer");
    }
    server.local_addr().expect("an address").port()
}

#[test]
fn a_recording_has_the_translation_and_the_protocol_for_replay_explain_and_flow_logs() {
    const INSPECT: &str = "receivers.ebpf.inspect={protocols: true, budget: 100%}";
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !require::program("nft") {
        return;
    }
    netns::reserve();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.flowtap");
    let recorder = Recorder::with(&file, &[INSPECT]);
    let net = Net::new(false);
    net.translate();
    let backend_port = ask_by_http(&net).to_string();
    recorder.stop();

    let netns = net.client.label();
    let labels = "processors.window.families.network_tcp_flow_egress.labels=[raddr, backend, backend_port, protocol, direction, netns]";
    // A recording has what was inspected; the config says so by the receiver that inspected it.
    let set = ["--set", labels, "--set", INSPECT];
    let replayed = output(flowtap().arg("replay").args(set).arg(&file));
    let seen = Exposition::parse(&replayed);
    let real = [
        ("netns", &*netns),
        ("raddr", "10.96.0.10"),
        ("backend", "10.77.12.2"),
        ("backend_port", &*backend_port),
        ("protocol", "http"),
        ("direction", "outbound"),
    ];
    assert!(seen.sum(EGRESS, &real) > 0, "{replayed}");
    let all = [("netns", &*netns), ("direction", "outbound")];
    let request = "GET / HTTP/1.1\r\nHost: shop.example.test\r\n\r\n";
    assert_eq!(seen.sum(EGRESS, &all), 60 * request.len() as u64);

    // The table has the cost of each label: without `protocol` or `backend` there are fewer series.
    let explained = output(flowtap().arg("explain").args(set).arg(&file));
    let line = explained
        .lines()
        .find(|line| line.starts_with("network_tcp_flow_egress "));
    let line = line.unwrap_or_else(|| panic!("{explained}"));
    let series: usize = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    assert_eq!(series, seen.select(EGRESS, &[]).count(), "{explained}");
    let without = |label: &str| -> usize {
        let (_, rest) = line
            .split_once(&format!(" {label}: "))
            .unwrap_or_else(|| panic!("{line}"));
        rest.split_whitespace()
            .next()
            .expect("a number")
            .parse()
            .expect("a number")
    };
    for label in ["backend", "backend_port", "protocol"] {
        assert!(without(label) <= series, "{line}");
    }
    assert!(
        without("netns") <= series && without("direction") < series,
        "{line}"
    );

    // As a receiver of the daemon, into flow logs.
    let logs = tempfile::tempdir().expect("a folder");
    let set = format!("receivers.replay.file={}", file.display());
    let daemon = Daemon::launch(Launch {
        exporters: &format!("  file: {{path: \"{}\"}}\n", logs.path().display()),
        set: &[
            &set,
            "service.pipelines.metrics.receivers=[replay]",
            "processors.connections={interval: 200ms}",
            "service.pipelines.logs={receivers: [replay], processors: [direction, policy, connections], exporters: [file]}",
        ],
        ..Launch::default()
    });
    ask_until("the record of the client", || {
        let records = records(logs.path());
        let mut of_client = records.iter().filter(|record| {
            is_in(record, &netns) && record["role"] == "client" && record["outcome"] == "closed"
        });
        let record = of_client.next()?;
        assert_eq!(record["destination_address"], "10.96.0.10", "{record}");
        assert_eq!(record["backend"], "10.77.12.2", "{record}");
        assert_eq!(record["backend_port"].to_string(), backend_port, "{record}");
        assert_eq!(record["protocol"], "http", "{record}");
        Some(())
    });
    drop(daemon);
}
