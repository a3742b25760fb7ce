//! `flowtap policy`: recordings and live traffic under Kubernetes `NetworkPolicies`, exit codes, and what is suggested.
//!
//! The suggested policies are validated against the schema of the Kubernetes API, by a program that is not ours.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use flowtap_pipeline::cluster_objects::{
    ClusterObjects, NamedPort, NamespaceObject, NodeObject, PodObject, PortProtocol, ServiceObject,
    ServicePort, TargetPort,
};
use flowtap_pipeline::{
    Endpoint, Events, Flow, FlowBatch, NodeInfo, Role, RoleSource, TcpRecord, Timestamp, Transport, UdpRecord,
};
use flowtap_receivers::replay::{Frame, Writer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::{flowtap, flowtap_of_nobody};
use crate::kubernetes::Api;
use crate::{netns, require};

/// A connection of `local`, which connected or was accepted.
pub(crate) fn record(local: &str, remote: &str, port: u16, role: Role) -> TcpRecord {
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

pub(crate) fn pod(namespace: &str, app: &str, address: &str) -> PodObject {
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
pub(crate) fn records() -> Vec<TcpRecord> {
    vec![
        record("10.244.1.7", "198.51.100.7", 8080, Role::Server),
        record("10.244.1.7", "10.244.1.8", 5432, Role::Client),
        record("10.244.1.8", "10.244.1.7", 5432, Role::Server),
        record("10.244.1.9", "10.244.1.8", 5432, Role::Client),
    ]
}

pub(crate) fn cluster() -> ClusterObjects {
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
pub(crate) fn recording(
    dir: &Path,
    name: &str,
    records: Vec<TcpRecord>,
    cluster: Option<ClusterObjects>,
) -> PathBuf {
    let batch = FlowBatch {
        tcp: records,
        ..FlowBatch::default()
    };
    recording_of(dir, name, batch, cluster)
}

fn recording_of(dir: &Path, name: &str, batch: FlowBatch, cluster: Option<ClusterObjects>) -> PathBuf {
    let path = dir.join(name);
    let mut writer = Writer::create(&path).unwrap();
    let at = Timestamp::from_nanos;
    let start = Frame::Start {
        at: at(1),
        node: NodeInfo::default(),
    };
    let frames = [
        Some(start),
        cluster.map(Frame::Cluster),
        Some(Frame::Batch(batch)),
        Some(Frame::End(at(9))),
    ];
    for frame in frames.into_iter().flatten() {
        writer.write(&frame).unwrap();
    }
    writer.flush().unwrap();
    path
}

pub(crate) fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

pub(crate) fn policy(arguments: &[&str]) -> Output {
    flowtap().arg("policy").args(arguments).output().unwrap()
}

/// The text of an output that ended with `code`.
pub(crate) fn text(output: &Output, code: i32) -> String {
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    stdout.into_owned()
}

/// db accepts web alone.
pub(crate) const DB: &str = "
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
pub(crate) const OPEN: &str = "
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

/// A job ends, and the address of one pod goes to another, while flows are recorded.
#[test]
fn flows_are_judged_by_the_pods_of_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.flowtap");
    let second = |second: u64| Timestamp::from_nanos(second * 1_000_000_000);
    let batch = |clients: &[&str]| {
        let tcp = clients
            .iter()
            .map(|client| record("10.244.1.8", client, 5432, Role::Server));
        Frame::Batch(FlowBatch {
            tcp: tcp.collect(),
            ..FlowBatch::default()
        })
    };
    let listed = |gone: &[&str]| Frame::Listed {
        gone: gone
            .iter()
            .map(|app| ("shop".to_owned(), pod("shop", app, "10.244.1.1").name))
            .collect(),
        starts: Vec::new(),
    };
    let pods = |pods| {
        Frame::Cluster(ClusterObjects {
            pods,
            ..ClusterObjects::default()
        })
    };
    let (job, web, new) = ("10.244.1.9", "10.244.1.7", "10.244.1.10");
    let mut first = cluster();
    first.pods.push(pod("shop", "old", "10.244.1.10"));
    let frames = [
        Frame::Start {
            at: second(1),
            node: NodeInfo::default(),
        },
        Frame::Cluster(first),
        listed(&[]),
        batch(&[job, web, new]),
        Frame::Watermark(second(2)),
        listed(&[]),
        // Now the job's address is left, and nobody knows who calls from that of the two.
        batch(&[new]),
        Frame::Watermark(second(30)),
        pods(vec![
            PodObject {
                ended: true,
                ..pod("batch", "job", job)
            },
            pod("shop", "new", new),
        ]),
        listed(&["old"]),
        batch(&[job, new]),
        Frame::End(second(40)),
    ];
    let mut writer = Writer::create(&path).unwrap();
    for frame in frames {
        writer.write(&frame).unwrap();
    }
    writer.flush().unwrap();
    let old = DB.replace("app: web", "app: old");
    let db = file(dir.path(), "db.yaml", &old);
    let [db, recording] = [&db, &path].map(|path| path.to_str().unwrap());
    let report = text(&policy(&["check", "--all", "--file", db, recording]), 1);
    let rows: Vec<_> = report.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        rows,
        [
            "DENIED     batch/Deployment/job -> shop/Deployment/db TCP 5432: 1 connection, 120 bytes",
            "DENIED     shop/Deployment/new -> shop/Deployment/db TCP 5432: 1 connection, 120 bytes",
            "DENIED     shop/Deployment/web -> shop/Deployment/db TCP 5432: 1 connection, 120 bytes",
            "undecided  unknown pod 10.244.1.9 -> shop/Deployment/db TCP 5432: 1 connection, 120 bytes",
            "undecided  unknown pod 10.244.1.10 -> shop/Deployment/db TCP 5432: 1 connection, 120 bytes",
            "allowed    shop/Deployment/old -> shop/Deployment/db TCP 5432: 1 connection, 120 bytes",
            "note: 2 flows of an unknown pod, at an address that several pods have, that passed from one pod to another, or whose pod had ended: the cluster \
             is listed every 30 seconds",
            "3 flows denied, 2 undecided, 1 allowed",
        ],
        "{report}"
    );
    let suggested = text(&policy(&["suggest", recording]), 0);
    let suggested = file(dir.path(), "suggested.yaml", &suggested);
    let report = text(
        &policy(&["check", "--file", suggested.to_str().unwrap(), recording]),
        0,
    );
    assert!(
        report.ends_with("0 flows denied, 2 undecided, 4 allowed\n"),
        "{report}"
    );
}

#[test]
fn a_namespace_that_no_cluster_accepts_and_an_object_that_cannot_be_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), None);
    let db = file(dir.path(), "db.yaml", DB);
    let [db, recording] = [&db, &recording].map(|path| path.to_str().unwrap());
    for name in ["A b", "", "Prod_1"] {
        for command in [&["suggest"][..], &["check", "--file", db], &["diff", db, db]] {
            let output = policy(&[command, &["--namespace", name, recording]].concat());
            assert_eq!(text(&output, 2), "");
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(
                message.contains("'--namespace <NAME>': expected the name of a namespace"),
                "{message}"
            );
        }
    }
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: db, labels: {version: 1}}\nstatus: {podIP: 10.1.0.2/32}\n";
    let pod = file(dir.path(), "pod.yaml", pod);
    let pod = pod.to_str().unwrap();
    let output = policy(&["check", "--file", db, "--cluster", pod, recording]);
    assert_eq!(text(&output, 65), "");
    let place = format!("{pod}, document 1 (Pod db)");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "flowtap: {place}, metadata.labels.version: expected a string, found the number 1; hint: quote it\n\
             {place}, status.podIP: expected an address such as 10.244.1.7, found \"10.1.0.2/32\"\n"
        )
    );
}

