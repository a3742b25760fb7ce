//! Stores that nobody here wrote: Debian's Prometheus, a newer one, and `VictoriaMetrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, free_address, get};
use crate::exposition::Exposition;
use crate::peers::{Peer, ask_until};
use crate::require;
use crate::traffic::{Counted, exchange};

/// A store that answers `PromQL`.
pub(crate) struct Store {
    _peer: Peer,
    _dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Store {
    /// A Prometheus that scrapes `target`, with whatever `more` says of the job.
    pub(crate) fn scraping(program: &Path, target: SocketAddr, more: &str) -> Self {
        let job = format!(
            "scrape_configs:\n- job_name: flowtap\n  scrape_interval: 1s\n  static_configs: [{{targets: ['{target}']}}]\n{more}"
        );
        Self::prometheus(program, &job, &[])
    }

    /// A Prometheus that scrapes nobody and takes what is written to it.
    pub(crate) fn receiving() -> Self {
        Self::prometheus(
            Path::new("prometheus"),
            "",
            &["--web.enable-remote-write-receiver"],
        )
    }

    /// A Prometheus that scrapes nobody and takes what is pushed to it over OTLP, named by `strategy`.
    pub(crate) fn receiving_otlp(program: &Path, strategy: &str) -> Self {
        let text = format!("otlp: {{translation_strategy: {strategy}}}\n");
        Self::prometheus(program, &text, &["--web.enable-otlp-receiver"])
    }

    /// Samples and OTLP requests that this Prometheus refused.
    pub(crate) fn refused(&self) -> u64 {
        let own = Exposition::parse(&get(self.address, "/metrics"));
        let samples = ["out_of_order", "out_of_bound", "too_old"]
            .map(|reason| own.sum(&format!("prometheus_tsdb_{reason}_samples_total"), &[]));
        let handler = ("handler", "/api/v1/otlp/v1/metrics");
        let requests =
            ["400", "500"].map(|code| own.sum("prometheus_http_requests_total", &[("code", code), handler]));
        samples.iter().chain(&requests).sum()
    }

    pub(crate) fn prometheus(program: &Path, text: &str, arguments: &[&str]) -> Self {
        Self::prometheus_at(free_address(), program, text, arguments)
    }

    /// A Prometheus that listens at `address`.
    pub(crate) fn prometheus_at(address: SocketAddr, program: &Path, text: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, text).unwrap();
        let data = dir.path().join("data");
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .args(arguments);
        Self::start(command, dir, address)
    }

    pub(crate) fn victoria_metrics(program: &Path) -> Self {
        Self::victoria_metrics_with(program, &[])
    }

