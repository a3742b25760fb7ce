use std::time::{Duration, Instant};

use flowtap_pipeline::{ClusterState, KubernetesNames, Published, State};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Source, check};
use super::test_server::{Broken, TestServer};
use super::*;

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
const NODES: &str = "/api/v1/nodes";
const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const DNS: &str = "/api/v1/namespaces/kube-system/services";
const SERVICES: &str = "/api/v1/services";
const PODS: &str = "/api/v1/pods";

const CONTAINER: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";

fn kubeadm(pods: &str, services: &str) -> Value {
    let text = format!(
        "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nkubernetesVersion: v1.30.2\nnetworking:\n  \
         dnsDomain: cluster.local\n  podSubnet: {pods}\n  serviceSubnet: {services}\n"
    );
    json!({
        "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
        "data": {"ClusterConfiguration": text}
    })
}

fn node(name: &str, pods: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name}
        ]}
    })
}

fn service(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": address, "clusterIPs": [address]}
    })
}

fn pod(name: &str, owner: &Value, address: &str, host_network: bool) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop",
            "labels": {"pod-template-hash": "5d59d67564"},
            "ownerReferences": [owner]
        },
        "spec": {"nodeName": "worker-1", "hostNetwork": host_network, "containers": []},
        "status": {
            "podIP": address, "podIPs": [{"ip": address}],
            "containerStatuses": [{
                "name": "main", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
                "containerID": format!("containerd://{CONTAINER}")
            }]
        }
    })
}

fn owner(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true})
}

/// A watch on the server, and the state that it publishes.
struct Watched {
    cluster: Arc<Published<ClusterState>>,
    board: WatchBoard,
    metrics: prometheus::Registry,
    _provider: SdkMeterProvider,
    _stop: DropGuard,
}

