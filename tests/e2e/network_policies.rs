//! `flowtap policy`: recordings and live traffic under Kubernetes `NetworkPolicies`, exit codes, and what is suggested.
//!
//! The suggested policies are validated against the schema of the Kubernetes API, by a program that is not ours.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use flowtap_pipeline::cluster_objects::{ClusterObjects, NamespaceObject, PodObject};
use flowtap_pipeline::{Endpoint, Events, Flow, FlowBatch, NodeInfo, Role, RoleSource, TcpRecord, Timestamp};
use flowtap_receivers::replay::{Frame, Writer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::flowtap;
use crate::{netns, require};

/// A connection of `local`, which connected or was accepted.
fn record(local: &str, remote: &str, port: u16, role: Role) -> TcpRecord {
    let (lport, rport) = if role == Role::Server {
        (port, 50_000)
    } else {
        (50_000, port)
    };
    let end = |address: &str, port| Endpoint::new(address.parse().unwrap(), port);
    TcpRecord {
        events: Events::OPENED,
        sent_bytes: 100,
        received_bytes: 20,
        ..TcpRecord::new(Flow {
            role,
            role_source: RoleSource::Handshake,
            ..Flow::new(end(local, lport), end(remote, rport))
        })
    }
}

fn pod(namespace: &str, app: &str, address: &str) -> PodObject {
    PodObject {
        namespace: namespace.to_owned(),
        name: format!("{app}-6d4cf56db6-x2k4p"),
        workload: format!("Deployment/{app}"),
        labels: [("app", app), ("pod-template-hash", "6d4cf56db6")]
            .map(|(k, v)| (k.into(), v.into()))
            .into(),
        addresses: vec![address.parse().unwrap()],
        node: "n1".to_owned(),
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
        ..PodObject::default()
    }
}

/// web serves an address outside and calls db, job calls db also; recorded on the node of all three.
fn records() -> Vec<TcpRecord> {
    vec![
        record("10.244.1.7", "198.51.100.7", 8080, Role::Server),
        record("10.244.1.7", "10.244.1.8", 5432, Role::Client),
        record("10.244.1.8", "10.244.1.7", 5432, Role::Server),
        record("10.244.1.9", "10.244.1.8", 5432, Role::Client),
    ]
}

fn cluster() -> ClusterObjects {
    ClusterObjects {
        namespaces: vec![NamespaceObject {
            name: "shop".to_owned(),
            ..NamespaceObject::default()
        }],
        pods: vec![
            pod("shop", "web", "10.244.1.7"),
            pod("shop", "db", "10.244.1.8"),
            pod("batch", "job", "10.244.1.9"),
        ],
        ..ClusterObjects::default()
    }
}

/// Writes a recording of `records`.
fn recording(dir: &Path, name: &str, records: Vec<TcpRecord>, cluster: Option<ClusterObjects>) -> PathBuf {
    let path = dir.join(name);
    let mut writer = Writer::create(&path).unwrap();
    let at = Timestamp::from_nanos;
    let start = Frame::Start {
        at: at(1),
        node: NodeInfo::default(),
    };
    let batch = Frame::Batch(FlowBatch {
        tcp: records,
        ..FlowBatch::default()
    });
    let frames = [
        Some(start),
        cluster.map(Frame::Cluster),
        Some(batch),
        Some(Frame::End(at(9))),
    ];
    for frame in frames.into_iter().flatten() {
        writer.write(&frame).unwrap();
    }
    writer.flush().unwrap();
    path
}

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn policy(arguments: &[&str]) -> Output {
    flowtap().arg("policy").args(arguments).output().unwrap()
}

/// The text of an output that ended with `code`.
fn text(output: &Output, code: i32) -> String {
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    stdout.into_owned()
}

/// db accepts web alone.
const DB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
";

/// db accepts every pod.
const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{namespaceSelector: {}}]}]
";

