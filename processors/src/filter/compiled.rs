//! Matchers as they are tested: sets in place of lists, the cheap conditions first.

use std::collections::HashSet;
use std::net::IpAddr;

use flowtap_pipeline::{Flow, FlowKind, KubernetesNames, PeerClass, Transport, plain_text};
use wildmatch::WildMatch;

use super::config::{End, Matcher, Side};
use super::ports::PortRange;
use crate::cidr::Cidr;
use crate::range_set::{AddressSet, RangeSet};

/// Digits of a container's id that `docker ps` and `crictl ps` show.
const SHORT_ID: usize = 12;

/// Names and patterns: a hash look-up for the names, then the beginnings, then one pattern after the other.
#[derive(Debug)]
struct Names {
    exact: HashSet<Box<str>, foldhash::fast::RandomState>,
    /// Patterns with one `*`, at their end, without it: most are of this kind, and a comparison of bytes takes a fraction of the time.
    beginnings: Vec<Box<str>>,
    patterns: Vec<WildMatch>,
    /// Whether one of them has an escape, as names with control characters are shown with.
    has_escapes: bool,
}

impl Names {
    fn new(texts: Vec<String>) -> Self {
        let mut names = Self {
            exact: HashSet::default(),
            beginnings: Vec::new(),
            patterns: Vec::new(),
            has_escapes: texts.iter().any(|text| text.contains("\\x")),
        };
        for text in texts {
            match text.split_once(['*', '?']) {
                None => {
                    names.exact.insert(text.into());
                }
                Some((beginning, "")) if text.ends_with('*') => names.beginnings.push(beginning.into()),
                Some(_) => names.patterns.push(WildMatch::new(&text)),
            }
        }
        names
    }

    /// Whether one of them is `name`. No pattern matches an empty one, which stands for no name.
    fn matches(&self, name: &str) -> bool {
        let is_pattern = || {
            self.beginnings
                .iter()
                .any(|beginning| name.starts_with(&**beginning))
                || self.patterns.iter().any(|pattern| pattern.matches(name))
        };
        // The set takes a hash of the name for a look-up, also if it is empty.
        !self.exact.is_empty() && self.exact.contains(name) || !name.is_empty() && is_pattern()
    }
}

/// Ids of containers: whole ones, their beginnings, patterns.
#[derive(Debug)]
struct Containers {
    names: Names,
    short: Vec<Box<str>>,
}

impl Containers {
    fn new(texts: Vec<String>) -> Self {
        let is_short = |text: &&String| text.len() >= SHORT_ID && !text.contains(['*', '?']);
        Self {
            short: texts
                .iter()
                .filter(is_short)
                .map(|text| text.as_str().into())
                .collect(),
            names: Names::new(texts),
        }
    }

    fn matches(&self, id: &str) -> bool {
        self.names.matches(id) || self.short.iter().any(|short| id.starts_with(&**short))
    }
}

/// One end of a connection.
#[derive(Debug)]
struct CompiledEnd {
    address: Option<AddressSet>,
    port: Option<RangeSet<u16>>,
}

impl CompiledEnd {
    fn new(end: End) -> Self {
        Self {
            address: end.address.map(addresses),
            port: end.port.map(ports),
        }
    }

    fn matches(&self, end: flowtap_pipeline::Endpoint) -> bool {
        self.port.as_ref().is_none_or(|ports| ports.contains(end.port))
            && self.address.as_ref().is_none_or(|set| set.contains(end.addr))
    }
}

/// Reads a name in the cluster.
type NameOf = fn(&KubernetesNames) -> &str;

/// Condition on one.
type NameTest = (NameOf, Names);

fn tests(lists: Vec<(NameOf, Option<Vec<String>>)>) -> Vec<NameTest> {
    let lists = lists.into_iter();
    lists
        .filter_map(|(name, list)| Some((name, Names::new(list?))))
        .collect()
}

/// A matcher. Where a condition is `None`, or its list empty, any record meets it.
#[derive(Debug)]
struct Compiled {
    role: Option<[bool; 2]>,
    transport: Option<Vec<Transport>>,
    class: Option<Vec<bool>>,
    server_port: Option<RangeSet<u16>>,
    local_port: Option<RangeSet<u16>>,
    remote_port: Option<RangeSet<u16>>,
    port: Option<RangeSet<u16>>,
    netns: Option<RangeSet<u32>>,
    remote_address: Option<AddressSet>,
    local_address: Option<AddressSet>,
    address: Option<AddressSet>,
    ends: Vec<CompiledEnd>,
    container_id: Option<Containers>,
    comm: Option<Names>,
    peer: Vec<NameTest>,
    local: Vec<NameTest>,
}

fn addresses(list: Vec<Cidr>) -> AddressSet {
    AddressSet::new(list.into_iter().map(|Cidr(net)| net))
}

fn ports(list: Vec<PortRange>) -> RangeSet<u16> {
    RangeSet::new(list.into_iter().map(|range| (range.first, range.last)))
}

/// Classes by their index. A name that no processor gives out is reported by the config's check.
fn classes(names: &[String]) -> Vec<bool> {
    let mut classes = Vec::new();
    for name in names {
        let built_in = PeerClass::BUILT_IN
            .into_iter()
            .find(|class| class.as_str() == name);
        // `policy` gives a class of this name the same index, whichever of the two is built first.
        let class = built_in.or_else(|| PeerClass::custom(name));
        // Where there have been too many names, `policy` can't be built either, and says so.
        if let Some(index) = class.map(|class| usize::from(class.index())) {
            classes.resize(classes.len().max(index + 1), false);
            classes[index] = true;
        }
    }
    classes
}

