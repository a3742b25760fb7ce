//! The OpenTelemetry Collector's own receiver (tests/otelcol, by tests/peers), which shares no code with the exporter: what it takes by
//! every protocol and packing, and what it has after it was killed, restarted, slow, full or out of reach.

use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::daemon::{Daemon, Launch, free_address, read};
use crate::exposition::{Exposition, Sample};
use crate::native_histograms;
use crate::netns::{own_flows, within_new};
use crate::peers::{ask_until, listens};
use crate::require;
use crate::traffic::{Counted, exchange};

/// A Collector with gRPC and HTTP, which may be stopped and started again. Its received data is
/// kept.
pub(crate) struct Otelcol {
    program: PathBuf,
    child: Option<Child>,
    dir: tempfile::TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
    taken: RefCell<Taken>,
}

/// The part that has been read of a Collector's file, so that no line of it is parsed twice.
#[derive(Default)]
struct Taken {
    /// Bytes of the file.
    length: usize,
    requests: Vec<Value>,
    points: Vec<Point>,
}

/// Behaviour of a Collector: keys of its receiver's gRPC server and HTTP server, and of its
/// exporter `lines`.
#[derive(Clone, Copy, Default)]
struct Behaviour {
    grpc: &'static str,
    http: &'static str,
    lines: &'static str,
}

impl Otelcol {
    /// One that is not started yet.
    pub(crate) fn absent() -> Option<Self> {
        Some(Self {
            program: require::peer("otelcol")?,
            child: None,
            dir: tempfile::tempdir().unwrap(),
            grpc: free_address(),
            http: free_address(),
            taken: RefCell::default(),
        })
    }

    pub(crate) fn started() -> Option<Self> {
        let mut collector = Self::absent()?;
        collector.start(Behaviour::default());
        Some(collector)
    }

    /// Starts one that is not started yet.
    pub(crate) fn run(&mut self) {
        self.start(Behaviour::default());
    }

    fn start(&mut self, behaviour: Behaviour) {
        let Self { grpc, http, .. } = self;
        let path = self.dir.path().join("lines");
        let config = self.dir.path().join("config.yaml");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"{grpc}\", {}}}, http: {{endpoint: \"{http}\", {}}}}}}}}}\n\
             exporters: {{lines: {{path: \"{}\", {}}}}}\n\
             service: {{telemetry: {{metrics: {{level: none}}, logs: {{encoding: json, sampling: {{enabled: false}}}}}}, pipelines: {{metrics: {{receivers: [otlp], exporters: [lines]}}, logs: {{receivers: [otlp], exporters: [lines]}}}}}}\n",
            behaviour.grpc,
            behaviour.http,
            path.display(),
            behaviour.lines,
        );
        fs::write(&config, text).unwrap();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let (grpc, http) = (self.grpc, self.http);
        ask_until("the Collector listens", || listens(grpc).and(listens(http)));
    }

    /// Ends it by `signal`, and waits for its end.
    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal);
        let _ = child.wait();
    }

    /// Where requests of `protocol` go.
    pub(crate) fn address(&self, protocol: &str) -> SocketAddr {
        if protocol == "grpc" { self.grpc } else { self.http }
    }

    /// Number of requests that have reached it, answered or not.
    fn arrived(&self) -> usize {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.matches("request arrived").count()
    }

    /// The file of its requests, one per line.
    pub(crate) fn lines(&self) -> PathBuf {
        self.dir.path().join("lines")
    }

    /// Reads on in the file, which only grows. A line that is being written is not a request yet.
    fn read_on(&self) {
        let mut taken = self.taken.borrow_mut();
        let file = fs::read(self.lines()).unwrap_or_default();
        let new = &file[taken.length..];
        let whole = new
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        for line in new[..whole].split_inclusive(|byte| *byte == b'\n') {
            let request = serde_json::from_slice(line).expect("OTLP's JSON");
            taken.points.extend(points(&request));
            taken.requests.push(request);
        }
        taken.length += whole;
    }

    /// The requests that it took, in their order.
    pub(crate) fn requests(&self) -> Ref<'_, [Value]> {
        self.read_on();
        Ref::map(self.taken.borrow(), |taken| taken.requests.as_slice())
    }

    /// The points that it took.
    fn points(&self) -> Ref<'_, [Point]> {
        self.read_on();
        Ref::map(self.taken.borrow(), |taken| taken.points.as_slice())
    }

    /// The newest value of each series of whole numbers.
    fn newest(&self) -> Exposition {
        let mut newest = BTreeMap::new();
        for point in self.points().iter() {
            if let Some(value) = point.number() {
                newest.insert((point.name.clone(), point.attributes.clone()), value);
            }
        }
        exposition(newest)
    }

    /// The sum of each series of whole numbers, for points that are differences.
    fn sums(&self) -> Exposition {
        let mut sums = BTreeMap::new();
        for point in self.points().iter() {
            if let Some(value) = point.number() {
                *sums
                    .entry((point.name.clone(), point.attributes.clone()))
                    .or_default() += value;
            }
        }
        exposition(sums)
    }
}