#[test]
fn diff_in_json_has_both_verdicts_of_each_flow_with_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let recording = recording.to_str().unwrap();
    let (db, open) = (
        file(dir.path(), "db.yaml", DB),
        file(dir.path(), "open.yaml", OPEN),
    );
    let (db, open) = (db.to_str().unwrap(), open.to_str().unwrap());
    let report: Value =
        serde_json::from_str(&text(&policy(&["diff", "--json", db, open, recording]), 1)).unwrap();
    assert_eq!(
        (&report["different"], &report["same"], &report["records_left_out"]),
        (&json!(1), &json!(2), &json!(0))
    );
    let [flow] = &report["flows"].as_array().unwrap()[..] else {
        panic!("{report:#}");
    };
    assert_eq!(
        (&flow["client"]["workload"], &flow["server"]["workload"]),
        (&json!("Deployment/job"), &json!("Deployment/db"))
    );
    assert_eq!(
        (
            &flow["port"],
            &flow["protocol"],
            &flow["connections"],
            &flow["bytes"]
        ),
        (&json!(5432), &json!("TCP"), &json!(1), &json!(120))
    );
    assert_eq!(flow["before"]["verdict"], "denied");
    assert_eq!(flow["before"]["ingress"]["policies"], json!(["shop/db"]));
    assert_eq!(flow["after"]["verdict"], "allowed");
    assert_eq!(flow["after"]["ingress"]["decision"], "allowed");

    let report: Value =
        serde_json::from_str(&text(&policy(&["diff", "--json", db, db, recording]), 0)).unwrap();
    assert_eq!(
        (&report["different"], &report["same"], &report["flows"]),
        (&json!(0), &json!(3), &json!([]))
    );
}

