//! Flows over IPFIX, in collectors and decoders that nobody here wrote: nfdump's `nfcapd`, pmacct's `nfacctd`, and libfixbuf's
//! `ipfixDump` for what arrives over connections. Their sums are what the applications counted, also after templates were lost, before
//! the collector listens, and over its restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};

use flowtap_exporters::ipfix;
use flowtap_pipeline::log::{ConnectionLog, Counts, Datagrams, DropLog, Outcome, UdpLog};
use flowtap_pipeline::{
    DropReason, Endpoint, Flow, FlowKind, LogBatch, LogBody, LogRecord, RoleSource, Timestamp, Transport,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config as Cases, TestRunner};

use crate::daemon::{Daemon, Launch, free_address, read};
use crate::peers::{Peer, ask_until, listens};
use crate::require;
use crate::traffic::{Counted, churn, exchange};

/// A pipeline of flow logs beside that of metrics, with a record at the end of each connection.
const PROCESSORS: &str = "processors.connections={interval: 200ms}";
const PIPELINE: &str = "service.pipelines.logs={receivers: [ebpf], processors: [direction, filter, connections], \
                        exporters: [ipfix]}";

/// A listener on any port of `host`, and the port.
fn listen(host: impl Into<IpAddr>) -> (TcpListener, u16) {
    let listener = TcpListener::bind((host.into(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Listeners for IPv4 and IPv6, on different ports, which flows are distinguished by: one may be free on both.
fn listen_on_both() -> [(TcpListener, u16); 2] {
    let v4 = listen(Ipv4Addr::LOCALHOST);
    loop {
        let v6 = listen(Ipv6Addr::LOCALHOST);
        if v6.1 != v4.1 {
            return [v4, v6];
        }
    }
}

/// A daemon that sends the connections of `ports` to `endpoint`, and none of the others that this machine has meanwhile.
fn launch(endpoint: SocketAddr, ports: &[u16], more: &str) -> Daemon {
    let filter = format!("processors.filter={{include: [{{port: {ports:?}}}]}}");
    let retry = "retry: {initial_interval: 100ms, max_interval: 100ms}";
    let exporters = format!("  ipfix: {{endpoint: \"{endpoint}\", {retry}, {more}}}\n");
    Daemon::launch(Launch {
        exporters: &exporters,
        set: &[PROCESSORS, &filter, PIPELINE],
        ..Launch::default()
    })
}

/// A flow, as a collector has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    source_port: u16,
    destination_port: u16,
    octets: u64,
    reverse_octets: u64,
    egress: bool,
}

/// Bytes of the flows to `port`, as the applications at both ends count them: of each connection there is one from this machine
/// and one to it. Without biflows the flows back are separate flows.
pub(crate) fn counted(flows: &[Seen], port: u16) -> Counted {
    let mut counted = Counted::default();
    for flow in flows {
        let Seen {
            octets,
            reverse_octets,
            ..
        } = *flow;
        match (flow.destination_port == port, flow.egress) {
            (true, true) => {
                counted.client_sent += octets;
                counted.client_received += reverse_octets;
            }
            (true, false) => {
                counted.server_received += octets;
                counted.server_sent += reverse_octets;
            }
            (false, true) if flow.source_port == port => counted.server_sent += octets,
            (false, false) if flow.source_port == port => counted.client_received += octets,
            (false, _) => {}
        }
    }
    counted
}

/// Flows to `port`.
pub(crate) fn number(flows: &[Seen], port: u16) -> usize {
    flows.iter().filter(|flow| flow.destination_port == port).count()
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn end(child: &mut Child, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal);
    let _ = child.wait();
}

/// The receive queue of the UDP socket on `port`, in bytes, and the datagrams that it has dropped; `None` if there is none.
pub(crate) fn udp_queue(port: u16) -> Option<(u64, u64)> {
    let table = read(Path::new("/proc/net/udp"));
    let line = table.lines().find(|line| {
        let local = line.split_whitespace().nth(1).unwrap_or_default();
        local.ends_with(&format!(":{port:04X}"))
    })?;
    let columns: Vec<_> = line.split_whitespace().collect();
    let queue = columns[4].split_once(':').unwrap().1;
    Some((
        u64::from_str_radix(queue, 16).unwrap(),
        columns.last().unwrap().parse().unwrap(),
    ))
}

/// nfdump's collector.
pub(crate) struct Nfcapd {
    child: Child,
    folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
}

impl Nfcapd {
    pub(crate) fn start(address: SocketAddr) -> Option<Self> {
        if !require::program("nfcapd") || !require::program("nfdump") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let flows = folder.path().join("flows");
        fs::create_dir(&flows).unwrap();
        let mut command = Command::new("nfcapd");
        command
            .args(["-b", "127.0.0.1", "-p", &address.port().to_string(), "-w"])
            .arg(&flows);
        let child = spawn(&mut command, &folder.path().join("log"));
        ask_until("nfcapd listens", || udp_queue(address.port()));
        Some(Self {
            child,
            folder,
            address,
        })
    }

    /// Stops it when it has read what was sent, and returns its flows. `whole`: it has had every record from its first message on.
    fn stop(self, whole: bool) -> Vec<Seen> {
        let flows = self.rows(whole, "%sp|%dp|%ibyt|%obyt|%dir").into_iter();
        let flows = flows.filter_map(|fields| {
            let [source, destination, octets, reverse, direction] = &fields[..] else {
                return None;
            };
            Some(Seen {
                source_port: source.parse().ok()?,
                destination_port: destination.parse().ok()?,
                octets: octets.parse().ok()?,
                reverse_octets: reverse.parse().ok()?,
                egress: direction == "E",
            })
        });
        flows.collect()
    }

    /// The same with the fields of nfdump's `format`, which separates them by `|`.
    pub(crate) fn rows(mut self, whole: bool, format: &str) -> Vec<Vec<String>> {
        let (_, dropped) = ask_until("nfcapd has read every datagram", || {
            udp_queue(self.address.port()).filter(|(queue, _)| *queue == 0)
        });
        assert_eq!(dropped, 0, "datagrams that nfcapd was too slow for");
        end(&mut self.child, Signal::SIGTERM);
        let log = read(&self.folder.path().join("log"));
        assert!(
            !whole || log.contains("Sequence Errors: 0, Bad Packets: 0"),
            "{log}"
        );
        let output = Command::new("nfdump")
            .arg("-R")
            .arg(self.folder.path().join("flows"))
            .args(["-q", "-N", "-o", &format!("fmt:{format}")])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let fields = |line: &str| line.split('|').map(|field| field.trim().to_owned()).collect();
        text.lines().map(fields).collect()
    }
}

#[test]
fn nfcapd_has_the_flows_and_bytes_of_the_applications_over_ipv4_and_ipv6() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(nfcapd) = Nfcapd::start(free_address()) else {
        return;
    };
    let [v4, v6] = listen_on_both();
    let daemon = launch(nfcapd.address, &[v4.1, v6.1], "");
    let expected = [
        (v4.1, exchange(&v4.0, 150, 1).unwrap()),
        (v6.1, exchange(&v6.0, 150, 2).unwrap()),
    ];
    let telemetry = daemon.telemetry();
    let failed = [
        "flowtap_exporter_send_failed_log_records_total",
        "flowtap_exporter_dropped_log_records_total",
    ];
    for name in failed {
        assert_eq!(telemetry.sum(name, &[("exporter", "ipfix")]), 0, "{name}");
    }
    assert!(daemon.stop().0.success());
    let flows = nfcapd.stop(true);
    for (port, sent) in expected {
        assert_eq!((counted(&flows, port), number(&flows, port)), (sent, 300));
    }
}

/// pmacct's collector, which writes flows to a file.
struct Nfacctd {
    child: Peer,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Nfacctd {
    fn start(address: SocketAddr) -> Option<Self> {
        if !require::program("nfacctd") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "nfacctd_ip: 127.0.0.1\nnfacctd_port: {}\nnfacctd_time_new: true\nplugins: print[a]\n\
             aggregate[a]: src_host, dst_host, src_port, dst_port, proto, timestamp_start, timestamp_end, flows\n\
             print_output[a]: csv\nprint_output_file[a]: {}\nprint_output_file_append[a]: true\nprint_refresh_time[a]: 1\n",
            address.port(),
            folder.path().join("flows.csv").display()
        );
        fs::write(folder.path().join("nfacctd.conf"), text).unwrap();
        let mut command = Command::new("nfacctd");
        command.arg("-f").arg(folder.path().join("nfacctd.conf"));
        let child = Peer(spawn(&mut command, &folder.path().join("log")));
        ask_until("nfacctd listens", || udp_queue(address.port()));
        Some(Self {
            child,
            folder,
            address,
        })
    }

    fn end(&mut self) {
        // It goes on after SIGTERM.
        end(&mut self.child.0, Signal::SIGINT);
    }

    /// Flows to `port` and from it, as their number and bytes. Equal ones are one line with their number.
    fn flows(&self, port: u16) -> [(u64, u64); 2] {
        let text = fs::read_to_string(self.folder.path().join("flows.csv")).unwrap_or_default();
        let mut columns: Vec<&str> = Vec::new();
        let mut sums = [(0, 0); 2];
        for line in text.lines() {
            let fields: Vec<_> = line.split(',').collect();
            if fields[0] == "SRC_IP" {
                columns = fields;
                continue;
            }
            let field = |name: &str| -> Option<u64> {
                let index = columns.iter().position(|column| *column == name)?;
                fields.get(index)?.parse().ok()
            };
            // A line that is being written lacks some.
            let (Some(number), Some(bytes)) = (field("FLOWS"), field("BYTES")) else {
                continue;
            };
            for (end, sum) in ["DST_PORT", "SRC_PORT"].into_iter().zip(&mut sums) {
                if field(end) == Some(port.into()) {
                    sum.0 += number;
                    sum.1 += bytes;
                }
            }
        }
        sums
    }
}

/// Of `connections`, as nfacctd has them without biflows: a flow and the one back, of either end. They have no direction by
/// themselves, so the sums of both ends are one.
fn without_biflows(connections: u64, sent: Counted) -> [(u64, u64); 2] {
    [
        (2 * connections, sent.client_sent + sent.server_received),
        (2 * connections, sent.client_received + sent.server_sent),
    ]
}

#[test]
fn nfacctd_has_the_flows_and_bytes_of_the_applications_without_biflows_over_ipv4_and_ipv6() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(mut nfacctd) = Nfacctd::start(free_address()) else {
        return;
    };
    let [v4, v6] = listen_on_both();
    let daemon = launch(nfacctd.address, &[v4.1, v6.1], "biflow: false");
    let expected = [
        (v4.1, without_biflows(150, exchange(&v4.0, 150, 3).unwrap())),
        (v6.1, without_biflows(150, exchange(&v6.0, 150, 12).unwrap())),
    ];
    ask_until("nfacctd has written the flows", || {
        expected
            .iter()
            .all(|(port, flows)| nfacctd.flows(*port) == *flows)
            .then_some(())
    });
    assert!(daemon.stop().0.success());
    nfacctd.end();
    for (port, flows) in expected {
        assert_eq!(nfacctd.flows(port), flows, "nothing more arrived");
    }
}

/// Records that the exporter has sent, and datagrams that were refused.
fn sent_and_refused(daemon: &Daemon) -> (u64, u64) {
    let telemetry = daemon.telemetry();
    let sum = |name| telemetry.sum(name, &[("exporter", "ipfix")]);
    assert_eq!(sum("flowtap_exporter_send_failed_log_records_total"), 0);
    (
        sum("flowtap_exporter_sent_log_records_total"),
        sum("flowtap_exporter_refused_datagrams_total"),
    )
}

/// Records in a datagram of 1232 bytes, at most: flows of one direction over IPv4, or of both directions.
const RECORDS: u64 = 16;

#[test]
fn what_a_restart_of_nfcapd_loses_is_in_refused_datagrams() {
    let Some(_machine) = require::root() else {
        return;
    };
    let address = free_address();
    let Some(first) = Nfcapd::start(address) else {
        return;
    };
    let (listener, port) = listen(Ipv4Addr::LOCALHOST);
    let daemon = launch(address, &[port], "");
    exchange(&listener, 60, 13).unwrap();
    ask_until("the first flows are sent", || {
        (sent_and_refused(&daemon).0 == 120).then_some(())
    });
    let before = first.stop(true);
    assert_eq!(number(&before, port), 120);
    exchange(&listener, 60, 14).unwrap();
    daemon.wait_for("delivery failed and is retried");
    let second = Nfcapd::start(address).unwrap();
    daemon.wait_for("delivering again");
    exchange(&listener, 60, 15).unwrap();
    ask_until("every flow is sent", || {
        (sent_and_refused(&daemon).0 == 360).then_some(())
    });
    let (sent, refused) = sent_and_refused(&daemon);
    assert!(daemon.stop().0.success());
    let after = second.stop(true);
    let lost = sent - number(&before, port) as u64 - number(&after, port) as u64;
    assert!(
        refused > 0 && lost <= refused * RECORDS,
        "{lost} of {sent} lost, {refused} refused"
    );
}

#[test]
fn a_restart_of_nfacctd_between_two_messages_loses_no_flow_and_no_byte() {
    const REFRESH: Duration = Duration::from_millis(300);
    let Some(_machine) = require::root() else {
        return;
    };
    let address = free_address();
    let Some(mut first) = Nfacctd::start(address) else {
        return;
    };
    let [before, after] = listen_on_both();
    let options = "biflow: false, template_refresh: 300ms";
    let daemon = launch(address, &[before.1, after.1], options);
    let of_before = without_biflows(100, exchange(&before.0, 100, 16).unwrap());
    ask_until("the first nfacctd has written the flows", || {
        (first.flows(before.1) == of_before).then_some(())
    });
    let mut second = daemon.while_paused(|| {
        first.end();
        let second = Nfacctd::start(address).unwrap();
        // The new one decodes nothing before templates, which go before the next message once they are due.
        thread::sleep(REFRESH);
        second
    });
    let of_after = without_biflows(100, exchange(&after.0, 100, 17).unwrap());
    ask_until("the second nfacctd has written the flows", || {
        (second.flows(after.1) == of_after).then_some(())
    });
    assert_eq!(sent_and_refused(&daemon), (400, 0));
    assert!(daemon.stop().0.success());
    second.end();
    // Nothing came twice or late.
    let nothing = [(0, 0); 2];
    assert_eq!(
        (first.flows(before.1), first.flows(after.1)),
        (of_before, nothing)
    );
    assert_eq!(
        (second.flows(before.1), second.flows(after.1)),
        (nothing, of_after)
    );
}

#[test]
fn what_a_restart_of_nfacctd_loses_is_in_refused_datagrams_and_the_rest_has_its_bytes() {
    const BYTES: usize = 1_000;
    const CONNECTIONS: usize = 60;
    let Some(_machine) = require::root() else {
        return;
    };
    let address = free_address();
    let Some(mut first) = Nfacctd::start(address) else {
        return;
    };
    let [before, during, after] = [(); 3].map(|()| listen(Ipv4Addr::LOCALHOST));
    let daemon = launch(address, &[before.1, during.1, after.1], "biflow: false");
    let of_before = without_biflows(60, exchange(&before.0, 60, 18).unwrap());
    ask_until("the first nfacctd has written the flows", || {
        (first.flows(before.1) == of_before).then_some(())
    });
    first.end();
    churn(&during.0, CONNECTIONS, BYTES).unwrap();
    daemon.wait_for("delivery failed and is retried");
    let mut second = Nfacctd::start(address).unwrap();
    daemon.wait_for("delivering again");
    let of_after = without_biflows(60, exchange(&after.0, 60, 19).unwrap());
    ask_until(
        "every flow is sent, and nfacctd has written those of after",
        || {
            let are_sent = sent_and_refused(&daemon).0 == 360;
            (are_sent && second.flows(after.1) == of_after).then_some(())
        },
    );
    let (_, refused) = sent_and_refused(&daemon);
    assert!(daemon.stop().0.success());
    second.end();
    assert_eq!(
        (first.flows(before.1), second.flows(before.1)),
        (of_before, [(0, 0); 2])
    );
    assert_eq!(second.flows(after.1), of_after, "nothing more arrived");
    // Every connection has the same bytes: a flow has all of its own, or is one of those that are lost.
    let [to, from] = second.flows(during.1);
    let bytes = BYTES as u64;
    assert_eq!((to.1, from.1), (to.0 * bytes, from.0 * 2 * bytes));
    let lost = 4 * CONNECTIONS as u64 - to.0 - from.0;
    assert!(
        refused > 0 && lost <= refused * RECORDS,
        "{lost} flows lost, {refused} datagrams refused"
    );
}

/// Forwards datagrams, apart from those with templates while these are to be lost.
struct Relay {
    address: SocketAddr,
    loses_templates: Arc<AtomicBool>,
    state: Arc<Mutex<Relayed>>,
}

/// Messages of a relay.
#[derive(Debug, Default)]
struct Relayed {
    /// Messages with templates that it has lost.
    lost: usize,
    /// Messages with templates that it has forwarded.
    forwarded: usize,
    /// Bytes of a flow's record by template, also by those that it has lost.
    lengths: BTreeMap<u16, usize>,
    /// The templates of `lengths` that it has forwarded.
    known: BTreeSet<u16>,
    /// Flows that it has forwarded before their template: no collector can decode them.
    undecodable: u64,
}

impl Relayed {
    /// Whether `message` is to be forwarded.
    fn takes(&mut self, message: &[u8], losing: bool) -> bool {
        // The id of the first set: 2 is that of templates.
        let is_templates = message[16..18] == [0, 2];
        let forward = !(is_templates && losing);
        if is_templates && forward {
            self.forwarded += 1;
        } else if is_templates {
            self.lost += 1;
        }
        let mut sets = &message[16..];
        while sets.len() >= 4 {
            let (id, length) = (pair(sets, 0), usize::from(pair(sets, 2)));
            self.take_set(id, &sets[4..length], forward);
            sets = &sets[length..];
        }
        forward
    }

    fn take_set(&mut self, id: u16, mut set: &[u8], forward: bool) {
        if id == 2 {
            while set.len() >= 4 {
                let (template, fields) = (pair(set, 0), pair(set, 2));
                set = &set[4..];
                let mut bytes = 0;
                for _ in 0..fields {
                    let (element, length) = (pair(set, 0), pair(set, 2));
                    assert_ne!(length, u16::MAX, "a field of variable length");
                    bytes += usize::from(length);
                    // An enterprise's element has its number as well.
                    set = &set[if element & 0x8000 == 0 { 4 } else { 8 }..];
                }
                self.lengths.insert(template, bytes);
                if forward {
                    self.known.insert(template);
                }
            }
        } else if let Some(length) = self.lengths.get(&id)
            && forward
            && !self.known.contains(&id)
        {
            self.undecodable += (set.len() / length) as u64;
        }
    }
}

fn pair(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl Relay {
    fn to(collector: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let (loses_templates, state) = (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Relayed>>::default());
        let (losing, relayed) = (Arc::clone(&loses_templates), Arc::clone(&state));
        // Ends with the process of the tests.
        thread::spawn(move || {
            let out = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut message = vec![0; 65_536];
            loop {
                let length = socket.recv(&mut message).unwrap();
                let message = &message[..length];
                let losing = losing.load(Ordering::SeqCst);
                // Sent before it counts as forwarded.
                let mut relayed = relayed.lock().unwrap();
                if relayed.takes(message, losing) {
                    out.send_to(message, collector).unwrap();
                }
            }
        });
        Self {
            address,
            loses_templates,
            state,
        }
    }

    /// Makes traffic to `missed` while templates are lost, until they arrive; returns its connections.
    fn lose_and_refresh(&self, missed: &TcpListener) -> u64 {
        let mut connections = 20;
        exchange(missed, 20, 4).unwrap();
        ask_until("templates are lost, and flows without them arrive", || {
            let relayed = self.state.lock().unwrap();
            (relayed.lost > 0 && relayed.undecodable > 0).then_some(())
        });
        self.loses_templates.store(false, Ordering::SeqCst);
        ask_until("templates arrive", || {
            // They go before a message that is due.
            exchange(missed, 1, 4).unwrap();
            connections += 1;
            (self.state.lock().unwrap().forwarded > 0).then_some(())
        });
        connections
    }
}

#[test]
fn nfcapd_lacks_exactly_the_flows_that_came_before_the_templates_that_it_has() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(nfcapd) = Nfcapd::start(free_address()) else {
        return;
    };
    let relay = Relay::to(nfcapd.address);
    let ((before, missed), (listener, port)) = (listen(Ipv4Addr::LOCALHOST), listen(Ipv4Addr::LOCALHOST));
    let daemon = launch(relay.address, &[missed, port], "template_refresh: 300ms");
    let connections = relay.lose_and_refresh(&before);
    let sent = exchange(&listener, 100, 5).unwrap();
    assert!(daemon.stop().0.success());
    let flows = nfcapd.stop(false);
    assert_eq!((counted(&flows, port), number(&flows, port)), (sent, 200));
    let undecodable = relay.state.lock().unwrap().undecodable;
    assert_eq!(number(&flows, missed) as u64, 2 * connections - undecodable);
}

#[test]
fn nfacctd_lacks_exactly_the_flows_that_came_before_the_templates_that_it_has() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(mut nfacctd) = Nfacctd::start(free_address()) else {
        return;
    };
    let relay = Relay::to(nfacctd.address);
    let ((before, missed), (listener, port)) = (listen(Ipv4Addr::LOCALHOST), listen(Ipv4Addr::LOCALHOST));
    let options = "template_refresh: 300ms, biflow: false";
    let daemon = launch(relay.address, &[missed, port], options);
    let connections = relay.lose_and_refresh(&before);
    let sent = exchange(&listener, 100, 5).unwrap();
    assert!(daemon.stop().0.success());
    let expected = without_biflows(100, sent);
    ask_until("nfacctd has the flows after the templates", || {
        (nfacctd.flows(port) == expected).then_some(())
    });
    nfacctd.end();
    let undecodable = relay.state.lock().unwrap().undecodable;
    let [to, from] = nfacctd.flows(missed);
    assert_eq!(to.0 + from.0, 4 * connections - undecodable);
}