impl Drop for Otelcol {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}

type Attributes = BTreeMap<String, String>;

fn exposition(values: BTreeMap<(String, Attributes), f64>) -> Exposition {
    let samples = values
        .into_iter()
        .map(|((name, labels), value)| Sample { name, labels, value });
    Exposition(samples.collect())
}

/// A point as the Collector understood it.
#[derive(Clone, Debug)]
struct Point {
    resource: Attributes,
    name: String,
    /// `sum`, `gauge`, `histogram` or `exponentialHistogram`.
    kind: &'static str,
    attributes: Attributes,
    start: u64,
    at: u64,
    body: Value,
}

impl Point {
    /// Its value, if it is a whole number. Protobuf's JSON has these as text.
    fn number(&self) -> Option<f64> {
        self.body["asInt"].as_str()?.parse().ok()
    }

    /// Whether it is the end of its series.
    fn is_end(&self) -> bool {
        self.body["flags"] == 1
    }

    fn count(&self) -> u64 {
        whole(&self.body["count"])
    }

    fn buckets(&self) -> Vec<u64> {
        let buckets = self.body["bucketCounts"].as_array().into_iter().flatten();
        buckets.map(whole).collect()
    }
}

fn whole(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

fn attributes(pairs: &Value) -> Attributes {
    let pairs = pairs.as_array().into_iter().flatten();
    let text = |value: &Value| match value {
        Value::Object(value) => value.values().next().map_or(String::new(), |value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }),
        other => other.to_string(),
    };
    pairs
        .map(|pair| (pair["key"].as_str().unwrap().to_owned(), text(&pair["value"])))
        .collect()
}

fn points(request: &Value) -> Vec<Point> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for resource in list(request, "resourceMetrics") {
        let of_resource = attributes(&resource["resource"]["attributes"]);
        for scope in list(&resource, "scopeMetrics") {
            for metric in list(&scope, "metrics") {
                let kinds = ["sum", "gauge", "histogram", "exponentialHistogram"];
                let kind = kinds.into_iter().find(|kind| metric.get(kind).is_some()).unwrap();
                for body in list(&metric[kind], "dataPoints") {
                    found.push(Point {
                        resource: of_resource.clone(),
                        name: metric["name"].as_str().unwrap().to_owned(),
                        kind,
                        attributes: attributes(&body["attributes"]),
                        start: whole(&body["startTimeUnixNano"]),
                        at: whole(&body["timeUnixNano"]),
                        body,
                    });
                }
            }
        }
    }
    found
}

/// The log records of a request, each with its attributes.
pub(crate) fn log_records(request: &Value) -> Vec<(Value, BTreeMap<String, String>)> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let scopes = list(request, "resourceLogs")
        .into_iter()
        .flat_map(|resource| list(&resource, "scopeLogs"));
    let records = scopes.flat_map(|scope| list(&scope, "logRecords"));
    records
        .map(|record| {
            let attributes = attributes(&record["attributes"]);
            (record, attributes)
        })
        .collect()
}

/// Faults that a store would find in consecutive totals.
fn faults(points: &[Point]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut streams: BTreeMap<_, &Point> = BTreeMap::new();
    for point in points {
        let Point { start, at, name, .. } = point;
        let mut fault = |what: &str| faults.push(format!("{what}: {point:?}"));
        if point.kind == "histogram" && point.buckets().iter().sum::<u64>() != point.count() {
            fault("the buckets are not the count");
        }
        if point.kind != "gauge" && (*start == 0 || start >= at) {
            fault("no start before its time");
        }
        let before = streams.insert((name, &point.resource, &point.attributes), point);
        let Some(before) = before else { continue };
        if *at <= before.at {
            fault("not after the point before it");
        }
        if before.is_end() && *start < before.at && point.kind != "gauge" {
            fault("goes on after its end");
        }
        let falls = point.number() < before.number() || point.count() < before.count();
        if point.kind != "gauge" && *start == before.start && falls && !point.is_end() {
            fault("falls");
        }
    }
    faults
}

