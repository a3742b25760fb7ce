//! Pods, namespaces, services and nodes, as `kubectl get -o yaml` prints them or the API lists them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use flowtap_model::cluster_objects::{
    ClusterObjects, NamedPort, NamespaceObject, NodeObject, ObjectLabels, PodObject, PodStart, PortProtocol,
    ServiceObject, ServicePort, TargetPort,
};
use flowtap_model::plain_text::cut;
use flowtap_model::{Timestamp, cluster};
use serde_json::Value;

use super::document::{Document, EmptyList, ManifestError, documents};
use super::object_checks::check;
use super::violation::Violation;

/// The kinds of objects that matter, of `v1`.
const KINDS: [(&str, &str); 4] = [
    ("v1", "Pod"),
    ("v1", "Namespace"),
    ("v1", "Service"),
    ("v1", "Node"),
];

/// The same in a message.
const EXPECTED: &str = "Pod, Namespace, Service or Node of `v1`";

/// Reads the objects of a file.
///
/// # Errors
/// A document that is not YAML or JSON, an object of a kind that has no part in it, one that is there twice, or a value that can't be read.
pub fn objects(file: &str, text: &str) -> Result<ClusterObjects, ManifestError> {
    read(&documents(file, text)?)
}

/// The same for a file of a folder of manifests: objects of other kinds are left out, and there may be none that matters.
///
/// # Errors
/// A document that is not YAML or JSON, an object that is there twice, or a value that can't be read.
pub fn objects_among(file: &str, text: &str) -> Result<ClusterObjects, ManifestError> {
    let (mut documents, mut empty) = documents(file, text)?;
    documents.retain(|document| {
        let (version, kind) = document.kind();
        version.is_empty() || kind.is_empty() || KINDS.contains(&(version, kind))
    });
    empty.clear();
    read(&(documents, empty))
}

fn read((documents, empty): &(Vec<Document>, Vec<EmptyList>)) -> Result<ClusterObjects, ManifestError> {
    let mut objects = ClusterObjects::default();
    let mut violations = Vec::new();
    let mut places = HashMap::new();
    for document in documents {
        let mut violation = |key: &str, message| {
            violations.push(Violation::new(document.named_place(), key, message));
        };
        let (version, kind) = document.kind();
        let value = &document.value;
        let Some(name) = value.pointer("/metadata/name").and_then(Value::as_str) else {
            let message = "missing; expected an object as `kubectl get -o yaml` prints it".to_owned();
            violation("metadata.name", message);
            continue;
        };
        // Other groups have a `Service` also.
        if !KINDS.contains(&(version, kind)) {
            let (key, message) = document.other_kind(EXPECTED);
            violation(key, message);
            continue;
        }
        let namespace = if matches!(kind, "Pod" | "Service") {
            namespace(value)
        } else {
            String::new()
        };
        let object = (kind, namespace, name);
        if let Some(first) = places.get(&object) {
            let (kind, namespace, name) = &object;
            let (namespace, name) = (cut(namespace), cut(name));
            let named = if namespace.is_empty() {
                format!("{kind} {name}")
            } else {
                format!("{kind} {namespace}/{name}")
            };
            violation(
                "metadata.name",
                format!("duplicate {named}; the first is {first}"),
            );
        } else {
            places.insert(object, &document.place);
        }
        add(&mut objects, value);
        violations.append(&mut check(document));
    }
    let others = empty.iter().filter(|list| !list.is_of(&KINDS));
    violations.extend(others.map(|list| {
        let message = format!("{}; expected {EXPECTED}", list.shown());
        Violation::new(list.place.clone(), "kind", message)
    }));
    if violations.is_empty() {
        Ok(objects)
    } else {
        Err(ManifestError(violations))
    }
}

/// The objects among `values`, each with its `kind`; others are left out.
pub fn objects_of<'a>(values: impl IntoIterator<Item = &'a Value>) -> ClusterObjects {
    let mut objects = ClusterObjects::default();
    for value in values {
        add(&mut objects, value);
    }
    objects
}

/// The start of each pod among `values`, as far as they have it.
pub fn starts_of<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<PodStart> {
    let pods = values.into_iter().filter(|value| text(value, "/kind") == "Pod");
    pods.filter_map(start).collect()
}

fn start(pod: &Value) -> Option<PodStart> {
    // The API has whole seconds: the moment is within the second that follows.
    let time = |value: &Value, pointer: &str| {
        let time = humantime::parse_rfc3339_weak(value.pointer(pointer)?.as_str()?).ok()?;
        let nanos = time.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        u64::try_from(nanos).ok().map(Timestamp::from_nanos)
    };
    let runs = ["/state/running/startedAt", "/state/terminated/startedAt"];
    let past = ["/lastState/terminated/startedAt"];
    let started = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|key| list(pod, &format!("/status/{key}")))
        .flat_map(|status| runs.iter().chain(&past).filter_map(|key| time(status, key)));
    Some(PodStart {
        namespace: namespace(pod),
        name: text(pod, "/metadata/name"),
        created: time(pod, "/metadata/creationTimestamp")?,
        started: started.min().map(|started| started.plus(Duration::from_secs(1))),
    })
}

