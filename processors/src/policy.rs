//! The processor `policy`: what kind of peer is the remote address?
//!
//! In: records. Out: the same with `class`. The rules, in order:
//!
//! 1. An address in `abnormal_black_list` is `abnormalFlowBlackList`.
//! 2. One in `abnormal_white_list` is `abnormalFlowWhiteList`.
//! 3. Port 53 on the server's side is `dns`, whatever the address.
//! 4. The most specific prefix over all other lists wins: a name server inside the service range is `dns`. Equal
//!    prefixes go by this order: `k8s_pod`, `k8s_svc`, `dns`, `localhost`, `docker`, `internal_hosts`.
//! 5. The unspecified address is `unknown`; it has no peer.
//! 6. Else `externalHosts`.
//!
//! The class `error` of the Go exporter stands for an address that it could not parse; here addresses are never text, so it
//! does not occur.

use std::net::IpAddr;
use std::sync::Arc;

use cidr_utils::cidr::{Ipv4Cidr, Ipv6Cidr};
use cidr_utils::combiner::{Ipv4CidrCombiner, Ipv6CidrCombiner};
use figment::value::Value;
use flowtap_pipeline::{
    BuildContext, BuildError, ClusterRanges, ClusterState, ComponentConfig, Factory, FlowBatch, FlowKind,
    FlowRecord, NodeInfo, PeerClass, Processor, ProcessorConfig, ProcessorStage, Seen,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// The port of DNS (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// The address ranges of each class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `internalHosts`. RFC 1918, and IPv6's unique local and link-local ranges.
    pub internal_hosts: Vec<Cidr>,
    /// `localhost`.
    pub localhost: Vec<Cidr>,
    /// `k8sPod`.
    pub k8s_pod: Vec<Cidr>,
    /// `k8sSvc`.
    pub k8s_svc: Vec<Cidr>,
    /// `dns`, besides the name servers of `resolv.conf` and port 53.
    pub dns: Vec<Cidr>,
    /// `docker`. Empty: the networks of this machine's Docker bridges.
    pub docker: Vec<Cidr>,
    /// `abnormalFlowBlackList`: beats every other list.
    pub abnormal_black_list: Vec<Cidr>,
    /// `abnormalFlowWhiteList`: beats every list but the black one.
    pub abnormal_white_list: Vec<Cidr>,
}

impl Default for Config {
    fn default() -> Self {
        let v4 = |a, b, length| Cidr(IpNet::V4(Ipv4Net::new_assert([a, b, 0, 0].into(), length)));
        let v6 = |first: u16, length| {
            Cidr(IpNet::V6(Ipv6Net::new_assert(
                [first, 0, 0, 0, 0, 0, 0, 0].into(),
                length,
            )))
        };
        let loopback = Cidr(IpNet::from(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)));
        Self {
            internal_hosts: vec![
                v4(10, 0, 8),
                v4(172, 16, 12),
                v4(192, 168, 16),
                v6(0xfc00, 7),
                v6(0xfe80, 10),
            ],
            localhost: vec![v4(127, 0, 8), loopback],
            k8s_pod: Vec::new(),
            k8s_svc: Vec::new(),
            dns: Vec::new(),
            docker: Vec::new(),
            abnormal_black_list: Vec::new(),
            abnormal_white_list: Vec::new(),
        }
    }
}

impl ComponentConfig for Config {
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }
}

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Transform(Box::new(LivePolicy::new(
            self, context,
        ))))
    }
}

/// The processor type `policy`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory {
    type_name: "policy",
    summary: "classifies the peer by its address: pod, service, dns, internal, external, ...",
    parse: |value| Ok(Box::new(value.deserialize::<Config>()?)),
};

/// Prefixes of both families, each with a value. A look-up costs by the length of an address, not by the number of
/// prefixes.
#[derive(Debug)]
struct Table<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T: Copy> Table<T> {
    fn new() -> Self {
        Self {
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
        }
    }

    /// Keeps what is there already.
    fn insert(&mut self, net: IpNet, value: T) {
        match net {
            IpNet::V4(net) => {
                self.v4.entry(net).or_insert(value);
            }
            IpNet::V6(net) => {
                self.v6.entry(net).or_insert(value);
            }
        }
    }

