//! The Go exporter's rules, and each place where ours differ, on the whole path from record to series.

use flowtap_engine::Stages;
use flowtap_pipeline::node::InterfaceAddress;
use flowtap_pipeline::{
    Aggregator, ComponentId, Flow, FlowBatch, ListenChange, Listener, NodeInfo, Points, ProcessorConfig,
    Role, RoleSource, TcpRecord, Timestamp,
};

use crate::direction;
use crate::policy;
use crate::testing::{context, record};
use crate::window::{self, Window};

const NODE: &str = "192.0.2.1";
const LISTENED: u16 = 8080;

/// The node `192.0.2.1`, on which port 8080 is listened on, in a cluster.
fn node() -> NodeInfo {
    NodeInfo {
        addresses: vec![InterfaceAddress {
            interface: "eth0".to_owned(),
            network: format!("{NODE}/24").parse().unwrap(),
        }],
        resolvers: vec!["203.0.113.53".parse().unwrap()],
        ..NodeInfo::default()
    }
}

fn policy() -> policy::Config {
    let list = |text: &str| vec![text.parse().unwrap()];
    policy::Config {
        k8s_pod: list("10.244.0.0/16"),
        k8s_svc: list("10.96.0.0/12"),
        dns: list("10.96.0.10"),
        abnormal_black_list: list("10.244.66.0/24"),
        abnormal_white_list: list("10.244.0.77"),
        docker: list("172.17.0.0/16"),
        ..policy::Config::default()
    }
}

/// The whole path from record to series.
fn stages() -> Stages {
    let configs: [(ComponentId, &dyn ProcessorConfig); 3] = [
        ("direction".parse().unwrap(), &direction::Config::default()),
        ("policy".parse().unwrap(), &policy()),
        ("window".parse().unwrap(), &window::Config::default()),
    ];
    let configs = configs.iter().map(|(id, config)| (id, *config));
    Stages::build(configs, |_| context(node())).unwrap().unwrap()
}

/// 10 bytes sent and 20 received between two ends, as series: `name{labels} value`, without what is not bytes.
fn series_of(record: TcpRecord) -> Vec<String> {
    let mut stages = stages();
    stages.begin(Timestamp::from_nanos(0));
    let listener = Listener {
        netns: 1,
        port: LISTENED,
        cookie: 1,
    };
    let mut batch = FlowBatch {
        tcp: vec![TcpRecord {
            sent_bytes: 10,
            received_bytes: 20,
            rtt_us: 250,
            ..record.with_flow(|flow| Flow { netns: 1, ..flow })
        }],
        listeners: vec![ListenChange::Opened(listener)],
        ..FlowBatch::default()
    };
    stages.accept(&mut batch);
    let mut shown = Vec::new();
    for family in stages
        .finish(Timestamp::from_nanos(1))
        .into_snapshot()
        .unwrap()
        .families
        .clone()
    {
        let name = family.family.name.trim_start_matches("network_");
        // The Go exporter has no such family.
        if name == "tcp_bytes" {
            continue;
        }
        match family.points {
            Points::Values(points) => assert!(points.is_empty(), "{points:?}"),
            Points::Sums(points) => {
                for point in points.iter().filter(|point| point.total > 0) {
                    shown.push(format!(
                        "{name}{{{}}} {}",
                        point.series.joined_labels(),
                        point.total
                    ));
                }
            }
            Points::Histograms(points) => {
                for point in points {
                    shown.push(format!(
                        "{name}{{{}}} {}",
                        point.series.joined_labels(),
                        point.count()
                    ));
                }
            }
        }
    }
    shown
}

fn egress(raddr: &str, rport: u16, class: &str) -> Vec<String> {
    let of = |direction, bytes| {
        format!(
            r#"tcp_flow_egress{{raddr="{raddr}",rport="{rport}",direction="{direction}",type="{class}"}} {bytes}"#
        )
    };
    vec![of("outbound", 10), of("inbound", 20)]
}

fn ingress(lport: u16, raddr: &str, class: &str) -> Vec<String> {
    let of = |direction, bytes| {
        format!(
            r#"tcp_flow_ingress{{lport="{lport}",raddr="{raddr}",direction="{direction}",type="{class}"}} {bytes}"#
        )
    };
    vec![of("outbound", 10), of("inbound", 20)]
}

