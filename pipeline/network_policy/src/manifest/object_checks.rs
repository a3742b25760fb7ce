//! Checks of pods, namespaces, services and nodes in files: a value that can't be read is an error, as a pod without the label or the
//! address would get other verdicts. An object of the API has none.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::decode::{Field, Report};
use super::document::Document;
use super::violation::Violation;

/// The mistakes in an object of a known kind.
pub(super) fn check(document: &Document) -> Vec<Violation> {
    let mut report = Report::new(document.named_place());
    let root = Object(Field::root(&document.value));
    let report = &mut report;
    if let Some(namespace) = root.at(&["metadata", "namespace"]) {
        namespace.text(report);
    }
    labels(root.at(&["metadata", "labels"]), report);
    match document.kind().1 {
        "Pod" => pod(&root, report),
        "Service" => service(&root, report),
        "Node" => node(&root, report),
        _ => {}
    }
    std::mem::take(&mut report.violations)
}

/// The fields of an object.
struct Object<'a>(Field<'a>);

impl<'a> Object<'a> {
    /// The field below `keys`, if there is one.
    fn at(&self, keys: &[&str]) -> Option<Field<'a>> {
        keys.iter().try_fold(self.0.clone(), |field, key| field.get(key))
    }
}

fn pod(root: &Object<'_>, report: &mut Report) {
    for field in [root.at(&["status", "podIP"]), root.at(&["status", "hostIP"])] {
        addresses(field, report);
    }
    for list in [root.at(&["status", "podIPs"]), root.at(&["status", "hostIPs"])] {
        for element in elements(list, report) {
            addresses(element.get("ip"), report);
        }
    }
    if let Some(host) = root.at(&["spec", "hostNetwork"])
        && !host.value.is_boolean()
    {
        report.add(
            &host.key,
            format!("expected true or false, found {}", host.found()),
        );
    }
    for text in [root.at(&["spec", "nodeName"]), root.at(&["status", "phase"])]
        .into_iter()
        .flatten()
    {
        text.text(report);
    }
    for list in [
        root.at(&["spec", "containers"]),
        root.at(&["spec", "initContainers"]),
    ] {
        for container in elements(list, report) {
            for port in elements(container.get("ports"), report) {
                // Rules and services name it.
                if let Some(name) = port.get("name") {
                    name.text(report);
                }
                number(port.get("containerPort"), report);
                protocol(port.get("protocol"), report);
            }
        }
    }
}

fn service(root: &Object<'_>, report: &mut Report) {
    labels(root.at(&["spec", "selector"]), report);
    addresses(root.at(&["spec", "clusterIP"]), report);
    for list in [
        root.at(&["spec", "clusterIPs"]),
        root.at(&["spec", "externalIPs"]),
    ] {
        for element in elements(list, report) {
            addresses(Some(element), report);
        }
    }
    for element in elements(root.at(&["status", "loadBalancer", "ingress"]), report) {
        addresses(element.get("ip"), report);
    }
    for port in elements(root.at(&["spec", "ports"]), report) {
        number(port.get("port"), report);
        if port
            .get("targetPort")
            .is_some_and(|target| !target.value.is_string())
        {
            number(port.get("targetPort"), report);
        }
        protocol(port.get("protocol"), report);
    }
}

fn node(root: &Object<'_>, report: &mut Report) {
    for range in elements(root.at(&["spec", "podCIDRs"]), report) {
        if range
            .value
            .as_str()
            .and_then(|text| text.parse::<IpNet>().ok())
            .is_none()
        {
            let found = range.found();
            report.add(
                &range.key,
                format!("expected a range such as 10.244.1.0/24, found {found}"),
            );
        }
    }
    for element in elements(root.at(&["status", "addresses"]), report) {
        // Others are names.
        let kind = element.get("type");
        if kind.is_some_and(|kind| matches!(kind.value.as_str(), Some("InternalIP" | "ExternalIP"))) {
            addresses(element.get("address"), report);
        }
    }
}

fn elements<'a>(list: Option<Field<'a>>, report: &mut Report) -> Vec<Field<'a>> {
    list.map(|list| list.list(report)).unwrap_or_default()
}

fn labels(field: Option<Field<'_>>, report: &mut Report) {
    if let Some(field) = field {
        field.text_map(report);
    }
}

/// An address; empty before there is one, and `None` for a service that has none.
fn addresses(field: Option<Field<'_>>, report: &mut Report) {
    let Some(field) = field else {
        return;
    };
    let text = field.value.as_str();
    if !text.is_some_and(|text| matches!(text, "" | "None") || text.parse::<IpAddr>().is_ok()) {
        report.add(
            &field.key,
            format!("expected an address such as 10.244.1.7, found {}", field.found()),
        );
    }
}

fn number(field: Option<Field<'_>>, report: &mut Report) {
    let Some(field) = field else {
        return;
    };
    let number = field.value.as_u64().and_then(|number| u16::try_from(number).ok());
    if number.is_none_or(|number| number == 0) {
        report.add(
            &field.key,
            format!(
                "expected a port from 1 to 65535, found {}{}",
                field.found(),
                field.digits_hint()
            ),
        );
    }
}

fn protocol(field: Option<Field<'_>>, report: &mut Report) {
    let Some(field) = field else {
        return;
    };
    if !matches!(field.value, Value::String(name) if ["TCP", "UDP", "SCTP"].contains(&name.as_str())) {
        report.add(
            &field.key,
            format!("expected `TCP`, `UDP` or `SCTP`, found {}", field.found()),
        );
    }
}
