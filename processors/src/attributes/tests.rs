use flowtap_engine::Stages;
use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::testing::{ProcessorTest, config, record};
use flowtap_pipeline::{Endpoint, FlowKind, Output, Points, Snapshot, TcpRecord, Timestamp};

use super::*;

/// Ends of records after the processor.
fn ends(yaml: &str, records: impl IntoIterator<Item = TcpRecord>) -> Vec<String> {
    let mut attributes = ProcessorTest::new(FACTORY, yaml);
    let passed = attributes.process(records);
    let ends = passed
        .iter()
        .map(|record| (record.flow.local, record.flow.remote));
    ends.map(|(local, remote)| format!("{local} {remote}")).collect()
}

#[test]
fn addresses_are_shortened_to_a_prefix_by_family_end_and_class() {
    let records = || {
        let mut internal = record("10.1.2.3:1", "10.9.8.7:443");
        internal.flow.class = Some(PeerClass::InternalHosts);
        let mut external = record("10.1.2.3:2", "203.0.113.77:443");
        external.flow.class = Some(PeerClass::ExternalHosts);
        [
            internal,
            external,
            record("[2001:db8:1:2ff::9]:3", "[2001:db8:7:1ff:5::1]:443"),
        ]
    };
    assert_eq!(
        ends("truncate: {}", records()),
        [
            "10.1.2.3:1 10.9.8.0:443",
            "10.1.2.3:2 203.0.113.0:443",
            "[2001:db8:1:2ff::9]:3 [2001:db8:7:100::]:443"
        ]
    );
    assert_eq!(
        ends(
            "truncate: {ipv4: 8, ends: [remote, local], classes: [externalHosts]}",
            records()
        )[..2],
        ["10.1.2.3:1 10.9.8.7:443", "10.0.0.0:2 203.0.0.0:443"]
    );
    assert_eq!(
        ends("truncate: {ipv4: 0, ipv6: 0}", records()),
        [
            "10.1.2.3:1 0.0.0.0:443",
            "10.1.2.3:2 0.0.0.0:443",
            "[2001:db8:1:2ff::9]:3 [::]:443"
        ]
    );
    assert_eq!(
        ends("truncate: {ipv4: 32, ipv6: 128}", records())[2],
        "[2001:db8:1:2ff::9]:3 [2001:db8:7:1ff:5::1]:443"
    );
}

/// Backend and frontend of a connection whose ends on the wire are `wire`, after the processor.
fn translated(yaml: &str, record: TcpRecord, wire: [&str; 2]) -> [String; 2] {
    let [local, remote] = wire.map(|end| flowtap_pipeline::testing::flow(end, end).local);
    let mut record = record;
    record.flow.translation = Some(Arc::new(Translation { local, remote }));
    let mut attributes = ProcessorTest::new(FACTORY, yaml);
    let passed = attributes.process([record]);
    let flow = &passed[0].flow;
    [flow.backend(), flow.frontend()].map(|end| end.map_or_else(String::new, |end| end.to_string()))
}

#[test]
fn the_addresses_on_the_wire_are_shortened_like_those_of_the_socket() {
    let (remote, local, both) = (
        "truncate: {}",
        "truncate: {ends: [local]}",
        "truncate: {ends: [remote, local]}",
    );
    let client = || record("192.0.2.55:40000", "198.51.100.10:80");
    let wire = ["203.0.113.1:50000", "203.0.113.77:8080"];
    for (yaml, expected) in [
        (remote, ["203.0.113.0:8080", "203.0.113.1:50000"]),
        (local, ["203.0.113.77:8080", "203.0.113.0:50000"]),
        (both, ["203.0.113.0:8080", "203.0.113.0:50000"]),
        (
            "truncate: {classes: [externalHosts]}",
            ["203.0.113.77:8080", "203.0.113.1:50000"],
        ),
    ] {
        assert_eq!(translated(yaml, client(), wire), expected, "{yaml}");
    }
    // An end that is not translated is none that is.
    for yaml in [remote, local, both] {
        let [backend, _] = translated(yaml, client(), ["203.0.113.1:50000", "198.51.100.10:80"]);
        let [_, frontend] = translated(yaml, client(), ["192.0.2.55:40000", "203.0.113.77:80"]);
        assert_eq!((backend, frontend), (String::new(), String::new()), "{yaml}");
    }
    let v6 = record("[2001:db8::1]:40000", "[2001:db8:1::1]:80");
    assert_eq!(
        translated(remote, v6, ["[2001:db8::1]:40000", "[2001:db8:7:1ff:5::1]:80"]),
        ["[2001:db8:7:100::]:80", ""]
    );
}

