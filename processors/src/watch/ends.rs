//! The two ends of a contact: whose traffic it is, and with whom.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use flowtap_pipeline::{Flow, FlowKind, KubernetesNames, PeerClass, plain_text};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A cache of [`subject_of`] and [`Object::of`] for names that recur, so that no text is made for each record.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Held, so that no other names come to have the same address.
    subjects: HashMap<Owner, (Held, u32)>,
    objects: HashMap<usize, (Arc<KubernetesNames>, Object)>,
}

/// The process's name, and the addresses of the container's id and of the names.
type Owner = ([u8; 16], usize, usize);

type Held = (Option<Arc<str>>, Option<Arc<KubernetesNames>>);

fn address<T: ?Sized>(of: Option<&Arc<T>>) -> usize {
    of.map_or(0, |of| Arc::as_ptr(of).cast::<()>().addr())
}

impl Names {
    /// The number of the subject of `flow`; `number` gives it for a name that is not known.
    pub(super) fn subject(&mut self, flow: &Flow, number: impl FnOnce(String) -> Option<u32>) -> Option<u32> {
        let owner = (
            flow.comm,
            address(flow.container_id.as_ref()),
            address(flow.local_names.as_ref()),
        );
        if let Some((_, known)) = self.subjects.get(&owner) {
            return Some(*known);
        }
        let number = number(subject_of(flow))?;
        let held = (flow.container_id.clone(), flow.local_names.clone());
        self.subjects.insert(owner, (held, number));
        Some(number)
    }

    /// As [`Object::of`].
    pub(super) fn object(&mut self, flow: &Flow, ipv4_prefix: u8, ipv6_prefix: u8) -> Object {
        let Some(names) = &flow.peer_names else {
            return Object::of(flow, ipv4_prefix, ipv6_prefix);
        };
        let known = self.objects.entry(address(Some(names)));
        let (_, object) =
            known.or_insert_with(|| (Arc::clone(names), Object::of(flow, ipv4_prefix, ipv6_prefix)));
        object.clone()
    }

    /// Forgets all, so that what has gone is not held for ever.
    pub(super) fn clear(&mut self) {
        self.subjects.clear();
        self.objects.clear();
    }
}

/// The best name of whose traffic a flow is: its workload, its container, its process.
fn subject_of(flow: &Flow) -> String {
    if let Some(name) = flow.local_names.as_deref().and_then(workload) {
        return name;
    }
    let process = process_name(flow);
    match flow.container_id.as_deref() {
        // As Docker shortens it.
        Some(id) => format!("{process}@{}", plain_text::escape(id.get(..12).unwrap_or(id))),
        None => process,
    }
}

fn process_name(flow: &Flow) -> String {
    let name = plain_text::process_name(&flow.comm);
    if name.is_empty() {
        return "unknown".to_owned();
    }
    plain_text::name(&name).into_owned()
}

