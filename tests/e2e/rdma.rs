//! The receiver `rdma` on recorded trees of sysfs: values of a scrape, increases in a real Prometheus, devices that break, are reset,
//! come and go, and reloads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::daemon::{Daemon, read};
use crate::exposition::Exposition;
use crate::peers::ask_until;
use crate::require;
use crate::stores::Store;

const PREFIX: &str = "primus_lens_network_rdma";
const MLX5: &str = "class/infiniband/mlx5_0/ports/1";
const BNXT: &str = "class/infiniband/bnxt_re0/ports/1/hw_counters";

/// A sysfs with the devices of `tests/rdma`.
struct Sysfs(tempfile::TempDir);

impl Sysfs {
    fn new() -> Self {
        let sysfs = Self(tempfile::tempdir().unwrap());
        let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rdma");
        for tree in ["mlx5", "bnxt_re", "irdma"] {
            for line in read(&trees.join(format!("{tree}.tree"))).lines() {
                if let Some((path, target)) = line.split_once(" -> ") {
                    let path = sysfs.path(path);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    symlink(target, path).unwrap();
                } else if let Some((path, text)) = line.split_once(": ").filter(|_| !line.starts_with('#')) {
                    sysfs.set(path, text);
                }
            }
        }
        sysfs
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Replaces the file, so that no look sees a part of it.
    fn set(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = self.0.path().join("new");
        fs::write(&new, format!("{text}\n")).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn add(&self, path: &str, count: u64) {
        let before: u64 = read(&self.path(path)).trim().parse().unwrap();
        self.set(path, &(before + count).to_string());
    }

    fn receiver(&self, more: &str) -> String {
        format!(
            "receivers.rdma={{interval: 200ms, sysfs_root: {}{more}}}",
            self.0.path().display()
        )
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(&[
            &self.receiver(""),
            "service.pipelines.metrics.receivers=[rdma]",
            "service.pipelines.metrics.processors=[window]",
        ])
    }
}

fn sum(scrape: &Exposition, family: &str, labels: &[(&str, &str)]) -> u64 {
    scrape.sum(&format!("{PREFIX}_{family}"), labels)
}

fn received(scrape: &Exposition, device: &str) -> u64 {
    sum(scrape, "bytes", &[("device", device), ("direction", "inbound")])
}

fn counted(scrape: &Exposition, family: &str, counter: &str) -> u64 {
    sum(scrape, family, &[("counter", counter)])
}

#[test]
fn counters_of_three_drivers_count_from_the_start_in_bytes_packets_retries_congestion_and_errors() {
    let sysfs = Sysfs::new();
    let daemon = sysfs.daemon();
    // Every series begins at 0, so that a store misses no increase.
    let first = daemon.scrape_until("the devices", |scrape| sum(scrape, "link_up", &[]) == 2);
    for family in ["bytes", "packets", "retries", "congestion", "errors", "counters"] {
        let name = format!("{PREFIX}_{family}");
        assert!(first.select(&name, &[]).count() > 0, "{family}");
        assert_eq!(first.sum(&name, &[]), 0, "{family}");
    }
    assert_eq!(sum(&first, "link_up", &[("device", "rocep177s0f0")]), 0);
    assert_eq!(
        sum(&first, "link_rate", &[("device", "bnxt_re0")]),
        25_000_000_000
    );
    sysfs.add(&format!("{MLX5}/counters/port_rcv_data"), 100);
    sysfs.add(&format!("{BNXT}/rx_bytes"), 77);
    sysfs.add(&format!("{BNXT}/tx_pkts"), 3);
    sysfs.add(&format!("{MLX5}/hw_counters/packet_seq_err"), 5);
    sysfs.add(&format!("{MLX5}/hw_counters/np_cnp_sent"), 6);
    sysfs.add(&format!("{MLX5}/hw_counters/out_of_buffer"), 7);
    sysfs.add("class/infiniband/rocep177s0f0/ports/1/hw_counters/ip4InOctets", 8);
    sysfs.add("class/infiniband/rocep177s0f0/ports/1/hw_counters/ip6InOctets", 9);
    let last = daemon.scrape_until("all counters", |scrape| {
        received(scrape, "mlx5_0") == 400
            && received(scrape, "bnxt_re0") == 77
            && received(scrape, "rocep177s0f0") == 17
            && sum(
                scrape,
                "packets",
                &[("device", "bnxt_re0"), ("direction", "outbound")],
            ) == 3
            && counted(scrape, "retries", "packet_seq_err") == 5
            && counted(scrape, "congestion", "np_cnp_sent") == 6
            && counted(scrape, "errors", "out_of_buffer") == 7
    });
    for (family, total) in [
        ("bytes", 494),
        ("packets", 3),
        ("retries", 5),
        ("congestion", 6),
        ("errors", 7),
    ] {
        assert_eq!(sum(&last, family, &[]), total, "{family}");
    }
    let labels = [("device", "mlx5_0"), ("port", "1"), ("counter", "packet_seq_err")];
    let name = format!("{PREFIX}_retries");
    let sample = last.select(&name, &labels).next().unwrap();
    assert_eq!(sample.labels.len(), 3, "{sample:?}");
    let telemetry = daemon.telemetry();
    assert_eq!(telemetry.sum("flowtap_receiver_unread_values_total", &[]), 0);
    assert_eq!(telemetry.sum("flowtap_processor_rejected_readings_total", &[]), 0);
}

#[test]
fn a_broken_file_ends_nothing_and_is_logged_once_and_a_reset_is_counted() {
    let sysfs = Sysfs::new();
    let broken = format!("{MLX5}/counters/symbol_error");
    sysfs.set(&broken, "N/A (no PMA)");
    let daemon = sysfs.daemon();
    let unread = |why: &str, count: u64| {
        daemon.telemetry_until("values that can't be read", |telemetry| {
            telemetry.sum("flowtap_receiver_unread_values_total", &[("reason", why)]) >= count
        });
    };
    // Several looks.
    unread("not_available", 5);
    sysfs.set(&format!("{MLX5}/rate"), "fast");
    unread("malformed", 3);
    sysfs.add(&format!("{BNXT}/rx_bytes"), 77);
    sysfs.set(&format!("{BNXT}/tx_bytes"), "4");
    sysfs.set(&broken, "3");
    let scrape = daemon.scrape_until("the other device", |scrape| {
        received(scrape, "bnxt_re0") == 77
            && sum(
                scrape,
                "bytes",
                &[("device", "bnxt_re0"), ("direction", "outbound")],
            ) == 4
    });
    // The level of the broken file stays.
    assert_eq!(sum(&scrape, "link_rate", &[("device", "mlx5_0")]), 12_500_000_000);
    daemon.telemetry_until("a reset", |telemetry| {
        telemetry.sum("flowtap_receiver_counter_resets_total", &[]) == 1
    });
    sysfs.add(&broken, 2);
    daemon.scrape_until("the file that can be read again", |scrape| {
        counted(scrape, "errors", "symbol_error") == 2
    });
    let (status, last) = daemon.stop();
    assert!(status.success());
    let lines = |text: &str| last.log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("can't be read and is left out"), 2, "{}", last.log);
    assert_eq!(lines("can be read again"), 1, "{}", last.log);
}

#[test]
fn devices_come_and_go_and_the_last_look_is_at_the_end() {
    let sysfs = Sysfs::new();
    let daemon = sysfs.daemon();
    let up = |device: &'static str, up: u64| {
        daemon.scrape_until("the link", |scrape| {
            let name = format!("{PREFIX}_link_up");
            let labels = [("device", device)];
            scrape.select(&name, &labels).count() == 1 && scrape.sum(&name, &labels) == up
        });
    };
    up("mlx5_0", 1);
    let (device, away) = (sysfs.path("class/infiniband/mlx5_0"), sysfs.path("away"));
    fs::rename(&device, &away).unwrap();
    up("mlx5_0", 0);
    fs::rename(&away, &device).unwrap();
    up("mlx5_0", 1);
    // Of a device that comes back with its GUID nothing is missing.
    sysfs.add(&format!("{MLX5}/counters/port_rcv_data"), 100);
    daemon.scrape_until("its bytes", |scrape| received(scrape, "mlx5_0") == 400);
    sysfs.add(&format!("{MLX5}/counters/port_rcv_data"), 1);
    let (status, last) = daemon.stop();
    assert!(status.success());
    let bytes = last.totals.sum(
        &format!("{PREFIX}_bytes"),
        &[("device", "mlx5_0"), ("direction", "inbound")],
    );
    assert_eq!(bytes, 404);
}