#[test]
fn flows_wait_until_a_collector_listens_on_the_udp_port() {
    let Some(_machine) = require::root() else {
        return;
    };
    let address = free_address();
    let (listener, port) = listen(Ipv4Addr::LOCALHOST);
    let daemon = launch(address, &[port], "");
    let sent = exchange(&listener, 50, 6).unwrap();
    let line = daemon.wait_for("delivery failed and is retried");
    assert!(line.contains("nothing listens on this UDP port"), "{line}");
    let refused = "flowtap_exporter_refused_datagrams_total";
    assert!(daemon.telemetry().sum(refused, &[("exporter", "ipfix")]) > 0);
    let Some(nfcapd) = Nfcapd::start(address) else {
        return;
    };
    daemon.wait_for("delivering again");
    assert!(daemon.stop().0.success());
    let flows = nfcapd.stop(true);
    assert_eq!((counted(&flows, port), number(&flows, port)), (sent, 100));
}

/// The data records in the messages of `file`, by libfixbuf: elements' names and values.
pub(crate) fn records(file: &Path) -> Vec<BTreeMap<String, String>> {
    let output = Command::new("ipfixDump")
        .arg("-d")
        .arg("-i")
        .arg(file)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let mut records: Vec<BTreeMap<_, _>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("--- ") {
            records.push(BTreeMap::new());
        } else if let Some((name, value)) = line.split_once(" : ") {
            let name = name.rsplit_once(')').map_or(name, |(_, name)| name).trim();
            if let Some(record) = records.last_mut() {
                record.insert(name.to_owned(), value.trim().to_owned());
            }
        }
    }
    records.retain(|record| !record.is_empty());
    records
}