fn failed(seen: &Exposition, exporter: &str) -> u64 {
    let exporter = [("exporter", exporter)];
    seen.sum("flowtap_exporter_send_failed_metric_points_total", &exporter)
        + seen.sum("flowtap_exporter_enqueue_failed_metric_points_total", &exporter)
        + seen.sum("flowtap_exporter_storage_dropped_requests_total", &exporter)
}

const PROTOCOLS: [&str; 3] = ["grpc", "http/protobuf", "http/json"];

#[test]
fn the_collector_takes_flow_logs_by_every_protocol_and_they_are_what_the_applications_counted() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let (mut text, mut collectors) = (String::new(), Vec::new());
        for protocol in PROTOCOLS {
            let Some(collector) = Otelcol::started() else {
                return;
            };
            let name = format!("otlp/{}", protocol.replace('/', "-"));
            let address = collector.address(protocol);
            let _ = writeln!(
                text,
                "  {name}: {{endpoint: \"http://{address}\", protocol: {protocol}, max_points_per_request: 50}}"
            );
            collectors.push((name, collector));
        }
        let names: Vec<_> = collectors.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        let [own, chain] = own_flows();
        let daemon = Daemon::launch(Launch {
            exporters: &text,
            set: &[
                &own,
                &chain,
                "processors.connections={interval: 200ms}",
                &format!(
                    "service.pipelines.logs={{receivers: [ebpf], processors: [direction, policy, filter, connections], exporters: [{names}]}}"
                ),
            ],
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = exchange(&listener, 100, 29).unwrap();
        let refused = free_address().port();
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, refused)).is_err());
        for (name, collector) in &collectors {
            let of_port = |port: u16| {
                let requests = collector.requests();
                let records = requests.iter().flat_map(log_records);
                let is_of = |attributes: &BTreeMap<String, String>| {
                    attributes
                        .get("destination.port")
                        .is_some_and(|found| *found == port.to_string())
                };
                records
                    .filter(|(_, attributes)| is_of(attributes))
                    .collect::<Vec<_>>()
            };
            ask_until(&format!("{name} has the end of each"), || {
                let is_end = |attributes: &BTreeMap<String, String>| {
                    attributes["flowtap.connection.outcome"] == "closed"
                };
                let ends = of_port(port);
                let ends = ends.iter().filter(|(_, attributes)| is_end(attributes));
                (ends.count() >= 200 && !of_port(refused).is_empty()).then_some(())
            });
            let records = of_port(port);
            let sum = |role: &str, name: &str| {
                let of_role = records
                    .iter()
                    .filter(|(_, attributes)| attributes["flowtap.role"] == role);
                of_role
                    .map(|(_, attributes)| attributes[name].parse::<u64>().unwrap())
                    .sum::<u64>()
            };
            let counted = Counted {
                client_sent: sum("client", "flowtap.source.bytes"),
                client_received: sum("client", "flowtap.destination.bytes"),
                server_sent: sum("server", "flowtap.destination.bytes"),
                server_received: sum("server", "flowtap.source.bytes"),
            };
            assert_eq!(counted, sent, "{name}");
            let (record, _) = &records[0];
            assert_eq!(record["eventName"], "flowtap.tcp.connection", "{name}: {record}");
            assert_eq!(record["severityText"], "INFO", "{name}: {record}");
            for (record, attributes) in &records {
                check_network_attributes(record, attributes, port);
            }
            let (record, attributes) = &of_port(refused)[0];
            assert_eq!(record["severityNumber"], 13, "{name}: {record}");
            assert_eq!(attributes["error.type"], "refused", "{name}: {record}");
            let telemetry = daemon.telemetry();
            let exporter = [("exporter", name.as_str())];
            assert_eq!(
                telemetry.sum("flowtap_exporter_send_failed_log_records_total", &exporter),
                0
            );
        }
    });
}

