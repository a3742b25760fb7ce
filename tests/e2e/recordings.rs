//! `record`, `replay`, `explain` and `classify`, and the debug endpoints of the Go exporter.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, flowtap, free_address, get};
use crate::exposition::Exposition;
use crate::require;
use crate::traffic::{Counted, exchange};

/// `flowtap record` at work. Killed when dropped.
pub(crate) struct Recorder(Child);

impl Recorder {
    fn start(file: &Path) -> Self {
        Self::with(file, &[])
    }

    /// With further settings, as `key=value`.
    pub(crate) fn with(file: &Path, set: &[&str]) -> Self {
        let set = set.iter().flat_map(|set| ["--set", *set]);
        let mut child = flowtap()
            .args(["record", "--set", "receivers.ebpf.interval=200ms"])
            .args(set)
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut lines = std::io::BufRead::lines(log).map_while(Result::ok);
        let recorder = Self(child);
        assert!(
            lines.any(|line| line.contains("recording file=")),
            "it does not record"
        );
        std::thread::spawn(move || lines.for_each(drop));
        recorder
    }

    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_recording_replays_to_the_same_metrics_to_the_byte_and_holds_what_the_applications_counted() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.flowtap");
    let recorder = Recorder::start(&file);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = exchange(&listener, 300, 41).unwrap();
    recorder.stop();

    let replayed = || output(flowtap().arg("replay").arg(&file));
    let first = replayed();
    assert_eq!(first, replayed());
    assert_eq!(Counted::of_port(&Exposition::parse(&first), port), sent);

    // As a receiver of the daemon, without privileges of any kind.
    let set = format!("receivers.replay.file={}", file.display());
    let daemon = Daemon::start(&[&set, "service.pipelines.metrics.receivers=[replay]"]);
    daemon.scrape_until("the recorded totals", |scrape| {
        Counted::of_port(scrape, port) == sent
    });

    let explained = output(flowtap().arg("explain").arg(&file));
    let line = explained
        .lines()
        .find(|line| line.starts_with("network_tcp_connections "))
        .unwrap_or_else(|| panic!("{explained}"));
    let series = first
        .lines()
        .filter(|line| line.starts_with("primus_lens_network_tcp_connections{"))
        .count();
    let told: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(told, series, "{explained}");
    assert!(line.contains("flow: "), "{explained}");

    // Cut off, and not a recording at all.
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    let output = flowtap().arg("replay").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("at byte ") && said.contains("cut off"), "{said}");
}

/// Asks a name server of this test for `label.site.example`; both ends are on this machine.
fn look_up(server: &UdpSocket, label: &str) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label, "site", "example"] {
        query.push(label.len().try_into().unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    client.send(&query).unwrap();
    let mut buffer = [0; 512];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    // The question is answered with one address.
    let mut answer = buffer[..length].to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    server.send_to(&answer, from).unwrap();
    client.recv(&mut buffer).unwrap();
}

#[test]
fn a_recording_has_transactions_of_dns_and_their_names_only_where_the_config_asks_for_names() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = format!(
        "receivers.ebpf.dns.ports=[{}]",
        server.local_addr().unwrap().port()
    );
    for (names, found) in [
        ("none", [false, false]),
        ("registered_domain", [false, true]),
        ("full", [true, true]),
    ] {
        let file = dir.path().join(names);
        let set = format!("receivers.ebpf.dns.names={names}");
        let recorder = Recorder::with(&file, &["receivers.ebpf.udp.hooks=cgroup", &port, &set]);
        for _ in 0..20 {
            look_up(&server, "confidential");
        }
        recorder.stop();
        let bytes = std::fs::read(&file).unwrap();
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert_eq!(["confidential", "site.example"].map(has), found, "names: {names}");
        // With their names or without, the transactions are there, at both ends.
        let replayed = Exposition::parse(&output(flowtap().arg("replay").arg(&file)));
        assert_eq!(
            replayed.sum("primus_lens_network_dns_queries", &[]),
            40,
            "{names}"
        );
        let explained = output(flowtap().arg("explain").arg(&file));
        for family in ["network_dns_queries ", "network_udp_datagrams "] {
            assert!(
                explained.lines().any(|line| line.starts_with(family)),
                "{explained}"
            );
        }
    }
}

