//! Which node series are of, and that increases are what was sent: by stores that nobody here wrote.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, free_address, get, read};
use crate::exposition::Exposition;
use crate::peers::ask_until;
use crate::require;
use crate::stores::Store;
use crate::traffic::to_peers;

/// A flowtap with a different host name.
struct Node {
    child: Child,
    telemetry: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Starts one on the host `name` that makes synthetic flows, the same on each, and exports them with `exporter`.
    fn start(name: &str, exporter: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (config, telemetry) = (dir.path().join("flowtap.yaml"), free_address());
        let (id, _) = exporter.split_once(':').unwrap();
        let text = format!(
            "receivers: {{generator: {{flows: 4, interval: 1s, seed: 1, sent_bytes: 1000}}}}\n\
             processors: {{window: {{interval: 1s}}}}\n\
             exporters:\n  {exporter}\n\
             service:\n  admin: {{endpoint: null}}\n  kubernetes: {{enabled: false}}\n  \
             telemetry: {{metrics: {{endpoint: \"{telemetry}\"}}}}\n  pipelines: {{metrics: {{receivers: [generator], \
             processors: [direction, policy, window], exporters: [{id}]}}}}\n"
        );
        fs::write(&config, text).unwrap();
        let script = "echo \"$2\" >/proc/sys/kernel/hostname && exec \"$0\" run --config \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", script, env!("CARGO_BIN_EXE_flowtap")]);
        command.arg(&config).arg(name);
        for (variable, _) in std::env::vars_os() {
            let variable = variable.to_string_lossy();
            if variable.starts_with("FLOWTAP_") || variable.starts_with("OTEL_") || variable == "NODE_NAME" {
                command.env_remove(&*variable);
            }
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            telemetry,
            _dir: dir,
        }
    }

    fn sent_and_failed(&self) -> Option<(u64, u64)> {
        std::net::TcpStream::connect(self.telemetry).ok()?;
        let seen = Exposition::parse(&get(self.telemetry, "/metrics"));
        let points = |what: &str| seen.sum(&format!("flowtap_exporter_{what}_metric_points_total"), &[]);
        Some((points("sent"), points("send_failed")))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Starts two nodes that export with `exporter`; waits until `store` has the series of both by `label`, and each node has sent
/// `points` of which none failed.
fn two_nodes(store: &Store, exporter: &str, label: &str) -> Vec<String> {
    let nodes = ["node1", "node2"].map(|name| Node::start(name, exporter));
    for node in &nodes {
        ask_until("five windows of a node", || {
            let (sent, failed) = node.sent_and_failed()?;
            assert_eq!(failed, 0, "points collided");
            (sent > 5 * 44).then_some(())
        });
    }
    // A Prometheus adds the unit to names that come over OTLP.
    let name = "%22primus_lens_network_tcp_flow_.gress(_bytes_total)?%22";
    let by = |labels: &str| format!("count%20by%20({labels})(%7B__name__=~{name}%7D)");
    let instances = ask_until("two instances", || {
        let found = store.labels(&by(label), label);
        (found.len() == 2).then_some(found)
    });
    // No value fell: two writers of one series make it alternate, which counts as resets.
    let resets = format!("sum(resets(%7B__name__=~{name}%7D%5B1m%5D))");
    assert_eq!(store.value(&resets).as_deref(), Some("0"));
    // Increases of each series are what it has counted since it began, and what PromQL adds: at most 1.1 intervals between samples.
    let bytes = "{__name__=~\"primus_lens_network_tcp_(flow_.gress(_bytes_total)?|bytes(_total)?)\"}";
    let of_range = |function: &str| format!("{function}({bytes}[10m])");
    let ratio = format!("{} / (last_over_time({bytes}[10m]) > 0)", of_range("increase"));
    let bound = format!("(1 + 1.1 / ({} - 1))", of_range("count_over_time"));
    let [least, most] = [format!("min({ratio})"), format!("max({ratio} / {bound})")]
        .map(|query| store.number(&query).expect("increases"));
    assert!(
        least >= 0.9999 && most <= 1.0001,
        "{least} to {most} times the bound"
    );
    instances
}

#[test]
fn two_nodes_that_write_to_one_store_are_two_instances_by_their_names() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    for message in ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"] {
        let Some(newest) = require::peer("prometheus") else {
            return;
        };
        let store = if message.contains("v2") {
            Store::prometheus(&newest, "", &["--web.enable-remote-write-receiver"])
        } else {
            Store::receiving()
        };
        let exporter = format!(
            "remote_write: {{endpoint: \"http://{}/api/v1/write\", interval: 1s, protobuf_message: {message}}}",
            store.address()
        );
        assert_eq!(two_nodes(&store, &exporter, "instance"), ["node1", "node2"]);
        let job = "count%20by%20(job)(primus_lens_network_tcp_bytes)";
        assert_eq!(store.labels(job, "job"), ["flowtap"]);
    }
    let Some(program) = require::peer("victoria-metrics") else {
        return;
    };
    let store = Store::victoria_metrics(&program);
    let exporter = format!(
        "remote_write: {{endpoint: \"http://{}/api/v1/write\", interval: 1s}}",
        store.address()
    );
    assert_eq!(two_nodes(&store, &exporter, "instance"), ["node1", "node2"]);
}

