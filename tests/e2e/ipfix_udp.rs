//! UDP flows and dropped packets over IPFIX: in nfdump's `nfcapd`, whose sums are the application's bytes and datagrams, and in libfixbuf.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, free_address};
use crate::ipfix::{Collector, Nfcapd, records};
use crate::require;

/// Bytes and datagrams of clients, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    requests: u64,
    answers: u64,
    request_datagrams: u64,
    answer_datagrams: u64,
}

/// Clients that each send three requests; every second one is answered.
fn exchange(server: &UdpSocket, clients: usize) -> Counted {
    let at = server.local_addr().unwrap();
    let mut counted = Counted::default();
    // Open to the end: to the server a port that the kernel chooses a second time is the same flow.
    let mut open = Vec::new();
    for number in 0..clients {
        let client = UdpSocket::bind((at.ip(), 0)).unwrap();
        client.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        for round in 0..3 {
            let request = vec![1; 100 + number + round];
            counted.requests += client.send_to(&request, at).unwrap() as u64;
            counted.request_datagrams += 1;
            let mut buffer = [0; 2048];
            let (bytes, from) = server.recv_from(&mut buffer).unwrap();
            if round % 2 == 0 {
                counted.answers += server.send_to(&buffer[..bytes / 2], from).unwrap() as u64;
                counted.answer_datagrams += 1;
                client.recv(&mut buffer).unwrap();
            }
        }
        open.push(client);
    }
    counted
}

fn server(address: IpAddr) -> (UdpSocket, u16) {
    let server = UdpSocket::bind((address, 0)).unwrap();
    server.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

#[test]
fn nfcapd_has_the_bytes_and_datagrams_of_udp_flows_over_ipv4_and_ipv6() {
    const CLIENTS: usize = 80;
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(nfcapd) = Nfcapd::start(free_address()) else {
        return;
    };
    let servers = [
        server(Ipv4Addr::LOCALHOST.into()),
        server(Ipv6Addr::LOCALHOST.into()),
    ];
    let ports = [servers[0].1, servers[1].1];
    let daemon = Daemon::launch(Launch {
        exporters: &format!("  ipfix: {{endpoint: \"{}\"}}\n", nfcapd.address),
        set: &[
            "receivers.ebpf.udp.hooks=cgroup",
            "processors.connections={interval: 200ms, udp: true}",
            &format!("processors.filter={{include: [{{port: {ports:?}}}]}}"),
            "service.pipelines.logs={receivers: [ebpf], processors: [direction, filter, connections], exporters: [ipfix]}",
        ],
        ..Launch::default()
    });
    let sent = servers.each_ref().map(|(server, _)| exchange(server, CLIENTS));
    // The flows of the servers' sockets end with the daemon.
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    let rows = nfcapd.rows(true, "%pr|%dp|%dir|%ibyt|%obyt|%ipkt|%opkt");
    for (port, sent) in ports.into_iter().zip(sent) {
        for direction in ["E", "I"] {
            let of_end = rows
                .iter()
                .filter(|row| row.len() == 7 && row[1] == port.to_string() && row[2] == direction);
            let of_end: Vec<_> = of_end.collect();
            assert_eq!(of_end.len(), CLIENTS, "{direction}: {rows:?}");
            let sum = |column: usize| of_end.iter().map(|row| row[column].parse::<u64>().unwrap()).sum();
            let counted = Counted {
                requests: sum(3),
                answers: sum(4),
                request_datagrams: sum(5),
                answer_datagrams: sum(6),
            };
            assert_eq!(counted, sent, "{direction} of port {port}");
            assert!(of_end.iter().all(|row| row[0] == "17"), "{of_end:?}");
        }
    }
}

/// Five reasons in turn: ten packets of 1,500 bytes in each of five intervals, a record each.
const GENERATED: &str = "receivers.generator={interval: 100ms, flows: 10, max_intervals: 5, dropped_packets_per_interval: 10, \
                         dns_queries_per_interval: 4, dns_names: 2}";
const PACKETS: u64 = 50;

fn generated(collector: SocketAddr, more: &str) -> u64 {
    let daemon = Daemon::launch(Launch {
        exporters: &format!("  ipfix: {{endpoint: \"{collector}\"{more}}}\n"),
        set: &[
            GENERATED,
            "service.pipelines.metrics.receivers=[generator]",
            "service.pipelines.logs={receivers: [generator], processors: [direction, connections], exporters: [ipfix]}",
            "processors.connections={interval: 200ms, dns: true, drops: true}",
        ],
        ..Launch::default()
    });
    daemon.wait_for("all intervals are generated");
    let name = "flowtap_exporter_dropped_log_records_total";
    let seen = daemon.telemetry_until("DNS transactions that are left out", |seen| {
        seen.sum(name, &[("exporter", "ipfix")]) >= 20
    });
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    seen.sum(name, &[("exporter", "ipfix"), ("reason", "unsupported")])
}

#[test]
fn dropped_packets_are_flows_with_their_counts_and_status_and_dns_is_counted_as_left_out() {
    if !require::program("ipfixDump") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let collector = Collector::start(listener, folder.path().join("messages"));
    assert_eq!(generated(address, ", protocol: tcp"), 20);
    let mut by_status: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut flows = 0;
    for record in records(&collector.stop()) {
        let Some(packets) = record.get("droppedPacketDeltaCount") else {
            flows += usize::from(record.contains_key("octetDeltaCount"));
            continue;
        };
        assert!(!record.contains_key("octetDeltaCount"), "{record:?}");
        assert_eq!(record["protocolIdentifier"], "6", "{record:?}");
        let sums = by_status.entry(record["forwardingStatus"].clone()).or_default();
        sums.0 += packets.parse::<u64>().unwrap();
        sums.1 += record["droppedOctetDeltaCount"].parse::<u64>().unwrap();
    }
    // A netfilter rule, a checksum of IP, and three reasons without a number.
    let expected = [("128", 3), ("130", 1), ("134", 1)].map(|(status, reasons)| {
        let packets = reasons * PACKETS / 5;
        (status.to_owned(), (packets, packets * 1500))
    });
    assert_eq!(by_status, BTreeMap::from(expected));
    assert!(flows > 0, "flows are exported beside them");
}

#[test]
fn nfcapd_takes_dropped_packets_without_counting_them_as_traffic() {
    let Some(nfcapd) = Nfcapd::start(free_address()) else {
        return;
    };
    let address = nfcapd.address;
    generated(address, "");
    let rows = nfcapd.rows(true, "%ibyt|%ipkt|%obyt");
    let is_empty = |row: &&Vec<String>| row.len() == 3 && row.iter().all(|count| count == "0");
    assert_eq!(rows.iter().filter(is_empty).count() as u64, PACKETS, "{rows:?}");
}