/// The flows in the messages of `file`, by libfixbuf.
pub(crate) fn dumped(file: &Path) -> Vec<Seen> {
    let flows = records(file).into_iter().filter_map(|record| {
        let number = |name: &str| record.get(name)?.parse::<u64>().ok();
        Some(Seen {
            source_port: u16::try_from(number("sourceTransportPort")?).ok()?,
            destination_port: u16::try_from(number("destinationTransportPort")?).ok()?,
            octets: number("octetDeltaCount")?,
            reverse_octets: number("reverseOctetDeltaCount")?,
            egress: number("flowDirection")? == 1,
        })
    });
    flows.collect()
}

/// Accepts one connection, and writes what arrives on it to a file until it is stopped, as a collector does whose process ends.
pub(crate) struct Collector {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<io::Result<()>>,
}

impl Collector {
    pub(crate) fn start(listener: TcpListener, file: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), file.clone());
        let reader = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            drop(listener);
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            let (mut file, mut bytes) = (fs::File::create(path)?, [0; 4096]);
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) => return Ok(()),
                    Ok(length) => file.write_all(&bytes[..length])?,
                    // Nothing waits to be read, so no record is lost with the connection.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if stopped.load(Ordering::SeqCst) {
                            return Ok(());
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        Self { file, stop, reader }
    }

    pub(crate) fn stop(self) -> PathBuf {
        self.stop.store(true, Ordering::SeqCst);
        self.reader.join().unwrap().unwrap();
        self.file
    }
}

