//! Exporters that a reload replaces while their peer is away: what comes meanwhile arrives, and as much in a store as was sent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};

use crate::daemon::{Daemon, Launch, free_address, read};
use crate::ipfix;
use crate::otelcol::{Otelcol, log_records};
use crate::peers::ask_until;
use crate::require;
use crate::stores::Store;
use crate::traffic::{Counted, exchange, to_peers};

/// Connections before, during and after the reload.
const CONNECTIONS: usize = 60;

/// Records of all of them, one for each end.
const RECORDS: usize = 3 * 2 * CONNECTIONS;

/// A daemon that sends the connections of `port` by the exporter `name`, whose config is `keys`.
fn launch(name: &str, keys: &str, port: u16) -> Daemon {
    let exporter = format!(
        "  {name}: {{{keys}, timeout: 50s, retry: {{initial_interval: 100ms, max_interval: 100ms}}, sending_queue: {{size: 100}}}}\n"
    );
    let filter = format!("processors.filter={{include: [{{port: [{port}]}}]}}");
    let pipeline = format!(
        "service.pipelines.logs={{receivers: [ebpf], processors: [direction, filter, connections], exporters: [{name}]}}"
    );
    Daemon::launch(Launch {
        exporters: &exporter,
        set: &[
            "processors.connections={interval: 200ms}",
            // An exporter that leaves is given as much time as this test.
            "service.shutdown_timeout=60s",
            &filter,
            &pipeline,
        ],
        ..Launch::default()
    })
}

/// Replaces the exporter by one with another `timeout`, without waiting for that.
fn begin_reload(daemon: &Daemon) {
    let config = read(&daemon.config());
    let changed = config.replace("timeout: 50s", "timeout: 51s");
    assert_ne!(config, changed);
    fs::write(daemon.config(), changed).unwrap();
    kill(daemon.pid(), Signal::SIGHUP).unwrap();
}

fn end_reload(daemon: &Daemon) {
    ask_until("the reload", || {
        let config = &daemon.status()["config"];
        assert_eq!(config["refused"], 0, "{config}");
        (config["applied"] == 1).then_some(())
    });
}

/// Traffic before, during and after a reload that replaces the exporter `name`; `attempted` waits until its first request is under way,
/// and `restore` brings its peer back. Returns what the applications counted.
fn exchange_around_a_reload(
    daemon: &Daemon,
    name: &str,
    listener: &TcpListener,
    attempted: impl FnOnce(),
    restore: impl FnOnce(),
) -> Counted {
    let mut sent = exchange(listener, CONNECTIONS, 1).unwrap();
    attempted();
    begin_reload(daemon);
    // Not by its state: attempts that fail set that as well.
    daemon.wait_for("reloading the config");
    sent += exchange(listener, CONNECTIONS, 2).unwrap();
    daemon.telemetry_until("records wait for the exporter that replaces it", |own| {
        own.sum("flowtap_exporter_queue_size", &[("exporter", name)]) > 0
    });
    restore();
    end_reload(daemon);
    sent += exchange(listener, CONNECTIONS, 3).unwrap();
    sent
}

fn not_delivered(daemon: &Daemon, name: &str) -> u64 {
    let (own, exporter) = (daemon.telemetry(), [("exporter", name)]);
    let counters = ["send_failed", "enqueue_failed"];
    counters
        .iter()
        .map(|counter| {
            own.sum(
                &format!("flowtap_exporter_{counter}_log_records_total"),
                &exporter,
            )
        })
        .sum()
}

/// The number and the bytes of the log records that `collector` has.
fn counted(collector: &Otelcol) -> (usize, Counted) {
    let requests = collector.requests();
    let records: Vec<_> = requests.iter().flat_map(log_records).collect();
    let sum = |role: &str, name: &str| {
        let of_role = records
            .iter()
            .filter(|(_, attributes)| attributes["flowtap.role"] == role);
        of_role
            .map(|(_, attributes)| attributes[name].parse::<u64>().unwrap())
            .sum()
    };
    let counted = Counted {
        client_sent: sum("client", "flowtap.source.bytes"),
        client_received: sum("client", "flowtap.destination.bytes"),
        server_sent: sum("server", "flowtap.destination.bytes"),
        server_received: sum("server", "flowtap.source.bytes"),
    };
    (records.len(), counted)
}

