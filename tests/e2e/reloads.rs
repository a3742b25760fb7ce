//! A new config in place of the one before: what has not changed lives on.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::daemon::{Daemon, Launch, free_address, read};
use crate::kernel_objects;
use crate::netns;
use crate::require;
use crate::traffic::{Counted, Held, exchange};

/// Open descriptors of the daemon.
fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .count()
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// So that churn of other programs drops no record of this test's.
const LARGE_RING: &str = "receivers.ebpf.ring_buffer_bytes=67108864";

/// So that their peers are not taken for a leak.
const FEW_SERIES: &str = "processors.window.max_series=2000";

/// Sets the flag when dropped.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hundred_reloads_under_load_half_of_them_bad_lose_no_byte_and_leak_nothing() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    // Room for what else is on the machine: nothing of it is this test's.
    let daemon = Daemon::start(&[
        netns::FLOWS_BY_NETNS[0],
        netns::FLOWS_BY_NETNS[1],
        LARGE_RING,
        FEW_SERIES,
    ]);
    let config = read(&daemon.config());
    // Nobody listens there; what can't be delivered is given up at once.
    let otlp = format!(
        "exporters:\n  otlp/{{}}: {{{{endpoint: \"http://{}\", retry: {{{{enabled: false}}}}}}}}\n",
        free_address()
    );
    let variant = |round: usize| match round % 4 {
        // An exporter of another name each time, labels of another class, and a mistake of either kind.
        0 => config
            .replace(
                "exporters:\n",
                &otlp
                    .replace("{}", &round.to_string())
                    .replace("{{", "{")
                    .replace("}}", "}"),
            )
            .replace(
                "exporters: [prometheus, debug]",
                &format!("exporters: [prometheus, debug, otlp/{round}]"),
            ),
        1 => config.replace("policy:", "policey:"),
        2 => config.replace(
            "  policy:\n",
            &format!("  policy: {{internal_hosts: [10.{round}.0.0/16]}}\n"),
        ),
        _ => format!("{config}\n  - no: [mapping"),
    };

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Held::open(&listener, 10).unwrap();
    let mut settled = None;
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        // Also when a round fails: the scope waits for the traffic.
        let stops = Stops(&stop);
        let traffic = scope.spawn(|| {
            let mut sent = Counted::default();
            while !stop.load(Ordering::Relaxed) {
                sent += held.exchange(500).unwrap();
            }
            sent
        });
        for round in 0..100 {
            let applied = daemon.reload(&variant(round));
            assert_eq!(applied, round % 2 == 0, "round {round}: {}", daemon.status());
            if round == 20 {
                settled = Some((
                    descriptors(&daemon),
                    kernel_objects::of(daemon.pid()),
                    resident_kib(&daemon),
                ));
            }
        }
        drop(stops);
        traffic.join().unwrap()
    });
    assert!(daemon.reload(&config));
    let (fds, objects, resident) = settled.unwrap();
    // One or two are those of the requests that were answered a moment ago; a leak would be one per reload.
    let now = descriptors(&daemon);
    assert!(now <= fds + 3, "{now} after {fds}");
    assert_eq!(kernel_objects::of(daemon.pid()), objects);
    let now = resident_kib(&daemon);
    assert!(now < resident + 16 * 1024, "{now} KiB after {resident} KiB");
    // Mode `events` knows what an open connection has sent when it closes.
    drop(held);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(Counted::of_port_in(&window.totals, port, &netns::label()), sent);
}

#[test]
fn pipelines_and_exporters_come_and_go_and_a_port_that_is_taken_leaves_the_old_ones_at_work() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::launch(Launch::default());
    let config = read(&daemon.config());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 50, 21).unwrap();
    daemon.scrape_until("the traffic", |scrape| Counted::of_port(scrape, port) == sent);

    // A second pipeline, whose window begins now.
    let second = format!(
        "{config}    metrics/second:\n      receivers: [ebpf]\n      processors: [direction, policy, window]\n      exporters: [prometheus]\n"
    );
    assert!(daemon.reload(&second), "{}", daemon.status());
    let of = |pipeline: &'static str| move |text: &str| text.contains(&format!("pipeline=\"{pipeline}\""));
    let scraped = || crate::daemon::get(daemon.scrape_address(), "/metrics");
    Held::open(&listener, 2).unwrap().exchange(100).unwrap();
    daemon.scrape_until("both pipelines", |_| {
        of("metrics/second")(&scraped()) && of("metrics")(&scraped())
    });
    // The first one's series live on.
    let kept = daemon.scrape();
    assert!(Counted::of_port(&kept, port).client_sent >= sent.client_sent);

    // An exporter that can't start: everything is as before.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bad = second.replace(
        &format!("prometheus: {{endpoint: \"{}\"", daemon.scrape_address()),
        &format!("prometheus: {{endpoint: \"{}\"", taken.local_addr().unwrap()),
    );
    assert_ne!(bad, second);
    assert!(!daemon.reload(&bad));
    let status = daemon.status();
    let said = status["config"]["error"].as_str().unwrap();
    assert!(said.contains(&taken.local_addr().unwrap().to_string()), "{said}");
    assert_eq!(status["components"]["exporters/prometheus"]["state"], "ok");
    daemon.scrape_until("both pipelines again", |_| {
        of("metrics/second")(&scraped()) && of("metrics")(&scraped())
    });

    // And without the second one nothing of it is shown any longer.
    assert!(daemon.reload(&config));
    daemon.scrape_until("one pipeline", |_| !scraped().contains("pipeline="));
}