#[test]
fn a_collector_that_restarts_has_every_flow_over_tcp() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("ipfixDump") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let first = Collector::start(TcpListener::bind(address).unwrap(), folder.path().join("first"));
    let (traffic, port) = listen(Ipv4Addr::LOCALHOST);
    let daemon = launch(address, &[port], "protocol: tcp");
    let mut sent = exchange(&traffic, 60, 7).unwrap();
    ask_until("the first collector has the flows", || {
        let whole = fs::read(&first.file).is_ok_and(|bytes| is_whole(&bytes));
        (whole && number(&dumped(&first.file), port) == 120).then_some(())
    });
    // Between two batches: what is on its way when a collector ends is lost, as IPFIX has no acknowledgements.
    let mut files = Vec::new();
    daemon.while_paused(|| files.push(first.stop()));
    sent += exchange(&traffic, 60, 8).unwrap();
    daemon.wait_for("delivery failed and is retried");
    let second = Collector::start(TcpListener::bind(address).unwrap(), folder.path().join("second"));
    daemon.wait_for("delivering again");
    sent += exchange(&traffic, 60, 9).unwrap();
    assert!(daemon.stop().0.success());
    files.push(second.stop());
    let flows: Vec<_> = files.iter().flat_map(|file| dumped(file)).collect();
    assert_eq!((counted(&flows, port), number(&flows, port)), (sent, 360));
}