    pub(crate) fn victoria_metrics_with(program: &Path, arguments: &[&str]) -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        let mut command = Command::new(program);
        command
            .arg(format!("-storageDataPath={}", dir.path().display()))
            .arg(format!("-httpListenAddr={address}"))
            // By default the newest half minute is not shown.
            .args(["-search.latencyOffset=0s", "-search.disableCache"])
            .args(arguments);
        Self::start(command, dir, address)
    }

    fn start(mut command: Command, dir: tempfile::TempDir, address: SocketAddr) -> Self {
        let peer = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let store = Self {
            _peer: Peer(peer),
            _dir: dir,
            address,
        };
        ask_until("the store answers", || answers(address));
        store
    }

    fn sum(&self, family: &str, label: &str, port: u16, direction: &str) -> u64 {
        let query = format!("sum({family}%7B{label}=%22{port}%22,direction=%22{direction}%22%7D)");
        self.value(&query).map_or(0, |value| value.parse().unwrap())
    }

    /// The value of the first series of an answer.
    pub(crate) fn value(&self, query: &str) -> Option<String> {
        let path = format!("/api/v1/query?query={query}");
        let answer: serde_json::Value = serde_json::from_str(&get(self.address, &path)).unwrap();
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        Some(value.to_owned())
    }

    /// The value of the first series of an answer to the `PromQL` expression `query`.
    pub(crate) fn number(&self, query: &str) -> Option<f64> {
        self.value(&encoded(query))?.parse().ok()
    }

    /// Labels and values of an answer to the `PromQL` expression `query`.
    pub(crate) fn series(&self, query: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer: serde_json::Value = serde_json::from_str(&get(self.address, &path)).unwrap();
        let found = answer["data"]["result"].as_array().into_iter().flatten();
        let series = found.map(|found| {
            let labels = serde_json::from_value(found["metric"].clone()).unwrap();
            (labels, found["value"][1].as_str().unwrap().parse().unwrap())
        });
        series.collect()
    }

    /// Where it listens.
    /// The samples of each series that the range `query` selects.
    pub(crate) fn samples(&self, query: &str) -> Vec<Vec<f64>> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer: serde_json::Value = serde_json::from_str(&get(self.address, &path)).unwrap();
        let found = answer["data"]["result"].as_array().into_iter().flatten();
        let value = |sample: &serde_json::Value| sample[1].as_str().unwrap().parse().unwrap();
        found
            .map(|series| series["values"].as_array().unwrap().iter().map(value).collect())
            .collect()
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Values of `label` in an answer, sorted.
    pub(crate) fn labels(&self, query: &str, label: &str) -> Vec<String> {
        let path = format!("/api/v1/query?query={}", query.replace('"', "%22"));
        let answer: serde_json::Value = serde_json::from_str(&get(self.address, &path)).unwrap();
        let found = answer["data"]["result"].as_array().into_iter().flatten();
        let values = found.filter_map(|found| found["metric"][label].as_str());
        let mut values: Vec<_> = values.map(str::to_owned).collect();
        values.sort();
        values
    }

    /// Waits until it shows what the application `sent` by `port`.
    fn shows(&self, port: u16, sent: Counted) {
        let egress = "primus_lens_network_tcp_flow_egress";
        let ingress = "primus_lens_network_tcp_flow_ingress";
        let seen = || Counted {
            client_sent: self.sum(egress, "rport", port, "outbound"),
            client_received: self.sum(egress, "rport", port, "inbound"),
            server_sent: self.sum(ingress, "lport", port, "outbound"),
            server_received: self.sum(ingress, "lport", port, "inbound"),
        };
        ask_until(&format!("the store shows {sent:?}, but {:?}", seen()), || {
            (seen() == sent).then_some(())
        });
    }
}

/// Whether a store answers queries: a Prometheus listens a while before it does.
/// For a URL.
fn encoded(query: &str) -> String {
    let mut encoded = String::new();
    for byte in query.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

fn answers(address: SocketAddr) -> Option<()> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).ok()?;
    let request =
        format!("GET /api/v1/query?query=1 HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, status) = answer.split_once(' ')?;
    status.starts_with("200").then_some(())
}

#[test]
fn a_real_prometheus_scrapes_the_totals_that_the_applications_counted() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let Some(newest) = require::peer("prometheus") else {
        return;
    };
    let daemon = Daemon::start(&[]);
    // Debian's, which requests OpenMetrics 1.0, and a Prometheus 3, which requests more formats.
    let programs = [Path::new("prometheus"), &newest];
    let scrapers = programs.map(|program| Store::scraping(program, daemon.scrape_address(), ""));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 1).unwrap();
    for prometheus in scrapers {
        prometheus.shows(port, sent);
    }
}

#[test]
fn a_real_prometheus_scrapes_by_protobuf_what_it_scrapes_by_text() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(newest) = require::peer("prometheus") else {
        return;
    };
    let daemon = Daemon::start(&[
        // Also of loopback.
        "processors.window.rtt_include_local_peers=true",
        "processors.window.metric_expiration=1h",
    ]);
    let stores = ["PrometheusProto", "PrometheusText0.0.4"].map(|protocol| {
        let job = format!("  scrape_protocols: [{protocol}]\n");
        Store::scraping(&newest, daemon.scrape_address(), &job)
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 1).unwrap();
    for store in &stores {
        store.shows(port, sent);
    }
    // Parts of a histogram, by the name of its series and its bounds.
    let parts = |store: &Store| {
        let query = "group%20by%20(__name__,le)(%7B__name__=~%22primus_lens_network_tcp_flow_rtt.*%22%7D)";
        let answer = get(store.address, &format!("/api/v1/query?query={query}"));
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let found = answer["data"]["result"].as_array().unwrap().iter();
        found
            .map(|part| part["metric"].to_string())
            .collect::<BTreeSet<_>>()
    };
    let [by_protobuf, by_text] = stores.each_ref().map(parts);
    assert_eq!(by_protobuf, by_text);
    assert_eq!(by_protobuf.len(), 19, "{by_protobuf:?}");
}

