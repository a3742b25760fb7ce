use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowtap_pipeline::node::InterfaceAddress;
use flowtap_pipeline::{Flow, FlowKind, PeerClass};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;
use crate::cidr::Cidr;
use crate::testing::{context, record};

/// The tables on a node outside of any cluster.
fn tables(config: &Config, node: &NodeInfo) -> Tables {
    Tables::new(&Lists::read(config).unwrap(), node, &ClusterRanges::default())
}

fn list(texts: &[&str]) -> Vec<Entry> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// As both ways of looking it up say.
fn class(policy: &Tables, addr: &str) -> PeerClass {
    let addr: IpAddr = addr.parse().unwrap();
    let class = policy.classify(addr).0;
    assert_eq!(policy.class(addr.to_canonical()), class);
    class
}

#[test]
fn the_default_lists_know_internal_local_and_external_addresses() {
    let policy = tables(&Config::default(), &NodeInfo::default());
    for (addr, expected) in [
        ("10.1.2.3", PeerClass::InternalHosts),
        ("172.31.255.255", PeerClass::InternalHosts),
        ("172.32.0.0", PeerClass::ExternalHosts),
        ("192.168.0.1", PeerClass::InternalHosts),
        ("100.63.255.255", PeerClass::ExternalHosts),
        ("100.64.0.1", PeerClass::InternalHosts),
        ("100.127.255.255", PeerClass::InternalHosts),
        ("100.128.0.0", PeerClass::ExternalHosts),
        ("169.254.169.254", PeerClass::InternalHosts),
        ("169.255.0.0", PeerClass::ExternalHosts),
        ("febf::1", PeerClass::InternalHosts),
        ("fd00::1", PeerClass::InternalHosts),
        ("fe80::1", PeerClass::InternalHosts),
        ("2001:db8::1", PeerClass::ExternalHosts),
        ("127.0.0.53", PeerClass::Localhost),
        ("::1", PeerClass::Localhost),
        ("::ffff:10.1.2.3", PeerClass::InternalHosts),
        ("0.0.0.0", PeerClass::Unknown),
    ] {
        assert_eq!(class(&policy, addr), expected, "{addr}");
    }
}

#[test]
fn a_name_server_inside_the_service_range_is_dns() {
    let config = Config {
        k8s_svc: list(&["10.96.0.0/12"]),
        dns: list(&["10.96.0.10"]),
        ..Config::default()
    };
    let policy = tables(&config, &NodeInfo::default());
    assert_eq!(class(&policy, "10.96.0.10"), PeerClass::Dns);
    assert_eq!(class(&policy, "10.96.0.11"), PeerClass::K8sSvc);
    let (_, rule) = policy.classify("10.96.0.11".parse().unwrap());
    let rule = rule.unwrap();
    assert_eq!(
        (rule.range.to_string(), rule.source),
        ("10.96.0.0/12".to_owned(), Source::List("k8s_svc"))
    );
}

#[test]
fn records_get_the_rule_that_classify_names_if_the_config_asks_for_it() {
    let config = Config {
        k8s_svc: list(&["10.96.0.0/12"]),
        abnormal_black_list: list(&["192.0.2.0/24"]),
        classes: vec![CustomClass {
            name: "partners".to_owned(),
            cidrs: list(&["198.51.100.0/24"]),
        }],
        rules: true,
        ..Config::default()
    };
    let mut policy = Policy::new(&config, &context(NodeInfo::default())).unwrap();
    let cases = [
        ("10.1.2.3:443", "internal_hosts 10.0.0.0/8"),
        ("10.96.0.1:443", "k8s_svc 10.96.0.0/12"),
        ("192.0.2.7:53", "abnormal_black_list 192.0.2.0/24"),
        ("198.51.100.1:80", "partners 198.51.100.0/24"),
        ("10.1.2.3:53", "port 53"),
        ("203.0.113.1:443", ""),
    ];
    let mut batch = FlowBatch {
        tcp: cases.map(|(remote, _)| record("10.0.0.1:40000", remote)).into(),
        ..FlowBatch::default()
    };
    policy.process(&mut batch);
    for (record, (remote, expected)) in batch.tcp.iter().zip(cases) {
        assert_eq!(
            record.flow.policy_rule.as_deref().unwrap_or(""),
            expected,
            "{remote}"
        );
        // The same as `flowtap classify` says, but for the port.
        if let (Some(rule), false) = (
            policy.tables.classify(record.flow.remote.addr).1,
            expected == "port 53",
        ) {
            assert_eq!(format!("{} {}", rule.source.short(), rule.range), expected);
        }
    }
    let mut without = Policy::new(
        &Config {
            rules: false,
            ..config
        },
        &context(NodeInfo::default()),
    )
    .unwrap();
    for record in &mut batch.tcp {
        (record.flow.class, record.flow.policy_rule) = (None, None);
    }
    without.process(&mut batch);
    assert!(batch.tcp.iter().all(|record| record.flow.policy_rule.is_none()));
}