impl Compiled {
    fn new(matcher: Matcher) -> Self {
        Self {
            role: matcher
                .role
                .map(|sides| [Side::Client, Side::Server].map(|side| sides.contains(&side))),
            transport: matcher
                .transport
                .map(|names| names.into_iter().map(Transport::from).collect()),
            class: matcher.class.map(|names| classes(&names)),
            server_port: matcher.server_port.map(ports),
            local_port: matcher.local_port.map(ports),
            remote_port: matcher.remote_port.map(ports),
            port: matcher.port.map(ports),
            netns: matcher
                .netns
                .map(|list| RangeSet::new(list.into_iter().map(|netns| (netns, netns)))),
            remote_address: matcher.remote_address.map(addresses),
            local_address: matcher.local_address.map(addresses),
            address: matcher.address.map(addresses),
            ends: matcher.ends.into_iter().flatten().map(CompiledEnd::new).collect(),
            container_id: matcher.container_id.map(Containers::new),
            comm: matcher.comm.map(Names::new),
            peer: tests(vec![
                (|names| &names.namespace, matcher.peer_namespace),
                (|names| &names.pod, matcher.peer_pod),
                (|names| &names.workload, matcher.peer_workload),
                (|names| &names.service, matcher.peer_service),
                (|names| &names.node, matcher.peer_node),
            ]),
            local: tests(vec![
                (|names| &names.namespace, matcher.local_namespace),
                (|names| &names.pod, matcher.local_pod),
                (|names| &names.workload, matcher.local_workload),
            ]),
        }
    }

    fn matches(&self, flow: &Flow) -> bool {
        let (local, remote) = (flow.local, flow.remote);
        let in_ports =
            |ports: &Option<RangeSet<u16>>, port| ports.as_ref().is_none_or(|ports| ports.contains(port));
        let in_range =
            |set: &Option<AddressSet>, addr: IpAddr| set.as_ref().is_none_or(|set| set.contains(addr));
        // One condition per line, by what it costs.
        self.role.is_none_or(|[client, server]| match flow.kind {
            Some(FlowKind::Egress) => client,
            Some(FlowKind::Ingress) => server,
            None => false,
        }) && self
            .transport
            .as_ref()
            .is_none_or(|list| list.contains(&flow.transport))
            && self.has_class(flow)
            && in_ports(&self.server_port, server_port(flow))
            && in_ports(&self.local_port, local.port)
            && in_ports(&self.remote_port, remote.port)
            && (in_ports(&self.port, local.port) || in_ports(&self.port, remote.port))
            && self.netns.as_ref().is_none_or(|netns| netns.contains(flow.netns))
            && in_range(&self.remote_address, remote.addr)
            && in_range(&self.local_address, local.addr)
            && (in_range(&self.address, remote.addr) || in_range(&self.address, local.addr))
            && self.has_ends(flow)
            && self.has_container(flow)
            && self.has_process(flow)
            && has_names(&self.peer, flow.peer_names.as_deref())
            && has_names(&self.local, flow.local_names.as_deref())
    }

    fn has_class(&self, flow: &Flow) -> bool {
        let Some(classes) = &self.class else { return true };
        let class = flow.class.unwrap_or(PeerClass::Unknown);
        classes.get(usize::from(class.index())).is_some_and(|has| *has)
    }

    fn has_ends(&self, flow: &Flow) -> bool {
        let (local, remote) = (flow.local, flow.remote);
        match &*self.ends {
            [] => true,
            [end] => end.matches(local) || end.matches(remote),
            [one, other, ..] => {
                one.matches(local) && other.matches(remote) || one.matches(remote) && other.matches(local)
            }
        }
    }

    fn has_container(&self, flow: &Flow) -> bool {
        let Some(ids) = &self.container_id else {
            return true;
        };
        flow.container_id.as_deref().is_some_and(|id| ids.matches(id))
    }

    fn has_process(&self, flow: &Flow) -> bool {
        let Some(names) = &self.comm else { return true };
        let end = flow
            .comm
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(flow.comm.len());
        let name = &flow.comm[..end];
        // Most are UTF-8, for which this is the quicker of the two.
        let matches = str::from_utf8(name).map_or_else(
            |_| names.matches(&String::from_utf8_lossy(name)),
            |name| names.matches(name),
        );
        matches || names.has_escapes && names.matches(&plain_text::process_name(&flow.comm))
    }
}

/// The port of the side that serves.
fn server_port(flow: &Flow) -> u16 {
    match flow.kind {
        Some(FlowKind::Ingress) => flow.local.port,
        Some(FlowKind::Egress) | None => flow.remote.port,
    }
}

fn has_names(tests: &[NameTest], names: Option<&KubernetesNames>) -> bool {
    tests
        .iter()
        .all(|(name, wanted)| wanted.matches(names.map_or("", name)))
}

/// A list of matchers.
#[derive(Debug)]
pub(super) struct Matchers(Vec<Compiled>);

impl Matchers {
    /// Matchers with the same single condition become one: a hundred of them with an address each cost one look-up.
    pub(super) fn new(matchers: &[Matcher]) -> Self {
        let mut joined: Vec<Matcher> = Vec::new();
        for matcher in matchers {
            let key = matcher.only_list();
            let same = joined
                .iter_mut()
                .find(|before| key.is_some() && before.only_list() == key);
            match same {
                Some(before) => before.join(matcher.clone()),
                None => joined.push(matcher.clone()),
            }
        }
        Self(joined.into_iter().map(Compiled::new).collect())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them matches.
    pub(super) fn any(&self, flow: &Flow) -> bool {
        self.0.iter().any(|matcher| matcher.matches(flow))
    }
}
