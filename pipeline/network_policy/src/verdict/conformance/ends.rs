//! Observed flows whose ends are not simply two pods: the host's network, loopback, bridges, services, and pods or namespaces that
//! are not known.

use std::net::IpAddr;

use flowtap_model::TcpRecord;
use flowtap_model::cluster_objects::{ClusterObjects, PortProtocol, ServiceObject, ServicePort, TargetPort};

use crate::cluster::Cluster;
use crate::conversation::Conversations;
use crate::manifest::policies;
use crate::policy::NetworkPolicy;
use crate::testing::{objects, observed, record, short};
use crate::verdict::{Judge, Verdict};

fn policy(namespace: &str, spec: &str) -> Vec<NetworkPolicy> {
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: '{namespace}'}}\nspec: {{{spec}}}\n"
    );
    policies("test.yaml", &text, "default").unwrap()
}

/// The verdicts on what one record was joined to, in short.
fn verdicts(
    record: TcpRecord,
    objects: &ClusterObjects,
    machine: &[IpAddr],
    policies: &[NetworkPolicy],
) -> Vec<(String, String)> {
    // As with several recordings: the cluster does not know the machine.
    let cluster = Cluster::new(objects.clone(), &[]);
    let mut seen = Conversations::default();
    seen.add(&observed(vec![record]), &cluster, machine, false);
    let judge = Judge::new(policies, &cluster);
    let verdicts = seen.seen.keys().map(|it| judge.judge(it));
    verdicts
        .map(|Verdict { egress, ingress }| (short(&egress), short(&ingress)))
        .collect()
}

fn one(egress: &str, ingress: &str) -> Vec<(String, String)> {
    vec![(egress.to_owned(), ingress.to_owned())]
}

/// x/b on the network of its node n-x, which has the address 192.0.2.1.
fn with_host_pod() -> ClusterObjects {
    let mut objects = objects();
    let pod = &mut objects.pods[1];
    pod.host_network = true;
    pod.addresses.clone_from(&pod.node_addresses);
    pod.containers = vec!["host".to_owned()];
    objects
}

#[test]
fn a_pod_on_the_hosts_network_is_its_node_that_no_selector_selects_or_matches() {
    let objects = with_host_pod();
    let by_label = policy(
        "x",
        "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]",
    );
    let from_host = |server: &str| {
        record("192.0.2.1", server, 80, false).with_flow(|flow| flowtap_model::Flow {
            container_id: Some("host".into()),
            ..flow
        })
    };
    // Its own egress is not isolated, and pods of its node are always reached.
    assert_eq!(
        verdicts(from_host("10.1.0.1"), &objects, &[], &by_label),
        one("not_a_pod", "own_node")
    );
    // A pod of another node, on which the same selector is.
    let on_y = policy(
        "y",
        "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]",
    );
    assert_eq!(
        verdicts(from_host("10.2.0.1"), &objects, &[], &on_y),
        one("not_a_pod", "deny y/p")
    );
    let block = policy(
        "y",
        "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.1/32}}]}]",
    );
    assert_eq!(
        verdicts(from_host("10.2.0.1"), &objects, &[], &block),
        one("not_a_pod", "y/p ingress[0].from[0]")
    );
    // As a server it is not isolated either, and as a peer of egress it is an address.
    let to_host = record("10.2.0.1", "192.0.2.1", 80, false);
    assert_eq!(
        verdicts(to_host.clone(), &objects, &[], &by_label),
        one("open", "not_a_pod")
    );
    let to_b = policy(
        "y",
        "podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]",
    );
    assert_eq!(
        verdicts(to_host, &objects, &[], &to_b),
        one("deny y/p", "not_a_pod")
    );
}

#[test]
fn loopback_is_not_judged_and_a_pods_own_address_or_service_always_allowed() {
    let objects = objects();
    let deny = policy("x", "podSelector: {}, policyTypes: [Ingress, Egress]");
    for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert!(verdicts(record(loopback, loopback, 80, true), &objects, &[], &deny).is_empty());
    }
    assert_eq!(
        verdicts(record("10.1.0.1", "10.1.0.1", 80, false), &objects, &[], &deny),
        one("same_pod", "same_pod")
    );
    // A service of which the client is the only pod.
    let mut with_service = objects;
    with_service.services.push(ServiceObject {
        namespace: "x".to_owned(),
        name: "s".to_owned(),
        addresses: vec![[10, 96, 0, 1].into()],
        selector: [("pod".to_owned(), "a".to_owned())].into(),
        ports: vec![ServicePort {
            port: 8080,
            protocol: PortProtocol::Tcp,
            target: TargetPort::Number(80),
        }],
    });
    assert_eq!(
        verdicts(
            record("10.1.0.1", "10.96.0.1", 8080, false),
            &with_service,
            &[],
            &deny
        ),
        one("same_pod", "same_pod")
    );
}