impl Watched {
    fn start(server: &TestServer, names: bool) -> Self {
        let cluster = Published::new(ClusterState::default());
        let stop = CancellationToken::new();
        let config = WatchConfig {
            names,
            node_name: Some("worker-1".to_owned()),
        };
        let (client, watched, watching) = (server.client(), Arc::clone(&cluster), stop.clone());
        let board = WatchBoard::default();
        let reported = board.clone();
        let metrics = prometheus::Registry::new();
        let reader = opentelemetry_prometheus::exporter().with_registry(metrics.clone());
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.build().unwrap())
            .build();
        let meter = provider.meter("test");
        tokio::spawn(async move {
            watch(config, client, watched, reported, &meter, watching).await;
        });
        Self {
            cluster,
            board,
            metrics,
            _provider: provider,
            _stop: stop.drop_guard(),
        }
    }

    /// The samples of `family` that are of `resource`.
    fn samples(&self, family: &str, resource: &str) -> Vec<prometheus::proto::Metric> {
        let families = self.metrics.gather();
        let families = families.iter().filter(|known| known.name() == family);
        let samples = families.flat_map(prometheus::proto::MetricFamily::get_metric);
        let of = |sample: &&prometheus::proto::Metric| {
            sample.get_label().iter().any(|label| label.value() == resource)
        };
        samples.filter(of).cloned().collect()
    }

    /// Failures of the watch of `resource` that are counted.
    fn errors(&self, resource: &str) -> f64 {
        let samples = self.samples("kubernetes_watch_errors_total", resource);
        samples
            .iter()
            .map(|sample| sample.get_counter().get_value())
            .sum()
    }

    /// When the API last reported an object of `resource`.
    fn last_event(&self, resource: &str) -> Option<f64> {
        let samples = self.samples("kubernetes_last_event_timestamp_seconds", resource);
        samples.first().map(|sample| sample.get_gauge().get_value())
    }

    /// Until the watch of `resource` has failed, for a reason with these words, and that is counted `times`.
    async fn until_failed(&self, resource: &str, words: &str, times: f64) {
        self.until(&format!("{resource} fails: {words}"), |_| {
            let board = self.board.load();
            let Some(status) = board.get(resource) else {
                return false;
            };
            let error = status.error.as_deref().unwrap_or_default();
            status.state == State::RecoverableError && error.contains(words) && self.errors(resource) >= times
        })
        .await;
    }

    async fn until(&self, what: &str, seen: impl Fn(&ClusterState) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !seen(&self.cluster.load()) {
            assert!(
                Instant::now() < deadline,
                "never: {what}; {:#?}",
                self.cluster.load()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until the ranges of pods, services and DNS are these.
    async fn until_ranges(&self, pods: &[&str], services: &[&str], dns: &[&str]) {
        let shown = |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        self.until(&format!("{pods:?} {services:?} {dns:?}"), |state| {
            let ranges = &state.ranges;
            let known: Vec<_> = ranges.dns.iter().map(ToString::to_string).collect();
            shown(&ranges.pods) == pods && shown(&ranges.services) == services && known == dns
        })
        .await;
    }
}

#[tokio::test]
async fn ranges_come_from_every_source_and_follow_what_is_added_changed_and_removed() {
    let server = TestServer::start().await;
    server.put(
        CONFIG_MAPS,
        kubeadm("10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/12"),
    );
    server.put(NODES, node("worker-1", "10.250.1.0/24", "192.0.2.11"));
    server.put(DNS, service("kube-system", "kube-dns", "10.96.0.10"));
    server.put(
        SERVICE_CIDRS,
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.112.0.0/16"]}}),
    );
    let watched = Watched::start(&server, false);
    let dual = "fd00:10:244::/56";
    watched
        .until_ranges(
            &["10.244.0.0/16", "10.250.1.0/24", dual],
            &["10.96.0.0/12", "10.112.0.0/16"],
            &["10.96.0.10"],
        )
        .await;
    assert!(
        watched.cluster.load().by_container.is_empty(),
        "names were not asked for"
    );

    server.put(NODES, node("worker-2", "10.250.2.0/24", "192.0.2.12"));
    server.put(NODES, node("worker-1", "10.250.3.0/24", "192.0.2.11"));
    server.remove(SERVICE_CIDRS, "kubernetes");
    server.put(DNS, service("kube-system", "kube-dns", "10.96.0.53"));
    watched
        .until_ranges(
            &["10.244.0.0/16", "10.250.2.0/24", "10.250.3.0/24", dual],
            &["10.96.0.0/12"],
            &["10.96.0.53"],
        )
        .await;
}

#[tokio::test]
async fn names_of_pods_services_nodes_and_containers_are_known() {
    let server = TestServer::start().await;
    server.put(NODES, node("worker-1", "10.244.1.0/24", "192.0.2.11"));
    server.put(SERVICES, service("shop", "cart", "10.96.7.7"));
    server.put(
        PODS,
        pod(
            "web-5d59d67564-x2x4z",
            &owner("ReplicaSet", "web-5d59d67564"),
            "10.244.1.7",
            false,
        ),
    );
    server.put(
        PODS,
        pod("agent-abcde", &owner("DaemonSet", "agent"), "192.0.2.11", true),
    );
    server.put(
        PODS,
        pod(
            "backup-29000060-q7x2c",
            &owner("Job", "backup-29000060"),
            "10.244.1.8",
            false,
        ),
    );
    let watched = Watched::start(&server, true);
    watched
        .until("five names", |state| {
            state.by_address.len() == 4 && state.by_container.len() == 1
        })
        .await;
    let state = watched.cluster.load();
    let of = |address: &str| state.by_address[&address.parse::<std::net::IpAddr>().unwrap()].clone();
    let web = of("10.244.1.7");
    assert_eq!(
        *web,
        KubernetesNames {
            namespace: "shop".to_owned(),
            pod: "web-5d59d67564-x2x4z".to_owned(),
            workload: "Deployment/web".to_owned(),
            service: String::new(),
            node: "worker-1".to_owned(),
        }
    );
    assert_eq!(of("10.244.1.8").workload, "CronJob/backup");
    assert_eq!(
        (&*of("10.96.7.7").service, &*of("10.96.7.7").namespace),
        ("cart", "shop")
    );
    // The pod on the host's network does not take the node's address.
    assert_eq!(
        (&*of("192.0.2.11").node, &*of("192.0.2.11").pod),
        ("worker-1", "")
    );
    assert!(state.by_container.contains_key(CONTAINER));

    server.remove(PODS, "web-5d59d67564-x2x4z");
    watched
        .until("the pod's end", |state| {
            !state
                .by_address
                .contains_key(&"10.244.1.7".parse::<std::net::IpAddr>().unwrap())
        })
        .await;
}

#[tokio::test]
async fn a_disconnect_and_a_version_that_is_gone_are_survived_and_what_was_known_stays_meanwhile() {
    let server = TestServer::start().await;
    server.put(NODES, node("worker-1", "10.244.1.0/24", "192.0.2.11"));
    let watched = Watched::start(&server, false);
    watched.until_ranges(&["10.244.1.0/24"], &[], &[]).await;

    server.disconnect();
    assert_eq!(watched.cluster.load().ranges.pods.len(), 1);
    // Watches come back from the version that they had: what is sent now arrives once they have.
    let deadline = Instant::now() + Duration::from_secs(60);
    while watched.cluster.load().ranges.pods.len() < 2 {
        assert!(Instant::now() < deadline, "{:#?}", watched.cluster.load());
        server.put(NODES, node("worker-2", "10.244.2.0/24", "192.0.2.12"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let listed = server.lists(NODES);
    server.put_silently(NODES, node("worker-3", "10.244.3.0/24", "192.0.2.13"));
    server.gone(NODES);
    watched
        .until_ranges(&["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"], &[], &[])
        .await;
    assert!(server.lists(NODES) > listed, "410 asks for a new list");
}

#[tokio::test]
async fn what_is_forbidden_leaves_the_rest_at_work_and_is_watched_once_it_is_allowed() {
    let server = TestServer::start().await;
    for path in [CONFIG_MAPS, NODES, DNS] {
        server.refuse(path, 403);
    }
    server.refuse(SERVICE_CIDRS, 404);
    server.put(SERVICES, service("shop", "cart", "10.96.7.7"));
    server.put(NODES, node("worker-1", "10.244.1.0/24", "192.0.2.11"));
    let watched = Watched::start(&server, true);
    watched
        .until("the service", |state| state.by_address.len() == 1)
        .await;
    assert!(watched.cluster.load().ranges.pods.is_empty());
    let status = watched.board.load();
    assert_eq!(status["services"].state, State::Ok);
    assert_eq!((status["services"].synced, status["services"].objects), (true, 1));
    assert_eq!(
        (status["nodes"].state, status["nodes"].synced),
        (State::RecoverableError, false)
    );
    let error = status["nodes"].error.as_deref().unwrap();
    assert!(error.contains("/api/v1/nodes is refused"), "{error}");
    assert_eq!(status["servicecidrs"].state, State::Ok, "this API has none");
    assert!(status.contains_key("services/kube-dns") && status.contains_key("configmaps"));
    server.refuse(NODES, 200);
    watched.until_ranges(&["10.244.1.0/24"], &[], &[]).await;
    let nodes = &watched.board.load()["nodes"];
    assert_eq!(
        (nodes.state, nodes.objects, nodes.error.clone()),
        (State::Ok, 1, None)
    );
}

#[tokio::test]
async fn what_an_overloaded_or_broken_api_answers_is_reported_counted_and_survived() {
    let server = TestServer::start().await;
    server.put(NODES, node("worker-1", "10.244.1.0/24", "192.0.2.11"));
    server.refuse(NODES, 429);
    let watched = Watched::start(&server, false);
    watched
        .until_failed("nodes", "/api/v1/nodes is refused", 2.0)
        .await;
    assert!(!watched.board.load()["nodes"].synced);
    assert_eq!(watched.last_event("nodes"), None, "nothing has been reported");
    server.refuse(NODES, 500);
    let counted = watched.errors("nodes");
    watched
        .until_failed("nodes", "/api/v1/nodes is refused", counted + 1.0)
        .await;
    server.refuse(NODES, 200);
    server.break_off(NODES, Some(Broken::Html));
    watched.until_failed("nodes", "expected value", 1.0).await;
    server.break_off(NODES, None);
    watched.until_ranges(&["10.244.1.0/24"], &[], &[]).await;
    let status = watched.board.load();
    assert_eq!(
        (status["nodes"].state, &status["nodes"].error),
        (State::Ok, &None)
    );
    assert!(watched.errors("services/kube-dns") < 1.0, "the others go on");
    assert!(watched.last_event("nodes").is_some());
    // Garbage in a watch that worked so far.
    let counted = watched.errors("nodes");
    server.break_off(NODES, Some(Broken::Html));
    server.disconnect();
    watched
        .until_failed("nodes", "expected value", counted + 1.0)
        .await;
    assert_eq!(
        watched.cluster.load().ranges.pods.len(),
        1,
        "what was known stays"
    );
}

#[tokio::test]
async fn answers_and_lines_without_an_end_are_cut_at_a_limit_that_the_error_names() {
    let server = TestServer::start().await;
    server.put(NODES, node("worker-1", "10.244.1.0/24", "192.0.2.11"));
    server.break_off(NODES, Some(Broken::EndlessList));
    server.break_off(SERVICE_CIDRS, Some(Broken::EndlessLine));
    let watched = Watched::start(&server, false);
    watched
        .until_failed("nodes", "an answer of the Kubernetes API exceeds 64 MiB", 1.0)
        .await;
    watched
        .until_failed(
            "servicecidrs",
            "a line of a watch of the Kubernetes API exceeds 64 MiB",
            1.0,
        )
        .await;
    server.break_off(NODES, None);
    server.break_off(SERVICE_CIDRS, None);
    // A watch comes back from the version that it had: what is sent arrives once it has.
    let deadline = Instant::now() + Duration::from_secs(60);
    while watched.cluster.load().ranges.services.is_empty() {
        assert!(Instant::now() < deadline, "{:#?}", watched.board.load());
        server.put(
            SERVICE_CIDRS,
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.112.0.0/16"]}}),
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    watched
        .until_ranges(&["10.244.1.0/24"], &["10.112.0.0/16"], &[])
        .await;
}

#[tokio::test]
async fn a_request_that_nobody_repeats_is_retried_while_the_api_is_overloaded() {
    let server = TestServer::start().await;
    let uid = "218fc5a9-a5f1-4b54-aa05-46717d0ab26d";
    server.put(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "kube-system", "uid": uid}}),
    );
    let path = "/api/v1/namespaces/kube-system";
    server.refuse_times(path, 429, 1);
    assert_eq!(cluster_uid(&server.client()).await.as_deref(), Some(uid));
    assert_eq!(server.left_to_refuse(path), 0);
}

#[tokio::test]
async fn the_clusters_id_is_that_of_kube_system_and_none_where_it_is_forbidden() {
    let server = TestServer::start().await;
    let uid = "218fc5a9-a5f1-4b54-aa05-46717d0ab26d";
    server.put(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "kube-system", "uid": uid}}),
    );
    assert_eq!(cluster_uid(&server.client()).await.as_deref(), Some(uid));
    for status in [403, 500] {
        server.refuse("/api/v1/namespaces/kube-system", status);
        assert_eq!(cluster_uid(&server.client()).await, None);
    }
}

#[tokio::test]
async fn outside_of_a_cluster_there_is_no_client_and_a_broken_kubeconfig_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "clusters: nonsense").unwrap();
    let error = client(Some(file.path())).await.err().unwrap().to_string();
    assert!(error.starts_with(&file.path().display().to_string()), "{error}");
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() && std::env::var_os("KUBECONFIG").is_none() {
        assert!(client(None).await.unwrap().is_none());
    }
}

