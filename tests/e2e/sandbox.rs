//! The sandbox of a running daemon, and what it offers to other users and pages on this machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::daemon::{Daemon, Launch, flowtap, free_address, get, read};
use crate::require;

/// The status of a response to a request over HTTP/1.1 with this `Host`.
fn status_for(address: SocketAddr, path: &str, host: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{response}"))
}

#[test]
fn no_listener_serves_a_page_that_has_rebound_its_name_and_each_has_its_own_names() {
    let health = free_address();
    let daemon = Daemon::start(&[
        &format!("extensions.health_check.endpoint={health}"),
        "service.extensions=[health_check]",
        "extensions.health_check.allowed_hosts=[health.example]",
        "exporters.prometheus.allowed_hosts=[scrape.example]",
        "service.admin.allowed_hosts=[admin.example]",
        "service.telemetry.metrics.allowed_hosts=[own.example]",
    ]);
    for (address, path, own) in [
        (daemon.scrape_address(), "/metrics", "scrape.example"),
        (daemon.admin_address(), "/flows", "admin.example"),
        (daemon.admin_address(), "/", "admin.example"),
        (daemon.telemetry_address(), "/metrics", "own.example"),
        (health, "/", "health.example"),
    ] {
        let status = |host: &str| status_for(address, path, host);
        for page in [
            "page.example",
            &format!("page.example:{}", address.port()),
            "127.0.0.1.page.example",
        ] {
            assert_eq!(status(page), 421, "{path} with {page}");
        }
        for host in [&address.to_string(), "localhost", "[::1]:80", own] {
            assert_ne!(status(host), 421, "{path} with {host}");
        }
        for (other, _) in [("scrape.example", 0), ("admin.example", 0), ("own.example", 0)]
            .iter()
            .filter(|(other, _)| *other != own)
        {
            assert_eq!(status(other), 421, "{path} with {other}");
        }
    }
}

/// Every file and folder below `folder`, with its mode.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        found.push((
            entry.path().display().to_string(),
            metadata.permissions().mode() & 0o7777,
        ));
        if metadata.is_dir() {
            found.extend(modes(&entry.path()));
        }
    }
    found
}

#[test]
fn files_that_the_daemon_and_record_create_are_for_their_owner_only() {
    let Some(_guard) = require::root() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    // Nobody listens there, so requests stay on disk.
    let nowhere = free_address();
    let exporters = format!(
        "  otlp: {{endpoint: \"http://{nowhere}\", interval: 200ms, storage: {{directory: \"{}\"}}}}\n  \
         file: {{path: \"{}\"}}\n",
        at("queue"),
        at("flows")
    );
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, otlp, file]",
        exporters: &exporters,
        set: &["service.shutdown_timeout=2s"],
        ..Launch::default()
    });
    daemon.telemetry_until("a request on disk", |own| {
        own.sum("flowtap_exporter_storage_requests", &[]) > 0
    });
    daemon.stop_quietly();
    let recorded = flowtap()
        .args(["record", "--for", "1s", &at("recording")])
        .args(["--set", "service.admin.endpoint=null"])
        .output()
        .unwrap();
    assert!(recorded.status.success(), "{recorded:?}");
    let found = modes(folder.path());
    for name in ["queue/", "flows/", "recording"] {
        assert!(
            found.iter().any(|(path, _)| path.contains(name)),
            "no {name} in {found:?}"
        );
    }
    for (path, mode) in found {
        let expected = if Path::new(&path).is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{path}: {mode:o}");
    }
}

/// The value of a field of `/proc/<pid>/status`.
fn field<'t>(status: &'t str, name: &str) -> &'t str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.strip_prefix(':'))
        .map_or_else(|| panic!("no {name} in {status}"), str::trim)
}

#[test]
fn every_thread_is_in_the_sandbox_also_those_that_a_reload_starts() {
    let daemon = Daemon::start(&[]);
    let plain = read(&daemon.config());
    let changed = plain.replace("ebpf: {interval: 200ms}", "ebpf: {interval: 250ms}");
    assert_ne!(plain, changed);
    assert!(daemon.reload(&changed));
    let tasks = format!("/proc/{}/task", daemon.pid());
    let mut threads = 0;
    for task in fs::read_dir(tasks).unwrap().map(Result::unwrap) {
        // A thread may have ended meanwhile.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        threads += 1;
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
        assert_eq!(field(&status, "Seccomp"), "2", "{status}");
        let bounding = u64::from_str_radix(field(&status, "CapBnd"), 16).unwrap();
        // CAP_PERFMON and CAP_BPF (linux/capability.h).
        assert_eq!(bounding & !(1 << 38 | 1 << 39), 0, "{status}");
    }
    assert!(threads > 3, "{threads}");
}

/// Whether the log line `in the sandbox` says that TCP is limited, which takes Linux 6.7.
fn limits_ports(daemon: &Daemon) -> bool {
    let log = daemon.said();
    let line = log.lines().find(|line| line.contains("in the sandbox")).unwrap();
    line.contains("TCP ports of the config")
}

#[test]
fn with_ports_closed_the_daemon_works_and_a_reload_that_needs_another_is_refused_with_its_key() {
    let daemon = Daemon::start(&["service.sandbox.tcp_ports=true"]);
    if !limits_ports(&daemon) {
        require::skip("Landlock with ports (Linux 6.7)");
        return;
    }
    get(daemon.scrape_address(), "/metrics");
    let plain = read(&daemon.config());
    let (before, after) = (daemon.scrape_address(), free_address());
    let moved = plain.replace(&before.to_string(), &after.to_string());
    assert!(!daemon.reload(&moved));
    daemon.wait_for("the new config is refused");
    let line = daemon.wait_for(&format!("listens on TCP port {}", after.port()));
    assert!(line.contains("exporters.prometheus.endpoint"), "{line}");
    daemon.wait_for("hint: restart flowtap");
    // The one before is at work, and another change with the same ports is taken.
    get(before, "/metrics");
    assert!(daemon.reload(&plain.replace("window: {interval: 200ms}", "window: {interval: 300ms}")));
}

#[test]
fn a_reload_to_a_folder_that_the_sandbox_has_closed_is_refused_with_its_key_and_the_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| folder.path().join(name));
    fs::create_dir(&after).unwrap();
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus, debug, file]",
        exporters: &format!("  file: {{path: {}}}\n", before.display()),
        ..Launch::default()
    });
    let log = daemon.said();
    let line = log.lines().find(|line| line.contains("in the sandbox")).unwrap();
    if !line.contains("landlock on") && !line.contains("landlock partial") {
        require::skip("Landlock (Linux 5.13)");
        return;
    }
    let plain = read(&daemon.config());
    let moved = plain.replace(before.to_str().unwrap(), after.to_str().unwrap());
    assert_ne!(plain, moved);
    assert!(!daemon.reload(&moved));
    daemon.wait_for("the new config is refused");
    let line = daemon.wait_for(&format!("writes to {}", after.display()));
    assert!(line.contains("exporters.file.path"), "{line}");
    daemon.wait_for("hint: restart flowtap");
    assert_eq!(fs::read_dir(&after).unwrap().count(), 0);
}
