//! The two ends of a contact: whose traffic it is, and with whom.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use flowtap_pipeline::{Flow, FlowKind, KubernetesNames, plain};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The best name of whose traffic a flow is: its workload, its container, its process.
pub(super) fn subject_of(flow: &Flow) -> String {
    if let Some(name) = flow.local_names.as_deref().and_then(workload) {
        return name;
    }
    let process = process_name(flow);
    match flow.container_id.as_deref() {
        // As Docker shortens it.
        Some(id) => format!("{process}@{}", id.get(..12).unwrap_or(id)),
        None => process,
    }
}

fn process_name(flow: &Flow) -> String {
    let end = flow
        .comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(flow.comm.len());
    let name = String::from_utf8_lossy(&flow.comm[..end]);
    if name.is_empty() {
        return "unknown".to_owned();
    }
    plain::plain(&name).into_owned()
}

fn workload(names: &KubernetesNames) -> Option<String> {
    let name = [&names.workload, &names.pod, &names.service, &names.node]
        .into_iter()
        .find(|name| !name.is_empty())?;
    Some(if names.namespace.is_empty() {
        name.clone()
    } else {
        format!("{}/{name}", names.namespace)
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
    pub(super) fn of(flow: &Flow, ipv4_prefix: u8, ipv6_prefix: u8) -> Self {
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
    /// 0 if it is not known.
    pub(super) port: u16,
    /// Whether the subject serves.
    pub(super) serves: bool,
}

/// The port of the side that serves.
pub(super) fn server_port(flow: &Flow) -> u16 {
    match flow.kind {
        Some(FlowKind::Ingress) => flow.local.port,
        _ => flow.remote.port,
    }
}
