//! The resource: the attributes that name this flowtap and its node, from the machine, the environment and the config.
//!
//! Later sources replace earlier ones:
//!
//! 1. Detected attributes: service, host, operating system, the Kubernetes node where its name is
//!    known, and the cluster's id where the API allows reading it ([`in_cluster`]).
//! 2. `OTEL_RESOURCE_ATTRIBUTES`, then `OTEL_SERVICE_NAME` (OpenTelemetry specification, "Resource SDK").
//! 3. `service.telemetry.resource`; null removes an attribute.
//!
//! `service.instance.id` is the same at every start. Its sources are in [`instance`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::env;
use std::fs;

use flowtap_config::{Diagnostic, KubernetesConfig, Origin, ServiceConfig};
use flowtap_pipeline::Resource;
use flowtap_pipeline::plain::plain;
use flowtap_pipeline::resource::{K8S_CLUSTER_UID, SERVICE_INSTANCE_ID, SERVICE_NAME};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

/// Namespace of the ids that are made of a node's own. Never changes: other ids would be other instances to every store.
const INSTANCES: Uuid = Uuid::from_u128(0x6f0c_f4b1_9d2e_4b7a_8a55_3f1d_52c7_e0a6);

/// The variable with attributes in the form of W3C Baggage.
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

const ATTRIBUTES_HINT: &str = "write `name=value` pairs, separated by commas and percent-encoded (a comma in a value is %2C), or unset the variable";

/// Inputs from the machine and the environment.
#[derive(Clone, Debug, Default)]
struct Sources {
    machine_id: Option<String>,
    boot_id: Option<String>,
    host_name: Option<String>,
    /// Of Kubernetes.
    node_name: Option<String>,
    resource_attributes: Option<String>,
    service_name: Option<String>,
}

/// The resource of this process. Reads files that are out of reach in the sandbox.
pub fn resource(service: &ServiceConfig) -> Resource {
    let file = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let sources = Sources {
        // A machine that has never booted has the text "uninitialized" (machine-id(5)).
        machine_id: ["/etc/machine-id", "/var/lib/dbus/machine-id"]
            .into_iter()
            .find_map(file)
            .filter(|id| id != "uninitialized"),
        boot_id: file("/proc/sys/kernel/random/boot_id"),
        host_name: host_name(),
        node_name: kubernetes_node(&service.kubernetes),
        resource_attributes: variable(RESOURCE_ATTRIBUTES),
        service_name: variable("OTEL_SERVICE_NAME"),
    };
    describe(&sources, &service.telemetry.resource)
}

/// Returns a warning if `OTEL_RESOURCE_ATTRIBUTES` is invalid, so that nothing of it is used. Not logged by [`resource`], which is read
/// before there is a log.
pub fn unused_attributes() -> Option<Diagnostic> {
    let text = env::var_os(RESOURCE_ATTRIBUTES)?;
    let fault = text.to_str().map_or_else(
        || Some("it is not UTF-8".to_owned()),
        |text| of_variable(text).err(),
    )?;
    Some(unused(&fault))
}

/// Logs that warning.
pub fn report_unused_attributes() {
    if let Some(warning) = unused_attributes() {
        tracing::warn!(
            "{RESOURCE_ATTRIBUTES}: {}; hint: {ATTRIBUTES_HINT}",
            plain(&warning.message)
        );
    }
}

/// The OpenTelemetry specification, "Resource SDK", has the value discarded as a whole and the fault reported.
fn unused(fault: &str) -> Diagnostic {
    let origin = Origin {
        name: RESOURCE_ATTRIBUTES.to_owned(),
        place: None,
        line: None,
    };
    Diagnostic {
        origin: Some(origin),
        key: String::new(),
        message: format!(
            "{fault}: no attribute of the variable is used, as the OpenTelemetry specification requires; those that were detected, of \
             OTEL_SERVICE_NAME and of `service.telemetry.resource` are"
        ),
        help: Some(ATTRIBUTES_HINT.to_owned()),
    }
}

/// Returns the resource of a flowtap in the Kubernetes cluster with the id `uid`. An attribute that the environment or the config
/// has set, or removed, stays so.
#[must_use]
pub fn in_cluster(resource: Resource, service: &ServiceConfig, uid: String) -> Resource {
    if service.telemetry.resource.contains_key(K8S_CLUSTER_UID) {
        return resource;
    }
    resource.or_with(K8S_CLUSTER_UID, uid)
}