#[test]
fn a_real_prometheus_scrapes_over_tls_with_a_password() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    fs::write(&cert, certified.cert.pem()).unwrap();
    let daemon = Daemon::start(&[
        &format!("exporters.prometheus.tls.cert_file={}", cert.display()),
        &format!("exporters.prometheus.tls.key_file={}", key.display()),
        "exporters.prometheus.basic_auth.username=prometheus",
        "exporters.prometheus.basic_auth.password=hunter2",
    ]);
    let job = format!(
        "  scheme: https\n  tls_config: {{ca_file: {}, server_name: localhost}}\n  \
         basic_auth: {{username: prometheus, password: hunter2}}\n",
        cert.display()
    );
    let prometheus = Store::scraping(Path::new("prometheus"), daemon.scrape_address(), &job);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 3).unwrap();
    prometheus.shows(port, sent);
}

#[test]
fn a_real_prometheus_is_written_the_totals_that_the_applications_counted_with_the_last_window_in_them() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let prometheus = Store::receiving();
    let remote_write = format!(
        "  remote_write: {{endpoint: \"http://{}/api/v1/write\", interval: 200ms, max_samples_per_send: 50}}\n",
        prometheus.address
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, remote_write]",
        exporters: &remote_write,
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut sent = exchange(&listener, 300, 4).unwrap();
    prometheus.shows(port, sent);
    let exporter = [("exporter", "remote_write")];
    daemon.telemetry_until("points that were delivered", |seen| {
        seen.sum("flowtap_exporter_sent_metric_points_total", &exporter) > 0
    });
    let failed = "flowtap_exporter_send_failed_metric_points_total";
    assert_eq!(daemon.telemetry().sum(failed, &exporter), 0);

    // In the middle of a window: what it holds must still arrive.
    sent += exchange(&listener, 300, 5).unwrap();
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    prometheus.shows(port, sent);
}

#[test]
fn what_remote_write_keeps_on_disk_survives_a_kill_9_and_reaches_a_real_prometheus_in_the_next_run() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let exporter = |address| {
        format!(
            "  remote_write: {{endpoint: \"http://{address}/api/v1/write\", interval: 200ms, storage: {{directory: {}}}}}\n",
            dir.path().display()
        )
    };
    let launch = |exporters: &str| {
        Daemon::launch(Launch {
            list: "exporters: [prometheus, debug, remote_write]",
            exporters,
            ..Launch::default()
        })
    };
    // Nobody listens there.
    let daemon = launch(&exporter(free_address()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 14).unwrap();
    daemon.scrape_until("what the applications counted", |scrape| {
        Counted::of_port(scrape, port) == sent
    });
    let stored = |own: &Exposition| {
        own.sum(
            "flowtap_exporter_storage_requests",
            &[("exporter", "remote_write")],
        )
    };
    // The window that was scraped is on disk when two more are.
    let before = stored(&daemon.telemetry());
    daemon.telemetry_until("requests on disk", |own| stored(own) >= before + 2);
    daemon.kill();

    let prometheus = Store::receiving();
    let daemon = launch(&exporter(prometheus.address));
    prometheus.shows(port, sent);
    daemon.telemetry_until("nothing on disk", |own| stored(own) <= 1);
    let failed = "flowtap_exporter_send_failed_metric_points_total";
    assert_eq!(daemon.telemetry().sum(failed, &[("exporter", "remote_write")]), 0);
}

#[test]
fn a_real_prometheus_forgets_a_series_that_ended_by_its_stale_marker() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let prometheus = Store::receiving();
    let remote_write = format!(
        "  remote_write: {{endpoint: \"http://{}/api/v1/write\", interval: 1s}}\n",
        prometheus.address
    );
    let _daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, remote_write]",
        exporters: &remote_write,
        set: &["processors.window.metric_expiration=3s"],
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 10, 8).unwrap();
    prometheus.shows(port, sent);
    // Without a marker it would show them for five minutes, which is longer than patience.
    prometheus.shows(port, Counted::default());
}

