//! Shipped configs against traffic of every class: each label that a config asks for has a value somewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtap_config::{Config, Layers};
use flowtap_engine::Stages;
use flowtap_pipeline::catalog::{FamilyId, Label};
use flowtap_pipeline::testing::record;
use flowtap_pipeline::{
    AppProtocol, Arrival, BuildContext, ClusterRanges, ClusterState, DnsOutcome, DnsRecord, DropReason,
    DropRecord, Endpoint, Events, Exchanges, Flow, FlowBatch, IcmpCount, Inspection, KubernetesNames,
    ListeningRecord, Output, PipelineId, Points, Published, Queues, ReadingLabels, ReadingRecord,
    ReadingValue, ResetBy, Role, SendTime, Series, Snapshot, TcpRecord, Timestamp, Translation, Transport,
    UdpApp, UdpRecord,
};

use crate::exposition::{Exposition, Sample};

const CONTAINER: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";

/// A peer of each class: pod, service, DNS, this machine, Docker, internal, external.
const PEERS: [&str; 7] = [
    "10.244.1.7",
    "10.96.0.20",
    "10.96.0.10",
    "127.0.0.2",
    "172.17.0.9",
    "10.9.9.9",
    "203.0.113.9",
];

fn cluster() -> ClusterState {
    let names = |pod: &str, service: &str| {
        Arc::new(KubernetesNames {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            workload: if pod.is_empty() {
                String::new()
            } else {
                format!("Deployment/{pod}")
            },
            service: service.to_owned(),
            node: "worker-1".to_owned(),
        })
    };
    let ip = |text: &str| text.parse().unwrap();
    ClusterState {
        ranges: Arc::new(ClusterRanges {
            pods: vec!["10.244.0.0/16".parse().unwrap()],
            services: vec!["10.96.0.0/12".parse().unwrap()],
            dns: vec![ip("10.96.0.10")],
        }),
        by_address: HashMap::from([
            (ip("10.244.1.7"), names("cart", "")),
            (ip("10.96.0.20"), names("", "cart")),
            // The name server, by its pod and its service.
            (ip("10.96.0.10"), names("coredns", "kube-dns")),
        ]),
        by_container: HashMap::from([(CONTAINER.into(), names("web", ""))]),
        zones: HashMap::from([("worker-1".into(), "zone-a".into())]),
    }
}

/// Records of two connections with each peer, one opened here and one accepted: all that a connection can report.
fn records() -> Vec<TcpRecord> {
    let mut records = Vec::new();
    let mut cookie = 0;
    for peer in PEERS {
        for (role, local, remote) in [(Role::Client, 40_000, 443), (Role::Server, 8_080, 50_000)] {
            for events in [
                Events::OPENED,
                Events::CLOSED | Events::RESET,
                Events::FAILED,
                Events::OPENED,
            ] {
                cookie += 1;
                let mut record = record(&format!("10.244.0.5:{local}"), &format!("{peer}:{remote}"));
                let flow = &mut record.flow;
                (flow.role, flow.cookie, flow.netns, flow.pid) = (role, cookie, 4_026_531_840, 77);
                (flow.comm, flow.cgroup_id) = (*b"web\0\0\0\0\0\0\0\0\0\0\0\0\0", 5);
                flow.container_id = Some(CONTAINER.into());
                (record.sent_bytes, record.received_bytes) = (1_000, 2_000);
                (record.sent_segments, record.received_segments, record.retransmits) = (10, 10, 1);
                (
                    record.rtt_us,
                    record.min_rtt_us,
                    record.handshake_us,
                    record.age_us,
                ) = (900, 800, 700, 5_000);
                (record.events, record.failure, record.reset_by) = (events, 111, ResetBy::Remote);
                record.time = SendTime {
                    network_us: 1,
                    answer_us: 1,
                    receiver_us: 1,
                    buffer_us: 1,
                    application_us: 1,
                };
                record.queues = Queues {
                    unsent: 1,
                    unacked: 1,
                    unread: 1,
                };
                (record.rto_us, record.out_of_order, record.lost, record.ecn_ce) = (1, 1, 1, 1);
                record.syn_retransmits = 1;
                records.push(record);
            }
        }
    }
    records
}

fn load(path: &Path) -> Config {
    let layers = Layers {
        files: vec![path.to_owned()],
        ..Layers::default()
    };
    flowtap_config::load(&layers, &flowtap::components::registry())
        .unwrap_or_else(|errors| panic!("{}: {errors}", path.display()))
}