#[test]
fn the_program_that_gets_credentials_is_that_of_the_current_context() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let section = KubernetesConfig {
        kubeconfig: Some(file.clone()),
        ..KubernetesConfig::default()
    };
    let with = |context: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: {context}, clusters: [], contexts: [
            {{name: a, context: {{cluster: c, user: token}}}}, {{name: b, context: {{cluster: c, user: exec}}}},
            {{name: c, context: {{cluster: c, user: provider}}}}], users: [{{name: token, user: {{token: x}}}},
            {{name: exec, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: aws}}}}}},
            {{name: provider, user: {{auth-provider: {{name: gcp, config: {{cmd-path: /bin/gcloud}}}}}}}}]}}"
        );
        std::fs::write(&file, text).unwrap();
        plugin(&section).map(|plugin| plugin.program)
    };
    assert_eq!(with("a"), None);
    assert_eq!(with("b").as_deref(), Some("aws"));
    assert_eq!(with("c").as_deref(), Some("/bin/gcloud"));
    assert_eq!(with("none"), None);
    let disabled = KubernetesConfig {
        enabled: false,
        ..section.clone()
    };
    with("b");
    assert_eq!(plugin(&disabled), None);
}

#[tokio::test]
async fn objects_are_listed_with_their_kinds_and_labels_and_without_those_that_are_forbidden() {
    let server = TestServer::start().await;
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d59d67564", "uid": "u", "controller": true});
    server.put(PODS, pod("web-5d59d67564-abcde", &owner, "10.244.1.7", false));
    server.put(NODES, node("worker-1", "10.244.1.0/24", "192.0.2.1"));
    server.put(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}),
    );
    server.refuse(SERVICES, 403);
    let cluster = Cluster {
        client: server.client(),
        uid: None,
    };
    let listed = list_objects(&cluster).await;
    assert!(listed.has_all_pods);
    let objects = listed.objects;
    let seen: Vec<_> = objects
        .iter()
        .map(|object| (&object["kind"], &object["metadata"]["name"]))
        .collect();
    let expected = [
        ("Pod", "web-5d59d67564-abcde"),
        ("Namespace", "shop"),
        ("Node", "worker-1"),
    ]
    .map(|(kind, name)| (json!(kind), json!(name)));
    assert_eq!(seen, expected.each_ref().map(|(kind, name)| (kind, name)));
    assert_eq!(
        objects[0]["metadata"]["labels"]["pod-template-hash"],
        "5d59d67564"
    );
    assert_eq!(objects[1]["metadata"]["labels"]["team"], "a");
}

