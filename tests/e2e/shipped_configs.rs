//! Shipped configs against traffic of every class: each label that a config asks for has a value somewhere.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtap_config::{Config, Layers};
use flowtap_engine::Stages;
use flowtap_pipeline::testing::record;
use flowtap_pipeline::{
    BuildContext, ClusterRanges, ClusterState, Events, FlowBatch, KubernetesNames, Output, PipelineId,
    Points, Published, Queues, ResetBy, Role, SendTime, Series, TcpRecord, Timestamp,
};

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
        zones: HashMap::new(),
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

/// Labels without a value in any series, by family.
fn empty_labels(config: &Config, pipeline: &PipelineId) -> Vec<String> {
    let processors = &config.pipelines[pipeline].processors;
    let configs = processors.iter().map(|id| (id, &*config.processors[id]));
    let context = |id: &_| BuildContext {
        pipeline: pipeline.to_string().into(),
        cluster: Published::new(cluster()),
        ..BuildContext::new(flowtap_pipeline::ComponentId::clone(id))
    };
    let mut stages = Stages::build(configs, context).unwrap().unwrap();
    stages.begin(Timestamp::from_nanos(1));
    stages.accept(&mut FlowBatch {
        tcp: records(),
        ..FlowBatch::default()
    });
    let output = stages.advance(Timestamp::from_nanos(3_600_000_000_000));
    // A pipeline of log records has no labels.
    let Some(snapshot) = output.and_then(Output::into_snapshot) else {
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