/// The snapshot that a pipeline makes of `batch`; `None` if it makes log records.
fn snapshot(config: &Config, pipeline: &PipelineId, mut batch: FlowBatch) -> Option<Arc<Snapshot>> {
    let processors = &config.pipelines[pipeline].processors;
    let configs = processors.iter().map(|id| (id, &*config.processors[id]));
    // The window has series of findings if `watch` is among them.
    let findings = Arc::default();
    let context = |id: &_| BuildContext {
        pipeline: pipeline.to_string().into(),
        cluster: Published::new(cluster()),
        findings: Arc::clone(&findings),
        ..BuildContext::new(flowtap_pipeline::ComponentId::clone(id))
    };
    let mut stages = Stages::build(configs, context).unwrap().unwrap();
    stages.begin(Timestamp::from_nanos(1));
    stages.accept(&mut batch);
    let output = stages.advance(Timestamp::from_nanos(60_000_000_000));
    output.and_then(Output::into_snapshot)
}

/// Labels without a value in any series, by family.
fn empty_labels(config: &Config, pipeline: &PipelineId) -> Vec<String> {
    // A pipeline of log records has no labels.
    let Some(snapshot) = snapshot(config, pipeline, everything()) else {
        return Vec::new();
    };
    let mut empty = Vec::new();
    for family in &snapshot.families {
        let series: Vec<&Series> = match &family.points {
            Points::Sums(points) => points.iter().map(|point| &point.series).collect(),
            Points::Values(points) => points.iter().map(|point| &point.series).collect(),
            Points::Histograms(points) => points.iter().map(|point| &point.series).collect(),
        };
        let mut filled = BTreeMap::new();
        for pair in series.iter().flat_map(|series| series.pairs()) {
            *filled.entry(pair.name().to_owned()).or_insert(false) |= !pair.value.text().is_empty();
        }
        let name = family.family.name;
        empty.extend(
            filled
                .into_iter()
                .filter(|(_, filled)| !filled)
                .map(|(label, _)| format!("{name}: {label}")),
        );
    }
    empty
}

#[test]
fn every_label_that_a_shipped_config_asks_for_has_a_value() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.push(folder.join("default.yaml"));
    assert!(files.len() >= 5);
    for path in files {
        let config = load(&path);
        assert_eq!(config.unused_processors(), [], "{}", path.display());
        for pipeline in config.pipelines.keys() {
            assert_eq!(
                empty_labels(&config, pipeline),
                Vec::<String>::new(),
                "{}, {pipeline}",
                path.display()
            );
        }
    }
}

/// The snapshot that a pipeline makes of a record of everything, in the text format.
fn exposed(config: &Config, pipeline: &PipelineId) -> Exposition {
    let snapshot = snapshot(config, pipeline, everything()).expect("a pipeline of metrics");
    Exposition::parse(&flowtap_exporters::prometheus::text(
        "primus_lens",
        vec![snapshot],
    ))
}