#[test]
fn two_nodes_that_push_otlp_to_one_store_are_two_instances() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(program) = require::peer("victoria-metrics") else {
        return;
    };
    // The attribute that a store uses as the instance; the other attributes would distinguish the
    // nodes as well.
    let store = Store::victoria_metrics_with(
        &program,
        &[
            "-opentelemetry.promoteAllResourceAttributes=false",
            "-opentelemetry.promoteResourceAttributes=service.instance.id",
        ],
    );
    let exporter = format!(
        "otlp: {{endpoint: \"http://{}/opentelemetry\", protocol: http/protobuf, interval: 1s}}",
        store.address()
    );
    are_uuids(&two_nodes(&store, &exporter, "service.instance.id"));

    let Some(program) = require::otlp_prometheus() else {
        return;
    };
    for (protocol, strategy, names, host) in [
        (
            "http/protobuf",
            "UnderscoreEscapingWithSuffixes",
            ["bytes_total", "flow_egress_bytes_total"],
            "host_name",
        ),
        (
            "http/json",
            "NoTranslation",
            ["bytes", "flow_egress"],
            "host.name",
        ),
    ] {
        let store = Store::receiving_otlp(&program, strategy);
        let exporter = format!(
            "otlp: {{endpoint: \"http://{}/api/v1/otlp\", protocol: {protocol}, interval: 1s}}",
            store.address()
        );
        let instances = two_nodes(&store, &exporter, "instance");
        are_uuids(&instances);
        for name in names {
            let by_job = store.labels(
                &format!("count%20by%20(job)(primus_lens_network_tcp_{name})"),
                "job",
            );
            assert_eq!(by_job, ["flowtap"], "{name}");
        }
        // The other attributes of the resource.
        let hosts = store.labels("target_info", host);
        assert_eq!(hosts, ["node1", "node2"]);
        assert_eq!(store.labels("target_info", "instance"), instances);
        assert_eq!(store.refused(), 0, "{protocol}");
    }
}

fn are_uuids(instances: &[String]) {
    for instance in instances {
        assert_eq!(instance.len(), 36, "{instance} is no UUID");
        assert_eq!(instance.as_bytes()[14], b'5', "{instance} is of another version");
    }
}

/// Bytes that go to each peer.
const BYTES: usize = 1000;

/// Peers that are talked to once.
const PEERS: u8 = 100;