/// The attributes that the Collector's `netflow` receiver gives a flow as well have its names and types (docs/flow-logs.md).
fn check_network_attributes(record: &Value, attributes: &Attributes, port: u16) {
    let types: BTreeMap<_, _> = record["attributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            let kind = pair["value"].as_object().unwrap().keys().next().unwrap();
            (pair["key"].as_str().unwrap(), kind.as_str())
        })
        .collect();
    for (name, kind, value) in [
        ("source.address", "stringValue", Some("127.0.0.1")),
        ("source.port", "intValue", None),
        ("destination.address", "stringValue", Some("127.0.0.1")),
        ("destination.port", "intValue", Some(port.to_string().as_str())),
        ("network.transport", "stringValue", Some("tcp")),
        ("network.type", "stringValue", Some("ipv4")),
    ] {
        assert_eq!(types.get(name), Some(&kind), "{name}: {record}");
        if let Some(value) = value {
            assert_eq!(attributes[name], value, "{record}");
        }
    }
    let source: u16 = attributes["source.port"].parse().unwrap();
    assert!(source != 0 && source != port, "{record}");
}

#[test]
fn the_collector_takes_everything_by_every_protocol_and_packing() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let (mut text, mut collectors) = (String::new(), Vec::new());
        for protocol in PROTOCOLS {
            for compression in ["none", "gzip", "zstd"] {
                let Some(collector) = Otelcol::started() else {
                    return;
                };
                let name = format!("otlp/{}-{compression}", protocol.replace('/', "-"));
                let address = collector.address(protocol);
                let _ = writeln!(
                    text,
                    "  {name}: {{endpoint: \"http://{address}\", protocol: {protocol}, interval: 400ms, compression: {compression}}}"
                );
                collectors.push((name, collector));
            }
        }
        let names: Vec<_> = collectors.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        let [own, chain] = own_flows();
        let daemon = Daemon::launch(Launch {
            list: &format!("exporters: [debug, {names}]"),
            exporters: &text,
            set: &[
                &own,
                &chain,
                // Also of loopback; histograms are then among what ends.
                "processors.window.rtt_include_local_peers=true",
                "processors.window.metric_expiration=3s",
                &format!("service.telemetry.metrics.exporters=[{names}]"),
                "service.telemetry.metrics.interval=1s",
                "service.telemetry.resource={deployment.environment: \"té\\u0000st\"}",
            ],
            environment: &[("NODE_NAME", "node 1")],
            ..Launch::default()
        });
        // An address that no other connection is to.
        let peer = Ipv4Addr::new(127, 8, 7, 9);
        let listener = TcpListener::bind((peer, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = exchange(&listener, 100, 11).unwrap();
        let ended = |collector: &Otelcol| {
            let points = collector.points();
            let mut ends = points
                .iter()
                .filter(|point| point.is_end() && point.attributes.get("raddr") == Some(&peer.to_string()));
            ends.any(|point| point.name == "primus_lens_network_tcp_flow_rtt")
        };
        for (name, collector) in &collectors {
            ask_until(&format!("{name} has the histogram's end"), || {
                ended(collector).then_some(())
            });
            // The series have ended by now, but the newest of each was all that the application counted.
            assert_eq!(Counted::of_port(&collector.newest(), port), sent, "{name}");
        }
        let own = daemon.telemetry();
        let retried = own.sum("flowtap_exporter_retried_requests_total", &[]);
        assert_eq!(retried, 0, "nothing was to be retried");
        let (status, end) = daemon.stop();
        assert!(status.success(), "{status} {}", end.log);
        // Receivers may warn of limits of this machine; deliveries must not.
        let mut warnings = end.log.lines().filter(|line| line.contains(" WARN "));
        assert!(
            !warnings.any(|line| !line.contains("flowtap_receivers")),
            "{}",
            end.log
        );
        for (name, collector) in &collectors {
            assert_eq!(failed(&own, name), 0, "{name}");
            let points = collector.points();
            assert_eq!(faults(&points), Vec::<String>::new(), "{name}");
            check_resource(&points);
            check_histograms(&points, &peer.to_string());
            // The daemon's own metrics came the same way: the sent points of this exporter.
            let sent: Vec<_> = points
                .iter()
                .filter(|point| point.name == "flowtap.exporter_sent_metric_points")
                .filter(|point| point.attributes.get("exporter") == Some(name))
                .filter_map(Point::number)
                .collect();
            let last = sent
                .last()
                .unwrap_or_else(|| panic!("{name}: no metrics of its own"));
            assert!(
                *last > 0.0 && *last <= points.len() as f64,
                "{name}: {last} of {}",
                points.len()
            );
        }
    });
}