#[test]
fn records_made_while_a_changed_otlp_exporter_waits_for_its_peer_arrive() {
    let Some(_machine) = require::root() else {
        return;
    };
    for is_on_disk in [false, true] {
        let Some(mut collector) = Otelcol::absent() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let storage = format!(", storage: {{directory: \"{}\"}}", dir.path().display());
        let storage = if is_on_disk { &*storage } else { "" };
        let address = collector.address("http/protobuf");
        let silent = TcpListener::bind(address).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let keys = format!("endpoint: \"http://{address}\", protocol: http/protobuf{storage}");
        let daemon = launch("otlp", &keys, port);
        let silent = std::cell::RefCell::new((Some(silent), None));
        // A request that nobody answers, until its connection is closed.
        let attempted = || {
            let mut silent = silent.borrow_mut();
            let (mut stream, _) = silent.0.as_ref().unwrap().accept().unwrap();
            stream.read_exact(&mut [0; 30]).unwrap();
            silent.1 = Some(stream);
        };
        let restore = || {
            silent.take();
            collector.run();
        };
        let sent = exchange_around_a_reload(&daemon, "otlp", &listener, attempted, restore);
        ask_until("all records", || (counted(&collector).0 >= RECORDS).then_some(()));
        assert_eq!(counted(&collector), (RECORDS, sent), "on disk: {is_on_disk}");
        assert_eq!(not_delivered(&daemon, "otlp"), 0);
        assert!(daemon.stop().0.success());
        assert_eq!(counted(&collector).0, RECORDS, "none comes twice");
    }
}

/// Accepts connections one after the other, and writes what arrives on each to a file.
fn collect(listener: TcpListener, files: Vec<PathBuf>) -> JoinHandle<io::Result<Vec<PathBuf>>> {
    thread::spawn(move || {
        for path in &files {
            let (mut stream, _) = listener.accept()?;
            io::copy(&mut stream, &mut fs::File::create(path)?)?;
        }
        Ok(files)
    })
}

#[test]
fn records_made_while_a_changed_ipfix_exporter_waits_for_its_collector_arrive() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("ipfixDump") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let address: SocketAddr = free_address();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = launch("ipfix", &format!("endpoint: \"{address}\", protocol: tcp"), port);
    let attempted = || {
        daemon.wait_for("delivery failed and is retried");
    };
    // A connection of each of the two exporters.
    let files = ["first", "second"].map(|name| folder.path().join(name)).to_vec();
    let mut collector = None;
    let restore = || collector = Some(collect(TcpListener::bind(address).unwrap(), files));
    let sent = exchange_around_a_reload(&daemon, "ipfix", &listener, attempted, restore);
    daemon.telemetry_until("all records", |own| {
        let records = own.sum(
            "flowtap_exporter_sent_log_records_total",
            &[("exporter", "ipfix")],
        );
        records >= RECORDS as u64
    });
    assert_eq!(not_delivered(&daemon, "ipfix"), 0);
    assert!(daemon.stop().0.success());
    let files = collector.unwrap().join().unwrap().unwrap();
    let flows: Vec<_> = files.iter().flat_map(|file| ipfix::dumped(file)).collect();
    assert_eq!(
        (ipfix::number(&flows, port), ipfix::counted(&flows, port)),
        (RECORDS, sent)
    );
}

/// Bytes that go to each peer.
const BYTES: usize = 1000;

/// Peers that are talked to once by each application.
const PEERS: u8 = 50;

/// An exporter into a Prometheus.
struct Push {
    keys: &'static str,
    path: &'static str,
    family: &'static str,
    program: PathBuf,
    arguments: &'static str,
    config: &'static str,
}

impl Push {
    fn into_prometheus() -> Option<[Self; 2]> {
        Some([
            Self {
                keys: "otlp: {protocol: http/protobuf, endpoint: \"http://ADDRESS/api/v1/otlp\", max_points_per_request: 50",
                path: "otlp",
                family: "primus_lens_network_tcp_flow_egress_bytes_total",
                program: require::otlp_prometheus()?,
                arguments: "--web.enable-otlp-receiver",
                config: "otlp: {translation_strategy: UnderscoreEscapingWithSuffixes}\n",
            },
            Self {
                keys: "remote_write: {endpoint: \"http://ADDRESS/api/v1/write\", max_samples_per_send: 50",
                path: "remote_write",
                family: "primus_lens_network_tcp_flow_egress",
                program: require::peer("prometheus")?,
                arguments: "--web.enable-remote-write-receiver",
                config: "",
            },
        ])
    }