#[test]
fn the_increase_over_short_lived_peers_that_remote_write_brings_is_what_was_sent() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(newest) = require::peer("prometheus") else {
        return;
    };
    let message = "protobuf_message: io.prometheus.write.v2.Request";
    for (native, more) in [
        ("", "max_samples_per_send: 50"),
        ("", message),
        (
            "--enable-feature=native-histograms",
            "protobuf_message: io.prometheus.write.v2.Request, send_native_histograms: true",
        ),
    ] {
        let mut arguments = vec!["--web.enable-remote-write-receiver"];
        arguments.extend(Some(native).filter(|native| !native.is_empty()));
        let store = Store::prometheus(&newest, "", &arguments);
        let exporter = format!(
            "  remote_write: {{endpoint: \"http://{}/api/v1/write\", interval: 200ms, {more}}}\n",
            store.address()
        );
        let daemon = Daemon::launch(Launch {
            list: "exporters: [prometheus, remote_write]",
            exporters: &exporter,
            set: &["processors.window.rtt_include_local_peers=true"],
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = to_peers(&listener, PEERS, BYTES).unwrap();
        assert_eq!(sent, u64::from(PEERS) * BYTES as u64);
        let family = "primus_lens_network_tcp_flow_egress";
        let series = format!("{family}%7Brport=%22{port}%22,direction=%22outbound%22%7D");
        let total = format!("sum({series})");
        ask_until("the store has all bytes", || {
            (store.value(&total)? == sent.to_string()).then_some(())
        });
        let increase = format!("sum(increase({series}%5B5m%5D))");
        let seen: f64 = store.value(&increase).unwrap().parse().unwrap();
        // PromQL extrapolates each series to the ends of the range, by an interval between its samples at most.
        let ratio = seen / sent as f64;
        assert!((1.0..1.6).contains(&ratio), "{more}: {seen} of {sent}");
        // Out of order, or twice at one time, would have been refused.
        let failed = "flowtap_exporter_send_failed_metric_points_total";
        assert_eq!(daemon.telemetry().sum(failed, &[("exporter", "remote_write")]), 0);
    }
}

#[test]
fn the_increase_over_short_lived_peers_that_otlp_brings_is_what_was_sent() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(program) = require::peer("victoria-metrics") else {
        return;
    };
    // By the samples that there are and no more, as a Prometheus counts: VictoriaMetrics's own increase() also counts a first value.
    let store = Store::victoria_metrics(&program);
    let (sent, seen) = increase_over_otlp(
        &store,
        "opentelemetry",
        "increase_prometheus",
        "primus_lens_network_tcp_flow_egress",
    );
    assert!((seen - sent).abs() < 0.5, "{seen} of {sent}");

    let Some(program) = require::otlp_prometheus() else {
        return;
    };
    let store = Store::receiving_otlp(&program, "UnderscoreEscapingWithSuffixes");
    let family = "primus_lens_network_tcp_flow_egress_bytes_total";
    let (sent, seen) = increase_over_otlp(&store, "api/v1/otlp", "increase", family);
    // PromQL extrapolates each series to the ends of the range, by an interval between its samples at most.
    let ratio = seen / sent;
    assert!((1.0..1.6).contains(&ratio), "{seen} of {sent}");
    assert_eq!(store.refused(), 0);
}

/// Bytes that short-lived peers are sent, and their `increase` in a store that gets them over OTLP at `path`.
fn increase_over_otlp(store: &Store, path: &str, increase: &str, family: &str) -> (f64, f64) {
    let exporter = format!(
        "  otlp: {{endpoint: \"http://{}/{path}\", protocol: http/protobuf, interval: 200ms, max_points_per_request: 50}}\n",
        store.address()
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, otlp]",
        exporters: &exporter,
        set: &["processors.window.rtt_include_local_peers=true"],
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = to_peers(&listener, PEERS, BYTES).unwrap() as f64;
    let series = format!("{family}{{rport=\"{port}\",direction=\"outbound\"}}");
    ask_until("the store has all bytes", || {
        let total = store.number(&format!("sum(last_over_time({series}[5m]))"))?;
        (total >= sent).then_some(())
    });
    let failed = "flowtap_exporter_send_failed_metric_points_total";
    assert_eq!(daemon.telemetry().sum(failed, &[("exporter", "otlp")]), 0);
    let seen = store.number(&format!("sum({increase}({series}[5m]))"));
    (sent, seen.expect("an increase"))
}

