//! Faults around a daemon, and its recovery.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::daemon::{Daemon, Launch, read};
use crate::peers::{Collector, ask_until};
use crate::require;
use crate::traffic::{Counted, exchange};

/// A separate, small file system.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options),
        )
        .unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut filler = File::create(self.path().join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        // Fills the rest of the last page.
        while filler.write_all(&[0]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn with_a_full_disk_the_file_exporter_says_so_counts_and_goes_on_when_there_is_space() {
    let Some(_machine) = require::root() else {
        return;
    };
    let disk = SmallDisk::new("size=4m");
    let folder = disk.path().join("flows");
    let file = format!("  file: {{path: {}}}\n", folder.display());
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, file]",
        exporters: &file,
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let exporter = [("exporter", "file")];
    let mut sent = exchange(&listener, 20, 51).unwrap();
    daemon.telemetry_until("points in the file", |seen| {
        seen.sum("flowtap_exporter_sent_metric_points_total", &exporter) > 0
    });

    disk.fill();
    let failed = "flowtap_exporter_send_failed_metric_points_total";
    let mut seed = 52;
    while daemon.telemetry().sum(failed, &exporter) == 0 {
        sent += exchange(&listener, 20, seed).unwrap();
        seed += 1;
        daemon.scrape_until("what is scraped misses nothing", |scrape| {
            Counted::of_port(scrape, port) == sent
        });
    }
    daemon.wait_for("No space left on device");
    let status = || daemon.status()["components"]["exporters/file"].clone();
    let failing = status();
    assert_eq!(failing["state"], "recoverable_error", "{failing}");
    let error = failing["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("files can't be written") && error.contains("No space left on device"),
        "{failing}"
    );
    let healthy = |component| {
        daemon
            .telemetry()
            .sum("flowtap_component_healthy", &[("component", component)])
    };
    assert_eq!((healthy("exporters/file"), healthy("exporters/debug")), (0, 1));

    disk.free();
    let before = daemon
        .telemetry()
        .sum("flowtap_exporter_sent_metric_points_total", &exporter);
    sent += exchange(&listener, 20, seed).unwrap();
    daemon.telemetry_until("points in the file again", |seen| {
        seen.sum("flowtap_exporter_sent_metric_points_total", &exporter) > before
    });
    ask_until("the exporter is ok again", || {
        (status()["state"] == "ok").then_some(())
    });
    assert_eq!(healthy("exporters/file"), 1);
    daemon.scrape_until("all of it", |scrape| Counted::of_port(scrape, port) == sent);
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
    // The newest lines have the totals, whatever was not written in between.
    let mut newest = Counted::default();
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let label = port.to_string();
    for line in files.iter().flat_map(|file| {
        let text = read(file);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    }) {
        // A line that the full disk cut off is none.
        let Ok(row) = serde_json::from_str::<serde_json::Value>(&line) else {
            continue;
        };
        let (labels, total) = (&row["labels"], row["total"].as_u64());
        let place = match (
            labels["rport"] == label,
            labels["lport"] == label,
            &labels["direction"],
        ) {
            (true, _, direction) if direction == "outbound" => &mut newest.client_sent,
            (true, _, _) => &mut newest.client_received,
            (_, true, direction) if direction == "outbound" => &mut newest.server_sent,
            (_, true, _) => &mut newest.server_received,
            _ => continue,
        };
        if row["name"]
            .as_str()
            .is_some_and(|name| name.contains("tcp_flow_"))
        {
            *place = total.unwrap();
        }
    }
    assert_eq!(newest, sent);
}

#[test]
fn rows_of_parquet_that_a_full_disk_can_not_take_are_counted_and_those_before_are_not_lost() {
    let Some(_machine) = require::root() else {
        return;
    };
    let disk = SmallDisk::new("size=4m");
    let file = format!(
        "  file: {{path: {}, format: parquet, rotation: {{max_age: 1s}}}}\n",
        disk.path().join("flows").display()
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, file]",
        exporters: &file,
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let exporter = [("exporter", "file")];
    let status = || daemon.status()["components"]["exporters/file"].clone();
    let of = |name: &str| daemon.telemetry().sum(name, &exporter);
    let failed = "flowtap_exporter_send_failed_metric_points_total";
    exchange(&listener, 20, 81).unwrap();
    daemon.telemetry_until("points in the file", |seen| {
        seen.sum("flowtap_exporter_sent_metric_points_total", &exporter) > 0
    });
    assert_eq!(of(failed), 0);
    disk.fill();
    let mut seed = 82;
    ask_until("rows that were not written", || {
        exchange(&listener, 20, seed).unwrap();
        seed += 1;
        (of(failed) > 0).then_some(())
    });
    let failing = status();
    assert_eq!(failing["state"], "recoverable_error", "{failing}");
    disk.free();
    ask_until("the exporter is ok again", || {
        exchange(&listener, 20, seed).unwrap();
        seed += 1;
        (status()["state"] == "ok").then_some(())
    });
    // Those that were written stay in their files until these can be finished.
    assert_eq!(of("flowtap_exporter_lost_rows_total"), 0);
}

#[test]
fn with_a_full_disk_requests_go_out_from_memory_and_wait_on_it_again_when_there_is_space() {
    let Some(_machine) = require::root() else {
        return;
    };
    let Some(collector) = Collector::start() else {
        return;
    };
    let disk = SmallDisk::new("size=8m");
    let otlp = format!(
        "  otlp: {{endpoint: \"http://{}\", interval: 200ms, storage: {{directory: {}}}}}\n",
        collector.address,
        disk.path().join("requests").display()
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, otlp]",
        exporters: &otlp,
        ..Launch::default()
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let exporter = [("exporter", "otlp")];
    let of = |name: &str| daemon.telemetry().sum(name, &exporter);
    let (delivered, failed) = (
        "flowtap_exporter_sent_metric_points_total",
        "flowtap_exporter_send_failed_metric_points_total",
    );
    let mut sent = exchange(&listener, 20, 61).unwrap();
    daemon.telemetry_until("delivered points", |seen| seen.sum(delivered, &exporter) > 0);

    disk.fill();
    for seed in 62..72 {
        let before = of(delivered);
        sent += exchange(&listener, 20, seed).unwrap();
        daemon.scrape_until("what is scraped misses nothing", |scrape| {
            Counted::of_port(scrape, port) == sent
        });
        daemon.telemetry_until("delivered points without the disk", |seen| {
            seen.sum(delivered, &exporter) > before
        });
    }

    disk.free();
    let before = of(delivered);
    sent += exchange(&listener, 20, 72).unwrap();
    daemon.telemetry_until("delivered points again", |seen| {
        seen.sum(delivered, &exporter) > before
    });
    assert_eq!(of(failed), 0);
    let (status, window) = daemon.stop();
    assert!(status.success(), "{status} {}", window.log);
    ask_until("the collector has all of it", || {
        (Counted::of_port(&collector.received(), port) == sent).then_some(())
    });
}

/// Duration of the soak, in seconds; `make soak` has a longer one.
fn soak_time() -> Duration {
    let seconds = std::env::var("FLOWTAP_TEST_SOAK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(15, |seconds| seconds.parse().expect("seconds")))
}

#[test]
fn under_lasting_load_memory_and_descriptors_stay_and_no_byte_is_missing() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    let daemon = Daemon::start(&[]);
    let process = format!("/proc/{}", daemon.pid());
    let state = || {
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))
            .map(|kib| kib.trim().parse::<u64>().unwrap())
            .unwrap();
        let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().count();
        (resident, descriptors)
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (began, time) = (Instant::now(), soak_time());
    let (mut sent, mut connections, mut settled) = (Counted::default(), 0_u64, None);
    while began.elapsed() < time {
        sent += exchange(&listener, 500, connections).unwrap();
        connections += 500;
        if settled.is_none() && began.elapsed() > time / 4 {
            settled = Some(state());
        }
    }
    let scrape = daemon.scrape_until("every byte", |scrape| Counted::of_port(scrape, port) == sent);
    let opened = scrape.sum(
        "primus_lens_network_tcp_connections",
        &[("flow", "ingress"), ("event", "opened")],
    );
    assert!(opened >= connections, "{opened} of {connections}");
    let ((memory_then, files_then), (memory_now, files_now)) = (settled.unwrap(), state());
    println!(
        "{connections} connections in {:.0} s; {memory_then} KiB and {files_then} descriptors after a quarter, \
         {memory_now} KiB and {files_now} at the end",
        time.as_secs_f64()
    );
    assert!(
        memory_now < memory_then + 8 * 1024,
        "{memory_now} KiB after {memory_then} KiB"
    );
    assert!(
        files_now <= files_then + 3,
        "{files_now} descriptors after {files_then}"
    );
}