#[test]
fn flows_beyond_the_bound_are_counted_and_end_in_1_although_none_is_denied() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let recording = recording.to_str().unwrap();
    let open = file(dir.path(), "open.yaml", OPEN);
    let open = open.to_str().unwrap();
    let few = ["--max-flows", "1", recording];
    for command in [&["check", "--file", open][..], &["diff", open, open]] {
        let output = policy(&[command, &few].concat());
        let report = text(&output, 1);
        assert!(report.contains("not judged: "), "{report}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            message.contains("some flows were not judged; hint: a larger --max-flows"),
            "{message}"
        );
        let report: Value =
            serde_json::from_str(&text(&policy(&[command, &["--json"], &few].concat()), 1)).unwrap();
        assert!(report["records_left_out"].as_u64().unwrap() > 0, "{report:#}");
    }
    text(
        &policy(&["check", "--file", open, "--max-flows", "0", recording]),
        2,
    );
}

/// UDP as the receiver reports it without a peer: by hooks that do not show it, or for want of a place in its table.
fn udp_without_peer(unplaced: bool) -> FlowBatch {
    let flow = record("10.244.1.7", "0.0.0.0", 0, Role::Unknown).flow;
    FlowBatch {
        udp: vec![UdpRecord {
            sent_bytes: 40,
            unplaced,
            ..UdpRecord::new(Flow {
                transport: Transport::Udp,
                ..flow
            })
        }],
        ..FlowBatch::default()
    }
}

#[test]
fn udp_whose_peer_is_not_known_is_a_note_and_udp_without_a_place_is_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let open = file(dir.path(), "open.yaml", OPEN);
    let open = open.to_str().unwrap();
    let recording = |unplaced| {
        let name = format!("{unplaced}.flowtap");
        recording_of(dir.path(), &name, udp_without_peer(unplaced), Some(cluster()))
    };
    let (hooks, table) = (recording(false), recording(true));
    for command in [
        &["check", "--file", open, "--json"][..],
        &["diff", open, open, "--json"],
    ] {
        let report = text(&policy(&[command, &[hooks.to_str().unwrap()]].concat()), 0);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(
            (
                &report["records_without_peer"],
                &report["records_unplaced"],
                &report["records_left_out"]
            ),
            (&json!(1), &json!(0), &json!(0))
        );
        assert!(
            report["notes"][0]
                .as_str()
                .unwrap()
                .contains("hint: record with `udp.hooks: functions`")
        );

        let output = policy(&[command, &[table.to_str().unwrap()]].concat());
        let report: Value = serde_json::from_str(&text(&output, 1)).unwrap();
        assert_eq!(report["records_unplaced"], 1);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            message.contains("hint: record with a larger receivers.ebpf.udp.max_flows"),
            "{message}"
        );
    }
}