/// A record of each signal and outcome.
fn everything() -> FlowBatch {
    let endpoint = |text: &str| {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    };
    let flow = |remote: &str| {
        let mut flow = Flow::new(endpoint("10.244.0.5:40000"), endpoint(remote));
        flow.role = Role::Client;
        flow
    };
    let query = |outcome| DnsRecord {
        qname: Some("www.example.com".into()),
        latency_us: 900,
        retries: 1,
        truncated: true,
        search_misses: 1,
        ..DnsRecord::new(flow("10.96.0.10:53"), 1, outcome)
    };
    let mut names = flow("10.96.0.10:53");
    names.transport = Transport::Udp;
    let listening = ListeningRecord {
        backlog: 3,
        limit: 4,
        drops: 5,
        wait_us: Some(900),
        ..ListeningRecord::new(endpoint("0.0.0.0:443"))
    };
    let drops = ["NETFILTER_DROP", "NO_SOCKET", "SOCKET_RCVBUFF"].map(|reason| DropRecord {
        packets: 1,
        bytes: 60,
        ..DropRecord::new(DropReason::new(reason), 4_026_531_840)
    });
    let drop_of_a_flow = DropRecord {
        flow: Some(flow("203.0.113.9:443")),
        ..drops[0].clone()
    };
    let datagrams = |role| UdpRecord {
        app: UdpApp::Quic,
        sent_bytes: 40,
        received_bytes: 80,
        sent_datagrams: 1,
        received_datagrams: 1,
        drops: 1,
        errors: 1,
        error: 111, // ECONNREFUSED
        ..UdpRecord::new(Flow {
            role,
            transport: Transport::Udp,
            ..match role {
                Role::Server => Flow::new(endpoint("10.244.0.5:8080"), endpoint("203.0.113.9:50000")),
                _ => flow("203.0.113.9:443"),
            }
        })
    };
    let unreachable = IcmpCount {
        netns: 4_026_531_840,
        is_v6: false,
        is_sent: false,
        message_type: 3,
        count: 1,
    };
    // TCP_SYN_SENT
    let waiting = TcpRecord {
        state: 2,
        events: Events::CONNECTING,
        syn_retransmits: 1,
        ..TcpRecord::new(flow("203.0.113.7:443"))
    };
    FlowBatch {
        tcp: records().into_iter().chain([waiting]).chain(hops()).collect(),
        // NOERROR and NXDOMAIN.
        dns: vec![
            query(DnsOutcome::Answered(0)),
            query(DnsOutcome::Answered(3)),
            query(DnsOutcome::TimedOut),
        ],
        listening: vec![listening],
        drops: drops.into_iter().chain([drop_of_a_flow]).collect(),
        udp: vec![
            UdpRecord {
                sent_bytes: 40,
                received_bytes: 80,
                sent_datagrams: 1,
                received_datagrams: 1,
                opened: true,
                ..UdpRecord::new(names)
            },
            datagrams(Role::Client),
            datagrams(Role::Server),
        ],
        icmp: vec![unreachable],
        readings: readings(),
        ..FlowBatch::default()
    }
}

/// A connection of each hop, of which one knows the pod behind a service, with its protocol and its exchanges.
fn hops() -> Vec<TcpRecord> {
    let endpoint = |text: &str| {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    };
    let inspection = Inspection {
        protocol: Some(AppProtocol::Tls),
        server_name: Some("shop.example.com".into()),
        server_name_full: Some("shop.example.com".into()),
        alpn: Some("h2".into()),
    };
    // The ends of the socket, those on the wire, and the interface.
    [
        (
            "10.244.0.5:40100",
            "10.96.0.20:443",
            None,
            Arrival::Loopback,
            Role::Client,
        ),
        (
            "127.0.0.1:15001",
            "10.244.0.5:40100",
            None,
            Arrival::Loopback,
            Role::Server,
        ),
        (
            "10.244.0.5:15006",
            "10.244.1.7:40000",
            Some(("10.244.0.5:8080", "10.244.1.7:40000")),
            Arrival::Device,
            Role::Server,
        ),
        (
            "10.244.0.5:40101",
            "10.244.0.5:8080",
            None,
            Arrival::Loopback,
            Role::Client,
        ),
        (
            "10.244.0.5:40102",
            "10.96.0.20:443",
            Some(("10.244.0.5:40102", "10.244.1.7:8443")),
            Arrival::Device,
            Role::Client,
        ),
    ]
    .into_iter()
    .zip(1_000..)
    .map(|((local, remote, on_wire, arrival, role), cookie)| {
        let mut record = record(local, remote);
        let flow = &mut record.flow;
        (flow.role, flow.cookie, flow.netns, flow.arrival) = (role, cookie, 4_026_531_840, arrival);
        flow.container_id = Some(CONTAINER.into());
        flow.inspection = Some(Arc::new(inspection.clone()));
        flow.translation = on_wire.map(|(local, remote)| {
            Arc::new(Translation {
                local: endpoint(local),
                remote: endpoint(remote),
            })
        });
        record.exchanges = Some(Box::new(Exchanges {
            durations_us: vec![900],
        }));
        (record.sent_bytes, record.received_bytes) = (1_000, 2_000);
        record
    })
    .collect()
}

/// A reading of each family of RDMA devices, and both directions.
fn readings() -> Vec<ReadingRecord> {
    let families = FamilyId::ALL.into_iter().filter(|family| family.takes_readings());
    families
        .flat_map(|family| {
            ["receive", "transmit"].map(|direction| {
                let labels = [
                    (Label::Device, "mlx5_0"),
                    (Label::Port, "1"),
                    (Label::Direction, direction),
                    (Label::Counter, "out_of_sequence"),
                    (Label::QpState, "RTS"),
                    (Label::QpType, "RC"),
                    (Label::Comm, "web"),
                ];
                let value = if family.definition().family.kind.can_fall() {
                    ReadingValue::Level(1)
                } else {
                    ReadingValue::Increase(1)
                };
                ReadingRecord::new(family, ReadingLabels::new(labels), value)
            })
        })
        .collect()
}

