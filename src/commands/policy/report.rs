//! Conversations as rows of a report: those of the same workloads with the same verdicts are one row.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use flowtap_network_policy::cluster::Cluster;
use flowtap_network_policy::conversation::{Conversation, End, Party};
use flowtap_network_policy::observed::{Sides, Tally};
use flowtap_network_policy::suggest::workload_of;
use flowtap_network_policy::verdict::{Decision, Idle, Judge, Outcome, Verdict};
use flowtap_pipeline::plain_text::{escape, name as shown_name};
use serde_json::{Value, json};

use super::observe::Observation;

/// An end, as it is shown: a workload, a node or an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Workload { namespace: String, workload: String },
    Node { name: String },
    UnknownPod { address: IpAddr },
    Address { address: IpAddr },
}

impl Side {
    fn of(end: &End, cluster: &Cluster) -> Self {
        let address = end.address;
        match &end.party {
            Party::Pod(id) => {
                let (namespace, workload) = workload_of(cluster.pod(*id));
                Self::Workload { namespace, workload }
            }
            Party::Node(name) if !name.is_empty() => Self::Node { name: name.clone() },
            Party::UnknownPod | Party::UnknownBackend => Self::UnknownPod { address },
            Party::Node(_) | Party::Outside | Party::Assumed | Party::Anything => Self::Address { address },
        }
    }

    /// Names are those of files and recordings: none forges a line, or does not show.
    fn text(&self) -> String {
        match self {
            Self::Workload { namespace, workload } => {
                format!("{}/{}", shown_name(namespace), shown_name(workload))
            }
            Self::Node { name } => format!("node {}", shown_name(name)),
            Self::UnknownPod { address } => format!("unknown pod {address}"),
            Self::Address { address } => address.to_string(),
        }
    }

    fn json(&self, pods: &BTreeSet<String>) -> Value {
        match self {
            Self::Workload { namespace, workload } => {
                json!({"kind": "workload", "namespace": namespace, "workload": workload, "pods": pods})
            }
            Self::Node { name } => json!({"kind": "node", "node": name}),
            Self::UnknownPod { address } => json!({"kind": "unknown_pod", "address": address}),
            Self::Address { address } => json!({"kind": "address", "address": address}),
        }
    }
}

/// The identity of a row, in the order in which rows are shown.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// The worst first.
    outcome: std::cmp::Reverse<Outcome>,
    client: Side,
    server: Side,
    port: u16,
    protocol: &'static str,
    /// Texts of the decisions, of each set of policies.
    decisions: Vec<(String, String)>,
}

/// Conversations with the same key.
#[derive(Debug, Default)]
struct Row {
    verdicts: Vec<Verdict>,
    client_pods: BTreeSet<String>,
    server_pods: BTreeSet<String>,
    sides: Sides,
}

/// Rows in the order in which they are shown.
#[derive(Debug, Default)]
pub(super) struct Rows(BTreeMap<Key, Row>);

impl Rows {
    /// Everything that was observed, with the verdict of one set of policies.
    pub(super) fn judged(observation: &Observation, judge: &Judge<'_>) -> Self {
        let mut rows = Self::default();
        for (conversation, sides) in &observation.conversations.seen {
            let verdict = judge.judge(conversation);
            rows.add(conversation, sides, vec![verdict], &observation.cluster);
        }
        rows
    }

    /// Adds a conversation with the verdict of each set of policies.
    pub(super) fn add(
        &mut self,
        conversation: &Conversation,
        sides: &Sides,
        verdicts: Vec<Verdict>,
        cluster: &Cluster,
    ) {
        let outcomes = verdicts.iter().map(Verdict::outcome);
        let text = |verdict: &Verdict| (verdict.egress.to_string(), verdict.ingress.to_string());
        let key = Key {
            outcome: std::cmp::Reverse(outcomes.max().unwrap_or(Outcome::Allowed)),
            client: Side::of(&conversation.client, cluster),
            server: Side::of(&conversation.server, cluster),
            port: conversation.port,
            protocol: conversation
                .protocol
                .map_or("other", |protocol| protocol.as_str()),
            decisions: verdicts.iter().map(text).collect(),
        };
        let row = self.0.entry(key).or_default();
        row.verdicts = verdicts;
        row.sides.add(sides);
        let pod = |end: &End| match end.party {
            Party::Pod(id) => Some(cluster.pod(id).name.clone()),
            _ => None,
        };
        row.client_pods.extend(pod(&conversation.client));
        row.server_pods.extend(pod(&conversation.server));
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Number of rows with this outcome.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.0.keys().filter(|key| key.outcome.0 == outcome).count()
    }

