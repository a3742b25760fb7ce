//! Log records of UDP flows: they add up to what the application sent and received, of flows that close, that become idle, and that go
//! on over several records and a reload.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use serde_json::Value;

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, flowtap, read};
use crate::otelcol::{Otelcol, log_records};
use crate::peers::ask_until;
use crate::{netns, require};

const HOOKS: &str = "receivers.ebpf.udp.hooks=cgroup";
const PIPELINE: &str = "service.pipelines.logs={receivers: [ebpf], processors: [direction, policy, filter, connections], exporters: [file]}";

/// The filter that keeps what other programs of this machine do out of the files.
fn of_ports(ports: &[u16]) -> String {
    format!("processors.filter={{include: [{{port: {ports:?}}}]}}")
}

fn launch(folder: &Path, ports: &[u16], idle: &str, connections: &str) -> Daemon {
    Daemon::launch(Launch {
        exporters: &format!("  file: {{path: \"{}\"}}\n", folder.display()),
        set: &[
            HOOKS,
            PIPELINE,
            &format!("receivers.ebpf.udp.idle={idle}"),
            &of_ports(ports),
            &format!("processors.connections={{interval: 200ms, {connections}}}"),
        ],
        ..Launch::default()
    })
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// Bytes and datagrams of an application, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    requests: i64,
    answers: i64,
    datagrams: i64,
    answered: i64,
}

impl Counted {
    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            answers: self.answers + other.answers,
            datagrams: self.datagrams + other.datagrams,
            answered: self.answered + other.answered,
        }
    }
}

fn socket(local: impl Into<IpAddr>) -> UdpSocket {
    let socket = UdpSocket::bind((local.into(), 0)).unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    socket
}

/// A request of `bytes` and an answer of half of them, as often as `rounds`.
fn exchange(client: &UdpSocket, server: &UdpSocket, bytes: usize, rounds: i64) -> Counted {
    let at = server.local_addr().unwrap();
    let mut counted = Counted::default();
    let mut buffer = [0; 2048];
    let count = |bytes: usize| i64::try_from(bytes).unwrap();
    for _ in 0..rounds {
        counted.requests += count(client.send_to(&vec![1; bytes], at).unwrap());
        let (received, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(received, bytes);
        counted.answers += count(server.send_to(&buffer[..received / 2], from).unwrap());
        client.recv(&mut buffer).unwrap();
        counted.datagrams += 1;
        counted.answered += 1;
    }
    counted
}

/// The records of flows to a server's port.
fn of_port(folder: &Path, port: u16) -> Vec<Value> {
    let mut records = all(folder);
    records.retain(|record| record["destination_port"] == port);
    records
}

/// All records, in the order of the files' lines. A line that is being written is none.
fn all(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut records = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        records.extend(
            whole
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()),
        );
    }
    records
}

/// Bytes and datagrams by the differences in the records of one end.
fn counted(records: &[Value], role: &str) -> Counted {
    let sum = |column: &str| {
        let of_role = records.iter().filter(|record| record["role"] == role);
        of_role
            .map(|record| record[column].as_i64().unwrap())
            .sum::<i64>()
    };
    Counted {
        requests: sum("source_bytes"),
        answers: sum("destination_bytes"),
        datagrams: sum("source_packets"),
        answered: sum("destination_packets"),
    }
}

/// The records of each end of each flow, by the client's port.
fn flows(records: &[Value]) -> BTreeMap<(String, u64), Vec<&Value>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records {
        let role = record["role"].as_str().unwrap().to_owned();
        let port = record["source_port"].as_u64().unwrap();
        flows.entry((role, port)).or_default().push(record);
    }
    flows
}

/// Number of ends that have a last record, by role and outcome.
fn ends(records: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut ends = BTreeMap::new();
    for record in records.iter().filter(|record| record["outcome"] != "active") {
        let text = |column: &str| record[column].as_str().unwrap().to_owned();
        *ends.entry((text("role"), text("outcome"))).or_default() += 1;
    }
    ends
}

