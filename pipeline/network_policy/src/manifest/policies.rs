//! `NetworkPolicies`, checked as the API server checks them (`ValidateNetworkPolicy` and its defaults).

use std::collections::HashMap;

use flowtap_model::cluster_objects::PortProtocol;
use flowtap_model::plain_text::cut;
use ipnet::IpNet;
use serde_json::Value;

use super::decode::{Field, Report};
use super::document::{Document, EmptyList, ManifestError, documents};
use super::labels::{check_key, check_labels, check_value};
use super::metadata;
use super::names::is_namespace;
use super::violation::Violation;
use crate::policy::{Direction, NetworkPolicy, Peer, Port, PortMatch, Rule};
use crate::selector::{Expression, Operator, Selector};

/// The `apiVersion` and `kind` of a policy.
pub(super) const KIND: (&str, &str) = ("networking.k8s.io/v1", "NetworkPolicy");

/// Reads the policies of a file. One without a namespace is in `namespace`.
///
/// # Errors
/// Every mistake in the file; an object of another kind is one, and no object, unless an empty list says so.
pub fn policies(file: &str, text: &str, namespace: &str) -> Result<Vec<NetworkPolicy>, ManifestError> {
    read(documents(file, text)?, file, namespace).map(|(policies, _)| policies)
}

/// Reads the policies of documents, and whether an empty list says that there are none.
pub(super) fn read(
    (documents, empty): (Vec<Document>, Vec<EmptyList>),
    file: &str,
    namespace: &str,
) -> Result<(Vec<NetworkPolicy>, bool), ManifestError> {
    let mut policies = Vec::new();
    let mut violations = Vec::new();
    let mut places: HashMap<(String, String), String> = HashMap::new();
    for document in documents {
        let mut report = Report::new(document.named_place());
        let policy = policy(&document, namespace, &mut report);
        if let Some(policy) = policy {
            let key = (policy.namespace.clone(), policy.name.clone());
            let first = places.get(&key).filter(|_| !policy.is_name_generated());
            if let Some(first) = first {
                report.add(
                    "metadata.name",
                    format!(
                        "duplicate policy {}; the first is {first}",
                        cut(&policy.to_string())
                    ),
                );
            }
            places.insert(key, document.place);
            policies.push(policy);
        }
        violations.append(&mut report.violations);
    }
    // A list without items says that there are no policies; one of another kind, or a file without a list, may be the wrong one.
    let (of_policies, others): (Vec<_>, Vec<_>) = empty.into_iter().partition(|list| list.is_of(&[KIND]));
    violations.extend(others.into_iter().map(|list| {
        let message = format!(
            "{}; expected `List` of `v1`, or `NetworkPolicyList` of `{}`",
            list.shown(),
            KIND.0
        );
        Violation::new(list.place, "kind", message)
    }));
    if policies.is_empty() && violations.is_empty() && of_policies.is_empty() {
        violations.push(Violation {
            place: file.to_owned(),
            key: String::new(),
            message: "no NetworkPolicy in this file".to_owned(),
        });
    }
    if violations.is_empty() {
        Ok((policies, !of_policies.is_empty()))
    } else {
        Err(ManifestError(violations))
    }
}

fn policy(document: &Document, namespace: &str, report: &mut Report) -> Option<NetworkPolicy> {
    let root = Field::root(&document.value);
    if document.kind() != KIND {
        let (key, message) = document.other_kind("`NetworkPolicy` of `networking.k8s.io/v1`");
        report.add(key, message);
        return None;
    }
    // `status` was removed from the API, and old clusters still export it.
    root.check_keys(&["apiVersion", "kind", "metadata", "spec", "status"], report);
    let metadata = root.get("metadata");
    if let Some(metadata) = &metadata {
        metadata::check(metadata, report);
    }
    let name = metadata::name(metadata.as_ref(), report)?;
    let own = metadata.and_then(|metadata| metadata.get("namespace"));
    let own = own.map_or(Some(""), |own| own.text(report))?;
    if !own.is_empty() && !is_namespace(own) {
        report.add(
            "metadata.namespace",
            format!(
                "invalid namespace \"{}\": expected up to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends",
                cut(own)
            ),
        );
    }
    // The API does not distinguish an empty string from an absent one.
    let namespace = if own.is_empty() { namespace } else { own };
    let mut policy = NetworkPolicy {
        namespace: namespace.to_owned(),
        name,
        ..NetworkPolicy::default()
    };
    // Without a spec it selects every pod of the namespace, and isolates them.
    let nothing = Value::Object(serde_json::Map::new());
    let spec = root.get("spec").unwrap_or(Field {
        key: "spec".to_owned(),
        value: &nothing,
    });
    if spec.check_keys(&["podSelector", "ingress", "egress", "policyTypes"], report) {
        if let Some(pods) = spec.get("podSelector") {
            policy.pods = selector(&pods, report);
        }
        let ingress = rules(&spec, Direction::Ingress, report);
        let egress = rules(&spec, Direction::Egress, report);
        let (isolates_ingress, isolates_egress) = types(&spec, !egress.is_empty(), report);
        // The API accepts rules of a direction that `policyTypes` leaves out, without effect.
        policy.ingress = isolates_ingress.then_some(ingress);
        policy.egress = isolates_egress.then_some(egress);
    }
    Some(policy)
}