#[test]
fn two_pipelines_into_one_exporter_are_never_one_series_at_the_collector() {
    let Some(_machine) = require::root() else {
        return;
    };
    let (mut text, mut collectors) = (String::new(), Vec::new());
    for protocol in PROTOCOLS {
        let Some(collector) = Otelcol::started() else {
            return;
        };
        let name = format!("otlp/{}", protocol.replace('/', "-"));
        let address = collector.address(protocol);
        let _ = writeln!(
            text,
            "  {name}: {{endpoint: \"http://{address}\", protocol: {protocol}, interval: 200ms}}"
        );
        collectors.push((name, collector));
    }
    let names: Vec<_> = collectors.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    // Both are fed by the same receiver: but for the pipeline, their series are the same.
    let daemon = Daemon::launch(Launch {
        list: &format!("exporters: [debug, {names}]"),
        exporters: &text,
        set: &[
            "receivers.generator={flows: 5, interval: 200ms, seed: 1}",
            "service.pipelines.metrics.receivers=[generator]",
            "processors.window/b={interval: 200ms}",
            &format!(
                "service.pipelines.metrics/b={{receivers: [generator], processors: [direction, policy, window/b], exporters: [{names}]}}"
            ),
        ],
        ..Launch::default()
    });
    let pipelines = ["metrics", "metrics/b"];
    for (name, collector) in &collectors {
        ask_until(&format!("{name} has ten windows of each"), || {
            let points = collector.points();
            let of = |pipeline: &str| {
                let of = points.iter().filter(|point| {
                    point
                        .attributes
                        .get("pipeline")
                        .is_some_and(|found| found == pipeline)
                });
                of.map(|point| point.at).collect::<BTreeSet<_>>().len()
            };
            pipelines.iter().all(|pipeline| of(pipeline) >= 10).then_some(())
        });
    }
    let (status, end) = daemon.stop();
    assert!(status.success(), "{status} {}", end.log);
    for (name, collector) in &collectors {
        let points = collector.points();
        assert_eq!(faults(&points), Vec::<String>::new(), "{name}");
        let found: BTreeSet<_> = points
            .iter()
            .map(|point| point.attributes.get("pipeline").map(String::as_str))
            .collect();
        assert_eq!(found, pipelines.map(Some).into(), "{name}");
    }
}

