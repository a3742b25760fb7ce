use std::net::IpAddr;
use std::sync::Arc;

use flowtap_pipeline::contract::RecordField;
use flowtap_pipeline::testing::{AggregatorTest, ProcessorTest, batch, config, record};
use flowtap_pipeline::{
    Census, Endpoint, Events, FlowKind, KubernetesNames, NodeInfo, PeerClass, Points, Transport, UdpRecord,
    catalog::FamilyId,
};

use super::*;
use crate::testing::{context, counted_context};

/// Whether `flow` passes a filter with this `exclude` matcher, given in YAML; `include` has to say the opposite.
fn is_dropped(matcher: &str, flow: &Flow) -> bool {
    let record = TcpRecord::new(flow.clone());
    let mut drops = ProcessorTest::new(FACTORY, &format!("exclude: [{matcher}]"));
    let mut keeps = ProcessorTest::new(FACTORY, &format!("include: [{matcher}]"));
    let dropped = drops.process([record.clone()]).is_empty();
    let kept = !keeps.process([record]).is_empty();
    assert_eq!(dropped, kept, "{matcher}");
    dropped
}

/// A connection that this machine opened from 10.1.2.3:40000 to the web server 203.0.113.7:443.
fn client() -> Flow {
    Flow {
        kind: Some(FlowKind::Egress),
        class: Some(PeerClass::ExternalHosts),
        ..record("10.1.2.3:40000", "203.0.113.7:443").flow
    }
}

/// The same connection, seen by the server.
fn server() -> Flow {
    Flow {
        kind: Some(FlowKind::Ingress),
        class: Some(PeerClass::InternalHosts),
        ..record("203.0.113.7:443", "10.1.2.3:40000").flow
    }
}

/// For each matcher whether it matches the client's end, and the server's.
fn check(cases: &[(&str, bool, bool)]) {
    for (matcher, of_client, of_server) in cases {
        assert_eq!(is_dropped(matcher, &client()), *of_client, "client, {matcher}");
        assert_eq!(is_dropped(matcher, &server()), *of_server, "server, {matcher}");
    }
}

#[test]
fn addresses_match_the_end_that_the_key_names_or_either() {
    check(&[
        ("{remote_address: [203.0.113.0/24]}", true, false),
        ("{local_address: [203.0.113.0/24]}", false, true),
        ("{address: [203.0.113.0/24]}", true, true),
        ("{address: [10.1.2.3]}", true, true),
        ("{address: [10.1.2.4, 192.0.2.0/24]}", false, false),
        ("{remote_address: [192.0.2.0/24, 10.0.0.0/8]}", false, true),
        ("{address: ['::/0']}", false, false),
    ]);
    let v6 = record("[2001:db8::1]:40000", "[2001:db8:1::7]:443").flow;
    assert!(is_dropped("{remote_address: ['2001:db8:1::/48']}", &v6));
    assert!(!is_dropped("{address: [0.0.0.0/0]}", &v6));
}

#[test]
fn ports_match_the_end_that_the_key_names_or_the_one_that_serves_or_either() {
    check(&[
        ("{remote_port: [443]}", true, false),
        ("{local_port: [443]}", false, true),
        ("{port: [80, 443]}", true, true),
        ("{server_port: [443]}", true, true),
        ("{server_port: [40000]}", false, false),
        ("{remote_port: [400-500]}", true, false),
        ("{local_port: [30000-40000]}", true, false),
        ("{port: [444-39999]}", false, false),
        ("{port: [1-65535]}", true, true),
    ]);
}

#[test]
fn ends_match_in_either_order() {
    check(&[
        (
            "{ends: [{address: [10.0.0.0/8]}, {address: [203.0.113.0/24], port: [443]}]}",
            true,
            true,
        ),
        ("{ends: [{address: [10.0.0.0/8], port: [443]}]}", false, false),
        ("{ends: [{address: [10.0.0.0/8], port: [40000]}]}", true, true),
        (
            "{ends: [{address: [10.0.0.0/8]}, {address: [10.0.0.0/8]}]}",
            false,
            false,
        ),
    ]);
}