/// The config in the manifest that `kubectl apply` takes, which is rendered from the chart's defaults.
fn of_the_manifest(dir: &Path) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/flowtap.yaml");
    let text = std::fs::read_to_string(manifest).unwrap();
    let (_, block) = text.split_once("  flowtap.yaml: |\n").expect("the config's key");
    let lines = block
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    let config: Vec<_> = lines
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let path = dir.join("flowtap.yaml");
    std::fs::write(&path, config.join("\n")).unwrap();
    path
}

#[test]
fn the_kubernetes_configs_show_workload_to_workload_in_both_directions_with_round_trip_times() {
    let dir = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/kubernetes.yaml");
    for path in [example, of_the_manifest(dir.path())] {
        let config = load(&path);
        let pipeline = config.pipelines.keys().next().unwrap();
        let seen = exposed(&config, pipeline);
        let ends = [
            ("local_workload", "Deployment/web"),
            ("peer_workload", "Deployment/cart"),
        ];
        let has = |metric: &str, more: &[(&str, &str)]| {
            let labels = [&ends[..], more].concat();
            let found = seen.select(metric, &labels).any(|sample| sample.value > 0.0);
            assert!(found, "{}: {metric} {more:?}", path.display());
        };
        for flow in ["egress", "ingress"] {
            for direction in ["inbound", "outbound"] {
                let labels = [("flow", flow), ("direction", direction)];
                has("primus_lens_network_k8s_tcp_flow", &labels);
            }
        }
        has("primus_lens_network_tcp_flow_min_rtt_count", &[]);
    }
}

/// The name of a metric, and matchers: label, operator, value.
type Selector = (String, Vec<(String, String, String)>);

/// The selectors of metrics of flows in a query.
fn selectors(query: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    for (begin, _) in query.match_indices("primus_lens_") {
        let rest = &query[begin..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once("\"}"));
        let matchers = inside.map_or_else(Vec::new, |(inside, _)| {
            let matchers = inside.split("\", ").flat_map(|part| part.split("\","));
            matchers
                .map(|matcher| {
                    let (left, value) = matcher.split_once('"').expect("a matcher");
                    let label = left.trim_end_matches(['=', '~', '!']);
                    (
                        label.trim().to_owned(),
                        left[label.len()..].to_owned(),
                        value.to_owned(),
                    )
                })
                .collect()
        });
        found.push((name.to_owned(), matchers));
    }
    found
}

#[test]
fn no_panel_of_the_dashboard_is_empty_with_traffic_of_every_class() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let dir = tempfile::tempdir().unwrap();
    let manifest = of_the_manifest(dir.path());
    for path in [
        folder.join("default.yaml"),
        folder.join("examples/kubernetes.yaml"),
        manifest,
    ] {
        let config = load(&path);
        let seen = exposed(&config, config.pipelines.keys().next().unwrap());
        let (queries, empty) = empty_panels(&seen);
        assert!(empty.is_empty(), "{}: {empty:#?}", path.display());
        assert!(queries > 20, "{queries} queries");
    }
}

#[test]
fn the_row_of_the_mesh_shows_both_legs_and_the_one_that_leaves_where_series_have_the_hop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.yaml");
    let families: String = [
        "network_tcp_flow_egress",
        "network_tcp_flow_ingress",
        "network_k8s_tcp_flow",
    ]
    .map(|family| format!("      {family}: {{labels: [hop, direction, type]}}\n"))
    .concat();
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/default.yaml");
    std::fs::write(
        &path,
        format!("processors:\n  window:\n    families:\n{families}"),
    )
    .unwrap();
    let layers = Layers {
        files: vec![default, path],
        ..Layers::default()
    };
    let config = flowtap_config::load(&layers, &flowtap::components::registry()).unwrap();
    let seen = exposed(&config, config.pipelines.keys().next().unwrap());
    let families = [
        "primus_lens_network_tcp_flow_egress",
        "primus_lens_network_tcp_flow_ingress",
        "primus_lens_network_k8s_tcp_flow",
    ];
    let of_families = seen
        .0
        .iter()
        .filter(|sample| families.contains(&&*sample.name) && sample.value > 0.0);
    let hops: BTreeSet<_> = of_families
        .map(|sample| sample.labels.get("hop").map_or("", String::as_str))
        .collect();
    assert_eq!(
        hops,
        BTreeSet::from(["", "at_proxy", "from_application", "loopback", "to_proxy"])
    );
    let (_, empty) = empty_panels(&seen);
    assert!(empty.is_empty(), "{empty:#?}");
    // With `drop_local` the leg that leaves is the only one.
    let local = "to_proxy|from_application|loopback";
    let dashboard = include_str!("../../deploy/grafana/flowtap.json");
    assert_eq!(dashboard.matches(&format!("hop!~\\\"{local}\\\"")).count(), 6);
}