#[test]
fn the_black_list_beats_all_and_the_white_list_all_others() {
    let config = Config {
        abnormal_black_list: list(&["10.0.0.0/9", "10.128.0.0/9"]),
        abnormal_white_list: list(&["10.1.2.3", "127.0.0.0/8"]),
        ..Config::default()
    };
    let policy = tables(&config, &NodeInfo::default());
    assert_eq!(class(&policy, "10.1.2.3"), PeerClass::AbnormalFlowBlackList);
    assert_eq!(class(&policy, "127.0.0.1"), PeerClass::AbnormalFlowWhiteList);
    // The entry of the list, although its other half is in the list too.
    let (_, rule) = policy.classify("10.200.0.1".parse().unwrap());
    assert_eq!(rule.unwrap().range.to_string(), "10.128.0.0/9");
    let dns = record("10.0.0.1:5000", "10.1.2.3:53").with_flow(|flow| Flow {
        kind: Some(FlowKind::Egress),
        ..flow
    });
    assert_eq!(policy.class_of(&dns.flow), PeerClass::AbnormalFlowBlackList);
}

#[test]
fn equal_prefixes_go_by_the_order_of_the_lists() {
    let same = list(&["10.0.0.0/8"]);
    let config = Config {
        k8s_pod: same.clone(),
        docker: same.clone(),
        ..Config::default()
    };
    assert_eq!(
        class(&tables(&config, &NodeInfo::default()), "10.0.0.1"),
        PeerClass::K8sPod
    );
    let config = Config {
        docker: same,
        ..Config::default()
    };
    assert_eq!(
        class(&tables(&config, &NodeInfo::default()), "10.0.0.1"),
        PeerClass::Docker
    );
}

#[test]
fn port_53_of_the_server_is_dns() {
    let policy = tables(&Config::default(), &NodeInfo::default());
    let asked = record("192.0.2.1:5000", "198.51.100.1:53").with_flow(|flow| Flow {
        kind: Some(FlowKind::Egress),
        ..flow
    });
    assert_eq!(policy.class_of(&asked.flow), PeerClass::Dns);
    let answered = record("127.0.0.1:53", "127.0.0.1:5000").with_flow(|flow| Flow {
        kind: Some(FlowKind::Ingress),
        ..flow
    });
    assert_eq!(policy.class_of(&answered.flow), PeerClass::Dns);
    let client_port = record("192.0.2.1:80", "198.51.100.1:53").with_flow(|flow| Flow {
        kind: Some(FlowKind::Ingress),
        ..flow
    });
    assert_eq!(policy.class_of(&client_port.flow), PeerClass::ExternalHosts);
}