#[test]
fn class_role_and_transport_match_what_a_processor_or_receiver_says() {
    check(&[
        ("{class: [externalHosts]}", true, false),
        ("{class: [k8sPod, internalHosts]}", false, true),
        ("{class: [partners]}", false, false),
        ("{role: [client]}", true, false),
        ("{role: [server]}", false, true),
        ("{role: [client, server]}", true, true),
        ("{transport: [tcp]}", true, true),
        ("{transport: [udp, udplite]}", false, false),
    ]);
    let partner = Flow {
        class: PeerClass::custom("partners"),
        transport: Transport::Udp,
        kind: None,
        ..client()
    };
    assert!(is_dropped("{class: [partners]}", &partner));
    assert!(is_dropped("{transport: [udp]}", &partner));
    assert!(!is_dropped("{transport: [udplite]}", &partner));
    let lite = Flow {
        transport: Transport::UdpLite,
        ..partner.clone()
    };
    assert!(is_dropped("{transport: [udplite]}", &lite));
    assert!(!is_dropped("{transport: [tcp, udp]}", &lite));
    assert!(!is_dropped("{role: [client]}", &partner), "not decided");
    let before_policy = Flow {
        class: None,
        ..client()
    };
    assert!(is_dropped("{class: [unknown]}", &before_policy));
}

#[test]
fn network_namespaces_processes_and_containers_match_by_value_and_pattern() {
    const ID: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";
    let owned = Flow {
        netns: 4_026_531_840,
        comm: *b"kube-proxy\0\0\0\0\0\0",
        container_id: Some(ID.into()),
        ..client()
    };
    let node = client();
    for (matcher, expected) in [
        ("{netns: [4026531840]}".to_owned(), true),
        ("{netns: [4026531841]}".to_owned(), false),
        ("{comm: [kube-proxy]}".to_owned(), true),
        ("{comm: ['kube*']}".to_owned(), true),
        ("{comm: ['kube-prox?']}".to_owned(), true),
        ("{comm: ['*']}".to_owned(), true),
        ("{comm: [kube]}".to_owned(), false),
        ("{comm: ['*roxy?']}".to_owned(), false),
        (format!("{{container_id: [{ID}]}}"), true),
        (format!("{{container_id: [{}]}}", &ID[..12]), true),
        (format!("{{container_id: [{}]}}", &ID[..11]), false),
        ("{container_id: ['4f0d*']}".to_owned(), true),
        ("{container_id: ['*']}".to_owned(), true),
    ] {
        assert_eq!(is_dropped(&matcher, &owned), expected, "{matcher}");
        assert!(!is_dropped(&matcher, &node), "{matcher}");
    }
}

