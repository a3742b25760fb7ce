//! As an operator meets it: rights, systemd, states.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT, flowtap, free_address};
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
fn systemd_is_notified_of_the_start_of_life_and_of_the_stop() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
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
fn status_reports_an_exporter_whose_peer_is_away_while_the_others_are_well() {
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

/// Adds up `flowtap_…` over everything that has these labels.
fn told(daemon: &Daemon, name: &str, labels: &[(&str, &str)]) -> u64 {
    daemon.telemetry().sum(name, labels)
}

#[test]
fn above_its_memory_limits_it_folds_and_sheds_and_counts_both() {
    let Some(_machine) = require::root() else {
        return;
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let limited = |limit: &str, spike: &str, state: u64| {
        let daemon = Daemon::start(&[
            &format!("service.memory_limiter.limit_mib={limit}"),
            &format!("service.memory_limiter.spike_limit_mib={spike}"),
            "service.memory_limiter.check_interval=100ms",
        ]);
        daemon.telemetry_until("the limiter's state", |seen| {
            seen.sum("flowtap_memory_limiter_state", &[]) == state
        });
        daemon
    };

    // Soft: whatever it has is above 1 MiB.
    let daemon = limited("1000", "999", 1);
    let sent = exchange(&listener, 50, 41).unwrap();
    let scrape = daemon.scrape_until("the traffic in `other`", |scrape| {
        scrape.sum(
            "primus_lens_network_tcp_flow_egress",
            &[("raddr", "other"), ("rport", "other")],
        ) >= sent.client_sent + sent.client_received
    });
    assert_eq!(Counted::of_port(&scrape, port), Counted::default());
    assert!(told(&daemon, "flowtap_processor_folded_records_total", &[]) > 0);
    drop(daemon);

    // Hard.
    let daemon = limited("2", "1", 2);
    let sent = exchange(&listener, 50, 42).unwrap();
    let reason = [("reason", "memory_limit")];
    let bytes = sent.client_sent + sent.client_received + sent.server_sent + sent.server_received;
    daemon.telemetry_until("what was shed", |seen| {
        // Other traffic of this machine is among it.
        seen.sum("flowtap_processor_dropped_bytes_total", &reason) >= bytes
            && seen.sum("flowtap_processor_dropped_records_total", &reason) >= 50
    });
    let scrape = daemon.scrape();
    assert_eq!(Counted::of_port(&scrape, port), Counted::default());
    let said = daemon.said();
    assert!(said.contains("memory is above the hard limit"), "{said}");
}

#[test]
fn its_own_processor_time_memory_and_open_files_are_exported() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let process = format!("/proc/{}", daemon.pid());
    let resident = || {
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .map(|kib| kib.trim().parse::<u64>().unwrap() * 1024)
            .unwrap()
    };
    // The start still gives memory back, such as the pages of programs that are loaded: both are read until they agree.
    daemon.telemetry_until("the memory that the kernel shows", |seen| {
        let (told, resident) = (seen.sum("flowtap_process_memory_rss_bytes", &[]), resident());
        resident.abs_diff(told) <= resident / 4
    });
    let open = fs::read_dir(format!("{process}/fd")).unwrap().count() as u64;
    let told_of_files = told(&daemon, "flowtap_process_open_file_descriptors", &[]);
    // The scrape that shows it also uses a socket.
    assert!(
        open.abs_diff(told_of_files) <= 3,
        "{told_of_files} against {open}"
    );
    let text = daemon.telemetry();
    let cpu = text
        .0
        .iter()
        .find(|sample| sample.name == "flowtap_process_cpu_seconds_total");
    assert!(cpu.is_some_and(|sample| sample.value > 0.0), "{cpu:?}");
}

/// The limit of open files, which the daemon's own do not count against any more.
fn limit_descriptors(daemon: &Daemon, soft: u32) {
    let done = Command::new("prlimit")
        .arg(format!("--pid={}", daemon.pid()))
        .arg(format!("--nofile={soft}:"))
        .status()
        .unwrap();
    assert!(done.success());
}

#[test]
fn with_fewer_descriptors_than_it_needs_it_does_not_start() {
    if !require::program("prlimit") {
        return;
    }
    for limit in [4, 8, 15, 64, 127] {
        let output = Command::new("prlimit")
            .arg(format!("--nofile={limit}:{limit}"))
            .arg(env!("CARGO_BIN_EXE_flowtap"))
            .arg("run")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(71), "{error}");
        let expected = format!("the limit of open files is {limit}: at least 128 are needed");
        assert!(error.contains(&expected), "{error}");
        assert!(error.contains("hint: raise LimitNOFILE="), "{error}");
    }
}