#[test]
fn a_check_that_a_signal_ends_or_that_judged_nothing_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let open = OPEN
        .replace("{matchLabels: {app: db}}", "{}")
        .replace("[{from: [{namespaceSelector: {}}]}]", "[{}]");
    let open = file(dir.path(), "open.yaml", &open);
    let config = file(
        dir.path(),
        "config.yaml",
        "receivers:\n  generator: {flows: 5, interval: 100ms}\n\
         processors:\n  direction:\n  policy:\n  window: {interval: 1s}\n\
         exporters:\n  debug:\n\
         service:\n  kubernetes: {enabled: false}\n\
         \x20 pipelines: {metrics: {receivers: [generator], processors: [direction, policy, window], exporters: [debug]}}\n",
    );
    let log = dir.path().join("log");
    let child = flowtap()
        .args(["policy", "check", "--for", "1h", "--config"])
        .arg(&config)
        .args(["--file".as_ref(), open.as_os_str()])
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    let deadline = std::time::Instant::now() + crate::daemon::WAIT_TIMEOUT;
    while !said().contains("recording") {
        assert!(std::time::Instant::now() < deadline, "{}", said());
        thread::sleep(std::time::Duration::from_millis(50));
    }
    thread::sleep(std::time::Duration::from_secs(1));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let report = text(&output, 1);
    assert!(
        report.contains(" s of 3600 s: a signal ended the measurement"),
        "{report}"
    );
    assert!(
        said().contains(" s of 3600 s: later flows were not judged"),
        "{}",
        said()
    );

    let nothing = recording(dir.path(), "nothing", Vec::new(), Some(cluster()));
    let [open, nothing] = [&open, &nothing].map(|path| path.to_str().unwrap());
    let report = text(&policy(&["check", "--file", open, nothing]), 0);
    assert!(report.contains("note: no flow was judged"), "{report}");
    let report = text(&policy(&["diff", open, open, nothing]), 0);
    assert!(report.contains("note: no flow was judged"), "{report}");
    text(
        &policy(&["check", "--fail-on-undecided", "--file", open, nothing]),
        1,
    );
}

#[test]
fn undecided_flows_end_in_1_on_request_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster();
    // Whose pod is called db is not known.
    let db = cluster.pods.remove(1);
    cluster.nodes.push(NodeObject {
        name: "n1".to_owned(),
        pod_ranges: vec!["10.244.1.0/24".parse().unwrap()],
        ..NodeObject::default()
    });
    assert_eq!(db.workload, "Deployment/db");
    let recording = recording(dir.path(), "a.flowtap", records(), Some(cluster));
    let egress = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
";
    let egress = file(dir.path(), "egress.yaml", egress);
    let command = [
        "check",
        "--file",
        egress.to_str().unwrap(),
        recording.to_str().unwrap(),
    ];
    let report = text(&policy(&command), 0);
    assert!(report.contains("0 flows denied, 1 undecided"), "{report}");
    let output = policy(&[&command[..], &["--fail-on-undecided"]].concat());
    assert_eq!(text(&output, 1), report);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("1 flow undecided; hint: list the pods"),
        "{message}"
    );
}

