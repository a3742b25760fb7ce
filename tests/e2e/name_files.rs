//! Files of name resolution that are replaced while the daemon is in its sandbox.

use std::fs;
use std::process::Command;
use std::sync::atomic::Ordering;

use nix::sched::{CloneFlags, unshare};

use crate::connections::{Fault, Peer};
use crate::daemon::{Daemon, Launch};
use crate::netns::within_new;
use crate::peers::ask_until;
use crate::require;

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// Puts `text` in place of `/etc/hosts` as editors and DHCP clients do.
fn replace_hosts(text: &str) {
    fs::write("/etc/hosts.new", text).unwrap();
    fs::rename("/etc/hosts.new", "/etc/hosts").unwrap();
}

/// Starts a daemon whose exporters have names as addresses in a namespace with a separate `/etc`, and gives it and their peer to `work`.
fn with_own_etc(unprivileged: bool, work: impl FnOnce(&Daemon, &Peer) + Send) {
    within_new(|| {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        run(&format!("cp -a /etc {}", etc.display()));
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        run("mount --make-rprivate /");
        run(&format!("mount --bind {} /etc", etc.display()));
        replace_hosts("127.0.0.1 localhost\n");
        let (peer, port) = Peer::start(Fault::Close, 0);
        let retry = "retry: {initial_interval: 20ms, max_interval: 100ms}";
        let exporters = format!(
            "  otlp: {{endpoint: \"http://collector.test:{port}\", protocol: http/protobuf, interval: 200ms, {retry}}}\n"
        );
        let daemon = Daemon::launch(Launch {
            list: "exporters: [prometheus, otlp]",
            exporters: &exporters,
            set: &[
                "service.pipelines.metrics.receivers=[generator]",
                "receivers.generator={interval: 100ms, flows: 4}",
            ],
            unprivileged,
            ..Launch::default()
        });
        daemon.telemetry_until("failed look-ups", |own| {
            own.sum("flowtap_exporter_retried_requests_total", &[("exporter", "otlp")]) > 0
        });
        assert_eq!(peer.taken.load(Ordering::SeqCst), 0);
        replace_hosts("127.0.0.1 localhost collector.test\n");
        work(&daemon, &peer);
    });
}

#[test]
fn a_user_other_than_root_resolves_names_by_a_hosts_file_that_was_replaced() {
    let Some(_machine) = require::root() else {
        return;
    };
    with_own_etc(true, |_, peer| {
        ask_until("deliveries to a name of the new file", || {
            (peer.taken.load(Ordering::SeqCst) > 0).then_some(())
        });
    });
}

#[test]
fn root_logs_that_the_sandbox_closes_a_hosts_file_that_was_replaced() {
    let Some(_machine) = require::root() else {
        return;
    };
    with_own_etc(false, |daemon, _| {
        // The kernel may have no Landlock: then there is nothing to log.
        if daemon.said().contains("landlock on") {
            let line = daemon.wait_for("a file of name resolution was replaced");
            assert!(line.contains("file=/etc/hosts"), "{line}");
        }
    });
}
