//! Extensions, and the daemon's listeners, over reloads.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, flowtap, free_address, get, read};

/// The config `plain` with the extension `health_check` at `address`.
fn with_health_check(plain: &str, address: SocketAddr, path: &str) -> String {
    let extension = format!("extensions:\n  health_check: {{endpoint: \"{address}\", path: {path}}}\n");
    let listed = plain.replacen("service:\n", "service:\n  extensions: [health_check]\n", 1);
    assert_ne!(listed, plain);
    format!("{extension}{listed}")
}

/// Waits until the health check at `path` is good: on a busy machine a receiver may be late for a moment.
fn await_health(address: SocketAddr, path: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        if answer.contains(" 200 ") && answer.ends_with("ok\n") {
            return;
        }
        assert!(answer.contains(" 503 ") && Instant::now() < deadline, "{answer}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[test]
fn an_extension_begins_moves_and_ends_with_reloads_and_a_taken_port_changes_nothing() {
    let daemon = Daemon::start(&[]);
    let plain = read(&daemon.config());
    let (first, second) = (free_address(), free_address());
    assert!(daemon.reload(&with_health_check(&plain, first, "/")));
    await_health(first, "/");
    await_health(first, "/healthz");
    let state = |daemon: &Daemon| daemon.status()["components"]["extensions/health_check"]["state"].clone();
    assert_eq!(state(&daemon), "ok");

    assert!(daemon.reload(&with_health_check(&plain, second, "/ready")));
    await_health(second, "/ready");
    assert!(is_closed(first));

    // A port that another process has: the extension before is at work again.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let refused = with_health_check(&plain, taken.local_addr().unwrap(), "/");
    assert!(!daemon.reload(&refused));
    await_health(second, "/ready");
    assert_eq!(state(&daemon), "ok");

    assert!(daemon.reload(&plain));
    assert!(is_closed(second));
    assert!(state(&daemon).is_null());
    let (status, _) = daemon.stop_quietly();
    assert!(status.success());
}

#[test]
fn the_daemons_own_listeners_move_with_a_reload() {
    let daemon = Daemon::start(&[]);
    let config = read(&daemon.config());
    let (before, after) = (daemon.telemetry_address(), free_address());
    assert!(get(before, "/metrics").contains("flowtap_"));
    let moved = config.replace(&before.to_string(), &after.to_string());
    assert_ne!(moved, config);
    assert!(daemon.reload(&moved));
    assert!(get(after, "/metrics").contains("flowtap_"));
    assert!(is_closed(before));
}

/// The result of `flowtap validate` for a config file with this text.
fn validate(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flowtap.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = flowtap();
    command.arg("validate").arg("--config").arg(&file);
    command.output().unwrap()
}

#[test]
fn extensions_are_checked_as_other_components_are() {
    for (text, expected) in [
        (
            "extensions: {health_check: {}}\nservice: {extensions: [health_chek]}\n",
            "did you mean `health_check`?",
        ),
        (
            "extensions: {health_check: {endpoint: \"127.0.0.1:13134\"}}\nservice: {extensions: [health_check]}\n",
            "127.0.0.1:13134 is already used by service.admin.endpoint",
        ),
        (
            "extensions: {file_storage: {}}\n",
            "did you mean `exporters.otlp.storage`?",
        ),
        (
            "extensions: {health_check: {path: ready}}\nservice: {extensions: [health_check]}\n",
            "`ready` is not a path",
        ),
    ] {
        let output = validate(text);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text}{said}");
        assert!(said.contains(expected), "{text}{said}");
    }
    let unused = validate("extensions: {health_check: {}}\n");
    let said = String::from_utf8_lossy(&unused.stderr);
    assert!(unused.status.success(), "{said}");
    assert!(
        said.contains("this extension does not run") && said.contains("service.extensions: [health_check]"),
        "{said}"
    );
}