#[test]
fn what_an_application_connected_to_through_a_proxy_is_shortened_like_a_peer_and_hops_stay() {
    let proxy = record("127.0.0.1:15001", "10.0.0.5:40000");
    assert_eq!(
        translated("truncate: {}", proxy, ["198.51.100.7:80", "10.0.0.5:40000"]),
        ["", "198.51.100.0:80"]
    );
    // Redirected to this side's own address, not to loopback.
    let mut application = record("10.0.0.5:40000", "198.51.100.7:80");
    application.flow.translation = Some(Arc::new(Translation {
        local: application.flow.local,
        remote: Endpoint::new(application.flow.local.addr, 15_001),
    }));
    for yaml in ["truncate: {}", "truncate: {ends: [remote, local]}"] {
        let mut attributes = ProcessorTest::new(FACTORY, yaml);
        let passed = attributes.process([application.clone()]);
        assert_eq!(passed[0].flow.hop(), Some(Hop::ToProxy), "{yaml}");
    }
}

#[test]
fn the_smallest_network_of_the_whole_address_names_the_peer() {
    let mut attributes = ProcessorTest::new(
        FACTORY,
        "{truncate: {ipv4: 8}, networks: [{name: office, cidrs: [10.1.0.0/16, '2001:db8:1::/48']}, {name: lab, cidrs: [10.1.2.0/24]}]}",
    );
    let passed = attributes.process([
        record("192.0.2.1:1", "10.1.2.3:443"),
        record("192.0.2.1:1", "10.1.3.3:443"),
        record("192.0.2.1:1", "10.2.0.1:443"),
        record("192.0.2.1:1", "[2001:db8:1::5]:443"),
    ]);
    let names: Vec<_> = passed
        .iter()
        .map(|record| record.flow.peer_network.as_deref())
        .collect();
    assert_eq!(names, [Some("lab"), Some("office"), None, Some("office")]);
}

/// The snapshot of a pipeline of the processor and a window, after a record for each peer, and the processors' configs.
fn snapshot(attributes: &str, window: &str) -> Snapshot {
    let configs = [
        config(FACTORY, attributes).unwrap(),
        config(crate::window::FACTORY, window).unwrap(),
    ];
    let ids = ["attributes", "window"].map(|id| id.parse().unwrap());
    let configs = ids.iter().zip(configs.iter().map(|config| &**config));
    let context = |_: &_| crate::testing::context(flowtap_pipeline::NodeInfo::default());
    let mut stages = Stages::build(configs, context).unwrap().unwrap();
    stages.begin(Timestamp::from_nanos(1));
    let peers = ["203.0.113.1:443", "203.0.113.2:443", "198.51.100.7:443"];
    let records = peers.map(|peer| {
        let mut record = record("10.1.2.3:40000", peer);
        record.flow.kind = Some(FlowKind::Egress);
        record.flow.class = Some(PeerClass::ExternalHosts);
        record.sent_bytes = 100;
        record
    });
    stages.accept(&mut flowtap_pipeline::testing::batch(records));
    let Some(Output::Metrics(snapshot)) = stages.advance(Timestamp::from_nanos(5_000_000_000)) else {
        panic!("a window");
    };
    Snapshot::clone(&snapshot)
}

/// Series of bytes that this machine sent as a client, and their totals.
fn egress(snapshot: &Snapshot) -> Vec<(String, u64)> {
    let Points::Sums(points) = &snapshot.families[FamilyId::Egress as usize].points else {
        panic!("sums")
    };
    let mut series: Vec<_> = points
        .iter()
        .map(|point| (point.series.joined_labels(), point.total))
        .collect();
    series.sort();
    series
}