    /// A block of lines per row, with the decisions that led to its outcome. `labels` name the sets of policies.
    pub(super) fn text(&self, labels: &[&str], all: bool) -> String {
        let mut text = String::new();
        for (key, row) in &self.0 {
            if key.outcome.0 == Outcome::Allowed && !all {
                continue;
            }
            let outcomes: Vec<_> = row
                .verdicts
                .iter()
                .map(|verdict| shown(verdict.outcome()))
                .collect();
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{:<10} {} -> {} {} {}: {}",
                outcomes.join(" -> "),
                key.client.text(),
                key.server.text(),
                key.protocol,
                key.port,
                seen(&row.sides.tally())
            );
            for (verdict, label) in row.verdicts.iter().zip(labels) {
                for (direction, decision) in [("egress", &verdict.egress), ("ingress", &verdict.ingress)] {
                    if decision.outcome() == verdict.outcome() {
                        // It may have the name of a pod's namespace.
                        let decision = decision.to_string();
                        let _ = writeln!(text, "  {label}{direction}: {}", escape(&decision));
                    }
                }
            }
        }
        text
    }

    /// A list with an object per row. `labels` are the keys of each set's verdict; a single empty one puts it into the row.
    pub(super) fn json(&self, labels: &[&str]) -> Vec<Value> {
        let rows = self.0.iter().map(|(key, row)| {
            let tally = row.sides.tally();
            let mut object = json!({
                "client": key.client.json(&row.client_pods),
                "server": key.server.json(&row.server_pods),
                "port": key.port,
                "protocol": key.protocol,
                "connections": tally.connections,
                "failed_connects": tally.failed,
                "bytes": tally.bytes,
            });
            for (verdict, label) in row.verdicts.iter().zip(labels) {
                if label.is_empty() {
                    object["verdict"] = verdict.outcome().as_str().into();
                    object["egress"] = decision(&verdict.egress);
                    object["ingress"] = decision(&verdict.ingress);
                } else {
                    object[*label] = json!({
                        "verdict": verdict.outcome().as_str(),
                        "egress": decision(&verdict.egress),
                        "ingress": decision(&verdict.ingress),
                    });
                }
            }
            object
        });
        rows.collect()
    }
}

fn shown(outcome: Outcome) -> &'static str {
    match outcome {
        // It is what one looks for.
        Outcome::Denied => "DENIED",
        other => other.as_str(),
    }
}

fn seen(tally: &Tally) -> String {
    let mut parts = vec![
        counted(tally.connections, "connection"),
        format!("{} bytes", tally.bytes),
    ];
    if tally.failed > 0 {
        parts.push(counted(tally.failed, "failed connect"));
    }
    parts.join(", ")
}

/// `1 flow`, `2 flows`.
pub(super) fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn decision(decision: &Decision) -> Value {
    let mut object = json!({"decision": decision.name(), "reason": decision.to_string()});
    let (policies, rule) = match decision {
        Decision::Exempt(_) | Decision::NotIsolated => (None, None),
        Decision::AllowedByEach { policies } => (Some(policies.as_slice()), None),
        Decision::Allowed(rule) => (Some(std::slice::from_ref(&rule.policy)), Some(rule)),
        Decision::Undecided { policies, rule, .. } => (Some(policies.as_slice()), rule.as_ref()),
        Decision::Denied { policies, near } => {
            (Some(policies.as_slice()), near.as_ref().map(|(rule, _)| rule))
        }
    };
    if let Some(policies) = policies {
        object["policies"] = json!(policies);
    }
    if let Some(rule) = rule {
        let key = if matches!(decision, Decision::Denied { .. }) {
            "nearest_rule"
        } else {
            "rule"
        };
        object[key] = json!({
            "policy": rule.policy,
            "direction": rule.direction.as_str(),
            "index": rule.rule,
            "peer": rule.peer,
            "port": rule.port,
        });
    }
    object
}