    /// The most specific prefix that holds `addr`.
    fn longest_match(&self, addr: IpAddr) -> Option<(IpNet, T)> {
        match addr {
            IpAddr::V4(addr) => self
                .v4
                .get_lpm(&Ipv4Net::from(addr))
                .map(|(net, value)| (IpNet::V4(net), *value)),
            IpAddr::V6(addr) => self
                .v6
                .get_lpm(&Ipv6Net::from(addr))
                .map(|(net, value)| (IpNet::V6(net), *value)),
        }
    }
}

/// Addresses that are in a list or not: neighbours and overlaps are merged. The lists of classes must not be: there the
/// length of a prefix decides.
fn membership(list: &[Cidr]) -> Table<()> {
    let (mut v4, mut v6) = (Ipv4CidrCombiner::new(), Ipv6CidrCombiner::new());
    let mut table = Table::new();
    for Cidr(net) in list {
        // Never an error: a prefix of ours is without host bits.
        match net {
            IpNet::V4(net) => v4.push(
                Ipv4Cidr::new(net.network(), net.prefix_len())
                    .unwrap_or_else(|_| Ipv4Cidr::new_host(net.addr())),
            ),
            IpNet::V6(net) => v6.push(
                Ipv6Cidr::new(net.network(), net.prefix_len())
                    .unwrap_or_else(|_| Ipv6Cidr::new_host(net.addr())),
            ),
        }
    }
    for cidr in v4.into_ipv4_cidr_vec() {
        table.insert(
            IpNet::V4(Ipv4Net::new_assert(cidr.first_address(), cidr.network_length())),
            (),
        );
    }
    for cidr in v6.into_ipv6_cidr_vec() {
        table.insert(
            IpNet::V6(Ipv6Net::new_assert(cidr.first_address(), cidr.network_length())),
            (),
        );
    }
    table
}

/// The tables.
#[derive(Debug)]
pub struct Policy {
    black: Table<()>,
    white: Table<()>,
    classes: Table<PeerClass>,
}

impl Policy {
    /// The tables of `config` on this `node` in a cluster with these `ranges`.
    pub fn new(config: &Config, node: &NodeInfo, ranges: &ClusterRanges) -> Self {
        let mut classes = Table::new();
        let resolvers = node
            .resolvers
            .iter()
            .map(|&addr| IpNet::from(addr.to_canonical()));
        let bridges = node
            .addresses
            .iter()
            .filter(|address| is_docker_bridge(&address.interface));
        let bridges: Vec<_> = bridges.map(|address| address.network.trunc()).collect();
        let nets = |list: &[Cidr]| list.iter().map(|cidr| cidr.0).collect::<Vec<_>>();
        // In this order, and the first of equal prefixes stays.
        let lists = [
            (
                PeerClass::K8sPod,
                nets(&config.k8s_pod)
                    .into_iter()
                    .chain(ranges.pods.iter().copied())
                    .collect(),
            ),
            (
                PeerClass::K8sSvc,
                nets(&config.k8s_svc)
                    .into_iter()
                    .chain(ranges.services.iter().copied())
                    .collect(),
            ),
            (
                PeerClass::Dns,
                nets(&config.dns)
                    .into_iter()
                    .chain(ranges.dns.iter().map(|&addr| IpNet::from(addr)))
                    .chain(resolvers)
                    .collect(),
            ),
            (PeerClass::Localhost, nets(&config.localhost)),
            (
                PeerClass::Docker,
                if config.docker.is_empty() {
                    bridges
                } else {
                    nets(&config.docker)
                },
            ),
            (PeerClass::InternalHosts, nets(&config.internal_hosts)),
        ];
        for (class, nets) in lists {
            for net in nets {
                classes.insert(net, class);
            }
        }
        Self {
            black: membership(&config.abnormal_black_list),
            white: membership(&config.abnormal_white_list),
            classes,
        }
    }

    /// The class of `addr` alone, with the prefix that decided; none did for what is external or unspecified.
    pub fn classify(&self, addr: IpAddr) -> (PeerClass, Option<IpNet>) {
        let addr = addr.to_canonical();
        if let Some((net, ())) = self.black.longest_match(addr) {
            return (PeerClass::AbnormalFlowBlackList, Some(net));
        }
        if let Some((net, ())) = self.white.longest_match(addr) {
            return (PeerClass::AbnormalFlowWhiteList, Some(net));
        }
        match self.classes.longest_match(addr) {
            Some((net, class)) => (class, Some(net)),
            None if addr.is_unspecified() => (PeerClass::Unknown, None),
            None => (PeerClass::ExternalHosts, None),
        }
    }

