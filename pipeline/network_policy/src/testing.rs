//! A small cluster for tests, and conversations and verdicts as short texts.
//!
//! Namespaces `x`, `y` and `z` (label `ns`), each with pods `a`, `b` and `c` (label `pod`) on a node `n-x`, `n-y`, `n-z`. The pod
//! `x/a` has 10.1.0.1, `y/c` 10.2.0.3; the node `n-z` 192.0.2.3. Each pod serves 80 and 81, named as upstream's tests name them.

use std::fmt::Write as _;
use std::net::IpAddr;

use flowtap_model::cluster_objects::{
    ClusterObjects, NamedPort, NamespaceObject, NodeObject, PodObject, PortProtocol,
};

use flowtap_model::{Endpoint, Events, Flow, FlowBatch, FlowKind, TcpRecord};

use crate::cluster::Cluster;
use crate::conversation::{Conversation, End, Party};
use crate::observed::Observed;
use crate::policy::NetworkPolicy;
use crate::verdict::{Decision, Judge};

pub(crate) const NAMES: [&str; 3] = ["x", "y", "z"];

pub(crate) fn objects() -> ClusterObjects {
    let mut objects = ClusterObjects::default();
    for (third, namespace) in (1..).zip(NAMES) {
        objects.namespaces.push(NamespaceObject {
            name: namespace.to_owned(),
            labels: [("ns".to_owned(), namespace.to_owned())].into(),
        });
        objects.nodes.push(NodeObject {
            name: format!("n-{namespace}"),
            addresses: vec![[192, 0, 2, third].into()],
            pod_ranges: vec![format!("10.{third}.0.0/24").parse().unwrap()],
        });
        for (last, name) in (1..).zip(["a", "b", "c"]) {
            let port = |port, protocol: PortProtocol| NamedPort {
                name: format!("serve-{port}-{}", protocol.as_str().to_lowercase()),
                port,
                protocol,
            };
            objects.pods.push(PodObject {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                workload: format!("Deployment/{name}"),
                labels: [("pod".to_owned(), name.to_owned())].into(),
                addresses: vec![[10, third, 0, last].into()],
                node: format!("n-{namespace}"),
                node_addresses: vec![[192, 0, 2, third].into()],
                ports: PortProtocol::ALL
                    .into_iter()
                    .flat_map(|it| [port(80, it), port(81, it)])
                    .collect(),
                ..PodObject::default()
            });
        }
    }
    objects
}

pub(crate) fn cluster() -> Cluster {
    Cluster::new(objects(), &[])
}

/// The end `x/a`, `n-y`, `?10.1.0.99` (an unknown pod), `??10.96.0.1` (that of a service) or an address.
pub(crate) fn end(text: &str, cluster: &Cluster) -> End {
    let (party, address): (_, IpAddr) = if let Some((namespace, name)) = text.split_once('/') {
        let (id, pod) = cluster
            .pods()
            .find(|(_, pod)| pod.namespace == namespace && pod.name == name)
            .unwrap();
        (Party::Pod(id), pod.addresses[0])
    } else if let Some(node) = text.strip_prefix("n-") {
        let last = NAMES.iter().position(|name| *name == node).unwrap() + 1;
        (
            Party::Node(text.to_owned()),
            format!("192.0.2.{last}").parse().unwrap(),
        )
    } else if let Some(address) = text.strip_prefix("??") {
        (Party::UnknownBackend, address.parse().unwrap())
    } else if let Some(address) = text.strip_prefix('?') {
        (Party::UnknownPod, address.parse().unwrap())
    } else {
        (Party::Outside, text.parse().unwrap())
    };
    End { party, address }
}

/// The conversation `x/b -> x/a TCP 80`.
pub(crate) fn conversation(text: &str, cluster: &Cluster) -> Conversation {
    let words: Vec<_> = text.split_whitespace().collect();
    let protocol = PortProtocol::ALL.into_iter().find(|it| it.as_str() == words[3]);
    Conversation {
        client: end(words[0], cluster),
        server: end(words[2], cluster),
        port: words[4].parse().unwrap(),
        protocol,
    }
}

/// A connection that `local` opened to the port `port` of `remote`, or accepted on it if it `serves`.
pub(crate) fn record(local: &str, remote: &str, port: u16, serves: bool) -> TcpRecord {
    let end = |text: &str, port| Endpoint::new(text.parse().unwrap(), port);
    let (lport, rport) = if serves { (port, 50_000) } else { (50_000, port) };
    let kind = if serves {
        FlowKind::Ingress
    } else {
        FlowKind::Egress
    };
    let mut record = TcpRecord::new(Flow {
        kind: Some(kind),
        ..Flow::new(end(local, lport), end(remote, rport))
    });
    record.events = Events::OPENED;
    record
}

pub(crate) fn observed(records: Vec<TcpRecord>) -> Observed {
    let mut observed = Observed::new(1_000);
    observed.fold(&FlowBatch {
        tcp: records,
        ..FlowBatch::default()
    });
    observed
}

/// A decision in short: `open`, `deny x/p`, `x/p ingress[0].from[1] and .ports[0]`, `maybe`, `own_node`.
pub(crate) fn short(decision: &Decision) -> String {
    match decision {
        Decision::NotIsolated => "open".to_owned(),
        Decision::AllowedByEach { policies } => format!("each {}", policies.join(", ")),
        Decision::Allowed(rule) => rule.to_string().replace("spec.", ""),
        Decision::Denied { policies, .. } => format!("deny {}", policies.join(", ")),
        Decision::Undecided { rule: Some(rule), .. } => {
            format!("maybe {}", rule.to_string().replace("spec.", ""))
        }
        other => other.name().to_owned(),
    }
}

/// Checks lines `client -> server PROTOCOL PORT | egress | ingress` under `policies`.
pub(crate) fn check(title: &str, policies: &[NetworkPolicy], cluster: &Cluster, table: &str) {
    let judge = Judge::new(policies, cluster);
    let mut wrong = String::new();
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let verdict = judge.judge(&conversation(cells[0], cluster));
        let found = [short(&verdict.egress), short(&verdict.ingress)];
        if found != cells[1..] {
            let _ = writeln!(wrong, "{line}\n  found {} | {}", found[0], found[1]);
        }
    }
    assert!(wrong.is_empty(), "{title}:\n{wrong}");
}