/// Bytes that go to each peer where the whole machine is looked at: so many that what others send meanwhile is little.
const MANY_BYTES: usize = 1_000_000;

/// Queries of bytes per second that go out to servers, over five minutes, as the dashboard `name` of `deploy/grafana` and the rules of
/// that name in `deploy/prometheus` have them.
fn shipped_queries(name: &str) -> [String; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dashboard = read(&root.join(format!("deploy/grafana/{name}.json")));
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&dashboard, &mut expressions);
    let of_nodes = expressions
        .iter()
        .find(|text| {
            text.starts_with("sum by (cluster, instance, ")
                && text.contains("direction) (rate(")
                && text.contains("egress")
        })
        .expect("the panel of nodes");
    let of_dashboard = of_nodes
        .replace("$__rate_interval", "5m")
        .replace("$cluster", ".*")
        .replace("$node", ".*")
        .replace("$type", ".*");
    assert!(!of_dashboard.contains('$'), "{of_dashboard}");
    let rules = read(&root.join(format!("deploy/prometheus/{name}.rules.yaml")));
    let (_, rule) = rules
        .split_once("record: instance:flowtap_egress_bytes:rate5m")
        .unwrap();
    let (_, rule) = rule.split_once("expr: ").unwrap();
    [of_dashboard, rule.lines().next().unwrap().to_owned()]
}

fn collect_expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            found.extend(
                fields
                    .get("expr")
                    .and_then(|text| text.as_str())
                    .map(str::to_owned),
            );
            fields
                .values()
                .for_each(|value| collect_expressions(value, found));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_expressions(value, found)),
        _ => {}
    }
}

#[test]
fn what_dashboard_and_rules_show_has_the_bytes_of_short_lived_peers_however_they_come() {
    // Alone: every connection of this machine is in what these show.
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let (Some(prometheus), Some(victoria)) = (require::peer("prometheus"), require::peer("victoria-metrics"))
    else {
        return;
    };
    let written = Store::prometheus(&prometheus, "", &["--web.enable-remote-write-receiver"]);
    let stores = [
        (
            Store::victoria_metrics(&victoria),
            "remote_write/victoria",
            "endpoint: \"http://ADDRESS/api/v1/write\"",
        ),
        (
            Store::victoria_metrics(&victoria),
            "otlp",
            "endpoint: \"http://ADDRESS/opentelemetry\", protocol: http/protobuf",
        ),
        (
            written,
            "remote_write/prometheus",
            "endpoint: \"http://ADDRESS/api/v1/write\"",
        ),
    ];
    let (mut text, mut names) = (String::new(), Vec::new());
    for (store, name, keys) in &stores {
        let keys = keys.replace("ADDRESS", &store.address().to_string());
        let _ = writeln!(text, "  {name}: {{{keys}, interval: 200ms}}");
        names.push(*name);
    }
    let daemon = Daemon::launch(Launch {
        list: &format!("exporters: [prometheus, {}]", names.join(", ")),
        exporters: &text,
        ..Launch::default()
    });
    let scraping = Store::scraping(&prometheus, daemon.scrape_address(), "");
    let total = "sum(primus_lens_network_tcp_bytes{flow=\"egress\",direction=\"outbound\"})";
    let stores: Vec<_> = stores
        .into_iter()
        .map(|(store, name, _)| (store, name))
        .chain([(scraping, "a scrape")])
        .collect();
    let before: Vec<_> = stores
        .iter()
        .map(|(store, name)| ask_until(&format!("a total by {name}"), || store.number(total)))
        .collect();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let sent = to_peers(&listener, PEERS, MANY_BYTES).unwrap() as f64;
    for ((store, name), before) in stores.iter().zip(before) {
        ask_until(&format!("all bytes by {name}"), || {
            (store.number(total)? >= before + sent).then_some(())
        });
        check_shipped_queries(store, name, "flowtap", ("direction", "outbound"), sent);
    }
}