#[test]
fn labels_are_added_renamed_and_dropped_for_every_series_and_sums_stay() {
    let shown = egress(&snapshot(
        "{add: {team: payments}, rename: {raddr: peer}, drop: [rport]}",
        "interval: 5s",
    ));
    let series =
        |peer: &str| format!(r#"peer="{peer}",direction="outbound",type="externalHosts",team="payments""#);
    assert_eq!(
        shown,
        [
            (series("198.51.100.7"), 100),
            (series("203.0.113.1"), 100),
            (series("203.0.113.2"), 100)
        ]
    );
    let dropped = egress(&snapshot("{drop: [raddr, rport]}", "interval: 5s"));
    assert_eq!(
        dropped,
        [(r#"direction="outbound",type="externalHosts""#.to_owned(), 300)]
    );
    // Totals and families without labels of a peer have the constants as well.
    let snapshot = snapshot("{add: {team: payments}}", "interval: 5s");
    let Points::Sums(points) = &snapshot.families[FamilyId::Totals as usize].points else {
        panic!("sums")
    };
    assert!(
        points
            .iter()
            .all(|point| point.series.joined_labels().ends_with(r#",team="payments""#))
    );
}

#[test]
fn shortened_addresses_and_networks_become_series() {
    let shown = egress(&snapshot(
        "{truncate: {}, networks: [{name: partners, cidrs: [203.0.113.2]}]}",
        "{families: {network_tcp_flow_egress: {labels: [raddr, peer_network]}}}",
    ));
    let series = |peer: &str, network: &str| format!(r#"raddr="{peer}",peer_network="{network}""#);
    assert_eq!(
        shown,
        [
            (series("198.51.100.0", ""), 100),
            (series("203.0.113.0", ""), 100),
            (series("203.0.113.0", "partners"), 100)
        ]
    );
}

#[test]
fn names_that_no_label_can_have_and_contradictions_are_errors_with_their_key() {
    for (yaml, expected) in [
        ("add: {9lives: x}", "add.9lives: invalid label name `9lives`"),
        ("add: {le: x}", "add.le: `le` is reserved"),
        (
            "add: {instance: x}",
            "add.instance: `instance` names this flowtap",
        ),
        ("rename: {raddr: job}", "rename.raddr: `job` names this flowtap"),
        ("rename: {peer: x}", "rename.peer: unknown label `peer`"),
        ("rename: {raddr: 'a b'}", "rename.raddr: invalid label name `a b`"),
        (
            "{rename: {raddr: x}, drop: [raddr]}",
            "rename.raddr: `raddr` is also in `drop`",
        ),
        (
            "{rename: {raddr: x}, add: {x: blue}}",
            "rename.raddr: `x` is also in `add`",
        ),
        (
            "rename: {raddr: x, laddr: x}",
            "rename.raddr: `laddr` is also renamed to `x`",
        ),
        ("drop: [pid, pid]", "drop.1: is a duplicate"),
        ("truncate: {ipv4: 33}", "truncate.ipv4: must be at most 32"),
        ("truncate: {ends: []}", "truncate.ends: is an empty list"),
        (
            "networks: [{name: '', cidrs: [10.0.0.0/8]}]",
            "networks.0.name: is empty",
        ),
        (
            "networks: [{name: a, cidrs: []}]",
            "networks.0.cidrs: is an empty list",
        ),
        (
            "networks: [{name: a, cidrs: [10.0.0.0/8]}, {name: b, cidrs: [10.0.0.0/8]}]",
            "networks.1.cidrs.0: `10.0.0.0/8` is also a range of `a`",
        ),
    ] {
        let error = config(FACTORY, yaml).expect_err(yaml);
        assert!(error.contains(expected), "{yaml}: {error}");
    }
    assert!(!config(FACTORY, "").unwrap().warnings().is_empty());
}

#[test]
fn a_list_of_labels_for_all_families_leaves_what_is_counted() {
    let labels = |yaml: &str, family: FamilyId| {
        let snapshot = snapshot("{add: {x: blue}}", yaml);
        let Points::Sums(points) = &snapshot.families[family as usize].points else {
            panic!("sums")
        };
        points[0].series.joined_labels()
    };
    let all = "labels: [type, comm]";
    assert_eq!(
        labels(all, FamilyId::Egress),
        r#"type="externalHosts",comm="",direction="outbound",x="blue""#
    );
    let own = "{labels: [type], families: {network_tcp_flow_egress: {labels: [lport]}}}";
    assert_eq!(labels(own, FamilyId::Egress), r#"lport="40000",x="blue""#);
    for (yaml, expected) in [
        ("labels: [type, type]", "labels.1: is a duplicate"),
        (
            "labels: [event_type]",
            "labels.0: no metric of `naming: primus_lens` can have",
        ),
    ] {
        let error = config(crate::window::FACTORY, yaml).expect_err(yaml);
        assert!(error.contains(expected), "{error}");
    }
}