#[test]
fn flows_arrive_over_tls_and_a_certificate_of_another_authority_is_an_error_with_its_reason() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("openssl") || !require::program("ipfixDump") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["server", "other"] {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let base = folder.path().join(name);
        fs::write(base.with_extension("key"), certified.signing_key.serialize_pem()).unwrap();
        fs::write(base.with_extension("crt"), certified.cert.pem()).unwrap();
    }
    let file = |name: &str| folder.path().join(name);
    let address = free_address();
    let mut server = Command::new("openssl");
    server
        .args(["s_server", "-quiet", "-accept", &address.to_string(), "-cert"])
        .arg(file("server.crt"))
        .arg("-key")
        .arg(file("server.key"));
    // It ends with its input.
    let mut server = Peer(
        server
            .stdin(Stdio::piped())
            .stdout(fs::File::create(file("messages")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    ask_until("openssl listens", || listens(address));
    let tls = |ca: &str| format!("protocol: tls, tls: {{ca_file: \"{}\"}}", file(ca).display());
    let (traffic, port) = listen(Ipv4Addr::LOCALHOST);
    let stranger = launch(address, &[port], &tls("other.crt"));
    exchange(&traffic, 1, 10).unwrap();
    let line = stranger.wait_for("delivery failed and is retried");
    assert!(line.contains("certificate"), "{line}");
    stranger.kill();

    let daemon = launch(address, &[port], &tls("server.crt"));
    let sent = exchange(&traffic, 60, 11).unwrap();
    assert!(daemon.stop().0.success());
    ask_until("openssl has written the flows", || {
        let written = fs::read(file("messages")).unwrap();
        let flows = if is_whole(&written) {
            dumped(&file("messages"))
        } else {
            Vec::new()
        };
        (number(&flows, port) == 120 && counted(&flows, port) == sent).then_some(())
    });
    end(&mut server.0, Signal::SIGTERM);
}

/// Whether `bytes` end with a message.
fn is_whole(mut bytes: &[u8]) -> bool {
    while bytes.len() >= 4 {
        let length = u16::from_be_bytes([bytes[2], bytes[3]]).into();
        match bytes.get(length..) {
            Some(rest) if length >= 16 => bytes = rest,
            _ => return false,
        }
    }
    bytes.is_empty()
}

/// A record of a connection, a UDP flow or dropped packets, with any values.
fn any_record() -> impl Strategy<Value = LogRecord> {
    let ends = (
        any::<(u32, u32)>(),
        any::<(u128, u128)>(),
        any::<bool>(),
        any::<(u16, u16)>(),
    );
    let counts = any::<(u32, u32, u32, u32)>();
    let rest = (
        any::<(u64, u32, bool)>(),
        0_u64..4_000_000_000_000,
        0_u64..1_000_000_000,
        0..=6_u8,
        (any::<bool>(), 0..4_u8),
    );
    (ends, counts, rest).prop_map(
        |((v4, v6, is_v6, ports), counts, (ids, at, interval, outcome, (sampled, kind)))| {
            let addresses: (IpAddr, IpAddr) = if is_v6 {
                (Ipv6Addr::from_bits(v6.0).into(), Ipv6Addr::from_bits(v6.1).into())
            } else {
                (Ipv4Addr::from_bits(v4.0).into(), Ipv4Addr::from_bits(v4.1).into())
            };
            let mut flow = Flow::new(
                Endpoint::new(addresses.0, ports.0),
                Endpoint::new(addresses.1, ports.1),
            );
            (flow.cookie, flow.netns) = (ids.0, ids.1);
            flow.kind = Some(if ids.2 {
                FlowKind::Egress
            } else {
                FlowKind::Ingress
            });
            flow.role_source = RoleSource::Handshake;
            let delta = Counts {
                sent_bytes: counts.0.into(),
                received_bytes: counts.1.into(),
                sent_segments: counts.2.into(),
                received_segments: counts.3.into(),
                ..Counts::default()
            };
            let outcomes = [
                Outcome::Active,
                Outcome::Closed,
                Outcome::Reset,
                Outcome::Failed,
                Outcome::Lost,
                Outcome::Detached,
                Outcome::Idle,
            ];
            let interval = Duration::from_millis(interval.min(at));
            let outcome = outcomes[usize::from(outcome)];
            let probability = if sampled { 0.25 } else { 1.0 };
            let body = match kind {
                0 => LogBody::Drop(DropLog {
                    reason: DropReason::new("NETFILTER_DROP"),
                    packets: counts.0.into(),
                    bytes: counts.1.into(),
                }),
                1 => {
                    flow.transport = Transport::Udp;
                    let delta = Datagrams {
                        sent_bytes: delta.sent_bytes,
                        received_bytes: delta.received_bytes,
                        sent_datagrams: delta.sent_segments,
                        received_datagrams: delta.received_segments,
                        ..Datagrams::default()
                    };
                    LogBody::Udp(UdpLog {
                        outcome,
                        duration: interval,
                        interval,
                        delta,
                        total: delta,
                        probability,
                        ..UdpLog::default()
                    })
                }
                _ => LogBody::Connection(ConnectionLog {
                    outcome,
                    error: None,
                    sequence: 0,
                    adopted: false,
                    duration: interval,
                    interval,
                    delta,
                    total: delta,
                    rtt: Duration::ZERO,
                    min_rtt: Duration::ZERO,
                    handshake: Duration::ZERO,
                    probability,
                }),
            };
            LogRecord {
                at: Timestamp::from_nanos(at * 1_000_000),
                flow,
                body,
            }
        },
    )
}

/// The elements of dropped packets that a reader has to find.
fn expected_of_drop(record: &LogRecord) -> BTreeMap<&'static str, String> {
    let log = record.dropped().unwrap();
    let (source, destination) = record.ends();
    let is_v4 = source.addr.is_ipv4() && destination.addr.is_ipv4();
    let addresses = if is_v4 {
        ["sourceIPv4Address", "destinationIPv4Address"]
    } else {
        ["sourceIPv6Address", "destinationIPv6Address"]
    };
    BTreeMap::from([
        (addresses[0], source.addr.to_string()),
        (addresses[1], destination.addr.to_string()),
        ("sourceTransportPort", source.port.to_string()),
        ("destinationTransportPort", destination.port.to_string()),
        ("protocolIdentifier", "6".to_owned()),
        ("observationPointId", record.flow.netns.to_string()),
        ("droppedPacketDeltaCount", log.packets.to_string()),
        ("droppedOctetDeltaCount", log.bytes.to_string()),
        ("forwardingStatus", "130".to_owned()),
    ])
}

/// The elements of `record` that a reader of its flow has to find.
fn expected(record: &LogRecord, biflow: bool) -> BTreeMap<&'static str, String> {
    let log = record.part().unwrap();
    let (source, destination) = record.ends();
    let (octets, back) = record.oriented(log.delta.sent_bytes, log.delta.received_bytes);
    let (packets, packets_back) = record.oriented(log.delta.sent_packets, log.delta.received_packets);
    let is_v4 = source.addr.is_ipv4() && destination.addr.is_ipv4();
    let addresses = if is_v4 {
        ["sourceIPv4Address", "destinationIPv4Address"]
    } else {
        ["sourceIPv6Address", "destinationIPv6Address"]
    };
    let reason = match log.outcome {
        Outcome::Idle => 1,
        Outcome::Active => 2,
        Outcome::Detached => 4,
        _ => 3,
    };
    let mut elements = BTreeMap::from([
        (addresses[0], source.addr.to_string()),
        (addresses[1], destination.addr.to_string()),
        ("sourceTransportPort", source.port.to_string()),
        ("destinationTransportPort", destination.port.to_string()),
        (
            "protocolIdentifier",
            if record.udp().is_some() { "17" } else { "6" }.to_owned(),
        ),
        ("ipVersion", if is_v4 { "4" } else { "6" }.to_owned()),
        ("flowDirection", u8::from(record.is_client()).to_string()),
        ("flowEndReason", reason.to_string()),
        ("octetDeltaCount", octets.to_string()),
        ("packetDeltaCount", packets.to_string()),
        ("transportOctetDeltaCount", octets.to_string()),
        ("flowId", record.flow.cookie.to_string()),
        ("observationPointId", record.flow.netns.to_string()),
    ]);
    if biflow {
        elements.extend([
            ("biflowDirection", "1".to_owned()),
            ("reverseOctetDeltaCount", back.to_string()),
            ("reversePacketDeltaCount", packets_back.to_string()),
            ("reverseTransportOctetDeltaCount", back.to_string()),
        ]);
    }
    let moment = |at: Timestamp| {
        let text =
            humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(at.as_nanos())).to_string();
        text.replace('T', " ").trim_end_matches('Z').to_owned()
    };
    elements.insert("flowStartMilliseconds", moment(log.interval_start(record.at)));
    elements.insert("flowEndMilliseconds", moment(record.at));
    elements
}