#[test]
fn the_collector_takes_exponential_histograms_whose_buckets_hold_what_applications_sent() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let (mut text, mut collectors) = (String::new(), Vec::new());
        for protocol in PROTOCOLS {
            for temporality in ["cumulative", "delta"] {
                let Some(collector) = Otelcol::started() else {
                    return;
                };
                let name = format!("otlp/{}-{temporality}", protocol.replace('/', "-"));
                let address = collector.address(protocol);
                let _ = writeln!(
                    text,
                    "  {name}: {{endpoint: \"http://{address}\", protocol: {protocol}, interval: 200ms, temporality: {temporality}}}"
                );
                collectors.push((name, temporality == "delta", collector));
            }
        }
        let names: Vec<_> = collectors.iter().map(|(name, ..)| name.as_str()).collect();
        let [own, chain] = own_flows();
        let daemon = Daemon::launch(Launch {
            list: &format!("exporters: [debug, {}]", names.join(", ")),
            exporters: &text,
            set: &[&own, &chain, native_histograms::FAMILY],
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        native_histograms::send(&listener).unwrap();
        let sizes = native_histograms::SIZES;
        for (name, is_delta, collector) in &collectors {
            let sent = || {
                let points = collector.points();
                points
                    .iter()
                    .filter(|point| point.name == "primus_lens_network_tcp_connection_bytes")
                    .filter(|point| {
                        point.attributes["server_port"] == port && point.attributes["flow"] == "egress"
                    })
                    .filter(|point| point.attributes["direction"] == "outbound" && point.count() > 0)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let points = ask_until(&format!("{name} has every connection"), || {
                let points = sent();
                let mut counts = points.iter().map(Point::count);
                let count = if *is_delta {
                    counts.sum()
                } else {
                    counts.next_back()?
                };
                (count == sizes.len() as u64).then_some(points)
            });
            let taken = if *is_delta {
                &points[..]
            } else {
                &points[points.len() - 1..]
            };
            let mut sum = 0.0;
            let mut seen = [0; 2];
            for point in taken {
                assert_eq!(point.kind, "exponentialHistogram");
                sum += point.body["sum"].as_f64().unwrap();
                let scale = point.body["scale"].as_i64().unwrap_or_default() as f64;
                let positive = &point.body["positive"];
                let offset = positive["offset"].as_i64().unwrap_or_default();
                let counts: Vec<_> = positive["bucketCounts"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(whole)
                    .collect();
                assert_eq!(counts.iter().sum::<u64>(), point.count(), "{point:?}");
                for (index, count) in (offset..).zip(counts) {
                    // OpenTelemetry, "ExponentialHistogram": (base^index, base^(index+1)], base = 2^(2^-scale).
                    let bound = |index: i64| (index as f64 * (-scale).exp2()).exp2();
                    let within = |size: f64| bound(index) < size && size <= bound(index + 1);
                    for (size, seen) in [1_000.0, 500_000.0].into_iter().zip(&mut seen) {
                        *seen += if within(size) { count } else { 0 };
                    }
                }
            }
            let of = |size| sizes.iter().filter(|sent| **sent == size).count() as u64;
            assert_eq!(seen, [of(1_000), of(500_000)], "{name}");
            let total = sizes.iter().sum::<usize>() as f64;
            assert!((sum - total).abs() < 0.5, "{name}: {sum}");
        }
        let (status, end) = daemon.stop();
        assert!(status.success(), "{status} {}", end.log);
    });
}

/// Everything is of one resource, that of this node.
fn check_resource(points: &[Point]) {
    let resources: BTreeSet<_> = points.iter().map(|point| &point.resource).collect();
    assert_eq!(resources.len(), 1, "{resources:?}");
    let resource = &points[0].resource;
    assert_eq!(resource["service.name"], "flowtap");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(resource["service.instance.id"].len(), 36);
    assert_eq!(resource["k8s.node.name"], "node 1");
    assert_eq!(resource["os.type"], "linux");
    assert!(resource.contains_key("host.name") && resource.contains_key("host.arch"));
    assert_eq!(resource["deployment.environment"], "té\0st");
}

/// Round-trip times to `peer` have a zero, values whose sum is one of theirs, and an end with all of their buckets.
fn check_histograms(points: &[Point], peer: &str) {
    let rtt: Vec<_> = points
        .iter()
        .filter(|point| point.name == "primus_lens_network_tcp_flow_rtt")
        .filter(|point| point.attributes.get("raddr").is_some_and(|raddr| raddr == peer))
        .collect();
    let bounds = &rtt[0].body["explicitBounds"];
    assert_eq!(bounds.as_array().map(Vec::len), Some(16), "{:?}", rtt[0]);
    for point in &rtt {
        assert_eq!(&point.body["explicitBounds"], bounds, "{point:?}");
        assert_eq!(point.buckets().len(), 17, "{point:?}");
        let sum = point.body["sum"].as_f64().expect("a sum");
        assert_eq!(sum > 0.0, point.count() > 0, "{point:?}");
    }
    let first: BTreeMap<_, _> = rtt.iter().rev().map(|point| (&point.attributes, point)).collect();
    for point in first.values() {
        assert_eq!(
            (point.count(), point.at),
            (0, point.start + 2_000_000),
            "{point:?}"
        );
    }
    let last: BTreeMap<_, _> = rtt.iter().map(|point| (&point.attributes, point)).collect();
    assert!(last.values().all(|point| point.is_end()), "{last:?}");
}

/// An exporter of the table below, with a separate Collector.
struct Case {
    name: String,
    collector: Otelcol,
}

/// An exporter for each protocol, from memory and from disk below `dir`, with `keys` in addition.
fn cases(dir: &std::path::Path, host: Option<Ipv4Addr>, keys: &str) -> Option<(Vec<Case>, String)> {
    let (mut cases, mut text) = (Vec::new(), String::new());
    for protocol in PROTOCOLS {
        for way in ["memory", "disk"] {
            let mut collector = Otelcol::absent()?;
            if let Some(host) = host {
                collector.grpc.set_ip(host.into());
                collector.http.set_ip(host.into());
            }
            let name = format!("otlp/{}-{way}", protocol.replace('/', "-"));
            let storage = match way {
                "disk" => format!(
                    ", storage: {{directory: {}}}",
                    dir.join(name.replace('/', "-")).display()
                ),
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "  {name}: {{endpoint: \"http://{}\", protocol: {protocol}, interval: 200ms, sending_queue: {{size: 1000}}, \
                 retry: {{initial_interval: 50ms, max_interval: 200ms}}, {keys}{storage}}}",
                collector.address(protocol)
            );
            cases.push(Case { name, collector });
        }
    }
    Some((cases, text))
}

fn launch(cases: &[Case], exporters: &str) -> Daemon {
    let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    let [own, chain] = own_flows();
    Daemon::launch(Launch {
        list: &format!("exporters: [debug, prometheus, {}]", names.join(", ")),
        exporters,
        set: &[&own, &chain],
        ..Launch::default()
    })
}

/// Stops `daemon`, which delivers what it has, and checks that the Collectors have what was `sent` to `port` and that nothing was
/// given up. `seen` reads it.
fn all_is_there(daemon: Daemon, cases: &[Case], port: u16, sent: Counted, seen: fn(&Otelcol) -> Exposition) {
    for case in cases {
        ask_until(&format!("{} has {sent:?}", case.name), || {
            (Counted::of_port(&seen(&case.collector), port) == sent).then_some(())
        });
    }
    // An attempt that is under way may take long on a busy machine; more than what the newest window makes is not to wait at the end.
    let own = daemon.telemetry_until("short queues", |own| {
        cases.iter().all(|case| {
            let exporter = [("exporter", case.name.as_str())];
            let waiting = own.sum("flowtap_exporter_queue_size", &exporter)
                + own.sum("flowtap_exporter_storage_requests", &exporter);
            waiting <= 2
        })
    });
    let (status, end) = daemon.stop();
    assert!(status.success(), "{status} {}", end.log);
    for case in cases {
        assert_eq!(failed(&own, &case.name), 0, "{}: {}", case.name, end.log);
        // Nothing came twice, or later and wrong.
        assert_eq!(
            Counted::of_port(&seen(&case.collector), port),
            sent,
            "{}",
            case.name
        );
    }
}

/// Differences: each is in one request only, so that one that is lost is missing, and one that is taken twice is too much.
#[test]
fn requests_in_flight_when_the_collector_is_killed_arrive_once_it_is_back() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut cases, text)) = cases(dir.path(), None, "temporality: delta, timeout: 10s") else {
            return;
        };
        // Requests reach it, and have no answer.
        let hangs = Behaviour {
            lines: "delay: 1h",
            ..Behaviour::default()
        };
        for case in &mut cases {
            case.collector.start(hangs);
        }
        let daemon = launch(&cases, &text);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sent = exchange(&listener, 50, 21).unwrap();
        for case in &mut cases {
            let collector = &case.collector;
            ask_until("a request in flight", || (collector.arrived() > 0).then_some(()));
            case.collector.end(Signal::SIGKILL);
            assert!(case.collector.requests().is_empty());
        }
        // While nobody listens: connections are refused.
        sent += exchange(&listener, 50, 22).unwrap();
        daemon.telemetry_until("attempts that were refused", |own| {
            cases.iter().all(|case| {
                let exporter = [("exporter", case.name.as_str())];
                own.sum("flowtap_exporter_retried_requests_total", &exporter) > 1
            })
        });
        for case in &mut cases {
            case.collector.start(Behaviour::default());
        }
        sent += exchange(&listener, 50, 23).unwrap();
        all_is_there(daemon, &cases, port, sent, Otelcol::sums);
    });
}

