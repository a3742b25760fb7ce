//! Clients that nobody here wrote: Debian's `promtool`; a strict parser, an OTLP collector and `DuckDB` from `PyPI`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, free_address, get, get_with, read};
use crate::exposition::{Exposition, Sample};
use crate::require;
use crate::traffic::{Counted, Held, exchange};

/// A peer that is stopped by its pid when dropped.
pub(crate) struct Peer(pub(crate) Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Repeats `what` until it succeeds or the timeout ends. For peers that report nothing by
/// themselves.
pub(crate) fn ask_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn listens(address: SocketAddr) -> Option<()> {
    TcpStream::connect(address).ok().map(drop)
}

/// Reads a scrape as strictly as the `OpenMetrics` specification does; prints how many samples each family has.
const STRICT_PARSER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.name, family.type, len(family.samples))
";

/// A process with a chosen name: a connection to the first port, and one to the second, which has
/// no listener.
const HOSTILE: &str = "
import socket, sys
open('/proc/self/comm', 'w').write('a\"b\\\\c\\nd}e{')
client = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
client.sendall(bytes(1000))
assert client.recv(1000, socket.MSG_WAITALL)
try:
    socket.create_connection(('127.0.0.1', int(sys.argv[2])))
    sys.exit('somebody listens there')
except ConnectionRefusedError:
    pass
";

#[test]
fn a_strict_openmetrics_parser_takes_every_family_by_either_naming_with_hostile_label_values() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(python) = require::python() else {
        return;
    };
    for (naming, family) in [
        ("primus_lens", "network_tcp_flow_egress"),
        ("otel", "network_tcp_io"),
    ] {
        let daemon = Daemon::start(&[
            &format!("processors.window.naming={naming}"),
            "exporters.prometheus.created_timestamps=all",
            "exporters.prometheus.timestamps=true",
            "processors.window.rtt_include_local_peers=true",
            &format!("processors.window.families.{family}.labels=[raddr, rport, direction, type, comm]"),
        ]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let closed = free_address().port().to_string();
        let mut hostile = Command::new("python3")
            .args(["-c", HOSTILE, &port, &closed])
            .spawn()
            .unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[b'y'; 1000]).unwrap();
        assert!(hostile.wait().unwrap().success());
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let scrape = ask_until("the hostile name", || {
            let scrape = get_with(
                daemon.scrape_address(),
                "/metrics",
                &format!("Accept: {accept}\r\n"),
            );
            (scrape.contains("a\\\"b\\\\c\\\\x0ad}e{") && scrape.contains("refused")).then_some(scrape)
        });
        let mut parser = Command::new(&python)
            .args(["-c", STRICT_PARSER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        parser.stdin.take().unwrap().write_all(scrape.as_bytes()).unwrap();
        let output = parser.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{naming}: {complaints}\n{scrape}");
        let expected = if naming == "otel" {
            [
                "flowtap_tcp_io_bytes counter",
                // Not the smoothed time: that leaves out samples of connections that had nothing to send.
                "flowtap_tcp_min_rtt_seconds histogram",
            ]
        } else {
            [
                "primus_lens_network_tcp_flow_egress unknown",
                "primus_lens_network_tcp_flow_rtt histogram",
            ]
        };
        for family in expected {
            assert!(said.contains(family), "{naming}: no {family} in {said}");
        }
    }
}

/// Exit code and output of `promtool check metrics`.
fn check_metrics(scrape: &str) -> (Option<i32>, String) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(scrape.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.into_owned())
}

#[test]
fn promtool_has_nothing_to_say_of_names_by_opentelemetry() {
    if !require::program("promtool") {
        return;
    }
    let daemon = Daemon::launch(Launch {
        set: &[
            "processors.window.naming=otel",
            "service.pipelines.metrics.receivers=[generator]",
            "receivers.generator={flows: 50, interval: 100ms, max_intervals: 3, churn_per_interval: 5}",
        ],
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    });
    daemon.scrape_until("traffic", |scrape| {
        scrape.sum("flowtap_tcp_io_bytes_total", &[]) > 0
    });
    let scrape = get(daemon.scrape_address(), "/metrics");
    assert_eq!(check_metrics(&scrape), (Some(0), String::new()));
}