    fn store(&self, address: SocketAddr) -> Store {
        Store::prometheus_at(address, &self.program, self.config, &[self.arguments])
    }

    fn launch(&self, address: SocketAddr, storage: Option<&Path>) -> Daemon {
        let storage = storage.map(|path| format!(", storage: {{directory: \"{}\"}}", path.display()));
        let exporter = format!(
            "  {}, interval: 200ms, timeout: 50s, retry: {{initial_interval: 100ms, max_interval: 100ms}}{}}}\n",
            self.keys.replace("ADDRESS", &address.to_string()),
            storage.unwrap_or_default(),
        );
        Daemon::launch(Launch {
            list: &format!("exporters: [prometheus, {}]", self.path),
            exporters: &exporter,
            set: &[
                "processors.window.rtt_include_local_peers=true",
                // A request that is under way is given up then.
                "service.shutdown_timeout=1s",
            ],
            ..Launch::default()
        })
    }

    /// Waits until `store` has all bytes of `sent`, by port, and compares with the increase of the samples that it has.
    fn check(&self, store: &Store, sent: &BTreeMap<u16, u64>, context: &str) {
        let ports: Vec<_> = sent.keys().map(u16::to_string).collect();
        let series = format!(
            "{}{{rport=~\"{}\",direction=\"outbound\"}}",
            self.family,
            ports.join("|")
        );
        let all = sent.values().sum::<u64>() as f64;
        ask_until("the store has all bytes", || {
            let total = store.number(&format!("sum(last_over_time({series}[5m]))"))?;
            (total >= all).then_some(())
        });
        let increases = store.samples(&format!("{series}[5m]"));
        let increase: f64 = increases
            .iter()
            .flat_map(|values| values.windows(2).map(|pair| pair[1] - pair[0]))
            .sum();
        assert!(
            (increase - all).abs() < 0.5,
            "{context}, {}: {increase} of {all}",
            self.path
        );
        assert_eq!(store.refused(), 0, "{context}, {}", self.path);
    }
}

/// Traffic of an application of which nothing is known before.
fn to_new_peers(sent: &mut BTreeMap<u16, u64>) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let bytes = to_peers(&listener, PEERS, BYTES).unwrap();
    assert_eq!(bytes, u64::from(PEERS) * BYTES as u64);
    sent.insert(listener.local_addr().unwrap().port(), bytes);
}

#[test]
fn the_increase_in_a_prometheus_that_is_away_while_its_exporter_is_changed_is_what_was_sent() {
    let Some(_machine) = require::root() else {
        return;
    };
    for push in Push::into_prometheus().into_iter().flatten() {
        for is_on_disk in [false, true] {
            let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
            let daemon = push.launch(address, is_on_disk.then_some(dir.path()));
            let mut sent = BTreeMap::new();
            to_new_peers(&mut sent);
            daemon.wait_for("delivery failed and is retried");
            begin_reload(&daemon);
            to_new_peers(&mut sent);
            end_reload(&daemon);
            to_new_peers(&mut sent);
            let store = push.store(address);
            push.check(&store, &sent, &format!("on disk: {is_on_disk}"));
        }
    }
}

#[test]
fn the_increase_in_a_prometheus_of_series_that_begin_while_its_exporter_is_changed_is_what_was_sent() {
    let Some(_machine) = require::root() else {
        return;
    };
    for push in Push::into_prometheus().into_iter().flatten() {
        let address = free_address();
        let store = push.store(address);
        let daemon = push.launch(address, None);
        let mut sent = BTreeMap::new();
        to_new_peers(&mut sent);
        let config = read(&daemon.config());
        for timeout in 40..45 {
            fs::write(
                daemon.config(),
                config.replace("timeout: 50s", &format!("timeout: {timeout}s")),
            )
            .unwrap();
            let applied = daemon.status()["config"]["applied"].clone();
            kill(daemon.pid(), Signal::SIGHUP).unwrap();
            to_new_peers(&mut sent);
            ask_until("the reload", || {
                (daemon.status()["config"]["applied"] != applied).then_some(())
            });
        }
        push.check(&store, &sent, "it is up");
    }
}