/// Whether the policy isolates ingress, and egress.
fn types(spec: &Field<'_>, has_egress: bool, report: &mut Report) -> (bool, bool) {
    let list = spec
        .get("policyTypes")
        .map(|list| list.list(report))
        .unwrap_or_default();
    if list.is_empty() {
        return (true, has_egress);
    }
    if list.len() > 2 {
        report.add(
            "spec.policyTypes",
            "more than two; expected each of `Ingress` and `Egress` once",
        );
    }
    let (mut ingress, mut egress) = (false, false);
    for entry in list {
        match entry.value.as_str() {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            _ => report.add(
                &entry.key,
                format!("expected `Ingress` or `Egress`, found {}", entry.found()),
            ),
        }
    }
    (ingress, egress)
}

fn rules(spec: &Field<'_>, direction: Direction, report: &mut Report) -> Vec<Rule> {
    let Some(list) = spec.get(direction.as_str()) else {
        return Vec::new();
    };
    let rules = list.list(report);
    rules.iter().map(|field| rule(field, direction, report)).collect()
}

fn rule(field: &Field<'_>, direction: Direction, report: &mut Report) -> Rule {
    let mut rule = Rule::default();
    if !field.check_keys(&[direction.peers_key(), "ports"], report) {
        return rule;
    }
    if let Some(peers) = field.get(direction.peers_key()) {
        rule.peers = peers
            .list(report)
            .iter()
            .filter_map(|it| peer(it, report))
            .collect();
    }
    if let Some(ports) = field.get("ports") {
        rule.ports = ports
            .list(report)
            .iter()
            .filter_map(|it| port(it, report))
            .collect();
    }
    rule
}

fn peer(field: &Field<'_>, report: &mut Report) -> Option<Peer> {
    if !field.check_keys(&["ipBlock", "namespaceSelector", "podSelector"], report) {
        return None;
    }
    let namespaces = field.get("namespaceSelector");
    let pods = field.get("podSelector");
    if let Some(cidr) = field.get("ipBlock") {
        if namespaces.is_some() || pods.is_some() {
            report.add(&field.key, "`ipBlock` excludes `podSelector` and `namespaceSelector`; hint: make it another list element");
        }
        return block(&cidr, report);
    }
    if namespaces.is_none() && pods.is_none() {
        report.add(
            &field.key,
            "empty; expected `podSelector`, `namespaceSelector` or `ipBlock`",
        );
        return None;
    }
    Some(Peer::Pods {
        namespaces: namespaces.map(|it| selector(&it, report)),
        pods: pods.map(|it| selector(&it, report)),
    })
}

fn block(field: &Field<'_>, report: &mut Report) -> Option<Peer> {
    if !field.check_keys(&["cidr", "except"], report) {
        return None;
    }
    let Some(text) = field.get("cidr") else {
        report.add(&format!("{}.cidr", field.key), "missing");
        return None;
    };
    let cidr = range(&text, report)?;
    let list = field
        .get("except")
        .map(|list| list.list(report))
        .unwrap_or_default();
    let mut except = Vec::new();
    for entry in list {
        let Some(net) = range(&entry, report) else {
            continue;
        };
        if net == cidr {
            report.add(
                &entry.key,
                format!("{net} is all of `cidr`; expected a part of it; hint: leave this peer out, it matches nothing"),
            );
        } else if !cidr.contains(&net) {
            report.add(&entry.key, format!("{net} is not a part of {cidr}"));
        }
        except.push(net);
    }
    Some(Peer::Block { cidr, except })
}

fn range(field: &Field<'_>, report: &mut Report) -> Option<IpNet> {
    let text = field.text(report)?;
    let range = text.parse::<IpNet>();
    if range.is_err() {
        report.add(
            &field.key,
            format!(
                "invalid range \"{}\": expected an address and a prefix length, such as 10.0.0.0/24",
                cut(text)
            ),
        );
    }
    range.ok().map(|net| net.trunc())
}