#[tokio::test]
async fn a_service_has_the_workload_of_its_pods_if_all_have_one_and_nodes_have_zones() {
    let server = TestServer::start().await;
    let mut web = node("worker-1", "10.244.1.0/24", "192.0.2.11");
    web["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "a"});
    server.put(NODES, web);
    server.put(NODES, node("worker-2", "10.244.2.0/24", "192.0.2.12"));
    let labelled = |name: &str, owner: &Value, address: &str, labels: Value| {
        let mut pod = pod(name, owner, address, false);
        pod["metadata"]["labels"] = labels;
        pod
    };
    let (one, other) = (owner("StatefulSet", "db"), owner("DaemonSet", "agent"));
    for (name, owner, address, labels) in [
        ("db-0", &one, "10.244.1.1", json!({"app": "db", "index": "0"})),
        ("db-1", &one, "10.244.1.2", json!({"app": "db", "index": "1"})),
        (
            "agent-1",
            &other,
            "10.244.1.3",
            json!({"app": "agent", "index": "0"}),
        ),
    ] {
        server.put(PODS, labelled(name, owner, address, labels));
    }
    // Its pod has ended.
    let mut ended = labelled("agent-0", &other, "10.244.1.4", json!({"app": "db"}));
    ended["status"]["phase"] = json!("Succeeded");
    server.put(PODS, ended);
    for (name, address, selector) in [
        ("db", "10.96.0.1", json!({"app": "db"})),
        ("mixed", "10.96.0.2", json!({"index": "0"})),
        ("nobody", "10.96.0.3", json!({"app": "none"})),
        ("external", "10.96.0.4", Value::Null),
    ] {
        let mut service = service("shop", name, address);
        service["spec"]["selector"] = selector;
        server.put(SERVICES, service);
    }
    let watched = Watched::start(&server, true);
    watched
        .until("all objects", |state| {
            state.by_address.len() == 10 && state.zones.len() == 1
        })
        .await;
    let state = watched.cluster.load();
    let workload = |address: &str| {
        let names = &state.by_address[&address.parse::<std::net::IpAddr>().unwrap()];
        (names.service.clone(), names.workload.clone())
    };
    let service = |name: &str, workload: &str| (name.to_owned(), workload.to_owned());
    assert_eq!(workload("10.96.0.1"), service("db", "StatefulSet/db"));
    assert_eq!(workload("10.96.0.2"), service("mixed", ""));
    assert_eq!(workload("10.96.0.3"), service("nobody", ""));
    assert_eq!(workload("10.96.0.4"), service("external", ""));
    assert_eq!(state.zones["worker-1"].as_ref(), "a");
}

/// A kubeconfig of one context, with this user and cluster.
fn kubeconfig(user: &str, cluster: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: c, user: u}}}}],
        clusters: [{{name: c, cluster: {{{cluster}}}}}], users: [{{name: u, user: {{{user}}}}}]}}"
    )
}

