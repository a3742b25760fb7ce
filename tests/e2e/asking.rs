//! Commands and requests about a part of flowtap: what they say of it, and nothing of other parts.

use std::fs;
use std::process::Output;

use crate::daemon::{Daemon, Launch, flowtap, free_address, get};
use crate::peers::ask_until;
use crate::require;

const GENERATED: [&str; 2] = [
    "receivers.generator={interval: 100ms, flows: 30}",
    "service.pipelines.metrics.receivers=[generator]",
];

fn start(set: &[&str]) -> Daemon {
    Daemon::launch(Launch {
        set: &[&GENERATED[..], set].concat(),
        unprivileged: nix::unistd::geteuid().is_root(),
        ..Launch::default()
    })
}

fn text(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    parts.concat()
}

fn findings(daemon: &Daemon) -> String {
    let admin = daemon.admin_address().to_string();
    let output = flowtap().args(["findings", "--admin", &admin]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

#[test]
fn without_findings_a_daemon_says_whether_it_watches_and_until_when_it_learns() {
    let daemon = start(&[
        "processors.watch={learn: 1h}",
        "service.pipelines.metrics.processors=[direction, policy, watch, window]",
    ]);
    let said = ask_until("the first watermark", || {
        Some(findings(&daemon)).filter(|said| !said.contains("no records yet"))
    });
    let learns = "no findings: `watch` in the pipeline `metrics` learns until ";
    let (_, until) = said.split_once(learns).unwrap_or_else(|| panic!("{said}"));
    let until = until.split(';').next().unwrap();
    let left = humantime::parse_rfc3339(until).unwrap();
    let left = left
        .duration_since(std::time::SystemTime::now())
        .unwrap()
        .as_secs();
    assert!((3000..=3600).contains(&left), "{left} s of an hour: {said}");
    drop(daemon);

    let daemon = start(&[]);
    let said = findings(&daemon);
    assert!(
        said.starts_with("no findings: no pipeline has the processor `watch`\n  hint: "),
        "{said}"
    );
}

#[test]
fn findings_where_no_daemon_answers_says_so_with_the_cause_and_what_to_do() {
    let run = |address: &str| {
        let output = flowtap().args(["findings", "--admin", address]).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{}", text(&output));
        text(&output)
    };
    let address = free_address().to_string();
    let said = run(&address);
    let expected = format!("no flowtap answers at {address}: Connection refused");
    assert!(
        said.contains(&expected) && said.contains("hint: name the admin listener"),
        "{said}"
    );
    // Another server.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 1024]).unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.0 200 OK\r\n\r\n<html>").unwrap();
    });
    let said = run(&address);
    answers.join().unwrap();
    let expected = format!("no flowtap answers at {address}: the endpoint is not a flowtap admin listener");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_path_that_the_admin_listener_does_not_have_comes_with_the_place_of_what_was_looked_for() {
    let daemon = start(&[]);
    let answer = |path: &str| {
        let mut stream = std::net::TcpStream::connect(daemon.admin_address()).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", daemon.admin_address());
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer
    };
    for (path, place) in [
        ("/metrics", "`exporters.prometheus.endpoint`"),
        ("/nothing", "/findings, /map"),
    ] {
        let answer = answer(path);
        assert!(
            answer.starts_with("HTTP/1.0 404 ") && answer.contains(place),
            "{answer}"
        );
    }
    assert!(!get(daemon.admin_address(), "/status").is_empty());
}

#[test]
fn a_command_about_a_part_of_the_config_warns_of_that_part_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("flowtap.yaml");
    let folder = dir.path().join("history");
    let text_of = format!(
        "processors: {{window: {{interval: 3s}}}}\n\
         exporters: {{file: {{path: {}, rotation: {{max_bytes: 10}}}}}}\n\
         service: {{pipelines: {{metrics: {{exporters: [file]}}}}}}\n",
        folder.display()
    );
    fs::write(&config, text_of).unwrap();
    let run = |command: &str| {
        text(
            &flowtap()
                .args([command, "--config"])
                .arg(&config)
                .output()
                .unwrap(),
        )
    };
    let (of_window, of_file) = ("windows of 3s don't end", "a file is finished at 10 bytes");
    let validated = run("validate");
    assert!(
        validated.contains(of_window) && validated.contains(of_file),
        "{validated}"
    );
    let history = run("history");
    assert!(
        !history.contains(of_window) && history.contains(of_file),
        "{history}"
    );
    let classified = text(
        &flowtap()
            .args(["classify", "192.0.2.1", "--config"])
            .arg(&config)
            .output()
            .unwrap(),
    );
    assert!(!classified.contains("warning"), "{classified}");
}

#[test]
fn diagnose_is_about_tcp_and_says_nothing_of_udp() {
    let Some(_machine) = require::root() else {
        return;
    };
    for more in [&[][..], &["--set", "receivers.ebpf.dns.names=full"]] {
        let output = flowtap()
            .args(["diagnose", "--for", "100ms"])
            .args(more)
            .output()
            .unwrap();
        let said = text(&output);
        assert!(said.contains("measuring;"), "{said}");
        assert!(!said.contains("UDP") && !said.contains("DNS"), "{said}");
    }
}