#[test]
fn with_no_descriptor_left_scrapes_wait_and_nothing_is_lost() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prlimit") {
        return;
    }
    let daemon = Daemon::start(&[]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut sent = exchange(&listener, 50, 43).unwrap();
    daemon.scrape_until("the traffic", |scrape| Counted::of_port(scrape, port) == sent);
    // Nor has a scan one.
    limit_descriptors(&daemon, 0);
    sent += exchange(&listener, 50, 44).unwrap();
    // The kernel takes the connection, and the daemon can't.
    let mut waiting = TcpStream::connect(daemon.scrape_address()).unwrap();
    waiting.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    daemon.wait_for("can't be accepted");
    let _waiting_too = TcpStream::connect(daemon.admin_address()).unwrap();
    daemon.wait_for("can't be accepted");
    limit_descriptors(&daemon, 1024);
    let mut answer = String::new();
    waiting.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    daemon.scrape_until("all of the traffic", |scrape| {
        Counted::of_port(scrape, port) == sent
    });
}

#[test]
fn the_last_descriptors_are_left_to_the_receivers() {
    let Some(_machine) = require::root() else {
        return;
    };
    if !require::program("prlimit") {
        return;
    }
    let daemon = Daemon::start(&[]);
    let idle: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(daemon.scrape_address()))
        .collect();
    // Its connections are accepted by now: those of a listener are accepted in their order.
    daemon.scrape();
    let is_free = |fd: &u32| !fs::exists(format!("/proc/{}/fd/{fd}", daemon.pid())).unwrap();
    // The lowest of many looks: a scan of /proc holds descriptors for a moment.
    let next = (0..100)
        .map(|_| {
            thread::sleep(Duration::from_millis(10));
            (0..4096).find(is_free).unwrap()
        })
        .min()
        .unwrap();
    // The last quarter, 32 at most, is the reserve, which begins below the next descriptor.
    limit_descriptors(&daemon, next + (next / 3).min(32) - 1);
    let mut refused = TcpStream::connect(daemon.admin_address()).unwrap();
    refused.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let began = std::time::Instant::now();
    let _ = refused.read_to_end(&mut Vec::new());
    assert!(
        began.elapsed() < WAIT_TIMEOUT / 4,
        "it was accepted, and timed out"
    );
    daemon.wait_for("reason=\"descriptors\"");
    // Scrapes take the place of idle clients, and scans have what they need.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 20, 47).unwrap();
    daemon.scrape_until("the traffic", |scrape| Counted::of_port(scrape, port) == sent);
    drop(idle);
    limit_descriptors(&daemon, 1024);
    let own = daemon.telemetry_until("what was not accepted", |own| {
        let reason = [("reason", "descriptors")];
        own.sum("flowtap_listener_closed_connections_total", &reason) > 0
    });
    assert_eq!(own.sum("flowtap_receiver_scan_failures_total", &[]), 0);
}

#[test]
fn a_second_without_the_processor_loses_nothing() {
    let Some(_machine) = require::root() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut sent = exchange(&listener, 100, 45).unwrap();
    sent += daemon.while_paused(|| {
        let sent = exchange(&listener, 1000, 46).unwrap();
        // As long as the fault is, whatever the traffic took.
        thread::sleep(Duration::from_secs(1));
        sent
    });
    daemon.scrape_until("all of the traffic", |scrape| {
        Counted::of_port(scrape, port) == sent
    });
    assert_eq!(told(&daemon, "flowtap_receiver_refused_bytes_total", &[]), 0);
}