/// `_sum`, `_count` and one bucket have the same labels before and after: their ends, zeros and first samples come in one window.
#[test]
fn a_real_prometheus_takes_histograms_that_a_reload_gives_other_buckets() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let stores = ["1s", "200ms"].map(|interval| (Store::receiving(), interval));
    let mut exporters = String::new();
    for (store, interval) in &stores {
        let endpoint = format!("http://{}/api/v1/write", store.address);
        let _ = writeln!(
            exporters,
            "  remote_write/{interval}: {{endpoint: \"{endpoint}\", interval: {interval}}}"
        );
    }
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, remote_write/1s, remote_write/200ms]",
        exporters: &exporters,
        set: &[
            "service.pipelines.metrics.receivers=[generator]",
            "receivers.generator={interval: 100ms, flows: 4}",
        ],
        ..Launch::default()
    });
    let bounds = |count: f64| {
        let query = "count(count by (le) (primus_lens_network_tcp_flow_rtt_bucket))";
        for (store, interval) in &stores {
            ask_until(&format!("{count} buckets, every {interval}"), || {
                (store.number(query) == Some(count)).then_some(())
            });
        }
    };
    bounds(17.0);
    let text = fs::read_to_string(daemon.config()).unwrap();
    let families = "families: {network_tcp_flow_rtt: {buckets: [50, 60000]}}";
    let text = text.replace(
        "window: {interval: 200ms}",
        &format!("window: {{interval: 200ms, {families}}}"),
    );
    assert!(text.contains(families));
    assert!(daemon.reload(&text));
    // Those that it had before have ended.
    bounds(3.0);
    let own = daemon.telemetry();
    for metric in ["send_failed", "enqueue_failed"] {
        let lost = own.sum(&format!("flowtap_exporter_{metric}_metric_points_total"), &[]);
        assert_eq!(lost, 0, "{metric}");
    }
}

/// Requests with such ends alone come between others, whose newest points are later.
#[test]
fn a_real_prometheus_takes_over_otlp_the_ends_of_more_series_than_a_request_has_points() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(program) = require::otlp_prometheus() else {
        return;
    };
    let store = Store::receiving_otlp(&program, "UnderscoreEscapingWithSuffixes");
    let exporter = format!(
        "  otlp: {{endpoint: \"http://{}/api/v1/otlp\", protocol: http/protobuf, interval: 1s, max_points_per_request: 50}}\n",
        store.address
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, otlp]",
        exporters: &exporter,
        set: &[
            "service.pipelines.metrics.receivers=[generator, generator/short]",
            "receivers.generator={interval: 1s, flows: 4}",
            // Its series end between two of its intervals.
            "receivers.generator/short={interval: 4s, flows: 200, seed: 2}",
            "processors.window.metric_expiration=1s",
        ],
        ..Launch::default()
    });
    let count = "count(primus_lens_network_tcp_flow_egress_bytes_total)";
    let is = |of: fn(f64) -> bool| store.number(count).is_some_and(of).then_some(());
    ask_until("the series of both", || is(|count| count > 50.0));
    ask_until("those that stay", || is(|count| count < 50.0));
    assert_eq!(store.refused(), 0);
    let failed = "flowtap_exporter_send_failed_metric_points_total";
    assert_eq!(daemon.telemetry().sum(failed, &[("exporter", "otlp")]), 0);
}