#[test]
fn where_no_policy_can_be_suggested_suggest_says_why_and_ends_in_1() {
    let dir = tempfile::tempdir().unwrap();
    // Of the node alone: nothing that a policy could select.
    let seen = vec![record("192.0.2.1", "198.51.100.7", 443, Role::Client)];
    let seen = recording(dir.path(), "node.flowtap", seen, Some(cluster()));
    let nothing = recording(dir.path(), "nothing.flowtap", Vec::new(), None);
    let mut unlabelled = cluster();
    for pod in &mut unlabelled.pods {
        pod.labels.clear();
    }
    let unlabelled = recording(dir.path(), "unlabelled.flowtap", records(), Some(unlabelled));
    for (recording, reason) in [
        (
            &seen,
            "1 flow observed, and no pod that is known was an end of it on the recorded node",
        ),
        (&nothing, "no flow was observed"),
        (&unlabelled, "no policy can select 3 workloads"),
    ] {
        let recording = recording.to_str().unwrap();
        let output = policy(&["suggest", recording]);
        let suggested = text(&output, 1);
        assert!(
            suggested.starts_with(&format!("# no policy was suggested: {reason}")),
            "{suggested}"
        );
        assert!(suggested.lines().all(|line| line.starts_with('#')), "{suggested}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            message.contains(&format!("no policy was suggested: {reason}")),
            "{message}"
        );
        // An empty list is that by intent: a cluster without policies has one.
        let list = text(&policy(&["suggest", "--json", recording]), 1);
        let list = file(dir.path(), "list.json", &list);
        let checked = text(
            &policy(&["check", "--file", list.to_str().unwrap(), recording]),
            0,
        );
        assert!(
            checked.contains("note: the files have no policies: no pod is isolated\n"),
            "{checked}"
        );
    }
}

#[test]
fn a_pod_that_is_not_known_is_allowed_by_its_address_with_a_doubt_in_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let seen = vec![
        record("10.244.1.7", "10.244.3.9", 443, Role::Client),
        record("10.244.1.7", "10.245.3.9", 443, Role::Client),
        record("10.244.1.7", "198.51.100.7", 443, Role::Client),
    ];
    let mut cluster = cluster();
    cluster.nodes.push(NodeObject {
        name: "n3".to_owned(),
        pod_ranges: vec!["10.244.3.0/24".parse().unwrap()],
        ..NodeObject::default()
    });
    let recording = recording(dir.path(), "a.flowtap", seen, Some(cluster));
    let recording = recording.to_str().unwrap();
    let widened = [
        "suggest",
        "--prefix-v4",
        "24",
        "--set",
        "processors.policy.k8s_pod=[10.245.0.0/16]",
        recording,
    ];
    let suggested = text(&policy(&widened), 0);
    for expected in [
        "cidr: 10.244.3.9/32",
        "cidr: 10.245.3.9/32",
        "cidr: 198.51.100.0/24",
        "# doubtful: 10.244.3.9 is in the cluster's range of pods, and no pod that is known has it; another pod can have this address \
         later\n",
    ] {
        assert!(suggested.contains(expected), "{expected}: {suggested}");
    }
    // A list in JSON has no comments.
    let output = policy(&[&widened[..], &["--json"]].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("note: shop/flowtap-web: doubtful: 10.244.3.9 is"),
        "{message}"
    );
}

#[test]
fn live_without_privileges_exits_with_77_and_names_the_capability() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let open = file(dir.path(), "open.yaml", OPEN);
    let open = open.to_str().unwrap();
    for command in [
        &["check", "--file", open][..],
        &["suggest"],
        &["diff", open, open],
    ] {
        let output = flowtap_of_nobody(dir.path())
            .arg("policy")
            .args(command)
            .args(["--for", "1s"])
            .output()
            .unwrap();
        text(&output, 77);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            message.contains("CAP_BPF") && message.contains("hint"),
            "{message}"
        );
    }
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

    // `kubectl apply` would replace the first by the second; both together are another policy.
    let (first, second) = (file(dir.path(), "a.yaml", DB), file(dir.path(), "b.yaml", OPEN));
    let files = [
        "--file",
        first.to_str().unwrap(),
        "--file",
        second.to_str().unwrap(),
    ];
    let output = policy(&[&["check"][..], &files, &[recording]].concat());
    text(&output, 65);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("b.yaml: duplicate policy shop/db; the first is in ") && message.contains("a.yaml"),
        "{message}"
    );
}