/// This machine's name.
pub fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Name of the Kubernetes node, if somebody has given it.
pub fn kubernetes_node(section: &KubernetesConfig) -> Option<String> {
    let configured = section.node_name.clone().filter(|name| !name.is_empty());
    configured.or_else(|| variable("NODE_NAME"))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn describe(sources: &Sources, configured: &BTreeMap<String, Option<String>>) -> Resource {
    let mut attributes = detected(sources);
    let mut given = BTreeMap::new();
    if let Some(text) = &sources.resource_attributes {
        // An invalid one has no part that is used; `unused_attributes` reports it.
        given.extend(of_variable(text).into_iter().flatten());
    }
    given.extend(
        sources
            .service_name
            .clone()
            .map(|name| (SERVICE_NAME.to_owned(), name)),
    );
    let given = given.into_iter().map(|(name, value)| (name, Some(value)));
    let mut given: BTreeMap<_, _> = given.collect();
    given.extend(configured.clone());
    let instance_is_given = matches!(given.get(SERVICE_INSTANCE_ID), Some(Some(_)));
    for (name, value) in given {
        match value {
            Some(value) => attributes.insert(name, value),
            None => attributes.remove(&name),
        };
    }
    let node = node(&attributes, instance_is_given);
    Resource::new(attributes, node)
}

fn detected(sources: &Sources) -> BTreeMap<String, String> {
    let node = sources.node_name.as_ref().or(sources.host_name.as_ref());
    let attributes = [
        (SERVICE_NAME, Some("flowtap".to_owned())),
        ("service.version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        (
            SERVICE_INSTANCE_ID,
            Some(instance(sources, node.map(String::as_str))),
        ),
        ("host.name", sources.host_name.clone()),
        ("host.id", sources.machine_id.clone()),
        ("host.arch", Some(architecture().to_owned())),
        ("os.type", Some("linux".to_owned())),
        ("k8s.node.name", sources.node_name.clone()),
    ];
    attributes
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// The id of this instance: a UUID of version 5 of the machine's id and the node's name. Both,
/// because machines that were cloned share an id, and machines of several networks may share a
/// name. A container without `/etc/machine-id` has the name alone. Without a distinct name it is
/// derived from the boot id, and changes with the next boot.
fn instance(sources: &Sources, node: Option<&str>) -> String {
    let node = node.filter(|name| is_distinct(name));
    let parts = [sources.machine_id.as_deref(), node];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let name = match (&*parts, &sources.boot_id) {
        ([], Some(boot)) => boot.clone(),
        (parts, _) => parts.join("/"),
    };
    Uuid::new_v5(&INSTANCES, name.as_bytes()).to_string()
}

/// Whether a host's name distinguishes it from others.
fn is_distinct(name: &str) -> bool {
    !matches!(name, "" | "(none)") && name != "localhost" && !name.starts_with("localhost.")
}

/// A name of the node for readers: an id that was chosen, else the names that people use, else the id that was made.
fn node(attributes: &BTreeMap<String, String>, instance_is_given: bool) -> String {
    let get = |name: &str| {
        attributes
            .get(name)
            .map(String::as_str)
            .filter(|name| is_distinct(name))
    };
    let instance = get(SERVICE_INSTANCE_ID);
    let chosen = instance.filter(|_| instance_is_given);
    let named = || get("k8s.node.name").or_else(|| get("host.name"));
    chosen.or_else(named).or(instance).unwrap_or_default().to_owned()
}

/// `host.arch`, as the conventions spell it.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

/// The pairs of `OTEL_RESOURCE_ATTRIBUTES`, in the form of W3C Baggage without properties.
///
/// # Errors
/// The first that is not a pair, and why.
fn of_variable(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs: Vec<_> = text.split(',').filter(|pair| !pair.trim().is_empty()).collect();
    let count = pairs.len();
    let pairs = pairs.into_iter().enumerate().map(|(i, pair)| {
        let fault = |fault: &str| {
            let of_all = match count {
                1 => String::new(),
                count => format!(" (pair {} of {count})", i + 1),
            };
            format!("`{}`{of_all} {fault}", pair.trim())
        };
        let decoded = |text: &str| {
            // It leaves an escape that is none as it is.
            if text
                .split('%')
                .skip(1)
                .any(|after| !begins_with_hex_digits(after))
            {
                return Err(fault("has a `%` without two hexadecimal digits"));
            }
            let text = percent_decode_str(text.trim()).decode_utf8();
            text.map(Cow::into_owned)
                .map_err(|_| fault("is not UTF-8 after percent-decoding"))
        };
        let (name, value) = pair.split_once('=').ok_or_else(|| fault("has no `=`"))?;
        let name = decoded(name)?;
        if name.is_empty() {
            return Err(fault("has no name"));
        }
        Ok((name, decoded(value)?))
    });
    pairs.collect()
}

fn begins_with_hex_digits(text: &str) -> bool {
    text.len() >= 2 && text.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(machine_id: &str, host_name: &str) -> Sources {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Sources {
            machine_id: given(machine_id),
            boot_id: given("5d4f"),
            host_name: given(host_name),
            ..Sources::default()
        }
    }

    fn of(sources: &Sources) -> Resource {
        describe(sources, &BTreeMap::new())
    }

    #[test]
    fn an_instance_is_the_same_at_every_start_and_no_two_nodes_share_one() {
        let node = of(&sources("a1", "node1"));
        assert_eq!(node, of(&sources("a1", "node1")));
        // RFC 9562, section 5.5: fixed, so that an upgrade does not make other instances of all nodes.
        assert_eq!(node.instance(), "453cb31e-e7f2-5e35-873c-5473d7a9425a");
        // A clone; another machine of that name; the same name and no id; a boot.
        let others = [("a1", "node2"), ("b2", "node1"), ("", "node1"), ("", "localhost")];
        let mut instances: Vec<_> = others
            .iter()
            .map(|(id, name)| of(&sources(id, name)).instance().to_owned())
            .chain([node.instance().to_owned()])
            .collect();
        instances.sort();
        instances.dedup();
        assert_eq!(instances.len(), 5);
    }

    #[test]
    fn a_node_is_called_what_people_call_it_unless_an_id_was_chosen() {
        assert_eq!(of(&sources("a1", "node1")).node(), "node1");
        let in_cluster = Sources {
            node_name: Some("worker-1".to_owned()),
            ..sources("a1", "node1")
        };
        assert_eq!(of(&in_cluster).node(), "worker-1");
        assert_eq!(of(&in_cluster).get("k8s.node.name"), Some("worker-1"));
        let nameless = of(&sources("a1", "localhost.localdomain"));
        assert_eq!(nameless.node(), nameless.instance());
        let chosen = [(SERVICE_INSTANCE_ID.to_owned(), Some("mine".to_owned()))];
        assert_eq!(describe(&in_cluster, &chosen.into()).node(), "mine");
    }

    #[test]
    fn the_environment_replaces_what_is_detected_and_the_config_replaces_both() {
        let sources = Sources {
            resource_attributes: Some("team=a%20b, service.name = x,host.id=,".to_owned()),
            service_name: Some("edge".to_owned()),
            ..sources("a1", "node1")
        };
        let configured = [
            ("team".to_owned(), Some("c".to_owned())),
            ("host.name".to_owned(), None),
        ];
        let resource = of(&sources);
        let get = |name| resource.get(name);
        assert_eq!(
            (get("team"), get(SERVICE_NAME), get("host.id")),
            (Some("a b"), Some("edge"), Some(""))
        );
        let resource = describe(&sources, &configured.into());
        assert_eq!(
            (resource.get("team"), resource.get("host.name")),
            (Some("c"), None)
        );
    }

    #[test]
    fn a_variable_with_a_mistake_is_ignored_as_a_whole() {
        for text in ["a", "a=1,b", "=1", "a=%ff"] {
            let sources = Sources {
                resource_attributes: Some(text.to_owned()),
                ..sources("a1", "node1")
            };
            assert_eq!(of(&sources).get("a"), None, "{text}");
        }
    }

    #[test]
    fn the_warning_names_the_faulty_pair_and_that_none_is_used() {
        for (text, fault) in [
            ("a", "`a` has no `=`"),
            ("a=1, b ,c=2", "`b` (pair 2 of 3) has no `=`"),
            ("=1", "`=1` has no name"),
            ("a=%ff", "`a=%ff` is not UTF-8 after percent-decoding"),
            ("a=%zz", "`a=%zz` has a `%` without two hexadecimal digits"),
            ("a=5%", "`a=5%` has a `%` without two hexadecimal digits"),
        ] {
            let warning = unused(&of_variable(text).unwrap_err()).to_string();
            let beginning =
                format!("OTEL_RESOURCE_ATTRIBUTES: {fault}: no attribute of the variable is used");
            assert!(warning.starts_with(&beginning), "{warning}");
        }
    }
}