#[test]
fn a_services_named_port_is_that_of_each_pod_behind_it() {
    let mut objects = objects();
    for (pod, number) in objects.pods[3..6].iter_mut().zip([80, 81, 82]) {
        pod.labels.insert("app".to_owned(), "web".to_owned());
        pod.ports[0].name = "web".to_owned();
        pod.ports[0].port = number;
    }
    objects.services.push(ServiceObject {
        namespace: "y".to_owned(),
        name: "web".to_owned(),
        addresses: vec![[10, 96, 0, 1].into()],
        selector: [("app".to_owned(), "web".to_owned())].into(),
        ports: vec![ServicePort {
            port: 8080,
            protocol: PortProtocol::Tcp,
            target: TargetPort::Name("web".to_owned()),
        }],
    });
    let call = record("10.1.0.1", "10.96.0.1", 8080, false);
    let by_name = policy("y", "podSelector: {}, ingress: [{ports: [{port: web}]}]");
    let allowed = ("open".to_owned(), "y/p ingress[0].ports[0]".to_owned());
    assert_eq!(
        verdicts(call.clone(), &objects, &[], &by_name),
        vec![allowed.clone(); 3]
    );
    let by_number = policy("y", "podSelector: {}, ingress: [{ports: [{port: 81}]}]");
    let denied = ("open".to_owned(), "deny y/p".to_owned());
    assert_eq!(
        verdicts(call, &objects, &[], &by_number),
        vec![denied.clone(), allowed, denied]
    );
}

/// A bridge has an address in the range of its node's pods. Where recordings of several machines are judged, only the machine of
/// the flow knows that the address is its own.
#[test]
fn a_nodes_bridge_is_the_node_at_either_end() {
    let objects = objects();
    let machine = ["192.0.2.1".parse().unwrap(), "10.1.0.254".parse().unwrap()];
    let deny = policy("x", "podSelector: {}, policyTypes: [Ingress, Egress]");
    for (local, remote, serves) in [
        ("10.1.0.254", "10.1.0.1", false),
        ("10.1.0.1", "10.1.0.254", true),
    ] {
        assert_eq!(
            verdicts(record(local, remote, 80, serves), &objects, &machine, &deny),
            one("not_a_pod", "own_node"),
            "{local}"
        );
    }
    for (local, remote, serves) in [
        ("10.1.0.1", "10.1.0.254", false),
        ("10.1.0.254", "10.1.0.1", true),
    ] {
        assert_eq!(
            verdicts(record(local, remote, 53, serves), &objects, &machine, &deny),
            one("own_node", "not_a_pod"),
            "{local}"
        );
    }
}

#[test]
fn an_unknown_pod_reaches_itself_and_is_undecided_else() {
    let objects = objects();
    let deny = policy("x", "podSelector: {}, policyTypes: [Ingress, Egress]");
    assert_eq!(
        verdicts(record("10.1.0.99", "10.1.0.99", 80, false), &objects, &[], &deny),
        one("same_pod", "same_pod")
    );
    assert_eq!(
        verdicts(record("10.1.0.99", "10.1.0.98", 80, false), &objects, &[], &deny),
        one("undecided", "undecided")
    );
}

#[test]
fn labels_of_a_namespace_that_is_not_listed_leave_a_verdict_undecided() {
    let mut objects = objects();
    objects.namespaces.retain(|it| it.name != "y");
    let call = record("10.2.0.1", "10.1.0.1", 80, false);
    for (selector, expected) in [
        ("{}", "x/p ingress[0].from[0]"),
        (
            "{matchLabels: {kubernetes.io/metadata.name: 'y'}}",
            "x/p ingress[0].from[0]",
        ),
        ("{matchLabels: {kubernetes.io/metadata.name: z}}", "deny x/p"),
        (
            "{matchLabels: {kubernetes.io/metadata.name: z, ns: 'y'}}",
            "deny x/p",
        ),
        ("{matchLabels: {ns: 'y'}}", "maybe x/p ingress[0].from[0]"),
        (
            "{matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}",
            "maybe x/p ingress[0].from[0]",
        ),
        (
            "{matchExpressions: [{key: ns, operator: DoesNotExist}]}",
            "maybe x/p ingress[0].from[0]",
        ),
    ] {
        let policies = policy(
            "x",
            &format!("podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {selector}}}]}}]"),
        );
        assert_eq!(
            verdicts(call.clone(), &objects, &[], &policies),
            one("open", expected),
            "{selector}"
        );
    }
    let policies = policy(
        "x",
        "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}]}]",
    );
    let cluster = Cluster::new(objects, &[]);
    let mut seen = Conversations::default();
    seen.add(&observed(vec![call]), &cluster, &[], false);
    let conversation = seen.seen.keys().next().unwrap();
    assert_eq!(
        Judge::new(&policies, &cluster)
            .judge(conversation)
            .ingress
            .to_string(),
        "depends on labels of the namespace y, which is not listed: x/p spec.ingress[0].from[0]"
    );
}