#[test]
fn promtool_has_nothing_to_say_of_syntax_or_help() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("promtool") {
        return;
    }
    let daemon = Daemon::start(&[]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    Held::open(&listener, 3).unwrap().exchange(1000).unwrap();
    daemon.scrape_until("traffic", |scrape| {
        scrape.sum("primus_lens_network_tcp_flow_egress", &[("rport", &port)]) > 0
    });
    let scrape = get(daemon.scrape_address(), "/metrics");
    let (code, said) = check_metrics(&scrape);
    // 3 is "parsed, but the linter has advice": the seed's names have no `_total`, and they are kept.
    assert!(matches!(code, Some(0 | 3)), "{said}");
    for line in said.lines().filter(|line| !line.is_empty()) {
        assert!(
            line.contains("counter metrics should have \"_total\" suffix"),
            "promtool says: {line}"
        );
    }
}

/// Reads OTLP's JSON as protobuf does, and prints the points of sums.
const JSON_READER: &str = "
import http.server, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

class Reader(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        request = json_format.Parse(body, ExportMetricsServiceRequest())
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    print('-> Name:', metric.name)
                    for point in metric.sum.data_points:
                        print('Data point attributes:')
                        for pair in point.attributes:
                            print(f'-> {pair.key}: Str({pair.value.string_value})')
                        print('Value:', point.as_int)
        self.send_response(200)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', '2')
        self.end_headers()
        self.wfile.write(b'{}')

http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Reader).serve_forever()
";

/// The collector from `PyPI`, its log in a file: it prints every point that it receives.
pub(crate) struct Collector {
    _peer: Peer,
    log: tempfile::NamedTempFile,
    pub(crate) address: SocketAddr,
    http: SocketAddr,
}

impl Collector {
    pub(crate) fn start() -> Option<Self> {
        Self::start_at(free_address())
    }

    /// With gRPC at `address`.
    fn start_at(address: SocketAddr) -> Option<Self> {
        let program = require::collector()?;
        let http = free_address();
        let log = tempfile::NamedTempFile::new().unwrap();
        let pid_file = tempfile::tempdir().unwrap();
        let peer = Command::new(program)
            .args([
                "start",
                "--debug-log",
                "metrics",
                "--debug-log-verbosity",
                "detailed",
            ])
            .args(["--exporter", "blackhole", "--pid-file"])
            .arg(pid_file.path().join("pid"))
            .args(["--otlp-grpc-endpoint", &address.to_string()])
            .args(["--otlp-http-endpoint", &http.to_string()])
            .stdout(log.reopen().unwrap())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let collector = Self {
            _peer: Peer(peer),
            log,
            address,
            http,
        };
        ask_until("the collector listens", || listens(address).and(listens(http)));
        Some(collector)
    }