#[tokio::test]
async fn credentials_that_can_not_be_used_are_found_without_starting_the_program_that_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let server = "server: 'http://127.0.0.1:1'";
    std::fs::write(folder.path().join("good"), "token").unwrap();
    std::fs::write(folder.path().join("broken"), "token\n").unwrap();
    let started = folder.path().join("started");
    let program = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: touch, args: ['{}']}}",
        started.display()
    );
    let provider = format!(
        "auth-provider: {{name: gcp, config: {{cmd-path: touch, cmd-args: '{}'}}}}",
        started.display()
    );
    for (user, expected) in [
        ("tokenFile: missing", Some("tokenFile: ")),
        ("tokenFile: broken", Some("tokenFile: ")),
        ("tokenFile: good", None),
        ("token: \"a\\nb\"", Some("token: has a line break")),
        (
            "auth-provider: {name: oidc, config: {id-token: \"a\\nb\"}}",
            Some("auth-provider: id-token: has a line break"),
        ),
        // It takes precedence, and the file is not read.
        ("token: x, tokenFile: missing", None),
        (
            "client-certificate: missing, client-key: missing",
            Some("client-certificate: "),
        ),
        (
            "client-certificate-data: '!!', client-key-data: '!!'",
            Some("failed to decode base64"),
        ),
        (
            "client-certificate-data: aGVsbG8=, client-key-data: aGVsbG8=",
            Some("missing a private key"),
        ),
        (
            "exec: {apiVersion: client.authentication.k8s.io/v1}",
            Some("command must be"),
        ),
        (&program, None),
        (&provider, None),
    ] {
        std::fs::write(&file, kubeconfig(user, server)).unwrap();
        let error = check(Some(&file)).await.err().map(|error| error.to_string());
        match (expected, &error) {
            (None, None) => {}
            (Some(words), Some(error)) if error.contains(words) => {
                assert!(error.starts_with(&file.display().to_string()), "{error}");
            }
            _ => panic!("{user}: expected {expected:?}, found {error:?}"),
        }
    }
    assert!(!started.exists());
}