/// web calls a service whose two pods give the name of its port different numbers, over IPv4 and IPv6, is called over IPv6 from
/// outside, and asks a name server over UDP.
fn odd_records() -> FlowBatch {
    let udp = |local: &str, remote: &str, port| UdpRecord {
        opened: true,
        sent_bytes: 40,
        ..UdpRecord::new(Flow {
            transport: Transport::Udp,
            ..record(local, remote, port, Role::Client).flow
        })
    };
    FlowBatch {
        tcp: vec![
            record("10.244.1.7", "10.96.0.9", 5432, Role::Client),
            record("fd00::7", "fd00:96::9", 5432, Role::Client),
            record("fd00::7", "2001:db8::9", 8080, Role::Server),
        ],
        udp: vec![udp("fd00::7", "fd00::9", 53), udp("10.244.1.7", "192.0.2.53", 53)],
        ..FlowBatch::default()
    }
}

fn odd_cluster() -> ClusterObjects {
    let dual = |mut pod: PodObject, last: u16| {
        pod.addresses.push(format!("fd00::{last}").parse().unwrap());
        pod
    };
    let db = |name: &str, address: &str, last, number| {
        let mut pod = dual(pod("shop", "db", address), last);
        name.clone_into(&mut pod.name);
        pod.ports = vec![NamedPort {
            name: "sql".to_owned(),
            port: number,
            protocol: PortProtocol::Tcp,
        }];
        pod
    };
    let service = ServiceObject {
        namespace: "shop".to_owned(),
        name: "db".to_owned(),
        addresses: vec!["10.96.0.9".parse().unwrap(), "fd00:96::9".parse().unwrap()],
        selector: [("app".to_owned(), "db".to_owned())].into(),
        ports: vec![ServicePort {
            port: 5432,
            protocol: PortProtocol::Tcp,
            target: TargetPort::Name("sql".to_owned()),
        }],
    };
    ClusterObjects {
        pods: vec![
            dual(pod("shop", "web", "10.244.1.7"), 7),
            db("db-0", "10.244.2.8", 8, 5432),
            db("db-1", "10.244.2.10", 10, 6432),
            dual(pod("dns", "resolver", "10.244.2.9"), 9),
        ],
        services: vec![service],
        ..ClusterObjects::default()
    }
}