#[test]
fn the_records_of_closed_and_idle_flows_are_what_the_application_counted() {
    const CLIENTS: usize = 60;
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let servers = addresses.map(socket);
    let ports = servers.each_ref().map(port);
    let daemon = launch(dir.path(), &ports, "2s", "udp: true");
    let mut expected = Vec::new();
    for (address, server) in addresses.into_iter().zip(&servers) {
        let mut sum = Counted::default();
        let mut used = BTreeSet::new();
        for index in 0..CLIENTS {
            // To the server a port that the kernel chooses a second time is the same flow.
            let client = loop {
                let client = socket(address);
                if used.insert(port(&client)) {
                    break client;
                }
            };
            sum = sum.plus(exchange(&client, server, 100 + index, 3));
        }
        expected.push((port(server), sum));
    }
    for (port, sum) in expected {
        ask_until("a record at the end of each", || {
            let records = of_port(dir.path(), port);
            let flows = flows(&records);
            let has_ended = |records: &Vec<&Value>| records.last().unwrap()["outcome"] != "active";
            let is_whole = counted(&records, "client") == sum && counted(&records, "server") == sum;
            (is_whole && flows.len() == 2 * CLIENTS && flows.values().all(has_ended)).then_some(())
        });
        let records = of_port(dir.path(), port);
        // Clients have closed, unless they were idle first. The server's socket is open, so its flows end by being idle.
        let ends = ends(&records);
        assert!(
            ends.keys()
                .all(|(role, outcome)| role == "client" || outcome == "idle"),
            "{ends:?}"
        );
        assert!(
            ends.contains_key(&("client".to_owned(), "closed".to_owned())),
            "{ends:?}"
        );
        for role in ["client", "server"] {
            assert_eq!(counted(&records, role), sum, "{role}");
        }
        let record = &records[0];
        assert_eq!(
            (
                &record["event"],
                &record["network_transport"],
                &record["severity"]
            ),
            (&"flowtap.udp.flow".into(), &"udp".into(), &"INFO".into()),
            "{record}"
        );
        assert_eq!(record["pid"], std::process::id(), "{record}");
        assert_eq!(record["retransmits"], Value::Null, "{record}");

        let output = flowtap()
            .args(["history", "--json", "--limit", "100000", "--by", "port", "--path"])
            .arg(dir.path())
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let group = format!("{port}/udp");
        let lines = answer["lines"].as_array().unwrap();
        let line = lines.iter().find(|line| line["group"] == group).unwrap();
        // Both ends are of this node.
        assert_eq!(line["sent"], sum.requests + sum.answers, "{line}");
        assert_eq!(line["received"], sum.requests + sum.answers, "{line}");
        assert_eq!(line["ended"], ends.values().sum::<usize>(), "{line}");
    }
    let telemetry = daemon.telemetry();
    let lost = |reason: &str| {
        telemetry.sum(
            "flowtap_processor_dropped_records_total",
            &[("processor", "connections"), ("reason", reason)],
        )
    };
    assert_eq!((lost("max_udp_flows"), lost("max_records")), (0, 0));
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn a_flow_that_goes_on_has_a_record_per_active_timeout_which_a_reload_continues() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = (socket(Ipv4Addr::LOCALHOST), socket(Ipv4Addr::LOCALHOST));
    let port = port(&server);
    let daemon = launch(
        dir.path(),
        &[port],
        "60s",
        "active_timeout: 1s, idle_timeout: 2m, udp: true",
    );
    let mut sum = Counted::default();
    let mut exchange_until = |what: &str, least: usize| {
        ask_until(what, || {
            sum = sum.plus(exchange(&client, &server, 300, 2));
            let records = of_port(dir.path(), port);
            let flows = flows(&records);
            (flows.len() == 2 && flows.values().all(|records| records.len() >= least)).then_some(())
        });
    };
    exchange_until("two records of each end", 2);
    let config = read(&daemon.config());
    let text = config.replace(
        "processors:\n",
        "processors:\n  connections: {max_records: 50000}\n",
    );
    assert!(daemon.reload(&text), "{}", daemon.status());
    exchange_until("further records", 5);
    drop(client);
    ask_until("the record of the close", || {
        let records = of_port(dir.path(), port);
        ends(&records)
            .contains_key(&("client".to_owned(), "closed".to_owned()))
            .then_some(())
    });
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    let records = of_port(dir.path(), port);
    for role in ["client", "server"] {
        assert_eq!(counted(&records, role), sum, "{role}");
    }
    for records in flows(&records).values() {
        let (last, before) = records.split_last().unwrap();
        assert!(
            before.iter().all(|record| record["outcome"] == "active"),
            "{records:#?}"
        );
        assert_ne!(last["outcome"], "active", "{records:#?}");
        let sequences: Vec<_> = records.iter().map(|record| record["sequence"].as_u64()).collect();
        let expected: Vec<_> = (0..records.len() as u64).map(Some).collect();
        assert_eq!(sequences, expected, "{records:#?}");
        // Each covers the time since the one before.
        for pair in records.windows(2) {
            assert_eq!(pair[1]["interval_start"], pair[0]["timestamp"], "{pair:#?}");
        }
        assert_eq!(last["source_bytes_total"], sum.requests, "{last}");
    }
}