#[test]
fn a_collector_that_is_stopped_started_and_closes_its_connections_gets_everything_once() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut cases, text)) = cases(dir.path(), None, "temporality: delta") else {
            return;
        };
        // gRPC says GOAWAY every half second, HTTP closes what was silent for as long as a window: a request may meet either.
        let fickle = Behaviour {
            grpc: "keepalive: {server_parameters: {max_connection_age: 500ms, max_connection_age_grace: 5s}}",
            http: "idle_timeout: 200ms",
            lines: "",
        };
        for case in &mut cases {
            case.collector.start(fickle);
        }
        let daemon = launch(&cases, &text);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sent = Counted::default();
        for round in 0..4 {
            for part in 0..10 {
                sent += exchange(&listener, 10, 100 * round + part).unwrap();
            }
            if round == 3 {
                break;
            }
            // It answers what it has, and goes.
            for case in &mut cases {
                case.collector.end(Signal::SIGTERM);
            }
            sent += exchange(&listener, 10, 100 * round + 50).unwrap();
            for case in &mut cases {
                case.collector.start(fickle);
            }
        }
        all_is_there(daemon, &cases, port, sent, Otelcol::sums);
    });
}

#[test]
fn a_collector_that_is_full_is_asked_again_and_what_it_refuses_for_good_counts_as_failed() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut cases, text)) = cases(dir.path(), None, "temporality: cumulative") else {
            return;
        };
        // UNAVAILABLE and 503; then INVALID_ARGUMENT and 400.
        let refuses = Behaviour {
            lines: "unavailable: 3, invalid: 2",
            ..Behaviour::default()
        };
        for case in &mut cases {
            case.collector.start(refuses);
        }
        let daemon = launch(&cases, &text);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = exchange(&listener, 50, 31).unwrap();
        for case in &cases {
            ask_until(&format!("{} has {sent:?}", case.name), || {
                (Counted::of_port(&case.collector.newest(), port) == sent).then_some(())
            });
        }
        let own = daemon.telemetry();
        for case in &cases {
            let exporter = [("exporter", case.name.as_str())];
            let retried = own.sum("flowtap_exporter_retried_requests_total", &exporter);
            assert_eq!(retried, 3, "{}", case.name);
            // As many points as the Collector says that those two requests had.
            let log = read(&case.collector.dir.path().join("log"));
            let arrived: Vec<u64> = log
                .lines()
                .filter(|line| line.contains("request arrived"))
                .map(|line| {
                    serde_json::from_str::<Value>(line).unwrap()["points"]
                        .as_u64()
                        .unwrap()
                })
                .collect();
            // The first is the same request four times.
            assert!(
                arrived[..4].iter().all(|points| points == &arrived[0]),
                "{arrived:?}"
            );
            let refused = arrived[3] + arrived[4];
            let failed = own.sum("flowtap_exporter_send_failed_metric_points_total", &exporter);
            assert_eq!(failed, refused, "{}: {arrived:?}", case.name);
        }
    });
}