fn workload(names: &KubernetesNames) -> Option<String> {
    let name = [&names.workload, &names.pod, &names.service, &names.node]
        .into_iter()
        .find(|name| !name.is_empty())?;
    let name = plain_text::name(name);
    Some(if names.namespace.is_empty() {
        name.into_owned()
    } else {
        format!("{}/{name}", plain_text::name(&names.namespace))
    })
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Object {
    /// By its name in the cluster.
    Named(Arc<str>),
    /// By the range that its address is in.
    Range(IpNet),
}

impl Object {
    /// The other end of `flow`; addresses that have no name count by ranges of these prefix lengths.
    fn of(flow: &Flow, ipv4_prefix: u8, ipv6_prefix: u8) -> Self {
        if let Some(name) = flow.peer_names.as_deref().and_then(workload) {
            return Self::Named(name.into());
        }
        let addr = flow.remote.addr;
        let prefix = match addr {
            IpAddr::V4(_) => ipv4_prefix.min(32),
            IpAddr::V6(_) => ipv6_prefix.min(128),
        };
        let range = IpNet::new(addr, prefix).unwrap_or_else(|_| IpNet::from(addr));
        Self::Range(range.trunc())
    }

    /// The range with these prefix lengths that it is in; itself if it is as wide, or a name.
    pub(super) fn within(&self, ipv4_prefix: u8, ipv6_prefix: u8) -> Self {
        let Self::Range(range) = self else {
            return self.clone();
        };
        let prefix = match range {
            IpNet::V4(_) => ipv4_prefix.min(32),
            IpNet::V6(_) => ipv6_prefix.min(128),
        };
        let wider = IpNet::new(range.addr(), prefix.min(range.prefix_len()));
        Self::Range(wider.map_or(*range, |wider| wider.trunc()))
    }

    /// Every address of the family of `addr`.
    pub(super) fn everywhere(addr: IpAddr) -> Self {
        let all = IpNet::new(addr, 0).unwrap_or_else(|_| IpNet::from(addr));
        Self::Range(all.trunc())
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Range(range) if range.prefix_len() == range.max_prefix_len() => range.addr().fmt(f),
            Self::Range(range) => range.fmt(f),
        }
    }
}

/// A subject, the other end, and the port of the side that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ContactKey {
    /// Number of the subject.
    pub(super) subject: u32,
    pub(super) object: Object,
    /// 0 for all ephemeral ones, and for one that is not known: then both are ephemeral.
    pub(super) port: u16,
    /// Whether the subject serves.
    pub(super) serves: bool,
    /// UDP or UDP-Lite, not TCP.
    pub(super) is_udp: bool,
}

/// Port of name servers.
pub(super) const DNS: u16 = 53;

/// Port of time servers.
const NTP: u16 = 123;

impl ContactKey {
    /// Whether the subject asks a name server.
    pub(super) const fn is_dns(&self) -> bool {
        !self.serves && self.port == DNS
    }

    /// Whether regular pauses say nothing: name servers are asked again when a record expires, time servers at intervals.
    pub(super) const fn is_regular_by_nature(&self) -> bool {
        self.is_udp && matches!(self.port, DNS | NTP)
    }
}

/// The port of the side that serves.
pub(super) fn server_port(flow: &Flow) -> u16 {
    match flow.kind {
        Some(FlowKind::Ingress) => flow.local.port,
        _ => flow.remote.port,
    }
}

/// Whether a peer is of this class, that of peers beyond this network.
pub(super) const fn is_external(class: Option<PeerClass>) -> bool {
    matches!(
        class,
        None | Some(PeerClass::ExternalHosts | PeerClass::AbnormalFlowBlackList)
    )
}

#[cfg(test)]
mod tests {
    use flowtap_pipeline::testing::flow;

    use super::*;

    #[test]
    fn names_in_sentences_show_and_forge_nothing() {
        let subject = |comm: &str, container: Option<&str>| {
            let mut flow = flow("10.0.0.1:40000", "45.33.32.156:443");
            flow.comm[..comm.len()].copy_from_slice(comm.as_bytes());
            flow.container_id = container.map(Arc::from);
            subject_of(&flow)
        };
        assert_eq!(subject("shop", None), "shop");
        assert_eq!(subject("", None), "unknown");
        assert_eq!(subject("  ", None), "\"  \"");
        assert_eq!(subject("a\u{200b}b", None), "a\\xe2\\x80\\x8bb");
        assert_eq!(
            subject(" x", Some("0123\n56789abcdef")),
            "\" x\"@0123\\x0a56789ab"
        );
        let names = KubernetesNames {
            namespace: "ns".to_owned(),
            workload: "Deployment/\u{202e}web ".to_owned(),
            ..KubernetesNames::default()
        };
        assert_eq!(workload(&names).unwrap(), "ns/\"Deployment/\\xe2\\x80\\xaeweb \"");
    }
}
