//! Prefix tables, and the rules of the processor on them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use flowtap_pipeline::{ClusterRanges, Flow, FlowKind, NodeInfo, PeerClass};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::lists::Lists;
use super::source::Source;
use crate::cidr::Cidr;
use crate::ranges::Ranges;

/// The port of DNS (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// The rule that decided the class of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The most specific range that holds the address.
    pub range: IpNet,
    /// Where that comes from.
    pub source: Source,
}

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

    fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.keys().map(IpNet::V4);
        v4.chain(self.v6.keys().map(IpNet::V6))
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

/// Addresses that are in a list or not, by the entries as they are: the rule that is named is one of them. Neighbours and overlaps become
/// one range where records are looked up ([`Ranges`]).
fn membership(list: &[Cidr]) -> Table<()> {
    let mut table = Table::new();
    for Cidr(net) in list {
        table.insert(*net, ());
    }
    table
}

/// All tables of prefixes.
#[derive(Debug)]
struct Prefixes {
    black: Table<()>,
    white: Table<()>,
    classes: Table<(PeerClass, Source)>,
}

impl Prefixes {
    fn new(lists: &Lists, node: &NodeInfo, ranges: &ClusterRanges) -> Self {
        let mut classes = Table::new();
        // In this order, and the first of equal prefixes stays.
        for (class, source, list) in &lists.classes {
            let mut insert = |net, source| classes.insert(net, (*class, source));
            for Cidr(net) in list {
                insert(*net, *source);
            }
            match class {
                PeerClass::K8sPod => ranges.pods.iter().for_each(|net| insert(*net, Source::Cluster)),
                PeerClass::K8sSvc => ranges
                    .services
                    .iter()
                    .for_each(|net| insert(*net, Source::Cluster)),
                PeerClass::Dns => {
                    for addr in &ranges.dns {
                        insert(IpNet::from(addr.to_canonical()), Source::Cluster);
                    }
                    for addr in &node.resolvers {
                        insert(IpNet::from(addr.to_canonical()), Source::Resolvers);
                    }
                }
                PeerClass::Docker if list.is_empty() => {
                    for address in node.addresses.iter().filter(|a| is_docker_bridge(&a.interface)) {
                        insert(address.network.trunc(), Source::DockerBridges);
                    }
                }
                _ => {}
            }
        }
        Self {
            black: membership(&lists.black),
            white: membership(&lists.white),
            classes,
        }
    }

    fn all(&self) -> impl Iterator<Item = IpNet> {
        let listed = self.black.prefixes().chain(self.white.prefixes());
        listed.chain(self.classes.prefixes())
    }

    fn classify(&self, addr: IpAddr) -> (PeerClass, Option<Rule>) {
        let addr = addr.to_canonical();
        let listed = |range, key| {
            let source = Source::List(key);
            Some(Rule { range, source })
        };
        if let Some((range, ())) = self.black.longest_match(addr) {
            return (
                PeerClass::AbnormalFlowBlackList,
                listed(range, "abnormal_black_list"),
            );
        }
        if let Some((range, ())) = self.white.longest_match(addr) {
            return (
                PeerClass::AbnormalFlowWhiteList,
                listed(range, "abnormal_white_list"),
            );
        }
        match self.classes.longest_match(addr) {
            Some((range, (class, source))) => (class, Some(Rule { range, source })),
            None if addr.is_unspecified() => (PeerClass::Unknown, None),
            None => (PeerClass::ExternalHosts, None),
        }
    }
}

/// The IPv4 address in one of the well-known prefix of NAT64, `64:ff9b::/96` (RFC 6052, section 2.1).
const fn embedded(addr: IpAddr) -> Option<IpAddr> {
    const PREFIX: u128 = 0x0064_ff9b << 64;
    match addr {
        IpAddr::V6(addr) if addr.to_bits() >> 32 == PREFIX => {
            let [.., a, b, c, d] = addr.octets();
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Look-up tables for the class of an address, and for the rule that assigned it.
#[derive(Debug)]
pub struct Tables {
    prefixes: Prefixes,
    ranges: Ranges<PeerClass>,
    rules: Option<Rules>,
}

/// The rule of each address, as text.
#[derive(Debug)]
struct Rules {
    /// Places in `texts`.
    ranges: Ranges<Option<u32>>,
    texts: Vec<Arc<str>>,
    dns_port: Arc<str>,
}

impl Rules {
    fn new(prefixes: &Prefixes) -> Self {
        let known = RefCell::new((HashMap::<Rule, u32>::new(), Vec::<Arc<str>>::new()));
        let place_of = |rule: Rule| {
            let (places, texts) = &mut *known.borrow_mut();
            *places.entry(rule).or_insert_with(|| {
                texts.push(format!("{} {}", rule.source.short(), rule.range).into());
                // Each has taken more memory than one of 2^32 could.
                u32::try_from(texts.len() - 1).unwrap_or(u32::MAX)
            })
        };
        let ranges = Ranges::new(prefixes.all(), |addr| prefixes.classify(addr).1.map(place_of));
        Self {
            ranges,
            texts: known.into_inner().1,
            dns_port: "port 53".into(),
        }
    }
}

impl Tables {
    /// From the config's lists, on this node, in a cluster with these ranges.
    pub fn new(lists: &Lists, node: &NodeInfo, ranges: &ClusterRanges) -> Self {
        let prefixes = Prefixes::new(lists, node, ranges);
        Self {
            ranges: Ranges::new(prefixes.all(), |addr| prefixes.classify(addr).0),
            prefixes,
            rules: None,
        }
    }

    /// The same, which also know the rule of a flow.
    #[must_use]
    pub fn with_rules(self) -> Self {
        Self {
            rules: Some(Rules::new(&self.prefixes)),
            ..self
        }
    }

    /// The rule that decided `class`, which is [`Tables::class_of`] `flow`: a list and its range. `None` if the tables don't know
    /// rules, or no rule decided.
    pub fn rule_of(&self, flow: &Flow, class: PeerClass) -> Option<&Arc<str>> {
        let rules = self.rules.as_ref()?;
        let addr = flow.remote.addr;
        if class == PeerClass::Dns && self.class(addr) != class {
            return Some(&rules.dns_port);
        }
        let place = rules
            .ranges
            .value(addr)
            .or_else(|| rules.ranges.value(embedded(addr)?));
        rules.texts.get(place? as usize)
    }

    /// The class of `addr` alone, with the rule that decided; none did for what is external or unspecified. An address of NAT64 has
    /// the class of the IPv4 address in it, unless a list has its own prefix.
    pub fn classify(&self, addr: IpAddr) -> (PeerClass, Option<Rule>) {
        match (self.prefixes.classify(addr), embedded(addr)) {
            ((PeerClass::ExternalHosts, None), Some(embedded)) => self.prefixes.classify(embedded),
            (decided, _) => decided,
        }
    }

    /// The class of a canonical address, as [`Tables::classify`] says.
    pub fn class(&self, addr: IpAddr) -> PeerClass {
        match self.ranges.value(addr) {
            PeerClass::ExternalHosts => {
                embedded(addr).map_or(PeerClass::ExternalHosts, |embedded| self.ranges.value(embedded))
            }
            class => class,
        }
    }

    /// The class of a flow's peer.
    pub fn class_of(&self, flow: &Flow) -> PeerClass {
        let server_port = match flow.kind {
            Some(FlowKind::Ingress) => flow.local.port,
            Some(FlowKind::Egress) | None => flow.remote.port,
        };
        match self.class(flow.remote.addr) {
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