#[test]
fn resolvers_and_docker_bridges_come_from_the_node() {
    let address = |interface: &str, network: &str| InterfaceAddress {
        interface: interface.to_owned(),
        network: network.parse().unwrap(),
    };
    let node = NodeInfo {
        addresses: vec![
            address("docker0", "172.17.0.1/16"),
            address("br-0123456789ab", "172.18.0.1/16"),
            address("br-lan", "172.19.0.1/16"),
        ],
        resolvers: vec!["192.168.1.1".parse().unwrap()],
        ..NodeInfo::default()
    };
    let policy = tables(&Config::default(), &node);
    assert_eq!(class(&policy, "172.17.0.5"), PeerClass::Docker);
    assert_eq!(class(&policy, "172.18.0.5"), PeerClass::Docker);
    assert_eq!(class(&policy, "172.19.0.5"), PeerClass::InternalHosts);
    assert_eq!(class(&policy, "192.168.1.1"), PeerClass::Dns);
}

#[test]
fn a_class_of_the_configs_own_has_its_name_and_beats_an_equal_prefix() {
    let config = Config {
        classes: vec![CustomClass {
            name: "partners".to_owned(),
            cidrs: list(&["10.0.0.0/8", "203.0.113.0/24"]),
        }],
        ..Config::default()
    };
    let policy = tables(&config, &NodeInfo::default());
    assert_eq!(class(&policy, "203.0.113.9").as_str(), "partners");
    assert_eq!(class(&policy, "10.0.0.1"), PeerClass::custom("partners").unwrap());
    assert_eq!(class(&policy, "172.16.0.1"), PeerClass::InternalHosts);
    let (_, rule) = policy.classify("203.0.113.9".parse().unwrap());
    assert_eq!(rule.unwrap().source, Source::CustomClass("partners"));
}

#[test]
fn an_address_of_nat64_has_the_class_of_the_ipv4_address_in_it() {
    let policy = tables(&Config::default(), &NodeInfo::default()).with_rules();
    assert_eq!(class(&policy, "64:ff9b::10.1.2.3"), PeerClass::InternalHosts);
    assert_eq!(class(&policy, "64:ff9b::203.0.113.7"), PeerClass::ExternalHosts);
    assert_eq!(class(&policy, "64:ff9b:0:1::10.1.2.3"), PeerClass::ExternalHosts);
    let flow = record("[2001:db8::1]:40000", "[64:ff9b::10.1.2.3]:443").flow;
    let rule = policy.rule_of(&flow, PeerClass::InternalHosts);
    assert_eq!(rule.map(|rule| &**rule), Some("internal_hosts 10.0.0.0/8"));
    let config = Config {
        abnormal_black_list: list(&["64:ff9b::/96"]),
        ..Config::default()
    };
    let policy = tables(&config, &NodeInfo::default());
    assert_eq!(
        class(&policy, "64:ff9b::10.1.2.3"),
        PeerClass::AbnormalFlowBlackList
    );
}

#[test]
fn classes_follow_the_clusters_ranges_and_this_machines_bridges() {
    let context = context(NodeInfo::default());
    let mut policy = Policy::new(&Config::default(), &context).unwrap();
    let mut classes = || {
        let remotes = ["10.244.1.7:80", "10.96.0.10:80", "10.96.0.11:80", "172.17.0.5:80"];
        let mut batch = FlowBatch {
            tcp: remotes.map(|remote| record("192.0.2.1:40000", remote)).into(),
            ..FlowBatch::default()
        };
        policy.process(&mut batch);
        batch
            .tcp
            .iter()
            .filter_map(|record| record.flow.class)
            .collect::<Vec<_>>()
    };
    assert_eq!(classes(), [PeerClass::InternalHosts; 4]);
    context.cluster.store(ClusterState {
        ranges: Arc::new(ClusterRanges {
            pods: vec!["10.244.0.0/16".parse().unwrap()],
            services: vec!["10.96.0.0/12".parse().unwrap()],
            dns: vec!["10.96.0.10".parse().unwrap()],
        }),
        ..ClusterState::default()
    });
    context.node.store(NodeInfo {
        addresses: vec![InterfaceAddress {
            interface: "docker0".to_owned(),
            network: "172.17.0.1/16".parse().unwrap(),
        }],
        resolvers: Vec::new(),
        ..NodeInfo::default()
    });
    assert_eq!(
        classes(),
        [
            PeerClass::K8sPod,
            PeerClass::Dns,
            PeerClass::K8sSvc,
            PeerClass::Docker
        ]
    );
}

