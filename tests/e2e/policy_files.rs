//! `flowtap policy` with its files: directories, standard input and recordings in their place, policies that select nothing, and counts
//! of flows that agree.

use std::fs::{self, File};
use std::path::Path;
use std::process::Output;

use flowtap_pipeline::Role;
use serde_json::{Value, json};

use crate::daemon::flowtap;
use crate::network_policies::{DB, OPEN, cluster, file, pod, policy, record, recording, records, text};

/// A policy whose label no pod has, and one in a namespace without pods.
const NOTHING: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: typo, namespace: shop}
spec: {podSelector: {matchLabels: {app: dp}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: elsewhere}
spec: {podSelector: {matchLabels: {app: db}}}
";

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn notes(report: &str) -> Vec<&str> {
    report.lines().filter(|line| line.starts_with("note: ")).collect()
}

#[test]
fn a_policy_that_selects_no_pod_is_a_note_and_changes_no_exit_code() {
    const SELECTS_NONE: &str = "2 policies select no pod that is known, and decide nothing: shop/typo, default/elsewhere (no pod is known in \
                                its namespace); hint: compare its `podSelector` and namespace with `kubectl get pods -A --show-labels`";
    let dir = tempfile::tempdir().unwrap();
    let recorded = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let (open, nothing) = (
        file(dir.path(), "open.yaml", OPEN),
        file(dir.path(), "nothing.yaml", NOTHING),
    );
    let (recorded, open, nothing) = (path(&recorded), path(&open), path(&nothing));
    let report = text(
        &policy(&["check", "--file", open, "--file", nothing, recorded]),
        0,
    );
    assert_eq!(
        report,
        format!("note: {SELECTS_NONE}\n0 flows denied, 0 undecided, 3 allowed\n")
    );
    let report = text(&policy(&["check", "--json", "--file", nothing, recorded]), 0);
    let report: Value = serde_json::from_str(&report).unwrap();
    let names = json!(["shop/typo", "default/elsewhere"]);
    assert_eq!(report["policies_without_pods"], names);
    assert_eq!(report["notes"], json!([SELECTS_NONE]));
    // One set of two, and those that all select something.
    let report = text(&policy(&["diff", open, nothing, recorded]), 0);
    assert_eq!(notes(&report), [format!("note: B: {SELECTS_NONE}")]);
    let report = text(&policy(&["diff", "--json", open, nothing, recorded]), 0);
    let report: Value = serde_json::from_str(&report).unwrap();
    let sets = json!({"before": [], "after": names});
    assert_eq!(report["policies_without_pods"], sets);
    let report = text(&policy(&["check", "--file", open, recorded]), 0);
    assert_eq!(notes(&report), [""; 0]);
    // Without pods each policy is assumed to select some.
    let alone = recording(dir.path(), "alone.flowtap", records(), None);
    let report = policy(&["check", "--file", nothing, path(&alone)]);
    let report = String::from_utf8_lossy(&report.stdout);
    assert!(!report.contains("select no pod"), "{report}");
}

#[test]
fn suggest_counts_the_flows_that_check_of_its_policies_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster();
    // A second pod of web, which calls db as the first one does.
    let mut second = pod("shop", "web", "10.244.1.10");
    second.name = "web-6d4cf56db6-9zzzz".to_owned();
    cluster.pods.push(second);
    let mut records = records();
    records.push(record("10.244.1.10", "10.244.1.8", 5432, Role::Client));
    let recorded = recording(dir.path(), "a.flowtap", records, Some(cluster));
    let recorded = path(&recorded);
    let suggested = text(&policy(&["suggest", recorded]), 0);
    let suggested = file(dir.path(), "suggested.yaml", &suggested);
    let checked = text(&policy(&["check", "--file", path(&suggested), recorded]), 0);
    let (_, allowed) = checked.trim_end().rsplit_once(", ").unwrap();
    assert_eq!(allowed, "3 allowed");
    let suggested = fs::read_to_string(&suggested).unwrap();
    assert!(
        suggested.starts_with("# Allows 3 flows, as observed"),
        "{suggested}"
    );
}

#[test]
fn a_recording_in_the_place_of_a_file_is_named_as_one_with_where_it_belongs() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let db = file(dir.path(), "db.yaml", DB);
    let (recorded, db) = (path(&recorded), path(&db));
    for (arguments, expected, hint) in [
        (
            &["diff", db, recorded][..],
            "NetworkPolicies",
            "`flowtap policy diff A B RECORDING`",
        ),
        (
            &["check", "--file", recorded, recorded],
            "NetworkPolicies",
            "`flowtap policy check --file POLICIES RECORDING`",
        ),
        (
            &["check", "--file", db, "--cluster", recorded, recorded],
            "Pods, Namespaces, Services and Nodes",
            "without `--cluster`",
        ),
    ] {
        let output = policy(arguments);
        text(&output, 65);
        let message = stderr(&output);
        let what = format!("a.flowtap is a recording of flowtap; expected {expected} in YAML or JSON\n");
        assert!(message.contains(&what) && message.contains(hint), "{message}");
    }
}

