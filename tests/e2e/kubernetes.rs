//! The Kubernetes API around the daemon: the cluster's id in the resource, and the state of each watch in `/status`.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT};

const UID: &str = "218fc5a9-a5f1-4b54-aa05-46717d0ab26d";

/// An API server with one node unless others are given, whose nodes are forbidden while `forbids` is set, and other objects.
pub(crate) struct Api {
    address: SocketAddr,
    forbids: Arc<AtomicBool>,
}

impl Api {
    /// `objects`: the path of a list, and what is in it.
    pub(crate) fn start(objects: Vec<(&'static str, Vec<Value>)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let forbids = Arc::new(AtomicBool::new(true));
        let answers = Arc::clone(&forbids);
        let objects = Arc::new(objects);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let forbids = answers.load(Ordering::Relaxed);
                let objects = Arc::clone(&objects);
                thread::spawn(move || answer(stream.unwrap(), forbids, &objects));
            }
        });
        Self { address, forbids }
    }

    pub(crate) fn allow_nodes(&self) {
        self.forbids.store(false, Ordering::Relaxed);
    }

    /// Writes a kubeconfig of this server into `folder`.
    pub(crate) fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let kubeconfig = folder.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        kubeconfig
    }
}

fn answer(mut stream: TcpStream, forbids_nodes: bool, objects: &[(&str, Vec<Value>)]) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let _ = lines.find(String::is_empty);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = if path.contains("watch=") {
        // A quiet cluster: the watch ends after a while, and begins again.
        thread::sleep(Duration::from_secs(20));
        return;
    } else if path.starts_with("/api/v1/namespaces/kube-system") && !path.contains("kube-system/") {
        (200, json!({"metadata": {"name": "kube-system", "uid": UID}}))
    } else if path.starts_with("/api/v1/nodes") && forbids_nodes {
        let failure = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "nodes is forbidden", "reason": "Forbidden", "code": 403
        });
        (403, failure)
    } else {
        let node = json!({"metadata": {"name": "worker-1"}, "spec": {"podCIDR": "10.244.1.0/24"}});
        let resource = path.split('?').next().unwrap_or_default();
        let items: Vec<_> = objects
            .iter()
            .filter(|(list, _)| *list == resource)
            .flat_map(|(_, items)| items.clone())
            .collect();
        let items = if items.is_empty() && resource == "/api/v1/nodes" {
            vec![node]
        } else {
            items
        };
        let list = json!({
            "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items
        });
        (200, list)
    };
    respond(&mut stream, status, &body);
}

fn respond(stream: &mut TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
}

fn until(what: &str, daemon: &Daemon, seen: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let status = daemon.status();
        if seen(&status["kubernetes"]) {
            return status;
        }
        assert!(Instant::now() < deadline, "never {what}: {status:#}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn status_has_each_watch_of_the_kubernetes_api_and_the_resource_the_clusters_id() {
    let api = Api::start(Vec::new());
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = api.kubeconfig(dir.path());
    let start = |more: &[&str]| {
        let kubeconfig = format!("service.kubernetes.kubeconfig={}", kubeconfig.display());
        let set = [
            "receivers.generator={flows: 5}",
            "service.pipelines.metrics.receivers=[generator]",
            &kubeconfig,
        ];
        let set = [&set, more].concat();
        Daemon::launch(Launch {
            set: &set,
            ..Launch::default()
        })
    };
    let daemon = start(&[]);
    let target_info = daemon.telemetry();
    let mut info = target_info.select("target_info", &[]);
    let labels = &info.next().unwrap().labels;
    assert_eq!(labels["k8s_cluster_uid"], UID, "{labels:?}");

    let status = until("forbidden", &daemon, |watches| {
        watches["nodes"]["state"] == "recoverable_error" && watches["servicecidrs"]["state"] == "ok"
    });
    let nodes = &status["kubernetes"]["nodes"];
    assert!(
        nodes["error"].as_str().unwrap().contains("nodes is forbidden"),
        "{nodes}"
    );
    assert_eq!((&nodes["synced"], &nodes["objects"]), (&json!(false), &json!(0)));
    assert!(nodes["since_unix_nano"].as_u64().unwrap() > 0);
    assert!(
        daemon
            .telemetry()
            .sum("flowtap_kubernetes_watch_errors_total", &[("resource", "nodes")])
            > 0
    );

    api.allow_nodes();
    let status = until("watched", &daemon, |watches| watches["nodes"]["state"] == "ok");
    let nodes = &status["kubernetes"]["nodes"];
    assert_eq!((&nodes["synced"], &nodes["objects"]), (&json!(true), &json!(1)));
    assert!(nodes["error"].is_null(), "{nodes}");
    drop(daemon);

    // The config's word is the last.
    let daemon = start(&["service.telemetry.resource={k8s.cluster.uid: mine}"]);
    let own = daemon.telemetry();
    let labels = &own.select("target_info", &[]).next().unwrap().labels;
    assert_eq!(labels["k8s_cluster_uid"], "mine");
}