fn any_net() -> impl Strategy<Value = IpNet> {
    // Few distinct bits, so that prefixes nest and meet.
    let v4 = (any::<[bool; 4]>(), 0..=32u8).prop_map(|(bits, length)| {
        let bits = bits
            .iter()
            .fold(0u32, |bits, &bit| (bits << 8) | (u32::from(bit) * 0x81));
        IpNet::V4(Ipv4Net::new_assert(bits.into(), length).trunc())
    });
    let v6 = (any::<[bool; 8]>(), 0..=128u8).prop_map(|(bits, length)| {
        let bits = bits
            .iter()
            .fold(0u128, |bits, &bit| (bits << 16) | (u128::from(bit) * 0x8001));
        IpNet::V6(Ipv6Net::new_assert(bits.into(), length).trunc())
    });
    prop_oneof![v4, v6]
}

fn any_list() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(any_net().prop_map(|net| Entry::Range(Cidr(net))), 0..6)
}

/// The ranges of a list without files.
fn nets(list: &[Entry]) -> impl Iterator<Item = IpNet> {
    list.iter().map(|entry| match entry {
        Entry::Range(Cidr(net)) => *net,
        Entry::File(path) => panic!("{} in a list of ranges", path.display()),
    })
}

/// The rules, read off the module's doc, without a table.
fn naive(config: &Config, addr: IpAddr) -> PeerClass {
    let in_list = |list: &[Entry]| nets(list).any(|net| net.contains(&addr));
    if in_list(&config.abnormal_black_list) {
        return PeerClass::AbnormalFlowBlackList;
    }
    if in_list(&config.abnormal_white_list) {
        return PeerClass::AbnormalFlowWhiteList;
    }
    let lists = [
        (PeerClass::custom("partners").unwrap(), &config.classes[0].cidrs),
        (PeerClass::K8sPod, &config.k8s_pod),
        (PeerClass::K8sSvc, &config.k8s_svc),
        (PeerClass::Dns, &config.dns),
        (PeerClass::Localhost, &config.localhost),
        (PeerClass::Docker, &config.docker),
        (PeerClass::InternalHosts, &config.internal_hosts),
    ];
    let mut best: Option<(u8, PeerClass)> = None;
    for (class, list) in lists {
        for net in nets(list).filter(|net| net.contains(&addr)) {
            if best.is_none_or(|(length, _)| net.prefix_len() > length) {
                best = Some((net.prefix_len(), class));
            }
        }
    }
    let other = if addr.is_unspecified() {
        PeerClass::Unknown
    } else {
        PeerClass::ExternalHosts
    };
    best.map_or(other, |(_, class)| class)
}

proptest! {
    #[test]
    fn classification_equals_a_naive_scan(
        lists in prop::array::uniform9(any_list()),
        addrs in prop::collection::vec(any_net().prop_map(|net| net.addr()), 1..20),
    ) {
        let [internal_hosts, localhost, k8s_pod, k8s_svc, dns, docker, black, white, own] = lists;
        let config = Config {
            internal_hosts, localhost, k8s_pod, k8s_svc, dns, docker,
            abnormal_black_list: black, abnormal_white_list: white,
            classes: vec![CustomClass { name: "partners".to_owned(), cidrs: own }],
            rules: false,
        };
        let policy = tables(&config, &NodeInfo::default());
        for addr in addrs {
            let canonical = addr.to_canonical();
            prop_assert_eq!(policy.classify(addr).0, naive(&config, canonical), "{}", addr);
            // And the last address before.
            let before = match canonical {
                IpAddr::V4(addr) => Ipv4Addr::from_bits(addr.to_bits().wrapping_sub(1)).into(),
                IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits().wrapping_sub(1)).to_canonical(),
            };
            for addr in [canonical, before] {
                prop_assert_eq!(policy.class(addr), naive(&config, addr), "{}", addr);
            }
        }
    }
}
