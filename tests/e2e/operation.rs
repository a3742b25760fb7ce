//! As an operator meets it: rights, systemd, states.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::{Signal, kill};

use crate::daemon::{Daemon, Launch, PATIENCE, flowtap, free_address};
use crate::require;
use crate::traffic::{Counted, exchange};

#[test]
fn every_thread_has_the_two_capabilities_and_no_more_and_still_counts_to_the_byte() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let said = daemon.said();
    assert!(said.contains("capabilities CAP_BPF CAP_PERFMON"), "{said}");
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        for line in [
            "CapPrm:\t000000c000000000",
            "CapEff:\t000000c000000000",
            "CapBnd:\t000000c000000000",
            "CapInh:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "no {line} in:\n{status}");
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 100, 31).unwrap();
    daemon.scrape_until("the traffic", |scrape| Counted::of_port(scrape, port) == sent);
}

#[test]
fn systemd_is_told_when_it_measures_that_it_is_alive_and_when_it_stops() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut child = flowtap()
        .args(["run", "--set"])
        .arg(format!("exporters.prometheus.endpoint={}", free_address()))
        .args(["--set", "service.admin.endpoint=null"])
        .args(["--set", "service.telemetry.metrics.endpoint=null"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let told_of = |what: &str| {
        let mut told = Vec::new();
        loop {
            let mut buffer = [0; 1024];
            let Ok(size) = socket.recv(&mut buffer) else {
                panic!("systemd was never told of {what}, only of {told:?}");
            };
            told.push(String::from_utf8_lossy(&buffer[..size]).into_owned());
            if told
                .last()
                .is_some_and(|text| text.lines().any(|line| line == what))
            {
                return;
            }
        }
    };
    told_of("READY=1");
    told_of("WATCHDOG=1");
    told_of("WATCHDOG=1");
    kill(pid, Signal::SIGHUP).unwrap();
    told_of("RELOADING=1");
    told_of("READY=1");
    kill(pid, Signal::SIGTERM).unwrap();
    told_of("STOPPING=1");
    assert!(child.wait().unwrap().success());
}

#[test]
fn status_tells_of_an_exporter_whose_peer_is_away_while_the_others_are_well() {
    let Some(_machine) = require::root() else {
        return;
    };
    let otlp = format!(
        "  otlp/away: {{endpoint: \"http://{}\", interval: 200ms, retry: {{enabled: false}}}}\n",
        free_address()
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, otlp/away]",
        exporters: &otlp,
        ..Launch::default()
    });
    daemon.telemetry_until("failed points", |own| {
        let name = "flowtap_exporter_send_failed_metric_points_total";
        own.sum(name, &[("exporter", "otlp/away")]) > 0
    });
    let status = daemon.status();
    let state = |id: &str| {
        status["components"][id]["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(state("exporters/otlp/away"), "recoverable_error", "{status:#}");
    assert!(status["components"]["exporters/otlp/away"]["error"].is_string());
    assert_eq!(state("exporters/prometheus"), "ok", "{status:#}");
    assert_eq!(state("receivers/ebpf"), "ok", "{status:#}");
    assert_eq!(status["ready"], true);
}