fn port(field: &Field<'_>, report: &mut Report) -> Option<Port> {
    if !field.check_keys(&["protocol", "port", "endPort"], report) {
        return None;
    }
    let protocol = match field.get("protocol") {
        None => PortProtocol::Tcp,
        Some(name) => {
            let known = PortProtocol::ALL
                .into_iter()
                .find(|it| Some(it.as_str()) == name.value.as_str());
            if known.is_none() {
                report.add(
                    &name.key,
                    format!("expected `TCP`, `UDP` or `SCTP`, found {}", name.found()),
                );
            }
            known?
        }
    };
    let end = field.get("endPort");
    let Some(start) = field.get("port") else {
        if let Some(end) = end {
            report.add(&end.key, "needs `port`");
        }
        return Some(Port {
            protocol,
            port: PortMatch::Any,
        });
    };
    let port = match start.value {
        Value::String(name) if is_port_name(name) => {
            if let Some(end) = end {
                report.add(&end.key, "needs a number in `port`, not a name");
            }
            PortMatch::Name(name.clone())
        }
        Value::String(name) => {
            let lower = name.to_ascii_lowercase();
            let hint = if name.parse::<u16>().is_ok() {
                "; hint: a number is not quoted".to_owned()
            } else if is_port_name(&lower) {
                format!("; hint: `{lower}`, as the pod's containers name it")
            } else {
                String::new()
            };
            report.add(
                &start.key,
                format!("invalid name of a port \"{}\": expected up to 15 of a-z, 0-9 and `-`, a letter among them{hint}", cut(name)),
            );
            return None;
        }
        _ => {
            let first = number(&start, report)?;
            let last = end.map_or(Some(first), |end| {
                let last = number(&end, report)?;
                if last < first {
                    report.add(&end.key, format!("{last} is below `port`, which is {first}"));
                }
                Some(last)
            })?;
            PortMatch::Range(first, last)
        }
    };
    Some(Port { protocol, port })
}

fn number(field: &Field<'_>, report: &mut Report) -> Option<u16> {
    let number = field.value.as_u64().and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|number| *number > 0);
    if number.is_none() {
        report.add(
            &field.key,
            format!(
                "expected a port from 1 to 65535, found {}{}",
                field.found(),
                field.digits_hint()
            ),
        );
    }
    number
}

/// `IANA_SVC_NAME` of RFC 6335, section 5.1, in lower case.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

fn selector(field: &Field<'_>, report: &mut Report) -> Selector {
    let mut selector = Selector::default();
    if !field.check_keys(&["matchLabels", "matchExpressions"], report) {
        return selector;
    }
    if let Some(labels) = field.get("matchLabels") {
        selector.labels = check_labels(&labels, report);
    }
    if let Some(expressions) = field.get("matchExpressions") {
        let list = expressions.list(report);
        selector.expressions = list.iter().filter_map(|it| expression(it, report)).collect();
    }
    selector
}

fn expression(field: &Field<'_>, report: &mut Report) -> Option<Expression> {
    if !field.check_keys(&["key", "operator", "values"], report) {
        return None;
    }
    let mut required = |name: &str| {
        let member = field.get(name);
        if member.is_none() {
            report.add(&format!("{}.{name}", field.key), "missing");
        }
        member
    };
    let (key, operator) = (required("key")?, required("operator")?);
    let key_field = &key.key;
    let text = key.text(report)?;
    check_key("a label", key_field, text, report);
    let key = text.to_owned();
    let values_key = format!("{}.values", field.key);
    let list = field
        .get("values")
        .map(|list| list.list(report))
        .unwrap_or_default();
    let mut values = Vec::new();
    for value in &list {
        if let Some(text) = value.text(report) {
            check_value(&value.key, text, report);
            values.push(text.to_owned());
        }
    }
    let is_empty = values.is_empty();
    let operator = match operator.value.as_str() {
        Some("In") => Operator::In(values),
        Some("NotIn") => Operator::NotIn(values),
        Some("Exists") => Operator::Exists,
        Some("DoesNotExist") => Operator::DoesNotExist,
        _ => {
            let found = operator.found();
            report.add(
                &operator.key,
                format!("expected `In`, `NotIn`, `Exists` or `DoesNotExist`, found {found}"),
            );
            return None;
        }
    };
    match operator {
        Operator::In(_) | Operator::NotIn(_) if is_empty => {
            report.add(&values_key, "`In` and `NotIn` need at least one value");
        }
        Operator::Exists | Operator::DoesNotExist if !is_empty => {
            report.add(&values_key, "`Exists` and `DoesNotExist` have no values");
        }
        _ => {}
    }
    Some(Expression { key, operator })
}