#[tokio::test]
async fn of_several_kubeconfigs_the_first_that_names_a_context_decides() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let empty = "{apiVersion: v1, kind: Config, current-context: '', contexts: [], clusters: [], users: []}";
    std::fs::write(&first, empty).unwrap();
    std::fs::write(&second, kubeconfig("token: x", "server: 'http://127.0.0.1:7'")).unwrap();
    let settings = Source::Files(vec![first, second]).settings().await.unwrap();
    assert_eq!(settings.cluster_url.port_u16(), Some(7));
}

#[test]
fn the_config_comes_before_the_service_account_and_that_before_the_list_of_the_environment() {
    let choose = |file: Option<&str>, in_cluster, list: &str| {
        Source::choose(file.map(std::path::Path::new), in_cluster, Some(list.into()))
    };
    let files = |names: &[&str]| {
        Some(Source::Files(
            names.iter().map(std::path::PathBuf::from).collect(),
        ))
    };
    assert_eq!(choose(Some("/a:b"), true, "/c"), files(&["/a:b"]));
    assert_eq!(choose(None, true, "/c"), Some(Source::InCluster));
    assert_eq!(choose(None, false, ":/c::d:"), files(&["/c", "d"]));
    assert_eq!(choose(None, false, ":"), None);
    assert_eq!(Source::choose(None, false, None), None);
}