#[test]
fn counters_count_on_over_reloads_of_the_receiver_and_of_the_window() {
    let sysfs = Sysfs::new();
    // `--set` takes precedence over the file, so the other keys of the receiver are in there.
    let daemon = Daemon::start(&[
        &format!("receivers.rdma.sysfs_root={}", sysfs.0.path().display()),
        "service.pipelines.metrics.receivers=[rdma]",
        "service.pipelines.metrics.processors=[window]",
    ]);
    daemon.scrape_until("the devices", |scrape| sum(scrape, "link_up", &[]) == 2);
    let first = read(&daemon.config());
    let with = |receiver: &str, window: &str| {
        let ebpf = "  ebpf: {interval: 200ms}\n";
        let text = first.replace(ebpf, &format!("{ebpf}  rdma: {{interval: 200ms{receiver}}}\n"));
        text.replace(
            "window: {interval: 200ms}",
            &format!("window: {{interval: 200ms{window}}}"),
        )
    };
    sysfs.add(&format!("{MLX5}/counters/port_rcv_data"), 100);
    assert!(daemon.reload(&with("", ", max_series: 5000")));
    sysfs.add(&format!("{MLX5}/counters/port_rcv_data"), 1);
    daemon.scrape_until("bytes of before and after", |scrape| {
        received(scrape, "mlx5_0") == 404
    });
    // A device that the config names no more has no levels; the others count on.
    assert!(daemon.reload(&with(", devices: [bnxt*]", ", max_series: 5000")));
    sysfs.add(&format!("{BNXT}/rx_bytes"), 77);
    let last = daemon.scrape_until("the other device", |scrape| {
        received(scrape, "bnxt_re0") == 77 && sum(scrape, "link_up", &[]) == 1
    });
    assert_eq!(received(&last, "mlx5_0"), 404);
    let telemetry = daemon.telemetry();
    assert_eq!(telemetry.sum("flowtap_processor_rejected_readings_total", &[]), 0);
    assert_eq!(telemetry.sum("flowtap_receiver_counter_resets_total", &[]), 0);
}