/// Number of the dashboard's queries about flows, and those that find nothing.
fn empty_panels(seen: &Exposition) -> (usize, Vec<String>) {
    let dashboard = include_str!("../../deploy/grafana/flowtap.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let (mut queries, mut empty) = (0, Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let mut selectors = selectors(query).into_iter();
            // Of `a or b` the one that is there fills the panel.
            let alternatives = query.contains(" or ");
            let fills = |(name, matchers): Selector| {
                let matches = |sample: &Sample| {
                    matchers.iter().all(|(label, operator, value)| {
                        let has = sample.labels.get(label).map_or("", String::as_str);
                        let is = value.split('|').any(|one| match one.split_once(".*") {
                            Some((begins, "")) => has.starts_with(begins),
                            _ => has == one,
                        });
                        // Of a Prometheus, and variables of the dashboard.
                        label == "instance" || value.contains('$') || is != operator.starts_with('!')
                    })
                };
                seen.0.iter().any(|sample| sample.name == name && matches(sample))
            };
            // Findings need the processor `watch`, which the default config does not have.
            if selectors.len() == 0 || query.contains("network_findings") {
                continue;
            }
            queries += 1;
            let filled = if alternatives {
                selectors.any(fills)
            } else {
                selectors.all(fills)
            };
            if !filled {
                empty.push(format!("{}: {query}", panel["title"]));
            }
        }
    }
    (queries, empty)
}

#[test]
fn every_query_of_the_documentation_finds_series() {
    let page = include_str!("../../docs/queries.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flowtap.yaml");
    std::fs::write(&path, text).unwrap();
    let default = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/default.yaml"));
    let names = dir.path().join("names.yaml");
    let (_, rest) = page.split_once("## DNS and UDP").unwrap();
    let (_, rest) = rest.split_once("```yaml\n").unwrap();
    std::fs::write(&names, rest.split_once("```").unwrap().0).unwrap();
    let services = dir.path().join("services.yaml");
    let (_, rest) = page.split_once("## Services, meshes and protocols\n").unwrap();
    let (_, rest) = rest.split_once("```yaml\n").unwrap();
    std::fs::write(&services, rest.split_once("```").unwrap().0).unwrap();
    let [by_default, with_more, with_names, with_services] =
        [default, load(&path), load(&names), load(&services)]
            .map(|config| exposed(&config, config.pipelines.keys().next().unwrap()));
    let mut queries = 0;
    let tables = page
        .split("## With more labels")
        .flat_map(|part| part.split("## DNS and UDP"))
        .flat_map(|part| part.split("## Services, meshes and protocols\n"));
    for (table, seen) in tables.zip([by_default, with_more, with_names, with_services]) {
        for row in table
            .lines()
            .filter(|line| line.starts_with("| ") && line.contains('`'))
        {
            queries += 1;
            for (name, matchers) in selectors(&row.replace("\\|", "|")) {
                let matches = |sample: &Sample| {
                    matchers.iter().all(|(label, operator, value)| {
                        let has = sample.labels.get(label).map_or("", String::as_str);
                        value.split('|').any(|one| has == one) != operator.starts_with('!')
                    })
                };
                let found = seen.0.iter().any(|sample| sample.name == name && matches(sample));
                assert!(found, "{row}");
            }
            let labels = row.split_once("by (").and_then(|(_, rest)| rest.split_once(')'));
            for label in labels
                .map_or("", |(labels, _)| labels)
                .split(", ")
                .filter(|label| !label.is_empty())
            {
                let name = selectors(row).first().map(|(name, _)| name.clone());
                let Some(name) = name else { continue };
                let filled =
                    |sample: &Sample| sample.labels.get(label).is_some_and(|value| !value.is_empty());
                // Of the target, not of flowtap.
                let found =
                    label == "instance" || seen.0.iter().any(|sample| sample.name == name && filled(sample));
                assert!(found, "nothing has a {label}: {row}");
            }
        }
    }
    assert_eq!(queries, 40);
}