#[test]
fn check_names_denied_flows_with_the_rule_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let recording = recording.to_str().unwrap();
    let (db, open) = (
        file(dir.path(), "db.yaml", DB),
        file(dir.path(), "open.yaml", OPEN),
    );
    let (db, open) = (db.to_str().unwrap(), open.to_str().unwrap());

    let report = text(&policy(&["check", "--file", db, recording]), 1);
    assert_eq!(
        report,
        "DENIED     batch/Deployment/job -> shop/Deployment/db TCP 5432: 1 connection, 120 bytes\n  \
           ingress: isolated by shop/db, no rule of which allows it\n\
         1 flow denied, 0 undecided, 2 allowed\n"
    );
    let all = text(&policy(&["check", "--all", "--file", db, recording]), 1);
    assert!(
        all.contains("ingress: allowed by shop/db spec.ingress[0].from[0] and .ports[0]\n"),
        "{all}"
    );
    let fine = text(&policy(&["check", "--file", open, recording]), 0);
    assert_eq!(fine, "0 flows denied, 0 undecided, 3 allowed\n");

    let report: Value =
        serde_json::from_str(&text(&policy(&["check", "--json", "--file", db, recording]), 1)).unwrap();
    assert_eq!((&report["denied"], &report["allowed"]), (&json!(1), &json!(2)));
    let denied = &report["flows"][0];
    assert_eq!(denied["verdict"], "denied");
    assert_eq!(denied["client"]["pods"], json!(["job-6d4cf56db6-x2k4p"]));
    assert_eq!(denied["ingress"]["policies"], json!(["shop/db"]));

    let differ = text(&policy(&["diff", db, open, recording]), 1);
    assert!(
        differ.starts_with("DENIED -> allowed batch/Deployment/job -> shop/Deployment/db TCP 5432"),
        "{differ}"
    );
    assert!(
        differ.contains("B: ingress: allowed by shop/db spec.ingress[0].from[0]\n"),
        "{differ}"
    );
    assert_eq!(
        text(&policy(&["diff", db, db, recording]), 0),
        "0 flows with another verdict, 3 with the same\n"
    );
}

#[test]
fn wrong_arguments_exit_with_2_and_wrong_files_with_the_code_and_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), None);
    let recording = recording.to_str().unwrap();
    assert_eq!(policy(&["check", recording]).status.code(), Some(2));
    assert_eq!(policy(&["chekc"]).status.code(), Some(2));
    let misspelt = file(
        dir.path(),
        "p.yaml",
        &DB.replace("podSelector: {matchLabels: {app: db}}", "podSelecter: {}"),
    );
    let output = policy(&["check", "--file", misspelt.to_str().unwrap(), recording]);
    text(&output, 65);
    let message = String::from_utf8_lossy(&output.stderr);
    let expected =
        "p.yaml, document 1 (NetworkPolicy shop/db), spec.podSelecter: unknown key; expected one of";
    assert!(message.contains(expected), "{message}");
    text(&policy(&["check", "--file", "/nowhere.yaml", recording]), 66);
}

#[test]
fn suggested_policies_are_valid_in_the_api_and_deny_nothing_that_was_observed() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let recording = recording.to_str().unwrap();
    let suggested = text(&policy(&["suggest", recording]), 0);
    for name in ["flowtap-web", "flowtap-db", "flowtap-job"] {
        assert!(suggested.contains(&format!("name: {name}\n")), "{suggested}");
    }
    assert!(!suggested.contains("pod-template-hash"), "{suggested}");
    let suggested = file(dir.path(), "suggested.yaml", &suggested);
    let path = suggested.to_str().unwrap();
    let checked = text(&policy(&["check", "--file", path, recording]), 0);
    assert_eq!(checked, "0 flows denied, 0 undecided, 3 allowed\n");
    // The same as a List.
    let list = file(
        dir.path(),
        "list.json",
        &text(&policy(&["suggest", "--json", recording]), 0),
    );
    assert_eq!(
        text(&policy(&["diff", path, list.to_str().unwrap(), recording]), 0),
        "0 flows with another verdict, 3 with the same\n"
    );

    let Some(validate) = require::kubernetes_validate() else {
        return;
    };
    let valid = |file: &Path| {
        Command::new(&validate)
            .arg("--strict")
            .arg(file)
            .output()
            .unwrap()
    };
    let output = valid(&suggested);
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // It would have noticed.
    let broken = std::fs::read_to_string(&suggested)
        .unwrap()
        .replace("podSelector:", "podSelectors:");
    assert!(!valid(&file(dir.path(), "broken.yaml", &broken)).status.success());
}