fn rtt(raddr: &str) -> Vec<String> {
    let of = |direction| format!(r#"tcp_flow_rtt{{raddr="{raddr}",direction="{direction}"}} 1"#);
    vec![of("outbound"), of("inbound")]
}

fn one(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

#[test]
fn what_the_go_exporter_does_right_is_done_the_same() {
    let far = "198.51.100.7";
    let local = |port: u16| format!("{NODE}:{port}");
    let cases = [
        (
            "nobody listens: egress",
            local(40_000),
            format!("{far}:443"),
            [egress(far, 443, "externalHosts"), rtt(far)].concat(),
        ),
        (
            "the local port is listened on: ingress",
            local(LISTENED),
            format!("{far}:40000"),
            [ingress(LISTENED, far, "externalHosts"), rtt(far)].concat(),
        ),
        (
            "a private address is an internal host, and has a round-trip time",
            local(40_000),
            "192.168.7.7:443".to_owned(),
            [egress("192.168.7.7", 443, "internalHosts"), rtt("192.168.7.7")].concat(),
        ),
        (
            "pods are summed by type, without a round-trip time",
            local(40_000),
            "10.244.1.2:80".to_owned(),
            one(r#"k8s_tcp_flow{type="k8sPod"} 30"#),
        ),
        (
            "services likewise",
            local(40_000),
            "10.96.1.2:80".to_owned(),
            one(r#"k8s_tcp_flow{type="k8sSvc"} 30"#),
        ),
        (
            "a name server of resolv.conf goes into the one counter of DNS",
            local(40_000),
            "203.0.113.53:853".to_owned(),
            one("flow_dns{} 30"),
        ),
        (
            "port 53 is DNS at any address",
            local(40_000),
            format!("{far}:53"),
            one("flow_dns{} 30"),
        ),
        (
            "localhost has its class and no round-trip time",
            format!("127.0.0.1:{LISTENED}"),
            "127.0.0.1:40000".to_owned(),
            ingress(LISTENED, "127.0.0.1", "localhost"),
        ),
        (
            "docker likewise",
            local(LISTENED),
            "172.17.0.9:40000".to_owned(),
            ingress(LISTENED, "172.17.0.9", "docker"),
        ),
    ];
    for (rule, local, remote, expected) in cases {
        assert_eq!(series_of(record(&local, &remote)), expected, "{rule}");
    }
}

/// docs/adr/0004: bytes go the way that they went.
#[test]
fn difference_sent_bytes_are_outbound_and_received_ones_inbound() {
    let shown = series_of(record(&format!("{NODE}:{LISTENED}"), "198.51.100.7:40000"));
    assert!(
        shown[0].contains(r#"direction="outbound""#) && shown[0].ends_with(" 10"),
        "{shown:?}"
    );
    assert!(
        shown[1].contains(r#"direction="inbound""#) && shown[1].ends_with(" 20"),
        "{shown:?}"
    );
}

/// docs/adr/0006: the handshake decides the role, regardless of listeners.
#[test]
fn difference_a_client_on_a_port_that_is_listened_on_is_still_a_client() {
    let client = record(&format!("{NODE}:{LISTENED}"), "198.51.100.7:443").with_flow(|flow| Flow {
        role: Role::Client,
        role_source: RoleSource::Handshake,
        ..flow
    });
    assert_eq!(
        series_of(client)[..2],
        egress("198.51.100.7", 443, "externalHosts")
    );
}

/// docs/adr/0006: ports are looked up where the socket is.
#[test]
fn difference_a_port_that_another_namespace_listens_on_does_not_count() {
    let elsewhere = series_of(record(&format!("{NODE}:40001"), "198.51.100.7:443"));
    assert_eq!(elsewhere[..2], egress("198.51.100.7", 443, "externalHosts"));
}

/// ADR 24: where nobody listens, the ports decide before it is assumed.
#[test]
fn difference_a_server_whose_listener_is_gone_is_still_a_server() {
    let drains = series_of(record(&format!("{NODE}:{}", LISTENED + 1), "198.51.100.7:40000"));
    assert_eq!(
        drains[..2],
        ingress(LISTENED + 1, "198.51.100.7", "externalHosts")
    );
}

/// ADR 24: both ends of a connection on this node are counted.
#[test]
fn difference_local_to_local_without_a_listener_is_counted() {
    let [lower, higher] = ["8081", "8082"].map(|port| format!("{NODE}:{port}"));
    let served = series_of(record(&lower, &higher));
    assert_eq!(served[..2], ingress(8081, NODE, "externalHosts"));
    let served_by = series_of(record(&higher, &lower));
    assert_eq!(served_by[..2], egress(NODE, 8081, "externalHosts"));
}

/// docs/adr/0007: the most specific prefix wins.
#[test]
fn difference_a_name_server_inside_the_service_range_is_dns() {
    assert_eq!(
        series_of(record(&format!("{NODE}:40000"), "10.96.0.10:9153")),
        one("flow_dns{} 30")
    );
}

/// docs/adr/0007: the lists of abnormal flows beat every class, the black one first.
#[test]
fn difference_the_lists_of_abnormal_flows_beat_pods_and_dns() {
    for (remote, class) in [
        ("10.244.66.1", "abnormalFlowBlackList"),
        ("10.244.0.77", "abnormalFlowWhiteList"),
    ] {
        let shown = series_of(record(&format!("{NODE}:40000"), &format!("{remote}:53")));
        assert_eq!(shown, [egress(remote, 53, class), rtt(remote)].concat());
    }
}

/// docs/adr/0006: an IPv4 peer of an IPv6 socket is an IPv4 peer.
#[test]
fn difference_mapped_addresses_are_folded() {
    let mapped = series_of(record(
        &format!("[::ffff:{NODE}]:40000"),
        "[::ffff:192.168.7.7]:443",
    ));
    assert_eq!(mapped[..2], egress("192.168.7.7", 443, "internalHosts"));
}

/// docs/adr/0004: no sample, no observation; the Go exporter's histogram held NaN there.
#[test]
fn difference_a_flow_without_a_round_trip_time_has_no_histogram() {
    let mut window = Window::new(&window::Config::default(), &context(node()));
    window.begin(Timestamp::from_nanos(0));
    window.fold(&FlowBatch {
        tcp: vec![TcpRecord {
            sent_bytes: 1,
            ..record(&format!("{NODE}:40000"), "198.51.100.7:443")
        }],
        ..FlowBatch::default()
    });
    let snapshot = window.finish(Timestamp::from_nanos(1));
    let histograms = snapshot
        .families
        .iter()
        .filter(|family| matches!(family.points, Points::Histograms(_)));
    assert!(histograms.into_iter().all(|family| family.points.is_empty()));
}