#[test]
fn libfixbuf_reads_every_value_of_any_record() {
    if !require::program("ipfixDump") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::new(Cases {
        failure_persistence: None,
        ..Cases::with_cases(20)
    });
    let batches = (
        proptest::collection::vec(any_record(), 1..40),
        any::<bool>(),
        512_u16..4000,
    );
    let outcome = runner.run(&batches, |(records_in, biflow, max)| {
        let config = ipfix::Config {
            biflow,
            max_message_bytes: Some(max),
            ..ipfix::Config::default()
        };
        let batch = LogBatch {
            records: records_in,
            ..LogBatch::default()
        };
        let messages = ipfix::encoded(&config, &batch);
        assert!(messages.iter().all(|message| message.len() <= usize::from(max)));
        let file = folder.path().join("messages");
        fs::write(&file, messages.concat()).unwrap();
        let mut read = records(&file).into_iter();
        for record in &batch.records {
            let flow = read.next().expect("a flow for each record");
            if record.dropped().is_some() {
                let fields = expected_of_drop(record);
                assert!(!flow.contains_key("octetDeltaCount"), "{flow:?}");
                for (name, value) in fields {
                    assert_eq!(
                        address(flow.get(name)),
                        address(Some(&value)),
                        "{name} of {record:?}"
                    );
                }
                continue;
            }
            for (name, value) in expected(record, biflow) {
                assert_eq!(
                    address(flow.get(name)),
                    address(Some(&value)),
                    "{name} of {record:?}"
                );
            }
            let log = record.part().unwrap();
            let probability = flow
                .get("samplingProbability")
                .map(|text| text.parse::<f64>().unwrap());
            assert_eq!(probability.unwrap_or(1.0).to_bits(), log.probability.to_bits());
            let (_, back) = record.oriented(log.delta.sent_bytes, log.delta.received_bytes);
            let (_, packets_back) = record.oriented(log.delta.sent_packets, log.delta.received_packets);
            if !biflow && (back > 0 || packets_back > 0) {
                let flow = read.next().expect("the flow back");
                assert_eq!(flow.get("octetDeltaCount"), Some(&back.to_string()));
                assert_eq!(flow.get("packetDeltaCount"), Some(&packets_back.to_string()));
            }
        }
        assert_eq!(read.next(), None);
        Ok(())
    });
    outcome.unwrap();
}

/// Addresses are compared as such: there are several ways to write one of IPv6.
fn address(text: Option<&String>) -> Option<String> {
    let text = text?;
    Some(
        text.parse::<Ipv6Addr>()
            .map_or_else(|_| text.clone(), |address| address.to_bits().to_string()),
    )
}