#[test]
fn a_collector_that_answers_late_or_is_out_of_reach_gets_the_totals() {
    let Some(_machine) = require::root() else {
        return;
    };
    within_new(|| {
        let dir = tempfile::tempdir().unwrap();
        let host = Ipv4Addr::new(127, 9, 9, 9);
        let Some((mut cases, text)) = cases(dir.path(), Some(host), "timeout: 2s") else {
            return;
        };
        // Each attempt is taken, and its answer comes too late.
        let slow = Behaviour {
            lines: "delay: 3s",
            ..Behaviour::default()
        };
        for case in &mut cases {
            case.collector.start(slow);
        }
        let daemon = launch(&cases, &text);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sent = exchange(&listener, 50, 41).unwrap();
        let retried = |more: u64| {
            let before = daemon.telemetry();
            let count = |own: &Exposition, case: &Case| {
                let exporter = [("exporter", case.name.as_str())];
                own.sum("flowtap_exporter_retried_requests_total", &exporter)
            };
            daemon.telemetry_until("retries", |own| {
                cases
                    .iter()
                    .all(|case| count(own, case) >= count(&before, case) + more)
            });
        };
        retried(2);
        // Then packets to it are lost, of connections that there are and of new ones; and the Collector is replaced meanwhile.
        let rules = dir.path().join("rules");
        let text = format!(
            "table inet dead {{\nchain in {{\ntype filter hook input priority 0;\nip daddr {host} drop\n}}\n}}\n"
        );
        fs::write(&rules, text).unwrap();
        nft(&["-f", &rules.display().to_string()]);
        sent += exchange(&listener, 50, 42).unwrap();
        retried(2);
        for case in &mut cases {
            case.collector.end(Signal::SIGKILL);
        }
        nft(&["delete", "table", "inet", "dead"]);
        for case in &mut cases {
            case.collector.start(Behaviour::default());
        }
        all_is_there(daemon, &cases, port, sent, Otelcol::newest);
    });
}

fn nft(arguments: &[&str]) {
    let status = Command::new("nft").args(arguments).status().unwrap();
    assert!(status.success(), "nft {arguments:?}: {status}");
}