#[test]
fn a_name_with_control_characters_matches_as_logs_show_it() {
    let mut flow = client();
    flow.comm[..8].copy_from_slice(b"tab\tname");
    for (matcher, expected) in [
        (r"{comm: ['tab\x09name']}", true),
        (r"{comm: ['*\x09*']}", true),
        (r#"{comm: ["tab\tname"]}"#, true),
        (r"{comm: ['tab\x0aname']}", false),
    ] {
        assert_eq!(is_dropped(matcher, &flow), expected, "{matcher}");
    }
}

#[test]
fn an_address_that_is_mapped_to_ipv6_is_the_one_of_ipv4() {
    let address = client().remote.addr;
    for bits in [96, 104, 128] {
        let range = match address {
            IpAddr::V4(address) => ipnet::Ipv6Net::new(address.to_ipv6_mapped(), bits)
                .unwrap()
                .trunc(),
            IpAddr::V6(_) => unreachable!("{address}"),
        };
        assert!(
            is_dropped(&format!("{{remote_address: ['{range}']}}"), &client()),
            "{range}"
        );
    }
}

#[test]
fn names_of_the_cluster_match_by_value_and_pattern() {
    let named = |namespace: &str, workload: &str| {
        Some(Arc::new(KubernetesNames {
            namespace: namespace.to_owned(),
            pod: format!("{workload}-1"),
            workload: format!("Deployment/{workload}"),
            service: String::new(),
            node: "worker-1".to_owned(),
        }))
    };
    let flow = Flow {
        peer_names: named("shop", "cart"),
        local_names: named("monitoring", "agent"),
        ..client()
    };
    for (matcher, expected) in [
        ("{peer_namespace: [shop]}", true),
        ("{peer_namespace: [monitoring]}", false),
        ("{peer_pod: ['cart-*']}", true),
        ("{peer_workload: [Deployment/cart]}", true),
        ("{peer_workload: ['*/cart']}", true),
        ("{peer_workload: [cart]}", false),
        ("{peer_service: ['*']}", false),
        ("{peer_service: ['']}", true),
        ("{peer_node: [worker-1]}", true),
        ("{local_namespace: [monitoring, kube-system]}", true),
        ("{local_pod: [agent-1]}", true),
        ("{local_workload: ['Deployment/*']}", true),
        ("{peer_namespace: [shop], local_namespace: [shop]}", false),
    ] {
        assert_eq!(is_dropped(matcher, &flow), expected, "{matcher}");
    }
    let service = Flow {
        peer_names: Some(Arc::new(KubernetesNames {
            namespace: "shop".to_owned(),
            pod: String::new(),
            workload: String::new(),
            service: "checkout".to_owned(),
            node: String::new(),
        })),
        ..client()
    };
    for (matcher, expected) in [
        ("{peer_service: [checkout]}", true),
        ("{peer_service: ['check*']}", true),
        ("{peer_service: ['*']}", true),
        ("{peer_service: [cart]}", false),
        ("{peer_service: ['']}", false),
        ("{peer_service: [checkout], peer_pod: ['']}", true),
    ] {
        assert_eq!(is_dropped(matcher, &service), expected, "{matcher}");
    }
    assert!(!is_dropped("{peer_namespace: ['*']}", &client()), "no names");
    assert!(is_dropped("{peer_namespace: ['']}", &client()));
}

#[test]
fn a_matcher_needs_all_of_its_conditions_and_a_list_one_of_its_matchers() {
    check(&[
        ("{role: [client], port: [443]}", true, false),
        ("{role: [client], port: [80]}", false, false),
        (
            "{role: [client], remote_port: [80]}, {role: [server], local_port: [443]}",
            false,
            true,
        ),
        // Joined to one list.
        ("{remote_port: [443]}, {remote_port: [40000]}", true, true),
    ]);
    let mut filter = ProcessorTest::new(
        FACTORY,
        "{include: [{address: [10.0.0.0/8]}], exclude: [{port: [22]}, {port: [53]}]}",
    );
    let passed = filter.process([
        record("10.0.0.1:5000", "192.0.2.1:443"),
        record("10.0.0.1:5001", "192.0.2.1:22"),
        record("192.0.2.2:5002", "192.0.2.1:443"),
        record("10.0.0.1:53", "192.0.2.1:5003"),
        record("192.0.2.2:443", "10.0.0.1:5004"),
    ]);
    let ends: Vec<Endpoint> = passed.iter().map(|record| record.flow.remote).collect();
    let ends: Vec<_> = ends.iter().map(ToString::to_string).collect();
    assert_eq!(ends, ["192.0.2.1:443", "10.0.0.1:5004"]);
}

#[test]
fn records_of_udp_flows_are_judged_one_by_one_and_those_of_tcp_beside_them_by_their_own() {
    let of = |port: u16, transport| {
        let mut flow = record(&format!("10.1.2.3:{port}"), "203.0.113.7:53").flow;
        flow.transport = transport;
        UdpRecord::new(flow)
    };
    let mut filter = ProcessorTest::new(
        FACTORY,
        "{exclude: [{transport: [udplite]}, {transport: [udp], local_port: [5000-5001]}]}",
    );
    let mut batch = FlowBatch {
        udp: vec![
            of(5000, Transport::Udp),
            of(5001, Transport::UdpLite),
            of(5002, Transport::Udp),
            of(5003, Transport::UdpLite),
        ],
        ..batch([record("10.1.2.3:5000", "203.0.113.7:53")])
    };
    filter.process_batch(&mut batch);
    let ports: Vec<_> = batch.udp.iter().map(|record| record.flow.local.port).collect();
    assert_eq!((ports, batch.tcp.len()), (vec![5002], 1));
}

#[test]
fn payload_bytes_of_dropped_records_are_counted_tcp_and_udp() {
    let (context, counters) = counted_context(NodeInfo::default());
    let mut filter = ProcessorTest::in_context(FACTORY, "exclude: [{remote_port: [53]}]", &context);
    let tcp = |remote, sent_bytes| TcpRecord {
        sent_bytes,
        received_bytes: 20,
        ..record("10.1.2.3:5000", remote)
    };
    let udp = |remote, transport, sent_bytes| {
        let mut record = UdpRecord::new(record("10.1.2.3:5000", remote).flow);
        record.flow.transport = transport;
        (record.sent_bytes, record.received_bytes) = (sent_bytes, 300);
        record
    };
    let mut batch = FlowBatch {
        udp: vec![
            udp("203.0.113.7:53", Transport::Udp, 100),
            udp("203.0.113.7:53", Transport::UdpLite, 1000),
            udp("203.0.113.7:443", Transport::Udp, 50_000),
            // A correction is not traffic.
            udp("203.0.113.8:53", Transport::Udp, -7),
        ],
        ..batch([tcp("203.0.113.7:53", 4), tcp("203.0.113.7:443", 600_000)])
    };
    filter.process_batch(&mut batch);
    assert_eq!((batch.tcp.len(), batch.udp.len()), (1, 1));
    assert_eq!(counters.dropped_records(FILTER), 4);
    assert_eq!(counters.dropped_bytes(FILTER), 24 + 400 + 1300 + 300);
}

#[test]
fn connections_of_this_process_are_dropped_on_request() {
    let context = context(NodeInfo {
        own_pid: 77,
        ..NodeInfo::default()
    });
    let of = |pid, port: u16| {
        let mut record = record("192.0.2.1:9464", &format!("192.0.2.2:{port}"));
        record.flow.pid = pid;
        record
    };
    let records = || [of(77, 1), of(78, 2), of(0, 3)];
    let passed = |filter: &mut ProcessorTest| {
        let passed = filter.process(records());
        passed
            .iter()
            .map(|record| record.flow.remote.port)
            .collect::<Vec<_>>()
    };
    let mut filter = ProcessorTest::in_context(FACTORY, "self: exclude", &context);
    assert_eq!(passed(&mut filter), [2, 3]);
    let mut filter = ProcessorTest::in_context(FACTORY, "{self: include, exclude: [{port: [7]}]}", &context);
    assert_eq!(passed(&mut filter), [1, 2, 3]);
    // Where the process does not know its id, it drops nobody's connections.
    context.node.store(NodeInfo::default());
    let mut filter = ProcessorTest::in_context(FACTORY, "self: exclude", &context);
    assert_eq!(passed(&mut filter), [1, 2, 3]);
}

/// A record of a connection whose peer has come to be of a class by now.
fn of_class(cookie: u64, class: PeerClass, events: Events) -> TcpRecord {
    let mut record = record("192.0.2.1:5000", "10.244.1.7:80");
    record.flow.cookie = cookie;
    record.flow.class = Some(class);
    record.events = events;
    record
}

/// Level of the gauge of open connections in the window that ends `seconds` after the epoch.
fn open_connections(window: &mut AggregatorTest, seconds: u64) -> u64 {
    let snapshot = window.advance(seconds).unwrap();
    let family = &snapshot.families[FamilyId::ConnectionsActive as usize];
    let Points::Sums(points) = &family.points else {
        panic!("{family:?}")
    };
    points.iter().map(|point| point.total).sum()
}

#[test]
fn a_class_that_becomes_known_later_drops_no_close_of_a_connection_whose_opening_passed() {
    use PeerClass::{InternalHosts, K8sPod};
    let mut filter = ProcessorTest::new(FACTORY, "exclude: [{class: [k8sPod]}]");
    let mut window = AggregatorTest::new(crate::window::FACTORY, "interval: 5s");
    let mut pass = |window: &mut AggregatorTest, records: Vec<TcpRecord>| {
        let passed = filter.process(records);
        let events: Vec<_> = passed
            .iter()
            .map(|record| (record.flow.cookie, record.events))
            .collect();
        window.fold(passed);
        events
    };
    let opened = [1, 2].map(|cookie| of_class(cookie, InternalHosts, Events::OPENED));
    assert_eq!(pass(&mut window, opened.into()).len(), 2);
    assert_eq!(open_connections(&mut window, 5), 2);
    // The cluster's ranges are known from here on.
    let closed = of_class(1, K8sPod, Events::CLOSED);
    assert_eq!(pass(&mut window, vec![closed]), [(1, Events::CLOSED)]);
    assert_eq!(open_connections(&mut window, 10), 1);
    assert!(pass(&mut window, vec![of_class(3, K8sPod, Events::OPENED)]).is_empty());
    let closed = of_class(3, InternalHosts, Events::CLOSED);
    assert!(
        pass(&mut window, vec![closed]).is_empty(),
        "its opening did not pass"
    );
    assert_eq!(open_connections(&mut window, 15), 1);
}

#[test]
fn a_census_decides_anew_and_the_gauge_follows() {
    use PeerClass::{InternalHosts, K8sPod};
    let mut filter = Filter::new(
        &Config {
            exclude: vec![Matcher {
                class: Some(vec!["k8sPod".to_owned()]),
                ..Matcher::default()
            }],
            ..Config::default()
        },
        &context(NodeInfo::default()),
    );
    let mut window = AggregatorTest::new(crate::window::FACTORY, "interval: 5s");
    let mut pass = |filter: &mut Filter, records: Vec<TcpRecord>, census| {
        let mut batch = batch(records);
        batch.census = census;
        filter.process(&mut batch);
        window.fold_batch(&batch);
    };
    let of = |class, events| [1, 2].map(|cookie| of_class(cookie, class, events)).to_vec();
    pass(&mut filter, of(InternalHosts, Events::OPENED), Census::NONE);
    assert!(!filter.wants_census(0));
    pass(&mut filter, of(K8sPod, Events::NONE), Census::NONE);
    assert!(
        filter.wants_census(0),
        "all of its connections would be dropped now"
    );
    pass(&mut filter, of(K8sPod, Events::OPEN), Census::WHOLE);
    assert!(!filter.wants_census(0));
    pass(&mut filter, of(InternalHosts, Events::CLOSED), Census::NONE);
    assert_eq!(open_connections(&mut window, 5), 0);
}

#[test]
fn a_config_that_can_match_nothing_or_everything_names_the_key() {
    for (yaml, expected) in [
        ("exclude: [{}]", "exclude.0: has no condition"),
        (
            "include: [{port: [80]}, {port: []}]",
            "include.1.port: is an empty list",
        ),
        ("exclude: [{comm: ['']}]", "exclude.0.comm.0: is empty"),
        (
            "exclude: [{ends: [{}]}]",
            "exclude.0.ends.0: has no condition; hint: set `address`",
        ),
        (
            "exclude: [{ends: [{port: [1]}, {port: [2]}, {port: [3]}]}]",
            "exclude.0.ends: has 3 entries",
        ),
        (
            "exclude: [{port: [http]}]",
            "`http` is not a port from 1 to 65535",
        ),
        ("exclude: [{port: [90-80]}]", "`90-80` ends below its start"),
        ("exclude: [{address: [10.0.0.1/8]}]", "did you mean `10.0.0.0/8`"),
        ("exclude: [{role: [peer]}]", "expected ``client` or `server``"),
        ("exclude: [{transport: [sctp]}]", "found `sctp`"),
    ] {
        let error = config(FACTORY, yaml).expect_err(yaml);
        assert!(error.contains(expected), "{yaml}: {error}");
    }
    let warnings = config(FACTORY, "").unwrap().warnings();
    assert!(
        warnings[0].message.starts_with("keeps every record"),
        "{warnings:?}"
    );
}

#[test]
fn a_name_that_no_process_can_have_is_warned_of_with_the_part_that_the_kernel_keeps() {
    let warnings = |names: &str| {
        let config = config(FACTORY, &format!("exclude: [{{comm: [{names}]}}]")).unwrap();
        let warnings = config.warnings().into_iter();
        let texts = warnings.map(|warning| format!("{}: {}", warning.path.join("."), warning.message));
        texts.collect::<Vec<_>>()
    };
    assert_eq!(
        warnings(
            "nginx, exactly15bytes., 'exactly15bytes.*', 'rlo\\xe2\\x80\\xaetxt', '*a*b*c*d*e*f*g*h*', '???????????????', ééééééé"
        ),
        [""; 0]
    );
    let text = |index, name, kept| {
        format!(
            "exclude.0.comm.{index}: `{name}` matches no process, as the kernel keeps 15 bytes of a name; hint: write `{kept}`"
        )
    };
    assert_eq!(
        warnings("node_exporter_amd64, 'x', 'kube-controller-*', éééééééé"),
        [
            text(0, "node_exporter_amd64", "node_exporter_a"),
            text(2, "kube-controller-*", "kube-controller"),
            text(3, "éééééééé", "ééééééé"),
        ]
    );
}

#[test]
fn conditions_need_the_fields_that_they_compare() {
    let yaml = "{self: exclude, include: [{port: [1]}, {class: [dns], role: [client]}], exclude: [{comm: [a], peer_pod: [b]}]}";
    let contract = config(FACTORY, yaml).unwrap().contract();
    let needs: Vec<_> = contract
        .needs
        .iter()
        .map(|need| (need.field, need.key.as_ref().unwrap().join(".")))
        .collect();
    let expected = [
        (RecordField::Process, "self"),
        (RecordField::Class, "include.1.class"),
        (RecordField::Role, "include.1.role"),
        (RecordField::Process, "exclude.0.comm"),
        (RecordField::ClusterNames, "exclude.0.peer_pod"),
    ];
    assert_eq!(needs, expected.map(|(field, key)| (field, key.to_owned())));
    assert_eq!(contract.named_classes[0].0.join("."), "include.1.class.0");
}