#[test]
fn the_manifests_of_a_directory_are_read_as_kubectl_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = recording(dir.path(), "a.flowtap", records(), None);
    let recorded = path(&recorded);
    let folder = |name: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let (k8s, objects, empty, others) = (
        folder("k8s"),
        folder("objects"),
        folder("empty"),
        folder("others"),
    );
    file(&k8s, "db.yml", DB);
    file(&k8s, "web.yaml", DEPLOYMENT);
    file(&k8s, "README.md", "not a manifest");
    fs::create_dir(k8s.join("old.yaml")).unwrap();
    file(&others, "web.yaml", DEPLOYMENT);
    for pod in cluster().pods {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": pod.labels},
            "spec": {"nodeName": "n1"}, "status": {"podIP": pod.addresses[0]},
        });
        file(&objects, &format!("{}.json", pod.name), &object.to_string());
    }
    file(&objects, "web.yaml", DEPLOYMENT);

    let [k8s, objects, empty, others] = [&k8s, &objects, &empty, &others].map(|folder| path(folder));
    let report = text(
        &policy(&["check", "--file", k8s, "--cluster", objects, recorded]),
        1,
    );
    assert!(
        report.starts_with(
            "DENIED     batch/Pod/job-6d4cf56db6-x2k4p -> shop/Pod/db-6d4cf56db6-x2k4p TCP 5432"
        ),
        "{report}"
    );
    assert_eq!(
        notes(&report),
        [format!(
            "note: left out of {k8s}: objects of other kinds, Deployment"
        )]
    );
    let report = text(&policy(&["diff", k8s, k8s, "--cluster", objects, recorded]), 0);
    assert!(report.contains("0 flows with another verdict"), "{report}");

    for (arguments, code, expected) in [
        (
            &["check", "--file", empty, recorded][..],
            66,
            "no file of this directory ends in",
        ),
        (
            &["suggest", "--cluster", empty, recorded],
            66,
            "no file of this directory ends in",
        ),
        (
            &["check", "--file", others, recorded],
            65,
            "no NetworkPolicy in the files of this directory",
        ),
        (
            &["suggest", "--cluster", others, recorded],
            65,
            "no Pod, Namespace, Service or Node in the files",
        ),
    ] {
        let output = policy(arguments);
        text(&output, code);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn standard_input_has_policies_or_objects_of_a_cluster_once() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = recording(dir.path(), "a.flowtap", records(), Some(cluster()));
    let recorded = path(&recorded);
    let db = file(dir.path(), "db.yaml", DB);
    let piped = |from: &Path, arguments: &[&str]| {
        let input = File::open(from).unwrap();
        flowtap()
            .arg("policy")
            .args(arguments)
            .stdin(input)
            .output()
            .unwrap()
    };
    let report = text(&piped(&db, &["check", "--file", "-", recorded]), 1);
    assert!(
        report.ends_with("1 flow denied, 0 undecided, 2 allowed\n"),
        "{report}"
    );
    let report = text(&piped(&db, &["diff", "-", path(&db), recorded]), 0);
    assert!(report.starts_with("0 flows with another verdict"), "{report}");
    let namespace = file(
        dir.path(),
        "ns.yaml",
        "kind: Namespace\napiVersion: v1\nmetadata: {name: shop}\n",
    );
    let report = text(
        &piped(
            &namespace,
            &["check", "--file", path(&db), "--cluster", "-", recorded],
        ),
        1,
    );
    assert!(
        report.ends_with("1 flow denied, 0 undecided, 2 allowed\n"),
        "{report}"
    );
    let broken = file(
        dir.path(),
        "broken.yaml",
        &DB.replace("podSelector:", "podSelecter:"),
    );
    let output = piped(&broken, &["check", "--file", "-", recorded]);
    text(&output, 65);
    let expected = "standard input, document 1 (NetworkPolicy shop/db), spec.podSelecter: unknown key";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    for arguments in [
        &["check", "--file", "-", "--cluster", "-", recorded][..],
        &["diff", "-", "-", recorded],
    ] {
        let output = piped(&db, arguments);
        text(&output, 2);
        assert!(
            stderr(&output).contains("`-` is given 2 times, and standard input can be read once"),
            "{}",
            stderr(&output)
        );
    }
}
