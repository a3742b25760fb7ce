//! Clients that nobody here wrote: Debian's Prometheus and `promtool`, and an OTLP collector from `PyPI`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Launch, PATIENCE, free_address, get, read};
use crate::exposition::{Exposition, Sample};
use crate::require;
use crate::traffic::{Counted, Held, exchange};

/// A peer that is stopped by its pid when dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks `what` until it answers, or patience is at its end. For peers that tell of nothing by themselves.
fn ask_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn listens(address: SocketAddr) -> Option<()> {
    TcpStream::connect(address).ok().map(drop)
}

#[test]
fn a_real_prometheus_scrapes_the_totals_that_the_applications_counted() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prometheus") {
        return;
    }
    let daemon = Daemon::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("prometheus.yml");
    let target = daemon.scrape_address();
    fs::write(
        &config,
        format!(
            "scrape_configs:\n- job_name: flowtap\n  scrape_interval: 1s\n  static_configs: [{{targets: ['{target}']}}]\n"
        ),
    )
    .unwrap();
    let address = free_address();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _prometheus = Peer(prometheus);
    ask_until("prometheus listens", || listens(address));

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 1).unwrap();
    let query = |family: &str, label: &str, direction: &str| -> u64 {
        let query = format!("sum({family}%7B{label}=%22{port}%22,direction=%22{direction}%22%7D)");
        let answer: serde_json::Value =
            serde_json::from_str(&get(address, &format!("/api/v1/query?query={query}"))).unwrap();
        answer["data"]["result"][0]["value"][1]
            .as_str()
            .map_or(0, |value| value.parse().unwrap())
    };
    let egress = "primus_lens_network_tcp_flow_egress";
    let ingress = "primus_lens_network_tcp_flow_ingress";
    let seen = || Counted {
        client_sent: query(egress, "rport", "outbound"),
        client_received: query(egress, "rport", "inbound"),
        server_sent: query(ingress, "lport", "outbound"),
        server_received: query(ingress, "lport", "inbound"),
    };
    ask_until(&format!("prometheus shows {sent:?}, but {:?}", seen()), || {
        (seen() == sent).then_some(())
    });
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
    // 3 is "parsed, but the linter has advice": the seed's names have no `_total`, and they are kept.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    for line in said.lines().filter(|line| !line.is_empty()) {
        assert!(
            line.contains("counter metrics should have \"_total\" suffix"),
            "promtool says: {line}"
        );
    }
}

/// The collector from `PyPI`, its log in a file: it prints every point that it receives.
struct Collector {
    _peer: Peer,
    log: tempfile::NamedTempFile,
    address: SocketAddr,
}

impl Collector {
    fn start() -> Option<Self> {
        let program = require::collector()?;
        let (address, http) = (free_address(), free_address());
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
        };
        ask_until("the collector listens", || listens(address));
        Some(collector)
    }

    /// The newest value of every point that it has printed, by name and labels.
    fn received(&self) -> Exposition {
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
fn a_real_otlp_collector_receives_the_same_totals_with_the_last_window_in_it() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(collector) = Collector::start() else {
        return;
    };
    let otlp = format!(
        "  otlp: {{endpoint: \"http://{}\", interval: 200ms, compression: none}}\n",
        collector.address
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
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    ask_until(&format!("the collector shows {sent:?}"), || {
        (Counted::of_port(&collector.received(), port) == sent).then_some(())
    });
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