#[test]
fn explain_says_what_live_traffic_would_make() {
    let Some(_machine) = require::root() else {
        return;
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut child = flowtap()
        .args(["explain", "--for", "1h", "--set", "receivers.ebpf.interval=200ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(log).map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("recording file=")),
        "it does not record"
    );
    std::thread::spawn(move || lines.for_each(drop));
    exchange(&listener, 20, 5).unwrap();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let explained = String::from_utf8(output.stdout).unwrap();
    let line = explained
        .lines()
        .find(|line| line.starts_with("network_tcp_connections "));
    assert!(line.is_some_and(|line| line.contains("event: ")), "{explained}");
}

#[test]
fn a_recording_can_go_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = flowtap()
        .args([
            "record",
            "--for",
            "1s",
            "--set",
            "receivers.generator={flows: 5, interval: 100ms}",
        ])
        .args(["--set", "service.pipelines.metrics.receivers=[generator]", "-"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        recorded.status.success(),
        "{}",
        String::from_utf8_lossy(&recorded.stderr)
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "no file of that name"
    );
    let file = dir.path().join("a.flowtap");
    std::fs::write(&file, recorded.stdout).unwrap();
    let replayed = output(flowtap().arg("replay").arg(&file));
    assert!(
        replayed.contains("primus_lens_network_tcp_connections{"),
        "{replayed}"
    );
}

#[test]
fn classify_prints_the_class_and_the_rule_that_matched() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("partners.txt");
    std::fs::write(&list, "203.0.113.0/24\n").unwrap();
    let config = dir.path().join("flowtap.yaml");
    let policy = format!(
        "processors:\n  policy:\n    k8s_svc: [10.96.0.0/12]\n    dns: [10.96.0.10]\n    classes:\n    - name: partners\n      \
         cidrs: [\"file:{}\"]\n",
        list.display()
    );
    std::fs::write(&config, policy).unwrap();
    let classified = |addresses: &[&str]| {
        output(
            flowtap()
                .arg("classify")
                .arg("--config")
                .arg(&config)
                .args(addresses),
        )
    };
    let said = classified(&["10.96.0.10", "10.96.0.11", "203.0.113.9", "198.51.100.1"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "10.96.0.10  dns  10.96.0.10/32 of the list `dns`  (policy)",
            "10.96.0.11  k8sSvc  10.96.0.0/12 of the list `k8s_svc`  (policy)",
            "203.0.113.9  partners  203.0.113.0/24 of the class `partners` of the config  (policy)",
            "198.51.100.1  externalHosts  in no range  (policy)",
        ]
    );
    // Beside those of another config.
    let candidate = dir.path().join("candidate.yaml");
    std::fs::write(
        &candidate,
        "processors:\n  policy:\n    k8s_svc: [10.96.0.0/12]\n",
    )
    .unwrap();
    let diff = |addresses: &[&str]| {
        let mut command = flowtap();
        command.arg("classify").arg("--config").arg(&config);
        command
            .arg("--diff")
            .arg(&candidate)
            .args(addresses)
            .output()
            .unwrap()
    };
    let different = diff(&["10.96.0.11", "203.0.113.9"]);
    assert_eq!(different.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&different.stdout),
        "10.96.0.11  same  k8sSvc: 10.96.0.0/12 of the list `k8s_svc`  ->  k8sSvc: 10.96.0.0/12 of the list `k8s_svc`  (policy)\n\
         203.0.113.9  DIFFERENT  partners: 203.0.113.0/24 of the class `partners` of the config  ->  externalHosts: in no range  (policy)\n"
    );
    assert_eq!(diff(&["10.96.0.11"]).status.code(), Some(0));
    let json = diff(&["--json", "10.96.0.11", "203.0.113.9"]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let decision = |class: &str, rule: Option<&str>| serde_json::json!({"class": class, "rule": rule});
    let service = || decision("k8sSvc", Some("10.96.0.0/12 of the list `k8s_svc`"));
    let partner = decision(
        "partners",
        Some("203.0.113.0/24 of the class `partners` of the config"),
    );
    assert_eq!(
        json,
        serde_json::json!({"different": 1, "addresses": [
            {"address": "10.96.0.11", "processor": "policy", "different": false, "before": service(), "after": service()},
            {"address": "203.0.113.9", "processor": "policy", "different": true, "before": partner,
             "after": decision("externalHosts", None)},
        ]})
    );
    let json = classified(&["--json", "198.51.100.1"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"addresses": [
            {"address": "198.51.100.1", "processor": "policy", "class": "externalHosts", "rule": null},
        ]})
    );
    std::fs::rename(&candidate, dir.path().join("moved.yaml")).unwrap();
    let missing = diff(&["10.96.0.11"]);
    let message = String::from_utf8_lossy(&missing.stderr);
    assert_eq!(missing.status.code(), Some(66), "{message}");
    assert!(message.contains("candidate.yaml: No such file"), "{message}");
    std::fs::write(&list, "203.0.113.0/24\nnonsense\n").unwrap();
    let output = flowtap()
        .arg("validate")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains(&format!("{}, line 2: `nonsense`", list.display())),
        "{said}"
    );
}

#[test]
fn the_debug_endpoints_have_the_shapes_of_the_go_exporter() {
    let Some(_machine) = require::root() else {
        return;
    };
    let admin = free_address();
    let set = format!("service.admin.endpoint={admin}");
    let _daemon = Daemon::start(&[&set]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer: serde_json::Value = serde_json::from_str(&get(admin, "/net-flow/tcp-listen")).unwrap();
    assert_eq!(
        (&answer["code"], &answer["message"]),
        (&0.into(), &"success".into())
    );
    assert!(
        answer["data"].as_array().unwrap().contains(&port.into()),
        "{answer}"
    );
    let table = get(admin, "/net-flow/tcp-file");
    assert!(table.trim_start().starts_with("sl  local_address"), "{table}");
    assert!(table.contains(&format!("0100007F:{port:04X}")), "{table}");
}