#[test]
fn sampling_keeps_flows_with_errors_and_drops_and_counts_the_others() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (server, full) = (socket(Ipv4Addr::LOCALHOST), socket(Ipv4Addr::LOCALHOST));
    let closed = crate::daemon::free_address();
    let ports = [port(&server), port(&full), closed.port()];
    let daemon = launch(dir.path(), &ports, "15s", "udp: true, sample: {ratio: 0}");
    if daemon
        .said()
        .contains("drops or errors of UDP are not counted here")
    {
        require::skip("this test needs the tracepoints of drops and errors (Linux 5.14)");
        return;
    }
    let port = port(&server);
    exchange(&socket(Ipv4Addr::LOCALHOST), &server, 200, 5);

    let refused = socket(Ipv4Addr::LOCALHOST);
    refused.connect(closed).unwrap();
    refused.send(&[1; 50]).unwrap();
    let error = refused.recv(&mut [0; 50]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    drop(refused);

    nix::sys::socket::setsockopt(&full, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
    let SocketAddr::V4(at) = full.local_addr().unwrap() else {
        unreachable!("of IPv4");
    };
    let client = socket(Ipv4Addr::LOCALHOST);
    client.connect(at).unwrap();
    for _ in 0..100 {
        client.send(&[1; 500]).unwrap();
    }
    full.set_nonblocking(true).unwrap();
    let mut received = 0;
    while full.recv(&mut [0; 500]).is_ok() {
        received += 1;
    }
    drop((full, server));

    let failed = ask_until("the record of the refused flow", || {
        of_port(dir.path(), closed.port()).first().cloned()
    });
    assert_eq!(
        (&failed["error"], &failed["udp_errors"], &failed["severity"]),
        (&"refused".into(), &1.into(), &"WARN".into()),
        "{failed}"
    );
    assert_eq!(failed["source_bytes"], 50, "{failed}");
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(of_port(dir.path(), port), [] as [Value; 0], "they had no error");
    // Drops are of the receiving socket, whose flow may be one without a peer.
    let records = drops_at(dir.path(), at.port());
    let dropped: i64 = records
        .iter()
        .filter_map(|record| record["udp_drops"].as_i64())
        .sum();
    assert_eq!(dropped, 100 - received, "{records:#?}");
    assert!(!window.log.contains("panicked"), "{}", window.log);
}

#[test]
fn a_client_whose_first_event_is_an_error_has_its_role_and_the_port_of_its_peer() {
    /// Not one that the kernel chooses, so that nothing but the first datagram makes this end the client.
    const CHOSEN: u16 = 28_200;
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let namespace = netns::Namespace::new();
    let daemon = Daemon::launch(Launch {
        exporters: &format!("  file: {{path: \"{}\"}}\n", dir.path().display()),
        set: &[
            "receivers.ebpf.udp.hooks=tracepoints",
            PIPELINE,
            &format!(
                "processors.filter={{include: [{{netns: [{}]}}]}}",
                namespace.label()
            ),
            "processors.connections={interval: 200ms, udp: true}",
        ],
        ..Launch::default()
    });
    let (closed, chosen) = namespace.run(|| {
        // A port that the kernel chooses, and that nobody has any longer.
        let closed = port(&socket(Ipv4Addr::LOCALHOST));
        let ports = [0, CHOSEN].map(|local| {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, local)).unwrap();
            client.connect((Ipv4Addr::LOCALHOST, closed)).unwrap();
            // On loopback the error is there before the call returns.
            client.send(&[1; 50]).unwrap();
            assert_eq!(
                client.take_error().unwrap().unwrap().kind(),
                ErrorKind::ConnectionRefused
            );
            port(&client)
        });
        (closed, ports)
    });
    for local in chosen {
        let record = ask_until("the record of the client", || {
            let mut records = all(dir.path()).into_iter();
            records.find(|record| record["source_port"] == local)
        });
        assert_eq!(
            (&record["role"], &record["destination_port"]),
            (&"client".into(), &closed.into()),
            "{record}"
        );
        assert_ne!(record["role_source"], "assumed", "{record}");
        let counts = ["source_bytes", "source_packets", "udp_errors"].map(|column| record[column].as_u64());
        assert_eq!(counts, [Some(50), Some(1), Some(1)], "{record}");
    }
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn a_collector_of_opentelemetry_has_the_bytes_and_datagrams_of_udp_flows() {
    const CLIENTS: usize = 30;
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(collector) = Otelcol::started() else {
        return;
    };
    let server = socket(Ipv4Addr::LOCALHOST);
    let port = port(&server);
    let daemon = Daemon::launch(Launch {
        exporters: &format!(
            "  otlp: {{endpoint: \"http://{}\", protocol: grpc}}\n",
            collector.address("grpc")
        ),
        set: &[
            HOOKS,
            &of_ports(&[port]),
            &PIPELINE.replace("[file]", "[otlp]"),
            "processors.connections={interval: 200ms, udp: true}",
        ],
        ..Launch::default()
    });
    let port = port.to_string();
    let mut sum = Counted::default();
    for index in 0..CLIENTS {
        sum = sum.plus(exchange(&socket(Ipv4Addr::LOCALHOST), &server, 100 + index, 2));
    }
    // The flows of the server's socket end with it, or with the daemon.
    drop(server);
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    let records = ask_until("a record of each end", || {
        let requests = collector.requests();
        let records = requests.iter().flat_map(log_records);
        let of_port: Vec<_> = records
            .filter(|(_, attributes)| attributes.get("destination.port") == Some(&port))
            .collect();
        (of_port.len() >= 2 * CLIENTS).then_some(of_port)
    });
    for role in ["client", "server"] {
        let of_role: Vec<_> = records
            .iter()
            .filter(|(_, attributes)| attributes["flowtap.role"] == role)
            .collect();
        let total = |name: &str| -> i64 {
            let values = of_role.iter().map(|(_, attributes)| &attributes[name]);
            values.map(|value| value.parse::<i64>().unwrap()).sum()
        };
        let counted = Counted {
            requests: total("flowtap.source.bytes"),
            answers: total("flowtap.destination.bytes"),
            datagrams: total("flowtap.source.packets"),
            answered: total("flowtap.destination.packets"),
        };
        assert_eq!((counted, of_role.len()), (sum, CLIENTS), "{role}");
    }
    let (record, attributes) = &records[0];
    assert_eq!(record["eventName"], "flowtap.udp.flow", "{record}");
    assert_eq!(attributes["network.transport"], "udp", "{record}");
}

/// The records of flows of the socket on this port with a dropped datagram.
fn drops_at(folder: &Path, port: u16) -> Vec<Value> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let text = read(&entry.unwrap().path());
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_of = |record: &Value| {
            let ports = [&record["source_port"], &record["destination_port"]];
            ports.iter().any(|of| **of == port) && record["udp_drops"].as_i64() > Some(0)
        };
        records.extend(lines.filter(is_of));
    }
    records
}