#[test]
fn a_driver_that_hangs_holds_no_window_open_and_no_end() {
    let sysfs = Sysfs::new();
    let daemon = Daemon::start(&[
        &sysfs.receiver(""),
        "receivers.generator={flows: 2, interval: 200ms, sent_bytes: 1000}",
        "service.pipelines.metrics.receivers=[rdma, generator]",
    ]);
    daemon.scrape_until("the devices", |scrape| sum(scrape, "link_up", &[]) == 2);
    let missed = || {
        let telemetry = daemon.telemetry();
        telemetry.sum("flowtap_receiver_missed_intervals_total", &[("receiver", "rdma")])
    };
    // A pipe that nobody writes to: opening it takes for ever.
    let counter = format!("{MLX5}/counters/symbol_error");
    let (path, pipe) = (sysfs.path(&counter), sysfs.path("pipe"));
    let hang = || {
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        fs::hard_link(&pipe, sysfs.path("new")).unwrap();
        fs::rename(sysfs.path("new"), &path).unwrap();
        let before = missed();
        ask_until("intervals without a look", || {
            (missed() >= before + 3).then_some(())
        });
    };
    let number = read(&path);
    hang();
    let sent =
        |scrape: &Exposition| scrape.sum("primus_lens_network_tcp_bytes", &[("direction", "outbound")]);
    let before = sent(&daemon.scrape());
    daemon.scrape_until("windows of the other receiver", |scrape| {
        sent(scrape) >= before + 6_000
    });
    // Nor the readings of other devices.
    sysfs.add(&format!("{BNXT}/rx_bytes"), 77);
    daemon.scrape_until("bytes of the other device", |scrape| {
        received(scrape, "bnxt_re0") == 77
    });
    // It answers.
    sysfs.set(&counter, number.trim());
    sysfs.add(&format!("{MLX5}/counters/port_rcv_data"), 100);
    fs::write(&pipe, &number).unwrap();
    daemon.scrape_until("its bytes", |scrape| received(scrape, "mlx5_0") == 400);
    fs::remove_file(&pipe).unwrap();
    hang();
    let (status, last) = daemon.stop();
    assert!(status.success(), "{}", last.log);
    let bytes = format!("{PREFIX}_bytes");
    assert_eq!(last.totals.sum(&bytes, &[("device", "mlx5_0")]), 400);
}

#[test]
fn the_increase_in_a_real_prometheus_is_what_the_device_counted() {
    let Some(newest) = require::peer("prometheus") else {
        return;
    };
    let sysfs = Sysfs::new();
    let daemon = sysfs.daemon();
    let store = Store::scraping(&newest, daemon.scrape_address(), "");
    let series = format!("{PREFIX}_bytes{{device=\"mlx5_0\",direction=\"inbound\"}}");
    let shows = |bytes: f64| ((store.number(&series)? - bytes).abs() < 0.5).then_some(());
    ask_until("the series at 0", || shows(0.0));
    for _ in 0..10 {
        sysfs.add(&format!("{MLX5}/counters/port_rcv_data"), 25_000);
    }
    // Also over a reset, of which what came after it counts.
    ask_until("a million bytes", || shows(1e6));
    sysfs.set(&format!("{MLX5}/counters/port_rcv_data"), "250000");
    ask_until("two million bytes", || shows(2e6));
    let increase = store.number(&format!("increase({series}[10m])")).unwrap();
    // PromQL extrapolates by an interval between samples at most.
    assert!((2e6..3.2e6).contains(&increase), "{increase}");
    assert_eq!(store.number(&format!("resets({series}[10m])")), Some(0.0));
}

#[test]
fn a_sysfs_that_is_not_there_is_an_error_with_its_key() {
    let output = crate::daemon::flowtap()
        .args(["run", "--set", "receivers.rdma.sysfs_root=/nowhere"])
        .args(["--set", "service.pipelines.metrics.receivers=[rdma]"])
        .args(["--set", "service.admin.endpoint=null"])
        .args(["--set", "service.telemetry.metrics.endpoint=null"])
        .args(["--set", "exporters.prometheus.endpoint=127.0.0.1:21400"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("receivers.rdma.sysfs_root: /nowhere"), "{said}");
    assert!(said.contains("hint: mount the host's sysfs"), "{said}");
}