/// Asserts that the shipped queries of that name show the bytes that were sent to clients' peers: those whose label is `sent_label`.
fn check_shipped_queries(store: &Store, context: &str, name: &str, (label, value): (&str, &str), sent: f64) {
    for query in shipped_queries(name) {
        // VictoriaMetrics takes a rate over the samples that there are, not over the five minutes.
        let query = query.replace("rate(", "increase(");
        let outbound = format!("label_replace(vector(1), \"{label}\", \"{value}\", \"\", \"\")");
        let query = format!("sum({query} and on ({label}) {outbound})");
        let seen = store.number(&query).unwrap_or(0.0);
        assert!(
            (0.99 * sent..2.0 * sent).contains(&seen),
            "{context}, {name}: {seen} of {sent} by {query}"
        );
    }
}

#[test]
fn the_dashboards_and_rules_of_the_other_names_have_the_bytes_of_short_lived_peers() {
    // Alone: every connection of this machine is in what these show.
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let (Some(prometheus), Some(victoria)) = (require::peer("prometheus"), require::peer("victoria-metrics"))
    else {
        return;
    };
    // The names that a store gives to points of OTLP, and those of `naming: otel`.
    let pushed = Store::victoria_metrics_with(&victoria, &["-opentelemetry.usePrometheusNaming"]);
    let written = Store::prometheus(&prometheus, "", &["--web.enable-remote-write-receiver"]);
    let exporters = format!(
        "  otlp: {{endpoint: \"http://{}/opentelemetry\", protocol: http/protobuf, interval: 200ms}}\n  \
         remote_write: {{endpoint: \"http://{}/api/v1/write\", interval: 200ms}}\n",
        pushed.address(),
        written.address()
    );
    for (name, naming, total, sent_label) in [
        (
            "flowtap-otlp",
            "primus_lens",
            "primus_lens_network_tcp_bytes_total{flow=\"egress\",direction=\"outbound\"}",
            ("direction", "outbound"),
        ),
        (
            "flowtap-otel",
            "otel",
            "flowtap_node_tcp_io_bytes_total{flowtap_role=\"egress\",network_io_direction=\"transmit\"}",
            ("network_io_direction", "transmit"),
        ),
    ] {
        let list = if naming == "otel" {
            "exporters: [prometheus, remote_write]"
        } else {
            "exporters: [prometheus, otlp]"
        };
        let daemon = Daemon::launch(Launch {
            list,
            exporters: &exporters,
            set: &[&format!("processors.window.naming={naming}")],
            ..Launch::default()
        });
        let scraped = (naming == "otel").then(|| Store::scraping(&prometheus, daemon.scrape_address(), ""));
        let first = if naming == "otel" { &written } else { &pushed };
        let stores = [(first, "a push")].into_iter();
        let stores: Vec<_> = stores
            .chain(scraped.as_ref().map(|store| (store, "a scrape")))
            .collect();
        let total = format!("sum({total})");
        let before: Vec<_> = stores
            .iter()
            .map(|(store, way)| ask_until(&format!("a total of {name} by {way}"), || store.number(&total)))
            .collect();
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let sent = to_peers(&listener, PEERS, MANY_BYTES).unwrap() as f64;
        for ((store, way), before) in stores.iter().zip(before) {
            ask_until(&format!("all bytes of {name} by {way}"), || {
                (store.number(&total)? >= before + sent).then_some(())
            });
            check_shipped_queries(store, way, name, sent_label, sent);
        }
    }
}