    /// Not that one, which omits the numbers of JSON: protobuf's own reader, with the HTTP server
    /// of Python. It prints in the same way.
    fn start_json_reader() -> Option<Self> {
        let python = require::python()?;
        let http = free_address();
        let log = tempfile::NamedTempFile::new().unwrap();
        let peer = Command::new(python)
            .args(["-u", "-c", JSON_READER, &http.port().to_string()])
            .stdout(log.reopen().unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let reader = Self {
            _peer: Peer(peer),
            log,
            address: http,
            http,
        };
        ask_until("the reader listens", || listens(http));
        Some(reader)
    }

    /// The newest value of every point that it has printed, by name and labels.
    pub(crate) fn received(&self) -> Exposition {
        let mut newest = BTreeMap::new();
        let (mut name, mut labels) = (String::new(), BTreeMap::new());
        for line in read(self.log.path()).lines() {
            let attribute = line
                .trim()
                .strip_prefix("-> ")
                .and_then(|pair| pair.split_once(": "));
            if let Some(("Name", value)) = attribute {
                value.clone_into(&mut name);
            } else if line.starts_with("Data point attributes") {
                labels.clear();
            } else if let Some((key, value)) = attribute {
                let value = value
                    .strip_prefix("Str(")
                    .and_then(|value| value.strip_suffix(')'));
                labels.extend(value.map(|value| (key.to_owned(), value.to_owned())));
            } else if let Some(value) = line.strip_prefix("Value: ") {
                newest.insert(
                    (name.clone(), labels.clone()),
                    value.trim().parse().expect("a number"),
                );
            }
        }
        let samples = newest
            .into_iter()
            .map(|((name, labels), value)| Sample { name, labels, value });
        Exposition(samples.collect())
    }
}

#[test]
fn a_real_otlp_collector_receives_the_same_totals_with_the_last_window_in_it_by_every_protocol() {
    let Some(_machine) = require::root() else {
        return;
    };
    let (Some(collector), Some(reader)) = (Collector::start(), Collector::start_json_reader()) else {
        return;
    };
    for (protocol, address, compression) in [
        ("grpc", collector.address, "gzip"),
        ("http/protobuf", collector.http, "gzip"),
        ("http/json", reader.http, "none"),
    ] {
        let otlp = format!(
            "  otlp: {{endpoint: \"http://{address}\", protocol: {protocol}, interval: 200ms, compression: {compression}}}\n"
        );
        let daemon = Daemon::launch(Launch {
            list: "exporters: [debug, otlp]",
            exporters: &otlp,
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = exchange(&listener, 300, 2).unwrap();
        // Right after the traffic, and in the middle of a window: what it holds must still arrive.
        let (status, window) = daemon.stop();
        assert!(status.success(), "{protocol}: {status} {}", window.log);
        let received = || match protocol {
            "http/json" => reader.received(),
            _ => collector.received(),
        };
        ask_until(&format!("by {protocol} the collector shows {sent:?}"), || {
            (Counted::of_port(&received(), port) == sent).then_some(())
        });
    }
}

#[test]
fn what_waits_on_disk_survives_a_kill_9_and_is_delivered_by_the_next_run() {
    let Some(_machine) = require::root() else {
        return;
    };
    let (address, dir) = (free_address(), tempfile::tempdir().unwrap());
    let otlp = format!(
        "  otlp: {{endpoint: \"http://{address}\", interval: 200ms, storage: {{directory: {}}}, retry: {{enabled: false}}}}\n",
        dir.path().join("otlp").display()
    );
    let launch = Launch {
        list: "exporters: [debug, prometheus, otlp]",
        exporters: &otlp,
        ..Launch::default()
    };
    // Nobody listens there yet.
    let daemon = Daemon::launch(launch);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 7).unwrap();
    daemon.scrape_until("what the applications counted", |scrape| {
        Counted::of_port(scrape, port) == sent
    });
    let stored = |own: &Exposition| own.sum("flowtap_exporter_storage_requests", &[]);
    // The window that was scraped is on disk when two more are.
    let before = stored(&daemon.telemetry());
    daemon.telemetry_until("requests on disk", |own| stored(own) >= before + 2);
    daemon.kill();

    let Some(collector) = Collector::start_at(address) else {
        return;
    };
    let daemon = Daemon::launch(launch);
    ask_until(&format!("the collector shows {sent:?}"), || {
        (Counted::of_port(&collector.received(), port) == sent).then_some(())
    });
    daemon.telemetry_until("nothing on disk", |own| stored(own) <= 1);
}

#[test]
fn a_stop_in_the_middle_of_traffic_is_clean_and_its_last_window_is_in_what_the_collector_received() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(collector) = Collector::start() else {
        return;
    };
    let otlp = format!("  otlp: {{endpoint: \"http://{}\"}}\n", collector.address);
    // No window ends by itself: whatever arrives is the last one.
    let daemon = Daemon::launch(Launch {
        list: "exporters: [debug, otlp]",
        exporters: &otlp,
        set: &[
            "processors.window.interval=1h",
            "processors.window.metric_expiration=1h",
        ],
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = AtomicBool::new(false);
    let (under_way, is_under_way) = sync_channel(1);
    let window = thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = Held::open(&listener, 10).unwrap();
            while !stop.load(Ordering::Relaxed) {
                held.exchange(1000).unwrap();
                let _ = under_way.try_send(());
            }
        });
        is_under_way.recv().unwrap();
        let (status, window) = daemon.stop();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(status.code(), Some(0));
        window
    });
    let counted = Counted::of_port(&window.totals, port);
    assert!(counted.client_sent >= 10_000, "{counted:?}");
    ask_until(&format!("the collector shows {counted:?}"), || {
        (Counted::of_port(&collector.received(), port) == counted).then_some(())
    });
}

/// Asks `DuckDB` for the sum of what windows added, and for the last total, by metric and direction, of the flows of a port.
/// Arguments: the port, and a table function with its files.
const HISTORY: &str = "
import json, sys
import duckdb
port, files = sys.argv[1:]
duckdb.sql(f'create view rows as select * from {files}')
found = duckdb.sql(f'''
    with series as (
        select name, labels, sum(delta) as added, max_by(total, window_end) as total from rows
        where type = $$counter$$ and coalesce(labels[$$rport$$], labels[$$lport$$]) = $${port}$$ group by all
    )
    select name, labels[$$direction$$], sum(added)::bigint, sum(total)::bigint from series group by all
''').fetchall()
rows, backwards = duckdb.sql('''
    select count(*), count(*) filter (window_end <= window_start) from rows
''').fetchone()
print(json.dumps({'found': found, 'rows': rows, 'backwards': backwards}))
";