    fn class_of(&self, record: &FlowRecord) -> PeerClass {
        let server_port = match record.kind {
            Some(FlowKind::Ingress) => record.local.port,
            Some(FlowKind::Egress) | None => record.remote.port,
        };
        match self.classify(record.remote.addr).0 {
            listed @ (PeerClass::AbnormalFlowBlackList | PeerClass::AbnormalFlowWhiteList) => listed,
            _ if server_port == DNS_PORT => PeerClass::Dns,
            class => class,
        }
    }
}

/// The default bridge, or one that Docker made for a network: `br-` and 12 digits of its id.
fn is_docker_bridge(interface: &str) -> bool {
    let id = interface.strip_prefix("br-");
    interface == "docker0" || id.is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The processor: tables that are made anew, as a whole, when what they rest on has changed.
#[derive(Debug)]
pub struct LivePolicy {
    config: Config,
    node: Seen<NodeInfo>,
    cluster: Seen<ClusterState>,
    /// What the tables were made from.
    ranges: Arc<ClusterRanges>,
    tables: Policy,
}

impl LivePolicy {
    /// With what is known now.
    pub fn new(config: &Config, context: &BuildContext) -> Self {
        let (node, cluster) = (Seen::new(&context.node), Seen::new(&context.cluster));
        let ranges = Arc::clone(&cluster.last().ranges);
        Self {
            tables: Policy::new(config, node.last(), &ranges),
            config: config.clone(),
            node,
            cluster,
            ranges,
        }
    }

    fn refresh(&mut self) {
        let node_changed = self.node.refresh();
        // A cluster's names change often, its ranges hardly ever.
        let ranges_changed = self.cluster.refresh() && self.cluster.last().ranges != self.ranges;
        if node_changed || ranges_changed {
            self.ranges = Arc::clone(&self.cluster.last().ranges);
            self.tables = Policy::new(&self.config, self.node.last(), &self.ranges);
        }
    }
}

impl Processor for LivePolicy {
    fn process(&mut self, batch: &mut FlowBatch) {
        self.refresh();
        for record in &mut batch.records {
            record.class = Some(self.tables.class_of(record));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record;
    use flowtap_pipeline::node::InterfaceAddress;
    use proptest::prelude::*;

    fn list(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn class(policy: &Policy, addr: &str) -> PeerClass {
        policy.classify(addr.parse().unwrap()).0
    }

    #[test]
    fn the_default_lists_know_internal_local_and_external_addresses() {
        let policy = Policy::new(
            &Config::default(),
            &NodeInfo::default(),
            &ClusterRanges::default(),
        );
        for (addr, expected) in [
            ("10.1.2.3", PeerClass::InternalHosts),
            ("172.31.255.255", PeerClass::InternalHosts),
            ("172.32.0.0", PeerClass::ExternalHosts),
            ("192.168.0.1", PeerClass::InternalHosts),
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
        let policy = Policy::new(&config, &NodeInfo::default(), &ClusterRanges::default());
        assert_eq!(class(&policy, "10.96.0.10"), PeerClass::Dns);
        assert_eq!(class(&policy, "10.96.0.11"), PeerClass::K8sSvc);
        let (_, rule) = policy.classify("10.96.0.11".parse().unwrap());
        assert_eq!(rule, Some("10.96.0.0/12".parse().unwrap()));
    }

    #[test]
    fn the_black_list_beats_all_and_the_white_list_all_others() {
        let config = Config {
            abnormal_black_list: list(&["10.0.0.0/9", "10.128.0.0/9"]),
            abnormal_white_list: list(&["10.1.2.3", "127.0.0.0/8"]),
            ..Config::default()
        };
        let policy = Policy::new(&config, &NodeInfo::default(), &ClusterRanges::default());
        assert_eq!(class(&policy, "10.1.2.3"), PeerClass::AbnormalFlowBlackList);
        assert_eq!(class(&policy, "127.0.0.1"), PeerClass::AbnormalFlowWhiteList);
        // The two halves were merged.
        let (_, rule) = policy.classify("10.200.0.1".parse().unwrap());
        assert_eq!(rule, Some("10.0.0.0/8".parse().unwrap()));
        let dns = FlowRecord {
            kind: Some(FlowKind::Egress),
            ..record("10.0.0.1:5000", "10.1.2.3:53")
        };
        assert_eq!(policy.class_of(&dns), PeerClass::AbnormalFlowBlackList);
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
            class(
                &Policy::new(&config, &NodeInfo::default(), &ClusterRanges::default()),
                "10.0.0.1"
            ),
            PeerClass::K8sPod
        );
        let config = Config {
            docker: same,
            ..Config::default()
        };
        assert_eq!(
            class(
                &Policy::new(&config, &NodeInfo::default(), &ClusterRanges::default()),
                "10.0.0.1"
            ),
            PeerClass::Docker
        );
    }

    #[test]
    fn port_53_of_the_server_is_dns() {
        let policy = Policy::new(
            &Config::default(),
            &NodeInfo::default(),
            &ClusterRanges::default(),
        );
        let asked = FlowRecord {
            kind: Some(FlowKind::Egress),
            ..record("192.0.2.1:5000", "198.51.100.1:53")
        };
        assert_eq!(policy.class_of(&asked), PeerClass::Dns);
        let answered = FlowRecord {
            kind: Some(FlowKind::Ingress),
            ..record("127.0.0.1:53", "127.0.0.1:5000")
        };
        assert_eq!(policy.class_of(&answered), PeerClass::Dns);
        let client_port = FlowRecord {
            kind: Some(FlowKind::Ingress),
            ..record("192.0.2.1:80", "198.51.100.1:53")
        };
        assert_eq!(policy.class_of(&client_port), PeerClass::ExternalHosts);
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
        };
        let policy = Policy::new(&Config::default(), &node, &ClusterRanges::default());
        assert_eq!(class(&policy, "172.17.0.5"), PeerClass::Docker);
        assert_eq!(class(&policy, "172.18.0.5"), PeerClass::Docker);
        assert_eq!(class(&policy, "172.19.0.5"), PeerClass::InternalHosts);
        assert_eq!(class(&policy, "192.168.1.1"), PeerClass::Dns);
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

    fn any_list() -> impl Strategy<Value = Vec<Cidr>> {
        prop::collection::vec(any_net().prop_map(Cidr), 0..6)
    }

    /// The rules, read off the module's doc, without a table.
    fn naive(config: &Config, addr: IpAddr) -> PeerClass {
        let in_list = |list: &[Cidr]| list.iter().any(|cidr| cidr.0.contains(&addr));
        if in_list(&config.abnormal_black_list) {
            return PeerClass::AbnormalFlowBlackList;
        }
        if in_list(&config.abnormal_white_list) {
            return PeerClass::AbnormalFlowWhiteList;
        }
        let lists = [
            (PeerClass::K8sPod, &config.k8s_pod),
            (PeerClass::K8sSvc, &config.k8s_svc),
            (PeerClass::Dns, &config.dns),
            (PeerClass::Localhost, &config.localhost),
            (PeerClass::Docker, &config.docker),
            (PeerClass::InternalHosts, &config.internal_hosts),
        ];
        let mut best: Option<(u8, PeerClass)> = None;
        for (class, list) in lists {
            for cidr in list.iter().filter(|cidr| cidr.0.contains(&addr)) {
                if best.is_none_or(|(length, _)| cidr.0.prefix_len() > length) {
                    best = Some((cidr.0.prefix_len(), class));
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
            lists in prop::array::uniform8(any_list()),
            addrs in prop::collection::vec(any_net().prop_map(|net| net.addr()), 1..20),
        ) {
            let [internal_hosts, localhost, k8s_pod, k8s_svc, dns, docker, black, white] = lists;
            let config = Config {
                internal_hosts, localhost, k8s_pod, k8s_svc, dns, docker,
                abnormal_black_list: black, abnormal_white_list: white,
            };
            let policy = Policy::new(&config, &NodeInfo::default(), &ClusterRanges::default());
            for addr in addrs {
                prop_assert_eq!(policy.classify(addr).0, naive(&config, addr.to_canonical()), "{}", addr);
            }
        }
    }
}