#[test]
fn a_config_that_is_refused_leaves_the_level_of_logs_as_it_was() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let config = read(&daemon.config());
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bad = config
        .replace(
            &daemon.scrape_address().to_string(),
            &taken.local_addr().unwrap().to_string(),
        )
        .replace("telemetry: {", "telemetry: {logs: {level: error}, ");
    assert!(!daemon.reload(&bad));
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status}");
    assert!(window.log.contains("stopping:"), "{}", window.log);
}

/// Each path that a page of `docs` names as "`/status` (`a.b`)" is in `status`.
fn pages_name_paths_of_status(status: &serde_json::Value) {
    let mut named = 0;
    for page in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap() {
        let page = page.unwrap().path();
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = read(&page);
        for part in text.split("`/status` (`").skip(1) {
            let (path, _) = part.split_once('`').unwrap();
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = status.pointer(&pointer);
            assert!(
                found.is_some_and(|value| !value.is_null()),
                "{}: `{path}` is not in {status}",
                page.display()
            );
            named += 1;
        }
    }
    assert!(named > 0, "the pages name none");
}

#[test]
fn requests_that_wait_at_a_reload_are_left_to_the_next_exporter_and_each_line_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let exporters = format!(
        "  otlp: {{endpoint: \"http://{}\", interval: 200ms, headers: {{x: a}}, storage: {{directory: \"{}\"}}}}\n",
        free_address(),
        folder.path().display()
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, otlp]",
        exporters: &exporters,
        set: &[
            "service.pipelines.metrics.receivers=[generator]",
            "receivers.generator.interval=100ms",
            "receivers.generator.flows=4",
        ],
        ..Launch::default()
    });
    daemon.telemetry_until("a request on disk", |own| {
        own.sum("flowtap_exporter_storage_requests", &[]) > 0
    });
    let config = read(&daemon.config());
    fs::write(daemon.config(), config.replace("x: a", "x: b")).unwrap();
    daemon.wait_for("the new config is in use");
    let said = daemon.said();
    for part in [
        "requests wait on disk; those that the peer takes",
        "requests stay on disk; the next exporter",
        "requests that were left on disk are sent first",
    ] {
        let lines: Vec<_> = said.lines().filter(|line| line.contains(part)).collect();
        assert_eq!(lines.len(), 1, "{part}: {said}");
        assert!(
            lines[0].contains(" INFO ") && lines[0].contains("exporter=otlp"),
            "{}",
            lines[0]
        );
    }
}

#[test]
fn a_changed_file_is_read_without_a_signal_and_status_reports_a_bad_one() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let config = read(&daemon.config());
    fs::write(daemon.config(), config.replace("policy:", "policey:")).unwrap();
    daemon.wait_for("the new config is refused");
    let error = daemon.status()["config"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("policey"), "{error}");
    pages_name_paths_of_status(&daemon.status());
    fs::write(daemon.config(), &config).unwrap();
    daemon.wait_for("the new config is in use");
    let own = daemon.telemetry();
    let reloads = |outcome| own.sum("flowtap_config_reloads_total", &[("outcome", outcome)]);
    assert_eq!((reloads("applied"), reloads("refused")), (1, 1));
}

#[test]
fn the_queue_of_an_exporter_that_a_reload_keeps_grows_with_the_pipelines_that_feed_it() {
    let daemon = Daemon::start(&[
        "service.pipelines.metrics.receivers=[generator]",
        "receivers.generator.flows=10",
    ]);
    let config = read(&daemon.config());
    let with = |pipelines: usize| {
        let second = (2..=pipelines).map(|index| {
            format!(
                "    metrics/{index}: {{receivers: [generator], processors: [direction, policy, window], exporters: [prometheus]}}\n"
            )
        });
        [config.clone(), second.collect()].concat()
    };
    let capacity = |exporter| {
        daemon
            .telemetry()
            .sum("flowtap_exporter_queue_capacity", &[("exporter", exporter)])
    };
    assert!(daemon.reload(&with(2)), "{}", daemon.status());
    assert_eq!(capacity("prometheus"), 2);
    // With two pipelines its series have a label already, so it is kept; the live view's always is.
    assert!(daemon.reload(&with(9)), "{}", daemon.status());
    assert_eq!((capacity("prometheus"), capacity("live")), (9, 9));
    // A smaller one would drop snapshots that wait.
    assert!(daemon.reload(&with(3)), "{}", daemon.status());
    assert_eq!(capacity("prometheus"), 9);
}