#[test]
fn duckdb_finds_the_totals_that_the_applications_counted_in_the_files_of_either_format() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(python) = require::python() else {
        return;
    };
    for (format, compression) in [
        ("parquet", "zstd"),
        ("parquet", "snappy"),
        ("json", "gzip"),
        ("json", "none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = format!(
            "  file: {{path: {}, format: {format}, compression: {compression}, rotation: {{max_age: 1s, max_files: 0}}}}\n",
            dir.path().display()
        );
        let daemon = Daemon::launch(Launch {
            list: "exporters: [prometheus, debug, file]",
            exporters: &file,
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sent = exchange(&listener, 300, 6).unwrap();
        let finished = [("exporter", "file"), ("event", "finished")];
        daemon.telemetry_until("a finished file", |seen| {
            seen.sum("flowtap_exporter_files_total", &finished) > 0
        });
        // This part is in another file, and in the middle of a window.
        sent += exchange(&listener, 300, 7).unwrap();
        let (status, _) = daemon.stop();
        assert!(status.success(), "{status}");

        // Whatever is there has its own name by now, or DuckDB would not take it.
        let files = dir.path().display();
        let table = if format == "parquet" {
            format!("read_parquet('{files}/*')")
        } else {
            format!(
                "read_json('{files}/*', format='newline_delimited', columns={{window_start: 'TIMESTAMP', \
                 window_end: 'TIMESTAMP', name: 'VARCHAR', type: 'VARCHAR', labels: 'MAP(VARCHAR, VARCHAR)', \
                 total: 'BIGINT', delta: 'BIGINT'}})"
            )
        };
        let output = Command::new(&python)
            .args(["-c", HISTORY, &port.to_string(), &table])
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{format}: {complaints}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["backwards"], 0, "{answer}");
        assert!(answer["rows"].as_u64().unwrap() > 4, "{answer}");
        let of = |family: &str, direction: &str, column: usize| {
            let name = format!("primus_lens_network_tcp_flow_{family}");
            let rows = answer["found"].as_array().unwrap().iter();
            rows.filter(|row| row[0] == name && row[1] == direction)
                .map(|row| row[column].as_u64().unwrap())
                .sum()
        };
        // Increases of the windows, and the last total.
        for column in [2, 3] {
            let counted = Counted {
                client_sent: of("egress", "outbound", column),
                client_received: of("egress", "inbound", column),
                server_sent: of("ingress", "outbound", column),
                server_received: of("ingress", "inbound", column),
            };
            assert_eq!(counted, sent, "{format} {compression}: {answer}");
        }
    }
}

#[test]
fn lines_of_a_daemon_that_was_killed_are_there_after_the_next_start() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = format!("  file: {{path: {}}}\n", dir.path().display());
    let launch = Launch {
        list: "exporters: [prometheus, debug, file]",
        exporters: &file,
        ..Launch::default()
    };
    let daemon = Daemon::launch(launch);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 9).unwrap();
    daemon.scrape_until("the traffic", |scrape| Counted::of_port(scrape, port) == sent);
    // The file's turn comes with the same window.
    let written = || {
        let files = fs::read_dir(dir.path()).unwrap().flatten();
        let lines = files.flat_map(|file| {
            let lines = read(&file.path());
            lines.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        let values = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
        let label = port.to_string();
        let of_port = values.filter(|row| row["labels"]["rport"] == label);
        of_port.map(|row| row["delta"].as_u64().unwrap()).sum::<u64>()
    };
    let expected = sent.client_sent + sent.client_received;
    ask_until("the lines", || (written() == expected).then_some(()));
    daemon.kill();

    let daemon = Daemon::launch(launch);
    let recovered = [("exporter", "file"), ("event", "recovered")];
    daemon.telemetry_until("a recovered file", |seen| {
        seen.sum("flowtap_exporter_files_total", &recovered) == 1
    });
    assert_eq!(written(), expected);
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().any(|name| name.ends_with("Z.recovered.jsonl")),
        "{names:?}"
    );
}