/// Adds an object of a known kind.
fn add(objects: &mut ClusterObjects, value: &Value) {
    match text(value, "/kind").as_str() {
        "Pod" => objects.pods.push(pod(value)),
        "Namespace" => objects.namespaces.push(NamespaceObject {
            name: text(value, "/metadata/name"),
            labels: labels(value, "/metadata/labels"),
        }),
        "Service" => objects.services.push(service(value)),
        "Node" => objects.nodes.push(node(value)),
        _ => {}
    }
}

fn pod(value: &Value) -> PodObject {
    let status = |key: &str| list(value, &format!("/status/{key}"));
    let addresses = status("podIPs")
        .iter()
        .map(|it| text(it, "/ip"))
        .chain([text(value, "/status/podIP")]);
    let hosts = status("hostIPs")
        .iter()
        .map(|it| text(it, "/ip"))
        .chain([text(value, "/status/hostIP")]);
    let statuses = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    let ids = statuses
        .iter()
        .flat_map(|key| status(key))
        .map(|it| text(it, "/containerID"));
    // An init container has ended when the pod serves, except for one that restarts always: a sidecar.
    let is_sidecar = |it: &&Value| it.get("restartPolicy").and_then(Value::as_str) == Some("Always");
    let sidecars = list(value, "/spec/initContainers").iter().filter(is_sidecar);
    let containers = list(value, "/spec/containers").iter().chain(sidecars);
    PodObject {
        namespace: namespace(value),
        name: text(value, "/metadata/name"),
        workload: workload(value),
        labels: labels(value, "/metadata/labels"),
        addresses: distinct(addresses),
        host_network: value
            .pointer("/spec/hostNetwork")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        ended: matches!(&*text(value, "/status/phase"), "Succeeded" | "Failed"),
        node: text(value, "/spec/nodeName"),
        node_addresses: distinct(hosts),
        containers: ids
            .filter_map(|id| Some(id.split_once("://")?.1.to_owned()))
            .collect(),
        ports: containers
            .flat_map(|it| list(it, "/ports"))
            .filter_map(named_port)
            .collect(),
    }
}

fn named_port(value: &Value) -> Option<NamedPort> {
    let name = value.get("name")?.as_str()?.to_owned();
    Some(NamedPort {
        name,
        port: port(value.get("containerPort")?)?,
        protocol: protocol(value),
    })
}

/// The workload of a pod, by its controller.
fn workload(value: &Value) -> String {
    let owners = list(value, "/metadata/ownerReferences");
    let is_controller = |owner: &&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    let Some(owner) = owners.iter().find(is_controller) else {
        return String::new();
    };
    let hash = text(value, "/metadata/labels/pod-template-hash");
    cluster::workload(&text(owner, "/kind"), &text(owner, "/name"), &hash)
}

fn service(value: &Value) -> ServiceObject {
    let spec = |key: &str| list(value, &format!("/spec/{key}")).iter();
    let plain = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let balancers = list(value, "/status/loadBalancer/ingress")
        .iter()
        .map(|it| text(it, "/ip"));
    let addresses = spec("clusterIPs")
        .map(plain)
        .chain([text(value, "/spec/clusterIP")]);
    let addresses = addresses.chain(spec("externalIPs").map(plain)).chain(balancers);
    ServiceObject {
        namespace: namespace(value),
        name: text(value, "/metadata/name"),
        // A headless service has `None` here, which is not an address.
        addresses: distinct(addresses),
        selector: labels(value, "/spec/selector"),
        ports: list(value, "/spec/ports")
            .iter()
            .filter_map(service_port)
            .collect(),
    }
}

fn service_port(value: &Value) -> Option<ServicePort> {
    let number = port(value.get("port")?)?;
    let target = match value.get("targetPort") {
        Some(Value::String(name)) => TargetPort::Name(name.clone()),
        Some(target) => TargetPort::Number(port(target).unwrap_or(number)),
        None => TargetPort::Number(number),
    };
    Some(ServicePort {
        port: number,
        protocol: protocol(value),
        target,
    })
}

fn node(value: &Value) -> NodeObject {
    let addresses = list(value, "/status/addresses").iter();
    let ranges = list(value, "/spec/podCIDRs")
        .iter()
        .filter_map(|range| range.as_str()?.parse().ok());
    NodeObject {
        name: text(value, "/metadata/name"),
        addresses: distinct(addresses.map(|it| text(it, "/address"))),
        pod_ranges: ranges.collect(),
    }
}

fn namespace(value: &Value) -> String {
    let namespace = text(value, "/metadata/namespace");
    if namespace.is_empty() {
        "default".to_owned()
    } else {
        namespace
    }
}

fn protocol(value: &Value) -> PortProtocol {
    let name = value.get("protocol").and_then(Value::as_str);
    let known = PortProtocol::ALL.into_iter().find(|it| Some(it.as_str()) == name);
    known.unwrap_or_default()
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok())
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn labels(value: &Value, pointer: &str) -> ObjectLabels {
    let members = value.pointer(pointer).and_then(Value::as_object);
    let pairs = members.into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The addresses among `texts`, in their order, each once.
fn distinct(texts: impl Iterator<Item = String>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in texts.filter_map(|text| text.parse::<IpAddr>().ok()) {
        let address = address.to_canonical();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