/// A line for everything that was not judged, or not as usual.
pub(super) fn remarks(observation: &Observation) -> Vec<String> {
    let conversations = &observation.conversations;
    let mut remarks = Vec::new();
    if let Some(interrupted) = observation.interrupted {
        remarks.push(format!("{interrupted}: a signal ended the measurement"));
    }
    if !observation.cluster.has_pods() {
        remarks.push(
            "no pods are known: each policy is assumed to select this machine's end of every flow, and only `ipBlock` \
             can match the other; hint: --cluster, or a recording made in the cluster"
                .to_owned(),
        );
    }
    if observation.left_out > 0 {
        let count = counted(observation.left_out, "record");
        remarks.push(format!("not judged: {count} of flows beyond --max-flows"));
    }
    if observation.unplaced > 0 {
        let count = counted(observation.unplaced, "record");
        remarks.push(format!(
            "not judged: {count} of UDP flows beyond udp.max_flows of the receiver"
        ));
    }
    if observation.without_peer > 0 {
        let count = counted(observation.without_peer, "record");
        remarks.push(format!(
            "not judged: {count} of UDP sockets whose peers the receiver's hooks do not show; hint: record with `udp.hooks: functions`"
        ));
    }
    if conversations.attempts > 0 {
        let count = counted(conversations.attempts, "flow");
        remarks.push(format!(
            "not judged: {count} that never connected; hint: --attempts"
        ));
    }
    if conversations.loopback > 0 {
        let count = counted(conversations.loopback, "record");
        remarks.push(format!(
            "not judged: {count} of flows over loopback, which policies do not see"
        ));
    }
    if conversations.unresolved_services > 0 {
        let count = counted(conversations.unresolved_services, "flow");
        remarks.push(format!(
            "{count} to services without a selector, judged by the service's address"
        ));
    }
    if conversations.without_port > 0 {
        let count = counted(conversations.without_port, "flow");
        remarks.push(format!(
            "{count} of an unknown pod, at an address of services none of which has the port; hint: list all services with \
             --cluster"
        ));
    }
    if conversations.without_pods > 0 {
        let count = counted(conversations.without_pods, "flow");
        remarks.push(format!(
            "{count} of an unknown pod, of a service that selects no pod that is known; hint: list all pods with --cluster"
        ));
    }
    if conversations.unclear > 0 {
        let count = counted(conversations.unclear, "flow");
        remarks.push(format!(
            "{count} of an unknown pod, at an address that several pods have, that passed from one pod to another, or whose pod \
             had ended: the cluster is listed every 30 seconds"
        ));
    }
    remarks
}

/// Policies without a pod that a note names.
const MAX_NAMED: usize = 10;

/// A line for policies that select no pod.
pub(super) fn idle(policies: &[Idle<'_>]) -> Option<String> {
    let named = policies.iter().take(MAX_NAMED).map(|it| {
        if it.has_pods_there {
            it.policy.to_string()
        } else {
            format!("{} (no pod is known in its namespace)", it.policy)
        }
    });
    let mut list = named.collect::<Vec<_>>().join(", ");
    let select = match policies.len() {
        0 => return None,
        1 => "1 policy selects no pod that is known, and decides nothing".to_owned(),
        count => format!("{count} policies select no pod that is known, and decide nothing"),
    };
    if let Some(further) = policies
        .len()
        .checked_sub(MAX_NAMED)
        .filter(|further| *further > 0)
    {
        // Writing to a String does not fail.
        let _ = write!(list, " and {further} more");
    }
    Some(format!(
        "{select}: {list}; hint: compare its `podSelector` and namespace with `kubectl get pods -A --show-labels`"
    ))
}

/// The names of policies that select no pod.
pub(super) fn names(policies: &[Idle<'_>]) -> Vec<String> {
    policies.iter().map(|it| it.policy.to_string()).collect()
}

/// Why the report is not complete, if flows that could be judged with other settings, or in more time, were not.
pub(super) fn incomplete(observation: &Observation) -> Option<String> {
    if observation.left_out > 0 {
        Some("some flows were not judged; hint: a larger --max-flows".to_owned())
    } else if observation.unplaced > 0 {
        Some("some flows were not judged; hint: record with a larger receivers.ebpf.udp.max_flows".to_owned())
    } else {
        let interrupted = observation.interrupted?;
        Some(format!(
            "{interrupted}: later flows were not judged; hint: let it run to its end, or set a shorter --for"
        ))
    }
}

/// Why the report says nothing, if no flow was judged.
pub(super) fn nothing(observation: &Observation) -> Option<&'static str> {
    observation
        .conversations
        .seen
        .is_empty()
        .then_some("no flow was judged; hint: record for longer and while there is traffic, or with --attempts if none connected")
}

/// A report as JSON, its texts escaped as those of the other outputs: a name joins between them.
pub(super) fn printed(mut report: Value) -> String {
    escape_texts(&mut report);
    format!("{report:#}\n")
}

fn escape_texts(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(escaped) = escape(text) {
                *text = escaped;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(escape_texts),
        Value::Object(members) => {
            // Keys are those of the report, and labels that are valid.
            members.values_mut().for_each(escape_texts);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Remarks as lines of a report.
pub(super) fn lines(remarks: &[String]) -> String {
    remarks.iter().fold(String::new(), |mut lines, remark| {
        // Writing to a String does not fail.
        let _ = writeln!(lines, "note: {}", escape(remark));
        lines
    })
}

#[cfg(test)]
mod tests;