#[test]
fn a_real_prometheus_is_written_by_2_0_what_it_is_by_1_0_and_histograms_whole() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(newest) = require::peer("prometheus") else {
        return;
    };
    let receiving = |feature: &[&str]| {
        let arguments = [&["--web.enable-remote-write-receiver"], feature].concat();
        Store::prometheus(&newest, "", &arguments)
    };
    let [by_1_0, by_2_0] = [receiving(&[]), receiving(&[])];
    let native = receiving(&["--enable-feature=native-histograms"]);
    let exporter = |name: &str, store: &Store, more: &str| {
        let endpoint = format!("http://{}/api/v1/write", store.address);
        format!("  remote_write/{name}: {{endpoint: \"{endpoint}\", interval: 200ms, {more}}}\n")
    };
    let message = "protobuf_message: io.prometheus.write.v2.Request";
    let exporters = [
        exporter("one", &by_1_0, "max_samples_per_send: 2000"),
        exporter("two", &by_2_0, &format!("{message}, max_samples_per_send: 50")),
        exporter(
            "native",
            &native,
            &format!("{message}, max_samples_per_send: 50, send_native_histograms: true"),
        ),
    ];
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, remote_write/one, remote_write/two, remote_write/native]",
        exporters: &exporters.concat(),
        set: &[
            // Also of loopback.
            "processors.window.rtt_include_local_peers=true",
            "processors.window.metric_expiration=3s",
        ],
        ..Launch::default()
    });
    // An address that no other connection is to, such as those of remote write.
    let peer = Ipv4Addr::new(127, 8, 7, 6);
    let listener = TcpListener::bind((peer, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 4).unwrap();
    for store in [&by_1_0, &by_2_0, &native] {
        store.shows(port, sent);
    }
    // The highest that each has shown of late: series end three seconds after they last changed.
    let rtt = "primus_lens_network_tcp_flow_rtt";
    let selected = |suffix: &str| format!("{rtt}{suffix}%7Braddr=%22{peer}%22%7D");
    let highest = |suffix: &str| format!("max_over_time({}[1m])", selected(suffix));
    let whole = format!("sum(last_over_time({}[1m]))", selected(""));
    let of_numbers = [
        format!("sum({})", highest("_count")),
        format!("sum({})", highest("_sum")),
        format!(
            "round(histogram_quantile(0.7,sum%20by%20(le)({})),0.001)",
            highest("_bucket")
        ),
    ];
    let of_histograms = [
        format!("histogram_count({whole})"),
        format!("histogram_sum({whole})"),
        format!("round(histogram_quantile(0.7,{whole}),0.001)"),
    ];
    let values = |store: &Store, queries: &[String; 3]| queries.each_ref().map(|query| store.value(query));
    ask_until("the stores show the same round-trip times", || {
        let seen = [
            values(&by_1_0, &of_numbers),
            values(&by_2_0, &of_numbers),
            values(&native, &of_histograms),
        ];
        (seen[0].iter().all(Option::is_some) && seen[1..] == [seen[0].clone(), seen[0].clone()]).then_some(())
    });
    let counts = "count(%7B__name__=%22primus_lens_network_tcp_flow_rtt_count%22%7D)";
    assert!(by_2_0.value(counts).is_some());
    assert_eq!(native.value(counts), None, "one series, not 19");

    // An end is reported by a marker: without one they would be shown for five minutes, which is
    // longer than the timeout.
    for store in [&by_1_0, &by_2_0, &native] {
        store.shows(port, Counted::default());
    }
    let live = [(&by_2_0, selected("_bucket")), (&native, selected(""))];
    ask_until("round-trip times have ended", || {
        live.iter()
            .all(|(store, query)| store.value(&format!("count({query})")).is_none())
            .then_some(())
    });
    for name in ["one", "two", "native"] {
        let exporter = format!("remote_write/{name}");
        let failed = "flowtap_exporter_send_failed_metric_points_total";
        let seen = daemon.telemetry();
        assert_eq!(seen.sum(failed, &[("exporter", &exporter)]), 0, "{name}");
    }
}

#[test]
fn victoria_metrics_is_pushed_the_totals_that_the_applications_counted_by_otlp_and_by_remote_write() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(program) = require::peer("victoria-metrics") else {
        return;
    };
    for push in [
        "otlp: {endpoint: \"http://ADDRESS/opentelemetry\", protocol: http/protobuf, interval: 200ms, compression: gzip}",
        "otlp: {endpoint: \"http://ADDRESS/opentelemetry\", protocol: http/protobuf, interval: 200ms, compression: zstd}",
        "remote_write: {endpoint: \"http://ADDRESS/api/v1/write\", interval: 200ms}",
    ] {
        let store = Store::victoria_metrics(&program);
        let (exporter, _) = push.split_once(':').unwrap();
        let push = push.replace("ADDRESS", &store.address.to_string());
        let daemon = Daemon::launch(Launch {
            list: &format!("exporters: [debug, {exporter}]"),
            exporters: &format!("  {push}\n"),
            ..Launch::default()
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = exchange(&listener, 300, 9).unwrap();
        let (status, window) = daemon.stop();
        assert!(status.success(), "{push}: {status} {}", window.log);
        store.shows(port, sent);
    }
}