#[test]
fn the_dashboards_total_that_a_prometheus_scrapes_has_the_bytes_of_short_lived_peers() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    for (naming, total) in [
        ("primus_lens", "primus_lens_network_tcp_bytes"),
        ("otel", "flowtap_node_tcp_io_bytes_total"),
    ] {
        let daemon = Daemon::start(&[&format!("processors.window.naming={naming}")]);
        let store = Store::scraping(Path::new("prometheus"), daemon.scrape_address(), "");
        let labels = match naming {
            "otel" => "flowtap_role=%22egress%22,network_io_direction=%22transmit%22",
            _ => "flow=%22egress%22,direction=%22outbound%22",
        };
        // The class of 127.7.0.1.
        let class = if naming == "otel" {
            "flowtap_peer_class"
        } else {
            "type"
        };
        let series = format!("{total}%7B{labels},{class}=%22localhost%22%7D");
        // The series exists before the test's first byte.
        let shown = || -> Option<f64> { store.value(&format!("sum({series})"))?.parse().ok() };
        let before = ask_until("the total without traffic", shown);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let sent = to_peers(&listener, PEERS, BYTES).unwrap() as f64;
        ask_until("the store has all bytes", || {
            (shown()? >= before + sent).then_some(())
        });
        let value = |query: String| -> f64 { store.value(&query).unwrap().parse().unwrap() };
        let seen = value(format!("sum(increase({series}%5B5m%5D))"));
        assert!(seen >= 0.99 * sent, "{naming}: {seen} of {sent}");
        // By peer the same bytes are not to be seen: each series begins with its whole value.
        if naming == "primus_lens" {
            let port = listener.local_addr().unwrap().port();
            let by_peer = format!(
                "sum(increase(primus_lens_network_tcp_flow_egress%7Brport=%22{port}%22,direction=%22outbound%22%7D%5B5m%5D))"
            );
            assert!(store.value(&by_peer).map_or(0.0, |value| value.parse().unwrap()) < 0.01 * sent);
        }
    }
}

#[test]
fn losses_arrive_where_flows_do_with_no_scrape_at_all() {
    let Some(_machine) = require::root() else {
        return;
    };
    let (Some(prometheus), Some(victoria)) = (require::peer("prometheus"), require::peer("victoria-metrics"))
    else {
        return;
    };
    let stores = [
        Store::prometheus(&prometheus, "", &["--web.enable-remote-write-receiver"]),
        Store::victoria_metrics_with(&victoria, &["-opentelemetry.usePrometheusNaming"]),
    ];
    let [writes, pushes] = &stores;
    let exporters = [
        format!(
            "remote_write: {{endpoint: \"http://{}/api/v1/write\", interval: 1s}}",
            writes.address()
        ),
        format!(
            "otlp: {{endpoint: \"http://{}/opentelemetry\", protocol: http/protobuf, interval: 1s}}",
            pushes.address()
        ),
    ];
    for (store, exporter) in stores.iter().zip(&exporters) {
        let (id, _) = exporter.split_once(':').unwrap();
        let daemon = Daemon::launch(Launch {
            list: &format!("exporters: [{id}]"),
            exporters: &format!("  {exporter}\n"),
            set: &[
                &format!("service.telemetry.metrics.exporters=[{id}]"),
                "service.telemetry.metrics.interval=500ms",
                "service.telemetry.resource={service.name: edge}",
                // Each record that has a class is left out, and counted.
                "processors.window.max_series=1",
            ],
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        to_peers(&listener, 10, BYTES).unwrap();
        let family = "family=%22network_tcp_flow_egress%22";
        let folded = format!("sum(flowtap_processor_folded_records_total%7B{family}%7D)");
        let ratio = "count(flowtap_process_uptime_seconds_total)";
        ask_until("the loss in the store", || {
            let value: f64 = store.value(&folded)?.parse().ok()?;
            (value > 0.0 && store.value(ratio)? == "1").then_some(())
        });
        let jobs = "count%20by%20(job)(flowtap_processor_folded_records_total)";
        if id == "remote_write" {
            assert_eq!(store.labels(jobs, "job"), ["edge"]);
        }
        let deadline = std::time::Instant::now() + WAIT_TIMEOUT;
        let (status, _) = daemon.stop_quietly();
        assert!(status.success(), "{status}");
        assert!(std::time::Instant::now() < deadline);
    }
}