#[test]
fn a_cluster_from_files_names_pods_and_without_one_addresses_decide_and_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), None);
    let recording = recording.to_str().unwrap();
    let db = file(dir.path(), "db.yaml", DB);
    let db = db.to_str().unwrap();
    let pod = |namespace: &str, app: &str, ip: &str| {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": app, "namespace": namespace, "labels": {"app": app}},
               "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIP": ip, "hostIP": "192.0.2.1"}})
    };
    let pods = json!({"kind": "List", "apiVersion": "v1", "items": [
        pod("shop", "web", "10.244.1.7"), pod("shop", "db", "10.244.1.8"), pod("batch", "job", "10.244.1.9")
    ]});
    let pods = file(dir.path(), "pods.yaml", &pods.to_string());
    let namespaces = file(
        dir.path(),
        "ns.yaml",
        "kind: Namespace\napiVersion: v1\nmetadata: {name: shop}\n",
    );
    let arguments = [
        "--pods",
        pods.to_str().unwrap(),
        "--namespaces",
        namespaces.to_str().unwrap(),
    ];
    let report = text(
        &policy(&[&["check", "--file", db][..], &arguments, &[recording]].concat()),
        1,
    );
    assert!(
        report.starts_with("DENIED     batch/Pod/job -> shop/Pod/db TCP 5432"),
        "{report}"
    );

    // By address: the selectors of peers can't be decided, but no rule allows the other port.
    let report = text(&policy(&["check", "--file", db, recording]), 1);
    assert!(report.contains("note: no pods are known"), "{report}");
    assert!(
        report.contains("undecided  10.244.1.7 -> 10.244.1.8 TCP 5432"),
        "{report}"
    );
    let block = DB.replace(
        "podSelector: {matchLabels: {app: web}}",
        "ipBlock: {cidr: 10.244.1.7/32}",
    );
    let block = file(dir.path(), "block.yaml", &block);
    let report = text(
        &policy(&["check", "--file", block.to_str().unwrap(), recording]),
        1,
    );
    assert!(
        report.contains("DENIED     198.51.100.7 -> 10.244.1.7 TCP 8080"),
        "{report}"
    );
    assert!(report.contains("1 flow denied"), "{report}");
}

#[test]
fn replay_has_the_names_of_the_cluster_that_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let set = [
        "processors.kubernetes={}",
        "service.pipelines.metrics.processors=[direction, policy, kubernetes, window]",
        "processors.window.families.network_tcp_flow_egress.labels=[peer_workload, direction]",
    ];
    let set = set.iter().flat_map(|set| ["--set", set]);
    let output = flowtap()
        .arg("replay")
        .args(set)
        .arg(&recording)
        .output()
        .unwrap();
    let metrics = text(&output, 0);
    assert!(metrics.contains("peer_workload=\"Deployment/db\""), "{metrics}");
}

/// Two ends on a pair of interfaces, as the traffic of pods passes; loopback is not judged.
#[test]
fn live_traffic_is_judged_by_address() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let policies = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: 10.99.28.0/24, except: [10.99.28.2/32]}}]}]
";
    let policies = file(dir.path(), "p.yaml", policies);
    netns::reserve();
    let mut child = flowtap()
        .args([
            "policy",
            "check",
            "--json",
            "--for",
            "1h",
            "--set",
            "receivers.ebpf.interval=200ms",
        ])
        .arg("--file")
        .arg(&policies)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("recording\"") || line.contains("recording ")),
        "it does not record"
    );
    thread::spawn(move || lines.for_each(drop));
    let port = netns::within_new(|| {
        // Addresses of one namespace reach each other over its loopback interface, and are not loopback addresses.
        for address in ["10.99.28.1/24", "10.99.28.2/24", "10.99.28.3/24"] {
            let added = Command::new("ip")
                .args(["addr", "add", address, "dev", "lo"])
                .status()
                .unwrap();
            assert!(added.success());
        }
        let listener = TcpListener::bind((Ipv4Addr::new(10, 99, 28, 1), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for last in [2_u8, 3] {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let from = std::net::SocketAddr::from((Ipv4Addr::new(10, 99, 28, last), 0));
            socket.bind(&from.into()).unwrap();
            socket
                .connect(&std::net::SocketAddr::from((Ipv4Addr::new(10, 99, 28, 1), port)).into())
                .unwrap();
            let mut client = TcpStream::from(socket);
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"question").unwrap();
            let mut buffer = [0; 8];
            std::io::Read::read_exact(&mut server, &mut buffer).unwrap();
        }
        port
    });
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    // Other flows of the machine may be denied also: those of the port are what is asserted.
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen: Vec<_> = report["flows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|flow| flow["port"] == port && flow["server"]["address"] == "10.99.28.1")
        .filter(|flow| flow["ingress"]["decision"] != "not_a_pod")
        .map(|flow| {
            (
                flow["client"]["address"].clone(),
                flow["verdict"].clone(),
                flow["bytes"].clone(),
            )
        })
        .collect();
    seen.sort_by_key(|(address, ..)| address.to_string());
    assert_eq!(
        seen,
        [
            (json!("10.99.28.2"), json!("denied"), json!(8)),
            (json!("10.99.28.3"), json!("allowed"), json!(8)),
        ]
    );
}