#[test]
fn policies_suggested_for_named_ports_ipv6_and_udp_deny_nothing_of_them_and_all_else() {
    let dir = tempfile::tempdir().unwrap();
    let seen = recording_of(dir.path(), "a.flowtap", odd_records(), Some(odd_cluster()));
    let seen = seen.to_str().unwrap();
    let suggested = text(&policy(&["suggest", seen]), 0);
    for expected in ["2001:db8::9/128", "192.0.2.53/32", "protocol: UDP", "port: 6432"] {
        assert!(suggested.contains(expected), "{expected}: {suggested}");
    }
    // UDP was observed: no rule allows a name server that nobody asked.
    assert!(!suggested.contains("kube-dns"), "{suggested}");
    let suggested = file(dir.path(), "suggested.yaml", &suggested);
    let checked = text(
        &policy(&["check", "--file", suggested.to_str().unwrap(), seen]),
        0,
    );
    assert_eq!(checked, "0 flows denied, 0 undecided, 5 allowed\n");

    // The same peers by other protocols, ports or addresses are denied.
    let mut other = odd_records();
    other.udp[0].flow.remote.port = 54;
    other.udp[1].flow.transport = Transport::Tcp;
    other.tcp[2].flow.remote.addr = "2001:db8::a".parse().unwrap();
    other.tcp.truncate(3);
    other.tcp.drain(..2);
    let other = recording_of(dir.path(), "b.flowtap", other, Some(odd_cluster()));
    let arguments = [
        "check",
        "--file",
        suggested.to_str().unwrap(),
        other.to_str().unwrap(),
    ];
    let report = text(&policy(&arguments), 1);
    assert!(
        report.contains("3 flows denied, 0 undecided, 0 allowed"),
        "{report}"
    );

    let Some(validate) = require::kubernetes_validate() else {
        return;
    };
    let output = Command::new(validate)
        .arg("--strict")
        .arg(&suggested)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
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

/// Runs `flowtap policy` with `arguments` while two clients, 10.99.28.2 and 10.99.28.3, connect to 10.99.28.1. Returns the port, and the
/// output.
fn live(arguments: &[&str]) -> (u16, Output) {
    netns::reserve();
    let mut child = flowtap()
        .arg("policy")
        .args(arguments)
        .args(["--for", "1h", "--set", "receivers.ebpf.interval=200ms"])
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
    (port, child.wait_with_output().unwrap())
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
    let (port, output) = live(&["check", "--json", "--file", policies.to_str().unwrap()]);
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

/// The cluster of [`live`]: db serves web and job.
fn api() -> Api {
    let pod = |namespace: &str, app: &str, ip: &str| {
        json!({"metadata": {"name": app, "namespace": namespace, "uid": app, "labels": {"app": app}},
               "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}})
    };
    let namespace = |name: &str| json!({"metadata": {"name": name, "uid": name, "labels": {}}});
    let api = Api::start(vec![
        (
            "/api/v1/pods",
            vec![
                pod("shop", "db", "10.99.28.1"),
                pod("batch", "job", "10.99.28.2"),
                pod("shop", "web", "10.99.28.3"),
            ],
        ),
        ("/api/v1/namespaces", vec![namespace("shop"), namespace("batch")]),
    ]);
    api.allow_nodes();
    api
}

#[test]
fn live_traffic_is_judged_suggested_and_compared_by_workload() {
    let Some(_machine) = require::root() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let api = api();
    let kubeconfig = format!(
        "service.kubernetes.kubeconfig={}",
        api.kubeconfig(dir.path()).display()
    );
    let cluster = ["--set", &kubeconfig];
    // Whatever the port.
    let strict = DB.replace("    ports: [{port: 5432}]\n", "");
    let (strict, open) = (
        file(dir.path(), "strict.yaml", &strict),
        file(dir.path(), "open.yaml", OPEN),
    );
    let (strict, open) = (strict.to_str().unwrap(), open.to_str().unwrap());
    let of_port = |output: &Output, port: u16| {
        let report: Value = serde_json::from_str(&text(output, 1)).unwrap();
        let flows = report["flows"].as_array().unwrap().clone();
        let mut flows: Vec<_> = flows
            .into_iter()
            .filter(|flow| flow["port"] == port && flow["server"]["workload"] == "Pod/db")
            .collect();
        flows.sort_by_key(|flow| flow["client"]["workload"].to_string());
        flows
    };

    let (port, output) = live(&[&["check", "--json", "--file", strict][..], &cluster].concat());
    let flows = of_port(&output, port);
    let verdicts: Vec<_> = flows
        .iter()
        .map(|flow| {
            (
                &flow["client"]["workload"],
                &flow["client"]["namespace"],
                &flow["verdict"],
            )
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            (&json!("Pod/job"), &json!("batch"), &json!("denied")),
            (&json!("Pod/web"), &json!("shop"), &json!("allowed")),
        ]
    );

    let (port, output) = live(&[&["diff", "--json", strict, open][..], &cluster].concat());
    let flows = of_port(&output, port);
    let [flow] = &flows[..] else { panic!("{flows:#?}") };
    assert_eq!(
        (
            &flow["client"]["workload"],
            &flow["before"]["verdict"],
            &flow["after"]["verdict"]
        ),
        (&json!("Pod/job"), &json!("denied"), &json!("allowed"))
    );

    let (port, output) = live(&[&["suggest"][..], &cluster].concat());
    // A measurement that was cut short is not the whole.
    let suggested = text(&output, 1);
    assert!(
        suggested.contains("a signal ended the measurement"),
        "{suggested}"
    );
    let db = suggested
        .split("---")
        .find(|policy| policy.contains("name: flowtap-db\n"));
    let db = db.unwrap_or_else(|| panic!("{suggested}"));
    for part in [
        "namespace: shop\n",
        "app: db\n",
        "app: job\n",
        "app: web\n",
        &format!("port: {port}\n"),
    ] {
        assert!(db.contains(part), "no {part} in {db}");
    }
}
